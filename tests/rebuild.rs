//! A session's tokens read again: what comes is a new session that evaluated them, bit for bit; and
//! what a session says that it can do is what it does.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod support;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use support::sessions::{bits, eval, load, state};
use support::tiny::{N_VOCAB, Random, Tiny};
use tern::base::clock;
use tern::engine::{
    Control, Error, KvOp, KvPolicy, KvSegment, Logits, Model, Sampler, SamplerParams, Session,
    SessionParams,
};

fn models() -> [Arc<Model>; 2] {
    let full = Tiny { n_ctx_train: 200, n_embd: 128, n_ff: 128, ..Tiny::new("llama") };
    let sliding = Tiny { window: 20, n_layer: 6, n_embd: 64, n_ff: 64, ..Tiny::new("gemma3") };
    [load(&full, None), load(&Tiny { n_ctx_train: 200, head_dim: 40, ..sliding }, None)]
}

fn params() -> SessionParams {
    let sizes = SessionParams { n_ctx: 200, n_batch: 32, ..SessionParams::default() };
    SessionParams { n_threads: 1, n_logits: 4, ..sizes }
}

fn session(model: &Arc<Model>, params: &SessionParams) -> Session {
    Session::new(Arc::clone(model), params).expect("a session")
}

fn text(n: usize) -> Vec<i32> {
    let mut random = Random(5);
    (0..n).map(|_| (random.next() % N_VOCAB as u32) as i32).collect()
}

#[test]
fn a_rebuilt_session_is_a_new_one() {
    let fact = KvSegment { name: "fact", from: 30, to: 40, pinned: true, ..KvSegment::default() };
    for model in models() {
        for (policy, budget) in [
            (None, 0),
            (Some(KvPolicy::Hybrid), 50),
            (Some(KvPolicy::H2o), 50),
            (Some(KvPolicy::KeyDiff), 50),
            (Some(KvPolicy::Random), 50),
        ] {
            let params = SessionParams { kv_policy: policy, kv_budget: budget, ..params() };
            let tokens = text(150);
            let mut s = session(&model, &params);
            eval(&mut s, &tokens[..100]);
            s.kv_set_segment(&fact).unwrap();
            tokens[100..].iter().for_each(|&token| eval(&mut s, &[token]));
            s.kv_evict_range(3, 9).unwrap();
            s.kv_rebuild(0, &Control::default()).unwrap();

            let mut new = session(&model, &params);
            new.kv_set_segment(&fact).unwrap();
            eval(&mut new, &tokens);
            assert!(bits(&s) == bits(&new), "{policy:?}");
            assert_eq!((s.info().n_kv, s.info().pos), (new.info().n_kv, 150));
            assert!(state(&s) == state(&new), "{policy:?}");
            for &token in &tokens[..40] {
                eval(&mut s, &[token]);
                eval(&mut new, &[token]);
                assert!(bits(&s) == bits(&new), "{policy:?}");
            }
            assert!(state(&s) == state(&new), "{policy:?}");
        }
    }
}

#[test]
fn to_another_budget_it_is_as_if_that_had_been_the_first() {
    for model in models() {
        let made = SessionParams { kv_policy: Some(KvPolicy::Attn), kv_budget: 100, ..params() };
        let mut s = session(&model, &made);
        eval(&mut s, &text(180));
        for budget in [40, 90, 20] {
            s.kv_rebuild(budget, &Control::default()).unwrap();
            let mut new = session(&model, &SessionParams { kv_budget: budget, ..made });
            eval(&mut new, &text(180));
            assert!(state(&s) == state(&new), "{budget}");
            assert_eq!(s.info().n_kv, budget);
        }
        // What does not fit at once comes in parts.
        text(180).iter().for_each(|&token| eval(&mut s, &[token]));
        assert_eq!(s.info().pos, 360);
        s.kv_rebuild(0, &Control::default()).unwrap();
        let mut new = session(&model, &SessionParams { kv_budget: 20, ..made });
        [text(180), text(180)].concat().chunks(32).for_each(|span| eval(&mut new, span));
        assert!(state(&s) == state(&new) && bits(&s) == bits(&new));
    }
}

