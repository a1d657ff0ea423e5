//! Dot products of a panel for AVX2: 32 codes at a time.
//!
//! ```text
//! eight lanes, for each 32 weights:
//!     pairs = maddubs(w, q)       16 sums of two products, in 16 bits
//!     fours = madd(pairs, 1)      8 sums of four
//!     acc += fours * (scale * d)
//! and for each eight groups:      acc += min * (d * sum of q)
//! ```
//! `maddubs` takes one factor unsigned. Codes of 0 to 127 are. Signed ones give their sign to `q`:
//! `|w| * (sign(w) q)`. Two products of at most 127 * 127, or 128 * 127, fit 16 bits.

use std::arch::x86_64::*;

use super::x86::{Dots, FloatDots, PIECE, Row, Rung, Token, floats, prefetch, quantised};
use crate::base::dtype::DType;
use crate::base::pool::Columns;
use crate::kernel::{Activations, MatmulFn, Weight};

const RUNG: Rung = Rung {
    of_16: Dots {
        rows_4_tokens_4: dot_4_4::<16, false>,
        rows_4_tokens_1: dot::<4, 1, 16, false>,
        rows_1_tokens_1: dot::<1, 1, 16, false>,
    },
    of_32: Dots {
        rows_4_tokens_4: dot_4_4::<32, false>,
        rows_4_tokens_1: dot::<4, 1, 32, false>,
        rows_1_tokens_1: dot::<1, 1, 32, false>,
    },
    of_32_signed: Dots {
        rows_4_tokens_4: dot_4_4::<32, true>,
        rows_4_tokens_1: dot::<4, 1, 32, true>,
        rows_1_tokens_1: dot::<1, 1, 32, true>,
    },
    f32: FloatDots {
        rows_4_tokens_4: float_dot_4_4::<F32>,
        rows_4_tokens_1: float_dot::<F32, 4, 1>,
        rows_1_tokens_1: float_dot::<F32, 1, 1>,
    },
    f16: FloatDots {
        rows_4_tokens_4: float_dot_4_4::<F16>,
        rows_4_tokens_1: float_dot::<F16, 4, 1>,
        rows_1_tokens_1: float_dot::<F16, 1, 1>,
    },
    bf16: FloatDots {
        rows_4_tokens_4: float_dot_4_4::<Bf16>,
        rows_4_tokens_1: float_dot::<Bf16, 4, 1>,
        rows_1_tokens_1: float_dot::<Bf16, 1, 1>,
    },
};

/// The matmul of `dtype`.
pub(super) fn matmul(dtype: DType) -> MatmulFn {
    unsafe fn of_codes(w: &Weight<'_>, act: &Activations<'_>, out: &mut Columns<'_, f32>) {
        // SAFETY: the caller's promises.
        unsafe { quantised(&RUNG, w, act, out) }
    }
    unsafe fn of_floats(w: &Weight<'_>, act: &Activations<'_>, out: &mut Columns<'_, f32>) {
        // SAFETY: the caller's promises.
        unsafe { floats(&RUNG, w, act, out) }
    }
    if dtype.is_quantised() { of_codes } else { of_floats }
}

/// The sum of eight lanes.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn sum(x: __m256) -> f32 {
    let x = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps::<1>(x));
    let x = _mm_add_ps(x, _mm_movehl_ps(x, x));
    _mm_cvtss_f32(_mm_add_ss(x, _mm_movehdup_ps(x)))
}

/// All lanes below `n`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn lanes(n: usize) -> __m256i {
    let n = _mm256_set1_epi32(n.min(8) as i32);
    _mm256_cmpgt_epi32(n, _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7))
}

/// Four tokens as two pairs: sixteen accumulators would not stay in registers.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn dot_4_4<const GROUP: usize, const SIGNED: bool>(
    rows: &[Row; 4],
    tokens: [Token<'_>; 4],
    n: usize,
) -> [[f32; 4]; 4] {
    let [a, b, c, d] = tokens;
    // SAFETY: the caller's promises.
    let ([a, b], [c, d]) = unsafe {
        (dot::<4, 2, GROUP, SIGNED>(rows, [a, b], n), dot::<4, 2, GROUP, SIGNED>(rows, [c, d], n))
    };
    [a, b, c, d]
}

