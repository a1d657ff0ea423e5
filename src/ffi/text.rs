//! tern_model_*: text to tokens and back.

use std::ffi::c_char;

use super::guard::{guard, quietly};
use super::handle::{MODELS, tern_model};
use super::model::{lend, piece};
use super::params::{tern_chat_message, tern_token};
use super::pointer::{c_str, checked_utf8, fill, out, slice, utf8};
use super::status::tern_status;
use crate::base::error::{Result, err};
use crate::engine::Message;
use crate::tokenizer::Tokenizer;

/// Adds the tokens that the model wants around a text, such as a BOS.
pub const TERN_TOKENIZE_ADD_SPECIAL: u32 = 1;
/// Reads the names of control tokens in the text as those tokens, not as plain text. Only for
/// text you trust.
pub const TERN_TOKENIZE_PARSE_SPECIAL: u32 = 2;

/// Turns text into tokens. `flags` is a sum of TERN_TOKENIZE_*.
///
/// A text has at most 64 MiB: TERN_ERROR_LIMIT.
///
/// `n_tokens` is set to the number of tokens there are. If that is more than `capacity`, nothing
/// else is written and the call fails with TERN_ERROR_BUFFER_TOO_SMALL; so a capacity of 0
/// measures.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn tern_model_tokenize(
    model: *const tern_model,
    text: *const c_char,
    text_len: usize,
    flags: u32,
    tokens: *mut tern_token,
    capacity: usize,
    n_tokens: *mut usize,
) -> tern_status {
    guard(|| {
        let model = MODELS.get(model)?;
        // SAFETY: the header's contract for buffers and out parameters.
        let (text, n_tokens) =
            unsafe { (slice(text.cast::<u8>(), text_len, "text")?, out(n_tokens, "n_tokens")?) };
        Tokenizer::check_len(text.len())?; // before all of it is read
        let text = checked_utf8(text, "text")?;
        check_flags(flags, TERN_TOKENIZE_ADD_SPECIAL | TERN_TOKENIZE_PARSE_SPECIAL)?;
        let add_special = flags & TERN_TOKENIZE_ADD_SPECIAL != 0;
        let parse_special = flags & TERN_TOKENIZE_PARSE_SPECIAL != 0;
        let mut found = Vec::new();
        model.model.tokenizer().tokenize(text, add_special, parse_special, &mut found)?;
        // SAFETY: the header's contract for buffers.
        unsafe { fill(tokens, capacity, "tokens", &found, n_tokens) }
    })
}

/// Turns a run of tokens into text: the bytes they stand for, one after the other, as
/// tern_model_token_piece() gives them, without the blank that some tokenizers put in front.
/// `flags` is 0.
///
/// A run that was cut between the bytes of a character is not UTF-8 there; a tern_decoder waits
/// for the rest. `text_len` and `capacity` are as for tern_model_tokenize().
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn tern_model_detokenize(
    model: *const tern_model,
    tokens: *const tern_token,
    n_tokens: usize,
    flags: u32,
    text: *mut c_char,
    capacity: usize,
    text_len: *mut usize,
) -> tern_status {
    guard(|| {
        let model = MODELS.get(model)?;
        // SAFETY: the header's contract for buffers and out parameters.
        let (tokens, text_len) =
            unsafe { (slice(tokens, n_tokens, "tokens")?, out(text_len, "text_len")?) };
        check_flags(flags, 0)?;
        let mut found = Vec::new();
        model.model.tokenizer().detokenize(tokens, &mut found)?;
        // SAFETY: the header's contract for buffers.
        unsafe { fill(text.cast::<u8>(), capacity, "text", &found, text_len) }
    })
}

/// Gives the bytes a token stands for: possibly part of a character; none if it is a control
/// token. The pieces of a text's tokens, one after the other, are the text.
///
/// `piece` is lent until the model is freed.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn tern_model_token_piece(
    model: *const tern_model,
    token: tern_token,
    piece: *mut *const c_char,
    piece_len: *mut usize,
) -> tern_status {
    guard(|| {
        let model = MODELS.get(model)?;
        // SAFETY: the header's contract for out parameters.
        let (piece, piece_len) = unsafe { (out(piece, "piece")?, out(piece_len, "piece_len")?) };
        lend(Some(self::piece(&model.model, token)?), piece, piece_len);
        Ok(())
    })
}

/// Whether a token ends generation: end of text, or end of turn. False for what is no token, or
/// no model.
#[unsafe(no_mangle)]
pub extern "C" fn tern_model_token_is_eog(model: *const tern_model, token: tern_token) -> bool {
    let mut is_eog = false;
    quietly(|| {
        is_eog = MODELS.get(model).is_ok_and(|model| model.model.tokenizer().is_eog(token));
    });
    is_eog
}

/// Turns messages into a prompt with the model's own chat template.
///
/// `add_generation_prompt` 1 ends it where the assistant's answer begins, 0 does not. Tokenize
/// the prompt with TERN_TOKENIZE_PARSE_SPECIAL, and without TERN_TOKENIZE_ADD_SPECIAL: the
/// template has put in what the model wants. `text_len` and `capacity` are as for
/// tern_model_tokenize(). Fails with TERN_ERROR_BAD_TEMPLATE.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn tern_model_chat_format(
    model: *const tern_model,
    messages: *const tern_chat_message,
    n_messages: usize,
    add_generation_prompt: u32,
    text: *mut c_char,
    capacity: usize,
    text_len: *mut usize,
) -> tern_status {
    guard(|| {
        let model = MODELS.get(model)?;
        // SAFETY: the header's contract for buffers and out parameters.
        let (given, text_len) =
            unsafe { (slice(messages, n_messages, "messages")?, out(text_len, "text_len")?) };
        if add_generation_prompt > 1 {
            let given = add_generation_prompt;
            return Err(err!(InvalidArgument, "add_generation_prompt: {given}, expected 0 or 1"));
        }
        let mut messages = Vec::new();
        messages
            .try_reserve_exact(given.len())
            .map_err(|_| err!(OutOfMemory, "{} messages", given.len()))?;
        for message in given {
            // SAFETY: the header's contract for strings and buffers, for each message.
            messages.push(unsafe { chat_message(message)? });
        }
        let mut found = String::new();
        model.model.chat_format(&messages, add_generation_prompt == 1, &mut found)?;
        // SAFETY: the header's contract for buffers.
        unsafe { fill(text.cast::<u8>(), capacity, "text", found.as_bytes(), text_len) }
    })
}

/// # Safety
/// The message's role is NULL or ends in NUL, and its content has the length it says.
unsafe fn chat_message<'a>(message: &tern_chat_message) -> Result<Message<'a>> {
    // SAFETY: the caller's contract.
    let (role, content) = unsafe {
        (c_str(message.role, "role")?, utf8(message.content, message.content_len, "content")?)
    };
    let role = role.to_str().map_err(|_| err!(InvalidArgument, "role is not UTF-8"))?;
    Ok(Message { role, content })
}

fn check_flags(flags: u32, known: u32) -> Result<()> {
    if flags & !known != 0 {
        return Err(err!(InvalidArgument, "flags: {flags:#x}, known are {known:#x}"));
    }
    Ok(())
}
