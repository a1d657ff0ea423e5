//! The candidates: which tokens are still in the draw, and the filters that drop some.
//!
//! A candidate is one 64-bit key: its logit as a sortable integer above, its token's complement
//! below. Keys in descending order are thus logits in descending order, equal logits by ascending
//! token, and comparing two of them is one instruction. No key is made of a token that a look at
//! its chunk's highest logit rules out, and only what is kept gets sorted.

use std::ops::Range;

use super::math::{CHUNK, NEAR, exp, exps, ln, near_sum, sum, sum_chunk};
use super::rank::{Mass, Order, Rank, Weights, share};
use super::row::Row;
use crate::base::order::{from_ordered, highest_first, ordered, sort_descending};

/// A list of so many tokens is sorted sooner than a row is gone through again.
const MANY: usize = 16_384;

/// A finite value and a token as one key; higher values, then lower tokens, make higher keys.
pub(super) fn key(value: f32, token: u32) -> u64 {
    u64::from(ordered(value + 0.0)) << 32 | u64::from(!token) // -0 becomes 0
}

/// The value of a key.
pub(super) fn value(key: u64) -> f32 {
    from_ordered((key >> 32) as u32)
}

/// The token of a key.
pub(super) fn token(key: u64) -> u32 {
    !(key as u32)
}

/// An f32 below `limit` and near to it. It does not depend on whether the thread keeps subnormal
/// numbers, as the next f32 below 0 would.
pub(super) fn floor_below(limit: f64) -> f32 {
    (limit - 1.0e-6 * limit.abs() - 1.0e-30) as f32
}

/// The best `n`, at least 1, of the finite logits, or all if there are fewer; in the first places
/// of `keys`, sorted. Returns how many. `keys` is as long as the row; `highest` has the highest
/// logit of each chunk.
///
/// One pass that compares each logit with the worst of the best so far; whenever twice `n` have
/// passed, a partial selection halves them.
pub(super) fn best(row: &Row<'_>, highest: &[f64], n: usize, keys: &mut [u64]) -> usize {
    // At least n logits are not below the n-th highest of the chunks' highest.
    let mut floor = f32::NEG_INFINITY;
    if n <= highest.len() {
        let keys = &mut keys[..highest.len()];
        keys.iter_mut().zip(highest).for_each(|(slot, &h)| *slot = key(h as f32, 0));
        highest_first(keys, n);
        floor = floor_below(f64::from(value(keys[n - 1])));
    }
    let room = keys.len().min((2 * n).max(n.saturating_add(64)));
    let mut n_keys = 0;
    row.above(floor, highest, |token, logit| {
        if n_keys == room {
            highest_first(&mut keys[..n_keys], n);
            n_keys = n;
            floor = value(keys[n - 1]);
            // An equal logit comes later, so its token is higher: it would not be kept either.
            if logit <= floor {
                return floor;
            }
        }
        keys[n_keys] = key(logit, token);
        n_keys += 1;
        floor
    });
    if n_keys > n {
        highest_first(&mut keys[..n_keys], n);
        n_keys = n;
    }
    sort_descending(&mut keys[..n_keys]);
    n_keys
}

/// Where the candidates are.
#[derive(Clone, Copy, Debug, PartialEq)]
enum List {
    /// In the row: all tokens with a finite logit.
    Row,
    /// In `keys`, in ascending tokens.
    Ascending,
    /// In `keys`, best first.
    Sorted,
    /// In the row, and `Kept` says which; in the order of `Sorted`.
    Kept,
}

/// Which tokens of a row are still in the draw.
#[derive(Clone, Copy)]
pub(super) struct Kept {
    /// All of them are above it.
    floor: f32,
    /// All keys are as high.
    last: u64,
    /// All keys of the distances from this logit are as high; for typical sampling.
    near: Option<(Expected, u64)>,
}

impl Kept {
    /// A token's key if the token is kept.
    pub(super) fn key(&self, token: u32, logit: f32) -> Option<u64> {
        let near = self.near.is_none_or(|(expected, last)| expected.key(token, logit) >= last);
        let key = key(logit, token);
        (near && key >= self.last).then_some(key)
    }
}

/// What typical sampling measures distances from.
#[derive(Clone, Copy)]
pub(super) struct Expected {
    /// The highest logit that was in the draw, and the expected one less that.
    max: f64,
    mean: f64,
}

