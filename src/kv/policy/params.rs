//! How much of a budget goes to what, and how scores are made.

use super::{DEFAULT_SINKS, Policy};
use crate::base::error::{Result, err};

/// Shares of what pinned cells and sinks leave of a budget, each from 0 to 1, together 1 (two
/// hundredths more or less are no error; what is missing goes to the last share that is not 0).
///
/// For the hybrid and for `attn` they are those of a model as a whole: each head has its own, by how
/// idle it is ([`score::idleness`](super::score::idleness)).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Quotas {
    /// Of the newest tokens.
    pub recent: f32,
    /// Of those with the most attention, or with the best score of a policy that has but one.
    pub attn: f32,
    /// Of those with the highest leverage; only the hybrid has this.
    pub leverage: f32,
}

impl Quotas {
    /// For the hybrid, in models whose every layer attends to all tokens.
    pub const FULL: Quotas = Quotas { recent: 0.40, attn: 0.40, leverage: 0.20 };
    /// For the policies that follow a paper.
    pub const HALF: Quotas = Quotas { recent: 0.50, attn: 0.50, leverage: 0.0 };
    /// Without leverage.
    pub const ATTN: Quotas = Quotas { recent: 0.40, attn: 0.60, leverage: 0.0 };
    /// For models with sliding windows, whose windows hold what is recent; the layers that attend
    /// to all tokens need not.
    pub const SLIDING: Quotas = Quotas { recent: 0.05, attn: 0.95, leverage: 0.0 };
}

/// Parameters of a policy.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Params {
    /// Tokens of positions below this one stay, except with [`Policy::Ring`].
    pub n_sink: usize,
    /// Shares of what is left of the budget.
    pub quotas: Quotas,
    /// Queries that the attention called observed is a mean of. The policies that follow a paper
    /// without a quota for recent tokens spare as many newest ones.
    pub n_obs: usize,
    /// Queries after which attention that was drawn counts half ([`Head::squares`](super::Head::squares)).
    pub half_life: u32,
    /// Neighbouring cells that observed attention is averaged over; odd.
    pub n_pool: usize,
    /// Neighbouring cells that leverage is averaged over; odd.
    pub n_pool_leverage: usize,
    /// What [`Moments::factor`](super::leverage::Moments::factor) adds to the diagonal, relative
    /// to its mean.
    pub eps: f32,
    /// Positions ahead that [`Policy::Expected`] looks at.
    pub n_future: usize,
    /// Seed of [`Policy::Random`].
    pub seed: u64,
}

/// How the quotas of a head depend on its idleness: below the first of these marks the first number of
/// each pair holds, above the second the second, and in proportion between them. What attention gets is
/// the rest.
///
/// Chosen with SmolLM2 and a fifth of 1024 tokens (docs/kv-quality.md): an idle head loses little
/// with the newest tokens, and a head that reads them little with unusual ones.
const MARKS: [f64; 2] = [0.2, 0.95];
/// Times the quota of the newest tokens.
const RECENT: [f64; 2] = [1.125, 0.125];
/// Times the quota of leverage.
const LEVERAGE: [f64; 2] = [0.15, 2.5];
/// Of all: what follows the tokens that the last queries attended to, where leverage has a quota.
const FOLLOW: [f64; 2] = [0.0, 0.15];

/// No pool is wider: it would average what is told apart.
const MAX_POOL: usize = 63;

impl Params {
    /// The defaults of a policy, for a model with or without sliding windows.
    pub fn new(policy: Policy, is_sliding: bool) -> Params {
        let quotas = match policy {
            _ if is_sliding => Quotas::SLIDING,
            Policy::Hybrid => Quotas::FULL,
            Policy::Attn => Quotas::ATTN,
            _ => Quotas::HALF,
        };
        Params {
            n_sink: DEFAULT_SINKS,
            quotas,
            n_obs: 32,
            half_life: 128,
            n_pool: if policy == Policy::SnapKv { 5 } else { 1 },
            n_pool_leverage: 9,
            eps: 0.01,
            n_future: 512,
            seed: 0,
        }
    }

