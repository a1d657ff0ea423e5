/* A forked child is told that its parent's handles are not its own, and can make others; the
 * parent does not notice. */
#include "check.h"

#include <dirent.h>
#include <stdlib.h>
#include <sys/wait.h>

/* Whether all other threads of this process are asleep. */
static int others_sleep(void) {
    DIR *tasks = opendir("/proc/self/task");
    CHECK(tasks != NULL);
    int asleep = 1;
    for (struct dirent *task; (task = readdir(tasks)) != NULL;) {
        char path[300], line[256] = "";
        if (task->d_name[0] == '.' || atoi(task->d_name) == getpid()) {
            continue;
        }
        snprintf(path, sizeof path, "/proc/self/task/%s/stat", task->d_name);
        FILE *stat = fopen(path, "r");
        if (stat != NULL) { /* else it has ended */
            CHECK(fgets(line, sizeof line, stat) != NULL);
            fclose(stat);
            const char *state = strrchr(line, ')');
            asleep &= state != NULL && state[2] == 'S';
        }
    }
    closedir(tasks);
    return asleep;
}

int main(int argc, char **argv) {
    const char *path = model_path(argc, argv);
    tern_model *model = load(path);
    tern_session *session = session_of(model, 16);
    tern_sampler *sampler = greedy();
    tern_token token = 'a';
    OK(tern_session_eval(session, &token, 1));
    /* glibc's allocator bears a fork while another thread allocates, as a thread does that only just
     * begins; AddressSanitizer's does not, and the child would wait for it without end. */
    while (!others_sleep()) {
        usleep(1000);
    }
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        alarm(60); /* alarms are not inherited */
        tern_session_info info = TERN_INIT(tern_session_info);
        tern_session *none = NULL;
        GIVES(TERN_ERROR_FORKED, tern_session_eval(session, &token, 1));
        GIVES(TERN_ERROR_FORKED, tern_session_describe(session, &info));
        GIVES(TERN_ERROR_FORKED, tern_session_new(model, NULL, &none));
        GIVES(TERN_ERROR_FORKED, tern_sampler_accept(sampler, 1));
        tern_session_abort(session);
        tern_session_free(session);
        tern_model_free(model);
        tern_model *own = load(path);
        tern_session *own_session = session_of(own, 16);
        OK(tern_session_eval(own_session, &token, 1));
        tern_session_free(own_session);
        tern_model_free(own);
        _exit(0);
    }
    int status = -1;
    CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0);
    OK(tern_session_eval(session, &token, 1));
    OK(tern_sampler_sample(sampler, session, &token));
    tern_sampler_free(sampler);
    tern_session_free(session);
    tern_model_free(model);
    return 0;
}
