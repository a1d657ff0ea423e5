//! How much the key and the value of each slot of a layer differ from all others that were seen:
//! their leverage, `(x - m)' (C + r I)^-1 (x - m)`, which `kv::policy::leverage` defines and computes
//! plainly, one vector after the other. Here keys, turned back to what they were before rotation, and
//! values go through the kernels of attention, sixteen and sixty-four at a time.
//!
//! ```text
//! heads    [kv head][keys, values: mean, then C row by row][leverage of each slot]
//! ```
//! `C` of a block of vectors is that around their own mean, and one vector more for the distance of
//! that from the mean before (Chan, Golub and LeVeque, 1979): so nothing is subtracted that is large.

use std::ops::Range;

use crate::backend::rope::Frequencies;
use crate::backend::{Decoder, NewSlots, Shape, SlotsOfHead};
use crate::base::aligned::Buffer;
use crate::base::error::{Result, err};
use crate::base::heap;
use crate::base::memory::Memory;
use crate::base::sync::Mutex;
use crate::kernel::{GROUP, Panel};

use super::attention::lock;
use super::cache_store::value_width;
use super::{Cpu, CpuLayer, Kv, Scratch};

/// Vectors that are counted together, with one for their mean in the last place.
const BLOCK: usize = GROUP;
/// Vectors whose leverage is computed together.
const TILE: usize = 4 * GROUP;

/// The statistics of one layer.
pub(super) struct Leverage {
    /// Vectors counted.
    pub(super) n: u64,
    heads: Buffer<f32>,
}

/// Lengths that follow from a model's heads.
#[derive(Clone, Copy)]
struct Sizes {
    d: usize,
    /// Elements of a row of `C`.
    width: usize,
    n_slots: usize,
}

impl Sizes {
    fn new(d: &Decoder, shape: &Shape) -> Sizes {
        Sizes::of(d, shape.n_ctx)
    }

    fn of(d: &Decoder, n_slots: usize) -> Sizes {
        Sizes { d: d.head_dim, width: value_width(d.head_dim), n_slots }
    }

    /// Floats of the statistics of keys, or of values.
    fn spread(&self) -> usize {
        self.width + self.d * self.width
    }

    /// Floats of a head.
    fn head(&self) -> usize {
        2 * self.spread() + self.n_slots.next_multiple_of(GROUP)
    }

    /// Floats that a thread works in.
    fn work(&self) -> usize {
        2 * self.width + self.d * self.width + (self.d * self.width).max(2 * self.d * TILE)
    }
}

impl Leverage {
    pub(super) fn new(d: &Decoder, shape: &Shape, memory: &Memory) -> Result<Option<Leverage>> {
        if !shape.leverage {
            return Ok(None);
        }
        let heads = memory.buffer(d.n_head_kv * Sizes::new(d, shape).head())?;
        Ok(Some(Leverage { n: 0, heads }))
    }

    /// Bytes that it takes for one layer.
    pub(super) fn bytes(d: &Decoder, shape: &Shape) -> u64 {
        let floats = if shape.leverage { d.n_head_kv * Sizes::new(d, shape).head() } else { 0 };
        (4 * floats as u64).next_multiple_of(64)
    }

    fn head_mut(&mut self, sizes: Sizes, head: usize) -> HeadStats<'_> {
        HeadStats::new(&mut self.heads[head * sizes.head()..][..sizes.head()], sizes)
    }

    /// The leverage of a head's slots.
    pub(super) fn of_head(&self, d: &Decoder, n_slots: usize, head: usize) -> &[f32] {
        let sizes = Sizes::of(d, n_slots);
        &self.heads[head * sizes.head() + 2 * sizes.spread()..][..n_slots]
    }

    /// All numbers of a head and its first `n` slots: means, spreads, leverages.
    pub(super) fn known(&self, d: &Decoder, n_slots: usize, head: usize, n: usize) -> &[f32] {
        let sizes = Sizes::of(d, n_slots);
        &self.heads[head * sizes.head()..][..2 * sizes.spread() + n]
    }

    /// The same, to be set.
    pub(super) fn known_mut(
        &mut self,
        d: &Decoder,
        n_slots: usize,
        head: usize,
        n: usize,
    ) -> &mut [f32] {
        let sizes = Sizes::of(d, n_slots);
        &mut self.heads[head * sizes.head()..][..2 * sizes.spread() + n]
    }

    /// Moves what a head's slots `kept` have to its first ones.
    pub(super) fn compact(&mut self, d: &Decoder, n_slots: usize, head: usize, kept: &[u32]) {
        let leverage = self.head_mut(Sizes::of(d, n_slots), head).leverage;
        for (to, &from) in kept.iter().enumerate() {
            leverage[to] = leverage[from as usize];
        }
    }

    /// Takes over what another layer of the same shape knows.
    pub(super) fn copy(&mut self, from: &Leverage) {
        self.n = from.n;
        self.heads.copy_from_slice(&from.heads);
    }

    /// Forgets everything.
    pub(super) fn clear(&mut self) {
        self.n = 0;
        self.heads.fill(0.0);
    }
}

