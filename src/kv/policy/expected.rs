//! Expected Attention (Devoto et al. 2025, arXiv 2510.00636): how much attention a cell can expect
//! from queries yet to come, if they are distributed as those so far.
//!
//! Queries before rotation have a mean `m` and a covariance `S`. Averaged over the positions ahead
//! the rotation is a matrix `R`; then a key `k` (rotated, as it is cached) of `d` elements can
//! expect the exponential of `k'Rm / sqrt(d) + k'RSR'k / 2d`, the mean of a log-normal variable.
//! The variant without the second term needs no covariance.

use super::leverage::Moments;
use crate::backend::rope::{Frequencies, Layout};
use crate::base::error::{Result, err};
use crate::kv::filled;

/// A rotation averaged over positions ahead.
#[derive(Debug)]
pub struct Turn {
    layout: Layout,
    /// Mean cosine and mean sine of each pair, times the factor on rotated vectors.
    pairs: Vec<(f64, f64)>,
}

impl Turn {
    /// Memory for up to `n_pairs` pairs of elements.
    pub fn new(n_pairs: usize) -> Result<Turn> {
        let mut pairs = Vec::new();
        pairs
            .try_reserve_exact(n_pairs)
            .map_err(|_| err!(OutOfMemory, "KV policy: no memory for {n_pairs} rotations"))?;
        Ok(Turn { layout: Layout::Norm, pairs })
    }

    /// Averages over the `n_future` (at least 1) positions from `n_past` on.
    pub fn set(&mut self, rope: &Frequencies, layout: Layout, n_past: u32, n_future: usize) {
        assert!(rope.per_pair.len() <= self.pairs.capacity() && n_future > 0);
        self.layout = layout;
        self.pairs.clear();
        let n = n_future as f64;
        self.pairs.extend(rope.per_pair.iter().map(|w| {
            // The mean of exp(iwp) over n positions is a phasor at their middle, shortened as
            // Dirichlet's kernel says.
            let step = (0.5 * w).sin();
            let length = if step.abs() < 1e-12 { 1.0 } else { (0.5 * n * w).sin() / (n * step) };
            let (sin, cos) = (w * (f64::from(n_past) + 0.5 * (n - 1.0))).sin_cos();
            (rope.scale * length * cos, rope.scale * length * sin)
        }));
    }

    /// The two elements of pair `i`.
    fn pair(&self, i: usize) -> (usize, usize) {
        match self.layout {
            Layout::Norm => (2 * i, 2 * i + 1),
            Layout::Neox => (i, i + self.pairs.len()),
        }
    }

    /// Turns the vector whose elements are those of `x` from `at` on, each `stride` apart.
    /// Elements behind the last pair stay as they are.
    fn apply(&self, x: &mut [f32], at: usize, stride: usize) {
        for (i, &(cos, sin)) in self.pairs.iter().enumerate() {
            let (a, b) = self.pair(i);
            let (a, b) = (at + a * stride, at + b * stride);
            let (from_a, from_b) = (f64::from(x[a]), f64::from(x[b]));
            x[a] = (cos * from_a - sin * from_b) as f32;
            x[b] = (sin * from_a + cos * from_b) as f32;
        }
    }
}

/// What one query head is expected to ask for; one for each thread is enough.
#[derive(Debug)]
pub struct Future {
    /// `Rm / sqrt(d)`.
    mean: Vec<f32>,
    /// `RSR' / 2d`, `d x d`, elements right of the diagonal doubled and those left of it unused;
    /// or empty.
    spread: Vec<f32>,
    has_spread: bool,
}

impl Future {
    /// For heads of `d` elements, with or without memory for a covariance.
    pub fn new(d: usize, has_covariance: bool) -> Result<Future> {
        let n_spread = if has_covariance { d * d } else { 0 };
        let (mean, spread) = (filled(d, 0.0, "queries")?, filled(n_spread, 0.0, "queries")?);
        Ok(Future { mean, spread, has_spread: false })
    }

    /// Bytes that it takes for heads of `d` elements.
    pub fn bytes(d: usize, has_covariance: bool) -> u64 {
        let n = d + if has_covariance { d * d } else { 0 };
        n as u64 * size_of::<f32>() as u64
    }

    /// Expects queries with this mean and no spread.
    pub fn set_mean(&mut self, mean: &[f64], turn: &Turn) {
        let d = self.mean.len();
        assert!(mean.len() == d && 2 * turn.pairs.len() <= d);
        for (to, m) in self.mean.iter_mut().zip(mean) {
            *to = (m / (d as f64).sqrt()) as f32;
        }
        turn.apply(&mut self.mean, 0, 1);
        self.has_spread = false;
    }

    /// Expects queries with these moments, those of the sinks left out: they are unlike others.
    pub fn set(&mut self, queries: &Moments, turn: &Turn) {
        self.set_mean(queries.mean(), turn);
        let d = self.mean.len();
        assert_eq!(self.spread.len(), d * d, "made without memory for a covariance");
        let scale = 1.0 / (queries.n().max(1) as f64 * 2.0 * d as f64);
        let mut upper = queries.upper().iter();
        for i in 0..d {
            for (j, c) in (i..d).zip(&mut upper) {
                let c = (f64::from(*c) * scale) as f32;
                (self.spread[i * d + j], self.spread[j * d + i]) = (c, c);
            }
        }
        for i in 0..d {
            turn.apply(&mut self.spread, i * d, 1); // SR'
        }
        for i in 0..d {
            turn.apply(&mut self.spread, i, d); // RSR'
        }
        for i in 0..d {
            self.spread[i * d + i + 1..(i + 1) * d].iter_mut().for_each(|s| *s *= 2.0);
        }
        self.has_spread = true;
    }

