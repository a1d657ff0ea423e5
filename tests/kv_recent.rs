//! Of keys and values in codes of 3 to 5 bits a token reads the newest 16 in half precision. What that
//! promises: nothing is rounded of them, and spans that are given back, drafts, forks, snapshots and
//! evictions leave no trace in them.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod support;

use std::sync::Arc;

use support::sessions::{bits, eval, session};
use support::tiny::{N_VOCAB, Random, Tiny};
use tern::base::clock;
use tern::engine::{
    Control, Error, Input, KvPolicy, Logits, Model, ModelParams, Sampler, SamplerParams, Session,
    SessionParams,
};

const F16: u32 = 0;
const Q5_0: u32 = 3;
const Q4_0: u32 = 4;
const Q4_H: u32 = 5;
const Q3_H: u32 = 6;
const Q5_H: u32 = 7;
/// Tokens that are read in half precision, the one that reads included.
const WINDOW: usize = 16;
/// How far logits may be from those in halves, as a share of the largest: what 5 bits round.
const WORST: f32 = 0.015;
/// Tokens of a tile, which can be shared.
const TILE: usize = 128;

/// Layers that attend to everything, and layers with windows.
fn models() -> [Arc<Model>; 2] {
    let mut windowed = Tiny::new("gemma3");
    (windowed.n_layer, windowed.window) = (6, 48);
    let mut full = Tiny::new("llama");
    (full.n_layer, full.n_head, full.n_head_kv) = (3, 4, 2);
    [model_of(&windowed), model_of(&full)]
}

fn model_of(tiny: &Tiny) -> Arc<Model> {
    let file = tiny.gguf();
    let params = ModelParams::default();
    Arc::new(Model::load(Input::Memory(&file), &params, &mut |_, _| true).expect("loads"))
}

fn params(k_dtype: u32, v_dtype: u32) -> SessionParams {
    SessionParams { k_dtype, v_dtype, n_ctx: 400, n_batch: 24, n_threads: 2, ..Default::default() }
}

fn text(n: usize) -> Vec<i32> {
    let mut random = Random(5);
    (0..n).map(|_| (random.next() % N_VOCAB as u32) as i32).collect()
}

/// What a session answers to one token and then to some, each time.
fn answers(mut s: Session) -> [Vec<u32>; 3] {
    [&[3][..], &[4], &[5; 20]].map(|next| {
        eval(&mut s, next);
        bits(&s)
    })
}

#[test]
fn of_16_tokens_nothing_is_rounded() {
    let tokens = text(64);
    for model in models() {
        let after = |dtype: u32, n: usize| {
            let mut s = session(&model, params(dtype, dtype));
            eval(&mut s, &tokens[..n]);
            bits(&s)
        };
        for dtype in [Q5_0, Q4_0] {
            for n in [1, 2, WINDOW - 1, WINDOW] {
                assert!(after(dtype, n) == after(F16, n), "type {dtype}: {n} tokens");
            }
            // The first 4 are never rounded.
            assert!(after(dtype, WINDOW + 4) == after(F16, WINDOW + 4), "type {dtype}: sinks");
            let longer = after(dtype, WINDOW + 5);
            assert!(longer != after(F16, WINDOW + 5), "type {dtype}: what is older is rounded");
        }
    }
}

#[test]
fn what_is_given_back_leaves_no_trace() {
    let tokens = text(400);
    let mut n_aborted = 0;
    for model in models() {
        for (k, v) in [(Q4_H, Q3_H), (F16, Q4_0), (Q5_H, F16)] {
            for (first, call) in [(10, 10), (100, 100), (130, 3), (140, 1)] {
                let mut s = session(&model, params(k, v));
                tokens[..first].chunks(call).for_each(|part| eval(&mut s, part));
                let expected = answers(s.fork().unwrap());
                for (n, delay_us) in [(5, 20), (20, 40), (20, 80), (200, 100), (200, 300)] {
                    let mut fork = s.fork().unwrap();
                    let deadline_ns = clock::now_ns() + delay_us * 1000;
                    let soon = Control { deadline_ns, ..Control::default() };
                    match fork.eval(&tokens[first..first + n], Logits::Last, &soon) {
                        Err(Error::Deadline(_)) => n_aborted += 1,
                        Ok(()) => continue,
                        Err(error) => panic!("{error:?}"),
                    }
                    let what = format!("types {k} {v}: {n} tokens after {first}");
                    assert!(answers(fork) == expected, "{what}");
                }
            }
        }
    }
    assert!(n_aborted >= 20, "{n_aborted} spans were given back");
}

#[test]
fn what_leaves_among_the_newest_is_not_read() {
    let tokens = text(64);
    for model in models() {
        let after = |dtype: u32| {
            let mut s = session(&model, params(dtype, dtype));
            eval(&mut s, &tokens);
            s.kv_evict_range(52, 58).unwrap();
            eval(&mut s, &[3]);
            s.logits().unwrap().to_vec()
        };
        let exact = after(F16);
        let largest = exact.iter().fold(0f32, |m, x| m.max(x.abs()));
        for dtype in [Q5_0, Q5_H] {
            let found = after(dtype);
            let worst = found.iter().zip(&exact).fold(0f32, |m, (a, b)| m.max((a - b).abs()));
            assert!(worst / largest < WORST, "type {dtype}: {}", worst / largest);
        }
    }
}

