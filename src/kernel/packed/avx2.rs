//! Packed weights for AVX2: 16 rows are the lanes of two vectors.
//!
//! ```text
//! one token     for each group: each block's codes straight from memory
//! more          for each group, in pieces of some hundred weights:
//!                   unpack the piece into a panel             codes, scales, minima
//!                   for each up to four tokens: multiply
//! each 32 weights of 8 rows:
//!     pairs = maddubs(w, q)      16 sums of two products, in 16 bits
//!     pairs added up             as many as fit 16 bits, by the type
//!     fours = madd(pairs, 1)     8 sums of four, in 32 bits: a row to a lane
//! ```
//! `maddubs` takes one factor unsigned. Signed codes give their sign to the other:
//! `|w| * (sign(w) q)`. Where a code other than 0 stands for zero, the sum starts below it.
#![allow(clippy::needless_range_loop, reason = "several arrays are walked together")]

use std::arch::x86_64::*;
use std::ops::Range;

use super::avx2_floats::{Bf16, F16, F32, floats};
use super::avx2_formats::{self as formats, Floats, Format, Ints};
use super::{Ahead, BLOCKS, Packed, PackedFn, SHARE_BLOCKS, Share, piece};
use crate::base::dtype::DType;
use crate::base::pool::Columns;
use crate::kernel::Activations;
use crate::quant::p16::{self, ROWS};

/// Tokens multiplied together.
const TOKENS: usize = 4;
/// How far ahead of its use a weight is asked for, in bytes: a CPU foresees reads within a page only.
pub(super) const AHEAD: usize = 8192;

/// The matmul of `dtype`.
pub(super) fn matmul(dtype: DType) -> PackedFn {
    super::of_type!(dtype)
}

/// A token's codes and what belongs to them, from some block on. `unsafe`: there must be a block `b`.
#[derive(Clone, Copy)]
struct Token {
    q: *const i8,
    d: *const f32,
    sums: *const i32,
}

impl Token {
    /// Token `t`, `n` weights from `from` on, multiples of 32: it has `n / 32` blocks.
    #[inline]
    fn at(act: &Activations<'_>, t: usize, from: usize, n: usize) -> Token {
        let (at, end) = (t * act.k + from, t * act.k + from + n);
        let (d, sums) = (&act.d[at / 32..end / 32], &act.sum[at / 16..end / 16]);
        Token { q: act.q[at..end].as_ptr(), d: d.as_ptr(), sums: sums.as_ptr() }
    }

    /// Four codes in every lane: the `j`-th four of block `b`.
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn four(self, b: usize, j: usize) -> __m256i {
        // SAFETY: the caller's promise that the block is there, and j < 8; any alignment.
        _mm256_set1_epi32(unsafe { self.q.add(32 * b + 4 * j).cast::<i32>().read_unaligned() })
    }

    /// The sum of the codes of the half `h` of block `b`, or of all of it.
    #[inline]
    unsafe fn sum<F: Format>(self, b: usize, h: usize) -> i32 {
        // SAFETY: the caller's promise that the block is there.
        let [low, high] = unsafe { [*self.sums.add(2 * b), *self.sums.add(2 * b + 1)] };
        match (F::OF_16, h) {
            (true, 0) => low,
            (true, _) => high,
            (false, _) => low.wrapping_add(high),
        }
    }

    /// The scale of block `b`.
    #[inline]
    unsafe fn scale(self, b: usize) -> f32 {
        // SAFETY: the caller's promise that the block is there.
        unsafe { *self.d.add(b) }
    }
}

/// Sums of two products.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn pairs<F: Format>(w: __m256i, q: __m256i) -> __m256i {
    if F::SIGNED {
        _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(q, w))
    } else {
        _mm256_maddubs_epi16(w, q)
    }
}

/// `acc` and sums of two products more.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn add_pairs(acc: Ints, pairs: Ints) -> Ints {
    let ones = _mm256_set1_epi16(1);
    [0, 1].map(|i| _mm256_add_epi32(acc[i], _mm256_madd_epi16(pairs[i], ones)))
}

/// What the sum of a group's products starts at, for activations that add up to `sum`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn start<F: Format>(sum: i32) -> Ints {
    [_mm256_set1_epi32(sum.wrapping_mul(-F::PARTS.zero)); 2]
}

