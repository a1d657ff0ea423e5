//! Panels in plain code: what the other rungs must give, bit for bit.

use super::{
    GROUPS, Line, Order, PIECE, Panel, Panels, Part, ROWS, Rows, Span, Sums, TILE, TINY, span,
};
use crate::base::dtype::DType;
use crate::kernel::packed::Packed;
use crate::quant::{self, p16};

/// Weights of the longest block.
const MOST: usize = 256;

/// The functions of this rung.
pub(super) fn panels() -> Panels {
    let unpack = |i: usize| DType::ALL[i].is_quantised().then_some(unpack as super::UnpackFn);
    Panels {
        unpack: std::array::from_fn(unpack),
        turn: None,
        multiply,
        round,
        order: Order::Words(1),
        groups: GROUPS,
    }
}

/// `max |x| / 127`, and the codes, as `Kernels::quantize` makes them of 32.
fn round(x: &[f32], codes: &mut [i8; PIECE]) -> (f32, i32) {
    // Magnitudes compare as integers, and a NaN is the largest of all.
    let max = f32::from_bits(x.iter().map(|x| x.abs().to_bits()).max().unwrap_or(0));
    let inverse = 127.0 / max;
    let (scale, inverse) = if inverse.is_infinite() { (0.0, 0.0) } else { (max / 127.0, inverse) };
    let mut sum = 0;
    for (code, x) in codes.iter_mut().zip(x) {
        *code = (x * inverse).round() as i8;
        sum += i32::from(*code);
    }
    (scale, sum)
}

/// The weights of one row and piece.
struct Row {
    codes: [i8; PIECE],
    scales: [f32; PIECE / 16],
    mins: [f32; PIECE / 16],
}

/// A number that is not 0, as 16 bits of which `f` rounds.
fn even(x: f32) -> i32 {
    x.round_ties_even() as i32
}

/// Brings the first `n` weights to 8 bits, in place; gives their scale.
fn narrow(row: &mut Row, n: usize, group: usize, zero: i32, min: bool, span: Span) -> f32 {
    let at = |scale: f32, c: f32, m: f32| if min { scale.mul_add(c, m) } else { scale * c };
    let mut most = 0f32;
    for (&scale, &m) in row.scales.iter().zip(&row.mins).take(n / group) {
        most = most.max(at(scale, span.low, m).abs()).max(at(scale, span.high, m).abs());
        if span.full {
            most = most.max(scale * -128.0);
        }
    }
    let most = most.min(f32::MAX);
    let (s, inv) = if most < TINY { (0.0, 0.0) } else { (most / span.top, span.top / most) };
    let up = inv * span.up();
    for (g, codes) in row.codes[..n].chunks_exact_mut(group).enumerate() {
        let (scale, m) = (row.scales[g], row.mins[g]);
        let a = even(scale * up);
        let b = even(at(scale, span.middle(), m) * inv * 128.0) + 64;
        for code in codes {
            let x =
                (i32::from(*code) - zero + span.zero - (1 << (span.bits - 1))) << (16 - span.bits);
            *code = ((((x * a + (1 << 14)) >> 15) + b) >> 7) as i8;
        }
    }
    s
}

fn unpack(w: &Packed<'_>, g: usize, from: usize, n: usize, lines: &mut [Line], scales: &mut Rows) {
    let parts = p16::parts(w.dtype).expect("a quantised type");
    let layout = quant::layout(w.dtype).expect("a quantised type");
    let (_, group_bytes) = p16::group_bytes(w.dtype, w.k).expect("whole blocks");
    let bytes = &w.bytes[g * group_bytes..][..group_bytes];
    let len = w.dtype.block_len();
    let groups = len / layout.group;
    let mut file = [0u8; p16::LONGEST_BLOCK];
    let file = &mut file[..w.dtype.block_bytes()];
    let mut row = Row { codes: [0; PIECE], scales: [0.0; PIECE / 16], mins: [0.0; PIECE / 16] };
    const { assert!(PIECE == MOST) };
    for r in 0..ROWS {
        for b in 0..n / len {
            p16::unpack_block(w.dtype, w.k, bytes, r, from / len + b, file);
            let of = b * groups..(b + 1) * groups;
            let codes = &mut row.codes[b * len..(b + 1) * len];
            quant::expand_row(w.dtype, file, codes, &mut row.scales[of.clone()], &mut row.mins[of]);
        }
        scales.0[r] = narrow(&mut row, n, layout.group, parts.zero, parts.min, span(w.dtype));
        for (four, line) in row.codes[..n].as_chunks::<4>().0.iter().zip(&mut *lines) {
            line.0[4 * r..4 * r + 4].copy_from_slice(&four.map(|x| x as u8));
        }
    }
}

fn multiply(panel: &Panel, part: &Part<'_>, sums: &mut Sums) {
    for p in 0..part.pieces() {
        let (scales, _) = part.scales(p);
        for (t, sums) in sums.iter_mut().enumerate().take(part.tokens) {
            for (g, sums) in sums.iter_mut().enumerate() {
                let lines = &panel.lines[g * super::LINES / GROUPS + p * PIECE / 4..];
                let d = f32::from_bits(scales[t]);
                for r in 0..ROWS {
                    let mut dot = 0;
                    for (fours, line) in part.codes(p).chunks_exact(TILE).zip(lines) {
                        for (w, q) in line.0[4 * r..4 * r + 4].iter().zip(fours[t].to_le_bytes()) {
                            dot += i32::from(*w as i8) * i32::from(q as i8);
                        }
                    }
                    let s = panel.scales[g][p].0[r] * d;
                    sums.0[r] = (dot as f32).mul_add(s, sums.0[r]);
                }
            }
        }
    }
}
