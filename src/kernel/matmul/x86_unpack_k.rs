//! From a file's blocks to the rows of a panel, for x86-64: blocks of 256.
//!
//! A plane is what one position of the bits in 32 or 64 bytes holds: the codes of so many
//! neighbouring weights. So a vector of bytes gives its planes by shifts, in their order.

use std::arch::x86_64::*;

use super::x86::Row;
use super::x86_unpack::{half, load, load_half, nibbles, part, store, store_floats, table};
use crate::quant::IQ4_VALUES;

/// The bits `mask` of each byte of `x >> shift`. Bits that a shift brings in from the next byte lie
/// outside of the masks used.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn plane(x: __m256i, shift: i32, mask: i8) -> __m256i {
    _mm256_and_si256(_mm256_srl_epi16(x, _mm_cvtsi32_si128(shift)), _mm256_set1_epi8(mask))
}

/// Eight bytes as floats.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn floats(bytes: [u32; 2]) -> __m256 {
    let bytes = i64::from(bytes[0]) | i64::from(bytes[1]) << 32;
    _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_cvtsi64_si128(bytes)))
}

#[inline]
fn word(bytes: &[u8; 4]) -> u32 {
    u32::from_le_bytes(*bytes)
}

/// Calls `$body` for each block, with its codes, and the scales and minima of its groups.
macro_rules! of_256 {
    ($(#[$doc:meta])* $name:ident, $bytes:literal, $groups:literal,
     |$b:ident, $codes:ident, $scales:ident, $mins:ident| $body:block) => {
        $(#[$doc])*
        #[target_feature(enable = "avx2,fma,f16c")]
        pub(super) fn $name(bytes: &[u8], row: &mut Row) {
            let blocks = bytes.as_chunks::<$bytes>().0;
            let codes = row.codes.as_chunks_mut::<32>().0.as_chunks_mut::<8>().0;
            let scales = row.scales.as_chunks_mut::<8>().0.as_chunks_mut::<{ $groups / 8 }>().0;
            let mins = row.mins.as_chunks_mut::<8>().0.as_chunks_mut::<{ $groups / 8 }>().0;
            let floats = scales.iter_mut().zip(mins);
            for ($b, ($codes, ($scales, $mins))) in blocks.iter().zip(codes.iter_mut().zip(floats)) {
                $body
            }
        }
    };
}

of_256!(q2_k, 84, 16, |b, codes, scales, mins| {
    let (d, m) = (half([b[80], b[81]]), half([b[82], b[83]]));
    for i in 0..2 {
        let s = [word(part!(b, 8 * i, 4)), word(part!(b, 8 * i + 4, 4))];
        let low = floats(s.map(|s| s & 0x0f0f_0f0f));
        let high = floats(s.map(|s| s >> 4 & 0x0f0f_0f0f));
        store_floats(&mut scales[i], _mm256_mul_ps(_mm256_set1_ps(d), low));
        store_floats(&mut mins[i], _mm256_mul_ps(_mm256_set1_ps(-m), high));
        let q = load(part!(b, 16 + 32 * i, 32));
        for p in 0..4 {
            store(&mut codes[4 * i + p], plane(q, 2 * p as i32, 3));
        }
    }
});

of_256!(q3_k, 110, 16, |b, codes, scales, mins| {
    let d = _mm256_set1_ps(half([b[108], b[109]]));
    let (l0, l1) = (word(part!(b, 96, 4)), word(part!(b, 100, 4)));
    let h = word(part!(b, 104, 4));
    let high = load(part!(b, 0, 32));
    for i in 0..2 {
        let scale = |l: u32, h: u32| (l >> (4 * i) & 0x0f0f_0f0f) | (h & 0x0303_0303) << 4;
        let s = floats([scale(l0, h >> (4 * i)), scale(l1, h >> (4 * i + 2))]);
        let s = _mm256_mul_ps(d, _mm256_sub_ps(s, _mm256_set1_ps(32.0)));
        store_floats(&mut scales[i], s);
        store_floats(&mut mins[i], _mm256_mul_ps(s, _mm256_set1_ps(-4.0)));
        let q = load(part!(b, 32 + 32 * i, 32));
        for p in 0..4 {
            let third = _mm256_slli_epi16::<2>(plane(high, (4 * i + p) as i32, 1));
            store(&mut codes[4 * i + p], _mm256_or_si256(plane(q, 2 * p as i32, 3), third));
        }
    }
});

/// The scales and minima of Q4_K and Q5_K.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn scales_and_minima(b: &[u8; 16], scales: &mut [f32; 8], mins: &mut [f32; 8]) {
    let (s0, s4, s8) = (word(part!(b, 4, 4)), word(part!(b, 8, 4)), word(part!(b, 12, 4)));
    let high = |low: u32, from: u32| (low & 0x0f0f_0f0f) | (from >> 6 & 0x0303_0303) << 4;
    let s = floats([s0 & 0x3f3f_3f3f, high(s8, s0)]);
    let m = floats([s4 & 0x3f3f_3f3f, high(s8 >> 4, s4)]);
    store_floats(scales, _mm256_mul_ps(_mm256_set1_ps(half([b[0], b[1]])), s));
    store_floats(mins, _mm256_mul_ps(_mm256_set1_ps(-half([b[2], b[3]])), m));
}

of_256!(q4_k, 144, 8, |b, codes, scales, mins| {
    scales_and_minima(part!(b, 0, 16), &mut scales[0], &mut mins[0]);
    for i in 0..4 {
        let q = load(part!(b, 16 + 32 * i, 32));
        store(&mut codes[2 * i], plane(q, 0, 15));
        store(&mut codes[2 * i + 1], plane(q, 4, 15));
    }
});

of_256!(q5_k, 176, 8, |b, codes, scales, mins| {
    scales_and_minima(part!(b, 0, 16), &mut scales[0], &mut mins[0]);
    let high = load(part!(b, 16, 32));
    for i in 0..4 {
        let q = load(part!(b, 48 + 32 * i, 32));
        for p in 0..2 {
            let fifth = _mm256_slli_epi16::<4>(plane(high, (2 * i + p) as i32, 1));
            store(&mut codes[2 * i + p], _mm256_or_si256(plane(q, 4 * p as i32, 15), fifth));
        }
    }
});

of_256!(q6_k, 210, 16, |b, codes, scales, mins| {
    let d = _mm256_set1_ps(half([b[208], b[209]]));
    let s = load_half(part!(b, 192, 16));
    let s = [_mm256_cvtepi8_epi32(s), _mm256_cvtepi8_epi32(_mm_srli_si128::<8>(s))];
    for i in 0..2 {
        let s = _mm256_mul_ps(d, _mm256_cvtepi32_ps(s[i]));
        store_floats(&mut scales[i], s);
        store_floats(&mut mins[i], _mm256_mul_ps(s, _mm256_set1_ps(-32.0)));
        let q = [load(part!(b, 64 * i, 32)), load(part!(b, 64 * i + 32, 32))];
        let high = load(part!(b, 128 + 32 * i, 32));
        for p in 0..4 {
            let low = plane(q[p % 2], 4 * (p / 2) as i32, 15);
            let high = _mm256_slli_epi16::<4>(plane(high, 2 * p as i32, 3));
            store(&mut codes[4 * i + p], _mm256_or_si256(low, high));
        }
    }
});

of_256!(iq4_xs, 136, 8, |b, codes, scales, mins| {
    let low = word(part!(b, 4, 4));
    let high = u32::from(u16::from_le_bytes([b[2], b[3]]));
    // Group g in lane g, by shifts of its own.
    let g = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    let low = _mm256_srlv_epi32(_mm256_set1_epi32(low as i32), _mm256_slli_epi32::<2>(g));
    let high = _mm256_srlv_epi32(_mm256_set1_epi32(high as i32), _mm256_slli_epi32::<1>(g));
    let low = _mm256_and_si256(low, _mm256_set1_epi32(15));
    let high = _mm256_slli_epi32::<4>(_mm256_and_si256(high, _mm256_set1_epi32(3)));
    let s = _mm256_sub_epi32(_mm256_or_si256(low, high), _mm256_set1_epi32(32));
    let d = _mm256_set1_ps(half([b[0], b[1]]));
    store_floats(&mut scales[0], _mm256_mul_ps(d, _mm256_cvtepi32_ps(s)));
    mins[0] = [0.0; 8];
    for i in 0..8 {
        let values = _mm256_shuffle_epi8(table(&IQ4_VALUES), nibbles(part!(b, 8 + 16 * i, 16)));
        store(&mut codes[i], values);
    }
});

of_256!(tq2_0, 66, 8, |b, codes, scales, mins| {
    let d = half([b[64], b[65]]);
    scales[0] = [d; 8];
    mins[0] = [-d; 8];
    for i in 0..2 {
        let q = load(part!(b, 32 * i, 32));
        for p in 0..4 {
            store(&mut codes[4 * i + p], plane(q, 2 * p as i32, 3));
        }
    }
});

/// Three times each byte, without what exceeds it.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn times_3(x: __m256i) -> __m256i {
    _mm256_add_epi8(x, _mm256_add_epi8(x, x))
}

