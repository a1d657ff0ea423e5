//! What the bits of a packed block mean, for AVX2: the codes of four weights of 16 rows as two
//! vectors of eight rows, and the scales of 16 rows likewise. The formats are drawn in `quant`, the
//! layout in `quant::p16`; here a comment says only what is not said there.

use std::arch::x86_64::*;

use crate::base::dtype::DType;
use crate::quant::{E2M1_DOUBLED, IQ4_VALUES, p16};

/// Integers of 16 rows: four bytes of each, or 32 bits.
pub(super) type Ints = [__m256i; 2];
/// Numbers of 16 rows.
pub(super) type Floats = [__m256; 2];

/// A quantised type: from a block's codes and head. `B` counts the blocks of 32 in it, `j` the fours
/// of weights in those, `h` their halves. `unsafe`: the CPU must have AVX2, FMA and F16C.
pub(super) trait Format {
    const DTYPE: DType;
    /// Groups are of 16 weights.
    const OF_16: bool = false;
    /// How many products of a four fit 16 bits together. A code of at most `c` and its neighbour add
    /// at most `2 * 127 c`, of 32767.
    const FIT: usize;
    /// Codes are signed. Otherwise they begin at 0, and `p16::Parts::zero` stands for 0.
    const SIGNED: bool = false;
    const PARTS: p16::Parts = match p16::parts(Self::DTYPE) {
        Some(parts) => parts,
        None => panic!("floats have no codes"),
    };

    unsafe fn four<const B: usize>(codes: &[u8], j: usize) -> Ints;
    unsafe fn scales<const B: usize>(head: &[u8], h: usize) -> Floats;
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn mins<const B: usize>(_: &[u8], _: usize) -> Floats {
        [_mm256_setzero_ps(); 2]
    }
}

/// The vectors of 32 bytes at `at` and at `at + step`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn two(bytes: &[u8], at: usize, step: usize) -> Ints {
    [0, 1].map(|i| {
        let bytes = &bytes[at + i * step..][..32];
        // SAFETY: 32 bytes are read, of any alignment.
        unsafe { _mm256_loadu_si256(bytes.as_ptr().cast()) }
    })
}

/// Line `i` of codes.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn line(codes: &[u8], i: usize) -> Ints {
    two(codes, 64 * i, 32)
}

/// Eight bits' worth of each byte of `x`, moved down `shift` bits, masked. Bits that come from the
/// next byte lie outside of the masks used.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn field(x: Ints, shift: usize, mask: i8) -> Ints {
    let (shift, mask) = (_mm_cvtsi32_si128(shift as i32), _mm256_set1_epi8(mask));
    x.map(|x| _mm256_and_si256(_mm256_srl_epi16(x, shift), mask))
}

/// `x` with bit `to` of each byte set where bit `from` of `bits` is.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn with_bit(x: Ints, bits: Ints, from: usize, to: usize) -> Ints {
    let down = _mm_cvtsi32_si128(from.saturating_sub(to) as i32);
    let up = _mm_cvtsi32_si128(to.saturating_sub(from) as i32);
    let mask = _mm256_set1_epi8(1 << to);
    [0, 1].map(|i| {
        let bit = _mm256_sll_epi16(_mm256_srl_epi16(bits[i], down), up);
        _mm256_or_si256(x[i], _mm256_and_si256(bit, mask))
    })
}

/// Numbers of two bytes: the `i`-th of the head.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn pairs(head: &[u8], i: usize) -> [__m128i; 2] {
    [0, 1].map(|side| {
        let pairs = &head[32 * i + 16 * side..][..16];
        // SAFETY: 16 bytes are read, of any alignment.
        unsafe { _mm_loadu_si128(pairs.as_ptr().cast()) }
    })
}

/// Half-precision numbers: the `i`-th of the head.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn half(head: &[u8], i: usize) -> Floats {
    pairs(head, i).map(|x| _mm256_cvtph_ps(x))
}

/// The word of scales that begins `at` bytes into a row's head.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn word(head: &[u8], at: usize) -> Ints {
    two(head, p16::ROWS * at, 32)
}

/// The field `mask` of words, `shift` bits up.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn bits(word: Ints, shift: usize, mask: i32) -> Ints {
    let (shift, mask) = (_mm_cvtsi32_si128(shift as i32), _mm256_set1_epi32(mask));
    word.map(|x| _mm256_and_si256(_mm256_srl_epi32(x, shift), mask))
}

/// `low` with the bits of `high` above its four.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn above_4(low: Ints, high: Ints) -> Ints {
    [0, 1].map(|i| _mm256_or_si256(low[i], _mm256_slli_epi32::<4>(high[i])))
}

/// `d * (s - less)`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn scaled(d: Floats, s: Ints, less: i32) -> Floats {
    let less = _mm256_set1_epi32(less);
    [0, 1].map(|i| _mm256_mul_ps(d[i], _mm256_cvtepi32_ps(_mm256_sub_epi32(s[i], less))))
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn negative(x: Floats) -> Floats {
    x.map(|x| _mm256_xor_ps(x, _mm256_set1_ps(-0.0)))
}

