//! What the tests make their files with.
#![allow(dead_code, reason = "a part of this is used here")]

#[path = "../support/gguf_writer.rs"]
pub mod gguf_writer;
#[path = "../support/parsed.rs"]
pub mod parsed;
#[path = "../support/tiny.rs"]
pub mod tiny;
