//! What is known of the slots of a head.

use crate::backend::Backend;
use crate::kv::eviction::Rule;

use super::Cache;

/// What one KV head of a layer that attends to everything holds, and what is known of its slots: a
/// number for each, by ascending position; empty where the session's policy does not ask for it.
#[derive(Clone, Copy, Debug)]
pub struct HeadSlots<'s> {
    /// Positions of the tokens.
    pub pos: &'s [u32],
    /// The sum of the attention probabilities of all queries that saw the slot. Of each query the mean
    /// over the query heads that share the KV head.
    pub mass: &'s [f32],
    /// The same of their squares, of which older ones fade.
    pub squares: &'s [f32],
    /// The mean probability over the last queries, of which older ones fade.
    pub recent: &'s [f32],
    /// How much key and value differ from all that were seen ([`crate::kv::policy::leverage`]).
    pub leverage: &'s [f32],
}

impl<'s> HeadSlots<'s> {
    /// `attention`: what the device has counted, as the rule asks.
    pub(super) fn new(
        pos: &'s [u32],
        rule: Option<&Rule>,
        attention: Option<(&'s [f32], &'s [f32])>,
        leverage: &'s [f32],
    ) -> HeadSlots<'s> {
        let (sum, recent) = attention.unwrap_or((&[], &[]));
        let [sum, recent, leverage] = [sum, recent, leverage].map(|x| &x[..x.len().min(pos.len())]);
        let (mass, squares): (&[f32], &[f32]) = match rule.is_some_and(|rule| rule.needs().squares)
        {
            true => (&[], sum),
            false => (sum, &[]),
        };
        HeadSlots { pos, mass, squares, recent, leverage }
    }
}

impl<B: Backend> Cache<B> {
    /// What a head holds, if it has slots of its own.
    pub fn head_slots(&self, backend: &B, layer: usize, head: usize) -> Option<HeadSlots<'_>> {
        let first = self.own.get(layer).copied().flatten().filter(|_| head < self.n_head)?;
        let (kv, pos) = (&self.layers[layer], self.slots.pos(first + head));
        let attention = backend.attention(kv, head);
        Some(HeadSlots::new(pos, self.rule.as_ref(), attention, backend.leverage(kv, head)))
    }
}
