//! Metadata: typed values by key.
//!
//! An index of 20 bytes for each entry points into the header's bytes; values are decoded when they
//! are asked for. Strings are bytes: the format says UTF-8, but vocabularies hold other things.

use std::fmt;

use super::cursor::{Cursor, Place, Span};
use super::reserve;
use super::size::Size;
use super::value::{Array, Kind, Strings, Value};
use crate::base::error::{Error, Result, err};
use crate::base::order::sort_numbers;

/// Most entries.
const MAX_ENTRIES: u64 = 65_535;
/// Bytes of the smallest entry: key length, one byte of key, kind, one byte of value.
const MIN_ENTRY: u64 = 8 + 1 + 4 + 1;
/// Most bytes of a key.
const MAX_KEY: u64 = 256;
/// Most bytes of a string.
const MAX_STRING: u64 = 1 << 20;
/// Most bytes of a string in an array.
const MAX_ELEMENT: u64 = 64 << 10;

/// Where the entries are, and their order by key. Does not own the header.
#[derive(Debug)]
pub(super) struct Index {
    entries: Vec<Entry>,
    by_key: Vec<u32>,
}

/// One entry. Offsets are in the header; all fit, since the header has at most 512 MiB.
#[derive(Clone, Copy, Debug)]
struct Entry {
    key: u32,
    /// Of a string its length field, of an array its first element.
    value: u32,
    /// Elements of an array.
    n: u32,
    key_len: u16,
    kind: Kind,
    /// Of an array's elements.
    element: Kind,
}

impl Entry {
    fn key<'h>(&self, header: &'h [u8]) -> &'h str {
        self.key_span().text(header)
    }

    fn key_span(&self) -> Span {
        Span { start: self.key, len: self.key_len.into() }
    }

    fn value<'h>(&self, header: &'h [u8]) -> Option<Value<'h>> {
        let bytes = header.get(self.value as usize..)?;
        if self.kind == Kind::Array {
            return Some(Value::Array(Array::new(self.element, self.n as usize, bytes)));
        }
        Value::decode(self.kind, bytes).map(|(value, _)| value)
    }
}

/// Whether so many entries can be in the rest of the file, and are within the limit.
pub(super) fn check_count(cursor: &Cursor<'_, '_>, n: u64) -> Result<usize> {
    super::check_count(cursor, n, MIN_ENTRY, MAX_ENTRIES, "metadata entries")
}

impl Index {
    /// Reads and checks `n` entries.
    pub(super) fn read(cursor: &mut Cursor<'_, '_>, n: usize) -> Result<Index> {
        let mut entries = reserve(n, "metadata")?;
        for i in 0..n {
            entries.push(read_entry(cursor, i)?);
        }
        let header = cursor.bytes();
        let key = |i: u32| entries.get(i as usize).map_or("", |e: &Entry| e.key(header));
        let mut by_key: Vec<u32> = reserve(n, "metadata")?;
        by_key.extend((0..n).filter_map(|i| u32::try_from(i).ok()));
        sort_numbers(&mut by_key, &mut |a, b| key(a).cmp(key(b)).then(a.cmp(&b)));
        let twice = by_key.windows(2).find_map(|pair| match pair {
            &[a, b] if key(a) == key(b) => entries.get(b as usize).map(Entry::key_span),
            _ => None,
        });
        if let Some(key) = twice {
            let place = super::cursor::Shown(Place::Value(key), header);
            return Err(err!(BadFile, "byte {}: {place}: the key occurs twice", key.start));
        }
        Ok(Index { entries, by_key })
    }

    /// The value of a key.
    pub(super) fn value<'h>(&self, header: &'h [u8], key: &str) -> Option<Value<'h>> {
        let entry = |i: u32| self.entries.get(i as usize);
        let found =
            self.by_key.binary_search_by(|&i| entry(i).map_or("", |e| e.key(header)).cmp(key));
        let i = *self.by_key.get(found.ok()?)?;
        entry(i)?.value(header)
    }
}

fn read_entry(cursor: &mut Cursor<'_, '_>, i: usize) -> Result<Entry> {
    cursor.place = Place::Key(i);
    let key = cursor.string(MAX_KEY)?;
    super::check_name(cursor, key)?;
    let key_len = u16::try_from(key.len).unwrap_or(u16::MAX); // at most MAX_KEY
    cursor.place = Place::Value(key);
    let kind = read_kind(cursor)?;
    let mut entry = Entry { key: key.start, value: 0, n: 0, key_len, kind, element: Kind::U8 };
    match kind {
        Kind::Array => {
            entry.element = read_kind(cursor)?;
            if entry.element == Kind::Array {
                return Err(cursor.bad(format_args!("an array of arrays")));
            }
            (entry.n, entry.value) = read_array(cursor, key, entry.element)?;
        }
        Kind::Str => {
            // The span is that of the text; the value starts with its length.
            let start = cursor.at();
            cursor.string(MAX_STRING)?;
            entry.value = cursor.offset(start)?;
        }
        _ => {
            let value = cursor.pass(1, kind.size().unwrap_or(0).into())?;
            entry.value = value.start;
            check_bools(cursor, kind, value)?;
        }
    }
    Ok(entry)
}

