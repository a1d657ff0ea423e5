//! Whether a session that evicts is still a session: forked, saved and restored, rolled back, or
//! ahead of itself with drafts, it goes on with the very bits of one that did none of that.

use std::path::PathBuf;
use std::time::Instant;
use std::{env, fs, process};

use tern::engine::{Logits, Sampler, SamplerParams, SessionParams};

use super::super::args::{Result, io_error};
use super::super::interrupt::{self, Guard};
use super::super::output::Progress;
use super::lane::Lane;
use super::measure::{Bench, CHUNK, ROWS, Test, slots};
use super::policy::Policy;
use super::segments;

/// The least tokens that this can be told from: two evictions, and more after each.
pub(crate) const LEAST_TOKENS: u32 = 2 * CHUNK + 1;
/// Tokens that are taken back.
const N_BACK: usize = 24;
/// Tokens of the prompt that drafts follow, those written after it, and those of a draft.
const N_PROMPT: usize = 160;
const N_WRITTEN: usize = 96;
const N_DRAFT: u32 = 7;
/// Slots that they have.
const DRAFT_SLOTS: u32 = 64;

/// What came of one policy. Each way `true`: every logit compared was the same bits.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Composition {
    /// A fork, after the one that it was made of has gone on otherwise.
    pub(crate) forked: bool,
    /// Restored from a file.
    pub(crate) restored: bool,
    /// After tokens were taken back, up to the next eviction.
    pub(crate) rolled_back: bool,
    /// Written with drafts while tokens leave, and without.
    pub(crate) drafted: bool,
    /// With its first tokens taken from another session, where the policy and the model allow that.
    pub(crate) shared: bool,
    /// Tokens that were taken.
    pub(crate) n_shared: u64,
    /// Tokens drafted, of which those that were not chosen were rolled back.
    pub(crate) n_drafted: u64,
    /// Those chosen.
    pub(crate) n_accepted: u64,
    /// Tokens before the session was saved, and those that it then kept.
    pub(crate) pos: u32,
    /// See `pos`.
    pub(crate) slots: u32,
    /// Bytes of the file.
    pub(crate) bytes: u64,
    /// Milliseconds to save it, and to restore it while it is in the page cache.
    pub(crate) save_ms: f64,
    /// See `save_ms`.
    pub(crate) restore_ms: f64,
}

impl Composition {
    /// The first way that is not what it must be.
    pub(crate) fn broken(&self) -> Option<&'static str> {
        let Composition { forked, restored, rolled_back, drafted, shared, .. } = self;
        let ways = [
            (forked, "goes on otherwise when it is forked"),
            (restored, "goes on otherwise when it is restored"),
            (rolled_back, "goes on otherwise when it is rolled back"),
            (drafted, "writes something else with drafts"),
            (shared, "goes on otherwise with tokens of another session"),
        ];
        ways.into_iter().find(|(is_same, _)| !**is_same).map(|(_, what)| what)
    }
}

/// Bits of rows of logits.
type Rows = Vec<Vec<u32>>;

/// A file that is removed in the end.
struct Temporary(PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0); // if it was never made there is nothing to do
    }
}

