//! What brought down other readers of such files, under the numbers by which it was published: CVE
//! and GHSA entries, and issues of the projects. One file for each, made after its description.
//!
//! Entries about what tern does not have (grammars, servers, images, RPC) have no file.

use super::adapters;
use super::case::{
    Case, Outcome, Works, case, container, fails, format_chat, generate, load, using,
};
use super::models::{
    good, odd_tensor, odd_value, placed, small, spm, spm_but, spm_first, spm_texts,
};
use super::sizes::huge;
use super::tensor_info::F32;
use crate::support::gguf_writer::{GgufWriter, array, kind, string};
use crate::support::parsed::box_of_all;
use crate::support::tiny::N_VOCAB;
use tern::base::dtype::DType;
use tern::engine::Error;
use tern::tokenizer::MAX_TEXT_LEN;

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = containers();
    cases.extend(other_readers());
    cases.extend(models());
    cases.extend(vocabularies());
    cases.extend(templates());
    cases
}

fn bad(part: &str) -> Outcome {
    fails("BAD_FILE", part)
}

fn bad_tensor(part: &str) -> Outcome {
    fails("BAD_TENSOR", part)
}

/// Counts, lengths and sizes that wrap around, in llama.cpp and ggml.
#[rustfmt::skip] // one entry, one line
fn containers() -> Vec<Case> {
    let whole = box_of_all().write();
    let header = box_of_all().header_len();
    let array_of = |kind, n| odd_value(kind::ARRAY, &array(kind, n, &[0; 64]));
    let name = |bytes: &[u8]| box_of_all().raw_tensor(bytes, 1, &[1], F32, None, &[0; 4]);
    let align = |kind, bytes: &[u8]| box_of_all().value("general.alignment", kind, bytes);
    vec![
        // The table of tensors or of entries has fewer bytes than its count says.
        container("cve_2024_21836", box_of_all().claim_n_tensors(0x2E8_BA2E_8BA2_E8BB), bad("number of tensors: 209622091746699451")),
        container("cve_2024_23605", box_of_all().claim_n_kv(0x555_5555_5555_5556), bad("number of metadata entries: 384307168202282326")),
        // One more byte than the length of a string is none.
        container("cve_2024_23496", box_of_all().raw_entry(&u64::MAX.to_le_bytes()), bad("key of metadata entry 17: a string of 18446744073709551615 bytes")),
        container("cve_2024_21825", array_of(kind::U64, (1 << 61) + 1), bad("k.odd: an array of 2305843009213693953 x u64")),
        container("cve_2024_21802", odd_tensor(5, &[1; 5], F32), bad_tensor("odd: number of dimensions: 5, at most 4")),
        // Ends within the metadata, and frees what was never there.
        container("cve_2024_32878", whole[..300].to_vec(), bad("byte ")),
        container("ghsa_p5mv_gjc5_mwqv", whole[..header - 120].to_vec(), bad("k.bools: ")),
        container("cve_2024_41130", name(b""), bad("name of tensor 3: empty")),
        container("ghsa_49q7_2jmh_92fp", whole[..header - 30].to_vec(), bad("name of tensor 2: ")),
        // The sizes of several tensors wrap around, and then those of two with what is added.
        container("cve_2025_53630", huge(3), bad("t0: the file is cut short")),
        container("ghsa_vgg9_87g3_85w8", huge(5), bad_tensor("t3: offset: ")),
        container("cve_2026_27940", huge(2), bad("t0: the file is cut short")),
        container("ghsa_3p4r_fq3f_q74v", placed(&[("a", (1 << 62) - 8, 0), ("b", 132, u64::MAX - 31)]), bad_tensor("b: offset: 528 bytes at 18446744073709551584, beyond 64 bits")),
        container("cve_2026_33298", odd_tensor(4, &[1024, 1024, (1 << 42) + 1, 1], F32), bad_tensor("odd: shape: 1024 x 1024 x 4398046511105 x 1 of F32: too large")),
        container("ghsa_96jg_mvhq_q7q7", odd_tensor(2, &[1 << 32, 1 << 32], F32), bad_tensor("odd: shape: 4294967296 x 4294967296 x 1 x 1 of F32: too large")),
        container("llama_cpp_24759", placed(&[("a", (1 << 62) - 1, 0), ("b", 8, 0)]), bad_tensor("starts at 0 of the data")),
        container("llama_cpp_26318", placed(&[("a", (1 << 62) - 1, 32)]), bad_tensor("a: offset: 18446744073709551612 bytes at 32, beyond 64 bits")),
        container("llama_cpp_26318_alignment", align(kind::STRING, &string(b"32")), bad("general.alignment: a value of kind string")),
        container("llama_cpp_25164", odd_tensor(2, &[1 << 33, (1 << 31) + 1], DType::Q8_0.gguf_id()), bad_tensor("odd: shape: 8589934592 x 2147483649 x 1 x 1 of Q8_0: too large")),
        // Divides by a dimension of 0, and by the blocks of a type that was removed.
        container("llama_cpp_24263", odd_tensor(2, &[4, 0], F32), bad_tensor("odd: shape: a dimension of 0")),
        container("llama_cpp_26946", odd_tensor(1, &[0], F32), bad_tensor("odd: shape: a dimension of 0")),
        container("ggml_1517", odd_tensor(4, &[1, 1, 0, 1], F32), bad_tensor("odd: shape: a dimension of 0")),
        container("llama_cpp_8816", odd_tensor(1, &[32], 4), fails("UNSUPPORTED_DTYPE", "odd: type: 4")),
        // A small file that asks for a gigabyte.
        container("ggml_1516", odd_value(kind::STRING, &(1u64 << 30).to_le_bytes()), bad("k.odd: a string of 1073741824 bytes")),
        container("llama_cpp_19856", array_of(kind::STRING, 1 << 30), bad("k.odd: an array of 1073741824 x string")),
        container("llama_cpp_19856_alignment", align(kind::U32, &(1u32 << 30).to_le_bytes()), bad("general.alignment: 1073741824")),
        container("llama_cpp_24884", GgufWriter::new().raw_kv(b"", kind::U32, &[0; 4]), bad("key of metadata entry 0: empty")),
    ]
}

