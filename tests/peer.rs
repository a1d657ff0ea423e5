//! Against llama.cpp 0.7.0 on real weights and real prose: the first 32 KiB of Jane Austen's novels,
//! in windows of 512 tokens of which the second half is scored. What llama.cpp says was recorded by
//! tests/peer/record.py; the text comes from the cache.
//!
//! Each model is read twice. As it is: there, both round activations to 8 bits, which makes much of
//! the order of sums, and llama.cpp agrees with itself no better than with us. And with every weight
//! decoded to 32-bit floats, where nothing is rounded and what differs is what is computed.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod support;

use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::Arc;

use tern::engine::{Control, Input, Logits, Model, ModelParams, Session, SessionParams};

/// Bytes of the text.
const TEXT: usize = 32 << 10;
/// Largest difference of the perplexities, as a share.
const PPL_BOUND: f64 = 0.005;
/// The share of positions with the same most probable token, where nothing is rounded.
const TOP_BOUND: f64 = 0.98;
/// How much rarer it may be than between two runs of llama.cpp itself, with and without flash
/// attention, where activations are rounded to 8 bits. On these files llama.cpp agrees with itself
/// at 95 % (SmolLM2) and 94 % (Gemma), as our own AVX2 and AVX-512 kernels do with each other. Two
/// standard deviations of such a share of 3,570 are 0.7 %.
const TOP_MARGIN: f64 = 0.01;
/// Windows read under an emulator.
const EMULATED_WINDOWS: usize = 1;

struct Record {
    ppl: f64,
    self_agreement: f64,
    n_ctx: usize,
    n_chunk: usize,
    tokens_fnv1a: u64,
    best: Vec<i32>,
}

fn record(text: &str) -> Record {
    let field = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)).expect("a field");
        line.trim()
    };
    let rows = text.lines().filter(|line| line.starts_with(|c: char| c.is_ascii_digit()));
    Record {
        ppl: field("ppl ").parse().unwrap(),
        self_agreement: field("self_agreement ").parse().unwrap(),
        n_ctx: field("n_ctx ").parse().unwrap(),
        n_chunk: field("n_chunk ").parse().unwrap(),
        tokens_fnv1a: field("tokens_fnv1a ").parse().unwrap(),
        best: rows.flat_map(|row| row.split(' ').map(|id| id.parse().unwrap())).collect(),
    }
}

