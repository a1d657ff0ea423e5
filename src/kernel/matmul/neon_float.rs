//! Matmul with float weights for NEON; all rungs of the family share it.
//!
//! ```text
//! eight sums, weight i to sum i % 8, over all whole eights of a row;  their total
//! + the products of the last k % 8 weights, one after the other
//! ```
//! The sums of each output are its own, so they are the same in any tile: four rows by one token,
//! two rows by up to four.

use core::arch::aarch64::*;

use crate::base::dtype::DType;
use crate::base::pool::Columns;
use crate::kernel::insn_aarch64::{f32_from_f16, f32_from_f16_high};
use crate::kernel::{Activations, MatmulFn, Weight};

/// The matmul of a float type.
pub(super) fn matmul(dtype: DType) -> Option<MatmulFn> {
    match dtype {
        DType::F32 => Some(f32),
        DType::F16 => Some(f16),
        DType::BF16 => Some(bf16),
        _ => None,
    }
}

#[target_feature(enable = "neon")]
fn f32(w: &Weight<'_>, act: &Activations<'_>, out: &mut Columns<'_, f32>) {
    matmul_of::<Single>(w, act, out);
}

#[target_feature(enable = "neon")]
fn f16(w: &Weight<'_>, act: &Activations<'_>, out: &mut Columns<'_, f32>) {
    matmul_of::<Half>(w, act, out);
}

#[target_feature(enable = "neon")]
fn bf16(w: &Weight<'_>, act: &Activations<'_>, out: &mut Columns<'_, f32>) {
    matmul_of::<Brain>(w, act, out);
}

/// How a float type stands in the file.
trait Float {
    /// Bytes of a weight.
    const BYTES: usize;
    /// Eight weights from `at` on, `at` in weights.
    fn eight(row: &[u8], at: usize) -> [float32x4_t; 2];
}

/// Sixteen bytes from `at` on.
#[inline(always)]
fn bytes(row: &[u8], at: usize) -> uint8x16_t {
    let bytes = &row[at..at + 16];
    // SAFETY: `bytes` is 16 long.
    unsafe { vld1q_u8(bytes.as_ptr()) }
}

struct Single;

impl Float for Single {
    const BYTES: usize = 4;

    #[inline(always)]
    fn eight(row: &[u8], at: usize) -> [float32x4_t; 2] {
        // SAFETY: NEON is part of every target that this file is compiled for.
        [0, 16].map(|i| unsafe { vreinterpretq_f32_u8(bytes(row, 4 * at + i)) })
    }
}

struct Half;

impl Float for Half {
    const BYTES: usize = 2;

    #[inline(always)]
    fn eight(row: &[u8], at: usize) -> [float32x4_t; 2] {
        // SAFETY: NEON is part of every target that this file is compiled for.
        unsafe {
            let x = vreinterpretq_u16_u8(bytes(row, 2 * at));
            [f32_from_f16(vget_low_u16(x)), f32_from_f16_high(x)]
        }
    }
}

struct Brain;

impl Float for Brain {
    const BYTES: usize = 2;

    #[inline(always)]
    fn eight(row: &[u8], at: usize) -> [float32x4_t; 2] {
        // SAFETY: NEON is part of every target that this file is compiled for.
        unsafe {
            let x = vreinterpretq_u16_u8(bytes(row, 2 * at));
            let low = vshll_n_u16::<16>(vget_low_u16(x));
            [vreinterpretq_f32_u32(low), vreinterpretq_f32_u32(vshll_high_n_u16::<16>(x))]
        }
    }
}

#[inline(always)]
fn matmul_of<F: Float>(w: &Weight<'_>, act: &Activations<'_>, out: &mut Columns<'_, f32>) {
    let mut r = 0;
    if act.n == 1 {
        while r < out.len() {
            tile::<F, 4, 1>(w, act, out, r, 0);
            r += 4;
        }
        return;
    }
    while r < out.len() {
        let mut t = 0;
        while t < act.n {
            t += match act.n - t {
                1 => tile::<F, 2, 1>(w, act, out, r, t),
                2 | 3 => tile::<F, 2, 2>(w, act, out, r, t),
                _ => tile::<F, 2, 4>(w, act, out, r, t),
            };
        }
        r += 2;
    }
}

/// The outputs of `R` rows, columns `r ..` of `out`, by `T` tokens, `t ..`. Returns `T`.
///
/// Past the last column it repeats that one.
#[inline(always)]
fn tile<F: Float, const R: usize, const T: usize>(
    w: &Weight<'_>,
    act: &Activations<'_>,
    out: &mut Columns<'_, f32>,
    r: usize,
    t: usize,
) -> usize {
    let k = w.k;
    let whole = k / 8;
    let (first, last) = (out.first(), out.len() - 1);
    let mut rows: [&[u8]; R] = [&[]; R];
    for (i, row) in rows.iter_mut().enumerate() {
        *row = &w.bytes[(first + (r + i).min(last)) * k * F::BYTES..][..k * F::BYTES];
    }
    let mut tokens: [&[f32]; T] = [&[]; T];
    for (i, token) in tokens.iter_mut().enumerate() {
        *token = act.row(t + i);
    }
    // SAFETY: NEON is part of every target that this file is compiled for, and loads are of eight
    // floats that a slice holds.
    unsafe {
        let mut acc = [[[vdupq_n_f32(0.0); 2]; T]; R];
        for i in 0..whole {
            let w = rows.map(|row| F::eight(row, 8 * i));
            let x = tokens.map(|token| {
                let x = &token[8 * i..8 * i + 8];
                [vld1q_f32(x.as_ptr()), vld1q_f32(x[4..].as_ptr())]
            });
            for (acc, w) in acc.iter_mut().zip(w) {
                for (acc, x) in acc.iter_mut().zip(x) {
                    acc[0] = vfmaq_f32(acc[0], w[0], x[0]);
                    acc[1] = vfmaq_f32(acc[1], w[1], x[1]);
                }
            }
        }
        let mut rest = [0.0; 8];
        for (i, acc) in acc.iter().enumerate() {
            if whole * 8 < k {
                let mut padded = [0; 32];
                let row = &rows[i][whole * 8 * F::BYTES..];
                padded[..row.len()].copy_from_slice(row);
                let [low, high] = F::eight(&padded, 0);
                vst1q_f32(rest.as_mut_ptr(), low);
                vst1q_f32(rest[4..].as_mut_ptr(), high);
            }
            for (j, acc) in acc.iter().enumerate() {
                let sum = vaddvq_f32(vaddq_f32(acc[0], acc[1]));
                let x = &tokens[j][whole * 8..];
                let sum = x.iter().zip(rest).fold(sum, |sum, (x, w)| x.mul_add(w, sum));
                if r + i <= last {
                    out.row_mut(t + j)[r + i] = sum;
                }
            }
        }
    }
    T
}
