//! The inner loops of attention: sums over panels of the cache, and softmax of a tile.
//!
//! Scores and mixtures are the same sum, `out[r][c] += a[r][0] b[0][c] + a[r][1] b[1][c] + ..`:
//! ```text
//!            a                b, a panel                     out
//! scores     queries [r][i]   keys   [i][c]: row i element i   scores  [r][c]: column c a cell
//! mixtures   weights [r][i]   values [i][c]: row i a cell      outputs [r][c]
//! ```
//! so no sum ever runs across a vector. Each output is one chain of fused multiply-adds in the order
//! of the rows (products and sums rounded apart in the scalar rung), which begins with what `out`
//! holds: neither the other rows nor the place where a panel is cut change its bits.

//! Keys and values in 8 bits have kernels of their own ([`q8`]), which those in fewer share ([`unpack`]).

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx2_q8;
#[cfg(target_arch = "x86_64")]
mod avx2_unpack;
#[cfg(target_arch = "x86_64")]
mod avx512_q8;
#[cfg(target_arch = "x86_64")]
mod avx512_unpack;
#[cfg(target_arch = "x86_64")]
mod avx512_vnni;
#[cfg(target_arch = "aarch64")]
mod neon;
#[cfg(target_arch = "aarch64")]
mod neon_q8;
#[cfg(target_arch = "aarch64")]
mod neon_unpack;
pub(super) mod q8;
mod scalar;
pub(super) mod unpack;

use crate::base::cpu::Isa;

/// Columns of a group: of each, a row has that many elements side by side.
pub const GROUP: usize = 16;

/// A matrix in the cache, its columns in groups of [`GROUP`].
#[derive(Clone, Copy)]
pub struct Panel<'a, T> {
    /// Element (0, 0) stands first; element (i, c) stands at
    /// `i * row + c / GROUP * group + c % GROUP`.
    pub data: &'a [T],
    /// Rows: the terms of each sum.
    pub n: usize,
    /// Elements from one row to the next.
    pub row: usize,
    /// Groups of columns.
    pub n_groups: usize,
    /// Elements from one group to the next.
    pub group: usize,
}

impl<T> Panel<'_, T> {
    /// Elements up to the last one, or `None` if they cannot be counted.
    pub(super) fn extent(&self) -> Option<usize> {
        if self.n == 0 || self.n_groups == 0 {
            return Some(0);
        }
        let last_row = (self.n - 1).checked_mul(self.row)?;
        let last_group = (self.n_groups - 1).checked_mul(self.group)?;
        last_row.checked_add(last_group)?.checked_add(GROUP)
    }
}

#[cfg(target_arch = "x86_64")]
impl<T> Panel<'_, T> {
    /// How many elements ahead of those in use the cache is asked for more, where `n_groups` groups
    /// are read together: the groups that follow, or the same groups of later rows. Often that is
    /// the panel of the next tile; streams this short are over before a processor sees them.
    fn ahead(&self, n_groups: usize) -> usize {
        match self.group > self.row {
            true => n_groups * self.group,
            false => AHEAD_BYTES / size_of::<T>(),
        }
    }
}

/// How far ahead rows are asked for: a page. Codes are asked for a tile ahead, which has fewer bytes.
#[cfg(target_arch = "x86_64")]
const AHEAD_BYTES: usize = 4096;

/// Rows in and out of a sum: `n` rows of `a`, and as many of `out`, with their strides. `fresh` sums
/// begin at 0, whatever is there.
pub(crate) struct Sums<'a> {
    pub(crate) n: usize,
    pub(crate) a: &'a [f32],
    pub(crate) a_stride: usize,
    pub(crate) out: &'a mut [f32],
    pub(crate) out_stride: usize,
    pub(crate) fresh: bool,
}

impl Sums<'_> {
    /// Writes the zeros that fresh sums of `width` columns begin at.
    #[inline(always)]
    fn cleared(self, width: usize) -> Self {
        if self.fresh {
            for r in 0..self.n {
                self.out[r * self.out_stride..][..width].fill(0.0);
            }
        }
        self
    }
}

/// Rows of `len` elements of `x`, `stride` apart, and two numbers of each.
pub(crate) struct Rows<'a> {
    pub(crate) x: &'a mut [f32],
    pub(crate) stride: usize,
    pub(crate) len: usize,
    pub(crate) m: &'a mut [f32],
    pub(crate) l: &'a mut [f32],
}

impl Rows<'_> {
    /// Gives each row to `f`, and takes its numbers.
    #[inline(always)]
    fn each(self, mut f: impl FnMut(&mut [f32]) -> (f32, f32)) {
        for (r, (m, l)) in self.m.iter_mut().zip(self.l).enumerate() {
            (*m, *l) = f(&mut self.x[r * self.stride..][..self.len]);
        }
    }
}

pub(crate) type PanelFn<T> = unsafe fn(Sums<'_>, &Panel<'_, T>);

/// The kernels of attention; the methods of [`super::Kernels`] say what each does.
#[derive(Clone, Copy)]
pub(crate) struct Attend {
    pub(crate) panel_f16: PanelFn<u16>,
    pub(crate) panel_f32: PanelFn<f32>,
    pub(crate) soft_cap: unsafe fn(&mut [f32], f32),
    pub(crate) powers: unsafe fn(Rows<'_>),
    pub(crate) blend: unsafe fn(&mut [f32], f32, &[f32], f32),
    pub(crate) blend_squares: unsafe fn(&mut [f32], f32, &[f32], f32),
    pub(crate) to_f16: unsafe fn(&[f32], &mut [u16]),
}

/// The kernels for 8 bits for `isa`, which the CPU must have.
pub(super) fn for_isa_q8(isa: Isa) -> q8::Attend8 {
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => avx2_q8::ATTEND8,
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512Vnni | Isa::AmxInt8 => avx512_q8::ATTEND8,
        #[cfg(target_arch = "aarch64")]
        Isa::Neon => neon_q8::NEON,
        #[cfg(target_arch = "aarch64")]
        Isa::NeonDotprod | Isa::NeonI8mm => neon_q8::DOTPROD,
        _ => q8::SCALAR,
    }
}

/// The kernels for packed codes for `isa`, which the CPU must have.
pub(super) fn for_isa_unpack(isa: Isa) -> unpack::Unpack {
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => avx2_unpack::UNPACK,
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512Vnni | Isa::AmxInt8 => avx512_unpack::UNPACK,
        #[cfg(target_arch = "aarch64")]
        Isa::Neon | Isa::NeonDotprod | Isa::NeonI8mm => neon_unpack::UNPACK,
        _ => unpack::SCALAR,
    }
}

/// The kernels for `isa`, which the CPU must have.
pub(super) fn for_isa(isa: Isa) -> Attend {
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => avx2::ATTEND,
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512Vnni | Isa::AmxInt8 => avx512_vnni::overlay(avx2::ATTEND),
        #[cfg(target_arch = "aarch64")]
        Isa::Neon | Isa::NeonDotprod | Isa::NeonI8mm => neon::ATTEND,
        _ => scalar::ATTEND,
    }
}

/// How `n` rows are shared out to calls of at most `most`: as evenly as can be.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
fn rows_at_once(n: usize, most: usize) -> usize {
    n.div_ceil(n.div_ceil(most).max(1))
}

/// Calls `f(first, n)` for `n` rows, at most `most` at once.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
#[inline(always)]
fn each_rows(n: usize, most: usize, mut f: impl FnMut(usize, usize)) {
    let at_once = rows_at_once(n, most);
    let mut row = 0;
    while row < n {
        let now = at_once.min(n - row);
        f(row, now);
        row += now;
    }
}
