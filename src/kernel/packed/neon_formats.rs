//! What the bits of a packed block mean, for NEON: four weights of 16 rows as four vectors, and the
//! scales of 16 rows as four. The formats are drawn in `quant`, the layout in `quant::p16`; here a
//! comment says only what is not said there.
//!
//! Codes are as they lie where they can be: unsigned ones are below 64, so that signed bytes hold
//! them.
#![allow(clippy::needless_range_loop, reason = "several arrays are walked together")]

use core::arch::aarch64::*;

use super::neon_scales::{
    Fields, Floats, Head, Plain, fields, half, half_powers, halves, negative, words,
};
use crate::base::dtype::DType;
use crate::kernel::insn_aarch64::{bit, sli};
use crate::quant::{E2M1_DOUBLED, IQ4_VALUES, p16};

/// Four weights of each of 16 rows: four rows to a vector.
pub(super) type Line = [int8x16_t; 4];
/// A number of each of 16 rows.
pub(super) type Rows = [float32x4_t; 4];
/// The same before it is known what the bytes are.
type Bytes = [uint8x16_t; 4];

/// A quantised type: from a block's codes and head. `b` counts the blocks of 32 in it.
pub(super) trait Format {
    const DTYPE: DType;
    /// Groups are of 16 weights.
    const OF_16: bool = false;
    /// Codes may be so large that 16 bits hold four products, but not eight.
    const LARGE: bool = false;
    /// Blocks of 32 that are unpacked in different ways, one after the other.
    const WAYS: usize = 1;
    /// One line (where groups are of 32, two) after the other is loaded and multiplied: where the
    /// compiler would load more than there are registers, and put it aside.
    const STEPS: bool = false;
    const PARTS: p16::Parts = match p16::parts(Self::DTYPE) {
        Some(parts) => parts,
        None => panic!("floats have no codes"),
    };
    /// The code that stands for 0.
    const ZERO: i32 = Self::PARTS.zero;
    /// Blocks of 32 in a block.
    const INNER: usize = Self::DTYPE.block_len() / 32;

    /// What scales and minima are made of.
    type Head: Head;

    /// The weights `4 j .. 4 j + 4` of block `b`.
    fn line(codes: &[u8], b: usize, j: usize) -> Line;
    /// Goes on to the next block, whose head is `bytes`; all of [`Format::ahead`] is done.
    fn head(bytes: &[u8], head: &mut Self::Head) -> Floats;
    /// An eighth, the `i`-th, of what takes the next block's head apart.
    fn ahead(bytes: &[u8], head: &mut Self::Head, i: usize);
    /// The scale of group `g`.
    fn scale(head: &Self::Head, floats: &Floats, g: usize) -> Rows;
    /// The minimum of group `g`, where there are minima.
    fn min(head: &Self::Head, floats: &Floats, g: usize) -> Rows;
}

// ------------------------------------------------------------------------------------- codes

/// Line `i` of codes, or the words `i` lines into a head.
#[inline(always)]
fn bytes(x: &[u8], i: usize) -> Bytes {
    let line = &x[64 * i..64 * i + 64];
    // SAFETY: 64 bytes are read, of any alignment.
    [0, 16, 32, 48].map(|at| unsafe { vld1q_u8(line[at..at + 16].as_ptr()) })
}

#[inline(always)]
fn signed(x: Bytes) -> Line {
    // SAFETY: NEON is part of every target that this file is compiled for.
    x.map(|x| unsafe { vreinterpretq_s8_u8(x) })
}

/// The upper or the lower nibble of each byte.
#[inline(always)]
fn nibble(x: Bytes, upper: bool) -> Bytes {
    // SAFETY: NEON is part of every target that this file is compiled for.
    x.map(|x| unsafe { if upper { vshrq_n_u8::<4>(x) } else { vandq_u8(x, vdupq_n_u8(15)) } })
}

/// Each byte, `shift` bits down; up, if that is negative. Known where this is used, or it is slow.
#[inline(always)]
fn down(x: Bytes, shift: isize) -> Bytes {
    macro_rules! shifts {
        ($($n:literal)*) => {
            match shift {
                // SAFETY: NEON is part of every target that this file is compiled for.
                $($n => x.map(|x| unsafe { vshrq_n_u8::<$n>(x) }),)*
                // SAFETY: as above.
                $(_ if shift == -$n => x.map(|x| unsafe { vshlq_n_u8::<$n>(x) }),)*
                _ => x,
            }
        };
    }
    shifts!(1 2 3 4 5 6 7)
}

