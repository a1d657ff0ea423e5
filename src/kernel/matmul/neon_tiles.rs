//! Quantised matmul for NEON: what all three rungs share.
//!
//! Four rows of weights are taken together, so that lane i of a float vector belongs to row i:
//! ```text
//! sums[i]  = codes of row i . codes of the activations      exact, over 16 or 32 weights
//! out[i]  += sums[i] * (scale[i] * d)  [+ min[i] * (d * sum of the activations' codes)]
//! ```
//! The integer sums are exact in any order, and the float steps of an output follow the blocks of
//! its row, one after the other. So each output has the same bits with one token or many, in any
//! range of columns, and on every rung of this family.
//!
//! One token reads the weights where they lie ([`gemv`]). With more, a group of four rows is
//! unpacked into a panel of bytes ([`Panel`]) that all tokens then share ([`gemm`]). How 4 x 32
//! bytes lie in the panel, and how they are multiplied, is what the rungs differ in ([`Dot`]); what
//! the bytes of a block mean is a [`Format`].

use core::arch::aarch64::*;
use core::ops::Range;

use crate::base::dtype::DType;
use crate::base::pool::Columns;
use crate::kernel::{Activations, Weight};

/// Weights that share one activation scale, and one step of the drivers.
pub(super) const STEP: usize = 32;

/// Steps in the panel: 2048 weights of four rows are 8 KiB of codes, a quarter of a small L1.
const PANEL_STEPS: usize = 64;

/// The scales (and minima) of four rows, `[step][group][row]`, of one block.
#[derive(Clone, Copy)]
pub(super) struct Scales {
    pub(super) scale: [[float32x4_t; 2]; 8],
    pub(super) min: [[float32x4_t; 2]; 8],
}

/// What a block's bits mean, four rows at a time.
pub(super) trait Format {
    /// The element type.
    const DTYPE: DType;
    /// Scales for the 32 weights of a step: 1, or 2 of 16 weights each.
    const GROUPS: usize = 1;
    /// Whether weights are `scale * code + min`; otherwise `scale * code`.
    const MIN: bool = false;
    /// Whether every code's magnitude is at most 64, so that four products fit 16 bits.
    const SMALL: bool = true;
    /// Steps in a block.
    const STEPS: usize = Self::DTYPE.block_len() / STEP;

    /// Writes the scales, and the minima if there are any, of a block of each of four rows.
    fn scales(blocks: [&[u8]; 4], out: &mut Scales);
    /// The codes of the weights `32 * step` to `32 * step + 31` of a block.
    fn codes(block: &[u8], step: usize) -> [int8x16_t; 2];
}

/// How a rung multiplies bytes. `groups` and `small` are constants by the time this is compiled.
pub(super) trait Dot {
    /// Four lanes whose sum is the dot product of 16 codes.
    fn dot16(w: int8x16_t, a: int8x16_t) -> int32x4_t;
    /// Four lanes whose sum is the dot product of 32 codes. `small` is [`Format::SMALL`].
    fn dot32(w: [int8x16_t; 2], a: [int8x16_t; 2], small: bool) -> int32x4_t;
    /// The codes of four rows, in the order that [`Dot::tile`] wants them.
    fn arrange(rows: [[int8x16_t; 2]; 4]) -> [int8x16_t; 8];
    /// The dot products of four rows (the lanes) with `T` tokens: over 16 codes each if `groups` is
    /// 2; over all 32, and only the first of each two, if it is 1.
    fn tile<const T: usize>(
        panel: &[[i8; 16]; 8],
        tokens: [&[i8; STEP]; T],
        groups: usize,
        small: bool,
    ) -> [[int32x4_t; 2]; T];
}

/// Sixteen bytes of a block, from `at` on.
#[inline(always)]
pub(super) fn bytes(block: &[u8], at: usize) -> uint8x16_t {
    let bytes = &block[at..at + 16];
    // SAFETY: `bytes` is 16 long.
    unsafe { vld1q_u8(bytes.as_ptr()) }
}

/// Sixteen codes.
#[inline(always)]
pub(super) fn codes(x: &[i8; 16]) -> int8x16_t {
    // SAFETY: `x` is 16 long.
    unsafe { vld1q_s8(x.as_ptr()) }
}

/// The codes of one token for one step.
#[inline(always)]
pub(super) fn token_codes(x: &[i8; STEP]) -> [int8x16_t; 2] {
    let (halves, _) = x.as_chunks::<16>();
    [codes(&halves[0]), codes(&halves[1])]
}

/// The sums of the lanes of four vectors.
#[inline(always)]
pub(super) fn add_lanes(x: [int32x4_t; 4]) -> int32x4_t {
    // SAFETY: NEON is part of every target that this file is compiled for.
    unsafe { vpaddq_s32(vpaddq_s32(x[0], x[1]), vpaddq_s32(x[2], x[3])) }
}

