//! Files that are models, but for a few edits that an input asks for: most get far behind the parser.

use std::sync::OnceLock;

use arbitrary::{Result, Unstructured};
use tern::base::dtype::DType;

use crate::models::{ARCHS, smallest, spm_in, spm_tokens, yarn};
use crate::support::gguf_writer::{GgufWriter, array, kind, string};
use crate::support::tiny::{N_VOCAB, Tiny};

fn tiny(arch: &'static str) -> Tiny {
    Tiny { window: if arch.starts_with("gemma") { 16 } else { 0 }, ..smallest(arch) }
}

/// The good files: every architecture, both kinds of vocabulary, every element type.
pub fn bases() -> &'static [GgufWriter] {
    static BASES: OnceLock<Vec<GgufWriter>> = OnceLock::new();
    BASES.get_or_init(|| {
        let mut bases: Vec<_> = ARCHS.iter().map(|arch| tiny(arch).writer()).collect();
        bases.push(spm_in(tiny("llama").writer(), &spm_tokens()));
        bases.push(yarn(tiny("llama")).writer());
        for &dtype in DType::ALL.iter().filter(|dtype| **dtype != DType::F32) {
            // Rows of whole blocks, of up to 256 weights.
            let wide = dtype.block_len() > 32;
            let n = if wide { 256 } else { 32 };
            let (n_head, head_dim) = if wide { (4, 64) } else { (2, 16) };
            let sizes = Tiny { n_embd: n, n_ff: n, n_head, head_dim, n_layer: 1, ..tiny("llama") };
            bases.push(Tiny { dtype, ..sizes }.writer());
        }
        bases
    })
}

/// Keys without and with the architecture before them.
const KEYS: [&str; 22] = [
    "general.architecture",
    "general.name",
    "general.alignment",
    "tokenizer.ggml.model",
    "tokenizer.ggml.pre",
    "tokenizer.ggml.tokens",
    "tokenizer.ggml.token_type",
    "tokenizer.ggml.scores",
    "tokenizer.ggml.merges",
    "tokenizer.ggml.bos_token_id",
    "tokenizer.ggml.eos_token_id",
    "tokenizer.ggml.unknown_token_id",
    "tokenizer.ggml.eot_token_id",
    "tokenizer.ggml.eom_token_id",
    "tokenizer.ggml.fim_pad_token_id",
    "tokenizer.ggml.add_bos_token",
    "tokenizer.ggml.add_eos_token",
    "tokenizer.ggml.add_space_prefix",
    "tokenizer.chat_template",
    "adapter.type",
    "split.count",
    "general.type",
];
const HPARAMS: [&str; 28] = [
    "block_count",
    "context_length",
    "embedding_length",
    "feed_forward_length",
    "attention.head_count",
    "attention.head_count_kv",
    "attention.key_length",
    "attention.value_length",
    "attention.layer_norm_rms_epsilon",
    "attention.sliding_window",
    "attention.sliding_window_pattern",
    "attention.scale",
    "attn_logit_softcapping",
    "final_logit_softcapping",
    "rope.freq_base",
    "rope.freq_base_swa",
    "rope.dimension_count",
    "rope.scaling.type",
    "rope.scaling.factor",
    "rope.scaling.attn_factor",
    "rope.scaling.original_context_length",
    "rope.scaling.yarn_beta_fast",
    "rope.scaling.yarn_beta_slow",
    "rope.scaling.yarn_log_multiplier",
    "vocab_size",
    "expert_count",
    "logit_scale",
    "no_rope_layer_interval",
];
const WORDS: [&str; 24] = [
    "llama",
    "smollm3",
    "qwen2",
    "qwen3",
    "gemma2",
    "gemma3",
    "phi3",
    "gpt2",
    "gemma4",
    "gpt-2",
    "llama-bpe",
    "qwen2",
    "smollm",
    "falcon",
    "tekken",
    "deepseek-v3",
    "gpt-4o",
    "yarn",
    "linear",
    "longrope",
    "none",
    "",
    "t h",
    "the",
];

fn key(u: &mut Unstructured<'_>) -> Result<String> {
    let i = usize::from(u.arbitrary::<u8>()?);
    Ok(match i < 128 {
        true => KEYS[i % KEYS.len()].into(),
        false => {
            let arch = ARCHS[usize::from(u.arbitrary::<u8>()?) % ARCHS.len()];
            format!("{arch}.{}", HPARAMS[i % HPARAMS.len()])
        }
    })
}

fn word(u: &mut Unstructured<'_>) -> Result<Vec<u8>> {
    let n = usize::from(u.arbitrary::<u8>()?);
    match n < 128 {
        true => Ok(WORDS[n % WORDS.len()].into()),
        false => Ok(u.bytes((n - 128).min(u.len()))?.to_vec()),
    }
}

/// Numbers at which things break, and any other.
fn number(u: &mut Unstructured<'_>) -> Result<u64> {
    let i = u32::from(u.arbitrary::<u8>()?);
    Ok(match i {
        0..64 => u64::from(i),
        64..128 => (1 << (i - 64)) - 1,
        128..192 => 1 << (i - 128),
        192..200 => u64::MAX - u64::from(i - 192),
        200..228 => u64::from(u.arbitrary::<u16>()?),
        _ => u.arbitrary()?,
    })
}

