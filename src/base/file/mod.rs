//! A model's bytes: read exactly, then copied or mapped.
//!
//! A mapped file is a promise by everyone who can write it. If the file is cut, touching the lost
//! pages kills the process with SIGBUS, unless the application has asked for the handler ([`sigbus`]);
//! neither MAP_PRIVATE nor mlock prevents that, and overwritten bytes show through all of them. So there
//! are three modes, from safe to cheap ([`LoadMode`]).
//! Headers are never parsed from a mapping: what was checked could change before it is used.
#![allow(unsafe_code, reason = "system calls, and slices over mappings")]

pub mod errno;
mod guard;
mod output;
pub mod sigbus;

pub use output::Output;

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use memmap2::{Advice, Mmap, MmapOptions, MmapRaw};

use super::error::{Result, err};
use super::memory::HugePages;
use errno::{Errno, Failed, errno};
use guard::{Guard, Stamp};
use sigbus::Mapped;

/// Bytes between two reports of progress, and between two chances to cancel.
const CHUNK: usize = 4 << 20;

/// Where a model's bytes come from: a regular file, or a part of one, or the caller's memory.
#[derive(Debug)]
pub struct Source<'a> {
    kind: Kind<'a>,
    len: u64,
}

/// Bytes that are read ahead together.
const AHEAD: usize = 64 << 10;

#[derive(Debug)]
enum Kind<'a> {
    File { file: File, offset: u64 },
    Memory(&'a [u8]),
}

/// An open regular file, and what it was when it was opened.
#[derive(Debug)]
struct File {
    fd: OwnedFd,
    stamp: Stamp,
    /// Whether the open file description is ours, and not shared with the caller by `dup`.
    is_ours: bool,
}

/// How a model's weights come into memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum LoadMode {
    /// Reads the file into memory of our own, and write-protects it. Costs as much memory as the
    /// file; after that nothing that happens to the file matters.
    #[default]
    Copy,
    /// Maps the file. All of it is read while loading, so that a bad disk is an error; changes are
    /// noticed at the next [`Bytes::check_unchanged`], which comes before and after whatever reads the
    /// weights. Where the kernel lets us, who opens the file for writing waits for that check (45 s at
    /// most, `/proc/sys/fs/lease-break-time`); else, whoever cuts the file while it is being read ends
    /// the process, without [`sigbus::install`].
    MapGuarded,
    /// Maps the file and reads what is touched when it is touched. For files that nobody writes.
    MapFast,
}

impl LoadMode {
    /// The mode of that name: "copy", "map-guarded" or "map-fast".
    pub fn from_name(name: &str) -> Option<LoadMode> {
        match name {
            "copy" => Some(LoadMode::Copy),
            "map-guarded" => Some(LoadMode::MapGuarded),
            "map-fast" => Some(LoadMode::MapFast),
            _ => None,
        }
    }
}

