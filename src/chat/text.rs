//! Values as text: as they are printed, as Python shows them inside of lists, and as JSON.

use crate::base::line::Line;
use crate::base::order::sort_numbers;

use super::grow::listed;
use super::value::{Fault, Fuel, Value, fault};

/// A number, or an escape: of floats the longest has 17 digits and 4 zeros or an exponent.
type Number = Line<32>;

/// Appends a value as it is printed.
pub(super) fn write(value: &Value, out: &mut String, fuel: &mut Fuel) -> Result<(), Fault> {
    match value {
        Value::Undefined => Ok(()),
        Value::Str(text) => fuel.push(out, text),
        _ => show(value, out, fuel),
    }
}

/// Appends a value as Python's `repr` shows it. Recurses as deep as lists and maps nest.
fn show(value: &Value, out: &mut String, fuel: &mut Fuel) -> Result<(), Fault> {
    fuel.pay(0)?;
    match value {
        Value::Undefined => fuel.push(out, "Undefined"),
        Value::None => fuel.push(out, "None"),
        Value::Bool(true) => fuel.push(out, "True"),
        Value::Bool(false) => fuel.push(out, "False"),
        Value::Int(i) => fuel.push(out, &Number::of(format_args!("{i}"))),
        Value::Float(f) => fuel.push(out, &float(*f)),
        Value::Str(text) => quote(text, out, fuel),
        Value::List(list) => {
            fuel.push(out, "[")?;
            for (i, item) in list.items.iter().enumerate() {
                fuel.push(out, if i > 0 { ", " } else { "" })?;
                show(item, out, fuel)?;
            }
            fuel.push(out, "]")
        }
        Value::Map(map) => {
            fuel.push(out, "{")?;
            for (i, (key, value)) in map.entries.iter().enumerate() {
                fuel.push(out, if i > 0 { ", " } else { "" })?;
                show(key, out, fuel)?;
                fuel.push(out, ": ")?;
                show(value, out, fuel)?;
            }
            fuel.push(out, "}")
        }
        _ => fault!("{} cannot be printed", value.kind()),
    }
}

/// A float as Python shows it: the shortest digits that give it back, with a point or an exponent.
fn float(f: f64) -> Number {
    let size = f.abs();
    if f.is_nan() {
        Number::of(format_args!("nan"))
    } else if f.is_infinite() {
        Number::of(format_args!("{}", if f > 0.0 { "inf" } else { "-inf" }))
    } else if size != 0.0 && !(1e-4..1e16).contains(&size) {
        let text = Number::of(format_args!("{f:e}"));
        let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
        let (sign, exponent) = match exponent.strip_prefix('-') {
            Some(exponent) => ('-', exponent),
            None => ('+', exponent),
        };
        Number::of(format_args!("{digits}e{sign}{exponent:0>2}"))
    } else {
        Number::of(format_args!("{f:?}"))
    }
}

/// A string in Python's quotes.
fn quote(text: &str, out: &mut String, fuel: &mut Fuel) -> Result<(), Fault> {
    let quote = if text.contains('\'') && !text.contains('"') { "\"" } else { "'" };
    fuel.push(out, quote)?;
    for c in text.chars() {
        match c {
            '\n' => fuel.push(out, "\\n")?,
            '\r' => fuel.push(out, "\\r")?,
            '\t' => fuel.push(out, "\\t")?,
            '\\' => fuel.push(out, "\\\\")?,
            '\'' if quote == "'" => fuel.push(out, "\\'")?,
            '\0'..'\x20' | '\x7f'..'\u{a1}' | '\u{ad}' => {
                fuel.push(out, &Number::of(format_args!("\\x{:02x}", c as u32)))?;
            }
            _ => fuel.push(out, c.encode_utf8(&mut [0; 4]))?,
        }
    }
    fuel.push(out, quote)
}

