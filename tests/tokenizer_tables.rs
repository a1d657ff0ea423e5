//! Tokenizers from made tables: each contradiction has its error, and the rules that real
//! vocabularies seldom show hold.
#![allow(clippy::unwrap_used, reason = "what fails to come fails the test")]

mod support;

use support::counting::{Counting, with_allocations};
use tern::Error;
use tern::tokenizer::{MAX_TEXT_LEN, MAX_TOKEN_LEN, Tables, Tokenizer};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const NORMAL: i32 = 1;
const UNKNOWN: i32 = 2;
const CONTROL: i32 = 3;
const USER_DEFINED: i32 = 4;
const BYTE: i32 = 6;

/// Tables of texts that lie in lists.
type Listed<'a> = Tables<'a, Texts<'a>, Texts<'a>>;
type Texts<'a> = Box<dyn Iterator<Item = &'a [u8]> + 'a>;

/// Tables in the making.
#[derive(Clone)]
struct Made {
    model: &'static str,
    pre: &'static str,
    tokens: Vec<(Vec<u8>, f32, i32)>,
    merges: Vec<Vec<u8>>,
    bos: Option<u32>,
    eos: Option<u32>,
    unk: Option<u32>,
    ends: Vec<u32>,
    add_bos: Option<bool>,
    add_eos: Option<bool>,
    add_space_prefix: Option<bool>,
    strip: bool,
}

impl Made {
    /// `<unk>`, `<s>`, `</s>`, the bytes (3 to 258), "▁", "a", "b", "ab", "ba" (259 to 263).
    fn llama() -> Made {
        let mut made = Made::empty("llama");
        made.add("<unk>", 0.0, UNKNOWN).add("<s>", 0.0, CONTROL).add("</s>", 0.0, CONTROL);
        for byte in 0..256 {
            made.add(&format!("<0x{byte:02X}>"), 0.0, BYTE);
        }
        for (text, score) in [("▁", -9.0), ("a", -9.0), ("b", -9.0), ("ab", -2.0), ("ba", -1.0)] {
            made.add(text, score, NORMAL);
        }
        made
    }

    /// "a", "b", "c", "Ġ", "ab", "bc", "Ġab" (0 to 6), `<e>` (7).
    fn gpt2() -> Made {
        let mut made = Made::empty("gpt2");
        for text in ["a", "b", "c", "Ġ", "ab", "bc", "Ġab"] {
            made.add(text, 0.0, NORMAL);
        }
        made.add("<e>", 0.0, CONTROL);
        made.merges = ["b c", "a b", "Ġ ab"].map(|m| m.as_bytes().to_vec()).into();
        made
    }

    fn empty(model: &'static str) -> Made {
        Made {
            model,
            pre: "gpt-2",
            tokens: Vec::new(),
            merges: Vec::new(),
            bos: None,
            eos: None,
            unk: None,
            ends: Vec::new(),
            add_bos: None,
            add_eos: None,
            add_space_prefix: None,
            strip: false,
        }
    }

    fn add(&mut self, text: &str, score: f32, kind: i32) -> &mut Made {
        self.tokens.push((text.as_bytes().to_vec(), score, kind));
        self
    }

    fn with(mut self, f: impl FnOnce(&mut Made)) -> Made {
        f(&mut self);
        self
    }

    fn tables(&self) -> Listed<'_> {
        Tables {
            model: self.model,
            pre: self.pre,
            n_tokens: self.tokens.len(),
            tokens: Box::new(self.tokens.iter().map(|t| &t.0[..])),
            scores: self.tokens.iter().map(|t| t.1).collect(),
            types: self.tokens.iter().map(|t| t.2).collect(),
            n_merges: self.merges.len(),
            merges: Box::new(self.merges.iter().map(|m| &m[..])),
            bos: self.bos,
            eos: self.eos,
            unk: self.unk,
            ends: self.ends.clone(),
            add_bos: self.add_bos,
            add_eos: self.add_eos,
            add_space_prefix: self.add_space_prefix,
            strip_after_special: self.strip,
        }
    }

    fn make(&self) -> Tokenizer {
        Tokenizer::new(self.tables()).unwrap()
    }

    /// The error that these tables give, which says `what`.
    #[track_caller]
    fn fails(&self, name: &str, what: &str) {
        fails(self.tables(), name, what);
    }
}

