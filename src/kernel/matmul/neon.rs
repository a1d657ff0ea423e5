//! Quantised matmul for plain NEON: products of bytes are widened to 16 bits, and added in pairs to
//! 32.
//!
//! The panel holds the 32 codes of each row in their order.

use core::arch::aarch64::*;

use super::neon_tiles::{Dot, STEP, add_lanes, codes, rung, token_codes};

/// Products by `smull` and `smlal`.
struct Widen;

impl Dot for Widen {
    #[inline(always)]
    fn dot16(w: int8x16_t, a: int8x16_t) -> int32x4_t {
        // SAFETY: NEON is part of every target that this file is compiled for.
        unsafe {
            // Two products of at most 128 * 127 fit 16 bits.
            let low = vmull_s8(vget_low_s8(w), vget_low_s8(a));
            vpaddlq_s16(vmlal_high_s8(low, w, a))
        }
    }

    #[inline(always)]
    fn dot32(w: [int8x16_t; 2], a: [int8x16_t; 2], small: bool) -> int32x4_t {
        // SAFETY: NEON is part of every target that this file is compiled for.
        unsafe {
            let sum = vmull_s8(vget_low_s8(w[0]), vget_low_s8(a[0]));
            let sum = vmlal_high_s8(sum, w[0], a[0]);
            if small {
                // Four products of at most 64 * 127 fit 16 bits.
                let sum = vmlal_s8(sum, vget_low_s8(w[1]), vget_low_s8(a[1]));
                vpaddlq_s16(vmlal_high_s8(sum, w[1], a[1]))
            } else {
                let high = vmull_s8(vget_low_s8(w[1]), vget_low_s8(a[1]));
                vpadalq_s16(vpaddlq_s16(sum), vmlal_high_s8(high, w[1], a[1]))
            }
        }
    }

    #[inline(always)]
    fn arrange(rows: [[int8x16_t; 2]; 4]) -> [int8x16_t; 8] {
        let [a, b, c, d] = rows;
        [a[0], a[1], b[0], b[1], c[0], c[1], d[0], d[1]]
    }

    #[inline(always)]
    fn tile<const T: usize>(
        panel: &[[i8; 16]; 8],
        tokens: [&[i8; STEP]; T],
        groups: usize,
        small: bool,
    ) -> [[int32x4_t; 2]; T] {
        let w = [0, 1, 2, 3].map(|row| [codes(&panel[2 * row]), codes(&panel[2 * row + 1])]);
        // SAFETY: NEON is part of every target that this file is compiled for.
        let mut out = [[unsafe { vdupq_n_s32(0) }; 2]; T];
        for (out, token) in out.iter_mut().zip(tokens) {
            let a = token_codes(token);
            if groups == 1 {
                out[0] = add_lanes(w.map(|w| Self::dot32(w, a, small)));
            } else {
                *out = [0, 1].map(|g| add_lanes(w.map(|w| Self::dot16(w[g], a[g]))));
            }
        }
        out
    }
}

rung!("neon", Widen);
