//! The vocabulary: the bytes that each token stands for, and the way back from bytes to tokens.
//!
//! A file spells its tokens in one of two alphabets: with U+2581 for a space (SentencePiece), or
//! with one printable character for each byte (byte-level BPE). Both are undone here, once, so that
//! everything else works on plain bytes.

use std::hint::black_box;
use std::ops::Range;

use super::hash::{Seed, Table, same};
use super::list::{heap_bytes, reserve, reserve_exact};
use super::seams::Seams;
use super::spelling::{Spelling, byte_of, mark_to_space, undo_bytes};
use crate::base::error::{Result, err};

/// Bytes that the text of one token may have in a file.
pub const MAX_TOKEN_LEN: usize = 64 * 1024;
/// Tokens that a vocabulary may have.
pub const MAX_TOKENS: usize = 1 << 24;

/// Tokens whose places in the table are looked up together.
const BLOCK: usize = 64;

/// "No token" in tables of ids.
pub(super) const NONE: u32 = u32::MAX;

/// What the file says a token is (`tokenizer.ggml.token_type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Types 1, 5 (unused) and 0 (undefined): text.
    Normal,
    /// Type 2: stands for what the vocabulary has no token for.
    Unknown,
    /// Type 3: never comes from text unless the caller says so.
    Control,
    /// Type 4: found in the text as a whole, before anything else.
    UserDefined,
    /// Type 6: one byte of a character that has no token.
    Byte,
}

/// The tokens of one model.
pub(super) struct Vocab {
    /// The bytes of every entry, one after the other. Entry i < `n_vocab` is token i; those beyond
    /// are other spellings of the tokens in `aliases`.
    arena: Vec<u8>,
    /// Where each entry begins in the arena, and where the last one ends.
    spans: Vec<u32>,
    aliases: Vec<u32>,
    /// Kind and flags of each token.
    marks: Vec<u8>,
    n_vocab: usize,
    /// Holds only what text may become.
    table: Table,
    seed: Seed,
    /// Where "llama" and "gemma4" may cut a text before they merge.
    seams: Seams,
    /// The token of each byte, or NONE.
    bytes: [u32; 256],
    /// Bytes of the longest entry in `table`.
    max_len: usize,
}

const KIND: u8 = 0x07;
/// The token ends generation.
pub(super) const END: u8 = 0x08;
/// White space after the token belongs to it.
pub(super) const STRIP: u8 = 0x10;
/// The file's own alphabet cannot spell the token, so no text becomes it.
const HIDDEN: u8 = 0x20;
/// The token is in the table: its bytes find it, and not another.
const FOUND: u8 = 0x40;

impl Vocab {
    /// Reads `n_tokens` texts, each of the type that `types` gives it; no types: all are text.
    pub(super) fn new(
        spelling: Spelling,
        n_tokens: usize,
        tokens: &mut dyn Iterator<Item = &[u8]>,
        types: &[i32],
    ) -> Result<Vocab> {
        if n_tokens == 0 {
            return Err(err!(BadVocab, "tokenizer.ggml.tokens: no tokens"));
        }
        if n_tokens > MAX_TOKENS {
            return Err(err!(BadVocab, "{n_tokens} tokens, at most {MAX_TOKENS}"));
        }
        if !types.is_empty() && types.len() != n_tokens {
            let n = types.len();
            return Err(err!(BadVocab, "token_type: {n} entries, expected {n_tokens}"));
        }
        let mut vocab = Vocab {
            arena: Vec::new(),
            spans: Vec::new(),
            aliases: Vec::new(),
            marks: Vec::new(),
            n_vocab: n_tokens,
            // Each token has one entry in it, its own or an alias.
            table: Table::new(n_tokens, n_tokens.saturating_mul(2))?,
            seed: Seed::new(),
            seams: Seams::new(),
            bytes: [NONE; 256],
            max_len: 0,
        };
        reserve_exact(&mut vocab.spans, n_tokens.saturating_add(1))?;
        reserve_exact(&mut vocab.marks, n_tokens)?;
        vocab.spans.push(0);
        for block in (0..n_tokens).step_by(BLOCK) {
            let block = block..n_tokens.min(block.saturating_add(BLOCK));
            for id in block.clone() {
                let Some(text) = tokens.next() else {
                    return Err(err!(BadVocab, "{id} token texts, expected {n_tokens}"));
                };
                vocab.read(spelling, id, text, types.get(id).copied().unwrap_or(1))?;
            }
            vocab.insert_block(block);
        }
        if spelling == Spelling::Bytes {
            vocab.index_user_defined()?;
            for byte in 0..=255 {
                if let Some(id) = vocab.lookup(&[byte]) {
                    vocab.set_byte(byte, id);
                }
            }
        }
        Ok(vocab)
    }

