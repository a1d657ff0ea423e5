//! KVzip: what a session holds, read again to find out what of it stays. What stays is what a naive
//! pass says, and nothing else of the session changes, whatever comes of it.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

#[path = "support/rungs.rs"]
mod rungs;
mod support;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use support::naive::Oracle;
use support::sessions::{bits, eval, load, session, state};
use support::tiny::{N_VOCAB, Random, Tiny};
use tern::base::clock;
use tern::engine::{Control, Error, KvParams, KvPolicy, KvSegment, Logits, Session, SessionParams};
use tern::kv::policy::{Head, Policy, Work, keep, score};

/// Tokens of the texts.
const N: usize = 40;
/// Of a span the first are the last of the one before it.
const LEAD: usize = 8;

fn text(n: usize) -> Vec<i32> {
    let mut random = Random(17);
    (0..n).map(|_| (random.next() % N_VOCAB as u32) as i32).collect()
}

/// Models whose heads are unlike: grouped queries, norms of heads, caps, windows.
fn models() -> Vec<Tiny> {
    let mut all = ["llama", "qwen3", "gemma2", "gemma3"].map(Tiny::new).to_vec();
    all[2].window = 9;
    (all[3].window, all[3].n_layer) = (9, 6);
    all.iter_mut().for_each(|tiny| (tiny.n_embd, tiny.n_ff) = (64, 64));
    all
}

fn params(n_ctx: u32) -> SessionParams {
    SessionParams { n_ctx, n_batch: 24, n_threads: 2, kv_dtype: 1, ..SessionParams::default() }
}

fn zip(s: &mut Session, n_keep: u32) -> Result<u32, Error> {
    s.kv_evict_by(Some(KvPolicy::KvZip), 0, n_keep, &Control::default())
}

/// Positions that each head of each layer without a window holds.
fn held(s: &Session, tiny: &Tiny) -> Vec<Vec<u32>> {
    let heads = (0..tiny.n_layer).flat_map(|layer| (0..tiny.n_head_kv).map(move |h| (layer, h)));
    heads.filter_map(|(layer, h)| Some(s.kv_slots(layer, h)?.pos.to_vec())).collect()
}

/// What each head keeps, when the text comes again in spans of at most `room` tokens: by the largest
/// probability that a pass in f64 over text and span finds.
fn expected(tiny: &Tiny, tokens: &[i32], room: usize, n_keep: usize) -> Vec<Vec<u32>> {
    let (n, n_group) = (tokens.len(), tiny.n_head / tiny.n_head_kv);
    let lead = LEAD.min(room / 2);
    let mut zip = vec![vec![0.0f32; n]; tiny.n_layer * tiny.n_head_kv];
    let mut full = vec![false; tiny.n_layer];
    for first in (0..n).step_by(room - lead) {
        let span = &tokens[first.saturating_sub(lead)..n.min(first + room - lead)];
        let attention = Oracle::new(tiny).forward(&[tokens, span].concat()).1;
        for (layer, seen) in attention.iter().enumerate() {
            full[layer] = seen.window == usize::MAX;
            for h in (0..tiny.n_head).filter(|_| full[layer]) {
                for pos in n..n + span.len() {
                    let visible: Vec<usize> = (0..=pos).collect();
                    let p = seen.probabilities(tiny, pos, h, &visible);
                    let p: Vec<f32> = p[..n].iter().map(|&p| p as f32).collect();
                    score::raise(&mut zip[layer * tiny.n_head_kv + h / n_group], &p);
                }
            }
        }
    }
    let pos: Vec<u32> = (0..n as u32).collect();
    let params = KvParams::new(Policy::KvZip, tiny.window > 0);
    let heads = zip.iter().enumerate().filter(|(i, _)| full[i / tiny.n_head_kv]);
    let kept = heads.map(|(_, zip)| {
        let (mut work, mut kept) = (Work::new(n).unwrap(), Vec::with_capacity(n));
        let head = Head { n_past: n as u32, pos: &pos, zip, ..Head::default() };
        keep(Policy::KvZip, &params, &head, n_keep, &mut work, &mut kept).unwrap();
        kept
    });
    kept.collect()
}

