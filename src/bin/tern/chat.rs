//! `tern chat`: a conversation, for as long as one likes, in memory that does not grow.
//!
//! What the KV cache holds stays there from turn to turn; only what is new is evaluated. When the
//! cache is full the session evicts the middle of the conversation by itself.

use std::io::{BufRead, IsTerminal, Write};

use tern::engine::{Model, Sampler, SamplerParams, Session, SessionParams};

use super::args::{Arg, Args, Common, Result, io_error, unexpected};
use super::generate::{Amount, Generated, MOST_DRAFTED, Stop, generate};
use super::prompt::{self, Turn};
use super::{interrupt, load, output, sampling};

/// Tokens of one answer at most, where nobody says.
const DEFAULT_N: usize = 1024;

/// A conversation, and what of it the session holds.
struct Talk {
    session: Session,
    turns: Vec<Turn>,
    /// The text whose tokens were evaluated, from the beginning of the conversation on.
    text: String,
    /// Those tokens, by position; more than the session holds if it has evicted some.
    tokens: Vec<i32>,
}

/// Runs the command.
pub(crate) fn command(args: &mut Args) -> Result<()> {
    let mut common = Common::default();
    let mut sampler_params = sampling::defaults();
    let mut system = None::<String>;
    let mut amount = Amount { n_max: DEFAULT_N, n_draft: 0 };
    while let Some(arg) = args.next()? {
        let Arg::Option(option) = &arg else { return unexpected(&arg) };
        match option.as_str() {
            "--system" => system = Some(args.text()?),
            "-n" => amount.n_max = args.number(option, 1..=1 << 30)?,
            "--draft" => amount.n_draft = args.number(option, 0..=MOST_DRAFTED)?,
            _ if option != "--json" && common.take(option, args)? => {}
            _ if sampling::take(&mut sampler_params, option, args)? => {}
            _ => return unexpected(&arg),
        }
    }
    common.model()?;
    let system = system.map(|content| Turn { role: "system", content });
    let mut sampler = Sampler::new(&sampler_params)?;
    let model = load::model(&common)?;
    // A model that cannot chat should say so before its user has typed anything.
    prompt::format(&model, &[Turn { role: "user", content: "?".into() }])?;
    let params = SessionParams {
        auto_evict: true,
        n_logits: amount.n_draft + 1,
        ..load::session_params(&common, &model)
    };
    let session = load::session(&model, &params)?;
    let turns = system.into_iter().collect();
    let talk = Talk { session, turns, text: String::new(), tokens: Vec::new() };
    converse(talk, &mut sampler, &sampler_params, amount)
}

/// Reads what the user says, line by line, and answers, until the input ends.
fn converse(
    mut talk: Talk,
    sampler: &mut Sampler,
    params: &SamplerParams,
    amount: Amount,
) -> Result<()> {
    interrupt::install();
    let is_terminal = std::io::stdin().is_terminal() && output::is_watched();
    if is_terminal {
        output::note("Ctrl-C ends an answer, /reset the conversation, Ctrl-D the program.");
    }
    let mut input = std::io::stdin().lock();
    loop {
        if is_terminal {
            let _ = write!(std::io::stderr(), "> ");
        }
        let mut line = String::new();
        match input.read_line(&mut line) {
            Ok(0) => break,
            Ok(_) => {}
            Err(e) => return Err(io_error("standard input", &e)),
        }
        match line.trim() {
            "" => {}
            "/exit" if is_terminal => break,
            "/reset" if is_terminal => {
                talk.reset()?;
                *sampler = Sampler::new(params)?;
            }
            said => {
                let done = talk.answer(said, sampler, amount)?;
                output::print(if done.text.ends_with('\n') { "" } else { "\n" })?;
                if is_terminal {
                    output::note(&done.stats());
                }
            }
        }
    }
    if is_terminal {
        output::note("");
    }
    Ok(())
}

impl Talk {
    /// Forgets all but what the system says.
    fn reset(&mut self) -> Result<()> {
        self.turns.retain(|turn| turn.role == "system");
        self.forget_from(0)
    }

    /// Takes the user's turn, and prints the assistant's as it comes.
    fn answer(&mut self, said: &str, sampler: &mut Sampler, amount: Amount) -> Result<Generated> {
        self.turns.push(Turn { role: "user", content: said.to_string() });
        let model = self.session.model().clone();
        let new = self.advance(&model)?;
        let done = generate(&mut self.session, sampler, &new, amount, &mut output::print)?;
        if done.stop == Stop::Aborted && done.n_prompt == 0 {
            // The prompt was not evaluated: as if the user had said nothing.
            self.turns.pop();
            self.tokens.truncate(self.tokens.len() - new.len());
            self.text.clear(); // no longer the text of the tokens; the next turn compares those
            return Ok(done);
        }
        self.tokens.extend(done.tokens.iter().take(done.n_held));
        if done.n_held == done.tokens.len() {
            self.text.push_str(&done.text);
        } else {
            self.text.clear();
        }
        self.turns.push(Turn { role: "assistant", content: done.text.clone() });
        Ok(done)
    }

    /// Brings the session to where only the tokens it returns are missing.
    fn advance(&mut self, model: &Model) -> Result<Vec<i32>> {
        let mut text = prompt::format(model, &self.turns)?;
        // Most templates only ever add to the end. Then the tokens held stay what they are, even
        // where the tokenizer would cut the assistant's text in another way.
        let new = match text.strip_prefix(&self.text) {
            Some(rest) if !self.text.is_empty() && !rest.is_empty() => {
                prompt::continued(model, rest)?
            }
            _ => {
                let mut tokens = prompt::formatted(model, &text)?;
                let mut n_same =
                    tokens.iter().zip(&self.tokens).take_while(|(a, b)| a == b).count();
                n_same = n_same.min(tokens.len() - 1); // the last must be evaluated for its logits
                let info = self.session.info();
                if n_same < self.tokens.len() && info.n_kv as usize != self.tokens.len() {
                    // Some were evicted: positions no longer say what is held. Begin anew, with as
                    // much of the conversation as leaves room for an answer.
                    n_same = 0;
                    while tokens.len() > info.n_ctx as usize / 2 && self.drop_oldest() {
                        text = prompt::format(model, &self.turns)?;
                        tokens = prompt::formatted(model, &text)?;
                    }
                }
                self.forget_from(n_same)?;
                tokens.split_off(n_same)
            }
        };
        self.text = text;
        self.tokens.extend(&new);
        Ok(new)
    }

    /// Drops the oldest question and its answer; false if only the newest question is left.
    fn drop_oldest(&mut self) -> bool {
        let first = self.turns.iter().take_while(|turn| turn.role == "system").count();
        if self.turns.len() < first + 3 {
            return false;
        }
        self.turns.drain(first..first + 2);
        true
    }

    fn forget_from(&mut self, pos: usize) -> Result<()> {
        if pos < self.tokens.len() {
            self.session.truncate(pos as u32)?; // fewer than the session ever held
            self.tokens.truncate(pos);
        }
        if pos == 0 {
            self.text.clear();
        }
        Ok(())
    }
}
