//! Keys or values of one layer in codes of 3 to 5 bits.
//!
//! How a head's bytes stand, and what they mean, is in [`packed_cells`](super::packed_cells).
//!
//! The tokens at the first positions, which all others attend to, are kept in half precision beside:
//! their scale is 0, so that the kernels for codes add nothing for them.
//! ```text
//! keys     [kv head][element][sink], and some padding: the panels that are read are 16 wide
//! values   [kv head][sink][element, and zeros up to a multiple of 16]
//! ```

use std::ops::Range;

use crate::base::aligned::Buffer;
use crate::base::error::Result;
use crate::base::memory::Memory;
use crate::base::pool::Pool;
use crate::kernel::{CodeBits, GROUP, KV_BLOCK, KV_QUAD, Kernels, Keys8, PACKED, Panel, Values8};
use crate::quant::f32_of_half;

use super::cache_q8::n_blocks;
use super::cache_store::{Moves, Targets, each_head, value_width};
use super::codec;
use super::packed_cells::{Form, N_SINKS, PART, Side};
use super::tiles::TILE;

/// The cell of a sink that is not held.
const NONE: u32 = u32::MAX;
/// Quads of a run of cells of a tile, which may begin within one.
const MOST_QUADS: usize = TILE / KV_QUAD + 1;

impl Form {
    /// Halves of a head's sinks.
    fn sink_len(&self) -> usize {
        match self.side {
            _ if self.n_sinks == 0 => 0,
            Side::Keys => N_SINKS * self.layout.head_dim + GROUP - N_SINKS,
            Side::Values => N_SINKS * value_width(self.layout.head_dim),
        }
    }

    /// Element `i` of a sink among those of its head.
    fn sink_at(&self, sink: usize, i: usize) -> usize {
        match self.side {
            Side::Keys => i * N_SINKS + sink,
            Side::Values => sink * value_width(self.layout.head_dim) + i,
        }
    }
}

/// Keys or values of one layer.
pub(super) struct Packed {
    form: Form,
    kernels: &'static Kernels,
    bytes: Buffer<u8>,
    sinks: Buffer<u16>,
    /// The cell of each head's sinks, or [`NONE`].
    cells: Buffer<u32>,
}

/// One head's.
#[derive(Clone, Copy)]
pub(super) struct HeadPacked<'a> {
    form: Form,
    kernels: &'static Kernels,
    bytes: &'a [u8],
    sinks: &'a [u16],
    cells: &'a [u32],
}

impl Packed {
    pub(super) fn new(form: Form, kernels: &'static Kernels, memory: &Memory) -> Result<Packed> {
        let n = form.layout.n_head;
        let mut cells: Buffer<u32> = memory.buffer(n * form.n_sinks)?;
        cells.fill(NONE);
        Ok(Packed {
            form,
            kernels,
            bytes: memory.buffer(n * form.head_bytes())?,
            sinks: memory.buffer(n * form.sink_len())?,
            cells,
        })
    }

    pub(super) fn bytes(form: Form) -> u64 {
        let line = |each: usize| ((form.layout.n_head * each) as u64).next_multiple_of(64);
        line(form.head_bytes()) + line(2 * form.sink_len()) + line(4 * form.n_sinks)
    }

