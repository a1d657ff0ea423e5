//! When tokens leave a session, and which: a policy, its statistics, and a timetable.
//!
//! A cache with a budget grows past it by as many tokens as a [`Timetable`] takes to come round.
//! Layers are cut back in groups that take turns, one every [`EVERY`] tokens, so that no token has to
//! wait for the choice of all layers. What the choice needs to know is found before: one layer of the
//! group a token. A prompt is cut at its end, once: what it says is known by then.

use std::ops::Range;

use crate::backend::{AttentionSum, Observing, QueryMeans};
use crate::base::error::Result;

use super::filled;
use super::policy::{self, Head, Needs, Params, Policy, Work};
use super::segments::{Marks, Segments};

/// Tokens from one group of layers to the next.
pub const EVERY: u32 = 8;
/// Groups of layers, at least and at most.
const LEAST_GROUPS: u32 = 8;
const MOST_GROUPS: u32 = 32;
/// Tokens that a cache has to have room for beyond its budget.
pub const SLACK: usize = (EVERY * LEAST_GROUPS + EVERY) as usize;
/// Parts of a layer's slots that are looked at anew in turns: what they are worth has changed with
/// what came since.
pub const PARTS: usize = 8;

/// Of tokens that come few at a time, as in generation, the attention of one in so many counts, for all
/// of them: what it draws is read and written once for each slot, and that is a matter of memory. Not
/// where only the last query counts.
const COUNTED_EVERY: usize = 4;

/// How a session evicts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rule {
    /// What stays.
    pub policy: Policy,
    /// Parameters of the policy.
    pub params: Params,
    /// Slots of each KV head that stay after every few tokens; `None` = nothing leaves by itself.
    pub budget: Option<usize>,
}

impl Rule {
    /// Sinks and recent tokens stay.
    pub fn streaming(n_sink: usize) -> Rule {
        let policy = Policy::Streaming;
        Rule { policy, params: Params { n_sink, ..Params::new(policy, false) }, budget: None }
    }

    /// What the policy has to be told.
    pub fn needs(&self) -> Needs {
        self.policy.needs(&self.params.quotas)
    }

    /// What attention has to count for the policy, if anything. `n_rows`: tokens of a draft and one
    /// more, at most.
    pub fn observing(&self, n_rows: usize) -> Option<Observing> {
        // TOVA asks what the last query alone attends to.
        let needs = self.needs();
        let n_recent = if needs.last { 1 } else { self.params.n_obs };
        let sum = match needs.squares {
            true => AttentionSum::Squares { half_life: self.params.half_life },
            false => AttentionSum::Probabilities,
        };
        let every = COUNTED_EVERY.min(n_recent);
        needs.probabilities().then_some(Observing { n_rows: n_rows.max(2), n_recent, every, sum })
    }

    /// Which means of queries have to be kept for the policy, if any.
    pub fn queries(&self, n_rows: usize) -> Option<QueryMeans> {
        let n_sink = u32::try_from(self.params.n_sink).unwrap_or(u32::MAX);
        self.needs().expected.then_some(QueryMeans { n_rows: n_rows.max(2), n_sink })
    }

    /// Tokens that can come before the next group of layers is cut back.
    pub fn n_undisturbed(&self, pos: u32) -> usize {
        match self.budget {
            Some(_) => (EVERY - pos % EVERY) as usize,
            None => usize::MAX,
        }
    }
}

/// What is found out about a layer's slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// New ones are counted.
    Count,
    /// The leverage of new ones and of one of [`PARTS`] is computed.
    Part {
        /// The position from which on slots are new: they were not there the last time.
        since: u32,
    },
    /// New ones are counted, and the leverage of all is computed.
    All,
}

/// When layers are cut back to a budget.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timetable {
    /// Groups of layers.
    n_groups: u32,
}

impl Timetable {
    /// To cut a layer back moves most of what it holds, however little leaves: the larger the budget,
    /// the more tokens come in between, up to a quarter of it. If there is room for twice as many:
    /// long spans may have brought as many again ([`Timetable::slack`]) that are not cut back yet.
    pub fn new(budget: usize, n_slots: usize) -> Timetable {
        let room = (n_slots.saturating_sub(budget + EVERY as usize) / 2).min(budget / 4);
        let mut n_groups = LEAST_GROUPS;
        while n_groups < MOST_GROUPS && (2 * n_groups * EVERY) as usize <= room {
            n_groups *= 2;
        }
        Timetable { n_groups }
    }

    /// Tokens from one turn of a layer to its next.
    fn period(self) -> u32 {
        self.n_groups * EVERY
    }

    /// Tokens that a layer may hold beyond the budget while one token after the other comes.
    pub fn slack(self) -> usize {
        (self.period() + EVERY) as usize
    }

    /// Whether a layer is cut back to the budget after the token before position `pos`.
    pub fn is_turn(self, layer: usize, pos: u32) -> bool {
        let group = layer as u32 % self.n_groups;
        pos.is_multiple_of(EVERY) && (pos / EVERY) % self.n_groups == group
    }

    /// Whether it is after the token before position `pos` that a layer is looked at, for the turn
    /// that comes next, and how: by the tokens before which position. It is the same tokens however
    /// many come at once, and the token that waits for the cut waits for no look.
    pub fn looks_at(self, layer: usize, pos: u32) -> Option<(Look, u32)> {
        let (interval, n_come) = (pos.checked_sub(1)? / EVERY, (pos - 1) % EVERY);
        let (group, place) = (layer as u32 % self.n_groups, layer as u32 / self.n_groups);
        if (interval + 1) % self.n_groups != group {
            return None;
        }
        let (count, before) = (2 * place % (EVERY - 2), interval * EVERY);
        let look = match n_come.checked_sub(count)? {
            0 => Look::Count,
            1 => Look::Part { since: before.saturating_sub(self.period()) },
            _ => return None,
        };
        Some((look, before))
    }

