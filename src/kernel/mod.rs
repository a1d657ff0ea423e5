//! The inner loops, one table for each instruction set.
//!
//! [`Kernels::for_isa`] gives the table of a rung of the ladder: the scalar functions, overlaid with
//! what each rung up to that one has faster. The functions of a rung may only run on a CPU that has
//! it; a `&Kernels` is the proof of that, as `for_isa` looks at the CPU first. So the `unsafe` calls
//! are the ones in this file, and the methods around them check every length.
//!
//! Kinds of kernels, each a folder with one file for each rung:
//! - [`packed`]: weights of the layout [`p16`] times activations; what a copied model runs on.
//!   [`packed::panel`]: the same with one scale for 256 weights, for many tokens.
//! - [`matmul`]: the same with the file's blocks, for mapped models. A quantised weight is multiplied as integers: the
//!   activations are rounded to 8 bits in blocks of 32 ([`Kernels::quantize`]), and
//!   `out = sum over groups of d * (scale * (codes . q) + min * sum(q))`.
//! - [`quantize`]: activations to those blocks.
//! - [`attend`]: sums over panels of the KV cache, and softmax of a tile of scores.
//! - [`elem`]: norms, activations, rotation.
//!
//! A result depends on the operands of that result alone: `out[t][r]` has the same bits with one
//! token or many, in any range of columns, on any number of threads. A product of packed weights has
//! the same bits on every rung; else bits may differ between rungs, as they add in different orders.
//! `tests/kernels.rs` holds that.
#![allow(unsafe_code, reason = "vector instructions, and calls of functions that need them")]

mod attend;
mod elem;
#[cfg(target_arch = "aarch64")]
mod insn_aarch64;
mod matmul;
mod packed;
pub mod peak;
mod quantize;

pub use packed::Packed;
pub use packed::panel::{TILE, Tiles};

use crate::base::cpu::Isa;
use crate::base::dtype::DType;
use crate::base::pool::{Columns, Width};
use crate::base::sync::OnceLock;
use crate::quant::p16;

pub use attend::q8::{KV_BLOCK, KV_QUAD, Keys8, MOST_MIXED, Queries8, Values8};
pub use attend::unpack::{CodeBits, LEVELS, PACKED};
pub use attend::{GROUP, Panel};
use attend::{Rows, Sums};
pub use elem::hadamard::HADAMARD_SPANS;

/// Weights that share a scale in quantised activations.
pub const ACTIVATION_BLOCK: usize = 32;
/// Quantised activations that share a sum.
pub const ACTIVATION_SUM: usize = 16;

/// The activations of some tokens, one row each, as the columns of a matmul.
///
/// `q`, `d` and `sum` are what [`Kernels::quantize`] makes of `x`; a matmul with float weights reads
/// only `x`, one with quantised weights only the other three. What is not read may be empty.
#[derive(Clone, Copy)]
pub struct Activations<'a> {
    /// Tokens.
    pub n: usize,
    /// Length of a row.
    pub k: usize,
    /// The values, `[n][k]`, rows `pitch` apart.
    pub x: &'a [f32],
    /// From the start of a row of values to that of the next, at least `k`.
    pub pitch: usize,
    /// Codes, -127 to 127, `[n][k]`.
    pub q: &'a [i8],
    /// Scales of blocks of 32 codes, `[n][k / 32]`.
    pub d: &'a [f32],
    /// Sums of 16 codes each, `[n][k / 16]`.
    pub sum: &'a [i32],
}

impl Activations<'_> {
    /// The values of token `t`.
    #[inline]
    fn row(&self, t: usize) -> &[f32] {
        &self.x[t * self.pitch..][..self.k]
    }

    /// Asserts the lengths of what a matmul with weights of `dtype` reads.
    fn check(&self, dtype: DType) {
        if dtype.is_quantised() {
            assert_eq!(self.q.len(), self.n * self.k, "codes of activations");
            assert_eq!(self.d.len(), self.n * self.k / ACTIVATION_BLOCK, "scales of activations");
            assert_eq!(self.sum.len(), self.n * self.k / ACTIVATION_SUM, "sums of activations");
        } else {
            assert!(self.pitch >= self.k, "rows of activations");
            assert_eq!(self.x.len(), self.n * self.pitch, "activations");
        }
    }
}

