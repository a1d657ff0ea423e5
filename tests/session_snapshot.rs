//! Sessions that are saved and restored: what follows is what would have followed, bit for bit,
//! whatever the policy and the type of keys and values; and whatever is wrong with a snapshot, the
//! session is as it was.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod support;

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use support::counting::{Counting, peak_bytes, with_allocations};
use support::tiny::{N_VOCAB, Random, Tiny};
use tern::base::crc32c::crc32c;
use tern::engine::{
    Control, Error, Input, KvParams, KvPolicy, KvSegment, Logits, Model, ModelParams, Sampler,
    SamplerParams, Session, SessionParams,
};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn model_of(tiny: &Tiny) -> Arc<Model> {
    let file = tiny.gguf();
    let params = ModelParams::default();
    Arc::new(Model::load(Input::Memory(&file), &params, &mut |_, _| true).expect("loads"))
}

/// A model whose every layer attends to all tokens, trained on fewer positions than will come.
fn full() -> Tiny {
    Tiny { n_ctx_train: 150, n_embd: 128, n_ff: 128, ..Tiny::new("llama") }
}

/// A model with windows.
fn sliding() -> Tiny {
    let tiny = Tiny { window: 20, n_layer: 6, n_embd: 64, n_ff: 64, ..Tiny::new("gemma3") };
    Tiny { n_ctx_train: 150, head_dim: 40, ..tiny }
}

fn params() -> SessionParams {
    let sizes = SessionParams { n_ctx: 150, n_batch: 32, n_logits: 8, ..SessionParams::default() };
    SessionParams { n_threads: 1, ..sizes }
}

fn session(model: &Arc<Model>, params: &SessionParams) -> Session {
    Session::new(Arc::clone(model), params).expect("a session")
}

fn sampler() -> Sampler {
    let params = SamplerParams { temperature: 1.5, top_p: 0.95, seed: 9, ..Default::default() };
    Sampler::new(&SamplerParams { repeat_penalty: 1.2, penalty_last_n: 20, ..params }).unwrap()
}

fn text(seed: u64, n: usize) -> Vec<i32> {
    let mut random = Random(seed);
    (0..n).map(|_| (random.next() % N_VOCAB as u32) as i32).collect()
}

fn eval(s: &mut Session, tokens: &[i32]) {
    s.eval(tokens, Logits::Last, &Control::default()).expect("evaluates");
}

fn bytes_of(s: &Session, sampler: Option<&Sampler>) -> Vec<u8> {
    let mut bytes = vec![0; s.saved_len(sampler).unwrap() as usize];
    assert_eq!(s.write(sampler, &mut bytes), Ok(bytes.len()));
    bytes
}

/// Reads, chooses and writes for a while; gives the token that comes next.
fn begin(s: &mut Session, sampler: &mut Sampler) -> i32 {
    eval(s, &text(1, 100));
    let fact = KvSegment { name: "fact", from: 20, to: 25, pinned: true, ..KvSegment::default() };
    let tool = KvSegment { name: "tool", from: 40, to: 60, priority: -5, ..KvSegment::default() };
    let reading = KvSegment { name: "reading", from: 70, to: 80, ttl: 110, ..fact };
    for segment in [fact, tool, KvSegment { pinned: false, ..reading }] {
        s.kv_set_segment(&segment).unwrap();
    }
    let mut token = s.sample(sampler).unwrap();
    for _ in 0..75 {
        eval(s, &[token]);
        token = s.sample(sampler).unwrap();
    }
    token
}

