//! Which cell holds the token of which position, in layers with a window. No tensor in sight.
//!
//! All KV heads of all such layers share these cells. What falls out of the window is not needed any
//! more, so that nothing has to be chosen here: the oldest make room.
//!
//! Tokens enter in two steps: [`Cells::reserve`] takes cells for a batch, and
//! [`Cells::commit`] makes them part of the sequence, or [`Cells::rollback`] gives them back. What
//! is reserved and not committed is invisible to everything but the batch itself; that is what
//! makes an eval all or nothing.
//!
//! Invariants, checked by the tests at every step: positions ascend strictly along `order`, each
//! cell stands in `order` at most once, and used and free cells add up to all.

use crate::base::error::{Result, err};
use crate::base::le::{Fields, Put, put_words};

/// A position that no token has: the cell is free.
const FREE: u32 = u32::MAX;

/// The cells of one session.
#[derive(Clone, Debug)]
pub struct Cells {
    /// Position of the token in each cell, or `FREE`.
    pos: Vec<u32>,
    /// Cells in use, by ascending position; those of a batch under way stand at the end.
    order: Vec<u32>,
    /// The positions of `order`.
    order_pos: Vec<u32>,
    /// How many of `order` are committed.
    n_committed: usize,
    /// Position of the next token.
    next_pos: u32,
    /// No cell below this one is free.
    lowest_free: usize,
}

impl Cells {
    /// `n_ctx` free cells. Allocates all that it will ever need.
    pub fn new(n_ctx: usize) -> Result<Cells> {
        let mut cells = Cells {
            pos: Vec::new(),
            order: Vec::new(),
            order_pos: Vec::new(),
            n_committed: 0,
            next_pos: 0,
            lowest_free: 0,
        };
        let no_memory = |_| err!(OutOfMemory, "KV cache: no memory for {n_ctx} cells");
        for v in [&mut cells.pos, &mut cells.order, &mut cells.order_pos] {
            v.try_reserve_exact(n_ctx).map_err(no_memory)?;
        }
        cells.pos.resize(n_ctx, FREE);
        // Every page is written once now, and not for the first time in the middle of a token.
        for v in [&mut cells.order, &mut cells.order_pos] {
            v.resize(n_ctx, FREE);
            v.clear();
        }
        Ok(cells)
    }

    /// Bytes that `n_ctx` cells occupy.
    pub fn bytes(n_ctx: usize) -> u64 {
        n_ctx as u64 * 3 * size_of::<u32>() as u64
    }

    /// Cells in all.
    pub fn n_ctx(&self) -> usize {
        self.pos.len()
    }

    /// Tokens held.
    pub fn len(&self) -> usize {
        self.n_committed
    }

    /// Whether no token is held.
    pub fn is_empty(&self) -> bool {
        self.n_committed == 0
    }

    /// Cells that are free.
    pub fn n_free(&self) -> usize {
        self.pos.len() - self.order.len()
    }

    /// Position of the next token.
    pub fn next_pos(&self) -> u32 {
        self.next_pos
    }

    /// Cells in use by ascending position, a batch under way included.
    pub fn order(&self) -> &[u32] {
        &self.order
    }

    /// The positions of [`Cells::order`].
    pub fn order_pos(&self) -> &[u32] {
        &self.order_pos
    }

    /// Reserves cells for the next `n` tokens, lowest cells first; their cells and positions are
    /// then the last of [`Cells::order`] and [`Cells::order_pos`]. Where there are not enough, the
    /// oldest tokens leave.
    pub fn reserve(&mut self, n: usize) -> Result<()> {
        let last = u32::try_from(n).ok().and_then(|n| self.next_pos.checked_add(n));
        if n > self.n_ctx() || last.is_none_or(|last| last == FREE) {
            let n_ctx = self.n_ctx();
            return Err(err!(KvFull, "KV cache: {n} tokens do not fit into {n_ctx} cells"));
        }
        self.evict(0, n.saturating_sub(self.n_free()));
        let first_pos = self.next_pos + (self.order.len() - self.n_committed) as u32;
        for pos in first_pos..first_pos + n as u32 {
            while self.pos[self.lowest_free] != FREE {
                self.lowest_free += 1;
            }
            self.pos[self.lowest_free] = pos;
            self.order.push(self.lowest_free as u32);
            self.order_pos.push(pos);
        }
        Ok(())
    }

