//! Attention over keys or values in 8 bits.
//!
//! Queries are rounded to 8 bits once for all tiles. The powers of a tile, each times the scale of its
//! cell's values, are rounded to 14 bits: of a row together, for each block of 32 elements. That
//! depends on what the row's token sees of the tile alone; and sums of integers are the same in any
//! order, so that all rows of a block can be mixed at once, with weights of 0 where they see nothing.

use std::ops::Range;

use crate::backend::{Decoder, KvType, Shape};
use crate::base::aligned::Buffer;
use crate::base::error::Result;
use crate::base::memory::Memory;
use crate::kernel::{KV_BLOCK, KV_QUAD, Kernels, Queries8};

use super::Cpu;
use super::attention::{Part, Sizes, Work};
use super::cache_q8::{HeadCodes, n_blocks};
use super::tiles::{Block, Cells, TILE, Tile};

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
}

/// Elements of the buffers, in their order.
struct Lengths([usize; 8]);

impl Lengths {
    fn new(d: &Decoder, shape: &Shape) -> Lengths {
        let sizes = Sizes::new(d);
        let (rows, blocks) = (sizes.rows(), n_blocks(d.head_dim));
        let queries = if shape.k_type == KvType::Q8_0 { rows * blocks } else { 0 };
        let of_rows = if shape.v_type == KvType::Q8_0 { rows } else { 0 };
        Lengths([
            queries * KV_BLOCK,
            queries,
            queries * 2,
            if of_rows == 0 { 0 } else { blocks * TILE },
            of_rows * blocks * 2 * TILE,
            of_rows * blocks,
            of_rows * 2 * SHIFTED,
            of_rows * sizes.width,
        ])
    }
}

impl Eights {
    /// Bytes of a thread's buffers; each begins on a cache line.
    pub(super) fn bytes(d: &Decoder, shape: &Shape) -> u64 {
        let lengths = Lengths::new(d, shape).0.into_iter().zip([1, 4, 4, 2, 1, 4, 1, 4]);
        lengths.map(|(n, size)| (n * size).next_multiple_of(64) as u64).sum()
    }

    pub(super) fn new(d: &Decoder, shape: &Shape, memory: &Memory) -> Result<Eights> {
        let Lengths([codes, scales, sums, of_values, weights, worth, shifted, mixed]) =
            Lengths::new(d, shape);
        Ok(Eights {
            codes: memory.buffer(codes)?,
            scales: memory.buffer(scales)?,
            sums: memory.buffer(sums)?,
            of_values: memory.buffer(of_values)?,
            weights: memory.buffer(weights)?,
            worth: memory.buffer(worth)?,
            shifted: memory.buffer(shifted)?,
            mixed: memory.buffer(mixed)?,
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
    pub(super) fn scores_q8(
        &self,
        k: &HeadCodes<'_>,
        cells: &Cells<'_>,
        wanted: Range<usize>,
        n: usize,
        work: &mut Work<'_>,
    ) {
        let (blocks, eights) = (n_blocks(self.decoder.head_dim), &*work.eights);
        let q = Queries8 {
            n,
            n_blocks: blocks,
            codes: &eights.codes[..n * blocks * KV_BLOCK],
            scales: &eights.scales[..n * blocks],
            sums: &eights.sums[..2 * n * blocks],
        };
        cells.each_block(wanted, n, work.scores, work.block, |first, n_blocks, to| {
            self.kernels.scores_q8(&q, &k.keys(first, n_blocks), to);
        });
    }

    /// Mixes values for all rows of a block.
    pub(super) fn mix_all_q8(
        &self,
        v: &HeadCodes<'_>,
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
                d[at..at + len].copy_from_slice(v.scales(b, first, len));
            });
            for row in 0..n {
                let (start, end) = block.in_tile(row / n_group, tile);
                let planes = &mut eights.weights[(b * n + row) * 2 * TILE..][..2 * TILE];
                planes.fill(0);
                let (high, low) = planes.split_at_mut(TILE);
                let powers = &work.scores[row * TILE..][start..end];
                let (high, low) = (&mut high[start..end], &mut low[start..end]);
                let worth = self.kernels.weigh_q8(powers, &d[start..end], high, low);
                eights.worth[b * n + row] = worth;
            }
        }

        let (weights, shifted) = (&eights.weights, &mut eights.shifted);
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
                let values = v.values(b, quad, n_quads);
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
    }
}
