//! The KV cache of one sequence: what it holds, and the keys and values of all layers.
//!
//! Tokens enter in two steps: [`Cache::reserve`] takes room for a span, and [`Cache::commit`] makes
//! it part of the sequence, or [`Cache::rollback`] gives the room back; what is reserved is invisible
//! to everything but the span itself. That is what makes an eval all or nothing.
//!
//! Every token has a position, which never changes, and keys are turned by it until the sequence
//! grows past what the model was trained on. Then all but the oldest are turned back, and what follows
//! is turned by as much less: attention knows nothing but distances, and the recent ones stay as they
//! are.

mod again;
mod evict;
mod expected;
mod known;
mod saved;
mod shared;
mod windows;

use std::ops::Range;

use crate::backend::{Backend, Batch, Observe};
use crate::base::brake::Brake;
use crate::base::error::{Result, err};
use crate::base::heap;

use super::cells::Cells;
use super::eviction::{Chooser, Rule, SLACK, SlotMarks};
use super::filled;
use super::history::History;
use super::policy::DEFAULT_SINKS;
use super::policy::mean::Mean;
use super::prefix::Chain;
use super::segments::Segments;
use super::slots::Slots;

use expected::Expectation;

pub use evict::{Device, Plan};
pub use known::HeadSlots;
pub use saved::{Part, Saved, State};
pub use shared::Displaced;

/// How much a cache is made for.
#[derive(Clone, Copy, Debug)]
pub struct Capacity {
    /// Slots of each KV head in layers that attend to everything.
    pub n_slots: usize,
    /// Cells of layers with a window.
    pub n_cells: usize,
    /// These lie in tiles, which can be shared.
    pub tiled: bool,
    /// Positions that keys can be turned by.
    pub n_turns: u32,
    /// Elements of a head.
    pub head_dim: usize,
}

/// What one sequence holds.
pub struct Cache<B: Backend> {
    /// Keys and values of each layer.
    pub layers: Vec<B::Kv>,
    /// Which of `slots` the first KV head of each layer has, if it attends to everything.
    own: Vec<Option<usize>>,
    /// KV heads of a layer.
    n_head: usize,
    slots: Slots,
    cells: Option<Cells>,
    history: History,
    capacity: Capacity,
    /// The widest window.
    window: u32,
    /// How much less than its position the next token is turned by.
    turned_back: u32,
    /// Tokens of the span under way.
    n_reserved: usize,
    /// How attention counts what that draws.
    observe: Observe,
    /// How tokens leave, if statistics are kept or there is a budget.
    rule: Option<Rule>,
    /// Tokens that attention counts one by one, at most.
    n_each: usize,
    chooser: Chooser,
    /// The position before which tokens have been counted in each layer, and the part of its slots
    /// that is worth a new look.
    learnt: Vec<u32>,
    next_part: Vec<usize>,
    /// What each slot of a head is worth, where that is not the device's to know: the last query's
    /// attention, and what its key is like.
    average: Vec<f32>,
    weights: Vec<f32>,
    /// Means of unit keys of each head.
    means: Vec<Mean>,
    expectation: Option<Expectation>,
    key: Vec<f32>,
    segments: Segments,
    /// What the segments say of one head's slots.
    marks: SlotMarks,
    /// Of each head the part of the last queries' attention that stayed when it was cut last.
    retained: Vec<f32>,
    /// The first tiles of the sequence, as far as other sessions can find them, if they may.
    chain: Option<Chain<B::Tile>>,
}

/// Which slots the first KV head of each layer has, by the windows of the layers.
pub fn own_slots(
    windows: impl Iterator<Item = u32>,
    n_head: usize,
) -> impl Iterator<Item = Option<usize>> {
    windows.scan(0, move |next, window| {
        let first = *next;
        *next += if window == 0 { n_head } else { 0 };
        Some((window == 0).then_some(first))
    })
}

