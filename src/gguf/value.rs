//! What metadata can hold: numbers, bools, strings of any bytes, arrays of these.

use std::fmt;

use super::size::Size;

/// Declares [`Kind`] from one table: variant, GGUF's number, name, bytes of a value.
macro_rules! kinds {
    ($($(#[$doc:meta])* $kind:ident = $id:literal, $name:literal, $size:expr;)*) => {
        /// The kind of a value. Displays as GGUF's name of it.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u8)]
        pub enum Kind { $($(#[$doc])* $kind = $id,)* }

        impl Kind {
            pub(super) fn from_gguf(id: u32) -> Option<Kind> {
                match id { $($id => Some(Kind::$kind),)* _ => None }
            }
            /// Bytes of a value, where all values have the same.
            pub(super) fn size(self) -> Option<u32> { match self { $(Kind::$kind => $size,)* } }
            fn name(self) -> &'static str { match self { $(Kind::$kind => $name,)* } }
        }
    };
}

kinds! {
    /// Unsigned, 8 bits.
    U8 = 0, "u8", Some(1);
    /// Signed, 8 bits.
    I8 = 1, "i8", Some(1);
    /// Unsigned, 16 bits.
    U16 = 2, "u16", Some(2);
    /// Signed, 16 bits.
    I16 = 3, "i16", Some(2);
    /// Unsigned, 32 bits.
    U32 = 4, "u32", Some(4);
    /// Signed, 32 bits.
    I32 = 5, "i32", Some(4);
    /// IEEE single precision.
    F32 = 6, "f32", Some(4);
    /// One byte, 0 or 1.
    Bool = 7, "bool", Some(1);
    /// Length and bytes.
    Str = 8, "string", None;
    /// Kind, length and elements.
    Array = 9, "array", None;
    /// Unsigned, 64 bits.
    U64 = 10, "u64", Some(8);
    /// Signed, 64 bits.
    I64 = 11, "i64", Some(8);
    /// IEEE double precision.
    F64 = 12, "f64", Some(8);
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A value, lent from the header. Displays as a line; `{:#}` shows long strings and arrays whole.
#[derive(Clone, Copy, Debug, PartialEq)]
#[allow(missing_docs, reason = "the kinds of values, documented there")]
pub enum Value<'a> {
    U8(u8),
    I8(i8),
    U16(u16),
    I16(i16),
    U32(u32),
    I32(i32),
    U64(u64),
    I64(i64),
    F32(f32),
    F64(f64),
    Bool(bool),
    Str(&'a [u8]),
    Array(Array<'a>),
}

impl<'a> Value<'a> {
    /// The kind of the value.
    pub fn kind(&self) -> Kind {
        match self {
            Value::U8(_) => Kind::U8,
            Value::I8(_) => Kind::I8,
            Value::U16(_) => Kind::U16,
            Value::I16(_) => Kind::I16,
            Value::U32(_) => Kind::U32,
            Value::I32(_) => Kind::I32,
            Value::U64(_) => Kind::U64,
            Value::I64(_) => Kind::I64,
            Value::F32(_) => Kind::F32,
            Value::F64(_) => Kind::F64,
            Value::Bool(_) => Kind::Bool,
            Value::Str(_) => Kind::Str,
            Value::Array(_) => Kind::Array,
        }
    }

    /// The value, if it is an integer.
    pub(super) fn integer(&self) -> Option<i128> {
        Some(match *self {
            Value::U8(v) => v.into(),
            Value::I8(v) => v.into(),
            Value::U16(v) => v.into(),
            Value::I16(v) => v.into(),
            Value::U32(v) => v.into(),
            Value::I32(v) => v.into(),
            Value::U64(v) => v.into(),
            Value::I64(v) => v.into(),
            _ => return None,
        })
    }

    /// The value of that kind at the start of `bytes`, and the bytes after it. Arrays do not nest.
    pub(super) fn decode(kind: Kind, bytes: &'a [u8]) -> Option<(Value<'a>, &'a [u8])> {
        fn first<const N: usize>(bytes: &[u8]) -> Option<([u8; N], &[u8])> {
            bytes.split_first_chunk().map(|(chunk, rest)| (*chunk, rest))
        }
        macro_rules! number {
            ($variant:ident, $type:ty) => {
                first(bytes).map(|(b, rest)| (Value::$variant(<$type>::from_le_bytes(b)), rest))
            };
        }
        match kind {
            Kind::U8 => number!(U8, u8),
            Kind::I8 => number!(I8, i8),
            Kind::U16 => number!(U16, u16),
            Kind::I16 => number!(I16, i16),
            Kind::U32 => number!(U32, u32),
            Kind::I32 => number!(I32, i32),
            Kind::U64 => number!(U64, u64),
            Kind::I64 => number!(I64, i64),
            Kind::F32 => number!(F32, f32),
            Kind::F64 => number!(F64, f64),
            Kind::Bool => first(bytes).map(|([b], rest)| (Value::Bool(b != 0), rest)),
            Kind::Str => {
                let (len, rest) = first(bytes)?;
                let len = Size::of(u64::from_le_bytes(len)).to_usize()?;
                let (text, rest) = rest.split_at_checked(len)?;
                Some((Value::Str(text), rest))
            }
            Kind::Array => None,
        }
    }
}

/// An array of values of one kind.
#[derive(Clone, Copy)]
pub struct Array<'a> {
    kind: Kind,
    len: usize,
    /// From the first element on, to the end of the header.
    bytes: &'a [u8],
}

impl<'a> Array<'a> {
    /// `bytes` starts with the first element and has all of them.
    pub(super) fn new(kind: Kind, len: usize, bytes: &'a [u8]) -> Array<'a> {
        Array { kind, len, bytes }
    }

    /// The kind of the elements.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// How many elements there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The elements as strings, if they are.
    pub fn strings(&self) -> Option<Strings<'a>> {
        (self.kind == Kind::Str).then_some(Strings { len: self.len, rest: self.bytes })
    }

    /// The elements' bytes, of kinds that have four.
    pub(super) fn words(&self) -> Option<&'a [[u8; 4]]> {
        let (words, _) = self.bytes.as_chunks();
        words.get(..self.len).filter(|_| self.kind.size() == Some(4))
    }

    /// The elements, in order.
    pub fn iter(&self) -> impl Iterator<Item = Value<'a>> + use<'a> {
        let (kind, mut rest) = (self.kind, self.bytes);
        (0..self.len).map_while(move |_| {
            let (value, after) = Value::decode(kind, rest)?;
            rest = after;
            Some(value)
        })
    }
}

impl PartialEq for Array<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.kind == other.kind && self.len == other.len && self.iter().eq(other.iter())
    }
}

impl fmt::Debug for Array<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}; {}]", self.kind, self.len)
    }
}

