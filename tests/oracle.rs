//! The whole forward pass against a naive one in f64, on tiny made models: every architecture,
//! every element type. The oracle is written from the papers, shares no code with the engine but
//! the exact decoding of weights (itself checked bit by bit in tests/quant.rs), and knows neither
//! caches nor batches.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

#[path = "support/rungs.rs"]
mod rungs;
mod support;

use std::collections::HashMap;
use std::sync::Arc;

use support::tiny::{N_VOCAB, Random, Tiny};
use tern::base::dtype::DType;
use tern::engine::{
    Control, Input, Isa, Logits, Model, ModelParams, Numerics, Session, SessionParams,
};
use tern::quant;

/// Largest difference of a logit, as a share of the largest logit, with float weights and F32 keys
/// and values: what f32 arithmetic costs.
const FLOAT_BOUND: f64 = 2e-5;
/// The same for quantised weights, whose kernels also round activations to 8 bits.
const QUANTISED_BOUND: f64 = 4e-2;
/// The same for panels, which round weights too, and with fewer scales.
const PANEL_BOUND: f64 = 8e-2;
/// The same for 16-bit keys and values.
const F16_KV_BOUND: f64 = 2e-3;

struct Oracle<'a> {
    tiny: &'a Tiny,
    tensors: HashMap<String, Vec<f64>>,
    /// Frequencies and factor on rotated vectors, global and windowed.
    ropes: [(Vec<f64>, f64); 2],
}

