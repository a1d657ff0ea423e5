//! What a screened head saves: greedy text with the whole head and without it, in alternation.

use std::sync::Arc;
use std::time::Instant;

use tern::engine::{Control, Logits, Model, Sampler, SamplerParams, Session, SessionParams};
use tern::{Error, base::error::Sentence};

use super::super::args::{Failure, Result};
use super::super::{load, prompt};
use super::report::{Measured, Runs, Screened};

/// What the text begins with. It must be text: how many rows of a head may be the best depends on
/// what a model has to say.
const BEGINNING: &str = "The robot left the dock in the morning and drove through the north hall. \
                         Then it";

/// The test, on sessions of its own.
pub(crate) struct Greedy<'a> {
    model: &'a Arc<Model>,
    tokens: Vec<i32>,
    n: usize,
}

impl Greedy<'_> {
    /// Generates `n` tokens.
    pub(crate) fn new(model: &Arc<Model>, n: usize) -> Result<Greedy<'_>> {
        Ok(Greedy { model, tokens: prompt::raw(model, BEGINNING)?, n })
    }

    /// With the whole head and without, in alternation.
    pub(crate) fn measure(&self, n_threads: u32, n_runs: usize) -> Result<[Measured; 2]> {
        let n_ctx = (self.tokens.len() + self.n) as u32;
        let params =
            SessionParams { n_ctx, n_threads, n_threads_batch: n_threads, ..Default::default() };
        let mut session = load::session(self.model, &params)?;
        let (mut whole, mut screened) = (Runs::default(), Runs::default());
        let mut share = 0.0;
        for run in 0..=n_runs {
            let expected = self.run(&mut session, Logits::Last, &mut whole)?;
            let before = session.n_screened();
            let chosen = self.run(&mut session, Logits::Best, &mut screened)?;
            share = (session.n_screened() - before) as f64 / self.n as f64;
            if chosen != expected {
                return Err(Failure::Error(Error::Internal(Sentence::new(format_args!(
                    "screening the head changed the text that was generated"
                )))));
            }
            if run == 0 {
                (whole, screened) = Default::default();
            }
        }
        let speedup = screened.median() / whole.median();
        let test = format!("greedy-{}", self.n);
        // Of a screened head it is not known how many weights were read.
        let screened = Measured {
            screened: Some(Screened { share, speedup }),
            ..screened.measured(format!("{test}+screened"), n_threads, 0.0)
        };
        let bytes = self.model.info().weight_bytes as f64;
        let whole = whole.measured(test, n_threads, bytes);
        Ok([whole, screened])
    }

    fn run(&self, session: &mut Session, logits: Logits<'_>, runs: &mut Runs) -> Result<Vec<i32>> {
        session.truncate(0)?;
        session.eval(&self.tokens, Logits::Last, &Control::default())?;
        let mut sampler = Sampler::new(&SamplerParams::default())?; // greedy
        let mut chosen = Vec::with_capacity(self.n);
        let start = Instant::now();
        while chosen.len() < self.n {
            let call = Instant::now();
            let token = session.sample(&mut sampler)?;
            session.eval(&[token], logits, &Control::default())?;
            runs.call_ns.push(call.elapsed().as_nanos() as u64);
            chosen.push(token);
        }
        runs.tok_s.push(self.n as f64 / start.elapsed().as_secs_f64());
        Ok(chosen)
    }
}
