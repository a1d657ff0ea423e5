//! Lists and texts on the heap, asked for such that a refusal is an error: what `collect`, `to_string`
//! and `clone` ask for ends the process where there is no memory.

use super::error::{Error, Result, err};

#[cold]
#[inline(never)]
fn refused(n: usize, what: &str) -> Error {
    err!(OutOfMemory, "no memory for {n} {what}")
}

/// An empty list with room for `n`; `what` they are, in the plural, for the error. Fails with
/// `OutOfMemory`.
pub fn reserve<T>(n: usize, what: &str) -> Result<Vec<T>> {
    let mut list = Vec::new();
    match list.try_reserve_exact(n) {
        Ok(()) => Ok(list),
        Err(_) => Err(refused(n, what)),
    }
}

/// A list of `n` items, or fewer if there are no more. Fails with `OutOfMemory`.
pub fn collect<T>(n: usize, items: impl IntoIterator<Item = T>, what: &str) -> Result<Vec<T>> {
    let mut list = reserve(n, what)?;
    list.extend(items.into_iter().take(n)); // within what was reserved
    Ok(list)
}

/// A copy of a text. Fails with `OutOfMemory`.
pub fn text(text: &str) -> Result<String> {
    let mut copy = String::new();
    push(&mut copy, text)?;
    Ok(copy)
}

/// Appends to a text. Fails with `OutOfMemory`; nothing has changed then.
pub fn push(to: &mut String, text: &str) -> Result<()> {
    match to.try_reserve(text.len()) {
        Ok(()) => {
            to.push_str(text);
            Ok(())
        }
        Err(_) => Err(refused(text.len(), "bytes of text")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::error::Error;

    #[test]
    fn what_cannot_be_had_is_an_error() {
        let refused = reserve::<u64>(usize::MAX / 16, "numbers").unwrap_err();
        assert!(matches!(refused, Error::OutOfMemory(_)), "{refused}");
        assert!(refused.message().contains("numbers"), "{refused}");
    }

    #[test]
    fn copies_and_texts_are_what_they_are_made_of() {
        assert_eq!(collect(2, [1, 2, 3], "numbers").unwrap(), [1, 2]);
        let mut said = text("tern").unwrap();
        push(&mut said, "s").unwrap();
        assert_eq!(said, "terns");
    }
}
