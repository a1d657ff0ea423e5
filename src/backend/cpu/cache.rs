//! The KV cache of one layer: keys and values, and what is known of them.
//!
//! Slots of layers that attend to everything lie in tiles, as attention reads them; sessions can share
//! those that are full. A tile that is shared is never written to: [`Kv::own`] copies it first. Layers
//! with a window have one store of all cells, or tiles as well ([`Shape::tiled`]).

use crate::backend::{Batch, Decoder, Row, Shape};
use crate::base::aligned::Buffer;
use crate::base::error::{Result, err};
use crate::base::memory::{HugePages, Lock, Memory};
use crate::base::pool::Pool;
use crate::base::shared::Shared;
use crate::kernel::{GROUP, Kernels};

use super::Cpu;
use super::cache_store::{Head, Kind, Layout, Moves, Store, Targets};
use super::largest::Largest;
use super::leverage::Leverage;
use super::mass::Mass;
use super::packed_cells::Side;
use super::queries::Queries;
use super::recent::{Recent, RecentRows, RowForm, WINDOW};
use super::tiles::{Block, Held, TILE};

/// The cache of one layer.
pub struct Kv {
    /// Which of [`Batch::held`] its first KV head has, if its heads have slots of their own.
    own: Option<usize>,
    /// Cells of each head.
    n_cells: usize,
    /// Whether these are slots that lie in tiles.
    is_tiled: bool,
    kind: Kind,
    kernels: &'static Kernels,
    stores: Vec<Shared<Store>>,
    memory: (Lock, HugePages),
    /// What its slots draw, if that is counted.
    pub(super) mass: Option<Mass>,
    pub(super) leverage: Option<Leverage>,
    /// What is asked for, if that is kept.
    pub(super) queries: Option<Queries>,
    /// The largest probabilities of its slots, while they are watched.
    pub(super) largest: Option<Largest>,
    recent: Newest,
}

/// What a layer has of its newest tokens in half precision.
struct Newest {
    /// Keys, and values.
    sides: [Option<Recent>; 2],
    /// Of each head with slots of its own, the one from which on none is missing that came.
    unbroken: Buffer<u32>,
}

/// The keys and values of 128 slots of each KV head of a layer, of one session or of several.
#[derive(Clone)]
pub struct Tile(Shared<Store>);

