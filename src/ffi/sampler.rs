//! tern_sampler_*: from logits to a token.

use super::guard::{guard, quietly};
use super::handle::{SAMPLERS, SESSIONS, give, tern_sampler, tern_session};
use super::params::*;
use super::pointer::{fill, out, read_sized, slice};
use super::status::tern_status;
use crate::base::error::{Result, err};
use crate::base::sync::RwLock;
use crate::engine::{Sampler, SamplerParams};

/// Tokens that one call of tern_session_generate() gives at most.
const MOST_GENERATED: usize = 64;

/// What a `tern_sampler *` stands for.
pub(super) struct Sampling {
    sampler: Sampler,
    /// The sampler's own, as C wants them. Room for all that it can give.
    logprobs: Vec<tern_token_logprob>,
}

impl Sampling {
    pub(super) fn sampler(&self) -> &Sampler {
        &self.sampler
    }

    /// To be set to another state; [`Sampling::update_logprobs`] then.
    pub(super) fn sampler_mut(&mut self) -> &mut Sampler {
        &mut self.sampler
    }

    /// Copies what the sampler says of its last choice. Allocates nothing.
    pub(super) fn update_logprobs(&mut self) {
        self.logprobs.clear();
        let room = self.logprobs.capacity();
        let found = self.sampler.logprobs().iter().take(room);
        self.logprobs.extend(found.map(|&(token, logprob)| tern_token_logprob { token, logprob }));
    }
}

/// Makes a sampler. `params` may be NULL, which samples greedily.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn tern_sampler_new(
    params: *const tern_sampler_params,
    sampler: *mut *mut tern_sampler,
) -> tern_status {
    guard(|| {
        // SAFETY: the header's contract for structs and out parameters.
        let (params, sampler) =
            unsafe { (read_sized(params, "params")?, out(sampler, "sampler")?) };
        // SAFETY: the header's contract for buffers.
        let bias = unsafe { slice(params.logit_bias, params.n_logit_bias, "logit_bias")? };
        let new = Sampler::new(&sampler_params(&params, bias)?)?;
        let mut logprobs = Vec::new();
        logprobs
            .try_reserve_exact(params.n_logprobs as usize + 1)
            .map_err(|_| err!(OutOfMemory, "{} log-probabilities", params.n_logprobs))?;
        give(&SAMPLERS, RwLock::new(Sampling { sampler: new, logprobs }), sampler)
    })
}

/// Frees a sampler. `sampler` may be NULL.
#[unsafe(no_mangle)]
pub extern "C" fn tern_sampler_free(sampler: *mut tern_sampler) {
    quietly(|| SAMPLERS.remove(sampler));
}

/// Samples the next token from the session's logits, and remembers it for the penalties.
///
/// Fails with TERN_ERROR_NOT_READY or TERN_ERROR_NOT_FINITE.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn tern_sampler_sample(
    sampler: *mut tern_sampler,
    session: *const tern_session,
    token: *mut tern_token,
) -> tern_status {
    guard(|| {
        let (sampler, session) = (SAMPLERS.get(sampler)?, SESSIONS.get(session)?);
        // SAFETY: the header's contract for out parameters.
        let token = unsafe { out(token, "token")? };
        let (mut sampling, state) = (sampler.write()?, session.read()?);
        let chosen = state.sample(&mut sampling.sampler);
        sampling.update_logprobs();
        token.write(chosen?);
        Ok(())
    })
}

