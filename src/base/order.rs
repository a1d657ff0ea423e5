//! Orders: floats as integers in the same order, and sorts of what is ordered so.

use std::cmp::Ordering;

/// A number that grows with `x`, in the order of [`f32::total_cmp`]: -0 comes before 0.
pub fn ordered(x: f32) -> u32 {
    let bits = x.to_bits();
    if bits >> 31 == 1 { !bits } else { bits | 1 << 31 }
}

/// What has this number.
pub fn from_ordered(ordered: u32) -> f32 {
    f32::from_bits(if ordered >> 31 == 1 { ordered & !(1 << 31) } else { !ordered })
}

/// Sorts keys, the highest first.
///
/// Each closure that is given to a sort makes a copy of its code, of up to 20 KB: so one function
/// for all whose keys are integers, as those of [`ordered`] floats are.
#[inline(never)]
pub fn sort_descending(keys: &mut [u64]) {
    keys.sort_unstable_by(|a, b| b.cmp(a));
}

/// Moves the `n` highest keys to the front, in any order, the lowest of them last. `n` is at least 1
/// and at most the number of keys; nothing moves otherwise.
#[inline(never)]
pub fn highest_first(keys: &mut [u64], n: usize) {
    if (1..=keys.len()).contains(&n) {
        keys.select_nth_unstable_by(n - 1, |a, b| b.cmp(a));
    }
}

/// Sorts numbers of things by what `compare` says of the things; one function for all lists.
#[inline(never)]
pub fn sort_numbers(numbers: &mut [u32], compare: &mut dyn FnMut(u32, u32) -> Ordering) {
    numbers.sort_unstable_by(|a, b| compare(*a, *b));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_is_that_of_total_cmp() {
        let all = [
            -f32::NAN,
            f32::NEG_INFINITY,
            -1.0,
            -f32::from_bits(1),
            -0.0,
            0.0,
            f32::from_bits(1),
            f32::MAX,
            f32::INFINITY,
            f32::NAN,
        ];
        for a in all {
            assert_eq!(from_ordered(ordered(a)).to_bits(), a.to_bits());
            for b in all {
                assert_eq!(ordered(a).cmp(&ordered(b)), a.total_cmp(&b), "{a} {b}");
            }
        }
    }
}
