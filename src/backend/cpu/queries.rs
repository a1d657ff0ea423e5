//! What the query heads of a layer ask for in the mean, before rotation: what Expected Attention
//! (arXiv 2510.00636) takes for the queries yet to come.
//!
//! Queries are turned back from what they are attended with, and counted when their span stays. Of few
//! tokens each has a row, so that those of a draft that was refused can be left out; of many the sum is
//! kept. Sums are in the order of tokens, so they depend neither on threads nor on batches.
//!
//! ```text
//! mean     [query head][element]
//! rows     [row][query head][element]
//! ```

use crate::backend::rope::Layout;
use crate::backend::{Batch, Decoder, Observe, QueryMeans, Shape};
use crate::base::aligned::Buffer;
use crate::base::error::Result;
use crate::base::memory::Memory;
use crate::base::pool::Width;

use super::{Cpu, CpuLayer, Scratch};

/// The queries of one layer.
pub(super) struct Queries {
    /// How many have been counted.
    pub(super) n: u64,
    /// How many `rows` has the sum of.
    n_new: u64,
    n_sink: u32,
    mean: Buffer<f32>,
    rows: Buffer<f32>,
}

impl Queries {
    pub(super) fn new(d: &Decoder, shape: &Shape, memory: &Memory) -> Result<Option<Queries>> {
        let Some(QueryMeans { n_rows, n_sink }) = shape.queries else { return Ok(None) };
        let n = d.n_head * d.head_dim;
        let [mean, rows] = memory.buffers([n, n * n_rows])?;
        Ok(Some(Queries { n: 0, n_new: 0, n_sink, mean, rows }))
    }

    /// Bytes that they take for one layer.
    pub(super) fn bytes(d: &Decoder, shape: &Shape) -> u64 {
        let line = |n: usize| (4 * (n * d.n_head * d.head_dim) as u64).next_multiple_of(64);
        shape.queries.map_or(0, |queries| line(1) + line(queries.n_rows))
    }

    /// The means of the query heads that share a KV head.
    pub(super) fn of_head(&self, d: &Decoder, head: usize) -> &[f32] {
        let len = self.mean.len() / d.n_head_kv;
        &self.mean[head * len..][..len]
    }

    /// The same, to be set.
    pub(super) fn of_head_mut(&mut self, d: &Decoder, head: usize) -> &mut [f32] {
        let len = self.mean.len() / d.n_head_kv;
        &mut self.mean[head * len..][..len]
    }

    /// Takes in the first `n_kept` tokens of a span, or all if they were added up.
    #[inline(never)]
    pub(super) fn fold(&mut self, observe: Observe, n_kept: usize) {
        let len = self.mean.len();
        let mut add = |row: &[f32], n_new: u64| {
            self.n += n_new;
            let (n_new, weight) = (n_new as f32, 1.0 / self.n.max(1) as f32);
            let mean = self.mean.iter_mut().zip(row);
            mean.for_each(|(mean, sum)| *mean += (sum - n_new * *mean) * weight);
        };
        match observe {
            Observe::Nothing | Observe::Largest => {}
            Observe::Each { first_pos } => {
                for (row, pos) in self.rows.chunks_exact(len).zip(first_pos..).take(n_kept) {
                    add(row, u64::from(pos >= self.n_sink));
                }
            }
            Observe::Together { .. } => add(&self.rows[..len], self.n_new),
        }
    }

    /// Takes over what another layer of the same shape knows.
    pub(super) fn copy(&mut self, from: &Queries) {
        self.n = from.n;
        self.mean.copy_from_slice(&from.mean);
    }

    /// Forgets everything.
    pub(super) fn clear(&mut self) {
        self.n = 0;
        self.mean.fill(0.0);
    }

    /// Adds up the queries of a batch, or gives each its row. Those of sinks are zeros.
    #[inline(never)]
    pub(super) fn note(&mut self, cpu: &Cpu, s: &Scratch, l: &CpuLayer, batch: &Batch<'_>) {
        let is_each = match batch.observe {
            Observe::Nothing | Observe::Largest => return,
            Observe::Each { .. } => true,
            Observe::Together { .. } => false,
        };
        if batch.n_before == 0 {
            self.rows.fill(0.0);
            self.n_new = 0;
        }
        let (d, len) = (&cpu.decoder, self.mean.len());
        let angles = l.rope.map(|i| cpu.angles(i, &s.cos, &s.sin, s.n_batch));
        let scale = l.rope.map_or(1.0, |i| s.frequencies[i].scale);
        let shrink = (1.0 / (scale * scale)) as f32;
        let queries = Width::spread(len).rows(&s.q).take(batch.tokens.len());
        for (t, query) in queries.enumerate() {
            if batch.first_pos + (t as u32) < self.n_sink {
                continue;
            }
            self.n_new += 1;
            let row = &mut self.rows[if is_each { (batch.n_before + t) * len } else { 0 }..][..len];
            let heads = row.chunks_exact_mut(d.head_dim).zip(query.chunks_exact(d.head_dim));
            for (row, query) in heads {
                let half = angles.map_or(0, |angles| angles.half);
                for i in 0..half {
                    let Some(angles) = angles else { break };
                    let (cos, sin) = (angles.cos[t * half + i], angles.sin[t * half + i]);
                    let (a, b) = match d.rope_layout {
                        Layout::Norm => (2 * i, 2 * i + 1),
                        Layout::Neox => (i, i + half),
                    };
                    row[a] += (cos * query[a] + sin * query[b]) * shrink;
                    row[b] += (cos * query[b] - sin * query[a]) * shrink;
                }
                let tail = row[2 * half..].iter_mut().zip(&query[2 * half..]);
                tail.for_each(|(row, query)| *row += query);
            }
        }
    }
}
