//! Chat templates: what does not parse, what tries to leave its language, what never ends.

use super::case::{Case, Outcome, Works, case, fails, format_chat, using};
use super::models::good;
use crate::support::gguf_writer::GgufWriter;
use crate::support::tiny::Random;
use tern::engine::{Error, Message};

fn template(text: impl AsRef<[u8]>) -> GgufWriter {
    good().str("tokenizer.chat_template", text)
}

#[rustfmt::skip] // one case, one line
pub(crate) fn cases() -> Vec<Case> {
    let bad = |part: &str| -> Outcome { fails("BAD_TEMPLATE", part) };
    let deep = |open: &str, middle: &str, close: &str, n: usize| {
        template(format!("{{{{ {}{middle}{} }}}}", open.repeat(n), close.repeat(n)))
    };
    let blocks = |n: usize| template(format!("{}x{}", "{% if true %}".repeat(n), "{% endif %}".repeat(n)));
    vec![
        using(format_chat, "tok_template_good", good(), Works),
        using(format_chat, "tok_template_plain", template("hello"), Works),
        using(format_chat, "tok_template_empty", template(""), Works),
        using(format_chat, "tok_template_missing", good().without("tokenizer.chat_template"), bad("tokenizer.chat_template: the model has none")),
        using(format_chat, "tok_template_u32", good().u32("tokenizer.chat_template", 1), bad("tokenizer.chat_template: 1 of kind u32, expected a string")),
        using(format_chat, "tok_template_strings", good().strings("tokenizer.chat_template", ["a"]), bad("tokenizer.chat_template: an array of 1 x string, expected a string")),
        using(format_chat, "tok_template_nonutf8", good().str("tokenizer.chat_template", b"a\xff"), bad("tokenizer.chat_template: not UTF-8 at byte 1")),
        using(format_chat, "tok_template_nul", template("a\0b"), Works),
        using(format_chat, "tok_template_unclosed", template("{% for m in messages %}"), bad("line 1: for has no end")),
        using(format_chat, "tok_template_unclosed_tag", template("{{ messages"), bad("line 1: a tag has no end")),
        using(format_chat, "tok_template_stray_end", template("{% endfor %}"), bad("line 1: unexpected endfor")),
        using(format_chat, "tok_template_unknown_filter", template("{{ messages | no_such_filter }}"), bad("line 1: the filter 'no_such_filter' is unknown")),
        using(format_chat, "tok_template_unknown_call", template("{{ no_such_function() }}"), bad("line 1: an undefined value cannot be called")),
        using(format_chat, "tok_template_raise", template("{{ raise_exception('roles must alternate') }}"), bad("roles must alternate")),
        using(format_chat, "tok_template_include", template("{% include '/etc/passwd' %}"), bad("line 1: the statement 'include' is unknown")),
        using(format_chat, "tok_template_import", template("{% import 'x' as y %}"), bad("line 1: the statement 'import' is unknown")),
        using(format_chat, "tok_template_extends", template("{% extends 'chat' %}"), bad("the statement 'extends' is unknown")),
        using(format_chat, "tok_template_escape", template("{{ ''.__class__.__mro__[1].__subclasses__() }}"), bad("line 1: '__mro__' of an undefined value")),
        using(format_chat, "tok_template_escape_attr", template("{{ messages.__init__.__globals__ }}"), bad("line 1: '__globals__' of an undefined value")),
        using(format_chat, "tok_template_divide", template("{{ 1 // 0 }}"), bad("line 1: division by zero")),
        using(format_chat, "tok_template_overflow", template("{{ 9223372036854775807 * 9223372036854775807 * 9223372036854775807 }}"), bad("line 1: a whole number does not fit in 64 bits")),
        using(format_chat, "tok_template_power", template("{{ 10 ** 1000000000 }}"), bad("line 1: a whole number does not fit in 64 bits")),
        using(format_chat, "tok_template_index", template("{{ messages[99].role.x }}"), bad("line 1: 'role' of an undefined value")),
        using(format_chat, "tok_template_deep", deep("(", "1", ")", 100_000), bad("line 1: expressions nest more than 64 deep")),
        using(format_chat, "tok_template_deep_150", deep("(", "1", ")", 200), bad("line 1: expressions nest more than 64 deep")),
        using(format_chat, "tok_template_deep_list", deep("[", "1", "]", 100_000), bad("line 1: expressions nest more than 64 deep")),
        using(format_chat, "tok_template_deep_not", deep("not ", "1", "", 50_000), bad("line 1: expressions nest more than 64 deep")),
        using(format_chat, "tok_template_deep_minus", deep("-", "1", "", 50_000), Works),
        using(format_chat, "tok_template_deep_if", blocks(40_000), bad("line 1: blocks nest more than 64 deep")),
        using(format_chat, "tok_template_long_sum", deep("1+", "1", "", 100_000), Works),
        using(format_chat, "tok_template_long_chain", deep("", "messages", ".x", 100_000), bad("line 1: 'x' of an undefined value")),
        using(format_chat, "tok_template_long_filters", deep("", "'a'", "|upper", 100_000), Works),
        using(format_chat, "tok_template_long_concat", deep("'a'~", "1", "", 100_000), bad("line 1: takes more than 1000000 steps")),
        using(format_chat, "tok_template_long_elif", template(format!("{{% if x %}}{}{{% endif %}}", "{% elif y %}".repeat(50_000))), Works),
        using(format_chat, "tok_template_macro", template("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}"), bad("line 1: calls of macros nest more than 64 deep")),
        using(format_chat, "tok_template_macro_twice", template("{% macro m() %}{{ m() }}{{ m() }}{% endmacro %}{{ m() }}"), bad("line 1: calls of macros nest more than 64 deep")),
        using(format_chat, "tok_template_range", template("{% for i in range(1000000000) %}x{% endfor %}"), bad("line 1: a range of more than 100000 numbers")),
        using(format_chat, "tok_template_range_max", template("{{ range(9223372036854775807) | list }}"), bad("line 1: a range of more than 100000 numbers")),
        using(format_chat, "tok_template_range_list", template("{{ range(1000000000) | list | length }}"), bad("line 1: a range of more than 100000 numbers")),
        using(format_chat, "tok_template_nested_loops", template("{% for i in range(25000) %}{% for j in range(25000) %}{% endfor %}{% endfor %}"), bad("line 1: takes more than 1000000 steps")),
        using(format_chat, "tok_template_output", template("{% set s = 'xxxxxxxxxxxxxxxx' * 65536 %}{% for i in range(1000) %}{{ s }}{% endfor %}"), bad("line 1: makes more than 4194304 bytes of text")),
        using(format_chat, "tok_template_repeat", template("{{ 'x' * 10000000000 }}"), bad("line 1: takes more than 1000000 steps")),
        using(format_chat, "tok_template_repeat_list", template("{{ ([1] * 10000000000) | length }}"), bad("line 1: takes more than 1000000 steps")),
        using(format_chat, "tok_template_doubling", template("{% set ns = namespace(s='x') %}{% for i in range(60) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}{{ ns.s | length }}"), bad("line 1: makes more than 4194304 bytes of text")),
        using(format_chat, "tok_template_doubling_list", template("{% set ns = namespace(s=[1]) %}{% for i in range(60) %}{% set ns.s = ns.s + ns.s %}{% endfor %}{{ ns.s | length }}"), bad("line 1: takes more than 1000000 steps")),
        using(format_chat, "tok_template_replace", template("{% set ns = namespace(s='xx') %}{% for i in range(60) %}{% set ns.s = ns.s | replace('x', 'xxxxxxxxxxxxxxxx') %}{% endfor %}{{ ns.s | length }}"), bad("line 1: makes more than 4194304 bytes of text")),
        using(format_chat, "tok_template_join", template("{{ range(100000) | join('xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx') }}"), bad("line 1: makes more than 4194304 bytes of text")),
        using(format_chat, "tok_template_indent", template("{{ 'a\nb' | indent(2000000000) }}"), Works),
        using(format_chat, "tok_template_center", template("{{ '%2000000000d' | format(1) }}"), bad("line 1: the filter 'format' is unknown")),
        using(format_chat, "tok_template_recursive_loop", template("{% for i in [1] recursive %}{{ loop([1]) }}{% endfor %}"), bad("line 1: recursive loops are not supported")),
        using(format_chat, "tok_template_deep_value", template("{% set ns = namespace(x=[]) %}{% for i in range(100000) %}{% set ns.x = [ns.x] %}{% endfor %}{{ ns.x }}"), bad("line 1: nests lists or maps more than 32 deep")),
        using(format_chat, "tok_template_deep_value_quiet", template("{% set ns = namespace(x=[]) %}{% for i in range(100000) %}{% set ns.x = [ns.x] %}{% endfor %}done"), bad("line 1: nests lists or maps more than 32 deep")),
        using(format_chat, "tok_template_1m", template("x".repeat(1 << 20)), Works),
        using(format_chat, "tok_template_over_1m", template("x".repeat((1 << 20) + 1)), fails("LIMIT", "tokenizer.chat_template")),
        // A bad template is found when it is used; the model itself loads and generates.
        case("tok_template_unclosed_unused", template("{{"), Works),
        case("tok_template_nonutf8_unused", template(b"\xff"), Works),
        case("tok_template_macro_unused", template("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}"), Works),
        case("tok_template_u32_unused", good().u32("tokenizer.chat_template", 1), Works),
    ]
}

