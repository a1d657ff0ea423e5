//! The architectures, one row each. A row says what the files of a family leave unsaid: which
//! tensors there are, how heads rotate, where norms stand, what the defaults are.

use crate::backend::Activation;
use crate::backend::rope::Layout;
use crate::base::error::{Result, err};

/// Which layers attend over a window only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Windows {
    /// All layers, if the file has a window at all.
    All,
    /// All but the last of each `period` layers; the file may give another period.
    AllButEvery {
        /// Layers in a period.
        period: u32,
        /// Tokens of the window where the file does not say.
        default: u32,
    },
    /// None, whatever the file says.
    None,
}

/// One architecture.
#[derive(Debug)]
pub struct Arch {
    /// Its name in GGUF, which is also the prefix of its keys.
    pub name: &'static str,
    /// Which elements of a head rotate together.
    pub rope_layout: Layout,
    /// Queries, keys and values in one tensor, gate and up in another.
    pub fused: bool,
    /// Biases on queries, keys and values are required; elsewhere they are optional.
    pub qkv_bias: bool,
    /// RMS norms on each head of queries and keys.
    pub qk_norm: bool,
    /// RMS norms on the output of attention and of the feed-forward block.
    pub post_norm: bool,
    /// The non-linearity.
    pub activation: Activation,
    /// Embeddings are multiplied by the square root of their width.
    pub scaled_embd: bool,
    /// Windows.
    pub windows: Windows,
    /// Base of the rotary frequencies in windowed layers, where it differs.
    pub window_rope_base: Option<f32>,
    /// The last of each so many layers has no rotary embedding; 0 = all have.
    pub no_rope_every: u32,
    /// The number of layers of the one size of this family whose attention scale follows from
    /// `n_embd / n_head` instead of the head's width.
    pub wide_scale_layers: Option<u32>,
    /// Caps of attention scores and of logits where the file does not say; 0 = none.
    pub softcaps: (f32, f32),
}

const LLAMA: Arch = Arch {
    name: "llama",
    rope_layout: Layout::Norm,
    fused: false,
    qkv_bias: false,
    qk_norm: false,
    post_norm: false,
    activation: Activation::Silu,
    scaled_embd: false,
    windows: Windows::All,
    window_rope_base: None,
    no_rope_every: 0,
    wide_scale_layers: None,
    softcaps: (0.0, 0.0),
};

const GEMMA2: Arch = Arch {
    name: "gemma2",
    rope_layout: Layout::Neox,
    post_norm: true,
    activation: Activation::Gelu,
    scaled_embd: true,
    windows: Windows::AllButEvery { period: 2, default: 4096 },
    wide_scale_layers: Some(46),
    softcaps: (50.0, 30.0),
    ..LLAMA
};

/// All architectures.
pub const ARCHS: &[Arch] = &[
    LLAMA,
    Arch { name: "smollm3", no_rope_every: 4, ..LLAMA },
    Arch {
        name: "qwen2",
        rope_layout: Layout::Neox,
        qkv_bias: true,
        windows: Windows::None,
        ..LLAMA
    },
    Arch {
        name: "qwen3",
        rope_layout: Layout::Neox,
        qk_norm: true,
        windows: Windows::None,
        ..LLAMA
    },
    GEMMA2,
    Arch {
        name: "gemma3",
        qk_norm: true,
        windows: Windows::AllButEvery { period: 6, default: 1024 },
        window_rope_base: Some(10_000.0),
        wide_scale_layers: Some(62),
        softcaps: (0.0, 0.0),
        ..GEMMA2
    },
    Arch { name: "phi3", rope_layout: Layout::Neox, fused: true, ..LLAMA },
];

/// The row of an architecture by its name in GGUF.
pub fn find(name: &str) -> Result<&'static Arch> {
    ARCHS.iter().find(|arch| arch.name == name).ok_or_else(|| {
        err!(
            UnsupportedArch,
            "general.architecture: found {name:?}, expected one of llama, smollm3, qwen2, qwen3, \
             gemma2, gemma3, phi3"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::error::Error;

    #[test]
    fn an_unknown_architecture_is_named() {
        let error = find("mamba").unwrap_err();
        assert!(matches!(error, Error::UnsupportedArch(_)));
        assert!(error.message().contains("\"mamba\""));
        for arch in ARCHS {
            assert!(find("x").unwrap_err().message().contains(arch.name), "{}", arch.name);
        }
    }
}
