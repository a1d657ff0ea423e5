//! No panic leaves the library: every exported function that can fail runs inside [`guard`].

#[cfg(not(panic = "unwind"))]
compile_error!("tern promises that no panic crosses its C API; build with panic = \"unwind\"");

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::status::{record, tern_status};
use crate::base::error::{Result, err};

/// Runs the body of an exported function: an error is recorded, a panic becomes an error, and
/// `errno` is left as it was.
pub(super) fn guard(body: impl FnOnce() -> Result<()>) -> tern_status {
    let errno = Errno::save();
    // `AssertUnwindSafe` is sound: state that a panic may have left half-changed is behind a lock
    // that the panic poisons (see handle.rs), and nothing else outlives the call.
    let status = match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(())) => tern_status::TERN_OK,
        Ok(Err(error)) => record(&error),
        Err(payload) => caught(payload),
    };
    errno.restore();
    status
}

/// Makes a panic the thread's last error.
#[cold]
#[inline(never)] // 60 functions have it, one copy
fn caught(payload: Box<dyn Any + Send>) -> tern_status {
    let status = record(&err!(Internal, "panic: {}", sentence(&*payload)));
    discard(payload);
    status
}

/// The same for a function that cannot say what failed: `_free`, mostly.
pub(super) fn quietly(body: impl FnOnce()) {
    let errno = Errno::save();
    if let Err(payload) = catch_unwind(AssertUnwindSafe(body)) {
        discard(payload);
    }
    errno.restore();
}

/// Drops what a panic carried if that is plain text. Any other value might panic again while it is
/// dropped, and that would end the process; it is leaked.
fn discard(payload: Box<dyn Any + Send>) {
    if !(payload.is::<&str>() || payload.is::<String>()) {
        std::mem::forget(payload);
    }
}

/// What a panic said.
fn sentence(payload: &(dyn Any + Send)) -> &str {
    match (payload.downcast_ref::<&str>(), payload.downcast_ref::<String>()) {
        (Some(text), _) => text,
        (_, Some(text)) => text,
        _ => "without a message",
    }
}

/// The C library's `errno` of this thread, so that a call to tern does not disturb its caller's.
struct Errno(i32);

impl Errno {
    fn save() -> Errno {
        // SAFETY: the C library's own pointer to this thread's `errno`; always valid.
        Errno(unsafe { *libc::__errno_location() })
    }

    fn restore(self) {
        // SAFETY: as in `save`.
        unsafe { *libc::__errno_location() = self.0 }
    }
}

#[cfg(test)]
mod tests {
    use super::super::status::tern_last_error;
    use super::*;
    use std::ffi::CStr;

    fn last_error() -> String {
        // SAFETY: `tern_last_error` always gives a string that ends in NUL.
        unsafe { CStr::from_ptr(tern_last_error()) }.to_string_lossy().into_owned()
    }

    #[test]
    fn a_panic_becomes_a_status_and_a_sentence() {
        assert_eq!(guard(|| panic!("injected {}", 7)), tern_status::TERN_ERROR_INTERNAL);
        assert_eq!(last_error(), "panic: injected 7");
        assert_eq!(guard(|| panic!("literal")), tern_status::TERN_ERROR_INTERNAL);
        assert_eq!(last_error(), "panic: literal");
    }

    #[test]
    fn a_payload_that_panics_when_dropped_is_survived() {
        struct Bomb;
        impl Drop for Bomb {
            fn drop(&mut self) {
                panic!("the payload's own");
            }
        }
        let status = guard(|| std::panic::panic_any(Bomb));
        assert_eq!(status, tern_status::TERN_ERROR_INTERNAL);
        assert_eq!(last_error(), "panic: without a message");
        quietly(|| std::panic::panic_any(Bomb));
    }

    #[test]
    fn errno_is_left_alone() {
        // SAFETY: this thread's errno.
        unsafe { *libc::__errno_location() = 77 };
        let status = guard(|| {
            let _ = std::fs::File::open("/nowhere/at/all");
            Err(err!(Io, "nowhere"))
        });
        assert_eq!(status, tern_status::TERN_ERROR_IO);
        assert_eq!(std::io::Error::last_os_error().raw_os_error(), Some(77));
    }
}
