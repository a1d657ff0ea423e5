//! A panel of two groups times a few tokens, for AVX-512 with VNNI.
//!
//! ```text
//! for each step, a block or what shares a scale of it:
//!     for each four codes but the first:  for each token: integers += codes * token's
//!     for each token:                     floats += integers * scale;  begin the next step
//! ```
//! A token's floats are added up while the others are multiplied: after all of them the multipliers
//! would wait for the last integers. The instructions are written out, because a compiler that may
//! order them runs out of registers, and stores sums: a store takes as long as two products.
#![allow(clippy::needless_range_loop, reason = "several arrays are walked together")]

use std::arch::asm;
use std::arch::x86_64::*;
use std::ops::Range;

use super::avx512_formats::Format;
use super::avx512_vnni::{Panel, Token, fetch, lanes};
use super::{Ahead, SHARE_BLOCKS, Share};
use crate::base::pool::Columns;
use crate::kernel::Activations;
use crate::quant::p16::ROWS;

/// Tokens multiplied together.
pub(super) const TOKENS: usize = 6;

/// A block and a half of it; the first one where all of the block shares a scale.
pub(super) type Place = (usize, usize);

/// Multiplies a panel, the weights `piece`, with the tokens from `t` on; see [`multiply`].
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
pub(super) unsafe fn multiply_from<F: Format>(
    panel: &Panel,
    act: &Activations<'_>,
    t: usize,
    piece: Range<usize>,
    r: usize,
    out: &mut Columns<'_, f32>,
    ahead: &mut Ahead,
) {
    let left = (act.n - t) % TOKENS;
    let multiply_left = match left {
        1 => multiply::<F, 1>,
        2 => multiply::<F, 2>,
        3 => multiply::<F, 3>,
        4 => multiply::<F, 4>,
        _ => multiply::<F, 5>,
    };
    let whole = t..act.n - left;
    // SAFETY: the caller's promises.
    unsafe {
        if !whole.is_empty() {
            multiply::<F, TOKENS>(panel, act, whole.clone(), piece.clone(), r, out, ahead);
        }
        if left > 0 {
            multiply_left(panel, act, whole.end..act.n, piece, r, out, ahead);
        }
    }
}

/// The `j`-th four codes of each row of both groups.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
unsafe fn codes_of(panel: &Panel, (b, h): Place, j: usize) -> [__m512i; 2] {
    // SAFETY: the caller's promise that the panel has the block.
    let [first, second] = unsafe { panel.codes.get_unchecked(b) };
    [first[4 * h + j], second[4 * h + j]]
}

/// Adds the products of the `J`-th four codes of both groups and of a token.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
unsafe fn dot<const J: usize>(ints: &mut [__m512i; 2], codes: [__m512i; 2], q: *const i8) {
    // SAFETY: reads four bytes of the token, and vectors of the panel, by the caller's promise.
    unsafe {
        let _four: __m512i;
        asm!(
            "vpbroadcastd {t}, [{q} + 4 * {j}]",
            "vpdpbusd {a}, {x}, {t}",
            "vpdpbusd {b}, {y}, {t}",
            t = out(zmm_reg) _four,
            a = inout(zmm_reg) ints[0],
            b = inout(zmm_reg) ints[1],
            x = in(zmm_reg) codes[0],
            y = in(zmm_reg) codes[1],
            q = in(reg) q,
            j = const J,
            options(readonly, nostack, preserves_flags),
        );
    }
}

/// Begins a step of a token: the sums after its first four codes.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
unsafe fn begin<F: Format>(codes: [__m512i; 2], place: Place, token: Token) -> [__m512i; 2] {
    // SAFETY: the caller's promise that the token has the block.
    unsafe {
        let start = (-F::ZERO).wrapping_mul(token.sum_of::<F>(place));
        let mut ints = [_mm512_set1_epi32(start); 2];
        dot::<0>(&mut ints, codes, token.codes(place));
        ints
    }
}

/// Adds the sums of a step, scaled, for both groups.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
unsafe fn scale<F: Format>(
    panel: &Panel,
    (b, h): Place,
    token: Token,
    ints: &mut [__m512i; 2],
    acc: &mut [__m512; 2],
) {
    // SAFETY: reads vectors of the panel, those of the second group two behind, and a scale of the
    // token, by the caller's promise.
    unsafe {
        let scales = &raw const panel.scales.get_unchecked(b)[0][h];
        let mins = &raw const panel.mins.get_unchecked(b)[0][h];
        let (_d, _x, _y): (__m512, __m512, __m512);
        asm!(
            "vbroadcastss {d}, [{token}]",
            "vcvtdq2ps {i}, {i}",
            "vcvtdq2ps {k}, {k}",
            "vmulps {x}, {d}, [{scales}]",
            "vmulps {y}, {d}, [{scales} + 128]",
            "vfmadd231ps {a}, {i}, {x}",
            "vfmadd231ps {b}, {k}, {y}",
            d = out(zmm_reg) _d,
            x = out(zmm_reg) _x,
            y = out(zmm_reg) _y,
            i = inout(zmm_reg) ints[0],
            k = inout(zmm_reg) ints[1],
            a = inout(zmm_reg) acc[0],
            b = inout(zmm_reg) acc[1],
            token = in(reg) token.d.add(b),
            scales = in(reg) scales,
            options(readonly, nostack, preserves_flags),
        );
        if F::PARTS.min {
            let _sums: __m512;
            asm!(
                "vbroadcastss {sums}, {sum:x}",
                "vfmadd231ps {a}, {sums}, [{mins}]",
                "vfmadd231ps {b}, {sums}, [{mins} + 128]",
                sums = out(zmm_reg) _sums,
                sum = in(xmm_reg) token.scale(b) * token.sum_of::<F>((b, h)) as f32,
                a = inout(zmm_reg) acc[0],
                b = inout(zmm_reg) acc[1],
                mins = in(reg) mins,
                options(readonly, nostack, preserves_flags),
            );
        }
    }
}

