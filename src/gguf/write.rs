//! Writing: everything that stands before the data of a file, of version 3.

use super::meta::Metadata;
use super::packing;
use super::size::Size;
use super::tensors::byte_size;
use super::value::Value;
use crate::base::dtype::DType;
use crate::base::error::{Result, err};

/// A tensor to be written.
#[derive(Clone, Debug)]
pub struct NewTensor {
    /// Its name.
    pub name: String,
    /// The type of its elements.
    pub dtype: DType,
    /// Whether its bytes are packed for kernels.
    pub packed: bool,
    /// Its shape, the length of a row first; 1 beyond `n_dims`.
    pub shape: [u64; 4],
    /// How many dimensions the file gives.
    pub n_dims: u32,
}

/// The start of a file, and where the data of each tensor belongs.
#[derive(Debug)]
pub struct Header {
    /// All bytes before the data, the padding included.
    pub bytes: Vec<u8>,
    /// Offset from the start of the data, and length, of each tensor, in order.
    pub places: Vec<(u64, u64)>,
}

/// Makes the header of a file with `metadata`, but for `set`, which replaces or adds keys, and with
/// these tensors one after the other, each at a multiple of `alignment`.
///
/// Fails with `OutOfMemory`, and with `BadTensor` if a tensor's size cannot be.
pub fn header(
    metadata: &Metadata,
    set: &[(&str, Value<'_>)],
    tensors: &[NewTensor],
    alignment: u64,
) -> Result<Header> {
    let alignment = Size::of(alignment);
    let mut places = super::reserve(tensors.len(), "tensors")?;
    let mut end = Size::ZERO;
    for t in tensors {
        let bytes = byte_size(t.dtype, t.packed, t.shape)
            .map_err(|why| err!(BadTensor, "{}: {:?} of {}: {why}", t.name, t.shape, t.dtype))?;
        let place = end.align_up(alignment).and_then(|at| Some((at, at.add(bytes)?)));
        let (at, after) = place.ok_or_else(|| err!(BadTensor, "{}: too large", t.name))?;
        places.push((at.get(), bytes.get()));
        end = after;
    }

    let mut out = Vec::new();
    let is_set = |key: &str| set.iter().any(|(k, _)| *k == key);
    let kept = metadata.iter().filter(|(key, _)| !is_set(key));
    let all = metadata.iter().filter(|(key, _)| !is_set(key));
    let n_kept = all.fold(0_usize, |n, _| n.saturating_add(1));
    let n_entries = n_kept.saturating_add(set.len());
    put(&mut out, b"GGUF")?;
    put(&mut out, &3u32.to_le_bytes())?;
    put(&mut out, &(tensors.len() as u64).to_le_bytes())?;
    put(&mut out, &(n_entries as u64).to_le_bytes())?;
    for (key, value) in kept.chain(set.iter().copied()) {
        put_string(&mut out, key.as_bytes())?;
        put_value(&mut out, &value)?;
    }
    for (t, (offset, _)) in tensors.iter().zip(&places) {
        put_string(&mut out, t.name.as_bytes())?;
        put(&mut out, &t.n_dims.to_le_bytes())?;
        for dim in t.shape.iter().take(t.n_dims as usize) {
            put(&mut out, &dim.to_le_bytes())?;
        }
        let number = if t.packed { packing::type_number(t.dtype) } else { t.dtype.gguf_id() };
        put(&mut out, &number.to_le_bytes())?;
        put(&mut out, &offset.to_le_bytes())?;
    }
    let len = Size::of_len(out.len()).align_up(alignment).and_then(Size::to_usize);
    let len = len.ok_or_else(|| err!(OutOfMemory, "a header beyond the address space"))?;
    let padding = len.saturating_sub(out.len());
    out.try_reserve(padding).map_err(|_| no_memory(&out))?;
    out.resize(len, 0);
    Ok(Header { bytes: out, places })
}

/// Appends the kind and the bytes of a value.
fn put_value(out: &mut Vec<u8>, value: &Value<'_>) -> Result<()> {
    put(out, &(value.kind() as u32).to_le_bytes())?;
    let Value::Array(array) = value else { return put_bytes(out, value) };
    put(out, &(array.kind() as u32).to_le_bytes())?;
    put(out, &(array.len() as u64).to_le_bytes())?;
    array.iter().try_for_each(|element| put_bytes(out, &element))
}

fn put_bytes(out: &mut Vec<u8>, value: &Value<'_>) -> Result<()> {
    match *value {
        Value::U8(v) => put(out, &v.to_le_bytes()),
        Value::I8(v) => put(out, &v.to_le_bytes()),
        Value::U16(v) => put(out, &v.to_le_bytes()),
        Value::I16(v) => put(out, &v.to_le_bytes()),
        Value::U32(v) => put(out, &v.to_le_bytes()),
        Value::I32(v) => put(out, &v.to_le_bytes()),
        Value::U64(v) => put(out, &v.to_le_bytes()),
        Value::I64(v) => put(out, &v.to_le_bytes()),
        Value::F32(v) => put(out, &v.to_le_bytes()),
        Value::F64(v) => put(out, &v.to_le_bytes()),
        Value::Bool(v) => put(out, &[u8::from(v)]),
        Value::Str(text) => put_string(out, text),
        Value::Array(_) => Err(err!(Internal, "gguf: an array of arrays")), // none can be read
    }
}

fn put_string(out: &mut Vec<u8>, text: &[u8]) -> Result<()> {
    put(out, &(text.len() as u64).to_le_bytes())?;
    put(out, text)
}

fn put(out: &mut Vec<u8>, bytes: &[u8]) -> Result<()> {
    // Grows by doubling, as a file's metadata is some megabytes.
    out.try_reserve(bytes.len()).map_err(|_| no_memory(out))?;
    out.extend_from_slice(bytes);
    Ok(())
}

fn no_memory(out: &[u8]) -> crate::base::error::Error {
    err!(OutOfMemory, "no memory for more than {} bytes of a header", out.len())
}
