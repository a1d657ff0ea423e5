//! Scores of keys and mixtures of values, by cells of the KV cache.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512_vnni;
#[cfg(target_arch = "aarch64")]
mod neon;
mod scalar;

use crate::base::cpu::Isa;

pub(crate) type ScoresFn<T> = unsafe fn(&[f32], &[T], usize, &[u32], &mut [f32]);
pub(crate) type MixFn<T> = unsafe fn(&[f32], &[T], usize, &[u32], &mut [f32]);

/// The kernels of attention; the methods of [`super::Kernels`] say what each does.
#[derive(Clone, Copy)]
pub(crate) struct Attend {
    pub(crate) scores_f16: ScoresFn<u16>,
    pub(crate) mix_f16: MixFn<u16>,
    pub(crate) scores_f32: ScoresFn<f32>,
    pub(crate) mix_f32: MixFn<f32>,
    pub(crate) to_f16: unsafe fn(&[f32], &mut [u16]),
}

/// The kernels for `isa`, which the CPU must have.
pub(super) fn for_isa(isa: Isa) -> Attend {
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => avx2::ATTEND,
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512Vnni => avx512_vnni::overlay(avx2::ATTEND),
        #[cfg(target_arch = "aarch64")]
        Isa::Neon | Isa::NeonDotprod | Isa::NeonI8mm => neon::ATTEND,
        _ => scalar::ATTEND,
    }
}
