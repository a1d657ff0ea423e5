//! Keys and values of some cells of one layer, as the kernels of attention read them.
//!
//! ```text
//! keys     [kv head][block of 16 cells][element of the head][cell of the block]
//! values   [kv head][cell][element of the head, and zeros up to a multiple of 16]
//! ```
//! One vector of keys is one element of 16 cells, one of values 16 elements of one cell, so that
//! neither a score nor a mixture is ever summed across a vector. Those in 8 bits are in `cache_q8`,
//! those in fewer in `cache_packed`.

use std::ops::Range;

use crate::backend::KvType;
use crate::base::aligned::Buffer;
use crate::base::error::Result;
use crate::base::memory::Memory;
use crate::base::pool::{Pool, Width};
use crate::base::shared::Shared;
use crate::kernel::{GROUP, Kernels};

use super::cache_packed::{HeadPacked, Packed};
use super::cache_q8::{HeadCodes, Keys8, Values8};
use super::packed_cells::{Form, Side};
use super::recent::{HeadRecent, RowForm};
use super::tiles::TILE;

/// Where things lie in a store.
#[derive(Clone, Copy)]
pub(super) struct Layout {
    pub(super) n_head: usize,
    pub(super) head_dim: usize,
    pub(super) n_cells: usize,
}

impl Layout {
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

/// Where the tokens of a batch go.
#[derive(Clone, Copy)]
pub(super) enum Targets<'b> {
    /// To the same cells for all heads.
    Shared(&'b [u32]),
    /// After what each head holds, and so many of the same span; those of them that are of this tile.
    Own(&'b [u32], usize, usize),
    /// To slots from this one on for all heads; those of them that are of this tile.
    Tiled(usize, usize),
}

impl Targets<'_> {
    /// The cell of each token for a head, the first one of `head`, if the store has it.
    fn cell(&self, head: usize, token: usize) -> Option<u32> {
        let (slot, tile) = match *self {
            Targets::Shared(cells) => return cells.get(token).copied(),
            Targets::Own(held, n_before, tile) => (held[head] as usize + n_before + token, tile),
            Targets::Tiled(first, tile) => (first + token, tile),
        };
        (slot / TILE == tile).then_some((slot % TILE) as u32)
    }

    /// The tokens of a head that come into the store, each with its cell and its row of `rows`.
    pub(super) fn of_head<'x>(
        self,
        layout: &Layout,
        rows: &'x [f32],
        head: usize,
    ) -> impl Iterator<Item = (usize, u32, &'x [f32])> {
        let rows = layout.head_rows(rows, head).enumerate();
        rows.filter_map(move |(t, row)| self.cell(head, t).map(|cell| (t, cell, row)))
    }
}

/// What moves to the cell `to` of a store and to those after it: cells counted from its start, those
/// of the stores after it included. They ascend, and none moves away from the start.
#[derive(Clone, Copy)]
pub(super) struct Moves<'m> {
    pub(super) to: usize,
    pub(super) from: &'m [u32],
}

impl Moves<'_> {
    /// Each cell that is moved to, with the store that it comes from and the cell there.
    pub(super) fn each(&self) -> impl Iterator<Item = (usize, (usize, usize))> {
        let place = |&cell: &u32| (cell as usize / TILE, cell as usize % TILE);
        (self.to..).zip(self.from.iter().map(place))
    }
}

/// What later stores have of a head: the first of them is number 1.
pub(super) type Later<'l, T> = &'l dyn Fn(usize) -> &'l [T];

/// Keys and values of some cells.
pub(super) struct Store {
    pub(super) layout: Layout,
    pub(super) k: Keys,
    pub(super) v: Values,
}

