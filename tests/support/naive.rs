//! The forward pass in f64, naively: written from the papers, sharing no code with the engine but the
//! exact decoding of weights (itself checked bit by bit in tests/quant.rs); it knows neither caches nor
//! batches.

use std::collections::HashMap;

use tern::quant;

use super::tiny::{N_VOCAB, Tiny};

pub struct Oracle<'a> {
    tiny: &'a Tiny,
    pub tensors: HashMap<String, Vec<f64>>,
    /// Frequencies and factor on rotated vectors, global and windowed.
    pub ropes: [(Vec<f64>, f64); 2],
}

impl<'a> Oracle<'a> {
    pub fn new(tiny: &'a Tiny) -> Oracle<'a> {
        let tensors = tiny.tensors().into_iter().map(|(name, dtype, cols, rows, bytes)| {
            let mut out = vec![0f32; cols * rows];
            let row_bytes = dtype.row_bytes(cols).expect("whole blocks");
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
    pub fn logits(&self, tokens: &[i32]) -> Vec<Vec<f64>> {
        self.forward(tokens).0
    }

    /// The same, and what each layer's attention worked with.
    pub fn forward(&self, tokens: &[i32]) -> (Vec<Vec<f64>>, Vec<Attention>) {
        let mut attention = Vec::new();
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
            let (mut raw, mut raw_qs) = (Vec::new(), Vec::new());
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
                    for head in rows.chunks_exact_mut(d).filter(|_| t.qk_norm()) {
                        head.copy_from_slice(&self.norm(&b(norm), head));
                    }
                }
                raw.push(k.clone());
                raw_qs.push(q.clone());
                for head in q.chunks_exact_mut(d).chain(k.chunks_exact_mut(d)).filter(|_| rotates) {
                    self.rotate(head, pos, rope);
                }
                qs.push(q);
                ks.push(k);
                vs.push(v);
            }
            let window = match (windowed, t.window) {
                (true, w) if w > 0 => w as usize,
                _ => usize::MAX,
            };
            let seen = Attention { window, qs, ks, vs, raw, raw_qs };
            for (pos, residual) in xs.iter_mut().enumerate() {
                let mut mixed = vec![0.0; q_rows];
                let first = (pos + 1).saturating_sub(window);
                let visible: Vec<usize> = (first..=pos).collect();
                for h in 0..t.n_head {
                    let kv = h * t.n_head_kv / t.n_head * d;
                    for (p, &at) in seen.probabilities(t, pos, h, &visible).iter().zip(&visible) {
                        let v = &seen.vs[at][kv..kv + d];
                        mixed[h * d..][..d].iter_mut().zip(v).for_each(|(m, v)| *m += p * v);
                    }
                }
                let mut out = self.rows(&b("attn_output"), &mixed, 0, t.n_embd);
                if t.post_norm() {
                    out = self.norm(&b("post_attention_norm"), &out);
                }
                residual.iter_mut().zip(out).for_each(|(x, y)| *x += y);
                let x = self.norm(&b("ffn_norm"), residual);
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
                residual.iter_mut().zip(out).for_each(|(x, y)| *x += y);
            }
            attention.push(seen);
        }
        let head = if t.tied { "token_embd.weight" } else { "output.weight" };
        let last = |x: &Vec<f64>| {
            let x = self.norm("output_norm.weight", x);
            let logits = self.rows(head, &x, 0, N_VOCAB);
            logits.into_iter().map(|l| cap(l, t.softcaps.1)).collect()
        };
        (xs.iter().map(last).collect(), attention)
    }
}

/// What attention of one layer worked with: for each position all heads, one after the other.
pub struct Attention {
    /// Positions that it looks back on, the token's own included.
    pub window: usize,
    pub qs: Vec<Vec<f64>>,
    pub ks: Vec<Vec<f64>>,
    pub vs: Vec<Vec<f64>>,
    /// Keys before rotation.
    pub raw: Vec<Vec<f64>>,
    /// Queries before rotation.
    pub raw_qs: Vec<Vec<f64>>,
}

impl Attention {
    /// How query head `h` at position `pos` divides its attention among the keys at `visible`.
    pub fn probabilities(&self, t: &Tiny, pos: usize, h: usize, visible: &[usize]) -> Vec<f64> {
        let (d, kv) = (t.head_dim, h * t.n_head_kv / t.n_head * t.head_dim);
        let q = &self.qs[pos][h * d..(h + 1) * d];
        let mut scores: Vec<f64> = visible
            .iter()
            .map(|&at| q.iter().zip(&self.ks[at][kv..]).map(|(q, k)| q * k).sum::<f64>())
            .map(|score| cap(score / (d as f64).sqrt(), t.softcaps.0))
            .collect();
        softmax(&mut scores);
        scores
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
