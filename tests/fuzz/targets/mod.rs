//! The targets, each a function of an input's bytes, with the inputs that it begins from.

mod calls;
mod chat;
mod containers;
mod load;
mod policies;
mod restore;
mod sampling;
mod sharing;
mod snapshot;
mod texts;

/// What is fuzzed.
pub struct Target {
    pub name: &'static str,
    pub run: fn(&[u8]),
    /// Inputs to begin from, always the same.
    pub seeds: fn() -> Vec<Vec<u8>>,
    /// The longest input that is worth trying.
    pub max_len: usize,
}

/// All of them.
pub static TARGETS: [Target; 13] = [
    Target { name: "gguf", run: containers::run, seeds: containers::seeds, max_len: 4096 },
    Target {
        name: "vocabulary",
        run: texts::vocabulary,
        seeds: texts::vocabularies,
        max_len: 1024,
    },
    Target { name: "tokenize", run: texts::tokenize, seeds: texts::texts, max_len: 2048 },
    Target { name: "detokenize", run: texts::detokenize, seeds: texts::tokens, max_len: 512 },
    Target { name: "chat", run: chat::run, seeds: chat::seeds, max_len: 6000 },
    Target { name: "snapshot", run: snapshot::run, seeds: snapshot::seeds, max_len: 1024 },
    Target { name: "restore", run: restore::run, seeds: restore::seeds, max_len: 256 },
    Target { name: "sampler", run: sampling::run, seeds: sampling::seeds, max_len: 1024 },
    Target { name: "load", run: load::run, seeds: load::seeds, max_len: 512 },
    Target { name: "pack", run: load::pack, seeds: load::pack_seeds, max_len: 512 },
    Target { name: "policies", run: policies::run, seeds: policies::seeds, max_len: 1024 },
    Target { name: "sharing", run: sharing::run, seeds: sharing::seeds, max_len: 128 },
    Target { name: "calls", run: calls::run, seeds: calls::seeds, max_len: 512 },
];

/// Bytes that say nothing in particular, always the same.
fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut random = crate::support::tiny::Random(seed);
    (0..len).map(|_| random.next() as u8).collect()
}
