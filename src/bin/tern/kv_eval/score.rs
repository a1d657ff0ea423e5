//! How far the logits of a smaller cache are from those of the full one.

use tern::Error;
use tern::base::error::Sentence;

use super::super::args::{Failure, Result};

/// A row of logits as probabilities, in double precision over the whole vocabulary.
#[derive(Default)]
pub(crate) struct Row {
    p: Vec<f64>,
    log_p: Vec<f64>,
    best: usize,
}

/// Sums over scored tokens.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Score {
    /// Tokens scored.
    pub(crate) n_tokens: u64,
    /// -ln p of what the text goes on with, by the full cache.
    pub(crate) nll_full: f64,
    /// The same, by this one.
    pub(crate) nll: f64,
    /// Kullback-Leibler divergence of this one from the full one, in nats.
    pub(crate) kld: f64,
    /// Tokens that both find most probable.
    pub(crate) n_agree: u64,
}

impl Row {
    /// Takes over a row of logits.
    pub(crate) fn set(&mut self, logits: &[f32]) -> Result<()> {
        let mut max = f64::NEG_INFINITY;
        for (i, &x) in logits.iter().enumerate() {
            // The first of equals, as a greedy sampler chooses.
            if f64::from(x) > max {
                (self.best, max) = (i, f64::from(x));
            }
        }
        self.p.clear();
        self.p.extend(logits.iter().map(|&x| (f64::from(x) - max).exp()));
        let sum: f64 = self.p.iter().sum();
        if !sum.is_finite() {
            return Err(not_finite());
        }
        self.p.iter_mut().for_each(|p| *p /= sum);
        self.log_p.clear();
        self.log_p.extend(logits.iter().map(|&x| f64::from(x) - max - sum.ln()));
        Ok(())
    }

    /// ln of a token's probability.
    pub(crate) fn log_p(&self, token: i32) -> Result<f64> {
        let found = usize::try_from(token).ok().and_then(|token| self.log_p.get(token));
        found.copied().filter(|log_p| log_p.is_finite()).ok_or_else(not_finite)
    }

    /// Whether a token is the most probable.
    pub(crate) fn is_best(&self, token: i32) -> bool {
        usize::try_from(token) == Ok(self.best)
    }
}

impl Score {
    /// Adds a token: what both caches say of it, and what the text has.
    pub(crate) fn add(&mut self, full: &Row, row: &Row, target: i32) -> Result<()> {
        let terms = full.p.iter().zip(&full.log_p).zip(&row.log_p);
        // What the full cache finds impossible adds nothing.
        let kld: f64 = terms.filter(|((p, _), _)| **p > 0.0).map(|((p, f), r)| p * (f - r)).sum();
        if !kld.is_finite() {
            return Err(not_finite());
        }
        self.n_tokens += 1;
        self.nll_full -= full.log_p(target)?;
        self.nll -= row.log_p(target)?;
        self.kld += kld.max(0.0); // less than nothing is rounding
        self.n_agree += u64::from(full.best == row.best);
        Ok(())
    }
}

fn not_finite() -> Failure {
    Failure::Error(Error::NotFinite(Sentence::new(format_args!(
        "the logits are not finite, so that there is nothing to compare"
    ))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(p: &[f32]) -> Row {
        let mut row = Row::default();
        row.set(&p.iter().map(|p| p.ln() + 3.0).collect::<Vec<_>>()).unwrap();
        row
    }

    #[test]
    fn scores_are_those_of_the_definitions() {
        let (full, other) = (row(&[0.5, 0.25, 0.25]), row(&[0.25, 0.25, 0.5]));
        let mut score = Score::default();
        score.add(&full, &other, 0).unwrap();
        // 0.5 ln 2 + 0 - 0.25 ln 2
        assert!((score.kld - 0.25 * 2f64.ln()).abs() < 1e-6);
        assert!((score.nll_full - 2f64.ln()).abs() < 1e-6);
        assert!((score.nll - 4f64.ln()).abs() < 1e-6);
        assert_eq!((score.n_tokens, score.n_agree), (1, 0));
        score.add(&other, &full, 2).unwrap();
        assert!((score.kld - 0.5 * 2f64.ln()).abs() < 1e-6);
    }

    #[test]
    fn equal_rows_differ_by_exactly_nothing() {
        let (full, other) = (row(&[0.1, 0.2, 0.7]), row(&[0.1, 0.2, 0.7]));
        let mut score = Score::default();
        score.add(&full, &other, 1).unwrap();
        assert_eq!((score.kld, score.n_agree), (0.0, 1));
        assert_eq!(score.nll, score.nll_full);
        assert!(full.is_best(2) && !full.is_best(-1));
    }

    #[test]
    fn what_is_not_finite_is_an_error() {
        let mut bad = Row::default();
        assert!(bad.set(&[0.0, f32::NAN]).is_err());
        assert!(bad.set(&[f32::INFINITY, 0.0]).is_err());
        let full = row(&[0.5, 0.5]);
        bad.set(&[f32::NEG_INFINITY, 0.0]).unwrap();
        assert!(Score::default().add(&full, &bad, 1).is_err());
        assert!(Score::default().add(&full, &full, 2).is_err());
    }
}
