//! What a template computes with, and what it pays with.

use std::cell::RefCell;
use std::cmp::Ordering;

use crate::base::error::{Error, Sentence};
use crate::base::heap;
use crate::base::shared::Shared;

use super::grow::{Grow, listed};
use super::{FUEL, MAX_NESTING, MAX_OUTPUT};

/// Why a template cannot go on.
pub(super) enum Fault {
    /// The allocator refused.
    NoMemory,
    /// What is wrong with the template.
    Reason(Sentence),
}

/// Returns a fault with a formatted reason.
macro_rules! fault {
    ($($arg:tt)*) => {
        Err($crate::chat::value::reason(format_args!($($arg)*)))
    };
}
pub(super) use fault;

/// Out of line, so that the functions that may fail keep small frames: some of them recurse.
#[cold]
#[inline(never)]
pub(super) fn reason(args: std::fmt::Arguments<'_>) -> Fault {
    Fault::Reason(Sentence::new(args))
}

impl From<Error> for Fault {
    /// What the ground floor refuses is memory.
    fn from(_: Error) -> Fault {
        Fault::NoMemory
    }
}

/// A value. Cloning one costs nothing that grows with it.
#[derive(Clone)]
pub(super) enum Value {
    Undefined,
    None,
    Bool(bool),
    Int(i64),
    Float(f64),
    Str(Shared<String>),
    /// Lists and tuples alike.
    List(Shared<List>),
    Map(Shared<Map>),
    /// The one thing that can be changed. It cannot be put into anything, so nothing is circular.
    Namespace(Shared<RefCell<Vec<(String, Value)>>>),
    Macro(u32),
    Function(Function),
    /// The loop of this number, as long as it runs.
    Loop(u64),
}

/// The functions that every template has.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Function {
    Range,
    Dict,
    Namespace,
    RaiseException,
    StrftimeNow,
}

/// A sequence of values.
pub(super) struct List {
    pub items: Vec<Value>,
    depth: u8,
}

impl List {
    /// A list without items.
    pub(super) fn empty() -> List {
        List { items: Vec::new(), depth: 1 }
    }
}

/// Keys and values, in the order of insertion.
pub(super) struct Map {
    pub entries: Vec<(Value, Value)>,
    depth: u8,
}

/// What a template has left to spend.
pub(super) struct Fuel(u64);

impl Fuel {
    pub(super) fn new() -> Fuel {
        Fuel(FUEL)
    }

    /// Pays for one step and for reading or writing so many bytes.
    #[inline(never)]
    pub(super) fn pay(&mut self, n_bytes: usize) -> Result<(), Fault> {
        match self.0.checked_sub((n_bytes as u64 / 64).saturating_add(1)) {
            Some(left) => {
                self.0 = left;
                Ok(())
            }
            None => {
                self.0 = 0;
                fault!("takes more than {FUEL} steps")
            }
        }
    }

    /// Pays for a container of these items.
    fn pay_for<T>(&mut self, items: &[T]) -> Result<(), Fault> {
        self.pay(size_of_val(items).saturating_add(64))
    }

    /// Appends to a string that is being made.
    pub(super) fn push(&mut self, to: &mut String, text: &str) -> Result<(), Fault> {
        if text.len() > MAX_OUTPUT.saturating_sub(to.len()) {
            return fault!("makes more than {MAX_OUTPUT} bytes of text");
        }
        self.pay(text.len())?;
        Ok(heap::push(to, text)?)
    }

    /// A string of these parts.
    pub(super) fn string(&mut self, parts: &[&str]) -> Result<Value, Fault> {
        let mut text = String::new();
        for part in parts {
            self.push(&mut text, part)?;
        }
        Ok(Value::Str(Shared::new(text)?))
    }

    /// A list of these items.
    pub(super) fn list(&mut self, items: Vec<Value>) -> Result<Value, Fault> {
        self.pay_for(&items)?;
        let depth = depth_above(items.iter())?;
        Ok(Value::List(Shared::new(List { items, depth })?))
    }

