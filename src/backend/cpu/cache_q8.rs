//! Keys and values of one layer in 8 bits.
//!
//! ```text
//! keys     [kv head][block of 16 cells][quad of elements][cell of the block][element of the quad]
//! values   [kv head][block of 32 elements][quad of cells][element of the block][cell of the quad]
//! scales   [kv head][block of 32 elements][cell], half precision
//! ```
//! A head's last block may be shorter: of keys up to whole quads, of values up to 16 or 32 elements;
//! what was added is zeros.
//!
//! A code is `x / d` rounded to nearest, ties to even, where `d`, the scale, is the least number in
//! half precision with which the greatest magnitude of the block fits into 127. So `d * code` differs
//! from `x` by at most `d / 2`, and `d` is at most the greatest magnitude / 127 and one part in 1024
//! more, or 6e-8 more. Which instructions compute that makes no difference to any bit.

use std::ops::Range;

use half::f16;

use crate::base::aligned::Buffer;
use crate::base::error::Result;
use crate::base::memory::Memory;
use crate::base::pool::Pool;
use crate::kernel::{GROUP, KV_BLOCK, KV_QUAD, Keys8 as KeyCodes, Values8 as ValueCodes};
use crate::quant::f32_of_half;

use super::cache_store::{Layout, Moves, Targets, each_head, gather_lanes, value_width};

/// Added to a float below 2^22, it leaves that float rounded to an integer in the lowest bits.
const TO_INTEGER: f32 = 12582912.0;

/// Codes and scales of all heads.
pub(super) struct Codes {
    pub(super) layout: Layout,
    pub(super) codes: Buffer<i8>,
    pub(super) scales: Buffer<u16>,
}

/// Keys of one layer.
pub(super) struct Keys8(pub(super) Codes);

/// Values of one layer.
pub(super) struct Values8(pub(super) Codes);

/// One head's codes and scales.
#[derive(Clone, Copy)]
pub(super) struct HeadCodes<'a> {
    codes: &'a [i8],
    scales: &'a [u16],
    layout: Layout,
}

/// Blocks of elements that share a scale.
pub(super) fn n_blocks(head_dim: usize) -> usize {
    head_dim.div_ceil(KV_BLOCK)
}

/// Where the codes of a cell's key begin in its head, and how far apart its quads are.
pub(super) fn key_at(layout: &Layout, cell: usize) -> (usize, usize) {
    let block = cell / GROUP * GROUP * layout.head_dim.next_multiple_of(KV_QUAD);
    (block + cell % GROUP * KV_QUAD, GROUP * KV_QUAD)
}

/// Elements of block `b` of a value, padded.
fn block_width(layout: &Layout, b: usize) -> usize {
    (value_width(layout.head_dim) - b * KV_BLOCK).min(KV_BLOCK)
}

/// Where quad `quad` of block `b` of the values begins in its head, and its length.
pub(super) fn value_at(layout: &Layout, b: usize, quad: usize) -> (usize, usize) {
    let len = block_width(layout, b) * KV_QUAD;
    (b * KV_BLOCK * layout.n_cells.next_multiple_of(KV_QUAD) + quad * len, len)
}

impl Layout {
    pub(super) fn scale_stride(&self) -> usize {
        self.n_cells.next_multiple_of(GROUP)
    }

    pub(super) fn scale_len(&self) -> usize {
        n_blocks(self.head_dim) * self.scale_stride()
    }

    /// Codes of one head.
    pub(super) fn key_codes(&self) -> usize {
        self.n_cells.next_multiple_of(GROUP) * self.head_dim.next_multiple_of(KV_QUAD)
    }

    pub(super) fn value_codes(&self) -> usize {
        self.n_cells.next_multiple_of(KV_QUAD) * value_width(self.head_dim)
    }
}

impl Codes {
    fn new(layout: Layout, codes: usize, memory: &Memory) -> Result<Codes> {
        Ok(Codes {
            layout,
            codes: memory.buffer(layout.n_head * codes)?,
            scales: memory.buffer(layout.n_head * layout.scale_len())?,
        })
    }

    fn bytes(layout: Layout, codes: usize) -> u64 {
        let bytes = |len: usize| ((layout.n_head * len) as u64).next_multiple_of(64);
        bytes(codes) + bytes(2 * layout.scale_len())
    }

