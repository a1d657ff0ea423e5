//! Writes GGUF files for tests: good ones, and ones that are broken on purpose.
//!
//! ```ignore
//! let file = GgufWriter::new()
//!     .str("general.architecture", "llama")
//!     .u32("llama.block_count", 1)
//!     .strings("tokenizer.ggml.tokens", ["<unk>", "a", "b"])
//!     .tensor_f32("token_embd.weight", &[32, 3], &[0.0; 96]) // the row length comes first
//!     .write();
//! ```
//!
//! A key or tensor that is set again replaces the earlier one where it stands, so that a test can
//! take a good file and spoil one thing. The `raw_*` methods append whatever they are given, and
//! the `claim_*` methods make the file say something other than what it holds.
//!
//! Layout: magic, version, counts, metadata, tensor table, padding to the alignment, then each
//! tensor's bytes, each padded to the alignment.

use tern::base::dtype::DType;

/// The numbers that GGUF gives the kinds of metadata values.
pub mod kind {
    pub const U8: u32 = 0;
    pub const I8: u32 = 1;
    pub const U16: u32 = 2;
    pub const I16: u32 = 3;
    pub const U32: u32 = 4;
    pub const I32: u32 = 5;
    pub const F32: u32 = 6;
    pub const BOOL: u32 = 7;
    pub const STRING: u32 = 8;
    pub const ARRAY: u32 = 9;
    pub const U64: u32 = 10;
    pub const I64: u32 = 11;
    pub const F64: u32 = 12;
}

/// A GGUF file in the making.
#[derive(Clone, Debug)]
pub struct GgufWriter {
    magic: [u8; 4],
    version: u32,
    alignment: u64,
    entries: Vec<Entry>,
    tensors: Vec<Tensor>,
    n_kv: Option<u64>,
    n_tensors: Option<u64>,
}

#[derive(Clone, Debug)]
struct Entry {
    /// Empty for entries that `raw_entry` made; they are never replaced.
    key: Vec<u8>,
    bytes: Vec<u8>,
}

#[derive(Clone, Debug)]
struct Tensor {
    name: Vec<u8>,
    n_dims: u32,
    dims: Vec<u64>,
    dtype: u32,
    /// Where the table says the data starts; `None` = where it does.
    offset: Option<u64>,
    data: Vec<u8>,
}

impl Default for GgufWriter {
    fn default() -> GgufWriter {
        GgufWriter::new()
    }
}

impl GgufWriter {
    /// An empty file of version 3 with an alignment of 32 that no key mentions.
    pub fn new() -> GgufWriter {
        GgufWriter {
            magic: *b"GGUF",
            version: 3,
            alignment: 32,
            entries: Vec::new(),
            tensors: Vec::new(),
            n_kv: None,
            n_tensors: None,
        }
    }

    /// The version number in the header; the layout stays that of version 3.
    pub fn version(mut self, version: u32) -> Self {
        self.version = version;
        self
    }

    /// The first four bytes.
    pub fn magic(mut self, magic: [u8; 4]) -> Self {
        self.magic = magic;
        self
    }

    /// Aligns tensors to `alignment` bytes and says so in `general.alignment`.
    pub fn alignment(mut self, alignment: u32) -> Self {
        self.alignment = u64::from(alignment).max(1);
        self.u32("general.alignment", alignment)
    }

    /// Aligns tensors to `alignment` bytes without saying so.
    pub fn lay_out_by(mut self, alignment: u64) -> Self {
        self.alignment = alignment.max(1);
        self
    }

    /// A metadata value of kind U8.
    pub fn u8(self, key: &str, value: u8) -> Self {
        self.value(key, kind::U8, &value.to_le_bytes())
    }
    /// A metadata value of kind I8.
    pub fn i8(self, key: &str, value: i8) -> Self {
        self.value(key, kind::I8, &value.to_le_bytes())
    }
    /// A metadata value of kind U16.
    pub fn u16(self, key: &str, value: u16) -> Self {
        self.value(key, kind::U16, &value.to_le_bytes())
    }
    /// A metadata value of kind I16.
    pub fn i16(self, key: &str, value: i16) -> Self {
        self.value(key, kind::I16, &value.to_le_bytes())
    }
    /// A metadata value of kind U32.
    pub fn u32(self, key: &str, value: u32) -> Self {
        self.value(key, kind::U32, &value.to_le_bytes())
    }
    /// A metadata value of kind I32.
    pub fn i32(self, key: &str, value: i32) -> Self {
        self.value(key, kind::I32, &value.to_le_bytes())
    }
    /// A metadata value of kind U64.
    pub fn u64(self, key: &str, value: u64) -> Self {
        self.value(key, kind::U64, &value.to_le_bytes())
    }
    /// A metadata value of kind I64.
    pub fn i64(self, key: &str, value: i64) -> Self {
        self.value(key, kind::I64, &value.to_le_bytes())
    }
    /// A metadata value of kind F32.
    pub fn f32(self, key: &str, value: f32) -> Self {
        self.value(key, kind::F32, &value.to_le_bytes())
    }
    /// A metadata value of kind F64.
    pub fn f64(self, key: &str, value: f64) -> Self {
        self.value(key, kind::F64, &value.to_le_bytes())
    }
    /// A metadata value of kind BOOL.
    pub fn bool(self, key: &str, value: bool) -> Self {
        self.value(key, kind::BOOL, &[u8::from(value)])
    }
    /// A metadata value of kind STRING; any bytes.
    pub fn str(self, key: &str, value: impl AsRef<[u8]>) -> Self {
        self.value(key, kind::STRING, &string(value.as_ref()))
    }

