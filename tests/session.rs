//! Sessions as transactions: the same bits however the work is cut, and nothing half-done.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

#[path = "support/rungs.rs"]
mod rungs;
mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use support::sessions::{bits, eval, session};
use support::tiny::{N_VOCAB, Random, Tiny};
use tern::base::clock;
use tern::base::cpu::Cores;
use tern::base::dtype::DType;
use tern::engine::{
    Control, Error, Input, Isa, KvPolicy, KvSegment, Logits, Model, ModelParams, Sampler,
    SamplerParams, Session, SessionParams,
};
use tern::sampler::Scratch as SamplerScratch;

fn model_of(tiny: &Tiny, isa: Option<Isa>) -> Arc<Model> {
    let params = ModelParams { isa, ..ModelParams::default() };
    let file = tiny.gguf();
    Arc::new(Model::load(Input::Memory(&file), &params, &mut |_, _| true).expect("loads"))
}

fn model() -> Arc<Model> {
    let mut tiny = Tiny::new("gemma3");
    (tiny.dtype, tiny.window, tiny.n_layer) = (DType::Q4_1, 9, 6);
    model_of(&tiny, None)
}

fn small() -> SessionParams {
    SessionParams { n_ctx: 64, n_batch: 16, n_threads: 2, ..SessionParams::default() }
}

fn text(n: usize) -> Vec<i32> {
    let mut random = Random(11);
    (0..n).map(|_| (random.next() % N_VOCAB as u32) as i32).collect()
}

#[test]
fn threads_do_not_change_a_bit() {
    for &isa in rungs::rungs() {
        for dtype in [DType::F32, DType::Q4_0, DType::Q6K, DType::Q8_0] {
            let mut tiny = Tiny::new("llama");
            tiny.dtype = dtype;
            let model = model_of(&tiny, Some(isa));
            let tokens = text(37);
            let mut first = None;
            for n_threads in 1..=8 {
                let mut s = session(&model, SessionParams { n_threads, ..small() });
                eval(&mut s, &tokens);
                eval(&mut s, &[5]);
                let found = bits(&s);
                let expected = first.get_or_insert_with(|| found.clone());
                assert!(found == *expected, "{} {dtype}: {n_threads} threads", isa.name());
            }
        }
    }
}

#[test]
fn a_session_samples_from_the_logits_that_it_shows() {
    for screened_head in [false, true] {
        let file = Tiny::new("gemma2").gguf(); // caps its logits
        let params = ModelParams { screened_head, ..ModelParams::default() };
        let model = Model::load(Input::Memory(&file), &params, &mut |_, _| true).expect("loads");
        let model = Arc::new(model);
        for n_threads in 1..=3 {
            let mut s = session(&model, SessionParams { n_threads, ..small() });
            for (seed, top_k) in [(1, 0), (2, 5), (3, 40)] {
                let params =
                    SamplerParams { temperature: 0.9, top_k, seed, ..SamplerParams::default() };
                let (mut shown, mut own) =
                    (Sampler::new(&params).unwrap(), Sampler::new(&params).unwrap());
                let mut scratch = SamplerScratch::new(N_VOCAB).unwrap();
                for tokens in [&text(3)[..], &[3], &[5, 6, 7]] {
                    eval(&mut s, tokens);
                    let expected = shown.sample(s.logits().unwrap(), &mut scratch).unwrap();
                    assert_eq!(s.sample(&mut own).unwrap(), expected, "{n_threads} threads");
                }
            }
        }
    }
}

#[test]
fn a_token_passes_five_barriers_in_a_layer_and_one_in_the_head() {
    for (arch, n_layer) in [("llama", 3), ("qwen3", 4)] {
        let mut tiny = Tiny::new(arch);
        (tiny.dtype, tiny.n_layer) = (DType::Q4_0, n_layer);
        let model = model_of(&tiny, None);
        let mut s = session(&model, SessionParams { n_threads: 3, ..small() });
        eval(&mut s, &text(40));
        let before = s.n_barriers();
        eval(&mut s, &[5]);
        let n = s.n_barriers() - before;
        assert!(n <= 5 * n_layer as u64 + 1, "{arch}: {n} barriers in {n_layer} layers");
        assert!(n >= 3, "{arch}: several threads take part");
    }
}

