//! Every kernel of every instruction set that this CPU has, against exact arithmetic in f64.
//!
//! One runner for all: it names no instruction set. The bounds are those of the arithmetic, with the
//! magnitudes that were really added, so that a wrong weight, code or scale cannot hide in them.
//! Where the same bits are promised, the same bits are asked for.

#[path = "support/blocks.rs"]
mod blocks;
#[path = "support/rungs.rs"]
mod rungs;

use blocks::scale_places;
use half::f16;
use tern::base::cpu::Isa;
use tern::base::dtype::DType;
use tern::base::pool::{Columns, Width};
use tern::kernel::{Activations, Kernels, Packed, Panel, TILE, Tiles, Weight, peak};
use tern::kernel::{CodeBits, HADAMARD_SPANS, LEVELS, PACKED};
use tern::kernel::{Keys8, MOST_MIXED, Queries8, Values8};
use tern::quant::{self, p16};

/// Half a unit in the last place of 1.
const U: f64 = 1.0 / 16777216.0;

struct Random(u64);

impl Random {
    fn next(&mut self) -> u32 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 32) as u32
    }

    fn below(&mut self, n: usize) -> usize {
        self.next() as usize % n
    }

    /// -1 to 1.
    fn float(&mut self) -> f32 {
        (self.next() >> 8) as f32 / 8388608.0 - 1.0
    }

    fn floats(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.float()).collect()
    }
}

fn each_isa(mut f: impl FnMut(&Kernels, &str)) {
    for &isa in rungs::rungs() {
        let kernels = Kernels::for_isa(isa);
        assert_eq!(kernels.isa(), isa);
        f(kernels, isa.name());
    }
}

/// The roof of every rung is measured by code that runs.
#[test]
fn the_multiply_instruction_of_every_rung_runs() {
    for &isa in rungs::rungs() {
        assert_eq!(peak::multiply(isa, 3).is_some(), isa != Isa::Scalar, "{isa}");
    }
}

#[test]
fn a_rung_that_the_cpu_lacks_is_not_chosen() {
    for isa in Isa::ALL {
        let chosen = Kernels::for_isa(isa).isa();
        assert!(rungs::rungs().contains(&chosen), "{isa}: {chosen}");
        assert!(chosen <= isa, "{isa}: {chosen}");
    }
}

// ---------------------------------------------------------------------------------- matmul

/// Rows of random blocks, with scales between 0.001 and 1; some zero, some subnormal.
fn random_rows(dtype: DType, k: usize, n_rows: usize, random: &mut Random) -> Vec<u8> {
    let n = dtype.row_bytes(k).expect("whole blocks") * n_rows;
    let mut bytes: Vec<u8> = (0..n).map(|_| (random.next() >> 24) as u8).collect();
    let scales = scale_places(dtype);
    for block in bytes.chunks_mut(dtype.block_bytes()) {
        let odd = random.below(16);
        let scale = match odd {
            0 => 0.0,
            1 => 5e-7 * random.float(), // a subnormal f16
            _ => random.float(),
        };
        match dtype {
            DType::F32 => block.copy_from_slice(&match odd {
                2 => (1e-39 * random.float()).to_le_bytes(),
                _ => scale.to_le_bytes(),
            }),
            DType::BF16 => block.copy_from_slice(&half::bf16::from_f32(scale).to_le_bytes()),
            DType::Mxfp4 => block[0] = [0, 1, 112, 124, 126, 128][random.below(6)],
            _ => {
                for &at in scales {
                    let bits = f16::from_f32(scale * (1.0 - at as f32 / 512.0)).to_le_bytes();
                    block[at..at + 2].copy_from_slice(&bits);
                }
            }
        }
    }
    bytes
}

/// Rows with blocks of zeros, of subnormal numbers, and of one outlier among small values.
fn random_activations(n: usize, k: usize, random: &mut Random) -> Vec<f32> {
    let mut x = random.floats(n * k);
    for block in x.chunks_mut(32) {
        let scale = match random.below(8) {
            0 => 0.0,
            1 => 1e-39,
            2 => 1000.0,
            _ => 1.0,
        };
        block.iter_mut().for_each(|x| *x *= scale);
        if random.below(8) == 0 {
            block[0] = 50.0;
        }
    }
    x
}

struct Quantised {
    q: Vec<i8>,
    d: Vec<f32>,
    sum: Vec<i32>,
}

fn quantise(kernels: &Kernels, x: &[f32], k: usize) -> Quantised {
    let n = x.len();
    let mut out = Quantised { q: vec![99; n], d: vec![f32::NAN; n / 32], sum: vec![9999; n / 16] };
    let rows = x.chunks(k).zip(out.q.chunks_mut(k));
    for ((x, q), (d, sum)) in rows.zip(out.d.chunks_mut(k / 32).zip(out.sum.chunks_mut(k / 16))) {
        kernels.quantize(x, q, d, sum);
    }
    out
}

/// Tokens `from .. from + n` of all activations.
fn tokens<'a>(
    x: &'a [f32],
    quantised: Option<&'a Quantised>,
    k: usize,
    from: usize,
    n: usize,
) -> Activations<'a> {
    let of = |width: usize| from * width..(from + n) * width;
    match quantised {
        None => Activations { n, k, x: &x[of(k)], pitch: k, q: &[], d: &[], sum: &[] },
        Some(a) => Activations {
            n,
            k,
            x: &[],
            pitch: k,
            q: &a.q[of(k)],
            d: &a.d[of(k / 32)],
            sum: &a.sum[of(k / 16)],
        },
    }
}

/// The exact result of what a kernel is to compute, the sum of the magnitudes that it adds, and for
/// quantised weights how far the activations' rounding may take it from the true product.
fn exact(
    dtype: DType,
    row: &[u8],
    x: &[f32],
    quantised: Option<(&[i8], &[f32])>,
) -> (f64, f64, f64, f64) {
    let k = x.len();
    let mut w = vec![0.0; k];
    quant::decode_row(dtype, row, &mut w);
    let (mut truth, mut magnitude) = (0.0, 0.0);
    for (w, x) in w.iter().zip(x) {
        truth += f64::from(*w) * f64::from(*x);
        magnitude += (f64::from(*w) * f64::from(*x)).abs();
    }
    let Some((q, d)) = quantised else { return (truth, magnitude, truth, 0.0) };
    let group = quant::layout(dtype).expect("a quantised type").group;
    let mut codes = vec![0; k];
    let (mut scales, mut mins) = (vec![0.0; k / group], vec![0.0; k / group]);
    quant::expand_row(dtype, row, &mut codes, &mut scales, &mut mins);
    let (mut value, mut magnitude, mut rounding) = (0.0, 0.0, 0.0);
    for i in 0..k {
        let (scale, min) = (f64::from(scales[i / group]), f64::from(mins[i / group]));
        let (code, d) = (f64::from(codes[i]), f64::from(d[i / 32]));
        let q = f64::from(q[i]);
        value += (scale * code + min) * q * d;
        // A kernel may shift signed codes by 128 to make them unsigned.
        magnitude += (scale.abs() * (code.abs() + 128.0) + min.abs()) * q.abs() * d;
        // Half a step, or all of it if the block counts as zeros.
        rounding += f64::from(w[i]).abs() * if d == 0.0 { 4e-37 } else { d * 0.5001 };
    }
    (value, magnitude, truth, rounding)
}

fn matmul(kernels: &Kernels, w: &Weight<'_>, act: &Activations<'_>) -> Vec<f32> {
    let mut out = vec![f32::NAN; act.n * w.n_rows];
    if w.n_rows > 0 {
        kernels.matmul(w, act, &mut Columns::new(&mut out, w.n_rows, 0..w.n_rows));
    }
    out
}

