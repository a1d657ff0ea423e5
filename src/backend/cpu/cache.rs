//! Keys and values of one layer, as the kernels of attention read them.
//!
//! ```text
//! keys     [kv head][block of 16 cells][element of the head][cell of the block]
//! values   [kv head][cell][element of the head, and zeros up to a multiple of 16]
//! ```
//! One vector of keys is one element of 16 cells, one of values 16 elements of one cell, so that
//! neither a score nor a mixture is ever summed across a vector.

use std::ops::Range;

use crate::backend::{Decoder, Shape};
use crate::base::aligned::Buffer;
use crate::base::error::Result;
use crate::base::memory::Memory;
use crate::base::pool::Pool;
use crate::kernel::{GROUP, Kernels, Panel};

use super::Cpu;

/// What keys and values are stored as.
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
    ) {
        kernels.panel_f16(n, a, b, out);
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
    ) {
        kernels.panel_f32(n, a, b, out);
    }
}

/// Where things lie in a cache.
#[derive(Clone, Copy)]
pub(super) struct Layout {
    n_head: usize,
    head_dim: usize,
    n_ctx: usize,
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
}

/// Elements from one cell's values to the next one's.
pub(super) fn value_width(head_dim: usize) -> usize {
    head_dim.next_multiple_of(GROUP)
}

/// The cache of one layer.
pub struct Kv {
    layout: Layout,
    pub(super) store: Store,
}

pub(super) enum Store {
    F16(Halves<Buffer<u16>>),
    F32(Halves<Buffer<f32>>),
}

pub(super) struct Halves<B> {
    k: B,
    v: B,
}

/// One head's keys and values.
#[derive(Clone, Copy)]
pub(super) struct Head<'a, T> {
    k: &'a [T],
    v: &'a [T],
    head_dim: usize,
}

impl Kv {
    /// Head `head` of a cache of halves.
    pub(super) fn head<'a, T, B>(&self, halves: &'a Halves<B>, head: usize) -> Head<'a, T>
    where
        B: std::ops::Deref<Target = [T]>,
    {
        let (k, v) = (self.layout.key_len(), self.layout.value_len());
        Head {
            k: &halves.k[head * k..][..k],
            v: &halves.v[head * v..][..v],
            head_dim: self.layout.head_dim,
        }
    }

    /// The keys of all heads in `cell`.
    pub(super) fn key(&self, cell: u32, out: &mut [f32]) {
        match &self.store {
            Store::F16(halves) => self.layout.key(&halves.k, cell, out),
            Store::F32(halves) => self.layout.key(&halves.k, cell, out),
        }
    }

    /// Overwrites the keys of all heads in `cell`.
    pub(super) fn set_key(&mut self, kernels: &Kernels, cell: u32, row: &[f32]) {
        let layout = self.layout;
        match &mut self.store {
            Store::F16(halves) => layout.set_key(kernels, &mut halves.k, cell, row),
            Store::F32(halves) => layout.set_key(kernels, &mut halves.k, cell, row),
        }
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
        match &mut self.store {
            Store::F16(to) => layout.fill(kernels, pool, cells, (k, &mut to.k), (v, &mut to.v)),
            Store::F32(to) => layout.fill(kernels, pool, cells, (k, &mut to.k), (v, &mut to.v)),
        }
    }

    /// Copies what `cells` hold from another cache of the same shape.
    pub(super) fn copy(&mut self, from: &Kv, cells: &[u32]) {
        let layout = self.layout;
        match (&mut self.store, &from.store) {
            (Store::F16(to), Store::F16(from)) => layout.copy(to, from, cells),
            (Store::F32(to), Store::F32(from)) => layout.copy(to, from, cells),
            _ => {}
        }
    }
}

