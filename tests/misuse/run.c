/* Runs the table of misuses that tests/misuse.rs makes of the header: as C and as C++.
 *
 *     run CASES [ANOTHER COPY OF THE LIBRARY]
 *
 * Wants model.gguf in the current folder. calls.h, made of the header, has call(), N_FUNCTIONS and
 * HOOKS. What a line of the table says stands in tests/misuse/table.rs. */
#include "handles.h"

/* --- reading the table ------------------------------------------------------------------------ */

static long long number(FILE *table) {
    long long n = 0;
    NEED(fscanf(table, "%lld", &n) == 1);
    return n;
}

static unsigned char *whole_file(const char *path, size_t *size) {
    FILE *file = fopen(path, "rb");
    struct stat stat;
    NEED(file != NULL && fstat(fileno(file), &stat) == 0);
    *size = (size_t)stat.st_size;
    unsigned char *bytes = (unsigned char *)must_allocate(*size);
    NEED(fread(bytes, 1, *size, file) == *size);
    fclose(file);
    return bytes;
}

/* Each block is an allocation of its own and, under sanitizers, as large as it is said to be, so that
 * they see what is read or written beyond it. */
static void read_block(FILE *table, block *b) {
    static char text[16384];
    NEED(fscanf(table, " b %c %zu %16383s", &b->role, &b->size, text) == 3);
    if (text[0] == '@') {
        b->bytes = whole_file(text + 1, &b->size);
    } else {
        b->bytes = (unsigned char *)must_allocate(b->size);
        memset(b->bytes, 0x5A, b->size);
        for (size_t i = 0; text[0] != '-' && i < b->size; i++) {
            char digits[3] = {text[2 * i], text[2 * i + 1], 0};
            b->bytes[i] = (unsigned char)strtoul(digits, NULL, 16);
        }
    }
}

static int on_progress(void *user_data, uint64_t done, uint64_t total) {
    (void)user_data, (void)done, (void)total;
    return 0;
}
static int on_cancel(void *user_data, uint64_t done, uint64_t total) {
    (void)user_data, (void)done, (void)total;
    return 1;
}
static void on_log(void *user_data, tern_log_level level, const char *message) {
    (void)user_data, (void)level, (void)message;
}

static uint64_t callback(long long id) {
    switch (id) {
    case 1: return (uint64_t)(uintptr_t)on_progress;
    case 2: return (uint64_t)(uintptr_t)on_cancel;
    case 3: return (uint64_t)(uintptr_t)on_log;
    default: return 0;
    }
}

static uint64_t argument(FILE *table) {
    char what;
    NEED(fscanf(table, " %c", &what) == 1);
    long long a = what == 's' || what == 'x' ? 0 : number(table);
    switch (what) {
    case 'h': {
        long long variant = number(table);
        if (variant == FRESH) handles[a][FRESH] = make((int)a, handles[MODEL][LIVE], 0);
        if (variant == ORPHAN) { /* one that no case has changed */
            void *parent = make(MODEL, NULL, 0);
            handles[a][ORPHAN] = make((int)a, parent, 0);
            free_it(MODEL, parent);
        }
        return (uint64_t)(uintptr_t)handles[a][variant];
    }
    case 'n': return (uint64_t)(uintptr_t)handles[a][LIVE] + (uint64_t)number(table);
    case 'z': return (uint64_t)now.blocks[a].size + (uint64_t)number(table);
    case 'p': return (uint64_t)(uintptr_t)now.blocks[a].bytes + (uint64_t)number(table);
    case 'c': return callback(a);
    case 'd': return (uint64_t)(int64_t)descriptors[a];
    case 's': return (uint64_t)(uintptr_t)on_stack;
    case 'x': return (uint64_t)(uintptr_t)&fail;
    default: NEED(what == 'i'); return (uint64_t)a;
    }
}

static int read_case(FILE *table) {
    memset(&now, 0, sizeof now);
    if (fscanf(table, " case %d %d %d %d %d %d %d %d %159s", &now.id, &now.function, &now.how,
               &now.kind, &now.n_args, &now.n_blocks, &now.n_relocs, &now.n_expected, now.name)
        != 9) {
        return 0;
    }
    NEED(now.n_args <= MAX_ARGS && now.n_blocks <= MAX_BLOCKS && now.n_expected <= MAX_EXPECTED);
    for (int i = 0; i < now.n_blocks; i++) read_block(table, &now.blocks[i]);
    for (int i = 0; i < now.n_relocs; i++) {
        char r;
        NEED(fscanf(table, " %c", &r) == 1 && (r == 'r' || r == 'f'));
        long long in = number(table), at = number(table), to = number(table), off = number(table);
        uint64_t value =
            r == 'f' ? callback(to) : (uint64_t)(uintptr_t)now.blocks[to].bytes + (uint64_t)off;
        memcpy(now.blocks[in].bytes + at, &value, sizeof value);
    }
    for (int i = 0; i < now.n_args; i++) now.args[i] = argument(table);
    for (int i = 0; i < now.n_expected; i++) now.expected[i] = number(table);
    for (int i = 0; i < now.n_blocks; i++) {
        block *b = &now.blocks[i];
        b->before = (unsigned char *)must_allocate(b->size);
        memcpy(b->before, b->bytes, b->size);
    }
    return 1;
}

