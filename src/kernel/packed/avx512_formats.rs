//! What the bits of a packed block mean, for AVX-512: the codes of 32 weights of 16 rows as eight
//! vectors of four weights, and their scales. The formats are drawn in `quant`, the layout in
//! `quant::p16`; here a comment says only what is not said there.

use std::arch::x86_64::*;

use crate::base::dtype::DType;
use crate::quant::{E2M1_DOUBLED, IQ4_VALUES, p16};

/// Codes of 32 weights: vector `j` has the weights `4 j .. 4 j + 4` of each row, unsigned.
pub(super) type Quads = [__m512i; 8];
/// Scales or minima of 16 rows: of the two halves of 32 weights, or twice that of all of them.
pub(super) type Pair = [__m512; 2];

/// A quantised type: from a block's codes and head. `b` counts the blocks of 32 in it. `unsafe`: the
/// CPU must have AVX-512 with VNNI.
pub(super) trait Format {
    const DTYPE: DType;
    /// Groups are of 16 weights.
    const OF_16: bool = false;
    /// What [`Format::quads`] adds to the codes of `p16::Parts`, to make them unsigned.
    const LIFT: i32 = 0;
    const PARTS: p16::Parts = match p16::parts(Self::DTYPE) {
        Some(parts) => parts,
        None => panic!("floats have no codes"),
    };
    const ZERO: i32 = Self::PARTS.zero + Self::LIFT;

    unsafe fn quads(codes: &[u8], b: usize) -> Quads;
    unsafe fn scales(head: &[u8], b: usize) -> Pair;
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
    unsafe fn mins(_: &[u8], _: usize) -> Pair {
        [_mm512_setzero_ps(); 2]
    }
}

/// Line `i` of codes.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
fn line(codes: &[u8], i: usize) -> __m512i {
    let line = &codes[64 * i..64 * i + 64];
    // SAFETY: 64 bytes are read, of any alignment.
    unsafe { _mm512_loadu_si512(line.as_ptr().cast()) }
}

/// The field `mask` of each byte, `shift` bits up. Bits that come from the next byte lie outside of
/// the masks used.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
fn field(x: __m512i, shift: usize, mask: i8) -> __m512i {
    let x = _mm512_srlv_epi16(x, _mm512_set1_epi16(shift as i16));
    _mm512_and_si512(x, _mm512_set1_epi8(mask))
}

/// `x` plus `value` in each byte whose bit `bit` of `bits` is set.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
fn with_bit(x: __m512i, bits: __m512i, bit: usize, value: i8) -> __m512i {
    let set = _mm512_test_epi8_mask(bits, _mm512_set1_epi8((1u8 << bit) as i8));
    _mm512_mask_add_epi8(x, set, x, _mm512_set1_epi8(value))
}

/// Half-precision numbers: the `i`-th of the head.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
fn half(head: &[u8], i: usize) -> __m512 {
    _mm512_cvtph_ps(pairs(head, i))
}

/// Numbers of two bytes: the `i`-th of the head.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
fn pairs(head: &[u8], i: usize) -> __m256i {
    let pairs = &head[32 * i..32 * i + 32];
    // SAFETY: 32 bytes are read, of any alignment.
    unsafe { _mm256_loadu_si256(pairs.as_ptr().cast()) }
}

/// The word of scales that begins `at` bytes into a row's head.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
fn word(head: &[u8], at: usize) -> __m512i {
    let words = &head[p16::ROWS * at..p16::ROWS * at + 64];
    // SAFETY: 64 bytes are read, of any alignment.
    unsafe { _mm512_loadu_si512(words.as_ptr().cast()) }
}

/// Numbers of one byte: the head's first.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
fn exponents(head: &[u8]) -> __m128i {
    let exponents = &head[..16];
    // SAFETY: 16 bytes are read, of any alignment.
    unsafe { _mm_loadu_si128(exponents.as_ptr().cast()) }
}

/// The field `mask` of words, `shift` bits up.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
fn bits(word: __m512i, shift: usize, mask: i32) -> __m512i {
    let word = _mm512_srlv_epi32(word, _mm512_set1_epi32(shift as i32));
    _mm512_and_si512(word, _mm512_set1_epi32(mask))
}

