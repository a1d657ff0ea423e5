//! One sequence on one device: batches, eviction, commit or roll back.

use std::sync::Arc;

use crate::backend::{Backend, Batch};
use crate::base::error::{Result, err};
use crate::kv::cells::Cells;
use crate::kv::policy;
use crate::model::forward::{PhaseTimes, Weights, forward};

use super::params::{Control, Logits};

/// A sequence: the cache's cells, keys and values, and the buffers of a batch.
pub(super) struct Runner<B: Backend> {
    pub(super) weights: Arc<Weights<B>>,
    pub(super) kv: Vec<B::Kv>,
    pub(super) scratch: B::Scratch,
    pub(super) cells: Cells,
    pub(super) n_batch: usize,
    /// Sinks and tokens kept by automatic eviction.
    pub(super) auto_evict: Option<(usize, usize)>,
    /// Positions from which on keys are turned back, if there are gaps to close.
    pub(super) pos_limit: u32,
    /// Rows of logits that the last eval left, and how many there can be.
    pub(super) n_logits: usize,
    /// Those are right for the best token only.
    pub(super) only_best: bool,
    pub(super) max_logits: usize,
    pub(super) n_evicted: u64,
    /// Where the time goes, if anybody wants to know.
    pub(super) phases: Option<PhaseTimes>,
    /// Places in a batch that want logits; reserved for `n_batch`.
    pub(super) outputs: Vec<u32>,
}

impl<B: Backend> Runner<B> {
    /// Evaluates a span. On any error the sequence is as it was, but for room that automatic
    /// eviction made.
    pub(super) fn eval(
        &mut self,
        tokens: &[i32],
        logits: Logits<'_>,
        control: &Control<'_>,
    ) -> Result<()> {
        self.check_outputs(tokens.len(), logits)?;
        self.make_room(tokens.len())?;
        self.n_logits = 0;
        self.cells.reserve(tokens)?;
        let result = self.run(tokens, logits, control);
        match result {
            Ok(n_logits) => {
                self.cells.commit();
                self.n_logits = n_logits;
                self.only_best = logits == Logits::Best;
                Ok(())
            }
            Err(error) => {
                self.cells.rollback();
                Err(error)
            }
        }
    }

    /// Runs the span that has been reserved, batch by batch; gives the rows of logits made.
    fn run(&mut self, tokens: &[i32], logits: Logits<'_>, control: &Control<'_>) -> Result<usize> {
        let n_before = self.cells.order().len() - tokens.len();
        let mut n_logits = 0;
        for (i, chunk) in tokens.chunks(self.n_batch).enumerate() {
            let first = i * self.n_batch;
            choose_outputs(&mut self.outputs, logits, first, chunk.len(), tokens.len());
            let at = n_before + first..n_before + first + chunk.len();
            let (order, order_pos) = (self.cells.order(), self.cells.order_pos());
            let batch = Batch {
                tokens: chunk,
                positions: &order_pos[at.clone()],
                cells: &order[at.clone()],
                order: &order[..at.end],
                order_pos: &order_pos[..at.end],
                outputs: &self.outputs,
                first_output: n_logits,
                best: logits == Logits::Best,
            };
            let check = || control.check();
            let times = self.phases.as_mut();
            forward(&self.weights, &mut self.kv, &mut self.scratch, &batch, &check, times)?;
            n_logits += self.outputs.len();
        }
        control.check()?;
        Ok(n_logits)
    }

    fn check_outputs(&self, n_tokens: usize, logits: Logits<'_>) -> Result<()> {
        let wanted = match logits {
            Logits::Last | Logits::Best => 1,
            Logits::None => 0,
            Logits::All => n_tokens,
            Logits::Positions(places) => {
                let ascending = places.windows(2).all(|w| w[0] < w[1]);
                let inside = places.last().is_none_or(|&last| (last as usize) < n_tokens);
                if !ascending || !inside {
                    return Err(err!(
                        InvalidArgument,
                        "logits: expected ascending places below {n_tokens}, the length of the span"
                    ));
                }
                places.len()
            }
        };
        match wanted > self.max_logits {
            true => Err(err!(
                InvalidArgument,
                "logits: {wanted} rows wanted, but the session was made for {} (n_logits)",
                self.max_logits
            )),
            false => Ok(()),
        }
    }

