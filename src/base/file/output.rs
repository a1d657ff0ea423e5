//! A file that appears whole or not at all: written beside its place, then moved there.

use std::fs;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use crate::base::error::{Result, err};

/// Names that are tried for the file that is being written.
const NAMES: u32 = 100;

/// A file being written; removed when dropped before [`Output::finish`].
#[derive(Debug)]
pub struct Output {
    file: fs::File,
    temporary: PathBuf,
    target: PathBuf,
}

impl Output {
    /// Begins a file that will stand at `target`, where a regular file may be: it is replaced.
    ///
    /// Fails with `Io` if something else is there, or the folder cannot be written to.
    pub fn create(target: &Path) -> Result<Output> {
        match fs::metadata(target) {
            Ok(found) if !found.is_file() => {
                return Err(err!(Io, "{}: there, and no regular file", target.display()));
            }
            Err(e) if e.kind() != ErrorKind::NotFound => {
                return Err(err!(Io, "{}: {e}", target.display()));
            }
            _ => {}
        }
        if target.file_name().is_none() {
            return Err(err!(Io, "{}: not the name of a file", target.display()));
        }
        for i in 0..NAMES {
            let temporary = target.with_file_name(format!(".tern-{}-{i}.tmp", std::process::id()));
            match fs::File::create_new(&temporary) {
                Ok(file) => return Ok(Output { file, temporary, target: target.to_path_buf() }),
                Err(e) if e.kind() == ErrorKind::AlreadyExists => {}
                Err(e) => return Err(err!(Io, "{}: {e}", temporary.display())),
            }
        }
        Err(err!(Io, "{}: {NAMES} unfinished files stand beside it", target.display()))
    }

    /// Appends bytes.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes).map_err(|e| err!(Io, "{}: {e}", self.target.display()))
    }

    /// Waits until all bytes are on the disk, then gives the file its name.
    pub fn finish(self) -> Result<()> {
        let failed = |e: std::io::Error| err!(Io, "{}: {e}", self.target.display());
        self.file.sync_all().map_err(failed)?;
        fs::rename(&self.temporary, &self.target).map_err(failed)?;
        // The name itself is on the disk once the folder is. Some file systems cannot say so.
        let folder = self.target.parent().filter(|folder| !folder.as_os_str().is_empty());
        if let Ok(folder) = fs::File::open(folder.unwrap_or(Path::new("."))) {
            let _ = folder.sync_all();
        }
        Ok(())
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        // After `finish` there is no such file any more.
        let _ = fs::remove_file(&self.temporary);
    }
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
}
