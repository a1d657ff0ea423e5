//! The first of the candidates in some order, until they hold a share of the probability.
//!
//! An order is one of keys, highest first. Weights are added up in that order, one by one, since
//! the rounding of each sum is part of what the specification fixes. So a list is sorted, by and by,
//! as far as needed. A whole row is not: sums in any order tell where the share is passed, unless
//! it is closer there than rounding can account for, and then the row is made a list.

use crate::base::order::{highest_first, sort_descending};

use super::filter::{Expected, Kept, floor_below, key, token};
use super::math::{BATCH, CHUNK, exps};
use super::row::Row;

/// How far the sorted prefix of a list reaches at first, and how much further each time.
const FIRST_SORTED: usize = 256;
const SORTED_GROWTH: usize = 8;

/// Buckets that the weights of a row are summed in.
const N_BUCKETS: usize = 2048;

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
            highest_first(rest, n_more);
        }
        sort_descending(&mut rest[..n_more]);
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

/// Tokens of a row in an order, without a list of them.
pub(super) struct Order<'a> {
    pub(super) row: &'a Row<'a>,
    /// The highest logit of each chunk.
    pub(super) highest: &'a [f64],
    /// Tokens are above it.
    pub(super) floor: f32,
    /// What the order goes by.
    pub(super) rank: Rank<'a>,
    /// No logit lies farther below it than its token's depth.
    pub(super) top: f64,
    /// The greatest depth of interest. Deeper tokens may be there.
    pub(super) range: f32,
    /// What makes logits weights.
    pub(super) weights: Weights,
}

/// What tokens are ranked by. One function for all: this is called for every token of a row.
pub(super) enum Rank<'a> {
    /// Their logits.
    Logit,
    /// The same, of those that are kept.
    Kept(&'a Kept),
    /// How near their logits are to the expected one.
    Near(Expected),
}

/// `exp((logit - max) * inverse)`
#[derive(Clone, Copy)]
pub(super) struct Weights {
    pub(super) max: f64,
    pub(super) inverse: f64,
}

impl Weights {
    /// Makes logits their weights.
    pub(super) fn of(self, values: &mut [f64; BATCH]) {
        values.iter_mut().for_each(|value| *value = (*value - self.max) * self.inverse);
        exps(values);
    }
}

impl Order<'_> {
    /// A token's depth, 0 or more, which is not lower for lower keys, and its key; `None` for a token
    /// that is not meant.
    fn rank(&self, token: u32, logit: f32) -> Option<(f32, u64)> {
        match &self.rank {
            Rank::Logit => Some((self.top as f32 - logit, key(logit, token))),
            Rank::Kept(kept) => kept.key(token, logit).map(|key| (self.top as f32 - logit, key)),
            Rank::Near(expected) => Some((expected.distance(logit), expected.key(token, logit))),
        }
    }

    /// The key at which the weights, added one by one in the order, pass a share of their sum. None
    /// where another order of additions could pass it elsewhere.
    ///
    /// The tokens' weights go into buckets by depth. Only the bucket in which the share is passed
    /// gets gathered and sorted.
    pub(super) fn crossing(&self, share: f64, keys: &mut [u64]) -> Option<u64> {
        let masses = self.masses();
        let sum: f64 = masses.iter().sum();
        let target = share * sum;
        // Each addition is wrong by half an EPSILON of the sum at most, in any order, and so is the
        // multiplication: several times what two orders can differ by.
        let margin = 8.0 * f64::EPSILON * (self.row.len() + 2 * N_BUCKETS) as f64 * sum;
        let mut total = 0.0;
        let at = masses.iter().position(|mass| {
            let before = total;
            total += mass;
            if total < target - margin {
                return false;
            }
            total = before;
            true
        })?;
        let n = self.gather(at, keys);
        let keys = &mut keys[..n];
        sort_descending(keys);
        for keys in keys.chunks(BATCH) {
            let mut weights = [f64::NEG_INFINITY; BATCH];
            for (logit, &key) in weights.iter_mut().zip(keys) {
                *logit = f64::from(self.row.logit(token(key) as usize));
            }
            self.weights.of(&mut weights);
            for (key, weight) in keys.iter().zip(weights) {
                total += weight;
                if total >= target - margin {
                    return (total > target + margin).then_some(*key);
                }
            }
        }
        None
    }

    /// The bucket of a depth.
    fn bucket(&self, depth: f32) -> usize {
        // What is not a number is 0 x infinity: there all depths are 0 or infinite.
        ((depth * (N_BUCKETS as f32 / self.range)) as u32).min(N_BUCKETS as u32 - 1) as usize
    }

    /// The sum of the weights in each bucket.
    fn masses(&self) -> [f64; N_BUCKETS] {
        let mut masses = [0.0; N_BUCKETS];
        for (i, &max) in self.highest.iter().enumerate() {
            if max <= f64::from(self.floor) {
                continue;
            }
            for (j, some) in self.row.chunk(i).chunks(BATCH).enumerate() {
                if !some.iter().fold(false, |any, &l| any | (l > self.floor)) {
                    continue;
                }
                let mut weights = [f64::NEG_INFINITY; BATCH];
                weights.iter_mut().zip(some).for_each(|(to, &from)| *to = f64::from(from));
                self.weights.of(&mut weights);
                let first = CHUNK * i + BATCH * j;
                for (k, (&logit, weight)) in some.iter().zip(weights).enumerate() {
                    if logit > self.floor
                        && let Some((depth, _)) = self.rank((first + k) as u32, logit)
                    {
                        masses[self.bucket(depth)] += weight;
                    }
                }
            }
        }
        masses
    }

    /// Puts the keys of a bucket into the first places. Returns how many.
    fn gather(&self, bucket: usize, keys: &mut [u64]) -> usize {
        let mut floor = self.floor;
        if bucket + 1 < N_BUCKETS {
            let deepest = 1.000_01 * (bucket + 1) as f64 / N_BUCKETS as f64;
            floor = floor.max(floor_below(self.top - deepest * f64::from(self.range)));
        }
        let mut n = 0;
        self.row.above(floor, self.highest, |token, logit| {
            if let Some((depth, key)) = self.rank(token, logit)
                && self.bucket(depth) == bucket
            {
                keys[n] = key;
                n += 1;
            }
            floor
        });
        n
    }
}
