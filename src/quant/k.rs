//! K-quants: super-blocks of 256 weights, in groups whose scales are small integers themselves.
//!
//! ```text
//!                                                                       groups
//! Q2_K  s:u8[16]  q:u8[64]               d:f16 m:f16                    16 of 16
//! Q3_K  h:u8[32]  q:u8[64]   s:u8[12]    d:f16                          16 of 16
//! Q4_K  d:f16 m:f16  s:u8[12]            q:u8[128]                      8 of 32
//! Q5_K  d:f16 m:f16  s:u8[12]  h:u8[32]  q:u8[128]                      8 of 32
//! Q6_K  q:u8[128]  h:u8[64]  s:i8[16]    d:f16                          16 of 16
//!
//! Q2_K  w = d * (s[g] & 15) * q - m * (s[g] >> 4)
//! Q3_K  w = d * (scale[g] - 32) * (q + 4 h - 4)
//! Q4_K  w = d * scale[g] * q - m * min[g]
//! Q5_K  w = d * scale[g] * (q + 16 h) - m * min[g]
//! Q6_K  w = d * s[g] * (q + 16 h - 32)
//! ```
//! Where the bits of weight `i` are:
//! ```text
//! Q2_K, Q3_K   q[i/128*32 + i%32], bits 2*(i/32%4) and the next     h[i%32], bit i/32
//! Q4_K, Q5_K   q[i/64*32 + i%32], low nibble if i%64 < 32           h[i%32], bit i/32
//! Q6_K         q[i/128*64 + i%64], low nibble if i%128 < 64         h[i/128*32 + i%32],
//!                                                                   bits 2*(i/32%4) and the next
//! ```
//! The 6-bit scales `A..P` of Q3_K, four low bits first, and the 6-bit scales `A..H` and minima
//! `a..h` of Q4_K and Q5_K, one byte to a column:
//! ```text
//!       s[0]     s[1]     s[2]     s[3]     s[4]     ..  s[7]     s[8]      ..  s[11]
//! Q3_K  IIIIAAAA JJJJBBBB KKKKCCCC LLLLDDDD MMMMEEEE ..  PPPPHHHH MMIIEEAA  ..  PPLLHHDD
//! Q4_K  EEAAAAAA FFBBBBBB GGCCCCCC HHDDDDDD eeaaaaaa ..  hhdddddd eeeeEEEE  ..  hhhhHHHH
//! ```
//! Everything little-endian. Source: the block structures of GGUF's types.

use super::{Codes, Format, Layout, f16_at, f16_is_finite};
use crate::base::dtype::DType;

/// 2 bits, scales and minima of 4 bits for 16.
pub(super) struct Q2K;
/// 3 bits, scales of 6 bits for 16.
pub(super) struct Q3K;
/// 4 bits, scales and minima of 6 bits for 32.
pub(super) struct Q4K;
/// 5 bits, scales and minima of 6 bits for 32.
pub(super) struct Q5K;
/// 6 bits, scales of 8 bits for 16.
pub(super) struct Q6K;

const OF_16: Layout = Layout { group: 16, signed: false };
const OF_32: Layout = Layout { group: 32, signed: false };

/// The codes of 256 weights, of `bits` bits each. `WIDTH` bytes hold as many planes as fit: first the
/// lowest bits of all of them, for `WIDTH` neighbouring weights; then the next higher ones; then
/// come the next bytes.
#[inline(always)]
fn planes<const WIDTH: usize>(q: &[u8], bits: usize) -> [u8; 256] {
    let mut out = [0; 256];
    let n_planes = 256 / q.len();
    let mask = (1u8 << bits) - 1;
    for (i, out) in out.as_chunks_mut::<WIDTH>().0.iter_mut().enumerate() {
        let (n, shift) = (i / n_planes, i % n_planes * bits);
        for (out, q) in out.iter_mut().zip(&q[n * WIDTH..(n + 1) * WIDTH]) {
            *out = q >> shift & mask;
        }
    }
    out
}

/// Codes whose high bits are kept apart from their `low_bits` low ones.
#[inline(always)]
fn joined(low: [u8; 256], low_bits: usize, high: [u8; 256]) -> [u8; 256] {
    std::array::from_fn(|i| low[i] | high[i] << low_bits)
}

