//! What drafts save where the text repeats itself: the same tokens without them and with them.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use tern::engine::{
    Control, Logits, Model, Sampler, SamplerParams, Session, SessionInfo, SessionParams,
};
use tern::{Error, base::error::Sentence};

use super::super::args::{Failure, Result};
use super::super::{load, prompt};
use super::report::{Drafts, Measured, Runs, spread};

/// What a machine might write down again and again. No model has seen it, so that the only way to
/// guess its words is to look them up before.
const ENTRY: &str = "\
Round 7, north hall. Left the dock at 06:40 with both trays full and the battery at 93 percent. \
Doors 12, 14 and 15 opened at the first request; door 13 was blocked by two pallets and a green \
bin, so the route went past the workshop and took four minutes more. Delivered eleven boxes to \
shelf C and three to shelf F, where label 0482 could not be read. One person crossed in front of \
the loading ramp; stopped for six seconds, then went on. Wheel motor two reached 61 degrees on \
the slope and cooled down to 44 on the way back. Docked at 07:25 with 58 percent left. Please \
move the pallets, print the label again, and look after the left front wheel.\n";

/// The test, on sessions of its own.
pub(crate) struct Repeat<'a> {
    model: &'a Arc<Model>,
    tokens: Vec<i32>,
    n: usize,
    n_draft: u32,
}

/// One run.
struct Run {
    chosen: Vec<i32>,
    tok_s: f64,
    step_ns: Vec<u64>,
    info: SessionInfo,
}

impl Repeat<'_> {
    /// Generates `n` tokens after a text: that of a file, or one that repeats itself.
    pub(crate) fn new<'a>(
        model: &'a Arc<Model>,
        text: Option<&Path>,
        n: usize,
        n_draft: u32,
    ) -> Result<Repeat<'a>> {
        let text = match text {
            Some(path) => prompt::read_text(path)?,
            // Twice, and then as far as shows that it comes once more.
            None => [ENTRY, ENTRY, ENTRY.split_inclusive(". ").next().unwrap_or("")].concat(),
        };
        let tokens = prompt::raw(model, text.trim_end())?;
        if tokens.is_empty() {
            return Err(Failure::Usage("--text: expected some text".into()));
        }
        Ok(Repeat { model, tokens, n, n_draft })
    }

    /// Without drafts and with them, in alternation.
    pub(crate) fn measure(&self, n_threads: u32, n_runs: usize) -> Result<[Measured; 2]> {
        let params = SessionParams {
            n_ctx: (self.tokens.len() + self.n) as u32 + self.n_draft + 1,
            n_threads,
            n_threads_batch: n_threads,
            n_logits: self.n_draft + 1,
            ..SessionParams::default()
        };
        let mut session = load::session(self.model, &params)?;
        let last = self.tokens.len() - 1;
        if last > 0 {
            session.eval(&self.tokens[..last], Logits::None, &Control::default())?;
        }
        let mut runs = [Vec::new(), Vec::new()];
        for run in 0..=n_runs {
            for (n_draft, runs) in [0, self.n_draft].into_iter().zip(&mut runs) {
                let done = self.run(&mut session, n_draft)?;
                if run > 0 {
                    runs.push(done);
                }
            }
        }
        let [without, with] = &runs;
        let chosen = &without[0].chosen;
        if without.iter().chain(with).any(|run| run.chosen != *chosen) {
            return Err(Failure::Error(Error::Internal(Sentence::new(format_args!(
                "drafts changed the text that was generated"
            )))));
        }
        let test = format!("repeat-{}", self.n);
        let median =
            |runs: &[Run]| spread(&mut runs.iter().map(|run| run.tok_s).collect::<Vec<_>>()).1;
        let drafts = Drafts {
            n_drafted: with[0].info.n_drafted,
            n_accepted: with[0].info.n_accepted,
            speedup: median(with) / median(without),
        };
        let mut with = self.measured(format!("{test}+draft{}", self.n_draft), n_threads, with);
        with.drafts = Some(drafts);
        Ok([self.measured(test, n_threads, without), with])
    }

    fn run(&self, session: &mut Session, n_draft: u32) -> Result<Run> {
        let last = self.tokens.len() - 1;
        session.truncate(last as u32)?;
        session.eval(&self.tokens[last..], Logits::Last, &Control::default())?;
        let mut sampler = Sampler::new(&SamplerParams::default())?; // greedy
        let (mut chosen, mut step_ns) = (Vec::with_capacity(self.n), Vec::with_capacity(self.n));
        let mut part = vec![0; n_draft as usize + 1];
        let before = session.info();
        let start = Instant::now();
        while chosen.len() < self.n {
            let room = part.len().min(self.n - chosen.len());
            let step = Instant::now();
            let control = Control::default();
            let n = session.generate(&mut sampler, n_draft, &control, &mut part[..room])?;
            step_ns.push(step.elapsed().as_nanos() as u64);
            chosen.extend_from_slice(&part[..n]);
        }
        let tok_s = chosen.len() as f64 / start.elapsed().as_secs_f64();
        let mut info = session.info();
        info.n_drafted -= before.n_drafted;
        info.n_accepted -= before.n_accepted;
        Ok(Run { chosen, tok_s, step_ns, info })
    }

    fn measured(&self, test: String, n_threads: u32, runs: &[Run]) -> Measured {
        let tok_s = runs.iter().map(|run| run.tok_s).collect();
        let call_ns: Vec<u64> = runs.iter().flat_map(|run| &run.step_ns).copied().collect();
        // Each step reads all weights once.
        let reads = call_ns.len() as f64 / (self.n * runs.len()) as f64;
        let bytes = self.model.info().weight_bytes as f64 * reads;
        Runs { tok_s, call_ns, places: Vec::new() }.measured(test, n_threads, bytes)
    }
}
