//! How fast the machine reads memory: the roof over decoding, which reads all weights each token.

use std::time::Instant;

use tern::base::aligned::Buffer;
use tern::base::pool::Pool;

use super::args::Result;
use super::bench::Measured;

/// Larger than any cache of the machines that this is made for.
const BYTES: usize = 512 << 20;

/// Reads the buffer with so many threads, each its own part; the fastest run is the roof.
pub(crate) fn measure(n_threads: u32, n_runs: usize) -> Result<Measured> {
    let buffer = Buffer::<u64>::zeroed(BYTES / size_of::<u64>())?;
    let pool = Pool::new(n_threads as usize)?;
    let mut best = f64::INFINITY;
    for _ in 0..=n_runs {
        let start = Instant::now();
        pool.run(&|worker| {
            let n = buffer.len().div_ceil(n_threads as usize);
            let part = buffer.chunks(n).nth(worker).unwrap_or(&[]);
            // Sixteen sums side by side become vector registers. They are wanted by `black_box`, so
            // that no compiler leaves the reading out.
            let mut sums = [0u64; 16];
            for block in part.as_chunks::<16>().0 {
                for (sum, x) in sums.iter_mut().zip(block) {
                    *sum = sum.wrapping_add(*x);
                }
            }
            std::hint::black_box(sums);
        })?;
        best = best.min(start.elapsed().as_secs_f64());
    }
    let gb_s = BYTES as f64 / best / 1e9;
    Ok(Measured { test: "roof".into(), n_threads, tok_s: vec![], gb_s, call_ns: vec![] })
}
