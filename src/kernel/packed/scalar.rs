//! Packed weights in plain code: a row is put together again, as in the file, and multiplied.

use crate::base::dtype::DType;
use crate::base::pool::Columns;
use crate::kernel::{ACTIVATION_BLOCK, ACTIVATION_SUM, Activations};
use crate::quant::{self, p16};

use super::{FLOAT_PIECE, Packed, PackedFn};

/// Weights of the longest block.
const MOST: usize = 256;

/// The matmul of `dtype`.
pub(super) fn matmul(dtype: DType) -> PackedFn {
    if dtype.is_quantised() { quantised } else { floats }
}

fn quantised(w: &Packed<'_>, act: &Activations<'_>, out: &mut Columns<'_, f32>) {
    let parts = p16::parts(w.dtype).expect("a quantised type");
    let layout = quant::layout(w.dtype).expect("a quantised type");
    let (_, group_bytes) = p16::group_bytes(w.dtype, w.k).expect("whole blocks");
    let (len, group) = (w.dtype.block_len(), layout.group);
    let mut file = [0u8; p16::LONGEST_BLOCK];
    let (mut codes, mut scales, mut mins) = ([0i8; MOST], [0f32; MOST / 16], [0f32; MOST / 16]);
    for r in 0..out.len() {
        let row = out.first() + r;
        let bytes = &w.bytes[row / p16::ROWS * group_bytes..][..group_bytes];
        for b in 0..w.k / len {
            let file = &mut file[..w.dtype.block_bytes()];
            p16::unpack_block(w.dtype, w.k, bytes, row % p16::ROWS, b, file);
            let groups = len / group;
            let (codes, scales, mins) =
                (&mut codes[..len], &mut scales[..groups], &mut mins[..groups]);
            quant::expand_row(w.dtype, file, codes, scales, mins);
            for t in 0..act.n {
                let acc = &mut out.row_mut(t)[r];
                let mut sum = if b == 0 { 0.0 } else { *acc };
                for g in 0..groups {
                    let at = t * act.k + b * len + g * group;
                    let codes = &codes[g * group..(g + 1) * group];
                    let zero = parts.zero;
                    let dot = codes.iter().zip(&act.q[at..at + group]);
                    let dot: i32 = dot.map(|(&c, &q)| (i32::from(c) - zero) * i32::from(q)).sum();
                    let d = act.d[at / ACTIVATION_BLOCK];
                    sum = (dot as f32).mul_add(scales[g] * d, sum);
                    if parts.min {
                        let sums = &act.sum[at / ACTIVATION_SUM..][..group / ACTIVATION_SUM];
                        sum = mins[g].mul_add(d * sums.iter().sum::<i32>() as f32, sum);
                    }
                }
                *acc = sum;
            }
        }
    }
}

fn floats(w: &Packed<'_>, act: &Activations<'_>, out: &mut Columns<'_, f32>) {
    let (_, group_bytes) = p16::group_bytes(w.dtype, w.k).expect("floats");
    let size = w.dtype.block_bytes();
    let mut weights = [0f32; FLOAT_PIECE];
    for r in 0..out.len() {
        let row = out.first() + r;
        let group = &w.bytes[row / p16::ROWS * group_bytes..][..group_bytes];
        for from in (0..w.k).step_by(FLOAT_PIECE) {
            let n = FLOAT_PIECE.min(w.k - from);
            for (i, x) in weights[..n].iter_mut().enumerate() {
                let at = ((from + i) * p16::ROWS + row % p16::ROWS) * size;
                quant::decode_row(w.dtype, &group[at..at + size], std::slice::from_mut(x));
            }
            for t in 0..act.n {
                let x = &act.row(t)[from..][..n];
                let part = weights[..n].iter().zip(x).fold(0f32, |sum, (w, x)| w.mul_add(*x, sum));
                let acc = &mut out.row_mut(t)[r];
                *acc = if from == 0 { part } else { *acc + part };
            }
        }
    }
}
