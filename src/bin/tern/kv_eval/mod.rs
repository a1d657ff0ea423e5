//! `tern kv-eval`: what a model loses when its KV cache keeps only a part.
//!
//! The full cache in f16 is the reference; every figure says how far a smaller one is from it over
//! the same tokens of real text. Perplexity may improve while a model is being damaged, so the
//! divergence of the whole distribution and the tokens that would be chosen are measured, too; and
//! what none of them shows, forgotten facts, is asked for.

mod composition;
mod figures;
mod gates;
mod greedy;
mod lane;
mod measure;
mod needles;
mod page;
mod plot;
mod policy;
mod report;
mod score;
mod segments;
mod suite;

use std::path::PathBuf;

use tern::Error;
use tern::base::error::Sentence;

use super::args::{Arg, Args, Common, Failure, Result, unexpected};
use super::{interrupt, load, output};
use gates::{BUDGET, BUDGET_SLIDING};
use measure::{Bench, Test};
use needles::Asked;
use policy::Policy;
use report::{Beside, Line};
use segments::Text;
use suite::Suite;

/// The most tokens that a number on the command line may be.
const MOST_TOKENS: u32 = 1 << 20;
/// What the suite does where nobody says otherwise: tokens streamed, needles, and tokens written.
/// Of these needles SmolLM2 finds more than 48 with the full cache.
const SUITE_STREAM: u32 = 2048;
const SUITE_NEEDLES: u32 = 60;
const SUITE_GREEDY: u32 = 1024;

/// What the command line says.
struct Options {
    common: Common,
    texts: Vec<PathBuf>,
    n_prompt: u32,
    n_generate: u32,
    stream: Option<u32>,
    budget: Option<f64>,
    policy: Option<&'static Policy>,
    n_segments: u32,
    seed: u64,
    n_needles: Option<u32>,
    n_greedy: Option<u32>,
    composes: bool,
    is_suite: bool,
    out: Option<PathBuf>,
}

impl Options {
    fn parse(args: &mut Args) -> Result<Options> {
        let mut options = Options {
            common: Common::default(),
            texts: Vec::new(),
            n_prompt: 1024,
            n_generate: 256,
            stream: None,
            budget: None,
            policy: None,
            n_segments: 8,
            seed: 1,
            n_needles: None,
            n_greedy: None,
            composes: false,
            is_suite: false,
            out: None,
        };
        while let Some(arg) = args.next()? {
            let Arg::Option(option) = &arg else { return unexpected(&arg) };
            options.take(option, args)?;
        }
        options.check()?;
        Ok(options)
    }

    fn take(&mut self, option: &str, args: &mut Args) -> Result<()> {
        match option {
            "--text" => self.texts.push(args.path()?),
            "--prompt" => self.n_prompt = args.number(option, 1..=MOST_TOKENS)?,
            "--generate" => self.n_generate = args.number(option, 1..=MOST_TOKENS)?,
            "--stream" => self.stream = Some(args.number(option, 2..=MOST_TOKENS)?),
            "--budget" => self.budget = Some(args.number(option, 0.0..=1.0)?),
            "--policy" => self.policy = Some(policy::named(&args.text()?)?),
            "--segments" => self.n_segments = args.number(option, 1..=10_000)?,
            "--seed" => self.seed = args.number(option, 0..=u64::MAX)?,
            "--needles" => self.n_needles = Some(args.number(option, 0..=10_000)?),
            "--greedy" => self.n_greedy = Some(args.number(option, 0..=MOST_TOKENS)?),
            "--composition" => self.composes = true,
            "--suite" => self.is_suite = true,
            "--out" => self.out = Some(args.path()?),
            _ if self.common.take(option, args)? => {}
            _ => return super::args::unknown(option),
        }
        Ok(())
    }

    fn check(&self) -> Result<()> {
        let usage = |sentence: String| Err(Failure::Usage(sentence));
        if self.texts.is_empty() {
            return usage("no text given (--text FILE)".into());
        }
        if self.is_suite != self.out.is_some() {
            return usage("--suite and --out FILE go together".into());
        }
        match (self.is_suite, self.policy) {
            (true, Some(_)) => return usage("--suite has every policy: no --policy".into()),
            (false, None) => {
                let names = policy::names().join(", ");
                return usage(format!("no policy given (--policy, one of {names})"));
            }
            _ => {}
        }
        if self.common.n_ctx.is_some() {
            return usage("--ctx: the cells follow from --prompt, --generate and --budget".into());
        }
        if self.common.kv_policy.is_some() || self.common.kv_budget.is_some() {
            return usage("--kv-policy and --kv-budget are --policy and --budget here".into());
        }
        // A model with windows may get more by default.
        let budget = self.budget.unwrap_or(BUDGET);
        if budget <= 0.0 {
            return usage(format!("--budget {budget}: expected more than 0, at most 1"));
        }
        let mut wholes: Vec<u32> = self.tests().iter().map(|test| test.n_whole()).collect();
        wholes.extend(self.needles().map(|asked| asked.n_prompt));
        let least = policy::LEAST_SLOTS;
        for n in wholes.into_iter().chain(self.composed()) {
            let slots = measure::slots(budget, n);
            if slots < least {
                return usage(format!(
                    "--budget {budget}: that is {slots} of {n} tokens, expected {least} or more"
                ));
            }
        }
        if let Some(n) = self.written().filter(|&n| n < greedy::LEAST_TOKENS) {
            return usage(format!("--greedy {n}: expected {} or more", greedy::LEAST_TOKENS));
        }
        if let Some(n) = self.composed().filter(|&n| n < composition::LEAST_TOKENS) {
            let least = composition::LEAST_TOKENS;
            return usage(format!("{n} tokens to compose sessions with: expected {least} or more"));
        }
        let reads_again = self.policy.is_some_and(Policy::reads_again);
        if reads_again && self.written().is_some() {
            return usage("--policy kvzip evicts on request: no --greedy".into());
        }
        self.common.model()?;
        Ok(())
    }

