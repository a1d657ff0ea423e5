/* Handles of another type, and pointers that are no handles at all. */
#include "check.h"

static void refused(void *p) {
    tern_session_info info = TERN_INIT(tern_session_info);
    tern_token token = 'a';
    const char *text;
    size_t n;
    GIVES(TERN_ERROR_INVALID_HANDLE, tern_session_eval(p, &token, 1));
    GIVES(TERN_ERROR_INVALID_HANDLE, tern_session_describe(p, &info));
    GIVES(TERN_ERROR_INVALID_HANDLE, tern_sampler_accept(p, 1));
    GIVES(TERN_ERROR_INVALID_HANDLE, tern_decoder_flush(p, &text, &n));
    GIVES(TERN_ERROR_INVALID_HANDLE, tern_model_token_piece(p, 1, &text, &n));
    CHECK(!tern_model_token_is_eog(p, 0));
    tern_session_abort(p);
    tern_model_free(p);
    tern_session_free(p);
    tern_sampler_free(p);
    tern_decoder_free(p);
}

int main(int argc, char **argv) {
    tern_model *model = load(model_path(argc, argv));
    tern_session *session = session_of(model, 16);
    tern_sampler *sampler = greedy();
    tern_decoder *decoder = NULL;
    OK(tern_decoder_new(model, &decoder));
    tern_token token = 'a';
    const char *text;
    size_t n;

    void *const all[] = {model, session, sampler, decoder};
    for (int i = 0; i < 4; i++) {
        if (i != 0) {
            GIVES(TERN_ERROR_INVALID_HANDLE, tern_model_token_piece(all[i], 1, &text, &n));
            tern_model_free(all[i]);
        }
        if (i != 1) {
            GIVES(TERN_ERROR_INVALID_HANDLE, tern_session_eval(all[i], &token, 1));
            tern_session_abort(all[i]);
            tern_session_free(all[i]);
        }
        if (i != 2) {
            GIVES(TERN_ERROR_INVALID_HANDLE, tern_sampler_accept(all[i], 1));
            tern_sampler_free(all[i]);
        }
        if (i != 3) {
            GIVES(TERN_ERROR_INVALID_HANDLE, tern_decoder_push(all[i], 1, &text, &n));
            tern_decoder_free(all[i]);
        }
    }

    char on_stack[256];
    char *on_heap = malloc(256);
    CHECK(on_heap != NULL);
    refused(on_stack);
    refused(on_heap);
    free(on_heap);
    refused((void *)(uintptr_t)1);
    refused((void *)(uintptr_t)0x1234);
    refused((void *)UINTPTR_MAX);
    refused((void *)(uintptr_t)&main);
    for (int i = -300; i <= 300; i++) {
        if (i != 0) refused((char *)session + i);
    }
    /* A seeded million of invented ones, near the tables and anywhere. */
    uint64_t random = 1;
    for (int i = 0; i < 1000000; i++) {
        random = random * 6364136223846793005u + 1442695040888963407u;
        uintptr_t invented = (uintptr_t)(random >> 11);
        if (i % 2) invented = (uintptr_t)session + (invented % 65536) * 128 + 3;
        if ((void *)invented == (void *)session) continue;
        GIVES(TERN_ERROR_INVALID_HANDLE, tern_session_kv_truncate((tern_session *)invented, 0));
    }

    /* None of that did any harm. */
    OK(tern_session_eval(session, &token, 1));
    OK(tern_sampler_sample(sampler, session, &token));
    OK(tern_decoder_push(decoder, token, &text, &n));
    tern_decoder_free(decoder);
    tern_sampler_free(sampler);
    tern_session_free(session);
    tern_model_free(model);
    return 0;
}
