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

/// What hides a code, and what asks for it. `{x}` is the thing, `{n}` the code; the answer begins
/// with the code.
const TEMPLATES: &[(&str, &str)] = &[
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
];

const THINGS: &[&str] = &[
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
];

/// Digits of a code.
const DIGITS: &[usize] = &[4, 5, 6, 7];

/// A needle in its haystack.
struct Needle {
    /// What comes before the question, fact included.
    context: Vec<i32>,
    question: Vec<i32>,
    code: Vec<i32>,
}

/// How the question comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ask {
    /// It is the end of the prompt that is then cut down.
    Aware,
    /// After a text that was streamed through a cache of the budget's size.
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

/// For each policy, what came of both ways of asking.
pub(crate) type Results = Vec<[Found; 2]>;

impl Bench<'_> {
    /// Hides `n` needles and asks for them, with contexts of `n_prompt` tokens.
    pub(crate) fn needles(
        &self,
        n: usize,
        n_prompt: u32,
        policies: &[&'static Policy],
    ) -> Result<Results> {
        let budget = slots(self.budget, n_prompt);
        let needles = make(self, n, n_prompt as usize)?;
        // A question may be longer than a chunk where tokens are bytes.
        let longest = needles.iter().map(|needle| needle.question.len() + needle.code.len()).max();
        let tail = CHUNK.max(longest.unwrap_or(0) as u32);
        let mut full = self.full_lane(n_prompt + tail)?;
        let params = self.params(n_prompt + tail, self.common.kv_types);
        let lanes = policies.iter().map(|policy| Lane::new(self.model, &params, policy, budget));
        let mut lanes = lanes.collect::<Result<Vec<_>>>()?;
        let mut results = vec![[Found::default(); 2]; lanes.len()];
        let guard = interrupt::guard();
        let mut progress = Progress::new();
        for (i, needle) in needles.iter().enumerate() {
            progress.show(format!("needle {} of {n}", i + 1));
            // A full cache holds the same whichever way it is asked.
            let (log_p_full, is_found) = answer(&mut full, needle, Ask::Aware, &guard)?;
            for (lane, results) in lanes.iter_mut().zip(&mut results) {
                for ((ask, _), found) in ASKS.into_iter().zip(results) {
                    found.n += 1;
                    if is_found {
                        let (log_p, is_found) = answer(lane, needle, ask, &guard)?;
                        found.n_full += 1;
                        found.n_found += u32::from(is_found);
                        found.log_p_full += log_p_full;
                        found.log_p += log_p;
                    }
                }
            }
        }
        Ok(results)
    }
}

/// Makes needles: every template with every length of code before any comes twice, at depths that
/// are spread over the haystack.
fn make(bench: &Bench<'_>, n: usize, n_prompt: usize) -> Result<Vec<Needle>> {
    let mut rng = Rng::new(bench.seed ^ 0x6e65_6564_6c65); // another sequence than that of segments
    let begin = beginning(bench.model);
    let per_text = n.div_ceil(bench.texts.len());
    let hay = bench.texts.iter().map(|text| text.stretches(per_text, n_prompt, &mut rng));
    let hay = hay.collect::<Result<Vec<_>>>()?;
    let mut needles = Vec::new();
    let offset = rng.next_f64();
    for i in 0..n {
        let hay = hay[i % hay.len()][i / hay.len()];
        let (fact, question) = TEMPLATES[i % TEMPLATES.len()];
        let thing = THINGS[(i * 7) % THINGS.len()];
        let code = code(&mut rng, DIGITS[i % DIGITS.len()]);
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
    let Needle { context, question, code } = needle;
    let known = &code[..code.len() - 1]; // the last token is only predicted
    lane.restart()?;
    let rest = match ask {
        Ask::Aware => {
            // The last token of the question is evaluated after the eviction, and predicts the
            // first of the code from what is left.
            let (last, asked) = question.split_last().unwrap_or((&0, &[]));
            lane.eval(&[context, asked].concat(), Logits::None, guard)?;
            lane.evict()?;
            [&[*last], known].concat()
        }
        Ask::Streamed => {
            for chunk in context.chunks(CHUNK as usize) {
                lane.eval(chunk, Logits::None, guard)?;
                lane.evict()?;
            }
            [question, known].concat()
        }
    };
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
        for (fact, question) in TEMPLATES {
            assert!(fact.contains("{x}") && fact.contains("{n}"), "{fact}");
            assert!(question.contains("{x}") && !question.contains("{n}"), "{question}");
        }
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
