//! Models of aborts and wishes.

use std::sync::Arc;

use super::{Control, Wish};
use crate::base::error::Error;
use crate::base::sync::statics::{AtomicBool, Ordering};
use crate::base::thread::spawn;

/// An abort stops the eval that is running, or else the next one: never none, and never both.
pub fn an_abort_stops_one_eval() {
    let abort = Arc::new(AtomicBool::new(false));
    abort.store(false, Ordering::Relaxed);
    let told = abort.clone();
    let thread = spawn(move || told.store(true, Ordering::Relaxed));
    let control = Control { abort: Some(&abort), ..Control::default() };
    let eval = || (0..2).any(|_| matches!(control.check(), Err(Error::Aborted(_))));
    let mut n = usize::from(eval()) + usize::from(eval());
    thread.join().expect("no panic");
    n += usize::from(eval());
    assert_eq!(n, 1);
    assert!(!eval());
}

/// Of two wishes the last one is taken, once.
pub fn the_last_wish_is_taken_once() {
    let wish = Arc::new(Wish::new());
    wish.clear();
    let other = wish.clone();
    let thread = spawn(move || {
        other.set(1);
        other.set(2);
    });
    let first = wish.take();
    thread.join().expect("no panic");
    match (first, wish.take()) {
        (Some(2), None) | (None | Some(1), Some(2)) => {}
        taken => panic!("{taken:?}"),
    }
    assert_eq!(wish.take(), None);
}
