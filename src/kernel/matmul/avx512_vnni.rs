//! Dot products of a panel for AVX-512 with VNNI: 64 codes at a time.
//!
//! ```text
//! sixteen lanes, for each 64 weights:
//!     fours = dpbusd(w, q)        16 sums of four products
//!     acc += fours * (scale * d)  scale and d of each lane's group, by a permutation
//! and for each sixteen groups:    acc += min * (d * sum of q)
//! ```
//! `dpbusd` takes its first factor unsigned. Codes of 0 to 127 are. Signed ones are shifted by 128,
//! and 128 times the scale is the minimum that takes it back.

use std::arch::x86_64::*;

use super::x86::{Dots, FloatDots, PIECE, Row, Rung, Token, floats, prefetch, quantised};
use crate::base::dtype::DType;
use crate::base::pool::Columns;
use crate::kernel::{Activations, MatmulFn, Weight};

const RUNG: Rung = Rung {
    of_16: Dots {
        rows_4_tokens_4: dot::<4, 4, 16, false>,
        rows_4_tokens_1: dot::<4, 1, 16, false>,
        rows_1_tokens_1: dot::<1, 1, 16, false>,
    },
    of_32: Dots {
        rows_4_tokens_4: dot::<4, 4, 32, false>,
        rows_4_tokens_1: dot::<4, 1, 32, false>,
        rows_1_tokens_1: dot::<1, 1, 32, false>,
    },
    of_32_signed: Dots {
        rows_4_tokens_4: dot::<4, 4, 32, true>,
        rows_4_tokens_1: dot::<4, 1, 32, true>,
        rows_1_tokens_1: dot::<1, 1, 32, true>,
    },
    f32: FloatDots {
        rows_4_tokens_4: float_dot::<F32, 4, 4>,
        rows_4_tokens_1: float_dot::<F32, 4, 1>,
        rows_1_tokens_1: float_dot::<F32, 1, 1>,
    },
    f16: FloatDots {
        rows_4_tokens_4: float_dot::<F16, 4, 4>,
        rows_4_tokens_1: float_dot::<F16, 4, 1>,
        rows_1_tokens_1: float_dot::<F16, 1, 1>,
    },
    bf16: FloatDots {
        rows_4_tokens_4: float_dot::<Bf16, 4, 4>,
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

/// A mask of the lowest `n` lanes.
#[inline]
fn lanes(n: usize) -> __mmask16 {
    if n >= 16 { 0xffff } else { (1 << n) - 1 }
}

/// For each of the steps of 16 groups of 32, the group that each lane is of.
const GROUP_OF_32: [[i32; 16]; 8] = groups_of_lanes(8);
/// For each of the steps of 16 groups of 16.
const GROUP_OF_16: [[i32; 16]; 4] = groups_of_lanes(4);

const fn groups_of_lanes<const STEPS: usize>(width: usize) -> [[i32; 16]; STEPS] {
    let mut out = [[0; 16]; STEPS];
    let mut i = 0;
    while i < 16 * STEPS {
        out[i / 16][i % 16] = (i / width) as i32;
        i += 1;
    }
    out
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
fn spread(x: __m512, lanes: &[i32; 16]) -> __m512 {
    // SAFETY: 64 bytes are read, of any alignment.
    _mm512_permutexvar_ps(unsafe { _mm512_loadu_si512(lanes.as_ptr().cast()) }, x)
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
unsafe fn dot<const R: usize, const T: usize, const GROUP: usize, const SIGNED: bool>(
    rows: &[Row; R],
    tokens: [Token<'_>; T],
    n: usize,
) -> [[f32; R]; T] {
    assert!(n <= PIECE && tokens.iter().all(|t| t.q.len() == n && t.d.len() == n / 32));
    let flip = _mm512_set1_epi8(-128);
    let mut acc = [[_mm512_setzero_ps(); R]; T];
    // 16 blocks of the activations at a time.
    for first in (0..n).step_by(512) {
        let blocks = ((n - first) / 32).min(16);
        // SAFETY: masked loads read only the lanes of blocks that there are.
        let d: [_; T] = unsafe {
            std::array::from_fn(|t| {
                _mm512_maskz_loadu_ps(lanes(blocks), tokens[t].d.as_ptr().add(first / 32))
            })
        };
        for t in 0..T {
            // SAFETY: first + 32 * blocks <= n.
            unsafe { minima::<R, GROUP, SIGNED>(rows, tokens[t], d[t], first, blocks, &mut acc[t]) }
        }
        for step in 0..blocks.div_ceil(2) {
            let at = first + 64 * step;
            let mask = if 2 * step + 1 < blocks { !0 } else { 0xffff_ffff };
            // SAFETY: a row has PIECE codes, a multiple of 64, and its groups' scales; of a token
            // the masked load reads the codes of blocks that there are. The scales of a group that
            // there is not meet a product that is zero: of what else is there, all is finite.
            let (w, scale, q): ([_; R], [_; R], [_; T]) = unsafe {
                (
                    std::array::from_fn(|r| {
                        let w = _mm512_load_si512(rows[r].codes.as_ptr().add(at).cast());
                        if SIGNED { _mm512_xor_si512(w, flip) } else { w }
                    }),
                    std::array::from_fn(|r| {
                        let scales = rows[r].scales.as_ptr();
                        if GROUP == 32 {
                            let scales =
                                _mm512_maskz_loadu_ps(lanes(blocks), scales.add(first / 32));
                            spread(scales, &GROUP_OF_32[step])
                        } else {
                            let scales = _mm512_maskz_loadu_ps(
                                lanes(2 * blocks - 16 * (step / 4)),
                                scales.add(first / 16 + 16 * (step / 4)),
                            );
                            spread(scales, &GROUP_OF_16[step % 4])
                        }
                    }),
                    std::array::from_fn(|t| {
                        _mm512_maskz_loadu_epi8(mask, tokens[t].q.as_ptr().add(at))
                    }),
                )
            };
            for t in 0..T {
                let d = spread(d[t], &GROUP_OF_32[step]);
                for r in 0..R {
                    let fours = _mm512_dpbusd_epi32(_mm512_setzero_si512(), w[r], q[t]);
                    let fours = _mm512_cvtepi32_ps(fours);
                    acc[t][r] = _mm512_fmadd_ps(fours, _mm512_mul_ps(scale[r], d), acc[t][r]);
                }
            }
        }
    }
    std::array::from_fn(|t| std::array::from_fn(|r| _mm512_reduce_add_ps(acc[t][r])))
}

/// Adds `min * (d * sum of q)` for the groups of up to 16 blocks, from weight `first` on.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
unsafe fn minima<const R: usize, const GROUP: usize, const SIGNED: bool>(
    rows: &[Row; R],
    token: Token<'_>,
    d: __m512,
    first: usize,
    blocks: usize,
    acc: &mut [__m512; R],
) {
    assert!(token.sum.len() >= first / 16 + 2 * blocks);
    // SAFETY: masked loads read only the lanes of groups that there are.
    let load = |floats: &[f32], group: usize, n: usize| unsafe {
        _mm512_maskz_loadu_ps(lanes(n), floats.as_ptr().add(group))
    };
    // SAFETY: as above: two sums for each block.
    let sums = unsafe {
        let sum = token.sum.as_ptr().add(first / 16);
        [
            _mm512_maskz_loadu_epi32(lanes(2 * blocks), sum),
            _mm512_maskz_loadu_epi32(lanes((2 * blocks).saturating_sub(16)), sum.wrapping_add(16)),
        ]
    };
    if GROUP == 32 {
        let even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
        let odd = _mm512_add_epi32(even, _mm512_set1_epi32(1));
        let sums = _mm512_add_epi32(
            _mm512_permutex2var_epi32(sums[0], even, sums[1]),
            _mm512_permutex2var_epi32(sums[0], odd, sums[1]),
        );
        let sums = _mm512_mul_ps(_mm512_cvtepi32_ps(sums), d);
        for r in 0..R {
            let min = if SIGNED {
                let scale = load(&rows[r].scales, first / 32, blocks);
                _mm512_mul_ps(scale, _mm512_set1_ps(-128.0))
            } else {
                load(&rows[r].mins, first / 32, blocks)
            };
            acc[r] = _mm512_fmadd_ps(min, sums, acc[r]);
        }
    } else {
        let low = _mm512_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7);
        let high = _mm512_add_epi32(low, _mm512_set1_epi32(8));
        let sums = [
            _mm512_mul_ps(_mm512_cvtepi32_ps(sums[0]), _mm512_permutexvar_ps(low, d)),
            _mm512_mul_ps(_mm512_cvtepi32_ps(sums[1]), _mm512_permutexvar_ps(high, d)),
        ];
        for r in 0..R {
            for (i, sums) in sums.iter().enumerate() {
                let n = (2 * blocks).saturating_sub(16 * i);
                let min = load(&rows[r].mins, first / 16 + 16 * i, n);
                acc[r] = _mm512_fmadd_ps(min, *sums, acc[r]);
            }
        }
    }
}

/// A float type of weights.
trait Float {
    /// Bytes of a weight.
    const BYTES: usize;
    /// The weights of the mask, and zeros.
    ///
    /// # Safety
    /// The CPU has this rung, and the weights are there.
    unsafe fn load(mask: __mmask16, w: *const u8) -> __m512;
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
    unsafe fn load(mask: __mmask16, w: *const u8) -> __m512 {
        // SAFETY: the caller's promises; any alignment.
        unsafe { _mm512_maskz_loadu_ps(mask, w.cast()) }
    }
}

impl Float for F16 {
    const BYTES: usize = 2;

    #[inline(always)]
    unsafe fn load(mask: __mmask16, w: *const u8) -> __m512 {
        // SAFETY: the caller's promises; any alignment.
        unsafe { _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(mask, w.cast())) }
    }
}

impl Float for Bf16 {
    const BYTES: usize = 2;

    #[inline(always)]
    unsafe fn load(mask: __mmask16, w: *const u8) -> __m512 {
        // SAFETY: the caller's promises; any alignment.
        unsafe {
            let bits = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, w.cast()));
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(bits))
        }
    }
}

