//! A file that appears whole or not at all: written beside its place, then moved there.
//!
//! Whatever ends the program meanwhile, the old file or the new one stands there afterwards. What a
//! killed program leaves beside it is removed when a file of that name is next written: whoever
//! writes holds a lock, so that a file without one was left.

use std::ffi::OsStr;
use std::fs;
use std::io::{ErrorKind, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::errno::Failed;
use crate::base::error::{Result, err};

/// Names that are tried for the file that is being written.
const NAMES: u32 = 100;

/// A file being written; removed when dropped before [`Output::finish`].
#[derive(Debug)]
pub struct Output {
    /// Locked, until it is closed.
    file: fs::File,
    /// The folder of both names, kept open so that it can be flushed.
    folder: fs::File,
    temporary: PathBuf,
    target: PathBuf,
    /// It has its name, and nothing is to be removed any more.
    is_there: bool,
    written: u64,
    /// Bytes that a file of this process may have.
    limit: u64,
}

impl Output {
    /// Begins a file that will stand at `target`, where a regular file may be: it is replaced.
    ///
    /// Fails with `Io` if something else is there, or the folder cannot be written to.
    pub fn create(target: &Path) -> Result<Output> {
        Output::with_mode(target, 0o666)
    }

    /// The same for a file that only its owner may read.
    pub fn create_private(target: &Path) -> Result<Output> {
        Output::with_mode(target, 0o600)
    }

    /// A file of these permissions, less those that the process does not give.
    fn with_mode(target: &Path, mode: u32) -> Result<Output> {
        match fs::metadata(target) {
            Ok(found) if !found.is_file() => {
                return Err(err!(Io, "{}: there, and no regular file", target.display()));
            }
            Err(e) if e.kind() != ErrorKind::NotFound => {
                return Err(err!(Io, "{}: {}", target.display(), Failed(&e)));
            }
            _ => {}
        }
        let Some(name) = target.file_name() else {
            return Err(err!(Io, "{}: not the name of a file", target.display()));
        };
        // A name of its own for each target, so that what is left is found again.
        let hash = hash(name.as_bytes());
        let folder = target.parent().filter(|folder| !folder.as_os_str().is_empty());
        let folder = folder.unwrap_or(Path::new("."));
        let open = fs::File::open(folder);
        let open = open.map_err(|e| err!(Io, "{}: {}", folder.display(), Failed(&e)))?;
        let mut options = fs::OpenOptions::new();
        options.write(true).create_new(true).mode(mode);
        let copy = joined(Path::new(""), target)?;
        let mut i = 0;
        // Of what others leave or take away meanwhile, each name may cost some attempts.
        for _ in 0..4 * NAMES {
            let mut name = [0; 32];
            let n = write_name(&mut name, hash, i);
            let temporary = joined(folder, Path::new(OsStr::from_bytes(&name[..n])))?;
            match options.open(&temporary) {
                Ok(file) if is_ours(&file) => {
                    return Ok(Output {
                        file,
                        folder: open,
                        temporary,
                        target: copy,
                        is_there: false,
                        written: 0,
                        limit: size_limit(),
                    });
                }
                Ok(_) => {} // taken for one that was left
                Err(e) if e.kind() == ErrorKind::AlreadyExists => {
                    if !remove_left(&temporary) {
                        i += 1;
                    }
                    if i == NAMES {
                        break;
                    }
                }
                Err(e) => return Err(err!(Io, "{}: {}", temporary.display(), Failed(&e))),
            }
        }
        Err(err!(Io, "{}: {NAMES} unfinished files stand beside it", target.display()))
    }

    /// Appends bytes.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        // Past the limit the kernel sends SIGXFSZ, which by default ends the process.
        self.written = self.written.saturating_add(bytes.len() as u64);
        if self.written > self.limit {
            let (target, limit) = (self.target.display(), self.limit);
            return Err(err!(Io, "{target}: a file may have at most {limit} bytes (RLIMIT_FSIZE)"));
        }
        self.file
            .write_all(bytes)
            .map_err(|e| err!(Io, "{}: {}", self.target.display(), Failed(&e)))
    }

    /// Waits until all bytes are on the disk, gives the file its name, and waits for the name.
    ///
    /// Fails with `Io`; the old file is then untouched, unless it is only the name of the new one
    /// that is not known to be on the disk, as the sentence then says.
    pub fn finish(mut self) -> Result<()> {
        let failed = |e: std::io::Error| err!(Io, "{}: {}", self.target.display(), Failed(&e));
        self.file.sync_all().map_err(failed)?;
        fs::rename(&self.temporary, &self.target).map_err(failed)?;
        self.is_there = true;
        match self.folder.sync_all() {
            // Some file systems have no such call, and nothing that it could do.
            Err(e) if e.kind() != ErrorKind::InvalidInput => Err(err!(
                Io,
                "{}: written, but a power cut may bring the old file back: {}",
                self.target.display(),
                Failed(&e)
            )),
            _ => Ok(()),
        }
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        if !self.is_there {
            let _ = fs::remove_file(&self.temporary);
        }
    }
}

/// FNV-1a. Targets of one hash share names, which costs them a look at each other's locks.
fn hash(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |hash, b| (hash ^ u32::from(*b)).wrapping_mul(0x0100_0193))
}

/// The name of a file that is being written, in a buffer that has room for it; gives its bytes.
fn write_name(name: &mut [u8; 32], hash: u32, i: u32) -> usize {
    let mut rest = name.as_mut_slice();
    let fits = write!(rest, ".tern-{hash:08x}-{i}.tmp");
    debug_assert!(fits.is_ok());
    let left = rest.len();
    name.len() - left
}

