//! What a caller can choose. Zero is the default of every number.

use crate::backend::{KvType, Observing, QueryMeans, RECENT};
use crate::base::cpu::{Cores, Isa};
use crate::base::error::{Result, err};
use crate::base::file::LoadMode;
use crate::base::memory::{HugePages, Lock};
use crate::kv::cache::Capacity;
use crate::kv::eviction::{EVERY, Rule, SLACK};
use crate::kv::policy::{self, Policy};
use crate::kv::prefix::Kind;

use super::kv_dtype::Asked;
use super::load::ModelInfo;

/// Tokens evaluated at once where the caller does not say. Fewer make threads wait for each other more
/// often; more save little of the unpacking of weights, and outgrow the caches next to a core.
const DEFAULT_BATCH: u32 = 256;
/// The most threads that a session can have.
const MOST_THREADS: u32 = 256;
/// The most cells that a session can have.
const MOST_CELLS: u32 = 1 << 30;
/// The most positions that a session prepares for on a file's word: each takes memory, and a file
/// can name any number of them.
const MOST_TRAINED: usize = 1 << 20;

/// How to load a model.
#[derive(Clone, Copy, Debug, Default)]
pub struct ModelParams {
    /// The device that holds the weights; 0 = the CPU.
    pub device: u32,
    /// How the file's bytes come into memory; `None` = copied if they fit in half of the memory
    /// that is free and are not packed already ([`super::Model::pack`]), else mapped and guarded.
    pub load_mode: Option<LoadMode>,
    /// The instruction set of the kernels; `None` = the best there is.
    pub isa: Option<Isa>,
    /// Keep what screens the head beside it, where the head allows: [`Logits::Best`] then reads
    /// about half of it. Takes about 5 bits for each weight of the head, and time to load.
    pub screened_head: bool,
    /// Whether the weights must stay in RAM.
    pub lock: Lock,
    /// Whether a copy of the weights is made of huge pages.
    pub huge: HugePages,
}

/// How numbers are rounded where many tokens are evaluated together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Numerics {
    /// As for one token: logits are the same bits however a prompt was cut.
    #[default]
    Exact,
    /// 32 tokens and more by panels: quantised weights as 8 bits with one scale for 256, activations
    /// with one for 32. Faster; logits then depend on how a prompt was cut, but not on threads.
    Fast,
}

/// How to make a session.
#[derive(Clone, Copy, Debug, Default)]
pub struct SessionParams {
    /// Cells of the KV cache; 0 = as many as the model was trained on.
    pub n_ctx: u32,
    /// Tokens evaluated at once; 0 = 256.
    pub n_batch: u32,
    /// Threads that evaluate one token, the caller's included; 0 = as many as a short measurement
    /// during the first tokens finds to be fastest.
    pub n_threads: u32,
    /// Threads that evaluate many; 0 = the same, or as measured if `n_threads` is 0, too.
    pub n_threads_batch: u32,
    /// Rows of logits that one eval can ask for; 0 = 1.
    pub n_logits: u32,
    /// Type of keys and values; 0 = F16, 1 = F32, 2 = Q8_0, 3 = Q5_0, 4 = Q4_0, and rotated: 5 = Q4_H,
    /// 6 = Q3_H, 7 = Q5_H; or one of [`super::KV_PRESETS`].
    pub kv_dtype: u32,
    /// Type of keys, where it is another; 0 = as `kv_dtype`.
    pub k_dtype: u32,
    /// Type of values, where it is another; 0 = as `kv_dtype`.
    pub v_dtype: u32,
    /// Evict by the window policy when the cache is full, instead of failing.
    pub auto_evict: bool,
    /// First tokens that automatic eviction keeps; 0 = 4.
    pub n_sink: u32,
    /// Tokens that automatic eviction keeps in all; 0 = half of `n_ctx`.
    pub n_keep: u32,
    /// What leaves where tokens are evicted; `None` = as [`Policy::Hybrid`] says if tokens are evicted
    /// automatically, else by the window policy.
    pub kv_policy: Option<Policy>,
    /// Slots of each KV head that stay in use as tokens come; 0 = all of `n_ctx`.
    pub kv_budget: u32,
    /// The same as a part of `n_ctx`, 0 to 1; 0 = as `kv_budget` says.
    pub kv_budget_part: f32,
    /// Parameters of the policy; `None` = its defaults.
    pub kv_params: Option<policy::Params>,
    /// Whether keys and values, activations and logits must stay in RAM.
    pub lock: Lock,
    /// Whether they are made of huge pages.
    pub huge: HugePages,
    /// How many tokens are evaluated together.
    pub numerics: Numerics,
    /// Take the first tokens of a prompt from another session of the model that was made with this and
    /// the same types of keys and values, and holds the same tokens from the first one on: in tiles of
    /// 128 tokens, which both share until one of them changes something there; and let others take
    /// this session's. Fewer tokens are evaluated then, and logits are the same bits. Policies that
    /// count attention or keys take nothing; sessions with [`Numerics::Fast`] share nothing, nor do those
    /// of models with windows that evict by themselves.
    pub kv_share: bool,
}

