//! Signed models: what was signed loads in every way that can be promised, and nothing else does.
//! Each byte of a file belongs to a part of its manifest, and each part has its digest; the manifest
//! itself is parsed as carefully as a model's file. `tests/supply/manifest.py` checks one by other code.
#![cfg(feature = "signed")]
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
#![allow(unsafe_code, reason = "calls the C API")]

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use support::counting::{Counting, with_allocations};
use support::tiny::Tiny;
use tern::base::dtype::DType;
use tern::engine::{
    Control, Error, Input, LoadMode, Logits, Model, ModelParams, Session, SessionParams, Trust,
    public_key, sign_model,
};
use tern::manifest::Manifest;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const SECRET: [u8; 32] = [7; 32];
const MODES: [LoadMode; 2] = [LoadMode::Copy, LoadMode::MapGuarded];

/// A folder of its own for a test, removed afterwards.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Folder {
        let folder = std::env::temp_dir().join(format!("tern-sign-{}-{name}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        Folder(folder)
    }

    fn file(&self, name: &str, bytes: &[u8]) -> PathBuf {
        fs::write(self.0.join(name), bytes).unwrap();
        self.0.join(name)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A model, beside it its manifest of version 5, and both as bytes.
fn signed(folder: &Folder, file: &[u8]) -> (PathBuf, String) {
    let path = folder.file("model.gguf", file);
    let text = sign_model(&path, 5, &SECRET).unwrap();
    folder.file("model.gguf.manifest", text.as_bytes());
    (path, text)
}

fn load_with(input: Input<'_>, mode: LoadMode, trust: &Trust<'_>) -> Result<Model, Error> {
    let params = ModelParams { load_mode: Some(mode), ..ModelParams::default() };
    Model::load_signed(input, &params, Some(trust), &mut |_, _| true)
}

fn load(path: &Path, mode: LoadMode) -> Result<Model, Error> {
    let keys = [public_key(&SECRET)];
    load_with(Input::Path(path), mode, &Trust { keys: &keys, ..Trust::default() })
}

/// The error of a load from memory with a manifest that may be wrong.
fn error(file: &[u8], text: &[u8]) -> Error {
    let keys = [public_key(&SECRET)];
    let trust = Trust { keys: &keys, manifest: Some(text), min_version: 0 };
    match load_with(Input::Memory(file), LoadMode::Copy, &trust) {
        Ok(_) => panic!("loads, with {}", String::from_utf8_lossy(&text[..text.len().min(300)])),
        Err(error) => error,
    }
}

fn logits(model: Model) -> Vec<u32> {
    let params = SessionParams { n_threads: 1, ..SessionParams::default() };
    let mut session = Session::new(Arc::new(model), &params).unwrap();
    session.eval(&[5, 6, 7], Logits::Last, &Control::default()).unwrap();
    session.logits().unwrap().iter().map(|x| x.to_bits()).collect()
}

/// Architectures with all kinds of tensors: fused ones that are read in pieces, biases, divisors of
/// frequencies that are read before all others, heads of their own; and more than one thread's work.
fn models() -> Vec<(&'static str, Vec<u8>)> {
    let mut all = Vec::new();
    for arch in ["llama", "qwen2", "gemma3", "phi3"] {
        let mut tiny = Tiny::new(arch);
        (tiny.n_layer, tiny.dtype) = (2, DType::Q8_0);
        if arch == "llama" {
            (tiny.tied, tiny.factors) = (false, vec![("rope_freqs.weight", vec![1.5; 32])]);
        }
        all.push((arch, tiny.writer().write()));
    }
    let mut large = Tiny::new("llama");
    (large.n_layer, large.n_ff) = (1, 6144);
    all.push(("llama, 19 MB", large.writer().write()));
    all
}

#[test]
fn what_was_signed_loads_and_says_the_same() {
    let folder = Folder::new("loads");
    for (name, file) in models() {
        let (path, text) = signed(&folder, &file);
        let expected = logits(
            Model::load(Input::Path(&path), &ModelParams::default(), &mut |_, _| true).unwrap(),
        );
        for mode in MODES {
            let model = load(&path, mode).unwrap_or_else(|e| panic!("{name}, {mode:?}: {e}"));
            if mode == LoadMode::Copy {
                assert!(logits(model) == expected, "{name}");
            }
        }
        let keys = [[9; 32], public_key(&SECRET)];
        let trust = Trust { keys: &keys, manifest: Some(text.as_bytes()), min_version: 5 };
        assert!(
            logits(load_with(Input::Memory(&file), LoadMode::Copy, &trust).unwrap()) == expected
        );
        // A packed file is another file, and has a manifest of its own.
        let packed = folder.0.join("packed.gguf");
        Model::pack(&path, &packed, &mut |_, _| true).unwrap();
        let text = sign_model(&packed, 5, &SECRET).unwrap();
        folder.file("packed.gguf.manifest", text.as_bytes());
        for mode in MODES {
            assert!(logits(load(&packed, mode).unwrap()) == expected, "{name}, packed, {mode:?}");
        }
    }
}

#[test]
fn a_bit_in_any_part_is_found_and_the_part_is_named() {
    let folder = Folder::new("bits");
    for (arch, mut file) in models() {
        let (path, text) = signed(&folder, &file);
        let manifest = Manifest::parse(text.as_bytes()).unwrap();
        let mut begin = 0;
        for part in &manifest.parts {
            let last = begin + part.bytes as usize - 1;
            // Low bits of mantissas and scales too: most of these are finite and would load.
            for (at, bit) in [(begin, 0), (last, 1)] {
                file[at] ^= 1 << bit;
                fs::write(&path, &file).unwrap();
                for mode in MODES {
                    let Err(Error::BadDigest(sentence)) = load(&path, mode) else {
                        panic!(
                            "{arch}, {mode:?}: {} with byte {at} changed is not found",
                            part.name
                        )
                    };
                    let begins = sentence.as_str().starts_with(&format!("{}: ", part.name));
                    assert!(begins, "{arch}, {}: {}", part.name, sentence.as_str());
                }
                file[at] ^= 1 << bit;
            }
            begin = last + 1;
        }
        assert_eq!(begin, file.len(), "{arch}: nothing is outside the parts");
        let end = file.len();
        file.push(0);
        assert!(matches!(error(&file, text.as_bytes()), Error::BadDigest(_)), "a byte more");
        file.truncate(end - 1);
        assert!(matches!(error(&file, text.as_bytes()), Error::BadDigest(_)), "a byte less");
    }
}

#[test]
fn two_tensors_that_change_places_are_found() {
    let folder = Folder::new("places");
    let mut file = Tiny::new("llama").writer().write();
    let (_, text) = signed(&folder, &file);
    let manifest = Manifest::parse(text.as_bytes()).unwrap();
    let mut at = 0;
    let mut places = manifest.parts.iter().map(|part| {
        at += part.bytes as usize;
        (part.name, at - part.bytes as usize, part.bytes as usize)
    });
    let (_, a, n) = places.find(|p| p.0 == "blk.0.attn_q.weight").unwrap();
    let (_, b, m) = places.find(|p| p.0 == "blk.1.attn_q.weight").unwrap();
    assert_eq!(n, m);
    let first = file[a..a + n].to_vec();
    file.copy_within(b..b + n, a);
    file[b..b + n].copy_from_slice(&first);
    assert!(matches!(error(&file, text.as_bytes()), Error::BadDigest(_)));
}

#[test]
fn who_signed_and_which_version_have_their_codes() {
    let folder = Folder::new("who");
    let file = Tiny::new("llama").writer().write();
    let (path, text) = signed(&folder, &file);
    let mine = [public_key(&SECRET)];
    let with = |keys: &[[u8; 32]], text: &str, min_version| {
        let trust = Trust { keys, manifest: Some(text.as_bytes()), min_version };
        load_with(Input::Memory(&file), LoadMode::Copy, &trust).map(|_| ())
    };
    assert!(with(&mine, &text, 5).is_ok());
    assert!(matches!(with(&mine, &text, 6), Err(Error::Rollback(_))));
    assert!(matches!(with(&[public_key(&[8; 32])], &text, 0), Err(Error::BadSignature(_))));
    let (unsigned, signature) = text.split_at(text.find("signature").unwrap());
    assert!(matches!(with(&mine, unsigned, 0), Err(Error::NotSigned(_))));
    // Another version, by somebody without the key.
    let newer = text.replacen("version 5", "version 9", 1);
    assert!(matches!(with(&mine, &newer, 9), Err(Error::BadSignature(_))));
    // Somebody else's signature under my name, and beside mine.
    let other = sign_model(&path, 5, &[8; 32]).unwrap();
    let other = other[other.find("signature").unwrap()..].to_string();
    let forged = format!("{}{}", &signature[..75], &other[75..]);
    assert!(matches!(with(&mine, &format!("{unsigned}{forged}"), 0), Err(Error::BadSignature(_))));
    assert!(with(&mine, &format!("{text}{other}"), 5).is_ok(), "one of two signers is trusted");
    // No manifest: nowhere to look, or nothing there.
    let trust = Trust { keys: &mine, ..Trust::default() };
    let memory = load_with(Input::Memory(&file), LoadMode::Copy, &trust);
    assert!(matches!(memory, Err(Error::NotSigned(_))));
    fs::remove_file(folder.0.join("model.gguf.manifest")).unwrap();
    assert!(matches!(load(&path, LoadMode::Copy), Err(Error::NotSigned(_))));
    // A way of loading that reads what it likes when it likes.
    folder.file("model.gguf.manifest", text.as_bytes());
    assert!(matches!(load(&path, LoadMode::MapFast), Err(Error::Unsupported(_))));
    // And of another file.
    let mut tiny = Tiny::new("llama");
    tiny.seed = 2;
    assert!(matches!(error(&tiny.writer().write(), text.as_bytes()), Error::BadDigest(_)));
}

#[test]
fn every_cut_and_every_changed_byte_of_a_manifest_is_refused() {
    let folder = Folder::new("manifest");
    let mut tiny = Tiny::new("llama");
    tiny.n_layer = 1;
    let file = tiny.writer().write();
    let (_, text) = signed(&folder, &file);
    for n in 0..text.len() {
        let error = error(&file, &text.as_bytes()[..n]);
        let named = matches!(error, Error::BadManifest(_) | Error::NotSigned(_));
        assert!(named, "cut to {n} bytes: {error}");
    }
    let mut bytes = text.clone().into_bytes();
    for at in 0..bytes.len() {
        // A digit becomes another, and a letter one of the other case.
        for bit in [0, 5] {
            bytes[at] ^= 1 << bit;
            let error = error(&file, &bytes);
            let named = matches!(
                error,
                Error::BadManifest(_) | Error::BadSignature(_) | Error::NotSigned(_)
            );
            assert!(named, "bit {bit} of byte {at}: {error}");
            bytes[at] ^= 1 << bit;
        }
    }
}

#[test]
fn a_malformed_manifest_says_in_which_line() {
    let digest = "0".repeat(64);
    let head = "tern-manifest 1\nversion 1\n";
    let part = |bytes: &str, name: &str| format!("part {bytes} {digest} {name}\n");
    let key = format!("signature {digest} {digest}{digest}\n");
    let cases = [
        (String::new(), "line 1"),
        ("tern-manifest 2\n".into(), "line 1"),
        ("tern-manifest 1".into(), "line 1: cut short"),
        ("tern-manifest 1\r\nversion 1\n".into(), "line 1"),
        ("tern-manifest 1\nversion -1\n".into(), "line 2"),
        ("tern-manifest 1\nversion 18446744073709551616\n".into(), "line 2"),
        ("tern-manifest 1\nversion 01\n".into(), "line 2"),
        (format!("{head}bytes\n"), "line 3"),
        (format!("{head}bytes 5\n"), "0 parts"),
        (format!("{head}bytes 5\n{}", part("6", "header")), "6 bytes"),
        (format!("{head}bytes 5\n{}", part("+5", "header")), "line 4"),
        (format!("{head}bytes 5\n{}", part("5", "")), "line 4"),
        (format!("{head}bytes 5\n{}", part("5", "a\u{1b}[2J")), "line 4"),
        (format!("{head}bytes 5\n{}", part("5", &"n".repeat(128))), "line 4"),
        (format!("{head}bytes 5\npart 5 {} header\n", &digest[1..]), "line 4"),
        (format!("{head}bytes 5\npart 5 {} header\n", digest.replace('0', "F")), "line 4"),
        (format!("{head}bytes 5\npart  5 {digest} header\n"), "line 4"),
        (format!("{head}bytes 5\n{}more\n", part("5", "header")), "line 5"),
        (format!("{head}bytes 5\n{}\n", part("5", "header")), "line 5"),
        (format!("{head}bytes 5\n{}{key}{}", part("5", "header"), part("0", "x")), "line 6"),
        (format!("{head}bytes 5\n{}signature {digest}\n", part("5", "header")), "line 5"),
        (format!("{head}bytes 5\n{}{}", part("5", "header"), key.repeat(9)), "line 13"),
        (format!("{head}bytes 4\n{}{}", part("18446744073709551615", "a"), part("5", "b")), "2^64"),
        (format!("{head}bytes 70000\n{}", part("1", "x").repeat(70_000)), "70000 parts"),
    ];
    for (text, said) in cases {
        match Manifest::parse(text.as_bytes()) {
            Err(Error::BadManifest(sentence)) => {
                let shown = &text[..text.len().min(200)];
                assert!(sentence.as_str().contains(said), "{shown:?}: {}", sentence.as_str());
            }
            other => panic!("{:?}: {other:?}", &text[..text.len().min(200)]),
        }
    }
    assert!(matches!(
        Manifest::parse(b"tern-manifest 1\nversion \xff\n"),
        Err(Error::BadManifest(_))
    ));
    let large = vec![b'\n'; (16 << 20) + 1];
    assert!(matches!(Manifest::parse(&large), Err(Error::BadManifest(_))));
}

#[test]
fn every_allocation_that_fails_is_an_error_and_the_next_load_is_whole() {
    let folder = Folder::new("memory");
    let mut tiny = Tiny::new("llama");
    tiny.n_layer = 1;
    let (path, _) = signed(&folder, &tiny.writer().write());
    let keys = [public_key(&SECRET)];
    let trust = Trust { keys: &keys, ..Trust::default() };
    let mut n = 0;
    loop {
        let outcome = with_allocations(n, || {
            load_with(Input::Path(&path), LoadMode::Copy, &trust).map(|_| ())
        });
        match outcome {
            Ok(()) => break,
            Err(error) => assert!(matches!(error, Error::OutOfMemory(_)), "{n}: {error}"),
        }
        n += 1;
    }
    assert!(n > 30, "only {n} allocations: does this test still see them?");
    load(&path, LoadMode::Copy).unwrap();
}

#[test]
fn a_program_in_c_says_whom_it_trusts() {
    use std::ffi::CString;
    use std::os::unix::ffi::OsStrExt;
    use tern::ffi::{tern_model_free, tern_model_load, tern_model_params, tern_trust_params};

    let folder = Folder::new("c");
    let (path, text) = signed(&folder, &Tiny::new("llama").writer().write());
    let path = CString::new(path.as_os_str().as_bytes()).unwrap();
    let keys = [[1; 32], public_key(&SECRET)];
    let load = |n_keys: u32, manifest: Option<&str>, min_version: u64| {
        let trust = tern_trust_params {
            struct_size: size_of::<tern_trust_params>() as u32,
            n_keys,
            keys: keys.as_ptr().cast(),
            manifest: manifest.map_or(std::ptr::null(), |text| text.as_ptr().cast()),
            n_manifest: manifest.map_or(0, |text| text.len() as u64),
            min_version,
        };
        let params = tern_model_params {
            struct_size: size_of::<tern_model_params>() as u32,
            device: 0,
            load_mode: 0,
            screened_head: 0,
            progress: None,
            user_data: std::ptr::null_mut(),
            lock_memory: 0,
            huge_pages: 0,
            trust: &trust,
        };
        let mut model = std::ptr::null_mut();
        // SAFETY: a string that ends in NUL, and structs that say their sizes.
        let status = unsafe { tern_model_load(path.as_ptr(), &params, &mut model) } as i32;
        tern_model_free(model);
        status
    };
    assert_eq!(load(2, None, 5), 0);
    assert_eq!(load(2, Some(&text), 0), 0);
    assert_eq!(load(0, None, 0), -1, "no keys");
    assert_eq!(load(65, None, 0), -1, "too many");
    assert_eq!(load(1, None, 0), -35, "TERN_ERROR_BAD_SIGNATURE");
    assert_eq!(load(2, Some(&text[..40]), 0), -34, "TERN_ERROR_BAD_MANIFEST");
    assert_eq!(load(2, Some(""), 0), -34, "TERN_ERROR_BAD_MANIFEST");
    assert_eq!(load(2, None, 6), -37, "TERN_ERROR_ROLLBACK");
}

#[test]
#[ignore = "measures: what checking a signature adds to a load"]
fn a_load_with_and_without_a_signature() {
    let Some(model) = support::cached("signed", "models/SmolLM2-135M-Instruct.Q4_1.gguf") else {
        return;
    };
    let folder = Folder::new("speed");
    let path = folder.0.join("model.gguf");
    fs::copy(model, &path).unwrap();
    let text = sign_model(&path, 5, &SECRET).unwrap();
    folder.file("model.gguf.manifest", text.as_bytes());
    for mode in MODES {
        let params = ModelParams { load_mode: Some(mode), ..ModelParams::default() };
        let mut best = [f64::MAX; 2];
        for _ in 0..20 {
            let begin = std::time::Instant::now();
            Model::load(Input::Path(&path), &params, &mut |_, _| true).unwrap();
            best[0] = best[0].min(begin.elapsed().as_secs_f64());
            let begin = std::time::Instant::now();
            load(&path, mode).unwrap();
            best[1] = best[1].min(begin.elapsed().as_secs_f64());
        }
        let [without, with] = best.map(|s| s * 1000.0);
        println!("{mode:?}: {without:.1} ms without, {with:.1} ms with a signature");
    }
}

#[test]
fn other_code_finds_the_same_manifest_right() {
    let folder = Folder::new("python");
    let (path, _) = signed(&folder, &Tiny::new("llama").writer().write());
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/supply/manifest.py");
    let key: String = public_key(&SECRET).iter().map(|b| format!("{b:02x}")).collect();
    let tools = support::cache_dir().join("tools/python");
    let out = Command::new("python3")
        .env("PYTHONPATH", tools)
        .arg(script)
        .args([&path, &folder.0.join("model.gguf.manifest")])
        .arg(key)
        .output();
    let Ok(out) = out else { return support::skipped("signed", "python3 is missing") };
    let said = String::from_utf8_lossy(&out.stdout).into_owned();
    if out.status.code() == Some(77) {
        return support::skipped("signed", said.trim());
    }
    assert!(out.status.success(), "{said}{}", String::from_utf8_lossy(&out.stderr));
    assert!(said.contains("signed"), "{said}");
}
