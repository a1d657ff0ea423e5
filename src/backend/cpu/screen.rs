//! A screened head: the best token without reading the whole head.
//!
//! ```text
//! at load     sketch   the head in 4 bits                          Q4_0, packed
//!             bounds   for each row and block of 32 inputs, at least the norm of what the sketch
//!                      leaves out of the row there                 Q8_0, packed, a column a block
//! a token     upper  = sketch . x + bounds . (norms of x's blocks)
//!             least  = the best of a few groups, by the head itself
//!             rows of groups where upper >= least: by the head itself
//! ```
//! By the inequality of Cauchy and Schwarz no logit is above `upper`. So no row that is left out has
//! the greatest logit, and those that are not left out have the bits that the whole head would give
//! them: the best token is the same, always. Where too many rows are left, the whole head is read,
//! and the next tokens do not try. How much is saved depends on the model: the better one token
//! stands out against the many, the fewer rows are left.

use std::sync::atomic::{AtomicUsize, Ordering};

use half::f16;

use crate::backend::{Decoder, Ends, TensorRef};
use crate::base::aligned::Buffer;
use crate::base::dtype::DType;
use crate::base::error::{Result, err};
use crate::base::heap;
use crate::base::memory::Memory;
use crate::base::pool::{Columns, Pool, Width};
use crate::base::sync::Mutex;
use crate::kernel::{ACTIVATION_BLOCK, Activations, Packed};
use crate::quant::p16::{self, ROWS};

use super::attention::lock;
use super::scratch::Inputs;
use super::weights::Matrix;
use super::{Cpu, CpuEnds};

const BLOCK: usize = ACTIVATION_BLOCK;
/// Parts of the vocabulary of each of which the most promising group is tried first.
const FIRST: usize = 8;
/// Of how many groups one may be left for screening to be worth it.
const MOST_LEFT: usize = 8;
/// Tokens that do not try, at most, after one for which too many rows were left.
const LONGEST_WAIT: u32 = 64;

/// What is kept beside a head to screen it.
pub(super) struct Screen {
    n_rows: usize,
    k: usize,
    sketch: Buffer<u8>,
    bounds: Buffer<u8>,
}

/// What a session screens with.
pub(super) struct Screening {
    /// The norms of the activations' blocks, as the bounds want them.
    codes: Buffer<i8>,
    scales: Buffer<f32>,
    sums: Buffer<i32>,
    bound: Buffer<f32>,
    /// Tokens that will not try, and how many if the next try fails.
    wait: u32,
    next_wait: u32,
    /// Tokens that were found without the whole head.
    pub(super) n_screened: u64,
}

impl Screening {
    pub(super) fn new(k: usize, n_vocab: usize, memory: &Memory) -> Result<Screening> {
        let n = n_bounds(k);
        Ok(Screening {
            codes: memory.buffer(n)?,
            scales: memory.buffer(n / BLOCK)?,
            sums: memory.buffer(n / ROWS)?,
            bound: memory.buffer(n_vocab)?,
            wait: 0,
            next_wait: 1,
            n_screened: 0,
        })
    }

    /// Lengths of the buffers: codes, scales, sums, bounds.
    pub(super) fn lens(k: usize, n_vocab: usize) -> [usize; 4] {
        let n = n_bounds(k);
        [n, n / BLOCK, n / ROWS, n_vocab]
    }

    /// Whether the next token should try.
    fn may_try(&mut self) -> bool {
        let may = self.wait == 0;
        self.wait = self.wait.saturating_sub(1);
        may
    }

    /// Notes whether few enough rows were left.
    fn tried(&mut self, worth_it: bool) {
        if worth_it {
            self.n_screened += 1;
            self.next_wait = 1;
        } else {
            self.wait = self.next_wait;
            self.next_wait = (2 * self.next_wait).min(LONGEST_WAIT);
        }
    }

