//! A case: a file, how it is used, and what that must lead to.

use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::counting::peak_bytes;
use crate::support::gguf_writer::GgufWriter;
use crate::support::guarded::Guarded;
use crate::support::parsed::use_all;
use tern::base::file::Source;
use tern::engine::{
    Control, Error, Gguf, Input, Logits, Message, Model, ModelParams, Sampler, SamplerParams,
    Session, SessionParams,
};

/// What a file must lead to.
#[derive(Clone, Debug)]
pub(crate) enum Outcome {
    /// It does all that it is asked for.
    Works,
    /// The error's C name without "TERN_ERROR_", and the part of its sentence that says where.
    Fails(&'static str, String),
}
pub(crate) use Outcome::Works;

/// An error of this code, whose sentence names this place.
pub(crate) fn fails(code: &'static str, part: impl Into<String>) -> Outcome {
    Outcome::Fails(code, part.into())
}

/// How a case uses its file.
pub(crate) type Use = Box<dyn Fn(&[u8]) -> Result<(), Error> + Send>;

pub(crate) struct Case {
    /// Unique in the whole corpus.
    pub(crate) name: String,
    pub(crate) file: Vec<u8>,
    pub(crate) expected: Outcome,
    pub(crate) using: Use,
}

/// A file, written.
pub(crate) trait Bytes {
    fn bytes(self) -> Vec<u8>;
}
impl Bytes for GgufWriter {
    fn bytes(self) -> Vec<u8> {
        self.write()
    }
}
impl Bytes for Vec<u8> {
    fn bytes(self) -> Vec<u8> {
        self
    }
}

/// A file that is loaded and generates.
pub(crate) fn case(name: impl Into<String>, file: impl Bytes, expected: Outcome) -> Case {
    using(generate, name, file, expected)
}

/// A file that need not be a model; its container is read, and everything in it is used.
pub(crate) fn container(name: impl Into<String>, file: impl Bytes, expected: Outcome) -> Case {
    using(parse, name, file, expected)
}

/// A file that is used in this way.
pub(crate) fn using(
    f: impl Fn(&[u8]) -> Result<(), Error> + Send + 'static,
    name: impl Into<String>,
    file: impl Bytes,
    expected: Outcome,
) -> Case {
    Case { name: name.into(), file: file.bytes(), expected, using: Box::new(f) }
}

/// Bytes of stack that a caller of tern needs at most.
const STACK: usize = 256 << 10;
/// Longer than any case takes on a slow machine, and shorter than what loops without end.
pub(crate) const MOST: Duration = Duration::from_secs(60);
/// Bytes that using a file may take beyond its length.
pub(crate) const MOST_MEMORY: usize = 64 << 20;

/// Runs every case, each on a thread of its own with a small stack, and collects what went another
/// way. Says how long the slowest took, and how much memory beyond its file the largest.
pub(crate) fn check(class: &str, cases: Vec<Case>) {
    let mut wrong = Vec::new();
    let (mut slowest, mut largest) = ((Duration::ZERO, String::new()), (0, String::new()));
    let n = cases.len();
    for Case { name, file, expected, using } in cases {
        let (send, receive) = mpsc::channel();
        let file_len = file.len();
        let work = move || {
            let start = Instant::now();
            let mut place = Guarded::new();
            let file = place.hold(&file);
            let (result, peak) = peak_bytes(|| using(file));
            send.send((result, peak, start.elapsed()))
        };
        let thread = thread::Builder::new().stack_size(STACK).spawn(work).expect("a thread");
        let (result, peak, time) = match receive.recv_timeout(MOST) {
            Ok(result) => result,
            Err(mpsc::RecvTimeoutError::Timeout) => panic!("{name}: still running"),
            Err(mpsc::RecvTimeoutError::Disconnected) => {
                drop(thread.join());
                wrong.push(format!("{name}: a panic, expected {expected:?}"));
                continue;
            }
        };
        let beyond = peak.saturating_sub(file_len);
        if beyond > MOST_MEMORY {
            wrong.push(format!("{name}: {peak} bytes of memory for a file of {file_len}"));
        }
        slowest = slowest.max((time, name.clone()));
        largest = largest.max((beyond, name.clone()));
        match (result, &expected) {
            (Ok(()), Works) => {}
            (Err(e), Outcome::Fails(code, part))
                if e.name() == format!("TERN_ERROR_{code}") && e.message().contains(part) => {}
            (Ok(()), expected) => wrong.push(format!("{name}: works, expected {expected:?}")),
            (Err(e), expected) => wrong.push(format!("{name}: {e}, expected {expected:?}")),
        }
    }
    println!(
        "{class}: {n} cases; {} took {:.1} ms, {} {} KiB beyond its file",
        slowest.1,
        slowest.0.as_secs_f64() * 1e3,
        largest.1,
        largest.0 >> 10
    );
    assert!(wrong.is_empty(), "{} of {n} cases:\n{}", wrong.len(), wrong.join("\n"));
}

pub(crate) fn load(file: &[u8]) -> Result<Arc<Model>, Error> {
    Model::load(Input::Memory(file), &ModelParams::default(), &mut |_, _| true).map(Arc::new)
}

/// Reads a container, and uses all that it offers. A model says the same of what is wrong with it.
pub(crate) fn parse(file: &[u8]) -> Result<(), Error> {
    match Gguf::parse(&Source::from_memory(file)) {
        Ok(gguf) => {
            use_all("container", &gguf, file);
            Ok(())
        }
        Err(e) => {
            assert_eq!(load(file).err().as_ref(), Some(&e), "parse and load");
            Err(e)
        }
    }
}

/// Loads a file, and generates. A plan, which reads the header only, comes to the same end.
pub(crate) fn generate(file: &[u8]) -> Result<(), Error> {
    let params = SessionParams { n_ctx: 128, n_threads: 1, ..SessionParams::default() };
    let plan = Model::plan(Input::Memory(file), &ModelParams::default(), &params);
    let loaded = load(file);
    if let Ok(plan) = &plan {
        // Weights and buffers lie in mappings, which the counting allocator does not see.
        let most = (file.len() + MOST_MEMORY) as u64;
        assert!(plan.total_bytes <= most, "{} bytes for {}", plan.total_bytes, file.len());
    }
    match (plan.map(|_| ()), loaded.as_ref().map(|_| ())) {
        (Ok(()), Ok(()) | Err(Error::BadWeights(_))) => {}
        (plan, loaded) => assert_eq!(plan.err().as_ref(), loaded.err(), "plan and load"),
    }
    let model = loaded?;
    let tokenizer = model.tokenizer();
    let (mut tokens, mut text) = (Vec::new(), Vec::new());
    tokenizer.tokenize("The t\u{1f980}\u{e9}\0\n<0x0A> <eos>", true, true, &mut tokens)?;
    tokenizer.detokenize(&tokens, &mut text)?;
    if tokens.is_empty() {
        tokens.push(0); // a vocabulary that has no token for any of that
    }
    let mut session = Session::new(Arc::clone(&model), &params)?;
    let mut sampler = Sampler::new(&SamplerParams::default())?;
    session.eval(&tokens, Logits::Last, &Control::default())?;
    for _ in 0..4 {
        let token = session.sample(&mut sampler)?;
        // Minus infinity bans its token; sums of the largest weights can come to that.
        let bad = session.logits()?.iter().find(|x| x.is_nan() || **x == f32::INFINITY);
        assert!(bad.is_none(), "a token was chosen by a logit of {bad:?}");
        tokenizer.detokenize(&[token], &mut text)?;
        session.eval(&[token], Logits::Last, &Control::default())?;
    }
    Ok(())
}

/// Loads a file, and formats a chat by its template.
pub(crate) fn format_chat(file: &[u8]) -> Result<(), Error> {
    let model = load(file)?;
    let messages = [
        Message { role: "system", content: "Be brief." },
        Message { role: "user", content: "{{ 7 * 7 }} {% raw %} \u{1f980}" },
    ];
    let mut out = String::new();
    model.chat_format(&messages, true, &mut out)?;
    assert!(out.len() <= 4 << 20, "{} bytes of output", out.len());
    Ok(())
}
