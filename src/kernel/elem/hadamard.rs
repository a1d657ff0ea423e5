//! The Walsh-Hadamard transform: spreads what stands out in a few elements of a head over all of them,
//! so that they can share a scale.
//!
//! ```text
//! for stride = 1, 2, 4 .. span / 2: each pair (a, b) that far apart becomes (a + b, a - b)
//! then all times 1 / sqrt(span)
//! ```
//! With that factor it keeps lengths and products, and is its own inverse. Every rung adds in this
//! order and multiplies once, at the end: the same bits on all of them.

/// The spans that can be transformed.
pub const HADAMARD_SPANS: [usize; 3] = [64, 32, 16];

/// `1 / sqrt(span)`.
pub(super) fn factor(span: usize) -> f32 {
    match span {
        16 => 0.25,
        32 => std::f32::consts::FRAC_1_SQRT_2 / 4.0,
        _ => 0.125,
    }
}

pub(super) fn scalar(x: &mut [f32], span: usize) {
    for x in x.chunks_exact_mut(span) {
        let mut stride = 1;
        while stride < span {
            for pairs in x.chunks_exact_mut(2 * stride) {
                let (a, b) = pairs.split_at_mut(stride);
                for (a, b) in a.iter_mut().zip(b) {
                    (*a, *b) = (*a + *b, *a - *b);
                }
            }
            stride *= 2;
        }
        x.iter_mut().for_each(|x| *x *= factor(span));
    }
}