/// A session's parameters with every default filled in, and checked.
#[derive(Clone, Copy, Debug)]
pub(super) struct Resolved {
    pub(super) n_ctx: usize,
    pub(super) capacity: Capacity,
    pub(super) n_batch: usize,
    /// Of the session, and of its phases; 0 = as measured.
    pub(super) most_threads: usize,
    pub(super) n_threads: usize,
    pub(super) n_threads_batch: usize,
    pub(super) n_logits: usize,
    pub(super) k_type: KvType,
    pub(super) v_type: KvType,
    pub(super) lock: Lock,
    pub(super) huge: HugePages,
    pub(super) auto_evict: Option<(usize, usize)>,
    /// How it evicts, if statistics are kept or there is a budget.
    pub(super) rule: Option<Rule>,
    pub(super) screened: bool,
    pub(super) numerics: Numerics,
    pub(super) kv_share: bool,
}

impl SessionParams {
    /// `windows`: of the model's layers.
    pub(super) fn resolve(
        &self,
        model: &ModelInfo,
        windows: impl Iterator<Item = u32>,
    ) -> Result<Resolved> {
        let or = |n: u32, default: usize| if n == 0 { default } else { n as usize };
        let at_most = |name: &str, n: u32, most: u32| match n > most {
            true => Err(err!(InvalidArgument, "{name}: found {n}, expected at most {most}")),
            false => Ok(()),
        };
        at_most("n_ctx", self.n_ctx, MOST_CELLS)?;
        at_most("n_threads", self.n_threads, MOST_THREADS)?;
        at_most("n_threads_batch", self.n_threads_batch, MOST_THREADS)?;
        let asked = Asked { both: self.kv_dtype, k: self.k_dtype, v: self.v_dtype };
        let (k_type, v_type) = asked.resolve(model.has_qk_norm)?;
        let n_ctx = or(self.n_ctx, model.n_ctx_train as usize);
        let n_batch = or(self.n_batch, DEFAULT_BATCH as usize).min(n_ctx);
        let n_logits = or(self.n_logits, 1).min(n_ctx);
        let n_keep = or(self.n_keep, (n_ctx / 2).max(1));
        let n_sink = or(self.n_sink, policy::DEFAULT_SINKS).min(n_keep);
        if self.auto_evict && n_keep >= n_ctx {
            return Err(err!(
                InvalidArgument,
                "n_keep: found {n_keep}, expected less than the {n_ctx} cells, so that evicting \
                 makes room"
            ));
        }
        let window = windows.max().unwrap_or(0) as usize;
        let rule = self.rule(n_ctx, window > 0, model.has_qk_norm)?;
        // Where tokens are evicted, windows must still see all that they look back on, whatever stays.
        let n_cells = if self.evicts() { window + n_ctx } else { n_ctx };
        let n_turns = n_ctx.max((model.n_ctx_train as usize).min(MOST_TRAINED)) as u32;
        // Where tokens are evicted, windows move on over tiles that are shared.
        let kv_share =
            self.kv_share && self.numerics == Numerics::Exact && (window == 0 || !self.evicts());
        Ok(Resolved {
            n_ctx,
            capacity: Capacity {
                n_slots: n_ctx,
                n_cells,
                tiled: window > 0 && kv_share,
                n_turns,
                head_dim: model.head_dim as usize,
            },
            n_batch,
            most_threads: self.most_threads(),
            n_threads: self.n_threads as usize,
            n_threads_batch: or(self.n_threads_batch, self.n_threads as usize),
            n_logits,
            k_type,
            v_type,
            lock: self.lock,
            huge: self.huge,
            auto_evict: self.auto_evict.then_some((n_sink, n_keep)),
            rule,
            screened: model.screened_head,
            numerics: self.numerics,
            kv_share,
        })
    }
}

