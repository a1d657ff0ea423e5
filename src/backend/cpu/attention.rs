//! Attention: which tokens, heads and cells meet when, on which thread.
//!
//! The cells that a token sees are cut into tiles of [`TILE`], counted along the order of positions.
//! Of each tile a token's query head has a *part*: the greatest score `m`, the sum `l` of the powers
//! `exp(score - m)`, and the values `o` mixed with those powers. Parts are merged by ascending tile:
//! ```text
//! few tokens     thread: part of all tokens and all query heads of one kv head, for one tile
//!                caller, after all: merges
//! many tokens    thread: block of a few tokens; for each kv head, tile after tile: part, merge
//! ```
//! The query heads of a kv head, and the tokens of a block, go through the kernels together, so that
//! a key or a value is read once for all of them. A part depends on its token and tile alone, so the
//! bits of the result do not depend on threads or batches, nor on which of the two ways was taken.

use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use crate::backend::{Batch, Decoder, Shape};
use crate::base::error::Result;
use crate::kernel::{GROUP, Kernels};

use super::cache::{Element, Head, Store, is_run, value_width};
use super::{Cpu, CpuLayer, Kv, Scratch};

/// Cells of a tile: a multiple of [`GROUP`]. Keys and values of one head and tile fit into the
/// caches next to a core, with room for scores.
const TILE: usize = 128;
/// Tokens that go through the kernels together, at most; fewer if they have many heads.
const MOST_TOKENS: usize = 8;
/// Query heads that go through the kernels together, about.
const MOST_ROWS: usize = 24;
/// Multiplications below which another thread is not worth waking: some microseconds.
const SMALL: usize = 1 << 17;

/// Lengths that follow from a model's heads.
#[derive(Clone, Copy)]
struct Sizes {
    head_dim: usize,
    /// Floats of a mixture.
    width: usize,
    /// Query heads of a kv head.
    n_group: usize,
    /// Tokens of a block, at most.
    n_tokens: usize,
}

impl Sizes {
    fn new(d: &Decoder) -> Sizes {
        let n_group = d.n_head / d.n_head_kv;
        Sizes {
            head_dim: d.head_dim,
            width: value_width(d.head_dim),
            n_group,
            n_tokens: (MOST_ROWS / n_group).clamp(1, MOST_TOKENS),
        }
    }

    /// Floats of the part of `n_tokens`, whole cache lines.
    fn part_len(&self, n_tokens: usize) -> usize {
        (n_tokens * self.n_group * (self.width + 2)).next_multiple_of(16)
    }

    /// Floats that a thread works in.
    fn work_len(&self) -> usize {
        let rows = self.n_tokens * self.n_group;
        rows * (self.head_dim + TILE + GROUP + self.width + 2) + self.part_len(self.n_tokens)
    }

    /// Floats of the parts of few tokens.
    fn parts_len(&self, d: &Decoder, shape: &Shape) -> usize {
        let n_tokens = self.n_tokens.min(shape.n_batch);
        d.n_head_kv * shape.n_ctx.div_ceil(TILE) * self.part_len(n_tokens)
    }
}

/// Floats of attention's buffers: for each thread, and for all.
pub(super) fn buffer_lens(d: &Decoder, shape: &Shape) -> (usize, usize) {
    let sizes = Sizes::new(d);
    (sizes.work_len(), sizes.parts_len(d, shape))
}

/// What a thread works in.
struct Work<'w> {
    /// Queries, scaled: `[row][head_dim]`.
    q: &'w mut [f32],
    /// `[row][TILE]`
    scores: &'w mut [f32],
    /// Scores of one block of cells that is not whole: `[row][GROUP]`.
    block: &'w mut [f32],
    /// Merged mixtures, `[row][width]`, and their `m` and `l`.
    merged: Part<'w>,
    part: &'w mut [f32],
}

impl<'w> Work<'w> {
    fn new(buffer: &'w mut [f32], sizes: &Sizes) -> Work<'w> {
        let rows = sizes.n_tokens * sizes.n_group;
        let (q, rest) = buffer.split_at_mut(rows * sizes.head_dim);
        let (scores, rest) = rest.split_at_mut(rows * TILE);
        let (block, rest) = rest.split_at_mut(rows * GROUP);
        let (merged, part) = rest.split_at_mut(rows * (sizes.width + 2));
        Work { q, scores, block, merged: Part::new(merged, rows), part }
    }
}

/// The parts of some rows, or what they were merged to.
struct Part<'p> {
    /// `[row][width]`
    o: &'p mut [f32],
    m: &'p mut [f32],
    l: &'p mut [f32],
}

