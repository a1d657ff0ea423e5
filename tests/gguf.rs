//! The GGUF parser against good, damaged and hostile files.
//!
//! Every case of `hostile` is named after the class of defect that it stands for: loaders of this
//! format have crashed, read or written out of bounds, or run out of memory on each of them.
mod support;

use std::fmt::Write as _;
use std::os::fd::AsRawFd;
use std::time::Instant;

use support::counting::{Counting, peak_bytes, with_allocations};
use support::gguf_writer::{GgufWriter, array, entry, kind, string};
use tern::base::dtype::DType;
use tern::base::file::Source;
use tern::gguf::{Gguf, Kind, Value};
use tern::{Error, Result};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// What a file must lead to.
#[derive(Clone, Copy, Debug)]
enum Outcome {
    Loads,
    /// The error's C name without "TERN_ERROR_", and a part of its sentence.
    Fails(&'static str, &'static str),
}
use Outcome::{Fails, Loads};

fn parse(file: &[u8]) -> Result<Gguf> {
    Gguf::parse(&Source::from_memory(file))
}

/// Parses, and checks what holds for all files: memory, and that what was accepted can be used.
fn parse_guarded(name: &str, file: &[u8]) -> Result<Gguf> {
    let (result, peak) = peak_bytes(|| parse(file));
    let most = 4 * file.len() + (1 << 20);
    assert!(peak <= most, "{name}: {peak} bytes of memory for a file of {}", file.len());
    if let Ok(gguf) = &result {
        assert!(gguf.heap_bytes() <= most, "{name}: keeps {} bytes", gguf.heap_bytes());
        use_all(name, gguf, file);
    }
    result
}

/// Touches everything that a parsed file offers.
fn use_all(name: &str, gguf: &Gguf, file: &[u8]) {
    let mut text = String::new();
    for (key, value) in gguf.metadata().iter() {
        write!(text, "{key} = {value}").expect("a string takes anything");
        let again = gguf.metadata().value(key).expect(key);
        assert_eq!(again.to_string(), value.to_string(), "{name}: {key}");
        if let Value::Array(array) = value {
            assert_eq!(array.iter().count(), array.len(), "{name}: {key}");
        }
    }
    let mut ranges = Vec::new();
    for tensor in gguf.tensors() {
        let found = gguf.tensor(tensor.name(gguf)).expect("a tensor is found by its name");
        assert_eq!(found.offset, tensor.offset, "{name}");
        let row = tensor.dtype.row_bytes(tensor.shape[0] as usize).expect("whole blocks") as u64;
        assert_eq!(tensor.bytes, row * tensor.shape[1] * tensor.shape[2] * tensor.shape[3]);
        let start = gguf.data_offset() + tensor.offset;
        assert_eq!(start % gguf.alignment(), 0, "{name}");
        assert!(start + tensor.bytes <= file.len() as u64, "{name}: beyond the file");
        ranges.push(start..start + tensor.bytes);
    }
    ranges.sort_by_key(|r| r.start);
    assert!(ranges.windows(2).all(|r| r[0].end <= r[1].start), "{name}: overlapping tensors");
}

/// A small file with every kind of value and three tensors.
fn good() -> GgufWriter {
    GgufWriter::new()
        .str("general.architecture", "llama")
        .alignment(32)
        .u8("k.u8", 8)
        .i8("k.i8", -8)
        .u16("k.u16", 16)
        .i16("k.i16", -16)
        .u32("k.u32", 32)
        .i32("k.i32", -32)
        .u64("k.u64", 1 << 40)
        .i64("k.i64", -64)
        .f32("k.f32", 0.5)
        .f64("k.f64", 0.25)
        .bool("k.bool", true)
        .strings("k.strings", ["a", "", "\u{1f980}"])
        .f32s("k.f32s", &[1.0, 2.0])
        .i32s("k.i32s", &[1, -2])
        .bools("k.bools", &[true, false])
        .tensor_f32("a", &[4, 2], &[1.0; 8])
        .tensor("b", DType::Q8_0, &[32, 3], &[0; 102])
        .tensor("c", DType::F16, &[3], &[0; 6])
}

/// `good`, but with one more entry: this value at `k.odd`.
fn odd_value(kind: u32, bytes: &[u8]) -> Vec<u8> {
    good().value("k.odd", kind, bytes).write()
}

/// `good`, but with a fourth table row.
fn odd_tensor(n_dims: u32, dims: &[u64], dtype: u32) -> Vec<u8> {
    good().raw_tensor(b"odd", n_dims, dims, dtype, None, &[0; 64]).write()
}

