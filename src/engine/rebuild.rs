//! The KV cache once more from the tokens alone, and what a session can do with it.
//!
//! Ids of tokens are the smallest form of a sequence, 4 bytes a token where keys and values take
//! thousands, and reading them again gives every bit of what has left the cache.

use crate::base::error::{Result, err};
use crate::kv::policy::Policy;
use crate::kv::segments::Segments;

use super::control::{Control, Wish};
use super::params::Logits;
use super::plan::check_memory;
use super::session::Session;

/// What a session may be asked to do with its KV cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KvOp {
    /// Make room by its policy: [`Session::kv_evict`].
    Evict,
    /// Go back to any position as if nothing had come after it: [`Session::truncate`], which says what
    /// is rounded then.
    Truncate,
    /// Go on when its slots are full.
    Grow,
    /// [`Session::fork`].
    Fork,
    /// [`Session::save`].
    Save,
    /// [`Session::kv_rebuild`].
    Rebuild,
}

impl Session {
    /// Whether the session can do something as it is now: the error that it would meet, if not.
    pub fn kv_can(&self, op: KvOp) -> Result<()> {
        let cache = &self.runner.cache;
        match op {
            KvOp::Evict => match cache.rule() {
                Some(rule) if rule.policy == Policy::None => {
                    Err(err!(KvFull, "KV policy none: nothing may leave"))
                }
                _ if cache.n_unpinned() == 0 => {
                    Err(err!(KvFull, "KV cache: no token is held that is not pinned"))
                }
                _ => Ok(()),
            },
            KvOp::Truncate => match cache.n_complete() {
                n if n == cache.next_pos() => Ok(()),
                n => Err(err!(
                    Unsupported,
                    "KV cache: the first {n} of {} tokens are held as they came; what has left or was \
                     turned back since does not come again with less",
                    cache.next_pos()
                )),
            },
            // What comes first can leave.
            KvOp::Grow if self.evicts_by_itself() && cache.n_held() == 0 => Ok(()),
            KvOp::Grow if self.evicts_by_itself() || !self.may_evict() => self.kv_can(KvOp::Evict),
            KvOp::Grow => Err(err!(
                KvFull,
                "KV cache: {} slots, and the session evicts nothing by itself; it would with a budget \
                 or if it was made so (when_full)",
                self.params.n_ctx
            )),
            KvOp::Fork => {
                let (kv_bytes, scratch_bytes) = self.bytes(self.runner.cache.n_shareable());
                check_memory("fork", kv_bytes.saturating_add(scratch_bytes))
            }
            KvOp::Save => self.model().check_unchanged(),
            KvOp::Rebuild => self.check_rebuild(self.evicts_by_itself()),
        }
    }

    fn may_evict(&self) -> bool {
        self.runner.cache.rule().is_none_or(|rule| rule.policy != Policy::None)
    }

    fn evicts_by_itself(&self) -> bool {
        let has_budget = self.runner.cache.rule().is_some_and(|rule| rule.budget.is_some());
        self.may_evict() && (has_budget || self.runner.auto_evict.is_some())
    }

    /// `evicts`: whether there will be room for any number of tokens.
    fn check_rebuild(&self, evicts: bool) -> Result<()> {
        let history = self.runner.cache.history();
        if history.first_pos() > 0 {
            return Err(err!(
                Unsupported,
                "KV rebuild: tokens before position {} are not known any more, only {} after them",
                history.first_pos(),
                history.tokens().len()
            ));
        }
        let n = history.tokens().len().max(self.unread.len());
        if n == 0 {
            return Err(err!(NotReady, "KV rebuild: there are no tokens yet; eval first"));
        }
        if n > self.params.n_ctx && !evicts {
            return Err(err!(
                KvFull,
                "KV rebuild: {n} tokens do not fit in {} slots, and the session evicts nothing by \
                 itself",
                self.params.n_ctx
            ));
        }
        Ok(())
    }

    /// Empties the KV cache and evaluates all tokens of the sequence again, those that have been
    /// evicted included, with a budget of slots from now on (0 = as it is): the session is then as
    /// a new one with the same segments that evaluated them, bit for bit, and has the logits of the
    /// last. In one span if they fit; else, where the session evicts by itself, in spans of a
    /// batch, or of half of the slots if these are fewer. Allocates 4 bytes a token.
    ///
    /// Fails, before anything has changed, with `OutOfMemory`, `Unsupported` if the first tokens are
    /// not known any more (twice as many are as there are positions to turn keys by), `NotReady` if
    /// there are none, `KvFull` if they do not fit and none may leave. After any other error, as
    /// `Aborted`, `Deadline`, or `KvFull` because too many are pinned, the session holds no tokens but
    /// still knows them until the next eval, for another [`Session::kv_rebuild`].
    pub fn kv_rebuild(&mut self, kv_budget: u32, control: &Control<'_>) -> Result<()> {
        let wish = control.budget.and_then(Wish::take);
        if let Some(n_slots) = wish {
            self.set_kv_budget(n_slots as u32);
        }
        self.check_rebuild(self.evicts_by_itself() || kv_budget > 0 && self.may_evict())?;
        let mut segments = Segments::new()?;
        if self.unread.is_empty() {
            let tokens = self.runner.cache.history().tokens();
            let no_memory =
                |_| err!(OutOfMemory, "KV rebuild: no memory for {} tokens", tokens.len());
            self.unread.try_reserve_exact(tokens.len()).map_err(no_memory)?;
            self.unread.extend_from_slice(tokens);
        }
        segments.copy_from(self.runner.cache.segments());
        if let Err(error) = self.runner.truncate(0) {
            self.unread.clear(); // the session holds its tokens still
            return Err(error);
        }
        if kv_budget > 0 {
            self.set_kv_budget(kv_budget);
        }
        let (tokens, next) = (std::mem::take(&mut self.unread), self.generation.next);
        self.runner.cache.segments_mut().copy_from(&segments);
        let n_free = self.runner.cache.n_free();
        let n_each = match tokens.len() > n_free {
            true => self.params.n_batch.min(n_free / 2).max(1),
            false => tokens.len(),
        };
        let mut spans = tokens.chunks(n_each);
        let result = spans.try_for_each(|span| self.eval(span, Logits::Last, control));
        match result {
            Ok(()) => self.generation.next = next, // it was chosen for what comes now
            Err(_) => {
                self.runner.truncate(0)?;
                self.runner.cache.segments_mut().copy_from(&segments);
                self.unread = tokens;
            }
        }
        result
    }
}
