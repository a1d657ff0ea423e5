//! A lock that a forked child never finds taken by a thread that stayed in its parent.
//!
//! A child has one thread, the one that called `fork`. If another one held a lock at that moment, the
//! child would wait for it without end: so this one notes the process that its holders are of, and
//! holders in another process are none.
#![allow(unsafe_code, reason = "a lock, of atomics")]

use std::ops::Deref;

use super::sync::statics::{AtomicU64, Ordering, UnsafeCell};
use super::thread::pause;

/// A value that is read often, by threads that may take long, and seldom changed.
pub struct ForkLock<T> {
    /// The process in the upper half; in the lower one how many read, and [`CLOSED`].
    word: AtomicU64,
    value: UnsafeCell<Option<T>>,
}

/// Somebody changes the value, when the last of those who read is done; nobody else begins.
const CLOSED: u32 = 1 << 31;

// SAFETY: `value` is written only while the word is CLOSED without readers, by the thread that closed
// it, and lent as `&T` only to those who are counted as readers.
unsafe impl<T: Send + Sync> Sync for ForkLock<T> {}

/// The value, as long as it is read.
pub struct Reading<'a, T> {
    lock: &'a ForkLock<T>,
    pid: u32,
}

impl<T> ForkLock<T> {
    /// Without a value.
    #[allow(clippy::new_without_default, reason = "it is for statics, which have no defaults")]
    pub const fn new() -> ForkLock<T> {
        ForkLock { word: AtomicU64::new(0), value: UnsafeCell::new(None) }
    }

    /// The value, once nobody changes it.
    pub fn read(&self) -> Reading<'_, T> {
        let pid = std::process::id();
        loop {
            let found = self.word.load(Ordering::Relaxed);
            match state_for(pid, found) {
                State::Left => drop(self.take_over(pid, found)),
                State::Here(state) if state & CLOSED != 0 => pause(),
                State::Here(state) => {
                    if self.change(found, pid, state + 1) {
                        return Reading { lock: self, pid };
                    }
                }
            }
        }
    }

    /// Changes the value. When this returns, nobody reads the former one.
    ///
    /// Waits without end for a reader that calls it: who may be one must not.
    pub fn set(&self, value: Option<T>) {
        let pid = std::process::id();
        loop {
            let found = self.word.load(Ordering::Relaxed);
            match state_for(pid, found) {
                State::Left if self.take_over(pid, found) => continue,
                State::Here(state) if state & CLOSED == 0 => {
                    if self.change(found, pid, state | CLOSED) {
                        break;
                    }
                }
                _ => pause(),
            }
        }
        // Acquire: what the readers did comes before.
        while self.word.load(Ordering::Acquire) != join(pid, CLOSED) {
            pause();
        }
        // SAFETY: this call closed the word, and it has no readers left: nobody else has the value.
        unsafe { self.value.with_mut(|cell| *cell = value) };
        self.word.store(join(pid, 0), Ordering::Release);
    }

    /// Opens the word for this process, where a writer has stayed in another, perhaps in the middle:
    /// without a value, which may be half of each. Says whether nobody else did.
    fn take_over(&self, pid: u32, found: u64) -> bool {
        let mine = self.change(found, pid, CLOSED);
        if mine {
            // SAFETY: this call closed the word for this process, in which there were no readers. What
            // is overwritten is not dropped: it may be no value.
            unsafe { self.value.with_mut(|cell| cell.write(None)) };
            self.word.store(join(pid, 0), Ordering::Release);
        }
        mine
    }

    fn change(&self, found: u64, pid: u32, state: u32) -> bool {
        let (ok, no) = (Ordering::Acquire, Ordering::Relaxed);
        self.word.compare_exchange(found, join(pid, state), ok, no).is_ok()
    }
}

enum State {
    /// A writer stayed in another process.
    Left,
    /// Readers of this process, and [`CLOSED`].
    Here(u32),
}

fn state_for(pid: u32, word: u64) -> State {
    let state = word as u32;
    match (word >> 32) as u32 == pid {
        true => State::Here(state),
        false if state == CLOSED => State::Left,
        false => State::Here(0),
    }
}

fn join(pid: u32, state: u32) -> u64 {
    u64::from(pid) << 32 | u64::from(state)
}

impl<T> Deref for Reading<'_, T> {
    type Target = Option<T>;

    fn deref(&self) -> &Option<T> {
        // SAFETY: this is counted as a reader until it is dropped, so that nobody writes.
        self.lock.value.with(|cell| unsafe { &*cell })
    }
}

impl<T> Drop for Reading<'_, T> {
    fn drop(&mut self) {
        // In a child that was forked while this was read nobody counts it.
        if self.pid == std::process::id() {
            self.lock.word.fetch_sub(1, Ordering::Release);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicBool;

    #[test]
    fn a_value_is_read_whole_and_nobody_reads_one_that_was_changed() {
        static LOCK: ForkLock<[u64; 4]> = ForkLock::new();
        static OVER: AtomicBool = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    while !OVER.load(Ordering::Relaxed) {
                        let value = LOCK.read();
                        assert!(value.is_none_or(|all| all == [all[0]; 4]), "half of each");
                    }
                });
            }
            (0..200).for_each(|i| LOCK.set((i % 3 != 0).then_some([i; 4])));
            OVER.store(true, Ordering::Relaxed);
        });
        assert_eq!(*LOCK.read(), Some([199; 4]));
    }

    #[test]
    fn holders_of_another_process_are_none() {
        let other = std::process::id() + 1;
        let lock = ForkLock::new();
        lock.set(Some(7));
        let held = lock.read();
        // As a child sees readers, one of them with a writer that waits for it, and then a writer.
        for (state, left) in [(3, Some(7)), (CLOSED | 1, Some(7)), (CLOSED, None)] {
            lock.word.store(join(other, state), Ordering::Relaxed);
            assert_eq!(*lock.read(), left);
            lock.set(Some(7));
        }
        // A reader of the parent that lives on in the child, whose own reader is not taken for it.
        let mut from_parent = lock.read();
        from_parent.pid = other;
        lock.word.store(join(other, 1), Ordering::Relaxed);
        let own = lock.read();
        drop(from_parent);
        assert_eq!(lock.word.load(Ordering::Relaxed), join(std::process::id(), 1));
        drop(own);
        std::mem::forget(held);
        lock.set(Some(8));
        assert_eq!(*lock.read(), Some(8));
    }
}