/// Ollama, candle, whisper.cpp, llamafile and others.
#[rustfmt::skip] // one entry, one line
fn other_readers() -> Vec<Case> {
    let whole = box_of_all().write();
    let model = good().write();
    let align_0 = || box_of_all().u32("general.alignment", 0);
    let past = |x: u64| placed(&[("a", 4, 0), ("b", 4, x)]);
    let hp = |key: &str, n: u32| good().u32(&format!("llama.{key}"), n);
    let hparams = |part: &str| fails("BAD_HPARAMS", part);
    let v1 = |file: GgufWriter| file.version(1);
    vec![
        container("kekzl_imp_532_reserve", box_of_all().claim_n_tensors(1 << 60), bad("number of tensors: 1152921504606846976")),
        container("kekzl_imp_532_elements_of_0_bytes", odd_value(kind::ARRAY, &array(77, u64::MAX, &[])), bad("k.odd: kind 77")),
        container("kekzl_imp_532_position_wraps", odd_value(kind::STRING, &(u64::MAX - 7).to_le_bytes()), bad("k.odd: a string of 18446744073709551608 bytes")),
        container("kekzl_imp_532_string_out_of_step", odd_value(kind::STRING, &[&[200, 0, 0, 0, 0, 0, 0, 1], &b"x"[..]].concat()), bad("k.odd: a string of 72057594037928136 bytes")),
        container("kekzl_imp_532_offsets", past(1 << 40), bad_tensor("b: 16 bytes at 1099511627776")),
        // A window of -1 bytes at an offset of a file.
        using(super::parts::part(13, u64::MAX - 1), "llamafile_1038", [&[0xFF; 13][..], &model].concat(), fails("INVALID_ARGUMENT", "offset")),
        // No dimensions are legal, and suggested fixes broke real files.
        container("whisper_cpp_3787", box_of_all().raw_tensor(b"odd", 0, &[], F32, None, &[0; 4]), Works),
        container("whisper_cpp_3944", odd_tensor(u32::MAX, &[1; 4], F32), bad_tensor("odd: number of dimensions: 4294967295")),
        container("whisper_cpp_3674", b"lmgg\xff\xff\xff\x7f".to_vec(), bad("a format from before GGUF")),
        case("whisper_cpp_3767", spm().strings("tokenizer.ggml.tokens", ["a"]), fails("BAD_VOCAB", "tokenizer.ggml.tokens: 1 of them")),
        case("whisper_cpp_4059", spm().u32("tokenizer.ggml.eot_token_id", 50_257), fails("BAD_VOCAB", "tokenizer.ggml.eot_token_id: 50257")),
        case("whisper_cpp_3879", hp("embedding_length", 1 << 31), hparams("llama.embedding_length: found 2147483648")),
        container("cve_2024_39720", whole[..4].to_vec(), bad("byte 4: version: 4 bytes expected, 0 are left")),
        container("cve_2024_12055", whole[..10].to_vec(), bad("byte 8: number of tensors")),
        case("cve_2025_0312", good().without("general.architecture"), hparams("general.architecture: missing")),
        container("cve_2025_0315", odd_value(kind::ARRAY, &array(kind::U8, u64::MAX, &[])), bad("k.odd: an array of 18446744073709551615 x u8")),
        container("cve_2025_0317", align_0(), bad("general.alignment: 0, expected")),
        container("cve_2025_66959", odd_value(kind::STRING, &(1u64 << 63).to_le_bytes()), bad("k.odd: a string of 9223372036854775808 bytes")),
        container("cve_2025_66960", v1(odd_value(kind::STRING, &u64::MAX.to_le_bytes())), fails("UNSUPPORTED", "version: 1,")),
        container("ollama_17042", odd_value(kind::ARRAY, &array(kind::STRING, 1 << 40, &[])), bad("k.odd: an array of 1099511627776 x string")),
        // Says that a tensor is larger than the file, and hands out the memory behind it.
        container("cve_2026_7482", box_of_all().claim_shape("c", &[1 << 20, 1 << 10]), bad("c: the file is cut short")),
        case("cve_2026_7482_of_a_model", model[..model.len() / 2].to_vec(), bad("the file is cut short")),
        container("candle_3533", odd_tensor(1, &[1 << 40], F32), bad("odd: the file is cut short")),
        container("candle_3713", b"tjgg\x03\0\0\0\xff\xff\xff\xff".to_vec(), bad("a format from before GGUF")),
        container("candle_3876", GgufWriter::new().u32("general.alignment", 0), bad("general.alignment: 0, expected")),
        case("onebit_monster_455", hp("attention.head_count", 0), hparams("llama.attention.head_count: found 0")),
        case("onebit_monster_694", hp("block_count", u32::MAX), hparams("llama.block_count: found 4294967295")),
        container("limabench_nkv", box_of_all().claim_n_kv(0xFFFF_FFFF), bad("number of metadata entries: 4294967295")),
    ]
}

