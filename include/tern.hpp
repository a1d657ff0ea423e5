/* tern.hpp -- tern.h for C++17, header only.
 *
 * Handles are move-only and free themselves. What can fail returns a tern::result: ask it
 * (`if (auto session = tern::session::make(model))`), or take its value, which throws tern::error
 * if there is none (and without exceptions ends the program). Everything else is as tern.h says.
 *
 *     tern::model model = tern::model::load("model.gguf").value();
 *     tern::session session = tern::session::make(model).value();
 *     tern::sampler sampler = tern::sampler::make().value();
 *     auto prompt = model.tokenize("The arctic tern is a bird that").value();
 *     tern::generate(model, session, sampler, prompt, 100, [](std::string_view text) {
 *         std::cout << text << std::flush;
 *     }).value();
 *
 * Callbacks may throw. What generate() calls is called from here, so its exceptions pass through
 * C++ only. What load() calls is called from within the library, which no exception may enter: it
 * is caught, the load is cancelled, and it is thrown again when the library has returned.
 */
#ifndef TERN_HPP
#define TERN_HPP

#include "tern.h"

#include <cstdint>
#include <cstdlib>
#include <exception>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#if defined(__cpp_exceptions) || defined(__EXCEPTIONS)
#define TERN_HPP_EXCEPTIONS 1
#else
#define TERN_HPP_EXCEPTIONS 0
#endif

namespace tern {

using token = tern_token;

/// Why a call failed.
struct failure {
    tern_status status;
    std::string message;

