/* Every function, used as the header says; and what the header promises of all of them. */
#include "check.h"

#include <fcntl.h>
#include <math.h>
#include <time.h>

static uint64_t now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static void library(void) {
    CHECK(strcmp(tern_status_name(TERN_ERROR_KV_FULL), "TERN_ERROR_KV_FULL") == 0);
    CHECK(strcmp(tern_status_name(-1000), "unknown") == 0);
    CHECK(tern_device_count() >= 1);
    tern_device_info device = TERN_INIT(tern_device_info);
    OK(tern_device_describe(0, &device));
    CHECK(device.kind == TERN_DEVICE_CPU && strncmp(device.name, "cpu (", 5) == 0);
    GIVES(TERN_ERROR_INVALID_ARGUMENT, tern_device_describe(99, &device));
}

static void loading(const char *path) {
    tern_model *const untouched = (tern_model *)(uintptr_t)0x5A5A;
    tern_model *model = untouched;
    GIVES(TERN_ERROR_IO, tern_model_load("no/such/file.gguf", NULL, &model));
    CHECK(model == untouched && strstr(tern_last_error(), "no/such/file.gguf") != NULL);

    /* The same model from the middle of a file, and from memory. */
    FILE *file = fopen(path, "rb");
    CHECK(file != NULL);
    char *bytes = malloc(64 << 20);
    CHECK(bytes != NULL);
    size_t n = fread(bytes + 4096, 1, (64 << 20) - 8192, file);
    CHECK(n > 1000 && feof(file));
    fclose(file);
    OK(tern_model_load_memory(bytes + 4096, n, NULL, &model));
    memset(bytes, 'x', 4096);
    char name[] = "/tmp/tern-conventions-XXXXXX";
    int fd = mkstemp(name);
    CHECK(fd >= 0 && write(fd, bytes, 4096 + n) == (ssize_t)(4096 + n) && write(fd, "x", 1) == 1);
    unlink(name);
    tern_model *from_fd = NULL;
    OK(tern_model_load_fd(fd, 4096, n, NULL, &from_fd));
    GIVES(TERN_ERROR_BAD_FILE, tern_model_load_fd(fd, 0, 0, NULL, &model));
    close(fd);
    memset(bytes, 0, 64 << 20); /* the models have their own copies */
    free(bytes);

    tern_model_info a = TERN_INIT(tern_model_info), b = TERN_INIT(tern_model_info);
    OK(tern_model_describe(model, &a));
    OK(tern_model_describe(from_fd, &b));
    CHECK(a.n_vocab == b.n_vocab && a.n_params == b.n_params && strcmp(a.arch, b.arch) == 0);
    tern_session *session = session_of(from_fd, 64);
    tern_model_free(from_fd);
    const tern_token tokens[] = {65, 66, 67};
    OK(tern_session_eval(session, tokens, 3)); /* the session keeps its model */
    tern_session_free(session);
    tern_model_free(model);

    for (uint32_t mode = TERN_LOAD_COPY; mode <= TERN_LOAD_MAP_FAST; mode++) {
        tern_model_params params = TERN_INIT(tern_model_params);
        params.load_mode = mode;
        OK(tern_model_load(path, &params, &model));
        tern_model_free(model);
    }
    tern_model_params params = TERN_INIT(tern_model_params);
    params.load_mode = 4;
    GIVES(TERN_ERROR_INVALID_ARGUMENT, tern_model_load(path, &params, &model));

    tern_plan_info plan = TERN_INIT(tern_plan_info);
    tern_session_params small = TERN_INIT(tern_session_params);
    small.n_ctx = 64;
    OK(tern_model_plan(path, NULL, &small, &plan));
    CHECK(plan.kv_bytes > 0 && plan.scratch_bytes > 0 && plan.vocab_bytes > 0);
    CHECK(plan.total_bytes
          == plan.weights_bytes + plan.kv_bytes + plan.scratch_bytes + plan.vocab_bytes);
    uint64_t kv_bytes = plan.kv_bytes;
    small.n_ctx = 128;
    OK(tern_model_plan(path, NULL, &small, &plan));
    CHECK(plan.kv_bytes > kv_bytes);
}

static int stop_at(void *user_data, uint64_t done, uint64_t total) {
    CHECK(done <= total);
    return (*(int *)user_data)-- == 0;
}

