//! Lists of the tokenizer: their room, their memory, and elements that leave short ones.

use crate::base::error::{Error, Result, err};

/// Makes room for `n` more elements, or fails.
pub(super) fn reserve<T>(vec: &mut Vec<T>, n: usize) -> Result<()> {
    vec.try_reserve(n).map_err(|_| no_memory::<T>(n))
}

/// Makes room for exactly `n` more elements, or fails.
pub(super) fn reserve_exact<T>(vec: &mut Vec<T>, n: usize) -> Result<()> {
    vec.try_reserve_exact(n).map_err(|_| no_memory::<T>(n))
}

fn no_memory<T>(n: usize) -> Error {
    err!(OutOfMemory, "tokenizer: {} bytes", n.saturating_mul(size_of::<T>()))
}

/// How many items there are.
pub(super) fn count(items: impl Iterator) -> usize {
    items.fold(0, |n: usize, _| n.saturating_add(1))
}

/// Bytes of memory that a list owns.
pub(super) fn heap_bytes<T>(vec: &Vec<T>) -> usize {
    vec.capacity().saturating_mul(size_of::<T>())
}

/// Takes the element `at` out of the first `n`: those behind it move down by one.
#[inline]
pub(super) fn take_out<T: Copy>(list: &mut [T], n: usize, at: usize) {
    let from = list.get_mut(at..n).unwrap_or_default();
    if !from.is_empty() {
        from.copy_within(1.., 0); // all that it could panic at is that there is none
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_follows_an_element_takes_its_place() {
        let taken = |n, at| {
            let mut list = [0, 1, 2, 3, 4];
            take_out(&mut list, n, at);
            list
        };
        assert_eq!(taken(5, 0), [1, 2, 3, 4, 4]);
        assert_eq!(taken(4, 1), [0, 2, 3, 3, 4]);
        assert_eq!(taken(4, 3), [0, 1, 2, 3, 4]);
        assert_eq!(taken(4, 5), [0, 1, 2, 3, 4]);
        assert_eq!(taken(9, 0), [0, 1, 2, 3, 4]);
    }
}
