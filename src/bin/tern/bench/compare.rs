//! `tern bench --compare`: this engine and llama.cpp side by side.
//!
//! Both run as processes of their own, in turns: one run of the one, one run of the other, and the
//! other way round the next time. So whatever else the machine does meets both alike, and neither
//! has the other's memory or threads beside it. Every process warms up before it measures.

use std::ffi::OsString;
use std::io;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Instant;

use serde_json::{Value as Json, json};
use tern::Error;
use tern::base::error::Sentence;
use tern::base::file::Source;

use tern::engine::{Gguf, LoadMode, vocab};

use super::super::args::{Common, Failure, Result, io_error};
use super::super::output::{self, Progress};
use super::Plan;
use super::busy::Busy;
use super::report::spread;

/// Where the peer is found unless somebody says.
const DEFAULT_PEER: &str = "llama-bench";

/// Depth that decoding is compared at, besides 0, unless somebody says.
const DEFAULT_DEPTH: u32 = 4096;

/// Tokens of the prompt of the test of a whole process.
const FIRST_TOKEN_PROMPT: usize = 8;

/// What the options of the command line say about the peer.
#[derive(Default)]
pub(crate) struct Peer {
    /// The command: words with spaces between them.
    pub(crate) command: Option<String>,
    /// The model's file as the peer sees it, if it is not where this process sees it.
    pub(crate) model: Option<OsString>,
}

/// What is run.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Prefill(usize),
    Decode {
        n: usize,
        depth: u32,
        n_busy: usize,
    },
    /// The whole process, from its start to its end: loading, a prompt of 8 tokens, one token.
    FirstToken,
}

/// One line of the result: each pair is a run of this engine and one of the peer.
struct Row {
    kind: Kind,
    n_threads: u32,
    pairs: Vec<(f64, f64)>,
    /// What of the speed is left beside busy processes.
    kept: Option<(f64, f64)>,
}

/// Compares, and reports.
pub(crate) fn command(common: &Common, plan: &Plan, peer: &Peer) -> Result<()> {
    let kinds = kinds(plan);
    let mut runner = Runner::new(common, peer)?;
    let mut progress = Progress::new();
    // Brings both programs and the file into the page cache, and tells early what is missing.
    runner.pair(Kind::FirstToken, 1, false)?;
    let mut rows: Vec<Row> = Vec::new();
    for &n_threads in &plan.n_threads {
        let first = rows.len();
        for &kind in &kinds {
            let mut row = Row { kind, n_threads, pairs: Vec::new(), kept: None };
            for run in 0..plan.n_runs {
                let test = kind.name();
                progress.show(format!(
                    "{n_threads} threads: {test}: {} of {}",
                    run + 1,
                    plan.n_runs
                ));
                row.pairs.push(runner.pair(kind, n_threads, run % 2 == 1)?);
            }
            row.kept = row.kept(&rows[first..]);
            rows.push(row);
        }
    }
    drop(progress);
    report(common, &rows, &runner, plan.n_runs)
}

/// The tests that the options ask for.
fn kinds(plan: &Plan) -> Vec<Kind> {
    let mut kinds = Vec::new();
    let n = plan.n_decode;
    if plan.n_prompt > 0 {
        kinds.push(Kind::Prefill(plan.n_prompt));
    }
    if n > 0 {
        let depths = plan.depths.as_deref().unwrap_or(&[0, DEFAULT_DEPTH]);
        kinds.extend(depths.iter().map(|&depth| Kind::Decode { n, depth, n_busy: 0 }));
        if plan.n_busy > 0 {
            kinds.push(Kind::Decode { n, depth: depths[0], n_busy: plan.n_busy });
        }
    }
    if plan.n_prompt > 0 {
        kinds.push(Kind::FirstToken);
    }
    kinds
}

impl Kind {
    /// The test's name, as `tern bench` without a peer has it.
    fn name(self) -> String {
        match self {
            Kind::Prefill(n) => format!("prefill-{n}"),
            Kind::Decode { n, depth, n_busy } => {
                let depth = if depth > 0 { format!("@{depth}") } else { String::new() };
                let busy = if n_busy > 0 { format!("+{n_busy}busy") } else { String::new() };
                format!("decode-{n}{depth}{busy}")
            }
            Kind::FirstToken => format!("first-token-{FIRST_TOKEN_PROMPT}"),
        }
    }

    /// Whether less is better.
    fn is_time(self) -> bool {
        self == Kind::FirstToken
    }
}

impl Row {
    /// The least, the median and the most of this engine or of the peer.
    fn spread(&self, of: impl Fn(&(f64, f64)) -> f64) -> (f64, f64, f64) {
        spread(&mut self.pairs.iter().map(of).collect::<Vec<_>>())
    }

