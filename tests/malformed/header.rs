//! Magic, version and counts.

use super::case::{Case, Works, case, container, fails};
use super::models::{good, with};
use crate::support::gguf_writer::GgufWriter;
use crate::support::parsed::box_of_all;

#[rustfmt::skip] // one case, one line
pub(crate) fn cases() -> Vec<Case> {
    let n_tensors = |n| box_of_all().claim_n_tensors(n);
    let n_kv = |n| box_of_all().claim_n_kv(n);
    let whole = box_of_all().write();
    let cut = |n: usize| whole[..n].to_vec();
    let start = |bytes: &[u8]| with(whole.clone(), 0, bytes);
    let version = |n: u32| box_of_all().version(n);
    let bad = |part: &str| fails("BAD_FILE", part);
    let magic = |found: &str| bad(&format!("byte 4: magic: \"{found}\", expected \"GGUF\""));
    let mut twice = whole.clone();
    twice.extend(&whole);
    let mut cases = vec![
        container("hdr_empty", vec![], bad("byte 0: magic: 4 bytes expected, 0 are left")),
        container("hdr_magic_lower", start(b"gguf"), magic("gguf")),
        container("hdr_magic_reversed", start(b"FUGG"), magic("FUGG")),
        container("hdr_magic_zeros", start(&[0; 4]), magic(r"\x00\x00\x00\x00")),
        container("hdr_magic_ones", start(&[0xFF; 4]), magic(r"\xff\xff\xff\xff")),
        container("hdr_magic_bom", [b"\xEF\xBB\xBF", &whole[..]].concat(), magic(r"\xef\xbb\xbfG")),
        container("hdr_magic_one_byte_late", [b"\0", &whole[..]].concat(), magic(r"\x00GGU")),
        container("hdr_magic_one_byte_early", whole[1..].to_vec(), magic(r"GUF\x03")),
        container("hdr_zip", start(b"PK\x03\x04"), bad("expected \"GGUF\": a zip archive")),
        container("hdr_gzip", start(b"\x1F\x8B\x08\0"), magic(r"\x1f\x8b\x08\x00")),
        container("hdr_elf", start(b"\x7FELF"), magic(r"\x7fELF")),
        container("hdr_safetensors", start(&[0x80, 0x10, 0, 0]), magic(r"\x80\x10\x00\x00")),
        container("hdr_lfs_pointer", b"version https://git-lfs.github.com/spec/v1\noid sha256:0".to_vec(), bad("a pointer of Git LFS")),
        container("hdr_web_page", b"<!DOCTYPE html><html>404</html>".to_vec(), bad("a web page")),
        container("hdr_web_page_bare", b"<html>404</html>".to_vec(), bad("a web page")),
        container("hdr_ggml", start(b"lmgg"), bad("a format from before GGUF")),
        container("hdr_ggmf", start(b"fmgg"), bad("a format from before GGUF")),
        container("hdr_ggjt", start(b"tjgg"), bad("a format from before GGUF")),
        container("hdr_v0", version(0), fails("UNSUPPORTED", "version: 0")),
        container("hdr_v1", version(1), fails("UNSUPPORTED", "version: 1,")),
        container("hdr_v2", version(2), Works),
        container("hdr_v4", version(4), fails("UNSUPPORTED", "version: 4, expected 2 or 3")),
        container("hdr_v259", version(0x103), fails("UNSUPPORTED", "version: 259")),
        container("hdr_v_max", version(u32::MAX), fails("UNSUPPORTED", "version: 4294967295")),
        container("hdr_big_endian", version(3 << 24), fails("UNSUPPORTED", "the file is big-endian")),
        container("hdr_big_endian_v2", version(2 << 24), fails("UNSUPPORTED", "the file is big-endian")),
        container("hdr_ntensors_2e60", n_tensors(1 << 60), bad("number of tensors: 1152921504606846976")),
        container("hdr_ntensors_max", n_tensors(u64::MAX), bad("number of tensors: 18446744073709551615")),
        container("hdr_ntensors_neg", n_tensors(i64::MIN as u64), bad("number of tensors: 9223372036854775808")),
        container("hdr_ntensors_one_more", n_tensors(4), bad("name of tensor 3")),
        container("hdr_ntensors_one_less", n_tensors(2), Works), // the row is taken for padding and data
        case("hdr_ntensors_0", good().claim_n_tensors(0), fails("BAD_TENSOR", "token_embd.weight: missing")),
        container("hdr_nkv_max", n_kv(u64::MAX), bad("number of metadata entries: 18446744073709551615")),
        container("hdr_nkv_32bits", n_kv(0xFFFF_FFFF), bad("number of metadata entries: 4294967295")),
        container("hdr_nkv_neg", n_kv(i64::MIN as u64), bad("number of metadata entries: 9223372036854775808")),
        container("hdr_nkv_one_more", n_kv(18), bad("name of tensor 0")),
        container("hdr_nkv_one_less", n_kv(16), fails("BAD_TENSOR", "k.bools: number of dimensions: 9")),
        container("hdr_nkv_0", n_kv(0), fails("BAD_TENSOR", "general.architecture: number of dimensions: 8")),
        container("hdr_both_max", n_kv(u64::MAX).claim_n_tensors(u64::MAX), bad("number of metadata entries")),
        container("hdr_counts_alone", GgufWriter::new(), Works),
        container("hdr_counts_alone_1", GgufWriter::new().claim_n_kv(1), bad("number of metadata entries: 1, the 0 bytes left")),
        container("hdr_twice", twice, Works), // what comes after the data is not read
        case("hdr_nothing_but_a_header", GgufWriter::new(), fails("BAD_HPARAMS", "general.architecture: missing")),
    ];
    // Each prefix, with the field that is not whole.
    for n in 1..24 {
        let field = match n {
            0..4 => "byte 0: magic: 4 bytes expected",
            4..8 => "byte 4: version: 4 bytes expected",
            8..16 => "byte 8: number of tensors: 8 bytes expected",
            _ => "byte 16: number of metadata entries: 8 bytes expected",
        };
        cases.push(container(format!("hdr_cut_at_{n}"), cut(n), bad(field)));
    }
    cases
}
