//! Keys and values as bytes, row by row, and back: what a snapshot holds of them.
//!
//! A row is one cell's key or value as it is stored, but for what fills values up to whole vectors:
//! elements in their order; of codes first those, then the scales of their blocks; of codes of fewer
//! than 8 bits block by block the scale and the codes, and sinks in half precision. Where a row
//! stands in a cache is not part of it, so that it can come back to a larger one.

use crate::backend::{Decoder, Row};
use crate::base::error::Result;
use crate::kernel::{GROUP, KV_BLOCK, KV_QUAD};

use super::Kv;
use super::cache_q8::{Codes, key_at, n_blocks, value_at};
use super::cache_store::{Keys, Layout, Store, Values, value_width};

/// Where elements of a row stand: `n` pieces of `len` neighbours, which begin `stride` apart.
#[derive(Clone, Copy)]
struct Pieces {
    at: usize,
    len: usize,
    stride: usize,
    n: usize,
}

/// What caches are made of.
trait Element: Copy {
    const SIZE: usize;
    fn put(self, to: &mut [u8]);
    fn take(from: &[u8]) -> Self;
}

macro_rules! elements {
    ($($t:ty),*) => {$(
        impl Element for $t {
            const SIZE: usize = size_of::<$t>();
            fn put(self, to: &mut [u8]) {
                to.copy_from_slice(&self.to_le_bytes());
            }
            fn take(from: &[u8]) -> $t {
                from.try_into().map_or_else(|_| <$t>::default(), <$t>::from_le_bytes)
            }
        }
    )*};
}
elements!(i8, u16, f32);

/// Writes elements to the front of the bytes that `out` has left.
fn export<T: Element>(x: &[T], from: Pieces, out: &mut &mut [u8]) {
    let Some(out) = out.split_off_mut(..from.n * from.len * T::SIZE) else { return };
    let pieces = x[from.at..].chunks(from.stride).zip(out.chunks_exact_mut(from.len * T::SIZE));
    for (x, out) in pieces {
        x.iter().zip(out.chunks_exact_mut(T::SIZE)).for_each(|(x, out)| x.put(out));
    }
}

/// Reads elements from the front of the bytes that `row` has left.
fn import<T: Element>(x: &mut [T], to: Pieces, row: &mut &[u8]) {
    let Some(row) = row.split_off(..to.n * to.len * T::SIZE) else { return };
    let pieces = x[to.at..].chunks_mut(to.stride).zip(row.chunks_exact(to.len * T::SIZE));
    for (x, row) in pieces {
        x.iter_mut().zip(row.chunks_exact(T::SIZE)).for_each(|(x, row)| *x = T::take(row));
    }
}

impl Layout {
    fn key_pieces(&self, head: usize, cell: u32) -> Pieces {
        let (block, lane) = self.block(cell);
        let at = head * self.key_len() + block.start + lane;
        Pieces { at, len: 1, stride: GROUP, n: self.head_dim }
    }

    fn value_pieces(&self, head: usize, cell: u32) -> Pieces {
        let at = head * self.value_len() + cell as usize * value_width(self.head_dim);
        Pieces { at, len: self.head_dim, stride: self.head_dim, n: 1 }
    }
}

impl Codes {
    /// The codes of a cell's key: whole quads.
    fn key_pieces(&self, head: usize, cell: u32) -> impl Iterator<Item = Pieces> + use<> {
        let (at, stride) = key_at(&self.layout, cell as usize);
        let at = head * self.layout.key_codes() + at;
        let n = self.layout.head_dim.div_ceil(KV_QUAD);
        std::iter::once(Pieces { at, len: KV_QUAD, stride, n })
    }

    /// The codes of a cell's value, block by block.
    fn value_pieces(&self, head: usize, cell: u32) -> impl Iterator<Item = Pieces> + use<> {
        let (layout, cell) = (self.layout, cell as usize);
        (0..n_blocks(layout.head_dim)).map(move |b| {
            let at = value_at(&layout, b, cell / KV_QUAD).0 + cell % KV_QUAD;
            let at = head * layout.value_codes() + at;
            let n = (layout.head_dim - b * KV_BLOCK).min(KV_BLOCK);
            Pieces { at, len: 1, stride: KV_QUAD, n }
        })
    }

    fn scale_pieces(&self, head: usize, cell: u32) -> Pieces {
        let at = head * self.layout.scale_len() + cell as usize;
        let (stride, n) = (self.layout.scale_stride(), n_blocks(self.layout.head_dim));
        Pieces { at, len: 1, stride, n }
    }

    fn export(
        &self,
        pieces: impl Iterator<Item = Pieces>,
        (head, cell): (usize, u32),
        out: &mut &mut [u8],
    ) {
        pieces.for_each(|pieces| export(&self.codes, pieces, out));
        export(&self.scales, self.scale_pieces(head, cell), out);
    }

    fn import(
        &mut self,
        pieces: impl Iterator<Item = Pieces>,
        (head, cell): (usize, u32),
        row: &mut &[u8],
    ) {
        pieces.for_each(|pieces| import(&mut self.codes, pieces, row));
        let scales = self.scale_pieces(head, cell);
        import(&mut self.scales, scales, row);
    }
}

