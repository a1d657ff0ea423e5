//! The names of pre-tokenizers, and what each means.

use crate::base::error::{Result, err};

/// A named scheme (`tokenizer.ggml.pre`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scheme {
    Default,
    DeepseekCoder,
    DeepseekLlm,
    DeepseekV3,
    Falcon,
    Gpt2,
    Gpt4o,
    /// Runs of newlines and what lies between: words that no merge of the vocabulary crosses.
    Lines,
    Llama3,
    Qwen2,
    Qwen35,
    Starcoder,
    Tekken,
}

/// What a name means: the scheme, whether a word that is a token is left whole whatever the merges
/// say, and whether a text begins with BOS unless the file says otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pre {
    pub(super) scheme: Scheme,
    pub(super) whole_words: bool,
    pub(super) add_bos: bool,
}

impl Pre {
    /// Finds the scheme of a name; an empty name is a file from before there were names.
    pub(super) fn named(name: &str) -> Result<Pre> {
        use Scheme::*;
        let plain = |scheme| Pre { scheme, whole_words: false, add_bos: false };
        Ok(match name {
            "" | "default" => plain(Default),
            "llama-bpe" | "llama3" | "llama-v3" | "smollm3" | "falcon3" | "falcon-h1"
            | "pixtral" | "midm-2.0" | "lfm2" => {
                Pre { scheme: Llama3, whole_words: true, add_bos: true }
            }
            "glm4" => Pre { scheme: Llama3, whole_words: true, add_bos: false },
            "dbrx" | "smaug-bpe" | "chatglm-bpe" => plain(Llama3),
            "gpt-2" | "phi-2" | "mpt" | "olmo" | "jais" | "trillion" | "granite-docling"
            | "gigachat" | "exaone4" | "a.x-4.0" | "mellum" | "modern-bert" | "jina-es"
            | "jina-de" | "jina-v2-es" | "jina-v2-de" => plain(Gpt2),
            "qwen2" | "deepseek-r1-qwen" | "stablelm2" | "megrez" | "hunyuan" | "solar-open"
            | "kormo" | "grok-2" => plain(Qwen2),
            "qwen35" => plain(Qwen35),
            "smollm" | "starcoder" | "refact" | "command-r" | "codeshell" | "exaone"
            | "minerva-7b" | "mellum2" => plain(Starcoder),
            "deepseek-llm" => plain(DeepseekLlm),
            "deepseek-coder" => plain(DeepseekCoder),
            "deepseek-v3" | "hunyuan-dense" | "joyai-llm" => plain(DeepseekV3),
            "falcon" => plain(Falcon),
            "gpt-4o" | "llama4" | "kanana2" => plain(Gpt4o),
            "tekken" => Pre { scheme: Tekken, whole_words: true, add_bos: true },
            "gemma4" => Pre { scheme: Lines, whole_words: false, add_bos: true },
            other => {
                return Err(err!(UnsupportedTokenizer, "tokenizer.ggml.pre is {other:?}"));
            }
        })
    }
}
