//! What stops work that is under way, on however many threads.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use super::error::{Error, Result};

/// Asks, each time that a part of the work is about to begin, whether there is a reason to stop. Once
/// there is, all threads leave out what they have not begun: what was to be computed is then worth
/// nothing, and [`check`](Brake::check) says why.
pub struct Brake<'a> {
    ask: &'a (dyn Fn() -> Result<()> + Sync),
    is_pulled: AtomicBool,
    /// Why; there is one from the moment that it is pulled.
    reason: Mutex<Option<Error>>,
}

impl<'a> Brake<'a> {
    /// `ask` is called by any thread, some ten thousand times a second.
    pub fn new(ask: &'a (dyn Fn() -> Result<()> + Sync)) -> Brake<'a> {
        Brake { ask, is_pulled: AtomicBool::new(false), reason: Mutex::new(None) }
    }

    /// Whether to stop.
    pub fn is_pulled(&self) -> bool {
        if self.is_pulled.load(Ordering::Relaxed) {
            return true;
        }
        let Err(reason) = (self.ask)() else { return false };
        self.reason.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(reason);
        self.is_pulled.store(true, Ordering::Relaxed);
        true
    }

    /// Fails with the reason if there is one.
    pub fn check(&self) -> Result<()> {
        if !self.is_pulled() {
            return Ok(());
        }
        let reason = self.reason.lock().unwrap_or_else(PoisonError::into_inner);
        reason.clone().map_or(Ok(()), Err)
    }
}

impl fmt::Debug for Brake<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Brake({:?})", self.reason)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;
    use crate::base::error::err;

    #[test]
    fn it_stays_pulled_and_tells_the_first_reason() {
        let asked = AtomicUsize::new(0);
        let ask = || match asked.fetch_add(1, Ordering::Relaxed) {
            2 => Err(err!(Aborted, "the third time")),
            _ => Ok(()),
        };
        let brake = Brake::new(&ask);
        assert!(!brake.is_pulled() && brake.check().is_ok());
        assert!(brake.is_pulled() && brake.is_pulled());
        assert_eq!(brake.check().unwrap_err().message(), "the third time");
        assert_eq!(asked.load(Ordering::Relaxed), 3, "nobody asks again");
    }
}