    /// The norms of the blocks of one token, rounded up: for each 32 of them one scale.
    fn norms<'a>(
        codes: &'a mut [i8],
        scales: &'a mut [f32],
        sums: &'a mut [i32],
        act: &Activations<'_>,
    ) -> Activations<'a> {
        let norm = |b: usize| {
            let squares: i32 =
                act.q[BLOCK * b..][..BLOCK].iter().map(|&q| i32::from(q).pow(2)).sum();
            act.d[b] * (squares as f32).sqrt() * (1.0 + 4.0 * f32::EPSILON)
        };
        codes.fill(0);
        for (i, (codes, scale)) in codes.chunks_exact_mut(BLOCK).zip(&mut *scales).enumerate() {
            let blocks = BLOCK * i..act.d.len().min(BLOCK * (i + 1));
            *scale = blocks.clone().map(norm).fold(0.0, f32::max) / 127.0;
            *scale *= 1.0 + 4.0 * f32::EPSILON; // so that the quotients below do not exceed 127
            for (b, code) in blocks.zip(codes) {
                *code = if *scale > 0.0 { (norm(b) / *scale).ceil().min(127.0) as i8 } else { 0 };
            }
        }
        for (sum, codes) in sums.iter_mut().zip(codes.chunks_exact(ROWS)) {
            *sum = codes.iter().map(|&code| i32::from(code)).sum();
        }
        let k = codes.len();
        Activations { n: 1, k, x: &[], pitch: k, q: codes, d: scales, sum: sums }
    }
}

/// Columns of the bounds for rows of `k`.
fn n_bounds(k: usize) -> usize {
    (k / BLOCK).next_multiple_of(BLOCK)
}

/// Whether a head can be screened. What is added to a logit or bends it, and minima, which may be
/// far greater than the weights that they make, would each need a bound of its own.
fn suits(d: &Decoder, head: &TensorRef, has_bias: bool) -> bool {
    d.logit_softcap == 0.0 && !has_bias && p16::parts(head.dtype).is_some_and(|parts| !parts.min)
}

/// Bytes of the sketch and of the bounds.
fn lens(head: &TensorRef) -> Option<[usize; 2]> {
    let (k, n) = (head.n_cols, head.n_rows);
    Some([p16::packed_bytes(DType::Q4_0, k, n)?, p16::packed_bytes(DType::Q8_0, n_bounds(k), n)?])
}

impl Cpu {
    /// Bytes that screening the head takes; 0 if it cannot be screened.
    pub fn screen_bytes(d: &Decoder, ends: &Ends) -> u64 {
        match suits(d, &ends.head.weight, ends.head.bias.is_some()) {
            true => lens(&ends.head.weight).map_or(0, |lens| lens.iter().map(|&n| n as u64).sum()),
            false => 0,
        }
    }

    /// Makes what screening the head takes, on `n_threads`. Does nothing for a head that cannot be
    /// screened, of which [`Cpu::screen_bytes`] is 0.
    pub fn screen(&self, ends: &mut CpuEnds, n_threads: usize, memory: &Memory) -> Result<()> {
        if !suits(&self.decoder, &ends.head.tensor, ends.head.bias.is_some()) {
            return Ok(());
        }
        ends.screen = Some(self.sketch(&ends.head, &Pool::new(n_threads)?, memory)?);
        Ok(())
    }

    fn sketch(&self, head: &Matrix, pool: &Pool, memory: &Memory) -> Result<Screen> {
        let too_long = || err!(OutOfMemory, "the sketch of the head exceeds the address space");
        let (n_rows, k) = (head.tensor.n_rows, head.tensor.n_cols);
        let [sketch, bounds] = lens(&head.tensor).ok_or_else(too_long)?;
        let mut screen =
            Screen { n_rows, k, sketch: memory.buffer(sketch)?, bounds: memory.buffer(bounds)? };
        let n_groups = n_rows.div_ceil(ROWS);
        let row_bytes = |dtype: DType, k| dtype.row_bytes(k).ok_or_else(too_long);
        let (sketch_row, bounds_row) =
            (row_bytes(DType::Q4_0, k)?, row_bytes(DType::Q8_0, n_bounds(k))?);
        let works = |n: usize| -> Result<Vec<Mutex<Work>>> {
            let mut works = heap::reserve(pool.n_threads(), "threads")?;
            for _ in 0..pool.n_threads() {
                works.push(Mutex::new(Work::new(k, n)?));
            }
            Ok(works)
        };
        let rows_of = |g: usize| g * ROWS..n_rows.min((g + 1) * ROWS);

        let work = works(ROWS * sketch_row)?;
        pool.rows(&mut screen.sketch, sketch / n_groups, 8, |worker, first, groups| {
            let work = &mut *lock(&work[worker]);
            for (i, group) in groups.chunks_exact_mut(sketch / n_groups).enumerate() {
                let rows = rows_of(first + i);
                let encoded = &mut work.encoded[..rows.len() * sketch_row];
                for (row, out) in rows.zip(encoded.chunks_exact_mut(sketch_row)) {
                    self.decode_row(head, row, &mut work.exact);
                    for (x, out) in work.exact.chunks_exact(BLOCK).zip(out.chunks_exact_mut(18)) {
                        encode(x, out);
                    }
                }
                p16::pack_group(DType::Q4_0, k, encoded, group);
            }
        })?;

        let (work, coarse) = (works(ROWS * bounds_row)?, &screen.sketch);
        pool.rows(&mut screen.bounds, bounds / n_groups, 8, |worker, first, groups| {
            let work = &mut *lock(&work[worker]);
            for (i, group) in groups.chunks_exact_mut(bounds / n_groups).enumerate() {
                let rows = rows_of(first + i);
                let encoded = &mut work.encoded[..rows.len() * bounds_row];
                for (row, out) in rows.zip(encoded.chunks_exact_mut(bounds_row)) {
                    self.decode_row(head, row, &mut work.exact);
                    p16::decode_row(DType::Q4_0, k, coarse, row, &mut work.coarse);
                    bound_row(&work.exact, &work.coarse, out);
                }
                p16::pack_group(DType::Q8_0, n_bounds(k), encoded, group);
            }
        })?;
        Ok(screen)
    }

