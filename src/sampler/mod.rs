//! Logits to a token.
//!
//! A [`Sampler`] is a pure function of its parameters, the logits it was given and the tokens that
//! it has seen. It knows nothing of models or text.
//!
//! # The order
//!
//! 1. **Logit bias**: each bias is added to its token's logit, in the order given.
//! 2. **Penalties**, for each token among the last `penalty_last_n`: a positive logit is divided by
//!    `repeat_penalty`, a negative one multiplied by it; then `frequency_penalty` times the number
//!    of occurrences, and `presence_penalty`, are subtracted.
//! 3. **Top-k**: the `top_k` highest logits stay, the lower token first among equals.
//! 4. **Typical**: the tokens whose information `-ln p` is nearest to the expected one stay, until
//!    they hold a share `typical_p` of the probability.
//! 5. **Top-p**: the most probable tokens stay, until they hold a share `top_p` of the probability.
//! 6. **Min-p**: the tokens at least `min_p` times as probable as the most probable one stay.
//! 7. **Temperature**: the logits are divided by it.
//! 8. **Draw**: one token, by the softmax of what is left.
//!
//! Each filter sees the probabilities that the filter before it left, scaled to sum to 1. With
//! `temperature` 0 the token after step 2 with the highest logit is taken, the lowest such token
//! among equals; steps 3 to 8 and the random numbers are left out. A logit of minus infinity bans
//! its token; a bias of minus infinity does too.
//!
//! # The same tokens everywhere
//!
//! The same parameters, logits and tokens seen give the same choice on every machine and with
//! every instruction set. So the arithmetic is part of the interface (`tests/sampler.rs` records a
//! sequence), and it is this:
//!
//! - Steps 1 and 2 compute in f64 from the f32 logit, in the order written above, and round once
//!   to f32; what is beyond the largest finite f32 becomes that.
//! - From step 3 on, a weight is `exp(l - max)` in f64, `max` being the highest logit still in the
//!   draw, with the `exp` that `math.rs` spells out in additions and multiplications. Sums have a
//!   written order there too. Nothing is left to the C library or to a fused operation.
//! - The list of candidates is sorted, best first, once top-k (with `top_k` below the size of the
//!   vocabulary), typical or top-p was in force; until then it is in ascending tokens.
//! - Step 8 takes one [`next_f64`](crate::base::rng::Rng::next_f64) of the sequence that `seed`
//!   starts, and walks the list in its order.
//!
//! Nothing allocates after [`Sampler::new`] and [`Scratch::new`].

mod filter;
mod history;
mod math;
mod rank;
#[cfg(test)]
mod reference;
mod row;
mod state;

use crate::base::error::{Result, err};
use crate::base::rng::Rng;
use filter::Candidates;
use history::History;
use row::Row;

/// How many tokens the penalties look back at when `penalty_last_n` is 0.
pub const DEFAULT_PENALTY_LAST_N: u32 = 64;
/// The longest history that can be asked for.
pub const MAX_PENALTY_LAST_N: u32 = 1 << 20;
/// How many of the best log-probabilities can be asked for.
pub const MAX_LOGPROBS: u32 = 64;

/// How to sample. All zero is greedy: the most probable token, always.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Params {
    /// How many tokens stay in the draw; 0: all.
    pub top_k: u32,
    /// The share of probability that stays in the draw, 0 to 1; 0 or 1: all.
    pub top_p: f32,
    /// The least probability that stays, as a share of the highest, 0 to 1; 0: all stay.
    pub min_p: f32,
    /// The share of probability that typical sampling keeps, 0 to 1; 0 or 1: all.
    pub typical_p: f32,
    /// What divides the logits before the draw, 0 to 100; 0: no draw, the best token.
    pub temperature: f32,
    /// What divides the logit of a repeated token, 0.01 to 100; 0 or 1: nothing.
    pub repeat_penalty: f32,
    /// What each occurrence subtracts from a token's logit, -100 to 100.
    pub frequency_penalty: f32,
    /// What any occurrence subtracts from a token's logit, -100 to 100.
    pub presence_penalty: f32,
    /// How many of the last tokens the penalties look at, at most 1,048,576; 0: 64.
    pub penalty_last_n: u32,
    /// Where the random numbers start.
    pub seed: u64,
    /// Tokens and what is added to their logits: -10,000 to 10,000, or minus infinity as a ban.
    pub logit_bias: Vec<(i32, f32)>,
    /// How many of the best log-probabilities to report, at most 64; 0: none at all.
    pub n_logprobs: u32,
}