#[test]
fn what_stays_is_what_a_naive_pass_over_the_text_and_the_text_again_says() {
    let tokens = text(N);
    for tiny in models() {
        for room in [N, 24, 3] {
            // With hardly any room many spans: fewer will do.
            let tokens = &tokens[..if room == 3 { 24 } else { N }];
            let expected = expected(&tiny, tokens, room, 20);
            for &isa in rungs::rungs() {
                let mut s = session(&load(&tiny, Some(isa)), params((tokens.len() + room) as u32));
                eval(&mut s, tokens);
                assert_eq!(zip(&mut s, 20).unwrap() as usize, tokens.len() - 20);
                let found = held(&s, &tiny);
                assert_eq!(found, expected, "{} {isa}, room for {room}", tiny.arch);
                // Heads choose for themselves, and not what is newest.
                let newest = [0, 1, 2, 3].into_iter().chain(tokens.len() as u32 - 16..);
                let newest: Vec<u32> = newest.take(20).collect();
                assert!(found.iter().any(|pos| *pos != newest), "{found:?}");
            }
        }
    }
}

#[test]
fn it_stays_the_same_for_any_threads_and_batches() {
    let tokens = text(150);
    for tiny in models() {
        let model = load(&tiny, None);
        let mut first = None;
        for (n_threads, n_batch) in [(1, 32), (2, 32), (4, 32), (2, 5), (3, 200), (1, 1)] {
            let params = SessionParams { n_threads, n_batch, kv_dtype: 0, ..params(260) };
            let mut s = session(&model, params);
            eval(&mut s, &tokens);
            zip(&mut s, 50).unwrap();
            let kept = held(&s, &tiny);
            eval(&mut s, &tokens[..10]);
            let found = (kept, bits(&s));
            assert_eq!(*first.get_or_insert(found.clone()), found, "{n_threads}, {n_batch}");
        }
    }
}

#[test]
fn a_plan_reads_all_of_it_again_and_changes_nothing() {
    let tokens = text(150);
    let pinned = KvSegment { name: "fact", from: 20, to: 30, pinned: true, ..KvSegment::default() };
    for tiny in models() {
        let model = load(&tiny, None);
        for (policy, kv_dtype) in
            [(None, 0), (None, 6), (Some(KvPolicy::Hybrid), 1), (Some(KvPolicy::KeyDiff), 2)]
        {
            let what = format!("{} {policy:?} {kv_dtype}", tiny.arch);
            let params = SessionParams { kv_policy: policy, kv_dtype, n_logits: 4, ..params(220) };
            let mut s = session(&model, params);
            s.kv_set_segment(&pinned).unwrap();
            eval(&mut s, &tokens[..140]);
            eval(&mut s, &tokens[140..143]);
            let (before, logits, info) = (state(&s), bits(&s), s.info());
            let plan = |s: &mut Session| {
                s.kv_evict_plan(Some(KvPolicy::KvZip), 0, 50, &Control::default()).unwrap().0
            };
            let planned = plan(&mut s);
            assert!(planned.n_slots > 0, "{what}");
            assert!(state(&s) == before && bits(&s) == logits, "{what}");
            assert_eq!(s.info().n_prefill, info.n_prefill, "{what}");

            // An eviction that has nothing to evict changes nothing, either.
            assert_eq!(zip(&mut s, 143).unwrap(), 0);
            assert!(state(&s) == before, "{what}");

            let mut twin = s.fork().unwrap();
            let n_freed = zip(&mut s, 50).unwrap();
            assert_eq!(u64::from(n_freed), 143 - 50, "{what}");
            let kept = held(&s, &tiny);
            assert_eq!(planned.n_slots, 93 * kept.len() as u64, "{what}");
            for pos in &kept {
                assert!((20..30).chain(0..4).all(|pinned| pos.contains(&pinned)), "{what}");
                assert!(planned.positions.iter().all(|gone| !pos.contains(gone)), "{what}");
            }
            assert_eq!((s.info().pos, bits(&s)), (143, logits), "{what}");
            assert_eq!(s.kv_segments().count(), 1);
            // The fork held the same, and goes on from it as if nothing had been read again.
            let mut plain = session(&model, params);
            plain.kv_set_segment(&pinned).unwrap();
            eval(&mut plain, &tokens[..140]);
            eval(&mut plain, &tokens[140..143]);
            for s in [&mut twin, &mut plain] {
                eval(s, &tokens[143..]);
            }
            assert_eq!(bits(&twin), bits(&plain), "{what}");
            assert!(state(&twin) == state(&plain), "{what}");
        }
    }
}