/// The four `j` of 16 bytes of nibbles from line `first` on: low ones, then high ones.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn nibbles(codes: &[u8], first: usize, j: usize) -> Ints {
    field(line(codes, first + j % 4), 4 * (j / 4), 15)
}

/// Sixteen values, `lift` added to each, looked up by nibbles.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn look_up(values: &[i8; 16], lift: i8, nibbles: Ints) -> Ints {
    // SAFETY: 16 bytes are read, of any alignment.
    let values = unsafe { _mm_loadu_si128(values.as_ptr().cast()) };
    let values = _mm256_add_epi8(_mm256_broadcastsi128_si256(values), _mm256_set1_epi8(lift));
    nibbles.map(|n| _mm256_shuffle_epi8(values, n))
}

/// The 6-bit scale (`own` 4, `shift` 0) or minimum (`own` 8, `shift` 4) `g` of Q4_K and Q5_K.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn of_6_bits(head: &[u8], own: usize, shift: usize, g: usize) -> Ints {
    let own = word(head, own);
    if g < 4 {
        return bits(own, 8 * g, 63);
    }
    above_4(bits(word(head, 12), 8 * (g - 4) + shift, 15), bits(own, 8 * (g - 4) + 6, 3))
}

/// The codes of Q5_0 and Q5_1.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn five_bits(codes: &[u8], j: usize) -> Ints {
    with_bit(nibbles(codes, 1, j), line(codes, 0), j, 4)
}

/// The codes of Q2_K and TQ2_0, and from line 8 on the low bits of Q3_K.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn two_bits(codes: &[u8], first: usize, b: usize, j: usize) -> Ints {
    field(line(codes, first + b / 4 * 8 + j), 2 * (b % 4), 3)
}

/// The digit after the first `n` of each byte, a fraction in base 3: one for 86 / 256 and above, one
/// more for 171 / 256 and above.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn digit(x: Ints, n: usize) -> Ints {
    let (one, two) = (_mm256_set1_epi8(86), _mm256_set1_epi8(171u8 as i8));
    x.map(|mut x| {
        for _ in 0..n {
            x = _mm256_add_epi8(x, _mm256_add_epi8(x, x));
        }
        let one = _mm256_cmpeq_epi8(_mm256_max_epu8(x, one), x);
        let two = _mm256_cmpeq_epi8(_mm256_max_epu8(x, two), x);
        _mm256_abs_epi8(_mm256_add_epi8(one, two))
    })
}

macro_rules! formats {
    ($($name:ident: fit $fit:literal { $($body:tt)* })*) => {
        $(pub(super) struct $name;
        impl Format for $name {
            const DTYPE: DType = DType::$name;
            const FIT: usize = $fit;
            $($body)*
        })*
    };
}

/// `four` of a format: an expression of `codes`, `B` and `j`.
macro_rules! four {
    (|$codes:ident, $b:ident, $j:ident| $four:expr) => {
        #[inline]
        #[target_feature(enable = "avx2,fma,f16c")]
        unsafe fn four<const $b: usize>($codes: &[u8], $j: usize) -> Ints {
            $four
        }
    };
}

/// `scales` of a format: an expression of `head`, `B` and `h`; or the block's one number.
macro_rules! scales {
    () => {
        scales!(|head, B, _h| half(head, 0));
    };
    (|$head:ident, $b:ident, $h:ident| $scales:expr) => {
        #[inline]
        #[target_feature(enable = "avx2,fma,f16c")]
        unsafe fn scales<const $b: usize>($head: &[u8], $h: usize) -> Floats {
            $scales
        }
    };
}

/// `mins` likewise.
macro_rules! mins {
    () => {
        mins!(|head, B, _h| half(head, 1));
    };
    (|$head:ident, $b:ident, $h:ident| $mins:expr) => {
        #[inline]
        #[target_feature(enable = "avx2,fma,f16c")]
        unsafe fn mins<const $b: usize>($head: &[u8], $h: usize) -> Floats {
            $mins
        }
    };
}

