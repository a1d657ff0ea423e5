//! Types of the KV cache: keys and values in halves, floats and codes of 3 to 8 bits, in every combination. The
//! same bits however the work is cut, all operations of the cache, and what codes cost in accuracy.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod support;

use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::Arc;

use support::sessions::{bits, eval, session};
use support::tiny::{N_VOCAB, Random, Tiny};
use tern::engine::{
    Control, Error, Input, Isa, KvPolicy, Logits, Model, ModelParams, Session, SessionParams,
};

const F16: u32 = 0;
const F32: u32 = 1;
const Q8_0: u32 = 2;
const Q5_0: u32 = 3;
const Q4_0: u32 = 4;
const Q4_H: u32 = 5;
const Q3_H: u32 = 6;
const Q5_H: u32 = 7;
/// All, and the bits of their codes; 0 = floats.
const ALL: [(u32, u64); 8] =
    [(F16, 0), (F32, 0), (Q8_0, 8), (Q5_0, 5), (Q4_0, 4), (Q4_H, 4), (Q3_H, 3), (Q5_H, 5)];

/// Types of keys and values with codes among them: each type of codes for keys and for values, with
/// floats, with others and with itself.
const MIXED: [(u32, u32); 14] = [
    (Q8_0, Q8_0),
    (Q8_0, F16),
    (F16, Q8_0),
    (Q8_0, F32),
    (F32, Q8_0),
    (Q8_0, Q4_H),
    (Q4_H, Q4_H),
    (Q5_H, Q4_0),
    (Q3_H, Q5_0),
    (Q5_0, Q3_H),
    (Q4_0, Q5_H),
    (F16, Q3_H),
    (Q5_0, F32),
    (F32, Q4_0),
];

/// Parameters for these types, by `kv_dtype` alone where that will do.
fn of(k: u32, v: u32, params: SessionParams) -> SessionParams {
    match (k, v) {
        _ if k == v => SessionParams { kv_dtype: k, ..params },
        (_, F16) => SessionParams { k_dtype: k, ..params },
        (F16, _) => SessionParams { v_dtype: v, ..params },
        _ => SessionParams { kv_dtype: k, v_dtype: v, ..params },
    }
}

fn model_of(tiny: &Tiny, isa: Option<Isa>) -> Arc<Model> {
    let params = ModelParams { isa, ..ModelParams::default() };
    let file = tiny.gguf();
    Arc::new(Model::load(Input::Memory(&file), &params, &mut |_, _| true).expect("loads"))
}

fn text(n: usize) -> Vec<i32> {
    let mut random = Random(11);
    (0..n).map(|_| (random.next() % N_VOCAB as u32) as i32).collect()
}

/// The largest difference of logits, as a share of the largest logit.
fn difference(a: &[f32], b: &[f32]) -> f64 {
    let largest = b.iter().fold(0f32, |m, x| m.max(x.abs()));
    let worst = a.iter().zip(b).fold(0f32, |m, (a, b)| m.max((a - b).abs()));
    f64::from(worst) / f64::from(largest)
}

#[test]
fn neither_threads_nor_splits_change_a_bit() {
    for &isa in Isa::available() {
        for (i, (n_head_kv, head_dim)) in [(1, 16), (2, 20), (1, 40), (2, 80)].iter().enumerate() {
            if isa == Isa::Scalar && i != 1 {
                continue; // the slowest by far
            }
            let mut tiny = Tiny::new("gemma3");
            (tiny.window, tiny.n_layer, tiny.head_dim) = (150, 6, *head_dim);
            (tiny.n_head, tiny.n_head_kv) = (4, *n_head_kv);
            let model = model_of(&tiny, Some(isa));
            let tokens = text(260);
            for (k, v) in [MIXED[i], MIXED[5 + i], MIXED[9 + i]] {
                let mut expected = None;
                for (n_threads, n_batch, call) in [(1, 512, 420), (2, 64, 131), (3, 5, 420)] {
                    let params =
                        SessionParams { n_ctx: 270, n_batch, n_threads, ..Default::default() };
                    let mut s = session(&model, of(k, v, params));
                    tokens.chunks(call).for_each(|part| eval(&mut s, part));
                    eval(&mut s, &[3]);
                    let found = bits(&s);
                    let expected = expected.get_or_insert_with(|| found.clone());
                    let what = format!("{} threads {n_threads}, batch {n_batch}", isa.name());
                    assert!(found == *expected, "{what}: types {k} {v}, heads of {head_dim}");
                }
            }
        }
    }
}

