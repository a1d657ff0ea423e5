/* Two threads, one session: the second is told BUSY, nothing changes, and abort always works. */
#include "long_eval.h"

#include <signal.h>

static tern_session *session_to_abort;

static void on_signal(int signal) {
    (void)signal;
    tern_session_abort(session_to_abort);
}

static void *sample_many(void *argument) {
    void *const *handles = argument;
    tern_sampler *sampler = greedy();
    tern_token first, token;
    OK(tern_sampler_sample(sampler, handles[0], &first));
    for (int i = 0; i < 200; i++) {
        OK(tern_sampler_sample(sampler, handles[0], &token));
        CHECK(token == first);
    }
    tern_sampler_free(sampler);
    return NULL;
}

int main(int argc, char **argv) {
    tern_model *model = load(model_path(argc, argv));
    tern_session *session = session_of(model, LONG_CTX), *fork = NULL;
    tern_sampler *sampler = greedy();
    tern_session_info info = TERN_INIT(tern_session_info);
    tern_token token = 'a';
    const float *logits;
    size_t n;
    long_eval eval;

    OK(tern_session_eval(session, &token, 1));
    long_eval_start(&eval, session);
    GIVES(TERN_ERROR_BUSY, tern_session_eval(session, &token, 1));
    GIVES(TERN_ERROR_BUSY, tern_session_eval_with(session, &token, 1, NULL));
    GIVES(TERN_ERROR_BUSY, tern_session_logits(session, &logits, &n));
    GIVES(TERN_ERROR_BUSY, tern_session_logits_at(session, 0, &logits, &n));
    GIVES(TERN_ERROR_BUSY, tern_session_kv_evict(session, NULL, NULL));
    GIVES(TERN_ERROR_BUSY, tern_session_kv_evict_range(session, 0, 1, NULL));
    GIVES(TERN_ERROR_BUSY, tern_session_kv_truncate(session, 0));
    GIVES(TERN_ERROR_BUSY, tern_session_fork(session, &fork));
    tern_kv_segment segment = TERN_INIT(tern_kv_segment);
    segment.to_pos = 1;
    GIVES(TERN_ERROR_BUSY, tern_session_kv_segment_set(session, "s", &segment));
    GIVES(TERN_ERROR_BUSY, tern_session_kv_segment_get(session, "s", &segment));
    GIVES(TERN_ERROR_BUSY, tern_session_kv_rebuild(session, NULL));
    GIVES(TERN_ERROR_BUSY, tern_session_kv_can(session, TERN_KV_OP_FORK));
    GIVES(TERN_ERROR_BUSY, tern_session_save(session, NULL, "/no/such/file"));
    GIVES(TERN_ERROR_BUSY, tern_session_restore(session, sampler, "/no/such/file"));
    GIVES(TERN_ERROR_BUSY, tern_session_write(session, NULL, NULL, 0, &n));
    GIVES(TERN_ERROR_BUSY, tern_session_read(session, sampler, "TERN", 4));
    GIVES(TERN_ERROR_BUSY, tern_session_describe(session, &info));
    GIVES(TERN_ERROR_BUSY, tern_session_set_threads(session, 1, 1));
    GIVES(TERN_ERROR_BUSY, tern_sampler_sample(sampler, session, &token));
    GIVES(TERN_ERROR_BUSY, tern_session_generate(session, sampler, NULL, &token, 1, &n));
    /* What is not this session goes on. */
    tern_session *other = session_of(model, 16);
    OK(tern_session_eval(other, &token, 1));
    OK(tern_sampler_sample(sampler, other, &token));
    tern_session_abort(session);
    CHECK(long_eval_end(&eval) == TERN_ERROR_ABORTED);
    /* As it was before. */
    OK(tern_session_describe(session, &info));
    CHECK(info.n_kv == 1 && info.pos == 1);
    OK(tern_session_eval(session, &token, 1));

    /* From a signal handler. */
    session_to_abort = session;
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_handler = on_signal;
    CHECK(sigaction(SIGUSR1, &action, NULL) == 0);
    long_eval_start(&eval, session);
    CHECK(raise(SIGUSR1) == 0);
    CHECK(long_eval_end(&eval) == TERN_ERROR_ABORTED);

    /* Many threads may share what is const. */
    pthread_t threads[4];
    void *handles[1] = {other};
    for (int i = 0; i < 4; i++) CHECK(!pthread_create(&threads[i], NULL, sample_many, handles));
    for (int i = 0; i < 4; i++) CHECK(!pthread_join(threads[i], NULL));

    tern_session_free(other);
    tern_session_free(session);
    tern_sampler_free(sampler);
    tern_model_free(model);
    return 0;
}
