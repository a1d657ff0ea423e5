/* System calls that fail: of each function of the C library by which the library asks the system for
 * something, the N-th call of each scenario fails with each errno that it may have, reads or writes less
 * than was wanted, or finds the end of the file. The call gives a status that says so or does without.
 *
 * Linked with --wrap for each of them (tests/c.rs). */
#include "scenarios.h"

#include <dirent.h>
#include <errno.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <sys/resource.h>
#include <sys/stat.h>

/* In place of an errno: one byte, or the end of the file. */
#define ONE_BYTE (-1)
#define THE_END (-2)

enum call {
    OPEN,
    STATX,
    FSTAT,
    READ,
    PREAD,
    WRITE,
    FSYNC,
    RENAME,
    FLOCK,
    FCNTL,
    UNLINK,
    MMAP,
    MPROTECT,
    MADVISE,
    MLOCK,
    THREAD,
    SIGMASK,
    AFFINITY,
    RLIMIT,
    CLOSE,
    SIGACTION,
    SYSCONF
};

static const struct way {
    enum call call;
    const char *name;
    int error;
} ways[] = {
    {OPEN, "open: ENOENT", ENOENT},
    {OPEN, "open: EACCES", EACCES},
    {OPEN, "open: EMFILE", EMFILE},
    {OPEN, "open: ENFILE", ENFILE},
    {OPEN, "open: EINTR", EINTR},
    {OPEN, "open: EIO", EIO},
    {OPEN, "open: ENOMEM", ENOMEM},
    {OPEN, "open: ENOSPC", ENOSPC},
    {OPEN, "open: EROFS", EROFS},
    {STATX, "statx: ENOSYS", ENOSYS},
    {STATX, "statx: EACCES", EACCES},
    {STATX, "statx: EIO", EIO},
    {STATX, "statx: ENOMEM", ENOMEM},
    {FSTAT, "fstat: EIO", EIO},
    {FSTAT, "fstat: EOVERFLOW", EOVERFLOW},
    {READ, "read: EIO", EIO},
    {READ, "read: EINTR", EINTR},
    {READ, "read: one byte", ONE_BYTE},
    {READ, "read: the end", THE_END},
    {PREAD, "pread: EIO", EIO},
    {PREAD, "pread: EINTR", EINTR},
    {PREAD, "pread: ENOMEM", ENOMEM},
    {PREAD, "pread: one byte", ONE_BYTE},
    {PREAD, "pread: the end", THE_END},
    {WRITE, "write: ENOSPC", ENOSPC},
    {WRITE, "write: EDQUOT", EDQUOT},
    {WRITE, "write: EFBIG", EFBIG},
    {WRITE, "write: EIO", EIO},
    {WRITE, "write: EINTR", EINTR},
    {WRITE, "write: one byte", ONE_BYTE},
    {FSYNC, "fsync: EIO", EIO},
    {FSYNC, "fsync: ENOSPC", ENOSPC},
    {FSYNC, "fsync: EINTR", EINTR},
    {RENAME, "rename: EACCES", EACCES},
    {RENAME, "rename: ENOSPC", ENOSPC},
    {RENAME, "rename: EIO", EIO},
    {FLOCK, "flock: EWOULDBLOCK", EWOULDBLOCK},
    {FLOCK, "flock: ENOLCK", ENOLCK},
    {FLOCK, "flock: EINTR", EINTR},
    {FCNTL, "fcntl: EMFILE", EMFILE},
    {FCNTL, "fcntl: EAGAIN", EAGAIN},
    {UNLINK, "unlink: EIO", EIO},
    {MMAP, "mmap: ENOMEM", ENOMEM},
    {MMAP, "mmap: EAGAIN", EAGAIN},
    {MMAP, "mmap: EACCES", EACCES},
    {MMAP, "mmap: ENODEV", ENODEV},
    {MPROTECT, "mprotect: ENOMEM", ENOMEM},
    {MADVISE, "madvise: ENOMEM", ENOMEM},
    {MADVISE, "madvise: EINVAL", EINVAL},
    {MADVISE, "madvise: EAGAIN", EAGAIN},
    {MADVISE, "madvise: EIO", EIO},
    {MADVISE, "madvise: EFAULT", EFAULT},
    {MLOCK, "mlock: ENOMEM", ENOMEM},
    {MLOCK, "mlock: EPERM", EPERM},
    {THREAD, "pthread_create: EAGAIN", EAGAIN},
    {THREAD, "pthread_create: ENOMEM", ENOMEM},
    {THREAD, "pthread_create: EPERM", EPERM},
    {SIGMASK, "pthread_sigmask: EINVAL", EINVAL},
    {AFFINITY, "sched_getaffinity: EINVAL", EINVAL},
    {AFFINITY, "sched_getaffinity: EPERM", EPERM},
    {RLIMIT, "getrlimit: EINVAL", EINVAL},
    {CLOSE, "close: EIO", EIO},
    {CLOSE, "close: EINTR", EINTR},
    {SIGACTION, "sigaction: EINVAL", EINVAL},
    {SYSCONF, "sysconf: EINVAL", EINVAL},
};

