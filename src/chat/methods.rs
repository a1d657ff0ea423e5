//! Items and slices, the methods of strings, maps and lists, and the functions of every template.

use crate::base::heap;
use crate::base::shared::Shared;

use super::calls::Given;
use super::grow::{Grow, count, listed};
use super::machine::broken;
use super::text;
use super::value::{Fault, Fuel, Map, Value, equal, fault, is_space};

/// What Jinja's sandbox allows for a range.
const MAX_RANGE: u64 = 100_000;

/// `value[key]`; undefined if there is no such item.
pub(super) fn item(value: &Value, key: &Value, fuel: &mut Fuel) -> Result<Value, Fault> {
    let place = |n: usize| -> Option<usize> {
        let Value::Int(i) = key else { return None };
        let at = if *i < 0 { i.checked_add(n as i64)? } else { *i };
        usize::try_from(at).ok().filter(|at| *at < n)
    };
    Ok(match value {
        Value::Undefined => {
            let mut name = String::new();
            text::write(key, &mut name, fuel)?;
            return fault!("'{name}' of an undefined value");
        }
        Value::Map(map) => fuel.get(map, key)?.unwrap_or(Value::Undefined),
        Value::List(list) => {
            let item = place(list.items.len()).and_then(|at| list.items.get(at));
            item.cloned().unwrap_or(Value::Undefined)
        }
        Value::Str(text) if matches!(key, Value::Int(_)) => {
            fuel.pay(text.len())?;
            match place(text.chars().count()).and_then(|at| text.chars().nth(at)) {
                Some(c) => fuel.string(&[c.encode_utf8(&mut [0; 4])])?,
                None => Value::Undefined,
            }
        }
        _ => Value::Undefined,
    })
}

/// `value[start:stop:step]`, each none or a whole number.
pub(super) fn slice(
    value: &Value,
    [start, stop, step]: [&Value; 3],
    fuel: &mut Fuel,
) -> Result<Value, Fault> {
    let list = match value {
        Value::Str(_) | Value::List(_) => fuel.items(value)?,
        _ => return fault!("{} cannot be sliced", value.kind()),
    };
    let n = list.items.len() as i64;
    let step = if matches!(step, Value::None) { 1 } else { step.int()? };
    if step == 0 {
        return fault!("a slice's step is 0");
    }
    let (low, high) = if step > 0 { (0, n) } else { (-1, n.saturating_sub(1)) };
    let bound = |part: &Value, missing: i64| -> Result<i64, Fault> {
        Ok(match part {
            Value::None => missing,
            _ => {
                let at = part.int()?;
                (if at < 0 { at.saturating_add(n) } else { at }).max(low).min(high)
            }
        })
    };
    let start = bound(start, if step > 0 { low } else { high })?;
    let stop = bound(stop, if step > 0 { high } else { low })?;
    let mut items = Vec::new();
    let mut at = start;
    while (step > 0 && at < stop) || (step < 0 && at > stop) {
        fuel.pay(size_of::<Value>())?;
        let Some(item) = list.items.get(at as usize) else { return broken() };
        items.add(item.clone())?;
        at = at.saturating_add(step);
    }
    match value {
        Value::Str(_) => {
            let mut out = String::new();
            for item in &items {
                fuel.push(&mut out, item.text()?)?;
            }
            fuel.string(&[&out])
        }
        _ => fuel.list(items),
    }
}

/// `range(stop)`, `range(start, stop)` or `range(start, stop, step)`.
pub(super) fn range(given: &Given<'_>, fuel: &mut Fuel) -> Result<Value, Fault> {
    given.at_most(3, &[])?;
    let (start, stop, step) = match given.by_position {
        [stop] => (0, stop.int()?, 1),
        [start, stop] => (start.int()?, stop.int()?, 1),
        [start, stop, step] => (start.int()?, stop.int()?, step.int()?),
        _ => return fault!("range needs an argument"),
    };
    if step == 0 {
        return fault!("a range's step is 0");
    }
    let distance = if step > 0 { stop.checked_sub(start) } else { start.checked_sub(stop) };
    let n = match distance.zip(step.checked_abs()) {
        Some((distance, step)) => (distance.max(0) as u64).div_ceil(step as u64),
        None => u64::MAX,
    };
    if n > MAX_RANGE {
        return fault!("a range of more than {MAX_RANGE} numbers");
    }
    fuel.pay((n as usize).saturating_mul(size_of::<Value>()))?;
    let mut numbers = Vec::new();
    let mut next = start;
    for _ in 0..n {
        numbers.add(Value::Int(next))?;
        next = next.saturating_add(step); // beyond the last it may not fit
    }
    fuel.list(numbers)
}

