/* A program compiled against an older header, whose structs ended earlier. */
#include "check.h"

int main(int argc, char **argv) {
    tern_model *model = load(model_path(argc, argv));

    /* tern_session_params up to n_ctx; what follows in memory is not looked at. */
    struct {
        uint32_t struct_size, n_ctx, not_mine[16];
    } params = {8, 3, {0}};
    memset(params.not_mine, 0xFF, sizeof params.not_mine);
    tern_session *session = NULL;
    OK(tern_session_new(model, (const tern_session_params *)(const void *)&params, &session));
    const tern_token tokens[] = {'a', 'b', 'c', 'd'};
    GIVES(TERN_ERROR_KV_FULL, tern_session_eval(session, tokens, 4));
    OK(tern_session_eval(session, tokens, 3));

    /* tern_session_info up to n_kv; what follows in memory is not written. */
    struct {
        _Alignas(8) uint32_t struct_size;
        uint32_t n_ctx, n_kv, not_mine[16];
    } info;
    memset(&info, 0xAB, sizeof info);
    info.struct_size = 12;
    OK(tern_session_describe(session, (tern_session_info *)(void *)&info));
    CHECK(info.struct_size == 12 && info.n_ctx == 3 && info.n_kv == 3);
    for (int i = 0; i < 16; i++) CHECK(info.not_mine[i] == 0xABABABABu);

    /* A struct that ends within a field that is newer than the program. */
    info.struct_size = 14;
    OK(tern_session_describe(session, (tern_session_info *)(void *)&info));
    CHECK(info.not_mine[0] == 0xABAB0003u || info.not_mine[0] == 0x0000ABABu);

    /* Sizes that are none. */
    tern_session *none = NULL;
    const uint32_t sizes[] = {0, 1, 3, 5000, UINT32_MAX};
    for (int i = 0; i < 5; i++) {
        params.struct_size = sizes[i];
        GIVES(TERN_ERROR_INVALID_ARGUMENT,
              tern_session_new(model, (const tern_session_params *)(const void *)&params, &none));
        info.struct_size = sizes[i];
        GIVES(TERN_ERROR_INVALID_ARGUMENT,
              tern_session_describe(session, (tern_session_info *)(void *)&info));
    }
    CHECK(none == NULL);
    tern_session_free(session);
    tern_model_free(model);
    return 0;
}
