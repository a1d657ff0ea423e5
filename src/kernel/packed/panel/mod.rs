//! Panels: the fast numerics for many tokens. Weights are brought to 8 bits with one scale for a row
//! and 256 weights, activations with one for 32, whatever the type of the weights: so all types are
//! multiplied by one loop, which adds up 32 products as integers before it touches a float.
//!
//! ```text
//! tokens      in tiles of 12, each rounded once to 8 bits      q = x / d, d = max |x| / 127
//! weights     for each 16 or 32 rows, in pieces of 1024:
//!                 unpack to 8 bits                             p = w / s, s = most |w| / top
//!                 for each tile: multiply
//! in each 256 weights, in order, the last ones fewer:
//!     part = -M * (d + .. + d)                                  M = 1.5 * 2^23
//!     part = fma(M + sum of p * q, d, part)                    for each 32, in order
//!     acc  = fma(part, s, acc)
//! ```
//! Adding `M` to an integer of less than 22 bits, as integers, makes a float of it: no instruction
//! converts, and the `M`s cancel each other but for what `part` is rounded by, a few `d`. That is
//! some hundredths of what rounding to 8 bits does. All else is exact: so the bits are the
//! same on every rung, and for any threads.
//!
//! How a weight `scale * (code - zero) + min` becomes `p`, in a row and piece; `B`, `zero`, `low`,
//! `high` and `top`, 127 or a little less, are those of the type ([`Span`]), `code` is unsigned:
//! ```text
//! most = max over groups of |fma(scale, low, min)|, |fma(scale, high, min)|, at most f32::MAX;
//!        where codes reach -128, of -128 * scale too
//! s    = most / top;  inv = top / most;  both 0 if most < 2^-100
//! a    = even(scale * (inv * 2^(6 + B)))                     16 bits
//! b    = even(fma(scale, 2^(B - 1) - zero, min) * inv * 128) + 64
//! x    = (code - 2^(B - 1)) << (16 - B)                      16 bits
//! p    = ((x * a + 2^14 >> 15) + b) >> 7
//! ```
//! `even` rounds to the nearest integer, ties to even; without minima `fma(scale, c, min)` is
//! `scale * c`. So `s * p` is off by at most `s * (1/2 + 2/128)`: the steps of 1/128 are those of `a`,
//! `b` and of the product, each half of one.

#[cfg(all(feature = "cli", target_arch = "x86_64"))]
mod avx2;
#[cfg(all(feature = "cli", target_arch = "x86_64"))]
mod avx512_vnni;
#[cfg(all(feature = "cli", target_arch = "aarch64"))]
mod neon;
#[cfg(all(feature = "cli", target_arch = "aarch64"))]
mod neon_dotprod;
#[cfg(all(feature = "cli", target_arch = "aarch64"))]
mod neon_i8mm;
#[cfg(all(feature = "cli", target_arch = "aarch64"))]
mod neon_unpack;
mod scalar;

use super::Packed;
use crate::base::cpu::Isa;
use crate::base::dtype::DType;
use crate::base::pool::{Columns, Width};
use crate::quant::p16::ROWS;

/// Tokens of a tile.
pub const TILE: usize = 12;
/// Weights that share a scale.
const PIECE: usize = 256;
/// Activations that share a scale. Some are far larger than the others, and the more share a scale
/// with one the less is left of them: with 256 the perplexity of tests/numerics.rs was 1.2 to 1.6 %
/// worse than that of exact products, with 64 still 0.6 %.
const BLOCK: usize = 32;
/// The bits of 1.5 * 2^23 as a float: with an integer below 2^22 added, they are those of the sum.
const MAGIC: i32 = 0x4b40_0000;
const _: () = assert!(BLOCK * 128 * 128 <= 1 << 22 && PIECE.is_multiple_of(BLOCK));
/// Weights of a row of a panel.
const WIDTH: usize = 1024;
/// Pieces of a row of a panel.
const PIECES: usize = WIDTH / PIECE;
/// Lines of 64 bytes of a panel.
const LINES: usize = 512;
/// Groups of 16 rows in a panel, at most.
const GROUPS: usize = 2;
/// Below this a piece counts as zeros, so that no quotient overflows.
const TINY: f32 = f32::from_bits((127 - 100) << 23);