    /// Makes all reserved cells part of the sequence.
    pub fn commit(&mut self) {
        self.next_pos += (self.order.len() - self.n_committed) as u32;
        self.n_committed = self.order.len();
    }

    /// Numbers all cells in use anew by ascending position, from 0 on, as if the others had never been.
    /// No batch is under way.
    pub fn close_up(&mut self) {
        self.pos.fill(FREE);
        self.pos[..self.order_pos.len()].copy_from_slice(&self.order_pos);
        self.order.iter_mut().zip(0..).for_each(|(cell, i)| *cell = i);
        self.lowest_free = 0;
    }

    /// Gives all reserved cells back.
    pub fn rollback(&mut self) {
        self.remove(self.n_committed, self.order.len());
    }

    /// Evicts the tokens `from..to` of [`Cells::order`]; positions of the others stay.
    pub fn evict(&mut self, from: usize, to: usize) -> usize {
        let to = to.min(self.n_committed);
        let from = from.min(to);
        self.remove(from, to);
        self.n_committed -= to - from;
        to - from
    }

    /// Which part of [`Cells::order`] holds the positions `from..to`.
    pub fn find(&self, from: u32, to: u32) -> (usize, usize) {
        let committed = &self.order_pos[..self.n_committed];
        (committed.partition_point(|&p| p < from), committed.partition_point(|&p| p < to))
    }

    /// Forgets every token from position `pos` on; the next token will have that position.
    pub fn truncate(&mut self, pos: u32) {
        let (from, _) = self.find(pos, pos);
        self.evict(from, self.n_committed);
        self.next_pos = self.next_pos.min(pos);
    }

    /// Puts the cells in use and their positions, by ascending position. No batch is under way.
    pub fn write(&self, put: &mut Put<'_>) -> Result<()> {
        put_words(&mut self.order.iter().chain(&self.order_pos).copied(), put)
    }

    /// Fills free cells with what [`Cells::write`] put. `next_pos`: of the next token.
    ///
    /// Fails with `SnapshotLayout` if there is no such cell, `SnapshotCorrupt` if it is not what cells
    /// can hold; these are then of no use.
    #[deny(clippy::arithmetic_side_effects, clippy::indexing_slicing)] // bytes of a file
    pub fn read(&mut self, bytes: &[u8], next_pos: u32) -> Result<()> {
        let fields = Fields::new("cells", bytes);
        let words = fields.words()?;
        let (n, n_cells) = (words.len() / 2, self.n_ctx());
        let mut above = 0;
        for (cell, pos) in words.clone().zip(words.clone().skip(n)).take(n) {
            let Some(place) = self.pos.get_mut(cell as usize) else {
                return Err(err!(
                    SnapshotLayout,
                    "snapshot: a token in cell {cell}, expected below {n_cells}, the cells of layers \
                     with a window"
                ));
            };
            if *place != FREE || pos < above || pos >= next_pos {
                return Err(fields.wrong("position", pos.into()));
            }
            *place = pos;
            above = pos.saturating_add(1);
            self.order.push(cell);
            self.order_pos.push(pos);
        }
        (self.n_committed, self.next_pos) = (n, next_pos);
        match words.len() % 2 {
            0 => Ok(()),
            _ => Err(fields.wrong("words", words.len() as u64)),
        }
    }

    /// Takes over what another set of cells of the same size holds.
    pub fn copy_from(&mut self, other: &Cells) {
        self.pos.clone_from(&other.pos);
        self.order.clone_from(&other.order);
        self.order_pos.clone_from(&other.order_pos);
        self.n_committed = other.n_committed;
        self.next_pos = other.next_pos;
        self.lowest_free = other.lowest_free;
    }