static atomic_int current = -1;
static atomic_long fail_at, n_asked, n_failed, n_mapped;
static atomic_int is_noting;
static atomic_long n_noted[SYSCONF + 1];

/* 0, or how this call is to fail. */
static int fails(enum call call) {
    if (atomic_load(&is_noting)) {
        atomic_fetch_add(&n_noted[call], 1);
    }
    const int way = atomic_load(&current);
    if (way < 0 || ways[way].call != call || atomic_fetch_add(&n_asked, 1) != atomic_load(&fail_at)) {
        return 0;
    }
    atomic_fetch_add(&n_failed, 1);
    if (ways[way].error > 0) {
        errno = ways[way].error;
    }
    return ways[way].error;
}

#define WRAPPED(call, type, name, parameters, arguments)                                       \
    type __real_##name parameters;                                                             \
    type __wrap_##name parameters;                                                             \
    type __wrap_##name parameters { return fails(call) != 0 ? -1 : __real_##name arguments; }

#define TRANSFER(call, name, parameters, arguments, one)                                       \
    ssize_t __real_##name parameters;                                                          \
    ssize_t __wrap_##name parameters;                                                          \
    ssize_t __wrap_##name parameters {                                                         \
        const int how = fails(call);                                                           \
        return how == 0 || n == 0  ? __real_##name arguments                                   \
               : how == ONE_BYTE   ? __real_##name one                                         \
               : how == THE_END    ? 0                                                         \
                                   : -1;                                                       \
    }

TRANSFER(READ, read, (int fd, void *to, size_t n), (fd, to, n), (fd, to, 1))
TRANSFER(PREAD, pread, (int fd, void *to, size_t n, off_t at), (fd, to, n, at), (fd, to, 1, at))
TRANSFER(WRITE, write, (int fd, const void *from, size_t n), (fd, from, n), (fd, from, 1))
WRAPPED(STATX, int, statx, (int fd, const char *name, int flags, unsigned mask, void *to),
        (fd, name, flags, mask, to))
WRAPPED(FSTAT, int, fstat, (int fd, struct stat *to), (fd, to))
WRAPPED(FSTAT, int, fstat64, (int fd, void *to), (fd, to))
WRAPPED(FSYNC, int, fsync, (int fd), (fd))
WRAPPED(RENAME, int, rename, (const char *from, const char *to), (from, to))
WRAPPED(FLOCK, int, flock, (int fd, int operation), (fd, operation))
WRAPPED(UNLINK, int, unlink, (const char *name), (name))
WRAPPED(MPROTECT, int, mprotect, (void *at, size_t n, int to), (at, n, to))
WRAPPED(MADVISE, int, madvise, (void *at, size_t n, int advice), (at, n, advice))
WRAPPED(MLOCK, int, mlock, (const void *at, size_t n), (at, n))
WRAPPED(AFFINITY, int, sched_getaffinity, (pid_t pid, size_t n, void *to), (pid, n, to))
WRAPPED(RLIMIT, int, getrlimit, (int what, void *to), (what, to))
WRAPPED(SYSCONF, long, sysconf, (int what), (what))
WRAPPED(SIGACTION, int, sigaction, (int n, const void *new_one, void *old), (n, new_one, old))

