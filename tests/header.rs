//! The header, the symbol list and the version script say what the source says.
//!
//! `TERN_WRITE=1 cargo test --test header` writes them anew.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(name: &str) -> String {
    fs::read_to_string(root().join(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
}

/// Compares a committed file with what it should be, or makes it so.
fn expect(name: &str, expected: &str) {
    if std::env::var_os("TERN_WRITE").is_some() {
        fs::write(root().join(name), expected).unwrap_or_else(|e| panic!("{name}: {e}"));
    }
    let found = fs::read_to_string(root().join(name)).unwrap_or_default();
    let differs = found.lines().zip(expected.lines()).position(|(a, b)| a != b);
    assert!(
        found == expected,
        "{name} is not what src/ffi makes it, from line {} on; run \
         `TERN_WRITE=1 cargo test --test header` and look at the difference",
        differs.unwrap_or(found.lines().count().min(expected.lines().count())) + 1
    );
}

/// The files of the boundary, in the order of the header: that of the `mod` lines of ffi/mod.rs.
/// Those with a `cfg` in front are not part of it.
fn sources() -> Vec<PathBuf> {
    let text = read("src/ffi/mod.rs");
    let lines: Vec<&str> = text.lines().collect();
    let mut files = Vec::new();
    for (i, line) in lines.iter().enumerate() {
        let Some(name) = line.strip_prefix("mod ").and_then(|rest| rest.strip_suffix(';')) else {
            continue;
        };
        if i > 0 && lines[i - 1].starts_with("#[cfg") {
            continue;
        }
        files.push(root().join(format!("src/ffi/{name}.rs")));
    }
    assert!(files.len() > 10, "src/ffi/mod.rs lists its files");
    files
}

/// The functions that the library exports, as the source has them, in order.
fn exports() -> Vec<String> {
    let mut names = Vec::new();
    for file in sources() {
        let text = fs::read_to_string(&file).expect("a file of src/ffi");
        for item in text.split("#[unsafe(no_mangle)]").skip(1) {
            let name = item.split("fn ").nth(1).and_then(|rest| rest.split('(').next());
            let name = name.expect("a function");
            names.push(name.to_string());
        }
    }
    names
}

fn generated() -> String {
    let config = cbindgen::Config::from_file(root().join("cbindgen.toml")).expect("cbindgen.toml");
    let mut builder = cbindgen::Builder::new().with_config(config);
    for file in sources() {
        builder = builder.with_src(file);
    }
    let mut header = Vec::new();
    builder.generate().expect("cbindgen reads src/ffi").write(&mut header);
    String::from_utf8(header).expect("UTF-8")
}

#[test]
fn the_header_is_what_the_source_makes_it() {
    expect("include/tern.h", &generated());
}

#[test]
fn the_header_declares_every_export_and_nothing_else() {
    let header = generated();
    let declared: BTreeSet<String> = header
        .lines()
        .filter(|line| !line.trim_start().starts_with(['/', '*', '#']))
        .flat_map(|line| line.split('(').next().map(str::to_string))
        .filter_map(|line| {
            let name = line.rsplit([' ', '*']).next()?.to_string();
            (name.starts_with("tern_") && line.trim() != name).then_some(name)
        })
        .filter(|name| header.contains(&format!("{name}(")))
        .collect();
    let exported: BTreeSet<String> = exports().into_iter().collect();
    assert_eq!(declared, exported);
}

#[test]
fn nothing_for_tests_is_shipped() {
    for name in ["include/tern.h", "cmake/tern.sym", "cmake/tern.map"] {
        assert!(!read(name).contains("tern_test"), "{name}");
    }
    let manifest = read("Cargo.toml");
    let default = manifest.lines().find(|l| l.starts_with("default = ")).expect("default features");
    assert!(!default.contains("test-hooks"));
}

#[test]
fn the_symbol_list_is_what_is_exported() {
    expect("cmake/tern.sym", &(exports().join("\n") + "\n"));
}

#[test]
fn the_version_script_covers_what_is_exported() {
    let mut script = String::from(
        "/* The versioned symbols of libtern.so. Made by tests/header.rs from src/ffi: a symbol that\n \
         * was in a release stays in the node it came with. */\n",
    );
    script += "TERN_0 {\nglobal:\n";
    for name in exports() {
        script += &format!("    {name};\n");
    }
    script += "local:\n    *;\n};\n";
    expect("cmake/tern.map", &script);
}

#[test]
fn the_versions_are_those_of_the_crate() {
    let header = read("include/tern.h");
    let value = |name: &str| -> u64 {
        let line = header.lines().find(|l| l.starts_with(&format!("#define {name} ")));
        line.expect(name).rsplit(' ').next().unwrap().parse().expect("a number")
    };
    let crate_version: Vec<u64> =
        env!("CARGO_PKG_VERSION").split('.').map(|n| n.parse().expect("a number")).collect();
    let found = ["MAJOR", "MINOR", "PATCH"].map(|part| value(&format!("TERN_VERSION_{part}")));
    assert_eq!(found[..], crate_version[..]);
    assert_eq!(value("TERN_ABI_VERSION"), u64::from(tern::ffi::tern_abi_version()));
}

/// A field, a constant or a code without a line in tests/c/abi.c could change unnoticed.
#[test]
fn every_field_and_every_value_is_held_by_a_static_assertion() {
    let (header, asserted) = (read("include/tern.h"), read("tests/c/abi.c"));
    let (mut fields, mut n) = (Vec::new(), 0);
    let mut check = |line: String| {
        assert!(asserted.contains(&line), "tests/c/abi.c has no line that starts {line}");
        n += 1;
    };
    for line in header.lines().map(str::trim).filter(|line| !line.starts_with("//")) {
        if line == "typedef struct {" {
            fields.clear();
        } else if let Some(name) = line.strip_prefix("} tern_").and_then(|l| l.strip_suffix(';')) {
            check(format!("SIZE(tern_{name}, "));
            fields.drain(..).for_each(|field| check(format!("AT(tern_{name}, {field}, ")));
        } else if let Some(define) = line.strip_prefix("#define TERN_") {
            let name = define.split([' ', '(']).next().unwrap_or("");
            let number = define.rsplit(' ').next().is_some_and(|word| word.parse::<u32>().is_ok());
            if number && !name.starts_with("VERSION_") {
                check(format!("VALUE(TERN_{name}, "));
            }
        } else if let Some((name, _)) = line.split_once(" = ").filter(|_| line.ends_with(',')) {
            check(format!("VALUE({name}, "));
        } else if let Some(name) = line.strip_suffix(';').and_then(|l| l.rsplit([' ', '*']).next())
        {
            fields.push(name.to_string());
        }
    }
    assert!(n > 140, "{n} lines found");
}
