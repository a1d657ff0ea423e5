//! Vocabularies: SentencePiece's, byte-level BPE, and kinds that tern does not read.

use super::case::{Case, Outcome, Works, case, fails, load, using};
use super::models::{good, spm, spm_but, spm_first, spm_in, spm_texts};
use crate::support::gguf_writer::{GgufWriter, array, kind, string};
use crate::support::tiny::{N_VOCAB, Tiny};
use tern::base::dtype::DType;
use tern::engine::Error;

fn bad(part: &str) -> Outcome {
    fails("BAD_VOCAB", part)
}

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = sentencepiece();
    cases.extend(byte_pairs());
    cases.extend(wrong_ids());
    cases.extend(other_kinds());
    cases
}

#[rustfmt::skip] // one case, one line
fn sentencepiece() -> Vec<Case> {
    let key = |name: &str| format!("tokenizer.ggml.{name}");
    let id = |name: &str, id: u32| spm().u32(&key(name), id);
    let raw = |name: &str, kind, n, bytes: &[u8]| spm().value(&key(name), kind::ARRAY, &array(kind, n, bytes));
    let n = N_VOCAB as u64;
    let default_bos = |n| spm_first(n).without("tokenizer.ggml.bos_token_id").without("tokenizer.ggml.eos_token_id").without("tokenizer.ggml.unknown_token_id");
    vec![
        case("tok_model_missing", spm().without("tokenizer.ggml.model"), fails("UNSUPPORTED_TOKENIZER", "tokenizer.ggml.model")),
        case("tok_model_unknown", spm().str("tokenizer.ggml.model", "magic"), fails("UNSUPPORTED_TOKENIZER", "magic")),
        case("tok_model_u32", spm().u32("tokenizer.ggml.model", 1), bad("tokenizer.ggml.model")),
        case("tok_ugm_charsmap_short", spm().str("tokenizer.ggml.model", "t5").u8s("tokenizer.ggml.precompiled_charsmap", &[1]), fails("UNSUPPORTED_TOKENIZER", "t5")),
        case("tok_ugm_charsmap_bad", spm().u8s("tokenizer.ggml.precompiled_charsmap", &[255; 7]), Works),
        case("tok_ugm_charsmap_str", spm().str("tokenizer.ggml.precompiled_charsmap", "x"), Works),
        case("tok_empty", spm().strings("tokenizer.ggml.tokens", [""; 0]), bad("tokenizer.ggml.tokens: no tokens")),
        case("tok_empty_all", spm_first(0), bad("tokenizer.ggml.tokens: no tokens")),
        case("tok_missing", spm().without("tokenizer.ggml.tokens"), bad("tokens")),
        case("tok_one", default_bos(1), Works),
        case("tok_two", default_bos(2), Works),
        case("tok_short", spm().strings("tokenizer.ggml.tokens", ["a"; 1]), bad("tokenizer.ggml.tokens: 1 of them, but token_embd.weight has 288 rows")),
        case("tok_tokens_u8", raw("tokens", kind::U8, n, &[0; N_VOCAB]), bad("tokenizer.ggml.tokens")),
        case("tok_tokens_str", spm().str("tokenizer.ggml.tokens", "abc"), bad("tokenizer.ggml.tokens")),
        case("tok_scores_u8", raw("scores", kind::U8, n, &[0; N_VOCAB]), bad("tokenizer.ggml.scores")),
        case("tok_scores_f64", raw("scores", kind::F64, n, &[0; 8 * N_VOCAB]), bad("tokenizer.ggml.scores")),
        case("tok_scores_short", spm().f32s("tokenizer.ggml.scores", &[0.0]), bad("scores")),
        case("tok_scores_long", spm().f32s("tokenizer.ggml.scores", &[0.0; N_VOCAB + 1]), bad("scores")),
        case("tok_scores_missing", spm().without("tokenizer.ggml.scores"), bad("scores")),
        case("tok_scores_nan", spm().f32s("tokenizer.ggml.scores", &[f32::NAN; N_VOCAB]), bad("score")),
        case("tok_scores_inf", spm().f32s("tokenizer.ggml.scores", &[f32::NEG_INFINITY; N_VOCAB]), Works),
        case("tok_types_u8", raw("token_type", kind::U8, n, &[1; N_VOCAB]), bad("tokenizer.ggml.token_type")),
        case("tok_types_f32", raw("token_type", kind::F32, n, &[0; 4 * N_VOCAB]), bad("tokenizer.ggml.token_type")),
        case("tok_types_short", spm().i32s("tokenizer.ggml.token_type", &[1]), bad("token_type")),
        case("tok_types_long", spm().i32s("tokenizer.ggml.token_type", &[1; N_VOCAB + 1]), bad("token_type")),
        case("tok_bos_oob", id("bos_token_id", N_VOCAB as u32), bad("bos")),
        case("tok_eos_oob", id("eos_token_id", N_VOCAB as u32), bad("eos")),
        case("tok_unk_oob", id("unknown_token_id", N_VOCAB as u32), bad("unk")),
        case("tok_eot_oob", id("eot_token_id", N_VOCAB as u32), bad("tokenizer.ggml.eot_token_id: 288, expected less than 288")),
        case("tok_bos_neg", spm().i32("tokenizer.ggml.bos_token_id", -1), bad("bos")),
        case("tok_pad_oob", id("padding_token_id", u32::MAX), Works),
        case("tok_add_bos_u32", spm().u32("tokenizer.ggml.add_bos_token", 1), bad("add_bos_token")),
        case("tok_byte_neg", spm_but(|i, t| if i == 100 { t.0 = "<0x-1>".into() }), bad("token 100: \"<0x-1>\" is not a byte")),
        case("tok_byte_zz", spm_but(|i, t| if i == 100 { t.0 = "<0xZZ>".into() }), bad("token 100: \"<0xZZ>\" is not a byte")),
        case("tok_byte_plus", spm_but(|i, t| if i == 100 { t.0 = "<0x+A>".into() }), bad("token 100: \"<0x+A>\" is not a byte")),
        case("tok_byte_long", spm_but(|i, t| if i == 100 { t.0 = "<0x100>".into() }), bad("token 100: \"<0x100>\" is not a byte")),
        case("tok_byte_empty", spm_but(|i, t| if i == 100 { t.0.clear() }), bad("token 100: \"\" is not a byte")),
        case("tok_byte_twice", spm_but(|i, t| if i == 100 { t.0 = "<0x41>".into() }), Works),
        case("tok_no_byte", spm_but(|i, t| if t.2 == 6 { *t = (format!("zz{i}"), 0.0, 1) }), Works),
        case("tok_no_byte_no_unk", spm_but(|i, t| if t.2 == 6 || i == 0 { *t = (format!("zz{i}"), 0.0, 1) }).u32("tokenizer.ggml.unknown_token_id", u32::MAX), bad("unk")),
        case("tok_dup", spm_but(|i, t| if i > 270 { t.0 = "a".into() }), Works),
        case("tok_dup_special", spm_but(|i, t| if i == 2 { t.0 = "<s>".into() }), Works),
        case("tok_nonutf8", spm_texts(|i, t| if i == 280 { *t = b"\xff\xfe".to_vec() }), bad("token 280: not valid UTF-8")),
        case("tok_nul", spm_texts(|i, t| if i == 280 { *t = b"\0".to_vec() }), Works),
        case("tok_text_empty", spm_texts(|i, t| if i == 280 { t.clear() }), Works),
        case("tok_huge_piece", spm_texts(|i, t| if i == 280 { *t = vec![b'x'; 8 << 20] }), fails("LIMIT", "tokenizer.ggml.tokens[280]")),
        case("tok_types_unknown", spm_but(|i, t| if i > 270 { t.2 = [7, -1, i32::MAX, i32::MIN][i % 4] }), bad("token 271: unknown type -2147483648")),
        case("tok_all_control", spm_but(|_, t| t.2 = 3), Works),
        case("tok_a_million_empty", many_tokens(), Works),
        case("tok_one_more_token", spm_but(|_, _| ()).strings("tokenizer.ggml.tokens", vec!["a"; N_VOCAB + 1]), bad("tokenizer.ggml.tokens: 289 of them, but token_embd.weight has 288 rows")),
        case("tok_byte_lower", spm_but(|i, t| if i == 100 { t.0 = "<0x6a>".into() }), Works),
        case("tok_byte_open", spm_but(|i, t| if i == 100 { t.0 = "<0x41".into() }), bad("token 100: \"<0x41\" is not a byte")),
        case("tok_text_64k", spm_texts(|i, t| if i == 280 { *t = vec![b'x'; 65_536] }), Works),
        case("tok_utf8_cut", spm_texts(|i, t| if i == 280 { *t = b"\xe2\x96".to_vec() }), bad("token 280: not valid UTF-8")),
        case("tok_utf8_surrogate", spm_texts(|i, t| if i == 280 { *t = b"\xed\xa0\x80".to_vec() }), bad("token 280: not valid UTF-8")),
        case("tok_all_nonutf8", spm_texts(|_, t| *t = vec![0xFF]), bad("token 0: not valid UTF-8")),
        case("tok_all_the_same", spm_but(|_, t| *t = ("a".into(), 0.0, 1)), Works),
        case("tok_all_empty", spm_but(|_, t| *t = (String::new(), 0.0, 1)), Works),
        case("tok_scores_max", spm().f32s("tokenizer.ggml.scores", &[f32::MAX; N_VOCAB]), Works),
        case("tok_scores_denormal", spm().f32s("tokenizer.ggml.scores", &[f32::from_bits(1); N_VOCAB]), Works),
        case("tok_scores_one_nan", spm_but(|i, t| if i == 287 { t.1 = f32::NAN }), bad("score")),
        case("tok_scores_strings", spm().strings("tokenizer.ggml.scores", vec!["0"; N_VOCAB]), bad("tokenizer.ggml.scores")),
        case("tok_types_u32_max", raw("token_type", kind::U32, n, &[0xFF; 4 * N_VOCAB]), bad("tokenizer.ggml.token_type: element 0 is 4294967295")),
    ]
}

