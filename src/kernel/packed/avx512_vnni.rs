//! Packed weights for AVX-512 with VNNI: 16 rows are the lanes of a vector.
//!
//! ```text
//! one token     for each group: each block's codes straight from memory
//! more          for each two groups, in pieces of some hundred weights:
//!                   unpack the piece into a panel             codes, scales, minima
//!                   for each up to six tokens: multiply       2 x 6 integer and 2 x 6 float vectors
//! ```
//! Weights are unsigned, activations signed, as `vpdpbusd` wants them; what that adds is taken off
//! where the integer accumulator starts.
#![allow(clippy::needless_range_loop, reason = "several arrays are walked together")]

use std::arch::x86_64::*;
use std::ops::Range;

use super::avx512_floats::{Bf16, F16, F32, floats};
use super::avx512_formats::{self as formats, Format};
use super::avx512_tiles::{Place, TOKENS, multiply_from};
use super::{Ahead, BLOCKS, Packed, PackedFn, piece};
use crate::base::dtype::DType;
use crate::base::pool::Columns;
use crate::kernel::Activations;
use crate::quant::p16::{self, ROWS};

/// How far ahead of its use a weight is asked for, in bytes: a CPU foresees reads within a page only.
pub(super) const AHEAD: usize = 8192;

/// The matmul of `dtype`.
pub(super) fn matmul(dtype: DType) -> PackedFn {
    super::of_type!(dtype)
}

/// A token's codes and what belongs to them, from some block on.
#[derive(Clone, Copy)]
pub(super) struct Token {
    q: *const i8,
    pub(super) d: *const f32,
    sum: *const i32,
}

impl Token {
    /// Token `t` from weight `from` on, a multiple of 32.
    #[inline]
    pub(super) fn at(act: &Activations<'_>, t: usize, from: usize) -> Token {
        let at = t * act.k + from;
        let (q, d, sum) = (&act.q[at..], &act.d[at / 32..], &act.sum[at / 16..]);
        Token { q: q.as_ptr(), d: d.as_ptr(), sum: sum.as_ptr() }
    }

    /// Token `i` of those that follow this one, rows of `k` codes apart; there may be none.
    #[inline]
    pub(super) fn after(self, i: usize, k: usize) -> Token {
        Token {
            q: self.q.wrapping_add(i * k),
            d: self.d.wrapping_add(i * (k / 32)),
            sum: self.sum.wrapping_add(i * (k / 16)),
        }
    }

    /// Four codes in every lane: the `j`-th four of block `b`.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
    unsafe fn four(self, b: usize, j: usize) -> __m512i {
        // SAFETY: the caller's promise that the block is there; any alignment.
        _mm512_set1_epi32(unsafe { self.q.add(32 * b + 4 * j).cast::<i32>().read_unaligned() })
    }

    /// The sum of 16 codes: the half `h` of block `b`.
    #[inline]
    unsafe fn half(self, b: usize, h: usize) -> i32 {
        // SAFETY: the caller's promise that the block is there.
        unsafe { *self.sum.add(2 * b + h) }
    }

    /// The codes of a place.
    #[inline]
    pub(super) unsafe fn codes(self, (b, h): Place) -> *const i8 {
        // SAFETY: the caller's promise that the block is there.
        unsafe { self.q.add(32 * b + 16 * h) }
    }

    /// The sum of the codes that share a scale: of a block, or of a half of it.
    #[inline]
    pub(super) unsafe fn sum_of<F: Format>(self, (b, h): Place) -> i32 {
        // SAFETY: the caller's promise that the block is there.
        unsafe {
            match F::OF_16 {
                true => self.half(b, h),
                false => self.half(b, 0).wrapping_add(self.half(b, 1)),
            }
        }
    }

    /// The scale of block `b`.
    #[inline]
    pub(super) unsafe fn scale(self, b: usize) -> f32 {
        // SAFETY: the caller's promise that the block is there.
        unsafe { *self.d.add(b) }
    }
}

/// Multiplies, with quantised weights.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
pub(super) unsafe fn quantised<F: Format>(
    w: &Packed<'_>,
    act: &Activations<'_>,
    out: &mut Columns<'_, f32>,
) {
    if act.n == 1 {
        // SAFETY: the caller's promises.
        unsafe { gemv::<F>(w, act, out) }
    } else {
        // SAFETY: the caller's promises.
        unsafe { gemm::<F>(w, act, out) }
    }
}

