//! Good files, changed everywhere: every field to the numbers at which things break, cut at every
//! byte, every bit flipped, and many things at once. What each change is called is not checked here.
//! Each is loaded, and what loads generates; none may panic, hang, or take too much memory.
//!
//! The long ones alone: `cargo test --release --test malformed sweep -- --ignored --show-output`

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use crate::case::{MOST, MOST_MEMORY, generate};
use crate::fields::{ALIGNMENT, Field, Piece, Pieces, Role, boundaries, read, write};
use crate::models::{ARCHS, smallest, spm_in, spm_tokens, yarn};
use crate::support::counting::peak_bytes;
use crate::support::emulated;
use crate::support::guarded::Guarded;
use crate::support::tiny::Random;
use tern::base::file::Source;
use tern::engine::Gguf;

/// The smallest models of every architecture, and one with SentencePiece's kind of vocabulary.
fn models() -> Vec<(&'static str, Vec<u8>)> {
    let mut models: Vec<_> = ARCHS.map(|arch| (arch, smallest(arch).gguf())).into();
    models.push(("spm", spm_in(smallest("llama").writer(), &spm_tokens()).write()));
    models.push(("yarn", yarn(smallest("llama")).gguf()));
    models
}

/// What a sweep has met so far.
struct Tally {
    n: usize,
    works: usize,
    codes: BTreeMap<&'static str, usize>,
    wrong: Vec<String>,
    slowest: (Duration, String),
    largest: (usize, String),
    place: Guarded,
    /// For whoever waits for it: how many there were, and what the last one is.
    progress: Arc<(AtomicUsize, Mutex<String>)>,
}

impl Tally {
    /// Uses a file, with nothing behind it.
    fn take(&mut self, label: impl Fn() -> String, file: &[u8]) {
        let file = self.place.hold(file);
        *self.progress.1.lock().expect("nobody panics with it") = label();
        let start = Instant::now();
        let (result, peak) = peak_bytes(|| catch_unwind(AssertUnwindSafe(|| generate(file))));
        let time = start.elapsed();
        self.n += 1;
        self.progress.0.store(self.n, Ordering::Relaxed);
        match result {
            Ok(Ok(())) => self.works += 1,
            Ok(Err(e)) => *self.codes.entry(e.name()).or_default() += 1,
            Err(_) => self.wrong.push(format!("{}: a panic", label())),
        }
        let beyond = peak.saturating_sub(file.len());
        if beyond > MOST_MEMORY {
            self.wrong.push(format!("{}: {peak} bytes for {}", label(), file.len()));
        }
        if time > self.slowest.0 {
            self.slowest = (time, label());
        }
        if beyond > self.largest.0 {
            self.largest = (beyond, label());
        }
    }
}

/// Runs a sweep on a thread with a small stack, watches that it goes on, and says what it met.
fn sweep(name: &str, run: impl FnOnce(&mut Tally) + Send + 'static) {
    let progress = Arc::new((AtomicUsize::new(0), Mutex::new(String::new())));
    let mut tally = Tally {
        n: 0,
        works: 0,
        codes: BTreeMap::new(),
        wrong: Vec::new(),
        slowest: (Duration::ZERO, String::new()),
        largest: (0, String::new()),
        place: Guarded::new(),
        progress: Arc::clone(&progress),
    };
    let (send, receive) = mpsc::channel();
    let start = Instant::now();
    let work = move || {
        run(&mut tally);
        send.send(tally).expect("someone waits");
    };
    let thread = thread::Builder::new().stack_size(256 << 10).spawn(work).expect("a thread");
    let mut before = usize::MAX;
    let tally = loop {
        match receive.recv_timeout(MOST) {
            Ok(tally) => break tally,
            Err(mpsc::RecvTimeoutError::Disconnected) => {
                drop(thread.join());
                panic!("{name}: the sweep itself ended early");
            }
            Err(mpsc::RecvTimeoutError::Timeout) => {
                let now = progress.0.load(Ordering::Relaxed);
                assert!(now != before, "{name}: still running: {:?}", progress.1.lock());
                before = now;
            }
        }
    };
    let Tally { n, works, codes, wrong, slowest, largest, .. } = tally;
    println!("{name}: {n} files in {:.1} s, {works} work", start.elapsed().as_secs_f64());
    for (code, n) in codes {
        println!("  {n:8} {code}");
    }
    println!("  slowest {:.1} ms: {}", slowest.0.as_secs_f64() * 1e3, slowest.1);
    println!("  most memory beyond the file {} KiB: {}", largest.0 >> 10, largest.1);
    let shown = wrong.iter().take(20).cloned().collect::<Vec<_>>().join("\n");
    assert!(wrong.is_empty(), "{name}: {} of {n}:\n{shown}", wrong.len());
}

/// Every field of these models, at every boundary.
fn fields_at_boundaries(tally: &mut Tally, models: &[(&str, Vec<u8>)]) {
    for (name, good) in models {
        for field in Pieces::of(good).fields() {
            let old = read(good, field);
            let mut file = good.clone();
            let step = if emulated() { 13 } else { 1 }; // two of the 14
            for number in boundaries(field, old, good.len()).into_iter().step_by(step) {
                write(&mut file, field, number);
                tally.take(|| format!("{name}: {number:#x} at byte {}", field.at), &file);
            }
        }
    }
}