    fn head(&self, head: usize) -> HeadCodes<'_> {
        let (codes, scales) = (self.codes.len() / self.layout.n_head, self.layout.scale_len());
        HeadCodes {
            codes: &self.codes[head * codes..][..codes],
            scales: &self.scales[head * scales..][..scales],
            layout: self.layout,
        }
    }

    /// Takes a row each: first scales, then codes, `set(codes of a head, cell, block, its codes)`.
    fn fill(
        &mut self,
        pool: Option<&Pool>,
        to: Targets<'_>,
        rows: &[f32],
        set: impl Fn(&mut [i8], usize, usize, &[i8]) + Sync,
    ) -> Result<()> {
        let (layout, stride) = (self.layout, self.layout.scale_stride());
        each_head(pool, &mut self.scales, layout.scale_len(), |head, scales| {
            for (_, cell, row) in to.of_head(&layout, rows, head) {
                set_scales(scales, stride, cell, row);
            }
        })?;
        let (len, scale_len) = (self.codes.len() / layout.n_head, layout.scale_len());
        let scales = &self.scales;
        each_head(pool, &mut self.codes, len, |head, codes| {
            let scales = &scales[head * scale_len..][..scale_len];
            for (_, cell, row) in to.of_head(&layout, rows, head) {
                each_code(scales, stride, cell, row, |b, block| {
                    set(codes, cell as usize, b, block)
                });
            }
        })
    }

    /// Codes of one head.
    fn codes_of(&self, head: usize) -> Range<usize> {
        let len = self.codes.len() / self.layout.n_head;
        head * len..(head + 1) * len
    }

    /// Moves scales of a head; later stores have them where this one has.
    fn compact_scales<'l>(
        &mut self,
        later: &dyn Fn(usize) -> Option<&'l Codes>,
        head: usize,
        moves: &Moves<'_>,
    ) {
        let (len, stride) = (self.layout.scale_len(), self.layout.scale_stride());
        for first in (head * len..(head + 1) * len).step_by(stride) {
            for (to, (store, cell)) in moves.each() {
                self.scales[first + to] = match later_of(later, store) {
                    Some(later) => later.scales[first + cell],
                    None => self.scales[first + cell],
                };
            }
        }
    }

    /// Takes over all that another store's hold.
    pub(super) fn copy_from(&mut self, from: &Codes) {
        self.codes.copy_from_slice(&from.codes);
        self.scales.copy_from_slice(&from.scales);
    }
}

/// A later store, if it is one.
fn later_of<'l>(later: &dyn Fn(usize) -> Option<&'l Codes>, store: usize) -> Option<&'l Codes> {
    if store == 0 { None } else { later(store) }
}

/// Sets the scales of a cell's row in one head's.
fn set_scales(scales: &mut [u16], stride: usize, cell: u32, row: &[f32]) {
    for (b, block) in row.chunks(KV_BLOCK).enumerate() {
        scales[b * stride + cell as usize] = scale(block);
    }
}

/// Calls `f(block, its codes)` for the blocks of a row whose scales are set.
fn each_code(
    scales: &[u16],
    stride: usize,
    cell: u32,
    row: &[f32],
    mut f: impl FnMut(usize, &[i8]),
) {
    for (b, block) in row.chunks(KV_BLOCK).enumerate() {
        let mut coded = [0; KV_BLOCK];
        encode(block, scales[b * stride + cell as usize], &mut coded);
        f(b, &coded[..block.len()]);
    }
}

impl Keys8 {
    pub(super) fn new(layout: Layout, memory: &Memory) -> Result<Keys8> {
        Ok(Keys8(Codes::new(layout, layout.key_codes(), memory)?))
    }

    pub(super) fn bytes(layout: Layout) -> u64 {
        Codes::bytes(layout, layout.key_codes())
    }

