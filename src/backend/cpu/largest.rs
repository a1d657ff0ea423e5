//! The largest probability that any query gives each slot, while a text is read again: what KVzip
//! (arXiv 2505.23416) ranks by. The largest of some numbers does not depend on their order, so nothing
//! here depends on threads, batches or how the text is cut.

use crate::backend::{Batch, Observe};
use crate::base::aligned::Buffer;
use crate::base::error::Result;

use super::mass::{Seen, Totals};
use super::tiles::{Held, TILE};
use super::{Cpu, Kv, Scratch};

/// Those of one layer: `[tile][kv head][slot of the tile]`.
pub(super) struct Largest(Buffer<f32>);

impl Cpu {
    /// Room for the slots of a layer, and for what the scores of a batch come to.
    #[inline(never)]
    pub(super) fn watch_layer(&self, s: &mut Scratch, kv: &mut Kv) -> Result<()> {
        if s.totals.is_empty() {
            s.totals = Totals::new(&self.decoder, s.n_batch)?;
        }
        let n = kv.n_cells().next_multiple_of(TILE) * self.decoder.n_head_kv;
        kv.largest = Some(Largest(Buffer::zeroed(n)?));
        Ok(())
    }

    /// Gives it back.
    pub(super) fn unwatch_layer(&self, s: &mut Scratch, kv: &mut Kv) {
        kv.largest = None;
        if kv.mass.is_none() {
            s.totals = Totals::default();
        }
    }

    /// Notes what a batch that is watched gives the slots that were held before its span.
    pub(super) fn note_largest(&self, s: &Scratch, kv: &mut Kv, batch: &Batch<'_>) -> Result<()> {
        let Some(Largest(mut rows)) = kv.largest.take_if(|_| batch.observe == Observe::Largest)
        else {
            return Ok(());
        };
        let n_head = self.decoder.n_head_kv;
        let n_group = self.decoder.n_head / n_head;
        let held = (0..n_head).map(|head| match kv.held(head, 0, batch) {
            Held::Own(n) => n - batch.n_before,
            Held::Shared(..) | Held::Tiled(..) => 0,
        });
        let n_items = held.max().unwrap_or(0).div_ceil(TILE) * n_head;
        let noted = self.see_again(
            s,
            kv,
            batch,
            (&mut rows[..n_items * TILE], 1),
            &|_, Seen { slots, powers, weight }, row| {
                for (head, powers) in powers.chunks_exact(TILE).take(n_group).enumerate() {
                    let weight = weight(head);
                    let slots = row[slots.clone()].iter_mut().zip(&powers[slots.clone()]);
                    slots.for_each(|(largest, power)| *largest = largest.max(power * weight));
                }
            },
        );
        kv.largest = Some(Largest(rows));
        noted
    }

    /// Those of a head's first slots.
    pub(super) fn largest_of(&self, kv: &Kv, head: usize, out: &mut [f32]) {
        out.fill(0.0);
        let Some(Largest(rows)) = &kv.largest else { return };
        let tiles = rows.chunks_exact(TILE).skip(head).step_by(self.decoder.n_head_kv);
        for (out, tile) in out.chunks_mut(TILE).zip(tiles) {
            out.copy_from_slice(&tile[..out.len()]);
        }
    }
}
