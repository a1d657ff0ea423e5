/* Works for hours, as a robot does, and looks at itself: memory that does not grow, and answers that do
 * not change.
 *
 *   soak SECONDS LOG TINY.gguf LARGER.gguf [FAULT]
 *
 * In each pass all turns (turns.h) of the tiny model are done in another order, some a few times, and a
 * few of the larger one, whose turns take turns. Between passes, when only what stays open is there,
 * a sample of what the process holds goes to LOG, as a line of JSON; the last line has the verdict.
 * What is counted must be the same in all samples after the warm-up, the first quarter and at most ten
 * minutes; the slope and the peak of memory are judged if what follows takes ten minutes. FAULT makes the program do
 * wrong, so that it can be seen to notice: memory, descriptor, mapping, thread, answer. */
#include "turns.h"

#include <sys/mman.h>
#include <sys/utsname.h>

#define MOST_SLOPE 1.0 /* KiB per minute */
#define JUDGED_FROM 600.0
#define N_LARGE_TURNS 3 /* in a pass */
#define MOST_VARIANTS 32
#define LEAST_SAMPLES 8 /* also where seconds are over */
#define N_FIRST 2       /* samples that are never judged */
#define MOST_SAMPLES 40000

static const struct turn {
    const char *name;
    void (*run)(unsigned variant);
    unsigned n_variants, n_times; /* in a pass, of the tiny model */
    int same_as;                  /* index of a turn that finds the same; or its own */
} turns[] = {
    {"ask", ask, N_REQUESTS, 16, 0},
    {"ask anew", ask_anew, N_REQUESTS, 1, 0},
    {"evict by a policy", evict_by, N_POLICIES, 1, 2},
    {"evict otherwise", evict_otherwise, 4, 1, 3},
    {"keep in other types", keep_as, N_KV_TYPES, 1, 4},
    {"share", share, 4, 1, 5},
    {"abort", abort_it, 8, 1, 6},
    {"miss a deadline", miss_deadline, 8, 1, 6},
    {"suspend", suspend, 6, 1, 8},
    {"load", load_as, N_LOADS, 1, 9},
    {"talk", talk, 8, 1, 10},
    {"generate", generate, 4, 1, 11},
    {"mistakes", mistakes, 2, 1, 12},
};
#define N_TURNS (sizeof turns / sizeof *turns)
#define MOST_IN_PASS 2048

static struct place places[2];
static struct {
    uint64_t found;
    int is_known;
} expected[2][N_TURNS][MOST_VARIANTS];
static uint64_t n_turns, n_wrong;
static const char *fault = "";
static struct sample samples[MOST_SAMPLES];
static struct times first_quarter, last_quarter, all_times;

struct item {
    uint16_t turn, variant;
};

static size_t deal(struct item *deck, int is_large) {
    size_t n = 0;
    for (unsigned t = 0; t < N_TURNS; t++) {
        const unsigned n_times = is_large ? 1 : turns[t].n_times;
        for (unsigned i = 0; i < n_times * turns[t].n_variants; i++) {
            CHECK(n < MOST_IN_PASS);
            deck[n++] = (struct item){(uint16_t)t, (uint16_t)(i % turns[t].n_variants)};
        }
    }
    for (size_t i = n - 1; i > 0; i--) {
        const size_t j = dice((unsigned)i + 1);
        const struct item other = deck[j];
        deck[j] = deck[i];
        deck[i] = other;
    }
    return n;
}

static void take_turn(int p, struct item item) {
    at = &places[p];
    found = 14695981039346656037u;
    turns[item.turn].run(item.variant);
    n_turns++;
    if (strcmp(fault, "answer") == 0 && n_turns == 4000) {
        found++;
    }
    const int slot = turns[item.turn].same_as;
    if (!expected[p][slot][item.variant].is_known) {
        expected[p][slot][item.variant].is_known = 1;
        expected[p][slot][item.variant].found = found;
    } else if (expected[p][slot][item.variant].found != found) {
        n_wrong++;
        fprintf(stderr, "%s, variant %u, of the %s model: found %016llx, expected %016llx\n",
                turns[item.turn].name, item.variant, p ? "larger" : "tiny", (unsigned long long)found,
                (unsigned long long)expected[p][slot][item.variant].found);
    }
}