impl<'p> Part<'p> {
    fn new(buffer: &'p mut [f32], rows: usize) -> Part<'p> {
        let width = buffer.len() / rows - 2;
        let (o, rest) = buffer.split_at_mut(rows * width);
        let (m, l) = rest.split_at_mut(rows);
        Part { o, m, l: &mut l[..rows] }
    }

    fn clear(&mut self) {
        self.o.fill(0.0);
        self.m.fill(f32::NEG_INFINITY);
        self.l.fill(0.0);
    }
}

/// Some tokens of a batch, one after the other, and what each of them sees.
struct Block {
    first: usize,
    n: usize,
    visible: [(usize, usize); MOST_TOKENS],
}

impl Block {
    fn new(batch: &Batch<'_>, window: u32, first: usize, n: usize) -> Block {
        let mut visible = [(0, 0); MOST_TOKENS];
        for (i, visible) in visible[..n].iter_mut().enumerate() {
            let range = batch.visible(first + i, window);
            *visible = (range.start, range.end);
        }
        Block { first, n, visible }
    }

    /// The tiles that any of the tokens sees.
    fn tiles(&self) -> Range<usize> {
        let visible = &self.visible[..self.n];
        let start = visible.iter().map(|v| v.0).min().unwrap_or(0);
        let end = visible.iter().map(|v| v.1).max().unwrap_or(0);
        start / TILE..end.div_ceil(TILE)
    }

    /// What token `i` sees of a tile, counted from the tile's start; empty if nothing.
    fn in_tile(&self, i: usize, tile: usize) -> (usize, usize) {
        let base = tile * TILE;
        let (start, end) = self.visible[i];
        let within = |at: usize| at.saturating_sub(base).min(TILE);
        (within(start), within(end))
    }
}

impl Cpu {
    /// Mixes values for all query heads of the batch's tokens, from `s.q` to `s.mixed`.
    pub(super) fn attend_all(
        &self,
        s: &mut Scratch,
        l: &CpuLayer,
        kv: &Kv,
        batch: &Batch<'_>,
    ) -> Result<()> {
        let n = batch.tokens.len();
        let sizes = Sizes::new(&self.decoder);
        match (&kv.store, n <= sizes.n_tokens) {
            (Store::F16(kv_half), true) => {
                self.attend_few(s, l.window, batch, |head| kv.head::<u16, _>(kv_half, head))
            }
            (Store::F32(kv_half), true) => {
                self.attend_few(s, l.window, batch, |head| kv.head::<f32, _>(kv_half, head))
            }
            (Store::F16(kv_half), false) => {
                self.attend_many(s, l.window, batch, |head| kv.head::<u16, _>(kv_half, head))
            }
            (Store::F32(kv_half), false) => {
                self.attend_many(s, l.window, batch, |head| kv.head::<f32, _>(kv_half, head))
            }
        }
    }

    /// Few tokens: threads share heads and tiles.
    fn attend_few<'k, T: Element + 'k>(
        &self,
        s: &mut Scratch,
        window: u32,
        batch: &Batch<'_>,
        head: impl Fn(usize) -> Head<'k, T> + Sync,
    ) -> Result<()> {
        let (d, n) = (&self.decoder, batch.tokens.len());
        let sizes = Sizes::new(d);
        let (rows, part_len) = (n * sizes.n_group, sizes.part_len(n));
        let block = Block::new(batch, window, 0, n);
        let tiles = block.tiles();
        let parts = &mut s.parts[..d.n_head_kv * tiles.len() * part_len];
        let (q, work) = (&s.q, &s.work);
        let make = |worker: usize, item: usize, part: &mut [f32]| {
            let mut buffer = lock(&work[worker]);
            let mut work = Work::new(&mut buffer, &sizes);
            let (h, tile) = (item / tiles.len(), tiles.start + item % tiles.len());
            self.pack_queries(q, &block, h, &mut work);
            let part = &mut part[..rows * (sizes.width + 2)];
            let part = &mut Part::new(part, rows);
            self.part(&head(h), batch.order, &block, tile, &mut work, part);
        };
        if tiles.len() * TILE * n * d.n_head * d.head_dim < SMALL {
            for (item, part) in parts.chunks_exact_mut(part_len).enumerate() {
                make(0, item, part);
            }
        } else {
            // Neighbours for one thread, as long as there is enough for all.
            let grain = (d.n_head_kv * tiles.len() / (8 * s.pool.n_active())).clamp(1, 4);
            s.pool.rows(parts, part_len, grain, |worker, first, parts| {
                for (i, part) in parts.chunks_exact_mut(part_len).enumerate() {
                    make(worker, first + i, part);
                }
            })?;
        }
        let mut buffer = lock(&s.work[0]);
        let mut merged = Work::new(&mut buffer, &sizes).merged;
        let width = d.n_head * d.head_dim;
        for (h, parts) in parts.chunks_exact_mut(tiles.len() * part_len).enumerate() {
            merged.clear();
            for (tile, part) in tiles.clone().zip(parts.chunks_exact_mut(part_len)) {
                let part = Part::new(&mut part[..rows * (sizes.width + 2)], rows);
                self.merge(&block, tile, &mut merged, &part);
            }
            self.finish(&block, h, &merged, &mut s.mixed[..n * width]);
        }
        Ok(())
    }

