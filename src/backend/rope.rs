//! Rotary position embeddings (Su et al. 2021, arXiv 2104.09864) and the ways to stretch them.
//!
//! Every published scaling comes down to one angular frequency for each pair of elements and one
//! factor on the rotated vector, so that is all a device is given:
//!
//! - linear (Chen et al. 2023): all frequencies divided by the factor;
//! - YaRN (Peng et al. 2023, arXiv 2309.00071): high frequencies kept, low ones divided, a ramp
//!   between; the vector scaled by `0.1 ln(factor) + 1`;
//! - factors from the file (Llama 3, LongRoPE): each frequency divided by its own.

use crate::base::error::Result;
use crate::base::heap;

/// Which elements of a head rotate together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// Neighbours: (0, 1), (2, 3), ...
    Norm,
    /// Halves: (0, n/2), (1, n/2 + 1), ...
    Neox,
}

/// How frequencies are stretched beyond the trained context.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Scaling {
    /// Not at all.
    None,
    /// All frequencies divided by the factor.
    Linear {
        /// At least 1.
        factor: f64,
    },
    /// Yet another RoPE extension.
    Yarn {
        /// Ratio of the stretched to the original context.
        factor: f64,
        /// Tokens of context before stretching.
        n_ctx_orig: f64,
        /// How much of the ramp is applied; 1 = all.
        ext_factor: f64,
        /// Further factor on the rotated vector.
        attn_factor: f64,
        /// Rotations within the original context above which a frequency is kept.
        beta_fast: f64,
        /// Rotations below which a frequency is divided.
        beta_slow: f64,
    },
}

/// One rotary embedding, as the file describes it.
#[derive(Debug)]
pub struct Rope {
    /// Elements of a head that rotate; even.
    pub n_dims: usize,
    /// The base of the geometric series of frequencies.
    pub base: f64,
    /// Stretching.
    pub scaling: Scaling,
    /// Divisors of each frequency, `n_dims / 2` of them, or empty.
    pub factors: Vec<f32>,
    /// Divisors instead of `factors` for sessions longer than `n_ctx_short`, or empty.
    pub factors_long: Vec<f32>,
    /// The longest session that uses `factors`.
    pub n_ctx_short: usize,
    /// Factor on the rotated vector that comes with the factors.
    pub factors_scale: f64,
}

/// Frequencies ready for use.
#[derive(Debug)]
pub struct Frequencies {
    /// Radians for each position, one for each pair.
    pub per_pair: Vec<f64>,
    /// Factor on the rotated vector.
    pub scale: f64,
}

impl Rope {
    /// The frequencies for a session of `n_ctx` cells. Fails with `OutOfMemory`.
    pub fn frequencies(&self, n_ctx: usize) -> Result<Frequencies> {
        let long = n_ctx > self.n_ctx_short && !self.factors_long.is_empty();
        let factors = if long { &self.factors_long } else { &self.factors };
        let mut scale = self.factors_scale;
        if let Scaling::Yarn { factor, ext_factor, attn_factor, .. } = self.scaling {
            scale *= attn_factor;
            if ext_factor != 0.0 && factor > 1.0 {
                scale *= 0.1 * factor.ln() + 1.0;
            }
        }
        let per_pair = (0..self.n_dims / 2).map(|i| {
            let plain = self.base.powf(-2.0 * i as f64 / self.n_dims as f64);
            let own = plain / factors.get(i).map_or(1.0, |&f| f64::from(f));
            self.stretch(own, i)
        });
        let per_pair = heap::collect(self.n_dims / 2, per_pair, "frequencies")?;
        Ok(Frequencies { per_pair, scale })
    }

    fn stretch(&self, frequency: f64, i: usize) -> f64 {
        match self.scaling {
            Scaling::None => frequency,
            Scaling::Linear { factor } => frequency / factor,
            Scaling::Yarn { factor, n_ctx_orig, ext_factor, beta_fast, beta_slow, .. } => {
                // The pair whose frequency makes `rotations` turns within the original context.
                let pair_of = |rotations: f64| {
                    let turns = n_ctx_orig / (rotations * std::f64::consts::TAU);
                    self.n_dims as f64 * turns.ln() / (2.0 * self.base.ln())
                };
                let low = pair_of(beta_fast).floor().max(0.0);
                let high = pair_of(beta_slow).ceil().min(self.n_dims as f64 - 1.0);
                let along = ((i as f64 - low) / (high - low).max(0.001)).clamp(0.0, 1.0);
                let kept = (1.0 - along) * ext_factor;
                frequency / factor * (1.0 - kept) + frequency * kept
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rope(scaling: Scaling) -> Rope {
        Rope {
            n_dims: 64,
            base: 10_000.0,
            scaling,
            factors: Vec::new(),
            factors_long: Vec::new(),
            n_ctx_short: usize::MAX,
            factors_scale: 1.0,
        }
    }

    #[test]
    fn yarn_keeps_high_frequencies_and_divides_low_ones() {
        let plain = rope(Scaling::None).frequencies(1).unwrap().per_pair;
        let yarn = rope(Scaling::Yarn {
            factor: 4.0,
            n_ctx_orig: 2048.0,
            ext_factor: 1.0,
            attn_factor: 1.0,
            beta_fast: 32.0,
            beta_slow: 1.0,
        })
        .frequencies(1)
        .unwrap();
        assert_eq!(yarn.per_pair[0], plain[0]);
        assert!((yarn.per_pair[31] - plain[31] / 4.0).abs() < 1e-12);
        assert!((yarn.scale - (0.1 * 4f64.ln() + 1.0)).abs() < 1e-12);
    }

    #[test]
    fn long_sessions_use_the_long_factors() {
        let mut r = rope(Scaling::None);
        r.factors = vec![1.0; 32];
        r.factors_long = vec![2.0; 32];
        r.n_ctx_short = 100;
        assert_eq!(r.frequencies(100).unwrap().per_pair[0], 1.0);
        assert_eq!(r.frequencies(101).unwrap().per_pair[0], 0.5);
    }
}
