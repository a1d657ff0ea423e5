//! What attention counts beside its result, for policies that choose what stays in a cache.

use super::rope::{Frequencies, Layout};

/// How attention counts what slots draw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Observe {
    /// Not at all.
    Nothing,
    /// For each token apart, of a span of at most [`Observing::n_rows`] tokens in one batch or several: for
    /// those of them that [count](Observing::counts).
    Each {
        /// Position of the first token of the span.
        first_pos: u32,
    },
    /// For the tokens of a span of so many together.
    Together {
        /// Tokens of the span.
        n_span: usize,
    },
    /// Not added up: the largest probability of each slot that was held before the span is noted, where
    /// there is room for it ([`Backend::watch`](super::Backend::watch)).
    Largest,
}

/// What a session keeps to count what slots draw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Observing {
    /// Tokens of a span that are counted apart, at most; at least 2.
    pub n_rows: usize,
    /// Queries that count as the last ones.
    pub n_recent: usize,
    /// Of tokens that are counted apart, one in so many counts, for all of them; at most `n_recent`.
    pub every: usize,
    /// What is added up over all of them.
    pub sum: AttentionSum,
}

impl Observing {
    /// Whether the token at a position counts, where tokens are counted apart.
    pub fn counts(&self, pos: u32) -> bool {
        (pos as usize + 1).is_multiple_of(self.every)
    }
}

/// What attention adds up for each slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttentionSum {
    /// Probabilities.
    Probabilities,
    /// Squares of probabilities, each query counting half as much as one `half_life` queries later.
    Squares {
        /// Queries; at least 1.
        half_life: u32,
    },
}

impl AttentionSum {
    /// What a query still counts after `n` more.
    pub fn decay(self, n: usize) -> f32 {
        match self {
            AttentionSum::Probabilities => 1.0,
            AttentionSum::Squares { half_life } => {
                (-(n as f64) / f64::from(half_life)).exp2() as f32
            }
        }
    }
}

/// Which queries the means are of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueryMeans {
    /// Tokens of a span that are counted apart, at most.
    pub n_rows: usize,
    /// Positions below this one are not counted: first tokens ask for nothing that others do.
    pub n_sink: u32,
}

/// What a layer does with queries and keys before it compares them.
#[derive(Clone, Copy, Debug)]
pub struct Rotation<'s> {
    /// How its heads turn, if they do.
    pub rope: Option<&'s Frequencies>,
    /// Which elements turn together.
    pub layout: Layout,
    /// Multiplies scores.
    pub scale: f32,
}
