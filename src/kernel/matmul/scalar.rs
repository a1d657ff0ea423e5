//! Matmul in plain code.
//!
//! ```text
//! for each row of weights, in pieces of 256:
//!     unpack the piece                                      codes, scales, minima; or floats
//!     for each token:
//!         quantised   for each group g, in order:
//!                         acc += d[g] * (scale[g] * (codes . q) + min[g] * sum(q))
//!         float       eight sums, weight i to sum i % 8; added up at the end of the piece
//! ```
//! A token's accumulator is its place in `out`, so its steps are the same with any other tokens.

use crate::base::dtype::DType;
use crate::base::pool::Columns;
use crate::kernel::{ACTIVATION_BLOCK, ACTIVATION_SUM, Activations, MatmulFn, Weight};
use crate::quant;

/// Weights unpacked at once: the longest block.
const PIECE: usize = 256;

/// The matmul of `dtype`.
pub(super) fn matmul(dtype: DType) -> MatmulFn {
    if dtype.is_quantised() { quantised } else { float }
}

/// The bytes of weights `from .. from + n` of row `r`.
fn piece<'a>(w: &Weight<'a>, r: usize, from: usize, n: usize) -> &'a [u8] {
    let bytes = |n: usize| n / w.dtype.block_len() * w.dtype.block_bytes();
    let row = &w.bytes[r * bytes(w.k)..][..bytes(w.k)];
    &row[bytes(from)..][..bytes(n)]
}

fn quantised(w: &Weight<'_>, act: &Activations<'_>, out: &mut Columns<'_, f32>) {
    let group = quant::layout(w.dtype).map_or(ACTIVATION_BLOCK, |layout| layout.group);
    let mut codes = [0i8; PIECE];
    let mut scales = [0f32; PIECE / ACTIVATION_SUM];
    let mut mins = [0f32; PIECE / ACTIVATION_SUM];
    clear(out);
    for r in 0..out.len() {
        for from in (0..w.k).step_by(PIECE) {
            let n = PIECE.min(w.k - from);
            let bytes = piece(w, out.first() + r, from, n);
            let (codes, groups) = (&mut codes[..n], n / group);
            quant::expand_row(w.dtype, bytes, codes, &mut scales[..groups], &mut mins[..groups]);
            for t in 0..act.n {
                let at = t * act.k + from;
                let acc = &mut out.row_mut(t)[r];
                for g in 0..groups {
                    let at = at + g * group;
                    let q = &act.q[at..at + group];
                    let sums = &act.sum[at / ACTIVATION_SUM..][..group / ACTIVATION_SUM];
                    let dot = dot(&codes[g * group..][..group], q);
                    let sum: i32 = sums.iter().sum();
                    let d = act.d[at / ACTIVATION_BLOCK];
                    *acc += d * (scales[g] * dot as f32 + mins[g] * sum as f32);
                }
            }
        }
    }
}

/// At most 32 products of at most 128 * 127: no overflow.
fn dot(codes: &[i8], q: &[i8]) -> i32 {
    codes.iter().zip(q).map(|(&c, &q)| i32::from(c) * i32::from(q)).sum()
}

fn float(w: &Weight<'_>, act: &Activations<'_>, out: &mut Columns<'_, f32>) {
    let mut weights = [0f32; PIECE];
    clear(out);
    for r in 0..out.len() {
        for from in (0..w.k).step_by(PIECE) {
            let n = PIECE.min(w.k - from);
            let weights = &mut weights[..n];
            quant::decode_row(w.dtype, piece(w, out.first() + r, from, n), weights);
            for t in 0..act.n {
                let x = &act.row(t)[from..][..n];
                let mut sums = [0f32; 8];
                for (w, x) in weights.chunks(8).zip(x.chunks(8)) {
                    for (sum, (w, x)) in sums.iter_mut().zip(w.iter().zip(x)) {
                        *sum += w * x;
                    }
                }
                let [a, b, c, d, e, f, g, h] = sums;
                out.row_mut(t)[r] += ((a + e) + (c + g)) + ((b + f) + (d + h));
            }
        }
    }
}

fn clear(out: &mut Columns<'_, f32>) {
    for t in 0..out.n_rows() {
        out.row_mut(t).fill(0.0);
    }
}
