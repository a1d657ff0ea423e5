//! Matmul on x86-64: what the rungs share.
//!
//! ```text
//! for each four rows of weights, in pieces of 2048:
//!     unpack the piece of each row into a panel             codes, scales, minima
//!     for each token:
//!         out[token][row] += (row of the panel) . (piece of the token)
//! ```
//! Float weights need no panel: a product converts them as it reads them.
//!
//! A panel lies in the first-level cache, and all tokens share what was unpacked. A row is unpacked
//! the same way for one token, as writing a byte and reading it back costs less than a second form
//! of each format would.
//!
//! How a product is added up is the business of a rung's [`Dots`]; each accumulator belongs to one
//! row and one token, so results do not depend on which others are computed beside it.

use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};

use super::x86_unpack;
use crate::base::dtype::DType;
use crate::base::pool::Columns;
use crate::kernel::{ACTIVATION_BLOCK, ACTIVATION_SUM, Activations, Weight};
use crate::quant;

/// Rows of a panel.
const ROWS: usize = 4;
/// Quantised weights of a row of a panel, at most.
pub(super) const PIECE: usize = 2048;

/// A piece of a row of quantised weights, as `quant::expand_row` defines it: `PIECE` codes, signed
/// ones or 0 to 127; a scale for each group of 16 or 32, and a minimum too if codes are not signed.
#[repr(C, align(64))]
#[derive(Clone)]
pub(super) struct Row {
    pub(super) codes: [i8; PIECE],
    pub(super) scales: [f32; PIECE / ACTIVATION_SUM],
    pub(super) mins: [f32; PIECE / ACTIVATION_SUM],
}

impl Row {
    const ZERO: Row = Row {
        codes: [0; PIECE],
        scales: [0.0; PIECE / ACTIVATION_SUM],
        mins: [0.0; PIECE / ACTIVATION_SUM],
    };
}

/// A piece of a token, quantised: `n` codes, `n / 32` scales, `n / 16` sums.
#[derive(Clone, Copy)]
pub(super) struct Token<'a> {
    pub(super) q: &'a [i8],
    pub(super) d: &'a [f32],
    pub(super) sum: &'a [i32],
}

