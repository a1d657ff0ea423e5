//! How fast the kernels are on one core: `cargo bench --bench kernels [-- NAME...]`.
//!
//! For each type of weights: GB/s of weights read with one token, from a matrix larger than the
//! caches; and GMAC/s with 64 tokens; and for panels GMAC/s with 64 and 512 tokens, and the share of
//! what the rung's multiply instruction does on registers alone. Beside them the rate at which this core reads memory, which
//! the first cannot exceed. Then attention over caches of two lengths: GB/s of keys and values read
//! with one token, and GMAC/s with eight. NAMEs are rungs or types, as in
//! `cargo bench --bench kernels -- Q4_1`; `attention` and `matmul` choose a part.

use std::hint::black_box;
use std::time::Instant;

use tern::base::cpu::Isa;
use tern::base::dtype::DType;
use tern::base::pool::Columns;
use tern::kernel::{Activations, GROUP, Kernels, Packed, Panel, TILE, Tiles, Weight, peak};
use tern::quant::p16;

const K: usize = 2048;
const READ_BYTES: usize = 96 << 20;

/// The least seconds of a few runs.
fn seconds(mut f: impl FnMut()) -> f64 {
    let mut best = f64::INFINITY;
    let begin = Instant::now();
    for run in 0.. {
        let start = Instant::now();
        f();
        best = best.min(start.elapsed().as_secs_f64());
        if run >= 2 && begin.elapsed().as_secs_f64() > 0.3 {
            break;
        }
    }
    best
}

fn main() {
    let names: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with('-')).collect();
    let wanted = |kind: &[&str], name: &str| {
        let mut named = names.iter().filter(|n| kind.contains(&n.as_str())).peekable();
        named.peek().is_none() || named.any(|n| n == name)
    };
    let isas: Vec<&str> = Isa::ALL.iter().map(|isa| isa.name()).collect();
    let dtypes: Vec<&str> = DType::ALL.iter().map(|dtype| dtype.name()).collect();

    let words = vec![1u64; READ_BYTES / 8];
    let read = seconds(|| {
        black_box(black_box(&words).iter().fold(0u64, |sum, x| sum.wrapping_add(*x)));
    });
    println!("memory read, one core: {:.1} GB/s", READ_BYTES as f64 / read / 1e9);
    drop(words);

    let parts = ["matmul", "attention", "panels"];
    if wanted(&parts, "attention") {
        for &isa in Isa::available().iter().filter(|isa| wanted(&isas, isa.name())) {
            for n_cells in [512, 4096] {
                attention(Kernels::for_isa(isa), n_cells);
            }
        }
    }
    if wanted(&parts, "panels") {
        for &isa in Isa::available().iter().filter(|isa| wanted(&isas, isa.name())) {
            for &dtype in DType::ALL.iter().filter(|dtype| wanted(&dtypes, dtype.name())) {
                if dtype.is_quantised() {
                    panels(Kernels::for_isa(isa), dtype);
                }
            }
        }
    }
    if !wanted(&parts, "matmul") {
        return;
    }
    let x: Vec<f32> = (0..64 * K).map(|i| ((i * 7919) % 1000) as f32 / 500.0 - 1.0).collect();
    println!("{:<12} {:<8} {:>8} {:>10} {:>12}", "isa", "type", "GB/s", "GMAC/s", "GMAC/s");
    println!("{:<12} {:<8} {:>8} {:>10} {:>12}", "", "", "n = 1", "n = 1", "n = 64");
    for &isa in Isa::available().iter().filter(|isa| wanted(&isas, isa.name())) {
        let kernels = Kernels::for_isa(isa);
        let mut q = vec![0; 64 * K];
        let mut d = vec![0.0; 64 * K / 32];
        let mut sum = vec![0; 64 * K / 16];
        for t in 0..64 {
            kernels.quantize(
                &x[t * K..][..K],
                &mut q[t * K..][..K],
                &mut d[t * K / 32..][..K / 32],
                &mut sum[t * K / 16..][..K / 16],
            );
        }
        let tokens = |n: usize| Activations {
            n,
            k: K,
            x: &x[..n * K],
            q: &q[..n * K],
            d: &d[..n * K / 32],
            sum: &sum[..n * K / 16],
        };
        for &dtype in DType::ALL.iter().filter(|dtype| wanted(&dtypes, dtype.name())) {
            let row_bytes = dtype.row_bytes(K).expect("whole blocks");
            let size = if isa == Isa::Scalar { READ_BYTES / 16 } else { READ_BYTES };
            let n_rows = size / row_bytes;
            // Small bytes: no scale is a NaN or large. Nor subnormal, which is slow to multiply.
            let mut bytes: Vec<u8> = (0..n_rows * row_bytes).map(|i| (i * 31 % 59) as u8).collect();
            if dtype == DType::Mxfp4 {
                bytes.chunks_mut(dtype.block_bytes()).for_each(|block| block[0] |= 64);
            }
            let mut packed = vec![0; p16::packed_bytes(dtype, K, n_rows).expect("whole blocks")];
            p16::pack(dtype, K, &bytes, &mut packed);
            let multiply = |n_rows: usize, n: usize| {
                if kernels.packs() {
                    let n_rows = n_rows / p16::ROWS * p16::ROWS;
                    let bytes = &packed[..p16::packed_bytes(dtype, K, n_rows).expect("blocks")];
                    let w = Packed { dtype, k: K, n_rows, bytes };
                    let mut out = vec![0.0; n * n_rows];
                    return seconds(|| {
                        let columns = &mut Columns::new(&mut out, n_rows, 0..n_rows);
                        kernels.matmul_packed(&w, &tokens(n), columns);
                        black_box(&mut out);
                    });
                }
                let bytes = &bytes[..n_rows * row_bytes];
                let w = Weight { dtype, k: K, n_rows, bytes };
                let mut out = vec![0.0; n * n_rows];
                seconds(|| {
                    kernels.matmul(&w, &tokens(n), &mut Columns::new(&mut out, n_rows, 0..n_rows));
                    black_box(&mut out);
                })
            };
            let one = multiply(n_rows, 1);
            let few_rows = if isa == Isa::Scalar { 64 } else { 1024 };
            let many = multiply(few_rows, 64);
            println!(
                "{:<12} {:<8} {:>8.2} {:>10.1} {:>12.1}",
                isa.name(),
                dtype.name(),
                (n_rows * row_bytes) as f64 / one / 1e9,
                (n_rows * K) as f64 / one / 1e9,
                (few_rows * K * 64) as f64 / many / 1e9,
            );
        }
    }
}

