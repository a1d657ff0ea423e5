/* Memory that runs out: the N-th allocation of each scenario fails, alone or with all after it. The call
 * gives TERN_ERROR_OUT_OF_MEMORY or does without.
 *
 * Linked with --wrap, so that what the library asks malloc for is counted here. */
#include "scenarios.h"

#include <errno.h>
#include <stdatomic.h>

#define NEVER (-1L)
static atomic_long fail_at = NEVER, n_asked, n_failed, n_live;
static atomic_int fail_once;

static int fails(void) {
    const long at = atomic_load(&fail_at);
    if (at == NEVER) {
        return 0;
    }
    const long n = atomic_fetch_add(&n_asked, 1);
    if (atomic_load(&fail_once) ? n != at : n < at) {
        return 0;
    }
    atomic_fetch_add(&n_failed, 1);
    errno = ENOMEM;
    return 1;
}

static void *counted(void *p) {
    atomic_fetch_add(&n_live, p != NULL);
    return p;
}

void *__real_malloc(size_t n);
void *__real_calloc(size_t n, size_t size);
void *__real_realloc(void *p, size_t n);
int __real_posix_memalign(void **p, size_t align, size_t n);
void __real_free(void *p);
void *__wrap_malloc(size_t n);
void *__wrap_calloc(size_t n, size_t size);
void *__wrap_realloc(void *p, size_t n);
int __wrap_posix_memalign(void **p, size_t align, size_t n);
void __wrap_free(void *p);

void *__wrap_malloc(size_t n) { return fails() ? NULL : counted(__real_malloc(n)); }
void *__wrap_calloc(size_t n, size_t size) { return fails() ? NULL : counted(__real_calloc(n, size)); }

void *__wrap_realloc(void *p, size_t n) {
    if (fails()) {
        return NULL;
    }
    void *const moved = __real_realloc(p, n);
    return p == NULL ? counted(moved) : moved;
}

int __wrap_posix_memalign(void **p, size_t align, size_t n) {
    if (fails()) {
        return ENOMEM;
    }
    const int error = __real_posix_memalign(p, align, n);
    atomic_fetch_add(&n_live, error == 0);
    return error;
}

void __wrap_free(void *p) {
    atomic_fetch_sub(&n_live, p != NULL);
    __real_free(p);
}

static int n_ways(void) { return 2; }
static const char *way_name(int way) { return way == 0 ? "an allocation and all after it" : "an allocation"; }

static void begin_noting(void) {}
static void end_noting(void) {}
static int is_asked(int way) { return way >= 0; }

static void begin_failing(int way, long at) {
    atomic_store(&n_asked, 0);
    atomic_store(&n_failed, 0);
    atomic_store(&fail_once, way);
    atomic_store(&fail_at, at);
}

static long end_failing(void) {
    atomic_store(&fail_at, NEVER);
    return atomic_load(&n_failed);
}

static int may_give(int way, tern_status status) {
    (void)way;
    return status == TERN_ERROR_OUT_OF_MEMORY;
}

static long n_held(void) { return atomic_load(&n_live); }

int main(int argc, char **argv) { return run_all(argc, argv, 1000); }