    /// How policies are scored. The suite has both tests; otherwise a stream takes the prompt's
    /// place.
    fn tests(&self) -> Vec<Test> {
        match self.stream {
            _ if self.is_suite => vec![self.once(), self.streamed()],
            None => vec![self.once()],
            Some(_) => vec![self.streamed()],
        }
    }

    fn once(&self) -> Test {
        Test::Once { n_prompt: self.n_prompt, n_generate: self.n_generate }
    }

    fn streamed(&self) -> Test {
        Test::Stream { n: self.stream.unwrap_or(SUITE_STREAM) }
    }

    /// Which needles, if any.
    fn needles(&self) -> Option<Asked> {
        let default = if self.is_suite { SUITE_NEEDLES } else { 0 };
        let n = self.n_needles.unwrap_or(default);
        let asked = Asked { n, n_prompt: self.n_prompt, are_held_out: self.is_suite };
        (n > 0).then_some(asked)
    }

    /// Tokens to write, if any.
    fn written(&self) -> Option<u32> {
        let default = if self.is_suite { SUITE_GREEDY } else { 0 };
        Some(self.n_greedy.unwrap_or(default)).filter(|&n| n > 0)
    }

    /// Tokens to compose sessions with, if any.
    fn composed(&self) -> Option<u32> {
        let last = self.tests().pop().map(Test::n_tokens);
        last.filter(|_| self.composes || self.is_suite)
    }
}

/// Runs the command.
pub(crate) fn command(args: &mut Args) -> Result<()> {
    let options = Options::parse(args)?;
    let tests = options.tests();
    let paths = existing(&options)?;
    let model = load::model(&options.common)?;
    let n_ctx_train = model.info().n_ctx_train;
    let written = options.written().map(|n| n.saturating_add(n / greedy::TIMES));
    let longest = tests.iter().map(|test| test.n_tokens()).chain(written);
    if let Some(n) = longest.into_iter().find(|&n| n > n_ctx_train) {
        return Err(Failure::Usage(format!(
            "{n} tokens: the model was trained on {n_ctx_train}, and a full cache of more is no \
             reference"
        )));
    }
    let texts: Vec<Text> =
        paths.iter().map(|path| Text::read(&model, path)).collect::<Result<_>>()?;
    let mut bench = Bench {
        model: &model,
        common: &options.common,
        texts: &texts,
        budget: options.budget.unwrap_or(BUDGET),
        n_segments: options.n_segments as usize,
        seed: options.seed,
    };
    interrupt::install();
    if let Some(out) = &options.out {
        let is_sliding = bench.is_sliding()?;
        if is_sliding && options.budget.is_none() {
            bench.budget = BUDGET_SLIDING;
        }
        let (once, stream) = (options.once(), options.streamed());
        let (needles, n_written) = (options.needles(), options.written());
        return Suite { once, stream, needles, n_written, is_sliding, out }.run(&bench);
    }
    single(&options, &bench, tests[0])
}

/// Measures one policy.
fn single(options: &Options, bench: &Bench<'_>, test: Test) -> Result<()> {
    let policies: Vec<&'static Policy> = options.policy.into_iter().collect();
    let outcomes = bench.measure(test, &[bench.entry(policies[0])])?;
    let needles = options.needles().map(|asked| bench.needles(asked, &policies)).transpose()?;
    let written = options.written().map(|n| bench.write(n, &policies)).transpose()?;
    let composed = options.composed().map(|n| bench.compose(n, &policies)).transpose()?;
    let beside = Beside {
        needles: needles.as_ref().map(|found| &found[0]),
        written: written.as_ref().map(|found| &found[0]),
        composition: composed.as_ref().map(|found| &found[0]),
    };
    let line = Line::new(bench, test, &outcomes[0], beside);
    match options.common.json {
        true => output::print_json(&line.json(bench))?,
        false => output::print(&line.table())?,
    }
    match line.broken() {
        Some(wrong) => Err(broken(line.outcome.entry.policy.name, wrong)),
        None => Ok(()),
    }
}

/// What was measured means nothing.
fn broken(label: &str, wrong: &str) -> Failure {
    Failure::Error(Error::Internal(Sentence::new(format_args!(
        "'{label}' {wrong}: these figures mean nothing"
    ))))
}

/// The texts that are there. Only the suite does without one that is not, and says so.
fn existing(options: &Options) -> Result<Vec<PathBuf>> {
    let mut paths = options.texts.clone();
    if options.is_suite {
        paths.retain(|path| {
            let is_there = path.exists();
            if !is_there {
                output::note(&format!("{}: not there, left out", path.display()));
            }
            is_there
        });
        if paths.is_empty() {
            return Err(Failure::Usage("--text: none of the texts is there".into()));
        }
    }
    Ok(paths)
}