impl Expected {
    /// How far a logit is from the expected one.
    pub(super) fn distance(&self, logit: f32) -> f32 {
        (f64::from(logit) - self.max - self.mean).abs() as f32
    }

    /// A key in the order of distances, the nearest first.
    pub(super) fn key(&self, token: u32, logit: f32) -> u64 {
        key(-self.distance(logit), token)
    }
}

/// The tokens still in the draw.
pub(super) struct Candidates<'a> {
    row: &'a Row<'a>,
    /// The highest logit of each chunk of the row; in the draw, sums over chunks of the list.
    chunks: &'a mut [f64],
    keys: &'a mut [u64],
    n: usize,
    /// The highest logit in the draw.
    max: f64,
    list: List,
    kept: Kept,
}

impl<'a> Candidates<'a> {
    /// The `top_k` best of the finite logits, sorted; or all of them, in ascending tokens, when
    /// `top_k` is 0 or no fewer than there are logits. `highest` has the highest logit of each
    /// chunk, and `max` is the highest of all. `keys` is as long as the row.
    pub(super) fn new(
        row: &'a Row<'a>,
        highest: &'a mut [f64],
        max: f32,
        top_k: usize,
        keys: &'a mut [u64],
    ) -> Self {
        let sorted = (1..row.len()).contains(&top_k);
        let n = if sorted { best(row, highest, top_k, keys) } else { 0 };
        let list = if sorted { List::Sorted } else { List::Row };
        let kept = Kept { floor: f32::NEG_INFINITY, last: 0, near: None };
        Candidates { row, chunks: highest, keys, n, max: f64::from(max), list, kept }
    }

    /// How far a candidate of the list in `keys` lies below the highest: 0 or negative.
    fn below(&self, i: usize) -> f64 {
        f64::from(value(self.keys[i])) - self.max
    }

    /// Keeps the tokens whose information is nearest to the expected one, until they hold a share
    /// `p` of the probability.
    ///
    /// With `x` the logits below the highest, a token's information is `ln Z - x` and the expected
    /// one is `ln Z - E[x]`: their distance is `|x - E[x]|`, taken as an f32. The nearest come
    /// first, among equals the lower token. What is kept is then sorted, best first.
    pub(super) fn typical(&mut self, p: f32) {
        let (row, max) = (self.row, self.max);
        let (mut z, mut weighted) = (0.0, 0.0);
        if self.list == List::Row {
            row.finite_chunks(|values| {
                let [weights, products] = sum_chunk(values, |values| {
                    values.iter_mut().for_each(|value| *value -= max);
                    let mut products = *values;
                    exps(values);
                    products.iter_mut().zip(&*values).for_each(|(x, weight)| *x *= weight);
                    [*values, products]
                });
                z += weights;
                weighted += products;
            });
        } else {
            z = sum(self.n, |i| exp(self.below(i)), |_| ());
            weighted = sum(self.n, |i| exp(self.below(i)) * self.below(i), |_| ());
        }
        let expected = Expected { max, mean: weighted / z };
        if self.list == List::Row && self.typical_of_row(p, z, expected) {
            return;
        }
        for slot in &mut self.keys[..self.n] {
            *slot = expected.key(token(*slot), value(*slot));
        }
        let weight = |key| exp(f64::from(row.logit(token(key) as usize)) - max);
        let mut mass = Mass::known(f64::from(p) * z);
        self.n = share(&mut self.keys[..self.n], 0, &mut mass, weight).unwrap_or(self.n);
        for slot in &mut self.keys[..self.n] {
            *slot = key(row.logit(token(*slot) as usize), token(*slot));
        }
        sort_descending(&mut self.keys[..self.n]);
        self.list = List::Sorted;
        self.max = f64::from(value(self.keys[0]));
    }

