/* A thousand signals a second, without SA_RESTART, while files are read and written: each system call is
 * interrupted sooner or later, and nothing notices. The bytes of what is saved and packed, and the logits
 * of what is loaded and restored, are those of a quiet process. */
#include "check.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <time.h>

enum { N_VOCAB = 288, N_ROUNDS = 6, N_SIGNALS = 40 };

static volatile sig_atomic_t n_signals;
static char saved[4096], packed[4096];

static void count(int n) {
    (void)n;
    n_signals++;
}

static timer_t timer;

static void every(long ns) {
    const struct itimerspec when = {{0, ns}, {0, ns}};
    CHECK(timer_settime(timer, 0, &when, NULL) == 0);
}

/* What a round leaves: a sum over all bytes and bits. */
static uint64_t sum;

static void add(const void *bytes, size_t n) {
    for (size_t i = 0; i < n; i++) {
        sum = (sum ^ ((const unsigned char *)bytes)[i]) * 0x100000001b3u;
    }
}

static void add_file(const char *name) {
    static char bytes[1 << 22];
    const int fd = open(name, O_RDONLY);
    ssize_t n = 0;
    size_t all = 0;
    CHECK(fd >= 0);
    while (all < sizeof bytes && (n = read(fd, bytes + all, sizeof bytes - all)) > 0) {
        all += (size_t)n;
    }
    CHECK(n == 0 && all > 1000);
    add(bytes, all);
    close(fd);
}

static void add_logits(tern_session *session) {
    const float *logits;
    size_t n;
    OK(tern_session_logits(session, &logits, &n));
    CHECK(n == N_VOCAB);
    add(logits, n * sizeof *logits);
}

static void round_of(const char *path) {
    static const tern_token text[] = {'f', 'i', 's', 'h'}, next = '.';
    const tern_load_mode modes[] = {TERN_LOAD_COPY, TERN_LOAD_MAP_GUARDED, TERN_LOAD_MAP_FAST};
    sum = 0xcbf29ce484222325u;
    for (int i = 0; i < 6; i++) {
        tern_model_params params = TERN_INIT(tern_model_params);
        tern_model *model = NULL;
        params.load_mode = modes[i % 3];
        if (i < 3) {
            OK(tern_model_load(path, &params, &model));
        } else {
            const int fd = open(path, O_RDONLY);
            OK(tern_model_load_fd(fd, 0, 0, &params, &model));
            close(fd);
        }
        tern_session *first = session_of(model, 64), *second = session_of(model, 64);
        OK(tern_session_eval(first, text, 4));
        OK(tern_session_save(first, NULL, saved));
        OK(tern_session_prefetch(saved));
        OK(tern_session_restore(second, NULL, saved));
        OK(tern_session_eval(second, &next, 1));
        add_logits(first);
        add_logits(second);
        tern_session_free(first);
        tern_session_free(second);
        tern_model_free(model);
    }
    const tern_status status = tern_model_pack(path, packed, NULL, NULL);
    CHECK(status == TERN_OK || status == TERN_ERROR_UNSUPPORTED);
    if (status == TERN_OK) {
        add_file(packed);
    }
}

int main(int argc, char **argv) {
    const char *const path = model_path(argc, argv);
    struct sigaction action;
    struct sigevent event;
    memset(&action, 0, sizeof action);
    memset(&event, 0, sizeof event);
    snprintf(saved, sizeof saved, "%s.%d.session", path, (int)getpid());
    snprintf(packed, sizeof packed, "%s.%d.packed", path, (int)getpid());
    action.sa_handler = count;
    CHECK(sigaction(SIGUSR1, &action, NULL) == 0);
    event.sigev_notify = SIGEV_SIGNAL;
    event.sigev_signo = SIGUSR1;
    CHECK(timer_create(CLOCK_MONOTONIC, &event, &timer) == 0);

    round_of(path);
    const uint64_t quiet = sum;
    every(1000000);
    for (int i = 0; i < N_ROUNDS || n_signals < N_SIGNALS; i++) {
        round_of(path);
        CHECK(sum == quiet);
    }
    every(0);
    unlink(saved);
    unlink(packed);
    return 0;
}
