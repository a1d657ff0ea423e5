//! Where codes of 3 to 5 bits and their scales stand in one head's bytes: one cell is set, read or
//! cleared at a time. The kernels read many at once ([`crate::kernel::Kernels::unpack`]).
//!
//! ```text
//! bytes    [runs of codes][scale of each block and cell]
//! keys     [block of 16 cells][quad of elements]: a run has a quad of 16 cells
//! values   [block of 32 elements][quad of cells][16 elements]: a run has 4 cells of 16 elements
//! scales   [block of 32 elements][cell], half precision
//! ```
//! [`codec`] says what codes and scales mean, [`CodeBits`] how a run is packed. Weights of values are
//! not negative: where their scale was, codes are mirrored, and its sign bit says that their zero is
//! one less. Padding is never read into a result: it meets zeros of a query, or is no element of an
//! output.
//!
//! Types that are rotated hold what the Hadamard transform makes of a head; so then are queries, and
//! outputs are turned back.

use std::ops::Range;

use crate::backend::{KvType, Row};
use crate::kernel::{CodeBits, GROUP, HADAMARD_SPANS, KV_BLOCK, KV_QUAD, Kernels};

use super::cache_q8::n_blocks;
use super::cache_store::{Layout, Moves, gather_lanes, value_width};
use super::codec;
use super::transfer::{self, Strided};

/// First positions that are kept in half precision.
pub(super) const N_SINKS: usize = 4;

/// Elements that are transformed and encoded at once: whole spans, and whole blocks.
pub(super) const PART: usize = 64;

/// What codes are of.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Keys,
    Values,
}

impl Side {
    pub(super) fn of(row: Row) -> Side {
        match row {
            Row::Key => Side::Keys,
            Row::Value => Side::Values,
        }
    }
}

/// How codes stand, and what for.
#[derive(Clone, Copy)]
pub(super) struct Form {
    pub(super) layout: Layout,
    pub(super) side: Side,
    pub(super) bits: CodeBits,
    /// First positions that it may hold, which are no codes.
    pub(super) n_sinks: usize,
    is_rotated: bool,
}

impl Form {
    /// `None` if the type is not one of packed codes. `has_first`: it may hold the first positions.
    pub(super) fn new(
        kv_type: KvType,
        layout: Layout,
        side: Side,
        has_first: bool,
    ) -> Option<Form> {
        let (bits, is_rotated) = match kv_type {
            KvType::F16 | KvType::F32 | KvType::Q8_0 => return None,
            KvType::Q5_0 => (CodeBits::Five, false),
            KvType::Q4_0 => (CodeBits::Four, false),
            KvType::Q5H => (CodeBits::Five, true),
            KvType::Q4H => (CodeBits::Four, true),
            KvType::Q3H => (CodeBits::Three, true),
        };
        let n_sinks = if has_first { N_SINKS } else { 0 };
        Some(Form { layout, side, bits, n_sinks, is_rotated })
    }

    /// The span of the transform, if there is one.
    pub(super) fn span(&self) -> Option<usize> {
        let head_dim = self.layout.head_dim;
        HADAMARD_SPANS.into_iter().find(|n| self.is_rotated && head_dim.is_multiple_of(*n))
    }

    pub(super) fn rotate(&self, kernels: &Kernels, x: &mut [f32]) {
        if let Some(span) = self.span() {
            kernels.hadamard(x, span);
        }
    }

    /// Runs of a head's codes.
    fn n_runs(&self) -> usize {
        let Layout { n_cells, head_dim, .. } = self.layout;
        match self.side {
            Side::Keys => n_cells.div_ceil(GROUP) * head_dim.div_ceil(KV_QUAD),
            Side::Values => n_cells.div_ceil(KV_QUAD) * (value_width(head_dim) / GROUP),
        }
    }

    pub(super) fn code_bytes(&self) -> usize {
        self.n_runs() * self.bits.bytes()
    }

    /// Scales from one block to the next.
    fn stride(&self) -> usize {
        self.layout.n_cells
    }

