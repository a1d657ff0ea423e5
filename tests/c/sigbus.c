/* The guard against SIGBUS: a model whose file is cut costs that model; whatever else handles SIGBUS, or
 * is to be ended by it, meets it as if the guard were not there. Each case is a process of its own. */
#include "check.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>

enum { N_VOCAB = 288, LEFT = 4096 };

static const char *original;
static sigjmp_buf after_fault;
static volatile sig_atomic_t n_handled;
static void *volatile fault_at;

/* A copy of the model's file, or of anything, under a name that is nobody else's. */
static void copy(char *name, size_t capacity) {
    snprintf(name, capacity, "%s.XXXXXX", original);
    const int to = mkstemp(name), from = open(original, O_RDONLY);
    char buffer[1 << 14];
    CHECK(to >= 0 && from >= 0);
    for (ssize_t n; (n = read(from, buffer, sizeof buffer)) > 0;) {
        CHECK(write(to, buffer, (size_t)n) == n);
    }
    close(from);
    close(to);
}

typedef struct {
    char name[4096];
    tern_model *model;
    tern_session *session;
} subject;

static void open_subject(subject *s, tern_load_mode mode) {
    tern_model_params params = TERN_INIT(tern_model_params);
    params.load_mode = mode;
    copy(s->name, sizeof s->name);
    OK(tern_model_load(s->name, &params, &s->model));
    s->session = session_of(s->model, 64);
}

static void close_subject(subject *s) {
    tern_session_free(s->session);
    tern_model_free(s->model);
    unlink(s->name);
}

static tern_status eval(subject *s) {
    static const tern_token tokens[] = {'a', 'r', 'c', 't', 'i', 'c'};
    return tern_session_eval(s->session, tokens, 6);
}

static void logits_of(subject *s, float *to) {
    const float *logits;
    size_t n;
    OK(tern_session_logits(s->session, &logits, &n));
    CHECK(n == N_VOCAB);
    memcpy(to, logits, sizeof(float) * n);
}

static void cut(const subject *s) { CHECK(truncate(s->name, LEFT) == 0); }

/* Reads behind the end of a mapped file that is no model. */
static volatile char *foreign(void) {
    char name[4096];
    snprintf(name, sizeof name, "%s.XXXXXX", original);
    const int fd = mkstemp(name);
    CHECK(fd >= 0 && unlink(name) == 0 && ftruncate(fd, 2 * LEFT) == 0);
    char *const map = mmap(NULL, 2 * LEFT, PROT_READ, MAP_SHARED, fd, 0);
    CHECK(map != MAP_FAILED && ftruncate(fd, 0) == 0);
    close(fd);
    return map;
}

static void three(int n, siginfo_t *info, void *context) {
    CHECK(n == SIGBUS && context != NULL);
    n_handled++;
    fault_at = info->si_addr;
    siglongjmp(after_fault, 1);
}

static void one(int n) {
    CHECK(n == SIGBUS);
    n_handled++;
    siglongjmp(after_fault, 1);
}

static void counts(int n) {
    CHECK(n == SIGBUS);
    n_handled++;
}

static void handle_by(void (*f)(int), void (*f3)(int, siginfo_t *, void *), int flags) {
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_flags = flags | (f3 != NULL ? SA_SIGINFO : 0);
    if (f3 != NULL) {
        action.sa_sigaction = f3;
    } else {
        action.sa_handler = f;
    }
    CHECK(sigaction(SIGBUS, &action, NULL) == 0);
}

static struct sigaction handled_by(void) {
    struct sigaction action;
    CHECK(sigaction(SIGBUS, NULL, &action) == 0);
    return action;
}

/* The handler of a foreign fault is reached, at the fault's address if it asks for that. */
static void meets_a_foreign_fault(void) {
    volatile char *const map = foreign();
    const int before = n_handled;
    fault_at = NULL;
    if (sigsetjmp(after_fault, 1) == 0) {
        (void)map[17];
        CHECK(!"no fault");
    }
    CHECK(n_handled == before + 1);
    CHECK(fault_at == NULL || fault_at == (void *)&map[17]);
}

