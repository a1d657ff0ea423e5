//! From messages or plain text to the tokens of a prompt.

use std::io::Read;
use std::path::Path;

use tern::engine::{Message, Model};

use super::args::{Result, invalid, io_error};

/// Reads a text file; "-" is standard input.
pub(crate) fn read_text(path: &Path) -> Result<String> {
    let mut bytes = Vec::new();
    if path == Path::new("-") {
        std::io::stdin()
            .lock()
            .read_to_end(&mut bytes)
            .map_err(|e| io_error("standard input", &e))?;
    } else {
        bytes = std::fs::read(path).map_err(|e| io_error(path.display(), &e))?;
    }
    String::from_utf8(bytes).map_err(|e| {
        let at = e.utf8_error().valid_up_to();
        invalid(format_args!("{}: not valid UTF-8 at byte {at}", path.display()))
    })
}

/// Tokens of text that stands alone: with the special tokens that the model begins a text with.
pub(crate) fn raw(model: &Model, text: &str) -> Result<Vec<i32>> {
    tokens(model, text, true)
}

/// Tokens of what a chat template wrote. Special tokens in it are what they say; and if the template
/// wrote the model's first token itself, there is not a second one.
pub(crate) fn formatted(model: &Model, text: &str) -> Result<Vec<i32>> {
    let tokenizer = model.tokenizer();
    let bos = tokenizer.bos().and_then(|bos| tokenizer.name(bos)).unwrap_or(&[]);
    let has_bos = !bos.is_empty() && text.as_bytes().starts_with(bos);
    tokens(model, text, !has_bos)
}

/// Tokens of text that continues another.
pub(crate) fn continued(model: &Model, text: &str) -> Result<Vec<i32>> {
    tokens(model, text, false)
}

fn tokens(model: &Model, text: &str, add_special: bool) -> Result<Vec<i32>> {
    let mut tokens = Vec::new();
    model.tokenizer().tokenize(text, add_special, true, &mut tokens)?;
    Ok(tokens)
}

/// One turn of a conversation.
#[derive(Clone, Debug)]
pub(crate) struct Turn {
    /// "system", "user" or "assistant".
    pub(crate) role: &'static str,
    /// What was said.
    pub(crate) content: String,
}

/// The conversation as the model's own template writes it, ready for the assistant to go on.
pub(crate) fn format(model: &Model, turns: &[Turn]) -> Result<String> {
    let messages: Vec<Message<'_>> =
        turns.iter().map(|turn| Message { role: turn.role, content: &turn.content }).collect();
    let mut text = String::new();
    model.chat_format(&messages, true, &mut text)?;
    Ok(text)
}
