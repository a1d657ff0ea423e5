//! The KV cache: what holds which token, and what leaves when room is needed.
//!
//! [`slots`], [`cells`], [`history`] and [`segments`] are bookkeeping without tensors, [`policy`] pure
//! functions on numbers that others give them; [`cache`] applies both to keys and values, which are a
//! [`Backend`](crate::backend::Backend)'s. [`prefix`] is what caches of one model have in common.

pub mod cache;
pub mod cells;
pub mod eviction;
pub mod history;
pub mod policy;
pub mod prefix;
pub mod segments;
pub mod slots;

use crate::base::error::{Result, err};

/// `n` times the same value, written now and not for the first time in the middle of a token; `what`
/// they are, in the plural, for the error.
fn filled<T: Clone>(n: usize, value: T, what: &str) -> Result<Vec<T>> {
    let mut all = Vec::new();
    all.try_reserve_exact(n)
        .map_err(|_| err!(OutOfMemory, "KV cache: no memory for {n} {what}"))?;
    all.resize(n, value);
    Ok(all)
}
