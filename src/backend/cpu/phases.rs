//! The phases of a decoder on the CPU.

use crate::backend::rope::Layout;
use crate::backend::{Backend, Batch};
use crate::base::error::{Result, err};
use crate::base::pool::Pool;
use crate::kernel::Activations;

use super::weights::Matrix;
use super::{Cpu, CpuEnds, CpuLayer, Kv, Scratch};

/// Rows of a weight in the smallest chunk that a thread takes: two groups of packed ones, and a whole
/// number of cache lines of output, so that two threads do not write to one.
const ROW_GRAIN: usize = 32;

impl Backend for Cpu {
    type Layer = CpuLayer;
    type Ends = CpuEnds;
    type Scratch = Scratch;
    type Kv = Kv;

    fn embed(&self, s: &mut Scratch, ends: &CpuEnds, batch: &Batch<'_>) -> Result<()> {
        let n = batch.tokens.len();
        s.pool.limit(if n == 1 { s.n_threads.0 } else { s.n_threads.1 });
        let n_embd = self.decoder.n_embd;
        for (row, &token) in s.x.chunks_exact_mut(n_embd).zip(batch.tokens) {
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
            for ((cos, sin), &pos) in cos.zip(sin).zip(batch.positions) {
                rotations(&f.per_pair, f64::from(pos), f.scale, cos, sin);
            }
        }
        Ok(())
    }

    fn qkv(&self, s: &mut Scratch, l: &CpuLayer, kv: &mut Kv, batch: &Batch<'_>) -> Result<()> {
        let (n, d) = (batch.tokens.len(), &self.decoder);
        let n_embd = d.n_embd;
        self.norm(&s.pool, &s.x[..n * n_embd], &l.attn_norm, &mut s.normed[..n * n_embd])?;
        let act = s.codes.quantise(self, &s.pool, &s.normed, n, &[&l.q, &l.k, &l.v])?;
        // A head's norm does not work in place: what it reads waits in a buffer that is free now.
        let q_raw = if l.q_norm.is_some() { &mut s.mixed } else { &mut s.q };
        self.project(&s.pool, &l.q, &act, q_raw)?;
        let k_raw = if l.k_norm.is_some() { &mut s.v } else { &mut s.k };
        self.project(&s.pool, &l.k, &act, k_raw)?;
        let angles = l.rope.map(|i| self.angles(i, &s.cos, &s.sin, s.n_batch));
        let (q_width, kv_width) = (d.n_head * d.head_dim, d.n_head_kv * d.head_dim);
        let q_norm = l.q_norm.as_deref().map(|weight| (&s.mixed[..], weight));
        self.turn_heads(&s.pool, &mut s.q[..n * q_width], q_width, q_norm, angles)?;
        let k_norm = l.k_norm.as_deref().map(|weight| (&s.v[..], weight));
        self.turn_heads(&s.pool, &mut s.k[..n * kv_width], kv_width, k_norm, angles)?;
        self.project(&s.pool, &l.v, &act, &mut s.v)?;

        let (k, v) = (&s.k[..n * kv_width], &s.v[..n * kv_width]);
        kv.fill(self.kernels, &s.pool, batch.cells, k, v)
    }

    fn attend(&self, s: &mut Scratch, l: &CpuLayer, kv: &Kv, batch: &Batch<'_>) -> Result<()> {
        self.attend_all(s, l, kv, batch)
    }

    fn attn_out(&self, s: &mut Scratch, l: &CpuLayer, n: usize) -> Result<()> {
        let act = s.codes.quantise(self, &s.pool, &s.mixed, n, &[&l.attn_out])?;
        self.project(&s.pool, &l.attn_out, &act, &mut s.delta)?;
        self.add(s, n, l.post_attn_norm.as_deref())
    }

    fn ffn_up(&self, s: &mut Scratch, l: &CpuLayer, n: usize) -> Result<()> {
        let (n_embd, n_ff) = (self.decoder.n_embd, self.decoder.n_ff);
        self.norm(&s.pool, &s.x[..n * n_embd], &l.ffn_norm, &mut s.normed[..n * n_embd])?;
        let act = s.codes.quantise(self, &s.pool, &s.normed, n, &[&l.gate, &l.up])?;
        self.project(&s.pool, &l.gate, &act, &mut s.gate)?;
        self.project(&s.pool, &l.up, &act, &mut s.up)?;
        let up = &s.up;
        s.pool.rows(&mut s.gate[..n * n_ff], n_ff, 1, |_, first, rows| {
            self.activate(rows, &up[first * n_ff..][..rows.len()]);
        })
    }

    fn ffn_down(&self, s: &mut Scratch, l: &CpuLayer, n: usize) -> Result<()> {
        let act = s.codes.quantise(self, &s.pool, &s.gate, n, &[&l.down])?;
        self.project(&s.pool, &l.down, &act, &mut s.delta)?;
        self.add(s, n, l.post_ffn_norm.as_deref())
    }

    fn head(&self, s: &mut Scratch, ends: &CpuEnds, batch: &Batch<'_>) -> Result<()> {
        let (n, n_embd) = (batch.outputs.len(), self.decoder.n_embd);
        if n == 0 {
            return Ok(());
        }
        for (&t, out) in batch.outputs.iter().zip(s.normed.chunks_exact_mut(n_embd)) {
            let x = &s.x[t as usize * n_embd..][..n_embd];
            self.kernels.rms_norm(x, &ends.norm, self.decoder.norm_eps, out);
        }
        let act = s.codes.quantise(self, &s.pool, &s.normed, n, &[&ends.head])?;
        let n_vocab = self.decoder.n_vocab;
        let logits = &mut s.logits[batch.first_output * n_vocab..];
        self.project(&s.pool, &ends.head, &act, logits)?;
        let cap = self.decoder.logit_softcap;
        if cap != 0.0 {
            let logits = &mut s.logits[batch.first_output * n_vocab..][..n * n_vocab];
            s.pool.rows(logits, 1, 4096, |_, _, part| soft_cap(part, cap))?;
        }
        Ok(())
    }

