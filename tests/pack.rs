//! Packed files: what `Model::pack` writes, what loads it, and what is wrong with broken ones.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod support;

use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use support::tiny::{N_VOCAB, Random, Tiny};
use tern::base::dtype::DType;
use tern::base::file::Source;
use tern::engine::{
    Control, Error, Gguf, Input, Isa, LoadMode, Logits, Model, ModelParams, Sampler, SamplerParams,
    Session, SessionParams,
};
use tern::quant::p16;

const MODES: [LoadMode; 3] = [LoadMode::Copy, LoadMode::MapGuarded, LoadMode::MapFast];

/// A folder of its own for a test, removed afterwards.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Folder {
        let folder = std::env::temp_dir().join(format!("tern-pack-{}-{name}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        Folder(folder)
    }

    fn file(&self, name: &str, bytes: &[u8]) -> PathBuf {
        fs::write(self.0.join(name), bytes).unwrap();
        self.0.join(name)
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.0).unwrap();
        let mut names: Vec<String> =
            entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Packs a file; gives where the packed one lies, and its bytes.
fn pack(folder: &Folder, file: &[u8]) -> (PathBuf, Vec<u8>) {
    let (from, to) = (folder.file("from.gguf", file), folder.0.join("to.gguf"));
    let n = Model::pack(&from, &to, &mut |_, _| true).expect("packs");
    let bytes = fs::read(&to).unwrap();
    assert_eq!(n, bytes.len() as u64);
    (to, bytes)
}

fn gguf(bytes: &[u8]) -> Gguf {
    Gguf::parse(&Source::from_memory(bytes)).expect("a GGUF")
}

fn load(input: Input<'_>, mode: Option<LoadMode>, isa: Isa) -> Result<Model, Error> {
    let params = ModelParams { load_mode: mode, isa: Some(isa), ..ModelParams::default() };
    Model::load(input, &params, &mut |_, _| true)
}

/// The bits of all logits of a short text.
fn logits(model: Model) -> Vec<u32> {
    let mut random = Random(7);
    let tokens: Vec<i32> = (0..9).map(|_| (random.next() % N_VOCAB as u32) as i32).collect();
    let params = SessionParams { n_logits: 9, n_threads: 2, ..SessionParams::default() };
    let mut session = Session::new(Arc::new(model), &params).expect("a session");
    session.eval(&tokens, Logits::All, &Control::default()).expect("evaluates");
    let rows = (0..tokens.len()).map(|i| session.logits_row(i).unwrap());
    rows.flatten().map(|x| x.to_bits()).collect()
}

/// Packs a model, and compares its logits with those of the original, from wherever it is loaded.
fn compare(folder: &Folder, what: &str, file: &[u8]) {
    let (path, packed) = pack(folder, file);
    for &isa in Isa::available() {
        let expected = logits(load(Input::Memory(file), None, isa).expect("loads"));
        let check = |input, mode| {
            let model = load(input, mode, isa).unwrap_or_else(|e| panic!("{what}: {e}"));
            assert!(logits(model) == expected, "{what} {} {mode:?}: other bits", isa.name());
        };
        check(Input::Memory(&packed), None);
        check(Input::Path(&path), None);
        if isa == Isa::best() {
            MODES.into_iter().for_each(|mode| check(Input::Path(&path), Some(mode)));
        }
    }
}

#[test]
fn every_architecture_gives_the_same_bits() {
    let folder = Folder::new("archs");
    for arch in ["llama", "smollm3", "qwen2", "qwen3", "gemma2", "gemma3", "phi3"] {
        for tied in [true, false] {
            let mut tiny = Tiny::new(arch);
            tiny.dtype = DType::Q4_0;
            tiny.window =
                if matches!(arch, "llama" | "gemma2" | "gemma3" | "phi3") { 5 } else { 0 };
            tiny.tied = tied;
            compare(&folder, &format!("{arch}, tied {tied}"), &tiny.gguf());
        }
    }
}

#[test]
fn every_element_type_gives_the_same_bits() {
    let folder = Folder::new("types");
    for &dtype in DType::ALL {
        let mut tiny = Tiny::new("llama");
        (tiny.dtype, tiny.n_layer) = (dtype, 2);
        compare(&folder, &format!("{dtype}"), &tiny.gguf());
    }
}

/// Phi-3 with keys of 8 rows, so that neither they nor the values nor the halves of the feed-forward
/// block begin with a group of 16 rows.
fn uneven(dtype: DType) -> Tiny {
    let mut tiny = Tiny::new("phi3");
    (tiny.n_head, tiny.n_head_kv, tiny.head_dim) = (32, 1, 8);
    (tiny.dtype, tiny.n_layer) = (dtype, 2);
    tiny
}

#[test]
fn fused_tensors_are_cut_anywhere() {
    let folder = Folder::new("fused");
    for &dtype in DType::ALL {
        compare(&folder, &format!("{dtype}"), &uneven(dtype).gguf());
    }
    let mut odd = uneven(DType::F16);
    (odd.n_embd, odd.n_head, odd.n_head_kv, odd.head_dim, odd.n_ff) = (72, 9, 3, 10, 100);
    let biases: Vec<f32> = (0..150).map(|i| i as f32 / 100.0 - 0.7).collect();
    let file = odd.writer();
    let file = file.tensor_f32("blk.0.attn_qkv.bias", &[150], &biases);
    let file =
        file.tensor_f32("blk.1.ffn_up.bias", &[200], &[biases.as_slice(), &biases[..50]].concat());
    compare(&folder, "biases", &file.write());
    let names = gguf(&fs::read(folder.0.join("to.gguf")).unwrap());
    for name in ["blk.0.attn_k.bias", "blk.0.attn_v.weight", "blk.1.ffn_gate.bias"] {
        assert!(names.tensor(name).is_some(), "{name}");
    }
    assert!(names.tensor("blk.0.attn_qkv.weight").is_none());
}

#[test]
fn all_that_is_not_packed_is_as_it_was() {
    let folder = Folder::new("same");
    let mut tiny = Tiny::new("qwen2");
    (tiny.dtype, tiny.tied) = (DType::Q5_1, false);
    tiny.factors = vec![("rope_freqs.weight", vec![1.5; 32])];
    let file = tiny
        .writer()
        .u8("extra.u8", 1)
        .i8("extra.i8", -1)
        .u16("extra.u16", 2)
        .i16("extra.i16", -2)
        .i32("extra.i32", -3)
        .u64("extra.u64", 1 << 40)
        .i64("extra.i64", -1 << 40)
        .f64("extra.f64", 0.1)
        .bool("extra.bool", true)
        .str("extra.bytes", [0xff, 0, 0xfe])
        .bools("extra.bools", &[true, false])
        .u64s("extra.u64s", &[u64::MAX])
        .f32s("extra.f32s", &[f32::NAN, -0.0])
        .strings("extra.none", [""; 0])
        .write();
    let (path, packed) = pack(&folder, &file);
    let (old, new) = (gguf(&file), gguf(&packed));
    assert!(new.is_packed() && !old.is_packed());
    assert_eq!((new.alignment(), new.version()), (64, 3));
    assert_eq!(new.metadata().len(), old.metadata().len() + 3);
    for (key, value) in old.metadata().iter() {
        // As texts: NaN is not equal to itself.
        let found = new.metadata().value(key).map(|v| format!("{v:#}"));
        assert_eq!(found, Some(format!("{value:#}")), "{key}");
    }
    assert_eq!(new.metadata().get_u32("tern.packing.version").unwrap(), Some(1));
    assert_eq!(new.metadata().get_str("tern.packing.layout").unwrap(), Some("p16"));

    assert_eq!(new.tensors().len(), old.tensors().len());
    let mut n_packed = 0;
    for (a, b) in old.tensors().iter().zip(new.tensors()) {
        let name = a.name(&old);
        assert_eq!((name, a.dtype, a.shape, a.n_dims), (b.name(&new), b.dtype, b.shape, b.n_dims));
        let at = new.data_offset() + b.offset;
        assert!(at.is_multiple_of(64), "{name} at {at}");
        let bytes = |file: &[u8], at: u64, n: u64| file[at as usize..][..n as usize].to_vec();
        let was = bytes(&file, old.data_offset() + a.offset, a.bytes);
        let is = bytes(&packed, at, b.bytes);
        if b.packed {
            n_packed += 1;
            let (k, n_rows) = (b.shape[0] as usize, b.shape[1] as usize);
            let mut expected = vec![0; p16::packed_bytes(b.dtype, k, n_rows).unwrap()];
            p16::pack(b.dtype, k, &was, &mut expected);
            assert!(is == expected, "{name}");
        } else {
            assert!(is == was, "{name}");
        }
        // A separate embedding is looked up and not multiplied with.
        let is_matrix = name.ends_with(".weight") && a.n_dims == 2 && name != "token_embd.weight";
        assert_eq!(b.packed, is_matrix, "{name}");
    }
    assert_eq!(n_packed, 7 * 3 + 1);

    let text = "the rain and the sea";
    let ids = |file: &[u8]| {
        let model = load(Input::Memory(file), None, Isa::best()).unwrap();
        let mut ids = Vec::new();
        model.tokenizer().tokenize(text, true, true, &mut ids).unwrap();
        (ids, model.chat_template().map(String::from), format!("{:?}", model.info().n_params))
    };
    assert_eq!(ids(&file), ids(&packed));
    assert_eq!(folder.names(), ["from.gguf", "to.gguf"]);

    // Packing is a function of the file.
    let again = folder.0.join("again.gguf");
    Model::pack(&folder.0.join("from.gguf"), &again, &mut |_, _| true).unwrap();
    assert!(fs::read(again).unwrap() == fs::read(path).unwrap());
}

#[test]
fn alignments_above_the_least_are_kept() {
    let folder = Folder::new("alignment");
    let (_, packed) = pack(&folder, &Tiny::new("llama").writer().alignment(4096).write());
    assert_eq!(gguf(&packed).alignment(), 4096);
    assert!(load(Input::Memory(&packed), None, Isa::best()).is_ok());
}

#[test]
fn a_part_of_a_file_may_begin_anywhere() {
    let folder = Folder::new("part");
    let file = uneven(DType::Q4K).gguf();
    let expected = logits(load(Input::Memory(&file), None, Isa::best()).unwrap());
    let (_, packed) = pack(&folder, &file);
    for before in [1usize, 64, 4096 + 7] {
        let path = folder.file("part", &[&vec![0xaa; before], packed.as_slice(), b"more"].concat());
        let part = File::open(path).unwrap();
        let (fd, offset, len) = (part.as_raw_fd(), before as u64, packed.len() as u64);
        for mode in MODES {
            let model = load(Input::Fd { fd, offset, len }, Some(mode), Isa::best()).unwrap();
            assert!(logits(model) == expected, "{mode:?} at {before}");
        }
    }
}

#[test]
fn the_plan_says_what_a_packed_file_takes() {
    let folder = Folder::new("plan");
    let (path, packed) = pack(&folder, &uneven(DType::Q4_1).gguf());
    let data = gguf(&packed).data_len();
    let plan = |mode| {
        let params = ModelParams { load_mode: mode, ..ModelParams::default() };
        Model::plan(Input::Path(&path), &params, &SessionParams::default()).unwrap()
    };
    let copied = plan(Some(LoadMode::Copy));
    assert_eq!((copied.weights_bytes, copied.mapped_bytes), (data, 0));
    for mode in [None, Some(LoadMode::MapGuarded), Some(LoadMode::MapFast)] {
        let mapped = plan(mode);
        assert_eq!((mapped.weights_bytes, mapped.mapped_bytes), (0, data), "{mode:?}");
        assert_eq!(mapped.total_bytes, copied.total_bytes - data);
    }
    let params = ModelParams::default();
    let memory = Input::Memory(&packed);
    let memory = Model::plan(memory, &params, &SessionParams::default()).unwrap();
    assert_eq!(memory, copied);
}

#[test]
fn a_mapped_packed_file_is_watched() {
    let folder = Folder::new("watched");
    let (path, packed) = pack(&folder, &Tiny::new("llama").gguf());
    let model = load(Input::Path(&path), None, Isa::best()).unwrap();
    let mut session = Session::new(Arc::new(model), &SessionParams::default()).unwrap();
    session.eval(&[1, 2], Logits::Last, &Control::default()).unwrap();
    // Replaced by another file of that name, as packing again does: nothing happens to this one.
    fs::rename(folder.file("new", &packed), &path).unwrap();
    session.eval(&[3], Logits::Last, &Control::default()).expect("its own file is as it was");

    let model = load(Input::Path(&path), None, Isa::best()).unwrap();
    let mut session = Session::new(Arc::new(model), &SessionParams::default()).unwrap();
    let writer = std::thread::spawn({
        let path = path.clone();
        // Waits for the lease, where there is one, until the eval has noticed.
        move || File::options().write(true).open(path).unwrap().write_at(&[0], 9).unwrap()
    });
    let mut last = Ok(());
    for _ in 0..2000 {
        last = session.eval(&[3], Logits::None, &Control::default());
        if last.is_err() || session.truncate(0).is_err() {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    assert!(matches!(last, Err(Error::ModelChanged(_))), "{last:?}");
    assert_eq!(writer.join().unwrap(), 1);
}

/// Packing `from` fails with that code, and leaves nothing behind.
fn refused(folder: &Folder, from: &Path, to: &Path, code: &str) {
    let before = folder.names();
    let error = Model::pack(from, to, &mut |_, _| true).expect_err(code);
    assert_eq!(error.name(), format!("TERN_ERROR_{code}"), "{error}");
    assert_eq!(folder.names(), before, "{code}");
}

#[test]
fn what_cannot_be_packed_leaves_nothing_behind() {
    let folder = Folder::new("refused");
    let tiny = Tiny::new("llama");
    let good = folder.file("good.gguf", &tiny.gguf());
    let to = folder.0.join("to.gguf");

    // In place, by any name.
    refused(&folder, &good, &good, "INVALID_ARGUMENT");
    std::os::unix::fs::symlink(&good, folder.0.join("link")).unwrap();
    fs::hard_link(&good, folder.0.join("hard")).unwrap();
    refused(&folder, &good, &folder.0.join("link"), "INVALID_ARGUMENT");
    refused(&folder, &folder.0.join("hard"), &good, "INVALID_ARGUMENT");

    // Not a number, in the last matrix and in a norm.
    for name in ["blk.2.ffn_down.weight", "output_norm.weight"] {
        let mut bad = tiny.writer();
        let data = bad.tensor_data_mut(name);
        let n = data.len();
        data[n - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
        let error = Model::pack(&folder.file("bad", &bad.write()), &to, &mut |_, _| true);
        let error = error.expect_err("a weight that is none");
        let elements = n / 4 - 1;
        let expected = format!("{name}: block {elements} of F32 holds a number that is not finite");
        assert_eq!((error.name(), error.message()), ("TERN_ERROR_BAD_WEIGHTS", &*expected));
    }
    // Whatever loading refuses.
    let file = tiny.gguf();
    refused(&folder, &folder.file("bad", &file[..file.len() - 9]), &to, "BAD_FILE");
    let without = tiny.writer().without("tokenizer.ggml.tokens").write();
    refused(&folder, &folder.file("bad", &without), &to, "BAD_VOCAB");
    refused(&folder, &folder.0.join("none"), &to, "IO");
    // Targets that are no files.
    refused(&folder, &good, &folder.0, "IO");
    refused(&folder, &good, &folder.0.join("none/to.gguf"), "IO");

    // Cancelled at each report.
    let mut n = 0;
    Model::pack(&good, &to, &mut |_, _| {
        n += 1;
        true
    })
    .unwrap();
    fs::remove_file(&to).unwrap();
    let before = folder.names();
    assert!(n > 20, "{n} reports");
    for at in [0, 1, n / 2, n - 1] {
        let mut i = 0;
        let error = Model::pack(&good, &to, &mut |_, _| {
            i += 1;
            i <= at
        });
        assert!(matches!(error, Err(Error::Aborted(_))), "{error:?}");
        assert_eq!(folder.names(), before);
    }

    // Packed already; and an older target stays what it was when packing fails.
    Model::pack(&good, &to, &mut |_, _| true).unwrap();
    let old = fs::read(&to).unwrap();
    refused(&folder, &to, &folder.0.join("twice.gguf"), "UNSUPPORTED");
    refused(&folder, &folder.file("bad", &without), &to, "BAD_VOCAB");
    assert!(fs::read(&to).unwrap() == old);
}

#[test]
fn progress_ends_at_all_bytes() {
    let folder = Folder::new("progress");
    let from = folder.file("from", &Tiny::new("gemma3").gguf());
    let mut seen = Vec::new();
    Model::pack(&from, &folder.0.join("to"), &mut |done, total| {
        seen.push((done, total));
        true
    })
    .unwrap();
    assert_eq!(seen[0].0, 0);
    assert!(seen.is_sorted() && seen.iter().all(|(_, total)| *total == seen[0].1));
    assert_eq!(seen.last().map(|(done, total)| done == total), Some(true));
}

/// Where a key or a tensor's name ends in a file.
fn after(file: &[u8], name: &str) -> usize {
    let name = [&(name.len() as u64).to_le_bytes(), name.as_bytes()].concat();
    file.windows(name.len()).position(|w| w == name).expect("the name") + name.len()
}

/// The file with other bytes at a place.
fn patched(file: &[u8], at: usize, bytes: &[u8]) -> Vec<u8> {
    let mut file = file.to_vec();
    file[at..at + bytes.len()].copy_from_slice(bytes);
    file
}

#[test]
fn broken_packed_files_have_their_codes() {
    let folder = Folder::new("broken");
    let mut tiny = Tiny::new("llama");
    (tiny.dtype, tiny.n_layer) = (DType::Q8_0, 1);
    let (_, good) = pack(&folder, &tiny.gguf());
    let plain = tiny.gguf();
    let key = |name: &str| after(&good, name);
    // Of a tensor of two dimensions, behind its name: n_dims, dims, type, offset.
    let tensor = |name: &str, field: usize| after(&good, name) + [0, 4, 12, 20, 24][field];
    let u32s = |n: u32| n.to_le_bytes();
    let (q, norm) = ("blk.0.attn_q.weight", "blk.0.attn_norm.weight");
    let packed = |dtype: DType| u32s(u32::from_le_bytes([dtype.gguf_id() as u8, b'P', b'1', b'6']));
    let end = gguf(&good).data_len();

    let cases: Vec<(&str, Vec<u8>, &str, &str)> = vec![
        (
            "version",
            patched(&good, key("tern.packing.version") + 4, &u32s(2)),
            "UNSUPPORTED_PACKING",
            "packed as \"p16\" version 2, expected \"p16\" version 1",
        ),
        (
            "older version",
            patched(&good, key("tern.packing.version") + 4, &u32s(0)),
            "UNSUPPORTED_PACKING",
            "version 0",
        ),
        (
            "layout",
            patched(&good, key("tern.packing.layout") + 12, b"p32"),
            "UNSUPPORTED_PACKING",
            "packed as \"p32\"",
        ),
        (
            "kind of the version",
            patched(&good, key("tern.packing.version"), &u32s(5)),
            "BAD_FILE",
            "tern.packing.version: a value of kind i32",
        ),
        (
            "no version",
            patched(&good, key("tern.packing.version") - 1, b"x"),
            "BAD_FILE",
            "tern.packing.version: missing",
        ),
        (
            "no layout",
            patched(&good, key("tern.packing.layout") - 1, b"x"),
            "BAD_FILE",
            "tern.packing.layout: missing",
        ),
        (
            "alignment",
            patched(&good, key("general.alignment") + 4, &u32s(32)),
            "BAD_FILE",
            "a packed file has 64 at least",
        ),
        ("cut", good[..good.len() - 1].to_vec(), "BAD_FILE", "the file is cut short"),
        ("cut in the middle", good[..good.len() / 2].to_vec(), "BAD_FILE", "the file is cut short"),
        ("an unknown type", patched(&good, tensor(q, 3), &[4]), "UNSUPPORTED_DTYPE", "type"),
        (
            "another layout's type",
            patched(&good, tensor(q, 3) + 3, b"7"),
            "UNSUPPORTED_DTYPE",
            "type",
        ),
        (
            "a type of longer blocks",
            patched(&good, tensor(q, 3), &packed(DType::F32)),
            "BAD_TENSOR",
            "blk.0.attn_q.weight",
        ),
        (
            "rows not of whole blocks",
            patched(&good, tensor(q, 1), &100u64.to_le_bytes()),
            "BAD_TENSOR",
            "rows are not whole blocks",
        ),
        ("more rows", patched(&good, tensor(q, 2), &512u64.to_le_bytes()), "BAD_TENSOR", "ends at"),
        (
            "rows beyond 64 bits",
            patched(&good, tensor(q, 2), &(1u64 << 60).to_le_bytes()),
            "BAD_TENSOR",
            "too large",
        ),
        (
            "fewer rows",
            patched(&good, tensor(q, 2), &250u64.to_le_bytes()),
            "BAD_TENSOR",
            "256 x 250, expected 256 x 256",
        ),
        (
            "an odd offset",
            patched(&good, tensor(q, 4), &32u64.to_le_bytes()),
            "BAD_TENSOR",
            "not a multiple of 64",
        ),
        (
            "an offset outside",
            patched(&good, tensor(q, 4), &end.next_multiple_of(64).to_le_bytes()),
            "BAD_TENSOR",
            "blk.0.attn_q.weight",
        ),
        (
            "a matrix that is not packed",
            patched(&good, tensor(q, 3), &u32s(DType::Q8_0.gguf_id())),
            "BAD_TENSOR",
            "blk.0.attn_q.weight: not packed in a packed file",
        ),
        (
            "a packed norm",
            patched(&good, after(&good, norm) + 12, &packed(DType::BF16)),
            "BAD_TENSOR",
            "blk.0.attn_norm.weight",
        ),
        (
            "packed in a file that is not",
            patched(&plain, after(&plain, q) + 20, &packed(DType::Q8_0)),
            "BAD_TENSOR",
            "Q8_0, packed, in a file that is not",
        ),
    ];
    let path = folder.0.join("broken.gguf");
    for (what, file, code, part) in cases {
        fs::write(&path, &file).unwrap();
        let inputs = [Input::Memory(&file), Input::Path(&path)];
        for (input, mode) in inputs.into_iter().zip([None, Some(LoadMode::MapFast)]) {
            let Err(error) = load(input, mode, Isa::best()) else { panic!("{what}: loads") };
            assert_eq!(error.name(), format!("TERN_ERROR_{code}"), "{what}: {error}");
            assert!(error.message().contains(part), "{what}: {error}");
        }
        let plan =
            Model::plan(Input::Path(&path), &ModelParams::default(), &SessionParams::default());
        assert_eq!(plan.expect_err(what).name(), format!("TERN_ERROR_{code}"), "{what}");
    }
}

#[test]
fn bytes_that_nobody_packed_crash_nothing() {
    let folder = Folder::new("garbage");
    let mut random = Random(99);
    for &dtype in DType::ALL {
        let mut tiny = Tiny::new("llama");
        (tiny.dtype, tiny.n_layer) = (dtype, 1);
        let (path, mut file) = pack(&folder, &tiny.gguf());
        let data = gguf(&file).data_offset() as usize;
        let rest = &mut file[data..];
        for fill in [None, Some(0xffu8), Some(0)] {
            rest.iter_mut().for_each(|b| *b = fill.unwrap_or_else(|| random.next() as u8));
            fs::write(&path, [&good_header(&path, data), &*rest].concat()).unwrap();
            for isa in Isa::available() {
                let model = load(Input::Path(&path), None, *isa).expect("its structure is sound");
                let session = SessionParams { n_threads: 2, ..SessionParams::default() };
                let mut session = Session::new(Arc::new(model), &session).unwrap();
                session.eval(&[1, 2, 3, 4, 5], Logits::Last, &Control::default()).unwrap();
                let finite = session.logits().unwrap().iter().all(|x| x.is_finite());
                let mut sampler = Sampler::new(&SamplerParams::default()).unwrap();
                match session.sample(&mut sampler) {
                    Ok(token) => assert!((0..N_VOCAB as i32).contains(&token)),
                    Err(Error::NotFinite(_)) => assert!(!finite),
                    Err(other) => panic!("{dtype}: {other}"),
                }
            }
        }
    }
}

/// The first `n` bytes of a file.
fn good_header(path: &Path, n: usize) -> Vec<u8> {
    fs::read(path).unwrap()[..n].to_vec()
}

#[cfg(feature = "cli")]
#[test]
fn the_command_packs_and_tells() {
    let folder = Folder::new("command");
    let from = folder.file("from.gguf", &uneven(DType::Q6K).gguf());
    let to = folder.0.join("to.gguf");
    let tern = |args: &[&str]| {
        let output = support::command(env!("CARGO_BIN_EXE_tern")).args(args).output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        (output.status.code(), text(&output.stdout), text(&output.stderr))
    };
    let (from, to) = (from.to_str().unwrap(), to.to_str().unwrap());
    let (status, out, err) = tern(&["pack", from, to]);
    assert_eq!((status, &*err), (Some(0), ""));
    assert!(out.starts_with(to) && out.lines().count() == 1, "{out}");
    let (status, out, _) = tern(&["pack", "--json", from, to]);
    let json: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!((status, json["bytes"].as_u64()), (Some(0), Some(fs::metadata(to).unwrap().len())));

    for (file, is_packed) in [(from, false), (to, true)] {
        let (status, out, err) = tern(&["inspect", "--json", file]);
        assert_eq!((status, &*err), (Some(0), ""));
        let json: serde_json::Value = serde_json::from_str(&out).unwrap();
        assert_eq!(json["packed"], is_packed);
        assert_eq!(json["plan"]["mapped_bytes"].as_u64().unwrap() > 0, is_packed);
    }
    let run = |file| tern(&["run", "-m", file, "--raw", "-p", "the sea", "-n", "6", "--temp", "0"]);
    assert_eq!(run(from), run(to));

    let (status, out, err) = tern(&["pack", to, from]);
    assert_eq!((status, &*out), (Some(1), ""));
    assert!(err.starts_with("error: TERN_ERROR_UNSUPPORTED: ") && err.contains("packed already"));
    for usage in [&["pack"][..], &["pack", from], &["pack", from, to, "x"], &["pack", "--what"]] {
        assert_eq!(tern(usage).0, Some(2), "{usage:?}");
    }
}

#[test]
fn a_real_model_packs() {
    let name = "a_real_model_packs";
    let file = "models/SmolLM2-135M-Instruct.Q4_1.gguf";
    let Some(from) = support::cached(name, file) else { return };
    let folder = Folder::new("real");
    let to = folder.0.join("to.gguf");
    Model::pack(&from, &to, &mut |_, _| true).unwrap();
    let expected = logits(load(Input::Path(&from), None, Isa::best()).unwrap());
    assert!(logits(load(Input::Path(&to), None, Isa::best()).unwrap()) == expected);
}