impl Source<'static> {
    /// Opens a file for reading. Never blocks, whatever the path leads to.
    ///
    /// Fails with `Io` if that is not a readable regular file, or an empty one.
    pub fn open(path: &Path) -> Result<Source<'static>> {
        let bytes = path.as_os_str().as_bytes();
        let mut name = [0u8; libc::PATH_MAX as usize];
        if bytes.is_empty() {
            return Err(err!(Io, "the path is empty"));
        }
        if bytes.contains(&0) {
            return Err(err!(Io, "the path contains a NUL"));
        }
        if bytes.len() >= name.len() {
            return Err(err!(Io, "the path has {} bytes, at most {}", bytes.len(), name.len() - 1));
        }
        name[..bytes.len()].copy_from_slice(bytes);
        // O_NONBLOCK: opening a FIFO without a writer would wait for one. It means nothing for the
        // regular files that are let through below.
        let flags = libc::O_RDONLY | libc::O_CLOEXEC | libc::O_NONBLOCK | libc::O_NOCTTY;
        let fd = loop {
            // SAFETY: `name` ends with a NUL, since `bytes` is shorter and it was all zeros.
            let fd = unsafe { libc::open(name.as_ptr().cast(), flags) };
            match errno() {
                _ if fd >= 0 => break fd,
                libc::EINTR => continue,
                code => return Err(err!(Io, "{}: {}", path.display(), Errno(code))),
            }
        };
        // SAFETY: just opened, and nobody else knows the number.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        let name = path.display();
        let stamp = Stamp::of(&fd, &name)?;
        if stamp.size == 0 {
            return Err(err!(Io, "{name}: the file is empty"));
        }
        let file = File { fd, stamp, is_ours: true };
        Ok(Source { len: stamp.size, kind: Kind::File { file, offset: 0 } })
    }

    /// The `len` bytes from `offset` on of an open file; `u64::MAX` for all to its end. The
    /// descriptor is duplicated, and its file position neither used nor moved.
    ///
    /// Fails with `Io` if it is not a regular file open for reading, and with `InvalidArgument` if
    /// the bytes do not lie in the file.
    pub fn from_fd(fd: RawFd, offset: u64, len: u64) -> Result<Source<'static>> {
        // SAFETY: F_DUPFD_CLOEXEC takes a lower bound for the new number; a bad `fd` is an error.
        let own = unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 3) };
        if own < 0 {
            return Err(err!(Io, "descriptor {fd}: {}", Errno(errno())));
        }
        // SAFETY: just made, and nobody else knows the number.
        let own = unsafe { OwnedFd::from_raw_fd(own) };
        let stamp = Stamp::of(&own, &format_args!("descriptor {fd}"))?;
        // SAFETY: F_GETFL has no argument.
        let flags = unsafe { libc::fcntl(own.as_raw_fd(), libc::F_GETFL) };
        if flags < 0 || flags & libc::O_ACCMODE == libc::O_WRONLY || flags & libc::O_PATH != 0 {
            return Err(err!(Io, "descriptor {fd}: not open for reading"));
        }
        let size = stamp.size;
        let rest = size.checked_sub(offset);
        let len = match rest {
            Some(rest) if len == u64::MAX => rest,
            Some(rest) if len <= rest => len,
            _ => {
                return Err(err!(
                    InvalidArgument,
                    "descriptor {fd}: {len} bytes at offset {offset}, the file has {size}"
                ));
            }
        };
        if len == 0 {
            return Err(err!(Io, "descriptor {fd}: no bytes at offset {offset}"));
        }
        let file = File { fd: own, stamp, is_ours: false };
        Ok(Source { len, kind: Kind::File { file, offset } })
    }
}

impl<'a> Source<'a> {
    /// Bytes in the caller's memory, which must not change while the source lives.
    pub fn from_memory(bytes: &'a [u8]) -> Source<'a> {
        Source { len: bytes.len() as u64, kind: Kind::Memory(bytes) }
    }

    /// How many bytes there are.
    #[allow(clippy::len_without_is_empty, reason = "a length of a file, not of a collection")]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether the bytes are those of a file, which could be mapped.
    pub fn is_file(&self) -> bool {
        matches!(self.kind, Kind::File { .. })
    }

    /// Fills `buf` with the bytes from `offset` on.
    ///
    /// Fails with `BadFile` if there are not so many, `Io` if they cannot be read.
    pub fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        self.check_range(offset, buf.len() as u64)?;
        match &self.kind {
            Kind::Memory(bytes) => {
                let at = offset as usize; // the range lies in memory, so it fits
                buf.copy_from_slice(&bytes[at..at + buf.len()]);
                Ok(())
            }
            Kind::File { file, offset: start } => read_exact(&file.fd, start + offset, buf),
        }
    }

    /// Asks the system to read all of a file into its page cache, and does not wait for that. Fails with
    /// `Io`. Of bytes in memory nothing is to be done.
    pub fn prefetch(&self) -> Result<()> {
        let (Kind::File { file, offset }, Ok(n)) = (&self.kind, usize::try_from(self.len)) else {
            return Ok(());
        };
        if n == 0 {
            return Ok(());
        }
        // No page of it is touched, so that nothing can happen to whoever calls this.
        let map = MmapOptions::new().offset(*offset).len(n).map_raw_read_only(&file.fd);
        let map = map.map_err(|e| err!(Io, "mapping {n} bytes: {}", Failed(&e)))?;
        // Of what is asked for at once Linux reads no more than the device's readahead, mostly 128 KiB.
        (0..n).step_by(AHEAD).try_for_each(|at| {
            map.advise_range(Advice::WillNeed, at, AHEAD.min(n - at))
                .map_err(|e| err!(Io, "reading {n} bytes ahead: {}", Failed(&e)))
        })
    }

