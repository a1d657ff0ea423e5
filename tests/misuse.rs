//! Misuse of the C API, made from the header: every function with every misuse that applies to each of
//! its parameters, from C, C++ and Python, plain, under ASan and UBSan, and under valgrind. Each case
//! has its documented code and a sentence, writes what the header says and nothing else, and leaves all
//! else as it was; nothing ends the process.
//!
//! The cases are changes of a valid call ([`fixtures`]): of handles, pointers and numbers
//! ([`misuses`], [`fields`]), and of what is pointed at ([`contents`], [`files`]). One table of them
//! ([`table`]) is what misuse/run.c and misuse/run.py run. A function, a parameter or a field that is
//! new in the header and unknown here is a failed test.
//!
//! The variables of tests/c.rs choose another library, compiler or runner. Without the feature
//! `test-hooks` cases that need it are left out, and that is said.

#[path = "misuse/contents.rs"]
mod contents;
#[path = "misuse/fields.rs"]
mod fields;
#[path = "misuse/files.rs"]
mod files;
#[path = "misuse/fixtures.rs"]
mod fixtures;
#[path = "misuse/header.rs"]
mod header;
#[path = "misuse/misuses.rs"]
mod misuses;
mod support;
#[path = "misuse/table.rs"]
mod table;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use header::Header;
use misuses::With;
use support::native::{
    NATIVE_LIBS, WARNINGS, compilers, has_hooks, library, must, root, tmp, valgrind,
};
use support::{command, emulated, skipped};
use table::{Case, How};

/// At least as many misuses are tried.
const LEAST_CASES: usize = 1500;

fn read(name: &str) -> String {
    fs::read_to_string(root().join(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
}

fn the_header() -> &'static Header {
    static HEADER: OnceLock<Header> = OnceLock::new();
    HEADER.get_or_init(|| Header::parse(&read("include/tern.h")))
}

fn the_cases(with: With) -> Vec<Case> {
    misuses::all(the_header(), with)
}

/// All that can be tried.
const ALL: With = With { hooks: true, copy: true };

/// A folder of its own for a run, with all that the cases want to find there.
fn folder(name: &str, cases: &[Case]) -> PathBuf {
    let folder = tmp().join("misuse").join(name);
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).expect("a folder");
    files::write_all(&folder);
    let write = |name: &str, bytes: &[u8]| fs::write(folder.join(name), bytes).expect("a file");
    write("cases", table::table(cases).as_bytes());
    write("functions", table::signatures(the_header()).as_bytes());
    write("calls.h", table::calls(the_header(), has_hooks()).as_bytes());
    folder
}

/// The library as a shared object, for Python, and a copy of it, whose handles are strangers.
fn shared_objects() -> &'static (PathBuf, PathBuf) {
    static MADE: OnceLock<(PathBuf, PathBuf)> = OnceLock::new();
    MADE.get_or_init(|| {
        let given = library();
        let (object, copy) =
            (tmp().join("libtern_misuse.so"), tmp().join("libtern_misuse_copy.so"));
        match given.extension().is_some_and(|e| e == "so") {
            true => drop(fs::copy(given, &object).expect("copying the library")),
            false => {
                let mut cc = Command::new(compilers("misuse", false).remove(0));
                cc.args(["-shared", "-Wl,-Bsymbolic", "-Wl,--whole-archive"]).arg(given);
                cc.args(["-Wl,--no-whole-archive", "-Wl,--gc-sections", "-o"]).arg(&object);
                must(cc.args(NATIVE_LIBS), "linking a shared object");
            }
        }
        fs::copy(&object, &copy).expect("copying the library");
        (object, copy)
    })
}

/// What can be tried with the library at hand.
fn with(test: &str) -> With {
    if !has_hooks() {
        skipped(test, "handles in use and broken: built without the feature test-hooks");
    }
    With { hooks: has_hooks(), copy: true }
}