    fn logits<'s>(&self, s: &'s Scratch, row: usize) -> Result<&'s [f32]> {
        let n_vocab = self.decoder.n_vocab;
        s.logits
            .chunks_exact(n_vocab)
            .nth(row)
            .ok_or_else(|| err!(InvalidArgument, "no row {row} of logits"))
    }

    fn shift(
        &self,
        s: &mut Scratch,
        l: &CpuLayer,
        kv: &mut Kv,
        cells: &[u32],
        delta: u32,
    ) -> Result<()> {
        let Some(rope) = l.rope else { return Ok(()) };
        let width = self.decoder.n_head_kv * self.decoder.head_dim;
        let f = &s.frequencies[rope];
        let half = f.per_pair.len();
        let (cos, sin) = (&mut s.cos[..half], &mut s.sin[..half]);
        rotations(&f.per_pair, -f64::from(delta), 1.0, cos, sin);
        let row = &mut s.k[..width];
        for &cell in cells {
            kv.key(cell, row);
            for head in row.chunks_exact_mut(self.decoder.head_dim) {
                self.rotate(head, cos, sin);
            }
            kv.set_key(self.kernels, cell, row);
        }
        Ok(())
    }

    fn copy_cells(&self, from: &Kv, to: &mut Kv, cells: &[u32]) -> Result<()> {
        to.copy(from, cells);
        Ok(())
    }
}

impl Cpu {
    /// `out = weight * input + bias` for all tokens; `out` is `[n][n_rows]` from its start.
    fn project(
        &self,
        pool: &Pool,
        m: &Matrix,
        act: &Activations<'_>,
        out: &mut [f32],
    ) -> Result<()> {
        let n_rows = m.tensor.n_rows;
        // About four chunks for each thread: few enough to be cheap, enough to even out.
        let share = n_rows.div_ceil(4 * pool.n_active());
        let grain = share.next_multiple_of(ROW_GRAIN);
        pool.columns(&mut out[..act.n * n_rows], n_rows, grain, |_, part| {
            self.matmul(m, act, part);
            if let Some(bias) = &m.bias {
                let bias = &bias[part.first()..part.first() + part.len()];
                for t in 0..act.n {
                    self.kernels.add(part.row_mut(t), bias);
                }
            }
        })
    }

    fn norm(&self, pool: &Pool, x: &[f32], weight: &[f32], out: &mut [f32]) -> Result<()> {
        let width = weight.len();
        pool.rows(out, width, 8, |_, first, rows| {
            let x = x[first * width..].chunks_exact(width);
            for (x, out) in x.zip(rows.chunks_exact_mut(width)) {
                self.kernels.rms_norm(x, weight, self.decoder.norm_eps, out);
            }
        })
    }

    /// Adds `delta` to the residual stream, through a norm where the model has one there.
    fn add(&self, s: &mut Scratch, n: usize, norm: Option<&[f32]>) -> Result<()> {
        let width = self.decoder.n_embd;
        if let Some(weight) = norm {
            self.norm(&s.pool, &s.delta[..n * width], weight, &mut s.normed[..n * width])?;
        }
        let delta = if norm.is_some() { &s.normed } else { &s.delta };
        s.pool.rows(&mut s.x[..n * width], width, 8, |_, first, rows| {
            self.kernels.add(rows, &delta[first * width..][..rows.len()]);
        })
    }

    /// The rotations of rope `i` for the whole batch: `[n_batch][n_dims / 2]` cosines and sines.
    fn angles<'s>(&self, i: usize, cos: &'s [f32], sin: &'s [f32], n_batch: usize) -> Angles<'s> {
        let before: usize = self.decoder.ropes[..i].iter().map(|r| n_batch * r.n_dims / 2).sum();
        let half = self.decoder.ropes[i].n_dims / 2;
        let range = before..before + n_batch * half;
        Angles { cos: &cos[range.clone()], sin: &sin[range], half }
    }

    /// Norms, from another buffer, and rotates each head of each token.
    fn turn_heads(
        &self,
        pool: &Pool,
        out: &mut [f32],
        width: usize,
        norm: Option<(&[f32], &[f32])>,
        angles: Option<Angles<'_>>,
    ) -> Result<()> {
        let d = self.decoder.head_dim;
        pool.rows(out, width, 4, |_, first, rows| {
            for (i, head) in rows.chunks_exact_mut(d).enumerate() {
                if let Some((raw, weight)) = norm {
                    let raw = &raw[first * width + i * d..][..d];
                    self.kernels.rms_norm(raw, weight, self.decoder.norm_eps, head);
                }
                if let Some(a) = angles {
                    let t = first + i * d / width;
                    let at = t * a.half..(t + 1) * a.half;
                    self.rotate(head, &a.cos[at.clone()], &a.sin[at]);
                }
            }
        })
    }

    fn rotate(&self, head: &mut [f32], cos: &[f32], sin: &[f32]) {
        match self.decoder.rope_layout {
            Layout::Norm => self.kernels.rope_norm(head, cos, sin),
            Layout::Neox => self.kernels.rope_neox(head, cos, sin),
        }
    }
}

/// Rotations of all tokens of a batch.
#[derive(Clone, Copy)]
struct Angles<'s> {
    cos: &'s [f32],
    sin: &'s [f32],
    half: usize,
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
