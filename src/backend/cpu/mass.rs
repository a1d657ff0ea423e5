//! How much attention each slot of a layer draws: what policies of eviction rank by.
//!
//! Probabilities are means over the query heads of a KV head; of each query they or their squares are
//! added up ([`AttentionSum`]). Of few tokens each has a row, so that
//! those of a draft that was refused can be left out; what their scores came to is there anyway. Of
//! many tokens there are two rows of sums, over all and over the last queries; their scores are
//! computed once more, now that their sums are known, by threads that have a tile of slots each. Sums
//! are in the order of tokens whatever the threads.
//!
//! ```text
//! rows     [tile][kv head][row][slot of the tile]
//! sum      [kv head][slot]      over all queries so far
//! recent   [kv head][slot]      mean over the last `n_recent` queries; from token to token the older
//!                               ones fade instead of falling out
//! ```

use std::ops::Range;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::backend::{AttentionSum, Batch, Decoder, Observe, Observing, Shape};
use crate::base::aligned::Buffer;
use crate::base::error::{Result, err};
use crate::base::memory::Memory;

use super::attention::{Part, Sizes, Work, lock};
use super::tiles::{Block, TILE};
use super::{Cpu, Kv, Scratch};

/// Rows of many tokens: sums, and means over the last.
const SUMS: usize = 0;
const RECENT: usize = 1;

/// The attention that the slots of one layer draw.
pub(super) struct Mass {
    n_head: usize,
    n_slots: usize,
    observing: Observing,
    sum: Buffer<f32>,
    recent: Buffer<f32>,
    rows: Buffer<f32>,
}

/// Slots in whole tiles.
fn padded(n_slots: usize) -> usize {
    n_slots.next_multiple_of(TILE)
}

impl Mass {
    pub(super) fn new(d: &Decoder, shape: &Shape, memory: &Memory) -> Result<Option<Mass>> {
        let Some(observing) = shape.observing else { return Ok(None) };
        let (n_head, n_slots) = (d.n_head_kv, shape.n_ctx);
        let (n, n_rows) = (n_head * n_slots, n_head * padded(n_slots) * observing.n_rows);
        let [sum, recent, rows] = memory.buffers([n, n, n_rows])?;
        Ok(Some(Mass { n_head, n_slots, observing, sum, recent, rows }))
    }

    /// Bytes that it takes for one layer.
    pub(super) fn bytes(d: &Decoder, shape: &Shape) -> u64 {
        shape.observing.map_or(0, |observing| {
            let line = |n: usize| (4 * n as u64).next_multiple_of(64);
            let rows = padded(shape.n_ctx) * observing.n_rows;
            2 * line(d.n_head_kv * shape.n_ctx) + line(d.n_head_kv * rows)
        })
    }

    /// The rows of a tile and head.
    fn rows(&mut self, tile: usize, head: usize) -> &mut [f32] {
        let len = self.observing.n_rows * TILE;
        &mut self.rows[(tile * self.n_head + head) * len..][..len]
    }

    /// Sums and recent means of a head.
    pub(super) fn of_head(&self, head: usize) -> (&[f32], &[f32]) {
        let at = head * self.n_slots..(head + 1) * self.n_slots;
        (&self.sum[at.clone()], &self.recent[at])
    }

    /// Those of a head's first `n` slots, to be set.
    pub(super) fn of_head_mut(&mut self, head: usize, n: usize) -> (&mut [f32], &mut [f32]) {
        let at = head * self.n_slots..head * self.n_slots + n;
        (&mut self.sum[at.clone()], &mut self.recent[at])
    }

    /// Takes in what a span brought: the first `n_kept` of its tokens, or all if they were counted
    /// together; they follow the `held` slots of each head.
    pub(super) fn fold(&mut self, cpu: &Cpu, held: &[u32], observe: Observe, n_kept: usize) {
        let Observing { n_rows, n_recent, every, sum: kind } = self.observing;
        let one = 1.0 / n_recent as f32;
        for (head, &held) in held.iter().enumerate().take(self.n_head) {
            let held = held as usize;
            let first = head * self.n_slots;
            let end = held + n_kept;
            for x in [&mut self.sum, &mut self.recent] {
                x[first + held..first + end].fill(0.0);
            }
            for tile in 0..end.div_ceil(TILE) {
                let slots = tile * TILE..end.min((tile + 1) * TILE);
                let rows = (tile * self.n_head + head) * n_rows * TILE;
                let row = |row: usize| &self.rows[rows + row * TILE..][..slots.len()];
                let (sum, recent) = (
                    &mut self.sum[first + slots.start..][..slots.len()],
                    &mut self.recent[first + slots.start..][..slots.len()],
                );
                match observe {
                    Observe::Nothing | Observe::Largest => {}
                    Observe::Each { first_pos } => {
                        let counts = |&t: &usize| self.observing.counts(first_pos + t as u32);
                        let each = every as f32;
                        for t in (0..n_kept).filter(counts) {
                            // Later ones have nothing yet, and no row of this token.
                            let n = (held + t + 1).saturating_sub(slots.start).min(slots.len());
                            let (sum, recent, row) =
                                (&mut sum[..n], &mut recent[..n], &row(t)[..n]);
                            cpu.add_up(kind, sum, kind.decay(every), row, each);
                            cpu.kernels.blend(recent, 1.0 - each * one, row, each * one);
                        }
                    }
                    Observe::Together { n_span } => {
                        let faded = 1.0 - n_span.min(n_recent) as f32 * one;
                        cpu.kernels.blend(sum, kind.decay(n_span), row(SUMS), 1.0);
                        cpu.kernels.blend(recent, faded, row(RECENT), 1.0);
                    }
                }
            }
        }
    }

