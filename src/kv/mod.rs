//! The KV cache: what holds which token, and what leaves when room is needed.
//!
//! [`slots`], [`cells`], [`history`] and [`segments`] are bookkeeping without tensors, [`policy`] pure
//! functions on numbers that others give them; [`cache`] applies both to keys and values, which are a
//! [`Backend`](crate::backend::Backend)'s.

pub mod cache;
pub mod cells;
pub mod eviction;
pub mod history;
pub mod policy;
pub mod segments;
pub mod slots;