fn aligned(kind: u32, bytes: &[u8]) -> Vec<u8> {
    good().value("general.alignment", kind, bytes).write()
}

/// A file of these F32 tensors, each at its offset, with 256 bytes of data.
fn placed(tensors: &[(&str, u64, u64)]) -> Vec<u8> {
    let mut file = GgufWriter::new();
    for (i, (name, len, offset)) in tensors.iter().enumerate() {
        let data = if i == 0 { &[0; 256][..] } else { &[] };
        file = file.raw_tensor(name.as_bytes(), 1, &[*len], 0, Some(*offset), data);
    }
    file.write()
}

/// Counts, lengths and wrapping integers.
#[rustfmt::skip] // one case, one line
fn hostile_numbers() -> Vec<(&'static str, Vec<u8>, Outcome)> {
    let max = u64::MAX.to_le_bytes();
    let n_tensors = |n| good().claim_n_tensors(n).write();
    let n_kv = |n| good().claim_n_kv(n).write();
    let key_len = |len: u64| good().raw_entry(&len.to_le_bytes()).write();
    let odd_array = |kind, n| odd_value(kind::ARRAY, &array(kind, n, &[0; 64]));
    let mut nested = Vec::new(); // array of array of array ...
    for _ in 0..200_000 {
        nested.extend(kind::ARRAY.to_le_bytes());
        nested.extend(1u64.to_le_bytes());
    }
    vec![
        ("hdr_ntensors_cve21836", n_tensors(0x2E8_BA2E_8BA2_E8BB), Fails("BAD_FILE", "number of tensors: 209")),
        ("hdr_ntensors_max", n_tensors(u64::MAX), Fails("BAD_FILE", "number of tensors: 18446744073709551615")),
        ("hdr_ntensors_2e60", n_tensors(1 << 60), Fails("BAD_FILE", "number of tensors")),
        ("hdr_ntensors_one_more", n_tensors(4), Fails("BAD_FILE", "tensor 3")),
        ("hdr_nkv_cve23605", n_kv(0x555_5555_5555_5556), Fails("BAD_FILE", "number of metadata entries: 384")),
        ("hdr_nkv_max", n_kv(u64::MAX), Fails("BAD_FILE", "number of metadata entries")),
        ("hdr_nkv_32bits", n_kv(0xFFFF_FFFF), Fails("BAD_FILE", "number of metadata entries: 4294967295")),
        ("hdr_nkv_one_more", n_kv(18), Fails("BAD_FILE", "name of tensor 0")),
        ("kv_keylen_max", key_len(u64::MAX), Fails("BAD_FILE", "key of metadata entry 17: a string of 18446744073709551615 bytes")),
        ("kv_keylen_wrap", key_len(u64::MAX - 300), Fails("BAD_FILE", "key of metadata entry 17")),
        ("kv_key_empty", good().raw_kv(b"", kind::U8, &[0]).write(), Fails("BAD_FILE", "key of metadata entry 17: empty")),
        ("kv_key_nul", good().raw_kv(b"a\0b", kind::U8, &[0]).write(), Fails("BAD_FILE", "contains a NUL")),
        ("kv_key_nonutf8", good().raw_kv(b"a\xff", kind::U8, &[0]).write(), Fails("BAD_FILE", "not UTF-8")),
        ("kv_key_dup", good().raw_kv(b"k.u8", kind::U8, &[0]).write(), Fails("BAD_FILE", "k.u8: the key occurs twice")),
        ("kv_key_256", good().u8(&"k".repeat(256), 0).write(), Loads),
        ("kv_key_257", good().u8(&"k".repeat(257), 0).write(), Fails("LIMIT", "257 bytes, at most 256")),
        ("kv_type13", odd_value(13, &[0; 8]), Fails("BAD_FILE", "k.odd: kind 13")),
        ("kv_type_neg", odd_value(u32::MAX, &[0; 8]), Fails("BAD_FILE", "k.odd: kind 4294967295")),
        ("kv_bool_2", odd_value(kind::BOOL, &[2]), Fails("BAD_FILE", "k.odd: a bool of 2")),
        ("kv_arr_bool_255", odd_value(kind::ARRAY, &array(kind::BOOL, 3, &[0, 1, 255])), Fails("BAD_FILE", "k.odd: a bool of 255")),
        ("kv_str_len_1g", odd_value(kind::STRING, &(1u64 << 30).to_le_bytes()), Fails("BAD_FILE", "k.odd: a string of 1073741824 bytes")),
        ("kv_str_len_max", odd_value(kind::STRING, &max), Fails("BAD_FILE", "k.odd: a string of")),
        ("kv_str_1m", good().str("k.odd", vec![b'x'; 1 << 20]).write(), Loads),
        ("kv_str_over_1m", good().str("k.odd", vec![b'x'; (1 << 20) + 1]).write(), Fails("LIMIT", "1048577 bytes, at most 1048576")),
        ("kv_arr_n_wrap8", odd_array(kind::U64, (1 << 61) + 1), Fails("BAD_FILE", "k.odd: an array of 2305843009213693953 x u64")),
        ("kv_arr_n_max", odd_array(kind::U8, u64::MAX), Fails("BAD_FILE", "an array of 18446744073709551615 x u8")),
        ("kv_arr_str_1e9", odd_array(kind::STRING, 1_000_000_000), Fails("BAD_FILE", "an array of 1000000000 x string")),
        ("kv_arr_str_len", odd_value(kind::ARRAY, &array(kind::STRING, 2, &[string(b"a"), max.to_vec()].concat())), Fails("BAD_FILE", "k.odd[1]: a string of")),
        ("kv_arr_str_64k", good().strings("k.odd", [vec![b'x'; 1 << 16]]).write(), Loads),
        ("kv_arr_str_over_64k", good().strings("k.odd", [vec![b'x'; (1 << 16) + 1]]).write(), Fails("LIMIT", "k.odd[0]: a string of 65537 bytes")),
        ("kv_arr_empty", odd_value(kind::ARRAY, &array(kind::F64, 0, &[])), Loads),
        ("kv_arr_of_arr", odd_value(kind::ARRAY, &array(kind::ARRAY, 1, &array(kind::U8, 1, &[0]))), Fails("BAD_FILE", "k.odd: an array of arrays")),
        ("kv_arr_nested_deep", odd_value(kind::ARRAY, &nested), Fails("BAD_FILE", "k.odd: an array of arrays")),
        ("kv_arr_badtype_big", odd_value(kind::ARRAY, &array(77, u64::MAX, &[])), Fails("BAD_FILE", "k.odd: kind 77")),
        ("align_0", aligned(kind::U32, &[0; 4]), Fails("BAD_FILE", "general.alignment: 0")),
        ("align_1", aligned(kind::U32, &1u32.to_le_bytes()), Fails("BAD_FILE", "general.alignment: 1,")),
        ("align_3", aligned(kind::U32, &3u32.to_le_bytes()), Fails("BAD_FILE", "general.alignment: 3")),
        ("align_4", aligned(kind::U32, &4u32.to_le_bytes()), Fails("BAD_FILE", "general.alignment: 4")),
        ("align_48", aligned(kind::U32, &48u32.to_le_bytes()), Fails("BAD_FILE", "general.alignment: 48")),
        ("align_8", good().alignment(8).write(), Loads),
        ("align_65536", good().alignment(65_536).write(), Loads),
        ("align_131072", aligned(kind::U32, &131_072u32.to_le_bytes()), Fails("BAD_FILE", "131072")),
        ("align_2e31", aligned(kind::U32, &(1u32 << 31).to_le_bytes()), Fails("BAD_FILE", "2147483648")),
        ("align_max", aligned(kind::U32, &u32::MAX.to_le_bytes()), Fails("BAD_FILE", "4294967295")),
        ("align_u64", aligned(kind::U64, &32u64.to_le_bytes()), Loads),
        ("align_u64_max", aligned(kind::U64, &max), Fails("BAD_FILE", "18446744073709551615")),
        ("align_i32", aligned(kind::I32, &32i32.to_le_bytes()), Fails("BAD_FILE", "a value of kind i32, expected u32")),
        ("align_str", aligned(kind::STRING, &string(b"32")), Fails("BAD_FILE", "a value of kind string")),
        ("align_array", aligned(kind::ARRAY, &array(kind::U32, 1, &[32, 0, 0, 0])), Fails("BAD_FILE", "a value of kind array")),
    ]
}

