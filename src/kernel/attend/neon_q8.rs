//! Keys and values in 8 bits for NEON: four vectors to a group of columns. With the dot product
//! instructions one of them multiplies four codes of four columns; without, four do.

#![allow(clippy::needless_range_loop, reason = "several arrays are walked together")]

use core::arch::aarch64::*;
use core::array::from_fn;

use super::q8::{
    Attend8, KV_BLOCK, KV_QUAD, Keys8, PLANE_BITS, Queries8, TO_INTEGER, Values8, largest,
    scale_of, to_planes, weigh_rows,
};
use super::{GROUP, each_rows};
use crate::kernel::insn_aarch64::{f32_from_f16, sdot_lane};

pub(super) const NEON: Attend8 = Attend8 { scores: scores_neon, weigh, mix: mix_neon };
pub(super) const DOTPROD: Attend8 = Attend8 { scores: scores_dotprod, weigh, mix: mix_dotprod };

/// Lanes of a vector.
const LANES: usize = 4;

/// How four products are summed.
trait Dot {
    /// `acc[i] += x[4i] * y[4i] + .. + x[4i+3] * y[4i+3]`; all codes are from -127 to 127.
    ///
    /// # Safety
    /// The CPU has this rung, and `y` has the same four bytes in every lane.
    unsafe fn dot(acc: int32x4_t, x: int8x16_t, y: int8x16_t) -> int32x4_t;
}

struct Neon;

impl Dot for Neon {
    #[inline(always)]
    unsafe fn dot(acc: int32x4_t, x: int8x16_t, y: int8x16_t) -> int32x4_t {
        // SAFETY: NEON is part of every target that this file is compiled for. Two products are at
        // most 32258 and fit into 16 bits.
        unsafe {
            let lower = vmull_s8(vget_low_s8(x), vget_low_s8(y));
            vpadalq_s16(acc, vpaddq_s16(lower, vmull_high_s8(x, y)))
        }
    }
}

struct Dotprod;

impl Dot for Dotprod {
    #[inline(always)]
    unsafe fn dot(acc: int32x4_t, x: int8x16_t, y: int8x16_t) -> int32x4_t {
        // SAFETY: the caller's promise.
        unsafe { sdot_lane::<0>(acc, x, y) }
    }
}

#[target_feature(enable = "neon")]
fn scores_neon(q: &Queries8<'_>, k: &Keys8<'_>, out: (&mut [f32], usize)) {
    scores::<Neon>(q, k, out);
}

#[target_feature(enable = "neon,dotprod")]
fn scores_dotprod(q: &Queries8<'_>, k: &Keys8<'_>, out: (&mut [f32], usize)) {
    scores::<Dotprod>(q, k, out);
}

#[target_feature(enable = "neon")]
fn mix_neon(n: usize, w: (&[u8], usize), v: &Values8<'_>, out: (&mut [i32], usize)) {
    mix::<Neon>(n, w, v, out);
}

#[target_feature(enable = "neon,dotprod")]
fn mix_dotprod(n: usize, w: (&[u8], usize), v: &Values8<'_>, out: (&mut [i32], usize)) {
    mix::<Dotprod>(n, w, v, out);
}

/// Four bytes, in all lanes.
///
/// # Safety
/// They are there.
#[inline(always)]
unsafe fn quad(x: *const i8) -> int8x16_t {
    // SAFETY: the caller's promise; any alignment will do.
    unsafe { vreinterpretq_s8_s32(vdupq_n_s32(x.cast::<i32>().read_unaligned())) }
}

