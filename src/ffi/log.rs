//! tern_log_set: where log messages go.

use std::cell::Cell;
use std::ffi::{c_char, c_void};

use super::guard::quietly;
use crate::base::fork::ForkLock;
use crate::base::log::{Level, set_sink};

/// How much a log message matters; less is more.
pub type tern_log_level = u32;
/// Nothing at all; the default.
pub const TERN_LOG_OFF: tern_log_level = 0;
/// Something failed that no return value can say.
pub const TERN_LOG_ERROR: tern_log_level = 1;
/// Something works, but worse than it could.
pub const TERN_LOG_WARN: tern_log_level = 2;
/// What was chosen: kernels, devices, sizes.
pub const TERN_LOG_INFO: tern_log_level = 3;
/// What helps to find a fault.
pub const TERN_LOG_DEBUG: tern_log_level = 4;

/// Receives log messages, from any thread. `message` is lent until the function returns.
///
/// It may call tern, tern_log_set() excepted; what that would log is dropped.
pub type tern_log_fn = Option<
    unsafe extern "C-unwind" fn(
        user_data: *mut c_void,
        level: tern_log_level,
        message: *const c_char,
    ),
>;

#[derive(Clone, Copy)]
struct Sink {
    log: unsafe extern "C-unwind" fn(*mut c_void, tern_log_level, *const c_char),
    user_data: *mut c_void,
}
// SAFETY: the header says that the function is called from any thread, with this pointer.
unsafe impl Send for Sink {}
// SAFETY: as above.
unsafe impl Sync for Sink {}

/// Read while the function runs, so that `tern_log_set` returns only when the former one is done.
static SINK: ForkLock<Sink> = ForkLock::new();

thread_local! {
    /// This thread is inside a log function.
    static INSIDE: Cell<bool> = const { Cell::new(false) };
}

/// Sends log messages of at most `level` to `log`; NULL stops them. Process-wide.
///
/// When this returns, the former function is no longer running, nor will it be called again.
/// Calls from inside a log function are ignored.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tern_log_set(
    level: tern_log_level,
    log: tern_log_fn,
    user_data: *mut c_void,
) {
    quietly(|| {
        if INSIDE.get() {
            return; // it holds the lock that this would wait for
        }
        let sink = log.filter(|_| level != TERN_LOG_OFF).map(|log| Sink { log, user_data });
        SINK.set(sink);
        let level = match level {
            TERN_LOG_OFF | TERN_LOG_ERROR => Level::Error,
            TERN_LOG_WARN => Level::Warn,
            TERN_LOG_INFO => Level::Info,
            _ => Level::Debug,
        };
        set_sink(if sink.is_some() { Some(pass_on) } else { None }, level);
    });
}

/// Bytes for a message, its NUL included; `base::log` cuts earlier.
const MESSAGE_LEN: usize = 512;

/// Leaves a log function, also when it panicked.
struct Leaves;

impl Drop for Leaves {
    fn drop(&mut self) {
        INSIDE.set(false);
    }
}

fn pass_on(level: Level, line: &str) {
    if INSIDE.replace(true) {
        return;
    }
    let _leaves = Leaves;
    let mut message = [0u8; MESSAGE_LEN];
    for (to, from) in message.iter_mut().take(MESSAGE_LEN - 1).zip(line.bytes()) {
        *to = if from == 0 { b'?' } else { from };
    }
    if let Some(Sink { log, user_data }) = *SINK.read() {
        // SAFETY: the function and its pointer are the caller's, good for any thread until he
        // replaces them, which waits for the lock that is held here. The message ends in NUL.
        unsafe { log(user_data, level as tern_log_level, message.as_ptr().cast()) };
    }
}