    /// The logits of those rows that may be the best, and minus infinity for all others; `false` if
    /// too many may, and nothing was gained. The inputs are one token's.
    pub(super) fn best_logits(
        &self,
        pool: &Pool,
        ends: &CpuEnds,
        screening: &mut Screening,
        inputs: &Inputs<'_>,
        logits: &mut [f32],
    ) -> Result<bool> {
        let act = &inputs.exact;
        let Some(screen) = ends.screen.as_ref().filter(|_| screening.may_try()) else {
            return Ok(false);
        };
        let n = screen.n_rows;
        let Screening { codes, scales, sums, bound, .. } = screening;
        let norms = Screening::norms(codes, scales, sums, act);
        pool.column_pairs(logits, bound, Width::dense(n), 2 * ROWS, |_, upper, bound| {
            self.kernels.matmul_packed(&screen.sketch(), act, upper);
            self.kernels.matmul_packed(&screen.bounds(), &norms, bound);
            self.kernels.add(upper.row_mut(0), bound.row_mut(0));
        })?;
        let least = self.least(ends, inputs, logits, bound);
        let n_left = AtomicUsize::new(0);
        let most_left = n.div_ceil(ROWS) / MOST_LEFT;
        pool.columns(logits, Width::dense(n), 2 * ROWS, |_, part| {
            for at in (0..part.len()).step_by(ROWS) {
                let mut group = part.part(at..part.len().min(at + ROWS));
                // A bound that is not a number bounds nothing.
                let out = |x: f32| x < least;
                let left = group.row_mut(0).iter().fold(false, |any, &x| any | !out(x));
                if !left {
                    group.row_mut(0).fill(f32::NEG_INFINITY);
                } else if n_left.fetch_add(1, Ordering::Relaxed) < most_left {
                    self.matmul(&ends.head, inputs, &mut group);
                }
            }
        })?;
        let worth_it = n_left.load(Ordering::Relaxed) <= most_left;
        screening.tried(worth_it);
        Ok(worth_it)
    }

    /// The greatest logit of the most promising groups; minus infinity if that is no number. Uses
    /// the start of `room`.
    fn least(&self, ends: &CpuEnds, inputs: &Inputs<'_>, upper: &[f32], room: &mut [f32]) -> f32 {
        let n = upper.len();
        let share = n.div_ceil(FIRST).next_multiple_of(ROWS);
        let mut least = f32::NEG_INFINITY;
        for (i, part) in upper.chunks(share).enumerate() {
            let groups =
                part.chunks(ROWS).map(|group| group.iter().copied().fold(f32::MIN, f32::max));
            let best = groups.enumerate().max_by(|a, b| a.1.total_cmp(&b.1));
            let first = i * share + best.map_or(0, |(g, _)| g * ROWS);
            let rows = first..n.min(first + ROWS);
            self.matmul(&ends.head, inputs, &mut Columns::new(room, n, rows.clone()));
            least = room[rows].iter().copied().fold(least, f32::max);
        }
        least
    }
}

