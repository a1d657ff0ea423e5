//! Fuzz targets for libFuzzer: all in one program, of which the environment picks one.
//!
//! `TERN_FUZZ=gguf` runs a target; `TERN_FUZZ=gguf-starved` the same while an allocation fails, which
//! the last three bytes of each input choose. With `TERN_FUZZ_SEEDS=FOLDER` it writes the target's
//! seeds there, with `TERN_FUZZ_EDGES=FILE` and `TERN_FUZZ_INPUTS=FOLDER` which edges those inputs
//! take, and with `TERN_FUZZ=list` the names of all; fuzz.py is who asks.
//!
//! A target ends the process where something is wrong: by a panic, which here always ends it, by a
//! sanitizer's report, by taking too much memory or too long.
#![no_main]
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    unreachable_pub,
    reason = "a target that cannot go on has found something, or is wrong itself"
)]

mod edges;
mod edits;
mod memory;
#[path = "../malformed/models.rs"]
#[allow(dead_code, reason = "the good files of another test, of which some are used here")]
mod models;
mod support;
mod targets;

use std::sync::OnceLock;

use targets::{TARGETS, Target};

#[global_allocator]
static ALLOCATOR: memory::Allocator = memory::Allocator;

static CHOSEN: OnceLock<(&'static Target, bool)> = OnceLock::new();

/// What the environment asks for; says on standard error what is wrong with it.
fn choose() -> Option<(&'static Target, bool)> {
    let name = std::env::var("TERN_FUZZ").unwrap_or_default();
    if name == "list" {
        TARGETS.iter().for_each(|target| println!("{} {}", target.name, target.max_len));
        std::process::exit(0);
    }
    let (name, starved) = match name.strip_suffix("-starved") {
        Some(name) => (name, true),
        None => (&*name, false),
    };
    let found = TARGETS.iter().find(|target| target.name == name);
    if found.is_none() {
        eprintln!("TERN_FUZZ: no target {name:?}; TERN_FUZZ=list names them");
    }
    found.map(|target| (target, starved))
}

fn write_seeds(target: &Target, folder: &str) {
    for (i, seed) in (target.seeds)().iter().enumerate() {
        std::fs::write(format!("{folder}/seed-{i:03}"), seed).expect("a seed is written");
    }
}

/// What libFuzzer calls first.
#[unsafe(no_mangle)]
pub extern "C" fn LLVMFuzzerInitialize(argc: *const isize, argv: *const *const *const u8) -> isize {
    libfuzzer_sys::initialize(argc, argv);
    let Some(chosen) = choose() else { std::process::exit(2) };
    if let Ok(folder) = std::env::var("TERN_FUZZ_SEEDS") {
        write_seeds(chosen.0, &folder);
        std::process::exit(0);
    }
    CHOSEN.get_or_init(|| chosen);
    let folder = std::env::var_os("TERN_FUZZ_INPUTS");
    if let (Some(to), Some(folder)) = (std::env::var_os("TERN_FUZZ_EDGES"), folder) {
        let run = |input: &[u8]| {
            rust_fuzzer_test_input(input);
        };
        edges::write(folder.as_ref(), to.as_ref(), run);
        std::process::exit(0);
    }
    0
}

/// What `libfuzzer_sys` calls with each input.
#[unsafe(no_mangle)]
#[allow(improper_ctypes_definitions, reason = "both sides are Rust")]
pub extern "C" fn rust_fuzzer_test_input(input: &[u8]) -> i32 {
    let &(target, starved) = CHOSEN.get().expect("initialised");
    let input = if starved { memory::plan(input) } else { input };
    memory::bounded(|| (target.run)(input));
    memory::end_plan();
    0
}