/// Goes on; gives all that was chosen, and bits of all logits.
fn go_on(s: &mut Session, sampler: &mut Sampler, mut token: i32) -> (Vec<i32>, Vec<u32>) {
    let (mut tokens, mut bits) = (Vec::new(), Vec::new());
    for i in 0..70 {
        tokens.push(token);
        match i % 10 {
            // A span that is longer than what is counted token by token.
            4 => eval(s, &[&[token][..], &text(i, 11)].concat()),
            5 => eval(s, &[token, 1, 2]),
            6 if i > 30 => {
                let pos = s.info().pos;
                s.kv_evict_range(pos - 9, pos - 7).unwrap();
                eval(s, &[token]);
            }
            7 => {
                eval(s, &[token]);
                let mut more = [0; 4];
                let n = s.generate(sampler, 3, &Control::default(), &mut more).unwrap();
                tokens.extend(&more[..n]);
            }
            _ => eval(s, &[token]),
        }
        bits.extend(s.logits().unwrap().iter().map(|x| x.to_bits()));
        token = s.sample(sampler).unwrap();
    }
    (tokens, bits)
}

/// Saves a session in the middle, and compares how it and its restored twins go on.
fn check_twins(model: &Arc<Model>, params: &SessionParams, what: &str) {
    let (mut one, mut chooser) = (session(model, params), sampler());
    let token = begin(&mut one, &mut chooser);
    let saved = bytes_of(&one, Some(&chooser));
    let info = one.info();
    let expected = go_on(&mut one, &mut chooser, token);
    let end = bytes_of(&one, Some(&chooser));
    assert!(one.info().pos > 240, "{what}");

    // New, and with other threads and batches; used before.
    let mut fresh = session(model, &SessionParams { n_threads: 3, n_batch: 7, ..*params });
    let mut used = session(model, params);
    eval(&mut used, &text(7, 70));
    for (s, which) in [(&mut fresh, "fresh"), (&mut used, "used")] {
        let mut chooser = sampler();
        s.read(Some(&mut chooser), &saved).unwrap_or_else(|error| panic!("{what}: {error}"));
        assert!(matches!(s.logits(), Err(Error::NotReady(_))));
        let found = s.info();
        assert_eq!((found.pos, found.n_kv), (info.pos, info.n_kv), "{what}");
        assert_eq!(found.n_evicted, info.n_evicted, "{what}");
        assert!(bytes_of(s, Some(&chooser)) == saved, "{what}, {which}: other bytes at once");
        assert!(go_on(s, &mut chooser, token) == expected, "{what}, {which}: goes on otherwise");
        assert!(bytes_of(s, Some(&chooser)) == end, "{what}, {which}: other bytes at the end");
    }
}

/// Those that sessions can have.
fn policies(tiny: &Tiny) -> impl Iterator<Item = KvPolicy> {
    let qk_norm = tiny.qk_norm();
    KvPolicy::ALL.iter().copied().filter(move |policy| match policy {
        KvPolicy::KvZip | KvPolicy::None => false,
        KvPolicy::KNorm => !qk_norm,
        _ => true,
    })
}

#[test]
fn with_every_policy_it_goes_on_as_it_would_have() {
    for tiny in [full(), sliding()] {
        let model = model_of(&tiny);
        let mut n = 0;
        for policy in policies(&tiny) {
            let params = SessionParams { kv_policy: Some(policy), kv_budget: 60, ..params() };
            // Of which the first two layers keep all.
            let n_ctx = if policy == KvPolicy::KNorm { 400 } else { params.n_ctx };
            let params = SessionParams { n_ctx, ..params };
            check_twins(&model, &params, &format!("{} {policy:?}", tiny.arch));
            n += 1;
        }
        assert!(n >= 9, "{n} policies");
    }
}

#[test]
fn with_every_type_of_keys_and_values_it_goes_on_as_it_would_have() {
    for tiny in [full(), sliding()] {
        let model = model_of(&tiny);
        for (k_dtype, v_dtype) in [(1, 1), (2, 2), (2, 1), (1, 2), (3, 4), (5, 6), (7, 2)] {
            // Without a policy; the cache fills up, and keys are turned back.
            let params = SessionParams { k_dtype, v_dtype, auto_evict: true, ..params() };
            let params = SessionParams { kv_policy: Some(KvPolicy::Streaming), ..params };
            check_twins(&model, &params, &format!("{} {k_dtype} {v_dtype}", tiny.arch));
            let params = SessionParams { kv_policy: None, kv_budget: 70, ..params };
            check_twins(&model, &params, &format!("{} {k_dtype} {v_dtype} hybrid", tiny.arch));
        }
    }
}

