/* While a session decodes, all threads of the process are put on one core, and let go again: the bits do
 * not change, and nobody waits for a thread that waits for its core. The second argument: how often. */
#include "life.h"

#include <sched.h>
#include <stdatomic.h>

static tern_model *model;
static atomic_int is_over;
static atomic_long n_rounds;

static uint64_t round_of(uint32_t n_threads) {
    uint64_t found = 0;
    tern_session *session = session_with(model, n_threads);
    tern_sampler *sampler = greedy();
    OK(tern_session_eval(session, prompt, N_PROMPT));
    decode(&found, session, sampler, 40);
    tern_sampler_free(sampler);
    tern_session_free(session);
    return found;
}

static void *decode_on(void *expected) {
    /* As many threads as there are cores, or as are fastest where some are gone: both. */
    do {
        for (uint32_t n = 0; n <= 4; n += 2) CHECK(round_of(n) == *(const uint64_t *)expected);
        atomic_fetch_add(&n_rounds, 1);
    } while (!atomic_load(&is_over));
    return NULL;
}

/* Every thread; one may end meanwhile. */
static void put_all_on(const cpu_set_t *set) {
    DIR *const tasks = opendir("/proc/self/task");
    CHECK(tasks != NULL);
    for (struct dirent *task; (task = readdir(tasks)) != NULL;)
        if (task->d_name[0] != '.') sched_setaffinity((pid_t)atoi(task->d_name), sizeof *set, set);
    closedir(tasks);
}

int main(int argc, char **argv) {
    const long n = strikes(argc, argv);
    cpu_set_t all, one;
    uint64_t seed = 3;
    CHECK(sched_getaffinity(0, sizeof all, &all) == 0);
    if (CPU_COUNT(&all) < 2) {
        fprintf(stderr, "SKIPPED: cores: this process has one core only\n");
        return 0;
    }
    model = load(model_path(argc, argv));
    alarm(36000);
    uint64_t expected = round_of(1);
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, decode_on, &expected) == 0);
    for (long i = 0; i < n; i++) {
        int core;
        do core = (int)(chance(&seed) % CPU_SETSIZE);
        while (!CPU_ISSET(core, &all));
        CPU_ZERO(&one);
        CPU_SET(core, &one);
        put_all_on(&one);
        pause_ns(chance(&seed) % 3000000);
        put_all_on(&all);
        pause_ns(chance(&seed) % 1000000);
    }
    atomic_store(&is_over, 1);
    CHECK(pthread_join(thread, NULL) == 0);
    printf("%ld times on one core, %ld rounds of 3 sessions\n", n, atomic_load(&n_rounds));
    tern_model_free(model);
    return 0;
}
