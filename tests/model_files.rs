//! What becomes of a model when its file is cut, overwritten, unlinked or replaced: in every way of
//! loading, before, while and after it loads, in the middle of prompts and tokens, and between saving a
//! session and restoring it. Each case is a process of tests/c/model_files.c. What was evaluated has the
//! bits of the model that was loaded, or the call gives its status.
//!
//! The variables of tests/c.rs choose another library, compiler or runner.

mod support;

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use support::native::{NATIVE_LIBS, WARNINGS, compilers, library, must, root, tmp};
use support::tiny::Tiny;
use support::{command, emulated, skipped};
use tern::base::cpu::Isa;
use tern::base::dtype::DType;
use tern::engine::Model;

const MODES: [&str; 3] = ["copy", "guarded", "fast"];
const SOURCES: [&str; 3] = ["path", "fd", "packed"];
const EVENTS: [&str; 4] = ["cut", "overwrite", "unlink", "replace"];
const STAGES: [&str; 6] = ["before", "loading", "loaded", "prefill", "decode", "saved"];

/// One change of one file.
#[derive(Clone, Copy, Debug)]
struct Case {
    mode: &'static str,
    source: &'static str,
    event: &'static str,
    stage: &'static str,
    /// The application has asked for the handler of SIGBUS.
    guard: bool,
}

/// What ended a process that the system ended.
const SIGBUS: &str = "SIGBUS";
const CHANGED: &str = "TERN_ERROR_MODEL_CHANGED";

impl Case {
    /// What may come of it. `lease`: the kernel holds up those who open the file for writing.
    fn may_give(&self, lease: bool) -> &'static [&'static str] {
        let Case { mode, source, event, stage, guard } = *self;
        // The descriptor is of the file that was there before, the path leads to the one after.
        match (stage, event) {
            ("before", "cut") => return &["TERN_ERROR_BAD_FILE"],
            ("before", "overwrite") => return &["other"],
            ("before", "unlink") if source != "fd" => return &["TERN_ERROR_IO"],
            ("before", "replace") if source != "fd" => return &["other"],
            (_, "unlink" | "replace") => return &["same"],
            _ => {}
        }
        match (mode, event) {
            ("copy", _) if stage == "loading" => &[CHANGED],
            ("copy", _) => &["same"],
            ("guarded", "cut") if !guard && !lease && matches!(stage, "prefill" | "decode") => {
                &[CHANGED, SIGBUS] // the window that the header speaks of
            }
            ("guarded", _) => &[CHANGED],
            ("fast", _) if stage == "loading" && guard => &[CHANGED],
            ("fast", "overwrite") if stage == "loading" => &[CHANGED],
            ("fast", "cut") if stage == "loading" => &[CHANGED, SIGBUS],
            ("fast", "cut") if guard => &["TERN_ERROR_IO"],
            ("fast", "cut") => &[SIGBUS],
            // As the header says: what the file holds when it is read.
            _ => &["same", "other", "differs"],
        }
    }
}

fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for mode in MODES {
        for source in SOURCES {
            for event in EVENTS {
                for stage in STAGES {
                    let case = Case { mode, source, event, stage, guard: mode != "copy" };
                    cases.push(case);
                    if mode != "copy" && event == "cut" {
                        cases.push(Case { guard: false, ..case });
                    }
                }
            }
        }
    }
    cases
}

fn build() -> PathBuf {
    let program = tmp().join("model_files_program");
    let mut cc = Command::new(compilers("model_files", false).remove(0));
    cc.args(WARNINGS).args(["-g", "-O1", "-std=c11", "-D_GNU_SOURCE"]);
    cc.arg("-I").arg(root().join("include")).arg("-I").arg(root().join("tests/c"));
    cc.arg(root().join("tests/c/model_files.c")).arg("-o").arg(&program);
    cc.arg(library()).args(NATIVE_LIBS);
    let beside = library().parent().expect("a folder").display();
    cc.arg(format!("-Wl,-rpath,{beside}")); // for a libtern.so
    must(&mut cc, "model_files.c");
    program
}

