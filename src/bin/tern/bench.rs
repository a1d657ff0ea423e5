//! `tern bench`: how fast, how soon, how much memory.
//!
//! Each test runs once to warm up and then as often as asked; the median is what counts, the least
//! and the most say how far to trust it. Tokens are random numbers from a fixed seed: speed does not
//! depend on what they say.

use std::sync::Arc;
use std::time::Instant;

use serde_json::{Value as Json, json};
use tern::base::rng::Rng;
use tern::engine::{Control, Logits, Model, Sampler, SamplerParams, Session, SessionParams};

use super::args::{Arg, Args, Common, Failure, Result, unexpected};
use super::output::{self, Progress};
use super::{load, roof};

/// What was asked for.
struct Plan {
    n_prompt: usize,
    n_decode: usize,
    n_threads: Vec<u32>,
    n_runs: usize,
    with_roof: bool,
}

/// One line of the result.
pub(crate) struct Measured {
    /// What was run, as in "prefill-512".
    pub(crate) test: String,
    /// Threads.
    pub(crate) n_threads: u32,
    /// Tokens per second of each run; empty where there are no tokens.
    pub(crate) tok_s: Vec<f64>,
    /// Gigabytes per second read from memory: of the median run, weights only.
    pub(crate) gb_s: f64,
    /// Nanoseconds of each call of eval.
    pub(crate) call_ns: Vec<u64>,
}

/// Runs the command.
pub(crate) fn command(args: &mut Args) -> Result<()> {
    let mut common = Common::default();
    let mut plan =
        Plan { n_prompt: 512, n_decode: 128, n_threads: Vec::new(), n_runs: 5, with_roof: false };
    while let Some(arg) = args.next()? {
        let Arg::Option(option) = &arg else { return unexpected(&arg) };
        match option.as_str() {
            "-p" | "--prompt" => plan.n_prompt = args.number(option, 0..=1 << 20)?,
            "-n" => plan.n_decode = args.number(option, 0..=1 << 20)?,
            "-r" | "--runs" => plan.n_runs = args.number(option, 1..=1000)?,
            "-t" | "--threads" => plan.n_threads = args.numbers(option, 1..=256)?,
            "--roof" => plan.with_roof = true,
            _ if option != "--threads-batch" && common.take(option, args)? => {}
            _ => return unexpected(&arg),
        }
    }
    if plan.n_threads.is_empty() {
        plan.n_threads.push(tern::base::cpu::performance_cores() as u32);
    }
    common.model()?;
    let mut results = Vec::new();
    let start = Instant::now();
    let model = load::model(&common)?;
    let load_ms = start.elapsed().as_secs_f64() * 1e3;
    let mut progress = Progress::new();
    let mut ttft_ms = f64::INFINITY;
    for &n_threads in &plan.n_threads {
        let mut session = session(&model, &common, &plan, n_threads)?;
        let mut bench = Bench { session: &mut session, rng: Rng::new(1), n_threads };
        if plan.n_prompt > 0 {
            progress.show(format!("{n_threads} threads: prefill"));
            let prefill = bench.prefill(plan.n_prompt, plan.n_runs)?;
            // The fastest number of threads is the one that a robot would use.
            ttft_ms = ttft_ms.min(bench.first_token_ms(plan.n_prompt, plan.n_runs)?);
            results.push(prefill);
        }
        if plan.n_decode > 0 {
            progress.show(format!("{n_threads} threads: decode"));
            results.push(bench.decode(plan.n_decode, plan.n_runs)?);
        }
    }
    let peak = peak_rss_bytes(); // before the roof takes a buffer of its own
    if plan.with_roof {
        progress.show("reading memory".into());
        for &n_threads in &plan.n_threads {
            results.push(roof::measure(n_threads, plan.n_runs)?);
        }
    }
    drop(progress);
    report(&common, &results, &model, peak, (load_ms, ttft_ms))
}

