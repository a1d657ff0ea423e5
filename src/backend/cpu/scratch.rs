//! Buffers of a session: activations and logits. All are made here, once.

use crate::backend::rope::Frequencies;
use crate::backend::{Decoder, Shape};
use crate::base::aligned::Buffer;
use crate::base::cpu::Cores;
use crate::base::error::Result;
use crate::base::heap;
use crate::base::highest::Highest;
use crate::base::memory::Memory;
use crate::base::pool::{Pool, Width};
use crate::base::sync::Mutex;
use crate::kernel::{Activations, Kernels, TILE, Tiles};

use super::attention_q8::Eights;
use super::leverage::Learning;
use super::mass::Totals;
use super::recent::RecentRows;
use super::screen::Screening;
use super::threads::Threads;
use super::weights::Matrix;
use super::{Cpu, attention};

/// Tokens from which on panels are used: unpacking weights for fewer takes longer than it saves.
const PANEL_TOKENS: usize = 32;

/// What projections read: rows of activations, as they are and as the kernels want them.
pub(super) struct Inputs<'a> {
    /// For exact products; without codes if all readers take `tiles`.
    pub(super) exact: Activations<'a>,
    /// For panels, if they are used.
    pub(super) tiles: Option<Tiles<'a>>,
}

impl Inputs<'_> {
    /// Rows.
    pub(super) fn n(&self) -> usize {
        self.exact.n
    }
}

/// Rows of activations in int8 blocks, as the kernels of quantised weights want them.
pub(super) struct Codes {
    blocks: Blocks,
    /// The rows again, in tiles for panels; empty if those are not used.
    tiles: Buffer<u32>,
}

/// Codes for exact products.
struct Blocks {
    codes: Buffer<i8>,
    /// One for each 32 codes.
    scales: Buffer<f32>,
    /// The sum of each 16 codes.
    sums: Buffer<i32>,
}

/// Parts of the quantising of a batch, at most.
const MOST_SHARES: usize = 32;

impl Codes {
    /// Quantises the first `n` rows of `x`, rows as in [`Scratch`], each as wide as the input of
    /// `readers`; not done if none of those is quantised itself.
    pub(super) fn quantise<'a>(
        &'a mut self,
        cpu: &Cpu,
        pool: &Pool,
        x: &'a [f32],
        n: usize,
        readers: &[&Matrix],
    ) -> Result<Inputs<'a>> {
        let width = Width::spread(readers.first().map_or(0, |m| m.tensor.n_cols));
        let x = &x[..width.len(n)];
        let panels = !self.tiles.is_empty() && n >= PANEL_TOKENS;
        let tiles = match panels && readers.iter().any(|m| m.has_panels()) {
            true => Some(tile_rows(cpu, pool, width, x, &mut self.tiles)?),
            false => None,
        };
        let in_blocks = |m: &&Matrix| m.tensor.dtype.is_quantised() && !(panels && m.has_panels());
        let in_blocks = readers.iter().any(in_blocks);
        let exact = self.blocks.quantise(cpu, pool, x, width, in_blocks)?;
        Ok(Inputs { exact, tiles })
    }

    /// The same for exact products alone. So the head is multiplied: for few rows as a rule, and what
    /// it rounds goes straight into the logits.
    pub(super) fn quantise_exactly<'a>(
        &'a mut self,
        cpu: &Cpu,
        pool: &Pool,
        x: &'a [f32],
        n: usize,
        reader: &Matrix,
    ) -> Result<Inputs<'a>> {
        let width = Width::spread(reader.tensor.n_cols);
        let in_blocks = reader.tensor.dtype.is_quantised();
        let exact = self.blocks.quantise(cpu, pool, &x[..width.len(n)], width, in_blocks)?;
        Ok(Inputs { exact, tiles: None })
    }
}

