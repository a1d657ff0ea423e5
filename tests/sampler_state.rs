//! A sampler's state as bytes: a sampler that is restored from them makes the choices that the
//! original would have made, and one that cannot be is left as it was.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod support;

use support::counting::{Counting, peak_bytes};
use support::tiny::Random;
use tern::Error;
use tern::sampler::{Params, Sampler, Scratch};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const N_VOCAB: usize = 300;

fn row(random: &mut Random) -> Vec<f32> {
    (0..N_VOCAB).map(|_| 9.0 * random.bell()).collect()
}

fn state(sampler: &Sampler) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut put = |part: &[u8]| {
        bytes.extend(part);
        Ok(())
    };
    sampler.write_state(&mut put).unwrap();
    assert_eq!(bytes.len(), sampler.state_len());
    bytes
}

/// Some choices of what each parameter may be; all of them off in one of three.
fn random_params(random: &mut Random) -> Params {
    let mut pick = |values: &[f32]| match random.next() % 3 {
        0 => 0.0,
        _ => values[random.next() as usize % values.len()],
    };
    Params {
        top_k: pick(&[1.0, 2.0, 40.0, 299.0, 1000.0]) as u32,
        top_p: pick(&[0.1, 0.9, 0.95, 1.0]),
        min_p: pick(&[0.01, 0.1, 1.0]),
        typical_p: pick(&[0.2, 0.9, 1.0]),
        temperature: pick(&[0.5, 0.8, 1.0, 3.0, 100.0]),
        repeat_penalty: pick(&[0.5, 1.0, 1.1, 2.0]),
        frequency_penalty: pick(&[-1.0, 0.1, 0.7]),
        presence_penalty: pick(&[-0.5, 0.2, 1.5]),
        penalty_last_n: pick(&[1.0, 2.0, 20.0, 500.0]) as u32,
        n_logprobs: pick(&[1.0, 5.0, 64.0]) as u32,
        logit_bias: (0..pick(&[1.0, 3.0, 50.0]) as i32)
            .map(|i| (i * 5 % N_VOCAB as i32, pick(&[-3.0, 2.5, f32::NEG_INFINITY])))
            .collect(),
        seed: u64::from(random.next()) << 32 | u64::from(random.next()),
    }
}

/// Draws that depend on all of the state.
fn drawing() -> Params {
    Params {
        top_k: 50,
        top_p: 0.99,
        min_p: 0.001,
        typical_p: 0.99,
        temperature: 2.0,
        repeat_penalty: 1.2,
        frequency_penalty: 0.3,
        presence_penalty: 0.2,
        penalty_last_n: 20,
        n_logprobs: 3,
        logit_bias: vec![(7, 1.5), (9, f32::NEG_INFINITY)],
        seed: 77,
    }
}

/// Both choose the same, with the same log-probabilities, for a while.
fn choose_alike(a: &mut Sampler, b: &mut Sampler, seed: u64) {
    let mut scratch = Scratch::new(N_VOCAB).unwrap();
    let mut random = Random(seed);
    for i in 0..60 {
        let logits = row(&mut random);
        let (x, y) = (a.sample(&logits, &mut scratch), b.sample(&logits, &mut scratch));
        assert_eq!(x, y, "choice {i} with {:?}", a.params());
        let bits = |s: &Sampler| -> Vec<_> {
            s.logprobs().iter().map(|(token, p)| (*token, p.to_bits())).collect()
        };
        assert_eq!(bits(a), bits(b), "choice {i}");
        let token = random.next() as i32;
        a.accept(token);
        b.accept(token);
    }
    assert!(state(a) == state(b));
}

fn used(params: &Params, n: u32, seed: u64) -> Sampler {
    let mut sampler = Sampler::new(params).unwrap();
    let mut scratch = Scratch::new(N_VOCAB).unwrap();
    let mut random = Random(seed);
    for _ in 0..n {
        sampler.sample(&row(&mut random), &mut scratch).unwrap();
        if random.next().is_multiple_of(2) {
            sampler.accept((random.next() % 20) as i32);
        }
    }
    sampler
}

#[test]
fn a_restored_sampler_makes_the_choices_of_the_original() {
    let mut random = Random(1);
    for round in 0..if support::emulated() { 40 } else { 400 } {
        let params = random_params(&mut random);
        let n = [0, 1, 2, 19, 20, 21, 100, 700][random.next() as usize % 8];
        let mut original = used(&params, n, round);
        let bytes = state(&original);
        // One that has seen nothing, or something else.
        let mut restored = used(&params, random.next() % 2 * 37, round + 1000);
        restored.restore_state(&bytes).unwrap();
        assert!(restored.logprobs().is_empty());
        assert!(state(&restored) == bytes, "round {round}");
        choose_alike(&mut original, &mut restored, round);
        // From the beginning again, too.
        original.reset();
        restored.reset();
        choose_alike(&mut original, &mut restored, round);
    }
}