/// Hyperparameters and weights.
#[rustfmt::skip] // one entry, one line
fn models() -> Vec<Case> {
    const EPS: &str = "llama.attention.layer_norm_rms_epsilon";
    let int = |key: &str, n: u32| good().u32(&format!("llama.{key}"), n);
    let hparams = |part: &str| fails("BAD_HPARAMS", part);
    let mut nan = good();
    nan.tensor_data_mut("blk.0.ffn_up.weight")[4..8].copy_from_slice(&f32::NAN.to_le_bytes());
    vec![
        // More layers than an array has room for.
        case("llama_cpp_25821", int("block_count", 513), bad_tensor("blk.2.")),
        case("llama_cpp_26051", int("block_count", 0), hparams("llama.block_count: found 0")),
        case("llama_cpp_experts", int("expert_count", 1025), fails("UNSUPPORTED", "llama.expert_count")),
        case("llama_cpp_experts_used", int("expert_count", 2).u32("llama.expert_used_count", 3), fails("UNSUPPORTED", "llama.expert_count")),
        case("llama_cpp_eps_while_evaluating", good().f32(EPS, -1e-5), hparams(EPS)),
        case("llama_cpp_28345", good().u32s("llama.attention.head_count_kv", &[1, 0]), hparams("llama.attention.head_count_kv: an array of 2 x u32")),
        case("llama_cpp_2247", int("attention.head_count_kv", 0), hparams("llama.attention.head_count_kv: found 0")),
        case("llama_cpp_24085", small("gemma3").writer().u32("gemma3.attention.head_count", 0), hparams("gemma3.attention.head_count: found 0")),
        case("llama_cpp_alignment_1", good().lay_out_by(1).u32("general.alignment", 1), bad("general.alignment: 1, expected")),
        case("llama_cpp_rope_base_nan", good().f32("llama.rope.freq_base", f32::NAN), hparams("llama.rope.freq_base: found NaN")),
        case("llama_cpp_check_tensors", nan, fails("BAD_WEIGHTS", "blk.0.ffn_up.weight: block 1 of F32")),
        case("llama_cpp_29128", adapters::experts(), fails("UNSUPPORTED", "general.type: found \"adapter\"")),
        case("llama_cpp_16555", good().tensor_f32("blk.0.attn_q.weight.lora_a", &[64, 4], &[0.1; 256]), fails("UNSUPPORTED", "blk.0.attn_q.weight.lora_a")),
        // A valid model of small width, which broke a kernel.
        using(generate, "ggml_amx_small_q8_0", crate::support::tiny::Tiny { dtype: DType::Q8_0, ..small("llama") }.gguf(), Works),
    ]
}

