//! Keys and values in 8 bits: what the kernels of the rungs read, and the scalar rung.
//!
//! 32 elements of a head share a scale, which is in half precision. Codes stand so that one vector
//! multiplies four at a time, and no sum runs across a vector:
//! ```text
//! keys     [16 cells][element / 4][cell][4 elements of it]    times 4 codes of a query
//! values   [cells / 4][element][4 cells of it]                times 4 codes of weights
//! ```
//! All sums are of integers, and exact. What is done in floats is done in one order with the same
//! roundings on every rung, so that a result has the same bits on all of them.
//!
//! The weights of values are of 14 bits, in two planes of 7: bytes that count as signed and as
//! unsigned alike, and of which two products fit into 16 bits.

use super::GROUP;
use crate::quant::f32_of_half;

/// Elements that share a scale.
pub const KV_BLOCK: usize = 32;
/// Codes that are multiplied at once, and their products summed.
pub const KV_QUAD: usize = 4;
/// Cells that weights can be mixed for at once: their sums stay below 2^31.
pub const MOST_MIXED: usize = 512;

/// The largest code of a weight.
pub(super) const MOST: f32 = 16383.0;
/// Bits of the lower plane.
pub(super) const PLANE_BITS: u32 = 7;
/// Added to a float, it leaves that float rounded to an integer in the lowest bits.
pub(super) const TO_INTEGER: f32 = 8388608.0;

/// Queries in 8 bits: rows of whole blocks as [`crate::kernel::Kernels::quantize`] makes them.
#[derive(Clone, Copy)]
pub struct Queries8<'a> {
    /// Rows.
    pub n: usize,
    /// Blocks of 32 codes in a row.
    pub n_blocks: usize,
    /// `[n][n_blocks * 32]`
    pub codes: &'a [i8],
    /// `[n][n_blocks]`
    pub scales: &'a [f32],
    /// `[n][n_blocks * 2]`
    pub sums: &'a [i32],
}

/// Keys of groups of 16 cells.
#[derive(Clone, Copy)]
pub struct Keys8<'a> {
    /// Groups of cells.
    pub n_groups: usize,
    /// Quads of elements of a key; the last block may have fewer than 8.
    pub n_quads: usize,
    /// `[n_groups][n_quads][16][4]`
    pub codes: &'a [i8],
    /// Half precision: that of block b and cell c stands at `b * scale_stride + c`.
    pub scales: &'a [u16],
    /// Scales from one block to the next.
    pub scale_stride: usize,
}

/// Up to 32 elements of the values of some quads of cells.
#[derive(Clone, Copy)]
pub struct Values8<'a> {
    /// Quads of cells.
    pub n_quads: usize,
    /// Groups of 16 elements: 1 or 2.
    pub n_groups: usize,
    /// `[n_quads][n_groups * 16][4]`
    pub codes: &'a [i8],
}

/// The kernels for 8 bits; the methods of [`crate::kernel::Kernels`] say what each does.
#[derive(Clone, Copy)]
pub(crate) struct Attend8 {
    pub(crate) scores: ScoresFn,
    pub(crate) weigh: WeighFn,
    pub(crate) mix: MixFn,
}

