//! A container with something of everything, and what must hold for each that was accepted.

use std::fmt::Write as _;

use tern::base::dtype::DType;
use tern::gguf::{Gguf, Value};

use super::gguf_writer::GgufWriter;

/// A file with every kind of value and three tensors, which is no model.
pub fn box_of_all() -> GgufWriter {
    GgufWriter::new()
        .str("general.architecture", "llama")
        .alignment(32)
        .u8("k.u8", 8)
        .i8("k.i8", -8)
        .u16("k.u16", 16)
        .i16("k.i16", -16)
        .u32("k.u32", 32)
        .i32("k.i32", -32)
        .u64("k.u64", 1 << 40)
        .i64("k.i64", -64)
        .f32("k.f32", 0.5)
        .f64("k.f64", 0.25)
        .bool("k.bool", true)
        .strings("k.strings", ["a", "", "\u{1f980}"])
        .f32s("k.f32s", &[1.0, 2.0])
        .i32s("k.i32s", &[1, -2])
        .bools("k.bools", &[true, false])
        .tensor_f32("a", &[4, 2], &[1.0; 8])
        .tensor("b", DType::Q8_0, &[32, 3], &[0; 102])
        .tensor("c", DType::F16, &[3], &[0; 6])
}

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
