//! The tokens of words that a text has had before. Text repeats its words, and most of them are
//! short and few tokens, so that is all that is kept; a word takes the place of another at will.

use super::hash::{Key, Seed};
use super::list::reserve_exact;

use crate::base::error::Result;

/// Most tokens of a word that is kept.
const MAX_TOKENS: usize = 3;
/// Bytes of text for each slot.
const TEXT_PER_SLOT: usize = 16;
/// Most slots; 512 KiB.
const MAX_SLOTS: usize = 1 << 14;

/// Half a cache line.
#[derive(Clone, Copy, Default)]
struct Slot {
    first: u64,
    last: u64,
    len: u8,
    n: u8,
    ids: [i32; MAX_TOKENS],
}

/// Words and their tokens, during one call.
pub(super) struct Cache {
    slots: Vec<Slot>,
    seed: Seed,
}

/// Where a word is kept, or would be: in one of two slots.
#[derive(Clone, Copy)]
pub(super) struct Place {
    key: Key,
    slot: usize,
}

impl Cache {
    /// For a text of so many bytes; a short one needs none.
    pub(super) fn new(text_len: usize) -> Result<Cache> {
        let mut cache = Cache { slots: Vec::new(), seed: Seed::new() };
        let n = (text_len / TEXT_PER_SLOT).min(MAX_SLOTS);
        if n > 1 {
            let n = n.next_power_of_two();
            reserve_exact(&mut cache.slots, n)?;
            cache.slots.resize(n, Slot::default());
        }
        Ok(cache)
    }

    /// The place of a word. None: it is not kept.
    #[inline]
    pub(super) fn place(&self, word: &[u8]) -> Option<Place> {
        let key = Key::of(word)?;
        let mask = self.slots.len().checked_sub(1)?;
        Some(Place { key, slot: self.seed.key(key) as usize & mask & !1 })
    }

    /// The tokens of the word with this place, if they are there.
    #[inline]
    pub(super) fn get(&self, place: Place) -> Option<&[i32]> {
        let line: &[Slot; 2] = self.slots.get(place.slot..)?.first_chunk()?;
        let slot = line
            .iter()
            .find(|slot| place.key == Key { first: slot.first, last: slot.last, len: slot.len })?;
        slot.ids.get(..usize::from(slot.n))
    }

    /// Keeps the tokens of the word with this place, if they are few.
    pub(super) fn put(&mut self, place: Place, tokens: &[i32]) {
        let line = self.slots.get_mut(place.slot..).and_then(<[Slot]>::first_chunk_mut);
        let Some([slot, older]) = line else { return };
        let n = tokens.len();
        if n > MAX_TOKENS {
            return;
        }
        *older = *slot;
        if let Some(ids) = slot.ids.get_mut(..n) {
            ids.copy_from_slice(tokens);
            let Key { first, last, len } = place.key;
            (slot.first, slot.last, slot.len, slot.n) = (first, last, len, n as u8);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_is_found_as_it_was_put_or_not_at_all() {
        let mut cache = Cache::new(4096).unwrap();
        let word = |i: usize| format!("{i:x}").into_bytes();
        let mut found = 0;
        for round in 0..2 {
            for i in 0..1000usize {
                let place = cache.place(&word(i)).unwrap();
                let tokens = vec![i as i32; i % 5];
                if let Some(kept) = cache.get(place) {
                    assert_eq!(kept, tokens);
                    found += 1;
                }
                if round == 0 {
                    cache.put(place, &tokens);
                }
            }
        }
        assert!((100..=256).contains(&found), "{found}");
        assert!(cache.place(&[b'a'; 17]).is_none() && cache.place(b"").is_none());
        assert!(Cache::new(10).unwrap().place(b"a").is_none());
    }

    #[test]
    fn a_slot_is_half_a_cache_line() {
        assert_eq!(size_of::<Slot>(), 32);
    }
}