    pub(super) fn head(&self, head: usize) -> HeadPacked<'_> {
        let (bytes, sinks) = (self.form.head_bytes(), self.form.sink_len());
        HeadPacked {
            form: self.form,
            kernels: self.kernels,
            bytes: &self.bytes[head * bytes..][..bytes],
            sinks: &self.sinks[head * sinks..][..sinks],
            cells: &self.cells[head * self.form.n_sinks..][..self.form.n_sinks],
        }
    }

    /// Takes a row each; the first stands at position `first_pos`.
    pub(super) fn fill(
        &mut self,
        pool: Option<&Pool>,
        to: Targets<'_>,
        first_pos: u32,
        rows: &[f32],
    ) -> Result<()> {
        let (form, kernels) = (self.form, self.kernels);
        for head in 0..form.layout.n_head {
            for (t, cell, row) in to.of_head(&form.layout, rows, head) {
                let pos = first_pos as usize + t;
                self.free(head, cell);
                if pos < form.n_sinks {
                    self.set_sink(head, pos, cell, row);
                }
            }
        }
        each_head(pool, &mut self.bytes, form.head_bytes(), |head, bytes| {
            for (t, cell, row) in to.of_head(&form.layout, rows, head) {
                match first_pos as usize + t < form.n_sinks {
                    true => form.clear(bytes, cell as usize),
                    false => form.encode(kernels, bytes, cell as usize, row),
                }
            }
        })
    }

    /// Overwrites what a head's cell holds.
    pub(super) fn set(&mut self, head: usize, cell: u32, row: &[f32]) {
        if let Some(sink) = self.head(head).sink(cell) {
            return self.set_sink(head, sink, cell, row);
        }
        let len = self.form.head_bytes();
        let bytes = &mut self.bytes[head * len..][..len];
        self.form.encode(self.kernels, bytes, cell as usize, row);
    }

    /// Forgets that a sink stands in a cell.
    fn free(&mut self, head: usize, cell: u32) {
        for held in self.sinks_of(head) {
            if *held == cell {
                *held = NONE;
            }
        }
    }

    fn set_sink(&mut self, head: usize, sink: usize, cell: u32, row: &[f32]) {
        let form = self.form;
        self.cells[head * form.n_sinks + sink] = cell;
        let halves = &mut self.sinks[head * form.sink_len()..][..form.sink_len()];
        for (i, part) in row.chunks(PART).enumerate() {
            let (mut turned, mut rounded) = ([0.0; PART], [0; PART]);
            let (turned, rounded) = (&mut turned[..part.len()], &mut rounded[..part.len()]);
            turned.copy_from_slice(part);
            form.rotate(self.kernels, turned);
            self.kernels.to_f16(turned, rounded);
            for (j, half) in rounded.iter().enumerate() {
                halves[form.sink_at(sink, i * PART + j)] = *half;
            }
        }
    }

    /// The cells of a head's sinks.
    fn sinks_of(&mut self, head: usize) -> &mut [u32] {
        let n = self.form.n_sinks;
        &mut self.cells[head * n..][..n]
    }

    /// Moves what a head's cells hold. The first positions never leave the first store.
    pub(super) fn compact<'l>(
        &mut self,
        later: &dyn Fn(usize) -> Option<&'l Packed>,
        head: usize,
        moves: &Moves<'_>,
    ) {
        let form = self.form;
        for held in self.sinks_of(head) {
            let to = match moves.from.binary_search(held) {
                _ if (*held as usize) < moves.to => *held,
                Ok(i) => (moves.to + i) as u32,
                Err(_) => NONE,
            };
            *held = to;
        }
        let later = |store| later(store).map_or(&[][..], |packed: &Packed| packed.head(head).bytes);
        let bytes = &mut self.bytes[head * form.head_bytes()..][..form.head_bytes()];
        form.compact(bytes, &later, moves);
    }

    /// Takes over all that another store's hold.
    pub(super) fn copy_from(&mut self, from: &Packed) {
        self.bytes.copy_from_slice(&from.bytes);
        // Only a first store has sinks, and only first ones are copied to it.
        if self.cells.len() == from.cells.len() {
            self.sinks.copy_from_slice(&from.sinks);
            self.cells.copy_from_slice(&from.cells);
        }
    }
}

/// What snapshots hold of a cell: of a sink its elements; of others block by block the scale, and the
/// codes as they are packed, without those of other cells between them.
impl Packed {
    /// Bytes of the row of the token at a position.
    pub(super) fn row_bytes(&self, pos: u32) -> usize {
        match (pos as usize) < N_SINKS {
            true => 2 * self.form.layout.head_dim,
            false => n_blocks(self.form.layout.head_dim) * self.form.block_bytes(),
        }
    }

    /// Overwrites a head's cell, whose token stands at `pos`, with the front of what `rows` has left.
    pub(super) fn import(&mut self, head: usize, (cell, pos): (u32, u32), rows: &mut &[u8]) {
        let form = self.form;
        let Some(row) = rows.split_off(..self.row_bytes(pos)) else { return };
        self.free(head, cell);
        let bytes = &mut self.bytes[head * form.head_bytes()..][..form.head_bytes()];
        let sink = pos as usize;
        if sink < form.n_sinks {
            form.clear(bytes, cell as usize);
            self.cells[head * form.n_sinks + sink] = cell;
            let halves = &mut self.sinks[head * form.sink_len()..][..form.sink_len()];
            for (i, half) in row.as_chunks().0.iter().enumerate() {
                halves[form.sink_at(sink, i)] = u16::from_le_bytes(*half);
            }
            return;
        }
        for (b, block) in row.chunks_exact(form.block_bytes()).enumerate() {
            form.import(bytes, cell as usize, b, block);
        }
    }
}

impl<'a> HeadPacked<'a> {
    /// Writes what a cell holds.
    pub(super) fn export(&self, cell: u32, out: &mut [u8]) {
        let form = &self.form;
        if let Some(sink) = self.sink(cell) {
            for (i, half) in out.as_chunks_mut().0.iter_mut().enumerate() {
                *half = self.sinks[form.sink_at(sink, i)].to_le_bytes();
            }
            return;
        }
        for (b, block) in out.chunks_exact_mut(form.block_bytes()).enumerate() {
            form.export(self.bytes, cell as usize, b, block);
        }
    }

