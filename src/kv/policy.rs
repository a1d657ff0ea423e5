//! What to evict: pure functions from what a cache holds to what should leave it.

use std::ops::Range;

/// First tokens that are never evicted, where the caller does not say: they draw attention
/// whatever they mean (StreamingLLM, Xiao et al. 2023, arXiv 2309.17453).
pub const DEFAULT_SINKS: usize = 4;

/// The tokens, by order of position, that leave a cache of `n_kv` so that `n_keep` stay: the first
/// `n_sink` and the most recent ones stay.
pub fn window(n_kv: usize, n_sink: usize, n_keep: usize) -> Range<usize> {
    let n_evict = n_kv.saturating_sub(n_keep);
    let first = n_sink.min(n_keep).min(n_kv);
    first..first + n_evict
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_keeps_sinks_and_the_most_recent() {
        assert_eq!(window(8, 2, 5), 2..5);
        assert_eq!(window(8, 4, 8), 4..4);
        assert_eq!(window(8, 4, 2), 2..8);
        assert_eq!(window(0, 4, 2), 0..0);
        assert_eq!(window(8, 0, 0), 0..8);
        for (n_kv, n_sink, n_keep) in [(100, 4, 50), (100, 60, 50), (3, 4, 2), (10, 4, 100)] {
            let gone = window(n_kv, n_sink, n_keep);
            assert_eq!(n_kv - gone.len(), n_kv.min(n_keep));
            assert!(gone.end <= n_kv);
        }
    }
}