/// Panels beside exact products of the same matrix, in turns.
fn panels(kernels: &Kernels, dtype: DType) {
    const ROWS: usize = 512;
    const N: usize = 512;
    let row_bytes = dtype.row_bytes(K).expect("whole blocks");
    let mut bytes: Vec<u8> = (0..ROWS * row_bytes).map(|i| (i * 31 % 59) as u8).collect();
    if dtype == DType::Mxfp4 {
        bytes.chunks_mut(dtype.block_bytes()).for_each(|block| block[0] |= 64);
    }
    let mut packed = vec![0; p16::packed_bytes(dtype, K, ROWS).expect("whole blocks")];
    p16::pack(dtype, K, &bytes, &mut packed);
    let w = Packed { dtype, k: K, n_rows: ROWS, bytes: &packed };
    let n = if kernels.isa() == Isa::Scalar { 64 } else { N };
    let x: Vec<f32> = (0..n * K).map(|i| ((i * 7919) % 1000) as f32 / 500.0 - 1.0).collect();
    let words = kernels.tile_words(K);
    let mut tiles = vec![0; n.div_ceil(TILE) * words];
    let quantise = seconds(|| {
        for (x, tile) in x.chunks(TILE * K).zip(tiles.chunks_exact_mut(words)) {
            kernels.quantize_tile(x, K, tile);
        }
    });
    let (mut q, mut d, mut sum) = (vec![0; n * K], vec![0.0; n * K / 32], vec![0; n * K / 16]);
    for t in 0..n {
        let (d, sum) = (&mut d[t * K / 32..][..K / 32], &mut sum[t * K / 16..][..K / 16]);
        kernels.quantize(&x[t * K..][..K], &mut q[t * K..][..K], d, sum);
    }
    let mut out = vec![0.0; n * ROWS];
    let mut run = |n: usize, panel: bool| {
        seconds(|| {
            let columns = &mut Columns::new(&mut out[..n * ROWS], ROWS, 0..ROWS);
            if panel {
                let words = &tiles[..n.div_ceil(TILE) * words];
                kernels.matmul_panel(&w, &Tiles { n, k: K, words }, columns);
            } else {
                let (q, d, sum) = (&q[..n * K], &d[..n * K / 32], &sum[..n * K / 16]);
                let act = Activations { n, k: K, x: &[], q, d, sum };
                kernels.matmul_packed(&w, &act, columns);
            }
            black_box(columns);
        })
    };
    let rate = |n: usize, seconds: f64| (n * ROWS * K) as f64 / seconds / 1e9;
    let (exact, panel, few) =
        (rate(n, run(n, false)), rate(n, run(n, true)), rate(64, run(64, true)));
    let rounds = 1 << 20;
    let mut macs = None;
    let roof = seconds(|| macs = peak::multiply(kernels.isa(), rounds));
    let roof = macs.map_or(f64::INFINITY, |macs| macs as f64 / roof / 1e9);
    println!(
        "panels, {:<12} {:<8} n = {n}: {panel:>6.1} GMAC/s, {:>3.0} % of {roof:.0}; exact {exact:>6.1}; \
         n = 64: {few:>6.1}; tiles {:.2} ns a number",
        kernels.isa().name(),
        dtype.name(),
        100.0 * panel / roof,
        quantise / (n * K) as f64 * 1e9,
    );
}