impl<B: Backend> Cache<B> {
    /// An empty cache around the layers' keys and values, which have these windows and `n_head` KV
    /// heads each. Allocates all that it will ever need.
    #[inline(never)] // callers may have little stack
    pub fn new(
        layers: Vec<B::Kv>,
        windows: impl Iterator<Item = u32> + Clone,
        n_head: usize,
        capacity: Capacity,
        (rule, n_each): (Option<Rule>, usize),
    ) -> Result<Cache<B>> {
        let (own, window) = (own_slots(windows.clone(), n_head), windows.max().unwrap_or(0));
        let own = heap::collect(layers.len(), own, "layers")?;
        let n_heads = own.iter().flatten().count() * n_head;
        let needs = rule.map(|rule| rule.needs()).unwrap_or_default();
        let n_layer = layers.len();
        let slots_if =
            |wanted: bool| filled(if wanted { capacity.n_slots } else { 0 }, 0.0, "slots");
        let mut means = Vec::new();
        if needs.key_diff {
            means.try_reserve_exact(n_heads).map_err(|_| err!(OutOfMemory, "KV cache: means"))?;
            for _ in 0..n_heads {
                means.push(Mean::new(capacity.head_dim)?);
            }
        }
        let expectation = || Expectation::new(capacity.head_dim, capacity.n_slots);
        Ok(Cache {
            layers,
            own,
            n_head,
            slots: Slots::new(n_heads, capacity.n_slots)?,
            cells: (window > 0).then(|| Cells::new(capacity.n_cells)).transpose()?,
            history: History::new(capacity.n_turns as usize)?,
            capacity,
            window,
            turned_back: 0,
            n_reserved: 0,
            observe: Observe::Nothing,
            rule,
            n_each,
            chooser: Chooser::new(capacity.n_slots)?,
            learnt: filled(n_layer, 0, "layers")?,
            next_part: filled(n_layer, 0, "layers")?,
            average: slots_if(needs.last)?,
            weights: slots_if(needs.weighs_keys())?,
            means,
            expectation: needs.expected.then(expectation).transpose()?,
            key: filled(capacity.head_dim, 0.0, "elements")?,
            segments: Segments::new()?,
            marks: SlotMarks::new(capacity.n_slots)?,
            retained: filled(n_heads, 0.0, "heads")?,
            chain: None,
        })
    }

    /// Bytes that it takes beside keys and values.
    pub fn bytes(
        windows: impl Iterator<Item = u32>,
        n_head: usize,
        capacity: Capacity,
        rule: Option<Rule>,
    ) -> u64 {
        let (mut n_full, mut n_windowed) = (0, 0);
        windows.for_each(|window| *if window == 0 { &mut n_full } else { &mut n_windowed } += 1);
        Slots::bytes(n_full * n_head, capacity.n_slots)
            + if n_windowed > 0 { Cells::bytes(capacity.n_cells) } else { 0 }
            + History::bytes(capacity.n_turns as usize)
            + Chooser::bytes(capacity.n_slots)
            + SlotMarks::bytes(capacity.n_slots)
            + Segments::bytes()
            + (n_full + n_windowed) as u64 * size_of::<(u32, usize)>() as u64
            + Cache::<B>::bytes_of_rule(n_full * n_head, capacity, rule)
    }

    /// Bytes that a rule makes it take.
    fn bytes_of_rule(n_heads: usize, capacity: Capacity, rule: Option<Rule>) -> u64 {
        let needs = rule.map(|rule| rule.needs()).unwrap_or_default();
        let slots = |wanted: bool| if wanted { 4 * capacity.n_slots as u64 } else { 0 };
        let means =
            if needs.key_diff { n_heads as u64 * Mean::bytes(capacity.head_dim) } else { 0 };
        let expectation = match needs.expected {
            true => Expectation::bytes(capacity.head_dim, capacity.n_slots),
            false => 0,
        };
        let slots = slots(needs.last) + slots(needs.weighs_keys());
        4 * n_heads as u64 + slots + means + expectation
    }

    /// Tokens held: those of the KV head that holds most, in a layer that attends to everything if
    /// there is one.
    pub fn n_held(&self) -> usize {
        match &self.cells {
            Some(cells) if self.slots.n_heads() == 0 => cells.len(),
            _ => self.slots.most_held(),
        }
    }

    /// Tokens from the first one on that all layers hold as they came, keys never turned back.
    pub fn n_complete(&self) -> u32 {
        let n_first = |pos: &[u32]| pos.iter().zip(0..).take_while(|&(&pos, i)| pos == i).count();
        let of_heads = (0..self.slots.n_heads()).map(|head| n_first(self.slots.pos(head)));
        let of_cells = self.cells.as_ref().map(|cells| n_first(cells.order_pos()));
        let n = of_heads.chain(of_cells).min().unwrap_or(0) as u32;
        if self.turned_back == 0 { n } else { 0 }
    }

    /// Tokens that may leave the KV head that has most of these.
    pub fn n_unpinned(&self) -> usize {
        let next = self.next_pos();
        let n_unpinned = |pos: &[u32]| pos.len() - self.segments.n_pinned(next, pos);
        let of_heads = (0..self.slots.n_heads()).map(|head| n_unpinned(self.slots.pos(head)));
        match &self.cells {
            Some(cells) if self.slots.n_heads() == 0 => cells.len(),
            _ => of_heads.max().unwrap_or(0),
        }
    }

