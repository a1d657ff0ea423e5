//! Panels for NEON with the dot product instructions: 8 rows times 12 tokens are 24 vectors of sums,
//! and leave five registers for what is multiplied.
#![allow(clippy::needless_range_loop, reason = "several arrays are walked together")]

use core::arch::aarch64::*;

use super::neon_unpack::{add, round, unpacks};
use super::{GROUPS, LINES, MAGIC, Order, PIECE, Panel, Panels, Part, Sums, TILE};
use crate::kernel::insn_aarch64::sdot_lane;
use crate::kernel::packed::forget;

/// The functions of this rung.
pub(super) fn panels() -> Panels {
    Panels {
        unpack: unpacks(),
        turn: None,
        multiply,
        round,
        order: Order::Words(1),
        lift: 0,
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

/// Integers of 12 tokens and 8 rows before anything is added to them. They are loaded, not made:
/// loads do not take turns with products.
static START: [[i32; 8]; TILE] = [[MAGIC; 8]; TILE];

/// Multiplies the first `4 Q` tokens of a tile.
#[inline]
#[target_feature(enable = "neon,dotprod")]
fn tile<const Q: usize>(panel: &Panel, part: &Part<'_>, sums: &mut Sums) {
    let start = std::hint::black_box(&START);
    // In memory, and not in registers, which the integers need.
    let mut acc = [[[0f32; 8]; 4]; Q];
    let acc = std::hint::black_box(&mut acc);
    for p in 0..part.pieces() {
        for (g, half) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
            let first = part.first(p);
            for t in 0..4 * Q {
                acc[t / 4][t % 4] = [f32::from_bits(first[t]); 8];
            }
            for block in part.blocks(p) {
                let (d, _) = part.scales(p, block.0);
                let fours = part.codes(p, block).as_chunks::<TILE>().0;
                let lines = &panel.lines[g * LINES / GROUPS + p * PIECE / 4 + block.0..];
                let mut ints = [[[vdupq_n_s32(0); 2]; 4]; Q];
                for t in 0..4 * Q {
                    for s in 0..2 {
                        // SAFETY: four integers are read.
                        ints[t / 4][t % 4][s] = unsafe { vld1q_s32(start[t][4 * s..].as_ptr()) };
                    }
                }
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
                for i in 0..Q {
                    // SAFETY: four numbers are read.
                    let d =
                        unsafe { vreinterpretq_f32_u32(vld1q_u32(d[4 * i..4 * i + 4].as_ptr())) };
                    for s in 0..2 {
                        let acc = &mut acc[i];
                        fold::<0>(&mut acc[0][4 * s..], ints[i][0][s], d);
                        fold::<1>(&mut acc[1][4 * s..], ints[i][1][s], d);
                        fold::<2>(&mut acc[2][4 * s..], ints[i][2][s], d);
                        fold::<3>(&mut acc[3][4 * s..], ints[i][3][s], d);
                    }
                }
                forget();
            }
            for t in 0..4 * Q {
                for s in 0..2 {
                    // SAFETY: four numbers are read.
                    let acc = unsafe { vld1q_f32(acc[t / 4][t % 4][4 * s..].as_ptr()) };
                    let at = 8 * half + 4 * s;
                    add(&mut sums[t][g].0[at..], acc, &panel.scales[g][p].0[at..]);
                }
            }
        }
    }
}

/// The products of a block, of four rows and a token, and what came before.
#[inline(always)]
fn fold<const T: i32>(acc: &mut [f32], dot: int32x4_t, d: float32x4_t) {
    let acc = acc[..4].as_mut_ptr();
    // SAFETY: NEON is part of every target that this file is compiled for; four numbers are read
    // and written.
    unsafe {
        let dot = vreinterpretq_f32_s32(dot);
        vst1q_f32(acc, vfmaq_laneq_f32::<T>(vld1q_f32(acc), dot, d));
    }
}
