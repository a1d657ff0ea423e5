//! Quantised matmul for NEON with the dot product instructions: `sdot` multiplies 16 bytes by 16
//! and adds them by fours.
//!
//! In the panel, each 16 bytes are 4 codes of each of four rows, so that one `sdot` with a lane of
//! the activations advances four rows, and lanes never have to be added across.

use core::arch::aarch64::*;

use super::neon_tiles::{Dot, STEP, codes, rung, token_codes};
use crate::kernel::insn_aarch64::{sdot, sdot_lane};

/// Products by `sdot`.
struct Sdot;

impl Dot for Sdot {
    #[inline(always)]
    fn dot16(w: int8x16_t, a: int8x16_t) -> int32x4_t {
        // SAFETY: this rung's functions have the instruction.
        unsafe { sdot(vdupq_n_s32(0), w, a) }
    }

    #[inline(always)]
    fn dot32(w: [int8x16_t; 2], a: [int8x16_t; 2], _small: bool) -> int32x4_t {
        // SAFETY: this rung's functions have the instruction.
        unsafe { sdot(sdot(vdupq_n_s32(0), w[0], a[0]), w[1], a[1]) }
    }

    #[inline(always)]
    fn arrange(rows: [[int8x16_t; 2]; 4]) -> [int8x16_t; 8] {
        // SAFETY: NEON is part of every target that this file is compiled for.
        let halves = [0, 1].map(|half| unsafe {
            // A transposition of 4 x 4 words, each of 4 codes.
            let [a, b, c, d] = rows.map(|row| vreinterpretq_s32_s8(row[half]));
            let even = [vtrn1q_s32(a, b), vtrn1q_s32(c, d)].map(|x| vreinterpretq_s64_s32(x));
            let odd = [vtrn2q_s32(a, b), vtrn2q_s32(c, d)].map(|x| vreinterpretq_s64_s32(x));
            [
                vtrn1q_s64(even[0], even[1]),
                vtrn1q_s64(odd[0], odd[1]),
                vtrn2q_s64(even[0], even[1]),
                vtrn2q_s64(odd[0], odd[1]),
            ]
            .map(|x| vreinterpretq_s8_s64(x))
        });
        let [[a, b, c, d], [e, f, g, h]] = halves;
        [a, b, c, d, e, f, g, h]
    }

    #[inline(always)]
    fn tile<const T: usize>(
        panel: &[[i8; 16]; 8],
        tokens: [&[i8; STEP]; T],
        groups: usize,
        _small: bool,
    ) -> [[int32x4_t; 2]; T] {
        let w = panel.each_ref().map(codes);
        // SAFETY: this rung's functions have the instruction.
        unsafe {
            let zero = vdupq_n_s32(0);
            let mut out = [[zero; 2]; T];
            for (out, token) in out.iter_mut().zip(tokens) {
                let a = token_codes(token);
                out[0] = half(zero, [w[0], w[1], w[2], w[3]], a[0]);
                if groups == 1 {
                    out[0] = half(out[0], [w[4], w[5], w[6], w[7]], a[1]);
                } else {
                    out[1] = half(zero, [w[4], w[5], w[6], w[7]], a[1]);
                }
            }
            out
        }
    }
}

/// Adds four rows times 16 codes of a token.
///
/// # Safety
/// For functions of this rung only.
#[inline(always)]
unsafe fn half(acc: int32x4_t, w: [int8x16_t; 4], a: int8x16_t) -> int32x4_t {
    // SAFETY: the caller's contract.
    unsafe {
        let acc = sdot_lane::<0>(acc, w[0], a);
        let acc = sdot_lane::<1>(acc, w[1], a);
        let acc = sdot_lane::<2>(acc, w[2], a);
        sdot_lane::<3>(acc, w[3], a)
    }
}

rung!("neon,dotprod", Sdot);