    /// Tokens that there is room for.
    pub fn n_free(&self) -> usize {
        let room = match &self.cells {
            Some(cells) if self.slots.n_heads() == 0 => cells.n_ctx(),
            _ => self.slots.n_slots(),
        };
        room - self.n_held()
    }

    /// Position of the next token.
    pub fn next_pos(&self) -> u32 {
        self.history.next_pos()
    }

    /// Positions from the next token on that can be turned by before keys must be turned back.
    pub fn n_turns_left(&self) -> usize {
        (self.capacity.n_turns - self.next_turn()) as usize
    }

    fn next_turn(&self) -> u32 {
        self.next_pos() - self.turned_back
    }

    /// The tokens of the sequence as far back as they are known.
    pub fn history(&self) -> &History {
        &self.history
    }

    /// The widest window of a layer; 0 = no layer has one.
    pub fn window(&self) -> u32 {
        self.window
    }

    /// The named segments of the sequence.
    pub fn segments(&self) -> &Segments {
        &self.segments
    }

    /// The same, to be changed.
    pub fn segments_mut(&mut self) -> &mut Segments {
        &mut self.segments
    }

    /// How tokens leave, if the session has a policy.
    pub fn rule(&self) -> Option<Rule> {
        self.rule
    }

    /// Changes the budget; one that leaves no room to come and go is lowered. Without a policy the
    /// most recent tokens stay. `None`: nothing leaves by itself any more.
    pub fn set_budget(&mut self, budget: Option<usize>) {
        let most = self.capacity.n_slots.saturating_sub(SLACK);
        let budget = budget.map(|budget| budget.min(most)).filter(|&budget| budget > 0);
        let streaming = Rule::streaming(DEFAULT_SINKS);
        self.rule = match (self.rule, budget) {
            (None, None) => None,
            (rule, budget) => Some(Rule { budget, ..rule.unwrap_or(streaming) }),
        };
    }

    /// The part of the last queries' attention that stayed when heads were cut last, mean over them;
    /// `None` if that is not counted, or none has been cut.
    pub fn retained(&self) -> Option<f32> {
        let cut = || self.retained.iter().filter(|&&part| part > 0.0);
        let n = cut().count();
        (n > 0).then(|| cut().sum::<f32>() / n as f32)
    }

    /// Tokens that can follow together with none of them being counted differently, or coming after
    /// another choice of what leaves, than if they came one after the other.
    pub fn n_undisturbed(&self) -> usize {
        match self.rule {
            Some(rule) if rule.needs().counts() => {
                rule.n_undisturbed(self.next_pos()).min(self.n_each)
            }
            Some(rule) => rule.n_undisturbed(self.next_pos()),
            None => usize::MAX,
        }
    }

    /// KV heads of all layers that attend to everything.
    pub fn n_heads(&self) -> usize {
        self.slots.n_heads()
    }

    /// Takes room for the next tokens.
    pub fn reserve(&mut self, backend: &B, tokens: &[i32]) -> Result<()> {
        let n = tokens.len();
        let fits = u32::try_from(n).ok().and_then(|n| self.next_pos().checked_add(n));
        if n > self.n_free() || n > self.n_turns_left() || fits.is_none_or(|end| end == u32::MAX) {
            let (held, free) = (self.n_held(), self.n_free());
            return Err(err!(
                KvFull,
                "KV cache: {n} tokens do not fit beside the {held} held in {} slots; evict some, or \
                 make a larger session",
                held + free
            ));
        }
        self.make_cells(backend, n)?;
        if let Some(cells) = &mut self.cells {
            cells.reserve(n)?;
        }
        self.history.reserve(tokens);
        self.n_reserved = n;
        self.observe = match self.rule {
            Some(rule) if rule.needs().counts() => match n <= self.n_each {
                true => Observe::Each { first_pos: self.history.next_pos() },
                false => Observe::Together { n_span: n },
            },
            _ => Observe::Nothing,
        };
        Ok(())
    }