fn session(model: &Arc<Model>, common: &Common, plan: &Plan, n_threads: u32) -> Result<Session> {
    let needed = plan.n_prompt.max(plan.n_decode) as u32 + 1;
    let n_ctx = common.n_ctx.unwrap_or(needed);
    if n_ctx < needed && n_ctx != 0 {
        return Err(Failure::Usage(format!("--ctx {n_ctx}: expected {needed} at least")));
    }
    let params = SessionParams {
        n_ctx,
        n_threads,
        n_threads_batch: n_threads,
        ..load::session_params(common, model)
    };
    load::session(model, &params)
}

fn report(
    common: &Common,
    results: &[Measured],
    model: &Model,
    peak: Option<u64>,
    (load_ms, ttft_ms): (f64, f64),
) -> Result<()> {
    if common.json {
        let mut items: Vec<Json> = results.iter().map(Measured::json).collect();
        items.push(json!({
            "load_ms": load_ms,
            "ttft_ms": ttft_ms.is_finite().then_some(ttft_ms),
            "peak_rss_bytes": peak,
            "isa": model.isa().name(),
        }));
        return output::print_json(&Json::Array(items));
    }
    let mut text = String::from("test          threads      tok/s   (min .. max)         GB/s\n");
    for result in results {
        text.push_str(&result.line());
    }
    output::print(&text)?;
    let ttft = if ttft_ms.is_finite() { format!("{ttft_ms:.1} ms") } else { "-".into() };
    let peak = peak.map_or("-".into(), output::bytes);
    let isa = model.isa();
    output::print(&format!(
        "loaded in {load_ms:.0} ms, first token after {ttft}, peak memory {peak}, kernels {isa}\n"
    ))
}

/// The tests on one session.
struct Bench<'a> {
    session: &'a mut Session,
    rng: Rng,
    n_threads: u32,
}

impl Bench<'_> {
    /// Evaluates `n` tokens at once.
    fn prefill(&mut self, n: usize, n_runs: usize) -> Result<Measured> {
        let (mut tok_s, mut call_ns) = (Vec::new(), Vec::new());
        for run in 0..=n_runs {
            let ns = self.eval_prompt(n)?;
            if run > 0 {
                tok_s.push(n as f64 / (ns as f64 / 1e9));
                call_ns.push(ns);
            }
        }
        // Each batch reads all weights once.
        let n_batches = n.div_ceil(self.session.info().n_batch.max(1) as usize);
        Ok(self.measured(format!("prefill-{n}"), tok_s, call_ns, n_batches as f64 / n as f64))
    }

    /// Evaluates `n` tokens one by one, from the beginning of a context.
    fn decode(&mut self, n: usize, n_runs: usize) -> Result<Measured> {
        let (mut tok_s, mut call_ns) = (Vec::new(), Vec::new());
        for run in 0..=n_runs {
            self.session.truncate(0)?;
            let tokens = self.tokens(n);
            let start = Instant::now();
            for &token in &tokens {
                let call = Instant::now();
                self.session.eval(&[token], Logits::Last, &Control::default())?;
                if run > 0 {
                    call_ns.push(call.elapsed().as_nanos() as u64);
                }
            }
            if run > 0 {
                tok_s.push(n as f64 / start.elapsed().as_secs_f64());
            }
        }
        Ok(self.measured(format!("decode-{n}"), tok_s, call_ns, 1.0))
    }

    /// From handing over a prompt of `n` tokens to having chosen the first token of the answer.
    fn first_token_ms(&mut self, n: usize, n_runs: usize) -> Result<f64> {
        let mut sampler = Sampler::new(&SamplerParams::default())?;
        let mut ms = Vec::new();
        for _ in 0..n_runs {
            let ns = self.eval_prompt(n)?;
            let start = Instant::now();
            self.session.sample(&mut sampler)?;
            ms.push(ns as f64 / 1e6 + start.elapsed().as_secs_f64() * 1e3);
        }
        Ok(spread(&mut ms).1)
    }

    fn eval_prompt(&mut self, n: usize) -> Result<u64> {
        let tokens = self.tokens(n);
        self.session.truncate(0)?;
        let start = Instant::now();
        self.session.eval(&tokens, Logits::Last, &Control::default())?;
        Ok(start.elapsed().as_nanos() as u64)
    }

    fn tokens(&mut self, n: usize) -> Vec<i32> {
        let n_vocab = u64::from(self.session.model().info().n_vocab).max(1);
        (0..n).map(|_| (self.rng.next_u64() % n_vocab) as i32).collect()
    }

    /// `reads` is how often the weights are read for each token.
    fn measured(
        &self,
        test: String,
        mut tok_s: Vec<f64>,
        mut call_ns: Vec<u64>,
        reads: f64,
    ) -> Measured {
        let bytes = self.session.model().info().weight_bytes as f64 * reads;
        call_ns.sort_unstable();
        let gb_s = spread(&mut tok_s).1 * bytes / 1e9;
        Measured { test, n_threads: self.n_threads, tok_s, gb_s, call_ns }
    }
}

