//! Running means of vectors, and KeyDiff (Park et al. 2025, arXiv 2504.15364) by one of them.

use crate::base::error::Result;
use crate::kv::filled;

/// Keeps a cosine finite where a vector is zero.
const TINY: f64 = 1e-8;

/// The mean of the vectors seen so far.
#[derive(Debug)]
pub struct Mean {
    n: u64,
    mean: Vec<f64>,
}

impl Mean {
    /// Of no vectors yet, each of `d` elements.
    pub fn new(d: usize) -> Result<Mean> {
        Ok(Mean { n: 0, mean: filled(d, 0.0, "elements of a mean")? })
    }

    /// Bytes that a mean of vectors of `d` elements takes.
    pub fn bytes(d: usize) -> u64 {
        d as u64 * size_of::<f64>() as u64
    }

    /// Vectors seen.
    pub fn n(&self) -> u64 {
        self.n
    }

    /// The mean, `d` elements; zeros while no vector was seen.
    pub fn mean(&self) -> &[f64] {
        &self.mean
    }

    /// Counts a vector of `d` elements, unless one of them is not a finite number.
    pub fn add(&mut self, x: &[f32]) {
        self.add_scaled(x, 1.0);
    }

    /// Counts the unit vector that points as `x` does; a vector of zeros counts as zeros.
    pub fn add_unit(&mut self, x: &[f32]) {
        self.add_scaled(x, 1.0 / (norm(x) + TINY));
    }

    /// KeyDiff's score of a key, if unit keys were added: minus the cosine of the angle to the
    /// mean. From -1 to 1; the higher, the less other keys stand for this one.
    pub fn key_diff(&self, key: &[f32]) -> f32 {
        assert_eq!(key.len(), self.mean.len());
        let dot: f64 = key.iter().zip(&self.mean).map(|(&k, m)| f64::from(k) * m).sum();
        let mean_norm = self.mean.iter().map(|m| m * m).sum::<f64>().sqrt();
        (-dot / ((norm(key) + TINY) * (mean_norm + TINY))) as f32
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.n = 0;
        self.mean.fill(0.0);
    }

    /// Sets it to that of `n` vectors.
    pub fn set(&mut self, n: u64, mean: impl Iterator<Item = f64>) {
        self.n = n;
        self.mean.iter_mut().zip(mean).for_each(|(to, from)| *to = from);
    }

    /// Takes over what another mean of as many elements holds.
    pub fn copy_from(&mut self, other: &Mean) {
        self.n = other.n;
        self.mean.copy_from_slice(&other.mean);
    }

    fn add_scaled(&mut self, x: &[f32], scale: f64) {
        assert_eq!(x.len(), self.mean.len());
        if !x.iter().all(|x| x.is_finite()) {
            return;
        }
        self.n += 1;
        let weight = 1.0 / self.n as f64;
        for (mean, &x) in self.mean.iter_mut().zip(x) {
            *mean += (f64::from(x) * scale - *mean) * weight;
        }
    }
}

/// Euclidean norm.
pub fn norm(x: &[f32]) -> f64 {
    x.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>().sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_unlike_the_others_scores_highest() {
        let mut mean = Mean::new(3).unwrap();
        for key in [[4.0, 0.0, 0.0], [0.0, 2.0, 0.0], [1.0, 1.0, 0.0]] {
            mean.add_unit(&key);
        }
        // By symmetry the mean points along (1, 1, 0).
        let cosine = |key: [f32; 3], expected: f32| {
            let found = -mean.key_diff(&key);
            assert!((found - expected).abs() < 1e-6, "{key:?}: {found}, expected {expected}");
        };
        cosine([3.0, 3.0, 0.0], 1.0);
        cosine([0.5, 0.0, 0.0], 0.5f32.sqrt());
        cosine([0.0, 0.0, 9.0], 0.0);
        cosine([-1.0, -1.0, 0.0], -1.0);
        cosine([0.0; 3], 0.0);
    }

    #[test]
    fn what_is_not_finite_is_not_counted() {
        let mut mean = Mean::new(2).unwrap();
        mean.add(&[1.0, 3.0]);
        mean.add(&[f32::NAN, 0.0]);
        mean.add_unit(&[f32::INFINITY, 0.0]);
        mean.add(&[2.0, 5.0]);
        assert_eq!((mean.n(), mean.mean()), (2, &[1.5, 4.0][..]));
        let mut copy = Mean::new(2).unwrap();
        copy.copy_from(&mean);
        mean.clear();
        assert_eq!((mean.n(), mean.mean()), (0, &[0.0, 0.0][..]));
        assert_eq!((copy.n(), copy.mean()), (2, &[1.5, 4.0][..]));
    }
}
