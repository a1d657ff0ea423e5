/* A prompt is stopped at a random microsecond, thousands of times. Where the eval had not ended yet it is
 * as if it had never been begun, byte for byte; else the next one is stopped. Prints how long an eval
 * went on after it was told to stop. The second argument: how many times. */
#include "life.h"

#include <semaphore.h>

enum { N_LONG = 384, N_BYTES = 4 << 20 };

static tern_session *session;
static sem_t begin, ended;
static tern_status status;
static volatile uint64_t began_ns, ended_ns;
static tern_token text[N_LONG];
static unsigned char before[N_BYTES], after[N_BYTES];

static void *evaluate(void *unused) {
    (void)unused;
    for (;;) {
        while (sem_wait(&begin) != 0) {
        }
        began_ns = now_ns();
        status = tern_session_eval(session, text, N_LONG);
        ended_ns = now_ns();
        CHECK(sem_post(&ended) == 0);
    }
}

static int ascending(const void *a, const void *b) {
    const uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

int main(int argc, char **argv) {
    const long n = strikes(argc, argv);
    uint64_t seed = 6, *const us = calloc((size_t)n, sizeof *us);
    long n_aborted = 0, n_late = 0;
    size_t n_before, n_after;
    pthread_t thread;
    CHECK(us != NULL);
    tern_model *model = load(model_path(argc, argv));
    alarm(36000);
    for (int i = 0; i < N_LONG; i++) text[i] = 'a' + i % 26;
    tern_session_params params = TERN_INIT(tern_session_params);
    params.n_ctx = 640;
    params.n_batch = 64;
    params.n_threads = 3;
    params.kv_policy = TERN_KV_POLICY_HYBRID; /* which counts, and would count twice */
    OK(tern_session_new(model, &params, &session));
    OK(tern_session_eval(session, prompt, N_PROMPT));
    OK(tern_session_write(session, NULL, before, N_BYTES, &n_before));
    CHECK(sem_init(&begin, 0, 0) == 0 && sem_init(&ended, 0, 0) == 0);
    CHECK(pthread_create(&thread, NULL, evaluate, NULL) == 0);
    /* How long it takes, undisturbed. */
    uint64_t least = UINT64_MAX;
    for (int i = 0; i < 5; i++) {
        CHECK(sem_post(&begin) == 0 && sem_wait(&ended) == 0);
        CHECK(status == TERN_OK);
        if (ended_ns - began_ns < least) least = ended_ns - began_ns;
        OK(tern_session_read(session, NULL, before, n_before));
    }
    for (long i = 0; i < n; i++) {
        const uint64_t wait = chance(&seed) % (least + least / 8);
        CHECK(sem_post(&begin) == 0);
        const uint64_t until = now_ns() + wait;
        while (now_ns() < until) {
        }
        const uint64_t told_ns = now_ns();
        tern_session_abort(session);
        CHECK(sem_wait(&ended) == 0);
        if (status == TERN_ERROR_ABORTED) {
            us[n_aborted++] = ended_ns > told_ns ? (ended_ns - told_ns) / 1000 : 0;
        } else {
            CHECK(status == TERN_OK);
            GIVES(TERN_ERROR_ABORTED, tern_session_eval(session, text, 1)); /* it was told too late */
            OK(tern_session_read(session, NULL, before, n_before));
            n_late++;
        }
        OK(tern_session_write(session, NULL, after, N_BYTES, &n_after));
        CHECK(n_after == n_before && memcmp(after, before, n_before) == 0);
    }
    CHECK(n_aborted > 0);
    /* And it goes on as it would have. */
    uint64_t stormy = 0, calm = 0;
    tern_session *const other = session_with(model, 1);
    OK(tern_session_eval(session, text, 3));
    mix_logits(&stormy, session);
    OK(tern_session_eval(other, prompt, N_PROMPT));
    OK(tern_session_eval(other, text, 3));
    mix_logits(&calm, other);
    CHECK(stormy == calm);
    qsort(us, (size_t)n_aborted, sizeof *us, ascending);
    printf("%ld of %ld evals of %.1f ms were stopped, %ld had ended; stopped after (us): median %llu, "
           "p99 %llu, p99.9 %llu, most %llu\n",
           n_aborted, n, (double)least / 1e6, n_late, (unsigned long long)us[n_aborted / 2],
           (unsigned long long)us[n_aborted * 99 / 100], (unsigned long long)us[n_aborted * 999 / 1000],
           (unsigned long long)us[n_aborted - 1]);
    for (uint64_t from = 0, to = 16; from < us[n_aborted - 1] + 1; from = to, to *= 2) {
        long count = 0;
        for (long i = 0; i < n_aborted; i++) count += us[i] >= from && us[i] < to;
        printf("  %6llu to %6llu us: %ld\n", (unsigned long long)from, (unsigned long long)to, count);
    }
    return 0; /* the thread waits, and ends with the process */
}
