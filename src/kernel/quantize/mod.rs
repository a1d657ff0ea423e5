//! Activations to blocks of 32 codes of 8 bits.

#[cfg(target_arch = "aarch64")]
mod neon;
mod scalar;

use super::QuantizeFn;
use crate::base::cpu::Isa;

/// The quantiser for `isa`, which the CPU must have.
pub(super) fn for_isa(isa: Isa) -> QuantizeFn {
    match isa {
        Isa::Scalar => scalar::quantize,
        #[cfg(target_arch = "aarch64")]
        Isa::Neon | Isa::NeonDotprod | Isa::NeonI8mm => neon::quantize,
        _ => scalar::quantize,
    }
}
