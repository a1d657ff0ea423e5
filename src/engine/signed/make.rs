//! Makes manifests, where models are made.

use std::fmt::Write;
use std::path::Path;

use crate::base::error::{Result, err};
use crate::base::file::Source;
use crate::engine::load::parse;
use crate::engine::params::ModelParams;
use crate::manifest::{Manifest, check, signature};

/// Makes a manifest of a model's file, with a signature by `secret`, 32 random bytes. `version`
/// should be greater than those of the models before. Fails as loading does, and with
/// `Unsupported` if a tensor's name has control characters.
///
/// Memory for it is taken as elsewhere in Rust: this is for machines on which models are made.
pub fn sign_model(path: &Path, version: u64, secret: &[u8; 32]) -> Result<String> {
    let source = Source::open(path)?;
    let parsed = parse(&source, &ModelParams::default(), None)?;
    let gguf = &parsed.gguf;
    let mut tensors: Vec<(u64, &str)> =
        gguf.tensors().iter().map(|t| (t.offset, t.name(gguf))).collect();
    tensors.sort_unstable();
    let mut starts = vec![(0, "header")];
    starts.extend(tensors.iter().map(|(at, name)| (gguf.data_offset() + at, *name)));
    let mut text = format!("tern-manifest 1\nversion {version}\nbytes {}\n", source.len());
    for (i, (begin, name)) in starts.iter().enumerate() {
        let end = starts.get(i + 1).map_or(source.len(), |next| next.0);
        let digest = check::digest(&source, *begin, end - begin)?;
        let _ = writeln!(text, "part {} {} {name}", end - begin, hex(&digest));
    }
    source.check_unchanged()?;
    let signature = signature::sign(text.as_bytes(), secret);
    let _ = writeln!(text, "signature {} {}", hex(&signature.key), hex(&signature.bytes));
    // It says so if it is no manifest.
    match Manifest::parse(text.as_bytes()) {
        Ok(_) => Ok(text),
        Err(error) => Err(err!(Unsupported, "{}", error.message())),
    }
}

/// Bytes in lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
