//! Element-wise kernels in plain code.

use super::hadamard::scalar as hadamard;
use super::{Elem, exp};

pub(super) const ELEM: Elem =
    Elem { rms_norm, silu_mul, gelu_mul, add, rope_norm, rope_neox, hadamard };

/// See [`super::exp`]. NaN stays NaN.
pub(in crate::kernel) fn exp(x: f32) -> f32 {
    let x = x.clamp(exp::MIN, exp::MAX);
    let n = (x * exp::LOG2_E).round_ties_even();
    let r = x - n * exp::LN2_HIGH - n * exp::LN2_LOW;
    let p = exp::C.iter().rev().fold(0.0, |p, c| p * r + c);
    let p = p * (r * r) + r + 1.0;
    // n is -126 to 127 here; as an integer a NaN is 0, and p is NaN.
    p * f32::from_bits(((n as i32 + 127) as u32) << 23)
}

/// Eight sums, element `i` to sum `i % 8`, added up at the end.
fn sum(x: &[f32], f: impl Fn(f32) -> f32) -> f32 {
    let mut sums = [0f32; 8];
    for x in x.chunks(8) {
        for (sum, x) in sums.iter_mut().zip(x) {
            *sum += f(*x);
        }
    }
    let [a, b, c, d, e, f, g, h] = sums;
    ((a + e) + (c + g)) + ((b + f) + (d + h))
}

fn rms_norm(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    let mean = sum(x, |x| x * x) / x.len() as f32;
    let scale = 1.0 / (mean + eps).sqrt();
    for (out, (x, w)) in out.iter_mut().zip(x.iter().zip(weight)) {
        *out = x * scale * w;
    }
}

fn silu_mul(gate: &mut [f32], up: &[f32]) {
    for (gate, up) in gate.iter_mut().zip(up) {
        *gate = *gate / (1.0 + exp(-*gate)) * up;
    }
}

/// `x/2 (1 + tanh(y)) = x / (1 + exp(-2y))`.
fn gelu_mul(gate: &mut [f32], up: &[f32]) {
    for (gate, up) in gate.iter_mut().zip(up) {
        let x = *gate;
        let y2 = x * (super::GELU_A + super::GELU_B * (x * x));
        *gate = x / (1.0 + exp(-y2)) * up;
    }
}

fn add(x: &mut [f32], y: &[f32]) {
    for (x, y) in x.iter_mut().zip(y) {
        *x += y;
    }
}

fn rope_norm(x: &mut [f32], cos: &[f32], sin: &[f32]) {
    for (pair, (cos, sin)) in x.chunks_exact_mut(2).zip(cos.iter().zip(sin)) {
        let (a, b) = (pair[0], pair[1]);
        pair[0] = a * cos - b * sin;
        pair[1] = a * sin + b * cos;
    }
}

fn rope_neox(x: &mut [f32], cos: &[f32], sin: &[f32]) {
    let (low, high) = x.split_at_mut(cos.len());
    for ((a, b), (cos, sin)) in low.iter_mut().zip(high).zip(cos.iter().zip(sin)) {
        (*a, *b) = (*a * cos - *b * sin, *a * sin + *b * cos);
    }
}