/// The table of tensors, and the file as a whole.
#[rustfmt::skip] // one case, one line
fn hostile_tensors() -> Vec<(&'static str, Vec<u8>, Outcome)> {
    const F32: u32 = 0;
    let q8_0 = DType::Q8_0.gguf_id();
    let huge = |n| {
        let tensor = |file: GgufWriter, name: &str, len: u64, offset| {
            file.raw_tensor(name.as_bytes(), 1, &[len], F32, Some(offset), &[])
        };
        // Each is 2^62 bytes and a little; padded, 3 of them and 4 of them wrap around.
        (0..n).fold(GgufWriter::new(), |file, i: u64| {
            tensor(file, &format!("t{i}"), (1 << 60) + 8, i.wrapping_mul((1 << 62) + 32))
        })
    };
    let named = |name: &[u8]| good().raw_tensor(name, 1, &[1], F32, None, &[0; 4]).write();
    let whole = good().write();
    let header = good().header_len();
    let data = header.next_multiple_of(32);
    let cut = |n: usize| whole[..n].to_vec();
    let with = |at: usize, bytes: &[u8]| {
        let mut file = whole.clone();
        file[at..at + bytes.len()].copy_from_slice(bytes);
        file
    };
    vec![
        ("t_ndims0", good().raw_tensor(b"odd", 0, &[], F32, None, &[0; 4]).write(), Loads),
        ("t_ndims0_blocks", odd_tensor(0, &[], q8_0), Fails("BAD_TENSOR", "rows are not whole blocks")),
        ("t_ndims4", odd_tensor(4, &[2, 2, 2, 2], F32), Loads),
        ("t_ndims5", odd_tensor(5, &[1; 5], F32), Fails("BAD_TENSOR", "odd: number of dimensions: 5, at most 4")),
        ("t_ndims_max", odd_tensor(u32::MAX, &[1; 4], F32), Fails("BAD_TENSOR", "4294967295, at most 4")),
        ("t_name_empty", named(b""), Fails("BAD_FILE", "name of tensor 3: empty")),
        ("t_name_nul", named(b"a\0"), Fails("BAD_FILE", "contains a NUL")),
        ("t_name_nonutf8", named(b"\xc0\xaf"), Fails("BAD_FILE", "not UTF-8")),
        ("t_name_127", named(&[b'n'; 127]), Loads),
        ("t_name_128", named(&[b'n'; 128]), Fails("LIMIT", "name of tensor 3: a string of 128 bytes, at most 127")),
        ("t_name_dup", named(b"b"), Fails("BAD_FILE", "b: the name occurs twice")),
        ("t_name_len_max", with(header - 33, &[0xFF; 8]), Fails("BAD_FILE", "name of tensor 2: a string of 18446744073709551615 bytes")),
        ("t_dim0", odd_tensor(2, &[4, 0], F32), Fails("BAD_TENSOR", "odd: shape: a dimension of 0")),
        ("t_dim0_first", odd_tensor(1, &[0], F32), Fails("BAD_TENSOR", "a dimension of 0")),
        ("t_dim_neg", odd_tensor(2, &[4, u64::MAX], F32), Fails("BAD_TENSOR", "too large")),
        ("t_dim_neg_first", odd_tensor(1, &[u64::MAX - 31], F32), Fails("BAD_TENSOR", "too large")),
        ("t_dims_wrap_to_0", odd_tensor(2, &[1 << 32, 1 << 32], F32), Fails("BAD_TENSOR", "4294967296 x 4294967296 x 1 x 1 of F32: too large")),
        ("t_elements_wrap", odd_tensor(2, &[1 << 40, 1 << 24], DType::Tq1_0.gguf_id()), Fails("BAD_TENSOR", "too large")),
        ("t_cve33298", odd_tensor(4, &[1024, 1024, (1 << 42) + 1, 1], F32), Fails("BAD_TENSOR", "too large")),
        ("t_padwrap", placed(&[("a", (1 << 62) - 1, 0), ("b", 8, 0)]), Fails("BAD_TENSOR", "starts at 0 of the data")),
        ("t_padwrap_alone", placed(&[("a", (1 << 62) - 1, 0)]), Fails("BAD_FILE", "cut short")),
        ("t_padwrap_far", placed(&[("a", (1 << 62) - 1, 32)]), Fails("BAD_TENSOR", "beyond 64 bits")),
        ("mem_cve27940", huge(2).write(), Fails("BAD_FILE", "cut short")),
        ("mem_cve53630", huge(5).write(), Fails("BAD_TENSOR", "")),
        ("t_type_removed4", odd_tensor(1, &[32], 4), Fails("UNSUPPORTED_DTYPE", "odd: type: 4")),
        ("t_type_999", odd_tensor(1, &[32], 999), Fails("UNSUPPORTED_DTYPE", "odd: type: 999")),
        ("t_type_neg", odd_tensor(1, &[32], u32::MAX), Fails("UNSUPPORTED_DTYPE", "4294967295")),
        ("t_row_not_blocks", odd_tensor(2, &[33, 1], q8_0), Fails("BAD_TENSOR", "33 x 1 x 1 x 1 of Q8_0: rows are not whole blocks")),
        ("t_row_half_block_twice", odd_tensor(2, &[16, 2], q8_0), Fails("BAD_TENSOR", "rows are not whole blocks")),
        ("t_off_unaligned", placed(&[("a", 4, 4)]), Fails("BAD_TENSOR", "a: offset: 4, not a multiple of 32")),
        ("t_off_past_eof", placed(&[("a", 4, 0), ("b", 4, 1 << 40)]), Fails("BAD_TENSOR", "b: 16 bytes at 1099511627776 of the data, which has 256")),
        ("t_off_max", placed(&[("a", 4, u64::MAX - 31)]), Fails("BAD_TENSOR", "which has 256")),
        ("t_off_end_past_eof", placed(&[("a", 9, 224)]), Fails("BAD_TENSOR", "a: 36 bytes at 224")),
        ("t_overlap", placed(&[("a", 16, 0), ("b", 16, 32)]), Fails("BAD_TENSOR", "b: starts at 32 of the data, a ends at 64")),
        ("t_overlap_same", placed(&[("a", 16, 64), ("b", 16, 64)]), Fails("BAD_TENSOR", "starts at 64")),
        ("t_overlap_inside", placed(&[("a", 64, 0), ("b", 1, 128)]), Fails("BAD_TENSOR", "b: starts at 128")),
        ("t_unsorted_disjoint", placed(&[("a", 8, 64), ("b", 8, 0), ("c", 8, 128)]), Loads),
        ("t_huge_embd", good().claim_shape("c", &[1 << 20, 1 << 15]).write(), Fails("BAD_FILE", "c: the file is cut short")),
        ("hdr_empty", vec![], Fails("BAD_FILE", "byte 0: magic: 4 bytes expected, 0 are left")),
        ("hdr_3bytes", cut(3), Fails("BAD_FILE", "magic")),
        ("hdr_magic_only", cut(4), Fails("BAD_FILE", "byte 4: version")),
        ("hdr_no_counts", cut(8), Fails("BAD_FILE", "number of tensors")),
        ("hdr_zip", with(0, b"PK\x03\x04"), Fails("BAD_FILE", "\"PK\\x03\\x04\", expected \"GGUF\"")),
        ("hdr_v0", with(4, &[0, 0, 0, 0]), Fails("UNSUPPORTED", "version: 0")),
        ("hdr_v1", with(4, &[1, 0, 0, 0]), Fails("UNSUPPORTED", "version: 1,")),
        ("hdr_v2", with(4, &[2, 0, 0, 0]), Loads),
        ("hdr_v4", with(4, &[4, 0, 0, 0]), Fails("UNSUPPORTED", "version: 4, expected 2 or 3")),
        ("hdr_big_endian", with(4, &[0, 0, 0, 3]), Fails("UNSUPPORTED", "the file is big-endian")),
        ("trunc_hdr", cut(20), Fails("BAD_FILE", "number of metadata entries")),
        ("trunc_kv", cut(100), Fails("BAD_FILE", "")),
        ("trunc_mid_ti", cut(header - 10), Fails("BAD_FILE", "c: ")),
        ("trunc_no_data", cut(data), Fails("BAD_FILE", "a: the file is cut short: 0 bytes of data, expected 166")),
        ("trunc_no_padding", cut(header), Fails("BAD_FILE", "data: the file ends before it")),
        ("trunc_data_half", cut((data + whole.len()) / 2), Fails("BAD_FILE", "the file is cut short")),
        ("no_tensors_no_padding", GgufWriter::new().u8("k", 0).write(), Loads),
        ("nothing_at_all", GgufWriter::new().write(), Loads),
    ]
}