/// Attention of 3 query heads of 64 elements for each of 3 kv heads, cell by cell in tiles of 128,
/// over as many caches in half precision as exceed the processor's: what a token of SmolLM2-135M
/// does in each layer.
fn attention(kernels: &Kernels, n_cells: usize) {
    const HEADS: usize = 3;
    const HEAD_DIM: usize = 64;
    const TILE: usize = 128;
    let size = if kernels.isa() == Isa::Scalar { READ_BYTES / 16 } else { READ_BYTES };
    let head_len = n_cells * HEAD_DIM;
    let n_heads = size / (4 * head_len);
    // Keys and values of a head follow each other; each is a small number.
    let cache: Vec<u16> =
        (0..2 * n_heads * head_len).map(|i| 0x2000 + (i * 31 % 59) as u16).collect();
    let run = |n_tokens: usize| {
        let rows = HEADS * n_tokens;
        let q: Vec<f32> = (0..rows * HEAD_DIM).map(|i| (i % 7) as f32 / 7.0).collect();
        let mut scores = vec![0.0; rows * TILE];
        let mut part = vec![0.0; rows * HEAD_DIM];
        let mut mixed = vec![0.0; rows * HEAD_DIM];
        seconds(|| {
            for head in cache.chunks_exact(2 * head_len) {
                let (keys, values) = head.split_at(head_len);
                let tiles = keys.chunks(TILE * HEAD_DIM).zip(values.chunks(TILE * HEAD_DIM));
                for (keys, values) in tiles {
                    scores.fill(0.0);
                    part.fill(0.0);
                    let (n_groups, group) = (TILE / GROUP, GROUP * HEAD_DIM);
                    let keys = Panel { data: keys, n: HEAD_DIM, row: GROUP, n_groups, group };
                    kernels.panel_f16(rows, (&q, HEAD_DIM), &keys, (&mut scores, TILE));
                    for scores in scores.chunks_exact_mut(TILE) {
                        black_box(kernels.powers(scores));
                    }
                    let n_groups = HEAD_DIM / GROUP;
                    let values =
                        Panel { data: values, n: TILE, row: HEAD_DIM, n_groups, group: GROUP };
                    kernels.panel_f16(rows, (&scores, TILE), &values, (&mut part, HEAD_DIM));
                    for (mixed, part) in
                        mixed.chunks_exact_mut(HEAD_DIM).zip(part.chunks_exact(HEAD_DIM))
                    {
                        kernels.blend(mixed, 0.5, part, 0.5);
                    }
                }
            }
            black_box(&mut mixed);
        })
    };
    let (one, eight) = (run(1), run(8));
    let macs = (2 * n_heads * head_len * HEADS) as f64;
    println!(
        "attention, {:<12} {n_cells:>5} cells: one token {:>6.2} GB/s {:>6.1} GMAC/s, eight {:>6.1} GMAC/s",
        kernels.isa().name(),
        (4 * n_heads * head_len) as f64 / one / 1e9,
        macs / one / 1e9,
        8.0 * macs / eight / 1e9,
    );
}
