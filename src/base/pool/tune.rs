//! Which number of threads is the fastest, found out by trying.
//!
//! What is tried is the work itself, which gives the same bits whatever the number: trying costs
//! only the time that slower numbers lose. A *lap* is a piece of work that is done again and again,
//! as a token is. Each number gets a few laps in a row, from many threads to few and back, so that
//! work which slowly grows favours none; the first lap of a row wakes or calms the threads, and does
//! not count. What is clearly slower after a round gets no further laps. Then the least median wins,
//! or the fewest threads that come close to it: other software has use for the rest.
//!
//! Other processes only ever make a lap longer. So a number is given up by the least of its laps,
//! and the choice is made by medians, which single disturbed laps do not move.

use std::fmt;

use super::MAX_THREADS;
use crate::base::order::sort_descending;

/// Numbers that are tried at most: 1, 2, 3, 4, 6, 8 and so on, and all.
const MOST_COUNTS: usize = 17;
/// Rows of laps for each number.
const ROUNDS: usize = 4;
/// Laps in a row.
const ROW: usize = 3;
/// Laps of a number that count.
const LAPS: usize = ROUNDS * (ROW - 1);
/// After so many rounds, a number whose least lap is so much longer than the least of all, in
/// percent, is given up.
const GIVEN_UP: [u64; ROUNDS] = [200, 150, 125, 125];
/// Fewer threads are preferred if they take at most this much of the time, in percent.
const CLOSE: u64 = 103;

/// Laps that are looked at together once the choice is made.
const WINDOW: usize = 64;
/// Windows in a row that must have changed.
const CHANGED: u32 = 2;
/// Change of a window's median, in percent of the first one's, that is taken to be a change.
const STEADY: std::ops::RangeInclusive<u64> = 70..=140;
/// Windows between two measurements, at least: at first, and at last, as it doubles each time.
const PATIENCE: (u32, u32) = (8, 1024);

/// Tries numbers of threads, and chooses one.
#[derive(Clone)]
pub struct Tuner {
    /// Ascending.
    tries: [Try; MOST_COUNTS],
    n_tries: usize,
    /// Whether it measures again when laps have become longer or shorter for long.
    watches: bool,
    state: State,
    watch: Watch,
    patience: u32,
}

/// What is known of one number of threads.
#[derive(Clone, Copy, Default)]
struct Try {
    count: u16,
    given_up: bool,
    laps: [u64; LAPS],
    n: usize,
}

#[derive(Clone, Copy)]
enum State {
    /// In lap `lap` of a row of try `at`.
    Measuring { round: usize, at: usize, lap: usize },
    /// `at` was chosen.
    Settled { at: usize },
}

/// What laps are like after the choice.
#[derive(Clone)]
struct Watch {
    laps: [u64; WINDOW],
    n: usize,
    /// The first window's median; 0 before that.
    first: u64,
    n_windows: u32,
    n_changed: u32,
}

impl Tuner {
    /// Tries these numbers, ascending and at least one. If `settled` is one of them, it is taken to
    /// be the choice. A tuner that `watches` measures again, rarely, when laps have changed.
    pub fn new(
        counts: &mut dyn Iterator<Item = usize>,
        watches: bool,
        settled: Option<usize>,
    ) -> Tuner {
        let mut tries = [Try::default(); MOST_COUNTS];
        let mut n_tries = 0;
        for (to, count) in tries.iter_mut().zip(counts) {
            to.count = count.clamp(1, MAX_THREADS) as u16;
            n_tries += 1;
        }
        if n_tries == 0 {
            tries[0].count = 1;
        }
        let n_tries = n_tries.max(1);
        let known = |count| tries[..n_tries].iter().position(|t| usize::from(t.count) == count);
        let state = match settled.and_then(known).or((n_tries == 1).then_some(0)) {
            Some(at) => State::Settled { at },
            None => State::first(n_tries),
        };
        let watch = Watch::new();
        Tuner { tries, n_tries, watches, state, watch, patience: PATIENCE.0 }
    }

    /// The numbers that are worth trying where there are places for `most` threads.
    pub fn counts(most: usize) -> impl Iterator<Item = usize> {
        let most = most.clamp(1, MAX_THREADS);
        let steps = (0..8).flat_map(|i| [1 << i, 3 << i >> 1]); // 1 1, 2 3, 4 6, 8 12, ...
        let below = steps.skip(1).filter(move |&n| n < most);
        below.chain([most])
    }

