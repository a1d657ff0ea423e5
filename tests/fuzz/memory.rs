//! An allocator that runs dry where the input says, and counts what is held.
#![allow(unsafe_code, reason = "a global allocator")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::fmt::Debug;
use std::sync::atomic::{AtomicBool, AtomicIsize, AtomicUsize, Ordering::Relaxed};

use tern::{Error, Result};

/// The system's allocator, which refuses what a target's input tells it to: of all threads, for the
/// library starts its own.
pub struct Allocator;

/// Whether tern is being called, and its allocations count.
static COUNTS: AtomicBool = AtomicBool::new(false);
/// Allocations that still succeed; all do while it is `usize::MAX`.
static LEFT: AtomicUsize = AtomicUsize::new(usize::MAX);
/// Whether all later ones fail too.
static FOR_GOOD: AtomicBool = AtomicBool::new(false);
static HAS_FAILED: AtomicBool = AtomicBool::new(false);
static HELD: AtomicIsize = AtomicIsize::new(0);
static MOST: AtomicIsize = AtomicIsize::new(0);

/// Bytes that any input may take on the heap. What a library may take for a file is as much as the
/// file and 64 MiB; the largest files of the targets have one.
const LIMIT: isize = 66 << 20;

fn is_refused() -> bool {
    if !COUNTS.load(Relaxed) {
        return false;
    }
    let next = |left: usize| match left {
        usize::MAX => None,
        0 if FOR_GOOD.load(Relaxed) => Some(0),
        left => Some(left.wrapping_sub(1)), // behind 0, once it has failed, all succeed
    };
    let is_refused = LEFT.fetch_update(Relaxed, Relaxed, next) == Ok(0);
    if is_refused {
        HAS_FAILED.store(true, Relaxed);
    }
    is_refused
}

fn count(bytes: isize) {
    let held = HELD.fetch_add(bytes, Relaxed) + bytes;
    MOST.fetch_max(held, Relaxed);
}

// SAFETY: every call is passed on unchanged, or fails as an allocator may.
unsafe impl GlobalAlloc for Allocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if is_refused() {
            return std::ptr::null_mut();
        }
        count(layout.size() as isize);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(-(layout.size() as isize));
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(pointer, layout) }
    }
    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        if is_refused() {
            return std::ptr::null_mut();
        }
        count(size as isize - layout.size() as isize);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

/// Runs a target on one input, and checks that it did not take too much.
pub fn bounded(run: impl FnOnce()) {
    let before = HELD.load(Relaxed);
    MOST.store(before, Relaxed);
    run();
    let most = MOST.load(Relaxed) - before;
    assert!(most <= LIMIT, "{most} bytes of memory at once, expected at most {LIMIT}");
}

/// Takes from the end of an input which allocation fails: its number, then whether all after it do.
/// Those of the calls of [`within`] count.
pub fn plan(input: &[u8]) -> &[u8] {
    let Some((rest, [low, high, mode])) = input.split_last_chunk() else { return input };
    LEFT.store(usize::from(u16::from_le_bytes([*low, *high])), Relaxed);
    FOR_GOOD.store(mode & 1 == 1, Relaxed);
    rest
}

/// From now on everything succeeds.
pub fn end_plan() {
    LEFT.store(usize::MAX, Relaxed);
}

/// Calls tern. Only its allocations fail, never those of a target.
pub fn within<T>(call: impl FnOnce() -> T) -> T {
    COUNTS.store(true, Relaxed);
    let result = call();
    COUNTS.store(false, Relaxed);
    result
}

/// Runs what a target does itself while tern is being called.
pub fn outside<T>(own: impl FnOnce() -> T) -> T {
    let counts = COUNTS.swap(false, Relaxed);
    let result = own();
    COUNTS.store(counts, Relaxed);
    result
}

/// Whether an allocation has failed since this was last asked.
pub fn has_failed() -> bool {
    HAS_FAILED.swap(false, Relaxed)
}

/// Makes a call of tern, and, if an allocation failed, the same one again with memory: the first must
/// have said so or done without, and given the same. `is_same` compares what they give.
pub fn call<T>(mut f: impl FnMut() -> Result<T>, is_same: impl Fn(&T, &T) -> bool) -> Result<T> {
    has_failed();
    let starved = within(&mut f);
    if !has_failed() {
        return starved;
    }
    let again = outside(f); // does not count
    match (&starved, &again) {
        (Err(Error::OutOfMemory(_)), _) => {}
        (Ok(a), Ok(b)) => assert!(is_same(a, b), "another result after an allocation failed"),
        (Err(a), Err(b)) if a.name() == b.name() => {}
        (a, b) => {
            let code = |r: &Result<T>| r.as_ref().err().map(|e| e.to_string());
            panic!("after an allocation failed {:?}, else {:?}", code(a), code(b));
        }
    }
    again
}

/// The same for what can be compared by itself.
pub fn call_eq<T: PartialEq + Debug>(f: impl FnMut() -> Result<T>) -> Result<T> {
    call(f, |a, b| a == b)
}

/// Whether two calls came to the same: an error without memory for its sentence is what it was.
pub fn are_same<T: PartialEq>(a: &Result<T>, b: &Result<T>) -> bool {
    match (a, b) {
        (Ok(a), Ok(b)) => a == b,
        (Err(a), Err(b)) => a.name() == b.name(),
        _ => false,
    }
}
