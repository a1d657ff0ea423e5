//! The table of tensors: names, dimensions, types.

use super::case::{Case, Works, container, fails};
use super::models::{odd_tensor, with};
use crate::support::parsed::box_of_all;
use tern::base::dtype::DType;

pub(crate) const F32: u32 = 0;

#[rustfmt::skip] // one case, one line
pub(crate) fn cases() -> Vec<Case> {
    let (bad, bad_tensor) = (|part: &str| fails("BAD_FILE", part), |part: &str| fails("BAD_TENSOR", part));
    let named = |name: &[u8]| box_of_all().raw_tensor(name, 1, &[1], F32, None, &[0; 4]);
    let whole = box_of_all().write();
    let header = box_of_all().header_len();
    let name_len = |n: u64| with(whole.clone(), header - 33, &n.to_le_bytes());
    let mut cases = vec![
        container("t_ndims0", box_of_all().raw_tensor(b"odd", 0, &[], F32, None, &[0; 4]), Works),
        container("t_ndims0_blocks", odd_tensor(0, &[], DType::Q8_0.gguf_id()), bad_tensor("odd: shape: 1 x 1 x 1 x 1 of Q8_0: rows are not whole blocks")),
        container("t_ndims4", odd_tensor(4, &[2, 2, 2, 2], F32), Works),
        container("t_ndims5", odd_tensor(5, &[1; 5], F32), bad_tensor("odd: number of dimensions: 5, at most 4")),
        container("t_ndims_255", odd_tensor(255, &[1; 4], F32), bad_tensor("odd: number of dimensions: 255")),
        container("t_ndims_2e31", odd_tensor(1 << 31, &[1; 4], F32), bad_tensor("odd: number of dimensions: 2147483648")),
        container("t_ndims_max", odd_tensor(u32::MAX, &[1; 4], F32), bad_tensor("odd: number of dimensions: 4294967295, at most 4")),
        container("t_name_empty", named(b""), bad("name of tensor 3: empty")),
        container("t_name_nul", named(b"a\0"), bad(r#"name of tensor 3: "a\x00" contains a NUL"#)),
        container("t_name_nul_alone", named(b"\0"), bad(r#""\x00" contains a NUL"#)),
        container("t_name_nonutf8", named(b"\xc0\xaf"), bad(r#"name of tensor 3: "\xc0\xaf" is not UTF-8"#)),
        container("t_name_utf8_cut", named(b"a\xe2\x96"), bad(r#""a\xe2\x96" is not UTF-8"#)),
        container("t_name_127", named(&[b'n'; 127]), Works),
        container("t_name_128", named(&[b'n'; 128]), fails("LIMIT", "name of tensor 3: a string of 128 bytes, at most 127")),
        container("t_name_64k", named(&[b'n'; 65_536]), fails("LIMIT", "name of tensor 3: a string of 65536 bytes")),
        container("t_name_dup", named(b"b"), bad("b: the name occurs twice")),
        container("t_name_dup_first", named(b"a"), bad("a: the name occurs twice")),
        container("t_name_case_differs", named(b"A"), Works),
        container("t_name_len_max", name_len(u64::MAX), bad("name of tensor 2: a string of 18446744073709551615 bytes")),
        container("t_name_len_neg", name_len(1 << 63), bad("name of tensor 2: a string of 9223372036854775808 bytes")),
        container("t_name_len_2e32", name_len((1 << 32) + 1), bad("name of tensor 2: a string of 4294967297 bytes")),
        container("t_name_len_0", name_len(0), bad("name of tensor 2: empty")),
        container("t_packed_in_plain", odd_tensor(2, &[32, 16], u32::from_le_bytes([8, b'P', b'1', b'6'])), bad_tensor("odd: type: Q8_0, packed, in a file that is not")),
        container("t_packed_unknown", odd_tensor(2, &[32, 16], u32::from_le_bytes([99, b'P', b'1', b'6'])), fails("UNSUPPORTED_DTYPE", "odd: type: 909201507")),
    ];
    for n_dims in 1..=4usize {
        for at in 0..n_dims {
            let mut dims = vec![4; n_dims];
            dims[at] = 0;
            let file = odd_tensor(n_dims as u32, &dims, F32);
            cases.push(container(format!("t_dim0_{at}_of_{n_dims}"), file, bad_tensor("odd: shape: a dimension of 0")));
        }
    }
    // Types that were removed, that only hold intermediate results, that tern has no kernels for.
    for id in [4, 5, 9, 15, 16, 17, 18, 19, 21, 22, 24, 25, 26, 27, 28, 29, 31, 32, 33, 36, 37, 38, 40, 41, 255, 256, 999, 1 << 16, 1 << 31, u32::MAX] {
        cases.push(container(format!("t_type_{id}"), odd_tensor(1, &[256], id), fails("UNSUPPORTED_DTYPE", format!("odd: type: {id}, which tern does not know"))));
    }
    for &dtype in DType::ALL.iter().filter(|d| d.block_len() > 1) {
        let (n, id, name) = (dtype.block_len() as u64, dtype.gguf_id(), dtype.name());
        let whole_blocks = |row: u64, rows: u64| bad_tensor(&format!("odd: shape: {row} x {rows} x 1 x 1 of {name}: rows are not whole blocks"));
        cases.push(container(format!("t_row_one_short_{name}"), odd_tensor(1, &[n - 1], id), whole_blocks(n - 1, 1)));
        cases.push(container(format!("t_row_one_more_{name}"), odd_tensor(2, &[n + 1, 2], id), whole_blocks(n + 1, 2)));
        cases.push(container(format!("t_row_half_twice_{name}"), odd_tensor(2, &[n / 2, 2], id), whole_blocks(n / 2, 2)));
    }
    // Cut within the last row of the table: the field that is not whole.
    let row = [(0, 8, "name of tensor 2"), (8, 9, "name of tensor 2"), (9, 13, "c: number of dimensions"), (13, 21, "c: shape"), (21, 25, "c: type"), (25, 33, "c: offset")];
    for (from, to, field) in row {
        for at in from..to {
            let file = whole[..header - 33 + at].to_vec();
            cases.push(container(format!("t_cut_at_{at}"), file, bad(&format!("{field}: "))));
        }
    }
    cases
}
