//! Panels for NEON with the matrix instructions: 8 rows times 12 tokens are 24 vectors of sums, each
//! of two rows and two tokens.
#![allow(clippy::needless_range_loop, reason = "several arrays are walked together")]

use core::arch::aarch64::*;

use super::neon_unpack::{add, put, round, unpacks, vector};
use super::{GROUPS, LINES, Line, Order, PIECE, Panel, Panels, Part, Sums, TILE};
use crate::kernel::insn_aarch64::smmla;

/// The functions of this rung.
pub(super) fn panels() -> Panels {
    Panels {
        unpack: unpacks(),
        turn: Some(turn),
        multiply,
        round,
        order: Order::Words(2),
        groups: GROUPS,
    }
}

/// The words of two lines by turns: each vector has 8 weights of two rows, a line of 8 rows.
fn turn(lines: &mut [Line]) {
    for two in lines.as_chunks_mut::<2>().0 {
        // SAFETY: NEON is part of every target that this file is compiled for.
        let zip = |i| unsafe {
            let [a, b] = [0, 1].map(|l| vreinterpretq_s32_s8(vector(&two[l], i)));
            [vzip1q_s32(a, b), vzip2q_s32(a, b)]
        };
        let [[a, b], [c, d], [e, f], [g, h]] = [zip(0), zip(1), zip(2), zip(3)];
        put(&mut two[0], [a, b, c, d]);
        put(&mut two[1], [e, f, g, h]);
    }
}

#[target_feature(enable = "neon,dotprod,i8mm")]
fn multiply(panel: &Panel, part: &Part<'_>, sums: &mut Sums) {
    match part.tokens {
        0..=4 => tile::<2>(panel, part, sums),
        5..=8 => tile::<4>(panel, part, sums),
        _ => tile::<6>(panel, part, sums),
    }
}

/// Multiplies the first `2 P` tokens of a tile.
#[inline]
#[target_feature(enable = "neon,dotprod,i8mm")]
fn tile<const P: usize>(panel: &Panel, part: &Part<'_>, sums: &mut Sums) {
    for p in 0..part.pieces() {
        let (d, _) = part.scales(p);
        let eights = part.codes(p).as_chunks::<{ 2 * TILE }>().0;
        for (g, half) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
            let lines = &panel.lines[g * LINES / GROUPS + p * PIECE / 4..][..2 * eights.len()];
            let mut ints = [[vdupq_n_s32(0); 4]; P];
            for (lines, eight) in lines.as_chunks::<2>().0.iter().zip(eights) {
                let w = [0, 1, 2, 3].map(|i| vector(&lines[half], i));
                for i in 0..P {
                    // SAFETY: 16 bytes are read.
                    let a = unsafe { vld1q_u32(eight[4 * i..4 * i + 4].as_ptr()) };
                    for r in 0..4 {
                        ints[i][r] = smmla(ints[i][r], w[r], vreinterpretq_s8_u32(a));
                    }
                }
            }
            for s in 0..2 {
                let at = 8 * half + 4 * s;
                // SAFETY: four numbers are read.
                let scale = unsafe { vld1q_f32(panel.scales[g][p].0[at..at + 4].as_ptr()) };
                for i in 0..P {
                    let (low, high) = (ints[i][2 * s], ints[i][2 * s + 1]);
                    let two = [vuzp1q_s32(low, high), vuzp2q_s32(low, high)];
                    for (t, dot) in (2 * i..).zip(two) {
                        add(&mut sums[t][g].0[at..], dot, scale, d[t]);
                    }
                }
            }
        }
    }
}
