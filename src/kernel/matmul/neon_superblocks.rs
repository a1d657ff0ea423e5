//! The formats of 256 weights a block, four rows at a time, for the NEON matmul.
//!
//! Step s of a block is its weights 32 s to 32 s + 31. The scales of four rows are decoded side by
//! side: a 32-bit lane for each row holds four of the row's fields, one to a byte.

use core::arch::aarch64::*;

use super::neon_blocks::{IQ4, halves, less, look_up, nibbles};
use super::neon_tiles::{Format, Scales, bytes};
use crate::base::dtype::DType;

/// Four bytes of each of four blocks, a lane for each.
#[inline(always)]
fn words(blocks: [&[u8]; 4], at: usize) -> uint32x4_t {
    let [a, b, c, d] = blocks.map(|b| u32::from_le_bytes([b[at], b[at + 1], b[at + 2], b[at + 3]]));
    // SAFETY: NEON is part of every target that this file is compiled for.
    unsafe {
        let x = vsetq_lane_u32::<1>(b, vdupq_n_u32(a));
        vsetq_lane_u32::<3>(d, vsetq_lane_u32::<2>(c, x))
    }
}

/// In each byte, the bits of `x >> shift` that `mask` keeps.
#[inline(always)]
fn fields(x: uint32x4_t, shift: i32, mask: u8) -> uint32x4_t {
    // SAFETY: NEON is part of every target that this file is compiled for.
    unsafe {
        let mask = vdupq_n_u32(u32::from_le_bytes([mask; 4]));
        vandq_u32(vshlq_u32(x, vdupq_n_s32(-shift)), mask)
    }
}

/// `low | high << 4`
#[inline(always)]
fn join(low: uint32x4_t, high: uint32x4_t) -> uint32x4_t {
    // SAFETY: NEON is part of every target that this file is compiled for.
    unsafe { vorrq_u32(low, vshlq_n_u32::<4>(high)) }
}

/// Byte i of every lane, less `zero`, times `d`, for i from 0 to 3.
#[inline(always)]
fn scaled(x: uint32x4_t, zero: i32, d: float32x4_t) -> [float32x4_t; 4] {
    // SAFETY: NEON is part of every target that this file is compiled for.
    [0, 8, 16, 24].map(|shift| unsafe {
        let byte = vandq_u32(vshlq_u32(x, vdupq_n_s32(-shift)), vdupq_n_u32(255));
        let field = vsubq_s32(vreinterpretq_s32_u32(byte), vdupq_n_s32(zero));
        vmulq_f32(vcvtq_f32_s32(field), d)
    })
}

/// The same field of every byte: the bits of `x >> shift` that `mask` keeps; a negative shift is one
/// to the left.
#[inline(always)]
fn bits(x: uint8x16_t, shift: isize, mask: u8) -> uint8x16_t {
    // SAFETY: NEON is part of every target that this file is compiled for.
    unsafe { vandq_u8(vshlq_u8(x, vdupq_n_s8(-(shift as i8))), vdupq_n_u8(mask)) }
}

/// The bits of either.
#[inline(always)]
fn or(x: [uint8x16_t; 2], y: [uint8x16_t; 2]) -> [uint8x16_t; 2] {
    // SAFETY: NEON is part of every target that this file is compiled for.
    unsafe { [vorrq_u8(x[0], y[0]), vorrq_u8(x[1], y[1])] }
}

/// Thirty-two bytes from `at` on.
#[inline(always)]
fn bytes32(block: &[u8], at: usize) -> [uint8x16_t; 2] {
    [bytes(block, at), bytes(block, at + 16)]
}

/// The scales and minima of Q4_K and Q5_K: `[d: f16][dmin: f16][8 scales and 8 minima of 6 bits]`.
#[inline(always)]
fn scales_of_6_bits(blocks: [&[u8]; 4], out: &mut Scales) {
    let d = halves(blocks, 0);
    // SAFETY: NEON is part of every target that this file is compiled for.
    let dmin = unsafe { vnegq_f32(halves(blocks, 2)) };
    // The first eight bytes hold scales and minima 0 to 3 in six bits, and above them the upper two
    // of 4 to 7, whose lower four share the last four bytes.
    let (x, y, z) = (words(blocks, 4), words(blocks, 8), words(blocks, 12));
    let scales = [fields(x, 0, 63), join(fields(z, 0, 15), fields(x, 6, 3))];
    let minima = [fields(y, 0, 63), join(fields(z, 4, 15), fields(y, 6, 3))];
    for half in 0..2 {
        let scale = scaled(scales[half], 0, d);
        let min = scaled(minima[half], 0, dmin);
        for i in 0..4 {
            out.scale[4 * half + i][0] = scale[i];
            out.min[4 * half + i][0] = min[i];
        }
    }
}

/// `[d: f16][dmin: f16][scales, minima: 16 x 6][codes: 256 x 4]`
pub(super) struct Q4K;

impl Format for Q4K {
    const DTYPE: DType = DType::Q4K;
    const MIN: bool = true;

