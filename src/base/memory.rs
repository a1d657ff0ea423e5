//! How much memory the process may still take.

use std::fs;
use std::io::Read;

/// Bytes of memory that the system could give without swapping, within the limit of the process's
/// control group; `u64::MAX` if the system does not say.
pub fn available() -> u64 {
    let mut buffer = [0u8; 4096];
    let system = read("/proc/meminfo", &mut buffer)
        .and_then(|text| text.lines().find_map(|line| line.strip_prefix("MemAvailable:")))
        .and_then(|rest| rest.trim().strip_suffix("kB")?.trim().parse::<u64>().ok())
        .and_then(|kib| kib.checked_mul(1024));
    let group = number("/sys/fs/cgroup/memory.max")
        .zip(number("/sys/fs/cgroup/memory.current"))
        .map(|(max, current)| max.saturating_sub(current));
    system.unwrap_or(u64::MAX).min(group.unwrap_or(u64::MAX))
}

fn number(path: &str) -> Option<u64> {
    let mut buffer = [0u8; 64];
    read(path, &mut buffer)?.trim().parse().ok()
}

/// The start of a small text file; no heap memory is used.
fn read<'a>(path: &str, buffer: &'a mut [u8]) -> Option<&'a str> {
    let mut file = fs::File::open(path).ok()?;
    let mut len = 0;
    while len < buffer.len() {
        match file.read(buffer.get_mut(len..)?) {
            Ok(0) => break,
            Ok(n) => len += n,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(_) => return None,
        }
    }
    std::str::from_utf8(buffer.get(..len)?).ok()
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_machine_that_runs_tests_has_some_memory() {
        assert!(super::available() > 1 << 20);
    }
}