/// Numbers of threads that are measured, and tried in turns for that, beside one that is not.
#[test]
fn measuring_threads_does_not_change_a_bit() {
    let mut tiny = Tiny::new("llama");
    (tiny.n_layer, tiny.n_ctx_train) = (12, 512);
    let model = model_of(&tiny, None);
    let params = SessionParams { n_ctx: 512, n_batch: 64, ..SessionParams::default() };
    let mut measured = session(&model, params);
    let mut fixed = session(&model, SessionParams { n_threads: 1, ..params });
    let most = Cores::count();
    let counts = |s: &Session| (s.info().n_threads as usize, s.info().n_threads_batch as usize);
    assert_eq!(counts(&measured), (most.fast, most.all));
    assert_eq!(counts(&fixed), (1, 1));
    for s in [&mut measured, &mut fixed] {
        eval(s, &text(64));
    }
    assert!(bits(&measured) == bits(&fixed));
    for token in text(300) {
        for s in [&mut measured, &mut fixed] {
            eval(s, &[token]);
        }
        assert!(bits(&measured) == bits(&fixed));
    }
    let found = counts(&measured);
    assert!((1..=most.fast).contains(&found.0) && (1..=most.all).contains(&found.1));
    // What one session has found, the next one knows.
    assert_eq!(counts(&session(&model, params)), found);
}

#[test]
fn a_fork_has_the_threads_that_were_set() {
    let model = model();
    let params = SessionParams { n_threads: 3, n_threads_batch: 4, ..small() };
    let mut s = session(&model, params);
    let threads = |s: &Session| (s.info().n_threads, s.info().n_threads_batch);
    assert_eq!(threads(&s), (3, 4));
    s.set_threads(1, 2).unwrap();
    let mut fork = s.fork().unwrap();
    assert_eq!(threads(&fork), (1, 2));
    eval(&mut fork, &text(20));
    let before = fork.n_barriers();
    eval(&mut fork, &[5]);
    assert_eq!(fork.n_barriers(), before, "one thread waits for nobody");
    fork.set_threads(4, 4).unwrap(); // it can have as many as the session that it was made from
    assert!(fork.set_threads(5, 4).is_err() && fork.set_threads(0, 1).is_err());
    assert_eq!(threads(&s), (1, 2), "the two share nothing");
}

#[test]
fn the_split_of_a_prompt_does_not_change_a_bit() {
    for &isa in rungs::rungs() {
        for dtype in [DType::F16, DType::Q4_1, DType::Q4K, DType::Q5_0] {
            let mut tiny = Tiny::new("gemma3");
            (tiny.dtype, tiny.window, tiny.n_layer) = (dtype, 9, 6);
            let model = model_of(&tiny, Some(isa));
            let tokens = text(41);
            let mut expected = None;
            for n_batch in [1, 2, 7, 16, 64] {
                for call in [1, 3, 10, 41] {
                    let mut s = session(&model, SessionParams { n_batch, ..small() });
                    tokens.chunks(call).for_each(|part| eval(&mut s, part));
                    let found = bits(&s);
                    let expected = expected.get_or_insert_with(|| found.clone());
                    let what = format!("{} {dtype}: batch {n_batch}, calls of {call}", isa.name());
                    assert!(found == *expected, "{what}");
                }
            }
        }
    }
}