/* What is held on to that nobody will give back. */
static void *idle(void *unused) {
    (void)unused;
    pause();
    return NULL;
}
static void do_wrong(void) {
    pthread_t thread;
    if (strcmp(fault, "memory") == 0) {
        char *const lost = malloc(100000);
        CHECK(lost != NULL);
        memset(lost, 1, 100000);
    } else if (strcmp(fault, "descriptor") == 0) {
        CHECK(open("/dev/null", O_RDONLY | O_CLOEXEC) >= 0);
    } else if (strcmp(fault, "mapping") == 0) {
        /* More than may come and go, in however few passes a busy machine makes. */
        for (int i = 0; i < 16; i++) {
            const int prot = i % 2 ? PROT_READ : PROT_NONE;
            CHECK(mmap(NULL, 4096, prot, MAP_SHARED | MAP_ANONYMOUS, -1, 0) != MAP_FAILED);
        }
    } else if (strcmp(fault, "thread") == 0) {
        CHECK(pthread_create(&thread, NULL, idle, NULL) == 0);
    }
}

static void open_place(struct place *place, const char *path, int is_large, const char *folder) {
    static const char text[] =
        "The arctic tern is a small bird that sees more daylight than any other. It breeds in the far "
        "north in summer and flies to the edge of the southern ice when days grow short, and back again "
        "in spring: 70,000 kilometres in a year, or three times to the moon and back in a life of 30 "
        "years. A robot that keeps watch over a colony must be as patient. It counts nests, notes when "
        "foxes come, and says in plain words what it has seen; nobody is there to start it again if it "
        "stops. \"How many chicks have fledged?\" somebody asks over the radio. \"Eleven,\" it answers, "
        "\"and two more are likely to do so before the storm.\" What it needs for that is memory that does "
        "not grow, answers that do not depend on what was asked before, and time that is its own.\n\n"
        "1. Count the nests. 2. Count the eggs, if the parents allow. 3. Do not step on either. 4. Write "
        "down the wind, the temperature (in \xC2\xB0" "C) and the state of the battery; if the last is below a "
        "fifth, sleep. 5. If a drone comes near, say so at once. 6. Begin again.\n\n"
        "void watch(void) { for (;;) { look(); count(); if (is_new()) { say(); } wait(600); } }\n\n"
        "In the evening the birds come back from the sea with sand eels, and the noise is such that no "
        "microphone is of any use until ten. Then it is quiet, and the light goes on for hours. Who watches "
        "then learns to tell one voice from another, and that a colony is never asleep as a whole: somebody "
        "is always awake, looks up, and says what there is to be said. The same is asked of a robot.\n";
    at = place;
    place->path = path;
    place->is_large = is_large;
    snprintf(place->packed, sizeof place->packed, "%s/packed%d.gguf", folder, is_large);
    snprintf(place->saved, sizeof place->saved, "%s/saved%d", folder, is_large);
    OK(tern_model_pack(path, place->packed, NULL, NULL));
    tern_model_params p = TERN_INIT(tern_model_params);
    p.huge_pages = TERN_HUGE_PAGES_NEVER; /* as resident() says */
    OK(tern_model_load(path, &p, &place->model));
    size_t n;
    OK(tern_model_tokenize(place->model, text, sizeof text - 1, 0, place->tokens, 2048, &n));
    place->n_tokens = n;
    CHECK(n >= 360); /* the last prompt and 280 more; what follows is zero */
    for (unsigned i = 0; i < N_RESIDENT; i++) {
        place->resident[i] = make(resident(i));
    }
    OK(tern_sampler_new(NULL, &place->greedy));
    OK(tern_decoder_new(place->model, &place->decoder));
    place->n_snapshot = 32 << 20;
    place->snapshot = malloc(place->n_snapshot);
    CHECK(place->snapshot != NULL);
    if (!is_large) {
        FILE *const file = fopen(path, "rb");
        CHECK(file != NULL && fseek(file, 0, SEEK_END) == 0);
        place->n_file = (size_t)ftell(file);
        place->file = malloc(place->n_file);
        rewind(file);
        CHECK(place->file != NULL && fread(place->file, 1, place->n_file, file) == place->n_file);
        fclose(file);
    }
}

static void close_place(struct place *place) {
    for (unsigned i = 0; i < N_RESIDENT; i++) {
        tern_session_free(place->resident[i]);
    }
    tern_sampler_free(place->greedy);
    tern_decoder_free(place->decoder);
    tern_model_free(place->model);
    free(place->snapshot);
    free(place->file);
    unlink(place->packed);
    unlink(place->saved);
}