/// What the float steps of a format need: as the constants of [`Format`].
#[derive(Clone, Copy)]
struct Shape {
    groups: usize,
    min: bool,
}

/// The step that every output of every path goes through; see the top of the file.
#[inline(always)]
fn fold(
    shape: Shape,
    acc: float32x4_t,
    sums: [int32x4_t; 2],
    (scale, min): ([float32x4_t; 2], [float32x4_t; 2]),
    d: f32,
    token_sums: [i32; 2],
) -> float32x4_t {
    let mut acc = acc;
    // SAFETY: NEON is part of every target that this file is compiled for.
    unsafe {
        acc = vfmaq_f32(acc, vcvtq_f32_s32(sums[0]), vmulq_n_f32(scale[0], d));
        if shape.groups == 2 {
            acc = vfmaq_f32(acc, vcvtq_f32_s32(sums[1]), vmulq_n_f32(scale[1], d));
        }
        if shape.min && shape.groups == 1 {
            // At most 32 * 127, so the sum cannot overflow, nor round as a float.
            let sum = token_sums[0].wrapping_add(token_sums[1]);
            acc = vfmaq_n_f32(acc, min[0], d * sum as f32);
        } else if shape.min {
            acc = vfmaq_n_f32(acc, min[0], d * token_sums[0] as f32);
            acc = vfmaq_n_f32(acc, min[1], d * token_sums[1] as f32);
        }
    }
    acc
}

/// Scales before a block has written them.
#[inline(always)]
fn no_scales() -> Scales {
    // SAFETY: NEON is part of every target that this file is compiled for.
    let zero = unsafe { vdupq_n_f32(0.0) };
    Scales { scale: [[zero; 2]; 8], min: [[zero; 2]; 8] }
}

/// One token's activations in some steps: codes, scales and sums of each.
#[derive(Clone, Copy)]
struct Token<'a> {
    q: &'a [[i8; STEP]],
    d: &'a [f32],
    sums: &'a [[i32; 2]],
}

impl<'a> Token<'a> {
    /// The `len` steps from `first` on of a token.
    #[inline(always)]
    fn of(act: &Activations<'a>, token: usize, first: usize, len: usize) -> Token<'a> {
        let at = token * (act.k / STEP) + first;
        Token {
            q: &act.q.as_chunks::<STEP>().0[at..][..len],
            d: &act.d[at..][..len],
            sums: &act.sum.as_chunks::<2>().0[at..][..len],
        }
    }
}

/// Four rows of weights from `row` on; past the end the last is repeated, and its result not kept.
#[inline(always)]
fn four_rows<'a>(w: &Weight<'a>, row_bytes: usize, row: usize) -> [&'a [u8]; 4] {
    [0, 1, 2, 3].map(|i| &w.bytes[(row + i).min(w.n_rows - 1) * row_bytes..][..row_bytes])
}

/// The blocks of four rows, side by side.
#[inline(always)]
fn blocks<F: Format>(rows: [&[u8]; 4]) -> impl Iterator<Item = [&[u8]; 4]> {
    let [a, b, c, d] = rows.map(|row| row.chunks_exact(F::DTYPE.block_bytes()));
    a.zip(b).zip(c.zip(d)).map(|((a, b), (c, d))| [a, b, c, d])
}

/// Writes as many of the four lanes as `out` has room for.
#[inline(always)]
fn store(out: &mut [f32], x: float32x4_t) {
    let mut lanes = [0.0; 4];
    // SAFETY: `lanes` is 4 long.
    unsafe { vst1q_f32(lanes.as_mut_ptr(), x) };
    for (out, lane) in out.iter_mut().zip(lanes) {
        *out = lane;
    }
}

/// As many of the four lanes as `x` has; zero in the others.
#[inline(always)]
fn load(x: &[f32]) -> float32x4_t {
    let mut lanes = [0.0; 4];
    for (lane, x) in lanes.iter_mut().zip(x) {
        *lane = *x;
    }
    // SAFETY: `lanes` is 4 long.
    unsafe { vld1q_f32(lanes.as_ptr()) }
}

