//! Numbers as little-endian bytes: into a sink, and off the front of what it was given.
//!
//! What is read back may have been made by anyone, and so every error is `SnapshotCorrupt`.

use super::error::{Error, Result, err};

/// Takes a part of the bytes.
pub type Put<'a> = dyn FnMut(&[u8]) -> Result<()> + 'a;

/// Puts words, many at a time. One function for all iterators: it is no inner loop, and there are many.
pub fn put_words(words: &mut dyn Iterator<Item = u32>, put: &mut Put<'_>) -> Result<()> {
    let mut buffer = [[0; 4]; 256];
    let mut n = 0_usize;
    for word in words {
        if n == buffer.len() {
            put(buffer.as_flattened())?;
            n = 0;
        }
        if let Some(place) = buffer.get_mut(n) {
            *place = word.to_le_bytes();
        }
        n = n.saturating_add(1);
    }
    put(buffer.get(..n).unwrap_or_default().as_flattened())
}

/// Bytes that numbers are taken off.
#[derive(Clone, Copy, Debug)]
pub struct Fields<'a> {
    /// What they are, for errors.
    what: &'static str,
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    /// All of `bytes`.
    pub fn new(what: &'static str, bytes: &'a [u8]) -> Fields<'a> {
        Fields { what, rest: bytes }
    }

    /// What is left.
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// Takes bytes off the front.
    pub fn bytes(&mut self, n: usize) -> Result<&'a [u8]> {
        let (bytes, rest) = self.rest.split_at_checked(n).ok_or_else(|| self.ends())?;
        self.rest = rest;
        Ok(bytes)
    }

    /// Takes a number of 4 bytes off the front.
    pub fn u32(&mut self) -> Result<u32> {
        self.array().map(u32::from_le_bytes)
    }

    /// Takes a number of 8 bytes off the front.
    pub fn u64(&mut self) -> Result<u64> {
        self.array().map(u64::from_le_bytes)
    }

    /// Takes a count off the front: a number of 8 bytes that still counts on for ever, below 2^53.
    pub fn count(&mut self) -> Result<u64> {
        match self.u64()? {
            n if n >> 53 == 0 => Ok(n),
            n => Err(self.wrong("count", n)),
        }
    }

    /// Takes all that is left, as words.
    pub fn words(self) -> Result<impl ExactSizeIterator<Item = u32> + Clone + use<'a>> {
        let (words, left) = self.rest.as_chunks();
        match left.len() {
            0 => Ok(words.iter().map(|word| u32::from_le_bytes(*word))),
            n => Err(self.wrong("bytes after its words", n as u64)),
        }
    }

    /// Fails if anything is left.
    pub fn end(self) -> Result<()> {
        match self.rest.len() {
            0 => Ok(()),
            n => Err(self.wrong("bytes after its end", n as u64)),
        }
    }

    /// The error of a field that cannot be what it is.
    #[cold]
    pub fn wrong(&self, name: &str, found: u64) -> Error {
        err!(SnapshotCorrupt, "snapshot: {}: {name}: found {found}, which cannot be", self.what)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let (array, rest) = self.rest.split_first_chunk().ok_or_else(|| self.ends())?;
        self.rest = rest;
        Ok(*array)
    }

    #[cold]
    fn ends(&self) -> Error {
        let (what, n) = (self.what, self.rest.len());
        err!(SnapshotCorrupt, "snapshot: {what}: its last {n} bytes are no number, expected more")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_put_is_taken_off_again() {
        for n in [0u32, 1, 255, 256, 257, 1000] {
            let mut bytes = Vec::new();
            let mut put = |part: &[u8]| {
                bytes.extend_from_slice(part);
                Ok(())
            };
            put(&7u64.to_le_bytes()).expect("fits");
            put_words(&mut (0..n), &mut put).expect("fits");
            let mut fields = Fields::new("numbers", &bytes);
            assert_eq!(fields.u64(), Ok(7));
            assert!(fields.words().expect("whole words").eq(0..n));
            if n > 0 {
                assert_eq!(fields.u32(), Ok(0));
                assert!(fields.end().is_ok() == (n == 1));
            }
        }
    }

    #[test]
    fn a_count_has_room_to_grow() {
        for (n, is_one) in [(0, true), ((1 << 53) - 1, true), (1 << 53, false), (u64::MAX, false)] {
            let bytes = n.to_le_bytes();
            assert_eq!(Fields::new("numbers", &bytes).count().is_ok(), is_one, "{n}");
        }
    }

    #[test]
    fn what_is_not_there_is_an_error() {
        let mut fields = Fields::new("numbers", &[1, 0, 0, 0, 9]);
        assert_eq!(fields.u32(), Ok(1));
        for error in [
            fields.u32().expect_err("one byte"),
            fields.u64().expect_err("one byte"),
            fields.bytes(2).expect_err("one byte"),
            fields.end().expect_err("one byte"),
            fields.words().map(|_| ()).expect_err("one byte"),
        ] {
            assert!(matches!(error, Error::SnapshotCorrupt(_)), "{error}");
            assert!(error.message().starts_with("snapshot: numbers: "), "{error}");
        }
    }
}
