//! The newest tokens of a layer in half precision, beside their codes.
//!
//! Attention rests on the last few tokens more than on any others, in every layer: most of what codes
//! cost is what they round of those. So a token reads itself and the 15 before it as they were before
//! they were rounded to codes (KIVI's residual window, arXiv 2402.02750, but that slides token by token
//! and never makes the codes wait). Codes are written at once, of every token; who does not compute
//! attention reads nothing else. Where there are codes of less than 8 bits, that is so of those of 8
//! bits beside them.
//!
//! Of a head with slots of its own, only tokens count that stand in the last slots without a gap, and in
//! the same tile as the token that reads: what another session can share is read alike by all.
//!
//! Rows are kept by position, and say which they are, so that nothing has to be undone when a span is
//! given back: up to 16 of its tokens take places that the 15 before it do not need. Of a longer span
//! the last 16 have places of their own, and what its batches read is in [`RecentRows`].
//! ```text
//! keys     [kv head][element][32 by position, then 16 by position], rotated as codes are
//! values   [kv head][32 by position, then 16][element, and zeros up to a multiple of 16]
//! ```

use crate::backend::{Batch, Decoder, KvType, Shape};
use crate::base::aligned::Buffer;
use crate::base::error::Result;
use crate::base::memory::Memory;
use crate::base::pool::Pool;
use crate::kernel::{GROUP, Kernels, Panel};

use super::cache_store::{Layout, each_head, value_width};
use super::packed_cells::{Form, PART, Side};

/// Tokens that are read so: the one that reads, and those before it.
pub(super) const WINDOW: usize = crate::backend::RECENT;
/// Places by position of which a short span takes some, and of those that a long one takes.
const SHORT: usize = 2 * WINDOW;
const LONG: usize = WINDOW;
/// Places of a head: whole groups.
const PLACES: usize = SHORT + LONG;
/// The position of a place that has none.
const NONE: u32 = u32::MAX;

/// What rows are of, and what they become.
#[derive(Clone, Copy)]
pub(super) struct RowForm {
    layout: Layout,
    side: Side,
    /// The span of the transform, if there is one.
    span: Option<usize>,
}

/// The newest keys or values of one layer.
pub(super) struct Recent {
    form: RowForm,
    kernels: &'static Kernels,
    /// The position of each place's token: the same for all heads.
    pos: [u32; PLACES],
    /// What the tokens of a batch that has been taken in can read: from this position on.
    from: u32,
    /// The position of its first token, and whether what it reads is in [`RecentRows`].
    first: u32,
    is_apart: bool,
    rows: Buffer<u16>,
}

impl RowForm {
    /// Of keys and of values in these types. Those of 8 bits are kept only beside others: alone they
    /// lose little, and a session that is truncated is then as if it had never gone further.
    pub(super) fn both([k, v]: [KvType; 2], layout: Layout) -> [Option<RowForm>; 2] {
        let is_any = k.is_packed() || v.is_packed();
        [(k, Side::Keys), (v, Side::Values)].map(|(kv_type, side)| {
            let packed = Form::new(kv_type, layout, side, false);
            let span = packed.and_then(|form| form.span());
            (is_any && kv_type.is_codes()).then_some(RowForm { layout, side, span })
        })
    }

    /// Elements of a row among others.
    fn row_len(&self) -> usize {
        match self.side {
            Side::Keys => self.layout.head_dim,
            Side::Values => value_width(self.layout.head_dim),
        }
    }

    /// Sets elements from `first` on of row `i` of `n`: those of keys stand side by side, element by
    /// element, those of values one after the other.
    #[inline(never)]
    fn set_row(&self, rows: &mut [u16], (i, n): (usize, usize), first: usize, x: &[u16]) {
        match self.side {
            Side::Keys => {
                let to = rows[first * n..].chunks_exact_mut(n);
                to.zip(x).for_each(|(to, x)| to[i] = *x);
            }
            Side::Values => rows[i * self.row_len() + first..][..x.len()].copy_from_slice(x),
        }
    }

