//! Quantising for AVX2: a block is four vectors. The codes are those of the scalar kernel.

use std::arch::x86_64::*;

use crate::kernel::ACTIVATION_BLOCK;

/// ```text
/// max    as integers: magnitudes compare alike, and a NaN is the largest
/// round  trunc(x + copysign(h, x)), with h the float below 1/2: a half goes away from zero, and
///        what is below it does not
/// ```
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn quantize(x: &[f32], q: &mut [i8], d: &mut [f32], sum: &mut [i32]) {
    let x = x.as_chunks::<ACTIVATION_BLOCK>().0;
    let q = q.as_chunks_mut::<ACTIVATION_BLOCK>().0;
    let sum = sum.as_chunks_mut::<2>().0;
    for ((x, q), (d, sum)) in x.iter().zip(q).zip(d.iter_mut().zip(sum)) {
        block(x, q, d, sum);
    }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn block(x: &[f32; 32], q: &mut [i8; 32], d: &mut f32, sum: &mut [i32; 2]) {
    // SAFETY: four times eight of 32 floats.
    let x = [0, 8, 16, 24].map(|at| unsafe { _mm256_loadu_ps(x.as_ptr().add(at)) });
    let sign = _mm256_set1_ps(-0.0);
    let m = x.map(|x| _mm256_castps_si256(_mm256_andnot_ps(sign, x)));
    let m = _mm256_max_epi32(_mm256_max_epi32(m[0], m[1]), _mm256_max_epi32(m[2], m[3]));
    let m = _mm_max_epi32(_mm256_castsi256_si128(m), _mm256_extracti128_si256::<1>(m));
    let m = _mm_max_epi32(m, _mm_shuffle_epi32::<0b01_00_11_10>(m));
    let m = _mm_max_epi32(m, _mm_shuffle_epi32::<0b10_11_00_01>(m));
    let max = f32::from_bits(_mm_cvtsi128_si32(m) as u32);
    let inverse = 127.0 / max;
    let (scale, inverse) = if inverse.is_infinite() { (0.0, 0.0) } else { (max / 127.0, inverse) };
    *d = scale;
    let inverse = _mm256_set1_ps(inverse);
    let x = x.map(|x| {
        let x = _mm256_mul_ps(x, inverse);
        let half = _mm256_or_ps(_mm256_and_ps(sign, x), _mm256_set1_ps(0.5f32.next_down()));
        _mm256_cvttps_epi32(_mm256_add_ps(x, half))
    });
    // Packing works in each half of a vector: the fours of codes come out as 0 2 4 6 1 3 5 7.
    let low = _mm256_packs_epi32(x[0], x[1]);
    let high = _mm256_packs_epi32(x[2], x[3]);
    let codes = _mm256_packs_epi16(low, high);
    let codes = _mm256_permutevar8x32_epi32(codes, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
    // SAFETY: 32 bytes of `q` are written.
    unsafe { _mm256_storeu_si256(q.as_mut_ptr().cast(), codes) };
    let pairs = _mm256_maddubs_epi16(_mm256_set1_epi8(1), codes);
    let fours = _mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
    let eights = _mm256_hadd_epi32(fours, fours);
    let sums = _mm256_hadd_epi32(eights, eights);
    *sum = [_mm256_extract_epi32::<0>(sums), _mm256_extract_epi32::<4>(sums)];
}
