//! Attention for NEON: four vectors to a group of columns. Up to six rows by one group, or three by
//! two, stay in registers over all rows of a panel.

#![allow(clippy::needless_range_loop, reason = "several arrays are walked together")]

use core::arch::aarch64::*;
use core::array::from_fn;

use half::f16;

use super::{Attend, GROUP, Panel, Rows, Sums, rows_at_once};
use crate::kernel::elem::exp as constants;
use crate::kernel::elem::neon::{exp, load, load4, store, store4, sum};
use crate::kernel::insn_aarch64::{f16_from_f32, f32_from_f16, f32_from_f16_high};

pub(super) const ATTEND: Attend =
    Attend { panel_f16, panel_f32, soft_cap, powers, blend, blend_squares, to_f16 };

/// An element of the cache.
trait Element: Copy {
    /// Eight elements as floats.
    ///
    /// # Safety
    /// The elements are there.
    unsafe fn eight(x: *const Self) -> [float32x4_t; 2];
}

impl Element for u16 {
    #[inline(always)]
    unsafe fn eight(x: *const u16) -> [float32x4_t; 2] {
        // SAFETY: the caller's promise, and NEON is part of every target that this file is compiled
        // for.
        unsafe {
            let x = vld1q_u16(x);
            [f32_from_f16(vget_low_u16(x)), f32_from_f16_high(x)]
        }
    }
}

impl Element for f32 {
    #[inline(always)]
    unsafe fn eight(x: *const f32) -> [float32x4_t; 2] {
        // SAFETY: the caller's promise.
        unsafe { [vld1q_f32(x), vld1q_f32(x.add(4))] }
    }
}

#[target_feature(enable = "neon")]
fn panel_f16(s: Sums<'_>, b: &Panel<'_, u16>) {
    panel(s, b);
}

#[target_feature(enable = "neon")]
fn panel_f32(s: Sums<'_>, b: &Panel<'_, f32>) {
    panel(s, b);
}

#[inline(always)]
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
                tile((a, s.a_stride), (from, b.row, b.group), b.n, (out, s.out_stride));
            }
            row += n;
        }
        group += n_groups;
    }
}

/// `R` rows of sums by `G` groups of columns, over `n` rows of the panel. Each place comes with its
/// strides.
///
/// # Safety
/// All of that lies where the pointers point.
#[target_feature(enable = "neon")]
unsafe fn tile<T: Element, const R: usize, const G: usize>(
    (a, a_stride): (*const f32, usize),
    (mut b, b_row, b_group): (*const T, usize, usize),
    n: usize,
    (out, out_stride): (*mut f32, usize),
) {
    // SAFETY: the caller's promise.
    unsafe {
        let out: [_; R] = from_fn(|r| out.add(r.wrapping_mul(out_stride)));
        let mut rows: [_; R] = from_fn(|r| a.add(r.wrapping_mul(a_stride)));
        let place = |g: usize, i: usize| g.wrapping_mul(GROUP).wrapping_add(i.wrapping_mul(4));
        let mut acc: [[[_; 4]; G]; R] =
            from_fn(|r| from_fn(|g| from_fn(|i| vld1q_f32(out[r].add(place(g, i))))));
        for _ in 0..n {
            let a: [_; R] = from_fn(|r| *rows[r]);
            for g in 0..G {
                let b = b.add(g.wrapping_mul(b_group));
                let ([b0, b1], [b2, b3]) = (T::eight(b), T::eight(b.add(8)));
                for r in 0..R {
                    for (acc, b) in acc[r][g].iter_mut().zip([b0, b1, b2, b3]) {
                        *acc = vfmaq_n_f32(*acc, b, a[r]);
                    }
                }
            }
            for a in &mut rows {
                *a = a.add(1);
            }
            b = b.wrapping_add(b_row);
        }
        for r in 0..R {
            for g in 0..G {
                for i in 0..4 {
                    vst1q_f32(out[r].add(place(g, i)), acc[r][g][i]);
                }
            }
        }
    }
}