/// Each KV head keeps tokens of its own choice, by what slots draw and by how far keys and values are
/// from others: both are computed from what is stored.
#[test]
fn what_a_budget_keeps_does_not_depend_on_threads() {
    let mut tiny = Tiny::new("llama");
    (tiny.n_layer, tiny.n_head, tiny.n_head_kv, tiny.head_dim) = (2, 4, 2, 48);
    let model = model_of(&tiny, None);
    let tokens = text(300);
    for (k, v) in MIXED {
        let mut expected = None;
        for (n_threads, n_batch) in [(1, 64), (4, 64), (3, 17)] {
            let params = SessionParams {
                n_ctx: 200,
                n_batch,
                n_threads,
                kv_policy: Some(KvPolicy::Hybrid),
                kv_budget: 100,
                ..Default::default()
            };
            let mut s = session(&model, of(k, v, params));
            tokens.chunks(30).for_each(|part| eval(&mut s, part));
            let mut fork = s.fork().unwrap();
            for next in [&tokens[..5], &[7]] {
                eval(&mut s, next);
                eval(&mut fork, next);
            }
            let found = bits(&s);
            assert!(found == bits(&fork), "types {k} {v}: a fork");
            assert!(s.info().n_kv <= 172, "types {k} {v}: {} tokens are kept", s.info().n_kv);
            let expected = expected.get_or_insert_with(|| found.clone());
            assert!(found == *expected, "types {k} {v}, threads {n_threads}, batch {n_batch}");
        }
    }
}

/// The cell that a token happens to stand in does not matter, nor do runs of cells that begin
/// anywhere in a quad.
#[test]
fn cells_in_any_order_give_the_same_bits() {
    for head_dim in [16, 40] {
        // One layer, so that keys and values do not depend on what is evicted when.
        let mut tiny = Tiny::new("llama");
        (tiny.n_layer, tiny.head_dim) = (1, head_dim);
        let model = model_of(&tiny, None);
        for (k, v) in MIXED {
            let params =
                SessionParams { n_ctx: 601, n_batch: 64, n_threads: 2, ..Default::default() };
            let params = of(k, v, params);
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
            let mut of_late = late.fork().unwrap();
            for next in [&tokens[..40], &[7]] {
                let all = [&mut early, &mut late, &mut fork, &mut of_late];
                let found = all.map(|s| {
                    eval(s, next);
                    bits(s)
                });
                let same = found.iter().all(|bits| *bits == found[0]);
                assert!(same, "types {k} {v}, heads of {head_dim}, {} tokens", next.len());
            }
        }
    }
}

#[test]
fn forked_truncated_and_evaluated_again_is_the_same() {
    let model = model_of(&Tiny::new("gemma3"), None);
    let tokens = text(40);
    for (k, v) in MIXED {
        let params = SessionParams { n_ctx: 64, n_batch: 16, n_threads: 2, ..Default::default() };
        let params = of(k, v, params);
        let mut whole = session(&model, params);
        eval(&mut whole, &tokens);
        let mut s = session(&model, params);
        eval(&mut s, &tokens[..30]);
        let mut fork = s.fork().expect("a fork");
        eval(&mut s, &[1, 2, 3]); // the original goes elsewhere
        eval(&mut fork, &tokens[30..]);
        assert!(bits(&fork) == bits(&whole), "types {k} {v}: a fork");
        // A short span can be taken back whatever the types; all the rest where none is below 8 bits,
        // with which the newest tokens are read otherwise than those before them.
        let is_packed = [k, v].iter().any(|kv_type| (1..8).contains(&ALL[*kv_type as usize].1));
        for to in if is_packed { vec![30] } else { vec![30, 12] } {
            s.truncate(to).expect("truncates");
            eval(&mut s, &tokens[to as usize..]);
            assert!(bits(&s) == bits(&whole), "types {k} {v}: truncated to {to}");
        }
    }
}