impl Params {
    /// Checks every field against its range.
    fn check(&self) -> Result<()> {
        for (name, value, low, high) in [
            ("top_p", self.top_p, 0.0, 1.0),
            ("min_p", self.min_p, 0.0, 1.0),
            ("typical_p", self.typical_p, 0.0, 1.0),
            ("temperature", self.temperature, 0.0, 100.0),
            ("frequency_penalty", self.frequency_penalty, -100.0, 100.0),
            ("presence_penalty", self.presence_penalty, -100.0, 100.0),
        ] {
            if !(low..=high).contains(&value) {
                return Err(err!(InvalidArgument, "{name}: {value}, expected {low} to {high}"));
            }
        }
        let repeat = self.repeat_penalty;
        if repeat != 0.0 && !(0.01..=100.0).contains(&repeat) {
            return Err(err!(
                InvalidArgument,
                "repeat_penalty: {repeat}, expected 0 or 0.01 to 100"
            ));
        }
        for (name, value, high) in [
            ("penalty_last_n", self.penalty_last_n, MAX_PENALTY_LAST_N),
            ("n_logprobs", self.n_logprobs, MAX_LOGPROBS),
        ] {
            if value > high {
                return Err(err!(InvalidArgument, "{name}: {value}, expected 0 to {high}"));
            }
        }
        for (i, &(token, bias)) in self.logit_bias.iter().enumerate() {
            if token < 0 {
                return Err(err!(
                    InvalidArgument,
                    "logit_bias[{i}]: token {token}, expected 0 or more"
                ));
            }
            if bias != f32::NEG_INFINITY && !(-1.0e4..=1.0e4).contains(&bias) {
                return Err(err!(
                    InvalidArgument,
                    "logit_bias[{i}]: bias {bias}, expected -10000 to 10000 or minus infinity"
                ));
            }
        }
        Ok(())
    }

    /// Whether a filter with a share is in force.
    fn filters(share: f32) -> bool {
        share > 0.0 && share < 1.0
    }

    /// Whether the token with the greatest logit is all that is asked for.
    fn only_best(&self) -> bool {
        let Params { temperature, n_logprobs, .. } = *self;
        temperature == 0.0 && n_logprobs == 0 && self.logit_bias.is_empty() && !self.penalises()
    }

    /// Whether a penalty is in force.
    fn penalises(&self) -> bool {
        (self.repeat_penalty != 0.0 && self.repeat_penalty != 1.0)
            || self.frequency_penalty != 0.0
            || self.presence_penalty != 0.0
    }
}

/// The memory that sampling works in. One serves any number of samplers, one at a time.
pub struct Scratch {
    /// Logits after bias and penalties, where these change any.
    logits: Vec<f32>,
    keys: Vec<u64>,
    /// For each chunk its highest logit, then its sum of weights.
    chunks: Vec<f64>,
}

impl Scratch {
    /// Memory for logits over `n_vocab` tokens.
    pub fn new(n_vocab: usize) -> Result<Scratch> {
        if n_vocab == 0 || i32::try_from(n_vocab).is_err() {
            return Err(err!(InvalidArgument, "n_vocab: {n_vocab}, expected 1 to {}", i32::MAX));
        }
        let n_chunks = n_vocab.div_ceil(math::CHUNK);
        let mut scratch = Scratch { logits: Vec::new(), keys: Vec::new(), chunks: Vec::new() };
        let no_room = |_| err!(OutOfMemory, "sampler: no memory for {n_vocab} logits");
        scratch.logits.try_reserve_exact(n_vocab).map_err(no_room)?;
        scratch.keys.try_reserve_exact(n_vocab).map_err(no_room)?;
        scratch.chunks.try_reserve_exact(n_chunks).map_err(no_room)?;
        scratch.logits.resize(n_vocab, 0.0);
        scratch.keys.resize(n_vocab, 0);
        scratch.chunks.resize(n_chunks, 0.0);
        Ok(scratch)
    }

    /// The bytes that [`Scratch::new`] allocates.
    pub fn bytes(n_vocab: usize) -> u64 {
        let n = n_vocab as u64;
        n * 4 + n * 8 + n.div_ceil(math::CHUNK as u64) * 8
    }