    pub(super) fn head(&self, head: usize) -> HeadCodes<'_> {
        self.0.head(head)
    }

    /// Takes a row each.
    pub(super) fn fill(&mut self, pool: Option<&Pool>, to: Targets<'_>, k: &[f32]) -> Result<()> {
        let layout = self.0.layout;
        self.0.fill(pool, to, k, |codes, cell, b, block| set_key(&layout, codes, cell, b, block))
    }

    /// Overwrites a head's key.
    pub(super) fn set(&mut self, head: usize, cell: u32, key: &[f32]) {
        let Codes { layout, codes, scales } = &mut self.0;
        let (len, stride) = (layout.key_codes(), layout.scale_stride());
        let scales = &mut scales[head * layout.scale_len()..][..layout.scale_len()];
        set_scales(scales, stride, cell, key);
        let codes = &mut codes[head * len..][..len];
        each_code(scales, stride, cell, key, |b, block| {
            set_key(layout, codes, cell as usize, b, block);
        });
    }

    /// Moves what a head's cells hold.
    pub(super) fn compact<'l>(
        &mut self,
        later: &dyn Fn(usize) -> Option<&'l Keys8>,
        head: usize,
        moves: &Moves<'_>,
    ) {
        self.0.compact_scales(&|store| later(store).map(|keys| &keys.0), head, moves);
        let (range, d) = (self.0.codes_of(head), self.0.layout.head_dim);
        let later = |store| later(store).map_or(&[][..], |keys| &keys.0.codes[range.clone()]);
        let codes = &mut self.0.codes[range.clone()];
        gather_lanes::<_, GROUP>(codes, &later, (d.div_ceil(KV_QUAD), KV_QUAD), moves);
    }
}

/// Sets the codes of a block of a cell's key in one head's.
fn set_key(layout: &Layout, codes: &mut [i8], cell: usize, b: usize, block: &[i8]) {
    let (at, stride) = key_at(layout, cell);
    let at = at + b * (KV_BLOCK / KV_QUAD) * stride;
    for (i, quad) in block.chunks(KV_QUAD).enumerate() {
        codes[at + i * stride..][..quad.len()].copy_from_slice(quad);
    }
}

impl Values8 {
    pub(super) fn new(layout: Layout, memory: &Memory) -> Result<Values8> {
        Ok(Values8(Codes::new(layout, layout.value_codes(), memory)?))
    }

    pub(super) fn bytes(layout: Layout) -> u64 {
        Codes::bytes(layout, layout.value_codes())
    }

    pub(super) fn head(&self, head: usize) -> HeadCodes<'_> {
        self.0.head(head)
    }

    /// Takes a row each.
    pub(super) fn fill(&mut self, pool: Option<&Pool>, to: Targets<'_>, v: &[f32]) -> Result<()> {
        let layout = self.0.layout;
        self.0.fill(pool, to, v, |codes, cell, b, block| {
            let (at, len) = value_at(&layout, b, cell / KV_QUAD);
            let quads = codes[at..at + len].chunks_exact_mut(KV_QUAD);
            for (quad, code) in quads.zip(block) {
                quad[cell % KV_QUAD] = *code;
            }
        })
    }

    /// Moves what a head's cells hold.
    pub(super) fn compact<'l>(
        &mut self,
        later: &dyn Fn(usize) -> Option<&'l Values8>,
        head: usize,
        moves: &Moves<'_>,
    ) {
        self.0.compact_scales(&|store| later(store).map(|values| &values.0), head, moves);
        let (layout, range) = (self.0.layout, self.0.codes_of(head));
        for b in 0..n_blocks(layout.head_dim) {
            let (first, width) = (value_at(&layout, b, 0).0, block_width(&layout, b));
            let range = range.start + first..range.end;
            let later =
                |store| later(store).map_or(&[][..], |values| &values.0.codes[range.clone()]);
            let codes = &mut self.0.codes[range.clone()];
            gather_lanes::<_, KV_QUAD>(codes, &later, (width, 1), moves);
        }
    }
}

impl<'a> HeadCodes<'a> {
    /// The key in `cell`.
    pub(super) fn key(&self, cell: u32, out: &mut [f32]) {
        let (at, stride) = key_at(&self.layout, cell as usize);
        for (i, x) in out.iter_mut().enumerate() {
            let d = self.scales[i / KV_BLOCK * self.layout.scale_stride() + cell as usize];
            let code = self.codes[at + i / KV_QUAD * stride + i % KV_QUAD];
            *x = f32_of_half(d) * f32::from(code);
        }
    }

