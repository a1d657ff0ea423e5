//! A template's text, cut into tokens on demand.

use crate::base::heap;

use super::machine::broken;
use super::value::{Fault, fault, is_space};

/// A token. Outside of tags there is only text.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Token<'s> {
    /// Where text stands in the source: from, to.
    Text(usize, usize),
    BlockBegin,
    BlockEnd,
    PrintBegin,
    PrintEnd,
    Name(&'s str),
    Str(String),
    Int(i64),
    Float(f64),
    Op(&'static str),
    End,
}

/// Operators, longer ones before their beginnings.
const OPS: [&str; 26] = [
    "**", "//", "==", "!=", "<=", ">=", "+", "-", "*", "/", "%", "~", "<", ">", "=", "(", ")", "[",
    "]", "{", "}", ",", ":", ".", "|", ";",
];

/// The source with each line ended by one newline, and without the newline at its end.
pub(super) fn normalised(template: &str) -> Result<String, Fault> {
    let mut source = String::new();
    source.try_reserve_exact(template.len()).map_err(|_| Fault::NoMemory)?;
    let mut rest = template;
    while let Some((line, after)) = rest.split_once('\r') {
        heap::push(&mut source, line)?;
        heap::push(&mut source, "\n")?;
        rest = after.strip_prefix('\n').unwrap_or(after);
    }
    heap::push(&mut source, rest)?;
    if source.ends_with('\n') {
        source.pop();
    }
    Ok(source)
}

/// Reads tokens off the source.
pub(super) struct Lexer<'s> {
    /// Bytes of the source.
    len: usize,
    /// What has not been read.
    rest: &'s str,
    /// The line that `rest` begins on, from 1.
    line: u32,
    inside: bool,
    /// Brackets open inside the tag: the end of the tag is not looked for.
    n_open: usize,
    /// Whether what comes now begins a line, blanks apart.
    at_line_start: bool,
}

impl<'s> Lexer<'s> {
    pub(super) fn new(source: &'s str) -> Lexer<'s> {
        let len = source.len();
        Lexer { len, rest: source, line: 1, inside: false, n_open: 0, at_line_start: true }
    }

    /// The line that the last token ended on.
    pub(super) fn line(&self) -> u32 {
        self.line
    }

    pub(super) fn next(&mut self) -> Result<Token<'s>, Fault> {
        if self.inside { self.in_tag() } else { self.outside() }
    }