#[track_caller]
fn fails(tables: Listed<'_>, name: &str, what: &str) {
    let error = Tokenizer::new(tables).err().expect("an error");
    assert_eq!(error.name(), name, "{error}");
    assert!(error.message().contains(what), "{error}");
}

const BAD: &str = "TERN_ERROR_BAD_VOCAB";

#[track_caller]
fn ids(tokenizer: &Tokenizer, text: &str) -> Vec<i32> {
    let mut ids = Vec::new();
    tokenizer.tokenize(text, false, false, &mut ids).unwrap();
    ids
}

fn text(tokenizer: &Tokenizer, ids: &[i32]) -> String {
    let mut bytes = Vec::new();
    tokenizer.detokenize(ids, &mut bytes).unwrap();
    String::from_utf8(bytes).unwrap()
}

#[test]
fn kinds_and_schemes_that_are_not_known_are_named() {
    const UNSUPPORTED: &str = "TERN_ERROR_UNSUPPORTED_TOKENIZER";
    Made::empty("").fails(UNSUPPORTED, "tokenizer.ggml.model is missing");
    for model in ["bert", "t5", "rwkv", "no_vocab", "LLAMA"] {
        Made::empty(model).fails(UNSUPPORTED, &format!("{model:?}"));
    }
    Made::gpt2().with(|m| m.pre = "kimi-k2").fails(UNSUPPORTED, "\"kimi-k2\"");
    Made::gpt2().with(|m| m.pre = "").make();
}

#[test]
fn counts_that_contradict_each_other_are_errors() {
    Made::empty("llama").fails(BAD, "no tokens");
    Made::empty("gpt2").fails(BAD, "no tokens");
    let made = Made::llama();
    let n = made.tokens.len();
    fails(Tables { n_tokens: n + 1, types: Vec::new(), ..made.tables() }, BAD, "264 token texts");
    fails(Tables { n_tokens: usize::MAX, ..made.tables() }, BAD, "tokens, at most");
    fails(Tables { n_tokens: n - 1, ..made.tables() }, BAD, "token_type: 264 entries");
    fails(Tables { scores: vec![0.0; n - 1], ..made.tables() }, BAD, "scores: 263 entries");
    fails(Tables { scores: Vec::new(), ..made.tables() }, BAD, "scores: 0 entries");
    let made = Made::gpt2();
    fails(Tables { n_merges: 4, ..made.tables() }, BAD, "3 merges, expected 4");
    fails(Tables { n_merges: 0, ..made.tables() }, BAD, "no merges");
    fails(Tables { n_merges: usize::MAX, ..made.tables() }, BAD, "merges, at most");
}

#[test]
fn tokens_that_are_not_what_they_claim_are_errors() {
    Made::llama()
        .with(|m| m.tokens[259].0 = vec![0xe2, 0x96])
        .fails(BAD, "token 259: not valid UTF-8");
    Made::llama().with(|m| m.tokens[260].2 = 7).fails(BAD, "token 260: unknown type 7");
    Made::llama().with(|m| m.tokens[260].2 = -1).fails(BAD, "token 260: unknown type -1");
    Made::llama().with(|m| m.tokens[260].1 = f32::NAN).fails(BAD, "token 260: its score");
    for text in ["<0x4>", "<0x+4>", "<0xGG>", "A", "", "<0x041>", "<0x€>"] {
        let bad = Made::llama().with(|m| m.tokens[3].0 = text.as_bytes().to_vec());
        bad.fails(BAD, "token 3:");
    }
    let long = |n| Made::llama().with(|m| m.tokens[260].0 = vec![b'x'; n]);
    long(MAX_TOKEN_LEN).make();
    long(MAX_TOKEN_LEN + 1).fails(BAD, "token 260: 65537 bytes");
}