    /// Whether the source is the file at `path`, by whichever of its names.
    pub fn is_at(&self, path: &Path) -> bool {
        match &self.kind {
            Kind::File { file, .. } => {
                std::fs::metadata(path).is_ok_and(|found| file.stamp.is_of(&found))
            }
            Kind::Memory(_) => false,
        }
    }

    /// Fails with `ModelChanged` if the file was written to since it was opened.
    pub fn check_unchanged(&self) -> Result<()> {
        match &self.kind {
            Kind::File { file, .. } => file.stamp.check(&file.fd),
            Kind::Memory(_) => Ok(()),
        }
    }

    fn check_range(&self, offset: u64, len: u64) -> Result<()> {
        match offset.checked_add(len) {
            Some(end) if end <= self.len => Ok(()),
            _ => Err(err!(
                BadFile,
                "the file ends at byte {}, expected {len} bytes at {offset}",
                self.len
            )),
        }
    }
}

/// The part of a file that holds the weights; may be read from all threads.
#[derive(Debug)]
pub struct Bytes {
    memory: Memory,
    /// What to compare a mapped file with.
    guard: Option<Guard>,
}

#[derive(Debug)]
enum Memory {
    Empty,
    Owned(Mmap),
    Mapped {
        /// Dropped before the mapping is.
        place: Mapped,
        map: MmapRaw,
    },
}

impl Bytes {
    /// Loads the `len` bytes from `offset` on of a source; they begin at a page's start if copied.
    /// Bytes in the caller's memory are copied in every mode.
    ///
    /// `progress(done, total)` is called with bytes every 4 MiB; false cancels the load.
    /// Fails with `BadFile` if there are not so many bytes, `Io`, `OutOfMemory`, `Aborted`, and
    /// `ModelChanged` if the file was written to since it was opened.
    pub fn load(
        source: &Source<'_>,
        offset: u64,
        len: u64,
        mode: LoadMode,
        huge: HugePages,
        progress: &mut dyn FnMut(u64, u64) -> bool,
    ) -> Result<Bytes> {
        source.check_range(offset, len)?;
        let Ok(n) = usize::try_from(len) else {
            return Err(err!(OutOfMemory, "{len} bytes exceed the address space"));
        };
        if n == 0 {
            report(progress, 0, 0)?;
            return Ok(Bytes { memory: Memory::Empty, guard: None });
        }
        match (&source.kind, mode) {
            (Kind::Memory(_), _) | (_, LoadMode::Copy) => {
                let bytes = Bytes::build(n, huge, |map| copy(source, offset, map, progress))?;
                source.check_unchanged()?;
                Ok(bytes)
            }
            (Kind::File { file, offset: start }, LoadMode::MapGuarded | LoadMode::MapFast) => {
                let guard = match mode {
                    LoadMode::MapGuarded => Some(Guard::new(file)?),
                    _ => None,
                };
                let map = MmapOptions::new()
                    .offset(start + offset)
                    .len(n)
                    .map_raw_read_only(&file.fd)
                    .map_err(|e| err!(Io, "mapping {n} bytes: {}", Failed(&e)))?;
                let place = Mapped::new(map.as_ptr(), n)?;
                if guard.is_some() {
                    populate(&map, &file.fd, start + offset, progress)?;
                } else {
                    report(progress, 0, len)?;
                    report(progress, len, len)?;
                }
                let bytes = Bytes { memory: Memory::Mapped { place, map }, guard };
                bytes.check_unchanged()?;
                Ok(bytes)
            }
        }
    }

