/* What the C tests share: a check that says where it failed and what the library had to say. */
#ifndef CHECK_H
#define CHECK_H

#include "tern.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define CHECK(condition)                                                                       \
    do {                                                                                       \
        if (!(condition)) {                                                                    \
            fprintf(stderr, "%s:%d: %s\n  last error: %s\n", __FILE__, __LINE__, #condition,   \
                    tern_last_error());                                                        \
            exit(1);                                                                           \
        }                                                                                      \
    } while (0)

#define GIVES(status, call)                                                                    \
    do {                                                                                       \
        tern_status check_found = (call);                                                      \
        if (check_found != (status)) {                                                         \
            fprintf(stderr, "%s:%d: %s\n  gave %s (%s), expected %s\n", __FILE__, __LINE__,    \
                    #call, tern_status_name(check_found), tern_last_error(), #status);         \
            exit(1);                                                                           \
        }                                                                                      \
    } while (0)

#define OK(call) GIVES(TERN_OK, call)

/* The model that the test program was given; and a limit, so that a hang is a failure. */
static inline const char *model_path(int argc, char **argv) {
    if (argc < 2) {
        fprintf(stderr, "usage: %s MODEL\n", argv[0]);
        exit(2);
    }
    alarm(300);
    return argv[1];
}

static inline tern_model *load(const char *path) {
    tern_model *model = NULL;
    OK(tern_model_load(path, NULL, &model));
    CHECK(model != NULL);
    return model;
}

static inline tern_session *session_of(const tern_model *model, uint32_t n_ctx) {
    tern_session_params params;
    tern_session *session = NULL;
    memset(&params, 0, sizeof params);
    params.struct_size = sizeof params;
    params.n_ctx = n_ctx;
    params.n_threads = 2;
    OK(tern_session_new(model, &params, &session));
    CHECK(session != NULL);
    return session;
}

static inline tern_sampler *greedy(void) {
    tern_sampler *sampler = NULL;
    OK(tern_sampler_new(NULL, &sampler));
    CHECK(sampler != NULL);
    return sampler;
}

#endif
