//! How fast the machine reads memory: the roof over decoding, which reads all weights each token.
//! And how fast it multiplies: the roof over prefill, which reads them once for many tokens.

use std::fs;
use std::time::Instant;

use memmap2::{Advice, MmapMut, MmapOptions};
use tern::base::cpu::Isa;
use tern::base::memory;
use tern::base::pool::Pool;
use tern::kernel::peak;

use super::super::args::{Result, invalid, io_error};
use super::report::{Measured, spread};

/// The least that is read, whatever the caches.
const MIN_BYTES: usize = 256 << 20;

/// How many times the last cache is read, so that little of it can come from there.
const CACHES: usize = 4;

/// Bytes that one thread reads of one stream before it turns to the next: two cache lines.
const BLOCK: usize = 128;

/// Rounds of the multiply instruction in one pass: a few milliseconds.
const ROUNDS: u32 = 1 << 22;

/// What the machine can do with a number of threads.
pub(crate) struct Roof {
    n_threads: u32,
    isa: Isa,
    /// The fastest pass of multiplying, in billions per second; `None` if the rung has no roof.
    gmac_s: Option<f64>,
    /// Gigabytes per second of each pass, by how many streams each thread read at once: which
    /// number is the fastest is a matter of the machine's prefetchers.
    passes: [Vec<f64>; 4],
}

impl Roof {
    /// Nothing measured yet.
    pub(crate) fn new(n_threads: u32, isa: Isa) -> Roof {
        Roof { n_threads, isa, gmac_s: None, passes: Default::default() }
    }

    /// Reads a buffer so often with each number of streams, after one pass to warm up. The buffer is
    /// gone afterwards.
    pub(crate) fn measure(&mut self, n_runs: usize) -> Result<()> {
        let buffer = buffer()?;
        let pool = Pool::new(self.n_threads as usize)?;
        for _ in 0..=n_runs {
            let gmac_s = multiply(&pool, self.isa)?;
            self.gmac_s = gmac_s.map(|gmac_s| gmac_s.max(self.gmac_s.unwrap_or(0.0)));
        }
        for run in 0..=n_runs {
            for (streams, seconds) in self.passes.iter_mut().enumerate() {
                let time = read(&buffer, &pool, 1 << streams)?;
                if run > 0 {
                    seconds.push(buffer.len() as f64 / time / 1e9);
                }
            }
        }
        Ok(())
    }

    /// Sets a result under this roof.
    pub(crate) fn over(&self, result: &mut Measured) {
        result.roof_gb_s = Some(self.best());
        result.roof_gmac_s = self.gmac_s;
    }

    /// The fastest pass of reading, in gigabytes per second.
    fn best(&self) -> f64 {
        self.passes.iter().flatten().copied().fold(0.0, f64::max)
    }

    /// The line of the table: the fastest pass, and the median with the best number of streams.
    pub(crate) fn measured(&self) -> Measured {
        let medians = self.passes.iter().map(|passes| spread(&mut passes.clone()).1);
        Measured {
            gb_s: self.best(),
            gmac_s: self.gmac_s,
            median_gb_s: Some(medians.fold(0.0, f64::max)),
            ..Measured::new("roof".into(), self.n_threads)
        }
    }
}

/// Multiplies on all threads at once; billions of multiplications per second.
fn multiply(pool: &Pool, isa: Isa) -> Result<Option<f64>> {
    let start = Instant::now();
    pool.run(&|_| {
        peak::multiply(isa, ROUNDS);
    })?;
    let seconds = start.elapsed().as_secs_f64();
    // A round more, which takes no time, says how many there are in each.
    let macs = peak::multiply(isa, 1).map(|macs| macs as f64 * f64::from(ROUNDS));
    Ok(macs.map(|macs| macs * pool.n_threads() as f64 / seconds / 1e9))
}

/// Reads all of the buffer once, each thread its own part; seconds.
fn read(buffer: &[u8], pool: &Pool, n_streams: usize) -> Result<f64> {
    let part = buffer.len() / pool.n_threads();
    let start = Instant::now();
    pool.run(&|worker| {
        let part = buffer.get(worker * part..(worker + 1) * part).unwrap_or(&[]);
        let blocks = part.as_chunks::<BLOCK>().0;
        // The sums are wanted by `black_box`, so that no compiler leaves the reading out.
        std::hint::black_box(match n_streams {
            1 => sum::<1>(blocks),
            2 => sum::<2>(blocks),
            4 => sum::<4>(blocks),
            _ => sum::<8>(blocks),
        });
    })?;
    Ok(start.elapsed().as_secs_f64())
}

/// Adds up the words of all blocks, as `N` streams side by side. Sixteen sums become vector
/// registers, so that no addition waits for the one before.
fn sum<const N: usize>(blocks: &[[u8; BLOCK]]) -> [u64; 16] {
    let n = blocks.len() / N;
    let streams: [&[[u8; BLOCK]]; N] = std::array::from_fn(|i| &blocks[i * n..(i + 1) * n]);
    let mut sums = [0u64; 16];
    for i in 0..n {
        for stream in streams {
            for (sum, word) in sums.iter_mut().zip(stream[i].as_chunks::<8>().0) {
                *sum = sum.wrapping_add(u64::from_ne_bytes(*word));
            }
        }
    }
    sums
}

/// Memory that no cache holds, in huge pages where the system gives some: the roof is about memory,
/// not about looking up pages.
fn buffer() -> Result<MmapMut> {
    let wanted = last_cache_bytes().saturating_mul(CACHES).max(MIN_BYTES);
    let free = usize::try_from(memory::available() / 2).unwrap_or(usize::MAX);
    if free < wanted {
        return Err(invalid(format_args!(
            "--roof: reads {} MiB, so that no cache holds them; half of the free memory is {} MiB",
            wanted >> 20,
            free >> 20
        )));
    }
    let mut map = MmapOptions::new().len(wanted).map_anon().map_err(|e| io_error("--roof", &e))?;
    // Fails where the kernel was built without huge pages; then there are none.
    let _ = map.advise(Advice::HugePage);
    // Written, as pages that nobody wrote to are all the same one, which a cache holds.
    map.fill(1);
    Ok(map)
}

/// Bytes of the largest cache that the system knows of; 0 if it does not say.
fn last_cache_bytes() -> usize {
    let size = |index: usize| {
        let path = format!("/sys/devices/system/cpu/cpu0/cache/index{index}/size");
        cache_bytes(fs::read_to_string(path).ok()?.trim())
    };
    (0..8).filter_map(size).max().unwrap_or(0)
}

/// A size as the kernel writes it: `32768K`.
fn cache_bytes(text: &str) -> Option<usize> {
    text.strip_suffix('K')?.parse::<usize>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_block_is_read_once() {
        let blocks: Vec<[u8; BLOCK]> = (0..24u64)
            .map(|i| std::array::from_fn(|b| if b % 8 == 0 { i as u8 } else { 0 }))
            .collect();
        let expected = [(0..24).sum::<u64>().to_le(); 16];
        assert_eq!(sum::<1>(&blocks), expected);
        assert_eq!(sum::<2>(&blocks), expected);
        assert_eq!(sum::<4>(&blocks), expected);
        assert_eq!(sum::<8>(&blocks), expected);
    }

    #[test]
    fn sizes_of_caches() {
        assert_eq!(cache_bytes("32768K"), Some(32 << 20));
        assert_eq!(cache_bytes("32M"), None);
        assert_eq!(cache_bytes(""), None);
    }
}
