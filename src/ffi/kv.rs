//! The KV cache of a session: what would leave it, and how much it may hold.

use super::guard::guard;
use super::handle::{SESSIONS, tern_session};
use super::params::{tern_kv_evict_params, tern_kv_plan_info};
use super::pointer::{fill, out, read_sized, sized_out};
use super::status::tern_status;
use crate::base::error::{Result, err};
use crate::engine::{KvOp, KvPolicy};

/// What stays in the KV cache where tokens are evicted. Each KV head of a layer that attends to
/// everything keeps tokens of its own choice, in equal numbers; layers with a window keep what they
/// see. All but TERN_KV_POLICY_STREAMING, TERN_KV_POLICY_RANDOM and TERN_KV_POLICY_RING count what
/// they rank by as tokens come: a session is made for its policy.
pub type tern_kv_policy = u32;
/// The session's policy. For a session: TERN_KV_POLICY_HYBRID where tokens leave by themselves
/// (`kv_budget`, TERN_WHEN_FULL_EVICT), else TERN_KV_POLICY_STREAMING.
pub const TERN_KV_POLICY_DEFAULT: tern_kv_policy = 0;
/// The first tokens and the most recent ones (StreamingLLM, arXiv 2309.17453). Costs nothing, and
/// forgets all else.
pub const TERN_KV_POLICY_STREAMING: tern_kv_policy = 1;
/// Recent tokens, those that draw attention, and those whose keys and values are unlike all others:
/// facts that nobody has asked for yet. In models with windows: as TERN_KV_POLICY_ATTN.
pub const TERN_KV_POLICY_HYBRID: tern_kv_policy = 2;
/// Recent tokens, and those that draw attention from all and from the last queries: best for a text
/// that continues what was read.
pub const TERN_KV_POLICY_ATTN: tern_kv_policy = 3;
/// Recent tokens, and those that draw most attention in the mean (H2O, arXiv 2306.14048).
pub const TERN_KV_POLICY_H2O: tern_kv_policy = 4;
/// What the last query attends to (TOVA, arXiv 2401.06104).
pub const TERN_KV_POLICY_TOVA: tern_kv_policy = 5;
/// What the last queries attend to (SnapKV, arXiv 2404.14469).
pub const TERN_KV_POLICY_SNAPKV: tern_kv_policy = 6;
/// Keys that point away from the mean key (KeyDiff, arXiv 2504.15364).
pub const TERN_KV_POLICY_KEYDIFF: tern_kv_policy = 7;
/// Keys of low norm, in all layers but the first two (arXiv 2406.11430). For research; refused with
/// TERN_ERROR_UNSUPPORTED for models that normalise their keys.
pub const TERN_KV_POLICY_KNORM: tern_kv_policy = 8;
/// By lot: what every other policy has to beat.
pub const TERN_KV_POLICY_RANDOM: tern_kv_policy = 9;
/// The most recent tokens, the first ones not spared: what every other policy has to avoid.
pub const TERN_KV_POLICY_RING: tern_kv_policy = 10;
/// Nothing leaves: TERN_ERROR_KV_FULL.
pub const TERN_KV_POLICY_NONE: tern_kv_policy = 11;
/// What the tokens that are held attend to when they are evaluated once more (KVzip, arXiv
/// 2505.23416), to prepare a text that many will ask about: evaluate it, evict by this, and fork the
/// session for each of them. Only for tern_session_kv_evict() and tern_session_kv_evict_plan(), of any
/// session; as the policy of a session TERN_ERROR_UNSUPPORTED. Each KV head keeps the tokens to which any
/// query of its heads gave most, be it a single one. They are read again in spans of at most 2048, as
/// they stand, the last 8 of a span once more before the next, and taken back after each: that takes as
/// long as to read them took, and, for the time of the call, 4 bytes for each slot of each KV head.
/// All heads keep equally many, where the paper gives some more: with a small model and a fifth of the
/// tokens that loses more than TERN_KV_POLICY_HYBRID does, so measure it with yours (`tern kv-eval`).
/// Fails with TERN_ERROR_KV_FULL if no slot or position is free for them: leave `n_ctx` some hundred
/// more than the text has tokens.
pub const TERN_KV_POLICY_KVZIP: tern_kv_policy = 12;
/// What queries yet to come can be expected to attend to, if they are as those so far in the mean
/// (Expected Attention, arXiv 2510.00636, without the covariance: that takes 64 times as much memory
/// with heads of 64 elements), over the next 512 positions.
pub const TERN_KV_POLICY_EXPECTED: tern_kv_policy = 13;

