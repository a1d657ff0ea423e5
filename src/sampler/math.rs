//! The arithmetic between logits and a choice, specified so that every machine agrees on it.
//!
//! Only IEEE 754 additions, subtractions, multiplications, divisions, comparisons and conversions
//! are used, each rounded on its own: Rust never contracts a product and a sum into one fused
//! operation, and nothing here calls the C library. Sums run in an order that is written down.

/// Values summed together before their sum joins the total: those that share a highest one.
pub(super) use crate::base::highest::CHUNK;

/// Running sums that a chunk is spread over.
const LANES: usize = 8;

/// Values made before they are added: so that the compiler makes several with one instruction; a
/// multiple of the lanes, and a part of a chunk.
pub(super) const BATCH: usize = 64;

/// `e` to the power `x`, for `x` at most 0; 0 below -700. Relative error below 4e-13.
///
/// `x = k ln 2 + r` with `k` the nearest integer, so that `|r| <= ln 2 / 2`; then the Taylor
/// polynomial of degree 10 in `r`, scaled by `2^k`.
#[inline(never)] // written out some thirty times it is 4 KB
pub(super) fn exp(x: f64) -> f64 {
    steps([x])[0]
}

/// [`exp`] of each of many numbers.
#[inline(never)] // where the calls are inlined, the steps of eight are taken apart again
pub(super) fn exps(x: &mut [f64; BATCH]) {
    for x in x.as_chunks_mut::<LANES>().0 {
        *x = steps(*x);
    }
}

/// [`exp`] of several numbers, step by step for all of them: the steps of one wait for each other.
#[inline]
fn steps<const N: usize>(x: [f64; N]) -> [f64; N] {
    // Adding 1.5 * 2^52 leaves the nearest integer in the low bits (ties to even).
    const ROUND: f64 = 6_755_399_441_055_744.0;
    // ln 2 in two parts; the first has 21 zero bits at its end, so that k times it is exact.
    const LN_2_HIGH: f64 = 0.693_147_180_369_123_8;
    const LN_2_LOW: f64 = 1.908_214_929_270_587_7e-10;
    const C: [f64; 11] = [
        1.0,
        1.0,
        1.0 / 2.0,
        1.0 / 6.0,
        1.0 / 24.0,
        1.0 / 120.0,
        1.0 / 720.0,
        1.0 / 5040.0,
        1.0 / 40320.0,
        1.0 / 362_880.0,
        1.0 / 3_628_800.0,
    ];
    let inside = x.map(|x| if x > -700.0 { x } else { -700.0 });
    let shifted = inside.map(|x| x * std::f64::consts::LOG2_E + ROUND);
    let mut r = [0.0; N];
    for i in 0..N {
        let k = shifted[i] - ROUND;
        r[i] = (inside[i] - k * LN_2_HIGH) - k * LN_2_LOW;
    }
    let mut sum = [C[10]; N];
    for c in C[..10].iter().rev() {
        for i in 0..N {
            sum[i] = sum[i] * r[i] + c;
        }
    }
    for i in 0..N {
        // The low bits of `shifted` are k in two's complement; moved up, they are the exponent's.
        let scale = f64::from_bits(shifted[i].to_bits().wrapping_add(1023) << 52);
        sum[i] = if x[i] >= -700.0 { sum[i] * scale } else { 0.0 };
    }
    sum
}

/// The natural logarithm of a positive, normal, finite `x`. Absolute error below 1e-15 times the
/// larger of 1 and the result.
///
/// `x = m 2^k` with `m` between the square roots of 1/2 and 2; with `s = (m - 1) / (m + 1)`, the
/// logarithm of `m` is `2 (s + s^3/3 + s^5/5 + ... + s^21/21)`.
pub(super) fn ln(x: f64) -> f64 {
    let bits = x.to_bits();
    let mut k = ((bits >> 52) & 0x7ff) as i32 - 1023;
    let mut m = f64::from_bits((bits & 0x000f_ffff_ffff_ffff) | 0x3ff0_0000_0000_0000);
    if m > std::f64::consts::SQRT_2 {
        m *= 0.5;
        k += 1;
    }
    let s = (m - 1.0) / (m + 1.0);
    let square = s * s;
    let mut sum = 1.0 / 21.0;
    for odd in (1..=19).rev().step_by(2) {
        sum = sum * square + 1.0 / f64::from(odd);
    }
    f64::from(k) * std::f64::consts::LN_2 + 2.0 * s * sum
}

