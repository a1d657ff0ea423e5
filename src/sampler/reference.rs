//! The pipeline as the specification words it: every list is written out and sorted, every sum runs
//! over it. The sampler must choose the same tokens, bit for bit, whatever it leaves out.

use super::math::{CHUNK, exp, ln, sum};
use super::*;

/// A candidate: its token and its logit.
type Candidate = (u32, f32);

fn sort(list: &mut [Candidate]) {
    list.sort_by(|a, b| (b.1 + 0.0).total_cmp(&(a.1 + 0.0)).then(a.0.cmp(&b.0)));
}

/// Keeps the first candidates whose weights, added one by one, reach the mass.
fn keep_share(list: &mut Vec<Candidate>, mass: f64, max: f64) {
    let mut total = 0.0;
    let reached = list.iter().position(|c| {
        total += exp(f64::from(c.1) - max);
        total >= mass
    });
    if let Some(last) = reached {
        list.truncate(last + 1);
    }
}

/// What a sampler with these parameters and this history chooses from finite or banned logits, and
/// how many tokens were in the draw; `u` is its next random number.
fn choose(params: &Params, history: &[i32], logits: &[f32], u: f64) -> (u32, usize) {
    let mut logits = logits.to_vec();
    for &(token, bias) in &params.logit_bias {
        let logit = &mut logits[token as usize];
        *logit = rounded(f64::from(*logit) + f64::from(bias));
    }
    if params.penalises() {
        let repeat = if params.repeat_penalty == 0.0 { 1.0 } else { params.repeat_penalty };
        let last_n = if params.penalty_last_n == 0 { 64 } else { params.penalty_last_n as usize };
        let recent = &history[history.len().saturating_sub(last_n)..];
        for (token, logit) in logits.iter_mut().enumerate() {
            let n = recent.iter().filter(|&&t| t == token as i32).count();
            if n > 0 {
                let (from, repeat) = (f64::from(*logit), f64::from(repeat));
                let repeated = if from > 0.0 { from / repeat } else { from * repeat };
                let frequency = n as f64 * f64::from(params.frequency_penalty);
                *logit = rounded(repeated - frequency - f64::from(params.presence_penalty));
            }
        }
    }
    let mut list: Vec<Candidate> = (0..).zip(logits.iter().copied()).collect();
    list.retain(|c| c.1 > f32::NEG_INFINITY);
    let highest =
        |list: &[Candidate]| f64::from(list.iter().fold(f32::NEG_INFINITY, |max, c| max.max(c.1)));
    let mut max = highest(&list);
    if params.temperature == 0.0 {
        let first = list.iter().find(|c| f64::from(c.1) == max);
        return (first.unwrap().0, 1);
    }
    let weights =
        |list: &[Candidate], max: f64| sum(list.len(), |i| exp(f64::from(list[i].1) - max), |_| ());
    if (1..logits.len()).contains(&(params.top_k as usize)) {
        sort(&mut list);
        list.truncate(params.top_k as usize);
    }
    if Params::filters(params.typical_p) {
        let z = weights(&list, max);
        let below = |i: usize| f64::from(list[i].1) - max;
        let mean = sum(list.len(), |i| exp(below(i)) * below(i), |_| ()) / z;
        let distance = |c: &Candidate| (f64::from(c.1) - max - mean).abs() as f32;
        list.sort_by(|a, b| distance(a).total_cmp(&distance(b)).then(a.0.cmp(&b.0)));
        keep_share(&mut list, f64::from(params.typical_p) * z, max);
        sort(&mut list);
        max = highest(&list);
    }
    if Params::filters(params.top_p) {
        let z = weights(&list, max);
        sort(&mut list);
        keep_share(&mut list, f64::from(params.top_p) * z, max);
    }
    if params.min_p > 0.0 {
        list.retain(|c| f64::from(c.1) - max >= ln(f64::from(params.min_p)));
    }
    let inverse = 1.0 / f64::from(params.temperature);
    let weight = |i: usize| exp((f64::from(list[i].1) - max) * inverse);
    let mut chunks = Vec::new();
    let mut target = u * sum(list.len(), weight, |chunk| chunks.push(chunk));
    let mut walk = |weights: &mut dyn Iterator<Item = (usize, f64)>| {
        let mut last = None;
        for (i, weight) in weights {
            last = last.or(Some(i));
            if weight > 0.0 {
                if target < weight {
                    return i;
                }
                target -= weight;
                last = Some(i);
            }
        }
        target = f64::INFINITY;
        last.unwrap()
    };
    let first = CHUNK * walk(&mut chunks.iter().copied().enumerate());
    let end = list.len().min(first + CHUNK);
    let chosen = walk(&mut (first..end).map(|i| (i, weight(i))));
    (list[chosen].0, list.len())
}

