//! Scores of cells. The higher, the sooner a cell stays.
//!
//! What is not a number stays that alone: pools and norms leave it out.

use super::{Head, Params};
use crate::base::rng::Rng;

/// The quadratic mean of a cell's attention over the queries that saw it, of which older ones fade, as
/// a share of the head's, plus the share of the last queries' attention, pooled. `part` is memory to
/// work in.
///
/// The quadratic mean sets a cell that a few queries need apart from one that all glance at; and what
/// was needed long ago is often done with. Where 20 % of 1024 tokens of SmolLM2 stay, both take a sixth
/// off the divergence (docs/kv-quality.md).
pub fn attention(params: &Params, head: &Head<'_>, score: &mut [f32], part: &mut [f32]) {
    quadratic_mean(params, head, part);
    normalise(part);
    pool(head.observed, params.n_pool, score);
    normalise(score);
    for (score, part) in score.iter_mut().zip(part) {
        *score += *part;
    }
}

/// The square root of the weighted mean of squares.
pub fn quadratic_mean(params: &Params, head: &Head<'_>, score: &mut [f32]) {
    let fade = (-1.0 / f64::from(params.half_life)).exp2();
    // What is left after as many queries as have seen the cell: from the newest to the oldest, it
    // follows by multiplication.
    let (mut n, mut left) = (0, 1.0);
    for (i, (score, squares)) in score.iter_mut().zip(head.squares).enumerate().rev() {
        let n_seen = head.n_seen(i);
        left *= fade.powi(i32::try_from(n_seen.saturating_sub(n)).unwrap_or(i32::MAX));
        n = n_seen;
        let weight = (1.0 - left) / (1.0 - fade);
        *score = (f64::from(*squares) / weight).sqrt() as f32;
    }
}

/// How idle a head is: of the attention of the last queries that is on the sinks or on the newest
/// `n_near` positions, the part on the sinks. `None` if none of it is known.
///
/// A head that looks for something rests on the sinks while there is nothing to find, and one that
/// reads what was just said never does. In SmolLM2 the idlest of 90 heads is the one without which no
/// code in a text is found again.
pub fn idleness(params: &Params, head: &Head<'_>, n_near: usize) -> Option<f64> {
    let (mut sinks, mut near) = (0.0, 0.0);
    for (i, &p) in head.observed.iter().enumerate() {
        let p = if p > 0.0 { f64::from(p) } else { 0.0 };
        if (head.pos[i] as usize) < params.n_sink {
            sinks += p;
        } else if head.n_seen(i) as usize <= n_near {
            near += p;
        }
    }
    let all = sinks + near;
    (all > 0.0 && all.is_finite()).then(|| sinks / all)
}

/// What part of the highest is left of [`follow`]'s score one position later.
const FADE: f32 = 0.9;
/// After so many positions a ten-thousandth is left, and need not fade further.
const MOST_STEPS: u32 = 90;

/// What the last queries attended to, and what follows it: their attention to a cell or, if that is
/// more, to one before it, a tenth less for every position in between. Sinks do not count, nor do the
/// tokens of the queries themselves.
///
/// A head that finds a phrase again attends to what came after it, and next to what came after that:
/// to the end of a fact of which a question has but the first words.
pub fn follow(params: &Params, head: &Head<'_>, score: &mut [f32]) {
    let (mut last, mut worth) = (0, 0.0f32);
    for (i, (score, &p)) in score.iter_mut().zip(head.observed).enumerate() {
        let pos = head.pos[i];
        for _ in 0..(pos - last).min(MOST_STEPS) {
            worth *= FADE;
        }
        if pos as usize >= params.n_sink && head.n_seen(i) as usize > params.n_obs {
            worth = worth.max(p);
        }
        (*score, last) = (worth, pos);
    }
}

/// Mean attention probability over the queries that saw a cell. Not the sum: sums grow with age,
/// so that a new token would be the first to leave.
pub fn mean_mass(head: &Head<'_>, score: &mut [f32]) {
    for (i, (score, mass)) in score.iter_mut().zip(head.mass).enumerate() {
        *score = mass / head.n_seen(i) as f32;
    }
}

/// Low norms first: keys that draw much attention are short.
pub fn low_norm(norm: &[f32], score: &mut [f32]) {
    for (score, norm) in score.iter_mut().zip(norm) {
        *score = -norm;
    }
}

/// A lot for each position of a head, the same whatever else is in the cache.
pub fn random(seed: u64, head: &Head<'_>, score: &mut [f32]) {
    let seed = Rng::new(seed).next_u64();
    let place = u64::from(head.layer) << 48 ^ u64::from(head.head) << 32;
    for (score, &pos) in score.iter_mut().zip(head.pos) {
        *score = Rng::new(seed ^ place ^ u64::from(pos)).next_f32();
    }
}

/// Averages each cell with its neighbours, `n_pool` (odd) in all; beyond the ends lie copies of
/// the first and of the last cell. `out` is as long as `x`.
pub fn pool(x: &[f32], n_pool: usize, out: &mut [f32]) {
    assert_eq!(x.len(), out.len());
    let (reach, last) = (n_pool / 2, x.len().saturating_sub(1));
    for (i, out) in out.iter_mut().enumerate() {
        let (mut sum, mut n) = (0.0, 0u32);
        for j in i..=i + 2 * reach {
            let x = x[j.saturating_sub(reach).min(last)];
            if !x.is_nan() {
                sum += x;
                n += 1;
            }
        }
        *out = if x[i].is_nan() { f32::NAN } else { sum / n as f32 };
    }
}