    /// Whether slots of a layer that has so many will soon be compared: within as many turns as it
    /// takes to look at all of them.
    pub fn is_close(self, held: usize, budget: usize) -> bool {
        budget.saturating_sub(held) <= PARTS * self.period() as usize
    }
}

/// Room for what segments say of one head's slots.
pub struct SlotMarks {
    pinned: Vec<u64>,
    expired: Vec<u64>,
    priority: Vec<i8>,
}

impl SlotMarks {
    /// For heads of up to `n_slots`.
    pub fn new(n_slots: usize) -> Result<SlotMarks> {
        let words = || filled(n_slots.div_ceil(64), 0, "slots");
        Ok(SlotMarks {
            pinned: words()?,
            expired: words()?,
            priority: filled(n_slots, 0, "slots")?,
        })
    }

    /// Bytes that it takes.
    pub fn bytes(n_slots: usize) -> u64 {
        (2 * n_slots.div_ceil(64) * size_of::<u64>() + n_slots) as u64
    }

    /// What the segments say of slots at these positions: pinned, expired, priorities.
    fn fill(&mut self, segments: &Segments, next: u32, pos: &[u32]) -> (&[u64], &[u64], &[i8]) {
        if segments.is_empty() {
            return (&[], &[], &[]);
        }
        let n_words = pos.len().div_ceil(64);
        let (pinned, expired) = (&mut self.pinned[..n_words], &mut self.expired[..n_words]);
        let priority = &mut self.priority[..pos.len()];
        segments.fill(next, pos, Marks { pinned, expired, priority });
        (&self.pinned[..n_words], &self.expired[..n_words], &self.priority[..pos.len()])
    }

    /// How many of the slots at these positions are pinned.
    pub fn n_pinned(&mut self, segments: &Segments, next: u32, pos: &[u32]) -> usize {
        let (pinned, ..) = self.fill(segments, next, pos);
        pinned.iter().map(|word| word.count_ones() as usize).sum()
    }
}

/// Chooses what stays of one head after the other.
pub struct Chooser {
    work: Work,
    /// Slots that stay.
    kept: Vec<u32>,
}

impl Chooser {
    /// For heads of up to `n_slots`.
    pub fn new(n_slots: usize) -> Result<Chooser> {
        let kept = filled(n_slots, 0, "slots")?;
        Ok(Chooser { work: Work::new(n_slots)?, kept })
    }

    /// Bytes that it takes.
    pub fn bytes(n_slots: usize) -> u64 {
        (n_slots * size_of::<u32>()) as u64 + Work::bytes(n_slots)
    }

    /// The slots that stay, ascending, as they were chosen last.
    pub fn kept(&self) -> &[u32] {
        &self.kept
    }

    /// Chooses the slots that stay of a head, by what is known of it and what segments say.
    pub fn keep(
        &mut self,
        rule: &Rule,
        head: Head<'_>,
        (segments, marks): (&Segments, &mut SlotMarks),
        budget: usize,
    ) -> Result<()> {
        let (pinned, expired, priority) = marks.fill(segments, head.n_past, head.pos);
        let head = Head { pinned, expired, priority, ..head };
        policy::keep(rule.policy, &rule.params, &head, budget, &mut self.work, &mut self.kept)
    }

    /// All of `n` slots but a range.
    pub fn all_but(&mut self, n: usize, gone: Range<usize>) -> &[u32] {
        self.kept.clear();
        self.kept.extend((0..gone.start as u32).chain(gone.end as u32..n as u32));
        &self.kept
    }

    /// As many numbers as there are slots, for a while.
    pub fn spare(&mut self) -> &mut Vec<u32> {
        self.kept.clear();
        &mut self.kept
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_layer_is_looked_at_between_its_turns_and_never_by_the_token_that_cuts() {
        for (budget, n_slots) in [(60, 132), (819, 4096), (4000, 8192)] {
            let timetable = Timetable::new(budget, n_slots);
            let period = timetable.period();
            for layer in 0..64 {
                let turns: Vec<u32> =
                    (1..=2 * period).filter(|&pos| timetable.is_turn(layer, pos)).collect();
                assert!(matches!(turns[..], [a, b] if b == a + period), "{turns:?}");
                let looks: Vec<_> = (turns[0] + 1..=turns[1])
                    .filter_map(|pos| Some((pos, timetable.looks_at(layer, pos)?)))
                    .collect();
                let [(a, first), (b, second)] = looks[..] else { panic!("{looks:?}") };
                let before = turns[1] - EVERY;
                assert!(before < a && a < b && b < turns[1], "{looks:?}");
                let since = before.saturating_sub(period);
                assert_eq!(
                    [first, second],
                    [(Look::Count, before), (Look::Part { since }, before)]
                );
            }
        }
    }

    #[test]
    fn large_budgets_are_cut_rarely_where_there_is_room() {
        let period = |budget, n_slots| Timetable::new(budget, n_slots).period();
        assert_eq!(
            [60, 205, 512, 819, 1024, 6000].map(|n| period(n, 8192)),
            [64, 64, 128, 128, 256, 256]
        );
        for budget in 1..2000 {
            for n_slots in [budget + SLACK, budget + 300, budget + 600, 4096] {
                let timetable = Timetable::new(budget, n_slots);
                let most = budget + timetable.slack();
                assert!(most <= n_slots, "{budget} of {n_slots}");
                let more = most + timetable.period() as usize;
                assert!(timetable.period() == 64 || more <= n_slots, "{budget} of {n_slots}");
            }
        }
    }
}
