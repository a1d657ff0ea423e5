//! A layer's weights, ready for the phases: matrices by place, vectors decoded.

use std::ops::Range;

use crate::backend::{Ends, Layer, Projection, TensorRef};
use crate::base::aligned::Buffer;
use crate::base::dtype::DType;
use crate::base::error::{Error, Result, err};
use crate::base::pool::Columns;
use crate::kernel::{Packed, Weight};
use crate::quant::{self, p16};

use super::Cpu;
use super::scratch::Inputs;
use super::screen::Screen;

/// A projection: where its matrix lies, and its bias.
pub(super) struct Matrix {
    pub(super) tensor: TensorRef,
    /// Its bytes, in those of the device.
    at: Range<usize>,
    /// Whether they are packed.
    packed: bool,
    /// Whether it is multiplied exactly under fast numerics, too.
    is_exact: bool,
    pub(super) bias: Option<Buffer<f32>>,
}

impl Matrix {
    /// Whether many tokens may be multiplied with it by panels.
    pub(super) fn has_panels(&self) -> bool {
        self.packed && self.tensor.dtype.is_quantised() && !self.is_exact
    }

    /// The same, and exact under fast numerics, too.
    fn exact(self) -> Matrix {
        Matrix { is_exact: true, ..self }
    }
}

/// The weights of one layer.
pub struct CpuLayer {
    pub(super) attn_norm: Buffer<f32>,
    pub(super) q: Matrix,
    pub(super) k: Matrix,
    pub(super) v: Matrix,
    pub(super) q_norm: Option<Buffer<f32>>,
    pub(super) k_norm: Option<Buffer<f32>>,
    pub(super) attn_out: Matrix,
    pub(super) post_attn_norm: Option<Buffer<f32>>,
    pub(super) ffn_norm: Buffer<f32>,
    pub(super) gate: Matrix,
    pub(super) up: Matrix,
    pub(super) down: Matrix,
    pub(super) post_ffn_norm: Option<Buffer<f32>>,
    pub(super) window: u32,
    pub(super) rope: Option<usize>,
}

/// The weights outside the layers.
pub struct CpuEnds {
    pub(super) embd: Matrix,
    pub(super) norm: Buffer<f32>,
    pub(super) head: Matrix,
    /// What screens the head, if the model was loaded so.
    pub(super) screen: Option<Screen>,
}

impl Cpu {
    /// Takes over one layer.
    pub fn layer(&self, layer: &Layer) -> Result<CpuLayer> {
        Ok(CpuLayer {
            attn_norm: self.vector(&layer.attn_norm)?,
            q: self.matrix(&layer.q)?,
            // What the cache keeps is met again by every later token, and what goes back to the
            // residual stream comes from activations with the widest range: rounded to one scale for
            // 256, these cost most of what perplexity loses, and are a third of the weights.
            k: self.matrix(&layer.k)?.exact(),
            v: self.matrix(&layer.v)?.exact(),
            q_norm: self.optional(layer.q_norm)?,
            k_norm: self.optional(layer.k_norm)?,
            attn_out: self.matrix(&layer.attn_out)?,
            post_attn_norm: self.optional(layer.post_attn_norm)?,
            ffn_norm: self.vector(&layer.ffn_norm)?,
            gate: self.matrix(&layer.gate)?,
            up: self.matrix(&layer.up)?,
            down: self.matrix(&layer.down)?.exact(),
            post_ffn_norm: self.optional(layer.post_ffn_norm)?,
            window: layer.window,
            rope: layer.rope,
        })
    }

    /// Takes over the tables outside the layers.
    pub fn ends(&self, ends: &Ends) -> Result<CpuEnds> {
        Ok(CpuEnds {
            embd: self.table(&ends.embd, None)?,
            norm: self.vector(&ends.norm)?,
            head: self.matrix(&ends.head)?,
            screen: None,
        })
    }