    /// The number of threads for the next lap.
    pub fn count(&self) -> usize {
        let (State::Measuring { at, .. } | State::Settled { at }) = self.state;
        usize::from(self.tries[at].count)
    }

    /// The greatest of the numbers.
    pub fn most(&self) -> usize {
        usize::from(self.tries[self.n_tries - 1].count)
    }

    /// Whether it is still trying.
    pub fn is_measuring(&self) -> bool {
        matches!(self.state, State::Measuring { .. })
    }

    /// Whether it wants to know how long laps take.
    pub fn wants_laps(&self) -> bool {
        self.is_measuring() || (self.watches && self.n_tries > 1)
    }

    /// Forgets the laps of a measurement that goes on: those to come are of another kind.
    pub fn restart(&mut self) {
        if self.is_measuring() {
            self.measure();
        }
    }

    /// A lap with [`count`](Self::count) threads has taken so long; says whether that has led to a
    /// choice.
    pub fn lap(&mut self, ns: u64) -> bool {
        match &mut self.state {
            State::Measuring { round, at, lap } => {
                let (round, from) = (*round, *at);
                *lap += 1;
                if *lap > 1 {
                    self.tries[from].add(ns);
                }
                if *lap < ROW {
                    return false;
                }
                match self.next_row(round, from) {
                    Some((round, at)) => {
                        self.state = State::Measuring { round, at, lap: 0 };
                        false
                    }
                    None => {
                        self.state = State::Settled { at: self.fastest() };
                        self.watch = Watch::new();
                        true
                    }
                }
            }
            State::Settled { .. } => {
                if self.wants_laps() && self.watch.changed(ns, self.patience) {
                    self.patience = (self.patience * 2).min(PATIENCE.1);
                    self.measure();
                }
                false
            }
        }
    }

    fn measure(&mut self) {
        for t in &mut self.tries {
            *t = Try { count: t.count, ..Try::default() };
        }
        self.state = State::first(self.n_tries);
    }

    /// What comes after the row of try `from`, in rounds that go down and up in turns.
    fn next_row(&mut self, round: usize, from: usize) -> Option<(usize, usize)> {
        let open = |tries: &[Try], at: usize| !tries[at].given_up;
        let tries = &self.tries;
        let next = match round % 2 {
            0 => (0..from).rev().find(|&at| open(tries, at)),
            _ => (from + 1..self.n_tries).find(|&at| open(tries, at)),
        };
        if let Some(at) = next {
            return Some((round, at));
        }
        let tries = &mut self.tries[..self.n_tries];
        let least = tries.iter().map(Try::least).min().unwrap_or(0);
        for t in tries.iter_mut() {
            t.given_up |= t.least() > percent(least, GIVEN_UP[round]);
        }
        let n_open = tries.iter().filter(|t| !t.given_up).count();
        if round + 1 == ROUNDS || n_open < 2 {
            return None;
        }
        // The next round begins where this one ended, or as near to that as there is a number.
        let mut left = (0..self.n_tries).filter(|&at| open(&self.tries, at));
        let at = if round.is_multiple_of(2) { left.next() } else { left.next_back() };
        at.map(|at| (round + 1, at))
    }

    fn fastest(&self) -> usize {
        let tries = &self.tries[..self.n_tries];
        let open = || tries.iter().enumerate().filter(|(_, t)| !t.given_up);
        let least = open().map(|(_, t)| t.median()).min().unwrap_or(0);
        let close = open().find(|(_, t)| t.median() <= percent(least, CLOSE));
        close.map_or(self.n_tries - 1, |(at, _)| at)
    }
}

/// What was found: "2 threads; microseconds with 1: 310, 2: 290, 4: 305", where a number that was
/// given up has "over" and its least lap.
impl fmt::Display for Tuner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} threads", self.count())?;
        let measured = self.tries[..self.n_tries].iter().filter(|t| t.n > 0);
        for (i, t) in measured.enumerate() {
            f.write_str(if i == 0 { "; microseconds with " } else { ", " })?;
            match t.given_up {
                false => write!(f, "{}: {}", t.count, t.median() / 1000)?,
                true => write!(f, "{}: over {}", t.count, t.least() / 1000)?,
            }
        }
        Ok(())
    }
}