#[test]
fn hostile_files_have_their_codes() {
    let cases: Vec<_> = hostile_numbers().into_iter().chain(hostile_tensors()).collect();
    let mut wrong = String::new();
    for (name, file, expected) in &cases {
        match (parse_guarded(name, file), expected) {
            (Ok(_), Loads) => {}
            (Err(e), Fails(code, part))
                if e.name() == format!("TERN_ERROR_{code}") && e.message().contains(part) => {}
            (Ok(_), expected) => writeln!(wrong, "{name}: loads, expected {expected:?}").unwrap(),
            (Err(e), expected) => writeln!(wrong, "{name}: {e}, expected {expected:?}").unwrap(),
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}");
    let mut names: Vec<_> = cases.iter().map(|(name, ..)| name).collect();
    names.sort();
    assert!(names.windows(2).all(|w| w[0] != w[1]), "two cases have the same name");
}

#[test]
fn every_changed_byte_is_survived() {
    let good = good().write();
    let mut accepted = 0;
    let mut file = good.clone();
    for at in 0..good.len() {
        for value in 0..=255 {
            file[at] = value;
            accepted += usize::from(parse_guarded("changed byte", &file).is_ok());
        }
        file[at] = good[at];
    }
    // Values and padding may be anything; counts, lengths and offsets may not.
    assert!(accepted > 0 && accepted < good.len() * 255, "{accepted} accepted");
}

#[test]
fn every_cut_is_an_error() {
    let good = good().write();
    for len in 0..good.len() {
        let error = parse_guarded("cut", &good[..len]).expect_err("a part of a file");
        assert!(matches!(error, Error::BadFile(_)), "{len} of {} bytes: {error}", good.len());
    }
    parse_guarded("whole", &good).unwrap();
}

#[test]
fn every_field_survives_extreme_numbers() {
    let good = good().write();
    let numbers = (0..64).flat_map(|i| [1u64 << i, (1 << i) - 1, (1u64 << i).wrapping_neg()]);
    for number in numbers {
        for at in 0..good.len() {
            for width in [2, 4, 8] {
                let mut file = good.clone();
                let end = (at + width).min(file.len());
                file[at..end].copy_from_slice(&number.to_le_bytes()[..end - at]);
                let _ = parse_guarded("extreme number", &file);
            }
        }
    }
}

#[test]
fn random_splices_are_survived() {
    let good = good().write();
    let mut state = 0x9E37_79B9_7F4A_7C15u64; // xorshift64
    let mut below = |n: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 16) as usize % n
    };
    for _ in 0..100_000 {
        let mut file = good.clone();
        for _ in 0..=below(3) {
            let (from, to) = (below(file.len()), below(file.len()));
            let len = below(40).min(file.len() - from);
            let piece = file[from..from + len].to_vec();
            let removed = to..(to + below(40)).min(file.len());
            file.splice(removed, piece);
            if file.is_empty() {
                break;
            }
        }
        let _ = parse_guarded("splice", &file);
    }
}

