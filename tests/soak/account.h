/* What the process holds, as the kernel and the C library count it; and what is made of many such
 * samples: slopes, and percentiles of times. */
#ifndef ACCOUNT_H
#define ACCOUNT_H

#include "check.h"

#include <dirent.h>
#include <malloc.h>
#include <stdint.h>
#include <time.h>

struct sample {
    double seconds; /* since the start */
    long rss_kib, hwm_kib;
    long held; /* bytes that malloc has given out */
    long n_fds, n_threads, n_mappings;
};

static inline double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static inline long n_entries(const char *folder) {
    DIR *const dir = opendir(folder);
    CHECK(dir != NULL);
    long n = 0;
    while (readdir(dir) != NULL) {
        n++;
    }
    closedir(dir);
    return n - 2; /* . and .. */
}

static inline struct sample take_sample(double seconds) {
    struct sample s = {.seconds = seconds};
    /* The file's buffer is the same size each time, and gone before malloc is asked. */
    char line[512];
    FILE *file = fopen("/proc/self/status", "r");
    CHECK(file != NULL);
    while (fgets(line, sizeof line, file) != NULL) {
        sscanf(line, "VmRSS: %ld", &s.rss_kib);
        sscanf(line, "VmHWM: %ld", &s.hwm_kib);
        sscanf(line, "Threads: %ld", &s.n_threads);
    }
    fclose(file);
    file = fopen("/proc/self/maps", "r");
    CHECK(file != NULL);
    while (fgets(line, sizeof line, file) != NULL) {
        s.n_mappings += strchr(line, '\n') != NULL;
    }
    fclose(file);
    s.n_fds = n_entries("/proc/self/fd") - 1; /* the folder itself */
#if defined(__GLIBC__) && (__GLIBC__ > 2 || __GLIBC_MINOR__ >= 33)
    const struct mallinfo2 info = mallinfo2();
    s.held = (long)(info.uordblks + info.hblkhd);
#endif
    return s;
}

/* The slope of resident memory, in KiB per minute, by least squares. */
static inline double slope_of(const struct sample *samples, size_t n) {
    double t = 0, y = 0, tt = 0, ty = 0;
    for (size_t i = 0; i < n; i++) {
        t += samples[i].seconds / 60 / (double)n;
        y += (double)samples[i].rss_kib / (double)n;
    }
    for (size_t i = 0; i < n; i++) {
        const double dt = samples[i].seconds / 60 - t;
        tt += dt * dt;
        ty += dt * ((double)samples[i].rss_kib - y);
    }
    return tt > 0 ? ty / tt : 0;
}

/* A slope that is known, under steps that are not in it: what would judge must be right itself. */
static inline void check_slope_of(void) {
    struct sample made[200];
    for (int i = 0; i < 200; i++) {
        made[i] = (struct sample){.seconds = 6 * i, .rss_kib = 100000 + 5 * i / 2 + (i % 2 ? 90 : -90)};
    }
    const double slope = slope_of(made, 200);
    CHECK(slope > 24 && slope < 26);
}

/* Times, in buckets 1/16 of an octave wide, from 1 us. */
#define N_BUCKETS 512
struct times {
    uint64_t n, in[N_BUCKETS];
    double most;
};

static inline void add_time(struct times *times, double seconds) {
    const double us = seconds * 1e6;
    int bucket = 0;
    for (double edge = 1; bucket < N_BUCKETS - 1 && us > edge; bucket++) {
        edge *= 1.0442737824274138; /* 2 to the power of 1/16 */
    }
    times->in[bucket]++;
    times->n++;
    times->most = seconds > times->most ? seconds : times->most;
}

/* The time that a part of all have taken at most, in milliseconds, to a sixteenth of an octave. */
static inline double percentile_ms(const struct times *times, double part) {
    uint64_t n = 0;
    double edge = 1;
    for (int bucket = 0; bucket < N_BUCKETS; bucket++, edge *= 1.0442737824274138) {
        n += times->in[bucket];
        if (times->n > 0 && (double)n >= part * (double)times->n) {
            const double ms = edge / 1000, most = times->most * 1000;
            return ms < most ? ms : most;
        }
    }
    return 0;
}

static inline void merge_times(struct times *into, const struct times *from) {
    for (int i = 0; i < N_BUCKETS; i++) {
        into->in[i] += from->in[i];
    }
    into->n += from->n;
    into->most = from->most > into->most ? from->most : into->most;
}

#endif