    /// Moves what a head's slots `kept` have to its first ones.
    pub(super) fn compact(&mut self, head: usize, kept: &[u32]) {
        for x in [&mut self.sum, &mut self.recent] {
            let x = &mut x[head * self.n_slots..][..self.n_slots];
            for (to, &from) in kept.iter().enumerate() {
                x[to] = x[from as usize];
            }
        }
    }

    /// Copies what a head's first `n` slots have.
    pub(super) fn copy(&mut self, from: &Mass, head: usize, n: usize) {
        let slots = head * self.n_slots..head * self.n_slots + n;
        self.sum[slots.clone()].copy_from_slice(&from.sum[slots.clone()]);
        self.recent[slots.clone()].copy_from_slice(&from.recent[slots]);
    }

    /// Whether any of `n` tokens from a position on counts.
    pub(super) fn counts_any(&self, first_pos: u32, n: usize) -> bool {
        (0..n as u32).any(|t| self.observing.counts(first_pos + t))
    }

    /// Writes the row of each of few tokens that counts: of one head and tile, from their parts of it,
    /// its powers and what the parts were merged to. `block`: all of a batch.
    pub(super) fn note(
        &mut self,
        cpu: &Cpu,
        (block, batch): (&Block, &Batch<'_>),
        (head, tile): (usize, usize),
        (part, powers): (&Part<'_>, &[f32]),
        merged: &Part<'_>,
    ) {
        let n_group = cpu.decoder.n_head / cpu.decoder.n_head_kv;
        let observing = self.observing;
        let rows = self.rows(tile, head).chunks_exact_mut(TILE);
        let rows = rows.skip(batch.n_before).take(block.n).enumerate();
        for (i, out) in rows.filter(|(i, _)| observing.counts(batch.first_pos + *i as u32)) {
            let (start, end) = block.in_tile(i, tile);
            out.fill(0.0);
            for row in i * n_group..(i + 1) * n_group {
                let weight = part.weight(row, merged.total(row)) / n_group as f32;
                let powers = &powers[row * TILE..][start..end];
                cpu.kernels.blend(&mut out[start..end], 1.0, powers, weight);
            }
        }
    }
}

/// For each token of a batch and query head what its scores came to: their maximum, and the sum of
/// the powers. Threads that have different tokens write here.
#[derive(Default)]
pub(super) struct Totals(Vec<AtomicU32>);

impl Totals {
    /// For batches of up to `n_batch` tokens.
    pub(super) fn new(d: &Decoder, n_batch: usize) -> Result<Totals> {
        let n = 2 * n_batch * d.n_head;
        let mut totals = Vec::new();
        totals
            .try_reserve_exact(n)
            .map_err(|_| err!(OutOfMemory, "attention: no memory for {n} totals"))?;
        totals.resize_with(n, || AtomicU32::new(0));
        Ok(Totals(totals))
    }

    pub(super) fn bytes(d: &Decoder, shape: &Shape) -> u64 {
        4 * (2 * Totals::n_batch(shape) * d.n_head) as u64
    }

    /// Tokens of a batch whose totals are always noted.
    pub(super) fn n_batch(shape: &Shape) -> usize {
        if shape.observing.is_some() { shape.n_batch } else { 0 }
    }

    /// Whether there is room for none.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn place(&self, d: &Decoder, token: usize, head: usize) -> Option<&[AtomicU32]> {
        self.0.get(2 * (token * d.n_head + head)..)?.get(..2)
    }

    /// Notes what was merged for a block of tokens and the query heads of a KV head.
    pub(super) fn note(&self, d: &Decoder, block: &Block, h: usize, merged: &Part<'_>) {
        let n_group = d.n_head / d.n_head_kv;
        for row in 0..block.n * n_group {
            let (token, head) = (block.first + row / n_group, h * n_group + row % n_group);
            let Some([max, sum]) = self.place(d, token, head) else { return };
            let (m, l) = merged.total(row);
            max.store(m.to_bits(), Ordering::Relaxed);
            sum.store(l.to_bits(), Ordering::Relaxed);
        }
    }

    fn of(&self, d: &Decoder, token: usize, head: usize) -> (f32, f32) {
        let Some([max, sum]) = self.place(d, token, head) else { return (0.0, 1.0) };
        let read = |x: &AtomicU32| f32::from_bits(x.load(Ordering::Relaxed));
        (read(max), read(sum))
    }
}

impl Cpu {
    /// `sum = a * sum + b * p`, or `p` squared.
    fn add_up(&self, kind: AttentionSum, sum: &mut [f32], a: f32, p: &[f32], b: f32) {
        match kind {
            AttentionSum::Probabilities => self.kernels.blend(sum, a, p, b),
            AttentionSum::Squares { .. } => self.kernels.blend_squares(sum, a, p, b),
        }
    }

