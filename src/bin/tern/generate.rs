//! The loop that generates: eval, sample, give out text, until something ends it. With drafts
//! several tokens come of one eval where the text repeats itself, and they are the same tokens.

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
    /// How many of them were evaluated, and the session holds: all, or all but the last.
    pub(crate) n_held: usize,
    /// The text of the tokens.
    pub(crate) text: String,
    /// What ended it.
    pub(crate) stop: Stop,
    /// Tokens of the prompt that were evaluated.
    pub(crate) n_prompt: usize,
    /// Evaluating the prompt.
    pub(crate) prefill: Duration,
    /// From the first sampled token to the end.
    pub(crate) decode: Duration,
    /// Tokens drafted.
    pub(crate) n_drafted: u64,
    /// Those of them that were chosen.
    pub(crate) n_accepted: u64,
}

impl Generated {
    /// Tokens per second of the prompt.
    pub(crate) fn prefill_tok_s(&self) -> Option<f64> {
        rate(self.n_prompt, self.prefill)
    }

    /// Tokens per second of what was generated after the first token.
    pub(crate) fn decode_tok_s(&self) -> Option<f64> {
        rate(self.n_held, self.decode)
    }

    /// One line for people.
    pub(crate) fn stats(&self) -> String {
        let show = |rate: Option<f64>| rate.map_or("-".into(), |rate| format!("{rate:.1}"));
        let drafts = match self.n_drafted {
            0 => String::new(),
            n => format!(" ({} of {n} drafted accepted)", self.n_accepted),
        };
        format!(
            "[{} prompt tokens at {} tok/s, {} generated at {} tok/s{drafts}, ended by {}]",
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

/// Tokens that may be drafted for each step.
pub(crate) const MOST_DRAFTED: u32 = 63;

/// How much to generate, and with what help.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Amount {
    /// Tokens at most.
    pub(crate) n_max: usize,
    /// Tokens to draft at most for each step; less than the session's rows of logits.
    pub(crate) n_draft: u32,
}

/// Evaluates the prompt and generates tokens after it. `sink` gets the text in whole characters as it
/// comes.
pub(crate) fn generate(
    session: &mut Session,
    sampler: &mut Sampler,
    prompt: &[i32],
    Amount { n_max, n_draft }: Amount,
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
        decode: Duration::ZERO,
        n_drafted: 0,
        n_accepted: 0,
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
    let n_draft = n_draft.min(info.n_ctx.saturating_sub(1)); // as many rows of logits there are
    let mut chosen = vec![0; n_draft as usize + 1];
    'text: while out.tokens.len() < n_max {
        let left = n_max - out.tokens.len();
        // How many were chosen, and what came of evaluating them if that is done.
        let (n, evaluated) = if n_draft > 0 {
            let room = chosen.len().min(left);
            match session.generate(sampler, n_draft, &control, &mut chosen[..room]) {
                Ok(n) => (n, Some(Ok(()))),
                Err(full @ Error::KvFull(_)) => (1, Some(Err(full))), // one was chosen
                Err(Error::Aborted(_)) => {
                    out.stop = Stop::Aborted;
                    break;
                }
                Err(error) => return Err(Failure::Error(error)),
            }
        } else {
            chosen[0] = session.sample(sampler)?;
            (1, None)
        };
        let is_held = matches!(evaluated, Some(Ok(())));
        for &token in &chosen[..n] {
            if tokenizer.is_eog(token) {
                if is_held {
                    session.truncate(session.info().pos - 1)?; // nothing is drafted after it
                }
                out.stop = Stop::End;
                break 'text;
            }
            out.tokens.push(token);
            out.n_held += usize::from(is_held);
            let piece = tokenizer.piece(token).unwrap_or(&[]); // empty for tokens of control
            give(&mut out.text, sink, |to| decoder.push(piece, to))?;
        }
        let evaluated = match evaluated {
            Some(evaluated) => evaluated,
            None if left == 1 => break, // its logits are not wanted
            None => session.eval(&chosen[..1], Logits::Last, &control),
        };
        match evaluated {
            Ok(()) => out.n_held = out.tokens.len(),
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
    let now = session.info();
    out.n_drafted = now.n_drafted - info.n_drafted;
    out.n_accepted = now.n_accepted - info.n_accepted;
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
