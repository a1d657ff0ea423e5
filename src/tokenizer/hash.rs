//! Hashing for the tables of tokens and merges.
//!
//! The seed is drawn for each table, so that no file can be made whose tokens all collide. Nothing
//! that a caller sees depends on it: the tables are only looked up, never walked.

use std::hash::{BuildHasher, Hasher, RandomState};

/// Makes one table's hashes differ from another's.
#[derive(Clone, Copy)]
pub(super) struct Seed(u64);

impl Seed {
    /// Draws a seed.
    pub(super) fn new() -> Seed {
        Seed(RandomState::new().build_hasher().finish())
    }

    /// Hashes bytes.
    pub(super) fn bytes(self, bytes: &[u8]) -> usize {
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
        fold(hash ^ tail, 0xe703_7ed1_a0b4_28db) as usize
    }

    /// Hashes a pair of tokens.
    pub(super) fn pair(self, left: u32, right: u32) -> usize {
        let pair = u64::from(left) << 32 | u64::from(right);
        fold(fold(pair ^ self.0, 0x9e37_79b9_7f4a_7c15) ^ self.0, self.0 | 1) as usize
    }
}

/// Both halves of the product, so that every input bit reaches every output bit.
fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a).wrapping_mul(u128::from(b));
    product as u64 ^ (product >> 64) as u64
}

/// Slots of an open-addressing table for `n` entries: a power of two, at most five eighths full.
pub(super) fn table_len(n: usize) -> usize {
    (n.saturating_mul(8) / 5 + 1).next_power_of_two()
}
