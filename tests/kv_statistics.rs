//! What sessions count for their policies, against a naive pass in f64: the attention that each slot
//! draws, and how much its key and value differ from all others.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

#[path = "support/rungs.rs"]
mod rungs;
mod support;

use std::sync::Arc;

use support::naive::{Attention, Oracle};
use support::tiny::{N_VOCAB, Random, Tiny};
use tern::engine::{
    Control, Input, Isa, KvParams, KvPolicy, Logits, Model, ModelParams, Session, SessionParams,
};

/// Largest difference, as a share of the largest number of a head; keys and values are F32.
const BOUND: f64 = 2e-5;
/// The same for leverage, which solves with a matrix whose eigenvalues lie far apart.
const LEVERAGE_BOUND: f64 = 2e-3;

/// Tokens that can have logits, and so can be drafts: as many are counted each for itself.
const APART: usize = 4;

/// Numbers of the slots of a head, by position.
#[derive(Clone, Default)]
struct Counted {
    pos: Vec<usize>,
    mass: Vec<f64>,
    squares: Vec<f64>,
    recent: Vec<f64>,
}

impl Counted {
    /// Takes in tokens that were evaluated together. `n_recent`: queries that count as the last.
    /// `apart`: every fourth counts for four, by its position; every one if only the last does.
    fn add(
        &mut self,
        (tiny, seen, head): (&Tiny, &Attention, usize),
        tokens: std::ops::Range<usize>,
        (n_recent, apart): (usize, bool),
    ) {
        let fade = 0.5f64.powf(1.0 / 128.0);
        let n_group = tiny.n_head / tiny.n_head_kv;
        let n = tokens.len();
        if !apart {
            let faded = 1.0 - n.min(n_recent) as f64 / n_recent as f64;
            self.recent.iter_mut().for_each(|x| *x *= faded);
        }
        let every = if apart { n_recent.min(4) } else { 1 };
        for (i, pos) in tokens.enumerate() {
            self.pos.push(pos);
            for x in [&mut self.mass, &mut self.squares, &mut self.recent] {
                x.push(0.0);
            }
            if (pos + 1) % every != 0 {
                continue;
            }
            let weight = every as f64;
            self.squares.iter_mut().for_each(|x| *x *= fade.powf(weight));
            if apart {
                self.recent.iter_mut().for_each(|x| *x *= 1.0 - weight / n_recent as f64);
            }
            let mut mean = vec![0.0; self.pos.len()];
            for h in head * n_group..(head + 1) * n_group {
                let p = seen.probabilities(tiny, pos, h, &self.pos);
                mean.iter_mut().zip(p).for_each(|(mean, p)| *mean += p / n_group as f64);
            }
            for (slot, p) in mean.into_iter().enumerate() {
                self.mass[slot] += weight * p;
                self.squares[slot] += weight * p * p;
                let is_last = apart || i + n_recent >= n;
                self.recent[slot] += if is_last { weight * p / n_recent as f64 } else { 0.0 };
            }
        }
    }

    /// Keeps the slots of some positions.
    fn keep(&mut self, pos: &[u32]) {
        let stays: Vec<bool> = self.pos.iter().map(|p| pos.contains(&(*p as u32))).collect();
        for x in [&mut self.mass, &mut self.squares, &mut self.recent] {
            let mut stays = stays.iter();
            x.retain(|_| *stays.next().unwrap());
        }
        self.pos.retain(|p| pos.contains(&(*p as u32)));
    }
}

/// Leverage of some vectors among all that were seen, by a dense solve.
fn leverage(all: &[&[f64]], eps: f64) -> Vec<f64> {
    let d = all[0].len();
    let mean: Vec<f64> =
        (0..d).map(|i| all.iter().map(|x| x[i]).sum::<f64>() / all.len() as f64).collect();
    let centred: Vec<Vec<f64>> =
        all.iter().map(|x| x.iter().zip(&mean).map(|(x, m)| x - m).collect()).collect();
    let mut c = vec![vec![0.0; d]; d];
    for x in &centred {
        for (row, a) in c.iter_mut().zip(x) {
            row.iter_mut().zip(x).for_each(|(c, b)| *c += a * b);
        }
    }
    let ridge = eps * (0..d).map(|i| c[i][i]).sum::<f64>() / d as f64;
    (0..d).for_each(|i| c[i][i] += ridge);
    centred
        .iter()
        .map(|x| solve(c.clone(), x.clone()).iter().zip(x).map(|(y, x)| y * x).sum())
        .collect()
}

