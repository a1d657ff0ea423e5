//! Where tensors lie: beyond the file, over each other, in files that end too early.

use super::case::{Case, Works, case, container, fails};
use super::models::{placed, small};
use crate::support::parsed::box_of_all;
use tern::base::file::Source;
use tern::gguf::Gguf;

#[rustfmt::skip] // one case, one line
pub(crate) fn cases() -> Vec<Case> {
    let (bad, bad_tensor) = (|part: &str| fails("BAD_FILE", part), |part: &str| fails("BAD_TENSOR", part));
    let whole = box_of_all().write();
    let header = box_of_all().header_len();
    let data = header.next_multiple_of(32);
    let cut = |n: usize| whole[..n].to_vec();
    let mut cases = vec![
        container("off_past_eof", placed(&[("a", 4, 0), ("b", 4, 1 << 40)]), bad_tensor("b: 16 bytes at 1099511627776 of the data, which has 256")),
        container("off_max", placed(&[("a", 4, u64::MAX - 31)]), bad_tensor("a: 16 bytes at 18446744073709551584 of the data, which has 256")),
        container("off_neg", placed(&[("a", 4, 1 << 63)]), bad_tensor("a: 16 bytes at 9223372036854775808")),
        container("off_end_past_eof", placed(&[("a", 9, 224)]), bad_tensor("a: 36 bytes at 224 of the data, which has 256")),
        container("off_at_eof", placed(&[("a", 1, 256)]), bad_tensor("a: 4 bytes at 256 of the data, which has 256")),
        container("off_last_bytes", placed(&[("a", 8, 224)]), Works),
        container("off_gap", placed(&[("a", 8, 0), ("b", 8, 224)]), Works),
        container("overlap", placed(&[("a", 16, 0), ("b", 16, 32)]), bad_tensor("b: starts at 32 of the data, a ends at 64")),
        container("overlap_same", placed(&[("a", 16, 64), ("b", 16, 64)]), bad_tensor("b: starts at 64 of the data, a ends at 128")),
        container("overlap_inside", placed(&[("a", 64, 0), ("b", 1, 128)]), bad_tensor("b: starts at 128 of the data, a ends at 256")),
        container("overlap_around", placed(&[("a", 1, 128), ("b", 64, 0)]), bad_tensor("a: starts at 128 of the data, b ends at 256")),
        container("overlap_by_one_byte", placed(&[("a", 9, 0), ("b", 8, 32)]), bad_tensor("b: starts at 32 of the data, a ends at 36")),
        container("overlap_of_three", placed(&[("a", 8, 0), ("b", 8, 64), ("c", 40, 32)]), bad_tensor("b: starts at 64 of the data, c ends at 192")),
        container("overlap_all_at_0", placed(&[("a", 1, 0), ("b", 1, 0), ("c", 1, 0)]), bad_tensor("b: starts at 0 of the data, a ends at 4")),
        container("unsorted_disjoint", placed(&[("a", 8, 64), ("b", 8, 0), ("c", 8, 128)]), Works),
        container("side_by_side", placed(&[("a", 8, 0), ("b", 8, 32), ("c", 8, 64)]), Works),
        container("cut_no_data", cut(data), bad("a: the file is cut short: 0 bytes of data, expected 166")),
        container("cut_no_padding", cut(header), bad("data: the file ends before it")),
        container("cut_in_padding", cut(data - 1), bad("data: the file ends before it")),
        container("cut_one_byte", cut(whole.len() - 1), bad("c: the file is cut short: 165 bytes of data, expected 166")),
        container("cut_data_half", cut((data + whole.len()) / 2), bad("b: the file is cut short: 83 bytes of data")),
        container("cut_in_metadata", cut(100), bad("byte ")),
        container("cut_after_metadata", cut(header - 115), bad("name of tensor 0: 8 bytes expected, 0 are left")),
        container("longer_by_one_byte", [&whole[..], b"\0"].concat(), Works),
        container("longer_by_1m", [&whole[..], &vec![0xFF; 1 << 20]].concat(), Works),
    ];
    // Of a whole model, cut within each tensor and just before its last byte; and each tensor moved.
    let model = small("qwen3").writer();
    let file = model.write();
    let gguf = Gguf::parse(&Source::from_memory(&file)).expect("a good file");
    let end = gguf.data_len();
    for tensor in gguf.tensors() {
        let name = tensor.name(&gguf);
        let start = (gguf.data_offset() + tensor.offset) as usize;
        let last = start + tensor.bytes as usize - 1;
        let short = |at: usize| bad(&format!("{name}: the file is cut short: {} bytes of data, expected {end}", at as u64 - gguf.data_offset()));
        cases.push(case(format!("cut_at_last_byte_of_{name}"), file[..last].to_vec(), short(last)));
        cases.push(case(format!("cut_in_{name}"), file[..(start + last) / 2].to_vec(), short((start + last) / 2)));
        let past = end.next_multiple_of(32);
        let moved = model.clone().claim_offset(name, past);
        cases.push(case(format!("moved_beyond_{name}"), moved, bad_tensor(&format!("{name}: {} bytes at {past} of the data, which has {end}", tensor.bytes))));
        let other = if tensor.offset == 0 { gguf.tensors()[1] } else { gguf.tensors()[0] };
        let moved = model.clone().claim_offset(name, other.offset);
        cases.push(case(format!("moved_onto_another_{name}"), moved, bad_tensor(&format!("starts at {} of the data", other.offset))));
    }
    cases
}