static void packing(const char *path) {
    char packed[] = "/tmp/tern-packing-XXXXXX";
    int fd = mkstemp(packed), reports = 2;
    CHECK(fd >= 0);
    close(fd);
    GIVES(TERN_ERROR_ABORTED, tern_model_pack(path, packed, stop_at, &reports));
    reports = 1 << 20;
    OK(tern_model_pack(path, packed, stop_at, &reports));
    CHECK(reports < (1 << 20) - 2);
    GIVES(TERN_ERROR_INVALID_ARGUMENT, tern_model_pack(path, path, NULL, NULL));
    GIVES(TERN_ERROR_INVALID_ARGUMENT, tern_model_pack(path, NULL, NULL, NULL));
    GIVES(TERN_ERROR_IO, tern_model_pack(path, "/tmp", NULL, NULL));

    /* Both say the same. */
    tern_model *models[] = {load(path), load(packed)};
    GIVES(TERN_ERROR_UNSUPPORTED, tern_model_pack(packed, "/tmp/tern-twice", NULL, NULL));
    unlink(packed);
    const tern_token tokens[] = {65, 66, 67};
    const float *logits[2];
    tern_session *sessions[2];
    size_t n = 0;
    for (int i = 0; i < 2; i++) {
        sessions[i] = session_of(models[i], 64);
        OK(tern_session_eval(sessions[i], tokens, 3));
        OK(tern_session_logits(sessions[i], &logits[i], &n));
    }
    CHECK(n > 0 && memcmp(logits[0], logits[1], n * sizeof(float)) == 0);
    for (int i = 0; i < 2; i++) {
        tern_session_free(sessions[i]);
        tern_model_free(models[i]);
    }
}

static void describing(const tern_model *model) {
    tern_model_info info = TERN_INIT(tern_model_info);
    OK(tern_model_describe(model, &info));
    CHECK(info.n_vocab > 0 && info.n_layer > 0 && info.n_head > 0 && info.n_params > 0);
    const char *key, *value, *again;
    size_t length, length_again;
    OK(tern_model_metadata(model, "general.architecture", &value, &length));
    CHECK(strcmp(value, info.arch) == 0 && strlen(value) == length);
    OK(tern_model_metadata(model, "no.such.key", &value, &length));
    CHECK(value == NULL && length == 0);
    CHECK(info.n_metadata > 10);
    for (uint32_t i = 0; i < info.n_metadata; i++) {
        OK(tern_model_metadata_at(model, i, &key, &value, &length));
        OK(tern_model_metadata(model, key, &again, &length_again));
        CHECK(again == value && length_again == length && value[length] == '\0');
    }
    GIVES(TERN_ERROR_INVALID_ARGUMENT,
          tern_model_metadata_at(model, info.n_metadata, &key, &value, &length));
    OK(tern_model_metadata(model, "tokenizer.ggml.tokens", &value, &length));
    CHECK(strncmp(value, "string[", 7) == 0 && strtoul(value + 7, NULL, 10) == info.n_vocab);
}

