/* A program outside the tree in C++17, through tern.hpp. As consumer.c, it checks what can be checked
 * without a model; given one, it also says a few tokens.
 *
 *   consumer_cpp [MODEL.gguf]     exit 0: all is as expected
 */
#include <cstdio>
#include <string>
#include <string_view>
#include <tern.hpp>

static int failed(int line, const char *what) {
    std::fprintf(stderr, "consumer.cpp:%d: not so: %s (last error: %s)\n", line, what, tern_last_error());
    return 1;
}
#define EXPECT(condition) \
    if (!(condition)) return failed(__LINE__, #condition)

static int say(const char *path) {
    tern::model model = tern::model::load(path).value();
    tern::session_options options;
    options.n_ctx = 256;
    tern::session session = tern::session::make(model, options).value();
    tern::sampler sampler = tern::sampler::make().value();
    std::string said;
    auto prompt = model.tokenize("The capital of France is").value();
    auto n = tern::generate(model, session, sampler, prompt, 8,
                            [&](std::string_view text) { said += text; });
    EXPECT(n.ok() && *n > 0);
    std::printf("said:%s\n", said.c_str());
    EXPECT(!said.empty());
    return 0;
}

int main(int argc, char **argv) try {
    const auto missing = tern::model::load("/nonexistent/model.gguf");
    EXPECT(!missing);
    EXPECT(missing.status() == TERN_ERROR_IO);
    EXPECT(!missing.why().message.empty());
    bool thrown = false;
    try {
        (void)tern::model::load("/nonexistent/model.gguf").value();
    } catch (const tern::error &e) {
        thrown = e.status() == TERN_ERROR_IO;
    }
    EXPECT(thrown);
    if (argc > 1 && say(argv[1]) != 0) return 1;
    std::printf("consumer_cpp: tern %s is as expected\n", tern_version());
    return 0;
} catch (const std::exception &e) {
    std::fprintf(stderr, "consumer.cpp: %s\n", e.what());
    return 1;
}