    /// Logarithm of what a key, rotated as it is cached, can expect, up to a constant.
    pub fn logit(&self, key: &[f32]) -> f32 {
        let d = self.mean.len();
        assert_eq!(key.len(), d);
        let mut sum = dot(&self.mean, key);
        if self.has_spread {
            for (i, k) in key.iter().enumerate() {
                sum += k * dot(&self.spread[i * d + i..(i + 1) * d], &key[i..]);
            }
        }
        sum
    }
}

/// Adds to `score` what cells can expect from one of `n_group` query heads: the softmax of their
/// logits ([`Future::logit`]) times the norms of their values, over `n_group`. `score` starts as
/// zeros. Changes `logits` to their softmax.
///
/// Sinks are not to be among the cells: they would take most of the attention.
pub fn weigh(logits: &mut [f32], value_norms: &[f32], n_group: usize, score: &mut [f32]) {
    assert!(logits.len() == value_norms.len() && logits.len() == score.len());
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut sum = 0.0;
    for x in logits.iter_mut() {
        *x = (*x - max).exp();
        sum += if x.is_nan() { 0.0 } else { f64::from(*x) };
    }
    for ((score, p), norm) in score.iter_mut().zip(logits).zip(value_norms) {
        *p = (f64::from(*p) / sum) as f32;
        *score += *p * norm / n_group as f32;
    }
}

/// Sum of products, in eight parts that a compiler can put in vectors; the same on every machine.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut parts = [0.0; 8];
    let (a_chunks, b_chunks) = (a.chunks_exact(8), b.chunks_exact(8));
    let tail: f32 = a_chunks.remainder().iter().zip(b_chunks.remainder()).map(|(a, b)| a * b).sum();
    for (a, b) in a_chunks.zip(b_chunks) {
        for (part, (a, b)) in parts.iter_mut().zip(a.iter().zip(b)) {
            *part += a * b;
        }
    }
    parts.iter().sum::<f32>() + tail
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::rng::Rng;

    #[test]
    fn an_averaged_rotation_is_the_mean_of_rotations() {
        let rope = Frequencies { per_pair: vec![1.0, 0.1, 1e-4, 0.0], scale: 1.25 };
        let mut turn = Turn::new(4).unwrap();
        for (n_past, n_future) in [(0, 1), (7, 1), (0, 512), (5000, 512), (1 << 20, 3)] {
            turn.set(&rope, Layout::Neox, n_past, n_future);
            for (w, &(cos, sin)) in rope.per_pair.iter().zip(&turn.pairs) {
                let mean = |f: fn(f64) -> f64| -> f64 {
                    let angles = (0..n_future).map(|i| w * (f64::from(n_past) + i as f64));
                    1.25 * angles.map(f).sum::<f64>() / n_future as f64
                };
                let (cos_mean, sin_mean) = (mean(f64::cos), mean(f64::sin));
                assert!((cos - cos_mean).abs() < 1e-9, "{w}: {cos}, expected {cos_mean}");
                assert!((sin - sin_mean).abs() < 1e-9, "{w}: {sin}, expected {sin_mean}");
            }
        }
    }

    #[test]
    fn one_position_ahead_is_the_mean_of_the_logits_themselves() {
        // With one position there is nothing to average: rotate each query, and take the mean and
        // half the variance of its logits with the key.
        let mut rng = Rng::new(3);
        let d = 12;
        let rope = Frequencies { per_pair: vec![0.7, 0.2, 0.05, 0.01], scale: 1.0 };
        for layout in [Layout::Norm, Layout::Neox] {
            let mut turn = Turn::new(4).unwrap();
            turn.set(&rope, layout, 9, 1);
            let mut vector = || (0..d).map(|_| rng.next_f32() * 4.0 - 1.0).collect::<Vec<f32>>();
            let key = vector();
            let mut moments = Moments::new(d).unwrap();
            let mut logits = Vec::new();
            for _ in 0..50 {
                let mut query = vector();
                moments.add(&query);
                turn.apply(&mut query, 0, 1);
                logits.push(f64::from(dot(&query, &key)) / (d as f64).sqrt());
            }
            let mean = logits.iter().sum::<f64>() / 50.0;
            let variance = logits.iter().map(|l| (l - mean).powi(2)).sum::<f64>() / 50.0;
            let mut future = Future::new(d, true).unwrap();
            future.set(&moments, &turn);
            let found = f64::from(future.logit(&key));
            let expected = mean + variance / 2.0;
            assert!((found - expected).abs() < 1e-5 * expected.abs(), "{found}, {expected}");
            future.set_mean(moments.mean(), &turn);
            assert!((f64::from(future.logit(&key)) - mean).abs() < 1e-5 * mean.abs());
            // What does not rotate stays.
            let mut tail = vec![1.0; d];
            turn.apply(&mut tail, 0, 1);
            assert_eq!(tail[8..], [1.0; 4]);
        }
    }

    #[test]
    fn expectations_add_up_to_the_mean_norm() {
        let mut score = [0.0; 3];
        weigh(&mut [1000.0, 1000.0, f32::NEG_INFINITY], &[2.0, 4.0, 8.0], 2, &mut score);
        weigh(&mut [0.0, 0.0, 0.0], &[3.0, 3.0, 3.0], 2, &mut score);
        assert_eq!(score, [1.0, 1.5, 0.5]);
        weigh(&mut [], &[], 1, &mut []);
    }
}
