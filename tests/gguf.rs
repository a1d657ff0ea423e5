//! The GGUF parser against good, damaged and hostile files.
mod support;

use std::time::Instant;
use support::counting::Counting;
use tern::base::file::Source;
use tern::gguf::Gguf;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn real_files_load() {
    let mut n = 0;
    for folder in ["models", "vocab"] {
        let Ok(entries) = std::fs::read_dir(support::cache_dir().join(folder)) else { continue };
        for path in entries.map(|e| e.unwrap().path()) {
            if path.extension().is_none_or(|e| e != "gguf") {
                continue;
            }
            let source = Source::open(&path).unwrap();
            let start = Instant::now();
            let gguf = Gguf::parse(&source).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
            let ms = start.elapsed().as_secs_f64() * 1e3;
            let metadata = gguf.metadata();
            let n_vocab = metadata.strings("tokenizer.ggml.tokens").unwrap().unwrap().len();
            let types = metadata.i32s("tokenizer.ggml.token_type").unwrap();
            assert!(types.is_none_or(|t| t.len() == n_vocab));
            let (tensors, heap) = (gguf.tensors().len(), gguf.heap_bytes());
            let name = path.file_name().unwrap().display();
            println!("{name}: {ms:.1} ms, {n_vocab} tokens, {tensors} tensors, {heap} bytes");
            for (key, value) in metadata.iter() {
                assert_eq!(metadata.value(key), Some(value), "{key}");
                println!("  {key} = {value}");
            }
            n += 1;
        }
    }
    if n == 0 {
        support::skipped("real_files_load", "no models in the cache; `make models` gets them");
    }
}
