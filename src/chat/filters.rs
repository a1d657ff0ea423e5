//! Filters and tests.

use std::cmp::Ordering;

use crate::base::heap;

use super::calls::Given;
use super::grow::{Grow, count, listed};
use super::methods::{capitalised, item, joined, lower, pairs, replaced, strips, title, upper};
use super::text::{self, Layout};
use super::value::{Binary, Fault, Fuel, Value, binary, contains, equal, fault, is_space, order};

/// `value | name(...)`.
pub(super) fn filter(
    name: &str,
    value: &Value,
    given: &Given<'_>,
    fuel: &mut Fuel,
) -> Result<Value, Fault> {
    match name {
        "map" | "select" | "reject" | "selectattr" | "rejectattr" => each(name, value, given, fuel),
        "sort" | "dictsort" | "unique" | "min" | "max" => sorted(name, value, given, fuel),
        "default" | "d" => {
            given.at_most(2, &["default_value", "boolean"])?;
            let also_false = given.get(1, "boolean").is_some_and(Value::is_true);
            if matches!(value, Value::Undefined) || (also_false && !value.is_true()) {
                return match given.get(0, "default_value") {
                    Some(default) => Ok(default.clone()),
                    None => fuel.string(&[]),
                };
            }
            Ok(value.clone())
        }
        "length" | "count" => Ok(Value::Int(match value {
            Value::Str(text) => {
                fuel.pay(text.len())?;
                text.chars().count() as i64
            }
            Value::Map(map) => map.entries.len() as i64,
            _ => fuel.items(value)?.items.len() as i64,
        })),
        "first" | "last" => {
            let list = fuel.items(value)?;
            let found = if name == "first" { list.items.first() } else { list.items.last() };
            Ok(found.cloned().unwrap_or(Value::Undefined))
        }
        "list" => {
            let list = fuel.items(value)?;
            fuel.list(listed(list.items.iter().cloned())?)
        }
        "reverse" => {
            let list = fuel.items(value)?;
            let reversed = listed(list.items.iter().rev().cloned())?;
            let reversed = fuel.list(reversed)?;
            if matches!(value, Value::Str(_)) { joined(&reversed, "", fuel) } else { Ok(reversed) }
        }
        "items" => match value {
            Value::Undefined => fuel.list(Vec::new()),
            Value::Map(map) => pairs(map, fuel),
            _ => fault!("items of {}, expected a map", value.kind()),
        },
        "join" => {
            given.at_most(2, &["d", "attribute"])?;
            let separator = given.get(0, "d").map_or(Ok(""), Value::text)?;
            match given.get(1, "attribute") {
                None => joined(value, separator, fuel),
                Some(path) => {
                    let mut parts = Vec::new();
                    for item in &fuel.items(value)?.items {
                        parts.add(at_path(item, path, fuel)?)?;
                    }
                    let parts = fuel.list(parts)?;
                    joined(&parts, separator, fuel)
                }
            }
        }
        "sum" => {
            given.at_most(2, &["attribute", "start"])?;
            let mut total = given.get(1, "start").cloned().unwrap_or(Value::Int(0));
            for item in &fuel.items(value)?.items {
                let item = match given.get(0, "attribute") {
                    Some(path) => at_path(item, path, fuel)?,
                    None => item.clone(),
                };
                total = binary(Binary::Add, &total, &item, fuel)?;
            }
            Ok(total)
        }
        "tojson" => to_json(value, given, fuel),
        "abs" => match value {
            Value::Float(f) => Ok(Value::Float(f.abs())),
            _ => match value.int()?.checked_abs() {
                Some(i) => Ok(Value::Int(i)),
                None => fault!("a whole number does not fit in 64 bits"),
            },
        },
        "int" => {
            given.at_most(1, &["default"])?;
            let default = given.get(0, "default").cloned().unwrap_or(Value::Int(0));
            Ok(match value {
                Value::Int(_) | Value::Bool(_) => Value::Int(value.int()?),
                _ => match as_float(value) {
                    Some(f) if f.is_finite() && f.abs() < 9.2e18 => match value {
                        // Digits that a float cannot hold are kept.
                        Value::Str(text) => text
                            .trim_matches(is_space)
                            .parse()
                            .map_or(Value::Int(f as i64), Value::Int),
                        _ => Value::Int(f as i64),
                    },
                    _ => default,
                },
            })
        }
        "float" => {
            given.at_most(1, &["default"])?;
            let default = given.get(0, "default").cloned().unwrap_or(Value::Float(0.0));
            Ok(as_float(value).map_or(default, Value::Float))
        }
        "round" => {
            given.at_most(2, &["precision", "method"])?;
            let precision = given.get(0, "precision").map_or(Ok(0), Value::int)?;
            let method = given.get(1, "method").map_or(Ok("common"), Value::text)?;
            if let (Value::Int(i), true, "common") = (value, precision >= 0, method) {
                return Ok(Value::Int(*i));
            }
            let scale = 10_f64.powi(precision.clamp(-300, 300) as i32);
            let Some(f) = as_float(value) else {
                return fault!("round of {}, expected a number", value.kind());
            };
            let scaled = f * scale;
            let rounded = match method {
                "common" => scaled.round_ties_even(),
                "ceil" => scaled.ceil(),
                "floor" => scaled.floor(),
                other => return fault!("round does not know the method '{other}'"),
            };
            Ok(Value::Float(rounded / scale))
        }
        "safe" => Ok(value.clone()),
        _ => string_filter(name, value, given, fuel),
    }
}

