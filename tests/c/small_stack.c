/* A caller with little stack: threads of robots' frameworks often have 64 KiB. */
#include "check.h"

#include <pthread.h>

static void *whole_life(void *path) {
    tern_model *model = load(path);
    tern_session *session = session_of(model, 64);
    tern_sampler *sampler = greedy();
    const tern_chat_message message = {"user", "Where is the dock?", 18};
    char prompt[256];
    tern_token tokens[256], token;
    size_t length, n;
    OK(tern_model_chat_format(model, &message, 1, 1, prompt, sizeof prompt, &length));
    OK(tern_model_tokenize(model, prompt, length, TERN_TOKENIZE_PARSE_SPECIAL, tokens, 256, &n));
    OK(tern_session_eval(session, tokens, n));
    for (int i = 0; i < 4; i++) {
        OK(tern_sampler_sample(sampler, session, &token));
        OK(tern_session_eval(session, &token, 1));
    }
    tern_model *none = NULL;
    GIVES(TERN_ERROR_BAD_FILE, tern_model_load_memory("GGUF", 4, NULL, &none));
    tern_sampler_free(sampler);
    tern_session_free(session);
    tern_model_free(model);
    return NULL;
}

int main(int argc, char **argv) {
    const char *path = model_path(argc, argv);
    pthread_attr_t attributes;
    pthread_t thread;
    CHECK(pthread_attr_init(&attributes) == 0);
    CHECK(pthread_attr_setstacksize(&attributes, 64 << 10) == 0);
    CHECK(pthread_create(&thread, &attributes, whole_life, (void *)(uintptr_t)path) == 0);
    CHECK(pthread_join(thread, NULL) == 0);
    return 0;
}