/// Passes an array; returns its length and where its first element is.
fn read_array(cursor: &mut Cursor<'_, '_>, key: Span, kind: Kind) -> Result<(u32, u32)> {
    let n = cursor.u64()?;
    let smallest = kind.size().unwrap_or(8).into(); // a string has a length at least
    let most = cursor.remaining().div(Size::of(smallest)).unwrap_or(Size::ZERO);
    if Size::of(n) > most {
        let left = cursor.remaining().get();
        return Err(cursor.bad(format_args!("an array of {n} x {kind}, {left} bytes are left")));
    }
    let start = cursor.at();
    if kind == Kind::Str {
        let mut i = cursor.pass_strings(n, MAX_ELEMENT);
        while i < n {
            // More is to be read, or is wrong.
            cursor.place = Place::Element(key, i);
            cursor.string(MAX_ELEMENT)?;
            i = i.saturating_add(1);
            i = i.saturating_add(cursor.pass_strings(n.saturating_sub(i), MAX_ELEMENT));
        }
        cursor.place = Place::Value(key);
    } else {
        let elements = cursor.pass(n, smallest)?;
        check_bools(cursor, kind, elements)?;
    }
    // The array is in the header, and so has no more elements than that has bytes.
    Ok((u32::try_from(n).unwrap_or(u32::MAX), cursor.offset(start)?))
}

fn read_kind(cursor: &mut Cursor<'_, '_>) -> Result<Kind> {
    let id = cursor.u32()?;
    Kind::from_gguf(id).ok_or_else(|| cursor.bad(format_args!("kind {id}, expected 0 to 12")))
}

fn check_bools(cursor: &Cursor<'_, '_>, kind: Kind, values: Span) -> Result<()> {
    if kind != Kind::Bool {
        return Ok(());
    }
    match values.of(cursor.bytes()).iter().find(|&&b| b > 1) {
        None => Ok(()),
        Some(b) => Err(cursor.bad(format_args!("a bool of {b}, expected 0 or 1"))),
    }
}

/// The metadata of a file. Getters give `None` for a key that is not there, and fail if its value
/// is of another kind or out of range: with `BadVocab` for keys that start with "tokenizer.", with
/// `BadTemplate` for chat templates, with `BadHparams` for all others.
#[derive(Debug)]
pub struct Metadata {
    header: Vec<u8>,
    index: Index,
}

impl Metadata {
    pub(super) fn new(header: Vec<u8>, index: Index) -> Metadata {
        Metadata { header, index }
    }

    pub(super) fn header(&self) -> &[u8] {
        &self.header
    }

    pub(super) fn heap_bytes(&self) -> usize {
        let entries = self.index.entries.capacity().saturating_mul(size_of::<Entry>());
        let order = self.index.by_key.capacity().saturating_mul(size_of::<u32>());
        self.header.capacity().saturating_add(entries).saturating_add(order)
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.index.entries.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All keys and values, in the file's order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, Value<'_>)> {
        self.index
            .entries
            .iter()
            .filter_map(|e| Some((e.key(&self.header), e.value(&self.header)?)))
    }