/// The bits of `MASK` of each byte.
#[inline(always)]
fn masked<const MASK: u8>(x: Bytes) -> Bytes {
    // SAFETY: NEON is part of every target that this file is compiled for.
    x.map(|x| unsafe { vandq_u8(x, vdupq_n_u8(MASK)) })
}

/// `x` with the bits of `MASK` from `bits`.
#[inline(always)]
fn insert<const MASK: u8>(x: Bytes, bits: Bytes) -> Bytes {
    // SAFETY: NEON is part of every target that this file is compiled for.
    let mask = unsafe { vdupq_n_u8(MASK) };
    std::array::from_fn(|i| bit(x[i], bits[i], mask))
}

/// The lower `N` bits of `x`, and above them those bits of `bits` that `MASK` keeps then.
#[inline(always)]
fn above<const N: u32, const MASK: u8>(x: Bytes, bits: Bytes) -> Bytes {
    masked::<MASK>(std::array::from_fn(|i| sli::<N>(x[i], bits[i])))
}

/// Line `j` of the eight of 16 bytes of nibbles that begin with line `first`: low ones, then high
/// ones.
#[inline(always)]
fn nibbles(codes: &[u8], first: usize, j: usize) -> Bytes {
    nibble(bytes(codes, first + j % 4), j >= 4)
}

/// The codes of Q5_0 and Q5_1: the lines `j` and `j + 4` share a byte, and the shift of their fifth
/// bits.
#[inline(always)]
fn five_bits(codes: &[u8], j: usize) -> Line {
    let (x, fifth) = (bytes(codes, 1 + j % 4), down(bytes(codes, 0), (j % 4) as isize));
    signed(if j < 4 { above::<4, 31>(x, fifth) } else { insert::<16>(nibble(x, true), fifth) })
}

/// The codes of Q2_K and TQ2_0, and with `first` 8 the low bits of Q3_K.
#[inline(always)]
fn two_bits(codes: &[u8], first: usize, b: usize, j: usize) -> Bytes {
    let x = down(bytes(codes, first + b / 4 * 8 + j), 2 * (b % 4) as isize);
    if b % 4 == 3 { x } else { masked::<3>(x) }
}

/// The entries of a table of 16 that nibbles stand for.
#[inline(always)]
fn look_up(table: &[i8; 16], x: Bytes) -> Line {
    // SAFETY: 16 bytes are read.
    let table = unsafe { vld1q_s8(table.as_ptr()) };
    // SAFETY: NEON is part of every target that this file is compiled for.
    x.map(|x| unsafe { vqtbl1q_s8(table, x) })
}

/// Less the digit after the first `n` of each byte, a fraction in base 3: one for 86 / 256 and above,
/// one more for 171 / 256 and above.
#[inline(always)]
fn digit(x: Bytes, n: usize) -> Line {
    let power = [1, 3, 9, 27, 81][n];
    // SAFETY: NEON is part of every target that this file is compiled for.
    x.map(|x| unsafe {
        let x = if n == 0 { x } else { vmulq_u8(x, vdupq_n_u8(power)) };
        // All ones where it is so, which is -1.
        let first = vcgeq_u8(x, vdupq_n_u8(86));
        let second = vcgeq_u8(x, vdupq_n_u8(171));
        vreinterpretq_s8_u8(vaddq_u8(first, second))
    })
}

// ----------------------------------------------------------------------------------- formats

macro_rules! formats {
    ($($name:ident: $dtype:ident { $($body:tt)* })*) => {
        $(pub(super) struct $name;
        impl Format for $name {
            const DTYPE: DType = DType::$dtype;
            $($body)*
        })*
    };
}

/// Scales of formats with one in a block, and with one minimum if they have one.
macro_rules! scale {
    (|$bytes:ident| $scale:expr) => {
        type Head = Plain;

        #[inline(always)]
        fn head($bytes: &[u8], _: &mut Plain) -> Floats {
            let scale = $scale;
            [scale, if Self::PARTS.min { half($bytes, 1) } else { scale }]
        }

        #[inline(always)]
        fn ahead(_: &[u8], _: &mut Plain, _: usize) {}

        #[inline(always)]
        fn scale(_: &Plain, [scale, _]: &Floats, _: usize) -> Rows {
            *scale
        }

        #[inline(always)]
        fn min(_: &Plain, [_, min]: &Floats, _: usize) -> Rows {
            *min
        }
    };
    () => {
        scale!(|bytes| half(bytes, 0));
    };
}

