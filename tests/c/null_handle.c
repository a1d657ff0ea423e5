/* NULL, wherever a pointer goes in: first for every handle, then for every other pointer. */
#include "check.h"

#define ARGUMENT(call) GIVES(TERN_ERROR_INVALID_ARGUMENT, call)
#define HANDLE(call) GIVES(TERN_ERROR_INVALID_HANDLE, call)

int main(int argc, char **argv) {
    const char *path = model_path(argc, argv);
    tern_model *model = load(path), *new_model = NULL;
    tern_session *session = session_of(model, 64), *new_session = NULL;
    tern_sampler *sampler = greedy(), *new_sampler = NULL;
    tern_decoder *decoder = NULL, *new_decoder = NULL;
    OK(tern_decoder_new(model, &decoder));
    tern_model_info info = TERN_INIT(tern_model_info);
    tern_session_info session_info = TERN_INIT(tern_session_info);
    tern_token token = 'a';
    const tern_chat_message message = {"user", "hi", 2}, no_role = {NULL, "hi", 2},
                            no_content = {"user", NULL, 2};
    const tern_token_logprob *list;
    const float *logits;
    const char *text;
    char buffer[64];
    size_t n;
    OK(tern_session_eval(session, &token, 1));

    HANDLE(tern_model_describe(NULL, &info));
    HANDLE(tern_model_metadata(NULL, "k", &text, &n));
    HANDLE(tern_model_metadata_at(NULL, 0, &text, &text, &n));
    HANDLE(tern_model_chat_template(NULL, &text, &n));
    HANDLE(tern_model_tokenize(NULL, "a", 1, 0, &token, 1, &n));
    HANDLE(tern_model_detokenize(NULL, &token, 1, 0, buffer, 64, &n));
    HANDLE(tern_model_token_piece(NULL, 1, &text, &n));
    HANDLE(tern_model_chat_format(NULL, &message, 1, 1, buffer, 64, &n));
    HANDLE(tern_session_new(NULL, NULL, &new_session));
    HANDLE(tern_session_eval(NULL, &token, 1));
    HANDLE(tern_session_eval_with(NULL, &token, 1, NULL));
    HANDLE(tern_session_logits(NULL, &logits, &n));
    HANDLE(tern_session_logits_at(NULL, 0, &logits, &n));
    HANDLE(tern_session_kv_evict(NULL, NULL, &n));
    HANDLE(tern_session_kv_evict_range(NULL, 0, 1, &n));
    HANDLE(tern_session_kv_evict_plan(NULL, NULL, NULL, NULL, 0, &n));
    tern_session_kv_set_budget(NULL, 8);
    HANDLE(tern_session_kv_truncate(NULL, 0));
    HANDLE(tern_session_fork(NULL, &new_session));
    HANDLE(tern_session_describe(NULL, &session_info));
    HANDLE(tern_session_set_threads(NULL, 1, 1));
    HANDLE(tern_sampler_sample(NULL, session, &token));
    HANDLE(tern_sampler_sample(sampler, NULL, &token));
    HANDLE(tern_session_generate(NULL, sampler, NULL, &token, 1, &n));
    HANDLE(tern_session_generate(session, NULL, NULL, &token, 1, &n));
    HANDLE(tern_sampler_accept(NULL, 1));
    HANDLE(tern_sampler_reset(NULL));
    HANDLE(tern_sampler_logprobs(NULL, &list, &n));
    HANDLE(tern_decoder_new(NULL, &new_decoder));
    HANDLE(tern_decoder_push(NULL, 1, &text, &n));
    HANDLE(tern_decoder_flush(NULL, &text, &n));
    HANDLE(tern_decoder_reset(NULL));
    tern_model_free(NULL);
    tern_session_free(NULL);
    tern_sampler_free(NULL);
    tern_decoder_free(NULL);
    tern_session_abort(NULL);
    CHECK(!tern_model_token_is_eog(NULL, 0));
    CHECK(!new_session && !new_decoder);

    ARGUMENT(tern_device_describe(0, NULL));
    ARGUMENT(tern_model_load(NULL, NULL, &new_model));
    ARGUMENT(tern_model_load(path, NULL, NULL));
    ARGUMENT(tern_model_load_fd(0, 0, 0, NULL, NULL));
    ARGUMENT(tern_model_load_memory(NULL, 10, NULL, &new_model));
    ARGUMENT(tern_model_load_memory("GGUF", 4, NULL, NULL));
    GIVES(TERN_ERROR_BAD_FILE, tern_model_load_memory(NULL, 0, NULL, &new_model));
    GIVES(TERN_ERROR_IO, tern_model_load_fd(-1, 0, 0, NULL, &new_model));
    ARGUMENT(tern_model_plan(NULL, NULL, NULL, NULL));
    ARGUMENT(tern_model_pack(NULL, path, NULL, NULL));
    ARGUMENT(tern_model_pack(path, NULL, NULL, NULL));
    ARGUMENT(tern_model_plan(path, NULL, NULL, NULL));
    ARGUMENT(tern_model_describe(model, NULL));
    ARGUMENT(tern_model_metadata(model, NULL, &text, &n));
    ARGUMENT(tern_model_metadata(model, "k", NULL, &n));
    ARGUMENT(tern_model_metadata(model, "k", &text, NULL));
    ARGUMENT(tern_model_metadata_at(model, 0, NULL, &text, &n));
    ARGUMENT(tern_model_metadata_at(model, 0, &text, NULL, &n));
    ARGUMENT(tern_model_metadata_at(model, 0, &text, &text, NULL));
    ARGUMENT(tern_model_chat_template(model, NULL, &n));
    ARGUMENT(tern_model_chat_template(model, &text, NULL));
    ARGUMENT(tern_model_tokenize(model, NULL, 1, 0, &token, 1, &n));
    ARGUMENT(tern_model_tokenize(model, "a", 1, 0, NULL, 1, &n));
    ARGUMENT(tern_model_tokenize(model, "a", 1, 0, &token, 1, NULL));
    ARGUMENT(tern_model_tokenize(model, "a", SIZE_MAX, 0, &token, 1, &n));
    ARGUMENT(tern_model_detokenize(model, NULL, 1, 0, buffer, 64, &n));
    ARGUMENT(tern_model_detokenize(model, &token, 1, 0, NULL, 64, &n));
    ARGUMENT(tern_model_detokenize(model, &token, 1, 0, buffer, 64, NULL));
    ARGUMENT(tern_model_detokenize(model, &token, SIZE_MAX / 2, 0, buffer, 64, &n));
    ARGUMENT(tern_model_token_piece(model, 1, NULL, &n));
    ARGUMENT(tern_model_token_piece(model, 1, &text, NULL));
    ARGUMENT(tern_model_chat_format(model, NULL, 1, 1, buffer, 64, &n));
    ARGUMENT(tern_model_chat_format(model, &no_role, 1, 1, buffer, 64, &n));
    ARGUMENT(tern_model_chat_format(model, &no_content, 1, 1, buffer, 64, &n));
    ARGUMENT(tern_model_chat_format(model, &message, 1, 1, NULL, 64, &n));
    ARGUMENT(tern_model_chat_format(model, &message, 1, 1, buffer, 64, NULL));
    ARGUMENT(tern_model_chat_format(model, &message, SIZE_MAX / 4, 1, buffer, 64, &n));
    ARGUMENT(tern_session_new(model, NULL, NULL));
    ARGUMENT(tern_session_eval(session, NULL, 1));
    ARGUMENT(tern_session_eval(session, &token, 0));
    ARGUMENT(tern_session_eval(session, &token, SIZE_MAX));
    ARGUMENT(tern_session_eval_with(session, NULL, 1, NULL));
    tern_eval_params eval = TERN_INIT(tern_eval_params);
    eval.logits = TERN_LOGITS_POSITIONS;
    eval.n_positions = 1;
    ARGUMENT(tern_session_eval_with(session, &token, 1, &eval));
    ARGUMENT(tern_session_logits(session, NULL, &n));
    ARGUMENT(tern_session_logits(session, &logits, NULL));
    ARGUMENT(tern_session_logits_at(session, 0, NULL, &n));
    ARGUMENT(tern_session_logits_at(session, 0, &logits, NULL));
    OK(tern_session_kv_evict(session, NULL, NULL));
    ARGUMENT(tern_session_fork(session, NULL));
    ARGUMENT(tern_session_describe(session, NULL));
    ARGUMENT(tern_sampler_new(NULL, NULL));
    tern_sampler_params sampling = TERN_INIT(tern_sampler_params);
    sampling.n_logit_bias = 1;
    ARGUMENT(tern_sampler_new(&sampling, &new_sampler));
    ARGUMENT(tern_sampler_sample(sampler, session, NULL));
    ARGUMENT(tern_session_generate(session, sampler, NULL, NULL, 1, &n));
    ARGUMENT(tern_session_generate(session, sampler, NULL, &token, 0, &n));
    ARGUMENT(tern_session_generate(session, sampler, NULL, &token, 1, NULL));
    ARGUMENT(tern_sampler_logprobs(sampler, NULL, &n));
    ARGUMENT(tern_sampler_logprobs(sampler, &list, NULL));
    ARGUMENT(tern_decoder_new(model, NULL));
    ARGUMENT(tern_decoder_push(decoder, 'a', NULL, &n));
    ARGUMENT(tern_decoder_push(decoder, 'a', &text, NULL));
    ARGUMENT(tern_decoder_push(decoder, 1 << 30, &text, &n));
    ARGUMENT(tern_decoder_flush(decoder, NULL, &n));
    ARGUMENT(tern_decoder_flush(decoder, &text, NULL));
    CHECK(!new_model && !new_sampler);

    /* Misaligned out parameters are refused as well. */
    _Alignas(16) char room[64];
    memset(room, 0, sizeof room);
    ARGUMENT(tern_model_token_piece(model, 1, &text, (size_t *)(void *)(room + 1)));
    ARGUMENT(tern_session_eval(session, (const tern_token *)(const void *)(room + 2), 1));
    ARGUMENT(tern_session_describe(session, (tern_session_info *)(void *)(room + 4)));

    tern_decoder_free(decoder);
    tern_sampler_free(sampler);
    tern_session_free(session);
    tern_model_free(model);
    return 0;
}