/// An array of strings, first to last.
#[derive(Clone, Debug)]
pub struct Strings<'a> {
    len: usize,
    rest: &'a [u8],
}

impl<'a> Iterator for Strings<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        self.len = self.len.checked_sub(1)?;
        let (Value::Str(text), rest) = Value::decode(Kind::Str, self.rest)? else { return None };
        self.rest = rest;
        Some(text)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.len, Some(self.len))
    }
}

impl ExactSizeIterator for Strings<'_> {}

impl fmt::Display for Value<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        /// What one line has room for.
        const CHARS: usize = 60;
        const ELEMENTS: usize = 8;
        match self {
            Value::U8(v) => write!(f, "{v}"),
            Value::I8(v) => write!(f, "{v}"),
            Value::U16(v) => write!(f, "{v}"),
            Value::I16(v) => write!(f, "{v}"),
            Value::U32(v) => write!(f, "{v}"),
            Value::I32(v) => write!(f, "{v}"),
            Value::U64(v) => write!(f, "{v}"),
            Value::I64(v) => write!(f, "{v}"),
            Value::F32(v) => write!(f, "{v}"),
            Value::F64(v) => write!(f, "{v}"),
            Value::Bool(v) => write!(f, "{v}"),
            Value::Str(bytes) => {
                let most = if f.alternate() { usize::MAX } else { CHARS };
                f.write_str("\"")?;
                let mut chars = bytes.utf8_chunks().flat_map(|chunk| {
                    let bad = if chunk.invalid().is_empty() { "" } else { "\u{fffd}" };
                    chunk.valid().chars().chain(bad.chars())
                });
                for c in chars.by_ref().take(most) {
                    write!(f, "{}", c.escape_debug())?;
                }
                f.write_str(if chars.next().is_some() { "...\"" } else { "\"" })
            }
            Value::Array(array) => {
                let most = if f.alternate() { usize::MAX } else { ELEMENTS };
                f.write_str("[")?;
                let mut between = "";
                for value in array.iter().take(most) {
                    f.write_str(between)?;
                    fmt::Display::fmt(&value, f)?;
                    between = ", ";
                }
                if array.len > most {
                    write!(f, ", ... {} in all", array.len)?;
                }
                f.write_str("]")
            }
        }
    }
}
