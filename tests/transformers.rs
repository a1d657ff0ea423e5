//! Against PyPI `transformers`: tiny random models of every architecture, made together with their
//! logits by tests/oracle/transformers_models.py, which says how to run it. Loaded, evaluated in one
//! call, in uneven spans and token by token, with keys and values in F32.

mod support;

use std::path::Path;
use std::sync::Arc;

use tern::engine::{Control, Input, Logits, Model, ModelParams, Session, SessionParams};

/// The models that the script makes. One that is missing is a failure, not a pass.
const MODELS: &[&str] = &[
    "llama-untied",
    "llama-tied",
    "llama-one-kv-head",
    "llama-all-kv-heads",
    "llama-biases",
    "llama-wide-heads",
    "llama-linear",
    "llama-yarn",
    "llama-llama3",
    "mistral",
    "mistral-no-window",
    "qwen2",
    "qwen2-tied-yarn",
    "qwen3",
    "gemma2",
    "gemma3",
    "gemma3-linear",
    "phi3-plain",
    "phi3-window",
    "phi3-long",
    "phi3-short",
    "phi3-partial",
    "smollm3",
];

/// Largest difference of a logit, as a share of the largest logit of the model.
const BOUND: f64 = 1e-5;

/// What the script recorded.
struct Recorded {
    n_vocab: usize,
    tokens: Vec<i32>,
    logits: Vec<f32>,
}

fn recorded(path: &Path) -> Recorded {
    let bytes = std::fs::read(path).expect("the script writes both files of a model");
    assert_eq!(&bytes[..8], b"TERNLOG1");
    let words: Vec<[u8; 4]> =
        bytes[8..].chunks_exact(4).map(|w| w.try_into().expect("4 bytes")).collect();
    let (n_tokens, n_vocab) = (u32::from_le_bytes(words[0]), u32::from_le_bytes(words[1]));
    let (tokens, logits) = words[2..].split_at(n_tokens as usize);
    assert_eq!(logits.len(), (n_tokens * n_vocab) as usize);
    Recorded {
        n_vocab: n_vocab as usize,
        tokens: tokens.iter().map(|w| i32::from_le_bytes(*w)).collect(),
        logits: logits.iter().map(|w| f32::from_le_bytes(*w)).collect(),
    }
}

/// The largest difference from the record when the tokens come in spans of these lengths.
fn difference(model: &Arc<Model>, expected: &Recorded, spans: &[usize]) -> f64 {
    let n = expected.tokens.len();
    let params = SessionParams {
        n_ctx: 64,
        n_batch: 64,
        n_logits: n as u32,
        n_threads: 2,
        n_threads_batch: 2,
        kv_dtype: 1,
        ..SessionParams::default()
    };
    let mut session = Session::new(model.clone(), &params).expect("a session");
    let mut worst = 0.0_f64;
    let mut at = 0;
    for &span in spans.iter().cycle() {
        let tokens = &expected.tokens[at..n.min(at + span)];
        session.eval(tokens, Logits::All, &Control::default()).expect("an evaluation");
        for row in 0..tokens.len() {
            let found = session.logits_row(row).expect("a row of logits");
            let from = (at + row) * expected.n_vocab;
            for (a, b) in found.iter().zip(&expected.logits[from..from + expected.n_vocab]) {
                assert!(a.is_finite());
                worst = worst.max(f64::from((a - b).abs()));
            }
        }
        at += tokens.len();
        if at == n {
            break;
        }
    }
    worst
}

#[test]
fn logits_equal_those_of_transformers() {
    let dir = support::cache_dir().join("oracle/transformers");
    if !dir.is_dir() {
        support::skipped(
            "logits_equal_those_of_transformers",
            "there is no oracle/transformers in the cache; tests/oracle/transformers_models.py \
             makes it",
        );
        return;
    }
    let mut wrong = Vec::new();
    for name in MODELS {
        let expected = recorded(&dir.join(format!("{name}.logits")));
        let path = dir.join(format!("{name}.gguf"));
        let params = ModelParams::default();
        let model = match Model::load(Input::Path(&path), &params, &mut |_, _| true) {
            Ok(model) => Arc::new(model),
            Err(error) => {
                wrong.push(format!("{name}: {error}"));
                continue;
            }
        };
        let largest = expected.logits.iter().fold(0.0_f32, |m, l| m.max(l.abs()));
        let mut worst = 0.0_f64;
        for spans in [&[64][..], &[1], &[3, 17, 5]] {
            worst = worst.max(difference(&model, &expected, spans) / f64::from(largest));
        }
        println!("{name}: logits differ by at most {worst:.2e} of the largest, {largest:.2}");
        if worst > BOUND {
            wrong.push(format!("{name}: {worst:.2e}, expected at most {BOUND:.0e}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
