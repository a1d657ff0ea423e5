//! Panels for NEON, what its rungs share: weights to 8 bits, and activations.
#![allow(clippy::needless_range_loop, reason = "several arrays are walked together")]

use core::arch::aarch64::*;

use super::{BLOCK, Line, PIECE, Rows, Span, TINY, Unpacks};
use crate::base::dtype::DType;
use crate::kernel::packed::Packed;
use crate::kernel::packed::neon_formats::{self as formats, Format, Rows as Floats};
use crate::kernel::packed::neon_scales::Head;
use crate::kernel::packed::neon_tiles::{group, zeros};
use crate::quant::p16::ROWS;

/// Groups of a piece, at most.
const MOST_GROUPS: usize = PIECE / 16;

/// The table of [`unpack`].
pub(super) fn unpacks() -> Unpacks {
    super::unpacks!(unpack, formats)
}

/// As the scalar `round`, bit for bit.
#[target_feature(enable = "neon")]
pub(super) fn round(x: &[f32], codes: &mut [i8; BLOCK]) -> (f32, i32) {
    let blocks = x.as_chunks::<16>().0;
    // SAFETY: four vectors of four are the block's 16.
    let load = |x: &[f32; 16]| [0, 4, 8, 12].map(|at| unsafe { vld1q_f32(x[at..].as_ptr()) });
    // `fmax` gives NaN if there is one.
    let mut most = [vdupq_n_f32(0.0); 4];
    for x in blocks {
        let x = load(x);
        for i in 0..4 {
            most[i] = vmaxq_f32(most[i], vabsq_f32(x[i]));
        }
    }
    let max = vmaxq_f32(vmaxq_f32(most[0], most[1]), vmaxq_f32(most[2], most[3]));
    let max = vmaxvq_f32(max);
    let inverse = 127.0 / max;
    let (scale, inverse) = if inverse.is_infinite() { (0.0, 0.0) } else { (max / 127.0, inverse) };
    let mut sums = vdupq_n_s32(0);
    for (x, codes) in blocks.iter().zip(codes.as_chunks_mut::<16>().0) {
        let [a, b, c, d] = load(x).map(|x| vcvtaq_s32_f32(vmulq_n_f32(x, inverse)));
        let narrow = |a, b| vqmovn_high_s32(vqmovn_s32(a), b);
        let bytes = vqmovn_high_s16(vqmovn_s16(narrow(a, b)), narrow(c, d));
        sums = vpadalq_s16(sums, vpaddlq_s8(bytes));
        // SAFETY: 16 codes are written.
        unsafe { vst1q_s8(codes.as_mut_ptr(), bytes) };
    }
    (scale, vaddvq_s32(sums))
}

/// Four rows times `c`: by the type times their scales, with their minima.
#[inline(always)]
fn at<F: Format>(scale: float32x4_t, c: f32, min: float32x4_t) -> float32x4_t {
    // SAFETY: NEON is part of every target that this file is compiled for.
    unsafe { if F::PARTS.min { vfmaq_n_f32(min, scale, c) } else { vmulq_n_f32(scale, c) } }
}

/// The nearest integers and `more`, each twice in its lane as 16 bits.
#[inline(always)]
fn twice(x: float32x4_t, more: i32) -> int16x8_t {
    // SAFETY: NEON is part of every target that this file is compiled for.
    unsafe {
        let x = vaddq_s32(vcvtnq_s32_f32(x), vdupq_n_s32(more));
        vreinterpretq_s16_s32(vsliq_n_s32::<16>(x, x))
    }
}

/// The scales of rows from the largest magnitudes, and the factors that bring weights to 8 bits.
#[inline(always)]
fn scales(most: Floats, top: f32, out: &mut Rows) -> Floats {
    let mut inverses = zeros();
    for i in 0..4 {
        // SAFETY: NEON is part of every target that this file is compiled for; there is room for
        // four numbers.
        unsafe {
            let most = vminq_f32(most[i], vdupq_n_f32(f32::MAX));
            let some = vcgeq_f32(most, vdupq_n_f32(TINY));
            let top = vdupq_n_f32(top);
            let masked = |x| vreinterpretq_f32_u32(vandq_u32(vreinterpretq_u32_f32(x), some));
            inverses[i] = masked(vdivq_f32(top, most));
            vst1q_f32(out.0[4 * i..4 * i + 4].as_mut_ptr(), masked(vdivq_f32(most, top)));
        }
    }
    inverses
}

/// Four weights of four rows, as bytes: even ones and odd ones apart.
#[inline(always)]
fn narrow<F: Format>(x: int8x16_t, a: int16x8_t, c: int16x8_t) -> int8x16_t {
    let span: Span = const { super::span(F::DTYPE) };
    let lift = span.lift(F::ZERO);
    // SAFETY: NEON is part of every target that this file is compiled for.
    unsafe {
        let x = vreinterpretq_s16_s8(x);
        let even = vshlq_s16(x, vdupq_n_s16(16 - span.bits as i16));
        let odd = vshlq_s16(x, vdupq_n_s16(8 - span.bits as i16));
        let odd = vandq_s16(odd, vdupq_n_s16((-1i32 << (16 - span.bits)) as i16));
        let [even, odd] = [even, odd].map(|x| {
            let x = if lift == 0 { x } else { vaddq_s16(x, vdupq_n_s16(lift)) };
            vreinterpretq_u16_s16(vshlq_n_s16::<1>(vaddq_s16(vqrdmulhq_s16(x, a), c)))
        });
        vreinterpretq_s8_u16(vsriq_n_u16::<8>(odd, even))
    }
}

