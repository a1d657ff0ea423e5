//! The container of snapshots: what it holds comes back; every flipped bit, every missing byte and
//! every strange one is found before anything is used; and it takes no memory of its own.
//! What a disk and a killed process do to it is the subject of `snapshot_faults.rs`.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

#[path = "support/page_cache.rs"]
mod page_cache;
mod support;

use std::collections::BTreeMap;
use std::time::Instant;

use support::counting::{Counting, peak_bytes, with_allocations};
use support::tiny::Random;
use tern::Error;
use tern::base::crc32c::crc32c;
use tern::base::file::Output;
use tern::engine::snapshot::{
    self, Contents, Identity, Put, Reader, Section, Stored, StoredFile, VERSION,
};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const HEADER: usize = 36;
const CHUNK: usize = 64 << 10;
const LAYOUT: [(&str, u64); 3] = [("n_ctx", 4096), ("k_type", 2), ("rope_base", 0x461c_4000)];
const IDENTITY: Identity<'static> = Identity { model: 0x0123_4567_89ab_cdef, layout: &LAYOUT };

fn section(kind: u32, index: u32) -> Section {
    Section { kind, index }
}

/// Sections in memory, put in parts of so many bytes.
#[derive(Clone)]
struct Made {
    sections: BTreeMap<Section, Vec<u8>>,
    part: usize,
}

impl Made {
    fn new(sections: impl IntoIterator<Item = (Section, Vec<u8>)>) -> Made {
        Made { sections: sections.into_iter().collect(), part: usize::MAX }
    }

    /// One section that makes the whole snapshot this long, but for checksums beyond the first.
    fn of_len(len: usize) -> Made {
        let made = |n| Made::new([(section(7, 0), noise(n as u64, n))]);
        let rest = snapshot::len(&IDENTITY, &made(0)).unwrap() as usize;
        made(len - rest)
    }
}

impl Contents for Made {
    fn sections(
        &self,
        each: &mut dyn FnMut(Section, u64) -> Result<(), Error>,
    ) -> Result<(), Error> {
        self.sections.iter().try_for_each(|(section, bytes)| each(*section, bytes.len() as u64))
    }

    fn write(&self, section: Section, put: &mut Put<'_>) -> Result<(), Error> {
        let bytes = &self.sections[&section];
        bytes.chunks(self.part.min(bytes.len().max(1))).try_for_each(put)
    }
}

fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut random = Random(seed);
    (0..len).map(|_| random.next() as u8).collect()
}

fn written(contents: &dyn Contents) -> Vec<u8> {
    let mut bytes = vec![0; snapshot::len(&IDENTITY, contents).unwrap() as usize];
    assert_eq!(snapshot::write(&IDENTITY, contents, &mut bytes), Ok(bytes.len()));
    bytes
}

fn read(bytes: &[u8]) -> Result<BTreeMap<Section, Vec<u8>>, Error> {
    let reader = Reader::new(bytes, &IDENTITY)?;
    let sections: BTreeMap<_, _> = reader.sections().map(|(s, b)| (s, b.to_vec())).collect();
    for (section, bytes) in &sections {
        assert_eq!(reader.section(*section), Ok(&**bytes));
    }
    Ok(sections)
}

fn is_corrupt(bytes: &[u8]) -> bool {
    matches!(Reader::new(bytes, &IDENTITY), Err(Error::SnapshotCorrupt(_)))
}

/// Makes all checksums right again.
fn seal(bytes: &mut [u8]) {
    let crc = crc32c(&bytes[..HEADER - 4]);
    bytes[HEADER - 4..HEADER].copy_from_slice(&crc.to_le_bytes());
    let body = u64::from_le_bytes(bytes[16..24].try_into().unwrap()) as usize;
    let crcs: Vec<u8> = bytes[..body].chunks(CHUNK).flat_map(|c| crc32c(c).to_le_bytes()).collect();
    bytes[body..body + crcs.len()].copy_from_slice(&crcs);
    bytes[body + crcs.len()..].copy_from_slice(&crc32c(&crcs).to_le_bytes());
}