/// A budget makes a rule where there was none.
#[test]
fn a_budget_that_came_later_is_restored() {
    let model = model_of(&full());
    let mut s = session(&model, &params());
    eval(&mut s, &text(3, 130));
    s.set_kv_budget(50);
    eval(&mut s, &text(4, 10));
    assert_eq!(s.info().n_kv, 50);
    let mut twin = session(&model, &params());
    twin.read(None, &bytes_of(&s, None)).unwrap();
    assert_eq!((twin.info().kv_budget, twin.info().n_kv), (50, 50));
    for token in text(5, 200) {
        eval(&mut s, &[token]);
        eval(&mut twin, &[token]);
        assert!(s.logits().unwrap() == twin.logits().unwrap());
    }
    assert!(s.info().n_evicted > 200 && bytes_of(&s, None) == bytes_of(&twin, None));
    // And is gone again where the saved one had none.
    let empty = bytes_of(&session(&model, &params()), None);
    twin.read(None, &empty).unwrap();
    assert_eq!((twin.info().kv_budget, twin.info().pos, twin.info().n_kv), (0, 0, 0));
}

#[test]
fn a_larger_session_takes_it_and_a_smaller_one_if_it_fits() {
    for tiny in [full(), sliding()] {
        let model = model_of(&Tiny { n_ctx_train: 512, ..tiny });
        let (mut one, mut chooser) = (session(&model, &params()), sampler());
        eval(&mut one, &text(1, 100));
        let token = one.sample(&mut chooser).unwrap();
        let saved = bytes_of(&one, Some(&chooser));
        let more = |s: &mut Session, chooser: &mut Sampler| -> Vec<i32> {
            let mut token = token;
            let step = |_| {
                eval(s, &[token]);
                token = s.sample(chooser).unwrap();
                token
            };
            (0..20).map(step).collect()
        };
        let expected = more(&mut one, &mut chooser);
        for n_ctx in [150, 120, 170, 800] {
            let (mut s, mut chooser) =
                (session(&model, &SessionParams { n_ctx, ..params() }), sampler());
            s.read(Some(&mut chooser), &saved).unwrap();
            assert_eq!(s.info().n_ctx, n_ctx);
            assert_eq!(more(&mut s, &mut chooser), expected, "{n_ctx}");
        }
        let mut small = session(&model, &SessionParams { n_ctx: 99, ..params() });
        eval(&mut small, &text(9, 30));
        refused(&mut small, None, &saved, "SNAPSHOT_LAYOUT", "");
    }
}

/// A snapshot that is refused, with this code and words, changes nothing.
fn refused(
    s: &mut Session,
    mut chooser: Option<&mut Sampler>,
    bytes: &[u8],
    name: &str,
    words: &str,
) {
    let before = bytes_of(s, chooser.as_deref());
    let logits = s.logits().map(<[f32]>::to_vec);
    let path = path("refused");
    std::fs::write(&path, bytes).unwrap();
    let from_memory = s.read(chooser.as_deref_mut(), bytes).unwrap_err();
    let from_file = s.restore(chooser.as_deref_mut(), &path).unwrap_err();
    std::fs::remove_file(&path).unwrap();
    for error in [from_memory, from_file] {
        assert_eq!(error.name(), format!("TERN_ERROR_{name}"), "{error}");
        assert!(error.message().contains(words), "{error}: no {words:?}");
    }
    assert!(bytes_of(s, chooser.as_deref()) == before, "{name}: it has changed");
    assert!(s.logits().map(<[f32]>::to_vec) == logits, "{name}: its logits have changed");
}

fn path(name: &str) -> PathBuf {
    let thread = std::thread::current();
    let name = format!("tern-{name}-{}-{:?}", std::process::id(), thread.id());
    std::env::temp_dir().join(name)
}