/// The first digit of each fraction: one for 86 / 256 and above, one more for 171 / 256 and above.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn digit(x: __m256i) -> __m256i {
    let at_least = |n: u8| {
        let n = _mm256_set1_epi8(n as i8);
        _mm256_cmpeq_epi8(_mm256_max_epu8(x, n), x)
    };
    let minus = _mm256_add_epi8(at_least(86), at_least(171));
    _mm256_sub_epi8(_mm256_setzero_si256(), minus)
}

of_256!(
    /// The runs of 32, 16 and 4 bytes: five vectors; two and a half, a pair of digits each; the last
    /// half: one digit of 16 bytes, then four digits of 4.
    tq1_0, 54, 8, |b, codes, scales, mins| {
    let d = half([b[52], b[53]]);
    scales[0] = [d; 8];
    mins[0] = [-d; 8];
    let mut x = load(part!(b, 0, 32));
    for codes in &mut codes[..5] {
        store(codes, digit(x));
        x = times_3(x);
    }
    let x = load_half(part!(b, 32, 16));
    let h = _mm_set1_epi32(word(part!(b, 48, 4)) as i32);
    // Lane i of the four-byte run is to be at its digit i.
    let powers = _mm_setr_epi16(1, 1, 3, 3, 9, 9, 27, 27);
    let even = _mm_and_si128(_mm_mullo_epi16(h, powers), _mm_set1_epi16(255));
    let odd = _mm_slli_epi16::<8>(_mm_mullo_epi16(_mm_srli_epi16::<8>(h), powers));
    let h = _mm_or_si128(even, odd);
    let mut x = _mm256_set_m128i(_mm256_castsi256_si128(times_3(_mm256_castsi128_si256(x))), x);
    for codes in &mut codes[5..7] {
        store(codes, digit(x));
        x = times_3(times_3(x));
    }
    store(&mut codes[7], digit(_mm256_set_m128i(h, _mm256_castsi256_si128(x))));
});
