//! Attention over keys or values in codes.
//!
//! Those of less than 8 bits are unpacked to 8, the cells of a tile once for all rows that see them.
//!
//! Queries are rounded to 8 bits once for all tiles. The powers of a tile, each times the scale of its
//! cell's values, are rounded to 14 bits: of a row together, for each block of 32 elements. That
//! depends on what the row's token sees of the tile alone; and sums of integers are the same in any
//! order, so that all rows of a block can be mixed at once, with weights of 0 where they see nothing.

use std::ops::Range;

use crate::backend::{Decoder, Shape};
use crate::base::aligned::Buffer;
use crate::base::error::Result;
use crate::base::memory::Memory;
use crate::kernel::{GROUP, KV_BLOCK, KV_QUAD, Kernels, PACKED, Queries8};

use super::Cpu;
use super::attention::{Part, Sizes, Work};
use super::cache_packed::HeadPacked;
use super::cache_q8::n_blocks;
use super::cache_store::Coded;
use super::packed_cells::{N_SINKS, Side};
use super::recent::{HeadRecent, Positions};
use super::tiles::{Block, Cells, Recently, TILE, Tile};

/// Cells of a run of a tile that does not begin with a whole quad.
const SHIFTED: usize = TILE + KV_QUAD;

/// What a thread works in beside its floats.
pub(super) struct Eights {
    /// Queries, as [`Queries8`] has them.
    codes: Buffer<i8>,
    scales: Buffer<f32>,
    sums: Buffer<i32>,
    /// Scales of a tile's values, `[block][TILE]`.
    of_values: Buffer<u16>,
    /// Weights in two planes each, `[block][row][2][TILE]`, and what a code of 1 is worth.
    weights: Buffer<u8>,
    worth: Buffer<f32>,
    /// Weights of a run and block, moved to where its quads begin: `[row][2][SHIFTED]`.
    shifted: Buffer<u8>,
    /// `[row][width]`
    mixed: Buffer<i32>,
    /// Codes that are unpacked: keys of a tile, or a block of the values of a run of its cells.
    unpacked: Buffer<i8>,
    /// Scales of a tile's keys, `[block][TILE]`.
    of_keys: Buffer<u16>,
}

/// Elements of the buffers, in their order.
struct Lengths([usize; 10]);

impl Lengths {
    fn new(d: &Decoder, shape: &Shape) -> Lengths {
        let sizes = Sizes::new(d);
        let (rows, blocks) = (sizes.rows(), n_blocks(d.head_dim));
        let queries = if shape.k_type.is_codes() { rows * blocks } else { 0 };
        let of_rows = if shape.v_type.is_codes() { rows } else { 0 };
        let keys = if shape.k_type.is_packed() { TILE / GROUP } else { 0 };
        let values = if shape.v_type.is_packed() { SHIFTED / KV_QUAD } else { 0 };
        let key_codes = keys * d.head_dim.div_ceil(KV_QUAD) * PACKED;
        Lengths([
            queries * KV_BLOCK,
            queries,
            queries * 2,
            if of_rows == 0 { 0 } else { blocks * TILE },
            of_rows * blocks * 2 * TILE,
            of_rows * blocks,
            of_rows * 2 * SHIFTED,
            of_rows * sizes.width,
            key_codes.max(values * KV_BLOCK / GROUP * PACKED),
            keys * GROUP * blocks,
        ])
    }
}

impl Eights {
    /// Bytes of a thread's buffers; each begins on a cache line.
    pub(super) fn bytes(d: &Decoder, shape: &Shape) -> u64 {
        let lengths = Lengths::new(d, shape).0.into_iter().zip([1, 4, 4, 2, 1, 4, 1, 4, 1, 2]);
        lengths.map(|(n, size)| (n * size).next_multiple_of(64) as u64).sum()
    }

    pub(super) fn new(d: &Decoder, shape: &Shape, memory: &Memory) -> Result<Eights> {
        let Lengths(
            [codes, scales, sums, of_values, weights, worth, shifted, mixed, unpacked, of_keys],
        ) = Lengths::new(d, shape);
        let [codes, unpacked] = memory.buffers([codes, unpacked])?;
        let [scales, worth] = memory.buffers([scales, worth])?;
        let [sums, mixed] = memory.buffers([sums, mixed])?;
        let [of_values, of_keys] = memory.buffers([of_values, of_keys])?;
        let [weights, shifted] = memory.buffers([weights, shifted])?;
        Ok(Eights {
            codes,
            scales,
            sums,
            of_values,
            weights,
            worth,
            shifted,
            mixed,
            unpacked,
            of_keys,
        })
    }

    /// Takes queries in whole blocks.
    pub(super) fn quantise(&mut self, kernels: &Kernels, q: &[f32]) {
        let blocks = q.len() / KV_BLOCK;
        let (codes, scales) = (&mut self.codes[..q.len()], &mut self.scales[..blocks]);
        kernels.quantize(q, codes, scales, &mut self.sums[..2 * blocks]);
    }
}