    /// Bytes of a head.
    pub(super) fn head_bytes(&self) -> usize {
        self.code_bytes() + 2 * n_blocks(self.layout.head_dim) * self.stride()
    }

    /// Runs of 16 elements in block `b` of the values.
    pub(super) fn groups(&self, b: usize) -> usize {
        (value_width(self.layout.head_dim) - b * KV_BLOCK).min(KV_BLOCK) / GROUP
    }

    /// The first run of quad `quad` of block `b` of the values.
    pub(super) fn value_run(&self, b: usize, quad: usize) -> usize {
        let n_quads = self.layout.n_cells.div_ceil(KV_QUAD);
        b * (KV_BLOCK / GROUP) * n_quads + quad * self.groups(b)
    }

    /// The first run of a cell's key.
    pub(super) fn key_run(&self, cell: usize) -> usize {
        cell / GROUP * self.layout.head_dim.div_ceil(KV_QUAD)
    }

    pub(super) fn run(&self, n: usize) -> Range<usize> {
        n * self.bits.bytes()..(n + 1) * self.bits.bytes()
    }

    pub(super) fn scale_at(&self, b: usize, cell: usize) -> usize {
        self.code_bytes() + 2 * (b * self.stride() + cell)
    }

    /// Sets block `b` of a cell in one head.
    pub(super) fn put(
        &self,
        head: &mut [u8],
        cell: usize,
        b: usize,
        (d, mut codes): (u16, codec::Codes),
    ) {
        let at = self.scale_at(b, cell);
        head[at..at + 2].copy_from_slice(&d.to_le_bytes());
        match self.side {
            Side::Keys => {
                let first = self.key_run(cell) + b * (KV_BLOCK / KV_QUAD);
                let n = self.layout.head_dim.div_ceil(KV_QUAD) - b * (KV_BLOCK / KV_QUAD);
                for (i, quad) in codes.as_chunks::<KV_QUAD>().0.iter().enumerate().take(n) {
                    set_quad(self.bits, &mut head[self.run(first + i)], cell % GROUP, *quad);
                }
            }
            Side::Values => {
                if is_mirrored(d) {
                    codes.iter_mut().for_each(|code| *code = mirror(self.bits, *code));
                }
                let first = self.value_run(b, cell / KV_QUAD);
                let groups = codes.as_chunks::<GROUP>().0.iter().enumerate();
                for (i, codes) in groups.take(self.groups(b)) {
                    set_lane(self.bits, &mut head[self.run(first + i)], cell % KV_QUAD, codes);
                }
            }
        }
    }

    /// Takes block `b` of a cell from one head.
    pub(super) fn get(&self, head: &[u8], cell: usize, b: usize) -> (u16, codec::Codes) {
        let at = self.scale_at(b, cell);
        let d = u16::from_le_bytes([head[at], head[at + 1]]);
        let mut codes = [codec::zero(self.bits); KV_BLOCK];
        match self.side {
            Side::Keys => {
                let first = self.key_run(cell) + b * (KV_BLOCK / KV_QUAD);
                let n = self.layout.head_dim.div_ceil(KV_QUAD) - b * (KV_BLOCK / KV_QUAD);
                for (i, quad) in codes.as_chunks_mut::<KV_QUAD>().0.iter_mut().enumerate().take(n) {
                    *quad = get_quad(self.bits, &head[self.run(first + i)], cell % GROUP);
                }
            }
            Side::Values => {
                let first = self.value_run(b, cell / KV_QUAD);
                let groups = codes.as_chunks_mut::<GROUP>().0.iter_mut().enumerate();
                for (i, codes) in groups.take(self.groups(b)) {
                    get_lane(self.bits, &head[self.run(first + i)], cell % KV_QUAD, codes);
                }
                if is_mirrored(d) {
                    codes.iter_mut().for_each(|code| *code = mirror(self.bits, *code));
                }
            }
        }
        (d, codes)
    }

