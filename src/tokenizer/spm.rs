//! SentencePiece's BPE: of all adjacent pieces whose concatenation is a token, the pair whose token
//! has the best score becomes one piece, until there is none. What no token spells becomes bytes.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::hint::black_box;

use super::cache::Cache;
use super::list::{count, reserve, take_out};
use super::spelling::{has_mark, mark_to_space};
use super::vocab::{NONE, Vocab};
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

/// Most bytes of a word whose pairs are not queued.
const SHORT: usize = 32;

/// The score and the token of two neighbours together, if they make one.
type Joined = Option<(f32, u32)>;

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
    cache: Cache,
    text: Vec<u8>,
    symbols: Vec<Symbol>,
    queue: BinaryHeap<Pair>,
}

impl<'a> Encoder<'a> {
    /// `unknown` replaces characters that neither tokens nor byte tokens spell.
    pub(super) fn new(
        vocab: &'a Vocab,
        scores: &'a [f32],
        unknown: Option<u32>,
        cache: Cache,
    ) -> Encoder<'a> {
        let (text, symbols, queue) = (Vec::new(), Vec::new(), BinaryHeap::new());
        Encoder { vocab, scores, unknown, cache, text, symbols, queue }
    }

    /// Appends the tokens of a text, with a space before it if asked. O(n log n) in its length.
    pub(super) fn text(&mut self, text: &str, space: bool, out: &mut Vec<i32>) -> Result<()> {
        let seams = self.vocab.seams();
        if !space && !has_mark(text) {
            return seams.split(text, &mut |word| self.word(word, out));
        }
        let mut buffer = std::mem::take(&mut self.text);
        buffer.clear();
        reserve(&mut buffer, text.len().saturating_add(1))?;
        if space {
            buffer.push(b' ');
        }
        mark_to_space(text, &mut buffer);
        let text = std::str::from_utf8(&buffer).unwrap_or(""); // as it was, but for the marks
        let done = seams.split(text, &mut |word| self.word(word, out));
        self.text = buffer;
        done
    }

    /// Appends the tokens of a part that no merge crosses the ends of.
    #[inline]
    fn word(&mut self, word: &str, out: &mut Vec<i32>) -> Result<()> {
        let bytes = word.as_bytes();
        let Some(place) = self.cache.place(bytes) else { return self.encode(bytes, out) };
        if let Some(tokens) = self.cache.get(place) {
            reserve(out, tokens.len())?;
            out.extend_from_slice(tokens);
            return Ok(());
        }
        let n = out.len();
        self.encode(bytes, out)?;
        self.cache.put(place, out.get(n..).unwrap_or(&[]));
        Ok(())
    }

    fn encode(&mut self, word: &[u8], out: &mut Vec<i32>) -> Result<()> {
        reserve(out, word.len())?;
        if word.len() <= SHORT {
            self.merge_short(word, out);
            return Ok(());
        }
        self.symbols.clear();
        self.queue.clear();
        self.cut(word)?;
        self.merge(word)?;
        for symbol in &self.symbols {
            let bytes = part(word, symbol.start, symbol.len);
            self.emit(bytes, self.vocab.lookup(bytes), out);
        }
        Ok(())
    }

    /// Merges a word of few bytes, and appends what it becomes. Looks at all pairs for each merge:
    /// for so few that takes less than a queue.
    fn merge_short(&self, word: &[u8], out: &mut Vec<i32>) {
        // Where each symbol begins, its token if that is known, and what it becomes with the next.
        let mut starts = [word.len(); SHORT + 1];
        let mut ids = [None; SHORT];
        let mut joined: [Joined; SHORT] = [None; SHORT];
        let mut hashes = [0; SHORT];
        let mut n = 0usize;
        for (at, start) in beginnings(word).zip(&mut starts) {
            *start = at;
            n = n.saturating_add(1);
        }
        let symbol = |starts: &[usize; SHORT + 1], i: usize, len: usize| -> &[u8] {
            match (starts.get(i), starts.get(i.saturating_add(len))) {
                (Some(&begin), Some(&end)) => word.get(begin..end).unwrap_or(&[]),
                _ => &[],
            }
        };
        let mut seen = 0;
        for (i, hash) in hashes.iter_mut().enumerate().take(n.saturating_sub(1)) {
            *hash = self.vocab.hash(symbol(&starts, i, 2));
            seen ^= self.vocab.warm(*hash);
        }
        black_box(seen);
        let scored = |id: u32| Some((*self.scores.get(id as usize)?, id));
        let pairs = joined.iter_mut().zip(hashes).enumerate().take(n.saturating_sub(1));
        for (i, (joined, hash)) in pairs {
            *joined = self.vocab.lookup_as(hash, symbol(&starts, i, 2)).and_then(scored);
        }
        loop {
            let mut best: Option<(f32, u32, usize)> = None;
            for (i, pair) in joined.iter().enumerate().take(n) {
                if let Some((score, id)) = *pair
                    && best.is_none_or(|(best, ..)| score > best)
                {
                    best = Some((score, id, i));
                }
            }
            let Some((_, id, left)) = best else { break };
            // `left` and its neighbour, which goes, are below `n`; so is where the last one ends.
            let right = left.saturating_add(1);
            take_out(&mut starts, n.saturating_add(1), right);
            take_out(&mut ids, n, right);
            take_out(&mut joined, n, right);
            n = n.saturating_sub(1);
            if let Some(to) = ids.get_mut(left) {
                *to = Some(id);
            }
            for i in left.saturating_sub(1)..=left {
                if let Some(to) = joined.get_mut(i) {
                    let bytes = if i.saturating_add(1) < n { symbol(&starts, i, 2) } else { &[] };
                    *to = self.vocab.lookup(bytes).and_then(scored);
                }
            }
        }
        for (i, &id) in ids.iter().enumerate().take(n) {
            let bytes = symbol(&starts, i, 1);
            self.emit(bytes, id.or_else(|| self.vocab.lookup(bytes)), out);
        }
    }

    /// One symbol for each character.
    fn cut(&mut self, word: &[u8]) -> Result<()> {
        let n = count(beginnings(word));
        reserve(&mut self.symbols, n)?;
        for start in beginnings(word) {
            let at = self.symbols.len() as u32; // texts are shorter than 4 GiB
            if let Some(last) = self.symbols.last_mut() {
                last.len = (start as u32).saturating_sub(last.start);
            }
            let (prev, next) = (at.wrapping_sub(1), at.wrapping_add(1));
            self.symbols.push(Symbol { start: start as u32, len: 0, prev, next });
        }
        if let Some(last) = self.symbols.last_mut() {
            last.len = (word.len() as u32).saturating_sub(last.start);
        }
        Ok(())
    }

    fn merge(&mut self, word: &[u8]) -> Result<()> {
        let n = self.symbols.len();
        // Each merge takes one pair out and puts at most two in, and there are at most n - 1.
        if self.queue.try_reserve(n.saturating_mul(2)).is_err() {
            return Err(err!(OutOfMemory, "tokenizer: the queue of pairs"));
        }
        for left in 0..n as u32 {
            self.offer(word, left, left.wrapping_add(1));
        }
        while let Some(pair) = self.queue.pop() {
            let Some(left) = self.symbol(pair.left) else { continue };
            let Some(right) = self.symbol(left.next) else { continue };
            if left.len == 0 || right.len == 0 || left.len.saturating_add(right.len) != pair.len {
                continue; // one of the two has become part of another piece
            }
            self.update(left.next, |symbol| symbol.len = 0);
            self.update(right.next, |symbol| symbol.prev = pair.left);
            self.update(pair.left, |symbol| (symbol.len, symbol.next) = (pair.len, right.next));
            self.offer(word, left.prev, pair.left);
            self.offer(word, pair.left, right.next);
        }
        Ok(())
    }

    /// Queues the pair of two neighbours if together they are a token.
    fn offer(&mut self, word: &[u8], left: u32, right: u32) {
        let (Some(a), Some(b)) = (self.symbol(left), self.symbol(right)) else { return };
        let len = a.len.saturating_add(b.len);
        let Some(id) = self.vocab.lookup(part(word, a.start, len)) else { return };
        let Some(&score) = self.scores.get(id as usize) else { return };
        self.queue.push(Pair { score, left, len });
    }

    /// Appends the token of a symbol; or those of its bytes; or the unknown token. There is room.
    fn emit(&self, bytes: &[u8], id: Option<u32>, out: &mut Vec<i32>) {
        if let Some(id) = id {
            out.push(id as i32);
        } else if bytes.iter().all(|&byte| self.vocab.byte(byte).is_some()) {
            out.extend(bytes.iter().map(|&byte| self.vocab.byte(byte).unwrap_or(NONE) as i32));
        } else if let Some(id) = self.unknown {
            out.push(id as i32);
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

/// Where characters begin: at the bytes that are not of 10xxxxxx. A range, as an iterator that counts
/// would look whether there are too many.
fn beginnings(word: &[u8]) -> impl Iterator<Item = usize> {
    (0..word.len()).filter(|&at| word.get(at).is_some_and(|byte| byte & 0xc0 != 0x80))
}

fn part(word: &[u8], start: u32, len: u32) -> &[u8] {
    word.get(start as usize..).and_then(|rest| rest.get(..len as usize)).unwrap_or(&[])
}
