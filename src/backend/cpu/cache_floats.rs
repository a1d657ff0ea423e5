//! Keys and values of one layer in floats, of half or of single precision: see `cache_store`.

use crate::base::error::Result;
use crate::base::pool::Pool;
use crate::kernel::{GROUP, Kernels, Panel};
use crate::quant::f32_of_half;

use super::cache_store::{Later, Layout, Moves, Targets, each_head, gather_lanes, value_width};

/// What keys and values are stored as, if in floats.
pub(super) trait Element: Copy + Default + Send + Sync {
    fn round(kernels: &Kernels, x: &[f32], out: &mut [Self]);
    fn widen(self) -> f32;
    /// [`Kernels::panel_f16`], for this type.
    fn panel(
        kernels: &Kernels,
        n: usize,
        a: (&[f32], usize),
        b: &Panel<'_, Self>,
        out: (&mut [f32], usize),
        fresh: bool,
    );
}

impl Element for u16 {
    fn round(kernels: &Kernels, x: &[f32], out: &mut [u16]) {
        kernels.to_f16(x, out);
    }

    fn widen(self) -> f32 {
        f32_of_half(self)
    }

    fn panel(
        kernels: &Kernels,
        n: usize,
        a: (&[f32], usize),
        b: &Panel<'_, u16>,
        out: (&mut [f32], usize),
        fresh: bool,
    ) {
        kernels.panel_f16(n, a, b, out, fresh);
    }
}

impl Element for f32 {
    fn round(_: &Kernels, x: &[f32], out: &mut [f32]) {
        out.copy_from_slice(x);
    }

    fn widen(self) -> f32 {
        self
    }

    fn panel(
        kernels: &Kernels,
        n: usize,
        a: (&[f32], usize),
        b: &Panel<'_, f32>,
        out: (&mut [f32], usize),
        fresh: bool,
    ) {
        kernels.panel_f32(n, a, b, out, fresh);
    }
}

/// Of one head's keys, `n` blocks of 16 cells from block `first` on: element by cell.
pub(super) fn key_panel<T>(keys: &[T], head_dim: usize, first: usize, n: usize) -> Panel<'_, T> {
    let group = GROUP * head_dim;
    Panel { data: &keys[first * group..], n: head_dim, row: GROUP, n_groups: n, group }
}

/// Of one head's values, those of `n` cells from cell `first` on: cell by element.
pub(super) fn value_panel<T>(v: &[T], head_dim: usize, first: usize, n: usize) -> Panel<'_, T> {
    let row = value_width(head_dim);
    Panel { data: &v[first * row..], n, row, n_groups: row / GROUP, group: GROUP }
}

impl Layout {
    pub(super) fn key<T: Element>(&self, keys: &[T], cell: u32, out: &mut [f32]) {
        let (block, lane) = self.block(cell);
        for (x, k) in out.iter_mut().zip(keys[block].chunks_exact(GROUP)) {
            *x = k[lane].widen();
        }
    }

    pub(super) fn value<T: Element>(&self, values: &[T], cell: u32, out: &mut [f32]) {
        let at = cell as usize * value_width(self.head_dim);
        for (x, v) in out.iter_mut().zip(&values[at..]) {
            *x = v.widen();
        }
    }

    pub(super) fn set_key<T: Element>(
        &self,
        kernels: &Kernels,
        keys: &mut [T],
        cell: u32,
        key: &[f32],
    ) {
        let (block, lane) = self.block(cell);
        let mut rounded = [T::default(); 64];
        let parts = keys[block].chunks_mut(64 * GROUP);
        for (keys, key) in parts.zip(key.chunks(64)) {
            T::round(kernels, key, &mut rounded[..key.len()]);
            for (k, x) in keys.chunks_exact_mut(GROUP).zip(rounded) {
                k[lane] = x;
            }
        }
    }

    pub(super) fn fill_keys<T: Element>(
        &self,
        kernels: &Kernels,
        pool: Option<&Pool>,
        keys: &mut [T],
        to: Targets<'_>,
        k: &[f32],
    ) -> Result<()> {
        each_head(pool, keys, self.key_len(), |head, keys| {
            for (_, cell, key) in to.of_head(self, k, head) {
                self.set_key(kernels, keys, cell, key);
            }
        })
    }

    pub(super) fn fill_values<T: Element>(
        &self,
        kernels: &Kernels,
        pool: Option<&Pool>,
        values: &mut [T],
        to: Targets<'_>,
        v: &[f32],
    ) -> Result<()> {
        let width = value_width(self.head_dim);
        each_head(pool, values, self.value_len(), |head, values| {
            for (_, cell, row) in to.of_head(self, v, head) {
                T::round(kernels, row, &mut values[cell as usize * width..][..self.head_dim]);
            }
        })
    }

    /// Moves keys of one head.
    pub(super) fn compact_keys<T: Copy>(
        &self,
        keys: &mut [T],
        later: Later<'_, T>,
        moves: &Moves<'_>,
    ) {
        gather_lanes::<_, GROUP>(keys, later, (self.head_dim, 1), moves);
    }

    /// Moves values of one head.
    pub(super) fn compact_values<T: Copy>(
        &self,
        values: &mut [T],
        later: Later<'_, T>,
        moves: &Moves<'_>,
    ) {
        let width = value_width(self.head_dim);
        for (to, (store, cell)) in moves.each() {
            let from = cell * width..(cell + 1) * width;
            match store {
                0 => values.copy_within(from, to * width),
                _ => values[to * width..][..width].copy_from_slice(&later(store)[from]),
            }
        }
    }
}