/// The filters that take anything for the text that it is printed as.
fn string_filter(
    name: &str,
    value: &Value,
    given: &Given<'_>,
    fuel: &mut Fuel,
) -> Result<Value, Fault> {
    let mut printed = String::new();
    text::write(value, &mut printed, fuel)?;
    let text = printed.as_str();
    match name {
        "string" => fuel.string(&[text]),
        "upper" => upper(text, fuel),
        "lower" => lower(text, fuel),
        "capitalize" => capitalised(text, fuel),
        "title" => title(text, |c| is_space(c) || "-({[<".contains(c), fuel),
        "trim" => {
            given.at_most(1, &["chars"])?;
            let chars = given.get(0, "chars");
            let n_chars = chars.and_then(|c| c.text().ok()).map_or(1, str::len);
            fuel.pay(text.len().saturating_mul(n_chars))?;
            fuel.string(&[text.trim_matches(strips(chars)?)])
        }
        "replace" => {
            given.at_most(3, &["old", "new", "count"])?;
            let count = match given.get(2, "count") {
                None | Some(Value::None) => -1,
                Some(count) => count.int()?,
            };
            let (old, new) = (given.need(0, "old")?.text()?, given.need(1, "new")?.text()?);
            replaced(text, old, new, count, fuel)
        }
        "indent" => {
            given.at_most(3, &["width", "first", "blank"])?;
            let by = match given.get(0, "width") {
                Some(Value::Str(by)) => heap::text(by)?,
                width => blanks(width.map_or(Ok(4), Value::int)?.clamp(0, 1000))?,
            };
            let first = given.get(1, "first").is_some_and(Value::is_true);
            let blank = given.get(2, "blank").is_some_and(Value::is_true);
            let mut out = String::new();
            let mut newline = "";
            for line in text.split('\n') {
                fuel.push(&mut out, newline)?;
                let is_first = newline.is_empty();
                if (is_first && first) || (!is_first && (blank || !line.is_empty())) {
                    fuel.push(&mut out, &by)?;
                }
                fuel.push(&mut out, line)?;
                newline = "\n";
            }
            fuel.string(&[&out])
        }
        "wordcount" => Ok(count(text.split(is_space).filter(|w| !w.is_empty()))),
        _ => fault!("the filter '{name}' is unknown"),
    }
}

/// So many blanks.
fn blanks(n: i64) -> Result<String, Fault> {
    let mut blanks = String::new();
    for _ in 0..n {
        heap::push(&mut blanks, " ")?;
    }
    Ok(blanks)
}

/// A number, or a string that is one.
fn as_float(value: &Value) -> Option<f64> {
    match value {
        Value::Bool(b) => Some(f64::from(u8::from(*b))),
        Value::Int(i) => Some(*i as f64),
        Value::Float(f) => Some(*f),
        Value::Str(text) => text.trim_matches(is_space).parse().ok(),
        _ => None,
    }
}

/// What a dotted path leads to.
fn at_path(value: &Value, path: &Value, fuel: &mut Fuel) -> Result<Value, Fault> {
    let Value::Str(path) = path else { return item(value, path, fuel) };
    let mut at = value.clone();
    for part in path.split('.') {
        let key = match part.parse() {
            Ok(i) => Value::Int(i),
            Err(_) => fuel.string(&[part])?,
        };
        at = item(&at, &key, fuel)?;
    }
    Ok(at)
}

