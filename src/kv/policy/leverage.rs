//! How much a vector differs from all others that were seen: its leverage.
//!
//! `l(x) = (x - m)' (C + r I)^-1 (x - m)`, where `m` is the mean of the vectors, `C` the sum of
//! `(x - m)(x - m)'` over them, and the ridge `r` is `eps` times the mean of C's diagonal. Leverage
//! of keys before rotation is from Compactor (Chari and Van Durme 2025, arXiv 2507.08143); here
//! values count too, and `C` runs along with the stream instead of being sketched.
//!
//! Triangles are stored row by row from the diagonal on: element (i, j), j >= i, of `d x d`.

use super::mean::Mean;
use crate::base::error::Result;
use crate::kv::filled;

/// Count, mean and second central moment of the vectors seen so far, by Welford's recurrence
/// (B. P. Welford, Technometrics 4(3), 1962), which does not cancel where the mean is large.
#[derive(Debug)]
pub struct Moments {
    mean: Mean,
    /// Distance of a vector from the mean before it.
    delta: Vec<f32>,
    /// Upper triangle of `C`.
    c: Vec<f32>,
}

/// What is counted, for errors.
const WHAT: &str = "elements of moments";

/// Elements of the upper triangle of a `d x d` matrix.
fn n_upper(d: usize) -> usize {
    d * (d + 1) / 2
}

impl Moments {
    /// Of no vectors yet, each of `d` elements.
    pub fn new(d: usize) -> Result<Moments> {
        Ok(Moments {
            mean: Mean::new(d)?,
            delta: filled(d, 0.0, WHAT)?,
            c: filled(n_upper(d), 0.0, WHAT)?,
        })
    }

    /// Bytes that the moments of vectors of `d` elements take.
    pub fn bytes(d: usize) -> u64 {
        Mean::bytes(d) + ((d + n_upper(d)) * size_of::<f32>()) as u64
    }

    /// Elements of a vector.
    pub fn d(&self) -> usize {
        self.delta.len()
    }

    /// Vectors seen.
    pub fn n(&self) -> u64 {
        self.mean.n()
    }

    /// The mean, `d` elements; zeros while no vector was seen.
    pub fn mean(&self) -> &[f64] {
        self.mean.mean()
    }

    /// The upper triangle of `C`, which is the covariance times [`Moments::n`].
    pub fn upper(&self) -> &[f32] {
        &self.c
    }

    /// Counts a vector of `d` elements, unless one of them is not a finite number.
    pub fn add(&mut self, x: &[f32]) {
        for ((delta, &x), mean) in self.delta.iter_mut().zip(x).zip(self.mean.mean()) {
            *delta = (f64::from(x) - mean) as f32;
        }
        let n_before = self.mean.n();
        self.mean.add(x);
        let n = self.mean.n();
        if n == n_before {
            return;
        }
        let weight = (n_before as f64 / n as f64) as f32;
        let mut rest = &mut self.c[..];
        for (i, &delta) in self.delta.iter().enumerate() {
            let (row, below) = rest.split_at_mut(self.delta.len() - i);
            let by = delta * weight;
            for (c, &other) in row.iter_mut().zip(&self.delta[i..]) {
                *c += by * other;
            }
            rest = below;
        }
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.mean.clear();
        self.c.fill(0.0);
    }

    /// Takes over what moments of as many elements hold.
    pub fn copy_from(&mut self, other: &Moments) {
        self.mean.copy_from(&other.mean);
        self.c.copy_from_slice(&other.c);
    }

    /// Prepares `factor`, made for as many elements, for [`Factor::leverage`] by what was seen
    /// so far. `eps` is above 0. Costs d^3 / 6 multiplications.
    pub fn factor(&self, eps: f32, factor: &mut Factor) {
        let d = self.d();
        assert_eq!(d, factor.mean.len());
        factor.mean.copy_from_slice(self.mean());
        let u = &mut factor.wide[..];
        let mut trace = 0.0;
        let mut at = 0;
        for i in 0..d {
            trace += f64::from(self.c[at]);
            at += d - i;
        }
        let ridge = f64::from(eps) * trace / d as f64;
        factor.has_spread = ridge > 0.0 && ridge.is_finite();
        if !factor.has_spread {
            return;
        }
        for (u, &c) in u.iter_mut().zip(&self.c) {
            *u = f64::from(c);
        }
        // Cholesky: C + ridge I = U'U. Row i of U, times its elements, leaves the rows below.
        let mut rest = u;
        for i in 0..d {
            let (row, mut below) = rest.split_at_mut(d - i);
            // Without rounding, no pivot is smaller than the ridge.
            let pivot = (row[0] + ridge).max(ridge).sqrt();
            row[0] = pivot;
            for u in &mut row[1..] {
                *u /= pivot;
            }
            for j in 1..row.len() {
                let (next, after) = below.split_at_mut(row.len() - j);
                let by = row[j];
                for (next, u) in next.iter_mut().zip(&row[j..]) {
                    *next -= by * u;
                }
                below = after;
            }
            rest = &mut rest[d - i..];
        }
        let mut at = 0;
        for (i, scale) in factor.scale.iter_mut().enumerate() {
            *scale = (1.0 / factor.wide[at]) as f32;
            at += d - i;
        }
        for (u, &wide) in factor.u.iter_mut().zip(&factor.wide) {
            *u = wide as f32;
        }
    }
}

