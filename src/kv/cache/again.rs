//! What a cache holds, read again: KVzip's way to find out what of it is needed (arXiv 2505.23416).
//!
//! Tokens that are held come once more after all others, and nothing of that stays: what they reserve
//! is rolled back. What they attended to is noted beside the statistics of the cache's own policy.

use crate::backend::{Backend, Observe};
use crate::base::error::Result;
use crate::kv::filled;

use super::{Cache, Device};

impl<B: Backend> Cache<B> {
    /// Tokens that any KV head with slots of its own holds, as far back as they are known.
    pub fn held_tokens(&self) -> Result<Vec<i32>> {
        let mut tokens = filled(self.history.tokens().len(), 0, "tokens")?;
        tokens.clear();
        let is_held = |pos: u32| {
            (0..self.slots.n_heads()).any(|head| self.slots.pos(head).binary_search(&pos).is_ok())
        };
        let known = self.history.tokens().iter().zip(self.history.first_pos()..);
        tokens.extend(known.filter(|&(_, pos)| is_held(pos)).map(|(token, _)| token));
        Ok(tokens)
    }

    /// Tokens that can come and be taken back without anything having to leave for them.
    pub fn n_repeatable(&self) -> usize {
        let cells = self.cells.as_ref().map_or(usize::MAX, |cells| cells.n_free());
        self.n_free().min(self.n_turns_left()).min(cells)
    }

    /// Makes room to note what tokens that come again attend to ([`Cache::reserve_again`]). Allocates.
    /// Fails with `OutOfMemory`; [`Cache::unwatch`] is to be called in any case.
    pub fn watch(&mut self, device: &mut Device<'_, B>) -> Result<()> {
        if self.weights.is_empty() {
            self.weights = filled(self.capacity.n_slots, 0.0, "slots")?;
        }
        let layers = self.layers.iter_mut().zip(&self.own);
        let mut full = layers.filter_map(|(kv, own)| own.map(|_| kv));
        full.try_for_each(|kv| device.backend.watch(device.scratch, kv))
    }

    /// Gives the room back.
    pub fn unwatch(&mut self, device: &mut Device<'_, B>) {
        let needs = self.rule.map(|rule| rule.needs()).unwrap_or_default();
        if !needs.weighs_keys() {
            self.weights = Vec::new();
        }
        for (kv, own) in self.layers.iter_mut().zip(&self.own) {
            if own.is_some() {
                device.backend.unwatch(device.scratch, kv);
            }
        }
    }

    /// Takes room for tokens that come again, to be rolled back.
    pub fn reserve_again(&mut self, backend: &B, tokens: &[i32]) -> Result<()> {
        self.reserve(backend, tokens)?;
        self.observe = Observe::Largest;
        Ok(())
    }
}