fn assert_same_bits(a: &[f32], b: &[f32], what: &str) {
    assert_eq!(a.len(), b.len(), "{what}");
    for (i, (a, b)) in a.iter().zip(b).enumerate() {
        assert_eq!(a.to_bits(), b.to_bits(), "{what}: {a} and {b} at {i}");
    }
}

const N_TOKENS: [usize; 6] = [1, 2, 3, 5, 8, 17];
/// With tiles of 16 tokens, two and some.
const MANY_TOKENS: usize = 38;

fn check_matmul(kernels: &Kernels, dtype: DType, k: usize, n_rows: usize, random: &mut Random) {
    let what = format!("matmul_{dtype}_{}, k = {k}, {n_rows} rows", kernels.isa());
    let bytes = random_rows(dtype, k, n_rows, random);
    let w = Weight { dtype, k, n_rows, bytes: &bytes };
    let x = random_activations(17, k, random);
    let quantised = dtype.is_quantised().then(|| quantise(kernels, &x, k));
    let quantised = quantised.as_ref();
    let all = matmul(kernels, &w, &tokens(&x, quantised, k, 0, 17));

    let row_bytes = dtype.row_bytes(k).expect("whole blocks");
    // Each lane adds at most k / 32 products and as many minima, then lanes and pieces are added.
    let bound = U * (k as f64 / 8.0 + 24.0);
    for (i, &out) in all.iter().enumerate() {
        let (t, r) = (i / n_rows, i % n_rows);
        let row = &bytes[r * row_bytes..][..row_bytes];
        let q = quantised.map(|a| (&a.q[t * k..][..k], &a.d[t * k / 32..][..k / 32]));
        let (value, magnitude, truth, rounding) = exact(dtype, row, &x[t * k..][..k], q);
        let error = (f64::from(out) - value).abs();
        // 1e-37: products below the normal range may be lost.
        let bound = bound * magnitude + 1e-37 * (k as f64);
        assert!(error <= bound, "{what}: [{t}][{r}] = {out}, exactly {value}, bound {bound}");
        let error = (f64::from(out) - truth).abs();
        assert!(error <= rounding + bound, "{what}: [{t}][{r}] = {out}, truly {truth}");
    }

    // Other numbers of tokens, from another token on.
    for n in N_TOKENS {
        let from = (17 - n) / 2;
        let some = matmul(kernels, &w, &tokens(&x, quantised, k, from, n));
        assert_same_bits(
            &some,
            &all[from * n_rows..][..some.len()],
            &format!("{what}, {n} tokens"),
        );
    }
    // Columns in parts, and columns outside of them untouched.
    for n in [1, 3, 17] {
        for grain in [1, 2, 3, 4, 7] {
            let act = tokens(&x, quantised, k, 0, n);
            let mut out = vec![f32::NAN; n * n_rows];
            for first in (0..n_rows).step_by(grain) {
                let end = n_rows.min(first + grain);
                kernels.matmul(&w, &act, &mut Columns::new(&mut out, n_rows, first..end));
                let after = out.chunks(n_rows).flat_map(|row| &row[end..]);
                assert!(after.into_iter().all(|x| x.is_nan()), "{what}: beyond the columns");
            }
            let what = format!("{what}, {n} tokens, columns by {grain}");
            assert_same_bits(&out, &all[..n * n_rows], &what);
        }
    }
}

fn check_all_matmuls(quantised: bool) {
    each_isa(|kernels, isa| {
        let mut random = Random(7);
        for &dtype in DType::ALL.iter().filter(|dtype| dtype.is_quantised() == quantised) {
            // Row lengths around the pieces that kernels work in: 64, 256, 512, 1024, 2048.
            let lengths: &[usize] = match dtype.block_len() {
                1 => {
                    &[1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 33, 63, 64, 100, 255, 257, 576, 1023, 2049]
                }
                32 => &[32, 64, 96, 160, 256, 480, 512, 544, 576, 1024, 2048, 2080, 4128],
                _ => &[256, 512, 768, 1024, 2048, 2304, 4352],
            };
            for &k in lengths {
                let rows: &[usize] = if k <= 576 { &[0, 1, 2, 3, 5, 9] } else { &[4, 6] };
                for &n_rows in rows {
                    check_matmul(kernels, dtype, k, n_rows, &mut random);
                }
            }
            eprintln!("tested matmul_{dtype}_{isa}");
        }
    });
}

/// Packed weights: exact within the bounds of the arithmetic, and the same bits on every rung, with
/// one token or many, in any range of groups.
fn check_packed(dtype: DType, k: usize, n_rows: usize, random: &mut Random) {
    let bytes = random_rows(dtype, k, n_rows, random);
    let mut packed = vec![0; p16::packed_bytes(dtype, k, n_rows).expect("whole blocks")];
    p16::pack(dtype, k, &bytes, &mut packed);
    let w = Packed { dtype, k, n_rows, bytes: &packed };
    let x = random_activations(MANY_TOKENS, k, random);
    let quantised = dtype.is_quantised().then(|| quantise(Kernels::for_isa(Isa::Scalar), &x, k));
    let quantised = quantised.as_ref();
    let multiply = |kernels: &Kernels, from: usize, n: usize, grain: usize| {
        let act = tokens(&x, quantised, k, from, n);
        let mut out = vec![f32::NAN; n * n_rows];
        for first in (0..n_rows).step_by(grain) {
            let end = n_rows.min(first + grain);
            kernels.matmul_packed(&w, &act, &mut Columns::new(&mut out, n_rows, first..end));
            let after = out.chunks(n_rows).flat_map(|row| &row[end..]);
            assert!(after.into_iter().all(|x| x.is_nan()), "beyond the columns");
        }
        out
    };
    let all = multiply(Kernels::for_isa(Isa::Scalar), 0, MANY_TOKENS, n_rows);
    let row_bytes = dtype.row_bytes(k).expect("whole blocks");
    let bound = U * (k as f64 / 8.0 + 24.0 + FLOAT_PIECE);
    for (i, &out) in all.iter().take(17 * n_rows).enumerate() {
        let (t, r) = (i / n_rows, i % n_rows);
        let row = &bytes[r * row_bytes..][..row_bytes];
        let q = quantised.map(|a| (&a.q[t * k..][..k], &a.d[t * k / 32..][..k / 32]));
        let (value, magnitude, truth, rounding) = exact(dtype, row, &x[t * k..][..k], q);
        let error = (f64::from(out) - value).abs();
        let bound = bound * magnitude + 1e-37 * (k as f64);
        let what = format!("packed {dtype}, k = {k}, {n_rows} rows: [{t}][{r}] = {out}");
        assert!(error <= bound, "{what}, exactly {value}, bound {bound}");
        assert!((f64::from(out) - truth).abs() <= rounding + bound, "{what}, truly {truth}");
    }
    each_isa(|kernels, isa| {
        if !kernels.packs() {
            return;
        }
        for n in N_TOKENS.into_iter().chain([MANY_TOKENS]) {
            for grain in [16, 48] {
                let from = (MANY_TOKENS - n) / 2;
                let some = multiply(kernels, from, n, grain);
                let what = format!("packed {dtype}_{isa}, k = {k}, {n_rows} rows, {n} tokens");
                assert_same_bits(&some, &all[from * n_rows..][..some.len()], &what);
            }
        }
    });
}

/// Weights of floats that packed kernels add up in a row.
const FLOAT_PIECE: f64 = 256.0;