/// How many groups 32 weights have.
const fn halves<F: Format>() -> usize {
    if F::OF_16 { 2 } else { 1 }
}

/// How many fours of a group are added up in 16 bits.
const fn fit<F: Format>() -> usize {
    if F::OF_16 && F::FIT > 4 { 4 } else { F::FIT }
}

/// Adds a group's products and minima to `acc`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn add_group<F: Format>(
    acc: Floats,
    ints: Ints,
    scales: Floats,
    mins: Floats,
    d: f32,
    sum: i32,
) -> Floats {
    let (scale, min) = (_mm256_set1_ps(d), _mm256_set1_ps(d * sum as f32));
    [0, 1].map(|i| {
        let scale = _mm256_mul_ps(scales[i], scale);
        let acc = _mm256_fmadd_ps(_mm256_cvtepi32_ps(ints[i]), scale, acc[i]);
        if F::PARTS.min { _mm256_fmadd_ps(mins[i], min, acc) } else { acc }
    })
}

/// `$do` with each `$b` of 0 to `$n`, 1 or 8, as a constant: shifts by constants are the faster ones.
macro_rules! each_block {
    ($n:expr, $b:ident => $do:expr) => {
        each_block!($b $do, 0);
        if $n == 8 {
            each_block!($b $do, 1 2 3 4 5 6 7);
        }
    };
    ($b:ident $do:expr, $($i:literal)*) => {
        $({
            const $b: usize = $i;
            $do;
        })*
    };
}

#[cfg(feature = "cli")]
pub(super) use each_block;

/// Multiplies, with quantised weights.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn quantised<F: Format>(w: &Packed<'_>, act: &Activations<'_>, out: &mut Columns<'_, f32>) {
    if act.n == 1 { gemv::<F>(w, act, out) } else { gemm::<F>(w, act, out) }
}

/// The heads and codes of a group.
#[inline]
pub(super) fn group<'a>(w: &Packed<'a>, g: usize) -> (&'a [u8], &'a [u8]) {
    let (codes_at, bytes) = p16::group_bytes(w.dtype, w.k).expect("whole blocks");
    w.bytes[g * bytes..(g + 1) * bytes].split_at(codes_at)
}

/// Adds the products of 16 rows' 32 weights, block `B` of one of the format, and a token's block `b`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn add_block<F: Format, const B: usize>(
    mut acc: Floats,
    head: &[u8],
    codes: &[u8],
    token: Token,
    b: usize,
) -> Floats {
    // SAFETY: the CPU has AVX2, FMA and F16C, as this function does, and the token a block `b`, by
    // the caller's promise.
    unsafe {
        for h in 0..halves::<F>() {
            let sum = token.sum::<F>(b, h);
            let mut ints = start::<F>(sum);
            let n = 8 / halves::<F>();
            for first in 0..n / fit::<F>() {
                let mut added = [_mm256_setzero_si256(); 2];
                for j in 0..fit::<F>() {
                    let j = h * n + first * fit::<F>() + j;
                    let (w, q) = (F::four::<B>(codes, j), token.four(b, j));
                    added = [0, 1].map(|i| _mm256_add_epi16(added[i], pairs::<F>(w[i], q)));
                }
                ints = add_pairs(ints, added);
            }
            let (scales, mins) = (F::scales::<B>(head, h), F::mins::<B>(head, h));
            acc = add_group::<F>(acc, ints, scales, mins, token.scale(b), sum);
        }
    }
    acc
}

#[target_feature(enable = "avx2,fma,f16c")]
fn gemv<F: Format>(w: &Packed<'_>, act: &Activations<'_>, out: &mut Columns<'_, f32>) {
    let inner = F::DTYPE.block_len() / 32;
    let (head, code) = (ROWS * F::PARTS.head_bytes(), ROWS * F::PARTS.code_bytes());
    let lines = (head + code).div_ceil(64);
    let token = Token::at(act, 0, 0, w.k);
    for r in (0..out.len()).step_by(ROWS) {
        let (heads, codes) = group(w, (out.first() + r) / ROWS);
        let mut acc = [_mm256_setzero_ps(); 2];
        // Heads and codes are used side by side, and asked for one after the other as they lie.
        let ahead = heads.as_ptr().wrapping_add(heads.len() + AHEAD);
        for block in 0..w.k / F::DTYPE.block_len() {
            let (head, codes) = (&heads[block * head..][..head], &codes[block * code..][..code]);
            let ahead = ahead.wrapping_add(block * (head.len() + code));
            each_block!(inner, B => {
                for line in B * lines / inner..(B + 1) * lines / inner {
                    _mm_prefetch::<_MM_HINT_T0>(ahead.wrapping_add(64 * line).cast());
                }
                // SAFETY: the token has k codes.
                acc = unsafe { add_block::<F, B>(acc, head, codes, token, block * inner + B) };
            });
        }
        store(&mut out.row_mut(0)[r..], acc);
    }
}

