/* Many threads do whatever the C API can, at random, with the same few handles, under ThreadSanitizer.
 * Each call gives a status that it may give when others are using, aborting or freeing what it works on.
 *
 *   races MODEL OPERATIONS [SEED]     2, 4 and 8 threads, each with 1, 4 and 16 sessions
 *   races MODEL lent                  a race on purpose: lent logits are read while they are written
 *   races MODEL counted               another: the progress of two loads is counted without a lock */
#include "check.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <time.h>

enum { MOST_THREADS = 8, MOST_SESSIONS = 16, N_OTHERS = 3, N_BYTES = 1 << 20 };

static const char *path;
static char folder[] = "/tmp/tern-races-XXXXXX";
static tern_model *_Atomic model;
static tern_session *_Atomic sessions[MOST_SESSIONS];
static tern_sampler *_Atomic samplers[N_OTHERS];
static tern_decoder *_Atomic decoders[N_OTHERS];
static unsigned n_sessions;
static atomic_long n_left, n_ok, n_refused, n_lines;

static uint64_t chance(uint64_t *state) { /* splitmix64 */
    uint64_t z = *state += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

static void may_be(tern_status status, const char *call) {
    switch (status) {
    case TERN_OK:
        atomic_fetch_add(&n_ok, 1);
        return;
    case TERN_ERROR_BUSY:
    case TERN_ERROR_INVALID_HANDLE:
    case TERN_ERROR_NOT_READY:
    case TERN_ERROR_ABORTED:
    case TERN_ERROR_DEADLINE:
    case TERN_ERROR_KV_FULL:
    case TERN_ERROR_INVALID_ARGUMENT:  /* a range, position or name that is not there */
    case TERN_ERROR_UNSUPPORTED:       /* to go back, after an eviction */
    case TERN_ERROR_IO:                /* a file that was not saved yet */
    case TERN_ERROR_SNAPSHOT_LAYOUT:   /* of a session with other parameters */
    case TERN_ERROR_SNAPSHOT_CORRUPT:  /* memory without a snapshot */
    case TERN_ERROR_BUFFER_TOO_SMALL:
        CHECK(tern_last_error()[0] != 0 && tern_status_name(status)[0] == 'T');
        atomic_fetch_add(&n_refused, 1);
        return;
    default:
        fprintf(stderr, "%s gave %s: %s\n", call, tern_status_name(status), tern_last_error());
        exit(1);
    }
}
#define MAY(call) may_be(call, #call)

static void on_log(void *user_data, tern_log_level level, const char *message) {
    CHECK(user_data == &n_lines && level != TERN_LOG_OFF && message[0] != 0);
    atomic_fetch_add(&n_lines, 1);
    (void)tern_device_count();
    tern_log_set(TERN_LOG_OFF, NULL, NULL); /* ignored from here */
}

static int32_t on_progress(void *user_data, uint64_t done, uint64_t total) {
    CHECK(user_data == &n_lines && done <= total);
    tern_device_info info = TERN_INIT(tern_device_info);
    OK(tern_device_describe(0, &info));
    return 0;
}

static tern_session_params any_params(uint64_t *state) {
    tern_session_params params = TERN_INIT(tern_session_params);
    static const tern_kv_dtype types[] = {0, TERN_KV_Q8_0, TERN_KV_BALANCED};
    params.n_ctx = 160;
    params.n_batch = 32;
    params.n_threads = (uint32_t)(chance(state) % 4); /* 0: as measured */
    params.kv_share = chance(state) % 2;
    params.kv_dtype = types[chance(state) % 3];
    if (chance(state) % 4 == 0) {
        params.kv_policy = TERN_KV_POLICY_HYBRID;
        params.kv_budget = 64;
    }
    return params;
}

static tern_session *new_session(uint64_t *state) {
    const tern_session_params params = any_params(state);
    tern_session *session = NULL;
    MAY(tern_session_new(model, &params, &session));
    return session;
}

static tern_sampler *new_sampler(uint64_t *state) {
    tern_sampler_params params = TERN_INIT(tern_sampler_params);
    tern_sampler *sampler = NULL;
    params.temperature = chance(state) % 2 ? 0.8f : 0.0f;
    params.seed = chance(state);
    params.repeat_penalty = 1.1f;
    OK(tern_sampler_new(&params, &sampler));
    return sampler;
}

static tern_decoder *new_decoder(void) {
    tern_decoder *decoder = NULL;
    MAY(tern_decoder_new(model, &decoder));
    return decoder;
}

static uint64_t soon(uint64_t ns) {
    struct timespec now;
    CHECK(clock_gettime(CLOCK_MONOTONIC, &now) == 0);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec + ns;
}

/* One operation. What is lent is not read: another thread may call what ends the loan. */
static void one(uint64_t *state, unsigned char *bytes) {
    static const char *const texts[] = {"The tern and the sea.", "a", "\xF0\x9F\x90\xA6 1900", ""};
    static const char *const names[] = {"system", "note"};
    const unsigned at = (unsigned)(chance(state) % n_sessions), o = (unsigned)(chance(state) % N_OTHERS);
    tern_session *const session = sessions[at];
    tern_sampler *const sampler = samplers[o];
    tern_decoder *const decoder = decoders[o];
    tern_model *const of = model;
    const char *const text = texts[chance(state) % 4];
    tern_token tokens[64];
    char said[256], file[64];
    const char *lent, *key;
    const float *logits;
    const tern_token_logprob *list;
    size_t n = 0;
    for (int i = 0; i < 64; i++) tokens[i] = (tern_token)(chance(state) % 250);
    snprintf(file, sizeof file, "%s/%u", folder, (unsigned)(chance(state) % 3));
    switch (chance(state) % 64) {
    case 0: {
        tern_session *made = new_session(state);
        if (made != NULL) tern_session_free(atomic_exchange(&sessions[at], made));
        return;
    }
    case 1:
        tern_session_free(session);
        return;
    case 2:
        tern_sampler_free(atomic_exchange(&samplers[o], new_sampler(state)));
        return;
    case 3:
        tern_decoder_free(atomic_exchange(&decoders[o], new_decoder()));
        return;
    case 4: {
        tern_session *fork = NULL;
        MAY(tern_session_fork(session, &fork));
        if (fork != NULL) tern_session_free(atomic_exchange(&sessions[chance(state) % n_sessions], fork));
        return;
    }
    case 5:
        tern_session_abort(session);
        return;
    case 6:
        tern_session_kv_set_budget(session, 50 + (uint32_t)(chance(state) % 30));
        return;
    case 7:
        tern_log_set((tern_log_level)(chance(state) % 5), chance(state) % 2 ? on_log : NULL, &n_lines);
        return;
    case 8: {
        tern_model_params params = TERN_INIT(tern_model_params);
        tern_model *made = NULL;
        params.load_mode = (tern_load_mode)(chance(state) % 4);
        params.screened_head = chance(state) % 2;
        params.progress = on_progress;
        params.user_data = &n_lines;
        MAY(tern_model_load(path, &params, &made));
        /* Sessions live on with the model that they were made of. */
        if (made != NULL) tern_model_free(atomic_exchange(&model, made));
        return;
    }
    case 9: {
        tern_plan_info info = TERN_INIT(tern_plan_info);
        MAY(tern_model_plan(path, NULL, NULL, &info));
        return;
    }
    case 10:
    case 11:
        MAY(tern_model_tokenize(of, text, strlen(text), TERN_TOKENIZE_ADD_SPECIAL, tokens, 64, &n));
        return;
    case 12:
        MAY(tern_model_detokenize(of, tokens, 64, 0, said, sizeof said, &n));
        return;
    case 13:
        MAY(tern_model_token_piece(of, tokens[0], &lent, &n));
        (void)tern_model_token_is_eog(of, tokens[1]);
        return;
    case 14: {
        const tern_chat_message message = {"user", text, strlen(text)};
        const tern_status status = tern_model_chat_format(of, &message, 1, 1, said, sizeof said, &n);
        if (status != TERN_ERROR_BAD_TEMPLATE) may_be(status, "tern_model_chat_format");
        return;
    }
    case 15: {
        tern_model_info info = TERN_INIT(tern_model_info);
        MAY(tern_model_describe(of, &info));
        MAY(tern_model_metadata_at(of, 0, &key, &lent, &n));
        return;
    }
    case 16:
        MAY(tern_decoder_push(decoder, tokens[0], &lent, &n));
        return;
    case 17:
        MAY(tern_decoder_flush(decoder, &lent, &n));
        return;
    case 18:
        MAY(tern_session_kv_evict(session, NULL, &n));
        return;
    case 19:
        MAY(tern_session_kv_evict_range(session, 1, 3, &n));
        return;
    case 20:
    case 21:
        MAY(tern_session_kv_truncate(session, (uint32_t)(chance(state) % 20)));
        return;
    case 22: {
        tern_session_info info = TERN_INIT(tern_session_info);
        MAY(tern_session_describe(session, &info));
        return;
    }
    case 23:
        MAY(tern_session_logits(session, &logits, &n));
        return;
    case 24:
        MAY(tern_session_set_threads(session, (uint32_t)(chance(state) % 4), (uint32_t)(chance(state) % 4)));
        return;
    case 25: {
        tern_kv_segment segment = TERN_INIT(tern_kv_segment);
        segment.to_pos = 1 + (uint32_t)(chance(state) % 8);
        MAY(tern_session_kv_segment_set(session, names[chance(state) % 2], &segment));
        return;
    }
    case 26: {
        tern_kv_segment segment = TERN_INIT(tern_kv_segment);
        MAY(tern_session_kv_segment_get(session, names[chance(state) % 2], &segment));
        return;
    }
    case 27:
        MAY(tern_session_kv_segment_remove(session, names[chance(state) % 2]));
        return;
    case 28: {
        tern_kv_plan_info info = TERN_INIT(tern_kv_plan_info);
        uint32_t gone[200];
        MAY(tern_session_kv_evict_plan(session, NULL, &info, gone, 200, &n));
        return;
    }
    case 29:
        MAY(tern_session_kv_can(session, 1 + (tern_kv_op)(chance(state) % 4)));
        return;
    case 30:
        MAY(tern_session_kv_rebuild(session, NULL));
        return;
    case 31:
        MAY(tern_session_save(session, sampler, file));
        return;
    case 32:
        MAY(tern_session_restore(session, sampler, file));
        return;
    case 33:
        MAY(tern_session_prefetch(file));
        return;
    case 34:
        MAY(tern_session_write(session, sampler, bytes, N_BYTES, &n));
        if (n > 0 && n <= N_BYTES) MAY(tern_session_read(sessions[chance(state) % n_sessions], sampler, bytes, n));
        return;
    case 35:
        MAY(tern_sampler_accept(sampler, tokens[0]));
        return;
    case 36:
        MAY(tern_sampler_reset(sampler));
        return;
    case 37:
        MAY(tern_sampler_logprobs(sampler, &list, &n));
        return;
    case 38:
    case 39: {
        tern_eval_params params = TERN_INIT(tern_eval_params);
        params.deadline_ns = soon(chance(state) % 3000000);
        params.logits = chance(state) % 2 ? TERN_LOGITS_BEST : TERN_LOGITS_NONE;
        MAY(tern_session_eval_with(session, tokens, 1 + chance(state) % 8, &params));
        return;
    }
    case 40:
        MAY(tern_session_generate(session, sampler, NULL, tokens, 1 + chance(state) % 8, &n));
        return;
    case 41:
    case 42: /* a prompt, which several threads share out; the same one, for those who share prefixes */
        for (int i = 0; i < 64; i++) tokens[i] = i;
        MAY(tern_session_eval(session, tokens, 20 + chance(state) % 44));
        return;
    case 43:
    case 44:
    case 45:
    case 46:
    case 47:
    case 48:
    case 49:
        MAY(tern_sampler_sample(sampler, session, &tokens[0]));
        return;
    default:
        MAY(tern_session_eval(session, tokens, 1 + chance(state) % 3));
        return;
    }
}

static void *work(void *seed) {
    uint64_t state = (uint64_t)(uintptr_t)seed;
    unsigned char *const bytes = malloc(N_BYTES);
    CHECK(bytes != NULL);
    while (atomic_fetch_sub(&n_left, 1) > 0) one(&state, bytes);
    free(bytes);
    return NULL;
}

static void all(long n, unsigned n_threads, uint64_t seed) {
    pthread_t threads[MOST_THREADS];
    model = load(path);
    for (unsigned i = 0; i < n_sessions; i++) sessions[i] = new_session(&seed);
    for (unsigned i = 0; i < N_OTHERS; i++) {
        samplers[i] = new_sampler(&seed);
        decoders[i] = new_decoder();
    }
    atomic_store(&n_left, n);
    for (unsigned i = 0; i < n_threads; i++) {
        const uintptr_t own = (uintptr_t)chance(&seed);
        CHECK(pthread_create(&threads[i], NULL, work, (void *)own) == 0);
    }
    for (unsigned i = 0; i < n_threads; i++) CHECK(pthread_join(threads[i], NULL) == 0);
    for (unsigned i = 0; i < n_sessions; i++) tern_session_free(sessions[i]);
    for (unsigned i = 0; i < N_OTHERS; i++) {
        tern_sampler_free(samplers[i]);
        tern_decoder_free(decoders[i]);
    }
    tern_model_free(model);
    tern_log_set(TERN_LOG_OFF, NULL, NULL);
}

/* --- Races on purpose: who does not find these finds none ------------------------------------------- */

static const float *lent;
static atomic_int is_over;
static int n_unlocked;

static void *read_lent(void *unused) {
    (void)unused;
    volatile float sum = 0;
    while (!atomic_load_explicit(&is_over, memory_order_relaxed)) sum = sum + lent[0];
    return NULL;
}

static int32_t count(void *user_data, uint64_t done, uint64_t total) {
    (void)user_data, (void)done, (void)total;
    n_unlocked++;
    return 0;
}

static void *load_often(void *unused) {
    (void)unused;
    for (int i = 0; i < 20; i++) {
        tern_model_params params = TERN_INIT(tern_model_params);
        tern_model *made = NULL;
        params.progress = count;
        OK(tern_model_load(path, &params, &made));
        tern_model_free(made);
    }
    return NULL;
}

static int on_purpose(const char *kind) {
    pthread_t threads[2];
    if (strcmp(kind, "lent") == 0) {
        tern_model *own = load(path);
        tern_session *session = session_of(own, 64);
        const tern_token token = 'a';
        size_t n;
        OK(tern_session_eval(session, &token, 1));
        OK(tern_session_logits(session, &lent, &n));
        CHECK(pthread_create(&threads[0], NULL, read_lent, NULL) == 0);
        for (int i = 0; i < 40; i++) OK(tern_session_eval(session, &token, 1));
        atomic_store(&is_over, 1);
        CHECK(pthread_join(threads[0], NULL) == 0);
    } else {
        for (int i = 0; i < 2; i++) CHECK(pthread_create(&threads[i], NULL, load_often, NULL) == 0);
        for (int i = 0; i < 2; i++) CHECK(pthread_join(threads[i], NULL) == 0);
    }
    return 0;
}

int main(int argc, char **argv) {
    path = model_path(argc, argv);
    CHECK(argc > 2);
    alarm(0);
    const long n = atol(argv[2]);
    if (n <= 0) return on_purpose(argv[2]);
    uint64_t seed = argc > 3 ? strtoull(argv[3], NULL, 10) : 1;
    CHECK(mkdtemp(folder) != NULL);
    for (unsigned n_threads = 2; n_threads <= MOST_THREADS; n_threads *= 2) {
        for (n_sessions = 1; n_sessions <= MOST_SESSIONS; n_sessions *= 4) {
            all((n + 8) / 9, n_threads, chance(&seed));
        }
    }
    for (unsigned i = 0; i < 3; i++) {
        char file[64];
        snprintf(file, sizeof file, "%s/%u", folder, i);
        unlink(file);
    }
    CHECK(rmdir(folder) == 0);
    printf("%ld operations: %ld calls succeeded, %ld were refused, %ld messages\n", n, atomic_load(&n_ok),
           atomic_load(&n_refused), atomic_load(&n_lines));
    return 0;
}
