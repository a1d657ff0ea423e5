//! An allocator that counts what a thread takes and gives back, and can run dry.
//!
//! A test program installs it with
//! `#[global_allocator] static ALLOCATOR: Counting = Counting;`.
#![allow(unsafe_code, reason = "a global allocator")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

/// The system's allocator, with counts for each thread, so that tests can run side by side.
pub struct Counting;

thread_local! {
    static NOW: Cell<isize> = const { Cell::new(0) };
    static PEAK: Cell<isize> = const { Cell::new(0) };
    /// Allocations that still succeed; all do while it is `usize::MAX`.
    static LEFT: Cell<usize> = const { Cell::new(usize::MAX) };
}

/// Whether an allocation may succeed.
fn has_memory() -> bool {
    let left = LEFT.try_with(Cell::get).unwrap_or(usize::MAX);
    if left != usize::MAX && left > 0 {
        LEFT.set(left - 1);
    }
    left > 0
}

fn count(bytes: isize) {
    // Fails only while the thread ends; nobody measures then.
    let _ = NOW.try_with(|now| {
        now.set(now.get() + bytes);
        let _ = PEAK.try_with(|peak| peak.set(peak.get().max(now.get())));
    });
}

// SAFETY: every call is passed on unchanged, or fails as an allocator may; counting touches plain thread-local cells only.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if !has_memory() {
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
        if !has_memory() {
            return std::ptr::null_mut();
        }
        // As if the block moved: for a moment there are two.
        count(size as isize);
        count(-(layout.size() as isize));
        // SAFETY: the caller's promise is passed on.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

/// Most bytes that `f` held at once on this thread, beyond what was held before.
pub fn peak_bytes<T>(f: impl FnOnce() -> T) -> (T, usize) {
    let before = NOW.get();
    PEAK.set(before);
    let result = f();
    (result, (PEAK.get() - before) as usize)
}

/// Runs `f` on a thread that has memory for `n` allocations, and for none after them.
///
/// Code that cannot bear that ends the process, which no test survives.
pub fn with_allocations<T>(n: usize, f: impl FnOnce() -> T) -> T {
    LEFT.set(n);
    let result = f();
    LEFT.set(usize::MAX);
    result
}
