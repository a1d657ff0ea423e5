//! Files whose container is sound and whose content is not: hyperparameters, tensors, vocabularies,
//! chat templates, weights. Each case is named after the class of defect that it stands for.
//!
//! Every file is loaded, and if that succeeds, a session of it tokenizes a text and generates four
//! tokens. Whatever a file holds, that ends with its documented code: never with a panic, a hang, a
//! stack that overflows or a process that dies. Each case runs on a thread with a small stack.
//!
//! Grammars and JSON schemas are a class of their own in other engines. tern has neither yet, so
//! there is nothing to break. The container itself is the subject of `gguf.rs`.

mod support;

use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use support::gguf_writer::{GgufWriter, array, kind};
use support::tiny::{N_VOCAB, Random, Tiny};
use tern::base::dtype::DType;
use tern::base::file::Source;
use tern::engine::{
    Control, Error, Gguf, Input, Logits, Message, Model, ModelParams, Sampler, SamplerParams,
    Session, SessionParams,
};

/// What a file must lead to.
#[derive(Clone, Copy, Debug)]
enum Outcome {
    /// It loads and generates.
    Works,
    /// The error's C name without "TERN_ERROR_", and a part of its sentence.
    Fails(&'static str, &'static str),
}
use Outcome::{Fails, Works};

struct Case {
    name: &'static str,
    file: Vec<u8>,
    expected: Outcome,
}

fn case(name: &'static str, file: GgufWriter, expected: Outcome) -> Case {
    Case { name, file: file.write(), expected }
}

/// Bytes of stack that a caller of tern needs at most.
const STACK: usize = 256 << 10;
/// Longer than any case takes on a slow machine, and shorter than what loops without end.
const MOST: Duration = Duration::from_secs(60);

/// Runs `f` on every case, each on a thread of its own, and collects what went another way.
fn check(cases: Vec<Case>, f: fn(&[u8]) -> Result<(), Error>) {
    let mut wrong = Vec::new();
    let n = cases.len();
    for Case { name, file, expected } in cases {
        let (send, receive) = mpsc::channel();
        let work = move || send.send(f(&file));
        let thread = thread::Builder::new().stack_size(STACK).spawn(work).expect("a thread");
        let result = match receive.recv_timeout(MOST) {
            Ok(result) => result,
            Err(mpsc::RecvTimeoutError::Timeout) => panic!("{name}: still running"),
            Err(mpsc::RecvTimeoutError::Disconnected) => {
                drop(thread.join());
                wrong.push(format!("{name}: a panic, expected {expected:?}"));
                continue;
            }
        };
        match (result, expected) {
            (Ok(()), Works) => {}
            (Err(e), Fails(code, part))
                if e.name() == format!("TERN_ERROR_{code}") && e.message().contains(part) => {}
            (Ok(()), expected) => wrong.push(format!("{name}: works, expected {expected:?}")),
            (Err(e), expected) => wrong.push(format!("{name}: {e}, expected {expected:?}")),
        }
    }
    assert!(wrong.is_empty(), "{} of {n} cases:\n{}", wrong.len(), wrong.join("\n"));
}

fn load(file: &[u8]) -> Result<Arc<Model>, Error> {
    Model::load(Input::Memory(file), &ModelParams::default(), &mut |_, _| true).map(Arc::new)
}

/// Loads a file, and generates. A plan, which reads the header only, comes to the same end.
fn generate(file: &[u8]) -> Result<(), Error> {
    let params = SessionParams { n_ctx: 128, n_threads: 1, ..SessionParams::default() };
    let plan = Model::plan(Input::Memory(file), &ModelParams::default(), &params);
    let loaded = load(file);
    match (plan.map(|_| ()), loaded.as_ref().map(|_| ())) {
        (Ok(()), Ok(()) | Err(Error::BadWeights(_))) => {}
        (plan, loaded) => assert_eq!(plan.err().as_ref(), loaded.err(), "plan and load"),
    }
    let model = loaded?;
    let tokenizer = model.tokenizer();
    let (mut tokens, mut text) = (Vec::new(), Vec::new());
    tokenizer.tokenize("The t\u{1f980}\u{e9}\0\n<0x0A> <eos>", true, true, &mut tokens)?;
    tokenizer.detokenize(&tokens, &mut text)?;
    if tokens.is_empty() {
        tokens.push(0); // a vocabulary that has no token for any of that
    }
    let mut session = Session::new(Arc::clone(&model), &params)?;
    let mut sampler = Sampler::new(&SamplerParams::default())?;
    session.eval(&tokens, Logits::Last, &Control::default())?;
    for _ in 0..4 {
        let token = session.sample(&mut sampler)?;
        assert!(session.logits()?.iter().all(|x| x.is_finite()), "logits that are not numbers");
        tokenizer.detokenize(&[token], &mut text)?;
        session.eval(&[token], Logits::Last, &Control::default())?;
    }
    Ok(())
}

/// Loads a file, and formats a chat by its template.
fn format_chat(file: &[u8]) -> Result<(), Error> {
    let model = load(file)?;
    let messages = [
        Message { role: "system", content: "Be brief." },
        Message { role: "user", content: "{{ 7 * 7 }} {% raw %} \u{1f980}" },
    ];
    let mut out = String::new();
    model.chat_format(&messages, true, &mut out)?;
    assert!(out.len() <= 4 << 20, "{} bytes of output", out.len());
    Ok(())
}

