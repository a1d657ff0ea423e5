//! In the place of `src/base/sync.rs`: what threads share, as a tool makes it.

pub use std::sync::{LockResult, PoisonError, TryLockError};

#[cfg(feature = "loom")]
use loom::sync as tool;
#[cfg(feature = "shuttle")]
use shuttle::sync as tool;

pub use tool::{Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard, atomic};

/// It sees when two threads touch it at once.
#[cfg(feature = "loom")]
pub use loom::cell::UnsafeCell;

/// shuttle knows no order of memory: values tell what went wrong.
#[cfg(feature = "shuttle")]
pub struct UnsafeCell<T>(std::cell::UnsafeCell<T>);

#[cfg(feature = "shuttle")]
impl<T> UnsafeCell<T> {
    pub fn new(value: T) -> UnsafeCell<T> {
        UnsafeCell(std::cell::UnsafeCell::new(value))
    }

    pub fn with<R>(&self, f: impl FnOnce(*const T) -> R) -> R {
        f(self.0.get())
    }

    pub fn with_mut<R>(&self, f: impl FnOnce(*mut T) -> R) -> R {
        f(self.0.get())
    }
}

/// What statics have. A tool's things belong to one run of a model and are no constants: so each is made
/// when it is first used, which models do before there is a second thread.
pub mod statics {
    use std::cell::{Cell, OnceCell};
    use std::ops::Deref;

    pub use std::sync::atomic::Ordering;

    use super::tool;

    /// What is made of a first value when it is first used.
    struct Lazy<F, T> {
        first: Cell<Option<F>>,
        made: OnceCell<T>,
    }

    // SAFETY: both tools run the threads of a model in turns, on one thread of the system, and making a
    // value is no point at which they change turns.
    unsafe impl<F: Send, T: Send + Sync> Sync for Lazy<F, T> {}

    impl<F, T> Lazy<F, T> {
        const fn new(first: F) -> Lazy<F, T> {
            Lazy { first: Cell::new(Some(first)), made: OnceCell::new() }
        }

        fn get(&self, make: impl FnOnce(F) -> T) -> &T {
            self.made.get_or_init(|| make(self.first.take().expect("made once")))
        }
    }

    macro_rules! atomic {
        ($($name:ident of $value:ty),*) => {$(
            pub struct $name(Lazy<$value, tool::atomic::$name>);

            impl $name {
                pub const fn new(first: $value) -> $name {
                    $name(Lazy::new(first))
                }
            }

            impl Deref for $name {
                type Target = tool::atomic::$name;

                fn deref(&self) -> &tool::atomic::$name {
                    self.0.get(tool::atomic::$name::new)
                }
            }

            impl Default for $name {
                fn default() -> $name {
                    $name::new(<$value>::default())
                }
            }

            impl std::fmt::Debug for $name {
                fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                    f.write_str(stringify!($name))
                }
            }
        )*};
    }

    atomic!(AtomicBool of bool, AtomicU32 of u32, AtomicU64 of u64, AtomicUsize of usize);

    pub struct Mutex<T>(Lazy<T, tool::Mutex<T>>);

    impl<T> Mutex<T> {
        pub const fn new(value: T) -> Mutex<T> {
            Mutex(Lazy::new(value))
        }
    }

    impl<T> Deref for Mutex<T> {
        type Target = tool::Mutex<T>;

        fn deref(&self) -> &tool::Mutex<T> {
            self.0.get(tool::Mutex::new)
        }
    }

    pub struct UnsafeCell<T>(Lazy<T, super::UnsafeCell<T>>);

    impl<T> UnsafeCell<T> {
        pub const fn new(value: T) -> UnsafeCell<T> {
            UnsafeCell(Lazy::new(value))
        }

        #[track_caller]
        pub fn with<R>(&self, f: impl FnOnce(*const T) -> R) -> R {
            self.0.get(super::UnsafeCell::new).with(f)
        }

        #[track_caller]
        pub fn with_mut<R>(&self, f: impl FnOnce(*mut T) -> R) -> R {
            self.0.get(super::UnsafeCell::new).with_mut(f)
        }
    }
}
