//! The `tern` command: for people at a terminal, and for everything that is measured.
//!
//! Built on `tern::engine` as any program would be. One file for each subcommand; what they print
//! for scripts is a contract, stated in `help.rs`.

mod args;
mod bench;
mod chat;
mod generate;
mod help;
mod inspect;
mod interrupt;
mod kv_eval;
mod load;
#[cfg(feature = "signed")]
mod manifest;
mod memory;
mod output;
mod pack;
mod perplexity;
mod prompt;
mod run;
mod sampling;
mod tokenize;

use std::process::ExitCode;

use args::{Arg, Args, Failure, Result};

fn main() -> ExitCode {
    let mut args = Args::of_process();
    let mut topic = String::new();
    match dispatch(&mut args, &mut topic) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Help) => match output::print(help::of(&topic).unwrap_or(help::MAIN)) {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::FAILURE,
        },
        Err(Failure::Usage(sentence)) => {
            let about =
                if topic.is_empty() { "tern help".into() } else { format!("tern help {topic}") };
            output::note(&format!("usage error: {sentence}; see `{about}`"));
            ExitCode::from(2)
        }
        Err(Failure::Error(error)) => {
            output::note(&format!("error: {error}"));
            ExitCode::FAILURE
        }
    }
}

/// Runs the subcommand. `topic` is its name, for the help and the errors that are about it.
fn dispatch(args: &mut Args, topic: &mut String) -> Result<()> {
    let name = match args.next()? {
        Some(Arg::Operand(name)) => name.to_string_lossy().into_owned(),
        Some(Arg::Option(option)) if option == "-V" || option == "--version" => {
            return output::print(concat!("tern ", env!("CARGO_PKG_VERSION"), "\n"));
        }
        Some(Arg::Option(option)) => return args::unknown(&option),
        None => return Err(Failure::Usage("no command given".into())),
    };
    let command: fn(&mut Args) -> Result<()> = match name.as_str() {
        "run" => run::command,
        "chat" => chat::command,
        "tokenize" => tokenize::command,
        "inspect" => inspect::command,
        "pack" => pack::command,
        #[cfg(feature = "signed")]
        "manifest" => manifest::command,
        "perplexity" => perplexity::command,
        "bench" => bench::command,
        "kv-eval" => kv_eval::command,
        "help" => return help(args, topic),
        _ => return Err(Failure::Usage(format!("there is no command '{name}'"))),
    };
    *topic = name;
    command(args)
}

/// `tern help [COMMAND]`.
fn help(args: &mut Args, topic: &mut String) -> Result<()> {
    match args.next()? {
        None => {}
        Some(Arg::Operand(name)) if help::of(&name.to_string_lossy()).is_some() => {
            *topic = name.to_string_lossy().into_owned();
        }
        Some(arg) => return Err(Failure::Usage(format!("there is no help on '{arg}'"))),
    }
    Err(Failure::Help)
}
