//! How long a robot waits for tern: for a token, and for an eval that is to stop. Prints figures and
//! judges none, for they are those of the machine and of what else it does.
//!
//! `cargo test --release --test latency -- --ignored --nocapture --test-threads 1`. Where the system lets
//! it, the thread that evaluates has a real-time priority, as in a robot; so what is measured is tern,
//! not its neighbours. `TERN_SAMPLES`: of each kind; `TERN_THREADS`: that evaluate, 1 by default.
#![allow(unsafe_code, reason = "priorities of threads")]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use support::tiny::Random;
use tern::base::clock::now_ns;
use tern::engine::{
    Control, Error, Input, Logits, Model, ModelParams, Sampler, SamplerParams, Session,
    SessionParams,
};

const SMOLLM2: &str = "models/SmolLM2-135M-Instruct.Q4_1.gguf";

/// Makes the calling thread, and those that it starts, go before all ordinary ones, or with 0 be one of
/// them; says if it may not.
fn go_first(priority: i32) {
    let policy = if priority > 0 { libc::SCHED_FIFO } else { libc::SCHED_OTHER };
    let param = libc::sched_param { sched_priority: priority };
    // SAFETY: 0 is the calling thread; the struct lives through the call.
    if unsafe { libc::sched_setscheduler(0, policy, &param) } != 0 {
        println!("without a real-time priority: the system does not allow it");
    }
}

/// A rest after work that began at `start`: Linux lets those that go first have 95 % of the time, and takes
/// the rest of each second at once from who never rests.
fn rest(start: u64) {
    std::thread::sleep(Duration::from_nanos((now_ns() - start) / 12));
}

fn from_env(name: &str, default: usize) -> usize {
    std::env::var(name).ok().map_or(default, |n| n.parse().expect("a number"))
}

fn model(test: &str) -> Option<Arc<Model>> {
    let path = support::cached(test, SMOLLM2)?;
    let model = Model::load(Input::Path(&path), &ModelParams::default(), &mut |_, _| true);
    Some(Arc::new(model.expect("loads")))
}

/// Prints percentiles of times in nanoseconds.
fn print(what: &str, mut ns: Vec<u64>) {
    ns.sort_unstable();
    let at = |part: f64| ns[((ns.len() - 1) as f64 * part) as usize] as f64 / 1e6;
    println!(
        "{what}: {} times, p50 {:.3} ms, p99 {:.3}, p99.9 {:.3}, max {:.3}",
        ns.len(),
        at(0.5),
        at(0.99),
        at(0.999),
        at(1.0)
    );
    println!(
        "    up to, ms:  {}",
        (-4..7).map(|i| format!("{:>8}", 2f64.powi(i))).collect::<String>()
    );
    let n_in = |i: i32| {
        let edge = |i: i32| (2f64.powi(i) * 1e6) as u64;
        let from = if i == -4 { 0 } else { edge(i - 1) };
        ns.iter().filter(|&&ns| ns > from && ns <= edge(i)).count()
    };
    println!("    times:      {}", (-4..7).map(|i| format!("{:>8}", n_in(i))).collect::<String>());
}