#[test]
fn fields_at_their_boundaries_are_survived() {
    sweep("fields at boundaries, two models", |tally| {
        let two: Vec<_> =
            models().into_iter().filter(|(name, _)| ["yarn", "spm"].contains(name)).collect();
        fields_at_boundaries(tally, &two);
        assert!(tally.works > 0 && tally.works < tally.n);
    });
}

#[test]
#[ignore = "100,000 files; the test above has two of the nine models"]
fn fields_of_all_models_at_their_boundaries_are_survived() {
    sweep("fields at boundaries, all models", |tally| fields_at_boundaries(tally, &models()));
}

/// Cut at every byte before the data, and beside both ends of each tensor: an error each time.
#[test]
fn cuts_at_every_byte_are_errors() {
    sweep("cuts", |tally| {
        for (name, good) in models() {
            let gguf = Gguf::parse(&Source::from_memory(&good)).expect("a good file");
            let mut cuts: Vec<usize> = (0..gguf.data_offset() as usize).collect();
            for tensor in gguf.tensors() {
                let start = (gguf.data_offset() + tensor.offset) as usize;
                let end = start + tensor.bytes as usize;
                cuts.extend([start - 1, start, start + 1, end - 1, end, end + 1]);
            }
            cuts.retain(|&cut| cut < good.len());
            for cut in cuts {
                tally.take(|| format!("{name}: {cut} bytes"), &good[..cut]);
            }
        }
        assert_eq!(tally.works, 0, "a part of a file works");
    });
}

/// Flips of these bits of a model's metadata.
fn flips(tally: &mut Tally, name: &str, good: &[u8], bits: impl Iterator<Item = usize>) {
    let mut file = good.to_vec();
    for bit in bits {
        file[bit / 8] ^= 1 << (bit % 8);
        tally.take(|| format!("{name}: bit {bit}"), &file);
        file[bit / 8] = good[bit / 8];
    }
}

#[test]
fn fifty_thousand_flipped_bits_are_survived() {
    let n = if emulated() { 2_000 } else { 50_000 };
    sweep("flipped bits, sampled", move |tally| {
        let models = models();
        let mut random = Random(11);
        for (name, good) in &models {
            let end = 8 * Pieces::of(good).header_len() as u64;
            let bits = (0..n / models.len()).map(|_| u64::from(random.next()) % end);
            flips(tally, name, good, bits.map(|bit| bit as usize));
        }
    });
}

#[test]
#[ignore = "half a million files"]
fn every_flipped_bit_is_survived() {
    if emulated() {
        return crate::support::skipped("every_flipped_bit_is_survived", "takes hours emulated");
    }
    sweep("flipped bits, all", |tally| {
        for (name, good) in models() {
            flips(tally, name, &good, 0..8 * Pieces::of(&good).header_len());
        }
    });
}

/// Random numbers below a bound.
struct Below(Random);

impl Below {
    fn below(&mut self, n: usize) -> usize {
        self.0.next() as usize % n.max(1)
    }

    fn of<'a, T>(&mut self, all: &'a [T]) -> Option<&'a T> {
        all.get(self.below(all.len()))
    }
}

