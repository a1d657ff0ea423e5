//! What `tern::chat` promises: prompts as Jinja 2 makes them, and an error for whatever else a
//! template may try. `tests/chat/cases.txt` is recorded by `tests/oracle/chat_templates.py`.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends there")]

mod support;

use std::collections::HashMap;
use std::time::{Duration, Instant};

use support::counting::{Counting, with_allocations};
use tern::Error;
use tern::chat::{MAX_OUTPUT, MAX_TEMPLATE, Message, format};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const CASES: &str = include_str!("chat/cases.txt");

/// The parts of the recorded file: a word, and a text whose length stands before it.
fn parts() -> Vec<(&'static str, &'static str)> {
    let mut parts = Vec::new();
    let mut rest = CASES;
    while let Some((head, after)) = rest.split_once('\n') {
        let (word, len) = head.split_once(' ').unwrap();
        let (text, after) = after.split_at(len.parse().unwrap());
        parts.push((word, text));
        rest = after.strip_prefix('\n').unwrap();
    }
    parts
}

fn prompt(template: &str, messages: &[Message<'_>], add: bool) -> Result<String, Error> {
    let mut out = "before".to_owned();
    match format(template, messages, add, "<s>", "</s>", &mut out) {
        Ok(()) => Ok(out.strip_prefix("before").unwrap().to_owned()),
        Err(error) => {
            assert_eq!(out, "before", "a failed call leaves its output alone");
            Err(error)
        }
    }
}

fn hello() -> [Message<'static>; 2] {
    [Message { role: "system", content: "Be kind." }, Message { role: "user", content: "Hello!" }]
}

/// The sentence of the error that a template makes.
fn refusal(template: &str) -> String {
    match prompt(template, &hello(), false) {
        Err(error @ Error::BadTemplate(_)) => error.message().to_owned(),
        Err(error) => panic!("{error}"),
        Ok(text) => panic!("{:?} gives {} bytes", &template[..template.len().min(99)], text.len()),
    }
}

/// Calls `f` for each recorded case: a template and its messages, whether the answer is to be opened, and
/// the prompt, or `None` if Jinja refuses.
fn each_case(mut f: impl FnMut(&str, &[Message<'_>], bool, Option<&str>)) {
    let mut conversations: HashMap<&str, Vec<Message<'static>>> = HashMap::new();
    let (mut conversation, mut role, mut template, mut asked) = ("", "", "", ("", false));
    for (word, text) in parts() {
        match word {
            "conversation" => {
                conversation = text;
                conversations.insert(text, Vec::new());
            }
            "role" => role = text,
            "content" => {
                conversations.get_mut(conversation).unwrap().push(Message { role, content: text })
            }
            "template" => template = text,
            "with" => asked = (text, false),
            "prompting" => asked = (text, true),
            "gives" => f(template, &conversations[asked.0], asked.1, Some(text)),
            "refused" => f(template, &conversations[asked.0], asked.1, None),
            _ => panic!("{word}"),
        }
    }
}

#[test]
fn prompts_equal_those_of_jinja() {
    let (mut n_same, mut wrong) = (0, Vec::new());
    each_case(|template, messages, asked, expected| {
        let found = prompt(template, messages, asked);
        match (&found, expected) {
            (Ok(found), Some(expected)) if found == expected => n_same += 1,
            (Err(Error::BadTemplate(_)), None) => n_same += 1,
            _ => wrong.push(std::format!(
                "{messages:?}\n{template}\nexpected: {expected:?}\nfound:    {found:?}\n"
            )),
        }
    });
    assert!(wrong.is_empty(), "{} differ:\n{}", wrong.len(), wrong.join("\n"));
    assert!(n_same > 250, "{n_same} cases");
}

/// Whichever allocation is the last one that succeeds. An end of the process would end this test.
#[test]
fn without_memory_there_is_an_error_or_the_same_prompt() {
    let (mut n_refused, mut out) = (0, String::with_capacity(1 << 20));
    each_case(|template, messages, asked, expected| {
        for n in 0.. {
            out.clear();
            let done =
                with_allocations(n, || format(template, messages, asked, "<s>", "</s>", &mut out));
            match (done, expected) {
                (Err(Error::OutOfMemory(_)), _) => n_refused += 1,
                (Ok(()), Some(expected)) if out == expected => break,
                (Err(Error::BadTemplate(_)), None) => break,
                (found, _) => panic!("{template}\n{n} allocations: {found:?}"),
            }
            assert!(out.is_empty());
        }
    });
    println!("{n_refused} times there was no memory");
    assert!(n_refused > 10_000, "{n_refused}");
}

#[test]
fn an_error_tells_the_line_and_the_reason() {
    for (template, sentence) in [
        ("a\nb\n{{ x.y }}", "line 3: 'y' of an undefined value"),
        (
            "{% if true %}\n\n{{ raise_exception('no tools here') }}{% endif %}",
            "line 3: the template says: no tools here",
        ),
        ("\n{% for m in messages %}", "line 2: for has no end"),
        ("{{ 'a' }", "line 1: unexpected '}'"),
        ("{{ foo(", "line 1: a tag has no end"),
        ("{% include 'x' %}", "line 1: the statement 'include' is unknown"),
        ("{% call m() %}{% endcall %}", "line 1: the statement 'call' is unknown"),
        ("{% for x in [] recursive %}{% endfor %}", "line 1: recursive loops are not supported"),
        ("{{ 1 < 2 < 3 }}", "line 1: chained comparisons are not supported"),
        ("{{ 'a'|nonsense }}", "line 1: the filter 'nonsense' is unknown"),
        ("{{ 'a'.nonsense() }}", "line 1: a string has no method 'nonsense'"),
        ("{{ nonsense() }}", "line 1: an undefined value cannot be called"),
        ("{{ 9223372036854775807 + 1 }}", "line 1: a whole number does not fit in 64 bits"),
        ("{# no end", "line 1: a tag has no #}"),
        ("{% raw %}x", "line 1: raw has no endraw"),
    ] {
        assert_eq!(refusal(template), sentence, "{template}");
    }
}

#[test]
fn the_date_stands_still() {
    let found = prompt("{{ strftime_now('%d %B %Y') }}", &[], false).unwrap();
    assert_eq!(found, "26 July 2024");
}

/// What a hostile template may try. Each must end soon, with an error, on a small stack.
fn hostile() -> Vec<(String, &'static str)> {
    let deep = |open: &str, inner: &str, close: &str, n: usize| {
        std::format!("{}{inner}{}", open.repeat(n), close.repeat(n))
    };
    let tag = |inner: String| std::format!("{{{{ {inner} }}}}");
    let mut all = vec![
        // Depth of what is written.
        (tag(deep("(", "1", ")", 100_000)), "nest more than 64"),
        (tag(deep("[", "1", "]", 100_000)), "nest more than 64"),
        (tag(deep("{1:", "1", "}", 100_000)), "nest more than 64"),
        (tag("(".repeat(1_000_000)), "nest more than 64"),
        (tag(deep("x[", "1", "]", 100_000)), "nest more than 64"),
        (tag(deep("range(", "1", ")", 100_000)), "nest more than 64"),
        (tag(deep("1|d(", "1", ")", 100_000)), "nest more than 64"),
        (tag(deep("1 is eq(", "1", ")", 100_000)), "nest more than 64"),
        (tag(deep("not ", "1", "", 100_000)), "nest more than 64"),
        (tag(deep("1 if 1 else ", "1", "", 50_000)), "nest more than 64"),
        (tag(deep("(1 or 1 and 1 == 1 + 1 ~ 1 * 1 ** ", "1", ")", 20_000)), "nest more than 64"),
        (deep("{% if 1 %}", "", "{% endif %}", 40_000), "nest more than 64"),
        (deep("{% for i in [1] %}", "", "{% endfor %}", 30_000), "nest more than 64"),
        (deep("{% macro m() %}", "", "{% endmacro %}", 30_000), "nest more than 64"),
        (deep("{% set x %}", "", "{% endset %}", 30_000), "nest more than 64"),
        // Time.
        ("{% for i in range(1000000000) %}{% endfor %}".into(), "more than 100000"),
        ("{% for i in range(9223372036854775807, -9223372036854775807, -1) %}{% endfor %}".into(),
         "more than 100000"),
        ("{% for i in range(25000) %}{% for j in range(25000) %}{% endfor %}{% endfor %}".into(),
         "steps"),
        ("{% macro m(n) %}{{ m(n + 1) }}{% endmacro %}{{ m(0) }}".into(), "calls of macros nest"),
        ("{% macro a() %}{{ b() }}{% endmacro %}{% macro b() %}{{ a() }}{% endmacro %}{{ a() }}"
            .into(),
         "calls of macros nest"),
        ("{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(60) }}"
            .into(),
         "steps"),
        ("{% for i in range(99999) %}{% set x = ('a' * 4000000).count('b') %}{% endfor %}".into(),
         "steps"),
        ("{% set s = 'a' * 4000000 %}{% for i in range(99999) %}{% if s == s ~ '' %}{% endif %}\
          {% endfor %}"
            .into(),
         "steps"),
        // Equality of lists that share their items: 2^30 comparisons.
        ("{% set a = namespace(x=[1], y=[1]) %}{% for i in range(30) %}{% set a.x = [a.x, a.x] %}\
          {% set a.y = [a.y, a.y] %}{% endfor %}{{ a.x == a.y }}"
            .into(),
         "steps"),
        // Memory.
        ("{% set a = namespace(x='ab') %}{% for i in range(60) %}{% set a.x = a.x ~ a.x %}\
          {% endfor %}"
            .into(),
         "bytes of text"),
        ("{% set a = namespace(x='ab') %}{% for i in range(60) %}{% set a.x = a.x + a.x %}\
          {% endfor %}"
            .into(),
         "bytes of text"),
        ("{% set a = namespace(x='ab') %}{% for i in range(60) %}\
          {% set a.x = a.x|replace('a', a.x) %}{% endfor %}"
            .into(),
         "bytes of text"),
        ("{% set a = namespace(x='ab') %}{% for i in range(60) %}\
          {% set a.x = a.x.join(['a', 'b', 'c']) ~ 'x' %}{% set a.x = a.x|indent(a.x) ~ a.x %}\
          {% endfor %}"
            .into(),
         "bytes of text"),
        ("{% set a = namespace(x='ab') %}{% for i in range(60) %}\
          {% set y %}{{ a.x }}{{ a.x }}{% endset %}{% set a.x = y %}{% endfor %}"
            .into(),
         "bytes of text"),
        ("{% set a = namespace(x=[1]) %}{% for i in range(60) %}{% set a.x = a.x + a.x %}\
          {% endfor %}"
            .into(),
         "steps"),
        ("{% set a = namespace(x=['aaaaaaaaaaaaaaaaaaaaaaaa']) %}{% for i in range(31) %}\
          {% set a.x = [a.x, a.x, a.x] %}{% endfor %}{{ a.x }}"
            .into(),
         "more than"),
        ("{% set a = namespace(x=['aaaaaaaaaaaaaaaaaaaaaaaa']) %}{% for i in range(30) %}\
          {% set a.x = [a.x, a.x, a.x] %}{% endfor %}{{ a.x|tojson }}"
            .into(),
         "more than"),
        ("{% set a = namespace(x=[]) %}{% for i in range(99999) %}\
          {% set a.x = a.x + ['x' * 1000000] %}{% endfor %}"
            .into(),
         "steps"),
        ("{{ 'x' * 1000000000 }}".into(), "steps"),
        ("{{ ('x' * 1000) * 1000000 }}".into(), "bytes of text"),
        ("{{ '' * 9223372036854775807 }}".into(), "steps"),
        ("{{ [] * 9223372036854775807 }}".into(), "steps"),
        ("{{ [1] * 1000000000 }}".into(), "steps"),
        ("{{ {1: 2}|tojson(indent=1000000000) }}{{ 'a\n'|indent(1000000000) * 999999999 }}".into(),
         "steps"),
        ("{% for i in range(99999) %}xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\
          {% endfor %}"
            .into(),
         "bytes of text"),
        // Depth of what is made: dropped, printed or compared, it must not overflow the stack.
        ("{% set a = namespace(x=[]) %}{% for i in range(99999) %}{% set a.x = [a.x] %}{% endfor %}"
            .into(),
         "more than 32 deep"),
        ("{% set a = namespace(x={}) %}{% for i in range(99999) %}{% set a.x = {'a': a.x} %}\
          {% endfor %}"
            .into(),
         "more than 32 deep"),
        ("{% set a = namespace() %}{% set a.a = a %}".into(), "cannot be put"),
        ("{% set a = namespace() %}{% set b = [a] %}".into(), "cannot be put"),
        ("{% set a = namespace() %}{% set b = namespace(a=a) %}".into(), "cannot be put"),
        ("{{ [[1]]|map('map', 'map', 'map', 'upper')|list }}".into(), "cannot apply"),
    ];
    // A template at the limit that is one expression, and one over the limit.
    all.push((tag(std::format!("{}1", "1+".repeat(500_000))), "steps"));
    all.push((" ".repeat(MAX_TEMPLATE + 1), "bytes, expected at most"));
    all
}

#[test]
fn hostile_templates_are_errors_on_a_small_stack() {
    // What the module's documentation states.
    let thread = std::thread::Builder::new().stack_size(96 << 10);
    let hostile = hostile();
    let run = move || {
        let mut wrong = Vec::new();
        for (template, reason) in hostile {
            let start = Instant::now();
            let sentence = refusal(&template);
            let took = start.elapsed();
            let shown = &template[..template.len().min(120)];
            if !sentence.contains(reason) {
                wrong.push(std::format!("{shown}: {sentence}, expected {reason}"));
            }
            assert!(took < Duration::from_secs(5), "{shown}: {took:?}");
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
        // As deep as is allowed.
        let deep = std::format!("{{{{ {}1{} }}}}", "(".repeat(60), ")".repeat(60));
        assert_eq!(prompt(&deep, &[], false).unwrap(), "1");
        let deep = "{% if true %}".repeat(64) + "x" + &"{% endif %}".repeat(64);
        assert_eq!(prompt(&deep, &[], false).unwrap(), "x");
        let deep = "{% macro m(n) %}{{ n }}{% if n < 63 %}{{ m(n + 1) }}{% endif %}{% endmacro %}\
                    {{ m(0) }}";
        assert!(prompt(deep, &[], false).unwrap().ends_with("63"));
        let deep = "{% set a = namespace(x=[]) %}{% for i in range(31) %}{% set a.x = [a.x] %}\
                    {% endfor %}{{ a.x == a.x }}{{ a.x|tojson|length }}{{ a.x }}";
        assert!(prompt(deep, &[], false).unwrap().starts_with("True64[["));
    };
    thread.spawn(run).unwrap().join().unwrap();
}

#[test]
fn long_conversations_fit() {
    let text = "Lorem ipsum dolor sit amet. ".repeat(150);
    let messages: Vec<Message<'_>> =
        (0..800).map(|i| Message { role: ["user", "assistant"][i % 2], content: &text }).collect();
    let chatml = include_str!("chat/templates/thinking.jinja");
    let prompt = prompt(chatml, &messages, true).unwrap();
    assert!(prompt.len() > 800 * text.len() && prompt.len() < MAX_OUTPUT);
}

#[test]
fn threads_share_nothing() {
    let expected = prompt(include_str!("chat/templates/header.jinja"), &hello(), true).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..50 {
                    let template = include_str!("chat/templates/header.jinja");
                    assert_eq!(prompt(template, &hello(), true).unwrap(), expected);
                }
            });
        }
    });
}