#[test]
fn whatever_is_in_the_sections_comes_back() {
    let mut random = Random(3);
    for round in 0..200 {
        let n_sections = random.next() % 12;
        let sections = (0..n_sections).map(|_| {
            let len = match random.next() % 4 {
                0 => 0,
                1 => random.next() as usize % 300,
                2 => random.next() as usize % 200_000,
                // A chunk, and a byte or so more or less.
                _ => CHUNK - 60 + random.next() as usize % 120,
            };
            let key = section(1 + random.next() % 5, random.next() >> (random.next() % 32));
            (key, noise(random.next().into(), len))
        });
        let mut made = Made::new(sections);
        let bytes = written(&made);
        assert_eq!(read(&bytes), Ok(made.sections.clone()), "round {round}");
        for part in [1 + random.next() as usize % 9, 4096, CHUNK, CHUNK + 1] {
            made.part = part;
            assert!(written(&made) == bytes, "round {round}: other bytes in parts of {part}");
        }
    }
}

/// Above 64 MiB chunks double, so that there are no more than 1024.
#[test]
fn large_snapshots_come_back() {
    for len in [64 << 20, (64 << 20) + 1, 150_000_000] {
        let made = Made::new([(section(1, 0), noise(1, 1000)), (section(2, 9), vec![0xa5; len])]);
        let mut bytes = written(&made);
        assert!(
            Reader::new(&bytes, &IDENTITY).unwrap().section(section(2, 9)).unwrap() == {
                &made.sections[&section(2, 9)]
            }
        );
        let at = bytes.len() / 3;
        bytes[at] ^= 1;
        assert!(is_corrupt(&bytes));
    }
}

/// Whoever changes a byte of this must change the version.
#[test]
fn the_format_is_what_it_was() {
    let made = Made::new([
        (section(1, 0), b"tokens".to_vec()),
        (section(2, 3), Vec::new()),
        (section(2, 4), vec![0x55; 3]),
    ]);
    let bytes = written(&made);
    let mut expected = Vec::new();
    expected.extend(b"TERNSNAP");
    expected.extend([3, 0, 0, 0, 4, 0, 0, 0]);
    let layout_len = LAYOUT.iter().map(|(name, _)| 9 + name.len()).sum::<usize>();
    let data = HEADER + 4 * 16;
    expected.extend(((data + layout_len + 9) as u64).to_le_bytes());
    expected.extend(IDENTITY.model.to_le_bytes());
    expected.extend([0; 4]); // sealed below
    for (kind, index, end) in [(0u32, 0u32, 0), (1, 0, 6), (2, 3, 6), (2, 4, 9)] {
        expected.extend(kind.to_le_bytes());
        expected.extend(index.to_le_bytes());
        expected.extend(((data + layout_len + end) as u64).to_le_bytes());
    }
    for (name, value) in LAYOUT {
        expected.push(name.len() as u8);
        expected.extend(name.as_bytes());
        expected.extend(value.to_le_bytes());
    }
    expected.extend(b"tokens\x55\x55\x55");
    expected.extend([0; 8]); // sealed now
    seal(&mut expected);
    assert_eq!(bytes, expected);
}

#[test]
fn every_flipped_bit_of_64_kib_is_found() {
    let made = Made::of_len(64 << 10);
    let mut bytes = written(&made);
    assert_eq!(bytes.len(), 64 << 10);
    // An emulated CPU takes a hundred times as long.
    let step = if support::emulated() { 101 } else { 1 };
    for bit in (0..8 * bytes.len()).step_by(step) {
        bytes[bit / 8] ^= 1 << (bit % 8);
        assert!(is_corrupt(&bytes), "bit {bit}");
        bytes[bit / 8] ^= 1 << (bit % 8);
    }
    assert_eq!(read(&bytes), Ok(made.sections));
}

