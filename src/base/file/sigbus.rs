//! SIGBUS, where the application asks for it: a mapped file that is cut costs a model, not the process.
//!
//! Each mapping stands in a table. The handler looks the address of a fault up there, puts zeros in the
//! place of that mapping, and notes that it is lost; who evaluates sees the note before anything that
//! was computed from the zeros leaves ([`Mapped::is_lost`]). What is not in the table goes on to the
//! handler that was there before. Nothing here waits or allocates, but for whoever installs.

use std::ffi::c_void;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicUsize, Ordering, fence};
use std::sync::{Mutex, MutexGuard, PoisonError};

use libc::{c_int, sigaction, siginfo_t};

use super::errno::{Errno, errno};
use crate::base::error::{Result, err};

/// Mappings at a time: every model and session of the C API can have one of its own.
const MAPPINGS: usize = 512;

/// A place in the table.
struct Place {
    /// Odd while the others change, so that the handler never believes halves of two mappings.
    turn: AtomicUsize,
    /// Where the mapping begins; [`FREE`], or [`TAKEN`] before and after it stands here.
    start: AtomicUsize,
    len: AtomicUsize,
    is_lost: AtomicBool,
}

const FREE: usize = 0;
const TAKEN: usize = 1;

static TABLE: [Place; MAPPINGS] = [const {
    Place {
        turn: AtomicUsize::new(0),
        start: AtomicUsize::new(FREE),
        len: AtomicUsize::new(0),
        is_lost: AtomicBool::new(false),
    }
}; MAPPINGS];

impl Place {
    /// Changes what stands here. One at a time: who has taken the place.
    fn set(&self, start: usize, len: usize) {
        self.turn.fetch_add(1, Ordering::Relaxed);
        fence(Ordering::Release); // who sees one of the next sees an odd turn, or another one afterwards
        self.is_lost.store(false, Ordering::Relaxed);
        self.len.store(len, Ordering::Relaxed);
        self.start.store(start, Ordering::Relaxed);
        self.turn.fetch_add(1, Ordering::Release);
    }

    /// The mapping's start and length, if it holds an address.
    fn holding(&self, address: usize) -> Option<(usize, usize)> {
        let turn = self.turn.load(Ordering::Acquire);
        let (start, len) = (self.start.load(Ordering::Relaxed), self.len.load(Ordering::Relaxed));
        fence(Ordering::Acquire);
        // One that is changing cannot be what was just read from: its owner is not there yet, or gone.
        let is_whole = turn.is_multiple_of(2) && self.turn.load(Ordering::Relaxed) == turn;
        (is_whole && address.wrapping_sub(start) < len).then_some((start, len))
    }
}

/// A mapping in the table, which leaves it with this.
#[derive(Debug)]
pub(super) struct Mapped(usize);

impl Mapped {
    /// Enters a mapping of a file: all its pages, before any of them is read. To be dropped before it
    /// is unmapped. Fails with `Limit`.
    pub(super) fn new(start: *const u8, len: usize) -> Result<Mapped> {
        // SAFETY: sysconf takes a number. A machine that does not know its pages has small ones.
        let page = usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(4096);
        let (from, to) = (start.addr() & !(page - 1), (start.addr() + len).next_multiple_of(page));
        let take = |place: &Place| {
            let (taken, left) = (Ordering::Acquire, Ordering::Relaxed);
            place.start.compare_exchange(FREE, TAKEN, taken, left).is_ok()
        };
        let Some(at) = TABLE.iter().position(take) else {
            return Err(err!(Limit, "{MAPPINGS} models are mapped already"));
        };
        TABLE[at].set(from, to - from);
        Ok(Mapped(at))
    }

    /// Whether zeros stand in its place.
    pub(super) fn is_lost(&self) -> bool {
        TABLE[self.0].is_lost.load(Ordering::Acquire)
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        let place = &TABLE[self.0];
        place.set(TAKEN, 0);
        place.start.store(FREE, Ordering::Release);
    }
}

/// Puts zeros in the place of the mapping that holds an address; false if that is none of ours.
#[inline(never)]
fn lose(address: usize) -> bool {
    let holding =
        |place: &'static Place| place.holding(address).map(|found| (found, &place.is_lost));
    let Some(((start, len), is_lost)) = TABLE.iter().find_map(holding) else { return false };
    is_lost.store(true, Ordering::SeqCst); // before any thread can read a zero
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED | libc::MAP_NORESERVE;
    // All of it at once, so that there is neither another fault nor one mapping more than before.
    // SAFETY: these pages are a mapping of the file, which only Rust code reads, as numbers; it lives,
    // since the thread that is here was reading it.
    let map = unsafe {
        libc::mmap(std::ptr::without_provenance_mut(start), len, libc::PROT_READ, flags, -1, 0)
    };
    map != libc::MAP_FAILED
}

/// How often the guard can be installed above a handler of others. Each has a function of its own, so
/// that a chain through handlers that know each other never closes to a ring.
const LEVELS: usize = 4;

/// What a signal that is not ours goes on to.
struct Before {
    handler: AtomicUsize,
    flags: AtomicI32,
}

static BEFORE: [Before; LEVELS] =
    [const { Before { handler: AtomicUsize::new(libc::SIG_DFL), flags: AtomicI32::new(0) } };
        LEVELS];

type Handler = extern "C" fn(c_int, *mut siginfo_t, *mut c_void);

const HANDLERS: [Handler; LEVELS] = [handle::<0>, handle::<1>, handle::<2>, handle::<3>];

