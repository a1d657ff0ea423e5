//! The aarch64 instructions that stable Rust has no intrinsics for, one `asm!` line each.
//!
//! The compiler allocates the registers and schedules around them as it does around intrinsics.
//! To be deleted function by function as the standard library's own become stable within the
//! package's `rust-version`: `vdotq_s32`, `vdotq_laneq_s32`, `vmmlaq_s32`, `vcvt_f32_f16`,
//! `vcvt_f16_f32`.

use core::arch::aarch64::{float32x4_t, int8x16_t, int32x4_t, uint16x4_t, uint16x8_t};
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