impl State {
    fn first(n_tries: usize) -> State {
        State::Measuring { round: 0, at: n_tries - 1, lap: 0 }
    }
}

impl Try {
    fn add(&mut self, ns: u64) {
        if let Some(lap) = self.laps.get_mut(self.n) {
            *lap = ns;
            self.n += 1;
        }
    }

    fn least(&self) -> u64 {
        self.laps[..self.n].iter().copied().min().unwrap_or(u64::MAX)
    }

    #[inline(never)]
    fn median(&self) -> u64 {
        let mut laps = self.laps;
        let laps = &mut laps[..self.n];
        median(laps).unwrap_or(u64::MAX)
    }
}

/// The greater of the two in the middle, if there are two. Sorts them.
fn median(laps: &mut [u64]) -> Option<u64> {
    sort_descending(laps);
    laps.get(laps.len().checked_sub(1)? / 2).copied()
}

impl Watch {
    fn new() -> Watch {
        Watch { laps: [0; WINDOW], n: 0, first: 0, n_windows: 0, n_changed: 0 }
    }

    /// Takes a lap; says whether laps have changed for so long that the choice may be wrong.
    fn changed(&mut self, ns: u64, patience: u32) -> bool {
        self.laps[self.n] = ns;
        self.n += 1;
        if self.n < WINDOW {
            return false;
        }
        self.n = 0;
        let median = median(&mut self.laps).unwrap_or(0);
        if self.first == 0 {
            self.first = median.max(1);
            return false;
        }
        self.n_windows = self.n_windows.saturating_add(1);
        let steady = percent(self.first, *STEADY.start())..=percent(self.first, *STEADY.end());
        self.n_changed = if steady.contains(&median) { 0 } else { self.n_changed + 1 };
        self.n_changed >= CHANGED && self.n_windows >= patience
    }
}

