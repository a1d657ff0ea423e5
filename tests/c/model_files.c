/* What becomes of a model whose file another program cuts, overwrites, unlinks or replaces:
 *
 *     model_files FOLDER MODE SOURCE EVENT STAGE GUARD DELAY
 *
 * FOLDER has `a.gguf`, `b.gguf` of the same size and shape, and `a.packed`, `b.packed`. It prints one
 * word: `same` (all that was evaluated has the bits of the model that was meant), `other` (those of the
 * file that took its place), `differs`, or the name of the status that the first call to fail gave;
 * before it `lease` if the kernel holds up writers. All later calls give that status again. */
#include "check.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/wait.h>

enum { N_PROMPT = 192, N_DECODE = 12, N_VOCAB = 288, LEFT = 4096, N_AFTER = 3 };

static char path[4096], other[4096], snapshot[4096];
static int by_fd;
static tern_load_mode mode;
static int go[2], said[2];
static pid_t actor;

static void copy(const char *from, const char *to) {
    const int in = open(from, O_RDONLY), out = open(to, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    char buffer[1 << 14];
    CHECK(in >= 0 && out >= 0);
    for (ssize_t n; (n = read(in, buffer, sizeof buffer)) > 0;) {
        CHECK(write(out, buffer, (size_t)n) == n);
    }
    close(in);
    close(out);
}

/* ---- the other program ---- */

static void tell(char what) { CHECK(write(said[1], &what, 1) == 1); }

/* Opens the file for writing. Where the kernel holds that up, says so first: from then on it is known. */
static int knock(void) {
    int fd = open(path, O_WRONLY | O_NONBLOCK);
    if (fd < 0) {
        tell('K');
        fd = open(path, O_WRONLY);
    }
    CHECK(fd >= 0);
    return fd;
}

static void act(const char *event, long delay) {
    char word;
    if (read(go[0], &word, 1) != 1) {
        _exit(0);
    }
    usleep((useconds_t)delay);
    if (strcmp(event, "cut") == 0) {
        const int fd = knock();
        CHECK(ftruncate(fd, LEFT) == 0);
        close(fd);
    } else if (strcmp(event, "overwrite") == 0) {
        const int fd = knock(), in = open(other, O_RDONLY);
        char buffer[1 << 14];
        for (ssize_t n; (n = read(in, buffer, sizeof buffer)) > 0;) {
            CHECK(write(fd, buffer, (size_t)n) == n);
        }
        close(in);
        close(fd);
    } else if (strcmp(event, "unlink") == 0) {
        CHECK(unlink(path) == 0);
    } else {
        CHECK(strcmp(event, "replace") == 0 && rename(other, path) == 0);
    }
    tell('D');
    _exit(0);
}

static void start_event(void) { CHECK(write(go[1], "g", 1) == 1); }

/* Until it is done, or waits for this process. */
static void await_event(void) {
    char what;
    CHECK(read(said[0], &what, 1) == 1);
}

static int has_happened(void) {
    char what;
    return read(said[0], &what, 1) == 1;
}

static int32_t event_in_load(void *started, uint64_t done, uint64_t total) {
    (void)done, (void)total;
    if (!*(int *)started) {
        *(int *)started = 1;
        start_event();
        await_event();
    }
    return 0;
}

/* ---- the model ---- */

static float expected[N_DECODE + 1][N_VOCAB], expected_other[N_DECODE + 1][N_VOCAB];
static int is_same = 1, is_other = 1;

static tern_token token(int i) { return (tern_token)((i * 37 + 11) % 250); }

static tern_status load_it(const char *name, int fd, int *in_load, tern_model **model) {
    tern_model_params params = TERN_INIT(tern_model_params);
    params.load_mode = mode;
    if (in_load != NULL) {
        params.progress = event_in_load;
        params.user_data = in_load;
    }
    return by_fd ? tern_model_load_fd(fd, 0, 0, &params, model) : tern_model_load(name, &params, model);
}

static tern_status new_session(const tern_model *model, tern_session **session) {
    tern_session_params params = TERN_INIT(tern_session_params);
    params.n_ctx = 256;
    params.n_batch = 64;
    params.n_threads = 2;
    return tern_session_new(model, &params, session);
}

static tern_status prefill(tern_session *session) {
    tern_token prompt[N_PROMPT];
    for (int i = 0; i < N_PROMPT; i++) {
        prompt[i] = token(i);
    }
    return tern_session_eval(session, prompt, N_PROMPT);
}

static tern_status decode(tern_session *session, int i) {
    const tern_token next = token(N_PROMPT + i);
    return tern_session_eval(session, &next, 1);
}

static void expect(const char *name, float to[N_DECODE + 1][N_VOCAB]) {
    const int fd = open(name, O_RDONLY);
    tern_model *model = NULL;
    tern_session *session = NULL;
    const float *logits;
    size_t n;
    OK(load_it(name, fd, NULL, &model));
    OK(new_session(model, &session));
    for (int i = 0; i <= N_DECODE; i++) {
        OK(i == 0 ? prefill(session) : decode(session, i - 1));
        OK(tern_session_logits(session, &logits, &n));
        CHECK(n == N_VOCAB);
        memcpy(to[i], logits, sizeof to[i]);
    }
    tern_session_free(session);
    tern_model_free(model);
    close(fd);
}

/* The logits after the prompt and `i` tokens are those of one of the models. */
static void compare(tern_session *session, int i) {
    const float *logits;
    size_t n;
    OK(tern_session_logits(session, &logits, &n));
    is_same &= memcmp(logits, expected[i], sizeof expected[i]) == 0;
    is_other &= memcmp(logits, expected_other[i], sizeof expected_other[i]) == 0;
}

static tern_model *model;
static tern_session *session;

static void finish(tern_status status) {
    if (status != TERN_OK) {
        const char *const name = tern_status_name(status);
        printf("%s\n", name);
        CHECK(tern_last_error()[0] != '\0');
        /* What has failed once fails ever after. */
        if (session != NULL) {
            GIVES(status, decode(session, 0));
        }
        if (model != NULL) {
            tern_session *another = NULL;
            GIVES(status, new_session(model, &another));
        }
    } else {
        printf("%s\n", is_same ? "same" : is_other ? "other" : "differs");
    }
    tern_session_free(session);
    tern_model_free(model);
    close(go[1]);
    /* Whoever was held up goes on. */
    int ended = -1;
    CHECK(waitpid(actor, &ended, 0) == actor && ended == 0);
    exit(0);
}

static void must(tern_status status) {
    if (status != TERN_OK) {
        finish(status);
    }
}

static int has_lease(void) {
    const int fd = open(path, O_RDONLY);
    const int has = fcntl(fd, F_SETLEASE, F_RDLCK) == 0;
    close(fd);
    return has;
}

int main(int argc, char **argv) {
    if (argc != 8) {
        return 2;
    }
    alarm(300);
    const char *const folder = argv[1], *const source = argv[3], *const event = argv[4];
    const char *const stage = argv[5];
    const char *const kind = strcmp(source, "packed") == 0 ? "packed" : "gguf";
    char a[4096], b[4096];
    snprintf(a, sizeof a, "%s/a.%s", folder, kind);
    snprintf(b, sizeof b, "%s/b.%s", folder, kind);
    snprintf(path, sizeof path, "%s/%d.model", folder, (int)getpid());
    snprintf(other, sizeof other, "%s/%d.other", folder, (int)getpid());
    snprintf(snapshot, sizeof snapshot, "%s/%d.session", folder, (int)getpid());
    copy(a, path);
    copy(b, other);
    mode = strcmp(argv[2], "copy") == 0      ? TERN_LOAD_COPY
           : strcmp(argv[2], "guarded") == 0 ? TERN_LOAD_MAP_GUARDED
                                             : TERN_LOAD_MAP_FAST;
    by_fd = strcmp(source, "fd") == 0;
    CHECK(pipe(go) == 0 && pipe(said) == 0);
    actor = fork();
    CHECK(actor >= 0);
    if (actor == 0) {
        close(go[1]);
        act(event, atol(argv[7]));
    }
    close(go[0]);
    if (mode == TERN_LOAD_MAP_GUARDED && !by_fd && has_lease()) {
        printf("lease ");
    }
    if (strcmp(argv[6], "guard") == 0) {
        OK(tern_sigbus_guard_install());
    }
    fflush(stdout); /* what follows may end the process */
    expect(a, expected);
    expect(b, expected_other);

    const int fd = open(path, O_RDONLY);
    int in_load = strcmp(stage, "loading") != 0;
    if (strcmp(stage, "before") == 0) {
        start_event();
        await_event();
    }
    must(load_it(path, fd, in_load ? NULL : &in_load, &model));
    close(fd);
    if (strcmp(stage, "loaded") == 0) {
        start_event();
        await_event();
    }
    must(new_session(model, &session));
    const int repeats_prefill = strcmp(stage, "prefill") == 0, repeats_decode = strcmp(stage, "decode") == 0;
    if (repeats_prefill || repeats_decode) {
        /* The same again and again, until it has happened in the middle of it. */
        CHECK(fcntl(said[0], F_SETFL, O_NONBLOCK) == 0);
        if (repeats_decode) {
            must(prefill(session));
        }
        start_event();
        int i = 0, n_after = 0;
        while (n_after < N_AFTER) {
            if (repeats_prefill) {
                OK(tern_session_kv_truncate(session, 0));
                must(prefill(session));
                compare(session, 0);
            } else {
                must(decode(session, i++));
                compare(session, i);
                if (i == N_DECODE) {
                    OK(tern_session_kv_truncate(session, N_PROMPT));
                    i = 0;
                }
            }
            n_after += n_after > 0 || has_happened();
        }
        finish(TERN_OK);
    }
    must(prefill(session));
    compare(session, 0);
    if (strcmp(stage, "saved") == 0) {
        must(tern_session_save(session, NULL, snapshot));
        tern_session_free(session);
        session = NULL;
        start_event();
        await_event();
        must(new_session(model, &session));
        must(tern_session_restore(session, NULL, snapshot));
    }
    for (int i = 0; i < N_DECODE; i++) {
        must(decode(session, i));
        compare(session, i + 1);
    }
    finish(TERN_OK);
    return 1;
}
