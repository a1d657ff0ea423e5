//! Scores and mixtures for NEON.
//!
//! A score has 16 sums, element i to sum i % 16, and a mixture one for each output, in the order of
//! the cells; 32 outputs are kept in registers while the cells go by.

use core::arch::aarch64::*;

use half::f16;

use super::Attend;
use crate::kernel::insn_aarch64::{f16_from_f32, f32_from_f16, f32_from_f16_high};

pub(super) const ATTEND: Attend = Attend { scores_f16, mix_f16, scores_f32, mix_f32, to_f16 };

/// What keys and values are stored as.
trait Element: Copy {
    /// Eight of them.
    fn eight(x: &[Self; 8]) -> [float32x4_t; 2];
    /// One of them.
    fn one(self) -> f32;
}

impl Element for u16 {
    #[inline(always)]
    fn eight(x: &[u16; 8]) -> [float32x4_t; 2] {
        // SAFETY: `x` is 8 long, and NEON is part of every target that this file is compiled for.
        unsafe {
            let x = vld1q_u16(x.as_ptr());
            [f32_from_f16(vget_low_u16(x)), f32_from_f16_high(x)]
        }
    }

    #[inline(always)]
    fn one(self) -> f32 {
        f16::from_bits(self).to_f32()
    }
}

impl Element for f32 {
    #[inline(always)]
    fn eight(x: &[f32; 8]) -> [float32x4_t; 2] {
        // SAFETY: `x` is 8 long.
        unsafe { [vld1q_f32(x.as_ptr()), vld1q_f32(x[4..].as_ptr())] }
    }

    #[inline(always)]
    fn one(self) -> f32 {
        self
    }
}

#[target_feature(enable = "neon")]
fn scores_f16(q: &[f32], k: &[u16], stride: usize, cells: &[u32], out: &mut [f32]) {
    scores(q, k, stride, cells, out);
}

#[target_feature(enable = "neon")]
fn scores_f32(q: &[f32], k: &[f32], stride: usize, cells: &[u32], out: &mut [f32]) {
    scores(q, k, stride, cells, out);
}

#[target_feature(enable = "neon")]
fn mix_f16(p: &[f32], v: &[u16], stride: usize, cells: &[u32], out: &mut [f32]) {
    mix(p, v, stride, cells, out);
}

#[target_feature(enable = "neon")]
fn mix_f32(p: &[f32], v: &[f32], stride: usize, cells: &[u32], out: &mut [f32]) {
    mix(p, v, stride, cells, out);
}

#[inline(always)]
fn scores<T: Element>(q: &[f32], k: &[T], stride: usize, cells: &[u32], out: &mut [f32]) {
    let (q_eights, q_rest) = q.as_chunks::<8>();
    let (q_pairs, q_last) = q_eights.as_chunks::<2>();
    for (score, &cell) in out.iter_mut().zip(cells) {
        let (k, k_rest) = k[cell as usize * stride..][..q.len()].as_chunks::<8>();
        let (k_pairs, k_last) = k.as_chunks::<2>();
        // SAFETY: NEON is part of every target that this file is compiled for.
        let sum = unsafe {
            let mut sums = [vdupq_n_f32(0.0); 4];
            for (q, k) in q_pairs.iter().zip(k_pairs) {
                for i in 0..2 {
                    let (q, k) = (f32::eight(&q[i]), T::eight(&k[i]));
                    sums[2 * i] = vfmaq_f32(sums[2 * i], q[0], k[0]);
                    sums[2 * i + 1] = vfmaq_f32(sums[2 * i + 1], q[1], k[1]);
                }
            }
            for (q, k) in q_last.iter().zip(k_last) {
                let (q, k) = (f32::eight(q), T::eight(k));
                sums[0] = vfmaq_f32(sums[0], q[0], k[0]);
                sums[1] = vfmaq_f32(sums[1], q[1], k[1]);
            }
            let [a, b, c, d] = sums;
            vaddvq_f32(vaddq_f32(vaddq_f32(a, c), vaddq_f32(b, d)))
        };
        *score = q_rest.iter().zip(k_rest).fold(sum, |sum, (q, k)| q.mul_add(k.one(), sum));
    }
}

#[inline(always)]
fn mix<T: Element>(p: &[f32], v: &[T], stride: usize, cells: &[u32], out: &mut [f32]) {
    let (tiles, rest) = out.as_chunks_mut::<32>();
    let from_rest = 32 * tiles.len();
    for (i, out) in tiles.iter_mut().enumerate() {
        mix_eights::<T, 4>(p, v, stride, cells, 32 * i, out.as_chunks_mut::<8>().0);
    }
    let (eights, last) = rest.as_chunks_mut::<8>();
    for (i, out) in eights.iter_mut().enumerate() {
        mix_eights::<T, 1>(p, v, stride, cells, from_rest + 8 * i, std::slice::from_mut(out));
    }
    let from_last = from_rest + 8 * eights.len();
    for (i, out) in last.iter_mut().enumerate() {
        let value = |cell: &u32| v[*cell as usize * stride + from_last + i].one();
        *out = p.iter().zip(cells).fold(0.0, |sum, (p, cell)| p.mul_add(value(cell), sum));
    }
}

/// The `8 * N` outputs whose values stand `from` elements into a cell.
#[inline(always)]
fn mix_eights<T: Element, const N: usize>(
    p: &[f32],
    v: &[T],
    stride: usize,
    cells: &[u32],
    from: usize,
    out: &mut [[f32; 8]],
) {
    // SAFETY: NEON is part of every target that this file is compiled for, and stores are of eights
    // to eights.
    unsafe {
        let mut sums = [[vdupq_n_f32(0.0); 2]; N];
        for (&p, &cell) in p.iter().zip(cells) {
            let (v, _) = v[cell as usize * stride + from..][..8 * N].as_chunks::<8>();
            for (sums, v) in sums.iter_mut().zip(v) {
                let v = T::eight(v);
                sums[0] = vfmaq_n_f32(sums[0], v[0], p);
                sums[1] = vfmaq_n_f32(sums[1], v[1], p);
            }
        }
        for (out, sums) in out.iter_mut().zip(sums) {
            vst1q_f32(out.as_mut_ptr(), sums[0]);
            vst1q_f32(out[4..].as_mut_ptr(), sums[1]);
        }
    }
}

#[target_feature(enable = "neon")]
fn to_f16(x: &[f32], out: &mut [u16]) {
    let (fours, rest) = x.as_chunks::<4>();
    let (out_fours, out_rest) = out.as_chunks_mut::<4>();
    for (x, out) in fours.iter().zip(out_fours) {
        // SAFETY: both are 4 long.
        unsafe { vst1_u16(out.as_mut_ptr(), f16_from_f32(vld1q_f32(x.as_ptr()))) };
    }
    for (x, out) in rest.iter().zip(out_rest) {
        *out = f16::from_f32(*x).to_bits();
    }
}
