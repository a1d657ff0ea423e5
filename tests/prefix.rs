//! What sessions share: forks the tiles that are full, and sessions that begin with the same tokens
//! the tiles of these. Nobody notices but by time and memory.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod support;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use support::counting::{Counting, with_allocations};
use support::sessions::{bits, eval, session};
use support::tiny::{N_VOCAB, Random, Tiny};
use tern::engine::{
    Control, Error, Input, KvOp, KvPolicy, KvSegment, Logits, Model, ModelParams, Session,
    SessionParams,
};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const TILE: usize = 128;

fn model_of(tiny: &Tiny) -> Arc<Model> {
    let file = tiny.gguf();
    let params = ModelParams::default();
    Arc::new(Model::load(Input::Memory(&file), &params, &mut |_, _| true).expect("loads"))
}

fn model() -> Arc<Model> {
    model_of(&Tiny { n_embd: 128, n_ff: 128, n_ctx_train: 1000, ..Tiny::new("llama") })
}

/// One whose layers all attend to everything, and one where others have windows of more than a tile.
fn models() -> [Arc<Model>; 2] {
    [model(), sliding(150)]
}

fn sliding(window: u32) -> Arc<Model> {
    let tiny = Tiny { n_embd: 128, n_ff: 128, n_ctx_train: 1000, ..Tiny::new("gemma3") };
    model_of(&Tiny { n_layer: 7, window, ..tiny })
}

/// For 600 tokens, which is not a multiple of a tile.
fn params() -> SessionParams {
    SessionParams { n_ctx: 600, n_batch: 64, n_threads: 1, ..SessionParams::default() }
}

fn sharing() -> SessionParams {
    SessionParams { kv_share: true, ..params() }
}

fn text(seed: u64, n: usize) -> Vec<i32> {
    let mut random = Random(seed);
    (0..n).map(|_| (random.next() % N_VOCAB as u32) as i32).collect()
}

/// What a session of its own answers to all of these.
fn answer(model: &Arc<Model>, params: SessionParams, tokens: &[&[i32]]) -> Vec<u32> {
    let mut s = session(model, SessionParams { kv_share: false, ..params });
    eval(&mut s, &tokens.concat());
    bits(&s)
}

/// Tokens that were evaluated, not taken.
fn n_evaluated(s: &Session) -> u64 {
    s.info().n_prefill + s.info().n_decode
}

/// How many tiles of a session are shared, whose keys and values have this type.
fn n_shared(s: &Session, kv_dtype: u32) -> f64 {
    let one = SessionParams { n_ctx: TILE as u32, kv_dtype, ..params() };
    let two = SessionParams { n_ctx: 2 * TILE as u32, kv_dtype, ..params() };
    let bytes = |params| session(s.model(), params).info().kv_bytes as f64;
    // The difference has a few bytes of bookkeeping more.
    s.info().kv_shared_bytes as f64 / (bytes(two) - bytes(one))
}

