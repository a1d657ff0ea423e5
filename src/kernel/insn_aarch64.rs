//! aarch64 instructions that the compiler does not make of intrinsics, one `asm!` each. It allocates
//! the registers and schedules around them as it does around intrinsics.
//!
//! First those that stable Rust has no intrinsics for. To be deleted function by function as the
//! standard library's own become stable within the package's `rust-version`: `vdotq_s32`,
//! `vdotq_laneq_s32`, `vmmlaq_s32`, `vcvt_f32_f16`, `vcvt_f16_f32`. Then those that it makes
//! something slower of.

use core::arch::aarch64::{float32x4_t, int8x16_t, int32x4_t, uint8x16_t, uint16x4_t, uint16x8_t};
use core::arch::asm;

/// `acc[i] += w[4i] * a[4L] + .. + w[4i+3] * a[4L+3]`, for 4 lanes i: the four bytes of `a` in
/// lane L meet those in every lane of `w`.
#[inline]
#[target_feature(enable = "neon,dotprod")]
pub(super) fn sdot_lane<const L: u32>(acc: int32x4_t, w: int8x16_t, a: int8x16_t) -> int32x4_t {
    let mut acc = acc;
    // SAFETY: registers in, register out; the function's feature is the instruction's. A lane
    // above 3 does not assemble.
    unsafe {
        asm!("sdot {acc:v}.4s, {w:v}.16b, {a:v}.4b[{lane}]", acc = inout(vreg) acc,
            w = in(vreg) w, a = in(vreg) a, lane = const L,
            options(pure, nomem, nostack, preserves_flags));
    }
    acc
}

/// `acc[2i+j] += a[8i..][..8] . b[8j..][..8]`: two rows of 8 bytes times two rows of 8 bytes.
#[inline]
#[target_feature(enable = "neon,i8mm")]
pub(super) fn smmla(acc: int32x4_t, a: int8x16_t, b: int8x16_t) -> int32x4_t {
    let mut acc = acc;
    // SAFETY: registers in, register out; the function's feature is the instruction's.
    unsafe {
        asm!("smmla {acc:v}.4s, {a:v}.16b, {b:v}.16b", acc = inout(vreg) acc, a = in(vreg) a,
            b = in(vreg) b, options(pure, nomem, nostack, preserves_flags));
    }
    acc
}

/// Half to single precision, exact.
// Not `preserves_flags`, here and below: a conversion may raise floating-point status flags.
#[inline]
#[target_feature(enable = "neon")]
pub(super) fn f32_from_f16(x: uint16x4_t) -> float32x4_t {
    let y: float32x4_t;
    // SAFETY: registers in, register out; the instruction is part of NEON.
    unsafe {
        asm!("fcvtl {y:v}.4s, {x:v}.4h", y = lateout(vreg) y, x = in(vreg) x,
            options(pure, nomem, nostack));
    }
    y
}

/// Half to single precision, exact, of the upper four.
#[inline]
#[target_feature(enable = "neon")]
pub(super) fn f32_from_f16_high(x: uint16x8_t) -> float32x4_t {
    let y: float32x4_t;
    // SAFETY: registers in, register out; the instruction is part of NEON.
    unsafe {
        asm!("fcvtl2 {y:v}.4s, {x:v}.8h", y = lateout(vreg) y, x = in(vreg) x,
            options(pure, nomem, nostack));
    }
    y
}

/// Single to half precision, rounded to nearest even.
#[inline]
#[target_feature(enable = "neon")]
pub(super) fn f16_from_f32(x: float32x4_t) -> uint16x4_t {
    let y: uint16x4_t;
    // SAFETY: registers in, register out; the instruction is part of NEON.
    unsafe {
        asm!("fcvtn {y:v}.4h, {x:v}.4s", y = lateout(vreg) y, x = in(vreg) x,
            options(pure, nomem, nostack));
    }
    y
}

/// `x` in every lane. Not `pure`, so that the compiler does not make one and copy it: copies would
/// take turns from the products, this does not.
#[inline(always)]
pub(super) fn dup(x: i32) -> int32x4_t {
    let y: int32x4_t;
    // SAFETY: registers in, register out; the instruction is part of NEON, which is part of every
    // target that this file is compiled for.
    unsafe {
        asm!("dup {y:v}.4s, {x:w}", y = lateout(vreg) y, x = in(reg) x,
            options(nomem, nostack, preserves_flags));
    }
    y
}