    #[inline(always)]
    fn scales(blocks: [&[u8]; 4], out: &mut Scales) {
        scales_of_6_bits(blocks, out);
    }

    #[inline(always)]
    fn codes(block: &[u8], step: usize) -> [int8x16_t; 2] {
        let shift = 4 * (step as isize % 2);
        let x = bytes32(block, 16 + 32 * (step / 2));
        less(x.map(|x| bits(x, shift, 15)), 0)
    }
}

/// `[d: f16][dmin: f16][scales, minima: 16 x 6][fifth bits: 256][codes, lower bits: 256 x 4]`
pub(super) struct Q5K;

impl Format for Q5K {
    const DTYPE: DType = DType::Q5K;
    const MIN: bool = true;

    #[inline(always)]
    fn scales(blocks: [&[u8]; 4], out: &mut Scales) {
        scales_of_6_bits(blocks, out);
    }

    #[inline(always)]
    fn codes(block: &[u8], step: usize) -> [int8x16_t; 2] {
        let s = step as isize;
        let low = bytes32(block, 48 + 32 * (step / 2)).map(|x| bits(x, 4 * (s % 2), 15));
        let high = bytes32(block, 16).map(|x| bits(x, s - 4, 16));
        less(or(low, high), 0)
    }
}

/// `[codes + 32, lower bits: 256 x 4][upper bits: 256 x 2][scales: 16 x i8][d: f16]`
pub(super) struct Q6K;

impl Format for Q6K {
    const DTYPE: DType = DType::Q6K;
    const GROUPS: usize = 2;

    #[inline(always)]
    fn scales(blocks: [&[u8]; 4], out: &mut Scales) {
        let d = halves(blocks, 208);
        for i in 0..4 {
            // The sign bit flipped makes a signed byte an unsigned one, 128 too large.
            // SAFETY: NEON is part of every target that this file is compiled for.
            let x = unsafe { veorq_u32(words(blocks, 192 + 4 * i), vdupq_n_u32(0x8080_8080)) };
            let scale = scaled(x, 128, d);
            out.scale[2 * i] = [scale[0], scale[1]];
            out.scale[2 * i + 1] = [scale[2], scale[3]];
        }
    }

    #[inline(always)]
    fn codes(block: &[u8], step: usize) -> [int8x16_t; 2] {
        let (half, quarter) = (step / 4, step % 4);
        let low = bytes32(block, 64 * half + 32 * (quarter % 2));
        let s = quarter as isize;
        let low = low.map(|x| bits(x, 4 * (s / 2), 15));
        let high = bytes32(block, 128 + 32 * half).map(|x| bits(x, 2 * s - 4, 48));
        less(or(low, high), 32)
    }
}

/// `[scales and minima: 16 x (4 + 4)][codes: 256 x 2][d: f16][dmin: f16]`
pub(super) struct Q2K;

impl Format for Q2K {
    const DTYPE: DType = DType::Q2K;
    const GROUPS: usize = 2;
    const MIN: bool = true;

    #[inline(always)]
    fn scales(blocks: [&[u8]; 4], out: &mut Scales) {
        let d = halves(blocks, 80);
        // SAFETY: NEON is part of every target that this file is compiled for.
        let dmin = unsafe { vnegq_f32(halves(blocks, 82)) };
        for i in 0..4 {
            let x = words(blocks, 4 * i);
            let scale = scaled(fields(x, 0, 15), 0, d);
            let min = scaled(fields(x, 4, 15), 0, dmin);
            out.scale[2 * i] = [scale[0], scale[1]];
            out.scale[2 * i + 1] = [scale[2], scale[3]];
            out.min[2 * i] = [min[0], min[1]];
            out.min[2 * i + 1] = [min[2], min[3]];
        }
    }

    #[inline(always)]
    fn codes(block: &[u8], step: usize) -> [int8x16_t; 2] {
        let shift = 2 * (step as isize % 4);
        let x = bytes32(block, 16 + 32 * (step / 4));
        less(x.map(|x| bits(x, shift, 3)), 0)
    }
}

/// `[third bits: 256][codes + 4, lower bits: 256 x 2][scales + 32: 16 x 6][d: f16]`
pub(super) struct Q3K;

impl Format for Q3K {
    const DTYPE: DType = DType::Q3K;
    const GROUPS: usize = 2;

    #[inline(always)]
    fn scales(blocks: [&[u8]; 4], out: &mut Scales) {
        let d = halves(blocks, 108);
        // Eight bytes hold the lower four bits of all scales, the last four bytes the upper two.
        let low = [words(blocks, 96), words(blocks, 100)];
        let high = words(blocks, 104);
        for i in 0..4 {
            let low = fields(low[i % 2], 4 * (i as i32 / 2), 15);
            let scale = scaled(join(low, fields(high, 2 * i as i32, 3)), 32, d);
            out.scale[2 * i] = [scale[0], scale[1]];
            out.scale[2 * i + 1] = [scale[2], scale[3]];
        }
    }