    /// Adds up, for every slot, the probabilities of a batch's many tokens, which have noted their
    /// totals.
    pub(super) fn observe_many(
        &self,
        s: &Scratch,
        kv: &Kv,
        mass: &mut Mass,
        batch: &Batch<'_>,
    ) -> Result<()> {
        let Observe::Together { n_span } = batch.observe else { return Ok(()) };
        let d = &self.decoder;
        let Observing { n_rows, n_recent, sum: kind, .. } = mass.observing;
        if batch.n_before == 0 {
            mass.rows.fill(0.0);
        }
        let (n, n_group) = (batch.tokens.len(), d.n_head / d.n_head_kv);
        // Tokens from this one of the batch on are among the last of the span.
        let first_recent = (n_span - n_span.min(n_recent)).saturating_sub(batch.n_before);
        let ends = (0..d.n_head_kv).map(|h| Block::new(kv.held(h, 0, batch), n - 1, 1).tiles().end);
        let n_items = ends.max().unwrap_or(0) * d.n_head_kv;
        let rows = &mut mass.rows[..n_items * n_rows * TILE];
        self.see_again(s, kv, batch, (rows, n_rows), &|token, seen, rows| {
            let Seen { slots, powers, weight } = seen;
            // The mean over the group takes the place of its first row.
            let (mean, others) = powers.split_at_mut(TILE);
            let mean = &mut mean[slots.clone()];
            let scale = weight(0) / n_group as f32;
            mean.iter_mut().for_each(|x| *x *= scale);
            for (row, other) in (1..n_group).zip(others.chunks_exact(TILE)) {
                self.kernels.blend(mean, 1.0, &other[slots.clone()], weight(row) / n_group as f32);
            }
            let left = kind.decay(n_span - 1 - (batch.n_before + token));
            let sums = &mut rows[SUMS * TILE..][slots.clone()];
            self.add_up(kind, sums, 1.0, mean, left);
            if token >= first_recent {
                let recent = &mut rows[RECENT * TILE..][slots];
                self.kernels.blend(recent, 1.0, mean, 1.0 / n_recent as f32);
            }
        })
    }

    /// Computes the powers of a batch's tokens once more, now that what they add up to is noted, and
    /// gives them to `take` token by token, each with the rows of its tile and KV head:
    /// `[tile][kv head][row][slot of the tile]`, so many of each. Threads have a tile and head each.
    pub(super) fn see_again(
        &self,
        s: &Scratch,
        kv: &Kv,
        batch: &Batch<'_>,
        (rows, n_rows): (&mut [f32], usize),
        take: &(dyn Fn(usize, Seen<'_>, &mut [f32]) + Sync),
    ) -> Result<()> {
        let (d, n) = (&self.decoder, batch.tokens.len());
        let sizes = Sizes::new(d);
        s.pool.rows(rows, n_rows * TILE, 1, |worker, first, rows| {
            let (mut buffer, mut eights) = (lock(&s.work[worker]), lock(&s.eights[worker]));
            let mut work = Work::new(&mut buffer, &mut eights, &sizes);
            for (item, rows) in (first..).zip(rows.chunks_exact_mut(n_rows * TILE)) {
                let (tile, h) = (item / d.n_head_kv, item % d.n_head_kv);
                let head = kv.head(h, tile, &s.recent);
                for first in (0..n).step_by(sizes.n_tokens) {
                    let tokens = (first, sizes.n_tokens.min(n - first));
                    let block = kv.block(h, 0, batch, tokens);
                    if !block.tiles().contains(&tile) {
                        continue;
                    }
                    self.pack_queries(&s.q, &block, h, &head, &mut work);
                    let buffer = std::mem::take(&mut work.part);
                    let n_rows = block.n * sizes.n_group;
                    let part = &mut Part::new(&mut buffer[..n_rows * (sizes.width + 2)], n_rows);
                    self.powers(&head, kv.held(h, 0, batch), &block, tile, &mut work, part);
                    for i in 0..block.n {
                        let (start, end) = block.in_tile(i, tile);
                        let weight = |row: usize| {
                            let total = s.totals.of(d, first + i, h * sizes.n_group + row);
                            part.weight(i * sizes.n_group + row, total)
                        };
                        let powers = &mut work.scores[i * sizes.n_group * TILE..];
                        let seen = Seen { slots: start..end, powers, weight: &weight };
                        take(first + i, seen, rows);
                    }
                    work.part = buffer;
                }
            }
        })
    }
}

/// What a token's query heads that share a KV head give the slots of a tile.
pub(super) struct Seen<'s> {
    /// The slots of the tile that it sees.
    pub(super) slots: Range<usize>,
    /// `[query head][TILE]`, and what follows.
    pub(super) powers: &'s mut [f32],
    /// What the powers of a query head are multiplied with to be probabilities.
    pub(super) weight: &'s dyn Fn(usize) -> f32,
}
