/* The shared object is loaded and unloaded, as plugins are, while threads run in it that it started and
 * others that only call it: it stays where it is, with its threads and handles.
 * Arguments: a model, how often, the shared object. */
#include "tern.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Not linked with: all is looked up, every time. */
static struct {
    __typeof__(&tern_model_load) model_load;
    __typeof__(&tern_model_free) model_free;
    __typeof__(&tern_session_new) session_new;
    __typeof__(&tern_session_free) session_free;
    __typeof__(&tern_session_eval) session_eval;
    __typeof__(&tern_session_logits) session_logits;
    __typeof__(&tern_session_kv_truncate) session_kv_truncate;
} tern;

#define CHECK(condition)                                                                       \
    do {                                                                                       \
        if (!(condition)) {                                                                    \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition);                    \
            exit(1);                                                                           \
        }                                                                                      \
    } while (0)

/* POSIX makes a pointer to a function of what dlsym() gives; ISO C has no cast for it. */
static void look_up(void *object, const char *name, void *to) {
    void *const found = dlsym(object, name);
    CHECK(found != NULL);
    memcpy(to, &found, sizeof found);
}

static void *open_it(const char *path) {
    void *const object = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (object == NULL) {
        fprintf(stderr, "%s\n", dlerror());
        exit(1);
    }
    look_up(object, "tern_model_load", &tern.model_load);
    look_up(object, "tern_model_free", &tern.model_free);
    look_up(object, "tern_session_new", &tern.session_new);
    look_up(object, "tern_session_free", &tern.session_free);
    look_up(object, "tern_session_eval", &tern.session_eval);
    look_up(object, "tern_session_logits", &tern.session_logits);
    look_up(object, "tern_session_kv_truncate", &tern.session_kv_truncate);
    return object;
}

static uint64_t evaluate(tern_session *session) {
    static const tern_token tokens[] = {'a', 'b', 'c', 'd', 'e', 'f', 'g', 'h'};
    const float *logits;
    size_t n;
    uint64_t found = 14695981039346656037u;
    CHECK(tern.session_kv_truncate(session, 0) == TERN_OK);
    CHECK(tern.session_eval(session, tokens, 8) == TERN_OK);
    CHECK(tern.session_logits(session, &logits, &n) == TERN_OK);
    for (size_t i = 0; i < n * sizeof *logits; i++)
        found = (found ^ ((const unsigned char *)logits)[i]) * 1099511628211u;
    return found;
}

static tern_session *session_of(const tern_model *model) {
    tern_session_params params = TERN_INIT(tern_session_params);
    tern_session *session = NULL;
    params.n_ctx = 16;
    params.n_threads = 3;
    CHECK(tern.session_new(model, &params, &session) == TERN_OK);
    return session;
}

static atomic_int is_over;
static atomic_long n_evals;
static uint64_t expected;

static void *evaluate_on(void *session) {
    while (!atomic_load(&is_over)) {
        CHECK(evaluate(session) == expected);
        atomic_fetch_add(&n_evals, 1);
    }
    return NULL;
}

int main(int argc, char **argv) {
    CHECK(argc > 3 && atol(argv[2]) > 0);
    const long n = atol(argv[2]);
    tern_model *model = NULL;
    pthread_t thread;
    alarm(36000);
    void *object = open_it(argv[3]);
    CHECK(tern.model_load(argv[1], NULL, &model) == TERN_OK);
    tern_session *const busy = session_of(model), *const idle = session_of(model);
    expected = evaluate(idle);
    const __typeof__(&tern_session_eval) address = tern.session_eval;
    CHECK(pthread_create(&thread, NULL, evaluate_on, busy) == 0);
    for (long i = 0; i < n; i++) {
        CHECK(dlclose(object) == 0); /* the only one */
        if (i % 16 == 0) usleep(300);
        object = open_it(argv[3]);
        CHECK(tern.session_eval == address);
        CHECK(evaluate(idle) == expected);
        tern_session *const made = session_of(model);
        CHECK(evaluate(made) == expected);
        tern.session_free(made);
    }
    atomic_store(&is_over, 1);
    CHECK(pthread_join(thread, NULL) == 0);
    CHECK(dlclose(object) == 0);
    /* Even now that nobody has it open. */
    CHECK(evaluate(busy) == expected);
    tern.session_free(busy);
    tern.session_free(idle);
    tern.model_free(model);
    printf("unloaded %ld times, meanwhile %ld evals on another thread\n", n, atomic_load(&n_evals));
    return 0;
}
