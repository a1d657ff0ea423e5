//! Weights as they lie in a mapped file, times activations; one file for each rung, and what the rungs of a family share.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512_vnni;
#[cfg(target_arch = "aarch64")]
mod neon;
#[cfg(target_arch = "aarch64")]
mod neon_blocks;
#[cfg(target_arch = "aarch64")]
mod neon_float;
#[cfg(target_arch = "aarch64")]
mod neon_superblocks;
#[cfg(target_arch = "aarch64")]
mod neon_tiles;
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
        Isa::Avx2 => Some(avx2::matmul(dtype)),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512Vnni | Isa::AmxInt8 => Some(avx512_vnni::matmul(dtype)),
        // One for all rungs: mapped models alone are multiplied by these, and each rung's would add
        // a hundred kilobytes to the library.
        #[cfg(target_arch = "aarch64")]
        Isa::Neon | Isa::NeonDotprod | Isa::NeonI8mm => neon::matmul(dtype),
        _ => None,
    }
    .unwrap_or(scalar::matmul(dtype))
}
