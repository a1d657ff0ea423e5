//! What leaves a cache, and when: by a policy, head by head, or by positions.

use std::ops::Range;

use crate::backend::{Backend, NewSlots, Observe, Row, SlotsOfHead};
use crate::base::error::{Result, err};
use crate::kv::eviction::{EVERY, Look, PARTS, Rule, Timetable};
use crate::kv::filled;
use crate::kv::policy::{DEFAULT_SINKS, Head, Policy};

use super::{Cache, HeadSlots};

/// A device at work: its weights and buffers.
pub struct Device<'d, B: Backend> {
    /// The device.
    pub backend: &'d B,
    /// Its layers.
    pub weights: &'d [B::Layer],
    /// What it works in.
    pub scratch: &'d mut B::Scratch,
}

/// What an eviction would do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Slots of all heads that would become free.
    pub n_slots: u64,
    /// Positions of the tokens that would leave every head that has them, ascending.
    pub positions: Vec<u32>,
}

impl<B: Backend> Cache<B> {
    /// Takes in what the last span brought, of which the first `n_kept` tokens stay, and cuts layers
    /// back to the budget, if there is one: those whose turn it is, or after many tokens all. Gives
    /// how many slots have become free.
    pub fn settle(&mut self, device: &mut Device<'_, B>, n_kept: usize) -> Result<u64> {
        let observe = std::mem::replace(&mut self.observe, Observe::Nothing);
        let Some(rule) = self.rule else { return self.expire(device.backend) };
        if observe != Observe::Nothing {
            for (layer, own) in self.own.iter().enumerate() {
                let Some(first) = *own else { continue };
                let before = self.chooser.spare();
                let held = &self.slots.held()[first..first + self.n_head];
                before.extend(held.iter().map(|held| held - n_kept as u32));
                device.backend.count_attention(&mut self.layers[layer], before, observe, n_kept);
            }
        }
        let mut n_freed = self.expire(device.backend)?;
        let Some(budget) = rule.budget else { return Ok(n_freed) };
        // Where more is pinned than the budget, nothing can leave, nor where there is no memory to copy
        // what is shared; the next span that does not fit will say so.
        if self.check_pinned(budget).is_err() {
            return Ok(n_freed);
        }
        let next = self.next_pos();
        let timetable = Timetable::new(budget, self.capacity.n_slots);
        if n_kept > EVERY as usize {
            let is_over = self.slots.most_held() > budget + timetable.slack();
            if is_over && self.own_unpinned(device.backend).is_ok() {
                n_freed += self.cut_all(device, &rule, budget)?;
            }
            // A token after a prompt shall not have to wait until all of it has been counted.
            let is_close = timetable.is_close(self.slots.most_held(), budget);
            let look = if is_close { Look::All } else { Look::Count };
            for layer in 0..self.own.len() {
                if (next - self.learnt[layer]) as usize > timetable.slack() {
                    self.learn(device, &rule, layer, (look, next))?;
                }
            }
            return Ok(n_freed);
        }
        for pos in next - n_kept as u32 + 1..=next {
            for layer in 0..self.own.len() {
                if let Some((look, before)) = timetable.looks_at(layer, pos) {
                    let is_close = timetable.is_close(self.n_held_before(layer, before), budget);
                    if look == Look::Count || is_close {
                        self.learn(device, &rule, layer, (look, before))?;
                    }
                }
                if timetable.is_turn(layer, pos)
                    && self.is_over(&rule, layer, budget)
                    && self.own_unpinned(device.backend).is_ok()
                {
                    // The looks may have fallen into a longer span, or the budget been lowered. If
                    // not, what is done here is that newer slots have no leverage, whatever they had
                    // before tokens were taken back.
                    let (before, learnt) = (pos - EVERY, self.learnt[layer]);
                    let is_lowered = self.n_held_before(layer, pos) > budget + timetable.slack();
                    let is_missing = learnt < before || is_lowered;
                    let look = if is_missing { Look::All } else { Look::Count };
                    self.learn(device, &rule, layer, (look, before.max(learnt)))?;
                    n_freed += self.cut(device, &rule, layer, budget)?;
                }
            }
        }
        Ok(n_freed)
    }

    /// How many tokens before a position a layer holds: its fullest head.
    fn n_held_before(&self, layer: usize, before: u32) -> usize {
        let Some(first) = self.own[layer] else { return 0 };
        let held = |head| self.slots.pos(head).partition_point(|&pos| pos < before);
        (first..first + self.n_head).map(held).max().unwrap_or(0)
    }

    /// Whether a head holds more than `budget` slots.
    pub fn holds_more(&self, budget: usize) -> bool {
        self.slots.most_held() > budget
    }

