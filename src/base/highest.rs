//! The highest logit of every chunk of a row: what choosing among many tokens begins with.
//!
//! A head can find them while the logits are in a register or a cache, and a sampler then reads only
//! the chunks that matter: top-k 40 of 262,144 tokens needs some 40 of 256 chunks.

use std::sync::atomic::{AtomicU32, Ordering};

use super::error::{Result, err};
use super::order::{from_ordered, ordered};

/// Logits that share a highest one.
pub const CHUNK: usize = 1024;

/// The highest logits of the chunks of some rows. Several threads may take note at once.
#[derive(Debug)]
pub struct Highest {
    /// By row, then by chunk, as [`rank`] has them.
    ranks: Vec<AtomicU32>,
    n_chunks: usize,
}

impl Highest {
    /// Room for `n_rows` rows of `n_vocab` logits.
    pub fn new(n_rows: usize, n_vocab: usize) -> Result<Highest> {
        let n_chunks = n_vocab.div_ceil(CHUNK);
        let mut ranks = Vec::new();
        ranks
            .try_reserve_exact(n_rows * n_chunks)
            .map_err(|_| err!(OutOfMemory, "no memory for the highest of {n_vocab} logits"))?;
        ranks.resize_with(n_rows * n_chunks, || AtomicU32::new(0));
        Ok(Highest { ranks, n_chunks })
    }

    /// The bytes that [`Highest::new`] allocates.
    pub fn bytes(n_rows: usize, n_vocab: usize) -> u64 {
        (n_rows * n_vocab.div_ceil(CHUNK)) as u64 * 4
    }

    /// Forgets what was noted of a row: no logit is known of any chunk.
    pub fn clear(&self, row: usize) {
        self.row(row).iter().for_each(|rank| rank.store(0, Ordering::Relaxed));
    }

    /// Takes note of logits `first` and following of a row.
    pub fn note(&self, row: usize, first: usize, logits: &[f32]) {
        let mut left = logits;
        let mut at = first;
        while !left.is_empty() {
            let (now, later) = left.split_at(left.len().min(CHUNK - at % CHUNK));
            // Whoever reads has waited for the threads that write: nothing else is to be ordered.
            self.row(row)[at / CHUNK].fetch_max(rank(of_finite(now)), Ordering::Relaxed);
            (left, at) = (later, at + now.len());
        }
    }

    /// The highest logit of every chunk of a row; `None` of one in which a logit is not finite, or of
    /// which nothing was noted: it is to be looked over.
    pub fn of_row(&self, row: usize) -> impl Iterator<Item = Option<f32>> {
        self.row(row).iter().map(|rank| logit(rank.load(Ordering::Relaxed)))
    }

    fn row(&self, row: usize) -> &[AtomicU32] {
        &self.ranks[row * self.n_chunks..][..self.n_chunks]
    }
}

/// A number that grows with the logit; the greatest of all for what is no logit. None is 0.
fn rank(highest: Option<f32>) -> u32 {
    highest.map_or(u32::MAX, ordered)
}

/// What has this rank.
fn logit(rank: u32) -> Option<f32> {
    match rank {
        0 | u32::MAX => None,
        _ => Some(from_ordered(rank)),
    }
}

/// The highest of some logits, at least one; `None` where one is not finite.
fn of_finite(logits: &[f32]) -> Option<f32> {
    let magnitude = |logit: f32| logit.to_bits() & !(1 << 31);
    // Side by side, and not pairs, so that both are vectors.
    let (mut lanes, mut magnitudes) = ([f32::NEG_INFINITY; 16], [0; 16]);
    let (whole, rest) = logits.as_chunks::<16>();
    for group in whole {
        for (lane, &logit) in lanes.iter_mut().zip(group) {
            *lane = higher(*lane, logit);
        }
        for (most, &logit) in magnitudes.iter_mut().zip(group) {
            *most = magnitude(logit).max(*most);
        }
    }
    let highest = lanes.iter().chain(rest).fold(f32::NEG_INFINITY, |max, &l| higher(max, l));
    let most = magnitudes.into_iter().chain(rest.iter().map(|&logit| magnitude(logit)));
    (most.fold(0, u32::max) < f32::INFINITY.to_bits()).then_some(highest)
}

