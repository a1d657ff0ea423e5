//! Byte-pair encoding: of all adjacent pairs of tokens, the one whose merge comes first in the
//! file's list becomes one token, until no pair has a merge.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::hash::{Seed, table_len};
use super::vocab::{NONE, Spelling, Vocab, mark_to_space, reserve, reserve_exact, undo_bytes};
use crate::base::error::{Error, Result, err};

/// Merges that a vocabulary may have.
const MAX_MERGES: usize = 1 << 24;

/// One line of the list; its place in the list is its rank.
#[derive(Clone, Copy)]
struct Merge {
    left: u32,
    right: u32,
    merged: u32,
}

/// The list of merges.
pub(super) struct Merges {
    list: Vec<Merge>,
    /// Open addressing: 1 + rank, or 0.
    table: Vec<u32>,
    seed: Seed,
}

impl Merges {
    /// Reads `n` lines: two texts in the file's spelling with a space between them. Of two equal
    /// lines the first counts.
    pub(super) fn new(
        vocab: &Vocab,
        spelling: Spelling,
        n: usize,
        lines: &mut dyn Iterator<Item = &[u8]>,
    ) -> Result<Merges> {
        if n > MAX_MERGES {
            return Err(err!(BadVocab, "{n} merges, at most {MAX_MERGES}"));
        }
        if n == 0 {
            return Err(err!(BadVocab, "tokenizer.ggml.merges: no merges"));
        }
        let mut merges = Merges { list: Vec::new(), table: Vec::new(), seed: Seed::new() };
        reserve_exact(&mut merges.list, n)?;
        let len = table_len(n);
        reserve_exact(&mut merges.table, len)?;
        merges.table.resize(len, 0);
        let mut bytes = Vec::new();
        for i in 0..n {
            let line = lines.next().ok_or_else(|| err!(BadVocab, "{i} merges, expected {n}"))?;
            merges.read(vocab, spelling, i, line, &mut bytes)?;
        }
        Ok(merges)
    }

    fn read(
        &mut self,
        vocab: &Vocab,
        spelling: Spelling,
        i: usize,
        line: &[u8],
        bytes: &mut Vec<u8>,
    ) -> Result<()> {
        let malformed = || err!(BadVocab, "merge {i}: not two texts with a space between them");
        let line = std::str::from_utf8(line).map_err(|_| malformed())?;
        // A text may itself begin with a space in no file that exists, but an empty one is wrong.
        let (left, right) = line.split_once(' ').ok_or_else(malformed)?;
        if left.is_empty() || right.is_empty() {
            return Err(malformed());
        }
        bytes.clear();
        reserve(bytes, line.len())?;
        let mut undo = |text: &str| -> Result<usize> {
            match spelling {
                Spelling::Spaced => mark_to_space(text, bytes),
                Spelling::Bytes if undo_bytes(text, bytes) => {}
                Spelling::Bytes => return Err(malformed()),
            }
            Ok(bytes.len())
        };
        let middle = undo(left)?;
        undo(right)?;
        let token = |part: Option<&[u8]>| -> Result<u32> {
            part.and_then(|part| vocab.lookup(part))
                .ok_or_else(|| err!(BadVocab, "merge {i}: {line:?} names a text without a token"))
        };
        let left = token(bytes.get(..middle))?;
        let right = token(bytes.get(middle..))?;
        let merged = token(Some(bytes))?;
        self.insert(Merge { left, right, merged });
        Ok(())
    }

    fn insert(&mut self, merge: Merge) {
        let mask = self.table.len() - 1;
        let mut slot = self.seed.pair(merge.left, merge.right) & mask;
        while let Some(found) = self.table.get_mut(slot) {
            let Some(rank) = found.checked_sub(1) else {
                self.list.push(merge);
                *found = self.list.len() as u32; // at most MAX_MERGES
                return;
            };
            if self.list.get(rank as usize).is_some_and(|m| m.joins(merge.left, merge.right)) {
                return;
            }
            slot = (slot + 1) & mask;
        }
    }

    /// The rank of the merge of two tokens.
    fn rank(&self, left: u32, right: u32) -> Option<u32> {
        let mask = self.table.len() - 1;
        let mut slot = self.seed.pair(left, right) & mask;
        loop {
            let rank = self.table.get(slot)?.checked_sub(1)?;
            if self.list.get(rank as usize)?.joins(left, right) {
                return Some(rank);
            }
            slot = (slot + 1) & mask;
        }
    }

    /// Bytes of memory it owns.
    pub(super) fn heap_bytes(&self) -> usize {
        self.list.capacity() * size_of::<Merge>() + self.table.capacity() * 4
    }
}

impl Merge {
    fn joins(&self, left: u32, right: u32) -> bool {
        self.left == left && self.right == right
    }
}

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
    symbols: Vec<Symbol>,
    /// Rank and place of each pair that has a merge, packed: the lowest rank first, and of equal
    /// ranks the leftmost.
    queue: BinaryHeap<Reverse<u64>>,
}

impl<'a> Encoder<'a> {
    /// `unknown` replaces what the vocabulary cannot spell; if there is none, that is left out.
    pub(super) fn new(
        vocab: &'a Vocab,
        merges: &'a Merges,
        spelling: Spelling,
        unknown: Option<u32>,
    ) -> Encoder<'a> {
        let (symbols, queue) = (Vec::new(), BinaryHeap::new());
        Encoder { vocab, merges, spelling, unknown, symbols, queue }
    }

    /// Appends the tokens of one word. O(n log n) in its length.
    pub(super) fn word(&mut self, word: &str, out: &mut Vec<i32>) -> Result<()> {
        self.symbols.clear();
        self.queue.clear();
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
        self.merge()?;
        reserve(out, self.symbols.len())?;
        out.extend(self.symbols.iter().filter(|s| s.id != NONE).map(|s| s.id as i32));
        Ok(())
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
        self.symbols.push(Symbol { id, prev: at.wrapping_sub(1), next: at + 1 });
    }

    fn merge(&mut self) -> Result<()> {
        let n = self.symbols.len();
        // Each merge takes one pair out and puts at most two in, and there are at most n - 1.
        self.queue.try_reserve(2 * n).map_err(no_memory)?;
        for right in 1..n as u32 {
            self.offer(right - 1, right);
        }
        while let Some(Reverse(key)) = self.queue.pop() {
            let (rank, at) = ((key >> 32) as usize, key as u32);
            let (Some(&merge), Some(left)) = (self.merges.list.get(rank), self.symbol(at)) else {
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
