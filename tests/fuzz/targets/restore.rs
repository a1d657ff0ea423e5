//! Saved sessions, with their sections changed under good checksums.

use std::sync::OnceLock;

use arbitrary::{Result, Unstructured};
use tern::engine::{
    Control, Error, Input, KvPolicy, KvSegment, Logits, Model, ModelParams, Sampler, SamplerParams,
    Session, SessionParams,
};

use super::snapshot::{file, seal};
use crate::memory;
use crate::models::smallest;
use crate::support::tiny::{N_VOCAB, Random, Tiny};

const HEADER: usize = 36;
const ENTRY: usize = 16;

/// A session that was saved, and what it can be restored into.
struct Saved {
    model: Model,
    params: SessionParams,
    header: [u8; HEADER],
    sections: Vec<(u32, u32, Vec<u8>)>,
    sampler: Sampler,
    /// Of another session of the same kind.
    before: Vec<u8>,
}

fn tiny(arch: &'static str) -> Tiny {
    let window = if arch == "gemma3" { 10 } else { 0 };
    Tiny { window, n_ctx_train: 100, ..smallest(arch) }
}

fn sampler() -> Sampler {
    let params = SamplerParams { temperature: 1.5, top_p: 0.95, seed: 9, ..Default::default() };
    let params = SamplerParams { repeat_penalty: 1.2, penalty_last_n: 12, ..params };
    Sampler::new(&params).unwrap()
}

fn text(seed: u64, n: usize) -> Vec<i32> {
    let mut random = Random(seed);
    (0..n).map(|_| (random.next() % N_VOCAB as u32) as i32).collect()
}

fn bytes_of(s: &Session, sampler: &Sampler) -> Vec<u8> {
    let mut bytes = vec![0; s.saved_len(Some(sampler)).unwrap() as usize];
    assert_eq!(s.write(Some(sampler), &mut bytes), Ok(bytes.len()));
    bytes
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

impl Saved {
    fn new(arch: &'static str, policy: KvPolicy, kv_dtype: u32) -> Saved {
        let file = tiny(arch).gguf();
        let model = Model::load(Input::Memory(&file), &ModelParams::default(), &mut |_, _| true);
        let model = model.unwrap_or_else(|e| panic!("{e}"));
        let evicts = policy != KvPolicy::None;
        let params = SessionParams {
            n_ctx: 120,
            n_batch: 16,
            n_threads: 1,
            n_threads_batch: 1,
            n_logits: 4,
            kv_dtype,
            kv_policy: evicts.then_some(policy),
            kv_budget: if evicts { 30 } else { 0 },
            ..SessionParams::default()
        };
        let make = || Session::new(model.clone(), &params).unwrap_or_else(|e| panic!("{e}"));
        let (mut s, mut chooser) = (make(), sampler());
        let control = Control::default();
        s.eval(&text(1, 45), Logits::Last, &control).unwrap();
        let fact = KvSegment { name: "fact", from: 5, to: 9, pinned: true, ..Default::default() };
        let tool = KvSegment { name: "tool", from: 20, to: 60, priority: -5, ..Default::default() };
        let reading =
            KvSegment { name: "reading", from: 10, to: 14, ttl: 50, ..Default::default() };
        for segment in [fact, tool, reading] {
            s.kv_set_segment(&segment).unwrap();
        }
        for _ in 0..8 {
            let token = s.sample(&mut chooser).unwrap();
            s.eval(&[token], Logits::Last, &control).unwrap();
        }
        let bytes = bytes_of(&s, &chooser);
        let n = word(&bytes, 12) as usize;
        let mut start = HEADER + ENTRY * n;
        let sections = (0..n).map(|i| {
            let at = HEADER + ENTRY * i;
            let end = word(&bytes, at + 8) as usize;
            let range = std::mem::replace(&mut start, end)..end;
            (word(&bytes, at), word(&bytes, at + 4), bytes[range].to_vec())
        });
        let sections = sections.collect();
        let mut other = make();
        other.eval(&text(2, 20), Logits::Last, &control).unwrap();
        let header = bytes[..HEADER].try_into().unwrap();
        let before = bytes_of(&other, &sampler());
        Saved { model, params, header, sections, sampler: sampler(), before }
    }

    /// A snapshot of these sections.
    fn written(&self, sections: &[(u32, u32, Vec<u8>)]) -> Vec<u8> {
        let mut bytes = self.header.to_vec();
        bytes[12..16].copy_from_slice(&(sections.len() as u32).to_le_bytes());
        let mut end = (HEADER + ENTRY * sections.len()) as u64;
        for (kind, index, section) in sections {
            end += section.len() as u64;
            bytes.extend([kind.to_le_bytes(), index.to_le_bytes()].concat());
            bytes.extend(end.to_le_bytes());
        }
        sections.iter().for_each(|(_, _, section)| bytes.extend(section));
        bytes[16..24].copy_from_slice(&end.to_le_bytes());
        let n_chunks = bytes.len().div_ceil(64 << 10);
        bytes.resize(bytes.len() + 4 * (n_chunks + 1), 0);
        seal(&mut bytes);
        bytes
    }
}

fn all() -> &'static [Saved] {
    static ALL: OnceLock<Vec<Saved>> = OnceLock::new();
    ALL.get_or_init(|| {
        vec![
            Saved::new("llama", KvPolicy::None, 0),
            Saved::new("llama", KvPolicy::Hybrid, 64),
            Saved::new("gemma3", KvPolicy::Hybrid, 66),
            Saved::new("llama", KvPolicy::KeyDiff, 2),
            Saved::new("qwen2", KvPolicy::Expected, 1),
            Saved::new("llama", KvPolicy::Streaming, 65),
        ]
    })
}

