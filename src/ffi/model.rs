//! tern_model_*: load, plan, describe.

use std::ffi::{OsStr, c_char, c_void};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::guard::{guard, quietly};
use super::handle::{MODELS, give, tern_model};
use super::params::*;
use super::pointer::{Out, c_str, out, read_sized, sized_out, slice};
use super::session::session_params;
use super::status::tern_status;
use super::trust::trust_of;
use super::words::Words;
use crate::base::error::{Result, err};
use crate::engine::{HugePages, Input, LoadMode, Lock, Model, ModelParams};

/// What a `tern_model *` stands for.
pub(super) struct Loaded {
    pub(super) model: Model,
    pub(super) words: Words,
}

/// Loads a model from a GGUF file.
///
/// `params` may be NULL. Everything that a session will need is checked now. Fails with
/// TERN_ERROR_IO, with one of TERN_ERROR_BAD_* if the file is not as it should be, with one of
/// TERN_ERROR_UNSUPPORTED* if it is but tern does not know what it asks for, with
/// TERN_ERROR_MODEL_CHANGED if it was written to meanwhile, or with TERN_ERROR_OUT_OF_MEMORY.
///
/// With `trust` the file is held against a manifest that one of the keys must have signed, in the
/// pass that reads it: header, metadata and every tensor. Fails then with TERN_ERROR_NOT_SIGNED,
/// TERN_ERROR_BAD_MANIFEST, TERN_ERROR_BAD_SIGNATURE, TERN_ERROR_BAD_DIGEST, which names the tensor,
/// or TERN_ERROR_ROLLBACK; with TERN_ERROR_UNSUPPORTED for TERN_LOAD_MAP_FAST, and in a library that
/// was built without TERN_SIGNED_MODELS. With TERN_LOAD_COPY what was checked is what is evaluated;
/// with TERN_LOAD_MAP_GUARDED only as long as nobody writes to the file.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn tern_model_load(
    path: *const c_char,
    params: *const tern_model_params,
    model: *mut *mut tern_model,
) -> tern_status {
    guard(|| {
        // SAFETY: the header's contract for strings and out parameters.
        let (path, model) = unsafe { (file_path(path)?, out(model, "model")?) };
        // SAFETY: the header's contract for structs.
        unsafe { load(Input::Path(path), params, model) }
    })
}

/// Loads a model from a part of an open file: `length` bytes from `offset`; 0 = to the end.
///
/// The descriptor needs to be readable and seekable. It is duplicated: close it when you like. Its
/// file position is neither used nor changed. Otherwise as tern_model_load().
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn tern_model_load_fd(
    fd: i32,
    offset: u64,
    length: u64,
    params: *const tern_model_params,
    model: *mut *mut tern_model,
) -> tern_status {
    guard(|| {
        // SAFETY: the header's contract for out parameters.
        let model = unsafe { out(model, "model")? };
        let len = match length {
            0 => u64::MAX, // which says "to the end" within
            u64::MAX => return Err(err!(InvalidArgument, "length: {length}, no file has as many")),
            length => length,
        };
        // SAFETY: the header's contract for structs.
        unsafe { load(Input::Fd { fd, offset, len }, params, model) }
    })
}

/// Loads a model from a GGUF file in memory.
///
/// The bytes are copied: free them when you like. The load mode is TERN_LOAD_COPY, whatever
/// `params` say. Otherwise as tern_model_load().
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn tern_model_load_memory(
    bytes: *const c_void,
    n_bytes: usize,
    params: *const tern_model_params,
    model: *mut *mut tern_model,
) -> tern_status {
    guard(|| {
        // SAFETY: the header's contract for buffers and out parameters.
        let (bytes, model) =
            unsafe { (slice(bytes.cast::<u8>(), n_bytes, "bytes")?, out(model, "model")?) };
        // SAFETY: the header's contract for structs.
        unsafe { load(Input::Memory(bytes), params, model) }
    })
}

/// Frees a model. Sessions made from it stay valid. `model` may be NULL.
#[unsafe(no_mangle)]
pub extern "C" fn tern_model_free(model: *mut tern_model) {
    quietly(|| MODELS.remove(model));
}

/// Says how much memory a model and one session of it will take, before any of it is taken.
///
/// Reads the file's header only. `model_params` and `session_params` may be NULL; `progress` is
/// not called, and no signature is looked at. Fails as tern_model_load() does.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn tern_model_plan(
    path: *const c_char,
    model_params: *const tern_model_params,
    session_params: *const tern_session_params,
    info: *mut tern_plan_info,
) -> tern_status {
    guard(|| {
        // SAFETY: the header's contract for strings and structs.
        let (path, params, session, info) = unsafe {
            (
                file_path(path)?,
                read_sized(model_params, "model_params")?,
                read_sized(session_params, "session_params")?,
                sized_out(info, "info")?,
            )
        };
        let session = self::session_params(&session)?;
        // SAFETY: the header's contract for structs.
        unsafe { trust_of(params.trust)? };
        let plan = Model::plan(Input::Path(path), &model_params_of(&params)?, &session)?;
        let value = tern_plan_info {
            struct_size: 0,
            reserved: 0,
            weights_bytes: plan.weights_bytes,
            kv_bytes: plan.kv_bytes,
            scratch_bytes: plan.scratch_bytes,
            vocab_bytes: plan.vocab_bytes,
            total_bytes: plan.total_bytes,
            mapped_bytes: plan.mapped_bytes,
        };
        info.write(value);
        Ok(())
    })
}