/// As the two above, where what is seen is several tiles of attention and a window begins and ends
/// inside of them.
#[test]
fn neither_threads_nor_splits_change_a_bit_of_a_long_context() {
    for &isa in rungs::rungs() {
        for (n_head_kv, head_dim, kv_dtype) in [(1, 16, 0), (2, 20, 1)] {
            let mut tiny = Tiny::new("gemma3");
            (tiny.window, tiny.n_layer, tiny.head_dim) = (150, 6, head_dim);
            (tiny.n_head, tiny.n_head_kv) = (4, n_head_kv);
            let model = model_of(&tiny, Some(isa));
            let tokens = text(260);
            let mut expected = None;
            for (n_threads, n_batch, call) in [
                (1, 512, 420),
                (2, 64, 420),
                (3, 5, 420),
                (8, 9, 420),
                (4, 200, 131),
                (2, 512, 410),
            ] {
                let params = SessionParams { n_ctx: 270, n_batch, n_threads, kv_dtype, ..small() };
                let mut s = session(&model, params);
                tokens.chunks(call).for_each(|part| eval(&mut s, part));
                eval(&mut s, &[3]);
                let found = bits(&s);
                let expected = expected.get_or_insert_with(|| found.clone());
                let what = format!("{} threads {n_threads}, batch {n_batch}", isa.name());
                assert!(found == *expected, "{what}, calls of {call}, {n_head_kv} kv heads");
            }
        }
    }
}

/// The cell that a token happens to stand in does not matter.
#[test]
fn cells_in_any_order_give_the_same_bits() {
    // One layer, so that keys and values do not depend on what is evicted when.
    let mut tiny = Tiny::new("llama");
    tiny.n_layer = 1;
    for kv_dtype in [0, 1] {
        let model = model_of(&tiny, None);
        let params = SessionParams { n_ctx: 600, n_batch: 64, kv_dtype, ..small() };
        let tokens = text(500);
        let gone = [(3, 20), (150, 151), (170, 171), (174, 250), (300, 333), (390, 391)];

        let mut early = session(&model, params); // later tokens fill the cells of those that left
        let mut at = 0;
        for (from, to) in gone {
            eval(&mut early, &tokens[at..to as usize + 30]);
            at = to as usize + 30;
            early.kv_evict_range(from, to).unwrap();
        }
        eval(&mut early, &tokens[at..]);

        let mut late = session(&model, params); // every token in the cell of its position
        eval(&mut late, &tokens);
        for (from, to) in gone {
            late.kv_evict_range(from, to).unwrap();
        }
        let mut fork = early.fork().unwrap();
        for s in [&mut early, &mut late, &mut fork] {
            eval(s, &tokens[..40]); // a batch of several blocks
        }
        assert!(bits(&early) == bits(&late), "many tokens");
        assert!(bits(&early) == bits(&fork), "many tokens, in a fork");
        for s in [&mut early, &mut late, &mut fork] {
            eval(s, &[7]);
        }
        assert!(bits(&early) == bits(&late), "one token");
        assert!(bits(&early) == bits(&fork), "one token, in a fork");
    }
}

#[test]
fn forked_truncated_and_evaluated_again_is_the_same() {
    let model = model();
    let tokens = text(40);
    let mut whole = session(&model, small());
    eval(&mut whole, &tokens);

    let mut s = session(&model, small());
    eval(&mut s, &tokens[..30]);
    let mut fork = s.fork().expect("a fork");
    assert!(matches!(fork.logits(), Err(Error::NotReady(_))));
    eval(&mut s, &[1, 2, 3]); // the original goes elsewhere
    eval(&mut fork, &tokens[30..]);
    assert!(bits(&fork) == bits(&whole), "a fork");

    s.truncate(12).expect("truncates");
    assert_eq!((s.info().n_kv, s.info().pos), (12, 12));
    eval(&mut s, &tokens[12..]);
    assert!(bits(&s) == bits(&whole), "a truncated session");
    s.truncate(0).expect("truncates");
    eval(&mut s, &tokens);
    assert!(bits(&s) == bits(&whole), "a session begun anew");
    assert!(matches!(s.truncate(41), Err(Error::InvalidArgument(_))));
}