#[test]
fn every_missing_and_every_further_byte_is_found() {
    let mut bytes = written(&Made::of_len(64 << 10));
    for len in 0..bytes.len() {
        assert!(is_corrupt(&bytes[..len]), "cut to {len} bytes");
    }
    for _ in 0..100 {
        bytes.push(0);
        assert!(is_corrupt(&bytes), "{} bytes", bytes.len());
    }
    bytes.resize(2 * bytes.len(), 0);
    assert!(is_corrupt(&bytes));
}

/// Bytes lost from the middle, repeated, or moved: what a disk does that mixes its blocks up.
#[test]
fn blocks_that_are_lost_or_moved_are_found() {
    let bytes = written(&Made::of_len(300_000));
    for block in [512, 4096] {
        for at in (0..bytes.len() - 2 * block).step_by(block) {
            let mut zeroed = bytes.clone();
            zeroed[at..at + block].fill(0);
            assert!(is_corrupt(&zeroed), "{block} bytes lost at {at}");
            let mut swapped = bytes.clone();
            swapped[at..at + 2 * block].rotate_left(block);
            assert!(is_corrupt(&swapped), "{block} bytes moved at {at}");
        }
    }
}

#[test]
fn what_is_no_snapshot_is_corrupt() {
    for bytes in [&b""[..], b"TERNSNAP", b"GGUF\x03\0\0\0", &[0; 4096], &[0xff; 4096]] {
        assert!(is_corrupt(bytes));
    }
    for seed in 0..1000 {
        assert!(is_corrupt(&noise(seed, seed as usize)));
    }
}

#[test]
fn each_mismatch_has_its_own_error_and_says_what_it_found() {
    let mut bytes = written(&Made::new([(section(1, 0), vec![1, 2, 3])]));
    let error = |identity| Reader::new(&bytes, &identity).unwrap_err();

    let found = error(Identity { model: 7, ..IDENTITY });
    assert!(matches!(found, Error::SnapshotModel(_)), "{found}");
    assert!(found.message().contains("0123456789abcdef"), "{found}");
    assert!(found.message().contains("expected 0000000000000007"), "{found}");

    let mut layout = LAYOUT;
    layout[1].1 = 0;
    let found = error(Identity { layout: &layout, ..IDENTITY });
    assert!(matches!(found, Error::SnapshotLayout(_)), "{found}");
    assert!(found.message().contains("k_type: found 2, expected 0"), "{found}");
    let more = [LAYOUT[0], LAYOUT[1], LAYOUT[2], ("n_sink", 4)];
    for (layout, expected) in [
        (&more[..], "has no n_sink"),
        (&LAYOUT[..2], "18 bytes more"),
        (&LAYOUT[1..], "has \"n_ctx\", expected k_type"),
    ] {
        let found = error(Identity { layout, ..IDENTITY });
        assert!(matches!(found, Error::SnapshotLayout(_)), "{found}");
        assert!(found.message().contains(expected), "{found}");
    }

    for version in [0, VERSION + 1, u32::MAX] {
        bytes[8..12].copy_from_slice(&version.to_le_bytes());
        seal(&mut bytes);
        // Another version may have another body, of which nothing is known.
        for bytes in [&bytes[..], &bytes[..HEADER]] {
            let found = Reader::new(bytes, &IDENTITY).unwrap_err();
            assert!(matches!(found, Error::SnapshotVersion(_)), "{found}");
            let expected = format!("version {version} of the format, expected {VERSION}");
            assert!(found.message().contains(&expected), "{found}");
        }
    }
}

#[test]
fn damage_is_said_to_be_where_it_is() {
    let mut bytes = written(&Made::of_len(200_000));
    bytes[70_000] ^= 4;
    let found = Reader::new(&bytes, &IDENTITY).unwrap_err();
    assert!(found.message().contains("bytes 65536 to 131072: checksum "), "{found}");
}

