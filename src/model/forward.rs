//! The forward pass: the same five phases for each layer, on any device.

use crate::backend::{Backend, Batch};
use crate::base::clock;
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

/// What a forward pass consists of: the lookup of embeddings, five phases for each layer, the head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Rows of the embedding table, and the angles of the positions.
    Embed,
    /// Norm, projections to queries, keys and values, rotation, and the cache's new cells.
    Qkv,
    /// Attention.
    Attend,
    /// The projection of what attention gives, and its sum with the residual stream.
    AttnOut,
    /// Norm, the projections to the wide half, the non-linearity.
    FfnUp,
    /// The projection back, and its sum with the residual stream.
    FfnDown,
    /// Norm and logits.
    Head,
}

impl Phase {
    /// All of them, in order.
    pub const ALL: [Phase; 7] = [
        Phase::Embed,
        Phase::Qkv,
        Phase::Attend,
        Phase::AttnOut,
        Phase::FfnUp,
        Phase::FfnDown,
        Phase::Head,
    ];

    /// The name, as tables print it.
    pub const fn name(self) -> &'static str {
        match self {
            Phase::Embed => "embed",
            Phase::Qkv => "qkv",
            Phase::Attend => "attend",
            Phase::AttnOut => "attn_out",
            Phase::FfnUp => "ffn_up",
            Phase::FfnDown => "ffn_down",
            Phase::Head => "head",
        }
    }
}

/// How long forward passes spent in each phase, on the thread that called them, all layers together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PhaseTimes {
    ns: [u64; Phase::ALL.len()],
}

impl PhaseTimes {
    /// Nanoseconds in a phase.
    pub fn ns(&self, phase: Phase) -> u64 {
        self.ns.get(phase as usize).copied().unwrap_or(0)
    }
}

/// Reads the clock between phases, if anybody wants to know: it takes some 20 ns each time.
struct Laps<'a> {
    times: Option<&'a mut PhaseTimes>,
    last: u64,
}

impl<'a> Laps<'a> {
    fn start(times: Option<&'a mut PhaseTimes>) -> Laps<'a> {
        let last = if times.is_some() { clock::now_ns() } else { 0 };
        Laps { times, last }
    }

    fn end(&mut self, phase: Phase) {
        if let Some(times) = &mut self.times {
            let now = clock::now_ns();
            if let Some(ns) = times.ns.get_mut(phase as usize) {
                *ns = ns.saturating_add(now.saturating_sub(self.last));
            }
            self.last = now;
        }
    }
}

/// Evaluates one batch. Its brake is asked before each phase, and within those that take long. What each
/// phase takes is added to `times`.
pub fn forward<B: Backend>(
    weights: &Weights<B>,
    kv: &mut [B::Kv],
    scratch: &mut B::Scratch,
    batch: &Batch<'_>,
    times: Option<&mut PhaseTimes>,
) -> Result<()> {
    let (b, brake) = (&weights.backend, batch.brake);
    let mut laps = Laps::start(times);
    brake.check()?;
    b.embed(scratch, &weights.ends, batch)?;
    laps.end(Phase::Embed);
    for (layer, kv) in weights.layers.iter().zip(kv) {
        brake.check()?;
        b.qkv(scratch, layer, kv, batch)?;
        laps.end(Phase::Qkv);
        brake.check()?;
        b.attend(scratch, layer, kv, batch)?;
        laps.end(Phase::Attend);
        brake.check()?;
        b.attn_out(scratch, layer, batch)?;
        laps.end(Phase::AttnOut);
        brake.check()?;
        b.ffn_up(scratch, layer, batch)?;
        laps.end(Phase::FfnUp);
        brake.check()?;
        b.ffn_down(scratch, layer, batch)?;
        laps.end(Phase::FfnDown);
    }
    brake.check()?;
    b.head(scratch, &weights.ends, batch)?;
    laps.end(Phase::Head);
    brake.check()
}