/* A model is lost, another one is not, and both go. */
static void a_cut_costs_one_model(void) {
    static float before[N_VOCAB], after[N_VOCAB];
    subject lost, kept;
    tern_session *session = NULL;
    tern_token token;
    size_t n;
    OK(tern_sigbus_guard_install());
    open_subject(&lost, TERN_LOAD_MAP_FAST);
    open_subject(&kept, TERN_LOAD_MAP_FAST);
    OK(eval(&lost));
    OK(eval(&kept));
    logits_of(&kept, before);
    cut(&lost);
    GIVES(TERN_ERROR_IO, eval(&lost));
    GIVES(TERN_ERROR_IO, eval(&lost));
    GIVES(TERN_ERROR_IO, tern_session_new(lost.model, NULL, &session));
    GIVES(TERN_ERROR_IO, tern_session_kv_can(lost.session, TERN_KV_OP_SAVE));
    GIVES(TERN_ERROR_IO, tern_session_save(lost.session, NULL, "/dev/null/none"));
    OK(tern_model_tokenize(lost.model, "a", 1, 0, &token, 1, &n)); /* needs no weights */
    OK(tern_session_kv_truncate(kept.session, 0));
    OK(eval(&kept));
    logits_of(&kept, after);
    CHECK(memcmp(before, after, sizeof before) == 0);
    close_subject(&lost);
    /* In the place of the one that is gone. */
    open_subject(&lost, TERN_LOAD_MAP_FAST);
    OK(eval(&lost));
    logits_of(&lost, after);
    CHECK(memcmp(before, after, sizeof before) == 0);
    close_subject(&lost);
    close_subject(&kept);
}

static void *evaluates(void *with) {
    subject *const s = with;
    const tern_status found = eval(s);
    CHECK(found == TERN_ERROR_IO);
    return NULL;
}

static void a_cut_is_noticed_on_every_thread(void) {
    enum { N = 4 };
    subject first;
    pthread_t threads[N];
    subject sessions[N];
    OK(tern_sigbus_guard_install());
    open_subject(&first, TERN_LOAD_MAP_FAST);
    for (int i = 0; i < N; i++) {
        sessions[i].session = session_of(first.model, 64);
    }
    cut(&first);
    for (int i = 0; i < N; i++) {
        CHECK(pthread_create(&threads[i], NULL, evaluates, &sessions[i]) == 0);
    }
    for (int i = 0; i < N; i++) {
        CHECK(pthread_join(threads[i], NULL) == 0);
        tern_session_free(sessions[i].session);
    }
    close_subject(&first);
}

static void a_guarded_model_says_that_it_changed(void) {
    subject s;
    tern_model_params params = TERN_INIT(tern_model_params);
    params.load_mode = TERN_LOAD_MAP_GUARDED;
    OK(tern_sigbus_guard_install());
    copy(s.name, sizeof s.name);
    const int fd = open(s.name, O_RDONLY); /* of which there is no lease that would hold up this process */
    CHECK(fd >= 0);
    OK(tern_model_load_fd(fd, 0, 0, &params, &s.model));
    close(fd);
    s.session = session_of(s.model, 64);
    cut(&s);
    GIVES(TERN_ERROR_MODEL_CHANGED, eval(&s));
    /* And goes on to say so when the file looks as before. */
    struct stat was;
    CHECK(stat(original, &was) == 0 && truncate(s.name, was.st_size) == 0);
    GIVES(TERN_ERROR_MODEL_CHANGED, eval(&s));
    close_subject(&s);
}

static int32_t cuts(void *with, uint64_t done, uint64_t total) {
    (void)done, (void)total;
    CHECK(truncate(with, LEFT) == 0);
    return 0;
}

static void a_cut_while_it_loads_is_a_status(void) {
    char name[4096];
    tern_model *model = NULL;
    tern_model_params params = TERN_INIT(tern_model_params);
    params.load_mode = TERN_LOAD_MAP_FAST;
    params.progress = cuts;
    params.user_data = name;
    OK(tern_sigbus_guard_install());
    copy(name, sizeof name);
    GIVES(TERN_ERROR_MODEL_CHANGED, tern_model_load(name, &params, &model));
    CHECK(model == NULL);
    unlink(name);
}

