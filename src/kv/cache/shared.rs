//! What a cache shares with others: tiles that are full, of forks and of sessions that begin with the
//! same tokens. Nothing is written to a tile that is shared; before a slot changes, tiles from there on
//! become the cache's own.

use crate::backend::{Backend, TILE};
use crate::base::error::{Result, err};
use crate::kv::cells::Cells;
use crate::kv::prefix::Chain;

use super::Cache;

/// Tiles of a cache that gave way to shared ones: of each tile of the sequence those of all layers.
pub struct Displaced<T> {
    tiles: Vec<Vec<T>>,
}

impl<T> Default for Displaced<T> {
    fn default() -> Self {
        Displaced { tiles: Vec::new() }
    }
}

impl<T> Displaced<T> {
    /// Tokens that the shared tiles hold.
    pub fn n_tokens(&self) -> usize {
        self.tiles.len() * TILE
    }
}

impl<B: Backend> Cache<B> {
    /// Tiles that a fork can share: all that are full in every head; with a budget, which makes tokens
    /// leave, those that are pinned.
    pub fn n_shareable(&self) -> usize {
        let of_cells = self.cells.as_ref().filter(|_| self.capacity.tiled).map(Cells::len);
        let of_heads = self.slots.held().iter().map(|&held| held as usize);
        let full = of_heads.chain(of_cells).min().map_or(0, |held| held / TILE);
        match self.rule.and_then(|rule| rule.budget) {
            None => full,
            Some(_) => full.min(self.n_pinned_tiles()),
        }
    }

    /// Tiles from the first one on of which every token is held and pinned.
    fn n_pinned_tiles(&self) -> usize {
        if self.segments.is_empty() || self.slots.n_heads() == 0 {
            return 0;
        }
        let n_complete = self.n_complete() as usize;
        let n_pinned = |n: usize| {
            let pos = self.slots.pos(0).get(..n).unwrap_or_default();
            self.segments.n_pinned(self.next_pos(), pos)
        };
        let is_pinned = |n: &usize| n_pinned(n * TILE) == n * TILE;
        (1..=n_complete / TILE).take_while(is_pinned).last().unwrap_or(0)
    }

    /// Shares the first tiles of its sequences from now on by such a chain. All layers lie in tiles.
    pub fn share(&mut self, chain: Chain<B::Tile>) {
        self.chain = Some(chain);
    }

    /// Tiles of all layers that others share too.
    pub fn n_shared(&self, backend: &B) -> usize {
        let n_found = self.chain.as_ref().map_or(0, Chain::len);
        // Of those that can be found, the one who finds them has one.
        let n_own = |tile: usize| if tile < n_found { 2 } else { 1 };
        let n_tiles = self.slots.n_slots().div_ceil(TILE);
        let of_layer = |kv: &B::Kv| {
            (0..n_tiles).filter(|&tile| backend.n_owners(kv, tile) > n_own(tile)).count()
        };
        self.layers.iter().map(of_layer).sum()
    }

    /// Makes the slots from `first` on the cache's own, and in layers with a window those from
    /// `first_cell` on. Fails with `OutOfMemory`; what the cache holds has not changed then.
    pub fn own(&mut self, backend: &B, first: usize, first_cell: usize) -> Result<()> {
        // What only this session holds need not be copied.
        if let Some(chain) = &mut self.chain {
            chain.truncate(first.min(first_cell) / TILE);
        }
        for (kv, own) in self.layers.iter_mut().zip(&self.own) {
            let first = if own.is_some() { first } else { first_cell };
            backend.own(kv, u32::try_from(first).unwrap_or(u32::MAX))?;
        }
        Ok(())
    }

    /// The same, but for the first tiles whose tokens are pinned: these do not move.
    pub(super) fn own_unpinned(&mut self, backend: &B) -> Result<()> {
        let n_tiles = self.slots.most_held().div_ceil(TILE);
        let is_shared = |kv: &B::Kv| (0..n_tiles).any(|tile| backend.n_owners(kv, tile) > 1);
        if !self.layers.iter().any(is_shared) {
            return Ok(());
        }
        self.own(backend, self.n_pinned_tiles() * TILE, usize::MAX)
    }

    /// Takes over the sequence of another cache of the same shape, whose first tiles it may share.
    pub fn copy_from(&mut self, backend: &B, other: &Cache<B>) -> Result<()> {
        for (to, from) in self.layers.iter_mut().zip(&other.layers) {
            backend.copy_cells(from, to)?;
        }
        self.slots.copy_from(&other.slots);
        if let (Some(to), Some(from)) = (&mut self.cells, &other.cells) {
            to.copy_from(from);
        }
        self.history.copy_from(&other.history);
        self.turned_back = other.turned_back;
        self.segments.copy_from(&other.segments);
        self.learnt.copy_from_slice(&other.learnt);
        self.next_part.copy_from_slice(&other.next_part);
        for (to, from) in self.means.iter_mut().zip(&other.means) {
            to.copy_from(from);
        }
        for (layer, own) in self.own.iter().enumerate() {
            let (from, to) = (&other.layers[layer], &mut self.layers[layer]);
            if let Some(first) = own {
                backend.copy_knowledge(from, to, &other.slots.held()[*first..][..self.n_head]);
            }
        }
        if let (Some(to), Some(from)) = (&mut self.chain, &other.chain) {
            to.share(from, other.n_shareable());
        }
        Ok(())
    }