impl Measured {
    fn json(&self) -> Json {
        let (min, median, max) = spread(&mut self.tok_s.clone());
        let tok_s = match self.tok_s.is_empty() {
            true => Json::Null,
            false => json!({ "min": min, "median": median, "max": max }),
        };
        json!({
            "test": self.test,
            "threads": self.n_threads,
            "tok_s": tok_s,
            "gb_s": self.gb_s,
            "p50_us": self.percentile_us(50),
            "p99_us": self.percentile_us(99),
        })
    }

    fn line(&self) -> String {
        let (min, median, max) = spread(&mut self.tok_s.clone());
        let (test, n, gb_s) = (&self.test, self.n_threads, self.gb_s);
        if self.tok_s.is_empty() {
            return format!("{test:13} {n:7} {:46.1}\n", gb_s);
        }
        let range = format!("({min:.1} .. {max:.1})");
        format!("{test:13} {n:7} {median:10.1}   {range:20} {gb_s:9.1}\n")
    }

    /// The call that so many percent of the calls were not slower than, in microseconds.
    fn percentile_us(&self, percent: usize) -> Option<f64> {
        let rank = (self.call_ns.len() * percent).div_ceil(100).saturating_sub(1);
        self.call_ns.get(rank).map(|&ns| ns as f64 / 1e3)
    }
}

/// The least, the median and the most; sorts them. Zeros if there are none.
fn spread(values: &mut [f64]) -> (f64, f64, f64) {
    values.sort_unstable_by(f64::total_cmp);
    let at = |i: usize| values.get(i).copied().unwrap_or(0.0);
    let n = values.len();
    let median =
        if n % 2 == 1 { at(n / 2) } else { (at((n / 2).saturating_sub(1)) + at(n / 2)) / 2.0 };
    (at(0), median, at(n.saturating_sub(1)))
}

/// The most memory that the process has had, by the kernel's account.
fn peak_rss_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_and_percentiles() {
        assert_eq!(spread(&mut []), (0.0, 0.0, 0.0));
        assert_eq!(spread(&mut [3.0]), (3.0, 3.0, 3.0));
        assert_eq!(spread(&mut [4.0, 1.0]), (1.0, 2.5, 4.0));
        assert_eq!(spread(&mut [9.0, 1.0, 5.0]), (1.0, 5.0, 9.0));
        let call_ns: Vec<u64> = (1..=200).map(|i| i * 1000).collect();
        let measured =
            Measured { test: String::new(), n_threads: 1, tok_s: vec![], gb_s: 0.0, call_ns };
        assert_eq!(measured.percentile_us(50), Some(100.0));
        assert_eq!(measured.percentile_us(99), Some(198.0));
    }

    #[test]
    fn the_kernel_tells_the_peak() {
        assert!(peak_rss_bytes().is_some_and(|n| n > 1 << 20));
    }
}