/// Sixteen lanes; what is left at the end is filled up with zeros.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
unsafe fn float_dot<F: Float, const R: usize, const T: usize>(
    rows: [&[u8]; R],
    tokens: [&[f32]; T],
) -> [[f32; R]; T] {
    let n = tokens[0].len();
    assert!(rows.iter().all(|w| w.len() == n * F::BYTES) && tokens.iter().all(|x| x.len() == n));
    let mut acc = [[_mm512_setzero_ps(); R]; T];
    for at in (0..n).step_by(16) {
        let mask = lanes(n - at);
        // SAFETY: rows and tokens have n elements; the masked loads read only those.
        let (w, x): ([_; R], [_; T]) = unsafe {
            (
                std::array::from_fn(|r| F::load(mask, rows[r].as_ptr().add(at * F::BYTES))),
                std::array::from_fn(|t| _mm512_maskz_loadu_ps(mask, tokens[t].as_ptr().add(at))),
            )
        };
        for r in 0..R {
            if T == 1 {
                prefetch(rows[r], R, at * F::BYTES);
            }
            for t in 0..T {
                acc[t][r] = _mm512_fmadd_ps(w[r], x[t], acc[t][r]);
            }
        }
    }
    std::array::from_fn(|t| std::array::from_fn(|r| _mm512_reduce_add_ps(acc[t][r])))
}
