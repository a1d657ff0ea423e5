//! Lists of a template's parts, which can be refused like all else.

use crate::base::heap;

use super::value::{Fault, Value};

/// Lists that grow such that a refusal is a fault.
pub(super) trait Grow<T> {
    /// Appends an item.
    fn add(&mut self, item: T) -> Result<(), Fault>;
    /// Appends some.
    fn add_all(&mut self, items: impl IntoIterator<Item = T>) -> Result<(), Fault>;
}

impl<T> Grow<T> for Vec<T> {
    #[inline(never)]
    fn add(&mut self, item: T) -> Result<(), Fault> {
        self.try_reserve(1).map_err(|_| Fault::NoMemory)?;
        self.push(item);
        Ok(())
    }

    fn add_all(&mut self, items: impl IntoIterator<Item = T>) -> Result<(), Fault> {
        items.into_iter().try_for_each(|item| self.add(item))
    }
}

/// A list of these items.
pub(super) fn listed<T>(items: impl IntoIterator<Item = T>) -> Result<Vec<T>, Fault> {
    all_of(&mut items.into_iter())
}

/// One copy for items of a kind, wherever they come from.
#[inline(never)]
fn all_of<T>(items: &mut dyn Iterator<Item = T>) -> Result<Vec<T>, Fault> {
    let mut list = Vec::new();
    for item in items {
        list.add(item)?;
    }
    Ok(list)
}

/// Takes the items from `at` on off a list.
pub(super) fn split_off<T>(list: &mut Vec<T>, at: usize) -> Result<Vec<T>, Fault> {
    let mut taken = heap::reserve(list.len().saturating_sub(at), "items")?;
    taken.extend(list.drain(at.min(list.len())..));
    Ok(taken)
}

/// How many items there are, as a value.
pub(super) fn count(items: impl Iterator) -> Value {
    Value::Int(items.fold(0, |n: i64, _| n.saturating_add(1)))
}