impl Kv {
    /// The keys and values of a head's tile; if it does not lie in tiles, of all cells.
    pub(super) fn head<'a>(
        &'a self,
        head: usize,
        tile: usize,
        recent: &'a [RecentRows; 2],
    ) -> Head<'a> {
        let [keys, values] = &self.recent.sides;
        let of = |side: &'a Option<Recent>, apart| Some(side.as_ref()?.head(head, apart));
        let recent = [of(keys, &recent[0]), of(values, &recent[1])];
        self.stores[if self.is_tiled { tile } else { 0 }].head(head, recent)
    }

    /// Some tokens of a batch, the first and how many, and what they see of a head.
    pub(super) fn block(
        &self,
        head: usize,
        window: u32,
        batch: &Batch<'_>,
        (first, n): (usize, usize),
    ) -> Block {
        let held = self.held(head, window, batch);
        let mut block = Block::new(held, first, n);
        for (side, recent) in [Side::Keys, Side::Values].into_iter().zip(&self.recent.sides) {
            let Some(recent) = recent else { continue };
            block = block.with_recent(side, batch.first_pos, |t| {
                let n = recent.n_seen(batch.first_pos + t as u32);
                match held {
                    Held::Own(held) => {
                        let slot = held + t;
                        let unbroken = self.recent.unbroken[head] as usize;
                        n.min(slot + 1 - unbroken.max(slot / TILE * TILE))
                    }
                    Held::Shared(batch, _) | Held::Tiled(batch, _) => {
                        let seen = &batch.order_pos[..batch.visible(t, 0).end];
                        let pos = batch.first_pos + t as u32;
                        unbroken(seen, pos, n.min(pos as usize % TILE + 1))
                    }
                }
            });
        }
        block
    }

    /// What a KV head holds while a batch is evaluated.
    pub(super) fn held<'b>(&self, head: usize, window: u32, batch: &'b Batch<'_>) -> Held<'b> {
        match self.own {
            Some(first) => Held::Own(batch.held[first + head] as usize + batch.n_before),
            None if self.is_tiled => Held::Tiled(batch, window),
            None => Held::Shared(batch, window),
        }
    }

    /// Which store has a cell, and the cell there.
    fn place(&self, cell: u32) -> (usize, u32) {
        match self.is_tiled {
            true => (cell as usize / TILE, cell % TILE as u32),
            false => (0, cell),
        }
    }

    /// How many neighbours from a cell on its store has.
    pub(super) fn n_left(&self, cell: u32) -> usize {
        match self.is_tiled {
            true => TILE - cell as usize % TILE,
            false => self.n_cells.saturating_sub(cell as usize),
        }
    }

    /// What has a cell, and the cell there.
    pub(super) fn store(&self, cell: u32) -> (&Store, u32) {
        let (store, cell) = self.place(cell);
        (&self.stores[store], cell)
    }

    /// The same, to be written to. Fails with `Internal` if it is shared.
    pub(super) fn store_mut(&mut self, cell: u32) -> Result<(&mut Store, u32)> {
        let (store, cell) = self.place(cell);
        Ok((exclusive(&mut self.stores[store])?, cell))
    }

    /// Any of its stores: they are alike.
    pub(super) fn any(&self) -> Option<&Store> {
        self.stores.first().map(|store| &**store)
    }

    /// A head's key in `cell`.
    pub(super) fn key(&self, head: usize, cell: u32, out: &mut [f32]) {
        let (store, cell) = self.store(cell);
        store.key(head, cell, out);
    }

    /// A head's value in `cell`.
    pub(super) fn value(&self, head: usize, cell: u32, out: &mut [f32]) {
        let (store, cell) = self.store(cell);
        store.value(head, cell, out);
    }

    /// Cells of a head.
    pub(super) fn n_cells(&self) -> usize {
        self.n_cells
    }

    /// Takes the keys and values of a batch, rows as in [`super::Scratch`].
    pub(super) fn fill(
        &mut self,
        kernels: &Kernels,
        pool: &Pool,
        batch: &Batch<'_>,
        (k, v): (&[f32], &[f32]),
        recent: &mut [RecentRows; 2],
    ) -> Result<()> {
        let n = batch.tokens.len();
        // A few are less work than waking a thread.
        let pool = (n >= GROUP).then_some(pool);
        let sides = self.recent.sides.iter_mut().zip(recent).zip([k, v]);
        for ((side, rows), x) in sides {
            if let Some(side) = side {
                side.fill(pool, batch, x, rows)?;
            }
        }
        if let Some(first) = self.own {
            for (unbroken, held) in self.recent.unbroken.iter_mut().zip(&batch.held[first..]) {
                *unbroken = (*unbroken).min(held + batch.n_before as u32);
            }
        }
        let held = self.own.map(|first| &batch.held[first..][..self.kind.layout.n_head]);
        let (first, last) = match held {
            Some(held) => {
                let slots = |held: Option<&u32>| held.map_or(0, |&h| h as usize + batch.n_before);
                (slots(held.iter().min()), slots(held.iter().max()))
            }
            None if self.is_tiled => (batch.order.len() - n, batch.order.len() - n),
            None => (0, 0),
        };
        let (start, end) = (first / TILE, (last + n).div_ceil(TILE).min(self.stores.len()));
        for (tile, store) in self.stores.iter_mut().enumerate().take(end).skip(start) {
            let to = match held {
                Some(held) => Targets::Own(held, batch.n_before, tile),
                None if self.is_tiled => Targets::Tiled(first, tile),
                None => Targets::Shared(batch.cells()),
            };
            exclusive(store)?.fill(kernels, pool, (to, batch.first_pos), k, v)?;
        }
        Ok(())
    }

    /// Moves what a head's slots `kept`, which ascend, of `n_held` hold to the first slots, in that
    /// order. Fails with `Internal` if any that are written to are shared.
    pub(super) fn compact(
        &mut self,
        d: &Decoder,
        head: usize,
        (n_held, kept): (usize, &[u32]),
    ) -> Result<()> {
        if let Some(first) = self.recent.unbroken.get_mut(head) {
            let most = WINDOW.min(n_held.saturating_sub(*first as usize));
            let n = unbroken(kept, (n_held as u32).wrapping_sub(1), most);
            *first = (kept.len() - n) as u32;
        }
        // Those that stand where they stay.
        let n_still = kept.iter().zip(0..).take_while(|&(&from, to)| from == to).count();
        let mut cells = [0; TILE];
        for tile in n_still / TILE..kept.len().div_ceil(TILE) {
            let base = tile * TILE;
            let from = &kept[n_still.max(base)..kept.len().min(base + TILE)];
            for (cell, from) in cells.iter_mut().zip(from) {
                *cell = from - base as u32;
            }
            let moves = Moves { to: n_still.max(base) - base, from: &cells[..from.len()] };
            if let Some((store, later)) = self.stores[tile..].split_first_mut() {
                exclusive(store)?.compact(later, head, &moves);
            }
        }
        if let Some(mass) = &mut self.mass {
            mass.compact(head, kept);
        }
        if let Some(leverage) = &mut self.leverage {
            leverage.compact(d, self.n_cells, head, kept);
        }
        Ok(())
    }

    /// Takes over the keys and values of another cache of the same shape, but for the tiles that both
    /// share.
    pub(super) fn copy_from(&mut self, from: &Kv) -> Result<()> {
        for (to, from) in self.stores.iter_mut().zip(&from.stores) {
            if !to.is_same(from) {
                exclusive(to)?.copy_from(from);
            }
        }
        for (to, from) in self.recent.sides.iter_mut().zip(&from.recent.sides) {
            if let (Some(to), Some(from)) = (to, from) {
                to.copy_from(from);
            }
        }
        self.recent.unbroken.copy_from_slice(&from.recent.unbroken);
        Ok(())
    }

    /// Forgets what tokens were before they became codes.
    pub(super) fn forget_recent(&mut self) {
        self.recent.sides.iter_mut().flatten().for_each(Recent::clear);
        self.recent.unbroken.fill(0);
    }

    /// The same of keys alone, which have been changed.
    pub(super) fn forget_recent_keys(&mut self) {
        if let Some(keys) = &mut self.recent.sides[Side::Keys as usize] {
            keys.clear();
        }
    }

    /// Bytes of what a head has of the newest tokens in half precision, in a snapshot.
    pub(super) fn recent_bytes(&self, of: Row) -> usize {
        self.recent_of(of).map_or(0, |recent| 4 + recent.saved_len())
    }

    /// Writes that: how many of its last slots follow each other, up to as many as are read, and those
    /// rows. `held`: slots in use, 0 with a window; `next`: the position of the next token.
    pub(super) fn export_recent(
        &self,
        (of, head): (Row, usize),
        (held, next): (u32, u32),
        out: &mut [u8],
    ) {
        let Some(recent) = self.recent_of(of) else { return };
        let n = held.saturating_sub(self.recent.unbroken[head]).min(WINDOW as u32);
        let (count, rows) = out.split_at_mut(4);
        count.copy_from_slice(&n.to_le_bytes());
        recent.export(head, next, rows);
    }

    /// Takes it back.
    pub(super) fn import_recent(
        &mut self,
        (of, head): (Row, usize),
        (held, next): (u32, u32),
        bytes: &[u8],
    ) {
        let side = &mut self.recent.sides[Side::of(of) as usize];
        if let (Some(recent), Some((count, rows))) = (side, bytes.split_first_chunk()) {
            self.recent.unbroken[head] = held.saturating_sub(u32::from_le_bytes(*count));
            recent.import(head, next, rows);
        }
    }

    fn recent_of(&self, of: Row) -> Option<&Recent> {
        self.recent.sides[Side::of(of) as usize].as_ref()
    }

    /// How many have a tile, itself included; 0 if there is none.
    pub(super) fn n_owners(&self, tile: usize) -> usize {
        let store = self.stores.get(tile).filter(|_| self.is_tiled);
        store.map_or(0, Shared::n_owners)
    }

    /// Makes the slots from `first` on its own: tiles that it shares are copied. Fails with
    /// `OutOfMemory`, and nothing has changed then.
    pub(super) fn own(&mut self, first: u32) -> Result<()> {
        let first = self.place(first).0;
        let shared = self.stores.iter().skip(first).filter(|store| store.n_owners() > 1);
        let n_shared = shared.count();
        if n_shared == 0 {
            return Ok(());
        }
        let no_memory = |_| err!(OutOfMemory, "KV cache: no memory for {n_shared} tiles");
        let mut stores = Vec::new();
        stores.try_reserve_exact(n_shared).map_err(no_memory)?;
        let memory = Memory::new(self.memory.0, self.memory.1);
        memory.reserve(n_shared as u64 * self.kind.bytes(true))?;
        for (i, shared) in self.stores.iter().enumerate().skip(first) {
            if shared.n_owners() > 1 && stores.len() < n_shared {
                let mut store = self.kind.make(self.kernels, i == 0, &memory)?;
                store.copy_from(shared);
                stores.push((i, Shared::new(store)?));
            }
        }
        stores.into_iter().for_each(|(i, store)| self.stores[i] = store);
        Ok(())
    }

    /// A tile, to be shared.
    pub(super) fn tile(&self, tile: usize) -> Option<Tile> {
        self.stores.get(tile).filter(|_| self.is_tiled).cloned().map(Tile)
    }

    /// Puts a tile of another session's layer, of the same shape, in the place of its own, which it
    /// gives back.
    pub(super) fn swap_tile(&mut self, tile: usize, with: Tile) -> Option<Tile> {
        let store = self.stores.get_mut(tile).filter(|_| self.is_tiled)?;
        Some(Tile(std::mem::replace(store, with.0)))
    }
}

