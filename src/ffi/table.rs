//! Tables of handles. A `tern_xxx *` points at a slot of a static table and is never followed: it is
//! looked up. A stale, foreign or invented pointer is therefore an error, not a crash, and the
//! table it falls in is its type.
//!
//! A handle is the slot's address plus the slot's generation, a small number that changes each
//! time the slot is filled, so that a stale handle is known even after its slot is in use again
//! (until a slot has been refilled [`GENERATIONS`] times; slots are refilled in turn).
//!
//! A slot that is freed while calls are running on it keeps its value until the last of them
//! returns, and is not refilled before. Values live in the table itself, so nothing is allocated.

use std::mem::MaybeUninit;
use std::ops::Deref;

use crate::base::error::{Result, err};
use crate::base::sync::statics::{
    AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Mutex, Ordering, UnsafeCell,
};
use crate::base::sync::{MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard, TryLockError};
use crate::base::thread::pause;
use crate::engine::{Control, Wish};

/// How many handles in a row a slot tells apart; at most the size of a slot in bytes.
const GENERATIONS: u32 = 128;

/// How often a free slot is looked for where others are at it. Each holds a lock for less than a
/// microsecond, so this is more than enough.
const PATIENCE: u32 = 20;

/// What a handle stands for.
pub(super) trait Kind {
    /// What errors call it.
    const NAME: &'static str;
}

/// Slots for the values of one type of handle. Empty, it is all zeros: so the tables, 400 KB, take no
/// room in the library's file, and no memory until they are used.
pub(super) struct Table<T, const N: usize> {
    slots: [Slot<T>; N],
    /// Where the search for a free slot starts, so that slots are refilled in turn.
    next: AtomicUsize,
}

// The alignment keeps each slot on cache lines of its own, and makes room for GENERATIONS.
#[repr(align(128))]
struct Slot<T> {
    state: Mutex<State>,
    /// What the current handle adds to the slot's address.
    generation: AtomicU32,
    /// The process that filled the slot; 0 if its handle was freed.
    pid: AtomicU32,
    /// Stops the work on the value. Outside of it, so that a signal handler can reach it.
    abort: AtomicBool,
    /// The budget that a session shall have from now on; outside for the same reason.
    budget: Wish,
    /// How many parts of its work the value has begun; outside, too.
    progress: AtomicU64,
    value: UnsafeCell<MaybeUninit<T>>,
}

#[derive(Clone, Copy)]
struct State {
    /// The slot holds a value.
    full: bool,
    /// The handle to it is valid: it was not freed.
    live: bool,
    /// Calls that are using the value.
    users: u32,
}

// SAFETY: `value` is written only while the state's lock is held and nobody uses it, and lent as
// `&T` only while `users` is above 0; so a table gives to other threads no more than `T` allows.
unsafe impl<T: Send + Sync> Sync for Slot<T> {}

impl<T> Slot<T> {
    /// Whether the handle of this generation is in the slot, not freed, in the process that put it there.
    fn is_current(&self, generation: u32) -> bool {
        self.generation.load(Ordering::Relaxed) == generation
            && self.pid.load(Ordering::Relaxed) == std::process::id()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing panics under this lock, so a poisoned one has seen no half-made change.
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Empties the slot.
    ///
    /// # Safety
    /// `state` is this slot's, `full`, not `live`, and has no users.
    unsafe fn take(&self, state: &mut State) -> T {
        state.full = false;
        // SAFETY: full, so the value is initialised; nobody uses it; and it is read once, since
        // the slot now counts as empty.
        self.value.with_mut(|cell| unsafe { (*cell).assume_init_read() })
    }
}

impl<T: Kind, const N: usize> Table<T, N> {
    pub(super) const fn new() -> Self {
        assert!(size_of::<Slot<T>>() >= GENERATIONS as usize);
        let slots = [const {
            Slot {
                state: Mutex::new(State { full: false, live: false, users: 0 }),
                generation: AtomicU32::new(0),
                pid: AtomicU32::new(0),
                abort: AtomicBool::new(false),
                budget: Wish::new(),
                progress: AtomicU64::new(0),
                value: UnsafeCell::new(MaybeUninit::uninit()),
            }
        }; N];
        Table { slots, next: AtomicUsize::new(0) }
    }

