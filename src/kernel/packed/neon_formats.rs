//! What the bits of a packed block mean, for NEON: four weights of 16 rows as four vectors, and the
//! scales of 16 rows as four. The formats are drawn in `quant`, the layout in `quant::p16`; here a
//! comment says only what is not said there.
//!
//! Codes are as they lie where they can be: unsigned ones are below 64, so that signed bytes hold
//! them.
#![allow(clippy::needless_range_loop, reason = "several arrays are walked together")]

use core::arch::aarch64::*;
use core::arch::asm;

use crate::base::dtype::DType;
use crate::kernel::insn_aarch64::{f32_from_f16, f32_from_f16_high};
use crate::quant::{E2M1_DOUBLED, IQ4_VALUES, p16};

/// Four weights of each of 16 rows: four rows to a vector.
pub(super) type Line = [int8x16_t; 4];
/// A number of each of 16 rows.
pub(super) type Rows = [float32x4_t; 4];
/// The same before it is known what the bytes are.
type Bytes = [uint8x16_t; 4];
/// A word of each of 16 rows.
type Words = [uint32x4_t; 4];

/// Most groups of a block: 16 of 16 weights.
pub(super) const MOST_GROUPS: usize = 16;

/// A quantised type: from a block's codes and head. `b` counts the blocks of 32 in it.
pub(super) trait Format {
    const DTYPE: DType;
    /// Groups are of 16 weights.
    const OF_16: bool = false;
    /// Codes may be so large that 16 bits hold four products, but not eight.
    const LARGE: bool = false;
    /// Blocks of 32 that are unpacked in different ways, one after the other.
    const WAYS: usize = 1;
    const PARTS: p16::Parts = match p16::parts(Self::DTYPE) {
        Some(parts) => parts,
        None => panic!("floats have no codes"),
    };
    /// The code that stands for 0.
    const ZERO: i32 = Self::PARTS.zero;
    /// Blocks of 32 in a block.
    const INNER: usize = Self::DTYPE.block_len() / 32;

    /// The weights `4 j .. 4 j + 4` of block `b`.
    fn line(codes: &[u8], b: usize, j: usize) -> Line;
    /// Writes the scales of all groups of a block, and their minima where there are any.
    fn scales(head: &[u8], scales: &mut [Rows], mins: &mut [Rows]);
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

/// Each byte, `shift` bits down; up, if that is negative.
#[inline(always)]
fn down(x: Bytes, shift: isize) -> Bytes {
    // SAFETY: NEON is part of every target that this file is compiled for.
    x.map(|x| unsafe { vshlq_u8(x, vdupq_n_s8(-(shift as i8))) })
}

/// The bits of `mask` of each byte.
#[inline(always)]
fn masked(x: Bytes, mask: u8) -> Bytes {
    // SAFETY: NEON is part of every target that this file is compiled for.
    x.map(|x| unsafe { vandq_u8(x, vdupq_n_u8(mask)) })
}

/// `x` with the bits of `mask` from `bits`: one instruction, which the compiler takes apart.
#[inline(always)]
fn insert(x: Bytes, bits: Bytes, mask: u8) -> Bytes {
    let mut x = x;
    for i in 0..4 {
        // SAFETY: registers in, register out; the instruction is part of NEON, which is part of
        // every target that this file is compiled for.
        unsafe {
            asm!("bit {x:v}.16b, {bits:v}.16b, {mask:v}.16b", x = inout(vreg) x[i],
                bits = in(vreg) bits[i], mask = in(vreg) vdupq_n_u8(mask),
                options(pure, nomem, nostack, preserves_flags));
        }
    }
    x
}

/// Line `j` of the eight of 16 bytes of nibbles that begin with line `first`: low ones, then high
/// ones.
#[inline(always)]
fn nibbles(codes: &[u8], first: usize, j: usize) -> Bytes {
    nibble(bytes(codes, first + j % 4), j >= 4)
}

/// The codes of Q5_0 and Q5_1.
#[inline(always)]
fn five_bits(codes: &[u8], j: usize) -> Line {
    signed(insert(nibbles(codes, 1, j), down(bytes(codes, 0), j as isize - 4), 16))
}

/// The codes of Q2_K and TQ2_0, and with `first` 8 the low bits of Q3_K.
#[inline(always)]
fn two_bits(codes: &[u8], first: usize, b: usize, j: usize) -> Bytes {
    masked(down(bytes(codes, first + b / 4 * 8 + j), 2 * (b % 4) as isize), 3)
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
        let x = vmulq_u8(x, vdupq_n_u8(power));
        // All ones where it is so, which is -1.
        let first = vcgeq_u8(x, vdupq_n_u8(86));
        let second = vcgeq_u8(x, vdupq_n_u8(171));
        vreinterpretq_s8_u8(vaddq_u8(first, second))
    })
}

