//! The phases of a decoder on the CPU.

use crate::backend::rope::Layout;
use crate::backend::{Backend, Batch, Decoder, NewSlots, Observe, Rotation, Row, SlotsOfHead};
use crate::base::brake::Brake;
use crate::base::error::{Result, err};
use crate::base::pool::{Columns, Pool, SPIN_NS, Width};

use super::attention::{Sizes, lock};
use super::parts::{GROUP_ROWS, ROW_GRAIN, lcm, parts};
use super::scratch::Inputs;
use super::weights::Matrix;
use super::{Cpu, CpuEnds, CpuLayer, Kv, Scratch, Tile};

/// How long threads wait for each other awake while a prompt is read: as long as to wake one takes.
const PROMPT_SPIN_NS: u64 = 100_000;

impl Backend for Cpu {
    type Layer = CpuLayer;
    type Ends = CpuEnds;
    type Scratch = Scratch;
    type Kv = Kv;
    type Tile = Tile;

    fn check_read(&self) -> Result<()> {
        self.bytes().check_read()
    }
    fn check_unchanged(&self) -> Result<()> {
        self.bytes().check_unchanged()
    }

    fn embed(&self, s: &mut Scratch, ends: &CpuEnds, batch: &Batch<'_>) -> Result<()> {
        let n = batch.tokens.len();
        s.pool.begin(s.threads.begin(n))?;
        s.pool.set_spin(if n < GROUP_ROWS { SPIN_NS } else { PROMPT_SPIN_NS });
        let n_embd = self.decoder.n_embd;
        for (row, &token) in Width::spread(n_embd).rows_mut(&mut s.x).zip(batch.tokens) {
            self.decode_row(&ends.embd, token as usize, row); // tokens are below n_vocab
            if self.decoder.embd_scale != 1.0 {
                row.iter_mut().for_each(|x| *x *= self.decoder.embd_scale);
            }
        }
        let mut at = 0;
        for f in &s.frequencies {
            let half = f.per_pair.len();
            let rows = at..at + s.n_batch * half;
            at = rows.end;
            let cos = s.cos[rows.clone()].chunks_exact_mut(half);
            let sin = s.sin[rows].chunks_exact_mut(half);
            for ((cos, sin), pos) in cos.zip(sin).take(n).zip(batch.first_turn..) {
                rotations(&f.per_pair, f64::from(pos), f.scale, cos, sin);
            }
        }
        Ok(())
    }

    fn qkv(&self, s: &mut Scratch, l: &CpuLayer, kv: &mut Kv, batch: &Batch<'_>) -> Result<()> {
        let (n, d) = (batch.tokens.len(), &self.decoder);
        if let Some(n) = s.threads.layer(&self.found) {
            s.pool.begin(n)?;
        }
        let width = Width::spread(d.n_embd);
        self.norm(&s.pool, &s.x[..width.len(n)], &l.attn_norm, &mut s.normed[..width.len(n)])?;
        let inputs = s.codes.quantise(self, &s.pool, &s.normed, n, &[&l.q, &l.k, &l.v])?;
        let angles = l.rope.map(|i| self.angles(i, &s.cos, &s.sin, s.n_batch));
        let [q, kv_width] = [d.n_head, d.n_head_kv].map(|n| Width::spread(n * d.head_dim));
        let (n_q, n_kv) = (q.len(n), kv_width.len(n));
        let outs = [&mut s.q[..n_q], &mut s.k[..n_kv], &mut s.v[..n_kv]];
        // Whole heads, and whole groups of packed rows.
        let grain = ROW_GRAIN.max(d.head_dim).next_multiple_of(lcm(d.head_dim, GROUP_ROWS));
        let (work, widths) = (&s.work, [q, kv_width, kv_width]);
        s.pool.columns_of(outs, n, widths, grain, |worker, i, all| {
            let norm = [&l.q_norm, &l.k_norm, &None][i].as_deref();
            let angles = if i < 2 { angles } else { None };
            for part in parts(n, all.len(), grain, batch.brake) {
                let part = &mut all.part(part);
                self.project_part([&l.q, &l.k, &l.v][i], &inputs, part);
                if norm.is_some() || angles.is_some() {
                    let mut raw = lock(&work[worker]);
                    for t in 0..n {
                        self.turn_heads(part.row_mut(t), t, norm, angles, &mut raw[..d.head_dim]);
                    }
                }
            }
        })?;
        batch.brake.check()?;
        let rows = (&s.k[..n_kv], &s.v[..n_kv]);
        kv.fill(self.kernels, &s.pool, batch, rows, &mut s.recent)
    }

