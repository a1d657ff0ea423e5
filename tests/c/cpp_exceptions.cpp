// Exceptions of callbacks never enter the library, and nothing is lost when they fly.
#include "check.h"
#include "tern.hpp"

struct oops : std::exception {
    int n;
    explicit oops(int number) : n(number) {}
};

/// Shows that what stood on the stack was destroyed.
struct witness {
    int *destroyed;
    ~witness() { ++*destroyed; }
};

int main(int argc, char **argv) {
    const char *path = model_path(argc, argv);

    // Out of the progress callback: caught before the library, thrown again after it.
    for (int when = 0; when < 2; when++) {
        int calls = 0, destroyed = 0, caught = -1;
        try {
            const witness on_stack{&destroyed};
            (void)tern::model::load(path, {}, [&](std::uint64_t, std::uint64_t) -> bool {
                const witness in_callback{&destroyed};
                if (calls++ == when) throw oops(when);
                return true;
            });
        } catch (const oops &thrown) {
            caught = thrown.n;
        }
        CHECK(caught == when && calls == when + 1 && destroyed == calls + 1);
    }
    const auto stop = [](std::uint64_t, std::uint64_t) { return false; };
    CHECK(tern::model::load(path, {}, stop).status() == TERN_ERROR_ABORTED);
    std::uint64_t last = 0;
    tern::model model =
        tern::model::load(path, {}, [&](std::uint64_t done, std::uint64_t) { return last = done, true; })
            .value();
    CHECK(last > 0);

    // Out of the streaming callback.
    tern::session_options options;
    options.n_ctx = 64;
    tern::session session = tern::session::make(model, options).value();
    tern::sampler_options sampling;
    const tern_logit_bias letter_a[] = {{'a', 10000.0f}}; // whatever the model says
    sampling.logit_bias = letter_a;
    sampling.n_logit_bias = 1;
    tern::sampler sampler = tern::sampler::make(sampling).value();
    const std::vector<tern::token> prompt = model.tokenize("Hello", 0).value();
    const std::string_view piece = model.piece('a').value();
    int texts = 0, caught = 0;
    try {
        (void)tern::generate(model, session, sampler, prompt, 20, [&](std::string_view text) {
            CHECK(text == piece);
            if (++texts == 3) throw oops(3);
        });
    } catch (const oops &thrown) {
        caught = thrown.n;
    }
    CHECK(caught == 3 && texts == 3);
    // The prompt, and the two tokens before the third; and it goes on from there.
    CHECK(session.describe()->n_kv == prompt.size() + 2);
    std::string more;
    const auto collect = [&](std::string_view text) { more += text; };
    CHECK(tern::generate(model, session, sampler, prompt, 5, collect).value() == 5);
    CHECK(more.size() == 5 * piece.size());
    // A callback that returns false stops.
    texts = 0;
    const auto stop_at_two = [&](std::string_view) { return ++texts < 2; };
    CHECK(tern::generate(model, session, sampler, prompt, 20, stop_at_two).value() == 2);
    // An error of the library comes back as a result.
    const auto ignore = [](std::string_view) {};
    CHECK(tern::generate(model, session, sampler, prompt, 100, ignore).status()
          == TERN_ERROR_KV_FULL);
    return 0;
}