/// The greatest number up to `n` of the last of these, which ascend, that follow each other without a
/// gap, up to `last`.
fn unbroken(ascending: &[u32], last: u32, n: usize) -> usize {
    let is_unbroken = |n: &usize| {
        let first = ascending.len().checked_sub(*n).and_then(|at| ascending.get(at));
        first.is_some_and(|first| last.wrapping_sub(*first) as usize == n - 1)
    };
    (1..=n).rev().find(is_unbroken).unwrap_or(0)
}

/// A store that nobody shares. Fails with `Internal`.
fn exclusive(store: &mut Shared<Store>) -> Result<&mut Store> {
    store.get_mut().ok_or_else(|| err!(Internal, "KV cache: a tile that is shared is written to"))
}

/// Whether each cell is the one after its neighbour.
pub(super) fn is_run(cells: &[u32]) -> bool {
    let next = cells.get(1..).unwrap_or_default();
    // No way out at the first gap, so that it is done with vectors.
    cells.iter().zip(next).fold(true, |run, (a, b)| run & (a.wrapping_add(1) == *b))
}

/// What a layer's cache is made in.
#[derive(Clone, Copy)]
pub struct Room<'m> {
    /// All but what is below.
    pub memory: &'m Memory,
    /// Of each tile of slots that is not shared, if they are to go one by one; or none.
    pub tiles: &'m [Memory],
}