    /// Says what is wrong with the parameters, as `InvalidArgument`.
    pub fn check(&self) -> Result<()> {
        let Quotas { recent, attn, leverage } = self.quotas;
        for (name, share) in [("recent", recent), ("attn", attn), ("leverage", leverage)] {
            if !(0.0..=1.0).contains(&share) {
                return Err(err!(
                    InvalidArgument,
                    "KV policy: the quota {name} is {share}, expected 0 to 1"
                ));
            }
        }
        let sum = f64::from(recent) + f64::from(attn) + f64::from(leverage);
        if (sum - 1.0).abs() > 0.020_001 {
            return Err(err!(
                InvalidArgument,
                "KV policy: the quotas recent {recent}, attn {attn} and leverage {leverage} add up \
                 to {sum:.3}, expected 1"
            ));
        }
        for (name, n) in [("attention", self.n_pool), ("leverage", self.n_pool_leverage)] {
            if n % 2 == 0 || n > MAX_POOL {
                return Err(err!(
                    InvalidArgument,
                    "KV policy: a pool of {n} cells for {name}, expected an odd number up to \
                     {MAX_POOL}"
                ));
            }
        }
        if self.n_obs == 0 {
            return Err(err!(
                InvalidArgument,
                "KV policy: attention of the last 0 queries, expected at least 1"
            ));
        }
        if self.half_life == 0 {
            return Err(err!(
                InvalidArgument,
                "KV policy: attention that counts half after 0 queries, expected at least 1"
            ));
        }
        if !(self.eps > 0.0 && self.eps <= 1.0) {
            return Err(err!(
                InvalidArgument,
                "KV policy: eps is {}, expected above 0 and at most 1",
                self.eps
            ));
        }
        if self.n_future == 0 {
            return Err(err!(
                InvalidArgument,
                "KV policy: attention of the next 0 positions, expected at least 1"
            ));
        }
        Ok(())
    }

    /// The parameters for one head by its idleness, and how many of `shared` cells go to what follows
    /// the tokens that the last queries attended to.
    pub(super) fn of_head(
        &self,
        policy: Policy,
        idleness: Option<f64>,
        shared: usize,
    ) -> (Params, usize) {
        let has_own = matches!(policy, Policy::Hybrid | Policy::Attn) && self.quotas.attn > 0.0;
        let Some(idleness) = idleness.filter(|_| has_own) else { return (*self, 0) };
        let part = ((idleness - MARKS[0]) / (MARKS[1] - MARKS[0])).clamp(0.0, 1.0);
        let between = |[low, high]: [f64; 2]| low + (high - low) * part;
        let Quotas { recent, leverage, .. } = self.quotas;
        let has_leverage = policy == Policy::Hybrid && leverage > 0.0;
        let recent = (f64::from(recent) * between(RECENT)).min(1.0);
        let follow = if has_leverage { between(FOLLOW).min(1.0 - recent) } else { 0.0 };
        let leverage = (f64::from(leverage) * between(LEVERAGE)).min(1.0 - recent - follow);
        let attn = 1.0 - recent - follow - leverage;
        let [recent, attn, leverage] = [recent, attn, leverage].map(|x| x.max(0.0) as f32);
        let quotas = Quotas { recent, attn, leverage };
        (Params { quotas, ..*self }, share(shared, follow as f32))
    }

    /// Of so many cells that the quotas share, those that go to the newest tokens whatever a head does.
    pub(super) fn n_near(&self, shared: usize) -> usize {
        share(shared, self.quotas.recent)
    }

    /// Of the cells that the quotas share, those that go to the newest tokens.
    pub(super) fn n_recent(&self, policy: Policy, shared: usize) -> usize {
        let quota = share(shared, self.quotas.recent);
        match policy {
            Policy::None | Policy::Streaming | Policy::Ring => shared,
            Policy::Hybrid if self.quotas.attn + self.quotas.leverage <= 0.0 => shared,
            Policy::Hybrid | Policy::Attn | Policy::H2o => quota,
            // The newest token has been seen by one query, its own.
            Policy::Tova => shared.min(1),
            Policy::SnapKv
            | Policy::KeyDiff
            | Policy::Expected
            | Policy::KNorm
            | Policy::KvZip
            | Policy::Random => quota.min(self.n_obs),
        }
    }

    /// Of these, `room` of which are left, those that go to the tokens with the most attention.
    pub(super) fn n_attn(&self, policy: Policy, shared: usize, room: usize) -> usize {
        match policy {
            Policy::None | Policy::Streaming | Policy::Ring => 0,
            Policy::Hybrid if self.quotas.leverage > 0.0 => {
                share(shared, self.quotas.attn).min(room)
            }
            Policy::Hybrid if self.quotas.attn <= 0.0 => 0,
            _ => room,
        }
    }
}