#[test]
fn a_rebuild_that_is_stopped_can_be_repeated() {
    for model in models() {
        let params = SessionParams { kv_policy: Some(KvPolicy::Hybrid), kv_budget: 50, ..params() };
        let mut new = session(&model, &params);
        let segment = KvSegment { name: "a", from: 60, to: 70, ..KvSegment::default() };
        let tokens = text(250);
        let mut s = session(&model, &params);
        s.kv_set_segment(&segment).unwrap();
        new.kv_set_segment(&segment).unwrap();
        tokens.iter().for_each(|&token| eval(&mut s, &[token]));
        tokens.chunks(32).for_each(|span| eval(&mut new, span));

        let abort = AtomicBool::new(true);
        let control = Control { abort: Some(&abort), ..Control::default() };
        assert!(matches!(s.kv_rebuild(0, &control), Err(Error::Aborted(_))));
        assert_eq!((s.info().n_kv, s.info().pos), (0, 0));
        assert!(matches!(s.logits(), Err(Error::NotReady(_))));
        assert_eq!(s.kv_can(KvOp::Rebuild), Ok(()));
        // Later and later.
        let (mut n_stopped, mut patience) = (0, 1000);
        loop {
            let control = Control { deadline_ns: clock::now_ns() + patience, ..Control::default() };
            match s.kv_rebuild(0, &control) {
                Ok(()) => break,
                Err(Error::Deadline(_)) => n_stopped += 1,
                Err(other) => panic!("{other}"),
            }
            assert_eq!((s.info().n_kv, s.info().pos), (0, 0));
            assert_eq!(s.kv_segments().count(), 1);
            patience += patience / 2;
        }
        assert!(n_stopped > 3, "{n_stopped}");
        assert!(state(&s) == state(&new) && bits(&s) == bits(&new));

        // Other tokens are another text.
        abort.store(true, std::sync::atomic::Ordering::Relaxed);
        assert!(s.kv_rebuild(0, &control).is_err());
        eval(&mut s, &tokens[..7]);
        s.kv_rebuild(0, &Control::default()).unwrap();
        assert_eq!(s.info().pos, 7);
        // And forgotten is forgotten.
        s.truncate(0).unwrap();
        let error = s.kv_rebuild(0, &Control::default()).unwrap_err();
        assert!(matches!(error, Error::NotReady(_)), "{error}");
    }
}

/// What `generate` has chosen and not evaluated is for the position after the tokens, which stays.
#[test]
fn a_choice_outlives_a_rebuild() {
    for model in models() {
        let sampler = || {
            // Of few tokens, so that drafts are made and refused.
            let logit_bias = (0..4).map(|token| (token, 1000.0)).collect();
            let params = SamplerParams { temperature: 50.0, seed: 3, ..Default::default() };
            let params = SamplerParams { logit_bias, ..params };
            Sampler::new(&params).unwrap()
        };
        let run = |rebuild: bool| {
            let (mut s, mut sampler) = (session(&model, &params()), sampler());
            eval(&mut s, &[text(20), text(20), text(9)].concat());
            let (mut found, mut room) = (Vec::<i32>::new(), [0; 4]);
            while s.info().pos < 190 {
                let control = Control::default();
                let n = s.generate(&mut sampler, 3, &control, &mut room).unwrap();
                found.extend(&room[..n]);
                if rebuild && found.len() % 5 == 0 {
                    s.kv_rebuild(0, &control).unwrap();
                }
            }
            assert!(s.info().n_drafted > s.info().n_accepted, "a draft is refused");
            found
        };
        let (with, without) = (run(true), run(false));
        let n = with.len().min(without.len());
        assert_eq!(with[..n], without[..n]);
    }
}