#[test]
fn forks_share_what_is_full_and_none_notices_the_other() {
    for model in &models() {
        let (prefix, first, second) = (text(1, 300), text(2, 40), text(3, 90));
        for kv_dtype in 0..8 {
            let params = SessionParams { kv_dtype, ..sharing() };
            let mut s = session(model, params);
            eval(&mut s, &prefix);
            assert_eq!(s.info().kv_shared_bytes, 0);
            let mut fork = s.fork().unwrap();
            for s in [&s, &fork] {
                let n = n_shared(s, kv_dtype);
                assert!((1.8..=2.2).contains(&n), "{n} of type {kv_dtype}");
            }
            eval(&mut s, &first);
            eval(&mut fork, &second);
            let expected = |own: &[i32]| answer(model, params, &[&prefix, own]);
            assert!(bits(&s) == expected(&first), "type {kv_dtype}: the original");
            assert!(bits(&fork) == expected(&second), "type {kv_dtype}: the fork");

            // Each changes what both have, and goes on.
            for (of, to) in [(0, 100), (130, 140)] {
                s.kv_evict_range(of, to).unwrap();
            }
            fork.truncate(200).unwrap();
            assert_eq!(
                (s.info().kv_shared_bytes > 0, fork.info().kv_shared_bytes > 0),
                (false, false)
            );
            eval(&mut fork, &first);
            // Of codes of less than 8 bits, those before the 200th are read rounded from now on.
            let mut rolled_back = session(model, params);
            eval(&mut rolled_back, &prefix);
            eval(&mut rolled_back, &second);
            rolled_back.truncate(200).unwrap();
            eval(&mut rolled_back, &first);
            assert!(
                bits(&fork) == bits(&rolled_back),
                "type {kv_dtype}: the fork, after both have changed"
            );
            let is_packed = kv_dtype > 2;
            let anew = answer(model, params, &[&prefix[..200], &first]);
            assert!(
                is_packed || bits(&fork) == anew,
                "type {kv_dtype}: the fork, against a new one"
            );
            let mut alone = session(model, params);
            eval(&mut alone, &prefix);
            eval(&mut alone, &first);
            for (of, to) in [(0, 100), (130, 140)] {
                alone.kv_evict_range(of, to).unwrap();
            }
            for s in [&mut s, &mut alone] {
                eval(s, &second);
            }
            assert!(bits(&s) == bits(&alone), "type {kv_dtype}: the original, after eviction");
        }
    }
}

#[test]
fn a_fork_outlives_what_it_was_made_from() {
    let model = model();
    let (prefix, own) = (text(1, 300), text(2, 40));
    let mut s = session(&model, params());
    eval(&mut s, &prefix);
    let child = s.fork().unwrap();
    drop(s);
    assert_eq!(child.info().kv_shared_bytes, 0, "nobody else is left");
    let mut grandchild = child.fork().unwrap();
    drop(child);
    eval(&mut grandchild, &own);
    assert!(bits(&grandchild) == answer(&model, params(), &[&prefix, &own]));
}

#[test]
fn four_forks_of_a_prefix_take_its_memory_once() {
    let model = model();
    let prefix = text(1, 512);
    let mut s = session(&model, params());
    eval(&mut s, &prefix);
    let before = s.info();
    let mut forks: Vec<Session> = (0..4).map(|_| s.fork().unwrap()).collect();
    let shared = s.info().kv_shared_bytes;
    assert!(shared > before.kv_bytes / 2, "{shared} of {} bytes", before.kv_bytes);
    let mut all = shared;
    for (i, fork) in forks.iter_mut().enumerate() {
        eval(fork, &text(i as u64, 80));
        let info = fork.info();
        assert_eq!(info.kv_shared_bytes, shared);
        all += info.kv_bytes - info.kv_shared_bytes;
    }
    // The prefix, and what four sessions for the other 88 tokens take.
    let own = session(&model, SessionParams { n_ctx: 88, ..params() }).info().kv_bytes;
    let bookkeeping = 600 * 16 * 8; // of slots and positions
    assert!(all <= shared + 4 * (own + bookkeeping), "{all} bytes, {shared} shared, {own} own");
}

#[test]
fn with_a_budget_only_what_is_pinned_is_shared() {
    let model = model();
    let (prefix, more) = (text(1, 300), text(2, 250));
    for policy in [KvPolicy::Streaming, KvPolicy::Hybrid] {
        let params = SessionParams { kv_policy: Some(policy), kv_budget: 400, ..params() };
        let mut s = session(&model, params);
        eval(&mut s, &prefix);
        assert_eq!(s.fork().unwrap().info().kv_shared_bytes, 0, "all would soon leave");
        let system = KvSegment { name: "system", to: 200, pinned: true, ..KvSegment::default() };
        s.kv_set_segment(&system).unwrap();
        let mut fork = s.fork().unwrap();
        let shared = fork.info().kv_shared_bytes;
        assert!((0.9..=1.0).contains(&n_shared(&fork, 0)), "{policy:?}: {}", n_shared(&fork, 0));
        let mut alone = session(&model, params);
        eval(&mut alone, &prefix);
        alone.kv_set_segment(&system).unwrap();
        for s in [&mut s, &mut fork, &mut alone] {
            more.chunks(50).for_each(|part| eval(s, part));
            assert!(s.info().n_evictions > 0);
        }
        assert!(bits(&fork) == bits(&alone) && bits(&s) == bits(&alone), "{policy:?}");
        assert_eq!(fork.info().kv_shared_bytes, shared, "{policy:?}: pinned tokens do not move");
    }
}