#[test]
fn matmul_with_packed_weights() {
    let mut random = Random(17);
    for &dtype in DType::ALL {
        let lengths: &[usize] = match dtype.block_len() {
            1 => &[1, 3, 16, 33, 255, 257, 576, 1023],
            // Up to 640 in one piece; an emulator takes the first three.
            32 => &[32, 96, 672, 480, 544, 640, 1056],
            _ => &[256, 512, 768, 1280],
        };
        // An emulator takes minutes for what a processor does in a second.
        let emulated = std::env::var_os("TERN_TEST_RUNNER").is_some();
        let rows: &[usize] = if emulated { &[17, 48] } else { &[1, 15, 16, 17, 49, 64] };
        for &k in &lengths[..if emulated { 3 } else { lengths.len() }] {
            for &n_rows in rows {
                check_packed(dtype, k, n_rows, &mut random);
            }
        }
    }
}

// ---------------------------------------------------------------------------------- panels

/// Weights that share a scale in a panel.
const PANEL_PIECE: usize = 256;
/// And activations in a tile.
const PANEL_BLOCK: usize = 32;

fn tiles(kernels: &Kernels, x: &[f32], k: usize) -> Vec<u32> {
    let words = kernels.tile_words(k);
    let mut out = vec![0xdead_beef; (x.len() / k).div_ceil(TILE) * words];
    for (x, tile) in x.chunks(TILE * k).zip(out.chunks_exact_mut(words)) {
        kernels.quantize_tile(x, Width::dense(k), tile);
    }
    out
}

fn multiply_panel(kernels: &Kernels, w: &Packed<'_>, x: &[f32], grain: usize) -> Vec<f32> {
    let (n, n_rows) = (x.len() / w.k, w.n_rows);
    let words = tiles(kernels, x, w.k);
    let act = Tiles { n, k: w.k, words: &words };
    let mut out = vec![f32::NAN; n * n_rows];
    for first in (0..n_rows).step_by(grain) {
        let end = n_rows.min(first + grain);
        kernels.matmul_panel(w, &act, &mut Columns::new(&mut out, n_rows, first..end));
        let after = out.chunks(n_rows).flat_map(|row| &row[end..]);
        assert!(after.into_iter().all(|x| x.is_nan()), "beyond the columns");
    }
    out
}

/// How far rounding to panels may take a product from the true one, which comes first: a weight goes
/// by at most half of a 127th of the largest of its 256 and 2/128 of that, an activation by half.
fn panel_error(dtype: DType, row: &[u8], x: &[f32]) -> (f64, f64) {
    let mut w = vec![0.0; x.len()];
    quant::decode_row(dtype, row, &mut w);
    let group = quant::layout(dtype).expect("a quantised type").group;
    let (low, high) = codes_of(dtype);
    let mut codes = vec![0; w.len()];
    let (mut scales, mut mins) = (vec![0f32; w.len() / group], vec![0f32; w.len() / group]);
    quant::expand_row(dtype, row, &mut codes, &mut scales, &mut mins);
    let (mut truth, mut error) = (0.0, 0.0);
    for (p, (w, x)) in w.chunks(PANEL_PIECE).zip(x.chunks(PANEL_PIECE)).enumerate() {
        let of = p * PANEL_PIECE / group..(p * PANEL_PIECE + w.len()) / group;
        let ends = scales[of.clone()].iter().zip(&mins[of]).flat_map(|(scale, min)| {
            [low, high].map(|code| (f64::from(*scale) * code + f64::from(*min)).abs())
        });
        let most_w = ends.fold(0f64, f64::max);
        // What is taken for zeros is off by all of it.
        let dw = if most_w < 8e-31 { 8e-31 } else { most_w / 126.0 * (0.5 + 2.0 / 128.0) };
        let (mut largest, mut scales) = (0.0, 0.0);
        for (w, x) in w.chunks(PANEL_BLOCK).zip(x.chunks(PANEL_BLOCK)) {
            let most_x = x.iter().fold(0f64, |most, x| most.max(f64::from(*x).abs()));
            let dx = if most_x < 4e-37 { 4e-37 } else { most_x / 127.0 * 0.5001 };
            for (w, x) in w.iter().zip(x) {
                let (w, x) = (f64::from(*w), f64::from(*x));
                truth += w * x;
                error += w.abs() * dx + dw * x.abs() + dw * dx;
            }
            largest += w.len() as f64 * (most_w + dw) * (most_x + dx);
            scales += 2.0 * dx;
        }
        // Each sum of floats is rounded once for each piece so far; and before the Ms of a piece
        // cancel each other, by some scales of its activations.
        error += 8.0 * U * largest + 6.0 * scales * most_w / 126.0 + 1e-37;
    }
    (truth, error)
}

/// The least and the largest value of a code.
fn codes_of(dtype: DType) -> (f64, f64) {
    match dtype {
        DType::Q4_0 => (-8.0, 7.0),
        DType::Q4_1 | DType::Q4K => (0.0, 15.0),
        DType::Q5_0 => (-16.0, 15.0),
        DType::Q5_1 | DType::Q5K => (0.0, 31.0),
        DType::Q2K => (0.0, 3.0),
        DType::Q3K => (-4.0, 3.0),
        DType::Q6K => (-32.0, 31.0),
        DType::Mxfp4 => (-12.0, 12.0),
        DType::Tq1_0 => (-1.0, 1.0),
        DType::Tq2_0 => (-1.0, 2.0),
        DType::Q8_0 => (-128.0, 127.0),
        _ => (-127.0, 127.0),
    }
}

/// Panels: the scalar ones within what their rounding allows of the true product, and the others with
/// the same bits, with any number of tokens and in any range of groups.
fn check_panel(dtype: DType, k: usize, n_rows: usize, random: &mut Random) {
    let bytes = random_rows(dtype, k, n_rows, random);
    let mut packed = vec![0; p16::packed_bytes(dtype, k, n_rows).expect("whole blocks")];
    p16::pack(dtype, k, &bytes, &mut packed);
    let w = Packed { dtype, k, n_rows, bytes: &packed };
    let x = random_activations(29, k, random);
    let what = format!("panel {dtype}, k = {k}, {n_rows} rows");
    let all = multiply_panel(Kernels::for_isa(Isa::Scalar), &w, &x, n_rows);
    let row_bytes = dtype.row_bytes(k).expect("whole blocks");
    for (i, &out) in all.iter().enumerate() {
        let (t, r) = (i / n_rows, i % n_rows);
        let (truth, bound) =
            panel_error(dtype, &bytes[r * row_bytes..][..row_bytes], &x[t * k..][..k]);
        let error = (f64::from(out) - truth).abs();
        assert!(error <= bound, "{what}: [{t}][{r}] = {out}, truly {truth}, bound {bound}");
    }
    each_isa(|kernels, isa| {
        for (n, grain) in [(1, 16), (4, 32), (5, 48), (12, 16), (13, 32), (29, 64)] {
            let from = (29 - n) / 2;
            let some = multiply_panel(kernels, &w, &x[from * k..(from + n) * k], grain);
            let what = format!("{what}, {isa}, {n} tokens");
            assert_same_bits(&some, &all[from * n_rows..][..some.len()], &what);
        }
    });
}

#[test]
fn matmul_with_panels() {
    let mut random = Random(43);
    for &dtype in DType::ALL.iter().filter(|dtype| dtype.is_quantised()) {
        let lengths: &[usize] = match dtype.block_len() {
            32 => &[32, 96, 576, 1056],
            _ => &[256, 768, 1280],
        };
        let emulated = std::env::var_os("TERN_TEST_RUNNER").is_some();
        let rows: &[usize] = if emulated { &[17] } else { &[1, 16, 17, 49, 64] };
        for &k in lengths {
            for &n_rows in rows {
                check_panel(dtype, k, n_rows, &mut random);
            }
        }
        eprintln!("tested panel_{dtype}");
    }
}