#[test]
fn a_section_that_is_not_there_is_an_error() {
    let bytes = written(&Made::new([(section(3, 5), vec![1]), (section(3, 7), vec![2])]));
    let reader = Reader::new(&bytes, &IDENTITY).unwrap();
    for absent in [section(1, 0), section(3, 4), section(3, 6), section(3, 8), section(4, 5)] {
        let found = reader.section(absent).unwrap_err();
        assert!(matches!(found, Error::SnapshotCorrupt(_)), "{found}");
    }
}

/// Whoever means harm makes the checksums right. Then tables and lengths are all that is checked,
/// and whatever they are, what is read lies within the bytes.
#[test]
fn tables_that_lie_are_found_or_harmless() {
    let made = Made::new((0..5).map(|i| (section(1 + i / 2, i), noise(i.into(), 40))));
    let bytes = written(&made);
    let data = HEADER + 6 * 16;
    let mut random = Random(11);
    let mut n_found = 0;
    for _ in 0..50_000 {
        let mut lying = bytes.clone();
        for _ in 0..1 + random.next() % 3 {
            let at = match random.next() % 3 {
                0 => 12 + random.next() as usize % 4, // the number of sections
                _ => HEADER + random.next() as usize % (data - HEADER),
            };
            lying[at] = match random.next() % 3 {
                0 => random.next() as u8,
                1 => lying[at].wrapping_add(1),
                _ => 0xff * (random.next() % 2) as u8,
            };
        }
        seal(&mut lying);
        match read(&lying) {
            Ok(sections) => {
                let n: usize = sections.values().map(Vec::len).sum();
                assert!(n <= 200, "{n} bytes of 200");
            }
            Err(Error::SnapshotCorrupt(_) | Error::SnapshotLayout(_)) => n_found += 1,
            Err(other) => panic!("{other}"),
        }
    }
    assert!(n_found > 40_000, "{n_found} found");
}

#[test]
fn a_header_cannot_ask_for_more_than_there_is() {
    let bytes = written(&Made::new([(section(1, 0), vec![1, 2, 3])]));
    for body in [0, 1, 35, 36, 1 << 20, u64::MAX - 5000, u64::MAX] {
        let mut lying = bytes.clone();
        lying[16..24].copy_from_slice(&body.to_le_bytes());
        let crc = crc32c(&lying[..HEADER - 4]);
        lying[HEADER - 4..HEADER].copy_from_slice(&crc.to_le_bytes());
        let (corrupt, peak) = peak_bytes(|| is_corrupt(&lying));
        assert!(corrupt && peak < 256, "{body}: {peak} bytes, more than a sentence");
    }
}

#[test]
fn a_buffer_that_is_too_small_is_left_alone() {
    let made = Made::new([(section(1, 0), noise(1, 500))]);
    let len = snapshot::len(&IDENTITY, &made).unwrap() as usize;
    for room in 0..len {
        let mut buffer = vec![0xee; room];
        let found = snapshot::write(&IDENTITY, &made, &mut buffer).unwrap_err();
        assert!(matches!(found, Error::BufferTooSmall(_)), "{found}");
        let expected = format!("a buffer of {room} bytes, expected {len}");
        assert!(found.message().contains(&expected), "{found}");
        assert!(buffer.iter().all(|byte| *byte == 0xee), "{room}: written to");
    }
    let mut buffer = vec![0xee; len + 100];
    assert_eq!(snapshot::write(&IDENTITY, &made, &mut buffer), Ok(len));
    assert!(buffer[len..].iter().all(|byte| *byte == 0xee), "written past the end");
    assert_eq!(read(&buffer[..len]), Ok(made.sections));
}

