//! Messages to a prompt, by the template that the model carries.
//!
//! A chat template is a program in Jinja, written for Python, in a file that may come from
//! anywhere. This module is a small interpreter for the dialect in which such templates are
//! written. It knows nothing of models or tokens.
//!
//! # The dialect
//!
//! What `transformers` sets up around Jinja 2 holds here too: `trim_blocks` and `lstrip_blocks` are
//! on, nothing is escaped, `break` and `continue` exist, `generation` blocks are passed through,
//! values cannot be changed in place, and `tojson` writes plain JSON. Templates see `messages`
//! (maps with `role` and `content`), `add_generation_prompt`, `bos_token`, `eos_token`, and `tools`
//! and `documents`, which are none. There are `range`, `dict`, `namespace`, `raise_exception` and
//! `strftime_now`; the statements `if`, `for`, `set`, `macro`, `with`, `filter` and `raw`; and the
//! filters, tests and methods of strings and maps that are listed in `filters.rs` and `methods.rs`.
//! What is missing (`include`, `import`, `extends`, `call`, recursive loops, chained comparisons)
//! is an error that says so. Tuples are lists, and print as lists do.
//!
//! `strftime_now` always tells midnight of 26 July 2024, the day that templates with a date of
//! their own fall back to: the same messages give the same prompt on every day and machine.
//!
//! # Limits
//!
//! A template is at most [`MAX_TEMPLATE`] bytes with [`MAX_NAMES`] names and may nest [`MAX_DEPTH`] deep; a prompt is at
//! most [`MAX_OUTPUT`] bytes, and so is every string on the way to it; [`FUEL`] bounds time and
//! memory together, since it pays for every instruction and every 64 bytes read or written. Calls
//! of macros nest [`MAX_DEPTH`] deep, lists and maps [`MAX_NESTING`]. Nothing here recurses further
//! than those depths, and a stack of 96 KiB is enough. A template that goes beyond is an error, as any bad template is:
//! `BadTemplate` with the line and the reason.
//!
//! # Why an interpreter of its own
//!
//! Limits must hold for values too, not only for what is written out. General Jinja engines count
//! instructions; but thirty instructions that double a string fill any memory, and a list wrapped
//! in itself a hundred thousand times overflows the stack when it is dropped. Here every operation
//! pays for what it makes, by construction. It is also a fifth of the code of a general engine.
#![deny(
    clippy::arithmetic_side_effects,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::string_slice,
    clippy::unreachable
)]

mod block;
mod calls;
mod code;
mod expression;
mod filters;
mod grow;
mod lexer;
mod machine;
mod methods;
mod parser;
mod text;
mod value;

use crate::base::error::err;
use grow::{Grow, listed};
use machine::Machine;
use value::{Fault, Function, Value};

/// The longest template, in bytes.
pub const MAX_TEMPLATE: usize = 1 << 20;
/// The longest prompt, and the longest string within a template, in bytes.
pub const MAX_OUTPUT: usize = 4 << 20;
/// How deep blocks, expressions and calls of macros may nest, each.
pub const MAX_DEPTH: usize = 64;
/// Names in a template: of variables, attributes, filters and the like.
pub const MAX_NAMES: usize = 4096;
/// How deep lists and maps may nest.
pub const MAX_NESTING: usize = 32;
/// What a template may spend: 1 for each instruction, each element visited, and each 64 bytes.
pub const FUEL: u64 = 1_000_000;

/// One turn of a conversation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message<'a> {
    /// Who speaks: "system", "user", "assistant", or what else the template knows.
    pub role: &'a str,
    /// What is said.
    pub content: &'a str,
}

/// Appends to `out` the prompt that `template` makes of the messages.
///
/// `add_generation_prompt` asks for the opening of the assistant's turn after the last message.
/// `bos` and `eos` are the texts of the model's tokens that begin and end a text. Fails with
/// `BadTemplate`, and then leaves `out` as it was.
pub fn format(
    template: &str,
    messages: &[Message<'_>],
    add_generation_prompt: bool,
    bos: &str,
    eos: &str,
    out: &mut String,
) -> crate::Result<()> {
    if template.len() > MAX_TEMPLATE {
        let n = template.len();
        return Err(err!(BadTemplate, "{n} bytes, expected at most {MAX_TEMPLATE}"));
    }
    let source = lexer::normalised(template).map_err(|fault| located(0, &fault))?;
    let program = parser::parse(&source).map_err(|(line, fault)| located(line, &fault))?;
    let mut machine = Machine::new(&program).map_err(|fault| located(0, &fault))?;
    set_globals(&mut machine, messages, add_generation_prompt, bos, eos)
        .map_err(|fault| located(0, &fault))?;
    let prompt = machine.run().map_err(|(line, fault)| located(line, &fault))?;
    out.try_reserve(prompt.len()).map_err(|_| located(0, &Fault::NoMemory))?;
    out.push_str(&prompt);
    Ok(())
}

/// Gives the template what it is to see.
fn set_globals(
    machine: &mut Machine<'_>,
    messages: &[Message<'_>],
    add_generation_prompt: bool,
    bos: &str,
    eos: &str,
) -> Result<(), Fault> {
    let fuel = &mut machine.fuel;
    let mut list = Vec::new();
    for message in messages {
        let role = (fuel.string(&["role"])?, fuel.string(&[message.role])?);
        let content = (fuel.string(&["content"])?, fuel.string(&[message.content])?);
        list.add(fuel.map(listed([role, content])?)?)?;
    }
    let globals = [
        ("messages", fuel.list(list)?),
        ("add_generation_prompt", Value::Bool(add_generation_prompt)),
        ("bos_token", fuel.string(&[bos])?),
        ("eos_token", fuel.string(&[eos])?),
        ("tools", Value::None),
        ("documents", Value::None),
        ("range", Value::Function(Function::Range)),
        ("dict", Value::Function(Function::Dict)),
        ("namespace", Value::Function(Function::Namespace)),
        ("raise_exception", Value::Function(Function::RaiseException)),
        ("strftime_now", Value::Function(Function::StrftimeNow)),
    ];
    for (name, value) in globals {
        machine.set_global(name, value)?;
    }
    Ok(())
}

/// The error of a fault at a line; line 0 is none in particular.
fn located(line: u32, fault: &Fault) -> crate::Error {
    match fault {
        Fault::NoMemory => err!(OutOfMemory, "chat template: no memory for its values"),
        Fault::Reason(reason) if line == 0 => err!(BadTemplate, "{}", reason.as_str()),
        Fault::Reason(reason) => err!(BadTemplate, "line {line}: {}", reason.as_str()),
    }
}
