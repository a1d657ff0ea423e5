//! Fast numerics: what panels change, what they do not, and what they cost in perplexity.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod support;

use std::sync::Arc;

use support::tiny::{N_VOCAB, Random, Tiny};
use tern::base::dtype::DType;
use tern::engine::{
    Control, Input, Isa, Logits, Model, ModelParams, Numerics, Session, SessionParams,
};

/// How much worse than exact numerics fast ones may predict a text, as a share of the perplexity.
const PPL_BOUND: f64 = 0.003;
/// Bytes of the text, and of a long one.
const TEXT: usize = 32 << 10;
const LONG_TEXT: usize = 240 << 10;
/// Tokens of a window, of which the second half is scored.
const WINDOW: usize = 512;

fn model_of(tiny: &Tiny, isa: Isa) -> Arc<Model> {
    let params = ModelParams { isa: Some(isa), ..ModelParams::default() };
    let file = tiny.gguf();
    Arc::new(Model::load(Input::Memory(&file), &params, &mut |_, _| true).expect("loads"))
}

fn params(numerics: Numerics) -> SessionParams {
    SessionParams { n_ctx: 128, n_batch: 96, n_threads: 2, numerics, ..SessionParams::default() }
}

fn text(n: usize) -> Vec<i32> {
    let mut random = Random(11);
    (0..n).map(|_| (random.next() % N_VOCAB as u32) as i32).collect()
}

/// The logits after calls of so many tokens, as bits.
fn bits(model: &Arc<Model>, params: SessionParams, call: usize) -> Vec<u32> {
    let mut s = Session::new(Arc::clone(model), &params).expect("a session");
    for part in text(70).chunks(call) {
        s.eval(part, Logits::Last, &Control::default()).expect("evaluates");
    }
    s.logits().expect("logits").iter().map(|x| x.to_bits()).collect()
}

const DTYPES: [DType; 5] = [DType::Q4_0, DType::Q4_1, DType::Q4K, DType::Q5_0, DType::Tq2_0];

#[test]
fn fast_logits_do_not_depend_on_threads() {
    for &isa in Isa::available() {
        for dtype in DTYPES {
            let mut tiny = Tiny::new("llama");
            (tiny.dtype, tiny.n_ff) = (dtype, 512);
            let model = model_of(&tiny, isa);
            let expected = bits(&model, params(Numerics::Fast), 70);
            for n_threads in [1, 3, 5, 8] {
                let found = bits(&model, SessionParams { n_threads, ..params(Numerics::Fast) }, 70);
                assert!(found == expected, "{isa} {dtype}: {n_threads} threads");
            }
            let exact = bits(&model, params(Numerics::Exact), 70);
            assert!(exact != expected, "{isa} {dtype}: panels are used");
        }
    }
}

#[test]
fn few_tokens_and_precise_types_are_exact_in_either_numerics() {
    for &isa in Isa::available() {
        let cases = [
            (DType::Q4_0, 31, 70),
            (DType::Q4_0, 96, 10),
            (DType::F16, 96, 70),
            (DType::Q8_0, 96, 70),
            (DType::Q6K, 96, 70),
        ];
        for (dtype, n_batch, call) in cases {
            let mut tiny = Tiny::new("gemma3");
            tiny.dtype = dtype;
            let model = model_of(&tiny, isa);
            let [fast, exact] = [Numerics::Fast, Numerics::Exact]
                .map(|numerics| bits(&model, SessionParams { n_batch, ..params(numerics) }, call));
            assert!(fast == exact, "{isa} {dtype}: batches of {n_batch}, calls of {call}");
        }
    }
}

/// On ARM every kernel of these rungs gives the same bits, and so do logits.
#[cfg(target_arch = "aarch64")]
#[test]
fn fast_logits_are_the_same_on_every_rung_of_neon() {
    for dtype in DTYPES {
        let mut tiny = Tiny::new("llama");
        tiny.dtype = dtype;
        let of = |isa| bits(&model_of(&tiny, isa), params(Numerics::Fast), 70);
        let expected = of(Isa::Neon);
        for &isa in Isa::available().iter().filter(|isa| **isa > Isa::Neon) {
            assert!(of(isa) == expected, "{isa} {dtype}");
        }
    }
}

#[test]
fn the_plan_knows_what_panels_take() {
    let file = Tiny { dtype: DType::Q4_0, ..Tiny::new("llama") }.gguf();
    for &isa in Isa::available() {
        let load = ModelParams { isa: Some(isa), ..ModelParams::default() };
        let [fast, exact] = [Numerics::Fast, Numerics::Exact].map(|numerics| {
            let plan = Model::plan(Input::Memory(&file), &load, &params(numerics)).expect("plans");
            let model = Model::load(Input::Memory(&file), &load, &mut |_, _| true).expect("loads");
            let session = Session::new(Arc::new(model), &params(numerics)).expect("a session");
            assert_eq!(plan.scratch_bytes, session.info().scratch_bytes, "{isa}");
            plan.scratch_bytes
        });
        assert!(fast >= exact + 96 * 256, "{isa}: {fast} and {exact} bytes");
    }
}

