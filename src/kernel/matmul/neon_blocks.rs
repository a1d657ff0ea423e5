//! The formats of 32 weights a block, four rows at a time, for the NEON matmul.

use core::arch::aarch64::*;

use super::neon_tiles::{Format, Scales, bytes, codes};
use crate::base::dtype::DType;
use crate::kernel::insn_aarch64::f32_from_f16;

/// The half-precision number at `at` of each of four blocks.
#[inline(always)]
pub(super) fn halves(blocks: [&[u8]; 4], at: usize) -> float32x4_t {
    let [a, b, c, d] = blocks.map(|block| u16::from_le_bytes([block[at], block[at + 1]]));
    // Lane by lane, each a load; from an array, the compiler would join them in integers.
    // SAFETY: NEON is part of every target that this file is compiled for.
    unsafe {
        let x = vset_lane_u16::<1>(b, vdup_n_u16(a));
        f32_from_f16(vset_lane_u16::<3>(d, vset_lane_u16::<2>(c, x)))
    }
}

/// Sixteen bytes of 4-bit fields: the lower ones, then the upper ones.
#[inline(always)]
pub(super) fn nibbles(x: uint8x16_t) -> [uint8x16_t; 2] {
    // SAFETY: NEON is part of every target that this file is compiled for.
    unsafe { [vandq_u8(x, vdupq_n_u8(15)), vshrq_n_u8::<4>(x)] }
}

/// Unsigned codes less `zero`.
#[inline(always)]
pub(super) fn less(x: [uint8x16_t; 2], zero: i8) -> [int8x16_t; 2] {
    // SAFETY: NEON is part of every target that this file is compiled for.
    x.map(|x| unsafe { vsubq_s8(vreinterpretq_s8_u8(x), vdupq_n_s8(zero)) })
}

/// The entries of a table of 16 that 4-bit fields stand for.
#[inline(always)]
pub(super) fn look_up(table: &[i8; 16], x: [uint8x16_t; 2]) -> [int8x16_t; 2] {
    let table = codes(table);
    // SAFETY: NEON is part of every target that this file is compiled for.
    x.map(|x| unsafe { vqtbl1q_s8(table, x) })
}

/// The values of IQ4_NL and IQ4_XS: a fixed, not uniform quantiser.
pub(super) const IQ4: [i8; 16] =
    [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

/// The values of MXFP4 (E2M1), doubled so that they are integers.
const E2M1: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];

/// `[d: f16][codes + 8: 32 x 4]`
pub(super) struct Q4_0;

impl Format for Q4_0 {
    const DTYPE: DType = DType::Q4_0;

    #[inline(always)]
    fn scales(blocks: [&[u8]; 4], out: &mut Scales) {
        out.scale[0][0] = halves(blocks, 0);
    }

    #[inline(always)]
    fn codes(block: &[u8], _: usize) -> [int8x16_t; 2] {
        less(nibbles(bytes(block, 2)), 8)
    }
}

/// `[d: f16][m: f16][codes: 32 x 4]`
pub(super) struct Q4_1;

impl Format for Q4_1 {
    const DTYPE: DType = DType::Q4_1;
    const MIN: bool = true;

    #[inline(always)]
    fn scales(blocks: [&[u8]; 4], out: &mut Scales) {
        out.scale[0][0] = halves(blocks, 0);
        out.min[0][0] = halves(blocks, 2);
    }

    #[inline(always)]
    fn codes(block: &[u8], _: usize) -> [int8x16_t; 2] {
        less(nibbles(bytes(block, 4)), 0)
    }
}