#[test]
fn each_mismatch_has_its_code_and_changes_nothing() {
    let model = model_of(&full());
    let budget = SessionParams { kv_budget: 60, ..params() };
    let (mut one, mut chooser) = (session(&model, &budget), sampler());
    begin(&mut one, &mut chooser);
    let saved = bytes_of(&one, Some(&chooser));

    let used = |params: &SessionParams| {
        let mut s = session(&model, params);
        eval(&mut s, &text(8, 50));
        s
    };
    for (params, words) in [
        (SessionParams { kv_dtype: 2, ..budget }, "k_dtype: found 0, expected 2"),
        (SessionParams { v_dtype: 1, ..budget }, "v_dtype: found 0, expected 1"),
        (SessionParams { kv_budget: 0, ..budget }, "found \"hybrid\", expected streaming"),
        (
            SessionParams { kv_policy: Some(KvPolicy::Tova), ..budget },
            "KV policy: found \"hybrid\", expected tova",
        ),
        (SessionParams { n_sink: 9, ..budget }, "KV policy: n_sink: found 4, expected 9"),
        (SessionParams { n_ctx: 60 + 72 - 1, kv_budget: 40, ..budget }, "KV budget: found 60"),
    ] {
        refused(&mut used(&params), None, &saved, "SNAPSHOT_LAYOUT", words);
        // And where nothing has come yet.
        refused(&mut session(&model, &params), None, &saved, "SNAPSHOT_LAYOUT", words);
    }
    let kv_params = KvParams { eps: 0.5, ..KvParams::new(KvPolicy::Hybrid, false) };
    let params = SessionParams { kv_params: Some(kv_params), ..budget };
    let words = "eps: found 0.01, expected 0.5";
    refused(&mut used(&params), None, &saved, "SNAPSHOT_LAYOUT", words);

    // Samplers: none, other parameters.
    let mut s = used(&budget);
    let words = "found no sampler, expected one";
    let without = bytes_of(&one, None);
    refused(&mut s, Some(&mut sampler()), &without, "SNAPSHOT_LAYOUT", words);
    let mut greedy = Sampler::new(&SamplerParams::default()).unwrap();
    refused(&mut s, Some(&mut greedy), &saved, "SNAPSHOT_LAYOUT", "sampler: ");
    s.read(None, &saved).unwrap();

    // Another model of the same shape.
    let other = model_of(&Tiny { seed: 2, ..full() });
    refused(&mut session(&other, &budget), None, &saved, "SNAPSHOT_MODEL", "of the model");
    let mut version = saved.clone();
    version[8] = 9;
    seal(&mut version);
    refused(&mut used(&budget), None, &version, "SNAPSHOT_VERSION", "version 9");
    let error = s.restore(None, &path("absent")).unwrap_err();
    assert!(matches!(error, Error::Io(_)), "{error}");
}

#[test]
fn damage_is_found_and_changes_nothing() {
    let model = model_of(&full());
    let params = SessionParams { kv_budget: 60, ..params() };
    let (mut one, mut chooser) = (session(&model, &params), sampler());
    begin(&mut one, &mut chooser);
    let saved = bytes_of(&one, Some(&chooser));
    let mut s = session(&model, &params);
    let mut random = Random(4);
    for i in 0..60 {
        if i == 30 {
            eval(&mut s, &text(2, 90));
        }
        let at = random.next() as usize % saved.len();
        let mut bad = saved.clone();
        bad[at] ^= 1 << (random.next() % 8);
        refused(&mut s, Some(&mut chooser), &bad, "SNAPSHOT_CORRUPT", "");
        refused(&mut s, Some(&mut chooser), &saved[..at], "SNAPSHOT_CORRUPT", "");
    }
    // So it is in what nobody asks for.
    let (kind, state) = sections(&saved).pop().unwrap();
    assert_eq!(kind, 32, "the sampler's");
    let mut bad = saved.clone();
    bad[state.end - 1] ^= 1;
    refused(&mut s, None, &bad, "SNAPSHOT_CORRUPT", "");
    refused(&mut session(&model, &params), None, &bad, "SNAPSHOT_CORRUPT", "");
    s.restore(None, &written(&saved)).unwrap();
    assert!(bytes_of(&s, Some(&chooser)) == saved);
}