#[test]
fn heads_of_any_length_are_close_to_those_in_floats() {
    for &isa in Isa::available() {
        let lengths = [10, 40, 80, 256, 16, 64, 96, 128];
        let some = if isa == Isa::Scalar { 3 } else { lengths.len() }; // the slowest by far
        for &head_dim in &lengths[..some] {
            let mut tiny = Tiny::new("llama");
            (tiny.n_layer, tiny.head_dim) = (2, head_dim);
            let model = model_of(&tiny, Some(isa));
            let tokens = text(140);
            let logits = |k, v| {
                let params = SessionParams { n_ctx: 256, n_threads: 2, ..Default::default() };
                let mut s = session(&model, of(k, v, params));
                eval(&mut s, &tokens);
                s.logits().unwrap().to_vec()
            };
            let exact = logits(F32, F32);
            for (k, v) in MIXED {
                let found = difference(&logits(k, v), &exact);
                let what = format!("{}: heads of {head_dim}, types {k} {v}", isa.name());
                println!("{what}: {found:.1e}");
                let bits = [k, v].map(|t| ALL[t as usize].1).into_iter().filter(|bits| *bits > 0);
                // Steps are twice as large for each bit less.
                let bound = 0.001 * 2f64.powi(8 - bits.min().unwrap_or(8) as i32);
                assert!(found <= bound, "{what}: {found:.1e}");
                assert!(found >= 1e-6, "{what}: {found:.1e}, as if it were in floats");
            }
        }
    }
}

#[test]
fn the_plan_knows_every_byte() {
    for (head_dim, n_ctx) in [(64, 256), (80, 256), (40, 100)] {
        let mut tiny = Tiny::new("llama");
        (tiny.head_dim, tiny.n_layer, tiny.n_head_kv) = (head_dim, 3, 2);
        let file = tiny.gguf();
        let model = model_of(&tiny, None);
        let bytes = |k, v| {
            let params = SessionParams { n_ctx, n_threads: 1, ..Default::default() };
            let params = of(k, v, params);
            let plan = Model::plan(Input::Memory(&file), &ModelParams::default(), &params).unwrap();
            let info = session(&model, params).info();
            assert_eq!(plan.kv_bytes, info.kv_bytes, "types {k} {v}");
            assert!(plan.scratch_bytes >= info.scratch_bytes, "types {k} {v}");
            plan.kv_bytes
        };
        // Slots in whole tiles of 128, elements in whole groups of 16 (values) or 4 (keys).
        let (cells, dim) = (u64::from(n_ctx).next_multiple_of(128), head_dim as u64);
        let (wide, narrow) = (dim.next_multiple_of(16), dim.next_multiple_of(4));
        let heads = 3 * 2;
        let scales = 2 * dim.div_ceil(32);
        let sinks = 4 * 4; // the cells of the first 4 positions
        let recent = (32 + 16) * 2; // the newest tokens, in half precision
        // Of 8 bits, too, beside fewer.
        let with = |other| if (1..8).contains(&ALL[other as usize].1) { recent } else { 0 };
        let keys = |kv_type, v| match ALL[kv_type as usize].1 {
            0 => cells * dim * (2 + 2 * u64::from(kv_type == F32)),
            8 => cells * (dim + scales) + with(v) * dim,
            bits => {
                cells * narrow * bits / 8
                    + cells * scales
                    + (4 * dim + 12) * 2
                    + sinks
                    + recent * dim
            }
        };
        let values = |kv_type, k| match ALL[kv_type as usize].1 {
            0 => cells * wide * (2 + 2 * u64::from(kv_type == F32)),
            8 => cells * wide + cells * scales + with(k) * wide,
            bits => cells * wide * bits / 8 + cells * scales + 4 * wide * 2 + sinks + recent * wide,
        };
        let beside = bytes(F16, F16) - heads * (keys(F16, F16) + values(F16, F16));
        for (k, _) in ALL {
            for (v, _) in ALL {
                let expected = heads * (keys(k, v) + values(v, k)) + beside;
                // Each of up to six buffers of a layer's tile is whole cache lines.
                let lines = 3 * 6 * 64 * (cells / 128);
                let found = bytes(k, v);
                assert!(found.abs_diff(expected) <= lines, "{k} {v}: {found}, not {expected}");
            }
        }
    }
}

