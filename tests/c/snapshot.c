/* A session is put away and comes back: from memory, from a file, with its sampler, and again. What
 * cannot come back says why, and leaves session and sampler as they were. Then segments, what a session
 * can do, and reading its tokens again. */
#include "check.h"

enum { N_PROMPT = 40, N_MORE = 30 };

static tern_session *make(const tern_model *model, uint32_t n_ctx, uint32_t kv_dtype) {
    tern_session_params params = TERN_INIT(tern_session_params);
    params.n_ctx = n_ctx;
    params.kv_dtype = kv_dtype;
    params.kv_budget = 32;
    params.n_threads = 1;
    params.kv_policy = TERN_KV_POLICY_HYBRID;
    tern_session *session = NULL;
    OK(tern_session_new(model, &params, &session));
    return session;
}

static tern_sampler *chooser(uint64_t seed) {
    tern_sampler_params params = TERN_INIT(tern_sampler_params);
    params.temperature = 1.5f;
    params.repeat_penalty = 1.1f;
    params.seed = seed;
    tern_sampler *sampler = NULL;
    OK(tern_sampler_new(&params, &sampler));
    return sampler;
}

/* Evaluates and samples `n` times; gives what was chosen last. */
static tern_token run(tern_session *session, tern_sampler *sampler, tern_token token, int n,
                      tern_token *chosen) {
    for (int i = 0; i < n; i++) {
        OK(tern_session_eval(session, &token, 1));
        OK(tern_sampler_sample(sampler, session, &token));
        if (chosen) chosen[i] = token;
    }
    return token;
}

static void comes_back(const tern_model *model, uint32_t kv_dtype) {
    tern_session *session = make(model, 128, kv_dtype);
    tern_sampler *sampler = chooser(5);
    tern_token prompt[N_PROMPT], expected[N_MORE], found[N_MORE];
    for (int i = 0; i < N_PROMPT; i++) prompt[i] = 'a' + i % 26;
    OK(tern_session_eval(session, prompt, N_PROMPT));
    const tern_token token = run(session, sampler, 'x', N_MORE, NULL);

    /* To memory: first how much, then the bytes; and to a file. */
    size_t size = 0, written = 0;
    GIVES(TERN_ERROR_BUFFER_TOO_SMALL, tern_session_write(session, sampler, NULL, 0, &size));
    char *bytes = malloc(size);
    CHECK(size > 1000 && bytes != NULL);
    GIVES(TERN_ERROR_BUFFER_TOO_SMALL,
          tern_session_write(session, sampler, bytes, size - 1, &written));
    CHECK(written == size);
    OK(tern_session_write(session, sampler, bytes, size, &written));
    char path[] = "/tmp/tern-snapshot-XXXXXX";
    const int fd = mkstemp(path);
    CHECK(written == size && fd >= 0);
    close(fd);
    OK(tern_session_save(session, sampler, path));
    (void)run(session, sampler, token, N_MORE, expected);

    for (int way = 0; way < 3; way++) {
        tern_session *twin = make(model, way == 1 ? 256 : 128, kv_dtype);
        tern_sampler *twin_sampler = chooser(5);
        if (way == 2) OK(tern_session_eval(twin, prompt, 7));
        if (way == 0) {
            OK(tern_session_read(twin, twin_sampler, bytes, size));
        } else {
            OK(tern_session_prefetch(path));
            OK(tern_session_restore(twin, twin_sampler, path));
        }
        const float *logits;
        size_t n;
        GIVES(TERN_ERROR_NOT_READY, tern_session_logits(twin, &logits, &n));
        (void)run(twin, twin_sampler, token, N_MORE, found);
        CHECK(memcmp(found, expected, sizeof found) == 0);
        tern_sampler_free(twin_sampler);
        tern_session_free(twin);
    }

    /* What does not fit has its own status, and changes nothing. */
    tern_session *other = make(model, 128, kv_dtype == TERN_KV_F32 ? TERN_KV_F16 : TERN_KV_F32);
    tern_session *twin = make(model, 128, kv_dtype);
    tern_sampler *strange = greedy();
    OK(tern_session_eval(twin, prompt, 3));
    GIVES(TERN_ERROR_SNAPSHOT_LAYOUT, tern_session_restore(other, NULL, path));
    CHECK(strstr(tern_last_error(), "k_dtype: found ") != NULL);
    GIVES(TERN_ERROR_SNAPSHOT_LAYOUT, tern_session_read(twin, strange, bytes, size));
    GIVES(TERN_ERROR_SNAPSHOT_CORRUPT, tern_session_read(twin, NULL, bytes, size - 1));
    bytes[size / 2] ^= 4;
    GIVES(TERN_ERROR_SNAPSHOT_CORRUPT, tern_session_read(twin, NULL, bytes, size));
    bytes[size / 2] ^= 4;
    GIVES(TERN_ERROR_IO, tern_session_restore(twin, NULL, "/no/such/file"));
    GIVES(TERN_ERROR_IO, tern_session_prefetch("/no/such/file"));
    GIVES(TERN_ERROR_IO, tern_session_save(twin, NULL, "/no/such/file"));
    GIVES(TERN_ERROR_INVALID_HANDLE, tern_session_save(twin, (tern_sampler *)twin, path));
    tern_session_info info = TERN_INIT(tern_session_info);
    OK(tern_session_describe(twin, &info));
    CHECK(info.pos == 3 && info.n_kv == 3);
    OK(tern_session_read(twin, NULL, bytes, size));
    OK(tern_session_describe(twin, &info));
    CHECK(info.pos == N_PROMPT + N_MORE);

    unlink(path);
    free(bytes);
    tern_sampler_free(strange);
    tern_sampler_free(sampler);
    tern_session_free(other);
    tern_session_free(twin);
    tern_session_free(session);
}

