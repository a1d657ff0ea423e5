/* fork() in the middle of everything: while other threads evaluate, sample, make and free sessions, load,
 * log and change where messages go. Each child is told that its parent's handles are not its own, by
 * every function, and can make others, which compute the same bits; the parent does not notice.
 * The second argument: how many children. */
#include "life.h"

#include <fcntl.h>
#include <stdatomic.h>
#include <sys/wait.h>

static const char *path;
static char saved[64];
static tern_model *model;
static tern_session *session;
static tern_sampler *sampler;
static tern_decoder *decoder;
static uint64_t expected;
static atomic_int is_over;
static atomic_long n_lines, n_rounds;

static uint64_t round_of(const tern_model *of, uint32_t n_threads) {
    uint64_t found = 0;
    tern_session *made = session_with(of, n_threads);
    tern_sampler *chooser = greedy();
    OK(tern_session_eval(made, prompt, 20));
    decode(&found, made, chooser, 4);
    tern_sampler_free(chooser);
    tern_session_free(made);
    return found;
}

static void *evaluate(void *unused) {
    (void)unused;
    while (!atomic_load(&is_over)) {
        CHECK(round_of(model, 3) == expected);
        atomic_fetch_add(&n_rounds, 1);
    }
    return NULL;
}

/* One session that is never made anew, whose pool the children must not touch. */
static void *go_on(void *unused) {
    (void)unused;
    while (!atomic_load(&is_over)) {
        uint64_t found = 0;
        OK(tern_session_eval(session, prompt + 1, 20));
        mix_logits(&found, session);
        static uint64_t first;
        if (first == 0) first = found;
        CHECK(found == first);
        OK(tern_session_kv_truncate(session, 1));
    }
    return NULL;
}

static void *load_often(void *unused) {
    (void)unused;
    while (!atomic_load(&is_over)) tern_model_free(load(path));
    return NULL;
}

static void on_log(void *user_data, tern_log_level level, const char *message) {
    (void)user_data, (void)level, (void)message;
    atomic_fetch_add(&n_lines, 1);
}

static void *log_elsewhere(void *unused) {
    (void)unused;
    while (!atomic_load(&is_over)) tern_log_set(TERN_LOG_DEBUG, on_log, NULL);
    return NULL;
}

#define FORKED(call) GIVES(TERN_ERROR_FORKED, call)

