/* Scenarios of a session's life, and what runs them while something fails: the N-th of what a scenario
 * asks for, for every N there is. Whatever it was, the call gives a status that it may give or succeeds,
 * the same call does then what it always does, to the bit, and in the end as much is held as before.
 *
 * Each scenario runs in a child, so that an end of the process is seen; its parent starts another one
 * behind that N. A program that includes this says what fails: */
#ifndef SCENARIOS_H
#define SCENARIOS_H

#include "check.h"

#include <fcntl.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/wait.h>

/* Ways to fail, numbered from 0. */
static int n_ways(void);
/* How a way is called. */
static const char *way_name(int way);
/* From now on it is noted what is asked for; no more; whether anything was that can fail this way. */
static void begin_noting(void);
static void end_noting(void);
static int is_asked(int way);
/* From now on what is asked for fails this way, `at` of it later. */
static void begin_failing(int way, long at);
/* Nothing fails any more; how often it has. */
static long end_failing(void);
/* Whether a call may give this status because something failed that way. */
static int may_give(int way, tern_status status);
/* How much is held that is to be given back. */
static long n_held(void);

/* --- What scenarios are about ------------------------------------------------------------------------ */

static const char *path;
static char packed[64], saved[64], out[64];
static tern_model *model;
static tern_session *session, *other;
static tern_sampler *sampler;
static tern_decoder *decoder;
static unsigned char *bytes; /* of the model's file, then of a snapshot */
static size_t n_bytes;
static tern_token tokens[512];
static char text[4096];
static uint64_t found;

#define N_PROMPT 150

static void mix(const void *data, size_t n) {
    const unsigned char *const byte = data;
    for (size_t i = 0; i < n; i++) {
        found = (found ^ byte[i]) * 1099511628211u;
    }
}

static void mix_logits(const tern_session *of) {
    const float *logits;
    size_t n;
    if (tern_session_logits(of, &logits, &n) == TERN_OK) {
        mix(logits, n * sizeof *logits);
    }
}

/* A call that may fail for want of memory, and in no other way. */
#define TRY(call)                                                                              \
    do {                                                                                       \
        const tern_status try_found = (call);                                                  \
        if (try_found != TERN_OK) {                                                            \
            return try_found;                                                                  \
        }                                                                                      \
    } while (0)

static tern_session_params params(void) {
    tern_session_params p = TERN_INIT(tern_session_params);
    p.n_ctx = 400;
    p.n_batch = 64;
    p.n_threads = 2;
    return p;
}

static void make_session(tern_session_params p) {
    OK(tern_session_new(model, &p, &session));
    OK(tern_session_eval(session, tokens, N_PROMPT));
}

static void plain(void) { make_session(params()); }

static tern_session_params budgeted(void) {
    tern_session_params p = params();
    p.kv_policy = TERN_KV_POLICY_HYBRID;
    p.kv_dtype = TERN_KV_BALANCED;
    p.kv_budget = 100;
    return p;
}

static void with_budget(void) { make_session(budgeted()); }

static tern_session_params sharing(void) {
    tern_session_params p = params();
    p.kv_share = 1;
    return p;
}

static void with_sampler(void) {
    plain();
    OK(tern_sampler_new(NULL, &sampler));
}

static void free_all(void) {
    tern_session_free(session);
    tern_session_free(other);
    tern_sampler_free(sampler);
    tern_decoder_free(decoder);
    session = other = NULL;
    sampler = NULL;
    decoder = NULL;
}

/* --- Scenarios: what is starved, and what there is before --------------------------------------------- */

static tern_status load_as(const char *of, tern_load_mode mode, uint32_t screened) {
    tern_model_params p = TERN_INIT(tern_model_params);
    p.load_mode = mode;
    p.screened_head = screened;
    tern_model *loaded;
    TRY(tern_model_load(of, &p, &loaded));
    tern_model_info info = TERN_INIT(tern_model_info);
    const tern_status described = tern_model_describe(loaded, &info);
    mix(&info.n_params, sizeof info.n_params);
    tern_model_free(loaded);
    return described;
}

