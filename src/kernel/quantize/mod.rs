//! Activations to blocks of 32 codes of 8 bits. Every rung gives the same bits.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512_vnni;
#[cfg(target_arch = "aarch64")]
mod neon;
mod scalar;

use super::QuantizeFn;
use crate::base::cpu::Isa;

/// The quantiser for `isa`, which the CPU must have.
pub(super) fn for_isa(isa: Isa) -> QuantizeFn {
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => avx2::quantize,
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512Vnni | Isa::AmxInt8 => avx512_vnni::quantize,
        #[cfg(target_arch = "aarch64")]
        Isa::Neon | Isa::NeonDotprod | Isa::NeonI8mm => neon::quantize,
        _ => scalar::quantize,
    }
}
