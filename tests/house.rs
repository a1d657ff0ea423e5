//! The rules of the house: which module may know which, how long a file may be, where `unsafe`
//! may live, and that no exported function runs outside the panic guard.
#![allow(clippy::unwrap_used, reason = "a broken walk through the sources is a failed test")]

use std::fs;
use std::path::{Path, PathBuf};

/// Each module, and what it may import. A module may always import itself.
/// The order is the height: nothing imports what stands below it in this list.
const MAY_IMPORT: &[(&str, &[&str])] = &[
    ("base", &[]),
    ("quant", &["base"]),
    ("gguf", &["base", "quant"]),
    ("manifest", &["base"]),
    ("tokenizer", &["base"]),
    ("sampler", &["base"]),
    ("chat", &["base"]),
    ("kernel", &["base", "quant"]),
    ("backend", &["base", "quant", "kernel"]),
    ("kv", &["base", "backend"]),
    ("model", &["base", "gguf", "backend", "kv"]),
    (
        "engine",
        &["base", "gguf", "manifest", "tokenizer", "sampler", "chat", "backend", "kv", "model"],
    ),
    ("ffi", &["base", "tokenizer", "sampler", "chat", "engine"]),
];

/// Where `unsafe` may live. Everything else is safe code over these.
const MAY_BE_UNSAFE: &[&str] = &[
    "base/file/",
    "base/fork.rs",
    "base/aligned.rs",
    "base/amx.rs",
    "base/pool/",
    "base/shared.rs",
    "base/clock.rs",
    "base/sync.rs",
    "base/thread.rs",
    "base/crc32c.rs",
    "kernel/",
    "ffi/",
    "bin/tern/interrupt.rs",
];

/// Lines of a file, tests at its bottom not counted; generated tables are exempt.
const MAX_LINES: usize = 500;
const TABLES: &[&str] = &["tokenizer/unicode.rs"];

#[test]
fn imports_go_down() {
    let allowed = |m: &str| MAY_IMPORT.iter().find(|(name, _)| *name == m).map(|(_, a)| *a);
    for (i, (name, imports)) in MAY_IMPORT.iter().enumerate() {
        for import in *imports {
            let j = MAY_IMPORT.iter().position(|(n, _)| n == import).expect("known module");
            assert!(j < i, "the table itself has {name} import {import}, which stands above it");
        }
    }
    each_file(|file, name, text| {
        let module = name.split(['/', '.']).next().unwrap();
        let Some(allowed) = allowed(module) else { return };
        for (n, line) in code(text) {
            for (at, _) in line.match_indices("crate::") {
                let target: String = line[at + 7..]
                    .chars()
                    .take_while(|c| c.is_alphanumeric() || *c == '_')
                    .collect();
                let ok = target == module
                    || target == "Error"
                    || target == "Result"
                    || allowed.contains(&target.as_str());
                assert!(ok, "{}:{n}: {module} must not import {target}", file.display());
            }
        }
    });
}

#[test]
fn files_fit_in_one_sitting() {
    each_file(|file, name, text| {
        if TABLES.contains(&name) {
            return;
        }
        let lines = text.split("#[cfg(test)]\nmod tests").next().unwrap().lines().count();
        assert!(lines <= MAX_LINES, "{}: {lines} lines; {MAX_LINES} at most", file.display());
    });
}

#[test]
fn unsafe_stays_where_it_may_live() {
    each_file(|file, name, text| {
        if MAY_BE_UNSAFE.iter().any(|p| name.starts_with(p)) {
            return;
        }
        for (n, line) in code(text) {
            assert!(
                !line.split(|c: char| !c.is_alphanumeric() && c != '_').any(|w| w == "unsafe"),
                "{}:{n}: unsafe",
                file.display()
            );
        }
    });
}

#[test]
fn exports_are_guarded() {
    each_file(|file, _, text| {
        for export in text.split("#[unsafe(no_mangle)]").skip(1) {
            let body = export.split_once('{').unwrap().1;
            let signature = export.split_once('{').unwrap().0;
            let fallible = signature.contains("-> tern_status");
            assert!(
                !fallible || body.trim_start().starts_with("guard(||"),
                "{}: unguarded:{signature}",
                file.display()
            );
        }
    });
}

/// Lines that are not comments, numbered.
fn code(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines().enumerate().map(|(i, l)| (i + 1, l.split("//").next().unwrap()))
}

fn each_file(mut f: impl FnMut(&Path, &str, &str)) {
    fn walk(dir: &Path, f: &mut impl FnMut(PathBuf)) {
        for entry in fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()) {
            if entry.is_dir() {
                walk(&entry, f)
            } else if entry.extension().is_some_and(|e| e == "rs") {
                f(entry)
            }
        }
    }
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    walk(&src, &mut |p| {
        f(&p, p.strip_prefix(&src).unwrap().to_str().unwrap(), &fs::read_to_string(&p).unwrap())
    });
}
