/* The header in two units of one program: nothing in it is defined twice. */
#include "check.h"

tern_status eval_in_b(tern_session *session, tern_token token);

int main(int argc, char **argv) {
    tern_model *model = load(model_path(argc, argv));
    tern_session *session = session_of(model, 16);
    OK(eval_in_b(session, 'a'));
    tern_session_free(session);
    GIVES(TERN_ERROR_INVALID_HANDLE, eval_in_b(session, 'a'));
    CHECK(strstr(tern_last_error(), "freed") != NULL); /* one last error, whoever asks */
    tern_model_free(model);
    return 0;
}
