//! What the library has to say while it works. Silent until a program gives it a sink.
//!
//! A line is formatted into a fixed buffer, so that logging never allocates; a longer one is cut.

use std::fmt::{self, Write};
use std::sync::atomic::{AtomicU8, Ordering};

use super::fork::ForkLock;

/// How much a line matters; lower matters more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Level {
    /// Something failed.
    Error = 1,
    /// Something is not as it should be, and work goes on.
    Warn = 2,
    /// What a user may want to know once.
    Info = 3,
    /// What a developer wants to know.
    Debug = 4,
}

/// Receives each line, without a line feed. May be called from any thread, and must not block long.
pub type Sink = fn(Level, &str);

/// Bytes that a line can hold.
const LINE_LEN: usize = 400;

/// Lines above this level are dropped before they are formatted; 0 drops all.
static MAX_LEVEL: AtomicU8 = AtomicU8::new(0);
static SINK: ForkLock<Sink> = ForkLock::new();

/// Sends lines of `max_level` and below to `sink`, for the whole process; `None` silences.
///
/// A line that another thread is logging at this moment may still reach the sink that was.
pub fn set_sink(sink: Option<Sink>, max_level: Level) {
    SINK.set(sink);
    let level = if sink.is_some() { max_level as u8 } else { 0 };
    MAX_LEVEL.store(level, Ordering::Relaxed);
}

/// Logs a line. The macro `log!` reads better.
pub fn write(level: Level, args: fmt::Arguments<'_>) {
    if level as u8 > MAX_LEVEL.load(Ordering::Relaxed) {
        return;
    }
    // The lock is let go before the sink runs, which may itself set another one.
    let sink = *SINK.read();
    if let Some(sink) = sink {
        let mut line = Line { len: 0, bytes: [0; LINE_LEN] };
        // `write_str` below never fails, and a failing `Display` leaves what it wrote so far.
        let _ = line.write_fmt(args);
        sink(level, std::str::from_utf8(&line.bytes[..line.len]).unwrap_or(""));
    }
}

struct Line {
    len: usize,
    bytes: [u8; LINE_LEN],
}

impl Write for Line {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let mut n = text.len().min(LINE_LEN - self.len);
        while !text.is_char_boundary(n) {
            n -= 1;
        }
        self.bytes[self.len..self.len + n].copy_from_slice(&text.as_bytes()[..n]);
        self.len += n;
        Ok(())
    }
}

/// Logs a line: `log!(Warn, "{path}: {n} tensors are not used")`.
#[allow(unused_macros, reason = "who has nothing to say yet should not break the build")]
macro_rules! log {
    ($level:ident, $($arg:tt)*) => {
        $crate::base::log::write($crate::base::log::Level::$level, format_args!($($arg)*))
    };
}
#[allow(unused_imports, reason = "as above")]
pub(crate) use log;

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    static SEEN: Mutex<Vec<(Level, String)>> = Mutex::new(Vec::new());

    fn sink(level: Level, line: &str) {
        // Other tests of this process may log; only the lines of this one count.
        if line.starts_with("log test") {
            SEEN.lock().unwrap().push((level, line.into()));
        }
    }

    #[test]
    fn lines_reach_the_sink_by_level_and_are_cut() {
        log!(Error, "log test: nobody listens");
        set_sink(Some(sink), Level::Info);
        log!(Info, "log test: {}", 7);
        log!(Debug, "log test: not wanted");
        log!(Warn, "log test{}", "é".repeat(300));
        set_sink(None, Level::Debug);
        log!(Error, "log test: nobody listens any more");
        let seen = SEEN.lock().unwrap();
        assert_eq!(seen.len(), 2, "{seen:?}");
        assert_eq!(seen[0], (Level::Info, "log test: 7".to_string()));
        assert_eq!((seen[1].0, seen[1].1.len()), (Level::Warn, 400));
        assert!(seen[1].1.ends_with('é'));
    }
}
