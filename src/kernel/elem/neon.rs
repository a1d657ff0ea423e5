//! Element-wise kernels for NEON. What is left of a row after whole vectors goes through the same
//! instructions, padded, so that the place of an element does not change its result.

use core::arch::aarch64::*;

use super::hadamard_neon::hadamard;
use super::{Elem, GELU_A, GELU_B, exp};

pub(super) const ELEM: Elem =
    Elem { rms_norm, silu_mul, gelu_mul, add, rope_norm, rope_neox, hadamard };

/// Up to four elements; the lanes past the end are `fill`.
#[inline]
#[target_feature(enable = "neon")]
pub(in crate::kernel) fn load(x: &[f32], fill: f32) -> float32x4_t {
    let mut lanes = [fill; 4];
    for (lane, x) in lanes.iter_mut().zip(x) {
        *lane = *x;
    }
    // SAFETY: `lanes` is 4 long.
    unsafe { vld1q_f32(lanes.as_ptr()) }
}

/// Writes the first of four elements, as many as `out` takes.
#[inline]
#[target_feature(enable = "neon")]
pub(in crate::kernel) fn store(out: &mut [f32], x: float32x4_t) {
    let mut lanes = [0.0; 4];
    // SAFETY: `lanes` is 4 long.
    unsafe { vst1q_f32(lanes.as_mut_ptr(), x) };
    for (out, lane) in out.iter_mut().zip(lanes) {
        *out = lane;
    }
}

/// Four elements.
#[inline]
#[target_feature(enable = "neon")]
pub(in crate::kernel) fn load4(x: &[f32; 4]) -> float32x4_t {
    // SAFETY: `x` is 4 long.
    unsafe { vld1q_f32(x.as_ptr()) }
}

/// Writes four elements.
#[inline]
#[target_feature(enable = "neon")]
pub(in crate::kernel) fn store4(out: &mut [f32; 4], x: float32x4_t) {
    // SAFETY: `out` is 4 long.
    unsafe { vst1q_f32(out.as_mut_ptr(), x) };
}

/// `x = f(x, y)`, element by element.
#[inline]
#[target_feature(enable = "neon")]
fn map(x: &mut [f32], y: &[f32], f: impl Fn(float32x4_t, float32x4_t) -> float32x4_t) {
    let (fours, rest) = x.as_chunks_mut::<4>();
    let (y_fours, y_rest) = y.as_chunks::<4>();
    for (x, y) in fours.iter_mut().zip(y_fours) {
        store4(x, f(load4(x), load4(y)));
    }
    if !rest.is_empty() {
        let value = f(load(rest, 0.0), load(y_rest, 0.0));
        store(rest, value);
    }
}

/// The sum of `f(x)`, in 16 sums; `f(0)` is 0.
#[inline]
#[target_feature(enable = "neon")]
pub(in crate::kernel) fn sum(
    x: &[f32],
    f: impl Fn(float32x4_t, float32x4_t) -> float32x4_t,
) -> f32 {
    let mut sums = [vdupq_n_f32(0.0); 4];
    let (fours, rest) = x.as_chunks::<4>();
    for x in fours.chunks(4) {
        for (sum, x) in sums.iter_mut().zip(x) {
            *sum = f(*sum, load4(x));
        }
    }
    sums[0] = f(sums[0], load(rest, 0.0));
    let [a, b, c, d] = sums;
    vaddvq_f32(vaddq_f32(vaddq_f32(a, c), vaddq_f32(b, d)))
}