#[test]
fn panels_of_numbers_that_are_not_finite_show() {
    let (dtype, k, n_rows) = (DType::Q4_0, 512, 16);
    let mut random = Random(47);
    let bytes = random_rows(dtype, k, n_rows, &mut random);
    let mut packed = vec![0; p16::packed_bytes(dtype, k, n_rows).expect("whole blocks")];
    p16::pack(dtype, k, &bytes, &mut packed);
    let w = Packed { dtype, k, n_rows, bytes: &packed };
    each_isa(|kernels, isa| {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut x = vec![1.0; 3 * k];
            x[k + 300] = bad;
            let out = multiply_panel(kernels, &w, &x, n_rows);
            for (t, out) in out.chunks(n_rows).enumerate() {
                assert!(out.iter().all(|x| x.is_finite() == (t != 1)), "{isa}, {bad}, token {t}");
            }
        }
    });
}

#[test]
fn matmul_with_quantised_weights() {
    check_all_matmuls(true);
}

#[test]
fn matmul_with_float_weights() {
    check_all_matmuls(false);
}

/// So a machine's results do not change with the rung that it runs on.
#[cfg(target_arch = "aarch64")]
#[test]
fn matmul_has_the_same_bits_on_every_rung_of_neon() {
    let (k, n_rows) = (2304, 6);
    let mut random = Random(31);
    for &dtype in DType::ALL {
        let bytes = random_rows(dtype, k, n_rows, &mut random);
        let w = Weight { dtype, k, n_rows, bytes: &bytes };
        let x = random_activations(7, k, &mut random);
        let quantised = quantise(Kernels::for_isa(Isa::Neon), &x, k);
        for n in [1, 7] {
            let act = tokens(&x, dtype.is_quantised().then_some(&quantised), k, 0, n);
            let plain = matmul(Kernels::for_isa(Isa::Neon), &w, &act);
            for &isa in rungs::rungs().iter().filter(|isa| **isa > Isa::Neon) {
                let out = matmul(Kernels::for_isa(isa), &w, &act);
                assert_same_bits(&out, &plain, &format!("matmul_{dtype}_{isa}, {n} tokens"));
            }
        }
    }
}

/// The same products, whatever lies between the rows of activations.
#[test]
fn rows_of_activations_may_lie_apart() {
    let (k, n, n_rows) = (96, 7, 20);
    let width = Width::spread(k);
    assert!(width.pitch > k);
    let mut random = Random(29);
    let x = random_activations(n, k, &mut random);
    let mut apart = vec![f32::NAN; width.len(n)];
    for (apart, x) in width.rows_mut(&mut apart).zip(x.chunks(k)) {
        apart.copy_from_slice(x);
    }
    for dtype in [DType::F32, DType::F16, DType::BF16] {
        let bytes = random_rows(dtype, k, n_rows, &mut random);
        let mut packed = vec![0; p16::packed_bytes(dtype, k, n_rows).expect("whole blocks")];
        p16::pack(dtype, k, &bytes, &mut packed);
        each_isa(|kernels, isa| {
            let [dense, spread] = [(&x, k), (&apart, width.pitch)].map(|(x, pitch)| {
                let act = Activations { n, k, x, pitch, q: &[], d: &[], sum: &[] };
                let w = Weight { dtype, k, n_rows, bytes: &bytes };
                let mut out = matmul(kernels, &w, &act);
                if kernels.packs() {
                    let w = Packed { dtype, k, n_rows, bytes: &packed };
                    let from = out.len();
                    out.resize(from + n * n_rows, f32::NAN);
                    let columns = &mut Columns::new(&mut out[from..], n_rows, 0..n_rows);
                    kernels.matmul_packed(&w, &act, columns);
                }
                out
            });
            assert_same_bits(&dense, &spread, &format!("{dtype} {isa}"));
        });
    }
    each_isa(|kernels, isa| {
        let [dense, spread] = [(&x, Width::dense(k)), (&apart, width)].map(|(x, width)| {
            let mut tile = vec![0; kernels.tile_words(k)];
            kernels.quantize_tile(x, width, &mut tile);
            tile
        });
        assert_eq!(dense, spread, "tile, {isa}");
    });
}

#[test]
#[should_panic(expected = "bytes of weights")]
fn matmul_checks_lengths() {
    let w = Weight { dtype: DType::Q8_0, k: 64, n_rows: 2, bytes: &[0; 135] };
    let act =
        Activations { n: 1, k: 64, x: &[], pitch: 64, q: &[0; 64], d: &[0.0; 2], sum: &[0; 4] };
    let mut out = [0.0; 2];
    Kernels::for_isa(Isa::best()).matmul(&w, &act, &mut Columns::new(&mut out, 2, 0..2));
}

// -------------------------------------------------------------------------------- quantize

#[test]
fn quantize_gives_the_same_codes_everywhere() {
    let mut random = Random(11);
    let mut x = random_activations(64, 512, &mut random);
    // Exact halves, which go away from zero; the largest and the least magnitudes.
    for (i, x) in x[..32].iter_mut().enumerate() {
        *x = [127.0, -127.0, 0.5, -0.5, 1.5, -1.5, 2.5, -2.5, 126.5, -126.5, 0.49999997][i % 11];
    }
    x[32] = f32::MAX;
    x[64] = f32::MIN_POSITIVE;
    x[96] = 1e-36;
    x[97] = -3.7e-37;
    let reference = quantise(Kernels::for_isa(Isa::Scalar), &x, 512);
    assert_eq!(reference.q[..6], [127, -127, 1, -1, 2, -2]);
    for (b, block) in x.chunks(32).enumerate() {
        let max = block.iter().fold(0f32, |max, x| max.max(x.abs()));
        let d = f64::from(reference.d[b]);
        if max > 4e-37 {
            assert!((d - f64::from(max) / 127.0).abs() <= U * d, "block {b}");
        }
        for (i, x) in block.iter().enumerate() {
            let q = reference.q[32 * b + i];
            let error = (f64::from(q) * d - f64::from(*x)).abs();
            assert!(error <= 0.5001 * d || d == 0.0 && q == 0, "block {b}, {i}: {x} as {q} * {d}");
        }
        for (g, q) in reference.q[32 * b..][..32].chunks(16).enumerate() {
            let sum: i32 = q.iter().map(|&q| i32::from(q)).sum();
            assert_eq!(reference.sum[2 * b + g], sum, "block {b}");
        }
    }
    each_isa(|kernels, isa| {
        for k in [32, 64, 96, 128, 160, 224, 512] {
            let part = &x[..k * (x.len() / k)];
            let out = quantise(kernels, part, k);
            let differs = out.q.iter().zip(&reference.q).position(|(a, b)| a != b);
            assert_eq!(differs, None, "codes of rows of {k}, {isa}");
            let differs = out.sum.iter().zip(&reference.sum).position(|(a, b)| a != b);
            assert_eq!(differs, None, "sums of rows of {k}, {isa}");
            assert_same_bits(&out.d, &reference.d[..part.len() / 32], isa);
        }
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut x = random.floats(64);
            x[33 + random.below(31)] = bad;
            let out = quantise(kernels, &x, 64);
            assert!(out.d[0].is_finite() && !out.d[1].is_finite(), "{bad}, {isa}");
        }
        eprintln!("tested quantize_{isa}");
    });
}

// ---------------------------------------------------------------------------------- attend

/// `out += a * panel`, with one of the two types of the cache.
fn add_panel(
    kernels: &Kernels,
    b: &Panel<'_, f32>,
    bits: Option<&[u16]>,
    (n, a, a_stride): (usize, &[f32], usize),
    (out, out_stride): (&mut [f32], usize),
    fresh: bool,
) {
    let Panel { n: terms, row, n_groups, group, .. } = *b;
    match bits {
        Some(data) => {
            let b = Panel { data, n: terms, row, n_groups, group };
            kernels.panel_f16(n, (a, a_stride), &b, (out, out_stride), fresh);
        }
        None => kernels.panel_f32(n, (a, a_stride), b, (out, out_stride), fresh),
    }
}