fn written(bytes: &[u8]) -> PathBuf {
    let path = path("written");
    std::fs::write(&path, bytes).unwrap();
    path
}

/// Makes all checksums right again.
fn seal(bytes: &mut [u8]) {
    let crc = crc32c(&bytes[..32]);
    bytes[32..36].copy_from_slice(&crc.to_le_bytes());
    let body = u64::from_le_bytes(bytes[16..24].try_into().unwrap()) as usize;
    let crcs: Vec<u8> =
        bytes[..body].chunks(64 << 10).flat_map(|c| crc32c(c).to_le_bytes()).collect();
    bytes[body..body + crcs.len()].copy_from_slice(&crcs);
    bytes[body + crcs.len()..].copy_from_slice(&crc32c(&crcs).to_le_bytes());
}

/// Kind and range of each section.
fn sections(bytes: &[u8]) -> Vec<(u32, std::ops::Range<usize>)> {
    let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
    let n = word(12) as usize;
    let mut start = 36 + 16 * n;
    let section = |i: usize| {
        let end = word(36 + 16 * i + 8) as usize;
        (word(36 + 16 * i), std::mem::replace(&mut start, end)..end)
    };
    (0..n).map(section).collect()
}

/// Whoever means harm makes the checksums right. What is then read is refused, or is something that
/// a session can hold: it goes on, with whatever numbers.
#[test]
fn what_lies_is_refused_or_harmless() {
    for (tiny, policy) in [(full(), KvPolicy::KeyDiff), (sliding(), KvPolicy::Hybrid)] {
        let model = model_of(&tiny);
        let params = SessionParams { kv_policy: Some(policy), kv_budget: 60, ..params() };
        let (mut one, mut chooser) = (session(&model, &params), sampler());
        begin(&mut one, &mut chooser);
        let saved = bytes_of(&one, Some(&chooser));
        // All but keys and values, where every bit is one that could be.
        let places: Vec<usize> = sections(&saved)
            .into_iter()
            .filter(|(kind, _)| !matches!(kind, 9 | 10))
            .flat_map(|(_, range)| range)
            .collect();
        let mut s = session(&model, &params);
        eval(&mut s, &text(3, 40));
        let (before, unchanged) = (bytes_of(&s, Some(&chooser)), bytes_of(&s, None));
        let (mut random, mut n_refused, mut n_taken) = (Random(6), 0, 0);
        for _ in 0..4000 {
            let mut lying = saved.clone();
            for _ in 0..1 + random.next() % 2 {
                // Statistics are most of the bytes; the rest is to be met as often.
                let some = if random.next() % 2 == 0 { 2000 } else { places.len() };
                let at = places[random.next() as usize % some];
                lying[at] = match random.next() % 3 {
                    0 => random.next() as u8,
                    1 => lying[at].wrapping_add(1),
                    _ => 0xff,
                };
            }
            seal(&mut lying);
            let mut chooser = chooser_like(&chooser);
            match s.read(Some(&mut chooser), &lying) {
                Ok(()) => {
                    n_taken += 1;
                    let token = text(u64::from(random.next()), 20);
                    let control = Control::default();
                    // Which may run out of room or meet numbers that are none.
                    for tokens in [&token[..1], &token[1..3], &token[3..]] {
                        let _ = s.eval(tokens, Logits::Last, &control);
                        let _ = s.sample(&mut chooser);
                    }
                    s.read(None, &before).unwrap();
                }
                Err(Error::SnapshotCorrupt(_) | Error::SnapshotLayout(_)) => {
                    n_refused += 1;
                    if n_refused % 10 == 0 {
                        assert!(bytes_of(&s, None) == unchanged);
                    }
                }
                Err(other) => panic!("{other}"),
            }
        }
        assert!(n_refused > 400 && n_taken > 400, "{n_refused} refused, {n_taken} taken");
        assert!(bytes_of(&s, Some(&chooser)) == before);
    }
}

