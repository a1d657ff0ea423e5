//! tern_version, tern_abi_version: what this library is.

use std::ffi::c_char;

/// The library's version, as in "0.1.0".
#[unsafe(no_mangle)]
pub extern "C" fn tern_version() -> *const c_char {
    concat!(env!("CARGO_PKG_VERSION"), "\0").as_ptr().cast()
}

/// The library's C ABI; a program is compatible if this equals TERN_ABI_VERSION.
#[unsafe(no_mangle)]
pub extern "C" fn tern_abi_version() -> u32 {
    1
}