    /// How many logits it has room for: exactly as many as must be sampled from.
    pub fn n_vocab(&self) -> usize {
        self.logits.len()
    }
}

/// Chooses tokens from logits; owns the random state and the history of tokens.
pub struct Sampler {
    params: Params,
    rng: Rng,
    history: History,
    logprobs: Vec<(i32, f32)>,
}

impl Sampler {
    /// A sampler that has seen no tokens. A parameter out of its range is an `InvalidArgument`.
    pub fn new(params: &Params) -> Result<Sampler> {
        params.check()?;
        let last_n = match params.penalty_last_n {
            0 => DEFAULT_PENALTY_LAST_N,
            n => n,
        };
        let mut bias = Vec::new();
        bias.try_reserve_exact(params.logit_bias.len())
            .map_err(|_| err!(OutOfMemory, "sampler: {} biases", params.logit_bias.len()))?;
        bias.extend_from_slice(&params.logit_bias);
        let mut logprobs = Vec::new();
        logprobs
            .try_reserve_exact(MAX_LOGPROBS as usize + 1)
            .map_err(|_| err!(OutOfMemory, "sampler: {MAX_LOGPROBS} log-probabilities"))?;
        Ok(Sampler {
            rng: Rng::new(params.seed),
            history: History::new(last_n as usize)?,
            params: Params { logit_bias: bias, ..*params },
            logprobs,
        })
    }

    /// Whether it chooses the token with the greatest logit, whatever the others are: greedily,
    /// without penalties, biases and log-probabilities.
    pub fn wants_only_best(&self) -> bool {
        self.params.only_best()
    }

    /// Chooses a token from one row of logits, and remembers it as [`Sampler::accept`] does.
    ///
    /// The logits are as many as the scratch has room for. One that is not finite is a
    /// `NotFinite`, minus infinity apart: it bans its token. So is a row that bans them all. A
    /// failed call leaves the random state and the history as they were.
    pub fn sample(&mut self, logits: &[f32], scratch: &mut Scratch) -> Result<i32> {
        self.sample_knowing(logits, std::iter::empty(), scratch)
    }

    /// The same for who knows the highest logit of every chunk already, as
    /// [`Highest::of_row`](crate::base::highest::Highest::of_row) gives them: most logits are then not
    /// read again. Where one is missing, all are looked for.
    pub fn sample_knowing(
        &mut self,
        logits: &[f32],
        known: impl Iterator<Item = Option<f32>>,
        scratch: &mut Scratch,
    ) -> Result<i32> {
        self.logprobs.clear();
        if logits.len() != scratch.n_vocab() {
            return Err(err!(
                InvalidArgument,
                "{} logits, expected {}",
                logits.len(),
                scratch.n_vocab()
            ));
        }
        let Scratch { logits: room, keys, chunks } = scratch;
        let mut row = Row::new(logits, room);
        if !take_highest(known, chunks) {
            find_highest(&row, chunks)?;
        }
        self.apply_bias(&mut row)?;
        self.apply_penalties(&mut row);
        row.find_highest_again(chunks);
        let max = chunks.iter().fold(f64::NEG_INFINITY, |max, &h| if h > max { h } else { max });
        if max == f64::NEG_INFINITY {
            return Err(err!(NotFinite, "every token is banned: all logits are minus infinity"));
        }
        let token = if self.params.temperature == 0.0 {
            row.first(max, chunks)
        } else {
            self.draw(&row, max as f32, keys, chunks)
        };
        if self.params.n_logprobs > 0 {
            self.find_logprobs(&Row::new(logits, room), token, keys, chunks)?;
        }
        self.history.push(token as i32);
        Ok(token as i32)
    }

    /// Remembers a token for the penalties, as one that came from elsewhere: a prompt's.
    pub fn accept(&mut self, token: i32) {
        self.history.push(token);
    }

    /// Forgets all tokens and starts the random numbers again from the seed.
    pub fn reset(&mut self) {
        self.rng = Rng::new(self.params.seed);
        self.history.clear();
        self.logprobs.clear();
    }

    /// Natural logarithms of the softmax of the logits that the last [`Sampler::sample`] was given,
    /// before bias, penalties and temperature: the chosen token's first, then the `n_logprobs`
    /// highest, descending, the lower token first among equals; fewer if fewer tokens are not
    /// banned. Empty before the first sample, after a failed one, and when `n_logprobs` is 0.
    pub fn logprobs(&self) -> &[(i32, f32)] {
        &self.logprobs
    }

