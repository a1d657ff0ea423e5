//! Memory as it was asked for: locked, of huge pages, or neither; by the kernel's own account.
#![allow(unsafe_code, reason = "limits and capabilities of the process")]
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod support;

use std::fs;
use std::sync::{Arc, Mutex, PoisonError};

use support::tiny::{Random, Tiny};
use tern::base::dtype::DType;
use tern::engine::{
    Control, Error, HugePages, Input, Lock, Logits, Model, ModelParams, Session, SessionParams,
};

/// One test at a time: they look at the memory of the whole process.
static ALONE: Mutex<()> = Mutex::new(());

/// The sum of a figure of /proc/self/smaps over all mappings, in bytes.
fn mapped(name: &str) -> u64 {
    let text = fs::read_to_string("/proc/self/smaps").expect("Linux");
    let lines = text.lines().filter_map(|line| line.strip_prefix(name));
    lines.map(|rest| rest.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap() * 1024).sum()
}

/// A model with 4 MiB of weights or so, which does not change.
fn file() -> Vec<u8> {
    let mut tiny = Tiny::new("llama");
    (tiny.dtype, tiny.n_layer, tiny.n_ctx_train) = (DType::F32, 40, 8192);
    tiny.gguf()
}

fn load(file: &[u8], lock: Lock, huge: HugePages) -> Result<Arc<Model>, Error> {
    let params = ModelParams { lock, huge, ..ModelParams::default() };
    Model::load(Input::Memory(file), &params, &mut |_, _| true).map(Arc::new)
}

fn session(model: &Arc<Model>, lock: Lock, huge: HugePages) -> Result<Session, Error> {
    let params = SessionParams { n_ctx: 8192, n_threads: 2, lock, huge, ..Default::default() };
    Session::new(Arc::clone(model), &params)
}

/// Drops the calling thread's right to lock memory without limit.
fn drop_capability() {
    const CAP_IPC_LOCK: u32 = 14;
    #[repr(C)]
    struct Header {
        version: u32,
        pid: i32,
    }
    let header = Header { version: 0x2008_0522, pid: 0 };
    let mut sets = [[0u32; 3]; 2]; // effective, permitted, inheritable: low halves, high halves
    // SAFETY: capget and capset of the calling thread, with a header of version 3 and two sets.
    unsafe {
        assert_eq!(libc::syscall(libc::SYS_capget, &header, &mut sets), 0);
        sets[0][0] &= !(1 << CAP_IPC_LOCK);
        assert_eq!(libc::syscall(libc::SYS_capset, &header, &sets), 0);
    }
}

/// Sets how much the process may lock; gives what it was.
fn limit(bytes: libc::rlim_t) -> libc::rlim_t {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: reads and sets a limit by way of a local variable.
    unsafe {
        assert_eq!(libc::getrlimit(libc::RLIMIT_MEMLOCK, &mut limit), 0);
        let before = limit.rlim_cur;
        limit.rlim_cur = bytes.min(limit.rlim_max);
        assert_eq!(libc::setrlimit(libc::RLIMIT_MEMLOCK, &limit), 0);
        before
    }
}

#[test]
fn locked_memory_is_locked_until_it_is_freed() {
    let name = "locked_memory_is_locked_until_it_is_freed";
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    if support::emulated() {
        return support::skipped(name, "smaps are the emulator's: not run under an emulator");
    }
    let file = file();
    let before = mapped("Locked:");
    let found = load(&file, Lock::Must, HugePages::Default)
        .and_then(|model| Ok((session(&model, Lock::Must, HugePages::Default)?, model)));
    let (session, model) = match found {
        Err(Error::OutOfMemory(text)) => {
            assert!(text.as_str().contains("RLIMIT_MEMLOCK"), "{text:?}");
            return support::skipped(name, "this process may lock too little: ulimit -l unlimited");
        }
        found => found.unwrap(),
    };
    let (weights, buffers) = (model.info().locked_bytes, session.info().locked_bytes);
    let info = session.info();
    assert!(weights >= 2 << 20, "{weights} bytes of weights");
    // Cells and the sampler's room are the only buffers that are not.
    assert!(buffers >= info.kv_bytes * 3 / 4, "{buffers} of {info:?}");
    let locked = mapped("Locked:") - before;
    assert!(locked >= weights + buffers, "{locked} of {weights} + {buffers}");
    drop((session, model));
    assert_eq!(mapped("Locked:"), before);
}

#[test]
fn what_cannot_be_locked_is_an_error_or_a_warning() {
    let name = "what_cannot_be_locked_is_an_error_or_a_warning";
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    if support::emulated() {
        return support::skipped(name, "limits are the emulator's: not run under an emulator");
    }
    let before = limit(1 << 20);
    // Capabilities are a thread's own.
    let result = std::thread::spawn(|| {
        drop_capability();
        let file = file();
        let error = load(&file, Lock::Must, HugePages::Default).err();
        assert!(matches!(error, Some(Error::OutOfMemory(_))), "{error:?}");
        let model = load(&file, Lock::Try, HugePages::Default).unwrap();
        assert_eq!(model.info().locked_bytes, 0);
        let error = session(&model, Lock::Must, HugePages::Default).err();
        assert!(matches!(error, Some(Error::OutOfMemory(_))), "{error:?}");
        let mut session = session(&model, Lock::Try, HugePages::Default).unwrap();
        assert!(session.info().locked_bytes <= 1 << 20);
        session.eval(&[1, 2, 3], Logits::Last, &Control::default()).unwrap();
    });
    let result = result.join();
    limit(before);
    result.unwrap();
}

#[test]
fn huge_pages_come_and_stay_away_as_asked() {
    let name = "huge_pages_come_and_stay_away_as_asked";
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    if support::emulated() {
        return support::skipped(name, "smaps are the emulator's: not run under an emulator");
    }
    let enabled = fs::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled");
    let file = file();
    let huge = |huge| {
        let before = mapped("AnonHugePages:");
        let model = load(&file, Lock::No, huge).unwrap();
        let weights = mapped("AnonHugePages:").saturating_sub(before);
        let session = session(&model, Lock::No, huge).unwrap();
        let all = mapped("AnonHugePages:").saturating_sub(before);
        drop(session);
        (weights, all.saturating_sub(weights))
    };
    assert_eq!(huge(HugePages::Never), (0, 0));
    let (weights, buffers) = huge(HugePages::Transparent);
    println!("{weights} bytes of weights and {buffers} of buffers in huge pages");
    if !enabled.is_ok_and(|text| text.contains("[always]") || text.contains("[madvise]")) {
        return support::skipped(name, "the system has no transparent huge pages to give");
    }
    if weights == 0 || buffers == 0 {
        return support::skipped(name, "the system had no huge page free: memory is in pieces");
    }
    assert!(weights >= 2 << 20 && buffers >= 2 << 20);
}

#[test]
fn memory_of_any_kind_gives_the_same_bits() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let file = file();
    let mut random = Random(5);
    let text: Vec<i32> = (0..50).map(|_| (random.next() % 288) as i32).collect();
    let mut expected = None;
    for lock in [Lock::No, Lock::Try] {
        for huge in [HugePages::Default, HugePages::Never, HugePages::Transparent] {
            let model = load(&file, lock, huge).unwrap();
            let mut s = session(&model, lock, huge).unwrap();
            s.eval(&text, Logits::Last, &Control::default()).unwrap();
            let bits: Vec<u32> = s.logits().unwrap().iter().map(|x| x.to_bits()).collect();
            assert!(bits == *expected.get_or_insert_with(|| bits.clone()), "{lock:?} {huge:?}");
        }
    }
}