#[test]
fn what_is_stopped_leaves_the_session_as_it_was() {
    let tokens = text(150);
    for tiny in models() {
        let model = load(&tiny, None);
        for kv_dtype in [0, 6] {
            let mut s = session(&model, SessionParams { kv_dtype, ..params(200) });
            eval(&mut s, &tokens);
            let (before, logits) = (state(&s), bits(&s));
            let abort = AtomicBool::new(true);
            let aborted = Control { abort: Some(&abort), ..Control::default() };
            let late = Control { deadline_ns: clock::now_ns() + 400_000, ..Control::default() };
            for (control, is_aborted) in [(aborted, true), (late, false)] {
                let zipped = s.kv_evict_by(Some(KvPolicy::KvZip), 0, 50, &control);
                match zipped {
                    Err(Error::Aborted(_)) => assert!(is_aborted),
                    Err(Error::Deadline(_)) => assert!(!is_aborted),
                    other => panic!("{other:?}"),
                }
                assert!(state(&s) == before, "{}", tiny.arch);
                assert_eq!((s.info().n_kv, bits(&s)), (150, logits.clone()));
            }
            // It can be done yet, and then it is done as by a session that nobody stopped.
            let mut twin = session(&model, SessionParams { kv_dtype, ..params(200) });
            eval(&mut twin, &tokens);
            for s in [&mut s, &mut twin] {
                zip(s, 50).unwrap();
            }
            assert!(state(&s) == state(&twin), "{}", tiny.arch);
        }
    }
}

#[test]
fn a_prepared_session_is_forked_and_restored_for_each_user() {
    let (tokens, rest) = (text(300), text(40));
    for tiny in models() {
        let model = load(&tiny, None);
        let mut s = session(&model, SessionParams { kv_dtype: 0, ..params(600) });
        eval(&mut s, &tokens);
        zip(&mut s, 140).unwrap();
        let mut fork = s.fork().unwrap();
        assert!(s.info().kv_shared_bytes > 0, "140 slots fill a tile");
        let mut saved = vec![0; s.saved_len(None).unwrap() as usize];
        s.write(None, &mut saved).unwrap();
        let mut restored = session(&model, SessionParams { kv_dtype: 0, ..params(600) });
        restored.read(None, &saved).unwrap();
        eval(&mut s, &rest);
        for other in [&mut fork, &mut restored] {
            eval(other, &rest);
            assert_eq!((held(other, &tiny), bits(other)), (held(&s, &tiny), bits(&s)));
            // What is prepared can be prepared again, by what each head still has.
            zip(other, 100).unwrap();
        }
        assert_eq!(held(&fork, &tiny), held(&restored, &tiny));
        assert!(held(&fork, &tiny).iter().all(|pos| pos.len() == 100));
    }
}

#[test]
fn without_room_or_as_a_sessions_policy_it_is_refused() {
    let tokens = text(150);
    for tiny in models() {
        let model = load(&tiny, None);
        let mut s = session(&model, params(150));
        eval(&mut s, &tokens);
        let before = state(&s);
        let Err(Error::KvFull(sentence)) = zip(&mut s, 50) else { panic!("zipped") };
        assert_eq!(
            sentence.as_str(),
            "KV policy kvzip: 0 slots and positions are free beside the 150 held, expected at least 1 \
             to read these again; evict some by another policy, or make a larger session"
        );
        assert!(state(&s) == before);

        for kv_budget in [0, 40] {
            let kv_policy = Some(KvPolicy::KvZip);
            let params = SessionParams { kv_policy, kv_budget, ..params(150) };
            let refused = Session::new(Arc::clone(&model), &params).err();
            let Some(Error::Unsupported(sentence)) = refused else { panic!("{refused:?}") };
            assert!(sentence.as_str().contains("an eviction by kvzip on request"), "{sentence:?}");
        }
        // No positions are left, either, where keys would have to be turned back.
        let mut s = session(&model, params(512));
        s.eval(&text(512), Logits::None, &Control::default()).unwrap();
        s.kv_evict_range(10, 60).unwrap();
        assert!(matches!(zip(&mut s, 50), Err(Error::KvFull(_))));
    }
}