    /// A map of these entries; later ones replace earlier ones with the same key.
    pub(super) fn map(&mut self, entries: Vec<(Value, Value)>) -> Result<Value, Fault> {
        self.pay_for(&entries)?;
        let depth = depth_above(entries.iter().map(|(_, v)| v))?;
        let mut unique: Vec<(Value, Value)> = heap::reserve(entries.len(), "entries")?;
        for (key, value) in entries {
            if !matches!(key, Value::Str(_) | Value::Int(_) | Value::Bool(_) | Value::None) {
                return fault!("{} cannot be the key of a map", key.kind());
            }
            let mut old = None;
            for (other, value) in &mut unique {
                if equal(other, &key, self)? {
                    old = Some(value);
                    break;
                }
            }
            match old {
                Some(old) => *old = value,
                None => unique.push((key, value)),
            }
        }
        Ok(Value::Map(Shared::new(Map { entries: unique, depth })?))
    }

    /// The value of a map's key.
    pub(super) fn get(&mut self, map: &Map, key: &Value) -> Result<Option<Value>, Fault> {
        for (other, value) in &map.entries {
            if equal(other, key, self)? {
                return Ok(Some(value.clone()));
            }
        }
        Ok(None)
    }

    /// The items of something that can be iterated over.
    pub(super) fn items(&mut self, value: &Value) -> Result<Shared<List>, Fault> {
        let items = match value {
            Value::List(list) => return Ok(list.clone()),
            Value::Map(map) => listed(map.entries.iter().map(|(key, _)| key.clone()))?,
            Value::Str(text) => {
                let mut items = Vec::new();
                for c in text.chars() {
                    self.pay(64)?;
                    items.add(self.string(&[c.encode_utf8(&mut [0; 4])])?)?;
                }
                items
            }
            Value::Undefined => Vec::new(),
            _ => return fault!("{} cannot be iterated over", value.kind()),
        };
        self.pay(size_of_val(items.as_slice()))?;
        Ok(Shared::new(List { items, depth: 1 })?)
    }
}

/// How deep a container of these values is.
fn depth_above<'a>(values: impl Iterator<Item = &'a Value>) -> Result<u8, Fault> {
    let mut depth = 0;
    for value in values {
        depth = depth.max(match value {
            Value::List(list) => list.depth,
            Value::Map(map) => map.depth,
            Value::Namespace(_) => return fault!("a namespace cannot be put into anything"),
            _ => 0,
        });
    }
    if usize::from(depth) == MAX_NESTING {
        return fault!("nests lists or maps more than {MAX_NESTING} deep");
    }
    Ok(depth.saturating_add(1))
}

impl Value {
    /// What kind of value it is, for messages.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Value::Undefined => "an undefined value",
            Value::None => "none",
            Value::Bool(_) => "a boolean",
            Value::Int(_) | Value::Float(_) => "a number",
            Value::Str(_) => "a string",
            Value::List(_) => "a list",
            Value::Map(_) => "a map",
            Value::Namespace(_) => "a namespace",
            Value::Macro(_) => "a macro",
            Value::Function(_) => "a function",
            Value::Loop(_) => "a loop",
        }
    }

    /// Whether a condition takes it for true.
    pub(super) fn is_true(&self) -> bool {
        match self {
            Value::Undefined | Value::None => false,
            Value::Bool(b) => *b,
            Value::Int(i) => *i != 0,
            Value::Float(f) => *f != 0.0,
            Value::Str(text) => !text.is_empty(),
            Value::List(list) => !list.items.is_empty(),
            Value::Map(map) => !map.entries.is_empty(),
            Value::Namespace(_) | Value::Macro(_) | Value::Function(_) | Value::Loop(_) => true,
        }
    }

    /// The text of a string.
    pub(super) fn text(&self) -> Result<&str, Fault> {
        match self {
            Value::Str(text) => Ok(text),
            _ => fault!("expected a string, found {}", self.kind()),
        }
    }

    /// A whole number.
    pub(super) fn int(&self) -> Result<i64, Fault> {
        match self {
            Value::Int(i) => Ok(*i),
            Value::Bool(b) => Ok(i64::from(*b)),
            _ => fault!("expected a whole number, found {}", self.kind()),
        }
    }
}