impl<'a> Oracle<'a> {
    fn new(tiny: &'a Tiny) -> Oracle<'a> {
        let tensors = tiny.tensors().into_iter().map(|(name, dtype, cols, rows, bytes)| {
            let mut out = vec![0f32; cols * rows];
            let row_bytes = dtype.row_bytes(cols).unwrap();
            for (row, out) in bytes.chunks_exact(row_bytes).zip(out.chunks_exact_mut(cols)) {
                quant::decode_row(dtype, row, out);
            }
            (name, out.into_iter().map(f64::from).collect())
        });
        let base = |base: f64| -> Vec<f64> {
            let d = tiny.head_dim as f64;
            (0..tiny.head_dim / 2).map(|i| base.powf(-2.0 * i as f64 / d)).collect()
        };
        let ropes = [(base(10_000.0), 1.0), (base(10_000.0), 1.0)];
        Oracle { tiny, tensors: tensors.collect(), ropes }
    }

    fn tensor(&self, name: &str) -> &[f64] {
        self.tensors.get(name).unwrap_or_else(|| panic!("the oracle wants {name}"))
    }

    /// `W x`, rows `first..first + n` of a matrix.
    fn rows(&self, name: &str, x: &[f64], first: usize, n: usize) -> Vec<f64> {
        let w = self.tensor(name);
        let dot = |row: &[f64]| row.iter().zip(x).map(|(w, x)| w * x).sum();
        let mut y: Vec<f64> = w.chunks_exact(x.len()).skip(first).take(n).map(dot).collect();
        if let Some(bias) = self.tensors.get(&name.replace(".weight", ".bias")) {
            y.iter_mut().zip(&bias[first..]).for_each(|(y, b)| *y += b);
        }
        y
    }

    fn norm(&self, name: &str, x: &[f64]) -> Vec<f64> {
        let mean = x.iter().map(|x| x * x).sum::<f64>() / x.len() as f64;
        let scale = 1.0 / (mean + 1e-5f32 as f64).sqrt();
        x.iter().zip(self.tensor(name)).map(|(x, w)| x * scale * w).collect()
    }

    fn rotate(&self, head: &mut [f64], pos: usize, rope: usize) {
        let interleaved = matches!(self.tiny.arch, "llama" | "smollm3");
        let (frequencies, scale) = &self.ropes[rope];
        for (i, frequency) in frequencies.iter().enumerate() {
            let half = frequencies.len();
            let (a, b) = if interleaved { (2 * i, 2 * i + 1) } else { (i, i + half) };
            let (sin, cos) = (pos as f64 * frequency).sin_cos();
            let (x, y) = (head[a], head[b]);
            head[a] = (x * cos - y * sin) * scale;
            head[b] = (x * sin + y * cos) * scale;
        }
    }

    /// Whether layer `i` has a window, and whether it rotates.
    fn layer(&self, i: usize) -> (bool, bool) {
        match self.tiny.arch {
            "gemma2" => (i.is_multiple_of(2), true),
            "gemma3" => (i % 6 != 5, true),
            "smollm3" => (false, i % 4 != 3),
            _ => (self.tiny.window > 0, true),
        }
    }

    /// Logits of every position of a text.
    fn logits(&self, tokens: &[i32]) -> Vec<Vec<f64>> {
        let t = self.tiny;
        let (d, q_rows, kv_rows) = (t.head_dim, t.n_head * t.head_dim, t.n_head_kv * t.head_dim);
        let embd = self.tensor("token_embd.weight");
        let gemma = t.arch.starts_with("gemma");
        let embd_scale = if gemma { (t.n_embd as f64).sqrt() } else { 1.0 };
        let mut xs: Vec<Vec<f64>> = tokens
            .iter()
            .map(|&id| &embd[id as usize * t.n_embd..][..t.n_embd])
            .map(|row| row.iter().map(|x| x * embd_scale).collect())
            .collect();
        for i in 0..t.n_layer {
            let b = |name: &str| format!("blk.{i}.{name}.weight");
            let (windowed, rotates) = self.layer(i);
            let rope = usize::from(t.arch == "gemma3" && windowed);
            let (mut qs, mut ks, mut vs) = (Vec::new(), Vec::new(), Vec::new());
            for (pos, x) in xs.iter().enumerate() {
                let x = self.norm(&b("attn_norm"), x);
                let [mut q, mut k, v] = if t.fused() {
                    let all = self.rows(&b("attn_qkv"), &x, 0, q_rows + 2 * kv_rows);
                    let (q, kv) = all.split_at(q_rows);
                    [q.to_vec(), kv[..kv_rows].to_vec(), kv[kv_rows..].to_vec()]
                } else {
                    [("attn_q", q_rows), ("attn_k", kv_rows), ("attn_v", kv_rows)]
                        .map(|(name, n)| self.rows(&b(name), &x, 0, n))
                };
                for (rows, norm) in [(&mut q, "attn_q_norm"), (&mut k, "attn_k_norm")] {
                    for head in rows.chunks_exact_mut(d) {
                        if t.qk_norm() {
                            head.copy_from_slice(&self.norm(&b(norm), head));
                        }
                        if rotates {
                            self.rotate(head, pos, rope);
                        }
                    }
                }
                qs.push(q);
                ks.push(k);
                vs.push(v);
            }
            for pos in 0..tokens.len() {
                let mut mixed = vec![0.0; q_rows];
                let window = match (windowed, t.window) {
                    (true, w) if w > 0 => w as usize,
                    _ => usize::MAX,
                };
                let first = (pos + 1).saturating_sub(window);
                for h in 0..t.n_head {
                    let kv = h * t.n_head_kv / t.n_head * d;
                    let q = &qs[pos][h * d..(h + 1) * d];
                    let mut scores: Vec<f64> = ks[first..=pos]
                        .iter()
                        .map(|k| q.iter().zip(&k[kv..]).map(|(q, k)| q * k).sum::<f64>())
                        .map(|score| score / (d as f64).sqrt())
                        .map(|score| cap(score, t.softcaps.0))
                        .collect();
                    softmax(&mut scores);
                    for (p, v) in scores.iter().zip(&vs[first..]) {
                        let v = &v[kv..kv + d];
                        mixed[h * d..][..d].iter_mut().zip(v).for_each(|(m, v)| *m += p * v);
                    }
                }
                let mut out = self.rows(&b("attn_output"), &mixed, 0, t.n_embd);
                if t.post_norm() {
                    out = self.norm(&b("post_attention_norm"), &out);
                }
                xs[pos].iter_mut().zip(out).for_each(|(x, y)| *x += y);
                let x = self.norm(&b("ffn_norm"), &xs[pos]);
                let (gate, up) = if t.fused() {
                    let gate = self.rows(&b("ffn_up"), &x, 0, t.n_ff);
                    (gate, self.rows(&b("ffn_up"), &x, t.n_ff, t.n_ff))
                } else {
                    let gate = self.rows(&b("ffn_gate"), &x, 0, t.n_ff);
                    (gate, self.rows(&b("ffn_up"), &x, 0, t.n_ff))
                };
                let act = |x: f64| match gemma {
                    true => {
                        let inner =
                            (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x);
                        0.5 * x * (1.0 + inner.tanh())
                    }
                    false => x / (1.0 + (-x).exp()),
                };
                let both: Vec<f64> = gate.iter().zip(&up).map(|(g, u)| act(*g) * u).collect();
                let mut out = self.rows(&b("ffn_down"), &both, 0, t.n_embd);
                if t.post_norm() {
                    out = self.norm(&b("post_ffw_norm"), &out);
                }
                xs[pos].iter_mut().zip(out).for_each(|(x, y)| *x += y);
            }
        }
        let head = if t.tied { "token_embd.weight" } else { "output.weight" };
        let last = |x: &Vec<f64>| {
            let x = self.norm("output_norm.weight", x);
            let logits = self.rows(head, &x, 0, N_VOCAB);
            logits.into_iter().map(|l| cap(l, t.softcaps.1)).collect()
        };
        xs.iter().map(last).collect()
    }
}

fn cap(x: f64, cap: f32) -> f64 {
    if cap == 0.0 { x } else { f64::from(cap) * (x / f64::from(cap)).tanh() }
}

fn softmax(x: &mut [f64]) {
    let max = x.iter().copied().fold(f64::MIN, f64::max);
    x.iter_mut().for_each(|x| *x = (*x - max).exp());
    let sum: f64 = x.iter().sum();
    x.iter_mut().for_each(|x| *x /= sum);
}

fn text(n: usize) -> Vec<i32> {
    let mut random = Random(7);
    (0..n).map(|_| (random.next() % N_VOCAB as u32) as i32).collect()
}

fn load(file: &[u8], isa: Isa) -> Arc<Model> {
    let load = ModelParams { isa: Some(isa), ..ModelParams::default() };
    Arc::new(Model::load(Input::Memory(file), &load, &mut |_, _| true).expect("loads"))
}

/// The engine's logits of every position.
fn engine(model: &Arc<Model>, params: &SessionParams, tokens: &[i32]) -> Vec<Vec<f32>> {
    let n = tokens.len() as u32;
    let params = SessionParams { n_logits: n, n_threads: 2, ..*params };
    let mut session = Session::new(Arc::clone(model), &params).expect("a session");
    session.eval(tokens, Logits::All, &Control::default()).expect("evaluates");
    (0..tokens.len()).map(|i| session.logits_row(i).unwrap().to_vec()).collect()
}

/// The largest difference as a share of the largest logit.
fn difference(ours: &[Vec<f32>], oracle: &[Vec<f64>]) -> f64 {
    let largest = oracle.iter().flatten().fold(0.0f64, |m, x| m.max(x.abs()));
    let pairs = ours.iter().flatten().zip(oracle.iter().flatten());
    let worst = pairs.fold(0.0f64, |m, (a, b)| m.max((f64::from(*a) - b).abs()));
    assert!(largest > 0.1 && largest.is_finite(), "the oracle's logits say nothing: {largest}");
    worst / largest
}

/// On every rung and with each type of keys and values, at most as far off as that type's bound.
fn compare(tiny: &Tiny, oracle: &Oracle<'_>, kv: &[(u32, f64)]) {
    let tokens = text(24);
    let (file, expected) = (tiny.gguf(), oracle.logits(&tokens));
    for &isa in rungs::rungs() {
        let model = load(&file, isa);
        for &(kv_dtype, bound) in kv {
            let params = SessionParams { kv_dtype, ..SessionParams::default() };
            let found = difference(&engine(&model, &params, &tokens), &expected);
            let what = format!("{} {} {} kv {kv_dtype}", tiny.arch, tiny.dtype, isa.name());
            println!("{what}: {found:.2e} of {bound:.0e}");
            assert!(found <= bound, "{what}: {found:.2e}, at most {bound:.0e}");
        }
    }
}

const ARCHS: [&str; 7] = ["llama", "smollm3", "qwen2", "qwen3", "gemma2", "gemma3", "phi3"];

#[test]
fn every_architecture_computes_what_its_paper_says() {
    for arch in ARCHS {
        let mut tiny = Tiny::new(arch);
        tiny.n_layer = if arch == "gemma3" { 7 } else { 4 };
        tiny.window = if matches!(arch, "llama" | "gemma2" | "gemma3" | "phi3") { 9 } else { 0 };
        tiny.tied = arch != "phi3";
        compare(&tiny, &Oracle::new(&tiny), &[(1, FLOAT_BOUND), (0, F16_KV_BOUND)]);
    }
}

#[test]
fn every_element_type_computes_what_it_decodes_to() {
    for &dtype in DType::ALL {
        let mut tiny = Tiny::new("llama");
        tiny.dtype = dtype;
        tiny.n_layer = 2;
        let float = !dtype.is_quantised();
        let bound = if float { FLOAT_BOUND } else { QUANTISED_BOUND };
        compare(&tiny, &Oracle::new(&tiny), &[(1, bound)]);
    }
}

#[test]
fn panels_compute_what_every_quantised_type_decodes_to() {
    let tokens = text(40);
    for &dtype in DType::ALL.iter().filter(|dtype| dtype.is_quantised()) {
        let mut tiny = Tiny::new("llama");
        (tiny.dtype, tiny.n_layer, tiny.n_ff) = (dtype, 2, 512);
        let (file, expected) = (tiny.gguf(), Oracle::new(&tiny).logits(&tokens));
        let params =
            SessionParams { numerics: Numerics::Fast, kv_dtype: 1, ..SessionParams::default() };
        for &isa in rungs::rungs() {
            let found = difference(&engine(&load(&file, isa), &params, &tokens), &expected);
            println!("panels {dtype} {isa}: {found:.2e} of {PANEL_BOUND:.0e}");
            assert!(found <= PANEL_BOUND, "{dtype} {isa}: {found:.2e}");
        }
    }
}

#[test]
fn linear_scaling_divides_all_frequencies() {
    let mut tiny = Tiny::new("llama");
    tiny.strs = vec![("rope.scaling.type", "linear")];
    tiny.floats = vec![("rope.scaling.factor", 4.0)];
    let mut oracle = Oracle::new(&tiny);
    oracle.ropes[0].0.iter_mut().for_each(|f| *f /= 4.0);
    compare(&tiny, &oracle, &[(1, FLOAT_BOUND)]);
}

#[test]
fn factors_of_the_file_divide_their_frequencies() {
    let mut tiny = Tiny::new("llama");
    let factors: Vec<f32> = (0..32).map(|i| 1.0 + i as f32 / 4.0).collect();
    tiny.factors = vec![("rope_freqs.weight", factors.clone())];
    let mut oracle = Oracle::new(&tiny);
    oracle.ropes[0].0.iter_mut().zip(&factors).for_each(|(f, by)| *f /= f64::from(*by));
    compare(&tiny, &oracle, &[(1, FLOAT_BOUND)]);
}

#[test]
fn yarn_keeps_fast_pairs_and_slows_slow_ones() {
    let mut tiny = Tiny::new("llama");
    tiny.strs = vec![("rope.scaling.type", "yarn")];
    tiny.floats = vec![("rope.scaling.factor", 4.0)];
    tiny.ints = vec![("rope.scaling.original_context_length", 128)];
    let mut oracle = Oracle::new(&tiny);
    // YaRN, section 3.2 and 3.4, for a head of 64 and an original context of 128.
    let pair =
        |turns: f64| 64.0 * (128.0 / (turns * std::f64::consts::TAU)).ln() / (2.0 * 10_000f64.ln());
    let (low, high) = (pair(32.0).floor().max(0.0), pair(1.0).ceil().min(63.0));
    for (i, f) in oracle.ropes[0].0.iter_mut().enumerate() {
        let slow = ((i as f64 - low) / (high - low)).clamp(0.0, 1.0);
        *f = *f * (1.0 - slow) + *f / 4.0 * slow;
    }
    oracle.ropes[0].1 = 0.1 * 4f64.ln() + 1.0;
    compare(&tiny, &oracle, &[(1, FLOAT_BOUND)]);
}

#[test]
fn gemma3_scales_its_global_layers_only() {
    let mut tiny = Tiny::new("gemma3");
    tiny.n_layer = 6;
    tiny.window = 9;
    tiny.strs = vec![("rope.scaling.type", "linear")];
    tiny.floats = vec![("rope.scaling.factor", 8.0)];
    let mut oracle = Oracle::new(&tiny);
    oracle.ropes[0].0.iter_mut().for_each(|f| *f /= 8.0);
    compare(&tiny, &oracle, &[(1, FLOAT_BOUND)]);
}

#[test]
fn heads_need_not_be_even_or_blocks_of_the_stream() {
    let mut tiny = Tiny::new("llama");
    (tiny.n_embd, tiny.n_head, tiny.n_head_kv) = (72, 9, 3);
    (tiny.head_dim, tiny.n_ff) = (10, 100);
    compare(&tiny, &Oracle::new(&tiny), &[(1, FLOAT_BOUND)]);
}
