//! Reading: every byte is checked before the first is used.

use std::ops::Range;
use std::path::Path;

use crate::base::crc32c;
use crate::base::error::{Error, Result, err};
use crate::base::file::{Bytes, Source};
use crate::base::memory::HugePages;
use crate::engine::plan::check_memory;

use super::stored::Stored;
use super::write::data_start;
use super::{Chunks, ENTRY, HEADER, Header, Identity, LAYOUT, Section, check, take_u32, take_u64};

/// A snapshot that is whole, and of the model and layout that were expected.
#[derive(Clone, Copy, Debug)]
pub struct Reader<'a> {
    bytes: &'a [u8],
    table: Table<'a>,
}

/// Reads the file of a snapshot into memory, for a [`Reader`]: it is not mapped, since the pages of a
/// mapped file can change or be lost after they were checked.
///
/// Fails with `Io` if it cannot be read or is empty, and as [`Reader::new`] does if that can be told
/// from the header.
pub fn load(path: &Path, identity: &Identity<'_>) -> Result<Bytes> {
    let (source, header) = open(path)?;
    header.check_model(identity.model)?;
    let len = source.len();
    check_memory("snapshot", len)?;
    let n = usize::try_from(len)
        .map_err(|_| err!(OutOfMemory, "{len} bytes exceed the address space"))?;
    Bytes::build(n, HugePages::Default, |to| read(&source, 0, to))
}

/// Asks the system to read the file of a snapshot into its page cache, and does not wait until it has:
/// restoring it later finds it there, as far as memory was left for it.
///
/// Only the header is checked. Fails with `Io`, `SnapshotCorrupt` and `SnapshotVersion`.
pub fn prefetch(path: &Path) -> Result<()> {
    open(path)?.0.prefetch()
}

/// Opens the file of a snapshot of any model, and reads its header.
pub(super) fn open(path: &Path) -> Result<(Source<'static>, Header)> {
    let source = Source::open(path)?;
    let mut header = [0; HEADER];
    let n = usize::try_from(source.len()).unwrap_or(HEADER).min(HEADER);
    let header = header.get_mut(..n).unwrap_or_default();
    read(&source, 0, header)?;
    let header = Header::decode_any(header, source.len())?;
    Ok((source, header))
}

pub(super) fn read(source: &Source<'_>, at: u64, to: &mut [u8]) -> Result<()> {
    source.read_at(at, to).map_err(|error| match error {
        // It became shorter after it was opened.
        Error::BadFile(sentence) => Error::SnapshotCorrupt(sentence),
        error => error,
    })
}

impl<'a> Reader<'a> {
    /// Checks all of a snapshot, which is all of `bytes`.
    ///
    /// Fails with `SnapshotCorrupt` if a byte is not what it was, or there are more or fewer;
    /// `SnapshotVersion` if it is in another version of the format; `SnapshotModel` and
    /// `SnapshotLayout` if it is of another model or layout.
    pub fn new(bytes: &'a [u8], identity: &Identity<'_>) -> Result<Reader<'a>> {
        let header = Header::decode(bytes, bytes.len() as u64, identity.model)?;
        let short = || err!(SnapshotCorrupt, "snapshot: the table does not fit");
        // The length is that of the bytes, so it fits.
        let (body, checksums) = usize::try_from(header.body)
            .ok()
            .and_then(|body| bytes.split_at_checked(body))
            .ok_or_else(short)?;
        check_chunks(body, checksums)?;
        let data = usize::try_from(data_start(header.n_sections)).map_err(|_| short())?;
        let table = body.get(HEADER..data).ok_or_else(short)?;
        let reader = Reader { bytes: body, table: Table(table.as_chunks().0) };
        reader.table.check(header.body)?;
        check_layout(reader.section(Section { kind: LAYOUT, index: 0 })?, identity)?;
        Ok(reader)
    }

    /// All sections but the layout's, ascending.
    pub fn sections(&self) -> impl Iterator<Item = (Section, &'a [u8])> + use<'a> {
        let reader = *self;
        (1..reader.table.0.len()).filter_map(move |i| {
            let (section, range) = reader.table.at(i)?;
            Some((section, reader.get(&range)?))
        })
    }

    /// The bytes of a section. Fails with `SnapshotCorrupt` if there is none.
    pub fn section(&self, section: Section) -> Result<&'a [u8]> {
        let range = self.table.find(section)?;
        self.get(&range).ok_or_else(|| absent(section))
    }

    fn get(&self, range: &Range<u64>) -> Option<&'a [u8]> {
        let (start, end) = (usize::try_from(range.start).ok()?, usize::try_from(range.end).ok()?);
        self.bytes.get(start..end)
    }
}

impl Stored for Reader<'_> {
    fn find(&self, section: Section) -> Result<Range<u64>> {
        self.table.find(section)
    }

    fn read(&mut self, at: u64, to: &mut [u8]) -> Result<()> {
        let end = at.saturating_add(to.len() as u64);
        match self.get(&(at..end)) {
            Some(bytes) if bytes.len() == to.len() => {
                to.copy_from_slice(bytes);
                Ok(())
            }
            _ => Err(err!(SnapshotCorrupt, "snapshot: it has no bytes {at} to {end}")),
        }
    }

    fn check_rest(&mut self) -> Result<()> {
        Ok(()) // it was all checked before
    }
}

