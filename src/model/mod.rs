//! The decoder: an architecture is a row of data, the forward pass is written once.
#![deny(
    clippy::arithmetic_side_effects,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::string_slice,
    clippy::unreachable
)]

pub mod arch;
pub mod forward;
pub mod hparams;
pub mod rope;
pub mod weights;
pub mod whole;