#[rustfmt::skip] // one case, one line
fn byte_pairs() -> Vec<Case> {
    let merges = |lines: &[&str]| good().strings("tokenizer.ggml.merges", lines);
    vec![
        case("tok_pre_unknown", good().str("tokenizer.ggml.pre", "magic"), fails("UNSUPPORTED_TOKENIZER", "magic")),
        case("tok_add_bos_without_bos", good().bool("tokenizer.ggml.add_bos_token", true), bad("bos")),
        case("tok_bpe_merges_missing", good().without("tokenizer.ggml.merges"), bad("merges")),
        case("tok_bpe_merges_empty", merges(&[]), bad("merges")),
        case("tok_bpe_merge_nospace", merges(&["t h", "the"]), bad("merge 1")),
        case("tok_bpe_merge_empty", merges(&["t h", ""]), bad("merge 1")),
        case("tok_bpe_merge_space", merges(&[" "]), bad("merge 0")),
        case("tok_bpe_merge_half", merges(&["t "]), bad("merge 0")),
        case("tok_bpe_merge_three", merges(&["t h e"]), bad("merge 0")),
        case("tok_bpe_merge_unknown", merges(&["t q"]), bad("merge 0")),
        case("tok_bpe_merge_twice", merges(&["t h", "t h"]), Works),
        case("tok_bpe_merges_u8", good().u8s("tokenizer.ggml.merges", &[0; 30]), bad("tokenizer.ggml.merges")),
        case("tok_bpe_types_missing", good().without("tokenizer.ggml.token_type"), Works),
        case("tok_bpe_bytes_missing", good().strings("tokenizer.ggml.tokens", (0..N_VOCAB).map(|i| format!("x{i}"))), bad("merge 0")),
        case("tok_scores_of_bpe", good().u8s("tokenizer.ggml.scores", &[0]), Works),
        case("tok_bpe_merge_nonutf8", good().strings("tokenizer.ggml.merges", [b"t \xff"]), bad("merge 0")),
        case("tok_bpe_merge_nul", merges(&["t \0"]), bad("merge 0")),
        case("tok_bpe_merge_spaces", merges(&["t  h"]), bad("merge 0")),
        case("tok_bpe_merge_leading_space", merges(&[" t h"]), bad("merge 0")),
        case("tok_bpe_merge_trailing_space", merges(&["t h "]), bad("merge 0")),
        case("tok_bpe_merge_tab", merges(&["t\th"]), bad("merge 0")),
        case("tok_bpe_merge_last_bad", good().strings("tokenizer.ggml.merges", ["t h", "i n", "t"]), bad("merge 2")),
        case("tok_bpe_merge_long", merges(&[&format!("t {}", "h".repeat(60_000))]), bad("merge 0")),
        case("tok_bpe_merge_of_control", merges(&["<eos> <turn>"]), bad("merge 0")),
        case("tok_bpe_merge_without_result", merges(&["q z"]), bad("merge 0")),
        case("tok_bpe_merges_str", good().str("tokenizer.ggml.merges", "t h"), bad("tokenizer.ggml.merges")),
        case("tok_bpe_pre_missing", good().without("tokenizer.ggml.pre"), Works),
        case("tok_bpe_pre_u32", good().u32("tokenizer.ggml.pre", 1), bad("tokenizer.ggml.pre")),
        case("tok_bpe_types_all_control", good().i32s("tokenizer.ggml.token_type", &[3; N_VOCAB]), bad("merge 0")),
        case("tok_bpe_types_all_bytes", good().i32s("tokenizer.ggml.token_type", &[6; N_VOCAB]), bad("token 0")),
        case("tok_bpe_types_short", good().i32s("tokenizer.ggml.token_type", &[1]), bad("token_type: 1 entries, expected 288")),
        case("tok_bpe_tokens_short", good().strings("tokenizer.ggml.tokens", ["a"]), bad("tokenizer.ggml.tokens: 1 of them, but token_embd.weight has 288 rows")),
        case("tok_bpe_as_spm", good().str("tokenizer.ggml.model", "llama"), bad("score")),
        case("tok_spm_as_bpe", spm().str("tokenizer.ggml.model", "gpt2").str("tokenizer.ggml.pre", "gpt-2"), bad("merges")),
    ]
}

