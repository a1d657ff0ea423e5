//! Faults that the tests of the C API inject. Only with the feature `test-hooks`, which nothing
//! that is installed has: tests/header.rs finds these names in neither header nor symbol list.

use std::ffi::c_void;

use super::guard::guard;
use super::handle::{DECODERS, SAMPLERS, SESSIONS, tern_decoder, tern_sampler, tern_session};
use super::status::tern_status;
use super::table::Held;
use crate::base::error::{Result, err};
use crate::base::sync::RwLock;

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

/// What is called while a handle is held.
pub type TernTestCall = Option<unsafe extern "C-unwind" fn(user_data: *mut c_void)>;

/// Uses a session (1), a sampler (2) or a decoder (3) as a call of another thread would that takes as
/// long as `call` does: alone, or shared with others. Panics if `call` is NULL.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn tern_test_hold(
    kind: u32,
    handle: *mut c_void,
    alone: bool,
    call: TernTestCall,
    user_data: *mut c_void,
) -> tern_status {
    guard(|| {
        let call = || match call {
            // SAFETY: the test's own function and what it wants.
            Some(call) => unsafe { call(user_data) },
            None => panic!("injected by a test"),
        };
        match kind {
            1 => hold(&SESSIONS.get(handle.cast::<tern_session>())?, alone, call),
            2 => hold(&SAMPLERS.get(handle.cast::<tern_sampler>())?, alone, call),
            3 => hold(&DECODERS.get(handle.cast::<tern_decoder>())?, alone, call),
            other => Err(err!(InvalidArgument, "kind: {other}, expected 1 to 3")),
        }
    })
}

fn hold<T>(held: &Held<RwLock<T>>, alone: bool, call: impl FnOnce()) -> Result<()> {
    if alone {
        let _state = held.write()?;
        call();
    } else {
        let _state = held.read()?;
        call();
    }
    Ok(())
}