impl Resolved {
    /// What keys and values of the session depend on beside the tokens.
    pub(super) fn kv_kind(&self) -> Kind {
        Kind { k_type: self.k_type, v_type: self.v_type }
    }

    /// Tokens of a span of which any number can be taken back as if they had never come.
    pub(super) fn n_retractable(&self) -> usize {
        let is_packed = self.k_type.is_packed() || self.v_type.is_packed();
        if is_packed { RECENT } else { usize::MAX }
    }

    /// What attention counts for the policy.
    pub(super) fn observing(&self) -> Option<Observing> {
        // A draft is counted token by token; drafts are no longer than that.
        self.rule.and_then(|rule| rule.observing(self.n_logits.min(EVERY as usize)))
    }

    /// Which queries are counted for the policy, drafts likewise.
    pub(super) fn queries(&self) -> Option<QueryMeans> {
        self.rule.and_then(|rule| rule.queries(self.n_logits.min(EVERY as usize)))
    }
}

impl SessionParams {
    /// Whether tokens leave by themselves.
    fn evicts(&self) -> bool {
        self.auto_evict || self.kv_budget != 0 || self.kv_budget_part > 0.0
    }

    /// How the session evicts; `None`: by the window policy, on request or when it is full.
    fn rule(&self, n_ctx: usize, is_sliding: bool, has_qk_norm: bool) -> Result<Option<Rule>> {
        let part = self.kv_budget_part;
        if !(0.0..=1.0).contains(&part) || part > 0.0 && self.kv_budget != 0 {
            return Err(err!(
                InvalidArgument,
                "kv_budget {} and kv_budget_part {part}: expected one of them, and of a part 0 to 1",
                self.kv_budget
            ));
        }
        let evicts = self.evicts();
        let policy = match self.kv_policy {
            Some(policy) => policy,
            None if evicts => Policy::default(),
            None => return Ok(None),
        };
        policy.check_model(has_qk_norm)?;
        if policy == Policy::KvZip {
            return Err(err!(
                Unsupported,
                "kv_policy: kvzip reads again what a session holds, which no eval can wait for; \
                 expected another policy, or none, and an eviction by kvzip on request"
            ));
        }
        let mut params = policy::Params::new(policy, is_sliding);
        if let Some(own) = self.kv_params {
            own.check()?;
            params = own;
        }
        if self.n_sink != 0 {
            params.n_sink = self.n_sink as usize;
        }
        let mut budget = self.kv_budget as usize;
        if self.kv_budget_part > 0.0 {
            budget = (f64::from(self.kv_budget_part) * n_ctx as f64) as usize;
            budget = budget.min(n_ctx.saturating_sub(SLACK));
        }
        if budget != 0 && budget + SLACK > n_ctx {
            return Err(err!(
                InvalidArgument,
                "kv_budget: found {budget}, expected at most {}, so that {n_ctx} slots have room for \
                 the {SLACK} tokens that come before what is too much has left",
                n_ctx.saturating_sub(SLACK)
            ));
        }
        Ok(Some(Rule { policy, params, budget: (budget != 0).then_some(budget) }))
    }

    /// Threads that the session needs.
    fn most_threads(&self) -> usize {
        let cores = Cores::count();
        let n = match (self.n_threads as usize, self.n_threads_batch as usize) {
            (0, 0) => cores.all.max(cores.fast),
            (0, batch) => batch.max(cores.fast),
            (decode, batch) => decode.max(batch),
        };
        n.min(MOST_THREADS as usize)
    }
}

/// Which tokens of a span want logits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Logits<'a> {
    /// The last one.
    Last,
    /// Of the last one only the greatest, so that a greedy sampler can choose. Cheaper than
    /// [`Logits::Last`] where the model screens its head ([`ModelParams::screened_head`]).
    Best,
    /// Those at these places in the span, ascending; row `i` is then that of the `i`-th.
    Positions(&'a [u32]),
    /// All.
    All,
    /// None; the session has no logits afterwards.
    None,
}