    fn read(&mut self, spelling: Spelling, id: usize, text: &[u8], kind: i32) -> Result<()> {
        let n = text.len();
        if n > MAX_TOKEN_LEN {
            return Err(err!(BadVocab, "token {id}: {n} bytes, at most {MAX_TOKEN_LEN}"));
        }
        // Undone, no text is longer than it was. Grows by an eighth, so that little is left over.
        if self.arena.capacity().saturating_sub(self.arena.len()) < n {
            let more = (self.arena.len() / 8).max(4096).max(n);
            reserve_exact(&mut self.arena, more)?;
        }
        if let (1, Some((space, rest))) = (kind, spelling.easy(text)) {
            if space {
                self.arena.push(b' ');
            }
            self.arena.extend_from_slice(rest);
            self.marks.push(Kind::Normal as u8);
            return self.close_entry();
        }
        let Ok(text) = std::str::from_utf8(text) else {
            return Err(err!(BadVocab, "token {id}: not valid UTF-8"));
        };
        let kind = match kind {
            0 | 1 | 5 => Kind::Normal,
            2 => Kind::Unknown,
            3 => Kind::Control,
            4 => Kind::UserDefined,
            6 => Kind::Byte,
            other => return Err(err!(BadVocab, "token {id}: unknown type {other}")),
        };
        let mut mark = kind as u8;
        match (kind, spelling) {
            (Kind::Byte, _) => match byte_of(text) {
                Some(byte) => {
                    self.arena.push(byte);
                    self.set_byte(byte, id as u32);
                }
                None => return Err(err!(BadVocab, "token {id}: {text:?} is not a byte")),
            },
            (Kind::Normal, Spelling::Spaced) => {
                if text.contains(' ') {
                    mark |= HIDDEN;
                }
                mark_to_space(text, &mut self.arena);
            }
            (Kind::Normal, Spelling::Bytes) if undo_bytes(text, &mut self.arena) => {}
            (Kind::Normal, _) => {
                mark |= HIDDEN;
                self.arena.extend_from_slice(text.as_bytes());
            }
            _ => self.arena.extend_from_slice(text.as_bytes()),
        }
        self.marks.push(mark);
        self.close_entry()?;
        if mark == Kind::Normal as u8 {
            // What is easy above has no seam inside.
            self.seams.close(bytes_of(&self.arena, &self.spans, id));
        }
        Ok(())
    }

    /// Ends the entry that the arena's tail is.
    fn close_entry(&mut self) -> Result<()> {
        let Ok(end) = u32::try_from(self.arena.len()) else {
            return Err(err!(BadVocab, "the texts of the tokens exceed 4 GiB"));
        };
        reserve(&mut self.spans, 1)?;
        self.spans.push(end);
        Ok(())
    }

    /// Some byte-level vocabularies give the bytes that never occur in UTF-8 to user-defined
    /// tokens. Such a token has two spellings: "ÿ" where it is found in a text, and the byte 0xff
    /// where merges arrive at it. The second becomes an alias.
    fn index_user_defined(&mut self) -> Result<()> {
        let mut bytes = Vec::new();
        for id in 0..self.n_vocab {
            if self.kind(id as u32) != Some(Kind::UserDefined) {
                continue;
            }
            bytes.clear();
            let text = self.entry(id);
            reserve(&mut bytes, text.len())?;
            if !undo_bytes(std::str::from_utf8(text).unwrap_or(""), &mut bytes) {
                continue;
            }
            let hash = self.seed.bytes(&bytes);
            if bytes.len() == text.len() {
                self.insert(id, hash);
            } else if self.lookup(&bytes).is_none() {
                reserve(&mut self.arena, bytes.len())?;
                self.arena.extend_from_slice(&bytes);
                self.close_entry()?;
                let entry = self.n_vocab.saturating_add(self.aliases.len());
                reserve(&mut self.aliases, 1)?;
                self.aliases.push(id as u32);
                self.insert(entry, hash);
            }
        }
        Ok(())
    }

    /// Puts the tokens into the table that text may become. All places in it are looked at before
    /// the first is needed, so that they come from memory side by side and not one by one.
    fn insert_block(&mut self, block: Range<usize>) {
        let mut hashes = [0; BLOCK];
        let mut seen = 0;
        for (id, hash) in block.clone().zip(&mut hashes) {
            *hash = self.seed.bytes(self.entry(id));
            seen ^= self.table.peek(*hash);
        }
        black_box(seen);
        for (id, hash) in block.zip(hashes) {
            if self.marks.get(id) == Some(&(Kind::Normal as u8)) {
                self.insert(id, hash);
            }
        }
    }

    /// Puts an entry into the table, unless its bytes are there or are none: of several tokens
    /// with one text, the first is found.
    fn insert(&mut self, entry: usize, hash: u64) {
        let Vocab { arena, spans, table, .. } = self;
        let bytes = bytes_of(arena, spans, entry);
        if bytes.is_empty() {
            return;
        }
        if table.insert(hash, entry, |i| same(bytes_of(arena, spans, i), bytes)) {
            self.max_len = self.max_len.max(bytes.len());
            if let Some(mark) = self.marks.get_mut(entry) {
                *mark |= FOUND;
            }
        }
    }