    /// What evaluates the tokens `part` of the span; slots are taken as far as that.
    pub fn batch<'a>(
        &'a mut self,
        part: Range<usize>,
        outputs: Outputs<'a>,
        brake: &'a Brake<'a>,
    ) -> (Batch<'a>, &'a mut [B::Kv]) {
        let n_before = self.history.tokens().len() - self.n_reserved;
        let tokens = &self.history.tokens()[n_before..][part.clone()];
        let first = part.start as u32;
        let (order, order_pos) = self.cells.as_ref().map_or((&[][..], &[][..]), |cells| {
            let end = cells.order().len() - self.n_reserved + part.end;
            (&cells.order()[..end], &cells.order_pos()[..end])
        });
        let first_pos = self.history.next_pos() + first;
        let batch = Batch {
            tokens,
            first_pos,
            first_turn: first_pos - self.turned_back,
            held: self.slots.held(),
            n_before: part.start,
            order,
            order_pos,
            outputs: outputs.places,
            first_output: outputs.first,
            best: outputs.best,
            observe: self.observe,
            brake,
        };
        (batch, &mut self.layers)
    }

    /// Makes the span part of the sequence.
    pub fn commit(&mut self) {
        let (pos, turn) = (self.next_pos(), self.next_turn());
        self.slots.push(self.n_reserved, pos, turn);
        if let Some(cells) = &mut self.cells {
            cells.commit();
        }
        self.history.commit();
        self.n_reserved = 0;
    }

    /// Gives the room of the span back.
    pub fn rollback(&mut self) {
        if let Some(cells) = &mut self.cells {
            cells.rollback();
        }
        self.history.rollback();
        self.n_reserved = 0;
        self.observe = Observe::Nothing;
    }

    /// Forgets every token from position `pos` on. Fails with `OutOfMemory` if it shares tiles of which
    /// that leaves a part, and with `InvalidArgument`; nothing has changed then.
    pub fn truncate(&mut self, backend: &B, pos: u32) -> Result<()> {
        if pos > self.next_pos() {
            return Err(err!(
                InvalidArgument,
                "pos: found {pos}, expected at most {}, the next token's",
                self.next_pos()
            ));
        }
        let left = |head| self.slots.pos(head).partition_point(|&p| p < pos);
        let first = (0..self.slots.n_heads()).map(left).min().unwrap_or(0);
        let first_cell = self.cells.as_ref().map_or(usize::MAX, |cells| cells.find(pos, pos).0);
        self.own(backend, first, first_cell)?;
        self.slots.truncate(pos);
        if let Some(cells) = &mut self.cells {
            cells.truncate(pos);
        }
        self.history.truncate(pos);
        self.learnt.iter_mut().for_each(|learnt| *learnt = pos.min(*learnt));
        self.segments.truncate(pos);
        if pos == 0 {
            self.layers.iter_mut().for_each(|kv| backend.forget(kv));
            self.means.iter_mut().for_each(Mean::clear);
            // What follows leaves as it would have from a new cache.
            self.next_part.fill(0);
            self.retained.fill(0.0);
        }
        // Of what is left the oldest may be turned back less than the others were.
        let last = (0..self.slots.n_heads()).filter_map(|head| self.slots.turn(head).last());
        let next = last.max().map_or(0, |turn| turn + 1);
        self.turned_back = self.turned_back.min(pos - next);
        Ok(())
    }

    /// Makes room to turn `n` more tokens, if there is none: turns all keys but the oldest back. The
    /// distances among the recent tokens, as many as half of the positions, stay.
    pub fn make_turns(&mut self, device: &mut Device<'_, B>, n: usize) -> Result<()> {
        if n <= self.n_turns_left() {
            return Ok(());
        }
        // Room for what each head holds, for what windows see, and for what comes.
        let held = self.slots.most_held().max(self.window as usize) as u32;
        let most = self.capacity.n_turns.saturating_sub(n as u32);
        self.own(device.backend, 0, 0)?;
        let target = (self.capacity.n_turns / 2).max(held).min(most);
        let delta = self.next_turn() - target;
        let Cache { own, layers, slots, cells, chooser, .. } = self;
        let Device { backend, weights, scratch } = device;
        for (layer, own) in own.iter().enumerate() {
            let (weights, kv) = (&weights[layer], &mut layers[layer]);
            let moved = chooser.spare();
            for head in 0..self.n_head {
                match (own, &*cells) {
                    (Some(first), _) => {
                        moved.clear();
                        slots.turn_back(first + head, delta, |_, by| moved.push(by));
                        let turns = (0..).zip(moved.iter().copied()).filter(|&(_, by)| by > 0);
                        backend.shift(scratch, weights, kv, head, turns)?;
                    }
                    (None, Some(cells)) => {
                        let turns = cells.order().iter().map(|&cell| (cell, delta));
                        backend.shift(scratch, weights, kv, head, turns)?;
                    }
                    (None, None) => {}
                }
            }
        }
        self.turned_back += delta;
        Ok(())
    }
}

/// Which tokens of a batch want logits, as [`Batch`] has them.
#[derive(Clone, Copy, Debug)]
pub struct Outputs<'a> {
    /// [`Batch::outputs`]
    pub places: &'a [u32],
    /// [`Batch::first_output`]
    pub first: usize,
    /// [`Batch::best`]
    pub best: bool,
}