/// A prompt is stopped at random moments, with more and more before it.
#[test]
#[ignore = "measures; minutes"]
fn how_soon_an_eval_stops() {
    let test = "how_soon_an_eval_stops";
    let Some(model) = model(test) else { return };
    let (n_samples, n_threads) = (from_env("TERN_SAMPLES", 10_000), from_env("TERN_THREADS", 1));
    let params =
        SessionParams { n_ctx: 4096, n_threads: n_threads as u32, ..SessionParams::default() };
    let mut random = Random(7);
    let n_vocab = model.info().n_vocab;
    let tokens: Vec<i32> = (0..4000).map(|_| (random.next() % n_vocab) as i32).collect();
    let (abort, stopped_at, wanted_at) =
        (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
    let (mut aborts, mut deadlines, mut n_through) = (Vec::new(), Vec::new(), 0);
    let is_done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            go_first(20);
            while !is_done.load(Ordering::Relaxed) {
                let at = wanted_at.swap(0, Ordering::Acquire);
                if at == 0 {
                    std::thread::sleep(Duration::from_micros(200));
                    continue;
                }
                std::thread::sleep(Duration::from_nanos(at.saturating_sub(now_ns())));
                stopped_at.store(now_ns(), Ordering::Relaxed);
                abort.store(true, Ordering::Release);
            }
        });
        go_first(10);
        let mut s = Session::new(model.clone(), &params).expect("a session");
        for i in 0..2 * n_samples {
            let begin = now_ns();
            let n_before = 2000 * (i / 2) / n_samples; // up to 2000 are held
            if n_before > s.info().pos as usize + 100 {
                let more = &tokens[s.info().pos as usize..n_before];
                s.eval(more, Logits::None, &Control::default()).expect("evaluates");
            }
            // Mostly in the first layers, which all others are like; now and then anywhere.
            let within_ms = if i % 64 < 2 { 400 } else { 25 };
            let at = now_ns() + 1 + u64::from(random.next()) % (within_ms * 1_000_000);
            let prompt = &tokens[s.info().pos as usize..][..512 + (i % 4) * 512 / 3];
            let is_abort = i % 2 == 0;
            let control = match is_abort {
                true => Control { abort: Some(&abort), ..Control::default() },
                false => Control { deadline_ns: at, ..Control::default() },
            };
            if is_abort {
                stopped_at.store(0, Ordering::Relaxed);
                wanted_at.store(at, Ordering::Release);
            }
            let result = s.eval(prompt, Logits::Last, &control);
            let end = now_ns();
            match result {
                Err(Error::Aborted(_)) => aborts.push(end - stopped_at.load(Ordering::Relaxed)),
                Err(Error::Deadline(_)) => deadlines.push(end - at),
                result => {
                    result.expect("evaluates");
                    n_through += 1;
                    let pos = s.info().pos - prompt.len() as u32;
                    s.truncate(pos).expect("truncates");
                    while is_abort && !abort.swap(false, Ordering::Acquire) {
                        std::thread::sleep(Duration::from_micros(100));
                    }
                }
            }
            rest(begin);
        }
        is_done.store(true, Ordering::Relaxed);
    });
    println!(
        "SmolLM2, prompts of 512 to 1024 tokens after 0 to 2000, {n_threads} threads; {n_through} were faster"
    );
    print("from an abort to the return", aborts);
    print("from a deadline to the return", deadlines);
}

/// Tokens one after the other, without end in 512 slots: sampled, evaluated, some evicted.
fn tokens(s: &mut Session, n: usize) -> Vec<u64> {
    let params =
        SamplerParams { temperature: 0.8, top_k: 40, top_p: 0.95, ..SamplerParams::default() };
    let mut sampler = Sampler::new(&params).expect("a sampler");
    let control = Control::default();
    s.truncate(0).expect("truncates");
    s.eval(&[1, 2, 3, 4], Logits::Last, &control).expect("evaluates");
    let mut times = Vec::new();
    for i in 0..n + 50 {
        let start = now_ns();
        let token = s.sample(&mut sampler).expect("samples");
        s.eval(&[token], Logits::Last, &control).expect("evaluates");
        if i >= 50 {
            times.push(now_ns() - start);
        }
        rest(start);
    }
    times
}

#[test]
#[ignore = "measures; minutes"]
fn how_long_tokens_take() {
    let test = "how_long_tokens_take";
    let Some(model) = model(test) else { return };
    let (n, n_threads) = (from_env("TERN_SAMPLES", 10_000), from_env("TERN_THREADS", 1));
    let params = SessionParams {
        n_ctx: 600,
        kv_budget: 512,
        n_threads: n_threads as u32,
        ..SessionParams::default()
    };
    go_first(10);
    let mut s = Session::new(model, &params).expect("a session");
    print(&format!("a token of SmolLM2, {n_threads} threads"), tokens(&mut s, n));
    // As many that never rest, and write more than a cache holds, as there are other cores.
    let n_cores = std::thread::available_parallelism().map_or(1, |n| n.get());
    let n_busy = n_cores.saturating_sub(n_threads).max(1);
    let is_done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..n_busy {
            scope.spawn(|| {
                go_first(0);
                let mut much = vec![0u8; 64 << 20];
                while !is_done.load(Ordering::Relaxed) {
                    much.iter_mut().step_by(64).for_each(|byte| *byte = byte.wrapping_add(1));
                }
            });
        }
        print(&format!("the same beside {n_busy} that fill the memory"), tokens(&mut s, n));
        is_done.store(true, Ordering::Relaxed);
    });
}
