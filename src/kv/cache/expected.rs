//! Expected Attention in a cache: what its slots can expect from queries yet to come, by the mean of
//! those so far, its keys and the norms of its values.

use crate::backend::rope::Frequencies;
use crate::backend::{Backend, Rotation, Row};
use crate::base::error::Result;
use crate::kv::filled;
use crate::kv::policy::Params;
use crate::kv::policy::expected::{Future, Turn, weigh};

/// Of a layer whose heads do not turn.
const STILL: &Frequencies = &Frequencies { per_pair: Vec::new(), scale: 1.0 };

/// What is expected of queries, and room to find out what of slots.
pub(super) struct Expectation {
    turn: Turn,
    future: Future,
    /// What means are multiplied with: the pure function divides scores by the root of their length,
    /// and a model may not.
    scale: f64,
    mean: Vec<f64>,
    row: Vec<f32>,
    logits: Vec<f32>,
    norms: Vec<f32>,
}

impl Expectation {
    /// For heads of so many elements and slots.
    pub(super) fn new(head_dim: usize, n_slots: usize) -> Result<Expectation> {
        Ok(Expectation {
            turn: Turn::new(head_dim / 2)?,
            future: Future::new(head_dim, false)?,
            scale: 1.0,
            mean: filled(head_dim, 0.0, "elements")?,
            row: filled(head_dim, 0.0, "elements")?,
            logits: filled(n_slots, 0.0, "slots")?,
            norms: filled(n_slots, 0.0, "slots")?,
        })
    }

    /// Bytes that it takes.
    pub(super) fn bytes(head_dim: usize, n_slots: usize) -> u64 {
        // Of the rotation, the mean, and a row.
        let elements = head_dim * (size_of::<f64>() * 2 + size_of::<f32>());
        (elements + 2 * n_slots * size_of::<f32>()) as u64 + Future::bytes(head_dim, false)
    }

    /// Looks ahead from the next position that queries of a layer are turned by.
    pub(super) fn look_ahead(&mut self, by: Rotation<'_>, next: u32, n_future: usize) {
        self.turn.set(by.rope.unwrap_or(STILL), by.layout, next, n_future);
        self.scale = f64::from(by.scale) * (self.row.len() as f64).sqrt();
    }

    /// Writes what each slot of a head can expect to `score`. Sinks, which would take most of it and
    /// stay anyway, get zeros.
    #[inline(never)]
    pub(super) fn weigh<B: Backend>(
        &mut self,
        (backend, kv, head): (&B, &B::Kv, usize),
        params: &Params,
        pos: &[u32],
        score: &mut [f32],
    ) {
        let Expectation { turn, future, scale, mean, row, logits, norms } = self;
        let n_sink = pos.partition_point(|&pos| (pos as usize) < params.n_sink);
        let slots = n_sink..pos.len();
        for slot in slots.clone() {
            backend.row(kv, Row::Value, head, slot as u32, row);
            norms[slot] = row.iter().map(|x| x * x).sum::<f32>().sqrt();
        }
        score.fill(0.0);
        let queries = backend.queries(kv, head).chunks_exact(row.len());
        let n_group = queries.len();
        for query in queries {
            mean.iter_mut().zip(query).for_each(|(to, from)| *to = f64::from(*from) * *scale);
            future.set_mean(mean, turn);
            for slot in slots.clone() {
                backend.row(kv, Row::Key, head, slot as u32, row);
                logits[slot] = future.logit(row);
            }
            let (logits, norms) = (&mut logits[slots.clone()], &norms[slots.clone()]);
            weigh(logits, norms, n_group, &mut score[slots.clone()]);
        }
    }
}
