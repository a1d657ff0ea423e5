//! A template's text, cut into tokens on demand.

use crate::base::heap;

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
    while let Some(at) = rest.find('\r') {
        source.push_str(&rest[..at]);
        source.push('\n');
        rest = rest[at + 1..].strip_prefix('\n').unwrap_or(&rest[at + 1..]);
    }
    source.push_str(rest);
    if source.ends_with('\n') {
        source.pop();
    }
    Ok(source)
}

/// Reads tokens off the source.
pub(super) struct Lexer<'s> {
    source: &'s str,
    at: usize,
    /// The line that `at` is on, from 1.
    line: u32,
    inside: bool,
    /// Brackets open inside the tag: the end of the tag is not looked for.
    n_open: usize,
    /// Whether what comes now begins a line, blanks apart.
    at_line_start: bool,
}

impl<'s> Lexer<'s> {
    pub(super) fn new(source: &'s str) -> Lexer<'s> {
        Lexer { source, at: 0, line: 1, inside: false, n_open: 0, at_line_start: true }
    }

    /// The line that the last token ended on.
    pub(super) fn line(&self) -> u32 {
        self.line
    }

    pub(super) fn next(&mut self) -> Result<Token<'s>, Fault> {
        if self.inside { self.in_tag() } else { self.outside() }
    }

    fn rest(&self) -> &'s str {
        &self.source[self.at..]
    }

    /// Moves on by `n` bytes.
    fn skip(&mut self, n: usize) {
        let skipped = &self.source.as_bytes()[self.at..self.at + n];
        self.line += skipped.iter().filter(|&&b| b == b'\n').count() as u32;
        self.at += n;
    }

    fn skip_space(&mut self) {
        self.skip(self.rest().len() - self.rest().trim_start_matches(is_space).len());
    }

    /// Text, or the beginning of a tag.
    fn outside(&mut self) -> Result<Token<'s>, Fault> {
        loop {
            let start = self.at;
            let Some((at, kind)) = find_tag(self.rest()) else {
                self.skip(self.rest().len());
                return Ok(if start < self.at { Token::Text(start, self.at) } else { Token::End });
            };
            if at > 0 {
                let text = &self.rest()[..at];
                let sign = self.source.as_bytes().get(start + at + 2);
                let n_kept = match sign {
                    Some(b'-') => text.trim_end_matches(is_space).len(),
                    Some(b'+') => at,
                    _ if kind == b'{' => at,
                    _ => self.without_indent(text),
                };
                self.skip(at);
                // What follows is a tag; its text was at the start of a line only if it ended so.
                self.at_line_start = false;
                if n_kept > 0 {
                    return Ok(Token::Text(start, start + n_kept));
                }
            }
            match kind {
                b'#' => self.comment()?,
                b'%' if self.is_tag_of("raw") => return self.raw(),
                _ => {
                    self.skip(2);
                    if self.rest().starts_with(['-', '+']) {
                        self.skip(1);
                    }
                    self.inside = true;
                    self.n_open = 0;
                    return Ok(if kind == b'%' { Token::BlockBegin } else { Token::PrintBegin });
                }
            }
        }
    }

    /// How much of the text stays when the blanks before a block are taken off its last line.
    fn without_indent(&self, text: &str) -> usize {
        let last_line = text.rfind('\n').map_or(0, |at| at + 1);
        let blank = text[last_line..].bytes().all(|b| b == b' ' || b == b'\t');
        if blank && (last_line > 0 || self.at_line_start) { last_line } else { text.len() }
    }

    /// Whether the block that begins here is of this name and has nothing else.
    fn is_tag_of(&self, name: &str) -> bool {
        let rest = &self.rest()[2..];
        let rest = rest.strip_prefix(['-', '+']).unwrap_or(rest).trim_start_matches(is_space);
        rest.strip_prefix(name).is_some_and(|rest| {
            let rest = rest.trim_start_matches(is_space);
            let rest = rest.strip_prefix(['-', '+']).unwrap_or(rest);
            rest.starts_with("%}")
        })
    }

    /// Skips to behind the next end of a tag and what that end takes away with it.
    fn end_tag(&mut self, end: &str, takes_newline: bool) -> Result<(), Fault> {
        let Some(at) = self.rest().find(end) else {
            return fault!("a tag has no {end}");
        };
        let sign = self.source.as_bytes()[..self.at + at].last();
        let (strip, keep) = (sign == Some(&b'-'), sign == Some(&b'+'));
        self.skip(at + end.len());
        let from = self.at;
        if strip {
            self.skip_space();
        } else if takes_newline && !keep && self.rest().starts_with('\n') {
            self.skip(1);
        }
        self.at_line_start = self.source[from..self.at].ends_with('\n');
        Ok(())
    }

    fn comment(&mut self) -> Result<(), Fault> {
        // Not "{#}": the end needs a number sign of its own.
        self.skip(2);
        self.end_tag("#}", true)
    }

    /// A raw block: its text as it stands.
    fn raw(&mut self) -> Result<Token<'s>, Fault> {
        self.end_tag("%}", false)?;
        let start = self.at;
        loop {
            let Some(at) = self.rest().find("{%") else {
                return fault!("raw has no endraw");
            };
            self.skip(at);
            if self.is_tag_of("endraw") {
                let text = &self.source[start..self.at];
                let n_kept = match self.source.as_bytes().get(self.at + 2) {
                    Some(b'-') => text.trim_end_matches(is_space).len(),
                    Some(b'+') => text.len(),
                    _ => self.without_indent(text),
                };
                self.end_tag("%}", true)?;
                return Ok(Token::Text(start, start + n_kept));
            }
            self.skip(2);
        }
    }

    fn in_tag(&mut self) -> Result<Token<'s>, Fault> {
        self.skip_space();
        let rest = self.rest();
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
                self.skip(n);
                Ok(Token::Name(&rest[..n]))
            }
            Some(_) => {
                let Some(op) = OPS.iter().find(|op| rest.starts_with(**op)) else {
                    return fault!("unexpected character {:?}", rest.chars().next());
                };
                match *op {
                    "(" | "[" | "{" => self.n_open += 1,
                    ")" | "]" | "}" if self.n_open == 0 => return fault!("unexpected '{op}'"),
                    ")" | "]" | "}" => self.n_open -= 1,
                    _ => (),
                }
                self.skip(op.len());
                Ok(Token::Op(op))
            }
        }
    }

    fn number(&mut self) -> Result<Token<'s>, Fault> {
        let rest = self.rest();
        let digits =
            |text: &str| text.bytes().take_while(|b| b.is_ascii_digit() || *b == b'_').count();
        let mut n = digits(rest);
        let mut float = false;
        if rest[n..].starts_with('.') && rest[n + 1..].starts_with(|c: char| c.is_ascii_digit()) {
            n += 1 + digits(&rest[n + 1..]);
            float = true;
        }
        if let Some(exponent) = rest[n..].strip_prefix(['e', 'E']) {
            let unsigned = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
            if digits(unsigned) > 0 {
                n += 1 + (exponent.len() - unsigned.len()) + digits(unsigned);
                float = true;
            }
        }
        let mut text = String::new();
        for part in rest[..n].split('_') {
            heap::push(&mut text, part)?;
        }
        self.skip(n);
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
        let rest = self.rest();
        let quote = rest.as_bytes()[0];
        let mut text = String::new();
        let mut from = 1;
        let mut at = 1;
        loop {
            match rest.as_bytes().get(at) {
                None => return fault!("a string has no end"),
                Some(&b) if b == quote => break,
                Some(b'\\') => {
                    heap::push(&mut text, &rest[from..at])?;
                    let (c, n) = escape(&rest[at + 1..]);
                    match c {
                        Some(c) => heap::push(&mut text, c.encode_utf8(&mut [0; 4]))?,
                        None => heap::push(&mut text, &rest[at..at + 1 + n])?,
                    }
                    at += 1 + n;
                    from = at;
                }
                Some(_) => at += 1,
            }
        }
        heap::push(&mut text, &rest[from..at])?;
        self.skip(at + 1);
        Ok(Token::Str(text))
    }
}

