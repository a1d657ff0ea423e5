//! Sessions with the same first tokens, which share tiles of their caches; each beside a twin that
//! shares nothing: the same answers, to the bit.

use std::sync::OnceLock;

use arbitrary::{Result, Unstructured};
use tern::engine::{
    Control, Error, Input, KvSegment, Logits, Model, ModelParams, Session, SessionParams,
};

use crate::memory;
use crate::support::tiny::{N_VOCAB, Random, Tiny};

/// Tokens that a tile has.
const TILE: usize = 128;

fn models() -> &'static [Model] {
    static MODELS: OnceLock<Vec<Model>> = OnceLock::new();
    MODELS.get_or_init(|| {
        let load = |(arch, window)| {
            let tiny = Tiny {
                n_embd: 32,
                n_layer: 2,
                n_head: 2,
                n_head_kv: 1,
                head_dim: 16,
                n_ff: 32,
                window,
                n_ctx_train: 512,
                ..Tiny::new(arch)
            };
            let (file, params) = (tiny.gguf(), ModelParams::default());
            Model::load(Input::Memory(&file), &params, &mut |_, _| true).unwrap()
        };
        [("llama", 0), ("gemma3", 40)].map(load).into()
    })
}

struct Pair {
    shares: Session,
    alone: Session,
}

fn token_at(i: usize, variant: u8) -> i32 {
    let mut random = Random(i as u64 / TILE as u64 * 31 + u64::from(variant) + 1);
    (0..=i % TILE).fold(0, |_, _| (random.next() % N_VOCAB as u32) as i32)
}

pub fn run(input: &[u8]) {
    let _ = try_run(&mut Unstructured::new(input));
}

fn try_run(u: &mut Unstructured<'_>) -> Result<()> {
    let how = u.arbitrary::<u8>()?;
    let model = &models()[usize::from(how % 2)];
    let params = SessionParams {
        n_ctx: 400,
        n_batch: 64,
        n_threads: 1,
        n_threads_batch: 1,
        kv_dtype: [0, 2, 64, 66][usize::from(how / 2 % 4)],
        kv_budget: if how & 8 != 0 { 180 } else { 0 },
        kv_policy: (how & 8 != 0).then_some(tern::engine::KvPolicy::Streaming),
        kv_share: true,
        ..SessionParams::default()
    };
    let alone = SessionParams { kv_share: false, ..params };
    let mut pairs: Vec<Pair> = Vec::new();
    // An input is read to its end, and not for ever.
    for _ in 0..12 {
        let (op, which, n) = (u.arbitrary::<u8>()?, u.arbitrary::<u8>()?, u.arbitrary::<u8>()?);
        let i = usize::from(which) % pairs.len().max(1);
        if pairs.is_empty() || op % 8 == 0 {
            if pairs.len() < 4 {
                let make =
                    |params| memory::call(|| Session::new(model.clone(), params), |_, _| true);
                let (Ok(shares), Ok(alone)) = (make(&params), make(&alone)) else { return Ok(()) };
                pairs.push(Pair { shares, alone });
            }
            continue;
        }
        if op % 8 == 1 && pairs.len() < 4 {
            let fork = |s: &Session| memory::call(|| s.fork(), |_, _| true);
            if let (Ok(shares), Ok(alone)) = (fork(&pairs[i].shares), fork(&pairs[i].alone)) {
                pairs.push(Pair { shares, alone });
            }
            continue;
        }
        if op % 8 == 2 && pairs.len() > 1 {
            pairs.swap_remove(i);
            continue;
        }
        let pair = &mut pairs[i];
        let n = usize::from(n);
        let act = |s: &mut Session| act(s, op, n, which / 16);
        memory::has_failed();
        let mut found = memory::within(|| act(&mut pair.shares));
        if memory::has_failed() {
            memory::end_plan();
            if matches!(found, Err(Error::OutOfMemory(_))) {
                found = act(&mut pair.shares); // as if nothing had been
            }
        }
        let expected = act(&mut pair.alone);
        let code = |r: &tern::Result<Vec<u32>>| r.as_ref().err().map(Error::name);
        assert_eq!(code(&found), code(&expected), "{found:?}");
        assert!(found.is_err() || found == expected, "other bits than alone");
        let (a, b) = (pair.shares.info(), pair.alone.info());
        assert_eq!((a.pos, a.n_kv), (b.pos, b.n_kv));
    }
    Ok(())
}

/// What a session is asked for; gives the bits of what it answers.
fn act(s: &mut Session, op: u8, n: usize, variant: u8) -> tern::Result<Vec<u32>> {
    let pos = s.info().pos;
    let quarter = |n: usize| (n * 2) as u32;
    match op % 8 {
        3 => s.truncate(pos.min(quarter(n)))?,
        4 => drop(s.kv_evict_range(quarter(n % 16), quarter(n / 16 * 8))?),
        5 if n % 2 == 0 => drop(s.kv_evict(4, quarter(n))?),
        5 => s.kv_set_segment(&KvSegment {
            name: ["a", "b"][n / 2 % 2],
            from: quarter(n / 4),
            to: quarter(n / 4) + 20,
            pinned: n & 128 != 0,
            ..KvSegment::default()
        })?,
        _ => {
            let tokens: Vec<i32> = memory::outside(|| {
                let from = pos as usize;
                (from..from + 1 + n).map(|i| token_at(i, variant / 8)).collect()
            });
            let done = s.eval(&tokens, Logits::Last, &Control::default());
            memory::outside(|| drop(tokens));
            done?;
            let bits =
                |s: &Session| s.logits().map(|row| row.iter().map(|x| x.to_bits()).collect());
            return memory::outside(|| bits(s));
        }
    }
    Ok(Vec::new())
}

pub fn seeds() -> Vec<Vec<u8>> {
    let ops = |how: u8, last: [u8; 3]| {
        let begin = [how, 0, 0, 0, 7, 0, 255, 0, 0, 0, 7, 1, 200, 1, 0, 0];
        [&begin[..], &last, &[7, 0, 20], &[7, 2, 3], &[7, 1, 40]].concat()
    };
    (0..16).map(|how| ops(how, [2 + how % 6, how % 3, 11 * how])).collect()
}