    #[inline(always)]
    fn codes(block: &[u8], step: usize) -> [int8x16_t; 2] {
        let s = step as isize;
        let low = bytes32(block, 32 + 32 * (step / 4)).map(|x| bits(x, 2 * (s % 4), 3));
        let high = bytes32(block, 0).map(|x| bits(x, s - 2, 4));
        less(or(low, high), 4)
    }
}

/// `[d: f16][scales + 32: upper bits: 8 x 2, lower bits: 8 x 4][places in a table: 256 x 4]`
pub(super) struct Iq4Xs;

impl Format for Iq4Xs {
    const DTYPE: DType = DType::Iq4Xs;
    const SMALL: bool = false;

    #[inline(always)]
    fn scales(blocks: [&[u8]; 4], out: &mut Scales) {
        let d = halves(blocks, 0);
        let low = words(blocks, 4);
        let high = blocks.map(|block| u32::from(u16::from_le_bytes([block[2], block[3]])));
        // SAFETY: `high` is 4 long, and NEON is part of every target that this file is compiled
        // for.
        unsafe {
            let high = vld1q_u32(high.as_ptr());
            for s in 0..8 {
                let shift = |x, by: usize| vshlq_u32(x, vdupq_n_s32(-(by as i32)));
                let low = vandq_u32(shift(low, 4 * s), vdupq_n_u32(15));
                let high = vandq_u32(shift(high, 2 * s), vdupq_n_u32(3));
                let scale = vreinterpretq_s32_u32(join(low, high));
                let scale = vcvtq_f32_s32(vsubq_s32(scale, vdupq_n_s32(32)));
                out.scale[s][0] = vmulq_f32(scale, d);
            }
        }
    }

    #[inline(always)]
    fn codes(block: &[u8], step: usize) -> [int8x16_t; 2] {
        look_up(&IQ4, nibbles(bytes(block, 8 + 16 * step)))
    }
}

/// One scale for all weights of a block.
#[inline(always)]
fn one_scale(d: float32x4_t, out: &mut Scales) {
    for scale in &mut out.scale {
        scale[0] = d;
    }
}

/// `[codes + 1, five to a byte: 240][codes + 1, four to a byte: 16][d: f16]`
///
/// A byte is a fraction of 256 in base 3: times 3^i, modulo 256, it begins with its digit i.
pub(super) struct Tq1_0;

/// The first digit in base 3 of a fraction of 256.
#[inline(always)]
fn first_digit(x: uint8x16_t) -> uint8x16_t {
    // SAFETY: NEON is part of every target that this file is compiled for.
    unsafe {
        let three = vdupq_n_u8(3);
        let low = vmull_u8(vget_low_u8(x), vget_low_u8(three));
        vshrn_high_n_u16::<8>(vshrn_n_u16::<8>(low), vmull_high_u8(x, three))
    }
}

impl Format for Tq1_0 {
    const DTYPE: DType = DType::Tq1_0;

    #[inline(always)]
    fn scales(blocks: [&[u8]; 4], out: &mut Scales) {
        one_scale(halves(blocks, 52), out);
    }

    #[inline(always)]
    fn codes(block: &[u8], step: usize) -> [int8x16_t; 2] {
        // Digits 0 to 4 of bytes 0 to 31; then of bytes 32 to 47; then 0 to 3 of the last four.
        const POWERS: [u8; 8] = [1, 3, 9, 27, 81, 243, 1, 1];
        const LAST: [u8; 16] = [1, 1, 1, 1, 3, 3, 3, 3, 9, 9, 9, 9, 27, 27, 27, 27];
        // SAFETY: `LAST` is 16 long, and NEON is part of every target that this file is compiled
        // for.
        unsafe {
            let times = |x, digit: usize| vmulq_u8(x, vdupq_n_u8(POWERS[digit % 8]));
            let x = match step {
                0..5 => bytes32(block, 0).map(|x| times(x, step)),
                5 | 6 => {
                    let x = bytes(block, 32);
                    [times(x, 2 * (step - 5)), times(x, 2 * (step - 5) + 1)]
                }
                _ => {
                    let x = u32::from_le_bytes([block[48], block[49], block[50], block[51]]);
                    let last = vreinterpretq_u8_u32(vdupq_n_u32(x));
                    [times(bytes(block, 32), 4), vmulq_u8(last, vld1q_u8(LAST.as_ptr()))]
                }
            };
            less(x.map(first_digit), 1)
        }
    }
}

/// `[codes + 1: 256 x 2][d: f16]`
pub(super) struct Tq2_0;

impl Format for Tq2_0 {
    const DTYPE: DType = DType::Tq2_0;

    #[inline(always)]
    fn scales(blocks: [&[u8]; 4], out: &mut Scales) {
        one_scale(halves(blocks, 64), out);
    }

    #[inline(always)]
    fn codes(block: &[u8], step: usize) -> [int8x16_t; 2] {
        let shift = 2 * (step as isize % 4);
        let x = bytes32(block, 32 * (step / 4));
        less(x.map(|x| bits(x, shift, 3)), 1)
    }
}
