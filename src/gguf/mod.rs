//! GGUF: a file format, nothing else. Every length and offset of a file is checked here, once.
//!
//! ```text
//! "GGUF"  version u32  number of tensors u64  number of metadata entries u64
//! metadata   for each entry: key (string), kind u32, value
//! tensors    for each: name (string), number of dimensions u32, dimensions u64, type u32,
//!            offset u64 from the start of the data
//! padding to the alignment
//! data
//! ```
//! All numbers are little-endian; a string is its length as u64, then its bytes. What lies before
//! the data is read into our own memory, once, and everything is answered from there: a file that
//! changes later cannot undo a check. The data itself is not read.
//!
//! This module knows no key except `general.alignment` and those of [`packing`], and no tensor's
//! name.
//!
//! Limits, beyond what the format sets: 65,535 keys of at most 256 bytes, strings of at most 1 MiB
//! (64 KiB in arrays), 65,535 tensors, names of at most 127 bytes, alignments from 8 to 65,536,
//! 512 MiB before the data. More than that is [`Error::Limit`](crate::Error::Limit).
#![deny(
    clippy::arithmetic_side_effects,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::string_slice,
    clippy::unreachable
)]

mod cursor;
mod meta;
pub mod packing;
mod size;
mod tensors;
mod value;
pub mod write;

pub use meta::Metadata;
pub use tensors::TensorInfo;
pub use value::{Array, Kind, Strings, Value};

use crate::base::error::{Result, err};
use crate::base::file::Source;
use cursor::{Cursor, Place, Span};
use size::Size;
use tensors::Tensors;

/// The alignment of files that do not say theirs.
const DEFAULT_ALIGNMENT: u64 = 32;

/// What a GGUF file says of itself: metadata and the table of tensors, all checked.
#[derive(Debug)]
pub struct Gguf {
    version: u32,
    alignment: u64,
    is_packed: bool,
    data_offset: u64,
    data_len: u64,
    metadata: Metadata,
    tensors: Tensors,
}

impl Gguf {
    /// Reads and checks everything before the data.
    ///
    /// Takes memory of at most four times the bytes before the data, and time of n log n. Fails
    /// with `BadFile` if the file is damaged or cut short, `BadTensor` if a tensor's shape or place
    /// cannot be, `UnsupportedDtype` for a type of elements that tern does not know, `Unsupported`
    /// for another version or byte order, `UnsupportedPacking` for a file that is packed in another
    /// way than [`packing`] describes, `Limit` beyond the limits above. The sentence says at which
    /// byte of the file, and in which field.
    pub fn parse(source: &Source<'_>) -> Result<Gguf> {
        let mut cursor = Cursor::new(source);
        let version = read_version(&mut cursor)?;
        cursor.place = Place::Header("number of tensors");
        let n_tensors = cursor.u64()?;
        cursor.place = Place::Header("number of metadata entries");
        let n_entries = cursor.u64()?;
        // Both counts before either table: a count that cannot be is the better message.
        let n_entries = meta::check_count(&cursor, n_entries)?;
        let n_tensors = tensors::check_count(&cursor, n_tensors)?;

        let index = meta::Index::read(&mut cursor, n_entries)?;
        let alignment = read_alignment(&index, &mut cursor)?;
        let is_packed = packing::read(&index, &mut cursor, alignment)?;
        let table = tensors::read(&mut cursor, n_tensors, alignment, is_packed)?;

        let header_len = cursor.at();
        let file_len = Size::of(source.len());
        let data_offset = header_len.align_up(alignment).filter(|at| *at <= file_len);
        let data_offset = match data_offset {
            Some(offset) => offset,
            None if n_tensors == 0 => file_len, // nothing to align
            None => {
                cursor.place = Place::Header("data");
                return Err(cursor.bad(format_args!("the file ends before it")));
            }
        };
        let data_len = file_len.sub(data_offset).unwrap_or(Size::ZERO);
        let header = cursor.into_header();
        let tensors = Tensors::check(table, &header, data_len, alignment)?;
        Ok(Gguf {
            version,
            alignment: alignment.get(),
            is_packed,
            data_offset: data_offset.get(),
            data_len: data_len.get(),
            metadata: Metadata::new(header, index),
            tensors,
        })
    }

    /// The bytes that were parsed: the file's first, up to the end of the table of tensors.
    pub fn header(&self) -> &[u8] {
        self.metadata.header()
    }

    /// The metadata.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// All tensors, in the file's order.
    pub fn tensors(&self) -> &[TensorInfo] {
        self.tensors.all()
    }

