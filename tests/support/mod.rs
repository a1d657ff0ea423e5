//! What several test programs share: made files, the cache of real ones, loud skipping.
#![allow(
    dead_code,
    unreachable_pub,
    reason = "each test program is a crate of its own and uses a part of this"
)]

pub mod counting;
pub mod gguf_writer;
pub mod tiny;

use std::path::PathBuf;

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
