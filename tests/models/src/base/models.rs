//! Models of the pool, of counted values, of the lock that forks leave open, and of what is noted of rows.

use std::panic::panic_any;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::error::Error;
use super::fork::ForkLock;
use super::highest::Highest;
use super::pool::Pool;
use super::shared::Shared;
use super::sync::UnsafeCell;
use super::thread::{futex_wait, futex_wake, spawn};
use crate::OnPurpose;

/// A number that one thread at a time may have; the tool sees it if two do.
struct Alone(UnsafeCell<usize>);

// SAFETY: who uses it at once is what is tested.
unsafe impl Sync for Alone {}

impl Alone {
    fn new() -> Alone {
        Alone(UnsafeCell::new(0))
    }

    fn add(&self) {
        // SAFETY: as above.
        self.0.with_mut(|n| unsafe { *n += 1 });
    }

    fn get(&self) -> usize {
        // SAFETY: as above.
        self.0.with(|n| unsafe { *n })
    }
}

fn alone(n: usize) -> Vec<Alone> {
    (0..n).map(|_| Alone::new()).collect()
}

/// Each worker has its share of each job once; the caller sees what they have written; all threads end.
pub fn jobs_are_forked_and_joined(n_threads: usize, n_jobs: usize) {
    let pool = Pool::new(n_threads).expect("a pool");
    let shares = alone(n_threads);
    for job in 1..=n_jobs {
        pool.run(&|worker| shares[worker].add()).expect("no panic");
        shares.iter().for_each(|share| assert_eq!(share.get(), job));
    }
}

/// A share that panics is an error of that job; the others are done, and the next job is as ever.
pub fn a_panic_is_an_error(n_threads: usize) {
    let pool = Pool::new(n_threads).expect("a pool");
    for bad in 0..n_threads {
        let shares = alone(n_threads);
        let done = pool.run(&|worker| {
            shares[worker].add();
            if worker == bad {
                panic_any(OnPurpose);
            }
        });
        assert!(matches!(done, Err(Error::Internal(_))));
        shares.iter().for_each(|share| assert_eq!(share.get(), 1));
    }
    pool.run(&|_| {}).expect("it lives on");
}

/// Two callers: one may be told that the threads are busy; no job is lost or done twice.
pub fn two_callers_share_a_pool() {
    let pool = Arc::new(Pool::new(2).expect("a pool"));
    let call = |pool: &Pool| {
        let shares = alone(2);
        match pool.run(&|worker| shares[worker].add()) {
            Ok(()) => shares.iter().for_each(|share| assert_eq!(share.get(), 1)),
            Err(error) => assert!(matches!(error, Error::Busy(_))),
        }
    };
    let other = pool.clone();
    let thread = spawn(move || call(&other));
    call(&pool);
    thread.join().expect("no panic");
}

/// Numbers that threads take from each other go out once.
pub fn guided_numbers_go_out_once(n_threads: usize, n: usize) {
    let pool = Pool::new(n_threads).expect("a pool");
    let numbers = alone(n);
    pool.guided(n, 1, |_, part| part.for_each(|i| numbers[i].add())).expect("no panic");
    numbers.iter().for_each(|number| assert_eq!(number.get(), 1));
}

/// So do those that are taken first come, first served.
pub fn chunks_go_out_once(n_threads: usize, n: usize) {
    let pool = Pool::new(n_threads).expect("a pool");
    let numbers = alone(n);
    pool.chunks(n, 1, |_, part| part.for_each(|i| numbers[i].add())).expect("no panic");
    numbers.iter().for_each(|number| assert_eq!(number.get(), 1));
}

/// What the caller does itself, and what another does beside it.
pub fn two_things_are_done_beside_each_other() {
    let pool = Pool::new(2).expect("a pool");
    let (own, other) = (Alone::new(), Alone::new());
    pool.beside(&|| other.add(), || own.add()).expect("no panic");
    assert_eq!((own.get(), other.get()), (1, 1));
}

/// With the number of threads changed between jobs, as where it is measured.
pub fn threads_come_and_go_between_jobs(n_threads: usize) {
    let pool = Pool::new(n_threads).expect("a pool");
    for n in [n_threads, 1, n_threads - 1, n_threads] {
        pool.begin(n).expect("the same process");
        let shares = alone(n_threads);
        pool.run(&|worker| shares[worker].add()).expect("no panic");
        for (worker, share) in shares.iter().enumerate() {
            assert_eq!(share.get(), usize::from(worker < n));
        }
    }
}

