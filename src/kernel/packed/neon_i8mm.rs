//! Packed weights for NEON with the matrix instructions: `smmla` multiplies two rows of 8 bytes by
//! two tokens of 8 bytes. One token alone would leave half of every `smmla` unused, and takes the
//! path of `sdot`.

use core::arch::aarch64::*;

use super::neon_formats::{Format, Line};
use super::neon_rungs::rung;
use super::neon_tiles::{self, Dot, Ints};
use super::{Packed, neon_dotprod};
use crate::base::pool::Columns;
use crate::kernel::Activations;
use crate::kernel::insn_aarch64::smmla;

/// Products by `smmla`, of lines that [`arrange`] has arranged.
struct Smmla;

/// The words of two lines by turns, so that a vector has 8 weights of two rows.
fn arrange(lines: &mut [Line; 8]) {
    for two in lines.as_chunks_mut::<2>().0 {
        let [a, b] = *two;
        // SAFETY: NEON is part of every target that this file is compiled for.
        unsafe {
            let zip = |i: usize| {
                let (a, b) = (vreinterpretq_s32_s8(a[i]), vreinterpretq_s32_s8(b[i]));
                [vzip1q_s32(a, b), vzip2q_s32(a, b)].map(|x| vreinterpretq_s8_s32(x))
            };
            let [p, q, r, s] = [zip(0), zip(1), zip(2), zip(3)];
            *two = [[p[0], p[1], q[0], q[1]], [r[0], r[1], s[0], s[1]]];
        }
    }
}

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
    const TOKENS: usize = 2;

    #[inline(always)]
    fn dots<const T: usize, const OF_16: bool, const LARGE: bool, const STEPS: bool>(
        h: usize,
        start: [i32; T],
        line: impl Fn(usize) -> Line,
        a: [[int8x16_t; 2]; T],
    ) -> [Ints; T] {
        // SAFETY: NEON is part of every target that this file is compiled for.
        let zero = unsafe { vdupq_n_s32(0) };
        let mut ints = [[zero; 4]; T];
        for t in (0..T).step_by(2) {
            let other = (t + 1).min(T - 1);
            // SAFETY: NEON is part of every target that this file is compiled for.
            let starts = unsafe { vzip1q_s32(vdupq_n_s32(start[t]), vdupq_n_s32(start[other])) };
            // Each of two rows by two tokens.
            let mut sums = [starts; 8];
            macro_rules! add {
                ($half:expr) => {
                    let a = pair(a[t][$half], a[other][$half]);
                    for i in 0..2 {
                        let w = [line(4 * $half + 2 * i), line(4 * $half + 2 * i + 1)];
                        for r in 0..8 {
                            // SAFETY: this rung's functions have the instruction.
                            sums[r] = unsafe { smmla(sums[r], w[r / 4][r % 4], a[i]) };
                        }
                    }
                };
            }
            if OF_16 {
                add!(h);
            } else {
                add!(0);
                add!(1);
            }
            for i in 0..4 {
                // SAFETY: NEON is part of every target that this file is compiled for.
                unsafe {
                    // The second first: of one token alone it is a copy of no use.
                    ints[other][i] = vuzp2q_s32(sums[2 * i], sums[2 * i + 1]);
                    ints[t][i] = vuzp1q_s32(sums[2 * i], sums[2 * i + 1]);
                }
            }
        }
        ints
    }
}

/// Multiplies one token.
#[target_feature(enable = "neon,dotprod,i8mm")]
#[inline]
fn one<F: Format>(w: &Packed<'_>, act: &Activations<'_>, out: &mut Columns<'_, f32>) {
    neon_dotprod::one::<F>(w, act, out);
}

rung!("neon,dotprod,i8mm", Smmla, Some(arrange));
