//! Norms, activations, rotation: one token's row, or one head, at a time.
//!
//! Every rung computes the exponential in the same way, to about one unit in the last place: a power
//! of two, and a polynomial for the rest; see [`exp`].

#[cfg(target_arch = "x86_64")]
pub(super) mod avx2;
#[cfg(target_arch = "x86_64")]
pub(super) mod avx512_vnni;
pub(super) mod hadamard;
#[cfg(target_arch = "x86_64")]
mod hadamard_avx2;
#[cfg(target_arch = "aarch64")]
mod hadamard_neon;
#[cfg(target_arch = "aarch64")]
pub(super) mod neon;
pub(super) mod scalar;

use crate::base::cpu::Isa;

/// The element-wise kernels; the methods of [`super::Kernels`] say what each does.
#[derive(Clone, Copy)]
pub(crate) struct Elem {
    pub(crate) rms_norm: unsafe fn(&[f32], &[f32], f32, &mut [f32]),
    pub(crate) silu_mul: unsafe fn(&mut [f32], &[f32]),
    pub(crate) gelu_mul: unsafe fn(&mut [f32], &[f32]),
    pub(crate) add: unsafe fn(&mut [f32], &[f32]),
    pub(crate) rope_norm: unsafe fn(&mut [f32], &[f32], &[f32]),
    pub(crate) rope_neox: unsafe fn(&mut [f32], &[f32], &[f32]),
    pub(crate) hadamard: unsafe fn(&mut [f32], usize),
}

/// The kernels for `isa`, which the CPU must have.
pub(super) fn for_isa(isa: Isa) -> Elem {
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => avx2::ELEM,
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512Vnni | Isa::AmxInt8 => avx512_vnni::overlay(avx2::ELEM),
        #[cfg(target_arch = "aarch64")]
        Isa::Neon | Isa::NeonDotprod | Isa::NeonI8mm => neon::ELEM,
        _ => scalar::ELEM,
    }
}

/// `2 * sqrt(2 / pi)`, of the tanh approximation of GELU.
pub(crate) const GELU_A: f32 = 1.595_769_2;
/// `2 * sqrt(2 / pi) * 0.044715`.
pub(crate) const GELU_B: f32 = 0.071_354_814;

/// The constants of `exp`, for every rung.
///
/// ```text
/// n = round(x / ln 2);  r = x - n * ln 2       |r| <= ln 2 / 2; in two steps, as ln 2 is no float
/// exp(x) = 2^n * (1 + r + r^2 * (C[0] + r * (C[1] + r * (C[2] + r * (C[3] + r * C[4])))))
/// ```
/// The coefficients interpolate at Chebyshev nodes over that range: relative error 1e-8 before
/// rounding. `x` is clamped to `MIN ..= MAX`, so that `2^n` is a normal number.
pub(crate) mod exp {
    /// 1 / ln 2.
    pub(crate) const LOG2_E: f32 = std::f32::consts::LOG2_E;
    /// ln 2, its first 9 bits, so that products with `n` are exact.
    pub(crate) const LN2_HIGH: f32 = 0.693_359_4;
    /// ln 2, the rest.
    pub(crate) const LN2_LOW: f32 = -2.121_944_4e-4;
    /// Least argument: its exp is the smallest normal number.
    pub(crate) const MIN: f32 = -87.336_54;
    /// Greatest argument: its exp is 2^127.5.
    pub(crate) const MAX: f32 = 88.376_26;
    /// The coefficients of r^2 to r^6.
    pub(crate) const C: [f32; 5] =
        [0.5, 0.166_665_76, 0.041_666_463, 0.008_363_205, 0.001_393_368_8];
}
