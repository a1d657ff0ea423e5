/* A watchdog reads how far a session's work has come, without waiting: the number rises while a prompt
 * is read, in steps, and stands still when nothing is done. It is a number for whatever it is asked of. */
#include "check.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <time.h>

static tern_session *session;
static atomic_int is_done;
static volatile sig_atomic_t n_signals;
static volatile uint64_t in_handler;

static void on_signal(int number) {
    (void)number;
    in_handler = tern_session_progress(session);
    n_signals = n_signals + 1;
}

/* How many numbers a watchdog sees, each higher than the one before. */
static void *watch(void *unused) {
    uint64_t last = tern_session_progress(session), n_seen = 0;
    (void)unused;
    while (!atomic_load(&is_done)) {
        const uint64_t now = tern_session_progress(session);
        CHECK(now >= last);
        n_seen += now > last;
        last = now;
    }
    return (void *)(uintptr_t)n_seen;
}

/* Reads a long prompt while somebody watches; gives how much the number has risen. */
static uint64_t read_prompt(const tern_token *tokens, size_t n, uint64_t least_seen) {
    pthread_t watchdog;
    void *n_seen;
    uint64_t risen = 0, seen = 0;
    /* On one core the watchdog may not get to run while a prompt is read: more than one is. */
    for (int i = 0; i < 200 && seen < least_seen; i++) {
        OK(tern_session_kv_truncate(session, 0));
        atomic_store(&is_done, 0);
        CHECK(pthread_create(&watchdog, NULL, watch, NULL) == 0);
        const uint64_t before = tern_session_progress(session);
        OK(tern_session_eval(session, tokens, n));
        risen = tern_session_progress(session) - before;
        atomic_store(&is_done, 1);
        CHECK(pthread_join(watchdog, &n_seen) == 0);
        seen += (uintptr_t)n_seen;
    }
    CHECK(seen >= least_seen);
    return risen;
}

int main(int argc, char **argv) {
    tern_model *model = load(model_path(argc, argv));
    tern_model_info info = TERN_INIT(tern_model_info);
    static tern_token tokens[400];
    OK(tern_model_describe(model, &info));
    CHECK(tern_session_progress(NULL) == 0);
    session = session_of(model, 400);
    CHECK(tern_session_progress(session) == 0);

    const uint64_t n_batches = 2; /* of 256 tokens */
    CHECK(read_prompt(tokens, 260, 4) >= n_batches * info.n_layer);
    OK(tern_session_set_threads(session, 1, 1));
    CHECK(read_prompt(tokens, 260, 4) >= n_batches * info.n_layer);

    /* Nothing is done: nothing rises. */
    const uint64_t idle = tern_session_progress(session);
    const struct timespec ms = {0, 2000000};
    tern_sampler *sampler = greedy();
    nanosleep(&ms, NULL);
    CHECK(idle > 0 && tern_session_progress(session) == idle);

    /* A token of its own, and what is drafted. */
    OK(tern_session_kv_truncate(session, 100));
    CHECK(tern_session_progress(session) == idle);
    OK(tern_session_eval(session, tokens, 1));
    const uint64_t token = tern_session_progress(session);
    CHECK(token >= idle + info.n_layer);
    size_t n;
    tern_token made[4];
    OK(tern_session_generate(session, sampler, NULL, made, 4, &n));
    const uint64_t generated = tern_session_progress(session);
    CHECK(generated >= token + info.n_layer);

    /* What is stopped has begun; what is refused has not. */
    GIVES(TERN_ERROR_INVALID_ARGUMENT, tern_session_eval(session, NULL, 1));
    GIVES(TERN_ERROR_KV_FULL, tern_session_eval(session, tokens, 400));
    CHECK(tern_session_progress(session) == generated);
    OK(tern_session_kv_rebuild(session, NULL));
    CHECK(tern_session_progress(session) >= generated + info.n_layer);

    /* From a signal handler. */
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_handler = on_signal;
    CHECK(sigaction(SIGUSR1, &action, NULL) == 0);
    CHECK(raise(SIGUSR1) == 0 && n_signals == 1);
    CHECK(in_handler == tern_session_progress(session));

    /* Each session has its own, from 0; a handle that is stale or of another type has none. */
    tern_session *stale = session;
    tern_session_free(session);
    session = session_of(model, 64);
    CHECK(tern_session_progress(session) == 0 && tern_session_progress(stale) == 0);
    CHECK(tern_session_progress((tern_session *)(void *)sampler) == 0);
    tern_sampler_free(sampler);
    tern_session_free(session);
    tern_model_free(model);
    return 0;
}
