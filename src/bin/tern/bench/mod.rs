//! `tern bench`: how fast, how soon, how much memory.
//!
//! Each test runs once to warm up and then as often as asked; the median is what counts, the least
//! and the most say how far to trust it. Tokens are random numbers from a fixed seed: speed does not
//! depend on what they say.

mod busy;
mod compare;
mod drafts;
mod report;
mod roof;
mod screened;
mod session;

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use serde_json::{Value as Json, json};
use tern::engine::{Model, Session, SessionParams};

use self::compare::Peer;
use self::drafts::Repeat;
use self::report::{HEADING, Measured};
use self::roof::Roof;
use self::screened::Greedy;
use self::session::Bench;
use super::args::{Arg, Args, Common, Failure, Result, unexpected};
use super::generate::MOST_DRAFTED;
use super::load;
use super::memory;
use super::output::{self, Progress};

/// What was asked for.
struct Plan {
    n_prompt: usize,
    n_decode: usize,
    /// Tokens in the cache before the decoding, if anybody says.
    depths: Option<Vec<u32>>,
    n_threads: Vec<u32>,
    n_runs: usize,
    /// Busy processes beside the decoding.
    n_busy: usize,
    with_roof: bool,
    /// Whether to say where the time goes.
    with_phases: bool,
    /// Tokens to draft for each step, in a test of its own; 0: no such test.
    n_draft: u32,
    /// The text that is gone on with there, if anybody says.
    text: Option<PathBuf>,
}

impl Plan {
    fn depths(&self) -> &[u32] {
        self.depths.as_deref().unwrap_or(&[0])
    }
}

impl Default for Plan {
    fn default() -> Plan {
        Plan {
            n_prompt: 512,
            n_decode: 128,
            depths: None,
            n_threads: Vec::new(),
            n_runs: 5,
            n_busy: 0,
            with_roof: false,
            with_phases: false,
            n_draft: 0,
            text: None,
        }
    }
}

/// Runs the command.
pub(crate) fn command(args: &mut Args) -> Result<()> {
    let mut common = Common::default();
    let mut plan = Plan::default();
    let (mut with_peer, mut peer) = (false, Peer::default());
    while let Some(arg) = args.next()? {
        let Arg::Option(option) = &arg else { return unexpected(&arg) };
        match option.as_str() {
            "-p" | "--prompt" => plan.n_prompt = args.number(option, 0..=1 << 20)?,
            "-n" => plan.n_decode = args.number(option, 0..=1 << 20)?,
            "-d" | "--depth" => plan.depths = Some(args.numbers(option, 0..=1 << 20)?),
            "-r" | "--runs" => plan.n_runs = args.number(option, 1..=1000)?,
            "-t" | "--threads" => plan.n_threads = args.numbers(option, 1..=256)?,
            "--busy" => plan.n_busy = args.number(option, 0..=256)?,
            "--roof" => plan.with_roof = true,
            "--phases" => plan.with_phases = true,
            "--draft" => plan.n_draft = args.number(option, 1..=MOST_DRAFTED)?,
            "--text" => plan.text = Some(args.path()?),
            "--compare" => with_peer = true,
            "--peer" => peer.command = Some(args.text()?),
            "--peer-model" => peer.model = Some(args.path()?.into()),
            busy::OPTION => {
                busy::spin();
                return Ok(());
            }
            _ if option != "--threads-batch" && common.take(option, args)? => {}
            _ => return unexpected(&arg),
        }
    }
    if plan.n_threads.is_empty() {
        plan.n_threads.push(tern::base::cpu::performance_cores() as u32);
    }
    common.model()?;
    match (with_peer, plan.with_roof) {
        (false, _) if peer.command.is_some() || peer.model.is_some() => {
            Err(Failure::Usage("--peer and --peer-model are options of --compare".into()))
        }
        (false, _) if plan.text.is_some() && plan.n_draft == 0 => {
            Err(Failure::Usage("--text is an option of --draft".into()))
        }
        (true, _) if plan.n_draft > 0 => {
            Err(Failure::Usage("--compare and --draft exclude each other".into()))
        }
        (false, _) if plan.with_phases && plan.n_busy > 0 => {
            Err(Failure::Usage("--busy and --phases exclude each other".into()))
        }
        (false, _) => measure(&common, &plan),
        (true, _) if plan.with_phases => {
            Err(Failure::Usage("--compare and --phases exclude each other".into()))
        }
        (true, false) => compare::command(&common, &plan, &peer),
        (true, true) => Err(Failure::Usage("--compare and --roof exclude each other".into())),
    }
}

