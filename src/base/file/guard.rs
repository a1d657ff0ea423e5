//! Whether a file is still what it was: its stamp, and a lease that makes writers wait.

use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::File;
use super::errno::{Errno, Failed, errno};
use crate::base::error::{Error, Result, err};
use crate::base::log::log;

/// What tells that a file was changed, or that it is another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    dev: u64,
    inode: u64,
    pub(super) size: u64,
    mtime: (i64, i64), // seconds and nanoseconds
}

/// Watches a mapped file.
#[derive(Debug)]
pub(super) struct Guard {
    fd: OwnedFd,
    stamp: Stamp,
    /// Whether a writer must wait until the kernel has told us (see [`take_lease`]).
    pub(super) has_lease: bool,
    /// A change was noticed: whatever the file looks like since, it is not what was loaded.
    is_changed: AtomicBool,
}

impl Stamp {
    /// The stamp of a regular file; all else is an error that names it.
    pub(super) fn of(fd: &OwnedFd, name: &dyn std::fmt::Display) -> Result<Stamp> {
        // SAFETY: all-zero bytes are a `stat`, and fstat writes one.
        let (rc, stat) = unsafe {
            let mut stat = std::mem::zeroed::<libc::stat>();
            (libc::fstat(fd.as_raw_fd(), &mut stat), stat)
        };
        if rc != 0 {
            return Err(err!(Io, "{name}: {}", Errno(errno())));
        }
        let kind = match stat.st_mode & libc::S_IFMT {
            libc::S_IFREG => {
                return Ok(Stamp {
                    dev: stat.st_dev,
                    inode: stat.st_ino,
                    size: stat.st_size as u64, // never negative for a regular file
                    mtime: (stat.st_mtime, stat.st_mtime_nsec),
                });
            }
            libc::S_IFDIR => "a directory",
            libc::S_IFIFO => "a pipe",
            libc::S_IFSOCK => "a socket",
            _ => "a device",
        };
        Err(err!(Io, "{name}: {kind}, expected a regular file"))
    }

    /// Whether that is the same file, changed or not.
    pub(super) fn is_of(&self, found: &std::fs::Metadata) -> bool {
        (self.dev, self.inode) == (found.dev(), found.ino())
    }

    /// Waits until a write would leave another time. The kernel's clock of files goes by ticks of some
    /// milliseconds: two writes within one leave the same.
    fn wait_for_the_next_tick(&self) {
        let zero = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        let (mut now, mut tick) = (zero, zero);
        // SAFETY: both write a `timespec`, or nothing.
        unsafe {
            libc::clock_gettime(libc::CLOCK_REALTIME_COARSE, &mut now);
            libc::clock_getres(libc::CLOCK_REALTIME_COARSE, &mut tick);
        }
        let ns = |(s, ns): (i64, i64)| s.saturating_mul(1_000_000_000).saturating_add(ns);
        let age = ns((now.tv_sec, now.tv_nsec)).saturating_sub(ns(self.mtime));
        if age.unsigned_abs() <= tick.tv_nsec.unsigned_abs() {
            std::thread::sleep(Duration::from_nanos(2 * tick.tv_nsec.unsigned_abs()));
        }
    }

    /// Compares with what the file is now.
    pub(super) fn check(&self, fd: &OwnedFd) -> Result<()> {
        let now = Stamp::of(fd, &"the model's file")?;
        if now == *self {
            return Ok(());
        }
        Err(err!(
            ModelChanged,
            "the model's file was written to: {} bytes at {}.{:09}, expected {} bytes at {}.{:09}",
            now.size,
            now.mtime.0,
            now.mtime.1,
            self.size,
            self.mtime.0,
            self.mtime.1
        ))
    }
}

impl Guard {
    pub(super) fn new(file: &File) -> Result<Guard> {
        let fd = file
            .fd
            .try_clone()
            .map_err(|e| err!(Io, "duplicating a descriptor: {}", Failed(&e)))?;
        // A lease belongs to the open file description; one that the caller shares is not ours to
        // change.
        let has_lease = file.is_ours && take_lease(&fd);
        if !has_lease {
            log!(Debug, "no lease on the model's file: writers will be noticed, not held up");
            file.stamp.wait_for_the_next_tick();
        }
        Ok(Guard { fd, stamp: file.stamp, has_lease, is_changed: AtomicBool::new(false) })
    }

    /// Fails with `ModelChanged`, from the first time on that there was a change.
    pub(super) fn check(&self) -> Result<()> {
        match self.look() {
            Ok(()) if self.is_changed.load(Ordering::Relaxed) => Err(err!(
                ModelChanged,
                "the model's file was written to, and made to look as before"
            )),
            Err(error @ Error::ModelChanged(_)) => {
                self.is_changed.store(true, Ordering::Relaxed);
                Err(error)
            }
            other => other,
        }
    }

    fn look(&self) -> Result<()> {
        if self.has_lease {
            // SAFETY: F_GETLEASE has no argument.
            let lease = unsafe { libc::fcntl(self.fd.as_raw_fd(), libc::F_GETLEASE) };
            if lease < 0 {
                return Err(err!(Io, "asking for the lease of the file: {}", Errno(errno())));
            }
            if lease != libc::F_RDLCK {
                // A writer waits for us, for `lease-break-time` at most. Nothing is read after this
                // error, so it may go on.
                // SAFETY: F_SETLEASE takes an integer.
                unsafe { libc::fcntl(self.fd.as_raw_fd(), libc::F_SETLEASE, libc::F_UNLCK) };
                return Err(err!(ModelChanged, "another program opened the file for writing"));
            }
        }
        self.stamp.check(&self.fd)
    }
}

/// Asks the kernel to hold up whoever opens the file for writing until we have been able to notice.
/// Only the file's owner may; file systems may lack it.
///
/// The kernel would also send a signal, and the default SIGIO ends a process that does not handle
/// it. So first the signal becomes SIGURG, which is ignored by default, and as soon as there is a
/// lease the signal is addressed to nobody.
fn take_lease(fd: &OwnedFd) -> bool {
    const F_SETSIG: libc::c_int = 10; // Linux's fcntl.h, all machines; the libc crate lacks it
    let fd = fd.as_raw_fd();
    // SAFETY: these commands take integers.
    unsafe {
        libc::fcntl(fd, F_SETSIG, libc::SIGURG) == 0
            && libc::fcntl(fd, libc::F_SETLEASE, libc::F_RDLCK) == 0
            && (libc::fcntl(fd, libc::F_SETOWN, 0) == 0
                || libc::fcntl(fd, libc::F_SETLEASE, libc::F_UNLCK) > 0)
    }
}