/// A value and who sees it go.
struct Counted {
    inside: Alone,
    n_gone: Arc<AtomicUsize>,
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.inside.add();
        self.n_gone.fetch_add(1, Ordering::Relaxed);
    }
}

/// Owners come and go on several threads: the value goes once, after the last of them, and is changed by
/// a single one.
pub fn the_last_owner_frees(n_owners: usize) {
    let n_gone = Arc::new(AtomicUsize::new(0));
    let value = Counted { inside: Alone::new(), n_gone: n_gone.clone() };
    let mut first = Shared::new(value).expect("memory");
    let owners: Vec<_> = (0..n_owners)
        .map(|_| {
            let own = first.clone();
            spawn(move || {
                let another = own.clone();
                drop(own);
                another.inside.get();
            })
        })
        .collect();
    if let Some(value) = first.get_mut() {
        value.inside.add(); // the others are done
    }
    drop(first);
    owners.into_iter().for_each(|owner| owner.join().expect("no panic"));
    assert_eq!(n_gone.load(Ordering::Relaxed), 1);
}

/// A value under the lock is read whole; and after a change nobody reads the former one.
pub fn nobody_reads_what_was_changed(n_readers: usize) {
    let lock = Arc::new(ForkLock::new());
    let (old, new) = (Arc::new(Alone::new()), Arc::new(Alone::new()));
    lock.set(Some(old.clone()));
    let readers: Vec<_> = (0..n_readers)
        .map(|_| {
            let lock = lock.clone();
            spawn(move || {
                let value = lock.read();
                value.as_ref().expect("a value").get();
            })
        })
        .collect();
    lock.set(Some(new));
    old.add(); // nobody reads it any more
    readers.into_iter().for_each(|reader| reader.join().expect("no panic"));
}

/// Threads note parts of a row: what is left is the highest of all.
pub fn the_highest_is_kept(n_threads: usize) {
    let highest = Arc::new(Highest::new(1, n_threads).expect("memory"));
    let threads: Vec<_> = (0..n_threads)
        .map(|i| {
            let highest = highest.clone();
            spawn(move || highest.note(0, i, &[i as f32 - 1.0]))
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().expect("no panic"));
    assert_eq!(highest.of_row(0).next(), Some(Some(n_threads as f32 - 2.0)));
}

// --- Mistakes on purpose: a tool that does not find these finds nothing.

/// Two threads write a number without a lock.
pub fn mistake_a_race() {
    let number = Arc::new(Alone::new());
    let other = number.clone();
    let thread = spawn(move || other.add());
    number.add();
    thread.join().expect("no panic");
}

/// A thread looks at a word and then sleeps on whatever it has become.
pub fn mistake_a_lost_wake_up() {
    use super::sync::atomic::AtomicU32;
    let word = Arc::new(AtomicU32::new(0));
    let other = word.clone();
    let thread = spawn(move || {
        if other.load(Ordering::Relaxed) == 0 {
            let now = other.load(Ordering::Relaxed);
            futex_wait(&other, now);
        }
    });
    word.store(1, Ordering::Relaxed);
    futex_wake(&word);
    thread.join().expect("no panic");
}

/// A thread says that a number is there, without `Release`: on some machines it is not.
pub fn mistake_a_relaxed_hand_over() {
    use super::sync::atomic::AtomicU32;
    let number = Arc::new((Alone::new(), AtomicU32::new(0)));
    let other = number.clone();
    let thread = spawn(move || {
        other.0.add();
        other.1.store(1, Ordering::Relaxed);
    });
    if number.1.load(Ordering::Acquire) == 1 {
        number.0.get();
    }
    thread.join().expect("no panic");
}

/// A share waits for the next job's, which does not come before it has ended.
pub fn mistake_a_share_that_waits() {
    use super::sync::atomic::AtomicU32;
    let pool = Pool::new(2).expect("a pool");
    let word = AtomicU32::new(0);
    pool.run(&|_| futex_wait(&word, 0)).expect("no panic");
    futex_wake(&word);
}