impl Blocks {
    /// Quantises rows, if they are wanted so.
    fn quantise<'a>(
        &'a mut self,
        cpu: &Cpu,
        pool: &Pool,
        x: &'a [f32],
        width: Width,
        wanted: bool,
    ) -> Result<Activations<'a>> {
        let Width { n_cols: k, pitch } = width;
        let n = x.len() / pitch;
        if !wanted {
            return Ok(Activations { n, k, x, pitch, q: &[], d: &[], sum: &[] });
        }
        let (q, d, sum) = (
            &mut self.codes[..n * k],
            &mut self.scales[..n * k / 32],
            &mut self.sums[..n * k / 16],
        );
        match n {
            1 => cpu.kernels.quantize(&x[..k], q, d, sum),
            _ => quantise_rows(cpu, pool, width, (x, q, d, sum))?,
        }
        let (q, d) = (&self.codes[..n * k], &self.scales[..n * k / 32]);
        Ok(Activations { n, k, x, pitch, q, d, sum: &self.sums[..n * k / 16] })
    }
}

/// Quantises rows to tiles, shared out tile by tile.
fn tile_rows<'a>(
    cpu: &Cpu,
    pool: &Pool,
    width: Width,
    x: &[f32],
    tiles: &'a mut [u32],
) -> Result<Tiles<'a>> {
    let Width { n_cols: k, pitch } = width;
    let (n, len) = (x.len() / pitch, cpu.kernels.tile_words(k));
    let words = &mut tiles[..n.div_ceil(TILE) * len];
    pool.rows(words, len, 1, |_, first, rows| {
        let x = x[first * TILE * pitch..].chunks(TILE * pitch);
        for (x, tile) in x.zip(rows.chunks_exact_mut(len)) {
            cpu.kernels.quantize_tile(x, width, tile);
        }
    })?;
    Ok(Tiles { n, k, words })
}

/// Quantises rows: threads take runs of them, each by way of a lock that nobody else wants.
fn quantise_rows(
    cpu: &Cpu,
    pool: &Pool,
    width: Width,
    (x, q, d, sum): (&[f32], &mut [i8], &mut [f32], &mut [i32]),
) -> Result<()> {
    let Width { n_cols: k, pitch } = width;
    let n_rows = x.len() / pitch;
    let n_shares = (4 * pool.n_active()).min(MOST_SHARES);
    let rows = n_rows.div_ceil(n_shares).max(1);
    let share = rows * k;
    let mut shares = [const { Mutex::new(None) }; MOST_SHARES];
    let blocks = d.chunks_mut(share / 32).zip(sum.chunks_mut(share / 16));
    let parts = x.chunks(rows * pitch).zip(q.chunks_mut(share)).zip(blocks);
    for (share, part) in shares.iter_mut().zip(parts) {
        *share = Mutex::new(Some(part));
    }
    pool.chunks(n_rows.div_ceil(rows), 1, |_, i| {
        let share = shares.get(i.start).and_then(|share| share.lock().ok()?.take());
        if let Some(((x, q), (d, sum))) = share {
            let rows = width.rows(x).zip(q.chunks_exact_mut(k));
            let blocks = d.chunks_exact_mut(k / 32).zip(sum.chunks_exact_mut(k / 16));
            for ((x, q), (d, sum)) in rows.zip(blocks) {
                cpu.kernels.quantize(x, q, d, sum);
            }
        }
    })
}

