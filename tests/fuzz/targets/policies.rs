//! What leaves a KV cache: the pure functions, on any numbers; and the table of segments.

use arbitrary::{Result, Unstructured};
use tern::Error;
use tern::kv::policy::{Head, Params, Policy, Quotas, Work, keep};
use tern::kv::segments::{Marks, Segment, Segments};

use super::noise;
use crate::memory;

pub fn run(input: &[u8]) {
    let mut u = Unstructured::new(input);
    let _ = match u.arbitrary::<u8>() {
        Ok(mode) if mode % 4 == 0 => table(&mut u),
        Ok(_) => choose(&mut u),
        Err(error) => Err(error),
    };
}

fn is_set(bits: &[u64], i: usize) -> bool {
    bits.get(i / 64).is_some_and(|word| word >> (i % 64) & 1 == 1)
}

fn score(u: &mut Unstructured<'_>) -> Result<f32> {
    Ok(match u.arbitrary::<u8>()? {
        i @ 0..248 => f32::from(i) / 8.0,
        248 => f32::NAN,
        249 => f32::INFINITY,
        250 => -1.0,
        251 => 1e-42,
        _ => f32::from_bits(u.arbitrary()?),
    })
}

fn choose(u: &mut Unstructured<'_>) -> Result<()> {
    let policy = Policy::ALL[usize::from(u.arbitrary::<u8>()?) % Policy::ALL.len()];
    let mut params = Params::new(policy, u.arbitrary()?);
    if u.arbitrary()? {
        params.n_sink = usize::from(u.arbitrary::<u8>()?);
        let (recent, attn) = (u.arbitrary::<u8>()?, u.arbitrary::<u8>()?);
        let recent = f32::from(recent) / 255.0;
        let attn = (f32::from(attn) / 255.0).min(1.0 - recent);
        params.quotas = Quotas { recent, attn, leverage: 1.0 - recent - attn };
        params.n_obs = usize::from(u.arbitrary::<u8>()?);
        params.n_pool = usize::from(u.arbitrary::<u8>()? % 70);
        params.n_pool_leverage = usize::from(u.arbitrary::<u8>()? % 70);
        params.seed = u.arbitrary()?;
    }
    let n = usize::from(u.arbitrary::<u8>()?);
    let budget = usize::from(u.arbitrary::<u8>()?);
    let mut pos = Vec::new();
    let mut next = 0;
    for _ in 0..n {
        next += u32::from(u.arbitrary::<u8>().unwrap_or(0) % 5 / 4);
        pos.push(next);
        next += 1;
    }
    let words = |u: &mut Unstructured<'_>| -> Result<Vec<u64>> {
        let dense: u64 = if u.arbitrary()? { u64::MAX } else { 0x0101_0101_0101_0101 };
        (0..n.div_ceil(64)).map(|_| Ok(u.arbitrary::<u64>()? & dense)).collect()
    };
    let (mut pinned, mut expired) = (Vec::new(), Vec::new());
    if u.arbitrary()? {
        (pinned, expired) = (words(u)?, words(u)?);
    }
    let priority: Vec<i8> = match u.arbitrary()? {
        true => (0..n).map(|_| u.arbitrary()).collect::<Result<_>>()?,
        false => Vec::new(),
    };
    // Few numbers, again and again: scores that are equal are told apart.
    let some = (0..1 + u.arbitrary::<u8>()? % 24).map(|_| score(u)).collect::<Result<Vec<_>>>()?;
    let scores: Vec<f32> = some.iter().copied().cycle().take(n).collect();
    let head = Head {
        layer: 5,
        head: 2,
        n_past: next,
        pos: &pos,
        mass: &scores,
        squares: &scores,
        observed: &scores,
        last: &scores,
        leverage: &scores,
        key_diff: &scores,
        expected: &scores,
        norm: &scores,
        zip: &scores,
        pinned: &pinned,
        expired: &expired,
        priority: &priority,
    };
    if params.check().is_err() {
        return Ok(());
    }
    let Ok(mut work) = memory::call(|| Work::new(n), |_, _| true) else { return Ok(()) };
    let mut kept = Vec::with_capacity(n.min(budget));
    let done = memory::within(|| keep(policy, &params, &head, budget, &mut work, &mut kept));
    let n_sink = if policy == Policy::Ring { 0 } else { params.n_sink };
    let n_sink = pos.partition_point(|&pos| (pos as usize) < n_sink);
    let leaves = |i: usize| is_set(&expired, i) && i >= n_sink;
    let n_open = (0..n).filter(|&i| !leaves(i)).count();
    match done {
        Ok(()) => {
            assert_eq!(kept.len(), n_open.min(budget), "as many as there is room for");
            assert!(kept.windows(2).all(|w| w[0] < w[1]), "ascending");
            assert!(kept.iter().all(|&i| !leaves(i as usize)), "what has expired leaves");
            let stays = |i: usize| is_set(&pinned, i) && !is_set(&expired, i);
            assert!(
                (0..n).all(|i| !stays(i) || kept.contains(&(i as u32))),
                "what is pinned stays"
            );
        }
        Err(error) => {
            assert!(matches!(error, Error::KvFull(_)), "{error}");
            assert!(kept.is_empty());
        }
    }
    Ok(())
}