/// Bytes that are almost templates: whatever comes out, it comes out.
#[test]
fn mutilated_templates_never_panic() {
    let mut rng = tern::base::rng::Rng::new(99);
    let seeds: Vec<&str> =
        parts().into_iter().filter(|(word, _)| *word == "template").map(|(_, text)| text).collect();
    let (mut n_good, mut n_bad) = (0, 0);
    for _ in 0..20_000 {
        let mut text: Vec<char> =
            seeds[rng.next_u64() as usize % seeds.len()].chars().take(1500).collect();
        for _ in 0..1 + rng.next_u64() % 4 {
            if text.is_empty() {
                break;
            }
            let at = rng.next_u64() as usize % text.len();
            match rng.next_u64() % 4 {
                0 => {
                    text.remove(at);
                }
                1 => {
                    text[at] = b"{}%#()[]|.,'\"-+~*/=<>:n \n"[rng.next_u64() as usize % 25] as char
                }
                2 => {
                    let other = rng.next_u64() as usize % text.len();
                    text.swap(at, other);
                }
                _ => {
                    let n = (rng.next_u64() as usize % 30).min(text.len() - at);
                    let cut: Vec<char> = text.drain(at..at + n).collect();
                    let to = rng.next_u64() as usize % (text.len() + 1);
                    text.splice(to..to, cut);
                }
            }
        }
        let text: String = text.into_iter().collect();
        match prompt(&text, &hello(), true) {
            Ok(_) => n_good += 1,
            Err(Error::BadTemplate(_)) => n_bad += 1,
            Err(error) => panic!("{text}: {error}"),
        }
    }
    assert!(n_good > 1000 && n_bad > 1000, "{n_good} {n_bad}");
}
