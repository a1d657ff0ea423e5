//! Snapshots: what a session is, in a file or in the caller's memory, to go on from later.
//!
//! This is the container: it knows sections, not what is in them. What can be saved is
//! [`Contents`]; what it must meet again when it is restored is an [`Identity`]. What of a session is
//! in which section, `session` says.
//!
//! ```text
//! header     magic [8], version u32, number of sections u32, bytes of the body u64,
//!            digest of the model u64, checksum of these 32 bytes u32
//! table      for each section: kind u32, index u32, end u64 from the start of the snapshot
//! sections   one after the other, without gaps; the first holds the layout
//! checksums  of each chunk of the body, u32; then of these checksums, u32
//! ```
//! The body is header, table and sections. A chunk is 64 KiB of it, or as many times twice that as
//! it takes to have no more than 1024 chunks; the last may be shorter. All numbers are
//! little-endian. The layout is a list of named numbers: for each the length of its name u8, the
//! name, its value u64.
//!
//! Checksums are CRC32C, which finds every flipped bit and every burst of up to 32; all bytes are
//! under one. They find accidents. Who means harm can compute them too, so what is in a section is
//! not to be trusted further than that it is as long as it says.
//!
//! The header is the same in every version of the format, so that another version can be told from
//! a damaged file.
#![deny(
    clippy::arithmetic_side_effects,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::string_slice,
    clippy::unreachable
)]

mod read;
mod session;
mod stored;
mod write;

pub use read::{Reader, load, prefetch};
pub use stored::{Stored, StoredFile};
pub use write::{len, save, write};

use crate::base::crc32c;
use crate::base::error::{Result, err};
pub use crate::base::le::Put;

/// The version of the format: another one whenever a byte of it means something else.
pub const VERSION: u32 = 3;
/// The kind of the first section, which holds the layout. All others are greater.
pub const LAYOUT: u32 = 0;

const MAGIC: [u8; 8] = *b"TERNSNAP";
/// Bytes of the header.
const HEADER: usize = 36;
/// Bytes of an entry of the table.
const ENTRY: usize = 16;
/// Bytes under one checksum, of which there are at most so many.
const CHUNK: u64 = 64 << 10;
const MOST_CHUNKS: u64 = 1024;
/// The most sections that a snapshot can have.
const MOST_SECTIONS: u32 = 1 << 20;
/// Where two numbers of the body overflow.
const TOO_LONG: &str = "snapshot: its length overflows";

/// What a section holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Section {
    /// What it is: keys, tokens, a sampler. Above [`LAYOUT`].
    pub kind: u32,
    /// Which of these: a layer, or a head of one.
    pub index: u32,
}

/// What a snapshot can be restored into.
#[derive(Clone, Copy, Debug)]
pub struct Identity<'a> {
    /// What tells the model from others: [`super::Model::digest`].
    pub model: u64,
    /// All else that what is in the sections depends on, by name: types of keys and values, cells,
    /// numbers of heads. At most 255 bytes a name.
    pub layout: &'a [(&'a str, u64)],
}

/// What can be saved: sections, whose lengths are known before their bytes are asked for.
pub trait Contents {
    /// Names all sections with their bytes, in ascending order. Called several times, and says the
    /// same each time.
    fn sections(&self, each: &mut dyn FnMut(Section, u64) -> Result<()>) -> Result<()>;

    /// Puts the bytes of a section, as many as were named, in as many parts as it likes.
    fn write(&self, section: Section, put: &mut Put<'_>) -> Result<()>;
}

/// How a body is cut into chunks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Chunks {
    /// Bytes of each but the last.
    size: u64,
    /// How many there are.
    n: u64,
}

impl Chunks {
    fn of(body: u64) -> Chunks {
        let mut size = CHUNK;
        // A power of two, and no body has 2^64 bytes.
        while body.div_ceil(size) > MOST_CHUNKS {
            size = size.saturating_mul(2);
        }
        Chunks { size, n: body.div_ceil(size) }
    }

    /// Bytes of all checksums.
    fn checksum_bytes(self) -> u64 {
        self.n.saturating_add(1).saturating_mul(4) // at most 1025 of them
    }
}

/// Bytes of a snapshot with a body of so many.
fn total(body: u64) -> Option<u64> {
    body.checked_add(Chunks::of(body).checksum_bytes())
}

/// What the header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Header {
    n_sections: u32,
    body: u64,
    model: u64,
}