/// Subtracts the smallest and divides by the sum, so that scores of different kinds can be added.
/// Finite numbers only are counted.
pub fn normalise(x: &mut [f32]) {
    let finite = || x.iter().copied().filter(|x| x.is_finite());
    let min = finite().fold(f32::INFINITY, f32::min);
    if min == f32::INFINITY {
        return;
    }
    let sum: f64 = finite().map(|x| f64::from(x) - f64::from(min)).sum();
    for x in x {
        *x = ((f64::from(*x) - f64::from(min)) / (sum + 1e-9)) as f32;
    }
}

/// KVzip's score: takes over what is larger of the probabilities of one query of one head in the
/// pass that repeats the text (Kim et al. 2025, arXiv 2505.23416). `zip` starts as zeros.
pub fn raise(zip: &mut [f32], probabilities: &[f32]) {
    assert_eq!(zip.len(), probabilities.len());
    for (zip, p) in zip.iter_mut().zip(probabilities) {
        *zip = zip.max(*p);
    }
}

#[cfg(test)]
mod tests {
    use super::super::Policy;
    use super::*;

    #[test]
    fn pools_repeat_their_ends() {
        let mut out = [0.0; 4];
        pool(&[3.0, 6.0, 0.0, 9.0], 3, &mut out);
        assert_eq!(out, [4.0, 3.0, 5.0, 6.0]);
        pool(&[3.0, 6.0, 0.0, 9.0], 1, &mut out);
        assert_eq!(out, [3.0, 6.0, 0.0, 9.0]);
        let mut one = [0.0];
        pool(&[5.0], 63, &mut one);
        assert_eq!(one, [5.0]);
        pool(&[], 5, &mut []);
    }

    #[test]
    fn what_is_not_a_number_stays_alone() {
        let mut out = [0.0; 3];
        pool(&[1.0, f32::NAN, 4.0], 3, &mut out);
        assert_eq!((out[0], out[1].is_nan(), out[2]), (1.0, true, 4.0));
        let mut x = [1.0, f32::NAN, 3.0, f32::INFINITY, f32::NEG_INFINITY, 2.0];
        normalise(&mut x);
        assert!(x[1].is_nan() && x[3] == f32::INFINITY && x[4] == f32::NEG_INFINITY);
        assert_eq!((x[0], (x[2] * 3.0).round(), (x[5] * 3.0).round()), (0.0, 2.0, 1.0));
        let mut none = [f32::NAN, f32::INFINITY];
        normalise(&mut none);
        assert!(none[0].is_nan() && none[1] == f32::INFINITY);
        let mut equal = [7.0; 5];
        normalise(&mut equal);
        assert_eq!(equal, [0.0; 5]);
    }

    #[test]
    fn what_follows_is_worth_less_with_every_position() {
        let params = Params { n_sink: 2, n_obs: 3, ..Params::new(Policy::Hybrid, false) };
        // A sink, one that is attended to, what follows it, one that is worth more, a gap, and the
        // tokens of the last three queries.
        let pos = [0, 5, 6, 8, 11, 400, 401, 997, 998, 999];
        let observed = [0.9, 0.5, 0.1, 0.0, 0.45, 0.0, 0.2, 0.8, f32::NAN, 0.8];
        let head = Head { n_past: 1000, pos: &pos, observed: &observed, ..Head::default() };
        let mut score = [f32::NAN; 10];
        follow(&params, &head, &mut score);
        assert_eq!(score[..4], [0.0, 0.5, 0.5 * FADE, 0.5 * FADE * FADE * FADE]);
        assert_eq!((score[4], score[6]), (0.45, 0.2));
        assert!(score[5] < 1e-4 && score[7..].iter().all(|&x| x < 2e-5), "{score:?}");
    }

    #[test]
    fn a_head_is_as_idle_as_it_rests_on_the_sinks() {
        let params = Params { n_sink: 2, ..Params::new(Policy::Hybrid, false) };
        let pos: Vec<u32> = (0..10).collect();
        let idle = |observed: &[f32], n_near| {
            let head = Head { n_past: 10, pos: &pos, observed, ..Head::default() };
            idleness(&params, &head, n_near)
        };
        let mut observed = [0.0; 10];
        assert_eq!(idle(&observed, 3), None);
        (observed[1], observed[7], observed[6]) = (0.375, 0.125, 0.5);
        assert_eq!([idle(&observed, 3), idle(&observed, 4)], [Some(0.75), Some(0.375)]);
        (observed[0], observed[8]) = (f32::NAN, -1.0);
        assert_eq!(idle(&observed, 3), Some(0.75));
        observed[1] = f32::INFINITY;
        assert_eq!(idle(&observed, 3), None);
    }

    #[test]
    fn the_largest_probability_stays() {
        let mut zip = [0.0; 3];
        raise(&mut zip, &[0.1, 0.7, 0.2]);
        raise(&mut zip, &[0.3, 0.1, f32::NAN]);
        assert_eq!(zip, [0.3, 0.7, 0.2]);
    }

    #[test]
    fn lots_depend_on_seed_layer_head_and_position_alone() {
        let pos: Vec<u32> = (0..1000).collect();
        let draw = |seed, layer, head, pos: &[u32]| {
            let mut score = vec![0.0; pos.len()];
            random(seed, &Head { layer, head, pos, ..Head::default() }, &mut score);
            score
        };
        let first = draw(1, 2, 3, &pos);
        assert_eq!(draw(1, 2, 3, &pos[500..]), first[500..]);
        for other in [draw(0, 2, 3, &pos), draw(1, 3, 3, &pos), draw(1, 2, 2, &pos)] {
            assert!(first.iter().zip(&other).filter(|(a, b)| a == b).count() < 5);
        }
        let mean = first.iter().sum::<f32>() / 1000.0;
        assert!((mean - 0.5).abs() < 0.05, "{mean}");
    }
}