/// What the codes of a type can be.
#[derive(Clone, Copy)]
struct Span {
    /// Bits of a code.
    bits: i32,
    /// The code that stands for 0.
    zero: i32,
    /// The least and the largest code, less `zero`; but -127 where the least is -128.
    low: f32,
    high: f32,
    /// The least code is -128: with a scale below 0 that is 128, which 8 bits do not hold.
    full: bool,
    /// What `most` becomes: 127, or less where the weights are whole numbers of steps then.
    top: f32,
}

impl Span {
    /// The code in the middle, less `zero`.
    const fn middle(self) -> f32 {
        ((1 << (self.bits - 1)) - self.zero) as f32
    }

    /// What `inv` is multiplied with for `a`.
    const fn up(self) -> f32 {
        (1i32 << (6 + self.bits)) as f32
    }

    /// What is added to a byte moved up, if 0 is `zero` there.
    #[allow(dead_code, reason = "which rungs there are depends on the target")]
    const fn lift(self, zero: i32) -> i16 {
        ((self.zero - (1 << (self.bits - 1)) - zero) << (16 - self.bits)) as i16
    }
}

/// The span of a quantised type; what a float type has is not used.
const fn span(dtype: DType) -> Span {
    let (bits, zero, low, high) = match dtype {
        DType::F32 | DType::F16 | DType::BF16 => (8, 128, 0, 0),
        DType::Q4_0 => (4, 8, -8, 7),
        DType::Q4_1 | DType::Q4K => (4, 0, 0, 15),
        DType::Q5_0 => (5, 16, -16, 15),
        DType::Q5_1 | DType::Q5K => (5, 0, 0, 31),
        DType::Q8_0 => (8, 128, -127, 127),
        DType::Q2K => (2, 0, 0, 3),
        DType::Q3K => (3, 4, -4, 3),
        DType::Q6K => (6, 32, -32, 31),
        DType::Iq4Nl | DType::Iq4Xs => (8, 128, -127, 113),
        DType::Mxfp4 => (5, 12, -12, 12),
        DType::Tq1_0 => (2, 1, -1, 1),
        DType::Tq2_0 => (2, 1, -1, 2),
    };
    let full = matches!(dtype, DType::Q8_0);
    let top = if matches!(dtype, DType::Tq2_0) { 126.0 } else { 127.0 };
    Span { bits, zero, low: low as f32, high: high as f32, full, top }
}

/// Tokens rounded to 8 bits, as [`crate::kernel::Kernels::quantize_tile`] makes them.
#[derive(Clone, Copy)]
pub struct Tiles<'a> {
    /// Tokens.
    pub n: usize,
    /// Length of a row.
    pub k: usize,
    /// `n.div_ceil(TILE)` tiles.
    pub words: &'a [u32],
}

/// In which order a rung wants the codes of a tile: a unit is so many words of a token, one after
/// the other, and then comes the next token; a word is four codes.
#[derive(Clone, Copy, PartialEq, Eq)]
#[allow(dead_code, reason = "which rungs there are depends on the target")]
pub(super) enum Order {
    /// Units of this many words.
    Words(usize),
    /// Codes as 16 bits: for each four the first and third of every token, then the others.
    Pairs,
}

impl Order {
    /// Words that a word of codes takes.
    const fn words(self) -> usize {
        match self {
            Order::Words(_) => 1,
            Order::Pairs => 2,
        }
    }
}

/// Where the parts of a tile lie, in words.
#[derive(Clone, Copy)]
struct Place {
    /// Words of codes of four weights of all tokens.
    four: usize,
    /// Where the first floats of the sums begin, of each piece and token.
    first: usize,
    /// Where scales begin: of each block those of all tokens, then what integer sums begin with.
    scales: usize,
    /// Words of a tile.
    len: usize,
}

impl Place {
    const fn new(order: Order, k: usize) -> Place {
        let four = TILE * order.words();
        let first = k / 4 * four;
        let scales = first + k.div_ceil(PIECE) * TILE;
        let len = (scales + k.div_ceil(BLOCK) * 2 * TILE).next_multiple_of(16);
        Place { four, first, scales, len }
    }
}

