//! Activations to blocks of 32 codes of 8 bits. Every rung gives the same bits.

#[cfg(target_arch = "x86_64")]
mod avx2;
mod scalar;

use super::QuantizeFn;
use crate::base::cpu::Isa;

/// The quantiser for `isa`, which the CPU must have.
pub(super) fn for_isa(isa: Isa) -> QuantizeFn {
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 | Isa::Avx512Vnni => avx2::quantize,
        _ => scalar::quantize,
    }
}
