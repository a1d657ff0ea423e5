//! Structs that cross the boundary: sized, zero by default, growing only at the end.

use std::ffi::{c_char, c_void};
use std::mem::offset_of;

use super::device::tern_device_info;
use super::kv::{tern_kv_policy, tern_kv_rebuild_params};
use super::kv_dtype::tern_kv_dtype;
use super::pointer::Sized0;
use super::segments::tern_kv_segment;
use super::trust::tern_trust_params;

/// A token of a model's vocabulary.
pub type tern_token = i32;

/// How the weights get into memory.
pub type tern_load_mode = u32;
/// TERN_LOAD_COPY if the file is at most half of the memory that is available and is not packed
/// (tern_model_pack()), else TERN_LOAD_MAP_GUARDED.
pub const TERN_LOAD_DEFAULT: tern_load_mode = 0;
/// Reads the file into memory of its own, in the order in which the kernels want it: the fastest to
/// evaluate. What happens to the file afterwards does not matter.
pub const TERN_LOAD_COPY: tern_load_mode = 1;
/// Maps the file, reads all of it once, and looks before and after each eval whether it has changed
/// since: TERN_ERROR_MODEL_CHANGED, from then on always. A program that opens it for writing waits for
/// that look, 45 s at most, if the file is the caller's own and was opened by tern_model_load(). Else two
/// things go wrong: a file that is cut *during* an eval ends the process with SIGBUS (but see
/// tern_sigbus_guard_install()), and a program that writes by a mapping of its own may not be noticed.
/// Replace model files by rename, never in place: what is mapped stays as it was then.
pub const TERN_LOAD_MAP_GUARDED: tern_load_mode = 2;
/// Maps the file and trusts that nobody changes it: the weights are what it holds when they are read, a
/// file that is cut ends the process. The fastest to load; evaluates, as TERN_LOAD_MAP_GUARDED does,
/// at half the speed of a copy or less, unless the file is packed.
pub const TERN_LOAD_MAP_FAST: tern_load_mode = 3;

/// Told how far loading is, in bytes, from the thread that loads. Anything but 0 cancels, and the
/// load fails with TERN_ERROR_ABORTED.
pub type tern_progress_fn =
    Option<unsafe extern "C-unwind" fn(user_data: *mut c_void, done: u64, total: u64) -> i32>;

/// Whether memory must stay in RAM. Pages that are locked are never written to swap, nor dropped to
/// be read from the file again, so that no token ever waits for a disk.
pub type tern_lock = u32;
/// The system may take pages away when memory is short.
pub const TERN_LOCK_NO: tern_lock = 0;
/// The memory is locked if the system allows it; if not, a warning is logged and work goes on.
/// `locked_bytes` of tern_model_info and tern_session_info say what was locked.
pub const TERN_LOCK_TRY: tern_lock = 1;
/// The memory is locked, or the call fails with TERN_ERROR_OUT_OF_MEMORY: mostly for RLIMIT_MEMLOCK.
pub const TERN_LOCK_MUST: tern_lock = 2;

/// Whether memory is made of huge pages, of 2 MiB on most machines: fewer misses of the CPU's table
/// of pages, at the price of some memory. Only ever a wish: the system may have none.
pub type tern_huge_pages = u32;
/// Asked for where they mostly pay, for copies of weights and for sessions; else what the system does.
pub const TERN_HUGE_PAGES_DEFAULT: tern_huge_pages = 0;
/// Never, not even where the system would by itself.
pub const TERN_HUGE_PAGES_NEVER: tern_huge_pages = 1;
/// Asked for, as transparent huge pages (madvise).
pub const TERN_HUGE_PAGES_TRANSPARENT: tern_huge_pages = 2;

