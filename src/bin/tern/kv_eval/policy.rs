//! The eviction policies that can be measured: one row each.

use std::fmt;

use tern::engine::KvPolicy;

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
    /// The engine's; `None` for a cache that nothing leaves.
    pub(crate) policy: Option<KvPolicy>,
}

impl PartialEq for Policy {
    fn eq(&self, other: &Policy) -> bool {
        self.name == other.name
    }
}

impl fmt::Debug for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

impl Policy {
    /// Whether the suite measures it where that takes long, too: what is used, what is published
    /// most, and the controls.
    pub(crate) fn is_main(&self) -> bool {
        matches!(
            self.policy,
            None | Some(
                KvPolicy::Hybrid
                    | KvPolicy::Attn
                    | KvPolicy::H2o
                    | KvPolicy::SnapKv
                    | KvPolicy::Streaming
                    | KvPolicy::Ring
            )
        )
    }

    /// Whether it is one of those of which the suite asks what they remember and what they write.
    pub(crate) fn is_asked(&self) -> bool {
        self.is_main() && self.role == Role::Subject
    }

    /// Whether it ever evicts.
    pub(crate) fn evicts(&self) -> bool {
        self.policy.is_some()
    }

    /// Whether it reads again what a session holds: on request, and with room for that.
    pub(crate) fn reads_again(&self) -> bool {
        self.policy == Some(KvPolicy::KvZip)
    }

    /// Cells that it takes beside `n` tokens: to read all of them again at once.
    pub(crate) fn n_beside(&self, n: u32) -> u32 {
        if self.reads_again() { n } else { 0 }
    }

    /// Whether tokens leave a session by themselves.
    pub(crate) fn keeps_a_budget(&self) -> bool {
        self.evicts() && !self.reads_again()
    }

    /// Whether no layer grows without end.
    pub(crate) fn is_bounded(&self) -> bool {
        let spares_none = self.policy.is_some_and(|policy| policy.n_layer_spared() == 0);
        spares_none && !self.reads_again()
    }
}

/// First tokens that `streaming` keeps.
pub(crate) const SINKS: u32 = 4;
/// The least slots that a budget may be: the sinks, and as many recent tokens.
pub(crate) const LEAST_SLOTS: u32 = 2 * SINKS;

const fn row(policy: KvPolicy, name: &'static str, role: Role, keeps: &'static str) -> Policy {
    Policy { name, keeps, role, policy: Some(policy) }
}

/// Every policy that the engine has.
pub(crate) const POLICIES: &[Policy] = &[
    Policy { name: "none", keeps: "everything", role: Role::Exact, policy: None },
    row(
        KvPolicy::Hybrid,
        "hybrid",
        Role::Subject,
        "recent tokens, those that draw attention, and those that are unlike all others",
    ),
    row(
        KvPolicy::Attn,
        "attn",
        Role::Subject,
        "recent tokens, and those that draw attention from all and from the last queries",
    ),
    row(
        KvPolicy::H2o,
        "h2o",
        Role::Subject,
        "recent tokens, and those that draw most attention in the mean",
    ),
    row(KvPolicy::SnapKv, "snapkv", Role::Subject, "what the last queries attend to"),
    row(KvPolicy::Tova, "tova", Role::Subject, "what the last query attends to"),
    row(KvPolicy::KeyDiff, "keydiff", Role::Subject, "keys that point away from the mean key"),
    row(
        KvPolicy::Streaming,
        "streaming",
        Role::Subject,
        "the first four tokens and the most recent",
    ),
    row(
        KvPolicy::Expected,
        "expected",
        Role::Subject,
        "what queries like those so far can be expected to attend to",
    ),
    row(KvPolicy::KvZip, "kvzip", Role::Subject, "what is attended to when the text comes again"),
    row(KvPolicy::KNorm, "knorm", Role::Subject, "keys of low norm"),
    row(
        KvPolicy::Random,
        "random",
        Role::Subject,
        "the first four, some recent, and others by lot",
    ),
    row(KvPolicy::Ring, "ring", Role::MustFail, "the most recent tokens only"),
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
        assert!(!full().evicts() && full().role == Role::Exact);
        let Err(Failure::Usage(sentence)) = named("magic") else { panic!("found magic") };
        assert!(names().iter().all(|name| sentence.contains(name)), "{sentence}");
    }
}