    /// The status's name, as in "TERN_ERROR_KV_FULL".
    const char *name() const noexcept { return tern_status_name(status); }
};

/// A failure as an exception: what() is "TERN_ERROR_IO: model.gguf: ...".
class error : public std::runtime_error {
public:
    explicit error(const failure &why)
        : std::runtime_error(std::string(why.name()) + ": " + why.message), status_(why.status) {}
    tern_status status() const noexcept { return status_; }

private:
    tern_status status_;
};

/// A value, or why there is none.
template <class T> class [[nodiscard]] result {
public:
    result(T value) : held_(std::in_place_index<0>, std::move(value)) {}
    result(failure why) : held_(std::in_place_index<1>, std::move(why)) {}

    bool ok() const noexcept { return held_.index() == 0; }
    explicit operator bool() const noexcept { return ok(); }
    tern_status status() const noexcept { return ok() ? TERN_OK : std::get_if<1>(&held_)->status; }
    /// Why there is no value. Only if there is none.
    const failure &why() const noexcept { return *std::get_if<1>(&held_); }

    T &operator*() & noexcept { return *std::get_if<0>(&held_); }
    const T &operator*() const & noexcept { return *std::get_if<0>(&held_); }
    T &&operator*() && noexcept { return std::move(*std::get_if<0>(&held_)); }
    T *operator->() noexcept { return std::get_if<0>(&held_); }
    const T *operator->() const noexcept { return std::get_if<0>(&held_); }

    /// The value; throws tern::error if there is none.
    T value() && {
        check();
        return std::move(**this);
    }
    const T &value() const & {
        check();
        return **this;
    }

private:
    void check() const {
        if (ok()) return;
#if TERN_HPP_EXCEPTIONS
        throw error(why());
#else
        std::abort();
#endif
    }

    std::variant<T, failure> held_;
};

/// Nothing, or why it failed.
template <> class [[nodiscard]] result<void> {
public:
    result() = default;
    result(failure why) : why_(std::move(why)) {}

    bool ok() const noexcept { return !why_; }
    explicit operator bool() const noexcept { return ok(); }
    tern_status status() const noexcept { return why_ ? why_->status : TERN_OK; }
    const failure &why() const noexcept { return *why_; }
    void value() const {
        if (ok()) return;
#if TERN_HPP_EXCEPTIONS
        throw error(*why_);
#else
        std::abort();
#endif
    }

private:
    std::optional<failure> why_;
};

/// Elements lent by the library.
template <class T> class view {
public:
    view() = default;
    view(const T *data, std::size_t size) noexcept : data_(data), size_(size) {}
    view(const std::vector<T> &from) noexcept : data_(from.data()), size_(from.size()) {}

    const T *data() const noexcept { return data_; }
    std::size_t size() const noexcept { return size_; }
    bool empty() const noexcept { return size_ == 0; }
    const T *begin() const noexcept { return data_; }
    const T *end() const noexcept { return data_ + size_; }
    const T &operator[](std::size_t i) const noexcept { return data_[i]; }

private:
    const T *data_ = nullptr;
    std::size_t size_ = 0;
};

namespace detail {

/// The last error of this thread, for a status that is not TERN_OK.
inline failure last(tern_status status) { return {status, tern_last_error()}; }

inline result<void> done(tern_status status) {
    if (status == TERN_OK) return {};
    return last(status);
}

/// A struct of the C API, with its size set and the rest zero.
template <class T> struct sized : T {
    sized() noexcept : T() { this->struct_size = sizeof(T); }
};

/// Owns a handle.
template <class T, void (*Free)(T *)> class handle {
public:
    handle() = default;
    explicit handle(T *owned) noexcept : owned_(owned) {}
    handle(handle &&from) noexcept : owned_(std::exchange(from.owned_, nullptr)) {}
    handle &operator=(handle &&from) noexcept {
        if (this != &from) {
            Free(owned_);
            owned_ = std::exchange(from.owned_, nullptr);
        }
        return *this;
    }
    handle(const handle &) = delete;
    handle &operator=(const handle &) = delete;
    ~handle() { Free(owned_); }

    /// For the functions of tern.h; still owned. NULL after a move.
    T *get() const noexcept { return owned_; }
    /// Gives the handle away, to be freed by the caller.
    T *release() noexcept { return std::exchange(owned_, nullptr); }

private:
    T *owned_ = nullptr;
};

/// Calls `call(buffer, capacity, &length)`, with a larger buffer if the first was too small.
template <class Buffer, class Call> result<Buffer> fill(std::size_t guess, Call call) {
    Buffer buffer(guess, {});
    for (;;) {
        std::size_t length = 0;
        const tern_status status = call(buffer.data(), buffer.size(), &length);
        if (status == TERN_OK) {
            buffer.resize(length);
            return buffer;
        }
        if (status != TERN_ERROR_BUFFER_TOO_SMALL) return last(status);
        buffer.resize(length);
    }
}

/// Stands between the library and a callback: no exception passes.
template <class F> struct progress_caller {
    F *callback;
    std::exception_ptr thrown;

    static std::int32_t call(void *user_data, std::uint64_t done, std::uint64_t total) noexcept {
        auto *self = static_cast<progress_caller *>(user_data);
#if TERN_HPP_EXCEPTIONS
        try {
            return (*self->callback)(done, total) ? 0 : 1;
        } catch (...) {
            self->thrown = std::current_exception();
            return 1;
        }
#else
        return (*self->callback)(done, total) ? 0 : 1;
#endif
    }
};

} // namespace detail

/// Parameters as in tern.h, with every field at its default.
using model_options = detail::sized<tern_model_params>;
using session_options = detail::sized<tern_session_params>;
using sampler_options = detail::sized<tern_sampler_params>;
using eval_options = detail::sized<tern_eval_params>;
using generate_options = detail::sized<tern_generate_params>;
using kv_evict_options = detail::sized<tern_kv_evict_params>;
using kv_plan_info = detail::sized<tern_kv_plan_info>;
using kv_segment = detail::sized<tern_kv_segment>;
using kv_rebuild_options = detail::sized<tern_kv_rebuild_params>;
using model_info = detail::sized<tern_model_info>;
using session_info = detail::sized<tern_session_info>;
using plan_info = detail::sized<tern_plan_info>;

/// One message of a chat.
struct message {
    std::string role;
    std::string_view content;
};

/// A loaded model. As tern_model.
class model : public detail::handle<tern_model, tern_model_free> {
public:
    using handle::handle;

