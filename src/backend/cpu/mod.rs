//! The CPU: weights as they lie in the file, kernels of the best instruction set, phases cut into
//! chunks of rows for the session's threads.
//!
//! Every number is computed in an order that depends neither on the threads nor on how a prompt
//! was cut into batches; that is what makes logits the same bits for any of them.

mod attention;
mod cache;
mod phases;
mod scratch;
mod weights;

use std::sync::Arc;

use crate::backend::{Activation, Decoder};
use crate::base::cpu::Isa;
use crate::base::file::Bytes;
use crate::kernel::Kernels;

pub use cache::Kv;
pub use scratch::Scratch;
pub use weights::{CpuEnds, CpuLayer};

/// A decoder's weights on the CPU.
pub struct Cpu {
    decoder: Decoder,
    bytes: Arc<Bytes>,
    kernels: &'static Kernels,
}

impl Cpu {
    /// A device for the weights in `bytes`, with the kernels of `isa`.
    pub fn new(decoder: Decoder, bytes: Arc<Bytes>, isa: Isa) -> Cpu {
        Cpu { decoder, bytes, kernels: Kernels::for_isa(isa) }
    }

    /// What it computes.
    pub fn decoder(&self) -> &Decoder {
        &self.decoder
    }

    /// The instruction set of its kernels.
    pub fn isa(&self) -> Isa {
        self.kernels.isa()
    }

    /// The bytes of the weights.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    fn activate(&self, gate: &mut [f32], up: &[f32]) {
        match self.decoder.activation {
            Activation::Silu => self.kernels.silu_mul(gate, up),
            Activation::Gelu => self.kernels.gelu_mul(gate, up),
        }
    }
}