/// Ids of special tokens, each as what no id can be.
#[rustfmt::skip] // one case, one line
fn wrong_ids() -> Vec<Case> {
    let mut cases = Vec::new();
    for (key, said) in [("bos", "bos"), ("eos", "eos"), ("unknown", "unk"), ("eot", ""), ("eom", ""), ("fim_pad", "")] {
        let full = format!("tokenizer.ggml.{key}_token_id");
        let set = |kind, bytes: &[u8]| -> GgufWriter { spm().value(&full, kind, bytes) };
        let out = |n: u32| match said {
            "" => bad(&format!("{full}: {n}, expected less than 288")),
            said => bad(&format!("{said} token {n}, expected less than 288")),
        };
        cases.push(case(format!("tok_{key}_288"), set(kind::U32, &288u32.to_le_bytes()), out(288)));
        cases.push(case(format!("tok_{key}_2e31"), set(kind::U32, &(1u32 << 31).to_le_bytes()), out(1 << 31)));
        cases.push(case(format!("tok_{key}_max"), set(kind::U32, &[0xFF; 4]), out(u32::MAX)));
        cases.push(case(format!("tok_{key}_minus_1"), set(kind::I32, &[0xFF; 4]), bad(&full)));
        cases.push(case(format!("tok_{key}_u64_max"), set(kind::U64, &[0xFF; 8]), bad(&full)));
        cases.push(case(format!("tok_{key}_str"), set(kind::STRING, &string(b"1")), bad(&full)));
        cases.push(case(format!("tok_{key}_f32"), set(kind::F32, &1f32.to_le_bytes()), bad(&full)));
        cases.push(case(format!("tok_{key}_array"), set(kind::ARRAY, &array(kind::U32, 1, &[1, 0, 0, 0])), bad(&full)));
    }
    for key in ["add_bos_token", "add_eos_token", "add_space_prefix"] {
        let full = format!("tokenizer.ggml.{key}");
        let set = |kind, bytes: &[u8]| -> GgufWriter { spm().value(&full, kind, bytes) };
        cases.push(case(format!("tok_{key}_u32"), set(kind::U32, &[1, 0, 0, 0]), bad(&full)));
        cases.push(case(format!("tok_{key}_str"), set(kind::STRING, &string(b"true")), bad(&full)));
    }
    cases.push(case("tok_add_eos_without_eos", good().without("tokenizer.ggml.eos_token_id").bool("tokenizer.ggml.add_eos_token", true), bad("add_eos_token is true, but there is no eos token")));
    cases
}