    /// Writes elements from `first` on of row `i` of `n` to `x`.
    #[inline(never)]
    fn take(&self, rows: &[u16], (i, n): (usize, usize), first: usize, x: &mut [u16]) {
        match self.side {
            Side::Keys => {
                let from = rows[first * n..].chunks_exact(n);
                x.iter_mut().zip(from).for_each(|(x, from)| *x = from[i]);
            }
            Side::Values => x.copy_from_slice(&rows[i * self.row_len() + first..][..x.len()]),
        }
    }

    /// The parts of a row: where each begins, and how long it is.
    fn parts(&self) -> impl Iterator<Item = (usize, usize)> + use<> {
        let n = self.layout.head_dim;
        (0..n).step_by(PART).map(move |first| (first, PART.min(n - first)))
    }

    /// Sets row `i` of `n` to what a row that came becomes.
    #[inline(never)]
    fn round_row(&self, kernels: &Kernels, rows: &mut [u16], at: (usize, usize), row: &[f32]) {
        for (i, part) in row.chunks(PART).enumerate() {
            let (mut turned, mut rounded) = ([0.0; PART], [0; PART]);
            let (turned, rounded) = (&mut turned[..part.len()], &mut rounded[..part.len()]);
            turned.copy_from_slice(part);
            if let Some(span) = self.span {
                kernels.hadamard(turned, span);
            }
            kernels.to_f16(turned, rounded);
            self.set_row(rows, at, i * PART, rounded);
        }
    }
}

impl Recent {
    pub(super) fn new(form: RowForm, kernels: &'static Kernels, memory: &Memory) -> Result<Recent> {
        let rows = memory.buffer(form.layout.n_head * PLACES * form.row_len())?;
        Ok(Recent { form, kernels, pos: [NONE; PLACES], from: 0, first: 0, is_apart: false, rows })
    }

    /// Bytes that they take.
    pub(super) fn bytes(form: &RowForm) -> u64 {
        let n = form.layout.n_head * PLACES * form.row_len();
        (2 * n as u64).next_multiple_of(64)
    }

    /// The place of the token at a position.
    fn place(&self, pos: u32) -> Option<usize> {
        let places = [pos as usize % SHORT, SHORT + pos as usize % LONG];
        places.into_iter().find(|&place| self.pos[place] == pos)
    }

    /// The places of a head.
    fn of_head(&self, head: usize) -> &[u16] {
        let len = PLACES * self.form.row_len();
        &self.rows[head * len..][..len]
    }

    fn of_head_mut(&mut self, head: usize) -> &mut [u16] {
        let len = PLACES * self.form.row_len();
        &mut self.rows[head * len..][..len]
    }

    /// Forgets all of them.
    pub(super) fn clear(&mut self) {
        self.pos.fill(NONE);
    }

    /// Takes over those of another session's layer.
    pub(super) fn copy_from(&mut self, from: &Recent) {
        self.pos = from.pos;
        self.rows.copy_from_slice(&from.rows);
    }

    /// Takes in the tokens of a batch. `x`: a row for each, as in [`super::Scratch`].
    #[inline(never)]
    pub(super) fn fill(
        &mut self,
        pool: Option<&Pool>,
        batch: &Batch<'_>,
        x: &[f32],
        apart: &mut RecentRows,
    ) -> Result<()> {
        let (n, first) = (batch.tokens.len(), batch.first_pos);
        let (form, kernels) = (self.form, self.kernels);
        // Of what was given back or forgotten since.
        self.pos.iter_mut().for_each(|pos| *pos = if *pos >= first { NONE } else { *pos });
        let before = (first.saturating_sub(WINDOW as u32 - 1)..first).rev();
        self.from = before.take_while(|&pos| self.place(pos).is_some()).last().unwrap_or(first);
        self.first = first;
        self.is_apart = batch.n_before + n > SHORT - WINDOW;
        if self.is_apart {
            self.save(first - batch.n_before as u32);
            let (this, n_rows) = (&*self, n_apart(n));
            let rows = &mut apart.rows[..form.layout.n_head * form.row_len() * n_rows];
            apart.n = n_rows;
            each_head(pool, rows, form.row_len() * n_rows, |head, rows| {
                for pos in this.from..first {
                    let Some(place) = this.place(pos) else { continue };
                    for (first, len) in form.parts() {
                        let mut part = [0; PART];
                        let part = &mut part[..len];
                        form.take(this.of_head(head), (place, PLACES), first, part);
                        form.set_row(rows, (this.number(pos), n_rows), first, part);
                    }
                }
                for (t, row) in form.layout.head_rows(x, head).take(n).enumerate() {
                    form.round_row(kernels, rows, (WINDOW + t, n_rows), row);
                }
            })?;
        }
        for head in 0..form.layout.n_head {
            let rows = form.layout.head_rows(x, head).take(n).enumerate();
            for (t, row) in rows.skip(n.saturating_sub(WINDOW)) {
                let pos = first + t as u32;
                let place = match self.is_apart {
                    true => SHORT + pos as usize % LONG,
                    false => pos as usize % SHORT,
                };
                self.pos[place] = pos;
                form.round_row(kernels, self.of_head_mut(head), (place, PLACES), row);
            }
        }
        Ok(())
    }

