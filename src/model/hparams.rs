//! Hyperparameters: the shape of a model, read from the metadata and checked, each value by itself
//! and all against each other, so that nothing after this needs to doubt them.

use crate::base::error::{Result, err};
use crate::base::line::Line;
use crate::gguf::{Gguf, Metadata, Value};

use super::arch::{Arch, Windows};

/// The shape of a model.
#[derive(Clone, Debug)]
pub struct Hparams {
    /// The architecture's row.
    pub arch: &'static Arch,
    /// Tokens of context the model was trained with.
    pub n_ctx_train: usize,
    /// Width of the residual stream.
    pub n_embd: usize,
    /// Transformer blocks.
    pub n_layer: usize,
    /// Query heads.
    pub n_head: usize,
    /// Key and value heads.
    pub n_head_kv: usize,
    /// Elements of a head.
    pub head_dim: usize,
    /// Width of the feed-forward block.
    pub n_ff: usize,
    /// Epsilon of the RMS norms.
    pub norm_eps: f32,
    /// Caps of attention scores and of logits; 0 = none.
    pub attn_softcap: f32,
    /// See `attn_softcap`.
    pub logit_softcap: f32,
    /// Tokens of the attention window; 0 = none.
    pub window: u32,
    /// The last of each so many layers sees everything; 0 = no layer does, 1 = each does.
    pub window_period: u32,
    /// The layers that have a window, where the file lists them.
    pub window_layers: Option<Vec<bool>>,
    /// Multiplies attention scores.
    pub attn_scale: f32,
}

/// Limits on single values; generous beyond any model known, and small enough that products of
/// any two fit in 64 bits.
const MOST_LAYERS: u32 = 1024;
const MOST_HEADS: u32 = 4096;
const MOST_WIDTH: u32 = 1 << 20;
const MOST_CONTEXT: u32 = 1 << 30;

/// Reads keys under the prefix of an architecture.
pub(super) struct Keys<'a> {
    meta: &'a Metadata,
    arch: &'a str,
}

impl<'a> Keys<'a> {
    pub(super) fn new(gguf: &'a Gguf, arch: &'a str) -> Keys<'a> {
        Keys { meta: gguf.metadata(), arch }
    }

    /// Calls `f` with the full key.
    pub(super) fn with<T>(&self, key: &str, f: impl FnOnce(&Metadata, &str) -> T) -> T {
        f(self.meta, &Line::<128>::of(format_args!("{}.{key}", self.arch)))
    }

    /// An integer in `range`.
    fn int(&self, key: &str, least: u32, most: u32) -> Result<Option<u32>> {
        self.with(key, |meta, key| match meta.get_u32(key)? {
            Some(n) if n < least || n > most => {
                Err(err!(BadHparams, "{key}: found {n}, expected {least} to {most}"))
            }
            found => Ok(found),
        })
    }

    fn required(&self, key: &str, least: u32, most: u32) -> Result<u32> {
        self.int(key, least, most)?.ok_or_else(|| {
            err!(BadHparams, "{}.{key}: missing, expected {least} to {most}", self.arch)
        })
    }

    /// A finite number in `range`.
    pub(super) fn float(&self, key: &str, least: f32, most: f32) -> Result<Option<f32>> {
        self.with(key, |meta, key| match meta.get_f32(key)? {
            Some(x) if !(x >= least && x <= most) => {
                Err(err!(BadHparams, "{key}: found {x}, expected {least} to {most}"))
            }
            found => Ok(found),
        })
    }
}

