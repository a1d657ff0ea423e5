//! The last `n` tokens, and how often each occurs among them.
//!
//! A ring holds the tokens in order; an open-addressed table, at most half full, holds the counts.
//! Both are allocated once: accepting a token and visiting the distinct ones costs nothing that
//! grows with the vocabulary.

use crate::base::error::{Result, err};

/// A table entry: a token and how often it occurs; no occurrence means free.
#[derive(Clone, Copy)]
struct Count {
    token: i32,
    n: u32,
}

/// The last tokens that a sampler chose or accepted.
pub(super) struct History {
    ring: Vec<i32>,
    next: usize,
    len: usize,
    /// Its length is a power of two and at least twice the ring's.
    table: Vec<Count>,
}

impl History {
    /// An empty history that remembers `last_n` tokens, at least 1.
    pub(super) fn new(last_n: usize) -> Result<History> {
        let mut history = History { ring: Vec::new(), next: 0, len: 0, table: Vec::new() };
        let n_table = (2 * last_n).next_power_of_two();
        history.ring.try_reserve_exact(last_n).map_err(|_| no_room(last_n))?;
        history.table.try_reserve_exact(n_table).map_err(|_| no_room(last_n))?;
        history.ring.resize(last_n, 0);
        history.table.resize(n_table, Count { token: 0, n: 0 });
        Ok(history)
    }

    /// Remembers a token, and forgets the oldest if there are `last_n` already.
    pub(super) fn push(&mut self, token: i32) {
        if self.len == self.ring.len() {
            self.take(self.ring[self.next]);
        } else {
            self.len += 1;
        }
        self.ring[self.next] = token;
        self.next = (self.next + 1) % self.ring.len();
        let at = self.find(token);
        self.table[at] = Count { token, n: self.table[at].n + 1 };
    }

    /// Forgets all tokens.
    pub(super) fn clear(&mut self) {
        self.next = 0;
        self.len = 0;
        self.table.fill(Count { token: 0, n: 0 });
    }

    /// How many tokens it can remember.
    pub(super) fn last_n(&self) -> usize {
        self.ring.len()
    }

    /// How many tokens it remembers.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// The tokens, oldest first, as two slices.
    pub(super) fn tokens(&self) -> [&[i32]; 2] {
        let (newer, older) = self.ring[..self.len].split_at(self.next.min(self.len));
        [older, newer]
    }

    /// Each distinct token with its number of occurrences, in no particular order.
    pub(super) fn counts(&self) -> impl Iterator<Item = (i32, u32)> + '_ {
        self.table.iter().filter(|c| c.n > 0).map(|c| (c.token, c.n))
    }

    /// The token's entry, or the free one where it belongs.
    fn find(&self, token: i32) -> usize {
        let mut at = self.home(token);
        while self.table[at].n > 0 && self.table[at].token != token {
            at = (at + 1) & (self.table.len() - 1);
        }
        at
    }

    /// Where the search for a token starts.
    fn home(&self, token: i32) -> usize {
        // The odd number nearest to 2^32 over the golden ratio spreads neighbouring ids.
        let hash = (token as u32).wrapping_mul(0x9e37_79b1);
        (hash >> 7) as usize & (self.table.len() - 1)
    }

    /// Takes one occurrence of a token away; it must have one.
    fn take(&mut self, token: i32) {
        let mut hole = self.find(token);
        self.table[hole].n -= 1;
        if self.table[hole].n > 0 {
            return;
        }
        // Entries behind the hole move up unless the hole lies before their home.
        let mask = self.table.len() - 1;
        let mut at = (hole + 1) & mask;
        while self.table[at].n > 0 {
            let from_home = at.wrapping_sub(self.home(self.table[at].token)) & mask;
            let from_hole = at.wrapping_sub(hole) & mask;
            if from_home >= from_hole {
                self.table[hole] = self.table[at];
                self.table[at].n = 0;
                hole = at;
            }
            at = (at + 1) & mask;
        }
    }
}

fn no_room(last_n: usize) -> crate::Error {
    err!(OutOfMemory, "sampler: no memory for a history of {last_n} tokens")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::{BTreeMap, VecDeque};

    #[test]
    fn counts_equal_those_of_a_plain_queue() {
        for (last_n, n_distinct) in [(1, 3), (2, 2), (5, 50), (64, 7), (64, 1000), (1000, 400)] {
            let mut history = History::new(last_n).unwrap();
            let mut queue = VecDeque::new();
            let mut state = 12345_u64;
            for step in 0..20_000 {
                state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                let token = ((state >> 40) % n_distinct) as i32 * 4096;
                history.push(token);
                queue.push_back(token);
                if queue.len() > last_n {
                    queue.pop_front();
                }
                if step % 97 == 0 || step < 300 {
                    let mut expected = BTreeMap::new();
                    for token in &queue {
                        *expected.entry(*token).or_insert(0) += 1;
                    }
                    let found: BTreeMap<i32, u32> = history.counts().collect();
                    assert_eq!(found, expected, "last {last_n} of {n_distinct}, step {step}");
                    assert!(queue == history.tokens().concat(), "step {step}");
                }
            }
            history.clear();
            assert_eq!(history.counts().count(), 0);
        }
    }

    #[test]
    fn every_id_fits() {
        let mut history = History::new(3).unwrap();
        for token in [i32::MAX, 0, i32::MAX, 7, 7, 7] {
            history.push(token);
        }
        assert_eq!(history.counts().collect::<Vec<_>>(), [(7, 3)]);
    }
}
