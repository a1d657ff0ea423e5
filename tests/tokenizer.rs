//! Tokenizers against recorded ids of the programs that their vocabularies come from; round trips;
//! texts of any kind and size. Malformed tables are in tests/tokenizer_tables.rs.
#![allow(clippy::unwrap_used, reason = "what fails to come fails the test")]

#[path = "tokenizer/families.rs"]
mod families;
#[path = "tokenizer/strings.rs"]
mod strings;
mod support;

use families::{each_family, ids, load, round_trip};
use strings::{Random, mixed_strings};
use support::cached;
use tern::Error;
use tern::engine::vocab;

/// Vocabularies that come with recorded inputs and ids.
const RECORDED: &[&str] = &[
    "llama-spm",
    "llama-bpe",
    "gpt-2",
    "qwen2",
    "qwen35",
    "phi-3",
    "gemma-4",
    "deepseek-llm",
    "deepseek-coder",
    "falcon",
    "starcoder",
    "refact",
    "command-r",
    "mpt",
];

#[test]
fn the_ids_are_those_recorded_beside_the_vocabularies() {
    const TEST: &str = "the_ids_are_those_recorded_beside_the_vocabularies";
    for name in RECORDED {
        let path = format!("vocab/ggml-vocab-{name}.gguf");
        let Some(gguf) = load(TEST, &path) else { continue };
        let read = |ext: &str| Some(std::fs::read_to_string(cached(TEST, &(path.clone() + ext))?));
        let (Some(inputs), Some(outputs)) = (read(".inp"), read(".out")) else { continue };
        let tokenizer = vocab::tokenizer(gguf.metadata()).unwrap();
        let (inputs, outputs) = (inputs.unwrap(), outputs.unwrap());
        // A separator ends each input, so what follows the last one is not an input.
        let inputs: Vec<&str> = inputs.split_terminator("\n__ggml_vocab_test__\n").collect();
        let outputs: Vec<&str> = outputs.lines().collect();
        assert_eq!(inputs.len(), outputs.len(), "{name}");
        assert!(inputs.len() >= 40, "{name}");
        for (input, output) in inputs.iter().zip(outputs) {
            let expected: Vec<i32> =
                output.split_whitespace().map(|id| id.parse().unwrap()).collect();
            assert_eq!(ids(&tokenizer, input), expected, "{name}: {input:?}");
        }
    }
}

#[test]
fn the_ids_of_mixed_strings_are_those_of_the_original_programs() {
    let strings = mixed_strings(2);
    each_family(
        "the_ids_of_mixed_strings_are_those_of_the_original_programs",
        |name, tokenizer, hashes| {
            assert_eq!(hashes.len(), 100, "{name}");
            for (i, (block, hash)) in strings.chunks(100).zip(hashes).enumerate() {
                let found = block_hash(block.iter().map(|string| ids(tokenizer, string)));
                assert_eq!(
                    found, *hash,
                    "{name}: block {i}; `tests/oracle/tokenizer_ids.py {name:?} {i}` shows it"
                );
            }
        },
    );
}

#[test]
fn tokens_turn_back_into_the_text_they_came_from() {
    let mut strings = mixed_strings(2);
    let mut random = Random(3);
    for _ in 0..1000 {
        let bytes: Vec<u8> = (0..random.below(40)).map(|_| random.below(256) as u8).collect();
        strings.push(String::from_utf8_lossy(&bytes).into_owned());
    }
    each_family("tokens_turn_back_into_the_text_they_came_from", |name, tokenizer, _| {
        let mut left_out = 0;
        for string in &strings {
            let back = round_trip(tokenizer, string);
            if back == string.as_bytes() {
                continue;
            }
            // The vocabulary has no tokens for some bytes, or means a space by U+2581.
            let parts = string.chars().map(|c| round_trip(tokenizer, c.encode_utf8(&mut [0; 4])));
            assert_eq!(back, parts.collect::<Vec<_>>().concat(), "{name}: {string:?}");
            left_out += 1;
        }
        let lacks_bytes = ["falcon", "starcoder", "refact", "smollm2"].contains(&name);
        assert!(lacks_bytes || left_out == 0, "{name}: {left_out}");
    });
}

/// What a tokenizer remembers of a text's words changes nothing: each of many strings has the same
/// tokens alone and in one long text, where control tokens keep them apart.
#[test]
fn a_string_has_the_same_tokens_alone_and_in_a_long_text() {
    let strings = mixed_strings(2);
    let mut tested = 0;
    each_family("a_string_has_the_same_tokens_alone_and_in_a_long_text", |name, tokenizer, _| {
        let separator = (0..tokenizer.n_vocab() as i32).find(|&id| tokenizer.is_control(id));
        // Those of phi-3 take white space from the strings.
        let Some(separator) = separator.filter(|_| name != "phi-3") else { return };
        let between = std::str::from_utf8(tokenizer.name(separator).unwrap()).unwrap();
        let (mut text, mut expected) = (String::new(), Vec::new());
        for string in &strings {
            text += string;
            tokenizer.tokenize(string, false, true, &mut expected).unwrap();
            text += between;
            expected.push(separator);
        }
        let mut found = Vec::new();
        tokenizer.tokenize(&text, false, true, &mut found).unwrap();
        assert!(found == expected, "{name}");
        tested += 1;
    });
    assert!(tested >= 10 || !support::cache_dir().join("vocab").is_dir(), "{tested}");
}

