/* A session freed, and its model too, while another thread evaluates: that call ends soon, with
 * ABORTED, and the memory goes when it has. */
#include "long_eval.h"

int main(int argc, char **argv) {
    tern_model *model = load(model_path(argc, argv));
    tern_session_info info = TERN_INIT(tern_session_info);
    for (int round = 0; round < 3; round++) {
        tern_session *session = session_of(model, LONG_CTX);
        long_eval eval;
        long_eval_start(&eval, session);
        tern_session_free(session);
        GIVES(TERN_ERROR_INVALID_HANDLE, tern_session_describe(session, &info));
        /* Others that come meanwhile are not disturbed by the end of that one. */
        tern_session *next = session_of(model, 16);
        tern_token token = 'a';
        CHECK(next != session);
        for (int i = 0; i < 10; i++) OK(tern_session_eval(next, &token, 1));
        tern_session_free(session);
        CHECK(long_eval_end(&eval) == TERN_ERROR_ABORTED);
        OK(tern_session_eval(next, &token, 1));
        tern_session_free(next);
    }
    tern_session *session = session_of(model, LONG_CTX);
    long_eval eval;
    long_eval_start(&eval, session);
    tern_model_free(model);
    tern_session_free(session);
    CHECK(long_eval_end(&eval) == TERN_ERROR_ABORTED);
    return 0;
}