impl Cpu {
    /// Scores of the first `n` rows for the cells `wanted` of a tile.
    pub(super) fn scores_coded(
        &self,
        k: &Coded<'_>,
        (cells, tile): (&Cells<'_>, usize),
        wanted: Range<usize>,
        n: usize,
        work: &mut Work<'_>,
    ) {
        let (blocks, eights) = (n_blocks(self.decoder.head_dim), &mut *work.eights);
        let q = Queries8 {
            n,
            n_blocks: blocks,
            codes: &eights.codes[..n * blocks * KV_BLOCK],
            scales: &eights.scales[..n * blocks],
            sums: &eights.sums[..2 * n * blocks],
        };
        let (unpacked, of_keys) = (&mut eights.unpacked, &mut eights.of_keys);
        let (scores, spare) = (&mut *work.scores, &mut *work.block);
        cells.each_block(wanted.clone(), n, scores, spare, |first, n_blocks, to| {
            let keys = match k {
                Coded::Bytes(k) => k.keys(first, n_blocks),
                Coded::Packed(k) => k.keys((first, n_blocks), unpacked, (of_keys, TILE)),
            };
            self.kernels.scores_q8(&q, &keys, to);
        });
        if let Coded::Packed(k) = k {
            self.scores_of_sinks(k, sinks(k, cells, tile, wanted), n, work);
        }
    }

    /// Scores of the first `n` rows for sinks: which, and at which places of the tile.
    fn scores_of_sinks(
        &self,
        k: &HeadPacked<'_>,
        places: [Option<usize>; N_SINKS],
        n: usize,
        work: &mut Work<'_>,
    ) {
        if places == [None; N_SINKS] {
            return;
        }
        let query = Sizes::new(&self.decoder).query;
        let of_sinks = (&mut *work.block, GROUP);
        self.kernels.panel_f16(n, (work.q, query), &k.sink_keys(), of_sinks, true);
        let rows = work.scores.chunks_exact_mut(TILE).zip(work.block.chunks_exact(GROUP));
        for (scores, of_sinks) in rows.take(n) {
            for (place, sink) in places.into_iter().enumerate() {
                if let Some(sink) = sink {
                    scores[place] = of_sinks[sink];
                }
            }
        }
    }

    /// Scores of the rows of a block for what they read of a tile in half precision.
    pub(super) fn scores_of_recent(
        &self,
        recents: &HeadRecent<'_>,
        block: &Block,
        tile: usize,
        work: &mut Work<'_>,
    ) {
        let Sizes { n_group, query, .. } = Sizes::new(&self.decoder);
        let n = block.n * n_group;
        let recent = |i: usize| block.recent(Side::Keys, i, tile);
        let span = (0..block.n).filter_map(recent).map(|r| (r.pos, r.pos + r.n as u32));
        let Some(span) = span.reduce(|a, b| (a.0.min(b.0), a.1.max(b.1))) else { return };
        recents.each_group(span, |keys, positions| {
            let of_group = (&mut *work.block, GROUP);
            self.kernels.panel_f16(n, (work.q, query), &keys, of_group, true);
            let rows = work.scores.chunks_exact_mut(TILE).zip(work.block.chunks_exact(GROUP));
            for (row, (scores, sums)) in rows.take(n).enumerate() {
                let Some(Recently { start, n, pos: first }) = recent(row / n_group) else {
                    continue;
                };
                for (i, sum) in sums.iter().enumerate() {
                    let pos = match positions {
                        Positions::From(from) => from + i as u32,
                        Positions::Listed(listed) => listed[i],
                    };
                    let at = pos.wrapping_sub(first) as usize;
                    if at < n {
                        scores[start + at] = *sum;
                    }
                }
            }
        });
    }

    /// Mixes values for all rows of a block.
    pub(super) fn mix_all_coded(
        &self,
        (v, recents): (&Coded<'_>, Option<&HeadRecent<'_>>),
        Tile { cells, seen: all }: &Tile<'_>,
        block: &Block,
        tile: usize,
        work: &mut Work<'_>,
        part: &mut Part<'_>,
    ) {
        let Sizes { n_group, head_dim, width, .. } = Sizes::new(&self.decoder);
        let (n, blocks, eights) = (block.n * n_group, n_blocks(head_dim), &mut *work.eights);
        for (b, d) in eights.of_values.chunks_exact_mut(TILE).enumerate() {
            cells.each_run(all.clone(), |at, first, len| {
                let d = &mut d[at..at + len];
                match v {
                    Coded::Bytes(v) => d.copy_from_slice(v.scales(b, first, len)),
                    Coded::Packed(v) => v.scales(b, first, d),
                }
            });
            for i in 0..block.n {
                let (start, end) = block.in_tile(i, tile);
                // What is read in half precision weighs nothing here.
                let recent = block.recent(Side::Values, i, tile);
                let end = recent.map_or(end, |recent| recent.start);
                let row = b * n + i * n_group;
                let planes = &mut eights.weights[row * 2 * TILE..][..n_group * 2 * TILE];
                for plane in planes.chunks_exact_mut(TILE) {
                    plane[..start].fill(0);
                    plane[end..].fill(0);
                }
                let powers = (&work.scores[i * n_group * TILE + start..], TILE);
                let worth = &mut eights.worth[row..row + n_group];
                let planes = (&mut planes[start..], TILE);
                self.kernels.weigh_q8(powers, &d[start..end], planes, worth);
            }
        }

        let (weights, shifted) = (&eights.weights, &mut eights.shifted);
        let unpacked = &mut eights.unpacked;
        let mixed = &mut eights.mixed[..n * width];
        mixed.fill(0);
        cells.each_run(all.clone(), |at, first, len| {
            let (quad, lane) = (first / KV_QUAD, first % KV_QUAD);
            let n_quads = (lane + len).div_ceil(KV_QUAD);
            for b in 0..blocks {
                let weights = &weights[b * n * 2 * TILE..][..n * 2 * TILE];
                // Beside what is seen there are zeros: a single run may stay where it is.
                let weights = match len == all.len() && at % KV_QUAD == lane {
                    true => (&weights[at - lane..], TILE),
                    false => {
                        let planes = weights.chunks_exact(TILE);
                        for (to, plane) in shifted.chunks_exact_mut(SHIFTED).zip(planes) {
                            to[..n_quads * KV_QUAD].fill(0);
                            to[lane..lane + len].copy_from_slice(&plane[at..at + len]);
                        }
                        (&shifted[..], SHIFTED)
                    }
                };
                let sums = &mut mixed[b * KV_BLOCK..];
                let values = match v {
                    Coded::Bytes(v) => v.values(b, quad, n_quads),
                    Coded::Packed(v) => v.values(b, (quad, n_quads), unpacked),
                };
                self.kernels.mix_q8(n, weights, &values, (sums, width));
            }
        });

        let rows = part.o.chunks_exact_mut(width).zip(mixed.chunks_exact(width)).enumerate();
        for (row, (o, mixed)) in rows {
            let blocks = o.chunks_mut(KV_BLOCK).zip(mixed.chunks(KV_BLOCK));
            for (b, (o, mixed)) in blocks.enumerate() {
                let worth = eights.worth[b * n + row];
                for (o, sum) in o.iter_mut().zip(mixed) {
                    *o = *sum as f32 * worth;
                }
            }
        }
        for i in 0..block.n {
            let (start, end) = block.in_tile(i, tile);
            let rows = i * n_group..(i + 1) * n_group;
            let recent = block.recent(Side::Values, i, tile);
            let end = recent.map_or(end, |recent| recent.start);
            if let Coded::Packed(v) = v {
                let sinks = sinks(v, cells, tile, start..end);
                self.mix_sinks(v, sinks, rows.clone(), work, part);
            }
            if let (Some(Recently { start, n, pos }), Some(recents)) = (recent, recents) {
                let mut weights = &work.scores[rows.start * TILE + start..];
                let o = &mut part.o[rows.start * width..];
                recents.each_run((pos, pos + n as u32), |values| {
                    let o = (&mut *o, width);
                    self.kernels.panel_f16(n_group, (weights, TILE), &values, o, false);
                    weights = &weights[values.n..];
                });
            }
        }
    }

    /// Adds the values of sinks, at which places of the tile, to some rows that see them.
    fn mix_sinks(
        &self,
        v: &HeadPacked<'_>,
        places: [Option<usize>; N_SINKS],
        rows: Range<usize>,
        work: &Work<'_>,
        part: &mut Part<'_>,
    ) {
        let width = Sizes::new(&self.decoder).width;
        let mut done = 0;
        while let Some(first) = (done..N_SINKS).find(|&place| places[place].is_some()) {
            // Neighbours as a rule, and then mixed at once.
            let sink = places[first].unwrap_or(0);
            let is_next = |i: &usize| places.get(first + i) == Some(&Some(sink + i));
            let len = (1..N_SINKS).take_while(is_next).count() + 1;
            let weights = &work.scores[rows.start * TILE + first..];
            let o = &mut part.o[rows.start * width..];
            let values = v.sink_values(sink..sink + len);
            self.kernels.panel_f16(rows.len(), (weights, TILE), &values, (o, width), false);
            done = first + len;
        }
    }
}

/// Which sinks stand at the first places of a tile, of those that are wanted. They are at the first
/// positions, so at the first places of the first tile if they are held.
fn sinks(
    head: &HeadPacked<'_>,
    cells: &Cells<'_>,
    tile: usize,
    wanted: Range<usize>,
) -> [Option<usize>; N_SINKS] {
    let is_wanted = |place| tile == 0 && wanted.contains(&place);
    std::array::from_fn(|place| match is_wanted(place) {
        true => head.sink(cells.at(place)),
        false => None,
    })
}