impl Screen {
    fn sketch(&self) -> Packed<'_> {
        Packed { dtype: DType::Q4_0, k: self.k, n_rows: self.n_rows, bytes: &self.sketch }
    }

    fn bounds(&self) -> Packed<'_> {
        let k = n_bounds(self.k);
        Packed { dtype: DType::Q8_0, k, n_rows: self.n_rows, bytes: &self.bounds }
    }
}

/// What a thread sketches with.
struct Work {
    exact: Buffer<f32>,
    coarse: Buffer<f32>,
    encoded: Buffer<u8>,
}

impl Work {
    fn new(k: usize, encoded: usize) -> Result<Work> {
        Ok(Work {
            exact: Buffer::<f32>::zeroed(k)?,
            coarse: Buffer::<f32>::zeroed(k)?,
            encoded: Buffer::<u8>::zeroed(encoded)?,
        })
    }
}

/// Encodes 32 weights as a block of Q4_0, with that of a few scales which leaves out least.
fn encode(x: &[f32], out: &mut [u8]) {
    let widest = x.iter().copied().fold(0.0f32, |w, x| if x.abs() > w.abs() { x } else { w });
    let code = |x: f32, inverse: f32| (x * inverse + 8.5).clamp(0.0, 15.0) as u8;
    let mut best = (f32::INFINITY, f16::ZERO, 0.0);
    for steps in [-8.0, -7.5, 7.25] {
        let most = f32::from(f16::MAX);
        let d = f16::from_f32((widest / steps).clamp(-most, most));
        let inverse = if d == f16::ZERO { 0.0 } else { 1.0 / f32::from(d) };
        let left = |x: f32| x - f32::from(d) * (f32::from(code(x, inverse)) - 8.0);
        let left: f32 = x.iter().map(|&x| left(x) * left(x)).sum();
        if left < best.0 {
            best = (left, d, inverse);
        }
    }
    let (_, d, inverse) = best;
    out[..2].copy_from_slice(&d.to_le_bytes());
    let (low, high) = x.split_at(BLOCK / 2);
    for ((out, &low), &high) in out[2..].iter_mut().zip(low).zip(high) {
        *out = code(low, inverse) | code(high, inverse) << 4;
    }
}

/// Encodes the bounds of a row as blocks of Q8_0, rounded up: of each 32 weights the norm of what
/// `coarse` leaves out, and room for the rounding of the sums in single precision.
///
/// A logit adds up at most `k / 16` products, each rounded a few times and none greater than the
/// product of the norms: it is off by at most `(k / 32 + 3) * EPSILON` of what those add up to, and
/// its sketch by less. Two and a half times that pays for the roundings of the bound itself, too.
fn bound_row(exact: &[f32], coarse: &[f32], out: &mut [u8]) {
    let norm = |x: &mut dyn Iterator<Item = f64>| x.map(|x| x * x).sum::<f64>().sqrt();
    let slack = 2.5 * (exact.len() / BLOCK + 4) as f64 * f64::from(f32::EPSILON);
    let bound = |b: usize| {
        let at = BLOCK * b..(BLOCK * (b + 1)).min(exact.len());
        let (exact, coarse) = (&exact[at.clone()], &coarse[at]);
        let left = norm(&mut exact.iter().zip(coarse).map(|(&w, &s)| f64::from(w) - f64::from(s)));
        let size = norm(&mut exact.iter().map(|&w| f64::from(w)));
        (left + slack * (2.0 * size + left)) * (1.0 + slack)
    };
    let n_blocks = exact.len() / BLOCK;
    for (i, out) in out.chunks_exact_mut(34).enumerate() {
        let blocks = BLOCK * i..n_blocks.min(BLOCK * (i + 1));
        let most = blocks.clone().map(bound).fold(0.0, f64::max);
        let mut d = f16::from_f64(most / 127.0);
        if f64::from(d) * 127.0 < most {
            d = f16::from_bits(d.to_bits() + 1); // the next greater
        }
        out[..2].copy_from_slice(&d.to_le_bytes());
        out[2..].fill(0);
        for (b, code) in blocks.zip(&mut out[2..]) {
            if d != f16::ZERO {
                *code = (bound(b) / f64::from(d)).ceil().min(127.0) as u8;
            }
        }
    }
}

#[cfg(test)]
mod tests {

    use super::*;
    use crate::backend::{Activation, rope};
    use crate::base::cpu::Isa;
    use crate::base::file::Bytes;
    use crate::base::memory::HugePages;
    use crate::base::shared::Shared;
    use crate::quant;