    /// Puts a value in a free slot, and makes the handle to it.
    pub(super) fn insert<H>(&'static self, value: T) -> Result<*mut H> {
        let start = self.next.fetch_add(1, Ordering::Relaxed) % N;
        let (before, after) = self.slots.split_at(start);
        for _ in 0..PATIENCE {
            let mut is_passed = false;
            for slot in after.iter().chain(before) {
                // A lock that is taken is soon free, and the slot perhaps, too; but in a forked child it
                // may be one that nobody is left to open.
                let Ok(mut state) = slot.state.try_lock() else {
                    is_passed = true;
                    continue;
                };
                if state.full {
                    continue;
                }
                let generation = (slot.generation.load(Ordering::Relaxed) + 1) % GENERATIONS;
                // SAFETY: under the lock, and the slot is empty: nobody uses what is there.
                unsafe { slot.value.with_mut(|cell| (*cell).write(value)) };
                slot.abort.store(false, Ordering::Relaxed);
                slot.budget.clear();
                slot.progress.store(0, Ordering::Relaxed);
                slot.pid.store(std::process::id(), Ordering::Relaxed);
                slot.generation.store(generation, Ordering::Relaxed);
                *state = State { full: true, live: true, users: 0 };
                let slot = std::ptr::from_ref(slot).cast::<u8>();
                return Ok(slot.wrapping_add(generation as usize).cast::<H>().cast_mut());
            }
            if !is_passed {
                break;
            }
            pause();
        }
        Err(err!(Limit, "there are {N} {}s already; free one first", T::NAME))
    }

    /// The value behind a handle; it lives until the caller lets go of it, even if it is freed.
    pub(super) fn get<H>(&'static self, handle: *const H) -> Result<Held<T>> {
        let name = T::NAME;
        if handle.is_null() {
            return Err(err!(InvalidHandle, "{name} is NULL"));
        }
        let Some((slot, generation)) = self.slot(handle) else {
            return Err(err!(InvalidHandle, "{name} is not a tern_{name}"));
        };
        // Before the lock, which in a forked child may be one that nobody is left to open.
        let pid = slot.pid.load(Ordering::Relaxed);
        if pid != 0 && pid != std::process::id() {
            return Err(err!(Forked, "{name} was made by process {pid}, before it forked"));
        }
        let mut state = slot.state();
        if !state.live || slot.generation.load(Ordering::Relaxed) != generation {
            return Err(err!(InvalidHandle, "{name} was freed, or never made"));
        }
        state.users += 1;
        Ok(Held { slot })
    }

    /// Makes a handle invalid, stops what runs on its value, and drops the value: now, or when the
    /// last call on it returns.
    pub(super) fn remove<H>(&'static self, handle: *mut H) {
        let Some((slot, generation)) = self.slot(handle) else { return };
        if slot.pid.load(Ordering::Relaxed) != std::process::id() {
            return; // the parent's; it frees its own
        }
        let mut state = slot.state();
        if !state.live || slot.generation.load(Ordering::Relaxed) != generation {
            return;
        }
        state.live = false;
        slot.pid.store(0, Ordering::Relaxed);
        slot.abort.store(true, Ordering::Relaxed);
        if state.users == 0 {
            // SAFETY: this slot's state; full since it was live; just made not live; no users.
            let value = unsafe { slot.take(&mut state) };
            drop(state); // dropping the value may take long
            drop(value);
        }
    }

    /// The flag that stops the handle's work. Touches nothing but atomics: for signal handlers.
    pub(super) fn abort_flag<H>(&'static self, handle: *const H) -> Option<&'static AtomicBool> {
        let (slot, generation) = self.slot(handle)?;
        slot.is_current(generation).then_some(&slot.abort)
    }

    /// Where a wish for another budget is left. Touches nothing but atomics, too.
    pub(super) fn budget<H>(&'static self, handle: *const H) -> Option<&'static Wish> {
        let (slot, generation) = self.slot(handle)?;
        slot.is_current(generation).then_some(&slot.budget)
    }

    /// How many parts of its work the handle's value has begun. Touches nothing but atomics, too.
    pub(super) fn progress<H>(&'static self, handle: *const H) -> Option<u64> {
        let (slot, generation) = self.slot(handle)?;
        slot.is_current(generation).then(|| slot.progress.load(Ordering::Relaxed))
    }

    /// The slot that a handle points at, and the generation it names.
    fn slot<H>(&'static self, handle: *const H) -> Option<(&'static Slot<T>, u32)> {
        let offset = handle.addr().checked_sub(self.slots.as_ptr().addr())?;
        let slot = self.slots.get(offset / size_of::<Slot<T>>())?;
        let generation = u32::try_from(offset % size_of::<Slot<T>>()).ok()?;
        (generation < GENERATIONS).then_some((slot, generation))
    }
}

/// A value that a call is using.
pub(super) struct Held<T: 'static> {
    slot: &'static Slot<T>,
}

impl<T> Held<T> {
    /// What can interfere with an eval that must be done at `deadline_ns`.
    pub(super) fn control(&self, deadline_ns: u64) -> Control<'static> {
        let Slot { abort, budget, progress, .. } = self.slot;
        Control { abort: Some(abort), deadline_ns, budget: Some(budget), progress: Some(progress) }
    }
}

impl<T> Deref for Held<T> {
    type Target = T;
    fn deref(&self) -> &T {
        // SAFETY: the slot stays full as long as it has users, and this is one.
        self.slot.value.with(|cell| unsafe { (*cell).assume_init_ref() })
    }
}

impl<T> Drop for Held<T> {
    fn drop(&mut self) {
        let mut state = self.slot.state();
        state.users -= 1;
        if state.users == 0 && !state.live {
            // SAFETY: this slot's state; full as long as it had users; not live; no users now.
            let value = unsafe { self.slot.take(&mut state) };
            drop(state);
            drop(value);
        }
    }
}

impl<T> Held<RwLock<T>> {
    /// For a call with a `const` handle: shared with others like it.
    pub(super) fn read(&self) -> Result<RwLockReadGuard<'_, T>> {
        self.try_read().map_err(|e| lock_error(&e))
    }

