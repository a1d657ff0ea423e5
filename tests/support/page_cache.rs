//! What the system has of a file in memory.
#![allow(unsafe_code, reason = "no safe call tells that")]

use std::fs::File;
use std::os::fd::AsRawFd;

/// Lets the system forget what it has of a file, but for what has not been written out yet.
pub(crate) fn drop_clean(file: &File) {
    // SAFETY: the descriptor is open, and no memory is passed.
    let rc = unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) };
    assert_eq!(rc, 0, "posix_fadvise");
}

/// How many pages of a file are in memory, and how many it has.
pub(crate) fn resident(file: &File) -> (usize, usize) {
    let map = memmap2::MmapOptions::new().map_raw_read_only(file).expect("maps");
    // SAFETY: it asks for a number.
    let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) } as usize;
    let mut pages = vec![0u8; map.len().div_ceil(page)];
    // SAFETY: the range is that of a mapping that lives, and there is a byte for each of its pages.
    let rc = unsafe { libc::mincore(map.as_mut_ptr().cast(), map.len(), pages.as_mut_ptr()) };
    assert_eq!(rc, 0, "mincore: {}", std::io::Error::last_os_error());
    (pages.iter().filter(|page| **page & 1 != 0).count(), pages.len())
}