/// The heads and codes of a group.
#[inline]
pub(super) fn group<'a>(w: &Packed<'a>, g: usize) -> (&'a [u8], &'a [u8]) {
    let (codes_at, bytes) = p16::group_bytes(w.dtype, w.k).expect("whole blocks");
    w.bytes[g * bytes..(g + 1) * bytes].split_at(codes_at)
}

/// Adds the products of a block of 32 weights of 16 rows and one token.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
unsafe fn add_block<F: Format>(
    acc: __m512,
    head: &[u8],
    codes: &[u8],
    inner: usize,
    token: Token,
    b: usize,
) -> __m512 {
    // SAFETY: the caller's promise that the CPU has this rung and the token the block `b`.
    unsafe {
        let quads = F::quads(codes, inner);
        let scales = F::scales(head, inner);
        let d = token.scale(b);
        let start = |h: i32| _mm512_set1_epi32((-F::ZERO).wrapping_mul(h));
        let (low, high) = (token.half(b, 0), token.half(b, 1));
        let mut acc = acc;
        if F::OF_16 {
            for h in 0..2 {
                let mut i = start(if h == 0 { low } else { high });
                for j in 4 * h..4 * h + 4 {
                    i = _mm512_dpbusd_epi32(i, quads[j], token.four(b, j));
                }
                let scale = _mm512_mul_ps(scales[h], _mm512_set1_ps(d));
                acc = _mm512_fmadd_ps(_mm512_cvtepi32_ps(i), scale, acc);
                if F::PARTS.min {
                    let sum = d * (if h == 0 { low } else { high }) as f32;
                    acc = _mm512_fmadd_ps(F::mins(head, inner)[h], _mm512_set1_ps(sum), acc);
                }
            }
        } else {
            let (mut i, mut k) = (start(low.wrapping_add(high)), _mm512_setzero_si512());
            for j in 0..4 {
                i = _mm512_dpbusd_epi32(i, quads[j], token.four(b, j));
                k = _mm512_dpbusd_epi32(k, quads[4 + j], token.four(b, 4 + j));
            }
            let i = _mm512_cvtepi32_ps(_mm512_add_epi32(i, k));
            acc = _mm512_fmadd_ps(i, _mm512_mul_ps(scales[0], _mm512_set1_ps(d)), acc);
            if F::PARTS.min {
                let sum = d * low.wrapping_add(high) as f32;
                acc = _mm512_fmadd_ps(F::mins(head, inner)[0], _mm512_set1_ps(sum), acc);
            }
        }
        acc
    }
}

