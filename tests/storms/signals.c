/* Signals come a thousand times a second while sessions load, decode, save and restore, without
 * SA_RESTART, so that every system call that waits is cut short; and the process is stopped and goes on,
 * again and again. It computes what it does in peace. The second argument: how many lives. */
#include "life.h"

#include <signal.h>
#include <stdatomic.h>
#include <sys/time.h>
#include <sys/wait.h>

static atomic_long n_signals;

static void on_alarm(int signal) {
    (void)signal;
    atomic_fetch_add(&n_signals, 1);
}

int main(int argc, char **argv) {
    const long n = strikes(argc, argv);
    const char *const path = model_path(argc, argv);
    char saved[64];
    alarm(0); /* the timer of alarm() is that of the storm; what hangs is killed by the parent, below */
    snprintf(saved, sizeof saved, "/tmp/tern-signals-%ld", (long)getpid());
    const pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        const uint64_t calm = life(path, saved, 3, 20);
        struct sigaction action;
        memset(&action, 0, sizeof action);
        action.sa_handler = on_alarm; /* sa_flags 0: no SA_RESTART */
        CHECK(sigaction(SIGALRM, &action, NULL) == 0);
        const struct itimerval each = {{0, 1000}, {0, 1000}};
        CHECK(setitimer(ITIMER_REAL, &each, NULL) == 0);
        for (long i = 0; i < n; i++) CHECK(life(path, saved, 1 + (uint32_t)(i % 3), 20) == calm);
        CHECK(atomic_load(&n_signals) > n); /* a life takes some milliseconds */
        printf("%ld lives, %ld signals\n", n, atomic_load(&n_signals));
        fflush(stdout);
        _exit(0);
    }
    uint64_t seed = 9, n_stops = 0;
    int status = -1;
    pid_t done = 0;
    const uint64_t limit = now_ns() + 36000 * (uint64_t)1000000000;
    while (done == 0 && now_ns() < limit) {
        pause_ns(1000000 + chance(&seed) % 9000000);
        CHECK(kill(child, SIGSTOP) == 0);
        pause_ns(chance(&seed) % 2000000);
        CHECK(kill(child, SIGCONT) == 0);
        n_stops++;
        done = waitpid(child, &status, WNOHANG);
    }
    if (done == 0) {
        kill(child, SIGKILL);
        CHECK(!"it hangs");
    }
    unlink(saved);
    CHECK(done == child && WIFEXITED(status) && WEXITSTATUS(status) == 0);
    printf("stopped %llu times\n", (unsigned long long)n_stops);
    return 0;
}
