//! Block formats: what the bits of a quantised weight mean.
//!
//! A row of a quantised tensor is a sequence of blocks, each a few scales and many small integers.
//! This module is the reference: scalar, exact, one function for each format. Every value is the
//! one that the reference of the format gives (`gguf.quants` of PyPI's `gguf`), bit by bit; the
//! vectors in `tests/data/quant_vectors.txt` hold that.
//!
//! Two views of a block exist:
//! - [`decode_row`]: the weights as `f32`;
//! - [`expand_row`]: small integer codes with a scale and a minimum for each group of 16 or 32, for
//!   kernels that multiply integers. `weight = scale * code + min`, but for `f32` rounding.
//!
//! Every function here panics when a slice has not the length that the others ask for: sizes have
//! been checked when the file was read.

mod block32;
mod float;
mod iq4;
mod k;
pub mod p16;
mod ternary;

use crate::base::dtype::DType;
#[allow(
    unused_imports,
    reason = "which of them is used depends on the instruction sets of the target"
)]
pub(crate) use iq4::{E2M1_DOUBLED, TABLE as IQ4_VALUES, half_of_e8m0};

/// A format of blocks.
trait Format {
    /// Which one.
    const DTYPE: DType;

    /// Decodes one block into `block_len` weights.
    fn decode(block: &[u8], out: &mut [f32]);

    /// Whether every weight that `block` stands for is a finite number.
    fn is_finite(block: &[u8]) -> bool;
}

/// A format whose blocks are small integers with scales.
trait Codes: Format {
    /// How its codes look.
    const LAYOUT: Layout;

    /// Splits one block into codes, scales and minima; see [`expand_row`].
    fn expand(block: &[u8], codes: &mut [i8], scales: &mut [f32], mins: &mut [f32]);
}

/// A format that weights can be rounded to.
trait Encode: Format {
    /// Encodes `block_len` weights, all finite, into one block.
    fn encode(x: &[f32], block: &mut [u8]);
}

/// How the codes of a quantised type look; see [`expand_row`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Weights that share a scale: 16 or 32.
    pub group: usize,
    /// `true`: codes are of either sign and all minima are zero. `false`: codes are 0 to 127, and
    /// the zero point is in the minimum.
    pub signed: bool,
}

/// Calls `$do!(Type)` for the format of `$dtype`, for all formats.
macro_rules! each_format {
    ($dtype:expr, $do:ident) => {
        match $dtype {
            DType::F32 => $do!(float::F32),
            DType::F16 => $do!(float::F16),
            DType::BF16 => $do!(float::Bf16),
            dtype => each_codes!(dtype, $do, unreachable!("floats are above")),
        }
    };
}

/// The same for the formats of codes; `$other` for the rest.
macro_rules! each_codes {
    ($dtype:expr, $do:ident, $other:expr) => {
        match $dtype {
            DType::Q4_0 => $do!(block32::Q4_0),
            DType::Q4_1 => $do!(block32::Q4_1),
            DType::Q5_0 => $do!(block32::Q5_0),
            DType::Q5_1 => $do!(block32::Q5_1),
            DType::Q8_0 => $do!(block32::Q8_0),
            DType::Q2K => $do!(k::Q2K),
            DType::Q3K => $do!(k::Q3K),
            DType::Q4K => $do!(k::Q4K),
            DType::Q5K => $do!(k::Q5K),
            DType::Q6K => $do!(k::Q6K),
            DType::Iq4Nl => $do!(iq4::Iq4Nl),
            DType::Iq4Xs => $do!(iq4::Iq4Xs),
            DType::Mxfp4 => $do!(iq4::Mxfp4),
            DType::Tq1_0 => $do!(ternary::Tq1_0),
            DType::Tq2_0 => $do!(ternary::Tq2_0),
            DType::F32 | DType::F16 | DType::BF16 => $other,
        }
    };
}

/// Decodes a row: `bytes` are whole blocks of `dtype`, `out` has one place for each weight.
pub fn decode_row(dtype: DType, bytes: &[u8], out: &mut [f32]) {
    assert_eq!(dtype.row_bytes(out.len()), Some(bytes.len()), "{dtype}: sizes of a row");
    macro_rules! decode {
        ($format:ty) => {
            rows::<$format>(bytes, out)
        };
    }
    fn rows<F: Format>(bytes: &[u8], out: &mut [f32]) {
        let blocks = bytes.chunks_exact(F::DTYPE.block_bytes());
        for (block, out) in blocks.zip(out.chunks_exact_mut(F::DTYPE.block_len())) {
            F::decode(block, out);
        }
    }
    each_format!(dtype, decode)
}

/// The first block of `bytes` that stands for a weight that is not a finite number, counted from 0.
///
/// A block of a float type is one weight.
pub fn check_finite(dtype: DType, bytes: &[u8]) -> Option<usize> {
    /// Blocks that are looked at together: which of them it is, is asked only when there is one.
    const TOGETHER: usize = 256;
    macro_rules! check {
        ($format:ty) => {
            first_not_finite::<$format>(bytes, TOGETHER)
        };
    }
    fn first_not_finite<F: Format>(bytes: &[u8], together: usize) -> Option<usize> {
        let size = F::DTYPE.block_bytes();
        let part = bytes.chunks(together * size).position(|blocks| {
            !blocks.chunks_exact(size).fold(true, |all, block| all & F::is_finite(block))
        })?;
        let mut blocks = bytes[part * together * size..].chunks_exact(size);
        Some(part * together + blocks.position(|block| !F::is_finite(block))?)
    }
    each_format!(dtype, check)
}