/// Writes codes as the signed bytes that kernels take.
#[inline(always)]
fn put_codes(codes: &mut [i8], from: &[u8; 256]) {
    for (code, from) in codes.iter_mut().zip(from) {
        *code = *from as i8;
    }
}

/// The 16 scales of Q3_K, without the 32 that is taken off.
#[inline]
fn scales_of_6_bits(s: &[u8]) -> [u8; 16] {
    std::array::from_fn(|g| {
        let low = s[g % 8] >> (4 * (g / 8)) & 15;
        let high = s[8 + g % 4] >> (2 * (g / 4)) & 3;
        low | high << 4
    })
}

/// The 8 scales and the 8 minima of Q4_K and Q5_K.
#[inline]
fn scales_and_minima(s: &[u8]) -> ([u8; 8], [u8; 8]) {
    let field = |from: usize, shift: usize, g: usize| {
        if g < 4 {
            s[from + g] & 63
        } else {
            s[8 + g - 4] >> shift & 15 | s[from + g - 4] >> 6 << 4
        }
    };
    (std::array::from_fn(|g| field(0, 0, g)), std::array::from_fn(|g| field(4, 4, g)))
}

/// Weights from codes, for formats with minima: `(d * scale) * code - (m * min)`, in this order.
#[inline]
fn decode_with_minima<const GROUP: usize>(
    out: &mut [f32],
    (d, m): (f32, f32),
    scales: &[u8],
    mins: &[u8],
    codes: &[u8; 256],
) {
    let groups = out.chunks_exact_mut(GROUP).zip(codes.chunks_exact(GROUP));
    for (g, (out, codes)) in groups.enumerate() {
        let (scale, min) = (d * f32::from(scales[g]), m * f32::from(mins[g]));
        for (w, code) in out.iter_mut().zip(codes) {
            *w = scale * f32::from(*code) - min;
        }
    }
}

impl Q2K {
    /// Scales and minima of the groups.
    fn groups(block: &[u8]) -> ([u8; 16], [u8; 16]) {
        (std::array::from_fn(|g| block[g] & 15), std::array::from_fn(|g| block[g] >> 4))
    }

    /// The codes, 0 to 3.
    fn codes(block: &[u8]) -> [u8; 256] {
        planes::<32>(&block[16..80], 2)
    }
}

impl Format for Q2K {
    const DTYPE: DType = DType::Q2K;

    fn decode(block: &[u8], out: &mut [f32]) {
        let (scales, mins) = Q2K::groups(block);
        let d = (f16_at(block, 80), f16_at(block, 82));
        decode_with_minima::<16>(out, d, &scales, &mins, &Q2K::codes(block));
    }

    fn is_finite(block: &[u8]) -> bool {
        f16_is_finite(block, 80) & f16_is_finite(block, 82)
    }
}

impl Codes for Q2K {
    const LAYOUT: Layout = OF_16;

    fn expand(block: &[u8], codes: &mut [i8], scales: &mut [f32], mins: &mut [f32]) {
        let (s, m) = Q2K::groups(block);
        for g in 0..16 {
            scales[g] = f16_at(block, 80) * f32::from(s[g]);
            mins[g] = -(f16_at(block, 82) * f32::from(m[g]));
        }
        put_codes(codes, &Q2K::codes(block));
    }
}

impl Q3K {
    /// The codes, 0 to 7.
    fn codes(block: &[u8]) -> [u8; 256] {
        joined(planes::<32>(&block[32..96], 2), 2, planes::<32>(&block[..32], 1))
    }
}

impl Format for Q3K {
    const DTYPE: DType = DType::Q3K;

    fn decode(block: &[u8], out: &mut [f32]) {
        let (d, scales) = (f16_at(block, 108), scales_of_6_bits(&block[96..108]));
        for (i, (w, code)) in out.iter_mut().zip(Q3K::codes(block)).enumerate() {
            let scale = d * (f32::from(scales[i / 16]) - 32.0);
            *w = scale * (f32::from(code) - 4.0);
        }
    }

    fn is_finite(block: &[u8]) -> bool {
        f16_is_finite(block, 108)
    }
}