    /// Memory of `len` bytes, from a page's start on, that `fill` writes and nobody afterwards: it is
    /// write-protected. Zero where `fill` writes nothing.
    ///
    /// Fails with `OutOfMemory`, and as `fill` does.
    pub fn build(
        len: usize,
        huge: HugePages,
        fill: impl FnOnce(&mut [u8]) -> Result<()>,
    ) -> Result<Bytes> {
        if len == 0 {
            fill(&mut [])?;
            return Ok(Bytes { memory: Memory::Empty, guard: None });
        }
        let no_memory =
            |e: std::io::Error| err!(OutOfMemory, "no memory for {len} bytes: {}", Failed(&e));
        let mut map = MmapOptions::new().len(len).map_anon().map_err(no_memory)?;
        // Fewer TLB misses if the kernel has huge pages; no harm if it has not.
        let _ = map.advise(match huge {
            HugePages::Never => Advice::NoHugePage,
            HugePages::Default | HugePages::Transparent => Advice::HugePage,
        });
        fill(&mut map)?;
        let memory = Memory::Owned(map.make_read_only().map_err(no_memory)?);
        Ok(Bytes { memory, guard: None })
    }

    /// The bytes. Of a mapped file they are what the file holds now; every pattern of bits is a
    /// weight, so that readers stay within bounds whatever it is.
    pub fn as_slice(&self) -> &[u8] {
        match &self.memory {
            Memory::Empty => &[],
            Memory::Owned(map) => map,
            Memory::Mapped { map, .. } => {
                // SAFETY: the mapping is readable, this long, and lives as long as `self`. That
                // nobody changes the file is what the caller of a map mode answers for; a change
                // gives other numbers, and the compiler is given no fact that it could break: bytes
                // are read through opaque pointers, and no branch reads one twice.
                unsafe { std::slice::from_raw_parts(map.as_ptr(), map.len()) }
            }
        }
    }

    /// Locks the bytes in memory, as `memory` is to be; of a mapped file that reads all of it.
    ///
    /// Fails with `OutOfMemory` if they must be locked and cannot be.
    pub fn lock(&self, memory: &super::memory::Memory) -> Result<()> {
        match &self.memory {
            Memory::Empty => Ok(()),
            Memory::Owned(map) => memory.lock(map.len() as u64, || map.lock()),
            Memory::Mapped { map, .. } => memory.lock(map.len() as u64, || map.lock()),
        }
    }

    /// Whether the mapped file is still what was loaded; in the modes that do not watch it, whether it
    /// could be read.
    ///
    /// Fails with `ModelChanged`, and as [`Bytes::check_read`] does. Costs two system calls if it is
    /// watched.
    pub fn check_unchanged(&self) -> Result<()> {
        self.guard.as_ref().map_or(Ok(()), Guard::check)?;
        self.check_read()
    }

    /// Whether all that was read so far was there. Costs nothing.
    ///
    /// Fails with `Io`, or `ModelChanged` if it is watched, from the first page on that could not be
    /// read ([`sigbus::install`]).
    pub fn check_read(&self) -> Result<()> {
        match &self.memory {
            Memory::Mapped { place, .. } if place.is_lost() => {
                self.guard.as_ref().map_or(Ok(()), Guard::check)?;
                Err(err!(Io, "the model's file was cut, or cannot be read any more"))
            }
            _ => Ok(()),
        }
    }

    /// Bytes of memory that belong to the process alone; 0 if the file is mapped.
    pub fn heap_bytes(&self) -> u64 {
        match &self.memory {
            Memory::Owned(map) => map.len() as u64,
            Memory::Empty | Memory::Mapped { .. } => 0,
        }
    }
}

/// Reads the bytes from `offset` on of a source, as many as there is room for.
fn copy(
    source: &Source<'_>,
    offset: u64,
    to: &mut [u8],
    progress: &mut dyn FnMut(u64, u64) -> bool,
) -> Result<()> {
    let total = to.len() as u64;
    let mut done = 0;
    report(progress, 0, total)?;
    for chunk in to.chunks_mut(CHUNK) {
        source.read_at(offset + done, chunk)?;
        done += chunk.len() as u64;
        report(progress, done, total)?;
    }
    Ok(())
}

