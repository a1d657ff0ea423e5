//! Finds the tensors that an architecture's row asks for, and checks each one's shape and type.
//! Tensors that no row asks for are an error too: what is left out would be missing silently.

use crate::backend::{Decoder, Ends, Layer, Projection, TensorRef};
use crate::base::dtype::DType;
use crate::base::error::{Result, err};
use crate::base::heap;
use crate::base::line::Line;
use crate::gguf::{Gguf, TensorInfo};

use super::hparams::Hparams;
use super::rope::{Factors, ropes};

/// What a device needs to compute a model.
#[derive(Debug)]
pub struct Plan {
    /// What all layers share.
    pub decoder: Decoder,
    /// The layers, in order.
    pub layers: Vec<Layer>,
    /// The tables outside the layers.
    pub ends: Ends,
    /// Bytes of weights read for each token.
    pub bytes_per_token: u64,
}

/// Makes the plan of a model. `data` reads a small tensor's bytes from the file.
pub fn plan(
    gguf: &Gguf,
    h: &Hparams,
    data: &mut dyn FnMut(&TensorRef) -> Result<Vec<u8>>,
) -> Result<Plan> {
    let mut finder = Finder { gguf, used: 0 };
    let tied = !finder.has("output.weight");
    let embd = finder.matrix("token_embd.weight", h.n_embd, None, tied)?;
    let n_vocab = embd.n_rows;
    let mut layers = Vec::new();
    layers
        .try_reserve_exact(h.n_layer)
        .map_err(|_| err!(OutOfMemory, "no memory for {} layers", h.n_layer))?;
    for i in 0..h.n_layer {
        layers.push(layer(&mut finder, h, i)?);
    }
    let norm = finder.vector("output_norm.weight", h.n_embd)?;
    let head = match tied {
        true => embd,
        false => finder.matrix("output.weight", h.n_embd, Some(n_vocab), true)?,
    };
    let bias = finder.optional("output.bias", n_vocab)?;
    let ends = Ends { embd, norm, head: Projection { weight: head, bias } };
    let factors = factors(&mut finder, data)?;
    finder.all_used()?;

    let layer_bytes = sum(layers.iter().map(layer_bytes));
    let row_bytes = embd.bytes.checked_div(n_vocab).unwrap_or(0);
    Ok(Plan {
        decoder: Decoder {
            n_embd: h.n_embd,
            n_head: h.n_head,
            n_head_kv: h.n_head_kv,
            head_dim: h.head_dim,
            n_ff: h.n_ff,
            n_vocab,
            norm_eps: h.norm_eps,
            embd_scale: if h.arch.scaled_embd { (h.n_embd as f32).sqrt() } else { 1.0 },
            attn_scale: h.attn_scale,
            attn_softcap: h.attn_softcap,
            logit_softcap: h.logit_softcap,
            activation: h.arch.activation,
            rope_layout: h.arch.rope_layout,
            ropes: ropes(gguf, h, factors)?,
        },
        bytes_per_token: sum([layer_bytes, head.bytes, norm.bytes, row_bytes]) as u64,
        layers,
        ends,
    })
}

/// The name of a tensor: GGUF allows 64 bytes.
pub type Name = Line<64>;