static void without_the_guard_a_cut_ends_the_process(void) {
    subject s;
    OK(tern_sigbus_guard_install());
    OK(tern_sigbus_guard_remove());
    open_subject(&s, TERN_LOAD_MAP_FAST);
    cut(&s);
    unlink(s.name);
    const tern_status status = eval(&s);
    CHECK(status == TERN_OK && !"lived");
}

static void a_handler_meets_foreign_faults(void) {
    subject s;
    handle_by(NULL, three, 0);
    OK(tern_sigbus_guard_install());
    OK(tern_sigbus_guard_install());
    meets_a_foreign_fault();
    open_subject(&s, TERN_LOAD_MAP_FAST);
    cut(&s);
    GIVES(TERN_ERROR_IO, eval(&s));
    CHECK(n_handled == 1);
    close_subject(&s);
    meets_a_foreign_fault(); /* maybe where the model was */
    OK(tern_sigbus_guard_remove());
    CHECK(handled_by().sa_sigaction == three && (handled_by().sa_flags & SA_SIGINFO) != 0);
    OK(tern_sigbus_guard_remove());
    CHECK(handled_by().sa_sigaction == three);
    meets_a_foreign_fault();
}

static void a_handler_with_one_parameter_meets_them(void) {
    handle_by(one, NULL, 0);
    OK(tern_sigbus_guard_install());
    meets_a_foreign_fault();
    meets_a_foreign_fault();
}

static void a_handler_of_one_time_meets_one(void) {
    handle_by(one, NULL, (int)SA_RESETHAND);
    OK(tern_sigbus_guard_install());
    meets_a_foreign_fault();
    (void)*foreign();
}

static void a_foreign_fault_ends_the_process(void) {
    OK(tern_sigbus_guard_install());
    (void)*foreign();
}

static void a_fault_cannot_be_ignored(void) {
    handle_by(SIG_IGN, NULL, 0);
    OK(tern_sigbus_guard_install());
    (void)*foreign();
}

static void what_is_sent_can_be_ignored(void) {
    handle_by(SIG_IGN, NULL, 0);
    OK(tern_sigbus_guard_install());
    CHECK(raise(SIGBUS) == 0 && kill(getpid(), SIGBUS) == 0);
}

static void what_is_sent_is_handled(void) {
    handle_by(counts, NULL, 0);
    OK(tern_sigbus_guard_install());
    CHECK(raise(SIGBUS) == 0 && n_handled == 1);
}

static void what_is_sent_ends_the_process(void) {
    OK(tern_sigbus_guard_install());
    raise(SIGBUS);
}

/* A handler of the application's above the guard. */
static struct sigaction below;

static void hands_on(int n, siginfo_t *info, void *context) {
    n_handled++;
    below.sa_sigaction(n, info, context);
}

static void goes_above(void) {
    below = handled_by();
    CHECK((below.sa_flags & SA_SIGINFO) != 0);
    handle_by(NULL, hands_on, 0);
}

static void what_is_handed_on_is_looked_at(void) {
    subject s;
    OK(tern_sigbus_guard_install());
    goes_above();
    open_subject(&s, TERN_LOAD_MAP_FAST);
    cut(&s);
    GIVES(TERN_ERROR_IO, eval(&s));
    CHECK(n_handled >= 1);
    close_subject(&s);
    /* Above that again, which knows of the guard below: no ring. */
    OK(tern_sigbus_guard_install());
    n_handled = 0;
    open_subject(&s, TERN_LOAD_MAP_FAST);
    cut(&s);
    GIVES(TERN_ERROR_IO, eval(&s));
    CHECK(n_handled == 0);
    close_subject(&s);
    OK(tern_sigbus_guard_remove());
    CHECK(handled_by().sa_sigaction == hands_on);
    (void)*foreign(); /* through the one that is left, to where it all began */
}

static void after_removal_what_is_handed_on_goes_through(void) {
    subject s;
    OK(tern_sigbus_guard_install());
    goes_above();
    OK(tern_sigbus_guard_remove());
    CHECK(handled_by().sa_sigaction == hands_on);
    open_subject(&s, TERN_LOAD_MAP_FAST);
    cut(&s);
    unlink(s.name);
    const tern_status status = eval(&s);
    CHECK(status == TERN_OK && !"lived");
}

