//! Attention for AVX-512: a vector is one group of columns. Up to six rows by four groups, or three
//! by eight, stay in registers over all rows of a panel.

#![allow(clippy::needless_range_loop, reason = "several arrays are walked together")]

use std::arch::x86_64::*;
use std::array::from_fn;

use super::{Attend, GROUP, Panel, Rows, Sums, rows_at_once};
use crate::kernel::elem::avx512_vnni::{exp, load, store};
use crate::kernel::elem::exp as constants;

/// What this rung has faster than `below`.
pub(super) fn overlay(below: Attend) -> Attend {
    Attend {
        panel_f16: panel::<u16>,
        panel_f32: panel::<f32>,
        soft_cap,
        powers,
        blend,
        blend_squares,
        ..below
    }
}

/// An element of the cache.
trait Element: Copy {
    /// Sixteen elements as floats.
    ///
    /// # Safety
    /// The CPU has this rung, and the elements are there.
    unsafe fn group(x: *const Self) -> __m512;
}

impl Element for u16 {
    #[inline(always)]
    unsafe fn group(x: *const u16) -> __m512 {
        // SAFETY: the caller's promise; any alignment will do.
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(x.cast())) }
    }
}

impl Element for f32 {
    #[inline(always)]
    unsafe fn group(x: *const f32) -> __m512 {
        // SAFETY: the caller's promise; any alignment will do.
        unsafe { _mm512_loadu_ps(x) }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
fn panel<T: Element>(s: Sums<'_>, b: &Panel<'_, T>) {
    let most = if s.n <= 3 { 3 } else { 6 };
    let at_once = rows_at_once(s.n, most);
    let mut group = 0;
    while group < b.n_groups {
        let left = b.n_groups - group;
        let n_groups = match left {
            8.. if most == 3 => 8,
            4.. => 4,
            2.. => 2,
            _ => 1,
        };
        let mut row = 0;
        while row < s.n {
            let n = at_once.min(s.n - row);
            // SAFETY: the caller of a kernel has checked that rows and groups lie in the slices.
            unsafe {
                let a = s.a.as_ptr().add(row * s.a_stride);
                let from = b.data.as_ptr().add(group * b.group);
                let out = s.out.as_mut_ptr().add(row * s.out_stride + group * GROUP);
                let tile = match (n, n_groups) {
                    (1, 8) => tile::<T, 1, 8>,
                    (2, 8) => tile::<T, 2, 8>,
                    (3, 8) => tile::<T, 3, 8>,
                    (1, 4) => tile::<T, 1, 4>,
                    (2, 4) => tile::<T, 2, 4>,
                    (3, 4) => tile::<T, 3, 4>,
                    (4, 4) => tile::<T, 4, 4>,
                    (5, 4) => tile::<T, 5, 4>,
                    (6, 4) => tile::<T, 6, 4>,
                    (1, 2) => tile::<T, 1, 2>,
                    (2, 2) => tile::<T, 2, 2>,
                    (3, 2) => tile::<T, 3, 2>,
                    (4, 2) => tile::<T, 4, 2>,
                    (5, 2) => tile::<T, 5, 2>,
                    (6, 2) => tile::<T, 6, 2>,
                    (1, _) => tile::<T, 1, 1>,
                    (2, _) => tile::<T, 2, 1>,
                    (3, _) => tile::<T, 3, 1>,
                    (4, _) => tile::<T, 4, 1>,
                    (5, _) => tile::<T, 5, 1>,
                    _ => tile::<T, 6, 1>,
                };
                let ahead = if row == 0 { b.ahead(n_groups) } else { 0 };
                let from = (from, b.row, b.group, ahead);
                tile((a, s.a_stride), from, b.n, (out, s.out_stride, s.fresh));
            }
            row += n;
        }
        group += n_groups;
    }
}

/// `R` rows of sums by `V` groups of columns, over `n` rows of the panel. Each place comes with its
/// strides; elements `ahead` of the panel's are fetched for later.
///
/// # Safety
/// All of that lies where the pointers point.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
unsafe fn tile<T: Element, const R: usize, const V: usize>(
    (a, a_stride): (*const f32, usize),
    (mut b, b_row, b_group, ahead): (*const T, usize, usize, usize),
    n: usize,
    (out, out_stride, fresh): (*mut f32, usize, bool),
) {
    // SAFETY: the caller's promise.
    unsafe {
        let out: [_; R] = from_fn(|r| out.add(r.wrapping_mul(out_stride)));
        let mut rows: [_; R] = from_fn(|r| a.add(r.wrapping_mul(a_stride)));
        let mut acc = [[_mm512_setzero_ps(); V]; R];
        if !fresh {
            acc = from_fn(|r| from_fn(|v| _mm512_loadu_ps(out[r].add(v.wrapping_mul(GROUP)))));
        }
        for _ in 0..n {
            let a: [_; R] = from_fn(|r| _mm512_set1_ps(*rows[r]));
            for v in 0..V {
                let b = b.add(v.wrapping_mul(b_group));
                _mm_prefetch::<_MM_HINT_T0>(b.wrapping_add(ahead).cast());
                let b = T::group(b);
                for r in 0..R {
                    acc[r][v] = _mm512_fmadd_ps(a[r], b, acc[r][v]);
                }
            }
            for a in &mut rows {
                *a = a.add(1);
            }
            b = b.wrapping_add(b_row);
        }
        for r in 0..R {
            for v in 0..V {
                _mm512_storeu_ps(out[r].add(v.wrapping_mul(GROUP)), acc[r][v]);
            }
        }
    }
}

/// See the scalar rung.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
fn soft_cap(x: &mut [f32], cap: f32) {
    let (cap, one, minus) = (_mm512_set1_ps(cap), _mm512_set1_ps(1.0), _mm512_set1_ps(-0.0));
    for at in (0..x.len()).step_by(GROUP) {
        let y = load(x, at);
        let sign = _mm512_and_ps(y, minus);
        let y = _mm512_or_ps(_mm512_div_ps(y, cap), minus);
        let power = exp(_mm512_add_ps(y, y));
        let capped = _mm512_mul_ps(cap, _mm512_sub_ps(one, power));
        let capped = _mm512_div_ps(capped, _mm512_add_ps(one, power));
        store(x, at, _mm512_or_ps(capped, sign));
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
fn powers(rows: Rows<'_>) {
    super::each_rows(rows.m.len(), 4, |row, n| {
        let some = match n {
            1 => some_powers::<1>,
            2 => some_powers::<2>,
            3 => some_powers::<3>,
            _ => some_powers::<4>,
        };
        let (m, l) = (&mut rows.m[row..], &mut rows.l[row..]);
        // SAFETY: the caller of a kernel has checked that the rows lie in the slice.
        unsafe { some(rows.x.as_mut_ptr().add(row * rows.stride), rows.stride, rows.len, m, l) }
    });
}

/// Of `R` rows, together: what one of them waits for hides behind the others.
///
/// # Safety
/// The rows, `len` elements `stride` apart, lie where `x` points.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
unsafe fn some_powers<const R: usize>(
    x: *mut f32,
    stride: usize,
    len: usize,
    m: &mut [f32],
    l: &mut [f32],
) {
    let (whole, rest) = (len / GROUP * GROUP, (1 << (len % GROUP)) - 1);
    // Of two operands, `max` gives the second if one is NaN: NaNs are met again in the sum.
    let mut max = [_mm512_set1_ps(f32::NEG_INFINITY); R];
    let mut find = |at: usize, mask: __mmask16| {
        for (r, max) in max.iter_mut().enumerate() {
            // SAFETY: only elements of the row are read.
            let y = unsafe { _mm512_maskz_loadu_ps(mask, x.add(r * stride + at)) };
            *max = _mm512_mask_max_ps(*max, mask, y, *max);
        }
    };
    (0..whole).step_by(GROUP).for_each(|at| find(at, !0));
    if rest != 0 {
        find(whole, rest);
    }
    let max = max.map(|max| _mm512_reduce_max_ps(max));
    let base = max.map(|max| _mm512_set1_ps(if max == f32::NEG_INFINITY { 0.0 } else { max }));
    let least = _mm512_set1_ps(constants::MIN);
    let mut total = [_mm512_setzero_ps(); R];
    let mut raise = |at: usize, mask: __mmask16| {
        for r in 0..R {
            // SAFETY: as above.
            let x = unsafe { x.add(r * stride + at) };
            // SAFETY: as above.
            let y = unsafe { _mm512_maskz_loadu_ps(mask, x) };
            let y = _mm512_sub_ps(y, base[r]);
            let wanted = mask & _mm512_cmp_ps_mask::<_CMP_NLT_UQ>(y, least);
            let y = _mm512_maskz_mov_ps(wanted, exp(y));
            total[r] = _mm512_add_ps(total[r], y);
            // SAFETY: as above, written.
            unsafe { _mm512_mask_storeu_ps(x, mask, y) };
        }
    };
    (0..whole).step_by(GROUP).for_each(|at| raise(at, !0));
    if rest != 0 {
        raise(whole, rest);
    }
    for r in 0..R {
        (m[r], l[r]) = (max[r], _mm512_reduce_add_ps(total[r]));
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
fn blend(x: &mut [f32], a: f32, y: &[f32], b: f32) {
    let (a, b) = (_mm512_set1_ps(a), _mm512_set1_ps(b));
    for at in (0..x.len()).step_by(GROUP) {
        let blended = _mm512_fmadd_ps(load(x, at), a, _mm512_mul_ps(load(y, at), b));
        store(x, at, blended);
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
fn blend_squares(x: &mut [f32], a: f32, y: &[f32], b: f32) {
    let (a, b) = (_mm512_set1_ps(a), _mm512_set1_ps(b));
    for at in (0..x.len()).step_by(GROUP) {
        let y = load(y, at);
        let squares = _mm512_mul_ps(_mm512_mul_ps(y, y), b);
        store(x, at, _mm512_fmadd_ps(load(x, at), a, squares));
    }
}
