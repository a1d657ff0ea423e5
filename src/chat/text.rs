//! Values as text: as they are printed, as Python shows them inside of lists, and as JSON.

use std::cmp::Ordering;

use super::value::{Fault, Fuel, Value, fault};

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
        Value::Int(i) => fuel.push(out, &i.to_string()),
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
fn float(f: f64) -> String {
    let size = f.abs();
    if f.is_nan() {
        "nan".to_owned()
    } else if f.is_infinite() {
        if f > 0.0 { "inf" } else { "-inf" }.to_owned()
    } else if size != 0.0 && !(1e-4..1e16).contains(&size) {
        let text = format!("{f:e}");
        let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
        let (sign, exponent) = match exponent.strip_prefix('-') {
            Some(exponent) => ('-', exponent),
            None => ('+', exponent),
        };
        format!("{digits}e{sign}{exponent:0>2}")
    } else {
        format!("{f:?}")
    }
}

/// A string in Python's quotes.
fn quote(text: &str, out: &mut String, fuel: &mut Fuel) -> Result<(), Fault> {
    let quote = if text.contains('\'') && !text.contains('"') { "\"" } else { "'" };
    fuel.push(out, quote)?;
    for c in text.chars() {
        let escaped = match c {
            '\n' => Some("\\n".to_owned()),
            '\r' => Some("\\r".to_owned()),
            '\t' => Some("\\t".to_owned()),
            '\\' => Some("\\\\".to_owned()),
            '\'' if quote == "'" => Some("\\'".to_owned()),
            '\0'..'\x20' | '\x7f'..'\u{a1}' | '\u{ad}' => Some(format!("\\x{:02x}", c as u32)),
            _ => None,
        };
        fuel.push(out, escaped.as_deref().unwrap_or(c.encode_utf8(&mut [0; 4])))?;
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
            let mut entries: Vec<&(Value, Value)> = map.entries.iter().collect();
            if layout.sort {
                fuel.pay(64 * entries.len() * (entries.len().ilog2() as usize + 1))?;
                entries.sort_unstable_by(by_key);
            }
            fuel.push(out, "{")?;
            for (i, (key, value)) in entries.into_iter().enumerate() {
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

/// A key that is no string comes first; of those that are equal the first. A stable sort would be 8 KB more
/// of code, and this the only one.
#[inline(never)]
fn by_key(a: &&(Value, Value), b: &&(Value, Value)) -> Ordering {
    let texts = [a, b].map(|entry| entry.0.text().unwrap_or(""));
    texts[0].cmp(texts[1]).then(std::ptr::from_ref(*a).cmp(&std::ptr::from_ref(*b)))
}

fn json_string(text: &str, out: &mut String, fuel: &mut Fuel) -> Result<(), Fault> {
    fuel.push(out, "\"")?;
    let mut rest = text;
    while let Some(at) = rest.find(|c: char| c < ' ' || c == '"' || c == '\\') {
        fuel.push(out, &rest[..at])?;
        let escaped = match rest.as_bytes()[at] {
            b'"' => "\\\"".to_owned(),
            b'\\' => "\\\\".to_owned(),
            b'\n' => "\\n".to_owned(),
            b'\r' => "\\r".to_owned(),
            b'\t' => "\\t".to_owned(),
            0x08 => "\\b".to_owned(),
            0x0c => "\\f".to_owned(),
            other => format!("\\u{other:04x}"),
        };
        fuel.push(out, &escaped)?;
        rest = &rest[at + 1..];
    }
    fuel.push(out, rest)?;
    fuel.push(out, "\"")
}