/// A line of a panel: four weights of each of 16 rows, or two of 16 bits.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([u8; 64]);

/// Weights of one or two groups of 16 rows, unpacked: the lines of the first, then of the second.
struct Panel {
    lines: [Line; LINES],
    /// By group, then by piece.
    scales: [[Rows; PIECES]; GROUPS],
}

/// A number for each of 16 rows.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Rows([f32; ROWS]);

/// What a tile adds up: by token, then by group.
type Sums = [[Rows; GROUPS]; TILE];

/// Unpacks `lines` for the weights `from..from + n` of group `g`, at most a piece, and gives their
/// scales. `unsafe`: the CPU must have the rung; there must be a group `g` with those weights, and
/// lines enough.
type UnpackFn = unsafe fn(w: &Packed<'_>, g: usize, from: usize, n: usize, &mut [Line], &mut Rows);
/// One for each type; none for floats.
type Unpacks = [Option<UnpackFn>; DType::COUNT];
/// Adds a panel times a tile to the sums. `unsafe`: the CPU must have the rung.
type MultiplyFn = unsafe fn(panel: &Panel, part: &Part<'_>, sums: &mut Sums);
/// Rounds the values of a block; gives the scale and the sum. `unsafe`: the CPU must have the rung.
type RoundFn = unsafe fn(x: &[f32], codes: &mut [i8; BLOCK]) -> (f32, i32);

/// What a panel is multiplied with: weights `from..from + n` of a tile, of which the first `tokens`
/// count.
struct Part<'a> {
    from: usize,
    n: usize,
    tokens: usize,
    tile: &'a [u32],
    place: Place,
}

impl Part<'_> {
    /// Pieces of the panel.
    fn pieces(&self) -> usize {
        self.n.div_ceil(PIECE)
    }

    /// The blocks of piece `p`: how many fours of weights, and which of the piece is the first.
    fn blocks(&self, p: usize) -> impl Iterator<Item = (usize, usize)> + use<> {
        let n = PIECE.min(self.n - p * PIECE);
        (0..n).step_by(BLOCK).map(move |at| (at / 4, BLOCK.min(n - at) / 4))
    }

    /// The codes of `n` fours from four `at` of piece `p` on.
    fn codes(&self, p: usize, (at, n): (usize, usize)) -> &[u32] {
        let at = ((self.from + p * PIECE) / 4 + at) * self.place.four;
        &self.tile[at..at + n * self.place.four]
    }

    /// The scales of the block that begins with four `at` of piece `p`, and what integer sums begin
    /// with.
    fn scales(&self, p: usize, at: usize) -> (&[u32; TILE], &[u32; TILE]) {
        let block = (self.from + p * PIECE + 4 * at) / BLOCK;
        let two = &self.tile[self.place.scales + block * 2 * TILE..][..2 * TILE];
        let (d, start) = two.split_at(TILE);
        (d.first_chunk().expect("twelve"), start.first_chunk().expect("twelve"))
    }

    /// What the sums of piece `p` begin with.
    fn first(&self, p: usize) -> &[u32; TILE] {
        let at = self.place.first + (self.from / PIECE + p) * TILE;
        self.tile[at..].first_chunk().expect("twelve")
    }
}

/// The functions of a rung.
pub(in crate::kernel) struct Panels {
    unpack: Unpacks,
    /// Brings the lines of a piece into the order that `multiply` wants, where that is another.
    turn: Option<fn(&mut [Line])>,
    multiply: MultiplyFn,
    round: RoundFn,
    order: Order,
    /// What is added to the weights of a panel.
    lift: i32,
    /// Groups of a panel.
    groups: usize,
}

