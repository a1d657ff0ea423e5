//! Which slot of a KV head holds the token of which position. No tensor in sight.
//!
//! In layers that attend to everything each KV head holds tokens of its own choice: a token may have
//! left one head and still be in another. A head's tokens stand in its first slots by ascending
//! position, without gaps, so that attention reads them as one run; what leaves is closed up.
//!
//! A slot has two positions: that of its token in the sequence, which never changes, and the one
//! that its key was turned by, which can move back when the sequence grows past what the model was
//! trained on ([`Slots::turn_back`]).
//!
//! Invariants, checked by the tests at every step: in each head both positions ascend strictly, the
//! second is at most the first, and a head holds no more than there are slots.

use crate::base::error::{Result, err};
use crate::base::le::{Fields, Put, put_words};
use crate::kv::filled;

/// Slots of the KV heads of one session.
#[derive(Debug)]
pub struct Slots {
    n_slots: usize,
    /// How many of each head are in use.
    held: Vec<u32>,
    /// `[head][slot]`
    pos: Vec<u32>,
    /// `[head][slot]`
    turn: Vec<u32>,
}

impl Slots {
    /// `n_slots` free slots for each of `n_heads`. Allocates all that it will ever need.
    pub fn new(n_heads: usize, n_slots: usize) -> Result<Slots> {
        let all = |n: usize| filled(n, u32::MAX, "slots");
        let mut held = all(n_heads)?;
        held.fill(0);
        let n = n_heads * n_slots;
        Ok(Slots { n_slots, held, pos: all(n)?, turn: all(n)? })
    }

    /// Bytes that they occupy.
    pub fn bytes(n_heads: usize, n_slots: usize) -> u64 {
        (n_heads * (1 + 2 * n_slots) * size_of::<u32>()) as u64
    }

    /// Heads.
    pub fn n_heads(&self) -> usize {
        self.held.len()
    }

    /// Slots of a head.
    pub fn n_slots(&self) -> usize {
        self.n_slots
    }

    /// How many slots each head uses.
    pub fn held(&self) -> &[u32] {
        &self.held
    }

    /// How many slots the head uses that uses most.
    #[inline(never)]
    pub fn most_held(&self) -> usize {
        self.held.iter().copied().max().unwrap_or(0) as usize
    }

    /// Positions of a head's tokens, ascending.
    pub fn pos(&self, head: usize) -> &[u32] {
        &self.pos[head * self.n_slots..][..self.held[head] as usize]
    }

    /// The positions that a head's keys are turned by, ascending.
    pub fn turn(&self, head: usize) -> &[u32] {
        &self.turn[head * self.n_slots..][..self.held[head] as usize]
    }

    /// Appends `n` tokens to every head: the first has this position, and this one to turn by.
    pub fn push(&mut self, n: usize, first_pos: u32, first_turn: u32) {
        for (head, held) in self.held.iter_mut().enumerate() {
            let at = head * self.n_slots + *held as usize;
            let pos = self.pos[at..at + n].iter_mut().zip(first_pos..);
            pos.for_each(|(pos, new)| *pos = new);
            let turn = self.turn[at..at + n].iter_mut().zip(first_turn..);
            turn.for_each(|(turn, new)| *turn = new);
            *held += n as u32;
        }
    }

    /// Keeps of a head the slots `kept`, which ascend, as its first ones.
    pub fn compact(&mut self, head: usize, kept: &[u32]) {
        let first = head * self.n_slots;
        for (to, &from) in kept.iter().enumerate() {
            self.pos[first + to] = self.pos[first + from as usize];
            self.turn[first + to] = self.turn[first + from as usize];
        }
        self.held[head] = kept.len() as u32;
    }

    /// Forgets every token from position `pos` on.
    pub fn truncate(&mut self, pos: u32) {
        for head in 0..self.n_heads() {
            self.held[head] = self.pos(head).partition_point(|&p| p < pos) as u32;
        }
    }

    /// Moves what a head's keys are turned by back by `delta`, but for the oldest ones: these stay,
    /// or move as little as needed to stand before the others. `f(slot, by)` gives for each slot
    /// how far it has moved.
    pub fn turn_back(&mut self, head: usize, delta: u32, mut f: impl FnMut(u32, u32)) {
        let held = self.held[head] as usize;
        let turns = &mut self.turn[head * self.n_slots..][..held];
        let mut least = 0;
        for (slot, turn) in turns.iter_mut().enumerate() {
            let moved = turn.saturating_sub(delta).max(least).min(*turn);
            f(slot as u32, *turn - moved);
            *turn = moved;
            least = moved + 1;
        }
    }

    /// Puts both positions of a head's tokens.
    pub fn write(&self, head: usize, put: &mut Put<'_>) -> Result<()> {
        put_words(&mut self.pos(head).iter().chain(self.turn(head)).copied(), put)
    }

