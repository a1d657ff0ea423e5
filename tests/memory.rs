//! The memory plan against what the process really takes.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod support;

use std::path::Path;
use std::sync::Arc;

use tern::engine::{
    Control, Input, LoadMode, Logits, Model, ModelParams, Sampler, SamplerParams, Session,
    SessionParams,
};

/// A figure of /proc/self/status in bytes.
fn status(name: &str) -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let line = text.lines().find_map(|line| line.strip_prefix(name)).expect("a figure");
    line.trim_matches(|c: char| !c.is_ascii_digit()).parse::<u64>().expect("kB") * 1024
}

// One test only: a second one would add its own memory to the peak.
#[test]
fn a_session_takes_what_the_plan_says() {
    let name = "a_session_takes_what_the_plan_says";
    if support::emulated() {
        return support::skipped(name, "memory is the emulator's: not run under an emulator");
    }
    let file = "models/SmolLM2-135M-Instruct.Q4_1.gguf";
    let Some(path) = support::cached(name, file) else { return };
    let params = ModelParams { load_mode: Some(LoadMode::Copy), ..ModelParams::default() };
    let session = SessionParams { n_ctx: 2048, n_threads: 2, ..SessionParams::default() };
    let before = status("VmRSS:");
    let plan = Model::plan(Input::Path(Path::new(&path)), &params, &session).expect("a plan");
    let planning = status("VmHWM:") - before;
    assert!(planning < 40 << 20, "planning took {planning} bytes");

    let model = Model::load(Input::Path(Path::new(&path)), &params, &mut |_, _| true).unwrap();
    let mut session = Session::new(Arc::new(model), &session).expect("a session");
    let info = session.info();
    assert_eq!((plan.kv_bytes, plan.scratch_bytes), (info.kv_bytes, info.scratch_bytes));
    let prompt: Vec<i32> = (0..2000).map(|i| 100 + i * 7 % 40_000).collect();
    session.eval(&prompt, Logits::Last, &Control::default()).expect("evaluates");
    let params = SamplerParams { temperature: 0.8, top_p: 0.9, ..SamplerParams::default() };
    let mut sampler = Sampler::new(&params).expect("a sampler");
    for _ in 0..10 {
        let token = session.sample(&mut sampler).expect("samples");
        session.eval(&[token], Logits::Last, &Control::default()).expect("evaluates");
    }
    let peak = status("VmHWM:");
    let share = peak as f64 / plan.total_bytes as f64;
    println!("plan {plan:?}; peak {peak} bytes = {share:.3} x plan");
    assert!(share <= 1.15, "peak {peak} bytes = {share:.3} x plan of {}", plan.total_bytes);
    assert!(peak >= plan.weights_bytes + plan.kv_bytes / 2, "the plan promises too much");
}
