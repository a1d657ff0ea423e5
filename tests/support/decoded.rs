//! Real models with every weight in floats: nothing is rounded but what a test looks at.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::io::Write;
use std::path::Path;

use tern::base::file::Source;
use tern::gguf::Gguf;

/// Writes the model at `path` with all weights decoded to F32; `out` goes when the file is closed.
pub fn decode_weights(path: &Path, out: &Path) -> std::fs::File {
    let source = Source::open(path).unwrap();
    let gguf = Gguf::parse(&source).unwrap();
    let mut header = vec![0; gguf.data_offset() as usize];
    source.read_at(0, &mut header).unwrap();
    // The table of tensors starts with the first one's name; before it nothing changes.
    let first = gguf.tensors()[0].name(&gguf).as_bytes();
    let entry = [&(first.len() as u64).to_le_bytes()[..], first].concat();
    let table = header.windows(entry.len()).rposition(|w| w == entry).unwrap();
    header.truncate(table);
    let mut offset = 0;
    for tensor in gguf.tensors() {
        let name = tensor.name(&gguf).as_bytes();
        header.extend((name.len() as u64).to_le_bytes());
        header.extend(name);
        header.extend(tensor.n_dims.to_le_bytes());
        for dim in &tensor.shape[..tensor.n_dims as usize] {
            header.extend(dim.to_le_bytes());
        }
        header.extend(0u32.to_le_bytes()); // F32
        header.extend(u64::to_le_bytes(offset));
        offset += (4 * tensor.n_elements()).next_multiple_of(gguf.alignment());
    }
    header.resize(header.len().next_multiple_of(gguf.alignment() as usize), 0);
    std::fs::write(out, &header).unwrap();
    let file = std::fs::File::options().read(true).append(true).open(out).unwrap();
    std::fs::remove_file(out).unwrap();
    let mut writer = std::io::BufWriter::with_capacity(1 << 20, &file);
    for tensor in gguf.tensors() {
        let (n, rows) = (tensor.shape[0] as usize, tensor.n_elements() / tensor.shape[0]);
        let width = (tensor.bytes / rows) as usize;
        let (mut row, mut floats) = (vec![0; width], vec![0.0; n]);
        for i in 0..rows {
            let at = gguf.data_offset() + tensor.offset + i * width as u64;
            source.read_at(at, &mut row).unwrap();
            tern::quant::decode_row(tensor.dtype, &row, &mut floats);
            floats.iter().for_each(|x| writer.write_all(&x.to_le_bytes()).unwrap());
        }
        let written = 4 * tensor.n_elements();
        let gap = written.next_multiple_of(gguf.alignment()) - written;
        writer.write_all(&vec![0; gap as usize]).unwrap();
    }
    writer.flush().unwrap();
    drop(writer);
    file
}
