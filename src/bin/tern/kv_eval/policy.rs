//! The eviction policies that can be measured: one row each.

use tern::engine::{self, Session};

use super::super::args::{Failure, Result};

/// What a policy is in the suite.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// It is what the suite is about.
    Subject,
    /// A control that changes nothing: it must give the very numbers of the full cache.
    Exact,
    /// A control that is known to be bad: it must fail the gates.
    MustFail,
}

/// A way to choose what stays in a cache.
pub(crate) struct Policy {
    /// What the command line and the results call it.
    pub(crate) name: &'static str,
    /// What it keeps, in a few words.
    pub(crate) keeps: &'static str,
    /// What it is in the suite.
    pub(crate) role: Role,
    /// Whether it ever evicts.
    pub(crate) evicts: bool,
    /// Evicts until so many tokens stay; gives how many left.
    pub(crate) evict: fn(&mut Session, u32) -> engine::Result<u32>,
}

/// First tokens that `streaming` keeps.
const SINKS: u32 = 4;
/// The least slots that a budget may be: the sinks, and as many recent tokens.
pub(crate) const LEAST_SLOTS: u32 = 2 * SINKS;

/// Every policy that the engine has.
pub(crate) const POLICIES: &[Policy] = &[
    Policy {
        name: "none",
        keeps: "everything",
        role: Role::Exact,
        evicts: false,
        evict: |_, _| Ok(0),
    },
    Policy {
        name: "streaming",
        keeps: "the first four tokens and the most recent",
        role: Role::Subject,
        evicts: true,
        evict: |session, n_keep| session.kv_evict(SINKS, n_keep),
    },
    Policy {
        name: "ring",
        keeps: "the most recent tokens only",
        role: Role::MustFail,
        evicts: true,
        // What it holds is always the last stretch of positions, without gaps.
        evict: |session, n_keep| session.kv_evict_range(0, session.info().pos - n_keep),
    },
];

/// The policy of a name.
pub(crate) fn named(name: &str) -> Result<&'static Policy> {
    POLICIES.iter().find(|policy| policy.name == name).ok_or_else(|| {
        Failure::Usage(format!("--policy {name}: expected one of {}", names().join(", ")))
    })
}

/// The policy of a full cache.
pub(crate) fn full() -> &'static Policy {
    &POLICIES[0]
}

/// The names of all.
pub(crate) fn names() -> Vec<&'static str> {
    POLICIES.iter().map(|policy| policy.name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_find_their_policies() {
        for name in names() {
            assert_eq!(named(name).unwrap().name, name);
        }
        assert!(!full().evicts && full().role == Role::Exact);
        let Err(Failure::Usage(sentence)) = named("magic") else { panic!("found magic") };
        assert!(names().iter().all(|name| sentence.contains(name)), "{sentence}");
    }
}