    /// The runs of block `b` of a cell, as bytes of its head.
    fn runs(&self, cell: usize, b: usize) -> Range<usize> {
        let (first, n) = match self.side {
            Side::Keys => {
                let before = b * (KV_BLOCK / KV_QUAD);
                let n = self.layout.head_dim.div_ceil(KV_QUAD) - before;
                (self.key_run(cell) + before, n.min(KV_BLOCK / KV_QUAD))
            }
            Side::Values => (self.value_run(b, cell / KV_QUAD), self.groups(b)),
        };
        first * self.bits.bytes()..(first + n) * self.bits.bytes()
    }

    /// Bytes of a block of a cell in a snapshot: its scale and its codes, which have bytes of their own
    /// there. Those of values are as in a run; of keys, plane by plane, it is quads of one cell that
    /// share bytes and not those of cells. Zeros where a last block is shorter.
    pub(super) fn block_bytes(&self) -> usize {
        2 + self.bits.count() * KV_BLOCK / 8
    }

    /// Writes block `b` of a cell of one head as it is in a snapshot.
    pub(super) fn export(&self, head: &[u8], cell: usize, b: usize, out: &mut [u8]) {
        let at = self.scale_at(b, cell);
        let (d, mut out) = out.split_at_mut(2);
        d.copy_from_slice(&head[at..at + 2]);
        out.fill(0);
        let runs = &head[self.runs(cell, b)];
        if self.side == Side::Values {
            return transfer::export(runs, lane_at(runs.len(), cell), &mut out);
        }
        for (plane, n, _) in planes(self.bits) {
            let Some(out) = out.split_off_mut(..KV_QUAD * n) else { return };
            let (words, each) = (out.as_chunks_mut::<KV_QUAD>().0, 8 / n);
            let (at, shift) = quad_at(n, cell % GROUP);
            for (i, run) in runs.chunks_exact(self.bits.bytes()).enumerate() {
                let quad = word(&run[plane + at..]) >> shift & quad_mask(n);
                let joined = u32::from_le_bytes(words[i / each]) | quad << (i % each * n);
                words[i / each] = joined.to_le_bytes();
            }
        }
    }

    /// Sets block `b` of a cell of one head to what [`Form::export`] gave.
    pub(super) fn import(&self, head: &mut [u8], cell: usize, b: usize, block: &[u8]) {
        let at = self.scale_at(b, cell);
        let (d, mut block) = block.split_at(2);
        head[at..at + 2].copy_from_slice(d);
        let runs = self.runs(cell, b);
        let runs = &mut head[runs];
        if self.side == Side::Values {
            return transfer::import(runs, lane_at(runs.len(), cell), &mut block);
        }
        for (plane, n, _) in planes(self.bits) {
            let Some(codes) = block.split_off(..KV_QUAD * n) else { return };
            let (words, each) = (codes.as_chunks::<KV_QUAD>().0, 8 / n);
            let (at, shift) = quad_at(n, cell % GROUP);
            for (i, run) in runs.chunks_exact_mut(self.bits.bytes()).enumerate() {
                let quad = u32::from_le_bytes(words[i / each]) >> (i % each * n) & quad_mask(n);
                let bytes = &mut run[plane + at..];
                let others = word(bytes) & !(quad_mask(n) << shift);
                bytes[..KV_QUAD].copy_from_slice(&(others | quad << shift).to_le_bytes());
            }
        }
    }

    /// Leaves nothing in a cell of one head.
    pub(super) fn clear(&self, head: &mut [u8], cell: usize) {
        for b in 0..n_blocks(self.layout.head_dim) {
            let at = self.scale_at(b, cell);
            head[at..at + 2].fill(0);
        }
    }

