/* Everything freed twice, and again after others have come and gone. */
#include "check.h"

int main(int argc, char **argv) {
    const char *path = model_path(argc, argv);
    tern_model *model = load(path);
    tern_session *session = session_of(model, 16);
    tern_sampler *sampler = greedy();
    tern_decoder *decoder = NULL;
    OK(tern_decoder_new(model, &decoder));
    for (int round = 0; round < 3; round++) {
        tern_model_free(model);
        tern_session_free(session);
        tern_sampler_free(sampler);
        tern_decoder_free(decoder);
        tern_model *other = load(path);
        tern_session *other_session = session_of(other, 16);
        tern_model_free(model);
        tern_session_free(session);
        tern_token token = 'a';
        OK(tern_session_eval(other_session, &token, 1));
        tern_model_free(other);
        OK(tern_session_eval(other_session, &token, 1));
        tern_session_free(other_session);
    }
    return 0;
}
