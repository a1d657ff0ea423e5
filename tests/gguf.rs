//! The GGUF parser against good, damaged and hostile files.
mod support;
use support::gguf_writer::GgufWriter;

#[test]
fn a_written_file_starts_with_its_counts() {
    let file = GgufWriter::new().u32("a.b", 1).tensor_f32("t", &[2], &[1.0, 2.0]).write();
    assert_eq!(&file[..8], b"GGUF\x03\0\0\0");
    assert_eq!(file[8..24], [1, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
}