    /// Many tokens: threads share tokens.
    fn attend_many<'k, T: Element + 'k>(
        &self,
        s: &mut Scratch,
        window: u32,
        batch: &Batch<'_>,
        head: impl Fn(usize) -> Head<'k, T> + Sync,
    ) -> Result<()> {
        let (d, n) = (&self.decoder, batch.tokens.len());
        let sizes = Sizes::new(d);
        let width = d.n_head * d.head_dim;
        let (q, work) = (&s.q, &s.work);
        // At least two blocks for each thread, to even out.
        let n_tokens = (n / (2 * s.pool.n_active())).clamp(1, sizes.n_tokens);
        s.pool.rows(&mut s.mixed[..n * width], width, n_tokens, |worker, first, out| {
            let mut buffer = lock(&work[worker]);
            let mut work = Work::new(&mut buffer, &sizes);
            let block = Block::new(batch, window, first, out.len() / width);
            let rows = block.n * sizes.n_group;
            for h in 0..d.n_head_kv {
                let head = head(h);
                self.pack_queries(q, &block, h, &mut work);
                work.merged.clear();
                for tile in block.tiles() {
                    let buffer = std::mem::take(&mut work.part);
                    let mut part = Part::new(&mut buffer[..rows * (sizes.width + 2)], rows);
                    self.part(&head, batch.order, &block, tile, &mut work, &mut part);
                    self.merge(&block, tile, &mut work.merged, &part);
                    work.part = buffer;
                }
                self.finish(&block, h, &work.merged, out);
            }
        })
    }

    /// The queries of a block for the heads of kv head `h`, scaled.
    fn pack_queries(&self, q: &[f32], block: &Block, h: usize, work: &mut Work<'_>) {
        let d = &self.decoder;
        let len = d.n_head / d.n_head_kv * d.head_dim;
        let tokens = q.chunks_exact(d.n_head * d.head_dim).skip(block.first).take(block.n);
        for (row, packed) in tokens.zip(work.q.chunks_exact_mut(len)) {
            for (packed, q) in packed.iter_mut().zip(&row[h * len..][..len]) {
                *packed = q * d.attn_scale;
            }
        }
    }

    /// The part of a block's tokens in one tile of one kv head.
    fn part<T: Element>(
        &self,
        head: &Head<'_, T>,
        order: &[u32],
        block: &Block,
        tile: usize,
        work: &mut Work<'_>,
        part: &mut Part<'_>,
    ) {
        let n_group = self.decoder.n_head / self.decoder.n_head_kv;
        let seen = |i: usize| block.in_tile(i, tile);
        let start = (0..block.n).map(|i| seen(i).0).min().unwrap_or(0);
        let end = (0..block.n).map(|i| seen(i).1).max().unwrap_or(0);
        let base = tile * TILE;
        let run = is_run(&order[base + start..base + end]);
        let cells = Cells { tile: &order[base..base + end], run };

        let rows = 0..block.n * n_group;
        self.scores(head, &cells, start..end, rows.len(), work);
        for i in 0..block.n {
            let (start, end) = seen(i);
            for row in i * n_group..(i + 1) * n_group {
                let scores = &mut work.scores[row * TILE..][start..end];
                if self.decoder.attn_softcap != 0.0 {
                    self.kernels.soft_cap(scores, self.decoder.attn_softcap);
                }
                (part.m[row], part.l[row]) = self.kernels.powers(scores);
            }
        }

        part.o.fill(0.0);
        // What all tokens see, if they begin at the same cell, is mixed for all together.
        let same_start = (1..block.n).all(|i| seen(i).0 == start);
        let common = match same_start {
            true => (0..block.n).map(|i| seen(i).1).min().unwrap_or(start).max(start),
            false => start,
        };
        let kernels = self.kernels;
        mix(kernels, head, &cells, start..common, rows, work.scores, part.o);
        for i in 0..block.n {
            let (start, end) = seen(i);
            let rows = i * n_group..(i + 1) * n_group;
            let from = if same_start { common } else { start };
            mix(kernels, head, &cells, from..end, rows, work.scores, part.o);
        }
    }

