/* What the cases of run.c find: handles of every kind and in every state, and descriptors; and how a
 * failure is said. */
#ifndef HANDLES_H
#define HANDLES_H

#include "tern.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "calls.h"

enum { MODEL, SESSION, SAMPLER, DECODER, KINDS };
enum { LIVE, STALE, REUSED, ORPHAN, POISONED, FRESH, FOREIGN, EMPTY, VARIANTS };
enum { PLAIN, THREAD, PROGRESS, LOG, FORKED, HELD, SHARED, FULL, PACKING };
enum { MAX_ARGS = 16, MAX_BLOCKS = 16, MAX_EXPECTED = 8 };

typedef struct {
    char role;
    size_t size;
    unsigned char *bytes, *before;
} block;

typedef struct {
    int id, function, how, kind, n_args, n_blocks, n_relocs, n_expected;
    char name[160];
    block blocks[MAX_BLOCKS];
    uint64_t args[MAX_ARGS];
    long long expected[MAX_EXPECTED];
    long long found;
    int n_calls, failed_as_it_should;
    char sentence[600];
    int bad_errno;
} test_case;

static void *handles[KINDS][VARIANTS];
static int descriptors[5];
static int n_failures, is_child;
static test_case now;
static void *on_stack; /* of main(): no handle */

static void fail(const char *what, long long detail) {
    printf("case %d %s: %s (%lld)\n  last error: %s\n", now.id, now.name, what, detail,
           tern_last_error());
    fflush(stdout);
    n_failures++;
}