/// What stores of a layer are made like.
#[derive(Clone, Copy)]
pub(super) struct Kind {
    pub(super) k_type: KvType,
    pub(super) v_type: KvType,
    pub(super) layout: Layout,
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
    /// What tokens read of both in half precision, by [`Side`].
    pub(super) recent: [Option<HeadRecent<'a>>; 2],
}

impl Kind {
    /// Bytes of a store. `has_first`: it may hold the first positions.
    pub(super) fn bytes(&self, has_first: bool) -> u64 {
        let layout = self.layout;
        let bytes = |len: usize, size: usize| {
            let n = (layout.n_head * len) as u64;
            (n * size as u64).next_multiple_of(64)
        };
        let of = |kv_type, side, floats: usize| match (kv_type, side) {
            (KvType::F16, _) => bytes(floats, 2),
            (KvType::F32, _) => bytes(floats, 4),
            (KvType::Q8_0, Side::Keys) => Keys8::bytes(layout),
            (KvType::Q8_0, Side::Values) => Values8::bytes(layout),
            _ => Form::new(kv_type, layout, side, has_first).map_or(0, Packed::bytes),
        };
        let keys = of(self.k_type, Side::Keys, layout.key_len());
        keys + of(self.v_type, Side::Values, layout.value_len())
    }

    /// What is kept of the newest tokens of a layer, of keys and values, if anything.
    pub(super) fn recent(&self) -> [Option<RowForm>; 2] {
        RowForm::both([self.k_type, self.v_type], self.layout)
    }

    /// Makes one.
    pub(super) fn make(
        &self,
        kernels: &'static Kernels,
        has_first: bool,
        memory: &Memory,
    ) -> Result<Store> {
        let layout = self.layout;
        let packed = |kv_type, side| match Form::new(kv_type, layout, side, has_first) {
            Some(form) => Packed::new(form, kernels, memory).map(Some),
            None => Ok(None),
        };
        let (k, v) = (layout.n_head * layout.key_len(), layout.n_head * layout.value_len());
        let k = match packed(self.k_type, Side::Keys)? {
            Some(packed) => Keys::Packed(packed),
            None if self.k_type == KvType::Q8_0 => Keys::Q8(Keys8::new(layout, memory)?),
            None if self.k_type == KvType::F32 => Keys::F32(memory.buffer(k)?),
            None => Keys::F16(memory.buffer(k)?),
        };
        let v = match packed(self.v_type, Side::Values)? {
            Some(packed) => Values::Packed(packed),
            None if self.v_type == KvType::Q8_0 => Values::Q8(Values8::new(layout, memory)?),
            None if self.v_type == KvType::F32 => Values::F32(memory.buffer(v)?),
            None => Values::F16(memory.buffer(v)?),
        };
        Ok(Store { layout, k, v })
    }
}

impl Store {
    /// The keys and values of a head.
    pub(super) fn head<'a>(&'a self, head: usize, recent: [Option<HeadRecent<'a>>; 2]) -> Head<'a> {
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
            recent,
        }
    }

    /// A head's key in `cell`.
    pub(super) fn key(&self, head: usize, cell: u32, out: &mut [f32]) {
        let len = self.layout.key_len();
        let of_head = head * len..(head + 1) * len;
        match &self.k {
            Keys::F16(keys) => self.layout.key(&keys[of_head], cell, out),
            Keys::F32(keys) => self.layout.key(&keys[of_head], cell, out),
            Keys::Q8(keys) => keys.head(head).key(cell, out),
            Keys::Packed(keys) => keys.head(head).row(cell, out),
        }
    }