/// A row of one of many shapes.
fn any_row(rng: &mut Rng, n: usize) -> Vec<f32> {
    let shape = rng.next_u64() % 8;
    let spread = [1.0e-6, 0.1, 2.0, 8.0, 40.0, 1.0e6][rng.next_u64() as usize % 6];
    let mut row: Vec<f32> =
        (0..n).map(|_| (rng.next_f32() + rng.next_f32() - rng.next_f32() - 0.5) * spread).collect();
    match shape {
        0 => row.fill(-2.5),
        1 => row.iter_mut().for_each(|l| *l = (*l * 4.0 / spread).round()), // many ties
        2 => row.sort_by(f32::total_cmp),
        3 => row.sort_by(|a, b| b.total_cmp(a)),
        4 => row.iter_mut().for_each(|l| *l = if *l > 0.0 { 0.0 } else { -0.0 }),
        5 => {
            for rank in 0..40 {
                row[rng.next_u64() as usize % n] = spread + 12.0 - 0.3 * rank as f32;
            }
        }
        _ => (),
    }
    let banned = [0.0, 0.0, 0.001, 0.4, 0.999][rng.next_u64() as usize % 5];
    for logit in &mut row {
        if rng.next_f32() < banned {
            *logit = f32::NEG_INFINITY;
        }
    }
    if rng.next_u64() % 8 == 0 {
        row[rng.next_u64() as usize % n] =
            [f32::MIN, f32::MAX, 1.0e-40][rng.next_u64() as usize % 3];
    }
    row[n / 2] = 0.25;
    row
}

/// Parameters of every kind; more filters than in any use.
fn any_params(rng: &mut Rng, n: usize) -> Params {
    let mut pick = |of: &[f32]| of[rng.next_u64() as usize % of.len()];
    let mut params = Params {
        top_k: pick(&[0.0, 0.0, 0.0, 1.0, 2.0, 40.0, 300.0, 5000.0, 1.0e9]) as u32,
        top_p: pick(&[0.0, 1.0, 1.0e-6, 0.5, 0.9, 0.95, 0.999, 0.999_999_9]),
        min_p: pick(&[0.0, 0.0, 0.0, 0.05, 1.0e-6, 1.0]),
        typical_p: pick(&[0.0, 0.0, 0.0, 1.0e-6, 0.5, 0.9, 0.999]),
        temperature: pick(&[0.0, 0.1, 0.8, 1.0, 2.5, 100.0]),
        repeat_penalty: pick(&[0.0, 0.0, 1.3, 0.8]),
        frequency_penalty: pick(&[0.0, 0.0, 0.3, -0.2]),
        presence_penalty: pick(&[0.0, 0.0, 0.5]),
        penalty_last_n: pick(&[0.0, 3.0, 200.0]) as u32,
        ..Params::default()
    };
    for _ in 0..(rng.next_u64() % 8).saturating_sub(4) {
        let bias = [3.0, -2.5, f32::NEG_INFINITY][rng.next_u64() as usize % 3];
        params.logit_bias.push(((rng.next_u64() % n as u64) as i32, bias));
    }
    params.seed = rng.next_u64();
    params
}

#[test]
fn every_choice_is_that_of_the_plain_pipeline() {
    let mut rng = Rng::new(71);
    let (mut n_choices, mut n_wide) = (0, 0);
    for round in 0..1200 {
        let n = [2, 3, 40, 1023, 1024, 1025, 5000, 40_000][rng.next_u64() as usize % 8];
        let n = if round % 300 == 0 { 262_144 } else { n };
        let params = any_params(&mut rng, n);
        let mut sampler = Sampler::new(&params).unwrap();
        let mut scratch = Scratch::new(n).unwrap();
        let mut numbers = Rng::new(params.seed);
        let mut history = Vec::new();
        for _ in 0..rng.next_u64() % 70 {
            history.push((rng.next_u64() % n as u64) as i32);
            sampler.accept(history[history.len() - 1]);
        }
        for _ in 0..4 {
            let row = any_row(&mut rng, n);
            let Ok(found) = sampler.sample(&row, &mut scratch) else {
                assert!(params.logit_bias.iter().any(|b| b.1 == f32::NEG_INFINITY));
                continue;
            };
            let u = if params.temperature > 0.0 { numbers.next_f64() } else { 0.0 };
            let (expected, n_left) = choose(&params, &history, &row, u);
            assert_eq!(found, expected as i32, "round {round}, {n} logits, {params:?}");
            history.push(found);
            n_choices += 1;
            n_wide += usize::from(n_left > 2000);
        }
    }
    assert!(n_choices > 4500 && n_wide > 150, "{n_choices} choices, {n_wide} from many");
}
