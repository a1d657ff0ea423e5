//! Samplers: any parameters, any logits, any state.

use arbitrary::{Result, Unstructured};
use tern::sampler::{Params, Sampler, Scratch};

use super::noise;
use crate::memory;

/// Any number, and often one that is allowed.
fn float(u: &mut Unstructured<'_>) -> Result<f32> {
    Ok(match u.arbitrary::<u8>()? {
        i @ 0..128 => f32::from(i) / 127.0,
        i @ 128..224 => f32::from(i - 128) - 47.5,
        i @ 224..232 => {
            let odd =
                [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -0.0, f32::MAX, f32::MIN, 1e-40, 0.0];
            odd[usize::from(i - 224)]
        }
        _ => f32::from_bits(u.arbitrary()?),
    })
}

fn params(u: &mut Unstructured<'_>) -> Result<Params> {
    let mut params = Params {
        top_k: u.arbitrary::<u16>()?.into(),
        top_p: float(u)?,
        min_p: float(u)?,
        typical_p: float(u)?,
        temperature: float(u)?,
        repeat_penalty: float(u)?,
        frequency_penalty: float(u)?,
        presence_penalty: float(u)?,
        penalty_last_n: u.arbitrary::<u8>()?.into(),
        seed: u.arbitrary()?,
        logit_bias: Vec::new(),
        n_logprobs: u32::from(u.arbitrary::<u8>()?) % 70,
    };
    for _ in 0..u.arbitrary::<u8>()? % 6 {
        params.logit_bias.push((i32::from(u.arbitrary::<i16>()?) % 400, float(u)?));
    }
    Ok(params)
}

/// A row of logits, of up to 64 different ones and up to 5000 in all.
fn logits(u: &mut Unstructured<'_>) -> Result<Vec<f32>> {
    let n = usize::from(u.arbitrary::<u8>()? % 64) + 1;
    let times = [1, 1, 1, 2, 20, 80][usize::from(u.arbitrary::<u8>()?) % 6];
    let some = (0..n).map(|_| float(u)).collect::<Result<Vec<_>>>()?;
    Ok(some.repeat(times))
}

fn state(sampler: &Sampler) -> Vec<u8> {
    let mut bytes = Vec::new();
    let put = &mut |part: &[u8]| {
        bytes.extend_from_slice(part);
        Ok(())
    };
    sampler.write_state(put).unwrap();
    assert_eq!(bytes.len(), sampler.state_len());
    bytes
}

pub fn run(input: &[u8]) {
    let _ = try_run(&mut Unstructured::new(input));
}

fn try_run(u: &mut Unstructured<'_>) -> Result<()> {
    let params = params(u)?;
    let made = memory::call(|| Sampler::new(&params), |_, _| true);
    let Ok(mut sampler) = made else { return Ok(()) };
    while !u.is_empty() {
        match u.arbitrary::<u8>()? % 8 {
            0 => memory::within(|| sampler.reset()),
            1 => {
                let token = u.arbitrary()?;
                memory::within(|| sampler.accept(token));
            }
            // A state with some bytes changed.
            2 => {
                let mut bytes = state(&sampler);
                for _ in 0..u.arbitrary::<u8>()? % 4 {
                    let at = usize::from(u.arbitrary::<u16>()?) % bytes.len();
                    bytes[at] = u.arbitrary()?;
                }
                bytes.truncate(
                    bytes.len() - usize::from(u.arbitrary::<u8>()? % 8).saturating_sub(4),
                );
                let before = state(&sampler);
                let checked = sampler.check_state(&bytes);
                let restored = memory::within(|| sampler.restore_state(&bytes));
                assert_eq!(checked.is_ok(), restored.is_ok());
                assert_eq!(state(&sampler), if restored.is_ok() { bytes } else { before });
            }
            _ => choose(u, &params, &mut sampler)?,
        }
    }
    Ok(())
}

/// Chooses, and lets a twin do so that has the state alone.
fn choose(u: &mut Unstructured<'_>, params: &Params, sampler: &mut Sampler) -> Result<()> {
    let row = logits(u)?;
    let Ok(mut scratch) = memory::call(|| Scratch::new(row.len()), |_, _| true) else {
        return Ok(());
    };
    let mut twin = Sampler::new(params).unwrap();
    let before = state(sampler);
    twin.restore_state(&before).unwrap();
    let chosen = memory::within(|| sampler.sample(&row, &mut scratch));
    memory::has_failed();
    let mut other = Scratch::new(row.len()).unwrap();
    let twins = twin.sample(&row, &mut other);
    assert!(memory::are_same(&twins, &chosen), "of the same state {twins:?} and {chosen:?}");
    match chosen {
        Ok(token) => {
            let logit = row.get(token as usize);
            assert!(logit.is_some_and(|logit| *logit > f32::NEG_INFINITY), "{token} was banned");
            let logprobs = sampler.logprobs();
            assert!(logprobs.len() <= params.n_logprobs as usize + 1);
            assert!(logprobs.iter().all(|(_, p)| *p <= 1e-3), "{logprobs:?}");
        }
        Err(_) => assert_eq!(state(sampler), before, "a failed choice changes nothing"),
    }
    Ok(())
}

pub fn seeds() -> Vec<Vec<u8>> {
    (0..40u64)
        .map(|i| {
            let mut seed = noise(i, 200);
            // Parameters that are allowed, each with one that may not be.
            seed[2..9].iter_mut().for_each(|byte| *byte %= 128);
            if i % 3 == 0 {
                seed[5] = 0;
            }
            seed[19] = (i % 6) as u8;
            seed
        })
        .collect()
}