/* Whatever it says, Linux has closed the file. */
int __real_close(int fd);
int __wrap_close(int fd);
int __wrap_close(int fd) {
    const int closed = __real_close(fd);
    return fails(CLOSE) != 0 ? -1 : closed;
}

int __real_open64(const char *name, int flags, ...);
int __wrap_open64(const char *name, int flags, ...);
int __wrap_open64(const char *name, int flags, ...) {
    va_list list;
    va_start(list, flags);
    const int mode = va_arg(list, int);
    va_end(list);
    return fails(OPEN) != 0 ? -1 : __real_open64(name, flags, mode);
}

int __real_fcntl(int fd, int operation, ...);
int __wrap_fcntl(int fd, int operation, ...);
int __wrap_fcntl(int fd, int operation, ...) {
    va_list list;
    va_start(list, operation);
    const long argument = va_arg(list, long);
    va_end(list);
    return fails(FCNTL) != 0 ? -1 : __real_fcntl(fd, operation, argument);
}

void *__real_mmap64(void *at, size_t n, int may, int flags, int fd, off_t from);
void *__wrap_mmap64(void *at, size_t n, int may, int flags, int fd, off_t from);
void *__wrap_mmap64(void *at, size_t n, int may, int flags, int fd, off_t from) {
    void *const map = fails(MMAP) != 0 ? MAP_FAILED : __real_mmap64(at, n, may, flags, fd, from);
    atomic_fetch_add(&n_mapped, map == MAP_FAILED ? 0 : (long)n);
    return map;
}

int __real_munmap(void *at, size_t n);
int __wrap_munmap(void *at, size_t n);
int __wrap_munmap(void *at, size_t n) {
    atomic_fetch_sub(&n_mapped, (long)n);
    return __real_munmap(at, n);
}

int __real_pthread_create(pthread_t *thread, const pthread_attr_t *how, void *(*f)(void *), void *with);
int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *how, void *(*f)(void *), void *with);
int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *how, void *(*f)(void *), void *with) {
    const int error = fails(THREAD);
    return error != 0 ? error : __real_pthread_create(thread, how, f, with);
}

int __real_pthread_sigmask(int how, const sigset_t *to, sigset_t *was);
int __wrap_pthread_sigmask(int how, const sigset_t *to, sigset_t *was);
int __wrap_pthread_sigmask(int how, const sigset_t *to, sigset_t *was) {
    const int error = fails(SIGMASK);
    return error != 0 ? error : __real_pthread_sigmask(how, to, was);
}

static int n_ways(void) { return (int)(sizeof ways / sizeof *ways); }
static const char *way_name(int way) { return ways[way].name; }

static void begin_noting(void) { atomic_store(&is_noting, 1); }
static void end_noting(void) { atomic_store(&is_noting, 0); }
static int is_asked(int way) { return atomic_load(&n_noted[ways[way].call]) > 0; }

static void begin_failing(int way, long at) {
    atomic_store(&n_asked, 0);
    atomic_store(&n_failed, 0);
    atomic_store(&fail_at, at);
    atomic_store(&current, way);
}

static long end_failing(void) {
    atomic_store(&current, -1);
    return atomic_load(&n_failed);
}

static int may_give(int way, tern_status status) {
    switch (status) {
    case TERN_ERROR_IO:
    case TERN_ERROR_OUT_OF_MEMORY:
        return 1;
    case TERN_ERROR_BAD_FILE: /* shorter than it was a moment ago */
    case TERN_ERROR_SNAPSHOT_CORRUPT:
        return ways[way].error == THE_END;
    default:
        return 0;
    }
}

static long n_entries(const char *folder) {
    DIR *const dir = opendir(folder);
    CHECK(dir != NULL);
    long n = 0;
    while (readdir(dir) != NULL) {
        n++;
    }
    closedir(dir);
    return n;
}

/* Descriptors, threads, and bytes that are mapped. */
static long n_held(void) {
    return n_entries("/proc/self/fd") + n_entries("/proc/self/task") + atomic_load(&n_mapped);
}

int main(int argc, char **argv) { return run_all(argc, argv, 1000); }