/// Whether signals are looked at; else all go on.
static IS_ON: AtomicBool = AtomicBool::new(false);

extern "C" fn handle<const LEVEL: usize>(n: c_int, info: *mut siginfo_t, context: *mut c_void) {
    // SAFETY: with SA_SIGINFO the system gives what it knows; `errno` is the thread's own.
    let (code, address, errno) =
        unsafe { ((*info).si_code, (*info).si_addr().addr(), libc::__errno_location()) };
    // SAFETY: as above.
    let saved = unsafe { *errno };
    // A page that is not there: past the file's end, on a bad disk, or in bad memory.
    let is_page = matches!(code, libc::BUS_ADRERR | libc::BUS_OBJERR | libc::BUS_MCEERR_AR);
    if !(is_page && IS_ON.load(Ordering::Relaxed) && lose(address)) {
        go_on(&BEFORE[LEVEL], n, info, context);
    }
    // SAFETY: as above.
    unsafe { *errno = saved };
}

/// Does what would have been done without this handler.
#[inline(never)]
fn go_on(before: &Before, n: c_int, info: *mut siginfo_t, context: *mut c_void) {
    // SAFETY: as in `handle`. What an instruction did has these codes; what a program sent has others.
    let is_fault = matches!(unsafe { (*info).si_code }, 1..=libc::BUS_MCEERR_AR);
    let flags = before.flags.load(Ordering::Relaxed);
    let handler = match flags & libc::SA_RESETHAND {
        0 => before.handler.load(Ordering::Relaxed),
        _ => before.handler.swap(libc::SIG_DFL, Ordering::Relaxed), // it wants to run once
    };
    match handler {
        libc::SIG_IGN if !is_fault => {}
        // A fault cannot be ignored. Back where it came from it happens again, and ends the process.
        libc::SIG_DFL | libc::SIG_IGN => {
            // SAFETY: an action of zeros is the default one; both calls may be made by handlers.
            unsafe {
                sigaction(n, &std::mem::zeroed(), std::ptr::null_mut());
                if !is_fault {
                    libc::raise(n);
                }
            }
        }
        // SAFETY: the application gave this function to the system, as one with three parameters.
        f if flags & libc::SA_SIGINFO != 0 => unsafe {
            std::mem::transmute::<usize, Handler>(f)(n, info, context);
        },
        // SAFETY: likewise, as one with one parameter.
        f => unsafe { std::mem::transmute::<usize, extern "C" fn(c_int)>(f)(n) },
    }
}

/// What was there before each level, and how many there are.
struct Installed {
    n: usize,
    before: [sigaction; LEVELS],
}

static INSTALLED: Mutex<Installed> = Mutex::new(Installed {
    n: 0,
    // SAFETY: an action of zeros is the default one.
    before: unsafe { std::mem::zeroed() },
});

fn installed() -> MutexGuard<'static, Installed> {
    INSTALLED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Sets the process's action, or only asks for it; gives the one before.
fn exchange(new: Option<&sigaction>) -> Result<sigaction> {
    // SAFETY: an action of zeros is the default one.
    let mut old: sigaction = unsafe { std::mem::zeroed() };
    let new = new.map_or(std::ptr::null(), std::ptr::from_ref);
    // SAFETY: `new` is NULL or an action, `old` has room for one.
    match unsafe { sigaction(libc::SIGBUS, new, &mut old) } {
        0 => Ok(old),
        _ => Err(err!(Io, "sigaction: {}", Errno(errno()))),
    }
}

/// The level whose function an action is.
fn level(of: &sigaction) -> Option<usize> {
    HANDLERS.iter().position(|&handler| handler as usize == of.sa_sigaction)
}

/// From now on a fault in a mapped file costs its model; does nothing if that is so already. What else
/// handles SIGBUS at this moment gets what is not ours. Fails with `Limit`.
pub fn install() -> Result<()> {
    let mut installed = installed();
    let before = exchange(None)?;
    if level(&before).is_none() {
        let at = installed.n;
        let Some(next) = BEFORE.get(at) else {
            return Err(err!(Limit, "SIGBUS: installed above {LEVELS} handlers of others already"));
        };
        let is_function = !matches!(before.sa_sigaction, libc::SIG_DFL | libc::SIG_IGN);
        let usual = libc::SA_RESTART | libc::SA_ONSTACK;
        let kept = before.sa_flags & (usual | libc::SA_NODEFER);
        let flags = libc::SA_SIGINFO | if is_function { kept } else { usual };
        // Its mask too: what it wants to hold up while it runs.
        let own = sigaction { sa_sigaction: HANDLERS[at] as usize, sa_flags: flags, ..before };
        next.flags.store(before.sa_flags, Ordering::Relaxed);
        next.handler.store(before.sa_sigaction, Ordering::Relaxed);
        exchange(Some(&own))?;
        installed.before[at] = before;
        installed.n += 1;
    }
    IS_ON.store(true, Ordering::Relaxed);
    Ok(())
}

/// From now on no signal is ours. The handler that was there before is there again, unless another
/// stands above it: what that hands on goes through.
pub fn remove() -> Result<()> {
    let mut installed = installed();
    IS_ON.store(false, Ordering::Relaxed);
    if let Some(at) = level(&exchange(None)?) {
        let handler = BEFORE[at].handler.load(Ordering::Relaxed); // one that has run its once is gone
        exchange(Some(&sigaction { sa_sigaction: handler, ..installed.before[at] }))?;
        if at + 1 == installed.n {
            installed.n = at;
        }
    }
    Ok(())
}