    static result<model> load(std::string_view path, const model_options &options = {}) {
        tern_model *made = nullptr;
        const tern_status status = tern_model_load(std::string(path).c_str(), &options, &made);
        return finish(status, made);
    }

    /// `progress(done, total)` returns whether to go on, and may throw.
    template <class F>
    static result<model> load(std::string_view path, model_options options, F &&progress) {
        detail::progress_caller<std::remove_reference_t<F>> caller{&progress, nullptr};
        options.progress = caller.call;
        options.user_data = &caller;
        tern_model *made = nullptr;
        const tern_status status = tern_model_load(std::string(path).c_str(), &options, &made);
        result<model> loaded = finish(status, made);
#if TERN_HPP_EXCEPTIONS
        if (caller.thrown) std::rethrow_exception(caller.thrown);
#endif
        return loaded;
    }

    static result<model> load_fd(int fd, std::uint64_t offset = 0, std::uint64_t length = 0,
                                 const model_options &options = {}) {
        tern_model *made = nullptr;
        const tern_status status = tern_model_load_fd(fd, offset, length, &options, &made);
        return finish(status, made);
    }

    static result<model> load_memory(const void *bytes, std::size_t n_bytes,
                                     const model_options &options = {}) {
        tern_model *made = nullptr;
        const tern_status status = tern_model_load_memory(bytes, n_bytes, &options, &made);
        return finish(status, made);
    }

    /// Writes the packed form of a model's file. As tern_model_pack.
    static result<void> pack(std::string_view path, std::string_view packed_path) {
        return detail::done(tern_model_pack(std::string(path).c_str(),
                                            std::string(packed_path).c_str(), nullptr, nullptr));
    }

    static result<plan_info> plan(std::string_view path, const model_options &model_params = {},
                                  const session_options &session_params = {}) {
        plan_info info;
        const tern_status status =
            tern_model_plan(std::string(path).c_str(), &model_params, &session_params, &info);
        if (status != TERN_OK) return detail::last(status);
        return info;
    }

    result<model_info> describe() const {
        model_info info;
        const tern_status status = tern_model_describe(get(), &info);
        if (status != TERN_OK) return detail::last(status);
        return info;
    }

    /// Nothing if the file has no such entry. Lent until the model is freed.
    result<std::optional<std::string_view>> metadata(std::string_view key) const {
        const char *text = nullptr;
        std::size_t length = 0;
        const tern_status status =
            tern_model_metadata(get(), std::string(key).c_str(), &text, &length);
        if (status != TERN_OK) return detail::last(status);
        return maybe(text, length);
    }

    /// Nothing if the file has none. Lent until the model is freed.
    result<std::optional<std::string_view>> chat_template() const {
        const char *text = nullptr;
        std::size_t length = 0;
        const tern_status status = tern_model_chat_template(get(), &text, &length);
        if (status != TERN_OK) return detail::last(status);
        return maybe(text, length);
    }

    result<std::vector<token>> tokenize(std::string_view text,
                                        std::uint32_t flags = TERN_TOKENIZE_ADD_SPECIAL) const {
        return detail::fill<std::vector<token>>(
            text.size() / 2 + 8, [&](token *tokens, std::size_t capacity, std::size_t *n) {
                return tern_model_tokenize(get(), text.data(), text.size(), flags, tokens, capacity,
                                           n);
            });
    }

    result<std::string> detokenize(view<token> tokens) const {
        return detail::fill<std::string>(
            tokens.size() * 4 + 8, [&](char *text, std::size_t capacity, std::size_t *length) {
                return tern_model_detokenize(get(), tokens.data(), tokens.size(), 0, text, capacity,
                                             length);
            });
    }