#[test]
fn sessions_take_the_tokens_that_another_has_evaluated() {
    for model in &models() {
        let (prefix, own) = (text(1, 300), text(2, 40));
        let both = [&prefix[..], &own].concat();
        for kv_dtype in [0, 2, 5] {
            let params = SessionParams { kv_dtype, ..sharing() };
            let mut first = session(model, params);
            eval(&mut first, &prefix);
            assert_eq!((n_evaluated(&first), first.info().kv_shared_bytes), (300, 0));

            let mut second = session(model, params);
            eval(&mut second, &both);
            assert!(bits(&second) == answer(model, params, &[&both]), "type {kv_dtype}");
            assert_eq!((second.info().pos, n_evaluated(&second)), (340, 340 - 2 * TILE as u64));
            assert!((1.8..=2.2).contains(&n_shared(&second, kv_dtype)), "type {kv_dtype}");
            assert_eq!(first.info().kv_shared_bytes, second.info().kv_shared_bytes);

            // It goes as far as the tokens are the same.
            let mut third = session(model, params);
            let other = [&prefix[..200], &own].concat();
            eval(&mut third, &other);
            assert!(bits(&third) == answer(model, params, &[&other]), "type {kv_dtype}");
            assert_eq!(n_evaluated(&third), 240 - TILE as u64);

            // What a session has taken, others take from it; and all go on by themselves.
            drop(first);
            let mut fourth = session(model, params);
            eval(&mut fourth, &both[..2 * TILE + 1]);
            assert_eq!(n_evaluated(&fourth), 1);
            eval(&mut second, &[7]);
            assert!(bits(&second) == answer(model, params, &[&both, &[7]]), "type {kv_dtype}");
            eval(&mut fourth, &own);
            let expected = answer(model, params, &[&both[..2 * TILE + 1], &own]);
            assert!(bits(&fourth) == expected, "type {kv_dtype}");
        }
    }
}

#[test]
fn only_the_same_kind_of_cache_is_taken_and_only_a_whole_one() {
    for model in &models() {
        let prefix = text(1, 300);
        let mut first = session(model, sharing());
        eval(&mut first, &prefix);
        let takes = |params: SessionParams| {
            let mut s = session(model, params);
            eval(&mut s, &prefix);
            assert!(bits(&s) == answer(model, params, &[&prefix]), "{params:?}");
            n_evaluated(&s) < 300
        };
        assert!(takes(sharing()));
        assert!(!takes(params()), "who has not asked for it");
        assert!(!takes(SessionParams { kv_dtype: 2, ..sharing() }), "other types");
        let counting = SessionParams { kv_policy: Some(KvPolicy::Hybrid), ..sharing() };
        assert!(!takes(counting), "a policy that has to see every token");
        assert!(takes(SessionParams { kv_policy: Some(KvPolicy::Streaming), ..sharing() }));

        // A cache that has lost a token is not that of a prompt, whatever it computed since.
        first.kv_evict_range(5, 6).unwrap();
        eval(&mut first, &text(2, 200));
        assert!(!takes(sharing()), "an evicted prefix");
        first.truncate(0).unwrap();
        eval(&mut first, &prefix);
        assert!(takes(sharing()), "whole again");
        first.truncate(200).unwrap();
        let mut s = session(model, sharing());
        eval(&mut s, &prefix);
        assert_eq!(n_evaluated(&s), 300 - TILE as u64, "as far as it is there");
        // In the middle of a sequence nothing is taken.
        let mut s = session(model, sharing());
        eval(&mut s, &[1]);
        eval(&mut s, &prefix);
        assert_eq!(n_evaluated(&s), 301);
        // Nor where every token is to have logits.
        let mut s = session(model, SessionParams { n_logits: 300, ..sharing() });
        s.eval(&prefix, Logits::All, &Control::default()).unwrap();
        assert_eq!((s.n_logits(), n_evaluated(&s)), (300, 300));
    }
}

