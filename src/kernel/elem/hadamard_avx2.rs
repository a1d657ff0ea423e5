//! The Walsh-Hadamard transform for AVX2: a span is 2, 4 or 8 vectors. See [`super::hadamard`].

use std::arch::x86_64::*;

use super::hadamard::factor;

/// Lanes of a vector.
const LANES: usize = 8;

#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn hadamard(x: &mut [f32], span: usize) {
    match span {
        16 => spans::<2>(x),
        32 => spans::<4>(x),
        _ => spans::<8>(x),
    }
}

/// Spans of `N` vectors.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn spans<const N: usize>(x: &mut [f32]) {
    let factor = _mm256_set1_ps(factor(N * LANES));
    for span in x.chunks_exact_mut(N * LANES) {
        let parts = span.as_chunks_mut::<LANES>().0;
        let mut v = [_mm256_setzero_ps(); N];
        for (v, part) in v.iter_mut().zip(parts.iter()) {
            // SAFETY: a part is 8 long.
            *v = within(unsafe { _mm256_loadu_ps(part.as_ptr()) });
        }
        let mut stride = 1;
        while stride < N {
            for i in (0..N).filter(|i| i & stride == 0) {
                let (a, b) = (v[i], v[i + stride]);
                (v[i], v[i + stride]) = (_mm256_add_ps(a, b), _mm256_sub_ps(a, b));
            }
            stride *= 2;
        }
        for (v, part) in v.iter().zip(parts) {
            // SAFETY: a part is 8 long.
            unsafe { _mm256_storeu_ps(part.as_mut_ptr(), _mm256_mul_ps(*v, factor)) };
        }
    }
}

/// The strides 1, 2 and 4.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn within(x: __m256) -> __m256 {
    // The first of a pair adds its other, the second is taken from it.
    let other = _mm256_permute_ps::<0b10_11_00_01>(x);
    let x = _mm256_blend_ps::<0b1010_1010>(_mm256_add_ps(x, other), _mm256_sub_ps(other, x));
    let other = _mm256_permute_ps::<0b01_00_11_10>(x);
    let x = _mm256_blend_ps::<0b1100_1100>(_mm256_add_ps(x, other), _mm256_sub_ps(other, x));
    let other = _mm256_permute2f128_ps::<1>(x, x);
    _mm256_blend_ps::<0b1111_0000>(_mm256_add_ps(x, other), _mm256_sub_ps(other, x))
}
