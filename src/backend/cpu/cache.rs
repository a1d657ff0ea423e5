//! Keys and values of one layer, as the kernels of attention read them.
//!
//! ```text
//! keys     [kv head][block of 16 cells][element of the head][cell of the block]
//! values   [kv head][cell][element of the head, and zeros up to a multiple of 16]
//! ```
//! One vector of keys is one element of 16 cells, one of values 16 elements of one cell, so that
//! neither a score nor a mixture is ever summed across a vector. Those in 8 bits are in `cache_q8`.

use std::ops::Range;

use crate::backend::{Decoder, KvType, Shape};
use crate::base::aligned::Buffer;
use crate::base::error::Result;
use crate::base::memory::Memory;
use crate::base::pool::{Pool, Width};
use crate::kernel::{GROUP, Kernels, Panel};

use super::Cpu;
use super::cache_q8::{HeadCodes, Keys8, Values8};

/// What keys and values are stored as, if in floats.
pub(super) trait Element: Copy + Default + Send + Sync {
    fn round(kernels: &Kernels, x: &[f32], out: &mut [Self]);
    fn widen(self) -> f32;
    /// [`Kernels::panel_f16`], for this type.
    fn panel(
        kernels: &Kernels,
        n: usize,
        a: (&[f32], usize),
        b: &Panel<'_, Self>,
        out: (&mut [f32], usize),
        fresh: bool,
    );
}

impl Element for u16 {
    fn round(kernels: &Kernels, x: &[f32], out: &mut [u16]) {
        kernels.to_f16(x, out);
    }

    fn widen(self) -> f32 {
        half::f16::from_bits(self).to_f32()
    }

    fn panel(
        kernels: &Kernels,
        n: usize,
        a: (&[f32], usize),
        b: &Panel<'_, u16>,
        out: (&mut [f32], usize),
        fresh: bool,
    ) {
        kernels.panel_f16(n, a, b, out, fresh);
    }
}

impl Element for f32 {
    fn round(_: &Kernels, x: &[f32], out: &mut [f32]) {
        out.copy_from_slice(x);
    }

    fn widen(self) -> f32 {
        self
    }

    fn panel(
        kernels: &Kernels,
        n: usize,
        a: (&[f32], usize),
        b: &Panel<'_, f32>,
        out: (&mut [f32], usize),
        fresh: bool,
    ) {
        kernels.panel_f32(n, a, b, out, fresh);
    }
}

/// Where things lie in a cache.
#[derive(Clone, Copy)]
pub(super) struct Layout {
    pub(super) n_head: usize,
    pub(super) head_dim: usize,
    pub(super) n_ctx: usize,
}

impl Layout {
    fn new(d: &Decoder, shape: &Shape) -> Layout {
        Layout { n_head: d.n_head_kv, head_dim: d.head_dim, n_ctx: shape.n_ctx }
    }

    /// Elements of one head's keys, and of its values.
    fn key_len(&self) -> usize {
        self.n_ctx.next_multiple_of(GROUP) * self.head_dim
    }

    fn value_len(&self) -> usize {
        self.n_ctx * value_width(self.head_dim)
    }

    /// A block of cells in one head's keys, and the cell's place in it.
    fn block(&self, cell: u32) -> (Range<usize>, usize) {
        let at = cell as usize / GROUP * GROUP * self.head_dim;
        (at..at + GROUP * self.head_dim, cell as usize % GROUP)
    }

    /// Head `head` of each row, of rows as in [`super::Scratch`].
    pub(super) fn head_rows<'x>(
        &self,
        rows: &'x [f32],
        head: usize,
    ) -> impl Iterator<Item = &'x [f32]> {
        let d = self.head_dim;
        Width::spread(self.n_head * d).rows(rows).map(move |row| &row[head * d..][..d])
    }
}

/// Elements from one cell's values to the next one's.
pub(super) fn value_width(head_dim: usize) -> usize {
    head_dim.next_multiple_of(GROUP)
}

/// The cache of one layer.
pub struct Kv {
    layout: Layout,
    k: Keys,
    v: Values,
}

enum Keys {
    F16(Buffer<u16>),
    F32(Buffer<f32>),
    Q8(Keys8),
}

enum Values {
    F16(Buffer<u16>),
    F32(Buffer<f32>),
    Q8(Values8),
}

