//! Packed weights for NEON: 16 rows are the lanes of four vectors. What the rungs of the family
//! share; how a rung multiplies bytes is its [`Dot`].
//!
//! ```text
//! one token     for each group: each block's codes straight from memory
//! more          for each group, in pieces of some hundred weights:
//!                   unpack the piece into a panel             codes, scales, minima
//!                   for each few tokens: multiply             4 integer and 4 float vectors a token
//! ```
//! Integer accumulators start at [`MAGIC`], less what the zero point adds: then a subtraction of
//! floats converts them.
#![allow(clippy::needless_range_loop, reason = "several arrays are walked together")]

use core::arch::aarch64::*;

use super::neon_formats::{Format, Line, Rows};
use super::neon_scales::{Floats, Head};
use super::{Ahead, BLOCKS, Packed, piece};
use crate::base::pool::Columns;
use crate::kernel::Activations;
use crate::kernel::insn_aarch64::{forget_after, prefetch};
use crate::quant::p16::{self, ROWS};

/// How far ahead of its use a weight is asked for, in bytes.
const AHEAD: usize = 2048;
/// The bits of 1.5 * 2^23 as a float: with an integer below 2^22 added, they are those of the sum.
const MAGIC: i32 = 0x4b40_0000;

/// Sums of products of 16 rows.
pub(super) type Ints = [int32x4_t; 4];

/// How a rung multiplies bytes.
pub(super) trait Dot {
    /// Tokens multiplied together.
    const TOKENS: usize;
    /// Products are added up in 16 bits.
    const IN_16_BITS: bool = false;

    /// `start` and the products of `T` tokens with the half `h` of 32 weights if groups are
    /// `OF_16`, with all of them otherwise. `LARGE` and `STEPS` are those of [`Format`].
    fn dots<const T: usize, const OF_16: bool, const LARGE: bool, const STEPS: bool>(
        h: usize,
        start: [i32; T],
        line: impl Fn(usize) -> Line,
        a: [[int8x16_t; 2]; T],
    ) -> [Ints; T];
}

/// A token's codes and what belongs to them, from some block on.
#[derive(Clone, Copy)]
struct Token {
    q: *const i8,
    d: *const f32,
    sum: *const i32,
}

impl Token {
    /// Token `t` from weight `from` on, a multiple of 32.
    #[inline(always)]
    fn at(act: &Activations<'_>, t: usize, from: usize) -> Token {
        let at = t * act.k + from;
        let (q, d, sum) = (&act.q[at..], &act.d[at / 32..], &act.sum[at / 16..]);
        Token { q: q.as_ptr(), d: d.as_ptr(), sum: sum.as_ptr() }
    }

    /// The codes of block `b`.
    ///
    /// # Safety
    /// The token has that block; so for the other functions.
    #[inline(always)]
    unsafe fn codes(self, b: usize) -> [int8x16_t; 2] {
        // SAFETY: the caller's promise that the block is there.
        unsafe { [vld1q_s8(self.q.add(32 * b)), vld1q_s8(self.q.add(32 * b + 16))] }
    }

    /// The sum of the codes of half `h` of block `b` if groups are of 16, of all of it otherwise.
    #[inline(always)]
    unsafe fn sum<const OF_16: bool>(self, b: usize, h: usize) -> i32 {
        // SAFETY: the caller's promise that the block is there.
        unsafe {
            match OF_16 {
                true => *self.sum.add(2 * b + h),
                // At most 32 * 127.
                false => (*self.sum.add(2 * b)).wrapping_add(*self.sum.add(2 * b + 1)),
            }
        }
    }

    /// The scale of block `b`.
    #[inline(always)]
    unsafe fn scale(self, b: usize) -> f32 {
        // SAFETY: the caller's promise that the block is there.
        unsafe { *self.d.add(b) }
    }
}

/// The heads and codes of a group.
#[inline(always)]
pub(super) fn group<'a>(w: &Packed<'a>, g: usize) -> (&'a [u8], &'a [u8]) {
    let (codes_at, bytes) = p16::group_bytes(w.dtype, w.k).expect("whole blocks");
    w.bytes[g * bytes..(g + 1) * bytes].split_at(codes_at)
}

/// Sixteen zeros.
#[inline(always)]
pub(super) fn zeros() -> Rows {
    // SAFETY: NEON is part of every target that this file is compiled for.
    [unsafe { vdupq_n_f32(0.0) }; 4]
}

/// Writes as many of the 16 lanes as `out` has room for.
#[inline(always)]
pub(super) fn store(out: &mut [f32], x: Rows) {
    let mut lanes = [0.0; ROWS];
    let whole = out.len() >= ROWS;
    let to = if whole { &mut out[..ROWS] } else { &mut lanes[..] };
    for i in 0..4 {
        // SAFETY: `to` is 16 long.
        unsafe { vst1q_f32(to.as_mut_ptr().add(4 * i), x[i]) };
    }
    if !whole {
        out.copy_from_slice(&lanes[..out.len()]);
    }
}

