//! Some other library made by Rust: it has panics, threads and allocations of its own, and its
//! archive shows all of the standard library, as cargo leaves it.
use std::panic::catch_unwind;

/// 42, after a thread, a panic that is caught, and a few allocations.
#[unsafe(no_mangle)]
pub extern "C" fn other_answer() -> i32 {
    std::panic::set_hook(Box::new(|_| ()));
    let caught = catch_unwind(|| {
        if std::env::args().count() < 1000 {
            panic!("expected: {}", "caught");
        }
    });
    let sum = std::thread::spawn(|| (0..=8).map(|i| i.to_string().len() as i32).sum::<i32>());
    match (caught, sum.join()) {
        (Err(_), Ok(9)) => 42,
        _ => -1,
    }
}
