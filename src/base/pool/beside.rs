//! Two things at a time: one that any thread may do, and one that stays with the caller.
#![allow(unsafe_code, reason = "what stays on one thread, in a closure that all of them share")]

use std::cell::UnsafeCell;

use super::Pool;
use crate::base::error::{Result, err};

/// What only the thread that made it touches.
struct Own<T>(UnsafeCell<T>);

// SAFETY: `Pool::beside` touches the value in the share of the first worker only, which runs on the
// thread that called it, where the value was made and is dropped.
unsafe impl<T> Sync for Own<T> {}

impl Pool {
    /// Calls `own` here, and meanwhile `other` on another thread, if there is one and it has begun by
    /// the time that `own` has returned; else before or after it.
    ///
    /// Fails as [`run`](Self::run); if `other` panicked, with what `own` returned lost.
    pub fn beside<R>(&self, other: &(dyn Fn() + Sync), own: impl FnOnce() -> R) -> Result<R> {
        if self.n_active() == 1 {
            other();
            return Ok(own());
        }
        let own = Own(UnsafeCell::new((Some(own), None)));
        let share = |worker: usize| {
            let own = &own; // the whole of it, and not the cell inside
            if worker != 0 {
                return other();
            }
            // SAFETY: this is the caller's thread, where nothing else holds the cell: `share` is
            // called with 0 once, and the value is taken out after `run_first`.
            let (todo, done) = unsafe { &mut *own.0.get() };
            *done = todo.take().map(|own| own());
        };
        self.run_first(2, &|| {}, &share)?;
        let (_, done) = own.0.into_inner();
        done.ok_or_else(|| err!(Internal, "a share of the caller was not run"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::error::Error;
    use std::rc::Rc;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::thread;

    #[test]
    fn both_are_done_once_and_the_callers_by_the_caller() {
        let here = thread::current().id();
        for n_threads in 1..=3 {
            let pool = Pool::new(n_threads).expect("a pool");
            for i in 0..200 {
                let n_other = AtomicU32::new(0);
                let own = Rc::new(i); // which no other thread may have
                let other = || {
                    n_other.fetch_add(1, Ordering::Relaxed);
                };
                let done = pool.beside(&other, || (Rc::clone(&own), thread::current().id()));
                assert_eq!(done, Ok((own, here)));
                assert_eq!(n_other.into_inner(), 1);
            }
        }
    }

    #[test]
    fn a_panic_is_an_error() {
        let pool = Pool::new(2).expect("a pool");
        for (a, b) in [(true, false), (false, true)] {
            let fail = |it: bool| assert!(!it, "on purpose");
            let done = pool.beside(&|| fail(a), || fail(b));
            assert!(matches!(done, Err(Error::Internal(_))), "{done:?}");
        }
        assert_eq!(pool.beside(&|| {}, || 7), Ok(7));
    }
}
