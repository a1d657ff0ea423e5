//! Keys and values of one layer, as the kernels of attention read them.
//!
//! ```text
//! keys     [kv head][block of 16 cells][element of the head][cell of the block]
//! values   [kv head][cell][element of the head, and zeros up to a multiple of 16]
//! ```
//! One vector of keys is one element of 16 cells, one of values 16 elements of one cell, so that
//! neither a score nor a mixture is ever summed across a vector. Those in 8 bits are in `cache_q8`,
//! those in fewer in `cache_packed`.

use std::ops::Range;

use crate::backend::{Batch, Decoder, KvType, Shape};
use crate::base::aligned::Buffer;
use crate::base::error::Result;
use crate::base::memory::Memory;
use crate::base::pool::{Pool, Width};
use crate::kernel::{GROUP, Kernels};

use super::Cpu;
use super::cache_packed::{HeadPacked, Packed};
use super::cache_q8::{HeadCodes, Keys8, Values8};
use super::leverage::Leverage;
use super::mass::Mass;
use super::packed_cells::{Form, Side};
use super::tiles::Held;

/// Where things lie in a cache.
#[derive(Clone, Copy)]
pub(super) struct Layout {
    pub(super) n_head: usize,
    pub(super) head_dim: usize,
    pub(super) n_cells: usize,
}

impl Layout {
    fn new(d: &Decoder, shape: &Shape, window: u32) -> Layout {
        let n_cells = if window == 0 { shape.n_ctx } else { shape.n_cells };
        Layout { n_head: d.n_head_kv, head_dim: d.head_dim, n_cells }
    }

    /// Elements of one head's keys, and of its values.
    pub(super) fn key_len(&self) -> usize {
        self.n_cells.next_multiple_of(GROUP) * self.head_dim
    }

    pub(super) fn value_len(&self) -> usize {
        self.n_cells * value_width(self.head_dim)
    }

    /// A block of cells in one head's keys, and the cell's place in it.
    pub(super) fn block(&self, cell: u32) -> (Range<usize>, usize) {
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
    pub(super) layout: Layout,
    /// Which of [`Batch::held`] its first KV head has, if its heads have slots of their own.
    own: Option<usize>,
    pub(super) k: Keys,
    pub(super) v: Values,
    /// What its slots draw, if that is counted.
    pub(super) mass: Option<Mass>,
    pub(super) leverage: Option<Leverage>,
}

/// Where the tokens of a batch go.
#[derive(Clone, Copy)]
pub(super) enum Targets<'b> {
    /// To the same cells for all heads.
    Shared(&'b [u32]),
    /// After what each head holds, and so many of the same span.
    Own(&'b [u32], usize),
}

impl Targets<'_> {
    /// The cell of each token for a head, the first one of `head`.
    pub(super) fn cell(&self, head: usize, token: usize) -> u32 {
        match self {
            Targets::Shared(cells) => cells[token],
            Targets::Own(held, n_before) => held[head] + (n_before + token) as u32,
        }
    }
}

pub(super) enum Keys {
    F16(Buffer<u16>),
    F32(Buffer<f32>),
    Q8(Keys8),
    Packed(Packed),
}

pub(super) enum Values {
    F16(Buffer<u16>),
    F32(Buffer<f32>),
    Q8(Values8),
    Packed(Packed),
}

/// One head's keys, or its values.
#[derive(Clone, Copy)]
pub(super) enum Stored<'a> {
    F16(&'a [u16]),
    F32(&'a [f32]),
    Codes(Coded<'a>),
}

/// One head's in codes.
#[derive(Clone, Copy)]
pub(super) enum Coded<'a> {
    Bytes(HeadCodes<'a>),
    Packed(HeadPacked<'a>),
}

impl Stored<'_> {
    /// The span of the Hadamard transform that it is stored by.
    pub(super) fn span(&self) -> Option<usize> {
        match self {
            Stored::Codes(Coded::Packed(packed)) => packed.span(),
            _ => None,
        }
    }
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
                Keys::Q8(keys) => Stored::Codes(Coded::Bytes(keys.head(head))),
                Keys::Packed(keys) => Stored::Codes(Coded::Packed(keys.head(head))),
            },
            v: match &self.v {
                Values::F16(values) => Stored::F16(&values[head * v..][..v]),
                Values::F32(values) => Stored::F32(&values[head * v..][..v]),
                Values::Q8(values) => Stored::Codes(Coded::Bytes(values.head(head))),
                Values::Packed(values) => Stored::Codes(Coded::Packed(values.head(head))),
            },
        }
    }

    /// What a KV head holds while a batch is evaluated.
    pub(super) fn held<'b>(&self, head: usize, window: u32, batch: &'b Batch<'_>) -> Held<'b> {
        match self.own {
            Some(first) => Held::Own(batch.held[first + head] as usize + batch.n_before),
            None => Held::Shared(batch, window),
        }
    }