#[test]
fn chosen_positions_have_the_logits_they_would_have_as_the_last() {
    let model = model();
    let tokens = text(30);
    let mut s = session(&model, SessionParams { n_logits: 3, ..small() });
    s.eval(&tokens, Logits::Positions(&[0, 15, 16]), &Control::default()).expect("evaluates");
    let rows: Vec<Vec<f32>> = (0..3).map(|i| s.logits_row(i).unwrap().to_vec()).collect();
    assert!(matches!(s.logits_row(3), Err(Error::InvalidArgument(_))));
    for (row, &at) in rows.iter().zip(&[0usize, 15, 16]) {
        s.truncate(0).unwrap();
        eval(&mut s, &tokens[..=at]);
        assert_eq!(s.logits().unwrap(), row, "position {at}");
    }
    let bad: [&[u32]; 4] = [&[1, 1], &[2, 1], &[30], &[0, 1, 2, 3]];
    for places in bad {
        let result = s.eval(&tokens, Logits::Positions(places), &Control::default());
        assert!(matches!(result, Err(Error::InvalidArgument(_))), "{places:?}");
    }
}

#[test]
fn a_failed_eval_leaves_the_session_as_it_was() {
    let model = model();
    let tokens = text(50);
    let mut plain = session(&model, small());
    eval(&mut plain, &tokens[..20]);
    eval(&mut plain, &tokens[20..]);

    let mut s = session(&model, small());
    eval(&mut s, &tokens[..20]);
    let before = s.info();
    let abort = AtomicBool::new(true);
    let aborted = Control { abort: Some(&abort), ..Control::default() };
    assert!(matches!(s.eval(&tokens[20..], Logits::Last, &aborted), Err(Error::Aborted(_))));
    assert!(!abort.load(Ordering::Relaxed), "the flag is taken");
    let late = Control { deadline_ns: 1, ..Control::default() };
    assert!(matches!(s.eval(&tokens[20..], Logits::Last, &late), Err(Error::Deadline(_))));
    let full = text(45);
    let result = s.eval(&full, Logits::Last, &Control::default());
    assert!(matches!(result, Err(Error::KvFull(_))));
    for bad in [-1, N_VOCAB as i32, i32::MIN, i32::MAX] {
        let result = s.eval(&[1, bad], Logits::Last, &Control::default());
        assert!(matches!(result, Err(Error::InvalidArgument(_))), "token {bad}");
    }
    assert!(matches!(
        s.eval(&[], Logits::Last, &Control::default()),
        Err(Error::InvalidArgument(_))
    ));
    assert_eq!((s.info().n_kv, s.info().pos), (before.n_kv, before.pos));
    eval(&mut s, &tokens[20..]);
    assert!(bits(&s) == bits(&plain));
}

#[test]
fn an_abort_in_the_middle_leaves_the_session_as_it_was() {
    let mut tiny = Tiny::new("llama");
    (tiny.n_layer, tiny.n_ctx_train) = (8, 4096);
    let model = model_of(&tiny, None);
    let tokens = text(2000);
    let params = SessionParams { n_ctx: 2048, n_batch: 64, n_threads: 2, ..small() };
    let mut s = session(&model, params);
    eval(&mut s, &tokens[..10]);
    for delay_us in [100, 1_000, 5_000] {
        let abort = AtomicBool::new(false);
        let control = Control { abort: Some(&abort), ..Control::default() };
        let result = std::thread::scope(|scope| {
            scope.spawn(|| {
                std::thread::sleep(std::time::Duration::from_micros(delay_us));
                abort.store(true, Ordering::Relaxed);
            });
            s.eval(&tokens[10..], Logits::Last, &control)
        });
        assert!(matches!(result, Err(Error::Aborted(_))), "{result:?} after {delay_us} us");
        assert_eq!((s.info().n_kv, s.info().pos), (10, 10));
        let soon = Control { deadline_ns: clock::now_ns() + delay_us * 1000, ..Control::default() };
        let result = s.eval(&tokens[10..], Logits::Last, &soon);
        assert!(matches!(result, Err(Error::Deadline(_))), "{result:?}");
        assert_eq!((s.info().n_kv, s.info().pos), (10, 10));
    }
    let mut plain = session(&model, params);
    eval(&mut plain, &tokens[..100]);
    eval(&mut s, &tokens[10..100]);
    assert!(bits(&s) == bits(&plain));
}