static void segments(const tern_model *model) {
    tern_session *session = session_of(model, 64);
    const tern_token tokens[] = {'a', 'b', 'c', 'd', 'e', 'f', 'g', 'h', 'i', 'j'};
    tern_kv_segment prompt = TERN_INIT(tern_kv_segment), found = prompt, reading = prompt;
    prompt.to_pos = 5;
    prompt.flags = TERN_KV_SEGMENT_PINNED;
    prompt.priority = 7;
    reading.from_pos = 6;
    reading.to_pos = 8;
    reading.ttl = 4;
    reading.priority = -128;
    OK(tern_session_kv_segment_set(session, "r\xC3\xA9gler", &prompt));
    OK(tern_session_kv_segment_set(session, "reading", &reading));
    OK(tern_session_kv_segment_get(session, "reading", &found));
    CHECK(found.from_pos == 6 && found.to_pos == 8 && found.ttl == 4 && found.flags == 0);
    CHECK(found.priority == -128 && found.struct_size == sizeof found);
    char name[32];
    size_t size = 0;
    OK(tern_session_kv_segment_at(session, 0, name, sizeof name, &size, &found));
    CHECK(strcmp(name, "r\xC3\xA9gler") == 0 && size == 8 && found.to_pos == 5);
    CHECK(found.flags == TERN_KV_SEGMENT_PINNED && found.priority == 7);
    OK(tern_session_kv_segment_at(session, 1, name, sizeof name, &size, &found));
    CHECK(strcmp(name, "reading") == 0 && found.from_pos == 6);
    GIVES(TERN_ERROR_BUFFER_TOO_SMALL,
          tern_session_kv_segment_at(session, 1, name, 7, &size, &found));
    CHECK(size == 8);
    GIVES(TERN_ERROR_INVALID_ARGUMENT,
          tern_session_kv_segment_at(session, 2, name, sizeof name, &size, &found));

    /* What cannot be. */
    GIVES(TERN_ERROR_INVALID_ARGUMENT, tern_session_kv_segment_set(session, "other", &reading));
    CHECK(strstr(tern_last_error(), "overlap") != NULL);
    GIVES(TERN_ERROR_INVALID_ARGUMENT, tern_session_kv_segment_set(session, "\xFF", &reading));
    GIVES(TERN_ERROR_INVALID_ARGUMENT, tern_session_kv_segment_set(session, "", &reading));
    GIVES(TERN_ERROR_INVALID_ARGUMENT, tern_session_kv_segment_get(session, "none", &found));
    GIVES(TERN_ERROR_INVALID_ARGUMENT, tern_session_kv_segment_remove(session, "none"));
    reading.priority = 128;
    GIVES(TERN_ERROR_INVALID_ARGUMENT, tern_session_kv_segment_set(session, "reading", &reading));
    reading.priority = 0;
    reading.flags = 2;
    GIVES(TERN_ERROR_INVALID_ARGUMENT, tern_session_kv_segment_set(session, "reading", &reading));

    /* The reading expires, the prompt stays. */
    tern_session_info info = TERN_INIT(tern_session_info);
    OK(tern_session_eval(session, tokens, 10));
    OK(tern_session_describe(session, &info));
    CHECK(info.n_kv == 10);
    OK(tern_session_eval(session, tokens, 3));
    OK(tern_session_describe(session, &info));
    CHECK(info.n_kv == 11);
    GIVES(TERN_ERROR_INVALID_ARGUMENT, tern_session_kv_segment_get(session, "reading", &found));
    tern_kv_evict_params evict = TERN_INIT(tern_kv_evict_params);
    evict.n_sink = 1;
    evict.n_keep = 6;
    OK(tern_session_kv_evict(session, &evict, NULL));
    evict.n_keep = 4;
    GIVES(TERN_ERROR_KV_FULL, tern_session_kv_evict(session, &evict, NULL)); /* 5 are pinned */
    OK(tern_session_kv_segment_remove(session, "r\xC3\xA9gler"));
    OK(tern_session_kv_evict(session, &evict, NULL));
    tern_session_free(session);
}