/// Runs a driver and wants to hear that it has run all cases.
fn drive(mut driver: Command, folder: &Path, cases: &[Case]) -> Duration {
    let start = Instant::now();
    driver.current_dir(folder).env("RUST_BACKTRACE", "0"); // three panics are meant
    let output = driver.output().unwrap_or_else(|e| panic!("{driver:?}: {e}"));
    let said = String::from_utf8_lossy(&output.stdout);
    let all = said.lines().any(|line| line == format!("{} cases", cases.len()));
    let at = fs::read_to_string(folder.join("at")).unwrap_or_default();
    assert!(
        output.status.success() && all,
        "{driver:?}: {}, after case {}\n{said}{}",
        output.status,
        at.trim(),
        String::from_utf8_lossy(&output.stderr)
    );
    println!("{} cases in {:.1} s", cases.len(), start.elapsed().as_secs_f32());
    start.elapsed()
}

/// Compiles run.c and runs all cases; `runner` comes in front.
fn run_compiled(
    mode: &str,
    compiler: &str,
    cpp: bool,
    flags: &[&str],
    runner: &[&str],
    cases: &[Case],
) {
    let folder = folder(mode, cases);
    let program = folder.join("run");
    let mut cc = Command::new(compiler);
    cc.args(WARNINGS).args(flags).args(["-g", "-O1", "-D_GNU_SOURCE"]);
    cc.args(if cpp { ["-std=c++17", "-x", "c++"] } else { ["-std=c11", "-x", "c"] });
    cc.arg("-I").arg(root().join("include")).arg("-I").arg(&folder);
    cc.arg(root().join("tests/misuse/run.c")).args(["-x", "none", "-o"]).arg(&program);
    let beside = library().parent().expect("a folder").display();
    cc.arg(library()).args(NATIVE_LIBS).arg(format!("-Wl,-rpath,{beside}"));
    must(&mut cc, "run.c");
    let program = program.to_str().expect("UTF-8");
    let words: Vec<&str> = runner.iter().copied().chain([program]).collect();
    let mut driver = command(words[0]);
    driver.args(&words[1..]).arg("cases").arg(&shared_objects().1);
    driver.env("ASAN_OPTIONS", "detect_stack_use_after_return=1:halt_on_error=1");
    driver.env("UBSAN_OPTIONS", "print_stacktrace=1:halt_on_error=1");
    drive(driver, &folder, cases);
}

/// With every compiler of a language.
fn run_with_each_compiler(mode: &str, cpp: bool) {
    let cases = the_cases(with(mode));
    for compiler in compilers(mode, cpp) {
        let name = Path::new(&compiler).file_name().and_then(|n| n.to_str()).expect("a name");
        run_compiled(&format!("{mode}_{name}"), &compiler, cpp, &[], &[], &cases);
    }
}

#[test]
fn every_misuse_has_its_code_in_c() {
    run_with_each_compiler("c", false);
}

#[test]
fn every_misuse_has_its_code_in_cpp() {
    run_with_each_compiler("cpp", true);
}

#[test]
fn every_misuse_has_its_code_in_python() {
    if !Command::new("python3").arg("--version").output().is_ok_and(|o| o.status.success()) {
        return skipped("python", "python3 is not installed");
    }
    if emulated() {
        return skipped("python", "not run under an emulator");
    }
    let cases = the_cases(with("python"));
    let folder = folder("python", &cases);
    let mut driver = Command::new("python3");
    driver.arg(root().join("tests/misuse/run.py")).arg(&shared_objects().0);
    driver.args(["cases", "functions"]).arg(&shared_objects().1);
    drive(driver, &folder, &cases);
}