    /// For a call with a handle that is not `const`: alone.
    pub(super) fn write(&self) -> Result<RwLockWriteGuard<'_, T>> {
        self.try_write().map_err(|e| lock_error(&e))
    }
}

fn lock_error<G>(error: &TryLockError<G>) -> crate::Error {
    match error {
        TryLockError::WouldBlock => err!(Busy, "another call is using the handle"),
        TryLockError::Poisoned(_) => {
            err!(Poisoned, "a bug in tern ended an earlier call on this handle; only free it")
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    impl Kind for u32 {
        const NAME: &'static str = "thing";
    }
    impl Kind for RwLock<u32> {
        const NAME: &'static str = "thing";
    }
    impl Kind for Arc<()> {
        const NAME: &'static str = "thing";
    }

    #[test]
    fn a_stale_handle_is_known_after_its_slot_is_used_again() {
        static TABLE: Table<u32, 2> = Table::new();
        let first: *mut u8 = TABLE.insert(1).unwrap();
        TABLE.remove(first);
        let handles: Vec<*mut u8> = (0..2).map(|i| TABLE.insert(i).unwrap()).collect();
        assert!(!handles.contains(&first));
        assert!(matches!(TABLE.get(first), Err(crate::Error::InvalidHandle(_))));
        assert_eq!(handles.iter().map(|h| *TABLE.get(*h).unwrap()).sum::<u32>(), 1);
        assert!(matches!(TABLE.insert::<u8>(9), Err(crate::Error::Limit(_))));
    }

    #[test]
    fn a_value_freed_in_use_is_dropped_by_its_last_user_and_its_slot_waits() {
        static TABLE: Table<Arc<()>, 1> = Table::new();
        let value = Arc::new(());
        let handle: *mut u8 = TABLE.insert(Arc::clone(&value)).unwrap();
        let held = TABLE.get(handle).unwrap();
        TABLE.remove(handle);
        TABLE.remove(handle);
        assert_eq!(Arc::strong_count(&value), 2);
        assert!(held.slot.abort.load(Ordering::Relaxed), "what runs is told to stop");
        assert!(matches!(TABLE.get(handle), Err(crate::Error::InvalidHandle(_))));
        assert!(TABLE.insert::<u8>(Arc::new(())).is_err());
        drop(held);
        assert_eq!(Arc::strong_count(&value), 1);
        assert!(TABLE.insert::<u8>(Arc::new(())).is_ok());
    }

    #[test]
    fn only_the_address_that_was_given_is_a_handle() {
        static TABLE: Table<u32, 4> = Table::new();
        let handle: *mut u8 = TABLE.insert(7).unwrap();
        let size = size_of::<Slot<u32>>();
        let valid = (0..4 * size + 64)
            .filter(|i| {
                let base = std::ptr::from_ref(&TABLE.slots).cast::<u8>().wrapping_sub(32);
                TABLE.get(base.wrapping_add(*i)).is_ok()
            })
            .count();
        assert_eq!(valid, 1);
        assert!(TABLE.get(handle).is_ok());
    }

    #[test]
    fn one_writer_or_many_readers_and_a_panic_poisons() {
        static TABLE: Table<RwLock<u32>, 4> = Table::new();
        let handle: *mut u8 = TABLE.insert(RwLock::new(7)).unwrap();
        let held = TABLE.get(handle).unwrap();
        {
            let (_a, _b) = (held.read().unwrap(), held.read().unwrap());
            assert!(matches!(held.write(), Err(crate::Error::Busy(_))));
        }
        let _ = std::panic::catch_unwind(|| {
            let _writer = TABLE.get(handle).unwrap();
            let _guard = _writer.write().unwrap();
            panic!("injected");
        });
        assert!(matches!(held.read(), Err(crate::Error::Poisoned(_))));
        assert!(matches!(held.write(), Err(crate::Error::Poisoned(_))));
    }
}
