//! A screened head: the same greedy text, from about half of the head.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod support;

use std::sync::Arc;

use support::tiny::Tiny;
use tern::base::dtype::DType;
use tern::engine::{
    Control, Error, Input, Logits, Model, ModelParams, Sampler, SamplerParams, Session,
    SessionParams,
};

fn load(input: Input<'_>, screened_head: bool) -> Arc<Model> {
    let params = ModelParams { screened_head, ..ModelParams::default() };
    Arc::new(Model::load(input, &params, &mut |_, _| true).expect("loads"))
}

fn session(model: &Arc<Model>) -> Session {
    let params = SessionParams { n_ctx: 256, n_batch: 16, n_threads: 2, ..Default::default() };
    Session::new(Arc::clone(model), &params).expect("a session")
}

/// What greedy generation says after a prompt, a token at a time.
fn greedy(s: &mut Session, prompt: &[i32], n: usize, logits: Logits<'_>) -> Vec<i32> {
    let mut sampler = Sampler::new(&SamplerParams::default()).expect("a sampler");
    s.eval(prompt, logits, &Control::default()).expect("evaluates");
    let next = |_| {
        let token = s.sample(&mut sampler).expect("samples");
        s.eval(&[token], logits, &Control::default()).expect("evaluates");
        token
    };
    (0..n).map(next).collect()
}

#[test]
fn a_screened_head_chooses_the_same_tokens_for_every_type_of_weight() {
    for &dtype in DType::ALL {
        let mut tiny = Tiny::new("llama");
        tiny.dtype = dtype;
        let file = tiny.gguf();
        let (whole, screened) =
            (load(Input::Memory(&file), false), load(Input::Memory(&file), true));
        let minima = [DType::Q4_1, DType::Q5_1, DType::Q2K, DType::Q4K, DType::Q5K];
        let can = dtype.is_quantised() && !minima.contains(&dtype);
        assert_eq!(screened.info().screened_head, can, "{dtype}");
        let expected = greedy(&mut session(&whole), &[1, 2, 3], 40, Logits::Last);
        for model in [&whole, &screened] {
            assert_eq!(
                greedy(&mut session(model), &[1, 2, 3], 40, Logits::Best),
                expected,
                "{dtype}"
            );
        }
    }
}

#[test]
fn what_only_the_best_token_was_kept_of_serves_greedy_sampling_alone() {
    let file = Tiny::new("llama").gguf();
    for screened in [false, true] {
        let model = load(Input::Memory(&file), screened);
        let mut s = session(&model);
        s.eval(&[1, 2], Logits::Best, &Control::default()).expect("evaluates");
        assert!(matches!(s.logits(), Err(Error::NotReady(_))));
        for params in [
            SamplerParams { temperature: 1.0, ..Default::default() },
            SamplerParams { repeat_penalty: 1.1, ..Default::default() },
            SamplerParams { n_logprobs: 1, ..Default::default() },
            SamplerParams { logit_bias: vec![(1, 2.0)], ..Default::default() },
        ] {
            let mut sampler = Sampler::new(&params).expect("a sampler");
            assert!(matches!(s.sample(&mut sampler), Err(Error::NotReady(_))), "{params:?}");
        }
        s.sample(&mut Sampler::new(&SamplerParams::default()).expect("a sampler")).expect("greedy");
        s.eval(&[3], Logits::Last, &Control::default()).expect("evaluates");
        s.logits().expect("logits again");
    }
}

#[test]
fn the_plan_counts_what_screening_takes() {
    let mut tiny = Tiny::new("llama");
    tiny.dtype = DType::Q8_0;
    let file = tiny.gguf();
    let plan = |screened_head| {
        let model = ModelParams { screened_head, ..Default::default() };
        Model::plan(Input::Memory(&file), &model, &SessionParams::default()).expect("plans")
    };
    let (without, with) = (plan(false), plan(true));
    assert!(with.weights_bytes > without.weights_bytes);
    assert!(with.scratch_bytes > without.scratch_bytes);
    let session = SessionParams { n_ctx: 256, n_batch: 16, n_threads: 2, ..Default::default() };
    let model = load(Input::Memory(&file), true);
    let params = ModelParams { screened_head: true, ..Default::default() };
    let planned = Model::plan(Input::Memory(&file), &params, &session).expect("plans");
    let s = Session::new(model, &session).expect("a session");
    assert_eq!(s.info().scratch_bytes, planned.scratch_bytes);
}

#[test]
fn gemma_says_the_same_and_mostly_without_its_whole_head() {
    let test = "gemma_says_the_same_and_mostly_without_its_whole_head";
    let Some(path) = support::cached(test, "models/gemma-3-270m-Q4_K_M.gguf") else { return };
    if support::emulated() {
        return support::skipped(test, "too long under an emulator");
    }
    let model = load(Input::Path(&path), true);
    let mut prompt = Vec::new();
    let text = "It is a truth universally acknowledged, that a single man in possession of";
    model.tokenizer().tokenize(text, true, false, &mut prompt).expect("tokenizes");
    let n = 96;
    let mut s = session(&model);
    let expected = greedy(&mut s, &prompt, n, Logits::Last);
    assert_eq!(s.n_screened(), 0);
    s.truncate(0).expect("empties");
    assert_eq!(greedy(&mut s, &prompt, n, Logits::Best), expected);
    let share = s.n_screened() as f64 / (n + 1) as f64;
    println!("{:.0} % of the tokens without the whole head", 100.0 * share);
    assert!(share > 0.75, "{share} of the tokens were screened");

    // Generation asks for no more by itself.
    let before = s.n_screened();
    s.truncate(0).expect("empties");
    s.eval(&prompt, Logits::Last, &Control::default()).expect("evaluates");
    let mut sampler = Sampler::new(&SamplerParams::default()).expect("a sampler");
    let mut said = Vec::new();
    let mut room = [0; 4];
    while said.len() < n {
        let k = s.generate(&mut sampler, 0, &Control::default(), &mut room).expect("generates");
        said.extend_from_slice(&room[..k]);
    }
    assert_eq!(said, expected);
    assert!(s.n_screened() - before > n as u64 * 3 / 4);
}