    /// The same for all of a row, `z` being the sum of all weights. False if it made a list
    /// instead, of enough tokens.
    fn typical_of_row(&mut self, p: f32, z: f64, expected: Expected) -> bool {
        let (row, Expected { max, mean }) = (self.row, expected);
        // Enough for the share lie as near as the highest or the deepest needed, or nearer.
        let range = 1.000_001 * (-mean).max(self.needed(p, z).1 + mean) + 1.0e-30;
        let floor = floor_below(max + mean - range);
        let range = range as f32;
        if self.list_few(floor) {
            return false;
        }
        let order = Order {
            row,
            highest: self.chunks,
            floor: f32::NEG_INFINITY,
            rank: Rank::Near(expected),
            top: max + mean,
            range,
            weights: Weights { max, inverse: 1.0 },
        };
        let Some(last) = order.crossing(f64::from(p), self.keys) else {
            self.n = row.finite_keys(0, self.keys);
            return false;
        };
        let farthest = f64::from(-value(last));
        self.kept.floor = floor_below(max + mean - 1.000_001 * farthest);
        self.kept.near = Some((expected, last));
        self.list = List::Kept;
        let mut highest = self.kept.floor;
        row.above(highest, self.chunks, |token, logit| {
            if self.kept.key(token, logit).is_some() {
                highest = logit;
            }
            highest
        });
        self.max = f64::from(highest);
        true
    }

    /// Makes a list of the tokens above a floor if these are not many.
    fn list_few(&mut self, floor: f32) -> bool {
        let room = MANY.min(self.keys.len());
        let mut n = 0;
        self.row.above(floor, self.chunks, |token, logit| {
            if n < room {
                self.keys[n] = key(logit, token);
            }
            n += 1;
            if n > room { f32::INFINITY } else { floor }
        });
        self.n = n;
        n <= room
    }

    /// Makes a sorted list of what is kept.
    fn list_kept(&mut self) {
        let mut n = 0;
        self.row.above(self.kept.floor, self.chunks, |token, logit| {
            if let Some(key) = self.kept.key(token, logit) {
                self.keys[n] = key;
                n += 1;
            }
            self.kept.floor
        });
        sort_descending(&mut self.keys[..n]);
        self.n = n;
        self.list = List::Sorted;
    }

    /// A floor above which enough tokens of the row lie to hold a share `p` of the probability, `z`
    /// being the sum of all weights or nearly so; and how far the deepest of these lie below the
    /// highest, or farther.
    fn needed(&self, p: f32, z: f64) -> (f32, f64) {
        // What is left out weighs less than 0.9 of the share that may be missing.
        let weight = 0.9 * (1.0 - f64::from(p)) * z / self.row.len() as f64;
        let floor = floor_below(self.max + ln(weight));
        (floor, self.max - f64::from(floor.max(self.row.lowest())))
    }

    /// Keeps the most probable tokens until they hold a share `p` of the probability; sorted.
    pub(super) fn top_p(&mut self, p: f32) {
        let max = self.max;
        let weight = |key| exp(f64::from(value(key)) - max);
        if self.list == List::Row {
            return self.top_p_of_row(p);
        }
        if self.list == List::Kept {
            self.list_kept();
        }
        let z = sum(self.n, |i| exp(self.below(i)), |_| ());
        let n_sorted = if self.list == List::Sorted { self.n } else { 0 };
        let mut mass = Mass::known(f64::from(p) * z);
        self.n = share(&mut self.keys[..self.n], n_sorted, &mut mass, weight).unwrap_or(self.n);
        self.list = List::Sorted;
    }

    /// The same for all of a row.
    fn top_p_of_row(&mut self, p: f32) {
        let (row, max) = (self.row, self.max);
        let weight = |key| exp(f64::from(value(key)) - max);
        let weights = Weights { max, inverse: 1.0 };
        let exact = || {
            let mut z = 0.0;
            row.finite_chunks(|values| {
                let [chunk] = sum_chunk(values, |values| {
                    weights.of(values);
                    [*values]
                });
                z += chunk;
            });
            f64::from(p) * z
        };
        let near_z: f64 =
            (0..row.n_chunks()).map(|i| f64::from(near_sum(row.chunk(i), max as f32))).sum();
        let near = f64::from(p) * near_z;
        let mut mass = Mass::between(near * (1.0 - NEAR), near * (1.0 + NEAR), &exact);
        // A few are enough more often than not.
        self.list = List::Sorted;
        self.n = best(row, self.chunks, row.n_chunks().div_ceil(4), self.keys);
        if let Some(n) = share(&mut self.keys[..self.n], self.n, &mut mass, weight) {
            self.n = n;
            return;
        }
        let (floor, range) = self.needed(p, near_z);
        if !self.list_few(floor) {
            let order = Order {
                row,
                highest: self.chunks,
                floor: f32::NEG_INFINITY,
                rank: Rank::Logit,
                top: max,
                range: range as f32,
                weights,
            };
            if let Some(last) = order.crossing(f64::from(p), self.keys) {
                self.list = List::Kept;
                self.kept.floor = floor_below(f64::from(value(last)));
                self.kept.last = last;
                return;
            }
            self.n = row.finite_keys(0, self.keys);
        }
        self.n = share(&mut self.keys[..self.n], 0, &mut mass, weight).unwrap_or(self.n);
    }

