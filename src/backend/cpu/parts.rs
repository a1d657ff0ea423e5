//! Into which parts a phase divides its work on a thread: small enough to stop soon between them.

use std::ops::Range;

use crate::base::brake::Brake;

/// Rows of a weight in the smallest chunk that a thread takes: two groups of packed ones, and a whole
/// number of cache lines of output, so that two threads do not write to one.
pub(super) const ROW_GRAIN: usize = 32;
/// Rows of a group of packed weights, which are multiplied together.
pub(super) const GROUP_ROWS: usize = 16;
/// Columns of an output that are taken through all steps of a phase before the next ones, when there
/// are many tokens: few enough that the steps find them in the cache of the core, and enough that
/// the activations, which each of them reads anew, are read from there no more often than need be.
const CACHED_COLUMNS: usize = 64;
/// The same for few tokens, whose steps read weights from memory: many enough not to be felt, and few
/// enough that a slow memory gives them within a millisecond or two.
const STREAMED_COLUMNS: usize = 4096;

/// Tiles that a block of many tokens goes through at once.
const TILES: usize = 8;

/// The parts of some columns of a matrix of `n` tokens that are gone through one after the other, each a
/// multiple of `grain` columns, until the brake is pulled.
pub(super) fn parts(
    n: usize,
    n_cols: usize,
    grain: usize,
    brake: &Brake<'_>,
) -> impl Iterator<Item = Range<usize>> {
    let is_few = n < GROUP_ROWS;
    let width = if is_few { STREAMED_COLUMNS } else { CACHED_COLUMNS }.next_multiple_of(grain);
    // What few tokens need of a layer is done in less time than it takes to ask often.
    let is_short = is_few && n_cols <= width;
    let all = (0..n_cols).step_by(width).map(move |from| from..n_cols.min(from + width));
    all.take_while(move |_| is_short || !brake.is_pulled())
}

/// Tiles of a block of many tokens, until the brake is pulled.
pub(super) fn tiles(all: Range<usize>, brake: &Brake<'_>) -> impl Iterator<Item = usize> {
    all.take_while(|tile| !tile.is_multiple_of(TILES) || !brake.is_pulled())
}

/// The least common multiple of two lengths.
pub(super) fn lcm(a: usize, b: usize) -> usize {
    (1..=b).map(|i| i * a).find(|n| n.is_multiple_of(b)).unwrap_or(a * b)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::base::error::err;

    /// Where the parts begin and end, and how often the brake was asked.
    fn found(n: usize, n_cols: usize, grain: usize) -> (Vec<(usize, usize)>, usize) {
        let n_asked = AtomicUsize::new(0);
        let ask = || {
            n_asked.fetch_add(1, Ordering::Relaxed);
            Ok(())
        };
        let brake = Brake::new(&ask);
        let parts = parts(n, n_cols, grain, &brake).map(|part| (part.start, part.end)).collect();
        (parts, n_asked.into_inner())
    }

    #[test]
    fn many_tokens_go_through_few_columns_at_a_time() {
        assert_eq!(found(16, 150, 16), (vec![(0, 64), (64, 128), (128, 150)], 3));
        assert_eq!(found(500, 200, 96), (vec![(0, 96), (96, 192), (192, 200)], 3));
        assert_eq!(found(16, 20, 16), (vec![(0, 20)], 1));
        assert_eq!(found(16, 0, 16), (vec![], 0));
    }

    #[test]
    fn few_tokens_go_through_many_and_do_not_ask_for_less() {
        assert_eq!(found(15, 4096, 16), (vec![(0, 4096)], 0));
        assert_eq!(found(1, 10_000, 16), (vec![(0, 4096), (4096, 8192), (8192, 10_000)], 3));
    }

    #[test]
    fn nothing_follows_when_the_brake_is_pulled() {
        let left = AtomicUsize::new(2);
        let ask = || match left.fetch_sub(1, Ordering::Relaxed) {
            0 => Err(err!(Aborted, "enough")),
            _ => Ok(()),
        };
        let brake = Brake::new(&ask);
        assert_eq!(parts(64, 640, 16, &brake).count(), 2);
        assert_eq!(parts(64, 640, 16, &brake).count(), 0);
        assert!(brake.check().is_err());
        assert!(tiles(3..40, &brake).eq(3..8));
    }
}