/// Contents that do not keep to what they said are a bug, not a snapshot.
#[test]
fn contents_that_contradict_themselves_are_refused() {
    struct Bad {
        named: &'static [(Section, u64)],
        puts: usize,
    }
    impl Contents for Bad {
        fn sections(
            &self,
            each: &mut dyn FnMut(Section, u64) -> Result<(), Error>,
        ) -> Result<(), Error> {
            self.named.iter().try_for_each(|(section, len)| each(*section, *len))
        }
        fn write(&self, _: Section, put: &mut Put<'_>) -> Result<(), Error> {
            put(&noise(1, self.puts))
        }
    }
    const A: Section = Section { kind: 1, index: 0 };
    const B: Section = Section { kind: 1, index: 1 };
    for (named, puts) in [
        (&[(A, 10)][..], 9),
        (&[(A, 10)], 11),
        (&[(A, 10)], 100_000),
        (&[(A, 10), (A, 10)], 10),
        (&[(B, 10), (A, 10)], 10),
        (&[(Section { kind: 0, index: 0 }, 10)], 10),
    ] {
        let mut buffer = vec![0; 1000];
        let bad = Bad { named, puts };
        let found = snapshot::write(&IDENTITY, &bad, &mut buffer).unwrap_err();
        assert!(matches!(found, Error::Internal(_)), "{found}");
        for len in 0..1000 {
            assert!(is_corrupt(&buffer[..len]));
        }
    }
    let long = Bad { named: &[(A, u64::MAX - 10), (B, 100)], puts: 0 };
    let found = snapshot::len(&IDENTITY, &long).unwrap_err();
    assert!(matches!(found, Error::Limit(_)), "{found}");
}

#[test]
fn writing_and_checking_take_no_memory() {
    let made = Made::of_len(3_000_000);
    let mut buffer = written(&made);
    let (len, peak) = peak_bytes(|| snapshot::write(&IDENTITY, &made, &mut buffer));
    assert_eq!((len, peak), (Ok(buffer.len()), 0));
    let (whole, peak) = peak_bytes(|| Reader::new(&buffer, &IDENTITY).is_ok());
    assert!(whole && peak == 0, "{peak} bytes");
}

#[test]
fn a_file_holds_the_same_bytes_as_a_buffer() {
    let path = std::env::temp_dir().join(format!("tern-snapshot-{}", std::process::id()));
    for (len, part) in [(200, 1), (200_000, 7), (200_000, usize::MAX), (3 << 20, 100_000)] {
        let made = Made { part, ..Made::of_len(len) };
        let (saved, peak) = peak_bytes(|| snapshot::save(&IDENTITY, &made, &path));
        saved.unwrap();
        assert!(peak < 70_000, "{peak} bytes of memory to save {len}");
        let bytes = std::fs::read(&path).unwrap();
        assert!(bytes == written(&made));
        let loaded = snapshot::load(&path, &IDENTITY).unwrap();
        assert!(loaded.as_slice() == bytes);
        assert_eq!(read(loaded.as_slice()), Ok(made.sections));
    }
    // What the header tells is found before the rest is read.
    let error = snapshot::load(&path, &Identity { model: 1, ..IDENTITY }).unwrap_err();
    assert!(matches!(error, Error::SnapshotModel(_)), "{error}");
    for len in [1, HEADER - 1, HEADER, 1000] {
        std::fs::File::options().write(true).open(&path).unwrap().set_len(len as u64).unwrap();
        let error = snapshot::load(&path, &IDENTITY).unwrap_err();
        assert!(matches!(error, Error::SnapshotCorrupt(_)), "{len}: {error}");
    }
    std::fs::remove_file(&path).unwrap();
    let error = snapshot::load(&path, &IDENTITY).unwrap_err();
    assert!(matches!(error, Error::Io(_)), "{error}");
}

