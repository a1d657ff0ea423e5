//! Which tokens are control tokens, and which end generation, where a file says less than it
//! should: by names that model families have given them.

use super::vocab::{END, Kind, STRIP, Vocab};

/// Names that end generation wherever they occur; a file that calls them text is mistaken.
const ENDS: &[&str] = &[
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "<|eom_id|>",
    "<|end_of_text|>",
    "<end_of_utterance>",
    "<turn|>",
    "<|tool_response>",
    "<｜end▁of▁sentence｜>",
    "<|fim_pad|>",
    "<|repo_name|>",
    "<|file_sep|>",
];

/// Names that end generation if the file calls them control tokens. Elsewhere they are HTML, or
/// part of a language's text.
const ENDS_IF_CONTROL: &[&str] = &["</s>", "<eos>", "<EOT>", "_<EOT>", "[EOT]", "[EOS]"];

/// Names of other control tokens that some files call text.
const CONTROL: &[&str] = &[
    "<|fim_prefix|>",
    "<|fim_middle|>",
    "<|fim_suffix|>",
    "<fim_prefix>",
    "<fim_middle>",
    "<fim_suffix>",
    "<fim_pad>",
    "<｜fim▁begin｜>",
    "<｜fim▁hole｜>",
    "<｜fim▁end｜>",
];

/// Special tokens that keep the white space after them in the vocabularies whose others take it.
const KEEPS_SPACE: &[&str] = &["<unk>", "<s>", "<|endoftext|>"];

/// Marks control tokens and those that end generation: those that the file names in `ends`, and
/// those with well-known names.
pub(super) fn mark(vocab: &mut Vocab, ends: impl Iterator<Item = u32>) {
    for id in ends {
        vocab.set(id, END, true);
    }
    let (mut returns, mut calls, mut end) = (false, false, None);
    for id in 0..vocab.len() as u32 {
        let Some(text) = vocab.text(id).filter(|text| may_be_name(text)) else { continue };
        let is_in = |names: &[&str]| names.iter().any(|name| name.as_bytes() == text);
        let control = vocab.kind(id) == Some(Kind::Control);
        returns |= text == b"<|return|>";
        calls |= text == b"<|call|>";
        if text == b"<|end|>" {
            end = Some(id);
        }
        if is_in(ENDS) {
            vocab.set_control(id);
            vocab.set(id, END, true);
        } else if control && is_in(ENDS_IF_CONTROL) {
            vocab.set(id, END, true);
        } else if is_in(CONTROL) {
            vocab.set_control(id);
        }
    }
    // Where a turn ends with "<|return|>" or "<|call|>", "<|end|>" only ends one of its messages.
    if let (true, true, Some(id)) = (returns, calls, end) {
        vocab.set(id, END, false);
    }
}

/// Whether a text looks like those above; few others do.
fn may_be_name(text: &[u8]) -> bool {
    let ends = (text.first(), text.last());
    matches!(ends, (Some(b'<' | b'_' | b'['), Some(b'>' | b']'))) && (4..=32).contains(&text.len())
}

/// Makes special tokens take the white space after them.
pub(super) fn mark_strip(vocab: &mut Vocab) {
    for id in 0..vocab.len() as u32 {
        let special =
            matches!(vocab.kind(id), Some(Kind::Control | Kind::UserDefined | Kind::Unknown));
        let text = vocab.text(id).unwrap_or(&[]);
        if special && !KEEPS_SPACE.iter().any(|name| name.as_bytes() == text) {
            vocab.set(id, STRIP, true);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_looks_like_one() {
        for name in [ENDS, ENDS_IF_CONTROL, CONTROL].concat() {
            assert!(may_be_name(name.as_bytes()), "{name}");
        }
        assert!(!may_be_name(b" the") && !may_be_name(b"<a>"));
    }
}