#[test]
fn panels_are_multiplied_and_added() {
    let mut random = Random(13);
    let data = random.floats(40_000);
    let bits: Vec<u16> = data.iter().map(|&x| f16::from_f32(x).to_bits()).collect();
    let halves: Vec<f32> = bits.iter().map(|&x| f16::from_bits(x).to_f32()).collect();
    each_isa(|kernels, isa| {
        for n in [1, 2, 3, 4, 5, 6, 7, 8, 13, 24] {
            for terms in [0, 1, 2, 7, 64, 80, 128] {
                for n_groups in [0, 1, 2, 3, 4, 5, 7, 8, 9, 16] {
                    let keys = random.below(2) == 0;
                    let row = if keys { 16 } else { 16 * n_groups + random.below(9) };
                    let group = if keys { 16 * terms + random.below(9) } else { 16 };
                    let from = random.below(100);
                    let a_stride = terms + random.below(5);
                    let out_stride = 16 * n_groups + random.below(5);
                    let a = random.floats(n * a_stride + 1);
                    let before = random.floats(n * out_stride + 1);
                    let what = format!("{isa}: {n} rows, {terms} terms, {n_groups} groups");
                    for half in [false, true] {
                        let values = if half { &halves } else { &data };
                        let bits = half.then_some(&bits[from..]);
                        let b = Panel { data: &values[from..], n: terms, row, n_groups, group };
                        let mut out = before.clone();
                        let a = (n, &a[..], a_stride);
                        add_panel(kernels, &b, bits, a, (&mut out, out_stride), false);
                        let (n, a, a_stride) = a;
                        for (at, (out, before)) in out.iter().zip(&before).enumerate() {
                            let (r, c) = (at / out_stride.max(1), at % out_stride.max(1));
                            if r >= n || c >= 16 * n_groups {
                                assert_eq!(out.to_bits(), before.to_bits(), "{what}: a gap");
                                continue;
                            }
                            let (mut sum, mut magnitude) = (f64::from(*before), before.abs());
                            for i in 0..terms {
                                let b = b.data[i * row + c / 16 * group + c % 16];
                                sum += f64::from(a[r * a_stride + i]) * f64::from(b);
                                magnitude += (a[r * a_stride + i] * b).abs();
                            }
                            let bound = U * (terms as f64 + 1.0) * f64::from(magnitude);
                            assert_close(*out, sum, bound, &what);
                        }
                        // One row at a time, one group at a time, in two halves: the same bits.
                        let mut again = before.clone();
                        for r in 0..n {
                            for g in 0..n_groups {
                                let middle = random.below(terms + 1);
                                for (start, end) in [(0, middle), (middle, terms)] {
                                    let at = from + start * row + g * group;
                                    let b = Panel {
                                        data: &values[at..],
                                        n: end - start,
                                        n_groups: 1,
                                        ..b
                                    };
                                    let bits = bits.map(|bits| &bits[at - from..]);
                                    let a = &a[r * a_stride + start..];
                                    let out = &mut again[r * out_stride + 16 * g..];
                                    add_panel(kernels, &b, bits, (1, a, 0), (out, 0), false);
                                }
                            }
                        }
                        assert_same_bits(&again, &out, &what);
                        // Fresh sums begin at 0, whatever was there.
                        let inside = |at: usize| {
                            at / out_stride.max(1) < n && at % out_stride.max(1) < 16 * n_groups
                        };
                        let filled = |x: f32| {
                            let place = |(at, &b): (usize, &f32)| if inside(at) { x } else { b };
                            before.iter().enumerate().map(place).collect::<Vec<f32>>()
                        };
                        let (mut fresh, mut zeros) = (filled(f32::NAN), filled(0.0));
                        let a = (n, a, a_stride);
                        add_panel(kernels, &b, bits, a, (&mut fresh, out_stride), true);
                        add_panel(kernels, &b, bits, a, (&mut zeros, out_stride), false);
                        assert_same_bits(&fresh, &zeros, &what);
                    }
                }
            }
        }
        eprintln!("tested panel_f16_{isa} panel_f32_{isa}");
    });
}

#[test]
#[should_panic(expected = "lies in the cache")]
fn a_panel_outside_the_cache_is_refused() {
    let b = Panel { data: &[0; 63], n: 4, row: 16, n_groups: 1, group: 0 };
    Kernels::for_isa(Isa::best()).panel_f16(1, (&[0.0; 4], 4), &b, (&mut [0.0; 16], 16), false);
}

#[test]
#[should_panic(expected = "rows of sums do not overlap")]
fn sums_that_overlap_are_refused() {
    let b = Panel { data: &[0; 64], n: 2, row: 32, n_groups: 2, group: 16 };
    Kernels::for_isa(Isa::best()).panel_f16(2, (&[0.0; 4], 2), &b, (&mut [0.0; 64], 31), false);
}

impl Random {
    /// -127 to 127.
    fn code(&mut self) -> i8 {
        (self.below(255) as i32 - 127) as i8
    }

    fn codes(&mut self, n: usize) -> Vec<i8> {
        (0..n).map(|_| self.code()).collect()
    }

    /// Scales in half precision: most between 0.001 and 1, some zero, some subnormal.
    fn scales(&mut self, n: usize) -> Vec<u16> {
        let scale = |random: &mut Random| match random.below(16) {
            0 => 0,
            1 => random.below(1024) as u16,
            _ => f16::from_f32(0.001 + random.float().abs()).to_bits(),
        };
        (0..n).map(|_| scale(self)).collect()
    }
}

#[test]
fn scores_of_8_bits_have_the_same_bits_on_every_rung() {
    let mut random = Random(53);
    for n in [1, 2, 3, 4, 5, 6, 7, 9, 24] {
        for head_dim in [4usize, 12, 32, 40, 64, 80, 96, 128, 256] {
            for n_groups in [0, 1, 2, 3, 4, 5, 8] {
                let (n_quads, n_blocks) = (head_dim / 4, head_dim.div_ceil(32));
                let scale_stride = 16 * n_groups + random.below(9);
                let scales = random.scales(n_blocks * scale_stride + 16);
                let codes = random.codes(n_groups * n_quads * 64);
                let k = Keys8 { n_groups, n_quads, codes: &codes, scales: &scales, scale_stride };
                let padded = 32 * n_blocks;
                let mut q = random.codes(n * padded);
                for (i, q) in q.iter_mut().enumerate() {
                    *q = if i % padded < head_dim { *q } else { 0 };
                }
                let d = random.floats(n * n_blocks);
                let sum = |q: &[i8]| q.iter().map(|&q| i32::from(q)).sum();
                let sums: Vec<i32> = q.chunks(16).map(sum).collect();
                let q = Queries8 { n, n_blocks, codes: &q, scales: &d, sums: &sums };
                let out_stride = 16 * n_groups + random.below(5);
                let before = random.floats(n * out_stride + 1);
                let mut scalar = None;
                each_isa(|kernels, isa| {
                    let what = format!("{isa}: {n} rows of {head_dim}, {n_groups} groups");
                    let mut out = before.clone();
                    kernels.scores_q8(&q, &k, (&mut out, out_stride));
                    for (at, (out, before)) in out.iter().zip(&before).enumerate() {
                        let (r, c) = (at / out_stride.max(1), at % out_stride.max(1));
                        if r >= n || c >= 16 * n_groups {
                            assert_eq!(out.to_bits(), before.to_bits(), "{what}: a gap");
                            continue;
                        }
                        let (mut sum, mut magnitude) = (0.0, 0.0);
                        for b in 0..n_blocks {
                            let product = |i: usize| {
                                let key = ((c / 16 * n_quads + i / 4) * 16 + c % 16) * 4 + i % 4;
                                i32::from(codes[key]) * i32::from(q.codes[r * padded + i])
                            };
                            let dot: i32 = (32 * b..head_dim.min(32 * b + 32)).map(product).sum();
                            let scale = f16::from_bits(scales[b * scale_stride + c]).to_f64();
                            let term = f64::from(dot) * scale * f64::from(d[r * n_blocks + b]);
                            (sum, magnitude) = (sum + term, magnitude + term.abs());
                        }
                        let bound = U * (n_blocks as f64 + 1.0) * magnitude;
                        assert_close(*out, sum, bound, &what);
                    }
                    let scalar = scalar.get_or_insert_with(|| out.clone());
                    assert_same_bits(&out, scalar, &what);
                });
            }
        }
    }
    each_isa(|_, isa| eprintln!("tested scores_q8_{isa}"));
}

