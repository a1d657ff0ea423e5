//! How fast text becomes tokens, on one core, timed by criterion:
//!
//!   cargo bench --manifest-path tests/bench/Cargo.toml --bench tokenizer [-- FILTER]
//!
//! For each vocabulary in the cache (`make models` fills it): `header`, reading the file's header;
//! `tokenizer`, making the tokenizer of it; `tokenize`, and then how many tokens that gives, and a
//! hash of them: FNV-1a over their ids as little-endian u32. The text is the first 1,000,000 bytes of
//! `texts/austen.txt` there, which `make models` does not get, or of the file that TERN_BENCH_TEXT
//! names.

#[path = "../support/mod.rs"]
mod support;

use std::hint::black_box;
use std::path::PathBuf;
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
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

fn hash(ids: &[i32]) -> u64 {
    ids.iter().flat_map(|id| id.to_le_bytes()).fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
    })
}

fn vocabularies(c: &mut Criterion) {
    let Some(text) = text() else { return };
    for &(name, path) in VOCABULARIES {
        let Some(path) = cached("bench tokenizer", path) else { continue };
        let parse = || {
            let source = Source::open(&path).expect("the file opens");
            Gguf::parse(&source).expect("the header is well formed")
        };
        let gguf = parse();
        let make = || vocab::tokenizer(gguf.metadata()).expect("the vocabulary is well formed");
        let tokenizer = make();
        let mut ids = Vec::new();
        c.bench_function(&format!("header/{name}"), |b| b.iter(parse));
        c.bench_function(&format!("tokenizer/{name}"), |b| b.iter(make));
        let mut group = c.benchmark_group("tokenize");
        group.throughput(Throughput::Bytes(text.len() as u64));
        group.bench_function(name, |b| {
            b.iter(|| {
                ids.clear();
                let text = black_box(&text);
                tokenizer.tokenize(text, false, false, &mut ids).expect("any text has ids");
            });
        });
        if !ids.is_empty() {
            println!("{name}: {} tokens, hash {:016x}", ids.len(), hash(&ids));
        }
    }
}

fn config() -> Criterion {
    Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_millis(600))
}

criterion_group! { name = benches; config = config(); targets = vocabularies }
criterion_main!(benches);