impl Bench<'_> {
    /// Streams `n` tokens through a cache of each policy, does all of this before the last of them,
    /// and compares.
    pub(crate) fn compose(&self, n: u32, policies: &[&'static Policy]) -> Result<Vec<Composition>> {
        let texts = &self.texts[..1];
        let chosen = segments::choose(self.model, texts, 1, n as usize, self.seed)?;
        let tokens = &chosen[0].tokens;
        let guard = interrupt::guard();
        let mut progress = Progress::new();
        let each = policies.iter().map(|policy| {
            progress.show(format!("composition: {}", policy.name));
            let mut found = self.compose_one(policy, tokens, &guard)?;
            self.compare_drafts(policy, tokens, &mut found, &guard)?;
            self.compare_shared(policy, tokens, &mut found, &guard)?;
            Ok(found)
        });
        each.collect()
    }

    fn compose_one(
        &self,
        policy: &'static Policy,
        tokens: &[i32],
        guard: &Guard,
    ) -> Result<Composition> {
        let n = tokens.len() as u32;
        let (test, slots) = (Test::Stream { n }, slots(self.budget, n));
        // At an eviction, with another one before the end.
        let pos = (n - CHUNK - 1) / CHUNK * CHUNK;
        let at = pos as usize;
        let params = self.params(test.cells(policy, slots), self.common.kv_types);
        let lane = || Lane::new(self.model, &params, policy, slots);
        let (mut fresh, mut one) = (lane()?, lane()?);

        read(&mut fresh, &tokens[..at], guard)?;
        let expected = go_on(&mut fresh, &tokens[at..], guard)?;
        read(&mut one, &tokens[..at], guard)?;
        one.evict()?;
        let mut fork = one.fork()?;
        let file = Temporary(env::temp_dir().join(format!("tern-kv-eval-{}", process::id())));
        let save_ms = milliseconds(|| one.save(&file.0))?;
        let bytes = fs::metadata(&file.0).map_err(|e| io_error(file.0.display(), &e))?.len();

        one.eval(&tokens[..N_BACK], Logits::None, guard)?;
        one.roll_back(pos)?;
        let found = go_on(&mut one, &tokens[at..at + CHUNK as usize], guard)?;
        let rolled_back = found == expected[..found.len()];
        let forked = go_on(&mut fork, &tokens[at..], guard)? == expected;
        fresh.restart()?;
        let restore_ms = milliseconds(|| fresh.restore(&file.0))?;
        let restored = go_on(&mut fresh, &tokens[at..], guard)? == expected;
        let slots = if policy.evicts() { slots } else { pos };
        let found = Composition { forked, restored, rolled_back, pos, slots, ..Default::default() };
        Ok(Composition { bytes, save_ms, restore_ms, ..found })
    }

    /// Evaluates the first tokens with and without another session that has them, evicts, and goes on;
    /// the other session does so first.
    fn compare_shared(
        &self,
        policy: &'static Policy,
        tokens: &[i32],
        found: &mut Composition,
        guard: &Guard,
    ) -> Result<()> {
        let (prompt, rest) = tokens.split_at(2 * CHUNK as usize);
        let rest = &rest[..rest.len().min(CHUNK as usize)];
        let params = self.params(3 * CHUNK, self.common.kv_types);
        let sharing = SessionParams { kv_share: true, ..params };
        let lane = |params| Lane::new(self.model, params, policy, slots(self.budget, 2 * CHUNK));
        let (mut alone, mut giver, mut taker) = (lane(&params)?, lane(&sharing)?, lane(&sharing)?);
        for lane in [&mut alone, &mut giver, &mut taker] {
            lane.eval(prompt, Logits::Last, guard)?;
        }
        found.n_shared = 2 * u64::from(CHUNK) - taker.n_evaluated();
        let first = bits(alone.logits(0)?);
        found.shared = bits(giver.logits(0)?) == first && bits(taker.logits(0)?) == first;
        let expected = go_on(&mut alone, rest, guard)?;
        for lane in [&mut giver, &mut taker] {
            found.shared &= go_on(lane, rest, guard)? == expected;
        }
        Ok(())
    }

    /// Writes with drafts and without, while tokens leave by themselves. Each token is one of the two
    /// most probable, by lot, so that the text repeats itself, and drafts are often wrong.
    fn compare_drafts(
        &self,
        policy: &'static Policy,
        tokens: &[i32],
        found: &mut Composition,
        guard: &Guard,
    ) -> Result<()> {
        let whole = (N_PROMPT + N_WRITTEN) as u32 + 2 * N_DRAFT;
        let n_ctx = if policy.is_bounded() { DRAFT_SLOTS + CHUNK } else { whole };
        let params = self.params(n_ctx, self.common.kv_types);
        let mut ends = Vec::new();
        for n_draft in [0, N_DRAFT] {
            let mut lane = Lane::with_budget(self.model, &params, policy, DRAFT_SLOTS)?;
            let (temperature, seed) = (1.0, self.seed);
            let params = SamplerParams { temperature, seed, top_k: 2, ..SamplerParams::default() };
            let mut sampler = Sampler::new(&params)?;
            lane.eval(&tokens[..N_PROMPT], Logits::Last, guard)?;
            let written = lane.generate(&mut sampler, N_WRITTEN, n_draft, guard)?;
            if n_draft > 0 {
                (found.n_drafted, found.n_accepted) = lane.drafted();
            }
            ends.push((written, lane));
        }
        let [(plain, one), (drafted, other)] = &mut ends[..] else { return Ok(()) };
        // The last draft may have gone a little further.
        let more = &drafted[plain.len().min(drafted.len())..];
        for &token in more {
            one.eval(&[token], Logits::Last, guard)?;
        }
        let is_same = drafted.starts_with(plain);
        // One token for both: then both have one row of logits, after the same number of tokens.
        for lane in [&mut *one, &mut *other] {
            lane.eval(&tokens[..1], Logits::Last, guard)?;
        }
        found.drafted = is_same && bits(one.logits(0)?) == bits(other.logits(0)?);
        Ok(())
    }
}

/// Evaluates the first tokens, and evicts before each chunk.
fn read(lane: &mut Lane, tokens: &[i32], guard: &Guard) -> Result<()> {
    tokens.chunks(CHUNK as usize).try_for_each(|chunk| {
        lane.evict()?;
        lane.eval(chunk, Logits::None, guard)
    })
}

/// The same with those that follow; gives rows of logits.
fn go_on(lane: &mut Lane, tokens: &[i32], guard: &Guard) -> Result<Rows> {
    let mut rows = Rows::new();
    for chunk in tokens.chunks(CHUNK as usize) {
        lane.evict()?;
        for span in chunk.chunks(ROWS as usize) {
            lane.eval(span, Logits::Last, guard)?;
            rows.push(bits(lane.logits(0)?));
        }
    }
    Ok(rows)
}

fn bits(logits: &[f32]) -> Vec<u32> {
    logits.iter().map(|x| x.to_bits()).collect()
}

fn milliseconds(work: impl FnOnce() -> Result<()>) -> Result<f64> {
    let start = Instant::now();
    work()?;
    Ok(start.elapsed().as_secs_f64() * 1e3)
}