static tern_status load_copy(void) { return load_as(path, TERN_LOAD_COPY, 0); }
static tern_status load_guarded(void) { return load_as(path, TERN_LOAD_MAP_GUARDED, 0); }
static tern_status load_fast(void) { return load_as(path, TERN_LOAD_MAP_FAST, 0); }
static tern_status load_screened(void) { return load_as(path, TERN_LOAD_DEFAULT, 1); }
static tern_status load_packed(void) { return load_as(packed, TERN_LOAD_DEFAULT, 0); }

static tern_status load_fd(void) {
    const int fd = open(path, O_RDONLY | O_CLOEXEC);
    tern_model *loaded;
    const tern_status status = tern_model_load_fd(fd, 0, 0, NULL, &loaded);
    close(fd);
    if (status == TERN_OK) {
        tern_model_free(loaded);
    }
    return status;
}

static tern_status load_memory(void) {
    tern_model *loaded;
    TRY(tern_model_load_memory(bytes, n_bytes, NULL, &loaded));
    tern_model_free(loaded);
    return TERN_OK;
}

static tern_status plan(void) {
    tern_plan_info info = TERN_INIT(tern_plan_info);
    const tern_session_params p = params();
    TRY(tern_model_plan(path, NULL, &p, &info));
    mix(&info, sizeof info);
    return TERN_OK;
}

static tern_status pack(void) {
    TRY(tern_model_pack(path, out, NULL, NULL));
    CHECK(remove(out) == 0); /* unlink() may be one of those that fail */
    return TERN_OK;
}

static tern_status tokenize(void) {
    static const char said[] = "The tern and the other birds <turn> on the sea \xF0\x9F\x90\xA6 in 1900.\n";
    size_t n;
    char many[sizeof said * 20];
    for (size_t i = 0; i < 20; i++) {
        memcpy(many + i * (sizeof said - 1), said, sizeof said);
    }
    static tern_token ids[4096];
    TRY(tern_model_tokenize(model, many, 20 * (sizeof said - 1), 3, ids, 4096, &n));
    mix(ids, n * sizeof *ids);
    size_t length;
    static char back[8192];
    TRY(tern_model_detokenize(model, ids, n, 0, back, sizeof back, &length));
    mix(back, length);
    return TERN_OK;
}

static tern_status chat(void) {
    const tern_chat_message messages[] = {
        {"system", "Be brief.", 9}, {"user", "Where do terns live?", 20}, {"assistant", "At sea.", 7}};
    size_t n;
    TRY(tern_model_chat_format(model, messages, 3, 1, text, sizeof text, &n));
    mix(text, n);
    return TERN_OK;
}

static tern_status look_up(void) {
    const char *key, *value;
    size_t n;
    for (uint32_t i = 0; i < 5; i++) {
        TRY(tern_model_metadata_at(model, i, &key, &value, &n));
        mix(value, n);
    }
    TRY(tern_model_chat_template(model, &value, &n));
    mix(value, n);
    TRY(tern_model_token_piece(model, 70, &value, &n));
    mix(value, n);
    tern_device_info device = TERN_INIT(tern_device_info);
    return tern_device_describe(0, &device);
}

static tern_status decode_text(void) {
    tern_decoder_free(decoder);
    decoder = NULL;
    TRY(tern_decoder_new(model, &decoder));
    const char *said;
    size_t n;
    for (size_t i = 0; i < 40; i++) {
        TRY(tern_decoder_push(decoder, tokens[i], &said, &n));
        mix(said, n);
    }
    TRY(tern_decoder_flush(decoder, &said, &n));
    mix(said, n);
    return tern_decoder_reset(decoder);
}

static tern_status new_session_of(tern_session_params p) {
    TRY(tern_session_new(model, &p, &session));
    tern_session_info info = TERN_INIT(tern_session_info);
    TRY(tern_session_describe(session, &info));
    mix(&info.kv_bytes, sizeof info.kv_bytes);
    tern_session_free(session);
    session = NULL;
    return TERN_OK;
}

static tern_status new_session(void) { return new_session_of(params()); }

/* With threads as measured. */
static tern_status new_session_by_default(void) {
    const tern_session_params p = TERN_INIT(tern_session_params);
    return new_session_of(p);
}

static tern_status new_session_with_budget(void) { return new_session_of(budgeted()); }
static tern_status new_session_that_shares(void) { return new_session_of(sharing()); }

