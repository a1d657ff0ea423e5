//! Packed weights for AMX: the products of 16 tokens and 16 rows are one tile of integers.
//!
//! ```text
//! below 16 tokens   as AVX-512 does
//! more              for each two groups, in pieces of some hundred weights:
//!                       unpack the piece into a panel, as AVX-512 does
//!                       for each 16 tokens, for each few blocks:
//!                           tiles    tokens x weights, a block at a time     integers in memory
//!                           vectors  scale and add them up, 8 tokens at a time
//!                       the tokens that are left: as AVX-512 does
//! ```
//! Integers are exact, and scales are applied in the order of AVX-512: the bits are the same.
//!
//! A tile is a register of 16 rows of 64 bytes. `tdpbsud` adds to each 32-bit number of a tile the
//! sum of products of a row of signed bytes and a column of fours of unsigned ones: a block of a
//! panel lies as it wants it (Intel, Architecture Instruction Set Extensions Programming Reference,
//! chapter 3). The compiler knows nothing of tiles: each function here that uses them is called
//! between [`Shape::set`] and [`release`], and none keeps anything in them.
#![allow(clippy::needless_range_loop, reason = "several arrays are walked together")]

use std::arch::asm;
use std::arch::x86_64::*;
use std::ops::Range;

use super::avx512_floats::{Bf16, F16, F32, floats};
use super::avx512_formats::{self as formats, Format};
use super::avx512_tiles::{self, multiply_from};
use super::avx512_vnni::{self, Panel, fetch, lanes};
use super::{Ahead, Packed, PackedFn, Share, piece};
use crate::base::dtype::DType;
use crate::base::pool::Columns;
use crate::kernel::Activations;
use crate::quant::p16::ROWS;

/// Tokens of a tile.
const TOKENS: usize = 16;
/// Tokens whose sums the vectors hold at a time.
const HELD: usize = 8;
/// Steps, blocks or halves of them with scales of their own, whose integers are made before they are
/// scaled: few enough that they stay in the first level of the cache.
const STEPS: usize = 4;

/// The matmul of `dtype`.
pub(super) fn matmul(dtype: DType) -> PackedFn {
    super::of_type!(dtype)
}

/// Multiplies, with quantised weights.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
unsafe fn quantised<F: Format>(w: &Packed<'_>, act: &Activations<'_>, out: &mut Columns<'_, f32>) {
    // SAFETY: the caller's promises.
    unsafe {
        match act.n < TOKENS {
            true => avx512_vnni::quantised::<F>(w, act, out),
            false => gemm::<F>(w, act, out),
        }
    }
}

/// The shapes of the tiles, as `ldtilecfg` reads them: 0 to 3 are sums, 4 and 5 tokens, 6 and 7
/// weights.
#[repr(C, align(64))]
struct Shape {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    n_rows: [u8; 16],
}

impl Shape {
    /// For steps of `k` weights: 16 or 32.
    fn of(k: usize) -> Shape {
        let (k, fours) = (k as u16, (k / 4) as u8);
        Shape {
            palette: 1,
            start_row: 0,
            reserved: [0; 14],
            row_bytes: [64, 64, 64, 64, k, k, 64, 64, 0, 0, 0, 0, 0, 0, 0, 0],
            n_rows: [16, 16, 16, 16, 16, 16, fours, fours, 0, 0, 0, 0, 0, 0, 0, 0],
        }
    }

    /// Gives the tiles of this thread their shapes.
    ///
    /// # Safety
    /// The CPU has AMX, and the kernel has allowed it.
    unsafe fn set(&self) {
        // SAFETY: 64 bytes are read; Rust keeps nothing in tiles.
        unsafe {
            asm!("ldtilecfg [{}]", in(reg) self, options(readonly, nostack, preserves_flags));
        }
    }
}