/// The statistics of one KV head.
struct HeadStats<'h> {
    spreads: [Spread<'h>; 2],
    leverage: &'h mut [f32],
}

/// Mean and `C` of keys, or of values.
struct Spread<'h> {
    mean: &'h mut [f32],
    /// `[d][width]`, both triangles.
    c: &'h mut [f32],
}

impl<'h> HeadStats<'h> {
    fn new(all: &'h mut [f32], sizes: Sizes) -> HeadStats<'h> {
        let (keys, rest) = all.split_at_mut(sizes.spread());
        let (values, leverage) = rest.split_at_mut(sizes.spread());
        let spreads = [keys, values].map(|spread| {
            let (mean, c) = spread.split_at_mut(sizes.width);
            Spread { mean, c }
        });
        HeadStats { spreads, leverage }
    }
}

/// Positions whose angles stand in one table; the other has those of their multiples.
const NEAR: u32 = 64;

/// Cosines and sines of all positions: of a multiple of [`NEAR`] and of what is left, whose angles
/// add up.
pub(super) struct Angles {
    /// Pairs of elements that turn.
    half: usize,
    /// `[position][pair]`: cosine and sine.
    near: Vec<(f32, f32)>,
    far: Vec<(f32, f32)>,
}

impl Angles {
    fn n(half: usize, n_turns: usize) -> usize {
        half * (NEAR as usize + n_turns.div_ceil(NEAR as usize))
    }

    fn new(f: &Frequencies, n_turns: usize) -> Result<Angles> {
        let half = f.per_pair.len();
        let table = |n: usize, step: u32| {
            let mut table = Vec::new();
            table
                .try_reserve_exact(n * half)
                .map_err(|_| err!(OutOfMemory, "KV cache: no memory for {n} angles"))?;
            for i in 0..n {
                let pos = i as f64 * f64::from(step);
                table.extend(f.per_pair.iter().map(|frequency| {
                    let (sin, cos) = (pos * frequency).sin_cos();
                    (cos as f32, sin as f32)
                }));
            }
            Ok(table)
        };
        let far = table(n_turns.div_ceil(NEAR as usize), NEAR)?;
        Ok(Angles { half, near: table(NEAR as usize, 1)?, far })
    }

    /// The cosines and the negated sines of a position: what turns a key back by it.
    fn back(&self, turn: u32, cos: &mut [f32], sin: &mut [f32]) {
        let near = &self.near[(turn % NEAR) as usize * self.half..];
        let far = &self.far[(turn / NEAR) as usize * self.half..];
        let out = cos.iter_mut().zip(sin).take(self.half);
        for ((cos, sin), (&(ca, sa), &(cb, sb))) in out.zip(near.iter().zip(far)) {
            *cos = ca * cb - sa * sb;
            *sin = -(sa * cb + ca * sb);
        }
    }
}

/// What threads work in, and the angles of each rope.
pub(super) struct Learning {
    work: Vec<Mutex<Buffer<f32>>>,
    angles: Vec<Angles>,
}

impl Learning {
    pub(super) fn new(
        d: &Decoder,
        shape: &Shape,
        frequencies: &[Frequencies],
        memory: &Memory,
    ) -> Result<Learning> {
        let mut learning = Learning { work: Vec::new(), angles: Vec::new() };
        if !shape.leverage {
            return Ok(learning);
        }
        learning.work = heap::reserve(shape.n_threads, "threads")?;
        learning.angles = heap::reserve(frequencies.len(), "rotary embeddings")?;
        for _ in 0..shape.n_threads {
            learning.work.push(Mutex::new(memory.buffer(Sizes::new(d, shape).work())?));
        }
        for f in frequencies {
            learning.angles.push(Angles::new(f, shape.n_turns)?);
        }
        Ok(learning)
    }

    pub(super) fn bytes(d: &Decoder, shape: &Shape) -> u64 {
        if !shape.leverage {
            return 0;
        }
        let angles: usize = d.ropes.iter().map(|r| Angles::n(r.n_dims / 2, shape.n_turns)).sum();
        let work = (4 * Sizes::new(d, shape).work() as u64).next_multiple_of(64);
        shape.n_threads as u64 * work + (angles * size_of::<(f32, f32)>()) as u64
    }
}

/// What a thread learns of one KV head.
struct Learner<'l> {
    cpu: &'l Cpu,
    kv: &'l Kv,
    angles: Option<&'l Angles>,
    sizes: Sizes,
    head: usize,
    turns: &'l [u32],
}

