//! Layers with a window. All their KV heads hold the same tokens, in [`Cells`](crate::kv::cells::Cells):
//! any of them, or the first ones by ascending position where these lie in tiles, which other caches can
//! share.

use std::ops::Range;

use crate::backend::Backend;
use crate::base::error::Result;

use super::Cache;

/// Of tiles, the part that is given up at once for tokens to come, as far as no window sees it: to close up
/// moves what is left.
const GIVEN_UP: usize = 4;

impl<B: Backend> Cache<B> {
    /// Gives up the oldest tokens of layers with a window, if `n` more do not fit and they lie in tiles;
    /// others give them up by themselves. Fails with `OutOfMemory` if they are shared; nothing has changed
    /// then.
    pub(super) fn make_cells(&mut self, backend: &B, n: usize) -> Result<()> {
        let Some(cells) = self.cells.as_ref().filter(|_| self.capacity.tiled) else {
            return Ok(());
        };
        let n_missing = n.saturating_sub(cells.n_free());
        if n_missing == 0 {
            return Ok(());
        }
        let unseen = cells.len().saturating_sub(self.window as usize);
        let n_gone = n_missing.max(unseen.min(cells.n_ctx() / GIVEN_UP));
        self.evict_cells(backend, 0..n_gone).map(|_| ())
    }

    /// Evicts some tokens of layers with a window, counted by ascending position: in tiles the others close
    /// up. Gives how many. Fails with `OutOfMemory` if they share these; nothing has changed then.
    pub(super) fn evict_cells(&mut self, backend: &B, gone: Range<usize>) -> Result<u64> {
        if gone.is_empty() {
            return Ok(0);
        }
        if self.capacity.tiled {
            self.own(backend, usize::MAX, gone.start)?;
        }
        let Cache { cells: Some(cells), layers, own, chooser, .. } = self else { return Ok(0) };
        if self.capacity.tiled {
            let held = cells.len();
            let kept = chooser.all_but(held, gone.clone());
            for (kv, _) in layers.iter_mut().zip(own).filter(|(_, own)| own.is_none()) {
                (0..self.n_head).try_for_each(|head| backend.compact(kv, head, held, kept))?;
            }
        }
        let n = cells.evict(gone.start, gone.end);
        if self.capacity.tiled {
            cells.close_up();
        }
        Ok(n as u64)
    }
}
