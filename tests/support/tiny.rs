//! Tiny made models: every architecture, every element type, seeded random weights.

use tern::base::dtype::DType;
use tern::quant;

use super::gguf_writer::GgufWriter;

/// A specified stream of random numbers (a 64-bit linear congruential generator, Knuth's
/// constants), so that every machine makes the same models.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u32 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 32) as u32
    }

    /// In -1 to 1, roughly bell-shaped.
    pub fn bell(&mut self) -> f32 {
        let mut uniform = || self.next() as f32 / u32::MAX as f32;
        (uniform() + uniform() + uniform()) / 1.5 - 1.0
    }
}

/// The shape of a tiny model.
#[derive(Clone, Debug)]
pub struct Tiny {
    pub arch: &'static str,
    pub dtype: DType,
    pub n_embd: usize,
    pub n_layer: usize,
    pub n_head: usize,
    pub n_head_kv: usize,
    pub head_dim: usize,
    pub n_ff: usize,
    pub n_ctx_train: u32,
    pub window: u32,
    pub tied: bool,
    pub biases: bool,
    pub softcaps: (f32, f32),
    pub seed: u64,
    /// Further metadata, as numbers.
    pub floats: Vec<(&'static str, f32)>,
    pub strs: Vec<(&'static str, &'static str)>,
    pub ints: Vec<(&'static str, u32)>,
    /// Divisors of rotary frequencies: tensor name and values.
    pub factors: Vec<(&'static str, Vec<f32>)>,
}

impl Tiny {
    /// A small model of an architecture, with all that its row asks for.
    pub fn new(arch: &'static str) -> Tiny {
        Tiny {
            arch,
            dtype: DType::F32,
            n_embd: 256,
            n_layer: 3,
            n_head: 4,
            n_head_kv: 2,
            head_dim: 64,
            n_ff: 256,
            n_ctx_train: 512,
            window: 0,
            tied: true,
            biases: arch == "qwen2",
            softcaps: if arch == "gemma2" { (50.0, 30.0) } else { (0.0, 0.0) },
            seed: 1,
            floats: Vec::new(),
            strs: Vec::new(),
            ints: Vec::new(),
            factors: Vec::new(),
        }
    }

    pub fn n_vocab(&self) -> usize {
        N_VOCAB
    }

    pub fn fused(&self) -> bool {
        self.arch == "phi3"
    }

    pub fn qk_norm(&self) -> bool {
        matches!(self.arch, "qwen3" | "gemma3")
    }

    pub fn post_norm(&self) -> bool {
        matches!(self.arch, "gemma2" | "gemma3")
    }

    /// The tensors: name, type, row length, rows, bytes.
    pub fn tensors(&self) -> Vec<(String, DType, usize, usize, Vec<u8>)> {
        let mut random = Random(self.seed);
        let mut out = Vec::new();
        let mut add =
            |name: String, dtype: DType, cols: usize, rows: usize, middle: f32, spread: f32| {
                let bytes = random_rows(&mut random, dtype, cols, rows, middle, spread);
                out.push((name, dtype, cols, rows, bytes));
            };
        let (e, f) = (self.n_embd, self.n_ff);
        let (q, kv) = (self.n_head * self.head_dim, self.n_head_kv * self.head_dim);
        let spread = |cols: usize| 1.7 / (cols as f32).sqrt();
        add("token_embd.weight".into(), self.dtype, e, N_VOCAB, 0.0, 1.0);
        for i in 0..self.n_layer {
            let b = |name: &str| format!("blk.{i}.{name}");
            add(b("attn_norm.weight"), DType::F32, e, 1, 1.0, 0.3);
            add(b("ffn_norm.weight"), DType::F32, e, 1, 1.0, 0.3);
            if self.fused() {
                add(b("attn_qkv.weight"), self.dtype, e, q + 2 * kv, 0.0, spread(e));
                add(b("ffn_up.weight"), self.dtype, e, 2 * f, 0.0, spread(e));
            } else {
                for (name, rows) in [("attn_q", q), ("attn_k", kv), ("attn_v", kv)] {
                    add(b(&format!("{name}.weight")), self.dtype, e, rows, 0.0, spread(e));
                    if self.biases {
                        add(b(&format!("{name}.bias")), DType::F32, rows, 1, 0.0, 0.5);
                    }
                }
                add(b("ffn_gate.weight"), self.dtype, e, f, 0.0, spread(e));
                add(b("ffn_up.weight"), self.dtype, e, f, 0.0, spread(e));
            }
            if self.qk_norm() {
                add(b("attn_q_norm.weight"), DType::F32, self.head_dim, 1, 1.0, 0.3);
                add(b("attn_k_norm.weight"), DType::F32, self.head_dim, 1, 1.0, 0.3);
            }
            if self.post_norm() {
                add(b("post_attention_norm.weight"), DType::F32, e, 1, 1.0, 0.3);
                add(b("post_ffw_norm.weight"), DType::F32, e, 1, 1.0, 0.3);
            }
            add(b("attn_output.weight"), self.dtype, q, e, 0.0, spread(q));
            add(b("ffn_down.weight"), self.dtype, f, e, 0.0, spread(f));
        }
        add("output_norm.weight".into(), DType::F32, e, 1, 1.0, 0.3);
        if !self.tied {
            add("output.weight".into(), self.dtype, e, N_VOCAB, 0.0, 1.0);
        }
        for (name, factors) in &self.factors {
            let bytes = factors.iter().flat_map(|f| f.to_le_bytes()).collect();
            out.push((name.to_string(), DType::F32, factors.len(), 1, bytes));
        }
        out
    }

    /// The file.
    pub fn gguf(&self) -> Vec<u8> {
        self.writer().write()
    }

    /// The file's writer, for tests that break it.
    pub fn writer(&self) -> GgufWriter {
        let key = |name: &str| format!("{}.{name}", self.arch);
        let mut w = GgufWriter::new()
            .str("general.architecture", self.arch)
            .str("general.name", "tiny")
            .u32(&key("block_count"), self.n_layer as u32)
            .u32(&key("context_length"), self.n_ctx_train)
            .u32(&key("embedding_length"), self.n_embd as u32)
            .u32(&key("feed_forward_length"), self.n_ff as u32)
            .u32(&key("attention.head_count"), self.n_head as u32)
            .u32(&key("attention.head_count_kv"), self.n_head_kv as u32)
            .u32(&key("attention.key_length"), self.head_dim as u32)
            .u32(&key("attention.value_length"), self.head_dim as u32)
            .f32(&key("attention.layer_norm_rms_epsilon"), 1e-5)
            .f32(&key("rope.freq_base"), 10_000.0);
        if self.window > 0 {
            w = w.u32(&key("attention.sliding_window"), self.window);
        }
        if self.softcaps.0 > 0.0 {
            w = w.f32(&key("attn_logit_softcapping"), self.softcaps.0);
            w = w.f32(&key("final_logit_softcapping"), self.softcaps.1);
        }
        for &(name, value) in &self.floats {
            w = w.f32(&key(name), value);
        }
        for &(name, value) in &self.ints {
            w = w.u32(&key(name), value);
        }
        for &(name, value) in &self.strs {
            w = w.str(&key(name), value);
        }
        w = vocabulary(w);
        for (name, dtype, cols, rows, bytes) in self.tensors() {
            let shape = [cols as u64, rows as u64];
            w = w.tensor(&name, dtype, if rows == 1 { &shape[..1] } else { &shape }, &bytes);
        }
        w
    }
}

/// 256 bytes, a few merges and a few control tokens.
pub const N_VOCAB: usize = 288;
/// Ends a text.
pub const EOS: i32 = 286;
/// Begins a turn.
pub const TURN: i32 = 287;

const TEMPLATE: &str = "{% for m in messages %}<turn>{{ m['role'] }}: {{ m['content'] }}\n\
                        {% endfor %}{% if add_generation_prompt %}<turn>assistant: {% endif %}";

/// A byte-level BPE vocabulary of [`N_VOCAB`] tokens.
fn vocabulary(w: GgufWriter) -> GgufWriter {
    let mut tokens: Vec<String> = (0..=255u8).map(|b| byte_char(b).to_string()).collect();
    let mut merges = Vec::new();
    let pairs = [
        ("t", "h"),
        ("th", "e"),
        ("i", "n"),
        ("a", "n"),
        ("e", "r"),
        ("o", "n"),
        ("r", "e"),
        ("h", "e"),
        ("o", "u"),
        ("n", "d"),
        ("an", "d"),
        ("s", "t"),
        ("e", "s"),
        ("e", "n"),
        ("o", "r"),
        ("i", "s"),
        ("i", "t"),
        ("a", "t"),
        ("a", "l"),
        ("a", "r"),
        ("in", "g"),
        ("Ġ", "the"),
        ("Ġ", "and"),
        ("Ġ", "a"),
        ("Ġ", "t"),
        ("Ġ", "s"),
        ("Ġ", "w"),
        ("Ġ", "o"),
        ("Ġ", "in"),
        ("Ġ", "he"),
    ];
    for (left, right) in pairs {
        merges.push(format!("{left} {right}"));
        tokens.push(format!("{left}{right}"));
    }
    tokens.push("<eos>".into());
    tokens.push("<turn>".into());
    assert_eq!(tokens.len(), N_VOCAB);
    let types: Vec<i32> = (0..N_VOCAB).map(|i| if i >= EOS as usize { 3 } else { 1 }).collect();
    let tokens: Vec<&str> = tokens.iter().map(String::as_str).collect();
    let merges: Vec<&str> = merges.iter().map(String::as_str).collect();
    w.str("tokenizer.ggml.model", "gpt2")
        .str("tokenizer.ggml.pre", "gpt-2")
        .strings("tokenizer.ggml.tokens", &tokens)
        .i32s("tokenizer.ggml.token_type", &types)
        .strings("tokenizer.ggml.merges", &merges)
        .u32("tokenizer.ggml.eos_token_id", EOS as u32)
        .str("tokenizer.chat_template", TEMPLATE)
}

/// The character that stands for a byte in byte-level vocabularies (GPT-2's table).
fn byte_char(b: u8) -> char {
    let shown = |b: u32| matches!(b, 33..=126 | 161..=172 | 174..=255);
    if shown(u32::from(b)) {
        return char::from(b);
    }
    let before = (0..u32::from(b)).filter(|&b| !shown(b)).count() as u32;
    char::from_u32(256 + before).expect("below 512")
}

/// Rows of random weights around `middle`, encoded. Types without an encoder get random bits under
/// scales of the right size.
fn random_rows(
    random: &mut Random,
    dtype: DType,
    cols: usize,
    rows: usize,
    middle: f32,
    spread: f32,
) -> Vec<u8> {
    let row_bytes = dtype.row_bytes(cols).expect("whole blocks");
    let mut bytes = vec![0; row_bytes * rows];
    for row in bytes.chunks_exact_mut(row_bytes) {
        let x: Vec<f32> = (0..cols).map(|_| middle + spread * random.bell()).collect();
        match scale_places(dtype) {
            None => assert!(quant::encode_row(dtype, &x, row), "{dtype} has an encoder"),
            Some((places, code_size)) => {
                for block in row.chunks_exact_mut(dtype.block_bytes()) {
                    block.iter_mut().for_each(|b| *b = random.next() as u8);
                    let scale = half::f16::from_f32(spread / code_size).to_le_bytes();
                    for &at in places {
                        block[at..at + 2].copy_from_slice(&scale);
                    }
                    if dtype == DType::Mxfp4 {
                        block[0] = (127.0 + (spread / 6.0).log2()) as u8;
                    }
                }
            }
        }
    }
    bytes
}

/// Where a block's half-precision scales stand, and how large the numbers are that they multiply.
fn scale_places(dtype: DType) -> Option<(&'static [usize], f32)> {
    Some(match dtype {
        DType::Q2K => (&[80, 82], 30.0),
        DType::Q3K => (&[108], 100.0),
        DType::Q4K => (&[0, 2], 500.0),
        DType::Q5K => (&[0, 2], 1000.0),
        DType::Q6K => (&[208], 2000.0),
        DType::Iq4Nl => (&[0], 100.0),
        DType::Iq4Xs => (&[0], 3000.0),
        DType::Tq1_0 => (&[52], 1.0),
        DType::Tq2_0 => (&[64], 1.0),
        DType::Mxfp4 => (&[], 1.0),
        _ => return None,
    })
}
