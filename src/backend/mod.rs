//! Devices: the seam between a decoder and what computes it.
//!
//! A device keeps weights and caches in its own form and runs the *phases* of a decoder in order.
//! A phase is what runs between two barriers of the decoder's mathematics: norm and projections,
//! attention, output projection, the two halves of the feed-forward block. Nothing here knows of
//! files, architectures or tokens' texts: [`Decoder`] and [`Layer`] describe what is to be
//! computed, in plain numbers, and a [`Backend`] computes it.

pub mod cpu;
mod observing;
pub mod rope;

use std::ops::Range;

use crate::base::brake::Brake;
use crate::base::cpu::Isa;
use crate::base::dtype::DType;
use crate::base::error::Result;

pub use observing::{AttentionSum, Observe, Observing, QueryMeans, Rotation};

/// Where a tensor lies in the data section of a model, and what it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TensorRef {
    /// The type of its elements.
    pub dtype: DType,
    /// Elements of a row: the inputs of a projection, or the length of a vector.
    pub n_cols: usize,
    /// Rows: the outputs of a projection; 1 for a vector.
    pub n_rows: usize,
    /// Its first byte, counted from the start of the data section.
    pub offset: usize,
    /// Its bytes.
    pub bytes: usize,
    /// Whether they are packed for the CPU's kernels ([`crate::quant::p16`]).
    pub packed: bool,
}

impl TensorRef {
    /// Some of its rows; rows are contiguous unless packed, so that a fused tensor splits without a
    /// copy.
    pub fn rows(&self, first: usize, n_rows: usize) -> TensorRef {
        let row = self.bytes.checked_div(self.n_rows).unwrap_or(0);
        let offset = self.offset.saturating_add(first.saturating_mul(row));
        TensorRef { n_rows, offset, bytes: n_rows.saturating_mul(row), ..*self }
    }

    /// The bytes it occupies in the data section.
    pub fn range(&self) -> Range<usize> {
        self.offset..self.offset.saturating_add(self.bytes)
    }
}

/// The non-linearity of the feed-forward block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// x * sigmoid(x).
    Silu,
    /// The tanh approximation of GELU.
    Gelu,
}

/// What all layers of a decoder share.
#[derive(Debug)]
pub struct Decoder {
    /// Width of the residual stream.
    pub n_embd: usize,
    /// Query heads.
    pub n_head: usize,
    /// Key and value heads; divides `n_head`.
    pub n_head_kv: usize,
    /// Elements of a head.
    pub head_dim: usize,
    /// Width of the feed-forward block.
    pub n_ff: usize,
    /// Tokens of the vocabulary.
    pub n_vocab: usize,
    /// Epsilon of every RMS norm.
    pub norm_eps: f32,
    /// Multiplies embeddings.
    pub embd_scale: f32,
    /// Multiplies attention scores.
    pub attn_scale: f32,
    /// Caps attention scores: `cap * tanh(score / cap)`; 0 = none.
    pub attn_softcap: f32,
    /// Caps logits likewise; 0 = none.
    pub logit_softcap: f32,
    /// The non-linearity.
    pub activation: Activation,
    /// Which elements of a head rotate together.
    pub rope_layout: rope::Layout,
    /// The rotary embeddings that layers choose from.
    pub ropes: Vec<rope::Rope>,
}

impl Decoder {
    /// Takes it, and leaves one without rotary embeddings.
    pub fn take(&mut self) -> Decoder {
        Decoder { ropes: std::mem::take(&mut self.ropes), ..*self }
    }
}

/// A linear projection: `y = W x + b`.
#[derive(Clone, Copy, Debug)]
pub struct Projection {
    /// `W`, `n_rows` outputs by `n_cols` inputs.
    pub weight: TensorRef,
    /// `b`, one for each output.
    pub bias: Option<TensorRef>,
}

/// One transformer block.
#[derive(Clone, Copy, Debug)]
pub struct Layer {
    /// RMS norm before attention.
    pub attn_norm: TensorRef,
    /// Queries.
    pub q: Projection,
    /// Keys.
    pub k: Projection,
    /// Values.
    pub v: Projection,
    /// RMS norm of each query head.
    pub q_norm: Option<TensorRef>,
    /// RMS norm of each key head.
    pub k_norm: Option<TensorRef>,
    /// From heads back to the residual stream.
    pub attn_out: Projection,
    /// RMS norm of the attention's output, before it is added.
    pub post_attn_norm: Option<TensorRef>,
    /// RMS norm before the feed-forward block.
    pub ffn_norm: TensorRef,
    /// The half that passes the non-linearity.
    pub gate: Projection,
    /// The half that is multiplied with it.
    pub up: Projection,
    /// Back to the residual stream.
    pub down: Projection,
    /// RMS norm of the feed-forward block's output, before it is added.
    pub post_ffn_norm: Option<TensorRef>,
    /// Tokens that attention looks back on, the current one included; 0 = all.
    pub window: u32,
    /// Index into [`Decoder::ropes`]; `None` = no positions in this layer.
    pub rope: Option<usize>,
}

