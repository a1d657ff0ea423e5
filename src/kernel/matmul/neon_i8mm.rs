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
        let w = panel.each_ref().map(codes);
        // SAFETY: this rung's functions have the instruction.
        unsafe {
            let zero = vdupq_n_s32(0);
            let mut out = [[zero; 2]; T];
            for t in (0..T).step_by(2) {
                let other = (t + 1).min(T - 1);
                let (a, b) = (token_codes(tokens[t]), token_codes(tokens[other]));
                // Two tokens by two rows, for both pairs of rows.
                let mut sums = [zero; 2];
                for half in 0..2 {
                    let a = pair(a[half], b[half]);
                    let w = &w[4 * half..4 * half + 4];
                    for rows in 0..2 {
                        sums[rows] = smmla(smmla(sums[rows], a[0], w[rows]), a[1], w[2 + rows]);
                    }
                    if half == 1 || groups == 2 {
                        let [x, y] = [0, 1].map(|rows| vreinterpretq_s64_s32(sums[rows]));
                        let group = if groups == 1 { 0 } else { half };
                        // The second first: of one token alone it is a copy of no use.
                        out[other][group] = vreinterpretq_s32_s64(vtrn2q_s64(x, y));
                        out[t][group] = vreinterpretq_s32_s64(vtrn1q_s64(x, y));
                        sums = [zero; 2];
                    }
                }
            }
            out
        }
    }
}

rung!("neon,dotprod,i8mm", Smmla);
