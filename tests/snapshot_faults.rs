//! What a disk and a killed process can do to a snapshot that is being saved: whatever happens, the
//! old file or the new one is there, whole. A save that fails says so with an error, and leaves the
//! old file and nothing beside it. And what they can do to one that is read: it is whole, or an
//! error.
//!
//! Each process under test is this program again, with one test that is none
//! ([`a_process_that_saves`], [`a_process_that_loads`]).
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

use support::skipped;
use support::tiny::Random;
use tern::Error;
use tern::engine::snapshot::{self, Contents, Identity, Put, Reader, Section};

const IDENTITY: Identity<'static> = Identity { model: 1, layout: &[("n_ctx", 64)] };
const SECTION: Section = Section { kind: 1, index: 0 };
const LEN: usize = 200_000;
/// Where the child is to save, and what.
const PATH: &str = "TERN_TEST_SNAPSHOT";
const BYTE: &str = "TERN_TEST_SNAPSHOT_BYTE";
/// The child is traced.
const TRACED: &str = "TERN_TEST_SNAPSHOT_TRACED";
/// Files that are not there; asking for them is seen in a trace.
const BEGIN: &str = "/the-save-begins";
const END: &str = "/the-save-ends";
/// How the child exits where saving is an error, and where it says that the name may be lost.
const FAILED: i32 = 3;
const UNSURE: i32 = 4;

/// A snapshot that is full of one byte.
struct Full(u8);

impl Contents for Full {
    fn sections(
        &self,
        each: &mut dyn FnMut(Section, u64) -> Result<(), Error>,
    ) -> Result<(), Error> {
        each(SECTION, LEN as u64)
    }

    fn write(&self, _: Section, put: &mut Put<'_>) -> Result<(), Error> {
        (0..LEN / 1000).try_for_each(|_| put(&[self.0; 1000]))
    }
}

/// Not a test of its own: what the others run, with [`PATH`] set.
#[test]
fn a_process_that_saves() {
    let Some(path) = std::env::var_os(PATH) else { return };
    let byte: u8 = std::env::var(BYTE).unwrap().parse().unwrap();
    if byte == 0 {
        // Until somebody ends it.
        for byte in 1.. {
            snapshot::save(&IDENTITY, &Full(byte), Path::new(&path)).unwrap();
        }
    }
    if std::env::var_os(TRACED).is_some() {
        // A trace counts the calls of each thread. After these, the next of a name is one that no
        // other thread has come to. In memory, where there is nothing to wait for.
        let memory = PathBuf::from("/dev/shm");
        let memory = if memory.is_dir() { memory } else { std::env::temp_dir() };
        let elsewhere = memory.join(format!("tern-elsewhere-{}", std::process::id()));
        (0..60).for_each(|_| snapshot::save(&IDENTITY, &Full(1), &elsewhere).unwrap());
        fs::remove_file(&elsewhere).unwrap();
    }
    let _ = fs::metadata(BEGIN);
    let result = snapshot::save(&IDENTITY, &Full(byte), Path::new(&path));
    let _ = fs::metadata(END);
    std::process::exit(match result {
        Ok(()) => 0,
        Err(error @ Error::Io(_)) => {
            eprintln!("{error}");
            if error.message().contains("power cut") { UNSURE } else { FAILED }
        }
        Err(error) => panic!("{error}"),
    });
}

/// Not a test of its own, either.
#[test]
fn a_process_that_loads() {
    let Some(path) = std::env::var_os(PATH) else { return };
    if std::env::var_os(TRACED).is_some() {
        (0..60).for_each(|_| drop(snapshot::load(Path::new(&path), &IDENTITY).unwrap()));
    }
    let _ = fs::metadata(BEGIN);
    let result = snapshot::load(Path::new(&path), &IDENTITY);
    let _ = fs::metadata(END);
    std::process::exit(match result {
        Ok(bytes) => i32::from(Reader::new(bytes.as_slice(), &IDENTITY).is_err()),
        Err(error @ Error::Io(_)) => {
            eprintln!("{error}");
            FAILED
        }
        Err(error) => panic!("{error}"),
    });
}

