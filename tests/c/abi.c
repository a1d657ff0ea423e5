/* What a compiled program has baked in: sizes, offsets, values. None of these may ever change,
 * and abidiff does not see constants, nor all changes of fields; sizes may grow, with a new line here. */
#include "check.h"

#define SIZE(type, size) _Static_assert(sizeof(type) == (size), "size of " #type)
#define AT(type, field, at, field_type)                                                        \
    _Static_assert(offsetof(type, field) == (at)                                               \
                       && _Generic(((type *)0)->field, field_type: 1, default: 0),             \
                   #type "." #field)
#define VALUE(name, value) _Static_assert((name) == (value), #name)

VALUE(TERN_OK, 0);
VALUE(TERN_ERROR_INVALID_ARGUMENT, -1);
VALUE(TERN_ERROR_INVALID_HANDLE, -2);
VALUE(TERN_ERROR_BUFFER_TOO_SMALL, -3);
VALUE(TERN_ERROR_OUT_OF_MEMORY, -4);
VALUE(TERN_ERROR_IO, -5);
VALUE(TERN_ERROR_BAD_FILE, -6);
VALUE(TERN_ERROR_UNSUPPORTED, -7);
VALUE(TERN_ERROR_KV_FULL, -8);
VALUE(TERN_ERROR_NOT_READY, -9);
VALUE(TERN_ERROR_ABORTED, -10);
VALUE(TERN_ERROR_BUSY, -11);
VALUE(TERN_ERROR_DEVICE, -12);
VALUE(TERN_ERROR_POISONED, -13);
VALUE(TERN_ERROR_INTERNAL, -14);
VALUE(TERN_ERROR_DEADLINE, -15);
VALUE(TERN_ERROR_BAD_TEMPLATE, -16);
VALUE(TERN_ERROR_BAD_HPARAMS, -17);
VALUE(TERN_ERROR_BAD_TENSOR, -18);
VALUE(TERN_ERROR_BAD_VOCAB, -19);
VALUE(TERN_ERROR_BAD_WEIGHTS, -20);
VALUE(TERN_ERROR_UNSUPPORTED_ARCH, -21);
VALUE(TERN_ERROR_UNSUPPORTED_DTYPE, -22);
VALUE(TERN_ERROR_UNSUPPORTED_TOKENIZER, -23);
VALUE(TERN_ERROR_MODEL_CHANGED, -24);
VALUE(TERN_ERROR_FORKED, -25);
VALUE(TERN_ERROR_LIMIT, -26);
VALUE(TERN_ERROR_NOT_FINITE, -27);
VALUE(TERN_ERROR_UNSUPPORTED_PACKING, -28);
VALUE(TERN_ERROR_SNAPSHOT_CORRUPT, -29);
VALUE(TERN_ERROR_SNAPSHOT_VERSION, -30);
VALUE(TERN_ERROR_SNAPSHOT_MODEL, -31);
VALUE(TERN_ERROR_SNAPSHOT_LAYOUT, -32);
VALUE(TERN_ERROR_NOT_SIGNED, -33);
VALUE(TERN_ERROR_BAD_MANIFEST, -34);
VALUE(TERN_ERROR_BAD_SIGNATURE, -35);
VALUE(TERN_ERROR_BAD_DIGEST, -36);
VALUE(TERN_ERROR_ROLLBACK, -37);

VALUE(TERN_ABI_VERSION, 1);
VALUE(TERN_LOG_OFF, 0);
VALUE(TERN_LOG_ERROR, 1);
VALUE(TERN_LOG_WARN, 2);
VALUE(TERN_LOG_INFO, 3);
VALUE(TERN_LOG_DEBUG, 4);
VALUE(TERN_DEVICE_CPU, 0);
VALUE(TERN_LOAD_DEFAULT, 0);
VALUE(TERN_LOAD_COPY, 1);
VALUE(TERN_LOAD_MAP_GUARDED, 2);
VALUE(TERN_LOAD_MAP_FAST, 3);
VALUE(TERN_LOCK_NO, 0);
VALUE(TERN_LOCK_TRY, 1);
VALUE(TERN_LOCK_MUST, 2);
VALUE(TERN_HUGE_PAGES_DEFAULT, 0);
VALUE(TERN_HUGE_PAGES_NEVER, 1);
VALUE(TERN_HUGE_PAGES_TRANSPARENT, 2);
VALUE(TERN_KV_F16, 0);
VALUE(TERN_KV_F32, 1);
VALUE(TERN_KV_Q8_0, 2);
VALUE(TERN_KV_Q5_0, 3);
VALUE(TERN_KV_Q4_0, 4);
VALUE(TERN_KV_Q4_H, 5);
VALUE(TERN_KV_Q3_H, 6);
VALUE(TERN_KV_Q5_H, 7);
VALUE(TERN_KV_BALANCED, 64);
VALUE(TERN_KV_SMALL, 65);
VALUE(TERN_KV_TINY, 66);
VALUE(TERN_WHEN_FULL_FAIL, 0);
VALUE(TERN_WHEN_FULL_EVICT, 1);
VALUE(TERN_LOCK_NO, 0);
VALUE(TERN_LOCK_TRY, 1);
VALUE(TERN_LOCK_MUST, 2);
VALUE(TERN_HUGE_PAGES_DEFAULT, 0);
VALUE(TERN_HUGE_PAGES_NEVER, 1);
VALUE(TERN_HUGE_PAGES_TRANSPARENT, 2);
VALUE(TERN_LOGITS_LAST, 0);
VALUE(TERN_LOGITS_POSITIONS, 1);
VALUE(TERN_LOGITS_NONE, 2);
VALUE(TERN_LOGITS_BEST, 3);
VALUE(TERN_KV_POLICY_DEFAULT, 0);
VALUE(TERN_KV_POLICY_STREAMING, 1);
VALUE(TERN_KV_POLICY_HYBRID, 2);
VALUE(TERN_KV_POLICY_ATTN, 3);
VALUE(TERN_KV_POLICY_H2O, 4);
VALUE(TERN_KV_POLICY_TOVA, 5);
VALUE(TERN_KV_POLICY_SNAPKV, 6);
VALUE(TERN_KV_POLICY_KEYDIFF, 7);
VALUE(TERN_KV_POLICY_KNORM, 8);
VALUE(TERN_KV_POLICY_RANDOM, 9);
VALUE(TERN_KV_POLICY_RING, 10);
VALUE(TERN_KV_POLICY_NONE, 11);
VALUE(TERN_KV_POLICY_KVZIP, 12);
VALUE(TERN_KV_POLICY_EXPECTED, 13);
VALUE(TERN_KV_OP_EVICT, 1);
VALUE(TERN_KV_OP_TRUNCATE, 2);
VALUE(TERN_KV_OP_GROW, 3);
VALUE(TERN_KV_OP_FORK, 4);
VALUE(TERN_KV_OP_SAVE, 5);
VALUE(TERN_KV_OP_REBUILD, 6);
VALUE(TERN_KV_SEGMENT_PINNED, 1);
VALUE(TERN_TOKENIZE_ADD_SPECIAL, 1);
VALUE(TERN_TOKENIZE_PARSE_SPECIAL, 2);

#define IS(type, is) _Static_assert(_Generic((type)0, is: 1, default: 0), #type)
IS(tern_token, int32_t);
IS(tern_log_level, uint32_t);
IS(tern_device_kind, uint32_t);
IS(tern_load_mode, uint32_t);
IS(tern_kv_dtype, uint32_t);
IS(tern_when_full, uint32_t);
IS(tern_lock, uint32_t);
IS(tern_huge_pages, uint32_t);
IS(tern_logits, uint32_t);
IS(tern_kv_policy, uint32_t);
IS(tern_kv_op, uint32_t);
IS(tern_log_fn, void (*)(void *, tern_log_level, const char *));
IS(tern_progress_fn, int32_t (*)(void *, uint64_t, uint64_t));
SIZE(tern_status, 4);

#if UINTPTR_MAX == 0xFFFFFFFFFFFFFFFFu
SIZE(tern_device_info, 24);
AT(tern_device_info, struct_size, 0, uint32_t);
AT(tern_device_info, kind, 4, tern_device_kind);
AT(tern_device_info, name, 8, const char *);
AT(tern_device_info, memory_bytes, 16, uint64_t);

SIZE(tern_trust_params, 40);
AT(tern_trust_params, struct_size, 0, uint32_t);
AT(tern_trust_params, n_keys, 4, uint32_t);
AT(tern_trust_params, keys, 8, const uint8_t *);
AT(tern_trust_params, manifest, 16, const char *);
AT(tern_trust_params, n_manifest, 24, uint64_t);
AT(tern_trust_params, min_version, 32, uint64_t);

SIZE(tern_model_params, 48);
AT(tern_model_params, struct_size, 0, uint32_t);
AT(tern_model_params, device, 4, uint32_t);
AT(tern_model_params, load_mode, 8, tern_load_mode);
AT(tern_model_params, screened_head, 12, uint32_t);
AT(tern_model_params, progress, 16, tern_progress_fn);
AT(tern_model_params, user_data, 24, void *);
AT(tern_model_params, lock_memory, 32, tern_lock);
AT(tern_model_params, huge_pages, 36, tern_huge_pages);
AT(tern_model_params, trust, 40, const tern_trust_params *);

SIZE(tern_model_info, 88);
AT(tern_model_info, struct_size, 0, uint32_t);
AT(tern_model_info, n_vocab, 4, uint32_t);
AT(tern_model_info, n_ctx_train, 8, uint32_t);
AT(tern_model_info, n_embd, 12, uint32_t);
AT(tern_model_info, n_layer, 16, uint32_t);
AT(tern_model_info, n_head, 20, uint32_t);
AT(tern_model_info, n_head_kv, 24, uint32_t);
AT(tern_model_info, bos, 28, int32_t);
AT(tern_model_info, weight_bytes, 32, uint64_t);
AT(tern_model_info, arch, 40, const char *);
AT(tern_model_info, name, 48, const char *);
AT(tern_model_info, n_params, 56, uint64_t);
AT(tern_model_info, eos, 64, int32_t);
AT(tern_model_info, head_dim, 68, uint32_t);
AT(tern_model_info, n_ff, 72, uint32_t);
AT(tern_model_info, n_metadata, 76, uint32_t);
AT(tern_model_info, locked_bytes, 80, uint64_t);

SIZE(tern_plan_info, 56);
AT(tern_plan_info, struct_size, 0, uint32_t);
AT(tern_plan_info, reserved, 4, uint32_t);
AT(tern_plan_info, weights_bytes, 8, uint64_t);
AT(tern_plan_info, kv_bytes, 16, uint64_t);
AT(tern_plan_info, scratch_bytes, 24, uint64_t);
AT(tern_plan_info, vocab_bytes, 32, uint64_t);
AT(tern_plan_info, total_bytes, 40, uint64_t);
AT(tern_plan_info, mapped_bytes, 48, uint64_t);

SIZE(tern_eval_params, 32);
AT(tern_eval_params, struct_size, 0, uint32_t);
AT(tern_eval_params, logits, 4, tern_logits);
AT(tern_eval_params, positions, 8, const uint32_t *);
AT(tern_eval_params, n_positions, 16, size_t);
AT(tern_eval_params, deadline_ns, 24, uint64_t);

SIZE(tern_generate_params, 16);
AT(tern_generate_params, struct_size, 0, uint32_t);
AT(tern_generate_params, n_draft, 4, uint32_t);
AT(tern_generate_params, deadline_ns, 8, uint64_t);

SIZE(tern_sampler_params, 72);
AT(tern_sampler_params, struct_size, 0, uint32_t);
AT(tern_sampler_params, top_k, 4, uint32_t);
AT(tern_sampler_params, top_p, 8, float);
AT(tern_sampler_params, min_p, 12, float);
AT(tern_sampler_params, temperature, 16, float);
AT(tern_sampler_params, repeat_penalty, 20, float);
AT(tern_sampler_params, seed, 24, uint64_t);
AT(tern_sampler_params, typical_p, 32, float);
AT(tern_sampler_params, frequency_penalty, 36, float);
AT(tern_sampler_params, presence_penalty, 40, float);
AT(tern_sampler_params, penalty_last_n, 44, uint32_t);
AT(tern_sampler_params, n_logprobs, 48, uint32_t);
AT(tern_sampler_params, reserved, 52, uint32_t);
AT(tern_sampler_params, logit_bias, 56, const tern_logit_bias *);
AT(tern_sampler_params, n_logit_bias, 64, size_t);

SIZE(tern_chat_message, 24);
AT(tern_chat_message, role, 0, const char *);
AT(tern_chat_message, content, 8, const char *);
AT(tern_chat_message, content_len, 16, size_t);
#endif

SIZE(tern_session_params, 72);
AT(tern_session_params, struct_size, 0, uint32_t);
AT(tern_session_params, n_ctx, 4, uint32_t);
AT(tern_session_params, n_batch, 8, uint32_t);
AT(tern_session_params, n_threads, 12, uint32_t);
AT(tern_session_params, n_threads_prefill, 16, uint32_t);
AT(tern_session_params, n_logits, 20, uint32_t);
AT(tern_session_params, kv_dtype, 24, tern_kv_dtype);
AT(tern_session_params, when_full, 28, tern_when_full);
AT(tern_session_params, n_sink, 32, uint32_t);
AT(tern_session_params, n_keep, 36, uint32_t);
AT(tern_session_params, lock_memory, 40, tern_lock);
AT(tern_session_params, huge_pages, 44, tern_huge_pages);
AT(tern_session_params, k_dtype, 48, tern_kv_dtype);
AT(tern_session_params, v_dtype, 52, tern_kv_dtype);
AT(tern_session_params, kv_policy, 56, tern_kv_policy);
AT(tern_session_params, kv_budget, 60, uint32_t);
AT(tern_session_params, kv_budget_part, 64, float);
AT(tern_session_params, kv_share, 68, uint32_t);

SIZE(tern_session_info, 128);
AT(tern_session_info, struct_size, 0, uint32_t);
AT(tern_session_info, n_ctx, 4, uint32_t);
AT(tern_session_info, n_kv, 8, uint32_t);
AT(tern_session_info, pos, 12, uint32_t);
AT(tern_session_info, kv_bytes, 16, uint64_t);
AT(tern_session_info, n_prefill, 24, uint64_t);
AT(tern_session_info, prefill_ns, 32, uint64_t);
AT(tern_session_info, n_decode, 40, uint64_t);
AT(tern_session_info, decode_ns, 48, uint64_t);
AT(tern_session_info, n_evicted, 56, uint64_t);
AT(tern_session_info, n_drafted, 64, uint64_t);
AT(tern_session_info, n_accepted, 72, uint64_t);
AT(tern_session_info, n_threads, 80, uint32_t);
AT(tern_session_info, n_threads_prefill, 84, uint32_t);
AT(tern_session_info, locked_bytes, 88, uint64_t);
AT(tern_session_info, n_evictions, 96, uint64_t);
AT(tern_session_info, longest_stall_us, 104, uint64_t);
AT(tern_session_info, kv_budget, 112, uint32_t);
AT(tern_session_info, kv_retained, 116, float);
AT(tern_session_info, kv_shared_bytes, 120, uint64_t);

SIZE(tern_kv_evict_params, 16);
AT(tern_kv_evict_params, struct_size, 0, uint32_t);
AT(tern_kv_evict_params, policy, 4, tern_kv_policy);
AT(tern_kv_evict_params, n_sink, 8, uint32_t);
AT(tern_kv_evict_params, n_keep, 12, uint32_t);

SIZE(tern_kv_plan_info, 24);
AT(tern_kv_plan_info, struct_size, 0, uint32_t);
AT(tern_kv_plan_info, reserved, 4, uint32_t);
AT(tern_kv_plan_info, n_slots, 8, uint64_t);
AT(tern_kv_plan_info, bytes, 16, uint64_t);

SIZE(tern_kv_segment, 24);
AT(tern_kv_segment, struct_size, 0, uint32_t);
AT(tern_kv_segment, from_pos, 4, uint32_t);
AT(tern_kv_segment, to_pos, 8, uint32_t);
AT(tern_kv_segment, ttl, 12, uint32_t);
AT(tern_kv_segment, priority, 16, int32_t);
AT(tern_kv_segment, flags, 20, uint32_t);

SIZE(tern_kv_rebuild_params, 16);
AT(tern_kv_rebuild_params, struct_size, 0, uint32_t);
AT(tern_kv_rebuild_params, kv_budget, 4, uint32_t);
AT(tern_kv_rebuild_params, deadline_ns, 8, uint64_t);

SIZE(tern_logit_bias, 8);
AT(tern_logit_bias, token, 0, tern_token);
AT(tern_logit_bias, bias, 4, float);

SIZE(tern_token_logprob, 8);
AT(tern_token_logprob, token, 0, tern_token);
AT(tern_token_logprob, logprob, 4, float);

int main(void) {
    char version[32];
    snprintf(version, sizeof version, "%d.%d.%d", TERN_VERSION_MAJOR, TERN_VERSION_MINOR,
             TERN_VERSION_PATCH);
    CHECK(tern_abi_version() == TERN_ABI_VERSION);
    CHECK(strcmp(tern_version(), version) == 0);
    return 0;
}