/// How to load a model. Zero is the default of every field.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct tern_model_params {
    /// sizeof(tern_model_params)
    pub struct_size: u32,
    /// Index of the device that holds the weights and evaluates; 0 = the CPU.
    pub device: u32,
    /// How the weights get into memory; one of TERN_LOAD_*.
    pub load_mode: tern_load_mode,
    /// Not 0: keep what screens the head beside it, if the head allows that, about 5 bits for each
    /// of its weights. TERN_LOGITS_BEST then reads about half of the head, in a model whose best
    /// tokens stand out; and so does tern_session_generate() with a greedy sampler, which then
    /// leaves no logits.
    pub screened_head: u32,
    /// Called while the model loads; NULL = not.
    pub progress: tern_progress_fn,
    /// Handed to `progress`.
    pub user_data: *mut c_void,
    /// Whether the weights must stay in RAM; one of TERN_LOCK_*.
    pub lock_memory: tern_lock,
    /// Whether a copy of the weights is made of huge pages; one of TERN_HUGE_PAGES_*.
    pub huge_pages: tern_huge_pages,
    /// NULL: any model loads. Else only one that somebody trusted has signed. See TERN_ERROR_NOT_SIGNED.
    pub trust: *const tern_trust_params,
}

/// What tern_model_describe() says.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct tern_model_info {
    /// sizeof(tern_model_info)
    pub struct_size: u32,
    /// Tokens in the vocabulary.
    pub n_vocab: u32,
    /// Tokens of context the model was trained with.
    pub n_ctx_train: u32,
    /// Width of the residual stream.
    pub n_embd: u32,
    /// Transformer blocks.
    pub n_layer: u32,
    /// Query heads.
    pub n_head: u32,
    /// Key and value heads.
    pub n_head_kv: u32,
    /// The token that begins a text; -1 = none.
    pub bos: i32,
    /// Bytes of weights read for each token evaluated.
    pub weight_bytes: u64,
    /// The architecture, as the file names it, as in "qwen3".
    pub arch: *const c_char,
    /// The model's name; empty if the file has none.
    pub name: *const c_char,
    /// Weights, counted.
    pub n_params: u64,
    /// The token that ends a text; -1 = none. See also tern_model_token_is_eog().
    pub eos: i32,
    /// Width of a head.
    pub head_dim: u32,
    /// Width of the feed-forward layer.
    pub n_ff: u32,
    /// Entries of metadata, for tern_model_metadata_at().
    pub n_metadata: u32,
    /// Bytes of weights that are locked in RAM: all of them, or 0. See TERN_LOCK_TRY.
    pub locked_bytes: u64,
}

/// What a session will take; see tern_model_plan(). All in bytes.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct tern_plan_info {
    /// sizeof(tern_plan_info)
    pub struct_size: u32,
    /// Zero.
    pub reserved: u32,
    /// Weights in memory of our own; 0 if the file is mapped.
    pub weights_bytes: u64,
    /// The KV cache.
    pub kv_bytes: u64,
    /// Everything else that a session needs: activations, logits, scores.
    pub scratch_bytes: u64,
    /// Vocabulary and metadata.
    pub vocab_bytes: u64,
    /// The sum of the above: one model and one session.
    pub total_bytes: u64,
    /// The part of the file that is mapped. The system can drop and read it again at will.
    pub mapped_bytes: u64,
}

/// What eval does when the KV cache is full.
pub type tern_when_full = u32;
/// It fails with TERN_ERROR_KV_FULL, and the caller evicts, or gives up.
pub const TERN_WHEN_FULL_FAIL: tern_when_full = 0;
/// It evicts as tern_session_kv_evict() does, with the `n_sink` and `n_keep` of the session, and
/// goes on: generation without end in memory that does not grow.
pub const TERN_WHEN_FULL_EVICT: tern_when_full = 1;

