//! Keys and values in 8 bits for AVX2: two vectors to a group of columns, products of four codes by
//! `vpmaddubsw` and `vpmaddwd`. Of the former's operands one is unsigned: weights are, and a key gives
//! its sign to the query. Codes are at most 127, so that two products fit into 16 bits.

use std::arch::x86_64::*;

use super::q8::{
    Attend8, KV_BLOCK, KV_QUAD, Keys8, PLANE_BITS, Queries8, TO_INTEGER, Values8, largest,
    scale_of, to_planes,
};
use super::{AHEAD_BYTES, GROUP, each_rows};

pub(super) const ATTEND8: Attend8 = Attend8 { scores, weigh, mix };

/// Lanes of a vector.
const LANES: usize = 8;

/// Four bytes, in all lanes.
///
/// # Safety
/// They are there, and the CPU has this rung.
#[inline(always)]
unsafe fn quad(x: *const u8) -> __m256i {
    // SAFETY: the caller's promise; any alignment will do.
    unsafe { _mm256_set1_epi32(x.cast::<i32>().read_unaligned()) }
}

#[target_feature(enable = "avx2,fma,f16c")]
fn scores(q: &Queries8<'_>, k: &Keys8<'_>, (out, out_stride): (&mut [f32], usize)) {
    for group in 0..k.n_groups {
        each_rows(q.n, 3, |row, n| {
            let tile = match n {
                1 => scores_tile::<1>,
                2 => scores_tile::<2>,
                _ => scores_tile::<3>,
            };
            // SAFETY: the caller of a kernel has checked that rows and groups lie in the slices.
            unsafe {
                let out = out.as_mut_ptr().add(row * out_stride + group * GROUP);
                tile(q, row, k, group, (out, out_stride));
            }
        });
    }
}