/// The tables outside the layers.
#[derive(Clone, Copy, Debug)]
pub struct Ends {
    /// One row for each token.
    pub embd: TensorRef,
    /// RMS norm before the head.
    pub norm: TensorRef,
    /// Logits; the embedding itself where the head is tied.
    pub head: Projection,
}

/// What is evaluated together: tokens, where they stand, and where their keys and values go.
///
/// A layer with a window has cells that all its KV heads share; a layer that attends to everything
/// has slots of each KV head's own ([`Backend::Kv`] knows which of the two it is).
#[derive(Clone, Copy, Debug)]
pub struct Batch<'a> {
    /// Tokens, all below `n_vocab`.
    pub tokens: &'a [i32],
    /// Position of the first; the others follow.
    pub first_pos: u32,
    /// The position that the first one's queries and keys are turned by.
    pub first_turn: u32,
    /// Slots in use before the span that the batch is part of, of each KV head of each layer that
    /// attends to everything, layer by layer.
    pub held: &'a [u32],
    /// Tokens of the span before the batch, which have taken the slots that follow `held`.
    pub n_before: usize,
    /// Shared cells in use by ascending position, those that the batch takes at the end.
    pub order: &'a [u32],
    /// The positions of `order`.
    pub order_pos: &'a [u32],
    /// Which tokens of this batch want logits, ascending.
    pub outputs: &'a [u32],
    /// Row of the logits that the first of `outputs` fills.
    pub first_output: usize,
    /// Only the greatest logit of each row is wanted; the others may be minus infinity.
    pub best: bool,
    /// Whether attention counts what each slot draws, where the session was made for that.
    pub observe: Observe,
    /// Phases that take long ask it within; what they have computed when it was pulled is worth nothing.
    pub brake: &'a Brake<'a>,
}

impl Batch<'_> {
    /// The shared cells that take the batch's keys and values.
    pub fn cells(&self) -> &[u32] {
        &self.order[self.order.len() - self.tokens.len()..]
    }

    /// The part of `order` that token `t` sees in a layer with this window: cells at its own and
    /// earlier positions, the last `window` of them by distance.
    pub fn visible(&self, t: usize, window: u32) -> Range<usize> {
        let pos = self.first_pos + t as u32;
        let end = self.order_pos.partition_point(|&p| p <= pos);
        let oldest = if window == 0 { 0 } else { (pos + 1).saturating_sub(window) };
        let start = self.order_pos[..end].partition_point(|&p| p < oldest);
        start..end
    }
}

/// What keys or values are stored as.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KvType {
    /// Half precision.
    #[default]
    F16,
    /// Single precision.
    F32,
    /// Codes of 8 bits; up to 32 elements of a head share a scale in half precision.
    Q8_0,
    /// Codes of 5 bits likewise; here and below the first 4 positions in half precision.
    Q5_0,
    /// Codes of 4 bits.
    Q4_0,
    /// Codes of 4 bits of a head that is rotated: by the Hadamard transform in spans of 64 elements, or
    /// of 32 or 16 if the head is no multiple of that; no multiple of 16 is not rotated.
    Q4H,
    /// Codes of 3 bits for levels of a normal distribution, rotated.
    Q3H,
    /// Codes of 5 bits, rotated.
    Q5H,
}

impl KvType {
    /// Whether it is codes, which are multiplied as integers.
    pub fn is_codes(self) -> bool {
        !matches!(self, KvType::F16 | KvType::F32)
    }

    /// Whether it is codes of less than 8 bits.
    pub fn is_packed(self) -> bool {
        self.is_codes() && self != KvType::Q8_0
    }
}

/// One of the two vectors that a cell of a KV head holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Row {
    /// What queries are compared with.
    Key,
    /// What is mixed.
    Value,
}