static void empty(void) {
    tern_session_params p = params();
    OK(tern_session_new(model, &p, &session));
}

static tern_status prefill(void) { return tern_session_eval(session, tokens, N_PROMPT); }

static tern_status decode(void) {
    TRY(tern_session_eval(session, tokens, 1));
    tern_eval_params p = TERN_INIT(tern_eval_params);
    p.logits = TERN_LOGITS_BEST;
    return tern_session_eval_with(session, tokens, 1, &p);
}

static tern_status sample(void) {
    static const tern_logit_bias bias[] = {{70, 1.0f}, {71, -2.0f}};
    tern_sampler_free(sampler);
    sampler = NULL;
    tern_sampler_params p = TERN_INIT(tern_sampler_params);
    p.temperature = 0.8f;
    p.repeat_penalty = 1.2f;
    p.penalty_last_n = 64;
    p.n_logprobs = 5;
    p.logit_bias = bias;
    p.n_logit_bias = 2;
    TRY(tern_sampler_new(&p, &sampler));
    tern_token token;
    for (int i = 0; i < 5; i++) {
        TRY(tern_sampler_sample(sampler, session, &token));
        mix(&token, sizeof token);
    }
    const tern_token_logprob *list;
    size_t n;
    TRY(tern_sampler_logprobs(sampler, &list, &n));
    mix(list, n * sizeof *list);
    TRY(tern_sampler_accept(sampler, token));
    return tern_sampler_reset(sampler);
}

static tern_status generate(void) {
    tern_generate_params p = TERN_INIT(tern_generate_params);
    tern_token made[32];
    size_t n;
    TRY(tern_session_generate(session, sampler, &p, made, 32, &n));
    mix(made, n * sizeof *made);
    return TERN_OK;
}

static tern_status evict_by(tern_kv_policy policy) {
    tern_kv_evict_params p = TERN_INIT(tern_kv_evict_params);
    p.policy = policy;
    p.n_keep = 60;
    size_t n;
    return tern_session_kv_evict(session, &p, &n);
}

static tern_status evict(void) { return evict_by(TERN_KV_POLICY_DEFAULT); }
static tern_status evict_by_kvzip(void) { return evict_by(TERN_KV_POLICY_KVZIP); }

static tern_status evict_range(void) {
    size_t n;
    return tern_session_kv_evict_range(session, 10, 40, &n);
}

static tern_status plan_eviction(void) {
    tern_kv_evict_params p = TERN_INIT(tern_kv_evict_params);
    p.n_keep = 60;
    tern_kv_plan_info info = TERN_INIT(tern_kv_plan_info);
    uint32_t gone[400];
    size_t n;
    TRY(tern_session_kv_evict_plan(session, &p, &info, gone, 400, &n));
    mix(gone, n * sizeof *gone);
    return TERN_OK;
}

static tern_status go_on(void) {
    for (int i = 0; i < 20; i++) {
        const tern_status status = tern_session_eval(session, tokens + i, 1);
        CHECK(status == TERN_OK); /* nothing is asked for by a token */
    }
    tern_session_kv_set_budget(session, 80);
    return tern_session_eval(session, tokens, 30);
}

static tern_status fork_it(void) {
    tern_session_free(other);
    other = NULL;
    TRY(tern_session_fork(session, &other));
    mix_logits(other);
    return TERN_OK;
}

static void lender(void) {
    make_session(sharing());
    const tern_session_params p = sharing();
    OK(tern_session_new(model, &p, &other));
}

static tern_status take_prefix(void) { return tern_session_eval(other, tokens, N_PROMPT); }

static void forked(void) {
    plain();
    OK(tern_session_fork(session, &other));
}

static tern_status truncate_shared(void) { return tern_session_kv_truncate(other, 50); }

static tern_status save(void) { return tern_session_save(session, sampler, saved); }

static void to_restore(void) {
    with_sampler();
    OK(tern_session_save(session, sampler, saved));
    OK(tern_session_eval(session, tokens, 3));
}

static tern_status restore(void) {
    TRY(tern_session_prefetch(saved));
    return tern_session_restore(session, sampler, saved);
}

static void to_restore_fresh(void) {
    to_restore();
    tern_session_free(session);
    empty();
}

