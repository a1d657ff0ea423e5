//! How fast the kernels are on one core: `cargo bench --bench kernels [-- NAME...]`.
//!
//! For each type of weights: GB/s of weights read with one token, from a matrix larger than the
//! caches; and GMAC/s with 64 tokens. Beside them the rate at which this core reads memory, which
//! the first cannot exceed. Then attention over caches of two lengths: GB/s of keys and values read
//! with one token, and GMAC/s with eight. NAMEs are rungs or types, as in
//! `cargo bench --bench kernels -- Q4_1`; `attention` and `matmul` choose a part.

use std::hint::black_box;
use std::time::Instant;

use tern::base::cpu::Isa;
use tern::base::dtype::DType;
use tern::base::pool::Columns;
use tern::kernel::{Activations, GROUP, KV_BLOCK, Kernels, Packed, Panel, Weight};
use tern::kernel::{Keys8, Queries8, Values8};
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

    let parts = ["matmul", "attention"];
    if wanted(&parts, "attention") {
        for &isa in Isa::available().iter().filter(|isa| wanted(&isas, isa.name())) {
            for n_cells in [512, 4096] {
                attention(Kernels::for_isa(isa), n_cells);
                attention_q8(Kernels::for_isa(isa), n_cells);
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

/// Attention of 3 query heads of 64 elements for each of 3 kv heads, cell by cell in tiles of 128,
/// over as many caches in half precision as exceed the processor's: what a token of SmolLM2-135M
/// does in each layer.
fn attention(kernels: &Kernels, n_cells: usize) {
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
    let elements = 2 * n_heads * head_len;
    report(kernels, "F16", n_cells, (elements, 2 * elements), [run(1), run(8)]);
}

const HEADS: usize = 3;
const HEAD_DIM: usize = 64;
const TILE: usize = 128;

/// The same with keys and values in 8 bits.
fn attention_q8(kernels: &Kernels, n_cells: usize) {
    const BLOCKS: usize = HEAD_DIM / KV_BLOCK;
    let size = if kernels.isa() == Isa::Scalar { READ_BYTES / 16 } else { READ_BYTES };
    let head_len = n_cells * HEAD_DIM;
    let n_heads = size / (2 * head_len);
    let codes: Vec<i8> =
        (0..2 * n_heads * head_len).map(|i| (i * 31 % 255) as i8).map(|x| x.max(-127)).collect();
    let scales: Vec<u16> = (0..codes.len() / KV_BLOCK).map(|i| 0x2000 + i as u16 % 59).collect();
    let run = |n_tokens: usize| {
        let rows = HEADS * n_tokens;
        let q: Vec<f32> = (0..rows * HEAD_DIM).map(|i| (i % 7) as f32 / 7.0).collect();
        let mut q_codes = vec![0; q.len()];
        let mut q_scales = vec![0.0; q.len() / KV_BLOCK];
        let mut sums = vec![0; q.len() / 16];
        kernels.quantize(&q, &mut q_codes, &mut q_scales, &mut sums);
        let q =
            Queries8 { n: rows, n_blocks: BLOCKS, codes: &q_codes, scales: &q_scales, sums: &sums };
        let mut scores = vec![0.0; rows * TILE];
        let mut weights = vec![0; rows * 2 * TILE];
        let mut worth = vec![0.0; rows];
        let mut sums = vec![0; rows * KV_BLOCK];
        let mut part = vec![0.0; rows * HEAD_DIM];
        let mut mixed = vec![0.0; rows * HEAD_DIM];
        seconds(|| {
            let scales = scales.chunks_exact(2 * n_cells * BLOCKS);
            for (head, scales) in codes.chunks_exact(2 * head_len).zip(scales) {
                let (keys, values) = head.split_at(head_len);
                let (of_keys, of_values) = scales.split_at(n_cells * BLOCKS);
                for (tile, keys) in keys.chunks_exact(TILE * HEAD_DIM).enumerate() {
                    let keys = Keys8 {
                        n_groups: TILE / GROUP,
                        n_quads: HEAD_DIM / 4,
                        codes: keys,
                        scales: &of_keys[tile * TILE..],
                        scale_stride: n_cells,
                    };
                    kernels.scores_q8(&q, &keys, (&mut scores, TILE));
                    for scores in scores.chunks_exact_mut(TILE) {
                        black_box(kernels.powers(scores));
                    }
                    for b in 0..BLOCKS {
                        let d = &of_values[b * n_cells + tile * TILE..][..TILE];
                        let rows_of = scores.chunks_exact(TILE).zip(weights.chunks_mut(2 * TILE));
                        for ((p, planes), worth) in rows_of.zip(&mut worth) {
                            let (high, low) = planes.split_at_mut(TILE);
                            *worth = kernels.weigh_q8(p, d, high, low);
                        }
                        let at = (b * n_cells + tile * TILE) * KV_BLOCK;
                        let codes = &values[at..][..TILE * KV_BLOCK];
                        let values = Values8 { n_quads: TILE / 4, n_groups: 2, codes };
                        sums.fill(0);
                        kernels.mix_q8(rows, (&weights, TILE), &values, (&mut sums, KV_BLOCK));
                        let parts = part.chunks_exact_mut(HEAD_DIM).zip(sums.chunks(KV_BLOCK));
                        for ((part, sums), worth) in parts.zip(&worth) {
                            for (part, sum) in part[b * KV_BLOCK..].iter_mut().zip(sums) {
                                *part = *sum as f32 * worth;
                            }
                        }
                    }
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
    let elements = 2 * n_heads * head_len;
    let bytes = elements / KV_BLOCK * (KV_BLOCK + 2);
    report(kernels, "Q8_0", n_cells, (elements, bytes), [run(1), run(8)]);
}

fn report(
    kernels: &Kernels,
    dtype: &str,
    n_cells: usize,
    (elements, bytes): (usize, usize),
    [one, eight]: [f64; 2],
) {
    let macs = (elements * HEADS) as f64;
    println!(
        "attention, {:<12} {dtype:<4} {n_cells:>5} cells: one token {:>6.2} GB/s {:>6.1} GMAC/s, eight {:>6.1} GMAC/s",
        kernels.isa().name(),
        bytes as f64 / one / 1e9,
        macs / one / 1e9,
        8.0 * macs / eight / 1e9,
    );
}
