//! Facts hidden in a text and asked for: what a cache has forgotten, perplexity does not show.

use tern::base::rng::Rng;
use tern::engine::{Logits, Model};

use super::super::args::{Failure, Result};
use super::super::interrupt::{self, Guard};
use super::super::output::Progress;
use super::super::prompt;
use super::lane::Lane;
use super::measure::{Bench, CHUNK, ROWS, slots};
use super::policy::Policy;
use super::score::Row;
use super::segments::{beginning, below};

/// Needles of one kind: what hides a code and what asks for it, what it is the code of, and its
/// digits. `{x}` is the thing, `{n}` the code; the answer begins with the code.
struct Kind {
    templates: &'static [(&'static str, &'static str)],
    things: &'static [&'static str],
    digits: &'static [usize],
}

/// What single runs ask, and policies have been tuned with.
const TUNING: Kind = Kind {
    templates: &[
        (
            "By the way, the code for the {x} has been changed; it is now {n}.",
            "Question: What is the code for the {x} now?\nAnswer: The code for the {x} is now",
        ),
        (
            "A note on the wall said that the access code of the {x} is {n}.",
            "As the note on the wall said, the access code of the {x} is",
        ),
        (
            "Whoever wants to open the {x} has to type the number {n} first.",
            "To open the {x}, one has to type the number",
        ),
        (
            "The inventory number of the {x} is {n}, and it must not be altered.",
            "From the inventory: The inventory number of the {x} is",
        ),
        (
            "When asked, please answer that the pass number of the {x} is {n}.",
            "\"And the pass number?\" she asked. \"The pass number of the {x} is",
        ),
    ],
    things: &[
        "boat house",
        "east tower",
        "archive room",
        "lift motor",
        "seed store",
        "telescope dome",
        "wine cellar",
        "signal box",
        "tool cabinet",
        "ferry office",
        "clock tower",
        "cold chamber",
    ],
    digits: &[4, 5, 6, 7],
};

/// What the suite asks, and nothing was ever tuned with: leave them alone.
const HELD_OUT: Kind = Kind {
    templates: &[
        (
            "In the ledger, the {x} is entered on page {n}.",
            "Where is it in the ledger? In the ledger, the {x} is entered on page",
        ),
        (
            "According to the timetable, the train that brings the {x} has the number {n}.",
            "The timetable says that the train that brings the {x} has the number",
        ),
        (
            "Engraved on the {x} one could read the serial number {n}.",
            "He looked again. Engraved on the {x} one could read the serial number",
        ),
        (
            "The telephone extension for questions about the {x} is {n}.",
            "I have to call them. The telephone extension for questions about the {x} is",
        ),
        (
            "My uncle had insured the {x} for exactly {n} pounds.",
            "How much was it worth? My uncle had insured the {x} for exactly",
        ),
    ],
    things: &[
        "copper kettle",
        "grand piano",
        "weather station",
        "rowing boat",
        "printing press",
        "sewing machine",
        "fire engine",
        "street lamp",
        "water mill",
        "harbour crane",
        "music box",
        "marble statue",
    ],
    digits: &[3, 4, 6, 8],
};

/// A needle in its haystack.
struct Needle {
    /// What comes before the question, fact included.
    context: Vec<i32>,
    question: Vec<i32>,
    code: Vec<i32>,
}

impl Needle {
    /// What is read before the eviction where the question is the end of the prompt. The last token
    /// comes after it, and predicts the first of the code from what is left.
    fn aware(&self) -> Vec<i32> {
        [&self.context, &self.question[..self.question.len() - 1]].concat()
    }

    fn last(&self) -> i32 {
        self.question.last().copied().unwrap_or(0)
    }
}

/// How the question comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ask {
    /// It is the end of the prompt that is then cut down.
    Aware,
    /// After a text that was streamed through a cache of the budget's size; or, by a policy that reads it
    /// again, was cut down when all of it was there.
    Streamed,
}

/// Both ways of asking, with the names that results have.
pub(crate) const ASKS: [(Ask, &str); 2] = [(Ask::Aware, "aware"), (Ask::Streamed, "streamed")];

/// What came of the needles, one way of asking.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Found {
    /// Needles that the full cache was asked for.
    pub(crate) n: u32,
    /// Those that it found; nothing else counts.
    pub(crate) n_full: u32,
    /// Those of them that the policy found.
    pub(crate) n_found: u32,
    /// Sum over what counts of ln p of the code, by the full cache.
    pub(crate) log_p_full: f64,
    /// And by the policy.
    pub(crate) log_p: f64,
}

