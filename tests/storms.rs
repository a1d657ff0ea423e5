//! Storms: what a host may do to the library a thousand times while it works, and that nothing comes of
//! it, by the programs of `tests/storms`. Each is given a tiny made model and how often it is to strike,
//! and prints figures; those of the long run are in TESTING.md.
//!
//! The variables of tests/c.rs choose another library or compiler. `TERN_STORM` is multiplied with how
//! often the short ones strike.

mod support;

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use support::native::{NATIVE_LIBS, WARNINGS, compilers, library, must, root, tmp};
use support::tiny::Tiny;
use support::{command, emulated, skipped};
use tern::base::dtype::DType;

fn model() -> &'static Path {
    static MODEL: OnceLock<PathBuf> = OnceLock::new();
    MODEL.get_or_init(|| {
        let path = tmp().join("storms.gguf");
        let tiny = Tiny { dtype: DType::Q8_0, ..Tiny::new("llama") };
        fs::write(&path, tiny.gguf()).expect("writing the model");
        path
    })
}

fn compile(name: &str, link: &[&str]) -> PathBuf {
    let program = tmp().join(format!("storm_{name}"));
    let mut cc = Command::new(compilers(name, false).remove(0));
    cc.args(WARNINGS).args(["-g", "-O1", "-std=c11", "-D_GNU_SOURCE"]);
    for folder in ["include", "tests/c", "tests/storms"] {
        cc.arg("-I").arg(root().join(folder));
    }
    cc.arg(root().join(format!("tests/storms/{name}.c"))).arg("-o").arg(&program);
    cc.args(link).args(NATIVE_LIBS);
    must(&mut cc, name);
    program
}

/// Builds a program and has it strike so often; what it prints are its figures.
fn storm(name: &str, n: u32) {
    let beside = library().parent().expect("a folder").to_str().expect("UTF-8");
    let rpath = format!("-Wl,-rpath,{beside}"); // for a libtern.so
    let program = compile(name, &[library().to_str().expect("UTF-8"), &rpath]);
    run(&program, name, n, &[]);
}

fn run(program: &Path, name: &str, n: u32, more: &[&str]) {
    let factor = env::var("TERN_STORM").ok().and_then(|f| f.parse().ok()).unwrap_or(1);
    let n = if emulated() { n.div_ceil(50) } else { n * factor };
    let mut storm = command(program.to_str().expect("UTF-8"));
    let output = must(storm.arg(model()).arg(n.to_string()).args(more), name);
    let said = [output.stdout, output.stderr].concat();
    print!("{}", String::from_utf8_lossy(&said));
}

/// A libtern.so as CMakeLists.txt makes it, of the archive: with the flags that it names.
fn shared_object() -> PathBuf {
    let object = tmp().join("libtern_storms.so");
    let cmake = fs::read_to_string(root().join("CMakeLists.txt")).expect("CMakeLists.txt");
    let flags: Vec<String> = cmake
        .split(|c: char| c.is_whitespace() || c == ')')
        .filter_map(|word| word.strip_prefix("LINKER:-z,"))
        .map(|flag| format!("-Wl,-z,{flag}"))
        .collect();
    assert!(flags.len() >= 4, "CMakeLists.txt links with {flags:?}: does this test still see it?");
    let map = fs::read_to_string(root().join("cmake/tern.sym")).expect("the symbol list");
    let mut cc = Command::new(compilers("shared_object", false).remove(0));
    cc.arg("-shared").arg("-o").arg(&object).args(flags);
    cc.args(map.lines().map(|name| format!("-Wl,-u,{name}")));
    cc.arg(library()).args(NATIVE_LIBS);
    must(&mut cc, "libtern.so");
    object
}

fn unload(n: u32) {
    let object = match env::var_os("TERN_TEST_LIB") {
        Some(given) if given.to_string_lossy().ends_with(".so") => PathBuf::from(given),
        Some(_) => return skipped("unloads", "an archive cannot be unloaded"),
        None => shared_object(),
    };
    run(&compile("unloads", &[]), "unloads", n, &[object.to_str().expect("UTF-8")]);
}

#[test]
fn each_function_is_called_in_a_forked_child() {
    let symbols = fs::read_to_string(root().join("cmake/tern.sym")).expect("the symbol list");
    let program = fs::read_to_string(root().join("tests/storms/forks.c")).expect("the program");
    let child = program.split("static void be_a_child").nth(1).expect("what a child does");
    for name in symbols.lines() {
        assert!(child.contains(&format!("{name}(")), "no child of forks.c calls {name}");
    }
}

#[test]
fn sessions_made_by_eight_threads_leave_nothing() {
    storm("sessions", 4000);
}

#[test]
fn an_abort_at_any_microsecond_leaves_the_session_as_it_was() {
    storm("aborts", 300);
}

#[test]
fn a_fork_in_the_middle_of_everything_is_a_status() {
    storm("forks", 60);
}

#[test]
fn unloading_the_library_while_its_threads_run_is_harmless() {
    unload(200);
}

#[test]
fn signals_and_stops_change_no_bit() {
    storm("signals", 20);
}

#[test]
fn losing_all_cores_but_one_changes_no_bit() {
    storm("cores", 300);
}

#[test]
#[ignore = "minutes: the long run"]
fn a_hundred_thousand_sessions() {
    storm("sessions", 100_000);
}

#[test]
#[ignore = "minutes: the long run"]
fn ten_thousand_aborts() {
    storm("aborts", 10_000);
}

#[test]
#[ignore = "minutes: the long run"]
fn a_thousand_forks() {
    storm("forks", 1000);
}

#[test]
#[ignore = "minutes: the long run"]
fn a_thousand_unloadings() {
    unload(1000);
}

#[test]
#[ignore = "minutes: the long run"]
fn a_thousand_lives_among_signals() {
    storm("signals", 1000);
}

#[test]
#[ignore = "minutes: the long run"]
fn ten_thousand_times_on_one_core() {
    storm("cores", 10_000);
}