/// Asks for some lines of memory, counted from `from`; nothing happens where there are none.
#[inline(always)]
pub(super) fn fetch(from: *const u8, lines: Range<usize>) {
    for line in lines {
        // SAFETY: a prefetch reads nothing that the program could see, whatever the address.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(from.wrapping_add(64 * line).cast()) };
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
unsafe fn gemv<F: Format>(w: &Packed<'_>, act: &Activations<'_>, out: &mut Columns<'_, f32>) {
    let inner = F::DTYPE.block_len() / 32;
    let (head, code) = (ROWS * F::PARTS.head_bytes(), ROWS * F::PARTS.code_bytes());
    let lines = (head + code).div_ceil(64);
    let token = Token::at(act, 0, 0);
    for r in (0..out.len()).step_by(ROWS) {
        let (heads, codes) = group(w, (out.first() + r) / ROWS);
        let mut acc = _mm512_setzero_ps();
        // Heads and codes are used side by side, and asked for one after the other as they lie.
        let ahead = heads.as_ptr().wrapping_add(heads.len() + AHEAD);
        for block in 0..w.k / F::DTYPE.block_len() {
            let (head, codes) = (&heads[block * head..][..head], &codes[block * code..][..code]);
            let ahead = ahead.wrapping_add(block * (head.len() + code));
            for i in 0..inner {
                let (first, end) = (i * lines / inner, (i + 1) * lines / inner);
                // Many lines at once get in the way of each other and of what is read: half of them
                // come after the arithmetic. Larger blocks ask for few at a time.
                let middle = if inner == 1 { (first + end) / 2 } else { end };
                fetch(ahead, first..middle);
                // SAFETY: the CPU has this rung, and the token k codes.
                acc = unsafe { add_block::<F>(acc, head, codes, i, token, block * inner + i) };
                fetch(ahead, middle..end);
            }
        }
        store(&mut out.row_mut(0)[r..], acc);
    }
}

/// The lanes of the `n` columns that are left.
#[inline]
pub(super) fn lanes(n: usize) -> __mmask16 {
    if n >= ROWS { !0 } else { (1 << n) - 1 }
}

/// Writes the lanes that there is room for.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
pub(super) fn store(out: &mut [f32], x: __m512) {
    // SAFETY: a masked store writes only the lanes of the mask.
    unsafe { _mm512_mask_storeu_ps(out.as_mut_ptr(), lanes(out.len()), x) }
}

/// A piece of two groups, unpacked: by block, then by group.
#[repr(C, align(64))]
pub(super) struct Panel {
    pub(super) codes: [[[__m512i; 8]; 2]; BLOCKS],
    pub(super) scales: [[[__m512; 2]; 2]; BLOCKS],
    pub(super) mins: [[[__m512; 2]; 2]; BLOCKS],
}

impl Panel {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
    pub(super) fn new() -> Panel {
        let (zero, none) = (_mm512_setzero_si512(), _mm512_setzero_ps());
        Panel {
            codes: [[[zero; 8]; 2]; BLOCKS],
            scales: [[[none; 2]; 2]; BLOCKS],
            mins: [[[none; 2]; 2]; BLOCKS],
        }
    }

    /// Unpacks the weights `piece` of group `g` and the one after it, or twice the last one.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
    pub(super) unsafe fn unpack<F: Format>(
        &mut self,
        w: &Packed<'_>,
        g: usize,
        piece: &Range<usize>,
    ) {
        let last = (w.n_rows - 1) / ROWS;
        for (side, g) in [g, (g + 1).min(last)].into_iter().enumerate() {
            // SAFETY: the caller's promise that the CPU has this rung.
            unsafe { unpack::<F>(w, g, side, piece.start, piece.len(), self) }
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
unsafe fn gemm<F: Format>(w: &Packed<'_>, act: &Activations<'_>, out: &mut Columns<'_, f32>) {
    let mut panel = Panel::new();
    let piece = piece(F::DTYPE, w.k);
    let mut ahead = Ahead::new(w, 2, piece, act.n.div_ceil(TOKENS));
    for r in (0..out.len()).step_by(2 * ROWS) {
        let first = (out.first() + r) / ROWS;
        ahead.begin(w, first + 2);
        for from in (0..w.k).step_by(piece) {
            let piece = from..w.k.min(from + piece);
            // SAFETY: the piece lies in the groups, and each token has k codes.
            unsafe {
                panel.unpack::<F>(w, first, &piece);
                multiply_from::<F>(&panel, act, 0, piece, r, out, &mut ahead);
            }
        }
    }
}

/// Unpacks `n` weights from `from` on of group `g` as group `side` of the panel.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
unsafe fn unpack<F: Format>(
    w: &Packed<'_>,
    g: usize,
    side: usize,
    from: usize,
    n: usize,
    panel: &mut Panel,
) {
    let inner = F::DTYPE.block_len() / 32;
    let (head, code) = (ROWS * F::PARTS.head_bytes(), ROWS * F::PARTS.code_bytes());
    let (heads, codes) = group(w, g);
    let first = from / F::DTYPE.block_len();
    for block in 0..n / F::DTYPE.block_len() {
        let head = &heads[(first + block) * head..][..head];
        let codes = &codes[(first + block) * code..][..code];
        for i in 0..inner {
            let b = block * inner + i;
            // SAFETY: the CPU has this rung, by the caller's promise.
            unsafe {
                panel.codes[b][side] = F::quads(codes, i);
                panel.scales[b][side] = F::scales(head, i);
                if F::PARTS.min {
                    panel.mins[b][side] = F::mins(head, i);
                }
            }
        }
    }
}
