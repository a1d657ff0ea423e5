//! A value that several own, like `Arc`, but to make one can fail: an allocation that `Arc::new` does
//! not get ends the process.
#![allow(unsafe_code, reason = "counts who owns a value, and frees it after the last of them")]

use std::marker::PhantomData;
use std::ops::Deref;
use std::ptr::NonNull;

use super::error::{Result, err};
use super::sync::atomic::{AtomicUsize, Ordering};

struct Counted<T> {
    n: AtomicUsize,
    value: T,
}

/// One of the owners of a value, which goes with the last of them.
pub struct Shared<T> {
    counted: NonNull<Counted<T>>,
    /// It owns the value, as far as dropping goes.
    owns: PhantomData<Counted<T>>,
}

// SAFETY: owners on several threads read the value (T: Sync), and the last of them, whichever thread it
// is on, drops it (T: Send).
unsafe impl<T: Send + Sync> Send for Shared<T> {}
// SAFETY: as above: `&Shared` can be cloned to another owner.
unsafe impl<T: Send + Sync> Sync for Shared<T> {}

impl<T> Shared<T> {
    /// The only owner of a value. Fails with `OutOfMemory`.
    #[inline(never)]
    pub fn new(value: T) -> Result<Shared<T>> {
        let mut one = Vec::new();
        one.try_reserve_exact(1)
            .map_err(|_| err!(OutOfMemory, "no memory for {} bytes", size_of::<Counted<T>>()))?;
        one.push(Counted { n: AtomicUsize::new(1), value });
        let [counted] = one.leak() else {
            return Err(err!(
                Internal,
                "one value was pushed, and there is another number of them"
            ));
        };
        Ok(Shared { counted: NonNull::from(counted), owns: PhantomData })
    }

    /// How many own the value. What others do meanwhile can change that, unless it is 1.
    pub fn n_owners(&self) -> usize {
        // What a former owner did comes before: as in `get_mut`.
        self.counted().n.load(Ordering::Acquire)
    }

    /// The value, to be changed, if nobody else owns it.
    pub fn get_mut(&mut self) -> Option<&mut T> {
        if self.n_owners() != 1 {
            return None;
        }
        // SAFETY: the count is 1, which is this owner, borrowed for as long as the value is: so nobody
        // else reads it or can become its owner. `Acquire` came after the last `Release` of another.
        Some(unsafe { &mut self.counted.as_mut().value })
    }

    /// Whether both own the same value.
    pub fn is_same(&self, other: &Shared<T>) -> bool {
        self.counted == other.counted
    }

    /// Frees the value, after the last owner.
    fn free(&mut self) {
        // What the other owners did with the value comes before its end. A load and not a fence, which
        // ThreadSanitizer does not know.
        self.counted().n.load(Ordering::Acquire);
        // SAFETY: `drop` of the last owner is the only caller, so nobody uses the value any more; it
        // was leaked from a Vec of capacity and length 1 of this type.
        drop(unsafe { Vec::from_raw_parts(self.counted.as_ptr(), 1, 1) });
    }

    fn counted(&self) -> &Counted<T> {
        // SAFETY: it is there as long as one owner is, and this is one.
        unsafe { self.counted.as_ref() }
    }
}

impl<T> Clone for Shared<T> {
    fn clone(&self) -> Shared<T> {
        // Nothing has to come before or after: who clones is an owner already.
        self.counted().n.fetch_add(1, Ordering::Relaxed);
        Shared { counted: self.counted, owns: PhantomData }
    }
}

impl<T> Deref for Shared<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.counted().value
    }
}

impl<T> Drop for Shared<T> {
    #[inline(never)] // Every buffer of a session ends with one.
    fn drop(&mut self) {
        if self.counted().n.fetch_sub(1, Ordering::Release) == 1 {
            self.free();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicU32;

    struct Noted<'n>(&'n AtomicU32);

    impl Drop for Noted<'_> {
        fn drop(&mut self) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn the_last_owner_takes_the_value_along() {
        let n_dropped = AtomicU32::new(0);
        let first = Shared::new(Noted(&n_dropped)).unwrap();
        let second = first.clone();
        assert!(first.is_same(&second) && first.n_owners() == 2);
        drop(first);
        assert_eq!((n_dropped.load(Ordering::Relaxed), second.n_owners()), (0, 1));
        drop(second);
        assert_eq!(n_dropped.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn only_a_single_owner_changes_the_value() {
        let mut first = Shared::new(5).unwrap();
        *first.get_mut().unwrap() = 6;
        let mut second = first.clone();
        assert!(first.get_mut().is_none() && second.get_mut().is_none());
        drop(first);
        *second.get_mut().unwrap() += 1;
        assert_eq!(*second, 7);
        assert!(!second.is_same(&Shared::new(7).unwrap()));
    }

    #[test]
    fn owners_come_and_go_on_all_threads() {
        let n_dropped = AtomicU32::new(0);
        let shared = Shared::new((Noted(&n_dropped), AtomicU32::new(0))).unwrap();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                let own = shared.clone();
                scope.spawn(move || {
                    for _ in 0..1000 {
                        own.clone().1.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
        });
        let mut shared = shared;
        assert_eq!(shared.get_mut().map(|value| *value.1.get_mut()), Some(4000));
        drop(shared);
        assert_eq!(n_dropped.load(Ordering::Relaxed), 1);
    }
}
