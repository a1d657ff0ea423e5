//! The CPU: weights packed for its kernels, or as they lie in a mapped file; kernels of the best
//! instruction set; phases cut into chunks of rows for the session's threads.
//!
//! Every number is computed in an order that depends neither on the threads nor on how a prompt
//! was cut into batches; that is what makes logits the same bits for any of them.

mod arena;
mod attention;
mod attention_q8;
mod cache;
mod cache_q8;
mod phases;
mod scratch;
mod screen;
mod threads;
mod tiles;
mod weights;

use std::sync::Arc;

use crate::backend::{Activation, Decoder, Ends, Layer};
use crate::base::cpu::Isa;
use crate::base::error::Result;
use crate::base::file::Bytes;
use crate::base::memory::HugePages;
use crate::kernel::Kernels;

use arena::Arena;
use threads::Found;

pub use arena::Read;
pub use cache::Kv;
pub use scratch::Scratch;
pub use weights::{CpuEnds, CpuLayer, bad_block};

/// A decoder's weights on the CPU.
pub struct Cpu {
    decoder: Decoder,
    bytes: Arc<Bytes>,
    /// Where tensors lie in `bytes`, if that is not the file's data.
    arena: Option<Arena>,
    kernels: &'static Kernels,
    /// How many threads its sessions have found to be fastest.
    found: Found,
}

impl Cpu {
    /// A device for the weights in `bytes`, with the kernels of `isa`.
    pub fn new(decoder: Decoder, bytes: Arc<Bytes>, isa: Isa) -> Cpu {
        Cpu { decoder, bytes, arena: None, kernels: Kernels::for_isa(isa), found: Found::default() }
    }

    /// Whether the kernels of `isa` are made for packed weights ([`Cpu::packed`]).
    pub fn packs(isa: Isa) -> bool {
        Kernels::for_isa(isa).packs()
    }

    /// Bytes that [`Cpu::packed`] takes for the weights.
    pub fn packed_bytes(layers: &[Layer], ends: &Ends) -> Result<u64> {
        Ok(Arena::new(layers, ends)?.len() as u64)
    }

    /// A device with weights of its own, packed for the kernels of `isa`. `read` gives a tensor's
    /// bytes; it is asked for each byte once, in the file's order.
    pub fn packed(
        decoder: Decoder,
        layers: &[Layer],
        ends: &Ends,
        isa: Isa,
        huge: HugePages,
        read: Read<'_>,
    ) -> Result<Cpu> {
        let arena = Arena::new(layers, ends)?;
        let bytes = Bytes::build(arena.len(), huge, |bytes| arena.fill(bytes, read))?;
        let bytes = Arc::new(bytes);
        Ok(Cpu { arena: Some(arena), ..Cpu::new(decoder, bytes, isa) })
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
