//! Reading a header from front to back, with bounds checked against the file's length.

use std::fmt;

use super::size::Size;
use crate::base::error::{Error, Result, err};
use crate::base::file::Source;

/// Most bytes before the data. Offsets into the header fit 32 bits because of it.
const MAX_HEADER: u64 = 512 << 20;
/// Least bytes to read at a time.
const READ_LEN: u64 = 64 << 10;
/// Characters of a key or name that an error shows; both can be as long as a whole sentence.
const SHOWN: usize = 80;

/// A part of the header.
#[derive(Clone, Copy, Debug)]
pub(super) struct Span {
    pub(super) start: u32,
    pub(super) len: u32,
}

impl Span {
    /// The bytes, of the header that the span belongs to.
    pub(super) fn of(self, header: &[u8]) -> &[u8] {
        let rest = header.get(self.start as usize..).unwrap_or(&[]);
        rest.get(..self.len as usize).unwrap_or(&[])
    }

    /// The text; empty if it is not UTF-8.
    pub(super) fn text(self, header: &[u8]) -> &str {
        std::str::from_utf8(self.of(header)).unwrap_or("")
    }
}

/// What is being read, for error sentences.
#[derive(Clone, Copy, Debug)]
pub(super) enum Place {
    Header(&'static str),
    /// The key of the n-th entry.
    Key(usize),
    /// The value of a key.
    Value(Span),
    /// An element of a key's array.
    Element(Span, u64),
    /// The name of the n-th tensor.
    Name(usize),
    /// A field of the tensor of that name.
    Tensor(Span, &'static str),
}

/// A place, with the header that its spans point into.
pub(super) struct Shown<'a>(pub(super) Place, pub(super) &'a [u8]);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = |span: Span| short(span.text(self.1));
        match self.0 {
            Place::Header(field) => f.write_str(field),
            Place::Key(n) => write!(f, "key of metadata entry {n}"),
            Place::Value(key) => write!(f, "{}", name(key)),
            Place::Element(key, n) => write!(f, "{}[{n}]", name(key)),
            Place::Name(n) => write!(f, "name of tensor {n}"),
            Place::Tensor(tensor, "") => write!(f, "{}", name(tensor)),
            Place::Tensor(tensor, field) => write!(f, "{}: {field}", name(tensor)),
        }
    }
}

/// The start of a text, with control characters escaped.
pub(super) fn short(text: &str) -> impl fmt::Display {
    struct Short<'a>(&'a str);
    impl fmt::Display for Short<'_> {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            let end = self.0.char_indices().nth(SHOWN).map_or(self.0.len(), |(at, _)| at);
            let start = self.0.get(..end).unwrap_or("");
            write!(f, "{}", start.escape_debug())?;
            f.write_str(if end < self.0.len() { "..." } else { "" })
        }
    }
    Short(text)
}

/// Reads values one after the other, and keeps all bytes that it has passed.
#[derive(Debug)]
pub(super) struct Cursor<'s, 'a> {
    source: &'s Source<'a>,
    len: Size,
    /// The start of the file, as far as it was read.
    bytes: Vec<u8>,
    at: Size,
    /// What is being read; set by the caller before each field.
    pub(super) place: Place,
}

impl<'s, 'a> Cursor<'s, 'a> {
    pub(super) fn new(source: &'s Source<'a>) -> Cursor<'s, 'a> {
        let len = Size::of(source.len());
        let place = Place::Header("header");
        Cursor { source, len, bytes: Vec::new(), at: Size::ZERO, place }
    }

    /// The offset of the next byte.
    pub(super) fn at(&self) -> Size {
        self.at
    }

    /// Bytes from here to the end of the file.
    pub(super) fn remaining(&self) -> Size {
        self.len.sub(self.at).unwrap_or(Size::ZERO)
    }

    /// What was read so far; spans point into it.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The next `n` bytes.
    pub(super) fn take(&mut self, n: u64) -> Result<&[u8]> {
        let end = self.end_of(Size::of(n))?;
        self.read_to(end)?;
        let start = self.at;
        self.at = end;
        let range = start.to_usize().zip(end.to_usize());
        let bytes = range.and_then(|(start, end)| self.bytes.get(start..end));
        bytes.ok_or_else(|| err!(Internal, "gguf: byte {end:?} was read but is not there"))
    }

    /// Passes `n` elements of `size` bytes each, and returns where they are.
    pub(super) fn pass(&mut self, n: u64, size: u64) -> Result<Span> {
        let Some(len) = Size::of(n).mul(Size::of(size)) else {
            return Err(self.bad(format_args!("{n} elements of {size} bytes, beyond the file")));
        };
        let start = self.at;
        self.take(len.get())?;
        self.span(start, len)
    }

    pub(super) fn u32(&mut self) -> Result<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64> {
        self.array().map(u64::from_le_bytes)
    }