/// A small model of an architecture.
fn small(arch: &'static str) -> Tiny {
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

fn good() -> GgufWriter {
    small("llama").writer()
}

#[test]
fn the_models_that_are_spoiled_work() {
    let mut cases = vec![case("bpe", good(), Works), case("spm", spm(), Works)];
    cases.extend(["qwen2", "qwen3", "gemma2", "gemma3", "phi3"].map(|arch| {
        let (name, file) = (arch, small(arch).writer());
        case(name, file, Works)
    }));
    check(cases, generate);
}

#[test]
#[rustfmt::skip] // one case, one line
fn hyperparameters() {
    let arch = |name: &str| good().str("general.architecture", name);
    let int = |key: &str, n: u32| good().u32(&format!("llama.{key}"), n);
    let float = |key: &str, x: f32| good().f32(&format!("llama.{key}"), x);
    let text = |key: &str, x: &str| good().str(&format!("llama.{key}"), x);
    let without = |key: &str| good().without(&format!("llama.{key}"));
    let (bad, bad_tensor) = (|part| Fails("BAD_HPARAMS", part), |part| Fails("BAD_TENSOR", part));
    const EPS: &str = "attention.layer_norm_rms_epsilon";
    const BASE: &str = "rope.freq_base";
    const MAX: u32 = u32::MAX;
    check(vec![
        case("hp_arch_missing", good().without("general.architecture"), bad("general.architecture")),
        case("hp_arch_unknown", arch("mamba"), Fails("UNSUPPORTED_ARCH", "mamba")),
        case("hp_arch_empty", arch(""), Fails("UNSUPPORTED_ARCH", "")),
        case("hp_arch_other", arch("qwen2"), bad("qwen2.")),
        case("hp_arch_u32", good().u32("general.architecture", 1), bad("general.architecture")),
        case("hp_arch_nonutf8", good().str("general.architecture", b"llam\xff"), bad("general.architecture")),
        case("hp_block_count_0", int("block_count", 0), bad("llama.block_count")),
        case("hp_block_count_1", int("block_count", 1), Fails("UNSUPPORTED", "tensors")),
        case("hp_block_count_3", int("block_count", 3), bad_tensor("blk.2.")),
        case("hp_block_513", int("block_count", 513), bad_tensor("blk.2.")),
        case("hp_block_count_1025", int("block_count", 1025), bad("llama.block_count")),
        case("hp_block_count_max", int("block_count", MAX), bad("llama.block_count")),
        case("hp_block_count_missing", without("block_count"), bad("llama.block_count: missing")),
        case("hp_block_count_str", text("block_count", "2"), bad("llama.block_count")),
        case("hp_block_count_f32", float("block_count", 2.0), bad("llama.block_count")),
        case("hp_block_count_neg", good().i32("llama.block_count", -2), bad("llama.block_count")),
        case("hp_block_count_u64_max", good().u64("llama.block_count", u64::MAX), bad("llama.block_count")),
        case("hp_block_count_u8", good().u8("llama.block_count", 2), Works),
        case("hp_block_count_array", good().u32s("llama.block_count", &[2, 2]), bad("llama.block_count")),
        case("hp_attention_head_count_0", int("attention.head_count", 0), bad("head_count")),
        case("hp_attention_head_count_max", int("attention.head_count", MAX), bad("head_count")),
        case("hp_attention_head_count_3", int("attention.head_count", 3), bad_tensor("attn_q")),
        case("hp_attention_head_count_missing", without("attention.head_count"), bad("head_count")),
        case("hp_attention_head_count_kv_0", int("attention.head_count_kv", 0), bad("head_count_kv")),
        case("hp_attention_head_count_kv_3", int("attention.head_count_kv", 3), bad("not a multiple")),
        case("hp_attention_head_count_kv_2", int("attention.head_count_kv", 2), bad_tensor("attn_k")),
        case("hp_attention_head_count_kv_max", int("attention.head_count_kv", MAX), bad("head_count_kv")),
        case("hp_headarr_short", good().u32s("llama.attention.head_count", &[2]), bad("head_count")),
        case("hp_headarr_kv_zero", good().u32s("llama.attention.head_count_kv", &[1, 0]), bad("head_count_kv")),
        case("hp_headarr_empty", good().u32s("llama.attention.head_count_kv", &[]), bad("head_count_kv")),
        case("hp_embedding_length_0", int("embedding_length", 0), bad("embedding_length")),
        case("hp_embedding_length_32", int("embedding_length", 32), bad_tensor("token_embd.weight")),
        case("hp_embedding_length_max", int("embedding_length", MAX), bad("embedding_length")),
        case("hp_embedding_length_missing", without("embedding_length"), bad("embedding_length")),
        case("hp_embedding_length_63", int("embedding_length", 63).without("llama.attention.key_length").without("llama.attention.value_length"), bad("not a multiple")),
        case("hp_feed_forward_length_0", int("feed_forward_length", 0), bad("feed_forward_length")),
        case("hp_feed_forward_length_65", int("feed_forward_length", 65), bad_tensor("ffn_")),
        case("hp_feed_forward_length_max", int("feed_forward_length", MAX), bad("feed_forward_length")),
        case("hp_feed_forward_length_missing", without("feed_forward_length"), bad("feed_forward_length")),
        case("hp_context_length_0", int("context_length", 0), bad("context_length")),
        case("hp_context_length_1", int("context_length", 1), Works),
        case("hp_context_length_max", int("context_length", MAX), bad("context_length")),
        case("hp_context_length_missing", without("context_length"), bad("context_length")),
        case("hp_key_length_0", int("attention.key_length", 0), bad("key_length")),
        case("hp_key_length_31", int("attention.key_length", 31).u32("llama.attention.value_length", 31), bad_tensor("attn_q")),
        case("hp_heads_odd", Tiny { head_dim: 31, ..small("llama") }.writer(), bad("31")),
        case("hp_key_length_max", int("attention.key_length", MAX), bad("key_length")),
        case("hp_value_length_16", int("attention.value_length", 16), Fails("UNSUPPORTED", "value_length")),
        case("hp_expert_max", int("expert_count", MAX), Fails("UNSUPPORTED", "expert")),
        case("hp_expert_used_gt", int("expert_count", 2).u32("llama.expert_used_count", 3), Fails("UNSUPPORTED", "expert")),
        case("hp_eps_nan", float(EPS, f32::NAN), bad(EPS)),
        case("hp_eps_neg", float(EPS, -1e-5), bad(EPS)),
        case("hp_eps_0", float(EPS, 0.0), bad(EPS)),
        case("hp_eps_1", float(EPS, 1.0), bad(EPS)),
        case("hp_eps_inf", float(EPS, f32::INFINITY), bad(EPS)),
        case("hp_eps_missing", without(EPS), bad(EPS)),
        case("hp_eps_u32", int(EPS, 1), bad(EPS)),
        case("hp_eps_f64", good().f64(&format!("llama.{EPS}"), 1e-5), Works),
        case("hp_rope_base_nan", float(BASE, f32::NAN), bad(BASE)),
        case("hp_rope_base_0", float(BASE, 0.0), bad(BASE)),
        case("hp_rope_base_neg", float(BASE, -10_000.0), bad(BASE)),
        case("hp_rope_base_inf", float(BASE, f32::INFINITY), bad(BASE)),
        case("hp_rope_base_f64_max", good().f64("llama.rope.freq_base", f64::MAX), bad(BASE)),
        case("hp_rope_dimension_count_0", int("rope.dimension_count", 0), bad("dimension_count")),
        case("hp_rope_dimension_count_odd", int("rope.dimension_count", 31), bad("dimension_count")),
        case("hp_rope_dimension_count_64", int("rope.dimension_count", 64), bad("dimension_count")),
        case("hp_rope_dimension_count_max", int("rope.dimension_count", MAX), bad("dimension_count")),
        case("hp_rope_dimension_count_16", int("rope.dimension_count", 16), Works),
        case("hp_rope_scaling_unknown", text("rope.scaling.type", "magic"), Fails("UNSUPPORTED", "magic")),
        case("hp_rope_scaling_nan", float("rope.scaling.factor", f32::NAN), bad("scaling.factor")),
        case("hp_rope_scaling_neg", float("rope.scaling.factor", -2.0), bad("scaling.factor")),
        case("hp_rope_scaling_tiny", float("rope.scaling.factor", 1e-30), Works),
        case("hp_yarn_factor_missing", text("rope.scaling.type", "yarn"), Works),
        case("hp_yarn_orig_0", text("rope.scaling.type", "yarn").f32("llama.rope.scaling.factor", 4.0).u32("llama.rope.scaling.original_context_length", 0), Works),
        case("hp_yarn_orig_max", text("rope.scaling.type", "yarn").f32("llama.rope.scaling.factor", 4.0).u32("llama.rope.scaling.original_context_length", MAX), Works),
        case("hp_yarn_factor_huge", text("rope.scaling.type", "yarn").f32("llama.rope.scaling.factor", 1e30), bad("scaling.factor")),
        case("hp_yarn_beta_nan", text("rope.scaling.type", "yarn").f32("llama.rope.scaling.yarn_beta_fast", f32::NAN), bad("yarn_beta_fast")),
        case("hp_yarn_betas_equal", text("rope.scaling.type", "yarn").f32("llama.rope.scaling.yarn_beta_fast", 1.0), Works),
        case("hp_window_0", int("attention.sliding_window", 0), Works),
        case("hp_window_1", int("attention.sliding_window", 1), Works),
        case("hp_window_max", int("attention.sliding_window", MAX), Works),
        case("hp_window_pattern_0", small("gemma3").writer().u32("gemma3.attention.sliding_window_pattern", 0), bad("pattern")),
        case("hp_window_pattern_short", small("gemma3").writer().bools("gemma3.attention.sliding_window_pattern", &[true]), bad("pattern")),
        case("hp_window_pattern_u32s", small("gemma3").writer().u32s("gemma3.attention.sliding_window_pattern", &[1, 0]), bad("pattern")),
        case("hp_softcap_nan", small("gemma2").writer().f32("gemma2.attn_logit_softcapping", f32::NAN), bad("softcapping")),
        case("hp_softcap_neg", small("gemma2").writer().f32("gemma2.final_logit_softcapping", -30.0), bad("softcapping")),
        case("hp_softcap_0", small("gemma2").writer().f32("gemma2.final_logit_softcapping", 0.0), Works),
        case("hp_unknown_key", text("no.such.key", "?"), Works),
        case("hp_name_nonutf8", good().str("general.name", b"\xff\xfe"), Works),
    ], generate);
}

/// The length of the context is the file's, and a session takes it by default: more than there is
/// memory for must be an error, and not the end of whichever process the system chooses.
#[test]
fn a_context_beyond_memory_is_an_error() {
    let wide = Tiny { n_head: 4, n_head_kv: 4, head_dim: 64, ..small("llama") };
    let (model, default) = (ModelParams::default(), SessionParams::default());
    let per_cell =
        Model::plan(Input::Memory(&wide.gguf()), &model, &default).expect("a plan").kv_bytes
            / u64::from(wide.n_ctx_train);
    let cells = (tern::base::memory::available() / 2 * 3 / per_cell).min(1 << 30);
    let file = wide.writer().u32("llama.context_length", cells as u32).write();
    let model = load(&file).expect("loads");
    let error = Session::new(Arc::clone(&model), &default).err().expect("too large");
    assert!(matches!(error, Error::OutOfMemory(_)), "{error}");
    assert!(Session::new(model, &SessionParams { n_ctx: 64, ..default }).is_ok());
}

#[test]
#[rustfmt::skip] // one case, one line
fn tensors() {
    const Q: &str = "blk.1.attn_q.weight";
    let q8_0 = |cols: u64, rows: u64| vec![0; (cols / 32 * 34 * rows) as usize];
    let freqs = |n: usize, x: f32| good().tensor_f32("rope_freqs.weight", &[n as u64], &vec![x; n]);
    let bad = |part| Fails("BAD_TENSOR", part);
    check(vec![
        case("w_missing_embd", good().without_tensor("token_embd.weight"), bad("token_embd.weight: missing")),
        case("w_missing_norm", good().without_tensor("output_norm.weight"), bad("output_norm.weight: missing")),
        case("w_missing_q", good().without_tensor(Q), bad("blk.1.attn_q.weight: missing")),
        case("w_missing_all", good().tensor_names().iter().fold(good(), |file, name| file.without_tensor(name)), bad("missing")),
        case("w_missing_bias", small("qwen2").writer().without_tensor("blk.0.attn_k.bias"), bad("blk.0.attn_k.bias: missing")),
        case("w_missing_qk_norm", small("qwen3").writer().without_tensor("blk.0.attn_q_norm.weight"), bad("attn_q_norm.weight: missing")),
        case("w_extra", good().tensor_f32("blk.0.attn_sinks.weight", &[2], &[0.0; 2]), Fails("UNSUPPORTED", "tensors")),
        case("w_transposed", good().tensor_f32("blk.0.ffn_down.weight", &[32, 128], &[0.0; 4096]), bad("blk.0.ffn_down.weight: 32 x 128")),
        case("w_row_short", good().tensor_f32(Q, &[63, 64], &[0.0; 63 * 64]), bad(Q)),
        case("w_rows_few", good().tensor_f32(Q, &[64, 63], &[0.0; 63 * 64]), bad(Q)),
        case("w_rows_many", good().tensor_f32(Q, &[64, 65], &[0.0; 65 * 64]), bad(Q)),
        case("w_rank_0", good().tensor_f32("output_norm.weight", &[], &[0.0]), bad("output_norm.weight")),
        case("w_rank_3", good().tensor_f32(Q, &[64, 32, 2], &[0.0; 4096]), bad(Q)),
        case("w_rank_4_of_ones", good().tensor_f32(Q, &[64, 64, 1, 1], &[0.0; 4096]), Works),
        case("w_norm_quantised", good().tensor("output_norm.weight", DType::Q8_0, &[64], &q8_0(64, 1)), bad("output_norm.weight: type Q8_0")),
        case("w_bias_quantised", small("qwen2").writer().tensor("blk.0.attn_k.bias", DType::Q8_0, &[32], &q8_0(32, 1)), bad("blk.0.attn_k.bias")),
        case("w_types_mixed", good().tensor(Q, DType::Q8_0, &[64, 64], &q8_0(64, 64)), Works),
        case("w_embd_rows_few", good().tensor_f32("token_embd.weight", &[64, 100], &[0.0; 6400]), Fails("BAD_VOCAB", "100")),
        case("w_head_rows_few", good().tensor_f32("output.weight", &[64, 100], &[0.0; 6400]), bad("output.weight: 64 x 100")),
        case("w_all_zero", good().tensor_f32("token_embd.weight", &[64, N_VOCAB as u64], &[0.0; 64 * N_VOCAB]), Works),
        case("w_rope_freqs_short", freqs(15, 1.0), bad("15")),
        case("w_rope_freqs_0", freqs(16, 0.0), Fails("BAD_WEIGHTS", "rope")),
        case("w_rope_freqs_nan", freqs(16, f32::NAN), Fails("BAD_WEIGHTS", "rope")),
        case("w_rope_freqs_2d", good().tensor_f32("rope_freqs.weight", &[16, 2], &[1.0; 32]), bad("rope_freqs.weight")),
        case("w_rope_freqs_f16", good().tensor("rope_freqs.weight", DType::F16, &[16], &[0x3c; 32]), bad("rope_freqs.weight")),
        case("w_rope_long_alone", good().tensor_f32("rope_factors_long.weight", &[16], &[1.0; 16]), bad("belong together")),
        case("w_rope_freqs_1", freqs(16, 1.0), Works),
    ], generate);
}

/// `good`, with a vocabulary of SentencePiece's kind: three special tokens, all bytes, 29 pieces.
fn spm() -> GgufWriter {
    spm_of(&spm_tokens())
}

fn spm_tokens() -> Vec<(String, f32, i32)> {
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

fn spm_of(tokens: &[(String, f32, i32)]) -> GgufWriter {
    let scores: Vec<f32> = tokens.iter().map(|t| t.1).collect();
    let types: Vec<i32> = tokens.iter().map(|t| t.2).collect();
    good()
        .str("tokenizer.ggml.model", "llama")
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
fn spm_but(change: impl Fn(usize, &mut (String, f32, i32))) -> GgufWriter {
    let mut tokens = spm_tokens();
    tokens.iter_mut().enumerate().for_each(|(i, token)| change(i, token));
    spm_of(&tokens)
}

/// A file whose vocabulary and embeddings have the first `n` tokens of `spm`.
fn spm_first(n: usize) -> GgufWriter {
    let data = vec![0.25; 64 * n];
    let file = spm_of(&spm_tokens()[..n]);
    match n {
        0 => file,
        _ => file.tensor_f32("token_embd.weight", &[64, n as u64], &data),
    }
}

#[test]
#[rustfmt::skip] // one case, one line
fn vocabularies() {
    let key = |name: &str| format!("tokenizer.ggml.{name}");
    let id = |name: &str, id: u32| spm().u32(&key(name), id);
    let raw = |name: &str, kind, n, bytes: &[u8]| spm().value(&key(name), kind::ARRAY, &array(kind, n, bytes));
    let tokens = |change: &dyn Fn(usize, &mut Vec<u8>)| {
        let mut tokens: Vec<Vec<u8>> = spm_tokens().into_iter().map(|t| t.0.into_bytes()).collect();
        tokens.iter_mut().enumerate().for_each(|(i, token)| change(i, token));
        spm().strings("tokenizer.ggml.tokens", tokens)
    };
    let merges = |lines: &[&str]| good().strings("tokenizer.ggml.merges", lines);
    let n = N_VOCAB as u64;
    let bad = |part| Fails("BAD_VOCAB", part);
    let default_bos = |n| spm_first(n).without("tokenizer.ggml.bos_token_id").without("tokenizer.ggml.eos_token_id").without("tokenizer.ggml.unknown_token_id");
    check(vec![
        case("tok_model_missing", spm().without("tokenizer.ggml.model"), Fails("UNSUPPORTED_TOKENIZER", "tokenizer.ggml.model")),
        case("tok_model_unknown", spm().str("tokenizer.ggml.model", "magic"), Fails("UNSUPPORTED_TOKENIZER", "magic")),
        case("tok_model_u32", spm().u32("tokenizer.ggml.model", 1), bad("tokenizer.ggml.model")),
        case("tok_pre_unknown", good().str("tokenizer.ggml.pre", "magic"), Fails("UNSUPPORTED_TOKENIZER", "magic")),
        case("tok_ugm_charsmap_short", spm().str("tokenizer.ggml.model", "t5").u8s("tokenizer.ggml.precompiled_charsmap", &[1]), Fails("UNSUPPORTED_TOKENIZER", "t5")),
        case("tok_ugm_charsmap_bad", spm().u8s("tokenizer.ggml.precompiled_charsmap", &[255; 7]), Works),
        case("tok_ugm_charsmap_str", spm().str("tokenizer.ggml.precompiled_charsmap", "x"), Works),
        case("tok_empty", spm().strings("tokenizer.ggml.tokens", [""; 0]), bad("")),
        case("tok_empty_all", spm_first(0), bad("")),
        case("tok_missing", spm().without("tokenizer.ggml.tokens"), bad("tokens")),
        case("tok_one", default_bos(1), Works),
        case("tok_two", default_bos(2), Works),
        case("tok_short", spm().strings("tokenizer.ggml.tokens", ["a"; 1]), bad("")),
        case("tok_tokens_u8", raw("tokens", kind::U8, n, &[0; N_VOCAB]), bad("tokenizer.ggml.tokens")),
        case("tok_tokens_str", spm().str("tokenizer.ggml.tokens", "abc"), bad("tokenizer.ggml.tokens")),
        case("tok_scores_u8", raw("scores", kind::U8, n, &[0; N_VOCAB]), bad("tokenizer.ggml.scores")),
        case("tok_scores_f64", raw("scores", kind::F64, n, &[0; 8 * N_VOCAB]), bad("tokenizer.ggml.scores")),
        case("tok_scores_short", spm().f32s("tokenizer.ggml.scores", &[0.0]), bad("scores")),
        case("tok_scores_long", spm().f32s("tokenizer.ggml.scores", &[0.0; N_VOCAB + 1]), bad("scores")),
        case("tok_scores_missing", spm().without("tokenizer.ggml.scores"), bad("scores")),
        case("tok_scores_nan", spm().f32s("tokenizer.ggml.scores", &[f32::NAN; N_VOCAB]), bad("score")),
        case("tok_scores_inf", spm().f32s("tokenizer.ggml.scores", &[f32::NEG_INFINITY; N_VOCAB]), Works),
        case("tok_types_u8", raw("token_type", kind::U8, n, &[1; N_VOCAB]), bad("tokenizer.ggml.token_type")),
        case("tok_types_f32", raw("token_type", kind::F32, n, &[0; 4 * N_VOCAB]), bad("tokenizer.ggml.token_type")),
        case("tok_types_short", spm().i32s("tokenizer.ggml.token_type", &[1]), bad("token_type")),
        case("tok_types_long", spm().i32s("tokenizer.ggml.token_type", &[1; N_VOCAB + 1]), bad("token_type")),
        case("tok_bos_oob", id("bos_token_id", N_VOCAB as u32), bad("bos")),
        case("tok_eos_oob", id("eos_token_id", N_VOCAB as u32), bad("eos")),
        case("tok_unk_oob", id("unknown_token_id", N_VOCAB as u32), bad("unk")),
        case("tok_eot_oob", id("eot_token_id", N_VOCAB as u32), bad("")),
        case("tok_bos_max", id("bos_token_id", u32::MAX), bad("bos")),
        case("tok_bos_neg", spm().i32("tokenizer.ggml.bos_token_id", -1), bad("bos")),
        case("tok_bos_str", spm().str("tokenizer.ggml.bos_token_id", "1"), bad("bos")),
        case("tok_pad_oob", id("padding_token_id", u32::MAX), Works),
        case("tok_add_bos_without_bos", good().bool("tokenizer.ggml.add_bos_token", true), bad("bos")),
        case("tok_add_bos_u32", spm().u32("tokenizer.ggml.add_bos_token", 1), bad("add_bos_token")),
        case("tok_byte_neg", spm_but(|i, t| if i == 100 { t.0 = "<0x-1>".into() }), bad("")),
        case("tok_byte_zz", spm_but(|i, t| if i == 100 { t.0 = "<0xZZ>".into() }), bad("")),
        case("tok_byte_plus", spm_but(|i, t| if i == 100 { t.0 = "<0x+A>".into() }), bad("")),
        case("tok_byte_long", spm_but(|i, t| if i == 100 { t.0 = "<0x100>".into() }), bad("")),
        case("tok_byte_empty", spm_but(|i, t| if i == 100 { t.0.clear() }), bad("")),
        case("tok_byte_twice", spm_but(|i, t| if i == 100 { t.0 = "<0x41>".into() }), Works),
        case("tok_no_byte", spm_but(|i, t| if t.2 == 6 { *t = (format!("zz{i}"), 0.0, 1) }), Works),
        case("tok_no_byte_no_unk", spm_but(|i, t| if t.2 == 6 || i == 0 { *t = (format!("zz{i}"), 0.0, 1) }).u32("tokenizer.ggml.unknown_token_id", u32::MAX), bad("unk")),
        case("tok_dup", spm_but(|i, t| if i > 270 { t.0 = "a".into() }), Works),
        case("tok_dup_special", spm_but(|i, t| if i == 2 { t.0 = "<s>".into() }), Works),
        case("tok_nonutf8", tokens(&|i, t| if i == 280 { *t = b"\xff\xfe".to_vec() }), bad("")),
        case("tok_nul", tokens(&|i, t| if i == 280 { *t = b"\0".to_vec() }), Works),
        case("tok_text_empty", tokens(&|i, t| if i == 280 { t.clear() }), Works),
        case("tok_huge_piece", tokens(&|i, t| if i == 280 { *t = vec![b'x'; 8 << 20] }), Fails("LIMIT", "tokenizer.ggml.tokens[280]")),
        case("tok_types_unknown", spm_but(|i, t| if i > 270 { t.2 = [7, -1, i32::MAX, i32::MIN][i % 4] }), bad("")),
        case("tok_all_control", spm_but(|_, t| t.2 = 3), Works),
        case("tok_bpe_merges_missing", good().without("tokenizer.ggml.merges"), bad("merges")),
        case("tok_bpe_merges_empty", merges(&[]), bad("merges")),
        case("tok_bpe_merge_nospace", merges(&["t h", "the"]), bad("merge 1")),
        case("tok_bpe_merge_empty", merges(&["t h", ""]), bad("merge 1")),
        case("tok_bpe_merge_space", merges(&[" "]), bad("merge 0")),
        case("tok_bpe_merge_half", merges(&["t "]), bad("merge 0")),
        case("tok_bpe_merge_three", merges(&["t h e"]), bad("merge 0")),
        case("tok_bpe_merge_unknown", merges(&["t q"]), bad("merge 0")),
        case("tok_bpe_merge_twice", merges(&["t h", "t h"]), Works),
        case("tok_bpe_merges_u8", good().u8s("tokenizer.ggml.merges", &[0; 30]), bad("tokenizer.ggml.merges")),
        case("tok_bpe_types_missing", good().without("tokenizer.ggml.token_type"), Works),
        case("tok_bpe_bytes_missing", good().strings("tokenizer.ggml.tokens", (0..N_VOCAB).map(|i| format!("x{i}"))), bad("merge 0")),
        case("tok_scores_of_bpe", good().u8s("tokenizer.ggml.scores", &[0]), Works),
    ], generate);
}

/// Every text is tokenized in time that grows little faster than its length.
#[test]
fn hostile_texts() {
    fn texts(file: &[u8]) -> Result<(), Error> {
        let model = load(file)?;
        let unicode: String = (0..=0x10_FFFF).step_by(7).filter_map(char::from_u32).collect();
        let long = 1 << 20;
        for text in [
            "a".repeat(long),
            " ".repeat(long),
            "the ".repeat(long / 4),
            "\u{1f980}".repeat(long / 4),
            "e\u{301}".repeat(long / 3),
            "<turn>".repeat(long / 6),
            "<0x0A>".repeat(long / 6),
            "\0".repeat(long),
            "1".repeat(long),
            "'s".repeat(long / 2),
            unicode,
            String::new(),
        ] {
            for (add, parse) in [(false, false), (true, true)] {
                let mut tokens = Vec::new();
                model.tokenizer().tokenize(&text, add, parse, &mut tokens)?;
                if !add {
                    let mut bytes = Vec::new();
                    model.tokenizer().detokenize(&tokens, &mut bytes)?;
                    let bytes = String::from_utf8(bytes).expect("text of text is UTF-8");
                    let start: String = text.chars().take(20).collect();
                    assert_eq!(bytes.trim_start(), text.trim_start(), "{start}...");
                }
            }
        }
        Ok(())
    }
    check(vec![case("bpe", good(), Works), case("spm", spm(), Works)], texts);
}

#[test]
#[rustfmt::skip] // one case, one line
fn templates() {
    let template = |text: &str| good().str("tokenizer.chat_template", text);
    let bad = |part| Fails("BAD_TEMPLATE", part);
    let deep = |open: &str, middle: &str, close: &str, n: usize| {
        template(&format!("{{{{ {}{middle}{} }}}}", open.repeat(n), close.repeat(n)))
    };
    let blocks = |n: usize| template(&format!("{}x{}", "{% if true %}".repeat(n), "{% endif %}".repeat(n)));
    check(vec![
        case("tok_template_good", good(), Works),
        case("tok_template_plain", template("hello"), Works),
        case("tok_template_empty", template(""), Works),
        case("tok_template_missing", good().without("tokenizer.chat_template"), bad("")),
        case("tok_template_u32", good().u32("tokenizer.chat_template", 1), bad("")),
        case("tok_template_strings", good().strings("tokenizer.chat_template", ["a"]), bad("")),
        case("tok_template_nonutf8", good().str("tokenizer.chat_template", b"a\xff"), bad("")),
        case("tok_template_nul", template("a\0b"), Works),
        case("tok_template_unclosed", template("{% for m in messages %}"), bad("")),
        case("tok_template_unclosed_tag", template("{{ messages"), bad("")),
        case("tok_template_stray_end", template("{% endfor %}"), bad("")),
        case("tok_template_unknown_filter", template("{{ messages | no_such_filter }}"), bad("")),
        case("tok_template_unknown_call", template("{{ no_such_function() }}"), bad("")),
        case("tok_template_raise", template("{{ raise_exception('roles must alternate') }}"), bad("roles must alternate")),
        case("tok_template_include", template("{% include '/etc/passwd' %}"), bad("")),
        case("tok_template_import", template("{% import 'x' as y %}"), bad("")),
        case("tok_template_extends", template("{% extends 'chat' %}"), bad("")),
        case("tok_template_escape", template("{{ ''.__class__.__mro__[1].__subclasses__() }}"), bad("")),
        case("tok_template_escape_attr", template("{{ messages.__init__.__globals__ }}"), bad("")),
        case("tok_template_divide", template("{{ 1 // 0 }}"), bad("")),
        case("tok_template_overflow", template("{{ 9223372036854775807 * 9223372036854775807 * 9223372036854775807 }}"), bad("")),
        case("tok_template_power", template("{{ 10 ** 1000000000 }}"), bad("")),
        case("tok_template_index", template("{{ messages[99].role.x }}"), bad("")),
        case("tok_template_deep", deep("(", "1", ")", 100_000), bad("")),
        case("tok_template_deep_150", deep("(", "1", ")", 200), bad("")),
        case("tok_template_deep_list", deep("[", "1", "]", 100_000), bad("")),
        case("tok_template_deep_not", deep("not ", "1", "", 50_000), bad("")),
        case("tok_template_deep_minus", deep("-", "1", "", 50_000), Works),
        case("tok_template_deep_if", blocks(40_000), bad("")),
        case("tok_template_long_sum", deep("1+", "1", "", 100_000), Works),
        case("tok_template_long_chain", deep("", "messages", ".x", 100_000), bad("")),
        case("tok_template_long_filters", deep("", "'a'", "|upper", 100_000), Works),
        case("tok_template_long_concat", deep("'a'~", "1", "", 100_000), bad("")),
        case("tok_template_long_elif", template(&format!("{{% if x %}}{}{{% endif %}}", "{% elif y %}".repeat(50_000))), Works),
        case("tok_template_macro", template("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}"), bad("")),
        case("tok_template_macro_twice", template("{% macro m() %}{{ m() }}{{ m() }}{% endmacro %}{{ m() }}"), bad("")),
        case("tok_template_range", template("{% for i in range(1000000000) %}x{% endfor %}"), bad("")),
        case("tok_template_range_max", template("{{ range(9223372036854775807) | list }}"), bad("")),
        case("tok_template_range_list", template("{{ range(1000000000) | list | length }}"), bad("")),
        case("tok_template_nested_loops", template("{% for i in range(25000) %}{% for j in range(25000) %}{% endfor %}{% endfor %}"), bad("")),
        case("tok_template_output", template("{% set s = 'xxxxxxxxxxxxxxxx' * 65536 %}{% for i in range(1000) %}{{ s }}{% endfor %}"), bad("")),
        case("tok_template_repeat", template("{{ 'x' * 10000000000 }}"), bad("")),
        case("tok_template_repeat_list", template("{{ ([1] * 10000000000) | length }}"), bad("")),
        case("tok_template_doubling", template("{% set ns = namespace(s='x') %}{% for i in range(60) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}{{ ns.s | length }}"), bad("")),
        case("tok_template_doubling_list", template("{% set ns = namespace(s=[1]) %}{% for i in range(60) %}{% set ns.s = ns.s + ns.s %}{% endfor %}{{ ns.s | length }}"), bad("")),
        case("tok_template_replace", template("{% set ns = namespace(s='xx') %}{% for i in range(60) %}{% set ns.s = ns.s | replace('x', 'xxxxxxxxxxxxxxxx') %}{% endfor %}{{ ns.s | length }}"), bad("")),
        case("tok_template_join", template("{{ range(100000) | join('xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx') }}"), bad("")),
        case("tok_template_indent", template("{{ 'a\nb' | indent(2000000000) }}"), Works),
        case("tok_template_center", template("{{ '%2000000000d' | format(1) }}"), bad("")),
        case("tok_template_recursive_loop", template("{% for i in [1] recursive %}{{ loop([1]) }}{% endfor %}"), bad("")),
        case("tok_template_deep_value", template("{% set ns = namespace(x=[]) %}{% for i in range(100000) %}{% set ns.x = [ns.x] %}{% endfor %}{{ ns.x }}"), bad("")),
        case("tok_template_deep_value_quiet", template("{% set ns = namespace(x=[]) %}{% for i in range(100000) %}{% set ns.x = [ns.x] %}{% endfor %}done"), bad("")),
        case("tok_template_1m", template(&"x".repeat(1 << 20)), Works),
        case("tok_template_over_1m", template(&"x".repeat((1 << 20) + 1)), Fails("LIMIT", "tokenizer.chat_template")),
    ], format_chat);
}

/// A bad template is found when it is used; the model itself loads and generates.
#[test]
fn a_bad_template_does_not_stop_the_model() {
    let template = |text: &[u8]| good().str("tokenizer.chat_template", text);
    check(
        vec![
            case("unclosed", template(b"{{"), Works),
            case("nonutf8", template(b"\xff"), Works),
            case("macro", template(b"{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}"), Works),
        ],
        generate,
    );
}

#[test]
fn weights_that_are_not_numbers() {
    let mut cases = Vec::new();
    // In every tensor of every architecture: one NaN, in the middle.
    for arch in ["llama", "qwen2", "qwen3", "gemma2", "gemma3", "phi3"] {
        let good = small(arch).writer();
        for name in good.tensor_names() {
            for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                let mut file = good.clone();
                let data = file.tensor_data_mut(&name);
                let middle = data.len() / 8 * 4;
                data[middle..middle + 4].copy_from_slice(&bad.to_le_bytes());
                cases.push(case(arch, file, Fails("BAD_WEIGHTS", "")));
            }
        }
    }
    // In every type: the last block's scale, or the last element.
    for &dtype in DType::ALL {
        let tiny = Tiny { n_embd: 256, head_dim: 128, n_ff: 256, dtype, ..small("llama") };
        let (places, bad) = scales(dtype);
        for &place in places {
            for bad in bad {
                let mut file = tiny.writer();
                let data = file.tensor_data_mut("blk.1.ffn_down.weight");
                let at = data.len() - dtype.block_bytes() + place;
                data[at..at + bad.len()].copy_from_slice(bad);
                cases.push(case(dtype.name(), file, Fails("BAD_WEIGHTS", "blk.1.ffn_down.weight")));
            }
        }
        cases.push(case(dtype.name(), tiny.writer(), Works));
    }
    check(cases, generate);
}

/// Where a block has floats, and bytes there that are infinite or not a number.
fn scales(dtype: DType) -> (&'static [usize], &'static [&'static [u8]]) {
    const F32: &[&[u8]] = &[&[0, 0, 0xC0, 0x7F], &[0, 0, 0x80, 0xFF], &[1, 0, 0x80, 0x7F]];
    const F16: &[&[u8]] = &[&[0x00, 0x7E], &[0x00, 0xFC], &[0x01, 0x7C]];
    const BF16: &[&[u8]] = &[&[0xC0, 0x7F], &[0x80, 0xFF], &[0x81, 0x7F]];
    match dtype {
        DType::F32 => (&[0], F32),
        DType::F16 => (&[0], F16),
        DType::BF16 => (&[0], BF16),
        DType::Q4_0 | DType::Q5_0 | DType::Q8_0 | DType::Iq4Nl | DType::Iq4Xs => (&[0], F16),
        DType::Q4_1 | DType::Q5_1 | DType::Q4K | DType::Q5K => (&[0, 2], F16),
        DType::Q2K => (&[80, 82], F16),
        DType::Q3K => (&[108], F16),
        DType::Q6K => (&[208], F16),
        DType::Tq1_0 => (&[52], F16),
        DType::Tq2_0 => (&[64], F16),
        DType::Mxfp4 => (&[0], &[&[0xFF]]), // E8M0 has one NaN and no infinity
    }
}

/// Loads and generates from `n` files, each `good` with a few bytes before the weights changed.
fn spoil(good: &[u8], n: usize, seed: u64) -> Result<(), Error> {
    let header = Gguf::parse(&Source::from_memory(good))?.data_offset() as usize;
    let mut random = Random(seed);
    let mut below = |n: usize| random.next() as usize % n;
    let mut works = 0;
    for _ in 0..n {
        let mut file = good.to_vec();
        for _ in 0..=below(3) {
            file[below(header)] = [0, 1, 2, 0x7F, 0x80, 0xFF, b'a', below(256) as u8][below(8)];
        }
        works += usize::from(generate(&file).is_ok());
    }
    assert!(works > 0 && works < n, "{works} of {n} work");
    Ok(())
}

#[test]
fn spoiled_headers() {
    check(vec![case("bpe", good(), Works), case("spm", spm(), Works)], |file| {
        spoil(file, 3_000, 5)
    });
    let others = ["qwen3", "gemma2", "gemma3", "phi3"];
    check(others.map(|a| case(a, small(a).writer(), Works)).into(), |file| spoil(file, 500, 7));
}

/// Templates of random pieces: most do not parse, some run, and none does harm.
#[test]
#[rustfmt::skip] // lists of words
fn random_templates() {
    fn format(_: &[u8]) -> Result<(), Error> {
        let pieces = [
            "{{ ", " }}", "{% ", " %}", "{%- ", " -%}", "{#", "#}", "for m in messages", "endfor",
            "for i in range(9)", "if ", "elif ", "else", "endif", "set x = ", "set x", "endset",
            "macro f(a, b=1)", "endmacro", "f(", "messages", "m", "m.role", "m['content']", "x",
            "loop.index", "loop.last", "[", "]", "[1:2]", "[::-1]", "[-1]", "(", ")", "{", "}", ":",
            ",", "'a'", "\"\\n\"", "1", "-", "0.5", "9223372036854775807", "+", "*", "/", "//",
            "%", "**", "~", "|", "| trim", "| upper", "| length", "| join(', ')", "| tojson",
            "| default('')", "| list", "is defined", "is not none", "is string", "in", "not", "and",
            "or", "==", "<", "true", "none", "namespace(a=1)", "ns.a", "set ns.a = ", "break",
            "continue", "raise_exception('x')", "range(3)", ".split('a')", ".strip()", ".items()",
            "raw", "endraw", "generation", "endgeneration", "with a = 1", "endwith", "filter upper",
            "endfilter", "\n", " ", "\u{1f980}", "text", "if x else",
        ];
        let messages = [Message { role: "user", content: "a b" }];
        let mut random = Random(3);
        let mut works = 0;
        for _ in 0..30_000 {
            let n = 1 + random.next() as usize % 24;
            let mut template = String::new();
            for _ in 0..n {
                // Half of the time as a whole tag, so that more of them parse.
                let piece = pieces[random.next() as usize % pieces.len()];
                match random.next() % 4 {
                    0 => template.extend(["{{ ", piece, " }}"]),
                    1 => template.extend(["{% ", piece, " %}"]),
                    _ => template.extend([piece, " "]),
                }
            }
            let mut out = String::from("before");
            match tern::chat::format(&template, &messages, true, "<s>", "</s>", &mut out) {
                Ok(()) => works += 1,
                Err(Error::BadTemplate(_)) => assert_eq!(out, "before", "{template}"),
                Err(other) => panic!("{template}: {other}"),
            }
            assert!(out.starts_with("before"), "{template}");
        }
        assert!(works > 1_000, "{works} templates work");
        Ok(())
    }
    check(vec![Case { name: "pieces", file: Vec::new(), expected: Works }], format);
}