    /// Takes the tiles of `tokens`, all but the last one, that another session has: as many as there
    /// are from the first one on, if the sequence is empty. Gives what they took the place of: to be
    /// dropped, or put back by [`Cache::put_back`]. Allocates if there are some. Fails with
    /// `OutOfMemory`; nothing has changed then.
    pub fn take_prefix(&mut self, backend: &B, tokens: &[i32]) -> Result<Displaced<B::Tile>> {
        let mut displaced = Displaced::default();
        let counts = self.rule.is_some_and(|rule| rule.needs() != Default::default());
        let is_empty = self.next_pos() == 0 && self.n_held() == 0;
        let fits = tokens.len() <= self.n_free();
        let Some(mut chain) = self.chain.take_if(|_| is_empty && fits && !counts) else {
            return Ok(displaced);
        };
        chain.truncate(0);
        let (whole, _) = tokens[..tokens.len().saturating_sub(1)].as_chunks::<TILE>();
        let mut done = Ok(());
        for (tile, tokens) in whole.iter().enumerate() {
            let mut room = match self.room(&mut displaced) {
                Ok(room) => room,
                Err(error) => {
                    done = Err(error);
                    break;
                }
            };
            let layers = &mut self.layers;
            let swap = |tiles: &[B::Tile]| swap(backend, layers, tile, tiles, &mut room);
            if !chain.take(tokens, swap) {
                break;
            }
            displaced.tiles.push(room);
        }
        self.chain = Some(chain);
        let n = displaced.n_tokens();
        if let (Ok(()), Some(cells)) = (&done, &mut self.cells) {
            done = cells.reserve(n);
            cells.commit();
        }
        self.history.reserve(&tokens[..n]);
        self.history.commit();
        self.slots.push(n, 0, 0);
        match done {
            Ok(()) => Ok(displaced),
            Err(error) => {
                self.put_back(backend, displaced);
                Err(error)
            }
        }
    }

    /// Room for the tiles of all layers, and for them among others.
    fn room(&self, among: &mut Displaced<B::Tile>) -> Result<Vec<B::Tile>> {
        let no_memory = |_| err!(OutOfMemory, "KV cache: no memory to take shared tiles");
        among.tiles.try_reserve(1).map_err(no_memory)?;
        let mut room = Vec::new();
        room.try_reserve_exact(self.layers.len()).map_err(no_memory)?;
        Ok(room)
    }

    /// Undoes [`Cache::take_prefix`].
    pub fn put_back(&mut self, backend: &B, displaced: Displaced<B::Tile>) {
        if displaced.tiles.is_empty() {
            return;
        }
        for (tile, tiles) in displaced.tiles.iter().enumerate() {
            swap(backend, &mut self.layers, tile, tiles, &mut Vec::new());
        }
        if let Some(chain) = &mut self.chain {
            chain.truncate(0);
        }
        self.slots.truncate(0);
        if let Some(cells) = &mut self.cells {
            cells.truncate(0);
        }
        self.history.truncate(0);
    }

    /// Lets other sessions find the tiles of the sequence, as far as it is whole from the first token on.
    /// Where another one has been faster, its tiles take the place of these. Allocates. Fails with
    /// `OutOfMemory`; the sequence is as it was then.
    pub fn give_prefix(&mut self, backend: &B) -> Result<()> {
        let Some(mut chain) = self.chain.take() else { return Ok(()) };
        let given = self.give(backend, &mut chain);
        self.chain = Some(chain);
        given
    }

    fn give(&mut self, backend: &B, chain: &mut Chain<B::Tile>) -> Result<()> {
        let whole =
            if self.history.first_pos() == 0 { self.n_complete() as usize / TILE } else { 0 };
        for tile in chain.len()..whole {
            let tiles = self.tiles(backend, tile)?;
            let Cache { layers, history, .. } = &mut *self;
            let tokens = &history.tokens()[tile * TILE..(tile + 1) * TILE];
            let swap = |tiles: &[B::Tile]| swap(backend, layers, tile, tiles, &mut Vec::new());
            if !chain.take(tokens, swap) {
                chain.give(tokens, tiles)?;
            }
        }
        Ok(())
    }

    /// A tile of all layers.
    fn tiles(&self, backend: &B, tile: usize) -> Result<Vec<B::Tile>> {
        let mut tiles = Vec::new();
        tiles
            .try_reserve_exact(self.layers.len())
            .map_err(|_| err!(OutOfMemory, "KV cache: no memory for a tile of all layers"))?;
        tiles.extend(self.layers.iter().filter_map(|kv| backend.tile(kv, tile)));
        Ok(tiles)
    }
}

/// Puts tiles in the place of those that the layers have: `gone` takes these, as far as it has room.
fn swap<B: Backend>(
    backend: &B,
    layers: &mut [B::Kv],
    tile: usize,
    with: &[B::Tile],
    gone: &mut Vec<B::Tile>,
) {
    for (kv, with) in layers.iter_mut().zip(with) {
        let old = backend.swap_tile(kv, tile, with.clone());
        let has_room = gone.len() < gone.capacity();
        gone.extend(old.filter(|_| has_room));
    }
}