    /// The value of a key, of whatever kind.
    pub fn value(&self, key: &str) -> Option<Value<'_>> {
        self.index.value(&self.header, key)
    }

    /// An integer of any width.
    pub fn get_u64(&self, key: &str) -> Result<Option<u64>> {
        self.integer(key, "an integer from 0 to 2^64 - 1")
    }

    /// An integer of any width.
    pub fn get_u32(&self, key: &str) -> Result<Option<u32>> {
        self.integer(key, "an integer from 0 to 2^32 - 1")
    }

    /// An integer of any width.
    pub fn get_i32(&self, key: &str) -> Result<Option<i32>> {
        self.integer(key, "an integer from -2^31 to 2^31 - 1")
    }

    /// A float of either width; f64 is rounded. It may be infinite or NaN.
    pub fn get_f32(&self, key: &str) -> Result<Option<f32>> {
        match self.value(key) {
            None => Ok(None),
            Some(Value::F32(v)) => Ok(Some(v)),
            Some(Value::F64(v)) => Ok(Some(v as f32)),
            Some(other) => Err(wrong(key, other, "a float")),
        }
    }

    /// A bool.
    pub fn get_bool(&self, key: &str) -> Result<Option<bool>> {
        match self.value(key) {
            None => Ok(None),
            Some(Value::Bool(v)) => Ok(Some(v)),
            Some(other) => Err(wrong(key, other, "a bool")),
        }
    }

    /// A string of valid UTF-8.
    pub fn get_str(&self, key: &str) -> Result<Option<&str>> {
        match self.value(key) {
            None => Ok(None),
            Some(Value::Str(bytes)) => match std::str::from_utf8(bytes) {
                Ok(text) => Ok(Some(text)),
                Err(e) => Err(error(key, format_args!("not UTF-8 at byte {}", e.valid_up_to()))),
            },
            Some(other) => Err(wrong(key, other, "a string")),
        }
    }

    /// An array of strings; any bytes.
    pub fn strings(&self, key: &str) -> Result<Option<Strings<'_>>> {
        match self.array(key)? {
            None => Ok(None),
            Some(array) => match array.strings() {
                Some(strings) => Ok(Some(strings)),
                None => Err(wrong(key, Value::Array(array), "an array of strings")),
            },
        }
    }

    /// An array of exactly f32.
    pub fn f32s(&self, key: &str) -> Result<Option<Vec<f32>>> {
        if let Some(words) = self.words(key, Kind::F32) {
            let mut out = reserve(words.len(), key)?;
            out.extend(words.iter().map(|word| f32::from_le_bytes(*word)));
            return Ok(Some(out));
        }
        self.collect(key, "an array of f32", |v| match v {
            Value::F32(v) => Some(v),
            _ => None,
        })
    }

    /// An array of exactly i32, or of u32 that fit.
    pub fn i32s(&self, key: &str) -> Result<Option<Vec<i32>>> {
        if let Some(words) = self.words(key, Kind::I32) {
            let mut out = reserve(words.len(), key)?;
            out.extend(words.iter().map(|word| i32::from_le_bytes(*word)));
            return Ok(Some(out));
        }
        self.collect(key, "an array of i32", |v| match v {
            Value::I32(v) => Some(v),
            Value::U32(v) => i32::try_from(v).ok(),
            _ => None,
        })
    }

    /// An array of integers of any width that fit.
    pub fn u32s(&self, key: &str) -> Result<Option<Vec<u32>>> {
        self.collect(key, "an array of integers from 0 to 2^32 - 1", |v| {
            u32::try_from(v.integer()?).ok()
        })
    }

    /// An array of bools.
    pub fn bools(&self, key: &str) -> Result<Option<Vec<bool>>> {
        self.collect(key, "an array of bools", |v| match v {
            Value::Bool(v) => Some(v),
            _ => None,
        })
    }

    fn integer<T: TryFrom<i128>>(&self, key: &str, expected: &str) -> Result<Option<T>> {
        let Some(value) = self.value(key) else { return Ok(None) };
        match value.integer().map(T::try_from) {
            Some(Ok(v)) => Ok(Some(v)),
            _ => Err(wrong(key, value, expected)),
        }
    }

    /// The elements of an array of this kind, if the key has one; they have four bytes each.
    fn words(&self, key: &str, kind: Kind) -> Option<&[[u8; 4]]> {
        let array = self.array(key).ok()?.filter(|array| array.kind() == kind)?;
        array.words()
    }

    fn array(&self, key: &str) -> Result<Option<Array<'_>>> {
        match self.value(key) {
            None => Ok(None),
            Some(Value::Array(array)) => Ok(Some(array)),
            Some(other) => Err(wrong(key, other, "an array")),
        }
    }

    fn collect<'a, T>(
        &'a self,
        key: &str,
        expected: &str,
        element: impl Fn(Value<'a>) -> Option<T>,
    ) -> Result<Option<Vec<T>>> {
        let Some(array) = self.array(key)? else { return Ok(None) };
        let mut out = reserve(array.len(), key)?;
        for (i, value) in (0..array.len()).zip(array.iter()) {
            match element(value) {
                Some(value) => out.push(value),
                None => {
                    let kind = value.kind();
                    return Err(error(
                        key,
                        format_args!("element {i} is {value} of kind {kind}, expected {expected}"),
                    ));
                }
            }
        }
        // An empty array of another kind is harmless, and says nothing.
        Ok(Some(out))
    }
}

fn wrong(key: &str, found: Value<'_>, expected: &str) -> Error {
    match found {
        Value::Array(a) => {
            error(key, format_args!("an array of {} x {}, expected {expected}", a.len(), a.kind()))
        }
        value => error(key, format_args!("{value} of kind {}, expected {expected}", value.kind())),
    }
}

fn error(key: &str, what: fmt::Arguments<'_>) -> Error {
    if key.starts_with("tokenizer.chat_template") {
        err!(BadTemplate, "{key}: {what}")
    } else if key.starts_with("tokenizer.") {
        err!(BadVocab, "{key}: {what}")
    } else {
        err!(BadHparams, "{key}: {what}")
    }
}