/// How to make a session. Zero is the default of every field.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct tern_session_params {
    /// sizeof(tern_session_params)
    pub struct_size: u32,
    /// Tokens the KV cache can hold; 0 = as many as the model was trained on.
    pub n_ctx: u32,
    /// Tokens evaluated at once while reading a prompt; 0 = 256.
    pub n_batch: u32,
    /// Threads that evaluate one token at a time (decode), the calling one included; 0 = as many as
    /// are fastest: the first tokens are evaluated with several numbers, at most that of the fast
    /// cores, in turns. The logits do not depend on it.
    pub n_threads: u32,
    /// Threads that evaluate many tokens at once (prefill); 0 = as many as `n_threads`, or, if that
    /// is 0, too, as many as are fastest, the slow cores included.
    pub n_threads_prefill: u32,
    /// The most positions of one eval that logits can be kept for; 0 = 1. See tern_eval_params.
    pub n_logits: u32,
    /// The element type of the KV cache, keys and values; one of TERN_KV_*. A type of each, or
    /// TERN_KV_BALANCED, TERN_KV_SMALL or TERN_KV_TINY, which choose both.
    pub kv_dtype: tern_kv_dtype,
    /// What eval does when the KV cache is full; one of TERN_WHEN_FULL_*.
    pub when_full: tern_when_full,
    /// With TERN_WHEN_FULL_EVICT: first tokens that are never evicted; 0 = 4.
    pub n_sink: u32,
    /// With TERN_WHEN_FULL_EVICT: tokens to keep in all; 0 = half of n_ctx.
    pub n_keep: u32,
    /// Whether the KV cache, activations and logits must stay in RAM; one of TERN_LOCK_*.
    pub lock_memory: tern_lock,
    /// Whether they are made of huge pages; one of TERN_HUGE_PAGES_*.
    pub huge_pages: tern_huge_pages,
    /// The element type of keys, if it is another; one of TERN_KV_*, 0 = `kv_dtype`.
    pub k_dtype: tern_kv_dtype,
    /// The element type of values, if it is another; one of TERN_KV_*, 0 = `kv_dtype`.
    pub v_dtype: tern_kv_dtype,
    /// What stays where tokens are evicted; one of TERN_KV_POLICY_*.
    pub kv_policy: tern_kv_policy,
    /// Slots of each KV head that stay in use as tokens come, at most n_ctx - 72; 0 = all of n_ctx.
    /// A prompt is cut down to it once, when all of it has been evaluated; after that layers are cut
    /// back a few at a time, so that no token has to wait long.
    pub kv_budget: u32,
    /// The same as a part of n_ctx, above 0 and at most 1; 0 = as `kv_budget` says.
    pub kv_budget_part: f32,
    /// Not 0: take the first tokens of a prompt from another session of the model that holds the
    /// same, in tiles of 128 tokens, instead of evaluating them, and let others take this session's.
    /// Logits are the same bits. Both sessions have to be made with this and with the same types of
    /// keys and values. They share the memory (`kv_shared_bytes` of tern_session_info) until one of
    /// them changes something there: see tern_session_fork(). Policies that count attention or keys
    /// take nothing. Of models with sliding windows, sessions that evict by themselves (`when_full`, a
    /// budget) share nothing.
    pub kv_share: u32,
}