/// Scales of formats that pack them, less `$zero`: `$fields` gives those of two rows, `$of` a group's
/// four and its place there.
macro_rules! packed {
    ($scales:literal, $mins:literal, $zero:literal, |$bytes:pat_param, $i:pat_param| $fields:expr,
        |$g:pat_param| $of:expr) => {
        type Head = Fields<$scales, $mins>;

        #[inline(always)]
        fn head(bytes: &[u8], head: &mut Self::Head) -> Floats {
            head.go_on(bytes, $zero)
        }

        #[inline(always)]
        fn ahead(bytes: &[u8], head: &mut Self::Head, i: usize) {
            let fields = |$bytes: &[u8], $i: usize| $fields;
            let (scales, mins) = fields(bytes, i);
            head.ahead(i, scales, mins);
        }

        #[inline(always)]
        fn scale(head: &Self::Head, floats: &Floats, $g: usize) -> Rows {
            let (set, i) = $of;
            head.scale(floats, set, i)
        }

        #[inline(always)]
        fn min(head: &Self::Head, floats: &Floats, $g: usize) -> Rows {
            let (set, i) = $of;
            head.min(floats, set, i)
        }
    };
}

/// Scales of Q4_K and Q5_K.
macro_rules! scales_of_6_bits {
    () => {
        packed!(
            2,
            2,
            0,
            |bytes, i| {
                let [own, least, low] = [4, 8, 12].map(|at| words(bytes, at, i));
                let (scales, mins) = (fields(low, 0, 15), fields(low, 4, 15));
                (
                    [fields(own, 0, 63), scales | fields(own, 2, 48)],
                    [fields(least, 0, 63), mins | fields(least, 2, 48)],
                )
            },
            |g| (g / 4, g % 4)
        );
    };
}

/// `line`, from an expression.
macro_rules! line {
    (|$codes:pat_param, $b:pat_param, $j:pat_param| $line:expr) => {
        #[inline(always)]
        fn line($codes: &[u8], $b: usize, $j: usize) -> Line {
            $line
        }
    };
}

