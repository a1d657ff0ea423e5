//! Manifests: what the bytes of a model's file are, part by part, signed by somebody.
//!
//! A manifest is text, mostly in a file beside the model:
//!
//! ```text
//! tern-manifest 1
//! version 7
//! bytes 105454432
//! part 1771648 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08 header
//! part 663552 60303ae22b998861bce3b28f33eec1be758a213c86c93c076dbe9f558c11c752 token_embd.weight
//! signature d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a 92a009a9f0d4cab8...
//! ```
//!
//! Parts follow each other from the first byte of the file to its last, so that nothing is outside
//! them: the header with all metadata, then each tensor with what fills the space after it. Each has
//! its length, its SHA-256 and a name for people. `version` counts up with the models of a product,
//! so that a robot can refuse an older one. Each signature is a public key and the Ed25519 signature
//! of all bytes before the first signature. Lines end in one newline, fields are separated by one
//! space, numbers are decimal without leading zeros, digests and keys lower-case hexadecimal.
//!
//! It does not know what a model is, nor where its bytes come from: see [`check::Check`].

#[cfg(feature = "signed")]
pub mod check;
#[cfg(feature = "signed")]
pub mod signature;

use crate::base::error::{Result, err};
use crate::base::heap;

/// Bytes of an Ed25519 public key.
pub const KEY_BYTES: usize = 32;
/// Most bytes of a manifest.
pub const MAX_BYTES: u64 = 16 << 20;
/// Most parts: as many as a file can have tensors, and its header.
const MAX_PARTS: usize = 65_536;
/// Most signatures.
const MAX_SIGNATURES: usize = 8;
/// Most bytes of a name.
const MAX_NAME: usize = 127;

/// Some bytes of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part<'a> {
    /// How many.
    pub bytes: u64,
    /// Their SHA-256.
    pub digest: [u8; 32],
    /// "header", or the tensor's name.
    pub name: &'a str,
}

/// A public key, and the signature that should be its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Signature {
    /// Who signed.
    pub key: [u8; KEY_BYTES],
    /// Ed25519, of [`Manifest::signed`].
    pub bytes: [u8; 64],
}

/// A manifest that is well formed. Who signed it is another question.
#[derive(Debug)]
pub struct Manifest<'a> {
    /// Counts up with the models of a product.
    pub version: u64,
    /// Bytes of the file: those of all parts.
    pub bytes: u64,
    /// What the file consists of, from its first byte on.
    pub parts: Vec<Part<'a>>,
    /// At most 8.
    pub signatures: Vec<Signature>,
    /// The bytes that are signed: all before the first signature.
    pub signed: &'a [u8],
}

