//! The whole forward pass against a naive one in f64, on tiny made models: every architecture,
//! every element type.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

#[path = "support/rungs.rs"]
mod rungs;
mod support;

use std::sync::Arc;

use support::naive::Oracle;
use support::tiny::{N_VOCAB, Random, Tiny};
use tern::base::dtype::DType;
use tern::engine::{
    Control, Input, Isa, Logits, Model, ModelParams, Numerics, Session, SessionParams,
};

/// Largest difference of a logit, as a share of the largest logit, with float weights and F32 keys
/// and values: what f32 arithmetic costs.
const FLOAT_BOUND: f64 = 2e-5;
/// The same for quantised weights, whose kernels also round activations to 8 bits.
const QUANTISED_BOUND: f64 = 4e-2;
/// The same for panels, which round weights too, and with fewer scales.
const PANEL_BOUND: f64 = 8e-2;
/// The same for 16-bit keys and values.
const F16_KV_BOUND: f64 = 2e-3;

fn text(n: usize) -> Vec<i32> {
    let mut random = Random(7);
    (0..n).map(|_| (random.next() % N_VOCAB as u32) as i32).collect()
}

fn load(file: &[u8], isa: Isa) -> Arc<Model> {
    let load = ModelParams { isa: Some(isa), ..ModelParams::default() };
    Arc::new(Model::load(Input::Memory(file), &load, &mut |_, _| true).expect("loads"))
}

/// The engine's logits of every position.
fn engine(model: &Arc<Model>, params: &SessionParams, tokens: &[i32]) -> Vec<Vec<f32>> {
    let n = tokens.len() as u32;
    let params = SessionParams { n_logits: n, n_threads: 2, ..*params };
    let mut session = Session::new(Arc::clone(model), &params).expect("a session");
    session.eval(tokens, Logits::All, &Control::default()).expect("evaluates");
    (0..tokens.len()).map(|i| session.logits_row(i).unwrap().to_vec()).collect()
}

/// The largest difference as a share of the largest logit.
fn difference(ours: &[Vec<f32>], oracle: &[Vec<f64>]) -> f64 {
    let largest = oracle.iter().flatten().fold(0.0f64, |m, x| m.max(x.abs()));
    let pairs = ours.iter().flatten().zip(oracle.iter().flatten());
    let worst = pairs.fold(0.0f64, |m, (a, b)| m.max((f64::from(*a) - b).abs()));
    assert!(largest > 0.1 && largest.is_finite(), "the oracle's logits say nothing: {largest}");
    worst / largest
}

/// On every rung and with each type of keys and values, at most as far off as that type's bound.
fn compare(tiny: &Tiny, oracle: &Oracle<'_>, kv: &[(u32, f64)]) {
    let tokens = text(24);
    let (file, expected) = (tiny.gguf(), oracle.logits(&tokens));
    for &isa in rungs::rungs() {
        let model = load(&file, isa);
        for &(kv_dtype, bound) in kv {
            let params = SessionParams { kv_dtype, ..SessionParams::default() };
            let found = difference(&engine(&model, &params, &tokens), &expected);
            let what = format!("{} {} {} kv {kv_dtype}", tiny.arch, tiny.dtype, isa.name());
            println!("{what}: {found:.2e} of {bound:.0e}");
            assert!(found <= bound, "{what}: {found:.2e}, at most {bound:.0e}");
        }
    }
}

const ARCHS: [&str; 7] = ["llama", "smollm3", "qwen2", "qwen3", "gemma2", "gemma3", "phi3"];

#[test]
fn every_architecture_computes_what_its_paper_says() {
    for arch in ARCHS {
        let mut tiny = Tiny::new(arch);
        tiny.n_layer = if arch == "gemma3" { 7 } else { 4 };
        tiny.window = if matches!(arch, "llama" | "gemma2" | "gemma3" | "phi3") { 9 } else { 0 };
        tiny.tied = arch != "phi3";
        compare(&tiny, &Oracle::new(&tiny), &[(1, FLOAT_BOUND), (0, F16_KV_BOUND)]);
    }
}

#[test]
fn every_element_type_computes_what_it_decodes_to() {
    for &dtype in DType::ALL {
        let mut tiny = Tiny::new("llama");
        tiny.dtype = dtype;
        tiny.n_layer = 2;
        let float = !dtype.is_quantised();
        let bound = if float { FLOAT_BOUND } else { QUANTISED_BOUND };
        compare(&tiny, &Oracle::new(&tiny), &[(1, bound)]);
    }
}