/// Vocabularies and texts.
#[rustfmt::skip] // one entry, one line
fn vocabularies() -> Vec<Case> {
    let vocab = |part: &str| fails("BAD_VOCAB", part);
    let raw = |name: &str, kind, bytes: &[u8]| spm().array(&format!("tokenizer.ggml.{name}"), kind, N_VOCAB as u64, bytes);
    let byte = |text: &'static str| spm_but(move |i, t| if i == 100 { t.0 = text.into() });
    let charsmap = |n: usize| spm().str("tokenizer.ggml.model", "t5").u8s("tokenizer.ggml.precompiled_charsmap", &vec![0xFF; n]);
    let no_unigram = || fails("UNSUPPORTED_TOKENIZER", "tokenizer.ggml.model is \"t5\"");
    let bare = |n| spm_first(n).without("tokenizer.ggml.bos_token_id").without("tokenizer.ggml.eos_token_id").without("tokenizer.ggml.unknown_token_id");
    vec![
        case("cve_2025_49847", spm_texts(|i, t| if i == 280 { *t = vec![b'x'; 8 << 20] }), fails("LIMIT", "tokenizer.ggml.tokens[280]: a string of 8388608 bytes")),
        case("ghsa_8wwf_w4qm_gpqr", spm_texts(|i, t| if i == 280 { *t = vec![b'x'; 65_537] }), fails("LIMIT", "tokenizer.ggml.tokens[280]: a string of 65537 bytes")),
        using(long_text, "cve_2025_52566", spm(), fails("LIMIT", "text: ")),
        // A vocabulary of one token, whose default ids lie beyond it.
        case("ghsa_g4cc_763q_h9h6", bare(1), Works),
        case("ghsa_g4cc_763q_h9h6_id", spm_first(1), vocab("bos token 1, expected less than 1")),
        case("llama_cpp_25969", byte("<0x-1>"), vocab("token 100: \"<0x-1>\" is not a byte")),
        case("llama_cpp_26511", byte("<0xZZ>"), vocab("token 100: \"<0xZZ>\" is not a byte")),
        case("llama_cpp_27226", byte("<0x100>"), vocab("token 100: \"<0x100>\" is not a byte")),
        case("llama_cpp_24888", raw("scores", kind::U8, &[0; N_VOCAB]), vocab("tokenizer.ggml.scores: element 0 is 0 of kind u8")),
        case("llama_cpp_26690", raw("token_type", kind::U8, &[1; N_VOCAB]), vocab("tokenizer.ggml.token_type: element 0 is 1 of kind u8")),
        case("llama_cpp_25258", charsmap(1), no_unigram()),
        case("llama_cpp_18750", charsmap(64), no_unigram()),
        case("llama_cpp_24885", spm_but(|i, t| if i > 270 { t.0 = "a".into() }), Works),
        case("llama_cpp_24885_nonutf8", spm_texts(|i, t| if i == 280 { *t = b"\xff\xfe".to_vec() }), vocab("token 280: not valid UTF-8")),
        case("llama_cpp_24916", good().bool("tokenizer.ggml.add_bos_token", true), vocab("add_bos_token is true, but there is no bos token")),
        case("llama_cpp_no_byte_tokens", spm_but(|i, t| if t.2 == 6 { *t = (format!("zz{i}"), 0.0, 1) }), Works),
        case("llama_cpp_merge_without_space", good().strings("tokenizer.ggml.merges", ["th"]), vocab("merge 0")),
    ]
}