/// Gives the tiles back: the kernel need not save them any more when it switches threads.
///
/// # Safety
/// As [`Shape::set`].
unsafe fn release() {
    // SAFETY: Rust keeps nothing in tiles.
    unsafe { asm!("tilerelease", options(nomem, nostack, preserves_flags)) };
}

/// Integers of a few steps: by step, group and token, one of each row.
#[repr(C, align(64))]
struct Integers([[[__m512i; TOKENS]; 2]; STEPS]);

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
unsafe fn gemm<F: Format>(w: &Packed<'_>, act: &Activations<'_>, out: &mut Columns<'_, f32>) {
    let mut panel = Panel::new();
    let mut integers = Integers([[[_mm512_setzero_si512(); TOKENS]; 2]; STEPS]);
    let piece = piece(F::DTYPE, w.k);
    let whole = act.n / TOKENS * TOKENS;
    let left = (act.n - whole).div_ceil(avx512_tiles::TOKENS);
    let mut ahead = Ahead::new(w, 2, piece, whole / TOKENS + left);
    // SAFETY: the CPU has this rung, by the caller's promise.
    unsafe { Shape::of(if F::OF_16 { 16 } else { 32 }).set() };
    for r in (0..out.len()).step_by(2 * ROWS) {
        let first = (out.first() + r) / ROWS;
        ahead.begin(w, first + 2);
        for from in (0..w.k).step_by(piece) {
            let piece = from..w.k.min(from + piece);
            // SAFETY: the piece lies in the groups, each token has k codes, and the tiles their shapes.
            unsafe {
                panel.unpack::<F>(w, first, &piece);
                for t in (0..whole).step_by(TOKENS) {
                    let ahead = ahead.share(piece.len());
                    multiply::<F>(&panel, &mut integers, act, t, piece.clone(), r, out, ahead);
                }
                multiply_from::<F>(&panel, act, whole, piece, r, out, &mut ahead);
            }
        }
    }
    // SAFETY: as above.
    unsafe { release() };
}

/// Makes the integers of a step: 16 tokens from `q` on, `k` bytes apart, times two groups of weights.
macro_rules! step {
    ($q:expr, $k:expr, $weights:expr, $out:expr, $tokens:literal, $sums:literal, $more:literal) => {
        asm!(
            concat!("tileloadd tmm", $tokens, ", [{q} + {k}]"),
            "tileloadd tmm6, [{w0} + {line}]",
            concat!("tilezero tmm", $sums),
            concat!("tdpbsud tmm", $sums, ", tmm", $tokens, ", tmm6"),
            "tileloadd tmm7, [{w1} + {line}]",
            concat!("tilezero tmm", $more),
            concat!("tdpbsud tmm", $more, ", tmm", $tokens, ", tmm7"),
            concat!("tilestored [{out} + {line}], tmm", $sums),
            concat!("tilestored [{out1} + {line}], tmm", $more),
            q = in(reg) $q, k = in(reg) $k, line = in(reg) 64usize,
            w0 = in(reg) $weights[0], w1 = in(reg) $weights[1],
            out = in(reg) $out[0].as_mut_ptr(), out1 = in(reg) $out[1].as_mut_ptr(),
            options(nostack, preserves_flags)
        )
    };
}

