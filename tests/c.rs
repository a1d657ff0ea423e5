//! The C API as C and C++ programs meet it: the header under every standard and both compilers,
//! and each program of tests/c, plain, under ASan and UBSan, and under valgrind.
//!
//! A program is given the path of a tiny made model and fails by its exit status. What a machine
//! lacks is skipped, and said. To test another build than the one made here:
//!
//! - `TERN_TEST_LIB`: a `libtern.a` or `libtern.so`; without the feature `test-hooks`, panic.c is
//!   skipped;
//! - `TERN_TEST_CC`, `TERN_TEST_CXX`: the compilers, such as a cross compiler; no others are tried;
//! - `TERN_TEST_RUNNER`: what to run programs with, such as `qemu-aarch64 -cpu max`.

mod support;

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock};
use std::thread;

use support::native::{
    NATIVE_LIBS, WARNINGS, compilers, has_hooks, library, must, root, tmp, valgrind,
};
use support::tiny::Tiny;
use support::{command, emulated, skipped};
use tern::base::cpu::Isa;
use tern::base::dtype::DType;

/// The programs: name and sources. The first two take the longest, under valgrind half of all time.
const PROGRAMS: &[(&str, &[&str])] = &[
    ("busy", &["busy.c"]),
    ("storm", &["storm.c"]),
    ("abi", &["abi.c"]),
    ("conventions", &["conventions.c"]),
    ("null_handle", &["null_handle.c"]),
    ("stale_handle", &["stale_handle.c"]),
    ("double_free", &["double_free.c"]),
    ("wrong_handle", &["wrong_handle.c"]),
    ("free_while_busy", &["free_while_busy.c"]),
    ("old_caller", &["old_caller.c"]),
    ("new_caller", &["new_caller.c"]),
    ("panic", &["panic.c"]),
    ("two_units", &["two_units_a.c", "two_units_b.c"]),
    ("snapshot", &["snapshot.c"]),
    ("sharing", &["sharing.c"]),
    ("progress", &["progress.c"]),
    ("callbacks", &["callbacks.c"]),
    ("stream_decoder", &["stream_decoder.c"]),
    ("forked", &["forked.c"]),
    ("sigbus", &["sigbus.c"]),
    ("file_signals", &["file_signals.c"]),
    ("small_stack", &["small_stack.c"]),
    ("cpp_raii", &["cpp_raii.cpp"]),
    ("cpp_exceptions", &["cpp_exceptions.cpp"]),
];

/// A tiny made model.
fn model() -> &'static Path {
    static MODEL: OnceLock<PathBuf> = OnceLock::new();
    MODEL.get_or_init(|| {
        let path = tmp().join("tiny.gguf");
        let tiny = Tiny { dtype: DType::Q8_0, ..Tiny::new("llama") };
        fs::write(&path, tiny.gguf()).expect("writing the model");
        path
    })
}

/// Compiles and links a program, and gives its path.
fn build(name: &str, sources: &[&str], mode: &str, flags: &[&str]) -> PathBuf {
    let cpp = sources.iter().any(|source| source.ends_with(".cpp"));
    let compiler = compilers(mode, cpp).remove(0);
    let program = tmp().join(format!("{mode}_{name}"));
    let mut cc = Command::new(compiler);
    cc.args(WARNINGS).args(flags).args(["-g", "-O1"]);
    cc.arg(if cpp { "-std=c++17" } else { "-std=c11" }).arg("-D_GNU_SOURCE");
    cc.arg("-I").arg(root().join("include")).arg("-I").arg(root().join("tests/c"));
    cc.args(sources.iter().map(|source| root().join("tests/c").join(source)));
    cc.arg("-o").arg(&program).arg(library()).args(NATIVE_LIBS);
    let beside = library().parent().expect("a folder").display();
    cc.arg(format!("-Wl,-rpath,{beside}")); // for a libtern.so
    must(&mut cc, name);
    program
}

/// Builds and runs every program, one on each processor. `runner` comes in front of a program's
/// path.
fn run_all(mode: &str, flags: &[&str], runner: &[&str], leave_out: &[&str]) {
    let failures = Mutex::new(String::new());
    let n_threads = thread::available_parallelism().map_or(1, |n| n.get());
    let next = AtomicUsize::new(0);
    let work = || {
        while let Some((name, sources)) = PROGRAMS.get(next.fetch_add(1, Ordering::Relaxed)) {
            if leave_out.contains(name) {
                continue;
            }
            if *name == "panic" && env::var_os("TERN_TEST_LIB").is_some() && !has_hooks() {
                skipped(mode, "panic.c: the library was built without the feature test-hooks");
                continue;
            }
            let failure = run(name, sources, mode, flags, runner);
            failures.lock().expect("no panic elsewhere").push_str(&failure);
        }
    };
    thread::scope(|scope| (0..n_threads).for_each(|_| drop(scope.spawn(work))));
    let failures = failures.into_inner().expect("no panic elsewhere");
    assert!(failures.is_empty(), "{failures}");
}

