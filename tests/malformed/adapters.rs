//! What is GGUF and no model: LoRA adapters, control vectors, importance matrices, projectors of
//! images. tern reads none of them; whoever hands one over for a model is told what it is.

use super::case::{Case, Outcome, Works, case, container, fails};
use super::models::{ARCHS, good, small};
use crate::support::gguf_writer::{GgufWriter, kind};
use tern::base::dtype::DType;

/// An adapter of rank 4 as converters write it.
fn adapter(arch: &str) -> GgufWriter {
    plain(arch).tensor_f32("blk.0.attn_q.weight.lora_a", &[64, 4], &[0.1; 256]).tensor_f32(
        "blk.0.attn_q.weight.lora_b",
        &[4, 64],
        &[0.1; 256],
    )
}

/// Its metadata.
fn plain(arch: &str) -> GgufWriter {
    GgufWriter::new()
        .str("general.architecture", arch)
        .str("general.type", "adapter")
        .str("adapter.type", "lora")
        .f32("adapter.lora.alpha", 16.0)
}

/// One for several experts, which the model does not have.
pub(crate) fn experts() -> GgufWriter {
    plain("llama").tensor_f32("blk.0.attn_q.weight.lora_a", &[64, 4, 8], &[0.1; 2048])
}

fn is(kind: &str) -> Outcome {
    fails("UNSUPPORTED", format!("general.type: found \"{kind}\", expected a model"))
}

