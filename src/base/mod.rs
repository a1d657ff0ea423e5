//! The ground floor: errors, element types, memory, files, threads, what the CPU can do.
//!
//! Knows nothing of models, files' formats or tokens.

pub mod dtype;
pub mod error;
