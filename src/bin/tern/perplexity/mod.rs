//! `tern perplexity`: how well a model predicts a text.
//!
//! The text becomes windows of `--ctx` tokens that do not overlap, the rest at the end left out. If
//! the model begins texts with a token of its own, that takes the first place of each window. The
//! second half of a window is scored: the logits at place j predict token j + 1, for j from ctx / 2
//! to ctx - 2. Other programs measure just so, so figures compare.
//!
//! Or ([`stream`]) the text goes through one cache from beginning to end.

mod stream;

use std::path::PathBuf;

use serde_json::json;
use tern::Error;
use tern::engine::{Logits, Session, SessionParams};

use super::args::{Arg, Args, Common, Failure, Result, invalid, unexpected};
use super::interrupt::{self, Guard};
use super::output::{self, Progress};
use super::{load, prompt};

/// Tokens of a window, where nobody says.
const DEFAULT_CTX: u32 = 512;
/// Rows of logits held at a time: 64 MB for a vocabulary of 262,144.
const ROWS: u32 = 64;

/// The sum over the scored tokens.
#[derive(Clone, Copy, Debug, Default)]
struct Score {
    n_tokens: u64,
    nll: f64, // the sum of -ln p
}

impl Score {
    fn mean(self) -> f64 {
        self.nll / self.n_tokens.max(1) as f64
    }

    fn ppl(self) -> f64 {
        self.mean().exp()
    }
}

/// Runs the command.
pub(crate) fn command(args: &mut Args) -> Result<()> {
    let mut common = Common::default();
    let mut file = None::<PathBuf>;
    let (mut is_stream, mut limit) = (false, None::<u32>);
    while let Some(arg) = args.next()? {
        let Arg::Option(option) = &arg else { return unexpected(&arg) };
        match option.as_str() {
            "-f" | "--file" => file = Some(args.path()?),
            "--stream" => is_stream = true,
            "--limit" => limit = Some(args.number(option, 4..=u32::MAX)?),
            _ if common.take(option, args)? => {}
            _ => return unexpected(&arg),
        }
    }
    let n_ctx = common.n_ctx.unwrap_or(DEFAULT_CTX);
    if n_ctx < 4 {
        return Err(Failure::Usage(format!("--ctx {n_ctx}: expected at least 4")));
    }
    if !is_stream && (common.kv_policy.is_some() || common.kv_budget.is_some()) {
        return Err(Failure::Usage("--kv-policy and --kv-budget go with --stream".into()));
    }
    let file = file.ok_or_else(|| Failure::Usage("no text given (-f FILE)".into()))?;
    common.model()?;
    let text = prompt::read_text(&file)?;
    let model = load::model(&common)?;
    let mut tokens = Vec::new();
    let tokenizer = model.tokenizer();
    tokenizer.tokenize(&text, true, false, &mut tokens)?;
    tokens.truncate(limit.map_or(usize::MAX, |limit| limit as usize));
    let n_windows = tokens.len() / n_ctx as usize;
    let (found, least) = (tokens.len(), if is_stream { 2 } else { n_ctx as usize });
    if found < least {
        return Err(invalid(format_args!("the text has {found} tokens, expected {least} or more")));
    }
    let bos = tokenizer.bos().filter(|_| tokenizer.adds_bos());
    let params = SessionParams { n_ctx, n_logits: ROWS, ..load::session_params(&common, &model) };
    let mut session = load::session(&model, &params)?;
    interrupt::install();
    if is_stream {
        return stream::run(&mut session, &tokens, &common);
    }
    let guard = interrupt::guard();
    let mut progress = Progress::new();
    let mut score = Score::default();
    for (i, window) in tokens.chunks_exact_mut(n_ctx as usize).enumerate() {
        if let (Some(bos), Some(first)) = (bos, window.first_mut()) {
            *first = bos;
        }
        score_window(&mut session, window, &guard, &mut score)?;
        let so_far = score.ppl();
        progress.show(format!("window {} of {n_windows}, perplexity {so_far:.4}", i + 1));
    }
    drop(progress);
    let (nll, ppl) = (score.mean(), score.ppl());
    if common.json {
        return output::print_json(&json!({ "tokens": score.n_tokens, "nll": nll, "ppl": ppl }));
    }
    output::print(&format!("{} tokens, nll {nll:.6}, perplexity {ppl:.4}\n", score.n_tokens))
}

/// Adds the second half of one window to the score.
fn score_window(
    session: &mut Session,
    window: &[i32],
    guard: &Guard,
    score: &mut Score,
) -> Result<()> {
    let first = window.len() / 2;
    session.truncate(0)?;
    session.eval(&window[..first], Logits::None, &guard.control())?;
    // The last token is only predicted.
    let mut at = first;
    while at + 1 < window.len() {
        let n = (ROWS as usize).min(window.len() - 1 - at);
        session.eval(&window[at..at + n], Logits::All, &guard.control())?;
        for row in 0..n {
            let target = window[at + row + 1];
            score.nll += nll(session.logits_row(row)?, target)?;
            score.n_tokens += 1;
        }
        at += n;
    }
    Ok(())
}

/// -ln of the probability that a row of logits gives a token.
fn nll(logits: &[f32], target: i32) -> Result<f64> {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|&x| f64::from((x - max).exp())).sum();
    let found = usize::try_from(target).ok().and_then(|target| logits.get(target));
    let nll = found.map(|&x| sum.ln() - f64::from(x - max)).unwrap_or(f64::NAN);
    if nll.is_finite() {
        return Ok(nll);
    }
    Err(Failure::Error(Error::NotFinite(tern::base::error::Sentence::new(format_args!(
        "the logits give token {target} no finite score"
    )))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scores_are_those_of_the_softmax() {
        let logits = [0.0, 2f32.ln(), 5f32.ln()]; // probabilities 1/8, 2/8, 5/8
        for (target, p) in [(0, 0.125), (1, 0.25), (2, 0.625f64)] {
            assert!((nll(&logits, target).unwrap() + p.ln()).abs() < 1e-6);
        }
        assert!((nll(&[1000.0, 0.0], 1).unwrap() - 1000.0).abs() < 1e-3);
        assert!(nll(&[f32::NAN, 0.0], 1).is_err());
        assert!(nll(&logits, 3).is_err());
        assert!(nll(&logits, -1).is_err());
    }
}
