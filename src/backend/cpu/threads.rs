//! How many threads evaluate what: as many as the caller says, or as a measurement finds best.
//!
//! Decode waits for memory, and often a few threads are all that the bus can serve; a whole token is
//! the lap. Prefill computes, and every core helps, but maybe not the slow ones or the second threads
//! of a core; a layer is the lap, so that one prompt is enough. What was found is kept with the
//! weights, for the sessions to come.

use std::sync::atomic::{AtomicUsize, Ordering};

use crate::backend::Shape;
use crate::base::clock::now_ns;
use crate::base::cpu::Cores;
use crate::base::log::log;
use crate::base::pool::Tuner;

/// Tokens of a batch whose layers are laps, at least: less is about as long as waking a thread.
const ENOUGH: usize = 16;

/// What sessions of a model have found: numbers of threads, 0 if none has yet.
#[derive(Default)]
pub(super) struct Found {
    decode: AtomicUsize,
    prefill: AtomicUsize,
}

/// The numbers of threads of one session.
#[derive(Clone)]
pub(super) struct Threads {
    decode: Tuner,
    prefill: Tuner,
    /// When the lap under way began.
    lap: Option<u64>,
    /// Tokens of the batch under way, and of the last one whose layers were laps.
    n: usize,
    n_before: usize,
    clock: fn() -> u64,
}

impl Threads {
    pub(super) fn new(shape: &Shape, cores: Cores, found: &Found) -> Threads {
        let most = shape.n_threads;
        let decode = match shape.n_decode {
            0 => {
                let mut counts = Tuner::counts(cores.fast.min(most));
                Tuner::new(&mut counts, true, known(&found.decode))
            }
            n => fixed(n.clamp(1, most)),
        };
        let prefill = match shape.n_prefill {
            0 => {
                let all = [cores.fast, cores.separate, cores.all].map(|n| n.min(most));
                let (low, high) = (all[0].min(all[1]).min(all[2]), all[0].max(all[1]).max(all[2]));
                let counts = [low, all.iter().sum::<usize>() - low - high, high];
                // Each once.
                let is_new = |&i: &usize| i == 0 || counts[i] != counts[i - 1];
                let mut counts = (0..counts.len()).filter(is_new).map(|i| counts[i]);
                Tuner::new(&mut counts, false, known(&found.prefill))
            }
            n => fixed(n.clamp(1, most)),
        };
        Threads { decode, prefill, lap: None, n: 0, n_before: 0, clock: now_ns }
    }

    /// Takes these numbers from now on.
    pub(super) fn fix(&mut self, decode: usize, prefill: usize) {
        (self.decode, self.prefill) = (fixed(decode), fixed(prefill));
    }

    /// The numbers that the next token, and the next prompt, would begin with.
    pub(super) fn now(&self) -> (usize, usize) {
        (self.decode.count(), self.prefill.count())
    }

    /// A batch of `n` tokens begins; gives the number of threads for it.
    pub(super) fn begin(&mut self, n: usize) -> usize {
        self.n = n;
        self.lap = (n == 1 && self.decode.wants_laps()).then(self.clock);
        match n {
            1 => return self.decode.count(),
            2..ENOUGH if self.prefill.is_measuring() => return self.prefill.most(),
            2..ENOUGH => {}
            _ if n != self.n_before => {
                self.n_before = n;
                self.prefill.restart(); // layers of a longer batch take longer
            }
            _ => {}
        }
        self.prefill.count()
    }

    /// A layer begins; gives another number of threads where that is to be tried.
    pub(super) fn layer(&mut self, found: &Found) -> Option<usize> {
        let tuner = &mut self.prefill;
        if self.n < ENOUGH || !tuner.is_measuring() {
            return None;
        }
        let now = (self.clock)();
        if let Some(start) = self.lap.replace(now)
            && tuner.lap(now.saturating_sub(start))
        {
            settled("prefill", tuner, &found.prefill);
        }
        Some(tuner.count())
    }

    /// A batch with logits has ended.
    pub(super) fn end(&mut self, found: &Found) {
        if self.n == 1
            && let Some(start) = self.lap.take()
            && self.decode.lap((self.clock)().saturating_sub(start))
        {
            settled("decode", &self.decode, &found.decode);
        }
    }
}

fn fixed(n: usize) -> Tuner {
    Tuner::new(&mut std::iter::once(n), false, None)
}

