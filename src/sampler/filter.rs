//! The candidates: which tokens are still in the draw, and the filters that drop some.
//!
//! A candidate is one 64-bit key: its logit as a sortable integer above, its token's complement
//! below. Keys in descending order are thus logits in descending order, equal logits by ascending
//! token, and comparing two of them is one instruction. Only what is kept gets sorted.

use std::ops::{ControlFlow, Range};

use super::math::{CHUNK, exp, ln, sum};

/// How far the sorted prefix of a list reaches at first, and how much further each time.
const FIRST_SORTED: usize = 256;
const SORTED_GROWTH: usize = 8;

/// A finite value and a token as one key; higher values, then lower tokens, make higher keys.
fn key(value: f32, token: u32) -> u64 {
    let bits = (value + 0.0).to_bits(); // -0 becomes 0
    let sortable = if bits >> 31 == 1 { !bits } else { bits | 0x8000_0000 };
    u64::from(sortable) << 32 | u64::from(!token)
}

/// The value of a key.
fn value(key: u64) -> f32 {
    let sortable = (key >> 32) as u32;
    f32::from_bits(if sortable >> 31 == 1 { sortable & 0x7fff_ffff } else { !sortable })
}

/// The token of a key.
pub(super) fn token(key: u64) -> u32 {
    !(key as u32)
}

/// The best `n`, at least 1, of the finite logits, or all if there are fewer; in the first places of `keys`,
/// sorted. Returns how many. `keys` is as long as `logits`.
///
/// One pass that compares each logit with the worst of the best so far; whenever twice `n` have
/// passed, a partial selection halves them.
pub(super) fn best(logits: &[f32], n: usize, keys: &mut [u64]) -> usize {
    let room = keys.len().min((2 * n).max(n.saturating_add(64)));
    let mut n_keys = 0;
    let mut worst = f32::NEG_INFINITY;
    // Sixteen at a time, since nearly all of them fall short.
    for (chunk, logits) in logits.chunks(16).enumerate() {
        if !logits.iter().fold(false, |any, &l| any | (l > worst)) {
            continue;
        }
        for (i, &logit) in logits.iter().enumerate() {
            // An equal logit comes later, so its token is higher: it would not be kept either.
            if logit > worst {
                if n_keys == room {
                    keys[..n_keys].select_nth_unstable_by(n - 1, |a, b| b.cmp(a));
                    n_keys = n;
                    worst = value(keys[n - 1]);
                    if logit <= worst {
                        continue;
                    }
                }
                keys[n_keys] = key(logit, (16 * chunk + i) as u32);
                n_keys += 1;
            }
        }
    }
    if n_keys > n {
        keys[..n_keys].select_nth_unstable_by(n - 1, |a, b| b.cmp(a));
        n_keys = n;
    }
    keys[..n_keys].sort_unstable_by(|a, b| b.cmp(a));
    n_keys
}

/// The tokens still in the draw. Its list is either sorted, best first, or in ascending tokens.
pub(super) struct Candidates<'a> {
    keys: &'a mut [u64],
    n: usize,
    max: f64,
    sorted: bool,
}

impl<'a> Candidates<'a> {
    /// The `top_k` best of the finite logits, sorted; or all of them, in ascending tokens, when
    /// `top_k` is 0 or no fewer than there are logits. `max` is the highest logit.
    pub(super) fn new(logits: &[f32], max: f32, top_k: usize, keys: &'a mut [u64]) -> Self {
        let sorted = (1..logits.len()).contains(&top_k);
        let n = if sorted {
            best(logits, top_k, keys)
        } else {
            let mut n = 0;
            for (i, &logit) in logits.iter().enumerate() {
                if logit > f32::NEG_INFINITY {
                    keys[n] = key(logit, i as u32);
                    n += 1;
                }
            }
            n
        };
        Candidates { keys, n, max: f64::from(max), sorted }
    }

    /// How far a candidate's logit lies below the highest: 0 or negative.
    pub(super) fn below(&self, i: usize) -> f64 {
        f64::from(value(self.keys[i])) - self.max
    }

    /// Keeps the tokens whose information is nearest to the expected one, until they hold a share
    /// `p` of the probability.
    ///
    /// With `x` the logits below the highest, a token's information is `ln Z - x` and the expected
    /// one is `ln Z - E[x]`: their distance is `|x - E[x]|`, taken as an f32. The nearest come
    /// first, among equals the lower token. What is kept is then sorted, best first.
    pub(super) fn typical(&mut self, p: f32, logits: &[f32]) {
        let z = sum(self.n, |i| exp(self.below(i)), |_| ());
        let weighted = |i| exp(self.below(i)) * self.below(i);
        let mean = sum(self.n, weighted, |_| ()) / z;
        for i in 0..self.n {
            let distance = (self.below(i) - mean).abs() as f32;
            self.keys[i] = key(-distance, token(self.keys[i]));
        }
        let max = self.max;
        let below = |key| f64::from(logits[token(key) as usize]) - max;
        self.n = share(&mut self.keys[..self.n], f64::from(p) * z, false, |key| exp(below(key)));
        for slot in &mut self.keys[..self.n] {
            *slot = key(logits[token(*slot) as usize], token(*slot));
        }
        self.keys[..self.n].sort_unstable_by(|a, b| b.cmp(a));
        self.sorted = true;
        self.max = f64::from(value(self.keys[0]));
    }