/// Vocabularies of Unigram (UGM), WordPiece (WPM) and others.
#[rustfmt::skip] // one case, one line
fn other_kinds() -> Vec<Case> {
    const CHARSMAP: &str = "tokenizer.ggml.precompiled_charsmap";
    let unknown = |kind: &str| fails("UNSUPPORTED_TOKENIZER", format!("tokenizer.ggml.model is \"{kind}\""));
    let mut cases = Vec::new();
    for kind in ["t5", "bert", "rwkv", "plamo2", "none", "no_vocab", "hybriddna", "gpt3", "llama2"] {
        cases.push(case(format!("tok_kind_{kind}"), spm().str("tokenizer.ggml.model", kind), unknown(kind)));
    }
    for pre in ["default-2", "llama-bpe-2", "bert", "gpt-1", "GPT-2", "gpt2 ", "qwen9"] {
        let expected = fails("UNSUPPORTED_TOKENIZER", pre.trim());
        cases.push(case(format!("tok_pre_{pre}"), good().str("tokenizer.ggml.pre", pre), expected));
    }
    for (name, bytes) in [("1", vec![1]), ("3", vec![1, 0, 0]), ("empty", vec![]), ("header_max", vec![0xFF; 4]), ("size_max", vec![0xFF; 64])] {
        let file = spm().str("tokenizer.ggml.model", "t5").u8s(CHARSMAP, &bytes);
        cases.push(case(format!("tok_ugm_charsmap_{name}"), file, unknown("t5")));
    }
    cases
}