    /// The tensor of that name.
    pub fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        self.tensors.find(self.metadata.header(), name)
    }

    /// Where the data starts in the file, in bytes.
    pub fn data_offset(&self) -> u64 {
        self.data_offset
    }

    /// Bytes from there to the end of the file.
    pub fn data_len(&self) -> u64 {
        self.data_len
    }

    /// The version of the format: 2 or 3.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// What every tensor's offset is a multiple of, in bytes.
    pub fn alignment(&self) -> u64 {
        self.alignment
    }

    /// Whether the file is packed for the kernels ([`packing`]).
    pub fn is_packed(&self) -> bool {
        self.is_packed
    }

    /// Bytes of memory that this takes.
    pub fn heap_bytes(&self) -> usize {
        self.metadata.heap_bytes().saturating_add(self.tensors.heap_bytes())
    }
}

/// Reads magic and version; tells apart what people really hand to a loader.
fn read_version(cursor: &mut Cursor<'_, '_>) -> Result<u32> {
    cursor.place = Place::Header("magic");
    let magic = cursor.array()?;
    if magic != *b"GGUF" {
        let found = magic.escape_ascii();
        let what = match &magic {
            b"vers" => ": a pointer of Git LFS? Then the model itself is still to be fetched",
            b"PK\x03\x04" => ": a zip archive",
            b"lmgg" | b"fmgg" | b"tjgg" | b"algg" => ": a format from before GGUF",
            b"<!DO" | b"<!do" | b"<htm" => ": a web page",
            _ => "",
        };
        return Err(cursor.bad(format_args!("\"{found}\", expected \"GGUF\"{what}")));
    }
    cursor.place = Place::Header("version");
    let version = cursor.u32()?;
    match version {
        2 | 3 => Ok(version),
        1 => Err(err!(Unsupported, "version: 1, which was replaced in 2023; expected 2 or 3")),
        _ if (1..=3).contains(&version.swap_bytes()) => {
            Err(err!(Unsupported, "version: the file is big-endian; little-endian files are read"))
        }
        _ => Err(err!(Unsupported, "version: {version}, expected 2 or 3")),
    }
}

/// `general.alignment`, a power of two.
fn read_alignment(index: &meta::Index, cursor: &mut Cursor<'_, '_>) -> Result<Size> {
    const KEY: &str = "general.alignment";
    let Some(value) = index.value(cursor.bytes(), KEY) else {
        return Ok(Size::of(DEFAULT_ALIGNMENT));
    };
    let found = match value {
        Value::U32(found) => u64::from(found),
        Value::U64(found) => found,
        other => {
            return Err(err!(BadFile, "{KEY}: a value of kind {}, expected u32", other.kind()));
        }
    };
    if !found.is_power_of_two() || !(8..=65_536).contains(&found) {
        return Err(err!(BadFile, "{KEY}: {found}, expected a power of two from 8 to 65536"));
    }
    Ok(Size::of(found))
}

/// A vector with room for `n`, or `OutOfMemory`.
fn reserve<T>(n: usize, what: &str) -> Result<Vec<T>> {
    let mut vec = Vec::new();
    match vec.try_reserve_exact(n) {
        Ok(()) => Ok(vec),
        Err(_) => Err(err!(OutOfMemory, "{what}: no memory for {n} entries")),
    }
}

/// Whether `n` entries of at least `min` bytes can be in the rest of the file, and `max` is kept.
fn check_count(
    cursor: &Cursor<'_, '_>,
    n: u64,
    min: u64,
    max: u64,
    what: &'static str,
) -> Result<usize> {
    let left = cursor.remaining();
    let possible = left.div(Size::of(min)).unwrap_or(Size::ZERO).get();
    if n > possible {
        let (at, left) = (cursor.at().get(), left.get());
        return Err(err!(
            BadFile,
            "byte {at}: number of {what}: {n}, the {left} bytes left hold {possible} at most"
        ));
    }
    if n > max {
        return Err(err!(Limit, "number of {what}: {n}, at most {max}"));
    }
    Ok(Size::of(n).to_usize().unwrap_or(0)) // max fits
}

/// Whether a key or a tensor's name, just read, can be one.
fn check_name(cursor: &Cursor<'_, '_>, name: Span) -> Result<()> {
    let bytes = name.of(cursor.bytes());
    if bytes.is_empty() {
        return Err(cursor.bad(format_args!("empty")));
    }
    if bytes.contains(&0) {
        return Err(cursor.bad(format_args!("\"{}\" contains a NUL", bytes.escape_ascii())));
    }
    if std::str::from_utf8(bytes).is_err() {
        return Err(cursor.bad(format_args!("\"{}\" is not UTF-8", bytes.escape_ascii())));
    }
    Ok(())
}