/// A sampler with the same parameters and state.
fn chooser_like(chooser: &Sampler) -> Sampler {
    let mut bytes = Vec::new();
    let put = &mut |part: &[u8]| {
        bytes.extend_from_slice(part);
        Ok(())
    };
    chooser.write_state(put).unwrap();
    let mut twin = sampler();
    twin.restore_state(&bytes).unwrap();
    twin
}

#[test]
fn a_file_is_what_the_buffer_is_and_takes_no_memory_to_read() {
    let model = model_of(&Tiny { n_ctx_train: 2048, ..full() });
    let params = SessionParams { n_ctx: 2048, kv_dtype: 1, ..params() };
    let mut s = session(&model, &params);
    eval(&mut s, &text(1, 1500));
    let chooser = sampler();
    let bytes = bytes_of(&s, Some(&chooser));
    assert!(bytes.len() > 4 << 20, "{}", bytes.len());
    let path = path("file");
    let (saved, peak) = peak_bytes(|| s.save(Some(&chooser), &path));
    saved.unwrap();
    assert!(peak < 200_000, "{peak} bytes to save {}", bytes.len());
    assert!(std::fs::read(&path).unwrap() == bytes);

    let mut twin = session(&model, &params);
    let (restored, peak) = peak_bytes(|| twin.restore(Some(&mut sampler()), &path));
    restored.unwrap();
    // The bookkeeping, which takes the place of what was there, and a chunk.
    assert!(peak < 500_000, "{peak} bytes to restore {}", bytes.len());
    assert!(bytes_of(&twin, Some(&chooser)) == bytes);
    // As well in one that has forgotten everything.
    twin.truncate(0).unwrap();
    let (restored, peak) = peak_bytes(|| twin.restore(None, &path));
    restored.unwrap();
    assert!(peak < 500_000, "{peak} bytes");
    std::fs::remove_file(&path).unwrap();
}

/// Somebody writes to the file while it is read. A new session takes all of it, or is still new.
#[test]
fn a_file_that_changes_is_taken_whole_or_not_at_all() {
    let model = model_of(&Tiny { n_ctx_train: 1024, ..full() });
    let params =
        SessionParams { n_ctx: 1024, kv_dtype: 1, kv_policy: Some(KvPolicy::Hybrid), ..params() };
    let mut one = session(&model, &params);
    eval(&mut one, &text(1, 900));
    let saved = bytes_of(&one, None);
    let new = bytes_of(&session(&model, &params), None);
    let mut then = session(&model, &params);
    eval(&mut then, &text(2, 300));
    let then = bytes_of(&then, None);
    // In the keys and values, so that all else is read before.
    let at = sections(&saved).iter().rev().find(|(kind, _)| *kind == 9).unwrap().1.start;
    let (path, done) = (written(&saved), AtomicBool::new(false));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let file = File::options().write(true).open(&path).unwrap();
            let start = Instant::now(); // and not for ever, should an assertion fail
            let goes_on = || !done.load(Ordering::Relaxed) && start.elapsed().as_secs() < 100;
            for byte in (0..2).cycle().take_while(|_| goes_on()) {
                file.write_all_at(&[saved[at] ^ byte], at as u64).unwrap();
                std::thread::sleep(Duration::from_millis(2));
            }
        });
        let (mut n_taken, mut n_refused) = (0, 0);
        let mut s = session(&model, &params);
        while n_taken + n_refused < 300 || n_taken == 0 || n_refused == 0 {
            match s.restore(None, &path) {
                Ok(()) => {
                    n_taken += 1;
                    assert!(bytes_of(&s, None) == saved);
                    s.truncate(0).unwrap();
                }
                Err(error) => {
                    n_refused += 1;
                    assert!(matches!(error, Error::SnapshotCorrupt(_)), "{error}");
                    assert!(bytes_of(&s, None) == new);
                }
            }
        }
        done.store(true, Ordering::Relaxed);
        // What was half read has left nothing behind.
        eval(&mut s, &text(2, 300));
        assert!(bytes_of(&s, None) == then, "{n_taken} taken, {n_refused} refused");
    });
    std::fs::remove_file(&path).unwrap();
}

