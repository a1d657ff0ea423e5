//! Text to tokens and back.
//!
//! Knows no file format: a [`Tokenizer`] is made from plain [`Tables`]. It is immutable, and any
//! number of threads may use it.
//!
//! Text is taken as it is. Some families (Qwen2, GPT-NeoX) were trained on text in Unicode's
//! normalisation form C; GGUF says nothing of it, and a caller with decomposed text may compose it.

#![cfg_attr(
    not(test),
    deny(
        clippy::arithmetic_side_effects,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::panic,
        clippy::string_slice,
        clippy::unreachable
    )
)]

mod bpe;
mod cache;
mod class;
mod control;
mod hash;
mod list;
mod merges;
mod pre;
mod seams;
mod special;
mod spelling;
mod split;
mod spm;
mod stream;
mod unicode;
mod vocab;

pub use stream::StreamDecoder;
pub use vocab::{MAX_TOKEN_LEN, MAX_TOKENS};

use crate::base::error::{Result, err};
use cache::Cache;
use list::{heap_bytes, reserve, reserve_exact};
use merges::Merges;
use pre::{Pre, Scheme};
use special::Special;
use spelling::{Spelling, has_mark, mark_to_space};
use vocab::{Kind, STRIP, Vocab};

/// Bytes that a text may have.
pub const MAX_TEXT_LEN: usize = 64 * 1024 * 1024;

/// A vocabulary as a file describes it. Texts are lent and read once, in their order.
pub struct Tables<'a, Tokens, Merges> {
    /// The kind of tokenizer (`tokenizer.ggml.model`): "llama", "gpt2" or "gemma4".
    pub model: &'a str,
    /// The pre-tokenizer (`tokenizer.ggml.pre`); empty = not given.
    pub pre: &'a str,
    /// How many texts `tokens` has.
    pub n_tokens: usize,
    /// The text of each token, as the file spells it.
    pub tokens: Tokens,
    /// The score of each token; "llama" needs them, the others ignore them.
    pub scores: Vec<f32>,
    /// The type of each token (`tokenizer.ggml.token_type`); empty = all are text.
    pub types: Vec<i32>,
    /// How many lines `merges` has.
    pub n_merges: usize,
    /// The merges, the most urgent first; "llama" has none.
    pub merges: Merges,
    /// The token that begins a text.
    pub bos: Option<u32>,
    /// The token that ends a text.
    pub eos: Option<u32>,
    /// The token for what has none.
    pub unk: Option<u32>,
    /// Further tokens that end generation: end of turn, end of message, and the like.
    pub ends: Vec<u32>,
    /// Whether a text begins with `bos`; None = as the kind and the pre-tokenizer have it.
    pub add_bos: Option<bool>,
    /// Whether a text ends with `eos`; None = no.
    pub add_eos: Option<bool>,
    /// Whether "llama" puts a space before a text; None = yes.
    pub add_space_prefix: Option<bool>,
    /// Whether special tokens take the white space after them, as those of Phi-3 do.
    pub strip_after_special: bool,
}

/// Turns text into tokens and tokens into text.
pub struct Tokenizer {
    vocab: Vocab,
    model: Model,
    /// What is found in every text.
    user_defined: Special,
    /// What is found in a text whose control tokens are to be read.
    all_special: Special,
    bos: Option<u32>,
    eos: Option<u32>,
    /// What text becomes that has no token.
    unknown: Option<u32>,
    add_bos: bool,
    add_eos: bool,
    add_space_prefix: bool,
}

enum Model {
    Spm { scores: Vec<f32> },
    Bpe { merges: Merges, spelling: Spelling, scheme: Scheme, whole_words: bool },
}