/// The first beginning of a tag: where, and its second byte.
fn find_tag(text: &str) -> Option<(usize, u8)> {
    let mut from = 0;
    while let Some(at) = text[from..].find('{') {
        match text.as_bytes().get(from + at + 1) {
            Some(&kind @ (b'{' | b'%' | b'#')) => return Some((from + at, kind)),
            _ => from += at + 1,
        }
    }
    None
}

/// What stands behind a backslash: the character that it means, if any, and its length.
fn escape(text: &str) -> (Option<char>, usize) {
    let Some(first) = text.chars().next() else {
        return (None, 0);
    };
    let hex = |n: usize| {
        let digits = text.get(1..1 + n).filter(|d| d.bytes().all(|b| b.is_ascii_hexdigit()));
        let c = digits.and_then(|d| u32::from_str_radix(d, 16).ok()).and_then(char::from_u32);
        (c, if c.is_some() { 1 + n } else { 1 })
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
        'x' => hex(2),
        'u' => hex(4),
        'U' => hex(8),
        '0'..='7' => {
            let n = text.bytes().take(3).take_while(|b| (b'0'..=b'7').contains(b)).count();
            (u32::from_str_radix(&text[..n], 8).ok().and_then(char::from_u32), n)
        }
        _ => (None, first.len_utf8()),
    }
}