/// Multiplies a panel, the weights `piece`, with some tokens, `T` at a time; the columns are those from
/// `r` on. Asks for what comes `ahead`. The order is that of `add_block` of one token.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
unsafe fn multiply<F: Format, const T: usize>(
    panel: &Panel,
    act: &Activations<'_>,
    tokens: Range<usize>,
    piece: Range<usize>,
    r: usize,
    out: &mut Columns<'_, f32>,
    ahead: &mut Ahead,
) {
    assert!(
        tokens.end <= act.n.min(out.n_rows()) && tokens.len().is_multiple_of(T) && r < out.len()
    );
    let (n, k) = (piece.len(), act.k);
    let masks = [lanes(out.len() - r), lanes((out.len() - r).saturating_sub(ROWS))];
    let (base, pitch) = out.first_row();
    // What begins a tile is worked out once, and moved on from one to the next.
    let (mut first, mut row) =
        (Token::at(act, tokens.start, piece.start), tokens.start * pitch + r);
    for _ in 0..tokens.len() / T {
        let tokens: [Token; T] = std::array::from_fn(|i| first.after(i, k));
        let rows: [*mut f32; T] = std::array::from_fn(|i| base.wrapping_add(row + i * pitch));
        let mut acc = [[_mm512_setzero_ps(); 2]; T];
        if piece.start > 0 {
            for i in 0..T {
                for side in 0..2 {
                    let row = rows[i].wrapping_add(side * ROWS);
                    // SAFETY: only the lanes of the mask are read, which the row has from `r` on.
                    acc[i][side] = unsafe { _mm512_maskz_loadu_ps(masks[side], row) };
                }
            }
        }
        // SAFETY: the tokens have n codes, by the caller's promise.
        unsafe { add_tile::<F, T>(panel, n, &tokens, &mut acc, ahead.share(n)) };
        for i in 0..T {
            for side in 0..2 {
                let row = rows[i].wrapping_add(side * ROWS);
                // SAFETY: as above, written; the rows are different ones, and `out` is ours.
                unsafe { _mm512_mask_storeu_ps(row, masks[side], acc[i][side]) };
            }
        }
        (first, row) = (first.after(T, k), row + T * pitch);
    }
}

/// Adds the products of the first `n` weights of a panel and of `T` tokens.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
unsafe fn add_tile<F: Format, const T: usize>(
    panel: &Panel,
    n: usize,
    tokens: &[Token; T],
    acc: &mut [[__m512; 2]; T],
    mut ahead: Share,
) {
    let halves = if F::OF_16 { 2 } else { 1 };
    let n_steps = n / 32 * halves;
    // SAFETY: the panel and the tokens have n codes, by the caller's promise.
    let first = unsafe { codes_of(panel, (0, 0), 0) };
    // SAFETY: as above.
    let mut ints = tokens.map(|token| unsafe { begin::<F>(first, (0, 0), token) });
    for step in 0..n_steps {
        let place = (step / halves, step % halves);
        if step.is_multiple_of(SHARE_BLOCKS * halves) {
            ahead.fetch(|line| fetch(line, 0..1));
        }
        // SAFETY: as above.
        unsafe {
            macro_rules! dots {
                ($($j:literal)*) => {
                    $(let codes = codes_of(panel, place, $j);
                    for i in 0..T {
                        dot::<$j>(&mut ints[i], codes, tokens[i].codes(place));
                    })*
                };
            }
            dots!(1 2 3);
            if !F::OF_16 {
                dots!(4 5 6 7);
            }
        }
        // After the last step one more is begun, the last one again, and left.
        let next = (step + 1).min(n_steps - 1);
        let next = (next / halves, next % halves);
        // SAFETY: as above.
        unsafe {
            let codes = codes_of(panel, next, 0);
            for i in 0..T {
                scale::<F>(panel, place, tokens[i], &mut ints[i], &mut acc[i]);
                ints[i] = begin::<F>(codes, next, tokens[i]);
            }
        }
    }
}
