//! Keys and values as bytes, row by row, and back: what a snapshot holds of them.
//!
//! A row is one cell's key or value as it is stored, but for what fills values up to whole vectors:
//! elements in their order; of codes first those, then the scales of their blocks; of codes of fewer
//! than 8 bits what [`cache_packed`](super::cache_packed) says, and sinks in half precision. Where a row
//! stands in a cache is not part of it, so that it can come back to a larger one.

use crate::backend::{Decoder, Row};
use crate::base::error::Result;
use crate::kernel::{GROUP, KV_BLOCK, KV_QUAD};

use super::Kv;
use super::cache_q8::{Codes, Keys8, Values8, key_at, n_blocks, value_at};
use super::cache_store::{Keys, Layout, Store, Values, value_width};

/// Where units of a row stand: `n` of them, the first at `at`, `stride` units apart.
#[derive(Clone, Copy)]
pub(super) struct Strided {
    pub(super) at: usize,
    pub(super) stride: usize,
    pub(super) n: usize,
}

/// What is copied at once: an element, or some codes that stay together.
pub(super) trait Unit: Copy {
    const SIZE: usize;
    fn put(self, to: &mut [u8]);
    fn take(from: &[u8]) -> Self;
}

macro_rules! units {
    ($($t:ty),*) => {$(
        impl Unit for $t {
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
units!(u8, i8, u16, f32);

impl Unit for [i8; KV_QUAD] {
    const SIZE: usize = KV_QUAD;
    fn put(self, to: &mut [u8]) {
        to.copy_from_slice(&self.map(i8::cast_unsigned));
    }
    fn take(from: &[u8]) -> Self {
        from.try_into().map_or_else(|_| Self::default(), |from: [u8; _]| from.map(u8::cast_signed))
    }
}

/// Writes units to the front of the bytes that `out` has left.
pub(super) fn export<T: Unit>(x: &[T], from: Strided, out: &mut &mut [u8]) {
    let Some(out) = out.split_off_mut(..from.n * T::SIZE) else { return };
    let out = out.chunks_exact_mut(T::SIZE);
    match from.stride {
        1 => x[from.at..].iter().zip(out).for_each(|(x, out)| x.put(out)),
        n => x[from.at..].iter().step_by(n).zip(out).for_each(|(x, out)| x.put(out)),
    }
}

/// Reads units from the front of the bytes that `row` has left.
pub(super) fn import<T: Unit>(x: &mut [T], to: Strided, row: &mut &[u8]) {
    let Some(row) = row.split_off(..to.n * T::SIZE) else { return };
    let row = row.chunks_exact(T::SIZE);
    match to.stride {
        1 => x[to.at..].iter_mut().zip(row).for_each(|(x, row)| *x = T::take(row)),
        n => x[to.at..].iter_mut().step_by(n).zip(row).for_each(|(x, row)| *x = T::take(row)),
    }
}

impl Layout {
    fn key_at(&self, head: usize, cell: u32) -> Strided {
        let (block, lane) = self.block(cell);
        let at = head * self.key_len() + block.start + lane;
        Strided { at, stride: GROUP, n: self.head_dim }
    }

    fn value_at(&self, head: usize, cell: u32) -> Strided {
        let at = head * self.value_len() + cell as usize * value_width(self.head_dim);
        Strided { at, stride: 1, n: self.head_dim }
    }
}

impl Codes {
    /// The codes of a cell's key, in whole quads.
    fn key_at(&self, head: usize, cell: u32) -> Strided {
        let (at, stride) = key_at(&self.layout, cell as usize);
        let at = (head * self.layout.key_codes() + at) / KV_QUAD;
        Strided { at, stride: stride / KV_QUAD, n: self.layout.head_dim.div_ceil(KV_QUAD) }
    }

    /// The codes of a cell's value, block by block.
    fn value_at(&self, head: usize, cell: u32) -> impl Iterator<Item = Strided> + use<> {
        let (layout, cell) = (self.layout, cell as usize);
        (0..n_blocks(layout.head_dim)).map(move |b| {
            let at = value_at(&layout, b, cell / KV_QUAD).0 + cell % KV_QUAD;
            let at = head * layout.value_codes() + at;
            let n = (layout.head_dim - b * KV_BLOCK).min(KV_BLOCK);
            Strided { at, stride: KV_QUAD, n }
        })
    }

    fn scales_at(&self, head: usize, cell: u32) -> Strided {
        let at = head * self.layout.scale_len() + cell as usize;
        let (stride, n) = (self.layout.scale_stride(), n_blocks(self.layout.head_dim));
        Strided { at, stride, n }
    }

    fn export(&self, of: Row, (head, cell): (usize, u32), out: &mut &mut [u8]) {
        match of {
            Row::Key => {
                let quads = self.codes.as_chunks::<KV_QUAD>().0;
                export(quads, self.key_at(head, cell), out);
            }
            Row::Value => self.value_at(head, cell).for_each(|at| export(&self.codes, at, out)),
        }
        export(&self.scales, self.scales_at(head, cell), out);
    }

    fn import(&mut self, of: Row, (head, cell): (usize, u32), row: &mut &[u8]) {
        match of {
            Row::Key => {
                let at = self.key_at(head, cell);
                import(self.codes.as_chunks_mut::<KV_QUAD>().0, at, row);
            }
            Row::Value => {
                let each = self.value_at(head, cell);
                each.for_each(|at| import(&mut self.codes, at, row));
            }
        }
        let scales = self.scales_at(head, cell);
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
            (Row::Key, Keys::F16(x), _) => export(x, layout.key_at(head, cell), out),
            (Row::Key, Keys::F32(x), _) => export(x, layout.key_at(head, cell), out),
            (Row::Value, _, Values::F16(x)) => export(x, layout.value_at(head, cell), out),
            (Row::Value, _, Values::F32(x)) => export(x, layout.value_at(head, cell), out),
            (Row::Key, Keys::Q8(Keys8(x)), _) | (Row::Value, _, Values::Q8(Values8(x))) => {
                x.export(of, (head, cell), out);
            }
            (Row::Key, Keys::Packed(x), _) | (Row::Value, _, Values::Packed(x)) => {
                x.head(head).export(cell, out);
            }
        }
    }

    /// Overwrites keys or values of a head in neighbours from `cell` on: a row for each position.
    fn import(&mut self, (of, head): (Row, usize), cell: u32, pos: &[u32], rows: &mut &[u8]) {
        let (layout, cells) = (self.layout, cell..);
        match (of, &mut self.k, &mut self.v) {
            (Row::Key, Keys::F16(x), _) => {
                cells.zip(pos).for_each(|(cell, _)| import(x, layout.key_at(head, cell), rows));
            }
            (Row::Key, Keys::F32(x), _) => {
                cells.zip(pos).for_each(|(cell, _)| import(x, layout.key_at(head, cell), rows));
            }
            (Row::Value, _, Values::F16(x)) => {
                cells.zip(pos).for_each(|(cell, _)| import(x, layout.value_at(head, cell), rows));
            }
            (Row::Value, _, Values::F32(x)) => {
                cells.zip(pos).for_each(|(cell, _)| import(x, layout.value_at(head, cell), rows));
            }
            (Row::Key, Keys::Q8(Keys8(x)), _) | (Row::Value, _, Values::Q8(Values8(x))) => {
                cells.zip(pos).for_each(|(cell, _)| x.import(of, (head, cell), rows));
            }
            (Row::Key, Keys::Packed(x), _) | (Row::Value, _, Values::Packed(x)) => {
                cells.zip(pos).for_each(|(cell, pos)| x.import(head, (cell, *pos), rows));
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

    /// Overwrites keys or values of a head in neighbours from `cell` on: a row for each position. Fails
    /// with `Internal` if one of the cells is shared.
    pub(super) fn import(
        &mut self,
        (of, head): (Row, usize),
        mut cell: u32,
        mut pos: &[u32],
        mut rows: &[u8],
    ) -> Result<()> {
        while !pos.is_empty() {
            let n = self.n_left(cell).min(pos.len());
            let (some, later) = pos.split_at(n);
            let (store, first) = self.store_mut(cell)?;
            store.import((of, head), first, some, &mut rows);
            (cell, pos) = (cell + n as u32, later);
        }
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
