//! Scores and mixtures for AVX2.
//!
//! ```text
//! scores   four cells at a time, eight lanes each; what is left of a row is filled up with zeros
//! mix      64 columns at a time, in eight vectors that stay in registers over all cells
//! ```

use std::arch::x86_64::*;

use super::Attend;

pub(super) const ATTEND: Attend = Attend {
    scores_f16: scores::<u16>,
    mix_f16: mix::<u16>,
    scores_f32: scores::<f32>,
    mix_f32: mix::<f32>,
    to_f16,
};

/// Lanes of a vector.
const LANES: usize = 8;

/// An element of the cache.
trait Element: Copy + Default {
    /// Eight elements as floats. `unsafe`: the CPU must have AVX2 and F16C.
    unsafe fn load(x: &[Self; LANES]) -> __m256;
}

impl Element for u16 {
    #[inline(always)]
    unsafe fn load(x: &[u16; LANES]) -> __m256 {
        // SAFETY: the caller's promise; 16 bytes are read, of any alignment.
        unsafe { _mm256_cvtph_ps(_mm_loadu_si128(x.as_ptr().cast())) }
    }
}

impl Element for f32 {
    #[inline(always)]
    unsafe fn load(x: &[f32; LANES]) -> __m256 {
        // SAFETY: the caller's promise; 32 bytes are read, of any alignment.
        unsafe { _mm256_loadu_ps(x.as_ptr()) }
    }
}

/// Up to eight elements from `at` on, and zeros.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn load<T: Element>(x: &[T], at: usize) -> __m256 {
    let x = &x[at..];
    let mut filled = [T::default(); LANES];
    let eight = x.first_chunk().unwrap_or_else(|| {
        filled[..x.len()].copy_from_slice(x);
        &filled
    });
    // SAFETY: this function needs the same features.
    unsafe { T::load(eight) }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn sum(x: __m256) -> f32 {
    let x = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps::<1>(x));
    let x = _mm_add_ps(x, _mm_movehl_ps(x, x));
    _mm_cvtss_f32(_mm_add_ss(x, _mm_movehdup_ps(x)))
}

#[target_feature(enable = "avx2,fma,f16c")]
fn scores<T: Element>(q: &[f32], k: &[T], stride: usize, cells: &[u32], out: &mut [f32]) {
    let (fours, rest) = cells.as_chunks::<4>();
    let (out_fours, out_rest) = out.as_chunks_mut::<4>();
    for (cells, out) in fours.iter().zip(out_fours) {
        *out = products(q, cells.map(|cell| &k[cell as usize * stride..][..q.len()]));
    }
    for (&cell, out) in rest.iter().zip(out_rest) {
        [*out] = products(q, [&k[cell as usize * stride..][..q.len()]]);
    }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn products<T: Element, const C: usize>(q: &[f32], k: [&[T]; C]) -> [f32; C] {
    let mut acc = [_mm256_setzero_ps(); C];
    for at in (0..q.len()).step_by(LANES) {
        let q = load(q, at);
        for (acc, k) in acc.iter_mut().zip(k) {
            *acc = _mm256_fmadd_ps(q, load(k, at), *acc);
        }
    }
    acc.map(|acc| sum(acc))
}

#[target_feature(enable = "avx2,fma,f16c")]
fn mix<T: Element>(p: &[f32], v: &[T], stride: usize, cells: &[u32], out: &mut [f32]) {
    let width = out.len();
    let mut at = 0;
    while width - at >= 8 * LANES {
        columns::<T, 8>(p, v, stride, cells, at, &mut out[at..at + 8 * LANES]);
        at += 8 * LANES;
    }
    while at < width {
        let end = width.min(at + LANES);
        columns::<T, 1>(p, v, stride, cells, at, &mut out[at..end]);
        at = end;
    }
}

/// The columns from `at` on, at most `V` vectors, as many as `out` has.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn columns<T: Element, const V: usize>(
    p: &[f32],
    v: &[T],
    stride: usize,
    cells: &[u32],
    at: usize,
    out: &mut [f32],
) {
    let mut acc = [_mm256_setzero_ps(); V];
    for (p, &cell) in p.iter().zip(cells) {
        let row = &v[cell as usize * stride + at..][..out.len()];
        let p = _mm256_set1_ps(*p);
        for (i, acc) in acc.iter_mut().enumerate() {
            *acc = _mm256_fmadd_ps(p, load(row, i * LANES), *acc);
        }
    }
    for (acc, out) in acc.iter().zip(out.chunks_mut(LANES)) {
        let mut values = [0f32; LANES];
        // SAFETY: 32 bytes are written, of any alignment.
        unsafe { _mm256_storeu_ps(values.as_mut_ptr(), *acc) };
        out.copy_from_slice(&values[..out.len()]);
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
