//! Which cells of one KV head stay.

use super::{Params, Policy, score};
use crate::base::error::{Result, err};
use crate::base::order::{highest_first, ordered};
use crate::kv::filled;

/// What a policy sees of one KV head of one layer: its `n` cells by ascending position.
///
/// A field that the policy does not need ([`Policy::needs`]) may be empty; all others have `n`
/// elements. Probabilities are means over the query heads that share the KV head.
#[derive(Clone, Copy, Debug, Default)]
pub struct Head<'a> {
    /// Number of the layer.
    pub layer: u32,
    /// Number of the KV head in its layer.
    pub head: u32,
    /// Tokens that the session has seen, evicted ones included: the next position.
    pub n_past: u32,
    /// Positions of the tokens, ascending, below `n_past`.
    pub pos: &'a [u32],
    /// Sum, over all queries so far, of the attention probability.
    pub mass: &'a [f32],
    /// Sum, over all queries so far, of the square of the attention probability, each query counting
    /// half as much as one [`Params::half_life`] queries later.
    pub squares: &'a [f32],
    /// Mean attention probability over the last [`Params::n_obs`] queries.
    pub observed: &'a [f32],
    /// Attention probability of the last query, mean over all heads of the layer.
    pub last: &'a [f32],
    /// Leverage of the raw (not rotated) key plus leverage of the value
    /// ([`Factor::leverage`](super::leverage::Factor::leverage)).
    pub leverage: &'a [f32],
    /// How far the key points away from the mean key
    /// ([`Mean::key_diff`](super::mean::Mean::key_diff)).
    pub key_diff: &'a [f32],
    /// Expected attention ([`expected::weigh`](super::expected::weigh)).
    pub expected: &'a [f32],
    /// Euclidean norm of the key. Low ones stay.
    pub norm: &'a [f32],
    /// Largest probability over the queries of a second pass ([`score::raise`]).
    pub zip: &'a [f32],
    /// One bit for each cell, the lowest of each word first: whether it stays whatever its score.
    /// Empty: none does.
    pub pinned: &'a [u64],
    /// One bit for each cell, as in `pinned`: whether it leaves whatever its score. Empty: none.
    pub expired: &'a [u64],
    /// Cells of a lower priority leave before those of a higher one. Empty: all have 0.
    pub priority: &'a [i8],
}

impl Head<'_> {
    /// Queries that have seen cell `i`, the token's own included.
    pub fn n_seen(&self, i: usize) -> u32 {
        self.n_past.saturating_sub(self.pos[i]).max(1)
    }

    /// What is decided of cell `i` before any score is looked at. The first `n_sink` do not
    /// expire.
    fn fate(&self, i: usize, n_sink: usize) -> Fate {
        let is_set = |bits: &[u64]| bits.get(i / 64).is_some_and(|word| word >> (i % 64) & 1 == 1);
        match (is_set(self.expired), is_set(self.pinned)) {
            (true, _) if i >= n_sink => Fate::Leaves,
            (false, true) => Fate::Stays,
            _ => Fate::Open,
        }
    }

    fn priority(&self, i: usize) -> i8 {
        self.priority.get(i).copied().unwrap_or(0)
    }

    fn check(&self, policy: Policy, params: &Params) {
        let n = self.pos.len();
        let needs = policy.needs(&params.quotas);
        for (name, is_needed, field) in [
            ("mass", needs.mass, self.mass),
            ("squares", needs.squares, self.squares),
            ("observed", needs.observed, self.observed),
            ("last", needs.last, self.last),
            ("leverage", needs.leverage, self.leverage),
            ("key_diff", needs.key_diff, self.key_diff),
            ("expected", needs.expected, self.expected),
            ("norm", needs.norm, self.norm),
            ("zip", needs.zip, self.zip),
        ] {
            let len = field.len();
            assert!(len == n || len == 0 && !is_needed, "{name} has {len} of {n} cells");
        }
        for (name, bits) in [("pinned", self.pinned), ("expired", self.expired)] {
            assert!(bits.is_empty() || bits.len() == n.div_ceil(64), "{name} bits");
        }
        assert!(self.priority.is_empty() || self.priority.len() == n, "priorities");
        debug_assert!(self.pos.windows(2).all(|w| w[0] < w[1]), "positions ascend");
    }
}

/// What becomes of a cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Fate {
    Open,
    Stays,
    Leaves,
}

/// Memory for [`keep()`], made once for each thread that calls it.
pub struct Work {
    /// Rank and index of each candidate.
    keys: Vec<u64>,
    /// Scores, and a part of them.
    score: Vec<f32>,
    part: Vec<f32>,
    fates: Vec<Fate>,
}

impl Work {
    /// Enough for heads of up to `n_cells` cells.
    pub fn new(n_cells: usize) -> Result<Work> {
        let what = "cells to rank";
        Ok(Work {
            keys: filled(n_cells, 0, what)?,
            score: filled(n_cells, 0.0, what)?,
            part: filled(n_cells, 0.0, what)?,
            fates: filled(n_cells, Fate::Open, what)?,
        })
    }

