/* A program compiled against a newer header, whose structs go on. */
#include "check.h"

int main(int argc, char **argv) {
    const char *path = model_path(argc, argv);
    tern_model *model = NULL;

    struct {
        tern_model_params known;
        uint64_t newer[2];
    } load_params;
    memset(&load_params, 0, sizeof load_params);
    load_params.known.struct_size = sizeof load_params;
    OK(tern_model_load(path, &load_params.known, &model));
    tern_model_free(model);
    load_params.newer[1] = 1;
    GIVES(TERN_ERROR_UNSUPPORTED, tern_model_load(path, &load_params.known, &model));
    load_params.newer[1] = 0;
    OK(tern_model_load(path, &load_params.known, &model));

    struct {
        tern_session_params known;
        uint32_t newer;
    } params;
    memset(&params, 0, sizeof params);
    params.known.struct_size = sizeof params;
    params.known.n_ctx = 16;
    tern_session *session = NULL;
    params.newer = 1u << 31;
    GIVES(TERN_ERROR_UNSUPPORTED, tern_session_new(model, &params.known, &session));
    CHECK(session == NULL && strlen(tern_last_error()) > 0);
    params.newer = 0;
    OK(tern_session_new(model, &params.known, &session));

    /* What the library does not know it leaves as it was. */
    struct {
        tern_session_info known;
        uint64_t newer;
    } info;
    memset(&info, 0xCD, sizeof info);
    info.known.struct_size = sizeof info;
    OK(tern_session_describe(session, &info.known));
    CHECK(info.known.struct_size == sizeof info && info.known.n_ctx == 16);
    CHECK(info.newer == 0xCDCDCDCDCDCDCDCDu);

    tern_session_free(session);
    tern_model_free(model);
    return 0;
}
