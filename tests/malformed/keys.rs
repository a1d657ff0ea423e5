//! Keys of the metadata.

use super::case::{Case, Works, container, fails};
use crate::support::gguf_writer::{GgufWriter, kind};
use crate::support::parsed::box_of_all;

#[rustfmt::skip] // one case, one line
pub(crate) fn cases() -> Vec<Case> {
    let bad = |part: &str| fails("BAD_FILE", part);
    let len = |len: u64| box_of_all().raw_entry(&len.to_le_bytes());
    let key = |key: &[u8]| box_of_all().raw_kv(key, kind::U8, &[0]);
    let limit = |n: usize| fails("LIMIT", format!("key of metadata entry 17: a string of {n} bytes, at most 256"));
    let first = |key: &[u8]| GgufWriter::new().raw_kv(key, kind::U8, &[0]).u64("k", 1);
    vec![
        container("key_len_max", len(u64::MAX), bad("key of metadata entry 17: a string of 18446744073709551615 bytes")),
        container("key_len_wrap", len(u64::MAX - 300), bad("key of metadata entry 17: a string of 18446744073709551315 bytes")),
        container("key_len_neg", len(i64::MIN as u64), bad("key of metadata entry 17: a string of 9223372036854775808 bytes")),
        container("key_len_2e31", len(1 << 31), bad("key of metadata entry 17: a string of 2147483648 bytes")),
        container("key_len_2e32", len(1 << 32), bad("key of metadata entry 17: a string of 4294967296 bytes")),
        container("key_len_2e32_and_1", len((1 << 32) + 1), bad("key of metadata entry 17: a string of 4294967297 bytes")),
        container("key_empty", key(b""), bad("key of metadata entry 17: empty")),
        container("key_empty_first", first(b""), bad("key of metadata entry 0: empty")),
        container("key_nul", key(b"a\0b"), bad(r#"key of metadata entry 17: "a\x00b" contains a NUL"#)),
        container("key_nul_first", key(b"\0ab"), bad(r#""\x00ab" contains a NUL"#)),
        container("key_nul_last", key(b"ab\0"), bad(r#""ab\x00" contains a NUL"#)),
        container("key_nul_alone", key(b"\0"), bad(r#""\x00" contains a NUL"#)),
        container("key_nonutf8", key(b"a\xff"), bad(r#"key of metadata entry 17: "a\xff" is not UTF-8"#)),
        container("key_utf8_cut", key(b"a\xf0\x9f\xa6"), bad(r#""a\xf0\x9f\xa6" is not UTF-8"#)),
        container("key_utf8_overlong", key(b"\xc0\xaf"), bad(r#""\xc0\xaf" is not UTF-8"#)),
        container("key_utf8_surrogate", key(b"\xed\xa0\x80"), bad(r#""\xed\xa0\x80" is not UTF-8"#)),
        container("key_utf8_beyond", key(b"\xf4\x90\x80\x80"), bad(r#""\xf4\x90\x80\x80" is not UTF-8"#)),
        container("key_utf8_continuation", key(b"\x80"), bad(r#""\x80" is not UTF-8"#)),
        container("key_utf16", key(b"\xff\xfek\0"), bad("contains a NUL")),
        container("key_latin1", key(b"caf\xe9"), bad(r#""caf\xe9" is not UTF-8"#)),
        container("key_dup", key(b"k.u8"), bad("k.u8: the key occurs twice")),
        container("key_dup_other_kind", box_of_all().raw_kv(b"k.u8", kind::F64, &[0; 8]), bad("k.u8: the key occurs twice")),
        container("key_dup_architecture", box_of_all().raw_kv(b"general.architecture", kind::U8, &[0]), bad("general.architecture: the key occurs twice")),
        container("key_dup_alignment", box_of_all().raw_kv(b"general.alignment", kind::U32, &[64, 0, 0, 0]), bad("general.alignment: the key occurs twice")),
        container("key_dup_thrice", key(b"k.u8").raw_kv(b"k.u8", kind::U8, &[0]), bad("k.u8: the key occurs twice")),
        container("key_dup_at_once", first(b"k"), bad("k: the key occurs twice")),
        container("key_dup_long", GgufWriter::new().raw_kv(&[b'k'; 256], kind::U8, &[0]).raw_kv(&[b'k'; 256], kind::U8, &[0]), bad("kkk...: the key occurs twice")),
        container("key_256", key(&[b'k'; 256]), Works),
        container("key_257", key(&[b'k'; 257]), limit(257)),
        container("key_64k", key(&[b'k'; 65_536]), limit(65_536)),
        container("key_1m", key(&[b'k'; 1 << 20]), limit(1 << 20)),
        container("key_257_with_nul", key(&[0; 257]), limit(257)),
        container("key_one_byte", key(b"k"), Works),
        container("key_space", key(b" "), Works),
        container("key_control", key(b"\x1b[2J"), Works),
        container("key_emoji", key("\u{1f980}".as_bytes()), Works),
        container("key_case_differs", key(b"K.u8"), Works),
        container("key_dots", key(b"..."), Works),
        container("key_prefix_of_another", key(b"k.u"), Works),
        container("key_control_shown", box_of_all().raw_kv(b"\x1b[2J", kind::BOOL, &[2]), bad(r"\u{1b}[2J: a bool of 2")),
        container("key_then_nothing", GgufWriter::new().raw_entry(b"\x01\0\0\0\0\0\0\0kxxxx")
            .claim_n_kv(2), bad("number of metadata entries: 2")),
        container("key_cut", GgufWriter::new().raw_entry(b"\x0a\0\0\0\0\0\0\0kkkkkk"), bad("key of metadata entry 0: a string of 10 bytes, 6 are left")),
        container("key_without_kind", GgufWriter::new().raw_entry(b"\x04\0\0\0\0\0\0\0kkkkxx"), bad("kkkk: 4 bytes expected, 2 are left")),
    ]
}
