//! The CPU: weights packed for its kernels, or as they lie in a mapped file; kernels of the best
//! instruction set; phases cut into chunks of rows for the session's threads.
//!
//! Every number is computed in an order that depends neither on the threads nor on how a prompt
//! was cut into batches; that is what makes logits the same bits for any of them.

mod arena;
mod attention;
mod attention_q8;
mod cache;
mod cache_floats;
mod cache_packed;
mod cache_q8;
mod cache_store;
mod checksum;
mod codec;
mod largest;
mod leverage;
mod mass;
mod packed_cells;
mod parts;
mod phases;
mod queries;
mod recent;
mod scratch;
mod screen;
mod threads;
mod tiles;
mod transfer;
mod weights;

use crate::backend::{Activation, Decoder, Ends, Layer};
use crate::base::cpu::Isa;
use crate::base::error::Result;
use crate::base::file::Bytes;
use crate::base::memory::HugePages;
use crate::base::pool::Pool;
use crate::base::shared::Shared;
use crate::kernel::Kernels;

use arena::Arena;
use threads::Found;

pub use arena::{Read, grow, pack, tensors};
pub use cache::{Kv, Room, Tile};
pub use scratch::Scratch;
pub use weights::{CpuEnds, CpuLayer, bad_block};

/// A decoder's weights on the CPU.
pub struct Cpu {
    decoder: Decoder,
    bytes: Shared<Bytes>,
    /// Where tensors lie in `bytes`, if that is not the file's data.
    arena: Option<Arena>,
    /// Its matrices are packed, by itself or in the file.
    packed: bool,
    kernels: &'static Kernels,
    /// How many threads its sessions have found to be fastest.
    found: Found,
}

impl Cpu {
    /// A device for the weights in `bytes`, with the kernels of `isa`. They lie as in the file, which
    /// may be a packed one.
    pub fn new(decoder: Decoder, bytes: Shared<Bytes>, isa: Isa, packed: bool) -> Cpu {
        let (kernels, found) = (Kernels::for_isa(isa), Found::default());
        Cpu { decoder, bytes, arena: None, packed, kernels, found }
    }

    /// The instruction set of its panels; `None` where weights lie as in the file, from which there
    /// are none.
    pub fn panels(&self) -> Option<Isa> {
        self.packed.then(|| self.isa())
    }

    /// Whether the kernels of `isa` are made for packed weights ([`Cpu::packed`]).
    pub fn packs(isa: Isa) -> bool {
        Kernels::for_isa(isa).packs()
    }

    /// Bytes that [`Cpu::packed`] takes for the weights.
    pub fn packed_bytes(layers: &[Layer], ends: &Ends) -> Result<u64> {
        Ok(Arena::new(layers, ends)?.len() as u64)
    }

    /// A device with weights of its own, packed for the kernels of `isa` by the threads of `pool`.
    /// `read` gives a tensor's bytes; it is asked for each byte once, and roughly in the file's order.
    /// One of the threads first runs `beside`. `progress` is told, by the calling thread, how many
    /// bytes have been read. Of several errors the first in the file comes back.
    pub fn packed(
        decoder: Decoder,
        (layers, ends): (&[Layer], &Ends),
        (isa, huge): (Isa, HugePages),
        pool: &Pool,
        read: Read<'_>,
        beside: &(dyn Fn() + Sync),
        progress: &mut dyn FnMut(usize) -> Result<()>,
    ) -> Result<Cpu> {
        let arena = Arena::new(layers, ends)?;
        let fill = |bytes: &mut [u8]| arena.fill(bytes, pool, read, beside, progress);
        let bytes = Shared::new(Bytes::build(arena.len(), huge, fill)?)?;
        Ok(Cpu { arena: Some(arena), ..Cpu::new(decoder, bytes, isa, true) })
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