static void there_is_a_limit_to_it(void) {
    subject s;
    for (int i = 0; i < 4; i++) {
        handle_by(NULL, three, 0);
        OK(tern_sigbus_guard_install());
    }
    handle_by(NULL, three, 0);
    GIVES(TERN_ERROR_LIMIT, tern_sigbus_guard_install());
    meets_a_foreign_fault();
    OK(tern_sigbus_guard_remove());
    CHECK(handled_by().sa_sigaction == three);
    open_subject(&s, TERN_LOAD_COPY);
    cut(&s);
    OK(eval(&s)); /* which needs no guard */
    close_subject(&s);
}

static void errno_and_the_mask_are_left_alone(void) {
    subject s;
    sigset_t before, after;
    OK(tern_sigbus_guard_install());
    open_subject(&s, TERN_LOAD_MAP_FAST);
    CHECK(pthread_sigmask(SIG_SETMASK, NULL, &before) == 0);
    cut(&s);
    errno = 77;
    GIVES(TERN_ERROR_IO, eval(&s));
    CHECK(errno == 77);
    CHECK(pthread_sigmask(SIG_SETMASK, NULL, &after) == 0);
    for (int n = 1; n < SIGRTMAX; n++) {
        CHECK(sigismember(&before, n) == sigismember(&after, n));
    }
    close_subject(&s);
}

static const struct {
    const char *name;
    void (*run)(void);
    int ends;
} cases[] = {
    {"a_cut_costs_one_model", a_cut_costs_one_model, 0},
    {"a_cut_is_noticed_on_every_thread", a_cut_is_noticed_on_every_thread, 0},
    {"a_guarded_model_says_that_it_changed", a_guarded_model_says_that_it_changed, 0},
    {"a_cut_while_it_loads_is_a_status", a_cut_while_it_loads_is_a_status, 0},
    {"without_the_guard_a_cut_ends_the_process", without_the_guard_a_cut_ends_the_process, SIGBUS},
    {"a_handler_meets_foreign_faults", a_handler_meets_foreign_faults, 0},
    {"a_handler_with_one_parameter_meets_them", a_handler_with_one_parameter_meets_them, 0},
    {"a_handler_of_one_time_meets_one", a_handler_of_one_time_meets_one, SIGBUS},
    {"a_foreign_fault_ends_the_process", a_foreign_fault_ends_the_process, SIGBUS},
    {"a_fault_cannot_be_ignored", a_fault_cannot_be_ignored, SIGBUS},
    {"what_is_sent_can_be_ignored", what_is_sent_can_be_ignored, 0},
    {"what_is_sent_is_handled", what_is_sent_is_handled, 0},
    {"what_is_sent_ends_the_process", what_is_sent_ends_the_process, SIGBUS},
    {"what_is_handed_on_is_looked_at", what_is_handed_on_is_looked_at, SIGBUS},
    {"after_removal_what_is_handed_on_goes_through", after_removal_what_is_handed_on_goes_through, SIGBUS},
    {"there_is_a_limit_to_it", there_is_a_limit_to_it, 0},
    {"errno_and_the_mask_are_left_alone", errno_and_the_mask_are_left_alone, 0},
};

int main(int argc, char **argv) {
    original = model_path(argc, argv);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const pid_t child = fork();
        CHECK(child >= 0);
        if (child == 0) {
            alarm(300);
            signal(SIGBUS, SIG_DFL); /* a sanitizer has a handler of its own */
            /* An emulator says of every process that a signal ends that it did. */
            CHECK(cases[i].ends == 0 || freopen("/dev/null", "w", stderr) != NULL);
            cases[i].run();
            exit(0);
        }
        int status = 0;
        CHECK(waitpid(child, &status, 0) == child);
        const int ended = WIFSIGNALED(status) ? WTERMSIG(status) : 0;
        if (ended != cases[i].ends || (ended == 0 && WEXITSTATUS(status) != 0)) {
            fprintf(stderr, "%s: ended by signal %d, status %d\n", cases[i].name, ended,
                    WIFEXITED(status) ? WEXITSTATUS(status) : -1);
            return 1;
        }
    }
    return 0;
}