    /// The span of the transform, if there is one.
    pub(super) fn span(&self) -> Option<usize> {
        self.form.span()
    }

    /// Which sink stands in `cell`.
    pub(super) fn sink(&self, cell: u32) -> Option<usize> {
        self.cells.iter().position(|held| *held == cell)
    }

    /// All sinks: of keys element by sink, of which the first [`N_SINKS`] columns count.
    pub(super) fn sink_keys(&self) -> Panel<'a, u16> {
        let n = self.form.layout.head_dim;
        Panel { data: self.sinks, n, row: N_SINKS, n_groups: 1, group: GROUP }
    }

    /// Some sinks: of values sink by element.
    pub(super) fn sink_values(&self, sinks: Range<usize>) -> Panel<'a, u16> {
        let row = value_width(self.form.layout.head_dim);
        let data = &self.sinks[sinks.start * row..];
        Panel { data, n: sinks.len(), row, n_groups: row / GROUP, group: GROUP }
    }

    /// The key or value in `cell`.
    pub(super) fn row(&self, cell: u32, out: &mut [f32]) {
        let form = &self.form;
        match self.sink(cell) {
            Some(sink) => {
                for (i, x) in out.iter_mut().enumerate() {
                    *x = f32_of_half(self.sinks[form.sink_at(sink, i)]);
                }
            }
            None => {
                for (b, out) in out.chunks_mut(KV_BLOCK).enumerate() {
                    let (d, codes) = form.get(self.bytes, cell as usize, b);
                    let d = f32_of_half(d);
                    for (x, code) in out.iter_mut().zip(codes) {
                        *x = d * codec::level(form.bits, code);
                    }
                }
            }
        }
        form.rotate(self.kernels, out);
    }

    /// Keys of `n` blocks of 16 cells from block `first` on, in 8 bits. Takes their codes and scales,
    /// `stride` scales for each block of elements, to lay them out.
    pub(super) fn keys<'s>(
        &self,
        (first, n): (usize, usize),
        codes: &'s mut [i8],
        (scales, stride): (&'s mut [u16], usize),
    ) -> Keys8<'s> {
        let n_quads = self.form.layout.head_dim.div_ceil(KV_QUAD);
        let codes = &mut codes[..n * n_quads * PACKED];
        let runs = first * n_quads..(first + n) * n_quads;
        self.unpack(runs, &[[codec::zero(self.form.bits); KV_QUAD]], codes);
        // The last block of cells may not be whole.
        let len = (n * GROUP).min(self.form.layout.n_cells - first * GROUP);
        for (b, scales) in scales.chunks_mut(stride).enumerate() {
            self.raw_scales(b, first * GROUP, &mut scales[..len]);
        }
        Keys8 { n_groups: n, n_quads, codes, scales, scale_stride: stride }
    }

    /// Block `b` of the values of `n` quads of cells from quad `first` on, in 8 bits.
    pub(super) fn values<'s>(
        &self,
        b: usize,
        (first, n): (usize, usize),
        codes: &'s mut [i8],
    ) -> Values8<'s> {
        let n_groups = self.form.groups(b);
        let codes = &mut codes[..n * n_groups * PACKED];
        let mut zeros = [[codec::zero(self.form.bits); KV_QUAD]; MOST_QUADS];
        if self.form.bits != CodeBits::Three {
            let cells = first * KV_QUAD..((first + n) * KV_QUAD).min(self.form.layout.n_cells);
            let at = self.form.scale_at(b, cells.start);
            let signs = self.bytes[at..at + 2 * cells.len()].as_chunks::<2>().0;
            for (zero, sign) in zeros.as_flattened_mut().iter_mut().zip(signs) {
                *zero -= sign[1] >> 7;
            }
        }
        let run = self.form.value_run(b, first);
        self.unpack(run..run + n * n_groups, &zeros[..n], codes);
        Values8 { n_quads: n, n_groups, codes }
    }

    fn unpack(&self, runs: Range<usize>, zeros: &[[u8; KV_QUAD]], codes: &mut [i8]) {
        let bits = self.form.bits;
        let packed = &self.bytes[runs.start * bits.bytes()..runs.end * bits.bytes()];
        self.kernels.unpack(bits, packed, zeros, codes);
    }

    /// The scales of block `b` of some cells of values, from cell `first` on.
    pub(super) fn scales(&self, b: usize, first: usize, out: &mut [u16]) {
        self.raw_scales(b, first, out);
        out.iter_mut().for_each(|d| *d &= 0x7fff);
    }

    fn raw_scales(&self, b: usize, first: usize, out: &mut [u16]) {
        let at = self.form.scale_at(b, first);
        let scales = self.bytes[at..at + 2 * out.len()].as_chunks::<2>().0;
        for (d, bytes) in out.iter_mut().zip(scales) {
            *d = u16::from_le_bytes(*bytes);
        }
    }
}
