//! The GGUF parser: what it reads of good files, and that no change of a byte harms it. What each
//! kind of damage is called is the subject of `malformed.rs`.
mod support;

use std::os::fd::AsRawFd;
use std::time::Instant;

use support::counting::{Counting, peak_bytes, with_allocations};
use support::gguf_writer::{GgufWriter, entry, kind};
use support::parsed::{box_of_all, use_all};
use tern::base::dtype::DType;
use tern::base::file::Source;
use tern::gguf::{Gguf, Kind, Value};
use tern::{Error, Result};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

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

#[test]
fn every_changed_byte_is_survived() {
    let good = box_of_all().write();
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
    let good = box_of_all().write();
    for len in 0..good.len() {
        let error = parse_guarded("cut", &good[..len]).expect_err("a part of a file");
        assert!(matches!(error, Error::BadFile(_)), "{len} of {} bytes: {error}", good.len());
    }
    parse_guarded("whole", &good).unwrap();
}

#[test]
fn every_field_survives_extreme_numbers() {
    let good = box_of_all().write();
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
    let good = box_of_all().write();
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
    let long = box_of_all().strings("k.long", vec!["string"; 40_000]).write(); // read in several steps
    for file in [box_of_all().write(), long] {
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
    let good = box_of_all().write();
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
    let file = box_of_all().write();
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