/// The eight vectors of 16 bytes of nibbles from line `first` on: low ones, then high ones.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
fn nibbles(codes: &[u8], first: usize) -> Quads {
    std::array::from_fn(|j| field(line(codes, first + j % 4), 4 * (j / 4), 15))
}

/// Sixteen values to look up, each lifted.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
fn table(values: &[i8; 16], lift: u8) -> __m512i {
    // SAFETY: 16 bytes are read, of any alignment.
    let values = unsafe { _mm_loadu_si128(values.as_ptr().cast()) };
    let values = _mm512_broadcast_i32x4(values);
    _mm512_add_epi8(values, _mm512_set1_epi8(lift as i8))
}

/// The 6-bit scale (`from` 0) or minimum (`from` 4, `shift` 4) `g` of Q4_K and Q5_K.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
fn of_6_bits(head: &[u8], own: usize, shift: usize, g: usize) -> __m512 {
    let own = word(head, own);
    _mm512_cvtepi32_ps(if g < 4 {
        bits(own, 8 * g, 63)
    } else {
        let low = bits(word(head, 12), 8 * (g - 4) + shift, 15);
        let high = bits(own, 8 * (g - 4) + 6, 3);
        _mm512_or_si512(low, _mm512_slli_epi32::<4>(high))
    })
}

/// The codes of Q5_0 and Q5_1.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
fn five_bits(codes: &[u8]) -> Quads {
    let (low, high) = (nibbles(codes, 1), line(codes, 0));
    std::array::from_fn(|j| with_bit(low[j], high, j, 16))
}

/// The codes of Q2_K and TQ2_0, and the low bits of Q3_K from line 8 on.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
fn two_bits(codes: &[u8], b: usize) -> Quads {
    std::array::from_fn(|j| field(line(codes, b / 4 * 8 + j), 2 * (b % 4), 3))
}

macro_rules! formats {
    ($($name:ident: $dtype:ident { $($body:tt)* })*) => {
        $(pub(super) struct $name;
        impl Format for $name {
            const DTYPE: DType = DType::$dtype;
            $($body)*
        })*
    };
}

/// `scales` of formats with one half-precision scale in a block, and `mins` where it has a minimum.
macro_rules! scale {
    () => {
        #[inline]
        #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
        unsafe fn scales(head: &[u8], _: usize) -> Pair {
            [half(head, 0); 2]
        }
    };
    (and_min) => {
        scale!();
        #[inline]
        #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
        unsafe fn mins(head: &[u8], _: usize) -> Pair {
            [half(head, 1); 2]
        }
    };
}

/// `scales` and `mins` of Q4_K and Q5_K.
macro_rules! scales_of_6_bits {
    () => {
        #[inline]
        #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
        unsafe fn scales(head: &[u8], b: usize) -> Pair {
            [_mm512_mul_ps(half(head, 0), of_6_bits(head, 4, 0, b)); 2]
        }
        #[inline]
        #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
        unsafe fn mins(head: &[u8], b: usize) -> Pair {
            let min = _mm512_mul_ps(half(head, 1), of_6_bits(head, 8, 4, b));
            [_mm512_xor_ps(min, _mm512_set1_ps(-0.0)); 2]
        }
    };
}

