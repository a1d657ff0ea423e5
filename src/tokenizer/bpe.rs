//! Byte-pair encoding: of all adjacent pairs of tokens, the one whose merge comes first in the
//! file's list becomes one token, until no pair has a merge.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::hint::black_box;

use super::cache::Cache;
use super::list::{reserve, take_out};
use super::merges::Merges;
use super::spelling::Spelling;
use super::vocab::{NONE, Vocab};
use crate::base::error::{Error, Result, err};

/// Most symbols of a word whose pairs are not queued.
const SHORT: usize = 32;

/// A token of the word, in a chain. Merged away: `id` is NONE.
#[derive(Clone, Copy)]
struct Symbol {
    id: u32,
    prev: u32,
    next: u32,
}

/// Turns words into tokens; keeps its memory from word to word.
pub(super) struct Encoder<'a> {
    vocab: &'a Vocab,
    merges: &'a Merges,
    spelling: Spelling,
    unknown: Option<u32>,
    whole_words: bool,
    cache: Cache,
    symbols: Vec<Symbol>,
    /// Rank and place of each pair that has a merge, packed: the lowest rank first, and of equal
    /// ranks the leftmost.
    queue: BinaryHeap<Reverse<u64>>,
}

impl<'a> Encoder<'a> {
    /// `unknown` replaces what the vocabulary cannot spell; if there is none, that is left out.
    /// With `whole_words`, a word that is a token is left whole whatever the merges say.
    pub(super) fn new(
        vocab: &'a Vocab,
        merges: &'a Merges,
        spelling: Spelling,
        unknown: Option<u32>,
        whole_words: bool,
        cache: Cache,
    ) -> Encoder<'a> {
        let (symbols, queue) = (Vec::new(), BinaryHeap::new());
        Encoder { vocab, merges, spelling, unknown, whole_words, cache, symbols, queue }
    }

    /// Appends the tokens of one word. O(n log n) in its length.
    #[inline]
    pub(super) fn word(&mut self, word: &str, out: &mut Vec<i32>) -> Result<()> {
        let Some(place) = self.cache.place(word.as_bytes()) else { return self.encode(word, out) };
        if let Some(tokens) = self.cache.get(place) {
            reserve(out, tokens.len())?;
            out.extend_from_slice(tokens);
            return Ok(());
        }
        let n = out.len();
        self.encode(word, out)?;
        self.cache.put(place, out.get(n..).unwrap_or(&[]));
        Ok(())
    }

    fn encode(&mut self, word: &str, out: &mut Vec<i32>) -> Result<()> {
        if let Some(id) = self.whole_words.then(|| self.vocab.lookup(word.as_bytes())).flatten() {
            reserve(out, 1)?;
            out.push(id as i32);
            return Ok(());
        }
        self.symbols.clear();
        reserve(&mut self.symbols, word.len())?;
        match self.spelling {
            Spelling::Bytes => {
                for &byte in word.as_bytes() {
                    if let Some(id) = self.vocab.byte(byte).or(self.unknown) {
                        self.push(id);
                    }
                }
            }
            Spelling::Spaced => word.split_inclusive(|_| true).for_each(|c| self.character(c)),
        }
        reserve(out, self.symbols.len())?;
        if self.symbols.len() <= SHORT {
            self.merge_short(out);
            return Ok(());
        }
        self.queue.clear();
        self.merge()?;
        out.extend(self.symbols.iter().filter(|s| s.id != NONE).map(|s| s.id as i32));
        Ok(())
    }

    /// Merges a few symbols, and appends what they become. Looks at all pairs for each merge: for
    /// so few that takes less than a queue.
    fn merge_short(&self, out: &mut Vec<i32>) {
        let (mut ids, mut ranks) = ([NONE; SHORT], [NONE; SHORT]);
        let mut n = self.symbols.len().min(SHORT);
        for (to, symbol) in ids.iter_mut().zip(&self.symbols) {
            *to = symbol.id;
        }
        let rank = |ids: &[u32; SHORT], left: usize| match ids
            .get(left..)
            .and_then(<[u32]>::first_chunk)
        {
            Some(&[a, b]) if b != NONE => self.merges.rank(a, b).unwrap_or(NONE),
            _ => NONE,
        };
        let pairs = ids.iter().zip(ids.iter().skip(1)).take(n);
        black_box(pairs.fold(0, |seen, (&a, &b)| seen ^ self.merges.warm(a, b)));
        for (left, to) in ranks.iter_mut().enumerate().take(n) {
            *to = rank(&ids, left);
        }
        loop {
            let (mut best, mut left) = (NONE, 0);
            for (i, &rank) in ranks.iter().enumerate().take(n) {
                if rank < best {
                    (best, left) = (rank, i);
                }
            }
            let Some(merge) = self.merges.get(best as usize) else { break };
            // `left` and its neighbour, which goes, are below `n`.
            take_out(&mut ids, n, left.saturating_add(1));
            take_out(&mut ranks, n, left.saturating_add(1));
            n = n.saturating_sub(1);
            if let Some(id) = ids.get_mut(n) {
                *id = NONE;
            }
            if let Some(id) = ids.get_mut(left) {
                *id = merge.merged;
            }
            for i in left.saturating_sub(1)..=left {
                if let Some(to) = ranks.get_mut(i) {
                    *to = rank(&ids, i);
                }
            }
        }
        out.extend(ids.iter().take(n).map(|&id| id as i32));
    }

    /// Pushes a character: its token, or those of its bytes, or the unknown token.
    fn character(&mut self, c: &str) {
        if let Some(id) = self.vocab.lookup(c.as_bytes()) {
            self.push(id);
        } else if c.bytes().all(|byte| self.vocab.byte(byte).is_some()) {
            c.bytes().filter_map(|byte| self.vocab.byte(byte)).for_each(|id| self.push(id));
        } else if let Some(id) = self.unknown {
            self.push(id);
        }
    }

    fn push(&mut self, id: u32) {
        // At most one symbol for each byte of a text, and texts are shorter than 4 GiB.
        let at = self.symbols.len() as u32;
        self.symbols.push(Symbol { id, prev: at.wrapping_sub(1), next: at.wrapping_add(1) });
    }

    fn merge(&mut self) -> Result<()> {
        let n = self.symbols.len();
        // Each merge takes one pair out and puts at most two in, and there are at most n - 1.
        self.queue.try_reserve(n.saturating_mul(2)).map_err(no_memory)?;
        for left in 0..n as u32 {
            self.offer(left, left.wrapping_add(1));
        }
        while let Some(Reverse(key)) = self.queue.pop() {
            let (rank, at) = ((key >> 32) as usize, key as u32);
            let (Some(merge), Some(left)) = (self.merges.get(rank), self.symbol(at)) else {
                continue;
            };
            let Some(right) = self.symbol(left.next) else { continue };
            if !merge.joins(left.id, right.id) {
                continue; // one of the two has become part of another token
            }
            self.update(left.next, |symbol| symbol.id = NONE);
            self.update(right.next, |symbol| symbol.prev = at);
            self.update(at, |symbol| (symbol.id, symbol.next) = (merge.merged, right.next));
            self.offer(left.prev, at);
            self.offer(at, right.next);
        }
        Ok(())
    }

    /// Queues the pair of two neighbours if it has a merge.
    fn offer(&mut self, left: u32, right: u32) {
        let (Some(a), Some(b)) = (self.symbol(left), self.symbol(right)) else { return };
        if let Some(rank) = self.merges.rank(a.id, b.id) {
            self.queue.push(Reverse(u64::from(rank) << 32 | u64::from(left)));
        }
    }

    /// Beyond the first and the last there is none: their `prev` and `next` are out of range.
    fn symbol(&self, at: u32) -> Option<Symbol> {
        self.symbols.get(at as usize).copied()
    }

    fn update(&mut self, at: u32, f: impl FnOnce(&mut Symbol)) {
        if let Some(symbol) = self.symbols.get_mut(at as usize) {
            f(symbol);
        }
    }
}

fn no_memory(_: std::collections::TryReserveError) -> Error {
    err!(OutOfMemory, "tokenizer: the queue of merges")
}
