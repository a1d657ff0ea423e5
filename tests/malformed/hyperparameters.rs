//! Hyperparameters: each by itself, and against each other and the tensors.

use super::case::{Case, Outcome, Works, case, fails};
use super::models::{good, small};
use crate::support::gguf_writer::{GgufWriter, array, kind, string};
use crate::support::tiny::Tiny;

const EPS: &str = "attention.layer_norm_rms_epsilon";
const BASE: &str = "rope.freq_base";
const MAX: u32 = u32::MAX;

#[rustfmt::skip] // one case, one line
pub(crate) fn cases() -> Vec<Case> {
    let arch = |name: &str| good().str("general.architecture", name);
    let int = |key: &str, n: u32| good().u32(&format!("llama.{key}"), n);
    let float = |key: &str, x: f32| good().f32(&format!("llama.{key}"), x);
    let text = |key: &str, x: &str| good().str(&format!("llama.{key}"), x);
    let without = |key: &str| good().without(&format!("llama.{key}"));
    let (bad, bad_tensor) = (|part: &str| fails("BAD_HPARAMS", part), |part: &str| fails("BAD_TENSOR", part));
    let mut cases = vec![
        case("hp_arch_missing", good().without("general.architecture"), bad("general.architecture")),
        case("hp_arch_unknown", arch("mamba"), fails("UNSUPPORTED_ARCH", "mamba")),
        case("hp_arch_other", arch("qwen2"), bad("qwen2.")),
        case("hp_arch_u32", good().u32("general.architecture", 1), bad("general.architecture")),
        case("hp_arch_nonutf8", good().str("general.architecture", b"llam\xff"), bad("general.architecture")),
        case("hp_block_count_0", int("block_count", 0), bad("llama.block_count")),
        case("hp_block_count_1", int("block_count", 1), fails("UNSUPPORTED", "tensors")),
        case("hp_block_count_3", int("block_count", 3), bad_tensor("blk.2.")),
        case("hp_block_513", int("block_count", 513), bad_tensor("blk.2.")),
        case("hp_block_count_1025", int("block_count", 1025), bad("llama.block_count")),
        case("hp_block_count_max", int("block_count", MAX), bad("llama.block_count")),
        case("hp_block_count_missing", without("block_count"), bad("llama.block_count: missing")),
        case("hp_block_count_neg", good().i32("llama.block_count", -2), bad("llama.block_count")),
        case("hp_block_count_u64_max", good().u64("llama.block_count", u64::MAX), bad("llama.block_count")),
        case("hp_block_count_u8", good().u8("llama.block_count", 2), Works),
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
        case("hp_context_length_2e30", int("context_length", 1 << 30), Works), // takes no memory where the caller wants less
        case("hp_context_length_2e30_and_1", int("context_length", (1 << 30) + 1), bad("llama.context_length: found 1073741825")),
        case("hp_context_length_missing", without("context_length"), bad("context_length")),
        case("hp_key_length_0", int("attention.key_length", 0), bad("key_length")),
        case("hp_key_length_31", int("attention.key_length", 31).u32("llama.attention.value_length", 31), bad_tensor("attn_q")),
        case("hp_heads_odd", Tiny { head_dim: 31, ..small("llama") }.writer(), bad("31")),
        case("hp_key_length_max", int("attention.key_length", MAX), bad("key_length")),
        case("hp_value_length_16", int("attention.value_length", 16), fails("UNSUPPORTED", "value_length")),
        case("hp_expert_max", int("expert_count", MAX), fails("UNSUPPORTED", "expert")),
        case("hp_expert_used_gt", int("expert_count", 2).u32("llama.expert_used_count", 3), fails("UNSUPPORTED", "expert")),
        case("hp_causal_false", good().bool("llama.attention.causal", false), fails("UNSUPPORTED", "llama.attention.causal: found false")),
        case("hp_causal_true", good().bool("llama.attention.causal", true), Works),
        case("hp_causal_u32", int("attention.causal", 0), bad("llama.attention.causal: 0 of kind u32, expected a bool")),
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
        case("hp_rope_scaling_unknown", text("rope.scaling.type", "magic"), fails("UNSUPPORTED", "magic")),
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
    ];
    cases.extend(wrong_kinds());
    cases.extend(wrong_floats());
    cases.extend(wrong_integers());
    cases
}

fn bad(key: &str, part: &str) -> Outcome {
    fails("BAD_HPARAMS", format!("{key}: {part}"))
}

/// A model of an architecture, with this value at a key of it.
fn set(arch: &'static str, key: &str, kind: u32, bytes: &[u8]) -> GgufWriter {
    small(arch).writer().value(&format!("{arch}.{key}"), kind, bytes)
}