static void text(const tern_model *model) {
    const char *const words = "the rain in Spain \xC3\xA9\xF0\x9F\x98\x80";
    const size_t length = strlen(words);
    tern_token tokens[128];
    size_t n = 7, n_again = 0;
    GIVES(TERN_ERROR_BUFFER_TOO_SMALL,
          tern_model_tokenize(model, words, length, 0, NULL, 0, &n));
    CHECK(n > 0 && n < 128);
    tokens[0] = tokens[n - 1] = -7;
    GIVES(TERN_ERROR_BUFFER_TOO_SMALL,
          tern_model_tokenize(model, words, length, 0, tokens, n - 1, &n_again));
    CHECK(n_again == n && tokens[0] == -7);
    OK(tern_model_tokenize(model, words, length, 0, tokens, n, &n_again));
    CHECK(n_again == n && tokens[0] >= 0);
    OK(tern_model_tokenize(model, NULL, 0, 0, NULL, 0, &n_again)); /* no text, no tokens */
    CHECK(n_again == 0);
    GIVES(TERN_ERROR_INVALID_ARGUMENT,
          tern_model_tokenize(model, "\xFF", 1, 0, tokens, 128, &n_again));
    GIVES(TERN_ERROR_INVALID_ARGUMENT,
          tern_model_tokenize(model, words, length, 4, tokens, 128, &n_again));

    char back[256];
    size_t back_length = 0;
    GIVES(TERN_ERROR_BUFFER_TOO_SMALL,
          tern_model_detokenize(model, tokens, n, 0, NULL, 0, &back_length));
    CHECK(back_length == length);
    OK(tern_model_detokenize(model, tokens, n, 0, back, sizeof back, &back_length));
    CHECK(back_length == length && memcmp(back, words, length) == 0);
    size_t at = 0;
    for (size_t i = 0; i < n; i++) {
        const char *piece;
        size_t piece_length;
        OK(tern_model_token_piece(model, tokens[i], &piece, &piece_length));
        CHECK(at + piece_length <= length && memcmp(words + at, piece, piece_length) == 0);
        at += piece_length;
    }
    CHECK(at == length);
    const tern_token wrong = -1;
    GIVES(TERN_ERROR_INVALID_ARGUMENT,
          tern_model_detokenize(model, &wrong, 1, 0, back, sizeof back, &back_length));

    tern_model_info info = TERN_INIT(tern_model_info);
    OK(tern_model_describe(model, &info));
    CHECK(tern_model_token_is_eog(model, info.eos));
    CHECK(!tern_model_token_is_eog(model, tokens[0]) && !tern_model_token_is_eog(model, -1));

    const char *template;
    size_t template_length;
    OK(tern_model_chat_template(model, &template, &template_length));
    CHECK(template != NULL && template_length > 0);
    const tern_chat_message messages[] = {
        {"system", "Be brief.", 9},
        {"user", "Who are you? [and more]", 12},
    };
    char prompt[512];
    size_t prompt_length, longer;
    OK(tern_model_chat_format(model, messages, 2, 0, prompt, sizeof prompt, &prompt_length));
    GIVES(TERN_ERROR_BUFFER_TOO_SMALL,
          tern_model_chat_format(model, messages, 2, 1, prompt, prompt_length, &longer));
    CHECK(longer > prompt_length);
    OK(tern_model_chat_format(model, messages, 2, 1, prompt, sizeof prompt, &longer));
    prompt[longer] = '\0';
    CHECK(strstr(prompt, "Be brief.") != NULL && strstr(prompt, "Who are you?") != NULL);
    CHECK(strstr(prompt, "[and more]") == NULL);
    GIVES(TERN_ERROR_INVALID_ARGUMENT,
          tern_model_chat_format(model, messages, 2, 2, prompt, sizeof prompt, &longer));
}

