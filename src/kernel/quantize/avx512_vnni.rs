//! Quantising for AVX-512: a block is two vectors, and four blocks share what goes across vectors. The
//! codes are those of the scalar kernel; AVX2's says how they are rounded.

use std::arch::x86_64::*;

use super::avx2;
use crate::kernel::ACTIVATION_BLOCK;

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
pub(super) fn quantize(x: &[f32], q: &mut [i8], d: &mut [f32], sum: &mut [i32]) {
    let blocks = x.as_chunks::<ACTIVATION_BLOCK>().0;
    let n = blocks.len();
    if n < 4 {
        return avx2::quantize(x, q, d, sum);
    }
    let q = q.as_chunks_mut::<ACTIVATION_BLOCK>().0;
    let sum = sum.as_chunks_mut::<2>().0;
    for at in (0..n).step_by(4) {
        // The last four may begin before the others end: their codes are the same again.
        let at = at.min(n - 4);
        let (x, q) = (&blocks[at..at + 4], &mut q[at..at + 4]);
        four(x.as_flattened(), q.as_flattened_mut(), &mut d[at..at + 4], &mut sum[at..at + 4]);
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
fn four(x: &[f32], q: &mut [i8], d: &mut [f32], sum: &mut [[i32; 2]]) {
    assert!(x.len() == 128 && q.len() == 128 && d.len() == 4 && sum.len() == 4);
    let mut v = [_mm512_setzero_ps(); 8];
    for (i, v) in v.iter_mut().enumerate() {
        // SAFETY: eight times sixteen of 128 floats.
        *v = unsafe { _mm512_loadu_ps(x.as_ptr().add(16 * i)) };
    }
    let max = [largest(v[0], v[1]), largest(v[2], v[3]), largest(v[4], v[5]), largest(v[6], v[7])];
    let (scales, inverse) = avx2::scales(max);
    // SAFETY: four floats.
    unsafe { _mm_storeu_ps(d.as_mut_ptr(), scales) };

    let all = _mm512_broadcast_f32x4(inverse);
    let inverse = [
        _mm512_permute_ps::<0b00_00_00_00>(all),
        _mm512_permute_ps::<0b01_01_01_01>(all),
        _mm512_permute_ps::<0b10_10_10_10>(all),
        _mm512_permute_ps::<0b11_11_11_11>(all),
    ];
    let mut sums = [_mm512_setzero_si512(); 2];
    for pair in 0..2 {
        let i = 4 * pair;
        let (first, second) = (inverse[2 * pair], inverse[2 * pair + 1]);
        let low = _mm512_packs_epi32(code(v[i], first), code(v[i + 1], first));
        let high = _mm512_packs_epi32(code(v[i + 2], second), code(v[i + 3], second));
        // Packing works in each quarter of a vector: in quarter p come out the p-th fours of codes of
        // the first block's two vectors, then of the second one's.
        let order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
        let codes = _mm512_permutexvar_epi32(order, _mm512_packs_epi16(low, high));
        // SAFETY: 64 bytes, twice, of 128.
        unsafe { _mm512_storeu_si512(q.as_mut_ptr().add(64 * pair).cast(), codes) };
        let ones = _mm512_set1_epi8(1);
        let fours = _mm512_dpbusd_epi32(_mm512_setzero_si512(), ones, codes);
        let eights = _mm512_add_epi32(fours, _mm512_shuffle_epi32::<0b10_11_00_01>(fours));
        sums[pair] = _mm512_add_epi32(eights, _mm512_shuffle_epi32::<0b01_00_11_10>(eights));
    }
    // Each quarter has the sum of its sixteen codes in all lanes.
    let order = _mm512_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28, 0, 0, 0, 0, 0, 0, 0, 0);
    let sums = _mm512_castsi512_si256(_mm512_permutex2var_epi32(sums[0], order, sums[1]));
    // SAFETY: eight integers.
    unsafe { _mm256_storeu_si256(sum.as_flattened_mut().as_mut_ptr().cast(), sums) };
}

/// The largest magnitudes of a block, as integers: they compare alike, and a NaN is the largest.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
fn largest(x: __m512, y: __m512) -> __m256i {
    let magnitude = _mm512_set1_epi32(i32::MAX);
    let x = _mm512_and_si512(_mm512_castps_si512(x), magnitude);
    let y = _mm512_and_si512(_mm512_castps_si512(y), magnitude);
    let max = _mm512_max_epi32(x, y);
    _mm256_max_epi32(_mm512_castsi512_si256(max), _mm512_extracti64x4_epi64::<1>(max))
}

/// Rounds to the nearest code, a half away from zero.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
fn code(x: __m512, inverse: __m512) -> __m512i {
    let x = _mm512_mul_ps(x, inverse);
    let half = _mm512_castps_si512(_mm512_set1_ps(0.5f32.next_down()));
    let sign = _mm512_castps_si512(_mm512_set1_ps(-0.0));
    // (x & sign) | half
    let half = _mm512_ternarylogic_epi32::<0b1111_1000>(half, _mm512_castps_si512(x), sign);
    _mm512_cvttps_epi32(_mm512_add_ps(x, _mm512_castsi512_ps(half)))
}
