//! The full cache and smaller ones beside it, over the same tokens.
//!
//! A session with the full cache and one session for each policy evaluate the same tokens in step,
//! and each row of logits is compared while it is there. So memory is that of the sessions, each
//! with [`ROWS`] rows of logits, however long the text is.

use std::sync::Arc;

use tern::Error;
use tern::engine::{KV_PRESETS, Logits, Model, SessionParams};

use super::super::args::{Common, Failure, Result};
use super::super::interrupt;
use super::super::load;
use super::super::output::Progress;
use super::lane::{Counters, Lane};
use super::policy::{self, LEAST_SLOTS, Policy};
use super::score::{Row, Score};
use super::segments::{self, Segment, Text};

/// Rows of logits that a session holds: 32 MB for a vocabulary of 262,144.
pub(crate) const ROWS: u32 = 32;
/// Tokens that a streaming cache may hold beyond its budget.
pub(crate) const CHUNK: u32 = 128;

/// Keys and values in f16, and in f32.
pub(crate) const F16: (u32, u32) = (0, 0);
/// See [`F16`].
pub(crate) const F32: (u32, u32) = (1, 1);
/// Both in 8 bits.
pub(crate) const Q8_0: (u32, u32) = (2, 2);
/// The presets of [`tern::engine::KV_PRESETS`].
pub(crate) const BALANCED: (u32, u32) = (KV_PRESETS[0].number, KV_PRESETS[0].number);
/// See [`BALANCED`].
pub(crate) const SMALL: (u32, u32) = (KV_PRESETS[1].number, KV_PRESETS[1].number);
/// See [`BALANCED`].
pub(crate) const TINY: (u32, u32) = (KV_PRESETS[2].number, KV_PRESETS[2].number);

/// What is done with a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Test {
    /// A prompt, one eviction, and then the rest of the text, of which nothing is evicted.
    Once {
        /// Tokens before the eviction.
        n_prompt: u32,
        /// Tokens after it, all scored.
        n_generate: u32,
    },
    /// A cache that never holds more than its budget and a chunk; the second half is scored.
    Stream {
        /// Tokens in all.
        n: u32,
    },
}

/// What everything is measured with.
pub(crate) struct Bench<'a> {
    /// The model.
    pub(crate) model: &'a Arc<Model>,
    /// Options that all commands have.
    pub(crate) common: &'a Common,
    /// The texts.
    pub(crate) texts: &'a [Text],
    /// The part of the tokens that stays.
    pub(crate) budget: f64,
    /// Segments of each text.
    pub(crate) n_segments: usize,
    /// What decides which.
    pub(crate) seed: u64,
}

/// What is measured: a policy, the types of its keys and values, and how much it keeps.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Entry {
    /// The policy.
    pub(crate) policy: &'static Policy,
    /// Types of keys and of values, as [`SessionParams`] has them.
    pub(crate) kv_types: (u32, u32),
    /// The part of the tokens that stays.
    pub(crate) budget: f64,
}

/// What came of one.
pub(crate) struct Outcome {
    /// What was measured.
    pub(crate) entry: Entry,
    /// The text and the score of each segment.
    pub(crate) scores: Vec<(usize, Score)>,
    /// Tokens that it keeps.
    pub(crate) slots: u32,
    /// What it did.
    pub(crate) counters: Counters,
    /// Bytes of the keys and values that it keeps.
    pub(crate) bytes: u64,
    /// Bytes of those that the full cache holds when this one has evicted.
    pub(crate) bytes_full: u64,
}

impl Test {
    /// Tokens that the budget is a part of.
    pub(crate) fn n_whole(self) -> u32 {
        match self {
            Test::Once { n_prompt, .. } => n_prompt,
            Test::Stream { n } => n,
        }
    }

    /// Tokens evaluated; one more is only predicted.
    pub(crate) fn n_tokens(self) -> u32 {
        match self {
            Test::Once { n_prompt, n_generate } => n_prompt + n_generate,
            Test::Stream { n } => n,
        }
    }

    /// The first token whose logits are scored.
    fn first_scored(self) -> u32 {
        match self {
            Test::Once { n_prompt, .. } => n_prompt,
            Test::Stream { n } => n / 2,
        }
    }

    /// Whether a cache is cut down before the token at a place.
    fn evicts_at(self, at: u32) -> bool {
        match self {
            Test::Once { n_prompt, .. } => at == n_prompt,
            Test::Stream { .. } => at.is_multiple_of(CHUNK),
        }
    }

    /// Cells of a session that keeps so many tokens. A cache that held more would fail for want of
    /// them.
    pub(crate) fn cells(self, policy: &Policy, slots: u32) -> u32 {
        match self {
            _ if !policy.is_bounded() => self.n_tokens() + policy.n_beside(self.n_whole()),
            Test::Once { n_prompt, n_generate } => n_prompt.max(slots + n_generate),
            Test::Stream { n } => n.min(slots + CHUNK),
        }
    }

    /// Where an evaluation that begins at a place ends: before the next eviction, and not with more
    /// rows of logits than there is room for.
    fn span_end(self, at: u32) -> u32 {
        let chunk_end = match self {
            Test::Once { .. } => self.n_tokens(),
            Test::Stream { .. } => (at / CHUNK + 1) * CHUNK,
        };
        let end = match self.first_scored() {
            first if at < first => first,
            _ => at + ROWS,
        };
        end.min(chunk_end).min(self.n_tokens())
    }
}

/// The part of `n` tokens that a budget is. Products such as 0.29 * 100 fall short of what they are.
pub(crate) fn slots(budget: f64, n: u32) -> u32 {
    (budget * f64::from(n) + 1e-6) as u32
}

