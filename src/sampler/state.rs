//! What a sampler has come to, as bytes, to go on from later.
//!
//! ```text
//! parameters  seven shares and penalties f32, three counts and the seed u64; number of biases u64,
//!             each as token i32, bias f32
//! random      the state, four u64
//! history     number of tokens u64, the tokens, oldest first, i32
//! ```
//! All numbers are little-endian. The parameters are there to be compared: a sampler goes on only
//! with those that it was made with.
#![deny(
    clippy::arithmetic_side_effects,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::string_slice,
    clippy::unreachable
)]

use crate::base::error::{Error, Result, err};
use crate::base::rng::Rng;

use super::{Params, Sampler};

/// The parameters that are floats, by name.
fn floats(p: &Params) -> [(&'static str, f32); 7] {
    [
        ("top_p", p.top_p),
        ("min_p", p.min_p),
        ("typical_p", p.typical_p),
        ("temperature", p.temperature),
        ("repeat_penalty", p.repeat_penalty),
        ("frequency_penalty", p.frequency_penalty),
        ("presence_penalty", p.presence_penalty),
    ]
}

/// The parameters that are integers, by name; the number of biases last, since they follow.
fn integers(p: &Params) -> [(&'static str, u64); 5] {
    [
        ("top_k", p.top_k.into()),
        ("penalty_last_n", p.penalty_last_n.into()),
        ("n_logprobs", p.n_logprobs.into()),
        ("seed", p.seed),
        ("n_bias", p.logit_bias.len() as u64),
    ]
}

impl Sampler {
    /// How many bytes [`Sampler::write_state`] puts now. Grows with the tokens seen, up to as many as
    /// the penalties look back at.
    pub fn state_len(&self) -> usize {
        let n_tokens = self.history.len();
        let biases = self.params.logit_bias.len().saturating_mul(8);
        let fixed: usize = 7 * 4 + 5 * 8 + 4 * 8 + 8;
        fixed.saturating_add(biases).saturating_add(n_tokens.saturating_mul(4))
    }

    /// Puts all that the next choices depend on: parameters, random state and history. Not the
    /// log-probabilities of the last choice. Allocates nothing; fails as `put` does.
    pub fn write_state(&self, put: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        for (_, value) in floats(&self.params) {
            put(&value.to_le_bytes())?;
        }
        for (_, value) in integers(&self.params) {
            put(&value.to_le_bytes())?;
        }
        for (token, bias) in &self.params.logit_bias {
            put(&token.to_le_bytes())?;
            put(&bias.to_le_bytes())?;
        }
        for word in self.rng.state() {
            put(&word.to_le_bytes())?;
        }

        put(&(self.history.len() as u64).to_le_bytes())?;
        self.history.tokens().into_iter().flatten().try_for_each(|token| put(&token.to_le_bytes()))
    }

    /// Goes on from where another sampler was, or this one, when it wrote `bytes`: the next choices
    /// are bit for bit those that it would have made.
    ///
    /// Fails with `SnapshotLayout` if that was made with other parameters, `SnapshotCorrupt` if the
    /// bytes are none that [`Sampler::write_state`] puts; the sampler is then as it was. Allocates
    /// nothing.
    pub fn restore_state(&mut self, bytes: &[u8]) -> Result<()> {
        let (rng, tokens) = self.parse(bytes)?;
        self.rng = rng;
        self.logprobs.clear();
        self.history.clear();
        tokens.iter().for_each(|token| self.history.push(i32::from_le_bytes(*token)));
        Ok(())
    }

    /// Fails as [`Sampler::restore_state`] would, and changes nothing.
    pub fn check_state(&self, bytes: &[u8]) -> Result<()> {
        self.parse(bytes).map(|_| ())
    }

    /// The random state and the history in bytes that fit this sampler.
    fn parse<'b>(&self, bytes: &'b [u8]) -> Result<(Rng, &'b [[u8; 4]])> {
        let mut rest = bytes;
        let short = || err!(SnapshotCorrupt, "sampler: {} bytes, expected more", bytes.len());
        for (name, expected) in floats(&self.params) {
            let found = f32::from_le_bytes(take(&mut rest).ok_or_else(short)?);
            if found.to_bits() != expected.to_bits() {
                return Err(other(name, &found, &expected));
            }
        }
        for (name, expected) in integers(&self.params) {
            let found = u64::from_le_bytes(take(&mut rest).ok_or_else(short)?);
            if found != expected {
                return Err(other(name, &found, &expected));
            }
        }
        for (i, (token, bias)) in self.params.logit_bias.iter().enumerate() {
            let found = i32::from_le_bytes(take(&mut rest).ok_or_else(short)?);
            let found_bias = f32::from_le_bytes(take(&mut rest).ok_or_else(short)?);
            if (found, found_bias.to_bits()) != (*token, bias.to_bits()) {
                return Err(err!(
                    SnapshotLayout,
                    "sampler: logit_bias[{i}]: found {found_bias} for token {found}, expected \
                     {bias} for {token}"
                ));
            }
        }
        let mut words = [0; 4];
        for word in &mut words {
            *word = u64::from_le_bytes(take(&mut rest).ok_or_else(short)?);
        }
        let rng = Rng::from_state(words)
            .ok_or_else(|| err!(SnapshotCorrupt, "sampler: its random state is all zeros"))?;
        let n_tokens = u64::from_le_bytes(take(&mut rest).ok_or_else(short)?);
        let (tokens, left) = rest.as_chunks();
        if tokens.len() as u64 != n_tokens || !left.is_empty() {
            return Err(err!(
                SnapshotCorrupt,
                "sampler: {} bytes for {n_tokens} tokens of history",
                rest.len()
            ));
        }
        let last_n = self.history.last_n();
        if tokens.len() > last_n {
            return Err(err!(
                SnapshotCorrupt,
                "sampler: {n_tokens} tokens of history, at most {last_n}"
            ));
        }
        Ok((rng, tokens))
    }
}

/// Takes a number's bytes off the front.
fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (number, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(*number)
}

fn other(name: &str, found: &dyn std::fmt::Display, expected: &dyn std::fmt::Display) -> Error {
    err!(SnapshotLayout, "sampler: {name}: found {found}, expected {expected}")
}