/// What a file says is checked again whenever it is read, and takes no more memory than a chunk.
#[test]
fn a_file_is_read_a_chunk_at_a_time_and_may_not_change_meanwhile() {
    let path = std::env::temp_dir().join(format!("tern-snapshot-chunks-{}", std::process::id()));
    let (small, large) = (section(3, 5), section(9, 1));
    let made = Made::new([(small, noise(1, 777)), (large, noise(2, 700_000))]);
    snapshot::save(&IDENTITY, &made, &path).unwrap();
    let (file, peak) = peak_bytes(|| StoredFile::open(&path, &IDENTITY));
    let mut file = file.unwrap();
    assert!(peak < 80_000, "{peak} bytes");
    for (section, bytes) in &made.sections {
        let range = file.find(*section).unwrap();
        assert_eq!(range.end - range.start, bytes.len() as u64);
        for (from, to) in [(0, bytes.len()), (1, 777), (700, 702), (bytes.len(), bytes.len())] {
            let mut found = vec![0; to - from];
            file.read(range.start + from as u64, &mut found).unwrap();
            assert!(found == bytes[from..to], "{section:?}, {from} to {to}");
        }
    }
    let found = file.find(section(3, 6)).unwrap_err();
    assert!(matches!(found, Error::SnapshotCorrupt(_)), "{found}");
    // All of the body and not more.
    let mut buffer = vec![0; 100];
    let end = file.find(large).unwrap().end;
    assert_eq!(file.read(end - 100, &mut buffer), Ok(()));
    let found = file.read(end - 99, &mut buffer).unwrap_err();
    assert!(matches!(found, Error::SnapshotCorrupt(_)), "{found}");

    // A byte that changes after all was well, and a file that is cut short.
    let bytes = std::fs::read(&path).unwrap();
    let at = file.find(large).unwrap().start + 300_000;
    assert_eq!(file.read(end - 1, &mut buffer[..1]), Ok(())); // the chunk in memory is another now
    let mut bad = bytes.clone();
    bad[at as usize + 50] ^= 1;
    std::fs::write(&path, &bad).unwrap();
    let found = file.read(at, &mut buffer).unwrap_err();
    assert!(found.message().contains(": checksum "), "{found}");
    std::fs::write(&path, &bytes).unwrap();
    assert_eq!(file.read(at, &mut buffer), Ok(()));
    assert_eq!(file.read(end - 1, &mut buffer[..1]), Ok(()));
    std::fs::File::options().write(true).open(&path).unwrap().set_len(at + 10).unwrap();
    let found = file.read(at, &mut buffer).unwrap_err();
    assert!(matches!(found, Error::SnapshotCorrupt(_)), "{found}");
    std::fs::remove_file(&path).unwrap();

    // As a buffer is refused, so is a file: at once, or when all of it was asked for.
    let refused = || {
        let mut file = StoredFile::open(&path, &IDENTITY)?;
        file.check_rest()
    };
    for bad in [&bytes[..0], &bytes[..35], &bytes[..bytes.len() - 1], &noise(1, 5000)] {
        std::fs::write(&path, bad).unwrap();
        let error = refused().unwrap_err();
        let is_empty = bad.is_empty() && matches!(error, Error::Io(_));
        assert!(is_empty || matches!(error, Error::SnapshotCorrupt(_)), "{error}");
    }
    for bit in (0..8 * 200).chain((8 * 200..8 * bytes.len()).step_by(50_021)) {
        let mut bad = bytes.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        std::fs::write(&path, &bad).unwrap();
        let error = refused().unwrap_err();
        assert!(matches!(error, Error::SnapshotCorrupt(_)), "bit {bit}: {error}");
    }
    std::fs::write(&path, &bytes).unwrap();
    assert_eq!(refused(), Ok(()));
    std::fs::remove_file(&path).unwrap();
}

#[test]
fn saving_without_memory_is_an_error() {
    let path = std::env::temp_dir().join(format!("tern-snapshot-oom-{}", std::process::id()));
    let made = Made::of_len(100_000);
    let mut n = 0;
    while let Err(error) = with_allocations(n, || snapshot::save(&IDENTITY, &made, &path)) {
        assert!(matches!(error, Error::OutOfMemory(_)), "{n}: {error}");
        assert!(!path.exists());
        n += 1;
    }
    assert!(n > 1, "nothing allocates: does this test still see it?");
    std::fs::remove_file(&path).unwrap();
    drop(Output::create(&path).unwrap()); // the first of its names is free again
    assert!(!path.exists());
}

