//! Panels for AVX2. Products of bytes with signs do not fit what AVX2 adds them up in; as 16 bits
//! they do, at the same two multiplications for 32 of them: so a panel has 16 bits for a weight, and
//! a tile for an activation. 16 rows times 6 tokens are 12 vectors of sums.
//!
//! Of four weights the first and third are in one line and the others in the next.
#![allow(clippy::needless_range_loop, reason = "several arrays are walked together")]

use std::arch::x86_64::*;

use super::{Line, Order, PIECE, Panel, Panels, Part, Rows, Span, Sums, TILE, TINY};
use crate::base::dtype::DType;
use crate::kernel::packed::Packed;
use crate::kernel::packed::avx2::each_block;
use crate::kernel::packed::avx2_formats::{self as formats, Floats, Format};
use crate::quant::p16::{self, ROWS};

/// Tokens multiplied together.
const TOKENS: usize = 6;

/// The functions of this rung.
pub(super) fn panels() -> Panels {
    let unpack: super::Unpacks = super::unpacks!(unpack, formats);
    Panels { unpack, turn: None, multiply, round, order: Order::Pairs, groups: 1 }
}

/// As the scalar `round`, bit for bit; see `kernel::quantize` for how.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn round(x: &[f32], codes: &mut [i8; PIECE]) -> (f32, i32) {
    let sign = _mm256_set1_ps(-0.0);
    let mut most = _mm256_setzero_si256();
    let blocks = x.as_chunks::<32>().0;
    // SAFETY: four times eight of 32 floats.
    let load =
        |x: &[f32; 32]| [0, 8, 16, 24].map(|at| unsafe { _mm256_loadu_ps(x[at..].as_ptr()) });
    for x in blocks {
        for x in load(x) {
            most = _mm256_max_epi32(most, _mm256_castps_si256(_mm256_andnot_ps(sign, x)));
        }
    }
    let m = _mm_max_epi32(_mm256_castsi256_si128(most), _mm256_extracti128_si256::<1>(most));
    let m = _mm_max_epi32(m, _mm_shuffle_epi32::<0b01_00_11_10>(m));
    let m = _mm_max_epi32(m, _mm_shuffle_epi32::<0b10_11_00_01>(m));
    let max = f32::from_bits(_mm_cvtsi128_si32(m) as u32);
    let inverse = 127.0 / max;
    let (scale, inverse) = if inverse.is_infinite() { (0.0, 0.0) } else { (max / 127.0, inverse) };
    let inverse = _mm256_set1_ps(inverse);
    let below_half = _mm256_set1_ps(0.5f32.next_down());
    let mut sums = _mm256_setzero_si256();
    for (x, codes) in blocks.iter().zip(codes.as_chunks_mut::<32>().0) {
        let x = load(x).map(|x| {
            let x = _mm256_mul_ps(x, inverse);
            let half = _mm256_or_ps(_mm256_and_ps(sign, x), below_half);
            _mm256_cvttps_epi32(_mm256_add_ps(x, half))
        });
        // Packing works in each half of a vector: the fours of codes come out as 0 2 4 6 1 3 5 7.
        let low = _mm256_packs_epi32(x[0], x[1]);
        let high = _mm256_packs_epi32(x[2], x[3]);
        let bytes = _mm256_packs_epi16(low, high);
        let bytes = _mm256_permutevar8x32_epi32(bytes, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
        // SAFETY: 32 bytes are written.
        unsafe { _mm256_storeu_si256(codes.as_mut_ptr().cast(), bytes) };
        let pairs = _mm256_maddubs_epi16(_mm256_set1_epi8(1), bytes);
        sums = _mm256_add_epi32(sums, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
    }
    let sums = _mm_add_epi32(_mm256_castsi256_si128(sums), _mm256_extracti128_si256::<1>(sums));
    let sums = _mm_add_epi32(sums, _mm_shuffle_epi32::<0b01_00_11_10>(sums));
    let sums = _mm_add_epi32(sums, _mm_shuffle_epi32::<0b10_11_00_01>(sums));
    (scale, _mm_cvtsi128_si32(sums))
}

/// Eight rows times `c`: by the type times their scales, with their minima.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn at<F: Format>(scale: __m256, c: f32, min: __m256) -> __m256 {
    let c = _mm256_set1_ps(c);
    if F::PARTS.min { _mm256_fmadd_ps(scale, c, min) } else { _mm256_mul_ps(scale, c) }
}

/// Integers of 16 bits, each twice in its lane.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn twice(x: __m256i) -> __m256i {
    _mm256_blend_epi16::<0b1010_1010>(x, _mm256_slli_epi32::<16>(x))
}