/// How JSON is laid out.
pub(super) struct Layout<'a> {
    /// What each level is indented by; None for one line.
    pub indent: Option<&'a str>,
    /// What stands between items.
    pub item: &'a str,
    /// What stands between a key and its value.
    pub key: &'a str,
    /// Whether maps are sorted by key.
    pub sort: bool,
}

/// Appends a value as JSON. Recurses as deep as lists and maps nest.
pub(super) fn json(
    value: &Value,
    layout: &Layout<'_>,
    depth: usize,
    out: &mut String,
    fuel: &mut Fuel,
) -> Result<(), Fault> {
    fuel.pay(0)?;
    let line = |depth: usize, out: &mut String, fuel: &mut Fuel| -> Result<(), Fault> {
        if let Some(indent) = layout.indent {
            fuel.push(out, "\n")?;
            for _ in 0..depth {
                fuel.push(out, indent)?;
            }
        }
        Ok(())
    };
    match value {
        Value::None => fuel.push(out, "null"),
        Value::Bool(true) => fuel.push(out, "true"),
        Value::Bool(false) => fuel.push(out, "false"),
        Value::Int(_) => show(value, out, fuel),
        Value::Float(f) if f.is_finite() => show(value, out, fuel),
        Value::Str(text) => json_string(text, out, fuel),
        Value::List(list) if list.items.is_empty() => fuel.push(out, "[]"),
        Value::Map(map) if map.entries.is_empty() => fuel.push(out, "{}"),
        Value::List(list) => {
            fuel.push(out, "[")?;
            for (i, item) in list.items.iter().enumerate() {
                fuel.push(out, if i > 0 { layout.item } else { "" })?;
                line(depth + 1, out, fuel)?;
                json(item, layout, depth + 1, out, fuel)?;
            }
            line(depth, out, fuel)?;
            fuel.push(out, "]")
        }
        Value::Map(map) => {
            let mut order = listed(0..map.entries.len() as u32)?;
            if layout.sort {
                fuel.pay(64 * order.len() * (order.len().ilog2() as usize + 1))?;
                // A key that is no string comes first; of those that are equal the first.
                let text = |i: u32| map.entries[i as usize].0.text().unwrap_or("");
                sort_numbers(&mut order, &mut |a, b| text(a).cmp(text(b)).then(a.cmp(&b)));
            }
            fuel.push(out, "{")?;
            for (i, entry) in order.into_iter().enumerate() {
                let (key, value) = &map.entries[entry as usize];
                fuel.push(out, if i > 0 { layout.item } else { "" })?;
                line(depth + 1, out, fuel)?;
                match key {
                    Value::Str(text) => json_string(text, out, fuel)?,
                    _ => {
                        fuel.push(out, "\"")?;
                        json(key, layout, depth, out, fuel)?;
                        fuel.push(out, "\"")?;
                    }
                }
                fuel.push(out, layout.key)?;
                json(value, layout, depth + 1, out, fuel)?;
            }
            line(depth, out, fuel)?;
            fuel.push(out, "}")
        }
        _ => fault!("{} cannot be written as JSON", value.kind()),
    }
}

fn json_string(text: &str, out: &mut String, fuel: &mut Fuel) -> Result<(), Fault> {
    fuel.push(out, "\"")?;
    let mut rest = text;
    while let Some(at) = rest.find(|c: char| c < ' ' || c == '"' || c == '\\') {
        fuel.push(out, &rest[..at])?;
        match rest.as_bytes()[at] {
            b'"' => fuel.push(out, "\\\"")?,
            b'\\' => fuel.push(out, "\\\\")?,
            b'\n' => fuel.push(out, "\\n")?,
            b'\r' => fuel.push(out, "\\r")?,
            b'\t' => fuel.push(out, "\\t")?,
            0x08 => fuel.push(out, "\\b")?,
            0x0c => fuel.push(out, "\\f")?,
            other => fuel.push(out, &Number::of(format_args!("\\u{other:04x}")))?,
        }
        rest = &rest[at + 1..];
    }
    fuel.push(out, rest)?;
    fuel.push(out, "\"")
}