#[test]
fn what_cannot_be_rebuilt_is_refused_and_stays() {
    let [model, _] = models();
    let by_itself = SessionParams { auto_evict: true, ..params() };
    let mut s = session(&model, &by_itself);
    assert!(matches!(s.kv_can(KvOp::Rebuild), Err(Error::NotReady(_))));
    // Twice as many as there are positions are known, and then not the first any more.
    let tokens = text(600);
    tokens.chunks(50).for_each(|span| eval(&mut s, span));
    let (before, logits) = (state(&s), bits(&s));
    let error = s.kv_rebuild(0, &Control::default()).unwrap_err();
    assert!(matches!(error, Error::Unsupported(_)), "{error}");
    assert!(error.message().contains("tokens before position 200 are not known"), "{error}");
    assert_eq!(s.kv_can(KvOp::Rebuild), Err(error));
    assert!(state(&s) == before && bits(&s) == logits);

    let mut s =
        session(&model, &SessionParams { kv_policy: Some(KvPolicy::Streaming), ..params() });
    eval(&mut s, &tokens[..200]);
    s.kv_evict(0, 100).unwrap();
    eval(&mut s, &tokens[200..210]);
    let before = state(&s);
    let error = s.kv_rebuild(0, &Control::default()).unwrap_err();
    assert!(matches!(error, Error::KvFull(_)), "{error}");
    assert!(error.message().contains("210 tokens do not fit in 200 slots"), "{error}");
    assert!(state(&s) == before);
    // But to a budget; and where too much is pinned, the tokens are still known.
    let all = KvSegment { name: "all", to: 210, pinned: true, ..KvSegment::default() };
    s.kv_set_segment(&all).unwrap();
    let error = s.kv_rebuild(100, &Control::default()).unwrap_err();
    assert!(matches!(error, Error::KvFull(_)), "{error}");
    assert_eq!((s.info().n_kv, s.kv_can(KvOp::Rebuild)), (0, Ok(())));
    s.kv_remove_segment("all").unwrap();
    s.kv_rebuild(0, &Control::default()).unwrap();
    assert_eq!((s.info().pos, s.info().kv_budget), (210, 100));
    assert!(s.info().n_kv <= 100 + 72, "{:?}", s.info());
}

/// Each answer is that of the deed.
#[test]
fn a_session_knows_what_it_can_do() {
    for model in models() {
        let mut s = session(&model, &params());
        let (tokens, control) = (text(200), Control::default());
        assert!(matches!(s.kv_can(KvOp::Evict), Err(Error::KvFull(_))), "nothing to evict");
        assert_eq!(s.kv_can(KvOp::Truncate), Ok(()));
        assert!(matches!(s.kv_can(KvOp::Grow), Err(Error::KvFull(_))));
        eval(&mut s, &tokens[..150]);
        for op in [KvOp::Evict, KvOp::Truncate, KvOp::Fork, KvOp::Save, KvOp::Rebuild] {
            assert_eq!(s.kv_can(op), Ok(()), "{op:?}");
        }
        s.truncate(100).unwrap();
        eval(&mut s, &tokens[100..120]);
        let mut new = session(&model, &params());
        eval(&mut new, &tokens[..120]);
        assert!(bits(&s) == bits(&new) && state(&s) == state(&new));

        let all = KvSegment { name: "all", to: 200, pinned: true, ..KvSegment::default() };
        s.kv_set_segment(&all).unwrap();
        assert!(matches!(s.kv_can(KvOp::Evict), Err(Error::KvFull(_))));
        assert!(matches!(s.kv_evict(0, 50), Err(Error::KvFull(_))));
        s.kv_remove_segment("all").unwrap();
        s.kv_evict_range(50, 60).unwrap();
        let error = s.kv_can(KvOp::Truncate).unwrap_err();
        assert!(error.message().contains("the first 50 of 120 tokens"), "{error}");

        eval(&mut s, &tokens[..80]);
        let full = s.eval(&tokens[..20], Logits::Last, &control);
        assert!(matches!(full, Err(Error::KvFull(_))));
        s.set_kv_budget(64);
        assert_eq!(s.kv_can(KvOp::Grow), Ok(()));
        eval(&mut s, &tokens[..20]);

        let none = SessionParams { kv_policy: Some(KvPolicy::None), kv_budget: 50, ..params() };
        let mut s = session(&model, &none);
        for op in [KvOp::Evict, KvOp::Grow] {
            let error = s.kv_can(op).unwrap_err();
            assert!(error.message().contains("policy none"), "{error}");
        }
        let auto = SessionParams { auto_evict: true, ..params() };
        s = session(&model, &auto);
        assert_eq!(s.kv_can(KvOp::Grow), Ok(()));
        // Keys are turned back, and so going back is not what it was.
        tokens.iter().chain(&tokens).for_each(|&token| eval(&mut s, &[token]));
        assert!(matches!(s.kv_can(KvOp::Truncate), Err(Error::Unsupported(_))));
    }
}