/// What tern_session_describe() says.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct tern_session_info {
    /// sizeof(tern_session_info)
    pub struct_size: u32,
    /// Tokens the KV cache can hold.
    pub n_ctx: u32,
    /// Tokens it holds now.
    pub n_kv: u32,
    /// Position that the next token will have.
    pub pos: u32,
    /// Bytes of the KV cache, in all.
    pub kv_bytes: u64,
    /// Tokens evaluated many at a time (prefill).
    pub n_prefill: u64,
    /// Nanoseconds of prefill.
    pub prefill_ns: u64,
    /// Tokens evaluated one at a time (decode).
    pub n_decode: u64,
    /// Nanoseconds of decode.
    pub decode_ns: u64,
    /// Tokens evicted, by request or because the KV cache was full.
    pub n_evicted: u64,
    /// Tokens that tern_session_generate() drafted.
    pub n_drafted: u64,
    /// Those of them that the sampler chose too.
    pub n_accepted: u64,
    /// Threads that the next token will be evaluated with.
    pub n_threads: u32,
    /// Threads that the next prompt will be evaluated with.
    pub n_threads_prefill: u32,
    /// Bytes that are locked in RAM: all of them, or as many as the system allowed. See
    /// TERN_LOCK_TRY.
    pub locked_bytes: u64,
    /// Times that tokens were evicted.
    pub n_evictions: u64,
    /// The longest time that a token has had to wait for that, in microseconds.
    pub longest_stall_us: u64,
    /// Slots of each KV head that stay in use as tokens come; 0 = all of n_ctx.
    pub kv_budget: u32,
    /// The part of the last queries' attention that stayed when tokens were evicted last, from 0 to
    /// 1; 0 if the policy does not count it, or nothing was evicted. Much below 0.6 the model will
    /// miss what left.
    pub kv_retained: f32,
    /// Bytes of `kv_bytes` that other sessions share: they are there once for all of them.
    pub kv_shared_bytes: u64,
}

/// Which logits an eval keeps.
pub type tern_logits = u32;
/// Those of the last token.
pub const TERN_LOGITS_LAST: tern_logits = 0;
/// Those of the tokens that `positions` names.
pub const TERN_LOGITS_POSITIONS: tern_logits = 1;
/// None: a prompt's part that is not its end. Saves the work.
pub const TERN_LOGITS_NONE: tern_logits = 2;
/// Of the last token, and only for a greedy sampler without penalties, biases and log-probabilities:
/// it chooses the same token as with TERN_LOGITS_LAST. tern_session_logits() and all other samplers
/// fail with TERN_ERROR_NOT_READY. Faster if the model was loaded with `screened_head`.
pub const TERN_LOGITS_BEST: tern_logits = 3;

/// How to evaluate. Zero is the default of every field.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct tern_eval_params {
    /// sizeof(tern_eval_params)
    pub struct_size: u32,
    /// Which logits to keep; one of TERN_LOGITS_*.
    pub logits: tern_logits,
    /// With TERN_LOGITS_POSITIONS: indices into the tokens of this call, ascending. At most
    /// `n_logits` of tern_session_params.
    pub positions: *const u32,
    /// How many.
    pub n_positions: usize,
    /// Fail with TERN_ERROR_DEADLINE at this time of CLOCK_MONOTONIC, in nanoseconds; 0 = never.
    pub deadline_ns: u64,
}

/// How to generate. Zero is the default of every field.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct tern_generate_params {
    /// sizeof(tern_generate_params)
    pub struct_size: u32,
    /// Tokens to draft at most; less than `n_logits` of tern_session_params. 0 = none. With keys or
    /// values in codes of less than 8 bits no more than 15 are drafted.
    pub n_draft: u32,
    /// Fail with TERN_ERROR_DEADLINE at this time of CLOCK_MONOTONIC, in nanoseconds; 0 = never.
    pub deadline_ns: u64,
}

/// What to evict. Zero is the default of every field.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct tern_kv_evict_params {
    /// sizeof(tern_kv_evict_params)
    pub struct_size: u32,
    /// How to choose; one of TERN_KV_POLICY_*. TERN_ERROR_UNSUPPORTED if the session does not count
    /// what the policy ranks by.
    pub policy: tern_kv_policy,
    /// First tokens that are never evicted (attention sinks); 0 = those of the session, or 4.
    pub n_sink: u32,
    /// Tokens to keep in each KV head; 0 = half of n_ctx.
    pub n_keep: u32,
}

/// What tern_session_kv_evict_plan() says.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct tern_kv_plan_info {
    /// sizeof(tern_kv_plan_info)
    pub struct_size: u32,
    /// Zero.
    pub reserved: u32,
    /// Slots of all KV heads that would become free.
    pub n_slots: u64,
    /// Bytes of their keys and values, which other tokens could then use.
    pub bytes: u64,
}

