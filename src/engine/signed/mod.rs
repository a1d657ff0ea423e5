//! Signed models: what a caller trusts, and the manifest of a model that is being loaded.
//!
//! The manifest's signature is checked before a byte of the model is looked at, its header before
//! anything in it is believed, and each tensor in the pass that reads it, on the bytes that are used.
//! Without the feature `signed` all of this is refused ([`absent`]).

#[cfg(not(feature = "signed"))]
mod absent;
#[cfg(feature = "signed")]
mod checked;
#[cfg(feature = "signed")]
mod make;

#[cfg(not(feature = "signed"))]
pub(super) use absent::Signed;
#[cfg(feature = "signed")]
pub(super) use checked::Signed;
#[cfg(feature = "signed")]
pub use make::{hex, sign_model};

use crate::manifest::KEY_BYTES;

/// What is added to a model's path for that of its manifest.
pub const SUFFIX: &str = ".manifest";

/// Whom a caller trusts.
#[derive(Clone, Copy, Debug, Default)]
pub struct Trust<'a> {
    /// Public keys: Ed25519. One of them must have signed.
    pub keys: &'a [[u8; KEY_BYTES]],
    /// The manifest; `None` = the file beside the model, of the same name and ".manifest". A model that
    /// is not loaded by its path needs one here.
    pub manifest: Option<&'a [u8]>,
    /// The lowest version of the manifest that is accepted.
    pub min_version: u64,
}