    /// Keeps the tokens that are at least `p` times as probable as the most probable one; keeps
    /// the order.
    pub(super) fn min_p(&mut self, p: f32) {
        let limit = ln(f64::from(p));
        let mut n = 0;
        if self.list == List::Row {
            let floor = floor_below(self.max + limit);
            self.row.above(floor, self.chunks, |token, logit| {
                if f64::from(logit) - self.max >= limit {
                    self.keys[n] = key(logit, token);
                    n += 1;
                }
                floor
            });
            self.list = List::Ascending;
        } else {
            if self.list == List::Kept {
                self.list_kept();
            }
            for i in 0..self.n {
                if self.below(i) >= limit {
                    self.keys[n] = self.keys[i];
                    n += 1;
                }
            }
        }
        self.n = n;
    }

    /// Draws a token: the first whose cumulative weight exceeds `u` times the sum of all weights,
    /// `u` in [0, 1).
    ///
    /// A weight is `exp(x / temperature)`, the division being a product with the inverse. From the
    /// target, chunks' sums and then single weights are subtracted in the order of the list while
    /// they are not above it. Where rounding leaves none, the last token with a weight is it.
    pub(super) fn draw(mut self, temperature: f32, u: f64) -> u32 {
        let max = self.max;
        let inverse = 1.0 / f64::from(temperature);
        let weight = |value: f64| exp((value - max) * inverse);
        let weights = Weights { max, inverse };
        if self.list == List::Kept {
            let order = Order {
                row: self.row,
                highest: self.chunks,
                floor: self.kept.floor,
                rank: Rank::Kept(&self.kept),
                top: max,
                range: (max - f64::from(self.kept.floor.max(self.row.lowest()))) as f32,
                weights,
            };
            if let Some(chosen) = order.crossing(u, self.keys) {
                return token(chosen);
            }
            self.list_kept();
        }
        let mut n_chunks = 0;
        if self.list == List::Row {
            let mut sum = 0.0;
            self.row.finite_chunks(|values| {
                let [chunk] = sum_chunk(values, |values| {
                    weights.of(values);
                    [*values]
                });
                self.chunks[n_chunks] = chunk;
                n_chunks += 1;
                sum += chunk;
            });
            let mut target = u * sum;
            let first = CHUNK * walk(0..n_chunks, &mut target, |i| self.chunks[i]);
            let room = self.keys.len().min(CHUNK);
            let n = self.row.finite_keys(first, &mut self.keys[..room]);
            let keys = &self.keys[..n];
            return token(keys[walk(0..n, &mut target, |i| weight(f64::from(value(keys[i]))))]);
        }
        let (keys, n) = (&self.keys[..self.n], self.n);
        let weight = |i: usize| weight(f64::from(value(keys[i])));
        let sum = sum(n, weight, |chunk| {
            self.chunks[n_chunks] = chunk;
            n_chunks += 1;
        });
        let mut target = u * sum;
        let first = CHUNK * walk(0..n_chunks, &mut target, |i| self.chunks[i]);
        token(keys[walk(first..n.min(first + CHUNK), &mut target, weight)])
    }
}