    /// Scores of the first `n` rows for the cells `wanted` of a tile.
    fn scores<T: Element>(
        &self,
        head: &Head<'_, T>,
        cells: &Cells<'_>,
        wanted: Range<usize>,
        n: usize,
        work: &mut Work<'_>,
    ) {
        let d = self.decoder.head_dim;
        for row in work.scores.chunks_exact_mut(TILE).take(n) {
            row[wanted.clone()].fill(0.0);
        }
        cells.each_run(wanted, |at, first, len| {
            let mut done = 0;
            while done < len {
                let (cell, left) = (first + done, len - done);
                let (number, lane) = (cell / GROUP, cell % GROUP);
                let scores = &mut work.scores[at + done..];
                if lane == 0 && left >= GROUP {
                    let n_blocks = left / GROUP;
                    let keys = head.keys(number, n_blocks);
                    T::panel(self.kernels, n, (work.q, d), &keys, (scores, TILE));
                    done += n_blocks * GROUP;
                    continue;
                }
                let keys = head.keys(number, 1);
                work.block[..n * GROUP].fill(0.0);
                T::panel(self.kernels, n, (work.q, d), &keys, (work.block, GROUP));
                let here = left.min(GROUP - lane);
                for (row, block) in scores.chunks_mut(TILE).zip(work.block.chunks(GROUP)).take(n) {
                    row[..here].copy_from_slice(&block[lane..lane + here]);
                }
                done += here;
            }
        });
    }

    /// Takes the part of one more tile into what was merged of the tiles before.
    fn merge(&self, block: &Block, tile: usize, merged: &mut Part<'_>, part: &Part<'_>) {
        let n_group = self.decoder.n_head / self.decoder.n_head_kv;
        let width = value_width(self.decoder.head_dim);
        for i in 0..block.n {
            let (start, end) = block.in_tile(i, tile);
            if start == end {
                continue;
            }
            for row in i * n_group..(i + 1) * n_group {
                let (before, now) = (merged.m[row], part.m[row]);
                let max = before.max(now);
                // Whose greatest is `-inf` has nothing but zeros, or a NaN to hand on.
                let factor = |m: f32| match m == max || m == f32::NEG_INFINITY {
                    true => 1.0,
                    false => (m - max).exp(),
                };
                let (a, b) = (factor(before), factor(now));
                merged.m[row] = max;
                merged.l[row] = merged.l[row] * a + part.l[row] * b;
                let o = row * width..(row + 1) * width;
                self.kernels.blend(&mut merged.o[o.clone()], a, &part.o[o], b);
            }
        }
    }

    /// Divides by the sums, into the rows of a block's tokens.
    fn finish(&self, block: &Block, h: usize, merged: &Part<'_>, out: &mut [f32]) {
        let d = &self.decoder;
        let n_group = d.n_head / d.n_head_kv;
        let width = value_width(d.head_dim);
        for (i, out) in out.chunks_exact_mut(d.n_head * d.head_dim).take(block.n).enumerate() {
            let heads = out[h * n_group * d.head_dim..].chunks_exact_mut(d.head_dim);
            for (j, out) in heads.take(n_group).enumerate() {
                let row = i * n_group + j;
                let scale = 1.0 / merged.l[row];
                for (out, o) in out.iter_mut().zip(&merged.o[row * width..]) {
                    *out = o * scale;
                }
            }
        }
    }
}

/// The cells of a tile, by ascending position.
struct Cells<'a> {
    tile: &'a [u32],
    /// What is wanted of them is one run.
    run: bool,
}

impl Cells<'_> {
    /// Calls `f(at, first, len)` for runs of neighbours among the cells `wanted`: `len` cells from
    /// `first` on, the first of them at place `at` of the tile.
    fn each_run(&self, wanted: Range<usize>, mut f: impl FnMut(usize, usize, usize)) {
        let (mut at, end) = (wanted.start, wanted.end);
        while at < end {
            let cells = &self.tile[at..end];
            let gap = |(a, b): (&u32, &u32)| a + 1 != *b;
            let len = match self.run {
                true => cells.len(),
                false => cells.iter().zip(&cells[1..]).position(gap).map_or(cells.len(), |i| i + 1),
            };
            f(at, cells[0] as usize, len);
            at += len;
        }
    }
}

/// Adds the values of the cells `wanted` to the mixtures of `rows`, with their powers.
fn mix<T: Element>(
    kernels: &Kernels,
    head: &Head<'_, T>,
    cells: &Cells<'_>,
    wanted: Range<usize>,
    rows: Range<usize>,
    powers: &[f32],
    o: &mut [f32],
) {
    cells.each_run(wanted, |at, first, len| {
        let values = head.values(first, len);
        let width = values.row;
        let powers = &powers[rows.start * TILE + at..];
        let o = &mut o[rows.start * width..];
        T::panel(kernels, rows.len(), (powers, TILE), &values, (o, width));
    });
}

pub(super) fn lock<T>(work: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    work.lock().unwrap_or_else(PoisonError::into_inner)
}