/// As many tokens as a file of some megabytes can have: all of them empty, with the narrowest rows.
fn many_tokens() -> GgufWriter {
    const N: usize = 1_000_000;
    let narrow = Tiny {
        n_embd: 2,
        n_layer: 1,
        n_head: 1,
        n_head_kv: 1,
        head_dim: 2,
        n_ff: 2,
        ..Tiny::new("llama")
    };
    let embeddings = vec![0x3C; 4 * N];
    spm_in(narrow.writer(), &vec![(String::new(), 0.0, 1); N]).tensor(
        "token_embd.weight",
        DType::F16,
        &[2, N as u64],
        &embeddings,
    )
}

/// Both kinds of vocabulary, and texts that try them.
#[rustfmt::skip] // one case, one line
pub(crate) fn texts() -> Vec<Case> {
    vec![using(hostile_texts, "texts_bpe", good(), Works), using(hostile_texts, "texts_spm", spm(), Works)]
}

/// Every text is tokenized in time that grows little faster than its length.
fn hostile_texts(file: &[u8]) -> Result<(), Error> {
    let model = load(file)?;
    let unicode: String = (0..=0x10_FFFF).step_by(7).filter_map(char::from_u32).collect();
    let long = 1 << 20;
    for text in [
        "a".repeat(long),
        " ".repeat(long),
        "the ".repeat(long / 4),
        "\u{1f980}".repeat(long / 4),
        "e\u{301}".repeat(long / 3),
        "<turn>".repeat(long / 6),
        "<0x0A>".repeat(long / 6),
        "\0".repeat(long),
        "1".repeat(long),
        "'s".repeat(long / 2),
        unicode,
        String::new(),
    ] {
        for (add, parse) in [(false, false), (true, true)] {
            let mut tokens = Vec::new();
            model.tokenizer().tokenize(&text, add, parse, &mut tokens)?;
            if !add {
                let mut bytes = Vec::new();
                model.tokenizer().detokenize(&tokens, &mut bytes)?;
                let bytes = String::from_utf8(bytes).expect("text of text is UTF-8");
                let start: String = text.chars().take(20).collect();
                assert_eq!(bytes.trim_start(), text.trim_start(), "{start}...");
            }
        }
    }
    Ok(())
}
