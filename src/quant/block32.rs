//! Blocks of 32 weights with one scale, and for some a minimum.
//!
//! ```text
//! Q4_0   d:f16                    q:u8[16]                w = (q - 8) * d
//! Q4_1   d:f16  m:f16             q:u8[16]                w = q * d + m
//! Q5_0   d:f16         h:u32      q:u8[16]                w = (q + 16 h - 16) * d
//! Q5_1   d:f16  m:f16  h:u32      q:u8[16]                w = (q + 16 h) * d + m
//! Q8_0   d:f16                    q:i8[32]                w = q * d
//!
//! the byte q[i] of the first four:   7 6 5 4  3 2 1 0
//!                                    w[i+16]  w[i]
//! the bits of h:                     bit i is the fifth bit of w[i]
//! ```
//! Everything little-endian. Source: the block structures of GGUF's types; encoders round as the
//! reference quantiser of those types does, which divides by the scale before it is rounded to half
//! precision.

use super::{Codes, Encode, Format, Layout, f16_at, f16_is_finite, put_f16};
use crate::base::dtype::DType;

/// 4 bits, one scale.
pub(super) struct Q4_0;
/// 4 bits, scale and minimum.
pub(super) struct Q4_1;
/// 5 bits, one scale.
pub(super) struct Q5_0;
/// 5 bits, scale and minimum.
pub(super) struct Q5_1;
/// 8 bits, one scale.
pub(super) struct Q8_0;

const UNSIGNED: Layout = Layout { group: 32, signed: false };

/// The 32 nibbles of 16 bytes, the low ones first.
#[inline]
pub(super) fn nibbles(q: &[u8]) -> [u8; 32] {
    let mut out = [0; 32];
    let (low, high) = out.split_at_mut(16);
    for (q, (low, high)) in q[..16].iter().zip(low.iter_mut().zip(high)) {
        (*low, *high) = (q & 15, q >> 4);
    }
    out
}

/// The same, with fifth bits.
#[inline]
fn fives(h: &[u8], q: &[u8]) -> [u8; 32] {
    let mut out = nibbles(q);
    for (out, h) in out.as_chunks_mut::<8>().0.iter_mut().zip(h) {
        for (i, out) in out.iter_mut().enumerate() {
            *out |= (h >> i & 1) << 4;
        }
    }
    out
}

impl Format for Q4_0 {
    const DTYPE: DType = DType::Q4_0;

    fn decode(block: &[u8], out: &mut [f32]) {
        let d = f16_at(block, 0);
        for (w, q) in out.iter_mut().zip(nibbles(&block[2..])) {
            *w = d * (f32::from(q) - 8.0);
        }
    }

    fn is_finite(block: &[u8]) -> bool {
        f16_is_finite(block, 0)
    }
}

impl Codes for Q4_0 {
    const LAYOUT: Layout = UNSIGNED;

    fn expand(block: &[u8], codes: &mut [i8], scales: &mut [f32], mins: &mut [f32]) {
        let d = f16_at(block, 0);
        (scales[0], mins[0]) = (d, -8.0 * d);
        for (code, q) in codes.iter_mut().zip(nibbles(&block[2..])) {
            *code = q as i8;
        }
    }
}

impl Format for Q4_1 {
    const DTYPE: DType = DType::Q4_1;

    fn decode(block: &[u8], out: &mut [f32]) {
        let (d, m) = (f16_at(block, 0), f16_at(block, 2));
        for (w, q) in out.iter_mut().zip(nibbles(&block[4..])) {
            *w = d * f32::from(q) + m;
        }
    }

    fn is_finite(block: &[u8]) -> bool {
        f16_is_finite(block, 0) & f16_is_finite(block, 2)
    }
}

impl Codes for Q4_1 {
    const LAYOUT: Layout = UNSIGNED;

    fn expand(block: &[u8], codes: &mut [i8], scales: &mut [f32], mins: &mut [f32]) {
        (scales[0], mins[0]) = (f16_at(block, 0), f16_at(block, 2));
        for (code, q) in codes.iter_mut().zip(nibbles(&block[4..])) {
            *code = q as i8;
        }
    }
}

impl Format for Q5_0 {
    const DTYPE: DType = DType::Q5_0;

    fn decode(block: &[u8], out: &mut [f32]) {
        let d = f16_at(block, 0);
        let q = fives(&block[2..6], &block[6..]);
        for (w, q) in out.iter_mut().zip(q) {
            *w = d * (f32::from(q) - 16.0);
        }
    }

    fn is_finite(block: &[u8]) -> bool {
        f16_is_finite(block, 0)
    }
}

impl Codes for Q5_0 {
    const LAYOUT: Layout = UNSIGNED;

    fn expand(block: &[u8], codes: &mut [i8], scales: &mut [f32], mins: &mut [f32]) {
        let d = f16_at(block, 0);
        (scales[0], mins[0]) = (d, -16.0 * d);
        let q = fives(&block[2..6], &block[6..]);
        for (code, q) in codes.iter_mut().zip(q) {
            *code = q as i8;
        }
    }
}

