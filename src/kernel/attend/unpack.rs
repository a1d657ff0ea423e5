//! Codes of 3, 4 and 5 bits: how they are packed, and the scalar rung of what spreads them to bytes.
//!
//! Codes are packed in runs of 64, in the order that the kernels for 8 bits read: of keys a quad of
//! elements of 16 cells, of values a quad of cells of 16 elements. A run is one or two planes of some
//! bits of all its codes, the lower ones first. A plane of `b` bits has `8 b` bytes:
//! ```text
//! code i     byte i % (8 b), from bit b * (i / (8 b)) on
//! 5 bits     the lowest 4, then the highest    code - zero
//! 4 bits     all 4                             code - zero
//! 3 bits     the lowest 2, then the highest    LEVELS[code]
//! ```
//! so that vectors of whole codes come from shifts and masks alone. The four codes of a quad are
//! neighbours in each plane, in bytes of their own.

use super::q8::KV_QUAD;

/// Codes of a run.
pub const PACKED: usize = 64;

/// What codes of 3 bits stand for: levels at which a normal distribution loses least, the greatest
/// magnitude being 10 % above that of the last. Found by Lloyd's iteration over blocks of 32.
pub const LEVELS: [i8; 8] = [-127, -79, -44, -14, 14, 44, 79, 127];

/// Bits of packed codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CodeBits {
    /// Places in [`LEVELS`].
    Three,
    /// -8 to 7, or -7 to 8, by the zero.
    Four,
    /// -16 to 15, or -15 to 16, by the zero.
    Five,
}

impl CodeBits {
    /// Bits of a code.
    pub const fn count(self) -> usize {
        match self {
            CodeBits::Three => 3,
            CodeBits::Four => 4,
            CodeBits::Five => 5,
        }
    }

    /// Bytes of a run of [`PACKED`] codes.
    pub const fn bytes(self) -> usize {
        self.count() * PACKED / 8
    }

    /// The bits of each plane, the lower ones first; 0 = there is none.
    pub const fn planes(self) -> [usize; 2] {
        match self {
            CodeBits::Three => [2, 1],
            CodeBits::Four => [4, 0],
            CodeBits::Five => [4, 1],
        }
    }
}

/// Spreads runs of packed codes; [`crate::kernel::Kernels::unpack`] says how.
pub(crate) type UnpackFn = unsafe fn(&[u8], &[[u8; 4]], &mut [i8]);

/// One for each [`CodeBits`].
pub(crate) type Unpack = [UnpackFn; 3];

/// Calls `f(packed, quad of zeros, codes)` for each run; places of whole runs, all codes of which are to
/// be written.
#[inline(always)]
pub(super) fn each_run(
    bits: CodeBits,
    packed: &[u8],
    zeros: &[[u8; KV_QUAD]],
    codes: &mut [i8],
    f: impl Fn(*const u8, u32, *mut i8),
) {
    let share = codes.len() / PACKED / zeros.len().max(1);
    let mut runs = codes.chunks_exact_mut(PACKED).zip(packed.chunks_exact(bits.bytes()));
    for zero in zeros {
        for (codes, packed) in runs.by_ref().take(share) {
            f(packed.as_ptr(), u32::from_le_bytes(*zero), codes.as_mut_ptr());
        }
    }
}

pub(super) const SCALAR: Unpack = [
    |packed, _, codes| each(CodeBits::Three, packed, codes, |_, u| LEVELS[usize::from(u)]),
    |packed, zeros, codes| each_less_zero(CodeBits::Four, packed, zeros, codes),
    |packed, zeros, codes| each_less_zero(CodeBits::Five, packed, zeros, codes),
];

fn each_less_zero(bits: CodeBits, packed: &[u8], zeros: &[[u8; KV_QUAD]], codes: &mut [i8]) {
    let share = codes.len() / zeros.len().max(1);
    each(bits, packed, codes, |i, u| u.wrapping_sub(zeros[i / share][i % KV_QUAD]) as i8);
}

fn each(bits: CodeBits, packed: &[u8], codes: &mut [i8], value: impl Fn(usize, u8) -> i8) {
    let runs = codes.chunks_exact_mut(PACKED).zip(packed.chunks_exact(bits.bytes()));
    for (run, (codes, packed)) in runs.enumerate() {
        for (i, code) in codes.iter_mut().enumerate() {
            let (mut u, mut at, mut shift) = (0, 0, 0);
            for plane in bits.planes().into_iter().filter(|plane| *plane != 0) {
                let bytes = 8 * plane;
                let part = packed[at + i % bytes] >> (plane * (i / bytes));
                u |= (part & ((1 << plane) - 1)) << shift;
                (at, shift) = (at + bytes, shift + plane);
            }
            *code = value(run * PACKED + i, u);
        }
    }
}