formats! {
    Q4_0: Q4_0 {
        #[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
        unsafe fn quads(codes: &[u8], _: usize) -> Quads {
            nibbles(codes, 0)
        }
        scale!();
    }
    Q4_1: Q4_1 {
        #[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
        unsafe fn quads(codes: &[u8], _: usize) -> Quads {
            nibbles(codes, 0)
        }
        scale!(and_min);
    }
    Q5_0: Q5_0 {
        #[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
        unsafe fn quads(codes: &[u8], _: usize) -> Quads {
            let (low, high) = (nibbles(codes, 1), line(codes, 0));
                std::array::from_fn(|j| with_bit(low[j], high, j, 16))
        }
        scale!();
    }
    Q5_1: Q5_1 {
        #[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
        unsafe fn quads(codes: &[u8], _: usize) -> Quads {
            five_bits(codes)
        }
        scale!(and_min);
    }
    Q8_0: Q8_0 {
        const LIFT: i32 = 128;
        #[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
        unsafe fn quads(codes: &[u8], _: usize) -> Quads {
            let sign = _mm512_set1_epi8(-128);
            std::array::from_fn(|j| _mm512_xor_si512(line(codes, j), sign))
        }
        scale!();
    }
    Iq4Nl: Iq4Nl {
        const LIFT: i32 = 128;
        #[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
        unsafe fn quads(codes: &[u8], _: usize) -> Quads {
            let table = table(&IQ4_VALUES, 128);
                nibbles(codes, 0).map(|n| _mm512_shuffle_epi8(table, n))
        }
        scale!();
    }
    Mxfp4: Mxfp4 {
        #[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
        unsafe fn quads(codes: &[u8], _: usize) -> Quads {
            let table = table(&E2M1_DOUBLED, 12);
                nibbles(codes, 0).map(|n| _mm512_shuffle_epi8(table, n))
        }
        /// Half of 2^(e - 127): exponent e - 1, or for 0 and 1 the subnormals 2^-128 and 2^-127.
        #[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
        unsafe fn scales(head: &[u8], _: usize) -> Pair {
            let e = _mm512_cvtepu8_epi32(exponents(head));
                let one = _mm512_set1_epi32(1);
                let normal = _mm512_slli_epi32::<23>(_mm512_sub_epi32(e, one));
                let tiny = _mm512_sllv_epi32(_mm512_set1_epi32(0x0020_0000), e);
                let small = _mm512_cmple_epi32_mask(e, one);
                [_mm512_castsi512_ps(_mm512_mask_mov_epi32(normal, small, tiny)); 2]
        }
    }
    Q2K: Q2K {
        const OF_16: bool = true;
        #[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
        unsafe fn quads(codes: &[u8], b: usize) -> Quads {
            std::array::from_fn(|j| field(line(codes, b / 4 * 8 + j), 2 * (b % 4), 3))
        }
        #[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
        unsafe fn scales(head: &[u8], b: usize) -> Pair {
            let (d, s) = (half(head, 0), word(head, 4 + b / 2 * 4));
                let scale = |g: usize| bits(s, 8 * (g % 4), 15);
                [2 * b, 2 * b + 1].map(|g| _mm512_mul_ps(d, _mm512_cvtepi32_ps(scale(g))))
        }
        #[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
        unsafe fn mins(head: &[u8], b: usize) -> Pair {
            let (m, s) = (half(head, 1), word(head, 4 + b / 2 * 4));
                let m = _mm512_xor_ps(m, _mm512_set1_ps(-0.0));
                let min = |g: usize| bits(s, 8 * (g % 4) + 4, 15);
                [2 * b, 2 * b + 1].map(|g| _mm512_mul_ps(m, _mm512_cvtepi32_ps(min(g))))
        }
    }
    Q3K: Q3K {
        const OF_16: bool = true;
        #[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
        unsafe fn quads(codes: &[u8], b: usize) -> Quads {
            std::array::from_fn(|j| {
                let low = field(line(codes, 8 + b / 4 * 8 + j), 2 * (b % 4), 3);
                with_bit(low, line(codes, j), b, 4)
            })
        }
        #[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
        unsafe fn scales(head: &[u8], b: usize) -> Pair {
            let d = half(head, 0);
                [2 * b, 2 * b + 1].map(|g| {
                    let low = bits(word(head, 2 + g % 8 / 4 * 4), 8 * (g % 4) + 4 * (g / 8), 15);
                    let high = bits(word(head, 10), 8 * (g % 4) + 2 * (g / 4), 3);
                    let s = _mm512_or_si512(low, _mm512_slli_epi32::<4>(high));
                    let s = _mm512_sub_epi32(s, _mm512_set1_epi32(32));
                    _mm512_mul_ps(d, _mm512_cvtepi32_ps(s))
                })
        }
    }
    Q4K: Q4K {
        #[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
        unsafe fn quads(codes: &[u8], b: usize) -> Quads {
            std::array::from_fn(|j| field(line(codes, b / 2 * 8 + j), 4 * (b % 2), 15))
        }
        scales_of_6_bits!();
    }
    Q5K: Q5K {
        #[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
        unsafe fn quads(codes: &[u8], b: usize) -> Quads {
            std::array::from_fn(|j| {
                let low = field(line(codes, 8 + b / 2 * 8 + j), 4 * (b % 2), 15);
                with_bit(low, line(codes, j), b, 16)
            })
        }
        scales_of_6_bits!();
    }
    Q6K: Q6K {
        const OF_16: bool = true;
        #[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
        unsafe fn quads(codes: &[u8], b: usize) -> Quads {
            let (half, i) = (b / 4, b % 4);
            std::array::from_fn(|j| {
                let low = field(line(codes, half * 16 + i % 2 * 8 + j), 4 * (i / 2), 15);
                let high = field(line(codes, 32 + half * 8 + j), 2 * i, 3);
                _mm512_or_si512(low, _mm512_slli_epi16::<4>(high))
            })
        }
        #[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
        unsafe fn scales(head: &[u8], b: usize) -> Pair {
            let (d, s) = (half(head, 0), word(head, 2 + b / 2 * 4));
                [2 * b, 2 * b + 1].map(|g| {
                    let up = _mm512_set1_epi32(24 - 8 * (g % 4) as i32);
                    let s = _mm512_srai_epi32::<24>(_mm512_sllv_epi32(s, up));
                    _mm512_mul_ps(d, _mm512_cvtepi32_ps(s))
                })
        }
    }
    Iq4Xs: Iq4Xs {
        const LIFT: i32 = 128;
        #[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
        unsafe fn quads(codes: &[u8], b: usize) -> Quads {
            let table = table(&IQ4_VALUES, 128);
                nibbles(codes, 4 * b).map(|n| _mm512_shuffle_epi8(table, n))
        }
        #[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
        unsafe fn scales(head: &[u8], b: usize) -> Pair {
            let high = _mm512_cvtepu16_epi32(pairs(head, 1));
                let high = _mm512_slli_epi32::<4>(bits(high, 2 * b, 3));
                let s = _mm512_or_si512(bits(word(head, 4), 4 * b, 15), high);
                let s = _mm512_sub_epi32(s, _mm512_set1_epi32(32));
                [_mm512_mul_ps(half(head, 0), _mm512_cvtepi32_ps(s)); 2]
        }
    }
    Tq1_0: Tq1_0 {
        /// Digits of fractions in base 3. Five of each of 32 bytes are the first 160 weights; five
        /// of each of 16 bytes the next 80; four of each of 4 bytes the rest.
        #[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
        unsafe fn quads(codes: &[u8], b: usize) -> Quads {
            std::array::from_fn(|j| {
                let (at, n) = match (b, j) {
                    (0..5, _) => (j, b),
                    (7, 4..) => (12, j - 4),
                    _ => (8 + j % 4, 2 * (b - 5) + j / 4),
                };
                digit(line(codes, at), n)
            })
        }
        scale!();
    }
    Tq2_0: Tq2_0 {
        #[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
        unsafe fn quads(codes: &[u8], b: usize) -> Quads {
            two_bits(codes, b)
        }
        scale!();
    }
}

/// The digit after the first `n` of each byte, a fraction in base 3: one for 86 / 256 and above, one
/// more for 171 / 256 and above.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
fn digit(mut x: __m512i, n: usize) -> __m512i {
    for _ in 0..n {
        x = _mm512_add_epi8(x, _mm512_add_epi8(x, x));
    }
    let one = _mm512_set1_epi8(1);
    let first = _mm512_cmpge_epu8_mask(x, _mm512_set1_epi8(86));
    let second = _mm512_cmpge_epu8_mask(x, _mm512_set1_epi8(171u8 as i8));
    let digit = _mm512_maskz_mov_epi8(first, one);
    _mm512_mask_add_epi8(digit, second, digit, one)
}
