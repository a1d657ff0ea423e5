//! The rotary embeddings of a model, from its metadata and its tensors of factors.

use crate::backend::rope::{Rope, Scaling};
use crate::base::error::{Result, err};
use crate::base::heap;
use crate::gguf::Gguf;

use super::hparams::{Hparams, Keys};

/// The file's divisors of frequencies, decoded: one list for all sessions, or two by length.
#[derive(Debug, Default)]
pub struct Factors {
    /// For all sessions, or for short ones.
    pub short: Vec<f32>,
    /// For sessions beyond the original context.
    pub long: Vec<f32>,
}

/// The embeddings that layers choose from: the global one, and that of windowed layers if it
/// differs.
pub fn ropes(gguf: &Gguf, h: &Hparams, factors: Factors) -> Result<Vec<Rope>> {
    let arch = h.arch.name;
    let keys = Keys::new(gguf, arch);
    let n_dims = match keys.with("rope.dimension_count", |meta, key| meta.get_u32(key))? {
        Some(n) if n as usize > h.head_dim || n % 2 != 0 || n == 0 => {
            return Err(err!(
                BadHparams,
                "{arch}.rope.dimension_count: found {n}, expected an even number up to the head's \
                 {}",
                h.head_dim
            ));
        }
        Some(n) => n as usize,
        None if h.head_dim.is_multiple_of(2) => h.head_dim,
        None => return Err(err!(BadHparams, "{arch}: heads of {} cannot rotate", h.head_dim)),
    };
    let base = keys.float("rope.freq_base", 1.0, 1e9)?.unwrap_or(10_000.0);
    let (scaling, n_ctx_orig, attn_factor) = scaling(&keys, h)?;
    for list in [&factors.short, &factors.long] {
        if !list.is_empty() && list.len() != n_dims / 2 {
            return Err(err!(
                BadTensor,
                "rope factors: {} of them, expected {}",
                list.len(),
                n_dims / 2
            ));
        }
        if let Some(bad) = list.iter().find(|f| !(**f > 0.0 && f.is_finite())) {
            return Err(err!(BadWeights, "rope factors: found {bad}, expected above 0"));
        }
    }
    let two = !factors.long.is_empty();
    let global = Rope {
        n_dims,
        base: f64::from(base),
        scaling,
        factors: factors.short,
        factors_long: factors.long,
        n_ctx_short: if two { n_ctx_orig } else { usize::MAX },
        factors_scale: if matches!(scaling, Scaling::Yarn { .. }) { 1.0 } else { attn_factor },
    };
    let mut ropes = heap::reserve(2, "rotary embeddings")?;
    ropes.push(global);
    if let Some(default) = h.arch.window_rope_base {
        let base = keys.float("rope.freq_base_swa", 1.0, 1e9)?.unwrap_or(default);
        ropes.push(Rope {
            n_dims,
            base: f64::from(base),
            scaling: Scaling::None,
            factors: Vec::new(),
            factors_long: Vec::new(),
            n_ctx_short: usize::MAX,
            factors_scale: 1.0,
        });
    }
    Ok(ropes)
}

/// The scaling, the context before it, and the factor on rotated vectors.
fn scaling(keys: &Keys<'_>, h: &Hparams) -> Result<(Scaling, usize, f64)> {
    let float = |key: &str, least: f32, most: f32| {
        keys.float(key, least, most).map(|found| found.map(f64::from))
    };
    let factor = match float("rope.scaling.factor", 0.0, 1e6)? {
        Some(factor) => factor,
        None => float("rope.scale_linear", 0.0, 1e6)?.unwrap_or(0.0),
    };
    let factor = if factor == 0.0 { 1.0 } else { factor };
    let orig = keys.with("rope.scaling.original_context_length", |meta, key| meta.get_u32(key))?;
    let n_ctx_orig = orig.filter(|&n| n > 0).map_or(h.n_ctx_train, |n| n as usize);
    let attn_factor = float("rope.scaling.attn_factor", 0.0, 1e3)?.unwrap_or(1.0);
    let kind = keys.with("rope.scaling.type", |meta, key| {
        meta.get_str(key).map(|kind| match kind {
            Some("none" | "longrope") => Ok(Scaling::None),
            Some("linear") | None => Ok(linear(factor)),
            Some("yarn") => Ok(Scaling::Yarn {
                factor,
                n_ctx_orig: n_ctx_orig as f64,
                ext_factor: 1.0,
                attn_factor,
                beta_fast: 32.0,
                beta_slow: 1.0,
            }),
            Some(other) => Err(err!(
                Unsupported,
                "{key}: found {other:?}, expected none, linear, yarn or longrope"
            )),
        })
    })??;
    let scaling = match kind {
        Scaling::Yarn { factor, n_ctx_orig, attn_factor, .. } => Scaling::Yarn {
            factor,
            n_ctx_orig,
            attn_factor,
            ext_factor: float("rope.scaling.yarn_ext_factor", 0.0, 1.0)?.unwrap_or(1.0),
            beta_fast: float("rope.scaling.yarn_beta_fast", 1e-3, 1e6)?.unwrap_or(32.0),
            beta_slow: float("rope.scaling.yarn_beta_slow", 1e-3, 1e6)?.unwrap_or(1.0),
        },
        other => other,
    };
    Ok((scaling, n_ctx_orig, attn_factor))
}

fn linear(factor: f64) -> Scaling {
    if factor == 1.0 { Scaling::None } else { Scaling::Linear { factor } }
}
