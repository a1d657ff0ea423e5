//! Packed weights for NEON: 16 rows are the lanes of four vectors. What the rungs of the family
//! share; how a rung multiplies bytes is its [`Dot`].
//!
//! ```text
//! one token     see neon_gemv
//! more          for each group, in pieces of some hundred weights:
//!                   unpack the piece into a panel             codes, scales, minima
//!                   for each few tokens: multiply             4 integer and 4 float vectors a token
//! ```
//! Integer accumulators start at [`MAGIC`], less what the zero point adds: then a subtraction of
//! floats converts them.
#![allow(clippy::needless_range_loop, reason = "several arrays are walked together")]

use core::arch::aarch64::*;

use super::neon_formats::{Format, Line, Rows};
use super::neon_scales::Head;
use super::{Ahead, BLOCKS, Packed, piece};
use crate::base::pool::Columns;
use crate::kernel::Activations;
use crate::kernel::insn_aarch64::{forget_after, prefetch};
use crate::quant::p16::{self, ROWS};

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
pub(super) struct Token {
    q: *const i8,
    d: *const f32,
    sum: *const i32,
}

impl Token {
    /// Token `t` from weight `from` on, a multiple of 32.
    #[inline(always)]
    pub(super) fn at(act: &Activations<'_>, t: usize, from: usize) -> Token {
        let at = t * act.k + from;
        let (q, d, sum) = (&act.q[at..], &act.d[at / 32..], &act.sum[at / 16..]);
        Token { q: q.as_ptr(), d: d.as_ptr(), sum: sum.as_ptr() }
    }

    /// Token `i` of those that follow this one, rows of `k` codes apart; there may be none.
    #[inline(always)]
    fn after(self, i: usize, k: usize) -> Token {
        Token {
            q: self.q.wrapping_add(i.wrapping_mul(k)),
            d: self.d.wrapping_add(i.wrapping_mul(k / 32)),
            sum: self.sum.wrapping_add(i.wrapping_mul(k / 16)),
        }
    }

    /// The codes of block `b`.
    ///
    /// # Safety
    /// The token has that block; so for the other functions.
    #[inline(always)]
    pub(super) unsafe fn codes(self, b: usize) -> [int8x16_t; 2] {
        // SAFETY: the caller's promise that the block is there.
        unsafe { [vld1q_s8(self.q.add(32 * b)), vld1q_s8(self.q.add(32 * b + 16))] }
    }

    /// The sum of the codes of half `h` of block `b` if groups are of 16, of all of it otherwise.
    #[inline(always)]
    pub(super) unsafe fn sum<const OF_16: bool>(self, b: usize, h: usize) -> i32 {
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
    pub(super) unsafe fn scale(self, b: usize) -> f32 {
        // SAFETY: the caller's promise that the block is there.
        unsafe { *self.d.add(b) }
    }
}

/// The heads and codes of a group.
#[inline(never)] // Every format asks for it, and each has many rows to go.
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
pub(super) fn start(zero: i32, sum: i32) -> i32 {
    MAGIC.wrapping_sub(zero.wrapping_mul(sum))
}

/// The step that every output of every path goes through.
#[inline(always)]
pub(super) fn fold<const MIN: bool>(
    acc: Rows,
    ints: Ints,
    scale: Rows,
    min: Rows,
    d: f32,
    sum: i32,
) -> Rows {
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
    assert!(act.n <= out.n_rows() && place.r < out.len(), "the panel's columns of each token");
    let left = (out.len() - place.r).min(ROWS);
    let (base, pitch) = out.first_row();
    // What begins a tile is worked out once, and moved on from one to the next.
    let mut token = Token::at(act, 0, place.from);
    let mut row = base.wrapping_add(place.r);
    let mut t = 0;
    while t < act.n {
        // Before the tile, and not among its blocks: the general registers are all in use there.
        ahead.fetch(prefetch::<0>);
        let n = match act.n - t {
            1 => 1,
            3 | 5.. if D::TOKENS == 3 => 3,
            _ => 2,
        };
        let rows = (row, pitch, left);
        // SAFETY: the tokens have `place.n` codes from `token` on; `rows` are rows of `out`, which is
        // ours, and `left` columns of each.
        unsafe {
            match n {
                1 => tile::<D, OF_16, MIN, LARGE, 1>(panel, place, token, act.k, rows),
                2 => tile::<D, OF_16, MIN, LARGE, 2>(panel, place, token, act.k, rows),
                _ => tile::<D, OF_16, MIN, LARGE, 3>(panel, place, token, act.k, rows),
            }
        }
        (t, token) = (t + n, token.after(n, act.k));
        row = row.wrapping_add(n.wrapping_mul(pitch));
    }
}

/// Multiplies a panel with `T` tokens of `k` codes from `first` on, to rows `pitch` apart of which
/// `left` columns are there. The order is that of one token.
///
/// # Safety
/// The tokens have the codes that `place` says, and the rows those columns, which nobody else has.
#[inline(always)]
unsafe fn tile<D: Dot, const OF_16: bool, const MIN: bool, const LARGE: bool, const T: usize>(
    panel: &Panel,
    place: &Place,
    first: Token,
    k: usize,
    (row, pitch, left): (*mut f32, usize, usize),
) {
    let tokens: [Token; T] = std::array::from_fn(|i| first.after(i, k));
    // SAFETY: the caller's promise.
    let columns = |i: usize| unsafe { std::slice::from_raw_parts_mut(row.add(i * pitch), left) };
    let mut acc = [zeros(); T];
    if place.from > 0 {
        for i in 0..T {
            acc[i] = load(columns(i));
        }
    }
    let halves = if OF_16 { 2 } else { 1 };
    let scales = panel.scales.chunks_exact(halves).zip(panel.mins.chunks_exact(halves));
    let blocks = panel.codes[..place.n / 32].iter().zip(scales);
    for (b, (codes, (scales, mins))) in blocks.enumerate() {
        // SAFETY: the tokens have n codes from `first` on.
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
        store(columns(i), acc[i]);
    }
}