#[inline(always)]
fn scores<D: Dot>(q: &Queries8<'_>, k: &Keys8<'_>, (out, out_stride): (&mut [f32], usize)) {
    for group in 0..k.n_groups {
        each_rows(q.n, 5, |row, n| {
            // SAFETY: the caller of a kernel has checked that rows and groups lie in the slices, and
            // the CPU has the rung of `D`.
            unsafe {
                let out = (out.as_mut_ptr().add(row * out_stride + group * GROUP), out_stride);
                match n {
                    1 => scores_tile::<D, 1>(q, row, k, group, out),
                    2 => scores_tile::<D, 2>(q, row, k, group, out),
                    3 => scores_tile::<D, 3>(q, row, k, group, out),
                    4 => scores_tile::<D, 4>(q, row, k, group, out),
                    _ => scores_tile::<D, 5>(q, row, k, group, out),
                }
            }
        });
    }
}

/// `R` rows of queries from `row` on by one group of keys.
///
/// # Safety
/// There are that many, room for the scores at `out`, and the CPU has the rung of `D`.
#[inline(always)]
unsafe fn scores_tile<D: Dot, const R: usize>(
    q: &Queries8<'_>,
    row: usize,
    k: &Keys8<'_>,
    group: usize,
    (out, out_stride): (*mut f32, usize),
) {
    // SAFETY: the caller's promise.
    unsafe {
        let of_row: [usize; R] = from_fn(|r| row.wrapping_add(r).wrapping_mul(q.n_blocks));
        let codes = q.codes.as_ptr();
        let mut codes: [_; R] = from_fn(|r| codes.add(of_row[r].wrapping_mul(KV_BLOCK)));
        let mut keys = k.codes.as_ptr();
        keys = keys.add(group.wrapping_mul(k.n_quads).wrapping_mul(GROUP * KV_QUAD));
        let mut scales = k.scales.as_ptr().add(group.wrapping_mul(GROUP));
        for b in 0..q.n_blocks {
            let mut dots = [[vdupq_n_s32(0); 4]; R];
            for _ in b.wrapping_mul(8)..k.n_quads.min(b.wrapping_mul(8).wrapping_add(8)) {
                let x: [int8x16_t; 4] = from_fn(|i| vld1q_s8(keys.add(i.wrapping_mul(16))));
                for r in 0..R {
                    let q = quad(codes[r]);
                    for i in 0..4usize {
                        dots[r][i] = D::dot(dots[r][i], x[i], q);
                    }
                }
                for codes in &mut codes {
                    *codes = codes.add(KV_QUAD);
                }
                keys = keys.add(GROUP * KV_QUAD);
            }
            for i in 0..4usize {
                let scales = f32_from_f16(vld1_u16(scales.add(i.wrapping_mul(LANES))));
                for r in 0..R {
                    let at = r.wrapping_mul(out_stride).wrapping_add(i.wrapping_mul(LANES));
                    let out = out.add(at);
                    let before = if b == 0 { vdupq_n_f32(0.0) } else { vld1q_f32(out) };
                    let q = *q.scales.as_ptr().add(of_row[r].wrapping_add(b));
                    let scaled = vmulq_f32(vcvtq_f32_s32(dots[r][i]), scales);
                    vst1q_f32(out, vfmaq_n_f32(before, scaled, q));
                }
            }
            scales = scales.wrapping_add(k.scale_stride);
        }
    }
}

#[target_feature(enable = "neon")]
fn weigh(p: (&[f32], usize), d: &[u16], planes: (&mut [u8], usize), worth: &mut [f32]) {
    weigh_rows(p, d.len(), planes, worth, |p, high, low| weigh_row(p, d, high, low));
}