impl<'a, T> Head<'a, T> {
    /// The keys of `n` blocks of 16 cells from block `first` on: element by cell.
    pub(super) fn keys(&self, first: usize, n: usize) -> Panel<'a, T> {
        let group = GROUP * self.head_dim;
        let data = &self.k[first * group..];
        Panel { data, n: self.head_dim, row: GROUP, n_groups: n, group }
    }

    /// The values of `n` cells from cell `first` on: cell by element.
    pub(super) fn values(&self, first: usize, n: usize) -> Panel<'a, T> {
        let row = value_width(self.head_dim);
        Panel { data: &self.v[first * row..], n, row, n_groups: row / GROUP, group: GROUP }
    }
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

    fn set_key<T: Element>(&self, kernels: &Kernels, keys: &mut [T], cell: u32, row: &[f32]) {
        let heads = keys.chunks_exact_mut(self.key_len());
        for (keys, row) in heads.zip(row.chunks_exact(self.head_dim)) {
            self.set_head_key(kernels, keys, cell, row);
        }
    }

    fn set_head_key<T: Element>(&self, kernels: &Kernels, keys: &mut [T], cell: u32, row: &[f32]) {
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

    fn fill<T: Element>(
        &self,
        kernels: &Kernels,
        pool: &Pool,
        cells: &[u32],
        (k, keys): (&[f32], &mut [T]),
        (v, values): (&[f32], &mut [T]),
    ) -> Result<()> {
        let (d, width) = (self.head_dim, value_width(self.head_dim));
        let set_keys = |head: usize, keys: &mut [T]| {
            for (&cell, row) in cells.iter().zip(k.chunks_exact(self.n_head * d)) {
                self.set_head_key(kernels, keys, cell, &row[head * d..][..d]);
            }
        };
        let set_values = |head: usize, values: &mut [T]| {
            for (&cell, row) in cells.iter().zip(v.chunks_exact(self.n_head * d)) {
                let to = &mut values[cell as usize * width..][..d];
                T::round(kernels, &row[head * d..][..d], to);
            }
        };
        if cells.len() < GROUP {
            // Less work than waking a thread.
            let heads = keys.chunks_exact_mut(self.key_len());
            for (head, (keys, values)) in
                heads.zip(values.chunks_exact_mut(self.value_len())).enumerate()
            {
                set_keys(head, keys);
                set_values(head, values);
            }
            return Ok(());
        }
        pool.rows(keys, self.key_len(), 1, |_, head, keys| set_keys(head, keys))?;
        pool.rows(values, self.value_len(), 1, |_, head, values| set_values(head, values))
    }

    fn copy<T, B>(&self, to: &mut Halves<B>, from: &Halves<B>, cells: &[u32])
    where
        T: Element,
        B: std::ops::DerefMut<Target = [T]>,
    {
        let width = value_width(self.head_dim);
        let keys = to.k.chunks_exact_mut(self.key_len()).zip(from.k.chunks_exact(self.key_len()));
        for (to, from) in keys {
            let mut cells = cells;
            while let Some((&cell, rest)) = cells.split_first() {
                let (block, lane) = self.block(cell);
                match cells.first_chunk::<GROUP>() {
                    Some(chunk) if lane == 0 && is_run(chunk) => {
                        to[block.clone()].copy_from_slice(&from[block]);
                        cells = &cells[GROUP..];
                    }
                    _ => {
                        let rows = to[block.clone()].chunks_exact_mut(GROUP);
                        for (to, from) in rows.zip(from[block].chunks_exact(GROUP)) {
                            to[lane] = from[lane];
                        }
                        cells = rest;
                    }
                }
            }
        }
        let len = self.value_len();
        let values = to.v.chunks_exact_mut(len).zip(from.v.chunks_exact(len));
        for (to, from) in values {
            for &cell in cells {
                let row = cell as usize * width..(cell as usize + 1) * width;
                to[row.clone()].copy_from_slice(&from[row]);
            }
        }
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
        let bytes = |len: usize| {
            let n = (decoder.n_head_kv * len) as u64;
            (n * if shape.kv_f32 { 4 } else { 2 }).next_multiple_of(64)
        };
        bytes(layout.key_len()) + bytes(layout.value_len())
    }

    /// Makes the cache of one layer.
    pub fn kv(&self, shape: &Shape, memory: &Memory) -> Result<Kv> {
        let layout = Layout::new(&self.decoder, shape);
        let (k, v) = (layout.n_head * layout.key_len(), layout.n_head * layout.value_len());
        let store = if shape.kv_f32 {
            Store::F32(Halves { k: memory.buffer(k)?, v: memory.buffer(v)? })
        } else {
            Store::F16(Halves { k: memory.buffer(k)?, v: memory.buffer(v)? })
        };
        Ok(Kv { layout, store })
    }
}
