//! Float types: a block is one weight.
//!
//! ```text
//! F32   s eeeeeeee mmmmmmmmmmmmmmmmmmmmmmm    IEEE 754 binary32
//! F16   s eeeee mmmmmmmmmm                    IEEE 754 binary16
//! BF16  s eeeeeeee mmmmmmm                    the upper half of a binary32
//! ```
//! All little-endian. Source: the GGUF specification, `ggml_type`.

use super::{Encode, Format, f16_at, f16_is_finite, put_f16, u16_at};
use crate::base::dtype::DType;

/// IEEE single precision.
pub(super) struct F32;
/// IEEE half precision.
pub(super) struct F16;
/// The upper half of a single.
pub(super) struct Bf16;

impl Format for F32 {
    const DTYPE: DType = DType::F32;

    fn decode(block: &[u8], out: &mut [f32]) {
        out[0] = f32::from_le_bytes([block[0], block[1], block[2], block[3]]);
    }

    fn is_finite(block: &[u8]) -> bool {
        f32::from_le_bytes([block[0], block[1], block[2], block[3]]).is_finite()
    }
}

impl Encode for F32 {
    fn encode(x: &[f32], block: &mut [u8]) {
        block.copy_from_slice(&x[0].to_le_bytes());
    }
}

impl Format for F16 {
    const DTYPE: DType = DType::F16;

    fn decode(block: &[u8], out: &mut [f32]) {
        out[0] = f16_at(block, 0);
    }

    fn is_finite(block: &[u8]) -> bool {
        f16_is_finite(block, 0)
    }
}

impl Encode for F16 {
    fn encode(x: &[f32], block: &mut [u8]) {
        put_f16(block, 0, x[0]);
    }
}

impl Format for Bf16 {
    const DTYPE: DType = DType::BF16;

    fn decode(block: &[u8], out: &mut [f32]) {
        out[0] = f32::from_bits(u32::from(u16_at(block, 0)) << 16);
    }

    fn is_finite(block: &[u8]) -> bool {
        u16_at(block, 0) & 0x7f80 != 0x7f80
    }
}

impl Encode for Bf16 {
    fn encode(x: &[f32], block: &mut [u8]) {
        block.copy_from_slice(&half::bf16::from_f32(x[0]).to_le_bytes());
    }
}