/// One token, from the blocks where they lie.
#[inline(always)]
pub(super) fn gemv<F: Format, D: Dot>(
    w: &Weight<'_>,
    act: &Activations<'_>,
    out: &mut Columns<'_, f32>,
) {
    let row_bytes = w.k / F::DTYPE.block_len() * F::DTYPE.block_bytes();
    let shape = Shape { groups: F::GROUPS, min: F::MIN };
    let token = Token::of(act, 0, 0, w.k / STEP);
    let first = out.first();
    let mut scales = no_scales();
    for (group, out) in out.row_mut(0).chunks_mut(4).enumerate() {
        let rows = four_rows(w, row_bytes, first + 4 * group);
        // SAFETY: NEON is part of every target that this file is compiled for.
        let mut acc = unsafe { vdupq_n_f32(0.0) };
        let q = token.q.chunks_exact(F::STEPS);
        let d = token.d.chunks_exact(F::STEPS).zip(token.sums.chunks_exact(F::STEPS));
        for ((blocks, q), (d, token_sums)) in blocks::<F>(rows).zip(q).zip(d) {
            F::scales(blocks, &mut scales);
            for s in 0..F::STEPS {
                let a = token_codes(&q[s]);
                let w = blocks.map(|block| F::codes(block, s));
                let sums = if F::GROUPS == 1 {
                    [add_lanes(w.map(|w| D::dot32(w, a, F::SMALL))); 2]
                } else {
                    [0, 1].map(|g| add_lanes(w.map(|w| D::dot16(w[g], a[g]))))
                };
                acc = fold(shape, acc, sums, (scales.scale[s], scales.min[s]), d[s], token_sums[s]);
            }
        }
        store(out, acc);
    }
}

/// Codes and scales of some steps of four rows, unpacked.
#[repr(align(64))]
pub(super) struct Panel {
    codes: [[[i8; 16]; 8]; PANEL_STEPS],
    scale: [[float32x4_t; 2]; PANEL_STEPS],
    min: [[float32x4_t; 2]; PANEL_STEPS],
}

impl Panel {
    #[inline(always)]
    fn new() -> Panel {
        // SAFETY: NEON is part of every target that this file is compiled for.
        let zero = unsafe { vdupq_n_f32(0.0) };
        Panel {
            codes: [[[0; 16]; 8]; PANEL_STEPS],
            scale: [[zero; 2]; PANEL_STEPS],
            min: [[zero; 2]; PANEL_STEPS],
        }
    }

    /// Unpacks `n_steps` steps, a whole number of blocks, of four rows from step `first` on.
    #[inline(always)]
    fn unpack<F: Format, D: Dot>(&mut self, rows: [&[u8]; 4], first: usize, n_steps: usize) {
        let bytes = |steps: usize| steps / F::STEPS * F::DTYPE.block_bytes();
        let rows = rows.map(|row| &row[bytes(first)..][..bytes(n_steps)]);
        let mut scales = no_scales();
        let codes = self.codes.chunks_exact_mut(F::STEPS);
        let scale = self.scale.chunks_exact_mut(F::STEPS);
        let min = self.min.chunks_exact_mut(F::STEPS);
        for (((blocks, codes), scale), min) in blocks::<F>(rows).zip(codes).zip(scale).zip(min) {
            F::scales(blocks, &mut scales);
            for s in 0..F::STEPS {
                let w = D::arrange(blocks.map(|block| F::codes(block, s)));
                for (to, w) in codes[s].iter_mut().zip(w) {
                    // SAFETY: `to` is 16 long.
                    unsafe { vst1q_s8(to.as_mut_ptr(), w) };
                }
                scale[s] = scales.scale[s];
                if F::MIN {
                    min[s] = scales.min[s];
                }
            }
        }
    }
}

/// Where a panel stands: steps `step .. step + len` of the rows of `columns` of `out`.
pub(super) struct Place {
    step: usize,
    len: usize,
    columns: Range<usize>,
}

/// [`multiply`] for a rung and the constants of some formats. `unsafe`: the CPU must have the rung.
pub(super) type MultiplyFn =
    unsafe fn(&Panel, &Place, act: &Activations<'_>, out: &mut Columns<'_, f32>);

/// Any number of tokens, through a panel.
#[inline(always)]
pub(super) fn gemm<F: Format, D: Dot>(
    w: &Weight<'_>,
    act: &Activations<'_>,
    out: &mut Columns<'_, f32>,
    multiply: MultiplyFn,
) {
    let row_bytes = w.k / F::DTYPE.block_len() * F::DTYPE.block_bytes();
    let n_steps = w.k / STEP;
    let (first, n_rows) = (out.first(), out.len());
    let mut panel = Panel::new();
    for group in (0..n_rows).step_by(4) {
        let rows = four_rows(w, row_bytes, first + group);
        let columns = group..(group + 4).min(n_rows);
        // At least once, so that rows of no weights come out as zeros.
        for step in (0..n_steps.max(1)).step_by(PANEL_STEPS) {
            let len = PANEL_STEPS.min(n_steps - step);
            panel.unpack::<F, D>(rows, step, len);
            let place = Place { step, len, columns: columns.clone() };
            // SAFETY: who calls this function has made sure of the rung, and `multiply` is of the
            // same one.
            unsafe { multiply(&panel, &place, act, out) };
        }
    }
}

