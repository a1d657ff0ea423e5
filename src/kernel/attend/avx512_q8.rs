//! Keys and values in 8 bits for AVX-512: `vpdpbusd` multiplies the four codes of 16 columns.
//!
//! One of its operands is unsigned. Weights are; to keys 128 is added, and taken off again as 128
//! times the sum of the query's codes.

use std::arch::x86_64::*;

use super::q8::{
    Attend8, KV_BLOCK, KV_QUAD, Keys8, PLANE_BITS, Queries8, TO_INTEGER, Values8, largest,
    scale_of, to_planes,
};
use super::{AHEAD_BYTES, GROUP, each_rows};

pub(super) const ATTEND8: Attend8 = Attend8 { scores, weigh, mix };

/// Four bytes, in all lanes.
///
/// # Safety
/// They are there, and the CPU has this rung.
#[inline(always)]
unsafe fn quad(x: *const u8) -> __m512i {
    // SAFETY: the caller's promise; any alignment will do.
    unsafe { _mm512_set1_epi32(x.cast::<i32>().read_unaligned()) }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
fn scores(q: &Queries8<'_>, k: &Keys8<'_>, (out, out_stride): (&mut [f32], usize)) {
    let most = if q.n <= 3 { 3 } else { 6 };
    let mut group = 0;
    while group < k.n_groups {
        let n_groups = match k.n_groups - group {
            4.. if most == 3 => 4,
            2.. => 2,
            _ => 1,
        };
        each_rows(q.n, most, |row, n| {
            let tile = match (n, n_groups) {
                (1, 4) => scores_tile::<1, 4>,
                (2, 4) => scores_tile::<2, 4>,
                (3, 4) => scores_tile::<3, 4>,
                (1, 2) => scores_tile::<1, 2>,
                (2, 2) => scores_tile::<2, 2>,
                (3, 2) => scores_tile::<3, 2>,
                (4, 2) => scores_tile::<4, 2>,
                (5, 2) => scores_tile::<5, 2>,
                (6, 2) => scores_tile::<6, 2>,
                (1, _) => scores_tile::<1, 1>,
                (2, _) => scores_tile::<2, 1>,
                (3, _) => scores_tile::<3, 1>,
                (4, _) => scores_tile::<4, 1>,
                (5, _) => scores_tile::<5, 1>,
                _ => scores_tile::<6, 1>,
            };
            // SAFETY: the caller of a kernel has checked that rows and groups lie in the slices.
            unsafe {
                let out = out.as_mut_ptr().add(row * out_stride + group * GROUP);
                tile(q, row, k, group, (out, out_stride));
            }
        });
        group += n_groups;
    }
}

/// `R` rows of queries from `row` on by `G` groups of keys from `group` on.
///
/// # Safety
/// There are that many, and room for the scores at `out`.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
unsafe fn scores_tile<const R: usize, const G: usize>(
    q: &Queries8<'_>,
    row: usize,
    k: &Keys8<'_>,
    group: usize,
    (out, out_stride): (*mut f32, usize),
) {
    let bias = _mm512_set1_epi8(-128);
    let group_len = k.n_quads * GROUP * KV_QUAD;
    // SAFETY: the caller's promise.
    unsafe {
        let codes = q.codes.as_ptr().add(row * q.n_blocks * KV_BLOCK).cast::<u8>();
        let keys = k.codes.as_ptr().add(group * group_len);
        let mut sums = [[_mm512_setzero_ps(); G]; R];
        for b in 0..k.n_quads.div_ceil(8) {
            let mut dots = [[_mm512_setzero_si512(); G]; R];
            for (r, dots) in dots.iter_mut().enumerate() {
                let sums = q.sums.as_ptr().add(2 * ((row + r) * q.n_blocks + b));
                *dots = [_mm512_set1_epi32(-128 * (*sums + *sums.add(1))); G];
            }
            for quads in 8 * b..k.n_quads.min(8 * b + 8) {
                for g in 0..G {
                    let keys = keys.add(g * group_len + quads * GROUP * KV_QUAD);
                    _mm_prefetch::<_MM_HINT_T0>(keys.wrapping_add(AHEAD_BYTES));
                    let keys = _mm512_xor_si512(_mm512_loadu_si512(keys.cast()), bias);
                    for (r, dots) in dots.iter_mut().enumerate() {
                        let q = quad(codes.add(r * q.n_blocks * KV_BLOCK + quads * KV_QUAD));
                        dots[g] = _mm512_dpbusd_epi32(dots[g], keys, q);
                    }
                }
            }
            for g in 0..G {
                let scales = k.scales.as_ptr().add(b * k.scale_stride + (group + g) * GROUP);
                let scales = _mm512_cvtph_ps(_mm256_loadu_si256(scales.cast()));
                for (r, sums) in sums.iter_mut().enumerate() {
                    let q = _mm512_set1_ps(*q.scales.as_ptr().add((row + r) * q.n_blocks + b));
                    let scaled = _mm512_mul_ps(_mm512_cvtepi32_ps(dots[r][g]), scales);
                    sums[g] = _mm512_fmadd_ps(scaled, q, sums[g]);
                }
            }
        }
        for (r, sums) in sums.iter().enumerate() {
            for (g, sums) in sums.iter().enumerate() {
                _mm512_storeu_ps(out.add(r * out_stride + g * GROUP), *sums);
            }
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
fn weigh(p: &[f32], d: &[u16], high: &mut [u8], low: &mut [u8]) -> f32 {
    let whole = p.len() / GROUP * GROUP;
    // SAFETY: the slices are of one length, and 16 elements lie there.
    let product = |at: usize| unsafe {
        let d = _mm512_cvtph_ps(_mm256_loadu_si256(d.as_ptr().add(at).cast()));
        _mm512_mul_ps(_mm512_loadu_ps(p.as_ptr().add(at)), d)
    };
    let magnitudes = _mm512_set1_epi32(i32::MAX);
    let mut max = _mm512_setzero_si512();
    for at in (0..whole).step_by(GROUP) {
        let bits = _mm512_and_si512(_mm512_castps_si512(product(at)), magnitudes);
        max = _mm512_max_epu32(max, bits);
    }
    let max = _mm512_reduce_max_epu32(max).max(largest(&p[whole..], &d[whole..]));
    let (inverse, scale) = scale_of(f32::from_bits(max));
    let (inverses, to_integer) = (_mm512_set1_ps(inverse), _mm512_set1_ps(TO_INTEGER));
    let plane = _mm_set1_epi8(127);
    for at in (0..whole).step_by(GROUP) {
        let code = _mm512_add_ps(_mm512_mul_ps(product(at), inverses), to_integer);
        let code = _mm512_castps_si512(code);
        let upper = _mm512_cvtepi32_epi8(_mm512_srli_epi32::<PLANE_BITS>(code));
        let lower = _mm512_cvtepi32_epi8(code);
        // SAFETY: 16 bytes lie there.
        unsafe {
            _mm_storeu_si128(high.as_mut_ptr().add(at).cast(), _mm_and_si128(upper, plane));
            _mm_storeu_si128(low.as_mut_ptr().add(at).cast(), _mm_and_si128(lower, plane));
        }
    }
    to_planes(&p[whole..], &d[whole..], inverse, &mut high[whole..], &mut low[whole..]);
    scale
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
fn mix(
    n: usize,
    (weights, plane): (&[u8], usize),
    v: &Values8<'_>,
    (out, out_stride): (&mut [i32], usize),
) {
    each_rows(n, 6, |row, n| {
        let tile = match (n, v.n_groups) {
            (1, 2) => mix_tile::<1, 2>,
            (2, 2) => mix_tile::<2, 2>,
            (3, 2) => mix_tile::<3, 2>,
            (4, 2) => mix_tile::<4, 2>,
            (5, 2) => mix_tile::<5, 2>,
            (6, 2) => mix_tile::<6, 2>,
            (1, _) => mix_tile::<1, 1>,
            (2, _) => mix_tile::<2, 1>,
            (3, _) => mix_tile::<3, 1>,
            (4, _) => mix_tile::<4, 1>,
            (5, _) => mix_tile::<5, 1>,
            _ => mix_tile::<6, 1>,
        };
        // SAFETY: the caller of a kernel has checked that rows and quads lie in the slices.
        unsafe {
            let weights = weights.as_ptr().add(2 * row * plane);
            tile((weights, plane), v, (out.as_mut_ptr().add(row * out_stride), out_stride));
        }
    });
}

/// `R` rows of sums over all quads of the values.
///
/// # Safety
/// There are that many rows of weights and of sums, and the values have `G` groups.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
unsafe fn mix_tile<const R: usize, const G: usize>(
    (weights, plane): (*const u8, usize),
    v: &Values8<'_>,
    (out, out_stride): (*mut i32, usize),
) {
    // SAFETY: the caller's promise.
    unsafe {
        let mut high = [[_mm512_setzero_si512(); G]; R];
        let mut low = high;
        for i in 0..v.n_quads {
            let codes = v.codes.as_ptr().add(i * G * GROUP * KV_QUAD);
            let codes: [__m512i; G] = std::array::from_fn(|g| {
                let codes = codes.add(g * GROUP * KV_QUAD);
                _mm_prefetch::<_MM_HINT_T0>(codes.wrapping_add(AHEAD_BYTES));
                _mm512_loadu_si512(codes.cast())
            });
            for r in 0..R {
                let weights = weights.add(2 * r * plane + i * KV_QUAD);
                let (upper, lower) = (quad(weights), quad(weights.add(plane)));
                for g in 0..G {
                    high[r][g] = _mm512_dpbusd_epi32(high[r][g], upper, codes[g]);
                    low[r][g] = _mm512_dpbusd_epi32(low[r][g], lower, codes[g]);
                }
            }
        }
        for (r, (high, low)) in high.iter().zip(&low).enumerate() {
            for (g, (high, low)) in high.iter().zip(low).enumerate() {
                let out = out.add(r * out_stride + g * GROUP);
                let sum = _mm512_add_epi32(_mm512_slli_epi32::<PLANE_BITS>(*high), *low);
                let sum = _mm512_add_epi32(_mm512_loadu_si512(out.cast()), sum);
                _mm512_storeu_si512(out.cast(), sum);
            }
        }
    }
}