#[test]
fn ids_beyond_the_vocabulary_are_errors() {
    Made::llama().with(|m| m.bos = Some(264)).fails(BAD, "bos token 264, expected less than 264");
    Made::llama().with(|m| m.eos = Some(u32::MAX)).fails(BAD, "eos token 4294967295");
    Made::llama().with(|m| m.unk = Some(264)).fails(BAD, "unk token 264");
    Made::llama().with(|m| m.ends = vec![2, 264]).fails(BAD, "end token 264");
    Made::gpt2().with(|m| m.add_bos = Some(true)).fails(BAD, "no bos token");
    Made::gpt2().with(|m| m.add_eos = Some(true)).fails(BAD, "no eos token");
    // Llama's usual ids are not taken where they are other tokens, or none.
    let mut one = Made::empty("llama");
    one.add("<unk>", 0.0, UNKNOWN);
    let one = one.make();
    assert_eq!((one.bos(), one.eos(), ids(&one, "a")), (None, None, vec![0, 0]));
}

#[test]
fn merges_that_merge_nothing_are_errors() {
    for line in ["ab", "", " ", "a ", " b", "a b c", "a x", "x a", "a a", "a\u{3000}b"] {
        let made = Made::gpt2().with(|m| m.merges[1] = line.as_bytes().to_vec());
        made.fails(BAD, "merge 1");
    }
    Made::gpt2().with(|m| m.merges[1] = vec![0xff, b' ', b'a']).fails(BAD, "merge 1");
    // A control token is no text, so no merge may arrive at it.
    let made = Made::gpt2().with(|m| m.tokens[4].2 = CONTROL);
    made.fails(BAD, "merge 1: \"a b\" names a text without a token");
}

#[test]
fn tables_good_and_bad_run_out_of_memory_anywhere_and_that_is_an_error() {
    let no_token = Made::gpt2().with(|m| m.tokens[4].2 = CONTROL);
    let no_text = Made::gpt2().with(|m| m.merges[1] = b"a a".to_vec());
    for made in [Made::gpt2(), Made::llama(), no_token, no_text] {
        let mut n = 0;
        loop {
            let tables = made.tables();
            match with_allocations(n, || Tokenizer::new(tables)) {
                Err(Error::OutOfMemory(_)) => n += 1,
                // With no memory left for more than a fixed sentence, too.
                Err(error) if error.message().contains("no memory") => n += 1,
                _ => break,
            }
        }
        assert!(n > 4, "only {n} allocations");
    }
}

#[test]
fn merges_go_by_rank_and_scores_by_value() {
    let bpe = Made::gpt2().make();
    assert_eq!(ids(&bpe, "abc"), [0, 5], "b c before a b");
    assert_eq!(ids(&bpe, "ab"), [4]);
    assert_eq!(ids(&bpe, " ab"), [6]);
    assert_eq!(ids(&bpe, ""), []);
    let spm = Made::llama().with(|m| m.add_space_prefix = Some(false)).make();
    assert_eq!(ids(&spm, "aba"), [260, 263], "ba before ab");
    assert_eq!(ids(&spm, "abab"), [260, 263, 261]);
    assert_eq!(ids(&spm, "bb"), [261, 261]);
    // Of equal scores the leftmost.
    let even = Made::llama().with(|m| {
        m.add_space_prefix = Some(false);
        m.tokens[262].1 = -1.0;
    });
    assert_eq!(ids(&even.make(), "aba"), [262, 260]);
}

#[test]
fn of_equal_texts_the_first_is_found_and_all_are_text() {
    let twice = Made::llama().with(|m| _ = m.add("ab", 0.0, NORMAL)).make();
    assert_eq!(ids(&twice, "ab"), [259, 262]);
    assert_eq!(text(&twice, &[262, 264]), "abab");
    let bpe = Made::gpt2().with(|m| _ = m.add("a", 0.0, NORMAL).add("<e>", 0.0, CONTROL)).make();
    assert_eq!(ids(&bpe, "a"), [0]);
    assert_eq!(text(&bpe, &[8]), "a");
    assert_eq!(bpe.special_token("<e>"), Some(7));
}