/// Room for the cosines and sines of one position.
type Turning<'w> = (&'w mut [f32], &'w mut [f32]);

/// Which of its vectors.
#[derive(Clone, Copy, PartialEq)]
enum Of {
    Keys,
    Values,
}

impl Cpu {
    /// Counts the keys and values of the new slots of each head of a layer, and computes the leverage
    /// of these and of those that are stale.
    pub(super) fn learn_layer<'h>(
        &self,
        s: &Scratch,
        l: &CpuLayer,
        kv: &mut Kv,
        NewSlots { n, count, eps }: NewSlots,
        of_head: impl Fn(usize) -> SlotsOfHead<'h> + Sync,
    ) -> Result<()> {
        let Some(mut leverage) = kv.leverage.take() else { return Ok(()) };
        let sizes = Sizes::of(&self.decoder, kv.n_cells());
        let n_before = leverage.n;
        let kv_read = &*kv;
        let done = s.pool.rows(&mut leverage.heads, sizes.head(), 1, |worker, first, heads| {
            let mut work = lock(&s.learning.work[worker]);
            for (head, stats) in (first..).zip(heads.chunks_exact_mut(sizes.head())) {
                let SlotsOfHead { turns, stale } = of_head(head);
                let angles = l.rope.and_then(|rope| s.learning.angles.get(rope));
                let learner = Learner { cpu: self, kv: kv_read, angles, sizes, head, turns };
                let (turning, work) = work.split_at_mut(2 * sizes.width);
                let turning = &mut turning.split_at_mut(sizes.width);
                let new = turns.len() - n.min(turns.len())..turns.len();
                let stale = stale.start.min(new.start)..stale.end.min(new.start); // once is enough
                let HeadStats { spreads: [mut keys, mut values], leverage } =
                    HeadStats::new(stats, sizes);
                leverage[new.start..].fill(0.0); // there may be later ones
                if eps.is_some() {
                    leverage[stale.clone()].fill(0.0);
                }
                for (of, spread) in [(Of::Keys, &mut keys), (Of::Values, &mut values)] {
                    if count {
                        learner.count((of, n_before), spread, new.clone(), turning, work);
                    }
                    if eps.is_some_and(|eps| learner.factor(spread, eps, work)) {
                        for slots in [&stale, &new] {
                            let slots = slots.clone();
                            learner.score(of, spread, slots, leverage, turning, work);
                        }
                    }
                }
            }
        });
        leverage.n += if count { n as u64 } else { 0 };
        kv.leverage = Some(leverage);
        done
    }
}

