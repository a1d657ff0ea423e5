//! Which cells of one KV head stay.

use super::{Params, Policy, score};
use crate::base::error::{Result, err};
use crate::base::order::ordered;

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
}

impl Head<'_> {
    /// Queries that have seen cell `i`, the token's own included.
    pub fn n_seen(&self, i: usize) -> u32 {
        self.n_past.saturating_sub(self.pos[i]).max(1)
    }

    fn is_pinned(&self, i: usize) -> bool {
        self.pinned.get(i / 64).is_some_and(|word| word >> (i % 64) & 1 == 1)
    }

    fn check(&self, policy: Policy, params: &Params) {
        let n = self.pos.len();
        let needs = policy.needs(&params.quotas);
        for (name, is_needed, field) in [
            ("mass", needs.mass, self.mass),
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
        assert!(self.pinned.is_empty() || self.pinned.len() == n.div_ceil(64), "pinned bits");
        debug_assert!(self.pos.windows(2).all(|w| w[0] < w[1]), "positions ascend");
    }
}

/// Memory for [`keep()`], made once for each thread that calls it.
pub struct Work {
    /// Rank and index of each candidate.
    keys: Vec<u64>,
    /// Scores, and a part of them.
    score: Vec<f32>,
    part: Vec<f32>,
    /// Which cells stay.
    kept: Vec<bool>,
}

impl Work {
    /// Enough for heads of up to `n_cells` cells.
    pub fn new(n_cells: usize) -> Result<Work> {
        let mut work =
            Work { keys: Vec::new(), score: Vec::new(), part: Vec::new(), kept: Vec::new() };
        let no_memory = |_| err!(OutOfMemory, "KV policy: no memory to rank {n_cells} cells");
        work.keys.try_reserve_exact(n_cells).map_err(no_memory)?;
        work.score.try_reserve_exact(n_cells).map_err(no_memory)?;
        work.part.try_reserve_exact(n_cells).map_err(no_memory)?;
        work.kept.try_reserve_exact(n_cells).map_err(no_memory)?;
        work.score.resize(n_cells, 0.0);
        work.part.resize(n_cells, 0.0);
        work.kept.resize(n_cells, false);
        Ok(work)
    }

    /// Bytes that it takes for `n_cells` cells.
    pub fn bytes(n_cells: usize) -> u64 {
        n_cells as u64 * (size_of::<u64>() + 2 * size_of::<f32>() + size_of::<bool>()) as u64
    }
}

/// Chooses the `min(budget, n)` cells of a head that stay, and writes their indices, ascending,
/// to `out`.
///
/// Pinned cells stay first, then sinks by position. The quotas share what these leave of the
/// budget, so that a long prompt that is pinned takes from all quotas alike: first the newest
/// cells, then the best scores; among equal scores the lowest position, and NaN after every
/// number. A pinned cell among the newest leaves its place to the last quota. Takes time
/// proportional to `n`.
///
/// `params` are such as [`Params::check`] accepts, `work` was made for `n` cells or more, and
/// `out` has the capacity for what stays.
///
/// Errors: `KvFull` if more cells than the budget are pinned, or must leave with
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
    assert!(n <= work.kept.len(), "work for {} cells, not {n}", work.kept.len());
    assert!(budget.min(n) <= out.capacity(), "room for {} cells", out.capacity());
    out.clear();
    if n <= budget {
        out.extend(0..n as u32);
        return Ok(());
    }
    let n_pinned = (0..n).filter(|&i| head.is_pinned(i)).count();
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
            "KV policy none: {n} cells in head {} of layer {}, expected at most the budget of \
             {budget}, because nothing may leave",
            head.head,
            head.layer
        ));
    }
    let Work { keys, score, part, kept } = work;
    let (score, part) = (&mut score[..n], &mut part[..n]);
    let mut choice = Choice { keys, kept: &mut kept[..n], room: budget };

    for i in 0..n {
        choice.kept[i] = head.is_pinned(i);
    }
    choice.room -= n_pinned;
    let n_sink = if policy == Policy::Ring { 0 } else { params.n_sink };
    choice.mark(0..head.pos.partition_point(|&pos| (pos as usize) < n_sink));
    let shared = choice.room;
    let n_recent = params.n_recent(policy, shared);
    choice.mark((n - n_recent..n).rev());

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
    // Pinned cells may lie among the newest; where no score fills their places, older ones do.
    choice.mark((0..n).rev());
    out.extend((0..n as u32).filter(|&i| kept[i as usize]));
    Ok(())
}

/// Cells that stay, and how many more may.
struct Choice<'a> {
    keys: &'a mut Vec<u64>,
    kept: &'a mut [bool],
    room: usize,
}

impl Choice<'_> {
    /// Keeps cells in the order given while there is room.
    fn mark(&mut self, cells: impl Iterator<Item = usize>) {
        for i in cells {
            if self.room == 0 {
                return;
            }
            self.room -= usize::from(!self.kept[i]);
            self.kept[i] = true;
        }
    }

    /// Keeps the `n` best of those that are not kept yet, or all if there are fewer.
    fn best(&mut self, score: &[f32], n: usize) {
        self.keys.clear();
        let left = score.iter().zip(&*self.kept).enumerate().filter(|(_, (_, is_kept))| !**is_kept);
        self.keys.extend(left.map(|(i, (&score, _))| rank(score, i)));
        let n = n.min(self.keys.len());
        if n == 0 {
            return;
        }
        // No two keys are equal, so there is but one set of `n` largest, however it is found.
        self.keys.select_nth_unstable_by(n - 1, |a, b| b.cmp(a));
        for key in &self.keys[..n] {
            self.kept[(u32::MAX - *key as u32) as usize] = true;
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