#[test]
fn what_has_no_token_becomes_bytes_or_unknown_or_nothing() {
    let spm = Made::llama().with(|m| m.add_space_prefix = Some(false));
    assert_eq!(ids(&spm.make(), "é"), [3 + 0xc3, 3 + 0xa9]);
    assert_eq!(text(&spm.make(), &[3 + 0xc3, 3 + 0xa9]), "é");
    let lacking = spm.clone().with(|m| m.tokens[3 + 0xa9] = (b"z".to_vec(), 0.0, NORMAL));
    assert_eq!(ids(&lacking.make(), "aéb"), [260, 0, 261], "one unknown for the character");
    let no_unknown = lacking.with(|m| m.tokens[0] = (b"y".to_vec(), 0.0, NORMAL));
    no_unknown.fails(BAD, "no token for byte 0xa9 and no unknown token");

    assert_eq!(ids(&Made::gpt2().make(), "axc"), [0, 2]);
    assert_eq!(ids(&Made::gpt2().make(), "axb"), [4], "as if x were not there");
    // A control token does not come from text, even if the file calls it the unknown one.
    assert_eq!(ids(&Made::gpt2().with(|m| m.unk = Some(7)).make(), "axc"), [0, 2]);
    let unknown = Made::gpt2().with(|m| {
        m.tokens[7].2 = UNKNOWN;
        m.unk = Some(7);
    });
    assert_eq!(ids(&unknown.make(), "axb"), [0, 7, 1]);
}

#[test]
fn the_longest_of_the_leftmost_special_tokens_is_found() {
    let made = Made::gpt2().with(|m| {
        m.add("<e", 0.0, USER_DEFINED).add("<e><e>", 0.0, CONTROL).add("e>a", 0.0, USER_DEFINED);
        m.add("", 0.0, USER_DEFINED).add("é", 0.0, CONTROL);
    });
    let tokenizer = made.make();
    let all = |text: &str| {
        let mut ids = Vec::new();
        tokenizer.tokenize(text, false, true, &mut ids).unwrap();
        ids
    };
    assert_eq!(all("a<e>b"), [0, 7, 1]);
    assert_eq!(all("a<e<e>"), [0, 8, 7]);
    assert_eq!(all("<e><e><e>a"), [9, 7, 0]);
    assert_eq!(all("<e><eé"), [7, 8, 12]);
    assert_eq!(all("<ée>a"), [12, 10]);
    assert_eq!(ids(&tokenizer, "a<e>a"), [0, 8, 0], "user-defined tokens only; \">\" has no token");
    assert_eq!(text(&tokenizer, &[8, 7, 11, 0]), "<ea", "control tokens are no text");
    assert_eq!(tokenizer.piece(7), Some(&b""[..]));
    assert_eq!(tokenizer.name(7), Some(&b"<e>"[..]));
}

#[test]
fn spaces_are_put_and_taken_where_the_family_has_them() {
    let made = Made::llama().with(|m| _ = m.add("<u>", 0.0, USER_DEFINED));
    let tokenizer = made.make();
    assert_eq!(ids(&tokenizer, "a<u>b a"), [259, 260, 264, 259, 261, 259, 260]);
    assert_eq!(text(&tokenizer, &[259, 260, 264, 259, 261, 259, 260]), "a<u>b a");
    assert_eq!(ids(&tokenizer, " a"), [259, 259, 260]);
    assert_eq!(text(&tokenizer, &[259, 259, 260]), " a");
    assert_eq!(ids(&tokenizer, "▁a"), ids(&tokenizer, " a"));
    assert_eq!(ids(&tokenizer, ""), []);
    let plain = made.clone().with(|m| m.add_space_prefix = Some(false)).make();
    assert_eq!(ids(&plain, "a<u> b"), [260, 264, 259, 261]);
    assert_eq!(text(&plain, &[259, 261]), " b");
    let strips = made.with(|m| m.strip = true).make();
    assert_eq!(ids(&strips, "a<u> \n\tb"), [259, 260, 264, 259, 261]);
    assert_eq!(ids(&strips, "<u>  "), [264]);
}

