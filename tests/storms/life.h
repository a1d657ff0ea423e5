/* What programs of storms share: a session's life whose outcome is one number, and chance. */
#ifndef LIFE_H
#define LIFE_H

#include "check.h"

#include <dirent.h>
#include <pthread.h>
#include <stdint.h>
#include <time.h>

enum { N_PROMPT = 150 };

static tern_token prompt[N_PROMPT];

/* How often a storm is to strike: the program's second argument. */
static inline long strikes(int argc, char **argv) {
    CHECK(argc > 2 && atol(argv[2]) > 0);
    alarm(0); /* storms that are meant to last are stopped by who starts them, or by alarms of their own */
    for (int i = 0; i < N_PROMPT; i++) prompt[i] = (i * 37 + 11) % 250;
    return atol(argv[2]);
}

static inline uint64_t chance(uint64_t *state) { /* splitmix64 */
    uint64_t z = *state += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

static inline void mix(uint64_t *found, const void *data, size_t n) {
    const unsigned char *const byte = data;
    for (size_t i = 0; i < n; i++) *found = (*found ^ byte[i]) * 1099511628211u;
}

static inline void mix_logits(uint64_t *found, const tern_session *session) {
    const float *logits;
    size_t n;
    OK(tern_session_logits(session, &logits, &n));
    mix(found, logits, n * sizeof *logits);
}

static inline uint64_t now_ns(void) {
    struct timespec now;
    CHECK(clock_gettime(CLOCK_MONOTONIC, &now) == 0);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* A pause that signals do not end. */
static inline void pause_ns(uint64_t ns) {
    struct timespec left = {(time_t)(ns / 1000000000u), (long)(ns % 1000000000u)};
    while (nanosleep(&left, &left) != 0) {
    }
}

static inline tern_session *session_with(const tern_model *model, uint32_t n_threads) {
    tern_session_params params = TERN_INIT(tern_session_params);
    tern_session *session = NULL;
    params.n_ctx = 400;
    params.n_batch = 64;
    params.n_threads = n_threads;
    OK(tern_session_new(model, &params, &session));
    return session;
}

/* Evaluates greedily, token by token. */
static inline void decode(uint64_t *found, tern_session *session, tern_sampler *sampler, int n) {
    for (int i = 0; i < n; i++) {
        tern_token token;
        OK(tern_sampler_sample(sampler, session, &token));
        mix(found, &token, sizeof token);
        OK(tern_session_eval(session, &token, 1));
        mix_logits(found, session);
    }
}

/* Loads, reads a prompt, decodes, saves, restores, goes on: everything that asks the system for
 * something, and everything that threads share. The same number, whatever happens meanwhile. */
static inline uint64_t life(const char *path, const char *saved, uint32_t n_threads, int n_decode) {
    static const tern_load_mode modes[] = {TERN_LOAD_COPY, TERN_LOAD_MAP_GUARDED, TERN_LOAD_MAP_FAST};
    uint64_t found = 14695981039346656037u;
    for (int i = 0; i < 3; i++) {
        tern_model_params params = TERN_INIT(tern_model_params);
        tern_model *model = NULL;
        params.load_mode = modes[i];
        OK(tern_model_load(path, &params, &model));
        tern_session *session = session_with(model, n_threads), *again = session_with(model, n_threads);
        tern_sampler *sampler = greedy();
        OK(tern_session_eval(session, prompt, N_PROMPT));
        mix_logits(&found, session);
        decode(&found, session, sampler, n_decode);
        OK(tern_session_save(session, sampler, saved));
        OK(tern_session_prefetch(saved));
        OK(tern_session_restore(again, sampler, saved));
        OK(tern_session_eval(again, prompt, 1));
        decode(&found, again, sampler, n_decode);
        tern_sampler_free(sampler);
        tern_session_free(again);
        tern_session_free(session);
        tern_model_free(model);
    }
    return found;
}

/* Entries of a folder of /proc/self: threads, descriptors. */
static inline int n_entries(const char *of) {
    DIR *const folder = opendir(of);
    int n = 0;
    CHECK(folder != NULL);
    while (readdir(folder) != NULL) n++;
    closedir(folder);
    return n;
}

/* Threads that have been joined are a moment longer in the system's list. */
static inline void comes_down_to(int n_threads) {
    for (int i = 0; i < 10000 && n_entries("/proc/self/task") > n_threads; i++) pause_ns(1000000);
    CHECK(n_entries("/proc/self/task") <= n_threads);
}

#endif