    /// Text that begins at a place of the source.
    fn text(&self, start: &str, n: usize) -> Token<'s> {
        let from = self.len.saturating_sub(start.len());
        Token::Text(from, from.saturating_add(n))
    }

    /// Moves on by `n` bytes; what they are.
    fn take(&mut self, n: usize) -> Result<&'s str, Fault> {
        let taken = take(&mut self.rest, n)?;
        for _ in taken.bytes().filter(|&b| b == b'\n') {
            self.line = self.line.saturating_add(1); // a template has at most 1 MiB
        }
        Ok(taken)
    }

    /// Moves on to `rest`, which is the end of what has not been read.
    fn take_until(&mut self, rest: &str) -> Result<&'s str, Fault> {
        self.take(self.rest.len().saturating_sub(rest.len()))
    }

    fn skip_space(&mut self) -> Result<&'s str, Fault> {
        self.take_until(self.rest.trim_start_matches(is_space))
    }

    /// Text, or the beginning of a tag.
    fn outside(&mut self) -> Result<Token<'s>, Fault> {
        loop {
            let start = self.rest;
            let Some((text, tag)) = before_tag(start) else {
                self.take(start.len())?;
                return Ok(if start.is_empty() {
                    Token::End
                } else {
                    self.text(start, start.len())
                });
            };
            let (kind, sign) = (tag.as_bytes().get(1), tag.as_bytes().get(2));
            if !text.is_empty() {
                let n_kept = match sign {
                    Some(b'-') => text.trim_end_matches(is_space).len(),
                    Some(b'+') => text.len(),
                    _ if kind == Some(&b'{') => text.len(),
                    _ => self.without_indent(text),
                };
                self.take(text.len())?;
                // What follows is a tag; its text was at the start of a line only if it ended so.
                self.at_line_start = false;
                if n_kept > 0 {
                    return Ok(self.text(start, n_kept));
                }
            }
            match kind {
                Some(b'#') => self.comment()?,
                Some(b'%') if self.is_tag_of("raw") => return self.raw(),
                _ => {
                    self.take(2)?;
                    if self.rest.starts_with(['-', '+']) {
                        self.take(1)?;
                    }
                    self.inside = true;
                    self.n_open = 0;
                    return Ok(match kind {
                        Some(b'%') => Token::BlockBegin,
                        _ => Token::PrintBegin,
                    });
                }
            }
        }
    }

    /// How much of the text stays when the blanks before a block are taken off its last line.
    fn without_indent(&self, text: &str) -> usize {
        let last_line = text.rsplit('\n').next().unwrap_or(text);
        let n_before = text.len().saturating_sub(last_line.len());
        let blank = last_line.bytes().all(|b| b == b' ' || b == b'\t');
        if blank && (n_before > 0 || self.at_line_start) { n_before } else { text.len() }
    }

    /// Whether the block that begins here is of this name and has nothing else.
    fn is_tag_of(&self, name: &str) -> bool {
        let rest = self.rest.strip_prefix("{%").unwrap_or("");
        let rest = rest.strip_prefix(['-', '+']).unwrap_or(rest).trim_start_matches(is_space);
        rest.strip_prefix(name).is_some_and(|rest| {
            let rest = rest.trim_start_matches(is_space);
            let rest = rest.strip_prefix(['-', '+']).unwrap_or(rest);
            rest.starts_with("%}")
        })
    }

    /// Skips to behind the next end of a tag and what that end takes away with it.
    fn end_tag(&mut self, end: &str, takes_newline: bool) -> Result<(), Fault> {
        let Some((inside, rest)) = self.rest.split_once(end) else {
            return fault!("a tag has no {end}");
        };
        let (strip, keep) = (inside.ends_with('-'), inside.ends_with('+'));
        self.take_until(rest)?;
        let taken = if strip {
            self.skip_space()?
        } else if takes_newline && !keep && rest.starts_with('\n') {
            self.take(1)?
        } else {
            ""
        };
        self.at_line_start = taken.ends_with('\n');
        Ok(())
    }

    fn comment(&mut self) -> Result<(), Fault> {
        // Not "{#}": the end needs a number sign of its own.
        self.take(2)?;
        self.end_tag("#}", true)
    }

    /// A raw block: its text as it stands.
    fn raw(&mut self) -> Result<Token<'s>, Fault> {
        self.end_tag("%}", false)?;
        let start = self.rest;
        loop {
            let Some(at) = self.rest.find("{%") else {
                return fault!("raw has no endraw");
            };
            self.take(at)?;
            if self.is_tag_of("endraw") {
                let Some(text) = start.strip_suffix(self.rest) else { return broken() };
                let n_kept = match self.rest.as_bytes().get(2) {
                    Some(b'-') => text.trim_end_matches(is_space).len(),
                    Some(b'+') => text.len(),
                    _ => self.without_indent(text),
                };
                self.end_tag("%}", true)?;
                return Ok(self.text(start, n_kept));
            }
            self.take(2)?;
        }
    }

    fn in_tag(&mut self) -> Result<Token<'s>, Fault> {
        self.skip_space()?;
        let rest = self.rest;
        if self.n_open == 0 {
            let bare = rest.strip_prefix(['-', '+']).unwrap_or(rest);
            for (end, token) in [("%}", Token::BlockEnd), ("}}", Token::PrintEnd)] {
                if bare.starts_with(end) {
                    self.end_tag(end, token == Token::BlockEnd)?;
                    self.inside = false;
                    return Ok(token);
                }
            }
        }
        match rest.bytes().next() {
            None => fault!("a tag has no end"),
            Some(b'"' | b'\'') => self.string(),
            Some(b'0'..=b'9') => self.number(),
            Some(b) if b.is_ascii_alphabetic() || b == b'_' || b >= 0x80 => {
                let n = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
                if n == 0 {
                    return fault!("unexpected character {:?}", rest.chars().next());
                }
                self.take(n).map(Token::Name)
            }
            Some(_) => {
                let Some(op) = OPS.iter().find(|op| rest.starts_with(**op)) else {
                    return fault!("unexpected character {:?}", rest.chars().next());
                };
                match *op {
                    "(" | "[" | "{" => self.n_open = self.n_open.saturating_add(1),
                    ")" | "]" | "}" => match self.n_open.checked_sub(1) {
                        Some(n) => self.n_open = n,
                        None => return fault!("unexpected '{op}'"),
                    },
                    _ => (),
                }
                self.take(op.len())?;
                Ok(Token::Op(op))
            }
        }
    }

    fn number(&mut self) -> Result<Token<'s>, Fault> {
        let is_digit = |c: char| c.is_ascii_digit();
        let behind_digits = |text: &'s str| text.trim_start_matches(|c| is_digit(c) || c == '_');
        let mut rest = behind_digits(self.rest);
        let mut float = false;
        if let Some(fraction) = rest.strip_prefix('.').filter(|rest| rest.starts_with(is_digit)) {
            rest = behind_digits(fraction);
            float = true;
        }
        if let Some(exponent) = rest.strip_prefix(['e', 'E']) {
            let unsigned = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
            let behind = behind_digits(unsigned);
            if behind.len() < unsigned.len() {
                rest = behind;
                float = true;
            }
        }
        let mut text = String::new();
        for part in self.take_until(rest)?.split('_') {
            heap::push(&mut text, part)?;
        }
        if float {
            match text.parse() {
                Ok(f) => Ok(Token::Float(f)),
                Err(_) => fault!("{text} is not a number"),
            }
        } else {
            match text.parse() {
                Ok(i) => Ok(Token::Int(i)),
                Err(_) => fault!("{text} does not fit in 64 bits"),
            }
        }
    }

    fn string(&mut self) -> Result<Token<'s>, Fault> {
        // Not off `self.rest`, so that a string without an end is of the line that it begins on.
        let mut rest = self.rest;
        let quote = take(&mut rest, 1)?;
        let mut text = String::new();
        loop {
            let Some(n) = rest.find(|c| c == '\\' || quote.starts_with(c)) else {
                return fault!("a string has no end");
            };
            heap::push(&mut text, take(&mut rest, n)?)?;
            if take(&mut rest, 1)? == quote {
                break;
            }
            let (c, n) = escape(rest);
            let written = take(&mut rest, n)?;
            match c {
                Some(c) => heap::push(&mut text, c.encode_utf8(&mut [0; 4]))?,
                None => {
                    heap::push(&mut text, "\\")?;
                    heap::push(&mut text, written)?;
                }
            }
        }
        self.take_until(rest)?;
        Ok(Token::Str(text))
    }
}