/// As many of the 16 lanes as `x` has; zero in the others.
#[inline(always)]
pub(super) fn load(x: &[f32]) -> Rows {
    let mut lanes = [0.0; ROWS];
    let from = if x.len() >= ROWS {
        &x[..ROWS]
    } else {
        lanes[..x.len()].copy_from_slice(x);
        &lanes[..]
    };
    // SAFETY: `from` is 16 long.
    [0, 4, 8, 12].map(|at| unsafe { vld1q_f32(from.as_ptr().add(at)) })
}

/// [`forget_after`], with integers.
#[inline(always)]
pub(super) fn forget_after_ints(x: Ints) -> Ints {
    // SAFETY: NEON is part of every target that this file is compiled for.
    unsafe { forget_after(x.map(|x| vreinterpretq_f32_s32(x))).map(|x| vreinterpretq_s32_f32(x)) }
}

/// Where integers start, so that codes less `zero` are added up.
#[inline(always)]
fn start(zero: i32, sum: i32) -> i32 {
    MAGIC.wrapping_sub(zero.wrapping_mul(sum))
}

/// The step that every output of every path goes through.
#[inline(always)]
fn fold<const MIN: bool>(acc: Rows, ints: Ints, scale: Rows, min: Rows, d: f32, sum: i32) -> Rows {
    let mut acc = acc;
    for i in 0..4 {
        // SAFETY: NEON is part of every target that this file is compiled for.
        unsafe {
            let magic = vreinterpretq_f32_s32(vdupq_n_s32(MAGIC));
            let dot = vsubq_f32(vreinterpretq_f32_s32(ints[i]), magic);
            acc[i] = vfmaq_f32(acc[i], dot, vmulq_n_f32(scale[i], d));
            if MIN {
                acc[i] = vfmaq_n_f32(acc[i], min[i], d * sum as f32);
            }
        }
    }
    acc
}

/// Adds the products of a block of 32 weights of 16 rows and one token.
///
/// # Safety
/// The token has the block `b`.
#[inline(always)]
unsafe fn add_block<F: Format, D: Dot>(
    acc: Rows,
    (head, floats): (&F::Head, &Floats),
    codes: &[u8],
    inner: usize,
    token: Token,
    b: usize,
) -> Rows {
    // SAFETY: the caller's promise.
    let (a, d) = unsafe { (token.codes(b), token.scale(b)) };
    let line = |j| F::line(codes, inner, j);
    let mut acc = acc;
    macro_rules! group {
        ($of_16:literal, $h:literal, $group:expr) => {
            // SAFETY: the caller's promise.
            let sum = unsafe { token.sum::<$of_16>(b, $h) };
            let start = [start(F::ZERO, sum)];
            let [ints] = match (F::LARGE, F::STEPS) {
                (true, true) => D::dots::<1, $of_16, true, true>($h, start, line, [a]),
                (true, false) => D::dots::<1, $of_16, true, false>($h, start, line, [a]),
                (false, true) => D::dots::<1, $of_16, false, true>($h, start, line, [a]),
                (false, false) => D::dots::<1, $of_16, false, false>($h, start, line, [a]),
            };
            let scale = F::scale(head, floats, $group);
            acc = match F::PARTS.min {
                true => fold::<true>(acc, ints, scale, F::min(head, floats, $group), d, sum),
                false => fold::<false>(acc, ints, scale, scale, d, sum),
            };
        };
    }
    if F::OF_16 {
        group!(true, 0, 2 * inner);
        if F::STEPS {
            acc = forget_after(acc);
        }
        group!(true, 1, 2 * inner + 1);
    } else {
        group!(false, 0, inner);
    }
    acc
}

/// Asks for the lines of codes that are used after as many as the `inner`-th block of 32 uses.
#[inline(always)]
fn prefetch_lines<F: Format>(codes: &[u8], inner: usize) {
    let lines = (ROWS * F::PARTS.code_bytes() / 64).div_ceil(F::INNER);
    let at = codes.as_ptr().wrapping_add(64 * lines * inner);
    macro_rules! lines {
        ($($line:literal)*) => {
            $(if $line < lines {
                prefetch::<{ AHEAD + 64 * $line }>(at);
            })*
        };
    }
    lines!(0 1 2 3 4 5 6 7);
}

