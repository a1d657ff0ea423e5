//! The forward pass: the same five phases for each layer, on any device.

use crate::backend::{Backend, Batch};
use crate::base::error::Result;

/// A decoder's weights on a device.
pub struct Weights<B: Backend> {
    /// The device.
    pub backend: B,
    /// The layers, in order.
    pub layers: Vec<B::Layer>,
    /// The tables outside the layers.
    pub ends: B::Ends,
}

/// Evaluates one batch. `check` is asked before each layer whether to go on.
pub fn forward<B: Backend>(
    weights: &Weights<B>,
    kv: &mut [B::Kv],
    scratch: &mut B::Scratch,
    batch: &Batch<'_>,
    check: &dyn Fn() -> Result<()>,
) -> Result<()> {
    let (b, n) = (&weights.backend, batch.tokens.len());
    check()?;
    b.embed(scratch, &weights.ends, batch)?;
    for (layer, kv) in weights.layers.iter().zip(kv) {
        check()?;
        b.qkv(scratch, layer, kv, batch)?;
        b.attend(scratch, layer, kv, batch)?;
        check()?;
        b.attn_out(scratch, layer, n)?;
        b.ffn_up(scratch, layer, n)?;
        b.ffn_down(scratch, layer, n)?;
    }
    check()?;
    b.head(scratch, &weights.ends, batch)
}
