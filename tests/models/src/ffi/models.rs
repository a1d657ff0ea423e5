//! Models of the tables of handles.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::table::{Kind, Table};
use crate::base::error::Error;
use crate::base::sync::{RwLock, UnsafeCell};
use crate::base::thread::spawn;

/// A value that notices whoever uses it while it goes, and counts how many have gone.
struct Thing {
    number: u32,
    used: UnsafeCell<u32>,
    gone: Arc<AtomicUsize>,
}

impl Thing {
    fn new(number: u32, gone: &Arc<AtomicUsize>) -> Thing {
        Thing { number, used: UnsafeCell::new(number), gone: gone.clone() }
    }

    fn number(&self) -> u32 {
        // SAFETY: it changes when it goes, which is what the tool looks for.
        assert_eq!(self.used.with(|used| unsafe { *used }), self.number, "it has gone");
        self.number
    }
}

impl Drop for Thing {
    fn drop(&mut self) {
        // SAFETY: it goes: nobody uses it, or the tool says who does.
        self.used.with_mut(|used| unsafe { *used = u32::MAX });
        self.gone.fetch_add(1, Ordering::Relaxed);
    }
}

// SAFETY: `used` is read by users, and written when the last of them has gone: that is what is tested.
unsafe impl Sync for Thing {}

impl Kind for Thing {
    const NAME: &'static str = "thing";
}
impl Kind for RwLock<Thing> {
    const NAME: &'static str = "thing";
}

/// Handles, as numbers that can be sent to threads.
fn handle(number: usize) -> *mut u8 {
    std::ptr::with_exposed_provenance_mut(number)
}

type Things<const N: usize> = &'static Table<Thing, N>;

fn table<const N: usize>() -> Things<N> {
    let things: Things<N> = Box::leak(Box::new(Table::new())); // handles are of tables that stay for ever
    let all: Vec<usize> = (0..N).map(|_| put(things, 0, &gone())).collect();
    all.into_iter().for_each(|each| things.remove(handle(each))); // each slot was used
    things
}

fn put<const N: usize>(things: Things<N>, number: u32, gone: &Arc<AtomicUsize>) -> usize {
    things.insert::<u8>(Thing::new(number, gone)).expect("room").expose_provenance()
}

fn gone() -> Arc<AtomicUsize> {
    Arc::new(AtomicUsize::new(0))
}

/// `n_users` threads use a handle while it is freed and its slot is used again: they get its value, or are
/// told that it was freed, and never get the next value; each value goes once, after its last user.
pub fn a_handle_is_freed_in_use(n_users: usize) {
    let things = table::<1>();
    let dropped = gone();
    let first = put(things, 1, &dropped);
    let users: Vec<_> = (0..n_users)
        .map(|_| {
            spawn(move || match things.get(handle(first)) {
                Ok(held) => assert_eq!(held.number(), 1),
                Err(error) => assert!(matches!(error, Error::InvalidHandle(_))),
            })
        })
        .collect();
    things.remove(handle(first));
    let second = things.insert::<u8>(Thing::new(2, &dropped)).map(|h| h.expose_provenance());
    if let Ok(second) = second {
        assert_ne!(first, second);
        assert_eq!(things.get(handle(second)).expect("just made").number(), 2);
        assert!(things.get(handle(first)).is_err());
    }
    users.into_iter().for_each(|user| user.join().expect("no panic"));
    assert_eq!(dropped.load(Ordering::Relaxed), if second.is_ok() { 1 } else { 2 });
    if let Ok(second) = second {
        things.remove(handle(second));
        assert_eq!(dropped.load(Ordering::Relaxed), 2);
    }
    put(things, 3, &dropped); // the slot is free again
}

/// Two threads free the same handle: its value goes once, and not the one that comes after it.
pub fn a_handle_is_freed_twice(n_freers: usize) {
    let things = table::<1>();
    let dropped = gone();
    let first = put(things, 1, &dropped);
    let freers: Vec<_> =
        (0..n_freers).map(|_| spawn(move || things.remove(handle(first)))).collect();
    things.remove(handle(first));
    let second = put(things, 2, &dropped);
    freers.into_iter().for_each(|freer| freer.join().expect("no panic"));
    assert_eq!(dropped.load(Ordering::Relaxed), 1);
    assert_eq!(things.get(handle(second)).expect("not freed").number(), 2);
    things.remove(handle(second));
    assert_eq!(dropped.load(Ordering::Relaxed), 2);
}

/// Threads make handles at once: each is another one, and there is room for as many as there are slots.
pub fn handles_are_made_at_once(n_makers: usize) {
    let things = table::<2>();
    let dropped = gone();
    let makers: Vec<_> = (0..n_makers)
        .map(|i| {
            let dropped = dropped.clone();
            spawn(move || {
                let made = things.insert::<u8>(Thing::new(i as u32, &dropped));
                if let Ok(made) = &made {
                    assert_eq!(things.get(*made).expect("just made").number(), i as u32);
                }
                made.ok().map(|made| made.expose_provenance())
            })
        })
        .collect();
    let mut made: Vec<usize> =
        makers.into_iter().filter_map(|maker| maker.join().expect("no panic")).collect();
    assert_eq!(made.len(), n_makers.min(2));
    made.iter().for_each(|made| assert!(things.get(handle(*made)).is_ok()));
    let n = made.len();
    made.sort_unstable();
    made.dedup();
    assert_eq!(made.len(), n);
    made.iter().for_each(|made| things.remove(handle(*made)));
    assert_eq!(dropped.load(Ordering::Relaxed), n_makers);
}

/// Of two calls that want a value for themselves one is told that it is busy, and is not let in.
pub fn one_call_has_a_value_for_itself() {
    let things: &'static Table<RwLock<Thing>, 1> = Box::leak(Box::new(Table::new()));
    let dropped = gone();
    let made = things.insert::<u8>(RwLock::new(Thing::new(1, &dropped))).expect("room");
    let made = made.expose_provenance();
    drop(things.get(handle(made)));
    let call = move || {
        let held = things.get(handle(made)).expect("not freed");
        let thing = held.write();
        match thing {
            // SAFETY: the lock is what is tested.
            Ok(thing) => thing.used.with_mut(|used| unsafe { *used += 1 }),
            Err(error) => {
                assert!(matches!(error, Error::Busy(_)));
                return 0;
            }
        }
        1
    };
    let other = spawn(call);
    let n = call() + other.join().expect("no panic");
    let held = things.get(handle(made)).expect("not freed");
    let thing = held.read().expect("nobody else");
    // SAFETY: as above.
    assert_eq!(thing.used.with(|used| unsafe { *used }), 1 + n);
    assert!(n >= 1);
}