/// The factored inverse of one head's `C`; one for each thread is enough.
///
/// It is found in f64, because a small ridge makes `C` ill-conditioned, and used in f32.
#[derive(Debug)]
pub struct Factor {
    mean: Vec<f64>,
    wide: Vec<f64>,
    u: Vec<f32>,
    /// Inverses of the diagonal of `u`.
    scale: Vec<f32>,
    /// What is left of a vector while it is solved for.
    left: Vec<f32>,
    has_spread: bool,
}

impl Factor {
    /// For vectors of `d` elements. Every leverage is 0 until [`Moments::factor`] prepares it.
    pub fn new(d: usize) -> Result<Factor> {
        Ok(Factor {
            mean: filled(d, 0.0, WHAT)?,
            wide: filled(n_upper(d), 0.0, WHAT)?,
            u: filled(n_upper(d), 0.0, WHAT)?,
            scale: filled(d, 0.0, WHAT)?,
            left: filled(d, 0.0, WHAT)?,
            has_spread: false,
        })
    }

    /// Bytes that a factor for vectors of `d` elements takes.
    pub fn bytes(d: usize) -> u64 {
        let (wide, narrow) = (d + n_upper(d), 2 * d + n_upper(d));
        (wide * size_of::<f64>() + narrow * size_of::<f32>()) as u64
    }