    /// An array of strings; any bytes.
    pub fn strings<S: AsRef<[u8]>>(self, key: &str, values: impl IntoIterator<Item = S>) -> Self {
        let (mut n, mut bytes) = (0, Vec::new());
        for value in values {
            bytes.extend(string(value.as_ref()));
            n += 1;
        }
        self.array(key, kind::STRING, n, &bytes)
    }
    /// An array of F32.
    pub fn f32s(self, key: &str, values: &[f32]) -> Self {
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.array(key, kind::F32, values.len() as u64, &bytes)
    }
    /// An array of I32.
    pub fn i32s(self, key: &str, values: &[i32]) -> Self {
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.array(key, kind::I32, values.len() as u64, &bytes)
    }
    /// An array of U32.
    pub fn u32s(self, key: &str, values: &[u32]) -> Self {
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.array(key, kind::U32, values.len() as u64, &bytes)
    }
    /// An array of U64.
    pub fn u64s(self, key: &str, values: &[u64]) -> Self {
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.array(key, kind::U64, values.len() as u64, &bytes)
    }
    /// An array of U8.
    pub fn u8s(self, key: &str, values: &[u8]) -> Self {
        self.array(key, kind::U8, values.len() as u64, values)
    }
    /// An array of BOOL.
    pub fn bools(self, key: &str, values: &[bool]) -> Self {
        let bytes: Vec<u8> = values.iter().map(|&v| u8::from(v)).collect();
        self.array(key, kind::BOOL, values.len() as u64, &bytes)
    }

    /// An array that claims `n` elements of `kind` and holds `bytes`.
    pub fn array(self, key: &str, kind: u32, n: u64, bytes: &[u8]) -> Self {
        self.value(key, kind::ARRAY, &array(kind, n, bytes))
    }

    /// A value of any kind number and any bytes.
    pub fn value(mut self, key: &str, kind: u32, bytes: &[u8]) -> Self {
        let entry = Entry { key: key.into(), bytes: entry(key.as_bytes(), kind, bytes) };
        match self.entries.iter_mut().find(|e| e.key == key.as_bytes()) {
            Some(old) => *old = entry,
            None => self.entries.push(entry),
        }
        self
    }

    /// Takes a key away.
    pub fn without(mut self, key: &str) -> Self {
        self.entries.retain(|e| e.key != key.as_bytes());
        self
    }

    /// Appends an entry with any key, even one that exists already.
    pub fn raw_kv(self, key: &[u8], kind: u32, bytes: &[u8]) -> Self {
        self.raw_entry(&entry(key, kind, bytes))
    }

    /// Appends bytes that count as one metadata entry.
    pub fn raw_entry(mut self, bytes: &[u8]) -> Self {
        self.entries.push(Entry { key: Vec::new(), bytes: bytes.to_vec() });
        self
    }

    /// A tensor. `shape` starts with the row length; `data` is its bytes.
    pub fn tensor(mut self, name: &str, dtype: DType, shape: &[u64], data: &[u8]) -> Self {
        self.put(Tensor {
            name: name.into(),
            n_dims: shape.len() as u32,
            dims: shape.to_vec(),
            dtype: dtype.gguf_id(),
            offset: None,
            data: data.to_vec(),
        });
        self
    }

    /// A tensor of F32.
    pub fn tensor_f32(self, name: &str, shape: &[u64], data: &[f32]) -> Self {
        let bytes: Vec<u8> = data.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.tensor(name, DType::F32, shape, &bytes)
    }

