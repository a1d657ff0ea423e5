//! A session under a policy, and what it does to its cache.

use std::sync::Arc;
use std::time::Instant;

use tern::engine::{Logits, Model, Session, SessionParams};

use super::super::args::Result;
use super::super::interrupt::Guard;
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
        let params = SessionParams { kv_policy: policy.policy, ..*params };
        let session = load::session(model, &params)?;
        Ok(Lane { policy, counters: Counters::default(), session, n_keep })
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

    /// Evicts down to what it keeps, if it holds more.
    pub(crate) fn evict(&mut self) -> Result<()> {
        if self.session.info().n_kv <= self.n_keep {
            return Ok(());
        }
        let start = Instant::now();
        let n = match self.policy.evicts() {
            true => self.session.kv_evict(SINKS, self.n_keep)?,
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

    /// A row of the logits that the last eval left.
    pub(crate) fn logits(&self, row: usize) -> Result<&[f32]> {
        Ok(self.session.logits_row(row)?)
    }

    /// Bytes of keys and values of so many slots.
    pub(crate) fn bytes(&self, slots: u32) -> u64 {
        let info = self.session.info();
        info.kv_bytes * u64::from(slots) / u64::from(info.n_ctx)
    }
}
