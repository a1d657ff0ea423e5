//! Activations to blocks of 32 codes of 8 bits.

mod scalar;

use super::QuantizeFn;
use crate::base::cpu::Isa;

/// The quantiser for `isa`, which the CPU must have.
pub(super) fn for_isa(isa: Isa) -> QuantizeFn {
    match isa {
        Isa::Scalar => scalar::quantize,
        _ => scalar::quantize,
    }
}
