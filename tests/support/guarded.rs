//! Bytes with nothing behind them: who reads one byte too many ends there, and not in whatever the
//! allocator put next.
#![allow(unsafe_code, reason = "pages that nobody may touch")]

use std::os::fd::AsRawFd;

use memmap2::{MmapMut, MmapOptions};

/// A place for bytes that ends at a page which nobody may read.
pub struct Guarded {
    /// The last page of it is the guard.
    map: MmapMut,
    page: usize,
}

impl Guarded {
    pub fn new() -> Self {
        // SAFETY: it asks for a number.
        let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) } as usize;
        Guarded { map: guarded(0, page), page }
    }

    /// The bytes, the last of which lies right before the guard.
    pub fn hold(&mut self, bytes: &[u8]) -> &[u8] {
        if bytes.len() > self.map.len() - self.page {
            self.map = guarded(bytes.len(), self.page);
        }
        let end = self.map.len() - self.page;
        let held = &mut self.map[..end][end - bytes.len()..];
        held.copy_from_slice(bytes);
        held
    }

    /// Whether the byte behind those that are held can be read: never, or the guard is none.
    pub fn is_open(&self) -> bool {
        let (_, to) = std::io::pipe().expect("a pipe");
        let behind = self.map.as_ptr().wrapping_add(self.map.len() - self.page);
        // SAFETY: the system reads the byte, and says so where it cannot.
        unsafe { libc::write(to.as_raw_fd(), behind.cast(), 1) == 1 }
    }
}

fn guarded(len: usize, page: usize) -> MmapMut {
    let end = len.next_multiple_of(page);
    let mut map = MmapOptions::new().len(end + page).map_anon().expect("memory");
    // SAFETY: the page is the mapping's last, and whoever holds bytes slices before it.
    let rc = unsafe { libc::mprotect(map.as_mut_ptr().add(end).cast(), page, libc::PROT_NONE) };
    assert_eq!(rc, 0, "mprotect: {}", std::io::Error::last_os_error());
    map
}
