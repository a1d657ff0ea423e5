//! The options of commands that sample.

use std::time::{SystemTime, UNIX_EPOCH};

use tern::engine::SamplerParams;

use super::args::{Args, Result};

/// How to sample if nothing else is said: lively, without the tail that derails small models; seeded
/// by the clock.
pub(crate) fn defaults() -> SamplerParams {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    SamplerParams {
        temperature: 0.7,
        top_p: 0.9,
        min_p: 0.05,
        seed: now.as_nanos() as u64 & 0xffff_ffff, // short enough to type again
        ..SamplerParams::default()
    }
}

/// Takes an option if it is about sampling; says whether it was.
pub(crate) fn take(params: &mut SamplerParams, option: &str, args: &mut Args) -> Result<bool> {
    match option {
        "--seed" => params.seed = args.number(option, 0..=u64::MAX)?,
        "--temp" => params.temperature = args.number(option, 0.0..=100.0)?,
        "--top-k" => params.top_k = args.number(option, 0..=u32::MAX)?,
        "--top-p" => params.top_p = args.number(option, 0.0..=1.0)?,
        "--min-p" => params.min_p = args.number(option, 0.0..=1.0)?,
        "--typical" => params.typical_p = args.number(option, 0.0..=1.0)?,
        "--repeat-penalty" => params.repeat_penalty = args.number(option, 0.01..=100.0)?,
        "--frequency-penalty" => params.frequency_penalty = args.number(option, -100.0..=100.0)?,
        "--presence-penalty" => params.presence_penalty = args.number(option, -100.0..=100.0)?,
        "--penalty-last-n" => params.penalty_last_n = args.number(option, 1..=1 << 20)?,
        _ => return Ok(false),
    }
    Ok(true)
}