/* --- running a case --------------------------------------------------------------------------- */

/* The call itself, once, with another sentence as the last error before it. */
static void run_once(void *argument) {
    test_case *c = (test_case *)argument;
    if (c->n_calls++ != 0) return;
    char former[600];
    tern_device_info info;
    memset(&info, 0, sizeof info);
    info.struct_size = sizeof info;
    NEED(tern_device_describe(77777, &info) == TERN_ERROR_INVALID_ARGUMENT);
    snprintf(former, sizeof former, "%s", tern_last_error());
    errno = 77;
    c->found = call(c->function, c->args);
    c->bad_errno = errno != 77;
    snprintf(c->sentence, sizeof c->sentence, "%s", tern_last_error());
    if (strcmp(c->sentence, former) == 0) c->sentence[0] = '\0';
}

static void *run_on_thread(void *argument) {
    run_once(argument);
    return NULL;
}

static int run_in_progress(void *user_data, uint64_t done, uint64_t total) {
    (void)done, (void)total;
    run_once(user_data);
    return 0;
}

static void run_in_log(void *user_data, tern_log_level level, const char *message) {
    (void)level, (void)message;
    run_once(user_data);
}

static void run(void) {
    switch (now.how) {
    case THREAD: {
        pthread_t thread;
        NEED(pthread_create(&thread, NULL, run_on_thread, &now) == 0);
        NEED(pthread_join(thread, NULL) == 0);
        break;
    }
    case PROGRESS: {
        tern_model_params params;
        tern_model *model = NULL;
        memset(&params, 0, sizeof params);
        params.struct_size = sizeof params;
        params.progress = run_in_progress;
        params.user_data = &now;
        OK(tern_model_load("model.gguf", &params, &model));
        tern_model_free(model);
        break;
    }
    case PACKING: OK(tern_model_pack("model.gguf", "again.gguf", run_in_progress, &now)); break;
    case LOG:
        tern_log_set(TERN_LOG_DEBUG, run_in_log, &now);
        tern_model_free((tern_model *)make(MODEL, NULL, 0));
        tern_log_set(TERN_LOG_OFF, NULL, NULL);
        break;
    case FULL: { /* while there are as many of a kind as there can be */
        static void *others[300];
        int n = 0;
        while (n < 300 && try_to_make(now.kind, handles[MODEL][LIVE], &others[n]) == TERN_OK) n++;
        NEED(n < 300);
        run_once(&now);
        while (n > 0) free_it(now.kind, others[--n]);
        break;
    }
#if HOOKS
    case HELD:
    case SHARED: {
        /* What a case frees is held itself. */
        int variant = handles[now.kind][FRESH] != NULL ? FRESH : LIVE;
        OK(tern_test_hold((uint32_t)now.kind, handles[now.kind][variant], now.how == HELD, run_once,
                          &now));
        break;
    }
#endif
    default: run_once(&now);
    }
    if (now.n_calls == 0) fail("was never called", 0);
}

static uint64_t word_at(const block *b) {
    uint64_t word = 0;
    memcpy(&word, b->bytes, sizeof word);
    return word;
}

static void check_blocks(int failed) {
    for (int i = 0; i < now.n_blocks; i++) {
        const block *b = &now.blocks[i];
        int changed = memcmp(b->bytes, b->before, b->size) != 0;
        for (int at = 0; at < BEHIND; at++) {
            if (b->bytes[b->size + (size_t)at] != 0xA5) {
                fail("more was written than there is room for, block", i);
                break;
            }
        }
        switch (b->role) {
        case 'i': /* only read */
            if (changed) fail("an input was written to, block", i);
            break;
        case 'o': /* a result: written on success only */
        case 'l': /* a length: also if the buffer is too small */
            if (failed && changed && !(b->role == 'l' && now.found == TERN_ERROR_BUFFER_TOO_SMALL)) {
                fail("an out parameter was written in spite of the error, block", i);
            }
            if ((!failed || (b->role == 'l' && now.found == TERN_ERROR_BUFFER_TOO_SMALL)) && !changed) {
                fail("an out parameter was not written, block", i);
            }
            break;
        case 'f': /* a buffer: perhaps, on success */
            if (failed && changed) fail("a buffer was written in spite of the error, block", i);
            break;
        case 'a': break; /* overlaps another */
        default: /* a new handle, of kind '0' to '3' */
            if (failed ? changed : !changed) fail("a new handle and the status disagree, block", i);
            if (!failed && changed) free_it(b->role - '0', (void *)(uintptr_t)word_at(b));
        }
    }
}