/// Segments, next to a list with one row for each position.
fn table(u: &mut Unstructured<'_>) -> Result<()> {
    const NAMES: [&str; 6] = ["a", "b", "fact", "", "a\0b", "a name of more than thirty-one bytes"];
    let Ok(mut segments) = memory::call(Segments::new, |_, _| true) else { return Ok(()) };
    while !u.is_empty() {
        let name = match u.arbitrary::<u8>()? {
            i @ 0..128 => NAMES[usize::from(i) % NAMES.len()].to_owned(),
            i => format!("s{i}"),
        };
        match u.arbitrary::<u8>()? % 8 {
            0..=3 => {
                let from = u32::from(u.arbitrary::<u8>()?);
                let segment = Segment {
                    name: &name,
                    from,
                    to: from.saturating_add_signed(u.arbitrary::<i8>()?.into()),
                    pinned: u.arbitrary()?,
                    priority: u.arbitrary()?,
                    ttl: [0, 1, 30, u32::MAX][usize::from(u.arbitrary::<u8>()? % 4)],
                };
                if segments.set(&segment).is_ok() {
                    assert_eq!(segments.get(&name), Ok(segment));
                }
            }
            4 => {
                let (n, was_there) = (segments.len(), segments.get(&name).is_ok());
                assert_eq!(segments.remove(&name).is_ok(), was_there);
                assert_eq!(segments.len() + usize::from(was_there), n);
            }
            5 => drop(segments.take_expired(u.arbitrary::<u16>()?.into())),
            6 => segments.truncate(u.arbitrary::<u8>()?.into()),
            _ => read(u, &segments)?,
        }
        check(&segments, u.arbitrary::<u16>().unwrap_or(0).into());
    }
    Ok(())
}

/// What is saved comes back; what was changed is refused or is a table too.
fn read(u: &mut Unstructured<'_>, segments: &Segments) -> Result<()> {
    let mut bytes = Vec::new();
    let put = &mut |part: &[u8]| {
        bytes.extend_from_slice(part);
        Ok(())
    };
    segments.write(put).unwrap();
    assert_eq!(bytes.len() as u64, segments.written_len());
    let mut same = Segments::new().unwrap();
    assert_eq!(memory::within(|| same.read(&bytes)), Ok(()));
    assert!(same.iter().eq(segments.iter()));
    for _ in 0..1 + u.arbitrary::<u8>()? % 3 {
        let at = usize::from(u.arbitrary::<u16>()?);
        let n = bytes.len().max(1);
        bytes.get_mut(at % n).into_iter().for_each(|byte| *byte = at as u8);
    }
    let mut other = Segments::new().unwrap();
    if memory::within(|| other.read(&bytes)).is_ok() {
        check(&other, 100);
    }
    Ok(())
}

fn check(segments: &Segments, next: u32) {
    let all: Vec<_> = segments.iter().collect();
    assert!(all.iter().all(|s| s.from < s.to), "none is empty");
    assert!(all.windows(2).all(|w| w[0].to <= w[1].from), "none overlaps the next");
    let pos: Vec<u32> = (0..next.min(300)).collect();
    let n = pos.len().div_ceil(64);
    let (mut pinned, mut expired, mut priority) = (vec![0; n], vec![0; n], vec![0; pos.len()]);
    let marks = Marks { pinned: &mut pinned, expired: &mut expired, priority: &mut priority };
    segments.fill(next, &pos, marks);
    for i in 0..pos.len() {
        assert!(!(is_set(&pinned, i) && is_set(&expired, i)), "pinned and expired");
        let of = all.iter().find(|s| (s.from..s.to).contains(&(i as u32)));
        assert_eq!(priority[i], of.map_or(0, |s| s.priority));
    }
    let n_pinned: u32 = pinned.iter().map(|word: &u64| word.count_ones()).sum();
    assert_eq!(segments.n_pinned(next, &pos), n_pinned as usize);
}

pub fn seeds() -> Vec<Vec<u8>> {
    let chosen = (0..2 * Policy::ALL.len() as u8).map(|i| {
        [&[1, i, i % 2, i / 13 * 255, 4, 100, 80, 8, 7, 5][..], &noise(u64::from(i), 120)].concat()
    });
    let tables = (0..8u8).map(|i| [&[0][..], &noise(99 + u64::from(i), 100)].concat());
    chosen.chain(tables).collect()
}
