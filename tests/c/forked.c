/* A forked child is told that its parent's handles are not its own, and can make others; the
 * parent does not notice. */
#include "check.h"

#include <sys/wait.h>

int main(int argc, char **argv) {
    const char *path = model_path(argc, argv);
    tern_model *model = load(path);
    tern_session *session = session_of(model, 16);
    tern_sampler *sampler = greedy();
    tern_token token = 'a';
    OK(tern_session_eval(session, &token, 1));
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        alarm(60); /* alarms are not inherited */
        tern_session_info info = TERN_INIT(tern_session_info);
        tern_session *none = NULL;
        GIVES(TERN_ERROR_FORKED, tern_session_eval(session, &token, 1));
        GIVES(TERN_ERROR_FORKED, tern_session_describe(session, &info));
        GIVES(TERN_ERROR_FORKED, tern_session_new(model, NULL, &none));
        GIVES(TERN_ERROR_FORKED, tern_sampler_accept(sampler, 1));
        tern_session_abort(session);
        tern_session_free(session);
        tern_model_free(model);
        tern_model *own = load(path);
        tern_session *own_session = session_of(own, 16);
        OK(tern_session_eval(own_session, &token, 1));
        tern_session_free(own_session);
        tern_model_free(own);
        _exit(0);
    }
    int status = -1;
    CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0);
    OK(tern_session_eval(session, &token, 1));
    OK(tern_sampler_sample(sampler, session, &token));
    tern_sampler_free(sampler);
    tern_session_free(session);
    tern_model_free(model);
    return 0;
}