/// Files that make the most of every limit, then break at the very end.
#[test]
fn memory_and_time_are_bounded_by_the_file() {
    let keys = |n: u32, prefix: &str| {
        (0..n).fold(GgufWriter::new(), |file, i| {
            file.raw_kv(format!("{prefix}{i:x}").as_bytes(), kind::U8, &[0])
        })
    };
    let tensors = |n: u32| {
        (0..n).fold(GgufWriter::new(), |file, i| {
            let offset = Some(u64::from(n - 1 - i) * 32); // backwards
            file.raw_tensor(format!("{i:x}").as_bytes(), 0, &[], 0, offset, &[])
        })
    };
    let empty = |n: usize| GgufWriter::new().array("k", kind::STRING, n as u64, &vec![0; 8 * n]);
    let dup = entry(b"k0", kind::U8, &[0]);
    let cases = [
        ("keys", keys(65_535, "k").write(), Ok(())),
        ("keys_one_too_many", keys(65_536, "k").write(), Err("LIMIT")),
        ("keys_that_differ_late", keys(65_535, &"k".repeat(250)).write(), Ok(())),
        ("keys_dup", keys(65_534, "k").raw_entry(&dup).write(), Err("BAD_FILE")),
        ("keys_one_missing", keys(65_534, "k").claim_n_kv(65_535).write(), Err("BAD_FILE")),
        ("tensors_no_data", tensors(65_535).write(), Err("BAD_FILE")),
        ("tensors_one_too_many", tensors(65_536).write(), Err("LIMIT")),
        ("tensors_cut", tensors(65_535).write()[..1_600_000].to_vec(), Err("BAD_FILE")),
        ("strings", empty(1_000_000).write(), Ok(())),
        ("strings_then_nothing", empty(1_000_000).claim_n_kv(2).write(), Err("BAD_FILE")),
    ];
    for (name, file, expected) in cases {
        let start = Instant::now();
        let found = parse_guarded(name, &file);
        let seconds = start.elapsed().as_secs_f64();
        match (&found, expected) {
            (Ok(_), Ok(())) => {}
            (Err(e), Err(code)) if e.name() == format!("TERN_ERROR_{code}") => {}
            _ => panic!("{name}: {:?}, expected {expected:?}", found.err()),
        }
        // Quadratic searches take minutes on these; a slow machine does not.
        assert!(seconds < 10.0, "{name}: {seconds} s for {} bytes", file.len());
    }
}

