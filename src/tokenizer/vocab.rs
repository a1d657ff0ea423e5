//! The vocabulary: the bytes that each token stands for, and the way back from bytes to tokens.
//!
//! A file spells its tokens in one of two alphabets: with U+2581 for a space (SentencePiece), or
//! with one printable character for each byte (byte-level BPE). Both are undone here, once, so that
//! everything else works on plain bytes.

use super::hash::{Seed, table_len};
use crate::base::error::{Result, err};

/// Bytes that the text of one token may have in a file.
pub const MAX_TOKEN_LEN: usize = 64 * 1024;
/// Tokens that a vocabulary may have.
pub const MAX_TOKENS: usize = 1 << 24;

/// "No token" in tables of ids.
pub(super) const NONE: u32 = u32::MAX;

/// U+2581, which stands for a space.
pub(super) const SPACE_MARK: &str = "\u{2581}";

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

/// How a file spells its tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Spelling {
    /// UTF-8, with U+2581 for a space.
    Spaced,
    /// One character for each byte.
    Bytes,
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
    /// Open addressing: 1 + entry, or 0. Holds only what text may become.
    table: Vec<u32>,
    seed: Seed,
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
            table: Vec::new(),
            seed: Seed::new(),
            bytes: [NONE; 256],
            max_len: 0,
        };
        reserve_exact(&mut vocab.spans, n_tokens + 1)?;
        reserve_exact(&mut vocab.marks, n_tokens)?;
        vocab.spans.push(0);
        for id in 0..n_tokens {
            let Some(text) = tokens.next() else {
                return Err(err!(BadVocab, "{id} token texts, expected {n_tokens}"));
            };
            vocab.read(spelling, id, text, types.get(id).copied().unwrap_or(1))?;
        }
        vocab.index(spelling)?;
        // Both have grown by doubling.
        vocab.arena = exact(&vocab.arena)?;
        vocab.spans = exact(&vocab.spans)?;
        Ok(vocab)
    }

    fn read(&mut self, spelling: Spelling, id: usize, text: &[u8], kind: i32) -> Result<()> {
        if text.len() > MAX_TOKEN_LEN {
            let n = text.len();
            return Err(err!(BadVocab, "token {id}: {n} bytes, at most {MAX_TOKEN_LEN}"));
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
        reserve(&mut self.arena, text.len())?; // undone, no text is longer than it was
        match (kind, spelling) {
            (Kind::Byte, _) => match byte_of(text) {
                Some(byte) => self.arena.push(byte),
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
        self.close_entry()
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

    /// Fills the table and `bytes`. Of several tokens with one text, the first is found.
    fn index(&mut self, spelling: Spelling) -> Result<()> {
        let len = table_len(self.n_vocab);
        reserve_exact(&mut self.table, len)?;
        self.table.resize(len, 0);
        for id in 0..self.n_vocab {
            match self.kind(id as u32) {
                Some(Kind::Normal) if !self.has(id as u32, HIDDEN) => self.insert(id),
                Some(Kind::Byte) => {
                    let byte = self.entry(id).first().copied().unwrap_or(0);
                    self.set_byte(byte, id as u32);
                }
                _ => {}
            }
        }
        if spelling == Spelling::Bytes {
            self.index_user_defined()?;
            for byte in 0..=255 {
                if let Some(id) = self.lookup(&[byte]) {
                    self.set_byte(byte, id);
                }
            }
        }
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
            if bytes.len() == text.len() {
                self.insert(id);
            } else if self.lookup(&bytes).is_none() {
                reserve(&mut self.arena, bytes.len())?;
                self.arena.extend_from_slice(&bytes);
                self.close_entry()?;
                reserve(&mut self.aliases, 1)?;
                self.aliases.push(id as u32);
                self.insert(self.n_vocab + self.aliases.len() - 1);
            }
        }
        Ok(())
    }

    /// Puts an entry into the table, unless its bytes are there or are none.
    fn insert(&mut self, entry: usize) {
        let bytes = self.entry(entry);
        if bytes.is_empty() {
            return;
        }
        let len = bytes.len();
        let mask = self.table.len() - 1;
        let mut slot = self.seed.bytes(bytes) & mask;
        // There is always a free slot: `table_len` leaves three eighths of them.
        while let Some(&found) = self.table.get(slot) {
            if found == 0 {
                if let Some(free) = self.table.get_mut(slot) {
                    *free = entry as u32 + 1;
                }
                self.max_len = self.max_len.max(len);
                return;
            }
            if self.entry(found as usize - 1) == self.entry(entry) {
                return;
            }
            slot = (slot + 1) & mask;
        }
    }

    fn set_byte(&mut self, byte: u8, id: u32) {
        if let Some(token) = self.bytes.get_mut(usize::from(byte)).filter(|t| **t == NONE) {
            *token = id;
        }
    }

    /// The token that text with these bytes becomes; never a control token.
    pub(super) fn lookup(&self, bytes: &[u8]) -> Option<u32> {
        if bytes.is_empty() || bytes.len() > self.max_len {
            return None;
        }
        let mask = self.table.len() - 1;
        let mut slot = self.seed.bytes(bytes) & mask;
        loop {
            let entry = self.table.get(slot)?.checked_sub(1)? as usize;
            if self.entry(entry) == bytes {
                return match entry.checked_sub(self.n_vocab) {
                    None => Some(entry as u32),
                    Some(alias) => self.aliases.get(alias).copied(),
                };
            }
            slot = (slot + 1) & mask;
        }
    }

    fn entry(&self, i: usize) -> &[u8] {
        match (self.spans.get(i), self.spans.get(i + 1)) {
            (Some(&begin), Some(&end)) => {
                self.arena.get(begin as usize..end as usize).unwrap_or(&[])
            }
            _ => &[],
        }
    }

    /// The token of one byte.
    pub(super) fn byte(&self, byte: u8) -> Option<u32> {
        self.bytes.get(usize::from(byte)).copied().filter(|&id| id != NONE)
    }

    /// The bytes a token stands for; for control tokens, their name.
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
        let ids = self.spans.capacity() + self.aliases.capacity() + self.table.capacity();
        self.arena.capacity() + self.marks.capacity() + 4 * ids
    }
}

/// The byte that "<0x41>" names.
fn byte_of(text: &str) -> Option<u8> {
    let hex = text.strip_prefix("<0x")?.strip_suffix('>')?;
    if hex.len() != 2 || !hex.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    u8::from_str_radix(hex, 16).ok()
}

/// Appends `text` with each U+2581 turned into the space it stands for. The caller has reserved.
pub(super) fn mark_to_space(text: &str, out: &mut Vec<u8>) {
    for (i, part) in text.split(SPACE_MARK).enumerate() {
        if i > 0 {
            out.push(b' ');
        }
        out.extend_from_slice(part.as_bytes());
    }
}

/// Appends the bytes that the characters of `text` stand for in byte-level BPE; or, when one of
/// them stands for none, appends nothing and returns false. The caller has reserved.
///
/// The printable characters of Latin-1 stand for themselves; the 68 other bytes, in their order,
/// are the characters from U+0100 on.
pub(super) fn undo_bytes(text: &str, out: &mut Vec<u8>) -> bool {
    let begin = out.len();
    for c in text.chars() {
        let byte = match u32::from(c) {
            code @ (0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff) => code,
            code @ 0x100..=0x120 => code - 0x100, // 0x00 to 0x20
            code @ 0x121..=0x142 => code - 0x121 + 0x7f, // 0x7f to 0xa0
            0x143 => 0xad,
            _ => {
                out.truncate(begin);
                return false;
            }
        };
        out.push(byte as u8); // every arm gives less than 256
    }
    true
}

/// Makes room for `n` more elements, or fails.
pub(super) fn reserve<T>(vec: &mut Vec<T>, n: usize) -> Result<()> {
    vec.try_reserve(n).map_err(|_| no_memory::<T>(n))
}

/// Makes room for exactly `n` more elements, or fails.
pub(super) fn reserve_exact<T>(vec: &mut Vec<T>, n: usize) -> Result<()> {
    vec.try_reserve_exact(n).map_err(|_| no_memory::<T>(n))
}

/// A copy without spare room. (Shrinking in place would end the process if memory ran out.)
fn exact<T: Copy>(from: &[T]) -> Result<Vec<T>> {
    let mut copy = Vec::new();
    reserve_exact(&mut copy, from.len())?;
    copy.extend_from_slice(from);
    Ok(copy)
}

fn no_memory<T>(n: usize) -> crate::base::error::Error {
    err!(OutOfMemory, "tokenizer: {} bytes", n.saturating_mul(size_of::<T>()))
}
