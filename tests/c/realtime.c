/* What a loop with a deadline calls: no call waits for anything, by the word of RealtimeSanitizer.
 *
 *   realtime MODEL.gguf [HOW]
 *
 * Linked with the sanitizer's runtime, which stands between the process and the functions of the C library
 * that may wait: allocation, locks, files, system calls. Each is an error between enter() and leave().
 * HOW: "threads" does the same with two threads, which wait for each other; "malloc" and "fork" are what
 * must be found: an allocation here, and the first one that the library makes. */
#include "check.h"

#include <stdint.h>
#include <time.h>

void __rtsan_realtime_enter(void);
void __rtsan_realtime_exit(void);
void __rtsan_ensure_initialized(void);

static const char *how = "";
static tern_model *model;
static tern_session *session;
static tern_sampler *sampler;
static tern_decoder *decoder;
static tern_token tokens[256];

/* From `enter` to `leave`; failures are looked at outside, where it is allowed to say something. */
#define NONBLOCKING(call)                                                                      \
    do {                                                                                       \
        __rtsan_realtime_enter();                                                              \
        const tern_status found_status = (call);                                               \
        __rtsan_realtime_exit();                                                               \
        OK(found_status);                                                                      \
    } while (0)

static uint64_t soon(void) {
    struct timespec t;
    CHECK(clock_gettime(CLOCK_MONOTONIC, &t) == 0);
    return ((uint64_t)t.tv_sec + 1000) * 1000000000u;
}

static tern_session_params params(void) {
    tern_session_params p = TERN_INIT(tern_session_params);
    p.n_ctx = 200;
    p.n_batch = 64;
    p.n_logits = 8;
    p.n_threads = strcmp(how, "threads") == 0 ? 2 : 1;
    return p;
}

/* A prompt, and an answer token by token: sampled, turned into text, evaluated. */
static void answer(size_t n_prompt, size_t n) {
    tern_eval_params p = TERN_INIT(tern_eval_params);
    tern_token token;
    const char *text;
    size_t length;
    NONBLOCKING(tern_session_eval(session, tokens, n_prompt));
    for (size_t i = 0; i < n; i++) {
        p.deadline_ns = soon();
        p.logits = i % 8 == 7 ? TERN_LOGITS_NONE : TERN_LOGITS_LAST;
        NONBLOCKING(tern_sampler_sample(sampler, session, &token));
        NONBLOCKING(tern_decoder_push(decoder, token, &text, &length));
        NONBLOCKING(tern_model_token_piece(model, token, &text, &length));
        NONBLOCKING(tern_session_eval_with(session, &token, 1, &p));
        if (p.logits == TERN_LOGITS_NONE) {
            NONBLOCKING(tern_session_eval(session, &token, 1));
        }
        __rtsan_realtime_enter();
        tern_model_token_is_eog(model, token);
        tern_session_progress(session);
        tern_session_kv_set_budget(session, 0);
        __rtsan_realtime_exit();
    }
    NONBLOCKING(tern_decoder_flush(decoder, &text, &length));
}

static void generate(size_t n) {
    tern_generate_params p = TERN_INIT(tern_generate_params);
    p.n_draft = 5;
    for (size_t i = 0; i < n; i++) {
        tern_token made[16];
        size_t n_made;
        NONBLOCKING(tern_session_generate(session, sampler, &p, made, 16, &n_made));
    }
}

static void evict(void) {
    tern_kv_evict_params p = TERN_INIT(tern_kv_evict_params);
    tern_session_info info = TERN_INIT(tern_session_info);
    size_t n;
    p.n_keep = 60;
    NONBLOCKING(tern_session_kv_evict(session, &p, &n));
    NONBLOCKING(tern_session_kv_evict_range(session, 10, 20, &n));
    NONBLOCKING(tern_session_describe(session, &info));
    NONBLOCKING(tern_session_kv_truncate(session, info.pos - 2));
    NONBLOCKING(tern_session_eval(session, tokens, 2));
    NONBLOCKING(tern_sampler_accept(sampler, tokens[0]));
}

int main(int argc, char **argv) {
    static const tern_kv_policy policies[] = {
        TERN_KV_POLICY_STREAMING, TERN_KV_POLICY_HYBRID,  TERN_KV_POLICY_ATTN,    TERN_KV_POLICY_H2O,
        TERN_KV_POLICY_TOVA,      TERN_KV_POLICY_SNAPKV,  TERN_KV_POLICY_KEYDIFF, TERN_KV_POLICY_KNORM,
        TERN_KV_POLICY_RANDOM,    TERN_KV_POLICY_RING,    TERN_KV_POLICY_EXPECTED};
    static const tern_kv_dtype types[] = {TERN_KV_F16, TERN_KV_Q8_0, TERN_KV_BALANCED, TERN_KV_SMALL};
    __rtsan_ensure_initialized();
    model = load(model_path(argc, argv));
    how = argc > 2 ? argv[2] : "";
    tern_sampler_params s = TERN_INIT(tern_sampler_params);
    s.temperature = 0.8f;
    s.top_k = 40;
    s.top_p = 0.95f;
    s.typical_p = 0.9f;
    s.repeat_penalty = 1.1f;
    s.n_logprobs = 5;
    OK(tern_sampler_new(&s, &sampler));
    OK(tern_decoder_new(model, &decoder));
    for (int i = 0; i < 256; i++) {
        tokens[i] = (i * 37 + 11) % 250;
    }
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
        tern_session_params p = params();
        p.kv_dtype = types[i];
        p.when_full = TERN_WHEN_FULL_EVICT;
        OK(tern_session_new(model, &p, &session));
        answer(100, 150); /* more than there is room for */
        generate(20);
        evict();
        tern_session_free(session);
    }
    for (size_t i = 0; i < sizeof policies / sizeof *policies; i++) {
        tern_session_params p = params();
        p.kv_policy = policies[i];
        p.kv_budget = 80;
        OK(tern_session_new(model, &p, &session));
        answer(100, 80);
        evict();
        tern_session_free(session);
    }
    tern_session_params p = params();
    OK(tern_session_new(model, &p, &session));
    if (strcmp(how, "malloc") == 0) {
        __rtsan_realtime_enter();
        void *volatile lost = malloc(100);
        __rtsan_realtime_exit();
        free(lost);
    } else if (strcmp(how, "fork") == 0) {
        tern_session *fork = NULL;
        NONBLOCKING(tern_session_fork(session, &fork));
    }
    return 0;
}
