//! An eval that is stopped, at whatever moment, has not been: by an abort from another thread or by a
//! deadline. What a session is after it, all bytes of its snapshot, is what it was before.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod support;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Barrier};

use support::sessions::{bits, eval, load, session, state};
use support::tiny::{N_VOCAB, Random, Tiny};
use tern::base::clock::now_ns;
use tern::base::dtype::DType;
use tern::engine::{Control, Error, KvPolicy, Logits, Model, Session, SessionParams};

/// Tokens that a session holds, and those that come.
const N_BEFORE: usize = 150;
const N_ALL: usize = 400;

fn text() -> Vec<i32> {
    let mut random = Random(5);
    (0..N_ALL).map(|_| (random.next() % N_VOCAB as u32) as i32).collect()
}

/// Sessions of all kinds, by name, each with its model.
fn kinds() -> Vec<(&'static str, Arc<Model>, SessionParams)> {
    let llama = Tiny { dtype: DType::Q4_0, n_ctx_train: 1024, ..Tiny::new("llama") };
    let gemma = Tiny { dtype: DType::Q8_0, n_ctx_train: 1024, window: 30, ..Tiny::new("gemma3") };
    let [llama, gemma] = [llama, Tiny { n_layer: 7, ..gemma }].map(|tiny| load(&tiny, None));
    let plain = SessionParams { n_ctx: 600, n_batch: 64, n_threads: 1, ..SessionParams::default() };
    let budget = SessionParams { kv_budget: 100, ..plain };
    vec![
        ("one thread", llama.clone(), plain),
        ("three threads", llama.clone(), SessionParams { n_threads: 3, ..plain }),
        ("windows", gemma, plain),
        ("codes of 3 to 8 bits", llama.clone(), SessionParams { kv_dtype: 64, ..plain }),
        ("tiles that are shared", llama.clone(), SessionParams { kv_share: true, ..plain }),
        (
            "a budget, hybrid",
            llama.clone(),
            SessionParams { kv_policy: Some(KvPolicy::Hybrid), ..budget },
        ),
        (
            "a budget, snapkv",
            llama.clone(),
            SessionParams { kv_policy: Some(KvPolicy::SnapKv), ..budget },
        ),
        (
            "a budget, expected",
            llama,
            SessionParams { kv_policy: Some(KvPolicy::Expected), ..budget },
        ),
    ]
}

/// Evaluates while another thread waits for so many parts of the work to have begun, and then aborts.
fn stop_after(s: &mut Session, tokens: &[i32], n_parts: u64) -> Result<(), Error> {
    let (abort, progress, is_done) =
        (AtomicBool::new(false), AtomicU64::new(0), AtomicBool::new(false));
    let ready = Barrier::new(2);
    let control = Control { abort: Some(&abort), progress: Some(&progress), ..Control::default() };
    std::thread::scope(|scope| {
        scope.spawn(|| {
            ready.wait();
            while progress.load(Ordering::Relaxed) < n_parts && !is_done.load(Ordering::Relaxed) {
                std::hint::spin_loop();
            }
            abort.store(true, Ordering::Relaxed);
        });
        ready.wait();
        let result = s.eval(tokens, Logits::Last, &control);
        is_done.store(true, Ordering::Relaxed);
        result
    })
}

/// Parts that the whole work has.
fn n_parts(model: &Model, params: SessionParams, tokens: &[i32]) -> u64 {
    let progress = AtomicU64::new(0);
    let mut s = session(model, params);
    eval(&mut s, &tokens[..N_BEFORE]);
    let control = Control { progress: Some(&progress), ..Control::default() };
    s.eval(&tokens[N_BEFORE..], Logits::Last, &control).unwrap();
    progress.into_inner()
}

fn stop_at(n_moments: u64) {
    let tokens = text();
    for (name, model, params) in kinds() {
        let ready = || {
            let mut s = session(&model, params);
            eval(&mut s, &tokens[..N_BEFORE]);
            s
        };
        let n_parts = n_parts(&model, params, &tokens);
        let n_layer = model.info().n_layer as u64;
        assert!(
            n_parts >= 5 * n_layer * (N_ALL - N_BEFORE).div_ceil(64) as u64,
            "{name}: {n_parts}"
        );
        let mut s = ready();
        let before = state(&s);
        let (mut n_aborted, mut n_late) = (0, 0);
        for i in 0..n_moments {
            match stop_after(&mut s, &tokens[N_BEFORE..], i * n_parts / n_moments) {
                Err(Error::Aborted(_)) => n_aborted += 1,
                result => {
                    result.unwrap(); // it was faster
                    s = ready();
                }
            }
            assert!(state(&s) == before, "{name}: aborted after {i} of {n_moments} parts");
            let start = now_ns();
            let deadline_ns = start + 1 + i * 3_000_000 / n_moments;
            let late = Control { deadline_ns, ..Control::default() };
            match s.eval(&tokens[N_BEFORE..], Logits::Last, &late) {
                Err(Error::Deadline(_)) => n_late += 1,
                result => {
                    result.unwrap();
                    s = ready();
                }
            }
            assert!(state(&s) == before, "{name}: late after {i} of {n_moments} parts of 3 ms");
        }
        assert!(n_aborted >= n_moments / 4, "{name}: {n_aborted} of {n_moments} aborted");
        assert!(n_late >= n_moments / 4, "{name}: {n_late} of {n_moments} late");
        println!(
            "{name}: {n_parts} parts, {n_aborted} aborted and {n_late} late of {n_moments} each"
        );
        let mut never = ready();
        eval(&mut never, &tokens[N_BEFORE..]);
        eval(&mut s, &tokens[N_BEFORE..]);
        assert!(bits(&s) == bits(&never) && state(&s) == state(&never), "{name}");
        eval(&mut never, &[3]);
        eval(&mut s, &[3]);
        assert!(bits(&s) == bits(&never) && state(&s) == state(&never), "{name}: one more");
    }
}

#[test]
fn an_eval_that_is_stopped_at_any_moment_has_not_been() {
    stop_at(if support::emulated() { 4 } else { 12 });
}

#[test]
#[ignore = "some minutes: as many moments as an eval has parts"]
fn an_eval_that_is_stopped_at_each_of_many_moments_has_not_been() {
    stop_at(2000);
}