    /// Moves what one head's cells hold.
    pub(super) fn compact<'l>(
        &self,
        head: &mut [u8],
        later: &dyn Fn(usize) -> &'l [u8],
        moves: &Moves<'_>,
    ) {
        match self.side {
            Side::Keys => {
                for (to, (store, from)) in moves.each() {
                    let (first, start) = (self.key_run(to), self.key_run(from));
                    for i in 0..self.layout.head_dim.div_ceil(KV_QUAD) {
                        let source = if store == 0 { &*head } else { later(store) };
                        let quad = get_quad(self.bits, &source[self.run(start + i)], from % GROUP);
                        let run = &mut head[self.run(first + i)];
                        set_quad(self.bits, run, to % GROUP, quad);
                    }
                }
            }
            Side::Values => {
                for b in 0..n_blocks(self.layout.head_dim) {
                    let first = self.run(self.value_run(b, 0)).start;
                    let words = self.groups(b) * self.bits.bytes() / KV_QUAD;
                    let later = |store| &later(store)[first..];
                    gather_lanes::<_, KV_QUAD>(&mut head[first..], &later, (words, 1), moves);
                }
            }
        }
        for b in 0..n_blocks(self.layout.head_dim) {
            for (to, (store, from)) in moves.each() {
                let (to, from) = (self.scale_at(b, to), self.scale_at(b, from));
                match store {
                    0 => head.copy_within(from..from + 2, to),
                    _ => head[to..to + 2].copy_from_slice(&later(store)[from..from + 2]),
                }
            }
        }
    }

    /// Encodes a row into a cell of one head.
    pub(super) fn encode(&self, kernels: &Kernels, head: &mut [u8], cell: usize, row: &[f32]) {
        for (i, part) in row.chunks(PART).enumerate() {
            let mut turned = [0.0; PART];
            let turned = &mut turned[..part.len()];
            turned.copy_from_slice(part);
            self.rotate(kernels, turned);
            for (j, block) in turned.chunks(KV_BLOCK).enumerate() {
                let coded = codec::encode(self.bits, block);
                self.put(head, cell, i * (PART / KV_BLOCK) + j, coded);
            }
        }
    }
}

/// Whether the scale of values says that their codes are mirrored.
fn is_mirrored(d: u16) -> bool {
    d & 0x8000 != 0
}

/// The code of the level on the other side, where the zero is one less.
fn mirror(bits: CodeBits, code: u8) -> u8 {
    (2 * codec::zero(bits)).wrapping_sub(1).wrapping_sub(code)
}

/// Of each plane: its first byte, its bits, and the bits of lower planes.
fn planes(bits: CodeBits) -> impl Iterator<Item = (usize, usize, usize)> {
    let [low, high] = bits.planes();
    [(0, low, 0), (8 * low, high, low)].into_iter().filter(|plane| plane.1 != 0)
}

/// Where a plane of `n` bits has the quad of one of 16 cells: its bytes, and the first bit in each.
fn quad_at(n: usize, lane: usize) -> (usize, usize) {
    (lane % (2 * n) * KV_QUAD, lane / (2 * n) * n)
}

/// `n` bits in each byte of a quad.
fn quad_mask(n: usize) -> u32 {
    0x0101_0101 * ((1 << n) - 1)
}

/// The first bytes as they stand.
fn word(bytes: &[u8]) -> u32 {
    u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
}

/// The bytes of a cell of values among those of its runs.
fn lane_at(len: usize, cell: usize) -> Strided {
    Strided { at: cell % KV_QUAD, stride: KV_QUAD, n: len / KV_QUAD }
}

fn set_quad(bits: CodeBits, run: &mut [u8], lane: usize, quad: [u8; KV_QUAD]) {
    for (plane, n, below) in planes(bits) {
        let (at, shift) = quad_at(n, lane);
        let bytes = &mut run[plane + at..][..KV_QUAD];
        let part = (u32::from_le_bytes(quad) >> below) & quad_mask(n);
        let new = word(bytes) & !(quad_mask(n) << shift) | part << shift;
        bytes.copy_from_slice(&new.to_le_bytes());
    }
}

fn get_quad(bits: CodeBits, run: &[u8], lane: usize) -> [u8; KV_QUAD] {
    let mut quad = 0;
    for (plane, n, below) in planes(bits) {
        let (at, shift) = quad_at(n, lane);
        quad |= (word(&run[plane + at..]) >> shift & quad_mask(n)) << below;
    }
    quad.to_le_bytes()
}

