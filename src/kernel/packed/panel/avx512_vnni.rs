//! Panels for AVX-512 with VNNI: 32 rows times 12 tokens are 24 vectors of sums. Weights are lifted
//! by 128, as `vpdpbusd` wants one factor unsigned; the sums begin below zero by as much.
#![allow(clippy::needless_range_loop, reason = "several arrays are walked together")]

use std::arch::x86_64::*;

use super::{GROUPS, LINES, Line, Order, PIECE, Panel, Panels, Part, Rows, Span, Sums, TILE, TINY};
use crate::base::dtype::DType;
use crate::kernel::packed::Packed;
use crate::kernel::packed::avx512_formats::{self as formats, Format};
use crate::quant::p16::{self, ROWS};

/// What weights are lifted by.
const LIFT: i32 = 128;

/// The functions of this rung.
pub(super) fn panels() -> Panels {
    let unpack: super::Unpacks = super::unpacks!(unpack, formats);
    Panels {
        unpack,
        turn: None,
        multiply,
        round: super::avx2::round,
        order: Order::Words(1),
        groups: GROUPS,
    }
}

/// Sixteen times `c`, by the type times 16 scales, with their minima.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
fn at<F: Format>(scale: __m512, c: f32, min: __m512) -> __m512 {
    let c = _mm512_set1_ps(c);
    if F::PARTS.min { _mm512_fmadd_ps(scale, c, min) } else { _mm512_mul_ps(scale, c) }
}