/// A folder with a snapshot in it that is to be saved again, removed afterwards.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Folder {
        let name = format!("tern-snapshot-faults-{}-{name}", std::process::id());
        let folder = Folder(std::env::temp_dir().join(name));
        fs::create_dir_all(&folder.0).unwrap();
        folder.save_old();
        folder
    }

    fn path(&self) -> PathBuf {
        self.0.join("session.tern")
    }

    fn save_old(&self) {
        snapshot::save(&IDENTITY, &Full(b'o'), &self.path()).unwrap();
        assert_eq!(self.beside(), 0, "what was left is removed by the next save");
    }

    /// The byte that the snapshot is full of. It must be whole.
    fn found(&self) -> u8 {
        let bytes = fs::read(self.path()).unwrap();
        let reader = Reader::new(&bytes, &IDENTITY).expect("a whole snapshot");
        let section = reader.section(SECTION).unwrap();
        assert!(section.len() == LEN && section.iter().all(|byte| *byte == section[0]));
        section[0]
    }

    /// Files beside the snapshot.
    fn beside(&self) -> usize {
        fs::read_dir(&self.0).unwrap().count() - 1
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The child that saves, behind other programs, as `strace` and its arguments.
fn child(before: &[&str], path: &Path, byte: u8) -> Command {
    let mut command = process("a_process_that_saves", before, path);
    command.env(BYTE, byte.to_string());
    command
}

fn process(test: &str, before: &[&str], path: &Path) -> Command {
    let this = std::env::current_exe().unwrap();
    let emulator = std::env::var("TERN_TEST_RUNNER").unwrap_or_default();
    let this = emulator.split_whitespace().chain([this.to_str().unwrap()]);
    let words = ["--exact", test, "--test-threads=1", "--nocapture", "-q"];
    let mut all = before.iter().copied().chain(this).chain(words);
    let mut command = Command::new(all.next().unwrap());
    command.args(all).env(PATH, path);
    command.env_remove("RUST_BACKTRACE").stdin(Stdio::null()).stdout(Stdio::null());
    command
}

fn run(before: &[&str], path: &Path) -> (ExitStatus, String) {
    let output = child(before, path, b'n').output().unwrap();
    (output.status, String::from_utf8_lossy(&output.stderr).into_owned())
}

/// The system calls of a save in their order: the name of each, which it is of that name in its
/// thread, and the line of the trace; not those for memory. `None`, said loudly, if they cannot be
/// seen here.
fn system_calls(test: &str, folder: &Folder) -> Option<Vec<(String, u32, String)>> {
    let calls = calls_of("a_process_that_saves", test, folder)?;
    assert_eq!(folder.found(), b'n');
    for expected in ["openat", "flock", "write", "fsync", "rename"] {
        assert!(calls.iter().any(|(name, ..)| name.starts_with(expected)), "no {expected}");
    }
    Some(calls)
}

/// The same of any of the processes.
fn calls_of(child: &str, test: &str, folder: &Folder) -> Option<Vec<(String, u32, String)>> {
    if support::emulated() {
        skipped(test, "an emulator's own system calls are in the way");
        return None;
    }
    let trace = folder.0.join("trace");
    let arguments = ["-s", "200", "-o", trace.to_str().unwrap()];
    match traced(child, &arguments, &folder.path()).output() {
        Ok(output) if output.status.success() => {}
        Ok(output) => {
            skipped(test, &format!("strace: {}", String::from_utf8_lossy(&output.stderr)));
            return None;
        }
        Err(e) => {
            skipped(test, &format!("strace: {e}"));
            return None;
        }
    }
    let text = fs::read_to_string(&trace).unwrap();
    fs::remove_file(&trace).unwrap();
    let begin = text.lines().position(|line| line.contains(BEGIN)).expect("the beginning");
    let end = text.lines().position(|line| line.contains(END)).expect("the end");
    let thread = |line: &str| line.split_whitespace().next().unwrap_or("").to_string();
    let saving = thread(text.lines().nth(begin).unwrap());
    let mut counts = BTreeMap::new();
    let mut calls = Vec::new();
    for (i, line) in text.lines().enumerate() {
        let Some(name) = line.split_once('(').and_then(|(call, _)| call.split_whitespace().last())
        else {
            continue;
        };
        let n = counts.entry((thread(line), name.to_string())).or_insert(0);
        *n += 1;
        if i > begin && i < end && thread(line) == saving {
            calls.push((name.to_string(), *n, line.to_string()));
        }
    }
    let of_memory = ["mmap", "munmap", "brk", "mprotect", "madvise", "mremap"];
    calls.retain(|(name, ..)| !of_memory.contains(&&**name));
    for (name, n, line) in &calls {
        let others = counts.iter().filter(|((t, other), _)| *t != saving && other == name);
        let most = others.map(|(_, n)| *n).max().unwrap_or(0);
        assert!(*n > most, "{line}: call {n} of its thread, but another has {most}");
    }
    Some(calls)
}

/// A process under `strace`.
fn traced(child: &str, arguments: &[&str], path: &Path) -> Command {
    let strace = [&["strace", "-f", "-qq"], arguments].concat();
    let mut command = process(child, &strace, path);
    command.env(TRACED, "1").env(BYTE, b'n'.to_string());
    command
}

/// Saves with a fault in one system call.
fn save_with(fault: &str, name: &str, n: u32, path: &Path) -> (ExitStatus, String) {
    run_with("a_process_that_saves", fault, name, n, path)
}

fn run_with(child: &str, fault: &str, name: &str, n: u32, path: &Path) -> (ExitStatus, String) {
    let (trace, inject) = (format!("trace={name}"), format!("inject={name}:{fault}:when={n}"));
    let arguments = ["-o", "/dev/null", "-e", &trace, "-e", &inject];
    let output = traced(child, &arguments, path).output().unwrap();
    (output.status, String::from_utf8_lossy(&output.stderr).into_owned())
}

/// What a power cut could lose is on the disk before it is needed: no other test sees that.
#[test]
fn the_bytes_are_flushed_before_the_name_and_the_name_before_the_end() {
    let test = "the_bytes_are_flushed_before_the_name_and_the_name_before_the_end";
    let folder = Folder::new("order");
    let Some(calls) = system_calls(test, &folder) else { return };
    let opened = |what: &str| {
        let line = &calls.iter().find(|(name, _, line)| name == "openat" && line.contains(what));
        line.unwrap().2.rsplit_once("= ").unwrap().1.to_string()
    };
    let (file, open_folder) = (opened("O_EXCL"), opened("O_RDONLY"));
    let found: Vec<String> = calls
        .iter()
        .filter(|(name, ..)| ["write", "fsync"].contains(&&**name) || name.starts_with("rename"))
        .map(|(name, _, line)| {
            let first = line.split_once('(').unwrap().1.split([',', ')']).next().unwrap();
            match name.as_str() {
                "write" | "fsync" if first == file => format!("{name} file"),
                "write" | "fsync" if first == open_folder => format!("{name} folder"),
                name if name.starts_with("rename") => "rename".to_string(),
                _ => line.clone(),
            }
        })
        .collect();
    let mut found: Vec<&str> = found.iter().map(String::as_str).collect();
    found.dedup();
    assert_eq!(found, ["write file", "fsync file", "rename", "fsync folder"]);
}

#[test]
fn a_kill_at_any_system_call_leaves_the_old_or_the_new_file() {
    let test = "a_kill_at_any_system_call_leaves_the_old_or_the_new_file";
    let folder = Folder::new("kill");
    let Some(calls) = system_calls(test, &folder) else { return };
    let renamed = calls.iter().position(|(name, ..)| name.starts_with("rename")).unwrap();
    for (i, (name, n, line)) in calls.iter().enumerate() {
        folder.save_old();
        let (status, said) = save_with("signal=9", name, *n, &folder.path());
        assert_eq!(status.signal(), Some(9), "{line}: {status} {said}");
        // It ends before the call.
        assert_eq!(folder.found(), if i > renamed { b'n' } else { b'o' }, "{line}");
        assert!(folder.beside() <= 1, "{line}");
    }
    folder.save_old();
    println!("killed at each of {} system calls", calls.len());
}

#[test]
fn an_error_of_any_system_call_is_an_error_and_leaves_the_old_file() {
    let test = "an_error_of_any_system_call_is_an_error_and_leaves_the_old_file";
    let folder = Folder::new("error");
    let Some(calls) = system_calls(test, &folder) else { return };
    let renamed = calls.iter().position(|(name, ..)| name.starts_with("rename")).unwrap();
    let mut n_failed = 0;
    for (i, (name, n, line)) in calls.iter().enumerate() {
        let errors = match name.as_str() {
            "write" => &["ENOSPC", "EIO", "EDQUOT", "EFBIG"][..],
            "rename" | "renameat" | "renameat2" => &["EIO", "ENOSPC", "EXDEV", "EROFS"],
            // A file that is not closed does no harm here, and Rust's tests end the process for it.
            "close" => continue,
            _ => &["EIO", "EACCES"],
        };
        for error in errors {
            folder.save_old();
            let (status, said) = save_with(&format!("error={error}"), name, *n, &folder.path());
            let found = match status.code() {
                Some(0) => b'n',
                Some(FAILED) => b'o',
                Some(UNSURE) if i > renamed => b'n',
                _ => panic!("{error}: {line}: {status} {said}"),
            };
            assert_eq!(folder.found(), found, "{error}: {line}: {said}");
            assert_eq!(folder.beside(), 0, "{error}: {line}: {said}");
            n_failed += u32::from(status.code() != Some(0));
            // What a save cannot do without.
            let needed = ["write", "fsync", "rename", "renameat", "renameat2"].contains(&&**name);
            assert!(!needed || status.code() != Some(0), "{error}: {line}: succeeds");
        }
    }
    assert!(n_failed >= 16, "{n_failed} saves failed");
    println!("{n_failed} errors came back");
}

#[test]
fn an_interrupted_system_call_is_made_again() {
    let test = "an_interrupted_system_call_is_made_again";
    let folder = Folder::new("interrupted");
    let Some(calls) = system_calls(test, &folder) else { return };
    for (name, n, line) in &calls {
        if !["openat", "write", "fsync", "flock"].contains(&&**name) {
            continue;
        }
        folder.save_old();
        let (status, said) = save_with("error=EINTR", name, *n, &folder.path());
        assert_eq!(status.code(), Some(0), "{line}: {said}");
        assert_eq!(folder.found(), b'n', "{line}");
    }
}

#[test]
fn an_error_of_any_system_call_is_an_error_of_reading_too() {
    let test = "an_error_of_any_system_call_is_an_error_of_reading_too";
    let folder = Folder::new("reading");
    let loads = "a_process_that_loads";
    let Some(calls) = calls_of(loads, test, &folder) else { return };
    assert!(calls.iter().any(|(name, ..)| name == "pread64"), "{calls:?}");
    let mut n_failed = 0;
    for (name, n, line) in &calls {
        for error in ["EIO", "EINTR"] {
            if name == "close" || (error == "EINTR" && !["openat", "pread64"].contains(&&**name)) {
                continue;
            }
            let fault = format!("error={error}");
            let (status, said) = run_with(loads, &fault, name, *n, &folder.path());
            let needed = error == "EIO" && ["openat", "pread64", "fstat"].contains(&&**name);
            let expected = if needed { FAILED } else { 0 };
            // What free memory is asked with is not needed.
            let is_of_the_file = line.contains("session.tern") || name == "pread64";
            if is_of_the_file {
                assert_eq!(status.code(), Some(expected), "{error}: {line}: {said}");
            }
            assert!(matches!(status.code(), Some(0 | FAILED)), "{error}: {line}: {status} {said}");
            n_failed += u32::from(status.code() == Some(FAILED));
        }
    }
    assert!(n_failed >= 3, "{n_failed} errors came back");
}

/// Written over in its place, cut and made longer, by a program that knows nothing of snapshots.
#[test]
fn a_file_that_changes_while_it_is_read_is_whole_or_an_error() {
    let folder = Folder::new("changing");
    let whole = fs::read(folder.path()).unwrap();
    let reads = std::sync::atomic::AtomicBool::new(true);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let file = fs::File::options().write(true).open(folder.path()).unwrap();
            let mut random = Random(9);
            while reads.load(std::sync::atomic::Ordering::Relaxed) {
                let n = random.next() as usize % whole.len();
                file.set_len(n as u64).unwrap();
                std::os::unix::fs::FileExt::write_all_at(&file, &whole, 0).unwrap();
            }
        });
        let mut n_whole = 0;
        for _ in 0..3000 {
            match snapshot::load(&folder.path(), &IDENTITY) {
                Ok(bytes) => match Reader::new(bytes.as_slice(), &IDENTITY) {
                    Ok(reader) => {
                        assert!(reader.section(SECTION).unwrap().iter().all(|byte| *byte == b'o'));
                        n_whole += 1;
                    }
                    Err(error) => assert!(matches!(error, Error::SnapshotCorrupt(_)), "{error}"),
                },
                // An empty file is not read.
                Err(Error::SnapshotCorrupt(_) | Error::Io(_)) => {}
                Err(error) => panic!("{error}"),
            }
        }
        reads.store(false, std::sync::atomic::Ordering::Relaxed);
        println!("{n_whole} of 3000 were whole");
    });
}

