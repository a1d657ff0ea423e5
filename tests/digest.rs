//! `Model::digest`: the same for the same model, however its file was loaded, and another one for
//! any other model.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod support;

use std::path::{Path, PathBuf};
use std::time::Instant;

use support::tiny::{Random, Tiny};
use tern::base::dtype::DType;
use tern::base::file::Source;
use tern::engine::{Gguf, Input, Isa, LoadMode, Model, ModelParams};

fn load(input: Input<'_>, mode: LoadMode, isa: Isa) -> Model {
    let params = ModelParams { load_mode: Some(mode), isa: Some(isa), ..ModelParams::default() };
    Model::load(input, &params, &mut |_, _| true).unwrap()
}

fn digest(file: &[u8]) -> u64 {
    load(Input::Memory(file), LoadMode::Copy, Isa::best()).digest().unwrap()
}

/// A file with these bytes, removed afterwards.
struct File(PathBuf);

impl File {
    fn new(name: &str, bytes: &[u8]) -> File {
        let path = std::env::temp_dir().join(format!("tern-digest-{}-{name}", std::process::id()));
        std::fs::write(&path, bytes).unwrap();
        File(path)
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// In every mode, with every instruction set.
fn digests(path: &Path, isas: &[Isa]) -> Vec<u64> {
    let modes = [LoadMode::Copy, LoadMode::MapGuarded, LoadMode::MapFast];
    let all = modes.iter().flat_map(|mode| isas.iter().map(|isa| (*mode, *isa)));
    all.map(|(mode, isa)| load(Input::Path(path), mode, isa).digest().unwrap()).collect()
}

#[test]
fn the_digest_is_the_same_however_the_file_was_loaded_and_packed() {
    // Kernels that multiply from packed weights, which not all instruction sets have.
    let (best, all) = (Isa::best(), Isa::available());
    let dtypes = DType::ALL.iter().map(|&dtype| Tiny { dtype, ..Tiny::new("llama") });
    let archs = ["qwen2", "qwen3", "gemma2", "gemma3", "phi3"].map(Tiny::new);
    let untied = Tiny { tied: false, dtype: DType::Q4K, ..Tiny::new("llama") };
    // Rows that are no multiple of 16.
    let odd = Tiny { n_ff: 288, n_head: 3, n_head_kv: 1, dtype: DType::Q8_0, ..Tiny::new("phi3") };
    for tiny in dtypes.chain(archs).chain([untied, odd]) {
        let file = File::new("plain", &tiny.gguf());
        let packed = File::new("packed", b"");
        Model::pack(&file.0, &packed.0, &mut |_, _| true).unwrap();
        let plain = digests(&file.0, all);
        assert!(plain.iter().all(|digest| *digest == plain[0]), "{tiny:?}: {plain:x?}");
        for digest in digests(&packed.0, &[best]) {
            assert_eq!(digest, plain[0], "{tiny:?}: packed");
        }
    }
}

/// Snapshots are for later versions of tern, too.
#[test]
fn the_digest_is_what_it_was() {
    let tiny = Tiny { dtype: DType::Q4_0, ..Tiny::new("llama") };
    assert_eq!(digest(&tiny.gguf()), 0x1c01_3ecc_55fa_4dba, "of a made model");
}

#[test]
fn any_flipped_bit_of_any_tensor_is_another_model() {
    for arch in ["llama", "qwen2", "gemma3", "phi3"] {
        let factors = vec![("rope_freqs.weight", vec![1.5; 32])];
        let factors = if arch == "llama" { factors } else { Vec::new() };
        let tiny = Tiny { dtype: DType::Q4_0, tied: arch != "phi3", factors, ..Tiny::new(arch) };
        let mut file = tiny.gguf();
        let original = digest(&file);
        let gguf = Gguf::parse(&Source::from_memory(&file)).unwrap();
        let mut random = Random(1);
        for tensor in gguf.tensors() {
            // Of a float the lowest bit, so that it stays a number; of a block one of the codes.
            let within = match tensor.dtype {
                DType::F32 => 4 * (random.next() as u64 % (tensor.bytes / 4)),
                _ => {
                    18 * (random.next() as u64 % (tensor.bytes / 18))
                        + 2
                        + random.next() as u64 % 16
                }
            };
            let at = (gguf.data_offset() + tensor.offset + within) as usize;
            file[at] ^= 1;
            assert_ne!(digest(&file), original, "{arch}: {}", tensor.name(&gguf));
            file[at] ^= 1;
        }
        assert_eq!(digest(&file), original);
    }
}

#[test]
fn a_fine_tune_and_other_metadata_are_other_models() {
    let tiny = || Tiny { dtype: DType::Q8_0, ..Tiny::new("llama") };
    let mut all = vec![
        digest(&tiny().gguf()),
        digest(&Tiny { seed: 2, ..tiny() }.gguf()),
        digest(&Tiny { dtype: DType::Q4_0, ..tiny() }.gguf()),
        digest(&Tiny { n_ctx_train: 513, ..tiny() }.gguf()),
        digest(&Tiny { floats: vec![("rope.freq_base_swa", 1e6)], ..tiny() }.gguf()),
        digest(&tiny().writer().str("general.version", "2").write()),
        digest(&tiny().writer().i32s("general.of", &[1, 2]).write()),
        digest(&tiny().writer().i32s("general.of", &[2, 1]).write()),
        digest(&tiny().writer().strings("general.of", ["a", "b"]).write()),
        digest(&tiny().writer().strings("general.of", ["ab", ""]).write()),
        digest(&tiny().writer().u32("general.of", 7).write()),
    ];
    all.sort_unstable();
    all.dedup();
    assert_eq!(all.len(), 11, "two have the same digest: {all:x?}");
    // How its tensors lie in the file says nothing of a model.
    assert_eq!(digest(&tiny().writer().alignment(256).write()), digest(&tiny().gguf()));
}

#[test]
fn threads_that_ask_at_a_time_are_told_the_same() {
    let model = load(Input::Memory(&Tiny::new("llama").gguf()), LoadMode::Copy, Isa::best());
    let all: Vec<u64> = std::thread::scope(|scope| {
        let asked: Vec<_> = (0..4).map(|_| scope.spawn(|| model.digest().unwrap())).collect();
        asked.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert!(all.iter().all(|digest| *digest == all[0]));
}

/// No bound, but shown, with the one real model that is likely to be at hand.
#[test]
fn a_hundred_megabytes_take_milliseconds() {
    let test = "a_hundred_megabytes_take_milliseconds";
    let Some(path) = support::cached(test, "models/SmolLM2-135M-Instruct.Q4_1.gguf") else {
        return;
    };
    let mut digests = Vec::new();
    for mode in [LoadMode::Copy, LoadMode::MapFast] {
        let model = load(Input::Path(&path), mode, Isa::best());
        let start = Instant::now();
        digests.push(model.digest().unwrap());
        println!("{mode:?}: {:.1} ms", start.elapsed().as_secs_f64() * 1e3);
    }
    assert_eq!(digests[0], digests[1]);
}
