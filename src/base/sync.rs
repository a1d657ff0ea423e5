//! Locks, atomics and cells for what threads share, in one place: tests of interleavings compile the
//! same sources with another module in the place of this one (tests/models), and a build for
//! ThreadSanitizer has locks of its own below (`--cfg tern_tsan`, tests/races).

pub use std::sync::atomic;
pub use std::sync::{
    LockResult, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, TryLockError,
    TryLockResult,
};

#[cfg(tern_tsan)]
pub use self::instrumented::{Mutex, OnceLock};
#[cfg(not(tern_tsan))]
pub use std::sync::{Mutex, OnceLock};

/// The same, for what is in statics: a tool, whose things are no constants, has others there.
pub mod statics {
    pub use super::atomic::*;
    pub use super::{Mutex, UnsafeCell};
}

/// What several threads touch, each when the protocol around it says that nobody else does. Tools
/// that look for races see when.
#[repr(transparent)]
pub struct UnsafeCell<T>(std::cell::UnsafeCell<T>);

impl<T> UnsafeCell<T> {
    /// With a value.
    pub const fn new(value: T) -> UnsafeCell<T> {
        UnsafeCell(std::cell::UnsafeCell::new(value))
    }

    /// For who reads it now.
    #[inline(always)]
    pub fn with<R>(&self, f: impl FnOnce(*const T) -> R) -> R {
        f(self.0.get())
    }

    /// For who changes it now.
    #[inline(always)]
    pub fn with_mut<R>(&self, f: impl FnOnce(*mut T) -> R) -> R {
        f(self.0.get())
    }
}

/// The slow paths of the standard library's locks are in a library that is not instrumented: a thread
/// that waited there would seem to have got what it reads from nobody. So here no thread waits there.
/// What takes and releases a lock that is free is compiled with tern, and seen.
#[cfg(tern_tsan)]
#[allow(missing_docs, clippy::new_without_default, reason = "as the standard library's")]
mod instrumented {
    use super::*;

    /// A mutex that is tried until it is free.
    pub struct Mutex<T>(std::sync::Mutex<T>);

    impl<T> Mutex<T> {
        pub const fn new(value: T) -> Mutex<T> {
            Mutex(std::sync::Mutex::new(value))
        }

        pub fn lock(&self) -> LockResult<MutexGuard<'_, T>> {
            loop {
                match self.0.try_lock() {
                    Ok(guard) => return Ok(guard),
                    Err(TryLockError::Poisoned(poisoned)) => return Err(poisoned),
                    Err(TryLockError::WouldBlock) => std::thread::yield_now(),
                }
            }
        }

        pub fn try_lock(&self) -> TryLockResult<MutexGuard<'_, T>> {
            self.0.try_lock()
        }

        pub fn get_mut(&mut self) -> LockResult<&mut T> {
            self.0.get_mut()
        }

        pub fn into_inner(self) -> LockResult<T> {
            self.0.into_inner()
        }
    }

    /// A value that is made once, under such a mutex.
    pub struct OnceLock<T>(std::sync::OnceLock<T>, Mutex<()>);

    impl<T> OnceLock<T> {
        pub const fn new() -> OnceLock<T> {
            OnceLock(std::sync::OnceLock::new(), Mutex::new(()))
        }

        pub fn get(&self) -> Option<&T> {
            let _one = self.1.lock().unwrap_or_else(PoisonError::into_inner);
            self.0.get()
        }

        pub fn get_or_init(&self, f: impl FnOnce() -> T) -> &T {
            let _one = self.1.lock().unwrap_or_else(PoisonError::into_inner);
            self.0.get_or_init(f)
        }
    }
}
