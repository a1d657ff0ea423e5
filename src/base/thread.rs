//! What a pool of threads asks of the system: threads, a word to sleep on, the CPUs it may use.
#![allow(unsafe_code, reason = "POSIX threads and Linux futexes: std's own allocate, and abort")]

use std::ffi::c_void;
use std::sync::atomic::AtomicU32;
use std::time::Duration;

use super::error::{Result, err};

/// Stack of a worker. Kernels keep less than 64 KiB on it; the rest is for unwinding a panic.
const STACK_BYTES: usize = 1 << 20;
const KERNEL_STACK_BYTES: usize = 64 << 10;

/// A thread that was started, to be joined.
pub type Thread = libc::pthread_t;

/// What a thread does until it ends.
pub trait Work {
    /// Returns when the thread is to end.
    fn work(&self);
}

extern "C" fn thread_main<W: Work>(worker: *mut c_void) -> *mut c_void {
    // SAFETY: `start` passes a `W`, whose owner keeps it in place until it has joined this thread. Only
    // `&W`s are ever made of it, and its owner answers for sharing it.
    let worker = unsafe { &*worker.cast::<W>() };
    // SAFETY: PR_SET_NAME reads a string of at most 16 bytes with its NUL.
    unsafe { libc::prctl(libc::PR_SET_NAME, c"tern".as_ptr()) };
    take_stack();
    worker.work();
    std::ptr::null_mut()
}

/// Writes to the pages of the stack that kernels will use, so that they are there.
#[inline(never)]
fn take_stack() {
    std::hint::black_box([0u8; KERNEL_STACK_BYTES]);
}

/// Starts a thread for a worker, which errors number so, with the host's signals blocked in it: they are
/// for the host's threads.
///
/// # Safety
/// The worker stays in place until the thread has been joined, and two threads may share it.
pub unsafe fn start<W: Work>(worker: &W, number: usize) -> Result<Thread> {
    // SAFETY: plain calls on local variables, each initialised by the call that is there for it;
    // `worker` stays in place until the thread is joined (see `thread_main`).
    unsafe {
        let mut attr = std::mem::zeroed::<libc::pthread_attr_t>();
        if libc::pthread_attr_init(&mut attr) != 0 {
            return Err(err!(OutOfMemory, "worker {number}: no thread attributes"));
        }
        libc::pthread_attr_setstacksize(&mut attr, STACK_BYTES);
        let mut blocked = std::mem::zeroed::<libc::sigset_t>();
        let mut before = std::mem::zeroed::<libc::sigset_t>();
        libc::sigfillset(&mut blocked);
        // A fault of the worker itself is not the host's signal, and must reach its handler.
        for signal in [libc::SIGSEGV, libc::SIGBUS, libc::SIGFPE, libc::SIGILL, libc::SIGTRAP] {
            libc::sigdelset(&mut blocked, signal);
        }
        libc::pthread_sigmask(libc::SIG_SETMASK, &blocked, &mut before);
        let mut thread = std::mem::zeroed::<libc::pthread_t>();
        let argument = std::ptr::from_ref(worker).cast_mut().cast();
        let rc = libc::pthread_create(&mut thread, &attr, thread_main::<W>, argument);
        libc::pthread_sigmask(libc::SIG_SETMASK, &before, std::ptr::null_mut());
        libc::pthread_attr_destroy(&mut attr);
        if rc != 0 {
            return Err(err!(OutOfMemory, "worker {number}: no thread, errno {rc}"));
        }
        Ok(thread)
    }
}

/// Waits for a thread's end. Each is joined once, by who started it.
pub fn join(thread: Thread) {
    // SAFETY: `start` gave us the thread; its only caller keeps each until it joins it here.
    unsafe { libc::pthread_join(thread, std::ptr::null_mut()) };
}

/// Sleeps until woken, unless the word is not `expected`. May also wake for no reason.
pub fn futex_wait(word: &AtomicU32, expected: u32) {
    let no_timeout = std::ptr::null::<libc::timespec>();
    // SAFETY: the word lives as long as the reference; the kernel only reads it. Any return, also an
    // error, is a wake-up: callers look at the word again.
    unsafe {
        let op = libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG;
        libc::syscall(libc::SYS_futex, word.as_ptr(), op, expected, no_timeout);
    }
}

/// Wakes the thread that sleeps on the word.
pub fn futex_wake(word: &AtomicU32) {
    // SAFETY: the kernel uses the address as a key only.
    unsafe {
        let op = libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG;
        libc::syscall(libc::SYS_futex, word.as_ptr(), op, 1);
    }
}

/// Says that what is waited for is soon there.
pub use std::hint::spin_loop;

/// Lets others go on for a moment: for who waits for what may take long, and is in no hurry.
pub fn pause() {
    std::thread::sleep(Duration::from_micros(50));
}

/// The process that this is.
pub fn pid() -> u32 {
    std::process::id()
}

/// A set of CPUs, by the kernel's numbers.
#[derive(Clone)]
pub struct CpuSet([u64; 128]); // 8192 CPUs, the most that Linux can be built for

impl CpuSet {
    /// The numbers in the set, ascending.
    pub fn iter(&self) -> impl Iterator<Item = usize> + Clone {
        (0..self.0.len() * 64).filter(|cpu| self.0[cpu / 64] >> (cpu % 64) & 1 == 1)
    }
}

/// The CPUs that the calling thread may run on; CPU 0 if the kernel does not say.
pub fn allowed_cpus() -> CpuSet {
    let mut set = CpuSet([0; 128]);
    // SAFETY: the kernel writes at most the given number of bytes, and the type allows any bits.
    // On little-endian machines its array of longs is this array of u64.
    let rc = unsafe { libc::sched_getaffinity(0, size_of_val(&set.0), set.0.as_mut_ptr().cast()) };
    if rc != 0 || set.0.iter().all(|&bits| bits == 0) {
        set.0[0] = 1;
    }
    set
}
