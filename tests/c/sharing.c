/* Sessions with the same first tokens share them if they are made so, and forks always: fewer tokens are
 * evaluated, the logits are the same bits, and nobody notices what another does. */
#include "check.h"

enum { N_PROMPT = 300, N_TILE = 128 };

static tern_session *make(const tern_model *model, uint32_t share) {
    tern_session_params params = TERN_INIT(tern_session_params);
    params.n_ctx = 400;
    params.n_threads = 1;
    params.kv_share = share;
    tern_session *session = NULL;
    OK(tern_session_new(model, &params, &session));
    return session;
}

static tern_session_info about(const tern_session *session) {
    tern_session_info info = TERN_INIT(tern_session_info);
    OK(tern_session_describe(session, &info));
    return info;
}

static void same_logits(const tern_session *a, const tern_session *b) {
    const float *of_a = NULL, *of_b = NULL;
    size_t n_a = 0, n_b = 0;
    OK(tern_session_logits(a, &of_a, &n_a));
    OK(tern_session_logits(b, &of_b, &n_b));
    CHECK(n_a == n_b && memcmp(of_a, of_b, n_a * sizeof *of_a) == 0);
}

int main(int argc, char **argv) {
    tern_model *model = NULL;
    OK(tern_model_load(model_path(argc, argv), NULL, &model));
    tern_token prompt[N_PROMPT];
    for (int i = 0; i < N_PROMPT; i++) prompt[i] = 'a' + i * i % 26;

    tern_session *alone = make(model, 0), *first = make(model, 1), *second = make(model, 1);
    OK(tern_session_eval(alone, prompt, N_PROMPT));
    OK(tern_session_eval(first, prompt, N_PROMPT));
    CHECK(about(first).n_prefill == N_PROMPT && about(first).kv_shared_bytes == 0);
    OK(tern_session_eval(second, prompt, N_PROMPT));
    CHECK(about(second).n_prefill == N_PROMPT - 2 * N_TILE && about(second).pos == N_PROMPT);
    const uint64_t shared = about(second).kv_shared_bytes;
    CHECK(shared > about(second).kv_bytes / 4 && about(first).kv_shared_bytes == shared);
    same_logits(first, alone);
    same_logits(second, alone);

    /* A fork of one that shares with nobody. */
    tern_session *fork = NULL;
    OK(tern_session_fork(alone, &fork));
    CHECK(about(fork).kv_shared_bytes == shared && about(alone).kv_shared_bytes == shared);
    size_t n_evicted = 0;
    OK(tern_session_kv_evict_range(fork, 0, 50, &n_evicted));
    CHECK(n_evicted == 50 && about(fork).kv_shared_bytes == 0 && about(alone).kv_shared_bytes == 0);
    const tern_token next = 'x';
    OK(tern_session_kv_truncate(second, 10));
    OK(tern_session_eval(alone, &next, 1));
    OK(tern_session_eval(first, &next, 1));
    same_logits(first, alone);

    tern_session_free(fork);
    tern_session_free(second);
    tern_session_free(first);
    tern_session_free(alone);
    tern_model_free(model);
    return 0;
}
