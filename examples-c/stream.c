/* Generates without end in memory that does not grow.
 *
 *   stream MODEL.gguf [TOKENS [N_CTX]]
 *
 * When the KV cache is full, tern_session_kv_evict() gives up the middle: the first few tokens (the
 * "sinks", which attention leans on) and the most recent ones stay. Every N_CTX tokens a line on
 * standard error says how far it is, how fast, and how much memory the process holds. TOKENS 0 is
 * without end. Exit status 1 if memory grew: that is the promise this program keeps an eye on.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <tern.h>

static void ok(tern_status status) {
    if (status == TERN_OK) return;
    fprintf(stderr, "\n%s: %s\n", tern_status_name(status), tern_last_error());
    exit(1);
}

/* Resident memory of this process in KiB, as Linux counts it. */
static long resident_kib(void) {
    long kib = 0;
    char line[256];
    FILE *file = fopen("/proc/self/status", "r");
    if (!file) return 0;
    while (fgets(line, sizeof line, file))
        if (sscanf(line, "VmRSS: %ld", &kib) == 1) break;
    fclose(file);
    return kib;
}

int main(int argc, char **argv) {
    const char *text = "Once upon a time, there was a bird that flew around the world.";
    unsigned long n_wanted = argc > 2 ? strtoul(argv[2], NULL, 10) : 0, n_said = 0;
    tern_model *model;
    tern_session *session;
    tern_sampler *sampler;
    tern_decoder *decoder;
    tern_token tokens[256], token;
    size_t n_tokens, length, n_evicted;
    const char *piece;
    long first_kib = 0, kib = 0;

    if (argc < 2) {
        fprintf(stderr, "usage: stream MODEL.gguf [TOKENS [N_CTX]]\n");
        return 2;
    }
    tern_session_params params = TERN_INIT(tern_session_params);
    params.n_ctx = argc > 3 ? (uint32_t)strtoul(argv[3], NULL, 10) : 512;
    tern_sampler_params sampling = TERN_INIT(tern_sampler_params);
    sampling.temperature = 0.8f;
    sampling.top_p = 0.95f;
    sampling.repeat_penalty = 1.1f;
    sampling.seed = 1;

    ok(tern_model_load(argv[1], NULL, &model));
    ok(tern_session_new(model, &params, &session));
    ok(tern_sampler_new(&sampling, &sampler));
    ok(tern_decoder_new(model, &decoder));
    ok(tern_model_tokenize(model, text, strlen(text), TERN_TOKENIZE_ADD_SPECIAL, tokens, 256,
                           &n_tokens));
    ok(tern_session_eval(session, tokens, n_tokens));
    printf("%s", text);
    while (n_wanted == 0 || n_said < n_wanted) {
        ok(tern_sampler_sample(sampler, session, &token));
        ok(tern_decoder_push(decoder, token, &piece, &length)); /* whole characters only */
        fwrite(piece, 1, length, stdout);
        fflush(stdout);

        tern_status status = tern_session_eval(session, &token, 1);
        if (status == TERN_ERROR_KV_FULL) {
            ok(tern_session_kv_evict(session, NULL, &n_evicted)); /* NULL: 4 sinks, half in all */
            status = tern_session_eval(session, &token, 1);
        }
        ok(status);

        if (++n_said % params.n_ctx == 0) {
            tern_session_info info = TERN_INIT(tern_session_info);
            ok(tern_session_describe(session, &info));
            kib = resident_kib();
            if (first_kib == 0) first_kib = kib;
            fprintf(stderr, "[%lu tokens, %u of %u cells used, %llu evicted, %.1f tok/s, %ld KiB]\n",
                    n_said, info.n_kv, info.n_ctx, (unsigned long long)info.n_evicted,
                    info.decode_ns ? 1e9 * (double)info.n_decode / (double)info.decode_ns : 0.0, kib);
        }
    }
    ok(tern_decoder_flush(decoder, &piece, &length));
    fwrite(piece, 1, length, stdout);
    printf("\n");
    tern_decoder_free(decoder);
    tern_sampler_free(sampler);
    tern_session_free(session);
    tern_model_free(model);
    if (kib > first_kib + 1024) { /* 1 MiB for what the C library keeps */
        fprintf(stderr, "memory grew from %ld to %ld KiB\n", first_kib, kib);
        return 1;
    }
    return 0;
}