static void abilities(const tern_model *model) {
    tern_session *session = session_of(model, 64), *fresh = session_of(model, 64);
    const tern_token tokens[] = {'a', 'b', 'c', 'd', 'e', 'f', 'g', 'h', 'i', 'j'};
    for (tern_kv_op op = TERN_KV_OP_TRUNCATE; op <= TERN_KV_OP_SAVE; op++) {
        GIVES(op == TERN_KV_OP_GROW ? TERN_ERROR_KV_FULL : TERN_OK, tern_session_kv_can(fresh, op));
    }
    GIVES(TERN_ERROR_KV_FULL, tern_session_kv_can(fresh, TERN_KV_OP_EVICT));
    GIVES(TERN_ERROR_NOT_READY, tern_session_kv_can(fresh, TERN_KV_OP_REBUILD));
    GIVES(TERN_ERROR_NOT_READY, tern_session_kv_rebuild(fresh, NULL));
    GIVES(TERN_ERROR_INVALID_ARGUMENT, tern_session_kv_can(fresh, 0));
    GIVES(TERN_ERROR_INVALID_ARGUMENT, tern_session_kv_can(fresh, 7));

    /* What was evicted comes again. */
    OK(tern_session_eval(session, tokens, 10));
    OK(tern_session_kv_can(session, TERN_KV_OP_EVICT));
    OK(tern_session_kv_evict_range(session, 3, 5, NULL));
    GIVES(TERN_ERROR_UNSUPPORTED, tern_session_kv_can(session, TERN_KV_OP_TRUNCATE));
    CHECK(strstr(tern_last_error(), "the first 3 of 10 tokens") != NULL);
    OK(tern_session_kv_can(session, TERN_KV_OP_REBUILD));
    tern_kv_rebuild_params params = TERN_INIT(tern_kv_rebuild_params);
    params.deadline_ns = 1;
    GIVES(TERN_ERROR_DEADLINE, tern_session_kv_rebuild(session, &params));
    tern_session_abort(session);
    GIVES(TERN_ERROR_ABORTED, tern_session_kv_rebuild(session, NULL));
    OK(tern_session_kv_rebuild(session, NULL));
    OK(tern_session_kv_can(session, TERN_KV_OP_TRUNCATE));
    OK(tern_session_eval(fresh, tokens, 10));
    const float *a, *b;
    size_t n = 0, m = 0;
    OK(tern_session_logits(session, &a, &n));
    OK(tern_session_logits(fresh, &b, &m));
    CHECK(n == m && memcmp(a, b, n * sizeof *a) == 0);
    tern_session_free(fresh);
    tern_session_free(session);
}

int main(int argc, char **argv) {
    const char *path = model_path(argc, argv);
    tern_model *model = load(path);
    comes_back(model, TERN_KV_F16);
    comes_back(model, TERN_KV_Q8_0);
    comes_back(model, TERN_KV_F32);
    segments(model);
    abilities(model);
    tern_model_free(model);
    return 0;
}
