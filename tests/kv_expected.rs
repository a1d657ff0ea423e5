//! Expected Attention in sessions: what stays is what the mean of all queries so far, from a naive pass
//! in f64, can be expected to attend to; for any threads, batches and drafts.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

#[path = "support/rungs.rs"]
mod rungs;
mod support;

use support::naive::{Attention, Oracle};
use support::sessions::{bits, eval, load, session};
use support::tiny::{N_VOCAB, Random, Tiny};
use tern::engine::{
    Control, Error, KvParams, KvPolicy, Sampler, SamplerParams, Session, SessionParams,
};
use tern::kv::policy::{Head, Policy, Work, keep};

const SINKS: usize = 4;

fn text(n: usize) -> Vec<i32> {
    let mut random = Random(23);
    (0..n).map(|_| (random.next() % N_VOCAB as u32) as i32).collect()
}

/// Models whose heads are unlike: pairs that are neighbours or lie apart, norms, caps, windows, layers
/// that do not turn.
fn models() -> Vec<Tiny> {
    let mut all = ["llama", "qwen3", "gemma2", "gemma3", "smollm3"].map(Tiny::new).to_vec();
    all[2].window = 9;
    (all[3].window, all[3].n_layer) = (9, 6);
    all[4].n_layer = 4;
    all.iter_mut().for_each(|tiny| (tiny.n_embd, tiny.n_ff) = (64, 64));
    all
}

fn params() -> SessionParams {
    let kv_policy = Some(KvPolicy::Expected);
    let sizes = SessionParams { n_ctx: 200, n_batch: 24, n_logits: 4, ..SessionParams::default() };
    SessionParams { kv_policy, kv_dtype: 1, n_threads: 2, ..sizes }
}

/// Positions that each head of each layer without a window holds.
fn held(s: &Session, tiny: &Tiny) -> Vec<Vec<u32>> {
    let heads = (0..tiny.n_layer).flat_map(|layer| (0..tiny.n_head_kv).map(move |h| (layer, h)));
    heads.filter_map(|(layer, h)| Some(s.kv_slots(layer, h)?.pos.to_vec())).collect()
}

