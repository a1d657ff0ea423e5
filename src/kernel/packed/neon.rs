//! Packed weights for plain NEON: products of bytes are added up in 16 bits, four weights of a row
//! to four neighbouring lanes, and those in 32.

use core::arch::aarch64::*;

use super::Packed;
use super::neon_formats::{Format, Line};
use super::neon_gemv::gemv;
use super::neon_rungs::rung;
use super::neon_tiles::{self, Dot, Ints};
use crate::base::pool::Columns;
use crate::kernel::Activations;

/// Products by `smull` and `smlal`.
struct Widen;

/// Four codes of a token in every lane.
#[inline(always)]
fn four<const LANE: i32>(a: int8x16_t) -> int8x16_t {
    // SAFETY: NEON is part of every target that this file is compiled for.
    unsafe { vreinterpretq_s8_s32(vdupq_laneq_s32::<LANE>(vreinterpretq_s32_s8(a))) }
}

/// The products of two rows, then of two more, by four weights each.
#[inline(always)]
fn products(w: int8x16_t, a: int8x16_t) -> [int16x8_t; 2] {
    // SAFETY: NEON is part of every target that this file is compiled for.
    unsafe { [vmull_s8(vget_low_s8(w), vget_low_s8(a)), vmull_high_s8(w, a)] }
}

/// `sum` and [`products`].
#[inline(always)]
fn add(sum: [int16x8_t; 2], w: int8x16_t, a: int8x16_t) -> [int16x8_t; 2] {
    // SAFETY: NEON is part of every target that this file is compiled for.
    unsafe { [vmlal_s8(sum[0], vget_low_s8(w), vget_low_s8(a)), vmlal_high_s8(sum[1], w, a)] }
}

impl Dot for Widen {
    const TOKENS: usize = 2;
    const IN_16_BITS: bool = true;

    #[inline(always)]
    fn dots<const T: usize, const OF_16: bool, const LARGE: bool, const STEPS: bool>(
        h: usize,
        start: [i32; T],
        line: impl Fn(usize) -> Line,
        a: [[int8x16_t; 2]; T],
    ) -> [Ints; T] {
        // SAFETY: NEON is part of every target that this file is compiled for.
        let (zero, none) = unsafe { (vdupq_n_s32(0), vdupq_n_s16(0)) };
        let mut pairs = [[[zero; 2]; 4]; T];
        let mut sums = [[[none; 2]; 4]; T];
        // Codes of fewer than 7 bits: 8 products of at most 31 * 127, or 4 of at most 63 * 127, fit
        // 16 bits. Others: 2 of at most 128 * 127.
        macro_rules! add {
            ($first:expr, $half:expr, $lane:literal) => {
                let w = line(4 * $half + $lane);
                for t in 0..T {
                    let a = four::<$lane>(a[t][$half]);
                    for i in 0..4 {
                        sums[t][i] = match $first {
                            true => products(w[i], a),
                            false => add(sums[t][i], w[i], a),
                        };
                    }
                }
            };
        }
        macro_rules! two {
            ($half:expr, $lane:literal, $next:literal) => {
                let (w, v) = (line(4 * $half + $lane), line(4 * $half + $next));
                for t in 0..T {
                    let (a, b) = (four::<$lane>(a[t][$half]), four::<$next>(a[t][$half]));
                    for i in 0..4 {
                        let sum = add(products(w[i], a), v[i], b);
                        for s in 0..2 {
                            // SAFETY: NEON is part of every target that this file is compiled for.
                            pairs[t][i][s] = unsafe { vpadalq_s16(pairs[t][i][s], sum[s]) };
                        }
                    }
                }
            };
        }
        match (OF_16, LARGE) {
            (false, false) => {
                // Four-bit codes of both halves come from the same bytes.
                add!(true, 1, 0);
                add!(false, 0, 0);
                add!(false, 1, 1);
                add!(false, 0, 1);
                add!(false, 1, 2);
                add!(false, 0, 2);
                add!(false, 1, 3);
                add!(false, 0, 3);
            }
            (true, false) => {
                add!(true, h, 0);
                add!(false, h, 1);
                add!(false, h, 2);
                add!(false, h, 3);
            }
            (false, true) => {
                two!(0, 0, 1);
                two!(1, 0, 1);
                two!(0, 2, 3);
                two!(1, 2, 3);
            }
            (true, true) => {
                two!(h, 0, 1);
                two!(h, 2, 3);
            }
        }
        let mut ints = [[zero; 4]; T];
        for t in 0..T {
            for i in 0..4 {
                // SAFETY: NEON is part of every target that this file is compiled for.
                unsafe {
                    if !LARGE {
                        pairs[t][i] = sums[t][i].map(|sum| vpaddlq_s16(sum));
                    }
                    let sum = vpaddq_s32(pairs[t][i][0], pairs[t][i][1]);
                    ints[t][i] = vaddq_s32(sum, vdupq_n_s32(start[t]));
                }
            }
        }
        ints
    }
}

/// Multiplies one token.
#[target_feature(enable = "neon")]
#[inline(never)]
fn one<F: Format>(w: &Packed<'_>, act: &Activations<'_>, out: &mut Columns<'_, f32>) {
    gemv::<F, Widen>(w, act, out);
}

rung!("neon", Widen, None);