pub fn run(input: &[u8]) {
    let mut u = Unstructured::new(input);
    let Ok((saved, bytes, from_file)) = edited(&mut u) else { return };
    let make = || Session::new(saved.model.clone(), &saved.params);
    let Ok(mut s) = memory::call(make, |_, _| true) else { return };
    let mut chooser = sampler();
    let is_fresh = from_file & 2 == 0;
    if !is_fresh {
        s.read(Some(&mut chooser), &saved.before).unwrap();
    }
    let unchanged = bytes_of(&s, &chooser);
    let (_file, path) = file(&bytes);
    memory::has_failed();
    let restore = |s: &mut Session, chooser: &mut Sampler| {
        memory::within(|| match from_file & 1 {
            0 => s.read(Some(chooser), &bytes),
            _ => s.restore(Some(chooser), &path),
        })
    };
    let mut done = restore(&mut s, &mut chooser);
    if memory::has_failed() {
        if matches!(done, Err(Error::OutOfMemory(_))) {
            assert!(bytes_of(&s, &chooser) == unchanged, "without memory it was changed");
        }
        memory::end_plan();
        done = restore(&mut s, &mut chooser);
    }
    match done {
        Ok(()) => go_on(saved, &mut s, &mut chooser),
        Err(
            Error::SnapshotCorrupt(_)
            | Error::SnapshotLayout(_)
            | Error::SnapshotModel(_)
            | Error::SnapshotVersion(_),
        ) => assert!(bytes_of(&s, &chooser) == unchanged, "what was refused changed something"),
        Err(other) => panic!("{other}"),
    }
}

/// With whatever it was given: it may run out of room, or meet numbers that are none.
fn go_on(saved: &Saved, s: &mut Session, chooser: &mut Sampler) {
    // What it is now can be saved, and is the same again.
    let now = bytes_of(s, chooser);
    let mut twin = Session::new(saved.model.clone(), &saved.params).unwrap();
    let mut twins = sampler();
    twin.read(Some(&mut twins), &now).unwrap_or_else(|e| panic!("its own snapshot: {e}"));
    assert!(bytes_of(&twin, &twins) == now);
    let control = Control::default();
    let text = text(7, 12);
    for tokens in [&text[..1], &text[1..3], &text[3..]] {
        let found = memory::within(|| s.eval(tokens, Logits::Last, &control));
        let expected = twin.eval(tokens, Logits::Last, &control);
        assert!(memory::are_same(&found, &expected), "{found:?}, its twin {expected:?}");
        if found.is_ok() {
            let (found, expected) = (memory::within(|| s.sample(chooser)), twin.sample(&mut twins));
            assert!(memory::are_same(&found, &expected), "{found:?}, its twin {expected:?}");
        }
    }
    let _ = memory::within(|| s.kv_evict(2, 10));
    let _ = memory::within(|| s.truncate(5));
    let mut back = saved.sampler.params().clone();
    back.n_logprobs = 0;
    let mut chooser = Sampler::new(&back).unwrap();
    s.read(Some(&mut chooser), &saved.before).unwrap_or_else(|e| panic!("a good snapshot: {e}"));
}

/// An input: which of them, from where, then edits of sections.
fn edited(u: &mut Unstructured<'_>) -> Result<(&'static Saved, Vec<u8>, u8)> {
    let all = all();
    let saved = &all[usize::from(u.arbitrary::<u8>()?) % all.len()];
    let how = u.arbitrary::<u8>()?;
    let mut sections = saved.sections.clone();
    for _ in 0..u.arbitrary::<u8>()? % 8 {
        if sections.is_empty() {
            break;
        }
        let i = usize::from(u.arbitrary::<u8>()?) % sections.len();
        let at = usize::from(u.arbitrary::<u16>()?) % sections[i].2.len().max(1);
        let op = u.arbitrary::<u8>()?;
        let (kind, index, section) = &mut sections[i];
        match op % 10 {
            0..=2 => {
                let new = u.arbitrary::<u8>()?;
                section.get_mut(at).into_iter().for_each(|byte| *byte = new);
            }
            // A field, where fields are.
            3 | 4 => {
                let new = [0, 1, 0x7f, 0xff, 0x100, 0xffff_ffff, 0x7f80_0000, 0x8000_0000];
                let new: u32 = new[usize::from(u.arbitrary::<u8>()? % 8)];
                let at = at / 4 * 4;
                section.iter_mut().skip(at).zip(new.to_le_bytes()).for_each(|(to, b)| *to = b);
            }
            5 => {
                section.get_mut(at).into_iter().for_each(|byte| *byte = byte.wrapping_add(op / 10))
            }
            6 => section.truncate(at),
            7 => {
                let n = usize::from(op / 10) + 1;
                let at = at.min(section.len());
                section.splice(at..at, std::iter::repeat_n(op, n)).for_each(drop);
            }
            8 => *index = u.arbitrary()?,
            _ if op > 128 => drop(sections.remove(i)),
            _ => *kind = u32::from(u.arbitrary::<u8>()?),
        }
    }
    Ok((saved, saved.written(&sections), how))
}

pub fn seeds() -> Vec<Vec<u8>> {
    let good = (0..6u8).flat_map(|i| (0..4).map(move |how| vec![i, how, 0]));
    let edits = (0..120u8).map(|i| vec![i % 6, i % 4, 1, i, i.wrapping_mul(7), 0, i % 10, i, i, 0]);
    good.chain(edits).collect()
}
