//! Loading on several threads: what it reports, and which of several errors comes back. What single
//! defects lead to is the subject of `malformed.rs`.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod support;

use std::sync::Arc;
use std::thread;

use support::gguf_writer::GgufWriter;
use support::tiny::{Random, Tiny};
use tern::base::dtype::DType;
use tern::engine::{
    Control, Error, Input, LoadMode, Logits, Model, ModelParams, Session, SessionParams,
};

/// A model of which loading takes more than one thread: 19 MB of weights.
fn large() -> GgufWriter {
    let mut tiny = Tiny::new("llama");
    (tiny.n_layer, tiny.n_ff, tiny.dtype, tiny.tied) = (1, 6144, DType::F32, false);
    tiny.writer()
}

fn load(
    input: Input<'_>,
    mode: LoadMode,
    progress: &mut dyn FnMut(u64, u64) -> bool,
) -> Result<Model, Error> {
    let params = ModelParams { load_mode: Some(mode), ..ModelParams::default() };
    Model::load(input, &params, progress)
}

fn logits(model: Model) -> Vec<u32> {
    let params = SessionParams { n_threads: 1, ..SessionParams::default() };
    let mut session = Session::new(Arc::new(model), &params).unwrap();
    session.eval(&[5, 6, 7], Logits::Last, &Control::default()).unwrap();
    session.logits().unwrap().iter().map(|x| x.to_bits()).collect()
}

/// Makes element `i` of a tensor of F32 no number.
fn spoil(file: &mut GgufWriter, name: &str, i: usize) {
    file.tensor_data_mut(name)[4 * i..][..4].copy_from_slice(&f32::NAN.to_le_bytes());
}

#[test]
fn every_row_comes_to_its_place() {
    let file = large().write();
    let path = std::env::temp_dir().join(format!("tern-load-{}", std::process::id()));
    std::fs::write(&path, &file).unwrap();
    let packed = path.with_extension("packed");
    // Packed by one thread, row after row.
    Model::pack(&path, &packed, &mut |_, _| true).unwrap();
    let expected = logits(load(Input::Path(&packed), LoadMode::MapFast, &mut |_, _| true).unwrap());
    for _ in 0..3 {
        let model = load(Input::Path(&path), LoadMode::Copy, &mut |_, _| true).unwrap();
        assert!(logits(model) == expected);
    }
    assert!(
        logits(load(Input::Memory(&file), LoadMode::Copy, &mut |_, _| true).unwrap()) == expected
    );
    std::fs::remove_file(path).unwrap();
    std::fs::remove_file(packed).unwrap();
}

#[test]
fn the_first_bad_weight_of_the_file_is_the_error() {
    let mut random = Random(3);
    let n = 256 * 6144;
    for _ in 0..12 {
        let mut file = large();
        let mut at = || random.next() as usize % n;
        let (gate, up, down) = (at(), at(), at());
        spoil(&mut file, "blk.0.ffn_gate.weight", gate);
        spoil(&mut file, "blk.0.ffn_up.weight", up);
        spoil(&mut file, "blk.0.ffn_down.weight", down);
        spoil(&mut file, "output_norm.weight", 9);
        let file = file.write();
        let error = load(Input::Memory(&file), LoadMode::Copy, &mut |_, _| true).err().unwrap();
        let expected =
            format!("blk.0.ffn_gate.weight: block {gate} of F32 holds a number that is not finite");
        assert_eq!((error.name(), error.message()), ("TERN_ERROR_BAD_WEIGHTS", &*expected));
    }
}

#[test]
fn the_vocabulary_comes_before_the_weights() {
    let mut file = large().strings("tokenizer.ggml.merges", ["no such"]);
    spoil(&mut file, "token_embd.weight", 0);
    spoil(&mut file, "output.weight", 0);
    let file = file.write();
    let path = std::env::temp_dir().join(format!("tern-load-vocab-{}", std::process::id()));
    std::fs::write(&path, &file).unwrap();
    for mode in [LoadMode::Copy, LoadMode::MapGuarded, LoadMode::MapFast] {
        let error = load(Input::Path(&path), mode, &mut |_, _| true).err().unwrap();
        assert_eq!(error.name(), "TERN_ERROR_BAD_VOCAB", "{mode:?}: {error}");
    }
    std::fs::remove_file(path).unwrap();
}

#[test]
fn progress_is_the_callers() {
    let file = large().write();
    let path = std::env::temp_dir().join(format!("tern-load-progress-{}", std::process::id()));
    std::fs::write(&path, &file).unwrap();
    for mode in [LoadMode::Copy, LoadMode::MapGuarded] {
        let here = thread::current().id();
        let mut seen = Vec::new();
        load(Input::Path(&path), mode, &mut |done, total| {
            assert_eq!(thread::current().id(), here);
            seen.push((done, total));
            true
        })
        .unwrap();
        let total = seen[0].1;
        assert!(seen.is_sorted() && seen.iter().all(|(_, t)| *t == total), "{seen:?}");
        assert_eq!((seen[0].0, seen.last().unwrap().0), (0, total));
        assert!(seen.len() >= 4, "{seen:?}");
        for stop in 0..seen.len() {
            let mut n = 0;
            let aborted = load(Input::Path(&path), mode, &mut |_, _| {
                n += 1;
                n <= stop
            });
            // How many rounds there are is a matter of the threads; there are two at least.
            match aborted {
                Err(Error::Aborted(_)) => assert_eq!(n, stop + 1, "{mode:?}"),
                Err(other) => panic!("{mode:?}: {other}"),
                Ok(_) => assert!(stop >= 2, "{mode:?}: {stop}"),
            }
        }
    }
    std::fs::remove_file(path).unwrap();
}