    fn attend(&self, s: &mut Scratch, l: &CpuLayer, kv: &mut Kv, batch: &Batch<'_>) -> Result<()> {
        self.attend_all(s, l, kv, batch)
    }

    fn attn_out(&self, s: &mut Scratch, l: &CpuLayer, batch: &Batch<'_>) -> Result<()> {
        let n = batch.tokens.len();
        let inputs = s.codes.quantise(self, &s.pool, &s.mixed, n, &[&l.attn_out])?;
        let out = Residual { x: &mut s.x, delta: &mut s.delta, normed: &mut s.normed };
        let norm = l.post_attn_norm.as_deref();
        self.project_and_add(&s.pool, &l.attn_out, &inputs, out, norm, batch.brake)
    }

    fn ffn_up(&self, s: &mut Scratch, l: &CpuLayer, batch: &Batch<'_>) -> Result<()> {
        let n = batch.tokens.len();
        let [width, ff] = [self.decoder.n_embd, self.decoder.n_ff].map(Width::spread);
        self.norm(&s.pool, &s.x[..width.len(n)], &l.ffn_norm, &mut s.normed[..width.len(n)])?;
        let inputs = s.codes.quantise(self, &s.pool, &s.normed, n, &[&l.gate, &l.up])?;
        let (gate, up) = (&mut s.gate[..ff.len(n)], &mut s.up[..ff.len(n)]);
        s.pool.column_pairs(gate, up, ff, ROW_GRAIN, |_, gate, up| {
            for part in parts(n, gate.len(), GROUP_ROWS, batch.brake) {
                let (gate, up) = (&mut gate.part(part.clone()), &mut up.part(part));
                self.project_part(&l.gate, &inputs, gate);
                self.project_part(&l.up, &inputs, up);
                for t in 0..n {
                    self.activate(gate.row_mut(t), up.row_mut(t));
                }
            }
        })
    }

    fn ffn_down(&self, s: &mut Scratch, l: &CpuLayer, batch: &Batch<'_>) -> Result<()> {
        let n = batch.tokens.len();
        let inputs = s.codes.quantise(self, &s.pool, &s.gate, n, &[&l.down])?;
        let out = Residual { x: &mut s.x, delta: &mut s.delta, normed: &mut s.normed };
        let norm = l.post_ffn_norm.as_deref();
        self.project_and_add(&s.pool, &l.down, &inputs, out, norm, batch.brake)
    }

    fn head(&self, s: &mut Scratch, ends: &CpuEnds, batch: &Batch<'_>) -> Result<()> {
        let (n, n_embd) = (batch.outputs.len(), self.decoder.n_embd);
        if n == 0 {
            return Ok(());
        }
        let width = Width::spread(n_embd);
        for (&t, out) in batch.outputs.iter().zip(width.rows_mut(&mut s.normed)) {
            let x = &s.x[width.len(t as usize)..][..n_embd];
            self.kernels.rms_norm(x, &ends.norm, self.decoder.norm_eps, out);
        }
        let inputs = s.codes.quantise_exactly(self, &s.pool, &s.normed, n, &ends.head)?;
        let (n_vocab, cap) = (self.decoder.n_vocab, self.decoder.logit_softcap);
        let logits = &mut s.logits[batch.first_output * n_vocab..][..n * n_vocab];
        (0..n).for_each(|t| s.highest.clear(batch.first_output + t));
        if let Some(screening) = s.screening.as_mut().filter(|_| batch.best && n == 1)
            && self.best_logits(&s.pool, ends, screening, &inputs, logits)?
        {
            s.threads.end(&self.found);
            return Ok(());
        }
        let (highest, first) = (&s.highest, batch.first_output);
        s.pool.columns(logits, Width::dense(n_vocab), ROW_GRAIN, |_, all| {
            for part in parts(n, all.len(), GROUP_ROWS, batch.brake) {
                let part = &mut all.part(part);
                self.project_part(&ends.head, &inputs, part);
                for t in 0..n {
                    let (at, row) = (part.first(), part.row_mut(t));
                    if cap != 0.0 {
                        soft_cap(row, cap);
                    }
                    highest.note(first + t, at, row);
                }
            }
        })?;
        s.threads.end(&self.found);
        Ok(())
    }

