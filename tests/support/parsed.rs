//! What must hold for every container that was accepted, whatever is in it.

use std::fmt::Write as _;

use tern::gguf::{Gguf, Value};

/// Touches everything that a parsed file offers.
pub fn use_all(name: &str, gguf: &Gguf, file: &[u8]) {
    let mut text = String::new();
    for (key, value) in gguf.metadata().iter() {
        write!(text, "{key} = {value}").expect("a string takes anything");
        let again = gguf.metadata().value(key).expect(key);
        assert_eq!(again.to_string(), value.to_string(), "{name}: {key}");
        if let Value::Array(array) = value {
            assert_eq!(array.iter().count(), array.len(), "{name}: {key}");
        }
    }
    let mut ranges = Vec::new();
    for tensor in gguf.tensors() {
        let found = gguf.tensor(tensor.name(gguf)).expect("a tensor is found by its name");
        assert_eq!(found.offset, tensor.offset, "{name}");
        let row = tensor.dtype.row_bytes(tensor.shape[0] as usize).expect("whole blocks") as u64;
        assert_eq!(tensor.bytes, row * tensor.shape[1] * tensor.shape[2] * tensor.shape[3]);
        let start = gguf.data_offset() + tensor.offset;
        assert_eq!(start % gguf.alignment(), 0, "{name}");
        assert!(start + tensor.bytes <= file.len() as u64, "{name}: beyond the file");
        ranges.push(start..start + tensor.bytes);
    }
    ranges.sort_by_key(|r| r.start);
    assert!(ranges.windows(2).all(|r| r[0].end <= r[1].start), "{name}: overlapping tensors");
}
