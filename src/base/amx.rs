//! AMX on x86-64: whether the CPU multiplies tiles of bytes, and whether this process may.
//!
//! The registers are 8 KiB that a thread switch must save, so Linux (5.16 and later) gives them only
//! to a process that asks: `arch_prctl(ARCH_REQ_XCOMP_PERM)`, Documentation/arch/x86/xstate.rst. It
//! refuses where a thread's alternate signal stack could not hold them, and from then on it refuses
//! such stacks. Without permission, the first use of a tile would end the process.

use std::arch::x86_64::{__cpuid, __cpuid_count};
use std::sync::atomic::{AtomicBool, Ordering};

/// Whether the process emulates what the CPU lacks.
static EMULATED: AtomicBool = AtomicBool::new(false);

/// Takes AMX for given from now on: for tests that emulate it, before anything has asked for rungs.
///
/// # Safety
/// `ldtilecfg`, `tilerelease`, `tilezero`, `tileloadd`, `tilestored`, `tdpbsud` and `tdpbusd` do what
/// they should in this process, on each of its threads.
#[allow(unsafe_code, reason = "a promise of instructions that would end the process")]
pub unsafe fn assume_emulated() {
    EMULATED.store(true, Ordering::Relaxed);
}

/// Asks for permission to use tiles, if the CPU has them and multiplies bytes in them. It is for the
/// whole process, threads that are there and those to come, and cannot be given back. To ask again
/// changes nothing.
pub(super) fn request() -> bool {
    EMULATED.load(Ordering::Relaxed) || (has_int8() && is_allowed())
}

/// AMX-TILE and AMX-INT8, bits 24 and 25 of EDX in leaf 7 (Intel, Software Developer's Manual 2A).
fn has_int8() -> bool {
    const TILES: u32 = 0b11 << 24;
    __cpuid(0).eax >= 7 && __cpuid_count(7, 0).edx & TILES == TILES
}

#[allow(unsafe_code, reason = "arch_prctl has no other door")]
fn is_allowed() -> bool {
    const ARCH_REQ_XCOMP_PERM: libc::c_long = 0x1023; // asm/prctl.h; the libc crate lacks it
    const XFEATURE_XTILEDATA: libc::c_long = 18;
    // SAFETY: the call takes two numbers and no pointer. A kernel that does not know it, or whose CPU
    // has no tiles, says EINVAL or EOPNOTSUPP.
    unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0 }
}