/// Sets 16 elements of one of 4 cells. In each plane its codes have bytes of their own.
fn set_lane(bits: CodeBits, run: &mut [u8], lane: usize, codes: &[u8; GROUP]) {
    for (plane, n, below) in planes(bits) {
        for j in 0..2 * n {
            let parts = codes.iter().skip(j).step_by(2 * n).enumerate();
            let byte = parts.fold(0u32, |byte, (k, code)| {
                byte | (u32::from(*code) >> below & ((1 << n) - 1)) << (k * n)
            });
            run[plane + j * KV_QUAD + lane] = byte as u8;
        }
    }
}

fn get_lane(bits: CodeBits, run: &[u8], lane: usize, codes: &mut [u8; GROUP]) {
    codes.fill(0);
    for (plane, n, below) in planes(bits) {
        for j in 0..2 * n {
            let byte = u32::from(run[plane + j * KV_QUAD + lane]);
            for (k, code) in codes.iter_mut().skip(j).step_by(2 * n).enumerate() {
                *code |= ((byte >> (k * n) & ((1 << n) - 1)) << below) as u8;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::cpu::Isa;

    const N_CELLS: usize = 40;

    /// All blocks of a cell as they are in a snapshot.
    fn row(form: &Form, head: &[u8], cell: usize) -> Vec<u8> {
        let mut row = vec![0xff; n_blocks(form.layout.head_dim) * form.block_bytes()];
        for (b, block) in row.chunks_exact_mut(form.block_bytes()).enumerate() {
            form.export(head, cell, b, block);
        }
        row
    }

    #[test]
    fn rows_of_a_snapshot_come_back_to_any_cell_and_leave_the_others_alone() {
        let kernels = Kernels::for_isa(Isa::Scalar);
        let mut state = 1u32;
        let mut noise = || {
            state = state.wrapping_mul(1664525).wrapping_add(1013904223);
            (state >> 24) as u8
        };
        for kv_type in [KvType::Q5_0, KvType::Q4_0, KvType::Q3H] {
            for (side, head_dim) in [Side::Keys, Side::Values]
                .into_iter()
                .flat_map(|side| [8, 24, 32, 40, 64, 80, 96].map(|d| (side, d)))
            {
                let layout = Layout { n_head: 1, head_dim, n_cells: N_CELLS };
                let form = Form::new(kv_type, layout, side, false).unwrap();
                let mut from = vec![0; form.head_bytes()];
                for cell in 0..N_CELLS {
                    let x: Vec<f32> = (0..head_dim).map(|_| f32::from(noise()) - 128.0).collect();
                    form.encode(kernels, &mut from, cell, &x);
                }
                let mut to: Vec<u8> = from.iter().map(|_| noise()).collect();
                for cell in 0..N_CELLS {
                    let other = (cell * 7 + 3) % N_CELLS;
                    let saved = row(&form, &from, cell);
                    let mut expected: Vec<_> = (0..N_CELLS).map(|i| row(&form, &to, i)).collect();
                    expected[other].clone_from(&saved);
                    for (b, block) in saved.chunks_exact(form.block_bytes()).enumerate() {
                        form.import(&mut to, other, b, block);
                    }
                    let found: Vec<_> = (0..N_CELLS).map(|i| row(&form, &to, i)).collect();
                    assert!(found == expected, "{:?}, {head_dim}, {cell}", form.bits);
                    for b in 0..n_blocks(head_dim) {
                        let n = (head_dim - b * KV_BLOCK).min(KV_BLOCK);
                        let of = |head: &[u8], cell| {
                            let (d, codes) = form.get(head, cell, b);
                            (d, codes[..n].to_vec())
                        };
                        assert_eq!(of(&to, other), of(&from, cell), "{head_dim}, {cell}, {b}");
                    }
                }
            }
        }
    }
}