/// `strftime_now(format)`: midnight of Friday, 26 July 2024, whenever it is asked.
pub(super) fn date(given: &Given<'_>, fuel: &mut Fuel) -> Result<Value, Fault> {
    given.at_most(1, &[])?;
    let mut out = String::new();
    let mut rest = given.need(0, "format")?.text()?;
    while let Some((before, conversion)) = rest.split_once('%') {
        fuel.push(&mut out, before)?;
        let unpadded = conversion.strip_prefix('-');
        let mut letters = unpadded.unwrap_or(conversion).chars();
        let text = match letters.next() {
            Some('d' | 'e') => "26",
            Some('m') if unpadded.is_some() => "7",
            Some('m') => "07",
            Some('Y') => "2024",
            Some('y') => "24",
            Some('b' | 'h') => "Jul",
            Some('B') => "July",
            Some('a') => "Fri",
            Some('A') => "Friday",
            Some('j') => "208",
            Some('H' | 'M' | 'S') if unpadded.is_some() => "0",
            Some('H' | 'M' | 'S') => "00",
            Some('I') => "12",
            Some('p') => "AM",
            Some('F') => "2024-07-26",
            Some('T' | 'X') => "00:00:00",
            Some('D' | 'x') => "07/26/24",
            Some('c') => "Fri Jul 26 00:00:00 2024",
            Some('Z') => "UTC",
            Some('z') => "+0000",
            Some('%') => "%",
            _ => {
                let unknown = rest.get(before.len()..).unwrap_or(conversion);
                return fault!("strftime_now does not know the format {unknown:?}");
            }
        };
        fuel.push(&mut out, text)?;
        rest = letters.as_str();
    }
    fuel.push(&mut out, rest)?;
    fuel.string(&[&out])
}

/// `value.name(...)`.
pub(super) fn method(
    value: &Value,
    name: &str,
    given: &Given<'_>,
    fuel: &mut Fuel,
) -> Result<Value, Fault> {
    match value {
        Value::Str(text) => string_method(text, name, given, fuel),
        Value::Map(map) => map_method(map, name, given, fuel),
        Value::List(list) if name == "index" || name == "count" => {
            let wanted = given.need(0, "value")?;
            let mut n = 0_i64;
            for (i, item) in list.items.iter().enumerate() {
                if equal(item, wanted, fuel)? {
                    if name == "index" {
                        return Ok(Value::Int(i as i64));
                    }
                    n = n.saturating_add(1); // less than a list's length
                }
            }
            if name == "count" { Ok(Value::Int(n)) } else { fault!("index: not in the list") }
        }
        Value::Undefined => fault!("'{name}' of an undefined value"),
        _ => fault!("{} has no method '{name}'", value.kind()),
    }
}

fn map_method(map: &Map, name: &str, given: &Given<'_>, fuel: &mut Fuel) -> Result<Value, Fault> {
    fuel.pay(map.entries.len().saturating_mul(size_of::<Value>()))?;
    match name {
        "get" => {
            given.at_most(2, &[])?;
            let default = given.get(1, "default").cloned().unwrap_or(Value::None);
            Ok(fuel.get(map, given.need(0, "key")?)?.unwrap_or(default))
        }
        "keys" => fuel.list(listed(map.entries.iter().map(|(key, _)| key.clone()))?),
        "values" => fuel.list(listed(map.entries.iter().map(|(_, value)| value.clone()))?),
        "items" => pairs(map, fuel),
        _ => fault!("a map has no method '{name}'"),
    }
}

/// The entries of a map, each as a list of two.
pub(super) fn pairs(map: &Map, fuel: &mut Fuel) -> Result<Value, Fault> {
    let mut items = Vec::new();
    for (key, value) in &map.entries {
        items.add(fuel.list(listed([key.clone(), value.clone()])?)?)?;
    }
    fuel.list(items)
}

/// The characters that `strip` takes off: those given, or white space.
pub(super) fn strips<'a>(chars: Option<&'a Value>) -> Result<impl Fn(char) -> bool + 'a, Fault> {
    let chars = match chars {
        None | Some(Value::None) => None,
        Some(chars) => Some(chars.text()?),
    };
    Ok(move |c| chars.map_or_else(|| is_space(c), |chars| chars.contains(c)))
}