#[test]
fn every_misuse_has_its_code_under_address_and_undefined_behaviour_sanitizers() {
    if emulated() {
        return skipped("sanitizers", "not run under an emulator");
    }
    let flags = ["-DIS_WATCHED", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"];
    let compiler = compilers("sanitized", false).remove(0);
    run_compiled("sanitized", &compiler, false, &flags, &[], &the_cases(with("sanitized")));
}

/// Runs every so many-th case under valgrind.
fn run_under_valgrind(mode: &str, every: usize) {
    let Some(runner) = valgrind("valgrind") else { return };
    let cases: Vec<Case> = the_cases(with(mode)).into_iter().step_by(every).collect();
    let compiler = compilers(mode, false).remove(0);
    run_compiled(mode, &compiler, false, &["-DIS_WATCHED"], runner, &cases);
}

#[test]
fn every_misuse_has_its_code_under_valgrind_some_of_them() {
    run_under_valgrind("valgrind", 11); // a prime, so that it meets all kinds
}

#[test]
#[ignore = "the others of the same: 40 s"]
fn every_misuse_has_its_code_under_valgrind() {
    run_under_valgrind("valgrind_all", 1);
}

#[test]
fn every_function_is_misused_and_every_one_that_can_fail_is_seen_to_fail() {
    let (header, cases) = (the_header(), the_cases(ALL));
    let declared: BTreeSet<&str> = header.functions.iter().map(|f| f.name.as_str()).collect();
    let symbols = read("cmake/tern.sym");
    assert_eq!(declared, symbols.lines().collect(), "the functions of header and symbol list");
    for (index, function) in header.functions.iter().enumerate() {
        let own = || cases.iter().filter(move |case| case.function == index);
        let fails = |how: How| own().any(|c| c.how == how && !c.expected.contains(&0));
        // What takes nothing cannot be misused by what it is given (tests/c/sigbus.c).
        let is_given_something = !function.params.is_empty();
        assert!(
            !function.can_fail() || !is_given_something || fails(How::Plain),
            "{} never fails",
            function.name
        );
        for param in function.params.iter().filter(|p| p.name != "user_data") {
            let part = format!(": {} ", param.name);
            assert!(own().any(|c| c.name.contains(&part)), "{}{part}is not misused", function.name);
        }
        let has_handle = function.params.iter().any(|p| p.handle().is_some());
        if function.can_fail() && has_handle {
            assert!(fails(How::Forked), "{} is not tried in a child", function.name);
        }
    }
    // A valid call from elsewhere is no misuse.
    let is_misuse = |case: &&Case| {
        !case.name.ends_with(": valid")
            && !matches!(case.how, How::Thread | How::Progress | How::Packing | How::Log)
    };
    let n = cases.iter().filter(is_misuse).count();
    println!("{n} misuses of {} functions, {} cases", header.functions.len(), cases.len());
    assert!(n >= LEAST_CASES, "only {n} misuses");
}

/// What the conventions on top of the header, and the comments on codes, promise of all functions: not
/// said again of each.
const OF_ALL: &[&str] = &[
    "INVALID_ARGUMENT",
    "INVALID_HANDLE",
    "BUFFER_TOO_SMALL",
    "BUSY",
    "POISONED",
    "FORKED",
    "UNSUPPORTED", // a field that the library does not know
];

#[test]
fn every_code_is_documented_where_it_is_given() {
    let (header, cases) = (the_header(), the_cases(ALL));
    for (index, function) in header.functions.iter().enumerate() {
        let says = header.says(function);
        // How many handles there may be stands with their types.
        let given: BTreeSet<i32> = cases
            .iter()
            // How many handles there may be stands with their types.
            .filter(|case| case.function == index && case.how != How::Full)
            .filter(|case| case.expected.len() == 1 && case.expected[0] < 0)
            .map(|case| case.expected[0])
            .collect();
        for code in given {
            let name = &header.codes[&code];
            let short = name.strip_prefix("TERN_ERROR_").expect("an error");
            let family = short.split('_').next().unwrap_or("");
            let is_said = OF_ALL.contains(&short)
                || says.contains(name)
                || says.contains(&format!("TERN_ERROR_{family}_*"))
                || says.contains(&format!("TERN_ERROR_{family}*"));
            assert!(is_said, "{} gives {name}, of which the header says nothing", function.name);
        }
    }
}

#[test]
fn what_is_new_in_the_header_cannot_be_forgotten() {
    let text = read("include/tern.h");
    let last = text.rfind("#ifdef __cplusplus").expect("the end of the functions");
    let with_function =
        |new: &str| format!("{}TERN_MUST_USE {new}\n\n{}", &text[..last], &text[last..]);
    let with_field = |after: &str, new: &str| text.replacen(after, &format!("{after}\n{new}"), 1);
    let unknown = [
        with_function("tern_status tern_model_tune(const tern_model *model, uint32_t knob);"),
        with_function("tern_status tern_model_tune(const char *title, size_t title_len);"),
        with_function("tern_status tern_session_draw(tern_session *session, tern_brush *brush);"),
        with_field("    float top_p;", "    float top_a;"),
        with_field("    uint32_t n_sink;", "    uint32_t n_drain;"),
    ];
    for changed in unknown {
        assert_ne!(changed, text);
        let cases = std::panic::catch_unwind(|| misuses::all(&Header::parse(&changed), ALL).len());
        assert!(cases.is_err(), "a change of the header was not noticed");
    }
    let cases = |text: &str| misuses::all(&Header::parse(text), ALL).len();
    let known =
        with_function("tern_status tern_model_tune(const tern_model *model, uint32_t flags);");
    assert!(cases(&known) > cases(&text) + 30, "a new function of a known kind is misused at once");
}

/// Codes that no single call with wrong arguments gives, and the test that produces each.
const ELSEWHERE: &[(&str, &str, &str)] = &[
    ("OUT_OF_MEMORY", "tests/session.rs", "Error::OutOfMemory("),
    ("MODEL_CHANGED", "tests/pack.rs", "Error::ModelChanged("),
    ("NOT_FINITE", "tests/sampler.rs", "Error::NotFinite("),
    ("INTERNAL", "tests/c/panic.c", "GIVES(TERN_ERROR_INTERNAL"),
    ("BAD_TEMPLATE", "tests/chat.rs", "Error::BadTemplate("),
    ("NOT_SIGNED", "tests/signed.rs", "Error::NotSigned("),
    ("BAD_MANIFEST", "tests/signed.rs", "Error::BadManifest("),
    ("BAD_SIGNATURE", "tests/signed.rs", "Error::BadSignature("),
    ("BAD_DIGEST", "tests/signed.rs", "Error::BadDigest("),
    ("ROLLBACK", "tests/signed.rs", "Error::Rollback("),
];

#[test]
fn every_code_of_the_header_is_produced_by_a_test() {
    let (header, cases) = (the_header(), the_cases(ALL));
    for (code, name) in header.codes.iter().filter(|(code, _)| **code != 0) {
        if cases.iter().any(|case| case.expected == [*code]) {
            continue;
        }
        let short = name.strip_prefix("TERN_ERROR_").expect("an error");
        if short == "DEVICE" {
            // For devices with drivers, of which no build has one yet.
            assert!(!sources_mention("err!(Device,"), "something gives {name}: test it");
            continue;
        }
        let found = ELSEWHERE.iter().find(|(code, ..)| *code == short);
        let (_, file, mention) = found.unwrap_or_else(|| panic!("no test produces {name}"));
        assert!(read(file).contains(mention), "{file} does not mention {mention}");
    }
    for (code, ..) in ELSEWHERE {
        header.code(code);
    }
}

/// Whether the library's source, its unit tests left out, has a text.
fn sources_mention(text: &str) -> bool {
    fn any(folder: &Path, text: &str) -> bool {
        fs::read_dir(folder).expect("a folder of src").any(|entry| {
            let path = entry.expect("an entry").path();
            match path.is_dir() {
                true => any(&path, text),
                false => {
                    let source = fs::read_to_string(&path).unwrap_or_default();
                    source.split("#[cfg(test)]\nmod tests").next().is_some_and(|s| s.contains(text))
                }
            }
        })
    }
    any(&root().join("src"), text)
}