/// The nearest integers, each twice in its lane as 16 bits.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
fn twice(x: __m512i) -> __m512i {
    _mm512_mask_blend_epi16(0xaaaa_aaaa, x, _mm512_slli_epi32::<16>(x))
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
unsafe fn unpack<F: Format>(
    w: &Packed<'_>,
    g: usize,
    from: usize,
    n: usize,
    lines: &mut [Line],
    scales: &mut Rows,
) {
    let span: Span = const { super::span(F::DTYPE) };
    let (inner, halves) = (F::DTYPE.block_len() / 32, if F::OF_16 { 2 } else { 1 });
    let (head, code) = (ROWS * F::PARTS.head_bytes(), ROWS * F::PARTS.code_bytes());
    let (codes_at, bytes) = p16::group_bytes(w.dtype, w.k).expect("whole blocks");
    let (heads, codes) = w.bytes[g * bytes..(g + 1) * bytes].split_at(codes_at);
    let mut pairs = [([_mm512_setzero_ps(); 2], [_mm512_setzero_ps(); 2]); PIECE / 32];
    let mut most = _mm512_setzero_ps();
    for b in 0..n / 32 {
        let (block, i) = ((from / 32 + b) / inner, (from / 32 + b) % inner);
        let head = &heads[block * head..][..head];
        // SAFETY: the CPU has this rung, by the caller's promise.
        let (scales, mins) = unsafe { (F::scales(head, i), F::mins(head, i)) };
        for h in 0..halves {
            for c in [span.low, span.high] {
                most = _mm512_max_ps(most, _mm512_abs_ps(at::<F>(scales[h], c, mins[h])));
            }
            if span.full {
                most = _mm512_max_ps(most, _mm512_mul_ps(scales[h], _mm512_set1_ps(-128.0)));
            }
        }
        pairs[b] = (scales, mins);
    }
    let most = _mm512_min_ps(most, _mm512_set1_ps(f32::MAX));
    let some = _mm512_cmp_ps_mask::<_CMP_GE_OQ>(most, _mm512_set1_ps(TINY));
    let top = _mm512_set1_ps(span.top);
    let inv = _mm512_maskz_div_ps(some, top, most);
    // SAFETY: there is room for 16 numbers.
    unsafe { _mm512_store_ps(scales.0.as_mut_ptr(), _mm512_maskz_div_ps(some, most, top)) };
    let up = _mm512_mul_ps(inv, _mm512_set1_ps(span.up()));
    let lift = _mm512_set1_epi16(span.lift(F::ZERO));
    let mask = _mm512_set1_epi16((-1i32 << (16 - span.bits)) as i16);
    let fours = 8 / halves;
    for b in 0..n / 32 {
        let (block, i) = ((from / 32 + b) / inner, (from / 32 + b) % inner);
        let (scales, mins) = pairs[b];
        // SAFETY: the CPU has this rung, by the caller's promise.
        let quads = unsafe { F::quads(&codes[block * code..][..code], i) };
        let lines = &mut lines[8 * b..8 * b + 8];
        for h in 0..halves {
            let a = twice(_mm512_cvtps_epi32(_mm512_mul_ps(scales[h], up)));
            let middle = _mm512_mul_ps(at::<F>(scales[h], span.middle(), mins[h]), inv);
            let c = _mm512_cvtps_epi32(_mm512_mul_ps(middle, _mm512_set1_ps(128.0)));
            let c = twice(_mm512_add_epi32(c, _mm512_set1_epi32(64 + 128 * LIFT)));
            for j in h * fours..(h + 1) * fours {
                let even = _mm512_sllv_epi16(quads[j], _mm512_set1_epi16(16 - span.bits as i16));
                let odd = _mm512_sllv_epi16(quads[j], _mm512_set1_epi16(8 - span.bits as i16));
                let [even, odd] = [even, _mm512_and_si512(odd, mask)].map(|x| {
                    let x = _mm512_add_epi16(x, lift);
                    _mm512_add_epi16(_mm512_mulhrs_epi16(x, a), c)
                });
                let (even, odd) = (_mm512_srli_epi16::<7>(even), _mm512_slli_epi16::<1>(odd));
                let line = _mm512_mask_blend_epi8(0xaaaa_aaaa_aaaa_aaaa, even, odd);
                // SAFETY: a line is 64 bytes, on a boundary of 64.
                unsafe { _mm512_store_si512(lines[j].0.as_mut_ptr().cast(), line) };
            }
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
unsafe fn multiply(panel: &Panel, part: &Part<'_>, sums: &mut Sums) {
    // SAFETY: the CPU has this rung, by the caller's promise.
    unsafe {
        match part.tokens {
            0..=4 => tile::<4>(panel, part, sums),
            5..=8 => tile::<8>(panel, part, sums),
            _ => tile::<TILE>(panel, part, sums),
        }
    }
}

/// Multiplies the first `T` tokens of a tile.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
unsafe fn tile<const T: usize>(panel: &Panel, part: &Part<'_>, sums: &mut Sums) {
    for p in 0..part.pieces() {
        let (d, sum) = part.scales(p);
        let mut ints = [[_mm512_setzero_si512(); GROUPS]; T];
        for t in 0..T {
            ints[t] = [_mm512_set1_epi32((-LIFT).wrapping_mul(sum[t] as i32)); GROUPS];
        }
        let [lines, other] = [0, 1].map(|g| &panel.lines[g * LINES / GROUPS + p * PIECE / 4..]);
        let fours = part.codes(p).as_chunks::<TILE>().0;
        for ((four, line), other) in fours.iter().zip(lines).zip(other) {
            // SAFETY: a line is 64 bytes, on a boundary of 64.
            let w = unsafe { [line, other].map(|line| _mm512_load_si512(line.0.as_ptr().cast())) };
            for t in 0..T {
                let q = _mm512_set1_epi32(four[t] as i32);
                for g in 0..GROUPS {
                    ints[t][g] = _mm512_dpbusd_epi32(ints[t][g], w[g], q);
                }
            }
        }
        for g in 0..GROUPS {
            // SAFETY: 16 numbers are read.
            let scale = unsafe { _mm512_load_ps(panel.scales[g][p].0.as_ptr()) };
            for t in 0..T {
                let scale = _mm512_mul_ps(scale, _mm512_set1_ps(f32::from_bits(d[t])));
                let to = sums[t][g].0.as_mut_ptr();
                // SAFETY: 16 numbers are read and written.
                unsafe {
                    let sum = _mm512_load_ps(to);
                    let dot = _mm512_cvtepi32_ps(ints[t][g]);
                    _mm512_store_ps(to, _mm512_fmadd_ps(dot, scale, sum));
                }
            }
        }
    }
}