    /// How many times better than the peer: of the medians, and of the worst and the best pair.
    fn ratios(&self) -> (f64, f64, f64) {
        let better = |(tern, peer): &(f64, f64)| match self.kind.is_time() {
            true => peer / tern,
            false => tern / peer,
        };
        let (worst, _, best) = self.spread(better);
        let medians = (self.spread(|pair| pair.0).1, self.spread(|pair| pair.1).1);
        (worst, better(&medians), best)
    }

    /// What is left of the speed of the same test alone, which is among `rows`.
    fn kept(&self, rows: &[Row]) -> Option<(f64, f64)> {
        let Kind::Decode { n, depth, n_busy: 1.. } = self.kind else { return None };
        let alone = rows.iter().find(|row| row.kind == Kind::Decode { n, depth, n_busy: 0 })?;
        let part = |of: fn(&(f64, f64)) -> f64| self.spread(of).1 / alone.spread(of).1;
        Some((part(|pair| pair.0), part(|pair| pair.1)))
    }

    fn json(&self) -> Json {
        let object = |(min, median, max)| json!({ "min": min, "median": median, "max": max });
        let (worst, ratio, best) = self.ratios();
        json!({
            "test": self.kind.name(),
            "threads": self.n_threads,
            "unit": if self.kind.is_time() { "ms" } else { "tok_s" },
            "tern": object(self.spread(|pair| pair.0)),
            "peer": object(self.spread(|pair| pair.1)),
            "ratio": ratio,
            "ratio_min": worst,
            "ratio_max": best,
            "tern_kept": self.kept.map(|kept| kept.0),
            "peer_kept": self.kept.map(|kept| kept.1),
        })
    }

    fn line(&self) -> String {
        let (worst, ratio, best) = self.ratios();
        let unit = if self.kind.is_time() { "ms" } else { "tok/s" };
        let kept = self.kept.map_or_else(String::new, |(tern, peer)| {
            format!("   kept {:.0} %, peer {:.0} %", tern * 100.0, peer * 100.0)
        });
        format!(
            "{:21} {:7} {:>10.1} {:>10.1} {unit:6} {ratio:5.2}   ({worst:.2} .. {best:.2}){kept}\n",
            self.kind.name(),
            self.n_threads,
            self.spread(|pair| pair.0).1,
            self.spread(|pair| pair.1).1,
        )
    }
}

fn report(common: &Common, rows: &[Row], runner: &Runner, n_runs: usize) -> Result<()> {
    if common.json {
        let mut items: Vec<Json> = rows.iter().map(Row::json).collect();
        items.push(json!({ "runs": n_runs, "isa": runner.isa, "peer": runner.build }));
        return output::print_json(&Json::Array(items));
    }
    let mut text = String::from(
        "test                  threads       tern       peer         ratio   (of the pairs)\n",
    );
    rows.iter().for_each(|row| text.push_str(&row.line()));
    output::print(&text)?;
    let (isa, build) = (&runner.isa, &runner.build);
    output::print(&format!("medians of {n_runs} pairs, kernels {isa}, peer {build}\n"))
}

/// Runs the processes.
struct Runner {
    tern: PathBuf,
    /// Options of this engine that the peer has no like of.
    options: Vec<OsString>,
    model: OsString,
    peer: Vec<OsString>,
    peer_model: OsString,
    /// A text of eight tokens.
    prompt: String,
    /// The kernels that this engine used.
    isa: String,
    /// What the peer calls itself.
    build: String,
}

impl Runner {
    fn new(common: &Common, peer: &Peer) -> Result<Runner> {
        let model = common.model()?;
        let words = peer.command.as_deref().unwrap_or(DEFAULT_PEER).split_whitespace();
        let mut options = Vec::new();
        if let Some(mode) = common.load_mode {
            options.extend(["--load-mode", load_mode_name(mode)].map(OsString::from));
        }
        if common.n_batch > 0 {
            options.extend(["-b".into(), common.n_batch.to_string().into()]);
        }
        Ok(Runner {
            tern: std::env::current_exe().map_err(|e| io_error("this program", &e))?,
            options,
            model: model.into(),
            peer: words.map(OsString::from).collect(),
            peer_model: peer.model.clone().unwrap_or_else(|| model.into()),
            prompt: prompt(common)?,
            isa: String::new(),
            build: String::new(),
        })
    }

    /// One run of each: this engine first, unless `swapped`.
    fn pair(&mut self, kind: Kind, n_threads: u32, swapped: bool) -> Result<(f64, f64)> {
        let n_busy = if let Kind::Decode { n_busy, .. } = kind { n_busy } else { 0 };
        let _busy = Busy::start(n_busy)?;
        if swapped {
            let peer = self.run_peer(kind, n_threads)?;
            return Ok((self.run_tern(kind, n_threads)?, peer));
        }
        let tern = self.run_tern(kind, n_threads)?;
        Ok((tern, self.run_peer(kind, n_threads)?))
    }

