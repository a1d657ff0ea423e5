//! Element-wise kernels for AVX-512: sixteen lanes, masked at the end. Those that do little more than
//! read and write are left to AVX2.

use std::arch::x86_64::*;

use super::{Elem, GELU_A, GELU_B, exp};

/// What this rung has faster than `below`.
pub(super) fn overlay(below: Elem) -> Elem {
    Elem { rms_norm, silu_mul, gelu_mul, ..below }
}

/// Lanes of a vector.
const LANES: usize = 16;

/// The elements from `at` on that there are, at most sixteen.
#[inline]
pub(in crate::kernel) fn lanes(x: &[f32], at: usize) -> __mmask16 {
    let n = x.len() - at;
    if n >= LANES { 0xffff } else { (1 << n) - 1 }
}

/// Up to sixteen elements from `at` on, and zeros.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
pub(in crate::kernel) fn load(x: &[f32], at: usize) -> __m512 {
    // SAFETY: `at` is below the length, and elements that are not there are masked.
    unsafe { _mm512_maskz_loadu_ps(lanes(x, at), x.as_ptr().add(at)) }
}

/// Writes up to sixteen elements from `at` on.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
pub(in crate::kernel) fn store(x: &mut [f32], at: usize, value: __m512) {
    let mask = lanes(x, at);
    // SAFETY: `at` is below the length, and elements that are not there are masked.
    unsafe { _mm512_mask_storeu_ps(x.as_mut_ptr().add(at), mask, value) }
}

/// See [`super::exp`]. NaN stays NaN: it is the second operand of the clamps.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
pub(in crate::kernel) fn exp(x: __m512) -> __m512 {
    let x = _mm512_min_ps(_mm512_set1_ps(exp::MAX), x);
    let x = _mm512_max_ps(_mm512_set1_ps(exp::MIN), x);
    let n = _mm512_mul_ps(x, _mm512_set1_ps(exp::LOG2_E));
    let n = _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(n);
    let r = _mm512_fnmadd_ps(n, _mm512_set1_ps(exp::LN2_HIGH), x);
    let r = _mm512_fnmadd_ps(n, _mm512_set1_ps(exp::LN2_LOW), r);
    let mut p = _mm512_set1_ps(exp::C[4]);
    for c in [exp::C[3], exp::C[2], exp::C[1], exp::C[0]] {
        p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(c));
    }
    let p = _mm512_fmadd_ps(p, _mm512_mul_ps(r, r), r);
    let p = _mm512_add_ps(p, _mm512_set1_ps(1.0));
    _mm512_scalef_ps(p, n)
}

/// `x / (1 + exp(-y)) * up`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
fn gated(x: __m512, y: __m512, up: __m512) -> __m512 {
    let one = _mm512_set1_ps(1.0);
    let power = exp(_mm512_sub_ps(_mm512_setzero_ps(), y));
    _mm512_mul_ps(_mm512_div_ps(x, _mm512_add_ps(one, power)), up)
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
fn silu_mul(gate: &mut [f32], up: &[f32]) {
    for at in (0..gate.len()).step_by(LANES) {
        let x = load(gate, at);
        store(gate, at, gated(x, x, load(up, at)));
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
fn gelu_mul(gate: &mut [f32], up: &[f32]) {
    let (a, b) = (_mm512_set1_ps(GELU_A), _mm512_set1_ps(GELU_B));
    for at in (0..gate.len()).step_by(LANES) {
        let x = load(gate, at);
        let y = _mm512_mul_ps(x, _mm512_fmadd_ps(b, _mm512_mul_ps(x, x), a));
        store(gate, at, gated(x, y, load(up, at)));
    }
}

/// Four sums of squares, since one would wait for itself.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
fn rms_norm(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    let mut squares = [_mm512_setzero_ps(); 4];
    let (fours, rest) = x.as_chunks::<{ 4 * LANES }>();
    for four in fours {
        for (i, sum) in squares.iter_mut().enumerate() {
            let x = load(four, i * LANES);
            *sum = _mm512_fmadd_ps(x, x, *sum);
        }
    }
    for at in (0..rest.len()).step_by(LANES) {
        let x = load(rest, at);
        squares[0] = _mm512_fmadd_ps(x, x, squares[0]);
    }
    let [a, b, c, d] = squares;
    let sum = _mm512_add_ps(_mm512_add_ps(a, b), _mm512_add_ps(c, d));
    let mean = _mm512_reduce_add_ps(sum) / x.len() as f32;
    let scale = _mm512_set1_ps(1.0 / (mean + eps).sqrt());
    for at in (0..x.len()).step_by(LANES) {
        let scaled = _mm512_mul_ps(load(x, at), scale);
        store(out, at, _mm512_mul_ps(scaled, load(weight, at)));
    }
}