/// Says what tern_session_kv_evict() would do with the same `params`, and does nothing: how many
/// slots would become free, how many bytes that is, and which tokens no KV head would hold any
/// more.
///
/// The positions of these tokens, ascending, go to `positions`, which has room for `capacity`;
/// `n_positions` is how many there are, and may be more. `positions` may be NULL if `capacity` is
/// 0. Allocates. Fails with TERN_ERROR_BUFFER_TOO_SMALL if they do not fit, and as
/// tern_session_kv_evict() does.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn tern_session_kv_evict_plan(
    session: *mut tern_session,
    params: *const tern_kv_evict_params,
    info: *mut tern_kv_plan_info,
    positions: *mut u32,
    capacity: usize,
    n_positions: *mut usize,
) -> tern_status {
    guard(|| {
        let session = SESSIONS.get(session)?;
        // SAFETY: the header's contract for structs and out parameters.
        let (params, info, n_positions) = unsafe {
            (
                read_sized(params, "params")?,
                sized_out(info, "info")?,
                out(n_positions, "n_positions")?,
            )
        };
        let policy = kv_policy_of(params.policy)?;
        let (plan, bytes) = session.write()?.kv_evict_plan(
            policy,
            params.n_sink,
            params.n_keep,
            &session.control(0),
        )?;
        let value = tern_kv_plan_info { struct_size: 0, reserved: 0, n_slots: plan.n_slots, bytes };
        // SAFETY: the header's contract for buffers.
        unsafe { fill(positions, capacity, "positions", &plan.positions, n_positions)? };
        info.write(value);
        Ok(())
    })
}

/// Changes how many slots of each KV head stay in use as tokens come (`kv_budget` of
/// tern_session_params; 0 = as many as there are), when the eval that is running, or the next one,
/// is done. What is too much leaves then, all at once. Less than it takes to come and go becomes as
/// many as there are, less 72. A session without a policy keeps the most recent tokens.
///
/// Safe at any time, from any thread and from signal handlers: for when memory gets short, or hot.
#[unsafe(no_mangle)]
pub extern "C" fn tern_session_kv_set_budget(session: *const tern_session, n_slots: u32) {
    if let Some(budget) = SESSIONS.budget(session) {
        budget.set(n_slots);
    }
}

/// How to read the tokens of a session again. Zero is the default of every field.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct tern_kv_rebuild_params {
    /// sizeof(tern_kv_rebuild_params)
    pub struct_size: u32,
    /// Slots of each KV head that stay in use from now on; 0 = as it is.
    pub kv_budget: u32,
    /// CLOCK_MONOTONIC in nanoseconds; when it has passed the call fails with TERN_ERROR_DEADLINE.
    /// 0 = none.
    pub deadline_ns: u64,
}

/// Empties the KV cache and evaluates all tokens of the sequence again, those that have been
/// evicted included; `params` may be NULL. The session is then, bit for bit, as a new one with the
/// same segments that evaluated them, and has the logits of the last: to have again what was
/// evicted, to keep to another budget as if it had always been so, or to have logits after
/// tern_session_restore().
///
/// Tokens that do not fit are evaluated in parts, if the session evicts by itself. Allocates 4
/// bytes a token. Nothing has changed after TERN_ERROR_NOT_READY (there are no tokens),
/// TERN_ERROR_UNSUPPORTED (the first ones are not known any more: at least the last `n_ctx` are)
/// and, if they do not fit and none may leave, TERN_ERROR_KV_FULL. After any other error, as
/// TERN_ERROR_ABORTED, TERN_ERROR_DEADLINE, or TERN_ERROR_KV_FULL because too many are pinned, the
/// session holds no tokens, but knows them until its next eval: call again.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn tern_session_kv_rebuild(
    session: *mut tern_session,
    params: *const tern_kv_rebuild_params,
) -> tern_status {
    guard(|| {
        let session = SESSIONS.get(session)?;
        // SAFETY: the header's contract for structs.
        let params = unsafe { read_sized(params, "params")? };
        session.write()?.kv_rebuild(params.kv_budget, &session.control(params.deadline_ns))
    })
}