#[test]
fn an_eval_that_fails_gives_back_what_it_took() {
    for model in &models() {
        let (prefix, other) = (text(1, 300), text(2, 300));
        let mut first = session(model, sharing());
        eval(&mut first, &prefix);
        let mut s = session(model, sharing());
        let abort = AtomicBool::new(true);
        let control = Control { abort: Some(&abort), ..Control::default() };
        let error = s.eval(&prefix, Logits::Last, &control).unwrap_err();
        assert!(matches!(error, Error::Aborted(_)), "{error}");
        assert_eq!((s.info().pos, s.info().n_kv, s.info().kv_shared_bytes), (0, 0, 0));
        eval(&mut s, &other);
        assert!(bits(&s) == answer(model, sharing(), &[&other]));
        eval(&mut first, &[7]);
        assert!(bits(&first) == answer(model, sharing(), &[&prefix, &[7]]), "nobody wrote to it");
    }
}

#[test]
fn without_memory_to_copy_it_a_session_stays_as_it_was() {
    for model in &models() {
        let (prefix, own) = (text(1, 300), text(2, 40));
        let expected = answer(model, params(), &[&prefix, &own]);
        let mut s = session(model, sharing());
        eval(&mut s, &prefix);
        type Change = fn(&mut Session) -> Result<u32, Error>;
        let changes: [(&str, Change); 3] = [
            ("truncated", |s| s.truncate(100).map(|()| 0)),
            ("a range evicted", |s| s.kv_evict_range(10, 20)),
            ("cut down", |s| s.kv_evict(0, 50)),
        ];
        for (what, change) in changes {
            let mut n_failed = 0;
            loop {
                let mut fork = s.fork().unwrap();
                match with_allocations(n_failed, || change(&mut fork)) {
                    Ok(_) => break,
                    Err(error) => {
                        assert!(matches!(error, Error::OutOfMemory(_)), "{what}: {error}");
                        assert_eq!((fork.info().n_kv, fork.info().pos), (300, 300), "{what}");
                        eval(&mut fork, &own);
                        assert!(bits(&fork) == expected, "{what}");
                        n_failed += 1;
                    }
                }
            }
            assert!(n_failed > 1, "{what}: tiles are copied");
        }
        eval(&mut s, &own);
        assert!(bits(&s) == expected);
    }
}

#[test]
fn taking_without_memory_is_an_error_and_changes_nothing() {
    for model in &models() {
        let prefix = text(1, 300);
        let mut first = session(model, sharing());
        eval(&mut first, &prefix);
        let expected = bits(&first);
        let mut n_failed = 0;
        loop {
            let mut s = session(model, sharing());
            let done =
                with_allocations(n_failed, || s.eval(&prefix, Logits::Last, &Control::default()));
            if done.is_ok() {
                assert!(bits(&s) == expected);
                break;
            }
            assert_eq!((s.info().pos, s.info().kv_shared_bytes), (0, 0));
            eval(&mut s, &prefix);
            assert!(bits(&s) == expected && n_evaluated(&s) < 300);
            n_failed += 1;
        }
        assert!(n_failed > 1);
    }
}

#[test]
fn sessions_share_on_all_threads_at_once() {
    for model in &models() {
        let prefixes = [text(1, 300), text(2, 300)];
        let expected = prefixes.each_ref().map(|prefix| answer(model, sharing(), &[prefix]));
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let (model, prefixes, expected) = (model, &prefixes, &expected);
                scope.spawn(move || {
                    for i in 0..12 {
                        let which = (thread + i) % 2;
                        let mut s = session(model, sharing());
                        eval(&mut s, &prefixes[which]);
                        assert!(bits(&s) == expected[which]);
                        let mut fork = s.fork().unwrap();
                        fork.kv_evict_range(3, 150).unwrap();
                        s.truncate(60).unwrap();
                        eval(&mut s, &prefixes[which][60..]);
                        assert!(bits(&s) == expected[which]);
                    }
                });
            }
        });
    }
}