    /// Puts those before a long span where it will not overwrite them.
    fn save(&mut self, span: u32) {
        for from in SHORT..PLACES {
            let pos = self.pos[from];
            if pos >= span || pos + (WINDOW as u32) < span {
                continue;
            }
            let (form, to) = (self.form, pos as usize % SHORT);
            self.pos[to] = pos;
            for head in 0..form.layout.n_head {
                let rows = self.of_head_mut(head);
                for (first, len) in form.parts() {
                    let mut part = [0; PART];
                    form.take(rows, (from, PLACES), first, &mut part[..len]);
                    form.set_row(rows, (to, PLACES), first, &part[..len]);
                }
            }
        }
    }

    /// Which of [`RecentRows`] the token at a position has.
    fn number(&self, pos: u32) -> usize {
        (pos + WINDOW as u32 - self.first) as usize
    }

    /// Tokens that the one at a position of the batch can read so, itself included.
    pub(super) fn n_seen(&self, pos: u32) -> usize {
        ((pos - self.from) as usize + 1).min(WINDOW)
    }

    /// A head's. `apart`: what the last batch left there.
    pub(super) fn head<'a>(&'a self, head: usize, apart: &'a RecentRows) -> HeadRecent<'a> {
        let len = self.form.row_len() * apart.n;
        let apart = (apart.rows.get(head * len..).unwrap_or_default(), apart.n);
        HeadRecent { recent: self, rows: self.of_head(head), apart }
    }
}

/// What snapshots hold of a head: which of the positions before the next token there are, a bit each,
/// and a row for each; of what is not there zeros.
impl Recent {
    /// Bytes of a head.
    pub(super) fn saved_len(&self) -> usize {
        4 + 2 * WINDOW * self.form.layout.head_dim
    }

    /// Writes those before the token `next`.
    #[inline(never)]
    pub(super) fn export(&self, head: usize, next: u32, out: &mut [u8]) {
        out.fill(0);
        let (held, rows) = out.split_at_mut(4);
        let mut bits = 0u32;
        for (i, row) in rows.chunks_exact_mut(2 * self.form.layout.head_dim).enumerate() {
            let place = next.checked_sub(1 + i as u32).and_then(|pos| self.place(pos));
            let Some(place) = place else { continue };
            bits |= 1 << i;
            for (first, len) in self.form.parts() {
                let mut part = [0; PART];
                let part = &mut part[..len];
                self.form.take(self.of_head(head), (place, PLACES), first, part);
                let to = row[2 * first..].as_chunks_mut().0;
                to.iter_mut().zip(part).for_each(|(to, x)| *to = x.to_le_bytes());
            }
        }
        held.copy_from_slice(&bits.to_le_bytes());
    }

    /// Takes them back in place of all others.
    #[inline(never)]
    pub(super) fn import(&mut self, head: usize, next: u32, bytes: &[u8]) {
        let Some((held, rows)) = bytes.split_first_chunk() else { return };
        let bits = u32::from_le_bytes(*held);
        self.clear();
        for (i, row) in rows.chunks_exact(2 * self.form.layout.head_dim).enumerate() {
            let Some(pos) = next.checked_sub(1 + i as u32).filter(|_| bits >> i & 1 != 0) else {
                continue;
            };
            let (form, place) = (self.form, pos as usize % SHORT);
            self.pos[place] = pos;
            for (first, len) in form.parts() {
                let mut part = [0; PART];
                let from = row[2 * first..].as_chunks().0;
                part.iter_mut().zip(from).for_each(|(x, from)| *x = u16::from_le_bytes(*from));
                form.set_row(self.of_head_mut(head), (place, PLACES), first, &part[..len]);
            }
        }
    }
}

