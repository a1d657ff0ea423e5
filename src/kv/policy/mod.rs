//! What to evict: pure functions from what a cache holds to what should stay or leave.
//!
//! A [`Policy`] ranks the cells of one KV head of one layer and [`keep()`] chooses those that stay.
//! The numbers that it ranks by come from outside: attention probabilities from the kernels,
//! statistics of keys, values and queries from [`leverage`], [`mean`] and [`expected`].
//!
//! No function here that runs for every token allocates, and none depends on the number of
//! threads: what it needs is made beforehand, and equal scores are told apart by position.

pub mod expected;
mod keep;
pub mod leverage;
pub mod mean;
mod params;
pub mod score;

pub use keep::{Head, Work, keep};
pub use params::{Params, Quotas};

use crate::base::error::{Result, err};

/// First tokens that are never evicted, where the caller does not say: they draw attention
/// whatever they mean (StreamingLLM, Xiao et al. 2023, arXiv 2309.17453).
pub const DEFAULT_SINKS: usize = 4;

/// Declares [`Policy`] with the name of each variant, so that neither can miss one.
macro_rules! policies {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)*) => {
        /// A way to choose what stays in a cache that has no room for all.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub enum Policy {
            $($(#[$doc])* $variant,)*
        }

        impl Policy {
            /// All policies.
            pub const ALL: &'static [Policy] = &[$(Policy::$variant,)*];

            /// The name that a program gives it.
            pub fn name(self) -> &'static str {
                match self { $(Policy::$variant => $name,)* }
            }

            /// The policy of a name, or an `InvalidArgument` that lists the names.
            pub fn from_name(name: &str) -> Result<Policy> {
                match name {
                    $($name => Ok(Policy::$variant),)*
                    _ => Err(err!(
                        InvalidArgument,
                        "KV policy: expected one of {}found {name:?}",
                        concat!($($name, ", ",)*)
                    )),
                }
            }
        }
    };
}

policies! {
    /// Nothing leaves; a full cache is an error.
    None = "none",
    /// Sinks and the newest tokens stay (StreamingLLM, Xiao et al. 2023, arXiv 2309.17453).
    Streaming = "streaming",
    /// Three quotas: the newest tokens, those that are attended to, and those whose keys and
    /// values are unlike all others, which answer questions that nobody has asked yet (leverage
    /// of keys: Compactor, Chari and Van Durme 2025, arXiv 2507.08143). How large they are depends on
    /// the head ([`score::idleness`]); idle ones have a fourth, for what follows the tokens that the
    /// last queries attended to ([`score::follow`]).
    #[default]
    Hybrid = "hybrid",
    /// The hybrid without its third quota: the best for text that continues what was read.
    Attn = "attn",
    /// The newest tokens, then those with the most attention for each query that saw them. The
    /// paper sums and does not divide, which favours old tokens (H2O, Zhang et al. 2023, arXiv
    /// 2306.14048).
    H2o = "h2o",
    /// What the last query attended to (TOVA, Oren et al. 2024, arXiv 2401.06104).
    Tova = "tova",
    /// What the last queries attended to, pooled over neighbours (SnapKV, Li et al. 2024, arXiv
    /// 2404.14469).
    SnapKv = "snapkv",
    /// Keys that point away from the mean key (KeyDiff, Park et al. 2025, arXiv 2504.15364).
    KeyDiff = "keydiff",
    /// What queries yet to come can be expected to attend to (Expected Attention, Devoto et al.
    /// 2025, arXiv 2510.00636).
    Expected = "expected",
    /// Keys of low norm (Devoto et al. 2024, arXiv 2406.11430). For research only.
    KNorm = "knorm",
    /// What repeating the text attends to (KVzip, Kim et al. 2025, arXiv 2505.23416).
    KvZip = "kvzip",
    /// By lot; what every other policy has to beat.
    Random = "random",
    /// The newest tokens, sinks not spared; what every other policy has to avoid.
    Ring = "ring",
}

/// What a policy has to be told of each cell; the fields of [`Head`] of the same names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// Attention mass over all queries.
    pub mass: bool,
    /// Squares of attention, of which older ones fade.
    pub squares: bool,
    /// Attention of the last few queries.
    pub observed: bool,
    /// Attention of the last query.
    pub last: bool,
    /// Leverage, which takes the moments of raw keys and of values.
    pub leverage: bool,
    /// KeyDiff's score, which takes the mean of unit keys.
    pub key_diff: bool,
    /// Expected attention, which takes the mean, and maybe the covariance, of raw queries.
    pub expected: bool,
    /// Norms of keys.
    pub norm: bool,
    /// Attention of a second pass that repeats the text.
    pub zip: bool,
}