    /// The first block of a tensor that holds a number which is not finite.
    pub fn first_bad_block(&self, tensor: &TensorRef) -> Option<usize> {
        quant::check_finite(tensor.dtype, self.tensor_bytes(tensor))
    }

    /// The bytes of a tensor, and whether they are packed. Ranges were checked against the file when
    /// it was parsed, or made with the arena.
    pub(super) fn place(&self, tensor: &TensorRef) -> Result<(Range<usize>, bool)> {
        let Some(arena) = &self.arena else { return Ok((tensor.range(), tensor.packed)) };
        let place = arena.place(tensor).ok_or_else(|| err!(Internal, "a tensor has no place"))?;
        Ok((place.range(), place.packed))
    }

    /// The bytes of a tensor in the file's layout.
    fn tensor_bytes(&self, tensor: &TensorRef) -> &[u8] {
        match self.place(tensor) {
            Ok((range, false)) => &self.bytes.as_slice()[range],
            _ => &[],
        }
    }

    /// Decodes row `row` of a matrix.
    pub(super) fn decode_row(&self, m: &Matrix, row: usize, out: &mut [f32]) {
        let (t, bytes) = (&m.tensor, &self.bytes.as_slice()[m.at.clone()]);
        if m.packed {
            return p16::decode_row(t.dtype, t.n_cols, bytes, row, out);
        }
        let row_bytes = bytes.len() / t.n_rows;
        quant::decode_row(t.dtype, &bytes[row * row_bytes..][..row_bytes], out);
    }

    /// Multiplies a matrix with activations: the columns of `out`.
    pub(super) fn matmul(&self, m: &Matrix, inputs: &Inputs<'_>, out: &mut Columns<'_, f32>) {
        let TensorRef { dtype, n_cols: k, n_rows, .. } = m.tensor;
        let bytes = &self.bytes.as_slice()[m.at.clone()];
        if !m.packed {
            let w = Weight { dtype, k, n_rows, bytes };
            return self.kernels.matmul(&w, &inputs.exact, out);
        }
        let w = Packed { dtype, k, n_rows, bytes };
        match &inputs.tiles {
            Some(tiles) if m.has_panels() => self.kernels.matmul_panel(&w, tiles, out),
            _ => self.kernels.matmul_packed(&w, &inputs.exact, out),
        }
    }

    fn matrix(&self, projection: &Projection) -> Result<Matrix> {
        self.table(&projection.weight, projection.bias)
    }

    pub(super) fn table(&self, tensor: &TensorRef, bias: Option<TensorRef>) -> Result<Matrix> {
        let (at, packed) = self.place(tensor)?;
        // Types of 6 bits and more are what a file wants precise, and rounding them to one scale for
        // 256 costs more than it does where they were rounded to 4 bits before.
        let is_exact = matches!(tensor.dtype, DType::Q6K | DType::Q8_0);
        Ok(Matrix { tensor: *tensor, at, packed, is_exact, bias: self.optional(bias)? })
    }

    fn optional(&self, tensor: Option<TensorRef>) -> Result<Option<Buffer<f32>>> {
        tensor.map(|t| self.vector(&t)).transpose()
    }

    fn vector(&self, tensor: &TensorRef) -> Result<Buffer<f32>> {
        let mut out = Buffer::<f32>::zeroed(tensor.n_cols)?;
        if tensor.n_rows != 1 || tensor.bytes == 0 {
            return Err(not_a_vector(tensor));
        }
        quant::decode_row(tensor.dtype, self.tensor_bytes(tensor), &mut out);
        Ok(out)
    }
}

/// The first of whole blocks that holds a number which is not finite, counted from 0.
pub fn bad_block(dtype: DType, bytes: &[u8]) -> Option<usize> {
    quant::check_finite(dtype, bytes)
}

fn not_a_vector(tensor: &TensorRef) -> Error {
    err!(Internal, "a tensor of {} x {} was taken for a vector", tensor.n_rows, tensor.n_cols)
}
