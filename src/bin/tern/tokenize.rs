//! `tern tokenize`: text to tokens.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use tern::base::file::Source;
use tern::engine::{Gguf, vocab};

use super::args::{Arg, Args, Common, Failure, Result, unexpected};
use super::{output, prompt};

/// Runs the command.
pub(crate) fn command(args: &mut Args) -> Result<()> {
    let mut common = Common::default();
    let (mut text, mut file) = (None::<String>, None::<PathBuf>);
    let (mut ids, mut add_special, mut parse_special) = (false, true, false);
    while let Some(arg) = args.next()? {
        match &arg {
            Arg::Option(option) => match option.as_str() {
                "-f" | "--file" => file = Some(args.path()?),
                "--ids" => ids = true,
                "--no-special" => add_special = false,
                "--parse-special" => parse_special = true,
                _ if common.take(option, args)? => {}
                _ => return unexpected(&arg),
            },
            Arg::Operand(operand) if text.is_none() => match operand.to_str() {
                Some(operand) => text = Some(operand.to_string()),
                None => return Err(Failure::Usage("the text is not valid UTF-8".into())),
            },
            Arg::Operand(_) => return unexpected(&arg),
        }
    }
    let model = common.model()?;
    let text = match (text, file) {
        (Some(_), Some(_)) => {
            return Err(Failure::Usage("TEXT and -f exclude each other".into()));
        }
        (Some(text), None) => text,
        (None, Some(file)) => prompt::read_text(&file)?,
        (None, None) => prompt::read_text(Path::new("-"))?,
    };
    // Only the header is read: files that have nothing but a vocabulary do as well.
    let gguf = Gguf::parse(&Source::open(model)?)?;
    let tokenizer = vocab::tokenizer(gguf.metadata())?;
    let mut tokens = Vec::new();
    tokenizer.tokenize(&text, add_special, parse_special, &mut tokens)?;
    let mut out = String::new();
    if common.json {
        return output::print_json(&serde_json::json!(tokens));
    } else if ids {
        for (i, token) in tokens.iter().enumerate() {
            let _ = write!(out, "{}{token}", if i == 0 { "" } else { " " });
        }
        out.push('\n');
    } else {
        for &token in &tokens {
            let piece = String::from_utf8_lossy(tokenizer.name(token).unwrap_or(&[]));
            let _ = writeln!(out, "{token:6} {piece:?}");
        }
    }
    output::print(&out)
}