    /// The value in `cell`.
    pub(super) fn value(&self, cell: u32, out: &mut [f32]) {
        let (quad, lane) = (cell as usize / KV_QUAD, cell as usize % KV_QUAD);
        for (b, out) in out.chunks_mut(KV_BLOCK).enumerate() {
            let (at, _) = value_at(&self.layout, b, quad);
            let d = self.scales[b * self.layout.scale_stride() + cell as usize];
            for (i, x) in out.iter_mut().enumerate() {
                let code = self.codes[at + i * KV_QUAD + lane];
                *x = f32_of_half(d) * f32::from(code);
            }
        }
    }

    /// Keys of `n` blocks of 16 cells from block `first` on.
    pub(super) fn keys(&self, first: usize, n: usize) -> KeyCodes<'a> {
        let n_quads = self.layout.head_dim.div_ceil(KV_QUAD);
        let len = n_quads * GROUP * KV_QUAD;
        KeyCodes {
            n_groups: n,
            n_quads,
            codes: &self.codes[first * len..][..n * len],
            scales: &self.scales[first * GROUP..],
            scale_stride: self.layout.scale_stride(),
        }
    }

    /// Block `b` of the values of `n` quads of cells from quad `first` on.
    pub(super) fn values(&self, b: usize, first: usize, n: usize) -> ValueCodes<'a> {
        let (at, len) = value_at(&self.layout, b, first);
        ValueCodes {
            n_quads: n,
            n_groups: block_width(&self.layout, b) / GROUP,
            codes: &self.codes[at..][..n * len],
        }
    }

    /// The scales of block `b` of `n` cells from cell `first` on.
    pub(super) fn scales(&self, b: usize, first: usize, n: usize) -> &'a [u16] {
        &self.scales[b * self.layout.scale_stride() + first..][..n]
    }
}

/// The scale of a block: not finite if an element is not, or if it would not fit.
fn scale(x: &[f32]) -> u16 {
    // Magnitudes compare as integers, and a NaN is the largest of all.
    let max = x.iter().fold(0, |max, x| x.abs().to_bits().max(max));
    let exact = f32::from_bits(max) / 127.0;
    let d = f16::from_f32(exact);
    if d.to_f32() < exact { d.to_bits() + 1 } else { d.to_bits() }
}

fn encode(x: &[f32], d: u16, codes: &mut [i8]) {
    let d = f32_of_half(d);
    let inverse = if d == 0.0 { 0.0 } else { 1.0 / d };
    for (code, x) in codes.iter_mut().zip(x) {
        let rounded = (x * inverse + TO_INTEGER).to_bits() as i8;
        *code = rounded.max(-127); // what is not finite leaves any bits
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A code, and what it stands for.
    fn coded(x: &[f32]) -> (f32, Vec<i8>) {
        let d = scale(x);
        let mut codes = vec![0; x.len()];
        encode(x, d, &mut codes);
        (f32_of_half(d), codes)
    }

    #[test]
    fn a_code_is_within_half_a_step() {
        let mut state = 1u32;
        let mut random = || {
            state = state.wrapping_mul(1664525).wrapping_add(1013904223);
            (state >> 8) as f32 / 8388608.0 - 1.0
        };
        for exponent in -45..23 {
            for n in [1, 8, 31, 32] {
                let x: Vec<f32> = (0..n).map(|_| random() * 2f32.powi(exponent)).collect();
                let (d, codes) = coded(&x);
                let max = x.iter().fold(0f32, |max, x| max.max(x.abs()));
                let limit = max / 127.0 * (1.0 + 1.0 / 1024.0);
                assert!(d <= limit + 6e-8, "2^{exponent}: {d} for {max}");
                for (x, code) in x.iter().zip(codes) {
                    let error = (x - d * f32::from(code)).abs();
                    assert!(error <= d * 0.50001, "2^{exponent}: {x}, {code} of {d}");
                    assert!(code > -128);
                }
            }
        }
    }

    #[test]
    fn what_is_not_finite_shows() {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 1e8] {
            let (d, codes) = coded(&[1.0, bad, -2.0]);
            assert!(!d.is_finite(), "{bad}: {d}");
            assert!(codes.iter().all(|code| *code > -128), "{bad}: {codes:?}");
        }
        assert_eq!(coded(&[0.0, -0.0]), (0.0, vec![0, 0]));
    }
}
