//! `tern run`: one prompt, one answer.

use std::path::PathBuf;

use serde_json::json;
use tern::engine::{Sampler, SessionParams};

use super::args::{Arg, Args, Common, Failure, Result, unexpected};
use super::generate::{Amount, MOST_DRAFTED, generate};
use super::prompt::{self, Turn};
use super::{interrupt, load, output, sampling};

/// Tokens generated at most, where nobody says.
const DEFAULT_N: usize = 512;

/// Runs the command.
pub(crate) fn command(args: &mut Args) -> Result<()> {
    let mut common = Common::default();
    let mut sampler_params = sampling::defaults();
    let (mut text, mut file, mut system) = (None::<String>, None::<PathBuf>, None::<String>);
    let (mut n_max, mut n_draft, mut raw, mut endless) = (DEFAULT_N, 0, false, false);
    while let Some(arg) = args.next()? {
        let Arg::Option(option) = &arg else { return unexpected(&arg) };
        match option.as_str() {
            "-p" | "--prompt" => text = Some(args.text()?),
            "-f" | "--file" => file = Some(args.path()?),
            "--system" => system = Some(args.text()?),
            "-n" => n_max = args.number(option, 0..=1 << 30)?,
            "--draft" => n_draft = args.number(option, 0..=MOST_DRAFTED)?,
            "--raw" => raw = true,
            "--endless" => endless = true,
            _ if common.take(option, args)? => {}
            _ if sampling::take(&mut sampler_params, option, args)? => {}
            _ => return unexpected(&arg),
        }
    }
    let text = match (text, file) {
        (Some(text), None) => text,
        (None, Some(file)) => prompt::read_text(&file)?,
        (None, None) => return Err(Failure::Usage("no prompt given (-p TEXT or -f FILE)".into())),
        _ => return Err(Failure::Usage("-p and -f exclude each other".into())),
    };
    if raw && system.is_some() {
        return Err(Failure::Usage("--raw leaves no place for --system".into()));
    }
    common.model()?;

    let mut sampler = Sampler::new(&sampler_params)?;
    let model = load::model(&common)?;
    let tokens = if raw || model.chat_template().is_none() {
        if system.is_some() {
            return Err(Failure::Usage("this model has no chat template for --system".into()));
        }
        prompt::raw(&model, &text)?
    } else {
        let mut turns = Vec::new();
        turns.extend(system.map(|content| Turn { role: "system", content }));
        turns.push(Turn { role: "user", content: text });
        prompt::formatted(&model, &prompt::format(&model, &turns)?)?
    };
    let params = SessionParams {
        auto_evict: endless,
        n_logits: n_draft + 1,
        ..load::session_params(&common, &model)
    };
    let mut session = load::session(&model, &params)?;
    interrupt::install();
    let amount = Amount { n_max, n_draft };
    let done = generate(&mut session, &mut sampler, &tokens, amount, &mut |part| {
        if common.json { Ok(()) } else { output::print(part) }
    })?;
    if common.json {
        return output::print_json(&json!({
            "text": done.text,
            "tokens": done.tokens,
            "n_prompt": done.n_prompt,
            "n_generated": done.tokens.len(),
            "prefill_tok_s": done.prefill_tok_s(),
            "decode_tok_s": done.decode_tok_s(),
            "n_drafted": done.n_drafted,
            "n_accepted": done.n_accepted,
            "stop": done.stop.name(),
            "seed": sampler_params.seed,
        }));
    }
    if !done.text.ends_with('\n') {
        output::print("\n")?;
    }
    if output::is_watched() {
        output::note(&done.stats());
    }
    Ok(())
}