/// The first index at which the target is below the weight, the weights before it having been
/// subtracted from the target. If there is none: the last index with a weight, and the target is
/// beyond all.
fn walk(range: Range<usize>, target: &mut f64, weight: impl Fn(usize) -> f64) -> usize {
    let mut last = range.start;
    for i in range {
        let weight = weight(i);
        if weight > 0.0 {
            if *target < weight {
                return i;
            }
            *target -= weight;
            last = i;
        }
    }
    *target = f64::INFINITY;
    last
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::rng::Rng;

    /// Logits of several shapes: flat, peaked, with equal values, with banned tokens.
    fn logits(rng: &mut Rng, n: usize) -> Vec<f32> {
        let spread = [0.1, 2.0, 8.0, 40.0][rng.next_u64() as usize % 4];
        let steps = [0.0, 0.5][rng.next_u64() as usize % 2];
        let banned = [0.0, 0.3][rng.next_u64() as usize % 2];
        let mut logits: Vec<f32> = (0..n)
            .map(|_| {
                let logit = (rng.next_f32() + rng.next_f32() - rng.next_f32() - 0.5) * spread;
                if rng.next_f32() < banned {
                    f32::NEG_INFINITY
                } else if steps > 0.0 {
                    (logit / steps).round() * steps
                } else {
                    logit
                }
            })
            .collect();
        logits[n / 2] = 0.25;
        logits
    }

    /// Tokens with a finite logit, best first, and their probabilities.
    fn naive(logits: &[f32]) -> Vec<(u32, f64)> {
        let mut all: Vec<(u32, f64)> = (0..)
            .zip(logits)
            .filter(|(_, l)| l.is_finite())
            .map(|(t, l)| (t, f64::from(*l) + 0.0))
            .collect();
        all.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        let max = all[0].1;
        all.iter_mut().for_each(|(_, l)| *l = (*l - max).exp());
        scaled(all)
    }

    fn scaled(mut all: Vec<(u32, f64)>) -> Vec<(u32, f64)> {
        let sum: f64 = all.iter().map(|(_, p)| p).sum();
        all.iter_mut().for_each(|(_, p)| *p /= sum);
        all
    }

    /// The tokens that stay, and whether they are sorted, after `filter` on the best `k`.
    fn kept(
        logits: &[f32],
        k: usize,
        filter: impl FnOnce(&mut Candidates<'_>),
    ) -> (Vec<u32>, bool) {
        let mut room = vec![0.0; logits.len()];
        let mut keys = vec![0; logits.len()];
        let row = Row::new(logits, &mut room);
        let mut highest = vec![0.0; row.n_chunks()];
        row.find_highest(&mut highest).unwrap();
        let mut candidates = Candidates::new(&row, &mut highest, max(logits), k, &mut keys);
        filter(&mut candidates);
        if candidates.list == List::Kept {
            candidates.list_kept();
        }
        let Candidates { keys, mut n, list, .. } = candidates;
        if list == List::Row {
            n = row.finite_keys(0, keys);
        }
        (keys[..n].iter().map(|&k| token(k)).collect(), list == List::Sorted)
    }

    fn expected(all: &[(u32, f64)]) -> Vec<u32> {
        all.iter().map(|(t, _)| *t).collect()
    }

    /// The shortest prefix with a share `p`; None when rounding could decide it.
    fn prefix(all: &[(u32, f64)], p: f64) -> Option<usize> {
        let mut total = 0.0;
        for (i, (_, q)) in all.iter().enumerate() {
            total += q;
            if (total - p).abs() < 1e-11 {
                return None;
            }
            if total >= p {
                return Some(i + 1);
            }
        }
        Some(all.len())
    }

    fn max(logits: &[f32]) -> f32 {
        logits.iter().fold(f32::NEG_INFINITY, |a, &b| a.max(b))
    }

    #[test]
    fn keys_order_as_logits_then_tokens() {
        let values = [f32::MIN, -1.0, -1e-40, -f32::MIN_POSITIVE, -0.0, 0.0, 1e-40, 1.0, f32::MAX];
        for (i, &a) in values.iter().enumerate() {
            assert_eq!(value(key(a, 7)), a);
            assert_eq!(token(key(a, 7)), 7);
            assert!(key(a, 3) > key(a, 4));
            for &b in &values[i..] {
                assert_eq!(key(a, 1) < key(b, 1), a < b, "{a} {b}");
            }
        }
        assert_eq!(key(0.0, 1), key(-0.0, 1));
    }

    #[test]
    fn top_k_keeps_the_best_in_order() {
        let mut rng = Rng::new(1);
        for round in 0..400 {
            let n = 2 + rng.next_u64() as usize % 3000;
            let mut logits = logits(&mut rng, n);
            match round % 8 {
                0 => logits.sort_by(f32::total_cmp), // every logit beats the worst so far
                1 => logits.sort_by(|a, b| b.total_cmp(a)),
                2 => logits.fill(1.5),
                _ => (),
            }
            let k = 1 + rng.next_u64() as usize % (n - 1);
            let all = naive(&logits);
            let (found, sorted) = kept(&logits, k, |_| ());
            assert_eq!(found, expected(&all[..k.min(all.len())]), "{n} {k}");
            assert!(sorted);
        }
    }

    #[test]
    fn without_top_k_all_stay_in_ascending_tokens() {
        let mut rng = Rng::new(2);
        let logits = logits(&mut rng, 500);
        let finite: Vec<u32> = (0..500).filter(|&t| logits[t as usize].is_finite()).collect();
        for k in [0, 500, 501, u32::MAX as usize] {
            assert_eq!(kept(&logits, k, |_| ()), (finite.clone(), false));
        }
    }

    #[test]
    fn each_filter_keeps_what_a_plain_one_keeps() {
        let mut rng = Rng::new(3);
        let mut n_compared = [0; 3];
        for _ in 0..1500 {
            let n = 2 + rng.next_u64() as usize % 4000;
            let logits = logits(&mut rng, n);
            let k = [0, 1 + rng.next_u64() as usize % n][rng.next_u64() as usize % 2];
            let all = naive(&logits);
            let all = if k == 0 || k >= n { all } else { scaled(all[..k.min(all.len())].to_vec()) };
            let p = [rng.next_f32(), 1e-6, 0.9, 0.999_999][rng.next_u64() as usize % 4];
            let p = p.max(1e-9);
            let wide = f64::from(p);
            let fresh = |f: &mut dyn FnMut(&mut Candidates<'_>)| kept(&logits, k, f).0;

            if let Some(n) = prefix(&all, wide) {
                n_compared[0] += 1;
                assert_eq!(fresh(&mut |c| c.top_p(p)), expected(&all[..n]), "top_p {p}");
            }

            let best = all[0].1;
            if all.iter().all(|(_, q)| (q / best / wide - 1.0).abs() > 1e-11) {
                n_compared[1] += 1;
                let mut kept = all.clone();
                kept.retain(|(_, q)| *q >= wide * best);
                let found = fresh(&mut |c| c.min_p(p));
                let mut kept = expected(&kept);
                if k == 0 || k >= n {
                    kept.sort();
                }
                assert_eq!(found, kept, "min_p {p}");
            }

            let entropy: f64 =
                -all.iter().map(|(_, q)| if *q > 0.0 { q * q.ln() } else { 0.0 }).sum::<f64>();
            let mut near = all.clone();
            let distance = |q: f64| (-q.ln() - entropy).abs();
            near.sort_by(|a, b| {
                let (x, y) = (distance(a.1) as f32, distance(b.1) as f32);
                x.total_cmp(&y).then(a.0.cmp(&b.0))
            });
            // Distances that differ by rounding alone may swap places at the cut: then the shares
            // are compared, not the tokens.
            if let Some(n) = prefix(&near, wide) {
                n_compared[2] += 1;
                let mut kept = expected(&near[..n]);
                let mut found = fresh(&mut |c| c.typical(p));
                let clear =
                    n == near.len() || (distance(near[n].1) - distance(near[n - 1].1)).abs() > 1e-5;
                if clear {
                    kept.sort();
                    let unsorted = found.clone();
                    found.sort();
                    assert_eq!(found, kept, "typical_p {p}");
                    let order: Vec<u32> =
                        expected(&all).into_iter().filter(|t| kept.contains(t)).collect();
                    assert_eq!(unsorted, order);
                } else {
                    let share: f64 =
                        all.iter().filter(|(t, _)| found.contains(t)).map(|(_, q)| q).sum();
                    assert!(share >= wide - 1e-9, "typical_p {p} keeps {share}");
                }
            }
        }
        assert!(n_compared.iter().all(|&n| n > 1000), "{n_compared:?}");
    }

    #[test]
    fn a_draw_that_rounding_carries_past_the_end_takes_the_last_weight() {
        let mut target = 1.0;
        let weights = [0.25, 0.5, 0.125, 0.0];
        assert_eq!(walk(0..4, &mut target, |i| weights[i]), 2);
        assert_eq!(walk(1..4, &mut target, |i| weights[i]), 2);
        let mut target = 0.25;
        assert_eq!(walk(0..4, &mut target, |i| weights[i]), 1);
    }
}