#[test]
fn bos_and_eos_go_around_the_text() {
    let around = |made: &Made| {
        let mut ids = Vec::new();
        made.make().tokenize("a", true, false, &mut ids).unwrap();
        ids
    };
    let made = Made::llama();
    assert_eq!(around(&made), [1, 259, 260], "llama's ids, and its habit");
    assert_eq!(around(&made.clone().with(|m| m.add_bos = Some(false))), [259, 260]);
    assert_eq!(around(&made.clone().with(|m| m.add_eos = Some(true))), [1, 259, 260, 2]);
    assert_eq!(around(&made.with(|m| m.bos = Some(263))), [263, 259, 260]);
    let made = Made::gpt2().with(|m| (m.bos, m.eos) = (Some(7), Some(6)));
    assert_eq!(around(&made), [0]);
    assert_eq!(around(&made.clone().with(|m| m.pre = "llama-bpe")), [7, 0]);
    assert_eq!(around(&made.with(|m| m.add_eos = Some(true))), [0, 6]);
}

#[test]
fn generation_ends_at_tokens_that_say_so() {
    let made = Made::gpt2().with(|m| {
        (m.eos, m.ends) = (Some(0), vec![1]);
        m.add("<|im_end|>", 0.0, NORMAL)
            .add("</s>", 0.0, USER_DEFINED)
            .add("<|end|>", 0.0, CONTROL);
    });
    let ends = |made: &Made| {
        let tokenizer = made.make();
        (0..tokenizer.n_vocab() as i32).filter(|&t| tokenizer.is_eog(t)).collect::<Vec<_>>()
    };
    assert_eq!(ends(&made), [0, 1, 8, 10], "\"</s>\" is HTML here");
    assert!(made.make().is_control(8), "whatever the file calls it");
    assert_eq!(ends(&made.clone().with(|m| m.tokens[9].2 = CONTROL)), [0, 1, 8, 9, 10]);
    let harmony = made.with(|m| {
        m.add("<|return|>", 0.0, CONTROL).add("<|call|>", 0.0, CONTROL);
    });
    assert_eq!(ends(&harmony), [0, 1, 8, 11, 12], "\"<|end|>\" ends a message, not the turn");
    let tokenizer = harmony.make();
    assert!(!tokenizer.is_eog(-1) && !tokenizer.is_eog(13) && !tokenizer.is_control(i32::MAX));
}

#[test]
fn bytes_of_any_value_are_text() {
    let made = Made::llama().with(|m| _ = m.add("a\0b", 1.0, NORMAL));
    let tokenizer = made.make();
    assert_eq!(text(&tokenizer, &ids(&tokenizer, "\0a\0b\u{10ffff}")), "\0a\0b\u{10ffff}");
    let mut bytes = Vec::new();
    tokenizer.detokenize(&[3 + 0xff, 3 + 0x80], &mut bytes).unwrap();
    assert_eq!(bytes, [0xff, 0x80]);
}

#[test]
fn a_call_that_fails_changes_nothing() {
    let tokenizer = Made::gpt2().make();
    let long = "a".repeat(MAX_TEXT_LEN + 1);
    let mut out = vec![5];
    let error = tokenizer.tokenize(&long, true, true, &mut out).unwrap_err();
    assert!(matches!(error, Error::Limit(_)), "{error}");
    assert_eq!(out, [5]);
    let mut bytes = b"x".to_vec();
    for token in [-1, 8, i32::MAX, i32::MIN] {
        let error = tokenizer.detokenize(&[0, token], &mut bytes).unwrap_err();
        assert!(matches!(error, Error::InvalidArgument(_)), "{error}");
        assert_eq!(bytes, b"x");
        assert_eq!((tokenizer.piece(token), tokenizer.name(token)), (None, None));
    }
}