/// Runs the tests in this process, and reports.
fn measure(common: &Common, plan: &Plan) -> Result<()> {
    let mut results = Vec::new();
    let mut roofs = Vec::new();
    let start = Instant::now();
    let model = load::model(common)?;
    let load_ms = start.elapsed().as_secs_f64() * 1e3;
    let mut progress = Progress::new();
    let mut ttft_ms = f64::INFINITY;
    let mut peak = Peak::default();
    let repeat = match plan.n_draft {
        0 => None,
        n => Some(Repeat::new(&model, plan.text.as_deref(), plan.n_decode, n)?),
    };
    for &n_threads in &plan.n_threads {
        let first = results.len();
        let mut session = new_session(&model, common, plan, n_threads)?;
        let mut bench = Bench::new(&mut session, n_threads, plan.with_phases);
        if plan.n_prompt > 0 {
            progress.show(format!("{n_threads} threads: prefill"));
            let prefill = bench.prefill(plan.n_prompt, plan.n_runs)?;
            // The fastest number of threads is the one that a robot would use.
            ttft_ms = ttft_ms.min(prefill.first_token_ms);
            results.push(prefill.measured);
        }
        // The roof before the decoding and after it: on a machine that others use, too, it moves.
        let mut roof = Roof::new(n_threads, model.isa());
        peak.without(plan.with_roof, || roof.measure(plan.n_runs))?;
        if plan.n_decode > 0 {
            for &depth in plan.depths() {
                progress.show(format!("{n_threads} threads: decode at {depth}"));
                let depth = depth as usize;
                results.extend(bench.decode(plan.n_decode, depth, plan.n_runs, plan.n_busy)?);
            }
        }
        if let Some(repeat) = repeat.as_ref().filter(|_| plan.n_decode > 0) {
            progress.show(format!("{n_threads} threads: drafts"));
            results.extend(repeat.measure(n_threads, plan.n_runs)?);
        }
        if model.info().screened_head && plan.n_decode > 0 {
            progress.show(format!("{n_threads} threads: screened head"));
            results.extend(Greedy::new(&model, plan.n_decode)?.measure(n_threads, plan.n_runs)?);
        }
        peak.without(plan.with_roof, || roof.measure(plan.n_runs))?;
        if plan.with_roof {
            results[first..].iter_mut().for_each(|result| roof.over(result));
            roofs.push(roof.measured());
        }
    }
    peak.look();
    drop(progress);
    results.append(&mut roofs);
    report(common, &results, &model, peak.bytes, (load_ms, ttft_ms))
}

fn new_session(
    model: &Arc<Model>,
    common: &Common,
    plan: &Plan,
    n_threads: u32,
) -> Result<Session> {
    let depth = plan.depths().iter().copied().max().unwrap_or(0);
    let needed = (plan.n_prompt as u32).max(depth + plan.n_decode as u32) + 1;
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
    let mut text = String::from(HEADING);
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

/// The most memory that the process has had, leaving out what only the measuring takes.
#[derive(Default)]
struct Peak {
    bytes: Option<u64>,
    /// The kernel's account has something in it that does not count, and cannot be begun anew.
    is_spoilt: bool,
}

impl Peak {
    /// Does something of which the memory does not count; nothing if not `wanted`.
    fn without(&mut self, wanted: bool, work: impl FnOnce() -> Result<()>) -> Result<()> {
        if !wanted {
            return Ok(());
        }
        self.look();
        work()?;
        // "5" sets the account back to what the process has now (proc(5)).
        self.is_spoilt |= fs::write("/proc/self/clear_refs", "5").is_err();
        Ok(())
    }

    /// Asks the kernel.
    fn look(&mut self) {
        if !self.is_spoilt {
            self.bytes = self.bytes.max(memory::peak_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_only_the_measuring_takes_is_not_in_the_peak() {
        let mut peak = Peak::default();
        peak.without(true, || {
            std::hint::black_box(vec![1u8; 256 << 20]);
            Ok(())
        })
        .unwrap();
        peak.look();
        assert!(peak.bytes.is_some_and(|n| n < 256 << 20), "{:?}", peak.bytes);
    }
}