    fn logits<'s>(&self, s: &'s Scratch, row: usize) -> Result<&'s [f32]> {
        let n_vocab = self.decoder.n_vocab;
        s.logits
            .chunks_exact(n_vocab)
            .nth(row)
            .ok_or_else(|| err!(InvalidArgument, "no row {row} of logits"))
    }

    fn highest(&self, s: &Scratch, row: usize) -> impl Iterator<Item = Option<f32>> {
        s.highest.of_row(row)
    }

    fn count_attention(&self, kv: &mut Kv, held: &[u32], observe: Observe, n_kept: usize) {
        if let Some(mass) = &mut kv.mass {
            mass.fold(self, held, observe, n_kept);
        }
        if let Some(queries) = &mut kv.queries {
            queries.fold(observe, n_kept);
        }
    }

    fn watch(&self, s: &mut Scratch, kv: &mut Kv) -> Result<()> {
        self.watch_layer(s, kv)
    }

    fn unwatch(&self, s: &mut Scratch, kv: &mut Kv) {
        self.unwatch_layer(s, kv);
    }

    fn largest(&self, kv: &Kv, head: usize, out: &mut [f32]) {
        self.largest_of(kv, head, out);
    }

    fn n_each(&self) -> usize {
        Sizes::new(&self.decoder).n_tokens
    }

    fn attention<'k>(&self, kv: &'k Kv, head: usize) -> Option<(&'k [f32], &'k [f32])> {
        kv.mass.as_ref().map(|mass| mass.of_head(head))
    }

    fn learn<'h>(
        &self,
        s: &mut Scratch,
        l: &CpuLayer,
        kv: &mut Kv,
        new: NewSlots,
        of_head: impl Fn(usize) -> SlotsOfHead<'h> + Sync,
    ) -> Result<()> {
        self.learn_layer(s, l, kv, new, of_head)
    }

    fn leverage<'k>(&self, kv: &'k Kv, head: usize) -> &'k [f32] {
        let leverage = kv.leverage.as_ref();
        leverage.map_or(&[], |leverage| leverage.of_head(&self.decoder, kv.n_cells(), head))
    }

    fn row(&self, kv: &Kv, of: Row, head: usize, slot: u32, out: &mut [f32]) {
        match of {
            Row::Key => kv.key(head, slot, out),
            Row::Value => kv.value(head, slot, out),
        }
    }

    fn queries<'k>(&self, kv: &'k Kv, head: usize) -> &'k [f32] {
        kv.queries.as_ref().map_or(&[], |queries| queries.of_head(&self.decoder, head))
    }

    fn rotation<'s>(&self, s: &'s Scratch, l: &CpuLayer) -> Rotation<'s> {
        let Decoder { rope_layout: layout, attn_scale: scale, .. } = self.decoder;
        Rotation { rope: l.rope.map(|i| &s.frequencies[i]), layout, scale }
    }

    fn forget(&self, kv: &mut Kv) {
        if let Some(leverage) = &mut kv.leverage {
            leverage.clear();
        }
        if let Some(queries) = &mut kv.queries {
            queries.clear();
        }
        kv.forget_recent();
    }

    fn window(&self, layer: &CpuLayer) -> u32 {
        layer.window
    }

    fn shift(
        &self,
        s: &mut Scratch,
        l: &CpuLayer,
        kv: &mut Kv,
        head: usize,
        turns: impl Iterator<Item = (u32, u32)>,
    ) -> Result<()> {
        let Some(rope) = l.rope else { return Ok(()) };
        let f = &s.frequencies[rope];
        let half = f.per_pair.len();
        let (cos, sin) = (&mut s.cos[..half], &mut s.sin[..half]);
        let key = &mut s.k[..self.decoder.head_dim];
        let mut last = None;
        for (cell, by) in turns {
            if last != Some(by) {
                rotations(&f.per_pair, -f64::from(by), 1.0, cos, sin);
                last = Some(by);
            }
            kv.key(head, cell, key);
            self.rotate(key, cos, sin);
            let (store, cell) = kv.store_mut(cell)?;
            store.set_key(self.kernels, head, cell, key);
        }
        if last.is_some() {
            kv.forget_recent_keys();
        }
        Ok(())
    }

    fn compact(&self, kv: &mut Kv, head: usize, n_held: usize, kept: &[u32]) -> Result<()> {
        kv.compact(&self.decoder, head, (n_held, kept))
    }

    fn n_owners(&self, kv: &Kv, tile: usize) -> usize {
        kv.n_owners(tile)
    }

    fn own(&self, kv: &mut Kv, first: u32) -> Result<()> {
        kv.own(first)
    }

    fn tile(&self, kv: &Kv, tile: usize) -> Option<Tile> {
        kv.tile(tile)
    }

    fn swap_tile(&self, kv: &mut Kv, tile: usize, with: Tile) -> Option<Tile> {
        kv.swap_tile(tile, with)
    }

    fn copy_knowledge(&self, from: &Kv, to: &mut Kv, held: &[u32]) {
        if let (Some(to), Some(from)) = (&mut to.mass, &from.mass) {
            held.iter().enumerate().for_each(|(head, &n)| to.copy(from, head, n as usize));
        }
        if let (Some(to), Some(from)) = (&mut to.leverage, &from.leverage) {
            to.copy(from);
        }
        if let (Some(to), Some(from)) = (&mut to.queries, &from.queries) {
            to.copy(from);
        }
    }

    fn copy_cells(&self, from: &Kv, to: &mut Kv) -> Result<()> {
        to.copy_from(from)
    }

    fn row_bytes(&self, kv: &Kv, of: Row, pos: u32) -> usize {
        kv.row_bytes(of, pos)
    }

    fn export(&self, kv: &Kv, of: Row, head: usize, cell: u32, out: &mut [u8]) {
        kv.export(of, head, cell, out);
    }

    fn import(
        &self,
        kv: &mut Kv,
        of: (Row, usize),
        cell: u32,
        pos: &[u32],
        rows: &[u8],
    ) -> Result<()> {
        kv.import(of, cell, pos, rows)
    }

    fn recent_bytes(&self, kv: &Kv, of: Row) -> usize {
        kv.recent_bytes(of)
    }

    fn export_recent(&self, kv: &Kv, of: (Row, usize), end: (u32, u32), out: &mut [u8]) {
        kv.export_recent(of, end, out);
    }

    fn import_recent(&self, kv: &mut Kv, of: (Row, usize), end: (u32, u32), bytes: &[u8]) {
        kv.import_recent(of, end, bytes);
    }

    fn knowledge<'k>(&self, kv: &'k Kv, head: usize, n: usize) -> [&'k [f32]; 3] {
        kv.knowledge(&self.decoder, head, n)
    }

    fn knowledge_mut<'k>(&self, kv: &'k mut Kv, head: usize, n: usize) -> [&'k mut [f32]; 3] {
        kv.knowledge_mut(&self.decoder, head, n)
    }

    fn n_learnt(&self, kv: &Kv) -> u64 {
        let of_queries = kv.queries.as_ref().map_or(0, |queries| queries.n);
        kv.leverage.as_ref().map_or(of_queries, |leverage| leverage.n)
    }

    fn set_n_learnt(&self, kv: &mut Kv, n: u64) {
        if let Some(leverage) = &mut kv.leverage {
            leverage.n = n;
        }
        if let Some(queries) = &mut kv.queries {
            queries.n = n;
        }
    }
}

