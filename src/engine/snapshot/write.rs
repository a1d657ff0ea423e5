//! Writing: sections flow through one chunk's checksum to where they go, and nothing is kept but
//! the checksums, of which there are 1024 at most.

use std::path::Path;

use crate::base::crc32c;
use crate::base::error::{Result, err};
use crate::base::file::Output;

use super::{
    Chunks, Contents, ENTRY, HEADER, Header, Identity, LAYOUT, MOST_CHUNKS, MOST_SECTIONS, Put,
    Section, TOO_LONG, total,
};

/// Bytes that are collected before they go to a file.
const BUFFER: usize = 64 << 10;

/// Bytes of the snapshot that [`write`] and [`save`] would write now.
pub fn len(identity: &Identity<'_>, contents: &dyn Contents) -> Result<u64> {
    let header = measure(identity, contents)?;
    total(header.body).ok_or_else(|| err!(Limit, "{TOO_LONG}"))
}

/// Writes a snapshot to the front of `to`; gives its bytes.
///
/// Fails with `BufferTooSmall` and writes nothing if they do not fit. After any other error what is
/// in `to` is no snapshot.
pub fn write(identity: &Identity<'_>, contents: &dyn Contents, to: &mut [u8]) -> Result<usize> {
    let header = measure(identity, contents)?;
    let (len, room) = (total(header.body), to.len());
    let Some(len) = len.and_then(|len| usize::try_from(len).ok()).filter(|len| *len <= room) else {
        let len = len.unwrap_or(u64::MAX);
        return Err(err!(BufferTooSmall, "snapshot: a buffer of {room} bytes, expected {len}"));
    };
    let mut rest = to.get_mut(..len).unwrap_or_default();
    let mut sink = |bytes: &[u8]| match rest.split_off_mut(..bytes.len()) {
        Some(place) => {
            place.copy_from_slice(bytes);
            Ok(())
        }
        None => Err(err!(Internal, "snapshot: more bytes than were named")),
    };
    let result = run(&header, identity, contents, &mut sink);
    if result.is_err() {
        // What was written must not meet the rest of an older snapshot.
        to.iter_mut().take(HEADER).for_each(|byte| *byte = 0);
    }
    result.map(|()| len)
}

/// Writes a snapshot to a file, which only its owner may read: the old file or the new one is
/// there, whole, even if the program or the power ends meanwhile.
///
/// Fails with `Io`, and then the old file is there (but see [`Output::finish`]).
pub fn save(identity: &Identity<'_>, contents: &dyn Contents, path: &Path) -> Result<()> {
    let header = measure(identity, contents)?;
    let mut output = Output::create_private(path)?;
    let mut buffer = Vec::new();
    buffer
        .try_reserve_exact(BUFFER)
        .map_err(|_| err!(OutOfMemory, "no memory for a buffer of {BUFFER} bytes"))?;
    let mut sink = |bytes: &[u8]| {
        if bytes.len() > buffer.capacity().saturating_sub(buffer.len()) {
            output.write(&buffer)?;
            buffer.clear();
            if bytes.len() >= BUFFER {
                return output.write(bytes);
            }
        }
        buffer.extend_from_slice(bytes);
        Ok(())
    };
    run(&header, identity, contents, &mut sink)?;
    output.write(&buffer)?;
    output.finish()
}

/// Asks for all lengths.
fn measure(identity: &Identity<'_>, contents: &dyn Contents) -> Result<Header> {
    let mut n_sections = 0u32;
    let mut bytes = Some(0u64);
    let mut last = None;
    each_section(identity, contents, &mut |section, len| {
        if last.is_some_and(|last| section <= last) {
            return Err(err!(Internal, "snapshot: {section:?} comes after {last:?}"));
        }
        last = Some(section);
        n_sections = n_sections.saturating_add(1);
        bytes = bytes.and_then(|bytes| bytes.checked_add(len));
        Ok(())
    })?;
    if n_sections > MOST_SECTIONS {
        return Err(err!(Limit, "snapshot: {n_sections} sections, at most {MOST_SECTIONS}"));
    }
    let body = bytes.and_then(|bytes| bytes.checked_add(data_start(n_sections)));
    let body = body.ok_or_else(|| err!(Limit, "{TOO_LONG}"))?;
    Ok(Header { n_sections, body, model: identity.model })
}

/// Where the first section begins.
pub(super) fn data_start(n_sections: u32) -> u64 {
    u64::from(n_sections).saturating_mul(ENTRY as u64).saturating_add(HEADER as u64)
}