    /// A head's value in `cell`.
    pub(super) fn value(&self, head: usize, cell: u32, out: &mut [f32]) {
        let len = self.layout.value_len();
        let of_head = head * len..(head + 1) * len;
        match &self.v {
            Values::F16(values) => self.layout.value(&values[of_head], cell, out),
            Values::F32(values) => self.layout.value(&values[of_head], cell, out),
            Values::Q8(values) => values.head(head).value(cell, out),
            Values::Packed(values) => values.head(head).row(cell, out),
        }
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

    /// Takes keys and values of tokens from position `first_pos` on, rows as in [`super::Scratch`].
    pub(super) fn fill(
        &mut self,
        kernels: &Kernels,
        pool: Option<&Pool>,
        (to, first_pos): (Targets<'_>, u32),
        k: &[f32],
        v: &[f32],
    ) -> Result<()> {
        let layout = self.layout;
        match &mut self.k {
            Keys::F16(keys) => layout.fill_keys(kernels, pool, keys, to, k),
            Keys::F32(keys) => layout.fill_keys(kernels, pool, keys, to, k),
            Keys::Q8(keys) => keys.fill(pool, to, k),
            Keys::Packed(keys) => keys.fill(pool, to, first_pos, k),
        }?;
        match &mut self.v {
            Values::F16(values) => layout.fill_values(kernels, pool, values, to, v),
            Values::F32(values) => layout.fill_values(kernels, pool, values, to, v),
            Values::Q8(values) => values.fill(pool, to, v),
            Values::Packed(values) => values.fill(pool, to, first_pos, v),
        }
    }

    /// Moves what a head's cells hold, some of them those of later stores of the same kind.
    pub(super) fn compact(&mut self, later: &[Shared<Store>], head: usize, moves: &Moves<'_>) {
        let (layout, key_len, value_len) =
            (self.layout, self.layout.key_len(), self.layout.value_len());
        macro_rules! later {
            ($side:ident, $variant:path, $x:ident => $of:expr) => {
                &|store: usize| match later.get(store - 1).map(|store| &store.$side) {
                    Some($variant($x)) => $of,
                    _ => Default::default(),
                }
            };
        }
        let (k, v) =
            (head * key_len..(head + 1) * key_len, head * value_len..(head + 1) * value_len);
        match &mut self.k {
            Keys::F16(x) => {
                let later: Later<'_, u16> = later!(k, Keys::F16, x => &x[k.clone()]);
                layout.compact_keys(&mut x[k.clone()], later, moves);
            }
            Keys::F32(x) => {
                let later: Later<'_, f32> = later!(k, Keys::F32, x => &x[k.clone()]);
                layout.compact_keys(&mut x[k.clone()], later, moves);
            }
            Keys::Q8(x) => x.compact(later!(k, Keys::Q8, x => Some(x)), head, moves),
            Keys::Packed(x) => x.compact(later!(k, Keys::Packed, x => Some(x)), head, moves),
        }
        match &mut self.v {
            Values::F16(x) => {
                let later: Later<'_, u16> = later!(v, Values::F16, x => &x[v.clone()]);
                layout.compact_values(&mut x[v.clone()], later, moves);
            }
            Values::F32(x) => {
                let later: Later<'_, f32> = later!(v, Values::F32, x => &x[v.clone()]);
                layout.compact_values(&mut x[v.clone()], later, moves);
            }
            Values::Q8(x) => x.compact(later!(v, Values::Q8, x => Some(x)), head, moves),
            Values::Packed(x) => x.compact(later!(v, Values::Packed, x => Some(x)), head, moves),
        }
    }

    /// Takes over all that another store of the same kind holds.
    pub(super) fn copy_from(&mut self, from: &Store) {
        match (&mut self.k, &from.k) {
            (Keys::F16(to), Keys::F16(from)) => to.copy_from_slice(from),
            (Keys::F32(to), Keys::F32(from)) => to.copy_from_slice(from),
            (Keys::Q8(to), Keys::Q8(from)) => to.0.copy_from(&from.0),
            (Keys::Packed(to), Keys::Packed(from)) => to.copy_from(from),
            _ => {}
        }
        match (&mut self.v, &from.v) {
            (Values::F16(to), Values::F16(from)) => to.copy_from_slice(from),
            (Values::F32(to), Values::F32(from)) => to.copy_from_slice(from),
            (Values::Q8(to), Values::Q8(from)) => to.0.copy_from(&from.0),
            (Values::Packed(to), Values::Packed(from)) => to.copy_from(from),
            _ => {}
        }
    }
}

/// Moves cells that have lanes of a block: blocks of `N` cells have `n` rows, with `len` neighbours for
/// each cell in turn. What moves, moves towards the front, so that nothing is overwritten before it has
/// been read.
#[inline(never)]
pub(super) fn gather_lanes<'l, T: Copy + 'l, const N: usize>(
    x: &mut [T],
    later: &dyn Fn(usize) -> &'l [T],
    (n, len): (usize, usize),
    moves: &Moves<'_>,
) {
    let row = N * len;
    let at = |cell: usize| cell / N * n * row + cell % N * len;
    for (to, (store, cell)) in moves.each() {
        let (to, from) = (at(to), at(cell));
        let other = if store == 0 { &[] } else { later(store) };
        for i in (0..n * row).step_by(row) {
            for j in i..i + len {
                x[to + j] = if store == 0 { x[from + j] } else { other[from + j] };
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
