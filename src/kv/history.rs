//! The tokens of a sequence, those that were evicted included.

use crate::base::error::Result;
use crate::base::le::{Fields, Put, put_words};
use crate::kv::filled;

/// The most recent tokens of one session by position: 4 bytes each, where keys and values take
/// thousands. What no cache holds any more can be read again from them.
#[derive(Debug)]
pub struct History {
    /// Those that are known, ascending.
    tokens: Vec<i32>,
    /// Position of the first of them.
    first: u32,
    /// How many are known for certain, once there were so many.
    n_known: usize,
    /// How many of `tokens` a batch has brought that is under way.
    n_reserved: usize,
}

impl History {
    /// Of at least the last `n_known` tokens. Allocates all that it will ever need.
    pub fn new(n_known: usize) -> Result<History> {
        let mut tokens = filled(2 * n_known, 0, "tokens")?;
        tokens.clear();
        Ok(History { tokens, first: 0, n_known, n_reserved: 0 })
    }

    /// Bytes that it occupies.
    pub fn bytes(n_known: usize) -> u64 {
        (2 * n_known * size_of::<i32>()) as u64
    }

    /// Tokens that are known, by ascending position, a batch under way included.
    pub fn tokens(&self) -> &[i32] {
        &self.tokens
    }

    /// Position of the first token that is known.
    pub fn first_pos(&self) -> u32 {
        self.first
    }

    /// Position of the next token, a batch under way left out.
    #[inline(never)] // Asked for in many places, and in none of them often.
    pub fn next_pos(&self) -> u32 {
        self.first + (self.tokens.len() - self.n_reserved) as u32
    }

    /// Appends a batch of at most the tokens that are known for certain, not yet for good.
    pub fn reserve(&mut self, tokens: &[i32]) {
        let n = self.tokens.len();
        if n + tokens.len() > 2 * self.n_known {
            let n_gone = n - self.n_known;
            self.tokens.copy_within(n_gone.., 0);
            self.tokens.truncate(self.n_known);
            self.first += n_gone as u32;
        }
        self.tokens.extend_from_slice(tokens);
        self.n_reserved += tokens.len();
    }

    /// Makes the batch part of the sequence.
    pub fn commit(&mut self) {
        self.n_reserved = 0;
    }

    /// Takes the batch back.
    pub fn rollback(&mut self) {
        self.tokens.truncate(self.tokens.len() - self.n_reserved);
        self.n_reserved = 0;
    }

    /// Forgets every token from position `pos` on; the next token will have that position.
    pub fn truncate(&mut self, pos: u32) {
        self.tokens.truncate(pos.saturating_sub(self.first) as usize);
        self.first = self.first.min(pos);
    }

    /// Bytes that [`History::write`] puts.
    pub fn written_len(&self) -> u64 {
        4 + 4 * self.tokens.len() as u64
    }

    /// Puts the position of the first token that is known, and the tokens. No batch is under way.
    pub fn write(&self, put: &mut Put<'_>) -> Result<()> {
        let tokens = self.tokens.iter().map(|&token| token as u32);
        put_words(&mut std::iter::once(self.first).chain(tokens), put)
    }

    /// Takes what [`History::write`] put of a model with so many tokens; of a longer one the last.
    ///
    /// Fails with `SnapshotCorrupt` if it is not what a history can be; this is then of no use.
    #[deny(clippy::arithmetic_side_effects, clippy::indexing_slicing)] // bytes of a file
    pub fn read(&mut self, bytes: &[u8], n_vocab: u32) -> Result<()> {
        let mut fields = Fields::new("tokens", bytes);
        self.first = fields.u32()?;
        let words = fields.words()?;
        let n = words.len();
        let next = u32::try_from(n).ok().and_then(|n| self.first.checked_add(n));
        if next.is_none_or(|next| next == u32::MAX) {
            return Err(fields.wrong("number", n as u64));
        }
        if let Some(bad) = words.clone().find(|&token| token >= n_vocab) {
            return Err(fields.wrong("token", bad.into()));
        }
        let n_gone = n.saturating_sub(self.n_known.saturating_mul(2));
        self.first = self.first.saturating_add(n_gone as u32);
        self.tokens.clear();
        self.tokens.extend(words.skip(n_gone).map(|token| token as i32));
        Ok(())
    }

    /// Takes over what another one of the same size holds.
    pub fn copy_from(&mut self, other: &History) {
        self.tokens.clone_from(&other.tokens);
        (self.first, self.n_reserved) = (other.first, other.n_reserved);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recent_tokens_are_known_by_position() {
        let mut history = History::new(5).unwrap();
        for pos in 0..100u32 {
            assert_eq!(history.next_pos(), pos);
            history.reserve(&[-1, -2]);
            history.rollback();
            history.reserve(&[pos as i32]);
            assert_eq!(history.next_pos(), pos);
            history.commit();
            let first = history.first_pos();
            assert!(history.tokens().iter().zip(first..).all(|(&t, pos)| t == pos as i32));
            assert!(history.tokens().len() >= 5.min(pos as usize + 1));
        }
        let room = history.tokens.capacity();
        history.truncate(98);
        assert_eq!((history.next_pos(), history.tokens().last()), (98, Some(&97)));
        history.truncate(3);
        assert_eq!((history.next_pos(), history.tokens()), (3, &[][..]));
        history.reserve(&[9; 5]);
        history.commit();
        assert_eq!((history.next_pos(), history.tokens.capacity()), (8, room));
    }
}
