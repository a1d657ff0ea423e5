//! Keys and values in 8 bits for AVX2: two vectors to a group of columns, products of four codes by
//! `vpmaddubsw` and `vpmaddwd`. Of the former's operands one is unsigned: weights are, and a key gives
//! its sign to the query. Codes are at most 127, so that two products fit into 16 bits.

#![allow(clippy::needless_range_loop, reason = "several arrays are walked together")]

use std::arch::x86_64::*;
use std::array::from_fn;

use super::q8::{
    Attend8, KV_BLOCK, KV_QUAD, Keys8, PLANE_BITS, Queries8, TO_INTEGER, Values8, largest,
    scale_of, to_planes, weigh_rows,
};
use super::{GROUP, each_rows};

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
        let of_row: [usize; R] = from_fn(|r| row.wrapping_add(r).wrapping_mul(q.n_blocks));
        let codes = q.codes.as_ptr().cast::<u8>();
        let mut codes: [_; R] = from_fn(|r| codes.add(of_row[r].wrapping_mul(KV_BLOCK)));
        let mut keys = k.codes.as_ptr();
        keys = keys.add(group.wrapping_mul(k.n_quads).wrapping_mul(GROUP * KV_QUAD));
        let mut scales = k.scales.as_ptr().add(group.wrapping_mul(GROUP));
        let mut sums = [[_mm256_setzero_ps(); 2]; R];
        for b in 0..q.n_blocks {
            let mut dots = [[_mm256_setzero_si256(); 2]; R];
            for _ in b.wrapping_mul(8)..k.n_quads.min(b.wrapping_mul(8).wrapping_add(8)) {
                _mm_prefetch::<_MM_HINT_T0>(keys.wrapping_add(k.codes.len()));
                for half in 0..2usize {
                    let x = _mm256_loadu_si256(keys.cast());
                    let magnitudes = _mm256_abs_epi8(x);
                    for r in 0..R {
                        let q = quad(codes[r]);
                        let pairs = _mm256_maddubs_epi16(magnitudes, _mm256_sign_epi8(q, x));
                        let quads = _mm256_madd_epi16(pairs, ones);
                        dots[r][half] = _mm256_add_epi32(dots[r][half], quads);
                    }
                    keys = keys.add(LANES * KV_QUAD);
                }
                for codes in &mut codes {
                    *codes = codes.add(KV_QUAD);
                }
            }
            for half in 0..2usize {
                let scales = scales.add(half.wrapping_mul(LANES)).cast();
                let scales = _mm256_cvtph_ps(_mm_loadu_si128(scales));
                for r in 0..R {
                    let q = _mm256_set1_ps(*q.scales.as_ptr().add(of_row[r].wrapping_add(b)));
                    let scaled = _mm256_mul_ps(_mm256_cvtepi32_ps(dots[r][half]), scales);
                    sums[r][half] = _mm256_fmadd_ps(scaled, q, sums[r][half]);
                }
            }
            scales = scales.wrapping_add(k.scale_stride);
        }
        for r in 0..R {
            let out = out.add(r.wrapping_mul(out_stride));
            _mm256_storeu_ps(out, sums[r][0]);
            _mm256_storeu_ps(out.add(LANES), sums[r][1]);
        }
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
fn weigh(p: (&[f32], usize), d: &[u16], planes: (&mut [u8], usize), worth: &mut [f32]) {
    weigh_rows(p, d.len(), planes, worth, |p, high, low| weigh_row(p, d, high, low));
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn weigh_row(p: &[f32], d: &[u16], high: &mut [u8], low: &mut [u8]) -> f32 {
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
        let mut rows: [_; R] = from_fn(|r| weights.add(r.wrapping_mul(2).wrapping_mul(plane)));
        let mut codes = v.codes.as_ptr().add(group.wrapping_mul(GROUP * KV_QUAD));
        let mut sums = [[_mm256_setzero_si256(); 2]; R];
        for _ in 0..v.n_quads {
            _mm_prefetch::<_MM_HINT_T0>(codes.wrapping_add(v.codes.len()));
            let x = [
                _mm256_loadu_si256(codes.cast()),
                _mm256_loadu_si256(codes.add(LANES * KV_QUAD).cast()),
            ];
            for r in 0..R {
                let (upper, lower) = (quad(rows[r]), quad(rows[r].add(plane)));
                for half in 0..2usize {
                    let high = _mm256_madd_epi16(_mm256_maddubs_epi16(upper, x[half]), of_high);
                    let low = _mm256_madd_epi16(_mm256_maddubs_epi16(lower, x[half]), ones);
                    sums[r][half] = _mm256_add_epi32(sums[r][half], _mm256_add_epi32(high, low));
                }
                rows[r] = rows[r].add(KV_QUAD);
            }
            codes = codes.wrapping_add(v.n_groups.wrapping_mul(GROUP * KV_QUAD));
        }
        for r in 0..R {
            for half in 0..2usize {
                let out =
                    out.add(r.wrapping_mul(out_stride).wrapping_add(half.wrapping_mul(LANES)));
                let sum = _mm256_add_epi32(_mm256_loadu_si256(out.cast()), sums[r][half]);
                _mm256_storeu_si256(out.cast(), sum);
            }
        }
    }
}
