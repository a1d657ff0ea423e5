//! Packed weights of floats for AVX-512: 16 rows are the lanes of a vector, up to six tokens share it.
#![allow(clippy::needless_range_loop, reason = "several arrays are walked together")]

use std::arch::x86_64::*;

use super::avx512_tiles::TOKENS;
use super::avx512_vnni::{AHEAD, group, lanes, store};
use super::{FLOAT_PIECE, Packed};
use crate::base::pool::Columns;
use crate::kernel::Activations;
use crate::quant::p16::ROWS;

/// A float type of weights.
pub(super) trait Float {
    /// Bytes of a weight.
    const BYTES: usize;
    /// A weight of 16 rows.
    ///
    /// # Safety
    /// The CPU has this rung, and the weights are there.
    unsafe fn load(w: *const u8) -> __m512;
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
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
    unsafe fn load(w: *const u8) -> __m512 {
        // SAFETY: the caller's promise; any alignment.
        unsafe { _mm512_loadu_ps(w.cast()) }
    }
}

impl Float for F16 {
    const BYTES: usize = 2;

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
    unsafe fn load(w: *const u8) -> __m512 {
        // SAFETY: the caller's promise; any alignment.
        _mm512_cvtph_ps(unsafe { _mm256_loadu_si256(w.cast()) })
    }
}

impl Float for Bf16 {
    const BYTES: usize = 2;

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
    unsafe fn load(w: *const u8) -> __m512 {
        // SAFETY: the caller's promise; any alignment.
        let bits = _mm512_cvtepu16_epi32(unsafe { _mm256_loadu_si256(w.cast()) });
        _mm512_castsi512_ps(_mm512_slli_epi32::<16>(bits))
    }
}

/// Multiplies, with float weights.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
pub(super) unsafe fn floats<F: Float>(
    w: &Packed<'_>,
    act: &Activations<'_>,
    out: &mut Columns<'_, f32>,
) {
    let last = (w.n_rows - 1) / ROWS;
    for r in (0..out.len()).step_by(2 * ROWS) {
        let first = (out.first() + r) / ROWS;
        let groups = [first, (first + 1).min(last)].map(|g| group(w, g).1);
        for from in (0..w.k).step_by(FLOAT_PIECE) {
            let n = FLOAT_PIECE.min(w.k - from);
            let mut t = 0;
            while t < act.n {
                let multiply = match act.n - t {
                    1 => multiply_floats::<F, 1>,
                    2 => multiply_floats::<F, 2>,
                    3 => multiply_floats::<F, 3>,
                    4 => multiply_floats::<F, 4>,
                    5 => multiply_floats::<F, 5>,
                    _ => multiply_floats::<F, TOKENS>,
                };
                // SAFETY: the caller's promise of the rung; slices check the rest.
                unsafe { multiply(groups, act, t, from, n, r, out) }
                t += TOKENS;
            }
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
unsafe fn multiply_floats<F: Float, const T: usize>(
    groups: [&[u8]; 2],
    act: &Activations<'_>,
    t: usize,
    from: usize,
    n: usize,
    r: usize,
    out: &mut Columns<'_, f32>,
) {
    let tokens: [&[f32]; T] = std::array::from_fn(|i| &act.row(t + i)[from..][..n]);
    let size = ROWS * F::BYTES;
    let groups = groups.map(|g| &g[from * size..(from + n) * size]);
    let mut part = [[_mm512_setzero_ps(); 2]; T];
    for at in 0..n {
        // SAFETY: the pieces were cut to n weights of 16 rows, and the tokens to n.
        unsafe {
            if t == 0 && at % (64 / F::BYTES).max(16) == 0 {
                for g in groups {
                    for line in 0..8 {
                        let ahead = g.as_ptr().wrapping_add(at * size + AHEAD / 4 + 64 * line);
                        _mm_prefetch::<_MM_HINT_T0>(ahead.cast());
                    }
                }
            }
            let w = groups.map(|g| F::load(g.as_ptr().add(at * size)));
            for i in 0..T {
                let x = _mm512_set1_ps(*tokens[i].get_unchecked(at));
                part[i][0] = _mm512_fmadd_ps(w[0], x, part[i][0]);
                part[i][1] = _mm512_fmadd_ps(w[1], x, part[i][1]);
            }
        }
    }
    let two = out.len() - r > ROWS;
    for i in 0..T {
        let row = &mut out.row_mut(t + i)[r..];
        let add = |row: &[f32], part| match from {
            0 => part,
            _ => _mm512_add_ps(load(row), part),
        };
        let sums =
            [add(row, part[i][0]), if two { add(&row[ROWS..], part[i][1]) } else { part[i][1] }];
        store(row, sums[0]);
        if two {
            store(&mut row[ROWS..], sums[1]);
        }
    }
}

/// Reads the lanes that there are.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
fn load(x: &[f32]) -> __m512 {
    // SAFETY: a masked load reads only the lanes of the mask.
    unsafe { _mm512_maskz_loadu_ps(lanes(x.len()), x.as_ptr()) }
}