/// A table of the functions `$unpack` for the formats of a module.
#[allow(unused_macros, reason = "which rungs there are depends on the target")]
macro_rules! unpacks {
    ($unpack:ident, $formats:ident) => {
        std::array::from_fn(|i| {
            Some(match DType::ALL[i] {
                DType::F32 | DType::F16 | DType::BF16 => return None,
                DType::Q4_0 => $unpack::<$formats::Q4_0>,
                DType::Q4_1 => $unpack::<$formats::Q4_1>,
                DType::Q5_0 => $unpack::<$formats::Q5_0>,
                DType::Q5_1 => $unpack::<$formats::Q5_1>,
                DType::Q8_0 => $unpack::<$formats::Q8_0>,
                DType::Q2K => $unpack::<$formats::Q2K>,
                DType::Q3K => $unpack::<$formats::Q3K>,
                DType::Q4K => $unpack::<$formats::Q4K>,
                DType::Q5K => $unpack::<$formats::Q5K>,
                DType::Q6K => $unpack::<$formats::Q6K>,
                DType::Iq4Nl => $unpack::<$formats::Iq4Nl>,
                DType::Iq4Xs => $unpack::<$formats::Iq4Xs>,
                DType::Mxfp4 => $unpack::<$formats::Mxfp4>,
                DType::Tq1_0 => $unpack::<$formats::Tq1_0>,
                DType::Tq2_0 => $unpack::<$formats::Tq2_0>,
            })
        })
    };
}
#[allow(unused_imports, reason = "which rungs there are depends on the target")]
use unpacks;

/// The functions for `isa`, which the CPU must have. The C library, which has no fast numerics until
/// they cost less, is spared all but the scalar ones.
pub(in crate::kernel) fn for_isa(isa: Isa) -> Panels {
    match isa {
        #[cfg(all(feature = "cli", target_arch = "x86_64"))]
        Isa::Avx512Vnni | Isa::AmxInt8 => avx512_vnni::panels(),
        #[cfg(all(feature = "cli", target_arch = "x86_64"))]
        Isa::Avx2 => avx2::panels(),
        #[cfg(all(feature = "cli", target_arch = "aarch64"))]
        Isa::Neon => neon::panels(),
        #[cfg(all(feature = "cli", target_arch = "aarch64"))]
        Isa::NeonDotprod => neon_dotprod::panels(),
        #[cfg(all(feature = "cli", target_arch = "aarch64"))]
        Isa::NeonI8mm => neon_i8mm::panels(),
        _ => scalar::panels(),
    }
}

impl Panels {
    /// Words of a tile of rows of `k`.
    pub(in crate::kernel) fn tile_words(&self, k: usize) -> usize {
        Place::new(self.order, k).len
    }

    /// Rounds up to a tile of rows of `k`. Lengths are checked by the caller.
    ///
    /// # Safety
    /// The CPU has the rung.
    pub(in crate::kernel) unsafe fn quantize_tile(
        &self,
        x: &[f32],
        width: Width,
        tile: &mut [u32],
    ) {
        let place = Place::new(self.order, width.n_cols);
        let n = x.len() / width.pitch;
        if n < TILE {
            tile.fill(0);
        }
        let mut codes = [0; BLOCK];
        for (t, row) in width.rows(x).enumerate() {
            for (p, x) in row.chunks(PIECE).enumerate() {
                let mut all = 0.0;
                for (b, x) in x.chunks(BLOCK).enumerate() {
                    // SAFETY: the caller's promise.
                    let (d, sum) = unsafe { (self.round)(x, &mut codes) };
                    let block = p * PIECE / BLOCK + b;
                    let at = place.scales + block * 2 * TILE + t;
                    tile[at] = d.to_bits();
                    tile[at + TILE] = MAGIC.wrapping_sub(sum * self.lift) as u32;
                    all += d;
                    let to =
                        &mut tile[block * BLOCK / 4 * place.four..][..x.len() / 4 * place.four];
                    arrange(self.order, &codes[..x.len()], t, to);
                }
                tile[place.first + p * TILE + t] = (all * -f32::from_bits(MAGIC as u32)).to_bits();
            }
        }
    }