static void check(void) {
    int as_expected = 0;
    for (int i = 0; i < now.n_expected; i++) as_expected |= now.found == now.expected[i];
    if (!as_expected) {
        fail("expected other than", now.found);
        printf("  it gave %s: %s\n  expected", tern_status_name((int32_t)now.found), now.sentence);
        for (int i = 0; i < now.n_expected; i++) printf(" %lld", now.expected[i]);
        printf("\n");
    }
    int failed = can_fail(now.function) && now.found != TERN_OK;
    if (failed && now.sentence[0] == '\0') fail("no sentence says why it failed", now.found);
    if (failed && strcmp(tern_status_name((int32_t)now.found), "unknown") == 0) {
        fail("the header does not know the code", now.found);
    }
    if (now.bad_errno) fail("errno was changed", errno);
    check_blocks(failed);
}

/* Whatever a call did that failed, what was there before is there. */
static void check_nothing_happened(void) {
    tern_session *session = (tern_session *)handles[SESSION][LIVE];
    tern_session_info info;
    memset(&info, 0, sizeof info);
    info.struct_size = sizeof info;
    if (tern_session_describe(session, &info) != TERN_OK || info.pos != 8 || info.n_kv != 8) {
        fail("the session is not what it was; tokens", info.n_kv);
    }
    int token = '.';
    const char *text;
    size_t n;
    if (tern_decoder_push((tern_decoder *)handles[DECODER][LIVE], token, &text, &n) != TERN_OK
        || n != 1 || text[0] != '.') {
        fail("the decoder is not what it was", 0);
    }
    tern_model_info shape;
    memset(&shape, 0, sizeof shape);
    shape.struct_size = sizeof shape;
    if (tern_model_describe((tern_model *)handles[MODEL][LIVE], &shape) != TERN_OK
        || shape.n_layer == 0) {
        fail("the model is not what it was", 0);
    }
}

static void clean_up(void) {
    for (int i = 0; i < now.n_blocks; i++) {
        free(now.blocks[i].bytes);
        free(now.blocks[i].before);
    }
    for (int kind = 0; kind < KINDS; kind++) {
        if (handles[kind][FRESH] != NULL) free_it(kind, handles[kind][FRESH]);
        if (handles[kind][ORPHAN] != NULL) free_it(kind, handles[kind][ORPHAN]);
        handles[kind][FRESH] = handles[kind][ORPHAN] = NULL;
    }
    if (is_child) return; /* the handles are its parent's */
    /* What was read again and not to its end leaves no tokens, says the header. */
    int is_half_done = now.found == TERN_ERROR_DEADLINE && strstr(now.name, "kv_rebuild") != NULL;
    if (can_fail(now.function) && now.found != TERN_OK && !is_half_done) {
        check_nothing_happened();
    } else {
        /* A session takes the longest to make. */
        int first = takes_session(now.function) || now.how == FORKED ? SESSION : SAMPLER;
        for (int kind = first; kind < KINDS; kind++) renew(kind);
    }
}

int main(int argc, char **argv) {
    char local[64] = "";
    on_stack = local;
    NEED(argc >= 2);
    alarm(600);
    FILE *table = fopen(argv[1], "r");
    NEED(table != NULL);
    set_up(argc > 2 ? argv[2] : NULL);
    int at = open("at", O_WRONLY | O_CREAT | O_TRUNC, 0600), n = 0;
    NEED(at >= 0);
    while (read_case(table)) {
        if (now.how == FORKED && !is_child) {
            /* The rest is for a child, which has the parent's handles. */
            fflush(stdout);
            pid_t child = fork();
            NEED(child >= 0);
            if (child != 0) {
                int status = -1;
                NEED(waitpid(child, &status, 0) == child);
                check_nothing_happened();
                clean_up();
                if (!WIFEXITED(status)) return 3;
                if (WEXITSTATUS(status) != 0 || n_failures != 0) return 1;
                return 0;
            }
            is_child = 1;
            alarm(600);
        }
        char where[200];
        snprintf(where, sizeof where, "%-10d %-150s\n", now.id, now.name);
        NEED(pwrite(at, where, strlen(where), 0) > 0);
        run();
        check();
        clean_up();
        n++;
    }
    NEED(feof(table));
    printf("%d cases\n", n);
    fflush(stdout);
    _exit(n_failures != 0);
}