/// Wherever that is: in the middle of a write, too.
#[test]
fn a_kill_at_any_time_leaves_a_whole_file() {
    let folder = Folder::new("any-time");
    let mut random = Random(5);
    let mut seen = Vec::new();
    let most_us = if support::emulated() { 1_000_000 } else { 30_000 };
    for _ in 0..60 {
        let mut saving = child(&[], &folder.path(), 0).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_micros(u64::from(random.next() % most_us)));
        saving.kill().unwrap();
        saving.wait().unwrap();
        seen.push(folder.found());
        assert!(folder.beside() <= 1);
    }
    seen.dedup();
    assert!(seen.len() > 5, "it hardly saved: {seen:?}");
    folder.save_old();
}

#[test]
fn a_limit_on_the_size_of_files_is_an_error() {
    let folder = Folder::new("limit");
    // 100 blocks of 512 bytes, or of 1024: half of the snapshot at most.
    let limited = ["/bin/sh", "-c", "ulimit -f 100 && exec \"$0\" \"$@\""];
    let (status, said) = run(&limited, &folder.path());
    assert_eq!(status.code(), Some(FAILED), "{status}: {said}");
    assert!(said.contains("RLIMIT_FSIZE"), "{said}");
    assert_eq!((folder.found(), folder.beside()), (b'o', 0));
}