#[test]
fn evicted_tokens_were_never_seen_by_those_that_follow() {
    // A token's keys and values depend on what it saw, so the claim is made for one layer, whose
    // keys depend on the token alone.
    let mut tiny = Tiny::new("llama");
    tiny.n_layer = 1;
    let model = model_of(&tiny, None);
    let tokens = text(20);
    let mut s = session(&model, small());
    eval(&mut s, &tokens);
    assert_eq!(s.kv_evict_range(4, 10).unwrap(), 6);
    assert_eq!((s.info().n_kv, s.info().pos), (14, 20));
    eval(&mut s, &[9]);
    let evicted = bits(&s);

    let mut other = session(&model, small());
    eval(&mut other, &tokens[..4]);
    eval(&mut other, &[0; 6]); // others stood there
    eval(&mut other, &tokens[10..]);
    other.kv_evict_range(4, 10).unwrap();
    eval(&mut other, &[9]);
    assert!(bits(&other) == evicted);
    assert!(matches!(s.kv_evict_range(5, 4), Err(Error::InvalidArgument(_))));
}

#[test]
fn window_eviction_keeps_sinks_and_recent_tokens() {
    let model = model();
    let mut s = session(&model, small());
    eval(&mut s, &text(60));
    assert_eq!(s.kv_evict(4, 20).unwrap(), 40);
    assert_eq!(s.info().n_kv, 20);
    assert_eq!(s.kv_evict(4, 20).unwrap(), 0);
    assert_eq!(s.kv_evict_range(0, 4).unwrap(), 4, "the sinks were there");
    assert_eq!(s.kv_evict_range(44, 60).unwrap(), 16, "the most recent were there");
}

#[test]
fn generation_goes_on_for_ever_in_the_same_cells() {
    let mut tiny = Tiny::new("qwen3");
    tiny.n_ctx_train = 96;
    let model = model_of(&tiny, None);
    let params = SessionParams { auto_evict: true, n_keep: 40, ..small() };
    let mut s = session(&model, params);
    let bytes = s.info().kv_bytes;
    eval(&mut s, &text(50));
    for i in 0..1000 {
        eval(&mut s, &[i % N_VOCAB as i32]);
        let info = s.info();
        assert!(info.n_kv <= 64 && info.pos == 51 + i as u32, "{info:?}");
        assert!(s.logits().unwrap().iter().all(|x| x.is_finite()));
    }
    assert!(s.info().n_evicted >= 950 - 64);
    assert_eq!(s.info().kv_bytes, bytes);
    // A span as long as the cache fits too, but for the sinks.
    eval(&mut s, &text(60));
    let result = s.eval(&text(61), Logits::Last, &Control::default());
    assert!(matches!(result, Err(Error::KvFull(_))));
}

#[test]
fn turning_keys_back_leaves_recent_distances_as_they_were() {
    // One layer: keys depend on token and position only. After the positions pass their limit the
    // recent keys are turned back; attention among them must not notice.
    let mut tiny = Tiny::new("llama");
    (tiny.n_layer, tiny.n_ctx_train) = (1, 40);
    let model = model_of(&tiny, None);
    let params = SessionParams { n_ctx: 40, n_batch: 16, n_threads: 1, kv_dtype: 1, ..small() };
    let tokens = text(60);
    let mut s = session(&model, params);
    eval(&mut s, &tokens[..36]);
    s.kv_evict(0, 10).unwrap(); // n_sink 0 is the default of 4
    eval(&mut s, &tokens[36..50]); // passes 40: what is next is turned by half of that
    assert_eq!((s.info().n_kv, s.info().pos), (24, 50));

    let mut other = session(&model, params);
    eval(&mut other, &tokens[..4]);
    eval(&mut other, &[0; 10]);
    other.kv_evict_range(4, 14).unwrap();
    eval(&mut other, &tokens[30..50]);
    let (a, b) = (s.logits().unwrap(), other.logits().unwrap());
    let largest = b.iter().fold(0f32, |m, x| m.max(x.abs()));
    let worst = a.iter().zip(b).fold(0f32, |m, (a, b)| m.max((a - b).abs()));
    assert!(worst <= 1e-4 * largest, "{worst} of {largest}");
}