    /// Lent until the model is freed.
    result<std::string_view> piece(token of) const {
        const char *text = nullptr;
        std::size_t length = 0;
        const tern_status status = tern_model_token_piece(get(), of, &text, &length);
        if (status != TERN_OK) return detail::last(status);
        return std::string_view(text, length);
    }

    bool is_eog(token of) const noexcept { return tern_model_token_is_eog(get(), of); }

    result<std::string> chat_format(const std::vector<message> &messages,
                                    bool add_generation_prompt = true) const {
        std::vector<tern_chat_message> given;
        std::size_t guess = 64;
        for (const message &m : messages) {
            given.push_back({m.role.c_str(), m.content.data(), m.content.size()});
            guess += m.content.size() + 64;
        }
        return detail::fill<std::string>(
            guess, [&](char *text, std::size_t capacity, std::size_t *length) {
                return tern_model_chat_format(get(), given.data(), given.size(),
                                              add_generation_prompt ? 1 : 0, text, capacity,
                                              length);
            });
    }

private:
    static result<model> finish(tern_status status, tern_model *made) {
        if (status != TERN_OK) return detail::last(status);
        return model(made);
    }
    static std::optional<std::string_view> maybe(const char *text, std::size_t length) {
        if (text == nullptr) return std::nullopt;
        return std::string_view(text, length);
    }
};

class sampler;

/// One sequence being generated. As tern_session.
class session : public detail::handle<tern_session, tern_session_free> {
public:
    using handle::handle;

    static result<session> make(const model &of, const session_options &options = {}) {
        tern_session *made = nullptr;
        const tern_status status = tern_session_new(of.get(), &options, &made);
        if (status != TERN_OK) return detail::last(status);
        return session(made);
    }

    result<void> eval(view<token> tokens) {
        return detail::done(tern_session_eval(get(), tokens.data(), tokens.size()));
    }
    result<void> eval(token one) { return detail::done(tern_session_eval(get(), &one, 1)); }
    result<void> eval(view<token> tokens, const eval_options &options) {
        return detail::done(
            tern_session_eval_with(get(), tokens.data(), tokens.size(), &options));
    }

    /// Lent until the next call that changes the session.
    result<view<float>> logits() const {
        const float *row = nullptr;
        std::size_t n = 0;
        const tern_status status = tern_session_logits(get(), &row, &n);
        if (status != TERN_OK) return detail::last(status);
        return view<float>(row, n);
    }
    result<view<float>> logits_at(std::size_t index) const {
        const float *row = nullptr;
        std::size_t n = 0;
        const tern_status status = tern_session_logits_at(get(), index, &row, &n);
        if (status != TERN_OK) return detail::last(status);
        return view<float>(row, n);
    }

