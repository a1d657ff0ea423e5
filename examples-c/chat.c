/* A chat: streams each answer, remembers the turns before, says its speed at the end.
 *
 *   chat MODEL.gguf               a conversation on standard input; Ctrl-C stops an answer, or ends
 *   chat MODEL.gguf QUESTION [N]  one answer of at most N tokens
 *
 * Each turn, the model's own template makes a prompt of the whole conversation. What the session has
 * evaluated already is not evaluated again: only what comes after the longest common prefix.
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <tern.h>

enum { MAX_MESSAGES = 64, MAX_LINE = 8192, N_CTX = 4096, N_ANSWER = 512 };

static tern_model *model;
static tern_session *session;
static tern_sampler *sampler;
static tern_decoder *decoder;

static tern_chat_message messages[MAX_MESSAGES];
static size_t n_messages;
static tern_token tokens[N_CTX], seen[N_CTX]; /* this prompt; what the session holds */
static size_t n_seen;
static volatile sig_atomic_t answering, interrupted;

static void ok(tern_status status) {
    if (status == TERN_OK) return;
    fprintf(stderr, "\n%s: %s\n", tern_status_name(status), tern_last_error());
    exit(1);
}

static void on_interrupt(int signal) {
    (void)signal;
    if (!answering) _Exit(130);
    interrupted = 1;
    tern_session_abort(session); /* may be called from a signal handler */
}

static void say(const char *role, const char *content, size_t length) {
    char *copy = malloc(length + 1);
    if (!copy) exit(1);
    memcpy(copy, content, length);
    copy[length] = '\0';
    messages[n_messages++] = (tern_chat_message){role, copy, length};
}

/* Forgets the oldest question and its answer. */
static void forget_oldest(void) {
    free((char *)messages[0].content);
    free((char *)messages[1].content);
    n_messages -= 2;
    memmove(messages, messages + 2, n_messages * sizeof messages[0]);
}

/* Makes a prompt of the conversation; if it leaves no room for an answer, of its latter part. */
static size_t make_prompt(void) {
    for (;;) {
        char *text;
        size_t length = 0, n_tokens = 0;
        tern_status status = tern_model_chat_format(model, messages, n_messages, 1, NULL, 0, &length);
        if (status != TERN_ERROR_BUFFER_TOO_SMALL) ok(status);
        text = malloc(length + 1);
        if (!text) exit(1);
        ok(tern_model_chat_format(model, messages, n_messages, 1, text, length, &length));
        status = tern_model_tokenize(model, text, length, TERN_TOKENIZE_PARSE_SPECIAL, tokens,
                                     N_CTX - N_ANSWER, &n_tokens);
        free(text);
        if (status == TERN_OK) return n_tokens;
        if (status != TERN_ERROR_BUFFER_TOO_SMALL || n_messages < 3) ok(status);
        forget_oldest();
    }
}

static void answer(unsigned n_most) {
    static char said[N_ANSWER * 64];
    size_t n_tokens = make_prompt(), n_said = 0, length, same = 0;
    const char *text;
    tern_status status;
    tern_token token;

    while (same < n_seen && same + 1 < n_tokens && seen[same] == tokens[same]) same++;
    ok(tern_session_kv_truncate(session, (uint32_t)same));
    n_seen = same;
    ok(tern_sampler_reset(sampler));
    ok(tern_decoder_reset(decoder));
    interrupted = 0;
    answering = 1;
    status = tern_session_eval(session, tokens + same, n_tokens - same);
    if (status == TERN_ERROR_ABORTED && !interrupted) /* by a Ctrl-C just after the last answer */
        status = tern_session_eval(session, tokens + same, n_tokens - same);
    if (status == TERN_OK) {
        memcpy(seen, tokens, n_tokens * sizeof tokens[0]);
        n_seen = n_tokens;
    }
    for (unsigned i = 0; status == TERN_OK && i < n_most; i++) {
        ok(tern_sampler_sample(sampler, session, &token));
        if (tern_model_token_is_eog(model, token)) break;
        ok(tern_decoder_push(decoder, token, &text, &length)); /* whole characters only */
        fwrite(text, 1, length, stdout);
        fflush(stdout);
        if (n_said + length < sizeof said) {
            memcpy(said + n_said, text, length);
            n_said += length;
        }
        status = tern_session_eval(session, &token, 1);
        if (status == TERN_OK) seen[n_seen++] = token;
    }
    answering = 0;
    if (status != TERN_ERROR_ABORTED) ok(status);
    ok(tern_decoder_flush(decoder, &text, &length));
    fwrite(text, 1, length, stdout);
    printf("\n");
    fflush(stdout);
    say("assistant", said, n_said);
}

static void say_speed(void) {
    tern_session_info info = TERN_INIT(tern_session_info);
    ok(tern_session_describe(session, &info));
    fprintf(stderr, "[read %llu tokens at %.1f tok/s, wrote %llu at %.1f tok/s]\n",
            (unsigned long long)info.n_prefill,
            info.prefill_ns ? 1e9 * (double)info.n_prefill / (double)info.prefill_ns : 0.0,
            (unsigned long long)info.n_decode,
            info.decode_ns ? 1e9 * (double)info.n_decode / (double)info.decode_ns : 0.0);
}

int main(int argc, char **argv) {
    static char line[MAX_LINE];

    if (argc < 2) {
        fprintf(stderr, "usage: chat MODEL.gguf [QUESTION [N]]\n");
        return 2;
    }
    tern_session_params params = TERN_INIT(tern_session_params);
    params.n_ctx = N_CTX;
    tern_sampler_params sampling = TERN_INIT(tern_sampler_params);
    sampling.temperature = 0.2f;
    sampling.top_p = 0.9f;
    sampling.seed = 1;

    ok(tern_model_load(argv[1], NULL, &model));
    ok(tern_session_new(model, &params, &session));
    ok(tern_sampler_new(&sampling, &sampler));
    ok(tern_decoder_new(model, &decoder));
    signal(SIGINT, on_interrupt);

    if (argc > 2) {
        unsigned long n_most = argc > 3 ? strtoul(argv[3], NULL, 10) : N_ANSWER;
        say("user", argv[2], strlen(argv[2]));
        answer(n_most < N_ANSWER ? (unsigned)n_most : N_ANSWER);
    } else {
        fprintf(stderr, "Ask something. An empty line, or Ctrl-D, ends the conversation.\n");
        while (fprintf(stderr, "> "), fgets(line, sizeof line, stdin)) {
            line[strcspn(line, "\n")] = '\0';
            if (line[0] == '\0') break;
            if (n_messages + 2 > MAX_MESSAGES) forget_oldest();
            say("user", line, strlen(line));
            answer(N_ANSWER);
        }
    }
    say_speed();
    while (n_messages > 0) free((char *)messages[--n_messages].content);
    tern_decoder_free(decoder);
    tern_sampler_free(sampler);
    tern_session_free(session);
    tern_model_free(model);
    return 0;
}