/// No bound, but shown: a session of 40 MB is written and restored in a blink.
#[test]
fn forty_megabytes_take_milliseconds() {
    if support::emulated() {
        return support::skipped("forty_megabytes_take_milliseconds", "an emulator is slow");
    }
    let path = std::env::temp_dir().join(format!("tern-snapshot-40-{}", std::process::id()));
    let made = Made::new([(section(1, 0), noise(1, 40_000_000))]);
    let mut buffer = vec![1; 40_100_000];
    let mut cache = vec![1; 40_000_000];
    snapshot::save(&IDENTITY, &made, &path).unwrap();
    let ms = |start: Instant| start.elapsed().as_secs_f64() * 1e3;
    let mut best = [f64::MAX; 5];
    for _ in 0..10 {
        let start = Instant::now();
        let len = snapshot::write(&IDENTITY, &made, &mut buffer).unwrap();
        let write = ms(start);
        let start = Instant::now();
        Reader::new(&buffer[..len], &IDENTITY).unwrap();
        let check = ms(start);
        let start = Instant::now();
        let bytes = snapshot::load(&path, &IDENTITY).unwrap();
        let load = ms(start);
        let reader = Reader::new(bytes.as_slice(), &IDENTITY).unwrap();
        let load_check = ms(start);
        cache.copy_from_slice(reader.section(section(1, 0)).unwrap());
        drop(bytes);
        let restore = ms(start);
        for (best, ms) in best.iter_mut().zip([write, check, load, load_check, restore]) {
            *best = best.min(ms);
        }
    }
    let [write, check, load, load_check, restore] = best;
    println!(
        "40 MB: written to memory in {write:.1} ms, checked there in {check:.1}; from a file read in \
         {load:.1}, read and checked in {load_check:.1}, restored in {restore:.1}"
    );
    std::fs::remove_file(&path).unwrap();
}

#[test]
fn what_is_prefetched_is_soon_in_memory() {
    let test = "what_is_prefetched_is_soon_in_memory";
    let path = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join(test);
    snapshot::save(&IDENTITY, &Made::of_len(8 << 20), &path).unwrap();
    let file = std::fs::File::open(&path).unwrap();
    page_cache::drop_clean(&file);
    if page_cache::resident(&file).0 != 0 {
        support::skipped(test, "this file system keeps files in memory");
        return std::fs::remove_file(&path).unwrap();
    }
    snapshot::prefetch(&path).unwrap();
    let began = Instant::now();
    let resident = loop {
        let (n, all) = page_cache::resident(&file);
        if n == all || began.elapsed().as_secs() > 20 {
            break (n, all);
        }
        std::thread::sleep(std::time::Duration::from_millis(1));
    };
    std::fs::remove_file(&path).unwrap();
    assert_eq!(resident.0, resident.1, "pages in memory, of all");
}

#[test]
fn what_is_no_snapshot_is_not_prefetched() {
    let path = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("not_prefetched");
    let mut bytes = written(&Made::of_len(64 << 10));
    let gives = |bytes: &[u8]| {
        std::fs::write(&path, bytes).unwrap();
        snapshot::prefetch(&path)
    };
    assert_eq!(gives(&bytes), Ok(()));
    assert!(matches!(gives(&bytes[..bytes.len() - 1]), Err(Error::SnapshotCorrupt(_))));
    assert!(matches!(gives(&bytes[..20]), Err(Error::SnapshotCorrupt(_))));
    bytes[8] ^= 1;
    seal(&mut bytes);
    assert!(matches!(gives(&bytes), Err(Error::SnapshotVersion(_))));
    bytes[0] ^= 1;
    assert!(matches!(gives(&bytes), Err(Error::SnapshotCorrupt(_))));
    std::fs::remove_file(&path).unwrap();
    assert!(matches!(snapshot::prefetch(&path), Err(Error::Io(_))));
}
