//! Quantising for NEON: a block is eight vectors, and as many conversions, to nearest with ties
//! away from zero.

use core::arch::aarch64::*;

use crate::kernel::{ACTIVATION_BLOCK, ACTIVATION_SUM};

/// As `scalar::quantize`, bit for bit.
#[target_feature(enable = "neon")]
pub(super) fn quantize(x: &[f32], q: &mut [i8], d: &mut [f32], sum: &mut [i32]) {
    let (x, _) = x.as_chunks::<ACTIVATION_BLOCK>();
    let (q, _) = q.as_chunks_mut::<ACTIVATION_BLOCK>();
    let (sum, _) = sum.as_chunks_mut::<2>();
    for (((x, q), d), sum) in x.iter().zip(q).zip(d).zip(sum) {
        // SAFETY: eight vectors of four are the block's 32.
        let x = [0, 1, 2, 3, 4, 5, 6, 7].map(|i| unsafe { vld1q_f32(x[4 * i..].as_ptr()) });
        // `fmax` gives NaN if there is one.
        let max = x.iter().fold(vdupq_n_f32(0.0), |max, x| vmaxq_f32(max, vabsq_f32(*x)));
        let max = vmaxvq_f32(max);
        let inverse = 127.0 / max;
        let (scale, inverse) =
            if inverse.is_infinite() { (0.0, 0.0) } else { (max / 127.0, inverse) };
        *d = scale;
        let codes = x.map(|x| vcvtaq_s32_f32(vmulq_n_f32(x, inverse)));
        for (half, (q, sum)) in q.chunks_exact_mut(ACTIVATION_SUM).zip(sum).enumerate() {
            let narrow = |a, b| vqmovn_high_s32(vqmovn_s32(a), b);
            let [a, b, c, d] = [0, 1, 2, 3].map(|i| codes[4 * half + i]);
            let codes = vqmovn_high_s16(vqmovn_s16(narrow(a, b)), narrow(c, d));
            *sum = i32::from(vaddlvq_s8(codes));
            // SAFETY: a half of the block is 16 codes.
            unsafe { vst1q_s8(q.as_mut_ptr(), codes) };
        }
    }
}
