//! Element-wise kernels for AVX2: eight lanes; what is left at the end is a masked vector.

use std::arch::x86_64::*;

use super::hadamard_avx2::hadamard;
use super::{Elem, GELU_A, GELU_B, exp};

pub(super) const ELEM: Elem =
    Elem { rms_norm, silu_mul, gelu_mul, add, rope_norm, rope_neox, hadamard };

/// Lanes of a vector.
const LANES: usize = 8;

/// The lanes below `n`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(in crate::kernel) fn lanes(n: usize) -> __m256i {
    _mm256_cmpgt_epi32(_mm256_set1_epi32(n as i32), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7))
}

/// Up to eight elements from `at` on, and zeros.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(in crate::kernel) fn load(x: &[f32], at: usize) -> __m256 {
    let x = &x[at..];
    // SAFETY: all eight are there, or those that are not are masked.
    unsafe {
        if x.len() >= LANES {
            _mm256_loadu_ps(x.as_ptr())
        } else {
            _mm256_maskload_ps(x.as_ptr(), lanes(x.len()))
        }
    }
}

/// Writes up to eight elements from `at` on.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(in crate::kernel) fn store(x: &mut [f32], at: usize, value: __m256) {
    let x = &mut x[at..];
    // SAFETY: all eight are there, or those that are not are masked.
    unsafe {
        if x.len() >= LANES {
            _mm256_storeu_ps(x.as_mut_ptr(), value);
        } else {
            _mm256_maskstore_ps(x.as_mut_ptr(), lanes(x.len()), value);
        }
    }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(in crate::kernel) fn sum(x: __m256) -> f32 {
    let x = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps::<1>(x));
    let x = _mm_add_ps(x, _mm_movehl_ps(x, x));
    _mm_cvtss_f32(_mm_add_ss(x, _mm_movehdup_ps(x)))
}

/// See [`super::exp`]. NaN stays NaN: it is the second operand of the clamps.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(in crate::kernel) fn exp(x: __m256) -> __m256 {
    let x = _mm256_min_ps(_mm256_set1_ps(exp::MAX), x);
    let x = _mm256_max_ps(_mm256_set1_ps(exp::MIN), x);
    let n = _mm256_mul_ps(x, _mm256_set1_ps(exp::LOG2_E));
    let n = _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(n);
    let r = _mm256_fnmadd_ps(n, _mm256_set1_ps(exp::LN2_HIGH), x);
    let r = _mm256_fnmadd_ps(n, _mm256_set1_ps(exp::LN2_LOW), r);
    let mut p = _mm256_set1_ps(exp::C[4]);
    for c in [exp::C[3], exp::C[2], exp::C[1], exp::C[0]] {
        p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(c));
    }
    let p = _mm256_fmadd_ps(p, _mm256_mul_ps(r, r), r);
    let p = _mm256_add_ps(p, _mm256_set1_ps(1.0));
    let n = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
    _mm256_mul_ps(p, _mm256_castsi256_ps(_mm256_slli_epi32::<23>(n)))
}

/// Four sums of squares, since one would wait for itself.
#[target_feature(enable = "avx2,fma,f16c")]
fn rms_norm(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    let mut squares = [_mm256_setzero_ps(); 4];
    let (fours, rest) = x.as_chunks::<{ 4 * LANES }>();
    for four in fours {
        for (i, sum) in squares.iter_mut().enumerate() {
            let x = load(four, i * LANES);
            *sum = _mm256_fmadd_ps(x, x, *sum);
        }
    }
    for at in (0..rest.len()).step_by(LANES) {
        let x = load(rest, at);
        squares[0] = _mm256_fmadd_ps(x, x, squares[0]);
    }
    let [a, b, c, d] = squares;
    let squares = _mm256_add_ps(_mm256_add_ps(a, b), _mm256_add_ps(c, d));
    let mean = sum(squares) / x.len() as f32;
    let scale = _mm256_set1_ps(1.0 / (mean + eps).sqrt());
    for at in (0..x.len()).step_by(LANES) {
        let scaled = _mm256_mul_ps(load(x, at), scale);
        store(out, at, _mm256_mul_ps(scaled, load(weight, at)));
    }
}

/// `x / (1 + exp(-y)) * up`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn gated(x: __m256, y: __m256, up: __m256) -> __m256 {
    let one = _mm256_set1_ps(1.0);
    let power = exp(_mm256_sub_ps(_mm256_setzero_ps(), y));
    _mm256_mul_ps(_mm256_div_ps(x, _mm256_add_ps(one, power)), up)
}

#[target_feature(enable = "avx2,fma,f16c")]
fn silu_mul(gate: &mut [f32], up: &[f32]) {
    for at in (0..gate.len()).step_by(LANES) {
        let x = load(gate, at);
        store(gate, at, gated(x, x, load(up, at)));
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
fn gelu_mul(gate: &mut [f32], up: &[f32]) {
    let (a, b) = (_mm256_set1_ps(GELU_A), _mm256_set1_ps(GELU_B));
    for at in (0..gate.len()).step_by(LANES) {
        let x = load(gate, at);
        let y = _mm256_mul_ps(x, _mm256_fmadd_ps(b, _mm256_mul_ps(x, x), a));
        store(gate, at, gated(x, y, load(up, at)));
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
fn add(x: &mut [f32], y: &[f32]) {
    for at in (0..x.len()).step_by(LANES) {
        let sum = _mm256_add_ps(load(x, at), load(y, at));
        store(x, at, sum);
    }
}

/// Four pairs: `x * cos` and `swapped x * sin`, subtracted in even lanes and added in odd ones.
#[target_feature(enable = "avx2,fma,f16c")]
fn rope_norm(x: &mut [f32], cos: &[f32], sin: &[f32]) {
    let twice = _mm256_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3);
    let x = &mut x[..2 * cos.len()];
    for at in (0..x.len()).step_by(LANES) {
        let cos = _mm256_permutevar8x32_ps(load(cos, at / 2), twice);
        let sin = _mm256_permutevar8x32_ps(load(sin, at / 2), twice);
        let pairs = load(x, at);
        let swapped = _mm256_permute_ps::<0b10_11_00_01>(pairs);
        store(x, at, _mm256_fmaddsub_ps(pairs, cos, _mm256_mul_ps(swapped, sin)));
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
fn rope_neox(x: &mut [f32], cos: &[f32], sin: &[f32]) {
    let (low, high) = x.split_at_mut(cos.len());
    let high = &mut high[..cos.len()];
    for at in (0..cos.len()).step_by(LANES) {
        let (a, b) = (load(low, at), load(high, at));
        let (cos, sin) = (load(cos, at), load(sin, at));
        store(low, at, _mm256_fmsub_ps(a, cos, _mm256_mul_ps(b, sin)));
        store(high, at, _mm256_fmadd_ps(a, sin, _mm256_mul_ps(b, cos)));
    }
}