#[test]
fn weights_of_14_bits_have_the_same_bits_on_every_rung() {
    let mut random = Random(59);
    for n in 0..150 {
        for special in [None, Some(f32::NAN), Some(f32::INFINITY), Some(0.0), Some(1e-38)] {
            let mut p: Vec<f32> = random.floats(n).iter().map(|p| p.abs()).collect();
            let mut d = random.scales(n);
            match special {
                Some(x) if x.is_finite() => p.iter_mut().for_each(|p| *p *= x),
                Some(x) if n > 0 => d[random.below(n)] = f16::from_f32(x).to_bits(),
                _ => {}
            }
            let products = p.iter().zip(&d).map(|(p, d)| p * f16::from_bits(*d).to_f32());
            let products: Vec<f32> = products.collect();
            let mut scalar = None;
            each_isa(|kernels, isa| {
                let what = format!("{isa}: {n} weights, {special:?}");
                // A row of it, between others and with room beside.
                let (stride, plane) = (n + 3, n + 2);
                let mut rows = random.floats(2 * stride + n);
                rows[stride..][..n].copy_from_slice(&p);
                let mut planes = vec![255; 6 * plane];
                let mut worth = [0.0; 3];
                kernels.weigh_q8((&rows, stride), &d, (&mut planes, plane), &mut worth);
                assert!(planes.chunks(plane).all(|x| x[n..].iter().all(|x| *x == 255)), "{what}");
                let mut planes = planes[2 * plane..].chunks(plane).map(|x| x[..n].to_vec());
                let (high, low) = (planes.next().unwrap(), planes.next().unwrap());
                let scale = worth[1];
                let max = products.iter().copied().fold(0f32, f32::max);
                if products.iter().all(|p| p.is_finite()) {
                    let exact = f64::from(max) / 16383.0;
                    let tiny = 5e-35; // what is below may be taken as nothing
                    assert_close(scale, exact, U * exact + tiny, &what);
                    for (i, product) in products.iter().enumerate() {
                        assert!(high[i] < 128 && low[i] < 128, "{what}: planes of 7 bits");
                        let code = i32::from(high[i]) * 128 + i32::from(low[i]);
                        let exact = f64::from(*product);
                        let bound = f64::from(scale) * (0.5 + 0.005) + tiny;
                        assert_close(code as f32 * scale, exact, bound, &what);
                        assert!(*product < max || scale == 0.0 || code == 16383, "{what}: {code}");
                    }
                    let scalar = scalar.get_or_insert_with(|| (scale, high.clone(), low.clone()));
                    assert_eq!((scale, high, low), *scalar, "{what}");
                } else {
                    assert!(!scale.is_finite(), "{what}: {scale}");
                    assert!(high.iter().chain(&low).all(|x| *x < 128), "{what}: planes");
                }
            });
        }
    }
    each_isa(|_, isa| eprintln!("tested weigh_q8_{isa}"));
}

#[test]
fn mixtures_of_8_bits_are_exact() {
    let mut random = Random(61);
    for n in [1, 2, 3, 4, 5, 6, 7, 9, 24] {
        for n_quads in [0, 1, 2, 5, 32, MOST_MIXED / 4] {
            for n_groups in [1, 2] {
                let (width, cells) = (16 * n_groups, 4 * n_quads);
                let plane = cells + random.below(9);
                // The greatest of all, for what fits; and the rest.
                let most = random.below(2) == 0;
                let weight = |random: &mut Random| if most { 127 } else { random.below(128) as u8 };
                let weights: Vec<u8> = (0..2 * n * plane).map(|_| weight(&mut random)).collect();
                let code = |random: &mut Random| if most { -127 } else { random.code() };
                let codes: Vec<i8> = (0..cells * width).map(|_| code(&mut random)).collect();
                let v = Values8 { n_quads, n_groups, codes: &codes };
                let out_stride = width + random.below(5);
                let before: Vec<i32> =
                    (0..n * out_stride + 1).map(|_| random.below(2000) as i32 - 1000).collect();
                each_isa(|kernels, isa| {
                    let mut out = before.clone();
                    kernels.mix_q8(n, (&weights, plane), &v, (&mut out, out_stride));
                    for (at, (out, before)) in out.iter().zip(&before).enumerate() {
                        let (r, c) = (at / out_stride, at % out_stride);
                        let mut sum = i64::from(*before);
                        if r < n && c < width {
                            let planes = &weights[2 * r * plane..][..2 * plane];
                            for i in 0..cells {
                                let weight =
                                    i64::from(planes[i]) * 128 + i64::from(planes[plane + i]);
                                let code = codes[(i / 4 * width + c) * 4 + i % 4];
                                sum += weight * i64::from(code);
                            }
                        }
                        assert_eq!(i64::from(*out), sum, "{isa}: {n} rows, {n_quads} quads");
                    }
                });
            }
        }
    }
    each_isa(|_, isa| eprintln!("tested mix_q8_{isa}"));
}

#[test]
#[should_panic(expected = "codes of keys")]
fn keys_outside_the_cache_are_refused() {
    let (q, k) = ([0; 32], [0; 511]);
    let q = Queries8 { n: 1, n_blocks: 1, codes: &q, scales: &[0.0], sums: &[0; 2] };
    let k = Keys8 { n_groups: 1, n_quads: 8, codes: &k, scales: &[0; 16], scale_stride: 16 };
    Kernels::for_isa(Isa::best()).scores_q8(&q, &k, (&mut [0.0; 16], 16));
}

#[test]
#[should_panic(expected = "codes of values")]
fn values_outside_the_cache_are_refused() {
    let v = Values8 { n_quads: 2, n_groups: 1, codes: &[0; 127] };
    Kernels::for_isa(Isa::best()).mix_q8(1, (&[0; 16], 8), &v, (&mut [0; 16], 16));
}

/// Those of one row, its greatest and the sum.
fn powers(kernels: &Kernels, x: &mut [f32]) -> (f32, f32) {
    let (mut m, mut l, len) = ([f32::NAN], [f32::NAN], x.len());
    kernels.powers((x, len), len, (&mut m, &mut l));
    (m[0], l[0])
}

#[test]
fn powers_of_rows_together_are_those_of_each() {
    let mut random = Random(41);
    each_isa(|kernels, isa| {
        for n in 0..10 {
            for (len, stride) in [(0, 0), (1, 1), (5, 16), (16, 16), (37, 64), (128, 131)] {
                let mut x = random.floats(n * stride + 3);
                let (mut m, mut l) = (vec![f32::NAN; n], vec![f32::NAN; n]);
                let mut alone = x.clone();
                kernels.powers((&mut x, stride), len, (&mut m, &mut l));
                for r in 0..n {
                    let row = &mut alone[r * stride..][..len];
                    assert_eq!(powers(kernels, row), (m[r], l[r]), "{isa}: {n} x {len}, row {r}");
                }
                assert_eq!(x, alone, "{isa}: {n} x {len}");
            }
        }
    });
}

