//! The scales and minima of packed blocks, for NEON. Those that a block packs into a few bits are
//! taken apart in two steps: first its fields are moved to where vectors find them, in general
//! registers, which have nothing else to do, an eighth of a block while an eighth of the block before
//! is multiplied; then each group makes floats of its fields.

use core::arch::aarch64::*;

use super::neon_formats::Rows;
use crate::kernel::insn_aarch64::{
    f32_from_f16, f32_from_f16_high, general, load_again, store_pairs,
};
use crate::quant::p16::ROWS;

/// Two floats of a block, of each row: its scale and its minimum, or what all scales of its groups are
/// multiplied by, and all minima.
pub(super) type Floats = [Rows; 2];

/// What else scales and minima are made of. There is one, that each block writes: what blocks gave
/// back would be copied.
pub(super) trait Head {
    /// That of no block.
    fn new() -> Self;
}

/// Of a block with one scale and one minimum: nothing.
pub(super) struct Plain;

impl Head for Plain {
    #[inline(always)]
    fn new() -> Plain {
        Plain
    }
}

/// Zeros.
// SAFETY: zeros are a vector of zeros.
const NONE: Rows = unsafe { std::mem::zeroed() };

/// Numbers of two bytes: the `i`-th of the head.
#[inline(always)]
fn pairs(head: &[u8], i: usize) -> [uint16x8_t; 2] {
    let pairs = &head[2 * ROWS * i..2 * ROWS * (i + 1)];
    // SAFETY: 16 bytes are read each time.
    [0, 16].map(|at| unsafe { vreinterpretq_u16_u8(vld1q_u8(pairs[at..at + 16].as_ptr())) })
}

/// Half-precision numbers: the `i`-th of the head.
#[inline(always)]
pub(super) fn half(head: &[u8], i: usize) -> Rows {
    let [x, y] = pairs(head, i);
    // SAFETY: NEON is part of every target that this file is compiled for.
    unsafe {
        [
            f32_from_f16(vget_low_u16(x)),
            f32_from_f16_high(x),
            f32_from_f16(vget_low_u16(y)),
            f32_from_f16_high(y),
        ]
    }
}

/// The numbers with the other sign.
#[inline(always)]
pub(super) fn negative(x: Rows) -> Rows {
    // SAFETY: NEON is part of every target that this file is compiled for.
    x.map(|x| unsafe { vnegq_f32(x) })
}

/// Half of two to the power of exponents, less 127: exponent e - 1, or for 0 and 1 the subnormals
/// 2^-128 and 2^-127.
#[inline(always)]
pub(super) fn half_powers(head: &[u8]) -> Rows {
    // SAFETY: 16 bytes are read; NEON is part of every target that this file is compiled for.
    unsafe {
        let (e, zero) = (vld1q_u8(head[..ROWS].as_ptr()), vdupq_n_u16(0));
        let (low, high) = (vshll_n_u8::<7>(vget_low_u8(e)), vshll_high_n_u8::<7>(e));
        let powers = [
            vzip1q_u16(zero, low),
            vzip2q_u16(zero, low),
            vzip1q_u16(zero, high),
            vzip2q_u16(zero, high),
        ];
        // 2^-127 stands for 0: its half is a subnormal too, and exact.
        powers.map(|x| {
            let x = vmaxq_u32(vreinterpretq_u32_u16(x), vdupq_n_u32(0x0040_0000));
            vmulq_n_f32(vreinterpretq_f32_u32(x), 0.5)
        })
    }
}

/// The fields of four groups, of 16 rows: each the upper byte of 16 bits. First those of the groups
/// 0 and 2 by turns, then those of 1 and 3.
#[repr(C, align(16))]
#[derive(Clone, Copy)]
pub(super) struct Four([[u64; ROWS / 2]; 2]);

/// Two rows' words of packed scales, the `i`-th of those that begin `at` bytes into a row's head.
#[inline(always)]
pub(super) fn words(head: &[u8], at: usize, i: usize) -> u64 {
    let words = &head[ROWS * at + 8 * i..][..8];
    u64::from_le_bytes(words.try_into().expect("8 bytes"))
}

/// Two rows' pairs of bytes, the `i`-th of those that begin `at` bytes into a row's head, each the
/// lower half of 32 bits.
#[inline(always)]
pub(super) fn halves(head: &[u8], at: usize, i: usize) -> u64 {
    let pairs = &head[ROWS * at + 4 * i..][..4];
    let pairs = u64::from(u32::from_le_bytes(pairs.try_into().expect("4 bytes")));
    (pairs | pairs << 16) & 0x0000_ffff_0000_ffff
}