/// The filters that apply another filter, or a test, to each item.
fn each(name: &str, value: &Value, given: &Given<'_>, fuel: &mut Fuel) -> Result<Value, Fault> {
    let list = fuel.items(value)?;
    let mut kept = Vec::new();
    if name == "map" {
        let path = given.named("attribute");
        let default = given.named("default");
        for value in &list.items {
            fuel.pay(size_of::<Value>())?;
            kept.add(match (path, given.by_position) {
                (Some(path), []) => match (at_path(value, path, fuel)?, default) {
                    (Value::Undefined, Some(default)) => default.clone(),
                    (found, _) => found,
                },
                (None, [inner, args @ ..]) => {
                    let inner = inner.text()?;
                    // Those that apply filters are out: they would nest without end.
                    if matches!(inner, "map" | "select" | "reject" | "selectattr" | "rejectattr") {
                        return fault!("map cannot apply the filter '{inner}'");
                    }
                    let args = Given { by_position: args, by_name: given.by_name };
                    filter(inner, value, &args, fuel)?
                }
                _ => return fault!("map needs a filter or an attribute"),
            })?;
        }
        return fuel.list(kept);
    }
    let keeps = name.starts_with("select");
    let (path, args) = match given.by_position {
        [path, args @ ..] if name.ends_with("attr") => (Some(path), args),
        args if !name.ends_with("attr") => (None, args),
        _ => return fault!("{name} needs an attribute"),
    };
    for value in &list.items {
        fuel.pay(size_of::<Value>())?;
        let subject = match path {
            Some(path) => at_path(value, path, fuel)?,
            None => value.clone(),
        };
        let holds = match args {
            [] => subject.is_true(),
            [name, args @ ..] => {
                let args = Given { by_position: args, by_name: given.by_name };
                test(name.text()?, &subject, &args, fuel)?.is_true()
            }
        };
        if holds == keeps {
            kept.add(value.clone())?;
        }
    }
    fuel.list(kept)
}

/// The filters that need an order.
fn sorted(name: &str, value: &Value, given: &Given<'_>, fuel: &mut Fuel) -> Result<Value, Fault> {
    let list = match (name, value) {
        ("dictsort", Value::Map(map)) => {
            let pairs = pairs(map, fuel)?;
            fuel.items(&pairs)?
        }
        ("dictsort", _) => return fault!("dictsort of {}, expected a map", value.kind()),
        _ => fuel.items(value)?,
    };
    // By position: sort(reverse, case_sensitive, attribute), the others (case_sensitive, by).
    let shift = usize::from(name == "sort");
    let case = given.get(shift, "case_sensitive").is_some_and(Value::is_true);
    let reverse = match name {
        "sort" => given.get(0, "reverse").is_some_and(Value::is_true),
        "dictsort" => given.get(2, "reverse").is_some_and(Value::is_true),
        _ => false,
    };
    let path = match name {
        "dictsort" => match given.get(1, "by").map_or(Ok("key"), Value::text)? {
            "key" => Some(Value::Int(0)),
            "value" => Some(Value::Int(1)),
            other => return fault!("dictsort by '{other}', expected 'key' or 'value'"),
        },
        _ => given.get(if name == "sort" { 2 } else { 1 }, "attribute").cloned(),
    };
    let mut keyed = Vec::new();
    for value in &list.items {
        fuel.pay(size_of::<[Value; 2]>())?;
        let key = match &path {
            Some(path) => at_path(value, path, fuel)?,
            None => value.clone(),
        };
        let key = match &key {
            Value::Str(text) if !case => lower(text, fuel)?,
            _ => key,
        };
        keyed.add((key, value.clone()))?;
    }
    if name == "unique" {
        let mut kept: Vec<(Value, Value)> = Vec::new();
        'items: for (key, value) in keyed {
            for (other, _) in &kept {
                if equal(other, &key, fuel)? {
                    continue 'items;
                }
            }
            kept.add((key, value))?;
        }
        return fuel.list(listed(kept.into_iter().map(|(_, value)| value))?);
    }
    if name == "min" || name == "max" {
        let better = if name == "min" { Ordering::Less } else { Ordering::Greater };
        let mut best: Option<(Value, Value)> = None;
        for (key, value) in keyed {
            let wins = match &best {
                Some((other, _)) => order(&key, other, fuel)? == Some(better),
                None => true,
            };
            if wins {
                best = Some((key, value));
            }
        }
        return Ok(best.map_or(Value::Undefined, |(_, value)| value));
    }
    let sorted = merge_sorted(keyed, reverse, fuel)?;
    fuel.list(listed(sorted.into_iter().map(|(_, value)| value))?)
}