/// Reads all of a mapping, so that what cannot be read is an error now and not a signal later.
fn populate(
    map: &MmapRaw,
    fd: &OwnedFd,
    offset: u64,
    progress: &mut dyn FnMut(u64, u64) -> bool,
) -> Result<()> {
    let len = map.len();
    let mut done = 0;
    let mut advice_works = true;
    report(progress, 0, len as u64)?;
    while done < len {
        let n = CHUNK.min(len - done);
        if advice_works {
            match map.advise_range(Advice::PopulateRead, done, n) {
                Ok(()) => {}
                // Before Linux 5.14, or under an emulator: read the file into the page cache.
                Err(e) if e.raw_os_error() == Some(libc::EINVAL) => advice_works = false,
                Err(e) if e.raw_os_error() == Some(libc::EINTR) => continue,
                Err(e) => {
                    return Err(err!(Io, "reading bytes {done} to {}: {}", done + n, Failed(&e)));
                }
            }
        }
        if !advice_works {
            let mut block = [0u8; 1 << 14];
            for at in (done..done + n).step_by(block.len()) {
                let m = block.len().min(done + n - at);
                read_exact(fd, offset + at as u64, &mut block[..m])?;
            }
        }
        done += n;
        report(progress, done as u64, len as u64)?;
    }
    Ok(())
}

/// Reports progress; an error if the load is to be cancelled.
pub fn report(progress: &mut dyn FnMut(u64, u64) -> bool, done: u64, total: u64) -> Result<()> {
    match progress(done, total) {
        true => Ok(()),
        false => Err(err!(Aborted, "loading was cancelled at byte {done} of {total}")),
    }
}