#[test]
fn panels_compute_what_every_quantised_type_decodes_to() {
    let tokens = text(40);
    for &dtype in DType::ALL.iter().filter(|dtype| dtype.is_quantised()) {
        let mut tiny = Tiny::new("llama");
        (tiny.dtype, tiny.n_layer, tiny.n_ff) = (dtype, 2, 512);
        let (file, expected) = (tiny.gguf(), Oracle::new(&tiny).logits(&tokens));
        let params =
            SessionParams { numerics: Numerics::Fast, kv_dtype: 1, ..SessionParams::default() };
        for &isa in rungs::rungs() {
            let found = difference(&engine(&load(&file, isa), &params, &tokens), &expected);
            println!("panels {dtype} {isa}: {found:.2e} of {PANEL_BOUND:.0e}");
            assert!(found <= PANEL_BOUND, "{dtype} {isa}: {found:.2e}");
        }
    }
}

#[test]
fn linear_scaling_divides_all_frequencies() {
    let mut tiny = Tiny::new("llama");
    tiny.strs = vec![("rope.scaling.type", "linear")];
    tiny.floats = vec![("rope.scaling.factor", 4.0)];
    let mut oracle = Oracle::new(&tiny);
    oracle.ropes[0].0.iter_mut().for_each(|f| *f /= 4.0);
    compare(&tiny, &oracle, &[(1, FLOAT_BOUND)]);
}

#[test]
fn factors_of_the_file_divide_their_frequencies() {
    let mut tiny = Tiny::new("llama");
    let factors: Vec<f32> = (0..32).map(|i| 1.0 + i as f32 / 4.0).collect();
    tiny.factors = vec![("rope_freqs.weight", factors.clone())];
    let mut oracle = Oracle::new(&tiny);
    oracle.ropes[0].0.iter_mut().zip(&factors).for_each(|(f, by)| *f /= f64::from(*by));
    compare(&tiny, &oracle, &[(1, FLOAT_BOUND)]);
}

#[test]
fn yarn_keeps_fast_pairs_and_slows_slow_ones() {
    let mut tiny = Tiny::new("llama");
    tiny.strs = vec![("rope.scaling.type", "yarn")];
    tiny.floats = vec![("rope.scaling.factor", 4.0)];
    tiny.ints = vec![("rope.scaling.original_context_length", 128)];
    let mut oracle = Oracle::new(&tiny);
    // YaRN, section 3.2 and 3.4, for a head of 64 and an original context of 128.
    let pair =
        |turns: f64| 64.0 * (128.0 / (turns * std::f64::consts::TAU)).ln() / (2.0 * 10_000f64.ln());
    let (low, high) = (pair(32.0).floor().max(0.0), pair(1.0).ceil().min(63.0));
    for (i, f) in oracle.ropes[0].0.iter_mut().enumerate() {
        let slow = ((i as f64 - low) / (high - low)).clamp(0.0, 1.0);
        *f = *f * (1.0 - slow) + *f / 4.0 * slow;
    }
    oracle.ropes[0].1 = 0.1 * 4f64.ln() + 1.0;
    compare(&tiny, &oracle, &[(1, FLOAT_BOUND)]);
}

#[test]
fn gemma3_scales_its_global_layers_only() {
    let mut tiny = Tiny::new("gemma3");
    tiny.n_layer = 6;
    tiny.window = 9;
    tiny.strs = vec![("rope.scaling.type", "linear")];
    tiny.floats = vec![("rope.scaling.factor", 8.0)];
    let mut oracle = Oracle::new(&tiny);
    oracle.ropes[0].0.iter_mut().for_each(|f| *f /= 8.0);
    compare(&tiny, &oracle, &[(1, FLOAT_BOUND)]);
}

#[test]
fn heads_need_not_be_even_or_blocks_of_the_stream() {
    let mut tiny = Tiny::new("llama");
    (tiny.n_embd, tiny.n_head, tiny.n_head_kv) = (72, 9, 3);
    (tiny.head_dim, tiny.n_ff) = (10, 100);
    compare(&tiny, &Oracle::new(&tiny), &[(1, FLOAT_BOUND)]);
}