// ------------------------------------------------------------------------------------ scales

/// Numbers of two bytes: the `i`-th of the head.
#[inline(always)]
fn pairs(head: &[u8], i: usize) -> [uint16x8_t; 2] {
    let pairs = &head[32 * i..32 * i + 32];
    // SAFETY: 16 bytes are read each time.
    [0, 16].map(|at| unsafe { vreinterpretq_u16_u8(vld1q_u8(pairs[at..at + 16].as_ptr())) })
}

/// Half-precision numbers: the `i`-th of the head.
#[inline(always)]
fn half(head: &[u8], i: usize) -> Rows {
    let [x, y] = pairs(head, i);
    // SAFETY: NEON is part of every target that this file is compiled for.
    unsafe {
        [
            f32_from_f16(vget_low_u16(x)),
            f32_from_f16_high(x),
            f32_from_f16(vget_low_u16(y)),
            f32_from_f16_high(y),
        ]
    }
}

#[inline(always)]
fn negative(x: Rows) -> Rows {
    // SAFETY: NEON is part of every target that this file is compiled for.
    x.map(|x| unsafe { vnegq_f32(x) })
}

/// The word of scales that begins `at` bytes into a row's head.
#[inline(always)]
fn words(head: &[u8], at: usize) -> Words {
    // SAFETY: NEON is part of every target that this file is compiled for.
    bytes(&head[p16::ROWS * at..], 0).map(|x| unsafe { vreinterpretq_u32_u8(x) })
}

/// In each byte, the bits of `x`, `shift` down, that `mask` keeps.
#[inline(always)]
fn fields(x: Words, shift: usize, mask: u8) -> Words {
    // SAFETY: NEON is part of every target that this file is compiled for.
    x.map(|x| unsafe {
        let mask = vdupq_n_u32(u32::from_le_bytes([mask; 4]));
        let x = if shift == 0 { x } else { vshlq_u32(x, vdupq_n_s32(-(shift as i32))) };
        vandq_u32(x, mask)
    })
}

/// `low | high << 4`
#[inline(always)]
fn join(low: Words, high: Words) -> Words {
    // SAFETY: NEON is part of every target that this file is compiled for.
    std::array::from_fn(|i| unsafe { vorrq_u32(low[i], vshlq_n_u32::<4>(high[i])) })
}

/// Byte `i` of every word, less `zero`, times `d`, for i from 0 to 3.
#[inline(always)]
fn scaled(x: Words, zero: u8, d: Rows, out: &mut [Rows]) {
    // SAFETY: NEON is part of every target that this file is compiled for.
    unsafe {
        // Above a byte in the lower half of a word, this makes a float of 2^23 more.
        let upper = vdupq_n_u16(0x4b00);
        let less = vdupq_n_f32(8_388_608.0 + f32::from(zero));
        for r in 0..4 {
            let x = vreinterpretq_u16_u32(x[r]);
            let (even, odd) = (vandq_u16(x, vdupq_n_u16(255)), vshrq_n_u16::<8>(x));
            let bytes = [
                vtrn1q_u16(even, upper),
                vtrn1q_u16(odd, upper),
                vtrn2q_u16(even, upper),
                vtrn2q_u16(odd, upper),
            ];
            for i in 0..4 {
                let field = vsubq_f32(vreinterpretq_f32_u16(bytes[i]), less);
                out[i][r] = vmulq_f32(field, d[r]);
            }
        }
    }
}

