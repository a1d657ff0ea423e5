//! How long a choice takes, timed by criterion; 262,144 logits, or as many as TERN_BENCH_VOCAB says:
//!
//!   cargo bench --manifest-path tests/bench/Cargo.toml --bench sampler [-- FILTER]
//!
//! `sample/peaked` is over logits as a model makes them, `sample/flat` over noise; `known/..` with the
//! highest logits of all chunks known beforehand, as a session knows them from its head.

use std::hint::black_box;
use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use tern::base::highest::Highest;
use tern::base::rng::Rng;
use tern::sampler::{Params, Sampler, Scratch};
use tern_bench::logits;

/// Rows to go round, so that no branch is learnt by heart.
const N_ROWS: usize = 4;

fn sample(c: &mut Criterion) {
    let n_vocab: usize =
        std::env::var("TERN_BENCH_VOCAB").map_or(262_144, |n| n.parse().expect("a number"));
    let mut rng = Rng::new(5);
    let shapes: [(&str, Vec<Vec<f32>>); 2] = [
        ("peaked", (0..N_ROWS).map(|_| logits::peaked(&mut rng, n_vocab)).collect()),
        ("flat", (0..N_ROWS).map(|_| logits::flat(&mut rng, n_vocab)).collect()),
    ];
    let warm = Params { temperature: 0.8, ..Params::default() };
    let top = Params { top_k: 40, top_p: 0.95, ..warm.clone() };
    let settings = [
        ("greedy", Params::default()),
        ("top-k 40, top-p 0.95", top.clone()),
        ("the same, penalties", Params { repeat_penalty: 1.1, presence_penalty: 0.1, ..top }),
        ("top-k 1000", Params { top_k: 1000, ..warm.clone() }),
        ("top-p 0.95", Params { top_p: 0.95, ..warm.clone() }),
        ("typical 0.9", Params { typical_p: 0.9, ..warm.clone() }),
        ("min-p 0.05", Params { min_p: 0.05, ..warm.clone() }),
        ("temperature", warm),
        ("greedy, 5 logprobs", Params { n_logprobs: 5, ..Params::default() }),
    ];
    let mut scratch = Scratch::new(n_vocab).expect("memory");
    for (shape, rows) in &shapes {
        let mut group = c.benchmark_group(format!("sample/{shape}"));
        for (name, params) in &settings {
            let mut sampler = Sampler::new(params).expect("parameters in range");
            let mut next = rows.iter().cycle();
            group.bench_function(*name, |b| {
                b.iter(|| {
                    let row = black_box(next.next().expect("it goes round"));
                    sampler.sample(row, &mut scratch).expect("finite logits")
                });
            });
        }
        group.finish();
        let noted: Vec<Highest> = rows.iter().map(|row| note(row)).collect();
        let mut group = c.benchmark_group(format!("known/{shape}"));
        for (name, params) in &settings {
            let mut sampler = Sampler::new(params).expect("parameters in range");
            let mut next = rows.iter().zip(&noted).cycle();
            group.bench_function(*name, |b| {
                b.iter(|| {
                    let (row, noted) = black_box(next.next().expect("it goes round"));
                    let sampled = sampler.sample_knowing(row, noted.of_row(0), &mut scratch);
                    sampled.expect("finite logits")
                });
            });
        }
    }
}

fn note(row: &[f32]) -> Highest {
    let highest = Highest::new(1, row.len()).expect("memory");
    highest.note(0, 0, row);
    highest
}

fn config() -> Criterion {
    Criterion::default()
        .sample_size(50)
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_secs(1))
}

criterion_group! { name = benches; config = config(); targets = sample }
criterion_main!(benches);