fn fnv1a(values: &[i32]) -> u64 {
    let bytes = values.iter().flat_map(|v| v.to_le_bytes());
    bytes.fold(0xcbf2_9ce4_8422_2325, |state, byte| {
        (state ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
    })
}

/// `decoded`: compare what nothing rounds, with what `record.py --f32` made.
fn agrees(test: &str, model: &str, expected: &str, decoded: bool) {
    if decoded && support::emulated() {
        return support::skipped(test, "hours of float arithmetic: not run under an emulator");
    }
    let Some(path) = support::cached(test, model) else { return };
    let Some(text) = support::cached(test, "texts/austen.txt") else { return };
    let mut expected = record(expected);
    let text = std::fs::read(text).expect("a text");
    let text = std::str::from_utf8(&text[..TEXT]).expect("plain prose");

    let params = ModelParams::default();
    let file;
    let input = if decoded {
        file = support::decoded::decode_weights(
            &path,
            &Path::new(env!("CARGO_TARGET_TMPDIR")).join(test),
        );
        Input::Fd { fd: file.as_raw_fd(), offset: 0, len: u64::MAX }
    } else {
        Input::Path(&path)
    };
    let model = Model::load(input, &params, &mut |_, _| true).unwrap();
    let mut tokens = Vec::new();
    model.tokenizer().tokenize(text, true, false, &mut tokens).unwrap();
    let (n_ctx, half) = (expected.n_ctx, expected.n_ctx / 2);
    tokens.truncate(n_ctx * expected.n_chunk);
    let mut windows = tokens.clone();
    if let Some(bos) = model.tokenizer().bos().filter(|_| model.tokenizer().adds_bos()) {
        windows.chunks_exact_mut(n_ctx).for_each(|window| window[0] = bos);
    }
    assert_eq!(fnv1a(&tokens), expected.tokens_fnv1a, "the same tokens");
    let emulated = support::emulated();
    if emulated {
        windows.truncate(n_ctx * EMULATED_WINDOWS);
        expected.best.truncate((half - 1) * EMULATED_WINDOWS);
    }

    let params = SessionParams {
        n_ctx: n_ctx as u32,
        n_batch: 128,
        n_logits: 128,
        n_threads: 2,
        kv_dtype: u32::from(decoded),
        ..SessionParams::default()
    };
    let mut session = Session::new(Arc::new(model), &params).unwrap();
    let (mut nll, mut n, mut same) = (0.0, 0, 0);
    for window in windows.chunks_exact(n_ctx) {
        session.truncate(0).unwrap();
        for (i, part) in window.chunks(128).enumerate() {
            let first = i * 128;
            let logits = if first < half { Logits::None } else { Logits::All };
            session.eval(part, logits, &Control::default()).unwrap();
            for row in 0..session.n_logits() {
                let Some(&next) = window.get(first + row + 1) else { continue };
                let logits = session.logits_row(row).unwrap();
                let max = logits.iter().fold(f32::MIN, |m, &x| m.max(x));
                let sum: f64 = logits.iter().map(|&x| f64::from(x - max).exp()).sum();
                nll += sum.ln() - f64::from(logits[next as usize] - max);
                let best = logits.iter().position(|&x| x == max).unwrap() as i32;
                same += usize::from(best == expected.best[n]);
                n += 1;
            }
        }
    }
    assert_eq!(n, expected.best.len());
    let ppl = (nll / n as f64).exp();
    let (off, share) = (ppl / expected.ppl - 1.0, same as f64 / n as f64);
    println!(
        "{test}: perplexity {ppl:.4}, the peer's {:.4} ({:+.3} %); the same best token at {:.2} % \
         of {n} positions, the peer's with itself at {:.2} %",
        expected.ppl,
        off * 100.0,
        share * 100.0,
        expected.self_agreement * 100.0
    );
    // One window has a perplexity of its own, and a share of its own within two deviations.
    let deviation = if emulated { 0.03 } else { 0.0 };
    assert!(emulated || off.abs() <= PPL_BOUND, "perplexity {ppl:.4} for {:.4}", expected.ppl);
    let least = if decoded { TOP_BOUND } else { expected.self_agreement - TOP_MARGIN } - deviation;
    assert!(share >= least, "{share:.4} of the best tokens agree, expected {least:.4}");
}

const SMOLLM2: &str = "models/SmolLM2-135M-Instruct.Q4_1.gguf";
const GEMMA: &str = "models/gemma-3-270m-Q4_K_M.gguf";

#[test]
fn smollm2_reads_austen_as_llama_cpp_does() {
    let expected = include_str!("data/peer_smollm2_austen.txt");
    agrees("smollm2_reads_austen_as_llama_cpp_does", SMOLLM2, expected, false);
}

#[test]
fn smollm2_decoded_to_floats_reads_austen_as_llama_cpp_does() {
    let expected = include_str!("data/peer_smollm2_f32_austen.txt");
    agrees("smollm2_decoded_to_floats_reads_austen_as_llama_cpp_does", SMOLLM2, expected, true);
}

#[test]
fn gemma_reads_austen_as_llama_cpp_does() {
    let expected = include_str!("data/peer_gemma3_austen.txt");
    agrees("gemma_reads_austen_as_llama_cpp_does", GEMMA, expected, false);
}

#[test]
fn gemma_decoded_to_floats_reads_austen_as_llama_cpp_does() {
    let expected = include_str!("data/peer_gemma3_f32_austen.txt");
    agrees("gemma_decoded_to_floats_reads_austen_as_llama_cpp_does", GEMMA, expected, true);
}