    /// A head's key in `cell`.
    pub(super) fn key(&self, head: usize, cell: u32, out: &mut [f32]) {
        match self.head(head).k {
            Stored::F16(keys) => self.layout.key(keys, cell, out),
            Stored::F32(keys) => self.layout.key(keys, cell, out),
            Stored::Codes(Coded::Bytes(keys)) => keys.key(cell, out),
            Stored::Codes(Coded::Packed(keys)) => keys.row(cell, out),
        }
    }

    /// A head's value in `cell`.
    pub(super) fn value(&self, head: usize, cell: u32, out: &mut [f32]) {
        match self.head(head).v {
            Stored::F16(values) => self.layout.value(values, cell, out),
            Stored::F32(values) => self.layout.value(values, cell, out),
            Stored::Codes(Coded::Bytes(values)) => values.value(cell, out),
            Stored::Codes(Coded::Packed(values)) => values.row(cell, out),
        }
    }

    /// Cells of a head.
    pub(super) fn n_cells(&self) -> usize {
        self.layout.n_cells
    }

    /// Overwrites a head's key in `cell`.
    pub(super) fn set_key(&mut self, kernels: &Kernels, head: usize, cell: u32, key: &[f32]) {
        let (layout, len) = (self.layout, self.layout.key_len());
        match &mut self.k {
            Keys::F16(keys) => layout.set_key(kernels, &mut keys[head * len..][..len], cell, key),
            Keys::F32(keys) => layout.set_key(kernels, &mut keys[head * len..][..len], cell, key),
            Keys::Q8(keys) => keys.set(head, cell, key),
            Keys::Packed(keys) => keys.set(head, cell, key),
        }
    }

    /// Takes the keys and values of a batch, rows as in [`super::Scratch`].
    pub(super) fn fill(
        &mut self,
        kernels: &Kernels,
        pool: &Pool,
        batch: &Batch<'_>,
        k: &[f32],
        v: &[f32],
    ) -> Result<()> {
        let layout = self.layout;
        let to = match self.own {
            Some(first) => Targets::Own(&batch.held[first..], batch.n_before),
            None => Targets::Shared(batch.cells()),
        };
        // A few are less work than waking a thread.
        let pool = (batch.tokens.len() >= GROUP).then_some(pool);
        match &mut self.k {
            Keys::F16(keys) => layout.fill_keys(kernels, pool, keys, to, k),
            Keys::F32(keys) => layout.fill_keys(kernels, pool, keys, to, k),
            Keys::Q8(keys) => keys.fill(pool, to, k),
            Keys::Packed(keys) => keys.fill(pool, to, batch.first_pos, k),
        }?;
        match &mut self.v {
            Values::F16(values) => layout.fill_values(kernels, pool, values, to, v),
            Values::F32(values) => layout.fill_values(kernels, pool, values, to, v),
            Values::Q8(values) => values.fill(pool, to, v),
            Values::Packed(values) => values.fill(pool, to, batch.first_pos, v),
        }
    }

    /// Moves what a head's cells `kept`, which ascend, hold to the first cells, in that order.
    pub(super) fn compact(&mut self, d: &Decoder, head: usize, kept: &[u32]) {
        let layout = self.layout;
        // Those that stand where they stay.
        let n_still = kept.iter().zip(0..).take_while(|&(&from, to)| from == to).count();
        match &mut self.k {
            Keys::F16(keys) => layout.compact_keys(keys, head, kept, n_still),
            Keys::F32(keys) => layout.compact_keys(keys, head, kept, n_still),
            Keys::Q8(keys) => keys.compact(head, kept, n_still),
            Keys::Packed(keys) => keys.compact(head, kept, n_still),
        }
        match &mut self.v {
            Values::F16(values) => layout.compact_values(values, head, kept, n_still),
            Values::F32(values) => layout.compact_values(values, head, kept, n_still),
            Values::Q8(values) => values.compact(head, kept, n_still),
            Values::Packed(values) => values.compact(head, kept, n_still),
        }
        if let Some(mass) = &mut self.mass {
            mass.compact(head, kept);
        }
        if let Some(leverage) = &mut self.leverage {
            leverage.compact(d, layout.n_cells, head, kept);
        }
    }

