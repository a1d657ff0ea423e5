//! `general.alignment`, and data that does not keep to it.

use super::case::{Case, Works, case, container, fails};
use super::models::{good, placed};
use crate::support::gguf_writer::{GgufWriter, array, kind, string};
use crate::support::parsed::box_of_all;

const KEY: &str = "general.alignment";

#[rustfmt::skip] // one case, one line
pub(crate) fn cases() -> Vec<Case> {
    let bad = |part: &str| fails("BAD_FILE", format!("{KEY}: {part}"));
    let aligned = |kind: u32, bytes: &[u8]| box_of_all().value(KEY, kind, bytes);
    let number = |n: u32| aligned(kind::U32, &n.to_le_bytes());
    let mut cases = vec![
        container("align_u64", aligned(kind::U64, &32u64.to_le_bytes()), Works),
        container("align_u64_max", aligned(kind::U64, &u64::MAX.to_le_bytes()), bad("18446744073709551615")),
        container("align_u64_2e32", aligned(kind::U64, &(1u64 << 32).to_le_bytes()), bad("4294967296")),
        container("align_u64_wraps_to_32", aligned(kind::U64, &((1u64 << 32) + 32).to_le_bytes()), bad("4294967328")),
        container("align_i32", aligned(kind::I32, &32i32.to_le_bytes()), bad("a value of kind i32, expected u32")),
        container("align_u16", aligned(kind::U16, &[32, 0]), bad("a value of kind u16")),
        container("align_u8", aligned(kind::U8, &[32]), bad("a value of kind u8")),
        container("align_f32", aligned(kind::F32, &32f32.to_le_bytes()), bad("a value of kind f32")),
        container("align_bool", aligned(kind::BOOL, &[1]), bad("a value of kind bool")),
        container("align_str", aligned(kind::STRING, &string(b"32")), bad("a value of kind string")),
        container("align_array", aligned(kind::ARRAY, &array(kind::U32, 1, &[32, 0, 0, 0])), bad("a value of kind array")),
        container("align_array_empty", aligned(kind::ARRAY, &array(kind::U32, 0, &[])), bad("a value of kind array")),
        case("align_model_64", good().alignment(64), Works),
        case("align_model_8", good().alignment(8), Works),
        case("align_model_65536", good().alignment(65_536), Works),
        case("align_says_64_is_32", good().u32(KEY, 64), fails("BAD_FILE", "output_norm.weight: the file is cut short")),
        case("align_is_64_says_32", good().lay_out_by(64), Works), // every multiple of 64 is one of 32
        container("align_offset_4", placed(&[("a", 4, 4)]), fails("BAD_TENSOR", "a: offset: 4, not a multiple of 32")),
        container("align_offset_31", placed(&[("a", 4, 31)]), fails("BAD_TENSOR", "a: offset: 31")),
        container("align_offset_33", placed(&[("a", 4, 33)]), fails("BAD_TENSOR", "a: offset: 33")),
        container("align_offset_odd_max", placed(&[("a", 4, u64::MAX)]), fails("BAD_TENSOR", "a: offset: 18446744073709551615")),
        container("align_second_offset", placed(&[("a", 4, 0), ("b", 4, 16)]), fails("BAD_TENSOR", "b: offset: 16, not a multiple of 32")),
        container("align_no_data", GgufWriter::new().alignment(65_536), Works),
        container("align_data_cut_away", GgufWriter::new().u32(KEY, 65_536).lay_out_by(1).raw_tensor(b"a", 1, &[1], 0, Some(0), &[0; 4]), fails("BAD_FILE", "data: the file ends before it")),
    ];
    for n in [0, 1, 2, 3, 4, 7, 9, 24, 31, 33, 48, 65_535, 65_537, 131_072, 1 << 30, 1 << 31, u32::MAX] {
        cases.push(container(format!("align_{n}"), number(n), bad(&format!("{n}, expected a power of two from 8 to 65536"))));
    }
    for n in [8, 16, 64, 65_536] {
        cases.push(container(format!("align_{n}"), box_of_all().alignment(n), Works));
    }
    cases
}
