//! Faults that the tests of the C API inject. Only with the feature `test-hooks`, which nothing
//! that is installed has: tests/header.rs finds these names in neither header nor symbol list.

use super::guard::guard;
use super::handle::{SESSIONS, tern_session};
use super::status::tern_status;

/// Panics while it holds a session, as a bug in an eval would.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn tern_test_panic(session: *mut tern_session) -> tern_status {
    guard(|| {
        let session = SESSIONS.get(session)?;
        let _state = session.write()?;
        panic!("injected by a test");
    })
}