/// `-ln p` of each token of the second half of each window of a text.
fn surprises(model: &Arc<Model>, windows: &[i32], numerics: Numerics) -> Vec<f64> {
    let params = SessionParams {
        n_ctx: WINDOW as u32,
        n_batch: 128,
        n_logits: 128,
        n_threads: 2,
        numerics,
        ..SessionParams::default()
    };
    let mut session = Session::new(Arc::clone(model), &params).unwrap();
    let mut surprises = Vec::new();
    for window in windows.chunks_exact(WINDOW) {
        session.truncate(0).unwrap();
        for (i, part) in window.chunks(128).enumerate() {
            let first = i * 128;
            let logits = if first < WINDOW / 2 { Logits::None } else { Logits::All };
            session.eval(part, logits, &Control::default()).unwrap();
            for row in 0..session.n_logits() {
                let Some(&next) = window.get(first + row + 1) else { continue };
                let logits = session.logits_row(row).unwrap();
                let max = logits.iter().fold(f32::MIN, |m, &x| m.max(x));
                let sum: f64 = logits.iter().map(|&x| f64::from(x - max).exp()).sum();
                surprises.push(sum.ln() - f64::from(logits[next as usize] - max));
            }
        }
    }
    surprises
}

/// Fast numerics predict prose nearly as well as exact ones. Which of two tokens is the likelier often
/// hangs on the last bits, so that the difference in perplexity of a short text is uncertain: there
/// only what is more than twice the standard error of the mean above the bound is a failure. A long
/// text has to keep the bound itself.
fn gate(test: &str, file: &str, bytes: usize) {
    if support::emulated() {
        return support::skipped(test, "hours of arithmetic: not run under an emulator");
    }
    let Some(path) = support::cached(test, file) else { return };
    let Some(prose) = support::cached(test, "texts/austen.txt") else { return };
    let prose = std::fs::read(prose).unwrap();
    let prose = std::str::from_utf8(&prose[..bytes]).unwrap();
    let load = ModelParams::default();
    let model = Arc::new(Model::load(Input::Path(&path), &load, &mut |_, _| true).unwrap());
    let mut windows = Vec::new();
    model.tokenizer().tokenize(prose, true, false, &mut windows).unwrap();
    if let Some(bos) = model.tokenizer().bos().filter(|_| model.tokenizer().adds_bos()) {
        windows.chunks_mut(WINDOW).for_each(|window| window[0] = bos);
    }
    let [exact, fast] =
        [Numerics::Exact, Numerics::Fast].map(|numerics| surprises(&model, &windows, numerics));
    assert!(fast != exact, "panels are used");
    let n = exact.len() as f64;
    let worse: Vec<f64> = exact.iter().zip(&fast).map(|(exact, fast)| fast - exact).collect();
    let mean = worse.iter().sum::<f64>() / n;
    let variance = worse.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / (n - 1.0);
    let (by, error) = (mean.exp_m1() * 100.0, (variance / n).sqrt() * 100.0);
    let perplexity = (exact.iter().sum::<f64>() / n).exp();
    let result = format!("perplexity {perplexity:.4} of {n} tokens, fast {by:+.3} % +- {error:.3}");
    println!("{test}: {result}");
    let allowed = if bytes == LONG_TEXT { 0.0 } else { 2.0 * error };
    assert!(by <= PPL_BOUND * 100.0 + allowed, "{result}");
}

const SMOLLM2: &str = "models/SmolLM2-135M-Instruct.Q4_1.gguf";
const GEMMA: &str = "models/gemma-3-270m-Q4_K_M.gguf";

#[test]
fn fast_numerics_keep_the_perplexity_of_smollm2() {
    gate("fast_numerics_keep_the_perplexity_of_smollm2", SMOLLM2, TEXT);
}

#[test]
fn fast_numerics_keep_the_perplexity_of_gemma() {
    gate("fast_numerics_keep_the_perplexity_of_gemma", GEMMA, TEXT);
}

#[test]
#[ignore = "minutes of arithmetic, for an error of a fifteenth of a percent"]
fn fast_numerics_keep_the_perplexity_of_a_long_text() {
    let test = "fast_numerics_keep_the_perplexity_of_a_long_text";
    gate(test, SMOLLM2, LONG_TEXT);
    gate(test, GEMMA, LONG_TEXT);
}