impl Codes for Q3K {
    const LAYOUT: Layout = OF_16;

    fn expand(block: &[u8], codes: &mut [i8], scales: &mut [f32], mins: &mut [f32]) {
        let (d, s) = (f16_at(block, 108), scales_of_6_bits(&block[96..108]));
        for g in 0..16 {
            scales[g] = d * (f32::from(s[g]) - 32.0);
            mins[g] = -4.0 * scales[g];
        }
        put_codes(codes, &Q3K::codes(block));
    }
}

impl Q4K {
    /// The codes, 0 to 15.
    fn codes(block: &[u8]) -> [u8; 256] {
        planes::<32>(&block[16..], 4)
    }
}

impl Format for Q4K {
    const DTYPE: DType = DType::Q4K;

    fn decode(block: &[u8], out: &mut [f32]) {
        let (scales, mins) = scales_and_minima(&block[4..16]);
        let d = (f16_at(block, 0), f16_at(block, 2));
        decode_with_minima::<32>(out, d, &scales, &mins, &Q4K::codes(block));
    }

    fn is_finite(block: &[u8]) -> bool {
        f16_is_finite(block, 0) & f16_is_finite(block, 2)
    }
}

impl Codes for Q4K {
    const LAYOUT: Layout = OF_32;

    fn expand(block: &[u8], codes: &mut [i8], scales: &mut [f32], mins: &mut [f32]) {
        expand_groups_of_32(block, scales, mins);
        put_codes(codes, &Q4K::codes(block));
    }
}

/// Scales and minima of Q4_K and Q5_K.
fn expand_groups_of_32(block: &[u8], scales: &mut [f32], mins: &mut [f32]) {
    let (s, m) = scales_and_minima(&block[4..16]);
    for g in 0..8 {
        scales[g] = f16_at(block, 0) * f32::from(s[g]);
        mins[g] = -(f16_at(block, 2) * f32::from(m[g]));
    }
}

impl Q5K {
    /// The codes, 0 to 31.
    fn codes(block: &[u8]) -> [u8; 256] {
        joined(planes::<32>(&block[48..], 4), 4, planes::<32>(&block[16..48], 1))
    }
}

impl Format for Q5K {
    const DTYPE: DType = DType::Q5K;

    fn decode(block: &[u8], out: &mut [f32]) {
        let (scales, mins) = scales_and_minima(&block[4..16]);
        let d = (f16_at(block, 0), f16_at(block, 2));
        decode_with_minima::<32>(out, d, &scales, &mins, &Q5K::codes(block));
    }

    fn is_finite(block: &[u8]) -> bool {
        f16_is_finite(block, 0) & f16_is_finite(block, 2)
    }
}

impl Codes for Q5K {
    const LAYOUT: Layout = OF_32;

    fn expand(block: &[u8], codes: &mut [i8], scales: &mut [f32], mins: &mut [f32]) {
        expand_groups_of_32(block, scales, mins);
        put_codes(codes, &Q5K::codes(block));
    }
}

impl Q6K {
    /// The codes, 0 to 63.
    fn codes(block: &[u8]) -> [u8; 256] {
        joined(planes::<64>(&block[..128], 4), 4, planes::<32>(&block[128..192], 2))
    }
}

impl Format for Q6K {
    const DTYPE: DType = DType::Q6K;

    fn decode(block: &[u8], out: &mut [f32]) {
        let d = f16_at(block, 208);
        for (i, (w, code)) in out.iter_mut().zip(Q6K::codes(block)).enumerate() {
            let scale = d * f32::from(block[192 + i / 16] as i8);
            *w = scale * (f32::from(code) - 32.0);
        }
    }

    fn is_finite(block: &[u8]) -> bool {
        f16_is_finite(block, 208)
    }
}

impl Codes for Q6K {
    const LAYOUT: Layout = OF_16;

    fn expand(block: &[u8], codes: &mut [i8], scales: &mut [f32], mins: &mut [f32]) {
        for g in 0..16 {
            scales[g] = f16_at(block, 208) * f32::from(block[192 + g] as i8);
            mins[g] = -32.0 * scales[g];
        }
        put_codes(codes, &Q6K::codes(block));
    }
}
