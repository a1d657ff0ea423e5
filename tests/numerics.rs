//! Fast numerics: what panels change, and what they do not.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod support;

use std::sync::Arc;

use support::tiny::{N_VOCAB, Random, Tiny};
use tern::base::dtype::DType;
use tern::engine::{
    Control, Input, Isa, Logits, Model, ModelParams, Numerics, Session, SessionParams,
};

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

const DTYPES: [DType; 5] = [DType::Q4_0, DType::Q4_1, DType::Q4K, DType::Q6K, DType::Q8_0];

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
fn few_tokens_and_floats_are_exact_in_either_numerics() {
    for &isa in Isa::available() {
        for (dtype, n_batch, call) in
            [(DType::Q4_0, 31, 70), (DType::Q4_0, 96, 10), (DType::F16, 96, 70)]
        {
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
