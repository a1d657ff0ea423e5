//! What the command writes: results to standard output, notes and progress to standard error.

use std::io::{self, IsTerminal, Write};

use super::args::{Result, io_error};

/// Writes text to standard output, at once.
pub(crate) fn print(text: &str) -> Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .map_err(|e| io_error("standard output", &e))
}

/// Writes JSON and a line feed to standard output.
pub(crate) fn print_json(value: &serde_json::Value) -> Result<()> {
    print(&format!("{value}\n"))
}

/// Writes one line to standard error. Control characters, which a file's names may contain, become
/// spaces: a line stays a line, and a terminal obeys nobody but its user.
pub(crate) fn note(line: &str) {
    let line: String = line.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    // Where standard error is closed there is nobody to tell.
    let _ = writeln!(io::stderr(), "{line}");
}

/// Whether somebody watches standard error.
pub(crate) fn is_watched() -> bool {
    io::stderr().is_terminal()
}

/// One line on the terminal that says how far the work is, rewritten as it goes on. Nothing where
/// nobody watches.
pub(crate) struct Progress {
    is_on: bool,
    shown: String,
}

impl Progress {
    /// A line that says nothing yet.
    pub(crate) fn new() -> Progress {
        Progress { is_on: is_watched(), shown: String::new() }
    }

    /// Shows what is new.
    pub(crate) fn show(&mut self, text: String) {
        if self.is_on && text != self.shown {
            // "Erase to the end of the line" is understood by every terminal of this century.
            let _ = write!(io::stderr(), "\r{text}\x1b[K");
            self.shown = text;
        }
    }
}

impl Drop for Progress {
    /// Clears the line.
    fn drop(&mut self) {
        if !self.shown.is_empty() {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    }
}

/// A number of bytes, for people.
pub(crate) fn bytes(n: u64) -> String {
    match n {
        0..1_000_000 => format!("{:.1} kB", n as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} MB", n as f64 / 1e6),
        _ => format!("{:.2} GB", n as f64 / 1e9),
    }
}