/// Writes the first 16 of `out`, or as many as there are.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn store(out: &mut [f32], x: Floats) {
    let mut all = [0f32; ROWS];
    let n = out.len().min(ROWS);
    let to = if n == ROWS { out.as_mut_ptr() } else { all.as_mut_ptr() };
    // SAFETY: there is room for sixteen numbers, of any alignment.
    unsafe {
        _mm256_storeu_ps(to, x[0]);
        _mm256_storeu_ps(to.add(8), x[1]);
    }
    if n < ROWS {
        out.copy_from_slice(&all[..n]);
    }
}

/// Reads the first 16 of `x`, or as many as there are.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn load(x: &[f32]) -> Floats {
    let mut all = [0f32; ROWS];
    let n = x.len().min(ROWS);
    let from = if n == ROWS {
        x.as_ptr()
    } else {
        all[..n].copy_from_slice(x);
        all.as_ptr()
    };
    // SAFETY: there are sixteen numbers, of any alignment.
    unsafe { [_mm256_loadu_ps(from), _mm256_loadu_ps(from.add(8))] }
}

/// A piece of a group, unpacked, by blocks of 32: their codes, and scales and minima of the halves.
#[repr(C, align(64))]
struct Panel {
    codes: [[Ints; 8]; BLOCKS],
    scales: [[Floats; 2]; BLOCKS],
    mins: [[Floats; 2]; BLOCKS],
}

#[target_feature(enable = "avx2,fma,f16c")]
fn gemm<F: Format>(w: &Packed<'_>, act: &Activations<'_>, out: &mut Columns<'_, f32>) {
    let none = [_mm256_setzero_ps(); 2];
    let mut panel = Panel {
        codes: [[[_mm256_setzero_si256(); 2]; 8]; BLOCKS],
        scales: [[none; 2]; BLOCKS],
        mins: [[none; 2]; BLOCKS],
    };
    let piece = piece(F::DTYPE, w.k);
    let mut ahead = Ahead::new(w, 1, piece, act.n.div_ceil(TOKENS));
    for r in (0..out.len()).step_by(ROWS) {
        let g = (out.first() + r) / ROWS;
        ahead.begin(w, g + 1);
        for from in (0..w.k).step_by(piece) {
            let n = piece.min(w.k - from);
            unpack::<F>(w, g, from, n, &mut panel);
            let mut t = 0;
            while t < act.n {
                let ahead = ahead.share(n);
                match act.n - t {
                    1 => multiply::<F, 1>(&panel, act, t, from..from + n, r, out, ahead),
                    2 => multiply::<F, 2>(&panel, act, t, from..from + n, r, out, ahead),
                    3 => multiply::<F, 3>(&panel, act, t, from..from + n, r, out, ahead),
                    _ => multiply::<F, TOKENS>(&panel, act, t, from..from + n, r, out, ahead),
                }
                t += TOKENS;
            }
        }
    }
}

/// Unpacks `n` weights from `from` on of group `g`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn unpack<F: Format>(w: &Packed<'_>, g: usize, from: usize, n: usize, panel: &mut Panel) {
    let inner = F::DTYPE.block_len() / 32;
    let (head, code) = (ROWS * F::PARTS.head_bytes(), ROWS * F::PARTS.code_bytes());
    let (heads, codes) = group(w, g);
    let first = from / F::DTYPE.block_len();
    for block in 0..n / F::DTYPE.block_len() {
        let head = &heads[(first + block) * head..][..head];
        let codes = &codes[(first + block) * code..][..code];
        each_block!(inner, B => {
            let b = block * inner + B;
            for j in 0..8 {
                // SAFETY: the CPU has AVX2, FMA and F16C, as this function does.
                panel.codes[b][j] = unsafe { F::four::<B>(codes, j) };
            }
            for h in 0..halves::<F>() {
                // SAFETY: the CPU has AVX2, FMA and F16C, as this function does.
                let (scales, mins) = unsafe { (F::scales::<B>(head, h), F::mins::<B>(head, h)) };
                panel.scales[b][h] = scales;
                if F::PARTS.min {
                    panel.mins[b][h] = mins;
                }
            }
        });
    }
}

