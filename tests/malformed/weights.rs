//! Weights that are not numbers, in every tensor of every architecture, and in every scale of every
//! type; and weights that are numbers, but extreme.

use super::case::{Case, Works, case, fails};
use super::models::{ARCHS, good, small};
use crate::support::blocks::scale_places;
use crate::support::gguf_writer::GgufWriter;
use crate::support::tiny::Tiny;
use tern::base::dtype::DType;

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    // One in the middle of each tensor.
    for arch in ARCHS {
        let good = small(arch).writer();
        for name in good.tensor_names() {
            for (what, x) in [("nan", f32::NAN), ("inf", f32::INFINITY), ("neg", -f32::INFINITY)] {
                let mut file = good.clone();
                let data = file.tensor_data_mut(&name);
                let middle = data.len() / 8 * 4;
                data[middle..middle + 4].copy_from_slice(&x.to_le_bytes());
                let expected = fails("BAD_WEIGHTS", format!("{name}: block {} of F32", middle / 4));
                cases.push(case(format!("weight_{arch}_{name}_{what}"), file, expected));
            }
        }
    }
    // In every type: the last block's scales, or the last element.
    for &dtype in DType::ALL {
        let model = typed(dtype);
        let (places, bad, extreme) = scales(dtype);
        for &place in places {
            for (i, bad) in bad.iter().enumerate() {
                let name = format!("weight_{}_at_{place}_{i}", dtype.name());
                let expected = fails("BAD_WEIGHTS", format!("{TENSOR}: block "));
                cases.push(case(name, scaled(&model, dtype, place, bad), expected));
            }
            for (what, bytes) in
                ["denormal", "minus_denormal", "zero", "minus_zero"].iter().zip(extreme)
            {
                let name = format!("weight_{}_at_{place}_{what}", dtype.name());
                cases.push(case(name, scaled(&model, dtype, place, bytes), Works));
            }
        }
        cases.push(case(format!("weight_{}_good", dtype.name()), model, Works));
    }
    cases.extend(large());
    cases
}

const TENSOR: &str = "blk.1.ffn_down.weight";

fn typed(dtype: DType) -> GgufWriter {
    Tiny { n_embd: 256, head_dim: 128, n_ff: 256, dtype, ..small("llama") }.writer()
}

/// That model with other bytes at a place in the last block of a tensor.
fn scaled(model: &GgufWriter, dtype: DType, place: usize, bytes: &[u8]) -> GgufWriter {
    let mut file = model.clone();
    let data = file.tensor_data_mut(TENSOR);
    let at = data.len() - dtype.block_bytes() + place;
    data[at..at + bytes.len()].copy_from_slice(bytes);
    file
}

/// Weights that are finite, and whose sums are not. Loading them is right: files say such things
/// of tensors that are never reached. What comes of them is an error, and no garbage.
#[rustfmt::skip] // one case, one line
fn large() -> Vec<Case> {
    let full = |name: &str, n: u64, rows: u64, x: f32| {
        let shape = [n, rows];
        let file = small("llama").writer();
        file.tensor_f32(name, if rows == 1 { &shape[..1] } else { &shape }, &vec![x; (n * rows) as usize])
    };
    let not_finite = || fails("NOT_FINITE", "its logit is ");
    vec![
        case("weight_all_zero", full("token_embd.weight", 64, 288, 0.0), Works),
        case("weight_all_denormal", full("token_embd.weight", 64, 288, f32::from_bits(1)), Works),
        case("weight_norm_zero", full("output_norm.weight", 64, 1, 0.0), Works),
        case("weight_embd_max", full("token_embd.weight", 64, 288, f32::MAX), Works), // what the norm divides by is infinite
        case("weight_norm_max", full("output_norm.weight", 64, 1, f32::MAX), not_finite()),
        case("weight_down_max", full("blk.1.ffn_down.weight", 64, 64, f32::MAX), not_finite()),
        case("weight_q_max", full("blk.0.attn_q.weight", 64, 64, f32::MAX), not_finite()),
        case("weight_extra_tensor", good().tensor_f32("blk.0.attn_sinks.weight", &[2], &[f32::NAN; 2]), fails("UNSUPPORTED", "the file has 21 tensors")),
    ]
}

type Bits = &'static [&'static [u8]];

/// Where a block has floats; bytes there that are infinite or not a number; and the smallest
/// numbers and zeros, positive and negative.
fn scales(dtype: DType) -> (&'static [usize], Bits, Bits) {
    const F32: Bits = &[&[0, 0, 0xC0, 0x7F], &[0, 0, 0x80, 0xFF], &[1, 0, 0x80, 0x7F]];
    const F32_SMALL: Bits = &[&[1, 0, 0, 0], &[1, 0, 0, 0x80], &[0, 0, 0, 0], &[0, 0, 0, 0x80]];
    const F16: Bits = &[&[0x00, 0x7E], &[0x00, 0xFC], &[0x01, 0x7C]];
    const BF16: Bits = &[&[0xC0, 0x7F], &[0x80, 0xFF], &[0x81, 0x7F]];
    const HALF_SMALL: Bits = &[&[1, 0], &[1, 0x80], &[0, 0], &[0, 0x80]];
    let places = match scale_places(dtype) {
        [] => &[0], // the element is one, or has its scale first
        places => places,
    };
    match dtype {
        DType::F32 => (places, F32, F32_SMALL),
        DType::BF16 => (places, BF16, HALF_SMALL),
        DType::Mxfp4 => (places, &[&[0xFF]], &[&[0], &[1]]), // E8M0: one NaN, no infinity, no zero
        _ => (places, F16, HALF_SMALL),
    }
}
