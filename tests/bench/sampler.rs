//! How long a choice takes: `cargo bench --bench sampler [-- N_VOCAB]`; 262,144 logits by default.
//!
//! For each setting the median and the least microseconds of `Sampler::sample`, over logits as a
//! model makes them (a few tokens far above the rest) and over flat ones (the sum of three uniform
//! numbers, in which a nucleus holds most of the vocabulary).

use std::hint::black_box;
use std::time::Instant;

use tern::base::rng::Rng;
use tern::sampler::{Params, Sampler, Scratch};

const N_RUNS: usize = 101;
/// Rows to go round, so that no branch is learnt by heart.
const N_ROWS: usize = 4;

/// A number between -9 and 9, about normal with deviation 3.
fn noise(rng: &mut Rng) -> f32 {
    6.0 * (rng.next_f32() + rng.next_f32() + rng.next_f32()) - 9.0
}

/// Noise, and 64 tokens above it that fall off from 20, where the highest are 1 apart, to 10.
fn peaked(rng: &mut Rng, n_vocab: usize) -> Vec<f32> {
    let mut row: Vec<f32> = (0..n_vocab).map(|_| noise(rng)).collect();
    for rank in 0..64 {
        let token = (rng.next_u64() % n_vocab as u64) as usize;
        row[token] = 20.0 - 2.4 * (1.0 + rank as f32).ln();
    }
    row
}

fn main() {
    let mut arguments = std::env::args().skip(1).filter(|a| !a.starts_with('-'));
    let n_vocab: usize = arguments.next().map_or(262_144, |a| a.parse().expect("N_VOCAB"));
    let mut rng = Rng::new(5);
    let shapes: [(&str, Vec<Vec<f32>>); 2] = [
        ("peaked", (0..N_ROWS).map(|_| peaked(&mut rng, n_vocab)).collect()),
        ("flat", (0..N_ROWS).map(|_| (0..n_vocab).map(|_| noise(&mut rng)).collect()).collect()),
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
    println!("{n_vocab} logits, microseconds  {:>16}  {:>16}", "peaked", "flat");
    println!("{:<28} {:>8} {:>8} {:>8} {:>8}", "", "median", "least", "median", "least");
    for (name, params) in settings {
        print!("{name:<28}");
        for (_, rows) in &shapes {
            let mut sampler = Sampler::new(&params).expect("parameters in range");
            let mut micros: Vec<f64> = (0..N_RUNS + 5)
                .map(|run| {
                    let row = black_box(&rows[run % N_ROWS]);
                    let start = Instant::now();
                    black_box(sampler.sample(row, &mut scratch).expect("finite logits"));
                    start.elapsed().as_secs_f64() * 1e6
                })
                .skip(5)
                .collect();
            micros.sort_by(f64::total_cmp);
            print!(" {:>8.1} {:>8.1}", micros[N_RUNS / 2], micros[0]);
        }
        println!();
    }
}