impl Found {
    /// The part of those that count that the policy found.
    pub(crate) fn part(&self) -> f64 {
        f64::from(self.n_found) / f64::from(self.n_full)
    }
}

/// Which needles, and how many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Asked {
    /// How many.
    pub(crate) n: u32,
    /// Tokens of the prompts that they are hidden in.
    pub(crate) n_prompt: u32,
    /// Whether they are those that nothing was tuned with.
    pub(crate) are_held_out: bool,
}

impl Bench<'_> {
    /// Hides needles and asks for them; gives for each policy what came of both ways of asking.
    pub(crate) fn needles(
        &self,
        asked: Asked,
        policies: &[&'static Policy],
    ) -> Result<Vec<[Found; 2]>> {
        let Asked { n, n_prompt, .. } = asked;
        let budget = slots(self.budget, n_prompt);
        let needles = make(self, asked)?;
        // A question may be longer than a chunk where tokens are bytes.
        let longest = needles.iter().map(|needle| needle.question.len() + needle.code.len()).max();
        let tail = CHUNK.max(longest.unwrap_or(0) as u32);
        let mut full = self.full_lane(n_prompt + tail)?;
        let lanes = policies.iter().map(|policy| {
            let n_ctx = n_prompt + tail + policy.n_beside(n_prompt);
            Lane::new(self.model, &self.params(n_ctx, self.common.kv_types), policy, budget)
        });
        let mut lanes = lanes.collect::<Result<Vec<_>>>()?;
        let mut results = vec![[Found::default(); 2]; lanes.len()];
        let guard = interrupt::guard();
        let mut progress = Progress::new();
        for (i, needle) in needles.iter().enumerate() {
            progress.show(format!("needle {} of {n}", i + 1));
            // A full cache holds the same whichever way it is asked.
            let (log_p_full, is_found) = answer(&mut full, needle, Ask::Streamed, &guard)?;
            results.iter_mut().flatten().for_each(|found| found.n += 1);
            if !is_found {
                continue;
            }
            let aware = answers_aware(&mut lanes, needle, &guard)?;
            for ((lane, results), aware) in lanes.iter_mut().zip(&mut results).zip(aware) {
                let streamed = answer(lane, needle, Ask::Streamed, &guard)?;
                for (found, (log_p, is_found)) in results.iter_mut().zip([aware, streamed]) {
                    found.n_full += 1;
                    found.n_found += u32::from(is_found);
                    found.log_p_full += log_p_full;
                    found.log_p += log_p;
                }
            }
        }
        Ok(results)
    }
}

/// Makes needles: every template with every length of code before any comes twice (the numbers of
/// both have no common divisor), at depths that are spread over the haystack.
fn make(bench: &Bench<'_>, asked: Asked) -> Result<Vec<Needle>> {
    let (n, n_prompt) = (asked.n as usize, asked.n_prompt as usize);
    let Kind { templates, things, digits } = if asked.are_held_out { HELD_OUT } else { TUNING };
    let mut rng = Rng::new(bench.seed ^ 0x6e65_6564_6c65); // another sequence than that of segments
    let begin = beginning(bench.model);
    let per_text = n.div_ceil(bench.texts.len());
    let hay = bench.texts.iter().map(|text| text.stretches(per_text, n_prompt, &mut rng));
    let hay = hay.collect::<Result<Vec<_>>>()?;
    let mut needles = Vec::new();
    let offset = rng.next_f64();
    for i in 0..n {
        let hay = hay[i % hay.len()][i / hay.len()];
        let (fact, question) = templates[i % templates.len()];
        let thing = things[(i * 7) % things.len()];
        let code = code(&mut rng, digits[i % digits.len()]);
        let fill = |text: &str| text.replace("{x}", thing).replace("{n}", &code);
        let fact = prompt::continued(bench.model, &format!("\n\n{}\n\n", fill(fact)))?;
        let (question, code) = split(bench.model, &format!("\n\n{}", fill(question)), &code)?;
        // Multiples of the golden ratio leave no part of the haystack out for long. Its last part is
        // left out: there, whoever keeps what is recent has the needle.
        let depth = 0.05 + 0.65 * (offset + i as f64 * 0.618_033_988_75).fract();
        let room = n_prompt.checked_sub(begin.len() + fact.len() + question.len());
        let Some(room) = room.filter(|&room| room > 0) else {
            return Err(Failure::Usage(format!(
                "--prompt {n_prompt}: too short to hide a needle and ask for it"
            )));
        };
        let at = (room as f64 * depth) as usize;
        let context = [&begin, &hay[..at], &fact, &hay[at..room]].concat();
        needles.push(Needle { context, question, code });
    }
    Ok(needles)
}

