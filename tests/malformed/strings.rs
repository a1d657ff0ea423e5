//! Strings: lengths, bytes that are no UTF-8, and texts that stand where a name is expected.

use super::case::{Case, Works, case, container, fails, format_chat, using};
use super::models::{good, odd_value};
use crate::support::gguf_writer::{GgufWriter, array, kind, string};
use crate::support::parsed::box_of_all;

#[rustfmt::skip] // one case, one line
pub(crate) fn cases() -> Vec<Case> {
    let bad = |part: &str| fails("BAD_FILE", part);
    let len = |n: u64| odd_value(kind::STRING, &n.to_le_bytes());
    let element = |n: u64| odd_value(kind::ARRAY, &array(kind::STRING, 2, &[string(b"a"), n.to_le_bytes().to_vec()].concat()));
    let key = |name: &str, bytes: &[u8]| good().str(name, bytes);
    let arch = |bytes: &[u8]| key("general.architecture", bytes);
    let vocab = |part: &str| fails("BAD_VOCAB", part);
    let no_arch = |part: &str| fails("UNSUPPORTED_ARCH", format!("general.architecture: found {part}"));
    let not_utf8 = |key: &str, at: usize| format!("{key}: not UTF-8 at byte {at}");
    let mut cases = vec![
        container("str_1m", box_of_all().str("k.odd", vec![b'x'; 1 << 20]), Works),
        container("str_over_1m", box_of_all().str("k.odd", vec![b'x'; (1 << 20) + 1]), fails("LIMIT", "k.odd: a string of 1048577 bytes, at most 1048576")),
        container("str_2m", box_of_all().str("k.odd", vec![b'x'; 2 << 20]), fails("LIMIT", "k.odd: a string of 2097152 bytes")),
        container("str_empty", box_of_all().str("k.odd", ""), Works),
        container("str_nul", box_of_all().str("k.odd", "\0"), Works),
        container("str_nonutf8", box_of_all().str("k.odd", b"\xff\xfe"), Works), // until someone wants it as text
        container("str_cut", GgufWriter::new().raw_kv(b"k.odd", kind::STRING, &string(b"0123456789")[..14]), bad("k.odd: a string of 10 bytes, 6 are left")),
        container("str_without_len", GgufWriter::new().raw_kv(b"k.odd", kind::STRING, &[0; 7]), bad("k.odd: 8 bytes expected, 7 are left")),
        container("arr_str_64k", box_of_all().strings("k.odd", [vec![b'x'; 1 << 16]]), Works),
        container("arr_str_over_64k", box_of_all().strings("k.odd", [vec![b'x'; (1 << 16) + 1]]), fails("LIMIT", "k.odd[0]: a string of 65537 bytes, at most 65536")),
        container("arr_str_over_64k_late", box_of_all().strings("k.odd", [vec![b'x'; 1], vec![b'x'; (1 << 16) + 1]]), fails("LIMIT", "k.odd[1]: a string of 65537 bytes")),
        container("arr_str_nonutf8", box_of_all().strings("k.odd", [b"\xff"]), Works),
        case("str_name_nonutf8", key("general.name", b"\xff\xfe"), Works), // said by nobody but the file
        case("str_name_1m", key("general.name", &[b'x'; 1 << 20]), Works),
        case("str_arch_nonutf8", arch(b"llam\xff"), fails("BAD_HPARAMS", not_utf8("general.architecture", 4))),
        case("str_arch_nul", arch(b"llama\0"), no_arch(r#""llama\0""#)),
        case("str_arch_space", arch(b"llama "), no_arch("\"llama \"")),
        case("str_arch_newline", arch(b"llama\n"), no_arch("\"llama")),
        case("str_arch_case", arch(b"Llama"), no_arch("\"Llama\"")),
        case("str_arch_empty", arch(b""), no_arch("\"\"")),
        case("str_arch_prefix", arch(b"llam"), no_arch("\"llam\"")),
        case("str_arch_longer", arch(b"llama4"), no_arch("\"llama4\"")),
        case("str_arch_1m", arch(&[b'x'; 1 << 20]), no_arch("\"xxx")),
        case("str_arch_cyrillic", arch("ll\u{430}ma".as_bytes()), no_arch("\"ll\u{430}ma\"")),
        case("str_tokenizer_nonutf8", key("tokenizer.ggml.model", b"\xff"), vocab(&not_utf8("tokenizer.ggml.model", 0))),
        case("str_tokenizer_nul", key("tokenizer.ggml.model", b"gpt2\0"), fails("UNSUPPORTED_TOKENIZER", "tokenizer.ggml.model")),
        case("str_tokenizer_case", key("tokenizer.ggml.model", b"GPT2"), fails("UNSUPPORTED_TOKENIZER", "GPT2")),
        case("str_pre_nonutf8", key("tokenizer.ggml.pre", b"gpt-\xff"), vocab(&not_utf8("tokenizer.ggml.pre", 4))),
        case("str_pre_nul", key("tokenizer.ggml.pre", b"gpt-2\0"), fails("UNSUPPORTED_TOKENIZER", "gpt-2")),
        case("str_scaling_nonutf8", key("llama.rope.scaling.type", b"\x80"), fails("BAD_HPARAMS", not_utf8("llama.rope.scaling.type", 0))),
        case("str_scaling_empty", key("llama.rope.scaling.type", b""), fails("UNSUPPORTED", "llama.rope.scaling.type: found \"\"")),
        case("str_scaling_case", key("llama.rope.scaling.type", b"YaRN"), fails("UNSUPPORTED", "llama.rope.scaling.type: found \"YaRN\"")),
        case("str_type_nonutf8", key("general.type", b"mod\xffel"), fails("BAD_HPARAMS", not_utf8("general.type", 3))),
        using(format_chat, "str_template_nonutf8", key("tokenizer.chat_template", b"a\xff"), fails("BAD_TEMPLATE", "tokenizer.chat_template")),
    ];
    let lengths = [("max", u64::MAX), ("wrap", u64::MAX - 7), ("neg", 1 << 63), ("2e32", 1 << 32), ("1g", 1 << 30), ("2e31", 1 << 31)];
    for (name, n) in lengths {
        cases.push(container(format!("str_len_{name}"), len(n), bad(&format!("k.odd: a string of {n} bytes"))));
        cases.push(container(format!("arr_str_len_{name}"), element(n), bad(&format!("k.odd[1]: a string of {n} bytes"))));
    }
    cases
}
