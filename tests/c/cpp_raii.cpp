// tern.hpp: handles that move and free themselves, results, views, text in and out.
#include "check.h"
#include "tern.hpp"

#include <type_traits>

static_assert(!std::is_copy_constructible_v<tern::model>);
static_assert(!std::is_copy_assignable_v<tern::session>);
static_assert(std::is_nothrow_move_constructible_v<tern::sampler>);
static_assert(std::is_nothrow_move_assignable_v<tern::decoder>);

static void moves(const char *path) {
    tern::model first = tern::model::load(path).value();
    tern_model *const raw = first.get();
    tern::model second = std::move(first);
    CHECK(first.get() == nullptr && second.get() == raw);
    CHECK(first.describe().status() == TERN_ERROR_INVALID_HANDLE); // moved from: an error, no crash
    tern::model other = tern::model::load(path).value();
    tern_model *const freed = other.get();
    other = std::move(second);
    CHECK(other.get() == raw && other.describe().ok());
    tern_model_info info = TERN_INIT(tern_model_info);
    GIVES(TERN_ERROR_INVALID_HANDLE, tern_model_describe(freed, &info));
    tern::model &same = other;
    other = std::move(same);
    CHECK(other.get() == raw);
    {
        tern::model scoped(other.release());
        CHECK(scoped.describe().ok());
    }
    GIVES(TERN_ERROR_INVALID_HANDLE, tern_model_describe(raw, &info));

    std::vector<tern::sampler> samplers;
    for (int i = 0; i < 10; i++) samplers.push_back(tern::sampler::make().value());
    for (tern::sampler &sampler : samplers) CHECK(sampler.accept(1).ok());
}

static void results(const char *path) {
    const tern::result<tern::model> missing = tern::model::load("no/such/file");
    CHECK(!missing && missing.status() == TERN_ERROR_IO);
    CHECK(missing.why().message.find("no/such/file") != std::string::npos);
    bool caught = false;
    try {
        (void)missing.value();
    } catch (const tern::error &error) {
        caught = error.status() == TERN_ERROR_IO
                 && std::string_view(error.what()).substr(0, 15) == "TERN_ERROR_IO: ";
    }
    CHECK(caught);
    tern::session_options options;
    options.n_ctx = 64;
    const tern::plan_info plan = tern::model::plan(path, {}, options).value();
    CHECK(plan.total_bytes > 0);
}

static void life(const char *path) {
    tern::model model = tern::model::load(std::string_view(path)).value();
    CHECK(model.metadata("general.architecture").value().value() == model.describe()->arch);
    CHECK(!model.metadata("no.such.key").value());
    CHECK(model.chat_template().value());

    const std::string_view text = "the rain \xC3\xA9\xF0\x9F\x98\x80 and only this[not this]";
    const std::string_view part = text.substr(0, text.find('['));
    const std::vector<tern::token> tokens = model.tokenize(part, 0).value();
    CHECK(model.detokenize(tokens).value() == part);
    std::string pieces;
    for (tern::token token : tokens) pieces += model.piece(token).value();
    CHECK(pieces == part);
    CHECK(model.tokenize("\xFF").status() == TERN_ERROR_INVALID_ARGUMENT);
    const std::string long_text(100000, 'x'); // more than the first guess
    CHECK(model.detokenize(model.tokenize(long_text, 0).value()).value() == long_text);
    const std::string prompt =
        model.chat_format({{"system", "Be brief."}, {"user", part}}).value();
    CHECK(prompt.find(part) != std::string::npos);

    tern::session_options options;
    options.n_ctx = 64;
    options.n_logits = 2;
    tern::session session = tern::session::make(model, options).value();
    CHECK(session.logits().status() == TERN_ERROR_NOT_READY);
    session.eval(tokens).value();
    const tern::view<float> logits = session.logits().value();
    CHECK(logits.size() == model.describe()->n_vocab);
    tern::sampler sampler = tern::sampler::make().value();
    const tern::token best = sampler.sample(session).value();
    for (float logit : logits) CHECK(logit <= logits[static_cast<std::size_t>(best)]);
    const std::uint32_t positions[] = {0, 1};
    tern::eval_options eval;
    eval.logits = TERN_LOGITS_POSITIONS;
    eval.positions = positions;
    eval.n_positions = 2;
    session.eval({tokens.data(), 2}, eval).value();
    CHECK(session.logits_at(1).ok() && !session.logits_at(2).ok());
    tern::session fork = session.fork().value();
    CHECK(fork.describe()->pos == session.describe()->pos);
    CHECK(session.kv_evict_range(0, 1).value() == 1);
    CHECK(session.kv_can(TERN_KV_OP_TRUNCATE).status() == TERN_ERROR_UNSUPPORTED);
    CHECK(session.kv_rebuild().ok() && session.kv_can(TERN_KV_OP_TRUNCATE).ok());
    tern::kv_segment segment;
    segment.to_pos = 3;
    segment.flags = TERN_KV_SEGMENT_PINNED;
    CHECK(session.kv_segment_set("prompt", segment).ok());
    CHECK(session.kv_segment_get("prompt")->to_pos == 3 && !session.kv_segment_get("no").ok());
    CHECK(session.kv_segments().size() == 1 && session.kv_segments()[0].first == "prompt");
    const std::vector<std::uint8_t> saved = session.write(&sampler).value();
    tern::session twin = tern::session::make(model, options).value();
    CHECK(twin.read(saved, &sampler).ok() && twin.write(&sampler).value() == saved);
    CHECK(twin.restore("/no/such/file").status() == TERN_ERROR_IO);
    CHECK(twin.save("/no/such/file").status() == TERN_ERROR_IO);
    CHECK(session.kv_segment_remove("prompt").ok() && session.kv_segments().empty());
    session.kv_truncate(0).value();
    CHECK(session.describe()->n_kv == 0 && fork.describe()->n_kv > 0);
    CHECK(session.set_threads(1).ok());
    tern::token generated[3];
    CHECK(session.eval(tokens).ok() && sampler.generate(session, generated, 3).value() == 1);
    session.abort();
    CHECK(session.eval('a').status() == TERN_ERROR_ABORTED);
    CHECK(sampler.logprobs()->empty() && sampler.reset().ok());

    tern::decoder decoder = tern::decoder::make(model).value();
    std::string decoded;
    for (tern::token token : tokens) decoded += decoder.push(token).value();
    decoded += decoder.flush().value();
    CHECK(decoded == part && decoder.reset().ok());
}

int main(int argc, char **argv) {
    const char *path = model_path(argc, argv);
    moves(path);
    results(path);
    life(path);
    return 0;
}
