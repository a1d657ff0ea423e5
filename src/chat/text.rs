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
    let deeper = depth.saturating_add(1); // at most MAX_NESTING
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
                line(deeper, out, fuel)?;
                json(item, layout, deeper, out, fuel)?;
            }
            line(depth, out, fuel)?;
            fuel.push(out, "]")
        }
        Value::Map(map) => {
            let mut order = listed(0..map.entries.len() as u32)?;
            let entry = |i: u32| map.entries.get(i as usize);
            if layout.sort {
                let n_rounds = usize::BITS.saturating_sub(order.len().leading_zeros()) as usize;
                fuel.pay(order.len().saturating_mul(n_rounds).saturating_mul(64))?;
                // A key that is no string comes first; of those that are equal the first.
                let text = |i: u32| entry(i).and_then(|(key, _)| key.text().ok()).unwrap_or("");
                sort_numbers(&mut order, &mut |a, b| text(a).cmp(text(b)).then(a.cmp(&b)));
            }
            fuel.push(out, "{")?;
            let mut between = "";
            for (key, value) in order.into_iter().filter_map(entry) {
                fuel.push(out, between)?;
                between = layout.item;
                line(deeper, out, fuel)?;
                match key {
                    Value::Str(text) => json_string(text, out, fuel)?,
                    _ => {
                        fuel.push(out, "\"")?;
                        json(key, layout, depth, out, fuel)?;
                        fuel.push(out, "\"")?;
                    }
                }
                fuel.push(out, layout.key)?;
                json(value, layout, deeper, out, fuel)?;
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
    loop {
        let mut after = rest.trim_start_matches(|c| c >= ' ' && c != '"' && c != '\\').chars();
        let plain = rest.strip_suffix(after.as_str()).unwrap_or(rest);
        fuel.push(out, plain)?;
        let Some(escaped) = after.next() else { break };
        match escaped {
            '"' => fuel.push(out, "\\\"")?,
            '\\' => fuel.push(out, "\\\\")?,
            '\n' => fuel.push(out, "\\n")?,
            '\r' => fuel.push(out, "\\r")?,
            '\t' => fuel.push(out, "\\t")?,
            '\x08' => fuel.push(out, "\\b")?,
            '\x0c' => fuel.push(out, "\\f")?,
            other => fuel.push(out, &Number::of(format_args!("\\u{:04x}", other as u32)))?,
        }
        rest = after.as_str();
    }
    fuel.push(out, "\"")
}
