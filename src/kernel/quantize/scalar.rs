//! Quantising in plain code.

use crate::kernel::{ACTIVATION_BLOCK, ACTIVATION_SUM};

/// ```text
/// d = max |x| / 127;  q = round(x * (127 / max |x|));  sum = sums of 16 q
/// ```
/// A block of zeros has `d` = 0. So has one whose largest magnitude is so small that `127 / max`
/// is not finite (below 4e-37): it is taken as zeros.
pub(super) fn quantize(x: &[f32], q: &mut [i8], d: &mut [f32], sum: &mut [i32]) {
    let blocks = x.chunks_exact(ACTIVATION_BLOCK).zip(q.chunks_exact_mut(ACTIVATION_BLOCK));
    for ((x, q), d) in blocks.zip(d) {
        // Magnitudes compare as integers, and a NaN is the largest of all.
        let max = f32::from_bits(x.iter().map(|x| x.abs().to_bits()).max().unwrap_or(0));
        let inverse = 127.0 / max;
        let (scale, inverse) =
            if inverse.is_infinite() { (0.0, 0.0) } else { (max / 127.0, inverse) };
        *d = scale;
        for (q, x) in q.iter_mut().zip(x) {
            *q = (x * inverse).round() as i8;
        }
    }
    for (sum, q) in sum.iter_mut().zip(q.chunks_exact(ACTIVATION_SUM)) {
        *sum = q.iter().map(|&q| i32::from(q)).sum();
    }
}
