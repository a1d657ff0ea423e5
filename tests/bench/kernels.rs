//! How fast the kernels are on one core, timed by criterion:
//!
//!   cargo bench --manifest-path tests/bench/Cargo.toml --bench kernels [-- FILTER]
//!
//! `read`: the rate at which this core reads memory, which `gemv` cannot exceed. `gemv/ISA/TYPE`:
//! weights read with one token, from a matrix larger than the caches. `gemm/ISA/TYPE`: elements are
//! multiplications, with 64 tokens. `attention/ISA/CELLS`: keys and values read with one token;
//! `attention8`: elements are multiplications, with eight tokens.

use std::hint::black_box;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use tern::base::cpu::Isa;
use tern::base::dtype::DType;
use tern::kernel::Kernels;
use tern_bench::{Attention, Matrix, Tokens};

const K: usize = 2048;
const READ_BYTES: usize = 96 << 20;

/// Bytes that exceed the caches; fewer for the scalar kernels, which no cache keeps up.
fn size(isa: Isa) -> usize {
    if isa == Isa::Scalar { READ_BYTES / 16 } else { READ_BYTES }
}

fn read(c: &mut Criterion) {
    let words = vec![1u64; READ_BYTES / 8];
    let mut group = c.benchmark_group("read");
    group.throughput(Throughput::Bytes(READ_BYTES as u64));
    group.bench_function("memory", |b| {
        b.iter(|| black_box(&words).iter().fold(0u64, |sum, x| sum.wrapping_add(*x)));
    });
}

fn matmul(c: &mut Criterion, name: &str, n: usize) {
    for &isa in Isa::available() {
        let kernels = Kernels::for_isa(isa);
        let tokens = Tokens::new(kernels, n, K);
        let mut group = c.benchmark_group(format!("{name}/{}", isa.name()));
        for &dtype in DType::ALL {
            // Made in the benchmark, so that what the filter leaves out costs nothing.
            let n_rows = match n {
                1 => size(isa) / dtype.row_bytes(K).expect("whole blocks"),
                _ if isa == Isa::Scalar => 64,
                _ => 1024,
            };
            let n_rows = n_rows.next_multiple_of(16);
            group.throughput(match n {
                1 => Throughput::Bytes((n_rows * dtype.row_bytes(K).expect("blocks")) as u64),
                _ => Throughput::Elements((n_rows * K * n) as u64),
            });
            group.bench_function(BenchmarkId::from_parameter(dtype.name()), |b| {
                let matrix = Matrix::new(kernels, dtype, n_rows, K);
                let mut out = vec![0.0; n * matrix.n_rows()];
                b.iter(|| matrix.multiply(kernels, &tokens.first(n), black_box(&mut out)));
            });
        }
    }
}

fn gemv(c: &mut Criterion) {
    matmul(c, "gemv", 1);
}

fn gemm(c: &mut Criterion) {
    matmul(c, "gemm", 64);
}

fn attention(c: &mut Criterion) {
    for (name, n_tokens) in [("attention", 1), ("attention8", 8)] {
        for &isa in Isa::available() {
            let kernels = Kernels::for_isa(isa);
            let mut group = c.benchmark_group(format!("{name}/{}", isa.name()));
            for n_cells in [512, 4096] {
                let n_heads = size(isa) / (4 * n_cells * 64);
                let mut attention = Attention::new(n_heads, n_cells, n_tokens);
                group.throughput(match n_tokens {
                    1 => Throughput::Bytes(attention.bytes() as u64),
                    _ => Throughput::Elements(attention.macs() as u64),
                });
                group.bench_function(BenchmarkId::from_parameter(n_cells), |b| {
                    b.iter(|| attention.run(kernels));
                });
            }
        }
    }
}

/// A run takes milliseconds and all there are take a while: few samples are enough.
fn config() -> Criterion {
    Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_millis(600))
}

criterion_group! { name = benches; config = config(); targets = read, gemv, gemm, attention }
criterion_main!(benches);
