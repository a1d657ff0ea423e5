//! tern_sigbus_guard_*: a handler of SIGBUS, for applications that map files which others can cut.

use super::guard::guard;
use super::status::tern_status;
use crate::engine::sigbus;

/// Handles SIGBUS from now on: a model's file that is cut while it is mapped, or whose disk fails, then
/// costs the model and not the process.
///
/// Where the address of a fault lies in a mapped model, zeros take the place of that mapping, and the
/// call that was reading it, and each one that needs its weights later, fails with TERN_ERROR_IO, or
/// TERN_ERROR_MODEL_CHANGED if it was loaded with TERN_LOAD_MAP_GUARDED and changed; other models and
/// what was computed before are as they were. A cut within a page, and what is overwritten, give no
/// signal: only TERN_LOAD_MAP_GUARDED notices these.
///
/// All other signals go on to what handled SIGBUS before, as if tern were not there. Of a handler that
/// is installed later, and hands nothing on, call it again: at most four times above handlers of others,
/// then TERN_ERROR_LIMIT. Once is enough for all threads and models, loaded or not. May be called by
/// any thread, but not while another one calls sigaction() for SIGBUS. Fails with TERN_ERROR_IO.
#[unsafe(no_mangle)]
#[must_use]
pub extern "C" fn tern_sigbus_guard_install() -> tern_status {
    guard(|| {
        sigbus::install()?;
        Ok(())
    })
}

/// Ends what tern_sigbus_guard_install() began, however often that was called. What handled SIGBUS
/// before does so again; if another handler stands above tern's now, that stays, and what it hands on
/// goes through. The same threads may call it. Fails with TERN_ERROR_IO.
#[unsafe(no_mangle)]
#[must_use]
pub extern "C" fn tern_sigbus_guard_remove() -> tern_status {
    guard(|| {
        sigbus::remove()?;
        Ok(())
    })
}
