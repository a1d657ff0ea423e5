//! Chat templates: any program, on any messages.

use tern::chat::{MAX_OUTPUT, Message, format};

use crate::memory;

const CASES: &str = include_str!("../../chat/cases.txt");

/// What stands between a template, the roles and the contents of messages.
const CUT: char = '\u{1}';

pub fn run(input: &[u8]) {
    let Some((flags, rest)) = input.split_first() else { return };
    let Ok(text) = std::str::from_utf8(rest) else { return };
    let mut parts = text.split(CUT);
    let template = parts.next().unwrap_or("");
    let mut messages = Vec::new();
    while let Some(role) = parts.next() {
        messages.push(Message { role, content: parts.next().unwrap_or("") });
    }
    let prompt = memory::call_eq(|| {
        let mut out = String::new();
        let done = format(template, &messages, flags & 1 == 1, "<s>", "</s>", &mut out);
        assert!(done.is_ok() || out.is_empty(), "a failed call leaves its output alone");
        done.map(|()| out)
    });
    assert!(
        prompt.is_ok_and(|prompt| prompt.len() <= MAX_OUTPUT)
            || !text.is_empty()
            || rest.is_empty()
    );
}

/// The templates of real models and of the dialect's corners, as they are recorded for another test.
pub fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    let mut rest = CASES;
    while let Some((head, after)) = rest.split_once('\n') {
        let (word, len) = head.split_once(' ').unwrap();
        let (text, after) = after.split_at(len.parse().unwrap());
        if word == "template" && text.len() < 4000 {
            let said = "\u{1}system\u{1}Be kind.\u{1}user\u{1}Hi!\u{1}assistant\u{1}{{ 1 }}";
            seeds.push([&[1], text.as_bytes(), said.as_bytes()].concat());
        }
        rest = after.strip_prefix('\n').unwrap();
    }
    seeds.sort();
    seeds.dedup();
    seeds
}