/// One head's keys, or its values.
#[derive(Clone, Copy)]
pub(super) enum Stored<'a> {
    F16(&'a [u16]),
    F32(&'a [f32]),
    Q8(HeadCodes<'a>),
}

/// One head's keys and values.
#[derive(Clone, Copy)]
pub(super) struct Head<'a> {
    pub(super) k: Stored<'a>,
    pub(super) v: Stored<'a>,
}

impl Kv {
    /// The keys and values of a head.
    pub(super) fn head(&self, head: usize) -> Head<'_> {
        let (k, v) = (self.layout.key_len(), self.layout.value_len());
        Head {
            k: match &self.k {
                Keys::F16(keys) => Stored::F16(&keys[head * k..][..k]),
                Keys::F32(keys) => Stored::F32(&keys[head * k..][..k]),
                Keys::Q8(keys) => Stored::Q8(keys.head(head)),
            },
            v: match &self.v {
                Values::F16(values) => Stored::F16(&values[head * v..][..v]),
                Values::F32(values) => Stored::F32(&values[head * v..][..v]),
                Values::Q8(values) => Stored::Q8(values.head(head)),
            },
        }
    }

    /// The keys of all heads in `cell`.
    pub(super) fn key(&self, cell: u32, out: &mut [f32]) {
        match &self.k {
            Keys::F16(keys) => self.layout.key(keys, cell, out),
            Keys::F32(keys) => self.layout.key(keys, cell, out),
            Keys::Q8(keys) => keys.key(cell, out),
        }
    }

    /// Overwrites the keys of all heads in `cell` with a row as in [`super::Scratch`].
    pub(super) fn set_key(&mut self, kernels: &Kernels, cell: u32, row: &[f32]) -> Result<()> {
        self.fill_keys(kernels, None, &[cell], row)
    }

    /// Fills `cells` with a row of keys and of values each.
    pub(super) fn fill(
        &mut self,
        kernels: &Kernels,
        pool: &Pool,
        cells: &[u32],
        k: &[f32],
        v: &[f32],
    ) -> Result<()> {
        let layout = self.layout;
        // A few are less work than waking a thread.
        let pool = (cells.len() >= GROUP).then_some(pool);
        self.fill_keys(kernels, pool, cells, k)?;
        match &mut self.v {
            Values::F16(values) => layout.fill_values(kernels, pool, values, cells, v),
            Values::F32(values) => layout.fill_values(kernels, pool, values, cells, v),
            Values::Q8(values) => values.fill(pool, cells, v),
        }
    }

    fn fill_keys(
        &mut self,
        kernels: &Kernels,
        pool: Option<&Pool>,
        cells: &[u32],
        k: &[f32],
    ) -> Result<()> {
        match &mut self.k {
            Keys::F16(keys) => self.layout.fill_keys(kernels, pool, keys, cells, k),
            Keys::F32(keys) => self.layout.fill_keys(kernels, pool, keys, cells, k),
            Keys::Q8(keys) => keys.fill(pool, cells, k),
        }
    }

    /// Copies what `cells` hold from another cache of the same shape.
    pub(super) fn copy(&mut self, from: &Kv, cells: &[u32]) {
        let layout = self.layout;
        match (&mut self.k, &from.k) {
            (Keys::F16(to), Keys::F16(from)) => layout.copy_keys(to, from, cells),
            (Keys::F32(to), Keys::F32(from)) => layout.copy_keys(to, from, cells),
            (Keys::Q8(to), Keys::Q8(from)) => to.copy(from, cells),
            _ => {}
        }
        match (&mut self.v, &from.v) {
            (Values::F16(to), Values::F16(from)) => layout.copy_values(to, from, cells),
            (Values::F32(to), Values::F32(from)) => layout.copy_values(to, from, cells),
            (Values::Q8(to), Values::Q8(from)) => to.copy(from, cells),
            _ => {}
        }
    }
}

/// Of one head's keys, `n` blocks of 16 cells from block `first` on: element by cell.
pub(super) fn key_panel<T>(keys: &[T], head_dim: usize, first: usize, n: usize) -> Panel<'_, T> {
    let group = GROUP * head_dim;
    Panel { data: &keys[first * group..], n: head_dim, row: GROUP, n_groups: n, group }
}

/// Of one head's values, those of `n` cells from cell `first` on: cell by element.
pub(super) fn value_panel<T>(v: &[T], head_dim: usize, first: usize, n: usize) -> Panel<'_, T> {
    let row = value_width(head_dim);
    Panel { data: &v[first * row..], n, row, n_groups: row / GROUP, group: GROUP }
}

impl Layout {
    fn key<T: Element>(&self, keys: &[T], cell: u32, out: &mut [f32]) {
        let (block, lane) = self.block(cell);
        let heads = keys.chunks_exact(self.key_len());
        for (keys, out) in heads.zip(out.chunks_exact_mut(self.head_dim)) {
            for (x, k) in out.iter_mut().zip(keys[block.clone()].chunks_exact(GROUP)) {
                *x = k[lane].widen();
            }
        }
    }

    fn fill_keys<T: Element>(
        &self,
        kernels: &Kernels,
        pool: Option<&Pool>,
        keys: &mut [T],
        cells: &[u32],
        k: &[f32],
    ) -> Result<()> {
        each_head(pool, keys, self.key_len(), |head, keys| {
            for (&cell, row) in cells.iter().zip(self.head_rows(k, head)) {
                let (block, lane) = self.block(cell);
                let mut rounded = [T::default(); 64];
                let parts = keys[block].chunks_mut(64 * GROUP);
                for (keys, row) in parts.zip(row.chunks(64)) {
                    T::round(kernels, row, &mut rounded[..row.len()]);
                    for (k, x) in keys.chunks_exact_mut(GROUP).zip(rounded) {
                        k[lane] = x;
                    }
                }
            }
        })
    }