    const K: usize = 160;

    struct Random(u64);

    impl Random {
        /// From -1 to 1.
        fn next(&mut self) -> f32 {
            self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (self.0 >> 40) as f32 / (1 << 23) as f32 - 1.0
        }
    }

    fn decoder(n_vocab: usize) -> Decoder {
        Decoder {
            n_embd: K,
            n_head: 1,
            n_head_kv: 1,
            head_dim: K,
            n_ff: K,
            n_vocab,
            norm_eps: 1e-6,
            embd_scale: 1.0,
            attn_scale: 1.0,
            attn_softcap: 0.0,
            logit_softcap: 0.0,
            activation: Activation::Silu,
            rope_layout: rope::Layout::Norm,
            ropes: Vec::new(),
        }
    }

    /// A device with nothing but a head of these rows, screened.
    fn screened(dtype: DType, rows: &[Vec<f32>], isa: Isa) -> (Cpu, CpuEnds) {
        let row_bytes = dtype.row_bytes(K).expect("whole blocks");
        let mut file = vec![0; rows.len() * row_bytes];
        for (row, out) in rows.iter().zip(file.chunks_exact_mut(row_bytes)) {
            assert!(quant::encode_row(dtype, row, out), "{dtype} has an encoder");
        }
        let bytes = file.len();
        let built = Bytes::build(bytes, HugePages::Never, |to| {
            to.copy_from_slice(&file);
            Ok(())
        });
        let cpu = Cpu::new(
            decoder(rows.len()),
            Shared::new(built.expect("memory")).expect("memory"),
            isa,
            false,
        );
        let head =
            TensorRef { dtype, n_cols: K, n_rows: rows.len(), offset: 0, bytes, packed: false };
        let matrix = || cpu.table(&head, None).expect("a matrix");
        let norm = Buffer::<f32>::zeroed(K).expect("memory");
        let mut ends = CpuEnds { embd: matrix(), norm, head: matrix(), screen: None };
        cpu.screen(&mut ends, 2, &Memory::default()).expect("screened");
        assert!(ends.screen.is_some());
        (cpu, ends)
    }

    /// The logits of a token by the whole head, and screened; and whether that was worth it.
    fn both(cpu: &Cpu, ends: &CpuEnds, x: &[f32]) -> (Vec<f32>, Vec<f32>, bool) {
        let n = ends.head.tensor.n_rows;
        let (mut q, mut d, mut sum) = (vec![0; K], vec![0.0; K / 32], vec![0; K / 16]);
        cpu.kernels.quantize(x, &mut q, &mut d, &mut sum);
        let act = Activations { n: 1, k: K, x, pitch: K, q: &q, d: &d, sum: &sum };
        let mut whole = vec![0.0; n];
        let inputs = Inputs { exact: act, tiles: None };
        cpu.matmul(&ends.head, &inputs, &mut Columns::new(&mut whole, n, 0..n));
        let mut some = vec![0.0; n];
        let mut screening = Screening::new(K, n, &Memory::default()).expect("memory");
        let pool = Pool::new(2).expect("threads");
        let worth_it = cpu.best_logits(&pool, ends, &mut screening, &inputs, &mut some);
        (whole, some, worth_it.expect("no panic"))
    }

    fn first_best(logits: &[f32]) -> (usize, f32) {
        let best = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        (logits.iter().position(|&x| x == best).expect("a best"), best)
    }

    #[test]
    fn a_screened_head_has_the_best_token_of_the_whole_head() {
        let mut random = Random(3);
        for &isa in Isa::available() {
            for (dtype, n) in [(DType::Q8_0, 1000), (DType::Q5_0, 517), (DType::Q4_0, 2048)] {
                let mut rows: Vec<Vec<f32>> =
                    (0..n).map(|_| (0..K).map(|_| random.next()).collect()).collect();
                rows[n - 1] = rows[n / 3].clone(); // the first of equals counts
                let (cpu, ends) = screened(dtype, &rows, isa);
                for near in [0, n / 3, n - 2] {
                    let x: Vec<f32> =
                        rows[near].iter().map(|w| 3.0 * w + 0.3 * random.next()).collect();
                    let (whole, some, worth_it) = both(&cpu, &ends, &x);
                    assert!(worth_it, "{dtype}: one row stands out");
                    assert_eq!(first_best(&some), first_best(&whole), "{dtype} {}", isa.name());
                    let left = some.iter().filter(|x| x.is_finite()).count();
                    assert!(left < n / 4, "{dtype}: {left} of {n} rows were left");
                    for (i, (some, whole)) in some.iter().zip(&whole).enumerate() {
                        let same = *some == f32::NEG_INFINITY || some.to_bits() == whole.to_bits();
                        assert!(same, "{dtype}: logit {i} is {some}, expected {whole}");
                    }
                }
            }
        }
    }

