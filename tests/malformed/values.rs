//! Values of the metadata and their arrays: kinds, lengths, ends.

use super::case::{Case, Works, container, fails};
use super::models::odd_value;
use crate::support::gguf_writer::{GgufWriter, array, kind, string};
use crate::support::parsed::box_of_all;

/// The kinds whose values have one size: number, name, bytes.
const SIZED: [(u32, &str, usize); 11] = [
    (kind::U8, "u8", 1),
    (kind::I8, "i8", 1),
    (kind::U16, "u16", 2),
    (kind::I16, "i16", 2),
    (kind::U32, "u32", 4),
    (kind::I32, "i32", 4),
    (kind::F32, "f32", 4),
    (kind::BOOL, "bool", 1),
    (kind::U64, "u64", 8),
    (kind::I64, "i64", 8),
    (kind::F64, "f64", 8),
];

/// The end of a file: one entry, and nothing after it.
fn last(kind: u32, bytes: &[u8]) -> GgufWriter {
    GgufWriter::new().raw_kv(b"k.odd", kind, bytes)
}

#[rustfmt::skip] // one case, one line
pub(crate) fn cases() -> Vec<Case> {
    let bad = |part: &str| fails("BAD_FILE", part);
    let arr = |kind, n, bytes: &[u8]| odd_value(kind::ARRAY, &array(kind, n, bytes));
    let mut nested = Vec::new(); // array of array of array ...
    for _ in 0..200_000 {
        nested.extend(kind::ARRAY.to_le_bytes());
        nested.extend(1u64.to_le_bytes());
    }
    let mut cases = vec![
        container("val_bool_2", odd_value(kind::BOOL, &[2]), bad("k.odd: a bool of 2, expected 0 or 1")),
        container("val_bool_255", odd_value(kind::BOOL, &[255]), bad("k.odd: a bool of 255")),
        container("arr_bool_255", arr(kind::BOOL, 3, &[0, 1, 255]), bad("k.odd: a bool of 255")),
        container("arr_bool_2_first", arr(kind::BOOL, 3, &[2, 1, 0]), bad("k.odd: a bool of 2")),
        container("arr_of_arr", arr(kind::ARRAY, 1, &array(kind::U8, 1, &[0])), bad("k.odd: an array of arrays")),
        container("arr_of_arr_empty", arr(kind::ARRAY, 0, &[]), bad("k.odd: an array of arrays")),
        container("arr_of_arr_max", arr(kind::ARRAY, u64::MAX, &[]), bad("k.odd: an array of arrays")),
        container("arr_nested_deep", odd_value(kind::ARRAY, &nested), bad("k.odd: an array of arrays")),
        container("arr_badtype_big", arr(77, u64::MAX, &[]), bad("k.odd: kind 77, expected 0 to 12")),
        container("arr_badtype_none", arr(13, 0, &[]), bad("k.odd: kind 13")),
        container("arr_of_1", arr(kind::U8, 1, &[0]), Works),
        container("arr_without_kind", last(kind::ARRAY, &[0; 3]), bad("k.odd: 4 bytes expected, 3 are left")),
        container("arr_without_len", last(kind::ARRAY, &[0; 11]), bad("k.odd: 8 bytes expected, 7 are left")),
        container("arr_u64_wrap", arr(kind::U64, (1 << 61) + 1, &[0; 64]), bad("k.odd: an array of 2305843009213693953 x u64")),
        container("arr_f64_wrap", arr(kind::F64, 1 << 61, &[0; 64]), bad("k.odd: an array of 2305843009213693952 x f64")),
        container("arr_u32_wrap", arr(kind::U32, (1 << 62) + 1, &[0; 64]), bad("k.odd: an array of 4611686018427387905 x u32")),
        container("arr_f32_wrap", arr(kind::F32, 1 << 62, &[0; 64]), bad("k.odd: an array of 4611686018427387904 x f32")),
        container("arr_u16_wrap", arr(kind::U16, (1 << 63) + 1, &[0; 64]), bad("k.odd: an array of 9223372036854775809 x u16")),
        container("arr_u8_neg", arr(kind::U8, 1 << 63, &[0; 64]), bad("k.odd: an array of 9223372036854775808 x u8")),
        container("arr_str_max", arr(kind::STRING, u64::MAX, &[0; 64]), bad("an array of 18446744073709551615 x string")),
        container("arr_str_1e9", arr(kind::STRING, 1_000_000_000, &[0; 64]), bad("an array of 1000000000 x string")),
        container("arr_str_wrap", arr(kind::STRING, (1 << 61) + 1, &[0; 64]), bad("an array of 2305843009213693953 x string")),
        container("arr_str_one_more", last(kind::ARRAY, &array(kind::STRING, 3, &[string(b"a"), string(b"bcdefghi")].concat())), bad("k.odd[2]: 8 bytes expected, 0 are left")),
        container("arr_str_in_arr_len", arr(kind::STRING, 2, &[string(b"a"), u64::MAX.to_le_bytes().to_vec()].concat()), bad("k.odd[1]: a string of 18446744073709551615 bytes")),
        container("val_none", last(kind::U8, &[]), bad("k.odd: 1 bytes expected, 0 are left")),
    ];
    for id in [13, 14, 31, 255, 256, 1 << 16, i32::MAX as u32, 1 << 31, u32::MAX] {
        cases.push(container(format!("val_kind_{id}"), odd_value(id, &[0; 8]), bad(&format!("k.odd: kind {id}, expected 0 to 12"))));
        cases.push(container(format!("arr_kind_{id}"), arr(id, 1, &[0; 8]), bad(&format!("k.odd: kind {id}, expected 0 to 12"))));
    }
    for (id, name, size) in SIZED {
        // A byte too few for the value; another entry keeps the count possible.
        if size > 1 {
            let cut = GgufWriter::new().u64("k.first", 0).raw_kv(b"k.odd", id, &vec![0; size - 1]);
            cases.push(container(format!("val_{name}_cut"), cut, bad(&format!("k.odd: {size} bytes expected, {} are left", size - 1))));
        }
        let one_more = last(kind::ARRAY, &array(id, 4, &vec![0; 4 * size - 1]));
        cases.push(container(format!("arr_{name}_cut"), one_more, bad(&format!("k.odd: an array of 4 x {name}, {} bytes are left", 4 * size - 1))));
        cases.push(container(format!("arr_{name}_max"), arr(id, u64::MAX, &[0; 64]), bad(&format!("an array of 18446744073709551615 x {name}"))));
        cases.push(container(format!("arr_{name}_empty"), arr(id, 0, &[]), Works));
        cases.push(container(format!("val_{name}_0"), odd_value(id, &vec![0; size]), Works));
        if id != kind::BOOL {
            cases.push(container(format!("val_{name}_ones"), odd_value(id, &vec![0xFF; size]), Works));
        }
    }
    cases.push(container("arr_str_empty", box_of_all().strings("k.odd", [""; 0]), Works));
    cases
}