/// Fills `buf` from `offset` of a file on, through interruptions and short reads.
fn read_exact(fd: &OwnedFd, offset: u64, buf: &mut [u8]) -> Result<()> {
    let mut done = 0;
    while done < buf.len() {
        let rest = &mut buf[done..];
        let Ok(at) = libc::off_t::try_from(offset + done as u64) else {
            return Err(err!(Io, "offset {offset} is past what the system can read"));
        };
        // SAFETY: writes at most `rest.len()` bytes at `rest`.
        let n = unsafe { libc::pread(fd.as_raw_fd(), rest.as_mut_ptr().cast(), rest.len(), at) };
        match n {
            1.. => done += n as usize, // at most rest.len()
            0 => return Err(err!(BadFile, "the file was cut at byte {at} while it was read")),
            _ if errno() == libc::EINTR => {}
            _ => return Err(err!(Io, "reading at byte {at}: {}", Errno(errno()))),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::error::Error;
    use std::fs;
    use std::io::Write;
    use std::path::PathBuf;

    const HUGE: HugePages = HugePages::Default;

    /// A file of its own for a test, removed afterwards.
    struct Temp(PathBuf);

    impl Temp {
        fn new(name: &str, bytes: &[u8]) -> Temp {
            let path = std::env::temp_dir().join(format!("tern-{}-{name}", std::process::id()));
            fs::write(&path, bytes).unwrap();
            Temp(path)
        }
    }

    impl Drop for Temp {
        fn drop(&mut self) {
            let _ = fs::remove_file(&self.0);
        }
    }

    fn pattern(len: usize) -> Vec<u8> {
        (0..len).map(|i| (i * 31 + i / 251) as u8).collect()
    }

    const MODES: [LoadMode; 3] = [LoadMode::Copy, LoadMode::MapGuarded, LoadMode::MapFast];

    #[test]
    fn all_sources_and_modes_give_the_same_bytes() {
        let whole = pattern(2 * CHUNK + 12345);
        let file = Temp::new("same", &whole);
        let handle = fs::File::open(&file.0).unwrap();
        let (fd, skip) = (handle.as_raw_fd(), 777); // on no page's start
        let sources = [
            (0, Source::open(&file.0).unwrap()),
            (skip, Source::from_fd(fd, skip as u64, u64::MAX).unwrap()),
            (skip, Source::from_fd(fd, skip as u64, 5 << 20).unwrap()),
            (skip, Source::from_memory(&whole[skip..])),
        ];
        for (skip, source) in &sources {
            for mode in MODES {
                for (offset, len) in [(0, source.len()), (32, 100), (5001, 4 << 20), (7, 0)] {
                    let mut reports = Vec::new();
                    let mut progress = |done, total| {
                        reports.push((done, total));
                        true
                    };
                    let bytes =
                        Bytes::load(source, offset, len, mode, HUGE, &mut progress).unwrap();
                    let start = skip + offset as usize;
                    assert!(bytes.as_slice() == &whole[start..start + len as usize]);
                    bytes.check_unchanged().unwrap();
                    let copied = mode == LoadMode::Copy || matches!(source.kind, Kind::Memory(_));
                    assert_eq!(bytes.heap_bytes(), if copied { len } else { 0 });
                    assert!(reports.is_sorted() && reports[0] == (0, len));
                    assert_eq!(reports.last(), Some(&(len, len)));
                    let mut buf = vec![0; len as usize];
                    source.read_at(offset, &mut buf).unwrap();
                    assert!(buf == bytes.as_slice());
                }
            }
        }
    }

    #[test]
    fn reading_past_the_end_is_an_error() {
        let file = Temp::new("end", &pattern(100));
        let memory = pattern(100);
        for source in [Source::open(&file.0).unwrap(), Source::from_memory(&memory)] {
            for (offset, len) in [(0, 101), (100, 1), (101, 0), (u64::MAX, 1), (u64::MAX, 0)] {
                let error = source.read_at(offset, &mut vec![0; len]).unwrap_err();
                assert!(matches!(error, Error::BadFile(_)), "{error}");
                for mode in MODES {
                    let error =
                        Bytes::load(&source, offset, len as u64, mode, HUGE, &mut |_, _| true);
                    assert!(matches!(error, Err(Error::BadFile(_))));
                }
            }
            source.read_at(100, &mut []).unwrap();
        }
    }

    #[test]
    fn a_load_can_be_cancelled() {
        let file = Temp::new("cancel", &pattern(3 * CHUNK));
        let source = Source::open(&file.0).unwrap();
        for mode in [LoadMode::Copy, LoadMode::MapGuarded] {
            let mut calls = 0;
            let mut progress = |_, _| {
                calls += 1;
                calls < 3
            };
            let error =
                Bytes::load(&source, 0, source.len(), mode, HUGE, &mut progress).unwrap_err();
            assert!(matches!(error, Error::Aborted(_)), "{error}");
            assert_eq!(calls, 3);
        }
    }

    #[test]
    fn what_is_not_a_file_with_bytes_is_refused_at_once() {
        let empty = Temp::new("empty", b"");
        let fifo = Temp(std::env::temp_dir().join(format!("tern-{}-fifo", std::process::id())));
        let name = std::ffi::CString::new(fifo.0.as_os_str().as_bytes()).unwrap();
        // SAFETY: a NUL-terminated path.
        assert_eq!(unsafe { libc::mkfifo(name.as_ptr(), 0o600) }, 0);
        let long = "x".repeat(5000);
        let cases: [(&Path, &str); 8] = [
            (&empty.0, "empty"),
            (&fifo.0, "a pipe, expected a regular file"),
            (&std::env::temp_dir(), "a directory"),
            (Path::new("/dev/null"), "a device"),
            (Path::new("/nowhere/model.gguf"), "No such file"),
            (Path::new("a\0b"), "NUL"),
            (Path::new(""), "empty"),
            (Path::new(&long), "5000 bytes"),
        ];
        for (path, expected) in cases {
            let error = Source::open(path).unwrap_err();
            assert!(matches!(error, Error::Io(_)), "{error}");
            assert!(error.message().contains(expected), "{error}");
        }
    }

    #[test]
    fn a_descriptors_range_is_checked() {
        let file = Temp::new("range", &pattern(1000));
        let handle = fs::File::open(&file.0).unwrap();
        let fd = handle.as_raw_fd();
        for (offset, len) in [(0, 1001), (1000, 1), (1001, u64::MAX), (1, u64::MAX - 1)] {
            let error = Source::from_fd(fd, offset, len).unwrap_err();
            assert!(matches!(error, Error::InvalidArgument(_)), "{offset} {len}: {error}");
        }
        assert!(matches!(Source::from_fd(fd, 1000, u64::MAX), Err(Error::Io(_))));
        assert!(matches!(Source::from_fd(-1, 0, 1), Err(Error::Io(_))));
        let write_only = fs::OpenOptions::new().append(true).open(&file.0).unwrap();
        let error = Source::from_fd(write_only.as_raw_fd(), 0, 10).unwrap_err();
        assert!(error.message().contains("not open for reading"), "{error}");
        // The source has its own descriptor: the caller's may close.
        let source = Source::from_fd(fd, 10, 20).unwrap();
        drop(handle);
        let mut buf = [0; 20];
        source.read_at(0, &mut buf).unwrap();
        assert_eq!(buf, pattern(1000)[10..30]);
    }

    #[test]
    fn a_copy_outlives_its_file() {
        let whole = pattern(100_000);
        let file = Temp::new("outlive", &whole);
        let source = Source::open(&file.0).unwrap();
        let bytes =
            Bytes::load(&source, 0, source.len(), LoadMode::Copy, HUGE, &mut |_, _| true).unwrap();
        fs::write(&file.0, b"gone").unwrap();
        bytes.check_unchanged().unwrap();
        assert!(bytes.as_slice() == whole);
    }

    #[test]
    fn a_file_that_changes_while_it_is_copied_is_noticed() {
        let file = Temp::new("torn", &pattern(CHUNK * 2));
        let source = Source::open(&file.0).unwrap();
        let mut progress = |done, _| {
            if done > 0 {
                let mut file = fs::OpenOptions::new().append(true).open(&file.0).unwrap();
                file.write_all(b"more").unwrap();
            }
            true
        };
        let error = Bytes::load(&source, 0, source.len(), LoadMode::Copy, HUGE, &mut progress);
        assert!(matches!(error, Err(Error::ModelChanged(_))));
        let mut progress = |_, _| {
            fs::OpenOptions::new().write(true).open(&file.0).unwrap().set_len(10).unwrap();
            true
        };
        let error = Bytes::load(&source, 0, source.len(), LoadMode::Copy, HUGE, &mut progress);
        assert!(matches!(error, Err(Error::BadFile(_))));
    }

    #[test]
    fn a_guarded_map_notices_a_writer() {
        let file = Temp::new("guarded", &pattern(100_000));
        let source = Source::open(&file.0).unwrap();
        let load =
            |mode| Bytes::load(&source, 0, source.len(), mode, HUGE, &mut |_, _| true).unwrap();
        let (guarded, fast) = (load(LoadMode::MapGuarded), load(LoadMode::MapFast));
        guarded.check_unchanged().unwrap();
        let has_lease = guarded.guard.as_ref().is_some_and(|g| g.has_lease);
        eprintln!("lease: {has_lease}");
        let path = file.0.clone();
        let writer = std::thread::spawn(move || {
            // Waits for the lease if there is one, which the check below gives back.
            let mut file = fs::OpenOptions::new().append(true).open(path).unwrap();
            file.write_all(b"more").unwrap();
        });
        let start = std::time::Instant::now();
        let error = loop {
            match guarded.check_unchanged() {
                Err(error) => break error,
                Ok(()) => assert!(start.elapsed().as_secs() < 20, "nothing noticed"),
            }
        };
        assert!(matches!(error, Error::ModelChanged(_)), "{error}");
        writer.join().unwrap();
        assert!(start.elapsed().as_secs() < 20, "the writer was held up");
        assert!(matches!(guarded.check_unchanged(), Err(Error::ModelChanged(_))));
        fast.check_unchanged().unwrap();
    }

    #[test]
    fn descriptors_do_not_leak_into_children() {
        let file = Temp::new("cloexec", b"x");
        let handle = fs::File::open(&file.0).unwrap();
        for source in
            [Source::open(&file.0).unwrap(), Source::from_fd(handle.as_raw_fd(), 0, 1).unwrap()]
        {
            let Kind::File { file, .. } = &source.kind else { panic!("a file") };
            // SAFETY: F_GETFD has no argument.
            let flags = unsafe { libc::fcntl(file.fd.as_raw_fd(), libc::F_GETFD) };
            assert_eq!(flags & libc::FD_CLOEXEC, libc::FD_CLOEXEC);
        }
    }
}