/// Activations of one session. Rows of floats, but for those of logits and angles, are
/// [`Width::spread`].
pub struct Scratch {
    pub(super) pool: Pool,
    pub(super) threads: Threads,
    /// The residual stream, `[n_batch][n_embd]`.
    pub(super) x: Buffer<f32>,
    /// The normed residual stream, `[n_batch][n_embd]`.
    pub(super) normed: Buffer<f32>,
    /// What a projection reads, in int8.
    pub(super) codes: Codes,
    /// `[n_batch][n_head * head_dim]`, and the same for keys and values.
    pub(super) q: Buffer<f32>,
    pub(super) k: Buffer<f32>,
    pub(super) v: Buffer<f32>,
    /// `[n_batch][n_head * head_dim]`
    pub(super) mixed: Buffer<f32>,
    /// What is added to the residual stream, `[n_batch][n_embd]`.
    pub(super) delta: Buffer<f32>,
    /// `[n_batch][n_ff]`
    pub(super) gate: Buffer<f32>,
    pub(super) up: Buffer<f32>,
    /// Rotations of the batch's tokens: `[rope][n_batch][n_dims / 2]`.
    pub(super) cos: Buffer<f32>,
    pub(super) sin: Buffer<f32>,
    pub(super) frequencies: Vec<Frequencies>,
    /// What each thread works in during attention, and the parts of tiles.
    pub(super) work: Vec<Mutex<Buffer<f32>>>,
    pub(super) eights: Vec<Mutex<Eights>>,
    pub(super) parts: Buffer<f32>,
    pub(super) totals: Totals,
    /// What the batch reads in half precision where keys or values are codes.
    pub(super) recent: [RecentRows; 2],
    pub(super) learning: Learning,
    /// `[n_logits][n_vocab]`
    pub(super) logits: Buffer<f32>,
    /// The highest logits of `logits`.
    pub(super) highest: Highest,
    pub(super) n_batch: usize,
    /// Where the head can be screened.
    pub(super) screening: Option<Screening>,
}

/// The lengths of a session's buffers, in elements.
struct Lengths {
    x: usize,
    normed: usize,
    codes: usize,
    tiles: usize,
    q: usize,
    kv: usize,
    ff: usize,
    angles: usize,
    work: usize,
    parts: usize,
    logits: usize,
    /// Of [`Screening`].
    screening: [usize; 4],
}

impl Lengths {
    fn new(d: &Decoder, shape: &Shape) -> Lengths {
        let rows = shape.n_batch.max(shape.n_logits);
        let widths = [d.n_embd, d.n_head * d.head_dim, d.n_ff];
        let widest = widths.into_iter().max().unwrap_or(0);
        let tile = shape.panels.map_or(0, |isa| {
            let kernels = Kernels::for_isa(isa);
            widths.into_iter().map(|k| kernels.tile_words(k)).max().unwrap_or(0)
        });
        let (work, parts) = attention::buffer_lens(d, shape);
        let spread = Width::spread;
        Lengths {
            x: spread(d.n_embd).len(shape.n_batch),
            normed: spread(d.n_embd).len(rows),
            codes: rows * widest,
            tiles: shape.n_batch.div_ceil(TILE) * tile,
            q: spread(d.n_head * d.head_dim).len(shape.n_batch),
            kv: spread(d.n_head_kv * d.head_dim).len(shape.n_batch),
            ff: spread(d.n_ff).len(shape.n_batch),
            angles: d.ropes.iter().map(|r| shape.n_batch * r.n_dims / 2).sum(),
            work,
            parts,
            logits: shape.n_logits * d.n_vocab,
            screening: match shape.screened {
                true => Screening::lens(d.n_embd, d.n_vocab),
                false => [0; 4],
            },
        }
    }

    /// Bytes of all buffers; each begins on a cache line.
    fn bytes(&self, n_threads: usize) -> u64 {
        let line = |bytes: usize| bytes.div_ceil(64) as u64 * 64;
        let f32s = |n: usize| line(n * 4);
        2 * f32s(self.x) // x, delta
            + f32s(self.normed)
            + line(self.codes)
            + f32s(self.codes.div_ceil(32))
            + f32s(self.codes.div_ceil(16))
            + f32s(self.tiles)
            + 2 * f32s(self.q) // q, mixed
            + 2 * f32s(self.kv)
            + 2 * f32s(self.ff)
            + 2 * f32s(self.angles)
            + n_threads as u64 * f32s(self.work)
            + f32s(self.parts)
            + f32s(self.logits)
            + line(self.screening[0])
            + self.screening[1..].iter().map(|&n| f32s(n)).sum::<u64>()
    }
}