fn string_method(
    text: &str,
    name: &str,
    given: &Given<'_>,
    fuel: &mut Fuel,
) -> Result<Value, Fault> {
    fuel.pay(text.len())?;
    match name {
        "strip" | "lstrip" | "rstrip" => {
            given.at_most(1, &[])?;
            let chars = given.get(0, "chars");
            let n_chars = chars.and_then(|c| c.text().ok()).map_or(1, str::len);
            fuel.pay(text.len().saturating_mul(n_chars))?;
            let takes = strips(chars)?;
            let text = if name == "rstrip" { text } else { text.trim_start_matches(&takes) };
            let text = if name == "lstrip" { text } else { text.trim_end_matches(&takes) };
            fuel.string(&[text])
        }
        "upper" => upper(text, fuel),
        "lower" => lower(text, fuel),
        "title" => title(text, |before| !before.is_alphabetic(), fuel),
        "capitalize" => capitalised(text, fuel),
        "replace" => {
            given.at_most(3, &["count"])?;
            let count = given.get(2, "count").map_or(Ok(-1), Value::int)?;
            let (old, new) = (given.need(0, "old")?.text()?, given.need(1, "new")?.text()?);
            replaced(text, old, new, count, fuel)
        }
        "split" | "rsplit" => {
            given.at_most(2, &["sep", "maxsplit"])?;
            let most = given.get(1, "maxsplit").map_or(Ok(-1), Value::int)?;
            let most = usize::try_from(most).unwrap_or(usize::MAX - 1);
            let parts: Vec<&str> = match (given.get(0, "sep"), name) {
                (None | Some(Value::None), "split") => words(text, most)?,
                (None | Some(Value::None), _) if most > text.len() => words(text, most)?,
                (None | Some(Value::None), _) => {
                    return fault!("rsplit without a separator takes no count");
                }
                (Some(sep), _) => {
                    let sep = sep.text()?;
                    if sep.is_empty() {
                        return fault!("{name}: the separator is empty");
                    }
                    if name == "split" {
                        listed(text.splitn(most.saturating_add(1), sep))?
                    } else {
                        let mut parts = listed(text.rsplitn(most.saturating_add(1), sep))?;
                        parts.reverse();
                        parts
                    }
                }
            };
            strings(&parts, fuel)
        }
        "splitlines" => {
            let mut parts = listed(text.split('\n'))?;
            if parts.last() == Some(&"") {
                parts.pop();
            }
            strings(&parts, fuel)
        }
        "startswith" | "endswith" => {
            given.at_most(1, &[])?;
            let found = |part: &Value| {
                let part = part.text()?;
                Ok(if name == "startswith" { text.starts_with(part) } else { text.ends_with(part) })
            };
            let wanted = given.need(0, "prefix")?;
            let Value::List(list) = wanted else { return found(wanted).map(Value::Bool) };
            for part in &list.items {
                fuel.pay(text.len())?;
                if found(part)? {
                    return Ok(Value::Bool(true));
                }
            }
            Ok(Value::Bool(false))
        }
        "removeprefix" => {
            let prefix = given.need(0, "prefix")?.text()?;
            fuel.string(&[text.strip_prefix(prefix).unwrap_or(text)])
        }
        "removesuffix" => {
            let suffix = given.need(0, "suffix")?.text()?;
            fuel.string(&[text.strip_suffix(suffix).unwrap_or(text)])
        }
        "find" | "rfind" | "index" => {
            given.at_most(1, &[])?;
            let wanted = given.need(0, "sub")?.text()?;
            let found = match name {
                "rfind" => text.rsplit_once(wanted),
                _ => text.split_once(wanted),
            };
            match found {
                Some((before, _)) => Ok(count(before.chars())),
                None if name == "index" => fault!("index: not in the string"),
                None => Ok(Value::Int(-1)),
            }
        }
        "count" => Ok(count(text.matches(given.need(0, "sub")?.text()?))),
        "join" => joined(given.need(0, "items")?, text, fuel),
        "isdigit" | "isnumeric" | "isdecimal" => all(text, |c| c.is_numeric()),
        "isalpha" => all(text, char::is_alphabetic),
        "isalnum" => all(text, char::is_alphanumeric),
        "isspace" => all(text, is_space),
        "isupper" => Ok(Value::Bool(
            text.chars().any(char::is_uppercase) && !text.chars().any(char::is_lowercase),
        )),
        "islower" => Ok(Value::Bool(
            text.chars().any(char::is_lowercase) && !text.chars().any(char::is_uppercase),
        )),
        _ => fault!("a string has no method '{name}'"),
    }
}

