//! What tells a model from others of the same shape, as a fine-tune of it.

use crate::base::crc32c;
use crate::base::error::Result;
use crate::gguf::Value;
use crate::gguf::packing::{LAYOUT_KEY, VERSION_KEY};

use super::load::Model;

/// Metadata that says how a file is laid out, and nothing of the model.
const OF_THE_FILE: [&str; 3] = ["general.alignment", LAYOUT_KEY, VERSION_KEY];

impl Model {
    /// A number that other models do not have, but for one chance in 2^32: two checksums, CRC32C,
    /// of all metadata and of all weights.
    ///
    /// It is that of the content: the same in every way of loading, with every instruction set, and
    /// for a packed file as for its original. A file with other metadata is another model, even if
    /// it is only the name or the chat template.
    ///
    /// The first call reads all weights (100 MB take about 10 ms; several times that if the file is
    /// mapped and not packed), and is as slow as the disk if they are mapped and not in memory. Fails
    /// with `ModelChanged` as eval does, `OutOfMemory`.
    pub fn digest(&self) -> Result<u64> {
        if let Some(digest) = self.parts().digest.get() {
            return Ok(*digest);
        }
        self.check_unchanged()?;
        let backend = &self.weights().backend;
        let weights = backend.checksum(&self.parts().plan.layers, &self.parts().plan.ends)?;
        let mut metadata = Metadata(0);
        for (key, value) in self.gguf().metadata().iter() {
            if !OF_THE_FILE.contains(&key) {
                metadata.bytes(key.as_bytes());
                metadata.value(&value);
            }
        }
        // Divisors of frequencies lie in tensors of their own, which only the decoder has read.
        for rope in &backend.decoder().ropes {
            for factors in [&rope.factors, &rope.factors_long] {
                metadata.number(factors.len() as u64);
                factors.iter().for_each(|factor| metadata.number(factor.to_bits().into()));
            }
        }
        self.check_unchanged()?;
        // Two threads that are here at a time have found the same.
        Ok(*self.parts().digest.get_or_init(|| u64::from(metadata.0) << 32 | u64::from(weights)))
    }
}

/// The checksum of metadata.
struct Metadata(u32);

impl Metadata {
    fn number(&mut self, n: u64) {
        self.0 = crc32c::crc32c_append(self.0, &n.to_le_bytes());
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.number(bytes.len() as u64);
        self.0 = crc32c::crc32c_append(self.0, bytes);
    }

    /// The value and its kind.
    fn value(&mut self, value: &Value<'_>) {
        self.number(value.kind() as u64);
        match *value {
            Value::U8(v) => self.number(v.into()),
            Value::I8(v) => self.number(v as u64),
            Value::U16(v) => self.number(v.into()),
            Value::I16(v) => self.number(v as u64),
            Value::U32(v) => self.number(v.into()),
            Value::I32(v) => self.number(v as u64),
            Value::U64(v) => self.number(v),
            Value::I64(v) => self.number(v as u64),
            Value::F32(v) => self.number(v.to_bits().into()),
            Value::F64(v) => self.number(v.to_bits()),
            Value::Bool(v) => self.number(v.into()),
            Value::Str(text) => self.bytes(text),
            Value::Array(array) => {
                self.number(array.len() as u64);
                array.iter().for_each(|value| self.value(&value));
            }
        }
    }
}