/// Every integer, as each kind of value that it is not.
#[rustfmt::skip] // one case, one line
fn wrong_kinds() -> Vec<Case> {
    const KEYS: [(&str, &str); 11] = [
        ("llama", "block_count"),
        ("llama", "context_length"),
        ("llama", "embedding_length"),
        ("llama", "feed_forward_length"),
        ("llama", "attention.head_count"),
        ("llama", "attention.head_count_kv"),
        ("llama", "attention.key_length"),
        ("llama", "attention.value_length"),
        ("llama", "attention.sliding_window"),
        ("llama", "rope.dimension_count"),
        ("gemma3", "attention.sliding_window_pattern"),
    ];
    let mut cases = Vec::new();
    for (arch, key) in KEYS {
        let kinds: [(&str, u32, Vec<u8>, &str); 6] = [
            ("str", kind::STRING, string(b"2"), "\"2\" of kind string"),
            ("f32", kind::F32, 2f32.to_le_bytes().to_vec(), "2 of kind f32"),
            ("f64", kind::F64, 2f64.to_le_bytes().to_vec(), "2 of kind f64"),
            ("bool", kind::BOOL, vec![1], "true of kind bool"),
            ("i64_neg", kind::I64, (-2i64).to_le_bytes().to_vec(), "-2 of kind i64"),
            ("u64_2e32", kind::U64, ((1u64 << 32) + 2).to_le_bytes().to_vec(), "4294967298 of kind u64"),
        ];
        for (name, kind, bytes, part) in kinds {
            let full = format!("{arch}.{key}");
            cases.push(case(format!("hp_{key}_{name}"), set(arch, key, kind, &bytes), bad(&full, part)));
        }
        if !key.ends_with("pattern") {
            let list = array(kind::U32, 2, &[2, 0, 0, 0, 2, 0, 0, 0]);
            let full = format!("{arch}.{key}");
            cases.push(case(format!("hp_{key}_array"), set(arch, key, kind::ARRAY, &list), bad(&full, "an array of 2 x u32")));
        }
    }
    cases
}

/// Every float, as what is no number, beyond its range, or of another kind.
#[rustfmt::skip] // one case, one line
fn wrong_floats() -> Vec<Case> {
    const KEYS: [(&str, &str, bool); 11] = [ // the last: whether 0 is in its range
        ("llama", EPS, false),
        ("llama", BASE, false),
        ("llama", "rope.scaling.factor", true),
        ("llama", "rope.scaling.attn_factor", true),
        ("llama", "rope.scaling.yarn_ext_factor", true),
        ("llama", "rope.scaling.yarn_beta_fast", false),
        ("llama", "rope.scaling.yarn_beta_slow", false),
        ("llama", "rope.scale_linear", true),
        ("gemma3", "rope.freq_base_swa", false),
        ("gemma2", "attn_logit_softcapping", true),
        ("gemma2", "final_logit_softcapping", true),
    ];
    let mut cases = Vec::new();
    for (arch, key, zero) in KEYS {
        let full = format!("{arch}.{key}");
        let file = |kind, bytes: &[u8]| {
            let file = set(arch, key, kind, bytes);
            if key.contains("yarn") { file.str("llama.rope.scaling.type", "yarn") } else { file }
        };
        let numbers = [("nan", f32::NAN, "NaN"), ("inf", f32::INFINITY, "inf"), ("minus_inf", f32::NEG_INFINITY, "-inf"), ("minus_1", -1.0, "-1"), ("max", f32::MAX, "3402823")];
        for (name, x, part) in numbers {
            cases.push(case(format!("hp_{key}_{name}"), file(kind::F32, &x.to_le_bytes()), bad(&full, &format!("found {part}"))));
        }
        if !zero {
            cases.push(case(format!("hp_{key}_zero"), file(kind::F32, &[0; 4]), bad(&full, "found 0")));
            cases.push(case(format!("hp_{key}_denormal"), file(kind::F32, &[1, 0, 0, 0]), bad(&full, "found 0.000")));
        }
        cases.push(case(format!("hp_{key}_f64_nan"), file(kind::F64, &f64::NAN.to_le_bytes()), bad(&full, "found NaN")));
        cases.push(case(format!("hp_{key}_f64_max"), file(kind::F64, &f64::MAX.to_le_bytes()), bad(&full, "found inf")));
        cases.push(case(format!("hp_{key}_str"), file(kind::STRING, &string(b"1")), bad(&full, "\"1\" of kind string")));
        cases.push(case(format!("hp_{key}_u32"), file(kind::U32, &[1, 0, 0, 0]), bad(&full, "1 of kind u32, expected a float")));
        cases.push(case(format!("hp_{key}_bool"), file(kind::BOOL, &[1]), bad(&full, "true of kind bool")));
        cases.push(case(format!("hp_{key}_array"), file(kind::ARRAY, &array(kind::F32, 1, &[0; 4])), bad(&full, "an array of 1 x f32")));
    }
    cases
}

/// Of every architecture, the integers that shape it as 0, the largest, and missing.
#[rustfmt::skip] // one case, one line
fn wrong_integers() -> Vec<Case> {
    let mut cases = Vec::new();
    for arch in ["smollm3", "qwen2", "qwen3", "gemma2", "gemma3", "phi3"] {
        for key in ["block_count", "context_length", "embedding_length", "feed_forward_length", "attention.head_count"] {
            let full = format!("{arch}.{key}");
            let file = |n: u32| small(arch).writer().u32(&full, n);
            cases.push(case(format!("hp_{full}_0"), file(0), bad(&full, "found 0, expected 1 to")));
            cases.push(case(format!("hp_{full}_max"), file(MAX), bad(&full, "found 4294967295, expected 1 to")));
            cases.push(case(format!("hp_{full}_missing"), small(arch).writer().without(&full), bad(&full, "missing")));
        }
    }
    cases
}
