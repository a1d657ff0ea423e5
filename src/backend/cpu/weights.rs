//! A layer's weights, ready for the phases: matrices by place, vectors decoded.

use crate::backend::{Ends, Layer, Projection, TensorRef};
use crate::base::aligned::Buffer;
use crate::base::error::{Error, Result, err};
use crate::kernel::Weight;
use crate::quant;

use super::Cpu;

/// A projection: where its matrix lies, and its bias.
pub(super) struct Matrix {
    pub(super) tensor: TensorRef,
    pub(super) bias: Option<Buffer<f32>>,
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
    pub(super) embd: TensorRef,
    pub(super) norm: Buffer<f32>,
    pub(super) head: Matrix,
}

impl Cpu {
    /// Takes over one layer.
    pub fn layer(&self, layer: &Layer) -> Result<CpuLayer> {
        Ok(CpuLayer {
            attn_norm: self.vector(&layer.attn_norm)?,
            q: self.matrix(&layer.q)?,
            k: self.matrix(&layer.k)?,
            v: self.matrix(&layer.v)?,
            q_norm: self.optional(layer.q_norm)?,
            k_norm: self.optional(layer.k_norm)?,
            attn_out: self.matrix(&layer.attn_out)?,
            post_attn_norm: self.optional(layer.post_attn_norm)?,
            ffn_norm: self.vector(&layer.ffn_norm)?,
            gate: self.matrix(&layer.gate)?,
            up: self.matrix(&layer.up)?,
            down: self.matrix(&layer.down)?,
            post_ffn_norm: self.optional(layer.post_ffn_norm)?,
            window: layer.window,
            rope: layer.rope,
        })
    }

    /// Takes over the tables outside the layers.
    pub fn ends(&self, ends: &Ends) -> Result<CpuEnds> {
        Ok(CpuEnds {
            embd: ends.embd,
            norm: self.vector(&ends.norm)?,
            head: self.matrix(&ends.head)?,
        })
    }

    /// The first block of a tensor that holds a number which is not finite.
    pub fn first_bad_block(&self, tensor: &TensorRef) -> Option<usize> {
        quant::check_finite(tensor.dtype, self.tensor_bytes(tensor))
    }

    /// The tensor's bytes. Ranges were checked against the file when it was parsed.
    pub(super) fn tensor_bytes(&self, tensor: &TensorRef) -> &[u8] {
        &self.bytes.as_slice()[tensor.range()]
    }

    pub(super) fn weight(&self, tensor: &TensorRef) -> Weight<'_> {
        let bytes = self.tensor_bytes(tensor);
        Weight { dtype: tensor.dtype, k: tensor.n_cols, n_rows: tensor.n_rows, bytes }
    }

    fn matrix(&self, projection: &Projection) -> Result<Matrix> {
        Ok(Matrix { tensor: projection.weight, bias: self.optional(projection.bias)? })
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

fn not_a_vector(tensor: &TensorRef) -> Error {
    err!(Internal, "a tensor of {} x {} was taken for a vector", tensor.n_rows, tensor.n_cols)
}
