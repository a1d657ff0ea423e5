//! The list of merges of a byte-pair encoding.

use std::hint::black_box;

use super::hash::{Seed, Table};
use super::list::{heap_bytes, reserve, reserve_exact};
use super::spelling::{Spelling, mark_to_space, undo_bytes};
use super::vocab::{NONE, Vocab};
use crate::base::error::{Error, Result, err};
use crate::base::heap;

/// Lines whose tokens are looked up together.
const BLOCK: usize = 32;

/// Merges that a vocabulary may have.
const MAX_MERGES: usize = 1 << 24;

/// One line of the list; its place in the list is its rank.
#[derive(Clone, Copy)]
pub(super) struct Merge {
    left: u32,
    right: u32,
    pub(super) merged: u32,
}

/// The list of merges.
pub(super) struct Merges {
    list: Vec<Merge>,
    /// By pair; entries are places in the list.
    table: Table,
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
        let (table, seed) = (Table::new(n, n)?, Seed::new());
        let mut merges = Merges { list: Vec::new(), table, seed };
        reserve_exact(&mut merges.list, n)?;
        let mut block = Vec::new();
        reserve_exact(&mut block, BLOCK)?;
        let mut bytes = Vec::new();
        for first in (0..n).step_by(BLOCK) {
            block.clear();
            bytes.clear();
            for i in (first..n).take(BLOCK) {
                let line =
                    lines.next().ok_or_else(|| err!(BadVocab, "{i} merges, expected {n}"))?;
                block.push(Line::read(vocab, spelling, i, line, &mut bytes)?);
            }
            merges.resolve(vocab, first, &block, &bytes)?;
        }
        Ok(merges)
    }

    /// Finds the tokens of a block of lines, of which `first` is the number of the first. Reads
    /// what the lookups begin with before it makes the first of them.
    fn resolve(&mut self, vocab: &Vocab, first: usize, block: &[Line], bytes: &[u8]) -> Result<()> {
        let seen = |seen, line: &Line| seen ^ vocab.warm(line.left) ^ vocab.warm(line.right);
        black_box(block.iter().fold(0, seen));
        let mut found = [Merge { left: NONE, right: NONE, merged: NONE }; BLOCK];
        let mut last = self.list.last().map_or(NONE, |merge| merge.merged);
        let mut seen = 0;
        for ((i, line), to) in block.iter().enumerate().zip(&mut found) {
            *to = match line.find(vocab, last, bytes) {
                Some(merge) => merge,
                None => return Err(line.without_token(first.saturating_add(i), bytes)),
            };
            last = to.merged;
            seen ^= self.warm(to.left, to.right);
        }
        black_box(seen);
        for merge in found.into_iter().take(block.len()) {
            let Merges { list, table, seed } = self;
            let is = |i: usize| list.get(i).is_some_and(|m| m.joins(merge.left, merge.right));
            if table.insert(seed.pair(merge.left, merge.right), list.len(), is) {
                list.push(merge);
            }
        }
        Ok(())
    }

    /// The merge of a rank.
    #[inline]
    pub(super) fn get(&self, rank: usize) -> Option<Merge> {
        self.list.get(rank).copied()
    }

    /// Reads what [`Merges::rank`] begins with, as [`Vocab::warm`] does.
    #[inline]
    pub(super) fn warm(&self, left: u32, right: u32) -> u32 {
        self.table.peek(self.seed.pair(left, right))
    }

    /// The rank of the merge of two tokens.
    #[inline]
    pub(super) fn rank(&self, left: u32, right: u32) -> Option<u32> {
        let is = |i: usize| self.list.get(i).is_some_and(|merge| merge.joins(left, right));
        self.table.find(self.seed.pair(left, right), is).map(|rank| rank as u32)
    }

    /// Bytes of memory it owns.
    pub(super) fn heap_bytes(&self) -> usize {
        heap_bytes(&self.list).saturating_add(self.table.heap_bytes())
    }
}