/// A key that is turned back is decoded, turned and encoded again: each time it moves by up to half
/// a step more. Here every key is turned 17 times before it goes.
#[test]
fn keys_turned_back_many_times_stay_close() {
    let mut tiny = Tiny::new("llama");
    (tiny.n_layer, tiny.n_ctx_train) = (1, 40);
    let model = model_of(&tiny, None);
    let tokens = text(240);
    let run = |kv_dtype| {
        let params =
            SessionParams { n_ctx: 40, n_batch: 16, n_threads: 1, kv_dtype, ..Default::default() };
        let mut s = session(&model, params);
        eval(&mut s, &tokens[..40]);
        let mut worst = Vec::new();
        for (next, oldest) in tokens[40..].chunks(2).zip((4..).step_by(2)) {
            // All 40 positions that keys can be turned by are taken.
            assert_eq!(s.kv_evict_range(oldest, oldest + 2).unwrap(), 2);
            eval(&mut s, next);
            worst.push(s.logits().unwrap().to_vec());
        }
        worst
    };
    let exact = run(F32);
    let error = |kv_dtype| {
        let found = run(kv_dtype);
        found.iter().zip(&exact).fold(0.0, |m: f64, (a, b)| m.max(difference(a, b)))
    };
    for (kv_type, bits) in ALL {
        let found = error(kv_type);
        println!("type {kv_type}: turned back 17 times: {found:.1e}");
        let bound = 0.001 * 2f64.powi(8 - if bits == 0 { 8 } else { bits as i32 });
        assert!(found <= bound, "type {kv_type}: {found:.1e}");
    }
}

#[test]
fn bad_types_are_named() {
    let model = model_of(&Tiny::new("llama"), None);
    let small = SessionParams { n_ctx: 64, ..Default::default() };
    let cases = [
        (SessionParams { kv_dtype: 8, ..small }, "kv_dtype: found 8"),
        (SessionParams { kv_dtype: 63, k_dtype: 1, v_dtype: 1, ..small }, "kv_dtype: found 63"),
        (SessionParams { k_dtype: 8, ..small }, "k_dtype: found 8"),
        (SessionParams { k_dtype: 64, ..small }, "k_dtype: found 64"),
        (SessionParams { v_dtype: u32::MAX, ..small }, "v_dtype: found 4294967295"),
    ];
    for (params, name) in cases {
        let error = Session::new(Arc::clone(&model), &params).err().expect("refused");
        assert!(matches!(error, Error::InvalidArgument(_)), "{error}");
        assert!(error.message().contains(name), "{error}");
    }
}

#[test]
fn small_is_refused_for_a_model_that_normalises_its_keys() {
    let model = model_of(&Tiny::new("gemma3"), None);
    assert!(model.info().has_qk_norm);
    let params = |kv_dtype, k_dtype| SessionParams {
        n_ctx: 64,
        kv_dtype,
        k_dtype,
        ..SessionParams::default()
    };
    let error = Session::new(Arc::clone(&model), &params(65, 0)).err().expect("refused");
    assert!(matches!(error, Error::Unsupported(_)), "{error}");
    assert!(error.message().contains("QK-norm") && error.message().contains("k_dtype"), "{error}");
    for (kv_dtype, k_dtype) in [(65, Q8_0), (64, 0), (66, 0), (Q4_H, 0)] {
        let mut s = session(&model, params(kv_dtype, k_dtype));
        eval(&mut s, &text(9));
    }
    let llama = model_of(&Tiny::new("llama"), None);
    eval(&mut session(&llama, params(65, 0)), &text(9));
}

/// How far the distribution of some logits is from that of others, in nats.
fn divergence(a: &[f32], b: &[f32]) -> f64 {
    let log_sum = |x: &[f32]| {
        let max = x.iter().fold(f32::MIN, |m, &x| m.max(x));
        f64::from(max) + x.iter().map(|&x| f64::from(x - max).exp()).sum::<f64>().ln()
    };
    let (of_a, of_b) = (log_sum(a), log_sum(b));
    let logs = a.iter().zip(b).map(|(a, b)| (f64::from(*a) - of_a, f64::from(*b) - of_b));
    logs.map(|(a, b)| b.exp() * (b - a)).sum()
}