#define NEED(condition)                                                                        \
    do {                                                                                       \
        if (!(condition)) {                                                                    \
            printf("%s:%d: %s; before case %d %s; last error: %s\n", __FILE__, __LINE__,       \
                   #condition, now.id, now.name, tern_last_error());                           \
            fflush(stdout);                                                                    \
            exit(2);                                                                           \
        }                                                                                      \
    } while (0)
#define OK(call) NEED((call) == TERN_OK)

/* Where nothing watches over memory, what lies behind a block is looked at after the call. */
#ifdef IS_WATCHED
enum { BEHIND = 0 };
#else
enum { BEHIND = 256 };
#endif

static void *must_allocate(size_t n) {
    unsigned char *bytes = (unsigned char *)malloc(n + BEHIND != 0 ? n + BEHIND : 1);
    NEED(bytes != NULL);
    memset(bytes + n, 0xA5, BEHIND);
    return bytes;
}

static const tern_token PROMPT[] = {'t', 'h', 'e', ' ', 's', 'e', 'a', '.'};

/* An empty one. */
static tern_status try_to_make(int kind, const void *model, void **made) {
    const tern_model *parent = (const tern_model *)model;
    if (kind == MODEL) return tern_model_load("model.gguf", NULL, (tern_model **)made);
    if (kind == SAMPLER) return tern_sampler_new(NULL, (tern_sampler **)made);
    if (kind == DECODER) return tern_decoder_new(parent, (tern_decoder **)made);
    tern_session_params params;
    memset(&params, 0, sizeof params);
    params.struct_size = sizeof params;
    params.n_ctx = 96;
    params.n_logits = 4;
    params.n_threads = 1;
    return tern_session_new(parent, &params, (tern_session **)made);
}

static void *make(int kind, const void *model, int is_empty) {
    void *made = NULL;
    OK(try_to_make(kind, model, &made));
    if (kind == SESSION && !is_empty) {
        tern_session *session = (tern_session *)made;
        tern_kv_segment segment;
        memset(&segment, 0, sizeof segment);
        segment.struct_size = sizeof segment;
        segment.from_pos = 4;
        segment.to_pos = 6;
        OK(tern_session_kv_segment_set(session, "sea", &segment));
        OK(tern_session_eval(session, PROMPT, 8));
    }
    return made;
}

static void free_it(int kind, void *handle) {
    switch (kind) {
    case MODEL: tern_model_free((tern_model *)handle); break;
    case SESSION: tern_session_free((tern_session *)handle); break;
    case SAMPLER: tern_sampler_free((tern_sampler *)handle); break;
    default: tern_decoder_free((tern_decoder *)handle); break;
    }
}

/* New ones in place of those that a case may have changed. */
static void renew(int kind) {
    if (handles[kind][LIVE] != NULL) free_it(kind, handles[kind][LIVE]);
    handles[kind][LIVE] = make(kind, handles[MODEL][LIVE], 0);
}

static void make_stale(int kind) {
    static const int slots[KINDS] = {64, 256, 256, 256};
    void *made = make(kind, handles[MODEL][LIVE], 1);
    handles[kind][REUSED] = made;
    free_it(kind, made);
    for (int i = 1; i < slots[kind]; i++) {
        free_it(kind, make(kind, handles[MODEL][LIVE], 1));
    }
    /* Slots are filled in turn: this one, which stays, is in the slot of the first. */
    void *successor = make(kind, handles[MODEL][LIVE], 1);
    NEED(((uintptr_t)successor | 127) == ((uintptr_t)made | 127) && successor != made);
    handles[kind][STALE] = make(kind, handles[MODEL][LIVE], 1);
    free_it(kind, handles[kind][STALE]);
}

typedef tern_status (*load_fn)(const char *, const tern_model_params *, tern_model **);
typedef tern_status (*session_fn)(const tern_model *, const tern_session_params *, tern_session **);
typedef tern_status (*sampler_fn)(const tern_sampler_params *, tern_sampler **);
typedef tern_status (*decoder_fn)(const tern_model *, tern_decoder **);

/* A function of another copy of the library. */
#define OTHER(type, name) ((type)(uintptr_t)dlsym(library, name))

static void make_foreign(const char *path) {
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (library == NULL) printf("%s\n", dlerror());
    NEED(library != NULL);
    tern_model *model = NULL;
    tern_session *session = NULL;
    tern_sampler *sampler = NULL;
    tern_decoder *decoder = NULL;
    OK(OTHER(load_fn, "tern_model_load")("model.gguf", NULL, &model));
    OK(OTHER(session_fn, "tern_session_new")(model, NULL, &session));
    OK(OTHER(sampler_fn, "tern_sampler_new")(NULL, &sampler));
    OK(OTHER(decoder_fn, "tern_decoder_new")(model, &decoder));
    handles[MODEL][FOREIGN] = model;
    handles[SESSION][FOREIGN] = session;
    handles[SAMPLER][FOREIGN] = sampler;
    handles[DECODER][FOREIGN] = decoder;
}

static void set_up(const char *library) {
    handles[MODEL][LIVE] = make(MODEL, NULL, 0);
    for (int kind = SESSION; kind < KINDS; kind++) renew(kind);
    for (int kind = 0; kind < KINDS; kind++) make_stale(kind);
    handles[SESSION][EMPTY] = make(SESSION, handles[MODEL][LIVE], 1);
#if HOOKS
    for (int kind = SESSION; kind < KINDS; kind++) {
        handles[kind][POISONED] = make(kind, handles[MODEL][LIVE], 0);
        NEED(tern_test_hold((uint32_t)kind, handles[kind][POISONED], true, NULL, NULL)
             == TERN_ERROR_INTERNAL);
    }
#endif
    if (library != NULL) make_foreign(library);
    OK(tern_session_save((tern_session *)handles[SESSION][LIVE],
                         (tern_sampler *)handles[SAMPLER][LIVE], "session.tern"));
    int pipes[2];
    NEED(pipe(pipes) == 0);
    descriptors[0] = open("model.gguf", O_RDONLY);
    descriptors[1] = dup(descriptors[0]);
    close(descriptors[1]);
    descriptors[2] = open("write_only", O_WRONLY | O_CREAT, 0600);
    descriptors[3] = pipes[0];
    descriptors[4] = open(".", O_RDONLY);
    NEED(descriptors[0] >= 0 && descriptors[2] >= 0 && descriptors[4] >= 0);
}

#endif