pub(crate) type ScoresFn = unsafe fn(&Queries8<'_>, &Keys8<'_>, (&mut [f32], usize));
pub(crate) type WeighFn = unsafe fn((&[f32], usize), &[u16], (&mut [u8], usize), &mut [f32]);
pub(crate) type MixFn = unsafe fn(usize, (&[u8], usize), &Values8<'_>, (&mut [i32], usize));

pub(super) const SCALAR: Attend8 = Attend8 { scores, weigh, mix };

fn scores(q: &Queries8<'_>, k: &Keys8<'_>, (out, out_stride): (&mut [f32], usize)) {
    let row = q.n_blocks * KV_BLOCK;
    for (group, codes) in k.codes.chunks_exact(k.n_quads * GROUP * KV_QUAD).enumerate() {
        for r in 0..q.n {
            let mut sums = [0f32; GROUP];
            let blocks = codes.chunks(KV_BLOCK * GROUP).zip(q.codes[r * row..].chunks(KV_BLOCK));
            for (b, (codes, q_codes)) in blocks.enumerate().take(q.n_blocks) {
                let mut dots = [0i32; GROUP];
                for (codes, q) in
                    codes.as_chunks::<{ GROUP * KV_QUAD }>().0.iter().zip(q_codes.chunks(4))
                {
                    for (dot, codes) in dots.iter_mut().zip(codes.chunks(KV_QUAD)) {
                        let products =
                            codes.iter().zip(q).map(|(k, q)| i32::from(*k) * i32::from(*q));
                        *dot += products.sum::<i32>();
                    }
                }
                let scales = &k.scales[b * k.scale_stride + group * GROUP..][..GROUP];
                for ((sum, dot), scale) in sums.iter_mut().zip(dots).zip(scales) {
                    let scaled = dot as f32 * f32_of_half(*scale);
                    *sum = scaled.mul_add(q.scales[r * q.n_blocks + b], *sum);
                }
            }
            out[r * out_stride + group * GROUP..][..GROUP].copy_from_slice(&sums);
        }
    }
}

/// What turns the largest product into the largest code, and that code's worth.
pub(super) fn scale_of(max: f32) -> (f32, f32) {
    let inverse = MOST / max;
    // Weights as small as that are nothing beside those of any other tile.
    if inverse.is_infinite() { (0.0, 0.0) } else { (inverse, max / MOST) }
}

/// The bits of the largest magnitude among products of `p` and `d`. A NaN is the largest of all.
pub(super) fn largest(p: &[f32], d: &[u16]) -> u32 {
    let products = p.iter().zip(d).map(|(p, d)| p * f32_of_half(*d));
    products.map(|x| x.abs().to_bits()).max().unwrap_or(0)
}

/// Rounds products, `inverse` times as large, to the two planes.
pub(super) fn to_planes(p: &[f32], d: &[u16], inverse: f32, high: &mut [u8], low: &mut [u8]) {
    for (((p, d), high), low) in p.iter().zip(d).zip(high).zip(low) {
        let code = (p * f32_of_half(*d) * inverse + TO_INTEGER).to_bits();
        *high = (code >> PLANE_BITS & 127) as u8;
        *low = (code & 127) as u8;
    }
}

/// Calls `weigh(p, high, low)`, which gives what a code of 1 is worth, for each row.
#[inline(always)]
pub(super) fn weigh_rows(
    (p, p_stride): (&[f32], usize),
    n: usize,
    (planes, plane): (&mut [u8], usize),
    worth: &mut [f32],
    weigh: impl Fn(&[f32], &mut [u8], &mut [u8]) -> f32,
) {
    for (r, worth) in worth.iter_mut().enumerate() {
        let (high, low) = planes[2 * r * plane..].split_at_mut(plane);
        *worth = weigh(&p[r * p_stride..][..n], &mut high[..n], &mut low[..n]);
    }
}

fn weigh(p: (&[f32], usize), d: &[u16], planes: (&mut [u8], usize), worth: &mut [f32]) {
    weigh_rows(p, d.len(), planes, worth, |p, high, low| {
        let (inverse, scale) = scale_of(f32::from_bits(largest(p, d)));
        to_planes(p, d, inverse, high, low);
        scale
    });
}

fn mix(
    n: usize,
    (weights, plane): (&[u8], usize),
    v: &Values8<'_>,
    (out, out_stride): (&mut [i32], usize),
) {
    let width = v.n_groups * GROUP;
    for r in 0..n {
        let (high, low) = weights[2 * r * plane..].split_at(plane);
        let out = &mut out[r * out_stride..][..width];
        for (quad, codes) in v.codes.chunks_exact(width * KV_QUAD).take(v.n_quads).enumerate() {
            let at = quad * KV_QUAD..(quad + 1) * KV_QUAD;
            let planes = high[at.clone()].iter().zip(&low[at]);
            let mut weights = [0i32; KV_QUAD];
            for (weight, (high, low)) in weights.iter_mut().zip(planes) {
                *weight = i32::from(*high) << PLANE_BITS | i32::from(*low);
            }
            for (out, codes) in out.iter_mut().zip(codes.chunks_exact(KV_QUAD)) {
                let products = codes.iter().zip(weights).map(|(v, w)| i32::from(*v) * w);
                *out += products.sum::<i32>();
            }
        }
    }
}
