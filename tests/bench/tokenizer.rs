//! How fast text becomes tokens, on one core: `cargo bench --bench tokenizer [-- NAME...]`.
//!
//! For each vocabulary in the cache (`make models` fills it): milliseconds to read the file's
//! header, milliseconds to make the tokenizer of it, and MB/s of text. The text is the first
//! 1,000,000 bytes of `texts/austen.txt` there, which `make models` does not get, or of the file
//! that TERN_BENCH_TEXT names. NAMEs are vocabularies.

#[path = "../support/mod.rs"]
mod support;

use std::hint::black_box;
use std::path::PathBuf;
use std::time::Instant;

use support::{cache_dir, cached};
use tern::base::file::Source;
use tern::engine::vocab;
use tern::gguf::Gguf;

const LEN: usize = 1_000_000;

const VOCABULARIES: &[(&str, &str)] = &[
    ("smollm2", "models/SmolLM2-135M-Instruct.Q4_1.gguf"),
    ("gemma-3", "models/gemma-3-270m-Q4_K_M.gguf"),
    ("llama-bpe", "vocab/ggml-vocab-llama-bpe.gguf"),
    ("qwen2", "vocab/ggml-vocab-qwen2.gguf"),
    ("qwen35", "vocab/ggml-vocab-qwen35.gguf"),
    ("gpt-2", "vocab/ggml-vocab-gpt-2.gguf"),
    ("deepseek-llm", "vocab/ggml-vocab-deepseek-llm.gguf"),
    ("falcon", "vocab/ggml-vocab-falcon.gguf"),
    ("gemma-4", "vocab/ggml-vocab-gemma-4.gguf"),
    ("llama-spm", "vocab/ggml-vocab-llama-spm.gguf"),
];

/// The least and the median seconds of a few runs.
fn seconds(mut f: impl FnMut()) -> (f64, f64) {
    let begin = Instant::now();
    let mut runs = Vec::new();
    while runs.len() < 5 || (begin.elapsed().as_secs_f64() < 0.5 && runs.len() < 50) {
        let start = Instant::now();
        f();
        runs.push(start.elapsed().as_secs_f64());
    }
    runs.sort_unstable_by(f64::total_cmp);
    (runs[0], runs[runs.len() / 2])
}

/// The text, cut at the end of a character.
fn text() -> Option<String> {
    let path = match std::env::var_os("TERN_BENCH_TEXT") {
        Some(path) => PathBuf::from(path),
        None => cache_dir().join("texts/austen.txt"),
    };
    let Ok(mut bytes) = std::fs::read(&path) else {
        eprintln!("SKIPPED: {} is missing; TERN_BENCH_TEXT names another", path.display());
        return None;
    };
    bytes.truncate(LEN);
    Some(String::from_utf8_lossy(&bytes).trim_end_matches('\u{fffd}').to_string())
}

fn main() {
    let names: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with('-')).collect();
    let Some(text) = text() else { return };
    println!("least / median of some runs; {} bytes of text", text.len());
    println!("{:<14} {:>17} {:>17} {:>15} {:>9}", "", "header ms", "tokenizer ms", "MB/s", "tokens");
    for &(name, path) in VOCABULARIES {
        if !names.is_empty() && !names.iter().any(|n| n == name) {
            continue;
        }
        let Some(path) = cached("bench tokenizer", path) else { continue };
        let parse = || {
            let source = Source::open(&path).expect("the file opens");
            Gguf::parse(&source).expect("the header is well formed")
        };
        let header = seconds(|| drop(black_box(parse())));
        let gguf = parse();
        let make = || vocab::tokenizer(gguf.metadata()).expect("the vocabulary is well formed");
        let build = seconds(|| drop(black_box(make())));
        let tokenizer = make();
        let mut ids = Vec::new();
        let tokenize = seconds(|| {
            ids.clear();
            tokenizer.tokenize(black_box(&text), false, false, &mut ids).expect("any text has ids");
        });
        println!(
            "{name:<14} {:>8.2} {:>8.2} {:>8.2} {:>8.2} {:>7.1} {:>7.1} {:>9}",
            header.0 * 1e3,
            header.1 * 1e3,
            build.0 * 1e3,
            build.1 * 1e3,
            text.len() as f64 / tokenize.0 / 1e6,
            text.len() as f64 / tokenize.1 / 1e6,
            ids.len(),
        );
    }
}