fn layer(f: &mut Finder<'_>, h: &Hparams, i: usize) -> Result<Layer> {
    let rows = |n_head: usize| n_head.saturating_mul(h.head_dim);
    let (q_rows, kv_rows) = (rows(h.n_head), rows(h.n_head_kv));
    let b = |name: &str| Name::of(format_args!("blk.{i}.{name}"));
    // The rows of packed tensors cannot be split: there, each part is a tensor (see `part_name`).
    let fused = h.arch.fused && !f.gguf.is_packed();
    let [q, k, v] = if fused {
        let rows = [q_rows, kv_rows, kv_rows];
        f.fused(&b("attn_qkv"), h.n_embd, rows)?
    } else {
        let mut part = |name: &str, rows| f.projection(&b(name), h.n_embd, rows);
        [part("attn_q", q_rows)?, part("attn_k", kv_rows)?, part("attn_v", kv_rows)?]
    };
    for (name, p) in [("attn_q", &q), ("attn_k", &k), ("attn_v", &v)] {
        if h.arch.qkv_bias && p.bias.is_none() {
            return Err(err!(BadTensor, "{}.bias: missing", b(name)));
        }
    }
    let [gate, up] = if fused {
        f.fused(&b("ffn_up"), h.n_embd, [h.n_ff, h.n_ff])?
    } else {
        [
            f.projection(&b("ffn_gate"), h.n_embd, h.n_ff)?,
            f.projection(&b("ffn_up"), h.n_embd, h.n_ff)?,
        ]
    };
    let mut norm_if = |wanted: bool, name: &str, n: usize| match wanted {
        true => f.vector(&b(name), n).map(Some),
        false => Ok(None),
    };
    let window = h.layer_window(i);
    let own_rope = h.arch.window_rope_base.is_some() && window > 0;
    Ok(Layer {
        q_norm: norm_if(h.arch.qk_norm, "attn_q_norm.weight", h.head_dim)?,
        k_norm: norm_if(h.arch.qk_norm, "attn_k_norm.weight", h.head_dim)?,
        post_attn_norm: norm_if(h.arch.post_norm, "post_attention_norm.weight", h.n_embd)?,
        post_ffn_norm: norm_if(h.arch.post_norm, "post_ffw_norm.weight", h.n_embd)?,
        attn_norm: f.vector(&b("attn_norm.weight"), h.n_embd)?,
        attn_out: f.projection(&b("attn_output"), q_rows, h.n_embd)?,
        ffn_norm: f.vector(&b("ffn_norm.weight"), h.n_embd)?,
        down: f.projection(&b("ffn_down"), h.n_ff, h.n_embd)?,
        q,
        k,
        v,
        gate,
        up,
        window,
        rope: h.layer_rotates(i).then_some(usize::from(own_rope)),
    })
}

fn layer_bytes(l: &Layer) -> usize {
    sum([&l.q, &l.k, &l.v, &l.attn_out, &l.gate, &l.up, &l.down].map(|p| p.weight.bytes))
}

/// A sum of numbers of bytes or rows. If it does not fit, no tensor has as many.
fn sum(numbers: impl IntoIterator<Item = usize>) -> usize {
    numbers.into_iter().fold(0, usize::saturating_add)
}

/// Divisors of rotary frequencies, in whichever form the file has them.
fn factors(
    f: &mut Finder<'_>,
    data: &mut dyn FnMut(&TensorRef) -> Result<Vec<u8>>,
) -> Result<Factors> {
    let mut read = |name: &str| -> Result<Vec<f32>> {
        let Some(info) = f.gguf.tensor(name) else { return Ok(Vec::new()) };
        let tensor = reference(name, info)?;
        let is_short = tensor.n_rows == 1 && tensor.n_cols <= 4096;
        if tensor.dtype != DType::F32 || tensor.packed || !is_short {
            return Err(err!(BadTensor, "{name}: expected a short vector of F32"));
        }
        f.used = f.used.saturating_add(1);
        let bytes = data(&tensor)?;
        let words = bytes.as_chunks().0;
        heap::collect(words.len(), words.iter().map(|b| f32::from_le_bytes(*b)), "rope factors")
    };
    let both = read("rope_freqs.weight")?;
    let (short, long) = (read("rope_factors_short.weight")?, read("rope_factors_long.weight")?);
    if short.is_empty() != long.is_empty() {
        return Err(err!(BadTensor, "rope_factors_short and rope_factors_long belong together"));
    }
    Ok(Factors { short: if short.is_empty() { both } else { short }, long })
}

/// Looks tensors up by name and counts those that were wanted.
struct Finder<'a> {
    gguf: &'a Gguf,
    used: usize,
}