    fn remove(&mut self, from: usize, to: usize) {
        for &cell in &self.order[from..to] {
            self.pos[cell as usize] = FREE;
            self.lowest_free = self.lowest_free.min(cell as usize);
        }
        self.order.drain(from..to);
        self.order_pos.drain(from..to);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::error::Error;

    fn check(cells: &Cells) {
        assert!(cells.order_pos.windows(2).all(|w| w[0] < w[1]), "{:?}", cells.order_pos);
        assert_eq!(cells.order.len(), cells.order_pos.len());
        for (&cell, &pos) in cells.order.iter().zip(&cells.order_pos) {
            assert_eq!(cells.pos[cell as usize], pos);
        }
        let used = cells.pos.iter().filter(|&&p| p != FREE).count();
        assert_eq!(used, cells.order.len());
        assert!(cells.pos[..cells.lowest_free].iter().all(|&p| p != FREE));
        assert!(cells.n_committed <= cells.order.len());
    }

    fn filled(n_ctx: usize, n: usize) -> Cells {
        let mut cells = Cells::new(n_ctx).unwrap();
        cells.reserve(n).unwrap();
        cells.commit();
        cells
    }

    #[test]
    fn what_is_rolled_back_was_never_there() {
        let mut cells = filled(8, 3);
        let before = cells.clone();
        cells.reserve(5).unwrap();
        check(&cells);
        cells.rollback();
        check(&cells);
        assert_eq!((cells.order(), cells.next_pos()), (before.order(), 3));
        assert!(matches!(cells.reserve(9), Err(Error::KvFull(_))));
        assert_eq!(cells.order(), before.order());
    }

    #[test]
    fn evicted_cells_are_used_again_and_positions_go_on() {
        let mut cells = filled(4, 4);
        assert_eq!(cells.evict(1, 3), 2);
        check(&cells);
        cells.reserve(2).unwrap();
        cells.commit();
        assert_eq!(cells.order(), [0, 3, 1, 2]);
        assert_eq!(cells.order_pos(), [0, 3, 4, 5]);
    }

    #[test]
    fn truncation_gives_back_the_same_cells() {
        let mut cells = filled(8, 6);
        let order = cells.order().to_vec();
        cells.truncate(2);
        check(&cells);
        assert_eq!((cells.len(), cells.next_pos()), (2, 2));
        cells.reserve(4).unwrap();
        cells.commit();
        assert_eq!(cells.order(), order);
    }

    #[test]
    fn what_closes_up_goes_on_behind_itself() {
        let mut cells = filled(8, 6);
        cells.evict(1, 3);
        cells.close_up();
        check(&cells);
        cells.reserve(3).unwrap();
        cells.commit();
        check(&cells);
        assert_eq!(cells.order(), [0, 1, 2, 3, 4, 5, 6]);
        assert_eq!(cells.order_pos(), [0, 3, 4, 5, 6, 7, 8]);
    }

    #[test]
    fn the_oldest_make_room() {
        let mut cells = filled(8, 8);
        cells.reserve(3).unwrap();
        check(&cells);
        assert_eq!(cells.order_pos(), [3, 4, 5, 6, 7, 8, 9, 10]);
        cells.rollback();
        assert_eq!((cells.len(), cells.next_pos()), (5, 8));
    }

    #[test]
    fn random_histories_keep_the_invariants() {
        let mut state = 1u64;
        let mut random = |n: u64| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 33) % n
        };
        let mut cells = Cells::new(32).unwrap();
        for _ in 0..20_000 {
            match random(5) {
                0 | 1 => {
                    if cells.reserve(random(9) as usize).is_ok() {
                        check(&cells);
                        if random(4) == 0 { cells.rollback() } else { cells.commit() }
                    }
                }
                2 => {
                    let (a, b) = (random(40) as usize, random(40) as usize);
                    cells.evict(a.min(b), a.max(b));
                }
                3 => cells.truncate(random(1 + u64::from(cells.next_pos())) as u32),
                _ => cells.close_up(),
            }
            check(&cells);
        }
    }
}