/// A number as both of Python's kinds see it; booleans are 0 and 1.
fn number(value: &Value) -> Option<(Option<i64>, f64)> {
    match value {
        Value::Bool(b) => Some((Some(i64::from(*b)), f64::from(u8::from(*b)))),
        Value::Int(i) => Some((Some(*i), *i as f64)),
        Value::Float(f) => Some((None, *f)),
        _ => None,
    }
}

/// Whether two values are equal; pays for what it compares. Recurses as deep as they nest.
pub(super) fn equal(a: &Value, b: &Value, fuel: &mut Fuel) -> Result<bool, Fault> {
    fuel.pay(0)?;
    Ok(match (a, b) {
        (Value::Undefined, Value::Undefined) | (Value::None, Value::None) => true,
        (Value::Str(a), Value::Str(b)) => {
            fuel.pay(if a.len() == b.len() { a.len() } else { 0 })?;
            a.as_str() == b.as_str()
        }
        (Value::List(a), Value::List(b)) => {
            if a.items.len() != b.items.len() {
                return Ok(false);
            }
            for (a, b) in a.items.iter().zip(&b.items) {
                if !equal(a, b, fuel)? {
                    return Ok(false);
                }
            }
            true
        }
        (Value::Map(a), Value::Map(b)) => {
            if a.entries.len() != b.entries.len() {
                return Ok(false);
            }
            for (key, value) in &a.entries {
                match fuel.get(b, key)? {
                    Some(other) if equal(value, &other, fuel)? => (),
                    _ => return Ok(false),
                }
            }
            true
        }
        (Value::Namespace(a), Value::Namespace(b)) => a.is_same(b),
        (Value::Macro(a), Value::Macro(b)) => a == b,
        (Value::Function(a), Value::Function(b)) => a == b,
        (Value::Loop(a), Value::Loop(b)) => a == b,
        _ => match (number(a), number(b)) {
            (Some((Some(a), _)), Some((Some(b), _))) => a == b,
            (Some((_, a)), Some((_, b))) => a == b,
            _ => false,
        },
    })
}

/// The order of two numbers or two strings; None for a number that is not one.
pub(super) fn order(a: &Value, b: &Value, fuel: &mut Fuel) -> Result<Option<Ordering>, Fault> {
    if let (Value::Str(a), Value::Str(b)) = (a, b) {
        fuel.pay(a.len().min(b.len()))?;
        return Ok(Some(a.as_str().cmp(b.as_str())));
    }
    match (number(a), number(b)) {
        (Some((Some(a), _)), Some((Some(b), _))) => Ok(Some(a.cmp(&b))),
        (Some((_, a)), Some((_, b))) => Ok(a.partial_cmp(&b)),
        _ => fault!("{} and {} cannot be compared", a.kind(), b.kind()),
    }
}

/// The operators that compute.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Binary {
    Add,
    Sub,
    Mul,
    Div,
    FloorDiv,
    Rem,
    Pow,
    Concat,
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
    In,
    NotIn,
}

/// Applies an operator.
pub(super) fn binary(op: Binary, a: &Value, b: &Value, fuel: &mut Fuel) -> Result<Value, Fault> {
    let compared = |fuel: &mut Fuel, f: fn(Ordering) -> bool| {
        Ok(Value::Bool(order(a, b, fuel)?.is_some_and(f)))
    };
    match op {
        Binary::Concat => {
            let mut text = String::new();
            super::text::write(a, &mut text, fuel)?;
            super::text::write(b, &mut text, fuel)?;
            Ok(Value::Str(Shared::new(text)?))
        }
        Binary::Eq => Ok(Value::Bool(equal(a, b, fuel)?)),
        Binary::Ne => Ok(Value::Bool(!equal(a, b, fuel)?)),
        Binary::Lt => compared(fuel, Ordering::is_lt),
        Binary::Le => compared(fuel, Ordering::is_le),
        Binary::Gt => compared(fuel, Ordering::is_gt),
        Binary::Ge => compared(fuel, Ordering::is_ge),
        Binary::In => Ok(Value::Bool(contains(b, a, fuel)?)),
        Binary::NotIn => Ok(Value::Bool(!contains(b, a, fuel)?)),
        _ => arithmetic(op, a, b, fuel),
    }
}