    #[test]
    fn no_logit_is_above_its_bound() {
        let mut random = Random(5);
        let n = 400usize;
        for dtype in [DType::Q8_0, DType::Q5_0] {
            let rows: Vec<Vec<f32>> = (0..n)
                .map(|r| (0..K).map(|_| random.next() * 10f32.powi(r as i32 % 7 - 3)).collect())
                .collect();
            let (cpu, ends) = screened(dtype, &rows, Isa::best());
            let screen = ends.screen.as_ref().expect("screened");
            for at in 0..8 {
                // What the sketch leaves out of a row is the input that comes closest to its bound.
                let (mut w, mut s) = (vec![0.0; K], vec![0.0; K]);
                cpu.decode_row(&ends.head, at, &mut w);
                p16::decode_row(DType::Q4_0, K, &screen.sketch, at, &mut s);
                let x: Vec<f32> = w.iter().zip(&s).map(|(w, s)| w - s).collect();
                let (mut q, mut d, mut sum) = (vec![0; K], vec![0.0; K / 32], vec![0; K / 16]);
                cpu.kernels.quantize(&x, &mut q, &mut d, &mut sum);
                let act = Activations { n: 1, k: K, x: &x, pitch: K, q: &q, d: &d, sum: &sum };
                let mut made = Screening::new(K, n, &Memory::default()).expect("memory");
                let Screening { codes, scales, sums, .. } = &mut made;
                let norms = Screening::norms(codes, scales, sums, &act);
                let [mut whole, mut upper, mut bound] = [const { Vec::new() }; 3].map(|mut v| {
                    v.resize(n, 0.0f32);
                    v
                });
                let kernels = cpu.kernels;
                let inputs = Inputs { exact: act, tiles: None };
                cpu.matmul(&ends.head, &inputs, &mut Columns::new(&mut whole, n, 0..n));
                let columns = &mut Columns::new(&mut upper, n, 0..n);
                kernels.matmul_packed(&screen.sketch(), &act, columns);
                let columns = &mut Columns::new(&mut bound, n, 0..n);
                kernels.matmul_packed(&screen.bounds(), &norms, columns);
                for i in 0..n {
                    let above = whole[i] - upper[i];
                    assert!(above <= bound[i], "{dtype}, row {i}: {above} above {}", bound[i]);
                }
                let tight = (whole[at] - upper[at]) / bound[at];
                assert!(tight > 0.95, "{dtype}, row {at}: {tight} of the bound");
            }
        }
    }

    #[test]
    fn a_head_without_a_favourite_is_read_whole_and_the_next_tokens_wait() {
        let mut random = Random(9);
        let rows: Vec<Vec<f32>> =
            (0..640).map(|_| (0..K).map(|_| random.next()).collect()).collect();
        let (cpu, ends) = screened(DType::Q8_0, &rows, Isa::best());
        let x: Vec<f32> = (0..K).map(|i| if i == 7 { 1.0 } else { 0.0 }).collect();
        let (_, _, worth_it) = both(&cpu, &ends, &vec![f32::NAN; K]);
        assert!(!worth_it, "what is not a number is left to the whole head");
        let (_, _, worth_it) = both(&cpu, &ends, &vec![0.0; K]);
        assert!(!worth_it, "all logits are equal");
        let (whole, some, worth_it) = both(&cpu, &ends, &x);
        assert!(!worth_it || first_best(&whole) == first_best(&some));

        let mut screening = Screening::new(K, 640, &Memory::default()).expect("memory");
        let mut waited = Vec::new();
        for _ in 0..9 {
            assert!(screening.may_try());
            screening.tried(false);
            waited.push((0..).take_while(|_| !screening.may_try()).count());
            screening.wait = 0;
        }
        assert_eq!(waited, [1, 2, 4, 8, 16, 32, 64, 64, 64]);
        screening.tried(true);
        assert!(screening.may_try());
    }
}
