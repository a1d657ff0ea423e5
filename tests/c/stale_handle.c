/* Handles used after they were freed: at once, and after their slots were filled again. */
#include "check.h"

int main(int argc, char **argv) {
    const char *path = model_path(argc, argv);
    tern_model *model = load(path);
    tern_session *session = session_of(model, 16);
    tern_sampler *sampler = greedy();
    tern_decoder *decoder = NULL;
    OK(tern_decoder_new(model, &decoder));

    tern_session *stale_session = session;
    tern_sampler *stale_sampler = sampler;
    tern_decoder *stale_decoder = decoder;
    tern_token token = 'a';
    const char *text;
    size_t n;
    tern_session_free(session);
    tern_sampler_free(sampler);
    tern_decoder_free(decoder);
    GIVES(TERN_ERROR_INVALID_HANDLE, tern_session_eval(stale_session, &token, 1));
    CHECK(strstr(tern_last_error(), "session") != NULL);
    GIVES(TERN_ERROR_INVALID_HANDLE, tern_sampler_accept(stale_sampler, 1));
    GIVES(TERN_ERROR_INVALID_HANDLE, tern_decoder_push(stale_decoder, 1, &text, &n));

    /* Every slot is filled anew several times; the old handles stay dead. */
    for (int round = 0; round < 3; round++) {
        tern_sampler *all[256];
        for (int i = 0; i < 256; i++) {
            OK(tern_sampler_new(NULL, &all[i]));
            CHECK(all[i] != stale_sampler);
        }
        tern_sampler *one_more = NULL;
        GIVES(TERN_ERROR_LIMIT, tern_sampler_new(NULL, &one_more));
        CHECK(one_more == NULL);
        GIVES(TERN_ERROR_INVALID_HANDLE, tern_sampler_accept(stale_sampler, 1));
        tern_sampler_free(stale_sampler); /* frees nobody else's */
        for (int i = 0; i < 256; i++) {
            OK(tern_sampler_accept(all[i], 1));
            tern_sampler_free(all[i]);
        }
    }

    /* A stale session aborts nobody. */
    for (int i = 0; i < 300; i++) {
        session = session_of(model, 16);
        tern_session_abort(stale_session);
        OK(tern_session_eval(session, &token, 1));
        tern_session_free(session);
    }

    tern_model *stale_model = model;
    tern_model_free(model);
    GIVES(TERN_ERROR_INVALID_HANDLE, tern_session_new(stale_model, NULL, &session));
    CHECK(!tern_model_token_is_eog(stale_model, 0));
    return 0;
}
