//! Keys and values of a head: a row for each token, and what the device has of the newest beside.

use crate::backend::{Backend, Row};
use crate::base::error::{Error, Result, err};
use crate::base::le::Put;
use crate::kv::cells::Cells;
use crate::kv::slots::Slots;

use super::{BUFFER, Cache, Part, Saved, State, buffer, no_head};

impl<B: Backend> Cache<B> {
    /// Bytes of all keys or values of a head, and of the longest piece of them.
    pub(super) fn rows_len(
        &self,
        backend: &B,
        part: Part,
        index: usize,
        places: &Places<'_>,
    ) -> Result<(u64, usize)> {
        let (layer, _) = self.place(index)?;
        let kv = self.layers.get(layer).ok_or_else(|| no_head(index))?;
        let rows = places.pos.iter().map(|&pos| backend.row_bytes(kv, row_of(part), pos));
        let recent = backend.recent_bytes(kv, row_of(part));
        Ok(rows.fold((recent as u64, recent), |(all, row), next| {
            (all.saturating_add(next as u64), row.max(next))
        }))
    }

    pub(super) fn write_rows(
        &self,
        backend: &B,
        part: Part,
        index: usize,
        put: &mut Put<'_>,
    ) -> Result<()> {
        let ((layer, head), of) = (self.place(index)?, row_of(part));
        let kv = self.layers.get(layer).ok_or_else(|| no_head(index))?;
        let places = self.places(&self.slots, self.cells.as_ref(), index)?;
        let (all, longest) = self.rows_len(backend, part, index, &places)?;
        let mut bytes = buffer(all.min(BUFFER as u64).max(longest as u64) as usize)?;
        let mut n = 0;
        for (i, &pos) in places.pos.iter().enumerate() {
            let len = backend.row_bytes(kv, of, pos);
            let mut end = usize::saturating_add(n, len);
            if end > bytes.len() {
                put(part_of(&mut bytes, 0, n)?)?;
                (n, end) = (0, len);
            }
            backend.export(kv, of, head, places.cell(i)?, part_of(&mut bytes, n, end)?);
            n = end;
        }
        put(part_of(&mut bytes, 0, n)?)?;
        let recent = part_of(&mut bytes, 0, backend.recent_bytes(kv, of))?;
        let held = self.held_by(&self.slots, index)?;
        backend.export_recent(kv, (of, head), (held, self.next_pos()), recent);
        put(recent)
    }

    pub(super) fn read_rows(
        &mut self,
        backend: &B,
        part: Part,
        index: usize,
        state: &mut State,
        from: &mut dyn Saved,
    ) -> Result<()> {
        let places = self.places(&state.slots, state.cells.as_ref(), index)?;
        let held = (self.held_by(&state.slots, index)?, state.history.next_pos());
        let (layer, head) = self.place(index)?;
        let kv = self.layers.get_mut(layer).ok_or_else(|| no_head(index))?;
        let (of, mut at) = ((row_of(part), head), 0_u64);
        let mut rest = places;
        while !rest.pos.is_empty() {
            // Neighbours, as many as there is room for: one at least.
            let first = rest.cell(0)?;
            let (mut n_rows, mut n) = (0_usize, 0_usize);
            for (i, &pos) in rest.pos.iter().enumerate() {
                let end = n.saturating_add(backend.row_bytes(kv, of.0, pos));
                let next = first.saturating_add(i as u32);
                if rest.cell(i)? != next || end > state.rows.len() {
                    break;
                }
                (n_rows, n) = (i.saturating_add(1), end);
            }
            let (pos, after) = rest.split(n_rows)?;
            let rows = part_of(&mut state.rows, 0, n)?;
            from.read(part, index as u32, at, rows)?;
            backend.import(kv, of, first, pos, rows)?;
            at = at.saturating_add(n as u64);
            rest = after;
        }
        let recent = part_of(&mut state.rows, 0, backend.recent_bytes(kv, of.0))?;
        from.read(part, index as u32, at, recent)?;
        backend.import_recent(kv, of, held, recent);
        Ok(())
    }

    /// The layer of a KV head of all layers, and which of its heads it is.
    fn place(&self, index: usize) -> Result<(usize, usize)> {
        let layer = index.checked_div(self.n_head);
        layer.zip(index.checked_rem(self.n_head)).ok_or_else(|| no_head(index))
    }

    /// The first slots of a layer, by the heads that have slots; `None` if it has none of its own. And
    /// which of the layer's heads it is.
    fn own_of(&self, index: usize) -> Result<(Option<usize>, usize)> {
        let (layer, head) = self.place(index)?;
        Ok((*self.own.get(layer).ok_or_else(|| no_head(index))?, head))
    }

    /// Slots that a layer's head uses, by the bookkeeping of this cache or of one to be; 0 if it has none
    /// of its own.
    pub(super) fn held_by(&self, slots: &Slots, index: usize) -> Result<u32> {
        let (own, head) = self.own_of(index)?;
        let Some(first) = own else { return Ok(0) };
        let held = slots.held().get(first.saturating_add(head));
        held.copied().ok_or_else(|| no_head(index))
    }

    /// Where a layer's head has its tokens, by the bookkeeping of this cache or of one to be.
    pub(super) fn places<'c>(
        &self,
        slots: &'c Slots,
        cells: Option<&'c Cells>,
        index: usize,
    ) -> Result<Places<'c>> {
        Ok(match self.own_of(index)? {
            (Some(first), head) => {
                Places { pos: slots.pos(first.saturating_add(head)), first: 0, cells: None }
            }
            (None, _) => {
                let pos = cells.map_or(&[][..], Cells::order_pos);
                Places { pos, first: 0, cells: Some(cells.map_or(&[], Cells::order)) }
            }
        })
    }
}

/// The positions of a head's tokens, ascending, and the cells that they are in.
pub(super) struct Places<'c> {
    pub(super) pos: &'c [u32],
    /// `None` = those from `first` on, one after the other.
    cells: Option<&'c [u32]>,
    first: u32,
}

impl<'c> Places<'c> {
    fn cell(&self, i: usize) -> Result<u32> {
        match self.cells {
            None => Ok(self.first.saturating_add(i as u32)),
            Some(cells) => cells.get(i).copied().ok_or_else(not_there),
        }
    }

    /// The positions of the first `n`, which are some, and the places after them.
    fn split(&self, n: usize) -> Result<(&'c [u32], Places<'c>)> {
        let (taken, pos) = self.pos.split_at_checked(n).ok_or_else(not_there)?;
        let cells = self.cells.map(|cells| cells.get(n..).unwrap_or_default());
        let first = self.first.saturating_add(n as u32);
        match taken {
            [] => Err(not_there()),
            _ => Ok((taken, Places { pos, cells, first })),
        }
    }
}

/// Bytes of a buffer that is long enough.
fn part_of(bytes: &mut [u8], from: usize, to: usize) -> Result<&mut [u8]> {
    bytes.get_mut(from..to).ok_or_else(not_there)
}

#[cold]
fn not_there() -> Error {
    err!(Internal, "KV cache: rows of keys or values that are not there")
}

pub(super) fn row_of(part: Part) -> Row {
    if part == Part::Keys { Row::Key } else { Row::Value }
}