/// In each byte, the bits of `x`, `shift` down (up, if that is negative), that `mask` keeps.
#[inline(always)]
pub(super) fn fields(x: u64, shift: i32, mask: u8) -> u64 {
    let x = if shift < 0 { x << -shift } else { x >> shift };
    x & u64::from_le_bytes([mask; 8])
}

/// Scales that are fields, less a zero, times a float of the block; the same of minima.
pub(super) struct Fields<const SCALES: usize, const MINS: usize> {
    less: Rows,
    more: Rows,
    /// Of this block and of the next one: `now` says which is which.
    scales: [[Four; SCALES]; 2],
    mins: [[Four; MINS]; 2],
    now: usize,
}

impl<const SCALES: usize, const MINS: usize> Head for Fields<SCALES, MINS> {
    #[inline(always)]
    fn new() -> Self {
        let none = Four([[0; ROWS / 2]; 2]);
        Fields {
            less: NONE,
            more: NONE,
            scales: [[none; SCALES]; 2],
            mins: [[none; MINS]; 2],
            now: 0,
        }
    }
}

impl<const SCALES: usize, const MINS: usize> Fields<SCALES, MINS> {
    /// The fields of two rows of the next block, the `i`-th two: each byte of a word is a group's.
    #[inline(always)]
    pub(super) fn ahead(&mut self, i: usize, scales: [u64; SCALES], mins: [u64; MINS]) {
        let next = self.now ^ 1;
        let scales = scales.iter().zip(&mut self.scales[next]);
        for (word, four) in scales.chain(mins.iter().zip(&mut self.mins[next])) {
            let (x, upper) = (general(*word), 0xff00_ff00_ff00_ff00);
            four.0[0][i] = x << 8 & upper;
            four.0[1][i] = x & upper;
        }
    }

    /// Goes on to the next block. `zero` is 0, 32 or 128. The first half-precision number of the
    /// block's head is for the scales, the second for the minima.
    #[inline(always)]
    pub(super) fn go_on(&mut self, head: &[u8], zero: u32) -> Floats {
        self.now ^= 1;
        let d = half(head, 0);
        // Exact: a half-precision number has 11 bits, 2^15 + zero has 11 from its first to its last.
        store_pairs(&mut self.less, d.map(|d| times(d, -(32768.0 + zero as f32))));
        if MINS == 0 {
            return [d; 2];
        }
        let m = half(head, 1);
        store_pairs(&mut self.more, m.map(|m| times(m, 32768.0)));
        [d, m]
    }

    /// `d` times the fields, less `zero`, of group `i` of the four `set`. Exact: a field has 8 bits.
    #[inline(always)]
    pub(super) fn scale(&self, [d, _]: &Floats, set: usize, i: usize) -> Rows {
        let (field, less) = (floats(&self.scales[self.now][set], i), load_again(&self.less));
        // SAFETY: NEON is part of every target that this file is compiled for.
        std::array::from_fn(|r| unsafe { vfmaq_f32(less[r], field[r], d[r]) })
    }

    /// `-m` times the fields of group `i` of the four `set`.
    #[inline(always)]
    pub(super) fn min(&self, [_, m]: &Floats, set: usize, i: usize) -> Rows {
        let (field, more) = (floats(&self.mins[self.now][set], i), load_again(&self.more));
        // SAFETY: NEON is part of every target that this file is compiled for.
        std::array::from_fn(|r| unsafe { vfmsq_f32(more[r], field[r], m[r]) })
    }
}

#[inline(always)]
fn times(x: float32x4_t, y: f32) -> float32x4_t {
    // SAFETY: NEON is part of every target that this file is compiled for.
    unsafe { vmulq_n_f32(x, y) }
}

/// 2^15 and the fields of group `i`: below the upper half of 2^15 they are that.
#[inline(always)]
fn floats(four: &Four, i: usize) -> Rows {
    let fields = four.0[i % 2].as_ptr().cast::<u16>();
    std::array::from_fn(|r| {
        // SAFETY: 4 rows of 4 bytes are read, of the 16 rows that there are; NEON is part of every
        // target that this file is compiled for.
        unsafe {
            let upper = vdupq_n_u16(0x4700);
            let x = vld1q_u16(fields.add(8 * r));
            vreinterpretq_f32_u16(if i < 2 { vtrn1q_u16(x, upper) } else { vtrn2q_u16(x, upper) })
        }
    })
}
