//! Of tern's `ffi` the tables of handles.

pub mod models;
#[path = "../../../../src/ffi/table.rs"]
mod table;
