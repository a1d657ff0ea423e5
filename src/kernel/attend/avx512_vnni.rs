//! Scores and mixtures for AVX-512.
//!
//! ```text
//! scores   four cells at a time, sixteen lanes each, masked at the end of a row
//! mix      64 columns at a time, in four vectors that stay in registers over all cells
//! ```

use std::arch::x86_64::*;

use super::Attend;

/// What this rung has faster than `below`.
pub(super) fn overlay(below: Attend) -> Attend {
    Attend {
        scores_f16: scores::<u16>,
        mix_f16: mix::<u16>,
        scores_f32: scores::<f32>,
        mix_f32: mix::<f32>,
        ..below
    }
}

/// Lanes of a vector.
const LANES: usize = 16;

/// An element of the cache.
trait Element: Copy {
    /// The elements of `mask` at `x` as floats, and zeros.
    ///
    /// # Safety
    /// The CPU has this rung, and the elements are there.
    unsafe fn load(x: *const Self, mask: __mmask16) -> __m512;
}

impl Element for u16 {
    #[inline(always)]
    unsafe fn load(x: *const u16, mask: __mmask16) -> __m512 {
        // SAFETY: the caller's promise.
        unsafe { _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(mask, x.cast())) }
    }
}

impl Element for f32 {
    #[inline(always)]
    unsafe fn load(x: *const f32, mask: __mmask16) -> __m512 {
        // SAFETY: the caller's promise.
        unsafe { _mm512_maskz_loadu_ps(mask, x) }
    }
}

/// Up to sixteen elements from `at` on, and zeros.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
fn load<T: Element>(x: &[T], at: usize) -> __m512 {
    let x = &x[at..];
    let mask = if x.len() >= LANES { 0xffff } else { (1 << x.len()) - 1 };
    // SAFETY: this function needs the rung's features, and what is not there is masked.
    unsafe { T::load(x.as_ptr(), mask) }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
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
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
fn products<T: Element, const C: usize>(q: &[f32], k: [&[T]; C]) -> [f32; C] {
    let mut acc = [_mm512_setzero_ps(); C];
    for at in (0..q.len()).step_by(LANES) {
        let q = load(q, at);
        for (acc, k) in acc.iter_mut().zip(k) {
            *acc = _mm512_fmadd_ps(q, load(k, at), *acc);
        }
    }
    acc.map(|acc| _mm512_reduce_add_ps(acc))
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
fn mix<T: Element>(p: &[f32], v: &[T], stride: usize, cells: &[u32], out: &mut [f32]) {
    let width = out.len();
    let mut at = 0;
    while width - at >= 4 * LANES {
        columns::<T, 4>(p, v, stride, cells, at, &mut out[at..at + 4 * LANES]);
        at += 4 * LANES;
    }
    while at < width {
        let end = width.min(at + LANES);
        columns::<T, 1>(p, v, stride, cells, at, &mut out[at..end]);
        at = end;
    }
}

/// The columns from `at` on, at most `V` vectors, as many as `out` has.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
fn columns<T: Element, const V: usize>(
    p: &[f32],
    v: &[T],
    stride: usize,
    cells: &[u32],
    at: usize,
    out: &mut [f32],
) {
    let mut acc = [_mm512_setzero_ps(); V];
    for (p, &cell) in p.iter().zip(cells) {
        let row = &v[cell as usize * stride + at..][..out.len()];
        let p = _mm512_set1_ps(*p);
        for (i, acc) in acc.iter_mut().enumerate() {
            *acc = _mm512_fmadd_ps(p, load(row, i * LANES), *acc);
        }
    }
    for (acc, out) in acc.iter().zip(out.chunks_mut(LANES)) {
        let mask = if out.len() >= LANES { 0xffff } else { (1 << out.len()) - 1 };
        // SAFETY: what is not there is masked.
        unsafe { _mm512_mask_storeu_ps(out.as_mut_ptr(), mask, *acc) };
    }
}
