//! How tokens leave, as bytes: to be compared with what a session was made with.

use crate::base::error::{Result, err};
use crate::base::le::{Fields, Put};
use crate::kv::eviction::{Rule, SLACK};
use crate::kv::policy::{DEFAULT_SINKS, Params, Quotas};

/// Parameters of a policy that are floats; they stand first among its numbers.
const N_FLOATS: usize = 4;

/// The parameters of a policy by name, floats by their bits.
fn numbers(params: &Params) -> [(&'static str, u64); 11] {
    // All of them: what a policy depends on must be the same again.
    let Params { n_sink, quotas, n_obs, half_life, n_pool, n_pool_leverage, eps, n_future, seed } =
        *params;
    let Quotas { recent, attn, leverage } = quotas;
    let bits = |x: f32| u64::from(x.to_bits());
    [
        ("quota recent", bits(recent)),
        ("quota attn", bits(attn)),
        ("quota leverage", bits(leverage)),
        ("eps", bits(eps)),
        ("n_sink", n_sink as u64),
        ("n_obs", n_obs as u64),
        ("half_life", u64::from(half_life)),
        ("n_pool", n_pool as u64),
        ("n_pool_leverage", n_pool_leverage as u64),
        ("n_future", n_future as u64),
        ("seed", seed),
    ]
}

/// Puts the policy's name, the budget and all parameters.
pub(super) fn write(rule: Option<Rule>, put: &mut Put<'_>) -> Result<()> {
    let name = rule.map_or("", |rule| rule.policy.name());
    put(&(name.len() as u32).to_le_bytes())?;
    put(name.as_bytes())?;
    let Some(rule) = rule else { return Ok(()) };
    put(&(rule.budget.unwrap_or(0) as u64).to_le_bytes())?;
    numbers(&rule.params).iter().try_for_each(|(_, number)| put(&number.to_le_bytes()))
}

/// Takes what [`write`] put, in a cache that was made for a rule: it has to be that one, but for
/// the budget, and may be [`Rule::streaming`] where there was none, which is what a budget makes of
/// it.
pub(super) fn read(bytes: &[u8], made: Option<Rule>, n_slots: usize) -> Result<Option<Rule>> {
    let mut fields = Fields::new("KV policy", bytes);
    let n = fields.u32()?;
    let name = fields.bytes(n as usize)?;
    if n == 0 && made.is_none() {
        return fields.end().map(|()| None);
    }
    let made = made.unwrap_or_else(|| Rule::streaming(DEFAULT_SINKS));
    if name != made.policy.name().as_bytes() {
        return Err(err!(
            SnapshotLayout,
            "snapshot: KV policy: found \"{}\", expected {}",
            name.escape_ascii(),
            made.policy.name()
        ));
    }
    let budget = fields.u64()?;
    for (i, (name, expected)) in numbers(&made.params).into_iter().enumerate() {
        let found = fields.u64()?;
        if found == expected {
            continue;
        }
        return Err(match i < N_FLOATS {
            true => err!(
                SnapshotLayout,
                "snapshot: KV policy: {name}: found {}, expected {}",
                f32::from_bits(found as u32),
                f32::from_bits(expected as u32)
            ),
            false => err!(
                SnapshotLayout,
                "snapshot: KV policy: {name}: found {found}, expected {expected}"
            ),
        });
    }
    fields.end()?;
    let most = n_slots.saturating_sub(SLACK);
    if budget > most as u64 {
        return Err(err!(
            SnapshotLayout,
            "snapshot: KV budget: found {budget}, expected at most {most} with {n_slots} slots"
        ));
    }
    Ok(Some(Rule { budget: (budget > 0).then_some(budget as usize), ..made }))
}
