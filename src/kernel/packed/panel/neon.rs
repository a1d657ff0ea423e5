//! Panels for plain NEON: the products of 16 weights of a row and a token are added up in eight sums
//! of 16 bits, two each, and those in four of 32. 4 rows times 4 tokens are 16 vectors of sums.
#![allow(clippy::needless_range_loop, reason = "several arrays are walked together")]

use core::arch::aarch64::*;

use super::neon_unpack::{add, put, round, unpacks, vector};
use super::{GROUPS, LINES, Line, Order, PIECE, Panel, Panels, Part, Sums, TILE};

/// The functions of this rung.
pub(super) fn panels() -> Panels {
    Panels {
        unpack: unpacks(),
        turn: Some(turn),
        multiply,
        round,
        order: Order::Words(4),
        groups: GROUPS,
    }
}

/// The words of four lines by turns: each vector has 16 weights of a row, a line of 4 rows.
fn turn(lines: &mut [Line]) {
    for four in lines.as_chunks_mut::<4>().0 {
        // SAFETY: NEON is part of every target that this file is compiled for.
        let rows = |i| unsafe {
            let [a, b, c, d] = [0, 1, 2, 3].map(|l| vreinterpretq_s32_s8(vector(&four[l], i)));
            let (ab, ab2) = (vzip1q_s32(a, b), vzip2q_s32(a, b));
            let (cd, cd2) = (vzip1q_s32(c, d), vzip2q_s32(c, d));
            let join = |x, y| {
                let (x, y) = (vreinterpretq_s64_s32(x), vreinterpretq_s64_s32(y));
                [vtrn1q_s64(x, y), vtrn2q_s64(x, y)].map(|x| vreinterpretq_s32_s64(x))
            };
            let ([a, b], [c, d]) = (join(ab, cd), join(ab2, cd2));
            [a, b, c, d]
        };
        for (line, rows) in [rows(0), rows(1), rows(2), rows(3)].into_iter().enumerate() {
            put(&mut four[line], rows);
        }
    }
}

#[target_feature(enable = "neon")]
fn multiply(panel: &Panel, part: &Part<'_>, sums: &mut Sums) {
    for p in 0..part.pieces() {
        let (d, _) = part.scales(p);
        let units = part.codes(p).as_chunks::<{ 4 * TILE }>().0;
        for at in (0..GROUPS * 4 * TILE / 4).filter(|at| at / 8 * 4 < part.tokens) {
            let (t, g, rows) = (at / 8 * 4, at / 4 % 2, at % 4);
            let lines = &panel.lines[g * LINES / GROUPS + p * PIECE / 4..][..4 * units.len()];
            let mut ints = [[vdupq_n_s32(0); 4]; 4];
            for (lines, unit) in lines.as_chunks::<4>().0.iter().zip(units) {
                let w = [0, 1, 2, 3].map(|i| vector(&lines[rows], i));
                for i in 0..4 {
                    let a = unit[4 * (t + i)..4 * (t + i) + 4].as_ptr();
                    // SAFETY: 16 bytes are read.
                    let a = vreinterpretq_s8_u32(unsafe { vld1q_u32(a) });
                    for r in 0..4 {
                        let two = vmull_s8(vget_low_s8(w[r]), vget_low_s8(a));
                        let two = vmlal_high_s8(two, w[r], a);
                        ints[i][r] = vpadalq_s16(ints[i][r], two);
                    }
                }
            }
            // SAFETY: four numbers are read.
            let scale = unsafe { vld1q_f32(panel.scales[g][p].0[4 * rows..4 * rows + 4].as_ptr()) };
            for i in 0..4 {
                let [a, b, c, e] = ints[i];
                let dot = vpaddq_s32(vpaddq_s32(a, b), vpaddq_s32(c, e));
                add(&mut sums[t + i][g].0[4 * rows..], dot, scale, d[t + i]);
            }
        }
    }
}