#[test]
fn powers_are_those_of_e() {
    let mut random = Random(37);
    each_isa(|kernels, isa| {
        // Every power on its own: below a greatest of 0 the differences are exact.
        let least = -87.336_54_f32;
        for step in 0..4096 {
            let mut x = vec![0.0];
            x.extend((0..127).map(|i| (step * 127 + i) as f32 / (4096.0 * 127.0) * -88.0));
            let y = x.clone();
            let (max, _) = powers(kernels, &mut x);
            assert_eq!(max, 0.0);
            for (x, y) in x.iter().zip(&y) {
                let exact = if *y < least { 0.0 } else { f64::from(*y).exp() };
                assert_close(*x, exact, 2e-7 * exact, &format!("{isa}: exp({y})"));
            }
        }
        for n in [1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 33, 100, 127, 128] {
            for scale in [0.0, 1.0, 20.0, 200.0] {
                let mut x: Vec<f32> = random.floats(n).iter().map(|x| x * scale).collect();
                if n > 2 {
                    x[random.below(n - 1) + 1] = f32::NEG_INFINITY;
                }
                let mut out = x.clone();
                let (max, sum) = powers(kernels, &mut out);
                assert_eq!(max, x.iter().copied().fold(f32::NEG_INFINITY, f32::max), "{isa}");
                for (x, out) in x.iter().zip(&out) {
                    // The difference is rounded: an error of u in it is one of |x - max| u.
                    let y = f64::from(*x) - f64::from(max);
                    let exact = y.exp();
                    let bound = (2e-7 + U * y.abs().min(200.0)) * exact + 1.2e-38;
                    assert_close(*out, exact, bound, &format!("{isa}: exp({y})"));
                    assert!(*x > f32::NEG_INFINITY || *out == 0.0, "{isa}: -inf");
                }
                let exact: f64 = out.iter().map(|x| f64::from(*x)).sum();
                assert_close(sum, exact, U * (n as f64 / 4.0 + 4.0) * exact, isa);
            }
            let mut x = vec![f32::NEG_INFINITY; n];
            assert_eq!(powers(kernels, &mut x), (f32::NEG_INFINITY, 0.0), "{isa}");
            assert!(x.iter().all(|x| *x == 0.0), "{isa}");
            x = random.floats(n);
            x[random.below(n)] = f32::NAN;
            assert!(powers(kernels, &mut x).1.is_nan(), "{isa}, {n}");
            x = random.floats(n);
            x[random.below(n)] = f32::INFINITY;
            assert!(powers(kernels, &mut x).1.is_nan(), "{isa}, {n}");
        }
        assert_eq!(powers(kernels, &mut []), (f32::NEG_INFINITY, 0.0), "{isa}");
        eprintln!("tested powers_{isa}");
    });
}

#[test]
fn soft_caps_are_those_of_tanh() {
    let mut random = Random(43);
    each_isa(|kernels, isa| {
        for n in LENGTHS {
            for (scale, cap) in [(1e-3, 30.0), (1.0, 50.0), (60.0, 50.0), (3000.0, 2.5)] {
                let x: Vec<f32> = random.floats(n).iter().map(|x| x * scale).collect();
                let mut out = x.clone();
                kernels.soft_cap(&mut out, cap);
                for (x, out) in x.iter().zip(&out) {
                    let exact = f64::from(cap) * (f64::from(*x) / f64::from(cap)).tanh();
                    assert_close(*out, exact, 3e-7 * f64::from(cap), &format!("{isa}, {x}"));
                }
            }
        }
        let mut odd = [f32::INFINITY, f32::NEG_INFINITY, f32::NAN, 0.0, -0.0];
        kernels.soft_cap(&mut odd, 50.0);
        assert!(odd[..2] == [50.0, -50.0] && odd[2].is_nan() && odd[3] == 0.0, "{isa}: {odd:?}");
        eprintln!("tested soft_cap_{isa}");
    });
}

#[test]
fn blends() {
    let mut random = Random(41);
    each_isa(|kernels, isa| {
        for n in LENGTHS {
            let (x, y) = (random.floats(n), random.floats(n));
            let (a, b) = (random.float(), random.float());
            let mut out = x.clone();
            kernels.blend(&mut out, a, &y, b);
            for i in 0..n {
                let (p, q) = (f64::from(a) * f64::from(x[i]), f64::from(b) * f64::from(y[i]));
                assert_close(out[i], p + q, 2.0 * U * (p.abs() + q.abs()), isa);
            }
            let mut out = x.clone();
            kernels.blend_squares(&mut out, a, &y, b);
            for i in 0..n {
                let p = f64::from(a) * f64::from(x[i]);
                let q = f64::from(b) * f64::from(y[i]).powi(2);
                assert_close(out[i], p + q, 3.0 * U * (p.abs() + q.abs()), isa);
            }
        }
        eprintln!("tested blend_{isa}");
    });
}

#[test]
fn half_precision_rounds_to_nearest_even() {
    // Every half-precision number, and its neighbours' midpoints with a little more and less.
    let mut x = vec![];
    for bits in 0..0x7c00u16 {
        let (a, b) = (f16::from_bits(bits).to_f32(), f16::from_bits(bits + 1).to_f32());
        let middle = if b.is_finite() { (a + b) / 2.0 } else { 65520.0 };
        for y in [a, middle, middle.next_up(), middle.next_down()] {
            x.extend([y, -y]);
        }
    }
    x.extend([f32::INFINITY, f32::NEG_INFINITY, f32::MAX, 1e-45, -1e-45]);
    each_isa(|kernels, isa| {
        let mut out = vec![0; x.len()];
        kernels.to_f16(&x, &mut out);
        for (x, out) in x.iter().zip(&out) {
            assert_eq!(*out, f16::from_f32(*x).to_bits(), "{x}, {isa}");
        }
        for n in 0..40 {
            let mut out = vec![0x1234; n];
            kernels.to_f16(&x[1000..1000 + n], &mut out);
            let expected: Vec<u16> =
                x[1000..1000 + n].iter().map(|&x| f16::from_f32(x).to_bits()).collect();
            assert_eq!(out, expected, "{isa}");
        }
        let mut nan = [0];
        kernels.to_f16(&[f32::NAN], &mut nan);
        assert!(f16::from_bits(nan[0]).is_nan(), "{isa}");
        eprintln!("tested to_f16_{isa}");
    });
}

// ------------------------------------------------------------------------------------ elem

const LENGTHS: [usize; 14] = [1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 64, 100, 577, 2048];

fn assert_close(found: f32, exact: f64, bound: f64, what: &str) {
    let error = (f64::from(found) - exact).abs();
    assert!(error <= bound, "{what}: {found}, exactly {exact}, error {error}, bound {bound}");
}

#[test]
fn norms_and_sums() {
    let mut random = Random(17);
    each_isa(|kernels, isa| {
        for n in LENGTHS {
            let (x, weight) = (random.floats(n), random.floats(n));
            let mut out = vec![f32::NAN; n];
            kernels.rms_norm(&x, &weight, 1e-5, &mut out);
            let mean = x.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>() / n as f64;
            for i in 0..n {
                let exact = f64::from(x[i]) / (mean + f64::from(1e-5f32)).sqrt();
                let exact = exact * f64::from(weight[i]);
                assert_close(out[i], exact, U * (n as f64 / 8.0 + 16.0) * exact.abs(), isa);
            }
            let y = random.floats(n);
            let mut sum = x.clone();
            kernels.add(&mut sum, &y);
            for i in 0..n {
                assert_eq!(sum[i].to_bits(), (x[i] + y[i]).to_bits(), "{isa}");
            }
        }
        eprintln!("tested rms_norm_{isa} add_{isa}");
    });
}