#[test]
fn restoring_without_memory_is_an_error_and_changes_nothing() {
    let model = model_of(&full());
    let params = SessionParams { kv_policy: Some(KvPolicy::KeyDiff), kv_budget: 60, ..params() };
    let (mut one, mut chooser) = (session(&model, &params), sampler());
    begin(&mut one, &mut chooser);
    let (saved, path) = (bytes_of(&one, Some(&chooser)), path("no-memory"));
    one.save(Some(&chooser), &path).unwrap();
    for is_fresh in [true, false] {
        let (mut s, mut twin) = (session(&model, &params), sampler());
        if !is_fresh {
            eval(&mut s, &text(5, 90));
        }
        let before = bytes_of(&s, Some(&twin));
        let mut n = 0;
        while let Err(error) = with_allocations(n, || s.restore(Some(&mut twin), &path)) {
            assert!(matches!(error, Error::OutOfMemory(_)), "{n}: {error}");
            assert!(bytes_of(&s, Some(&twin)) == before, "{n}");
            n += 1;
        }
        assert!(n > 10, "{n} allocations");
        assert!(bytes_of(&s, Some(&twin)) == saved);
    }
    std::fs::remove_file(&path).unwrap();
}

/// With real models: how large a snapshot is, and how long it takes, is shown and not bounded.
#[test]
fn real_models_go_on_as_they_would_have() {
    for name in ["SmolLM2-135M-Instruct.Q4_1.gguf", "gemma-3-270m-Q4_K_M.gguf"] {
        let test = "real_models_go_on_as_they_would_have";
        let Some(file) = support::cached(test, &format!("models/{name}")) else { continue };
        let load = ModelParams::default();
        let model = Model::load(Input::Path(&file), &load, &mut |_, _| true).unwrap();
        let model = Arc::new(model);
        let params = SessionParams { n_ctx: 1024, kv_dtype: 2, ..SessionParams::default() };
        let params = SessionParams { kv_budget: 150, n_threads: 2, ..params };
        let mut random = Random(2);
        let n_vocab = model.info().n_vocab;
        let prompt: Vec<i32> = (0..400).map(|_| (random.next() % n_vocab) as i32).collect();
        let (mut one, mut chooser) = (session(&model, &params), sampler());
        eval(&mut one, &prompt);
        let run = |s: &mut Session, chooser: &mut Sampler, mut token: i32| -> Vec<i32> {
            let step = |_| {
                eval(s, &[token]);
                token = s.sample(chooser).unwrap();
                token
            };
            (0..24).map(step).collect()
        };
        let token = *run(&mut one, &mut chooser, 1).last().unwrap();
        model.digest().unwrap(); // once for a model
        let (path, ms) = (path("real"), |start: Instant| start.elapsed().as_secs_f64() * 1e3);
        let start = Instant::now();
        one.save(Some(&chooser), &path).unwrap();
        let saved = ms(start);
        let (mut twin, mut other) = (session(&model, &params), sampler());
        let start = Instant::now();
        twin.restore(Some(&mut other), &path).unwrap();
        println!(
            "{name}: {} tokens in {} bytes, saved in {saved:.1} ms, restored in {:.1}",
            one.info().n_kv,
            std::fs::metadata(&path).unwrap().len(),
            ms(start)
        );
        std::fs::remove_file(&path).unwrap();
        let expected = run(&mut one, &mut chooser, token);
        assert_eq!(run(&mut twin, &mut other, token), expected, "{name}");
        assert!(bytes_of(&one, Some(&chooser)) == bytes_of(&twin, Some(&other)), "{name}");
    }
}
