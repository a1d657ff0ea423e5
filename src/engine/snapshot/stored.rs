//! Snapshots in files, read a chunk at a time: what does not fit beside a session in memory.
//!
//! The checksums come into memory first, and each chunk is compared with its own whenever it is read: a
//! file that is damaged, or changes meanwhile, is an error, and never half of another. What nobody
//! reads is compared in the end.

use std::ops::Range;
use std::path::Path;

use crate::base::error::{Result, err};
use crate::base::file::Source;

use super::read::{Table, check_checksums, check_chunk, check_layout, open, read};
use super::write::data_start;
use super::{Chunks, ENTRY, HEADER, Header, Identity, LAYOUT, Section};

/// A snapshot that is whole, wherever it is.
pub trait Stored {
    /// Where a section is, counted from the start of the snapshot. Fails with `SnapshotCorrupt` if
    /// there is none.
    fn find(&self, section: Section) -> Result<Range<u64>>;

    /// Reads bytes of the body. Fails with `SnapshotCorrupt` if they are not what they were.
    fn read(&mut self, at: u64, to: &mut [u8]) -> Result<()>;

    /// Checks all that was never read. Fails as that does.
    fn check_rest(&mut self) -> Result<()>;
}

/// The file of a snapshot of the model and layout that were expected, which is whole as far as it was
/// read. Takes as much memory as a chunk and the table: 64 KiB and 16 bytes a section, of files above
/// 64 MiB a 512th part.
pub struct StoredFile {
    source: Source<'static>,
    body: u64,
    chunks: Chunks,
    checksums: Vec<u8>,
    table: Vec<u8>,
    /// Of each chunk, whether it was what it has to be; 0 or 1.
    checked: Vec<u8>,
    /// The chunk that was read last, and which one that is.
    chunk: Vec<u8>,
    at: Option<u64>,
}

fn zeros(n: u64) -> Result<Vec<u8>> {
    let no_memory = || err!(OutOfMemory, "snapshot: no memory for {n} bytes of it");
    let n = usize::try_from(n).map_err(|_| no_memory())?;
    let mut bytes = Vec::new();
    bytes.try_reserve_exact(n).map_err(|_| no_memory())?;
    bytes.resize(n, 0);
    Ok(bytes)
}

impl StoredFile {
    /// Opens a file, and checks all but what its sections hold as [`Reader::new`](super::Reader::new)
    /// does. Fails with `Io` if it cannot be read or is empty, and as that does.
    pub fn open(path: &Path, identity: &Identity<'_>) -> Result<StoredFile> {
        let (source, header) = open(path)?;
        header.check_model(identity.model)?;
        let Header { n_sections, body, .. } = header;
        let chunks = Chunks::of(body);
        let mut checksums = zeros(chunks.checksum_bytes())?;
        read(&source, body, &mut checksums)?;
        check_checksums(&checksums)?;
        let (chunk, table) = (zeros(chunks.size.min(body))?, Vec::new());
        let checked = zeros(chunks.n)?;
        let mut file =
            StoredFile { source, body, chunks, checksums, table, checked, chunk, at: None };
        let data = data_start(n_sections);
        if data > body {
            return Err(err!(SnapshotCorrupt, "snapshot: the table does not fit"));
        }
        let mut table = zeros(data.saturating_sub(HEADER as u64))?;
        file.read(HEADER as u64, &mut table)?;
        file.table = table;
        file.table().check(body)?;
        let layout = file.find(Section { kind: LAYOUT, index: 0 })?;
        let mut bytes = zeros(layout.end.saturating_sub(layout.start))?;
        file.read(layout.start, &mut bytes)?;
        check_layout(&bytes, identity)?;
        Ok(file)
    }

    fn table(&self) -> Table<'_> {
        Table(self.table.as_chunks::<ENTRY>().0)
    }

    /// Reads a chunk, and compares it with its checksum.
    fn load(&mut self, i: u64) -> Result<()> {
        self.at = None;
        let at = i.saturating_mul(self.chunks.size);
        let len = self.chunks.size.min(self.body.saturating_sub(at));
        let checksums = self.checksums.as_chunks().0;
        let checksum = usize::try_from(i).ok().and_then(|i| checksums.get(i));
        let chunk = usize::try_from(len).ok().and_then(|len| self.chunk.get_mut(..len));
        let (Some(checksum), Some(chunk)) = (checksum, chunk) else {
            return Err(err!(SnapshotCorrupt, "snapshot: it has no chunk {i}"));
        };
        read(&self.source, at, chunk)?;
        check_chunk(at, chunk, *checksum)?;
        self.at = Some(i);
        if let Some(checked) = usize::try_from(i).ok().and_then(|i| self.checked.get_mut(i)) {
            *checked = 1;
        }
        Ok(())
    }
}

impl Stored for StoredFile {
    fn find(&self, section: Section) -> Result<Range<u64>> {
        self.table().find(section)
    }

    fn read(&mut self, mut at: u64, mut to: &mut [u8]) -> Result<()> {
        while !to.is_empty() {
            let i = at.checked_div(self.chunks.size).unwrap_or(0);
            if at >= self.body {
                return Err(err!(SnapshotCorrupt, "snapshot: it has no byte {at}"));
            }
            if self.at != Some(i) {
                self.load(i)?;
            }
            let start = i.saturating_mul(self.chunks.size);
            let end = self.chunks.size.min(self.body.saturating_sub(start));
            let from = usize::try_from(at.saturating_sub(start)).unwrap_or(usize::MAX);
            let chunk = usize::try_from(end).ok().and_then(|end| self.chunk.get(from..end));
            let chunk = chunk.unwrap_or_default();
            let n = chunk.len().min(to.len());
            if let (Some(to), Some(from)) = (to.split_off_mut(..n), chunk.get(..n)) {
                to.copy_from_slice(from);
            }
            at = at.saturating_add(n as u64);
        }
        Ok(())
    }

    fn check_rest(&mut self) -> Result<()> {
        while let Some(i) = self.checked.iter().position(|checked| *checked == 0) {
            self.load(i as u64)?;
        }
        Ok(())
    }
}
