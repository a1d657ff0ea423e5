/* The work of a soak: turns, each of which comes to the same end whenever it is done, whatever was
 * done before. What a turn says (tokens, logits, text) is mixed into `found`. */
#ifndef TURNS_H
#define TURNS_H

#include "account.h"

#include <fcntl.h>
#include <math.h>
#include <pthread.h>
#include <semaphore.h>

#define N_RESIDENT 4
#define N_PROMPTS 8
#define N_REQUESTS (N_RESIDENT * N_PROMPTS)

/* A model, and what stays open with it for as long as the program runs. */
struct place {
    const char *path;
    char packed[96], saved[96];
    int is_large;
    tern_model *model;
    tern_session *resident[N_RESIDENT];
    tern_sampler *greedy;
    tern_decoder *decoder;
    tern_token tokens[2048];
    size_t n_tokens;
    unsigned char *file, *snapshot; /* the file's bytes, if they are few; room for a snapshot */
    size_t n_file, n_snapshot;
    struct times decode;
    uint64_t n_requests, n_decoded, n_stopped;
};

static struct place *at;
static uint64_t found, dice_state = 1;

static void mix(const void *data, size_t n) {
    const unsigned char *const byte = data;
    for (size_t i = 0; i < n; i++) {
        found = (found ^ byte[i]) * 1099511628211u;
    }
}

static void mix_logits(const tern_session *session) {
    const float *logits;
    size_t n;
    OK(tern_session_logits(session, &logits, &n));
    mix(logits, n * sizeof *logits);
}

/* For the order of turns and the moments of aborts, which what is found must not depend on. */
static unsigned dice(unsigned n) {
    dice_state = dice_state * 6364136223846793005u + 1442695040888963407u;
    return (unsigned)((dice_state >> 33) % n);
}

static const tern_token *prompt(unsigned variant) { return at->tokens + 11 * (variant % N_PROMPTS); }
static size_t n_answer(void) { return at->is_large ? 12 : 24; }

static tern_session *make(tern_session_params p) {
    tern_session *session = NULL;
    OK(tern_session_new(at->model, &p, &session));
    return session;
}

static tern_session_params plain(uint32_t n_ctx) {
    tern_session_params p = TERN_INIT(tern_session_params);
    p.n_ctx = n_ctx;
    p.n_threads = 1;
    return p;
}

/* The sessions that stay open, and others as they were when they were made. Without huge pages: the
 * kernel makes those of small ones whenever it comes to it, and resident memory grows by what stands
 * between, in steps of 2 MiB that would hide what is looked for. */
static tern_session_params resident(unsigned i) {
    tern_session_params p = plain(400);
    p.huge_pages = TERN_HUGE_PAGES_NEVER;
    switch (i) {
    case 1:
        p.kv_dtype = TERN_KV_BALANCED;
        p.kv_budget = 64;
        break;
    case 2: p.kv_share = 1; break;
    case 3: p.n_threads = 2; break;
    }
    return p;
}

/* Some tokens, greedily, as text. */
static void answer(tern_session *session, size_t n) {
    const char *text;
    size_t length;
    OK(tern_decoder_reset(at->decoder));
    for (size_t i = 0; i < n; i++) {
        tern_token token;
        OK(tern_sampler_sample(at->greedy, session, &token));
        mix(&token, sizeof token);
        OK(tern_decoder_push(at->decoder, token, &text, &length));
        mix(text, length);
        const double start = now();
        OK(tern_session_eval(session, &token, 1));
        add_time(&at->decode, now() - start);
        at->n_decoded++;
    }
    OK(tern_decoder_flush(at->decoder, &text, &length));
    mix(text, length);
    mix_logits(session);
}

static void request(tern_session *session, unsigned variant) {
    const size_t n = at->is_large ? 40 + 10 * (variant % N_PROMPTS) : 8 + variant % N_PROMPTS;
    OK(tern_session_eval(session, prompt(variant / N_RESIDENT), n));
    answer(session, at->is_large || variant % 8 == 0 ? n_answer() : 3);
    at->n_requests++;
}

/* A request to a session that has answered others before. */
static void ask(unsigned variant) {
    tern_session *const session = at->resident[variant % N_RESIDENT];
    OK(tern_session_kv_truncate(session, 0));
    request(session, variant);
}