/// Templates of random pieces: most do not parse, some run, and none does harm.
#[rustfmt::skip] // lists of words
pub(crate) fn random_templates() {
    let pieces = [
        "{{ ", " }}", "{% ", " %}", "{%- ", " -%}", "{#", "#}", "for m in messages", "endfor",
        "for i in range(9)", "if ", "elif ", "else", "endif", "set x = ", "set x", "endset",
        "macro f(a, b=1)", "endmacro", "f(", "messages", "m", "m.role", "m['content']", "x",
        "loop.index", "loop.last", "[", "]", "[1:2]", "[::-1]", "[-1]", "(", ")", "{", "}", ":",
        ",", "'a'", "\"\\n\"", "1", "-", "0.5", "9223372036854775807", "+", "*", "/", "//",
        "%", "**", "~", "|", "| trim", "| upper", "| length", "| join(', ')", "| tojson",
        "| default('')", "| list", "is defined", "is not none", "is string", "in", "not", "and",
        "or", "==", "<", "true", "none", "namespace(a=1)", "ns.a", "set ns.a = ", "break",
        "continue", "raise_exception('x')", "range(3)", ".split('a')", ".strip()", ".items()",
        "raw", "endraw", "generation", "endgeneration", "with a = 1", "endwith", "filter upper",
        "endfilter", "\n", " ", "\u{1f980}", "text", "if x else",
    ];
    let messages = [Message { role: "user", content: "a b" }];
    let mut random = Random(3);
    let mut works = 0;
    for _ in 0..30_000 {
        let n = 1 + random.next() as usize % 24;
        let mut template = String::new();
        for _ in 0..n {
            // Half of the time as a whole tag, so that more of them parse.
            let piece = pieces[random.next() as usize % pieces.len()];
            match random.next() % 4 {
                0 => template.extend(["{{ ", piece, " }}"]),
                1 => template.extend(["{% ", piece, " %}"]),
                _ => template.extend([piece, " "]),
            }
        }
        let mut out = String::from("before");
        match tern::chat::format(&template, &messages, true, "<s>", "</s>", &mut out) {
            Ok(()) => works += 1,
            Err(Error::BadTemplate(_)) => assert_eq!(out, "before", "{template}"),
            Err(other) => panic!("{template}: {other}"),
        }
        assert!(out.starts_with("before"), "{template}");
    }
    assert!(works > 1_000, "{works} templates work");
}
