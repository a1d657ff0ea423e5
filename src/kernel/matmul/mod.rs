//! Weights times activations; one file for each rung, and what the rungs of a family share.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512_vnni;
mod scalar;
#[cfg(target_arch = "x86_64")]
mod x86;
#[cfg(target_arch = "x86_64")]
mod x86_unpack;
#[cfg(target_arch = "x86_64")]
mod x86_unpack_k;

use super::MatmulFn;
use crate::base::cpu::Isa;
use crate::base::dtype::DType;

/// The matmul of `dtype` for `isa`, which the CPU must have.
pub(super) fn for_isa(dtype: DType, isa: Isa) -> MatmulFn {
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => avx2::matmul(dtype),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512Vnni => avx512_vnni::matmul(dtype),
        _ => scalar::matmul(dtype),
    }
}
