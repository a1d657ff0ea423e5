//! The clock that deadlines and statistics are read from.

/// Nanoseconds on `CLOCK_MONOTONIC`: what deadlines of the C API count in.
///
/// The clock stands still while the machine is suspended, and no one can set it.
#[allow(unsafe_code, reason = "clock_gettime; std's Instant cannot be compared with a C caller's")]
pub fn now_ns() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` is a live timespec, and the call writes nothing else. It cannot fail: Linux has
    // had this clock since 2.6; if it did, `now` would stay zero, which is still a time.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut now) };
    (now.tv_sec as u64).wrapping_mul(1_000_000_000).wrapping_add(now.tv_nsec as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_counts_nanoseconds_and_never_goes_back() {
        let start = now_ns();
        std::thread::sleep(std::time::Duration::from_millis(5));
        let passed = now_ns() - start;
        assert!(passed >= 5_000_000, "{passed} ns in at least 5 ms");
        assert!(passed < 60_000_000_000, "{passed} ns in about 5 ms");
    }
}