    /// Leverage of a vector of `d` elements: 0 at the mean, at most 1 for one that was counted,
    /// and 0 for all where all that were counted are equal. Costs d^2 / 2 multiplications.
    pub fn leverage(&mut self, x: &[f32]) -> f32 {
        let d = self.left.len();
        assert_eq!(x.len(), d);
        if !self.has_spread {
            return 0.0;
        }
        for ((left, &x), mean) in self.left.iter_mut().zip(x).zip(&self.mean) {
            *left = (f64::from(x) - mean) as f32;
        }
        // With U'y = x - m, the leverage is y'y.
        let (mut sum, mut rest) = (0.0, &self.u[..]);
        for i in 0..d {
            let (row, below) = rest.split_at(d - i);
            let y = self.left[i] * self.scale[i];
            sum += f64::from(y) * f64::from(y);
            for (left, u) in self.left[i + 1..].iter_mut().zip(&row[1..]) {
                *left -= y * u;
            }
            rest = below;
        }
        sum as f32
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::rng::Rng;

    /// The definition, in f64: moments in two passes, then Gaussian elimination with pivoting.
    fn dense(xs: &[Vec<f32>], x: &[f32], eps: f64) -> f64 {
        let d = x.len();
        let wide = |x: &[f32]| x.iter().map(|&x| f64::from(x)).collect::<Vec<_>>();
        let mut mean = vec![0.0; d];
        for x in xs {
            for (m, x) in mean.iter_mut().zip(wide(x)) {
                *m += x / xs.len() as f64;
            }
        }
        let central =
            |x: &[f32]| -> Vec<f64> { wide(x).iter().zip(&mean).map(|(x, m)| x - m).collect() };
        let mut a = vec![vec![0.0; d + 1]; d];
        for x in xs {
            let x = central(x);
            for (i, row) in a.iter_mut().enumerate() {
                for (c, other) in row.iter_mut().zip(&x) {
                    *c += x[i] * other;
                }
            }
        }
        let trace: f64 = a.iter().enumerate().map(|(i, row)| row[i]).sum();
        let right = central(x);
        for (i, row) in a.iter_mut().enumerate() {
            row[i] += eps * trace / d as f64;
            row[d] = right[i];
        }
        for i in 0..d {
            let best = (i..d).max_by(|&a_, &b| a[a_][i].abs().total_cmp(&a[b][i].abs()));
            a.swap(i, best.unwrap());
            for j in 0..d {
                if j != i {
                    let by = a[j][i] / a[i][i];
                    let pivot = a[i].clone();
                    for (x, p) in a[j].iter_mut().zip(&pivot) {
                        *x -= by * p;
                    }
                }
            }
        }
        (0..d).map(|i| right[i] * a[i][d] / a[i][i]).sum()
    }

    /// `n` vectors with a common offset, whose element `j` spreads by `spread` to the power of j.
    fn vectors(n: usize, d: usize, offset: f32, spread: f32, rng: &mut Rng) -> Vec<Vec<f32>> {
        let mut one = || {
            let common = rng.next_f32() - 0.5;
            let element = |j| {
                let own = rng.next_f32() - 0.5;
                offset + (own + 0.5 * common) * spread.powi(j)
            };
            (0..d as i32).map(element).collect()
        };
        (0..n).map(|_| one()).collect()
    }

    #[test]
    fn leverage_is_what_a_dense_solve_finds() {
        let mut rng = Rng::new(1);
        for (n, d, offset, spread, tolerance) in [
            (5, 1, 0.0, 1.0, 1e-5),
            (300, 1, 100.0, 1.0, 1e-4),
            (3, 4, 0.0, 1.0, 1e-5),
            (50, 4, -3.0, 0.3, 1e-4),
            (400, 64, 0.0, 1.0, 1e-5),
            (400, 64, 10.0, 1.0, 1e-4),
            (1000, 64, 0.0, 0.8, 1e-4),
            (20, 64, 1.0, 0.9, 1e-3), // fewer vectors than elements
        ] {
            let xs = vectors(n, d, offset, spread, &mut rng);
            let (mut moments, mut factor) = (Moments::new(d).unwrap(), Factor::new(d).unwrap());
            for x in &xs {
                moments.add(x);
            }
            moments.factor(0.01, &mut factor);
            for x in xs.iter().step_by(n.div_ceil(7)) {
                let (found, expected) = (f64::from(factor.leverage(x)), dense(&xs, x, 0.01));
                assert!(
                    (found - expected).abs() <= tolerance * expected.max(1e-6),
                    "{n} x {d} + {offset}: {found}, expected {expected}"
                );
                assert!(found <= 1.0);
            }
        }
    }

    #[test]
    fn equal_vectors_have_no_leverage() {
        for d in [1, 4, 64] {
            let (mut moments, mut factor) = (Moments::new(d).unwrap(), Factor::new(d).unwrap());
            let x: Vec<f32> = (0..d).map(|i| 0.1 + i as f32 / 3.0).collect();
            moments.factor(0.01, &mut factor);
            assert_eq!(factor.leverage(&x), 0.0);
            for _ in 0..100 {
                moments.add(&x);
            }
            moments.factor(0.01, &mut factor);
            assert_eq!(moments.upper(), vec![0.0; n_upper(d)]);
            assert_eq!(factor.leverage(&x), 0.0);
            assert_eq!(factor.leverage(&vec![5.0; d]), 0.0);
            // One that differs is then the only one that matters.
            let odd = vec![2.0; d];
            moments.add(&odd);
            moments.factor(0.01, &mut factor);
            assert!(factor.leverage(&odd) > 0.9 && factor.leverage(&x) < 0.01);
        }
    }

    #[test]
    fn what_is_not_finite_is_not_counted() {
        let mut moments = Moments::new(2).unwrap();
        let mut factor = Factor::new(2).unwrap();
        for x in [[0.0, 1.0], [f32::NAN, 1.0], [1.0, f32::INFINITY], [1.0, 0.0]] {
            moments.add(&x);
        }
        assert_eq!((moments.n(), moments.mean()), (2, &[0.5, 0.5][..]));
        assert_eq!(moments.upper(), [0.5, -0.5, 0.5]);
        moments.factor(0.01, &mut factor);
        assert!(factor.leverage(&[f32::NAN, 0.0]).is_nan());
        // What overflows f32 leaves no order to tell by, and no NaN.
        moments.add(&[f32::MAX, f32::MAX]);
        moments.factor(0.01, &mut factor);
        assert_eq!(factor.leverage(&[1.0, 0.0]), 0.0);
    }

    #[test]
    fn copies_go_on_alike_and_cleared_ones_begin_anew() {
        let mut rng = Rng::new(2);
        let xs = vectors(40, 8, 1.0, 1.0, &mut rng);
        let [mut a, mut b, mut c] = [(); 3].map(|()| Moments::new(8).unwrap());
        xs.iter().for_each(|x| a.add(x));
        b.copy_from(&a);
        assert_eq!((b.n(), b.mean(), b.upper()), (a.n(), a.mean(), a.upper()));
        a.clear();
        for x in &xs {
            a.add(x);
            c.add(x);
        }
        assert_eq!((a.n(), a.mean(), a.upper()), (c.n(), c.mean(), c.upper()));
        assert_eq!(Moments::bytes(64), 64 * 8 + (64 + 2080) * 4);
    }
}