    /// Keeps the most probable tokens until they hold a share `p` of the probability; sorted.
    pub(super) fn top_p(&mut self, p: f32) {
        let z = sum(self.n, |i| exp(self.below(i)), |_| ());
        let max = self.max;
        let weight = |key| exp(f64::from(value(key)) - max);
        self.n = share(&mut self.keys[..self.n], f64::from(p) * z, self.sorted, weight);
        self.sorted = true;
    }

    /// Keeps the tokens that are at least `p` times as probable as the most probable one; keeps
    /// the order.
    pub(super) fn min_p(&mut self, p: f32) {
        let limit = ln(f64::from(p));
        let mut n = 0;
        for i in 0..self.n {
            if self.below(i) >= limit {
                self.keys[n] = self.keys[i];
                n += 1;
            }
        }
        self.n = n;
    }

    /// Draws a token: the first whose cumulative weight exceeds `u` times the sum of all weights,
    /// `u` in [0, 1). `chunks` has room for the sums of all chunks.
    ///
    /// A weight is `exp(x / temperature)`, the division being a product with the inverse. From the
    /// target, chunks' sums and then single weights are subtracted in the order of the list while
    /// they are not above it. Where rounding leaves none, the last token with a weight is it.
    pub(super) fn draw(&self, temperature: f32, u: f64, chunks: &mut [f64]) -> u32 {
        let inverse = 1.0 / f64::from(temperature);
        let weight = |i| exp(self.below(i) * inverse);
        let mut n_chunks = 0;
        let mut target = u * sum(self.n, weight, |chunk| {
            chunks[n_chunks] = chunk;
            n_chunks += 1;
        });
        let first = CHUNK * walk(0..n_chunks, &mut target, |i| chunks[i]);
        let chosen = walk(first..self.n.min(first + CHUNK), &mut target, weight);
        token(self.keys[chosen])
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

/// Sorts as many of the keys, highest first, as are needed for their weights to reach `mass`.
/// Returns how many that are: all, if rounding keeps the mass out of reach; at least 1.
fn share(keys: &mut [u64], mass: f64, sorted: bool, weight: impl Fn(u64) -> f64) -> usize {
    let mut n_sorted = if sorted { keys.len() } else { 0 };
    let mut total = 0.0;
    let mut n = 0;
    while n < keys.len() {
        if n == n_sorted {
            let rest = &mut keys[n_sorted..];
            let n_more = FIRST_SORTED.max(n_sorted.saturating_mul(SORTED_GROWTH - 1));
            let n_more = n_more.min(rest.len());
            if n_more < rest.len() {
                rest.select_nth_unstable_by(n_more - 1, |a, b| b.cmp(a));
            }
            rest[..n_more].sort_unstable_by(|a, b| b.cmp(a));
            n_sorted += n_more;
        }
        let run = keys[n..n_sorted].iter().try_fold(total, |total, &key| {
            n += 1;
            let total = total + weight(key);
            if total >= mass { ControlFlow::Break(()) } else { ControlFlow::Continue(total) }
        });
        match run {
            ControlFlow::Break(()) => break,
            ControlFlow::Continue(so_far) => total = so_far,
        }
    }
    n
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

    fn tokens(candidates: &Candidates<'_>) -> Vec<u32> {
        candidates.keys[..candidates.n].iter().map(|&k| token(k)).collect()
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
            let mut keys = vec![0; n];
            let candidates = Candidates::new(&logits, max(&logits), k, &mut keys);
            assert_eq!(tokens(&candidates), expected(&all[..k.min(all.len())]), "{n} {k}");
            assert!(candidates.sorted);
        }
    }

    #[test]
    fn without_top_k_all_stay_in_ascending_tokens() {
        let mut rng = Rng::new(2);
        let logits = logits(&mut rng, 500);
        let finite: Vec<u32> = (0..500).filter(|&t| logits[t as usize].is_finite()).collect();
        for k in [0, 500, 501, u32::MAX as usize] {
            let mut keys = vec![0; 500];
            let candidates = Candidates::new(&logits, max(&logits), k, &mut keys);
            assert_eq!(tokens(&candidates), finite);
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
            let mut keys = vec![0; n];
            let mut fresh = |f: &mut dyn FnMut(&mut Candidates<'_>)| {
                let mut candidates = Candidates::new(&logits, max(&logits), k, &mut keys);
                f(&mut candidates);
                tokens(&candidates)
            };

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
                let mut found = fresh(&mut |c| c.typical(p, &logits));
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