static void evaluating(const tern_model *model) {
    tern_model_info shape = TERN_INIT(tern_model_info);
    OK(tern_model_describe(model, &shape));
    tern_session_params params = TERN_INIT(tern_session_params);
    params.n_ctx = 32;
    params.n_logits = 3;
    params.n_threads = 2;
    params.n_threads_prefill = 1;
    tern_session *session;
    OK(tern_session_new(model, &params, &session));
    tern_sampler *sampler = greedy();

    const float *logits = NULL;
    size_t n = 0;
    tern_token token = -7;
    GIVES(TERN_ERROR_NOT_READY, tern_session_logits(session, &logits, &n));
    GIVES(TERN_ERROR_NOT_READY, tern_session_logits_at(session, 0, &logits, &n));
    GIVES(TERN_ERROR_NOT_READY, tern_sampler_sample(sampler, session, &token));
    CHECK(logits == NULL && n == 0 && token == -7);

    tern_token tokens[33];
    for (int i = 0; i < 33; i++) tokens[i] = 'a' + i % 26;
    OK(tern_session_eval(session, tokens, 8));
    OK(tern_session_logits(session, &logits, &n));
    CHECK(n == shape.n_vocab);
    size_t best = 0;
    for (size_t i = 1; i < n; i++) {
        CHECK(isfinite(logits[i]));
        if (logits[i] > logits[best]) best = i;
    }
    OK(tern_sampler_sample(sampler, session, &token));
    CHECK((size_t)token == best);

    /* Too much at once changes nothing. */
    GIVES(TERN_ERROR_KV_FULL, tern_session_eval(session, tokens, 25));
    tern_session_info info = TERN_INIT(tern_session_info);
    OK(tern_session_describe(session, &info));
    CHECK(info.n_ctx == 32 && info.n_kv == 8 && info.pos == 8 && info.kv_bytes > 0);
    CHECK(info.struct_size == sizeof info && info.n_prefill == 8);

    /* Chosen positions are those of one eval after another. */
    float *expected = malloc(3 * n * sizeof *expected);
    CHECK(expected != NULL);
    const uint32_t positions[] = {0, 2, 3};
    for (uint32_t i = 0, row = 0; i < 4; i++) {
        OK(tern_session_eval(session, &tokens[8 + i], 1));
        if (i == positions[row]) {
            OK(tern_session_logits(session, &logits, &n));
            memcpy(expected + row++ * n, logits, n * sizeof *logits);
        }
    }
    OK(tern_session_kv_truncate(session, 8));
    tern_eval_params eval = TERN_INIT(tern_eval_params);
    eval.logits = TERN_LOGITS_POSITIONS;
    eval.positions = positions;
    eval.n_positions = 3;
    OK(tern_session_eval_with(session, tokens + 8, 4, &eval));
    for (size_t i = 0; i < 3; i++) {
        OK(tern_session_logits_at(session, i, &logits, &n));
        CHECK(memcmp(expected + i * n, logits, n * sizeof *logits) == 0);
    }
    free(expected);
    GIVES(TERN_ERROR_INVALID_ARGUMENT, tern_session_logits_at(session, 3, &logits, &n));
    eval.logits = TERN_LOGITS_LAST;
    GIVES(TERN_ERROR_INVALID_ARGUMENT, tern_session_eval_with(session, tokens, 1, &eval));
    eval.positions = NULL;
    eval.n_positions = 0;
    eval.logits = TERN_LOGITS_NONE;
    OK(tern_session_eval_with(session, tokens, 1, &eval));
    GIVES(TERN_ERROR_NOT_READY, tern_session_logits(session, &logits, &n));
    eval.logits = TERN_LOGITS_BEST;
    OK(tern_session_eval_with(session, tokens, 1, &eval));
    GIVES(TERN_ERROR_NOT_READY, tern_session_logits(session, &logits, &n));
    OK(tern_session_kv_truncate(session, 13));
    eval.logits = 4;
    GIVES(TERN_ERROR_INVALID_ARGUMENT, tern_session_eval_with(session, tokens, 1, &eval));
    eval.logits = TERN_LOGITS_LAST;
    eval.deadline_ns = 1; /* long ago */
    GIVES(TERN_ERROR_DEADLINE, tern_session_eval_with(session, tokens, 1, &eval));
    eval.deadline_ns = now_ns() + 3600ull * 1000000000u;
    OK(tern_session_eval_with(session, tokens, 1, &eval));
    OK(tern_session_describe(session, &info));
    CHECK(info.n_kv == 14 && info.pos == 14);

    /* Drafts change nothing but the number of calls. */
    tern_session_params with_drafts = TERN_INIT(tern_session_params);
    with_drafts.n_ctx = 64;
    with_drafts.n_logits = 4;
    tern_session *drafting = NULL;
    tern_sampler *greedily = greedy();
    OK(tern_session_new(model, &with_drafts, &drafting));
    OK(tern_session_eval(drafting, tokens, 12));
    tern_token one_by_one[20], generated[20];
    for (int i = 0; i < 20; i++) {
        OK(tern_sampler_sample(greedily, drafting, &one_by_one[i]));
        OK(tern_session_eval(drafting, &one_by_one[i], 1));
    }
    OK(tern_session_kv_truncate(drafting, 11));
    OK(tern_session_eval(drafting, tokens + 11, 1));
    tern_generate_params generate = TERN_INIT(tern_generate_params);
    generate.n_draft = 3;
    for (size_t done = 0; done < 20; done += n) {
        size_t room = 20 - done < 4 ? 20 - done : 4;
        OK(tern_session_generate(drafting, greedily, &generate, generated + done, room, &n));
        CHECK(n >= 1 && n <= room);
    }
    CHECK(memcmp(one_by_one, generated, sizeof generated) == 0);
    OK(tern_session_describe(drafting, &info));
    CHECK(info.pos == 32 && info.n_accepted <= info.n_drafted);
    generate.n_draft = 4;
    GIVES(TERN_ERROR_INVALID_ARGUMENT,
          tern_session_generate(drafting, greedily, &generate, generated, 4, &n));
    generate.n_draft = 0;
    generate.deadline_ns = 1;
    GIVES(TERN_ERROR_DEADLINE,
          tern_session_generate(drafting, greedily, &generate, generated, 4, &n));
    tern_session_free(drafting);
    tern_sampler_free(greedily);

    /* A fork goes its own way. */
    tern_session *fork = NULL;
    OK(tern_session_fork(session, &fork));
    OK(tern_session_eval(fork, tokens, 5));
    OK(tern_session_describe(fork, &info));
    CHECK(info.pos == 19);
    OK(tern_session_describe(session, &info));
    CHECK(info.pos == 14);
    tern_session_free(fork);

    /* Eviction: by window, then by range. Positions stay. */
    tern_kv_evict_params evict = TERN_INIT(tern_kv_evict_params);
    evict.n_sink = 2;
    evict.n_keep = 10;
    size_t n_evicted = 0;
    OK(tern_session_kv_evict(session, &evict, &n_evicted));
    CHECK(n_evicted == 4);
    OK(tern_session_kv_evict_range(session, 0, 1, &n_evicted));
    CHECK(n_evicted == 1);
    OK(tern_session_kv_evict_range(session, 3, 3, NULL));
    GIVES(TERN_ERROR_INVALID_ARGUMENT, tern_session_kv_evict_range(session, 4, 3, NULL));
    OK(tern_session_describe(session, &info));
    CHECK(info.n_kv == 9 && info.pos == 14 && info.n_evicted == 5);
    evict.policy = 77;
    GIVES(TERN_ERROR_INVALID_ARGUMENT, tern_session_kv_evict(session, &evict, NULL));
    evict.policy = TERN_KV_POLICY_HYBRID; /* which counts what nobody has counted here */
    GIVES(TERN_ERROR_UNSUPPORTED, tern_session_kv_evict(session, &evict, NULL));

    /* A dry run says what would leave, and nothing does. */
    tern_kv_plan_info plan = TERN_INIT(tern_kv_plan_info);
    uint32_t gone[4];
    size_t n_gone = 0;
    evict.policy = TERN_KV_POLICY_STREAMING;
    evict.n_keep = 7;
    OK(tern_session_kv_evict_plan(session, &evict, &plan, gone, 4, &n_gone));
    CHECK(n_gone == 2 && gone[0] == 6 && gone[1] == 7);
    CHECK(plan.n_slots > 0 && plan.n_slots % 2 == 0 && plan.bytes % plan.n_slots == 0);
    GIVES(TERN_ERROR_BUFFER_TOO_SMALL,
          tern_session_kv_evict_plan(session, &evict, &plan, gone, 1, &n_gone));
    CHECK(n_gone == 2);
    OK(tern_session_describe(session, &info));
    CHECK(info.n_kv == 9 && info.n_evictions == 2);

    /* A policy that reads again what is held, in any session, or stops when it is told to. */
    evict.policy = TERN_KV_POLICY_KVZIP;
    tern_session_abort(session);
    GIVES(TERN_ERROR_ABORTED, tern_session_kv_evict(session, &evict, NULL));
    OK(tern_session_describe(session, &info));
    CHECK(info.n_kv == 9 && info.pos == 14);
    OK(tern_session_kv_evict(session, &evict, &n_evicted));
    CHECK(n_evicted == 2);
    OK(tern_session_describe(session, &info));
    CHECK(info.n_kv == 7 && info.pos == 14 && info.n_evictions == 3);
    CHECK(info.kv_budget == 0);
    tern_session_kv_set_budget(NULL, 1);
    OK(tern_session_kv_truncate(session, 0));
    OK(tern_session_describe(session, &info));
    CHECK(info.n_kv == 0);

    OK(tern_session_set_threads(session, 2, 1));
    OK(tern_session_set_threads(session, 1, 0));
    GIVES(TERN_ERROR_INVALID_ARGUMENT, tern_session_set_threads(session, 0, 1));
    GIVES(TERN_ERROR_INVALID_ARGUMENT, tern_session_set_threads(session, 3, 1));
    OK(tern_session_eval(session, tokens, 4));
    tern_session_abort(session);
    GIVES(TERN_ERROR_ABORTED, tern_session_eval(session, tokens, 4));
    OK(tern_session_eval(session, tokens, 4)); /* once */
    tern_session_free(session);

    /* Generation without end. */
    params.when_full = TERN_WHEN_FULL_EVICT;
    OK(tern_session_new(model, &params, &session));
    for (int i = 0; i < 100; i++) OK(tern_session_eval(session, &tokens[i % 26], 1));
    OK(tern_session_describe(session, &info));
    CHECK(info.n_kv <= 32 && info.n_evicted >= 68 && info.n_kv + info.n_evicted == 100);
    tern_session_free(session);

    params.when_full = 2;
    GIVES(TERN_ERROR_INVALID_ARGUMENT, tern_session_new(model, &params, &session));
    params.when_full = 0;
    params.kv_dtype = 8;
    GIVES(TERN_ERROR_INVALID_ARGUMENT, tern_session_new(model, &params, &session));
    params.kv_dtype = TERN_KV_F16;
    params.kv_policy = TERN_KV_POLICY_KVZIP; /* on request alone */
    GIVES(TERN_ERROR_UNSUPPORTED, tern_session_new(model, &params, &session));
    params.kv_policy = TERN_KV_POLICY_DEFAULT;
    params.v_dtype = TERN_KV_BALANCED; /* for both alone */
    GIVES(TERN_ERROR_INVALID_ARGUMENT, tern_session_new(model, &params, &session));

    /* Keys and values in types of their own: smaller in that order. */
    const tern_kv_dtype types[][3] = {{TERN_KV_F32, 0, 0},
                                      {TERN_KV_F32, 0, TERN_KV_Q8_0},
                                      {TERN_KV_F16, 0, 0},
                                      {TERN_KV_F16, TERN_KV_Q8_0, 0},
                                      {TERN_KV_Q8_0, 0, 0},
                                      {TERN_KV_BALANCED, 0, 0},
                                      {TERN_KV_TINY, 0, 0},
                                      {TERN_KV_Q5_H, 0, 0},
                                      {TERN_KV_SMALL, 0, 0},
                                      {TERN_KV_Q4_0, 0, 0}};
    uint64_t before = UINT64_MAX;
    const uint32_t n_ctx = params.n_ctx;
    params.n_ctx = 1024; /* so that the first 4 positions, in half precision, are a small part */
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
        params.kv_dtype = types[i][0];
        params.k_dtype = types[i][1];
        params.v_dtype = types[i][2];
        OK(tern_session_new(model, &params, &session));
        OK(tern_session_eval(session, tokens, 4));
        OK(tern_session_describe(session, &info));
        CHECK(info.kv_bytes < before);
        before = info.kv_bytes;
        tern_session_free(session);
    }
    params.n_ctx = n_ctx;
    tern_sampler_free(sampler);
}

