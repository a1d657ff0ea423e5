//! Nothing is allocated after a session is made: not in eval, sample, generate or eviction, nor where a
//! decoder turns tokens into text.
#![allow(unsafe_code, reason = "a counting allocator")]
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod support;

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use support::tiny::{Random, Tiny};
use tern::base::dtype::DType;
use tern::engine::{
    Control, Input, KvPolicy, Logits, Model, ModelParams, Numerics, Sampler, SamplerParams,
    Session, SessionParams,
};

/// Counts allocations of the whole process while `COUNTING`.
struct Counting;

static COUNTING: AtomicBool = AtomicBool::new(false);
static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);

// SAFETY: hands every request to the system allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if COUNTING.load(Ordering::Relaxed) {
            ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        }
        // SAFETY: the caller's contract is the system allocator's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: `ptr` came from `alloc` above with this layout.
        unsafe { System.dealloc(ptr, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn count(work: impl FnOnce()) -> usize {
    ALLOCATIONS.store(0, Ordering::Relaxed);
    COUNTING.store(true, Ordering::Relaxed);
    work();
    COUNTING.store(false, Ordering::Relaxed);
    ALLOCATIONS.load(Ordering::Relaxed)
}

// One test only: a second one would allocate while this one counts.
#[test]
fn eval_sample_generate_and_evict_allocate_nothing() {
    assert!(count(|| drop(std::hint::black_box(vec![1u8; 100]))) > 0, "the counter counts");
    let (exact, fast) = (Numerics::Exact, Numerics::Fast);
    let cases = [
        ("llama", exact, [0, 0]),
        ("gemma2", exact, [2, 5]),
        ("gemma3", exact, [5, 6]),
        ("phi3", exact, [7, 3]),
        ("llama", fast, [0, 0]),
    ];
    for (arch, numerics, [k_dtype, v_dtype]) in cases {
        let mut tiny = Tiny::new(arch);
        (tiny.dtype, tiny.n_ctx_train, tiny.window) = (DType::Q4_0, 64, 9);
        let file = tiny.gguf();
        let params = ModelParams::default();
        let model = Model::load(Input::Memory(&file), &params, &mut |_, _| true).expect("loads");
        let params = SessionParams {
            n_ctx: 64,
            n_batch: if numerics == Numerics::Fast { 40 } else { 16 },
            n_threads: 3,
            n_logits: 4,
            auto_evict: true,
            numerics,
            k_dtype,
            v_dtype,
            ..SessionParams::default()
        };
        let mut session = Session::new(Arc::new(model), &params).expect("a session");
        let sampling = SamplerParams {
            temperature: 0.8,
            top_k: 40,
            top_p: 0.95,
            min_p: 0.05,
            typical_p: 0.9,
            repeat_penalty: 1.1,
            frequency_penalty: 0.1,
            n_logprobs: 5,
            ..SamplerParams::default()
        };
        let mut sampler = Sampler::new(&sampling).expect("a sampler");
        let mut random = Random(3);
        let prompt: Vec<i32> = (0..40).map(|_| (random.next() % 288) as i32).collect();
        let n = count(|| {
            let control = Control::default();
            session.eval(&prompt, Logits::Positions(&[0, 20, 39]), &control).expect("evaluates");
            for _ in 0..100 {
                let token = session.sample(&mut sampler).expect("samples");
                session.eval(&[token], Logits::Last, &control).expect("evaluates");
            }
            session.kv_evict(4, 20).expect("evicts");
            session.kv_evict_range(40, 50).expect("evicts");
            session.truncate(session.info().pos - 3).expect("truncates");
            session.eval(&prompt[..20], Logits::Last, &control).expect("evaluates");
            let mut tokens = [0; 4];
            for _ in 0..30 {
                session.generate(&mut sampler, 3, &control, &mut tokens).expect("generates");
            }
        });
        assert_eq!(n, 0, "{arch}: {n} allocations");
    }
    tokens_that_others_leave_for_allocate_nothing();
    text_allocates_nothing();
}

/// A budget, with every policy: what is counted, chosen and moved has its place from the start; and the
/// plan knew it.
fn tokens_that_others_leave_for_allocate_nothing() {
    let mut tiny = Tiny::new("llama");
    (tiny.dtype, tiny.n_ctx_train) = (DType::Q4_0, 1024);
    let file = tiny.gguf();
    let model = Model::load(Input::Memory(&file), &ModelParams::default(), &mut |_, _| true);
    let model = Arc::new(model.expect("loads"));
    let mut random = Random(5);
    let text: Vec<i32> = (0..150).map(|_| (random.next() % 288) as i32).collect();
    let policies = KvPolicy::ALL.iter().copied();
    // Without those that never evict, not without being asked, and not in the first layers.
    let not = [KvPolicy::None, KvPolicy::KvZip, KvPolicy::KNorm];
    for policy in policies.filter(|policy| !not.contains(policy)) {
        let name = policy.name();
        let params = SessionParams {
            n_ctx: 160,
            n_batch: 16,
            n_threads: 2,
            n_logits: 4,
            kv_policy: Some(policy),
            kv_budget: 60,
            ..SessionParams::default()
        };
        let plan = Model::plan(Input::Memory(&file), &ModelParams::default(), &params).unwrap();
        let mut session = Session::new(model.clone(), &params).expect("a session");
        let info = session.info();
        let found = (info.kv_bytes, info.scratch_bytes);
        assert_eq!((plan.kv_bytes, plan.scratch_bytes), found, "{name}");
        let mut sampler = Sampler::new(&SamplerParams::default()).expect("a sampler");
        let n = count(|| {
            let control = Control::default();
            session.eval(&text[..100], Logits::Last, &control).expect(name);
            for _ in 0..200 {
                let token = session.sample(&mut sampler).expect("samples");
                session.eval(&[token], Logits::Last, &control).expect(name);
            }
            session.eval(&text[100..], Logits::Last, &control).expect(name);
            let mut tokens = [0; 4];
            for _ in 0..30 {
                session.generate(&mut sampler, 3, &control, &mut tokens).expect("generates");
            }
        });
        assert_eq!(n, 0, "{name}: {n} allocations");
        assert!(session.info().n_evictions > 3, "{name}");
    }
}

/// Through the C API, whose decoders hold the text: every token, in pieces and as a stream, from the first.
fn text_allocates_nothing() {
    use std::ptr::null_mut;
    use tern::ffi::*;
    let ok = |status: tern_status| assert_eq!(status, tern_status::TERN_OK);
    let file = Tiny::new("llama").gguf();
    let (mut model, mut decoder) = (null_mut(), null_mut());
    // SAFETY: bytes of that length, no parameters, places for handles; the model is one.
    unsafe {
        ok(tern_model_load_memory(file.as_ptr().cast(), file.len(), std::ptr::null(), &mut model));
        ok(tern_decoder_new(model, &mut decoder));
    }
    let n = count(|| {
        for token in (0..288).chain([0xC3, 0xFF, 0xF0, 0x41]) {
            let (mut text, mut len) = (std::ptr::null(), 0);
            // SAFETY: live handles, and places for what is lent.
            unsafe {
                ok(tern_model_token_piece(model, token, &mut text, &mut len));
                ok(tern_decoder_push(decoder, token, &mut text, &mut len));
            }
        }
        let (mut text, mut len) = (std::ptr::null(), 0);
        // SAFETY: as above.
        unsafe {
            ok(tern_decoder_flush(decoder, &mut text, &mut len));
            ok(tern_decoder_reset(decoder));
        }
    });
    assert_eq!(n, 0, "{n} allocations");
    tern_decoder_free(decoder);
    tern_model_free(model);
}