/// Generates one or more tokens: samples the next one, and evaluates it together with `n_draft`
/// tokens that followed where the text said the same before. Gives those that were chosen, in order;
/// they are in the KV cache then, and the logits are those of the last.
///
/// The tokens are the same as without drafts: those of tern_sampler_sample() and
/// tern_session_eval() in turn. Text that repeats itself or its prompt comes several at a time.
/// Nothing follows a token that ends generation. `params` may be NULL. Eval before the first call.
///
/// `tokens` has room for `capacity`, at least 1; at most 64 are given. Fails as tern_sampler_sample() and
/// tern_session_eval_with() do; the call can be repeated.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn tern_session_generate(
    session: *mut tern_session,
    sampler: *mut tern_sampler,
    params: *const tern_generate_params,
    tokens: *mut tern_token,
    capacity: usize,
    n_tokens: *mut usize,
) -> tern_status {
    guard(|| {
        let (session, sampler) = (SESSIONS.get(session)?, SAMPLERS.get(sampler)?);
        // SAFETY: the header's contract for structs, buffers and out parameters.
        let (params, n_tokens) = unsafe {
            out(tokens, "tokens")?;
            (read_sized(params, "params")?, out(n_tokens, "n_tokens")?)
        };
        let control = session.control(params.deadline_ns);
        let (mut sampling, mut state) = (sampler.write()?, session.write()?);
        let mut chosen = [0; MOST_GENERATED];
        let (chosen, _) = chosen.split_at_mut(capacity.min(MOST_GENERATED));
        let n = state.generate(&mut sampling.sampler, params.n_draft, &control, chosen);
        sampling.update_logprobs();
        let (chosen, _) = chosen.split_at(n?);
        // SAFETY: the header's contract for buffers.
        unsafe { fill(tokens, capacity, "tokens", chosen, n_tokens) }
    })
}

/// Remembers a token that was not sampled, such as one of the prompt, for the penalties.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn tern_sampler_accept(
    sampler: *mut tern_sampler,
    token: tern_token,
) -> tern_status {
    guard(|| {
        if token < 0 {
            return Err(err!(InvalidArgument, "no token {token}"));
        }
        SAMPLERS.get(sampler)?.write()?.sampler.accept(token);
        Ok(())
    })
}

/// Forgets the repetition history and seeds the random state anew.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn tern_sampler_reset(sampler: *mut tern_sampler) -> tern_status {
    guard(|| {
        let sampler = SAMPLERS.get(sampler)?;
        let mut sampling = sampler.write()?;
        sampling.sampler.reset();
        sampling.update_logprobs();
        Ok(())
    })
}

/// Gives the log-probabilities of the token sampled last, and then of the `n_logprobs` most
/// probable ones, best first: those that the model gave, before bias, penalties and temperature.
///
/// `list` is lent until the next call with a non-const `sampler`. It is empty before the first
/// sample, after a failed one, and if `n_logprobs` is 0.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn tern_sampler_logprobs(
    sampler: *const tern_sampler,
    list: *mut *const tern_token_logprob,
    n: *mut usize,
) -> tern_status {
    guard(|| {
        let sampler = SAMPLERS.get(sampler)?;
        // SAFETY: the header's contract for out parameters.
        let (list, n) = unsafe { (out(list, "list")?, out(n, "n")?) };
        let sampling = sampler.read()?;
        list.write(sampling.logprobs.as_ptr());
        n.write(sampling.logprobs.len());
        Ok(())
    })
}

/// The sampler's view of C's parameters.
fn sampler_params(params: &tern_sampler_params, bias: &[tern_logit_bias]) -> Result<SamplerParams> {
    if params.reserved != 0 {
        return Err(err!(Unsupported, "params: reserved is {}, expected 0", params.reserved));
    }
    let mut logit_bias = Vec::new();
    logit_bias
        .try_reserve_exact(bias.len())
        .map_err(|_| err!(OutOfMemory, "{} biases", bias.len()))?;
    logit_bias.extend(bias.iter().map(|b| (b.token, b.bias)));
    Ok(SamplerParams {
        top_k: params.top_k,
        top_p: params.top_p,
        min_p: params.min_p,
        typical_p: params.typical_p,
        temperature: params.temperature,
        repeat_penalty: params.repeat_penalty,
        frequency_penalty: params.frequency_penalty,
        presence_penalty: params.presence_penalty,
        penalty_last_n: params.penalty_last_n,
        seed: params.seed,
        logit_bias,
        n_logprobs: params.n_logprobs,
    })
}