#[test]
fn whole_words_are_left_whole_where_the_family_has_it() {
    let made = Made::gpt2().with(|m| _ = m.add("abc", 0.0, NORMAL));
    assert_eq!(ids(&made.make(), "abc"), [0, 5]);
    assert_eq!(ids(&made.with(|m| m.pre = "llama-bpe").make(), "abc"), [8]);
}

#[test]
fn gemma4_merges_characters_and_falls_back_to_bytes() {
    let mut made = Made::empty("gemma4");
    made.add("<unk>", 0.0, UNKNOWN).add("<bos>", 0.0, CONTROL);
    for byte in 0..256 {
        made.add(&format!("<0x{byte:02X}>"), 0.0, BYTE);
    }
    // 258 on
    for text in ["▁", "é", "a", "▁é", "\n", "\n\n"] {
        made.add(text, 0.0, NORMAL);
    }
    made.merges = ["▁ é", "\n \n"].map(|m| m.as_bytes().to_vec()).into();
    made.bos = Some(1);
    let tokenizer = made.make();
    assert_eq!(ids(&tokenizer, " éa\n\n\n"), [261, 260, 263, 262]);
    assert_eq!(ids(&tokenizer, "▁éz"), [261, 2 + i32::from(b'z')]);
    assert_eq!(text(&tokenizer, &[261, 260, 263, 2 + i32::from(b'z')]), " éa\n\nz");
    let mut with = Vec::new();
    tokenizer.tokenize("a", true, false, &mut with).unwrap();
    assert_eq!(with, [1, 260]);
    assert!(tokenizer.heap_bytes() > 1000 && tokenizer.heap_bytes() < 20_000);
}

#[test]
fn no_tables_and_no_text_make_it_panic() {
    const TEXTS: &[&str] = &[
        "", "a", "b", "ab", "ba", "Ġ", "▁", " ", "é", "Ã", "©", "Ã©", "<0x61>", "<s>", "</s>",
        "<|end|>", "\n", "1", "\0", "aa", "漢", "\u{301}", "ÿ", "<", "s>", "▁▁", "ab▁",
    ];
    let mut state = 7u64;
    let mut random = |n: usize| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 33) as usize % n
    };
    let (mut made_well, mut n_ids) = (0, 0);
    for _ in 0..20_000 {
        let mut made = Made::empty(["llama", "gpt2", "gemma4"][random(3)]);
        made.pre = ["default", "gpt-2", "llama-bpe", "deepseek-v3", "gpt-4o", "falcon"][random(6)];
        for _ in 0..random(24) {
            let text = TEXTS[random(TEXTS.len())];
            let kind =
                if text.starts_with("<0x") { BYTE } else { [1, 1, 1, 2, 3, 4, 5][random(7)] };
            made.add(text, random(4) as f32, kind);
        }
        let n = made.tokens.len().max(1);
        let pieces = ["a", "b", "aa", "Ã", "©", "▁", "é"];
        for _ in 0..random(4) {
            let line = format!("{} {}", pieces[random(7)], pieces[random(7)]);
            made.merges.push(line.into_bytes());
        }
        let mut id = || (random(3) > 0).then(|| random(n) as u32);
        (made.bos, made.eos, made.unk) = (id(), id(), id());
        made.add_space_prefix = Some(random(2) > 0);
        made.strip = random(4) == 0;
        let Ok(tokenizer) = Tokenizer::new(made.tables()) else { continue };
        made_well += 1;
        for _ in 0..4 {
            let text: String = (0..random(12)).map(|_| TEXTS[random(TEXTS.len())]).collect();
            let mut ids = Vec::new();
            tokenizer.tokenize(&text, random(2) > 0, random(2) > 0, &mut ids).unwrap();
            n_ids += ids.len();
            assert!(ids.iter().all(|&id| tokenizer.name(id).is_some()));
            let mut bytes = Vec::new();
            tokenizer.detokenize(&ids, &mut bytes).unwrap();
        }
    }
    assert!(made_well > 2000 && n_ids > 50_000, "{made_well} {n_ids}");
}
