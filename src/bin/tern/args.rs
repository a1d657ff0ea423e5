//! The command line: options and operands, and what is wrong with them.

use std::ffi::OsString;
use std::fmt;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::str::FromStr;

use tern::Error;
use tern::base::error::Sentence;
use tern::engine::{KV_PRESETS, KvPolicy, LoadMode, Numerics, kv_type_names};

/// What a command returns.
pub(crate) type Result<T> = std::result::Result<T, Failure>;

/// Why a command did not do what it is for.
#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "an error owns its sentence, and there is one")]
pub(crate) enum Failure {
    /// Help was asked for.
    Help,
    /// The command line is wrong: exit status 2.
    Usage(String),
    /// The work failed: exit status 1.
    Error(Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        Failure::Error(error)
    }
}

impl From<lexopt::Error> for Failure {
    fn from(error: lexopt::Error) -> Failure {
        Failure::Usage(error.to_string())
    }
}

/// A failed read or write, as an error that says of what.
pub(crate) fn io_error(what: impl fmt::Display, error: &std::io::Error) -> Failure {
    Failure::Error(Error::Io(Sentence::new(format_args!("{what}: {error}"))))
}

/// An argument that is well formed, and yet cannot be.
pub(crate) fn invalid(sentence: fmt::Arguments<'_>) -> Failure {
    Failure::Error(Error::InvalidArgument(Sentence::new(sentence)))
}

/// One argument.
#[derive(Debug)]
pub(crate) enum Arg {
    /// An option with its dashes.
    Option(String),
    /// Anything else.
    Operand(OsString),
}

impl fmt::Display for Arg {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Arg::Option(option) => f.write_str(option),
            Arg::Operand(text) => f.write_str(&text.to_string_lossy()),
        }
    }
}

/// The arguments of the process, one after the other.
pub(crate) struct Args {
    parser: lexopt::Parser,
}

impl Args {
    /// The arguments after the program's name.
    pub(crate) fn of_process() -> Args {
        Args { parser: lexopt::Parser::from_env() }
    }

    /// The next argument; `Failure::Help` if it is `-h` or `--help`.
    pub(crate) fn next(&mut self) -> Result<Option<Arg>> {
        let arg = match self.parser.next()? {
            None => return Ok(None),
            Some(lexopt::Arg::Short(letter)) => Arg::Option(format!("-{letter}")),
            Some(lexopt::Arg::Long(name)) => Arg::Option(format!("--{name}")),
            Some(lexopt::Arg::Value(text)) => Arg::Operand(text),
        };
        match &arg {
            Arg::Option(option) if option == "-h" || option == "--help" => Err(Failure::Help),
            _ => Ok(Some(arg)),
        }
    }

    /// The value of the option just read, as text.
    pub(crate) fn text(&mut self) -> Result<String> {
        self.parser
            .value()?
            .into_string()
            .map_err(|text| Failure::Usage(format!("not valid UTF-8: {}", text.to_string_lossy())))
    }

    /// The value of the option just read, as a path.
    pub(crate) fn path(&mut self) -> Result<PathBuf> {
        Ok(self.parser.value()?.into())
    }

    /// The value of the option just read, as a number in a range.
    pub(crate) fn number<T>(&mut self, option: &str, range: RangeInclusive<T>) -> Result<T>
    where
        T: FromStr + PartialOrd + fmt::Display,
    {
        let text = self.text()?;
        parse_number(option, &text, range)
    }

    /// The value of the option just read, as numbers with commas between them.
    pub(crate) fn numbers(&mut self, option: &str, range: RangeInclusive<u32>) -> Result<Vec<u32>> {
        let text = self.text()?;
        text.split(',').map(|part| parse_number(option, part, range.clone())).collect()
    }
}

fn parse_number<T>(option: &str, text: &str, range: RangeInclusive<T>) -> Result<T>
where
    T: FromStr + PartialOrd + fmt::Display,
{
    match text.parse() {
        Ok(number) if range.contains(&number) => Ok(number),
        _ => {
            let (least, most) = range.into_inner();
            Err(Failure::Usage(format!("{option} {text}: expected a number, {least} to {most}")))
        }
    }
}

/// `TYPE` for keys and values, or `TYPE,TYPE`; a preset is its number twice.
fn kv_types(option: &str, text: &str) -> Result<(u32, u32)> {
    if let Some(preset) = KV_PRESETS.iter().find(|preset| preset.name == text) {
        return Ok((preset.number, preset.number));
    }
    let number = |name: &str| match kv_type_names().position(|other| other == name) {
        Some(number) => Ok(number as u32),
        None => {
            let types: Vec<_> = kv_type_names().collect();
            let presets = KV_PRESETS.map(|preset| preset.name);
            Err(Failure::Usage(format!(
                "{option} {text}: expected {}, two of them, or {}",
                types.join(", "),
                presets.join(", ")
            )))
        }
    };
    let (k, v) = text.split_once(',').unwrap_or((text, text));
    Ok((number(k)?, number(v)?))
}

