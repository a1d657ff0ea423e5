//! Bytes that a model and a session will take, before any of them is allocated.

use crate::backend::cpu::Cpu;
use crate::backend::{Decoder, Shape};
use crate::base::cpu::Isa;
use crate::base::error::{Result, err};
use crate::base::memory;
use crate::kv::cache::Cache;

use super::params::{Numerics, Resolved};

/// Bytes needed, by what for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Weights in memory of their own; 0 when the file is mapped.
    pub weights_bytes: u64,
    /// Weights in the page cache, shared with other processes; 0 when the file is copied.
    pub mapped_bytes: u64,
    /// Metadata and vocabulary.
    pub vocab_bytes: u64,
    /// Keys and values of one session.
    pub kv_bytes: u64,
    /// Activations and logits of one session.
    pub scratch_bytes: u64,
    /// All of these but what is mapped.
    pub total_bytes: u64,
}

impl Resolved {
    /// The shape of a session on a device with these kernels for panels, if it has any. `n_shared`: tiles
    /// of another session's that it begins with.
    pub(super) fn shape(&self, panels: Option<Isa>, n_shared: usize) -> Shape {
        Shape {
            n_ctx: self.n_ctx,
            n_cells: self.capacity.n_cells,
            tiled: self.capacity.tiled,
            n_batch: self.n_batch,
            n_logits: self.n_logits,
            k_type: self.k_type,
            v_type: self.v_type,
            screened: self.screened,
            n_threads: self.most_threads,
            n_decode: self.n_threads,
            n_prefill: self.n_threads_batch,
            panels: panels.filter(|_| self.numerics == Numerics::Fast),
            observing: self.observing(),
            queries: self.queries(),
            leverage: self.rule.is_some_and(|rule| rule.needs().leverage),
            n_turns: self.capacity.n_turns as usize,
            n_shared,
        }
    }
}

/// Bytes of the KV cache of a session, and of everything else in it. `windows`: of the layers.
pub(super) fn session_bytes(
    d: &Decoder,
    windows: impl Iterator<Item = u32> + Clone,
    params: &Resolved,
    shape: &Shape,
) -> (u64, u64) {
    let layers = windows.clone().map(|window| Cpu::kv_bytes(d, shape, window));
    let cache = Cache::<Cpu>::bytes(windows, d.n_head_kv, params.capacity, params.rule);
    let kv = layers.sum::<u64>() + cache;
    let sampling = crate::sampler::Scratch::bytes(d.n_vocab);
    (kv, Cpu::scratch_bytes(d, shape) + sampling)
}

/// Fails with `OutOfMemory` if the system has less to give. Asking it for pages that it has not got
/// would not fail: it would end this process, or another. And the number that is asked for may come
/// from a file, as the length of the context does.
pub(super) fn check_memory(what: &str, bytes: u64) -> Result<()> {
    let free = memory::available();
    if bytes > free {
        return Err(err!(OutOfMemory, "{what}: {bytes} bytes, and {free} are free"));
    }
    Ok(())
}
