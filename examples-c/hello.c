/* Goes on from a text: load, tokenize, eval, sample, print.   hello MODEL.gguf [TEXT [TOKENS]] */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <tern.h>

#define OK(call) ((call) == TERN_OK ? (void)0 : (fprintf(stderr, "%s\n", tern_last_error()), exit(1)))

int main(int argc, char **argv) {
    const char *text = argc > 2 ? argv[2] : "The arctic tern is a bird that", *piece;
    int n = argc > 3 ? atoi(argv[3]) : 64;
    tern_model *model;
    tern_session *session;
    tern_sampler *sampler;
    tern_session_params params = TERN_INIT(tern_session_params);
    tern_token tokens[512];
    size_t n_tokens, length;

    params.n_ctx = 1024;
    OK(tern_model_load(argc > 1 ? argv[1] : "model.gguf", NULL, &model));
    OK(tern_session_new(model, &params, &session));
    OK(tern_sampler_new(NULL, &sampler)); /* NULL: always the most probable token */
    OK(tern_model_tokenize(model, text, strlen(text), TERN_TOKENIZE_ADD_SPECIAL, tokens, 512, &n_tokens));
    for (printf("%s", text); n > 0; n--, n_tokens = 1) {
        OK(tern_session_eval(session, tokens, n_tokens));
        OK(tern_sampler_sample(sampler, session, &tokens[0]));
        if (tern_model_token_is_eog(model, tokens[0])) break;
        OK(tern_model_token_piece(model, tokens[0], &piece, &length));
        fwrite(piece, 1, length, stdout);
        fflush(stdout);
    }
    printf("\n");
    tern_sampler_free(sampler);
    tern_session_free(session);
    tern_model_free(model);
    return 0;
}