    result<std::size_t> kv_evict(const kv_evict_options &options = {}) {
        std::size_t n = 0;
        const tern_status status = tern_session_kv_evict(get(), &options, &n);
        if (status != TERN_OK) return detail::last(status);
        return n;
    }
    /// What kv_evict() would do: slots and bytes, and the positions that would leave every KV head.
    result<std::vector<std::uint32_t>> kv_evict_plan(const kv_evict_options &options,
                                                     kv_plan_info &info) {
        std::size_t n = 0;
        tern_status status = tern_session_kv_evict_plan(get(), &options, &info, nullptr, 0, &n);
        std::vector<std::uint32_t> positions(n);
        if (status == TERN_ERROR_BUFFER_TOO_SMALL) {
            status = tern_session_kv_evict_plan(get(), &options, &info, positions.data(), n, &n);
        }
        if (status != TERN_OK) return detail::last(status);
        return positions;
    }
    /// See tern_session_kv_set_budget(): safe from any thread.
    void kv_set_budget(std::uint32_t n_slots) const noexcept {
        tern_session_kv_set_budget(get(), n_slots);
    }
    result<std::size_t> kv_evict_range(std::uint32_t from_pos, std::uint32_t to_pos) {
        std::size_t n = 0;
        const tern_status status = tern_session_kv_evict_range(get(), from_pos, to_pos, &n);
        if (status != TERN_OK) return detail::last(status);
        return n;
    }
    result<void> kv_segment_set(std::string_view name, const kv_segment &segment) {
        return detail::done(
            tern_session_kv_segment_set(get(), std::string(name).c_str(), &segment));
    }
    result<kv_segment> kv_segment_get(std::string_view name) const {
        kv_segment found;
        const tern_status status =
            tern_session_kv_segment_get(get(), std::string(name).c_str(), &found);
        if (status != TERN_OK) return detail::last(status);
        return found;
    }
    result<void> kv_segment_remove(std::string_view name) {
        return detail::done(tern_session_kv_segment_remove(get(), std::string(name).c_str()));
    }
    /// All segments with their names, by ascending position.
    std::vector<std::pair<std::string, kv_segment>> kv_segments() const {
        std::vector<std::pair<std::string, kv_segment>> all;
        char name[32];
        std::size_t size = 0;
        kv_segment found;
        for (std::uint32_t i = 0;
             tern_session_kv_segment_at(get(), i, name, sizeof name, &size, &found) == TERN_OK; i++)
            all.emplace_back(name, found);
        return all;
    }
    /// Whether the session can do something, one of TERN_KV_OP_*, or why not.
    result<void> kv_can(tern_kv_op op) const { return detail::done(tern_session_kv_can(get(), op)); }
    result<void> kv_rebuild(const kv_rebuild_options &options = {}) {
        return detail::done(tern_session_kv_rebuild(get(), &options));
    }

    /// To a file, and back; `with` may be left out.
    result<void> save(std::string_view path, const sampler *with = nullptr) const;
    result<void> restore(std::string_view path, sampler *with = nullptr);
    /// The same in memory.
    result<std::vector<std::uint8_t>> write(const sampler *with = nullptr) const;
    result<void> read(view<std::uint8_t> bytes, sampler *with = nullptr);

    result<void> kv_truncate(std::uint32_t pos) {
        return detail::done(tern_session_kv_truncate(get(), pos));
    }
    result<session> fork() const {
        tern_session *made = nullptr;
        const tern_status status = tern_session_fork(get(), &made);
        if (status != TERN_OK) return detail::last(status);
        return session(made);
    }
    result<session_info> describe() const {
        session_info info;
        const tern_status status = tern_session_describe(get(), &info);
        if (status != TERN_OK) return detail::last(status);
        return info;
    }
    result<void> set_threads(std::uint32_t n_threads, std::uint32_t n_threads_prefill = 0) {
        return detail::done(tern_session_set_threads(get(), n_threads, n_threads_prefill));
    }
    /// From any thread, and from signal handlers.
    void abort() const noexcept { tern_session_abort(get()); }

    /// See tern_session_progress(): safe at any time, from any thread and from signal handlers.
    std::uint64_t progress() const noexcept { return tern_session_progress(get()); }
};

/// Chooses tokens from logits. As tern_sampler.
class sampler : public detail::handle<tern_sampler, tern_sampler_free> {
public:
    using handle::handle;

    static result<sampler> make(const sampler_options &options = {}) {
        tern_sampler *made = nullptr;
        const tern_status status = tern_sampler_new(&options, &made);
        if (status != TERN_OK) return detail::last(status);
        return sampler(made);
    }

    result<token> sample(const session &from) {
        token chosen = 0;
        const tern_status status = tern_sampler_sample(get(), from.get(), &chosen);
        if (status != TERN_OK) return detail::last(status);
        return chosen;
    }
    /// At most `capacity` tokens; gives how many. As tern_session_generate().
    result<std::size_t> generate(session &with, token *tokens, std::size_t capacity,
                                 const generate_options &options = {}) {
        std::size_t n = 0;
        const tern_status status =
            tern_session_generate(with.get(), get(), &options, tokens, capacity, &n);
        if (status != TERN_OK) return detail::last(status);
        return n;
    }
    result<void> accept(token seen) { return detail::done(tern_sampler_accept(get(), seen)); }
    result<void> reset() { return detail::done(tern_sampler_reset(get())); }