/// How a session wants its buffers.
#[derive(Clone, Copy, Debug, Default)]
pub struct Shape {
    /// Slots of each KV head in layers that attend to everything.
    pub n_ctx: usize,
    /// Cells of layers with a window.
    pub n_cells: usize,
    /// These are slots, used from the first one on by ascending position, which lie in tiles.
    pub tiled: bool,
    /// Tokens evaluated together, at most.
    pub n_batch: usize,
    /// Rows of logits kept.
    pub n_logits: usize,
    /// What keys are stored as.
    pub k_type: KvType,
    /// What values are stored as.
    pub v_type: KvType,
    /// Threads, the caller's included.
    pub n_threads: usize,
    /// The head is screened where only the best token is wanted.
    pub screened: bool,
    /// How many of them evaluate one token, and how many several; 0 = as measured.
    pub n_decode: usize,
    /// See `n_decode`.
    pub n_prefill: usize,
    /// The kernels whose panels many tokens are evaluated with; `None` = as single ones.
    pub panels: Option<Isa>,
    /// Attention counts what slots draw.
    pub observing: Option<Observing>,
    /// Means of queries are kept ([`Backend::queries`]).
    pub queries: Option<QueryMeans>,
    /// Statistics of keys and values are kept ([`Backend::learn`]).
    pub leverage: bool,
    /// Positions that keys can be turned by.
    pub n_turns: usize,
    /// The first tiles of slots that are another session's.
    pub n_shared: usize,
}

/// Slots of a tile, which sessions can share ([`Backend::Tile`]).
pub const TILE: usize = 128;
/// Tokens whose codes are not read, where keys or values have less than 8 bits: the one that reads and
/// those before it, which are read as they came. A span of so many can be taken back as if it had never come.
pub const RECENT: usize = 16;

/// The last slots of each KV head of a layer, and what is to be done with them.
#[derive(Clone, Copy, Debug)]
pub struct NewSlots {
    /// How many.
    pub n: usize,
    /// They are counted: once.
    pub count: bool,
    /// The ridge with which their leverage and that of stale ones is computed; `None`: that of none.
    pub eps: Option<f32>,
}

/// The slots of one KV head that are in use.
#[derive(Clone, Debug)]
pub struct SlotsOfHead<'a> {
    /// The position that each key is turned by.
    pub turns: &'a [u32],
    /// Those whose leverage is to be computed anew.
    pub stale: Range<usize>,
}

/// A device, seen by the decoder. Phases run in call order; only `logits` waits. Shapes are
/// checked once, when weights and buffers are made.
pub trait Backend: Send + Sync {
    /// Weights of one layer, in this device's form.
    type Layer: Send + Sync;
    /// The tables outside the layers.
    type Ends: Send + Sync;
    /// Activations of one session.
    type Scratch: Send + Sync;
    /// Keys and values of one layer of one session.
    type Kv: Send + Sync;
    /// The keys and values of [`TILE`] slots of each KV head of a layer: of one session or of several, none
    /// of which writes to it then.
    type Tile: Clone + Send + Sync;

