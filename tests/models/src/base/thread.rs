//! In the place of `src/base/thread.rs`: a tool's threads, and futexes made of its locks. A sleeper wakes
//! when it is woken and not otherwise, so that a wake-up that gets lost is a thread that waits for ever,
//! which the tools report.

use std::sync::Arc;

use super::error::Result;
use super::sync::atomic::{AtomicU32, Ordering};

#[cfg(feature = "loom")]
pub use loom::{
    lazy_static,
    sync::{Condvar, Mutex},
    thread::{JoinHandle, spawn, yield_now},
};
#[cfg(feature = "shuttle")]
pub use shuttle::{
    lazy_static,
    sync::{Condvar, Mutex},
    thread::{JoinHandle, spawn, yield_now},
};

pub type Thread = JoinHandle<()>;

pub trait Work {
    fn work(&self);
}

/// # Safety
/// As in tern's own.
pub unsafe fn start<W: Work>(worker: &W, _: usize) -> Result<Thread> {
    let worker = std::ptr::from_ref(worker).addr();
    // SAFETY: the caller keeps the worker in place until it has joined the thread.
    Ok(spawn(move || unsafe { &*std::ptr::with_exposed_provenance::<W>(worker) }.work()))
}

pub fn join(thread: Thread) {
    thread.join().expect("a worker's thread does not panic");
}

/// A tool that went through what a load may see twice would go through it for ever.
pub fn spin_loop() {
    yield_now();
}

pub fn pause() {
    yield_now();
}

pub fn pid() -> u32 {
    std::process::id()
}

lazy_static! {
    /// Who sleeps on which word.
    static ref SLEEPERS: Mutex<Vec<(usize, Arc<Condvar>)>> = Mutex::new(Vec::new());
}

fn at(word: &AtomicU32) -> usize {
    std::ptr::from_ref(word).addr()
}

pub fn futex_wait(word: &AtomicU32, expected: u32) {
    let mut sleepers = SLEEPERS.lock().expect("no panic here");
    // The kernel sees what the word is, and not what it was: what changes a word does.
    if word.fetch_add(0, Ordering::Relaxed) != expected {
        return;
    }
    let found = sleepers.iter().find(|(of, _)| *of == at(word)).map(|(_, bed)| bed.clone());
    let bed = found.unwrap_or_else(|| {
        let bed = Arc::new(Condvar::new());
        sleepers.push((at(word), bed.clone()));
        bed
    });
    drop(bed.wait(sleepers).expect("no panic here"));
}

pub fn futex_wake(word: &AtomicU32) {
    let sleepers = SLEEPERS.lock().expect("no panic here");
    if let Some((_, bed)) = sleepers.iter().find(|(of, _)| *of == at(word)) {
        bed.notify_one();
    }
}