/// Sums `value(0) .. value(n)` in the order that the specification fixes.
///
/// The values are cut into chunks of [`CHUNK`]. Within a chunk, value `i` is added to lane `i mod
/// 8`, in ascending `i`; the lanes are then added as `((0+4)+(2+6)) + ((1+5)+(3+7))`. The chunks'
/// sums are added in ascending order. `each_chunk` sees every chunk's sum.
pub(super) fn sum(n: usize, value: impl Fn(usize) -> f64, mut each_chunk: impl FnMut(f64)) -> f64 {
    let mut total = 0.0;
    for start in (0..n).step_by(CHUNK) {
        let mut lanes = [0.0; LANES];
        let mut made = [0.0; BATCH];
        for start in (start..n.min(start + CHUNK)).step_by(BATCH) {
            let made = &mut made[..BATCH.min(n - start)];
            for (i, made) in made.iter_mut().enumerate() {
                *made = value(start + i);
            }
            add(&mut lanes, made);
        }
        let chunk = close(lanes);
        each_chunk(chunk);
        total += chunk;
    }
    total
}

/// The sums of each of the numbers that `values` are made into; at most [`CHUNK`] values, and added
/// in the order that [`sum`] fixes for a chunk.
#[inline]
pub(super) fn sum_chunk<const N: usize>(
    values: &[f32],
    of: impl Fn(&mut [f64; BATCH]) -> [[f64; BATCH]; N],
) -> [f64; N] {
    let mut lanes = [[0.0; LANES]; N];
    let mut batch = [0.0; BATCH];
    for values in values.chunks(BATCH) {
        // In the last batch any numbers will do for those that are not there.
        batch.iter_mut().zip(values).for_each(|(to, &from)| *to = f64::from(from));
        for (lanes, made) in lanes.iter_mut().zip(of(&mut batch)) {
            add(lanes, &made[..values.len()]);
        }
    }
    lanes.map(close)
}

/// Adds value `i` to lane `i mod 8`.
#[inline]
fn add(lanes: &mut [f64; LANES], values: &[f64]) {
    let (whole, rest) = values.as_chunks::<LANES>();
    for values in whole {
        for (lane, value) in lanes.iter_mut().zip(values) {
            *lane += value;
        }
    }
    for (lane, value) in lanes.iter_mut().zip(rest) {
        *lane += value;
    }
}

/// The sum of a chunk from those of its lanes.
#[inline]
fn close([a, b, c, d, e, f, g, h]: [f64; LANES]) -> f64 {
    ((a + e) + (c + g)) + ((b + f) + (d + h))
}

/// How far [`near_sum`] may be from the sum that it stands for, as a share of it.
pub(super) const NEAR: f64 = 4.0e-5;