/// What happens to a session that shares, and to one that does not, whose windows are in one piece. Logits
/// may be as far apart as `most` where sums go another way.
fn happens(random: &mut Random, kind: u32, [shares, alone]: [&mut Session; 2], most: f32) {
    let next = shares.info().pos;
    let mut below = |n: u32| random.next() % n.max(1);
    match kind {
        0 => {
            let (from, to) = (below(next), below(next));
            let range = (from.min(to), from.max(to));
            let n = shares.kv_evict_range(range.0, range.1).unwrap();
            assert_eq!(n, alone.kv_evict_range(range.0, range.1).unwrap());
        }
        1 => {
            let kept = 20 + below(100);
            assert_eq!(shares.kv_evict(4, kept).unwrap(), alone.kv_evict(4, kept).unwrap());
        }
        2 => {
            let pos = if shares.kv_can(KvOp::Truncate).is_ok() { below(next) } else { next };
            [&mut *shares, alone].into_iter().for_each(|s| s.truncate(pos).unwrap());
        }
        3 => [shares, alone].into_iter().for_each(|s| *s = s.fork().unwrap()),
        4 => {
            // What one has saved the other goes on with.
            let saved = [&*shares, alone].map(|s| {
                let mut bytes = vec![0; s.saved_len(None).unwrap() as usize];
                s.write(None, &mut bytes).unwrap();
                bytes
            });
            shares.read(None, &saved[1]).unwrap();
            alone.read(None, &saved[0]).unwrap();
        }
        _ => {
            let tokens = text(u64::from(random.next()), 1 + random.next() as usize % 90);
            if shares.info().n_kv as usize + tokens.len() > 600 {
                return happens(random, 1, [shares, alone], most);
            }
            eval(shares, &tokens);
            eval(alone, &tokens);
            // When old tokens leave windows in one piece, others take their places: sums go another way,
            // and codes of weights are rounded otherwise.
            let most = if next as usize + tokens.len() > 600 { most } else { 0.0 };
            let found = shares.logits().unwrap().iter().zip(alone.logits().unwrap());
            let apart = found.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(apart <= most, "{} tokens at {next}: {apart}", tokens.len());
        }
    }
}

#[test]
fn whatever_happens_to_windows_that_share_is_as_if_they_did_not() {
    let prefix = text(1, 300);
    for (window, kv_dtype, most) in [(150, 0, 1e-3), (480, 0, 1e-3), (150, 5, f32::INFINITY)] {
        let model = &sliding(window);
        let of = |params| SessionParams { kv_dtype, ..params };
        let mut first = session(model, of(sharing()));
        eval(&mut first, &prefix);
        let expected = bits(&first);
        for seed in 0..4 {
            let mut random = Random(seed);
            let mut shares = session(model, of(sharing()));
            eval(&mut shares, &prefix);
            assert!(n_evaluated(&shares) < 300 && bits(&shares) == expected);
            let mut alone = session(model, of(params()));
            eval(&mut alone, &prefix);
            for i in 0..60 {
                // First tokens come where tiles still are another's.
                let kind = if i < 14 { 5 } else { random.next() % 12 };
                println!(
                    "window {window}, type {kv_dtype}, seed {seed}: {kind} comes as number {i}"
                );
                happens(&mut random, kind, [&mut shares, &mut alone], most);
            }
            assert!(shares.info().pos > 600, "tokens came where others were");
        }
        let mut again = session(model, of(sharing()));
        eval(&mut again, &prefix);
        assert!(n_evaluated(&again) < 300 && bits(&again) == expected, "nobody wrote to it");
    }
}