formats! {
    Q4_0: fit 8 {
        four!(|codes, B, j| nibbles(codes, 0, j));
        scales!();
    }
    Q4_1: fit 8 {
        four!(|codes, B, j| nibbles(codes, 0, j));
        scales!();
        mins!();
    }
    Q5_0: fit 4 {
        four!(|codes, B, j| five_bits(codes, j));
        scales!();
    }
    Q5_1: fit 4 {
        four!(|codes, B, j| five_bits(codes, j));
        scales!();
        mins!();
    }
    Q8_0: fit 1 {
        const SIGNED: bool = true;
        four!(|codes, B, j| line(codes, j));
        scales!();
    }
    Iq4Nl: fit 1 {
        const SIGNED: bool = true;
        four!(|codes, B, j| look_up(&IQ4_VALUES, 0, nibbles(codes, 0, j)));
        scales!();
    }
    Mxfp4: fit 4 {
        four!(|codes, B, j| look_up(&E2M1_DOUBLED, 12, nibbles(codes, 0, j)));
        scales!(|head, B, _h| exponents(head));
    }
    Q2K: fit 8 {
        const OF_16: bool = true;
        four!(|codes, B, j| two_bits(codes, 0, B, j));
        scales!(|head, B, h| {
            let g = 2 * B + h;
            scaled(half(head, 0), bits(word(head, 4 + g / 4 * 4), 8 * (g % 4), 15), 0)
        });
        mins!(|head, B, h| {
            let g = 2 * B + h;
            let min = bits(word(head, 4 + g / 4 * 4), 8 * (g % 4) + 4, 15);
            negative(scaled(half(head, 1), min, 0))
        });
    }
    Q3K: fit 8 {
        const OF_16: bool = true;
        four!(|codes, B, j| with_bit(two_bits(codes, 8, B, j), line(codes, j), B, 2));
        scales!(|head, B, h| {
            let g = 2 * B + h;
            let low = bits(word(head, 2 + g % 8 / 4 * 4), 8 * (g % 4) + 4 * (g / 8), 15);
            let high = bits(word(head, 10), 8 * (g % 4) + 2 * (g / 4), 3);
            scaled(half(head, 0), above_4(low, high), 32)
        });
    }
    Q4K: fit 8 {
        four!(|codes, B, j| field(line(codes, B / 2 * 8 + j), 4 * (B % 2), 15));
        scales!(|head, B, _h| scaled(half(head, 0), of_6_bits(head, 4, 0, B), 0));
        mins!(|head, B, _h| negative(scaled(half(head, 1), of_6_bits(head, 8, 4, B), 0)));
    }
    Q5K: fit 4 {
        four!(|codes, B, j| {
            let low = field(line(codes, 8 + B / 2 * 8 + j), 4 * (B % 2), 15);
            with_bit(low, line(codes, j), B, 4)
        });
        scales!(|head, B, _h| scaled(half(head, 0), of_6_bits(head, 4, 0, B), 0));
        mins!(|head, B, _h| negative(scaled(half(head, 1), of_6_bits(head, 8, 4, B), 0)));
    }
    Q6K: fit 2 {
        const OF_16: bool = true;
        four!(|codes, B, j| {
            let (half, i) = (B / 4, B % 4);
            let low = field(line(codes, half * 16 + i % 2 * 8 + j), 4 * (i / 2), 15);
            above_4(low, field(line(codes, 32 + half * 8 + j), 2 * i, 3))
        });
        scales!(|head, B, h| {
            let g = 2 * B + h;
            let up = _mm_cvtsi32_si128(24 - 8 * (g as i32 % 4));
            let s = word(head, 2 + g / 4 * 4);
            let s = s.map(|s| _mm256_srai_epi32::<24>(_mm256_sll_epi32(s, up)));
            scaled(half(head, 0), s, 0)
        });
    }
    Iq4Xs: fit 1 {
        const SIGNED: bool = true;
        four!(|codes, B, j| look_up(&IQ4_VALUES, 0, nibbles(codes, 4 * B, j)));
        scales!(|head, B, _h| {
            let high = pairs(head, 1).map(|x| _mm256_cvtepu16_epi32(x));
            let s = above_4(bits(word(head, 4), 4 * B, 15), bits(high, 2 * B, 3));
            scaled(half(head, 0), s, 32)
        });
    }
    Tq1_0: fit 8 {
        // Digits of fractions in base 3. Five of each of 32 bytes are the first 160 weights; five of
        // each of 16 bytes the next 80; four of each of 4 bytes the rest.
        four!(|codes, B, j| {
            let (at, n) = match (B, j) {
                (0..5, _) => (j, B),
                (7, 4..) => (12, j - 4),
                _ => (8 + j % 4, 2 * (B - 5) + j / 4),
            };
            digit(line(codes, at), n)
        });
        scales!();
    }
    Tq2_0: fit 8 {
        four!(|codes, B, j| two_bits(codes, 0, B, j));
        scales!();
    }
}

/// Half of 2^(e - 127), of the head's first bytes: exponent e - 1, or for 0 and 1 the subnormals
/// 2^-128 and 2^-127.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn exponents(head: &[u8]) -> Floats {
    [0, 1].map(|i| {
        let e = &head[8 * i..8 * i + 8];
        // SAFETY: 8 bytes are read, of any alignment.
        let e = _mm256_cvtepu8_epi32(unsafe { _mm_loadl_epi64(e.as_ptr().cast()) });
        let one = _mm256_set1_epi32(1);
        let normal = _mm256_slli_epi32::<23>(_mm256_sub_epi32(e, one));
        let tiny = _mm256_sllv_epi32(_mm256_set1_epi32(0x0020_0000), e);
        _mm256_castsi256_ps(_mm256_blendv_epi8(tiny, normal, _mm256_cmpgt_epi32(e, one)))
    })
}