impl Cpu {
    /// Bytes of the keys and values of one layer with this window, and of what is known of them.
    /// Those of tiles that are shared are not counted.
    pub fn kv_bytes(decoder: &Decoder, shape: &Shape, window: u32) -> u64 {
        let (kind, n) = stores(decoder, shape, window);
        let known = match window {
            0 => {
                Mass::bytes(decoder, shape)
                    + Leverage::bytes(decoder, shape)
                    + Queries::bytes(decoder, shape)
            }
            _ => 0,
        };
        let n_shared = if is_tiled(shape, window) { shape.n_shared.min(n) } else { 0 };
        let bytes = (n_shared..n).map(|i| kind.bytes(i == 0) + STORE);
        let recent = kind.recent();
        let newest = recent.iter().flatten().map(Recent::bytes).sum::<u64>();
        let unbroken = (4 * unbroken_len(&recent, decoder) as u64).next_multiple_of(64);
        bytes.sum::<u64>() + known + newest + unbroken
    }

    /// Bytes of one tile of a layer, at most.
    pub fn tile_bytes(decoder: &Decoder, shape: &Shape) -> u64 {
        stores(decoder, shape, 0).0.bytes(true)
    }

    /// Makes the cache of one layer. `own`: which of [`Batch::held`] its first KV head has, if the
    /// layer attends to everything. Its first tiles, [`Shape::n_shared`], are those of `lender`, a cache
    /// of the same shape.
    #[inline(never)] // callers may have little stack
    pub fn kv(
        &self,
        shape: &Shape,
        window: u32,
        own: Option<usize>,
        lender: Option<&Kv>,
        room: Room<'_>,
    ) -> Result<Kv> {
        let (kind, n) = stores(&self.decoder, shape, window);
        let mut stores = Vec::new();
        stores
            .try_reserve_exact(n)
            .map_err(|_| err!(OutOfMemory, "KV cache: no memory for {n} tiles"))?;
        let is_tiled = is_tiled(shape, window);
        if let Some(lender) = lender.filter(|_| is_tiled) {
            stores.extend(lender.stores.iter().take(shape.n_shared).cloned());
        }
        let mut rooms = room.tiles.iter();
        for i in stores.len()..n {
            let memory = if is_tiled { rooms.next() } else { None };
            stores.push(Shared::new(kind.make(
                self.kernels,
                i == 0,
                memory.unwrap_or(room.memory),
            )?)?);
        }
        let (mut mass, mut leverage, mut queries) = (None, None, None);
        if own.is_some() {
            mass = Mass::new(&self.decoder, shape, room.memory)?;
            leverage = Leverage::new(&self.decoder, shape, room.memory)?;
            queries = Queries::new(&self.decoder, shape, room.memory)?;
        }
        let n_cells = if window == 0 { shape.n_ctx } else { shape.n_cells };
        let forms = kind.recent();
        let unbroken = room.memory.buffer(unbroken_len(&forms, &self.decoder))?;
        let mut recent = Newest { sides: [None, None], unbroken };
        for (side, form) in recent.sides.iter_mut().zip(forms) {
            *side = match form {
                Some(form) => Some(Recent::new(form, self.kernels, room.memory)?),
                None => None,
            };
        }
        let memory = room.memory.kind();
        Ok(Kv {
            own,
            n_cells,
            is_tiled,
            kind,
            kernels: self.kernels,
            stores,
            memory,
            mass,
            leverage,
            queries,
            largest: None,
            recent,
        })
    }
}

/// Bytes that a store takes beside keys and values: itself, what counts who shares it, and its place.
const STORE: u64 = (size_of::<Store>() + 3 * size_of::<usize>()) as u64;

/// Heads of which it is known from which slot on none is missing.
fn unbroken_len(recent: &[Option<RowForm>; 2], d: &Decoder) -> usize {
    if recent.iter().any(Option::is_some) { d.n_head_kv } else { 0 }
}

/// Whether a layer with this window lies in tiles.
fn is_tiled(shape: &Shape, window: u32) -> bool {
    window == 0 || shape.tiled
}

/// The kind of store of a layer, and how many of them there are.
fn stores(d: &Decoder, shape: &Shape, window: u32) -> (Kind, usize) {
    let all = if window == 0 { shape.n_ctx } else { shape.n_cells };
    let (n_cells, n) = match is_tiled(shape, window) {
        true => (TILE, all.div_ceil(TILE)),
        false => (all, 1),
    };
    let layout = Layout { n_head: d.n_head_kv, head_dim: d.head_dim, n_cells };
    (Kind { k_type: shape.k_type, v_type: shape.v_type, layout }, n)
}
