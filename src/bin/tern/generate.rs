//! The loop that generates: eval, sample, give out text, until something ends it.

use std::time::{Duration, Instant};

use tern::Error;
use tern::engine::{Logits, Sampler, Session, StreamDecoder};

use super::args::{Failure, Result};
use super::interrupt;

/// What ended the generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    /// The model: it gave a token that ends a text or a turn.
    End,
    /// The number of tokens that was asked for.
    Length,
    /// The KV cache is full.
    Context,
    /// Ctrl-C.
    Aborted,
}

impl Stop {
    /// The name that `--json` prints.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Stop::End => "eog",
            Stop::Length => "length",
            Stop::Context => "context",
            Stop::Aborted => "aborted",
        }
    }
}

/// What was generated, and how fast.
#[derive(Debug)]
pub(crate) struct Generated {
    /// Without the token that ended it.
    pub(crate) tokens: Vec<i32>,
    /// How many of them the session holds; the last may not have been evaluated.
    pub(crate) n_held: usize,
    /// The text of the tokens.
    pub(crate) text: String,
    /// What ended it.
    pub(crate) stop: Stop,
    /// Tokens of the prompt that were evaluated.
    pub(crate) n_prompt: usize,
    /// Evaluating the prompt.
    pub(crate) prefill: Duration,
    /// Evals of one token each.
    pub(crate) n_decode: usize,
    /// From the first sampled token to the end.
    pub(crate) decode: Duration,
}

impl Generated {
    /// Tokens per second of the prompt.
    pub(crate) fn prefill_tok_s(&self) -> Option<f64> {
        rate(self.n_prompt, self.prefill)
    }

    /// Tokens per second of what was generated after the first token.
    pub(crate) fn decode_tok_s(&self) -> Option<f64> {
        rate(self.n_decode, self.decode)
    }

    /// One line for people.
    pub(crate) fn stats(&self) -> String {
        let show = |rate: Option<f64>| rate.map_or("-".into(), |rate| format!("{rate:.1}"));
        format!(
            "[{} prompt tokens at {} tok/s, {} generated at {} tok/s, ended by {}]",
            self.n_prompt,
            show(self.prefill_tok_s()),
            self.tokens.len(),
            show(self.decode_tok_s()),
            self.stop.name()
        )
    }
}

fn rate(n: usize, time: Duration) -> Option<f64> {
    (n > 0 && !time.is_zero()).then(|| n as f64 / time.as_secs_f64())
}

/// Evaluates the prompt and generates at most `n_max` tokens after it. `sink` gets the text in whole
/// characters as it comes.
pub(crate) fn generate(
    session: &mut Session,
    sampler: &mut Sampler,
    prompt: &[i32],
    n_max: usize,
    sink: &mut dyn FnMut(&str) -> Result<()>,
) -> Result<Generated> {
    let guard = interrupt::guard();
    let control = guard.control();
    let mut out = Generated {
        tokens: Vec::new(),
        n_held: 0,
        text: String::new(),
        stop: Stop::Length,
        n_prompt: prompt.len(),
        prefill: Duration::ZERO,
        n_decode: 0,
        decode: Duration::ZERO,
    };
    let start = Instant::now();
    let info = session.info();
    // In spans, so that a session that evicts can take a prompt longer than its cache.
    let span = (info.n_ctx as usize / 4).max(1);
    for tokens in prompt.chunks(span) {
        match session.eval(tokens, Logits::Last, &control) {
            Ok(()) => {}
            Err(Error::Aborted(_)) => {
                session.truncate(info.pos)?;
                out.n_prompt = 0;
                out.stop = Stop::Aborted;
                return Ok(out);
            }
            Err(error) => return Err(Failure::Error(error)),
        }
    }
    for &token in prompt {
        sampler.accept(token);
    }
    out.prefill = start.elapsed();

    let start = Instant::now();
    let mut decoder = StreamDecoder::new();
    let model = session.model().clone();
    let tokenizer = model.tokenizer();
    while out.tokens.len() < n_max {
        let token = session.sample(sampler)?;
        if tokenizer.is_eog(token) {
            out.stop = Stop::End;
            break;
        }
        out.tokens.push(token);
        let piece = tokenizer.piece(token).unwrap_or(&[]); // empty for tokens of control
        give(&mut out.text, sink, |to| decoder.push(piece, to))?;
        if out.tokens.len() == n_max {
            break; // its logits are not wanted
        }
        match session.eval(&[token], Logits::Last, &control) {
            Ok(()) => {
                out.n_held += 1;
                out.n_decode += 1;
            }
            Err(Error::Aborted(_)) => {
                out.stop = Stop::Aborted;
                break;
            }
            Err(Error::KvFull(_)) => {
                out.stop = Stop::Context;
                break;
            }
            Err(error) => return Err(Failure::Error(error)),
        }
    }
    give(&mut out.text, sink, |to| decoder.flush(to))?;
    out.decode = start.elapsed();
    Ok(out)
}

/// Passes on what a decoder gives: to the whole text, and to the sink.
fn give(
    text: &mut String,
    sink: &mut dyn FnMut(&str) -> Result<()>,
    decode: impl FnOnce(&mut dyn FnMut(&str)),
) -> Result<()> {
    let start = text.len();
    decode(&mut |part| text.push_str(part));
    match &text[start..] {
        "" => Ok(()),
        part => sink(part),
    }
}
