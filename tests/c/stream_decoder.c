/* A stream of tokens comes out as whole characters. The test's model has a token for each byte. */
#include "check.h"


static tern_token byte_token(const tern_model *model, unsigned char byte) {
    tern_model_info info = TERN_INIT(tern_model_info);
    OK(tern_model_describe(model, &info));
    for (uint32_t i = 0; i < info.n_vocab; i++) {
        const char *piece;
        size_t length;
        OK(tern_model_token_piece(model, (tern_token)i, &piece, &length));
        if (length == 1 && (unsigned char)piece[0] == byte) return (tern_token)i;
    }
    CHECK(!"a token for each byte");
    return -1;
}

static void push(tern_decoder *decoder, tern_token token, const char *expected) {
    const char *text;
    size_t length;
    OK(tern_decoder_push(decoder, token, &text, &length));
    CHECK(length == strlen(expected) && memcmp(text, expected, length) == 0);
}

static void flush(tern_decoder *decoder, const char *expected) {
    const char *text;
    size_t length;
    OK(tern_decoder_flush(decoder, &text, &length));
    CHECK(length == strlen(expected) && memcmp(text, expected, length) == 0);
}

int main(int argc, char **argv) {
    tern_model *model = load(model_path(argc, argv));
    tern_decoder *decoder = NULL, *other = NULL;
    tern_model_info info = TERN_INIT(tern_model_info);
    OK(tern_model_describe(model, &info));
    OK(tern_decoder_new(model, &decoder));
    OK(tern_decoder_new(model, &other));
    const tern_token letter = byte_token(model, 'a'), ff = byte_token(model, 0xFF);
    const tern_token smile[] = {byte_token(model, 0xF0), byte_token(model, 0x9F),
                                byte_token(model, 0x98), byte_token(model, 0x80)};
    tern_model_free(model); /* a decoder keeps its model */

    push(decoder, letter, "a");
    for (int round = 0; round < 2; round++) {
        push(decoder, smile[0], "");
        push(decoder, smile[1], "");
        push(other, letter, "a"); /* each holds back its own */
        push(decoder, smile[2], "");
        push(decoder, smile[3], "\xF0\x9F\x98\x80");
    }
    flush(decoder, "");
    push(decoder, info.eos, ""); /* control tokens are no text */

    /* Cut short, broken off, never valid. */
    push(decoder, smile[0], "");
    flush(decoder, "\xEF\xBF\xBD");
    flush(decoder, "");
    push(decoder, smile[0], "");
    push(decoder, letter, "\xEF\xBF\xBD" "a");
    push(decoder, ff, "\xEF\xBF\xBD");
    push(decoder, smile[0], "");
    OK(tern_decoder_reset(decoder));
    push(decoder, smile[3], "\xEF\xBF\xBD");

    /* A token that is none changes nothing. */
    push(decoder, smile[0], "");
    const char *text = "untouched";
    size_t length = 9;
    GIVES(TERN_ERROR_INVALID_ARGUMENT, tern_decoder_push(decoder, -1, &text, &length));
    CHECK(length == 9 && strcmp(text, "untouched") == 0);
    push(decoder, smile[1], "");
    push(decoder, smile[2], "");
    push(decoder, smile[3], "\xF0\x9F\x98\x80");
    tern_decoder_free(other);
    tern_decoder_free(decoder);
    return 0;
}