#[rustfmt::skip] // one case, one line
pub(crate) fn cases() -> Vec<Case> {
    const ALPHA: &str = "adapter.lora.alpha";
    const A: &str = "blk.0.attn_q.weight.lora_a";
    const B: &str = "blk.0.attn_q.weight.lora_b";
    let no_type = || adapter("llama").without("general.type");
    let key = |part: &str| fails("UNSUPPORTED", format!("{part}: the file is an adapter, expected a model"));
    let tensor = |part: &str| fails("UNSUPPORTED", format!("{part}: belongs to a LoRA adapter"));
    let bare = || GgufWriter::new().str("general.architecture", "llama");
    let bad_tensor = |part: &str| fails("BAD_TENSOR", part);
    let mut cases = vec![
        case("lora_without_type", no_type(), key("adapter.type")),
        case("lora_without_any_key", adapter("llama").without("general.type").without("adapter.type").without(ALPHA), tensor(A)),
        case("lora_without_alpha", adapter("llama").without(ALPHA), is("adapter")),
        case("lora_alpha_alone", no_type().without("adapter.type"), key(ALPHA)),
        case("lora_alpha_nan", adapter("llama").f32(ALPHA, f32::NAN), is("adapter")),
        case("lora_alpha_0", adapter("llama").f32(ALPHA, 0.0), is("adapter")),
        case("lora_alpha_1e30", adapter("llama").f32(ALPHA, 1e30), is("adapter")),
        case("lora_alpha_neg", adapter("llama").f32(ALPHA, -16.0), is("adapter")),
        case("lora_alpha_str", adapter("llama").str(ALPHA, "16"), is("adapter")),
        case("lora_alpha_array", adapter("llama").f32s(ALPHA, &[16.0]), is("adapter")),
        case("lora_type_unknown", adapter("llama").str("adapter.type", "dora"), is("adapter")),
        case("lora_type_u32", adapter("llama").u32("adapter.type", 1), is("adapter")),
        case("lora_type_empty", no_type().str("adapter.type", ""), key("adapter.type")),
        case("lora_arch_unknown", adapter("mamba"), is("adapter")),
        case("lora_arch_missing", adapter("llama").without("general.architecture"), is("adapter")),
        case("lora_rank_1", plain("llama").tensor_f32(A, &[64, 1], &[0.1; 64]).tensor_f32(B, &[1, 64], &[0.1; 64]), is("adapter")),
        case("lora_rank_beyond_width", plain("llama").tensor_f32(A, &[64, 256], &[0.1; 1 << 14]).tensor_f32(B, &[256, 64], &[0.1; 1 << 14]), is("adapter")),
        case("lora_rank_0", plain("llama").raw_tensor(A.as_bytes(), 2, &[64, 0], 0, None, &[]), bad_tensor(&format!("{A}: shape: a dimension of 0"))),
        case("lora_ranks_differ", adapter("llama").tensor_f32(B, &[8, 64], &[0.1; 512]), is("adapter")),
        case("lora_transposed", plain("llama").tensor_f32(A, &[4, 64], &[0.1; 256]).tensor_f32(B, &[64, 4], &[0.1; 256]), is("adapter")),
        case("lora_experts", experts(), is("adapter")),
        case("lora_layer_unknown", plain("llama").tensor_f32("blk.99.attn_q.weight.lora_a", &[64, 4], &[0.1; 256]), is("adapter")),
        case("lora_half_of_a_pair", adapter("llama").without_tensor(B), is("adapter")),
        case("lora_other_half_of_a_pair", no_type().without("adapter.type").without(ALPHA).without_tensor(A), tensor(B)),
        case("lora_no_tensors", plain("llama"), is("adapter")),
        case("lora_dup", adapter("llama").raw_tensor(A.as_bytes(), 1, &[1], 0, None, &[0; 4]), fails("BAD_FILE", format!("{A}: the name occurs twice"))),
        case("lora_name_too_long", plain("llama").raw_tensor(&[b'n'; 200], 1, &[1], 0, None, &[0; 4]), fails("LIMIT", "name of tensor 0: a string of 200 bytes")),
        case("lora_data_cut", adapter("llama").claim_shape(B, &[4, 128]), fails("BAD_FILE", format!("{B}: the file is cut short"))),
        case("lora_nan", plain("llama").tensor_f32(A, &[64, 4], &[f32::NAN; 256]), is("adapter")),
        case("lora_f16", plain("llama").tensor(A, DType::F16, &[64, 4], &[0; 512]), is("adapter")),
        case("lora_type_number", plain("llama").raw_tensor(A.as_bytes(), 1, &[32], 31, None, &[0; 64]), fails("UNSUPPORTED_DTYPE", format!("{A}: type: 31"))),
        case("lora_in_a_model", good().tensor_f32("blk.0.attn_q.weight.lora_a", &[64, 4], &[0.1; 256]), tensor(A)),
        case("lora_key_in_a_model", good().f32(ALPHA, 16.0), key(ALPHA)),
        case("lora_model_of_that_type", good().str("general.type", "adapter"), is("adapter")),
        container("lora_ggla", [&b"algg\x01\0\0\0"[..], &[0; 64]].concat(), fails("BAD_FILE", "expected \"GGUF\": a format from before GGUF")),
        case("other_imatrix", bare().str("general.type", "imatrix"), is("imatrix")),
        case("other_imatrix_without_type", GgufWriter::new().strings("imatrix.datasets", ["a"]), fails("BAD_HPARAMS", "general.architecture: missing")),
        case("other_mmproj", bare().str("general.architecture", "clip").str("general.type", "mmproj"), is("mmproj")),
        case("other_mmproj_old", bare().str("general.architecture", "clip").bool("clip.has_vision_encoder", true), fails("UNSUPPORTED_ARCH", "clip")),
        case("other_control_vector", bare().str("general.architecture", "controlvector").tensor_f32("direction.1", &[64], &[0.1; 64]), fails("UNSUPPORTED_ARCH", "controlvector")),
        case("other_diffusion", bare().str("general.architecture", "flux"), fails("UNSUPPORTED_ARCH", "flux")),
        case("other_vocabulary_alone", good().tensor_names().iter().fold(good(), |file, name| file.without_tensor(name)), bad_tensor("token_embd.weight: missing")),
        case("other_type_model", good().str("general.type", "model"), Works),
        case("other_type_unknown", good().str("general.type", "merge"), Works), // says nothing against it
        case("other_type_u32", good().u32("general.type", 1), fails("BAD_HPARAMS", "general.type: 1 of kind u32")),
        case("other_type_array", good().value("general.type", kind::ARRAY, &[0; 12]), fails("BAD_HPARAMS", "general.type: an array")),
        case("other_type_empty", good().str("general.type", ""), Works),
    ];
    for arch in ARCHS {
        cases.push(case(format!("lora_{arch}"), adapter(arch), is("adapter")));
        cases.push(case(format!("lora_merged_into_{arch}"), small(arch).writer().tensor_f32("output.weight.lora_b", &[4, 64], &[0.1; 256]), tensor("output.weight.lora_b")));
    }
    cases
}
