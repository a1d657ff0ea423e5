//! Errors of the system, shown without asking for memory: std shows them by way of a text on the heap,
//! and ends the process where there is none for it.
#![allow(unsafe_code, reason = "one call of the C library")]

use std::fmt;
use std::io;

/// What the system said last.
pub fn errno() -> i32 {
    io::Error::last_os_error().raw_os_error().unwrap_or(0)
}

/// An error number of the system, shown as its text.
pub struct Errno(pub i32);

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = [0u8; 128];
        // SAFETY: the buffer is as long as is said; strerror_r writes no more, a NUL at the end included,
        // and the last byte stays 0 if it should not.
        unsafe { libc::strerror_r(self.0, text.as_mut_ptr().cast(), text.len() - 1) };
        let end = text.iter().position(|&byte| byte == 0).unwrap_or(0);
        let text = std::str::from_utf8(&text[..end]).unwrap_or("an error of the system");
        write!(f, "{text} (os error {})", self.0)
    }
}

/// An error of std's, shown likewise; of those that the system knows nothing of, the kind.
pub struct Failed<'e>(pub &'e io::Error);

impl fmt::Display for Failed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.raw_os_error() {
            Some(code) => Errno(code).fmt(f),
            None => self.0.kind().fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_of_the_system_are_shown_as_std_shows_them() {
        for code in [libc::ENOENT, libc::EACCES, libc::ENOSPC, libc::EIO, libc::ENOMEM, 100_000] {
            let std = io::Error::from_raw_os_error(code);
            assert_eq!(Errno(code).to_string(), std.to_string());
            assert_eq!(Failed(&std).to_string(), std.to_string());
        }
        let other = io::Error::from(io::ErrorKind::UnexpectedEof);
        assert_eq!(Failed(&other).to_string(), "unexpected end of file");
    }
}
