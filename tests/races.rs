//! Data races, as ThreadSanitizer sees them: the library, built with it, does whatever its C API can on 2,
//! 4 and 8 threads with 1, 4 and 16 sessions ([races/races.c](races/races.c)), and two mistakes of the
//! caller show that a race would be found.
//!
//! The standard library of a stable toolchain is not instrumented: what its locks do in their slow paths
//! ThreadSanitizer does not see, and would take for a race what they keep apart. So this build has locks
//! that do not get there (`src/base/sync.rs`, `--cfg tern_tsan`); nothing is suppressed. Stores of
//! AVX-512 under a mask are no stores to it, either: kernels are those of lesser instruction sets.
//!
//! A build of its own, so not among the tests that every `cargo test` runs: `make test STEPS=races`.

mod support;

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

use support::native::{NATIVE_LIBS, WARNINGS, must, root, tmp};
use support::tiny::Tiny;
use support::{emulated, skipped};

const TARGET: &str = "x86_64-unknown-linux-gnu";

/// The runtime of ThreadSanitizer that comes with rustc; the C compilers' own may be older.
fn runtime() -> Option<PathBuf> {
    let rustc = env::var("RUSTC").unwrap_or("rustc".into());
    let printed = must(Command::new(rustc).args(["--print", "sysroot"]), "rustc");
    let sysroot = String::from_utf8(printed.stdout).expect("UTF-8");
    let folder = Path::new(sysroot.trim()).join(format!("lib/rustlib/{TARGET}/lib"));
    let mut files = fs::read_dir(folder).ok()?.map_while(|file| Some(file.ok()?.path()));
    files.find(|file| file.to_string_lossy().ends_with("_rt.tsan.a"))
}

/// The program, linked with an instrumented library; `None`, and said, where there is none.
fn program(test: &str) -> Option<&'static Path> {
    static PROGRAM: OnceLock<Option<PathBuf>> = OnceLock::new();
    let program = PROGRAM.get_or_init(|| {
        let runtime = runtime()?;
        // A release's tests have a folder of their own, and the same instrumented library.
        let target = tmp().parent().expect("cargo's folder");
        let mut cargo = Command::new(env!("CARGO"));
        cargo.current_dir(root()).args(["rustc", "--locked", "--lib", "--crate-type", "staticlib"]);
        cargo.args(["--no-default-features", "--target", TARGET, "--target-dir"]).arg(target);
        cargo.env("RUSTC_BOOTSTRAP", "1").env("CARGO_INCREMENTAL", "0");
        cargo.env("CARGO_PROFILE_DEV_DEBUG", "line-tables-only");
        // Generic code of the standard library is compiled anew, and instrumented.
        cargo.env(
            "RUSTFLAGS",
            "-Zsanitizer=thread -Zshare-generics=no -Cunsafe-allow-abi-mismatch=sanitizer \
             --cfg tern_tsan",
        );
        cargo.env_remove("CARGO_ENCODED_RUSTFLAGS");
        must(&mut cargo, "building the library with ThreadSanitizer");
        let (object, program) = (tmp().join("races.o"), tmp().join("races"));
        let mut cc = Command::new("gcc");
        cc.args(WARNINGS).args(["-fsanitize=thread", "-g", "-O1", "-std=c11", "-D_GNU_SOURCE"]);
        cc.arg("-I").arg(root().join("include")).arg("-I").arg(root().join("tests/c"));
        cc.arg("-c").arg(root().join("tests/races/races.c")).arg("-o").arg(&object);
        must(&mut cc, "races.c");
        let mut ld = Command::new("gcc");
        ld.arg("-o").arg(&program).arg(&object);
        ld.arg(target.join(TARGET).join("debug/libtern.a"));
        ld.arg("-Wl,--whole-archive").arg(runtime).args(["-Wl,--no-whole-archive", "-rdynamic"]);
        ld.args(NATIVE_LIBS).arg("-lstdc++");
        must(&mut ld, "linking races");
        Some(program)
    });
    if program.is_none() {
        skipped(test, "rustc has no runtime of ThreadSanitizer for this machine");
    }
    program.as_deref()
}

fn model() -> PathBuf {
    let path = tmp().join("races.gguf");
    // Every instruction takes ten times as long: the least of everything.
    let tiny = Tiny { n_embd: 32, n_layer: 2, n_ff: 32, head_dim: 16, ..Tiny::new("llama") };
    fs::write(&path, tiny.gguf()).expect("writing the model");
    path
}

fn run(program: &Path, isa: &str, words: &[&str]) -> Output {
    // With addresses at random the kernel may put something where ThreadSanitizer wants its shadow.
    let mut command = Command::new("setarch");
    command.arg("-R").arg(program).arg(model()).args(words).env("TERN_CPU", isa);
    command.env("TSAN_OPTIONS", "halt_on_error=1:exitcode=66:second_deadlock_stack=1");
    command.output().expect("setarch, which util-linux has")
}

/// So many operations, half of them with each of two instruction sets.
fn race(test: &str, n: u64) {
    if emulated() {
        return skipped(test, "ThreadSanitizer: not run under an emulator");
    }
    let Some(program) = program(test) else { return };
    let seed = env::var("TERN_SEED").unwrap_or("1".into());
    for isa in ["scalar", "avx2"] {
        let output = run(program, isa, &[&(n / 2).to_string(), &seed]);
        let said = String::from_utf8_lossy(&output.stdout);
        let reported = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{isa}: {}\n{said}{reported}", output.status);
        println!("{isa}: {said}");
    }
}

#[test]
#[ignore = "a build of its own: the step races"]
fn quick_nothing_races_in_what_threads_do_at_random() {
    race("races", 4000);
}

#[test]
#[ignore = "a build of its own: the step races"]
fn quick_races_on_purpose_are_found() {
    if emulated() {
        return skipped("races", "ThreadSanitizer: not run under an emulator");
    }
    let Some(program) = program("races") else { return };
    for kind in ["lent", "counted"] {
        let output = run(program, "scalar", &[kind]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(66), "{kind}: not found\n{said}");
        assert!(said.contains("WARNING: ThreadSanitizer: data race"), "{kind}: {said}");
    }
}

#[test]
#[ignore = "hours: the long run"]
fn a_million_operations_race_for_nothing() {
    race("races", 1_000_000);
}