fn dims(u: &mut Unstructured<'_>) -> Result<Vec<u64>> {
    let n = u.arbitrary::<u8>()? % 6;
    (0..n).map(|_| number(u)).collect()
}

fn name(u: &mut Unstructured<'_>, file: &GgufWriter) -> Result<Option<String>> {
    let names = file.tensor_names();
    let i = usize::from(u.arbitrary::<u8>()?);
    Ok((!names.is_empty()).then(|| names[i % names.len()].clone()))
}

/// An array of any kind: as its elements, numbers or words.
fn list(u: &mut Unstructured<'_>) -> Result<(u32, u64, Vec<u8>)> {
    let kind = u32::from(u.arbitrary::<u8>()? % 14);
    let n = match u.arbitrary::<u8>()? {
        255 => number(u)?,
        254 => N_VOCAB as u64,
        n => u64::from(n),
    };
    let mut bytes = Vec::new();
    for _ in 0..n.min(512) {
        if kind == kind::STRING {
            bytes.extend(string(&word(u)?));
        } else if kind == kind::ARRAY {
            bytes.extend(array(kind::U8, 0, &[]));
        } else {
            let width = [1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8, 4][kind as usize];
            // Where the input has ended, an array goes on with what it began with.
            let number = if u.is_empty() { 0 } else { number(u)? };
            bytes.extend(&number.to_le_bytes()[..width]);
        }
    }
    Ok((kind, n, bytes))
}

fn edit(u: &mut Unstructured<'_>, file: GgufWriter) -> Result<GgufWriter> {
    Ok(match u.arbitrary::<u8>()? % 16 {
        0 | 1 => file.u32(&key(u)?, number(u)? as u32),
        2 => file.f32(&key(u)?, f32::from_bits(number(u)? as u32)),
        3 => file.f32(&key(u)?, (number(u)? as i64 as f32) / 8.0),
        4 => file.bool(&key(u)?, u.arbitrary()?),
        5 => file.str(&key(u)?, word(u)?),
        6 => {
            let key = key(u)?;
            let (kind, n, bytes) = list(u)?;
            file.array(&key, kind, n, &bytes)
        }
        7 => file.without(&key(u)?),
        8 => match name(u, &file)? {
            Some(name) => file.claim_shape(&name, &dims(u)?),
            None => file,
        },
        9 => match name(u, &file)? {
            Some(name) => file.claim_dtype(&name, number(u)? as u32),
            None => file,
        },
        10 => match name(u, &file)? {
            Some(name) => file.claim_offset(&name, number(u)?),
            None => file,
        },
        11 => match name(u, &file)? {
            Some(name) => file.without_tensor(&name),
            None => file,
        },
        12 => match name(u, &file)? {
            // Weights: numbers that are none, or scales of blocks.
            Some(name) => {
                let mut file = file;
                let data = file.tensor_data_mut(&name);
                let at = usize::from(u.arbitrary::<u16>()?) % data.len().max(1);
                let bytes = (number(u)? as u32).to_le_bytes();
                data.iter_mut().skip(at).zip(bytes).for_each(|(to, byte)| *to = byte);
                file
            }
            None => file,
        },
        13 => {
            let (dims, dtype) = (dims(u)?, number(u)? as u32);
            let name = word(u)?;
            file.raw_tensor(&name, dims.len() as u32, &dims, dtype, None, &[0; 64])
        }
        14 => match u.arbitrary::<u8>()? % 4 {
            0 => file.claim_n_kv(number(u)?),
            1 => file.claim_n_tensors(number(u)?),
            2 => file.alignment((number(u)? as u32).min(4096)),
            _ => file.version(number(u)? as u32),
        },
        _ => {
            let key = word(u)?;
            let (kind, n, bytes) = list(u)?;
            file.raw_kv(&key, kind::ARRAY, &array(kind, n, &bytes))
        }
    })
}

/// A file: which of the good ones, edits of what it says, then of its bytes.
pub fn file(u: &mut Unstructured<'_>) -> Result<Vec<u8>> {
    let bases = bases();
    let mut file = bases[usize::from(u.arbitrary::<u8>()?) % bases.len()].clone();
    let n = u.arbitrary::<u8>()? % 8;
    for _ in 0..n {
        file = edit(u, file)?;
    }
    let header = file.header_len();
    let mut bytes = file.write();
    for _ in 0..u.arbitrary::<u8>()? % 4 {
        let at = usize::from(u.arbitrary::<u16>()?) % header.max(1);
        match u.arbitrary::<u8>()? {
            255 => bytes.truncate(at),
            mask => bytes.get_mut(at).into_iter().for_each(|byte| *byte ^= mask),
        }
    }
    Ok(bytes)
}

/// Inputs of [`file`]: each good file as it is, then one with each kind of edit.
pub fn seeds() -> Vec<Vec<u8>> {
    let mut seeds: Vec<Vec<u8>> = (0..bases().len() as u8).map(|i| vec![i, 0, 0]).collect();
    for kind in 0..16 {
        for i in 0..4u8 {
            let rest = [7 * i, 130 + 31 * i, 40 * i + kind, 3, 65, 2 + i, 1, 1, 0, 0];
            seeds.push([&[i * 5, 1, kind][..], &rest].concat());
        }
    }
    seeds
}
