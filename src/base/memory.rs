//! How much memory the process may still take, and what kind of memory large things get.

use std::cell::{Cell, RefCell};
use std::fs;
use std::io::{self, Read};

use super::aligned::{Buffer, Element, Region};
use super::error::{Result, err};
use super::file::errno::Failed;
use super::log::log;
use super::shared::Shared;

/// Whether memory must stay in RAM: locked pages are never written to swap or dropped, so that
/// reading them never waits for a disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Lock {
    /// The system may take pages away when memory is short.
    #[default]
    No,
    /// Locked if the system lets us, which it says in a warning otherwise.
    Try,
    /// Locked, or it is an error.
    Must,
}

/// Whether memory is made of pages of 2 MiB or so instead of 4 KiB: fewer TLB misses, at the price of
/// up to one page of waste for each piece. Only ever a wish: the system may have none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HugePages {
    /// Asked for weights and sessions; otherwise as the system does by itself.
    #[default]
    Default,
    /// Never, not even where the system would by itself.
    Never,
    /// Asked for (MADV_HUGEPAGE).
    Transparent,
}

/// How the memory of one model or one session is made, and how much of it was locked.
#[derive(Default)]
pub struct Memory {
    lock: Lock,
    /// What it wishes.
    pub huge: HugePages,
    locked: Cell<u64>,
    has_failed: Cell<bool>,
    reserved: RefCell<Option<Shared<Region>>>,
}

impl Memory {
    /// Memory of that kind.
    pub fn new(lock: Lock, huge: HugePages) -> Memory {
        Memory { lock, huge, ..Memory::default() }
    }

    /// What kind of memory it is.
    pub fn kind(&self) -> (Lock, HugePages) {
        (self.lock, self.huge)
    }

    /// Takes `bytes` of memory at once, out of which buffers come from now on, until it is used up:
    /// one mapping instead of hundreds, whose pages can be large. Each buffer takes whole cache lines.
    /// Fails as [`Memory::buffer`] does.
    pub fn reserve(&self, bytes: u64) -> Result<()> {
        let Ok(len) = usize::try_from(bytes) else {
            return Err(err!(OutOfMemory, "memory: {bytes} bytes exceed the address space"));
        };
        let region = if len == 0 { None } else { Some(Shared::new(self.region(len)?)?) };
        self.reserved.replace(region);
        Ok(())
    }

    /// Bytes of what was taken last by [`Memory::reserve`].
    pub fn reserved(&self) -> u64 {
        self.reserved.borrow().as_ref().map_or(0, |region| region.bytes() as u64)
    }

    /// `n` zeros, every page of them present. Fails with `OutOfMemory`, also if they must be locked
    /// and cannot be.
    #[inline(never)] // Sessions ask for dozens.
    pub fn buffer<T: Element>(&self, n: usize) -> Result<Buffer<T>> {
        if let Some(buffer) =
            self.reserved.borrow().as_ref().and_then(|region| Region::take(region, n))
        {
            return Ok(buffer);
        }
        let bytes = n.saturating_mul(size_of::<T>());
        if bytes == 0 || (self.lock == Lock::No && self.huge == HugePages::Default) {
            return Buffer::zeroed(n);
        }
        let region = Shared::new(self.region(bytes)?)?;
        Region::take(&region, n)
            .ok_or_else(|| err!(Internal, "no room for {n} elements in {bytes} bytes"))
    }

    /// The same for several, in this order: one way out for all of them, where each would have its own.
    pub fn buffers<T: Element, const N: usize>(&self, n: [usize; N]) -> Result<[Buffer<T>; N]> {
        let mut all = [const { Buffer::empty() }; N];
        for (buffer, n) in all.iter_mut().zip(n) {
            *buffer = self.buffer(n)?;
        }
        Ok(all)
    }

    fn region(&self, len: usize) -> Result<Region> {
        let region = Region::new(len, self.huge)?;
        self.lock(len as u64, || region.lock())?;
        Ok(region)
    }

