//! Of tern's `engine` what other threads do to an eval.

#[path = "../../../../src/engine/control.rs"]
mod control;
pub mod models;

pub use control::{Control, Wish};

/// Named by what is said of a wish.
pub struct SessionParams;