/// The panel times all tokens, added to what earlier steps left in `out`.
#[inline(always)]
pub(super) fn multiply<D: Dot, const GROUPS: usize, const MIN: bool, const SMALL: bool>(
    panel: &Panel,
    place: &Place,
    act: &Activations<'_>,
    out: &mut Columns<'_, f32>,
) {
    let shape = Shape { groups: GROUPS, min: MIN };
    let mut t = 0;
    while t < act.n {
        t += match act.n - t {
            1 => tile::<D, 1>(panel, place, act, t, out, (shape, SMALL)),
            2 | 3 => tile::<D, 2>(panel, place, act, t, out, (shape, SMALL)),
            _ => tile::<D, 4>(panel, place, act, t, out, (shape, SMALL)),
        };
    }
}

/// The panel times `T` tokens. Returns `T`.
#[inline(always)]
fn tile<D: Dot, const T: usize>(
    panel: &Panel,
    place: &Place,
    act: &Activations<'_>,
    t: usize,
    out: &mut Columns<'_, f32>,
    (shape, small): (Shape, bool),
) -> usize {
    let n = place.len;
    let mut tokens = [Token { q: &[], d: &[], sums: &[] }; T];
    // SAFETY: NEON is part of every target that this file is compiled for.
    let mut acc = [unsafe { vdupq_n_f32(0.0) }; T];
    for i in 0..T {
        tokens[i] = Token::of(act, t + i, place.step, n);
        if place.step > 0 {
            acc[i] = load(&out.row_mut(t + i)[place.columns.clone()]);
        }
    }
    let (codes, scale, min) = (&panel.codes[..n], &panel.scale[..n], &panel.min[..n]);
    for s in 0..n {
        let mut q = [&[0; STEP]; T];
        for i in 0..T {
            q[i] = &tokens[i].q[s];
        }
        let sums = D::tile::<T>(&codes[s], q, shape.groups, small);
        for i in 0..T {
            let token = &tokens[i];
            acc[i] = fold(shape, acc[i], sums[i], (scale[s], min[s]), token.d[s], token.sums[s]);
        }
    }
    for (i, acc) in acc.into_iter().enumerate() {
        store(&mut out.row_mut(t + i)[place.columns.clone()], acc);
    }
    T
}

/// Makes a rung of a way to multiply: one function for each format, compiled for the CPU features
/// it needs, and the function that finds them.
macro_rules! rung {
    ($features:literal, $dot:ty) => {
        use $crate::base::dtype::DType;
        use $crate::base::pool::Columns;
        use $crate::kernel::matmul::neon_blocks::{Iq4Nl, Mxfp4, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0};
        use $crate::kernel::matmul::neon_superblocks::{
            Iq4Xs, Q2K, Q3K, Q4K, Q5K, Q6K, Tq1_0, Tq2_0,
        };
        use $crate::kernel::matmul::neon_tiles::{self, Format, Panel, Place, gemm, gemv};
        use $crate::kernel::{Activations, MatmulFn, Weight};

        rung!($features, $dot;
            q4_0: Q4_0, q4_1: Q4_1, q5_0: Q5_0, q5_1: Q5_1, q8_0: Q8_0, iq4_nl: Iq4Nl,
            mxfp4: Mxfp4, q2_k: Q2K, q3_k: Q3K, q4_k: Q4K, q5_k: Q5K, q6_k: Q6K, iq4_xs: Iq4Xs,
            tq1_0: Tq1_0, tq2_0: Tq2_0);
    };
    ($features:literal, $dot:ty; $($name:ident: $format:ident),*) => {
        #[target_feature(enable = $features)]
        fn multiply<const GROUPS: usize, const MIN: bool, const SMALL: bool>(
            panel: &Panel,
            place: &Place,
            act: &Activations<'_>,
            out: &mut Columns<'_, f32>,
        ) {
            neon_tiles::multiply::<$dot, GROUPS, MIN, SMALL>(panel, place, act, out);
        }

        $(
            #[target_feature(enable = $features)]
            fn $name(w: &Weight<'_>, act: &Activations<'_>, out: &mut Columns<'_, f32>) {
                if act.n == 1 {
                    gemv::<$format, $dot>(w, act, out);
                } else {
                    let multiply = multiply::<
                        { $format::GROUPS }, { $format::MIN }, { $format::SMALL }>;
                    gemm::<$format, $dot>(w, act, out, multiply);
                }
            }
        )*

        /// This rung's matmul for a type.
        pub(in crate::kernel) fn matmul(dtype: DType) -> Option<MatmulFn> {
            match dtype {
                $($format::DTYPE => Some($name),)*
                _ => $crate::kernel::matmul::neon_float::matmul(dtype),
            }
        }
    };
}
pub(super) use rung;