/// What is added to a token's logit. Never grows.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct tern_logit_bias {
    /// The token.
    pub token: tern_token,
    /// Added to its logit, -10000 to 10000; -INFINITY bans it.
    pub bias: f32,
}

/// How probable a token was. Never grows.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct tern_token_logprob {
    /// The token.
    pub token: tern_token,
    /// The natural logarithm of its probability.
    pub logprob: f32,
}

/// How to sample. All zero is greedy: the most probable token, always.
///
/// The steps are always these, in this order: logit bias; the three penalties; top_k; typical_p;
/// top_p; min_p; temperature; draw. Each filter sees the probabilities that the one before it
/// left. The same parameters, logits and tokens seen give the same token on every machine.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct tern_sampler_params {
    /// sizeof(tern_sampler_params)
    pub struct_size: u32,
    /// Keep the k most probable tokens; 0 = all.
    pub top_k: u32,
    /// Keep the most probable tokens that hold this share of the probability; 0 or 1 = all.
    pub top_p: f32,
    /// Keep tokens at least this fraction as probable as the best one; 0 = all.
    pub min_p: f32,
    /// Divide the logits by this, at most 100; 0 = greedy.
    pub temperature: f32,
    /// Divide the positive logits of recent tokens by this and multiply the negative ones, 0.01 to
    /// 100; 0 or 1 = off.
    pub repeat_penalty: f32,
    /// Seeds the random state.
    pub seed: u64,
    /// Keep the tokens whose information is nearest to the expected one, until they hold this
    /// share of the probability; 0 or 1 = all.
    pub typical_p: f32,
    /// Subtract this from a token's logit for each time it is recent, -100 to 100; 0 = off.
    pub frequency_penalty: f32,
    /// Subtract this from a token's logit if it is recent, -100 to 100; 0 = off.
    pub presence_penalty: f32,
    /// How many of the last tokens the three penalties call recent, at most 1048576; 0 = 64.
    pub penalty_last_n: u32,
    /// How many of the best tokens tern_sampler_logprobs() tells of, after the chosen one, at most
    /// 64; 0 = it tells nothing.
    pub n_logprobs: u32,
    /// Zero.
    pub reserved: u32,
    /// What to add to which logits, in this order. Copied.
    pub logit_bias: *const tern_logit_bias,
    /// How many.
    pub n_logit_bias: usize,
}

/// One message of a chat. Never grows.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct tern_chat_message {
    /// Who speaks: "system", "user", "assistant", or what else the model's template knows.
    pub role: *const c_char,
    /// What is said.
    pub content: *const c_char,
    /// Its length in bytes.
    pub content_len: usize,
}

/// Asserts that a struct ends where its last field does, and that each field begins where the one
/// before it ends: that no byte of it is padding.
macro_rules! no_padding {
    ($($type:ident { $($field:ident: $size:ty),* $(,)? })*) => {
        $(const _: () = {
            let mut end = 0;
            $(
                assert!(offset_of!($type, $field) == end);
                end += size_of::<$size>();
            )*
            assert!(size_of::<$type>() == end);
        };)*
    };
}