    /// Evicts by the window policy if `n` tokens do not fit and the session may; closes gaps if
    /// positions would pass their limit.
    fn make_room(&mut self, n: usize) -> Result<()> {
        if let Some((n_sink, n_keep)) = self.auto_evict
            && n > self.cells.n_free()
        {
            // What is kept must leave room for the span; a longer span keeps less.
            let n_ctx = self.cells.n_ctx();
            let most = n_ctx.saturating_sub(n);
            if most < n_sink {
                return Err(err!(
                    KvFull,
                    "KV cache: {n} tokens do not fit in {n_ctx} cells beside {n_sink} sinks; \
                     evaluate them in shorter spans"
                ));
            }
            self.kv_evict(n_sink, n_keep.min(most));
        }
        let last = u64::from(self.cells.next_pos()) + n as u64;
        if last > u64::from(self.pos_limit) {
            self.close_gap()?;
        }
        Ok(())
    }

    /// Keeps the first `n_sink` tokens and the most recent ones, `n_keep` in all.
    pub(super) fn kv_evict(&mut self, n_sink: usize, n_keep: usize) -> usize {
        let gone = policy::window(self.cells.len(), n_sink, n_keep);
        self.evict(gone.start, gone.end)
    }

    /// Evicts the tokens at positions `from..to`.
    pub(super) fn kv_evict_range(&mut self, from: u32, to: u32) -> usize {
        let (first, last) = self.cells.find(from, to);
        self.evict(first, last)
    }

    fn evict(&mut self, from: usize, to: usize) -> usize {
        let n = self.cells.evict(from, to);
        self.n_evicted += n as u64;
        n
    }

    /// Moves the tokens after the widest gap in positions back until the gap is closed: their keys
    /// are turned by as many positions. What stands before it stays.
    fn close_gap(&mut self) -> Result<()> {
        let pos = self.cells.order_pos();
        let starts = std::iter::once(0).chain(pos.iter().map(|p| p + 1));
        let ends = pos.iter().copied().chain(std::iter::once(self.cells.next_pos()));
        let widest = starts.zip(ends).map(|(start, end)| end - start).enumerate();
        let Some((at, gap)) = widest.max_by_key(|&(_, gap)| gap).filter(|&(_, gap)| gap > 0) else {
            return Ok(()); // a session longer than the model's training, without gaps
        };
        let moved = &self.cells.order()[at..];
        let backend = &self.weights.backend;
        for (layer, kv) in self.weights.layers.iter().zip(&mut self.kv) {
            backend.shift(&mut self.scratch, layer, kv, moved, gap)?;
        }
        self.cells.shift(at, gap);
        Ok(())
    }

    /// Forgets the tokens from position `pos` on.
    pub(super) fn truncate(&mut self, pos: u32) -> Result<()> {
        if pos > self.cells.next_pos() {
            return Err(err!(
                InvalidArgument,
                "pos: found {pos}, expected at most {}, the next token's",
                self.cells.next_pos()
            ));
        }
        self.cells.truncate(pos);
        self.n_logits = 0;
        Ok(())
    }

    /// Takes over the sequence of another runner of the same shape.
    pub(super) fn copy_from(&mut self, other: &Runner<B>) -> Result<()> {
        self.cells.copy_from(&other.cells);
        for (to, from) in self.kv.iter_mut().zip(&other.kv) {
            self.weights.backend.copy_cells(from, to, other.cells.order())?;
        }
        self.n_evicted = other.n_evicted;
        Ok(())
    }
}

/// The places of a chunk that want logits, counted from its start.
fn choose_outputs(
    outputs: &mut Vec<u32>,
    logits: Logits<'_>,
    first: usize,
    len: usize,
    n_tokens: usize,
) {
    outputs.clear();
    match logits {
        Logits::None => {}
        Logits::All => outputs.extend(0..len as u32),
        Logits::Last | Logits::Best if first + len == n_tokens => outputs.push(len as u32 - 1),
        Logits::Last | Logits::Best => {}
        Logits::Positions(places) => {
            let inside = places.iter().filter(|&&p| (first..first + len).contains(&(p as usize)));
            outputs.extend(inside.map(|&p| p - first as u32));
        }
    }
}
