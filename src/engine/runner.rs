//! One sequence on one device: batches, eviction, commit or roll back.

use crate::backend::Backend;
use crate::base::brake::Brake;
use crate::base::error::{Result, err};
use crate::base::shared::Shared;
use crate::kv::cache::{Cache, Device, Displaced, Outputs, Plan};
use crate::kv::eviction::Rule;
use crate::kv::policy::{DEFAULT_SINKS, Params, Policy};
use crate::model::forward::{PhaseTimes, Weights, forward};

use super::control::Control;
use super::params::Logits;

/// A sequence: the cache's cells, keys and values, and the buffers of a batch.
pub(super) struct Runner<B: Backend> {
    pub(super) weights: Shared<Weights<B>>,
    pub(super) cache: Cache<B>,
    pub(super) scratch: B::Scratch,
    pub(super) n_batch: usize,
    /// Sinks and tokens kept by automatic eviction.
    pub(super) auto_evict: Option<(usize, usize)>,
    /// Rows of logits that the last eval left, and how many there can be.
    pub(super) n_logits: usize,
    /// Those are right for the best token only.
    pub(super) only_best: bool,
    pub(super) max_logits: usize,
    /// Slots of all heads that have become free by eviction.
    pub(super) n_freed: u64,
    /// Times that some have.
    pub(super) n_evictions: u64,
    /// Where the time goes, if anybody wants to know.
    pub(super) phases: Option<PhaseTimes>,
    /// Places in a batch that want logits; reserved for `n_batch`.
    pub(super) outputs: Vec<u32>,
}

impl<B: Backend> Runner<B> {
    /// Evaluates a span; gives how many of its tokens, the last ones, because another session had not
    /// done so already. On any error the sequence is as it was, but for room that automatic eviction
    /// made.
    pub(super) fn eval(
        &mut self,
        tokens: &[i32],
        logits: Logits<'_>,
        control: &Control<'_>,
    ) -> Result<usize> {
        self.check_outputs(tokens.len(), logits)?;
        self.make_room(tokens.len())?;
        self.n_logits = 0;
        let backend = &self.weights.backend;
        // Rows of logits are of tokens that are evaluated.
        let wants_last = matches!(logits, Logits::Last | Logits::Best | Logits::None);
        let shared = match wants_last {
            true => self.cache.take_prefix(backend, tokens)?,
            false => Displaced::default(),
        };
        let tokens = &tokens[shared.n_tokens()..];
        let reserved = self.cache.reserve(backend, tokens);
        match reserved.and_then(|()| self.run(tokens.len(), logits, control)) {
            Ok(n_logits) => {
                self.cache.commit();
                self.n_logits = n_logits;
                self.only_best = logits == Logits::Best;
                Ok(tokens.len())
            }
            Err(error) => {
                self.cache.rollback();
                self.cache.put_back(&self.weights.backend, shared);
                Err(error)
            }
        }
    }

    /// Lets other sessions have what the sequence begins with, if it shares that. Allocates.
    pub(super) fn give_prefix(&mut self) {
        // Nobody has asked for it: without memory for it, they compute what they need.
        self.cache.give_prefix(&self.weights.backend).unwrap_or_default();
    }