    /// Cuts every head back to `budget` slots, as a rule says. Layers with a window keep what they
    /// see, but where there are no others. Gives how many slots have become free.
    pub fn cut_all(
        &mut self,
        device: &mut Device<'_, B>,
        rule: &Rule,
        budget: usize,
    ) -> Result<u64> {
        if let (Some(cells), 0) = (&self.cells, self.slots.n_heads()) {
            return self.evict_cells(device.backend, 0..cells.len().saturating_sub(budget));
        }
        if rule.policy == Policy::None && self.slots.most_held() > budget {
            let held = self.slots.most_held();
            return Err(err!(
                KvFull,
                "KV policy none: {held} slots are in use, expected at most the budget of {budget}, \
                 because nothing may leave"
            ));
        }
        self.check_pinned(budget)?;
        if self.slots.most_held() > budget {
            self.own_unpinned(device.backend)?;
        }
        let mut n_freed = 0;
        let next = self.next_pos();
        for layer in 0..self.own.len() {
            if self.is_over(rule, layer, budget) {
                self.learn(device, rule, layer, (Look::All, next))?;
                n_freed += self.cut(device, rule, layer, budget)?;
            }
        }
        Ok(n_freed)
    }

    /// Fails with `KvFull` if more than `budget` tokens of a head are pinned.
    fn check_pinned(&mut self, budget: usize) -> Result<()> {
        let next = self.next_pos();
        for head in 0..if self.segments.is_empty() { 0 } else { self.slots.n_heads() } {
            let n = self.marks.n_pinned(&self.segments, next, self.slots.pos(head));
            if n > budget {
                return Err(err!(
                    KvFull,
                    "KV segments: {n} tokens are pinned, expected at most the {budget} that are to \
                     stay"
                ));
            }
        }
        Ok(())
    }

    /// Evicts what belongs to segments that have expired.
    fn expire(&mut self, backend: &B) -> Result<u64> {
        let mut n_freed = 0;
        while let Some(gone) = self.segments.take_expired(self.next_pos()) {
            let from = gone.start.max(self.n_sink());
            if from < gone.end {
                n_freed += self.evict_range(backend, from, gone.end)?;
            }
        }
        Ok(n_freed)
    }

    /// Tokens that do not expire: they draw attention whatever they mean.
    fn n_sink(&self) -> u32 {
        self.rule.map_or(DEFAULT_SINKS, |rule| rule.params.n_sink) as u32
    }

    /// What [`Cache::cut_all`] would do. Statistics are brought up to date; nothing leaves.
    pub fn plan(&mut self, device: &mut Device<'_, B>, rule: &Rule, budget: usize) -> Result<Plan> {
        let mut plan = Plan::default();
        // One bit for each position.
        let n_words = self.next_pos().div_ceil(64) as usize;
        let mut seen = filled(n_words, 0u64, "words of positions")?;
        let mut stays = filled(n_words, 0u64, "words of positions")?;
        let mark = |bits: &mut [u64], pos: u32| bits[pos as usize / 64] |= 1 << (pos % 64);
        for layer in 0..self.own.len() {
            let Some(first) = self.own[layer] else { continue };
            for head in first..first + self.n_head {
                self.slots.pos(head).iter().for_each(|&pos| mark(&mut seen, pos));
            }
            let is_over = self.is_over(rule, layer, budget);
            if is_over {
                self.learn(device, rule, layer, (Look::All, self.next_pos()))?;
                self.prepare(device, rule, layer);
            }
            for head in 0..self.n_head {
                let held = self.slots.held()[first + head] as usize;
                let chosen = is_over && held > budget;
                if chosen {
                    self.choose(device.backend, rule, (layer, head), budget)?;
                }
                let pos = self.slots.pos(first + head);
                if !chosen {
                    pos.iter().for_each(|&pos| mark(&mut stays, pos));
                    continue;
                }
                let kept = self.chooser.kept();
                kept.iter().for_each(|&slot| mark(&mut stays, pos[slot as usize]));
                plan.n_slots += (held - kept.len()) as u64;
            }
        }
        seen.iter_mut().zip(stays).for_each(|(seen, stays)| *seen &= !stays);
        let n_gone = seen.iter().map(|word| word.count_ones() as usize).sum();
        plan.positions = filled(n_gone, 0, "positions")?;
        let is_gone = |pos: &u32| seen[*pos as usize / 64] >> (pos % 64) & 1 == 1;
        let gone = (0..self.next_pos()).filter(is_gone);
        plan.positions.iter_mut().zip(gone).for_each(|(place, pos)| *place = pos);
        Ok(plan)
    }

