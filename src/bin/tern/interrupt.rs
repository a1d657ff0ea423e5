//! Ctrl-C: the first ends what is being generated, the second ends the program.
//!
//! A program may install a signal handler; the library never does.
#![allow(unsafe_code, reason = "sigaction has no safe form in std")]

use std::sync::atomic::{AtomicBool, Ordering};

use tern::engine::Control;

/// Set by Ctrl-C while something is being generated; an eval that sees it fails with `Aborted`.
static ABORT: AtomicBool = AtomicBool::new(false);
/// Whether Ctrl-C has something to end other than the program.
static GUARDED: AtomicBool = AtomicBool::new(false);

/// Sets up the handler.
pub(crate) fn install() {
    // SAFETY: all-zero bytes are a `sigaction`; the handler is one that signals allow (see there).
    unsafe {
        let mut action = std::mem::zeroed::<libc::sigaction>();
        action.sa_sigaction = on_interrupt as *const () as usize;
        libc::sigemptyset(&mut action.sa_mask);
        libc::sigaction(libc::SIGINT, &action, std::ptr::null_mut());
    }
}

/// Until the guard is dropped, Ctrl-C sets the flag of [`Guard::control`].
pub(crate) fn guard() -> Guard {
    ABORT.store(false, Ordering::Relaxed);
    GUARDED.store(true, Ordering::Relaxed);
    Guard(())
}

/// See [`guard`].
pub(crate) struct Guard(());

impl Guard {
    /// What makes an eval stop at Ctrl-C.
    pub(crate) fn control(&self) -> Control<'static> {
        Control { abort: Some(&ABORT), ..Control::default() }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        GUARDED.store(false, Ordering::Relaxed);
    }
}

extern "C" fn on_interrupt(_signal: libc::c_int) {
    if !GUARDED.load(Ordering::Relaxed) || ABORT.swap(true, Ordering::Relaxed) {
        // SAFETY: _exit may be called in a signal handler. 130 is the shell's 128 + SIGINT.
        unsafe { libc::_exit(130) };
    }
}
