//! Weights of the packed layout ([`crate::quant::p16`]) times activations; one file for each rung.
//!
//! ```text
//! for each group of 16 rows, a row to a lane:
//!     for each block of 32 weights, in order:
//!         quantised   i    = sum of (code - zero) * q            exact, in integers
//!                     acc  = fma(i, scale * d, acc)              twice where groups are of 16
//!                     acc  = fma(min, d * sum of q, acc)         where there are minima
//!     for each piece of 256 weights, in order:
//!         float       part = fma(w, x, part), weight by weight;  acc += part
//! ```
//! Each product is rounded where this says, on every rung, with one token or many: so all of them
//! give the same bits.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx2_floats;
#[cfg(target_arch = "x86_64")]
mod avx2_formats;
#[cfg(target_arch = "x86_64")]
mod avx512_formats;
#[cfg(target_arch = "x86_64")]
mod avx512_vnni;
#[cfg(target_arch = "aarch64")]
mod neon;
#[cfg(target_arch = "aarch64")]
mod neon_dotprod;
#[cfg(target_arch = "aarch64")]
mod neon_float;
#[cfg(target_arch = "aarch64")]
mod neon_formats;
#[cfg(target_arch = "aarch64")]
mod neon_i8mm;
#[cfg(target_arch = "aarch64")]
mod neon_rungs;
#[cfg(target_arch = "aarch64")]
mod neon_tiles;
pub(in crate::kernel) mod panel;
mod scalar;

use super::Activations;
use crate::base::cpu::Isa;
use crate::base::dtype::DType;
use crate::base::pool::Columns;

/// Weights of floats that are added up before they are added to the rest.
const FLOAT_PIECE: usize = 256;

/// A matrix of weights in the packed layout.
#[derive(Clone, Copy)]
pub struct Packed<'a> {
    /// The type of its elements.
    pub dtype: DType,
    /// Length of a row, whole blocks.
    pub k: usize,
    /// Rows, one for each output.
    pub n_rows: usize,
    /// `p16::packed_bytes` of them.
    pub bytes: &'a [u8],
}

/// Multiplies whole groups. Lengths are what `Kernels::matmul_packed` checks. `unsafe`: the CPU must
/// have the rung that the function is of.
pub(crate) type PackedFn = unsafe fn(&Packed<'_>, &Activations<'_>, &mut Columns<'_, f32>);

/// The matmul of packed weights for `isa`, which the CPU must have; `None` where a rung multiplies
/// the file's blocks.
pub(super) fn for_isa(dtype: DType, isa: Isa) -> Option<PackedFn> {
    match isa {
        Isa::Scalar => Some(scalar::matmul(dtype)),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => Some(avx2::matmul(dtype)),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512Vnni => Some(avx512_vnni::matmul(dtype)),
        #[cfg(target_arch = "aarch64")]
        Isa::Neon => Some(neon::matmul(dtype)),
        #[cfg(target_arch = "aarch64")]
        Isa::NeonI8mm => Some(neon_i8mm::matmul(dtype)),
        #[cfg(target_arch = "aarch64")]
        Isa::NeonDotprod => Some(neon_dotprod::matmul(dtype)),
        _ => None,
    }
}
