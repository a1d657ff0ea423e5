//! Quantising for AVX2: a block is four vectors, and four blocks share what goes across vectors: their
//! maxima, divisions and sums. The codes are those of the scalar kernel.

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
    let n = x.len();
    for at in (0..n).step_by(4) {
        // The last four may begin before the others end: their codes are the same again.
        let at = at.min(n.saturating_sub(4));
        let places = (
            x[at..].first_chunk(),
            q[at..].first_chunk_mut(),
            d[at..].first_chunk_mut(),
            sum[at..].first_chunk_mut(),
        );
        if let (Some(x), Some(q), Some(d), Some(sum)) = places {
            four(x, q, d, sum);
        } else {
            few(x, q, d, sum);
        }
    }
}

/// Fewer than four blocks, among zeros.
#[inline(never)]
#[target_feature(enable = "avx2,fma,f16c")]
fn few(x: &[[f32; 32]], q: &mut [[i8; 32]], d: &mut [f32], sum: &mut [[i32; 2]]) {
    let (mut all, mut codes) = ([[0.0; ACTIVATION_BLOCK]; 4], [[0; ACTIVATION_BLOCK]; 4]);
    let (mut scales, mut sums) = ([0.0; 4], [[0; 2]; 4]);
    all[..x.len()].copy_from_slice(x);
    four(&all, &mut codes, &mut scales, &mut sums);
    q.copy_from_slice(&codes[..q.len()]);
    d.copy_from_slice(&scales[..d.len()]);
    sum.copy_from_slice(&sums[..sum.len()]);
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn four(x: &[[f32; 32]; 4], q: &mut [[i8; 32]; 4], d: &mut [f32; 4], sum: &mut [[i32; 2]; 4]) {
    let max = [magnitudes(&x[0]), magnitudes(&x[1]), magnitudes(&x[2]), magnitudes(&x[3])];
    let (scales, inverse) = scales(max);
    // SAFETY: four floats.
    unsafe { _mm_storeu_ps(d.as_mut_ptr(), scales) };

    let inverse = _mm256_set_m128(inverse, inverse);
    let fours = [
        codes(&x[0], _mm256_permute_ps::<0b00_00_00_00>(inverse), &mut q[0]),
        codes(&x[1], _mm256_permute_ps::<0b01_01_01_01>(inverse), &mut q[1]),
        codes(&x[2], _mm256_permute_ps::<0b10_10_10_10>(inverse), &mut q[2]),
        codes(&x[3], _mm256_permute_ps::<0b11_11_11_11>(inverse), &mut q[3]),
    ];
    let (ab, cd) = (_mm256_hadd_epi32(fours[0], fours[1]), _mm256_hadd_epi32(fours[2], fours[3]));
    // The first halves of the four blocks in one half of the vector, the second ones in the other.
    let sums = _mm256_hadd_epi32(ab, cd);
    let (first, second) = (_mm256_castsi256_si128(sums), _mm256_extracti128_si256::<1>(sums));
    let sum = sum.as_flattened_mut().as_mut_ptr();
    // SAFETY: eight integers.
    unsafe {
        _mm_storeu_si128(sum.cast(), _mm_unpacklo_epi32(first, second));
        _mm_storeu_si128(sum.add(4).cast(), _mm_unpackhi_epi32(first, second));
    }
}

/// The scales of four blocks, and what their codes are multiplied with, from their largest magnitudes
/// by lane; both 0 where the largest of all is so small that it has no inverse.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn scales([a, b, c, d]: [__m256i; 4]) -> (__m128, __m128) {
    // Pairs of lanes, then pairs of pairs: in each half of a vector one lane for each block.
    let ab = _mm256_max_epi32(_mm256_unpacklo_epi32(a, b), _mm256_unpackhi_epi32(a, b));
    let cd = _mm256_max_epi32(_mm256_unpacklo_epi32(c, d), _mm256_unpackhi_epi32(c, d));
    let max = _mm256_max_epi32(_mm256_unpacklo_epi64(ab, cd), _mm256_unpackhi_epi64(ab, cd));
    let max = _mm_max_epi32(_mm256_castsi256_si128(max), _mm256_extracti128_si256::<1>(max));
    let max = _mm_castsi128_ps(max);
    let inverse = _mm_div_ps(_mm_set1_ps(127.0), max);
    let infinite = _mm_cmpeq_ps(inverse, _mm_set1_ps(f32::INFINITY));
    let scales = _mm_div_ps(max, _mm_set1_ps(127.0));
    (_mm_andnot_ps(infinite, scales), _mm_andnot_ps(infinite, inverse))
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn load(x: &[f32; 32]) -> [__m256; 4] {
    // SAFETY: four times eight of 32 floats.
    [0, 8, 16, 24].map(|at| unsafe { _mm256_loadu_ps(x.as_ptr().add(at)) })
}

/// The largest magnitudes of a block, by lane.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn magnitudes(x: &[f32; 32]) -> __m256i {
    let sign = _mm256_set1_ps(-0.0);
    let m = load(x).map(|x| _mm256_castps_si256(_mm256_andnot_ps(sign, x)));
    _mm256_max_epi32(_mm256_max_epi32(m[0], m[1]), _mm256_max_epi32(m[2], m[3]))
}

/// The codes of a block; returns sums of four each.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn codes(x: &[f32; 32], inverse: __m256, q: &mut [i8; 32]) -> __m256i {
    let sign = _mm256_set1_ps(-0.0);
    let x = load(x).map(|x| {
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
    _mm256_madd_epi16(pairs, _mm256_set1_epi16(1))
}