/// `N` slots of each KV head, or `N%` of the context.
fn kv_budget(option: &str, text: &str) -> Result<KvBudget> {
    let budget = match text.strip_suffix('%') {
        Some(part) => {
            part.parse().ok().filter(|p| (0.0..=100.0).contains(p)).map(KvBudget::Percent)
        }
        None => text.parse().ok().map(KvBudget::Slots),
    };
    match budget {
        None | Some(KvBudget::Slots(0) | KvBudget::Percent(0.0)) => Err(Failure::Usage(format!(
            "{option} {text}: expected a number of slots above 0, or a part of the context as N%"
        ))),
        Some(budget) => Ok(budget),
    }
}

/// How many tokens of the KV cache stay.
#[derive(Clone, Copy, Debug)]
pub(crate) enum KvBudget {
    /// Slots of each KV head.
    Slots(u32),
    /// Their part of the context.
    Percent(f32),
}

/// The error for an option that the command does not have.
pub(crate) fn unknown<T>(option: &str) -> Result<T> {
    Err(Failure::Usage(format!("there is no option '{option}'")))
}

/// The error for an argument that the command does not take.
pub(crate) fn unexpected<T>(arg: &Arg) -> Result<T> {
    match arg {
        Arg::Option(option) => unknown(option),
        Arg::Operand(text) => {
            Err(Failure::Usage(format!("unexpected argument '{}'", text.to_string_lossy())))
        }
    }
}

/// The options that all commands with a model have. Zero is the default of every number.
#[derive(Debug, Default)]
pub(crate) struct Common {
    /// The model's file.
    pub(crate) model: Option<PathBuf>,
    /// Threads that evaluate one token.
    pub(crate) n_threads: u32,
    /// Threads that evaluate many.
    pub(crate) n_threads_batch: u32,
    /// Cells of the KV cache.
    pub(crate) n_ctx: Option<u32>,
    /// Tokens evaluated at once.
    pub(crate) n_batch: u32,
    /// Types of keys and values, as [`tern::engine::SessionParams`] has them.
    pub(crate) kv_types: (u32, u32),
    /// What leaves the KV cache, if anybody says.
    pub(crate) kv_policy: Option<KvPolicy>,
    /// And how much stays.
    pub(crate) kv_budget: Option<KvBudget>,
    /// How the weights come into memory.
    pub(crate) load_mode: Option<LoadMode>,
    /// Whether to screen the head.
    pub(crate) screened_head: bool,
    /// How many tokens are evaluated together.
    pub(crate) numerics: Numerics,
    /// Whether to print JSON.
    pub(crate) json: bool,
}

impl Common {
    /// Takes an option if it is one of these; says whether it was.
    pub(crate) fn take(&mut self, option: &str, args: &mut Args) -> Result<bool> {
        match option {
            "-m" | "--model" => self.model = Some(args.path()?),
            "-t" | "--threads" => self.n_threads = args.number(option, 1..=256)?,
            "--threads-batch" => self.n_threads_batch = args.number(option, 1..=256)?,
            "--ctx" => self.n_ctx = Some(args.number(option, 0..=1 << 30)?),
            "-b" | "--batch" => self.n_batch = args.number(option, 1..=1 << 20)?,
            "--kv-type" => self.kv_types = kv_types(option, &args.text()?)?,
            "--kv-policy" => {
                let policy = KvPolicy::from_name(&args.text()?);
                let policy =
                    policy.map_err(|e| Failure::Usage(format!("{option}: {}", e.message())));
                self.kv_policy = Some(policy?);
            }
            "--kv-budget" => self.kv_budget = Some(kv_budget(option, &args.text()?)?),
            "--load-mode" => {
                let name = args.text()?;
                let Some(mode) = LoadMode::from_name(&name) else {
                    let names = "copy, map-guarded or map-fast";
                    return Err(Failure::Usage(format!("{option} {name}: expected {names}")));
                };
                self.load_mode = Some(mode);
            }
            "--numerics" => {
                let name = args.text()?;
                self.numerics = match name.as_str() {
                    "exact" => Numerics::Exact,
                    "fast" => Numerics::Fast,
                    _ => {
                        let names = "exact or fast";
                        return Err(Failure::Usage(format!("{option} {name}: expected {names}")));
                    }
                };
            }
            "--screened-head" => self.screened_head = true,
            "--json" => self.json = true,
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// The model's file, which must have been given.
    pub(crate) fn model(&self) -> Result<&PathBuf> {
        self.model.as_ref().ok_or_else(|| Failure::Usage("no model given (-m FILE)".into()))
    }
}
