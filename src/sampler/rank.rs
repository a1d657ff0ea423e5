//! The first of the candidates in some order, until they hold a share of the probability.
//!
//! An order is one of keys, highest first. Weights are added up in that order, one by one, since
//! the rounding of each sum is part of what the specification fixes. But no more than needed is
//! sorted: a short list is by and by; a row is dealt into buckets, which are sorted one by one.

use super::row::Row;

/// How far the sorted prefix of a list reaches at first, and how much further each time.
const FIRST_SORTED: usize = 256;
const SORTED_GROWTH: usize = 8;

/// Buckets that a row is dealt into.
const N_BUCKETS: usize = 4096;

/// What the weights must add up to.
pub(super) struct Mass<'a> {
    low: f64,
    high: f64,
    exact: &'a dyn Fn() -> f64,
}

impl<'a> Mass<'a> {
    /// A mass that lies between `low` and `high`, and costs time to know exactly.
    pub(super) fn between(low: f64, high: f64, exact: &'a dyn Fn() -> f64) -> Self {
        Mass { low, high, exact }
    }

    /// A mass that is known.
    pub(super) fn known(mass: f64) -> Self {
        Mass { low: mass, high: mass, exact: &|| 0.0 }
    }

    /// Whether a total is no less than the mass, which is found out if it matters.
    #[inline]
    fn is_reached(&mut self, total: f64) -> bool {
        if total < self.low {
            return false;
        }
        if total < self.high {
            self.low = (self.exact)();
            self.high = self.low;
        }
        total >= self.high
    }
}

/// Sorts as many of the keys, highest first, as are needed for their weights to reach the mass; the
/// first `n_sorted` are sorted and the highest already. Returns how many that are; None if all of
/// them do not reach it, and then all are sorted.
pub(super) fn share(
    keys: &mut [u64],
    mut n_sorted: usize,
    mass: &mut Mass<'_>,
    weight: impl Fn(u64) -> f64,
) -> Option<usize> {
    let mut total = 0.0;
    let mut n = 0;
    loop {
        if let Some(more) = add(&keys[n..n_sorted], &mut total, mass, &weight) {
            return Some(n + more);
        }
        n = n_sorted;
        let rest = &mut keys[n..];
        if rest.is_empty() {
            return None;
        }
        let n_more = FIRST_SORTED.max(n_sorted.saturating_mul(SORTED_GROWTH - 1)).min(rest.len());
        if n_more < rest.len() {
            rest.select_nth_unstable_by(n_more - 1, |a, b| b.cmp(a));
        }
        rest[..n_more].sort_unstable_by(|a, b| b.cmp(a));
        n_sorted += n_more;
    }
}

/// Adds weights to a total in the order of the keys. Returns how many it takes to reach the mass;
/// None if they do not.
fn add(
    keys: &[u64],
    total: &mut f64,
    mass: &mut Mass<'_>,
    weight: impl Fn(u64) -> f64,
) -> Option<usize> {
    let mut weights = [0.0; 32];
    for (i, keys) in keys.chunks(weights.len()).enumerate() {
        for (weight_of, &key) in weights.iter_mut().zip(keys) {
            *weight_of = weight(key);
        }
        for (j, weight) in weights[..keys.len()].iter().enumerate() {
            *total += weight;
            if mass.is_reached(*total) {
                return Some(weights.len() * i + j + 1);
            }
        }
    }
    None
}

/// Some tokens of a row as keys, dealt into buckets.
pub(super) struct Buckets<'a> {
    keys: &'a mut [u64],
    /// Where each bucket ends; it starts where the one before it ends.
    ends: [u32; N_BUCKETS],
}

impl<'a> Buckets<'a> {
    /// Deals tokens of a row with a logit above `floor` into buckets. `highest` has the highest
    /// logit of each chunk. `rank` gives a token's key and its depth, 0 or more, which is not lower
    /// for lower keys; None leaves a token out. The deepest lie at `range` or, few, beyond.
    pub(super) fn deal(
        row: &Row<'_>,
        highest: &[f64],
        floor: f32,
        range: f32,
        rank: impl Fn(u32, f32) -> Option<(f32, u64)>,
        keys: &'a mut [u64],
    ) -> Self {
        let scale = N_BUCKETS as f32 / range;
        // What is not a number is 0 x infinity, where all depths are 0 or the scale is.
        let bucket = |depth: f32| ((depth * scale) as u32).min(N_BUCKETS as u32 - 1) as usize;
        let mut ends = [0_u32; N_BUCKETS];
        row.above(floor, highest, |token, logit| {
            if let Some((depth, _)) = rank(token, logit) {
                ends[bucket(depth)] += 1;
            }
            floor
        });
        let mut end = 0;
        for slot in &mut ends {
            let n = *slot;
            *slot = end;
            end += n;
        }
        // Each start moves on to its bucket's end.
        row.above(floor, highest, |token, logit| {
            if let Some((depth, key)) = rank(token, logit) {
                let slot = &mut ends[bucket(depth)];
                keys[*slot as usize] = key;
                *slot += 1;
            }
            floor
        });
        Buckets { keys, ends }
    }

    /// Sorts all keys, highest first. Returns how many there are.
    pub(super) fn sort(self) -> usize {
        let mut start = 0;
        for end in self.ends.map(|end| end as usize) {
            self.keys[start..end].sort_unstable_by(|a, b| b.cmp(a));
            start = end;
        }
        start
    }

    /// Sorts as many keys as are needed for their weights to reach the mass. Returns how many that
    /// are: all, if rounding keeps it out of reach.
    pub(super) fn share(self, mass: &mut Mass<'_>, weight: impl Fn(u64) -> f64) -> usize {
        let mut total = 0.0;
        let mut start = 0;
        for end in self.ends.map(|end| end as usize) {
            let keys = &mut self.keys[start..end];
            keys.sort_unstable_by(|a, b| b.cmp(a));
            if let Some(more) = add(keys, &mut total, mass, &weight) {
                return start + more;
            }
            start = end;
        }
        start
    }
}
