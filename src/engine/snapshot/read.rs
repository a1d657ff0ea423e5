//! Reading: every byte is checked before the first is used.

use std::path::Path;

use crate::base::crc32c;
use crate::base::error::{Error, Result, err};
use crate::base::file::{Bytes, Source};
use crate::base::memory::HugePages;
use crate::engine::plan::check_memory;

use super::write::data_start;
use super::{Chunks, ENTRY, HEADER, Header, Identity, LAYOUT, Section, check, take_u32, take_u64};

/// A snapshot that is whole, and of the model and layout that were expected.
#[derive(Clone, Copy, Debug)]
pub struct Reader<'a> {
    bytes: &'a [u8],
    /// Of all sections, ascending.
    table: &'a [[u8; ENTRY]],
}

/// Reads the file of a snapshot into memory, for a [`Reader`]: it is not mapped, since the pages of a
/// mapped file can change or be lost after they were checked.
///
/// Fails with `Io` if it cannot be read or is empty, and as [`Reader::new`] does if that can be told
/// from the header.
pub fn load(path: &Path, identity: &Identity<'_>) -> Result<Bytes> {
    let source = Source::open(path)?;
    let len = source.len();
    let mut header = [0; HEADER];
    let n = usize::try_from(len).unwrap_or(HEADER).min(HEADER);
    let header = header.get_mut(..n).unwrap_or_default();
    read(&source, header)?;
    Header::decode(header, len, identity.model)?;
    check_memory("snapshot", len)?;
    let n = usize::try_from(len)
        .map_err(|_| err!(OutOfMemory, "{len} bytes exceed the address space"))?;
    Bytes::build(n, HugePages::Default, |to| read(&source, to))
}

fn read(source: &Source<'_>, to: &mut [u8]) -> Result<()> {
    source.read_at(0, to).map_err(|error| match error {
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
        let reader = Reader { bytes: body, table: table.as_chunks().0 };
        reader.check_table()?;
        reader.check_layout(identity)?;
        Ok(reader)
    }

    /// All sections but the layout's, ascending.
    pub fn sections(&self) -> impl Iterator<Item = (Section, &'a [u8])> + use<'a> {
        let reader = *self;
        (1..self.table.len()).filter_map(move |i| reader.at(i))
    }

    /// The bytes of a section. Fails with `SnapshotCorrupt` if there is none.
    pub fn section(&self, section: Section) -> Result<&'a [u8]> {
        let i = self.table.partition_point(|entry| decode(entry).is_some_and(|e| e.0 < section));
        match self.at(i) {
            Some((found, bytes)) if found == section => Ok(bytes),
            _ => Err(err!(SnapshotCorrupt, "snapshot: it has no {section:?}")),
        }
    }

    /// The section of an entry of the table.
    fn at(&self, i: usize) -> Option<(Section, &'a [u8])> {
        let (section, end) = decode(self.table.get(i)?)?;
        Some((section, self.bytes.get(self.start(i)?..end)?))
    }

    /// Where the section of an entry begins: where the one before it ends.
    fn start(&self, i: usize) -> Option<usize> {
        match i.checked_sub(1) {
            Some(before) => Some(decode(self.table.get(before)?)?.1),
            None => self.table.as_flattened().len().checked_add(HEADER),
        }
    }

    /// Sections ascend, from one end to the next, up to the end of the body.
    fn check_table(&self) -> Result<()> {
        let bad = |i: usize| err!(SnapshotCorrupt, "snapshot: entry {i} of the table is wrong");
        let mut last = None;
        for i in 0..self.table.len() {
            let (section, _) = self.at(i).ok_or_else(|| bad(i))?;
            if last.is_some_and(|last| section <= last) {
                return Err(bad(i));
            }
            last = Some(section);
        }
        match self.start(self.table.len()) {
            Some(end) if end == self.bytes.len() => Ok(()),
            _ => Err(bad(self.table.len())),
        }
    }

    /// Compares the layout with the one expected, number by number.
    fn check_layout(&self, identity: &Identity<'_>) -> Result<()> {
        let mut rest = self.section(Section { kind: LAYOUT, index: 0 })?;
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
}

/// Every chunk has its checksum, and so have the checksums.
fn check_chunks(body: &[u8], checksums: &[u8]) -> Result<()> {
    let chunks = Chunks::of(body.len() as u64);
    // As many as this: the length of the whole was checked.
    let Some((checksums, last)) = checksums.split_last_chunk() else {
        return Err(err!(SnapshotCorrupt, "snapshot: it has no checksums"));
    };
    check("snapshot: list of checksums", *last, checksums)?;
    let size = usize::try_from(chunks.size).unwrap_or(usize::MAX);
    let (checksums, _) = checksums.as_chunks();
    let mut at = 0usize;
    for (chunk, checksum) in body.chunks(size).zip(checksums) {
        let end = at.saturating_add(chunk.len());
        let (found, expected) = (crc32c::crc32c(chunk), u32::from_le_bytes(*checksum));
        if found != expected {
            return Err(err!(
                SnapshotCorrupt,
                "snapshot: bytes {at} to {end}: checksum {found:08x}, expected {expected:08x}"
            ));
        }
        at = end;
    }
    Ok(())
}

/// An entry of the table: a section, and where it ends.
fn decode(entry: &[u8; ENTRY]) -> Option<(Section, usize)> {
    let mut rest = entry.as_slice();
    let (kind, index) = (take_u32(&mut rest)?, take_u32(&mut rest)?);
    Some((Section { kind, index }, usize::try_from(take_u64(&mut rest)?).ok()?))
}

/// Takes a name and its number off the front of a layout.
fn take_field<'b>(layout: &mut &'b [u8]) -> Option<(&'b [u8], u64)> {
    let (&n, rest) = layout.split_first()?;
    let (name, rest) = rest.split_at_checked(n.into())?;
    *layout = rest;
    Some((name, take_u64(layout)?))
}