    /// Lent until the next call that changes the sampler.
    result<view<tern_token_logprob>> logprobs() const {
        const tern_token_logprob *list = nullptr;
        std::size_t n = 0;
        const tern_status status = tern_sampler_logprobs(get(), &list, &n);
        if (status != TERN_OK) return detail::last(status);
        return view<tern_token_logprob>(list, n);
    }
};

inline result<void> session::save(std::string_view path, const sampler *with) const {
    return detail::done(
        tern_session_save(get(), with ? with->get() : nullptr, std::string(path).c_str()));
}
inline result<void> session::restore(std::string_view path, sampler *with) {
    return detail::done(
        tern_session_restore(get(), with ? with->get() : nullptr, std::string(path).c_str()));
}
inline result<std::vector<std::uint8_t>> session::write(const sampler *with) const {
    return detail::fill<std::vector<std::uint8_t>>(
        0, [&](std::uint8_t *buffer, std::size_t capacity, std::size_t *size) {
            return tern_session_write(get(), with ? with->get() : nullptr, buffer, capacity, size);
        });
}
inline result<void> session::read(view<std::uint8_t> bytes, sampler *with) {
    return detail::done(tern_session_read(get(), with ? with->get() : nullptr, bytes.data(),
                                          bytes.size()));
}

/// Turns a stream of tokens into whole characters. As tern_decoder.
class decoder : public detail::handle<tern_decoder, tern_decoder_free> {
public:
    using handle::handle;

    static result<decoder> make(const model &of) {
        tern_decoder *made = nullptr;
        const tern_status status = tern_decoder_new(of.get(), &made);
        if (status != TERN_OK) return detail::last(status);
        return decoder(made);
    }

    /// Lent until the next call.
    result<std::string_view> push(token next) {
        const char *text = nullptr;
        std::size_t length = 0;
        const tern_status status = tern_decoder_push(get(), next, &text, &length);
        if (status != TERN_OK) return detail::last(status);
        return std::string_view(text, length);
    }
    result<std::string_view> flush() {
        const char *text = nullptr;
        std::size_t length = 0;
        const tern_status status = tern_decoder_flush(get(), &text, &length);
        if (status != TERN_OK) return detail::last(status);
        return std::string_view(text, length);
    }
    result<void> reset() { return detail::done(tern_decoder_reset(get())); }
};

/// Evaluates a prompt and generates up to `n_most` tokens, or until the model ends its text.
///
/// `on_text(std::string_view)` receives whole characters as they come. It may return `false` to
/// stop, and it may throw; the session is then as after the last eval. Gives the number of tokens
/// generated.
template <class F>
result<std::size_t> generate(const model &with, session &on, sampler &by, view<token> prompt,
                             std::size_t n_most, F &&on_text) {
    const auto tell = [&](std::string_view text) -> bool {
        if (text.empty()) return true;
        if constexpr (std::is_void_v<decltype(on_text(text))>) {
            on_text(text);
            return true;
        } else {
            return static_cast<bool>(on_text(text));
        }
    };
    result<decoder> text = decoder::make(with);
    if (!text) return text.why();
    if (result<void> read = on.eval(prompt); !read) return read.why();
    std::size_t n = 0;
    for (; n < n_most; n++) {
        const result<token> next = by.sample(on);
        if (!next) return next.why();
        if (with.is_eog(*next)) break;
        const result<std::string_view> complete = text->push(*next);
        if (!complete) return complete.why();
        if (!tell(*complete)) return n + 1;
        if (result<void> fed = on.eval(*next); !fed) return fed.why();
    }
    const result<std::string_view> rest = text->flush();
    if (!rest) return rest.why();
    tell(*rest);
    return n;
}

} // namespace tern

#endif