/// Gauss's elimination; the matrix is positive definite, so that no pivot is zero.
fn solve(mut a: Vec<Vec<f64>>, mut b: Vec<f64>) -> Vec<f64> {
    let n = b.len();
    for i in 0..n {
        let (pivot, value) = (a[i].clone(), b[i]);
        for j in i + 1..n {
            let by = a[j][i] / pivot[i];
            a[j].iter_mut().zip(&pivot).skip(i).for_each(|(x, p)| *x -= by * p);
            b[j] -= by * value;
        }
    }
    for i in (0..n).rev() {
        let rest: f64 = (i + 1..n).map(|j| a[i][j] * b[j]).sum();
        b[i] = (b[i] - rest) / a[i][i];
    }
    b
}

fn check(what: &str, found: &[f32], expected: &[f64], bound: f64) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let largest = expected.iter().fold(0.0f64, |m, x| m.max(x.abs()));
    assert!(largest > 1e-4, "{what}: nothing to compare, {largest}");
    for (slot, (&a, b)) in found.iter().zip(expected).enumerate() {
        let off = (f64::from(a) - b).abs() / largest;
        assert!(off <= bound, "{what}, slot {slot}: {a}, expected {b}: off by {off:.1e}");
    }
}

fn text(n: usize) -> Vec<i32> {
    let mut random = Random(11);
    (0..n).map(|_| (random.next() % N_VOCAB as u32) as i32).collect()
}

fn session(tiny: &Tiny, isa: Isa, policy: KvPolicy, n_batch: u32) -> Session {
    let load = ModelParams { isa: Some(isa), ..ModelParams::default() };
    let file = tiny.gguf();
    let model = Model::load(Input::Memory(&file), &load, &mut |_, _| true).unwrap();
    let params = SessionParams {
        n_ctx: 160,
        n_batch,
        kv_dtype: 1,
        n_threads: 2,
        n_logits: APART as u32,
        kv_policy: Some(policy),
        // Those of models without windows for all, so that all keep all statistics.
        kv_params: Some(KvParams::new(policy, false)),
        ..SessionParams::default()
    };
    Session::new(Arc::new(model), &params).unwrap()
}

fn eval(session: &mut Session, tokens: &[i32]) {
    session.eval(tokens, Logits::Last, &Control::default()).unwrap();
}

/// Layers whose heads hold slots of their own.
fn full_layers<'a>(
    tiny: &Tiny,
    attention: &'a [Attention],
) -> impl Iterator<Item = (usize, &'a Attention)> {
    let n_layer = tiny.n_layer;
    attention.iter().enumerate().take(n_layer).filter(|(_, seen)| seen.window == usize::MAX)
}

/// Models whose heads are unlike: grouped queries, norms of heads, caps, windows, odd lengths.
fn models() -> Vec<Tiny> {
    let mut all = ["llama", "qwen3", "gemma2", "gemma3", "phi3"].map(Tiny::new).to_vec();
    all[2].window = 9;
    (all[3].window, all[3].n_layer) = (9, 6);
    let mut long = Tiny::new("llama");
    (long.head_dim, long.n_head_kv) = (80, 1);
    all.push(long);
    all
}