impl Cpu {
    /// `out = weight * input + bias`, for some rows of the weight and all tokens.
    fn project_part(&self, m: &Matrix, inputs: &Inputs<'_>, out: &mut Columns<'_, f32>) {
        self.matmul(m, inputs, out);
        if let Some(bias) = &m.bias {
            let bias = &bias[out.first()..out.first() + out.len()];
            for t in 0..inputs.n() {
                self.kernels.add(out.row_mut(t), bias);
            }
        }
    }

    /// Projects and adds to the residual stream, through a norm where the model has one there.
    fn project_and_add(
        &self,
        pool: &Pool,
        m: &Matrix,
        inputs: &Inputs<'_>,
        out: Residual<'_>,
        norm: Option<&[f32]>,
        brake: &Brake<'_>,
    ) -> Result<()> {
        let (n, width) = (inputs.n(), Width::spread(m.tensor.n_rows));
        let (x, delta) = (&mut out.x[..width.len(n)], &mut out.delta[..width.len(n)]);
        pool.column_pairs(x, delta, width, ROW_GRAIN, |_, x, delta| {
            for part in parts(n, x.len(), GROUP_ROWS, brake) {
                let (x, delta) = (&mut x.part(part.clone()), &mut delta.part(part));
                self.project_part(m, inputs, delta);
                if norm.is_none() {
                    (0..n).for_each(|t| self.kernels.add(x.row_mut(t), delta.row_mut(t)));
                }
            }
        })?;
        let Some(weight) = norm else { return Ok(()) };
        let normed = &mut out.normed[..width.len(n)];
        self.norm(pool, delta, weight, normed)?;
        pool.rows(x, width.pitch, 8, |_, first, rows| {
            let normed = width.rows(&normed[width.len(first)..]);
            for (x, normed) in width.rows_mut(rows).zip(normed) {
                self.kernels.add(x, normed);
            }
        })
    }

