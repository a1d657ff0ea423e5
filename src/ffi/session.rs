//! tern_session_*: eval, look, evict.

use std::sync::atomic::Ordering;

use super::guard::{guard, quietly};
use super::handle::{MODELS, SESSIONS, give, tern_model, tern_session};
use super::kv::kv_policy_of;
use super::model::{huge_pages_of, lock_of};
use super::params::*;
use super::pointer::{out, out_or_null, read_sized, sized_out, slice};
use super::status::tern_status;
use super::table::Held;
use crate::base::error::{Result, err};
use crate::base::sync::RwLock;
use crate::engine::{Logits, Numerics, Session, SessionParams};

/// Makes a session for a model, and allocates everything it will need. `params` may be NULL.
///
/// Fails with TERN_ERROR_OUT_OF_MEMORY.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn tern_session_new(
    model: *const tern_model,
    params: *const tern_session_params,
    session: *mut *mut tern_session,
) -> tern_status {
    guard(|| {
        let model = MODELS.get(model)?;
        // SAFETY: the header's contract for structs and out parameters.
        let (params, session) =
            unsafe { (read_sized(params, "params")?, out(session, "session")?) };
        let new = Session::new(model.model.clone(), &session_params(&params)?)?;
        give(&SESSIONS, RwLock::new(new), session)
    })
}

/// Frees a session. `session` may be NULL.
///
/// A call that another thread is running on it fails with TERN_ERROR_ABORTED, soon, and the
/// memory goes when it has.
#[unsafe(no_mangle)]
pub extern "C" fn tern_session_free(session: *mut tern_session) {
    quietly(|| SESSIONS.remove(session));
}

/// Evaluates tokens after those already in the KV cache; the logits are then those of the last.
///
/// All or nothing: on any error the session holds the tokens that it held before the call, but
/// for those that TERN_WHEN_FULL_EVICT gave up; there may be no logits then. Fails with
/// TERN_ERROR_KV_FULL or TERN_ERROR_ABORTED.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn tern_session_eval(
    session: *mut tern_session,
    tokens: *const tern_token,
    n_tokens: usize,
) -> tern_status {
    guard(|| {
        let session = SESSIONS.get(session)?;
        // SAFETY: the header's contract for buffers.
        let tokens = unsafe { slice(tokens, n_tokens, "tokens")? };
        eval(&session, tokens, Logits::Last, 0)
    })
}

/// Evaluates tokens as tern_session_eval() does, with a choice of logits and a deadline.
///
/// `params` may be NULL. The deadline is looked at least once for each layer. Fails with
/// TERN_ERROR_KV_FULL, TERN_ERROR_ABORTED or TERN_ERROR_DEADLINE.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn tern_session_eval_with(
    session: *mut tern_session,
    tokens: *const tern_token,
    n_tokens: usize,
    params: *const tern_eval_params,
) -> tern_status {
    guard(|| {
        let session = SESSIONS.get(session)?;
        // SAFETY: the header's contract for buffers and structs.
        let (tokens, params) =
            unsafe { (slice(tokens, n_tokens, "tokens")?, read_sized(params, "params")?) };
        // SAFETY: the header's contract for buffers.
        let positions = unsafe { slice(params.positions, params.n_positions, "positions")? };
        if params.logits != TERN_LOGITS_POSITIONS && !positions.is_empty() {
            return Err(err!(InvalidArgument, "positions without TERN_LOGITS_POSITIONS"));
        }
        let logits = match params.logits {
            TERN_LOGITS_LAST => Logits::Last,
            TERN_LOGITS_POSITIONS => Logits::Positions(positions),
            TERN_LOGITS_NONE => Logits::None,
            TERN_LOGITS_BEST => Logits::Best,
            other => return Err(err!(InvalidArgument, "logits: {other}, expected 0 to 3")),
        };
        eval(&session, tokens, logits, params.deadline_ns)
    })
}

/// Gives the logits of the last evaluated token, one for each token of the vocabulary.
///
/// `logits` is lent until the next call with a non-const `session`. Fails with
/// TERN_ERROR_NOT_READY.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn tern_session_logits(
    session: *const tern_session,
    logits: *mut *const f32,
    n_logits: *mut usize,
) -> tern_status {
    guard(|| {
        let session = SESSIONS.get(session)?;
        // SAFETY: the header's contract for out parameters.
        let (logits, n_logits) = unsafe { (out(logits, "logits")?, out(n_logits, "n_logits")?) };
        let state = session.read()?;
        let row = state.logits()?;
        logits.write(row.as_ptr());
        n_logits.write(row.len());
        Ok(())
    })
}