/* The same to one that is new, also with another number of threads: found must be the same. */
static void ask_anew(unsigned variant) {
    tern_session_params p = resident(variant % N_RESIDENT);
    p.n_threads = p.n_threads_prefill = (variant / N_RESIDENT + 1) % 3; /* 0: as measured */
    tern_session *const session = make(p);
    request(session, variant);
    tern_session_free(session);
}

#define N_POLICIES 13 /* each but TERN_KV_POLICY_DEFAULT, from 1 on */

/* Tokens leave by themselves, by each policy that a session can have; and by KVzip on request. */
static void evict_by(unsigned variant) {
    const tern_kv_policy policy = variant + 1;
    tern_session_params p = plain(200);
    if (policy == TERN_KV_POLICY_NONE) {
        p.n_ctx = 110;
    }
    if (policy != TERN_KV_POLICY_KVZIP) {
        p.kv_policy = policy;
        p.kv_budget = policy == TERN_KV_POLICY_NONE ? 0 : 60;
    }
    tern_session *const session = make(p);
    OK(tern_session_eval(session, prompt(variant), 100));
    if (policy == TERN_KV_POLICY_KVZIP) {
        tern_kv_evict_params e = TERN_INIT(tern_kv_evict_params);
        e.policy = policy;
        e.n_keep = 60;
        size_t n;
        OK(tern_session_kv_evict(session, &e, &n));
        mix(&n, sizeof n);
        OK(tern_session_eval(session, prompt(variant), 1));
    }
    if (policy == TERN_KV_POLICY_NONE) {
        OK(tern_session_eval(session, prompt(variant), 10));
        GIVES(TERN_ERROR_KV_FULL, tern_session_eval(session, prompt(variant), 1));
    } else {
        answer(session, n_answer());
    }
    tern_session_info info = TERN_INIT(tern_session_info);
    OK(tern_session_describe(session, &info));
    mix(&info.n_evicted, sizeof info.n_evicted);
    tern_session_free(session);
}

/* On request, and when the cache is full; what would leave, other budgets, segments. */
static void evict_otherwise(unsigned variant) {
    tern_session_params p = plain(128);
    p.when_full = variant == 0 ? TERN_WHEN_FULL_EVICT : TERN_WHEN_FULL_FAIL;
    p.kv_policy = variant == 2 ? TERN_KV_POLICY_HYBRID : TERN_KV_POLICY_DEFAULT;
    tern_session *const session = make(p);
    OK(tern_session_eval(session, prompt(variant), 110));
    size_t n = 0;
    tern_kv_segment segment = TERN_INIT(tern_kv_segment);
    segment.to_pos = 20;
    segment.flags = TERN_KV_SEGMENT_PINNED;
    switch (variant) {
    case 1: OK(tern_session_kv_evict_range(session, 20, 80, &n)); break;
    case 2: {
        tern_kv_evict_params e = TERN_INIT(tern_kv_evict_params);
        tern_kv_plan_info info = TERN_INIT(tern_kv_plan_info);
        uint32_t gone[128];
        e.n_keep = 50;
        OK(tern_session_kv_segment_set(session, "system", &segment));
        OK(tern_session_kv_evict_plan(session, &e, &info, gone, 128, &n));
        mix(gone, n * sizeof *gone);
        OK(tern_session_kv_evict(session, &e, NULL));
        OK(tern_session_kv_segment_remove(session, "system"));
        break;
    }
    case 3:
        tern_session_kv_set_budget(session, 40);
        OK(tern_session_eval(session, prompt(variant), 1));
        OK(tern_session_kv_can(session, TERN_KV_OP_FORK));
        break;
    }
    mix(&n, sizeof n);
    answer(session, 18 + (variant == 0) * n_answer());
    if (variant == 3) {
        OK(tern_session_kv_rebuild(session, NULL));
        mix_logits(session);
    }
    tern_session_free(session);
}