    fn set_byte(&mut self, byte: u8, id: u32) {
        if let Some(token) = self.bytes.get_mut(usize::from(byte)).filter(|t| **t == NONE) {
            *token = id;
        }
    }

    /// The token that text with these bytes becomes; never a control token.
    #[inline]
    pub(super) fn lookup(&self, bytes: &[u8]) -> Option<u32> {
        self.lookup_as(self.hash(bytes), bytes)
    }

    /// What [`Vocab::lookup_as`] and [`Vocab::warm`] take.
    #[inline]
    pub(super) fn hash(&self, bytes: &[u8]) -> u64 {
        self.seed.bytes(bytes)
    }

    /// As [`Vocab::lookup`], of bytes with this hash.
    #[inline]
    pub(super) fn lookup_as(&self, hash: u64, bytes: &[u8]) -> Option<u32> {
        if bytes.is_empty() || bytes.len() > self.max_len {
            return None;
        }
        let entry = self.table.find(hash, |i| same(self.entry(i), bytes))?;
        match entry.checked_sub(self.n_vocab) {
            None => Some(entry as u32),
            Some(alias) => self.aliases.get(alias).copied(),
        }
    }

    /// Reads what a lookup of bytes with this hash begins with. Several of these wait for memory
    /// side by side, where lookups, each of which decides what to do next, wait one by one. The
    /// result says nothing; `black_box` keeps the reading from being left out.
    #[inline]
    pub(super) fn warm(&self, hash: u64) -> u32 {
        let begin = self.spans.get(self.table.peek(hash) as usize).copied().unwrap_or(0);
        self.arena.get(begin as usize).copied().unwrap_or(0).into()
    }

    /// Whether [`Vocab::lookup`] finds this token for these bytes, if that is quick to tell.
    pub(super) fn is_found(&self, id: u32, bytes: &[u8]) -> bool {
        self.has(id, FOUND) && same(self.entry(id as usize), bytes)
    }

    fn entry(&self, i: usize) -> &[u8] {
        bytes_of(&self.arena, &self.spans, i)
    }

    /// Where a text may be cut before it is merged.
    pub(super) fn seams(&self) -> &Seams {
        &self.seams
    }

    /// The token of one byte.
    pub(super) fn byte(&self, byte: u8) -> Option<u32> {
        self.bytes.get(usize::from(byte)).copied().filter(|&id| id != NONE)
    }

    /// The bytes a token stands for; for control tokens, their name.
    #[inline(never)]
    pub(super) fn text(&self, id: u32) -> Option<&[u8]> {
        ((id as usize) < self.n_vocab).then(|| self.entry(id as usize))
    }

    /// What the token is.
    pub(super) fn kind(&self, id: u32) -> Option<Kind> {
        self.marks.get(id as usize).map(|mark| match mark & KIND {
            0 => Kind::Normal,
            1 => Kind::Unknown,
            2 => Kind::Control,
            3 => Kind::UserDefined,
            _ => Kind::Byte,
        })
    }

    /// Whether the token has a flag: END or STRIP.
    pub(super) fn has(&self, id: u32, flag: u8) -> bool {
        self.marks.get(id as usize).is_some_and(|mark| mark & flag != 0)
    }

    /// Sets or clears a flag.
    pub(super) fn set(&mut self, id: u32, flag: u8, on: bool) {
        if let Some(mark) = self.marks.get_mut(id as usize) {
            *mark = if on { *mark | flag } else { *mark & !flag };
        }
    }

    /// Makes a token one of control.
    pub(super) fn set_control(&mut self, id: u32) {
        if let Some(mark) = self.marks.get_mut(id as usize) {
            *mark = *mark & !KIND | Kind::Control as u8;
        }
    }

    /// Tokens in the vocabulary.
    pub(super) fn len(&self) -> usize {
        self.n_vocab
    }

    /// Bytes of memory it owns.
    pub(super) fn heap_bytes(&self) -> usize {
        let ids = heap_bytes(&self.spans).saturating_add(heap_bytes(&self.aliases));
        let texts = heap_bytes(&self.arena).saturating_add(heap_bytes(&self.marks));
        ids.saturating_add(texts).saturating_add(self.table.heap_bytes())
    }
}

/// The bytes of an entry.
fn bytes_of<'a>(arena: &'a [u8], spans: &[u32], entry: usize) -> &'a [u8] {
    match spans.get(entry..).and_then(<[u32]>::first_chunk) {
        Some(&[begin, end]) => arena.get(begin as usize..end as usize).unwrap_or(&[]),
        _ => &[],
    }
}
