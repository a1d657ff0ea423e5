//! A session under a policy, and what it does to its cache.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use tern::Error;
use tern::engine::{Control, Logits, Model, Sampler, Session, SessionParams};

use super::super::args::Result;
use super::super::interrupt::{self, Guard};
use super::super::load;
use super::policy::{Policy, SINKS};

/// What happened to a cache.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counters {
    /// Times that something was evicted.
    pub(crate) n_evictions: u64,
    /// Tokens evicted.
    pub(crate) n_evicted: u64,
    /// Nanoseconds that took in all, and at most.
    pub(crate) evict_ns: u64,
    /// See `evict_ns`.
    pub(crate) longest_ns: u64,
    /// The most tokens held.
    pub(crate) peak_slots: u32,
}

/// A session and its policy.
pub(crate) struct Lane {
    /// What happened so far.
    pub(crate) counters: Counters,
    policy: &'static Policy,
    session: Session,
    n_keep: u32,
}

impl Lane {
    /// A lane that keeps `n_keep` tokens whenever it evicts.
    pub(crate) fn new(
        model: &Arc<Model>,
        params: &SessionParams,
        policy: &'static Policy,
        n_keep: u32,
    ) -> Result<Lane> {
        // What reads again is no session's policy.
        let kv_policy = policy.policy.filter(|_| !policy.reads_again());
        let params = SessionParams { kv_policy, ..*params };
        let session = load::session(model, &params)?;
        Ok(Lane { policy, counters: Counters::default(), session, n_keep })
    }

    /// The same, of which tokens leave by themselves while others come.
    pub(crate) fn with_budget(
        model: &Arc<Model>,
        params: &SessionParams,
        policy: &'static Policy,
        n_keep: u32,
    ) -> Result<Lane> {
        let kv_budget = if policy.keeps_a_budget() { n_keep } else { 0 };
        Lane::new(model, &SessionParams { kv_budget, ..*params }, policy, n_keep)
    }

    /// Another one that holds the same.
    pub(crate) fn fork(&self) -> Result<Lane> {
        Ok(Lane { session: self.session.fork()?, ..*self })
    }

    /// A fork cut down as another lane's policy says; `None` if this session does not count what that
    /// asks for, or nothing ever leaves the other.
    pub(crate) fn fork_as(&self, other: &Lane) -> Result<Option<Lane>> {
        let Some(policy) = other.policy.policy.filter(|_| !other.policy.reads_again()) else {
            return Ok(None); // which may take more room
        };
        let mut fork = self.fork()?;
        match fork.session.kv_evict_by(Some(policy), SINKS, other.n_keep, &Control::default()) {
            Ok(_) => Ok(Some(fork)),
            Err(Error::Unsupported(_)) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Whether some layers look back on so many tokens only, whatever the policy.
    pub(crate) fn is_sliding(&self, n_layer: u32) -> bool {
        (0..n_layer as usize).any(|layer| self.session.kv_slots(layer, 0).is_none())
    }

    /// Forgets everything but what has been counted.
    pub(crate) fn restart(&mut self) -> Result<()> {
        Ok(self.session.truncate(0)?)
    }

    /// Evaluates tokens.
    pub(crate) fn eval(&mut self, tokens: &[i32], logits: Logits<'_>, guard: &Guard) -> Result<()> {
        self.session.eval(tokens, logits, &guard.control())?;
        self.counters.peak_slots = self.counters.peak_slots.max(self.session.info().n_kv);
        Ok(())
    }

    /// Forgets the tokens from a position on.
    pub(crate) fn roll_back(&mut self, pos: u32) -> Result<()> {
        Ok(self.session.truncate(pos)?)
    }

    /// Saves the session.
    pub(crate) fn save(&self, path: &Path) -> Result<()> {
        Ok(self.session.save(None, path)?)
    }

    /// Restores one that was saved.
    pub(crate) fn restore(&mut self, path: &Path) -> Result<()> {
        Ok(self.session.restore(None, path)?)
    }

    /// Chooses and evaluates `n` tokens or some more, with drafts of at most `n_draft`.
    pub(crate) fn generate(
        &mut self,
        sampler: &mut Sampler,
        n: usize,
        n_draft: u32,
        guard: &Guard,
    ) -> Result<Vec<i32>> {
        let (mut tokens, mut step) = (Vec::new(), vec![0; n_draft as usize + 1]);
        while tokens.len() < n {
            let n_new = self.session.generate(sampler, n_draft, &guard.control(), &mut step)?;
            tokens.extend(&step[..n_new]);
        }
        Ok(tokens)
    }

    /// Tokens that it has evaluated, those left out that were another session's.
    pub(crate) fn n_evaluated(&self) -> u64 {
        let info = self.session.info();
        info.n_prefill + info.n_decode
    }

    /// Tokens drafted, and those of them that were chosen.
    pub(crate) fn drafted(&self) -> (u64, u64) {
        let info = self.session.info();
        (info.n_drafted, info.n_accepted)
    }

    /// Times that tokens left by themselves or on request.
    pub(crate) fn n_evictions(&self) -> u64 {
        self.session.info().n_evictions
    }

    /// Evicts down to what it keeps, if it holds more.
    pub(crate) fn evict(&mut self) -> Result<()> {
        if self.session.info().n_kv <= self.n_keep {
            return Ok(());
        }
        let start = Instant::now();
        let n = match self.policy.evicts() {
            true => {
                let policy = self.policy.policy.filter(|_| self.policy.reads_again());
                let guard = interrupt::guard();
                self.session.kv_evict_by(policy, SINKS, self.n_keep, &guard.control())?
            }
            false => 0,
        };
        let ns = start.elapsed().as_nanos() as u64;
        if n > 0 {
            let counters = &mut self.counters;
            counters.n_evictions += 1;
            counters.n_evicted += u64::from(n);
            counters.evict_ns += ns;
            counters.longest_ns = counters.longest_ns.max(ns);
        }
        Ok(())
    }

    /// Whether a text that is read in parts is cut down after each of them, or once.
    pub(crate) fn streams(&self) -> bool {
        !self.policy.reads_again()
    }

    /// Whether anything ever leaves.
    pub(crate) fn evicts(&self) -> bool {
        self.policy.evicts()
    }

    /// A row of the logits that the last eval left.
    pub(crate) fn logits(&self, row: usize) -> Result<&[f32]> {
        Ok(self.session.logits_row(row)?)
    }

    /// Bytes of keys and values of so many slots.
    pub(crate) fn bytes(&self, slots: u32) -> u64 {
        self.session.kv_slot_bytes(slots)
    }
}
