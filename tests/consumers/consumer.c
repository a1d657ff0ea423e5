/* A program outside the tree, as a user would write it: it links an installed tern and checks what
 * can be checked without a model; given a model, it also says a few tokens.
 *
 *   consumer [MODEL.gguf]     exit 0: all is as expected
 */
#include <stdio.h>
#include <string.h>
#include <tern.h>

#define EXPECT(condition)                                                        \
    do {                                                                         \
        if (!(condition)) {                                                      \
            fprintf(stderr, "consumer.c:%d: not so: %s (last error: %s)\n",      \
                    __LINE__, #condition, tern_last_error());                    \
            return 1;                                                            \
        }                                                                        \
    } while (0)

static int say(const char *path) {
    tern_model *model = NULL;
    tern_session *session = NULL;
    tern_sampler *sampler = NULL;
    tern_token tokens[64];
    size_t n_tokens = 0;
    const char *text = "The capital of France is";
    char said[256] = "";

    EXPECT(tern_model_load(path, NULL, &model) == TERN_OK);
    EXPECT(tern_model_tokenize(model, text, strlen(text), TERN_TOKENIZE_ADD_SPECIAL, tokens, 64,
                               &n_tokens) == TERN_OK);
    EXPECT(n_tokens > 0);
    tern_session_params params = TERN_INIT(tern_session_params);
    params.n_ctx = 256;
    EXPECT(tern_session_new(model, &params, &session) == TERN_OK);
    EXPECT(tern_sampler_new(NULL, &sampler) == TERN_OK);
    EXPECT(tern_session_eval(session, tokens, n_tokens) == TERN_OK);
    for (int i = 0; i < 8; i++) {
        const char *piece = NULL;
        size_t piece_len = 0;
        tern_token token = 0;
        EXPECT(tern_sampler_sample(sampler, session, &token) == TERN_OK);
        if (tern_model_token_is_eog(model, token))
            break;
        EXPECT(tern_model_token_piece(model, token, &piece, &piece_len) == TERN_OK);
        EXPECT(strlen(said) + piece_len < sizeof said);
        strncat(said, piece, piece_len);
        EXPECT(tern_session_eval(session, &token, 1) == TERN_OK);
    }
    printf("said:%s\n", said);
    EXPECT(said[0] != '\0');
    tern_sampler_free(sampler);
    tern_session_free(session);
    tern_model_free(model);
    return 0;
}

int main(int argc, char **argv) {
    char version[32];
    tern_model *model = NULL;

    snprintf(version, sizeof version, "%d.%d.%d", TERN_VERSION_MAJOR, TERN_VERSION_MINOR,
             TERN_VERSION_PATCH);
    EXPECT(strcmp(tern_version(), version) == 0);
    EXPECT(tern_abi_version() == TERN_ABI_VERSION);
    EXPECT(strcmp(tern_status_name(TERN_ERROR_KV_FULL), "TERN_ERROR_KV_FULL") == 0);

    EXPECT(tern_model_load("/nonexistent/model.gguf", NULL, &model) == TERN_ERROR_IO);
    EXPECT(model == NULL);
    EXPECT(strlen(tern_last_error()) > 0);
    EXPECT(tern_model_load(NULL, NULL, &model) == TERN_ERROR_INVALID_ARGUMENT);
    EXPECT(tern_session_new(NULL, NULL, NULL) != TERN_OK);
    tern_model_free(NULL);
    tern_session_free(NULL);
    tern_sampler_free(NULL);

    if (argc > 1 && say(argv[1]) != 0)
        return 1;
    printf("consumer: tern %s is as expected\n", version);
    return 0;
}
