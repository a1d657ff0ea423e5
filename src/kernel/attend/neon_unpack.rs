//! Packed codes for NEON: a run is four vectors of bytes.

use core::arch::aarch64::*;

use super::unpack::{CodeBits, LEVELS, Unpack, each_run};

pub(super) const UNPACK: Unpack = [three, four, five];

/// Lanes of a vector.
const LANES: usize = 16;

/// The lower halves of 32 bytes, then the upper ones.
///
/// # Safety
/// 32 bytes lie there.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn halves(packed: *const u8) -> [uint8x16_t; 4] {
    let mask = vdupq_n_u8(15);
    // SAFETY: the caller's promise.
    let (a, b) = unsafe { (vld1q_u8(packed), vld1q_u8(packed.add(LANES))) };
    [vandq_u8(a, mask), vandq_u8(b, mask), vshrq_n_u8::<4>(a), vshrq_n_u8::<4>(b)]
}

/// `bit` where codes have their highest: eight bytes of such bits, of which the first eight codes have
/// the lowest, the next eight the next.
///
/// # Safety
/// 8 bytes lie there.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn highest(packed: *const u8, bit: u8) -> [uint8x16_t; 4] {
    // SAFETY: the caller's promise.
    let bits = unsafe { vld1_u8(packed) };
    let (bits, bit) = (vcombine_u8(bits, bits), vdupq_n_u8(bit));
    let first = vcombine_u8(vdup_n_u8(1), vdup_n_u8(2));
    let masks = [first, vshlq_n_u8::<2>(first), vshlq_n_u8::<4>(first), vshlq_n_u8::<6>(first)];
    masks.map(|mask| vandq_u8(vtstq_u8(bits, mask), bit))
}

/// Codes less their zeros.
///
/// # Safety
/// There is room for 64.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn store_less_zero(u: [uint8x16_t; 4], zero: u32, codes: *mut i8) {
    let zero = vreinterpretq_u8_u32(vdupq_n_u32(zero));
    for (i, u) in u.into_iter().enumerate() {
        // SAFETY: the caller's promise.
        unsafe { vst1q_s8(codes.add(i * LANES), vreinterpretq_s8_u8(vsubq_u8(u, zero))) };
    }
}

#[target_feature(enable = "neon")]
fn four(packed: &[u8], zeros: &[[u8; 4]], codes: &mut [i8]) {
    each_run(CodeBits::Four, packed, zeros, codes, |packed, zero, codes| {
        // SAFETY: a run is 32 bytes, and 64 codes.
        unsafe { store_less_zero(halves(packed), zero, codes) };
    });
}

#[target_feature(enable = "neon")]
fn five(packed: &[u8], zeros: &[[u8; 4]], codes: &mut [i8]) {
    each_run(CodeBits::Five, packed, zeros, codes, |packed, zero, codes| {
        // SAFETY: a run is 32 bytes and 8 more, and 64 codes.
        unsafe {
            let (mut u, highest) = (halves(packed), highest(packed.add(32), 16));
            for (u, bit) in u.iter_mut().zip(highest) {
                *u = vorrq_u8(*u, bit);
            }
            store_less_zero(u, zero, codes);
        }
    });
}

#[target_feature(enable = "neon")]
fn three(packed: &[u8], _: &[[u8; 4]], codes: &mut [i8]) {
    // SAFETY: 8 bytes are read.
    let levels = unsafe { vld1_s8(LEVELS.as_ptr()) };
    let (levels, mask) = (vcombine_s8(levels, levels), vdupq_n_u8(3));
    each_run(CodeBits::Three, packed, &[[0; 4]], codes, |packed, _, codes| {
        // SAFETY: a run is 16 bytes and 8 more, and 64 codes.
        unsafe {
            let x = vld1q_u8(packed);
            let low = [x, vshrq_n_u8::<2>(x), vshrq_n_u8::<4>(x), vshrq_n_u8::<6>(x)];
            let highest = highest(packed.add(LANES), 4);
            for (i, (low, bit)) in low.into_iter().zip(highest).enumerate() {
                let u = vorrq_u8(vandq_u8(low, mask), bit);
                vst1q_s8(codes.add(i * LANES), vqtbl1q_s8(levels, u));
            }
        }
    });
}