static tern_status copy_bytes(void) {
    static unsigned char snapshot[8 << 20];
    size_t n;
    TRY(tern_session_write(session, sampler, snapshot, sizeof snapshot, &n));
    return tern_session_read(session, sampler, snapshot, n);
}

static tern_status rebuild(void) { return tern_session_kv_rebuild(session, NULL); }

static tern_status segments(void) {
    tern_kv_segment segment = TERN_INIT(tern_kv_segment);
    segment.to_pos = 20;
    segment.flags = TERN_KV_SEGMENT_PINNED;
    TRY(tern_session_kv_segment_set(session, "system", &segment));
    TRY(tern_session_kv_segment_get(session, "system", &segment));
    TRY(tern_session_kv_segment_remove(session, "system"));
    return tern_session_kv_can(session, TERN_KV_OP_FORK);
}

/* What fails in any case fails as it does with memory. */
static tern_status mistakes(void) {
    tern_model *none = NULL;
    GIVES(TERN_ERROR_IO, tern_model_load("no/such/file.gguf", NULL, &none));
    GIVES(TERN_ERROR_INVALID_HANDLE, tern_session_eval(NULL, tokens, 1));
    GIVES(TERN_ERROR_INVALID_ARGUMENT, tern_session_eval(session, NULL, 1));
    GIVES(TERN_ERROR_KV_FULL, tern_session_eval(session, tokens, 300));
    CHECK(tern_last_error()[0] != 0);
    return TERN_OK;
}

static tern_status guard_against_sigbus(void) {
    TRY(tern_sigbus_guard_install());
    return tern_sigbus_guard_remove();
}

/* Nothing is needed to give things back. */
static tern_status give_back(void) {
    free_all();
    return TERN_OK;
}

static void nothing(void) {}
static void with_all(void) {
    with_sampler();
    OK(tern_decoder_new(model, &decoder));
    OK(tern_session_fork(session, &other));
}

static const struct scenario {
    const char *name;
    void (*before)(void);
    tern_status (*act)(void);
} scenarios[] = {
    {"load, copied", nothing, load_copy},
    {"load, mapped and guarded", nothing, load_guarded},
    {"load, mapped", nothing, load_fast},
    {"load, with a screened head", nothing, load_screened},
    {"load, packed", nothing, load_packed},
    {"load from a descriptor", nothing, load_fd},
    {"load from memory", nothing, load_memory},
    {"plan", nothing, plan},
    {"pack", nothing, pack},
    {"tokenize and detokenize", nothing, tokenize},
    {"format a chat", nothing, chat},
    {"look up metadata", nothing, look_up},
    {"stream text", nothing, decode_text},
    {"new session", nothing, new_session},
    {"new session as it is by default", nothing, new_session_by_default},
    {"new session with a budget", nothing, new_session_with_budget},
    {"new session that shares", nothing, new_session_that_shares},
    {"prefill", empty, prefill},
    {"decode", plain, decode},
    {"sample", plain, sample},
    {"generate", with_sampler, generate},
    {"evict", plain, evict},
    {"evict with a budget", with_budget, evict},
    {"evict by KVzip", plain, evict_by_kvzip},
    {"evict a range", plain, evict_range},
    {"plan an eviction", with_budget, plan_eviction},
    {"go on within a budget", with_budget, go_on},
    {"fork", plain, fork_it},
    {"take a prefix", lender, take_prefix},
    {"truncate what is shared", forked, truncate_shared},
    {"save", with_sampler, save},
    {"restore", to_restore, restore},
    {"restore a fresh session", to_restore_fresh, restore},
    {"write and read", with_sampler, copy_bytes},
    {"rebuild", plain, rebuild},
    {"segments", with_budget, segments},
    {"guard against SIGBUS", nothing, guard_against_sigbus},
    {"mistakes", plain, mistakes},
    {"free", with_all, give_back},
};
#define N_SCENARIOS (sizeof scenarios / sizeof *scenarios)

/* --- All N of a scenario ------------------------------------------------------------------------------ */

/* What a child has reached; its parent goes on behind it. */
static struct progress {
    int way;
    long at;
    long n_failed, n_refused;
} *reached;

