/* A bug in the library ends the call, not the process, and the handle can only be freed. The bug
 * is injected by a function that only builds with the feature `test-hooks` have. */
#include "check.h"

tern_status tern_test_panic(tern_session *session);

int main(int argc, char **argv) {
    tern_model *model = load(model_path(argc, argv));
    tern_session *session = session_of(model, 16), *other = session_of(model, 16);
    tern_sampler *sampler = greedy();
    tern_session_info info = TERN_INIT(tern_session_info);
    tern_token token = 'a';
    OK(tern_session_eval(session, &token, 1));
    GIVES(TERN_ERROR_INTERNAL, tern_test_panic(session));
    CHECK(strcmp(tern_last_error(), "panic: injected by a test") == 0);
    for (int i = 0; i < 2; i++) {
        GIVES(TERN_ERROR_POISONED, tern_session_eval(session, &token, 1));
        GIVES(TERN_ERROR_POISONED, tern_session_describe(session, &info));
        GIVES(TERN_ERROR_POISONED, tern_sampler_sample(sampler, session, &token));
    }
    /* Nothing else is touched. */
    OK(tern_session_eval(other, &token, 1));
    OK(tern_sampler_sample(sampler, other, &token));
    tern_session_free(session);
    GIVES(TERN_ERROR_INVALID_HANDLE, tern_session_eval(session, &token, 1));
    session = session_of(model, 16);
    OK(tern_session_eval(session, &token, 1));
    tern_session_free(session);
    tern_session_free(other);
    tern_sampler_free(sampler);
    tern_model_free(model);
    return 0;
}
