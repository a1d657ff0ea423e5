//! Attention in plain code.

use half::f16;

use super::{Attend, GROUP, Panel, Rows, Sums};
use crate::kernel::elem::{exp, scalar};

pub(super) const ATTEND: Attend = Attend {
    panel_f16: |sums, b| panel(sums, b, |x| f16::from_bits(x).to_f32()),
    panel_f32: |sums, b| panel(sums, b, |x| x),
    soft_cap,
    powers,
    blend,
    blend_squares,
    to_f16,
};

fn panel<T: Copy>(s: Sums<'_>, b: &Panel<'_, T>, value: impl Fn(T) -> f32) {
    let s = s.cleared(b.n_groups * GROUP);
    for group in 0..b.n_groups {
        for i in 0..b.n {
            let b = &b.data[group * b.group + i * b.row..][..GROUP];
            let b: [f32; GROUP] = std::array::from_fn(|c| value(b[c]));
            for r in 0..s.n {
                let a = s.a[r * s.a_stride + i];
                let out = &mut s.out[r * s.out_stride + group * GROUP..][..GROUP];
                for (out, b) in out.iter_mut().zip(b) {
                    *out += a * b;
                }
            }
        }
    }
}

/// `tanh(y) = (1 - exp(-2 |y|)) / (1 + exp(-2 |y|))`, with the sign of `y`.
fn soft_cap(x: &mut [f32], cap: f32) {
    for x in x {
        let power = scalar::exp((*x / cap).abs() * -2.0);
        *x = (cap * (1.0 - power) / (1.0 + power)).copysign(*x);
    }
}

fn powers(rows: Rows<'_>) {
    rows.each(row_powers);
}

fn row_powers(x: &mut [f32]) -> (f32, f32) {
    let max = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let base = if max == f32::NEG_INFINITY { 0.0 } else { max };
    let mut sums = [0f32; 8];
    for x in x.chunks_mut(8) {
        for (sum, x) in sums.iter_mut().zip(x) {
            let y = *x - base;
            *x = if y < exp::MIN { 0.0 } else { scalar::exp(y) };
            *sum += *x;
        }
    }
    let [a, b, c, d, e, f, g, h] = sums;
    (max, ((a + e) + (c + g)) + ((b + f) + (d + h)))
}

fn blend(x: &mut [f32], a: f32, y: &[f32], b: f32) {
    for (x, y) in x.iter_mut().zip(y) {
        *x = *x * a + *y * b;
    }
}

fn blend_squares(x: &mut [f32], a: f32, y: &[f32], b: f32) {
    for (x, y) in x.iter_mut().zip(y) {
        *x = *x * a + *y * *y * b;
    }
}

fn to_f16(x: &[f32], out: &mut [u16]) {
    for (out, x) in out.iter_mut().zip(x) {
        *out = f16::from_f32(*x).to_bits();
    }
}
