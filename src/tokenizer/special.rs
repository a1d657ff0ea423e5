//! Special tokens: finding tokens in a text as a whole, before it is tokenized.

use super::list::{count, heap_bytes, reserve_exact};
use super::vocab::{Kind, Vocab};
use crate::base::error::Result;
use crate::base::order::sort_numbers;

/// Tokens to look for: their ids, in the order of their texts.
pub(super) struct Special {
    ids: Vec<u32>,
    /// Where the texts that begin with each byte begin in `ids`; one more for the end.
    first: Vec<u32>,
    /// Whether any text begins with a byte.
    begins: [bool; 256],
}

impl Special {
    /// Collects two sets: the user-defined tokens, and with them those of control and the unknown.
    pub(super) fn both(vocab: &Vocab) -> Result<(Special, Special)> {
        let wanted = |id: &u32| {
            let kind = vocab.kind(*id);
            matches!(kind, Some(Kind::UserDefined | Kind::Control | Kind::Unknown))
                && vocab.text(*id).is_some_and(|text| !text.is_empty())
        };
        let all = 0..vocab.len() as u32; // at most MAX_TOKENS
        let mut sorted = Vec::new();
        reserve_exact(&mut sorted, count(all.clone().filter(wanted)))?;
        sorted.extend(all.filter(wanted));
        let text = |id| vocab.text(id).unwrap_or(&[]);
        sort_numbers(&mut sorted, &mut |a, b| text(a).cmp(text(b)).then(a.cmp(&b)));
        let user = |&id: &u32| vocab.kind(id) == Some(Kind::UserDefined);
        let ids = sorted.iter().copied();
        Ok((Special::new(vocab, ids.clone().filter(user))?, Special::new(vocab, ids)?))
    }

    /// Takes tokens in the order of their texts, those of one text in the order of their ids.
    fn new(vocab: &Vocab, ids: impl Iterator<Item = u32> + Clone) -> Result<Special> {
        let mut special = Special { ids: Vec::new(), first: Vec::new(), begins: [false; 256] };
        reserve_exact(&mut special.ids, count(ids.clone()))?;
        special.ids.extend(ids);
        // Of equal texts the first token comes first, and the others are dropped.
        special.ids.dedup_by_key(|id| vocab.text(*id));
        reserve_exact(&mut special.first, 257)?;
        for byte in 0..=256 {
            let below = |&id: &u32| first_byte(vocab, id) < byte;
            special.first.push(special.ids.partition_point(below) as u32);
        }
        for (begins, pair) in special.begins.iter_mut().zip(special.first.windows(2)) {
            *begins = pair.first() < pair.last();
        }
        Ok(special)
    }

    /// Finds the first place where a token is, and there the longest one: its place and id. O(n) in
    /// the length of the text, times the length of the longest token.
    pub(super) fn find(&self, vocab: &Vocab, text: &[u8]) -> Option<(usize, u32)> {
        if self.ids.is_empty() {
            return None;
        }
        let begins = |byte: &u8| self.begins.get(usize::from(*byte)).copied().unwrap_or(true);
        let mut at = 0_usize;
        loop {
            at = at.saturating_add(text.get(at..)?.iter().position(begins)?);
            if let Some(id) = self.longest(vocab, text.get(at..)?) {
                return Some((at, id));
            }
            at = at.saturating_add(1);
        }
    }

    /// The longest token that `text` begins with.
    fn longest(&self, vocab: &Vocab, text: &[u8]) -> Option<u32> {
        let first = usize::from(*text.first()?);
        let &[begin, end] = self.first.get(first..)?.first_chunk()?;
        let mut candidates = self.ids.get(begin as usize..end as usize)?;
        let mut best = None;
        // All candidates agree with the text up to `depth`; in their order, the one that ends
        // there comes first.
        let mut depth = 1_usize;
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
            depth = depth.saturating_add(1);
        }
        best
    }

    /// Bytes of memory it owns.
    pub(super) fn heap_bytes(&self) -> usize {
        heap_bytes(&self.ids).saturating_add(heap_bytes(&self.first))
    }
}

fn first_byte(vocab: &Vocab, id: u32) -> usize {
    vocab.text(id).and_then(|text| text.first()).map_or(0, |&byte| usize::from(byte))
}
