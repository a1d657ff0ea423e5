/* Progress and log callbacks: when they come, what they may do, and how they stop. */
#include "check.h"

#include <pthread.h>

typedef struct {
    uint64_t calls, done, total, stop_after;
    tern_model *other;
} progress_state;

static int32_t progress(void *user_data, uint64_t done, uint64_t total) {
    progress_state *state = user_data;
    CHECK(done >= state->done && done <= total);
    CHECK(state->calls == 0 || total == state->total);
    state->done = done;
    state->total = total;
    state->calls++;
    if (state->other != NULL) { /* other handles may be used from inside */
        const char *piece;
        size_t length;
        OK(tern_model_token_piece(state->other, 'a', &piece, &length));
        tern_model *inner = NULL;
        GIVES(TERN_ERROR_IO, tern_model_load("no/such/file", NULL, &inner));
    }
    return state->stop_after != 0 && state->calls >= state->stop_after ? 1 : 0;
}

typedef struct {
    int n;
    int allowed; /* 0: a call is a failure */
} log_state;

static void on_log(void *user_data, tern_log_level level, const char *message) {
    log_state *state = user_data;
    CHECK(state->allowed && level >= TERN_LOG_ERROR && level <= TERN_LOG_DEBUG);
    CHECK(strlen(message) > 0);
    state->n++;
    tern_log_set(TERN_LOG_OFF, NULL, NULL);        /* ignored, and no deadlock */
    CHECK(strlen(tern_version()) > 0);
}

static void *load_and_free(void *path) {
    for (int i = 0; i < 3; i++) tern_model_free(load(path));
    return NULL;
}

int main(int argc, char **argv) {
    const char *path = model_path(argc, argv);
    tern_model_params params = TERN_INIT(tern_model_params);
    progress_state state = {0, 0, 0, 0, NULL};
    tern_model *model = NULL;
    params.progress = progress;
    params.user_data = &state;
    for (uint32_t mode = TERN_LOAD_COPY; mode <= TERN_LOAD_MAP_GUARDED; mode++) {
        memset(&state, 0, sizeof state);
        params.load_mode = mode;
        OK(tern_model_load(path, &params, &model));
        CHECK(state.calls >= 2 && state.done == state.total && state.total > 0);
        tern_model_free(model);
    }
    params.load_mode = TERN_LOAD_DEFAULT;

    memset(&state, 0, sizeof state);
    state.stop_after = 1;
    model = NULL;
    GIVES(TERN_ERROR_ABORTED, tern_model_load(path, &params, &model));
    CHECK(model == NULL && state.calls == 1);

    memset(&state, 0, sizeof state);
    state.other = load(path);
    OK(tern_model_load(path, &params, &model));
    tern_model_free(state.other);
    tern_model_free(model);

    log_state log = {0, 1};
    tern_log_set(TERN_LOG_DEBUG, on_log, &log);
    tern_model_free(load(path));
    CHECK(log.n > 0); /* the library says at least what it loaded */
    tern_log_set(TERN_LOG_DEBUG, NULL, NULL);
    log.allowed = 0;
    tern_model_free(load(path));
    tern_log_set(TERN_LOG_OFF, on_log, &log);
    tern_model_free(load(path));
    tern_log_set(TERN_LOG_ERROR, on_log, &log); /* nothing fails that no status could say */
    tern_model_free(load(path));

    /* When tern_log_set returns, the former callback is done: its state may go. */
    pthread_t thread;
    CHECK(!pthread_create(&thread, NULL, load_and_free, (void *)(uintptr_t)path));
    for (int i = 0; i < 300; i++) {
        log_state *gone = calloc(1, sizeof *gone);
        CHECK(gone != NULL);
        gone->allowed = 1;
        tern_log_set(TERN_LOG_DEBUG, on_log, gone);
        usleep(100);
        tern_log_set(TERN_LOG_OFF, NULL, NULL);
        free(gone);
    }
    CHECK(!pthread_join(thread, NULL));
    return 0;
}