/// The whole cells in a share of `n`. 0.35 of 20 are 7, though 0.35 as a float is less.
fn share(n: usize, share: f32) -> usize {
    ((n as f64 * f64::from(share) * (1.0 + 1e-6)) as usize).min(n)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::error::Error;

    #[test]
    fn the_defaults_are_fit_for_use() {
        for &policy in Policy::ALL {
            for is_sliding in [false, true] {
                Params::new(policy, is_sliding).check().unwrap();
            }
        }
        let hybrid = Params::new(Policy::Hybrid, false);
        assert_eq!((hybrid.n_sink, hybrid.quotas), (4, Quotas::FULL));
        assert_eq!((hybrid.n_obs, hybrid.n_pool, hybrid.n_pool_leverage), (32, 1, 9));
        assert_eq!(Params::new(Policy::SnapKv, false).n_pool, 5);
        assert_eq!(Params::new(Policy::Attn, false).quotas, Quotas::ATTN);
        assert_eq!(Params::new(Policy::Hybrid, true).quotas, Quotas::SLIDING);
        let third = Quotas { recent: 0.33, attn: 0.33, leverage: 0.33 };
        Params { quotas: third, ..hybrid }.check().unwrap();
    }

    #[test]
    fn each_wrong_parameter_has_its_sentence() {
        let good = Params::new(Policy::Hybrid, false);
        let quotas =
            |recent, attn, leverage| Params { quotas: Quotas { recent, attn, leverage }, ..good };
        for (wrong, word) in [
            (quotas(-0.1, 0.9, 0.2), "the quota recent is -0.1"),
            (quotas(0.5, f32::NAN, 0.5), "the quota attn is NaN"),
            (quotas(0.0, 0.0, 1.5), "the quota leverage is 1.5"),
            (quotas(0.5, 0.5, 0.5), "add up to 1.500, expected 1"),
            (quotas(0.0, 0.0, 0.0), "add up to 0.000"),
            (Params { n_pool: 4, ..good }, "a pool of 4 cells for attention"),
            (Params { n_pool_leverage: 65, ..good }, "a pool of 65 cells for leverage"),
            (Params { n_pool: 0, ..good }, "a pool of 0 cells"),
            (Params { n_obs: 0, ..good }, "the last 0 queries"),
            (Params { half_life: 0, ..good }, "after 0 queries"),
            (Params { eps: 0.0, ..good }, "eps is 0"),
            (Params { eps: f32::NAN, ..good }, "eps is NaN"),
            (Params { eps: f32::INFINITY, ..good }, "eps is inf"),
            (Params { n_future: 0, ..good }, "the next 0 positions"),
        ] {
            let error = wrong.check().unwrap_err();
            assert!(matches!(error, Error::InvalidArgument(_)), "{error}");
            assert!(error.message().contains(word), "{error}: no {word:?}");
        }
    }

    #[test]
    fn an_idle_head_has_other_quotas_than_one_that_reads_the_newest() {
        let of = |policy, idleness| {
            let (own, n_follow) = Params::new(policy, false).of_head(policy, idleness, 1000);
            let Quotas { recent, attn, leverage } = own.quotas;
            ([recent, attn, leverage].map(|x| (x * 1000.0).round() as u32), n_follow)
        };
        assert_eq!(of(Policy::Hybrid, None), ([400, 400, 200], 0));
        for low in [0.0, 0.2] {
            assert_eq!(of(Policy::Hybrid, Some(low)), ([450, 520, 30], 0));
            assert_eq!(of(Policy::Attn, Some(low)), ([450, 550, 0], 0));
        }
        assert_eq!(of(Policy::Hybrid, Some(0.575)), ([250, 410, 265], 75));
        for high in [0.95, 1.0] {
            assert_eq!(of(Policy::Hybrid, Some(high)), ([50, 300, 500], 150));
            assert_eq!(of(Policy::Attn, Some(high)), ([50, 950, 0], 0));
        }
        // Policies of papers, and quotas without attention, stay as they are.
        assert_eq!(of(Policy::H2o, Some(0.9)), ([500, 500, 0], 0));
        let quotas = Quotas { recent: 0.5, attn: 0.0, leverage: 0.5 };
        let blind = Params { quotas, ..Params::new(Policy::Hybrid, false) };
        assert_eq!(blind.of_head(Policy::Hybrid, Some(0.9), 1000), (blind, 0));
        // However the quotas are, they remain shares.
        for (recent, leverage) in [(1.0, 0.0), (0.9, 0.09), (0.0, 0.9), (0.3, 0.69)] {
            let quotas = Quotas { recent, attn: 0.01, leverage };
            let params = Params { quotas, ..Params::new(Policy::Hybrid, false) };
            for tenth in 0..=10 {
                let idleness = Some(f64::from(tenth) / 10.0);
                let (own, n_follow) = params.of_head(Policy::Hybrid, idleness, 1000);
                let Quotas { recent, attn, leverage } = own.quotas;
                assert!(
                    [recent, attn, leverage].iter().all(|x| (0.0..=1.0).contains(x)),
                    "{own:?}"
                );
                let sum = recent + attn + leverage + n_follow as f32 / 1000.0;
                assert!((sum - 1.0).abs() < 0.002, "{own:?}, {n_follow}");
            }
        }
    }

    #[test]
    fn shares_are_whole_cells() {
        assert_eq!([0.5, 0.35, 0.15].map(|s| share(20, s)), [10, 7, 3]);
        assert_eq!([0.5, 0.35, 0.15].map(|s| share(153, s)), [76, 53, 22]);
        for budget in [0, 1, 7, 1 << 20] {
            assert_eq!((share(budget, 0.0), share(budget, 1.0)), (0, budget));
        }
    }
}
