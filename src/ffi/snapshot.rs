//! A session that is put away and comes back: to a file, or to the caller's memory.

use std::ffi::{c_char, c_void};
use std::ptr::NonNull;

use super::guard::guard;
use super::handle::{SAMPLERS, SESSIONS, tern_sampler, tern_session};
use super::model::file_path;
use super::pointer::{out, slice};
use super::sampler::Sampling;
use super::status::tern_status;
use super::table::Held;
use crate::base::error::{Result, err};
use crate::base::sync::RwLock;
use crate::engine::snapshot::prefetch;

/// Saves a session to a file, in place of one that is there: all that its next tokens depend on,
/// but not its logits. With a sampler, which may be NULL, also the random state and the history of
/// that.
///
/// The file is the old one or the new one, whole, whatever happens meanwhile, and only its owner
/// may read it: the text can be read from it. It has about as many bytes as the keys and values
/// that are in use. To go on with a choice, not with an eval, save before the last token is
/// evaluated. Allocates. Fails with TERN_ERROR_IO; the first time of a model reads all its weights.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn tern_session_save(
    session: *const tern_session,
    sampler: *const tern_sampler,
    path: *const c_char,
) -> tern_status {
    guard(|| {
        let (session, sampler) = (SESSIONS.get(session)?, sampler_or_null(sampler)?);
        // SAFETY: the header's contract for strings.
        let path = unsafe { file_path(path)? };
        let sampling = sampler.as_ref().map(|sampler| sampler.read()).transpose()?;
        session.read()?.save(sampling.as_deref().map(Sampling::sampler), path)
    })
}

/// Asks the system to read a session's file into memory that is free, and does not wait for it: a
/// session that will be wanted soon is then restored without waiting for the disk. What has been read
/// goes again where memory is short.
///
/// May be called by any thread, with any file and no model; only the header is checked. Fails with
/// TERN_ERROR_IO, TERN_ERROR_SNAPSHOT_CORRUPT and TERN_ERROR_SNAPSHOT_VERSION.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn tern_session_prefetch(path: *const c_char) -> tern_status {
    guard(|| {
        // SAFETY: the header's contract for strings.
        prefetch(unsafe { file_path(path)? })
    })
}

/// Goes on from where a session was when it was saved, in place of what this one holds: what
/// follows is what would have followed there, bit for bit, where both were made with the same
/// parameters and run with the same instruction set. Threads may be others, and `n_ctx` larger:
/// what happens when slots are full then happens later. The sampler, if not NULL, goes on from
/// where the saved one was. There are no logits until the next eval.
///
/// All or nothing: on any error both are as they were. The file is read a chunk at a time into a
/// session that is new or was truncated to 0; it comes into memory first where what the session
/// holds must not be lost. Fails with TERN_ERROR_IO, TERN_ERROR_SNAPSHOT_CORRUPT,
/// TERN_ERROR_SNAPSHOT_VERSION, TERN_ERROR_SNAPSHOT_MODEL, and TERN_ERROR_SNAPSHOT_LAYOUT if the
/// session was made with other types of keys or values or another policy, if what was saved does
/// not fit, or if the sampler has other parameters or none was saved.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn tern_session_restore(
    session: *mut tern_session,
    sampler: *mut tern_sampler,
    path: *const c_char,
) -> tern_status {
    guard(|| {
        let (session, sampler) = (SESSIONS.get(session)?, sampler_or_null(sampler)?);
        // SAFETY: the header's contract for strings.
        let path = unsafe { file_path(path)? };
        let mut sampling = sampler.as_ref().map(|sampler| sampler.write()).transpose()?;
        session.write()?.restore(sampling.as_deref_mut().map(Sampling::sampler_mut), path)?;
        sampling.iter_mut().for_each(|sampling| sampling.update_logprobs());
        Ok(())
    })
}

/// Writes what tern_session_save() would save to `buffer`, which has room for `capacity` bytes;
/// `size` is how many they are, also where they do not fit. `buffer` may be NULL if `capacity` is
/// 0.
///
/// Fails with TERN_ERROR_BUFFER_TOO_SMALL.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn tern_session_write(
    session: *const tern_session,
    sampler: *const tern_sampler,
    buffer: *mut c_void,
    capacity: usize,
    size: *mut usize,
) -> tern_status {
    guard(|| {
        let (session, sampler) = (SESSIONS.get(session)?, sampler_or_null(sampler)?);
        // SAFETY: the header's contract for out parameters.
        let size = unsafe { out(size, "size")? };
        if capacity != 0 && buffer.is_null() {
            return Err(err!(InvalidArgument, "buffer is NULL"));
        }
        let sampling = sampler.as_ref().map(|sampler| sampler.read()).transpose()?;
        let (sampler, session) = (sampling.as_deref().map(Sampling::sampler), session.read()?);
        let len = session.saved_len(sampler)?;
        let n = usize::try_from(len).unwrap_or(usize::MAX);
        size.write(n);
        let place = NonNull::new(buffer.cast::<u8>()).filter(|_| n <= capacity);
        let Some(place) = place else {
            return Err(err!(BufferTooSmall, "buffer has room for {capacity}, {n} are needed"));
        };
        // SAFETY: not NULL, and room for at least `n` bytes by the header's contract for buffers; they
        // are written before they are lent, so that none is without a value.
        let bytes = unsafe {
            place.write_bytes(0, n);
            std::slice::from_raw_parts_mut(place.as_ptr(), n)
        };
        session.write(sampler, bytes).map(|_| ())
    })
}

/// Does what tern_session_restore() does, with the bytes that tern_session_write() wrote or that
/// are in a file; `bytes` are needed until the call returns. Fails as that does.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn tern_session_read(
    session: *mut tern_session,
    sampler: *mut tern_sampler,
    bytes: *const c_void,
    n_bytes: usize,
) -> tern_status {
    guard(|| {
        let (session, sampler) = (SESSIONS.get(session)?, sampler_or_null(sampler)?);
        // SAFETY: the header's contract for buffers.
        let bytes = unsafe { slice(bytes.cast::<u8>(), n_bytes, "bytes")? };
        let mut sampling = sampler.as_ref().map(|sampler| sampler.write()).transpose()?;
        session.write()?.read(sampling.as_deref_mut().map(Sampling::sampler_mut), bytes)?;
        sampling.iter_mut().for_each(|sampling| sampling.update_logprobs());
        Ok(())
    })
}

/// What a handle of a sampler stands for; NULL is no sampler.
fn sampler_or_null(sampler: *const tern_sampler) -> Result<Option<Held<RwLock<Sampling>>>> {
    (!sampler.is_null()).then(|| SAMPLERS.get(sampler)).transpose()
}