    /// Cuts the heads of one layer back.
    fn cut(
        &mut self,
        device: &mut Device<'_, B>,
        rule: &Rule,
        layer: usize,
        budget: usize,
    ) -> Result<u64> {
        let Some(first) = self.own[layer] else { return Ok(0) };
        let mut n_freed = 0;
        self.prepare(device, rule, layer);
        for head in 0..self.n_head {
            let held = self.slots.held()[first + head] as usize;
            if held > budget {
                if let Some(part) = self.choose(device.backend, rule, (layer, head), budget)? {
                    self.retained[first + head] = part;
                }
                let kept = self.chooser.kept();
                n_freed += (held - kept.len()) as u64;
                device.backend.compact(&mut self.layers[layer], head, held, kept)?;
                self.slots.compact(first + head, kept);
            }
        }
        Ok(n_freed)
    }

    /// Whether a head of a layer holds more than a budget that the layer has to keep to.
    fn is_over(&self, rule: &Rule, layer: usize, budget: usize) -> bool {
        let held = self.own[layer].map(|first| &self.slots.held()[first..first + self.n_head]);
        let is_over = held.is_some_and(|held| held.iter().any(|&held| held as usize > budget));
        is_over && layer >= rule.policy.n_layer_spared()
    }

    /// Makes what all heads of a layer are chosen by.
    fn prepare(&mut self, device: &Device<'_, B>, rule: &Rule, layer: usize) {
        if rule.needs().last {
            self.average_last(device.backend, layer);
        }
        let next = self.next_turn();
        if let Some(expectation) = self.expectation.as_mut().filter(|_| rule.needs().expected) {
            let by = device.backend.rotation(device.scratch, &device.weights[layer]);
            expectation.look_ahead(by, next, rule.params.n_future);
        }
    }

    /// Chooses what stays of a head that holds more than `budget`: [`Chooser::kept`]. Gives the part of
    /// the last queries' attention that stays, if that is counted.
    fn choose(
        &mut self,
        backend: &B,
        rule: &Rule,
        (layer, of_layer): (usize, usize),
        budget: usize,
    ) -> Result<Option<f32>> {
        let Some(first) = self.own[layer] else { return Ok(None) };
        self.weigh_keys(backend, rule, layer, of_layer);
        let n_past = self.next_pos();
        let own = self.rule;
        let Cache { layers, slots, chooser, average, weights, segments, marks, .. } = &mut *self;
        let known = (&*segments, marks);
        let (kv, pos) = (&layers[layer], slots.pos(first + of_layer));
        let attention = backend.attention(kv, of_layer);
        let leverage = backend.leverage(kv, of_layer);
        let slots = HeadSlots::new(pos, own.as_ref(), attention, leverage);
        let [average, weights] = [average, weights].map(|x| &x[..x.len().min(pos.len())]);
        let HeadSlots { mass, squares, recent: observed, leverage, .. } = slots;
        let head = Head {
            layer: layer as u32,
            head: of_layer as u32,
            n_past,
            pos,
            mass,
            squares,
            observed,
            last: average,
            leverage,
            key_diff: weights,
            expected: weights,
            norm: weights,
            zip: weights,
            ..Head::default()
        };
        chooser.keep(rule, head, known, budget)?;
        let stayed = || chooser.kept().iter().map(|&slot| observed[slot as usize]).sum::<f32>();
        Ok((!observed.is_empty()).then(|| stayed() / observed.iter().sum::<f32>()))
    }

    /// Looks at the slots of a layer that are of tokens before a position, if the policy asks.
    fn learn(
        &mut self,
        device: &mut Device<'_, B>,
        rule: &Rule,
        layer: usize,
        (look, before): (Look, u32),
    ) -> Result<()> {
        let Some(first) = self.own[layer].filter(|_| rule.needs().leverage) else { return Ok(()) };
        let (slots, learnt) = (&self.slots, self.learnt[layer]);
        let n_before = |head: usize, at: u32| slots.pos(first + head).partition_point(|&p| p < at);
        let (since, count) = match look {
            Look::Part { since } => (since, false),
            Look::Count | Look::All => (learnt.min(before), true),
        };
        let n_new = |head: usize| n_before(head, before) - n_before(head, since);
        let n_new = (0..self.n_head).map(n_new).min().unwrap_or(0);
        let part = self.next_part[layer];
        let of_head = |head: usize| {
            let turns = &slots.turn(first + head)[..n_before(head, before)];
            let len = turns.len().div_ceil(PARTS);
            let stale = match look {
                Look::All => 0..turns.len(),
                Look::Part { .. } => {
                    (part * len).min(turns.len())..((part + 1) * len).min(turns.len())
                }
                Look::Count => 0..0,
            };
            SlotsOfHead { turns, stale }
        };
        let (weights, kv) = (&device.weights[layer], &mut self.layers[layer]);
        let eps = (look != Look::Count).then_some(rule.params.eps);
        let new = NewSlots { n: n_new, count, eps };
        device.backend.learn(device.scratch, weights, kv, new, of_head)?;
        if count {
            self.learnt[layer] = learnt.max(before);
        } else {
            self.next_part[layer] = (part + 1) % PARTS;
        }
        Ok(())
    }

