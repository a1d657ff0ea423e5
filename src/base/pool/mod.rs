//! The threads: fork, join, bounded spin, then sleep. A worker's panic comes back as an error.
//!
//! Why our own: a token is about 150 phases of 10 to 100 microseconds, and a general pool takes as
//! long to hand one out. Here a job costs one store for each worker, and nothing is allocated.
//!
//! Each worker has one word, its state, which is also what it sleeps on:
//! ```text
//!             caller: publish              worker: claim                worker: done
//!   IDLE ------------------------> READY ------------------> RUNNING ----------------> IDLE
//!    | ^                             |                         |  caller has spun enough
//!    v | woken                       v caller: take back       v
//!  ASLEEP                          IDLE                     AWAITED (done wakes the caller)
//! ```
//! When the caller has finished its own share, it takes back the shares that no worker has begun and
//! does them itself. So a worker that the system has no core for delays nobody: eight threads on two
//! cores are about as fast as two. Therefore a job must not wait for another worker of the same job.
#![allow(unsafe_code, reason = "starts threads that borrow from a frame that outlives their work")]

mod beside;
mod columns;
mod split;
mod tune;

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::clock::now_ns;
use super::cpu::Cores;
use super::error::{Result, Sentence, err};
use super::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use super::sync::{Mutex, UnsafeCell};
use super::thread::{Thread, Work, futex_wait, futex_wake, join, pid, spin_loop, start};

pub use self::columns::{Columns, Width};
use self::split::Part;
pub use self::tune::Tuner;

/// More than any machine with one memory profits from.
pub const MAX_THREADS: usize = 256;

/// How long a thread spins before it sleeps: longer than the gap between two phases of a token,
/// shorter than anyone would notice. Source of the range (20 to 50 us): measurements of barriers in
/// decoding on Cortex-A76 and x86-64.
pub const SPIN_NS: u64 = 30_000;

const IDLE: u32 = 0;
const ASLEEP: u32 = 1;
const READY: u32 = 2;
const RUNNING: u32 = 3;
const AWAITED: u32 = 4;
const EXIT: u32 = 5;

