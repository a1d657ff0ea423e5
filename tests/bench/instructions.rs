//! How many instructions parts of tern take, counted by valgrind through gungraun: a number that is
//! the same however busy the machine is. instructions/check.py compares with the committed ones.
//!
//! Valgrind has no AVX-512: on x86-64 the kernels are those for AVX2. All is small, because valgrind
//! is slow; the loops are the same as on large matrices.

#[path = "../support/mod.rs"]
mod support;

use std::hint::black_box;
use std::sync::Arc;

use gungraun::prelude::*;
use gungraun::{Callgrind, LibraryBenchmarkConfig};
use support::tiny::Tiny;
use tern::base::cpu::Isa;
use tern::base::dtype::DType;
use tern::base::rng::Rng;
use tern::engine::{Control, Input, Logits, Model, ModelParams, Session, SessionParams};
use tern::kernel::Kernels;
use tern::sampler::{Params, Sampler, Scratch};
use tern::tokenizer::{Tables, Tokenizer};
use tern_bench::{Attention, Matrix, Tokens, logits};

const K: usize = 1024;

fn kernels() -> &'static Kernels {
    Kernels::for_isa(Isa::best())
}

// --- matrices ----------------------------------------------------------------------------------

struct Product {
    matrix: Matrix,
    tokens: Tokens,
    n: usize,
    out: Vec<f32>,
}

fn product(dtype: DType, n_rows: usize, n: usize) -> Product {
    let matrix = Matrix::new(kernels(), dtype, n_rows, K);
    let tokens = Tokens::new(kernels(), n, K);
    let out = vec![0.0; n * matrix.n_rows()];
    Product { matrix, tokens, n, out }
}

fn gemv_of(dtype: DType) -> Product {
    product(dtype, 512, 1)
}

fn gemm_of(dtype: DType) -> Product {
    product(dtype, 128, 32)
}

fn multiply(mut product: Product) -> Product {
    let Product { matrix, tokens, n, out } = &mut product;
    matrix.multiply(kernels(), &tokens.first(*n), black_box(out));
    product
}

#[library_benchmark(setup = gemv_of)]
#[bench::q4_0(DType::Q4_0)]
#[bench::q4_1(DType::Q4_1)]
#[bench::q8_0(DType::Q8_0)]
#[bench::q4_k(DType::Q4K)]
#[bench::q6_k(DType::Q6K)]
fn gemv(product: Product) -> Product {
    multiply(product)
}

#[library_benchmark(setup = gemm_of)]
#[bench::q4_0(DType::Q4_0)]
#[bench::q8_0(DType::Q8_0)]
#[bench::q4_k(DType::Q4K)]
fn gemm(product: Product) -> Product {
    multiply(product)
}

// --- attention ---------------------------------------------------------------------------------

#[library_benchmark]
#[bench::one_token(Attention::new(3, 512, 1))]
#[bench::eight_tokens(Attention::new(1, 512, 8))]
fn attention(mut attention: Attention) -> Attention {
    attention.run(kernels());
    attention
}

// --- the sampler -------------------------------------------------------------------------------

struct Choice {
    sampler: Sampler,
    scratch: Scratch,
    row: Vec<f32>,
}

fn choice(params: Params) -> Choice {
    const N_VOCAB: usize = 49152;
    Choice {
        sampler: Sampler::new(&params).expect("parameters in range"),
        scratch: Scratch::new(N_VOCAB).expect("memory"),
        row: logits::peaked(&mut Rng::new(5), N_VOCAB),
    }
}

#[library_benchmark(setup = choice)]
#[bench::greedy(Params::default())]
#[bench::top(Params { temperature: 0.8, top_k: 40, top_p: 0.95, ..Params::default() })]
#[bench::top_p(Params { temperature: 0.8, top_p: 0.95, ..Params::default() })]
fn sampler(mut choice: Choice) -> Choice {
    let token = choice.sampler.sample(black_box(&choice.row), &mut choice.scratch);
    black_box(token.expect("finite logits"));
    choice
}

// --- the tokenizer -----------------------------------------------------------------------------

const TEXT: &str = "\
The robot leaves its dock at twenty to seven, with both trays full and a battery that will last the \
morning. It knows the way: past the workshop, where somebody has left two pallets, and up the slope \
to the shelves. There are 14 doors and 3 ramps; at each of them it waits, looks left and right, and \
goes on. \"Good morning,\" says the woman at the gate. It doesn't answer, but it does slow down.\n\
What would it say? That the left front wheel is warm (61.5 degrees), that label 0482 can't be read, \
and that it will be back at 07:25.\n";

