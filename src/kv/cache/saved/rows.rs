//! Keys and values of a head: a row for each token, and what the device has of the newest beside.

use crate::backend::{Backend, Row};
use crate::base::error::Result;
use crate::base::le::Put;
use crate::kv::cells::Cells;
use crate::kv::slots::Slots;

use super::{BUFFER, Cache, Part, Saved, State, buffer};

impl<B: Backend> Cache<B> {
    /// Bytes of all keys or values of a head, and of the longest piece of them.
    pub(super) fn rows_len(
        &self,
        backend: &B,
        part: Part,
        index: usize,
        places: &Places<'_>,
    ) -> (u64, usize) {
        let kv = &self.layers[index / self.n_head];
        let rows = places.pos.iter().map(|&pos| backend.row_bytes(kv, row_of(part), pos));
        let recent = backend.recent_bytes(kv, row_of(part));
        rows.fold((recent as u64, recent), |(all, row), next| (all + next as u64, row.max(next)))
    }

    pub(super) fn write_rows(
        &self,
        backend: &B,
        part: Part,
        index: usize,
        put: &mut Put<'_>,
    ) -> Result<()> {
        let (kv, head, of) = (&self.layers[index / self.n_head], index % self.n_head, row_of(part));
        let places = self.places(&self.slots, self.cells.as_ref(), index);
        let (all, longest) = self.rows_len(backend, part, index, &places);
        let mut bytes = buffer(all.min(BUFFER as u64).max(longest as u64) as usize)?;
        let mut n = 0;
        for (i, &pos) in places.pos.iter().enumerate() {
            let len = backend.row_bytes(kv, of, pos);
            if n + len > bytes.len() {
                put(&bytes[..n])?;
                n = 0;
            }
            backend.export(kv, of, head, places.cell(i), &mut bytes[n..n + len]);
            n += len;
        }
        put(&bytes[..n])?;
        let recent = &mut bytes[..backend.recent_bytes(kv, of)];
        let held = self.held_by(&self.slots, index);
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
        let places = self.places(&state.slots, state.cells.as_ref(), index);
        let held = (self.held_by(&state.slots, index), state.history.next_pos());
        let (kv, of) = (&mut self.layers[index / self.n_head], (row_of(part), index % self.n_head));
        let (mut i, mut at) = (0, 0);
        while i < places.pos.len() {
            // Neighbours, as many as there is room for.
            let (mut end, mut n) = (i, 0);
            while end < places.pos.len()
                && places.cell(end) as usize == places.cell(i) as usize + (end - i)
            {
                let len = backend.row_bytes(kv, of.0, places.pos[end]);
                if n + len > state.rows.len() {
                    break;
                }
                (end, n) = (end + 1, n + len);
            }
            let rows = &mut state.rows[..n];
            from.read(part, index as u32, at, rows)?;
            backend.import(kv, of, places.cell(i), &places.pos[i..end], rows)?;
            (i, at) = (end, at + n as u64);
        }
        let recent = &mut state.rows[..backend.recent_bytes(kv, of.0)];
        from.read(part, index as u32, at, recent)?;
        backend.import_recent(kv, of, held, recent);
        Ok(())
    }

    /// Slots that a layer's head uses, by the bookkeeping of this cache or of one to be; 0 if it has none
    /// of its own.
    pub(super) fn held_by(&self, slots: &Slots, index: usize) -> u32 {
        let own = self.own[index / self.n_head];
        own.map_or(0, |first| slots.held()[first + index % self.n_head])
    }

    /// Where a layer's head has its tokens, by the bookkeeping of this cache or of one to be.
    pub(super) fn places<'c>(
        &self,
        slots: &'c Slots,
        cells: Option<&'c Cells>,
        index: usize,
    ) -> Places<'c> {
        match (self.own[index / self.n_head], cells) {
            (Some(first), _) => Places { pos: slots.pos(first + index % self.n_head), cells: None },
            (None, cells) => {
                let pos = cells.map_or(&[][..], Cells::order_pos);
                Places { pos, cells: Some(cells.map_or(&[], Cells::order)) }
            }
        }
    }
}

/// The positions of a head's tokens, ascending, and the cells that they are in.
pub(super) struct Places<'c> {
    pub(super) pos: &'c [u32],
    /// `None` = the first ones.
    cells: Option<&'c [u32]>,
}

impl Places<'_> {
    pub(super) fn cell(&self, i: usize) -> u32 {
        self.cells.map_or(i as u32, |cells| cells[i])
    }
}

pub(super) fn row_of(part: Part) -> Row {
    if part == Part::Keys { Row::Key } else { Row::Value }
}
