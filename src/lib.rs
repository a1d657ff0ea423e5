//! tern: language-model inference for machines that move.
//!
//! The house, from the ground up. A module imports only what stands above it in this list;
//! `tests/house.rs` holds that.
//!
//! - [`base`]: errors, element types, memory, files, threads, what the CPU can do. Knows nothing of
//!   models.
//! - [`gguf`]: a file format, nothing else. Every length and offset is checked here, once.
//! - [`quant`]: block formats: what the bits of a quantised weight mean, exactly and slowly.
//! - [`manifest`]: what the bytes of a file should be, signed by somebody.
//! - [`tokenizer`]: text to tokens and back.
//! - [`sampler`]: logits to a token.
//! - [`chat`]: messages to a prompt, by the model's own template.
//! - [`kernel`]: the inner loops, one table for each instruction set.
//! - [`backend`]: devices: nine phases that a decoder is made of.
//! - [`kv`]: which cell of the KV cache holds which token, and what leaves when room is needed.
//! - [`model`]: architectures as rows of data, and the decoder.
//! - [`engine`]: what a program wants: a model, sessions, plans.
//! - [`ffi`]: the C boundary.

pub mod backend;
pub mod base;
pub mod chat;
pub mod engine;
#[allow(
    unsafe_code,
    non_camel_case_types,
    reason = "the C boundary: C's names, C's pointers; see ffi/mod.rs"
)]
pub mod ffi;
pub mod gguf;
pub mod kernel;
pub mod kv;
pub mod manifest;
pub mod model;
pub mod quant;
pub mod sampler;
pub mod tokenizer;

pub use base::error::{Error, Result};