#[test]
fn a_budget_is_kept_as_tokens_come_and_threads_do_not_matter() {
    let model = model_of(&Tiny::new("llama"), None);
    for policy in [KvPolicy::Hybrid, KvPolicy::H2o, KvPolicy::Tova, KvPolicy::KeyDiff] {
        let run = |n_threads| {
            let params = SessionParams {
                n_ctx: 240,
                kv_budget: 48,
                kv_policy: Some(policy),
                n_threads,
                ..small()
            };
            let mut s = session(&model, params);
            eval(&mut s, &text(200));
            assert_eq!(s.info().n_kv, 48, "a prompt is cut at its end");
            let segment = KvSegment {
                name: "fact",
                from: 190,
                to: 200,
                pinned: true,
                ..KvSegment::default()
            };
            s.kv_set_segment(&segment).unwrap();
            for i in 0..200 {
                eval(&mut s, &[i % N_VOCAB as i32]);
                assert!(s.info().n_kv <= 48 + 72, "{:?}", s.info());
            }
            let (plan, bytes) = s.kv_evict_plan(None, 0, 20, &Control::default()).unwrap();
            assert!(plan.n_slots > 0 && bytes > 0);
            assert!((190..200).all(|pos| !plan.positions.contains(&pos)), "pinned");
            if policy == KvPolicy::Hybrid {
                // Whose recent tokens all 10 were.
                assert!(matches!(s.kv_evict(4, 9), Err(Error::KvFull(_))), "10 are pinned");
            }
            s.kv_remove_segment("fact").unwrap();
            assert!(s.kv_evict(4, 9).unwrap() > 0);
            eval(&mut s, &[1]);
            assert_eq!((s.info().n_kv, s.info().pos), (10, 401));
            bits(&s)
        };
        let expected = run(1);
        assert!(run(2) == expected && run(4) == expected, "{policy:?}");
    }
}

#[test]
fn bad_parameters_are_named() {
    let model = model();
    let cases = [
        (SessionParams { kv_dtype: 8, ..small() }, "kv_dtype"),
        (SessionParams { n_threads: 257, ..small() }, "n_threads"),
        (SessionParams { n_ctx: u32::MAX, ..small() }, "n_ctx"),
        (SessionParams { auto_evict: true, n_keep: 64, ..small() }, "n_keep"),
    ];
    for (params, name) in cases {
        let error = Session::new(Arc::clone(&model), &params).err().expect("refused");
        assert!(matches!(error, Error::InvalidArgument(_)), "{error}");
        assert!(error.message().contains(name), "{error}");
    }
}

#[test]
fn a_cache_that_no_machine_has_is_out_of_memory() {
    let model = model();
    let params = SessionParams { n_ctx: 1 << 30, kv_dtype: 1, ..small() };
    let error = Session::new(model, &params).err().expect("refused");
    assert!(matches!(error, Error::OutOfMemory(_)), "{error}");
}

/// Tokens as they come without drafts.
fn plain(s: &mut Session, sampler: &mut Sampler, n: usize) -> Vec<i32> {
    (0..n)
        .map(|_| {
            let token = s.sample(sampler).expect("samples");
            eval(s, &[token]);
            token
        })
        .collect()
}

fn drafted(s: &mut Session, sampler: &mut Sampler, n: usize, n_draft: u32) -> Vec<i32> {
    let (mut all, mut step) = (Vec::new(), [0; 8]);
    while all.len() < n {
        let room = step.len().min(n - all.len());
        let step = &mut step[..room];
        let n = s.generate(sampler, n_draft, &Control::default(), step).expect("generates");
        all.extend_from_slice(&step[..n]);
    }
    all
}