static void sampling(const tern_model *model) {
    tern_session *session = session_of(model, 64);
    const tern_token prompt[] = {'t', 'h', 'e', ' '};
    OK(tern_session_eval(session, prompt, 4));
    const tern_logit_bias bias[] = {{'x', 100.0f}, {'y', 99.0f}, {'z', -INFINITY}};
    tern_sampler_params params = TERN_INIT(tern_sampler_params);
    params.temperature = 0.8f;
    params.top_k = 20;
    params.seed = 7;
    params.n_logprobs = 2;
    tern_sampler *sampler;
    const tern_token_logprob *list;
    size_t n;
    tern_token first[8], token;
    OK(tern_sampler_new(&params, &sampler));
    OK(tern_sampler_logprobs(sampler, &list, &n));
    CHECK(n == 0);
    for (int i = 0; i < 8; i++) {
        OK(tern_sampler_sample(sampler, session, &first[i]));
        OK(tern_sampler_logprobs(sampler, &list, &n));
        CHECK(n == 3 && list[0].token == first[i]);
        CHECK(list[1].logprob >= list[2].logprob && list[1].logprob >= list[0].logprob);
        CHECK(list[0].logprob <= 0.0f);
    }
    OK(tern_sampler_reset(sampler));
    for (int i = 0; i < 8; i++) {
        OK(tern_sampler_sample(sampler, session, &token));
        CHECK(token == first[i]);
    }
    tern_sampler_free(sampler);

    params = (tern_sampler_params)TERN_INIT(tern_sampler_params);
    params.logit_bias = bias;
    params.n_logit_bias = 3;
    params.presence_penalty = 50.0f;
    OK(tern_sampler_new(&params, &sampler));
    OK(tern_sampler_sample(sampler, session, &token));
    CHECK(token == 'x');
    OK(tern_sampler_sample(sampler, session, &token)); /* 'x' has been seen, and is penalised */
    CHECK(token == 'y');
    OK(tern_sampler_reset(sampler));
    OK(tern_sampler_accept(sampler, 'x'));
    OK(tern_sampler_sample(sampler, session, &token));
    CHECK(token == 'y');
    GIVES(TERN_ERROR_INVALID_ARGUMENT, tern_sampler_accept(sampler, -1));
    tern_sampler_free(sampler);

    params.temperature = NAN;
    GIVES(TERN_ERROR_INVALID_ARGUMENT, tern_sampler_new(&params, &sampler));
    params.temperature = 0;
    params.reserved = 1;
    GIVES(TERN_ERROR_UNSUPPORTED, tern_sampler_new(&params, &sampler));
    tern_session_free(session);
}