    fn norm(&self, pool: &Pool, x: &[f32], weight: &[f32], out: &mut [f32]) -> Result<()> {
        let width = Width::spread(weight.len());
        pool.rows(out, width.pitch, 8, |_, first, rows| {
            let x = width.rows(&x[width.len(first)..]);
            for (x, out) in x.zip(width.rows_mut(rows)) {
                self.kernels.rms_norm(x, weight, self.decoder.norm_eps, out);
            }
        })
    }

    /// The rotations of rope `i` for the whole batch: `[n_batch][n_dims / 2]` cosines and sines.
    pub(super) fn angles<'s>(
        &self,
        i: usize,
        cos: &'s [f32],
        sin: &'s [f32],
        n_batch: usize,
    ) -> Angles<'s> {
        let before: usize = self.decoder.ropes[..i].iter().map(|r| n_batch * r.n_dims / 2).sum();
        let half = self.decoder.ropes[i].n_dims / 2;
        let range = before..before + n_batch * half;
        Angles { cos: &cos[range.clone()], sin: &sin[range], half }
    }

    /// Norms and rotates heads of token `t`; `raw` takes one head.
    fn turn_heads(
        &self,
        heads: &mut [f32],
        t: usize,
        norm: Option<&[f32]>,
        angles: Option<Angles<'_>>,
        raw: &mut [f32],
    ) {
        for head in heads.chunks_exact_mut(raw.len()) {
            if let Some(weight) = norm {
                raw.copy_from_slice(head);
                self.kernels.rms_norm(raw, weight, self.decoder.norm_eps, head);
            }
            if let Some(a) = angles {
                let at = t * a.half..(t + 1) * a.half;
                self.rotate(head, &a.cos[at.clone()], &a.sin[at]);
            }
        }
    }

    pub(super) fn rotate(&self, head: &mut [f32], cos: &[f32], sin: &[f32]) {
        match self.decoder.rope_layout {
            Layout::Norm => self.kernels.rope_norm(head, cos, sin),
            Layout::Neox => self.kernels.rope_neox(head, cos, sin),
        }
    }
}

/// The residual stream, what is added to it, and room for that when it is normed.
struct Residual<'s> {
    x: &'s mut [f32],
    delta: &'s mut [f32],
    normed: &'s mut [f32],
}

/// Rotations of all tokens of a batch.
#[derive(Clone, Copy)]
pub(super) struct Angles<'s> {
    pub(super) cos: &'s [f32],
    pub(super) sin: &'s [f32],
    pub(super) half: usize,
}

fn rotations(per_pair: &[f64], pos: f64, scale: f64, cos: &mut [f32], sin: &mut [f32]) {
    for (i, &frequency) in per_pair.iter().enumerate() {
        let (s, c) = (pos * frequency).sin_cos();
        cos[i] = (c * scale) as f32;
        sin[i] = (s * scale) as f32;
    }
}

fn soft_cap(x: &mut [f32], cap: f32) {
    x.iter_mut().for_each(|x| *x = cap * (*x / cap).tanh());
}