/// `x` with the bits of `mask` from `bits`. Of the intrinsic the compiler makes three instructions.
#[inline(always)]
pub(super) fn bit(x: uint8x16_t, bits: uint8x16_t, mask: uint8x16_t) -> uint8x16_t {
    let mut x = x;
    // SAFETY: registers in, register out; the instruction is part of NEON, which is part of every
    // target that this file is compiled for.
    unsafe {
        asm!("bit {x:v}.16b, {bits:v}.16b, {mask:v}.16b", x = inout(vreg) x, bits = in(vreg) bits,
            mask = in(vreg) mask, options(pure, nomem, nostack, preserves_flags));
    }
    x
}

/// The lower `N` bits of each byte of `x`, below those of `bits`, which move up.
#[inline(always)]
pub(super) fn sli<const N: u32>(x: uint8x16_t, bits: uint8x16_t) -> uint8x16_t {
    let mut x = x;
    // SAFETY: registers in, register out; the instruction is part of NEON, which is part of every
    // target that this file is compiled for. A shift above 7 does not assemble.
    unsafe {
        asm!("sli {x:v}.16b, {bits:v}.16b, #{n}", x = inout(vreg) x, bits = in(vreg) bits,
            n = const N, options(pure, nomem, nostack, preserves_flags));
    }
    x
}

/// `x`, loaded again after each [`forget_after`], where the compiler would copy what it has loaded.
#[inline(always)]
pub(super) fn load_again(x: &[float32x4_t; 4]) -> [float32x4_t; 4] {
    let (a, b, c, d);
    // SAFETY: the 64 bytes of `x` are read; the instructions are part of NEON, which is part of
    // every target that this file is compiled for.
    unsafe {
        asm!("ldp {a:q}, {b:q}, [{x}]", "ldp {c:q}, {d:q}, [{x}, #32]", a = out(vreg) a,
            b = out(vreg) b, c = lateout(vreg) c, d = lateout(vreg) d, x = in(reg) x,
            options(pure, readonly, nostack, preserves_flags));
    }
    [a, b, c, d]
}

/// Stores `x`, two vectors at a time: alone, each takes more turns from the products on some CPUs.
#[inline(always)]
pub(super) fn store_pairs(to: &mut [float32x4_t; 4], x: [float32x4_t; 4]) {
    let [a, b, c, d] = x;
    // SAFETY: the 64 bytes of `to` are written; the instructions are part of NEON, which is part of
    // every target that this file is compiled for.
    unsafe {
        asm!("stp {a:q}, {b:q}, [{to}]", "stp {c:q}, {d:q}, [{to}, #32]", a = in(vreg) a,
            b = in(vreg) b, c = in(vreg) c, d = in(vreg) d, to = in(reg) to,
            options(nostack, preserves_flags));
    }
}

/// `x`, in a general register: so that the compiler does not move its neighbours and it into a vector
/// to compute there. Not `pure`, so that it takes one after the other, as there are few registers.
#[inline(always)]
pub(super) fn general(x: u64) -> u64 {
    let mut x = x;
    // SAFETY: nothing is done.
    unsafe { asm!("/* {x} */", x = inout(reg) x, options(nomem, nostack, preserves_flags)) };
    x
}

/// Asks for the cache line that holds what is `OFFSET` bytes after `at`, which may be any address.
#[inline(always)]
pub(super) fn prefetch<const OFFSET: usize>(at: *const u8) {
    // SAFETY: a prefetch neither faults nor changes what the program sees. An offset that is no
    // multiple of 8, or above 32760, does not assemble.
    unsafe {
        asm!("prfm pldl1keep, [{at}, #{offset}]", at = in(reg) at, offset = const OFFSET,
            options(readonly, nostack, preserves_flags));
    }
}

/// `x`. Makes the compiler load again what it has loaded from memory, and not before `x` is there: so
/// that what makes `x` is not put off until after those loads.
#[inline(always)]
pub(super) fn forget_after(x: [float32x4_t; 4]) -> [float32x4_t; 4] {
    let [mut a, mut b, mut c, mut d] = x;
    // SAFETY: nothing is done.
    unsafe {
        asm!("/* {a:v} {b:v} {c:v} {d:v} */", a = inout(vreg) a, b = inout(vreg) b, c = inout(vreg) c,
            d = inout(vreg) d, options(nostack, preserves_flags));
    }
    [a, b, c, d]
}