/// Writes the packed form of a model's file: its matrices as the kernels read them. Loading that
/// copies nothing, and it evaluates as fast, and to the same logits, as the original does when it is
/// loaded with TERN_LOAD_COPY.
///
/// `packed_path` appears whole or not at all. A file that is there is replaced, and models that were
/// loaded from it stay what they are. It has all that the original has, each weight checked; only
/// tern reads it, and only a version that knows its layout (TERN_ERROR_UNSUPPORTED_PACKING), so keep
/// the original. `progress` may be NULL, and is as that of tern_model_params. Fails as
/// tern_model_load() does, and with TERN_ERROR_UNSUPPORTED if the file is packed already,
/// TERN_ERROR_INVALID_ARGUMENT if both paths lead to one file, TERN_ERROR_IO if it cannot be
/// written.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn tern_model_pack(
    path: *const c_char,
    packed_path: *const c_char,
    progress: tern_progress_fn,
    user_data: *mut c_void,
) -> tern_status {
    guard(|| {
        // SAFETY: the header's contract for strings.
        let (from, to) = unsafe { (file_path(path)?, c_str(packed_path, "packed_path")?) };
        let to = Path::new(OsStr::from_bytes(to.to_bytes()));
        // SAFETY: the header's contract for callbacks.
        let mut progress = unsafe { progress_of(progress, user_data) };
        Model::pack(from, to, &mut progress).map(|_| ())
    })
}

/// Describes a model. The strings are lent until the model is freed.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn tern_model_describe(
    model: *const tern_model,
    info: *mut tern_model_info,
) -> tern_status {
    guard(|| {
        let model = MODELS.get(model)?;
        // SAFETY: the header's contract for structs.
        let info = unsafe { sized_out(info, "info")? };
        let (shape, tokenizer) = (model.model.info(), model.model.tokenizer());
        let value = tern_model_info {
            struct_size: 0,
            n_vocab: shape.n_vocab,
            n_ctx_train: shape.n_ctx_train,
            n_embd: shape.n_embd,
            n_layer: shape.n_layer,
            n_head: shape.n_head,
            n_head_kv: shape.n_head_kv,
            bos: tokenizer.bos().unwrap_or(-1),
            weight_bytes: shape.weight_bytes,
            arch: model.words.arch(),
            name: model.words.name(),
            n_params: shape.n_params,
            eos: tokenizer.eos().unwrap_or(-1),
            head_dim: shape.head_dim,
            n_ff: shape.n_ff,
            n_metadata: model.words.n_metadata(),
            locked_bytes: shape.locked_bytes,
        };
        info.write(value);
        Ok(())
    })
}

/// Looks up an entry of the file's metadata by its key, as in "general.license".
///
/// A string is given as it is, a number or a truth value in decimal or as "true" and "false", an
/// array as its type and length, as in "f32[32000]". `value` is lent until the model is freed, and
/// ends in NUL; it is NULL, and its length 0, if there is no such entry.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn tern_model_metadata(
    model: *const tern_model,
    key: *const c_char,
    value: *mut *const c_char,
    value_len: *mut usize,
) -> tern_status {
    guard(|| {
        let model = MODELS.get(model)?;
        // SAFETY: the header's contract for strings and out parameters.
        let (key, value, value_len) =
            unsafe { (c_str(key, "key")?, out(value, "value")?, out(value_len, "value_len")?) };
        lend(model.words.lookup(key), value, value_len);
        Ok(())
    })
}

/// Gives an entry of the file's metadata by its index, from 0 to `n_metadata` of tern_model_info.
///
/// `key` and `value` are lent until the model is freed, and end in NUL; the value is as
/// tern_model_metadata() gives it.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn tern_model_metadata_at(
    model: *const tern_model,
    index: u32,
    key: *mut *const c_char,
    value: *mut *const c_char,
    value_len: *mut usize,
) -> tern_status {
    guard(|| {
        let model = MODELS.get(model)?;
        // SAFETY: the header's contract for out parameters.
        let (key, value, value_len) =
            unsafe { (out(key, "key")?, out(value, "value")?, out(value_len, "value_len")?) };
        let (found, text) = model.words.entry(index).ok_or_else(|| {
            let n = model.words.n_metadata();
            err!(InvalidArgument, "no entry {index}; there are {n}")
        })?;
        key.write(found);
        lend(Some(text), value, value_len);
        Ok(())
    })
}