    /// Runs the span that has been reserved, batch by batch; gives the rows of logits made.
    pub(super) fn run(
        &mut self,
        n: usize,
        logits: Logits<'_>,
        control: &Control<'_>,
    ) -> Result<usize> {
        let backend = &self.weights.backend;
        // A page of the weights that could not be read is noticed here, too.
        let ask = || backend.check_read().and_then(|()| control.check());
        let (mut n_logits, brake) = (0, Brake::new(&ask));
        for first in (0..n).step_by(self.n_batch) {
            let end = n.min(first + self.n_batch);
            choose_outputs(&mut self.outputs, logits, first, end - first, n);
            let best = logits == Logits::Best;
            let outputs = Outputs { places: &self.outputs, first: n_logits, best };
            let (batch, layers) = self.cache.batch(first..end, outputs, &brake);
            let times = self.phases.as_mut();
            forward(&self.weights, layers, &mut self.scratch, &batch, times)?;
            n_logits += self.outputs.len();
        }
        // Nothing leaves that was computed from a file which was being written to.
        backend.check_unchanged()?;
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

    /// Evicts by the window policy if `n` tokens do not fit and the session may; turns keys back if
    /// positions would pass what the model was trained on.
    fn make_room(&mut self, n: usize) -> Result<()> {
        let n_free = self.cache.n_free();
        let budget = self.cache.rule().and_then(|rule| Some((rule.params.n_sink, rule.budget?)));
        if let Some((n_sink, n_keep)) = self.auto_evict.or(budget)
            && n > n_free
        {
            // What is kept must leave room for the span; a longer span keeps less.
            let n_ctx = self.cache.n_held() + n_free;
            let most = n_ctx.saturating_sub(n);
            if most < n_sink {
                return Err(err!(
                    KvFull,
                    "KV cache: {n} tokens do not fit in {n_ctx} slots beside {n_sink} sinks; \
                     evaluate them in shorter spans"
                ));
            }
            let rule = self.rule(None, Some(n_sink))?;
            self.kv_evict(&rule, n_keep.min(most), &Control::default())?;
        }
        if n > self.cache.n_free() {
            return Ok(()); // which will be refused
        }
        let Weights { backend, layers, .. } = &*self.weights;
        let mut device = Device { backend, weights: layers, scratch: &mut self.scratch };
        self.cache.make_turns(&mut device, n)
    }

    /// Takes in what the last span brought, of which `n_kept` tokens stay; evicts what is over the
    /// budget.
    pub(super) fn settle(&mut self, n_kept: usize, wish: Option<usize>) -> Result<()> {
        if let Some(budget) = wish {
            self.cache.set_budget((budget > 0).then_some(budget));
        }
        let Weights { backend, layers, .. } = &*self.weights;
        let mut device = Device { backend, weights: layers, scratch: &mut self.scratch };
        let n_freed = self.cache.settle(&mut device, n_kept)?;
        self.evicted(n_freed);
        Ok(())
    }

    /// How to evict on request: by this policy, or by the session's, or if it has none by what is most
    /// recent. Fails with `Unsupported` if the session does not keep what the policy asks for.
    pub(super) fn rule(&self, policy: Option<Policy>, n_sink: Option<usize>) -> Result<Rule> {
        let own = self.cache.rule();
        let rule = match (policy, own) {
            (None, own) => own.unwrap_or_else(|| Rule::streaming(DEFAULT_SINKS)),
            (Some(policy), Some(own)) if own.policy == policy => own,
            (Some(policy), _) => {
                let window = self.cache.window() > 0;
                let rule = Rule { policy, params: Params::new(policy, window), budget: None };
                // What that asks for is found when it evicts.
                let is_found = policy == Policy::KvZip;
                let kept = own.map(|own| own.needs()).unwrap_or_default();
                if !is_found && !kept.cover(rule.needs()) {
                    return Err(err!(
                        Unsupported,
                        "KV policy {}: the session does not count what it asks for; expected a \
                         session made with this policy",
                        policy.name()
                    ));
                }
                rule
            }
        };
        let n_sink = n_sink.unwrap_or(rule.params.n_sink);
        Ok(Rule { params: Params { n_sink, ..rule.params }, ..rule })
    }

    /// Keeps `n_keep` tokens in each head as a rule says. `control`: what can stop a policy that reads
    /// them again.
    pub(super) fn kv_evict(
        &mut self,
        rule: &Rule,
        n_keep: usize,
        control: &Control<'_>,
    ) -> Result<usize> {
        let n_freed = self.after_reading(rule, n_keep, control, |cache, device| {
            cache.cut_all(device, rule, n_keep)
        })?;
        Ok(self.evicted(n_freed))
    }

    /// What that would do.
    pub(super) fn kv_evict_plan(
        &mut self,
        rule: &Rule,
        n_keep: usize,
        control: &Control<'_>,
    ) -> Result<Plan> {
        self.after_reading(rule, n_keep, control, |cache, device| cache.plan(device, rule, n_keep))
    }

    /// Evicts the tokens at positions `from..to`.
    pub(super) fn kv_evict_range(&mut self, from: u32, to: u32) -> Result<usize> {
        let n_freed = self.cache.evict_range(&self.weights.backend, from, to)?;
        Ok(self.evicted(n_freed))
    }

    /// Counts slots that have become free; gives how many tokens that is.
    fn evicted(&mut self, n_freed: u64) -> usize {
        self.n_freed += n_freed;
        self.n_evictions += u64::from(n_freed > 0);
        n_freed.div_ceil(self.cache.n_heads().max(1) as u64) as usize
    }

    /// Tokens evicted so far: slots that became free, by the heads that there are.
    pub(super) fn n_evicted(&self) -> u64 {
        self.n_freed.div_ceil(self.cache.n_heads().max(1) as u64)
    }

    /// Forgets the tokens from position `pos` on.
    pub(super) fn truncate(&mut self, pos: u32) -> Result<()> {
        self.cache.truncate(&self.weights.backend, pos)?;
        self.n_logits = 0;
        Ok(())
    }

    /// Takes over the sequence of another runner of the same shape.
    pub(super) fn copy_from(&mut self, other: &Runner<B>) -> Result<()> {
        self.cache.copy_from(&self.weights.backend, &other.cache)?;
        (self.n_freed, self.n_evictions) = (other.n_freed, other.n_evictions);
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