/// Nearly the sum of `e` to the power `value - max`, for at most [`CHUNK`] values that are not above
/// `max`; several times faster than the sum itself. No choice may depend on its exact value.
///
/// Differences below -80 count as -80, which is as good as nothing beside the 1 of the highest.
/// The share that is lost: 4e-6 by rounding a difference to f32, as much by taking it to the base
/// 2, 4e-6 by the polynomial of degree 5, 5e-6 by sums of 64 terms. The bound has twice that.
pub(super) fn near_sum(values: &[f32], max: f32) -> f32 {
    const ROUND: f32 = 12_582_912.0; // 1.5 * 2^23: leaves the nearest integer in the low bits
    let exp = |value: f32| {
        let x = value - max;
        let x = if x > -80.0 { x } else { -80.0 };
        let shifted = x * std::f32::consts::LOG2_E + ROUND;
        let r = x - (shifted - ROUND) * std::f32::consts::LN_2;
        let sum = 1.0 / 24.0 + r * (1.0 / 120.0);
        let sum = 1.0 + r * (1.0 + r * (0.5 + r * (1.0 / 6.0 + r * sum)));
        // Moved up, the low bits of `shifted` are the exponent's.
        f32::from_bits(sum.to_bits().wrapping_add(shifted.to_bits() << 23))
    };
    let mut lanes = [0.0; 16];
    let (whole, rest) = values.as_chunks::<16>();
    for group in whole {
        for (lane, &value) in lanes.iter_mut().zip(group) {
            *lane += exp(value);
        }
    }
    for (lane, &value) in lanes.iter_mut().zip(rest) {
        *lane += exp(value);
    }
    lanes.iter().sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_within_its_bound() {
        assert_eq!(exp(0.0), 1.0);
        assert_eq!(exp(-0.0), 1.0);
        assert_eq!(exp(f64::NEG_INFINITY), 0.0);
        assert_eq!(exp(-700.1), 0.0);
        assert_eq!(exp(f64::MIN), 0.0);
        let mut worst = 0.0_f64;
        for i in 0..1_000_000 {
            let x = -f64::from(i) * 7.0e-4;
            worst = worst.max((exp(x) / x.exp() - 1.0).abs());
        }
        for i in 0..1000 {
            let x = -f64::from(i) * 1.0e-6;
            worst = worst.max((exp(x) / x.exp() - 1.0).abs());
        }
        assert!(worst < 4e-13, "{worst:e}");
    }

    #[test]
    fn a_near_sum_is_near() {
        let mut state = 1_u64;
        for round in 0..2000 {
            let spread = [0.0, 1.0e-6, 0.5, 5.0, 30.0, 90.0, 1.0e38][round % 7];
            let max = [0.0, 17.25, -3.0e4, 3.0e38][round % 4];
            let n = [1, 15, 16, 17, 1000, CHUNK][round % 6];
            let mut values: Vec<f32> = (0..n)
                .map(|_| {
                    state =
                        state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                    max - (state >> 40) as f32 / (1 << 24) as f32 * spread
                })
                .collect();
            values[n / 3] = f32::NEG_INFINITY;
            values[n / 2] = max;
            let exact: f64 = values.iter().map(|&v| (f64::from(v) - f64::from(max)).exp()).sum();
            let found = f64::from(near_sum(&values, max));
            assert!(
                (found / exact - 1.0).abs() < NEAR / 2.0,
                "{spread} {max} {n}: {found}, {exact}"
            );
        }
    }

    #[test]
    fn exp_gives_the_recorded_bits() {
        // From tests/oracle/sampler_golden.py. A machine that differs here draws other tokens.
        for (x, bits) in [
            (-1.0, 0x3fd7_8b56_362c_f12b),
            (-0.1, 0x3fec_f46d_99d5_2b3a),
            (-12.345, 0x3ed2_4057_2f47_cb82),
            (-345.678, 0x20c3_971a_6744_4e9b_u64),
        ] {
            assert_eq!(exp(x).to_bits(), bits, "exp({x}) = {:#x}", exp(x).to_bits());
        }
    }

    #[test]
    fn ln_is_within_its_bound() {
        assert_eq!(ln(1.0), 0.0);
        let mut x = 1.0e-300;
        while x < 1.0e300 {
            let (found, expected) = (ln(x), x.ln());
            assert!((found - expected).abs() <= 1e-15 * expected.abs().max(1.0), "{x}: {found}");
            x *= 1.000_37;
        }
    }

    #[test]
    fn a_sum_follows_its_written_order() {
        for n in [0, 1, 7, 8, 9, 1023, 1024, 1025, 5000] {
            let values: Vec<f64> = (0..n).map(|i| 1.0 / (f64::from(i) + 0.3)).collect();
            let mut expected = 0.0;
            let mut chunks = Vec::new();
            for chunk in values.chunks(CHUNK) {
                let lane = |l: usize| chunk.iter().skip(l).step_by(8).fold(0.0, |a, v| a + v);
                let even = (lane(0) + lane(4)) + (lane(2) + lane(6));
                let odd = (lane(1) + lane(5)) + (lane(3) + lane(7));
                chunks.push(even + odd);
                expected += even + odd;
            }
            let mut seen = Vec::new();
            let found = sum(values.len(), |i| values[i], |s| seen.push(s));
            assert_eq!(found.to_bits(), expected.to_bits(), "n = {n}");
            assert_eq!(seen, chunks);
        }
    }
}