no_padding! {
    tern_device_info { struct_size: u32, kind: u32, name: *const c_char, memory_bytes: u64 }
    tern_model_params {
        struct_size: u32, device: u32, load_mode: u32, screened_head: u32,
        progress: tern_progress_fn, user_data: *mut c_void, lock_memory: u32, huge_pages: u32,
        trust: *const tern_trust_params,
    }
    tern_model_info {
        struct_size: u32, n_vocab: u32, n_ctx_train: u32, n_embd: u32, n_layer: u32, n_head: u32,
        n_head_kv: u32, bos: i32, weight_bytes: u64, arch: *const c_char, name: *const c_char,
        n_params: u64, eos: i32, head_dim: u32, n_ff: u32, n_metadata: u32,
        locked_bytes: u64,
    }
    tern_plan_info {
        struct_size: u32, reserved: u32, weights_bytes: u64, kv_bytes: u64, scratch_bytes: u64,
        vocab_bytes: u64, total_bytes: u64, mapped_bytes: u64,
    }
    tern_session_params {
        struct_size: u32, n_ctx: u32, n_batch: u32, n_threads: u32, n_threads_prefill: u32,
        n_logits: u32, kv_dtype: u32, when_full: u32, n_sink: u32, n_keep: u32,
        lock_memory: u32, huge_pages: u32, k_dtype: u32, v_dtype: u32, kv_policy: u32,
        kv_budget: u32, kv_budget_part: f32, kv_share: u32,
    }
    tern_session_info {
        struct_size: u32, n_ctx: u32, n_kv: u32, pos: u32, kv_bytes: u64, n_prefill: u64,
        prefill_ns: u64, n_decode: u64, decode_ns: u64, n_evicted: u64,
        n_drafted: u64, n_accepted: u64, n_threads: u32, n_threads_prefill: u32, locked_bytes: u64,
        n_evictions: u64, longest_stall_us: u64, kv_budget: u32, kv_retained: f32,
        kv_shared_bytes: u64,
    }
    tern_eval_params {
        struct_size: u32, logits: u32, positions: *const u32, n_positions: usize, deadline_ns: u64,
    }
    tern_generate_params { struct_size: u32, n_draft: u32, deadline_ns: u64 }
    tern_kv_evict_params { struct_size: u32, policy: u32, n_sink: u32, n_keep: u32 }
    tern_kv_plan_info { struct_size: u32, reserved: u32, n_slots: u64, bytes: u64 }
    tern_kv_segment {
        struct_size: u32, from_pos: u32, to_pos: u32, ttl: u32, priority: i32, flags: u32,
    }
    tern_kv_rebuild_params { struct_size: u32, kv_budget: u32, deadline_ns: u64 }
    tern_logit_bias { token: i32, bias: f32 }
    tern_token_logprob { token: i32, logprob: f32 }
    tern_sampler_params {
        struct_size: u32, top_k: u32, top_p: f32, min_p: f32, temperature: f32,
        repeat_penalty: f32, seed: u64, typical_p: f32, frequency_penalty: f32,
        presence_penalty: f32, penalty_last_n: u32, n_logprobs: u32, reserved: u32,
        logit_bias: *const tern_logit_bias, n_logit_bias: usize,
    }
    tern_chat_message { role: *const c_char, content: *const c_char, content_len: usize }
}

// SAFETY, for all of these: `repr(C)`, `struct_size` first, no padding (asserted above), and made
// of integers, floats, pointers and optional function pointers, for which zero is a valid value.
// SAFETY: see above.
unsafe impl Sized0 for tern_model_params {}
// SAFETY: see above.
unsafe impl Sized0 for tern_model_info {}
// SAFETY: see above.
unsafe impl Sized0 for tern_plan_info {}
// SAFETY: see above.
unsafe impl Sized0 for tern_session_params {}
// SAFETY: see above.
unsafe impl Sized0 for tern_session_info {}
// SAFETY: see above.
unsafe impl Sized0 for tern_eval_params {}
// SAFETY: see above.
unsafe impl Sized0 for tern_generate_params {}
// SAFETY: see above.
unsafe impl Sized0 for tern_kv_evict_params {}
// SAFETY: see above.
unsafe impl Sized0 for tern_kv_plan_info {}
// SAFETY: see above.
unsafe impl Sized0 for tern_kv_segment {}
// SAFETY: see above.
unsafe impl Sized0 for tern_kv_rebuild_params {}
// SAFETY: see above.
unsafe impl Sized0 for tern_sampler_params {}