fn arithmetic(op: Binary, a: &Value, b: &Value, fuel: &mut Fuel) -> Result<Value, Fault> {
    match (op, a, b) {
        (Binary::Add, Value::Str(a), Value::Str(b)) => return fuel.string(&[a, b]),
        (Binary::Add, Value::List(a), Value::List(b)) => {
            let n = a.items.len().saturating_add(b.items.len());
            fuel.pay(n.saturating_mul(size_of::<Value>()))?;
            return fuel.list(listed(a.items.iter().chain(&b.items).cloned())?);
        }
        (Binary::Mul, Value::Str(text), times) | (Binary::Mul, times, Value::Str(text)) => {
            let mut out = String::new();
            for _ in 0..times.int()? {
                fuel.push(&mut out, text)?;
            }
            return Ok(Value::Str(Shared::new(out)?));
        }
        (Binary::Mul, Value::List(list), times) | (Binary::Mul, times, Value::List(list)) => {
            let mut items = Vec::new();
            for _ in 0..times.int()? {
                fuel.pay(size_of_val(list.items.as_slice()))?;
                items.add_all(list.items.iter().cloned())?;
            }
            return fuel.list(items);
        }
        _ => (),
    }
    let (Some((whole_a, a_float)), Some((whole_b, b_float))) = (number(a), number(b)) else {
        return fault!("{} and {} cannot be computed with", a.kind(), b.kind());
    };
    if matches!(op, Binary::Div | Binary::FloorDiv | Binary::Rem) && b_float == 0.0 {
        return fault!("division by zero");
    }
    if let (Some(a), Some(b)) = (whole_a, whole_b) {
        let whole = match op {
            Binary::Add => a.checked_add(b),
            Binary::Sub => a.checked_sub(b),
            Binary::Mul => a.checked_mul(b),
            // Python rounds towards minus infinity; the remainder has the divisor's sign.
            Binary::FloorDiv => a.checked_div(b).and_then(|q| {
                let inexact = a.checked_rem(b)? != 0;
                if inexact && (a < 0) != (b < 0) { q.checked_sub(1) } else { Some(q) }
            }),
            Binary::Rem => a.checked_rem(b).and_then(|r| {
                if r != 0 && (r < 0) != (b < 0) { r.checked_add(b) } else { Some(r) }
            }),
            Binary::Pow if b >= 0 => u32::try_from(b).ok().and_then(|b| a.checked_pow(b)),
            Binary::Pow => return Ok(Value::Float(a_float.powf(b_float))),
            _ => return Ok(Value::Float(a_float / b_float)),
        };
        return match whole {
            Some(whole) => Ok(Value::Int(whole)),
            None => fault!("a whole number does not fit in 64 bits"),
        };
    }
    Ok(Value::Float(match op {
        Binary::Add => a_float + b_float,
        Binary::Sub => a_float - b_float,
        Binary::Mul => a_float * b_float,
        Binary::Div => a_float / b_float,
        Binary::FloorDiv => (a_float / b_float).floor(),
        Binary::Rem => a_float - b_float * (a_float / b_float).floor(),
        _ => a_float.powf(b_float),
    }))
}

/// Whether a string, list or map has an item.
pub(super) fn contains(all: &Value, item: &Value, fuel: &mut Fuel) -> Result<bool, Fault> {
    match all {
        Value::Str(text) => {
            fuel.pay(text.len())?;
            Ok(text.contains(item.text()?))
        }
        Value::Map(map) => Ok(fuel.get(map, item)?.is_some()),
        _ => {
            let list = fuel.items(all)?;
            for other in &list.items {
                if equal(other, item, fuel)? {
                    return Ok(true);
                }
            }
            Ok(false)
        }
    }
}

/// What Python's `str` takes for white space.
pub(super) fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\x1c'..='\x1f').contains(&c)
}