/// Multiplies one token, from the blocks where they lie.
#[inline(always)]
pub(super) fn gemv<F: Format, D: Dot>(
    w: &Packed<'_>,
    act: &Activations<'_>,
    out: &mut Columns<'_, f32>,
) {
    let (head_bytes, code) = (ROWS * F::PARTS.head_bytes(), ROWS * F::PARTS.code_bytes());
    let blocks = w.k / F::DTYPE.block_len();
    let token = Token::at(act, 0, 0);
    let mut scales = F::Head::new();
    for r in (0..out.len()).step_by(ROWS) {
        let (heads, codes) = group(w, (out.first() + r) / ROWS);
        let mut acc = zeros();
        for i in 0..8 {
            F::ahead(&heads[..head_bytes], &mut scales, i);
        }
        // No bound is checked for each block: that would be a tenth of what a block takes.
        let heads = &heads[..blocks * head_bytes];
        let pieces = heads.chunks_exact(head_bytes).zip(codes.chunks_exact(code));
        for (block, (head, codes)) in pieces.enumerate() {
            // After the last block there is nothing to take apart: it is done once more.
            let next = if block + 1 < blocks { block + 1 } else { block };
            let next = heads.as_ptr().wrapping_add(next.wrapping_mul(head_bytes));
            // SAFETY: `next` was below `blocks`, and `heads` are as many.
            let next = unsafe { std::slice::from_raw_parts(next, head_bytes) };
            if F::INNER == 1 {
                prefetch_lines::<F>(codes, 0);
            }
            let floats = F::head(head, &mut scales);
            for way in 0..F::INNER / F::WAYS {
                // Written out, so that the ways are known where they are used.
                macro_rules! block {
                    ($way:literal) => {
                        if $way < F::WAYS {
                            // Ways use the same lines, and there are more of them than registers.
                            if $way > 0 {
                                acc = forget_after(acc);
                            }
                            let inner = way * F::WAYS + $way;
                            if F::INNER > 1 {
                                prefetch_lines::<F>(codes, inner);
                            }
                            F::ahead(next, &mut scales, inner);
                            let b = block * F::INNER + inner;
                            let add = add_block::<F, D>;
                            // SAFETY: the token has k codes.
                            acc = unsafe { add(acc, (&scales, &floats), codes, inner, token, b) };
                        }
                    };
                }
                block!(0);
                block!(1);
                block!(2);
                block!(3);
                block!(4);
                block!(5);
                block!(6);
                block!(7);
            }
        }
        store(&mut out.row_mut(0)[r..], acc);
    }
}

/// A piece of a group, unpacked. Of scales and minima there is one for each block, or two.
#[repr(C, align(64))]
pub(super) struct Panel {
    codes: [[Line; 8]; BLOCKS],
    scales: [Rows; 2 * BLOCKS],
    mins: [Rows; 2 * BLOCKS],
}