/// What the tokens at `pos` can expect of a KV head's queries, when `n` have come.
fn expected(
    (tiny, oracle): (&Tiny, &Oracle<'_>),
    (layer, seen): (usize, &Attention),
    kv_head: usize,
    (n, pos): (usize, &[u32]),
) -> Vec<f32> {
    let (d, n_group) = (tiny.head_dim, tiny.n_head / tiny.n_head_kv);
    let is_still = tiny.arch == "smollm3" && layer % 4 == 3;
    let are_neighbours = matches!(tiny.arch, "llama" | "smollm3");
    let mut score = vec![0.0; pos.len()];
    for h in kv_head * n_group..(kv_head + 1) * n_group {
        let queries = &seen.raw_qs[SINKS..n];
        let mean =
            |i: usize| queries.iter().map(|q| q[h * d + i]).sum::<f64>() / queries.len() as f64;
        let mean: Vec<f64> = (0..d).map(mean).collect();
        // Turned by each of the positions ahead, one after the other.
        let mut ahead = if is_still { mean.clone() } else { vec![0.0; d] };
        for at in (n..n + 512).filter(|_| !is_still) {
            for (i, frequency) in oracle.ropes[0].0.iter().enumerate() {
                let (a, b) = if are_neighbours { (2 * i, 2 * i + 1) } else { (i, i + d / 2) };
                let (sin, cos) = (at as f64 * frequency).sin_cos();
                ahead[a] += (mean[a] * cos - mean[b] * sin) / 512.0;
                ahead[b] += (mean[a] * sin + mean[b] * cos) / 512.0;
            }
        }
        let of = |rows: &[Vec<f64>], at: u32| rows[at as usize][kv_head * d..][..d].to_vec();
        let logits: Vec<f64> = pos
            .iter()
            .map(|&at| of(&seen.ks, at).iter().zip(&ahead).map(|(k, q)| k * q).sum::<f64>())
            .map(|dot| dot / (d as f64).sqrt())
            .collect();
        let counted = || pos.iter().enumerate().filter(|(_, at)| **at >= SINKS as u32);
        let all: f64 = counted().map(|(i, _)| logits[i].exp()).sum();
        for (i, &at) in counted() {
            let norm = of(&seen.vs, at).iter().map(|x| x * x).sum::<f64>().sqrt();
            score[i] += (logits[i].exp() / all * norm / n_group as f64) as f32;
        }
    }
    score
}

#[test]
fn what_stays_is_what_the_mean_query_of_a_naive_pass_is_expected_to_attend_to() {
    let tokens = text(100);
    for tiny in models() {
        let oracle = Oracle::new(&tiny);
        let attention = oracle.forward(&tokens).1;
        let rule = KvParams::new(Policy::Expected, tiny.window > 0);
        for &isa in rungs::rungs() {
            let mut s = session(&load(&tiny, Some(isa)), params());
            // A prompt in batches, single tokens, tokens that come together as drafts do.
            for span in [0..50, 50..51, 51..52, 52..55, 55..100] {
                eval(&mut s, &tokens[span]);
            }
            let plan = s.kv_evict_plan(None, 0, 60, &Control::default()).unwrap().0;
            s.kv_evict(0, 60).unwrap();
            let full = attention.iter().enumerate().filter(|(_, seen)| seen.window == usize::MAX);
            let pos: Vec<u32> = (0..100).collect();
            let mut kept = Vec::new();
            for (layer, seen) in full {
                for head in 0..tiny.n_head_kv {
                    let score = expected((&tiny, &oracle), (layer, seen), head, (100, &pos));
                    let mut work = Work::new(100).unwrap();
                    let mut out = Vec::with_capacity(100);
                    let head = Head { n_past: 100, pos: &pos, expected: &score, ..Head::default() };
                    keep(Policy::Expected, &rule, &head, 60, &mut work, &mut out).unwrap();
                    kept.push(out);
                }
            }
            let found = held(&s, &tiny);
            assert_eq!(found, kept, "{} {isa}", tiny.arch);
            assert_eq!(plan.n_slots, 40 * found.len() as u64);
            assert!(found.iter().any(|pos| *pos != found[0]), "heads choose for themselves");
        }
    }
}

#[test]
fn it_stays_the_same_for_any_threads_and_batches_and_in_forks() {
    let (tokens, rest) = (text(150), text(90));
    for tiny in models() {
        let model = load(&tiny, None);
        let mut first = None;
        for (n_threads, n_batch) in [(1, 32), (2, 32), (4, 32), (2, 5), (3, 200), (1, 1)] {
            let params = SessionParams { n_threads, n_batch, kv_dtype: 0, ..params() };
            let mut s = session(&model, SessionParams { kv_budget: 60, ..params });
            eval(&mut s, &tokens);
            let mut fork = s.fork().unwrap();
            for s in [&mut s, &mut fork] {
                for &token in &rest {
                    eval(s, &[token]);
                }
                let found = (held(s, &tiny), bits(s));
                assert_eq!(*first.get_or_insert(found.clone()), found, "{n_threads}, {n_batch}");
                assert!(found.0.iter().all(|pos| pos.len() < 140), "nothing has left");
            }
        }
    }
}

#[test]
fn queries_of_drafts_that_are_refused_do_not_count() {
    let tokens = [text(60), text(60)].concat(); // so that there is something to draft
    let mut n_refused = 0;
    for tiny in models() {
        let model = load(&tiny, None);
        let written = [0, 3].map(|n_draft| {
            let mut s = session(&model, SessionParams { kv_budget: 70, ..params() });
            let drawing = SamplerParams { temperature: 2.0, top_k: 3, ..SamplerParams::default() };
            let mut sampler = Sampler::new(&drawing).unwrap();
            eval(&mut s, &tokens);
            let (mut written, mut step) = (Vec::<i32>::new(), [0; 4]);
            while written.len() < 120 {
                let n = s.generate(&mut sampler, n_draft, &Control::default(), &mut step).unwrap();
                written.extend(&step[..n]);
            }
            n_refused += s.info().n_drafted - s.info().n_accepted;
            written.truncate(120);
            written
        });
        assert_eq!(written[0], written[1], "{}", tiny.arch);
    }
    assert!(n_refused > 0, "no draft was refused");
}

#[test]
fn a_session_that_did_not_count_queries_cannot_evict_by_them() {
    let model = load(&Tiny::new("llama"), None);
    let mut s = session(&model, SessionParams { kv_policy: Some(KvPolicy::H2o), ..params() });
    eval(&mut s, &text(100));
    let by_expected = s.kv_evict_by(Some(KvPolicy::Expected), 0, 50, &Control::default());
    assert!(matches!(by_expected, Err(Error::Unsupported(_))), "{by_expected:?}");
    // What weighs keys by their norms alone needs nothing to be counted.
    let mut s = session(&model, params());
    eval(&mut s, &text(100));
    s.kv_evict_by(Some(KvPolicy::KNorm), 0, 50, &Control::default()).unwrap();
}
