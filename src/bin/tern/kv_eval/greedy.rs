//! What a smaller cache writes, beside what the full one writes after the same prompt.
//!
//! Each token is the most probable one, so that one that is another makes all that follows another
//! text: these figures show whether text stays text, and are no measure of how much was lost.

use std::collections::HashMap;

use tern::engine::Logits;

use super::super::args::Result;
use super::super::interrupt::{self, Guard};
use super::super::output::Progress;
use super::lane::Lane;
use super::measure::{Bench, CHUNK, F16};
use super::policy::{self, Policy};
use super::segments;

/// Tokens written for each of the prompt's, and for each of the slots.
pub(crate) const TIMES: u32 = 4;
/// The least tokens that can be written: each layer has its turn to be cut back then.
pub(crate) const LEAST_TOKENS: u32 = 128;

/// What came of one policy.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Written {
    /// Prompts, one of each text.
    pub(crate) n_prompts: u32,
    /// Tokens after each.
    pub(crate) n_tokens: u32,
    /// Slots of each KV head.
    pub(crate) slots: u32,
    /// Tokens up to the first that is another, in the mean over prompts.
    pub(crate) prefix: f64,
    /// ROUGE-L: the longest common subsequence as a part of the text, in the mean.
    pub(crate) rouge_l: f64,
    /// F1 of the tokens, whatever their order, in the mean.
    pub(crate) f1: f64,
    /// Times that layers were cut back.
    pub(crate) n_evictions: u64,
    /// The most tokens held.
    pub(crate) peak_slots: u32,
}

impl Bench<'_> {
    /// Lets the full cache and each policy write `n` tokens after a prompt of a quarter of that, with
    /// as many slots as the prompt has tokens.
    pub(crate) fn write(&self, n: u32, policies: &[&'static Policy]) -> Result<Vec<Written>> {
        let n_prompt = n / TIMES;
        let prompts = segments::choose(self.model, self.texts, 1, n_prompt as usize, self.seed)?;
        let whole = n_prompt + n;
        let mut full = Lane::new(self.model, &self.params(whole, F16), policy::full(), whole)?;
        let lanes = policies.iter().map(|policy| {
            let least = n_prompt + CHUNK;
            let n_ctx = if policy.is_bounded() { least } else { least.max(whole) };
            let params = self.params(n_ctx, self.common.kv_types);
            Lane::with_budget(self.model, &params, policy, n_prompt)
        });
        let mut lanes = lanes.collect::<Result<Vec<_>>>()?;
        let mut found = vec![Written::default(); lanes.len()];
        let guard = interrupt::guard();
        let mut progress = Progress::new();
        for (i, prompt) in prompts.iter().enumerate() {
            progress.show(format!("text {} of {}", i + 1, prompts.len()));
            let expected = self.written(&mut full, &prompt.tokens, n, &guard)?;
            for (lane, found) in lanes.iter_mut().zip(&mut found) {
                let text = self.written(lane, &prompt.tokens, n, &guard)?;
                let same = text.iter().zip(&expected).take_while(|(a, b)| a == b).count();
                found.prefix += same as f64;
                found.rouge_l += common_subsequence(&text, &expected) as f64 / f64::from(n);
                found.f1 += common_tokens(&text, &expected) as f64 / f64::from(n);
            }
        }
        for (lane, found) in lanes.iter().zip(&mut found) {
            let n_prompts = prompts.len() as f64;
            for sum in [&mut found.prefix, &mut found.rouge_l, &mut found.f1] {
                *sum /= n_prompts;
            }
            (found.n_prompts, found.n_tokens) = (prompts.len() as u32, n);
            found.slots = if lane.evicts() { n_prompt } else { whole };
            (found.n_evictions, found.peak_slots) = (lane.n_evictions(), lane.counters.peak_slots);
        }
        Ok(found)
    }

    /// `n` tokens after a prompt, none of which ends the text: both texts are of one length then.
    fn written(&self, lane: &mut Lane, prompt: &[i32], n: u32, guard: &Guard) -> Result<Vec<i32>> {
        lane.restart()?;
        lane.eval(prompt, Logits::Last, guard)?;
        let mut tokens = Vec::new();
        loop {
            let token = self.best(lane.logits(0)?);
            tokens.push(token);
            if tokens.len() == n as usize {
                return Ok(tokens);
            }
            lane.eval(&[token], Logits::Last, guard)?;
        }
    }

    /// The most probable token that does not end the text, the first of equals.
    fn best(&self, logits: &[f32]) -> i32 {
        let tokenizer = self.model.tokenizer();
        let (mut best, mut max) = (0, f32::NEG_INFINITY);
        for (token, &x) in (0..).zip(logits) {
            if x > max && !tokenizer.is_eog(token) {
                (best, max) = (token, x);
            }
        }
        best
    }
}

/// Tokens of the longest sequence that both have in this order, with others in between or not.
fn common_subsequence(a: &[i32], b: &[i32]) -> usize {
    // Of the tokens of `a` so far, with the first `j` of `b`.
    let mut longest = vec![0; b.len() + 1];
    for x in a {
        let mut before = 0; // without this token and with one less of `b`
        for (j, y) in b.iter().enumerate() {
            let above = longest[j + 1];
            longest[j + 1] = if x == y { before + 1 } else { above.max(longest[j]) };
            before = above;
        }
    }
    longest[b.len()]
}

/// Tokens that both have, each as often as both have it. Of texts of one length that is, as a part of
/// it, precision, recall and F1.
fn common_tokens(a: &[i32], b: &[i32]) -> usize {
    let mut left: HashMap<i32, u32> = HashMap::new();
    b.iter().for_each(|token| *left.entry(*token).or_insert(0) += 1);
    let mut take = |token: &i32| {
        let n = left.get_mut(token).filter(|n| **n > 0);
        n.map(|n| *n -= 1).is_some()
    };
    a.iter().filter(|token| take(token)).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_those_of_their_definitions() {
        let (a, b) = ([1, 2, 3, 4, 1], [2, 9, 4, 1, 1]);
        assert_eq!(common_subsequence(&a, &b), 3); // 2 4 1
        assert_eq!(common_subsequence(&b, &a), 3);
        assert_eq!(common_subsequence(&a, &a), 5);
        assert_eq!(common_subsequence(&a, &[]), 0);
        assert_eq!(common_subsequence(&[1, 2], &[3, 4]), 0);
        assert_eq!(common_tokens(&a, &b), 4); // 1 twice, 2, 4
        assert_eq!(common_tokens(&[1, 1, 1], &[1, 2, 3]), 1);
        assert_eq!(common_tokens(&a, &a), 5);
    }
}