impl Finder<'_> {
    fn has(&self, name: &str) -> bool {
        self.gguf.tensor(name).is_some()
    }

    fn vector(&mut self, name: &str, n: usize) -> Result<TensorRef> {
        let tensor = self.matrix(name, n, Some(1), false)?;
        match tensor.dtype.is_quantised() {
            true => {
                Err(err!(BadTensor, "{name}: type {}, expected F32, F16 or BF16", tensor.dtype))
            }
            false => Ok(tensor),
        }
    }

    fn optional(&mut self, name: &str, n: usize) -> Result<Option<TensorRef>> {
        if self.has(name) { self.vector(name, n).map(Some) } else { Ok(None) }
    }

    /// A tensor of `n_rows` rows of `n_cols`; any number of rows if that is not given. Those that
    /// are `multiplied` are packed in a packed file, and only those.
    fn matrix(
        &mut self,
        name: &str,
        n_cols: usize,
        n_rows: Option<usize>,
        multiplied: bool,
    ) -> Result<TensorRef> {
        let info = self.gguf.tensor(name).ok_or_else(|| err!(BadTensor, "{name}: missing"))?;
        let tensor = reference(name, info)?;
        if tensor.packed != (multiplied && self.gguf.is_packed()) {
            let is = if tensor.packed { "packed, expected as it is" } else { "not packed" };
            return Err(err!(BadTensor, "{name}: {is} in a packed file"));
        }
        if tensor.n_cols != n_cols || n_rows.is_some_and(|n| n != tensor.n_rows) {
            let (rows, cols) = (tensor.n_rows, tensor.n_cols);
            return Err(match n_rows {
                Some(n) => err!(BadTensor, "{name}: {cols} x {rows}, expected {n_cols} x {n}"),
                None => err!(BadTensor, "{name}: {cols} x {rows}, expected rows of {n_cols}"),
            });
        }
        self.used = self.used.saturating_add(1);
        Ok(tensor)
    }

    fn projection(&mut self, name: &str, n_cols: usize, n_rows: usize) -> Result<Projection> {
        let part = |kind: &str| Name::of(format_args!("{name}.{kind}"));
        let weight = self.matrix(&part("weight"), n_cols, Some(n_rows), true)?;
        Ok(Projection { weight, bias: self.optional(&part("bias"), n_rows)? })
    }

    /// Projections that share one tensor, one after the other.
    fn fused<const N: usize>(
        &mut self,
        name: &str,
        n_cols: usize,
        rows: [usize; N],
    ) -> Result<[Projection; N]> {
        let all = self.projection(name, n_cols, sum(rows))?;
        let mut first = 0_usize;
        Ok(rows.map(|n| {
            let part = first;
            first = first.saturating_add(n);
            Projection {
                weight: all.weight.rows(part, n),
                bias: all.bias.map(|b| cut(&b, part, n)),
            }
        }))
    }

    /// Every tensor of the file has been asked for.
    fn all_used(&self) -> Result<()> {
        // Names are unique, so counting finds whether one is left over; finding which is rare.
        if self.used == self.gguf.tensors().len() {
            return Ok(());
        }
        Err(err!(
            Unsupported,
            "the file has {} tensors, of which this architecture uses {}; computing without the \
             others would be wrong",
            self.gguf.tensors().len(),
            self.used
        ))
    }
}

/// Part of a vector that is one row.
fn cut(vector: &TensorRef, first: usize, n: usize) -> TensorRef {
    let element = vector.bytes.checked_div(vector.n_cols).unwrap_or(0);
    let offset = vector.offset.saturating_add(first.saturating_mul(element));
    let bytes = n.saturating_mul(element);
    TensorRef { n_cols: n, offset, bytes, ..*vector }
}

/// The name of a part of a fused tensor where it is a tensor of its own, as in a packed file: that
/// which other architectures give it.
pub fn part_name(layers: &[Layer], part: &TensorRef) -> Option<Name> {
    layers.iter().enumerate().find_map(|(i, l)| {
        let attention = [("attn_q", &l.q), ("attn_k", &l.k), ("attn_v", &l.v)];
        let halves = [("ffn_gate", &l.gate), ("ffn_up", &l.up)];
        let (name, kind) = attention.into_iter().chain(halves).find_map(|(name, p)| {
            let is_bias = p.bias.is_some_and(|bias| bias == *part);
            let kind = if p.weight == *part { Some("weight") } else { is_bias.then_some("bias") };
            Some((name, kind?))
        })?;
        Some(Name::of(format_args!("blk.{i}.{name}.{kind}")))
    })
}

/// A tensor's place, as a device wants it.
pub fn reference(name: &str, info: &TensorInfo) -> Result<TensorRef> {
    let size = |n: u64| usize::try_from(n).map_err(|_| err!(BadTensor, "{name}: {n} is too large"));
    let [n_cols, n_rows, ..] = info.shape;
    if info.shape[2..].iter().any(|&n| n != 1) {
        return Err(err!(BadTensor, "{name}: {} dimensions, expected at most 2", info.n_dims));
    }
    Ok(TensorRef {
        dtype: info.dtype,
        n_cols: size(n_cols)?,
        n_rows: size(n_rows)?,
        offset: size(info.offset)?,
        bytes: size(info.bytes)?,
        packed: info.packed,
    })
}