    /// The next `N` bytes.
    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let bytes = self.take(N as u64)?.first_chunk();
        bytes.copied().ok_or_else(|| err!(Internal, "gguf: {N} bytes were read but are not there"))
    }

    /// A string of at most `max` bytes; `Limit` if it is longer, but there.
    pub(super) fn string(&mut self, max: u64) -> Result<Span> {
        let before = self.at;
        let len = self.u64()?;
        if self.remaining() < Size::of(len) {
            let left = self.remaining().get();
            self.at = before;
            return Err(self.bad(format_args!("a string of {len} bytes, {left} are left")));
        }
        if len > max {
            self.at = before;
            return Err(self.limit(format_args!("a string of {len} bytes, at most {max}")));
        }
        self.pass(len, 1)
    }

    /// Passes at most `n` strings of at most `max` bytes each, as far as they lie in what was read;
    /// how many. What is wrong with the next one, [`Cursor::string`] says.
    pub(super) fn pass_strings(&mut self, n: u64, max: u64) -> u64 {
        let limit = usize::try_from(MAX_HEADER).unwrap_or(usize::MAX);
        let read = self.bytes.get(..limit).unwrap_or(&self.bytes);
        let rest = self.at.to_usize().and_then(|at| read.get(at..));
        let Some(mut rest) = rest else { return 0 };
        let mut passed = 0;
        while passed < n {
            let Some((len, after)) = rest.split_first_chunk() else { break };
            let len = u64::from_le_bytes(*len);
            let after = usize::try_from(len).ok().and_then(|len| after.get(len..));
            let Some(after) = after.filter(|_| len <= max) else { break };
            (rest, passed) = (after, passed.saturating_add(1));
        }
        self.at = Size::of_len(read.len()).sub(Size::of_len(rest.len())).unwrap_or(self.at);
        passed
    }

    /// An offset that was passed, in 32 bits.
    pub(super) fn offset(&self, at: Size) -> Result<u32> {
        self.span(at, Size::ZERO).map(|span| span.start)
    }

    /// `BadFile`, with the offset and what was being read.
    pub(super) fn bad(&self, what: fmt::Arguments<'_>) -> Error {
        let place = Shown(self.place, &self.bytes);
        err!(BadFile, "byte {}: {place}: {what}", self.at.get())
    }

    /// `Limit`, with the offset and what was being read.
    pub(super) fn limit(&self, what: fmt::Arguments<'_>) -> Error {
        let place = Shown(self.place, &self.bytes);
        err!(Limit, "byte {}: {place}: {what}", self.at.get())
    }

    /// `BadTensor`, with the offset and what was being read.
    pub(super) fn bad_tensor(&self, what: fmt::Arguments<'_>) -> Error {
        let place = Shown(self.place, &self.bytes);
        err!(BadTensor, "byte {}: {place}: {what}", self.at.get())
    }

    /// The bytes before this place, and nothing more.
    pub(super) fn into_header(mut self) -> Vec<u8> {
        // Without giving back the excess, an eighth at most: that could fail.
        self.bytes.truncate(self.at.to_usize().unwrap_or(usize::MAX));
        self.bytes
    }

    /// The end of the next `n` bytes, if they are in the file and within the limit.
    fn end_of(&self, n: Size) -> Result<Size> {
        let end = self.at.add(n).filter(|end| *end <= self.len);
        let Some(end) = end else {
            let (n, left) = (n.get(), self.remaining().get());
            return Err(self.bad(format_args!("{n} bytes expected, {left} are left")));
        };
        if end > Size::of(MAX_HEADER) {
            return Err(self.limit(format_args!("metadata beyond the first {MAX_HEADER} bytes")));
        }
        Ok(end)
    }

    /// Makes the bytes up to `end` available; `end` lies in the file.
    fn read_to(&mut self, end: Size) -> Result<()> {
        let have = Size::of_len(self.bytes.len());
        if end <= have {
            return Ok(());
        }
        // Somewhat ahead, in steps that grow with what is there: few reads, little in excess.
        let step = Size::of(READ_LEN.max(have.get() >> 3));
        let ahead = have.add(step).unwrap_or(end).max(end).min(self.len);
        let (Some(from), Some(to)) = (have.to_usize(), ahead.to_usize()) else {
            return Err(err!(OutOfMemory, "metadata: {} bytes", ahead.get()));
        };
        if self.bytes.try_reserve_exact(to.saturating_sub(from)).is_err() {
            return Err(err!(OutOfMemory, "metadata: no memory for {to} bytes"));
        }
        self.bytes.resize(to, 0);
        self.source.read_at(have.get(), self.bytes.get_mut(from..).unwrap_or(&mut []))
    }

    /// Both fit 32 bits, since they are below `MAX_HEADER`.
    fn span(&self, start: Size, len: Size) -> Result<Span> {
        match (u32::try_from(start.get()), u32::try_from(len.get())) {
            (Ok(start), Ok(len)) => Ok(Span { start, len }),
            _ => Err(err!(Internal, "gguf: {len:?} bytes at {start:?}")),
        }
    }
}
