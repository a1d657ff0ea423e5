//! A program that works as a robot does, for as long as one likes ([soak.c](soak/soak.c)): memory,
//! descriptors, threads and mappings stay what they were, and every request gets the answer that it
//! always got. `make soak MINUTES=120` runs it with the library as it is released.
//!
//! - `TERN_SOAK_MINUTES`: how long the long run takes; 14, of which ten are judged, by default;
//! - `TERN_SOAK_LOG`: where its samples go, as lines of JSON;
//! - `TERN_TEST_LIB` and the others of tests/c.rs.

mod support;

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

use support::native::{NATIVE_LIBS, WARNINGS, compilers, library, must, root, tmp};
use support::tiny::Tiny;
use support::{cached, command, emulated, skipped};
use tern::base::dtype::DType;

const SMOLLM2: &str = "models/SmolLM2-135M-Instruct.Q4_1.gguf";

fn program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        let program = tmp().join("soak");
        let mut cc = Command::new(compilers("soak", false).remove(0));
        cc.args(WARNINGS).args(["-std=c11", "-D_GNU_SOURCE", "-g", "-O1"]);
        cc.arg("-I").arg(root().join("include")).arg("-I").arg(root().join("tests/c"));
        cc.arg("-o").arg(&program).arg(root().join("tests/soak/soak.c"));
        must(cc.arg(library()).args(NATIVE_LIBS), "soak.c");
        program
    })
}

fn made(name: &str, tiny: Tiny) -> PathBuf {
    let path = tmp().join(name);
    fs::write(&path, tiny.gguf()).expect("writing the model");
    path
}

fn soak(seconds: u64, log: &Path, larger: Option<PathBuf>, fault: &str) -> Output {
    let tiny =
        made(&format!("soaked{fault}.gguf"), Tiny { dtype: DType::Q8_0, ..Tiny::new("llama") });
    let larger = larger.unwrap_or_else(|| {
        made(&format!("soaked_too{fault}.gguf"), Tiny { n_layer: 5, ..Tiny::new("llama") })
    });
    let mut program = command(program().to_str().expect("UTF-8"));
    program.arg(seconds.to_string()).arg(log).arg(tiny).arg(larger).arg(fault);
    program.output().expect("the program runs")
}

fn said(output: &Output) -> String {
    let (out, err) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    format!("{}\n{out}{err}", output.status)
}

#[test]
fn some_seconds_of_work_leave_nothing_behind_and_change_no_answer() {
    let test = "some_seconds_of_work_leave_nothing_behind_and_change_no_answer";
    if emulated() {
        return skipped(test, "it takes long: not run under an emulator");
    }
    let output = soak(8, &tmp().join("soak.jsonl"), cached(test, SMOLLM2), "");
    let said = said(&output);
    assert!(output.status.success(), "{said}");
    print!("{said}");
}

/// Each is seen, and nothing else is.
#[test]
fn what_a_soak_is_to_find_it_finds() {
    if emulated() {
        return skipped("what_a_soak_is_to_find_it_finds", "not run under an emulator");
    }
    let see = |(fault, bad): (&str, &str)| {
        let output = soak(1, &tmp().join(format!("soak_{fault}.jsonl")), None, fault);
        let said = said(&output);
        assert_eq!(output.status.code(), Some(1), "{fault}: {said}");
        let is_bad = |line: &str| line.starts_with(bad) && line.ends_with("BAD");
        assert!(said.lines().any(is_bad), "{fault}: {said}");
    };
    program(); // compiled once, before they need it all at once
    std::thread::scope(|scope| {
        for fault in [
            ("memory", "bytes held by malloc"),
            ("descriptor", "descriptors"),
            ("mapping", "mappings"),
            ("thread", "threads"),
            ("answer", "answers that changed"),
        ] {
            scope.spawn(move || see(fault));
        }
    });
}

#[test]
#[ignore = "takes as many minutes as one likes"]
fn hours_of_work_leave_nothing_behind_and_change_no_answer() {
    let test = "hours_of_work_leave_nothing_behind_and_change_no_answer";
    let Some(model) = cached(test, SMOLLM2) else { return };
    let minutes = env::var("TERN_SOAK_MINUTES").ok().filter(|minutes| !minutes.is_empty());
    let minutes: u64 = minutes.map_or(14, |minutes| minutes.parse().expect("a number of minutes"));
    let log = env::var_os("TERN_SOAK_LOG").map_or(tmp().join("soak_long.jsonl"), PathBuf::from);
    println!("{minutes} minutes; samples go to {}", log.display());
    let output = soak(60 * minutes, &log, Some(model), "");
    let said = said(&output);
    assert!(output.status.success(), "{said}");
    print!("{said}");
}
