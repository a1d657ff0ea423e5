//! Scores and mixtures in plain code.

use half::f16;

use super::Attend;

pub(super) const ATTEND: Attend = Attend {
    scores_f16: |q, k, stride, cells, out| scores(q, k, stride, cells, out, from_f16),
    mix_f16: |p, v, stride, cells, out| mix(p, v, stride, cells, out, from_f16),
    scores_f32: |q, k, stride, cells, out| scores(q, k, stride, cells, out, |x| x),
    mix_f32: |p, v, stride, cells, out| mix(p, v, stride, cells, out, |x| x),
    to_f16,
};

fn from_f16(x: u16) -> f32 {
    f16::from_bits(x).to_f32()
}

/// Element `i` of each product goes to sum `i % 8`; the sums are added up at the end.
fn scores<T: Copy>(
    q: &[f32],
    k: &[T],
    stride: usize,
    cells: &[u32],
    out: &mut [f32],
    value: impl Fn(T) -> f32,
) {
    for (score, &cell) in out.iter_mut().zip(cells) {
        let k = &k[cell as usize * stride..][..q.len()];
        let mut sums = [0f32; 8];
        for (q, k) in q.chunks(8).zip(k.chunks(8)) {
            for (sum, (q, k)) in sums.iter_mut().zip(q.iter().zip(k)) {
                *sum += q * value(*k);
            }
        }
        let [a, b, c, d, e, f, g, h] = sums;
        *score = ((a + e) + (c + g)) + ((b + f) + (d + h));
    }
}

fn mix<T: Copy>(
    p: &[f32],
    v: &[T],
    stride: usize,
    cells: &[u32],
    out: &mut [f32],
    value: impl Fn(T) -> f32,
) {
    out.fill(0.0);
    for (p, &cell) in p.iter().zip(cells) {
        let v = &v[cell as usize * stride..][..out.len()];
        for (out, v) in out.iter_mut().zip(v) {
            *out += p * value(*v);
        }
    }
}

fn to_f16(x: &[f32], out: &mut [u16]) {
    for (out, x) in out.iter_mut().zip(x) {
        *out = f16::from_f32(*x).to_bits();
    }
}