/* What screens a head is planned, and chooses the token that the whole head does. */
static void screened_head(const char *path) {
    tern_model_params how = TERN_INIT(tern_model_params);
    tern_plan_info whole = TERN_INIT(tern_plan_info), screened = TERN_INIT(tern_plan_info);
    OK(tern_model_plan(path, &how, NULL, &whole));
    how.screened_head = 1;
    OK(tern_model_plan(path, &how, NULL, &screened));
    CHECK(screened.weights_bytes > whole.weights_bytes);
    tern_model *model;
    OK(tern_model_load(path, &how, &model));
    tern_session_params params = TERN_INIT(tern_session_params);
    params.n_ctx = 32;
    tern_session *session;
    OK(tern_session_new(model, &params, &session));
    tern_sampler *sampler;
    OK(tern_sampler_new(NULL, &sampler));
    tern_eval_params eval = TERN_INIT(tern_eval_params);
    const tern_token tokens[] = {1, 2, 3};
    tern_token chosen[2];
    eval.logits = TERN_LOGITS_BEST;
    OK(tern_session_eval_with(session, tokens, 3, &eval));
    OK(tern_sampler_sample(sampler, session, &chosen[0]));
    OK(tern_session_kv_truncate(session, 0));
    OK(tern_session_eval(session, tokens, 3));
    OK(tern_sampler_sample(sampler, session, &chosen[1]));
    CHECK(chosen[0] == chosen[1]);
    tern_sampler_free(sampler);
    tern_session_free(session);
    tern_model_free(model);
}