/// Two models of one shape and size, and their packed forms where there are any.
fn models(folder: &Path) -> bool {
    let _ = fs::remove_dir_all(folder);
    fs::create_dir_all(folder).expect("a folder");
    let mut is_packed = true;
    for (name, seed) in [("a", 1), ("b", 2)] {
        let tiny = Tiny { dtype: DType::Q8_0, seed, ..Tiny::new("llama") };
        let path = folder.join(format!("{name}.gguf"));
        fs::write(&path, tiny.gguf()).expect("writing a model");
        let packed = folder.join(format!("{name}.packed"));
        is_packed &= Model::pack(&path, &packed, &mut |_, _| true).is_ok();
    }
    is_packed && Isa::best() != Isa::Scalar
}

/// Runs a case, and says what was wrong; gives the word that it printed, and whether there was a lease.
fn run(program: &Path, folder: &Path, case: &Case, delay: u32) -> Result<(String, bool), String> {
    let Case { mode, source, event, stage, guard } = case;
    let guard = if *guard { "guard" } else { "none" };
    let output = command(program.to_str().expect("UTF-8"))
        .arg(folder)
        .args([mode, source, event, stage, guard, &delay.to_string()])
        .output()
        .expect("the program runs");
    let said = String::from_utf8_lossy(&output.stdout);
    let lease = said.starts_with("lease");
    let word = match (output.status.code(), output.status.signal()) {
        (Some(0), _) => said.split_whitespace().last().unwrap_or("nothing").to_string(),
        (_, Some(7)) => SIGBUS.to_string(), // its number on all of Linux's machines that tern runs on
        _ => {
            let why = String::from_utf8_lossy(&output.stderr);
            return Err(format!("{case:?}, {delay} us: {}: {said} {why}", output.status));
        }
    };
    match case.may_give(lease).contains(&word.as_str()) {
        true => Ok((word, lease)),
        false => Err(format!(
            "{case:?}, {delay} us, lease {lease}: found {word}, expected one of {:?}",
            case.may_give(lease)
        )),
    }
}

/// Runs every case with each delay, one on each processor, and prints how often each word came.
fn run_all(test: &str, delays: &[u32]) {
    let (program, folder) = (build(), tmp().join(test));
    let is_packed = models(&folder);
    if !is_packed {
        skipped(test, "packed files: there are none for this instruction set");
    }
    let mut cases = cases();
    cases.retain(|case| is_packed || case.source != "packed");
    let n = cases.len() * delays.len();
    let (next, found) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let work = || {
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let Some(case) = (at < n).then(|| &cases[at % cases.len()]) else { break };
            let one = run(&program, &folder, case, delays[at / cases.len()]);
            found.lock().expect("no panic elsewhere").push((*case, one));
        }
    };
    let n_threads = thread::available_parallelism().map_or(1, |n| n.get());
    thread::scope(|scope| (0..n_threads).for_each(|_| drop(scope.spawn(work))));
    let found = found.into_inner().expect("no panic elsewhere");
    let wrong: Vec<&String> = found.iter().filter_map(|(_, one)| one.as_ref().err()).collect();
    assert!(wrong.is_empty(), "{} of {n}:\n{wrong:#?}", wrong.len());
    let with_lease = found.iter().any(|(_, one)| matches!(one, Ok((_, true))));
    if !with_lease {
        skipped(test, "leases: the system gives none on this file system, or not to this user");
    }
    for mode in MODES {
        let mut words: Vec<&str> = found
            .iter()
            .filter(|(case, _)| case.mode == mode)
            .filter_map(|(_, one)| one.as_ref().ok().map(|(word, _)| word.as_str()))
            .collect();
        words.sort_unstable();
        let counts: Vec<String> = words
            .chunk_by(|a, b| a == b)
            .map(|same| format!("{} {}", same.len(), same[0]))
            .collect();
        println!("{mode}: {}", counts.join(", "));
    }
    let _ = fs::remove_dir_all(&folder);
}

#[test]
fn a_model_keeps_its_bits_or_says_that_its_file_changed() {
    if emulated() {
        let test = "a_model_keeps_its_bits_or_says_that_its_file_changed";
        return skipped(test, "hundreds of processes: not run under an emulator");
    }
    run_all("model_files", &[1500]);
}

#[test]
#[ignore = "the same at 20 other moments: minutes"]
fn it_does_so_at_any_moment() {
    run_all(
        "model_files_moments",
        &[0; 20].map({
            let mut delay = 0;
            move |_| {
                delay += 613;
                delay
            }
        }),
    );
}