/// A matrix of weights: rows as they are in the file.
#[derive(Clone, Copy)]
pub struct Weight<'a> {
    /// The type of its elements.
    pub dtype: DType,
    /// Length of a row, whole blocks.
    pub k: usize,
    /// Rows, one for each output.
    pub n_rows: usize,
    /// `n_rows` rows of `dtype.row_bytes(k)` bytes.
    pub bytes: &'a [u8],
}

// The functions of the tables. Lengths are what the methods of `Kernels` check. `unsafe`: the CPU
// must have the rung that the function is of.
pub(crate) type MatmulFn = unsafe fn(&Weight<'_>, &Activations<'_>, &mut Columns<'_, f32>);
pub(crate) type QuantizeFn = unsafe fn(&[f32], &mut [i8], &mut [f32], &mut [i32]);

/// The kernels of one rung of the ladder.
pub struct Kernels {
    isa: Isa,
    matmul: [MatmulFn; DType::COUNT],
    packed: [Option<packed::PackedFn>; DType::COUNT],
    panels: packed::panel::Panels,
    quantize: QuantizeFn,
    attend: attend::Attend,
    attend8: attend::q8::Attend8,
    unpack: attend::unpack::Unpack,
    elem: elem::Elem,
}

impl Kernels {
    /// The table of `isa`; of the highest rung below it that the CPU has, where it lacks that one.
    pub fn for_isa(isa: Isa) -> &'static Kernels {
        static TABLES: [OnceLock<Kernels>; Isa::ALL.len()] =
            [const { OnceLock::new() }; Isa::ALL.len()];
        let isa = Isa::up_to(isa).last().copied().unwrap_or(Isa::Scalar);
        TABLES[isa as usize].get_or_init(|| Kernels {
            isa,
            matmul: std::array::from_fn(|i| matmul::for_isa(DType::ALL[i], isa)),
            packed: std::array::from_fn(|i| packed::for_isa(DType::ALL[i], isa)),
            panels: packed::panel::for_isa(isa),
            quantize: quantize::for_isa(isa),
            attend: attend::for_isa(isa),
            attend8: attend::for_isa_q8(isa),
            unpack: attend::for_isa_unpack(isa),
            elem: elem::for_isa(isa),
        })
    }

    /// The rung that these kernels are of.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// Rounds one row of activations to blocks of 32 codes.
    ///
    /// `d = max |x| / 127`, `q = x / d` rounded to nearest (an exact half away from zero, but for the
    /// rounding of the quotient), `sum` = sums of 16 codes. A block that holds a NaN or an infinity
    /// has unspecified codes and `d` is not finite, so that it shows in every product. Lengths: `x`
    /// and `q` k, `d` k/32, `sum` k/16, k a multiple of 32.
    pub fn quantize(&self, x: &[f32], q: &mut [i8], d: &mut [f32], sum: &mut [i32]) {
        assert_eq!(x.len() % ACTIVATION_BLOCK, 0, "whole blocks");
        assert_eq!(q.len(), x.len(), "codes");
        assert_eq!(d.len(), x.len() / ACTIVATION_BLOCK, "scales");
        assert_eq!(sum.len(), x.len() / ACTIVATION_SUM, "sums");
        // SAFETY: the CPU has this table's rung, and the lengths are checked.
        unsafe { (self.quantize)(x, q, d, sum) }
    }

    /// Multiplies: `out[t][r]` = row `r` of `w` times token `t`, for the columns `r` of `out`.
    pub fn matmul(&self, w: &Weight<'_>, act: &Activations<'_>, out: &mut Columns<'_, f32>) {
        let row_bytes = w.dtype.row_bytes(w.k).expect("weights are whole blocks");
        assert_eq!(w.bytes.len(), row_bytes * w.n_rows, "{}: bytes of weights", w.dtype);
        assert_eq!(act.k, w.k, "lengths of rows");
        assert!(w.k > 0, "a row has weights");
        assert_eq!(out.n_rows(), act.n, "tokens");
        assert!(out.first() + out.len() <= w.n_rows, "columns of out are rows of weights");
        act.check(w.dtype);
        // SAFETY: the CPU has this table's rung, and the lengths are checked.
        unsafe { (self.matmul[w.dtype as usize])(w, act, out) }
    }

    /// Whether these kernels multiply packed weights ([`Kernels::matmul_packed`]) instead of the
    /// file's blocks ([`Kernels::matmul`]).
    pub fn packs(&self) -> bool {
        self.packed.iter().all(Option::is_some)
    }

    /// Multiplies: `out[t][r]` = row `r` of `w` times token `t`, for the columns `r` of `out`: whole
    /// groups of 16 rows, but for the last of `w`.
    pub fn matmul_packed(&self, w: &Packed<'_>, act: &Activations<'_>, out: &mut Columns<'_, f32>) {
        check_packed(w, act.n, act.k, out);
        act.check(w.dtype);
        let matmul = self.packed[w.dtype as usize].expect("kernels that pack");
        // SAFETY: the CPU has this table's rung, and the lengths are checked.
        unsafe { matmul(w, act, out) }
    }

    /// Words that a tile of up to [`TILE`] rows of `k` activations takes.
    pub fn tile_words(&self, k: usize) -> usize {
        self.panels.tile_words(k)
    }

    /// Rounds up to [`TILE`] rows of activations to 8 bits with a scale for each 32, the last of
    /// a row for those that are left: a tile, in the order that these kernels read.
    ///
    /// Scales, codes, and what becomes of numbers that are not finite are as in
    /// [`Kernels::quantize`]. Lengths: `x` 1 to 12 rows as `width` says, their columns a multiple of
    /// 32; `tile` [`Kernels::tile_words`].
    pub fn quantize_tile(&self, x: &[f32], width: Width, tile: &mut [u32]) {
        let Width { n_cols: k, pitch } = width;
        assert!(k > 0 && k.is_multiple_of(ACTIVATION_BLOCK) && k <= pitch, "whole blocks");
        let n = x.len() / pitch;
        assert!(x.len().is_multiple_of(pitch) && (1..=TILE).contains(&n), "rows of a tile");
        assert_eq!(tile.len(), self.tile_words(k), "words of a tile");
        // SAFETY: the CPU has this table's rung, and the lengths are checked.
        unsafe { self.panels.quantize_tile(x, width, tile) }
    }

    /// Multiplies packed weights of a quantised type with tiles, as [`Kernels::matmul_packed`] but
    /// with weights rounded to 8 bits with one scale for 256, and activations with one for 32; see
    /// [`packed::panel`]. The same bits on every rung.
    pub fn matmul_panel(&self, w: &Packed<'_>, act: &Tiles<'_>, out: &mut Columns<'_, f32>) {
        assert!(w.dtype.is_quantised(), "{}: floats have no panels", w.dtype);
        check_packed(w, act.n, act.k, out);
        let words = act.n.div_ceil(TILE) * self.tile_words(act.k);
        assert_eq!(act.words.len(), words, "words of tiles");
        // SAFETY: the CPU has this table's rung, and the lengths are checked.
        unsafe { self.panels.matmul(w, act, out) }
    }

    /// Adds products to `n` rows of sums, in half precision:
    /// `out[r][c] += a[r][0] * b[0][c] + a[r][1] * b[1][c] + ..`, in this order. If the sums are `fresh`,
    /// they begin at 0, and what `out` holds does not matter.
    ///
    /// Rows of `a` are `b.n` long and begin `a_stride` apart, those of `out` have
    /// [`GROUP`] elements for each group of `b` and begin `out_stride` apart.
    pub fn panel_f16(
        &self,
        n: usize,
        (a, a_stride): (&[f32], usize),
        b: &Panel<'_, u16>,
        (out, out_stride): (&mut [f32], usize),
        fresh: bool,
    ) {
        let sums = Sums { n, a, a_stride, out, out_stride, fresh };
        check_panel(&sums, b);
        // SAFETY: the CPU has this table's rung, and the lengths are checked.
        unsafe { (self.attend.panel_f16)(sums, b) }
    }

    /// [`Kernels::panel_f16`] in single precision.
    pub fn panel_f32(
        &self,
        n: usize,
        (a, a_stride): (&[f32], usize),
        b: &Panel<'_, f32>,
        (out, out_stride): (&mut [f32], usize),
        fresh: bool,
    ) {
        let sums = Sums { n, a, a_stride, out, out_stride, fresh };
        check_panel(&sums, b);
        // SAFETY: the CPU has this table's rung, and the lengths are checked.
        unsafe { (self.attend.panel_f32)(sums, b) }
    }

    /// Products of queries and keys in 8 bits, over all elements of a head:
    /// `out[r][c] = sum over blocks b of d_q[r][b] * d_k[b][c] * (q . k)`.
    ///
    /// Blocks are added in their order, `(float(q . k) * d_k) * d_q` with one rounding for the last
    /// product and the sum. Rows of `out` have 16 elements for each group, and begin `out_stride` apart.
    /// Same bits on every rung.
    pub fn scores_q8(
        &self,
        q: &Queries8<'_>,
        k: &Keys8<'_>,
        (out, out_stride): (&mut [f32], usize),
    ) {
        let (n, blocks, cells) = (q.n, q.n_blocks, k.n_groups.saturating_mul(GROUP));
        assert_eq!(k.n_quads.div_ceil(KV_BLOCK / KV_QUAD), blocks, "blocks of a key");
        assert_eq!(
            q.codes.len(),
            n.saturating_mul(blocks).saturating_mul(KV_BLOCK),
            "codes of queries"
        );
        assert_eq!(q.scales.len(), n * blocks, "scales of queries");
        assert_eq!(q.sums.len(), 2 * n * blocks, "sums of queries");
        let codes = cells.saturating_mul(KV_QUAD).saturating_mul(k.n_quads);
        assert_eq!(k.codes.len(), codes, "codes of keys");
        assert!(extent(blocks, k.scale_stride, cells) <= k.scales.len(), "scales of keys");
        assert!(n < 2 || out_stride >= cells, "rows of sums do not overlap");
        assert!(extent(n, out_stride, cells) <= out.len(), "sums");
        // SAFETY: the CPU has this table's rung, and the lengths are checked.
        unsafe { (self.attend8.scores)(q, k, (out, out_stride)) }
    }

    /// Rounds weights of cells, `p[r][i] * d[i]` with `d` in half precision and neither below 0, to
    /// codes of 14 bits: of each row in `planes`, `[row][2][plane]`, the upper 7 and then the lower
    /// ones, beside which nothing is written. `worth` gets for each row what a code of 1 is worth: the
    /// largest product / 16383 (0 where that product is below 5e-35), and a NaN or an infinity if one
    /// is among the products. Rows of `p` begin `p_stride` apart. Same bits on every rung.
    pub fn weigh_q8(
        &self,
        (p, p_stride): (&[f32], usize),
        d: &[u16],
        (planes, plane): (&mut [u8], usize),
        worth: &mut [f32],
    ) {
        let (n, len) = (worth.len(), d.len());
        assert!(extent(n, p_stride, len) <= p.len(), "powers");
        assert!(n == 0 || len <= plane, "planes do not overlap");
        assert!(extent(n.saturating_mul(2), plane, len) <= planes.len(), "planes");
        // SAFETY: the CPU has this table's rung, and the lengths are checked.
        unsafe { (self.attend8.weigh)((p, p_stride), d, (planes, plane), worth) }
    }

    /// Adds values in 8 bits, times the codes of weights, to `n` rows of sums:
    /// `out[r][c] += sum over cells i of weight[r][i] * v[i][c]`, exact.
    ///
    /// Weights are `[n][2][plane]`: of each row the upper plane, then the lower, 4 for each quad of
    /// `v`. Rows of `out` have 16 elements for each group, and begin `out_stride` apart. For at most
    /// [`MOST_MIXED`] cells into the same sums.
    pub fn mix_q8(
        &self,
        n: usize,
        (weights, plane): (&[u8], usize),
        v: &Values8<'_>,
        (out, out_stride): (&mut [i32], usize),
    ) {
        let (width, cells) = (v.n_groups * GROUP, v.n_quads.saturating_mul(KV_QUAD));
        assert!(matches!(v.n_groups, 1 | 2), "groups of a block");
        assert!(cells <= MOST_MIXED && cells <= plane, "cells");
        let planes = n.saturating_mul(2);
        assert!(extent(planes, plane, if n == 0 { 0 } else { cells }) <= weights.len(), "weights");
        assert_eq!(v.codes.len(), cells * width, "codes of values");
        assert!(n < 2 || out_stride >= width, "rows of sums do not overlap");
        assert!(extent(n, out_stride, width) <= out.len(), "sums");
        // SAFETY: the CPU has this table's rung, and the lengths are checked.
        unsafe { (self.attend8.mix)(n, (weights, plane), v, (out, out_stride)) }
    }

    /// Spreads packed codes of `bits` to bytes that [`Kernels::scores_q8`] and [`Kernels::mix_q8`]
    /// read, 64 at once; [`CodeBits`] says how they lie. From codes of 4 and 5 bits the zero of their
    /// place in a quad is taken off; codes of 3 bits are places in [`LEVELS`].
    ///
    /// `codes` is as many times 64 long as `packed` has runs, and shared evenly by `zeros`: from
    /// each run of codes the quad of zeros is taken off that stands at its place. Same bits on every
    /// rung.
    pub fn unpack(&self, bits: CodeBits, packed: &[u8], zeros: &[[u8; 4]], codes: &mut [i8]) {
        let n = codes.len() / PACKED;
        assert_eq!(codes.len(), n * PACKED, "whole runs of codes");
        assert_eq!(packed.len(), n * bits.bytes(), "packed codes");
        assert!(n == 0 || (!zeros.is_empty() && n.is_multiple_of(zeros.len())), "zeros of codes");
        // SAFETY: the CPU has this table's rung, and the lengths are checked.
        unsafe { self.unpack[bits as usize](packed, zeros, codes) }
    }

    /// `x = cap * tanh(x / cap)`, with an absolute error of at most `3e-7 * cap`; `cap` is above 0.
    pub fn soft_cap(&self, x: &mut [f32], cap: f32) {
        // SAFETY: the CPU has this table's rung.
        unsafe { (self.attend.soft_cap)(x, cap) }
    }

    /// Softmax before its division, of rows of `len` elements that begin `stride` apart:
    /// `x = exp(x - max)`; each row's `max` and the sum of its new `x` go to `m` and `l`, which are as
    /// long as there are rows.
    ///
    /// The relative error of a power is at most 2e-7 beyond that of the difference; below the least
    /// normal number it is 0. If all of a row is `-inf`, all becomes 0; a NaN shows in the sum.
    pub fn powers(
        &self,
        (x, stride): (&mut [f32], usize),
        len: usize,
        (m, l): (&mut [f32], &mut [f32]),
    ) {
        assert_eq!(m.len(), l.len(), "rows");
        assert!(m.len() < 2 || stride >= len, "rows do not overlap");
        assert!(extent(m.len(), stride, len) <= x.len(), "powers");
        // SAFETY: the CPU has this table's rung, and the lengths are checked.
        unsafe { (self.attend.powers)(Rows { x, stride, len, m, l }) }
    }

    /// `x = a * x + b * y`.
    pub fn blend(&self, x: &mut [f32], a: f32, y: &[f32], b: f32) {
        assert_eq!(x.len(), y.len(), "lengths");
        // SAFETY: the CPU has this table's rung, and the lengths are checked.
        unsafe { (self.attend.blend)(x, a, y, b) }
    }

    /// `x = a * x + b * y^2`.
    pub fn blend_squares(&self, x: &mut [f32], a: f32, y: &[f32], b: f32) {
        assert_eq!(x.len(), y.len(), "lengths");
        // SAFETY: the CPU has this table's rung, and the lengths are checked.
        unsafe { (self.attend.blend_squares)(x, a, y, b) }
    }

    /// Rounds to half precision: to nearest, ties to even; infinite where it does not fit.
    pub fn to_f16(&self, x: &[f32], out: &mut [u16]) {
        assert_eq!(x.len(), out.len(), "lengths");
        // SAFETY: the CPU has this table's rung, and the lengths are checked.
        unsafe { (self.attend.to_f16)(x, out) }
    }

    /// Root-mean-square norm: `out = x / sqrt(mean(x^2) + eps) * weight`.
    pub fn rms_norm(&self, x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
        assert!(x.len() == weight.len() && x.len() == out.len(), "lengths");
        // SAFETY: the CPU has this table's rung, and the lengths are checked.
        unsafe { (self.elem.rms_norm)(x, weight, eps, out) }
    }

    /// Gated SiLU: `gate = gate / (1 + exp(-gate)) * up`.
    pub fn silu_mul(&self, gate: &mut [f32], up: &[f32]) {
        assert_eq!(gate.len(), up.len(), "lengths");
        // SAFETY: the CPU has this table's rung, and the lengths are checked.
        unsafe { (self.elem.silu_mul)(gate, up) }
    }

    /// Gated GELU, by the tanh approximation:
    /// `gate = gate / 2 * (1 + tanh(sqrt(2 / pi) * (gate + 0.044715 gate^3))) * up`.
    pub fn gelu_mul(&self, gate: &mut [f32], up: &[f32]) {
        assert_eq!(gate.len(), up.len(), "lengths");
        // SAFETY: the CPU has this table's rung, and the lengths are checked.
        unsafe { (self.elem.gelu_mul)(gate, up) }
    }

    /// `x += y`.
    pub fn add(&self, x: &mut [f32], y: &[f32]) {
        assert_eq!(x.len(), y.len(), "lengths");
        // SAFETY: the CPU has this table's rung, and the lengths are checked.
        unsafe { (self.elem.add)(x, y) }
    }

    /// Rotates one head, neighbours in pairs: (0, 1) by angle 0, (2, 3) by angle 1, ...
    ///
    /// `cos` and `sin` have one entry for each angle; what lies beyond twice their length in `x`
    /// stays as it is.
    pub fn rope_norm(&self, x: &mut [f32], cos: &[f32], sin: &[f32]) {
        assert!(cos.len() == sin.len() && 2 * cos.len() <= x.len(), "angles of a head");
        // SAFETY: the CPU has this table's rung, and the lengths are checked.
        unsafe { (self.elem.rope_norm)(x, cos, sin) }
    }

    /// Rotates one head, halves in pairs: (0, n) by angle 0, (1, n + 1) by angle 1, ... with n the
    /// number of angles. The rest as in [`Kernels::rope_norm`].
    pub fn rope_neox(&self, x: &mut [f32], cos: &[f32], sin: &[f32]) {
        assert!(cos.len() == sin.len() && 2 * cos.len() <= x.len(), "angles of a head");
        // SAFETY: the CPU has this table's rung, and the lengths are checked.
        unsafe { (self.elem.rope_neox)(x, cos, sin) }
    }

    /// Transforms each `span` of `x`, one of [`HADAMARD_SPANS`], in place: `x = H x`, with
    /// `H[i][j] = (-1)^(ones in the bits of i & j) / sqrt(span)`. Twice gives `x` again, but for
    /// rounding. Same bits on every rung.
    pub fn hadamard(&self, x: &mut [f32], span: usize) {
        assert!(HADAMARD_SPANS.contains(&span), "a span of the transform");
        assert!(x.len().is_multiple_of(span), "whole spans");
        // SAFETY: the CPU has this table's rung, and the lengths are checked.
        unsafe { (self.elem.hadamard)(x, span) }
    }
}

