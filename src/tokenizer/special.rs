//! Special tokens: finding tokens in a text as a whole, before it is tokenized.

use super::vocab::{Kind, Vocab, reserve_exact};
use crate::base::error::Result;

/// Tokens to look for: their ids, in the order of their texts.
pub(super) struct Special {
    ids: Vec<u32>,
    /// Where the texts that begin with each byte begin in `ids`; one more for the end.
    first: Vec<u32>,
}

impl Special {
    /// Collects the tokens of these kinds.
    pub(super) fn new(vocab: &Vocab, kinds: &[Kind]) -> Result<Special> {
        let wanted = |id: &u32| {
            let text = vocab.text(*id).unwrap_or(&[]);
            !text.is_empty() && vocab.kind(*id).is_some_and(|kind| kinds.contains(&kind))
        };
        let all = 0..vocab.len() as u32; // at most MAX_TOKENS
        let mut special = Special { ids: Vec::new(), first: Vec::new() };
        reserve_exact(&mut special.ids, all.clone().filter(wanted).count())?;
        special.ids.extend(all.filter(wanted));
        // Of equal texts the first token comes first, and the others are dropped.
        special.ids.sort_unstable_by_key(|&id| (vocab.text(id), id));
        special.ids.dedup_by_key(|id| vocab.text(*id));
        reserve_exact(&mut special.first, 257)?;
        for byte in 0..=256 {
            let below = |&id: &u32| first_byte(vocab, id) < byte;
            special.first.push(special.ids.partition_point(below) as u32);
        }
        Ok(special)
    }

    /// Finds the first place where a token is, and there the longest one: its place and id. O(n) in
    /// the length of the text, times the length of the longest token.
    pub(super) fn find(&self, vocab: &Vocab, text: &[u8]) -> Option<(usize, u32)> {
        if self.ids.is_empty() {
            return None;
        }
        (0..text.len()).find_map(|at| Some((at, self.longest(vocab, text.get(at..)?)?)))
    }

    /// The longest token that `text` begins with.
    fn longest(&self, vocab: &Vocab, text: &[u8]) -> Option<u32> {
        let first = usize::from(*text.first()?);
        let (&begin, &end) = (self.first.get(first)?, self.first.get(first + 1)?);
        let mut candidates = self.ids.get(begin as usize..end as usize)?;
        let mut best = None;
        // All candidates agree with the text up to `depth`; in their order, the one that ends
        // there comes first.
        let mut depth = 1;
        while let Some(&id) = candidates.first() {
            if vocab.text(id).is_some_and(|t| t.len() == depth) {
                best = Some(id);
                candidates = candidates.get(1..)?;
            }
            let Some(byte) = text.get(depth) else { break };
            let next = |id: &u32| vocab.text(*id).and_then(|t| t.get(depth));
            let begin = candidates.partition_point(|id| next(id) < Some(byte));
            let end = candidates.partition_point(|id| next(id) <= Some(byte));
            candidates = candidates.get(begin..end)?;
            depth += 1;
        }
        best
    }

    /// Bytes of memory it owns.
    pub(super) fn heap_bytes(&self) -> usize {
        4 * (self.ids.capacity() + self.first.capacity())
    }
}

fn first_byte(vocab: &Vocab, id: u32) -> usize {
    vocab.text(id).and_then(|text| text.first()).map_or(0, |&byte| usize::from(byte))
}
