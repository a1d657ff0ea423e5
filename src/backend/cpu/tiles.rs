//! Tiles of the cache: what the tokens of a block see of them, and where that stands.

use std::ops::Range;

use crate::backend::Batch;
use crate::kernel::GROUP;

use super::cache::is_run;
use super::packed_cells::Side;

/// What a KV head holds, batch included: the tokens of a batch see it up to themselves.
#[derive(Clone, Copy)]
pub(super) enum Held<'b> {
    /// In shared cells, of which a token sees so many positions.
    Shared(&'b Batch<'b>, u32),
    /// The same, but that the cells are the first slots of tiles.
    Tiled(&'b Batch<'b>, u32),
    /// In its own first slots, so many before the batch.
    Own(usize),
}

impl Held<'_> {
    /// What token `t` of the batch sees, by ascending position.
    fn visible(&self, t: usize) -> Range<usize> {
        match *self {
            Held::Shared(batch, window) | Held::Tiled(batch, window) => batch.visible(t, window),
            Held::Own(held) => 0..held + t + 1,
        }
    }
}

/// Cells of a tile: a multiple of [`GROUP`]. Keys and values of one head and tile fit into the
/// caches next to a core, with room for scores.
pub(super) const TILE: usize = crate::backend::TILE;
/// Tokens that go through the kernels together, at most; fewer if they have many heads.
pub(super) const MOST_TOKENS: usize = 8;

/// Some tokens of a batch, one after the other, and what each of them sees.
pub(super) struct Block {
    pub(super) first: usize,
    pub(super) n: usize,
    visible: [(usize, usize); MOST_TOKENS],
    /// Of keys and of values, how many tokens each of them reads in half precision, itself included.
    n_recent: [[usize; MOST_TOKENS]; 2],
    /// The position of the batch's first token.
    first_pos: u32,
}

/// What a token reads of a tile in half precision: how many neighbours, their first place in the tile,
/// and its position.
#[derive(Clone, Copy)]
pub(super) struct Recently {
    pub(super) start: usize,
    pub(super) n: usize,
    pub(super) pos: u32,
}

impl Block {
    pub(super) fn new(held: Held<'_>, first: usize, n: usize) -> Block {
        let mut visible = [(0, 0); MOST_TOKENS];
        for (i, visible) in visible[..n].iter_mut().enumerate() {
            let range = held.visible(first + i);
            *visible = (range.start, range.end);
        }
        Block { first, n, visible, n_recent: Default::default(), first_pos: 0 }
    }

    /// The same, with tokens that read `n_recent(which of the batch)` in half precision; the first of
    /// the batch stands at a position.
    pub(super) fn with_recent(
        mut self,
        side: Side,
        first_pos: u32,
        n_recent: impl Fn(usize) -> usize,
    ) -> Block {
        self.first_pos = first_pos;
        for (i, n) in self.n_recent[side as usize][..self.n].iter_mut().enumerate() {
            *n = n_recent(self.first + i);
        }
        self
    }

    /// The tiles that any of the tokens sees.
    pub(super) fn tiles(&self) -> Range<usize> {
        let visible = &self.visible[..self.n];
        let start = visible.iter().map(|v| v.0).min().unwrap_or(0);
        let end = visible.iter().map(|v| v.1).max().unwrap_or(0);
        start / TILE..end.div_ceil(TILE)
    }

    /// What token `i` sees of a tile, counted from the tile's start; empty if nothing.
    pub(super) fn in_tile(&self, i: usize, tile: usize) -> (usize, usize) {
        let base = tile * TILE;
        let (start, end) = self.visible[i];
        let within = |at: usize| at.saturating_sub(base).min(TILE);
        (within(start), within(end))
    }

