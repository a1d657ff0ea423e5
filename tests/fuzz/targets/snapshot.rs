//! The container of snapshots: what is read from memory and from a file is the same.
#![allow(unsafe_code, reason = "a file in memory")]

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write as _;
use std::os::fd::{AsRawFd, FromRawFd};
use std::path::PathBuf;

use tern::base::crc32c::crc32c;
use tern::engine::snapshot::{self, Contents, Identity, Put, Reader, Section, Stored, StoredFile};

use super::noise;
use crate::memory;

const HEADER: usize = 36;
const CHUNK: usize = 64 << 10;
const LAYOUT: [(&str, u64); 3] = [("n_ctx", 4096), ("k_type", 2), ("rope_base", 0x461c_4000)];
const IDENTITY: Identity<'static> = Identity { model: 0x0123_4567_89ab_cdef, layout: &LAYOUT };

/// Sections in memory, put in parts of so many bytes.
#[derive(Clone)]
struct Made {
    sections: BTreeMap<Section, Vec<u8>>,
    part: usize,
}

impl Contents for Made {
    fn sections(&self, each: &mut dyn FnMut(Section, u64) -> tern::Result<()>) -> tern::Result<()> {
        self.sections.iter().try_for_each(|(section, bytes)| each(*section, bytes.len() as u64))
    }

    fn write(&self, section: Section, put: &mut Put<'_>) -> tern::Result<()> {
        self.sections[&section].chunks(self.part).try_for_each(put)
    }
}

/// Makes all checksums right again, as who means harm does.
pub fn seal(bytes: &mut [u8]) {
    if bytes.len() < HEADER {
        return;
    }
    let crc = crc32c(&bytes[..HEADER - 4]);
    bytes[HEADER - 4..HEADER].copy_from_slice(&crc.to_le_bytes());
    let body = u64::from_le_bytes(bytes[16..24].try_into().unwrap());
    let Some(body) = usize::try_from(body).ok().filter(|&body| body <= bytes.len()) else { return };
    let crcs: Vec<u8> = bytes[..body].chunks(CHUNK).flat_map(|c| crc32c(c).to_le_bytes()).collect();
    let last = crc32c(&crcs).to_le_bytes();
    bytes[body..].iter_mut().zip(crcs.into_iter().chain(last)).for_each(|(to, crc)| *to = crc);
}

/// A file without a name that holds these bytes, and a path that leads to it.
pub fn file(bytes: &[u8]) -> (File, PathBuf) {
    // SAFETY: a name that ends in NUL, and a descriptor that nobody else knows.
    let mut file = unsafe {
        let fd = libc::memfd_create(c"fuzz".as_ptr(), libc::MFD_CLOEXEC);
        assert!(fd >= 0, "no file in memory");
        File::from_raw_fd(fd)
    };
    file.write_all(bytes).unwrap();
    let path = format!("/proc/self/fd/{}", file.as_raw_fd()).into();
    (file, path)
}

/// An input begins with a choice: whether checksums are made right, or its bytes are what is saved.
pub fn run(input: &[u8]) {
    let Some((mode, rest)) = input.split_first() else { return };
    if mode % 4 == 3 {
        return there_and_back(rest);
    }
    let mut bytes = rest.to_vec();
    if mode % 4 > 0 {
        seal(&mut bytes);
    }
    read(&bytes);
}

fn read(bytes: &[u8]) {
    let is_same = |a: &Reader<'_>, b: &Reader<'_>| a.sections().eq(b.sections());
    let reader = memory::call(|| Reader::new(bytes, &IDENTITY), is_same);
    let (_file, path) = file(bytes);
    let is_found = |a: &StoredFile, b: &StoredFile| {
        let section = Section { kind: 1, index: 0 };
        a.find(section) == b.find(section)
    };
    let stored = memory::call(|| StoredFile::open(&path, &IDENTITY), is_found);
    let loaded =
        memory::call(|| snapshot::load(&path, &IDENTITY), |a, b| a.as_slice() == b.as_slice());
    let _ = memory::call_eq(|| snapshot::prefetch(&path));
    let Ok(reader) = reader else {
        // What is wrong in a section that nobody asked for is found in the end.
        if let Ok(mut stored) = stored {
            assert!(stored.check_rest().is_err(), "a file is whole that is not in memory");
        }
        return;
    };
    let mut stored = stored.unwrap_or_else(|e| panic!("from a file: {e}"));
    assert!(loaded.is_ok_and(|loaded| loaded.as_slice() == bytes));
    for (section, expected) in reader.sections() {
        assert_eq!(reader.section(section), Ok(expected));
        let range = stored.find(section).unwrap_or_else(|e| panic!("{section:?}: {e}"));
        let mut found = vec![0; expected.len()];
        stored.read(range.start, &mut found).unwrap_or_else(|e| panic!("{section:?}: {e}"));
        assert_eq!(found, expected);
    }
    assert_eq!(stored.check_rest(), Ok(()));
    assert!(stored.read(u64::MAX - 1, &mut [0; 4]).is_err());
}

/// What is put in comes back.
fn there_and_back(rest: &[u8]) {
    let [part, rest @ ..] = rest else { return };
    let mut made = Made { sections: BTreeMap::new(), part: usize::from(*part) + 1 };
    for part in rest.split(|&byte| byte == 0xfe) {
        let [kind, index, rest @ ..] = part else { continue };
        let section =
            Section { kind: u32::from(*kind) + 1, index: u32::from(*index) << (*kind % 25) };
        made.sections.insert(section, rest.repeat(1 + usize::from(*index)));
    }
    let len = memory::call_eq(|| snapshot::len(&IDENTITY, &made)).unwrap_or_else(|e| panic!("{e}"));
    let mut bytes = vec![0; len as usize];
    let written = memory::within(|| snapshot::write(&IDENTITY, &made, &mut bytes));
    assert_eq!(written, Ok(bytes.len()));
    let reader = Reader::new(&bytes, &IDENTITY).unwrap_or_else(|e| panic!("{e}"));
    assert!(
        reader.sections().eq(made.sections.iter().map(|(section, bytes)| (*section, &bytes[..])))
    );
    read(&bytes);
}

pub fn seeds() -> Vec<Vec<u8>> {
    let made = |sections: &[(u32, u32, usize)]| {
        let section =
            |&(kind, index, n): &(u32, u32, usize)| (Section { kind, index }, noise(n as u64, n));
        let made = Made { sections: sections.iter().map(section).collect(), part: 9 };
        let mut bytes = vec![0; snapshot::len(&IDENTITY, &made).unwrap() as usize];
        snapshot::write(&IDENTITY, &made, &mut bytes).unwrap();
        bytes
    };
    let all = [
        made(&[]),
        made(&[(1, 0, 0)]),
        made(&[(1, 0, 20), (2, 0, 1), (2, 5, 60)]),
        made(&[(1, 0, 3), (7, 9, 0), (9, 1 << 31, 300)]),
    ];
    let modes = |bytes: &Vec<u8>| [0, 1].map(|mode| [&[mode], &bytes[..]].concat());
    let contents = (0..6u8).map(|i| [&[3, i * 40, i][..], &noise(u64::from(i), 40)].concat());
    all.iter().flat_map(modes).chain(contents).collect()
}
