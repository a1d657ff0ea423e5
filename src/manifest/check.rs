//! Holds the bytes of a file against its manifest while they are read, by however many threads.
//!
//! SHA-256 has an order, and threads have none. So each hands its bytes on when all before them have
//! been handed on; who reads next meanwhile is free. What nobody reads, because nothing uses it, is
//! read here, so that a file of which any byte is another is refused.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use sha2::{Digest, Sha256};

use super::{Manifest, Part};
use crate::base::error::{Result, err};
use crate::base::file::Source;
use crate::base::heap;

/// Bytes that are read at once of what nobody else reads.
const CHUNK: usize = 64 << 10;

/// The pass over a file's bytes, from its second part on: the first is the header's, which is read
/// before ([`check_part`]).
pub struct Check<'a> {
    manifest: &'a Manifest<'a>,
    source: &'a Source<'a>,
    /// What will be handed in: first byte and end, in order.
    ranges: Vec<(u64, u64)>,
    state: Mutex<State>,
    turn: Condvar,
}

struct State {
    /// Bytes of the file that have been hashed, or were before.
    at: u64,
    /// The first of `ranges` that has not been handed in.
    range: usize,
    /// The part that is being hashed, and where it ends.
    part: usize,
    end: u64,
    hash: Sha256,
    /// Another thread has failed, and nobody's turn will come.
    failed: bool,
    buffer: Vec<u8>,
}

impl<'a> Check<'a> {
    /// Begins a pass in which `ranges` of the file will be handed in: first byte and end of each, in
    /// order. Fails with `BadDigest`, `BadManifest`, `OutOfMemory`, and as reading does.
    pub fn new(
        manifest: &'a Manifest<'a>,
        source: &'a Source<'a>,
        ranges: Vec<(u64, u64)>,
    ) -> Result<Check<'a>> {
        let header = manifest.parts.first().map_or(0, |part| part.bytes);
        let mut last = header;
        for &(begin, end) in &ranges {
            if begin < last || end < begin || end > manifest.bytes {
                return Err(err!(
                    BadManifest,
                    "manifest: the file has tensor data at byte {begin}, expected from {last} on"
                ));
            }
            last = end;
        }
        let mut buffer = heap::reserve(CHUNK, "bytes of a file")?;
        buffer.resize(CHUNK, 0);
        let (range, part, hash) = (0, 0, Sha256::new());
        let state = State { at: header, range, part, end: header, hash, failed: false, buffer };
        let (state, turn) = (Mutex::new(state), Condvar::new());
        let check = Check { manifest, source, ranges, state, turn };
        check.read_gap(&mut check.lock())?;
        Ok(check)
    }

    /// Hands in bytes of the file, which lie in one of the ranges; waits until those before have
    /// been handed in. Fails with `BadDigest` at the end of a part that is another, and with
    /// `Aborted` if another thread fails meanwhile.
    pub fn hand_in(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        let mut state = self.lock();
        while state.at < offset && !state.failed {
            state = self.turn.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        let outcome = match state.failed {
            true => Err(err!(Aborted, "another thread found an error in the file")),
            false if state.at != offset => {
                let at = state.at;
                Err(err!(Internal, "byte {offset} of the file read after {at}, so not checked"))
            }
            false => self.hash(&mut state, bytes).and_then(|()| self.read_gap(&mut state)),
        };
        state.failed |= outcome.is_err();
        drop(state);
        self.turn.notify_all();
        outcome
    }

    /// Says that bytes which were to be handed in will not be: nobody need wait for them.
    pub fn fail(&self) {
        self.lock().failed = true;
        self.turn.notify_all();
    }

    /// That all of the file has been seen.
    pub fn finish(&self) -> Result<()> {
        let at = self.lock().at;
        match at == self.manifest.bytes {
            true => Ok(()),
            false => Err(err!(Internal, "the file was checked up to byte {at} only")),
        }
    }

    /// Reads what lies before the next range that will be handed in, or before the file's end.
    fn read_gap(&self, state: &mut State) -> Result<()> {
        while self.ranges.get(state.range).is_some_and(|range| state.at >= range.1) {
            state.range += 1;
        }
        let next = self.ranges.get(state.range).map_or(self.manifest.bytes, |range| range.0);
        let mut buffer = std::mem::take(&mut state.buffer);
        let mut read = || {
            while state.at < next {
                let n = (next - state.at).min(CHUNK as u64) as usize;
                self.source.read_at(state.at, &mut buffer[..n])?;
                self.hash(state, &buffer[..n])?;
            }
            self.hash(state, &[]) // parts without bytes at the file's end
        };
        let outcome = read();
        state.buffer = buffer;
        outcome
    }

    /// Hashes the next bytes of the file; at the end of each part its digest is compared.
    fn hash(&self, state: &mut State, mut bytes: &[u8]) -> Result<()> {
        let parts = &self.manifest.parts;
        loop {
            if state.at == state.end
                && let Some(part) = parts.get(state.part)
            {
                if state.part > 0 {
                    compare(part, &mut state.hash)?;
                }
                state.part += 1;
                state.end += parts.get(state.part).map_or(0, |next| next.bytes);
                continue;
            }
            if bytes.is_empty() {
                return Ok(());
            }
            let n = (state.end - state.at).min(bytes.len() as u64) as usize;
            if n == 0 {
                return Err(err!(Internal, "bytes after the end of the file"));
            }
            let (now, later) = bytes.split_at(n);
            state.hash.update(now);
            state.at += n as u64;
            bytes = later;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// That the part which begins at `offset` is what the manifest says, of which the first bytes are
/// here; the rest is read. Fails with `BadDigest`, `BadManifest`.
pub fn check_part(
    manifest: &Manifest<'_>,
    source: &Source<'_>,
    offset: u64,
    first: &[u8],
) -> Result<()> {
    let part = manifest.part_at(offset).filter(|part| part.bytes >= first.len() as u64);
    let Some(part) = part else {
        let n = first.len();
        return Err(err!(
            BadManifest,
            "manifest: no part begins at byte {offset} of the file and has {n} bytes"
        ));
    };
    let mut hash = Sha256::new();
    hash.update(first);
    let read = first.len() as u64;
    read_into(&mut hash, source, offset + read, part.bytes - read)?;
    compare(part, &mut hash)
}

/// The SHA-256 of some bytes of a file.
pub fn digest(source: &Source<'_>, offset: u64, bytes: u64) -> Result<[u8; 32]> {
    let mut hash = Sha256::new();
    read_into(&mut hash, source, offset, bytes)?;
    Ok(hash.finalize().into())
}

fn read_into(hash: &mut Sha256, source: &Source<'_>, offset: u64, bytes: u64) -> Result<()> {
    let mut buffer = heap::reserve(CHUNK, "bytes of a file")?;
    buffer.resize(CHUNK, 0);
    let mut at = 0;
    while at < bytes {
        let n = (bytes - at).min(CHUNK as u64) as usize;
        source.read_at(offset + at, &mut buffer[..n])?;
        hash.update(&buffer[..n]);
        at += n as u64;
    }
    Ok(())
}

/// Compares what was hashed with a part's digest, and begins anew.
fn compare(part: &Part<'_>, hash: &mut Sha256) -> Result<()> {
    let found: [u8; 32] = hash.finalize_reset().into();
    match found == part.digest {
        true => Ok(()),
        false => Err(err!(
            BadDigest,
            "{}: its {} bytes are not those that were signed",
            part.name,
            part.bytes
        )),
    }
}
