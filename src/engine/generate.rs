//! Generation step by step, with drafts: tokens that a repetition in the text suggests.
//!
//! A draft costs little where a token is bounded by reading the weights: one reading serves several
//! tokens. What was drafted is kept only as far as the sampler chooses the same, from the same bits
//! of logits and with the same random numbers as without drafts: so the text is the same, and only
//! comes sooner. Source: Saxena, "Prompt Lookup Decoding" (2023); Leviathan et al., "Fast Inference
//! from Transformers via Speculative Decoding" (2023), for a draft that is one sure guess.

use crate::base::error::{Result, err};
use crate::sampler::Sampler;

use super::control::Control;
use super::params::Logits;
use super::session::Session;

/// The longest end of the text that is looked up.
const LONGEST: usize = 4;
/// The shortest: less repeats by chance.
const SHORTEST: usize = 2;

/// What generation remembers from one step to the next.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Generation {
    /// A token that was sampled and not yet evaluated, and the position that it is for.
    pub(super) next: Option<(i32, u32)>,
    pub(super) n_drafted: u64,
    pub(super) n_accepted: u64,
}

impl Generation {
    /// The text was changed: what was sampled belongs to another.
    pub(super) fn forget(&mut self) {
        self.next = None;
    }
}

impl Session {
    /// One step: chooses the next token and evaluates it, together with at most `n_draft` tokens
    /// that may follow. Writes to `tokens` those that the sampler chose, in order, and gives how
    /// many they are: at least 1. All of them are then in the cache, and the logits are those of
    /// the last; only the best of them, where the head is screened and the sampler wants no more. Nothing is drafted after a token that ends generation.
    ///
    /// Fails as `eval` and `sample` do; the session is then as it was, and the next step begins
    /// with the token that was chosen. Where evaluating fails, that token is in `tokens` already.
    pub fn generate(
        &mut self,
        sampler: &mut Sampler,
        n_draft: u32,
        control: &Control<'_>,
        tokens: &mut [i32],
    ) -> Result<usize> {
        let most = self.runner.max_logits - 1;
        if n_draft as usize > most {
            return Err(err!(
                InvalidArgument,
                "n_draft: found {n_draft}, expected at most {most}, one less than the session's \
                 n_logits"
            ));
        }
        let Some(room) = tokens.len().checked_sub(1) else {
            return Err(err!(InvalidArgument, "tokens: no room, expected at least 1"));
        };
        let pos = self.runner.cache.next_pos();
        let first = match self.generation.next {
            Some((token, at)) if at == pos => token,
            _ => self.sample(sampler)?,
        };
        self.generation.next = Some((first, pos));

        // A draft must not make the session evict or move what it would have kept without, and what is
        // refused of it must leave nothing.
        let cache = &self.runner.cache;
        let free = cache.n_free().min(cache.n_turns_left()).min(cache.n_undisturbed());
        let free = free.min(self.params.n_retractable());
        let n = (n_draft as usize).min(room).min(free.saturating_sub(1));
        tokens[0] = first;
        let n = match self.model().tokenizer().is_eog(first) {
            true => 0,
            false => draft(cache.history().tokens(), first, &mut tokens[1..1 + n]),
        };
        let is_eog = |token: &i32| self.model().tokenizer().is_eog(*token);
        let n = tokens[1..1 + n].iter().position(is_eog).map_or(n, |end| end + 1);
        let best = n == 0 && self.model().info().screened_head && sampler.wants_only_best();
        let logits = if best { Logits::Best } else { Logits::All };
        let (_, ns) = self.run(&tokens[..1 + n], logits, control)?;
        self.generation.next = None;
        self.generation.n_drafted += n as u64;
        let mut kept = 1;
        while kept <= n {
            // What fails here fails again at the next step; what was chosen so far is given first.
            let Ok(chosen) = self.sample_row(sampler, kept - 1) else { break };
            if chosen != tokens[kept] {
                self.generation.next = Some((chosen, pos + kept as u32));
                break;
            }
            kept += 1;
        }
        self.generation.n_accepted += kept as u64 - 1;
        if kept <= n {
            self.runner.truncate(pos + kept as u32)?;
            self.runner.n_logits = kept; // rows stay as they are until the next eval
        }
        let ns = ns + self.settle(kept, control)?;
        self.times.decoded(kept, ns);
        Ok(kept)
    }
}

/// Guesses what follows `text` and then `next`: what followed where the longest end of that, of at
/// most [`LONGEST`] tokens, stood last. Gives how many tokens of `out` it has filled.
fn draft(text: &[i32], next: i32, out: &mut [i32]) -> usize {
    if out.is_empty() {
        return 0;
    }
    for len in (SHORTEST..=LONGEST).rev() {
        let Some(before) = text.len().checked_sub(len - 1) else { continue };
        let end = &text[before..]; // and `next`
        let found = (len - 1..text.len())
            .rev()
            .find(|&at| text[at] == next && text[at + 1 - len..at] == *end && at + 1 < text.len());
        if let Some(at) = found {
            let follow = &text[at + 1..];
            let n = follow.len().min(out.len());
            out[..n].copy_from_slice(&follow[..n]);
            return n;
        }
    }
    0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drafted(text: &[i32], next: i32, most: usize) -> Vec<i32> {
        let mut out = vec![-1; most];
        let n = draft(text, next, &mut out);
        out.truncate(n);
        out
    }

    #[test]
    fn a_draft_is_what_followed_the_same_words_last() {
        let text = [1, 2, 3, 4, 5, 9, 2, 3, 6, 7, 8, 2];
        assert_eq!(drafted(&text, 3, 3), [6, 7, 8]);
        assert_eq!(drafted(&text, 3, 9), [6, 7, 8, 2]);
        assert_eq!(drafted(&text, 4, 3), []); // 2 4 never stood there
        assert_eq!(drafted(&text, 3, 0), []);
    }

    #[test]
    fn a_longer_repetition_wins_over_a_later_one() {
        let text = [5, 1, 2, 3, 7, 7, 9, 2, 3, 8, 8, 5, 1, 2];
        assert_eq!(drafted(&text, 3, 2), [7, 7]);
    }

    #[test]
    fn a_short_text_repeats_nothing() {
        for text in [&[][..], &[1], &[1, 1]] {
            assert_eq!(drafted(text, 2, 4), []);
        }
        assert_eq!(drafted(&[1, 1], 1, 4), []);
        assert_eq!(drafted(&[1, 1, 1], 1, 4), [1]);
    }
}
