//! Ternary weights: -1, 0 and 1 times one scale for 256.
//!
//! ```text
//! TQ1_0  q:u8[48]  h:u8[4]  d:f16      five weights to a byte, in base 3; four in those of h
//! TQ2_0  q:u8[64]           d:f16      four weights to a byte, two bits each
//!
//! TQ1_0  weights 0..160    digit i/32 of q[i%32]
//!        weights 160..240  digit (i-160)/16 of q[32 + (i-160)%16]
//!        weights 240..256  digit (i-240)/4 of h[(i-240)%4]
//! TQ2_0  weight i          bits 2*(i/32%4) and the next of q[i/128*32 + i%32]
//! ```
//! A byte of TQ1_0 is the fraction `v / 243` of 256, rounded up, where `v` is the number whose five
//! digits in base 3 are the weights plus one, the first the most significant. So digit `n` is the
//! integer part of `3 * fraction(byte / 256 * 3^n)`: two multiplications, no division.
//! Weights are `(digit - 1) * d`, and `(field - 1) * d`. Source: GGUF's block structures.

use super::{Codes, Encode, Format, Layout, f16_at, f16_is_finite, put_f16};
use crate::base::dtype::DType;

/// Ternary, five to a byte.
pub(super) struct Tq1_0;
/// Ternary, four to a byte.
pub(super) struct Tq2_0;

const LAYOUT: Layout = Layout { group: 32, signed: false };

/// Where the runs of TQ1_0 start, in bytes and in weights, their bytes, and their digits.
const RUNS: [(usize, usize, usize, usize); 3] = [(0, 0, 32, 5), (32, 160, 16, 5), (48, 240, 4, 4)];
const POWERS: [u8; 5] = [1, 3, 9, 27, 81];

impl Tq1_0 {
    /// Calls `f(i, digit)` for each weight.
    #[inline]
    fn digits(block: &[u8], mut f: impl FnMut(usize, u8)) {
        for (byte, weight, n_bytes, n_digits) in RUNS {
            for (n, power) in POWERS[..n_digits].iter().enumerate() {
                for (j, q) in block[byte..byte + n_bytes].iter().enumerate() {
                    let fraction = q.wrapping_mul(*power);
                    f(weight + n * n_bytes + j, ((u16::from(fraction) * 3) >> 8) as u8);
                }
            }
        }
    }
}

impl Format for Tq1_0 {
    const DTYPE: DType = DType::Tq1_0;

    fn decode(block: &[u8], out: &mut [f32]) {
        let d = f16_at(block, 52);
        Tq1_0::digits(block, |i, digit| out[i] = d * (f32::from(digit) - 1.0));
    }

    fn is_finite(block: &[u8]) -> bool {
        f16_is_finite(block, 52)
    }
}

impl Codes for Tq1_0 {
    const LAYOUT: Layout = LAYOUT;

    fn expand(block: &[u8], codes: &mut [i8], scales: &mut [f32], mins: &mut [f32]) {
        let d = f16_at(block, 52);
        scales.fill(d);
        mins.fill(-d);
        Tq1_0::digits(block, |i, digit| codes[i] = digit as i8);
    }
}

impl Tq2_0 {
    /// The fields of all weights.
    fn fields(block: &[u8]) -> [u8; 256] {
        let mut out = [0; 256];
        for (i, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
            for (out, q) in out.iter_mut().zip(&block[i / 4 * 32..]) {
                *out = q >> (2 * (i % 4)) & 3;
            }
        }
        out
    }
}

impl Format for Tq2_0 {
    const DTYPE: DType = DType::Tq2_0;

    fn decode(block: &[u8], out: &mut [f32]) {
        let d = f16_at(block, 64);
        for (w, field) in out.iter_mut().zip(Tq2_0::fields(block)) {
            *w = d * (f32::from(field) - 1.0);
        }
    }

    fn is_finite(block: &[u8]) -> bool {
        f16_is_finite(block, 64)
    }
}

impl Codes for Tq2_0 {
    const LAYOUT: Layout = LAYOUT;

    fn expand(block: &[u8], codes: &mut [i8], scales: &mut [f32], mins: &mut [f32]) {
        let d = f16_at(block, 64);
        scales.fill(d);
        mins.fill(-d);
        for (code, field) in codes.iter_mut().zip(Tq2_0::fields(block)) {
            *code = field as i8;
        }
    }
}

/// The weights as -1, 0 or 1 plus one, and their scale: the largest magnitude.
fn trits(x: &[f32]) -> ([u8; 256], f32) {
    let d = x.iter().fold(0.0f32, |max, x| max.max(x.abs()));
    let inverse = if d == 0.0 { 0.0 } else { 1.0 / d };
    (std::array::from_fn(|i| ((x[i] * inverse).round() + 1.0) as u8), d)
}

impl Encode for Tq1_0 {
    fn encode(x: &[f32], block: &mut [u8]) {
        let (trits, d) = trits(x);
        for (byte, weight, n_bytes, n_digits) in RUNS {
            for j in 0..n_bytes {
                let v = (0..n_digits).fold(0, |v, n| {
                    v + u16::from(trits[weight + n * n_bytes + j]) * u16::from(POWERS[4 - n])
                });
                block[byte + j] = (v * 256).div_ceil(243) as u8;
            }
        }
        put_f16(block, 52, d);
    }
}

impl Encode for Tq2_0 {
    fn encode(x: &[f32], block: &mut [u8]) {
        let (trits, d) = trits(x);
        for (j, byte) in block[..64].iter_mut().enumerate() {
            let first = j / 32 * 128 + j % 32;
            *byte = (0..4).fold(0, |byte, n| byte | trits[first + 32 * n] << (2 * n));
        }
        put_f16(block, 64, d);
    }
}
