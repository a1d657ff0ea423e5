//! Codes of 3 to 5 bits: up to 32 neighbours of a key or value share a scale in half precision.
//!
//! ```text
//! 5 bits    x = d * (code - 16)           d has either sign
//! 4 bits    x = d * (code - 8)            d has either sign
//! 3 bits    x = d * LEVELS[code]          d is not negative
//! ```
//! With a sign in the scale the side of the greatest magnitude gets the one level that the other side
//! lacks. Of a few places for that greatest magnitude, the one counts whose codes come closest to the
//! direction of the block; then `d = x . x / x . levels`, so that `d * levels . x` is exactly `x . x`.
//! The scale of the least square would make what is decoded shorter than `x` on average, scores
//! flatter and outputs smaller, in every layer alike.
//!
//! Sums run in lanes, in an order of their own: the same bits on every machine.

use half::f16;

use crate::kernel::{CodeBits, KV_BLOCK, LEVELS};

/// Added to a float below 2^22 and taken off again, it leaves that float rounded to an integer.
const TO_INTEGER: f32 = 12582912.0;
/// Lanes of sums.
const LANES: usize = 8;
/// Greatest magnitudes with a scale of 0, and with one that is infinite, whatever the codes.
const TOO_SMALL: f32 = 1e-7;
const TOO_LARGE: f32 = 1e7;

/// Codes of a block; those behind its end stand for no element.
pub(super) type Codes = [u8; KV_BLOCK];

/// The levels that the greatest magnitude is tried at.
fn places(bits: CodeBits) -> &'static [f32] {
    match bits {
        CodeBits::Three => &[115.0, 121.0, 127.0, 134.0, 141.0, 150.0],
        CodeBits::Four => &[-8.0, -7.5, -8.5, -9.0, -9.5, 7.0, 8.0, 9.0],
        CodeBits::Five => &[-16.0, -15.5, -16.8, -17.7, 15.0, 16.0],
    }
}

/// The code of level 0; of codes of 3 bits there is none.
pub(super) fn zero(bits: CodeBits) -> u8 {
    match bits {
        CodeBits::Three => 0,
        CodeBits::Four => 8,
        CodeBits::Five => 16,
    }
}

/// What a code stands for, in scales.
pub(super) fn level(bits: CodeBits, code: u8) -> f32 {
    match bits {
        CodeBits::Three => f32::from(LEVELS[usize::from(code) % LEVELS.len()]),
        _ => f32::from(code) - f32::from(zero(bits)),
    }
}

/// The scale and the codes of a block of up to 32 elements. The scale is not finite if an element is
/// not, or if it would not fit.
pub(super) fn encode(bits: CodeBits, x: &[f32]) -> (u16, Codes) {
    let mut block = [0.0; KV_BLOCK];
    block[..x.len()].copy_from_slice(x);
    // Magnitudes compare as integers, and a NaN is the largest of all.
    let largest = |m: f32, x: &f32| if x.abs().to_bits() > m.abs().to_bits() { *x } else { m };
    let most = block.iter().fold(0.0, largest);
    let nothing = [zero(bits); KV_BLOCK];
    match most.abs() {
        m if m < TOO_SMALL => return (0, nothing),
        m if m < TOO_LARGE => {}
        _ => return (f16::INFINITY.to_bits(), nothing),
    }
    let most = if bits == CodeBits::Three { most.abs() } else { most };
    let (mut best, mut inverse) = (-1.0, 0.0);
    for place in places(bits) {
        let levels = round(bits, &block, place / most);
        let (product, square) = (dot(&block, &levels), dot(&levels, &levels));
        let likeness = product * product / square;
        if likeness > best {
            (best, inverse) = (likeness, place / most);
        }
    }
    let levels = round(bits, &block, inverse);
    let d = dot(&block, &block) / dot(&block, &levels);
    (f16::from_f32(d).to_bits(), codes(bits, &levels))
}

/// The levels nearest to a block times `inverse`. One copy will do: it is long, and a call is not.
#[inline(never)]
fn round(bits: CodeBits, x: &[f32; KV_BLOCK], inverse: f32) -> [f32; KV_BLOCK] {
    let last = f32::from(zero(bits));
    match bits {
        CodeBits::Three => x.map(|x| {
            let [_, _, _, _, a, b, c, d] = LEVELS.map(f32::from);
            let magnitude = (x * inverse).abs();
            let above = |x: f32, y: f32| if magnitude > (x + y) / 2.0 { y - x } else { 0.0 };
            (a + above(a, b) + above(b, c) + above(c, d)).copysign(x)
        }),
        _ => x.map(|x| {
            let inside = (x * inverse).clamp(-last, last - 1.0);
            inside + TO_INTEGER - TO_INTEGER
        }),
    }
}