/// All sections, ascending, and where each ends.
#[derive(Clone, Copy, Debug)]
pub(super) struct Table<'a>(pub(super) &'a [[u8; ENTRY]]);

impl Table<'_> {
    /// Where a section is. Fails with `SnapshotCorrupt` if there is none.
    pub(super) fn find(&self, section: Section) -> Result<Range<u64>> {
        let i = self.0.partition_point(|entry| decode(entry).is_some_and(|e| e.0 < section));
        match self.at(i) {
            Some((found, range)) if found == section => Ok(range),
            _ => Err(absent(section)),
        }
    }

    /// The section of an entry, and where it is.
    fn at(&self, i: usize) -> Option<(Section, Range<u64>)> {
        let (section, end) = decode(self.0.get(i)?)?;
        Some((section, self.start(i)?..end))
    }

    /// Where the section of an entry begins: where the one before it ends.
    fn start(&self, i: usize) -> Option<u64> {
        match i.checked_sub(1) {
            Some(before) => Some(decode(self.0.get(before)?)?.1),
            None => Some(self.0.as_flattened().len().checked_add(HEADER)? as u64),
        }
    }

    /// Sections ascend, from one end to the next, up to the end of the body.
    pub(super) fn check(&self, body: u64) -> Result<()> {
        let bad = |i: usize| err!(SnapshotCorrupt, "snapshot: entry {i} of the table is wrong");
        let mut last = None;
        for i in 0..self.0.len() {
            let (section, range) = self.at(i).ok_or_else(|| bad(i))?;
            if last.is_some_and(|last| section <= last) || range.start > range.end {
                return Err(bad(i));
            }
            last = Some(section);
        }
        match self.start(self.0.len()) {
            Some(end) if end == body => Ok(()),
            _ => Err(bad(self.0.len())),
        }
    }
}

fn absent(section: Section) -> Error {
    err!(SnapshotCorrupt, "snapshot: it has no {section:?}")
}

/// Compares a layout with the one expected, number by number.
pub(super) fn check_layout(mut rest: &[u8], identity: &Identity<'_>) -> Result<()> {
    for (name, expected) in identity.layout {
        let Some((found_name, found)) = take_field(&mut rest) else {
            return Err(err!(SnapshotLayout, "snapshot: its layout has no {name}"));
        };
        if found_name != name.as_bytes() {
            let found = found_name.escape_ascii();
            return Err(err!(
                SnapshotLayout,
                "snapshot: its layout has \"{found}\", expected {name}"
            ));
        }
        if found != *expected {
            return Err(err!(
                SnapshotLayout,
                "snapshot: {name}: found {found}, expected {expected}"
            ));
        }
    }
    match rest.len() {
        0 => Ok(()),
        n => Err(err!(SnapshotLayout, "snapshot: its layout has {n} bytes more")),
    }
}

/// Every chunk has its checksum, and so have the checksums.
fn check_chunks(body: &[u8], checksums: &[u8]) -> Result<()> {
    let chunks = Chunks::of(body.len() as u64);
    let checksums = check_checksums(checksums)?;
    let size = usize::try_from(chunks.size).unwrap_or(usize::MAX);
    let mut at = 0u64;
    for (chunk, checksum) in body.chunks(size).zip(checksums) {
        check_chunk(at, chunk, *checksum)?;
        at = at.saturating_add(chunk.len() as u64);
    }
    Ok(())
}

/// The checksums of all chunks, which have one themselves.
pub(super) fn check_checksums(checksums: &[u8]) -> Result<&[[u8; 4]]> {
    let Some((checksums, last)) = checksums.split_last_chunk() else {
        return Err(err!(SnapshotCorrupt, "snapshot: it has no checksums"));
    };
    check("snapshot: list of checksums", *last, checksums)?;
    Ok(checksums.as_chunks().0)
}

/// Compares the chunk at `at` with its checksum.
pub(super) fn check_chunk(at: u64, chunk: &[u8], checksum: [u8; 4]) -> Result<()> {
    let (found, expected) = (crc32c::crc32c(chunk), u32::from_le_bytes(checksum));
    if found == expected {
        return Ok(());
    }
    let end = at.saturating_add(chunk.len() as u64);
    Err(err!(
        SnapshotCorrupt,
        "snapshot: bytes {at} to {end}: checksum {found:08x}, expected {expected:08x}"
    ))
}

/// An entry of the table: a section, and where it ends.
fn decode(entry: &[u8; ENTRY]) -> Option<(Section, u64)> {
    let mut rest = entry.as_slice();
    let (kind, index) = (take_u32(&mut rest)?, take_u32(&mut rest)?);
    Some((Section { kind, index }, take_u64(&mut rest)?))
}

/// Takes a name and its number off the front of a layout.
fn take_field<'b>(layout: &mut &'b [u8]) -> Option<(&'b [u8], u64)> {
    let (&n, rest) = layout.split_first()?;
    let (name, rest) = rest.split_at_checked(n.into())?;
    *layout = rest;
    Some((name, take_u64(layout)?))
}