/* The state after a scenario: what its calls said, and the next logits. */
static uint64_t outcome(void) {
    tern_session *const all[] = {session, other};
    for (size_t i = 0; i < 2; i++) {
        if (all[i] != NULL) {
            mix_logits(all[i]);
            OK(tern_session_eval(all[i], tokens + 7, 2));
            mix_logits(all[i]);
        }
    }
    free_all();
    return found;
}

/* The thread's last error is held, too: one and the same at both ends. */
static long held(void) {
    tern_device_info info = TERN_INIT(tern_device_info);
    GIVES(TERN_ERROR_INVALID_ARGUMENT, tern_device_describe(99, &info));
    return n_held();
}

/* A thread that was joined can be listed a moment longer. */
static int comes_back_to(long before) {
    for (int i = 0; i < 1000 && held() != before; i++) {
        usleep(1000);
    }
    return held() == before;
}

static void run(const struct scenario *scenario) {
    const uint64_t start = 14695981039346656037u;
    found = start;
    scenario->before();
    begin_noting();
    OK(scenario->act());
    end_noting();
    const uint64_t expected = outcome();
    for (; reached->way >= 0; reached->way--, reached->at = 0) {
        for (; is_asked(reached->way); reached->at++) {
            const long before = held();
            found = start;
            scenario->before();
            begin_failing(reached->way, reached->at);
            const tern_status status = scenario->act();
            const long n = end_failing();
            reached->n_failed += n > 0;
            if (status != TERN_OK) {
                CHECK(n > 0 && tern_last_error()[0] != 0);
                if (!may_give(reached->way, status)) {
                    GIVES(TERN_OK, status);
                }
                reached->n_refused++;
                found = start;
                OK(scenario->act());
            }
            const uint64_t state = outcome();
            CHECK(state == expected);
            CHECK(comes_back_to(before));
            if (n == 0) {
                break;
            }
        }
    }
}

static void prepare(void) {
    model = load(path);
    for (int i = 0; i < 512; i++) {
        tokens[i] = (i * 37 + 11) % 250;
    }
    FILE *const file = fopen(path, "rb");
    CHECK(file != NULL);
    n_bytes = 64 << 20;
    bytes = malloc(n_bytes);
    CHECK(bytes != NULL);
    n_bytes = fread(bytes, 1, n_bytes, file);
    fclose(file);
}

/* Runs all scenarios, or the one that is named, from an N on. At least so often something has to fail. */
static int run_all(int argc, char **argv, long n_least) {
    path = model_path(argc, argv);
    alarm(0); /* each child has its own */
    char folder[] = "/tmp/tern-scenarios-XXXXXX";
    CHECK(mkdtemp(folder) != NULL);
    snprintf(packed, sizeof packed, "%s/packed.gguf", folder);
    snprintf(saved, sizeof saved, "%s/saved", folder);
    snprintf(out, sizeof out, "%s/out", folder);
    reached = mmap(NULL, sizeof *reached, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(reached != MAP_FAILED);
    int wrong = 0;
    for (size_t i = 0; i < N_SCENARIOS; i++) {
        if (argc > 2 && strcmp(argv[2], scenarios[i].name) != 0) {
            continue;
        }
        reached->way = n_ways() - 1;
        reached->at = argc > 3 ? atol(argv[3]) : 0;
        while (reached->way >= 0) {
            const pid_t child = fork();
            CHECK(child >= 0);
            if (child == 0) {
                alarm(120);
                prepare();
                if (scenarios[i].act == load_packed) {
                    OK(tern_model_pack(path, packed, NULL, NULL));
                }
                run(&scenarios[i]);
                exit(0);
            }
            int status;
            CHECK(waitpid(child, &status, 0) == child);
            if (status != 0) {
                fprintf(stderr, "%s: %s, number %ld: status %#x\n", scenarios[i].name,
                        way_name(reached->way), reached->at, (unsigned)status);
                wrong++;
                reached->at++;
            }
        }
        unlink(packed);
        unlink(saved);
        unlink(out);
    }
    CHECK(rmdir(folder) == 0);
    if (argc > 2) {
        printf("%ld failed, %ld calls were refused\n", reached->n_failed, reached->n_refused);
    } else {
        CHECK(reached->n_failed >= n_least);
    }
    return wrong != 0;
}

#endif