#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn unpack<F: Format>(
    w: &Packed<'_>,
    g: usize,
    from: usize,
    n: usize,
    lines: &mut [Line],
    scales: &mut Rows,
) {
    let span: Span = const { super::span(F::DTYPE) };
    let zero = if F::SIGNED { 0 } else { F::PARTS.zero };
    let (inner, halves) = (F::DTYPE.block_len() / 32, if F::OF_16 { 2 } else { 1 });
    let (head, code) = (ROWS * F::PARTS.head_bytes(), ROWS * F::PARTS.code_bytes());
    let (codes_at, bytes) = p16::group_bytes(w.dtype, w.k).expect("whole blocks");
    let (heads, codes) = w.bytes[g * bytes..(g + 1) * bytes].split_at(codes_at);
    let none: Floats = [_mm256_setzero_ps(); 2];
    let mut pairs = [[(none, none); 2]; PIECE / 32];
    let mut most = none;
    let sign = _mm256_set1_ps(-0.0);
    let first = from / F::DTYPE.block_len();
    for block in 0..n / F::DTYPE.block_len() {
        let head = &heads[(first + block) * head..][..head];
        each_block!(inner, B => {
            for h in 0..halves {
                // SAFETY: the CPU has this rung, by the caller's promise.
                let (scales, mins) = unsafe { (F::scales::<B>(head, h), F::mins::<B>(head, h)) };
                for side in 0..2 {
                    for c in [span.low, span.high] {
                        let x = at::<F>(scales[side], c, mins[side]);
                        most[side] = _mm256_max_ps(most[side], _mm256_andnot_ps(sign, x));
                    }
                    if span.full {
                        let x = _mm256_mul_ps(scales[side], _mm256_set1_ps(-128.0));
                        most[side] = _mm256_max_ps(most[side], x);
                    }
                }
                pairs[block * inner + B][h] = (scales, mins);
            }
        });
    }
    let mut inverses = none;
    for side in 0..2 {
        let most = _mm256_min_ps(most[side], _mm256_set1_ps(f32::MAX));
        let some = _mm256_cmp_ps::<_CMP_GE_OQ>(most, _mm256_set1_ps(TINY));
        let top = _mm256_set1_ps(span.top);
        inverses[side] = _mm256_and_ps(some, _mm256_div_ps(top, most));
        let scale = _mm256_and_ps(some, _mm256_div_ps(most, top));
        // SAFETY: there is room for 16 numbers.
        unsafe { _mm256_store_ps(scales.0[8 * side..].as_mut_ptr(), scale) };
    }
    let lift = _mm256_set1_epi16(span.lift(zero));
    let mask = _mm256_set1_epi16((-1i32 << (16 - span.bits)) as i16);
    let up = inverses.map(|inv| _mm256_mul_ps(inv, _mm256_set1_ps(span.up())));
    let [by, less] = [16, 8].map(|n| _mm_cvtsi32_si128(n - span.bits));
    let fours = 8 / halves;
    for block in 0..n / F::DTYPE.block_len() {
        let codes = &codes[(first + block) * code..][..code];
        each_block!(inner, B => {
            let b = block * inner + B;
            for h in 0..halves {
                let (scales, mins) = pairs[b][h];
                let a = [0, 1].map(|side| {
                    twice(_mm256_cvtps_epi32(_mm256_mul_ps(scales[side], up[side])))
                });
                let c = [0, 1].map(|side| {
                    let middle = at::<F>(scales[side], span.middle(), mins[side]);
                    let middle = _mm256_mul_ps(middle, inverses[side]);
                    let c = _mm256_cvtps_epi32(_mm256_mul_ps(middle, _mm256_set1_ps(128.0)));
                    twice(_mm256_add_epi32(c, _mm256_set1_epi32(64)))
                });
                for j in h * fours..(h + 1) * fours {
                    // SAFETY: the CPU has this rung, by the caller's promise.
                    let four = unsafe { F::four::<B>(codes, j) };
                    for side in 0..2 {
                        let even = _mm256_sll_epi16(four[side], by);
                        let odd = _mm256_and_si256(_mm256_sll_epi16(four[side], less), mask);
                        for (i, x) in [even, odd].into_iter().enumerate() {
                            let x = _mm256_mulhrs_epi16(_mm256_add_epi16(x, lift), a[side]);
                            let x = _mm256_srai_epi16::<7>(_mm256_add_epi16(x, c[side]));
                            let line = lines[16 * b + 2 * j + i].0[32 * side..].as_mut_ptr();
                            // SAFETY: half a line is 32 bytes, on a boundary of 32.
                            unsafe { _mm256_store_si256(line.cast(), x) };
                        }
                    }
                }
            }
        });
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
fn multiply(panel: &Panel, part: &Part<'_>, sums: &mut Sums) {
    six::<0>(panel, part, sums);
    if part.tokens > TOKENS {
        six::<TOKENS>(panel, part, sums);
    }
}

/// Multiplies six tokens of a tile, from the `FIRST` on.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn six<const FIRST: usize>(panel: &Panel, part: &Part<'_>, sums: &mut Sums) {
    for p in 0..part.pieces() {
        let (d, _) = part.scales(p);
        let mut ints = [[_mm256_setzero_si256(); 2]; TOKENS];
        let lines = &panel.lines[p * PIECE / 2..];
        for (pairs, line) in part.codes(p).as_chunks::<TILE>().0.iter().zip(lines) {
            // SAFETY: half a line is 32 bytes, on a boundary of 32.
            let w = [0, 32].map(|at| unsafe { _mm256_load_si256(line.0[at..].as_ptr().cast()) });
            for t in 0..TOKENS {
                let q = _mm256_set1_epi32(pairs[FIRST + t] as i32);
                for side in 0..2 {
                    let products = _mm256_madd_epi16(w[side], q);
                    ints[t][side] = _mm256_add_epi32(ints[t][side], products);
                }
            }
        }
        for side in 0..2 {
            let scales = &panel.scales[0][p].0[8 * side..][..8];
            // SAFETY: eight numbers are read.
            let scale = unsafe { _mm256_load_ps(scales.as_ptr()) };
            for t in 0..TOKENS {
                let scale = _mm256_mul_ps(scale, _mm256_set1_ps(f32::from_bits(d[FIRST + t])));
                let to = sums[FIRST + t][0].0[8 * side..][..8].as_mut_ptr();
                // SAFETY: eight numbers are read and written.
                unsafe {
                    let dot = _mm256_cvtepi32_ps(ints[t][side]);
                    _mm256_store_ps(to, _mm256_fmadd_ps(dot, scale, _mm256_load_ps(to)));
                }
            }
        }
    }
}
