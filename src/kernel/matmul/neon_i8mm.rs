//! Quantised matmul for NEON with the matrix instructions: `smmla` multiplies two rows of 8 bytes
//! by two tokens of 8 bytes.
//!
//! In the panel, each 16 bytes are 8 codes of one row and 8 of the next. One token alone would
//! leave half of every `smmla` unused, and takes the path of `sdot`.

use core::arch::aarch64::*;

use super::neon_tiles::{Dot, STEP, codes, rung, token_codes};
use crate::kernel::insn_aarch64::{sdot, smmla};

/// Products by `smmla`, and by `sdot` where there is one token.
struct Smmla;

/// Eight bytes of each of two vectors: the lower ones, then the upper ones.
#[inline(always)]
fn pair(a: int8x16_t, b: int8x16_t) -> [int8x16_t; 2] {
    // SAFETY: NEON is part of every target that this file is compiled for.
    unsafe {
        let (a, b) = (vreinterpretq_s64_s8(a), vreinterpretq_s64_s8(b));
        [vreinterpretq_s8_s64(vtrn1q_s64(a, b)), vreinterpretq_s8_s64(vtrn2q_s64(a, b))]
    }
}

impl Dot for Smmla {
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
        let [a, b, c, d] = rows;
        // Row pairs next to each other, then on by 8 codes.
        let [[p, q], [r, s]] = [pair(a[0], b[0]), pair(c[0], d[0])];
        let [[t, u], [v, w]] = [pair(a[1], b[1]), pair(c[1], d[1])];
        [p, r, q, s, t, v, u, w]
    }

    #[inline(always)]
    fn tile<const T: usize>(
        panel: &[[i8; 16]; 8],
        tokens: [&[i8; STEP]; T],
        groups: usize,
        _small: bool,
    ) -> [[int32x4_t; 2]; T] {
        let w = panel.each_ref().map(|w| codes(w));
        let a = tokens.map(token_codes);
        // SAFETY: this rung's functions have the instruction.
        unsafe {
            let zero = vdupq_n_s32(0);
            let mut out = [[zero; 2]; T];
            for t in (0..T).step_by(2) {
                let other = (t + 1).min(T - 1);
                let a = [pair(a[t][0], a[other][0]), pair(a[t][1], a[other][1])];
                // Two tokens by two rows, for both pairs of rows.
                let mut sums = [zero; 2];
                for half in 0..2 {
                    if groups == 2 {
                        sums = [zero; 2];
                    }
                    for i in 0..2 {
                        for (rows, sums) in sums.iter_mut().enumerate() {
                            *sums = smmla(*sums, a[half][i], w[4 * half + 2 * i + rows]);
                        }
                    }
                    let [x, y] = sums.map(|x| vreinterpretq_s64_s32(x));
                    out[t][half] = vreinterpretq_s32_s64(vtrn1q_s64(x, y));
                    out[other][half] = if other == t {
                        out[t][half]
                    } else {
                        vreinterpretq_s32_s64(vtrn2q_s64(x, y))
                    };
                }
                if groups == 1 {
                    out[t][0] = out[t][1];
                    out[other][0] = out[other][1];
                }
            }
            out
        }
    }
}

rung!("neon,dotprod,i8mm", Smmla);
