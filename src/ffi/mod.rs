//! The C boundary. Everything that the header says is written here, in C's words.
//!
//! Each exported function takes its arguments apart, calls one engine function, and puts the
//! answer back. Anything longer belongs in the engine. No pointer is believed: handles are looked
//! up, buffers and structs are checked for NULL, alignment and size; what remains is the caller's
//! word that a non-NULL pointer has as many bytes behind it as he says.
//!
//! # How the ABI may change
//!
//! 1. A symbol's signature and meaning never change. A better one gets a new name.
//! 2. Structs that may grow start with `uint32_t struct_size`, grow only at the end, have no
//!    implicit padding (asserted in `params.rs`), and zero means the default. A caller's shorter
//!    struct is read as if zeros followed; a longer one must be zero in what we do not know.
//!    Structs that stand in arrays have no size and never change.
//! 3. Constants and codes are appended, never renumbered, and no number is used again.
//! 4. One header serves all builds; a device that is not compiled in is not listed.
//! 5. `TERN_ABI_VERSION` and the soname move together, and only if 1 to 3 are broken on purpose.
//! 6. What goes is deprecated for one minor release first.
//!
//! `tests/header.rs`, `tests/c/abi.c` and `tests/abi/check.sh` hold this.
#![deny(clippy::indexing_slicing)]
#![allow(
    clippy::missing_safety_doc,
    reason = "the conventions on top of the header are the contract of every exported function"
)]

mod guard;
mod handle;
#[cfg(feature = "test-hooks")]
mod hooks;
mod pointer;
mod table;
mod words;

// In the order in which the header presents them; tests/header.rs reads this list.
mod version;

mod status;

mod log;

mod device;

mod kv_dtype;

mod trust;

mod params;

mod model;

mod sigbus;

mod text;

mod decoder;

mod session;

mod kv;

mod segments;

mod sampler;

mod snapshot;

pub use decoder::*;
pub use device::*;
pub use handle::{tern_decoder, tern_model, tern_sampler, tern_session};
#[cfg(feature = "test-hooks")]
pub use hooks::*;
pub use kv::*;
pub use kv_dtype::*;
pub use log::*;
pub use model::*;
pub use params::*;
pub use sampler::*;
pub use segments::*;
pub use session::*;
pub use sigbus::*;
pub use snapshot::*;
pub use status::*;
pub use text::*;
pub use trust::*;
pub use version::*;