/// `scales` of Q4_K and Q5_K, and `mins`.
#[inline(always)]
fn scales_of_6_bits(head: &[u8], scales: &mut [Rows], mins: &mut [Rows]) {
    let (d, m) = (half(head, 0), negative(half(head, 1)));
    let (own, least, low) = (words(head, 4), words(head, 8), words(head, 12));
    scaled(fields(own, 0, 63), 0, d, &mut scales[..4]);
    scaled(join(fields(low, 0, 15), fields(own, 6, 3)), 0, d, &mut scales[4..8]);
    scaled(fields(least, 0, 63), 0, m, &mut mins[..4]);
    scaled(join(fields(low, 4, 15), fields(least, 6, 3)), 0, m, &mut mins[4..8]);
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

/// `scales` of formats with one half-precision scale in a block, and with a minimum if they have one.
macro_rules! scale {
    () => {
        #[inline(always)]
        fn scales(head: &[u8], scales: &mut [Rows], mins: &mut [Rows]) {
            let scale = half(head, 0);
            scales[..Self::INNER].fill(scale);
            if Self::PARTS.min {
                mins[0] = half(head, 1);
            }
        }
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
        line!(|codes, _, j| five_bits(codes, j));
        scale!();
    }
    Q5_1: Q5_1 {
        line!(|codes, _, j| five_bits(codes, j));
        scale!();
    }
    Q8_0: Q8_0 {
        const LARGE: bool = true;
        line!(|codes, _, j| signed(bytes(codes, j)));
        scale!();
    }
    Iq4Nl: Iq4Nl {
        const LARGE: bool = true;
        line!(|codes, _, j| look_up(&IQ4_VALUES, nibbles(codes, 0, j)));
        scale!();
    }
    Mxfp4: Mxfp4 {
        /// The table is signed.
        const ZERO: i32 = 0;
        line!(|codes, _, j| look_up(&E2M1_DOUBLED, nibbles(codes, 0, j)));
        /// Half of 2^(e - 127): exponent e - 1, or for 0 and 1 the subnormals 2^-128 and 2^-127.
        #[inline(always)]
        fn scales(head: &[u8], scales: &mut [Rows], _: &mut [Rows]) {
            // SAFETY: 16 bytes are read; NEON is part of every target that this file is compiled
            // for.
            unsafe {
                let e = vld1q_u8(head[..16].as_ptr());
                let (low, high) = (vmovl_u8(vget_low_u8(e)), vmovl_high_u8(e));
                let e = [
                    vmovl_u16(vget_low_u16(low)),
                    vmovl_high_u16(low),
                    vmovl_u16(vget_low_u16(high)),
                    vmovl_high_u16(high),
                ];
                scales[0] = e.map(|e| {
                    let one = vdupq_n_u32(1);
                    let normal = vshlq_n_u32::<23>(vsubq_u32(e, one));
                    let tiny = vshlq_u32(vdupq_n_u32(0x0020_0000), vreinterpretq_s32_u32(e));
                    vreinterpretq_f32_u32(vbslq_u32(vcleq_u32(e, one), tiny, normal))
                });
            }
        }
    }
    Q2K: Q2K {
        const OF_16: bool = true;
        line!(|codes, b, j| signed(two_bits(codes, 0, b, j)));
        #[inline(always)]
        fn scales(head: &[u8], scales: &mut [Rows], mins: &mut [Rows]) {
            let (d, m) = (half(head, 0), negative(half(head, 1)));
            for i in 0..4 {
                let x = words(head, 4 + 4 * i);
                scaled(fields(x, 0, 15), 0, d, &mut scales[4 * i..4 * i + 4]);
                scaled(fields(x, 4, 15), 0, m, &mut mins[4 * i..4 * i + 4]);
            }
        }
    }
    Q3K: Q3K {
        const OF_16: bool = true;
        line!(|codes, b, j| {
            let high = down(bytes(codes, j), b as isize - 2);
            signed(insert(two_bits(codes, 8, b, j), high, 4))
        });
        #[inline(always)]
        fn scales(head: &[u8], scales: &mut [Rows], _: &mut [Rows]) {
            let (d, high) = (half(head, 0), words(head, 10));
            for i in 0..4 {
                let low = fields(words(head, 2 + i % 2 * 4), 4 * (i / 2), 15);
                let scale = join(low, fields(high, 2 * i, 3));
                scaled(scale, 32, d, &mut scales[4 * i..4 * i + 4]);
            }
        }
    }
    Q4K: Q4K {
        const WAYS: usize = 2;
        line!(|codes, b, j| signed(nibble(bytes(codes, b / 2 * 8 + j), b % 2 == 1)));
        #[inline(always)]
        fn scales(head: &[u8], scales: &mut [Rows], mins: &mut [Rows]) {
            scales_of_6_bits(head, scales, mins);
        }
    }
    Q5K: Q5K {
        const WAYS: usize = 2;
        line!(|codes, b, j| {
            let low = nibble(bytes(codes, 8 + b / 2 * 8 + j), b % 2 == 1);
            signed(insert(low, down(bytes(codes, j), b as isize - 4), 16))
        });
        #[inline(always)]
        fn scales(head: &[u8], scales: &mut [Rows], mins: &mut [Rows]) {
            scales_of_6_bits(head, scales, mins);
        }
    }
    Q6K: Q6K {
        const OF_16: bool = true;
        const WAYS: usize = 4;
        line!(|codes, b, j| {
            let (half, i) = (b / 4, b % 4);
            let low = nibble(bytes(codes, half * 16 + i % 2 * 8 + j), i >= 2);
            signed(insert(low, down(bytes(codes, 32 + half * 8 + j), 2 * i as isize - 4), 48))
        });
        #[inline(always)]
        fn scales(head: &[u8], scales: &mut [Rows], _: &mut [Rows]) {
            let d = half(head, 0);
            for i in 0..4 {
                // The sign bit flipped makes a signed byte an unsigned one, 128 too large.
                // SAFETY: NEON is part of every target that this file is compiled for.
                let x = words(head, 2 + 4 * i)
                    .map(|x| unsafe { veorq_u32(x, vdupq_n_u32(0x8080_8080)) });
                scaled(x, 128, d, &mut scales[4 * i..4 * i + 4]);
            }
        }
    }
    Iq4Xs: Iq4Xs {
        const LARGE: bool = true;
        line!(|codes, b, j| look_up(&IQ4_VALUES, nibbles(codes, 4 * b, j)));
        #[inline(always)]
        fn scales(head: &[u8], scales: &mut [Rows], _: &mut [Rows]) {
            let (d, low, [x, y]) = (half(head, 0), words(head, 4), pairs(head, 1));
            // SAFETY: NEON is part of every target that this file is compiled for.
            unsafe {
                let high = [
                    vmovl_u16(vget_low_u16(x)),
                    vmovl_high_u16(x),
                    vmovl_u16(vget_low_u16(y)),
                    vmovl_high_u16(y),
                ];
                for (b, scale) in scales[..8].iter_mut().enumerate() {
                    let down = |x, by: usize| vshlq_u32(x, vdupq_n_s32(-(by as i32)));
                    for r in 0..4 {
                        let low = vandq_u32(down(low[r], 4 * b), vdupq_n_u32(15));
                        let high = vandq_u32(down(high[r], 2 * b), vdupq_n_u32(3));
                        let s = vcvtq_f32_u32(vorrq_u32(low, vshlq_n_u32::<4>(high)));
                        scale[r] = vmulq_f32(vsubq_f32(s, vdupq_n_f32(32.0)), d[r]);
                    }
                }
            }
        }
    }
    Tq1_0: Tq1_0 {
        const ZERO: i32 = -1;
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
        /// Both codes and scales are those of the file with the other sign.
        #[inline(always)]
        fn scales(head: &[u8], scales: &mut [Rows], _: &mut [Rows]) {
            scales[..Self::INNER].fill(negative(half(head, 0)));
        }
    }
    Tq2_0: Tq2_0 {
        line!(|codes, b, j| signed(two_bits(codes, 0, b, j)));
        scale!();
    }
}
