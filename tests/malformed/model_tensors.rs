//! Tensors that are sound by themselves, and not those of the model that the metadata describe.

use super::case::{Case, Works, case, fails};
use super::models::{good, small};
use crate::support::tiny::N_VOCAB;
use tern::base::dtype::DType;

#[rustfmt::skip] // one case, one line
pub(crate) fn cases() -> Vec<Case> {
    const Q: &str = "blk.1.attn_q.weight";
    let q8_0 = |cols: u64, rows: u64| vec![0; (cols / 32 * 34 * rows) as usize];
    let freqs = |n: usize, x: f32| good().tensor_f32("rope_freqs.weight", &[n as u64], &vec![x; n]);
    let bad = |part: &str| fails("BAD_TENSOR", part);
    vec![
        case("w_missing_embd", good().without_tensor("token_embd.weight"), bad("token_embd.weight: missing")),
        case("w_missing_norm", good().without_tensor("output_norm.weight"), bad("output_norm.weight: missing")),
        case("w_missing_q", good().without_tensor(Q), bad("blk.1.attn_q.weight: missing")),
        case("w_missing_all", good().tensor_names().iter().fold(good(), |file, name| file.without_tensor(name)), bad("missing")),
        case("w_missing_bias", small("qwen2").writer().without_tensor("blk.0.attn_k.bias"), bad("blk.0.attn_k.bias: missing")),
        case("w_missing_qk_norm", small("qwen3").writer().without_tensor("blk.0.attn_q_norm.weight"), bad("attn_q_norm.weight: missing")),
        case("w_extra", good().tensor_f32("blk.0.attn_sinks.weight", &[2], &[0.0; 2]), fails("UNSUPPORTED", "tensors")),
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
        case("w_embd_rows_few", good().tensor_f32("token_embd.weight", &[64, 100], &[0.0; 6400]), fails("BAD_VOCAB", "100")),
        case("w_head_rows_few", good().tensor_f32("output.weight", &[64, 100], &[0.0; 6400]), bad("output.weight: 64 x 100")),
        case("w_all_zero", good().tensor_f32("token_embd.weight", &[64, N_VOCAB as u64], &[0.0; 64 * N_VOCAB]), Works),
        case("w_rope_freqs_short", freqs(15, 1.0), bad("15")),
        case("w_rope_freqs_0", freqs(16, 0.0), fails("BAD_WEIGHTS", "rope")),
        case("w_rope_freqs_nan", freqs(16, f32::NAN), fails("BAD_WEIGHTS", "rope")),
        case("w_rope_freqs_2d", good().tensor_f32("rope_freqs.weight", &[16, 2], &[1.0; 32]), bad("rope_freqs.weight")),
        case("w_rope_freqs_f16", good().tensor("rope_freqs.weight", DType::F16, &[16], &[0x3c; 32]), bad("rope_freqs.weight")),
        case("w_rope_long_alone", good().tensor_f32("rope_factors_long.weight", &[16], &[1.0; 16]), bad("belong together")),
        case("w_rope_freqs_1", freqs(16, 1.0), Works),
    ]
}