formats! {
    Q4_0: Q4_0 {
        line!(|codes, _, j| signed(nibbles(codes, 0, j)));
        scale!();
    }
    Q4_1: Q4_1 {
        line!(|codes, _, j| signed(nibbles(codes, 0, j)));
        scale!();
    }
    Q5_0: Q5_0 {
        const STEPS: bool = true;
        line!(|codes, _, j| five_bits(codes, j));
        scale!();
    }
    Q5_1: Q5_1 {
        const STEPS: bool = true;
        line!(|codes, _, j| five_bits(codes, j));
        scale!();
    }
    Q8_0: Q8_0 {
        const LARGE: bool = true;
        line!(|codes, _, j| signed(bytes(codes, j)));
        scale!();
    }
    Iq4Nl: Iq4Nl {
        const STEPS: bool = true;
        const LARGE: bool = true;
        line!(|codes, _, j| look_up(&IQ4_VALUES, nibbles(codes, 0, j)));
        scale!();
    }
    Mxfp4: Mxfp4 {
        const STEPS: bool = true;
        /// The table is signed.
        const ZERO: i32 = 0;
        line!(|codes, _, j| look_up(&E2M1_DOUBLED, nibbles(codes, 0, j)));
        scale!(|bytes| half_powers(bytes));
    }
    Q2K: Q2K {
        const OF_16: bool = true;
        const WAYS: usize = 4;
        line!(|codes, b, j| signed(two_bits(codes, 0, b, j)));
        packed!(
            4,
            4,
            0,
            |bytes, i| {
                    let words = [4, 8, 12, 16].map(|at| words(bytes, at, i));
                    (words.map(|x| fields(x, 0, 15)), words.map(|x| fields(x, 4, 15)))
            },
            |g| (g / 4, g % 4)
        );
    }
    Q3K: Q3K {
        const OF_16: bool = true;
        const STEPS: bool = true;
        const WAYS: usize = 8;
        line!(|codes, b, j| {
            let high = bytes(codes, j);
            if b == 0 {
                signed(above::<2, 7>(bytes(codes, 8 + j), high))
            } else {
                signed(insert::<4>(two_bits(codes, 8, b, j), down(high, b as isize - 2)))
            }
        });
        packed!(
            4,
            0,
            32,
            |bytes, i| {
                    let [x, y, high] = [2, 6, 10].map(|at| words(bytes, at, i));
                    let scales = [
                        fields(x, 0, 15) | fields(high, -4, 48),
                        fields(y, 0, 15) | fields(high, -2, 48),
                        fields(x, 4, 15) | fields(high, 0, 48),
                        fields(y, 4, 15) | fields(high, 2, 48),
                    ];
                    (scales, [])
            },
            |g| (g / 4, g % 4)
        );
    }
    Q4K: Q4K {
        const STEPS: bool = true;
        const WAYS: usize = 4;
        line!(|codes, b, j| signed(nibble(bytes(codes, b / 2 * 8 + j), b % 2 == 1)));
        scales_of_6_bits!();
    }
    Q5K: Q5K {
        const STEPS: bool = true;
        const WAYS: usize = 8;
        line!(|codes, b, j| {
            let (x, fifth) = (bytes(codes, 8 + b / 2 * 8 + j), bytes(codes, j));
            signed(match b {
                0 => above::<4, 31>(x, fifth),
                _ => insert::<16>(nibble(x, b % 2 == 1), down(fifth, b as isize - 4)),
            })
        });
        scales_of_6_bits!();
    }
    Q6K: Q6K {
        const OF_16: bool = true;
        const STEPS: bool = true;
        const WAYS: usize = 4;
        line!(|codes, b, j| {
            let (half, i) = (b / 4, b % 4);
            let x = bytes(codes, half * 16 + i % 2 * 8 + j);
            let high = bytes(codes, 32 + half * 8 + j);
            signed(match i {
                0 => above::<4, 63>(x, high),
                _ => insert::<48>(nibble(x, i >= 2), down(high, 2 * i as isize - 4)),
            })
        });
        packed!(
            4,
            0,
            128,
            |bytes, i| {
                    // The sign bit flipped makes a signed byte an unsigned one, 128 too large.
                    let words = [2, 6, 10, 14].map(|at| words(bytes, at, i));
                    (words.map(|x| x ^ 0x8080_8080_8080_8080), [])
            },
            |g| (g / 4, g % 4)
        );
    }
    Iq4Xs: Iq4Xs {
        const LARGE: bool = true;
        const STEPS: bool = true;
        const WAYS: usize = 8;
        line!(|codes, b, j| look_up(&IQ4_VALUES, nibbles(codes, 4 * b, j)));
        packed!(
            2,
            0,
            32,
            |bytes, i| {
                    // Two bits of each of eight groups, two groups to a byte.
                    let x = halves(bytes, 2, i);
                    let x = (x | x << 8) & 0x00ff_00ff_00ff_00ff;
                    let (low, high) = (words(bytes, 4, i), x | x << 4);
                    let scales = [
                        fields(low, 0, 15) | fields(high, -4, 48),
                        fields(low, 4, 15) | fields(high, -2, 48),
                    ];
                    (scales, [])
            },
            |g| (g % 2, g / 2)
        );
    }
    Tq1_0: Tq1_0 {
        const STEPS: bool = true;
        /// Both codes and scales are those of the file with the other sign.
        const ZERO: i32 = -1;
        const WAYS: usize = 8;
        /// Digits of fractions in base 3. Five of each of 32 bytes are the first 160 weights; five
        /// of each of 16 bytes the next 80; four of each of 4 bytes the rest.
        #[inline(always)]
        fn line(codes: &[u8], b: usize, j: usize) -> Line {
            let (at, n) = match (b, j) {
                (0..5, _) => (j, b),
                (7, 4..) => (12, j - 4),
                _ => (8 + j % 4, 2 * (b - 5) + j / 4),
            };
            digit(bytes(codes, at), n)
        }
        scale!(|bytes| negative(half(bytes, 0)));
    }
    Tq2_0: Tq2_0 {
        const WAYS: usize = 4;
        line!(|codes, b, j| signed(two_bits(codes, 0, b, j)));
        scale!();
    }
}