static void keep_as(unsigned variant) {
    static const tern_kv_dtype all[] = {TERN_KV_F16,  TERN_KV_F32,  TERN_KV_Q8_0,     TERN_KV_Q5_0,
                                        TERN_KV_Q4_0, TERN_KV_Q4_H, TERN_KV_Q3_H,     TERN_KV_Q5_H,
                                        TERN_KV_TINY, TERN_KV_SMALL, TERN_KV_BALANCED};
    tern_session_params p = plain(160);
    p.kv_dtype = all[variant];
    p.n_batch = 32;
    tern_session *const session = make(p);
    OK(tern_session_eval(session, prompt(variant), 70));
    answer(session, n_answer());
    tern_session_free(session);
}
#define N_KV_TYPES 11

/* Three sessions with one prompt: one reads it, one takes it, one is forked. One of them changes what
 * they share; each goes on as it would alone. */
static void share(unsigned variant) {
    tern_session_params p = plain(400);
    p.kv_share = 1;
    tern_session *const first = make(p), *const second = make(p), *third = NULL;
    OK(tern_session_eval(first, prompt(variant), 280));
    OK(tern_session_eval(second, prompt(variant), 280));
    OK(tern_session_fork(first, &third));
    OK(tern_session_kv_truncate(first, 40 + variant));
    OK(tern_session_eval(first, prompt(variant + 1), 8));
    answer(first, 6);
    tern_session_free(first);
    answer(second, 6);
    tern_session_info info = TERN_INIT(tern_session_info);
    OK(tern_session_describe(second, &info));
    CHECK(info.kv_shared_bytes > 0);
    OK(tern_session_eval(third, prompt(variant), 1));
    tern_session_free(second);
    answer(third, 6);
    tern_session_free(third);
}

/* --- Turns that are stopped ---------------------------------------------------------------------------- */

/* The thread that stops others: it is there all the time, so that their number is constant. */
static struct stopper {
    pthread_t thread;
    sem_t begin, done;
    const tern_session *session; /* NULL: there is nothing more to do */
    unsigned us;
} stopper;

static void *stop(void *unused) {
    (void)unused;
    for (;;) {
        while (sem_wait(&stopper.begin) != 0) {
        }
        if (stopper.session == NULL) {
            return NULL;
        }
        const struct timespec t = {0, 1000L * (long)stopper.us};
        nanosleep(&t, NULL);
        tern_session_abort(stopper.session);
        sem_post(&stopper.done);
    }
}

/* The work that is stopped, at moments that are never the same; in the end it is done, and nobody can
 * tell. */