    /// Appends a table row with any name, even one that exists, any `n_dims` whatever the length
    /// of `dims`, and any type number. `offset` `None` = where `data` lies.
    pub fn raw_tensor(
        mut self,
        name: &[u8],
        n_dims: u32,
        dims: &[u64],
        dtype: u32,
        offset: Option<u64>,
        data: &[u8],
    ) -> Self {
        self.tensors.push(Tensor {
            name: name.to_vec(),
            n_dims,
            dims: dims.to_vec(),
            dtype,
            offset,
            data: data.to_vec(),
        });
        self
    }

    /// Takes a tensor away.
    pub fn without_tensor(mut self, name: &str) -> Self {
        self.tensors.retain(|t| t.name != name.as_bytes());
        self
    }

    /// The bytes of a tensor, to spoil them. Panics if there is no such tensor.
    pub fn tensor_data_mut(&mut self, name: &str) -> &mut Vec<u8> {
        &mut self.find(name).data
    }

    /// Makes the table say that a tensor's data starts at `offset`.
    pub fn claim_offset(mut self, name: &str, offset: u64) -> Self {
        self.find(name).offset = Some(offset);
        self
    }

    /// Makes the table say that a tensor has this shape.
    pub fn claim_shape(mut self, name: &str, shape: &[u64]) -> Self {
        let tensor = self.find(name);
        tensor.n_dims = shape.len() as u32;
        tensor.dims = shape.to_vec();
        self
    }

    /// Makes the table say that a tensor has this type number.
    pub fn claim_dtype(mut self, name: &str, dtype: u32) -> Self {
        self.find(name).dtype = dtype;
        self
    }

    /// Makes the header say that there are `n` metadata entries.
    pub fn claim_n_kv(mut self, n: u64) -> Self {
        self.n_kv = Some(n);
        self
    }

    /// Makes the header say that there are `n` tensors.
    pub fn claim_n_tensors(mut self, n: u64) -> Self {
        self.n_tensors = Some(n);
        self
    }

    /// The names of the tensors, in order.
    pub fn tensor_names(&self) -> Vec<String> {
        self.tensors.iter().map(|t| String::from_utf8_lossy(&t.name).into_owned()).collect()
    }

    /// Bytes from the start of the file to the end of the tensor table, without padding.
    pub fn header_len(&self) -> usize {
        self.header().len()
    }

    /// The file.
    pub fn write(&self) -> Vec<u8> {
        let mut file = self.header();
        for tensor in &self.tensors {
            self.pad(&mut file);
            file.extend(&tensor.data);
        }
        file
    }

    fn header(&self) -> Vec<u8> {
        let mut out = Vec::new();
        out.extend(self.magic);
        out.extend(self.version.to_le_bytes());
        out.extend(self.n_tensors.unwrap_or(self.tensors.len() as u64).to_le_bytes());
        out.extend(self.n_kv.unwrap_or(self.entries.len() as u64).to_le_bytes());
        for entry in &self.entries {
            out.extend(&entry.bytes);
        }
        let mut end = 0u64; // of the data so far
        for tensor in &self.tensors {
            let at = end.next_multiple_of(self.alignment);
            out.extend(string(&tensor.name));
            out.extend(tensor.n_dims.to_le_bytes());
            out.extend(tensor.dims.iter().flat_map(|d| d.to_le_bytes()));
            out.extend(tensor.dtype.to_le_bytes());
            out.extend(tensor.offset.unwrap_or(at).to_le_bytes());
            end = at + tensor.data.len() as u64;
        }
        out
    }

    fn pad(&self, file: &mut Vec<u8>) {
        file.resize(file.len().next_multiple_of(self.alignment as usize), 0);
    }

    fn put(&mut self, tensor: Tensor) {
        match self.tensors.iter_mut().find(|t| t.name == tensor.name) {
            Some(old) => *old = tensor,
            None => self.tensors.push(tensor),
        }
    }

    fn find(&mut self, name: &str) -> &mut Tensor {
        let found = self.tensors.iter_mut().find(|t| t.name == name.as_bytes());
        found.unwrap_or_else(|| panic!("the file being written has no tensor {name}"))
    }
}

/// A string as GGUF stores it: length, then bytes.
pub fn string(bytes: &[u8]) -> Vec<u8> {
    [&(bytes.len() as u64).to_le_bytes(), bytes].concat()
}

/// An array as GGUF stores it: kind of the elements, their number, then the elements.
pub fn array(kind: u32, n: u64, bytes: &[u8]) -> Vec<u8> {
    [&kind.to_le_bytes()[..], &n.to_le_bytes(), bytes].concat()
}

/// A metadata entry as GGUF stores it: key, kind, value.
pub fn entry(key: &[u8], kind: u32, bytes: &[u8]) -> Vec<u8> {
    [&string(key)[..], &kind.to_le_bytes(), bytes].concat()
}