#[test]
fn a_sampler_with_other_parameters_is_refused_and_left_alone() {
    let bytes = state(&used(&drawing(), 30, 1));
    let d = drawing();
    let others = [
        ("top_k", Params { top_k: 51, ..d.clone() }),
        ("top_p", Params { top_p: 0.98, ..d.clone() }),
        ("min_p", Params { min_p: 0.0, ..d.clone() }),
        ("typical_p", Params { typical_p: 1.0, ..d.clone() }),
        ("temperature", Params { temperature: 1.0, ..d.clone() }),
        ("repeat_penalty", Params { repeat_penalty: 1.0, ..d.clone() }),
        ("frequency_penalty", Params { frequency_penalty: -0.3, ..d.clone() }),
        ("presence_penalty", Params { presence_penalty: 0.0, ..d.clone() }),
        ("penalty_last_n", Params { penalty_last_n: 21, ..d.clone() }),
        ("n_logprobs", Params { n_logprobs: 4, ..d.clone() }),
        ("n_bias", Params { logit_bias: vec![(7, 1.5)], ..d.clone() }),
        ("logit_bias[1]", Params { logit_bias: vec![(7, 1.5), (9, 0.0)], ..d.clone() }),
        ("logit_bias[0]", Params { logit_bias: vec![(8, 1.5), d.logit_bias[1]], ..d.clone() }),
        ("seed", Params { seed: 78, ..d.clone() }),
    ];
    for (name, params) in others {
        let (mut sampler, mut twin) = (used(&params, 25, 2), used(&params, 25, 2));
        let error = sampler.restore_state(&bytes).unwrap_err();
        assert!(matches!(error, Error::SnapshotLayout(_)), "{name}: {error}");
        assert!(error.message().contains(&format!("sampler: {name}: found ")), "{name}: {error}");
        choose_alike(&mut sampler, &mut twin, 3);
    }
}

#[test]
fn bytes_that_are_no_state_are_refused_and_change_nothing() {
    let bytes = state(&used(&drawing(), 30, 1));
    let (mut sampler, mut twin) = (used(&drawing(), 25, 2), used(&drawing(), 25, 2));
    let mut refused = |bytes: &[u8]| {
        let error = sampler.restore_state(bytes).unwrap_err();
        assert!(matches!(error, Error::SnapshotCorrupt(_)), "{} bytes: {error}", bytes.len());
    };
    for len in 0..bytes.len() {
        refused(&bytes[..len]);
    }
    let mut long = bytes.clone();
    for _ in 0..20 {
        long.push(0);
        refused(&long);
    }
    let random_at = bytes.len() - 20 * 4 - 8 - 32;
    let mut zeros = bytes.clone();
    zeros[random_at..random_at + 32].fill(0);
    refused(&zeros);
    let n_at = random_at + 32;
    for n in [0, 19, 21, u64::MAX] {
        let mut counted = bytes.clone();
        counted[n_at..n_at + 8].copy_from_slice(&n.to_le_bytes());
        refused(&counted);
    }
    // As many as it says, but more than the penalties look back at.
    let mut many = bytes.clone();
    many[n_at] = 21;
    many.extend([1, 0, 0, 0]);
    refused(&many);
    choose_alike(&mut sampler, &mut twin, 3);
}

#[test]
fn whatever_the_bytes_are_nothing_worse_than_an_error_happens() {
    let bytes = state(&used(&drawing(), 30, 1));
    let mut sampler = used(&drawing(), 25, 2);
    let mut random = Random(4);
    let mut scratch = Scratch::new(N_VOCAB).unwrap();
    for _ in 0..if support::emulated() { 1000 } else { 20_000 } {
        let mut other = bytes.clone();
        for _ in 0..1 + random.next() % 4 {
            let at = random.next() as usize % other.len();
            other[at] = random.next() as u8;
        }
        let restored = sampler.restore_state(&other);
        assert!(!matches!(restored, Err(Error::Internal(_))));
        sampler.sample(&row(&mut random), &mut scratch).unwrap();
    }
}

#[test]
fn neither_writing_nor_restoring_allocates() {
    let mut sampler = used(&drawing(), 30, 1);
    let bytes = state(&sampler);
    let mut n = 0;
    let (written, peak) = peak_bytes(|| {
        sampler.write_state(&mut |part| {
            n += part.len();
            Ok(())
        })
    });
    assert_eq!((written, peak, n), (Ok(()), 0, bytes.len()));
    let (restored, peak) = peak_bytes(|| sampler.restore_state(&bytes));
    assert_eq!((restored, peak), (Ok(()), 0));
}

#[test]
fn an_error_of_who_takes_the_bytes_comes_back() {
    let sampler = used(&drawing(), 30, 1);
    let error = Sampler::restore_state(&mut used(&drawing(), 0, 1), &[]).unwrap_err();
    for stop in 0..30 {
        let mut n = 0;
        let result = sampler.write_state(&mut |_| {
            n += 1;
            if n > stop { Err(error.clone()) } else { Ok(()) }
        });
        assert_eq!((result, n), (Err(error.clone()), stop + 1));
    }
}
