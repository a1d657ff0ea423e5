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
mod amx_int8;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx2_floats;
#[cfg(target_arch = "x86_64")]
mod avx2_formats;
#[cfg(target_arch = "x86_64")]
mod avx512_floats;
#[cfg(target_arch = "x86_64")]
mod avx512_formats;
#[cfg(target_arch = "x86_64")]
mod avx512_tiles;
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
mod neon_gemv;
#[cfg(target_arch = "aarch64")]
mod neon_i8mm;
#[cfg(target_arch = "aarch64")]
mod neon_rungs;
#[cfg(target_arch = "aarch64")]
mod neon_scales;
#[cfg(target_arch = "aarch64")]
mod neon_tiles;
pub(in crate::kernel) mod panel;
mod scalar;

use super::Activations;
use crate::base::cpu::Isa;
use crate::base::dtype::DType;
use crate::base::pool::Columns;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
use crate::quant::p16;

/// Weights of a row that are unpacked at once, at most: the rows of small models in one piece.
const PIECE: usize = 640;
/// Blocks of 32 of that.
const BLOCKS: usize = PIECE / 32;

/// In what pieces of whole blocks rows of `k` weights are unpacked: as few as can be, and none much
/// shorter than the others, since each piece begins with reading the sums so far.
fn piece(dtype: DType, k: usize) -> usize {
    let block = dtype.block_len();
    let most = PIECE / block * block;
    k.div_ceil(k.div_ceil(most).max(1)).next_multiple_of(block)
}

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

/// The weights that come after those in use, to be asked for meanwhile: a CPU foresees where a stream
/// goes on, but not across the time that a panel is multiplied.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
struct Ahead {
    next: *const u8,
    lines: usize,
}

#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
impl Ahead {
    /// For panels of `n_groups` groups that are multiplied with `tiles` tiles of tokens each, in
    /// pieces of `piece` weights.
    fn new(w: &Packed<'_>, n_groups: usize, piece: usize, tiles: usize) -> Ahead {
        let (_, bytes) = p16::group_bytes(w.dtype, w.k).expect("whole blocks");
        let tiles = (tiles * w.k.div_ceil(piece)).max(1);
        Ahead { next: w.bytes.as_ptr(), lines: (n_groups * bytes).div_ceil(64).div_ceil(tiles) }
    }

    /// From now on the weights of group `g` and what follows are asked for.
    fn begin(&mut self, w: &Packed<'_>, g: usize) {
        let (_, bytes) = p16::group_bytes(w.dtype, w.k).expect("whole blocks");
        self.next = w.bytes.as_ptr().wrapping_add(g * bytes);
    }

    /// Asks for a tile's share of them. `fetch` is given addresses that may lie behind the weights.
    #[cfg(target_arch = "aarch64")]
    #[inline(always)]
    fn fetch(&mut self, fetch: impl Fn(*const u8)) {
        for line in 0..self.lines {
            fetch(self.next.wrapping_add(64 * line));
        }
        self.next = self.next.wrapping_add(64 * self.lines);
    }

    /// A tile's share of them, for a piece of `n` weights.
    #[cfg(target_arch = "x86_64")]
    fn share(&mut self, n: usize) -> Share {
        let next = self.next;
        self.next = next.wrapping_add(64 * self.lines);
        let times = (n / 32).div_ceil(SHARE_BLOCKS);
        Share { next, left: self.lines, at_once: self.lines.div_ceil(times) }
    }
}

/// Blocks of 32 weights after which more lines are asked for.
#[cfg(target_arch = "x86_64")]
const SHARE_BLOCKS: usize = 4;

/// Lines to ask for during a tile: a few at a time, since many at once would get in the way of each
/// other and of what is read.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy)]
struct Share {
    next: *const u8,
    left: usize,
    at_once: usize,
}

#[cfg(target_arch = "x86_64")]
impl Share {
    /// Asks for some of them. `fetch` is given addresses that may lie behind the weights.
    #[inline(always)]
    fn fetch(&mut self, fetch: impl Fn(*const u8)) {
        if self.left == 0 {
            return;
        }
        let lines = self.at_once.min(self.left);
        for line in 0..lines {
            fetch(self.next.wrapping_add(64 * line));
        }
        self.next = self.next.wrapping_add(64 * lines);
        self.left -= lines;
    }
}

/// Keeps the compiler from loading now what is used later, and from keeping in registers what it can
/// load again. It would run out of them, and store what it has no room for.
#[cfg(target_arch = "aarch64")]
#[inline(always)]
fn forget() {
    // SAFETY: nothing is done.
    unsafe { std::arch::asm!("", options(nostack, preserves_flags)) };
}

/// Multiplies whole groups. Lengths are what `Kernels::matmul_packed` checks. `unsafe`: the CPU must
/// have the rung that the function is of.
pub(crate) type PackedFn = unsafe fn(&Packed<'_>, &Activations<'_>, &mut Columns<'_, f32>);

/// The matmul of a type. Where this is used there are a rung's functions `floats` and `quantised`,
/// the types of floats, and a module `formats` with the others.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
macro_rules! of_type {
    ($dtype:expr) => {
        match $dtype {
            DType::F32 => floats::<F32>,
            DType::F16 => floats::<F16>,
            DType::BF16 => floats::<Bf16>,
            DType::Q4_0 => quantised::<formats::Q4_0>,
            DType::Q4_1 => quantised::<formats::Q4_1>,
            DType::Q5_0 => quantised::<formats::Q5_0>,
            DType::Q5_1 => quantised::<formats::Q5_1>,
            DType::Q8_0 => quantised::<formats::Q8_0>,
            DType::Q2K => quantised::<formats::Q2K>,
            DType::Q3K => quantised::<formats::Q3K>,
            DType::Q4K => quantised::<formats::Q4K>,
            DType::Q5K => quantised::<formats::Q5K>,
            DType::Q6K => quantised::<formats::Q6K>,
            DType::Iq4Nl => quantised::<formats::Iq4Nl>,
            DType::Iq4Xs => quantised::<formats::Iq4Xs>,
            DType::Mxfp4 => quantised::<formats::Mxfp4>,
            DType::Tq1_0 => quantised::<formats::Tq1_0>,
            DType::Tq2_0 => quantised::<formats::Tq2_0>,
        }
    };
}
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
use of_type;

/// The matmul of packed weights for `isa`, which the CPU must have; `None` where a rung multiplies
/// the file's blocks.
pub(super) fn for_isa(dtype: DType, isa: Isa) -> Option<PackedFn> {
    match isa {
        Isa::Scalar => Some(scalar::matmul(dtype)),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => Some(avx2::matmul(dtype)),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512Vnni => Some(avx512_vnni::matmul(dtype)),
        #[cfg(target_arch = "x86_64")]
        Isa::AmxInt8 => Some(amx_int8::matmul(dtype)),
        #[cfg(target_arch = "aarch64")]
        Isa::Neon => Some(neon::matmul(dtype)),
        #[cfg(target_arch = "aarch64")]
        Isa::NeonI8mm => Some(neon_i8mm::matmul(dtype)),
        #[cfg(target_arch = "aarch64")]
        Isa::NeonDotprod => Some(neon_dotprod::matmul(dtype)),
        _ => None,
    }
}