impl Merge {
    pub(super) fn joins(&self, left: u32, right: u32) -> bool {
        self.left == left && self.right == right
    }
}

/// A line in the making: where its texts are among the bytes of a block, and their hashes.
struct Line {
    begin: usize,
    middle: usize,
    end: usize,
    left: u64,
    right: u64,
}

impl Line {
    /// Takes a line apart, and appends the bytes of its texts.
    fn read(
        vocab: &Vocab,
        spelling: Spelling,
        i: usize,
        line: &[u8],
        bytes: &mut Vec<u8>,
    ) -> Result<Line> {
        let malformed = || err!(BadVocab, "merge {i}: not two texts with a space between them");
        // A text may itself begin with a space in no file that exists, but an empty one is wrong.
        let middle = line.iter().position(|&byte| byte == b' ').ok_or_else(malformed)?;
        let (left, right) = (line.get(..middle), line.get(middle.saturating_add(1)..));
        let (left, right) = (left.unwrap_or(&[]), right.unwrap_or(&[]));
        if left.is_empty() || right.is_empty() {
            return Err(malformed());
        }
        let begin = bytes.len();
        reserve(bytes, line.len())?;
        let mut undo = |text: &[u8]| -> Result<usize> {
            if let Some((space, rest)) = spelling.easy(text) {
                if space {
                    bytes.push(b' ');
                }
                bytes.extend_from_slice(rest);
                return Ok(bytes.len());
            }
            let text = std::str::from_utf8(text).map_err(|_| malformed())?;
            match spelling {
                Spelling::Spaced => mark_to_space(text, bytes),
                Spelling::Bytes if undo_bytes(text, bytes) => {}
                Spelling::Bytes => return Err(malformed()),
            }
            Ok(bytes.len())
        };
        let (middle, end) = (undo(left)?, undo(right)?);
        let mut line = Line { begin, middle, end, left: 0, right: 0 };
        let (left, right, _) = line.parts(bytes);
        (line.left, line.right) = (vocab.hash(left), vocab.hash(right));
        Ok(line)
    }

    /// The bytes of both texts, and of what they become.
    fn parts<'a>(&self, bytes: &'a [u8]) -> (&'a [u8], &'a [u8], &'a [u8]) {
        let part = |begin, end| bytes.get(begin..end).unwrap_or(&[]);
        (part(self.begin, self.middle), part(self.middle, self.end), part(self.begin, self.end))
    }

    /// The error of a line of which one text is no token.
    fn without_token(&self, i: usize, bytes: &[u8]) -> Error {
        match self.shown(bytes) {
            Ok(line) => err!(BadVocab, "merge {i}: {line:?} names a text without a token"),
            Err(no_memory) => no_memory,
        }
    }

    /// Both texts, as far as they are UTF-8.
    fn shown(&self, bytes: &[u8]) -> Result<String> {
        let (left, right, _) = self.parts(bytes);
        let mut line = String::new();
        for chunk in [left, b" ", right].into_iter().flat_map(<[u8]>::utf8_chunks) {
            heap::push(&mut line, chunk.valid())?;
            if !chunk.invalid().is_empty() {
                heap::push(&mut line, "\u{fffd}")?;
            }
        }
        Ok(line)
    }

    /// The tokens; None if one of the three is missing. `last` is what the line before makes.
    fn find(&self, vocab: &Vocab, last: u32, bytes: &[u8]) -> Option<Merge> {
        let (left, right, both) = self.parts(bytes);
        // Vocabularies are made in the order of their merges: most make the token that follows the
        // one before, or the same again from other parts.
        let likely = [last.wrapping_add(1), last];
        let merged = likely.into_iter().find(|&id| vocab.is_found(id, both));
        Some(Merge {
            left: vocab.lookup_as(self.left, left)?,
            right: vocab.lookup_as(self.right, right)?,
            merged: merged.or_else(|| vocab.lookup(both))?,
        })
    }
}