/// Runs the child with something mounted, if that is possible here, which it is for root mostly.
fn mounted(test: &str, folder: &Folder, mount: &str, then: &str) -> Option<(Option<i32>, String)> {
    let at = folder.0.to_str().unwrap();
    let script = format!("{mount} || exit 77; \"$0\" \"$@\"; s=$?; {then}; exit $s");
    let before = ["unshare", "-m", "sh", "-c", &script];
    let output = child(&before, &folder.path(), b'n').env("AT", at).output();
    match output {
        Ok(output) if output.status.code() != Some(77) && output.status.code() != Some(1) => {
            let said = [output.stderr, output.stdout].concat();
            Some((output.status.code(), String::from_utf8_lossy(&said).into_owned()))
        }
        Ok(output) => {
            skipped(test, &format!("mounting: {}", String::from_utf8_lossy(&output.stderr)));
            None
        }
        Err(e) => {
            skipped(test, &format!("unshare: {e}"));
            None
        }
    }
}

#[test]
fn a_full_disk_is_an_error() {
    let test = "a_full_disk_is_an_error";
    let folder = Folder::new("full");
    // Too small for the new one beside the old one, which then is all that there is.
    let mount = "cp \"$AT/session.tern\" \"$AT.old\" && \
                 mount -t tmpfs -o size=300k none \"$AT\" && mv \"$AT.old\" \"$AT/session.tern\"";
    let then = "grep -q ooooo \"$AT/session.tern\" || s=99; \
                [ \"$(ls -A \"$AT\")\" = session.tern ] || s=98";
    let Some((code, said)) = mounted(test, &folder, mount, then) else { return };
    assert_eq!(code, Some(FAILED), "{said}");
    assert!(said.contains("No space left"), "{said}");
}