impl Bench<'_> {
    /// Parameters of a session with so many cells, and keys and values of these types.
    pub(crate) fn params(&self, n_ctx: u32, kv_types: (u32, u32)) -> SessionParams {
        let common = load::session_params(self.common, self.model);
        SessionParams { n_ctx, n_logits: ROWS, ..load::with_kv_types(common, kv_types) }
    }

    /// A lane with everything in f16, which the others are measured by.
    pub(crate) fn full_lane(&self, n_ctx: u32) -> Result<Lane> {
        Lane::new(self.model, &self.params(n_ctx, F16), policy::full(), n_ctx)
    }

    /// Whether the model has layers that look back on so many tokens only.
    pub(crate) fn is_sliding(&self) -> Result<bool> {
        let lane = self.full_lane(LEAST_SLOTS)?;
        Ok(lane.is_sliding(self.model.info().n_layer))
    }

    /// A policy with keys and values stored as the options say.
    pub(crate) fn entry(&self, policy: &'static Policy) -> Entry {
        Entry { policy, kv_types: self.common.kv_types, budget: self.budget }
    }

    /// Why the model cannot be measured with a policy and types of keys and values, if it cannot.
    pub(crate) fn refusal(&self, entry: &Entry) -> Result<Option<String>> {
        let params = self.params(LEAST_SLOTS, entry.kv_types);
        match Lane::new(self.model, &params, entry.policy, LEAST_SLOTS) {
            Ok(_) => Ok(None),
            Err(Failure::Error(Error::Unsupported(sentence))) => Ok(Some(sentence.as_str().into())),
            Err(error) => Err(error),
        }
    }

    /// Measures each of some over every segment.
    pub(crate) fn measure(&self, test: Test, entries: &[Entry]) -> Result<Vec<Outcome>> {
        let slots = |entry: &Entry| slots(entry.budget, test.n_whole());
        let len = test.n_tokens() as usize + 1;
        let chosen = segments::choose(self.model, self.texts, self.n_segments, len, self.seed)?;
        let mut full = self.full_lane(test.n_tokens())?;
        let lanes = entries.iter().map(|entry| {
            let params = self.params(test.cells(entry.policy, slots(entry)), entry.kv_types);
            Lane::new(self.model, &params, entry.policy, slots(entry))
        });
        let mut lanes = lanes.collect::<Result<Vec<_>>>()?;
        let mut scores = vec![Vec::new(); lanes.len()];
        let mut progress = Progress::new();
        for (i, segment) in chosen.iter().enumerate() {
            progress.show(format!("segment {} of {}", i + 1, chosen.len()));
            let found = segment_scores(test, segment, &mut full, &mut lanes)?;
            for (scores, score) in scores.iter_mut().zip(found) {
                scores.push((segment.text, score));
            }
        }
        drop(progress);
        let outcome = |((lane, scores), entry): ((Lane, Vec<_>), &Entry)| {
            let kept = if entry.policy.evicts() { slots(entry) } else { test.n_whole() };
            Outcome {
                entry: *entry,
                scores,
                slots: kept,
                counters: lane.counters,
                bytes: lane.bytes(kept),
                bytes_full: full.bytes(test.n_whole()),
            }
        };
        Ok(lanes.into_iter().zip(scores).zip(entries).map(outcome).collect())
    }
}

/// Runs one segment through all sessions; gives the score of each lane.
fn segment_scores(
    test: Test,
    segment: &Segment,
    full: &mut Lane,
    lanes: &mut [Lane],
) -> Result<Vec<Score>> {
    let guard = interrupt::guard();
    let mut scores = vec![Score::default(); lanes.len()];
    let (mut full_row, mut row) = (Row::default(), Row::default());
    full.restart()?;
    for lane in &mut *lanes {
        lane.restart()?;
    }
    let mut at = 0;
    while at < test.n_tokens() {
        let end = test.span_end(at);
        let is_scored = at >= test.first_scored();
        let wanted = if is_scored { Logits::All } else { Logits::None };
        let tokens = &segment.tokens[at as usize..end as usize];
        full.eval(tokens, wanted, &guard)?;
        for lane in &mut *lanes {
            if test.evicts_at(at) {
                lane.evict()?;
            }
            lane.eval(tokens, wanted, &guard)?;
        }
        for i in 0..if is_scored { tokens.len() } else { 0 } {
            full_row.set(full.logits(i)?)?;
            let target = segment.tokens[at as usize + i + 1];
            for (lane, score) in lanes.iter().zip(&mut scores) {
                row.set(lane.logits(i)?)?;
                score.add(&full_row, &row, target)?;
            }
        }
        at = end;
    }
    Ok(scores)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_cover_each_token_once_and_end_where_they_must() {
        let once = |n_prompt, n_generate| Test::Once { n_prompt, n_generate };
        for test in [once(100, 70), once(1, 1), Test::Stream { n: 1000 }, Test::Stream { n: 8 }] {
            let (mut at, mut n_evictions) = (0, 0);
            while at < test.n_tokens() {
                let end = test.span_end(at);
                assert!(at < end && end <= test.n_tokens());
                assert!(at >= test.first_scored() || end <= test.first_scored());
                assert!(at < test.first_scored() || end - at <= ROWS);
                assert!((at + 1..end).all(|inside| !test.evicts_at(inside)), "{test:?} {at}");
                n_evictions += u32::from(test.evicts_at(at));
                at = end;
            }
            let expected = match test {
                Test::Once { .. } => 1,
                Test::Stream { n } => n.div_ceil(CHUNK),
            };
            assert_eq!(n_evictions, expected);
        }
    }

    #[test]
    fn a_budget_is_rounded_down() {
        assert_eq!(slots(0.2, 1024), 204);
        assert_eq!(slots(0.29, 100), 29);
        assert_eq!(slots(1.0, 7), 7);
    }
}
