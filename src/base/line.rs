//! A line of text on the stack: keys, names of tensors, paths of small files. Nothing is asked of the
//! heap, so that no allocation can fail where only a name is put together.

use std::fmt::{self, Write};
use std::fs::File;
use std::io::Read;
use std::ops::Deref;

/// Up to `N` bytes of text; what does not fit is cut at a character boundary.
pub struct Line<const N: usize> {
    len: usize,
    bytes: [u8; N],
}

impl<const N: usize> Line<N> {
    /// Formats a line: `Line::of(format_args!(...))`.
    pub fn of(args: fmt::Arguments<'_>) -> Line<N> {
        let mut line = Line { len: 0, bytes: [0; N] };
        line.len = write(&mut line.bytes, args);
        line
    }

    /// The same with blanks in place of white space, and a question mark in place of any other control
    /// character of ASCII.
    pub fn without_controls(mut self) -> Line<N> {
        for byte in self.bytes.iter_mut().take(self.len).filter(|byte| byte.is_ascii_control()) {
            *byte = if byte.is_ascii_whitespace() { b' ' } else { b'?' };
        }
        self
    }

    /// The text of a small file, as far as it fits; `None` if it cannot be read or is not UTF-8.
    pub fn read(path: &str) -> Option<Line<N>> {
        let mut line = Line { len: 0, bytes: [0; N] };
        line.fill(path)?;
        Some(line)
    }

    /// The same in place of what it says, for long ones: a result is written twice.
    pub fn fill(&mut self, path: &str) -> Option<()> {
        self.len = 0;
        self.len = read(path, &mut self.bytes)?;
        Some(())
    }

    /// An empty line.
    pub fn empty() -> Line<N> {
        Line { len: 0, bytes: [0; N] }
    }
}

/// Writes as much as fits; how much that is.
#[inline(never)] // one copy for lines of any length
fn write(bytes: &mut [u8], args: fmt::Arguments<'_>) -> usize {
    let mut draft = Draft { len: 0, bytes };
    // `write_str` below never fails, and a failing `Display` leaves what it wrote so far.
    let _ = draft.write_fmt(args);
    draft.len
}

struct Draft<'b> {
    len: usize,
    bytes: &'b mut [u8],
}

impl Write for Draft<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = self.bytes.get_mut(self.len..).unwrap_or_default();
        let mut n = text.len().min(room.len());
        while !text.is_char_boundary(n) {
            n = n.saturating_sub(1);
        }
        room.iter_mut().zip(text.bytes().take(n)).for_each(|(to, from)| *to = from);
        self.len = self.len.saturating_add(n);
        Ok(())
    }
}

/// Reads as much of a file as fits; how much that is, if it is UTF-8.
#[inline(never)]
fn read(path: &str, bytes: &mut [u8]) -> Option<usize> {
    let mut file = File::open(path).ok()?;
    let mut len = 0;
    // Not by `read_to_string`, which ends the process where there is no memory.
    while let Some(rest) = bytes.get_mut(len..).filter(|rest| !rest.is_empty()) {
        match file.read(rest) {
            Ok(0) => break,
            Ok(n) => len = usize::saturating_add(len, n),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(_) => return None,
        }
    }
    std::str::from_utf8(bytes.get(..len)?).is_ok().then_some(len)
}

impl<const N: usize> Deref for Line<N> {
    type Target = str;

    fn deref(&self) -> &str {
        self.bytes
            .get(..self.len)
            .and_then(|text| std::str::from_utf8(text).ok())
            .unwrap_or_default()
    }
}

impl<const N: usize> fmt::Display for Line<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_cut_where_it_ends_and_never_in_a_character() {
        assert_eq!(&*Line::<16>::of(format_args!("blk.{}.{}", 3, "attn_q")), "blk.3.attn_q");
        assert_eq!(&*Line::<8>::of(format_args!("{}", "seabirds!")), "seabirds");
        assert_eq!(&*Line::<3>::of(format_args!("ab{}", '\u{e9}')), "ab");
        assert_eq!(&*Line::<0>::of(format_args!("x")), "");
    }

    #[test]
    fn a_file_is_read_as_far_as_it_fits() {
        let line = Line::<4096>::read("/proc/self/status").unwrap();
        assert!(line.starts_with("Name:"), "{line}");
        assert_eq!(&*Line::<5>::read("/proc/self/status").unwrap(), "Name:");
        assert!(Line::<16>::read("/no/such/file").is_none());
    }
}