static void go_on_after(tern_session *session, unsigned variant, tern_status expected, uint64_t wait_ns) {
    tern_status status;
    do {
        tern_eval_params p = TERN_INIT(tern_eval_params);
        if (wait_ns > 0) {
            struct timespec t;
            clock_gettime(CLOCK_MONOTONIC, &t);
            p.deadline_ns = (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec + wait_ns;
            wait_ns *= 2;
        }
        status = tern_session_eval_with(session, prompt(variant) + 30, 90, &p);
        CHECK(status == TERN_OK || status == expected);
        at->n_stopped += status != TERN_OK;
    } while (status != TERN_OK);
}

static void abort_it(unsigned variant) {
    tern_session *const session = at->resident[variant % N_RESIDENT];
    OK(tern_session_kv_truncate(session, 0));
    OK(tern_session_eval(session, prompt(variant), 30));
    stopper.session = session;
    stopper.us = dice(at->is_large ? 60000 : 4000);
    sem_post(&stopper.begin);
    const tern_status status = tern_session_eval(session, prompt(variant) + 30, 90);
    CHECK(status == TERN_OK || status == TERN_ERROR_ABORTED);
    at->n_stopped += status != TERN_OK;
    while (sem_wait(&stopper.done) != 0) {
    }
    /* An abort that came late is for the next eval; and one that came in time leaves all to do. */
    OK(tern_session_kv_truncate(session, 30));
    go_on_after(session, variant, TERN_ERROR_ABORTED, 0);
    answer(session, 4);
}

static void miss_deadline(unsigned variant) {
    tern_session *const session = at->resident[variant % N_RESIDENT];
    OK(tern_session_kv_truncate(session, 0));
    OK(tern_session_eval(session, prompt(variant), 30));
    go_on_after(session, variant, TERN_ERROR_DEADLINE, 1 + dice(at->is_large ? 40000000 : 2000000));
    answer(session, 4);
}

/* --- Snapshots, files, text ---------------------------------------------------------------------------- */

/* Goes on in another session, as itself would. */
static void suspend(unsigned variant) {
    tern_session_params p = resident(variant % 3);
    tern_session *const session = make(p), *const restored = make(p);
    OK(tern_session_eval(session, prompt(variant), 90));
    if (variant % 2 == 0) {
        OK(tern_session_save(session, at->greedy, at->saved));
        OK(tern_session_prefetch(at->saved));
        OK(tern_session_restore(restored, at->greedy, at->saved));
    } else {
        size_t n;
        OK(tern_session_write(session, NULL, at->snapshot, at->n_snapshot, &n));
        mix(&n, sizeof n);
        GIVES(TERN_ERROR_SNAPSHOT_CORRUPT, tern_session_read(restored, NULL, at->snapshot, n - 1));
        OK(tern_session_read(restored, NULL, at->snapshot, n));
    }
    OK(tern_session_eval(session, prompt(variant), 1));
    OK(tern_session_eval(restored, prompt(variant), 1));
    const uint64_t before = found;
    answer(session, 5);
    const uint64_t after = found;
    found = before;
    answer(restored, 5);
    CHECK(found == after);
    tern_session_free(session);
    tern_session_free(restored);
}

/* Each way to load: the model says the same. */
static void load_as(unsigned variant) {
    tern_model_params p = TERN_INIT(tern_model_params);
    tern_model *model = NULL, *const before = at->model;
    switch (variant) {
    case 0: p.load_mode = TERN_LOAD_COPY; break;
    case 1: p.load_mode = TERN_LOAD_MAP_GUARDED; break;
    case 2: p.load_mode = TERN_LOAD_MAP_FAST; break;
    case 3: p.screened_head = 1; break;
    }
    if (variant < 4) {
        OK(tern_model_load(at->path, &p, &model));
    } else if (variant == 4) {
        OK(tern_model_load(at->packed, &p, &model));
    } else if (variant == 5) {
        const int fd = open(at->path, O_RDONLY | O_CLOEXEC);
        CHECK(fd >= 0);
        OK(tern_model_load_fd(fd, 0, 0, &p, &model));
        close(fd);
    } else if (at->n_file > 0) {
        OK(tern_model_load_memory(at->file, at->n_file, NULL, &model));
    } else {
        OK(tern_model_pack(at->path, at->packed, NULL, NULL));
        OK(tern_model_load(at->packed, NULL, &model));
    }
    at->model = model;
    tern_session *const session = make(plain(64));
    at->model = before;
    tern_model_free(model); /* the session keeps it */
    OK(tern_session_eval(session, prompt(0), 12));
    answer(session, 4);
    tern_session_free(session);
}
#define N_LOADS 7

static void talk(unsigned variant) {
    static const char question[] = "Where do terns live, and how far do they fly in a year? \xF0\x9F\x90\xA6";
    const tern_chat_message messages[] = {{"system", "Be brief.", 9},
                                          {"user", question, sizeof question - 1 - 5 * (variant % 2)},
                                          {"assistant", "At sea.", 7},
                                          {"user", "Why?", 4}};
    char text[2048], back[4096];
    size_t n, n_tokens;
    tern_token tokens[2048];
    OK(tern_model_chat_format(at->model, messages, 1 + variant % 4, 1, text, sizeof text, &n));
    mix(text, n);
    OK(tern_model_tokenize(at->model, text, n, TERN_TOKENIZE_PARSE_SPECIAL, tokens, 2048, &n_tokens));
    mix(tokens, n_tokens * sizeof *tokens);
    OK(tern_model_detokenize(at->model, tokens, n_tokens, 0, back, sizeof back, &n));
    mix(back, n);
    tern_decoder *decoder = NULL;
    OK(tern_decoder_new(at->model, &decoder));
    const char *said;
    for (size_t i = 0; i < n_tokens; i++) {
        OK(tern_decoder_push(decoder, tokens[(7 * i) % n_tokens], &said, &n));
        mix(said, n);
    }
    tern_decoder_free(decoder);
    const char *key, *value;
    OK(tern_model_metadata_at(at->model, variant, &key, &value, &n));
    mix(value, n);
}

/* Samplers of all kinds, and drafts. */
static void generate(unsigned variant) {
    static const tern_logit_bias bias[] = {{70, 1.0f}, {71, -INFINITY}};
    tern_session_params p = plain(200);
    p.n_logits = 8;
    tern_session *const session = make(p);
    tern_sampler_params s = TERN_INIT(tern_sampler_params);
    s.seed = variant + 1;
    s.temperature = 0.25f * (float)variant;
    s.top_k = variant % 2 ? 40 : 0;
    s.top_p = 0.9f;
    s.typical_p = variant == 3 ? 0.9f : 0;
    s.repeat_penalty = 1.1f;
    s.n_logprobs = 5;
    s.logit_bias = bias;
    s.n_logit_bias = 2;
    tern_sampler *sampler = NULL;
    OK(tern_sampler_new(&s, &sampler));
    OK(tern_session_eval(session, prompt(variant), 50));
    tern_generate_params g = TERN_INIT(tern_generate_params);
    g.n_draft = 4;
    for (int i = 0; i < 4; i++) {
        tern_token tokens[16];
        size_t n;
        OK(tern_session_generate(session, sampler, &g, tokens, 16, &n));
        mix(tokens, n * sizeof *tokens);
        at->n_decoded += n;
    }
    const tern_token_logprob *list;
    size_t n;
    OK(tern_sampler_logprobs(sampler, &list, &n));
    mix(list, n * sizeof *list);
    OK(tern_sampler_accept(sampler, prompt(variant)[0]));
    OK(tern_sampler_reset(sampler));
    tern_sampler_free(sampler);
    tern_session_free(session);
}

/* What a program gets wrong. Each call has its code, and changes nothing. */
static void mistakes(unsigned variant) {
    tern_session *session = make(plain(32)), *const stale = session;
    tern_model *model = NULL;
    size_t n;
    char text[4];
    tern_session_free(session);
    GIVES(TERN_ERROR_INVALID_HANDLE, tern_session_eval(stale, prompt(variant), 1));
    GIVES(TERN_ERROR_INVALID_HANDLE, tern_session_eval((tern_session *)(void *)at->model, prompt(0), 1));
    GIVES(TERN_ERROR_INVALID_HANDLE, tern_sampler_reset(NULL));
    tern_session_free(stale);
    session = at->resident[0];
    OK(tern_session_kv_truncate(session, 0));
    GIVES(TERN_ERROR_NOT_READY, tern_sampler_sample(at->greedy, session, &(tern_token){0}));
    GIVES(TERN_ERROR_INVALID_ARGUMENT, tern_session_eval(session, NULL, 1));
    GIVES(TERN_ERROR_INVALID_ARGUMENT, tern_session_eval(session, &(tern_token){-5}, 1));
    GIVES(TERN_ERROR_KV_FULL, tern_session_eval(session, at->tokens, 401));
    GIVES(TERN_ERROR_INVALID_ARGUMENT, tern_session_kv_truncate(session, 1));
    GIVES(TERN_ERROR_IO, tern_session_restore(session, NULL, "/no/such/file"));
    GIVES(TERN_ERROR_IO, tern_session_save(session, NULL, "/no/such/folder/file"));
    GIVES(TERN_ERROR_SNAPSHOT_CORRUPT, tern_session_restore(session, NULL, at->path));
    GIVES(TERN_ERROR_IO, tern_model_load("/no/such/file", NULL, &model));
    GIVES(TERN_ERROR_BAD_FILE, tern_model_load("/proc/self/exe", NULL, &model));
    tern_model_params p = TERN_INIT(tern_model_params);
    p.device = 7;
    GIVES(TERN_ERROR_INVALID_ARGUMENT, tern_model_load(at->path, &p, &model));
    tern_session_params s = plain(64);
    s.kv_policy = 99;
    GIVES(TERN_ERROR_INVALID_ARGUMENT, tern_session_new(at->model, &s, &session));
    GIVES(TERN_ERROR_BUFFER_TOO_SMALL, tern_model_detokenize(at->model, prompt(0), 9, 0, text, 4, &n));
    GIVES(TERN_ERROR_INVALID_ARGUMENT, tern_model_chat_format(at->model, NULL, 2, 1, text, 4, &n));
    mix(tern_last_error(), strlen(tern_last_error()));
}

#endif
