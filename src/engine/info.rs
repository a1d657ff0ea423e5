//! The state of a session, in numbers.

use crate::backend::cpu::Cpu;

use super::plan::session_bytes;
use super::session::{Session, windows};

/// The state of a session.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SessionInfo {
    /// Cells of the KV cache.
    pub n_ctx: u32,
    /// Tokens evaluated at once.
    pub n_batch: u32,
    /// Tokens held.
    pub n_kv: u32,
    /// Position that the next token will have.
    pub pos: u32,
    /// Bytes of the KV cache, shared ones included.
    pub kv_bytes: u64,
    /// Bytes of those that other sessions share: they are there once for all of them.
    pub kv_shared_bytes: u64,
    /// Bytes of everything else.
    pub scratch_bytes: u64,
    /// Tokens evaluated many at a time.
    pub n_prefill: u64,
    /// Nanoseconds that took.
    pub prefill_ns: u64,
    /// Tokens evaluated one at a time.
    pub n_decode: u64,
    /// Nanoseconds that took.
    pub decode_ns: u64,
    /// Tokens evicted.
    pub n_evicted: u64,
    /// Tokens drafted, and those of them that were chosen.
    pub n_drafted: u64,
    /// See `n_drafted`.
    pub n_accepted: u64,
    /// Threads that the next token will be evaluated with.
    pub n_threads: u32,
    /// Threads that the next prompt will be evaluated with.
    pub n_threads_batch: u32,
    /// Bytes that are locked in RAM: all of the buffers, or as many as the system allowed.
    pub locked_bytes: u64,
    /// Slots of each KV head that stay in use as tokens come; 0 = all.
    pub kv_budget: u32,
    /// Times that tokens were evicted.
    pub n_evictions: u64,
    /// The longest time that a token had to wait for that, in nanoseconds.
    pub longest_stall_ns: u64,
    /// The part of the last queries' attention that stayed when tokens were evicted last, in
    /// thousandths; 0 = not counted, or nothing was evicted.
    pub retained: u32,
}

impl Session {
    /// Bytes of the KV cache of a session like this, and of everything else; so many of its tiles are
    /// another's.
    pub(super) fn bytes(&self, n_shared: usize) -> (u64, u64) {
        let backend = &self.runner.weights.backend;
        let shape = self.params.shape(backend.panels(), n_shared);
        session_bytes(backend.decoder(), windows(&self.model), &self.params, &shape)
    }

    /// The state of the session.
    pub fn info(&self) -> SessionInfo {
        let backend = &self.runner.weights.backend;
        let (kv_bytes, scratch_bytes) = self.bytes(0);
        let tile_bytes =
            Cpu::tile_bytes(backend.decoder(), &self.params.shape(backend.panels(), 0));
        let (n_threads, n_threads_batch) = self.runner.scratch.n_threads();
        SessionInfo {
            n_ctx: self.params.n_ctx as u32,
            n_batch: self.params.n_batch as u32,
            n_kv: self.runner.cache.n_held() as u32,
            pos: self.runner.cache.next_pos(),
            kv_bytes,
            kv_shared_bytes: self.runner.cache.n_shared(backend) as u64 * tile_bytes,
            scratch_bytes,
            n_prefill: self.times.n_prefill,
            prefill_ns: self.times.prefill_ns,
            n_decode: self.times.n_decode,
            decode_ns: self.times.decode_ns,
            n_evicted: self.runner.n_evicted(),
            n_drafted: self.generation.n_drafted,
            n_accepted: self.generation.n_accepted,
            n_threads: n_threads as u32,
            n_threads_batch: n_threads_batch as u32,
            locked_bytes: self.locked_bytes,
            kv_budget: self.runner.cache.rule().and_then(|rule| rule.budget).unwrap_or(0) as u32,
            n_evictions: self.runner.n_evictions,
            longest_stall_ns: self.longest_stall_ns,
            retained: (self.runner.cache.retained().unwrap_or(0.0) * 1000.0) as u32,
        }
    }
}