/// What a session reads, window by window: the sum of negative log-likelihoods, and some logits.
fn read(model: &Arc<Model>, types: (u32, u32), tokens: &[i32], n_ctx: usize) -> (f64, Vec<f32>) {
    let params =
        SessionParams { n_ctx: n_ctx as u32, n_batch: 128, n_logits: 128, ..Default::default() };
    let mut session = session(model, of(types.0, types.1, params));
    let (mut nll, mut kept) = (0.0, Vec::new());
    for window in tokens.chunks_exact(n_ctx) {
        session.truncate(0).unwrap();
        for (i, part) in window.chunks(128).enumerate() {
            let first = i * 128;
            let logits = if first < n_ctx / 2 { Logits::None } else { Logits::All };
            session.eval(part, logits, &Control::default()).unwrap();
            for row in 0..session.n_logits() {
                let Some(&next) = window.get(first + row + 1) else { continue };
                let logits = session.logits_row(row).unwrap();
                let max = logits.iter().fold(f32::MIN, |m, &x| m.max(x));
                let sum: f64 = logits.iter().map(|&x| f64::from(x - max).exp()).sum();
                nll += sum.ln() - f64::from(logits[next as usize] - max);
                if row % 4 == 0 {
                    kept.extend_from_slice(logits);
                }
            }
        }
    }
    (nll, kept)
}

/// Of types of keys and values: how much perplexity may change, and the divergence of distributions.
/// The presets come first.
const READ_AS_WELL: [((u32, u32), f64, f64); 8] = [
    ((F16, F16), 2e-4, 1e-5),
    ((Q8_0, Q8_0), 3e-3, 1e-3),
    ((Q8_0, Q4_H), 6e-3, 8e-4),
    ((Q8_0, Q3_H), 8e-3, 2.5e-3),
    ((Q5_H, Q4_H), 8e-3, 2.5e-3),
    ((Q5_0, Q5_0), 0.015, 8e-3),
    ((Q4_H, Q4_H), 0.01, 8e-3),
    ((Q4_0, Q4_0), 0.04, 0.03),
];

/// Prose with a cache in codes, against one in floats. All weights are decoded to floats: else
/// activations are rounded to 8 bits, and what the cache rounds drowns in that.
#[test]
fn smollm2_reads_as_well_in_codes() {
    reads_as_well("smollm2_reads_as_well_in_codes", 1, &READ_AS_WELL[..5]);
}

#[test]
#[ignore = "a minute of arithmetic, for more of the text and other types"]
fn smollm2_reads_as_well_in_codes_of_a_long_text() {
    reads_as_well("smollm2_reads_as_well_in_codes_of_a_long_text", 4, &READ_AS_WELL);
}

/// `bounds` as in [`READ_AS_WELL`].
fn reads_as_well(test: &str, windows: usize, bounds: &[((u32, u32), f64, f64)]) {
    if support::emulated() {
        return support::skipped(test, "hours of float arithmetic: not run under an emulator");
    }
    let smollm2 = "models/SmolLM2-135M-Instruct.Q4_1.gguf";
    let Some(path) = support::cached(test, smollm2) else { return };
    let Some(text) = support::cached(test, "texts/austen.txt") else { return };
    let text = std::fs::read(text).unwrap();
    let text = std::str::from_utf8(&text[..32 << 10]).expect("plain prose");
    let temporary = Path::new(env!("CARGO_TARGET_TMPDIR")).join(test);
    let file = support::decoded::decode_weights(&path, &temporary);
    let input = Input::Fd { fd: file.as_raw_fd(), offset: 0, len: u64::MAX };
    let model = Model::load(input, &ModelParams::default(), &mut |_, _| true).unwrap();
    let model = Arc::new(model);
    let mut tokens = Vec::new();
    model.tokenizer().tokenize(text, true, false, &mut tokens).unwrap();
    let n_ctx = 512;
    tokens.truncate(n_ctx * windows);
    let n = (n_ctx / 2 - 1) * windows;
    let n_vocab = model.info().n_vocab as usize;
    let (exact, logits) = read(&model, (F32, F32), &tokens, n_ctx);
    for &(types, ppl_bound, kld_bound) in bounds {
        let (nll, found) = read(&model, types, &tokens, n_ctx);
        let rows = found.chunks_exact(n_vocab).zip(logits.chunks_exact(n_vocab));
        let kld = rows.map(|(a, b)| divergence(a, b)).sum::<f64>() * n_vocab as f64;
        let kld = kld / found.len() as f64;
        let change = ((nll - exact) / n as f64).exp() - 1.0;
        println!(
            "{test}: keys and values of types {types:?}: perplexity {:.4}, {:+.4} % of that in \
             floats; divergence {kld:.6}",
            (nll / n as f64).exp(),
            change * 100.0
        );
        assert!(change.abs() <= ppl_bound, "{types:?}: perplexity {:+.4} %", change * 100.0);
        assert!(kld <= kld_bound, "{types:?}: a divergence of {kld:.6}");
    }
}