/// What a session may be asked to do with its KV cache.
pub type tern_kv_op = u32;
/// Make room by its policy: tern_session_kv_evict().
pub const TERN_KV_OP_EVICT: tern_kv_op = 1;
/// Go back to any position as if nothing had come after it: tern_session_kv_truncate(). Not where
/// tokens have been evicted or keys were turned back meanwhile, which truncating does not undo. With
/// codes of less than 8 bits the newest of what is left are read rounded (TERN_KV_Q5_0).
pub const TERN_KV_OP_TRUNCATE: tern_kv_op = 2;
/// Go on when its slots are full.
pub const TERN_KV_OP_GROW: tern_kv_op = 3;
/// tern_session_fork(), for which there must be memory.
pub const TERN_KV_OP_FORK: tern_kv_op = 4;
/// tern_session_save() and tern_session_write().
pub const TERN_KV_OP_SAVE: tern_kv_op = 5;
/// tern_session_kv_rebuild().
pub const TERN_KV_OP_REBUILD: tern_kv_op = 6;

/// Says whether the session can do something as it is now, and does nothing: TERN_OK, or the status
/// that says why not, as TERN_ERROR_KV_FULL or TERN_ERROR_UNSUPPORTED; tern_last_error() then has
/// the sentence. An `op` that is none of TERN_KV_OP_* is TERN_ERROR_INVALID_ARGUMENT.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn tern_session_kv_can(
    session: *const tern_session,
    op: tern_kv_op,
) -> tern_status {
    guard(|| {
        let session = SESSIONS.get(session)?;
        let op = match op {
            TERN_KV_OP_EVICT => KvOp::Evict,
            TERN_KV_OP_TRUNCATE => KvOp::Truncate,
            TERN_KV_OP_GROW => KvOp::Grow,
            TERN_KV_OP_FORK => KvOp::Fork,
            TERN_KV_OP_SAVE => KvOp::Save,
            TERN_KV_OP_REBUILD => KvOp::Rebuild,
            other => return Err(err!(InvalidArgument, "op: {other}, expected 1 to 6")),
        };
        session.read()?.kv_can(op)
    })
}

/// The policy of a number; `None` for the default.
pub(super) fn kv_policy_of(policy: tern_kv_policy) -> Result<Option<KvPolicy>> {
    Ok(Some(match policy {
        TERN_KV_POLICY_DEFAULT => return Ok(None),
        TERN_KV_POLICY_NONE => KvPolicy::None,
        TERN_KV_POLICY_STREAMING => KvPolicy::Streaming,
        TERN_KV_POLICY_HYBRID => KvPolicy::Hybrid,
        TERN_KV_POLICY_ATTN => KvPolicy::Attn,
        TERN_KV_POLICY_H2O => KvPolicy::H2o,
        TERN_KV_POLICY_TOVA => KvPolicy::Tova,
        TERN_KV_POLICY_SNAPKV => KvPolicy::SnapKv,
        TERN_KV_POLICY_KEYDIFF => KvPolicy::KeyDiff,
        TERN_KV_POLICY_KNORM => KvPolicy::KNorm,
        TERN_KV_POLICY_RANDOM => KvPolicy::Random,
        TERN_KV_POLICY_RING => KvPolicy::Ring,
        TERN_KV_POLICY_KVZIP => KvPolicy::KvZip,
        TERN_KV_POLICY_EXPECTED => KvPolicy::Expected,
        other => {
            return Err(err!(InvalidArgument, "params: KV policy {other}, expected 0 to 13"));
        }
    }))
}