impl Tokenizer {
    /// Checks the tables and makes a tokenizer of them.
    ///
    /// Of several tokens with one text, text becomes the first; all of them turn into that text.
    ///
    /// Fails with UnsupportedTokenizer for a kind or a pre-tokenizer that is not known, and with
    /// BadVocab for tables that contradict each other, texts that are not UTF-8 or longer than
    /// [`MAX_TOKEN_LEN`], ids beyond the vocabulary, merges that are malformed or name texts
    /// without a token, and a "llama" vocabulary that has neither a token for each byte nor an
    /// unknown token.
    pub fn new<'a>(
        mut tables: Tables<'a, impl Iterator<Item = &'a [u8]>, impl Iterator<Item = &'a [u8]>>,
    ) -> Result<Tokenizer> {
        let (spelling, pre) = match (tables.model, tables.pre) {
            ("llama", _) => (Spelling::Spaced, None),
            ("gemma4", _) | ("gpt2", "gemma4") => (Spelling::Spaced, Some(Pre::named("gemma4")?)),
            ("gpt2", name) => (Spelling::Bytes, Some(Pre::named(name)?)),
            ("", _) => return Err(err!(UnsupportedTokenizer, "tokenizer.ggml.model is missing")),
            (other, _) => {
                return Err(err!(UnsupportedTokenizer, "tokenizer.ggml.model is {other:?}"));
            }
        };
        let mut vocab = Vocab::new(spelling, tables.n_tokens, &mut tables.tokens, &tables.types)?;
        drop(tables.types);

        let n_vocab = vocab.len();
        let named = [("bos", tables.bos), ("eos", tables.eos), ("unk", tables.unk)];
        let ends = tables.ends.iter().map(|&id| ("end", Some(id)));
        for (name, id) in named.into_iter().chain(ends) {
            if let Some(id) = id.filter(|&id| id as usize >= n_vocab) {
                return Err(err!(BadVocab, "{name} token {id}, expected less than {n_vocab}"));
            }
        }
        // Llama's own vocabulary has these, and its files may leave them out.
        let llama = |id, name: &[u8]| {
            let special = matches!(vocab.kind(id), Some(Kind::Control | Kind::Unknown));
            let found = special || vocab.text(id) == Some(name);
            (pre.is_none() && found).then_some(id)
        };
        let bos = tables.bos.or_else(|| llama(1, b"<s>"));
        let eos = tables.eos.or_else(|| llama(2, b"</s>"));
        let unk = tables.unk.or_else(|| llama(0, b"<unk>"));
        if tables.add_bos == Some(true) && bos.is_none() {
            return Err(err!(BadVocab, "add_bos_token is true, but there is no bos token"));
        }
        if tables.add_eos == Some(true) && eos.is_none() {
            return Err(err!(BadVocab, "add_eos_token is true, but there is no eos token"));
        }

        control::mark(&mut vocab, eos.into_iter().chain(tables.ends));
        if tables.strip_after_special {
            control::mark_strip(&mut vocab);
        }
        // Some byte-level files name a control token as the unknown one. It must not come from
        // text, so what has no token is left out there, as it was when they were made.
        let unknown = unk.filter(|&id| pre.is_none() || vocab.kind(id) == Some(Kind::Unknown));
        let model = match pre {
            None => {
                spm::check(&vocab, &tables.scores, unknown)?;
                Model::Spm { scores: tables.scores }
            }
            Some(Pre { scheme, whole_words, .. }) => {
                let merges = Merges::new(&vocab, spelling, tables.n_merges, &mut tables.merges)?;
                Model::Bpe { merges, spelling, scheme, whole_words }
            }
        };
        let default_bos = pre.is_none_or(|pre| pre.add_bos);
        let default_space = pre.is_none();
        let (user_defined, all_special) = Special::both(&vocab)?;
        Ok(Tokenizer {
            user_defined,
            all_special,
            add_space_prefix: default_space && tables.add_space_prefix.unwrap_or(true),
            add_bos: tables.add_bos.unwrap_or(default_bos) && bos.is_some(),
            add_eos: tables.add_eos.unwrap_or(false) && eos.is_some(),
            vocab,
            model,
            bos,
            eos,
            unknown,
        })
    }

    /// Appends the tokens of a text.
    ///
    /// With `add_special` come the BOS and EOS tokens that the model wants around a text. With
    /// `parse_special` the names of control tokens in the text become those tokens; without, no
    /// text becomes a control token. User-defined tokens are found either way.
    ///
    /// Takes O(n log n) in the length of the text. Fails with Limit beyond [`MAX_TEXT_LEN`], and
    /// with OutOfMemory; `out` is then as it was.
    pub fn tokenize(
        &self,
        text: &str,
        add_special: bool,
        parse_special: bool,
        out: &mut Vec<i32>,
    ) -> Result<()> {
        Tokenizer::check_len(text.len())?;
        let n = out.len();
        let done = self.append_all(text, add_special, parse_special, out);
        if done.is_err() {
            out.truncate(n);
        }
        done
    }

    /// Fails with Limit if a text of so many bytes is too long.
    pub fn check_len(len: usize) -> Result<()> {
        match len > MAX_TEXT_LEN {
            true => Err(err!(Limit, "text: {len} bytes, at most {MAX_TEXT_LEN}")),
            false => Ok(()),
        }
    }

    fn append_all(
        &self,
        text: &str,
        add_special: bool,
        parse_special: bool,
        out: &mut Vec<i32>,
    ) -> Result<()> {
        if let Some(bos) = self.bos.filter(|_| add_special && self.add_bos) {
            append(out, bos)?;
        }
        let special = if parse_special { &self.all_special } else { &self.user_defined };
        reserve(out, text.len() / 4)?; // English has about as many
        let cache = Cache::new(text.len())?;
        match &self.model {
            Model::Spm { scores } => {
                let mut encoder = spm::Encoder::new(&self.vocab, scores, self.unknown, cache);
                // A space goes before the text, and before what follows a special token.
                let space = self.add_space_prefix;
                self.parts(text, special, out, &mut |part, out| encoder.text(part, space, out))?;
            }
            Model::Bpe { merges, spelling, scheme, whole_words } => {
                let (vocab, spelling) = (&self.vocab, *spelling);
                let mut encoder =
                    bpe::Encoder::new(vocab, merges, spelling, self.unknown, *whole_words, cache);
                let mut unmarked = Vec::new();
                self.parts(text, special, out, &mut |part, out| match spelling {
                    Spelling::Bytes => scheme.split(part, &mut |word| encoder.word(word, out)),
                    // What no merge crosses is a word too, and repeats where whole lines do not.
                    Spelling::Spaced => scheme.split(unmark(part, &mut unmarked)?, &mut |line| {
                        vocab.seams().split(line, &mut |word| encoder.word(word, out))
                    }),
                })?;
            }
        }
        if let Some(eos) = self.eos.filter(|_| add_special && self.add_eos) {
            append(out, eos)?;
        }
        Ok(())
    }

    /// Appends the special tokens of a text, and gives what lies between them to `plain`.
    fn parts(
        &self,
        text: &str,
        special: &Special,
        out: &mut Vec<i32>,
        plain: &mut dyn FnMut(&str, &mut Vec<i32>) -> Result<()>,
    ) -> Result<()> {
        let mut rest = text;
        while let Some((at, id)) = special.find(&self.vocab, rest.as_bytes()) {
            let n = self.vocab.text(id).map_or(0, <[u8]>::len);
            // Both are boundaries of characters, for the texts of tokens are valid UTF-8.
            let (before, after) = (rest.get(..at), rest.get(at.saturating_add(n)..));
            if let Some(before) = before.filter(|before| !before.is_empty()) {
                plain(before, out)?;
            }
            append(out, id)?;
            rest = after.unwrap_or("");
            if self.vocab.has(id, STRIP) {
                rest = rest.trim_start_matches([' ', '\t', '\n', '\x0b', '\x0c', '\r']);
            }
        }
        if rest.is_empty() { Ok(()) } else { plain(rest, out) }
    }

    /// Appends the bytes that tokens stand for: what [`Tokenizer::piece`] gives for each, less the
    /// spaces that [`Tokenizer::tokenize`] puts before a text and after special tokens.
    ///
    /// Gives back any text that was tokenized without `parse_special`, with two exceptions: U+2581
    /// comes back as the space that it means in "llama" and "gemma4", and bytes that the vocabulary
    /// has no token for do not come back.
    ///
    /// Fails with InvalidArgument for a token that is none, and with OutOfMemory; `out` is then
    /// as it was.
    pub fn detokenize(&self, tokens: &[i32], out: &mut Vec<u8>) -> Result<()> {
        let n = out.len();
        let done = self.append_pieces(tokens, out);
        if done.is_err() {
            out.truncate(n);
        }
        done
    }

    fn append_pieces(&self, tokens: &[i32], out: &mut Vec<u8>) -> Result<()> {
        let mut prefixed = self.add_space_prefix;
        for &token in tokens {
            let Some(mut piece) = self.piece(token) else {
                let n = self.n_vocab();
                return Err(err!(
                    InvalidArgument,
                    "token {token}, expected 0 to {}",
                    n.saturating_sub(1)
                ));
            };
            let kind = self.vocab.kind(token as u32);
            if matches!(kind, Some(Kind::Normal | Kind::Byte)) {
                piece = piece.strip_prefix(b" ").filter(|_| prefixed).unwrap_or(piece);
                prefixed = false;
            } else {
                prefixed = self.add_space_prefix;
            }
            reserve(out, piece.len())?;
            out.extend_from_slice(piece);
        }
        Ok(())
    }

    /// The bytes a token stands for: possibly part of a character; none for control tokens and the
    /// unknown token, which are not text. None: there is no such token.
    pub fn piece(&self, token: i32) -> Option<&[u8]> {
        match self.vocab.kind(u32::try_from(token).ok()?)? {
            Kind::Control | Kind::Unknown => Some(&[]),
            _ => self.name(token),
        }
    }

    /// The bytes a token stands for, and for a control token its name, as in "<|im_end|>". None:
    /// there is no such token.
    pub fn name(&self, token: i32) -> Option<&[u8]> {
        self.vocab.text(u32::try_from(token).ok()?)
    }

    /// Finds the special token with a name, as in "<|im_end|>".
    pub fn special_token(&self, name: &str) -> Option<i32> {
        let (at, id) = self.all_special.find(&self.vocab, name.as_bytes())?;
        let whole = at == 0 && self.vocab.text(id) == Some(name.as_bytes());
        whole.then_some(id as i32)
    }

    /// Whether a token ends generation: end of text, of turn, or of message.
    pub fn is_eog(&self, token: i32) -> bool {
        u32::try_from(token).is_ok_and(|id| self.vocab.has(id, vocab::END))
    }

    /// Whether a token is one of control: not text, and never made from text unless asked.
    pub fn is_control(&self, token: i32) -> bool {
        u32::try_from(token).is_ok_and(|id| self.vocab.kind(id) == Some(Kind::Control))
    }

    /// The token that begins a text.
    pub fn bos(&self) -> Option<i32> {
        self.bos.map(|id| id as i32)
    }

    /// The token that ends a text.
    pub fn eos(&self) -> Option<i32> {
        self.eos.map(|id| id as i32)
    }

    /// Whether `add_special` puts BOS before a text.
    pub fn adds_bos(&self) -> bool {
        self.add_bos
    }

    /// Tokens in the vocabulary.
    pub fn n_vocab(&self) -> usize {
        self.vocab.len()
    }

    /// Bytes of memory it owns.
    pub fn heap_bytes(&self) -> u64 {
        let model = match &self.model {
            Model::Spm { scores } => heap_bytes(scores),
            Model::Bpe { merges, .. } => merges.heap_bytes(),
        };
        let special = self.user_defined.heap_bytes().saturating_add(self.all_special.heap_bytes());
        self.vocab.heap_bytes().saturating_add(model).saturating_add(special) as u64
    }
}

fn append(out: &mut Vec<i32>, id: u32) -> Result<()> {
    reserve(out, 1)?;
    out.push(id as i32); // ids are below MAX_TOKENS
    Ok(())
}

/// `text` with each U+2581 turned into the space it stands for.
fn unmark<'a>(text: &'a str, buffer: &'a mut Vec<u8>) -> Result<&'a str> {
    if !has_mark(text) {
        return Ok(text);
    }
    buffer.clear();
    reserve_exact(buffer, text.len())?;
    mark_to_space(text, buffer);
    std::str::from_utf8(buffer).map_err(|_| err!(Internal, "text is no longer UTF-8"))
}