/// Takes `n` bytes off a text.
fn take<'s>(rest: &mut &'s str, n: usize) -> Result<&'s str, Fault> {
    let Some((taken, after)) = rest.split_at_checked(n) else { return broken() };
    *rest = after;
    Ok(taken)
}

/// What stands before the first beginning of a tag, and what begins with it.
fn before_tag(text: &str) -> Option<(&str, &str)> {
    let mut splits = text.match_indices('{').filter_map(|(at, _)| text.split_at_checked(at));
    splits.find(|(_, tag)| matches!(tag.as_bytes(), [_, b'{' | b'%' | b'#', ..]))
}

/// What stands behind a backslash: the character that it means, if any, and its length.
fn escape(text: &str) -> (Option<char>, usize) {
    let Some(first) = text.chars().next() else {
        return (None, 0);
    };
    // `n` is the length with the letter before the digits.
    let hex = |n: usize| {
        let digits = text.get(1..n).filter(|d| d.bytes().all(|b| b.is_ascii_hexdigit()));
        let c = digits.and_then(|d| u32::from_str_radix(d, 16).ok()).and_then(char::from_u32);
        (c, if c.is_some() { n } else { 1 })
    };
    match first {
        'n' => (Some('\n'), 1),
        't' => (Some('\t'), 1),
        'r' => (Some('\r'), 1),
        'a' => (Some('\x07'), 1),
        'b' => (Some('\x08'), 1),
        'f' => (Some('\x0c'), 1),
        'v' => (Some('\x0b'), 1),
        '\\' | '\'' | '"' => (Some(first), 1),
        'x' => hex(3),
        'u' => hex(5),
        'U' => hex(9),
        '0'..='7' => {
            let n = text.bytes().take(3).take_while(|b| (b'0'..=b'7').contains(b)).count();
            let code = text.get(..n).and_then(|digits| u32::from_str_radix(digits, 8).ok());
            (code.and_then(char::from_u32), n)
        }
        _ => (None, first.len_utf8()),
    }
}