fn all(text: &str, is: fn(char) -> bool) -> Result<Value, Fault> {
    Ok(Value::Bool(!text.is_empty() && text.chars().all(is)))
}

/// A list of strings.
fn strings(parts: &[&str], fuel: &mut Fuel) -> Result<Value, Fault> {
    let mut items = Vec::new();
    for part in parts {
        fuel.pay(64)?;
        items.add(fuel.string(&[part])?)?;
    }
    fuel.list(items)
}

/// The words between white space; after `most` splits, the rest as one.
fn words(text: &str, most: usize) -> Result<Vec<&str>, Fault> {
    let mut words = Vec::new();
    let mut rest = text.trim_start_matches(is_space);
    while !rest.is_empty() {
        let end = rest.find(is_space).filter(|_| words.len() < most);
        let end = end.unwrap_or(rest.len());
        let Some((word, after)) = rest.split_at_checked(end) else { return broken() };
        words.add(word)?;
        rest = after.trim_start_matches(is_space);
    }
    Ok(words)
}

pub(super) fn upper(text: &str, fuel: &mut Fuel) -> Result<Value, Fault> {
    title(text, |_| true, fuel)
}

pub(super) fn lower(text: &str, fuel: &mut Fuel) -> Result<Value, Fault> {
    fuel.pay(text.len().saturating_mul(3))?;
    let mut out = String::new();
    let (mut before, mut rest) = (' ', text.chars());
    while let Some(c) = rest.next() {
        // The one letter whose lower case depends on what stands around it: a sigma that ends a word.
        let ends = before.is_alphabetic() && !rest.clone().next().is_some_and(char::is_alphabetic);
        match c {
            '\u{3a3}' if ends => put(&mut out, ['\u{3c2}'])?,
            _ => put(&mut out, c.to_lowercase())?,
        }
        before = c;
    }
    fuel.string(&[&out])
}

/// Appends characters.
fn put(to: &mut String, chars: impl IntoIterator<Item = char>) -> Result<(), Fault> {
    chars.into_iter().try_for_each(|c| Ok(heap::push(to, c.encode_utf8(&mut [0; 4]))?))
}

/// The first letter in upper case, the others in lower case.
pub(super) fn capitalised(text: &str, fuel: &mut Fuel) -> Result<Value, Fault> {
    let mut first = true;
    title(text, |_| std::mem::take(&mut first), fuel)
}

/// Each character in upper case if `begins` says so of the one before it, in lower case otherwise.
pub(super) fn title(
    text: &str,
    mut begins: impl FnMut(char) -> bool,
    fuel: &mut Fuel,
) -> Result<Value, Fault> {
    fuel.pay(text.len().saturating_mul(3))?;
    let mut out = String::new();
    let mut before = ' ';
    for c in text.chars() {
        if begins(before) {
            put(&mut out, c.to_uppercase())?;
        } else {
            put(&mut out, c.to_lowercase())?;
        }
        before = c;
    }
    fuel.string(&[&out])
}

/// The text with at most `count` occurrences replaced; all, if the count is negative.
pub(super) fn replaced(
    text: &str,
    old: &str,
    new: &str,
    count: i64,
    fuel: &mut Fuel,
) -> Result<Value, Fault> {
    fuel.pay(text.len())?;
    let mut out = String::new();
    let most = usize::try_from(count).map_or(usize::MAX, |count| count.saturating_add(1));
    let mut parts = text.splitn(most, old);
    fuel.push(&mut out, parts.next().unwrap_or(""))?;
    for part in parts {
        fuel.push(&mut out, new)?;
        fuel.push(&mut out, part)?;
    }
    Ok(Value::Str(Shared::new(out)?))
}

/// The items as text, with a separator between them.
pub(super) fn joined(items: &Value, separator: &str, fuel: &mut Fuel) -> Result<Value, Fault> {
    let list = fuel.items(items)?;
    let mut out = String::new();
    for (i, item) in list.items.iter().enumerate() {
        fuel.push(&mut out, if i > 0 { separator } else { "" })?;
        text::write(item, &mut out, fuel)?;
    }
    Ok(Value::Str(Shared::new(out)?))
}
