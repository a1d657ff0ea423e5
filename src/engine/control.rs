//! What other threads and the clock do to an eval that is running.

use crate::base::clock;
use crate::base::error::{Result, err};
use crate::base::sync::statics::{AtomicBool, AtomicU64, Ordering};

/// What can stop an eval.
#[derive(Clone, Copy, Debug, Default)]
pub struct Control<'a> {
    /// Set by anyone at any time: the eval fails with `Aborted`, and clears it.
    pub abort: Option<&'a AtomicBool>,
    /// CLOCK_MONOTONIC in nanoseconds; when it has passed the eval fails with `Deadline`. 0 = none.
    pub deadline_ns: u64,
    /// A wish for another budget ([`SessionParams::kv_budget`](super::SessionParams::kv_budget)) that
    /// anybody can leave at any time; it is taken when the eval is done. 0 = none.
    pub budget: Option<&'a Wish>,
    /// Rises with each part of the work, several times in a layer, for who watches from another thread
    /// whether the work goes on.
    pub progress: Option<&'a AtomicU64>,
}

/// A budget that another thread wishes for.
#[derive(Debug, Default)]
pub struct Wish(AtomicU64);

impl Wish {
    /// None.
    pub const fn new() -> Wish {
        Wish(AtomicU64::new(0))
    }

    /// Wishes for a budget of so many slots; 0 = as many as there are.
    pub fn set(&self, n_slots: u32) {
        self.0.store(u64::from(n_slots) + 1, Ordering::Relaxed);
    }

    /// Forgets it.
    pub fn clear(&self) {
        self.0.store(0, Ordering::Relaxed);
    }

    /// Takes it, if there is one.
    pub(super) fn take(&self) -> Option<usize> {
        match self.0.load(Ordering::Relaxed) {
            0 => None,
            _ => self.0.swap(0, Ordering::Relaxed).checked_sub(1).map(|n| n as usize),
        }
    }
}

impl Control<'_> {
    /// Whether to go on. Asked at least five times in each layer, by any thread of the session.
    pub(super) fn check(&self) -> Result<()> {
        if let Some(progress) = self.progress {
            progress.fetch_add(1, Ordering::Relaxed);
        }
        // Read first: to swap takes the flag's cache line from all others.
        let is_set =
            |flag: &AtomicBool| flag.load(Ordering::Relaxed) && flag.swap(false, Ordering::Relaxed);
        if self.abort.is_some_and(is_set) {
            return Err(err!(Aborted, "eval: aborted by the caller"));
        }
        if self.deadline_ns != 0 {
            let now = clock::now_ns();
            if now >= self.deadline_ns {
                let late = now - self.deadline_ns;
                return Err(err!(Deadline, "eval: the deadline passed {late} ns ago"));
            }
        }
        Ok(())
    }
}