    fn run_tern(&mut self, kind: Kind, n_threads: u32) -> Result<f64> {
        let mut command = Command::new(&self.tern);
        let name = if kind.is_time() { "run" } else { "bench" };
        command.arg(name).arg("-m").arg(&self.model).arg("-t").arg(n_threads.to_string());
        command.args(&self.options).arg("--json");
        match kind {
            Kind::FirstToken => {
                command.args(["--raw", "--temp", "0", "-n", "1", "--ctx", "256", "-p"]);
                return Ok(output_of(command.arg(&self.prompt), "tern")?.1);
            }
            Kind::Prefill(n) => command.args(["-r", "1", "-n", "0", "-p", &n.to_string()]),
            Kind::Decode { n, depth, .. } => command
                .args(["-r", "1", "-p", "0", "-n", &n.to_string()])
                .args(["-d", &depth.to_string()]),
        };
        let found = output_of(&mut command, "tern")?.0;
        let tok_s = found[0]["tok_s"]["median"].as_f64();
        self.isa = found[1]["isa"].as_str().unwrap_or("").into();
        tok_s.ok_or_else(|| failed(format_args!("tern: no speed in {found}")))
    }

    fn run_peer(&mut self, kind: Kind, n_threads: u32) -> Result<f64> {
        let Some((program, words)) = self.peer.split_first() else {
            return Err(Failure::Usage("--peer: expected a command".into()));
        };
        let mut command = Command::new(program);
        command.args(words).arg("-m").arg(&self.peer_model);
        command.args(["-r", "1", "-o", "json", "-t", &n_threads.to_string()]);
        match kind {
            // It evaluates the prompt and ends: no tokenizer, no sampler, and no run to warm up.
            Kind::FirstToken => {
                command.args(["-n", "0", "-p", &FIRST_TOKEN_PROMPT.to_string()]).arg("--no-warmup")
            }
            Kind::Prefill(n) => command.args(["-n", "0", "-p", &n.to_string()]),
            Kind::Decode { n, depth, .. } => {
                command.args(["-p", "0", "-n", &n.to_string(), "-d", &depth.to_string()])
            }
        };
        let name = program.display().to_string();
        let (found, ms) = output_of(&mut command, &name)?;
        let text = |key: &str| found[0][key].as_str().unwrap_or("?").to_string();
        let number = found[0]["build_number"].as_u64().unwrap_or(0);
        self.build = format!("{} {number}", text("build_commit"));
        match (kind.is_time(), found[0]["avg_ts"].as_f64()) {
            (true, _) => Ok(ms),
            (false, Some(tok_s)) if tok_s > 0.0 => Ok(tok_s),
            _ => Err(failed(format_args!("{name}: no speed in what it printed: {found}"))),
        }
    }
}

/// Runs a process to its end: the JSON that it printed, and the milliseconds that it took.
fn output_of(command: &mut Command, name: &str) -> Result<(Json, f64)> {
    let start = Instant::now();
    let output = command.stdin(Stdio::null()).output().map_err(|e| match e.kind() {
        io::ErrorKind::NotFound => failed(format_args!(
            "{name}: not found; Debian has llama-bench in the package llama.cpp-tools, and \
             --peer says where it is"
        )),
        _ => io_error(name, &e),
    })?;
    let ms = start.elapsed().as_secs_f64() * 1e3;
    let said = String::from_utf8_lossy(&output.stderr);
    let last = said.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("nothing");
    if !output.status.success() {
        return Err(failed(format_args!("{name}: {}: it said: {last}", output.status)));
    }
    let found = serde_json::from_slice(&output.stdout);
    let found = found.map_err(|e| failed(format_args!("{name}: printed no JSON: {e}")))?;
    Ok((found, ms))
}

fn failed(sentence: std::fmt::Arguments<'_>) -> Failure {
    Failure::Error(Error::Io(Sentence::new(sentence)))
}

/// A text of eight tokens, the first of which may be the model's own, or as few more as there can be.
fn prompt(common: &Common) -> Result<String> {
    let gguf = Gguf::parse(&Source::open(common.model()?)?)?;
    let tokenizer = vocab::tokenizer(gguf.metadata())?;
    let (mut text, mut tokens) = (String::from("The"), Vec::new());
    for word in " quick brown fox and the other animals of the wood".split_inclusive(' ') {
        tokens.clear();
        tokenizer.tokenize(text.trim_end(), true, false, &mut tokens)?;
        if tokens.len() >= FIRST_TOKEN_PROMPT {
            break;
        }
        text.push_str(word);
    }
    text.truncate(text.trim_end().len());
    Ok(text)
}

fn load_mode_name(mode: LoadMode) -> &'static str {
    match mode {
        LoadMode::Copy => "copy",
        LoadMode::MapGuarded => "map-guarded",
        LoadMode::MapFast => "map-fast",
    }
}
