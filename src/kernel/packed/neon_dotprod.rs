//! Packed weights for NEON with the dot product instructions: `sdot` multiplies 16 bytes by four of
//! a token, and adds them by fours: each lane is a row.
#![allow(clippy::needless_range_loop, reason = "several arrays are walked together")]

use core::arch::aarch64::*;

use super::Packed;
use super::neon_formats::{Format, Line};
use super::neon_gemv::gemv;
use super::neon_rungs::rung;
use super::neon_tiles::{self, Dot, Ints, forget_after_ints};
use crate::base::pool::Columns;
use crate::kernel::Activations;
use crate::kernel::insn_aarch64::{dup, sdot_lane};

/// Products by `sdot`.
struct Sdot;

impl Dot for Sdot {
    const TOKENS: usize = 3;

    #[inline(always)]
    fn dots<const T: usize, const OF_16: bool, const LARGE: bool, const STEPS: bool>(
        h: usize,
        start: [i32; T],
        line: impl Fn(usize) -> Line,
        a: [[int8x16_t; 2]; T],
    ) -> [Ints; T] {
        // SAFETY: NEON is part of every target that this file is compiled for.
        let mut ints = [[unsafe { vdupq_n_s32(0) }; 4]; T];
        for t in 0..T {
            for i in 0..4 {
                ints[t][i] = dup(start[t]);
            }
        }
        macro_rules! add {
            ($half:expr, $lane:literal) => {
                let w = line(4 * $half + $lane);
                for t in 0..T {
                    for i in 0..4 {
                        // SAFETY: this rung's functions have the instruction.
                        ints[t][i] = unsafe { sdot_lane::<$lane>(ints[t][i], w[i], a[t][$half]) };
                    }
                    if STEPS && (OF_16 || $half == 0) {
                        ints[t] = forget_after_ints(ints[t]);
                    }
                }
            };
        }
        if OF_16 {
            add!(h, 0);
            add!(h, 1);
            add!(h, 2);
            add!(h, 3);
        } else if T > 1 {
            // Of a panel: one half after the other, since not all of the tokens' codes fit into
            // registers.
            add!(0, 0);
            add!(0, 1);
            add!(0, 2);
            add!(0, 3);
            add!(1, 0);
            add!(1, 1);
            add!(1, 2);
            add!(1, 3);
        } else {
            // Four-bit codes of both halves come from the same bytes; to take the upper ones out
            // leaves the bytes as they are, so that comes first.
            add!(1, 0);
            add!(0, 0);
            add!(1, 1);
            add!(0, 1);
            add!(1, 2);
            add!(0, 2);
            add!(1, 3);
            add!(0, 3);
        }
        ints
    }
}

/// Multiplies one token.
#[target_feature(enable = "neon,dotprod")]
#[inline(never)]
pub(super) fn one<F: Format>(w: &Packed<'_>, act: &Activations<'_>, out: &mut Columns<'_, f32>) {
    gemv::<F, Sdot>(w, act, out);
}

rung!("neon,dotprod", Sdot, None);