/// What the tokens of a batch of a long span read, of one layer after the other: rows as in [`Recent`],
/// of up to 15 tokens before the batch, and from number 16 on of its own.
pub(super) struct RecentRows {
    /// Rows that there is room for.
    n: usize,
    rows: Buffer<u16>,
}

impl RecentRows {
    /// Of keys, and of values.
    pub(super) fn both(d: &Decoder, shape: &Shape, memory: &Memory) -> Result<[RecentRows; 2]> {
        let [keys, values] = memory.buffers(RecentRows::lens(d, shape))?;
        let of = |rows| RecentRows { n: 0, rows };
        Ok([of(keys), of(values)])
    }

    /// Bytes of both.
    pub(super) fn bytes(d: &Decoder, shape: &Shape) -> u64 {
        let lens = RecentRows::lens(d, shape).into_iter();
        lens.map(|n| (2 * n as u64).next_multiple_of(64)).sum()
    }

    fn lens(d: &Decoder, shape: &Shape) -> [usize; 2] {
        let layout = Layout { n_head: d.n_head_kv, head_dim: d.head_dim, n_cells: 0 };
        let n = d.n_head_kv * n_apart(shape.n_batch);
        let forms = RowForm::both([shape.k_type, shape.v_type], layout);
        forms.map(|form| form.map_or(0, |form| n * form.row_len()))
    }
}

/// Rows that a batch takes there. A group of keys is read whole, however few of them are wanted.
fn n_apart(n_batch: usize) -> usize {
    WINDOW + n_batch.next_multiple_of(GROUP) + GROUP
}

/// What is there of one head.
#[derive(Clone, Copy)]
pub(super) struct HeadRecent<'a> {
    recent: &'a Recent,
    rows: &'a [u16],
    /// Those of [`RecentRows`], and how many there are.
    apart: (&'a [u16], usize),
}

/// The positions of 16 keys.
#[derive(Clone, Copy)]
pub(super) enum Positions<'a> {
    /// Neighbours, from this one on.
    From(u32),
    /// Any.
    Listed(&'a [u32]),
}

impl<'a> HeadRecent<'a> {
    /// Calls `f` for groups of 16 keys, element by key, that have all those at the positions
    /// `from..end`, which are there, among others.
    pub(super) fn each_group(
        &self,
        (from, end): (u32, u32),
        mut f: impl FnMut(Panel<'a, u16>, Positions<'a>),
    ) {
        let head_dim = self.recent.form.layout.head_dim;
        let panel = |data, row| Panel { data, n: head_dim, row, n_groups: 1, group: GROUP };
        if self.recent.is_apart {
            let (rows, n) = self.apart;
            for pos in (from..end).step_by(GROUP) {
                f(panel(&rows[self.recent.number(pos)..], n), Positions::From(pos));
            }
            return;
        }
        for (i, pos) in self.recent.pos.chunks_exact(GROUP).enumerate() {
            if pos.iter().any(|pos| (from..end).contains(pos)) {
                f(panel(&self.rows[i * GROUP..], PLACES), Positions::Listed(pos));
            }
        }
    }

    /// Calls `f` for runs of values, token by element, of the positions `from..end`, which are there.
    pub(super) fn each_run(&self, (from, end): (u32, u32), mut f: impl FnMut(Panel<'a, u16>)) {
        let width = self.recent.form.row_len();
        let panel = |data: &'a [u16], first: usize, n| {
            let data = &data[first * width..];
            Panel { data, n, row: width, n_groups: width / GROUP, group: GROUP }
        };
        if self.recent.is_apart {
            let first = self.recent.number(from);
            return f(panel(self.apart.0, first, (end - from) as usize));
        }
        let mut at = from;
        while at < end {
            let Some(place) = self.recent.place(at) else { break };
            let places = self.recent.pos[place..].iter().zip(at..end);
            let n = places.take_while(|(a, b)| *a == b).count();
            f(panel(self.rows, place, n));
            at += n as u32;
        }
    }
}
