//! A model's own words, kept as C wants them, so that they can be lent as long as the model lives.

use std::ffi::{CStr, c_char};
use std::fmt::{self, Write};
use std::ops::Range;

use crate::base::error::{Result, err};
use crate::engine::{Model, Value};

/// Strings that end in NUL, and metadata as text. Made once, when the model is loaded.
pub(super) struct Words {
    arena: Arena,
    arch: Range<usize>,
    name: Range<usize>,
    /// In the order of the file.
    entries: Vec<Entry>,
}

/// An entry of metadata, as it stands in the arena.
struct Entry {
    key: Range<usize>,
    value: Range<usize>,
}

impl Words {
    /// Copies a model's words.
    pub(super) fn new(model: &Model) -> Result<Words> {
        let mut arena = Arena(Vec::new());
        let arch = arena.push(&model.info().arch)?;
        let name = arena.push(&model.info().name)?;
        let mut entries = Vec::new();
        for (key, value) in model.gguf().metadata().iter() {
            let key = arena.push(key)?;
            let value = arena.value(value)?;
            entries.try_reserve(1).map_err(|_| no_memory())?;
            entries.push(Entry { key, value });
        }
        Ok(Words { arena, arch, name, entries })
    }

    pub(super) fn arch(&self) -> *const c_char {
        self.arena.get(&self.arch).as_ptr().cast()
    }

    pub(super) fn name(&self) -> *const c_char {
        self.arena.get(&self.name).as_ptr().cast()
    }

    pub(super) fn n_metadata(&self) -> u32 {
        self.entries.len() as u32 // files have at most 65,535
    }

    /// The value of the entry with this key.
    pub(super) fn lookup(&self, key: &CStr) -> Option<&[u8]> {
        let entry = self.entries.iter().find(|e| self.arena.get(&e.key) == key.to_bytes())?;
        Some(self.arena.get(&entry.value))
    }

    /// Key and value of an entry.
    pub(super) fn entry(&self, index: u32) -> Option<(*const c_char, &[u8])> {
        let entry = self.entries.get(index as usize)?;
        Some((self.arena.get(&entry.key).as_ptr().cast(), self.arena.get(&entry.value)))
    }
}

/// Text after text, each with a NUL behind it.
struct Arena(Vec<u8>);

impl Arena {
    /// Appends a text and a NUL; gives where the text stands.
    fn push(&mut self, text: impl fmt::Display) -> Result<Range<usize>> {
        let start = self.0.len();
        write!(self, "{text}\0").map_err(|_| no_memory())?;
        Ok(start..self.0.len() - 1)
    }

    /// Appends a value as the header promises it, and a NUL.
    fn value(&mut self, value: Value<'_>) -> Result<Range<usize>> {
        match value {
            Value::Array(x) => self.push(format_args!("{}[{}]", x.kind(), x.len())),
            Value::Str(bytes) => {
                let start = self.0.len();
                self.0.try_reserve(bytes.len() + 1).map_err(|_| no_memory())?;
                self.0.extend_from_slice(bytes);
                self.0.push(0);
                Ok(start..self.0.len() - 1)
            }
            number => self.push(number),
        }
    }

    fn get(&self, range: &Range<usize>) -> &[u8] {
        self.0.get(range.clone()).unwrap_or(b"\0")
    }
}

impl Write for Arena {
    /// Fails only for want of memory.
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.try_reserve(text.len()).map_err(|_| fmt::Error)?;
        self.0.extend_from_slice(text.as_bytes());
        Ok(())
    }
}

fn no_memory() -> crate::Error {
    err!(OutOfMemory, "the model's metadata")
}
