//! Hashing for the tables of tokens and merges.
//!
//! The seed is drawn for each table, so that no file can be made whose tokens all collide. Nothing
//! that a caller sees depends on it: the tables are only looked up, never walked.

use std::hash::{BuildHasher, RandomState};

use super::list::{heap_bytes, reserve_exact};
use crate::base::error::Result;

/// Makes one table's hashes differ from another's.
#[derive(Clone, Copy)]
pub(super) struct Seed(u64, u64);

impl Seed {
    /// Draws a seed.
    pub(super) fn new() -> Seed {
        let random = RandomState::new();
        Seed(random.hash_one(0), random.hash_one(1))
    }

    /// Hashes bytes.
    pub(super) fn bytes(self, bytes: &[u8]) -> u64 {
        match Key::of(bytes) {
            Some(key) => self.key(key),
            None => self.long(bytes),
        }
    }

    /// Hashes at most 16 bytes.
    pub(super) fn key(self, key: Key) -> u64 {
        fold(fold(key.first ^ self.0, key.last ^ self.1) ^ u64::from(key.len), self.0 | 1)
    }

    fn long(self, bytes: &[u8]) -> u64 {
        let mut hash = fold(self.0 ^ bytes.len() as u64, 0x9e37_79b9_7f4a_7c15);
        let mut words = bytes.chunks_exact(8);
        for word in &mut words {
            let word = <[u8; 8]>::try_from(word).map_or(0, u64::from_le_bytes);
            hash = fold(hash ^ word, self.0 | 1);
        }
        let mut tail = 0u64;
        for &byte in words.remainder() {
            tail = tail << 8 | u64::from(byte);
        }
        fold(hash ^ tail, 0xe703_7ed1_a0b4_28db)
    }

    /// Hashes a pair of tokens.
    pub(super) fn pair(self, left: u32, right: u32) -> u64 {
        let pair = u64::from(left) << 32 | u64::from(right);
        fold(fold(pair ^ self.0, 0x9e37_79b9_7f4a_7c15) ^ self.1, self.0 | 1)
    }
}

/// Both halves of the product, so that every input bit reaches every output bit.
fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a).wrapping_mul(u128::from(b));
    product as u64 ^ (product >> 64) as u64
}

/// From 1 to 16 bytes as numbers, the same only for the same bytes: the first eight and the last
/// eight of them, which may overlap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Key {
    pub(super) first: u64,
    pub(super) last: u64,
    pub(super) len: u8,
}

impl Key {
    /// None for no bytes, and for more than 16.
    #[inline]
    pub(super) fn of(bytes: &[u8]) -> Option<Key> {
        let word = |bytes: &[u8; 4]| u64::from(u32::from_le_bytes(*bytes));
        let len = bytes.len();
        let (first, last) = match len {
            8..=16 => {
                let (first, last) = (bytes.first_chunk()?, bytes.last_chunk()?);
                (u64::from_le_bytes(*first), u64::from_le_bytes(*last))
            }
            4..=7 => (word(bytes.first_chunk()?), word(bytes.last_chunk()?)),
            1..=3 => {
                let middle = u64::from(*bytes.get(len / 2)?);
                (u64::from(*bytes.first()?) << 8 | middle, u64::from(*bytes.last()?))
            }
            _ => return None,
        };
        Some(Key { first, last, len: len as u8 })
    }
}

/// Whether two texts are the same; quicker than `==` for short ones.
#[inline]
pub(super) fn same(a: &[u8], b: &[u8]) -> bool {
    match Key::of(a) {
        Some(key) => Key::of(b) == Some(key),
        None => a == b,
    }
}

/// Open addressing over entries that lie elsewhere. A slot has its entry's number plus one, and in
/// the bits above it a part of its hash, so that few entries are looked at in vain.
pub(super) struct Table {
    /// A power of two of them, at most five eighths used; 0: unused.
    slots: Vec<u32>,
    /// The bits of a slot that have the number.
    numbers: u32,
}

