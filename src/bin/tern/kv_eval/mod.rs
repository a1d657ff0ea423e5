//! `tern kv-eval`: what a model loses when its KV cache keeps only a part.
//!
//! The full cache in f16 is the reference; every figure says how far a smaller one is from it over
//! the same tokens of real text. Perplexity may improve while a model is being damaged, so the
//! divergence of the whole distribution and the tokens that would be chosen are measured, too; and
//! what none of them shows, forgotten facts, is asked for.

mod figures;
mod lane;
mod measure;
mod needles;
mod plot;
mod policy;
mod report;
mod score;
mod segments;
mod suite;

use std::path::PathBuf;

use super::args::{Arg, Args, Common, Failure, Result, unexpected};
use super::{interrupt, load, output};
use measure::{Bench, Test};
use policy::Policy;
use report::Line;
use segments::Text;
use suite::Suite;

/// The most tokens that a number on the command line may be.
const MOST_TOKENS: u32 = 1 << 20;

/// What the command line says.
struct Options {
    common: Common,
    texts: Vec<PathBuf>,
    n_prompt: u32,
    n_generate: u32,
    stream: Option<u32>,
    budget: f64,
    policy: Option<&'static Policy>,
    n_segments: u32,
    seed: u64,
    n_needles: u32,
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
            budget: 0.2,
            policy: None,
            n_segments: 8,
            seed: 1,
            n_needles: 0,
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
            "--budget" => self.budget = args.number(option, 0.0..=1.0)?,
            "--policy" => self.policy = Some(policy::named(&args.text()?)?),
            "--segments" => self.n_segments = args.number(option, 1..=10_000)?,
            "--seed" => self.seed = args.number(option, 0..=u64::MAX)?,
            "--needles" => self.n_needles = args.number(option, 1..=10_000)?,
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
        if self.budget <= 0.0 {
            return usage(format!("--budget {}: expected more than 0, at most 1", self.budget));
        }
        let mut wholes: Vec<u32> = self.tests().iter().map(|test| test.n_whole()).collect();
        if self.n_needles > 0 {
            wholes.push(self.n_prompt);
        }
        for n in wholes {
            let (slots, least) = (measure::slots(self.budget, n), policy::LEAST_SLOTS);
            if slots < least {
                return usage(format!(
                    "--budget {}: that is {slots} of {n} tokens, expected {least} or more",
                    self.budget
                ));
            }
        }
        self.common.model()?;
        Ok(())
    }

    /// What is to be done. The suite has both tests; otherwise a stream takes the prompt's place.
    fn tests(&self) -> Vec<Test> {
        let once = Test::Once { n_prompt: self.n_prompt, n_generate: self.n_generate };
        match (self.stream, self.is_suite) {
            (None, _) => vec![once],
            (Some(n), false) => vec![Test::Stream { n }],
            (Some(n), true) => vec![once, Test::Stream { n }],
        }
    }
}

/// Runs the command.
pub(crate) fn command(args: &mut Args) -> Result<()> {
    let options = Options::parse(args)?;
    let tests = options.tests();
    let paths = existing(&options)?;
    let model = load::model(&options.common)?;
    let n_ctx_train = model.info().n_ctx_train;
    if let Some(n) = tests.iter().map(|test| test.n_tokens()).find(|&n| n > n_ctx_train) {
        return Err(Failure::Usage(format!(
            "{n} tokens: the model was trained on {n_ctx_train}, and a full cache of more is no \
             reference"
        )));
    }
    let texts: Vec<Text> =
        paths.iter().map(|path| Text::read(&model, path)).collect::<Result<_>>()?;
    let bench = Bench {
        model: &model,
        common: &options.common,
        texts: &texts,
        budget: options.budget,
        n_segments: options.n_segments as usize,
        seed: options.seed,
    };
    interrupt::install();
    let needles = (options.n_needles > 0).then_some((options.n_needles as usize, options.n_prompt));
    if let Some(out) = &options.out {
        return Suite { tests: &tests, needles, out }.run(&bench, &options.common);
    }
    let policies: Vec<&'static Policy> = options.policy.into_iter().collect();
    let outcomes = bench.measure(tests[0], &[bench.entry(policies[0])])?;
    let found = needles.map(|(n, n_prompt)| bench.needles(n, n_prompt, &policies)).transpose()?;
    let line = Line::new(&bench, tests[0], &outcomes[0], found.as_ref().map(|found| &found[0]));
    match options.common.json {
        true => output::print_json(&line.json(&bench)),
        false => output::print(&line.table()),
    }
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
