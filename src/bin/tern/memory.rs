//! The memory of this process, by the kernel's account.

use std::fs;

/// Bytes that are in RAM now; `None` where the kernel does not say.
pub(crate) fn resident_bytes() -> Option<u64> {
    status("VmRSS:")
}

/// The most that ever were.
pub(crate) fn peak_bytes() -> Option<u64> {
    status("VmHWM:")
}

fn status(name: &str) -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_tells() {
        let peak = peak_bytes().unwrap();
        assert!(peak > 1 << 20 && resident_bytes().is_some_and(|n| n > 1 << 20));
    }
}