    /// Locks `bytes` of memory by calling `lock`, where that is wanted. Fails with `OutOfMemory` if
    /// it must be and cannot be; where it need not be, warns once and tries no more.
    pub fn lock(&self, bytes: u64, lock: impl FnOnce() -> io::Result<()>) -> Result<()> {
        if self.lock == Lock::No || self.has_failed.get() {
            return Ok(());
        }
        match lock() {
            Ok(()) => self.locked.set(self.locked.get() + bytes),
            Err(e) if self.lock == Lock::Must => {
                return Err(err!(
                    OutOfMemory,
                    "{bytes} bytes cannot be locked in memory: {}; see RLIMIT_MEMLOCK (ulimit -l)",
                    Failed(&e)
                ));
            }
            Err(e) => {
                self.has_failed.set(true);
                log!(
                    Warn,
                    "{bytes} bytes cannot be locked in memory: {}; see RLIMIT_MEMLOCK (ulimit -l); \
                     going on without",
                    Failed(&e)
                );
            }
        }
        Ok(())
    }

    /// Bytes that were locked.
    pub fn locked_bytes(&self) -> u64 {
        self.locked.get()
    }
}

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
    use super::*;
    use crate::base::error::Error;

    #[test]
    fn a_machine_that_runs_tests_has_some_memory() {
        assert!(available() > 1 << 20);
    }

    #[test]
    fn buffers_of_every_kind_are_zeroed_and_aligned() {
        for huge in [HugePages::Default, HugePages::Never, HugePages::Transparent] {
            for lock in [Lock::No, Lock::Try] {
                let memory = Memory::new(lock, huge);
                for n in [0, 1, 1000, 3 << 20] {
                    let mut buffer = memory.buffer::<f32>(n).unwrap();
                    assert_eq!((buffer.len(), buffer.bytes()), (n, n * 4));
                    assert!(buffer.iter().all(|&x| x.to_bits() == 0), "{huge:?} {lock:?}");
                    assert!(n == 0 || buffer.as_ptr().addr().is_multiple_of(64));
                    buffer.fill(1.0);
                }
                let error = memory.buffer::<u8>(1 << 60).unwrap_err();
                assert!(matches!(error, Error::OutOfMemory(_)), "{error}");
            }
        }
    }

    #[test]
    fn buffers_come_out_of_what_was_reserved_while_there_is_room() {
        for huge in [HugePages::Default, HugePages::Never, HugePages::Transparent] {
            for lock in [Lock::No, Lock::Try] {
                let memory = Memory::new(lock, huge);
                memory.reserve(5 << 20).unwrap();
                let mut all = Vec::new();
                for i in 0..6 {
                    // The last one has no room left there, and gets its own.
                    let mut buffer = memory.buffer::<f32>((1 << 18) - 3).unwrap();
                    assert!(buffer.iter().all(|&x| x.to_bits() == 0), "{huge:?} {lock:?}, {i}");
                    assert!(buffer.as_ptr().addr().is_multiple_of(64));
                    buffer.fill(i as f32);
                    all.push(buffer);
                }
                drop(memory);
                let first = all[0].as_ptr().addr();
                for (i, buffer) in all.iter().enumerate() {
                    assert!(buffer.iter().all(|&x| x == i as f32), "nobody else wrote there");
                    let place = buffer.as_ptr().addr().wrapping_sub(first);
                    assert_eq!(place == i << 20, i < 5, "{place} of buffer {i}");
                }
            }
        }
        let memory = Memory::default();
        memory.reserve(100).unwrap();
        assert_eq!(memory.buffer::<u8>(100).unwrap().len(), 100);
        memory.reserve(0).unwrap();
        assert_eq!(memory.buffer::<u64>(3).unwrap()[..], [0; 3]);
        let error = memory.reserve(u64::MAX).unwrap_err();
        assert!(matches!(error, Error::OutOfMemory(_)), "{error}");
    }

    #[test]
    fn a_lock_that_fails_is_an_error_or_a_warning() {
        let no = || Err(io::Error::from_raw_os_error(libc::ENOMEM));
        let must = Memory::new(Lock::Must, HugePages::Default);
        must.lock(10, || Ok(())).unwrap();
        let error = must.lock(20, no).unwrap_err();
        assert!(matches!(error, Error::OutOfMemory(_)), "{error}");
        assert!(error.to_string().contains("RLIMIT_MEMLOCK"), "{error}");
        assert_eq!(must.locked_bytes(), 10);

        let tries = Memory::new(Lock::Try, HugePages::Default);
        tries.lock(10, || Ok(())).unwrap();
        tries.lock(20, no).unwrap();
        tries.lock(20, || panic!("it gave up")).unwrap();
        assert_eq!(tries.locked_bytes(), 10);

        Memory::default().lock(10, || panic!("nobody wants it")).unwrap();
    }
}
