//! The decoder: an architecture is a row of data, the forward pass is written once.

pub mod arch;
pub mod forward;
pub mod hparams;
pub mod rope;
pub mod weights;
pub mod whole;
