//! Whole models: loaded, and two tokens generated; or packed first.

use std::path::PathBuf;

use arbitrary::Unstructured;
use tern::base::file::Source;
use tern::engine::{
    Control, Error, Gguf, Input, Isa, LoadMode, Logits, Message, Model, ModelParams, Result,
    Sampler, SamplerParams, Session, SessionParams,
};

use super::snapshot;
use crate::support::parsed::use_all;
use crate::{edits, memory};

/// Bytes that a plan may have beyond the file's: what is in mappings, which the allocator does not see.
const MOST_PLANNED: u64 = 64 << 20;

const SESSION: SessionParams = SessionParams {
    n_ctx: 64,
    n_batch: 16,
    n_threads: 1,
    n_threads_batch: 1,
    n_logits: 2,
    kv_dtype: 0,
    k_dtype: 0,
    v_dtype: 0,
    auto_evict: false,
    n_sink: 0,
    n_keep: 0,
    kv_policy: None,
    kv_budget: 0,
    kv_budget_part: 0.0,
    kv_params: None,
    lock: tern::engine::Lock::No,
    huge: tern::engine::HugePages::Never,
    numerics: tern::engine::Numerics::Exact,
    kv_share: false,
};

/// An input: how it is loaded, then the file's edits.
pub fn run(input: &[u8]) {
    let Some((how, rest)) = input.split_first() else { return };
    let Ok(file) = edits::file(&mut Unstructured::new(rest)) else { return };
    let isas = Isa::available();
    let params = ModelParams {
        isa: Some(isas[usize::from(how % 16) % isas.len()]),
        screened_head: how & 16 != 0,
        load_mode: match how >> 5 {
            0 => Some(LoadMode::MapFast),
            1 | 2 => Some(LoadMode::MapGuarded),
            _ => Some(LoadMode::Copy),
        },
        ..ModelParams::default()
    };
    if how >> 5 == 7 {
        container(&file);
    }
    let _ = generate(&file, &params);
}

fn container(file: &[u8]) {
    if let Ok(gguf) = Gguf::parse(&Source::from_memory(file)) {
        use_all("file", &gguf, file);
    }
}

/// Loads a file, and generates. A plan, which reads the header only, comes to the same end.
fn generate(file: &[u8], params: &ModelParams) -> Result<Vec<u32>> {
    let input = Input::Memory(file);
    let plan = memory::call_eq(|| Model::plan(input, params, &SESSION));
    let load = || Model::load(input, params, &mut |_, _| true);
    let loaded = memory::call(load, |a, b| a.info().n_params == b.info().n_params);
    if let Ok(plan) = &plan {
        let most = file.len() as u64 + MOST_PLANNED;
        assert!(plan.total_bytes <= most, "{} bytes planned for {}", plan.total_bytes, file.len());
    }
    match (plan.map(|_| ()), loaded.as_ref().map(|_| ())) {
        (Ok(()), Ok(()) | Err(Error::BadWeights(_))) => {}
        (plan, loaded) => assert_eq!(plan.err().as_ref(), loaded.err(), "plan and load"),
    }
    let model = loaded?;
    let _ = memory::call_eq(|| model.digest());
    chat(&model);
    let tokenizer = model.tokenizer();
    let mut tokens = memory::call_eq(|| {
        let mut tokens = Vec::new();
        tokenizer.tokenize("The t\u{1f980}\u{e9}\0\n<0x0A> <eos>", true, true, &mut tokens)?;
        Ok(tokens)
    })?;
    let _ = memory::call_eq(|| {
        let mut text = Vec::new();
        tokenizer.detokenize(&tokens, &mut text)?;
        Ok(text)
    });
    tokens.truncate(40);
    if tokens.is_empty() {
        tokens.push(0); // a vocabulary that has no token for any of that
    }
    let mut session = memory::call(|| Session::new(model.clone(), &SESSION), |_, _| true)?;
    let mut sampler = Sampler::new(&SamplerParams::default())?;
    let mut bits = Vec::new();
    let control = Control::default();
    memory::within(|| session.eval(&tokens, Logits::Last, &control))?;
    for _ in 0..2 {
        let token = memory::within(|| session.sample(&mut sampler))?;
        // Minus infinity bans its token; sums of the largest weights can come to that.
        let logits = session.logits()?;
        let bad = logits.iter().find(|x| x.is_nan() || **x == f32::INFINITY);
        assert!(bad.is_none(), "a token was chosen by a logit of {bad:?}");
        bits.extend(logits.iter().map(|x| x.to_bits()));
        memory::within(|| session.eval(&[token], Logits::Last, &control))?;
    }
    Ok(bits)
}

fn chat(model: &Model) {
    let messages = [
        Message { role: "system", content: "Be brief." },
        Message { role: "user", content: "{{ 7 * 7 }} {% raw %} \u{1f980}" },
    ];
    let _ = memory::call_eq(|| {
        let mut out = String::new();
        model.chat_format(&messages, true, &mut out)?;
        Ok(out)
    });
}

/// Packs a file, and generates with both: the same bits. Then with a packed file that was changed.
pub fn pack(input: &[u8]) {
    let mut u = Unstructured::new(input);
    let Ok(file) = edits::file(&mut u) else { return };
    let (_from, from) = snapshot::file(&file);
    let folder = folder();
    let to = folder.join("packed.gguf");
    let packed = memory::call_eq(|| Model::pack(&from, &to, &mut |_, _| true));
    let left: Vec<_> = std::fs::read_dir(&folder).unwrap().collect();
    assert_eq!(left.len(), usize::from(packed.is_ok()), "what was begun is gone: {left:?}");
    let Ok(n) = packed else { return };
    let mut bytes = std::fs::read(&to).unwrap();
    std::fs::remove_file(&to).unwrap();
    assert_eq!(n, bytes.len() as u64);
    let params = ModelParams::default();
    let (expected, found) = (generate(&file, &params), generate(&bytes, &params));
    match (&expected, &found) {
        (Ok(a), Ok(b)) => assert!(a == b, "other bits from a packed file"),
        // Packing reads no weights as numbers, and a copy of the original checks them all.
        (Err(a), Err(b)) => assert_eq!(a.name(), b.name(), "{a}, packed {b}"),
        (Err(a), Ok(_)) => panic!("{a}; packed it works"),
        (Ok(_), Err(b)) => panic!("packed: {b}"),
    }
    for _ in 0..4 {
        let (Ok(at), Ok(mask)) = (u.arbitrary::<u16>(), u.arbitrary::<u8>()) else { break };
        let at = usize::from(at) % bytes.len();
        bytes[at] ^= mask;
    }
    let _ = generate(&bytes, &params);
}

/// A folder of this process's own; fuzz.py gives it a place in memory, and clears that.
fn folder() -> PathBuf {
    let folder = std::env::temp_dir().join(format!("tern-fuzz-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

pub fn seeds() -> Vec<Vec<u8>> {
    let hows = [0, 32, 240, 113, 226];
    let seed = |(i, edits): (usize, Vec<u8>)| [&[hows[i % 5]], &edits[..]].concat();
    edits::seeds().into_iter().enumerate().map(seed).collect()
}

/// Those of [`pack`], which begin with the edits.
pub fn pack_seeds() -> Vec<Vec<u8>> {
    edits::seeds()
}