static void write_sample(FILE *log, const struct sample *s) {
    const struct times *const t = &places[1].decode;
    fprintf(log,
            "{\"seconds\": %.1f, \"rss_kib\": %ld, \"hwm_kib\": %ld, \"held_bytes\": %ld, \"descriptors\": %ld, "
            "\"threads\": %ld, \"mappings\": %ld, \"turns\": %llu, \"wrong\": %llu, \"stopped\": %llu, "
            "\"requests\": [%llu, %llu], \"tokens\": [%llu, %llu], \"token_ms\": {\"p50\": %.3f, \"p99\": "
            "%.3f, \"max\": %.3f}}\n",
            s->seconds, s->rss_kib, s->hwm_kib, s->held, s->n_fds, s->n_threads, s->n_mappings,
            (unsigned long long)n_turns, (unsigned long long)n_wrong,
            (unsigned long long)(places[0].n_stopped + places[1].n_stopped),
            (unsigned long long)places[0].n_requests, (unsigned long long)places[1].n_requests,
            (unsigned long long)places[0].n_decoded, (unsigned long long)places[1].n_decoded,
            percentile_ms(t, 0.5), percentile_ms(t, 0.99), t->most * 1e3);
    fflush(log);
}

/* Whether a count stayed what it was; says so. */
static int judge_count(const char *name, const size_t *range, size_t offset, long slack) {
    long least = 0, most = 0;
    for (size_t i = range[0]; i < range[1]; i++) {
        long n;
        memcpy(&n, (const char *)&samples[i] + offset, sizeof n);
        least = i == range[0] || n < least ? n : least;
        most = i == range[0] || n > most ? n : most;
    }
    const int is_good = most - least <= slack;
    printf("%-28s %ld to %ld, may differ by %ld: %s\n", name, least, most, slack, is_good ? "good" : "BAD");
    return is_good;
}

static int judge(FILE *log, size_t n, double seconds, double warm_up) {
    size_t range[2] = {N_FIRST, n};
    while (range[0] < n - 2 && samples[range[0]].seconds < warm_up) {
        range[0]++;
    }
    const double judged = samples[n - 1].seconds - samples[range[0]].seconds;
    const int is_long = judged >= JUDGED_FROM;
    const double slope = slope_of(samples + range[0], n - range[0]);
    const int is_flat = !is_long || slope <= MOST_SLOPE;
    printf("%.1f minutes, %llu turns, %llu requests to the tiny model and %llu to the larger one, %llu and "
           "%llu tokens decoded, %llu evals stopped\n",
           seconds / 60, (unsigned long long)n_turns, (unsigned long long)places[0].n_requests,
           (unsigned long long)places[1].n_requests, (unsigned long long)places[0].n_decoded,
           (unsigned long long)places[1].n_decoded,
           (unsigned long long)(places[0].n_stopped + places[1].n_stopped));
    printf("%-28s %llu: %s\n", "answers that changed", (unsigned long long)n_wrong, n_wrong ? "BAD" : "good");
    printf("after %.1f minutes of warm-up, in %zu samples over %.1f minutes:\n", warm_up / 60, n - range[0],
           judged / 60);
    int is_good = n_wrong == 0;
    is_good &= judge_count("descriptors", range, offsetof(struct sample, n_fds), 0);
    is_good &= judge_count("threads", range, offsetof(struct sample, n_threads), 0);
    is_good &= judge_count("mappings", range, offsetof(struct sample, n_mappings), 8);
    /* What a thread has freed and keeps for itself counts as held: as much as 230 KB. */
    is_good &= judge_count("bytes held by malloc", range, offsetof(struct sample, held), 262144);
    if (is_long) {
        is_good &= judge_count("VmHWM, KiB", range, offsetof(struct sample, hwm_kib), 1024);
    }
    printf("%-28s %.3f, at most %.1f: %s\n", "VmRSS, KiB per minute", slope, MOST_SLOPE,
           !is_long ? "too short to judge" : is_flat ? "good" : "BAD");
    printf("%-28s %.2f, p99 %.2f, p99.9 %.2f, max %.1f; p99.9 in the first quarter %.2f, in the last %.2f\n",
           "a token, ms: p50", percentile_ms(&all_times, 0.5), percentile_ms(&all_times, 0.99),
           percentile_ms(&all_times, 0.999), all_times.most * 1e3, percentile_ms(&first_quarter, 0.999),
           percentile_ms(&last_quarter, 0.999));
    is_good &= is_flat;
    fprintf(log,
            "{\"verdict\": \"%s\", \"minutes\": %.1f, \"turns\": %llu, \"wrong\": %llu, \"slope_kib_per_minute\": "
            "%.3f, \"slope_judged\": %s, \"token_ms\": {\"p50\": %.3f, \"p99\": %.3f, \"p99.9\": %.3f, \"max\": "
            "%.3f, \"p99.9_first_quarter\": %.3f, \"p99.9_last_quarter\": %.3f}}\n",
            is_good ? "good" : "bad", seconds / 60, (unsigned long long)n_turns, (unsigned long long)n_wrong,
            slope, is_long ? "true" : "false", percentile_ms(&all_times, 0.5), percentile_ms(&all_times, 0.99),
            percentile_ms(&all_times, 0.999), all_times.most * 1e3, percentile_ms(&first_quarter, 0.999),
            percentile_ms(&last_quarter, 0.999));
    return is_good;
}