/// Multiplies a panel, the weights `piece`, with 16 tokens from `t` on; the columns are those from `r`
/// on. Asks for what comes `ahead`.
///
/// # Safety
/// The tokens are there, with whole pieces of codes, and the tiles have the shapes for `F`.
#[expect(clippy::too_many_arguments, reason = "a kernel's operands")]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
unsafe fn multiply<F: Format>(
    panel: &Panel,
    integers: &mut Integers,
    act: &Activations<'_>,
    t: usize,
    piece: Range<usize>,
    r: usize,
    out: &mut Columns<'_, f32>,
    mut ahead: Share,
) {
    let halves = if F::OF_16 { 2 } else { 1 };
    let n_steps = piece.len() / 32 * halves;
    for first in (0..n_steps).step_by(STEPS) {
        ahead.fetch(|line| fetch(line, 0..1));
        let steps = first..n_steps.min(first + STEPS);
        for (i, step) in steps.clone().enumerate() {
            let (b, h) = (step / halves, step % halves);
            let at = piece.start + step * (32 / halves);
            let q = act.q[t * act.k + at..(t + TOKENS - 1) * act.k + at + 32 / halves].as_ptr();
            let weights = panel.codes[b].each_ref().map(|codes| codes[h * 4..].as_ptr());
            let sums = &mut integers.0[i];
            // SAFETY: 16 rows of the tokens were cut out above, of which the last one ends where the
            // slice does; a step of a panel is 4 or 8 lines of 64 bytes, and a tile of sums 16. In
            // turns two tiles of sums and two others, so that neither waits for the other's way out.
            unsafe {
                match i % 2 {
                    0 => step!(q, act.k, weights, sums, 4, 0, 1),
                    _ => step!(q, act.k, weights, sums, 5, 2, 3),
                }
            }
        }
        for t in (t..t + TOKENS).step_by(HELD) {
            // SAFETY: the caller's promises; the integers of the steps were made above.
            unsafe { add_up::<F>(panel, integers, act, t, &piece, steps.clone(), r, out) };
        }
    }
}

/// Scales the integers of some steps and adds them to the sums of [`HELD`] tokens from `t` on. The
/// order of roundings is that of AVX-512.
///
/// # Safety
/// As [`multiply`].
#[expect(clippy::too_many_arguments, reason = "a kernel's operands")]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
unsafe fn add_up<F: Format>(
    panel: &Panel,
    integers: &Integers,
    act: &Activations<'_>,
    t: usize,
    piece: &Range<usize>,
    steps: Range<usize>,
    r: usize,
    out: &mut Columns<'_, f32>,
) {
    let masks = [lanes(out.len() - r), lanes((out.len() - r).saturating_sub(ROWS))];
    let mut acc = [[_mm512_setzero_ps(); 2]; HELD];
    if piece.start > 0 || steps.start > 0 {
        for i in 0..HELD {
            let row = out.row_mut(t + i)[r..].as_ptr();
            for side in 0..2 {
                // SAFETY: only the lanes of the mask are read, which the row has from `r` on.
                acc[i][side] =
                    unsafe { _mm512_maskz_loadu_ps(masks[side], row.wrapping_add(side * ROWS)) };
            }
        }
    }
    let halves = if F::OF_16 { 2 } else { 1 };
    for (integers, step) in integers.0.iter().zip(steps) {
        let (b, h) = (step / halves, step % halves);
        let (scales, mins) = (&panel.scales[b], &panel.mins[b]);
        for i in 0..HELD {
            let block = ((t + i) * act.k + piece.start) / 32 + b;
            let (d, sums) = (act.d[block], &act.sum[2 * block..2 * block + 2]);
            let sum = if F::OF_16 { sums[h] } else { sums[0].wrapping_add(sums[1]) };
            let zero = _mm512_set1_epi32(F::ZERO.wrapping_mul(sum));
            for side in 0..2 {
                let dot = _mm512_sub_epi32(integers[side][t % TOKENS + i], zero);
                let scale = _mm512_mul_ps(scales[side][h], _mm512_set1_ps(d));
                acc[i][side] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dot), scale, acc[i][side]);
                if F::PARTS.min {
                    let sum = _mm512_set1_ps(d * sum as f32);
                    acc[i][side] = _mm512_fmadd_ps(mins[side][h], sum, acc[i][side]);
                }
            }
        }
    }
    for i in 0..HELD {
        let row = out.row_mut(t + i)[r..].as_mut_ptr();
        for side in 0..2 {
            let row = row.wrapping_add(side * ROWS);
            // SAFETY: as above, written.
            unsafe { _mm512_mask_storeu_ps(row, masks[side], acc[i][side]) };
        }
    }
}