#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn dot<const R: usize, const T: usize, const GROUP: usize, const SIGNED: bool>(
    rows: &[Row; R],
    tokens: [Token<'_>; T],
    n: usize,
) -> [[f32; R]; T] {
    assert!(n <= PIECE && tokens.iter().all(|t| t.q.len() == n && t.d.len() == n / 32));
    let ones = _mm256_set1_epi16(1);
    let mut acc = [[_mm256_setzero_ps(); R]; T];
    for step in 0..n / 32 {
        // SAFETY: step < n / 32 <= PIECE / 32: 32 codes of the row, its scales, and 32 codes of the
        // token with their scale.
        let (w, scale, q, d): ([_; R], [_; R], [_; T], [_; T]) = unsafe {
            (
                std::array::from_fn(|r| {
                    _mm256_load_si256(rows[r].codes.as_ptr().add(32 * step).cast())
                }),
                std::array::from_fn(|r| {
                    let scales = rows[r].scales.as_ptr();
                    if GROUP == 32 {
                        _mm256_broadcast_ss(&*scales.add(step))
                    } else {
                        let low = _mm_broadcast_ss(&*scales.add(2 * step));
                        _mm256_set_m128(_mm_broadcast_ss(&*scales.add(2 * step + 1)), low)
                    }
                }),
                std::array::from_fn(|t| {
                    _mm256_loadu_si256(tokens[t].q.as_ptr().add(32 * step).cast())
                }),
                std::array::from_fn(|t| _mm256_broadcast_ss(tokens[t].d.get_unchecked(step))),
            )
        };
        for r in 0..R {
            for t in 0..T {
                let pairs = if SIGNED {
                    _mm256_maddubs_epi16(_mm256_abs_epi8(w[r]), _mm256_sign_epi8(q[t], w[r]))
                } else {
                    _mm256_maddubs_epi16(w[r], q[t])
                };
                let fours = _mm256_cvtepi32_ps(_mm256_madd_epi16(pairs, ones));
                acc[t][r] = _mm256_fmadd_ps(fours, _mm256_mul_ps(scale[r], d[t]), acc[t][r]);
            }
        }
    }
    if !SIGNED {
        for t in 0..T {
            // SAFETY: the caller's promises.
            unsafe { minima::<R, GROUP>(rows, tokens[t], n, &mut acc[t]) }
        }
    }
    std::array::from_fn(|t| std::array::from_fn(|r| sum(acc[t][r])))
}

/// Adds `min * (d * sum of q)`, eight groups at a time.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn minima<const R: usize, const GROUP: usize>(
    rows: &[Row; R],
    token: Token<'_>,
    n: usize,
    acc: &mut [__m256; R],
) {
    assert!(token.sum.len() == n / 16 && token.d.len() == n / 32);
    for g in (0..n / GROUP).step_by(8) {
        let left = n / GROUP - g;
        // SAFETY: masked loads read only the lanes that are left: of d one for 32 weights, of sum
        // one for 16, of mins one for each group.
        let sums = unsafe {
            let d = token.d.as_ptr();
            let sum = token.sum.as_ptr();
            if GROUP == 32 {
                let low = _mm256_maskload_epi32(sum.add(2 * g), lanes(2 * left));
                let high = if left > 4 {
                    _mm256_maskload_epi32(sum.add(2 * g + 8), lanes(2 * left - 8))
                } else {
                    _mm256_setzero_si256()
                };
                let pairs = _mm256_hadd_epi32(low, high);
                let pairs = _mm256_permute4x64_epi64::<0b11_01_10_00>(pairs);
                _mm256_mul_ps(_mm256_cvtepi32_ps(pairs), _mm256_maskload_ps(d.add(g), lanes(left)))
            } else {
                let d = _mm_maskload_ps(d.add(g / 2), _mm256_castsi256_si128(lanes(left / 2)));
                let d = _mm256_set_m128(_mm_unpackhi_ps(d, d), _mm_unpacklo_ps(d, d));
                let sums = _mm256_maskload_epi32(sum.add(g), lanes(left));
                _mm256_mul_ps(_mm256_cvtepi32_ps(sums), d)
            }
        };
        for r in 0..R {
            // SAFETY: as above.
            let min = unsafe { _mm256_maskload_ps(rows[r].mins.as_ptr().add(g), lanes(left)) };
            acc[r] = _mm256_fmadd_ps(min, sums, acc[r]);
        }
    }
}

