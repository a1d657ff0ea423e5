//! Weights times activations; one file for each rung, and what the rungs of a family share.

mod scalar;

use super::MatmulFn;
use crate::base::cpu::Isa;
use crate::base::dtype::DType;

/// The matmul of `dtype` for `isa`, which the CPU must have.
pub(super) fn for_isa(dtype: DType, isa: Isa) -> MatmulFn {
    match isa {
        Isa::Scalar => Some(scalar::matmul(dtype)),
        _ => None,
    }
    .unwrap_or(scalar::matmul(dtype))
}
