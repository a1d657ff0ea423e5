//! SentencePiece's BPE: of all adjacent pieces whose concatenation is a token, the pair whose token
//! has the best score becomes one piece, until there is none. What no token spells becomes bytes.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use super::vocab::{NONE, Vocab, mark_to_space, reserve};
use crate::base::error::{Result, err};

/// Checks that every text can be spelt: by byte tokens, or by an unknown token.
pub(super) fn check(vocab: &Vocab, scores: &[f32], unknown: Option<u32>) -> Result<()> {
    let n = vocab.len();
    if scores.len() != n {
        return Err(err!(
            BadVocab,
            "tokenizer.ggml.scores: {} entries, expected {n}",
            scores.len()
        ));
    }
    if let Some(id) = scores.iter().position(|score| score.is_nan()) {
        return Err(err!(BadVocab, "token {id}: its score is not a number"));
    }
    let missing = (0..=255).find(|&byte| vocab.byte(byte).is_none());
    if let Some(byte) = missing.filter(|_| unknown.is_none()) {
        return Err(err!(BadVocab, "no token for byte {byte:#04x} and no unknown token"));
    }
    Ok(())
}

/// A piece of the text, in a chain. Merged away: `len` is 0.
#[derive(Clone, Copy)]
struct Symbol {
    start: u32,
    len: u32,
    prev: u32,
    next: u32,
}

/// Two neighbours that make a token.
#[derive(Clone, Copy, PartialEq)]
struct Pair {
    score: f32,
    left: u32,
    len: u32,
}

impl Eq for Pair {}

impl Ord for Pair {
    /// The best score is the greatest; of equal scores, the leftmost.
    fn cmp(&self, other: &Pair) -> Ordering {
        let by_score = self.score.partial_cmp(&other.score); // `check` let no NaN in
        by_score.unwrap_or(Ordering::Equal).then(other.left.cmp(&self.left))
    }
}

impl PartialOrd for Pair {
    fn partial_cmp(&self, other: &Pair) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// Turns texts into tokens; keeps its memory from text to text.
pub(super) struct Encoder<'a> {
    vocab: &'a Vocab,
    scores: &'a [f32],
    unknown: Option<u32>,
    text: Vec<u8>,
    symbols: Vec<Symbol>,
    queue: BinaryHeap<Pair>,
}

impl<'a> Encoder<'a> {
    /// `unknown` replaces characters that neither tokens nor byte tokens spell.
    pub(super) fn new(vocab: &'a Vocab, scores: &'a [f32], unknown: Option<u32>) -> Encoder<'a> {
        let (text, symbols, queue) = (Vec::new(), Vec::new(), BinaryHeap::new());
        Encoder { vocab, scores, unknown, text, symbols, queue }
    }

    /// Appends the tokens of a text, with a space before it if asked. O(n log n) in its length.
    pub(super) fn text(&mut self, text: &str, space: bool, out: &mut Vec<i32>) -> Result<()> {
        self.text.clear();
        self.symbols.clear();
        self.queue.clear();
        reserve(&mut self.text, text.len() + 1)?;
        if space {
            self.text.push(b' ');
        }
        mark_to_space(text, &mut self.text);
        self.cut()?;
        self.merge()?;
        reserve(out, self.symbols.len())?;
        for i in 0..self.symbols.len() {
            self.emit(i, out)?;
        }
        Ok(())
    }

    /// One symbol for each character.
    fn cut(&mut self) -> Result<()> {
        // A byte begins a character unless it is one of 10xxxxxx.
        let begins = |&(_, &byte): &(usize, &u8)| byte & 0xc0 != 0x80;
        let n = self.text.iter().enumerate().filter(begins).count();
        reserve(&mut self.symbols, n)?;
        for (start, _) in self.text.iter().enumerate().filter(begins) {
            let at = self.symbols.len() as u32; // texts are shorter than 4 GiB
            if let Some(last) = self.symbols.last_mut() {
                last.len = start as u32 - last.start;
            }
            let symbol =
                Symbol { start: start as u32, len: 0, prev: at.wrapping_sub(1), next: at + 1 };
            self.symbols.push(symbol);
        }
        if let Some(last) = self.symbols.last_mut() {
            last.len = self.text.len() as u32 - last.start;
        }
        Ok(())
    }

    fn merge(&mut self) -> Result<()> {
        let n = self.symbols.len();
        // Each merge takes one pair out and puts at most two in, and there are at most n - 1.
        if self.queue.try_reserve(2 * n).is_err() {
            return Err(err!(OutOfMemory, "tokenizer: the queue of pairs"));
        }
        for right in 1..n as u32 {
            self.offer(right - 1, right);
        }
        while let Some(pair) = self.queue.pop() {
            let Some(left) = self.symbol(pair.left) else { continue };
            let Some(right) = self.symbol(left.next) else { continue };
            if left.len == 0 || right.len == 0 || left.len + right.len != pair.len {
                continue; // one of the two has become part of another piece
            }
            self.update(left.next, |symbol| symbol.len = 0);
            self.update(right.next, |symbol| symbol.prev = pair.left);
            self.update(pair.left, |symbol| (symbol.len, symbol.next) = (pair.len, right.next));
            self.offer(left.prev, pair.left);
            self.offer(pair.left, right.next);
        }
        Ok(())
    }

    /// Queues the pair of two neighbours if together they are a token.
    fn offer(&mut self, left: u32, right: u32) {
        let (Some(a), Some(b)) = (self.symbol(left), self.symbol(right)) else { return };
        let len = a.len + b.len;
        let Some(id) = self.vocab.lookup(self.bytes(a.start, len)) else { return };
        let Some(&score) = self.scores.get(id as usize) else { return };
        self.queue.push(Pair { score, left, len });
    }

    /// Appends the token of a symbol; or of its bytes; or the unknown token.
    fn emit(&self, i: usize, out: &mut Vec<i32>) -> Result<()> {
        let Some(symbol) = self.symbols.get(i).filter(|symbol| symbol.len > 0) else {
            return Ok(());
        };
        let bytes = self.bytes(symbol.start, symbol.len);
        reserve(out, bytes.len())?;
        if let Some(id) = self.vocab.lookup(bytes) {
            out.push(id as i32);
        } else if bytes.iter().all(|&byte| self.vocab.byte(byte).is_some()) {
            out.extend(bytes.iter().map(|&byte| self.vocab.byte(byte).unwrap_or(NONE) as i32));
        } else if let Some(id) = self.unknown {
            out.push(id as i32);
        }
        Ok(())
    }

    fn bytes(&self, start: u32, len: u32) -> &[u8] {
        self.text.get(start as usize..start as usize + len as usize).unwrap_or(&[])
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
