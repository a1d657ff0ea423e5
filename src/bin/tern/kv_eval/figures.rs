//! From scores to figures: means over segments, and how sure they are.

use tern::base::rng::Rng;

use super::score::Score;
use super::segments::below;

/// Samples of the segments, with repetition, that an interval is taken from.
const RESAMPLES: usize = 2000;

/// A mean over segments, and where 95 of 100 such means lie.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Figure {
    /// The mean.
    pub(crate) mean: f64,
    /// The lower end of the interval.
    pub(crate) low: f64,
    /// The upper end.
    pub(crate) high: f64,
}

/// What is said of a policy. In the order of [`NAMES`].
pub(crate) type Figures = [Figure; 5];

/// The names of the figures.
pub(crate) const NAMES: [&str; 5] = ["ppl_full", "ppl", "q_ppl", "kld", "agree"];
/// Where in [`Figures`] the perplexity of the full cache stands.
pub(crate) const PPL_FULL: usize = 0;
/// Where the perplexity stands.
pub(crate) const PPL: usize = 1;
/// Where the quality by perplexity stands.
pub(crate) const Q_PPL: usize = 2;
/// Where the divergence stands.
pub(crate) const KLD: usize = 3;
/// Where the agreement stands.
pub(crate) const AGREE: usize = 4;

/// The figures of some segments.
pub(crate) fn figures(scores: &[Score], seed: u64) -> Figures {
    let means = means(scores.iter());
    let mut rng = Rng::new(seed);
    let mut columns = NAMES.map(|_| Vec::with_capacity(RESAMPLES));
    for _ in 0..RESAMPLES {
        let sample = scores.iter().map(|_| &scores[below(&mut rng, scores.len())]);
        for (column, mean) in columns.iter_mut().zip(self::means(sample)) {
            column.push(mean);
        }
    }
    let mut i = 0;
    columns.map(|mut column| {
        column.sort_unstable_by(f64::total_cmp);
        let at = |part: f64| column[((RESAMPLES - 1) as f64 * part).round() as usize];
        let figure = Figure { mean: means[i], low: at(0.025), high: at(0.975) };
        i += 1;
        figure
    })
}

/// The means of some segments, all of as many tokens: of what is said in logarithms for the
/// perplexities, and of what each segment has for the others.
fn means<'a>(scores: impl Iterator<Item = &'a Score>) -> [f64; 5] {
    let (mut sums, mut n) = ([0.0; 5], 0.0);
    for score in scores {
        let n_tokens = score.n_tokens.max(1) as f64;
        let (full, this) = (score.nll_full / n_tokens, score.nll / n_tokens);
        let agree = score.n_agree as f64 / n_tokens;
        let found = [full, this, (full - this).exp(), score.kld / n_tokens, agree];
        sums.iter_mut().zip(found).for_each(|(sum, x)| *sum += x);
        n += 1.0;
    }
    let [full, this, q_ppl, kld, agree] = sums.map(|sum| sum / n);
    [full.exp(), this.exp(), q_ppl, kld, agree]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn score(nll: f64) -> Score {
        Score { n_tokens: 10, nll_full: 10.0, nll: 10.0 * nll, kld: 5.0, n_agree: 9 }
    }

    #[test]
    fn figures_are_means_and_intervals_hold_them() {
        let scores: Vec<Score> = (0..8).map(|i| score(1.0 + f64::from(i) / 10.0)).collect();
        let [full, this, q_ppl, kld, agree] = figures(&scores, 1);
        assert!((full.mean - 1f64.exp()).abs() < 1e-12);
        assert!((this.mean - 1.35f64.exp()).abs() < 1e-12);
        let expected = (0..8).map(|i| (-f64::from(i) / 10.0).exp()).sum::<f64>() / 8.0;
        assert!((q_ppl.mean - expected).abs() < 1e-12);
        assert!((kld.mean - 0.5).abs() < 1e-12 && (agree.mean - 0.9).abs() < 1e-12);
        assert!(q_ppl.low < q_ppl.mean && q_ppl.mean < q_ppl.high);
        assert!(expected - 0.2 < q_ppl.low && q_ppl.high < expected + 0.2);
        assert_eq!((full.low, full.high), (full.mean, full.mean));
        assert_eq!(figures(&scores, 1), figures(&scores, 1));
    }

    #[test]
    fn one_segment_is_its_own_interval() {
        for figure in figures(&[score(2.0)], 3) {
            assert_eq!((figure.low, figure.high), (figure.mean, figure.mean));
        }
    }

    #[test]
    fn what_is_equal_is_exactly_one() {
        let same = Score { n_tokens: 7, nll_full: 12.345, nll: 12.345, kld: 0.0, n_agree: 7 };
        let [full, this, q_ppl, kld, agree] = figures(&[same; 3], 1);
        assert_eq!(full, this);
        assert_eq!((q_ppl.mean, kld.mean, agree.mean), (1.0, 0.0, 1.0));
    }
}