/// [`unpack`] for a format.
pub(super) type UnpackFn = fn(&Packed<'_>, g: usize, from: usize, n: usize, panel: &mut Panel);
/// [`multiply`] for a rung. `unsafe`: the CPU must have it.
pub(super) type MultiplyFn =
    unsafe fn(&Panel, &Place, &Activations<'_>, &mut Columns<'_, f32>, &mut Ahead);

/// Unpacks `n` weights from `from` on of group `g`.
pub(super) fn unpack<F: Format>(
    w: &Packed<'_>,
    g: usize,
    from: usize,
    n: usize,
    panel: &mut Panel,
) {
    let (head, code) = (ROWS * F::PARTS.head_bytes(), ROWS * F::PARTS.code_bytes());
    let (heads, codes) = group(w, g);
    let first = from / F::DTYPE.block_len();
    let groups = F::INNER * if F::OF_16 { 2 } else { 1 };
    let mut of_block = F::Head::new();
    for block in 0..n / F::DTYPE.block_len() {
        let head = &heads[(first + block) * head..][..head];
        let code = &codes[(first + block) * code..][..code];
        for i in 0..8 {
            F::ahead(head, &mut of_block, i);
        }
        let floats = F::head(head, &mut of_block);
        let at = block * groups..(block + 1) * groups;
        let (scales, mins) = (&mut panel.scales[at.clone()], &mut panel.mins[at]);
        for (g, (scale, min)) in scales.iter_mut().zip(mins).enumerate() {
            *scale = F::scale(&of_block, &floats, g);
            if F::PARTS.min {
                *min = F::min(&of_block, &floats, g);
            }
        }
        let blocks = &mut panel.codes[block * F::INNER..(block + 1) * F::INNER];
        for way in 0..F::INNER / F::WAYS {
            macro_rules! block {
                ($($way:literal)*) => {
                    $(if $way < F::WAYS {
                        let b = way * F::WAYS + $way;
                        for (j, line) in blocks[b].iter_mut().enumerate() {
                            *line = F::line(code, b, j);
                        }
                    })*
                };
            }
            block!(0 1 2 3 4 5 6 7);
        }
    }
}

/// Where a panel stands: `n` weights from `from` on, and the columns from `r` on.
pub(super) struct Place {
    from: usize,
    n: usize,
    r: usize,
    /// [`Format::ZERO`].
    zero: i32,
}

/// Multiplies any number of tokens, through a panel: `tokens` of them at once, at most.
///
/// # Safety
/// The CPU has the rung of `multiply`.
#[inline(never)]
pub(super) unsafe fn gemm(
    w: &Packed<'_>,
    act: &Activations<'_>,
    out: &mut Columns<'_, f32>,
    zero: i32,
    unpack: UnpackFn,
    arrange: Option<fn(&mut [Line; 8])>,
    (multiply, tokens): (MultiplyFn, usize),
) {
    // SAFETY: NEON is part of every target that this file is compiled for.
    let none = unsafe { vdupq_n_s8(0) };
    let mut panel = Panel {
        codes: [[[none; 4]; 8]; BLOCKS],
        scales: [zeros(); 2 * BLOCKS],
        mins: [zeros(); 2 * BLOCKS],
    };
    let piece = piece(w.dtype, w.k);
    let mut ahead = Ahead::new(w, 1, piece, act.n.div_ceil(tokens));
    for r in (0..out.len()).step_by(ROWS) {
        let g = (out.first() + r) / ROWS;
        ahead.begin(w, g + 1);
        for from in (0..w.k).step_by(piece) {
            let n = piece.min(w.k - from);
            unpack(w, g, from, n, &mut panel);
            if let Some(arrange) = arrange {
                panel.codes[..n / 32].iter_mut().for_each(arrange);
            }
            let place = Place { from, n, r, zero };
            // SAFETY: the caller's promise.
            unsafe { multiply(&panel, &place, act, out, &mut ahead) };
        }
    }
}

/// Multiplies a panel with all tokens, and adds to what earlier pieces left in `out`.
#[inline(always)]
pub(super) fn multiply<D: Dot, const OF_16: bool, const MIN: bool, const LARGE: bool>(
    panel: &Panel,
    place: &Place,
    act: &Activations<'_>,
    out: &mut Columns<'_, f32>,
    ahead: &mut Ahead,
) {
    let mut t = 0;
    while t < act.n {
        // Before the tile, and not among its blocks: the general registers are all in use there.
        ahead.fetch(prefetch::<0>);
        t += match act.n - t {
            1 => tile::<D, OF_16, MIN, LARGE, 1>(panel, place, act, t, out),
            3 | 5.. if D::TOKENS == 3 => tile::<D, OF_16, MIN, LARGE, 3>(panel, place, act, t, out),
            _ => tile::<D, OF_16, MIN, LARGE, 2>(panel, place, act, t, out),
        };
    }
}

/// Multiplies a panel with `T` tokens from `t` on. Returns `T`. The order is that of [`add_block`].
#[inline(always)]
fn tile<D: Dot, const OF_16: bool, const MIN: bool, const LARGE: bool, const T: usize>(
    panel: &Panel,
    place: &Place,
    act: &Activations<'_>,
    t: usize,
    out: &mut Columns<'_, f32>,
) -> usize {
    let mut tokens = [Token::at(act, t, place.from); T];
    let mut acc = [zeros(); T];
    for i in 0..T {
        tokens[i] = Token::at(act, t + i, place.from);
        if place.from > 0 {
            acc[i] = load(&out.row_mut(t + i)[place.r..]);
        }
    }
    let halves = if OF_16 { 2 } else { 1 };
    let scales = panel.scales.chunks_exact(halves).zip(panel.mins.chunks_exact(halves));
    let blocks = panel.codes[..place.n / 32].iter().zip(scales);
    for (b, (codes, (scales, mins))) in blocks.enumerate() {
        // SAFETY: the tokens have n codes from `from` on.
        let a = tokens.map(|token| unsafe { token.codes(b) });
        macro_rules! half {
            ($h:literal) => {
                let mut sums = [0; T];
                let mut starts = [0; T];
                for i in 0..T {
                    // SAFETY: as above.
                    sums[i] = unsafe { tokens[i].sum::<OF_16>(b, $h) };
                    starts[i] = start(place.zero, sums[i]);
                }
                let ints = D::dots::<T, OF_16, LARGE, false>($h, starts, |j| codes[j], a);
                for i in 0..T {
                    // SAFETY: as above.
                    let d = unsafe { tokens[i].scale(b) };
                    acc[i] = fold::<MIN>(acc[i], ints[i], scales[$h], mins[$h], d, sums[i]);
                }
            };
        }
        half!(0);
        if OF_16 {
            half!(1);
        }
    }
    for i in 0..T {
        store(&mut out.row_mut(t + i)[place.r..], acc[i]);
    }
    T
}