/// Gives the template that turns a chat into a prompt, as the file has it.
///
/// `text` is lent until the model is freed; it is NULL, and its length 0, if the file has none.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn tern_model_chat_template(
    model: *const tern_model,
    text: *mut *const c_char,
    text_len: *mut usize,
) -> tern_status {
    guard(|| {
        let model = MODELS.get(model)?;
        // SAFETY: the header's contract for out parameters.
        let (text, text_len) = unsafe { (out(text, "text")?, out(text_len, "text_len")?) };
        lend(model.model.chat_template().map(str::as_bytes), text, text_len);
        Ok(())
    })
}

/// The bytes that a token stands for.
pub(super) fn piece(model: &Model, token: tern_token) -> Result<&[u8]> {
    let tokenizer = model.tokenizer();
    tokenizer.piece(token).ok_or_else(|| {
        let n = tokenizer.n_vocab();
        err!(InvalidArgument, "no token {token}; the vocabulary has {n}")
    })
}

/// Lends bytes, or NULL.
pub(super) fn lend(bytes: Option<&[u8]>, ptr: Out<'_, *const c_char>, len: Out<'_, usize>) {
    ptr.write(bytes.map_or(std::ptr::null(), |bytes| bytes.as_ptr().cast()));
    len.write(bytes.map_or(0, <[u8]>::len));
}

/// # Safety
/// `params` is NULL or points to `struct_size` readable bytes; its callback, if any, may be called
/// with its `user_data` until this returns, and its `trust` is as [`trust_of`] says.
unsafe fn load(
    input: Input<'_>,
    params: *const tern_model_params,
    to: Out<'_, *mut tern_model>,
) -> Result<()> {
    // SAFETY: the caller's contract.
    let params = unsafe { read_sized(params, "params")? };
    let settings = model_params_of(&params)?;
    // SAFETY: the caller's contract.
    let mut progress = unsafe { progress_of(params.progress, params.user_data) };
    // SAFETY: the caller's contract.
    let trust = unsafe { trust_of(params.trust)? };
    let model = Model::load_signed(input, &settings, trust.as_ref(), &mut progress)?;
    let words = Words::new(&model)?;
    give(&MODELS, Loaded { model, words }, to)
}

/// What the library calls for a callback of the caller's.
///
/// # Safety
/// `progress`, if any, may be called with `user_data` as long as the result is used.
unsafe fn progress_of(
    progress: tern_progress_fn,
    user_data: *mut c_void,
) -> impl FnMut(u64, u64) -> bool {
    move |done, total| match progress {
        // SAFETY: the contract of this function. An exception that a C++ callback lets escape,
        // against the header, ends the process in the guard, where Rust refuses to catch it.
        Some(progress) => unsafe { progress(user_data, done, total) == 0 },
        None => true,
    }
}

fn model_params_of(params: &tern_model_params) -> Result<ModelParams> {
    let load_mode = match params.load_mode {
        TERN_LOAD_DEFAULT => None,
        TERN_LOAD_COPY => Some(LoadMode::Copy),
        TERN_LOAD_MAP_GUARDED => Some(LoadMode::MapGuarded),
        TERN_LOAD_MAP_FAST => Some(LoadMode::MapFast),
        other => {
            return Err(err!(InvalidArgument, "params: load_mode is {other}, expected 0 to 3"));
        }
    };
    let (lock, huge) = (lock_of(params.lock_memory)?, huge_pages_of(params.huge_pages)?);
    Ok(ModelParams {
        device: params.device,
        load_mode,
        screened_head: params.screened_head != 0,
        lock,
        huge,
        ..ModelParams::default()
    })
}

/// The engine's view of a TERN_LOCK_*.
pub(super) fn lock_of(lock: tern_lock) -> Result<Lock> {
    match lock {
        TERN_LOCK_NO => Ok(Lock::No),
        TERN_LOCK_TRY => Ok(Lock::Try),
        TERN_LOCK_MUST => Ok(Lock::Must),
        other => Err(err!(InvalidArgument, "params: lock_memory: {other}, expected 0 to 2")),
    }
}

/// The engine's view of a TERN_HUGE_PAGES_*.
pub(super) fn huge_pages_of(huge: tern_huge_pages) -> Result<HugePages> {
    match huge {
        TERN_HUGE_PAGES_DEFAULT => Ok(HugePages::Default),
        TERN_HUGE_PAGES_NEVER => Ok(HugePages::Never),
        TERN_HUGE_PAGES_TRANSPARENT => Ok(HugePages::Transparent),
        other => Err(err!(InvalidArgument, "params: huge_pages: {other}, expected 0 to 2")),
    }
}

/// # Safety
/// `path` is NULL or points to a string that ends in NUL.
pub(super) unsafe fn file_path<'a>(path: *const c_char) -> Result<&'a Path> {
    // SAFETY: the caller's contract.
    let bytes = unsafe { c_str(path, "path")? }.to_bytes();
    Ok(Path::new(OsStr::from_bytes(bytes)))
}