/// Builds and runs a program, and says what was wrong with it; nothing if it passes.
fn run(name: &str, sources: &[&str], mode: &str, flags: &[&str], runner: &[&str]) -> String {
    let program = build(name, sources, mode, flags);
    let path = program.to_str().expect("UTF-8");
    let words: Vec<&str> = runner.iter().copied().chain([path]).collect();
    let output = command(words[0])
        .args(&words[1..])
        .arg(model())
        .env("ASAN_OPTIONS", "detect_stack_use_after_return=1:halt_on_error=1")
        .env("UBSAN_OPTIONS", "print_stacktrace=1:halt_on_error=1")
        .output()
        .unwrap_or_else(|e| panic!("{program:?}: {e}"));
    if !output.status.success() {
        return format!(
            "\n{name} ({mode}): {}\n{}{}",
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
    }
    // The library prints nothing: a program that passes has said nothing either. A panic is
    // announced by Rust itself; valgrind has a word at the start and at the end.
    let said = [output.stdout, output.stderr].concat();
    match runner.is_empty() && name != "panic" && !said.is_empty() {
        true => format!("\n{name} ({mode}) printed: {}", String::from_utf8_lossy(&said)),
        false => String::new(),
    }
}

#[test]
fn the_header_compiles_under_every_standard() {
    let c = ["c99", "c11", "c17"];
    let cpp = ["c++11", "c++17", "c++20"];
    for (header, standards, is_cpp) in
        [("tern.h", &c[..], false), ("tern.h", &cpp[..], true), ("tern.hpp", &cpp[1..], true)]
    {
        let unit = tmp().join(format!("only_{header}.{}", if is_cpp { "cpp" } else { "c" }));
        let init = match header {
            "tern.h" => "tern_session_params params = TERN_INIT(tern_session_params);",
            _ => "tern::session_options params;",
        };
        let text = format!(
            "#include \"{header}\"\nint main(void) {{\n    {init}\n    return params.n_ctx != 0;\n}}\n"
        );
        fs::write(&unit, text).expect("writing a unit");
        for compiler in compilers("the_header_compiles_under_every_standard", is_cpp) {
            for standard in standards {
                let mut cc = Command::new(&compiler);
                cc.args(WARNINGS)
                    .arg(format!("-std={standard}"))
                    .args(["-Wshadow", "-Wconversion"]);
                cc.arg(if is_cpp { "-Wold-style-cast" } else { "-Wstrict-prototypes" });
                cc.arg("-I").arg(root().join("include")).arg("-fsyntax-only").arg(&unit);
                must(&mut cc, &format!("{header} as {standard} with {compiler}"));
            }
        }
    }
}

#[test]
fn programs_compile_with_every_compiler() {
    for (name, sources) in PROGRAMS {
        for source in *sources {
            let cpp = source.ends_with(".cpp");
            for compiler in compilers("programs_compile_with_every_compiler", cpp) {
                let mut cc = Command::new(compiler);
                cc.args(WARNINGS).arg(if cpp { "-std=c++17" } else { "-std=c11" });
                cc.arg("-D_GNU_SOURCE").arg("-I").arg(root().join("include"));
                cc.arg("-fsyntax-only").arg(root().join("tests/c").join(source));
                must(&mut cc, name);
            }
        }
    }
}

#[test]
fn the_program_in_the_header_compiles() {
    let header = fs::read_to_string(root().join("include/tern.h")).expect("the header");
    let start = header.find(" * A PROGRAM").expect("the program");
    let end = start + header[start..].find(" * With ").expect("what comes after the program");
    let body: String = header[start..end]
        .lines()
        .skip(1)
        .map(|line| line.strip_prefix(" *").expect("a comment").to_string() + "\n")
        .collect();
    must_compile("program_in_header", &format!("int main(void) {{\n{body}    return 0;\n}}\n"));
}

#[test]
fn the_examples_in_the_header_compile() {
    let header = fs::read_to_string(root().join("include/tern.h")).expect("the header");
    let mut body = String::new();
    for line in header.lines() {
        if let Some(code) = line.strip_prefix("///     ") {
            body += &format!("    {code}\n");
        }
    }
    assert!(body.lines().count() >= 10, "no examples: does this test still see them?");
    // What they take for granted.
    let given = "tern_session *session, uint32_t n_prompt, uint32_t a, uint32_t b, uint32_t c";
    let text =
        format!("int examples({given});\nint examples({given}) {{\n{body}    return 0;\n}}\n");
    must_compile("examples_in_header", &text);
}

/// Compiles what the header shows, after what it says to put in front.
fn must_compile(name: &str, text: &str) {
    let text = format!(
        "#include \"tern.h\"\n#include <stdio.h>\n#include <string.h>\n\
         #define ok(call) do {{ if ((call) != TERN_OK) return 1; }} while (0)\n{text}"
    );
    let unit = tmp().join(format!("{name}.c"));
    fs::write(&unit, text).expect("writing a unit");
    let mut cc = Command::new(compilers(name, false).remove(0));
    cc.args(WARNINGS).arg("-std=c99").arg("-I").arg(root().join("include"));
    must(cc.arg("-fsyntax-only").arg(&unit), name);
}

/// What a callback in C cannot do, one in Rust can: panic.
#[test]
#[allow(unsafe_code, reason = "calls the C API, from Rust")]
fn a_panic_in_a_callback_is_an_error() {
    use std::ffi::{CString, c_void};
    use tern::ffi::*;
    unsafe extern "C-unwind" fn panics(_: *mut c_void, _: u64, _: u64) -> i32 {
        panic!("injected")
    }
    let path = CString::new(model().to_str().expect("UTF-8")).expect("no NUL");
    let params = tern_model_params {
        struct_size: size_of::<tern_model_params>() as u32,
        device: 0,
        load_mode: 0,
        screened_head: 0,
        progress: Some(panics),
        user_data: std::ptr::null_mut(),
        lock_memory: TERN_LOCK_NO,
        huge_pages: TERN_HUGE_PAGES_DEFAULT,
        trust: std::ptr::null(),
    };
    let mut made = std::ptr::null_mut();
    // SAFETY: a path that ends in NUL, a struct of its own size, a place for a handle.
    let status = unsafe { tern_model_load(path.as_ptr(), &params, &mut made) };
    assert_eq!(status, tern_status::TERN_ERROR_INTERNAL);
    assert!(made.is_null());
}

#[test]
fn each_function_that_can_fail_is_seen_to_fail() {
    let symbols = fs::read_to_string(root().join("cmake/tern.sym")).expect("the symbol list");
    let header = fs::read_to_string(root().join("include/tern.h")).expect("the header");
    let program = fs::read_to_string(root().join("tests/c/null_handle.c")).expect("the program");
    for name in symbols.lines() {
        // What takes nothing cannot be given NULL; sigbus.c has the guard's limit.
        let fallible = header.contains(&format!("tern_status {name}("))
            && !header.contains(&format!("tern_status {name}(void)"));
        let seen = program.contains(&format!("HANDLE({name}("))
            || program.contains(&format!("ARGUMENT({name}("));
        assert!(seen || !fallible, "null_handle.c does not call {name}");
    }
}

#[test]
fn programs_run() {
    run_all("plain", &[], &[], &[]);
}

/// Kernels of an element type and an instruction set each have a stack frame of their own.
#[test]
fn a_thread_with_64_kib_of_stack_is_enough_for_every_kernel() {
    let program = build("small_stack", &["small_stack.c"], "stack", &[]);
    // An emulator is started for each processor, whose rung is its best.
    let rungs: Vec<&str> = match emulated() {
        true => vec![Isa::Scalar.name(), ""],
        false => Isa::available().iter().map(|isa| isa.name()).collect(),
    };
    for &dtype in DType::ALL {
        let path = tmp().join(format!("{dtype}.gguf"));
        fs::write(&path, Tiny { dtype, ..Tiny::new("llama") }.gguf()).expect("writing the model");
        for rung in &rungs {
            let mut program = command(program.to_str().expect("UTF-8"));
            must(program.arg(&path).env("TERN_CPU", rung), "small_stack");
        }
    }
}

/// Runs a program that stands between the library and these functions, by a flag of the linker.
fn run_between(test: &str, name: &str, functions: &[&str], models: &[&Path]) {
    if emulated() {
        return skipped(test, "minutes of making sessions: not run under an emulator");
    }
    if env::var_os("TERN_TEST_LIB").is_some() {
        return; // once is enough, and of a shared object nothing can be wrapped
    }
    let wraps: Vec<String> = functions.iter().map(|f| format!("-Wl,--wrap={f}")).collect();
    let wraps: Vec<&str> = wraps.iter().map(String::as_str).collect();
    let program = build(name, &[&format!("{name}.c")], name, &wraps);
    for model in models {
        let mut program = command(program.to_str().expect("UTF-8"));
        must(program.arg(model), name);
    }
}

#[test]
fn no_allocation_that_fails_ends_the_process() {
    let tiny =
        Tiny { n_embd: 64, n_ff: 64, head_dim: 16, dtype: DType::F16, ..Tiny::new("gemma3") };
    let sliding = tmp().join("sliding.gguf");
    fs::write(&sliding, Tiny { n_layer: 7, window: 100, ..tiny }.gguf())
        .expect("writing the model");
    let functions = ["malloc", "calloc", "realloc", "posix_memalign", "free"];
    let test = "no_allocation_that_fails_ends_the_process";
    run_between(test, "starved", &functions, &[model(), &sliding]);
}

#[test]
fn no_system_call_that_fails_ends_the_process() {
    let functions = [
        "open64",
        "statx",
        "fstat",
        "fstat64",
        "read",
        "pread",
        "write",
        "fsync",
        "rename",
        "flock",
        "fcntl",
        "unlink",
        "mmap64",
        "munmap",
        "mprotect",
        "madvise",
        "mlock",
        "pthread_create",
        "pthread_sigmask",
        "sched_getaffinity",
        "getrlimit",
        "close",
        "sigaction",
        "sysconf",
    ];
    run_between("no_system_call_that_fails_ends_the_process", "faults", &functions, &[model()]);
}

/// RealtimeSanitizer's runtime, which comes with rustc.
fn realtime_sanitizer() -> Option<PathBuf> {
    let rustc = env::var("RUSTC").unwrap_or("rustc".into());
    let printed = Command::new(rustc).args(["--print", "target-libdir"]).output().ok()?;
    let folder = PathBuf::from(String::from_utf8(printed.stdout).ok()?.trim());
    let files = fs::read_dir(folder).ok()?.filter_map(|entry| Some(entry.ok()?.path()));
    files.into_iter().find(|path| path.to_string_lossy().ends_with("_rt.rtsan.a"))
}

#[test]
fn what_a_loop_with_a_deadline_calls_waits_for_nothing() {
    let test = "what_a_loop_with_a_deadline_calls_waits_for_nothing";
    if emulated() {
        return skipped(test, "not run under an emulator");
    }
    if env::var_os("TERN_TEST_LIB").is_some() {
        return; // once is enough, and nothing of a shared object is intercepted so
    }
    let Some(runtime) = realtime_sanitizer() else {
        return skipped(test, "rustc has brought no RealtimeSanitizer for this machine");
    };
    let all = format!("-Wl,--whole-archive,{},--no-whole-archive", runtime.display());
    let program = build("realtime", &["realtime.c"], "realtime", &[&all]);
    // Threads of a session wait for each other, by futexes; and for nothing else.
    let but_futexes = tmp().join("realtime_but_futexes");
    fs::write(&but_futexes, "function-name-matches:syscall\n").expect("writing a file");
    let but_futexes = format!("suppressions={}", but_futexes.display());
    for (how, options, found) in [
        ("", "", None),
        ("threads", but_futexes.as_str(), None),
        ("threads", "", Some("syscall")),
        ("malloc", "", Some("malloc")),
        ("fork", "", Some("")), // whatever it does first
    ] {
        let mut run = Command::new(&program);
        let output =
            run.arg(model()).arg(how).env("RTSAN_OPTIONS", options).output().expect("runs");
        let said = String::from_utf8_lossy(&output.stderr);
        let Some(name) = found else {
            assert!(output.status.success(), "{how:?}: {}\n{said}", output.status);
            continue;
        };
        let error = format!("Intercepted call to real-time unsafe function `{name}");
        assert!(!output.status.success() && said.contains(&error), "{how:?}: {said}");
    }
}

#[test]
fn programs_run_under_address_and_undefined_behaviour_sanitizers() {
    if env::var_os("TERN_TEST_RUNNER").is_some() {
        return skipped("sanitizers", "not run under an emulator");
    }
    let flags = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"];
    // Sanitizers want more stack than small_stack has.
    run_all("sanitized", &flags, &[], &["small_stack"]);
}

#[test]
fn programs_run_under_valgrind() {
    let Some(runner) = valgrind("valgrind") else { return };
    // A signal each millisecond is more than valgrind gets done.
    run_all("valgrind", &[], runner, &["file_signals", "sigbus"]);
    // To go on after a fault takes registers as they were at each access.
    let runner = [runner, &["--vex-iropt-register-updates=allregs-at-mem-access"]].concat();
    let failure = run("sigbus", &["sigbus.c"], "valgrind", &[], &runner);
    assert!(failure.is_empty(), "{failure}");
}