/// Adds the fifth bits, which stand as 32 bits at `at`, to 4-bit fields: `4 + 1` bits.
#[inline(always)]
fn fifth_bits(low: [uint8x16_t; 2], block: &[u8], at: usize) -> [uint8x16_t; 2] {
    let bits = u32::from_le_bytes([block[at], block[at + 1], block[at + 2], block[at + 3]]);
    // Byte i of a lane takes bit i % 8 of byte i / 8.
    const BIT: [u8; 16] = [1, 2, 4, 8, 16, 32, 64, 128, 1, 2, 4, 8, 16, 32, 64, 128];
    const BYTE: [[u8; 16]; 2] = [
        [0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1],
        [2, 2, 2, 2, 2, 2, 2, 2, 3, 3, 3, 3, 3, 3, 3, 3],
    ];
    // SAFETY: the tables are 16 long, and NEON is part of every target that this file is compiled
    // for.
    unsafe {
        let bits = vreinterpretq_u8_u32(vdupq_n_u32(bits));
        [0, 1].map(|half| {
            let spread = vqtbl1q_u8(bits, vld1q_u8(BYTE[half].as_ptr()));
            let is_set = vtstq_u8(spread, vld1q_u8(BIT.as_ptr()));
            vorrq_u8(low[half], vandq_u8(is_set, vdupq_n_u8(16)))
        })
    }
}

/// `[d: f16][fifth bits: 32][codes + 16, lower bits: 32 x 4]`
pub(super) struct Q5_0;

impl Format for Q5_0 {
    const DTYPE: DType = DType::Q5_0;

    #[inline(always)]
    fn scales(blocks: [&[u8]; 4], out: &mut Scales) {
        out.scale[0][0] = halves(blocks, 0);
    }

    #[inline(always)]
    fn codes(block: &[u8], _: usize) -> [int8x16_t; 2] {
        less(fifth_bits(nibbles(bytes(block, 6)), block, 2), 16)
    }
}

/// `[d: f16][m: f16][fifth bits: 32][codes, lower bits: 32 x 4]`
pub(super) struct Q5_1;

impl Format for Q5_1 {
    const DTYPE: DType = DType::Q5_1;
    const MIN: bool = true;

    #[inline(always)]
    fn scales(blocks: [&[u8]; 4], out: &mut Scales) {
        out.scale[0][0] = halves(blocks, 0);
        out.min[0][0] = halves(blocks, 2);
    }

    #[inline(always)]
    fn codes(block: &[u8], _: usize) -> [int8x16_t; 2] {
        less(fifth_bits(nibbles(bytes(block, 8)), block, 4), 0)
    }
}

/// `[d: f16][codes: 32 x i8]`
pub(super) struct Q8_0;

impl Format for Q8_0 {
    const DTYPE: DType = DType::Q8_0;
    const SMALL: bool = false;

    #[inline(always)]
    fn scales(blocks: [&[u8]; 4], out: &mut Scales) {
        out.scale[0][0] = halves(blocks, 0);
    }

    #[inline(always)]
    fn codes(block: &[u8], _: usize) -> [int8x16_t; 2] {
        less([bytes(block, 2), bytes(block, 18)], 0)
    }
}

/// `[d: f16][places in a table: 32 x 4]`
pub(super) struct Iq4Nl;

impl Format for Iq4Nl {
    const DTYPE: DType = DType::Iq4Nl;
    const SMALL: bool = false;

    #[inline(always)]
    fn scales(blocks: [&[u8]; 4], out: &mut Scales) {
        out.scale[0][0] = halves(blocks, 0);
    }

    #[inline(always)]
    fn codes(block: &[u8], _: usize) -> [int8x16_t; 2] {
        look_up(&IQ4, nibbles(bytes(block, 2)))
    }
}

/// `[exponent e: u8][floats of 4 bits: 32 x 4]`, with codes of twice the float and so a scale of
/// 2^(e - 128).
pub(super) struct Mxfp4;

impl Format for Mxfp4 {
    const DTYPE: DType = DType::Mxfp4;

    #[inline(always)]
    fn scales(blocks: [&[u8]; 4], out: &mut Scales) {
        let d = blocks.map(|block| match u32::from(block[0]) {
            // Below the smallest normal number the exponent moves into the fraction.
            e @ (0 | 1) => 0x0020_0000 << e,
            e => (e - 1) << 23,
        });
        // SAFETY: `d` is 4 long.
        out.scale[0][0] = unsafe { vreinterpretq_f32_u32(vld1q_u32(d.as_ptr())) };
    }

    #[inline(always)]
    fn codes(block: &[u8], _: usize) -> [int8x16_t; 2] {
        look_up(&E2M1, nibbles(bytes(block, 1)))
    }
}