#[test]
fn drafts_change_when_tokens_come_and_not_which() {
    let model = model();
    let repeated: Vec<i32> = text(9).into_iter().cycle().take(40).collect();
    let greedy = SamplerParams::default();
    let random = SamplerParams { temperature: 0.4, repeat_penalty: 1.1, ..greedy.clone() };
    for params in [greedy, random] {
        for (n_ctx, auto_evict) in [(256, false), (64, true)] {
            let params_of_session =
                SessionParams { n_ctx, auto_evict, n_logits: 8, n_keep: 40, ..small() };
            let mut s = session(&model, params_of_session);
            eval(&mut s, &repeated);
            let mut sampler = Sampler::new(&params).unwrap();
            let expected = plain(&mut s, &mut sampler, 120);
            let logits = bits(&s);
            for n_draft in [0, 1, 3, 7] {
                let mut s = session(&model, params_of_session);
                eval(&mut s, &repeated);
                let mut sampler = Sampler::new(&params).unwrap();
                let found = drafted(&mut s, &mut sampler, 120, n_draft);
                assert_eq!(found, expected, "{n_draft} drafts, {n_ctx} cells");
                assert_eq!(bits(&s), logits, "{n_draft} drafts, {n_ctx} cells");
                let info = s.info();
                assert!(info.n_accepted <= info.n_drafted && (n_draft > 0 || info.n_drafted == 0));
                assert_eq!(info.n_decode, 120);
            }
        }
    }
}

#[test]
fn what_repeats_is_drafted_and_accepted() {
    let model = model();
    let mut s = session(&model, SessionParams { n_ctx: 512, n_logits: 8, ..small() });
    eval(&mut s, &text(10));
    let mut sampler = Sampler::new(&SamplerParams::default()).unwrap();
    drafted(&mut s, &mut sampler, 400, 7); // greedy on a tiny model runs in circles
    let info = s.info();
    assert!(info.n_accepted > 100, "{} of {} accepted", info.n_accepted, info.n_drafted);
}

#[test]
fn a_step_that_fails_can_be_repeated() {
    let model = model();
    let params = SessionParams { n_logits: 4, ..small() };
    let random = SamplerParams { temperature: 1.0, ..SamplerParams::default() };
    let mut s = session(&model, params);
    let mut sampler = Sampler::new(&random).unwrap();
    let mut step = [0; 4];
    let control = Control::default();
    let none = s.generate(&mut sampler, 0, &control, &mut step);
    assert!(matches!(none, Err(Error::NotReady(_))), "{none:?}");
    eval(&mut s, &text(20));
    let too_many = s.generate(&mut sampler, 4, &control, &mut step);
    assert!(matches!(too_many, Err(Error::InvalidArgument(_))), "{too_many:?}");
    let no_room = s.generate(&mut sampler, 0, &control, &mut []);
    assert!(matches!(no_room, Err(Error::InvalidArgument(_))), "{no_room:?}");
    let abort = AtomicBool::new(true);
    let aborting = Control { abort: Some(&abort), ..control };
    let aborted = s.generate(&mut sampler, 3, &aborting, &mut step);
    assert!(matches!(aborted, Err(Error::Aborted(_))), "{aborted:?}");
    let found = drafted(&mut s, &mut sampler, 30, 3);

    let mut s = session(&model, params);
    eval(&mut s, &text(20));
    assert_eq!(found, plain(&mut s, &mut Sampler::new(&random).unwrap(), 30));
}

#[test]
fn a_choice_is_forgotten_when_the_text_changes() {
    let model = model();
    let mut s = session(&model, SessionParams { n_ctx: 512, n_logits: 8, ..small() });
    let repeated: Vec<i32> = text(9).into_iter().cycle().take(40).collect();
    eval(&mut s, &repeated);
    let mut sampler = Sampler::new(&SamplerParams::default()).unwrap();
    drafted(&mut s, &mut sampler, 20, 7);
    let pos = s.info().pos;
    s.truncate(pos - 1).unwrap();
    eval(&mut s, &[3]);
    let expected = s.sample(&mut Sampler::new(&SamplerParams::default()).unwrap()).unwrap();
    assert_eq!(drafted(&mut s, &mut sampler, 1, 0), [expected]);
}