    /// What token `i` reads of a tile in half precision; nothing of what it does not see.
    pub(super) fn recent(&self, side: Side, i: usize, tile: usize) -> Option<Recently> {
        let (n, visible_end) = (self.n_recent[side as usize][i], self.visible[i].1);
        let (start, end) = self.in_tile(i, tile);
        let first = visible_end.saturating_sub(n).saturating_sub(tile * TILE).max(start);
        if n == 0 || first >= end {
            return None;
        }
        // The last one is the token itself.
        let after = (visible_end - (tile * TILE + first)) as u32;
        let pos = self.first_pos + (self.first + i + 1) as u32 - after;
        Some(Recently { start: first, n: end - first, pos })
    }
}

/// What the tokens of a block see of a tile.
pub(super) struct Tile<'a> {
    pub(super) cells: &'a Cells<'a>,
    /// What any of them sees.
    pub(super) seen: Range<usize>,
}

/// The cells of a tile, by ascending position; of slots those of the tile's store.
pub(super) enum Cells<'a> {
    /// Neighbours, from this one on.
    Run(usize),
    /// Any.
    Listed(&'a [u32]),
}

impl<'a> Cells<'a> {
    /// Those of a tile of which the places `wanted` are needed.
    pub(super) fn new(held: Held<'a>, tile: usize, wanted: Range<usize>) -> Cells<'a> {
        let Held::Shared(batch, _) = held else { return Cells::Run(0) };
        let cells = &batch.order[tile * TILE..][..wanted.end];
        match is_run(&cells[wanted.clone()]) {
            // What stands before those that are wanted is not asked for.
            true if !wanted.is_empty() => {
                Cells::Run((cells[wanted.start] as usize).wrapping_sub(wanted.start))
            }
            _ => Cells::Listed(cells),
        }
    }

    /// The cell at a place of the tile that is wanted.
    pub(super) fn at(&self, place: usize) -> u32 {
        match *self {
            Cells::Run(first) => first.wrapping_add(place) as u32,
            Cells::Listed(tile) => tile[place],
        }
    }

    /// Calls `f(at, first, len)` for runs of neighbours among the cells `wanted`: `len` cells from
    /// `first` on, the first of them at place `at` of the tile.
    pub(super) fn each_run(&self, wanted: Range<usize>, mut f: impl FnMut(usize, usize, usize)) {
        let (mut at, end) = (wanted.start, wanted.end);
        let tile = match *self {
            _ if at >= end => return,
            Cells::Run(first) => return f(at, first.wrapping_add(at), end - at),
            Cells::Listed(tile) => tile,
        };
        while at < end {
            let cells = &tile[at..end];
            let gap = |(a, b): (&u32, &u32)| a + 1 != *b;
            let len = cells.iter().zip(&cells[1..]).position(gap).map_or(cells.len(), |i| i + 1);
            f(at, cells[0] as usize, len);
            at += len;
        }
    }

    /// Computes scores of `n` rows for the cells `wanted`, by blocks of 16 neighbours:
    /// `f(block, n_blocks, (sums, stride))` is to add them up for some of those. `spare` takes the
    /// scores of blocks that are wanted in part: its stride is [`GROUP`], others are [`TILE`].
    pub(super) fn each_block(
        &self,
        wanted: Range<usize>,
        n: usize,
        scores: &mut [f32],
        spare: &mut [f32],
        mut f: impl FnMut(usize, usize, (&mut [f32], usize)),
    ) {
        self.each_run(wanted, |at, first, len| {
            let mut done = 0;
            while done < len {
                let (cell, left) = (first + done, len - done);
                let (number, lane) = (cell / GROUP, cell % GROUP);
                let scores = &mut scores[at + done..];
                if lane == 0 && left >= GROUP {
                    let n_blocks = left / GROUP;
                    f(number, n_blocks, (scores, TILE));
                    done += n_blocks * GROUP;
                    continue;
                }
                f(number, 1, (spare, GROUP));
                let here = left.min(GROUP - lane);
                for (row, block) in scores.chunks_mut(TILE).zip(spare.chunks(GROUP)).take(n) {
                    row[..here].copy_from_slice(&block[lane..lane + here]);
                }
                done += here;
            }
        });
    }
}
