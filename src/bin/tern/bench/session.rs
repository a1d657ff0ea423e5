//! The tests on one session: prefill, and decode, deep in a context or not, in company or not.

use std::time::Instant;

use tern::base::rng::Rng;
use tern::engine::{Control, KV_EVICTS_EVERY, Logits, Model, Sampler, SamplerParams, Session};

use super::super::args::Result;
use super::busy::Busy;
use super::report::{Measured, Runs, spread};

/// A session under test.
pub(crate) struct Bench<'a> {
    session: &'a mut Session,
    rng: Rng,
    n_threads: u32,
    /// Whether to say where the time goes.
    with_phases: bool,
    /// Each run of the decoding follows the one before: a cache with a budget keeps its depth by
    /// itself, and what has left it would not come back.
    goes_on: bool,
}

/// What evaluating a prompt gave.
pub(crate) struct Prefill {
    /// How fast.
    pub(crate) measured: Measured,
    /// From handing over the prompt to having chosen the first token of the answer.
    pub(crate) first_token_ms: f64,
}

impl Bench<'_> {
    /// Tests a session that evaluates with so many threads.
    pub(crate) fn new(session: &mut Session, n_threads: u32, with_phases: bool) -> Bench<'_> {
        Bench { session, rng: Rng::new(1), n_threads, with_phases, goes_on: false }
    }

    /// Evaluates `n` tokens at once, and chooses the next.
    pub(crate) fn prefill(&mut self, n: usize, n_runs: usize) -> Result<Prefill> {
        let mut sampler = Sampler::new(&SamplerParams::default())?;
        let (mut runs, mut first_ms) = (Runs::default(), Vec::new());
        for run in 0..=n_runs {
            let tokens = self.tokens(n);
            self.session.truncate(0)?;
            self.warm(run == 1);
            let start = Instant::now();
            self.session.eval(&tokens, Logits::Last, &Control::default())?;
            let eval = start.elapsed();
            self.session.sample(&mut sampler)?;
            let first = start.elapsed();
            if run > 0 {
                runs.tok_s.push(n as f64 / eval.as_secs_f64());
                runs.call_ns.push(eval.as_nanos() as u64);
                first_ms.push(first.as_secs_f64() * 1e3);
            }
        }
        // Each batch reads all weights once.
        let n_batches = n.div_ceil(self.session.info().n_batch.max(1) as usize);
        let reads = n_batches as f64 / n as f64;
        let mut measured = self.measured(format!("prefill-{n}"), runs, reads);
        let median = spread(&mut measured.tok_s.clone()).1;
        measured.gmac_s = Some(median * macs_per_token(self.session.model()) / 1e9);
        Ok(Prefill { measured, first_token_ms: spread(&mut first_ms).1 })
    }

    /// Evaluates `n` tokens one by one after `depth` tokens. With busy processes does so twice, in
    /// alternation: without them and with them.
    pub(crate) fn decode(
        &mut self,
        n: usize,
        depth: usize,
        n_runs: usize,
        n_busy: usize,
    ) -> Result<Vec<Measured>> {
        self.session.truncate(0)?;
        self.goes_on = self.session.info().kv_budget > 0;
        if depth > 0 {
            let tokens = self.tokens(depth);
            self.session.eval(&tokens, Logits::None, &Control::default())?;
        }
        let (mut alone, mut beside) = (Runs::default(), Runs::default());
        for run in 0..=n_runs {
            self.warm(run == 1);
            self.decode_once(n, depth, &mut alone)?;
            if n_busy > 0 {
                let _busy = Busy::start(n_busy)?;
                self.decode_once(n, depth, &mut beside)?;
            }
            if run == 0 {
                (alone, beside) = Default::default();
            }
        }
        let test = match depth {
            0 => format!("decode-{n}"),
            _ => format!("decode-{n}@{depth}"),
        };
        let alone = self.measured(test, alone, 1.0);
        if n_busy == 0 {
            return Ok(vec![alone]);
        }
        let mut beside = self.measured(format!("{}+{n_busy}busy", alone.test), beside, 1.0);
        beside.kept =
            Some(spread(&mut beside.tok_s.clone()).1 / spread(&mut alone.tok_s.clone()).1);
        Ok(vec![alone, beside])
    }

    fn decode_once(&mut self, n: usize, depth: usize, runs: &mut Runs) -> Result<()> {
        if !self.goes_on {
            self.session.truncate(depth as u32)?;
        }
        let tokens = self.tokens(n);
        if self.goes_on {
            let pos = self.session.info().pos;
            runs.places.extend((pos..).take(n).map(|pos| pos % KV_EVICTS_EVERY));
        }
        let start = Instant::now();
        for &token in &tokens {
            let call = Instant::now();
            self.session.eval(&[token], Logits::Last, &Control::default())?;
            runs.call_ns.push(call.elapsed().as_nanos() as u64);
        }
        runs.tok_s.push(n as f64 / start.elapsed().as_secs_f64());
        Ok(())
    }

    /// Everything has run once: from now on what takes how long counts.
    fn warm(&mut self, is_warm: bool) {
        if is_warm && self.with_phases {
            self.session.measure_phases();
        }
    }

    fn tokens(&mut self, n: usize) -> Vec<i32> {
        let n_vocab = u64::from(self.session.model().info().n_vocab).max(1);
        (0..n).map(|_| (self.rng.next_u64() % n_vocab) as i32).collect()
    }

    /// `reads` is how often the weights are read for each token.
    fn measured(&self, test: String, runs: Runs, reads: f64) -> Measured {
        let bytes = self.session.model().info().weight_bytes as f64 * reads;
        let phases = self.session.phase_times();
        Measured { phases, ..runs.measured(test, self.n_threads, bytes) }
    }
}

/// Multiplications by weights for each token of a prompt: those of the layers' matrices. The head
/// is applied to the last token only.
fn macs_per_token(model: &Model) -> f64 {
    let gguf = model.gguf();
    let macs = |name: &str, shape: &[u64; 4]| match name.starts_with("blk.") && shape[1] > 1 {
        true => shape.iter().product::<u64>() as f64,
        false => 0.0,
    };
    gguf.tensors().iter().map(|tensor| macs(tensor.name(gguf), &tensor.shape)).sum()
}
