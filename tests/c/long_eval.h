/* An eval that takes far longer than the test: a prompt of many thousand tokens, on a thread. */
#ifndef LONG_EVAL_H
#define LONG_EVAL_H

#include "check.h"

#include <pthread.h>

enum { LONG_CTX = 32768, LONG_PROMPT = 32000 };

typedef struct {
    tern_session *session;
    tern_status status;
    pthread_t thread;
} long_eval;

static void *long_eval_run(void *argument) {
    long_eval *eval = argument;
    tern_token *tokens = malloc(LONG_PROMPT * sizeof *tokens);
    CHECK(tokens != NULL);
    for (int i = 0; i < LONG_PROMPT; i++) tokens[i] = 'a' + i % 26;
    do { /* until it is not the one that meets long_eval_start()'s look */
        eval->status = tern_session_eval(eval->session, tokens, LONG_PROMPT);
    } while (eval->status == TERN_ERROR_BUSY);
    free(tokens);
    return NULL;
}

/* Returns when the eval is running: when the session is busy. */
static inline void long_eval_start(long_eval *eval, tern_session *session) {
    tern_session_info info = TERN_INIT(tern_session_info);
    eval->session = session;
    eval->status = TERN_OK;
    CHECK(pthread_create(&eval->thread, NULL, long_eval_run, eval) == 0);
    tern_status status;
    while ((status = tern_session_describe(session, &info)) == TERN_OK) usleep(100);
    CHECK(status == TERN_ERROR_BUSY);
}

static inline tern_status long_eval_end(long_eval *eval) {
    CHECK(pthread_join(eval->thread, NULL) == 0);
    return eval->status;
}

#endif
