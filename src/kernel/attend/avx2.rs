//! Attention for AVX2: two vectors to a group of columns. Up to six rows by one group, or three by
//! two, stay in registers over all rows of a panel.

#![allow(clippy::needless_range_loop, reason = "several arrays are walked together")]

use std::arch::x86_64::*;
use std::array::from_fn;

use super::{Attend, GROUP, Panel, Rows, Sums, rows_at_once};
use crate::kernel::elem::avx2::{exp, lanes, load, store, sum};
use crate::kernel::elem::exp as constants;

pub(super) const ATTEND: Attend = Attend {
    panel_f16: panel::<u16>,
    panel_f32: panel::<f32>,
    soft_cap,
    powers,
    blend,
    blend_squares,
    to_f16,
};

/// Lanes of a vector.
const LANES: usize = 8;

/// An element of the cache.
trait Element: Copy {
    /// Eight elements as floats.
    ///
    /// # Safety
    /// The CPU has this rung, and the elements are there.
    unsafe fn eight(x: *const Self) -> __m256;
}

impl Element for u16 {
    #[inline(always)]
    unsafe fn eight(x: *const u16) -> __m256 {
        // SAFETY: the caller's promise; any alignment will do.
        unsafe { _mm256_cvtph_ps(_mm_loadu_si128(x.cast())) }
    }
}