/// See [`super::exp`]. NaN stays NaN.
#[inline]
#[target_feature(enable = "neon")]
pub(in crate::kernel) fn exp(x: float32x4_t) -> float32x4_t {
    let x = vminq_f32(vmaxq_f32(x, vdupq_n_f32(exp::MIN)), vdupq_n_f32(exp::MAX));
    let n = vrndnq_f32(vmulq_n_f32(x, exp::LOG2_E));
    let r = vfmsq_f32(x, n, vdupq_n_f32(exp::LN2_HIGH));
    let r = vfmsq_f32(r, n, vdupq_n_f32(exp::LN2_LOW));
    let mut p = vdupq_n_f32(exp::C[4]);
    for i in [3, 2, 1, 0] {
        p = vfmaq_f32(vdupq_n_f32(exp::C[i]), p, r);
    }
    let p = vaddq_f32(vfmaq_f32(r, p, vmulq_f32(r, r)), vdupq_n_f32(1.0));
    // n is -126 to 127 here; as an integer a NaN is 0, and p is NaN.
    let power = vshlq_n_s32::<23>(vaddq_s32(vcvtq_s32_f32(n), vdupq_n_s32(127)));
    vmulq_f32(p, vreinterpretq_f32_s32(power))
}

#[target_feature(enable = "neon")]
fn rms_norm(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    let mean = sum(x, |sum, x| vfmaq_f32(sum, x, x)) / x.len() as f32;
    let scale = 1.0 / (mean + eps).sqrt();
    out.copy_from_slice(x);
    map(out, weight, |x, w| vmulq_f32(vmulq_n_f32(x, scale), w));
}

#[target_feature(enable = "neon")]
fn silu_mul(gate: &mut [f32], up: &[f32]) {
    let one = vdupq_n_f32(1.0);
    map(gate, up, |x, up| vmulq_f32(vdivq_f32(x, vaddq_f32(one, exp(vnegq_f32(x)))), up));
}

/// `x/2 (1 + tanh(y)) = x / (1 + exp(-2y))`.
#[target_feature(enable = "neon")]
fn gelu_mul(gate: &mut [f32], up: &[f32]) {
    let one = vdupq_n_f32(1.0);
    map(gate, up, |x, up| {
        let y2 = vfmaq_n_f32(vdupq_n_f32(GELU_A), vmulq_f32(x, x), GELU_B);
        let y2 = vmulq_f32(x, y2);
        vmulq_f32(vdivq_f32(x, vaddq_f32(one, exp(vnegq_f32(y2)))), up)
    });
}

#[target_feature(enable = "neon")]
fn add(x: &mut [f32], y: &[f32]) {
    map(x, y, |x, y| vaddq_f32(x, y));
}

/// The pair (a, b), turned by angles.
#[inline]
#[target_feature(enable = "neon")]
fn rotate([a, b]: [float32x4_t; 2], cos: float32x4_t, sin: float32x4_t) -> [float32x4_t; 2] {
    [vfmsq_f32(vmulq_f32(a, cos), b, sin), vfmaq_f32(vmulq_f32(b, cos), a, sin)]
}

#[target_feature(enable = "neon")]
fn rope_norm(x: &mut [f32], cos: &[f32], sin: &[f32]) {
    for (x, (cos, sin)) in x.chunks_mut(8).zip(cos.chunks(4).zip(sin.chunks(4))) {
        // Of the last chunk, only the pairs that have an angle.
        let n = 2 * cos.len();
        let x = &mut x[..n];
        let mut pairs = [0.0; 8];
        pairs[..n].copy_from_slice(x);
        // SAFETY: `pairs` is 8 long.
        unsafe {
            let float32x4x2_t(a, b) = vld2q_f32(pairs.as_ptr());
            let [a, b] = rotate([a, b], load(cos, 1.0), load(sin, 0.0));
            vst2q_f32(pairs.as_mut_ptr(), float32x4x2_t(a, b));
        }
        x.copy_from_slice(&pairs[..n]);
    }
}

#[target_feature(enable = "neon")]
fn rope_neox(x: &mut [f32], cos: &[f32], sin: &[f32]) {
    let (low, high) = x[..2 * cos.len()].split_at_mut(cos.len());
    let angles = cos.chunks(4).zip(sin.chunks(4));
    for ((a, b), (cos, sin)) in low.chunks_mut(4).zip(high.chunks_mut(4)).zip(angles) {
        let pair = rotate([load(a, 0.0), load(b, 0.0)], load(cos, 1.0), load(sin, 0.0));
        store(a, pair[0]);
        store(b, pair[1]);
    }
}
