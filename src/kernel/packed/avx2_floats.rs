//! Packed weights of floats for AVX2: 16 rows are the lanes of two vectors.
#![allow(clippy::needless_range_loop, reason = "several arrays are walked together")]

use std::arch::x86_64::*;

use super::avx2::{AHEAD, group, load, store};
use super::{FLOAT_PIECE, Packed};
use crate::base::pool::Columns;
use crate::kernel::Activations;
use crate::quant::p16::ROWS;

/// A float type of weights.
pub(super) trait Float {
    /// Bytes of a weight.
    const BYTES: usize;
    /// A weight of eight rows.
    ///
    /// # Safety
    /// The CPU has AVX2, FMA and F16C, and the weights are there.
    unsafe fn load(w: *const u8) -> __m256;
}

/// IEEE single precision.
pub(super) struct F32;
/// IEEE half precision.
pub(super) struct F16;
/// The upper half of a single.
pub(super) struct Bf16;

impl Float for F32 {
    const BYTES: usize = 4;

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn load(w: *const u8) -> __m256 {
        // SAFETY: the caller's promise; any alignment.
        unsafe { _mm256_loadu_ps(w.cast()) }
    }
}

impl Float for F16 {
    const BYTES: usize = 2;

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn load(w: *const u8) -> __m256 {
        // SAFETY: the caller's promise; any alignment.
        _mm256_cvtph_ps(unsafe { _mm_loadu_si128(w.cast()) })
    }
}

impl Float for Bf16 {
    const BYTES: usize = 2;

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn load(w: *const u8) -> __m256 {
        // SAFETY: the caller's promise; any alignment.
        let bits = _mm256_cvtepu16_epi32(unsafe { _mm_loadu_si128(w.cast()) });
        _mm256_castsi256_ps(_mm256_slli_epi32::<16>(bits))
    }
}

/// Multiplies, with float weights: four groups with one token, or one with up to six.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn floats<F: Float>(
    w: &Packed<'_>,
    act: &Activations<'_>,
    out: &mut Columns<'_, f32>,
) {
    let last = (w.n_rows - 1) / ROWS;
    let groups = if act.n == 1 { 4 } else { 1 };
    for r in (0..out.len()).step_by(groups * ROWS) {
        let first = (out.first() + r) / ROWS;
        for from in (0..w.k).step_by(FLOAT_PIECE) {
            let n = FLOAT_PIECE.min(w.k - from);
            let size = ROWS * F::BYTES;
            let piece =
                |i: usize| &group(w, (first + i).min(last)).1[from * size..(from + n) * size];
            if act.n == 1 {
                multiply_floats::<F, 4, 1>(std::array::from_fn(piece), act, 0, from, n, r, out);
                continue;
            }
            let w = [piece(0)];
            let mut t = 0;
            while t < act.n {
                match act.n - t {
                    1 => multiply_floats::<F, 1, 1>(w, act, t, from, n, r, out),
                    2 => multiply_floats::<F, 1, 2>(w, act, t, from, n, r, out),
                    3 => multiply_floats::<F, 1, 3>(w, act, t, from, n, r, out),
                    4 => multiply_floats::<F, 1, 4>(w, act, t, from, n, r, out),
                    5 => multiply_floats::<F, 1, 5>(w, act, t, from, n, r, out),
                    _ => multiply_floats::<F, 1, 6>(w, act, t, from, n, r, out),
                }
                t += 6;
            }
        }
    }
}

/// Multiplies `n` weights from `from` on of `G` groups with `T` tokens from `t` on; the columns are
/// those from `r` on, as many of the groups' as there are.
#[target_feature(enable = "avx2,fma,f16c")]
fn multiply_floats<F: Float, const G: usize, const T: usize>(
    groups: [&[u8]; G],
    act: &Activations<'_>,
    t: usize,
    from: usize,
    n: usize,
    r: usize,
    out: &mut Columns<'_, f32>,
) {
    let tokens: [&[f32]; T] = std::array::from_fn(|i| &act.row(t + i)[from..][..n]);
    let size = ROWS * F::BYTES;
    assert!(groups.iter().all(|group| group.len() == n * size), "pieces of groups");
    let mut part = [[[_mm256_setzero_ps(); 2]; G]; T];
    for at in 0..n {
        for g in 0..G {
            let w = groups[g].as_ptr().wrapping_add(at * size);
            if t == 0 && (at * size).is_multiple_of(64) {
                _mm_prefetch::<_MM_HINT_T0>(w.wrapping_add(AHEAD / 2).cast());
            }
            // SAFETY: the CPU has AVX2, FMA and F16C, as this function does, and the group n weights
            // of 16 rows, as just checked.
            let w = unsafe { [F::load(w), F::load(w.add(size / 2))] };
            for i in 0..T {
                let x = _mm256_set1_ps(tokens[i][at]);
                part[i][g] = [0, 1].map(|side| _mm256_fmadd_ps(w[side], x, part[i][g][side]));
            }
        }
    }
    for i in 0..T {
        let row = &mut out.row_mut(t + i)[r..];
        for (out, part) in row.chunks_mut(ROWS).zip(part[i]) {
            let acc = if from > 0 { load(out) } else { [_mm256_setzero_ps(); 2] };
            let sum = [0, 1].map(|side| _mm256_add_ps(acc[side], part[side]));
            store(out, if from > 0 { sum } else { part });
        }
    }
}