    /// Bytes that it takes for `n_cells` cells.
    pub fn bytes(n_cells: usize) -> u64 {
        n_cells as u64 * (size_of::<u64>() + 2 * size_of::<f32>() + size_of::<Fate>()) as u64
    }
}

/// Chooses the cells of a head that stay, and writes their indices, ascending, to `out`: as many
/// as the budget allows of those that have not expired.
///
/// What has expired is wrong by now: it leaves even if there is room for it, and if it is pinned,
/// or new. Only sinks do not expire, which are attended to whatever they mean. Of the rest, pinned
/// cells stay first, then sinks by position, then cells of a higher priority before those of a
/// lower one: the policy decides only among the cells of that priority for which there is room,
/// but not for all of them.
///
/// The quotas share what is left of the budget then, so that a long prompt that is pinned takes
/// from all quotas alike: first the newest cells, then, in the hybrid's idle heads, what follows that
/// which was attended to last ([`score::follow`]), then the best scores; among equal scores the
/// lowest position, and NaN after every number. A cell among the newest that stays anyway leaves
/// its place to the last quota; one that leaves, to the next newest. Takes time proportional to
/// `n`.
///
/// `params` are such as [`Params::check`] accepts, `work` was made for `n` cells or more, and
/// `out` has the capacity for what stays.
///
/// Errors: `KvFull` if more cells than the budget are pinned, or must leave unexpired with
/// [`Policy::None`]; `out` is empty then.
pub fn keep(
    policy: Policy,
    params: &Params,
    head: &Head<'_>,
    budget: usize,
    work: &mut Work,
    out: &mut Vec<u32>,
) -> Result<()> {
    let n = head.pos.len();
    head.check(policy, params);
    assert!(n <= work.fates.len(), "work for {} cells, not {n}", work.fates.len());
    assert!(budget.min(n) <= out.capacity(), "room for {} cells", out.capacity());
    out.clear();
    let Work { keys, score, part, fates } = work;
    let (score, part, fates) = (&mut score[..n], &mut part[..n], &mut fates[..n]);
    let n_sink = if policy == Policy::Ring { 0 } else { params.n_sink };
    let n_sink = head.pos.partition_point(|&pos| (pos as usize) < n_sink);
    for (i, fate) in fates.iter_mut().enumerate() {
        *fate = head.fate(i, n_sink);
    }
    let count = |which| fates.iter().filter(|&&fate| fate == which).count();
    let (n_pinned, n_left) = (count(Fate::Stays), n - count(Fate::Leaves));
    if n_left <= budget {
        out.extend((0..n as u32).filter(|&i| fates[i as usize] != Fate::Leaves));
        return Ok(());
    }
    if n_pinned > budget {
        return Err(err!(
            KvFull,
            "KV policy {}: {n_pinned} cells of head {} of layer {} are pinned, expected at most \
             the budget of {budget}",
            policy.name(),
            head.head,
            head.layer
        ));
    }
    if policy == Policy::None {
        return Err(err!(
            KvFull,
            "KV policy none: {n_left} cells in head {} of layer {}, expected at most the budget \
             of {budget}, because nothing may leave",
            head.head,
            head.layer
        ));
    }
    let mut choice = Choice { keys, fates, room: budget - n_pinned };
    choice.mark(0..n_sink);
    choice.highest(head);
    let shared = choice.room;
    let idleness = score::idleness(params, head, params.n_near(shared));
    let (params, n_follow) = &params.of_head(policy, idleness, shared);
    choice.newest(params.n_recent(policy, shared));
    if *n_follow > 0 {
        score::follow(params, head, score);
        choice.best(score, (*n_follow).min(choice.room));
    }

    let n_attn = params.n_attn(policy, shared, choice.room);
    if n_attn > 0 {
        match policy {
            Policy::None | Policy::Streaming | Policy::Ring => {}
            Policy::Hybrid | Policy::Attn => score::attention(params, head, score, part),
            Policy::H2o => score::mean_mass(head, score),
            Policy::Tova => score.copy_from_slice(head.last),
            Policy::SnapKv => score::pool(head.observed, params.n_pool, score),
            Policy::KeyDiff => score.copy_from_slice(head.key_diff),
            Policy::Expected => score.copy_from_slice(head.expected),
            Policy::KNorm => score::low_norm(head.norm, score),
            Policy::KvZip => score.copy_from_slice(head.zip),
            Policy::Random => score::random(params.seed, head, score),
        }
        choice.best(score, n_attn);
    }
    if policy == Policy::Hybrid && params.quotas.leverage > 0.0 && choice.room > 0 {
        score::pool(head.leverage, params.n_pool_leverage, score);
        choice.best(score, choice.room);
    }
    // Some of the newest may have stayed anyway; where no score fills their places, older ones do.
    choice.mark((0..n).rev());
    out.extend((0..n as u32).filter(|&i| choice.fates[i as usize] == Fate::Stays));
    Ok(())
}

