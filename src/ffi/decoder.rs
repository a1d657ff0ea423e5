//! tern_decoder_*: a stream of tokens to text.

use std::ffi::c_char;

use super::guard::{guard, quietly};
use super::handle::{DECODERS, MODELS, give, tern_decoder, tern_model};
use super::model::{lend, piece};
use super::params::tern_token;
use super::pointer::out;
use super::status::tern_status;
use crate::base::error::err;
use crate::base::sync::RwLock;
use crate::engine::{Model, StreamDecoder};

/// What a `tern_decoder *` stands for.
pub(super) struct Decoder {
    model: Model,
    stream: StreamDecoder,
    /// What the last call completed.
    complete: String,
}

/// Bytes of a token for which a decoder has room from the start.
const USUAL_PIECE: usize = 1024;

/// Room for the bytes held back and for a replacement, three bytes, for each byte of a piece.
fn room(piece_len: usize) -> usize {
    3 * (piece_len + 3)
}

/// Makes a decoder for a model's tokens. It keeps the model alive.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn tern_decoder_new(
    model: *const tern_model,
    decoder: *mut *mut tern_decoder,
) -> tern_status {
    guard(|| {
        let model = MODELS.get(model)?;
        // SAFETY: the header's contract for out parameters.
        let decoder = unsafe { out(decoder, "decoder")? };
        let mut complete = String::new();
        complete
            .try_reserve_exact(room(USUAL_PIECE))
            .map_err(|_| err!(OutOfMemory, "the text of a token"))?;
        let new = Decoder { model: model.model.clone(), stream: StreamDecoder::new(), complete };
        give(&DECODERS, RwLock::new(new), decoder)
    })
}

/// Frees a decoder. `decoder` may be NULL.
#[unsafe(no_mangle)]
pub extern "C" fn tern_decoder_free(decoder: *mut tern_decoder) {
    quietly(|| DECODERS.remove(decoder));
}

/// Takes the next token, and gives the text that is now complete: whole characters only, and
/// possibly none.
///
/// Bytes that can never become UTF-8 come out as U+FFFD. `text` is lent until the next call with
/// `decoder`; it does not end in NUL. Allocates only for tokens of more than 1024 bytes.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn tern_decoder_push(
    decoder: *mut tern_decoder,
    token: tern_token,
    text: *mut *const c_char,
    text_len: *mut usize,
) -> tern_status {
    guard(|| {
        let decoder = DECODERS.get(decoder)?;
        // SAFETY: the header's contract for out parameters.
        let (text, text_len) = unsafe { (out(text, "text")?, out(text_len, "text_len")?) };
        let mut state = decoder.write()?;
        let Decoder { model, stream, complete } = &mut *state;
        let piece = piece(model, token)?;
        complete.clear();
        complete
            .try_reserve(room(piece.len()))
            .map_err(|_| err!(OutOfMemory, "the text of token {token}"))?;
        stream.push(piece, &mut |part| complete.push_str(part));
        lend(Some(complete.as_bytes()), text, text_len);
        Ok(())
    })
}

/// Ends the text: gives U+FFFD if a character was left unfinished, else nothing.
///
/// The decoder is then as new. `text` is lent as by tern_decoder_push().
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn tern_decoder_flush(
    decoder: *mut tern_decoder,
    text: *mut *const c_char,
    text_len: *mut usize,
) -> tern_status {
    guard(|| {
        let decoder = DECODERS.get(decoder)?;
        // SAFETY: the header's contract for out parameters.
        let (text, text_len) = unsafe { (out(text, "text")?, out(text_len, "text_len")?) };
        let mut state = decoder.write()?;
        let Decoder { stream, complete, .. } = &mut *state;
        complete.clear();
        complete.try_reserve(3).map_err(|_| err!(OutOfMemory, "the end of a text"))?;
        stream.flush(&mut |part| complete.push_str(part));
        lend(Some(complete.as_bytes()), text, text_len);
        Ok(())
    })
}

/// Forgets what is held back, as for another text.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn tern_decoder_reset(decoder: *mut tern_decoder) -> tern_status {
    guard(|| {
        let decoder = DECODERS.get(decoder)?;
        let mut state = decoder.write()?;
        state.stream = StreamDecoder::new();
        state.complete.clear();
        Ok(())
    })
}