/// Gives the logits that belong to `positions[index]` of the last tern_session_eval_with().
///
/// Lent as by tern_session_logits(). Fails with TERN_ERROR_NOT_READY or, where there are some but
/// not so many, TERN_ERROR_INVALID_ARGUMENT.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn tern_session_logits_at(
    session: *const tern_session,
    index: usize,
    logits: *mut *const f32,
    n_logits: *mut usize,
) -> tern_status {
    guard(|| {
        let session = SESSIONS.get(session)?;
        // SAFETY: the header's contract for out parameters.
        let (logits, n_logits) = unsafe { (out(logits, "logits")?, out(n_logits, "n_logits")?) };
        let state = session.read()?;
        let n = state.n_logits();
        if n != 0 && index >= n {
            return Err(err!(InvalidArgument, "index: {index}, logits are kept for {n} positions"));
        }
        let row = state.logits_row(index)?;
        logits.write(row.as_ptr());
        n_logits.write(row.len());
        Ok(())
    })
}

/// Evicts tokens from the KV cache to make room; `n_evicted` may be NULL. `params` may be NULL.
///
/// Positions are not reused: the tokens that stay keep theirs. With TERN_KV_POLICY_KVZIP, which
/// evaluates tokens, tern_session_abort() stops it with TERN_ERROR_ABORTED; after any error the session
/// is as it was.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn tern_session_kv_evict(
    session: *mut tern_session,
    params: *const tern_kv_evict_params,
    n_evicted: *mut usize,
) -> tern_status {
    guard(|| {
        let session = SESSIONS.get(session)?;
        // SAFETY: the header's contract for structs and out parameters.
        let (params, n_evicted) =
            unsafe { (read_sized(params, "params")?, out_or_null(n_evicted, "n_evicted")?) };
        let policy = kv_policy_of(params.policy)?;
        let n = {
            let control = session.control(0);
            session.write()?.kv_evict_by(policy, params.n_sink, params.n_keep, &control)?
        };
        if let Some(n_evicted) = n_evicted {
            n_evicted.write(n as usize);
        }
        Ok(())
    })
}

/// Evicts the tokens at positions `from_pos` to `to_pos`, the latter excluded, that are in the KV
/// cache; `n_evicted` may be NULL.
///
/// The tokens that stay keep their positions. Fails with TERN_ERROR_INVALID_ARGUMENT if the range
/// ends before it begins.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn tern_session_kv_evict_range(
    session: *mut tern_session,
    from_pos: u32,
    to_pos: u32,
    n_evicted: *mut usize,
) -> tern_status {
    guard(|| {
        let session = SESSIONS.get(session)?;
        // SAFETY: the header's contract for out parameters.
        let n_evicted = unsafe { out_or_null(n_evicted, "n_evicted")? };
        if from_pos > to_pos {
            return Err(err!(InvalidArgument, "the range {from_pos} to {to_pos} runs backwards"));
        }
        let n = session.write()?.kv_evict_range(from_pos, to_pos)?;
        if let Some(n_evicted) = n_evicted {
            n_evicted.write(n as usize);
        }
        Ok(())
    })
}

/// Forgets every token from position `pos` on; 0 forgets all.
///
/// What follows is what would have followed without them, to the bit; with keys or values in codes of
/// less than 8 bits where at most 16 tokens are forgotten, which came in calls of at most 16. Else the
/// 15 tokens before `pos` are read from their codes (TERN_KV_Q5_0).
///
/// Fails with TERN_ERROR_INVALID_ARGUMENT beyond the position that the next token will have.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn tern_session_kv_truncate(
    session: *mut tern_session,
    pos: u32,
) -> tern_status {
    guard(|| SESSIONS.get(session)?.write()?.truncate(pos))
}

/// Makes another session that holds the same tokens: two answers to one prompt, which is read
/// once. Neither notices what the other does.
///
/// Where every KV head has filled a tile of 128 slots, both read the same memory
/// (`kv_shared_bytes`) until one of them changes something there: to evict or to truncate tokens
/// copies the tiles, and can fail with TERN_ERROR_OUT_OF_MEMORY. In a session with a budget only
/// tokens are shared that a segment pins from the first one on; others would soon be copied.
///
/// The fork has no logits until it evaluates: to sample from it at once, fork before the last
/// token of the prompt and give that token to both. Fails with TERN_ERROR_OUT_OF_MEMORY.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn tern_session_fork(
    session: *const tern_session,
    fork: *mut *mut tern_session,
) -> tern_status {
    guard(|| {
        let session = SESSIONS.get(session)?;
        // SAFETY: the header's contract for out parameters.
        let fork = unsafe { out(fork, "fork")? };
        let new = session.read()?.fork()?;
        give(&SESSIONS, RwLock::new(new), fork)
    })
}

