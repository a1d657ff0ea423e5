//! What `tern::sampler` promises: the pipeline's order and each of its steps, the same tokens for
//! the same seed on every machine, errors that name what is wrong, and no allocation.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends there")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use tern::Error;
use tern::base::highest::Highest;
use tern::base::rng::Rng;
use tern::sampler::{Params, Sampler, Scratch};

/// Counts the allocations of each thread.
struct Counting;

thread_local! {
    static N_ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

#[allow(unsafe_code, reason = "a counting allocator can only be written so")]
// SAFETY: every call goes to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let _ = N_ALLOCATIONS.try_with(|n| n.set(n.get() + 1));
        // SAFETY: the caller's contract is the system allocator's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: as above; `ptr` came from `alloc`, so from the system's allocator.
        unsafe { System.dealloc(ptr, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// A row as tests/oracle/sampler_golden.py makes it.
fn row(rng: &mut Rng, n: usize) -> Vec<f32> {
    (0..n)
        .map(|_| {
            let x = rng.next_f32() + rng.next_f32();
            let x = x + rng.next_f32();
            6.0 * x - 9.0
        })
        .collect()
}

fn one(params: &Params, logits: &[f32]) -> i32 {
    let mut scratch = Scratch::new(logits.len()).unwrap();
    Sampler::new(params).unwrap().sample(logits, &mut scratch).unwrap()
}

/// The tokens in the draw, in the order in which it walks them, with their probabilities; written
/// from the documentation, in f64, with the C library's functions and plain sorts.
fn oracle(params: &Params, history: &[i32], logits: &[f32]) -> Vec<(i32, f64)> {
    let mut logits: Vec<f64> = logits.iter().map(|&l| f64::from(l)).collect();
    for &(token, bias) in &params.logit_bias {
        logits[token as usize] = f64::from((logits[token as usize] + f64::from(bias)) as f32);
    }
    let last_n = if params.penalty_last_n == 0 { 64 } else { params.penalty_last_n as usize };
    let recent = &history[history.len().saturating_sub(last_n)..];
    for (token, logit) in logits.iter_mut().enumerate() {
        let n = recent.iter().filter(|&&t| t == token as i32).count();
        if n > 0 {
            let repeat = if params.repeat_penalty == 0.0 { 1.0 } else { params.repeat_penalty };
            let repeat = f64::from(repeat);
            *logit = if *logit > 0.0 { *logit / repeat } else { *logit * repeat };
            *logit -= n as f64 * f64::from(params.frequency_penalty);
            *logit -= f64::from(params.presence_penalty);
            *logit = f64::from(*logit as f32);
        }
    }
    let scaled = |mut all: Vec<(i32, f64)>| {
        let max = all.iter().fold(f64::NEG_INFINITY, |m, a| m.max(a.1));
        let sum: f64 = all.iter().map(|a| (a.1 - max).exp()).sum();
        all.iter_mut().for_each(|a| a.1 -= max + sum.ln());
        all // logarithms of probabilities
    };
    let best_first = |all: &mut Vec<(i32, f64)>| {
        all.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    };
    let share = |all: &mut Vec<(i32, f64)>, p: f64| {
        let mut total = 0.0;
        let n = all.iter().take_while(|a| {
            let more = total < p;
            total += a.1.exp();
            more
        });
        let n = n.count();
        all.truncate(n);
    };
    let mut all: Vec<(i32, f64)> = (0..).zip(logits.iter().copied()).collect();
    all.retain(|a| a.1 > f64::NEG_INFINITY);
    if params.top_k > 0 && (params.top_k as usize) < logits.len() {
        best_first(&mut all);
        all.truncate(params.top_k as usize);
    }
    if params.typical_p > 0.0 && params.typical_p < 1.0 {
        all = scaled(all);
        let entropy: f64 = -all.iter().map(|a| a.1.exp() * a.1).sum::<f64>();
        all.sort_by(|a, b| {
            let (a, b) = ((-a.1 - entropy).abs() as f32, (-b.1 - entropy).abs() as f32);
            a.total_cmp(&b)
        });
        share(&mut all, f64::from(params.typical_p));
        best_first(&mut all);
    }
    if params.top_p > 0.0 && params.top_p < 1.0 {
        all = scaled(all);
        best_first(&mut all);
        share(&mut all, f64::from(params.top_p));
    }
    if params.min_p > 0.0 {
        let max = all.iter().fold(f64::NEG_INFINITY, |m, a| m.max(a.1));
        all.retain(|a| a.1 - max >= f64::from(params.min_p).ln());
    }
    all.iter_mut().for_each(|a| a.1 /= f64::from(params.temperature));
    all = scaled(all);
    all.iter_mut().for_each(|a| a.1 = a.1.exp());
    all
}

/// Random parameters: each step is off, mild or harsh.
fn any_params(rng: &mut Rng, n_vocab: usize) -> Params {
    let mut pick = |of: &[f32]| of[rng.next_u64() as usize % of.len()];
    let mut params = Params {
        top_k: pick(&[0.0, 1.0, 5.0, 40.0, 700.0]) as u32,
        top_p: pick(&[0.0, 1.0, 0.3, 0.95, 0.999]),
        min_p: pick(&[0.0, 0.0, 0.05, 0.001]),
        typical_p: pick(&[0.0, 1.0, 0.5, 0.95]),
        temperature: pick(&[0.1, 0.7, 1.0, 2.5, 100.0]),
        repeat_penalty: pick(&[0.0, 1.0, 1.3, 0.8]),
        frequency_penalty: pick(&[0.0, 0.3, -0.2]),
        presence_penalty: pick(&[0.0, 0.5]),
        penalty_last_n: pick(&[0.0, 3.0, 200.0]) as u32,
        seed: 0,
        logit_bias: Vec::new(),
        n_logprobs: 0,
    };
    for _ in 0..rng.next_u64() % 4 {
        let token = (rng.next_u64() % n_vocab as u64) as i32;
        let bias = [3.0, -2.5, f32::NEG_INFINITY][rng.next_u64() as usize % 3];
        params.logit_bias.push((token, bias));
    }
    params.seed = rng.next_u64();
    params
}

/// As the head leaves it: noted in parts of any length, in any order.
fn highest(logits: &[f32], part: usize) -> Highest {
    let highest = Highest::new(1, logits.len()).unwrap();
    for (i, logits) in logits.chunks(part).enumerate().rev() {
        highest.note(0, part * i, logits);
    }
    highest
}

#[test]
fn the_highest_logits_known_beforehand_change_no_choice() {
    let mut rng = Rng::new(8);
    for _ in 0..200 {
        let n_vocab = [2, 500, 1024, 5000][rng.next_u64() as usize % 4];
        let params = any_params(&mut rng, n_vocab);
        let (mut alone, mut knowing) =
            (Sampler::new(&params).unwrap(), Sampler::new(&params).unwrap());
        let mut scratch = Scratch::new(n_vocab).unwrap();
        for _ in 0..10 {
            let mut logits = row(&mut rng, n_vocab);
            let at = rng.next_u64() as usize % n_vocab;
            match rng.next_u64() % 6 {
                0 => logits[at] = f32::NAN,
                1 => logits[at] = f32::INFINITY,
                2 => logits.fill(f32::NEG_INFINITY),
                3 => logits[at] = f32::NEG_INFINITY,
                _ => {}
            }
            let expected = alone.sample(&logits, &mut scratch);
            let known = highest(&logits, 1 + rng.next_u64() as usize % 1500);
            let found = knowing.sample_knowing(&logits, known.of_row(0), &mut scratch);
            assert_eq!(format!("{found:?}"), format!("{expected:?}"), "{params:?}");
            assert_eq!(knowing.logprobs(), alone.logprobs());
            // What is missing is looked for.
            let (mut some, mut fewer) = (alone, knowing);
            let expected = some.sample(&logits, &mut scratch);
            let known = known.of_row(0).map(|_| None);
            let found = fewer.sample_knowing(&logits, known, &mut scratch);
            assert_eq!(format!("{found:?}"), format!("{expected:?}"), "{params:?}");
            (alone, knowing) = (some, fewer);
        }
    }
}

/// The draw takes one number of the seed's sequence and inverts the cumulative distribution: so
/// every step, and their order, shows in which token a number gives.
#[test]
fn every_draw_is_the_one_that_a_plain_pipeline_makes() {
    let mut rng = Rng::new(7);
    let (mut n_draws, mut n_wide) = (0, 0);
    for _ in 0..600 {
        let n_vocab = [2, 30, 500, 3000][rng.next_u64() as usize % 4];
        let params = any_params(&mut rng, n_vocab);
        let mut sampler = Sampler::new(&params).unwrap();
        let mut scratch = Scratch::new(n_vocab).unwrap();
        let mut numbers = Rng::new(params.seed);
        let mut history = Vec::new();
        for _ in 0..rng.next_u64() % 30 {
            history.push((rng.next_u64() % n_vocab as u64) as i32);
            sampler.accept(history[history.len() - 1]);
        }
        for _ in 0..10 {
            let logits = row(&mut rng, n_vocab);
            let expected = oracle(&params, &history, &logits);
            if expected.is_empty() {
                let error = sampler.sample(&logits, &mut scratch).unwrap_err();
                assert!(matches!(error, Error::NotFinite(_)), "{error}");
                continue;
            }
            let u = numbers.next_f64();
            let token = sampler.sample(&logits, &mut scratch).unwrap();
            let at = expected.iter().position(|e| e.0 == token);
            let at = at.unwrap_or_else(|| panic!("{token} is not in the draw: {params:?}"));
            let before: f64 = expected[..at].iter().map(|e| e.1).sum();
            let after = before + expected[at].1;
            assert!(
                before - 1e-9 <= u && u < after + 1e-9,
                "{token}: {u} is not in {before}..{after}: {params:?}"
            );
            history.push(token);
            n_draws += 1;
            n_wide += usize::from(expected.len() > 1024);
        }
    }
    assert!(n_draws > 5000 && n_wide > 50, "{n_draws} draws, {n_wide} from many");
}

/// Chi-square over many seeds, one draw each: seeds are as random as numbers of one sequence.
#[test]
fn many_seeds_draw_by_the_distribution() {
    let logits = row(&mut Rng::new(11), 60);
    let settings = [
        Params { temperature: 1.0, ..Params::default() },
        Params { temperature: 1.0, top_k: 12, ..Params::default() },
        Params { temperature: 1.0, top_p: 0.8, ..Params::default() },
        Params { temperature: 1.0, min_p: 0.03, ..Params::default() },
        Params { temperature: 1.0, typical_p: 0.7, ..Params::default() },
        Params { temperature: 2.0, ..Params::default() },
        Params { temperature: 0.4, ..Params::default() },
        Params { temperature: 1.0, logit_bias: vec![(3, 4.0), (9, -3.0)], ..Params::default() },
    ];
    for (which, mut params) in settings.into_iter().enumerate() {
        const N: u64 = 20_000;
        let expected = oracle(&params, &[], &logits);
        let mut n_drawn = vec![0_u32; logits.len()];
        let mut scratch = Scratch::new(logits.len()).unwrap();
        for seed in 0..N {
            params.seed = seed;
            let token = Sampler::new(&params).unwrap().sample(&logits, &mut scratch).unwrap();
            n_drawn[token as usize] += 1;
        }
        let in_draw: u32 = expected.iter().map(|e| n_drawn[e.0 as usize]).sum();
        assert_eq!(u64::from(in_draw), N, "setting {which}: a token that was filtered out");
        // Tokens expected fewer than ten times are counted together.
        let (mut chi_square, mut n_cells) = (0.0, 0.0);
        let (mut rare, mut n_rare) = (0.0, 0.0);
        for &(token, p) in &expected {
            let (mean, n) = (p * N as f64, f64::from(n_drawn[token as usize]));
            if mean < 10.0 {
                rare += mean;
                n_rare += n;
            } else {
                chi_square += (n - mean) * (n - mean) / mean;
                n_cells += 1.0;
            }
        }
        if rare > 10.0 {
            chi_square += (n_rare - rare) * (n_rare - rare) / rare;
            n_cells += 1.0;
        }
        let freedom: f64 = n_cells - 1.0;
        let bound = freedom + 5.0 * (2.0 * freedom).sqrt() + 5.0;
        assert!(chi_square < bound, "setting {which}: {chi_square} with {freedom} degrees");
        assert!(freedom >= 3.0, "setting {which} is a test of nothing");
    }
}

/// The specification's anchor. The numbers come from tests/oracle/sampler_golden.py, which is
/// written from the specification: they may never change.
#[test]
fn a_seed_gives_the_recorded_tokens() {
    let plain = Params { temperature: 1.0, ..Params::default() };
    let top = Params { temperature: 0.8, top_k: 40, top_p: 0.95, ..Params::default() };
    let all = Params {
        temperature: 0.7,
        top_k: 40,
        top_p: 0.9,
        min_p: 0.02,
        typical_p: 0.95,
        repeat_penalty: 1.1,
        frequency_penalty: 0.2,
        presence_penalty: 0.1,
        penalty_last_n: 8,
        logit_bias: vec![(3, 2.5), (17, f32::NEG_INFINITY), (5, -1.25)],
        ..Params::default()
    };
    let flat = Params { temperature: 3.0, top_p: 0.99, min_p: 0.001, ..Params::default() };
    let recorded: [(Params, usize, [i32; 24]); 4] = [
        (
            plain,
            3000,
            [
                342, 1367, 1777, 2894, 2949, 2335, 2229, 2518, 2277, 1773, 2046, 1296, 2418, 977,
                2181, 2674, 2055, 2560, 2024, 2135, 250, 590, 1318, 1765,
            ],
        ),
        (
            top,
            3000,
            [
                1522, 7, 1364, 1450, 2831, 2361, 1059, 544, 1421, 1133, 371, 2971, 2466, 2559,
                1335, 1954, 2683, 2456, 2805, 1925, 1994, 1109, 2629, 1644,
            ],
        ),
        (
            all,
            60,
            [
                21, 30, 3, 3, 6, 42, 49, 28, 31, 32, 38, 3, 34, 12, 22, 54, 15, 3, 19, 12, 7, 58,
                50, 9,
            ],
        ),
        (
            flat,
            5000,
            [
                4434, 1195, 1642, 2394, 1085, 3531, 1341, 567, 2258, 2457, 302, 3256, 1867, 3865,
                2337, 1501, 380, 4193, 991, 4511, 3287, 248, 4659, 4072,
            ],
        ),
    ];
    for (params, n_vocab, expected) in recorded {
        let mut made = Rng::new(2024);
        let mut sampler = Sampler::new(&Params { seed: 42, ..params }).unwrap();
        let mut scratch = Scratch::new(n_vocab).unwrap();
        let tokens: Vec<i32> = (0..24)
            .map(|_| sampler.sample(&row(&mut made, n_vocab), &mut scratch).unwrap())
            .collect();
        assert_eq!(tokens, expected);
    }
}

#[test]
fn all_zero_is_greedy_and_the_lowest_token_wins_a_tie() {
    let mut logits = row(&mut Rng::new(1), 1000);
    logits[700] = 20.0;
    logits[333] = 20.0;
    assert_eq!(one(&Params::default(), &logits), 333);
    assert_eq!(one(&Params { seed: 99, ..Params::default() }, &logits), 333);
    // Filters have no say in it: typical sampling could drop the best token.
    assert_eq!(one(&Params { typical_p: 0.01, top_k: 1, ..Params::default() }, &logits), 333);
    logits[333] = f32::NEG_INFINITY;
    assert_eq!(one(&Params::default(), &logits), 700);
    assert_eq!(one(&Params::default(), &[0.0, -0.0, 0.0]), 0);
    assert_eq!(one(&Params::default(), &[-0.0, 0.0]), 0);
    assert_eq!(one(&Params { top_k: 1, temperature: 1.0, ..Params::default() }, &[-0.0, 0.0]), 0);
    assert_eq!(one(&Params { temperature: f32::MIN_POSITIVE, ..Params::default() }, &logits), 700);
}

#[test]
fn penalties_follow_the_last_n_tokens() {
    let logits = [2.0, 1.9, -1.0, -1.05];
    let params = Params { repeat_penalty: 1.2, penalty_last_n: 2, ..Params::default() };
    let mut sampler = Sampler::new(&params).unwrap();
    let mut scratch = Scratch::new(4).unwrap();
    let mut next = |s: &mut Sampler| s.sample(&logits, &mut scratch).unwrap();
    // 0 is taken; then 2.0 / 1.2 is below 1.9; then both are penalised; and so on.
    assert_eq!([next(&mut sampler), next(&mut sampler), next(&mut sampler)], [0, 1, 0]);
    sampler.accept(3);
    sampler.accept(3); // 0 and 1 are forgotten
    assert_eq!(next(&mut sampler), 0);
    sampler.accept(0);
    assert_eq!(next(&mut sampler), 1);
    sampler.reset();
    assert_eq!(next(&mut sampler), 0);

    // A negative logit is multiplied: the penalty never helps.
    let mut sampler = Sampler::new(&params).unwrap();
    let mut scratch = Scratch::new(2).unwrap();
    sampler.accept(0);
    assert_eq!(sampler.sample(&[-1.0, -1.05], &mut scratch).unwrap(), 1);

    // Frequency counts occurrences, presence does not.
    let mut at = |frequency_penalty, presence_penalty, n_accepted| {
        let params = Params { frequency_penalty, presence_penalty, ..Params::default() };
        let mut sampler = Sampler::new(&params).unwrap();
        (0..n_accepted).for_each(|_| sampler.accept(0));
        sampler.sample(&[1.0, 0.0], &mut scratch).unwrap()
    };
    assert_eq!([at(0.4, 0.0, 2), at(0.4, 0.0, 3)], [0, 1]);
    assert_eq!([at(0.0, 0.9, 50), at(0.0, 1.1, 1)], [0, 1]);
    // Ids outside the vocabulary are remembered and otherwise ignored.
    let mut sampler = Sampler::new(&params).unwrap();
    [-1, i32::MIN, 2, i32::MAX].into_iter().for_each(|t| sampler.accept(t));
    assert_eq!(sampler.sample(&[1.0, 0.0], &mut scratch).unwrap(), 0);
}

#[test]
fn reset_gives_the_same_tokens_again() {
    let params = Params { temperature: 1.5, repeat_penalty: 1.5, seed: 5, ..Params::default() };
    let mut sampler = Sampler::new(&params).unwrap();
    let mut scratch = Scratch::new(200).unwrap();
    let logits = row(&mut Rng::new(3), 200);
    let mut run = |s: &mut Sampler| -> Vec<i32> {
        (0..50).map(|_| s.sample(&logits, &mut scratch).unwrap()).collect()
    };
    let first = run(&mut sampler);
    let second = run(&mut sampler);
    assert_ne!(first, second);
    sampler.reset();
    assert_eq!(run(&mut sampler), first);
}

#[test]
fn logprobs_are_of_the_logits_as_they_came() {
    let mut logits = row(&mut Rng::new(4), 5000);
    logits[7] = 12.0;
    logits[9] = 12.0;
    logits[70] = f32::NEG_INFINITY;
    let sum: f64 = logits.iter().map(|&l| f64::from(l).exp()).sum();
    let expected = |t: i32| f64::from(logits[t as usize]) - sum.ln();
    let params = Params {
        n_logprobs: 10,
        temperature: 3.0,
        seed: 8,
        logit_bias: vec![(7, f32::NEG_INFINITY)],
        ..Params::default()
    };
    let mut sampler = Sampler::new(&params).unwrap();
    assert_eq!(sampler.logprobs(), []);
    let mut scratch = Scratch::new(5000).unwrap();
    for _ in 0..20 {
        let token = sampler.sample(&logits, &mut scratch).unwrap();
        let logprobs = sampler.logprobs();
        assert_eq!(logprobs.len(), 11);
        assert_eq!(logprobs[0].0, token);
        assert_eq!((logprobs[1].0, logprobs[2].0), (7, 9));
        for &(token, logprob) in logprobs {
            assert!((f64::from(logprob) - expected(token)).abs() < 1e-6);
        }
        let mut order: Vec<i32> = (0..5000).collect();
        order.sort_by(|&a, &b| logits[b as usize].total_cmp(&logits[a as usize]).then(a.cmp(&b)));
        assert!(logprobs[1..].iter().map(|l| l.0).eq(order[..10].iter().copied()));
    }
    sampler.sample(&[f32::NAN; 5000], &mut scratch).unwrap_err();
    assert_eq!(sampler.logprobs(), []);
    // Fewer tokens than asked for, and one of them banned.
    let mut sampler = Sampler::new(&Params { n_logprobs: 64, ..Params::default() }).unwrap();
    let mut scratch = Scratch::new(3).unwrap();
    sampler.sample(&[0.0, f32::NEG_INFINITY, 0.0], &mut scratch).unwrap();
    let half = 0.5_f64.ln() as f32;
    assert_eq!(sampler.logprobs(), [(0, half), (0, half), (2, half)]);
}

#[test]
fn logits_that_are_not_numbers_are_named() {
    for (bad, name) in [(f32::NAN, "NaN"), (-f32::NAN, "NaN"), (f32::INFINITY, "inf")] {
        for token in [0, 63, 64, 999] {
            let mut logits = row(&mut Rng::new(1), 1000);
            logits[token] = bad;
            let params = Params { temperature: 1.0, seed: 3, ..Params::default() };
            let mut sampler = Sampler::new(&params).unwrap();
            let mut scratch = Scratch::new(1000).unwrap();
            let error = sampler.sample(&logits, &mut scratch).unwrap_err();
            assert!(matches!(error, Error::NotFinite(_)), "{error}");
            assert_eq!(error.message(), format!("token {token}: its logit is {name}"));
            // The failed call took no random number.
            logits[token] = 1.0;
            assert_eq!(sampler.sample(&logits, &mut scratch).unwrap(), one(&params, &logits));
        }
    }
    let error = Sampler::new(&Params::default())
        .unwrap()
        .sample(&[f32::NEG_INFINITY; 8], &mut Scratch::new(8).unwrap())
        .unwrap_err();
    assert!(matches!(error, Error::NotFinite(_)), "{error}");
}

#[test]
fn extreme_logits_stay_finite() {
    let params = Params {
        temperature: 1.0e-3,
        top_p: 0.9,
        typical_p: 0.9,
        min_p: 0.1,
        repeat_penalty: 0.01,
        ..Params::default()
    };
    let mut sampler = Sampler::new(&params).unwrap();
    let mut scratch = Scratch::new(4).unwrap();
    for _ in 0..10 {
        let logits = [f32::MAX, f32::MIN, 0.0, f32::MAX];
        let token = sampler.sample(&logits, &mut scratch).unwrap();
        assert!(token == 0 || token == 3);
    }
}

#[test]
fn parameters_out_of_range_are_named() {
    let default = Params::default;
    let nan = f32::NAN;
    let cases = [
        (Params { top_p: -0.1, ..default() }, "top_p: -0.1, expected 0 to 1"),
        (Params { top_p: 1.5, ..default() }, "top_p: 1.5, expected 0 to 1"),
        (Params { top_p: nan, ..default() }, "top_p: NaN, expected 0 to 1"),
        (Params { min_p: 2.0, ..default() }, "min_p: 2, expected 0 to 1"),
        (Params { min_p: nan, ..default() }, "min_p: NaN, expected 0 to 1"),
        (Params { typical_p: -1.0, ..default() }, "typical_p: -1, expected 0 to 1"),
        (Params { temperature: -1.0, ..default() }, "temperature: -1, expected 0 to 100"),
        (Params { temperature: 101.0, ..default() }, "temperature: 101, expected 0 to 100"),
        (Params { temperature: nan, ..default() }, "temperature: NaN, expected 0 to 100"),
        (
            Params { repeat_penalty: -1.0, ..default() },
            "repeat_penalty: -1, expected 0 or 0.01 to 100",
        ),
        (
            Params { repeat_penalty: nan, ..default() },
            "repeat_penalty: NaN, expected 0 or 0.01 to 100",
        ),
        (
            Params { frequency_penalty: f32::INFINITY, ..default() },
            "frequency_penalty: inf, expected -100 to 100",
        ),
        (
            Params { presence_penalty: -200.0, ..default() },
            "presence_penalty: -200, expected -100 to 100",
        ),
        (
            Params { penalty_last_n: 1 << 21, ..default() },
            "penalty_last_n: 2097152, expected 0 to 1048576",
        ),
        (Params { n_logprobs: 65, ..default() }, "n_logprobs: 65, expected 0 to 64"),
        (
            Params { logit_bias: vec![(1, 0.0), (-1, 0.0)], ..default() },
            "logit_bias[1]: token -1, expected 0 or more",
        ),
        (
            Params { logit_bias: vec![(1, nan)], ..default() },
            "logit_bias[0]: bias NaN, expected -10000 to 10000 or minus infinity",
        ),
    ];
    for (params, sentence) in cases {
        let error = Sampler::new(&params).err().unwrap();
        assert!(matches!(error, Error::InvalidArgument(_)), "{error}");
        assert_eq!(error.message(), sentence);
    }
    let mut sampler = Sampler::new(&Params { logit_bias: vec![(8, 1.0)], ..default() }).unwrap();
    let error = sampler.sample(&[0.0; 8], &mut Scratch::new(8).unwrap()).unwrap_err();
    assert!(matches!(error, Error::InvalidArgument(_)), "{error}");
    assert_eq!(error.message(), "logit_bias[0]: token 8, expected less than 8");
    let error = sampler.sample(&[0.0; 9], &mut Scratch::new(8).unwrap()).unwrap_err();
    assert_eq!(error.message(), "9 logits, expected 8");
    assert!(matches!(Scratch::new(0), Err(Error::InvalidArgument(_))));
    assert!(matches!(Scratch::new(usize::MAX), Err(Error::InvalidArgument(_))));
}

#[test]
fn sampling_does_not_allocate() {
    let mut rng = Rng::new(21);
    let n_vocab = 5000;
    let mut scratch = Scratch::new(n_vocab).unwrap();
    let rows: Vec<Vec<f32>> = (0..8).map(|_| row(&mut rng, n_vocab)).collect();
    for _ in 0..60 {
        let mut params = any_params(&mut rng, n_vocab);
        params.n_logprobs = (rng.next_u64() % 65) as u32;
        let mut sampler = Sampler::new(&params).unwrap();
        let before = N_ALLOCATIONS.get();
        for i in 0..300 {
            sampler.sample(&rows[i % 8], &mut scratch).unwrap();
            sampler.accept(i as i32);
        }
        sampler.reset();
        assert_eq!(N_ALLOCATIONS.get() - before, 0, "{params:?}");
    }
    let before = N_ALLOCATIONS.get();
    drop(Scratch::new(10_000).unwrap());
    assert_eq!(N_ALLOCATIONS.get() - before, 3, "the counter counts");
    assert_eq!(Scratch::bytes(10_000), 10_000 * 12 + 10 * 8);
}

/// Not a promise but a figure: prints how long a choice takes from a large vocabulary.
#[test]
fn a_large_vocabulary_takes_little_time() {
    let n_vocab = 262_144;
    let logits = row(&mut Rng::new(5), n_vocab);
    let mut scratch = Scratch::new(n_vocab).unwrap();
    let settings = [
        ("greedy", Params::default()),
        (
            "top-k 40, top-p",
            Params { temperature: 0.8, top_k: 40, top_p: 0.95, ..Params::default() },
        ),
        ("top-p", Params { temperature: 0.8, top_p: 0.95, ..Params::default() }),
        ("typical", Params { temperature: 0.8, typical_p: 0.9, ..Params::default() }),
        ("temperature", Params { temperature: 0.8, ..Params::default() }),
        ("min-p", Params { temperature: 0.8, min_p: 0.05, ..Params::default() }),
        ("greedy, 5 log-probabilities", Params { n_logprobs: 5, ..Params::default() }),
    ];
    for (name, params) in settings {
        let mut sampler = Sampler::new(&params).unwrap();
        let mut times: Vec<u128> = (0..15)
            .map(|_| {
                let start = std::time::Instant::now();
                sampler.sample(&logits, &mut scratch).unwrap();
                start.elapsed().as_micros()
            })
            .collect();
        times.sort();
        println!("{name}: {} us, at least {} us", times[7], times[0]);
        // Far above any real machine's time; a quadratic step would pass it.
        assert!(times[0] < 2_000_000, "{name}: {} us", times[0]);
    }
}
