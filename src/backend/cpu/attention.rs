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

use crate::backend::{Batch, Decoder, Observe, Shape};
use crate::base::error::Result;
use crate::base::pool::Width;
use crate::base::sync::{Mutex, MutexGuard, PoisonError};
use crate::kernel::{GROUP, KV_BLOCK};

use super::attention_q8::Eights;
use super::cache_floats::{Element, key_panel, value_panel};
use super::cache_store::{Head, Stored, value_width};
use super::mass::Mass;
use super::packed_cells::Side;
use super::parts::tiles;
use super::tiles::{Block, Cells, Held, MOST_TOKENS, TILE, Tile};
use super::{Cpu, CpuLayer, Kv, Scratch};

/// Query heads that go through the kernels together, about.
const MOST_ROWS: usize = 24;
/// Multiplications below which another thread is not worth waking: some microseconds.
const SMALL: usize = 1 << 17;

/// Lengths that follow from a model's heads.
#[derive(Clone, Copy)]
pub(super) struct Sizes {
    pub(super) head_dim: usize,
    /// Floats of a query: whole blocks of 8-bit codes.
    pub(super) query: usize,
    /// Floats of a mixture.
    pub(super) width: usize,
    /// Query heads of a kv head.
    pub(super) n_group: usize,
    /// Tokens of a block, at most.
    pub(super) n_tokens: usize,
}

impl Sizes {
    pub(super) fn new(d: &Decoder) -> Sizes {
        let n_group = d.n_head / d.n_head_kv;
        Sizes {
            head_dim: d.head_dim,
            query: d.head_dim.next_multiple_of(KV_BLOCK),
            width: value_width(d.head_dim),
            n_group,
            n_tokens: (MOST_ROWS / n_group).clamp(1, MOST_TOKENS),
        }
    }

    /// Rows of a block: query heads of all its tokens.
    pub(super) fn rows(&self) -> usize {
        self.n_tokens * self.n_group
    }

    /// Floats of the part of `n_tokens`, whole cache lines.
    fn part_len(&self, n_tokens: usize) -> usize {
        (n_tokens * self.n_group * (self.width + 2)).next_multiple_of(16)
    }

    /// Floats of the powers of `n_tokens` in one tile.
    fn powers_len(&self, n_tokens: usize) -> usize {
        n_tokens * self.n_group * TILE
    }

    /// Floats that a thread works in.
    fn work_len(&self) -> usize {
        self.rows() * (self.query + TILE + GROUP + self.width + 2) + self.part_len(self.n_tokens)
    }

    /// Floats of the parts of few tokens.
    fn parts_len(&self, d: &Decoder, shape: &Shape) -> usize {
        let n_tokens = self.n_tokens.min(shape.n_batch);
        let powers = if shape.observing.is_some() { self.powers_len(n_tokens) } else { 0 };
        let n_tiles = shape.n_ctx.max(shape.n_cells).div_ceil(TILE);
        d.n_head_kv * n_tiles * (self.part_len(n_tokens) + powers)
    }
}

/// Floats of attention's buffers: for each thread, and for all.
pub(super) fn buffer_lens(d: &Decoder, shape: &Shape) -> (usize, usize) {
    let sizes = Sizes::new(d);
    (sizes.work_len(), sizes.parts_len(d, shape))
}

/// What a thread works in.
pub(super) struct Work<'w> {
    /// Queries, scaled: `[row][query]`, zeros behind the head's elements.
    pub(super) q: &'w mut [f32],
    /// `[row][TILE]`
    pub(super) scores: &'w mut [f32],
    /// Scores of one block of cells that is not whole: `[row][GROUP]`.
    pub(super) block: &'w mut [f32],
    /// Merged mixtures, `[row][width]`, and their `m` and `l`.
    merged: Part<'w>,
    pub(super) part: &'w mut [f32],
    /// What keys or values in 8 bits need.
    pub(super) eights: &'w mut Eights,
}