/// `R` rows of queries from `row` on by one group of keys.
///
/// # Safety
/// There are that many, and room for the scores at `out`.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn scores_tile<const R: usize>(
    q: &Queries8<'_>,
    row: usize,
    k: &Keys8<'_>,
    group: usize,
    (out, out_stride): (*mut f32, usize),
) {
    let ones = _mm256_set1_epi16(1);
    // SAFETY: the caller's promise.
    unsafe {
        let codes = q.codes.as_ptr().add(row * q.n_blocks * KV_BLOCK).cast::<u8>();
        let keys = k.codes.as_ptr().add(group * k.n_quads * GROUP * KV_QUAD);
        for b in 0..k.n_quads.div_ceil(8) {
            let mut dots = [[_mm256_setzero_si256(); 2]; R];
            for quads in 8 * b..k.n_quads.min(8 * b + 8) {
                let keys = keys.add(quads * GROUP * KV_QUAD);
                _mm_prefetch::<_MM_HINT_T0>(keys.wrapping_add(AHEAD_BYTES));
                for half in 0..2 {
                    let keys = _mm256_loadu_si256(keys.add(half * LANES * KV_QUAD).cast());
                    let magnitudes = _mm256_abs_epi8(keys);
                    for (r, dots) in dots.iter_mut().enumerate() {
                        let q = quad(codes.add(r * q.n_blocks * KV_BLOCK + quads * KV_QUAD));
                        let pairs = _mm256_maddubs_epi16(magnitudes, _mm256_sign_epi8(q, keys));
                        let quads = _mm256_madd_epi16(pairs, ones);
                        dots[half] = _mm256_add_epi32(dots[half], quads);
                    }
                }
            }
            for half in 0..2 {
                let at = b * k.scale_stride + group * GROUP + half * LANES;
                let scales = _mm256_cvtph_ps(_mm_loadu_si128(k.scales.as_ptr().add(at).cast()));
                for (r, dots) in dots.iter().enumerate() {
                    let out = out.add(r * out_stride + half * LANES);
                    let before = if b == 0 { _mm256_setzero_ps() } else { _mm256_loadu_ps(out) };
                    let q = _mm256_set1_ps(*q.scales.as_ptr().add((row + r) * q.n_blocks + b));
                    let scaled = _mm256_mul_ps(_mm256_cvtepi32_ps(dots[half]), scales);
                    _mm256_storeu_ps(out, _mm256_fmadd_ps(scaled, q, before));
                }
            }
        }
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
fn weigh(p: &[f32], d: &[u16], high: &mut [u8], low: &mut [u8]) -> f32 {
    let whole = p.len() / LANES * LANES;
    // SAFETY: the slices are of one length, and 8 elements lie there.
    let product = |at: usize| unsafe {
        let d = _mm256_cvtph_ps(_mm_loadu_si128(d.as_ptr().add(at).cast()));
        _mm256_mul_ps(_mm256_loadu_ps(p.as_ptr().add(at)), d)
    };
    let magnitudes = _mm256_set1_epi32(i32::MAX);
    let mut max = _mm256_setzero_si256();
    for at in (0..whole).step_by(LANES) {
        let bits = _mm256_and_si256(_mm256_castps_si256(product(at)), magnitudes);
        max = _mm256_max_epu32(max, bits);
    }
    let mut lanes = [0u32; LANES];
    // SAFETY: 32 bytes are written, of any alignment.
    unsafe { _mm256_storeu_si256(lanes.as_mut_ptr().cast(), max) };
    let max = lanes.into_iter().fold(largest(&p[whole..], &d[whole..]), u32::max);
    let (inverse, scale) = scale_of(f32::from_bits(max));
    let (inverses, to_integer) = (_mm256_set1_ps(inverse), _mm256_set1_ps(TO_INTEGER));
    let plane = _mm256_set1_epi32(127);
    let bytes = |x: __m256i| {
        let words = _mm_packus_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256::<1>(x));
        _mm_packus_epi16(words, words)
    };
    for at in (0..whole).step_by(LANES) {
        let code = _mm256_add_ps(_mm256_mul_ps(product(at), inverses), to_integer);
        let code = _mm256_castps_si256(code);
        let upper = _mm256_srli_epi32::<{ PLANE_BITS as i32 }>(code);
        // SAFETY: 8 bytes lie there.
        unsafe {
            let (high, low) = (high.as_mut_ptr().add(at), low.as_mut_ptr().add(at));
            _mm_storel_epi64(high.cast(), bytes(_mm256_and_si256(upper, plane)));
            _mm_storel_epi64(low.cast(), bytes(_mm256_and_si256(code, plane)));
        }
    }
    to_planes(&p[whole..], &d[whole..], inverse, &mut high[whole..], &mut low[whole..]);
    scale
}

#[target_feature(enable = "avx2,fma,f16c")]
fn mix(
    n: usize,
    (weights, plane): (&[u8], usize),
    v: &Values8<'_>,
    (out, out_stride): (&mut [i32], usize),
) {
    for group in 0..v.n_groups {
        each_rows(n, 3, |row, n| {
            let tile = match n {
                1 => mix_tile::<1>,
                2 => mix_tile::<2>,
                _ => mix_tile::<3>,
            };
            // SAFETY: the caller of a kernel has checked that rows and quads lie in the slices.
            unsafe {
                let weights = weights.as_ptr().add(2 * row * plane);
                let out = out.as_mut_ptr().add(row * out_stride + group * GROUP);
                tile((weights, plane), v, group, (out, out_stride));
            }
        });
    }
}

/// `R` rows of sums over all quads of one group of the values.
///
/// # Safety
/// There are that many rows of weights and of sums.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn mix_tile<const R: usize>(
    (weights, plane): (*const u8, usize),
    v: &Values8<'_>,
    group: usize,
    (out, out_stride): (*mut i32, usize),
) {
    let (ones, of_high) = (_mm256_set1_epi16(1), _mm256_set1_epi16(1 << PLANE_BITS));
    // SAFETY: the caller's promise.
    unsafe {
        let mut sums = [[_mm256_setzero_si256(); 2]; R];
        for i in 0..v.n_quads {
            let codes = v.codes.as_ptr().add((i * v.n_groups + group) * GROUP * KV_QUAD);
            _mm_prefetch::<_MM_HINT_T0>(codes.wrapping_add(AHEAD_BYTES));
            let codes = [
                _mm256_loadu_si256(codes.cast()),
                _mm256_loadu_si256(codes.add(LANES * KV_QUAD).cast()),
            ];
            for (r, sums) in sums.iter_mut().enumerate() {
                let weights = weights.add(2 * r * plane + i * KV_QUAD);
                let (upper, lower) = (quad(weights), quad(weights.add(plane)));
                for (sum, codes) in sums.iter_mut().zip(codes) {
                    let high = _mm256_madd_epi16(_mm256_maddubs_epi16(upper, codes), of_high);
                    let low = _mm256_madd_epi16(_mm256_maddubs_epi16(lower, codes), ones);
                    *sum = _mm256_add_epi32(*sum, _mm256_add_epi32(high, low));
                }
            }
        }
        for (r, sums) in sums.iter().enumerate() {
            for (half, sum) in sums.iter().enumerate() {
                let out = out.add(r * out_stride + half * LANES);
                let sum = _mm256_add_epi32(_mm256_loadu_si256(out.cast()), *sum);
                _mm256_storeu_si256(out.cast(), sum);
            }
        }
    }
}