/// Asserts the lengths of packed weights and of what they make of `n` rows of `k`.
fn check_packed(w: &Packed<'_>, n: usize, k: usize, out: &Columns<'_, f32>) {
    let bytes = p16::packed_bytes(w.dtype, w.k, w.n_rows).expect("weights are whole blocks");
    assert_eq!(w.bytes.len(), bytes, "{}: bytes of packed weights", w.dtype);
    assert_eq!(k, w.k, "lengths of rows");
    assert!(w.k > 0, "a row has weights");
    assert_eq!(out.n_rows(), n, "tokens");
    let end = out.first() + out.len();
    assert!(end <= w.n_rows, "columns of out are rows of weights");
    assert_eq!(out.first() % p16::ROWS, 0, "whole groups");
    assert!(end == w.n_rows || end.is_multiple_of(p16::ROWS), "whole groups");
}

/// Elements up to the end of the last of `n` rows of `len`.
fn extent(n: usize, stride: usize, len: usize) -> usize {
    match n.checked_sub(1) {
        None => Some(0),
        Some(last) => last.checked_mul(stride).and_then(|at| at.checked_add(len)),
    }
    .expect("elements can be counted")
}

/// Checks that all that a panel is multiplied with lies where it should.
fn check_panel<T>(sums: &Sums<'_>, b: &Panel<'_, T>) {
    let width = b.n_groups.checked_mul(GROUP).expect("columns can be counted");
    assert!(sums.n < 2 || sums.out_stride >= width, "rows of sums do not overlap");
    assert!(b.extent().is_some_and(|n| n <= b.data.len()), "the panel lies in the cache");
    assert!(extent(sums.n, sums.a_stride, b.n) <= sums.a.len(), "factors");
    assert!(extent(sums.n, sums.out_stride, width) <= sums.out.len(), "sums");
}