/// A float type of weights.
trait Float {
    /// Bytes of a weight.
    const BYTES: usize;
    /// Eight weights.
    ///
    /// # Safety
    /// The CPU has this rung, and the weights are there.
    unsafe fn load(w: *const u8) -> __m256;
}

/// IEEE single precision.
struct F32;
/// IEEE half precision.
struct F16;
/// The upper half of a single.
struct Bf16;

impl Float for F32 {
    const BYTES: usize = 4;

    #[inline(always)]
    unsafe fn load(w: *const u8) -> __m256 {
        // SAFETY: the caller's promises; any alignment.
        unsafe { _mm256_loadu_ps(w.cast()) }
    }
}

impl Float for F16 {
    const BYTES: usize = 2;

    #[inline(always)]
    unsafe fn load(w: *const u8) -> __m256 {
        // SAFETY: the caller's promises; any alignment.
        unsafe { _mm256_cvtph_ps(_mm_loadu_si128(w.cast())) }
    }
}

impl Float for Bf16 {
    const BYTES: usize = 2;

    #[inline(always)]
    unsafe fn load(w: *const u8) -> __m256 {
        // SAFETY: the caller's promises; any alignment.
        unsafe {
            let bits = _mm256_cvtepu16_epi32(_mm_loadu_si128(w.cast()));
            _mm256_castsi256_ps(_mm256_slli_epi32::<16>(bits))
        }
    }
}

/// Four tokens as two pairs, as above.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn float_dot_4_4<F: Float>(rows: [&[u8]; 4], tokens: [&[f32]; 4]) -> [[f32; 4]; 4] {
    let [a, b, c, d] = tokens;
    // SAFETY: the caller's promises.
    let ([a, b], [c, d]) =
        unsafe { (float_dot::<F, 4, 2>(rows, [a, b]), float_dot::<F, 4, 2>(rows, [c, d])) };
    [a, b, c, d]
}

/// Eight lanes; what is left at the end is filled up with zeros.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn float_dot<F: Float, const R: usize, const T: usize>(
    rows: [&[u8]; R],
    tokens: [&[f32]; T],
) -> [[f32; R]; T] {
    let n = tokens[0].len();
    assert!(rows.iter().all(|w| w.len() == n * F::BYTES) && tokens.iter().all(|x| x.len() == n));
    let mut acc = [[_mm256_setzero_ps(); R]; T];
    let whole = n - n % 8;
    for at in (0..whole).step_by(8) {
        // SAFETY: rows and tokens have n elements, and at + 8 is at most that.
        let (w, x): ([_; R], [_; T]) = unsafe {
            (
                std::array::from_fn(|r| F::load(rows[r].as_ptr().add(at * F::BYTES))),
                std::array::from_fn(|t| _mm256_loadu_ps(tokens[t].as_ptr().add(at))),
            )
        };
        for r in 0..R {
            if T == 1 {
                prefetch(rows[r], R, at * F::BYTES);
            }
            for t in 0..T {
                acc[t][r] = _mm256_fmadd_ps(w[r], x[t], acc[t][r]);
            }
        }
    }
    if whole < n {
        for r in 0..R {
            let mut filled = [0; 32];
            let rest = &rows[r][whole * F::BYTES..];
            filled[..rest.len()].copy_from_slice(rest);
            // SAFETY: `filled` has eight elements of any type; a token those of the mask.
            unsafe {
                let w = F::load(filled.as_ptr());
                for t in 0..T {
                    let x = _mm256_maskload_ps(tokens[t].as_ptr().add(whole), lanes(n - whole));
                    acc[t][r] = _mm256_fmadd_ps(w, x, acc[t][r]);
                }
            }
        }
    }
    std::array::from_fn(|t| std::array::from_fn(|r| sum(acc[t][r])))
}