impl Header {
    fn encode(&self) -> [u8; HEADER] {
        let mut bytes = [0; HEADER];
        let mut rest = bytes.as_mut_slice();
        let mut put = |field: &[u8]| {
            if let Some(to) = rest.split_off_mut(..field.len()) {
                to.copy_from_slice(field);
            }
        };
        put(&MAGIC);
        put(&VERSION.to_le_bytes());
        put(&self.n_sections.to_le_bytes());
        put(&self.body.to_le_bytes());
        put(&self.model.to_le_bytes());
        if let Some((fields, checksum)) = bytes.split_last_chunk_mut() {
            *checksum = crc32c::crc32c(fields).to_le_bytes();
        }
        bytes
    }

    /// The header of a snapshot of `len` bytes, checked against that and against the model.
    fn decode(bytes: &[u8], len: u64, model: u64) -> Result<Header> {
        let header = Header::decode_any(bytes, len)?;
        header.check_model(model)?;
        Ok(header)
    }

    fn check_model(&self, model: u64) -> Result<()> {
        if self.model == model {
            return Ok(());
        }
        Err(err!(
            SnapshotModel,
            "snapshot: of the model {:016x}, expected {model:016x}",
            self.model
        ))
    }

    /// The same of any model.
    fn decode_any(bytes: &[u8], len: u64) -> Result<Header> {
        let corrupt_at = |at: usize| err!(SnapshotCorrupt, "snapshot: it ends at byte {at}");
        let header = bytes.first_chunk::<HEADER>().ok_or_else(|| corrupt_at(bytes.len()))?;
        let Some((fields, checksum)) = header.split_last_chunk() else {
            return Err(corrupt_at(HEADER));
        };
        if !fields.starts_with(&MAGIC) {
            let found = fields.get(..8).unwrap_or(fields).escape_ascii();
            return Err(err!(SnapshotCorrupt, "not a snapshot: it begins with \"{found}\""));
        }
        check("snapshot: header", *checksum, fields)?;
        let mut rest = fields.get(8..).unwrap_or(&[]);
        let (Some(version), Some(n_sections), Some(body), Some(model)) =
            (take_u32(&mut rest), take_u32(&mut rest), take_u64(&mut rest), take_u64(&mut rest))
        else {
            return Err(corrupt_at(HEADER));
        };
        if version != VERSION {
            return Err(err!(
                SnapshotVersion,
                "snapshot: version {version} of the format, expected {VERSION}"
            ));
        }
        let expected = total(body).ok_or_else(|| err!(SnapshotCorrupt, "{TOO_LONG}"))?;
        if len != expected {
            return Err(err!(SnapshotCorrupt, "snapshot: {len} bytes, expected {expected}"));
        }
        Ok(Header { n_sections, body, model })
    }
}

/// Compares bytes with their checksum.
fn check(what: &str, checksum: [u8; 4], bytes: &[u8]) -> Result<()> {
    let (found, expected) = (crc32c::crc32c(bytes), u32::from_le_bytes(checksum));
    if found == expected {
        return Ok(());
    }
    Err(err!(SnapshotCorrupt, "{what}: checksum {found:08x}, expected {expected:08x}"))
}

/// Takes a number off the front.
fn take_u32(bytes: &mut &[u8]) -> Option<u32> {
    let (number, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(u32::from_le_bytes(*number))
}

/// Takes a number off the front.
fn take_u64(bytes: &mut &[u8]) -> Option<u64> {
    let (number, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(u64::from_le_bytes(*number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_never_more_than_1024_chunks() {
        let most = CHUNK * MOST_CHUNKS;
        for (body, size, n) in [
            (HEADER as u64, CHUNK, 1),
            (CHUNK, CHUNK, 1),
            (CHUNK + 1, CHUNK, 2),
            (most, CHUNK, 1024),
            (most + 1, 2 * CHUNK, 513),
            (1 << 40, 1 << 30, 1024),
            (u64::MAX, 1 << 54, 1024),
        ] {
            assert_eq!(Chunks::of(body), Chunks { size, n }, "{body}");
        }
        assert_eq!(total(HEADER as u64), Some(HEADER as u64 + 8));
        assert_eq!(total(u64::MAX), None);
    }

    #[test]
    fn a_header_comes_back() {
        let header = Header { n_sections: 7, body: 1 << 33, model: 0x0123_4567_89ab_cdef };
        let len = total(header.body).unwrap_or_default();
        assert_eq!(Header::decode(&header.encode(), len, header.model), Ok(header));
        // The bytes themselves are the format.
        assert_eq!(header.encode()[..16], *b"TERNSNAP\x03\0\0\0\x07\0\0\0");
        assert_eq!(header.encode()[16..24], [0, 0, 0, 0, 2, 0, 0, 0]);
    }

    /// The known answer of RFC 3720, section B.4: 32 bytes of zeros.
    #[test]
    fn the_checksum_is_crc32c() {
        assert_eq!(crc32c::crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c::crc32c(b"123456789"), 0xe306_9283);
    }
}