impl Store {
    /// Bytes of the key or the value of the token at a position.
    fn row_bytes(&self, of: Row, pos: u32) -> usize {
        let d = self.layout.head_dim;
        let scales = 2 * n_blocks(d);
        match (of, &self.k, &self.v) {
            (Row::Key, Keys::F16(_), _) | (Row::Value, _, Values::F16(_)) => 2 * d,
            (Row::Key, Keys::F32(_), _) | (Row::Value, _, Values::F32(_)) => 4 * d,
            (Row::Key, Keys::Q8(_), _) => d.next_multiple_of(KV_QUAD) + scales,
            (Row::Value, _, Values::Q8(_)) => d + scales,
            (Row::Key, Keys::Packed(x), _) | (Row::Value, _, Values::Packed(x)) => x.row_bytes(pos),
        }
    }

    /// Writes a key or a value of a head.
    fn export(&self, of: Row, head: usize, cell: u32, mut out: &mut [u8]) {
        let (layout, out) = (&self.layout, &mut out);
        match (of, &self.k, &self.v) {
            (Row::Key, Keys::F16(x), _) => export(x, layout.key_pieces(head, cell), out),
            (Row::Key, Keys::F32(x), _) => export(x, layout.key_pieces(head, cell), out),
            (Row::Key, Keys::Q8(x), _) => {
                x.0.export(x.0.key_pieces(head, cell), (head, cell), out);
            }
            (Row::Value, _, Values::F16(x)) => export(x, layout.value_pieces(head, cell), out),
            (Row::Value, _, Values::F32(x)) => export(x, layout.value_pieces(head, cell), out),
            (Row::Value, _, Values::Q8(x)) => {
                x.0.export(x.0.value_pieces(head, cell), (head, cell), out);
            }
            (Row::Key, Keys::Packed(x), _) | (Row::Value, _, Values::Packed(x)) => {
                x.head(head).export(cell, out);
            }
        }
    }

    /// Overwrites a key or a value of a head.
    fn import(&mut self, of: Row, head: usize, (cell, pos): (u32, u32), mut row: &[u8]) {
        let (layout, row) = (&self.layout, &mut row);
        match (of, &mut self.k, &mut self.v) {
            (Row::Key, Keys::F16(x), _) => import(x, layout.key_pieces(head, cell), row),
            (Row::Key, Keys::F32(x), _) => import(x, layout.key_pieces(head, cell), row),
            (Row::Key, Keys::Q8(x), _) => {
                x.0.import(x.0.key_pieces(head, cell), (head, cell), row);
            }
            (Row::Value, _, Values::F16(x)) => import(x, layout.value_pieces(head, cell), row),
            (Row::Value, _, Values::F32(x)) => import(x, layout.value_pieces(head, cell), row),
            (Row::Value, _, Values::Q8(x)) => {
                x.0.import(x.0.value_pieces(head, cell), (head, cell), row);
            }
            (Row::Key, Keys::Packed(x), _) | (Row::Value, _, Values::Packed(x)) => {
                x.import(head, (cell, pos), row);
            }
        }
    }
}

impl Kv {
    /// Bytes of the key or the value of the token at a position.
    pub(super) fn row_bytes(&self, of: Row, pos: u32) -> usize {
        self.any().map_or(0, |store| store.row_bytes(of, pos))
    }

    /// Writes a key or a value of a head.
    pub(super) fn export(&self, of: Row, head: usize, cell: u32, out: &mut [u8]) {
        let (store, cell) = self.store(cell);
        store.export(of, head, cell, out);
    }

    /// Overwrites a key or a value of a head. Fails with `Internal` if the cell is shared.
    pub(super) fn import(
        &mut self,
        of: Row,
        head: usize,
        (cell, pos): (u32, u32),
        row: &[u8],
    ) -> Result<()> {
        let (store, cell) = self.store_mut(cell)?;
        store.import(of, head, (cell, pos), row);
        Ok(())
    }

    /// What is known of a head and its first `n` slots: what these draw, all of it and lately, and
    /// what leverages are computed from, with these.
    pub(super) fn knowledge(&self, d: &Decoder, head: usize, n: usize) -> [&[f32]; 3] {
        let queries = self.queries.as_ref().map_or(&[][..], |queries| queries.of_head(d, head));
        // No policy needs both.
        let (sum, recent) = self.mass.as_ref().map_or((queries, &[][..]), |mass| {
            let (sum, recent) = mass.of_head(head);
            (&sum[..n], &recent[..n])
        });
        let n_slots = self.n_cells();
        let leverage = self.leverage.as_ref().map(|leverage| leverage.known(d, n_slots, head, n));
        [sum, recent, leverage.unwrap_or_default()]
    }

    /// The same, to be set.
    pub(super) fn knowledge_mut(&mut self, d: &Decoder, head: usize, n: usize) -> [&mut [f32]; 3] {
        let n_slots = self.n_cells();
        let (sum, recent) = match (&mut self.mass, &mut self.queries) {
            (Some(mass), _) => mass.of_head_mut(head, n),
            (None, Some(queries)) => (queries.of_head_mut(d, head), &mut [][..]),
            (None, None) => Default::default(),
        };
        let leverage = self.leverage.as_mut();
        let leverage = leverage.map(|leverage| leverage.known_mut(d, n_slots, head, n));
        [sum, recent, leverage.unwrap_or_default()]
    }
}