type Job = *const (dyn Fn(usize) + Sync + 'static);

/// One worker's word. Two cache lines to itself, as CPUs fetch pairs of them.
#[repr(align(128))]
struct Worker {
    state: AtomicU32,
    index: usize,
    shared: *const Shared,
}

/// What the caller and the workers share; at one address as long as any of them runs.
struct Shared {
    /// Written by the caller while no worker is READY, RUNNING or AWAITED; read by workers that
    /// have just become RUNNING.
    job: UnsafeCell<Option<Job>>,
    /// What the first panic of the job said.
    panic: Mutex<Option<Sentence>>,
    /// How long threads of a row of jobs spin before they sleep.
    spin_ns: AtomicU64,
    n_sleeps: AtomicU64,
}

/// Worker threads, and the caller as the first of them.
///
/// One job runs at a time: a second one, from another thread or from inside a job, is `Busy`.
pub struct Pool {
    shared: Vec<Shared>,  // one; a Vec because its memory can be asked for fallibly
    workers: Vec<Worker>, // n_threads - 1
    threads: Vec<Thread>,
    parts: Vec<Part>, // n_threads: what each has of a job that is shared out so
    running: AtomicBool,
    n_active: AtomicUsize,
    n_shared_jobs: AtomicU64,
    may_spin: bool,
    pid: u32,
}

// SAFETY: the raw pointers in `workers` lead to `shared`, which lives until `drop` has joined the
// threads; `job` is passed on by the states' acquire and release (see `Shared`); `running` keeps
// all but one caller out.
unsafe impl Send for Pool {}
// SAFETY: as above.
unsafe impl Sync for Pool {}

impl Pool {
    /// A pool of `n_threads`, the caller included. Workers inherit the affinity and the scheduling
    /// policy of the thread that calls this, and take no signals from the host.
    ///
    /// Fails with `InvalidArgument` for 0, `Limit` above [`MAX_THREADS`], `OutOfMemory` if a thread
    /// cannot be started.
    pub fn new(n_threads: usize) -> Result<Pool> {
        if n_threads == 0 {
            return Err(err!(InvalidArgument, "0 threads, expected at least 1"));
        }
        if n_threads > MAX_THREADS {
            return Err(err!(Limit, "{n_threads} threads, at most {MAX_THREADS}"));
        }
        let n_workers = n_threads - 1;
        // Who shares a core with the thread it waits for must not spin.
        let may_spin = n_threads <= Cores::count().all;
        let mut pool = Pool {
            shared: reserve(1)?,
            workers: reserve(n_workers)?,
            threads: reserve(n_workers)?,
            parts: reserve(n_threads)?,
            running: AtomicBool::new(false),
            n_active: AtomicUsize::new(n_threads),
            n_shared_jobs: AtomicU64::new(0),
            may_spin,
            pid: pid(),
        };
        pool.shared.push(Shared {
            job: UnsafeCell::new(None),
            panic: Mutex::new(None),
            spin_ns: AtomicU64::new(0),
            n_sleeps: AtomicU64::new(0),
        });
        pool.parts.resize_with(n_threads, Part::new); // within what was reserved
        let shared = pool.shared.as_ptr();
        for index in 1..n_threads {
            pool.workers.push(Worker { state: AtomicU32::new(IDLE), index, shared });
        }
        for worker in &pool.workers {
            // Dropping `pool` ends the threads started so far.
            // SAFETY: `workers` is not moved or added to any more, and `drop` joins the thread first. Of
            // a worker only its word is written, which is atomic, and `shared` is `Sync` in effect.
            let thread = unsafe { start(worker, worker.index) }?;
            pool.threads.push(thread);
        }
        pool.set_spin(SPIN_NS);
        Ok(pool)
    }

    /// How many threads there are, the caller included.
    pub fn n_threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// How many threads the next job will use.
    pub fn n_active(&self) -> usize {
        self.n_active.load(Ordering::Relaxed)
    }

    /// Begins a row of jobs that use only the first `n` threads (at least 1, at most all). Asking
    /// for the process once for all of them, and not for each, saves as many system calls.
    ///
    /// Fails with `Forked` in a child of the process that made the pool.
    pub fn begin(&self, n: usize) -> Result<()> {
        if pid() != self.pid {
            return Err(err!(Forked, "the threads stayed in the process that made them"));
        }
        self.n_active.store(n.clamp(1, self.n_threads()), Ordering::Relaxed);
        Ok(())
    }

    /// How long threads spin from now on before they sleep, in nanoseconds: about as long as one may
    /// have to wait for the others. Ignored where there are more threads than cores.
    pub fn set_spin(&self, ns: u64) {
        let ns = if self.may_spin { ns } else { 0 };
        self.shared[0].spin_ns.store(ns, Ordering::Relaxed);
    }

    /// How many jobs several threads have shared so far: what each costs is that all wait for all.
    pub fn n_shared_jobs(&self) -> u64 {
        self.n_shared_jobs.load(Ordering::Relaxed)
    }

    /// How often a thread has gone to sleep so far, as there was no work or another was not done.
    pub fn n_sleeps(&self) -> u64 {
        self.shared[0].n_sleeps.load(Ordering::Relaxed)
    }

    /// Calls `f(worker)` once for each worker below [`n_active`](Self::n_active), and returns when
    /// all calls have. Calls of two workers may follow each other on one thread, so `f` must not
    /// wait for another worker. Never allocates.
    ///
    /// Fails with `Internal` if a call panicked, `Busy` if the pool is running a job already.
    pub fn run(&self, f: &(dyn Fn(usize) + Sync)) -> Result<()> {
        self.run_first(self.n_active(), &|| {}, f)
    }

    /// As [`run`](Self::run), for the first `n` workers only. `before` is called when no other job
    /// runs any more and this one does not yet.
    // One copy for all jobs: it takes a kilobyte, and a job microseconds.
    #[inline(never)]
    fn run_first(&self, n: usize, before: &dyn Fn(), f: &(dyn Fn(usize) + Sync)) -> Result<()> {
        if self.running.swap(true, Ordering::Acquire) {
            return Err(err!(Busy, "the threads are running another job"));
        }
        before();
        let shared = &self.shared[0];
        let active = &self.workers[..n.saturating_sub(1).min(self.workers.len())];
        if !active.is_empty() {
            self.n_shared_jobs.fetch_add(1, Ordering::Relaxed);
            // SAFETY: only the lifetime changes. No worker uses the pointer after this call: below,
            // each is waited for, or its share is taken back before it has begun.
            let job = unsafe { std::mem::transmute::<&(dyn Fn(usize) + Sync), Job>(f) };
            // SAFETY: `running` is ours, and no worker has a share: nobody else touches the cell.
            unsafe { shared.job.with_mut(|cell| *cell = Some(job)) };
            for worker in active {
                if worker.state.swap(READY, Ordering::Release) == ASLEEP {
                    futex_wake(&worker.state);
                }
            }
        }
        shared.call(f, 0);
        for worker in active {
            if worker.take_back() {
                shared.call(f, worker.index);
            }
        }
        for worker in active {
            worker.wait_until_done(shared);
        }
        let panic = shared.panic.lock().unwrap_or_else(|p| p.into_inner()).take();
        self.running.store(false, Ordering::Release);
        match panic {
            None => Ok(()),
            Some(text) => Err(err!(Internal, "a worker panicked: {}", text.as_str())),
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        if pid() != self.pid {
            return; // a forked child: it has no such threads to end
        }
        for worker in &self.workers {
            if worker.state.swap(EXIT, Ordering::Release) == ASLEEP {
                futex_wake(&worker.state);
            }
        }
        for thread in self.threads.drain(..) {
            join(thread);
        }
    }
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Pool({} of {} threads)", self.n_active(), self.n_threads())
    }
}

impl Shared {
    fn spin_ns(&self) -> u64 {
        self.spin_ns.load(Ordering::Relaxed)
    }

    /// Sleeps until woken, unless the word is not `expected`.
    fn sleep(&self, word: &AtomicU32, expected: u32) {
        self.n_sleeps.fetch_add(1, Ordering::Relaxed);
        futex_wait(word, expected);
    }

    /// Runs one share; notes what it says if it panics.
    fn call(&self, f: &(dyn Fn(usize) + Sync), worker: usize) {
        // What a panic leaves half-done is the caller's `out`, and the caller gets the error.
        if let Err(payload) = catch_unwind(AssertUnwindSafe(|| f(worker))) {
            let text = match (payload.downcast_ref::<&str>(), payload.downcast_ref::<String>()) {
                (Some(text), _) => text,
                (_, Some(text)) => text.as_str(),
                _ => "no message",
            };
            let mut first = self.panic.lock().unwrap_or_else(|p| p.into_inner());
            first.get_or_insert(Sentence::new(format_args!("{text}")));
            // Dropping the payload could panic again, and end the process.
            std::mem::forget(payload);
        }
    }
}

impl Work for Worker {
    /// The life of a worker thread.
    fn work(&self) {
        // SAFETY: `Pool` frees `shared` only after it has joined this thread.
        let shared = unsafe { &*self.shared };
        loop {
            match self.state.compare_exchange(READY, RUNNING, Ordering::Acquire, Ordering::Acquire)
            {
                Ok(_) => {
                    // SAFETY: the caller wrote the cell before READY, and writes it again only
                    // after this worker is IDLE.
                    if let Some(job) = shared.job.with(|cell| unsafe { *cell }) {
                        // SAFETY: `run` does not return, so the closure lives, until this worker is
                        // IDLE.
                        shared.call(unsafe { &*job }, self.index);
                    }
                    // Not IDLE if the pool is being dropped, which waits for no job: but `drop` has
                    // the pool alone, so no job is running then.
                    if self.state.swap(IDLE, Ordering::Release) == AWAITED {
                        futex_wake(&self.state);
                    }
                }
                Err(EXIT) => return,
                Err(_) => self.wait_for_work(shared),
            }
        }
    }
}

impl Worker {
    /// Returns when there may be work: spins, then sleeps.
    fn wait_for_work(&self, shared: &Shared) {
        spin_loop(); // it has just looked
        let is_idle = || self.state.load(Ordering::Relaxed) == IDLE;
        if !spin_while(is_idle, shared.spin_ns()) {
            return;
        }
        let (ok, no) = (Ordering::Relaxed, Ordering::Relaxed);
        if matches!(self.state.compare_exchange(IDLE, ASLEEP, ok, no), Ok(_) | Err(ASLEEP)) {
            // Whoever changes the state from ASLEEP wakes us; if that has happened already, the
            // call returns at once.
            shared.sleep(&self.state, ASLEEP);
        }
    }

    /// Takes the share from a worker that has not begun it.
    fn take_back(&self) -> bool {
        let (ok, no) = (Ordering::Relaxed, Ordering::Relaxed);
        self.state.compare_exchange(READY, IDLE, ok, no).is_ok()
    }

    /// Returns when the worker has finished its share: spins, then sleeps.
    fn wait_until_done(&self, shared: &Shared) {
        spin_while(|| self.state.load(Ordering::Relaxed) == RUNNING, shared.spin_ns());
        loop {
            // Acquire, so that what the worker wrote is seen here.
            match self.state.compare_exchange(
                RUNNING,
                AWAITED,
                Ordering::Acquire,
                Ordering::Acquire,
            ) {
                Ok(_) | Err(AWAITED) => shared.sleep(&self.state, AWAITED),
                Err(_) => return,
            }
        }
    }
}

fn reserve<T>(n: usize) -> Result<Vec<T>> {
    let mut items = Vec::new();
    match items.try_reserve_exact(n) {
        Ok(()) => Ok(items),
        Err(_) => Err(err!(OutOfMemory, "threads: {n} control blocks")),
    }
}

/// Spins while `wait` holds, for at most about `ns`; returns whether it still holds.
fn spin_while(wait: impl Fn() -> bool, ns: u64) -> bool {
    let mut start = None;
    loop {
        for _ in 0..64 {
            if !wait() {
                return false;
            }
            if ns == 0 {
                return true;
            }
            spin_loop();
        }
        let now = now_ns();
        if now.wrapping_sub(*start.get_or_insert(now)) >= ns {
            return true;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::error::Error;
    use std::time::{Duration, Instant};

    #[test]
    fn every_worker_runs_once() {
        for n in 1..=8 {
            let pool = Pool::new(n).unwrap();
            assert_eq!(pool.n_threads(), n);
            let calls: Vec<AtomicUsize> = (0..n).map(|_| AtomicUsize::new(0)).collect();
            for _ in 0..100 {
                pool.run(&|worker| {
                    calls[worker].fetch_add(1, Ordering::Relaxed);
                })
                .unwrap();
            }
            assert!(calls.iter().all(|c| c.load(Ordering::Relaxed) == 100));
        }
    }

    #[test]
    fn every_row_is_written_once() {
        for n_threads in [1, 2, 3, 5] {
            let pool = Pool::new(n_threads).unwrap();
            for n_rows in [0, 1, 2, 7, 64, 1001] {
                for row_len in [1, 3, 16] {
                    for grain in [0, 1, 2, 5, 64, usize::MAX] {
                        let mut out = vec![0u32; n_rows * row_len];
                        pool.rows(&mut out, row_len, grain, |worker, first, rows| {
                            assert!(worker < n_threads);
                            assert!(rows.len() % row_len == 0 && !rows.is_empty());
                            assert!(rows.len() / row_len <= grain.max(1));
                            for (i, x) in rows.iter_mut().enumerate() {
                                *x += (first * row_len + i) as u32 + 1;
                            }
                        })
                        .unwrap();
                        assert!(out.iter().enumerate().all(|(i, &x)| x == i as u32 + 1));
                    }
                }
            }
        }
    }

    #[test]
    fn every_column_is_written_once() {
        let pool = Pool::new(3).unwrap();
        for n_rows in [0, 1, 5] {
            for n_cols in [0, 1, 3, 17, 256] {
                for grain in [0, 1, 4, 1000] {
                    let mut out = vec![0usize; n_rows * n_cols];
                    pool.columns(&mut out, Width::dense(n_cols), grain, |_, columns| {
                        let (first, grain) = (columns.first(), grain.max(1));
                        assert!(columns.len() > 0 && first % grain == 0);
                        assert!(columns.len() % grain == 0 || first + columns.len() == n_cols);
                        assert_eq!(columns.n_rows(), n_rows);
                        for row in 0..n_rows {
                            let (first, len) = (columns.first(), columns.len());
                            let part = columns.row_mut(row);
                            assert_eq!(part.len(), len);
                            for (i, x) in part.iter_mut().enumerate() {
                                *x += row * n_cols + first + i + 1;
                            }
                        }
                    })
                    .unwrap();
                    assert!(out.iter().enumerate().all(|(i, &x)| x == i + 1));
                }
            }
        }
    }

    #[test]
    fn a_matrix_of_broken_rows_is_refused() {
        let pool = Pool::new(2).unwrap();
        let error = pool.rows(&mut [0u8; 7], 3, 1, |_, _, _| {}).unwrap_err();
        assert!(matches!(error, Error::Internal(_)), "{error}");
        assert!(pool.columns(&mut [0u8; 7], Width::dense(0), 1, |_, _| {}).is_err());
        assert!(pool.rows(&mut [0u8; 0], 0, 1, |_, _, _| panic!("no rows")).is_ok());
    }

    #[test]
    fn columns_of_a_matrix_in_one_hand() {
        let mut out = [0; 12];
        let mut columns = Columns::new(&mut out, 4, 1..3);
        columns.row_mut(0).fill(1);
        columns.row_mut(2).fill(2);
        assert!(catch_unwind(AssertUnwindSafe(|| columns.row_mut(3)[0])).is_err());
        assert_eq!(out, [0, 1, 1, 0, 0, 0, 0, 0, 0, 2, 2, 0]);
        assert!(catch_unwind(|| Columns::new(&mut [0; 4], 4, 3..5).len()).is_err());
    }

    /// More threads than cores, jobs of no length: the case in which spinning pools stand still.
    #[test]
    fn tiny_jobs_on_few_cores_are_fast() {
        for n_threads in [1, 2, 4, 8] {
            let pool = Pool::new(n_threads).unwrap();
            let sum = AtomicUsize::new(0);
            let start = Instant::now();
            for _ in 0..10_000 {
                pool.run(&|worker| {
                    sum.fetch_add(worker + 1, Ordering::Relaxed);
                })
                .unwrap();
            }
            let took = start.elapsed();
            assert_eq!(sum.into_inner(), 10_000 * n_threads * (n_threads + 1) / 2);
            assert!(took < Duration::from_secs(20), "{n_threads} threads: {took:?}");
            eprintln!("{n_threads} threads: {:?} a job", took / 10_000);
        }
    }

    /// Jobs with pauses in which all go to sleep, and jobs that keep the caller waiting.
    #[test]
    fn sleepers_wake() {
        let pool = Pool::new(4).unwrap();
        let sum = AtomicUsize::new(0);
        for round in 0..200 {
            if round % 3 == 0 {
                std::thread::sleep(Duration::from_micros(300));
            }
            pool.run(&|worker| {
                if worker == round % 4 {
                    std::thread::sleep(Duration::from_micros(200));
                }
                sum.fetch_add(1, Ordering::Relaxed);
            })
            .unwrap();
        }
        assert_eq!(sum.into_inner(), 800);
    }

    #[test]
    fn a_panic_is_an_error_and_the_pool_lives_on() {
        struct Bomb;
        impl Drop for Bomb {
            fn drop(&mut self) {
                panic!("a payload that panics when dropped");
            }
        }
        let pool = Pool::new(3).unwrap();
        for bad in 0..3 {
            let error = pool.run(&|worker| assert!(worker != bad, "row {bad}")).unwrap_err();
            assert!(matches!(error, Error::Internal(_)), "{error}");
            assert!(error.message().ends_with(&format!("row {bad}")), "{error}");
        }
        let error = pool.run(&|_| std::panic::panic_any(Bomb)).unwrap_err();
        assert!(error.message().ends_with("no message"), "{error}");
        pool.run(&|_| {}).unwrap();
    }

    #[test]
    fn a_job_inside_a_job_is_busy() {
        let pool = Pool::new(2).unwrap();
        let busy = AtomicUsize::new(0);
        pool.run(&|_| {
            if matches!(pool.run(&|_| {}), Err(Error::Busy(_))) {
                busy.fetch_add(1, Ordering::Relaxed);
            }
        })
        .unwrap();
        assert_eq!(busy.into_inner(), 2);
        pool.run(&|_| {}).unwrap();
    }

    #[test]
    fn a_limit_leaves_workers_out() {
        let pool = Pool::new(4).unwrap();
        let highest = |n| {
            pool.begin(n).unwrap();
            let highest = AtomicUsize::new(0);
            pool.run(&|worker| {
                highest.fetch_max(worker, Ordering::Relaxed);
            })
            .unwrap();
            highest.into_inner()
        };
        assert_eq!(highest(2), 1);
        assert_eq!(highest(0), 0);
        assert_eq!(highest(99), 3);
    }

    #[test]
    fn bad_thread_counts_are_refused() {
        assert!(matches!(Pool::new(0), Err(Error::InvalidArgument(_))));
        assert!(matches!(Pool::new(MAX_THREADS + 1), Err(Error::Limit(_))));
    }

    #[test]
    fn a_forked_child_is_told_so() {
        let pool = Pool::new(2).unwrap();
        pool.run(&|_| {}).unwrap();
        // SAFETY: the child only makes system calls that are allowed after fork, and leaves by
        // _exit.
        let status = unsafe {
            let child = libc::fork();
            if child == 0 {
                let forked = matches!(pool.begin(2), Err(Error::Forked(_)));
                drop(pool);
                libc::_exit(if forked { 0 } else { 1 });
            }
            let mut status = -1;
            assert_eq!(libc::waitpid(child, &mut status, 0), child);
            status
        };
        assert_eq!(status, 0);
        pool.run(&|_| {}).unwrap();
    }

    #[test]
    fn many_pools_come_and_go() {
        for n in 0..200 {
            let pool = Pool::new(1 + n % 6).unwrap();
            if n % 2 == 0 {
                pool.run(&|_| {}).unwrap();
            }
        }
    }
}