#[target_feature(enable = "neon")]
unsafe fn unpack<F: Format>(
    w: &Packed<'_>,
    g: usize,
    from: usize,
    n: usize,
    lines: &mut [Line],
    out: &mut Rows,
) {
    let span: Span = const { super::span(F::DTYPE) };
    let len = F::DTYPE.block_len();
    let halves = if F::OF_16 { 2 } else { 1 };
    let (head, code) = (ROWS * F::PARTS.head_bytes(), ROWS * F::PARTS.code_bytes());
    let (heads, codes) = group(w, g);
    let (first, of) = (from / len, F::INNER * halves);
    let mut scale = [zeros(); MOST_GROUPS];
    let mut min = [zeros(); MOST_GROUPS];
    let mut of_block = F::Head::new();
    for block in 0..n / len {
        let at = block * of..(block + 1) * of;
        let head = &heads[(first + block) * head..][..head];
        for i in 0..8 {
            F::ahead(head, &mut of_block, i);
        }
        let floats = F::head(head, &mut of_block);
        for (g, (scale, min)) in scale[at.clone()].iter_mut().zip(&mut min[at]).enumerate() {
            *scale = F::scale(&of_block, &floats, g);
            if F::PARTS.min {
                *min = F::min(&of_block, &floats, g);
            }
        }
    }
    let mut most = zeros();
    for group in 0..n / len * of {
        for i in 0..4 {
            let scale = scale[group][i];
            for c in [span.low, span.high] {
                most[i] = vmaxq_f32(most[i], vabsq_f32(at::<F>(scale, c, min[group][i])));
            }
            if span.full {
                most[i] = vmaxq_f32(most[i], vmulq_n_f32(scale, -128.0));
            }
        }
    }
    let inverses = scales(most, span.top, out);
    let fours = 8 / halves;
    for block in 0..n / len {
        let codes = &codes[(first + block) * code..][..code];
        for inner in 0..F::INNER {
            for h in 0..halves {
                let group = block * of + inner * halves + h;
                let (mut a, mut c) = ([vdupq_n_s16(0); 4], [vdupq_n_s16(0); 4]);
                for i in 0..4 {
                    let (scale, min, inv) = (scale[group][i], min[group][i], inverses[i]);
                    a[i] = twice(vmulq_f32(scale, vmulq_n_f32(inv, span.up())), 0);
                    let middle = vmulq_f32(at::<F>(scale, span.middle(), min), inv);
                    c[i] = twice(vmulq_n_f32(middle, 128.0), 64);
                }
                for j in h * fours..(h + 1) * fours {
                    let x = F::line(codes, inner, j);
                    let line = &mut lines[8 * (block * F::INNER + inner) + j];
                    for i in 0..4 {
                        let to = line.0[16 * i..16 * i + 16].as_mut_ptr();
                        // SAFETY: 16 bytes are written.
                        unsafe { vst1q_u8(to, vreinterpretq_u8_s8(narrow::<F>(x[i], a[i], c[i]))) };
                    }
                }
            }
        }
    }
}

/// Vector `i` of a line.
#[inline(always)]
pub(super) fn vector(line: &Line, i: usize) -> int8x16_t {
    // SAFETY: NEON is part of every target that this file is compiled for; 16 bytes are read.
    unsafe { vreinterpretq_s8_u8(vld1q_u8(line.0[16 * i..16 * i + 16].as_ptr())) }
}

/// Puts vectors where those of a line are.
#[inline(always)]
pub(super) fn put(line: &mut Line, x: [int32x4_t; 4]) {
    for (to, x) in line.0.as_chunks_mut::<16>().0.iter_mut().zip(x) {
        // SAFETY: NEON is part of every target that this file is compiled for; 16 bytes are written.
        unsafe { vst1q_u8(to.as_mut_ptr(), vreinterpretq_u8_s32(x)) };
    }
}

/// A number of a tile, four times.
#[inline(always)]
pub(super) fn four(x: u32) -> float32x4_t {
    // SAFETY: NEON is part of every target that this file is compiled for.
    unsafe { vdupq_n_f32(f32::from_bits(x)) }
}

/// The products of a block, of four rows and a token, and what came before.
#[inline(always)]
pub(super) fn fold(acc: float32x4_t, dot: int32x4_t, d: u32) -> float32x4_t {
    // SAFETY: NEON is part of every target that this file is compiled for.
    unsafe { vfmaq_n_f32(acc, vreinterpretq_f32_s32(dot), f32::from_bits(d)) }
}

/// Adds the products of a piece: `sum += acc * scale`.
#[inline(always)]
pub(super) fn add(sum: &mut [f32], acc: float32x4_t, scale: &[f32]) {
    let (sum, scale) = (&mut sum[..4], &scale[..4]);
    // SAFETY: four numbers are read, and four written.
    unsafe {
        let sums = vfmaq_f32(vld1q_f32(sum.as_ptr()), acc, vld1q_f32(scale.as_ptr()));
        vst1q_f32(sum.as_mut_ptr(), sums);
    }
}
