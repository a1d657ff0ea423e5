//! The good files that cases spoil.

use crate::support::gguf_writer::GgufWriter;
use crate::support::parsed::box_of_all;
use crate::support::tiny::{N_VOCAB, Tiny};
use tern::base::dtype::DType;

/// All architectures.
pub(crate) const ARCHS: [&str; 7] =
    ["llama", "smollm3", "qwen2", "qwen3", "gemma2", "gemma3", "phi3"];

/// A small model of an architecture.
pub(crate) fn small(arch: &'static str) -> Tiny {
    Tiny {
        n_embd: 64,
        n_layer: 2,
        n_head: 2,
        n_head_kv: 1,
        head_dim: 32,
        n_ff: 64,
        ..Tiny::new(arch)
    }
}

/// The smallest model of an architecture.
pub(crate) fn smallest(arch: &'static str) -> Tiny {
    Tiny {
        n_embd: 32,
        n_layer: 2,
        n_head: 2,
        n_head_kv: 1,
        head_dim: 16,
        n_ff: 32,
        window: 16,
        n_ctx_train: 128,
        ..Tiny::new(arch)
    }
}

/// That model with what the others lack: scaled rotations with factors, a head of its own, biases.
pub(crate) fn yarn(llama: Tiny) -> Tiny {
    Tiny {
        dtype: DType::Q8_0,
        tied: false,
        biases: true,
        strs: vec![("rope.scaling.type", "yarn")],
        floats: vec![
            ("rope.scaling.factor", 4.0),
            ("rope.scaling.attn_factor", 1.5),
            ("rope.scaling.yarn_beta_fast", 16.0),
        ],
        ints: vec![("rope.scaling.original_context_length", 64), ("rope.dimension_count", 16)],
        factors: vec![
            ("rope_factors_short.weight", vec![1.0; 8]),
            ("rope_factors_long.weight", vec![2.0; 8]),
        ],
        ..llama
    }
}

pub(crate) fn good() -> GgufWriter {
    small("llama").writer()
}

/// That file with one more entry: this value at `k.odd`.
pub(crate) fn odd_value(kind: u32, bytes: &[u8]) -> GgufWriter {
    box_of_all().value("k.odd", kind, bytes)
}

/// That file with a fourth tensor.
pub(crate) fn odd_tensor(n_dims: u32, dims: &[u64], dtype: u32) -> GgufWriter {
    box_of_all().raw_tensor(b"odd", n_dims, dims, dtype, None, &[0; 64])
}

/// A file of these F32 tensors, each at its offset, with 256 bytes of data.
pub(crate) fn placed(tensors: &[(&str, u64, u64)]) -> GgufWriter {
    let mut file = GgufWriter::new();
    for (i, (name, len, offset)) in tensors.iter().enumerate() {
        let data = if i == 0 { &[0; 256][..] } else { &[] };
        file = file.raw_tensor(name.as_bytes(), 1, &[*len], 0, Some(*offset), data);
    }
    file
}

/// `good`, with a vocabulary of SentencePiece's kind: three special tokens, all bytes, 29 pieces.
pub(crate) fn spm() -> GgufWriter {
    spm_of(&spm_tokens())
}

pub(crate) type Piece = (String, f32, i32);

pub(crate) fn spm_tokens() -> Vec<Piece> {
    let mut tokens =
        vec![("<unk>".into(), 0.0, 2), ("<s>".into(), 0.0, 3), ("</s>".into(), 0.0, 3)];
    tokens.extend((0..=255).map(|b| (format!("<0x{b:02X}>"), 0.0, 6)));
    let pieces =
        "\u{2581} \u{2581}t \u{2581}the he th in an er on e t a o i n s r h l d u c m f p g w y b";
    let n = pieces.split(' ').count();
    tokens.extend(pieces.split(' ').zip(0..n).map(|(piece, i)| (piece.into(), -(i as f32), 1)));
    assert_eq!(tokens.len(), N_VOCAB);
    tokens
}

pub(crate) fn spm_of(tokens: &[Piece]) -> GgufWriter {
    spm_in(good(), tokens)
}

/// A model with this vocabulary in place of its own.
pub(crate) fn spm_in(file: GgufWriter, tokens: &[Piece]) -> GgufWriter {
    let scores: Vec<f32> = tokens.iter().map(|t| t.1).collect();
    let types: Vec<i32> = tokens.iter().map(|t| t.2).collect();
    file.str("tokenizer.ggml.model", "llama")
        .without("tokenizer.ggml.pre")
        .without("tokenizer.ggml.merges")
        .strings("tokenizer.ggml.tokens", tokens.iter().map(|t| &t.0))
        .f32s("tokenizer.ggml.scores", &scores)
        .i32s("tokenizer.ggml.token_type", &types)
        .u32("tokenizer.ggml.bos_token_id", 1)
        .u32("tokenizer.ggml.eos_token_id", 2)
        .u32("tokenizer.ggml.unknown_token_id", 0)
}

/// `spm`, with tokens of one kind changed.
pub(crate) fn spm_but(change: impl Fn(usize, &mut Piece)) -> GgufWriter {
    let mut tokens = spm_tokens();
    tokens.iter_mut().enumerate().for_each(|(i, token)| change(i, token));
    spm_of(&tokens)
}

/// A file whose vocabulary and embeddings have the first `n` tokens of `spm`.
pub(crate) fn spm_first(n: usize) -> GgufWriter {
    let data = vec![0.25; 64 * n];
    let file = spm_of(&spm_tokens()[..n]);
    match n {
        0 => file,
        _ => file.tensor_f32("token_embd.weight", &[64, n as u64], &data),
    }
}

/// `spm`, with the texts of its tokens changed to any bytes.
pub(crate) fn spm_texts(change: impl Fn(usize, &mut Vec<u8>)) -> GgufWriter {
    let mut tokens: Vec<Vec<u8>> = spm_tokens().into_iter().map(|t| t.0.into_bytes()).collect();
    tokens.iter_mut().enumerate().for_each(|(i, token)| change(i, token));
    spm().strings("tokenizer.ggml.tokens", tokens)
}

/// `file` with other bytes from `at` on.
pub(crate) fn with(mut file: Vec<u8>, at: usize, bytes: &[u8]) -> Vec<u8> {
    file[at..at + bytes.len()].copy_from_slice(bytes);
    file
}