impl Learner<'_> {
    /// The vector of a slot as it was before rotation.
    fn vector(&self, of: Of, slot: usize, (cos, sin): &mut Turning<'_>, out: &mut [f32]) {
        match (of, self.angles) {
            (Of::Values, _) => self.kv.value(self.head, slot as u32, out),
            (Of::Keys, None) => self.kv.key(self.head, slot as u32, out),
            (Of::Keys, Some(angles)) => {
                self.kv.key(self.head, slot as u32, out);
                angles.back(self.turns[slot], cos, sin);
                self.cpu.rotate(out, &cos[..angles.half], &sin[..angles.half]);
            }
        }
    }

    /// Counts the vectors of some slots, of which `n` have been counted before.
    fn count(
        &self,
        (of, n): (Of, u64),
        to: &mut Spread<'_>,
        slots: Range<usize>,
        turning: &mut Turning<'_>,
        work: &mut [f32],
    ) {
        let Sizes { d, width, .. } = self.sizes;
        let mut n = n as f32;
        for first in slots.clone().step_by(BLOCK - 1) {
            let (rows, columns) = work.split_at_mut(BLOCK * width);
            let mut found = 0;
            for slot in first..slots.end.min(first + BLOCK - 1) {
                let row = &mut rows[found * width..][..d];
                self.vector(of, slot, turning, row);
                found += usize::from(row.iter().all(|x| x.is_finite()));
            }
            if found == 0 {
                continue;
            }
            let (vectors, last) = rows.split_at_mut(found * width);
            let total = n + found as f32;
            let apart = (n * found as f32 / total).sqrt();
            // Row by row, each sum in the order of the vectors.
            let last = &mut last[..d];
            last.copy_from_slice(&vectors[..d]);
            for row in vectors.chunks_exact(width).skip(1) {
                last.iter_mut().zip(row).for_each(|(sum, x)| *sum += x);
            }
            last.iter_mut().for_each(|sum| *sum /= found as f32);
            for row in vectors.chunks_exact_mut(width) {
                row.iter_mut().zip(&*last).for_each(|(x, mean)| *x -= mean);
            }
            for (last, mean) in last.iter_mut().zip(&mut *to.mean) {
                let delta = *last - *mean;
                *last = delta * apart;
                *mean += delta * (found as f32 / total);
            }
            n = total;
            for row in rows.chunks_exact_mut(width).take(found + 1) {
                row[d..].fill(0.0);
            }
            let columns = &mut columns[..d * BLOCK];
            for (i, column) in columns.chunks_exact_mut(BLOCK).enumerate() {
                for (x, row) in column.iter_mut().zip(rows.chunks_exact(width)) {
                    *x = row[i];
                }
            }
            let (row, n_groups) = (width, width / GROUP);
            let panel = Panel { data: &*rows, n: found + 1, row, n_groups, group: GROUP };
            self.cpu.kernels.panel_f32(d, (columns, BLOCK), &panel, (&mut *to.c, width), false);
        }
    }

    /// Leaves in `work` the inverse of the transposed Cholesky factor of `C + r I`, row by row; false
    /// if all vectors were alike. Single precision will do: with `eps` a hundredth, the greatest
    /// eigenvalue is at most a hundred times `d` times the least.
    fn factor(&self, of: &Spread<'_>, eps: f32, work: &mut [f32]) -> bool {
        let Sizes { d, width, .. } = self.sizes;
        let trace: f32 = (0..d).map(|i| of.c[i * width + i]).sum();
        let ridge = eps * trace / d as f32;
        if !(ridge > 0.0 && ridge.is_finite()) {
            return false;
        }
        let (inverse, u) = work.split_at_mut(d * width);
        let u = &mut u[..d * width];
        u.copy_from_slice(of.c);
        let mut rest = &mut *u;
        for i in 0..d {
            let (row, below) = rest.split_at_mut(width);
            let row = &mut row[i..d];
            // Without rounding, no pivot is smaller than the ridge.
            row[0] = (row[0] + ridge).max(ridge).sqrt();
            let scale = 1.0 / row[0];
            row[1..].iter_mut().for_each(|u| *u *= scale);
            for (j, next) in below.chunks_exact_mut(width).enumerate() {
                let by = row[j + 1];
                for (next, u) in next[i + 1 + j..d].iter_mut().zip(&row[j + 1..]) {
                    *next -= by * u;
                }
            }
            rest = below;
        }
        for i in 0..d {
            let (done, row) = inverse.split_at_mut(i * width);
            let row = &mut row[..width];
            row.fill(0.0);
            row[i] = 1.0;
            for (j, done) in done.chunks_exact(width).enumerate() {
                let by = u[j * width + i];
                for (x, y) in row[..=j].iter_mut().zip(done) {
                    *x -= by * y;
                }
            }
            let scale = 1.0 / u[i * width + i];
            row[..=i].iter_mut().for_each(|x| *x *= scale);
        }
        true
    }

    /// Adds to each slot the leverage of its vector, after [`Learner::factor`].
    fn score(
        &self,
        of: Of,
        spread: &Spread<'_>,
        slots: Range<usize>,
        leverage: &mut [f32],
        turning: &mut Turning<'_>,
        work: &mut [f32],
    ) {
        let Sizes { d, width, .. } = self.sizes;
        let (inverse, rest) = work.split_at_mut(d * width);
        let (x, rest) = rest.split_at_mut(d * TILE);
        let y = &mut rest[..d * TILE];
        for first in slots.clone().step_by(TILE) {
            let n = TILE.min(slots.end - first);
            let n_groups = n.div_ceil(GROUP);
            for i in 0..n {
                let vector = &mut y[..d]; // free until the product
                self.vector(of, first + i, turning, vector);
                let column = &mut x[i / GROUP * d * GROUP + i % GROUP..];
                let centred = vector.iter().zip(&*spread.mean).map(|(x, mean)| x - mean);
                column.iter_mut().step_by(GROUP).zip(centred).for_each(|(x, to)| *x = to);
            }
            let panel = Panel { data: &*x, n: d, row: GROUP, n_groups, group: d * GROUP };
            self.cpu.kernels.panel_f32(d, (inverse, width), &panel, (y, TILE), true);
            let mut sums = [0.0; TILE];
            for y in y.as_chunks::<TILE>().0 {
                sums.iter_mut().zip(y).for_each(|(sum, y)| *sum += y * y);
            }
            let leverage = leverage[first..first + n].iter_mut();
            leverage.zip(sums).for_each(|(leverage, sum)| *leverage += sum);
        }
    }
}