int main(int argc, char **argv) {
    if (argc < 5) {
        fprintf(stderr, "usage: %s SECONDS LOG TINY.gguf LARGER.gguf [FAULT]\n", argv[0]);
        return 2;
    }
    const double seconds = atof(argv[1]), warm_up = seconds / 4 < 600 ? seconds / 4 : 600;
    fault = argc > 5 ? argv[5] : "";
    FILE *const log = fopen(argv[2], "w");
    CHECK(log != NULL && seconds > 0);
    check_slope_of();
    char folder[] = "/tmp/tern-soak-XXXXXX";
    CHECK(mkdtemp(folder) != NULL);
    CHECK(sem_init(&stopper.begin, 0, 0) == 0 && sem_init(&stopper.done, 0, 0) == 0);
    CHECK(pthread_create(&stopper.thread, NULL, stop, NULL) == 0);
    open_place(&places[0], argv[3], 0, folder);
    open_place(&places[1], argv[4], 1, folder);

    const time_t today = time(NULL);
    char date[32];
    strftime(date, sizeof date, "%Y-%m-%d %H:%M UTC", gmtime(&today));
    struct utsname system;
    CHECK(uname(&system) == 0);
    tern_device_info device = TERN_INIT(tern_device_info);
    OK(tern_device_describe(0, &device));
    fprintf(log, "{\"tern\": \"%s\", \"began\": \"%s\", \"seconds\": %.0f, \"system\": \"%s %s\", \"device\": \"%s\", "
                 "\"cores\": %ld}\n",
            tern_version(), date, seconds, system.sysname, system.machine, device.name,
            sysconf(_SC_NPROCESSORS_ONLN));

    static struct item tiny_deck[MOST_IN_PASS], large_deck[MOST_IN_PASS];
    size_t n_samples = 0, n_large = 0;
    const double start = now();
    double last = 0;
    while (now() - start < seconds || n_samples < LEAST_SAMPLES) {
        const size_t n = deal(tiny_deck, 0);
        for (size_t i = 0; i < n; i++) {
            take_turn(0, tiny_deck[i]);
            if ((i + 1) % (n / N_LARGE_TURNS) == 0) {
                n_large = n_large > 0 ? n_large : deal(large_deck, 1);
                take_turn(1, large_deck[--n_large]);
            }
        }
        do_wrong();
        if (now() - start - last < seconds / 2000) {
            continue;
        }
        last = now() - start;
        CHECK(n_samples < MOST_SAMPLES);
        samples[n_samples] = take_sample(last);
        write_sample(log, &samples[n_samples++]);
        merge_times(&all_times, &places[1].decode);
        if (last > warm_up) {
            const double part = (last - warm_up) / (seconds - warm_up);
            merge_times(part < 0.25 ? &first_quarter : part > 0.75 ? &last_quarter : &(struct times){0},
                        &places[1].decode);
        }
        places[1].decode = (struct times){0};
    }
    const int is_good = judge(log, n_samples, now() - start, warm_up);
    fclose(log);
    close_place(&places[0]);
    close_place(&places[1]);
    stopper.session = NULL;
    sem_post(&stopper.begin);
    pthread_join(stopper.thread, NULL);
    CHECK(rmdir(folder) == 0);
    return !is_good;
}