/// Describes a session: its KV cache and its speed so far.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn tern_session_describe(
    session: *const tern_session,
    info: *mut tern_session_info,
) -> tern_status {
    guard(|| {
        let session = SESSIONS.get(session)?;
        // SAFETY: the header's contract for structs.
        let info = unsafe { sized_out(info, "info")? };
        let now = session.read()?.info();
        let value = tern_session_info {
            struct_size: 0,
            n_ctx: now.n_ctx,
            n_kv: now.n_kv,
            pos: now.pos,
            kv_bytes: now.kv_bytes,
            n_prefill: now.n_prefill,
            prefill_ns: now.prefill_ns,
            n_decode: now.n_decode,
            decode_ns: now.decode_ns,
            n_evicted: now.n_evicted,
            n_drafted: now.n_drafted,
            n_accepted: now.n_accepted,
            n_threads: now.n_threads,
            n_threads_prefill: now.n_threads_batch,
            locked_bytes: now.locked_bytes,
            n_evictions: now.n_evictions,
            longest_stall_us: now.longest_stall_ns.div_ceil(1000),
            kv_budget: now.kv_budget,
            kv_retained: now.retained as f32 / 1000.0,
            kv_shared_bytes: now.kv_shared_bytes,
        };
        info.write(value);
        Ok(())
    })
}

/// Changes how many threads evaluate one token, and many (0 = the same), from the next eval on.
///
/// At most as many as the session was made with: to be able to use more later, make it with more.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn tern_session_set_threads(
    session: *mut tern_session,
    n_threads: u32,
    n_threads_prefill: u32,
) -> tern_status {
    guard(|| {
        let prefill = if n_threads_prefill == 0 { n_threads } else { n_threads_prefill };
        SESSIONS.get(session)?.write()?.set_threads(n_threads, prefill)
    })
}

/// Makes the eval that is running on the session, or else its next one, fail with
/// TERN_ERROR_ABORTED. Safe at any time, from any thread and from signal handlers.
#[unsafe(no_mangle)]
pub extern "C" fn tern_session_abort(session: *const tern_session) {
    if let Some(abort) = SESSIONS.abort_flag(session) {
        abort.store(true, Ordering::Relaxed);
    }
}

/// How many parts of its work the session has begun: a number that rises several times in each layer
/// while tokens are evaluated (eval, generate, kv_rebuild, and to evict by TERN_KV_POLICY_KVZIP), and
/// stands still while none are. 0 for a new session, and for what is no session.
///
/// For a watchdog, to tell slow from stuck. A part takes some milliseconds at most, also on a slow core:
/// if the number is the same a second later, and the call that evaluates has not returned, its threads
/// have not run, or will never.
///
///     uint64_t before = tern_session_progress(session);
///     /* ... and a second later: */
///     if (tern_session_progress(session) == before) puts("nothing moves");
///
/// Safe at any time, from any thread and from signal handlers; never waits.
#[unsafe(no_mangle)]
pub extern "C" fn tern_session_progress(session: *const tern_session) -> u64 {
    SESSIONS.progress(session).unwrap_or(0)
}

fn eval(
    session: &Held<RwLock<Session>>,
    tokens: &[tern_token],
    logits: Logits<'_>,
    deadline_ns: u64,
) -> Result<()> {
    session.write()?.eval(tokens, logits, &session.control(deadline_ns))
}

/// The engine's view of C's parameters.
pub(super) fn session_params(params: &tern_session_params) -> Result<SessionParams> {
    let auto_evict = match params.when_full {
        TERN_WHEN_FULL_FAIL => false,
        TERN_WHEN_FULL_EVICT => true,
        other => return Err(err!(InvalidArgument, "params: when_full: {other}, expected 0 or 1")),
    };
    Ok(SessionParams {
        n_ctx: params.n_ctx,
        n_batch: params.n_batch,
        n_threads: params.n_threads,
        n_threads_batch: params.n_threads_prefill,
        n_logits: params.n_logits,
        kv_policy: kv_policy_of(params.kv_policy)?,
        kv_budget: params.kv_budget,
        kv_budget_part: params.kv_budget_part,
        kv_params: None,
        kv_dtype: params.kv_dtype,
        k_dtype: params.k_dtype,
        v_dtype: params.v_dtype,
        auto_evict,
        n_sink: params.n_sink,
        n_keep: params.n_keep,
        lock: lock_of(params.lock_memory)?,
        huge: huge_pages_of(params.huge_pages)?,
        numerics: Numerics::Exact,
        kv_share: params.kv_share != 0,
    })
}