impl Hparams {
    /// Reads and checks the hyperparameters of an architecture.
    pub fn read(gguf: &Gguf, arch: &'static Arch) -> Result<Hparams> {
        let keys = Keys::new(gguf, arch.name);
        let n_embd = keys.required("embedding_length", 1, MOST_WIDTH)?;
        let n_layer = keys.required("block_count", 1, MOST_LAYERS)?;
        let n_head = keys.required("attention.head_count", 1, MOST_HEADS)?;
        let n_head_kv = keys.int("attention.head_count_kv", 1, MOST_HEADS)?.unwrap_or(n_head);
        let n_ff = keys.required("feed_forward_length", 1, MOST_WIDTH)?;
        let n_ctx_train = keys.required("context_length", 1, MOST_CONTEXT)?;
        if !n_head.is_multiple_of(n_head_kv) {
            return Err(err!(
                BadHparams,
                "{}.attention.head_count: {n_head} is not a multiple of head_count_kv {n_head_kv}",
                arch.name
            ));
        }
        let split = n_embd.checked_div(n_head).filter(|_| n_embd.is_multiple_of(n_head));
        let head_dim = match keys.int("attention.key_length", 2, MOST_HEADS)?.or(split) {
            Some(dim) => dim,
            None => {
                return Err(err!(
                    BadHparams,
                    "{}.embedding_length: {n_embd} is not a multiple of head_count {n_head}",
                    arch.name
                ));
            }
        };
        let value_dim = keys.int("attention.value_length", 1, MOST_HEADS)?.unwrap_or(head_dim);
        if value_dim != head_dim {
            return Err(err!(
                Unsupported,
                "{}.attention.value_length: found {value_dim}, and key_length {head_dim}; \
                 different lengths are not supported",
                arch.name
            ));
        }
        if keys.int("expert_count", 0, u32::MAX)?.unwrap_or(0) > 0 {
            return Err(err!(
                Unsupported,
                "{}.expert_count: mixtures of experts are not supported",
                arch.name
            ));
        }
        if keys.with("attention.causal", |meta, key| meta.get_bool(key))? == Some(false) {
            return Err(err!(
                Unsupported,
                "{}.attention.causal: found false; tokens that see those after them are not \
                 supported",
                arch.name
            ));
        }
        let norm_eps =
            keys.float("attention.layer_norm_rms_epsilon", 1e-12, 1e-1)?.ok_or_else(|| {
                err!(BadHparams, "{}.attention.layer_norm_rms_epsilon: missing", arch.name)
            })?;
        let attn_softcap = softcap(&keys, "attn_logit_softcapping", arch.softcaps.0)?;
        let logit_softcap = softcap(&keys, "final_logit_softcapping", arch.softcaps.1)?;
        let (window, window_period, window_layers) = windows(&keys, arch, n_layer)?;
        let wide = arch.wide_scale_layers == Some(n_layer);
        let scale_dim = if wide { n_embd as f32 / n_head as f32 } else { head_dim as f32 };
        let hparams = Hparams {
            arch,
            n_ctx_train: n_ctx_train as usize,
            n_embd: n_embd as usize,
            n_layer: n_layer as usize,
            n_head: n_head as usize,
            n_head_kv: n_head_kv as usize,
            head_dim: head_dim as usize,
            n_ff: n_ff as usize,
            norm_eps,
            attn_softcap,
            logit_softcap,
            window,
            window_period,
            window_layers,
            attn_scale: 1.0 / scale_dim.sqrt(),
        };
        Ok(hparams)
    }

    /// Tokens that layer `i` looks back on; 0 = all.
    pub fn layer_window(&self, i: usize) -> u32 {
        let windowed = match &self.window_layers {
            Some(layers) => layers.get(i).copied().unwrap_or(false),
            None if self.window_period == 0 => true,
            None => !i.saturating_add(1).is_multiple_of(self.window_period as usize),
        };
        if windowed { self.window } else { 0 }
    }

    /// Whether layer `i` rotates queries and keys.
    pub fn layer_rotates(&self, i: usize) -> bool {
        let every = self.arch.no_rope_every as usize;
        every == 0 || !i.saturating_add(1).is_multiple_of(every)
    }
}

fn softcap(keys: &Keys<'_>, key: &str, default: f32) -> Result<f32> {
    Ok(keys.float(key, 0.0, 1e6)?.unwrap_or(default))
}

/// Window, period, and the layers where the file lists them.
fn windows(keys: &Keys<'_>, arch: &Arch, n_layer: u32) -> Result<(u32, u32, Option<Vec<bool>>)> {
    let window = keys.int("attention.sliding_window", 0, u32::MAX)?;
    match arch.windows {
        Windows::None => Ok((0, 0, None)),
        Windows::All => Ok((window.unwrap_or(0), 0, None)),
        Windows::AllButEvery { period, default } => {
            let window = window.unwrap_or(default);
            let key = "attention.sliding_window_pattern";
            let listed = keys.with(key, |meta, key| match meta.value(key) {
                Some(Value::Array(_)) => meta.bools(key),
                _ => Ok(None),
            })?;
            if let Some(layers) = listed {
                if layers.len() != n_layer as usize {
                    return Err(err!(
                        BadHparams,
                        "{}.{key}: {} layers, expected {n_layer}",
                        arch.name,
                        layers.len()
                    ));
                }
                return Ok((window, 0, Some(layers)));
            }
            Ok((window, keys.int(key, 1, MOST_LAYERS)?.unwrap_or(period), None))
        }
    }
}
