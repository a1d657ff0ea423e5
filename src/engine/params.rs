//! What a caller can choose. Zero is the default of every number.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::base::clock;
use crate::base::cpu::{self, Isa};
use crate::base::error::{Result, err};
use crate::base::file::LoadMode;
use crate::kv::policy;

use super::load::ModelInfo;

/// Tokens evaluated at once where the caller does not say.
const DEFAULT_BATCH: u32 = 512;
/// The most threads that a session can have.
const MOST_THREADS: u32 = 256;
/// The most cells that a session can have.
const MOST_CELLS: u32 = 1 << 30;

/// How to load a model.
#[derive(Clone, Copy, Debug, Default)]
pub struct ModelParams {
    /// The device that holds the weights; 0 = the CPU.
    pub device: u32,
    /// How the file's bytes come into memory; `None` = copied if they fit in half of the memory
    /// that is free, else mapped and guarded.
    pub load_mode: Option<LoadMode>,
    /// The instruction set of the kernels; `None` = the best there is.
    pub isa: Option<Isa>,
}

/// How numbers are rounded where many tokens are evaluated together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Numerics {
    /// As for one token: logits are the same bits however a prompt was cut.
    #[default]
    Exact,
    /// 32 tokens and more by panels: quantised weights as 8 bits with one scale for 256, activations
    /// with one for 32. Faster; logits then depend on how a prompt was cut, but not on threads.
    Fast,
}

/// How to make a session.
#[derive(Clone, Copy, Debug, Default)]
pub struct SessionParams {
    /// Cells of the KV cache; 0 = as many as the model was trained on.
    pub n_ctx: u32,
    /// Tokens evaluated at once; 0 = 512.
    pub n_batch: u32,
    /// Threads that evaluate one token, the caller's included; 0 = one for each performance core.
    pub n_threads: u32,
    /// Threads that evaluate many; 0 = the same.
    pub n_threads_batch: u32,
    /// Rows of logits that one eval can ask for; 0 = 1.
    pub n_logits: u32,
    /// Type of keys and values; 0 = F16, 1 = F32.
    pub kv_dtype: u32,
    /// Evict by the window policy when the cache is full, instead of failing.
    pub auto_evict: bool,
    /// First tokens that automatic eviction keeps; 0 = 4.
    pub n_sink: u32,
    /// Tokens that automatic eviction keeps in all; 0 = half of `n_ctx`.
    pub n_keep: u32,
    /// How many tokens are evaluated together.
    pub numerics: Numerics,
}

/// A session's parameters with every default filled in, and checked.
#[derive(Clone, Copy, Debug)]
pub(super) struct Resolved {
    pub(super) n_ctx: usize,
    pub(super) n_batch: usize,
    pub(super) n_threads: usize,
    pub(super) n_threads_batch: usize,
    pub(super) n_logits: usize,
    pub(super) kv_f32: bool,
    pub(super) auto_evict: Option<(usize, usize)>,
    pub(super) numerics: Numerics,
}

impl SessionParams {
    pub(super) fn resolve(&self, model: &ModelInfo) -> Result<Resolved> {
        let or = |n: u32, default: usize| if n == 0 { default } else { n as usize };
        let at_most = |name: &str, n: u32, most: u32| match n > most {
            true => Err(err!(InvalidArgument, "{name}: found {n}, expected at most {most}")),
            false => Ok(()),
        };
        at_most("n_ctx", self.n_ctx, MOST_CELLS)?;
        at_most("n_threads", self.n_threads, MOST_THREADS)?;
        at_most("n_threads_batch", self.n_threads_batch, MOST_THREADS)?;
        at_most("kv_dtype", self.kv_dtype, 1)?;
        let n_ctx = or(self.n_ctx, model.n_ctx_train as usize);
        let n_batch = or(self.n_batch, DEFAULT_BATCH as usize).min(n_ctx);
        let n_threads = or(self.n_threads, cpu::performance_cores().max(1));
        let n_logits = or(self.n_logits, 1).min(n_ctx);
        let n_keep = or(self.n_keep, (n_ctx / 2).max(1));
        let n_sink = or(self.n_sink, policy::DEFAULT_SINKS).min(n_keep);
        if self.auto_evict && n_keep >= n_ctx {
            return Err(err!(
                InvalidArgument,
                "n_keep: found {n_keep}, expected less than the {n_ctx} cells, so that evicting \
                 makes room"
            ));
        }
        Ok(Resolved {
            n_ctx,
            n_batch,
            n_threads,
            n_threads_batch: or(self.n_threads_batch, n_threads),
            n_logits,
            kv_f32: self.kv_dtype == 1,
            auto_evict: self.auto_evict.then_some((n_sink, n_keep)),
            numerics: self.numerics,
        })
    }
}

/// Which tokens of a span want logits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Logits<'a> {
    /// The last one.
    Last,
    /// Those at these places in the span, ascending; row `i` is then that of the `i`-th.
    Positions(&'a [u32]),
    /// All.
    All,
    /// None; the session has no logits afterwards.
    None,
}

/// What can stop an eval.
#[derive(Clone, Copy, Debug, Default)]
pub struct Control<'a> {
    /// Set by anyone at any time: the eval fails with `Aborted`, and clears it.
    pub abort: Option<&'a AtomicBool>,
    /// CLOCK_MONOTONIC in nanoseconds; when it has passed the eval fails with `Deadline`. 0 = none.
    pub deadline_ns: u64,
}

impl Control<'_> {
    /// Whether to go on. Asked at least twice in each layer.
    pub(super) fn check(&self) -> Result<()> {
        if self.abort.is_some_and(|abort| abort.swap(false, Ordering::Relaxed)) {
            return Err(err!(Aborted, "eval: aborted by the caller"));
        }
        if self.deadline_ns != 0 {
            let now = clock::now_ns();
            if now >= self.deadline_ns {
                let late = now - self.deadline_ns;
                return Err(err!(Deadline, "eval: the deadline passed {late} ns ago"));
            }
        }
        Ok(())
    }
}