    /// Takes what [`Slots::write`] put of a head. `next`: both positions of the next token.
    ///
    /// Fails with `SnapshotLayout` if there are more tokens than slots, `SnapshotCorrupt` if it is
    /// not what a head can hold; what the head holds is then anything.
    #[deny(clippy::arithmetic_side_effects, clippy::indexing_slicing)] // bytes of a file
    pub fn read(&mut self, head: usize, bytes: &[u8], next: (u32, u32)) -> Result<()> {
        let fields = Fields::new("slots", bytes);
        let words = fields.words()?;
        let (n, n_slots) = (words.len() / 2, self.n_slots);
        if n > n_slots {
            return Err(err!(
                SnapshotLayout,
                "snapshot: KV head {head} holds {n} tokens, expected at most n_ctx, {n_slots}"
            ));
        }
        let own = head.saturating_mul(n_slots)..head.saturating_add(1).saturating_mul(n_slots);
        let own = (self.pos.get_mut(own.clone()), self.turn.get_mut(own), self.held.get_mut(head));
        let (Some(own_pos), Some(own_turn), Some(held)) = own else {
            return Err(err!(Internal, "KV cache: there is no head {head}"));
        };
        let own = own_pos.iter_mut().zip(own_turn);
        let (mut above, mut above_turn) = (0, 0);
        for ((pos, turn), own) in words.clone().zip(words.clone().skip(n)).take(n).zip(own) {
            let fits = above <= pos && pos < next.0 && above_turn <= turn && turn < next.1;
            if !fits || turn > pos {
                return Err(fields.wrong("position", pos.into()));
            }
            (*own.0, *own.1) = (pos, turn);
            (above, above_turn) = (pos.saturating_add(1), turn.saturating_add(1));
        }
        *held = n as u32;
        match words.len() % 2 {
            0 => Ok(()),
            _ => Err(fields.wrong("words", words.len() as u64)),
        }
    }

    /// Takes over what others of the same size hold.
    pub fn copy_from(&mut self, other: &Slots) {
        self.held.clone_from(&other.held);
        self.pos.clone_from(&other.pos);
        self.turn.clone_from(&other.turn);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::rng::Rng;

    fn check(slots: &Slots) {
        for head in 0..slots.n_heads() {
            let (pos, turn) = (slots.pos(head), slots.turn(head));
            assert!(pos.len() <= slots.n_slots() && pos.len() == turn.len());
            assert!(pos.windows(2).all(|w| w[0] < w[1]), "{pos:?}");
            assert!(turn.windows(2).all(|w| w[0] < w[1]), "{turn:?}");
            assert!(pos.iter().zip(turn).all(|(pos, turn)| turn <= pos));
        }
    }

    #[test]
    fn what_stays_is_closed_up_in_its_order() {
        let mut slots = Slots::new(2, 8).unwrap();
        slots.push(6, 0, 0);
        slots.compact(1, &[0, 2, 5]);
        assert_eq!(slots.held(), [6, 3]);
        slots.push(2, 6, 6);
        assert_eq!(slots.pos(0), [0, 1, 2, 3, 4, 5, 6, 7]);
        assert_eq!(slots.pos(1), [0, 2, 5, 6, 7]);
        slots.truncate(5);
        assert_eq!((slots.pos(0).len(), slots.pos(1)), (5, &[0, 2][..]));
    }

    #[test]
    fn a_turn_back_keeps_recent_distances_and_the_sinks() {
        let mut slots = Slots::new(1, 16).unwrap();
        slots.push(4, 0, 0); // sinks
        slots.push(2, 10, 10); // old ones
        slots.push(3, 50, 50); // recent ones
        let mut moved = Vec::new();
        slots.turn_back(0, 40, |slot, by| moved.push((slot, by)));
        assert_eq!(slots.turn(0), [0, 1, 2, 3, 4, 5, 10, 11, 12]);
        assert_eq!(moved[4..], [(4, 6), (5, 6), (6, 40), (7, 40), (8, 40)]);
        assert_eq!(slots.pos(0), [0, 1, 2, 3, 10, 11, 50, 51, 52]);
    }

    #[test]
    fn random_histories_keep_the_invariants() {
        let mut rng = Rng::new(3);
        let mut random = |n: u32| (rng.next_u64() % u64::from(n)) as u32;
        let mut slots = Slots::new(3, 32).unwrap();
        let (mut next, mut back) = (0u32, 0u32);
        for _ in 0..20_000 {
            match random(6) {
                0..=2 => {
                    let n = random(7);
                    if slots.most_held() + n as usize <= 32 {
                        slots.push(n as usize, next, next - back);
                        next += n;
                    }
                }
                3 => {
                    let head = random(3) as usize;
                    let n = slots.held()[head];
                    let kept: Vec<u32> = (0..n).filter(|_| random(3) > 0).collect();
                    let expected: Vec<u32> =
                        kept.iter().map(|&slot| slots.pos(head)[slot as usize]).collect();
                    slots.compact(head, &kept);
                    assert_eq!(slots.pos(head), expected);
                }
                4 => {
                    let pos = next - random(next.min(8) + 1);
                    slots.truncate(pos);
                    // What goes on must not be turned by less than what stands before it.
                    let last = (0..3).filter_map(|h| slots.turn(h).last().copied()).max();
                    next = pos.max(last.map_or(0, |turn| turn + 1 + back));
                }
                _ => {
                    let most = (next - back).saturating_sub(slots.most_held() as u32);
                    let delta = random(most + 1);
                    for head in 0..3 {
                        slots.turn_back(head, delta, |_, by| assert!(by <= delta));
                        let last = slots.turn(head).last().map_or(0, |turn| turn + 1);
                        assert!(last <= next - back - delta, "room for the next token");
                    }
                    back += delta;
                }
            }
            check(&slots);
        }
    }
}
