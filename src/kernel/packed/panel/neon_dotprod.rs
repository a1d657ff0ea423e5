//! Panels for NEON with the dot product instructions: 8 rows times 12 tokens are 24 vectors of sums,
//! and leave five registers for what is multiplied.
#![allow(clippy::needless_range_loop, reason = "several arrays are walked together")]

use core::arch::aarch64::*;

use super::neon_unpack::{add, round, unpacks};
use super::{GROUPS, LINES, Order, PIECE, Panel, Panels, Part, Sums, TILE};
use crate::kernel::insn_aarch64::sdot_lane;

/// The functions of this rung.
pub(super) fn panels() -> Panels {
    Panels {
        unpack: unpacks(),
        turn: None,
        multiply,
        round,
        order: Order::Words(1),
        groups: GROUPS,
    }
}

#[target_feature(enable = "neon,dotprod")]
fn multiply(panel: &Panel, part: &Part<'_>, sums: &mut Sums) {
    match part.tokens {
        0..=4 => tile::<1>(panel, part, sums),
        5..=8 => tile::<2>(panel, part, sums),
        _ => tile::<3>(panel, part, sums),
    }
}

/// Multiplies the first `4 Q` tokens of a tile.
#[inline]
#[target_feature(enable = "neon,dotprod")]
fn tile<const Q: usize>(panel: &Panel, part: &Part<'_>, sums: &mut Sums) {
    for p in 0..part.pieces() {
        let (d, _) = part.scales(p);
        let fours = part.codes(p).as_chunks::<TILE>().0;
        for (g, half) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
            let lines = &panel.lines[g * LINES / GROUPS + p * PIECE / 4..][..fours.len()];
            let mut ints = [[[vdupq_n_s32(0); 2]; 4]; Q];
            for (line, four) in lines.iter().zip(fours) {
                let line = line.0[32 * half..32 * half + 32].as_ptr();
                // SAFETY: 32 bytes are read, and 16 of each four tokens.
                let (w, a) = unsafe {
                    let w = [vld1q_u8(line), vld1q_u8(line.add(16))];
                    let mut a = [vdupq_n_s8(0); Q];
                    for i in 0..Q {
                        a[i] = vreinterpretq_s8_u32(vld1q_u32(four[4 * i..4 * i + 4].as_ptr()));
                    }
                    (w.map(|w| vreinterpretq_s8_u8(w)), a)
                };
                for i in 0..Q {
                    for s in 0..2 {
                        ints[i][0][s] = sdot_lane::<0>(ints[i][0][s], w[s], a[i]);
                        ints[i][1][s] = sdot_lane::<1>(ints[i][1][s], w[s], a[i]);
                        ints[i][2][s] = sdot_lane::<2>(ints[i][2][s], w[s], a[i]);
                        ints[i][3][s] = sdot_lane::<3>(ints[i][3][s], w[s], a[i]);
                    }
                }
            }
            for s in 0..2 {
                let at = 8 * half + 4 * s;
                // SAFETY: four numbers are read.
                let scale = unsafe { vld1q_f32(panel.scales[g][p].0[at..at + 4].as_ptr()) };
                for t in 0..4 * Q {
                    add(&mut sums[t][g].0[at..], ints[t / 4][t % 4][s], scale, d[t]);
                }
            }
        }
    }
}