impl Format for Q5_1 {
    const DTYPE: DType = DType::Q5_1;

    fn decode(block: &[u8], out: &mut [f32]) {
        let (d, m) = (f16_at(block, 0), f16_at(block, 2));
        let q = fives(&block[4..8], &block[8..]);
        for (w, q) in out.iter_mut().zip(q) {
            *w = d * f32::from(q) + m;
        }
    }

    fn is_finite(block: &[u8]) -> bool {
        f16_is_finite(block, 0) & f16_is_finite(block, 2)
    }
}

impl Codes for Q5_1 {
    const LAYOUT: Layout = UNSIGNED;

    fn expand(block: &[u8], codes: &mut [i8], scales: &mut [f32], mins: &mut [f32]) {
        (scales[0], mins[0]) = (f16_at(block, 0), f16_at(block, 2));
        let q = fives(&block[4..8], &block[8..]);
        for (code, q) in codes.iter_mut().zip(q) {
            *code = q as i8;
        }
    }
}

impl Format for Q8_0 {
    const DTYPE: DType = DType::Q8_0;

    fn decode(block: &[u8], out: &mut [f32]) {
        let d = f16_at(block, 0);
        for (w, &q) in out.iter_mut().zip(&block[2..]) {
            *w = f32::from(q as i8) * d;
        }
    }

    fn is_finite(block: &[u8]) -> bool {
        f16_is_finite(block, 0)
    }
}

impl Codes for Q8_0 {
    const LAYOUT: Layout = Layout { group: 32, signed: true };

    fn expand(block: &[u8], codes: &mut [i8], scales: &mut [f32], mins: &mut [f32]) {
        (scales[0], mins[0]) = (f16_at(block, 0), 0.0);
        for (code, &q) in codes.iter_mut().zip(&block[2..]) {
            *code = q as i8;
        }
    }
}

/// Encodes with codes 0 to `2 * half - 1` around a zero point of `half`: the weight of largest
/// magnitude becomes code 0.
fn symmetric(x: &[f32], half: f32, block: &mut [u8]) -> [u8; 32] {
    let mut max = 0.0f32;
    for &x in x {
        if x.abs() > max.abs() {
            max = x;
        }
    }
    let d = max / -half;
    let inverse = if d == 0.0 { 0.0 } else { 1.0 / d };
    put_f16(block, 0, d);
    std::array::from_fn(|i| (x[i] * inverse + (half + 0.5)).min(2.0 * half - 1.0) as u8)
}

/// Encodes with codes 0 to `top` from the least weight to the greatest.
fn ranged(x: &[f32], top: f32, block: &mut [u8]) -> [u8; 32] {
    let max = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let min = x.iter().copied().fold(f32::INFINITY, f32::min);
    let d = (max - min) / top;
    let inverse = if d == 0.0 { 0.0 } else { 1.0 / d };
    put_f16(block, 0, d);
    put_f16(block, 2, min);
    std::array::from_fn(|i| ((x[i] - min) * inverse + 0.5).min(top) as u8)
}

/// Writes the low four bits of each code, two to a byte.
fn put_nibbles(codes: &[u8; 32], out: &mut [u8]) {
    for (i, byte) in out.iter_mut().enumerate() {
        *byte = codes[i] & 15 | codes[i + 16] << 4;
    }
}

/// Writes the fifth bit of each code.
fn put_fifth_bits(codes: &[u8; 32], out: &mut [u8]) {
    let bits = codes.iter().enumerate().fold(0, |bits, (i, &q)| bits | u32::from(q >> 4 & 1) << i);
    out.copy_from_slice(&bits.to_le_bytes());
}

impl Encode for Q4_0 {
    fn encode(x: &[f32], block: &mut [u8]) {
        let codes = symmetric(x, 8.0, block);
        put_nibbles(&codes, &mut block[2..]);
    }
}

impl Encode for Q4_1 {
    fn encode(x: &[f32], block: &mut [u8]) {
        let codes = ranged(x, 15.0, block);
        put_nibbles(&codes, &mut block[4..]);
    }
}

impl Encode for Q5_0 {
    fn encode(x: &[f32], block: &mut [u8]) {
        let codes = symmetric(x, 16.0, block);
        put_fifth_bits(&codes, &mut block[2..6]);
        put_nibbles(&codes, &mut block[6..]);
    }
}

impl Encode for Q5_1 {
    fn encode(x: &[f32], block: &mut [u8]) {
        let codes = ranged(x, 31.0, block);
        put_fifth_bits(&codes, &mut block[4..8]);
        put_nibbles(&codes, &mut block[8..]);
    }
}

impl Encode for Q8_0 {
    fn encode(x: &[f32], block: &mut [u8]) {
        let d = x.iter().fold(0.0f32, |max, x| max.max(x.abs())) / 127.0;
        let inverse = if d == 0.0 { 0.0 } else { 1.0 / d };
        put_f16(block, 0, d);
        for (q, x) in block[2..].iter_mut().zip(x) {
            *q = (x * inverse).round() as i8 as u8;
        }
    }
}
