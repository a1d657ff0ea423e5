//! What a token costs the system once a session runs: no page faults, and no wait but for the
//! session's own threads.
#![allow(unsafe_code, reason = "the kernel's account of the process")]
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod support;

use std::sync::Arc;

use support::tiny::{Random, Tiny};
use tern::base::dtype::DType;
use tern::engine::{
    Control, Input, KvPolicy, Logits, Model, ModelParams, Sampler, SamplerParams, Session,
    SessionParams,
};

/// What the kernel has counted for the whole process so far.
#[derive(Clone, Copy, Debug)]
struct Usage {
    faults: u64,
    /// Times that a thread gave up the CPU to wait for something.
    waits: u64,
}

fn usage() -> Usage {
    // SAFETY: writes the struct, of which all zeros is a value.
    unsafe {
        let mut usage = std::mem::zeroed::<libc::rusage>();
        assert_eq!(libc::getrusage(libc::RUSAGE_SELF, &mut usage), 0);
        Usage { faults: (usage.ru_minflt + usage.ru_majflt) as u64, waits: usage.ru_nvcsw as u64 }
    }
}

struct Generation {
    session: Session,
    sampler: Sampler,
    random: Random,
}

impl Generation {
    fn new(arch: &'static str, n_threads: u32) -> Generation {
        let params = SessionParams {
            n_ctx: 6000,
            n_batch: 64,
            n_threads,
            n_logits: 4,
            auto_evict: true,
            ..SessionParams::default()
        };
        Generation::with(arch, params)
    }

    fn with(arch: &'static str, params: SessionParams) -> Generation {
        let mut tiny = Tiny::new(arch);
        (tiny.dtype, tiny.n_ctx_train, tiny.window) = (DType::Q4_0, 8192, 9);
        let file = tiny.gguf();
        let model = Model::load(Input::Memory(&file), &ModelParams::default(), &mut |_, _| true);
        let model = model.expect("loads");
        let session = Session::new(Arc::new(model), &params).expect("a session");
        let params = SamplerParams {
            temperature: 0.8,
            top_k: 40,
            top_p: 0.95,
            min_p: 0.05,
            repeat_penalty: 1.1,
            ..SamplerParams::default()
        };
        let sampler = Sampler::new(&params).expect("a sampler");
        Generation { session, sampler, random: Random(3) }
    }

    fn tokens(&mut self, n: usize) {
        let control = Control::default();
        for _ in 0..n {
            let token = self.session.sample(&mut self.sampler).expect("samples");
            self.session.eval(&[token], Logits::Last, &control).expect("evaluates");
        }
    }

    fn prompt(&mut self, n: usize) {
        let tokens: Vec<i32> = (0..n).map(|_| (self.random.next() % 288) as i32).collect();
        self.session.eval(&tokens, Logits::Last, &Control::default()).expect("evaluates");
    }
}

/// What `work` added to the account, as little of it as ever in some repetitions: what the system
/// itself does with the process now and then, as moving its pages, is not the work's.
fn least(mut work: impl FnMut(usize), mut of: impl FnMut() -> u64) -> u64 {
    let once = |i: usize| {
        let before = of();
        work(i);
        of() - before
    };
    (0..5).map(once).min().unwrap()
}

// One test only: the account is that of the whole process.
#[test]
fn a_token_takes_no_page_and_waits_for_nothing() {
    if support::emulated() {
        let name = "a_token_takes_no_page_and_waits_for_nothing";
        return support::skipped(name, "the account is the emulator's: not run under an emulator");
    }
    // They count.
    let before = usage();
    let mut pages = vec![0u8; 8 << 20];
    pages.iter_mut().step_by(4096).for_each(|byte| *byte = 1);
    std::hint::black_box(&mut pages);
    std::thread::sleep(std::time::Duration::from_millis(2));
    let after = usage();
    assert!(after.faults > before.faults && after.waits > before.waits, "{before:?} {after:?}");

    for arch in ["llama", "gemma3"] {
        for n_threads in [1, 2, 4] {
            let mut g = Generation::new(arch, n_threads);
            g.prompt(70);
            g.tokens(10);
            // Thousands of tokens, so that lists and caches grow over many pages.
            let what = format!("{arch}, {n_threads} threads");
            let faults = least(|_| g.tokens(700), || usage().faults);
            assert_eq!(faults, 0, "{what}: page faults in 700 tokens");
            let faults = least(|_| g.session.truncate(100).unwrap(), || usage().faults);
            assert_eq!(faults, 0, "{what}: page faults in truncating");

            let mut g = Generation::new(arch, n_threads);
            g.prompt(70);
            g.tokens(10);
            if n_threads == 1 {
                let waits = least(|_| g.tokens(300), || usage().waits);
                assert_eq!(waits, 0, "{what}: waits in 300 tokens");
                continue;
            }
            // Each wait is one of the pool's, which counts its own; so there is no other lock.
            let extra = (0..5).map(|_| {
                let (waits, sleeps) = (usage().waits, g.session.n_sleeps());
                g.tokens(300);
                let waits = usage().waits - waits;
                waits.saturating_sub(g.session.n_sleeps() - sleeps)
            });
            assert_eq!(extra.min(), Some(0), "{what}: waits that are not the pool's");
        }
    }
    tokens_that_others_leave_for_take_no_page();
}

/// A budget, with every policy that has one.
fn tokens_that_others_leave_for_take_no_page() {
    let not = [KvPolicy::None, KvPolicy::KvZip];
    for policy in KvPolicy::ALL.iter().copied().filter(|policy| !not.contains(policy)) {
        let params = SessionParams {
            n_ctx: 400,
            n_batch: 64,
            n_threads: 1,
            n_logits: 4,
            kv_policy: Some(policy),
            kv_budget: 200,
            ..SessionParams::default()
        };
        let mut g = Generation::with("llama", params);
        g.prompt(300);
        g.tokens(120);
        let (faults, waits) = (|| usage().faults, || usage().waits);
        let name = policy.name();
        assert_eq!(least(|_| g.tokens(150), faults), 0, "{name}: page faults in 150 tokens");
        assert_eq!(least(|_| g.tokens(150), waits), 0, "{name}: waits in 150 tokens");
        assert!(g.session.info().n_evictions > 3, "{name}");
    }
}
