//! The C library as test programs get it, and what they are compiled and linked with. See tests/c.rs
//! for the variables that choose others.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

use super::skipped;

/// What rustc's `--print native-static-libs` asks for, on Linux with glibc.
pub const NATIVE_LIBS: &[&str] = &["-lgcc_s", "-lutil", "-lrt", "-lpthread", "-lm", "-ldl", "-lc"];

pub const WARNINGS: &[&str] = &["-Wall", "-Wextra", "-pedantic", "-Werror"];

pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

pub fn tmp() -> &'static Path {
    Path::new(env!("CARGO_TARGET_TMPDIR"))
}

/// The library under test.
pub fn library() -> &'static Path {
    static LIBRARY: OnceLock<PathBuf> = OnceLock::new();
    LIBRARY.get_or_init(|| {
        if let Some(given) = env::var_os("TERN_TEST_LIB") {
            return given.into();
        }
        // The example is made of the crate as this test was linked with it, so that there is nothing
        // to compile; all but the optimised tests of a release have made it already.
        let target = tmp().parent().expect("cargo's folder");
        let mut cargo = Command::new(env!("CARGO"));
        cargo.current_dir(root()).args(["build", "--locked", "--profile", "test"]);
        cargo.args(["--example", "tern_c", "--target-dir"]).arg(target);
        must(&mut cargo, "building the library");
        target.join("debug/examples/libtern_c.a")
    })
}

/// The compilers of a language that this machine has.
pub fn compilers(test: &str, cpp: bool) -> Vec<String> {
    let (variable, names) = match cpp {
        true => ("TERN_TEST_CXX", ["g++", "clang++"]),
        false => ("TERN_TEST_CC", ["gcc", "clang"]),
    };
    if let Ok(given) = env::var(variable) {
        return vec![given];
    }
    let mut found = Vec::new();
    for name in names {
        match Command::new(name).arg("--version").output() {
            Ok(output) if output.status.success() => found.push(name.to_string()),
            _ => skipped(test, &format!("{name} is not installed")),
        }
    }
    assert!(!found.is_empty(), "no compiler at all: install gcc or clang");
    found
}

pub fn must(command: &mut Command, what: &str) -> Output {
    let output = command.output().unwrap_or_else(|e| panic!("{what}: {command:?}: {e}"));
    assert!(
        output.status.success(),
        "{what}: {command:?}: {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    output
}

/// Whether the library can hold and break handles for tests: `test-hooks`.
pub fn has_hooks() -> bool {
    let bytes = fs::read(library()).expect("the library");
    bytes.windows(15).any(|window| window == b"tern_test_panic")
}

/// What runs a program under valgrind; if there is none, says so loudly for `test`.
pub fn valgrind(test: &str) -> Option<&'static [&'static str]> {
    if env::var_os("TERN_TEST_RUNNER").is_some() {
        skipped(test, "not run under an emulator");
        return None;
    }
    if !Command::new("valgrind").arg("--version").output().is_ok_and(|o| o.status.success()) {
        skipped(test, "it is not installed");
        return None;
    }
    Some(&[
        "valgrind",
        "--quiet",
        "--error-exitcode=99",
        "--leak-check=full",
        "--errors-for-leak-kinds=definite",
        "--fair-sched=yes",
    ])
}