/// Tokenizers seed their tables at random, and a word may be found sooner in one than in another: what
/// many of them take differs less.
const N_TOKENIZERS: usize = 32;

struct Cut {
    tokenizers: Vec<Tokenizer>,
    text: String,
    ids: Vec<i32>,
}

/// A byte-level vocabulary in which each word of the text is a token, and so is each beginning of it.
fn cut(pre: &str) -> Cut {
    let char_of = |b: u8| match b {
        33..=126 => char::from(b),
        // GPT-2's table, for the others of ASCII.
        0..=32 => char::from_u32(256 + u32::from(b)).expect("below 512"),
        _ => char::from_u32(257 + 32 + u32::from(b - 127)).expect("below 512"),
    };
    let mut tokens: Vec<String> = (0..=127u8).map(|b| char_of(b).to_string()).collect();
    let mut merges = Vec::new();
    for word in TEXT.split_inclusive(|c: char| !c.is_ascii_alphabetic()) {
        let letters = word.trim_end_matches(|c: char| !c.is_ascii_alphabetic());
        let mut token = char_of(b' ').to_string();
        for letter in letters.chars() {
            let merge = format!("{token} {letter}");
            token.push(letter);
            if !tokens.contains(&token) {
                merges.push(merge);
                tokens.push(token.clone());
            }
        }
    }
    let tokenizer = |_| {
        Tokenizer::new(Tables {
            model: "gpt2",
            pre,
            n_tokens: tokens.len(),
            tokens: tokens.iter().map(|token| token.as_bytes()),
            scores: Vec::new(),
            types: Vec::new(),
            n_merges: merges.len(),
            merges: merges.iter().map(|merge| merge.as_bytes()),
            bos: None,
            eos: None,
            unk: None,
            ends: Vec::new(),
            add_bos: None,
            add_eos: None,
            add_space_prefix: None,
            strip_after_special: false,
        })
        .expect("the vocabulary is well formed")
    };
    let tokenizers = (0..N_TOKENIZERS).map(tokenizer).collect();
    let text = TEXT.repeat(2);
    Cut { tokenizers, ids: Vec::with_capacity(text.len()), text }
}

#[library_benchmark(setup = cut)]
#[bench::gpt_2("gpt-2")]
#[bench::llama_bpe("llama-bpe")]
fn tokenizer(mut cut: Cut) -> Cut {
    for tokenizer in &cut.tokenizers {
        cut.ids.clear();
        let done = tokenizer.tokenize(black_box(&cut.text), false, false, &mut cut.ids);
        done.expect("any text has ids");
    }
    cut
}

// --- a whole model -----------------------------------------------------------------------------

struct Step {
    session: Session,
    tokens: Vec<i32>,
}

/// A made model with a prompt in its cache, and the tokens to go on with.
fn step(n: usize) -> Step {
    let tiny = Tiny { dtype: DType::Q4_0, ..Tiny::new("llama") };
    let gguf = tiny.gguf();
    let params = ModelParams::default();
    let model = Model::load(Input::Memory(&gguf), &params, &mut |_, _| true);
    let model = Arc::new(model.expect("a made model loads"));
    // One thread: what waiting threads do depends on time.
    let params =
        SessionParams { n_ctx: 256, n_threads: 1, n_threads_batch: 1, ..SessionParams::default() };
    let mut session = Session::new(model, &params).expect("memory");
    let tokens = |n: i32| (0..n).map(|i| i * 7 % 256).collect::<Vec<_>>();
    let prompt = session.eval(&tokens(64), Logits::Last, &Control::default());
    prompt.expect("64 tokens fit in");
    // Once, so that what happens at the first token only is not counted.
    session.eval(&[1], Logits::Last, &Control::default()).expect("65 tokens fit in");
    Step { session, tokens: tokens(n as i32) }
}

#[library_benchmark(setup = step)]
#[bench::decode(1)]
#[bench::prefill(32)]
fn model(mut step: Step) -> Step {
    let done = step.session.eval(black_box(&step.tokens), Logits::Last, &Control::default());
    done.expect("the tokens fit in");
    step
}

library_benchmark_group!(
    name = all,
    benchmarks = [gemv, gemm, attention, sampler, tokenizer, model]
);
main!(
    config = LibraryBenchmarkConfig::default().tool(Callgrind::with_args(["--cache-sim=no"])),
    library_benchmark_groups = all
);
