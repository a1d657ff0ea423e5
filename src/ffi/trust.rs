//! Signed models: whom a program trusts.

use std::ffi::c_char;

use super::pointer::{Sized0, read_sized, slice};
use crate::base::error::{Result, err};
use crate::engine::Trust;

/// Most keys.
const MAX_KEYS: u32 = 64;

/// Whom a program trusts to say what a model is; see `trust` of tern_model_params.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct tern_trust_params {
    /// sizeof(tern_trust_params)
    pub struct_size: u32,
    /// How many keys there are: 1 to 64.
    pub n_keys: u32,
    /// Public keys, Ed25519: 32 bytes each, one after the other. One of them must have signed.
    pub keys: *const u8,
    /// The manifest; NULL = the file beside the model, of the same name and ".manifest". A model that is
    /// loaded by a descriptor or from memory needs one here (TERN_ERROR_NOT_SIGNED).
    pub manifest: *const c_char,
    /// Its bytes.
    pub n_manifest: u64,
    /// The lowest version in a manifest that is accepted (TERN_ERROR_ROLLBACK).
    pub min_version: u64,
}

const _: () = assert!(size_of::<tern_trust_params>() == 40);

// SAFETY: `repr(C)`, `struct_size` first, no padding (asserted above), and made of integers and
// pointers, for which zero is a valid value.
unsafe impl Sized0 for tern_trust_params {}

/// The engine's view of a struct that may be NULL, for which there is none.
///
/// # Safety
/// `trust` is NULL or points to `struct_size` readable bytes, and its `keys` and `manifest` to as many
/// as it says; all of them stay readable as long as the result is used.
pub(super) unsafe fn trust_of<'a>(trust: *const tern_trust_params) -> Result<Option<Trust<'a>>> {
    if trust.is_null() {
        return Ok(None);
    }
    // SAFETY: the caller's contract.
    let params = unsafe { read_sized(trust, "trust")? };
    if params.n_keys == 0 || params.n_keys > MAX_KEYS {
        let n = params.n_keys;
        return Err(err!(InvalidArgument, "trust: n_keys is {n}, expected 1 to {MAX_KEYS}"));
    }
    // SAFETY: the caller's contract; an array of bytes is aligned anywhere.
    let keys = unsafe { slice(params.keys.cast(), params.n_keys as usize, "trust: keys")? };
    let Ok(n) = usize::try_from(params.n_manifest) else {
        return Err(err!(InvalidArgument, "trust: n_manifest exceeds the address space"));
    };
    let manifest = match params.manifest.is_null() {
        true => None,
        // SAFETY: the caller's contract.
        false => Some(unsafe { slice(params.manifest.cast(), n, "trust: manifest")? }),
    };
    Ok(Some(Trust { keys, manifest, min_version: params.min_version }))
}