#[test]
fn long_texts_of_one_kind_take_n_log_n() {
    // One family for each way of splitting and merging; the others would only take longer.
    const FAMILIES: &[&str] = &[
        "gpt-2",
        "llama-bpe",
        "deepseek-llm",
        "falcon",
        "gpt-2 as gpt-4o",
        "gpt-2 as deepseek-v3",
        "gemma-4",
        "llama-spm",
        "gemma-3",
    ];
    const MIB: usize = 1 << 20;
    let text = |part: &str, len: usize| part.repeat(len / part.len());
    let mut texts: Vec<String> = [" ", "a"].map(|part| text(part, MIB)).into();
    for part in ["\n", "=", "1", "é", "漢", "\u{301}", "ab ", " \n", "\0x", "aA"] {
        texts.push(text(part, MIB / 8));
    }
    each_family("long_texts_of_one_kind_take_n_log_n", |name, tokenizer, _| {
        if !FAMILIES.contains(&name) {
            return;
        }
        for text in &texts {
            let same = round_trip(tokenizer, text) == text.as_bytes();
            assert!(same, "{name}: {:?}...", &text[..6]);
        }
    });
}

#[test]
fn control_tokens_come_from_text_only_if_asked() {
    const TEST: &str = "control_tokens_come_from_text_only_if_asked";
    let Some(gguf) = load(TEST, "models/SmolLM2-135M-Instruct.Q4_1.gguf") else { return };
    let tokenizer = vocab::tokenizer(gguf.metadata()).unwrap();
    let (start, end) = (1, 2);
    assert_eq!(tokenizer.special_token("<|im_start|>"), Some(start));
    assert_eq!(tokenizer.special_token("<|im_end|>"), Some(end));
    assert_eq!(tokenizer.special_token("<|im_end|> "), None);
    let text = "<|im_start|>user\nhi<|im_end|>\n";
    let mut tokens = Vec::new();
    tokenizer.tokenize(text, true, true, &mut tokens).unwrap();
    assert_eq!((tokens[0], tokens[tokens.len() - 2]), (start, end));
    assert_eq!(tokens.iter().filter(|&&t| tokenizer.is_control(t)).count(), 2);
    let mut back = Vec::new();
    tokenizer.detokenize(&tokens, &mut back).unwrap();
    assert_eq!(back, b"user\nhi\n");
    assert_eq!(tokenizer.name(end), Some(&b"<|im_end|>"[..]));
    assert_eq!(tokenizer.piece(end), Some(&b""[..]));
    assert!(tokenizer.is_eog(end) && tokenizer.is_eog(0) && !tokenizer.is_eog(start));
    let plain = ids(&tokenizer, text);
    assert!(!plain.iter().any(|&t| tokenizer.is_control(t)));
    assert_eq!(round_trip(&tokenizer, text), text.as_bytes());
}

#[test]
fn bos_and_eos_come_as_the_family_has_it() {
    const TEST: &str = "bos_and_eos_come_as_the_family_has_it";
    for (name, before, after) in [
        ("llama-spm", Some(1), None),
        ("llama-bpe", Some(128_000), None),
        ("qwen2", None, None),
        ("gpt-2", None, None),
        ("gemma-4", Some(2), None),
        ("command-r", Some(5), None),
        ("deepseek-llm", Some(100_000), None),
    ] {
        let Some(gguf) = load(TEST, &format!("vocab/ggml-vocab-{name}.gguf")) else { continue };
        let tokenizer = vocab::tokenizer(gguf.metadata()).unwrap();
        for text in ["", "Hello"] {
            let mut with = Vec::new();
            tokenizer.tokenize(text, true, false, &mut with).unwrap();
            let around = before.into_iter().chain(ids(&tokenizer, text)).chain(after);
            assert_eq!(with, around.collect::<Vec<i32>>(), "{name}");
        }
    }
}

#[test]
fn the_tokens_of_phi_3_take_the_white_space_after_them() {
    const TEST: &str = "the_tokens_of_phi_3_take_the_white_space_after_them";
    let Some(gguf) = load(TEST, "vocab/ggml-vocab-phi-3.gguf") else { return };
    let tokenizer = vocab::tokenizer(gguf.metadata()).unwrap();
    let mut tokens = Vec::new();
    tokenizer.tokenize("<|user|>\nHi<|end|> \n<|assistant|>", false, true, &mut tokens).unwrap();
    // No token for either white space; 6324 is " Hi", with the space that goes before a text.
    assert_eq!(tokens, [32010, 6324, 32007, 32001]);
}

#[test]
fn other_kinds_of_vocabularies_are_named_in_the_error() {
    const TEST: &str = "other_kinds_of_vocabularies_are_named_in_the_error";
    for (name, found) in [("bert-bge", "\"bert\""), ("nomic-bert-moe", "\"t5\"")] {
        let Some(gguf) = load(TEST, &format!("vocab/ggml-vocab-{name}.gguf")) else { continue };
        match vocab::tokenizer(gguf.metadata()) {
            Err(error @ Error::UnsupportedTokenizer(_)) => {
                assert!(error.message().contains(found), "{error}");
            }
            other => panic!("{name}: {:?}", other.err()),
        }
    }
}

/// FNV-1a over the ids as little-endian u32, each string's followed by 0xffffffff.
fn block_hash(block: impl Iterator<Item = Vec<i32>>) -> u64 {
    let bytes = block.flat_map(|ids| ids.into_iter().chain([-1]).flat_map(i32::to_le_bytes));
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
    })
}