/// See the scalar rung.
#[target_feature(enable = "neon")]
fn soft_cap(x: &mut [f32], cap: f32) {
    let (caps, one, minus) = (vdupq_n_f32(cap), vdupq_n_f32(1.0), vdupq_n_u32(1 << 31));
    let capped = |x| {
        let power = exp(vmulq_n_f32(vabsq_f32(vdivq_f32(x, caps)), -2.0));
        let y = vdivq_f32(vmulq_f32(caps, vsubq_f32(one, power)), vaddq_f32(one, power));
        vbslq_f32(minus, x, y)
    };
    let (fours, rest) = x.as_chunks_mut::<4>();
    for x in fours {
        store4(x, capped(load4(x)));
    }
    if !rest.is_empty() {
        let y = capped(load(rest, 0.0));
        store(rest, y);
    }
}

#[target_feature(enable = "neon")]
fn powers(rows: Rows<'_>) {
    rows.each(|x| row_powers(x));
}

#[target_feature(enable = "neon")]
fn row_powers(x: &mut [f32]) -> (f32, f32) {
    let (fours, rest) = x.as_chunks_mut::<4>();
    // `fmax` gives NaN if there is one.
    let lowest = load(rest, f32::NEG_INFINITY);
    let max = vmaxvq_f32(fours.iter().fold(lowest, |max, x| vmaxq_f32(max, load4(x))));
    let base = vdupq_n_f32(if max == f32::NEG_INFINITY { 0.0 } else { max });
    let least = vdupq_n_f32(constants::MIN);
    let power = |x| {
        let y = vsubq_f32(x, base);
        let tiny = vcltq_f32(y, least);
        vreinterpretq_f32_u32(vbicq_u32(vreinterpretq_u32_f32(exp(y)), tiny))
    };
    for x in fours.iter_mut() {
        store4(x, power(load4(x)));
    }
    if !rest.is_empty() {
        let y = power(load(rest, f32::NEG_INFINITY));
        store(rest, y);
    }
    (max, sum(x, |sum, x| vaddq_f32(sum, x)))
}

#[target_feature(enable = "neon")]
fn blend(x: &mut [f32], a: f32, y: &[f32], b: f32) {
    let (fours, rest) = x.as_chunks_mut::<4>();
    let (y_fours, y_rest) = y.as_chunks::<4>();
    for (x, y) in fours.iter_mut().zip(y_fours) {
        store4(x, vfmaq_n_f32(vmulq_n_f32(load4(y), b), load4(x), a));
    }
    if !rest.is_empty() {
        let blended = vfmaq_n_f32(vmulq_n_f32(load(y_rest, 0.0), b), load(rest, 0.0), a);
        store(rest, blended);
    }
}

#[target_feature(enable = "neon")]
fn blend_squares(x: &mut [f32], a: f32, y: &[f32], b: f32) {
    let (fours, rest) = x.as_chunks_mut::<4>();
    let (y_fours, y_rest) = y.as_chunks::<4>();
    let blended = |x, y| vfmaq_n_f32(vmulq_n_f32(vmulq_f32(y, y), b), x, a);
    for (x, y) in fours.iter_mut().zip(y_fours) {
        store4(x, blended(load4(x), load4(y)));
    }
    if !rest.is_empty() {
        store(rest, blended(load(rest, 0.0), load(y_rest, 0.0)));
    }
}

#[target_feature(enable = "neon")]
fn to_f16(x: &[f32], out: &mut [u16]) {
    let (fours, rest) = x.as_chunks::<4>();
    let (out_fours, out_rest) = out.as_chunks_mut::<4>();
    for (x, out) in fours.iter().zip(out_fours) {
        // SAFETY: both are 4 long.
        unsafe { vst1_u16(out.as_mut_ptr(), f16_from_f32(vld1q_f32(x.as_ptr()))) };
    }
    for (x, out) in rest.iter().zip(out_rest) {
        *out = f16::from_f32(*x).to_bits();
    }
}
