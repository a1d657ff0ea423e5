//! Goes through the interleavings of the parts of tern in which threads meet: `tern-models [long] [NAME]`.
//! With the feature `loom` through all of them with so many preemptions (a thread that waits or ends
//! gives way besides), and through all that the memory model allows a load to see; with `shuttle` through
//! many, at random and by PCT. Prints how many.

#![allow(dead_code, unused_imports, reason = "models use a part of what the sources have")]

mod base;
mod engine;
mod ffi;

use std::panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook};
use std::process::exit;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use base::error::Error;
use base::models::*;
use engine::models::*;
use ffi::models::*;

/// What models panic with on purpose, without a word.
struct OnPurpose;

struct Model {
    name: &'static str,
    run: fn(),
    /// How deep it is gone into, in the quick run and in the long one.
    depth: [u64; 2],
    is_mistake: bool,
}

const fn model(name: &'static str, run: fn(), quick: u64, long: u64) -> Model {
    Model { name, run, depth: [quick, long], is_mistake: false }
}

const fn mistake(name: &'static str, run: fn()) -> Model {
    Model { name, run, depth: [3, 3], is_mistake: true }
}

/// Depth: preemptions.
#[cfg(feature = "loom")]
const MODELS: &[Model] = &[
    model("pool: 2 threads, 1 job", || jobs_are_forked_and_joined(2, 1), 4, 6),
    model("pool: 2 threads, 2 jobs", || jobs_are_forked_and_joined(2, 2), 3, 4),
    model("pool: 3 threads, 1 job", || jobs_are_forked_and_joined(3, 1), 2, 2),
    model("pool: a panic", || a_panic_is_an_error(2), 2, 2),
    model("pool: two callers", two_callers_share_a_pool, 2, 2),
    model("pool: guided", || guided_numbers_go_out_once(2, 2), 2, 2),
    model("pool: chunks", || chunks_go_out_once(2, 3), 3, 3),
    model("pool: beside", two_things_are_done_beside_each_other, 3, 3),
    model("table: freed in use", || a_handle_is_freed_in_use(1), 3, 3),
    model("table: freed in use by two", || a_handle_is_freed_in_use(2), 3, 3),
    model("table: freed twice", || a_handle_is_freed_twice(1), 3, 3),
    model("table: freed three times", || a_handle_is_freed_twice(2), 2, 2),
    model("table: made at once", || handles_are_made_at_once(2), 3, 3),
    model("table: one call at a time", one_call_has_a_value_for_itself, 3, 3),
    model("shared: two owners", || the_last_owner_frees(1), 3, 3),
    model("shared: three owners", || the_last_owner_frees(2), 3, 3),
    model("fork lock: a reader", || nobody_reads_what_was_changed(1), 3, 3),
    model("fork lock: two readers", || nobody_reads_what_was_changed(2), 1, 1),
    model("highest: three threads", || the_highest_is_kept(3), 3, 3),
    mistake("mistake: a race", mistake_a_race),
    mistake("mistake: a hand-over without release", mistake_a_relaxed_hand_over),
    mistake("mistake: a wake-up that gets lost", mistake_a_lost_wake_up),
    mistake("mistake: a share that waits for ever", mistake_a_share_that_waits),
];

/// Depth: how often, at random and again by PCT.
#[cfg(feature = "shuttle")]
const MODELS: &[Model] = &[
    model("pool: 4 threads, 6 jobs", || jobs_are_forked_and_joined(4, 6), 400, 100_000),
    model("pool: 8 threads, 2 jobs", || jobs_are_forked_and_joined(8, 2), 300, 60_000),
    model("pool: panics in 4 threads", || a_panic_is_an_error(4), 300, 60_000),
    model("pool: two callers", two_callers_share_a_pool, 500, 100_000),
    model("pool: guided, 4 threads", || guided_numbers_go_out_once(4, 40), 300, 80_000),
    model("pool: chunks, 4 threads", || chunks_go_out_once(4, 20), 300, 80_000),
    model("pool: numbers of threads", || threads_come_and_go_between_jobs(4), 300, 80_000),
    model("table: freed in use by six", || a_handle_is_freed_in_use(6), 500, 140_000),
    model("table: freed seven times", || a_handle_is_freed_twice(6), 500, 100_000),
    model("table: six made at once", || handles_are_made_at_once(6), 500, 100_000),
    model("an abort and the end of an eval", an_abort_stops_one_eval, 300, 20_000),
    model("a wish for another budget", the_last_wish_is_taken_once, 300, 20_000),
    model("shared: seven owners", || the_last_owner_frees(6), 300, 50_000),
    model("fork lock: four readers", || nobody_reads_what_was_changed(4), 300, 50_000),
    mistake("mistake: a wake-up that gets lost", mistake_a_lost_wake_up),
    mistake("mistake: a share that waits for ever", mistake_a_share_that_waits),
];

#[cfg(feature = "loom")]
fn explore(model: &Model, depth: u64, n: &Arc<AtomicU64>) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(depth as usize);
    builder.max_branches = 5_000;
    let (n, run) = (n.clone(), model.run);
    builder.check(move || {
        n.fetch_add(1, Ordering::Relaxed);
        run();
    });
}

#[cfg(feature = "shuttle")]
fn explore(model: &Model, depth: u64, n: &Arc<AtomicU64>) {
    // It knows one order of memory only, and says so: the weak ones are loom's.
    let depth = if model.is_mistake { 1000 } else { depth as usize };
    let counted = |n: &Arc<AtomicU64>| {
        let (n, run) = (n.clone(), model.run);
        move || {
            n.fetch_add(1, Ordering::Relaxed);
            run();
        }
    };
    shuttle::check_random(counted(n), depth);
    shuttle::check_pct(counted(n), depth.div_ceil(10), 3);
}

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let is_long = words.iter().any(|word| word == "long");
    let wanted = words.iter().find(|word| *word != "long");
    let said = take_hook();
    set_hook(Box::new(move |panic| {
        let quiet = std::env::var_os("TERN_MODELS_LOUD").is_none();
        let on_purpose = panic.payload().is::<OnPurpose>();
        if !on_purpose && !(quiet && IN_MISTAKE.load(Ordering::Relaxed) != 0) {
            said(panic);
        }
    }));
    let (mut n_all, mut n_wrong) = (0, 0);
    for model in MODELS {
        if wanted.is_some_and(|wanted| !model.name.contains(wanted.as_str())) {
            continue;
        }
        let depth = model.depth[usize::from(is_long)];
        let (n, start) = (Arc::new(AtomicU64::new(0)), Instant::now());
        IN_MISTAKE.store(model.is_mistake.into(), Ordering::Relaxed);
        let result = catch_unwind(AssertUnwindSafe(|| explore(model, depth, &n)));
        IN_MISTAKE.store(0, Ordering::Relaxed);
        let n = n.load(Ordering::Relaxed);
        let seconds = start.elapsed().as_secs_f64();
        let is_right = result.is_err() == model.is_mistake;
        let verdict = match (is_right, model.is_mistake) {
            (true, false) => "holds",
            (true, true) => "found, as it should be",
            (false, false) => "FAILED",
            (false, true) => "FAILED: not found",
        };
        println!("{}: {verdict}; depth {depth}, {n} interleavings, {seconds:.1} s", model.name);
        n_all += n;
        n_wrong += usize::from(!is_right);
    }
    println!("{n_all} interleavings, {n_wrong} models failed");
    exit(i32::from(n_wrong > 0 || n_all == 0));
}

/// Panics are what is wanted at the moment.
static IN_MISTAKE: AtomicU64 = AtomicU64::new(0);
