//! A tokenizer from a file's metadata.

use crate::base::error::{Error, Result, err};
use crate::base::heap;
use crate::gguf::Metadata;
use crate::tokenizer::{Tables, Tokenizer};

/// Keys of tokens that end generation, beside `eos_token_id`.
const ENDS: &[&str] = &[
    "tokenizer.ggml.eot_token_id",
    "tokenizer.ggml.eom_token_id",
    "tokenizer.ggml.fim_pad_token_id",
    "tokenizer.ggml.fim_rep_token_id",
    "tokenizer.ggml.fim_sep_token_id",
];

/// Makes the tokenizer that the keys `tokenizer.ggml.*` describe. The texts are read where the
/// header has them, and copied once.
///
/// Fails as [`Tokenizer::new`] does, and with BadVocab for a key whose value is of the wrong kind.
pub fn tokenizer(metadata: &Metadata) -> Result<Tokenizer> {
    tables(metadata).and_then(Tokenizer::new)
}

/// The tables that the keys `tokenizer.ggml.*` hold, not yet checked against each other.
pub fn tables<'m>(
    metadata: &'m Metadata,
) -> Result<Tables<'m, impl Iterator<Item = &'m [u8]>, impl Iterator<Item = &'m [u8]>>> {
    read(metadata).map_err(bad_vocab)
}

fn read<'m>(
    metadata: &'m Metadata,
) -> Result<Tables<'m, impl Iterator<Item = &'m [u8]>, impl Iterator<Item = &'m [u8]>>> {
    let model = metadata.get_str("tokenizer.ggml.model")?.unwrap_or("");
    let tokens = metadata.strings("tokenizer.ggml.tokens")?;
    let merges = metadata.strings("tokenizer.ggml.merges")?;
    let (n_tokens, n_merges) =
        (tokens.as_ref().map_or(0, |t| t.len()), merges.as_ref().map_or(0, |m| m.len()));
    // Only SentencePiece ranks tokens by their scores.
    let scores = match model {
        "llama" => metadata.f32s("tokenizer.ggml.scores")?.unwrap_or_default(),
        _ => Vec::new(),
    };
    let mut ends = heap::reserve(ENDS.len(), "ends of texts")?;
    for key in ENDS {
        let id = metadata.get_u32(key)?;
        // The tokenizer would not know which of them it is.
        if let Some(id) = id.filter(|&id| n_tokens > 0 && id as usize >= n_tokens) {
            return Err(err!(BadVocab, "{key}: {id}, expected less than {n_tokens}"));
        }
        ends.extend(id);
    }
    Ok(Tables {
        model,
        pre: metadata.get_str("tokenizer.ggml.pre")?.unwrap_or(""),
        n_tokens,
        tokens: tokens.into_iter().flatten(),
        scores,
        types: metadata.i32s("tokenizer.ggml.token_type")?.unwrap_or_default(),
        n_merges,
        merges: merges.into_iter().flatten(),
        bos: metadata.get_u32("tokenizer.ggml.bos_token_id")?,
        eos: metadata.get_u32("tokenizer.ggml.eos_token_id")?,
        unk: metadata.get_u32("tokenizer.ggml.unknown_token_id")?,
        ends,
        add_bos: metadata.get_bool("tokenizer.ggml.add_bos_token")?,
        add_eos: metadata.get_bool("tokenizer.ggml.add_eos_token")?,
        add_space_prefix: metadata.get_bool("tokenizer.ggml.add_space_prefix")?,
        // The tokens of Phi-3 say this in a file of their own, of which GGUF has nothing. Phi-4
        // has the architecture too, but not the kind of vocabulary.
        strip_after_special: model == "llama"
            && metadata.get_str("general.architecture")? == Some("phi3"),
    })
}

/// The keys here are the vocabulary's: what is wrong with them is wrong with it.
fn bad_vocab(error: Error) -> Error {
    match error {
        Error::BadHparams(sentence) => Error::BadVocab(sentence),
        other => other,
    }
}
