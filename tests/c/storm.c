/* Many threads do everything at once with the same few handles: make, use, free, free again, abort.
 * Whatever they do, each call gives one of the statuses that such a call may give. */
#include "check.h"

#include <pthread.h>
#include <stdatomic.h>

enum { N_THREADS = 6, N_STEPS = 1500, N_HANDLES = 3 };

static tern_model *model;
static tern_session *_Atomic sessions[N_HANDLES];
static tern_sampler *_Atomic samplers[N_HANDLES];
static tern_decoder *_Atomic decoders[N_HANDLES];

/* What a call may give when others may be using, or have freed, what it works on. */
static void may_be(tern_status status, const char *call) {
    switch (status) {
    case TERN_OK:
    case TERN_ERROR_BUSY:
    case TERN_ERROR_INVALID_HANDLE:
    case TERN_ERROR_NOT_READY:
    case TERN_ERROR_ABORTED:
    case TERN_ERROR_KV_FULL:
        return;
    default:
        fprintf(stderr, "%s gave %s: %s\n", call, tern_status_name(status), tern_last_error());
        exit(1);
    }
}
#define MAY(call) may_be(call, #call)

static void *storm(void *seed) {
    uint64_t random = (uint64_t)(uintptr_t)seed;
    tern_session_params params = TERN_INIT(tern_session_params);
    tern_session_info info = TERN_INIT(tern_session_info);
    const tern_token tokens[] = {'a', 'b', 'c'};
    const float *logits;
    const char *text;
    tern_token token;
    size_t n;
    params.n_ctx = 16;
    params.n_threads = 1;
    for (int step = 0; step < N_STEPS; step++) {
        random = random * 6364136223846793005u + 1442695040888963407u;
        const unsigned at = (unsigned)(random >> 40) % N_HANDLES;
        tern_session *session = sessions[at];
        tern_sampler *sampler = samplers[at];
        tern_decoder *decoder = decoders[at];
        switch ((random >> 33) % 20) {
        case 0:
            tern_session_free(session);
            session = NULL;
            OK(tern_session_new(model, &params, &session));
            /* If two did this at once, the handle that is overwritten is freed here. */
            tern_session_free(atomic_exchange(&sessions[at], session));
            break;
        case 1:
            tern_sampler_free(sampler);
            sampler = greedy();
            tern_sampler_free(atomic_exchange(&samplers[at], sampler));
            break;
        case 2:
            tern_decoder_free(decoder);
            decoder = NULL;
            OK(tern_decoder_new(model, &decoder));
            tern_decoder_free(atomic_exchange(&decoders[at], decoder));
            break;
        case 3: {
            tern_session *fork = NULL;
            tern_status status = tern_session_fork(session, &fork);
            may_be(status, "tern_session_fork");
            CHECK((status == TERN_OK) == (fork != NULL));
            tern_session_free(fork);
            break;
        }
        case 4:
            tern_session_abort(session);
            break;
        case 5:
            MAY(tern_session_kv_truncate(session, 0));
            break;
        case 6:
            MAY(tern_session_kv_evict(session, NULL, &n));
            break;
        case 7:
            MAY(tern_session_describe(session, &info));
            break;
        case 8:
            MAY(tern_session_logits(session, &logits, &n));
            break;
        case 9:
            MAY(tern_decoder_push(decoder, 'x', &text, &n));
            break;
        case 10:
            MAY(tern_sampler_reset(sampler));
            break;
        case 11:
        case 12:
        case 13:
            MAY(tern_sampler_sample(sampler, session, &token));
            break;
        default:
            MAY(tern_session_eval(session, tokens, 1 + (random >> 55) % 3));
            break;
        }
    }
    return NULL;
}

int main(int argc, char **argv) {
    pthread_t threads[N_THREADS];
    model = load(model_path(argc, argv));
    for (int i = 0; i < N_HANDLES; i++) {
        sessions[i] = session_of(model, 16);
        samplers[i] = greedy();
        tern_decoder *decoder = NULL;
        OK(tern_decoder_new(model, &decoder));
        decoders[i] = decoder;
    }
    for (uintptr_t i = 0; i < N_THREADS; i++)
        CHECK(pthread_create(&threads[i], NULL, storm, (void *)(i + 1)) == 0);
    for (int i = 0; i < N_THREADS; i++) CHECK(pthread_join(threads[i], NULL) == 0);
    for (int i = 0; i < N_HANDLES; i++) {
        tern_session_free(sessions[i]);
        tern_sampler_free(samplers[i]);
        tern_decoder_free(decoders[i]);
    }
    /* All is free again: every slot can be filled. */
    tern_sampler *all[256];
    for (int i = 0; i < 256; i++) all[i] = greedy();
    for (int i = 0; i < 256; i++) tern_sampler_free(all[i]);
    tern_model_free(model);
    return 0;
}