#[test]
fn slots_draw_the_attention_that_a_naive_pass_gives_them() {
    let tokens = text(130);
    // A prompt, whose tokens count together; single ones and short drafts, each for itself, one of them
    // in two tiles.
    let spans = [0..110, 110..111, 111..112, 112..115, 115..116, 116..126, 126..130];
    for tiny in models() {
        let attention = Oracle::new(&tiny).forward(&tokens).1;
        for &isa in rungs::rungs() {
            let policies = [
                (KvPolicy::Attn, 32, 24),
                (KvPolicy::H2o, 32, 24),
                (KvPolicy::Tova, 1, 24),
                (KvPolicy::Attn, 32, 1), // shorter than a draft
            ];
            let some = if tiny.arch == "llama" { policies.len() } else { 3 };
            for &(policy, n_recent, n_batch) in &policies[..some] {
                let mut session = session(&tiny, isa, policy, n_batch);
                let mut heads = vec![Counted::default(); tiny.n_layer * tiny.n_head_kv];
                for span in spans.clone() {
                    eval(&mut session, &tokens[span.clone()]);
                    for (layer, seen) in full_layers(&tiny, &attention) {
                        for head in 0..tiny.n_head_kv {
                            let counted = &mut heads[layer * tiny.n_head_kv + head];
                            let how = (n_recent, span.len() <= APART);
                            counted.add((&tiny, seen, head), span.clone(), how);
                            let what = format!(
                                "{} {isa} {} by {n_batch} layer {layer} head {head} after {}",
                                tiny.arch,
                                policy.name(),
                                span.end
                            );
                            let found = session.kv_slots(layer, head).unwrap();
                            assert!(
                                found.pos.iter().map(|&p| p as usize).eq(0..span.end),
                                "{what}"
                            );
                            match policy {
                                KvPolicy::Attn => {
                                    check(&what, found.squares, &counted.squares, BOUND)
                                }
                                _ => check(&what, found.mass, &counted.mass, BOUND),
                            }
                            check(&what, found.recent, &counted.recent, BOUND);
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn leverage_is_that_of_a_dense_solve_over_everything_seen() {
    let tokens = text(120);
    let eps = f64::from(KvParams::new(KvPolicy::Hybrid, false).eps);
    for tiny in models() {
        let attention = Oracle::new(&tiny).forward(&tokens).1;
        for &isa in rungs::rungs() {
            let mut session = session(&tiny, isa, KvPolicy::Hybrid, 24);
            for part in tokens.chunks(60) {
                eval(&mut session, part);
                session.kv_evict_plan(None, 0, 8, &Control::default()).unwrap(); // nothing leaves
            }
            for (layer, seen) in full_layers(&tiny, &attention) {
                for head in 0..tiny.n_head_kv {
                    let expected = both(&tiny, seen, head, tokens.len(), eps);
                    let what = format!("{} {isa} layer {layer} head {head}", tiny.arch);
                    let found = session.kv_slots(layer, head).unwrap();
                    check(&what, found.leverage, &expected, LEVERAGE_BOUND);
                }
            }
        }
    }
}

/// Leverage of keys before rotation and of values, added up.
fn both(tiny: &Tiny, seen: &Attention, head: usize, n: usize, eps: f64) -> Vec<f64> {
    let of = |rows: &[Vec<f64>]| {
        let d = tiny.head_dim;
        let vectors: Vec<&[f64]> = rows[..n].iter().map(|x| &x[head * d..(head + 1) * d]).collect();
        leverage(&vectors, eps)
    };
    of(&seen.raw).into_iter().zip(of(&seen.vs)).map(|(k, v)| k + v).collect()
}

#[test]
fn what_is_known_stays_with_the_slots_that_stay() {
    let tokens = text(140);
    for tiny in models().into_iter().filter(|tiny| tiny.window == 0) {
        // What the first layer attends with does not depend on what has left.
        let seen = &Oracle::new(&tiny).forward(&tokens).1[0];
        let eps = f64::from(KvParams::new(KvPolicy::Hybrid, false).eps);
        for &isa in rungs::rungs() {
            let mut session = session(&tiny, isa, KvPolicy::Hybrid, 32);
            let mut heads = vec![Counted::default(); tiny.n_head_kv];
            for (span, n_keep) in [(0..80, 40), (80..81, 36), (81..120, 60), (120..140, 50)] {
                eval(&mut session, &tokens[span.clone()]);
                for (head, counted) in heads.iter_mut().enumerate() {
                    counted.add((&tiny, seen, head), span.clone(), (32, span.len() <= APART));
                }
                session.kv_evict(0, n_keep).unwrap();
                for (head, counted) in heads.iter_mut().enumerate() {
                    let found = session.kv_slots(0, head).unwrap();
                    let what = format!("{} {isa} head {head} after {}", tiny.arch, span.end);
                    assert_eq!(found.pos.len(), n_keep as usize, "{what}");
                    counted.keep(found.pos);
                    check(&what, found.squares, &counted.squares, BOUND);
                    check(&what, found.recent, &counted.recent, BOUND);
                    let all = both(&tiny, seen, head, span.end, eps);
                    let kept: Vec<f64> = found.pos.iter().map(|&p| all[p as usize]).collect();
                    check(&what, found.leverage, &kept, LEVERAGE_BOUND);
                }
            }
        }
    }
}