#[test]
fn a_disk_that_is_read_only_is_an_error() {
    let test = "a_disk_that_is_read_only_is_an_error";
    let folder = Folder::new("read-only");
    let mount = "mount --bind \"$AT\" \"$AT\" && mount -o remount,bind,ro \"$AT\"";
    let Some((code, said)) = mounted(test, &folder, mount, "true") else { return };
    assert_eq!(code, Some(FAILED), "{said}");
    assert!(said.contains("Read-only"), "{said}");
    assert_eq!((folder.found(), folder.beside()), (b'o', 0));
}

#[test]
fn a_folder_that_may_not_be_written_to_is_an_error() {
    use std::os::unix::fs::PermissionsExt;
    let test = "a_folder_that_may_not_be_written_to_is_an_error";
    let folder = Folder::new("forbidden");
    fs::set_permissions(&folder.0, fs::Permissions::from_mode(0o555)).unwrap();
    // Root may write to it nevertheless, and so becomes another.
    let is_root =
        fs::metadata("/proc/self").is_ok_and(|m| std::os::unix::fs::MetadataExt::uid(&m) == 0);
    let nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--"];
    let before: &[&str] = if is_root { &nobody } else { &[] };
    let tried = child(before, &folder.path(), b'n').output();
    fs::set_permissions(&folder.0, fs::Permissions::from_mode(0o755)).unwrap();
    match tried {
        Ok(tried) if tried.status.code() == Some(FAILED) => {
            let said = String::from_utf8_lossy(&tried.stderr).into_owned();
            assert!(said.contains("Permission denied"), "{said}");
        }
        // The program itself may lie where nobody else may read.
        Ok(tried) if is_root && tried.status.code() != Some(0) => {
            let said = String::from_utf8_lossy(&tried.stderr).into_owned();
            return skipped(test, &format!("setpriv: {said}"));
        }
        Ok(tried) => panic!("{}", tried.status),
        Err(e) => return skipped(test, &format!("setpriv: {e}")),
    }
    assert_eq!((folder.found(), folder.beside()), (b'o', 0));
}

#[test]
fn what_is_no_place_for_a_file_is_an_error() {
    let folder = Folder::new("places");
    let long = folder.0.join("x".repeat(300));
    for path in [
        folder.0.as_path(),
        &folder.0.join("no/such/folder"),
        &folder.path().join("in-a-file"),
        &folder.0.join(".."),
        Path::new(""),
        Path::new("/"),
        Path::new("/dev/full"),
        Path::new("/dev/null"),
        &long,
    ] {
        let error = snapshot::save(&IDENTITY, &Full(1), path).unwrap_err();
        assert!(matches!(error, Error::Io(_)), "{}: {error}", path.display());
    }
    assert_eq!((folder.found(), folder.beside()), (b'o', 0));
}