/// Multiplies a panel, the weights `piece`, with `T` tokens from `t` on; the columns are those from `r`
/// on. Asks for what comes `ahead`. The order is that of [`add_block`].
#[target_feature(enable = "avx2,fma,f16c")]
fn multiply<F: Format, const T: usize>(
    panel: &Panel,
    act: &Activations<'_>,
    t: usize,
    piece: Range<usize>,
    r: usize,
    out: &mut Columns<'_, f32>,
    mut ahead: Share,
) {
    let (from, n) = (piece.start, piece.len());
    let tokens: [Token; T] = std::array::from_fn(|i| Token::at(act, t + i, from, n));
    let mut acc = [[_mm256_setzero_ps(); 2]; T];
    if from > 0 {
        for i in 0..T {
            acc[i] = load(&out.row_mut(t + i)[r..]);
        }
    }
    let fours = 8 / halves::<F>();
    let step = if F::FIT > 2 { fit::<F>() } else { fours };
    // Hidden from the compiler: loops that it unrolls need more registers than there are.
    let many = std::hint::black_box(step);
    for from in (0..n / 32).step_by(SHARE_BLOCKS) {
        ahead.fetch(|line| _mm_prefetch::<_MM_HINT_T0>(line.cast()));
        let some = from..(n / 32).min(from + SHARE_BLOCKS);
        let codes = panel.codes[some.clone()].iter();
        let blocks = codes.zip(&panel.scales[some.clone()]).zip(&panel.mins[some]);
        for (b, ((codes, scales), mins)) in blocks.enumerate() {
            let b = from + b;
            for h in 0..halves::<F>() {
                // SAFETY: the tokens have n codes from `from` on.
                let sums: [i32; T] = std::array::from_fn(|i| unsafe { tokens[i].sum::<F>(b, h) });
                let mut ints = sums.map(|sum| start::<F>(sum));
                for first in (h * fours..(h + 1) * fours).step_by(step) {
                    let codes = &codes[first..first + many];
                    if F::FIT > 2 {
                        let mut added = [[_mm256_setzero_si256(); 2]; T];
                        for (j, w) in codes.iter().enumerate() {
                            for i in 0..T {
                                // SAFETY: as above; first + j < 8, as there are codes.
                                let q = unsafe { tokens[i].four(b, first + j) };
                                for side in 0..2 {
                                    let pairs = pairs::<F>(w[side], q);
                                    added[i][side] = _mm256_add_epi16(added[i][side], pairs);
                                }
                            }
                        }
                        for i in 0..T {
                            ints[i] = add_pairs(ints[i], added[i]);
                        }
                    } else {
                        for (j, w) in codes.chunks_exact(F::FIT).enumerate() {
                            let j = first + j * F::FIT;
                            for i in 0..T {
                                // SAFETY: as above; the last four is that of the last codes.
                                let q = unsafe {
                                    [tokens[i].four(b, j), tokens[i].four(b, j + F::FIT - 1)]
                                };
                                let two = [0, 1].map(|side| {
                                    let one = pairs::<F>(w[0][side], q[0]);
                                    match w.get(1) {
                                        Some(w) => _mm256_add_epi16(one, pairs::<F>(w[side], q[1])),
                                        None => one,
                                    }
                                });
                                ints[i] = add_pairs(ints[i], two);
                            }
                        }
                    }
                }
                for i in 0..T {
                    // SAFETY: the tokens have n / 32 scales from `from` on.
                    let d = unsafe { tokens[i].scale(b) };
                    acc[i] = add_group::<F>(acc[i], ints[i], scales[h], mins[h], d, sums[i]);
                }
            }
        }
    }
    for i in 0..T {
        store(&mut out.row_mut(t + i)[r..], acc[i]);
    }
}