    /// Copies what a head's cells hold from another cache of the same shape.
    pub(super) fn copy(&mut self, from: &Kv, head: usize, cells: impl Iterator<Item = u32>) {
        let layout = self.layout;
        for cell in cells {
            match (&mut self.k, &from.k) {
                (Keys::F16(to), Keys::F16(from)) => layout.copy_key(to, from, head, cell),
                (Keys::F32(to), Keys::F32(from)) => layout.copy_key(to, from, head, cell),
                (Keys::Q8(to), Keys::Q8(from)) => to.copy(from, head, cell),
                (Keys::Packed(to), Keys::Packed(from)) => to.copy(from, head, cell),
                _ => {}
            }
            match (&mut self.v, &from.v) {
                (Values::F16(to), Values::F16(from)) => layout.copy_value(to, from, head, cell),
                (Values::F32(to), Values::F32(from)) => layout.copy_value(to, from, head, cell),
                (Values::Q8(to), Values::Q8(from)) => to.copy(from, head, cell),
                (Values::Packed(to), Values::Packed(from)) => to.copy(from, head, cell),
                _ => {}
            }
        }
    }
}

/// Moves cells `kept[i]` to cell `i`, from `i = n_still` on. Blocks of `N` cells have `n` rows, with
/// `len` neighbours for each cell in turn. What moves, moves towards the front, so that nothing is
/// overwritten before it has been read.
pub(super) fn gather_lanes<T: Copy, const N: usize>(
    x: &mut [T],
    n: usize,
    len: usize,
    kept: &[u32],
    n_still: usize,
) {
    let block = n * N * len;
    let at = |cell: usize| cell / N * block + cell % N * len;
    let mut to = n_still;
    while to < kept.len() {
        let n_cells = (N - to % N).min(kept.len() - to);
        let mut from = [0; N];
        for (from, &cell) in from.iter_mut().zip(&kept[to..to + n_cells]) {
            *from = at(cell as usize);
        }
        let first = at(to);
        for row in (0..block).step_by(N * len) {
            for (i, from) in from[..n_cells].iter().enumerate() {
                for j in 0..len {
                    x[first + row + i * len + j] = x[from + row + j];
                }
            }
        }
        to += n_cells;
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

/// Whether each cell is the one after its neighbour.
pub(super) fn is_run(cells: &[u32]) -> bool {
    let next = cells.get(1..).unwrap_or_default();
    // No way out at the first gap, so that it is done with vectors.
    cells.iter().zip(next).fold(true, |run, (a, b)| run & (a.wrapping_add(1) == *b))
}

impl Cpu {
    /// Bytes of the keys and values of one layer with this window.
    pub fn kv_bytes(decoder: &Decoder, shape: &Shape, window: u32) -> u64 {
        let layout = Layout::new(decoder, shape, window);
        let bytes = |len: usize, size: usize| {
            let n = (decoder.n_head_kv * len) as u64;
            (n * size as u64).next_multiple_of(64)
        };
        let of = |kv_type, side, floats: usize| match (kv_type, side) {
            (KvType::F16, _) => bytes(floats, 2),
            (KvType::F32, _) => bytes(floats, 4),
            (KvType::Q8_0, Side::Keys) => Keys8::bytes(layout),
            (KvType::Q8_0, Side::Values) => Values8::bytes(layout),
            _ => Form::new(kv_type, layout, side).map_or(0, Packed::bytes),
        };
        let keys = of(shape.k_type, Side::Keys, layout.key_len());
        let values = of(shape.v_type, Side::Values, layout.value_len());
        let known = match window {
            0 => Mass::bytes(decoder, shape) + Leverage::bytes(decoder, shape),
            _ => 0,
        };
        keys + values + known
    }

    /// Makes the cache of one layer. `own`: which of [`Batch::held`] its first KV head has, if the
    /// layer attends to everything.
    pub fn kv(
        &self,
        shape: &Shape,
        window: u32,
        own: Option<usize>,
        memory: &Memory,
    ) -> Result<Kv> {
        let layout = Layout::new(&self.decoder, shape, window);
        let (k, v) = (layout.n_head * layout.key_len(), layout.n_head * layout.value_len());
        let packed = |kv_type, side| match Form::new(kv_type, layout, side) {
            Some(form) => Packed::new(form, self.kernels, memory).map(Some),
            None => Ok(None),
        };
        let k = match packed(shape.k_type, Side::Keys)? {
            Some(packed) => Keys::Packed(packed),
            None if shape.k_type == KvType::Q8_0 => Keys::Q8(Keys8::new(layout, memory)?),
            None if shape.k_type == KvType::F32 => Keys::F32(memory.buffer(k)?),
            None => Keys::F16(memory.buffer(k)?),
        };
        let v = match packed(shape.v_type, Side::Values)? {
            Some(packed) => Values::Packed(packed),
            None if shape.v_type == KvType::Q8_0 => Values::Q8(Values8::new(layout, memory)?),
            None if shape.v_type == KvType::F32 => Values::F32(memory.buffer(v)?),
            None => Values::F16(memory.buffer(v)?),
        };
        let (mut mass, mut leverage) = (None, None);
        if own.is_some() {
            mass = Mass::new(&self.decoder, shape, memory)?;
            leverage = Leverage::new(&self.decoder, shape, memory)?;
        }
        Ok(Kv { layout, own, k, v, mass, leverage })
    }
}