    /// Fails if weights that were read so far were not there ([`Bytes::check_read`]).
    fn check_read(&self) -> Result<()>;
    /// Fails if they are not what was loaded ([`Bytes::check_unchanged`]).
    fn check_unchanged(&self) -> Result<()>;
    /// Embeds the batch's tokens into the residual stream, and prepares its rotations.
    fn embed(&self, s: &mut Self::Scratch, ends: &Self::Ends, batch: &Batch<'_>) -> Result<()>;
    /// Norm; queries, keys and values; biases, head norms, rotation; keys and values into cells.
    fn qkv(
        &self,
        s: &mut Self::Scratch,
        layer: &Self::Layer,
        kv: &mut Self::Kv,
        batch: &Batch<'_>,
    ) -> Result<()>;
    /// Scores, softmax and mix over the visible cells.
    fn attend(
        &self,
        s: &mut Self::Scratch,
        layer: &Self::Layer,
        kv: &mut Self::Kv,
        batch: &Batch<'_>,
    ) -> Result<()>;
    /// Output projection, added to the residual stream.
    fn attn_out(&self, s: &mut Self::Scratch, l: &Self::Layer, batch: &Batch<'_>) -> Result<()>;
    /// Norm; gate and up projections; the non-linearity.
    fn ffn_up(&self, s: &mut Self::Scratch, l: &Self::Layer, batch: &Batch<'_>) -> Result<()>;
    /// Down projection, added to the residual stream.
    fn ffn_down(&self, s: &mut Self::Scratch, l: &Self::Layer, batch: &Batch<'_>) -> Result<()>;
    /// Final norm and logits of the batch's outputs.
    fn head(&self, s: &mut Self::Scratch, ends: &Self::Ends, batch: &Batch<'_>) -> Result<()>;
    /// Row `row` of the logits, `n_vocab` long.
    fn logits<'s>(&self, s: &'s Self::Scratch, row: usize) -> Result<&'s [f32]>;
    /// The highest logits of the chunks of row `row`, where the head has found them.
    fn highest(&self, s: &Self::Scratch, row: usize) -> impl Iterator<Item = Option<f32>>;
    /// Adds what a layer's slots drew from the first `n_kept` tokens of the last span, which was
    /// observed like this, to what they drew before. `held`: the slots that each of its KV heads used
    /// before the span. Counts the queries of these tokens, too, where means of them are kept.
    fn count_attention(&self, kv: &mut Self::Kv, held: &[u32], observe: Observe, n_kept: usize);
    /// Makes room to note, of every slot of a layer that attends to everything, the largest probability
    /// that any query head gives it while batches are watched ([`Observe::Largest`]): zeros. Allocates.
    /// Fails with `OutOfMemory`; [`Backend::unwatch`] gives what was taken back.
    fn watch(&self, s: &mut Self::Scratch, kv: &mut Self::Kv) -> Result<()>;
    /// Gives that room back.
    fn unwatch(&self, s: &mut Self::Scratch, kv: &mut Self::Kv);
    /// What has been noted of the first slots of a KV head; zeros without [`Backend::watch`].
    fn largest(&self, kv: &Self::Kv, head: usize, out: &mut [f32]);
    /// Tokens of a batch that attention can count one by one.
    fn n_each(&self) -> usize;
    /// What the slots of a KV head have drawn, if it is counted: the sum over all queries
    /// ([`Observing::sum`]), and the mean probability over the last ones, [`Observing::n_recent`] of them. Of each query the
    /// mean over the query heads that share the KV head.
    fn attention<'k>(&self, kv: &'k Self::Kv, head: usize) -> Option<(&'k [f32], &'k [f32])>;
    /// Counts the keys before rotation and the values of the new slots of each KV head of a layer, and
    /// computes the leverage of these and of those that are stale (`kv::policy::leverage`). That of
    /// slots after them is zero then.
    fn learn<'h>(
        &self,
        s: &mut Self::Scratch,
        layer: &Self::Layer,
        kv: &mut Self::Kv,
        new: NewSlots,
        of_head: impl Fn(usize) -> SlotsOfHead<'h> + Sync,
    ) -> Result<()>;
    /// The leverage of the slots of a KV head, of the key and of the value added up, as it was when
    /// it was last computed; empty if none is.
    fn leverage<'k>(&self, kv: &'k Self::Kv, head: usize) -> &'k [f32];
    /// The key or the value of a KV head in a slot, as it is stored.
    fn row(&self, kv: &Self::Kv, of: Row, head: usize, slot: u32, out: &mut [f32]);
    /// The means of the queries that have been counted, before rotation, of the query heads that share a
    /// KV head, one after the other; empty if none are kept.
    fn queries<'k>(&self, kv: &'k Self::Kv, head: usize) -> &'k [f32];
    /// How a layer turns its heads, and what it multiplies scores with.
    fn rotation<'s>(&self, s: &'s Self::Scratch, layer: &Self::Layer) -> Rotation<'s>;
    /// Forgets what is known of a layer's slots, but for their keys and values.
    fn forget(&self, kv: &mut Self::Kv);
    /// Tokens that a layer looks back on; 0 = all.
    fn window(&self, layer: &Self::Layer) -> u32;
    /// Turns keys of one KV head back: cell and positions of each.
    fn shift(
        &self,
        s: &mut Self::Scratch,
        layer: &Self::Layer,
        kv: &mut Self::Kv,
        head: usize,
        turns: impl Iterator<Item = (u32, u32)>,
    ) -> Result<()>;
    /// Moves the keys and values of one KV head's slots `kept`, which ascend, of the `n_held` in use to
    /// the first slots, in that order. Fails with `Internal` if slots that it writes to are shared.
    fn compact(&self, kv: &mut Self::Kv, head: usize, n_held: usize, kept: &[u32]) -> Result<()>;
    /// How many have a tile of a layer, itself included; 0 if the layer has no such tile.
    fn n_owners(&self, kv: &Self::Kv, tile: usize) -> usize;
    /// Makes the slots of a layer from this one on its own: tiles that it shares are copied. Fails with
    /// `OutOfMemory`; nothing has changed then.
    fn own(&self, kv: &mut Self::Kv, first: u32) -> Result<()>;
    /// A tile of a layer, to be shared; `None` if it does not lie in tiles ([`Shape::tiled`]).
    fn tile(&self, kv: &Self::Kv, tile: usize) -> Option<Self::Tile>;
    /// Puts a tile of another session of the same shape in the place of a layer's own, which comes
    /// back.
    fn swap_tile(&self, kv: &mut Self::Kv, tile: usize, with: Self::Tile) -> Option<Self::Tile>;
    /// Copies the keys and values of all cells from one cache of the same shape to another, but for
    /// tiles that they share. Fails with `Internal` if others share them.
    fn copy_cells(&self, from: &Self::Kv, to: &mut Self::Kv) -> Result<()>;
    /// Copies what is known of a layer's slots, keys and values left out. `held`: how many slots each
    /// KV head uses.
    fn copy_knowledge(&self, from: &Self::Kv, to: &mut Self::Kv, held: &[u32]);
    /// Bytes of the key or of the value of the token at a position as [`Backend::export`] gives it: the
    /// same for all of a layer but maybe the first, and at least 1.
    fn row_bytes(&self, kv: &Self::Kv, of: Row, pos: u32) -> usize;
    /// Writes the key or the value of a KV head's cell, as it is stored, to [`Backend::row_bytes`]
    /// bytes: the same on every machine, wherever the cell lies.
    fn export(&self, kv: &Self::Kv, of: Row, head: usize, cell: u32, out: &mut [u8]);
    /// Overwrites keys or values of a KV head in neighbours from `cell` on with what
    /// [`Backend::export`] gave, of a cache that stores rows of the same type: one row after the other
    /// of tokens at `pos`. Fails with `Internal` if one of the cells is shared.
    fn import(
        &self,
        kv: &mut Self::Kv,
        of: (Row, usize),
        cell: u32,
        pos: &[u32],
        rows: &[u8],
    ) -> Result<()>;
    /// Bytes of what a KV head has of the tokens before the next one beside their rows.
    fn recent_bytes(&self, kv: &Self::Kv, of: Row) -> usize;
    /// Writes that, of keys or values of a head, to so many bytes: the same on every machine. `end`: the
    /// slots that the head uses, 0 in layers with a window, and the position of the next token.
    fn export_recent(&self, kv: &Self::Kv, of: (Row, usize), end: (u32, u32), out: &mut [u8]);
    /// Takes back what [`Backend::export_recent`] gave, of all KV heads before the next token comes.
    fn import_recent(&self, kv: &mut Self::Kv, of: (Row, usize), end: (u32, u32), bytes: &[u8]);
    /// What is known of a KV head and its first `n` slots, keys and values left out: as many numbers
    /// for every session that is made to know the same. The last of them are [`Backend::leverage`].
    fn knowledge<'k>(&self, kv: &'k Self::Kv, head: usize, n: usize) -> [&'k [f32]; 3];
    /// The same, to be set.
    fn knowledge_mut<'k>(&self, kv: &'k mut Self::Kv, head: usize, n: usize) -> [&'k mut [f32]; 3];
    /// How many slots of each KV head [`Backend::learn`] has counted so far, or how many queries have
    /// been.
    fn n_learnt(&self, kv: &Self::Kv) -> u64;
    /// Sets that, with [`Backend::knowledge_mut`].
    fn set_n_learnt(&self, kv: &mut Self::Kv, n: u64);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch<'a>(first_pos: u32, order: [&'a [u32]; 2], brake: &'a Brake<'a>) -> Batch<'a> {
        Batch {
            tokens: &[],
            first_pos,
            first_turn: first_pos,
            held: &[],
            n_before: 0,
            order: order[0],
            order_pos: order[1],
            outputs: &[],
            first_output: 0,
            best: false,
            observe: Observe::Nothing,
            brake,
        }
    }

    #[test]
    fn a_token_sees_itself_and_what_came_before() {
        let brake = Brake::new(&|| Ok(()));
        let b = batch(5, [&[0, 1, 2, 3, 4], &[0, 1, 4, 5, 6]], &brake);
        assert_eq!(b.visible(0, 0), 0..4);
        assert_eq!(b.visible(1, 0), 0..5);
    }

    #[test]
    fn a_window_counts_positions_not_cells() {
        let brake = Brake::new(&|| Ok(()));
        let b = batch(6, [&[0, 1, 2, 3, 4], &[0, 1, 4, 5, 6]], &brake);
        assert_eq!(b.visible(0, 1), 4..5);
        assert_eq!(b.visible(0, 3), 2..5);
        assert_eq!(b.visible(0, 5), 2..5);
        assert_eq!(b.visible(0, 7), 0..5);
    }

    #[test]
    fn a_fused_tensor_splits_by_rows() {
        let fused = TensorRef {
            dtype: DType::Q4_0,
            n_cols: 64,
            n_rows: 6,
            offset: 100,
            bytes: 216,
            packed: false,
        };
        let part = fused.rows(4, 2);
        assert_eq!((part.offset, part.bytes, part.n_rows), (244, 72, 2));
    }
}