    /// What the sampler was made with.
    pub fn params(&self) -> &Params {
        &self.params
    }

    /// Step 1.
    fn apply_bias(&self, row: &mut Row<'_>) -> Result<()> {
        let n_vocab = row.len();
        for (i, &(token, bias)) in self.params.logit_bias.iter().enumerate() {
            let Some(logit) = row.logit_mut(token as usize) else {
                return Err(err!(
                    InvalidArgument,
                    "logit_bias[{i}]: token {token}, expected less than {n_vocab}"
                ));
            };
            *logit = rounded(f64::from(*logit) + f64::from(bias));
        }
        Ok(())
    }

    /// Step 2.
    fn apply_penalties(&self, row: &mut Row<'_>) {
        if !self.params.penalises() {
            return;
        }
        let repeat = match self.params.repeat_penalty {
            0.0 => 1.0,
            p => f64::from(p),
        };
        let frequency = f64::from(self.params.frequency_penalty);
        let presence = f64::from(self.params.presence_penalty);
        for (token, n) in self.history.counts() {
            // A token that is not in this vocabulary was accepted; it has nothing to lose.
            let Some(logit) = usize::try_from(token).ok().and_then(|t| row.logit_mut(t)) else {
                continue;
            };
            let from = f64::from(*logit);
            let repeated = if from > 0.0 { from / repeat } else { from * repeat };
            *logit = rounded(repeated - f64::from(n) * frequency - presence);
        }
    }

    /// Steps 3 to 8.
    fn draw(&mut self, row: &Row<'_>, max: f32, keys: &mut [u64], chunks: &mut [f64]) -> usize {
        let params = &self.params;
        let mut candidates = Candidates::new(row, chunks, max, params.top_k as usize, keys);
        if Params::filters(params.typical_p) {
            candidates.typical(params.typical_p);
        }
        if Params::filters(params.top_p) {
            candidates.top_p(params.top_p);
        }
        if params.min_p > 0.0 {
            candidates.min_p(params.min_p);
        }
        candidates.draw(params.temperature, self.rng.next_f64()) as usize
    }

    /// Fills `logprobs` for a chosen token, from the logits as they came.
    fn find_logprobs(
        &mut self,
        row: &Row<'_>,
        chosen: usize,
        keys: &mut [u64],
        chunks: &mut [f64],
    ) -> Result<()> {
        find_highest(row, chunks)?;
        let max = chunks.iter().fold(f64::NEG_INFINITY, |max, &h| if h > max { h } else { max });
        let mut sum = 0.0;
        for i in 0..row.n_chunks() {
            let [chunk] = math::sum_chunk(row.chunk(i), |logits| {
                logits.iter_mut().for_each(|logit| *logit -= max);
                math::exps(logits);
                [*logits]
            });
            sum += chunk;
        }
        let ln_sum = math::ln(sum);
        let logprob = |token: usize| (f64::from(row.logit(token)) - max - ln_sum) as f32;
        self.logprobs.push((chosen as i32, logprob(chosen)));
        let n = filter::best(row, chunks, self.params.n_logprobs as usize, keys);
        for key in &keys[..n] {
            let token = filter::token(*key);
            self.logprobs.push((token as i32, logprob(token as usize)));
        }
        Ok(())
    }
}

/// Takes over the highest logits of all chunks; `false` if one is missing.
fn take_highest(mut known: impl Iterator<Item = Option<f32>>, highest: &mut [f64]) -> bool {
    highest.iter_mut().all(|highest| match known.next().flatten() {
        Some(known) => {
            *highest = f64::from(known);
            true
        }
        None => false,
    })
}

/// The highest logit of every chunk. Fails on the first that is neither finite nor minus infinity.
fn find_highest(row: &Row<'_>, highest: &mut [f64]) -> Result<()> {
    row.find_highest(highest)
        .map_err(|token| err!(NotFinite, "token {token}: its logit is {}", row.logit(token)))
}

/// A logit rounded to f32, kept finite unless it is minus infinity.
fn rounded(logit: f64) -> f32 {
    if logit == f64::NEG_INFINITY {
        f32::NEG_INFINITY
    } else {
        logit.clamp(f64::from(f32::MIN), f64::from(f32::MAX)) as f32
    }
}