#[inline]
#[target_feature(enable = "neon")]
fn weigh_row(p: &[f32], d: &[u16], high: &mut [u8], low: &mut [u8]) -> f32 {
    let whole = p.len() / LANES * LANES;
    // SAFETY: the slices are of one length, and 4 elements lie there.
    let product = |at: usize| unsafe {
        let d = f32_from_f16(vld1_u16(d.as_ptr().add(at)));
        vmulq_f32(vld1q_f32(p.as_ptr().add(at)), d)
    };
    let mut max = vdupq_n_u32(0);
    for at in (0..whole).step_by(LANES) {
        max = vmaxq_u32(max, vreinterpretq_u32_f32(vabsq_f32(product(at))));
    }
    let max = vmaxvq_u32(max).max(largest(&p[whole..], &d[whole..]));
    let (inverse, scale) = scale_of(f32::from_bits(max));
    let (plane, to_integer) = (vdupq_n_u32(127), vdupq_n_f32(TO_INTEGER));
    let bytes = |x: uint32x4_t| {
        let words = vmovn_u32(x);
        vget_lane_u32::<0>(vreinterpret_u32_u8(vmovn_u16(vcombine_u16(words, words))))
    };
    for at in (0..whole).step_by(LANES) {
        let code = vaddq_f32(vmulq_n_f32(product(at), inverse), to_integer);
        let code = vreinterpretq_u32_f32(code);
        let upper = vandq_u32(vshrq_n_u32::<{ PLANE_BITS as i32 }>(code), plane);
        high[at..at + LANES].copy_from_slice(&bytes(upper).to_le_bytes());
        low[at..at + LANES].copy_from_slice(&bytes(vandq_u32(code, plane)).to_le_bytes());
    }
    to_planes(&p[whole..], &d[whole..], inverse, &mut high[whole..], &mut low[whole..]);
    scale
}

#[inline(always)]
fn mix<D: Dot>(
    n: usize,
    (weights, plane): (&[u8], usize),
    v: &Values8<'_>,
    (out, out_stride): (&mut [i32], usize),
) {
    for group in 0..v.n_groups {
        each_rows(n, 3, |row, n| {
            // SAFETY: the caller of a kernel has checked that rows and quads lie in the slices, and
            // the CPU has the rung of `D`.
            unsafe {
                let weights = (weights.as_ptr().add(2 * row * plane).cast(), plane);
                let out = (out.as_mut_ptr().add(row * out_stride + group * GROUP), out_stride);
                match n {
                    1 => mix_tile::<D, 1>(weights, v, group, out),
                    2 => mix_tile::<D, 2>(weights, v, group, out),
                    _ => mix_tile::<D, 3>(weights, v, group, out),
                }
            }
        });
    }
}

/// `R` rows of sums over all quads of one group of the values.
///
/// # Safety
/// There are that many rows of weights and of sums, and the CPU has the rung of `D`.
#[inline(always)]
unsafe fn mix_tile<D: Dot, const R: usize>(
    (weights, plane): (*const i8, usize),
    v: &Values8<'_>,
    group: usize,
    (out, out_stride): (*mut i32, usize),
) {
    // SAFETY: the caller's promise.
    unsafe {
        let mut rows: [_; R] = from_fn(|r| weights.add(r.wrapping_mul(2).wrapping_mul(plane)));
        let mut codes = v.codes.as_ptr().add(group.wrapping_mul(GROUP * KV_QUAD));
        let mut high = [[vdupq_n_s32(0); 4]; R];
        let mut low = high;
        for _ in 0..v.n_quads {
            let x: [int8x16_t; 4] = from_fn(|i| vld1q_s8(codes.add(i.wrapping_mul(16))));
            for r in 0..R {
                let (upper, lower) = (quad(rows[r]), quad(rows[r].add(plane)));
                for j in 0..4usize {
                    high[r][j] = D::dot(high[r][j], x[j], upper);
                    low[r][j] = D::dot(low[r][j], x[j], lower);
                }
                rows[r] = rows[r].add(KV_QUAD);
            }
            codes = codes.wrapping_add(v.n_groups.wrapping_mul(GROUP * KV_QUAD));
        }
        for r in 0..R {
            for j in 0..4usize {
                let at = r.wrapping_mul(out_stride).wrapping_add(j.wrapping_mul(LANES));
                let sum = vshlq_n_s32::<{ PLANE_BITS as i32 }>(high[r][j]);
                let sum = vaddq_s32(vld1q_s32(out.add(at)), vaddq_s32(sum, low[r][j]));
                vst1q_s32(out.add(at), sum);
            }
        }
    }
}