static void threads_and_memory(const char *path) {
    tern_model_params how = TERN_INIT(tern_model_params);
    how.lock_memory = TERN_LOCK_TRY;
    how.huge_pages = TERN_HUGE_PAGES_TRANSPARENT;
    tern_model *model;
    OK(tern_model_load(path, &how, &model));
    tern_model_info shape = TERN_INIT(tern_model_info);
    OK(tern_model_describe(model, &shape));
    tern_model *none = NULL;
    how.lock_memory = 3;
    GIVES(TERN_ERROR_INVALID_ARGUMENT, tern_model_load(path, &how, &none));
    how.lock_memory = 0;
    how.huge_pages = 3;
    GIVES(TERN_ERROR_INVALID_ARGUMENT, tern_model_load(path, &how, &none));

    tern_session_params params = TERN_INIT(tern_session_params);
    params.n_ctx = 32;
    params.lock_memory = TERN_LOCK_TRY;
    params.huge_pages = TERN_HUGE_PAGES_NEVER;
    tern_session *session, *fork;
    OK(tern_session_new(model, &params, &session));
    tern_session_info info = TERN_INIT(tern_session_info);
    OK(tern_session_describe(session, &info));
    CHECK(info.n_threads >= 1 && info.n_threads_prefill >= 1);
    CHECK(info.locked_bytes == 0 || info.locked_bytes >= info.kv_bytes);
    OK(tern_session_set_threads(session, 1, 1));
    OK(tern_session_fork(session, &fork));
    OK(tern_session_describe(fork, &info));
    CHECK(info.n_threads == 1 && info.n_threads_prefill == 1);
    tern_session_free(fork);
    tern_session_free(session);
    params.lock_memory = 3;
    GIVES(TERN_ERROR_INVALID_ARGUMENT, tern_session_new(model, &params, &session));
    params.lock_memory = 0;
    params.huge_pages = 3;
    GIVES(TERN_ERROR_INVALID_ARGUMENT, tern_session_new(model, &params, &session));
    tern_model_free(model);
}

int main(int argc, char **argv) {
    const char *path = model_path(argc, argv);
    library();
    loading(path);
    threads_and_memory(path);
    screened_head(path);
    packing(path);
    tern_model *model = load(path);
    describing(model);
    text(model);
    evaluating(model);
    sampling(model);
    tern_model_free(model);
    return 0;
}
