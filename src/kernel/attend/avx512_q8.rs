//! Keys and values in 8 bits for AVX-512: `vpdpbusd` multiplies the four codes of 16 columns.
//!
//! One of its operands is unsigned. Weights are; to keys 128 is added, and taken off again as 128
//! times the sum of the query's codes.
//!
//! Places are counted with sums that wrap. One that is checked is a way out of the loop, for which all
//! sums are kept in memory: that took as long as the products.

#![allow(clippy::needless_range_loop, reason = "several arrays are walked together")]

use std::arch::x86_64::*;
use std::array::from_fn;

use super::q8::{
    Attend8, KV_BLOCK, KV_QUAD, Keys8, MOST, PLANE_BITS, Queries8, TO_INTEGER, Values8, scale_of,
};
use super::{GROUP, each_rows};

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
    let group_len = k.n_quads.wrapping_mul(GROUP * KV_QUAD);
    // SAFETY: the caller's promise.
    unsafe {
        let of_row: [usize; R] = from_fn(|r| row.wrapping_add(r).wrapping_mul(q.n_blocks));
        let codes = q.codes.as_ptr().cast::<u8>();
        let mut codes: [_; R] = from_fn(|r| codes.add(of_row[r].wrapping_mul(KV_BLOCK)));
        let keys = k.codes.as_ptr().add(group.wrapping_mul(group_len));
        let mut keys: [_; G] = from_fn(|g| keys.add(g.wrapping_mul(group_len)));
        let mut scales = k.scales.as_ptr().add(group.wrapping_mul(GROUP));
        let mut sums = [[_mm512_setzero_ps(); G]; R];
        for b in 0..q.n_blocks {
            let mut dots = [[_mm512_setzero_si512(); G]; R];
            for r in 0..R {
                let sums = q.sums.as_ptr().add(of_row[r].wrapping_add(b).wrapping_mul(2));
                let bias = (*sums).wrapping_add(*sums.add(1)).wrapping_mul(-128);
                dots[r] = [_mm512_set1_epi32(bias); G];
            }
            for _ in b.wrapping_mul(8)..k.n_quads.min(b.wrapping_mul(8).wrapping_add(8)) {
                let each: [_; R] = from_fn(|r| quad(codes[r]));
                for g in 0..G {
                    _mm_prefetch::<_MM_HINT_T0>(keys[g].wrapping_add(k.codes.len()));
                    let x = _mm512_xor_si512(_mm512_loadu_si512(keys[g].cast()), bias);
                    for r in 0..R {
                        dots[r][g] = _mm512_dpbusd_epi32(dots[r][g], x, each[r]);
                    }
                    keys[g] = keys[g].add(GROUP * KV_QUAD);
                }
                for codes in &mut codes {
                    *codes = codes.add(KV_QUAD);
                }
            }
            for g in 0..G {
                let scales = scales.add(g.wrapping_mul(GROUP));
                let scales = _mm512_cvtph_ps(_mm256_loadu_si256(scales.cast()));
                for r in 0..R {
                    let q = _mm512_set1_ps(*q.scales.as_ptr().add(of_row[r].wrapping_add(b)));
                    let scaled = _mm512_mul_ps(_mm512_cvtepi32_ps(dots[r][g]), scales);
                    sums[r][g] = _mm512_fmadd_ps(scaled, q, sums[r][g]);
                }
            }
            scales = scales.wrapping_add(k.scale_stride);
        }
        for r in 0..R {
            let out = out.add(r.wrapping_mul(out_stride));
            for g in 0..G {
                _mm512_storeu_ps(out.add(g.wrapping_mul(GROUP)), sums[r][g]);
            }
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
fn weigh(
    (p, p_stride): (&[f32], usize),
    d: &[u16],
    (planes, plane): (&mut [u8], usize),
    worth: &mut [f32],
) {
    each_rows(worth.len(), 4, |row, n| {
        let some = match n {
            1 => weigh_some::<1>,
            2 => weigh_some::<2>,
            3 => weigh_some::<3>,
            _ => weigh_some::<4>,
        };
        // SAFETY: the caller of a kernel has checked that rows and planes lie in the slices.
        unsafe {
            let planes = planes.as_mut_ptr().add(2 * row * plane);
            some((p.as_ptr().add(row * p_stride), p_stride), d, (planes, plane), &mut worth[row..]);
        }
    });
}

/// Elements whose codes are stored at once.
const PACKED_AT_ONCE: usize = 64;

/// Which of `most` lanes are elements where `left` are left.
fn lanes(left: usize, most: u32) -> u64 {
    match left {
        0 => 0,
        _ => u64::MAX >> 64u32.saturating_sub(most.min(left as u32)),
    }
}

/// Of `R` rows, together: what one of them waits for hides behind the others.
///
/// # Safety
/// `R` rows lie where the pointers point.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
unsafe fn weigh_some<const R: usize>(
    (p, p_stride): (*const f32, usize),
    d: &[u16],
    (planes, plane): (*mut u8, usize),
    worth: &mut [f32],
) {
    let p: [_; R] = from_fn(|r| p.wrapping_add(r.wrapping_mul(p_stride)));
    let planes: [_; R] = from_fn(|r| planes.wrapping_add(r.wrapping_mul(2).wrapping_mul(plane)));
    let magnitudes = _mm512_set1_epi32(i32::MAX);
    let mut max = [_mm512_setzero_si512(); R];
    for at in (0..d.len()).step_by(GROUP) {
        let mask = lanes(d.len().wrapping_sub(at), 16) as u16;
        // SAFETY: the caller's promise; only lanes that are elements are read.
        unsafe {
            let d = _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(mask, d.as_ptr().add(at).cast()));
            for r in 0..R {
                let product = _mm512_mul_ps(_mm512_maskz_loadu_ps(mask, p[r].add(at)), d);
                let bits = _mm512_and_si512(_mm512_castps_si512(product), magnitudes);
                max[r] = _mm512_max_epu32(max[r], bits);
            }
        }
    }
    let mut inverses = [_mm512_setzero_ps(); R];
    for r in 0..R {
        let (inverse, scale) = scale_of(f32::from_bits(_mm512_reduce_max_epu32(max[r])));
        (inverses[r], worth[r]) = (_mm512_set1_ps(inverse), scale);
    }
    let (to_integer, most) = (_mm512_set1_ps(TO_INTEGER), _mm512_set1_epi32(MOST as i32));
    // Packing leaves quads of four vectors side by side.
    let order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    let lowest = _mm512_set1_epi16(127);
    for at in (0..d.len()).step_by(PACKED_AT_ONCE) {
        let left = d.len().wrapping_sub(at);
        let mut codes = [[_mm512_setzero_si512(); R]; 4];
        for i in 0..4usize {
            let first = i.wrapping_mul(GROUP);
            let (at, mask) = (at.wrapping_add(first), lanes(left.saturating_sub(first), 16) as u16);
            // SAFETY: as above.
            unsafe {
                let d = d.as_ptr().wrapping_add(at).cast();
                let d = _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(mask, d));
                for r in 0..R {
                    let p = _mm512_maskz_loadu_ps(mask, p[r].wrapping_add(at));
                    let code = _mm512_mul_ps(_mm512_mul_ps(p, d), inverses[r]);
                    let code = _mm512_castps_si512(_mm512_add_ps(code, to_integer));
                    codes[i][r] = _mm512_and_si512(code, most);
                }
            }
        }
        let mask = lanes(left, 64);
        for r in 0..R {
            let a = _mm512_packus_epi32(codes[0][r], codes[1][r]);
            let b = _mm512_packus_epi32(codes[2][r], codes[3][r]);
            let (upper_a, upper_b) =
                (_mm512_srli_epi16::<PLANE_BITS>(a), _mm512_srli_epi16::<PLANE_BITS>(b));
            let (a, b) = (_mm512_and_si512(a, lowest), _mm512_and_si512(b, lowest));
            let upper = _mm512_permutexvar_epi32(order, _mm512_packus_epi16(upper_a, upper_b));
            let lower = _mm512_permutexvar_epi32(order, _mm512_packus_epi16(a, b));
            // SAFETY: the caller's promise; only bytes of elements are written.
            unsafe {
                let (high, low) = (planes[r].add(at), planes[r].add(plane).add(at));
                _mm512_mask_storeu_epi8(high.cast(), mask, upper);
                _mm512_mask_storeu_epi8(low.cast(), mask, lower);
            }
        }
    }
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
        let mut rows: [_; R] = from_fn(|r| weights.add(r.wrapping_mul(2).wrapping_mul(plane)));
        let mut codes = v.codes.as_ptr();
        let mut high = [[_mm512_setzero_si512(); G]; R];
        let mut low = high;
        for _ in 0..v.n_quads {
            let x: [__m512i; G] = from_fn(|g| {
                let codes = codes.add(g.wrapping_mul(GROUP * KV_QUAD));
                _mm_prefetch::<_MM_HINT_T0>(codes.wrapping_add(v.codes.len()));
                _mm512_loadu_si512(codes.cast())
            });
            for r in 0..R {
                let (upper, lower) = (quad(rows[r]), quad(rows[r].add(plane)));
                for g in 0..G {
                    high[r][g] = _mm512_dpbusd_epi32(high[r][g], upper, x[g]);
                    low[r][g] = _mm512_dpbusd_epi32(low[r][g], lower, x[g]);
                }
                rows[r] = rows[r].add(KV_QUAD);
            }
            codes = codes.add(G * GROUP * KV_QUAD);
        }
        for r in 0..R {
            let out = out.add(r.wrapping_mul(out_stride));
            for g in 0..G {
                let out = out.add(g.wrapping_mul(GROUP));
                let sum = _mm512_add_epi32(_mm512_slli_epi32::<PLANE_BITS>(high[r][g]), low[r][g]);
                let sum = _mm512_add_epi32(_mm512_loadu_si512(out.cast()), sum);
                _mm512_storeu_si512(out.cast(), sum);
            }
        }
    }
}