/// The highest of some logits; `None` where one is NaN or infinite. Minus infinity bans a token, and
/// is the highest of none.
pub fn look_over(logits: &[f32]) -> Option<f32> {
    // For a maximum the order does not matter. Two logits can be asked at once whether either is
    // NaN, and infinity shows in the maximum.
    let mut lanes = [f32::NEG_INFINITY; 16];
    let mut nan = [0_u32; 4];
    let (whole, rest) = logits.as_chunks::<32>();
    for group in whole {
        for (i, lane) in lanes.iter_mut().enumerate() {
            *lane = higher(*lane, higher(group[i + 16], group[i]));
        }
        for (i, nan) in nan.iter_mut().enumerate() {
            for (a, b) in [(0, 4), (8, 12), (16, 20), (24, 28)] {
                *nan |= if group[a + i].is_nan() | group[b + i].is_nan() { u32::MAX } else { 0 };
            }
        }
    }
    let nan = nan.iter().fold(0, |any, &nan| any | nan) != 0 || rest.iter().any(|l| l.is_nan());
    let mut four = [f32::NEG_INFINITY; 4];
    for lanes in lanes.as_chunks::<4>().0 {
        for (max, &lane) in four.iter_mut().zip(lanes) {
            *max = higher(*max, lane);
        }
    }
    let max = four.iter().chain(rest).fold(f32::NEG_INFINITY, |max, &l| higher(max, l));
    (!nan && max < f32::INFINITY).then_some(max)
}

/// The higher of two numbers; the second may be NaN and is ignored then.
#[inline]
fn higher(a: f32, b: f32) -> f32 {
    if b > a { b } else { a }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_order_all_logits() {
        let all = [
            f32::NEG_INFINITY,
            f32::MIN,
            -1.0,
            -f32::MIN_POSITIVE,
            -1e-45,
            -0.0,
            0.0,
            1e-45,
            1.0,
            f32::MAX,
        ];
        for pair in all.windows(2) {
            assert!(rank(Some(pair[0])) < rank(Some(pair[1])), "{pair:?}");
        }
        for x in all {
            assert_eq!(logit(rank(Some(x))).map(f32::to_bits), Some(x.to_bits()));
            assert!(rank(Some(x)) > 0 && rank(Some(x)) < rank(None));
        }
        assert_eq!(logit(0), None);
        assert_eq!(logit(rank(None)), None);
    }

    #[test]
    fn parts_in_any_order_give_the_highest_of_whole_chunks() {
        let n = 3 * CHUNK + 77;
        let logits: Vec<f32> = (0..n).map(|i| ((i * 7919) % 5003) as f32 - 2500.0).collect();
        let highest = Highest::new(2, n).unwrap();
        for row in [1, 0] {
            highest.clear(row);
            let mut parts: Vec<(usize, &[f32])> =
                logits.chunks(96).enumerate().map(|(i, part)| (96 * i, part)).collect();
            parts.reverse();
            parts.iter().for_each(|(first, part)| highest.note(row, *first, part));
            let whole: Vec<_> = logits.chunks(CHUNK).map(look_over).collect();
            assert_eq!(highest.of_row(row).collect::<Vec<_>>(), whole);
        }
        highest.clear(1);
        assert!(highest.of_row(1).all(|chunk| chunk.is_none()));
        assert!(highest.of_row(0).all(|chunk| chunk.is_some()));
    }

    #[test]
    fn what_is_no_logit_shows() {
        for bad in [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            for at in [0, 31, 32, 63, 70] {
                let mut logits = [1.0; 71];
                logits[at] = bad;
                let banned = bad == f32::NEG_INFINITY;
                assert_eq!(look_over(&logits), banned.then_some(1.0), "{bad} at {at}");
                let highest = Highest::new(1, 71).unwrap();
                highest.note(0, 0, &logits[..40]);
                highest.note(0, 40, &logits[40..]);
                assert_eq!(highest.of_row(0).next(), Some(None));
            }
        }
        assert_eq!(look_over(&[]), Some(f32::NEG_INFINITY));
        assert_eq!(look_over(&[f32::NEG_INFINITY; 40]), Some(f32::NEG_INFINITY));
    }
}