    /// What the last query attended to, mean over the heads of a layer: these hold the same tokens.
    fn average_last(&mut self, backend: &B, layer: usize) {
        let average = &mut self.average;
        average.fill(0.0);
        for head in 0..self.n_head {
            let Some((_, last)) = backend.attention(&self.layers[layer], head) else { return };
            for (average, p) in average.iter_mut().zip(last) {
                *average += p / self.n_head as f32;
            }
        }
    }

    /// What a head's keys are worth by themselves, or to tokens that came again or are yet to come, if the
    /// policy asks.
    fn weigh_keys(&mut self, backend: &B, rule: &Rule, layer: usize, of_layer: usize) {
        let Some(first) = self.own[layer] else { return };
        let (needs, head) = (rule.needs(), first + of_layer);
        if needs.zip {
            let n = self.slots.pos(head).len().min(self.weights.len());
            backend.largest(&self.layers[layer], of_layer, &mut self.weights[..n]);
        }
        if let Some(expectation) = self.expectation.as_mut().filter(|_| needs.expected) {
            let (kv, pos) = (&self.layers[layer], self.slots.pos(head));
            let score = &mut self.weights[..pos.len()];
            expectation.weigh((backend, kv, of_layer), &rule.params, pos, score);
        }
        if !needs.key_diff && !needs.norm {
            return;
        }
        let Cache { layers, slots, weights, means, key, learnt, .. } = &mut *self;
        let kv = &layers[layer];
        let pos = slots.pos(head);
        if let Some(mean) = means.get_mut(head) {
            for slot in pos.partition_point(|&pos| pos < learnt[layer])..pos.len() {
                backend.row(kv, Row::Key, of_layer, slot as u32, key);
                mean.add_unit(key);
            }
        }
        for (slot, weight) in weights.iter_mut().enumerate().take(pos.len()) {
            backend.row(kv, Row::Key, of_layer, slot as u32, key);
            *weight = match means.get(head).filter(|_| needs.key_diff) {
                Some(mean) => mean.key_diff(key),
                None => key.iter().map(|x| x * x).sum::<f32>().sqrt(),
            };
        }
        if of_layer + 1 == self.n_head {
            self.learnt[layer] = self.history.next_pos();
        }
    }

    /// Evicts the tokens at positions `from..to` from all layers. Gives how many slots have become
    /// free.
    pub fn evict_range(&mut self, backend: &B, from: u32, to: u32) -> Result<u64> {
        let find = |pos: &[u32], at: u32| pos.partition_point(|&p| p < at);
        let cells = self.cells.as_ref().map_or((0, 0), |cells| cells.find(from, to));
        // Both or none.
        self.own(backend, usize::MAX, if cells.0 < cells.1 { cells.0 } else { usize::MAX })?;
        let of_heads = self.evict_from_heads(backend, |pos| find(pos, from)..find(pos, to))?;
        let of_cells = self.evict_cells(backend, cells.0..cells.1)?;
        Ok(if self.slots.n_heads() == 0 { of_cells } else { of_heads })
    }

    /// Evicts from each head a range of its tokens by ascending position.
    fn evict_from_heads(
        &mut self,
        backend: &B,
        gone: impl Fn(&[u32]) -> Range<usize>,
    ) -> Result<u64> {
        let of_heads = (0..self.slots.n_heads()).map(|head| gone(self.slots.pos(head)));
        let first = of_heads.filter(|gone| !gone.is_empty()).map(|gone| gone.start).min();
        let Some(first) = first else { return Ok(0) };
        self.own(backend, first, usize::MAX)?;
        let mut n_freed = 0;
        for (layer, own) in self.own.iter().enumerate() {
            let Some(first) = *own else { continue };
            for head in 0..self.n_head {
                let pos = self.slots.pos(first + head);
                let gone = gone(pos);
                if gone.is_empty() {
                    continue;
                }
                n_freed += gone.len() as u64;
                let held = pos.len();
                let kept = self.chooser.all_but(held, gone);
                backend.compact(&mut self.layers[layer], head, held, kept)?;
                self.slots.compact(first + head, kept);
            }
        }
        Ok(n_freed)
    }
}
