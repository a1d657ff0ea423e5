//! What a session holds, evaluated once more, so that KVzip can choose what of it stays.
//!
//! KVzip (Kim et al. 2025, arXiv 2505.23416) asks the model to repeat the text, and keeps what it
//! attends to while it does: that serves any question yet to come. Here the text itself comes again,
//! without the paper's words around it, which need a chat template: after a few tokens a model that can
//! copy finds the place where they stand.

use crate::backend::Backend;
use crate::base::error::{Result, err};
use crate::kv::cache::{Cache, Device};
use crate::kv::eviction::Rule;
use crate::model::forward::Weights;

use super::control::Control;
use super::params::Logits;
use super::runner::Runner;

/// Tokens that come again in one span, at most: as in the paper.
const SPAN: usize = 2048;
/// The first tokens of a span are the last of the one before it: they say where the text goes on.
const LEAD: usize = 8;

impl<B: Backend> Runner<B> {
    /// What `choose` gives, once it is known what the tokens that are held attend to when they come
    /// again: if a rule asks for that. Reading changes nothing else, whatever comes of it. Allocates 4
    /// bytes for each slot of each head, for the time of the call.
    pub(super) fn after_reading<T>(
        &mut self,
        rule: &Rule,
        n_keep: usize,
        control: &Control<'_>,
        choose: impl FnOnce(&mut Cache<B>, &mut Device<'_, B>) -> Result<T>,
    ) -> Result<T> {
        let read = self.read_again(rule, n_keep, control);
        let Weights { backend, layers, .. } = &*self.weights;
        let mut device = Device { backend, weights: layers, scratch: &mut self.scratch };
        let chosen = read.and_then(|()| choose(&mut self.cache, &mut device));
        if rule.needs().zip {
            self.cache.unwatch(&mut device);
        }
        chosen
    }

    /// Notes what the tokens that are held attend to when they come again, if a rule asks for that and
    /// there is more than `n_keep` slots of any head. Fails with `KvFull` where not one token can come
    /// again.
    #[inline(never)]
    fn read_again(&mut self, rule: &Rule, n_keep: usize, control: &Control<'_>) -> Result<()> {
        if !rule.needs().zip || !self.cache.holds_more(n_keep) {
            return Ok(());
        }
        let tokens = self.cache.held_tokens()?;
        let most = self.cache.n_repeatable().min(SPAN);
        if most == 0 {
            return Err(err!(
                KvFull,
                "KV policy kvzip: 0 slots and positions are free beside the {} held, expected at \
                 least 1 to read these again; evict some by another policy, or make a larger session",
                self.cache.n_held()
            ));
        }
        let Weights { backend, layers, .. } = &*self.weights;
        let mut device = Device { backend, weights: layers, scratch: &mut self.scratch };
        self.cache.watch(&mut device)?;
        let n_lead = LEAD.min(most / 2);
        let n_new = most - n_lead;
        for first in (0..tokens.len()).step_by(n_new) {
            let span = &tokens[first.saturating_sub(n_lead)..tokens.len().min(first + n_new)];
            let reserved = self.cache.reserve_again(&self.weights.backend, span);
            let done = reserved.and_then(|()| self.run(span.len(), Logits::None, control));
            self.cache.rollback();
            done?;
        }
        Ok(())
    }
}