/// Stable, and pays for each comparison. Merges runs of doubling length, so nothing recurses.
fn merge_sorted(
    mut items: Vec<(Value, Value)>,
    reverse: bool,
    fuel: &mut Fuel,
) -> Result<Vec<(Value, Value)>, Fault> {
    let mut run = 1_usize;
    while run < items.len() {
        let two = run.saturating_mul(2);
        let mut merged = Vec::new();
        for pair in items.chunks(two) {
            let (mut a, mut b) = pair.split_at_checked(run).unwrap_or((pair, &[]));
            while let (Some((first, others_a)), Some((second, others_b))) =
                (a.split_first(), b.split_first())
            {
                fuel.pay(0)?;
                let after = if reverse { Ordering::Less } else { Ordering::Greater };
                if order(&first.0, &second.0, fuel)? == Some(after) {
                    merged.add(second.clone())?;
                    b = others_b;
                } else {
                    merged.add(first.clone())?;
                    a = others_a;
                }
            }
            merged.add_all(a.iter().chain(b).cloned())?;
        }
        items = merged;
        run = two;
    }
    Ok(items)
}

fn to_json(value: &Value, given: &Given<'_>, fuel: &mut Fuel) -> Result<Value, Fault> {
    given.at_most(1, &["indent", "ensure_ascii", "separators", "sort_keys"])?;
    if given.named("ensure_ascii").is_some_and(Value::is_true) {
        return fault!("tojson does not support ensure_ascii");
    }
    let indent = match given.get(0, "indent") {
        None | Some(Value::None) => None,
        Some(Value::Str(indent)) => Some(heap::text(indent)?),
        Some(n) => Some(blanks(n.int()?.clamp(0, 64))?),
    };
    let mut item = if indent.is_some() { "," } else { ", " };
    let mut key = ": ";
    match given.named("separators") {
        None | Some(Value::None) => (),
        Some(Value::List(list)) => match list.items.as_slice() {
            [Value::Str(first), Value::Str(second)] => (item, key) = (first, second),
            _ => return fault!("tojson: separators are two strings"),
        },
        Some(_) => return fault!("tojson: separators are two strings"),
    }
    let sort = given.named("sort_keys").is_some_and(Value::is_true);
    let layout = Layout { indent: indent.as_deref(), item, key, sort };
    let mut out = String::new();
    text::json(value, &layout, 0, &mut out, fuel)?;
    fuel.string(&[&out])
}

/// `value is name(...)`.
pub(super) fn test(
    name: &str,
    value: &Value,
    given: &Given<'_>,
    fuel: &mut Fuel,
) -> Result<Value, Fault> {
    let other = || given.need(0, "other");
    let compared = |op: Binary, fuel: &mut Fuel| binary(op, value, other()?, fuel);
    Ok(Value::Bool(match name {
        "defined" => !matches!(value, Value::Undefined),
        "undefined" => matches!(value, Value::Undefined),
        "none" => matches!(value, Value::None),
        "true" => matches!(value, Value::Bool(true)),
        "false" => matches!(value, Value::Bool(false)),
        "boolean" => matches!(value, Value::Bool(_)),
        "integer" => matches!(value, Value::Int(_)),
        "float" => matches!(value, Value::Float(_)),
        "number" => matches!(value, Value::Int(_) | Value::Float(_) | Value::Bool(_)),
        "string" => matches!(value, Value::Str(_)),
        "mapping" => matches!(value, Value::Map(_)),
        "sequence" => matches!(value, Value::Str(_) | Value::List(_) | Value::Map(_)),
        "iterable" => {
            matches!(value, Value::Str(_) | Value::List(_) | Value::Map(_) | Value::Undefined)
        }
        "callable" => matches!(value, Value::Function(_) | Value::Macro(_)),
        "odd" => value.int()? % 2 != 0,
        "even" => value.int()? % 2 == 0,
        "divisibleby" => match value.int()?.checked_rem(other()?.int()?) {
            Some(rest) => rest == 0,
            None => return fault!("divisibleby zero"),
        },
        "upper" => {
            value.text()?.chars().any(char::is_uppercase)
                && !value.text()?.chars().any(char::is_lowercase)
        }
        "lower" => {
            value.text()?.chars().any(char::is_lowercase)
                && !value.text()?.chars().any(char::is_uppercase)
        }
        "in" => contains(other()?, value, fuel)?,
        "sameas" => {
            equal(value, other()?, fuel)?
                && std::mem::discriminant(value) == std::mem::discriminant(other()?)
        }
        "eq" | "equalto" | "==" => return compared(Binary::Eq, fuel),
        "ne" | "!=" => return compared(Binary::Ne, fuel),
        "lt" | "lessthan" | "<" => return compared(Binary::Lt, fuel),
        "le" | "<=" => return compared(Binary::Le, fuel),
        "gt" | "greaterthan" | ">" => return compared(Binary::Gt, fuel),
        "ge" | ">=" => return compared(Binary::Ge, fuel),
        _ => return fault!("the test '{name}' is unknown"),
    }))
}
