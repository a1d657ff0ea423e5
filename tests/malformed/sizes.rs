//! Sizes that do not fit: products of dimensions, sums of tensors, padding.

use super::case::{Case, Works, container, fails};
use super::models::{odd_tensor, placed};
use super::tensor_info::F32;
use crate::support::gguf_writer::GgufWriter;
use crate::support::parsed::box_of_all;
use tern::base::dtype::DType;

/// `n` tensors of 2^62 bytes and a little, one after the other: 3 of them and 4 of them wrap around.
pub(crate) fn huge(n: u64) -> GgufWriter {
    (0..n).fold(GgufWriter::new(), |file, i| {
        let offset = i.wrapping_mul((1 << 62) + 32);
        file.raw_tensor(format!("t{i}").as_bytes(), 1, &[(1 << 60) + 8], F32, Some(offset), &[])
    })
}

#[rustfmt::skip] // one case, one line
pub(crate) fn cases() -> Vec<Case> {
    let (bad, bad_tensor) = (|part: &str| fails("BAD_FILE", part), |part: &str| fails("BAD_TENSOR", part));
    let mut cases = vec![
        container("size_dim_neg", odd_tensor(2, &[4, u64::MAX], F32), bad_tensor("odd: shape: 4 x 18446744073709551615 x 1 x 1 of F32: too large")),
        container("size_dim_neg_first", odd_tensor(1, &[u64::MAX - 31], F32), bad_tensor("odd: shape: 18446744073709551584 x 1 x 1 x 1 of F32: too large")),
        container("size_2e62_then_another", placed(&[("a", (1 << 62) - 1, 0), ("b", 8, 0)]), bad_tensor("starts at 0 of the data")),
        container("size_2e62_alone", placed(&[("a", (1 << 62) - 1, 0)]), bad("a: the file is cut short: 256 bytes of data, expected 18446744073709551612")),
        container("size_2e62_at_32", placed(&[("a", (1 << 62) - 1, 32)]), bad_tensor("a: offset: 18446744073709551612 bytes at 32, beyond 64 bits")),
        container("size_2e63_at_2e63", placed(&[("a", 1 << 61, 1 << 63)]), bad_tensor("a: offset: 9223372036854775808 bytes at 9223372036854775808, beyond 64 bits")),
        container("size_sum_of_1", huge(1), bad("t0: the file is cut short")),
        container("size_sum_of_2", huge(2), bad("t0: the file is cut short")),
        container("size_sum_of_3", huge(3), bad("t0: the file is cut short")),
        container("size_sum_of_4", huge(4), bad_tensor("t3: offset: 4611686018427387936 bytes at 13835058055282163808, beyond 64 bits")),
        container("size_sum_of_5", huge(5), bad_tensor("t3: offset: ")),
        container("size_one_row_too_long", box_of_all().claim_shape("c", &[1 << 20, 1 << 15]), bad("c: the file is cut short")),
        container("size_one_element_more", box_of_all().claim_shape("c", &[4]), bad("c: the file is cut short: 166 bytes of data, expected 168")),
        container("size_one_element_less", box_of_all().claim_shape("c", &[2]), Works), // two bytes of padding
        container("size_one_block_more", box_of_all().claim_shape("b", &[32, 4]), bad_tensor("c: starts at 160 of the data, b ends at 168")),
        container("size_all_ones", odd_tensor(4, &[1; 4], F32), Works),
    ];
    let sample = [DType::F32, DType::F16, DType::Q8_0, DType::Q4_0, DType::Q4K, DType::Q6K, DType::Iq4Xs, DType::Tq1_0, DType::Mxfp4];
    for dtype in sample {
        let (id, name, block) = (dtype.gguf_id(), dtype.name(), dtype.block_len() as u64);
        let shapes: [(&str, Vec<u64>); 7] = [
            ("wraps_to_0", vec![1 << 32, 1 << 32]),
            ("wraps_to_a_block", vec![1 << 33, (1 << 31) + 1, 2]),
            ("in_all_dimensions", vec![1 << 16; 4]),
            ("in_the_last", vec![block, 1, 1, u64::MAX]),
            ("of_elements", vec![1 << 40, 1 << 24]),
            ("of_one_row", vec![u64::MAX / block * block, 3]),
            ("by_one_too_many", vec![1024, 1024, (1 << 44) + 1, 1]),
        ];
        for (what, dims) in shapes {
            let shape: Vec<String> = (0..4).map(|i| dims.get(i).copied().unwrap_or(1).to_string()).collect();
            let file = odd_tensor(dims.len() as u32, &dims, id);
            let expected = bad_tensor(&format!("odd: shape: {} of {name}: too large", shape.join(" x ")));
            cases.push(container(format!("size_{name}_{what}"), file, expected));
        }
    }
    cases
}