#[test]
fn drafts_leave_no_trace() {
    let (tokens, drafts) = (text(300), [7; WINDOW]);
    for model in models() {
        for (k, v) in [(Q4_H, Q3_H), (F16, Q4_0), (Q5_H, F16)] {
            let mut plain = session(&model, params(k, v));
            let mut drafted = session(&model, params(k, v));
            for s in [&mut plain, &mut drafted] {
                eval(s, &tokens[..118]);
            }
            // Over the end of a tile, and of as many as fit.
            for (at, n_draft) in (118..150).zip([3, 1, WINDOW, 8].into_iter().cycle()) {
                eval(&mut drafted, &drafts[..n_draft]);
                drafted.truncate(at).unwrap();
                for s in [&mut plain, &mut drafted] {
                    eval(s, &tokens[at as usize..][..1]);
                }
                assert!(bits(&plain) == bits(&drafted), "types {k} {v}: at {at}");
            }
        }
    }
}

#[test]
fn drafts_that_are_refused_leave_no_trace() {
    let mut tiny = Tiny::new("llama");
    tiny.n_layer = 3;
    let model = model_of(&tiny);
    let repeated: Vec<i32> = text(50).into_iter().cycle().take(200).collect();
    for (k, v) in [(Q4_H, Q3_H), (F16, Q4_0)] {
        let generate = |n_draft: u32| {
            let mut s = session(&model, SessionParams { n_logits: 64, ..params(k, v) });
            eval(&mut s, &repeated);
            let greedy = SamplerParams { temperature: 0.4, ..SamplerParams::default() };
            let (mut sampler, mut tokens) = (Sampler::new(&greedy).unwrap(), Vec::<i32>::new());
            while tokens.len() < 120 {
                let mut step = [0; 64];
                let room = &mut step[..64.min(120 - tokens.len())];
                let n = s.generate(&mut sampler, n_draft, &Control::default(), room).unwrap();
                tokens.extend(&step[..n]);
            }
            (tokens, bits(&s), s.info().n_drafted)
        };
        let (tokens, logits, _) = generate(0);
        for n_draft in [15, 63] {
            let (found, found_logits, n_drafted) = generate(n_draft);
            assert!(n_drafted > 0, "nothing was drafted");
            assert_eq!(found, tokens, "types {k} {v}: {n_draft} drafts");
            assert!(found_logits == logits, "types {k} {v}: {n_draft} drafts");
        }
    }
}

#[test]
fn a_whole_tile_is_read_alike_by_all() {
    // Whoever shares one has nothing of its tokens but codes.
    let [_, model] = models();
    let tokens = text(2 * TILE + 40);
    let mut s = session(&model, params(Q4_H, Q3_H));
    eval(&mut s, &tokens);
    s.truncate(2 * TILE as u32).unwrap();
    let mut anew = session(&model, params(Q4_H, Q3_H));
    eval(&mut anew, &tokens[..2 * TILE]);
    assert!(answers(s) == answers(anew));
}

#[test]
fn snapshots_have_them_and_splits_do_not_change_them() {
    let tokens = text(380);
    for model in models() {
        for (k, v) in [(Q4_H, Q3_H), (F16, Q4_0), (Q5_H, F16)] {
            let budget = SessionParams {
                kv_policy: Some(KvPolicy::H2o),
                kv_budget: 96,
                n_ctx: 256,
                ..params(k, v)
            };
            for params in [params(k, v), budget] {
                let mut whole = session(&model, params);
                let mut cut = session(&model, SessionParams { n_batch: 4, ..params });
                let mut saved = session(&model, params);
                for (i, part) in tokens[..200].chunks(6).enumerate() {
                    eval(&mut whole, part);
                    // A budget is kept to after each call.
                    let call = if params.kv_budget == 0 { 1 + i % 6 } else { 6 };
                    part.chunks(call).for_each(|part| eval(&mut cut, part));
                    eval(&mut saved, part);
                    if i % 3 == 0 {
                        let mut bytes = vec![0; saved.saved_len(None).unwrap() as usize];
                        saved.write(None, &mut bytes).unwrap();
                        saved = session(&model, params);
                        saved.read(None, &bytes).unwrap();
                    }
                    assert!(bits(&whole) == bits(&cut), "types {k} {v}: cut, {i}");
                    let next = tokens[300 + i];
                    let found = [&whole, &saved].map(|s| {
                        let mut s = s.fork().unwrap();
                        eval(&mut s, &[next]);
                        bits(&s)
                    });
                    assert!(found[0] == found[1], "types {k} {v}: saved, {i}");
                }
            }
        }
    }
}