/// What is decided so far, and how many more cells may stay.
struct Choice<'a> {
    keys: &'a mut Vec<u64>,
    fates: &'a mut [Fate],
    room: usize,
}

impl Choice<'_> {
    /// Keeps open cells in the order given while there is room.
    fn mark(&mut self, cells: impl Iterator<Item = usize>) {
        for i in cells {
            if self.room == 0 {
                return;
            }
            if self.fates[i] == Fate::Open {
                self.fates[i] = Fate::Stays;
                self.room -= 1;
            }
        }
    }

    /// Keeps open cells from the highest priority down while there is room for all of a priority.
    /// Only those of the next one stay open; the others leave.
    fn highest(&mut self, head: &Head<'_>) {
        let level = |i: usize| usize::from(head.priority(i).abs_diff(i8::MIN));
        let mut n_open = [0; 256];
        for i in (0..self.fates.len()).filter(|&i| self.fates[i] == Fate::Open) {
            n_open[level(i)] += 1;
        }
        let mut lowest = n_open.len();
        while lowest > 0 && n_open[lowest - 1] <= self.room {
            lowest -= 1;
            self.room -= n_open[lowest];
        }
        for (i, fate) in self.fates.iter_mut().enumerate().filter(|(_, f)| **f == Fate::Open) {
            match level(i) {
                level if level >= lowest => *fate = Fate::Stays,
                level if level + 1 < lowest => *fate = Fate::Leaves,
                _ => {}
            }
        }
    }

    /// Keeps those of the `n` newest cells that are open; cells that leave are none.
    fn newest(&mut self, n: usize) {
        let left = self.fates.iter_mut().rev().filter(|fate| **fate != Fate::Leaves);
        for fate in left.take(n).filter(|fate| **fate == Fate::Open) {
            *fate = Fate::Stays;
            self.room -= 1;
        }
    }

    /// Keeps the `n` best of those that are open, or all if there are fewer.
    fn best(&mut self, score: &[f32], n: usize) {
        self.keys.clear();
        let open = (0..score.len()).filter(|&i| self.fates[i] == Fate::Open);
        self.keys.extend(open.map(|i| rank(score[i], i)));
        let n = n.min(self.keys.len());
        if n == 0 {
            return;
        }
        // No two keys are equal, so there is but one set of `n` largest, however it is found.
        highest_first(self.keys, n);
        for key in &self.keys[..n] {
            self.fates[(u32::MAX - *key as u32) as usize] = Fate::Stays;
        }
        self.room -= n;
    }
}

/// A number that is larger for a better score and, among equal ones, for a lower index. NaN, of
/// either sign, comes after all numbers; -0 equals 0. Otherwise the order of `f32::total_cmp`.
fn rank(score: f32, i: usize) -> u64 {
    let score = if score.is_nan() { 0 } else { ordered(score + 0.0) };
    u64::from(score) << 32 | u64::from(u32::MAX - i as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_order_scores_then_positions() {
        let scores = [
            -f32::NAN,
            f32::NEG_INFINITY,
            f32::MIN,
            -1.0,
            -f32::MIN_POSITIVE,
            -f32::from_bits(1),
            0.0,
            f32::from_bits(1),
            1.0,
            f32::MAX,
            f32::INFINITY,
        ];
        for (a, &low) in scores.iter().enumerate() {
            for (b, &high) in scores.iter().enumerate() {
                assert_eq!(rank(low, 5).cmp(&rank(high, 5)), a.cmp(&b), "{low} {high}");
            }
            assert!(rank(low, 4) > rank(low, 5) && rank(low, 0) > rank(low, u32::MAX as usize - 1));
        }
        assert_eq!(rank(-0.0, 1), rank(0.0, 1));
        assert_eq!(rank(f32::NAN, 1), rank(-f32::NAN, 1));
    }

    #[test]
    fn the_best_are_the_same_in_whatever_order_they_come() {
        let mut state = 7u64;
        let mut random = |n: u64| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            ((state >> 33) % n) as usize
        };
        for _ in 0..200 {
            let n = 1 + random(60);
            // Few different scores, so that most are equal.
            let keys: Vec<u64> = (0..n).map(|i| rank(random(3) as f32, i)).collect();
            let mut sorted = keys.clone();
            sorted.sort_unstable_by(|a, b| b.cmp(a));
            let mut mixed = keys;
            for i in (1..n).rev() {
                mixed.swap(i, random(i as u64 + 1));
            }
            let k = 1 + random(n as u64);
            mixed.select_nth_unstable_by(k - 1, |a, b| b.cmp(a));
            mixed[..k].sort_unstable_by(|a, b| b.cmp(a));
            assert_eq!(mixed[..k], sorted[..k]);
        }
    }
}