/// A path of its own.
fn joined(folder: &Path, name: &Path) -> Result<PathBuf> {
    let n = folder.as_os_str().len() + 1 + name.as_os_str().len();
    let mut path = PathBuf::new();
    path.try_reserve_exact(n)
        .map_err(|_| err!(OutOfMemory, "no memory for a path of {n} bytes"))?;
    path.push(folder);
    path.push(name);
    Ok(path)
}

/// Locks a file that was just made. Fails if another program was faster, and removed it.
fn is_ours(file: &fs::File) -> bool {
    match file.try_lock() {
        Err(fs::TryLockError::WouldBlock) => false,
        // Where there are no locks, nobody removes anything.
        Ok(()) | Err(fs::TryLockError::Error(_)) => {
            file.metadata().is_ok_and(|found| found.nlink() > 0)
        }
    }
}

/// Removes a file that nobody is writing; gives whether it did.
fn remove_left(temporary: &Path) -> bool {
    let mut options = fs::OpenOptions::new();
    options.read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
    let Ok(file) = options.open(temporary) else { return false };
    if file.try_lock().is_err() {
        return false;
    }
    // Another program may have removed it and made one of the same name. With the lock on what has
    // the name now, nobody else removes it.
    let id = |found: fs::Metadata| (found.dev(), found.ino());
    let locked = file.metadata().map(id);
    let named = fs::symlink_metadata(temporary).map(id);
    matches!((locked, named), (Ok(a), Ok(b)) if a == b) && fs::remove_file(temporary).is_ok()
}

/// Bytes that a file of this process may have.
fn size_limit() -> u64 {
    let mut limit = libc::rlimit { rlim_cur: libc::RLIM_INFINITY, rlim_max: libc::RLIM_INFINITY };
    // SAFETY: it writes one `rlimit`. If it fails, it writes nothing, and there is no limit.
    unsafe { libc::getrlimit(libc::RLIMIT_FSIZE, &mut limit) };
    limit.rlim_cur
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::error::Error;

    fn folder(name: &str) -> PathBuf {
        let folder =
            std::env::temp_dir().join(format!("tern-output-{}-{name}", std::process::id()));
        fs::create_dir_all(&folder).expect("a folder");
        folder
    }

    fn names(folder: &Path) -> Vec<std::ffi::OsString> {
        fs::read_dir(folder).expect("a folder").map(|e| e.expect("an entry").file_name()).collect()
    }

    #[test]
    fn a_file_appears_when_it_is_whole() {
        let folder = folder("whole");
        let target = folder.join("a");
        fs::write(&target, "old").expect("written");
        let mut output = Output::create(&target).expect("created");
        output.write(b"ne").and_then(|()| output.write(b"w")).expect("written");
        assert_eq!(fs::read(&target).expect("read"), b"old");
        output.finish().expect("finished");
        assert_eq!(fs::read(&target).expect("read"), b"new");
        assert_eq!(names(&folder), ["a"]);

        drop(Output::create(&folder.join("b")).expect("created"));
        assert_eq!(names(&folder), ["a"]);
        fs::remove_dir_all(&folder).expect("removed");
    }

    #[test]
    fn only_regular_files_are_replaced() {
        let folder = folder("kinds");
        for target in [folder.as_path(), Path::new("/dev/null"), &folder.join("none/a")] {
            let error = Output::create(target).expect_err("no file can be there");
            assert!(matches!(error, Error::Io(_)), "{}: {error}", target.display());
        }
        fs::remove_dir_all(&folder).expect("removed");
    }

    #[test]
    fn what_a_killed_program_left_is_removed() {
        let folder = folder("left");
        let target = folder.join("a");
        let first = Output::create(&target).expect("created");
        let second = Output::create(&target).expect("created");
        assert_ne!(first.temporary, second.temporary, "the first is being written");
        let left = first.temporary.clone();
        drop((first, second));
        fs::write(&left, "half").expect("written");
        let mut output = Output::create(&target).expect("created");
        assert_eq!(output.temporary, left);
        output.write(b"whole").expect("written");
        output.finish().expect("finished");
        assert_eq!(fs::read(&target).expect("read"), b"whole");
        assert_eq!(names(&folder), ["a"]);
        fs::remove_dir_all(&folder).expect("removed");
    }

    /// Writers of one file, many at a time: each name belongs to one of them.
    #[test]
    fn writers_at_a_time_leave_one_whole_file() {
        let folder = folder("many");
        let target = folder.join("a");
        std::thread::scope(|scope| {
            for byte in 0..4 {
                let target = &target;
                scope.spawn(move || {
                    for _ in 0..50 {
                        let mut output = Output::create(target).expect("created");
                        output.write(&[byte; 1000]).expect("written");
                        output.write(&[byte; 1000]).expect("written");
                        output.finish().expect("finished");
                        let found = fs::read(target).expect("read");
                        assert!(found.len() == 2000 && found.iter().all(|b| *b == found[0]));
                    }
                });
            }
        });
        assert_eq!(names(&folder), ["a"]);
        fs::remove_dir_all(&folder).expect("removed");
    }

    #[test]
    fn a_private_file_is_its_owners() {
        let folder = folder("private");
        let target = folder.join("a");
        Output::create_private(&target).and_then(Output::finish).expect("written");
        assert_eq!(fs::metadata(&target).expect("there").mode() & 0o7777, 0o600);
        fs::remove_dir_all(&folder).expect("removed");
    }
}