impl Cpu {
    /// Bytes of a session's activations and logits.
    pub fn scratch_bytes(decoder: &Decoder, shape: &Shape) -> u64 {
        let eights = shape.n_threads as u64 * Eights::bytes(decoder, shape);
        let highest = Highest::bytes(shape.n_logits, decoder.n_vocab);
        let beside =
            eights + highest + Totals::bytes(decoder, shape) + Learning::bytes(decoder, shape);
        let beside = beside + RecentRows::bytes(decoder, shape);
        Lengths::new(decoder, shape).bytes(shape.n_threads) + beside
    }

    /// Makes a session's buffers and threads.
    pub fn scratch(&self, shape: &Shape, memory: &Memory) -> Result<Scratch> {
        let d = &self.decoder;
        let n = Lengths::new(d, shape);
        let mut work = heap::reserve(shape.n_threads, "threads")?;
        let mut eights = heap::reserve(shape.n_threads, "threads")?;
        let pool = Pool::new(shape.n_threads)?;
        for _ in 0..shape.n_threads {
            work.push(Mutex::new(memory.buffer(n.work)?));
            eights.push(Mutex::new(Eights::new(d, shape, memory)?));
        }
        let mut frequencies = heap::reserve(d.ropes.len(), "rotary embeddings")?;
        for rope in &d.ropes {
            frequencies.push(rope.frequencies(shape.n_ctx)?);
        }
        let scales = [n.codes.div_ceil(32), n.codes.div_ceil(16)];
        let codes = memory.buffer(n.codes)?;
        let sums = memory.buffer(scales[1])?;
        let tiles = memory.buffer(n.tiles)?;
        let [x, normed, delta, q, mixed, k, v, gate, up, cos, sin, parts, logits, scales] = memory
            .buffers([
                n.x, n.normed, n.x, n.q, n.q, n.kv, n.kv, n.ff, n.ff, n.angles, n.angles, n.parts,
                n.logits, scales[0],
            ])?;
        Ok(Scratch {
            pool,
            threads: Threads::new(shape, Cores::count(), &self.found),
            x,
            normed,
            codes: Codes { blocks: Blocks { codes, scales, sums }, tiles },
            q,
            k,
            v,
            mixed,
            delta,
            gate,
            up,
            cos,
            sin,
            learning: Learning::new(d, shape, &frequencies, memory)?,
            frequencies,
            work,
            eights,
            parts,
            totals: Totals::new(d, Totals::n_batch(shape))?,
            recent: RecentRows::both(d, shape, memory)?,
            logits,
            highest: Highest::new(shape.n_logits, d.n_vocab)?,
            n_batch: shape.n_batch,
            screening: match shape.screened {
                true => Some(Screening::new(d.n_embd, d.n_vocab, memory)?),
                false => None,
            },
        })
    }
}

impl Scratch {
    /// How often all threads have waited for all.
    pub fn n_barriers(&self) -> u64 {
        self.pool.n_shared_jobs()
    }

    /// How many tokens were found without the whole head.
    pub fn n_screened(&self) -> u64 {
        self.screening.as_ref().map_or(0, |screening| screening.n_screened)
    }

    /// How often a thread has gone to sleep for want of work, or to wait for another.
    pub fn n_sleeps(&self) -> u64 {
        self.pool.n_sleeps()
    }

    /// Sets how many threads evaluate one token, and how many evaluate several.
    pub fn set_threads(&mut self, decode: usize, prefill: usize) {
        let most = self.pool.n_threads();
        self.threads.fix(decode.clamp(1, most), prefill.clamp(1, most));
    }

    /// How many threads evaluate one token, and how many evaluate several.
    pub fn n_threads(&self) -> (usize, usize) {
        self.threads.now()
    }

    /// Takes over what another session of the same parameters was told or has found about threads.
    pub fn copy_threads(&mut self, other: &Scratch) {
        self.threads = other.threads.clone();
    }
}
