/* Eight threads make sessions, evaluate a token, fork, free: each gives the bits that the first gave,
 * and nothing is left of any. The second argument: how many sessions. */
#include "life.h"

#include <stdatomic.h>

enum { N_THREADS = 8 };

static tern_model *model;
static atomic_long n_left;
static uint64_t expected;

static uint64_t one(uint64_t *state) {
    tern_session_params params = TERN_INIT(tern_session_params);
    tern_session *session = NULL, *fork = NULL;
    uint64_t found = 0;
    params.n_ctx = 16 + chance(state) % 3 * 100;
    params.n_threads = 1 + chance(state) % 3;
    params.kv_share = chance(state) % 2;
    OK(tern_session_new(model, &params, &session));
    if (chance(state) % 16 == 0) tern_session_abort(NULL);
    OK(tern_session_eval(session, prompt, 2));
    if (chance(state) % 4 == 0) {
        OK(tern_session_fork(session, &fork));
        tern_session_free(session); /* the fork lives on */
        session = fork;
    }
    OK(tern_session_eval(session, prompt + 2, 1));
    mix_logits(&found, session);
    tern_session *const freed = session;
    tern_session_free(session);
    GIVES(TERN_ERROR_INVALID_HANDLE, tern_session_eval(freed, prompt, 1));
    return found;
}

static void *make_many(void *seed) {
    uint64_t state = (uint64_t)(uintptr_t)seed;
    while (atomic_fetch_sub(&n_left, 1) > 0) CHECK(one(&state) == expected);
    return NULL;
}

int main(int argc, char **argv) {
    pthread_t threads[N_THREADS];
    uint64_t state = 0;
    const long n = strikes(argc, argv);
    const uint64_t start = now_ns();
    atomic_store(&n_left, n);
    model = load(model_path(argc, argv));
    alarm(36000);
    expected = one(&state);
    const int n_threads = n_entries("/proc/self/task"), n_files = n_entries("/proc/self/fd");
    for (uintptr_t i = 0; i < N_THREADS; i++)
        CHECK(pthread_create(&threads[i], NULL, make_many, (void *)(i + 1)) == 0);
    for (int i = 0; i < N_THREADS; i++) CHECK(pthread_join(threads[i], NULL) == 0);
    comes_down_to(n_threads);
    CHECK(n_entries("/proc/self/fd") == n_files);
    /* Every slot of the table is free again. */
    tern_session *all[256];
    for (int i = 0; i < 256; i++) all[i] = session_of(model, 1);
    for (int i = 0; i < 256; i++) tern_session_free(all[i]);
    tern_model_free(model);
    printf("%ld sessions in %.1f s\n", n, (double)(now_ns() - start) / 1e9);
    return 0;
}
