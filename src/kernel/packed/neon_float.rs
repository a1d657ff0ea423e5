//! Packed float weights for NEON; all rungs of the family share it. One weight of 16 rows is four
//! vectors.
#![allow(clippy::needless_range_loop, reason = "several arrays are walked together")]

use core::arch::aarch64::*;

use super::neon_formats::Rows;
use super::neon_tiles::{group, load, store, zeros};
use super::{FLOAT_PIECE, Packed};
use crate::base::pool::Columns;
use crate::kernel::Activations;
use crate::kernel::insn_aarch64::{f32_from_f16, f32_from_f16_high, prefetch};
use crate::quant::p16::ROWS;

/// How far ahead of its use a weight is asked for, in bytes.
const AHEAD: usize = 2048;

/// A float type of weights.
pub(super) trait Float {
    /// Bytes of a weight.
    const BYTES: usize;
    /// A weight of 16 rows, from as many of their bytes.
    fn rows(w: &[u8]) -> Rows;
}

/// IEEE single precision.
pub(super) struct F32;
/// IEEE half precision.
pub(super) struct F16;
/// The upper half of a single.
pub(super) struct Bf16;

/// Sixteen bytes from `at` on.
#[inline(always)]
fn bytes(w: &[u8], at: usize) -> uint8x16_t {
    let bytes = &w[at..at + 16];
    // SAFETY: `bytes` is 16 long.
    unsafe { vld1q_u8(bytes.as_ptr()) }
}

impl Float for F32 {
    const BYTES: usize = 4;

    #[inline(always)]
    fn rows(w: &[u8]) -> Rows {
        // SAFETY: NEON is part of every target that this file is compiled for.
        [0, 16, 32, 48].map(|at| unsafe { vreinterpretq_f32_u8(bytes(w, at)) })
    }
}

impl Float for F16 {
    const BYTES: usize = 2;

    #[inline(always)]
    fn rows(w: &[u8]) -> Rows {
        // SAFETY: NEON is part of every target that this file is compiled for.
        unsafe {
            let [x, y] = [0, 16].map(|at| vreinterpretq_u16_u8(bytes(w, at)));
            let (low, high) = (vget_low_u16(x), vget_low_u16(y));
            [f32_from_f16(low), f32_from_f16_high(x), f32_from_f16(high), f32_from_f16_high(y)]
        }
    }
}

impl Float for Bf16 {
    const BYTES: usize = 2;

    #[inline(always)]
    fn rows(w: &[u8]) -> Rows {
        // SAFETY: NEON is part of every target that this file is compiled for.
        unsafe {
            let [x, y] = [0, 16].map(|at| vreinterpretq_u16_u8(bytes(w, at)));
            [
                vshll_n_u16::<16>(vget_low_u16(x)),
                vshll_high_n_u16::<16>(x),
                vshll_n_u16::<16>(vget_low_u16(y)),
                vshll_high_n_u16::<16>(y),
            ]
            .map(|x| vreinterpretq_f32_u32(x))
        }
    }
}

/// Multiplies, with float weights.
#[target_feature(enable = "neon")]
pub(super) fn floats<F: Float>(w: &Packed<'_>, act: &Activations<'_>, out: &mut Columns<'_, f32>) {
    for r in (0..out.len()).step_by(ROWS) {
        let (_, weights) = group(w, (out.first() + r) / ROWS);
        for from in (0..w.k).step_by(FLOAT_PIECE) {
            let n = FLOAT_PIECE.min(w.k - from);
            let weights = &weights[from * ROWS * F::BYTES..][..n * ROWS * F::BYTES];
            let mut t = 0;
            while t < act.n {
                t += match act.n - t {
                    1 => tile::<F, 1>(weights, act, t, from, r, out),
                    2 | 3 => tile::<F, 2>(weights, act, t, from, r, out),
                    _ => tile::<F, 4>(weights, act, t, from, r, out),
                };
            }
        }
    }
}

/// Multiplies a piece of weights from `from` on with `T` tokens from `t` on; the columns are those
/// from `r` on. Returns `T`.
#[inline(always)]
fn tile<F: Float, const T: usize>(
    weights: &[u8],
    act: &Activations<'_>,
    t: usize,
    from: usize,
    r: usize,
    out: &mut Columns<'_, f32>,
) -> usize {
    let weights = weights.chunks_exact(ROWS * F::BYTES);
    let mut tokens: [&[f32]; T] = [&[]; T];
    for i in 0..T {
        tokens[i] = &act.row(t + i)[from..][..weights.len()];
    }
    let mut part = [zeros(); T];
    for (at, w) in weights.enumerate() {
        if T == 1 && at % (64 / (ROWS * F::BYTES)).max(1) == 0 {
            prefetch::<AHEAD>(w.as_ptr());
        }
        let w = F::rows(w);
        for i in 0..T {
            let x = tokens[i][at];
            for j in 0..4 {
                // SAFETY: NEON is part of every target that this file is compiled for.
                part[i][j] = unsafe { vfmaq_n_f32(part[i][j], w[j], x) };
            }
        }
    }
    for i in 0..T {
        let row = &mut out.row_mut(t + i)[r..];
        let mut sum = part[i];
        if from > 0 {
            let acc = load(row);
            for j in 0..4 {
                // SAFETY: NEON is part of every target that this file is compiled for.
                sum[j] = unsafe { vaddq_f32(acc[j], part[i][j]) };
            }
        }
        store(row, sum);
    }
    T
}