/// A text beyond what counts of tokens fit in.
fn long_text(file: &[u8]) -> Result<(), Error> {
    static TEXT: [u8; MAX_TEXT_LEN + 1] = [0; MAX_TEXT_LEN + 1]; // takes no memory until it is read
    let text = std::str::from_utf8(&TEXT).expect("NULs are UTF-8");
    load(file)?.tokenizer().tokenize(text, false, false, &mut Vec::new())
}

/// Chat templates.
#[rustfmt::skip] // one entry, one line
fn templates() -> Vec<Case> {
    let chat = |name: &str, text: String, part: &str| {
        using(format_chat, name, good().str("tokenizer.chat_template", text), fails("BAD_TEMPLATE", part))
    };
    const ESCAPE: &str = "{% for c in ''.__class__.__base__.__subclasses__() %}{{ c.__init__.__globals__ }}{% endfor %}";
    vec![
        chat("cve_2024_34359", ESCAPE.into(), "line 1: '__base__' of an undefined value"),
        chat("ghsa_56xg_wfcc_g829", "{{ cycler.__init__.__globals__.os.popen('id').read() }}".into(), "line 1: '__init__' of an undefined value"),
        chat("ghsa_46cm_pfwv_cgf8", "{{ self._TemplateReference__context }}{{ lipsum.__globals__ }}".into(), "of an undefined value"),
        chat("llama_cpp_26387", format!("{{{{ {}1{} }}}}", "(".repeat(150), ")".repeat(150)), "line 1: expressions nest more than 64 deep"),
        chat("llama_cpp_26387_macro", "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}".into(), "line 1: calls of macros nest more than 64 deep"),
        chat("llama_cpp_24140", "{% for i in range(1000000000) %}{% endfor %}".into(), "line 1: a range of more than 100000 numbers"),
        chat("llama_cpp_11016", "{{ raise_exception('roles must alternate') }}".into(), "roles must alternate"),
        chat("llama_cpp_11402", "{{ messages[0]['content'][9]['x'] }}".into(), "line 1: "),
        chat("haystack_9402", "{% for i in range(25000) %}{% for j in range(25000) %}{% endfor %}{% endfor %}".into(), "line 1: takes more than 1000000 steps"),
    ]
}
