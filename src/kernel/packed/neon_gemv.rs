//! Packed weights of 16 rows times one token, for NEON: each block's codes straight from memory.

use super::Packed;
use super::neon_formats::{Format, Rows};
use super::neon_scales::{Floats, Head};
use super::neon_tiles::{Dot, Token, fold, group, start, store, zeros};
use crate::base::pool::Columns;
use crate::kernel::Activations;
use crate::kernel::insn_aarch64::{forget_after, prefetch};
use crate::quant::p16::ROWS;

/// How far ahead of its use a weight is asked for, in bytes.
const AHEAD: usize = 2048;

/// Adds the products of a block of 32 weights of 16 rows and one token.
///
/// # Safety
/// The token has the block `b`.
#[inline(always)]
unsafe fn add_block<F: Format, D: Dot>(
    acc: Rows,
    (head, floats): (&F::Head, &Floats),
    codes: &[u8],
    inner: usize,
    token: Token,
    b: usize,
) -> Rows {
    // SAFETY: the caller's promise.
    let (a, d) = unsafe { (token.codes(b), token.scale(b)) };
    let line = |j| F::line(codes, inner, j);
    let mut acc = acc;
    macro_rules! group {
        ($of_16:literal, $h:literal, $group:expr) => {
            // SAFETY: the caller's promise.
            let sum = unsafe { token.sum::<$of_16>(b, $h) };
            let start = [start(F::ZERO, sum)];
            let [ints] = match (F::LARGE, F::STEPS) {
                (true, true) => D::dots::<1, $of_16, true, true>($h, start, line, [a]),
                (true, false) => D::dots::<1, $of_16, true, false>($h, start, line, [a]),
                (false, true) => D::dots::<1, $of_16, false, true>($h, start, line, [a]),
                (false, false) => D::dots::<1, $of_16, false, false>($h, start, line, [a]),
            };
            let scale = F::scale(head, floats, $group);
            acc = match F::PARTS.min {
                true => fold::<true>(acc, ints, scale, F::min(head, floats, $group), d, sum),
                false => fold::<false>(acc, ints, scale, scale, d, sum),
            };
        };
    }
    if F::OF_16 {
        group!(true, 0, 2 * inner);
        if F::STEPS {
            acc = forget_after(acc);
        }
        group!(true, 1, 2 * inner + 1);
    } else {
        group!(false, 0, inner);
    }
    acc
}

/// Asks for the lines of codes that are used after as many as the `inner`-th block of 32 uses.
#[inline(always)]
fn prefetch_lines<F: Format>(codes: &[u8], inner: usize) {
    let lines = (ROWS * F::PARTS.code_bytes() / 64).div_ceil(F::INNER);
    let at = codes.as_ptr().wrapping_add(64 * lines * inner);
    macro_rules! lines {
        ($($line:literal)*) => {
            $(if $line < lines {
                prefetch::<{ AHEAD + 64 * $line }>(at);
            })*
        };
    }
    lines!(0 1 2 3 4 5 6 7);
}

/// Multiplies one token, from the blocks where they lie.
#[inline(always)]
pub(super) fn gemv<F: Format, D: Dot>(
    w: &Packed<'_>,
    act: &Activations<'_>,
    out: &mut Columns<'_, f32>,
) {
    let (head_bytes, code) = (ROWS * F::PARTS.head_bytes(), ROWS * F::PARTS.code_bytes());
    let blocks = w.k / F::DTYPE.block_len();
    let token = Token::at(act, 0, 0);
    let mut scales = F::Head::new();
    for r in (0..out.len()).step_by(ROWS) {
        let (heads, codes) = group(w, (out.first() + r) / ROWS);
        let mut acc = zeros();
        for i in 0..8 {
            F::ahead(&heads[..head_bytes], &mut scales, i);
        }
        // No bound is checked for each block: that would be a tenth of what a block takes.
        let heads = &heads[..blocks * head_bytes];
        let pieces = heads.chunks_exact(head_bytes).zip(codes.chunks_exact(code));
        for (block, (head, codes)) in pieces.enumerate() {
            // After the last block there is nothing to take apart: it is done once more.
            let next = if block + 1 < blocks { block + 1 } else { block };
            let next = heads.as_ptr().wrapping_add(next.wrapping_mul(head_bytes));
            // SAFETY: `next` was below `blocks`, and `heads` are as many.
            let next = unsafe { std::slice::from_raw_parts(next, head_bytes) };
            if F::INNER == 1 {
                prefetch_lines::<F>(codes, 0);
            }
            let floats = F::head(head, &mut scales);
            for way in 0..F::INNER / F::WAYS {
                // Written out, so that the ways are known where they are used.
                macro_rules! block {
                    ($way:literal) => {
                        if $way < F::WAYS {
                            // Ways use the same lines, and there are more of them than registers.
                            if $way > 0 {
                                acc = forget_after(acc);
                            }
                            let inner = way * F::WAYS + $way;
                            if F::INNER > 1 {
                                prefetch_lines::<F>(codes, inner);
                            }
                            F::ahead(next, &mut scales, inner);
                            let b = block * F::INNER + inner;
                            let add = add_block::<F, D>;
                            // SAFETY: the token has k codes.
                            acc = unsafe { add(acc, (&scales, &floats), codes, inner, token, b) };
                        }
                    };
                }
                block!(0);
                block!(1);
                block!(2);
                block!(3);
                block!(4);
                block!(5);
                block!(6);
                block!(7);
            }
        }
        store(&mut out.row_mut(0)[r..], acc);
    }
}
