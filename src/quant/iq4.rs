//! Four bits that choose from a table of sixteen values.
//!
//! ```text
//! IQ4_NL  d:f16                             q:u8[16]     32 weights    w = d * TABLE[q]
//! MXFP4   e:u8                              q:u8[16]     32 weights    w = 2^(e-128) * E2M1[q]
//! IQ4_XS  d:f16  h:u16  l:u8[4]             q:u8[128]    256 weights   w = d * (scale[g] - 32)
//!                                                                          * TABLE[q]
//!
//! the byte q[i] of a group of 32:   7 6 5 4  3 2 1 0
//!                                   w[i+16]  w[i]
//! scale[g] of IQ4_XS, 6 bits:       low 4 in nibble g of l, high 2 in bits 2g and 2g+1 of h
//! ```
//! Sources: GGUF's block structures for IQ4_NL, IQ4_XS and the table; the OCP Microscaling (MX)
//! specification 1.0 for MXFP4: the element E2M1 (here doubled, so that it is an integer) and the
//! scale E8M0, whose 255 is NaN.

use super::block32::nibbles;
use super::{Codes, Format, Layout, f16_at, f16_is_finite, u16_at};
use crate::base::dtype::DType;

/// 4 bits into a table, one scale for 32.
pub(super) struct Iq4Nl;
/// 4 bits into the same table, scales of 6 bits for 32.
pub(super) struct Iq4Xs;
/// 4-bit floats, a power-of-two scale for 32.
pub(super) struct Mxfp4;

/// What the codes of IQ4_NL and IQ4_XS stand for.
pub(crate) const TABLE: [i8; 16] =
    [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

/// Twice what the E2M1 codes of MXFP4 stand for.
pub(crate) const E2M1_DOUBLED: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];

impl Format for Iq4Nl {
    const DTYPE: DType = DType::Iq4Nl;

    fn decode(block: &[u8], out: &mut [f32]) {
        let d = f16_at(block, 0);
        for (w, q) in out.iter_mut().zip(nibbles(&block[2..])) {
            *w = d * f32::from(TABLE[usize::from(q)]);
        }
    }

    fn is_finite(block: &[u8]) -> bool {
        f16_is_finite(block, 0)
    }
}

impl Codes for Iq4Nl {
    const LAYOUT: Layout = Layout { group: 32, signed: true };

    fn expand(block: &[u8], codes: &mut [i8], scales: &mut [f32], mins: &mut [f32]) {
        (scales[0], mins[0]) = (f16_at(block, 0), 0.0);
        for (code, q) in codes.iter_mut().zip(nibbles(&block[2..])) {
            *code = TABLE[usize::from(q)];
        }
    }
}

impl Iq4Xs {
    /// The scale of group `g`.
    #[inline]
    fn scale(block: &[u8], g: usize) -> f32 {
        let low = block[4 + g / 2] >> (4 * (g % 2)) & 15;
        let high = u16_at(block, 2) >> (2 * g) & 3;
        f16_at(block, 0) * (f32::from(low) + 16.0 * f32::from(high) - 32.0)
    }
}

impl Format for Iq4Xs {
    const DTYPE: DType = DType::Iq4Xs;

    fn decode(block: &[u8], out: &mut [f32]) {
        for (g, out) in out.chunks_exact_mut(32).enumerate() {
            let scale = Iq4Xs::scale(block, g);
            for (w, q) in out.iter_mut().zip(nibbles(&block[8 + 16 * g..])) {
                *w = scale * f32::from(TABLE[usize::from(q)]);
            }
        }
    }

    fn is_finite(block: &[u8]) -> bool {
        f16_is_finite(block, 0)
    }
}

impl Codes for Iq4Xs {
    const LAYOUT: Layout = Layout { group: 32, signed: true };

    fn expand(block: &[u8], codes: &mut [i8], scales: &mut [f32], mins: &mut [f32]) {
        for (g, codes) in codes.chunks_exact_mut(32).enumerate() {
            (scales[g], mins[g]) = (Iq4Xs::scale(block, g), 0.0);
            for (code, q) in codes.iter_mut().zip(nibbles(&block[8 + 16 * g..])) {
                *code = TABLE[usize::from(q)];
            }
        }
    }
}

/// Half of the number that an E8M0 scale stands for, as the elements are doubled: `2^(e-128)`.
/// 0 and 1 give the subnormal numbers 2^-128 and 2^-127; 255, which is NaN, gives 2^127.
#[inline]
pub(crate) fn half_of_e8m0(e: u8) -> f32 {
    let e = u32::from(e);
    f32::from_bits(if e < 2 { 0x0020_0000 << e } else { (e - 1) << 23 })
}

impl Format for Mxfp4 {
    const DTYPE: DType = DType::Mxfp4;

    fn decode(block: &[u8], out: &mut [f32]) {
        let d = half_of_e8m0(block[0]);
        for (w, q) in out.iter_mut().zip(nibbles(&block[1..])) {
            *w = d * f32::from(E2M1_DOUBLED[usize::from(q)]);
        }
    }

    fn is_finite(block: &[u8]) -> bool {
        let d = half_of_e8m0(block[0]);
        block[0] != 255
            && nibbles(&block[1..])
                .iter()
                .all(|&q| (d * f32::from(E2M1_DOUBLED[usize::from(q)])).is_finite())
    }
}

impl Codes for Mxfp4 {
    const LAYOUT: Layout = Layout { group: 32, signed: false };

    fn expand(block: &[u8], codes: &mut [i8], scales: &mut [f32], mins: &mut [f32]) {
        let d = half_of_e8m0(block[0]);
        (scales[0], mins[0]) = (d, -12.0 * d);
        for (code, q) in codes.iter_mut().zip(nibbles(&block[1..])) {
            *code = E2M1_DOUBLED[usize::from(q)] + 12;
        }
    }
}