/// The codes of levels.
fn codes(bits: CodeBits, levels: &[f32; KV_BLOCK]) -> Codes {
    let zero = f32::from(zero(bits));
    match bits {
        CodeBits::Three => levels.map(|level| {
            let lower = LEVELS.iter().filter(|other| f32::from(**other) < level);
            lower.count() as u8
        }),
        _ => levels.map(|level| (level + zero) as u8),
    }
}

#[inline(never)]
fn dot(a: &[f32; KV_BLOCK], b: &[f32; KV_BLOCK]) -> f32 {
    let mut sums = [0.0; LANES];
    for (a, b) in a.as_chunks::<LANES>().0.iter().zip(b.as_chunks::<LANES>().0) {
        for ((sum, a), b) in sums.iter_mut().zip(a).zip(b) {
            *sum += a * b;
        }
    }
    sums.iter().sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [CodeBits; 3] = [CodeBits::Three, CodeBits::Four, CodeBits::Five];

    fn decoded(bits: CodeBits, x: &[f32]) -> Vec<f32> {
        let (d, codes) = encode(bits, x);
        let d = f16::from_bits(d).to_f32();
        codes[..x.len()].iter().map(|&code| d * level(bits, code)).collect()
    }

    /// About normal.
    fn random(n: usize, state: &mut u32) -> Vec<f32> {
        let mut next = || {
            *state = state.wrapping_mul(1664525).wrapping_add(1013904223);
            (*state >> 8) as f32 / 8388608.0 - 1.0
        };
        (0..n).map(|_| (0..6).map(|_| next()).sum()).collect()
    }

    fn product(a: &[f32], b: &[f32]) -> f64 {
        a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
    }

    #[test]
    fn what_is_decoded_is_near_and_as_long() {
        // Of a normal distribution so much of the square is lost, at most.
        for (bits, bound) in ALL.into_iter().zip([0.032, 0.0075, 0.0018]) {
            let (mut lost, mut all, mut state) = (0.0, 0.0, 7);
            for i in 0..2000 {
                let scale = 2f32.powi(i % 24 - 8);
                let mut x = random([32, 32, 31, 16, 8][i as usize % 5], &mut state);
                x.iter_mut().for_each(|x| *x *= scale);
                let found = decoded(bits, &x);
                let square = product(&x, &x);
                let share = product(&x, &found) / square;
                assert!((share - 1.0).abs() < 6e-4, "{bits:?}: {share}, 2^{}", i % 24 - 8);
                let error: Vec<f32> = x.iter().zip(&found).map(|(x, y)| x - y).collect();
                lost += product(&error, &error) / square;
                all += 1.0;
            }
            let lost = lost / all;
            println!("{bits:?}: {lost:.5} of the square is lost");
            assert!(lost < bound && lost > bound / 3.0, "{bits:?}: {lost}");
        }
    }

    #[test]
    fn either_side_gets_the_level_that_the_other_lacks() {
        for (bits, most) in [(CodeBits::Four, 8i8), (CodeBits::Five, 16)] {
            for sign in [1.0, -1.0] {
                let mut x: Vec<f32> = (1 - most..=most).map(|i| sign * f32::from(i)).collect();
                x.reverse();
                assert_eq!(decoded(bits, &x), x, "{bits:?}, {sign}");
            }
        }
    }

    #[test]
    fn what_is_not_finite_shows_and_nothing_stays_nothing() {
        for bits in ALL {
            for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 1e8, -3e38] {
                let (d, _) = encode(bits, &[1.0, bad, -2.0]);
                assert!(!f16::from_bits(d).is_finite(), "{bits:?}, {bad}");
            }
            for none in [0.0, -0.0, 1e-9, 1e-40] {
                assert_eq!(encode(bits, &[none; 5]).0, 0, "{bits:?}, {none}");
            }
            let (d, _) = encode(bits, &[65504.0, -3.0, 2e-7]);
            assert!(f16::from_bits(d).is_finite(), "{bits:?}");
        }
    }
}