/// Changes a file in one way that leaves most of it well formed.
fn mutate(random: &mut Below, pieces: &mut Pieces, pristine: &[Piece]) {
    match random.below(16) {
        // A number at a boundary, another field's, or any.
        0..7 => {
            let len = pieces.header_len();
            let n = pieces.entries.len();
            let i = random.below(n + pieces.rows.len());
            let list = if i < n { &mut pieces.entries } else { &mut pieces.rows };
            let i = if i < n { i } else { i - n };
            let Some(piece) = list.get_mut(i) else { return };
            let Some(mut field) = random.of(&piece.fields).copied() else { return };
            // What says how to read on ends most files at once: mostly something else.
            if field.role == Role::Shape && random.below(16) > 0 {
                let deeper = piece.fields.iter().filter(|f| f.role != Role::Shape);
                let Some(other) = deeper.copied().nth(random.below(6)) else { return };
                field = other;
            }
            let old = read(&piece.bytes, field);
            let number = match random.below(4) {
                0 => random.below(1 << 16) as u64,
                1 => read(&piece.bytes, *random.of(&piece.fields).unwrap_or(&field)),
                _ => boundaries(field, old, len)[random.below(14)],
            };
            write(&mut piece.bytes, field, number);
        }
        // One entry with the value of another: another kind, another length.
        7 => {
            let i = random.below(pieces.entries.len());
            if let (Some(entry), Some(other)) = (pieces.entries.get_mut(i), random.of(pristine)) {
                *entry = entry.with_value_of(other);
            }
        }
        // Entries that are missing, there twice, or in another order.
        8 => {
            let i = random.below(pieces.entries.len());
            if !pieces.entries.is_empty() {
                pieces.entries.remove(i);
            }
        }
        9 => {
            let Some(entry) = random.of(&pieces.entries).cloned() else { return };
            let i = random.below(pieces.entries.len());
            pieces.entries.insert(i, entry);
        }
        10 => {
            let (i, j) = (random.below(pieces.entries.len()), random.below(pieces.entries.len()));
            if i.max(j) < pieces.entries.len() {
                pieces.entries.swap(i, j);
            }
        }
        // Tensors that are missing, twice, or where another is.
        11 => match (random.below(3), random.below(pieces.rows.len())) {
            (0, i) if !pieces.rows.is_empty() => _ = pieces.rows.remove(i),
            (1, i) if !pieces.rows.is_empty() => pieces.rows.push(pieces.rows[i].clone()),
            (_, i) => swap_places(random, &mut pieces.rows, i),
        },
        // Any byte of a piece.
        12..15 => {
            let list = if random.below(4) > 0 { &mut pieces.entries } else { &mut pieces.rows };
            let i = random.below(list.len());
            let Some(piece) = list.get_mut(i) else { return };
            let at = random.below(piece.bytes.len());
            // Texts, mostly: the fields were above.
            let in_field = piece.fields.iter().any(|f| (f.at..f.at + f.width).contains(&at));
            if in_field && random.below(32) > 0 {
                return;
            }
            let byte = [0, 1, 0x20, 0x7F, 0x80, 0xFF, b'a', random.below(256) as u8];
            piece.bytes[at] = byte[random.below(8)];
        }
        // Weights.
        _ => {
            let at = random.below(pieces.data.len() / 4) * 4;
            let number = [f32::NAN, f32::INFINITY, f32::MAX, f32::from_bits(1), -0.0, 1e19];
            let number = number[random.below(6)].to_le_bytes();
            if let Some(place) = pieces.data.get_mut(at..at + 4) {
                place.copy_from_slice(&number);
            }
        }
    }
}

/// Two tensors, each where the other was.
fn swap_places(random: &mut Below, rows: &mut [Piece], i: usize) {
    let j = random.below(rows.len());
    let offset = |row: &Piece| {
        row.bytes.len().checked_sub(8).map(|at| Field { at, width: 8, role: Role::Integer })
    };
    let (Some(a), Some(b)) = (rows.get(i).and_then(offset), rows.get(j).and_then(offset)) else {
        return;
    };
    let (x, y) = (read(&rows[i].bytes, a), read(&rows[j].bytes, b));
    write(&mut rows[i].bytes, a, y);
    write(&mut rows[j].bytes, b, x);
}

/// Changes a file in one way that does not care what stands where.
fn damage(random: &mut Below, file: &mut Vec<u8>, header: usize) {
    let at = random.below(header.min(file.len()));
    let len = 1 + random.below(40);
    match random.below(5) {
        0 => file.truncate(random.below(file.len())),
        1 => drop(file.splice(at..(at + len).min(file.len()), [])),
        2 => {
            let from = random.below(file.len());
            let piece = file[from..(from + len).min(file.len())].to_vec();
            drop(file.splice(at..at, piece));
        }
        3 => file.resize(file.len() + len * ALIGNMENT, 0xFF),
        _ => {
            if let Some(byte) = file.get_mut(at) {
                *byte ^= 1 << random.below(8);
            }
        }
    }
}

/// Files with two to five changes each, from one seed.
fn mutations(tally: &mut Tally, n: usize, seed: u64) {
    let models: Vec<_> =
        models().into_iter().map(|(name, file)| (name, Pieces::of(&file))).collect();
    let mut random = Below(Random(seed));
    for i in 0..n {
        let (name, good) = &models[i % models.len()];
        let mut pieces = good.clone();
        let n_changes = 2 + random.below(4);
        // One in eight is damaged at last; the others go deeper.
        let damaged = random.below(8) == 0;
        for _ in usize::from(damaged)..n_changes {
            mutate(&mut random, &mut pieces, &good.entries);
        }
        let mut file = pieces.file();
        if damaged {
            damage(&mut random, &mut file, pieces.header_len());
        }
        tally.take(|| format!("{name}: mutation {i} of seed {seed}"), &file);
    }
    assert!(tally.works > n / 100 && tally.works < n, "{} of {n} work", tally.works);
}

#[test]
fn twenty_thousand_mutations_are_survived() {
    let n = if emulated() { 1_000 } else { 20_000 };
    sweep("mutations", move |tally| mutations(tally, n, 5));
}

#[test]
#[ignore = "a million files"]
fn a_million_mutations_are_survived() {
    if emulated() {
        return crate::support::skipped("a_million_mutations_are_survived", "takes hours emulated");
    }
    sweep("mutations, a million", |tally| mutations(tally, 1_000_000, 17));
}

/// The pieces that the sweeps take files apart into are those of the file.
#[test]
fn files_come_together_again() {
    for (name, file) in models() {
        assert!(Pieces::of(&file).file() == file, "{name}");
        assert!(Pieces::of(&file).fields().len() > 600, "{name}");
    }
}