/// The layout's section, then all others.
fn each_section(
    identity: &Identity<'_>,
    contents: &dyn Contents,
    each: &mut dyn FnMut(Section, u64) -> Result<()>,
) -> Result<()> {
    let mut len = 0;
    put_layout(identity, &mut |bytes| {
        len = bytes.len().saturating_add(len);
        Ok(())
    })?;
    each(Section { kind: LAYOUT, index: 0 }, len as u64)?;
    contents.sections(each)
}

fn put_layout(identity: &Identity<'_>, put: &mut Put<'_>) -> Result<()> {
    for (name, value) in identity.layout {
        let n = u8::try_from(name.len())
            .map_err(|_| err!(Internal, "snapshot: {name}: longer than 255 bytes"))?;
        put(&[n])?;
        put(name.as_bytes())?;
        put(&value.to_le_bytes())?;
    }
    Ok(())
}

/// Writes all of a snapshot.
fn run(
    header: &Header,
    identity: &Identity<'_>,
    contents: &dyn Contents,
    sink: &mut Put<'_>,
) -> Result<()> {
    let chunks = Chunks::of(header.body);
    let checksums = [[0; 4]; MOST_CHUNKS as usize];
    let mut writer = Writer { sink, chunks, left: chunks.size, at: 0, crc: 0, checksums, n: 0 };
    writer.put(&header.encode())?;
    let mut end = data_start(header.n_sections);
    let mut n_sections = 0;
    each_section(identity, contents, &mut |section, len| {
        end = end.saturating_add(len);
        n_sections = u32::saturating_add(n_sections, 1);
        writer.put(&section.kind.to_le_bytes())?;
        writer.put(&section.index.to_le_bytes())?;
        writer.put(&end.to_le_bytes())
    })?;
    if end != header.body || n_sections != header.n_sections {
        return Err(err!(Internal, "snapshot: its sections change while it is written"));
    }
    each_section(identity, contents, &mut |section, len| {
        let end = writer.at.saturating_add(len);
        let mut put = |bytes: &[u8]| match writer.at.checked_add(bytes.len() as u64) {
            Some(after) if after <= end => writer.put(bytes),
            _ => Err(err!(Internal, "snapshot: {section:?}: more than {len} bytes")),
        };
        match section.kind {
            LAYOUT => put_layout(identity, &mut put)?,
            _ => contents.write(section, &mut put)?,
        }
        match end.saturating_sub(writer.at) {
            0 => Ok(()),
            n => Err(err!(Internal, "snapshot: {section:?}: {n} of {len} bytes are missing")),
        }
    })?;
    writer.finish(header.body)
}

/// Passes bytes on, and keeps the checksum of each chunk.
struct Writer<'a> {
    sink: &'a mut Put<'a>,
    chunks: Chunks,
    /// Bytes until the chunk is full, and bytes so far in all.
    left: u64,
    at: u64,
    crc: u32,
    checksums: [[u8; 4]; MOST_CHUNKS as usize],
    n: usize,
}

impl Writer<'_> {
    fn put(&mut self, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            let n = usize::try_from(self.left).unwrap_or(usize::MAX).min(bytes.len());
            let (part, rest) = bytes.split_at_checked(n).unwrap_or((bytes, &[]));
            (self.sink)(part)?;
            self.crc = crc32c::crc32c_append(self.crc, part);
            self.at = self.at.saturating_add(n as u64);
            self.left = self.left.saturating_sub(n as u64);
            if self.left == 0 {
                self.end_chunk();
            }
            bytes = rest;
        }
        Ok(())
    }

    fn end_chunk(&mut self) {
        if let Some(checksum) = self.checksums.get_mut(self.n) {
            *checksum = self.crc.to_le_bytes();
        }
        self.n = self.n.saturating_add(1);
        self.crc = 0;
        self.left = self.chunks.size;
    }

    /// Writes the checksums behind a body of so many bytes.
    fn finish(mut self, body: u64) -> Result<()> {
        if self.left < self.chunks.size {
            self.end_chunk();
        }
        if self.at != body || self.n as u64 != self.chunks.n {
            return Err(err!(Internal, "snapshot: {} bytes, expected {body}", self.at));
        }
        let checksums = self.checksums.get(..self.n).unwrap_or_default().as_flattened();
        (self.sink)(checksums)?;
        (self.sink)(&crc32c::crc32c(checksums).to_le_bytes())
    }
}