    /// Multiplies whole groups. Lengths are checked by the caller.
    ///
    /// # Safety
    /// The CPU has the rung.
    // A panel takes 33 KiB of stack: inlined, it would take them from callers that multiply exactly,
    // and a program may give its thread no more than 64.
    #[inline(never)]
    pub(in crate::kernel) unsafe fn matmul(
        &self,
        w: &Packed<'_>,
        act: &Tiles<'_>,
        out: &mut Columns<'_, f32>,
    ) {
        let unpack = self.unpack[w.dtype as usize].expect("a quantised type");
        let place = Place::new(self.order, act.k);
        let mut panel =
            Panel { lines: [Line([0; 64]); LINES], scales: [[Rows([0.0; ROWS]); PIECES]; GROUPS] };
        let side = LINES / self.groups;
        for r in (0..out.len()).step_by(self.groups * ROWS) {
            let columns = r..out.len().min(r + self.groups * ROWS);
            for from in (0..w.k).step_by(WIDTH) {
                let n = WIDTH.min(w.k - from);
                for (i, group) in columns.clone().step_by(ROWS).enumerate() {
                    let g = (out.first() + group) / ROWS;
                    let lines = panel.lines[i * side..(i + 1) * side].chunks_mut(side / PIECES);
                    let pieces =
                        lines.zip(&mut panel.scales[i]).zip((from..from + n).step_by(PIECE));
                    for ((lines, scales), at) in pieces {
                        let n = PIECE.min(from + n - at);
                        // SAFETY: the caller's promise, and what it has checked.
                        unsafe { unpack(w, g, at, n, lines, scales) };
                        if let Some(turn) = self.turn {
                            turn(&mut lines[..n / 4]);
                        }
                    }
                }
                for (i, tile) in act.words.chunks_exact(place.len).enumerate() {
                    let tokens = i * TILE..act.n.min((i + 1) * TILE);
                    let mut sums = [[Rows([0.0; ROWS]); GROUPS]; TILE];
                    if from > 0 {
                        for (t, sums) in tokens.clone().zip(&mut sums) {
                            copy(sums, &mut out.row_mut(t)[columns.clone()], |sum, out| {
                                *sum = *out
                            });
                        }
                    }
                    let part = Part { from, n, tokens: tokens.len(), tile, place };
                    // SAFETY: the caller's promise.
                    unsafe { (self.multiply)(&panel, &part, &mut sums) };
                    for (t, sums) in tokens.zip(&mut sums) {
                        copy(sums, &mut out.row_mut(t)[columns.clone()], |sum, out| *out = *sum);
                    }
                }
            }
        }
    }
}

/// Does something with the sums of a token and as many columns of `out` as there are.
#[inline(always)]
fn copy(sums: &mut [Rows; GROUPS], out: &mut [f32], f: impl Fn(&mut f32, &mut f32)) {
    for (sums, out) in sums.iter_mut().zip(out.chunks_mut(ROWS)) {
        match out.first_chunk_mut::<ROWS>() {
            Some(out) => sums.0.iter_mut().zip(out).for_each(|(sum, out)| f(sum, out)),
            None => sums.0.iter_mut().zip(out).for_each(|(sum, out)| f(sum, out)),
        }
    }
}

/// Puts the codes of token `t` where they belong among those of a tile.
fn arrange(order: Order, codes: &[i8], t: usize, to: &mut [u32]) {
    let fours = codes.as_chunks::<4>().0;
    match order {
        Order::Words(1) => words::<1>(fours, t, to),
        Order::Words(2) => words::<2>(fours, t, to),
        Order::Words(_) => words::<4>(fours, t, to),
        Order::Pairs => {
            for (four, to) in fours.iter().zip(to.chunks_exact_mut(2 * TILE)) {
                let [a, b, c, d] = four.map(|x| u32::from(i16::from(x) as u16));
                to[t] = a | c << 16;
                to[TILE + t] = b | d << 16;
            }
        }
    }
}

/// Units of `N` words.
#[inline(always)]
fn words<const N: usize>(fours: &[[i8; 4]], t: usize, to: &mut [u32]) {
    for (unit, to) in fours.chunks_exact(N).zip(to.chunks_exact_mut(N * TILE)) {
        for (four, to) in unit.iter().zip(&mut to[N * t..N * (t + 1)]) {
            *to = u32::from_le_bytes(four.map(|x| x as u8));
        }
    }
}