fn known(found: &AtomicUsize) -> Option<usize> {
    match found.load(Ordering::Relaxed) {
        0 => None,
        n => Some(n),
    }
}

fn settled(phase: &str, tuner: &Tuner, found: &AtomicUsize) {
    found.store(tuner.count(), Ordering::Relaxed);
    log!(Info, "{phase}: {tuner}");
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    thread_local! {
        static NOW: Cell<u64> = const { Cell::new(1) };
    }

    fn pass(ns: u64) {
        NOW.set(NOW.get() + ns);
    }

    fn threads(n_threads: usize, cores: Cores, found: &Found) -> Threads {
        let shape = Shape { n_threads, ..Shape::default() };
        let mut threads = Threads::new(&shape, cores, found);
        threads.clock = || NOW.get();
        threads
    }

    /// Decodes a token: twice as fast with two threads as with any other number.
    fn decode(t: &mut Threads, found: &Found) -> usize {
        let n = t.begin(1);
        assert_eq!(t.layer(found), None);
        pass(if n == 2 { 1_000_000 } else { 2_000_000 });
        t.end(found);
        n
    }

    /// Reads a prompt in 30 layers, fastest with `best` threads.
    fn prefill(t: &mut Threads, found: &Found, n_tokens: usize, best: usize) -> Vec<usize> {
        let mut n = t.begin(n_tokens);
        let mut counts = Vec::new();
        for _ in 0..30 {
            n = t.layer(found).unwrap_or(n);
            counts.push(n);
            pass((1_000_000 + 300_000 * n.abs_diff(best) as u64) * n_tokens as u64);
        }
        t.end(found);
        counts
    }

    #[test]
    fn both_phases_settle_and_later_sessions_know() {
        let cores = Cores { all: 8, fast: 4, separate: 8 };
        let found = Found::default();
        let mut t = threads(8, cores, &found);
        assert_eq!(t.now(), (4, 8), "begins with all");
        let counts = prefill(&mut t, &found, 100, 8);
        assert!(counts.contains(&4) && counts.contains(&8), "{counts:?}");
        assert_eq!(counts[29], 8);
        for _ in 0..60 {
            decode(&mut t, &found);
        }
        assert_eq!(t.now(), (2, 8));
        let mut later = threads(8, cores, &found);
        assert_eq!(later.now(), (2, 8));
        assert_eq!(decode(&mut later, &found), 2);
        let smaller = threads(1, cores, &found);
        assert_eq!(smaller.now(), (1, 1), "what was found is not for it");
    }

    #[test]
    fn only_laps_of_one_kind_are_compared() {
        let cores = Cores { all: 4, fast: 4, separate: 2 };
        let found = Found::default();
        let mut t = threads(4, cores, &found);
        // Spans as short as drafts are evaluated by all, and measured by none.
        assert_eq!(prefill(&mut t, &found, 5, 2), [4; 30]);
        t.begin(50);
        (0..5).for_each(|_| assert!(t.layer(&found).is_some()));
        t.begin(1); // given up by the caller
        t.begin(500);
        let counts = prefill(&mut t, &found, 500, 2);
        assert_eq!((counts[0], counts[29]), (4, 2));
        assert_eq!(prefill(&mut t, &found, 5, 2), [2; 30]);
    }

    #[test]
    fn a_token_without_logits_is_no_lap() {
        let found = Found::default();
        let mut t = threads(2, Cores { all: 2, fast: 2, separate: 2 }, &found);
        for _ in 0..1000 {
            t.begin(1);
            pass(1);
        }
        assert_eq!(t.now().0, 2);
        assert_eq!(known(&found.decode), None);
    }

    #[test]
    fn what_the_caller_says_is_not_measured() {
        let cores = Cores { all: 4, fast: 4, separate: 4 };
        let found = Found::default();
        let shape = Shape { n_threads: 4, n_decode: 3, n_prefill: 4, ..Shape::default() };
        let mut t = Threads::new(&shape, cores, &found);
        t.clock = || panic!("nobody asks for the time");
        assert_eq!((t.begin(1), t.begin(64)), (3, 4));
        assert_eq!(t.layer(&found), None);
        let mut t = threads(4, cores, &found);
        t.fix(1, 2);
        assert_eq!((t.begin(1), t.begin(64), t.now()), (1, 2, (1, 2)));
    }
}