impl Element for f32 {
    #[inline(always)]
    unsafe fn eight(x: *const f32) -> __m256 {
        // SAFETY: the caller's promise; any alignment will do.
        unsafe { _mm256_loadu_ps(x) }
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
fn panel<T: Element>(s: Sums<'_>, b: &Panel<'_, T>) {
    let s = s.cleared(b.n_groups * GROUP);
    let most = if s.n <= 3 { 3 } else { 6 };
    let at_once = rows_at_once(s.n, most);
    let mut group = 0;
    while group < b.n_groups {
        let n_groups = if most == 3 && b.n_groups - group >= 2 { 2 } else { 1 };
        let mut row = 0;
        while row < s.n {
            let n = at_once.min(s.n - row);
            // SAFETY: the caller of a kernel has checked that rows and groups lie in the slices.
            unsafe {
                let a = s.a.as_ptr().add(row * s.a_stride);
                let from = b.data.as_ptr().add(group * b.group);
                let out = s.out.as_mut_ptr().add(row * s.out_stride + group * GROUP);
                let tile = match (n, n_groups) {
                    (1, 2) => tile::<T, 1, 2>,
                    (2, 2) => tile::<T, 2, 2>,
                    (3, 2) => tile::<T, 3, 2>,
                    (1, _) => tile::<T, 1, 1>,
                    (2, _) => tile::<T, 2, 1>,
                    (3, _) => tile::<T, 3, 1>,
                    (4, _) => tile::<T, 4, 1>,
                    (5, _) => tile::<T, 5, 1>,
                    _ => tile::<T, 6, 1>,
                };
                let ahead = if row == 0 { b.ahead(n_groups) } else { 0 };
                let from = (from, b.row, b.group, ahead);
                tile((a, s.a_stride), from, b.n, (out, s.out_stride));
            }
            row += n;
        }
        group += n_groups;
    }
}

/// `R` rows of sums by `G` groups of columns, over `n` rows of the panel. Each place comes with its
/// strides; elements `ahead` of the panel's are fetched for later.
///
/// # Safety
/// All of that lies where the pointers point.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn tile<T: Element, const R: usize, const G: usize>(
    (a, a_stride): (*const f32, usize),
    (mut b, b_row, b_group, ahead): (*const T, usize, usize, usize),
    n: usize,
    (out, out_stride): (*mut f32, usize),
) {
    // SAFETY: the caller's promise.
    unsafe {
        let out: [_; R] = from_fn(|r| out.add(r.wrapping_mul(out_stride)));
        let mut rows: [_; R] = from_fn(|r| a.add(r.wrapping_mul(a_stride)));
        let mut acc: [[[_; 2]; G]; R] = from_fn(|r| {
            from_fn(|g| {
                let out = out[r].add(g.wrapping_mul(GROUP));
                [_mm256_loadu_ps(out), _mm256_loadu_ps(out.add(LANES))]
            })
        });
        for _ in 0..n {
            for g in 0..G {
                let b = b.add(g.wrapping_mul(b_group));
                _mm_prefetch::<_MM_HINT_T0>(b.wrapping_add(ahead).cast());
                let b = [T::eight(b), T::eight(b.add(LANES))];
                for r in 0..R {
                    let a = _mm256_set1_ps(*rows[r]);
                    acc[r][g] = [0, 1].map(|half| _mm256_fmadd_ps(a, b[half], acc[r][g][half]));
                }
            }
            for a in &mut rows {
                *a = a.add(1);
            }
            b = b.wrapping_add(b_row);
        }
        for r in 0..R {
            for g in 0..G {
                let out = out[r].add(g.wrapping_mul(GROUP));
                _mm256_storeu_ps(out, acc[r][g][0]);
                _mm256_storeu_ps(out.add(LANES), acc[r][g][1]);
            }
        }
    }
}

/// See the scalar rung.
#[target_feature(enable = "avx2,fma,f16c")]
fn soft_cap(x: &mut [f32], cap: f32) {
    let (cap, one, minus) = (_mm256_set1_ps(cap), _mm256_set1_ps(1.0), _mm256_set1_ps(-0.0));
    for at in (0..x.len()).step_by(LANES) {
        let y = load(x, at);
        let sign = _mm256_and_ps(y, minus);
        let y = _mm256_or_ps(_mm256_div_ps(y, cap), minus);
        let power = exp(_mm256_add_ps(y, y));
        let capped = _mm256_mul_ps(cap, _mm256_sub_ps(one, power));
        let capped = _mm256_div_ps(capped, _mm256_add_ps(one, power));
        store(x, at, _mm256_or_ps(capped, sign));
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
fn powers(rows: Rows<'_>) {
    rows.each(|x| row_powers(x));
}

#[target_feature(enable = "avx2,fma,f16c")]
fn row_powers(x: &mut [f32]) -> (f32, f32) {
    // Of two operands, `max` gives the second if one is NaN: NaNs are met again in the sum.
    let lowest = _mm256_set1_ps(f32::NEG_INFINITY);
    let mut max = lowest;
    for at in (0..x.len()).step_by(LANES) {
        let there = _mm256_castsi256_ps(lanes(LANES.min(x.len() - at)));
        max = _mm256_max_ps(_mm256_blendv_ps(lowest, load(x, at), there), max);
    }
    let half = _mm_max_ps(_mm256_castps256_ps128(max), _mm256_extractf128_ps::<1>(max));
    let half = _mm_max_ps(half, _mm_movehl_ps(half, half));
    let max = _mm_cvtss_f32(_mm_max_ss(half, _mm_movehdup_ps(half)));
    let base = _mm256_set1_ps(if max == f32::NEG_INFINITY { 0.0 } else { max });
    let least = _mm256_set1_ps(constants::MIN);
    let mut total = _mm256_setzero_ps();
    for at in (0..x.len()).step_by(LANES) {
        let there = _mm256_castsi256_ps(lanes(LANES.min(x.len() - at)));
        let y = _mm256_sub_ps(load(x, at), base);
        let wanted = _mm256_and_ps(there, _mm256_cmp_ps::<_CMP_NLT_UQ>(y, least));
        let y = _mm256_and_ps(exp(y), wanted);
        total = _mm256_add_ps(total, y);
        store(x, at, y);
    }
    (max, sum(total))
}

#[target_feature(enable = "avx2,fma,f16c")]
fn blend(x: &mut [f32], a: f32, y: &[f32], b: f32) {
    let (a, b) = (_mm256_set1_ps(a), _mm256_set1_ps(b));
    for at in (0..x.len()).step_by(LANES) {
        let blended = _mm256_fmadd_ps(load(x, at), a, _mm256_mul_ps(load(y, at), b));
        store(x, at, blended);
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
fn blend_squares(x: &mut [f32], a: f32, y: &[f32], b: f32) {
    let (a, b) = (_mm256_set1_ps(a), _mm256_set1_ps(b));
    for at in (0..x.len()).step_by(LANES) {
        let y = load(y, at);
        let squares = _mm256_mul_ps(_mm256_mul_ps(y, y), b);
        store(x, at, _mm256_fmadd_ps(load(x, at), a, squares));
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
fn to_f16(x: &[f32], out: &mut [u16]) {
    for (x, out) in x.chunks(LANES).zip(out.chunks_mut(LANES)) {
        let half = _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(load(x, 0));
        let mut values = [0u16; LANES];
        // SAFETY: 16 bytes are written, of any alignment.
        unsafe { _mm_storeu_si128(values.as_mut_ptr().cast(), half) };
        out.copy_from_slice(&values[..out.len()]);
    }
}
