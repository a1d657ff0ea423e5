//! The Walsh-Hadamard transform for NEON: a span is 4, 8 or 16 vectors. See [`super::hadamard`].

use core::arch::aarch64::*;

use super::hadamard::factor;
use super::neon::load4;

/// Lanes of a vector.
const LANES: usize = 4;

#[target_feature(enable = "neon")]
pub(super) fn hadamard(x: &mut [f32], span: usize) {
    match span {
        16 => spans::<4>(x),
        32 => spans::<8>(x),
        _ => spans::<16>(x),
    }
}

/// Spans of `N` vectors.
#[inline]
#[target_feature(enable = "neon")]
fn spans<const N: usize>(x: &mut [f32]) {
    let factor = factor(N * LANES);
    for span in x.chunks_exact_mut(N * LANES) {
        let parts = span.as_chunks_mut::<LANES>().0;
        let mut v = [vdupq_n_f32(0.0); N];
        for (v, part) in v.iter_mut().zip(parts.iter()) {
            *v = within(load4(part));
        }
        let mut stride = 1;
        while stride < N {
            for i in (0..N).filter(|i| i & stride == 0) {
                let (a, b) = (v[i], v[i + stride]);
                (v[i], v[i + stride]) = (vaddq_f32(a, b), vsubq_f32(a, b));
            }
            stride *= 2;
        }
        for (v, part) in v.iter().zip(parts) {
            // SAFETY: a part is 4 long.
            unsafe { vst1q_f32(part.as_mut_ptr(), vmulq_n_f32(*v, factor)) };
        }
    }
}

/// The strides 1 and 2.
#[inline]
#[target_feature(enable = "neon")]
fn within(x: float32x4_t) -> float32x4_t {
    // Both of a pair hold its first in `a`, and its second in `b`.
    let (a, b) = (vtrn1q_f32(x, x), vtrn2q_f32(x, x));
    let x = vtrn1q_f32(vaddq_f32(a, b), vsubq_f32(a, b));
    let (a, b) = (vget_low_f32(x), vget_high_f32(x));
    vcombine_f32(vadd_f32(a, b), vsub_f32(a, b))
}