    fn fill_values<T: Element>(
        &self,
        kernels: &Kernels,
        pool: Option<&Pool>,
        values: &mut [T],
        cells: &[u32],
        v: &[f32],
    ) -> Result<()> {
        let width = value_width(self.head_dim);
        each_head(pool, values, self.value_len(), |head, values| {
            for (&cell, row) in cells.iter().zip(self.head_rows(v, head)) {
                T::round(kernels, row, &mut values[cell as usize * width..][..self.head_dim]);
            }
        })
    }

    fn copy_keys<T: Element>(&self, to: &mut [T], from: &[T], cells: &[u32]) {
        let len = self.key_len();
        for (to, from) in to.chunks_exact_mut(len).zip(from.chunks_exact(len)) {
            each_block::<GROUP>(cells, |cell, whole| {
                let (block, lane) = self.block(cell);
                if whole {
                    to[block.clone()].copy_from_slice(&from[block]);
                    return;
                }
                let rows = to[block.clone()].chunks_exact_mut(GROUP);
                for (to, from) in rows.zip(from[block].chunks_exact(GROUP)) {
                    to[lane] = from[lane];
                }
            });
        }
    }

    fn copy_values<T: Element>(&self, to: &mut [T], from: &[T], cells: &[u32]) {
        let (len, width) = (self.value_len(), value_width(self.head_dim));
        for (to, from) in to.chunks_exact_mut(len).zip(from.chunks_exact(len)) {
            for &cell in cells {
                let row = cell as usize * width..(cell as usize + 1) * width;
                to[row.clone()].copy_from_slice(&from[row]);
            }
        }
    }
}

/// Calls `f(head, its part)` for the parts of `len` elements, on the pool's threads if there is one.
pub(super) fn each_head<T: Send>(
    pool: Option<&Pool>,
    all: &mut [T],
    len: usize,
    f: impl Fn(usize, &mut [T]) + Sync,
) -> Result<()> {
    match pool {
        Some(pool) => pool.rows(all, len, 1, |_, head, part| f(head, part)),
        None => {
            all.chunks_exact_mut(len).enumerate().for_each(|(head, part)| f(head, part));
            Ok(())
        }
    }
}

/// Calls `f(cell, whole)`: once for `N` cells that are a whole block, with the first of them, and for
/// every other cell alone.
pub(super) fn each_block<const N: usize>(mut cells: &[u32], mut f: impl FnMut(u32, bool)) {
    while let Some((&cell, rest)) = cells.split_first() {
        let whole = cells.first_chunk::<N>();
        let whole = whole.is_some_and(|block| (cell as usize).is_multiple_of(N) && is_run(block));
        f(cell, whole);
        cells = if whole { &cells[N..] } else { rest };
    }
}

/// Whether each cell is the one after its neighbour.
pub(super) fn is_run(cells: &[u32]) -> bool {
    let next = cells.get(1..).unwrap_or_default();
    // No way out at the first gap, so that it is done with vectors.
    cells.iter().zip(next).fold(true, |run, (a, b)| run & (a.wrapping_add(1) == *b))
}

impl Cpu {
    /// Bytes of the keys and values of one layer.
    pub fn kv_bytes(decoder: &Decoder, shape: &Shape) -> u64 {
        let layout = Layout::new(decoder, shape);
        let bytes = |len: usize, size: usize| {
            let n = (decoder.n_head_kv * len) as u64;
            (n * size as u64).next_multiple_of(64)
        };
        let keys = match shape.k_type {
            KvType::F16 => bytes(layout.key_len(), 2),
            KvType::F32 => bytes(layout.key_len(), 4),
            KvType::Q8_0 => Keys8::bytes(layout),
        };
        let values = match shape.v_type {
            KvType::F16 => bytes(layout.value_len(), 2),
            KvType::F32 => bytes(layout.value_len(), 4),
            KvType::Q8_0 => Values8::bytes(layout),
        };
        keys + values
    }

    /// Makes the cache of one layer.
    pub fn kv(&self, shape: &Shape, memory: &Memory) -> Result<Kv> {
        let layout = Layout::new(&self.decoder, shape);
        let (k, v) = (layout.n_head * layout.key_len(), layout.n_head * layout.value_len());
        let k = match shape.k_type {
            KvType::F16 => Keys::F16(memory.buffer(k)?),
            KvType::F32 => Keys::F32(memory.buffer(k)?),
            KvType::Q8_0 => Keys::Q8(Keys8::new(layout, memory)?),
        };
        let v = match shape.v_type {
            KvType::F16 => Values::F16(memory.buffer(v)?),
            KvType::F32 => Values::F32(memory.buffer(v)?),
            KvType::Q8_0 => Values::Q8(Values8::new(layout, memory)?),
        };
        Ok(Kv { layout, k, v })
    }
}