impl<'a> Token<'a> {
    /// The weights `from .. from + n` of token `t`.
    #[inline]
    fn piece(act: &Activations<'a>, t: usize, from: usize, n: usize) -> Token<'a> {
        let at = t * act.k + from;
        Token {
            q: &act.q[at..][..n],
            d: &act.d[at / ACTIVATION_BLOCK..][..n / ACTIVATION_BLOCK],
            sum: &act.sum[at / ACTIVATION_SUM..][..n / ACTIVATION_SUM],
        }
    }
}

/// Products of `R` rows and `T` tokens, `[token][row]`, over `n` weights. `unsafe`: the CPU must have
/// the rung, and a token must be `n` long, at most a piece, a multiple of 32.
pub(super) type Dot<const R: usize, const T: usize> =
    unsafe fn(&[Row; R], [Token<'_>; T], usize) -> [[f32; R]; T];
/// The same for whole rows of floats, the weights as they are in the file: all rows and tokens are
/// of the same length, which may be any.
pub(super) type FloatDot<const R: usize, const T: usize> =
    unsafe fn([&[u8]; R], [&[f32]; T]) -> [[f32; R]; T];

/// The products of one kind of codes, for whole tiles and what is left of them.
pub(super) struct Dots {
    pub(super) rows_4_tokens_4: Dot<4, 4>,
    pub(super) rows_4_tokens_1: Dot<4, 1>,
    pub(super) rows_1_tokens_1: Dot<1, 1>,
}

/// The products of one float type.
pub(super) struct FloatDots {
    pub(super) rows_4_tokens_4: FloatDot<4, 4>,
    pub(super) rows_4_tokens_1: FloatDot<4, 1>,
    pub(super) rows_1_tokens_1: FloatDot<1, 1>,
}

/// The products of a rung: for each kind of codes, in groups of 16 or 32, signed or not; and for each
/// float type.
pub(super) struct Rung {
    pub(super) of_16: Dots,
    pub(super) of_32: Dots,
    pub(super) of_32_signed: Dots,
    pub(super) f32: FloatDots,
    pub(super) f16: FloatDots,
    pub(super) bf16: FloatDots,
}

/// The bytes of weights `from .. from + n` of row `r`.
fn piece<'a>(w: &Weight<'a>, r: usize, from: usize, n: usize) -> &'a [u8] {
    let bytes = |n: usize| n / w.dtype.block_len() * w.dtype.block_bytes();
    &w.bytes[r * bytes(w.k) + bytes(from)..][..bytes(n)]
}

/// Asks for the bytes at `at` of the row that follows so many rows after `row`: with one token, the
/// next panel's. A CPU foresees reads within a page only, and rows of floats are about a page long.
/// Beyond the end of the weights this does nothing.
#[inline(always)]
pub(super) fn prefetch(row: &[u8], rows_after: usize, at: usize) {
    let address = row.as_ptr().wrapping_add(rows_after * row.len() + at);
    // SAFETY: a prefetch reads nothing, and any address will do.
    unsafe { _mm_prefetch::<_MM_HINT_T0>(address.cast()) }
}

/// Adds the products of a piece to their places; the first piece starts them.
fn put<const R: usize, const T: usize>(
    out: &mut Columns<'_, f32>,
    (t, r): (usize, usize),
    from: usize,
    products: [[f32; R]; T],
) {
    for (i, products) in products.into_iter().enumerate() {
        let out = &mut out.row_mut(t + i)[r..r + R];
        for (out, product) in out.iter_mut().zip(products) {
            *out = if from == 0 { product } else { *out + product };
        }
    }
}

/// Multiplies, with quantised weights.
///
/// # Safety
/// The CPU has `rung`, and the lengths of `w`, `act` and `out` agree.
pub(super) unsafe fn quantised(
    rung: &Rung,
    w: &Weight<'_>,
    act: &Activations<'_>,
    out: &mut Columns<'_, f32>,
) {
    let dots = match quant::layout(w.dtype) {
        Some(layout) if layout.group == 16 => &rung.of_16,
        Some(layout) if layout.signed => &rung.of_32_signed,
        _ => &rung.of_32,
    };
    let unpack = x86_unpack::quantised(w.dtype);
    let mut panel = [Row::ZERO; ROWS];
    for r in (0..out.len()).step_by(ROWS) {
        let rows = ROWS.min(out.len() - r);
        for from in (0..w.k).step_by(PIECE) {
            let n = PIECE.min(w.k - from);
            for (i, row) in panel[..rows].iter_mut().enumerate() {
                // SAFETY: the CPU has this rung, and so AVX2, FMA and F16C; the bytes are whole
                // blocks of at most PIECE weights.
                unsafe { unpack(piece(w, out.first() + r + i, from, n), row) }
            }
            let token = |t| Token::piece(act, t, from, n);
            let mut t = 0;
            while t < act.n {
                if rows < ROWS {
                    for (i, row) in panel[..rows].iter().enumerate() {
                        let row = std::array::from_ref(row);
                        // SAFETY: the CPU has this rung, and tokens are n long.
                        let products = unsafe { (dots.rows_1_tokens_1)(row, [token(t)], n) };
                        put(out, (t, r + i), from, products);
                    }
                    t += 1;
                } else if act.n - t >= 4 {
                    let tokens = [token(t), token(t + 1), token(t + 2), token(t + 3)];
                    // SAFETY: the CPU has this rung, and tokens are n long.
                    let products = unsafe { (dots.rows_4_tokens_4)(&panel, tokens, n) };
                    put(out, (t, r), from, products);
                    t += 4;
                } else {
                    // SAFETY: the CPU has this rung, and tokens are n long.
                    let products = unsafe { (dots.rows_4_tokens_1)(&panel, [token(t)], n) };
                    put(out, (t, r), from, products);
                    t += 1;
                }
            }
        }
    }
}

/// Multiplies, with float weights.
///
/// # Safety
/// As for [`quantised`].
pub(super) unsafe fn floats(
    rung: &Rung,
    w: &Weight<'_>,
    act: &Activations<'_>,
    out: &mut Columns<'_, f32>,
) {
    let dots = match w.dtype {
        DType::F16 => &rung.f16,
        DType::BF16 => &rung.bf16,
        _ => &rung.f32,
    };
    for r in (0..out.len()).step_by(ROWS) {
        let rows = ROWS.min(out.len() - r);
        let row = |i| piece(w, out.first() + r + i, 0, w.k);
        let panel = [row(0), row(1.min(rows - 1)), row(2.min(rows - 1)), row(rows - 1)];
        let token = |t: usize| act.row(t);
        let mut t = 0;
        while t < act.n {
            if rows < ROWS {
                for (i, row) in panel[..rows].iter().enumerate() {
                    // SAFETY: the CPU has this rung; rows and tokens have k elements.
                    let products = unsafe { (dots.rows_1_tokens_1)([row], [token(t)]) };
                    put(out, (t, r + i), 0, products);
                }
                t += 1;
            } else if act.n - t >= 4 {
                let tokens = [token(t), token(t + 1), token(t + 2), token(t + 3)];
                // SAFETY: the CPU has this rung; rows and tokens have k elements.
                let products = unsafe { (dots.rows_4_tokens_4)(panel, tokens) };
                put(out, (t, r), 0, products);
                t += 4;
            } else {
                // SAFETY: the CPU has this rung; rows and tokens have k elements.
                let products = unsafe { (dots.rows_4_tokens_1)(panel, [token(t)]) };
                put(out, (t, r), 0, products);
                t += 1;
            }
        }
    }
}