/// A code of so many digits, the first not zero.
fn code(rng: &mut Rng, n_digits: usize) -> String {
    let mut digit = |least: usize| char::from(b'0' + (least + below(rng, 10 - least)) as u8);
    (0..n_digits).map(|i| digit(usize::from(i == 0))).collect()
}

/// The tokens of a question, and those that answer it. Where one begins with the last letters of
/// the question, it belongs to the answer.
fn split(model: &Model, question: &str, code: &str) -> Result<(Vec<i32>, Vec<i32>)> {
    let alone = prompt::continued(model, question)?;
    let mut both = prompt::continued(model, &format!("{question} {code}"))?;
    let n_same = alone.iter().zip(&both).take_while(|(a, b)| a == b).count();
    let answer = both.split_off(n_same);
    if both.is_empty() || answer.is_empty() || answer.len() > ROWS as usize {
        return Err(Failure::Usage("--needles: this model has no tokens for numbers".into()));
    }
    Ok((both, answer))
}

/// Asks; gives ln p of the code, and whether each of its tokens is the most probable.
fn answer(lane: &mut Lane, needle: &Needle, ask: Ask, guard: &Guard) -> Result<(f64, bool)> {
    lane.restart()?;
    match ask {
        Ask::Aware => {
            lane.eval(&needle.aware(), Logits::None, guard)?;
            lane.evict()?;
            complete(lane, &[needle.last()], needle, guard)
        }
        Ask::Streamed => {
            for chunk in needle.context.chunks(CHUNK as usize) {
                lane.eval(chunk, Logits::None, guard)?;
                if lane.streams() {
                    lane.evict()?;
                }
            }
            lane.evict()?;
            complete(lane, &needle.question, needle, guard)
        }
    }
}

/// What all lanes answer where the question is the end of the prompt. Before the eviction they hold the
/// same, so that what the first has read serves those for which it counts enough.
fn answers_aware(lanes: &mut [Lane], needle: &Needle, guard: &Guard) -> Result<Vec<(f64, bool)>> {
    let Some((first, others)) = lanes.split_first_mut() else { return Ok(Vec::new()) };
    first.restart()?;
    first.eval(&needle.aware(), Logits::None, guard)?;
    let forks = others.iter().map(|other| first.fork_as(other));
    let forks = forks.collect::<Result<Vec<_>>>()?;
    first.evict()?;
    let mut answers = vec![complete(first, &[needle.last()], needle, guard)?];
    for (other, fork) in others.iter_mut().zip(forks) {
        answers.push(match fork {
            Some(mut fork) => complete(&mut fork, &[needle.last()], needle, guard)?,
            None => answer(other, needle, Ask::Aware, guard)?,
        });
    }
    Ok(answers)
}

/// Evaluates the rest of a question and then the code; gives what [`answer`] gives.
fn complete(lane: &mut Lane, rest: &[i32], needle: &Needle, guard: &Guard) -> Result<(f64, bool)> {
    let code = &needle.code;
    let rest = [rest, &code[..code.len() - 1]].concat(); // the last token is only predicted
    let rows = (rest.len() - code.len()) as u32..rest.len() as u32;
    lane.eval(&rest, Logits::Positions(&rows.collect::<Vec<_>>()), guard)?;
    let (mut log_p, mut is_found, mut row) = (0.0, true, Row::default());
    for (i, &token) in code.iter().enumerate() {
        row.set(lane.logits(i)?)?;
        log_p += row.log_p(token)?;
        is_found &= row.is_best(token);
    }
    Ok((log_p, is_found))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_hide_a_code_and_ask_for_it() {
        for (fact, question) in TUNING.templates.iter().chain(HELD_OUT.templates) {
            assert!(fact.contains("{x}") && fact.contains("{n}"), "{fact}");
            assert!(question.contains("{x}") && !question.contains("{n}"), "{question}");
        }
    }

    #[test]
    fn nothing_held_out_is_tuned_with() {
        let (held, tuned) = (HELD_OUT.templates, TUNING.templates);
        assert!(held.iter().all(|(fact, _)| tuned.iter().all(|(other, _)| fact != other)));
        assert!(HELD_OUT.things.iter().all(|thing| !TUNING.things.contains(thing)));
    }

    #[test]
    fn codes_are_numbers_of_their_length() {
        let mut rng = Rng::new(1);
        for n in [4, 5, 6, 7] {
            for _ in 0..200 {
                let code = code(&mut rng, n);
                assert!(code.len() == n && !code.starts_with('0'), "{code}");
                assert!(code.bytes().all(|digit| digit.is_ascii_digit()));
            }
        }
    }
}