/* Every function. */
static void be_a_child(void) {
    tern_token token = 1, ids[8];
    char text[64];
    const char *lent, *key;
    const float *logits;
    const tern_token_logprob *list;
    size_t n;
    tern_session *none = NULL;
    tern_decoder *no_decoder = NULL;
    tern_model_info about_model = TERN_INIT(tern_model_info);
    tern_session_info about = TERN_INIT(tern_session_info);
    tern_kv_plan_info plan = TERN_INIT(tern_kv_plan_info);
    tern_kv_segment segment = TERN_INIT(tern_kv_segment);
    const tern_chat_message message = {"user", "x", 1};
    uint32_t gone[8];
    segment.to_pos = 1;

    FORKED(tern_model_describe(model, &about_model));
    FORKED(tern_model_metadata(model, "general.name", &lent, &n));
    FORKED(tern_model_metadata_at(model, 0, &key, &lent, &n));
    FORKED(tern_model_chat_template(model, &lent, &n));
    FORKED(tern_model_tokenize(model, "x", 1, 0, ids, 8, &n));
    FORKED(tern_model_detokenize(model, &token, 1, 0, text, sizeof text, &n));
    FORKED(tern_model_token_piece(model, token, &lent, &n));
    CHECK(!tern_model_token_is_eog(model, token));
    FORKED(tern_model_chat_format(model, &message, 1, 1, text, sizeof text, &n));
    FORKED(tern_decoder_new(model, &no_decoder));
    FORKED(tern_decoder_push(decoder, token, &lent, &n));
    FORKED(tern_decoder_flush(decoder, &lent, &n));
    FORKED(tern_decoder_reset(decoder));
    FORKED(tern_session_new(model, NULL, &none));
    FORKED(tern_session_eval(session, &token, 1));
    FORKED(tern_session_eval_with(session, &token, 1, NULL));
    FORKED(tern_session_logits(session, &logits, &n));
    FORKED(tern_session_logits_at(session, 0, &logits, &n));
    FORKED(tern_session_kv_evict(session, NULL, &n));
    FORKED(tern_session_kv_evict_range(session, 0, 1, &n));
    FORKED(tern_session_kv_truncate(session, 0));
    FORKED(tern_session_fork(session, &none));
    FORKED(tern_session_describe(session, &about));
    FORKED(tern_session_set_threads(session, 1, 1));
    FORKED(tern_session_kv_evict_plan(session, NULL, &plan, gone, 8, &n));
    FORKED(tern_session_kv_rebuild(session, NULL));
    FORKED(tern_session_kv_can(session, TERN_KV_OP_FORK));
    FORKED(tern_session_kv_segment_set(session, "s", &segment));
    FORKED(tern_session_kv_segment_get(session, "s", &segment));
    FORKED(tern_session_kv_segment_remove(session, "s"));
    FORKED(tern_session_kv_segment_at(session, 0, text, sizeof text, &n, &segment));
    FORKED(tern_sampler_sample(sampler, session, &token));
    FORKED(tern_session_generate(session, sampler, NULL, ids, 8, &n));
    FORKED(tern_sampler_accept(sampler, 1));
    FORKED(tern_sampler_reset(sampler));
    FORKED(tern_sampler_logprobs(sampler, &list, &n));
    FORKED(tern_session_save(session, sampler, saved));
    FORKED(tern_session_restore(session, sampler, saved));
    FORKED(tern_session_write(session, sampler, text, sizeof text, &n));
    FORKED(tern_session_read(session, sampler, text, sizeof text));
    CHECK(none == NULL && no_decoder == NULL);
    /* Those that cannot say it do nothing. */
    tern_session_abort(session);
    tern_session_kv_set_budget(session, 100);
    CHECK(tern_session_progress(session) == 0);
    tern_session_free(session);
    tern_sampler_free(sampler);
    tern_decoder_free(decoder);
    tern_model_free(model);
    FORKED(tern_session_describe(session, &about));

    /* What needs no handle goes on, whichever lock was taken when the child was made. */
    tern_device_info device = TERN_INIT(tern_device_info);
    tern_plan_info needs = TERN_INIT(tern_plan_info);
    tern_model *own = NULL;
    CHECK(tern_version()[0] != 0 && tern_abi_version() == TERN_ABI_VERSION && tern_device_count() == 1);
    CHECK(strcmp(tern_status_name(TERN_ERROR_FORKED), "TERN_ERROR_FORKED") == 0);
    CHECK(tern_last_error()[0] != 0);
    CHECK(tern_sigbus_guard_install() == TERN_OK && tern_sigbus_guard_remove() == TERN_OK);
    tern_log_set(TERN_LOG_DEBUG, on_log, NULL);
    OK(tern_device_describe(0, &device));
    OK(tern_model_plan(path, NULL, NULL, &needs));
    GIVES(TERN_ERROR_IO, tern_session_prefetch("no/such/file"));
    GIVES(TERN_ERROR_IO, tern_model_pack("no/such/file", "no/such/folder/file", NULL, NULL));
    GIVES(TERN_ERROR_BAD_FILE, tern_model_load_memory("GGUF", 4, NULL, &own));
    const int file = open(path, O_RDONLY | O_CLOEXEC);
    OK(tern_model_load_fd(file, 0, 0, NULL, &own));
    close(file);
    tern_decoder *own_decoder = NULL;
    tern_sampler *own_sampler = NULL;
    OK(tern_decoder_new(own, &own_decoder));
    OK(tern_sampler_new(NULL, &own_sampler));
    CHECK(round_of(own, 2) == expected);
    tern_decoder_free(own_decoder);
    tern_sampler_free(own_sampler);
    tern_model_free(own);
    tern_log_set(TERN_LOG_OFF, NULL, NULL);
    own = NULL;
    OK(tern_model_load(path, NULL, &own));
    tern_model_free(own);
}

int main(int argc, char **argv) {
    static void *(*const work[])(void *) = {evaluate, go_on, load_often, log_elsewhere};
    enum { N_WORK = sizeof work / sizeof *work };
    const long n = strikes(argc, argv);
    pthread_t threads[N_WORK];
    uint64_t seed = 5;
    path = model_path(argc, argv);
    alarm(36000); /* not inherited by children, each of which has its own */
    snprintf(saved, sizeof saved, "/tmp/tern-forks-%ld", (long)getpid());
    model = load(path);
    session = session_with(model, 3);
    sampler = greedy();
    OK(tern_decoder_new(model, &decoder));
    OK(tern_session_eval(session, prompt, 1));
    expected = round_of(model, 1);
    for (int i = 0; i < N_WORK; i++) CHECK(pthread_create(&threads[i], NULL, work[i], NULL) == 0);
    for (long i = 0; i < n; i++) {
        pause_ns(chance(&seed) % 2000000);
        const pid_t child = fork();
        CHECK(child >= 0);
        if (child == 0) {
            alarm(120);
            be_a_child();
            _exit(0);
        }
        int status = -1;
        CHECK(waitpid(child, &status, 0) == child);
        if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) {
            fprintf(stderr, "child %ld of %ld: status %#x\n", i, n, (unsigned)status);
            exit(1);
        }
    }
    atomic_store(&is_over, 1);
    for (int i = 0; i < N_WORK; i++) CHECK(pthread_join(threads[i], NULL) == 0);
    printf("%ld children; meanwhile %ld rounds and %ld messages\n", n, atomic_load(&n_rounds),
           atomic_load(&n_lines));
    tern_decoder_free(decoder);
    tern_sampler_free(sampler);
    tern_session_free(session);
    tern_model_free(model);
    return 0;
}