#[test]
fn rotations() {
    let mut random = Random(19);
    each_isa(|kernels, isa| {
        for n in [1, 2, 3, 4, 7, 8, 9, 16, 20, 32, 33, 48, 64, 128] {
            let angles = random.floats(n);
            let cos: Vec<f32> = angles.iter().map(|a| (a * 3.0).cos()).collect();
            let sin: Vec<f32> = angles.iter().map(|a| (a * 3.0).sin()).collect();
            for rest in [0, 1, 5] {
                let x = random.floats(2 * n + rest);
                for norm in [true, false] {
                    let mut out = x.clone();
                    if norm {
                        kernels.rope_norm(&mut out, &cos, &sin);
                    } else {
                        kernels.rope_neox(&mut out, &cos, &sin);
                    }
                    for i in 0..n {
                        let (a, b) = if norm { (2 * i, 2 * i + 1) } else { (i, n + i) };
                        let (c, s) = (f64::from(cos[i]), f64::from(sin[i]));
                        let (x, y) = (f64::from(x[a]), f64::from(x[b]));
                        let bound = 2.0 * U * ((x * c).abs() + (y * s).abs());
                        assert_close(out[a], x * c - y * s, bound, isa);
                        let bound = 2.0 * U * ((x * s).abs() + (y * c).abs());
                        assert_close(out[b], x * s + y * c, bound, isa);
                    }
                    assert_same_bits(&out[2 * n..], &x[2 * n..], isa);
                }
            }
        }
        eprintln!("tested rope_norm_{isa} rope_neox_{isa}");
    });
}

/// Codes of some bits, drawn at random, packed by the words of the documentation: each bit on its own.
fn pack(bits: CodeBits, codes: &[u8]) -> Vec<u8> {
    let mut packed = Vec::new();
    for run in codes.chunks(PACKED) {
        let mut shift = 0;
        for plane in bits.planes().into_iter().filter(|plane| *plane > 0) {
            let mut bytes = vec![0u8; 8 * plane];
            for (i, code) in run.iter().enumerate() {
                for bit in 0..plane {
                    let set = code >> (shift + bit) & 1;
                    bytes[i % (8 * plane)] |= set << (plane * (i / (8 * plane)) + bit);
                }
            }
            packed.extend(bytes);
            shift += plane;
        }
        assert_eq!(shift, bits.count());
    }
    assert_eq!(packed.len(), codes.len() / PACKED * bits.bytes());
    packed
}

#[test]
fn packed_codes_are_spread_exactly_on_every_rung() {
    let mut random = Random(67);
    for bits in [CodeBits::Three, CodeBits::Four, CodeBits::Five] {
        for (n_zeros, share) in [(0, 0), (1, 1), (1, 2), (1, 17), (2, 1), (5, 2), (33, 2), (33, 1)]
        {
            let n = n_zeros * share * PACKED;
            let codes: Vec<u8> = (0..n).map(|_| random.below(1 << bits.count()) as u8).collect();
            let packed = pack(bits, &codes);
            let half = 1 << (bits.count() - 1);
            let zeros: Vec<[u8; 4]> =
                (0..n_zeros).map(|_| [0; 4].map(|_| half - random.below(2) as u8)).collect();
            let expected = |i: usize| match bits {
                CodeBits::Three => LEVELS[usize::from(codes[i])],
                _ => codes[i] as i8 - zeros[i / PACKED / share][i % 4] as i8,
            };
            each_isa(|kernels, isa| {
                let mut found = vec![99; n];
                kernels.unpack(bits, &packed, &zeros, &mut found);
                let right = found.iter().enumerate().all(|(i, code)| *code == expected(i));
                assert!(right, "{isa}: {bits:?}, {n_zeros} zeros for {share} runs each");
            });
        }
    }
    each_isa(|_, isa| eprintln!("tested unpack_{isa}"));
}

#[test]
#[should_panic(expected = "packed codes")]
fn packed_codes_outside_the_cache_are_refused() {
    let kernels = Kernels::for_isa(Isa::best());
    kernels.unpack(CodeBits::Five, &[0; 79], &[[16; 4]], &mut [0; 128]);
}

#[test]
#[should_panic(expected = "zeros of codes")]
fn zeros_that_codes_cannot_share_are_refused() {
    let kernels = Kernels::for_isa(Isa::best());
    kernels.unpack(CodeBits::Four, &[0; 96], &[[8; 4]; 2], &mut [0; 192]);
}

#[test]
fn hadamard_transforms_have_the_same_bits_on_every_rung() {
    let mut random = Random(71);
    for span in HADAMARD_SPANS {
        for n in [0, 1, 2, 3] {
            let mut x = random.floats(n * span);
            if let Some(outlier) = x.first_mut() {
                *outlier *= 1e4;
            }
            let mut scalar = None;
            each_isa(|kernels, isa| {
                let what = format!("{isa}: {n} spans of {span}");
                let mut out = x.clone();
                kernels.hadamard(&mut out, span);
                for (out, x) in out.chunks(span).zip(x.chunks(span)) {
                    for (i, out) in out.iter().enumerate() {
                        let sign = |j: usize| 1.0 - 2.0 * f64::from((i & j).count_ones() & 1);
                        let terms = x.iter().enumerate().map(|(j, x)| sign(j) * f64::from(*x));
                        let exact = terms.sum::<f64>() / (span as f64).sqrt();
                        let magnitude: f64 = x.iter().map(|x| f64::from(x.abs())).sum();
                        // A rounding for each stride, and two for the factor.
                        let roundings = f64::from(span.ilog2()) + 2.0;
                        let bound = roundings * U * magnitude / (span as f64).sqrt();
                        assert_close(*out, exact, bound, &what);
                    }
                }
                let scalar = scalar.get_or_insert_with(|| out.clone());
                assert_same_bits(&out, scalar, &what);
            });
        }
    }
    each_isa(|_, isa| eprintln!("tested hadamard_{isa}"));
}

#[test]
#[should_panic(expected = "whole spans")]
fn parts_of_spans_are_refused() {
    Kernels::for_isa(Isa::best()).hadamard(&mut [0.0; 72], 16);
}

#[test]
fn gates() {
    let mut random = Random(29);
    each_isa(|kernels, isa| {
        for n in LENGTHS {
            for scale in [0.001, 1.0, 10.0, 150.0] {
                let x: Vec<f32> = random.floats(n).iter().map(|x| x * scale).collect();
                let up = random.floats(n);
                let (mut silu, mut gelu) = (x.clone(), x.clone());
                kernels.silu_mul(&mut silu, &up);
                kernels.gelu_mul(&mut gelu, &up);
                for i in 0..n {
                    let (x, up) = (f64::from(x[i]), f64::from(up[i]));
                    let exact = x / (1.0 + (-x).exp()) * up;
                    // An error of u in the exponent is one of |y| u in the result.
                    let bound = U * ((12.0 + x.abs().min(90.0)) * exact.abs()) + 1e-36;
                    assert_close(silu[i], exact, bound, &format!("silu({x}), {isa}"));
                    let y = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x);
                    let exact = x / (1.0 + (-2.0 * y).exp()) * up;
                    let bound = U * (12.0 + 4.0 * (2.0 * y).abs().min(90.0)) * exact.abs() + 1e-36;
                    assert_close(gelu[i], exact, bound, &format!("gelu({x}), {isa}"));
                }
            }
        }
        eprintln!("tested silu_mul_{isa} gelu_mul_{isa}");
    });
}