impl Table {
    /// Has room for `n` entries whose numbers are below `end`.
    pub(super) fn new(n: usize, end: usize) -> Result<Table> {
        let len = (n.saturating_mul(8) / 5).saturating_add(1);
        let len = len.checked_next_power_of_two().unwrap_or(usize::MAX); // more than there is
        let mut slots = Vec::new();
        reserve_exact(&mut slots, len)?;
        slots.resize(len, 0);
        let bits = usize::BITS.saturating_sub(end.leading_zeros());
        Ok(Table { slots, numbers: u32::MAX.checked_shr(32u32.saturating_sub(bits)).unwrap_or(0) })
    }

    /// Reads where a search for this hash begins: the entry there, if there is any, else 0.
    #[inline]
    pub(super) fn peek(&self, hash: u64) -> u32 {
        let slot = self.slots.get(hash as usize & self.mask()).copied().unwrap_or(0);
        (slot & self.numbers).saturating_sub(1)
    }

    /// The entry with this hash that `is` takes.
    #[inline]
    pub(super) fn find(&self, hash: u64, is: impl Fn(usize) -> bool) -> Option<usize> {
        let (mask, tag) = (self.mask(), self.tag(hash));
        let mut at = hash as usize & mask;
        // There is always an unused slot.
        loop {
            let slot = *self.slots.get(at)?;
            let number = (slot & self.numbers).checked_sub(1)? as usize;
            if slot & !self.numbers == tag && is(number) {
                return Some(number);
            }
            at = at.wrapping_add(1) & mask;
        }
    }

    /// Puts an entry in, unless `is` takes one with this hash: whether it did.
    #[inline]
    pub(super) fn insert(&mut self, hash: u64, entry: usize, is: impl Fn(usize) -> bool) -> bool {
        let (mask, tag) = (self.mask(), self.tag(hash));
        let numbers = self.numbers;
        let mut at = hash as usize & mask;
        while let Some(slot) = self.slots.get_mut(at) {
            let Some(number) = (*slot & numbers).checked_sub(1) else {
                *slot = tag | (entry as u32).saturating_add(1);
                return true;
            };
            if *slot & !numbers == tag && is(number as usize) {
                return false;
            }
            at = at.wrapping_add(1) & mask;
        }
        false
    }

    /// The last slot, whose number has all bits that places have. There is at least one.
    fn mask(&self) -> usize {
        self.slots.len().wrapping_sub(1)
    }

    fn tag(&self, hash: u64) -> u32 {
        (hash >> 32) as u32 & !self.numbers
    }

    /// Bytes of memory it owns.
    pub(super) fn heap_bytes(&self) -> usize {
        heap_bytes(&self.slots)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_the_same_only_for_the_same_bytes() {
        assert_eq!(Key::of(b""), None);
        assert_eq!(Key::of(&[7; 17]), None);
        let mut keys = Vec::new();
        for len in 1..=16 {
            let base = vec![b'a'; len];
            keys.push(Key::of(&base).unwrap());
            for at in 0..len {
                let mut other = base.clone();
                other[at] = b'b';
                keys.push(Key::of(&other).unwrap());
            }
        }
        assert!(
            same(b"", b"") && same(&[1; 17], &[1; 17]) && !same(b"a", b"b") && !same(b"a", b"")
        );
        for (i, key) in keys.iter().enumerate() {
            assert!(!keys[..i].contains(key), "{i}: {key:?}");
        }
    }

    #[test]
    fn a_table_finds_what_was_put_in_and_nothing_else() {
        let seed = Seed::new();
        for n in [0usize, 1, 5, 1000, 100_000] {
            let mut table = Table::new(n, 2 * n).unwrap();
            let hash = |i: usize| seed.bytes(&(i as u64).to_le_bytes());
            for i in 0..n {
                // The number of an entry is twice what it holds.
                assert!(table.insert(hash(i), i * 2 % (2 * n), |number| number == i * 2));
                assert!(!table.insert(hash(i), 0, |number| number == i * 2));
            }
            for i in 0..2 * n + 10 {
                let found = table.find(hash(i), |number| number == i * 2);
                assert_eq!(found, (i < n).then_some(i * 2), "{n}");
            }
        }
    }
}