impl Needs {
    /// Whether a policy that needs `other` can be told all that it asks for by what this one keeps.
    pub fn cover(self, other: Needs) -> bool {
        let Needs { mass, squares, observed, last, leverage, key_diff, expected, norm, zip } =
            other;
        // Norms take the room of what else is found of keys; the last query is counted in place of the
        // last few.
        (!norm || self.weighs_keys())
            && (!mass || self.probabilities() && !self.squares)
            && (!squares || self.squares)
            && (!observed || self.probabilities() && !self.last)
            && (!last || self.last)
            && (!leverage || self.leverage)
            && (!key_diff || self.key_diff)
            && (!expected || self.expected)
            && (!zip || self.zip)
    }

    /// Whether something is counted of each query.
    pub fn counts(self) -> bool {
        self.probabilities() || self.expected
    }

    /// Whether keys are weighed when tokens leave.
    pub fn weighs_keys(self) -> bool {
        self.key_diff || self.norm || self.expected
    }

    /// Whether the attention kernels have to give their probabilities.
    pub fn probabilities(self) -> bool {
        self.mass || self.squares || self.observed || self.last || self.zip
    }
}

impl Policy {
    /// What the policy has to be told with these quotas.
    pub fn needs(self, quotas: &Quotas) -> Needs {
        let no = Needs::default();
        match self {
            Policy::None | Policy::Streaming | Policy::Random | Policy::Ring => no,
            Policy::Hybrid => {
                let attn = quotas.attn > 0.0;
                Needs { squares: attn, observed: attn, leverage: quotas.leverage > 0.0, ..no }
            }
            Policy::Attn => Needs { squares: true, observed: true, ..no },
            Policy::H2o => Needs { mass: true, ..no },
            Policy::Tova => Needs { last: true, ..no },
            Policy::SnapKv => Needs { observed: true, ..no },
            Policy::KeyDiff => Needs { key_diff: true, ..no },
            Policy::Expected => Needs { expected: true, ..no },
            Policy::KNorm => Needs { norm: true, ..no },
            Policy::KvZip => Needs { zip: true, ..no },
        }
    }

    /// Layers from the first on that the policy leaves whole.
    pub fn n_layer_spared(self) -> usize {
        // The authors of knorm found that norms say nothing in the first two.
        if self == Policy::KNorm { 2 } else { 0 }
    }

    /// Refuses, as `Unsupported`, a model that the policy cannot judge. `has_qk_norm`: the model
    /// normalises queries and keys before it rotates them.
    pub fn check_model(self, has_qk_norm: bool) -> Result<()> {
        if self == Policy::KNorm && has_qk_norm {
            return Err(err!(
                Unsupported,
                "KV policy knorm: the model normalises its keys (QK-norm), so that their norms say \
                 nothing; expected a model that does not, or another policy"
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::error::Error;

    #[test]
    fn names_lead_back_to_their_policies() {
        let names: Vec<_> = Policy::ALL.iter().map(|p| p.name()).collect();
        let expected = [
            "none",
            "streaming",
            "hybrid",
            "attn",
            "h2o",
            "tova",
            "snapkv",
            "keydiff",
            "expected",
            "knorm",
            "kvzip",
            "random",
            "ring",
        ];
        assert_eq!(names, expected);
        for &policy in Policy::ALL {
            assert_eq!(Policy::from_name(policy.name()), Ok(policy));
        }
        assert_eq!(Policy::default(), Policy::Hybrid);
        for wrong in ["", "Hybrid", "hybrid ", "h2o\0", &"x".repeat(1000)] {
            let error = Policy::from_name(wrong).unwrap_err();
            assert!(matches!(error, Error::InvalidArgument(_)));
            assert!(error.message().contains("snapkv, keydiff"), "{error}");
        }
    }

    #[test]
    fn only_knorm_refuses_models_with_qk_norm() {
        for &policy in Policy::ALL {
            assert_eq!(policy.check_model(false), Ok(()));
            let refused = policy.check_model(true);
            assert_eq!(matches!(refused, Err(Error::Unsupported(_))), policy == Policy::KNorm);
            assert_eq!(refused.is_err(), policy == Policy::KNorm);
            assert_eq!(policy.n_layer_spared(), if policy == Policy::KNorm { 2 } else { 0 });
        }
    }

    #[test]
    fn what_a_quota_of_zero_would_need_is_not_asked_for() {
        let needs = Policy::Hybrid.needs(&Quotas::FULL);
        assert!(needs.squares && needs.observed && needs.leverage && needs.probabilities());
        let needs = Policy::Hybrid.needs(&Quotas::ATTN);
        assert_eq!(needs, Policy::Attn.needs(&Quotas::FULL));
        assert!(!Policy::KeyDiff.needs(&Quotas::FULL).probabilities());
    }
}