/// How the codes of `dtype` look; `None` for float types.
pub fn layout(dtype: DType) -> Option<Layout> {
    macro_rules! layout {
        ($format:ty) => {
            Some(<$format as Codes>::LAYOUT)
        };
    }
    each_codes!(dtype, layout, None)
}

/// Splits a row of a quantised type into integers and floats.
///
/// With `g` the group of [`layout`], weight `i` is `scales[i / g] * codes[i] + mins[i / g]`.
/// `codes` has one place for each weight, `scales` and `mins` one for each group. Does nothing for
/// float types, which have no codes.
pub fn expand_row(
    dtype: DType,
    bytes: &[u8],
    codes: &mut [i8],
    scales: &mut [f32],
    mins: &mut [f32],
) {
    macro_rules! expand {
        ($format:ty) => {
            rows::<$format>(bytes, codes, scales, mins)
        };
    }
    fn rows<F: Codes>(bytes: &[u8], codes: &mut [i8], scales: &mut [f32], mins: &mut [f32]) {
        let len = F::DTYPE.block_len();
        let groups = len / F::LAYOUT.group;
        assert_eq!(F::DTYPE.row_bytes(codes.len()), Some(bytes.len()), "sizes of a row");
        assert_eq!(scales.len(), codes.len() / F::LAYOUT.group, "scales of a row");
        assert_eq!(mins.len(), scales.len(), "minima of a row");
        for (i, block) in bytes.chunks_exact(F::DTYPE.block_bytes()).enumerate() {
            let of = i * groups..(i + 1) * groups;
            let codes = &mut codes[i * len..(i + 1) * len];
            F::expand(block, codes, &mut scales[of.clone()], &mut mins[of]);
        }
    }
    each_codes!(dtype, expand, ())
}

/// Encodes a row of finite weights; the inverse of [`decode_row`] as well as the type can.
///
/// Returns `false`, and writes nothing, for a type that has no encoder here. Those that have: F32,
/// F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, TQ1_0, TQ2_0.
#[must_use]
pub fn encode_row(dtype: DType, x: &[f32], out: &mut [u8]) -> bool {
    fn rows<F: Encode>(x: &[f32], out: &mut [u8]) -> bool {
        assert_eq!(F::DTYPE.row_bytes(x.len()), Some(out.len()), "sizes of a row");
        let blocks = out.chunks_exact_mut(F::DTYPE.block_bytes());
        for (x, block) in x.chunks_exact(F::DTYPE.block_len()).zip(blocks) {
            F::encode(x, block);
        }
        true
    }
    match dtype {
        DType::F32 => rows::<float::F32>(x, out),
        DType::F16 => rows::<float::F16>(x, out),
        DType::BF16 => rows::<float::Bf16>(x, out),
        DType::Q4_0 => rows::<block32::Q4_0>(x, out),
        DType::Q4_1 => rows::<block32::Q4_1>(x, out),
        DType::Q5_0 => rows::<block32::Q5_0>(x, out),
        DType::Q5_1 => rows::<block32::Q5_1>(x, out),
        DType::Q8_0 => rows::<block32::Q8_0>(x, out),
        DType::Tq1_0 => rows::<ternary::Tq1_0>(x, out),
        DType::Tq2_0 => rows::<ternary::Tq2_0>(x, out),
        _ => false,
    }
}

/// The half-precision number at `bytes[at]`, as `f32`.
#[inline(never)] // It is asked for one at a time, in more than forty places.
fn f16_at(bytes: &[u8], at: usize) -> f32 {
    f32_of_half(u16_at(bytes, at))
}

/// The number that these bits are in half precision. Without a branch, so that many are made at once;
/// where there is no instruction for it, `half` takes 200 bytes and several branches.
#[inline]
pub fn f32_of_half(bits: u16) -> f32 {
    const NOT_FINITE: u32 = 0x1f << 23;
    const TWO_TO_112: f32 = f32::from_bits((127 + 112) << 23);
    // The same fields, but for an exponent that is 112 too low, also for what is subnormal in half
    // precision.
    let fields = u32::from(bits & 0x7fff) << 13;
    let magnitude = (f32::from_bits(fields) * TWO_TO_112).to_bits();
    let rest = if fields >= NOT_FINITE { 0xff << 23 } else { 0 };
    f32::from_bits(magnitude | rest | u32::from(bits & 0x8000) << 16)
}

/// Whether the half-precision number at `bytes[at]` is finite. By its bits: to check all blocks of a
/// file takes a tenth of loading it when each scale is made an `f32` first.
#[inline]
fn f16_is_finite(bytes: &[u8], at: usize) -> bool {
    u16_at(bytes, at) & 0x7c00 != 0x7c00
}

/// The little-endian number at `bytes[at]`.
#[inline]
fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

/// Writes `x` as a half-precision number, rounded to nearest, ties to even.
#[inline]
fn put_f16(bytes: &mut [u8], at: usize, x: f32) {
    bytes[at..at + 2].copy_from_slice(&half::f16::from_f32(x).to_le_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_half_is_the_number_that_it_is() {
        for bits in 0..=u16::MAX {
            let (found, expected) = (f32_of_half(bits), half::f16::from_bits(bits).to_f32());
            assert_eq!(found.is_nan(), expected.is_nan(), "{bits:#x}");
            assert!(found.is_nan() || found.to_bits() == expected.to_bits(), "{bits:#x}: {found}");
        }
    }
}