impl<'a> Manifest<'a> {
    /// Reads a manifest. Takes memory of at most what its text has. Fails with `BadManifest`, and
    /// says in which line; `OutOfMemory`.
    pub fn parse(bytes: &'a [u8]) -> Result<Manifest<'a>> {
        if bytes.len() as u64 > MAX_BYTES {
            let n = bytes.len();
            return Err(err!(BadManifest, "manifest: {n} bytes, expected at most {MAX_BYTES}"));
        }
        let text = std::str::from_utf8(bytes)
            .map_err(|e| err!(BadManifest, "manifest: not UTF-8 at byte {}", e.valid_up_to()))?;
        let mut lines = Lines { rest: text, n: 0 };
        if lines.next()? != Some("tern-manifest 1") {
            return Err(lines.bad("expected \"tern-manifest 1\""));
        }
        let version = lines.number("version ")?;
        let whole = lines.number("bytes ")?;
        let n_parts = text.matches("\npart ").count();
        if n_parts == 0 || n_parts > MAX_PARTS {
            return Err(err!(BadManifest, "manifest: {n_parts} parts, expected 1 to {MAX_PARTS}"));
        }
        let mut parts = heap::reserve(n_parts, "parts of a manifest")?;
        let mut signatures = heap::reserve(MAX_SIGNATURES, "signatures")?;
        let mut n_signed = bytes.len();
        let mut sum = 0u64;
        loop {
            let at = bytes.len() - lines.rest.len();
            let Some(line) = lines.next()? else { break };
            if let Some(line) = line.strip_prefix("signature ") {
                n_signed = n_signed.min(at);
                let signature = signature(line);
                let Some(signature) = signature.filter(|_| signatures.len() < MAX_SIGNATURES)
                else {
                    return Err(lines.bad("expected a key and its signature, 8 lines at most"));
                };
                signatures.push(signature);
            } else if let Some(part) = line.strip_prefix("part ").and_then(part)
                && signatures.is_empty()
                && parts.len() < n_parts
            {
                sum = sum
                    .checked_add(part.bytes)
                    .ok_or_else(|| lines.bad("the parts have more than 2^64 bytes"))?;
                parts.push(part);
            } else {
                return Err(lines.bad("expected a part: its bytes, SHA-256 and name"));
            }
        }
        if sum != whole {
            return Err(err!(
                BadManifest,
                "manifest: its parts have {sum} bytes, it says that the file has {whole}"
            ));
        }
        Ok(Manifest { version, bytes: whole, parts, signatures, signed: &bytes[..n_signed] })
    }

    /// The part that begins at a byte of the file.
    pub fn part_at(&self, offset: u64) -> Option<&Part<'a>> {
        let mut at = 0;
        self.parts.iter().find(|part| {
            let begin = at;
            at += part.bytes; // no more than all parts have
            begin == offset && part.bytes > 0
        })
    }
}

/// The lines of a text, each of which must end in a newline.
struct Lines<'a> {
    rest: &'a str,
    n: usize,
}

impl<'a> Lines<'a> {
    /// The next line without its end; `None` after the last.
    fn next(&mut self) -> Result<Option<&'a str>> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        self.n += 1;
        let Some((line, rest)) = self.rest.split_once('\n') else {
            return Err(self.bad("cut short: the line has no end"));
        };
        self.rest = rest;
        Ok(Some(line))
    }

    /// The number that follows `name` in the next line.
    fn number(&mut self, name: &str) -> Result<u64> {
        let line = self.next()?.unwrap_or("");
        match line.strip_prefix(name).and_then(number) {
            Some(n) => Ok(n),
            None => Err(self.bad(match name {
                "version " => "expected \"version\" and a number",
                _ => "expected \"bytes\" and a number",
            })),
        }
    }

    fn bad(&self, what: &str) -> crate::base::error::Error {
        err!(BadManifest, "manifest: line {}: {what}", self.n.max(1))
    }
}

/// A decimal number without signs or leading zeros.
fn number(text: &str) -> Option<u64> {
    let digits = text.bytes().all(|b| b.is_ascii_digit());
    if !digits || text.len() > 1 && text.starts_with('0') {
        return None;
    }
    text.parse().ok() // none if it is empty, or does not fit
}

fn part(line: &str) -> Option<Part<'_>> {
    let (bytes, rest) = line.split_once(' ')?;
    let (digest, name) = rest.split_once(' ')?;
    let is_name = !name.is_empty() && name.len() <= MAX_NAME && !name.chars().any(char::is_control);
    is_name.then_some(())?;
    Some(Part { bytes: number(bytes)?, digest: from_hex(digest)?, name })
}

fn signature(line: &str) -> Option<Signature> {
    let (key, bytes) = line.split_once(' ')?;
    Some(Signature { key: from_hex(key)?, bytes: from_hex(bytes)? })
}

/// Exactly `N` bytes in lower-case hexadecimal.
pub fn from_hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digit = |b: u8| match b {
        b'0'..=b'9' => Some(b - b'0'),
        b'a'..=b'f' => Some(b - b'a' + 10),
        _ => None,
    };
    let (pairs, []) = text.as_bytes().as_chunks::<2>() else { return None };
    let mut bytes = [0; N];
    if pairs.len() != N {
        return None;
    }
    for (byte, [high, low]) in bytes.iter_mut().zip(pairs) {
        *byte = digit(*high)? << 4 | digit(*low)?;
    }
    Some(bytes)
}