impl<'w> Work<'w> {
    pub(super) fn new(buffer: &'w mut [f32], eights: &'w mut Eights, sizes: &Sizes) -> Work<'w> {
        let rows = sizes.rows();
        let (q, rest) = buffer.split_at_mut(rows * sizes.query);
        let (scores, rest) = rest.split_at_mut(rows * TILE);
        let (block, rest) = rest.split_at_mut(rows * GROUP);
        let (merged, part) = rest.split_at_mut(rows * (sizes.width + 2));
        Work { q, scores, block, merged: Part::new(merged, rows), part, eights }
    }
}

/// The parts of some rows, or what they were merged to.
pub(super) struct Part<'p> {
    /// `[row][width]`
    pub(super) o: &'p mut [f32],
    m: &'p mut [f32],
    l: &'p mut [f32],
}

impl<'p> Part<'p> {
    pub(super) fn new(buffer: &'p mut [f32], rows: usize) -> Part<'p> {
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

    /// The greatest score of a row, and the sum of its powers.
    pub(super) fn total(&self, row: usize) -> (f32, f32) {
        (self.m[row], self.l[row])
    }

    /// What the powers of a row are multiplied with to be probabilities, if all parts of the row come
    /// to this greatest score and sum.
    pub(super) fn weight(&self, row: usize, (max, sum): (f32, f32)) -> f32 {
        if self.m[row] == f32::NEG_INFINITY { 0.0 } else { (self.m[row] - max).exp() / sum }
    }
}

impl Cpu {
    /// Mixes values for all query heads of the batch's tokens, from `s.q` to `s.mixed`.
    pub(super) fn attend_all(
        &self,
        s: &mut Scratch,
        l: &CpuLayer,
        kv: &mut Kv,
        batch: &Batch<'_>,
    ) -> Result<()> {
        let n = batch.tokens.len();
        if let Some(queries) = &mut kv.queries {
            queries.note(self, s, l, batch);
        }
        // Taken out, so that keys and values can be read while it is written.
        let mut mass = kv.mass.take();
        let done = match n <= Sizes::new(&self.decoder).n_tokens {
            true => self.attend_few(s, l, kv, batch, mass.as_mut()),
            false => self.attend_many(s, l, kv, batch).and_then(|()| batch.brake.check()),
        };
        let done = done.and_then(|()| match &mut mass {
            Some(mass) => self.observe_many(s, kv, mass, batch),
            None => Ok(()),
        });
        kv.mass = mass;
        done.and_then(|()| self.note_largest(s, kv, batch))
    }

    /// Few tokens: threads share heads and tiles.
    fn attend_few(
        &self,
        s: &mut Scratch,
        l: &CpuLayer,
        kv: &Kv,
        batch: &Batch<'_>,
        mass: Option<&mut Mass>,
    ) -> Result<()> {
        let (d, n) = (&self.decoder, batch.tokens.len());
        let sizes = Sizes::new(d);
        let is_each = matches!(batch.observe, Observe::Each { .. });
        let mut mass = mass.filter(|mass| is_each && mass.counts_any(batch.first_pos, n));
        // Behind each part stand its powers, if they are asked for.
        let powers = if mass.is_some() { sizes.powers_len(n) } else { 0 };
        let (rows, powers_at) = (n * sizes.n_group, sizes.part_len(n));
        let part_len = powers_at + powers;
        let held = |h: usize| kv.held(h, l.window, batch);
        let block = |h: usize| Block::new(held(h), 0, n);
        // Of a head that holds less than another the last tiles are empty.
        let tiles = (0..d.n_head_kv).map(|h| block(h).tiles());
        let tiles = tiles.reduce(|a, b| a.start.min(b.start)..a.end.max(b.end)).unwrap_or(0..0);
        let parts = &mut s.parts[..d.n_head_kv * tiles.len() * part_len];
        let (q, work, eights, recent) = (&s.q, &s.work, &s.eights, &s.recent);
        // The parts of some items from `first` on.
        let make = |worker: usize, first: usize, parts: &mut [f32]| {
            let (mut buffer, mut eights) = (lock(&work[worker]), lock(&eights[worker]));
            let mut work = Work::new(&mut buffer, &mut eights, &sizes);
            let mut packed = None;
            for (i, part) in parts.chunks_exact_mut(part_len).enumerate() {
                let (h, tile) = ((first + i) / tiles.len(), (first + i) % tiles.len());
                let head = kv.head(h, tiles.start + tile, recent);
                if packed.as_ref().is_none_or(|&(of, _)| of != h) {
                    let block = kv.block(h, l.window, batch, (0, n));
                    self.pack_queries(q, &block, h, &head, &mut work);
                    packed = Some((h, block));
                }
                let Some((_, block)) = &packed else { continue };
                let (part, kept) = part.split_at_mut(powers_at);
                let part = &mut Part::new(&mut part[..rows * (sizes.width + 2)], rows);
                self.part(&head, held(h), block, tiles.start + tile, &mut work, part);
                kept.copy_from_slice(&work.scores[..kept.len()]);
            }
        };
        if tiles.len() * TILE * n * d.n_head * d.head_dim < SMALL {
            make(0, 0, parts);
        } else {
            // Neighbours for one thread, as long as there is enough for all.
            let grain = (d.n_head_kv * tiles.len() / (8 * s.pool.n_active())).clamp(1, 4);
            s.pool.rows(parts, part_len, grain, make)?;
        }
        let (mut buffer, mut eights) = (lock(&s.work[0]), lock(&s.eights[0]));
        let mut merged = Work::new(&mut buffer, &mut eights, &sizes).merged;
        let width = Width::spread(d.n_head * d.head_dim);
        for (h, parts) in parts.chunks_exact_mut(tiles.len() * part_len).enumerate() {
            let block = block(h);
            merged.clear();
            for (tile, part) in tiles.clone().zip(parts.chunks_exact_mut(part_len)) {
                let part = Part::new(&mut part[..rows * (sizes.width + 2)], rows);
                self.merge(&block, tile, &mut merged, &part);
            }
            s.totals.note(d, &block, h, &merged);
            for (tile, part) in tiles.clone().zip(parts.chunks_exact_mut(part_len)) {
                let Some(mass) = &mut mass else { break };
                let (part, powers) = part.split_at_mut(powers_at);
                let part = Part::new(&mut part[..rows * (sizes.width + 2)], rows);
                mass.note(self, (&block, batch), (h, tile), (&part, powers), &merged);
            }
            let span = kv.head(h, 0, recent).v.span();
            self.finish(&block, h, &merged, span, &mut s.mixed[..width.len(n)]);
        }
        Ok(())
    }

    /// Many tokens: threads share tokens.
    fn attend_many(&self, s: &mut Scratch, l: &CpuLayer, kv: &Kv, batch: &Batch<'_>) -> Result<()> {
        let (d, n) = (&self.decoder, batch.tokens.len());
        let sizes = Sizes::new(d);
        let width = Width::spread(d.n_head * d.head_dim);
        let (q, work, eights, totals) = (&s.q, &s.work, &s.eights, &s.totals);
        let recent = &s.recent;
        // At least two blocks for each thread, to even out.
        let n_tokens = (n / (2 * s.pool.n_active())).clamp(1, sizes.n_tokens);
        let mixed = &mut s.mixed[..width.len(n)];
        s.pool.rows(mixed, width.pitch, n_tokens, |worker, first, out| {
            let (mut buffer, mut eights) = (lock(&work[worker]), lock(&eights[worker]));
            let mut work = Work::new(&mut buffer, &mut eights, &sizes);
            for h in 0..d.n_head_kv {
                let (head, held) = (kv.head(h, 0, recent), kv.held(h, l.window, batch));
                let block = kv.block(h, l.window, batch, (first, out.len() / width.pitch));
                let rows = block.n * sizes.n_group;
                self.pack_queries(q, &block, h, &head, &mut work);
                work.merged.clear();
                for tile in tiles(block.tiles(), batch.brake) {
                    let buffer = std::mem::take(&mut work.part);
                    let mut part = Part::new(&mut buffer[..rows * (sizes.width + 2)], rows);
                    let head = kv.head(h, tile, recent);
                    self.part(&head, held, &block, tile, &mut work, &mut part);
                    self.merge(&block, tile, &mut work.merged, &part);
                    work.part = buffer;
                }
                totals.note(d, &block, h, &work.merged);
                self.finish(&block, h, &work.merged, head.v.span(), out);
            }
        })
    }

    /// The queries of a block for the heads of kv head `h`, scaled; rotated as its keys are, and in 8
    /// bits if those are codes.
    pub(super) fn pack_queries(
        &self,
        q: &[f32],
        block: &Block,
        h: usize,
        head: &Head<'_>,
        work: &mut Work<'_>,
    ) {
        let d = &self.decoder;
        let sizes = Sizes::new(d);
        let len = sizes.n_group * d.head_dim;
        let tokens = Width::spread(d.n_head * d.head_dim).rows(q).skip(block.first).take(block.n);
        let heads = tokens.flat_map(|row| row[h * len..][..len].chunks_exact(d.head_dim));
        for (packed, q) in work.q.chunks_exact_mut(sizes.query).zip(heads) {
            let (packed, rest) = packed.split_at_mut(d.head_dim);
            for (packed, q) in packed.iter_mut().zip(q) {
                *packed = q * d.attn_scale;
            }
            rest.fill(0.0);
        }
        if let Stored::Codes(_) = head.k {
            let q = &mut work.q[..block.n * sizes.n_group * sizes.query];
            if let Some(span) = head.k.span() {
                self.kernels.hadamard(q, span);
            }
            work.eights.quantise(self.kernels, q);
        }
    }

    /// The part of a block's tokens in one tile of one kv head.
    fn part(
        &self,
        head: &Head<'_>,
        held: Held<'_>,
        block: &Block,
        tile: usize,
        work: &mut Work<'_>,
        part: &mut Part<'_>,
    ) {
        let (cells, seen) = self.powers(head, held, block, tile, work, part);
        let values = Tile { cells: &cells, seen };
        match head.v {
            Stored::F16(v) => self.mix_all(v, &values, block, tile, work, part),
            Stored::F32(v) => self.mix_all(v, &values, block, tile, work, part),
            Stored::Codes(v) => {
                let v = (&v, head.recent[Side::Values as usize].as_ref());
                self.mix_all_coded(v, &values, block, tile, work, part);
            }
        }
    }

    /// The powers of a block's scores in one tile of one kv head, with their `m` and `l`; and what
    /// the block sees of the tile.
    pub(super) fn powers<'h>(
        &self,
        head: &Head<'_>,
        held: Held<'h>,
        block: &Block,
        tile: usize,
        work: &mut Work<'_>,
        part: &mut Part<'_>,
    ) -> (Cells<'h>, Range<usize>) {
        let n_group = self.decoder.n_head / self.decoder.n_head_kv;
        let seen = |i: usize| block.in_tile(i, tile);
        let start = (0..block.n).map(|i| seen(i).0).min().unwrap_or(0);
        let end = (0..block.n).map(|i| seen(i).1).max().unwrap_or(0);
        let cells = Cells::new(held, tile, start..end);

        let rows = block.n * n_group;
        match head.k {
            Stored::F16(k) => self.scores(k, &cells, start..end, rows, work),
            Stored::F32(k) => self.scores(k, &cells, start..end, rows, work),
            Stored::Codes(k) => {
                self.scores_coded(&k, (&cells, tile), start..end, rows, work);
                if let Some(recent) = &head.recent[Side::Keys as usize] {
                    self.scores_of_recent(recent, block, tile, work);
                }
            }
        }
        for i in 0..block.n {
            let (start, end) = seen(i);
            let rows = i * n_group..(i + 1) * n_group;
            let scores = &mut work.scores[rows.start * TILE + start..];
            if self.decoder.attn_softcap != 0.0 {
                for scores in scores.chunks_mut(TILE).take(n_group) {
                    self.kernels.soft_cap(&mut scores[..end - start], self.decoder.attn_softcap);
                }
            }
            let (m, l) = (&mut part.m[rows.clone()], &mut part.l[rows]);
            self.kernels.powers((scores, TILE), end - start, (m, l));
        }
        (cells, start..end)
    }

    /// Mixes values in floats for all rows of a block.
    fn mix_all<T: Element>(
        &self,
        v: &[T],
        Tile { cells, seen: all }: &Tile<'_>,
        block: &Block,
        tile: usize,
        work: &Work<'_>,
        part: &mut Part<'_>,
    ) {
        let Sizes { n_group, head_dim, .. } = Sizes::new(&self.decoder);
        let (seen, start) = (|i: usize| block.in_tile(i, tile), all.start);
        let mix = |wanted: Range<usize>, rows: Range<usize>, o: &mut [f32], mut fresh: bool| {
            cells.each_run(wanted, |at, first, len| {
                let values = value_panel(v, head_dim, first, len);
                let width = values.row;
                let powers = &work.scores[rows.start * TILE + at..];
                let o = &mut o[rows.start * width..];
                T::panel(self.kernels, rows.len(), (powers, TILE), &values, (o, width), fresh);
                fresh = false;
            });
        };
        // What all tokens see, if they begin at the same cell, is mixed for all together.
        let same_start = (1..block.n).all(|i| seen(i).0 == start);
        let common = match same_start {
            true => (0..block.n).map(|i| seen(i).1).min().unwrap_or(start).max(start),
            false => start,
        };
        mix(start..common, 0..block.n * n_group, part.o, true);
        for i in 0..block.n {
            let (start, end) = seen(i);
            let rows = i * n_group..(i + 1) * n_group;
            let from = if same_start { common } else { start };
            // Of a token that sees nothing here there is no part.
            mix(from..end, rows, part.o, common == all.start);
        }
    }

    /// Scores of the first `n` rows for the cells `wanted` of a tile.
    fn scores<T: Element>(
        &self,
        k: &[T],
        cells: &Cells<'_>,
        wanted: Range<usize>,
        n: usize,
        work: &mut Work<'_>,
    ) {
        let Sizes { head_dim, query, .. } = Sizes::new(&self.decoder);
        let q = &*work.q;
        cells.each_block(wanted, n, work.scores, work.block, |first, n_blocks, to| {
            let keys = key_panel(k, head_dim, first, n_blocks);
            T::panel(self.kernels, n, (q, query), &keys, to, true);
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

    /// Divides by the sums, into the rows of a block's tokens. `span`: that of the transform of values.
    fn finish(
        &self,
        block: &Block,
        h: usize,
        merged: &Part<'_>,
        span: Option<usize>,
        out: &mut [f32],
    ) {
        let d = &self.decoder;
        let n_group = d.n_head / d.n_head_kv;
        let width = value_width(d.head_dim);
        let rows = Width::spread(d.n_head * d.head_dim).rows_mut(out);
        for (i, out) in rows.take(block.n).enumerate() {
            let heads = out[h * n_group * d.head_dim..].chunks_exact_mut(d.head_dim);
            for (j, out) in heads.take(n_group).enumerate() {
                let row = i * n_group + j;
                let scale = 1.0 / merged.l[row];
                for (out, o) in out.iter_mut().zip(&merged.o[row * width..]) {
                    *out = o * scale;
                }
                if let Some(span) = span {
                    self.kernels.hadamard(out, span);
                }
            }
        }
    }
}

pub(super) fn lock<T>(work: &Mutex<T>) -> MutexGuard<'_, T> {
    work.lock().unwrap_or_else(PoisonError::into_inner)
}
