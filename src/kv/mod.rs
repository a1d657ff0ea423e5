//! The KV cache: which cell holds which token, and what leaves when room is needed.
//!
//! [`cells`] is bookkeeping without tensors, [`policy`] pure functions on numbers that others give
//! them; the keys and values themselves are a [`Backend`](crate::backend::Backend)'s.

pub mod cells;
pub mod policy;