fn percent(ns: u64, percent: u64) -> u64 {
    ns.saturating_mul(percent) / 100
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::rng::Rng;

    /// Runs until the choice is made; gives the laps that took, and the time.
    fn settle(tuner: &mut Tuner, mut ns: impl FnMut(usize) -> u64) -> (usize, u64) {
        let (mut n, mut sum) = (0, 0);
        while tuner.is_measuring() {
            let lap = ns(tuner.count());
            (n, sum) = (n + 1, sum + lap);
            tuner.lap(lap);
            assert!(n < 1000, "it never settles");
        }
        (n, sum)
    }

    fn tuner(most: usize) -> Tuner {
        Tuner::new(&mut Tuner::counts(most), true, None)
    }

    /// A memory bus that `full` threads fill, and a barrier that each thread makes a little longer.
    fn bus(count: usize, full: usize) -> u64 {
        1_000_000 / count.min(full) as u64 + 5_000 * count as u64
    }

    #[test]
    fn the_numbers_are_spread_evenly() {
        let counts = |most| Tuner::counts(most).collect::<Vec<_>>();
        assert_eq!(counts(0), [1]);
        assert_eq!(counts(1), [1]);
        assert_eq!(counts(2), [1, 2]);
        assert_eq!(counts(4), [1, 2, 3, 4]);
        assert_eq!(counts(10), [1, 2, 3, 4, 6, 8, 10]);
        assert!(counts(MAX_THREADS + 1).len() <= MOST_COUNTS);
        assert_eq!(counts(1000).last(), Some(&MAX_THREADS));
    }

    #[test]
    fn the_fastest_is_found_on_a_quiet_machine() {
        for most in 1..=64 {
            for full in [1, 2, 4, 64] {
                let mut tuner = tuner(most);
                let (n, _) = settle(&mut tuner, |count| bus(count, full));
                let best = Tuner::counts(most).map(|count| bus(count, full)).min().unwrap();
                assert!(bus(tuner.count(), full) <= best * 103 / 100, "{full} of {most}: {tuner}");
                assert!(n <= ROUNDS * ROW * Tuner::counts(most).count());
            }
        }
    }

    #[test]
    fn laps_that_others_disturb_do_not_decide() {
        let mut wrong = 0;
        for seed in 0..200 {
            let mut rng = Rng::new(seed);
            let mut tuner = tuner(4);
            settle(&mut tuner, |count| {
                let noise = 100 + rng.next_u64() % 8; // up to 8 % on every lap
                let stolen = if rng.next_u64().is_multiple_of(5) { 4_000_000 } else { 0 };
                bus(count, 2) * noise / 100 + stolen
            });
            wrong += usize::from(bus(tuner.count(), 2) > bus(2, 2) * 11 / 10);
        }
        assert!(wrong <= 4, "{wrong} of 200 choices cost more than a tenth");
    }

    #[test]
    fn work_that_grows_favours_no_number() {
        let mut tuner = tuner(4);
        let mut lap = 0;
        settle(&mut tuner, |count| {
            lap += 1;
            bus(count, 3) * (1000 + 4 * lap) / 1000 // a fifth longer after 50 laps
        });
        assert_eq!(tuner.count(), 3, "{tuner}");
    }

    #[test]
    fn trying_costs_little() {
        let mut tuner = tuner(16);
        let (n, sum) = settle(&mut tuner, |count| bus(count, 8));
        let ideal = n as u64 * bus(8, 8);
        assert!(n <= 100 && sum <= 2 * ideal, "{n} laps, {sum} ns instead of {ideal}");
    }

    #[test]
    fn few_threads_win_a_tie() {
        let mut tuner = tuner(4);
        settle(&mut tuner, |count| if count == 1 { 200 } else { 102 - count as u64 / 2 });
        assert_eq!(tuner.count(), 2, "{tuner}");
    }

    #[test]
    fn a_known_choice_is_not_tried_again() {
        let counts = [1, 2, 4];
        assert!(!Tuner::new(&mut counts.into_iter(), true, Some(2)).is_measuring());
        assert_eq!(Tuner::new(&mut counts.into_iter(), true, Some(2)).count(), 2);
        assert!(
            Tuner::new(&mut counts.into_iter(), true, Some(3)).is_measuring(),
            "it was of another machine"
        );
        let only = Tuner::new(&mut [3].into_iter(), true, None);
        assert!(!only.is_measuring() && !only.wants_laps() && only.count() == 3);
        assert_eq!(Tuner::new(&mut [].into_iter(), true, None).count(), 1);
    }

    #[test]
    fn it_measures_again_when_laps_have_changed_for_long() {
        let mut tuner = tuner(4);
        settle(&mut tuner, |count| bus(count, 4));
        assert_eq!(tuner.count(), 4);
        let laps = |tuner: &mut Tuner, n: usize, ns: &dyn Fn(usize) -> u64| {
            (0..n).any(|i| {
                // A burst of slow laps now and then is no change.
                let factor = if (100..130).contains(&(i % 200)) { 3 } else { 1 };
                tuner.lap(ns(tuner.count()) * factor);
                tuner.is_measuring()
            })
        };
        assert!(!laps(&mut tuner, 10_000, &|count| bus(count, 4)));
        // Somebody takes half of the bus.
        assert!(laps(&mut tuner, 3 * WINDOW, &|count| bus(count, 2) * 2));
        settle(&mut tuner, |count| bus(count, 2) * 2);
        assert_eq!(tuner.count(), 2, "{tuner}");
        // Never again soon: what goes up and down all the time costs a bounded part of it.
        let mut measured = 0;
        let n = 100_000;
        for i in 0..n {
            let slow = (i / (3 * WINDOW)).is_multiple_of(2);
            measured += usize::from(tuner.is_measuring());
            tuner.lap(if slow { 3 } else { 1 } * bus(tuner.count(), 2));
        }
        assert!(measured * 50 < n, "{measured} of {n} laps were spent measuring");
    }

    #[test]
    fn a_restart_forgets_what_was_measured() {
        let mut tuner = tuner(2);
        (0..4).for_each(|_| assert!(!tuner.lap(1)));
        tuner.restart();
        let (n, _) = settle(&mut tuner, |count| bus(count, 1));
        assert_eq!((n, tuner.count()), (2 * ROUNDS * ROW, 1));
        tuner.restart(); // nothing goes on
        assert!(!tuner.is_measuring());
    }

    #[test]
    fn it_says_what_it_found() {
        let mut tuner = tuner(4);
        settle(&mut tuner, |count| [0, 9_000, 2_400, 2_000, 2_050][count] * 1000);
        let said = "3 threads; microseconds with 1: over 9000, 2: 2400, 3: 2000, 4: 2050";
        assert_eq!(tuner.to_string(), said);
        assert_eq!(Tuner::new(&mut [2].into_iter(), true, None).to_string(), "2 threads");
    }
}
