//! What several test programs share: made files, the cache of real ones, loud skipping.
#![allow(
    dead_code,
    unreachable_pub,
    reason = "each test program is a crate of its own and uses a part of this"
)]

pub mod blocks;
pub mod counting;
pub mod decoded;
pub mod gguf_writer;
pub mod guarded;
pub mod naive;
pub mod native;
pub mod parsed;
pub mod sessions;
pub mod tiny;

use std::path::PathBuf;
use std::process::Command;

/// Where downloaded models and vocabularies lie: `$TERN_CACHE`, or `~/.cache/tern`.
pub fn cache_dir() -> PathBuf {
    if let Some(dir) = std::env::var_os("TERN_CACHE") {
        return dir.into();
    }
    PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".cache/tern")
}

/// A file of the cache; if it is missing, says so loudly for `test` and returns `None`.
pub fn cached(test: &str, name: &str) -> Option<PathBuf> {
    let path = cache_dir().join(name);
    if path.is_file() {
        return Some(path);
    }
    skipped(test, &format!("{} is missing; `make models` gets it", path.display()));
    None
}

/// Says loudly that a test did not run, and why.
pub fn skipped(test: &str, why: &str) {
    eprintln!("SKIPPED: {test}: {why}");
}

/// Runs a program as these tests themselves are run: by `TERN_TEST_RUNNER`, if that is set.
pub fn command(program: &str) -> Command {
    let runner = std::env::var("TERN_TEST_RUNNER").unwrap_or_default();
    let mut words = runner.split_whitespace().chain([program]);
    let mut command = Command::new(words.next().unwrap_or(program));
    command.args(words);
    command
}

/// Whether the programs run in an emulator of another machine, which makes long tests shorter.
/// `TERN_TEST_RUNNER`, what to run programs with, says so.
pub fn emulated() -> bool {
    std::env::var_os("TERN_TEST_RUNNER").is_some()
}