#[test]
fn running_out_of_memory_anywhere_is_an_error() {
    let long = good().strings("k.long", vec!["string"; 40_000]).write(); // read in several steps
    for file in [good().write(), long] {
        let mut n = 0;
        loop {
            match with_allocations(n, || parse(&file)) {
                Ok(gguf) => {
                    let values = with_allocations(0, || gguf.metadata().f32s("k.f32s"));
                    assert!(matches!(values, Err(Error::OutOfMemory(_))));
                    break;
                }
                Err(e) => assert!(matches!(e, Error::OutOfMemory(_)), "allocation {n}: {e}"),
            }
            n += 1;
        }
        assert!(n > 4, "only {n} allocations");
    }
}

#[test]
fn a_part_of_a_file_is_a_file() {
    let path = std::env::temp_dir().join(format!("tern-gguf-part-{}", std::process::id()));
    let good = good().write();
    let start = 13; // aligned to nothing
    std::fs::write(&path, [&[0xFF; 13][..], &good, b"tail"].concat()).unwrap();
    let file = std::fs::File::open(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    let part = |offset, len| {
        Source::from_fd(file.as_raw_fd(), offset, len).and_then(|source| Gguf::parse(&source))
    };
    assert_eq!(part(start, good.len() as u64).unwrap().tensors().len(), 3);
    assert_eq!(part(start, u64::MAX).unwrap().tensors().len(), 3); // to the end
    assert!(matches!(part(start, good.len() as u64 - 1), Err(Error::BadFile(_))));
    assert!(matches!(part(0, u64::MAX), Err(Error::BadFile(_))));
    assert!(part(start, u64::MAX - 1).is_err());
    assert!(part(u64::MAX, 2).is_err());
    assert!(part(start, good.len() as u64 + 5).is_err());
}

#[test]
fn values_come_back_as_they_were_written() {
    let file = good().write();
    let gguf = parse(&file).unwrap();
    let m = gguf.metadata();
    assert_eq!((gguf.version(), gguf.alignment(), m.len()), (3, 32, 17));
    assert_eq!(m.iter().map(|(key, _)| key).nth(3), Some("k.i8"));
    assert_eq!(m.value("k.u8"), Some(Value::U8(8)));
    assert_eq!(m.value("k.f64"), Some(Value::F64(0.25)));
    assert_eq!(m.value("k"), None);

    for (key, expected) in [("k.u8", 8), ("k.u16", 16), ("k.u32", 32)] {
        assert_eq!(m.get_u32(key).unwrap(), Some(expected), "{key}");
        assert_eq!(m.get_u64(key).unwrap(), Some(u64::from(expected)), "{key}");
    }
    for (key, expected) in [("k.i8", -8), ("k.i16", -16), ("k.i32", -32), ("k.i64", -64)] {
        assert_eq!(m.get_i32(key).unwrap(), Some(expected), "{key}");
        assert!(matches!(m.get_u32(key), Err(Error::BadHparams(_))), "{key}");
    }
    assert_eq!(m.get_u64("k.u64").unwrap(), Some(1 << 40));
    let error = m.get_u32("k.u64").unwrap_err();
    assert_eq!(
        error.message(),
        "k.u64: 1099511627776 of kind u64, expected an integer from 0 to 2^32 - 1"
    );
    assert_eq!(m.get_u32("absent").unwrap(), None);
    assert_eq!(m.get_f32("k.f32").unwrap(), Some(0.5));
    assert_eq!(m.get_f32("k.f64").unwrap(), Some(0.25));
    assert!(
        m.get_f32("k.u8").is_err() && m.get_u32("k.f32").is_err() && m.get_u32("k.bool").is_err()
    );
    assert_eq!(m.get_bool("k.bool").unwrap(), Some(true));
    assert_eq!(m.get_str("general.architecture").unwrap(), Some("llama"));
    assert!(m.get_str("k.strings").is_err() && m.get_bool("k.u8").is_err());

    let strings = m.strings("k.strings").unwrap().unwrap();
    assert_eq!(strings.len(), 3);
    assert_eq!(strings.collect::<Vec<_>>(), [&b"a"[..], b"", "\u{1f980}".as_bytes()]);
    assert_eq!(m.f32s("k.f32s").unwrap().unwrap(), [1.0, 2.0]);
    assert_eq!(m.i32s("k.i32s").unwrap().unwrap(), [1, -2]);
    assert_eq!(m.bools("k.bools").unwrap().unwrap(), [true, false]);
    let error = m.u32s("k.i32s").unwrap_err();
    assert!(error.message().contains("element 1 is -2"), "{error}");
    assert!(m.f32s("k.i32s").is_err() && m.i32s("k.f32s").is_err() && m.strings("k.u8").is_err());
    assert_eq!(m.f32s("absent").unwrap(), None);

    let b = gguf.tensor("b").unwrap();
    assert_eq!((b.dtype, b.shape, b.n_dims), (DType::Q8_0, [32, 3, 1, 1], 2));
    assert_eq!((b.offset, b.bytes, b.n_elements(), b.name(&gguf)), (32, 102, 96, "b"));
    assert!(gguf.tensor("d").is_none());
    assert_eq!(gguf.data_offset() + gguf.data_len(), file.len() as u64);
}

#[test]
fn errors_know_what_a_key_is_for() {
    let file = GgufWriter::new()
        .array("tokenizer.ggml.scores", kind::U8, 2, &[0; 2])
        .u8("tokenizer.chat_template", 1)
        .str("tokenizer.ggml.model", [0xFF])
        .u8("llama.rope.freq_base", 1)
        .write();
    let gguf = parse(&file).unwrap();
    let m = gguf.metadata();
    assert!(matches!(m.f32s("tokenizer.ggml.scores"), Err(Error::BadVocab(_))));
    assert!(matches!(m.strings("tokenizer.ggml.scores"), Err(Error::BadVocab(_))));
    assert!(matches!(m.get_str("tokenizer.chat_template"), Err(Error::BadTemplate(_))));
    let error = m.get_str("tokenizer.ggml.model").unwrap_err();
    assert_eq!(
        error.to_string(),
        "TERN_ERROR_BAD_VOCAB: tokenizer.ggml.model: not UTF-8 at byte 0"
    );
    assert!(matches!(m.get_f32("llama.rope.freq_base"), Err(Error::BadHparams(_))));
}

#[test]
fn values_fit_a_line() {
    let show = |value: Value<'_>| (value.to_string(), format!("{value:#}"));
    let long = "x".repeat(61);
    assert_eq!(show(Value::Str(b"a\n\xff")).0, "\"a\\n\u{fffd}\"");
    let (line, whole) = show(Value::Str(long.as_bytes()));
    assert_eq!(line, format!("\"{}...\"", &long[..60]));
    assert_eq!(whole, format!("\"{long}\""));
    let file = GgufWriter::new().i32s("k", &[1, 2, 3, 4, 5, 6, 7, 8, 9]).write();
    let gguf = parse(&file).unwrap();
    let value = gguf.metadata().value("k").unwrap();
    assert_eq!(value.kind(), Kind::Array);
    assert_eq!(show(value).0, "[1, 2, 3, 4, 5, 6, 7, 8, ... 9 in all]");
    assert_eq!(show(value).1, "[1, 2, 3, 4, 5, 6, 7, 8, 9]");
}

#[test]
fn real_files_load() {
    let mut n = 0;
    for folder in ["models", "vocab"] {
        let Ok(entries) = std::fs::read_dir(support::cache_dir().join(folder)) else { continue };
        for path in entries.map(|e| e.unwrap().path()) {
            if path.extension().is_none_or(|e| e != "gguf") {
                continue;
            }
            let source = Source::open(&path).unwrap();
            let start = Instant::now();
            let gguf = Gguf::parse(&source).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
            let ms = start.elapsed().as_secs_f64() * 1e3;
            let metadata = gguf.metadata();
            let n_vocab = metadata.strings("tokenizer.ggml.tokens").unwrap().unwrap().len();
            let types = metadata.i32s("tokenizer.ggml.token_type").unwrap();
            assert!(types.is_none_or(|t| t.len() == n_vocab));
            let (tensors, heap) = (gguf.tensors().len(), gguf.heap_bytes());
            let name = path.file_name().unwrap().display();
            println!("{name}: {ms:.1} ms, {n_vocab} tokens, {tensors} tensors, {heap} bytes");
            for (key, value) in metadata.iter() {
                assert_eq!(metadata.value(key), Some(value), "{key}");
            }
            n += 1;
        }
    }
    if n == 0 {
        support::skipped("real_files_load", "no models in the cache; `make models` gets them");
    }
}
