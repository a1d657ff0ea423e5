//! A session: one sequence being generated.

use std::borrow::Borrow;

use crate::backend::cpu::{Cpu, Room};
use crate::backend::{Backend, Shape, TILE};
use crate::base::clock;
use crate::base::error::{Result, err};
use crate::base::heap;
use crate::base::memory::Memory;
use crate::base::shared::Shared;
use crate::base::sync::{Mutex, PoisonError};
use crate::kv::cache::{Cache, HeadSlots, Plan, own_slots};
use crate::kv::eviction::Rule;
use crate::kv::policy::Policy;
use crate::kv::prefix::Chain;
use crate::kv::segments::Segment;
use crate::model::forward::PhaseTimes;
use crate::sampler::{Sampler, Scratch};

use super::control::{Control, Wish};
use super::generate::Generation;
use super::load::Model;
use super::params::{Logits, Resolved, SessionParams};
use super::plan::{check_memory, session_bytes};
use super::runner::Runner;

/// One sequence: its KV cache, its logits and its threads. Everything it will ever need is
/// allocated when it is made.
pub struct Session {
    pub(super) model: Model,
    pub(super) params: Resolved,
    pub(super) runner: Runner<Cpu>,
    sampling: Mutex<Scratch>,
    pub(super) times: Times,
    pub(super) locked_bytes: u64,
    pub(super) generation: Generation,
    /// The longest time that a token has had to wait for evictions.
    pub(super) longest_stall_ns: u64,
    /// Tokens of a rebuild that did not come to its end.
    pub(super) unread: Vec<i32>,
}

/// What happened so far.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Times {
    pub(super) n_prefill: u64,
    pub(super) prefill_ns: u64,
    pub(super) n_decode: u64,
    pub(super) decode_ns: u64,
}

impl Times {
    /// `n` tokens came out of one evaluation that took so long.
    pub(super) fn decoded(&mut self, n: usize, ns: u64) {
        self.n_decode += n as u64;
        self.decode_ns += ns;
    }
}

impl Session {
    /// Makes a session, and allocates everything it will need.
    pub fn new(model: impl Borrow<Model>, params: &SessionParams) -> Result<Session> {
        let model = model.borrow().clone();
        let params = params.resolve(model.info(), windows(&model))?;
        Session::with(model, params, None)
    }

    /// `lender`: a session of the same parameters whose full tiles it shares.
    fn with(model: Model, params: Resolved, lender: Option<&Cache<Cpu>>) -> Result<Session> {
        model.check_unchanged()?;
        let weights = Shared::clone(model.weights());
        let n_shared = lender.map_or(0, Cache::n_shareable);
        let shape = params.shape(weights.backend.panels(), n_shared);
        let decoder = weights.backend.decoder();
        let bytes = session_bytes(decoder, windows(&model), &params, &shape);
        check_memory("session", bytes.0.saturating_add(bytes.1))?;
        let memory = Memory::new(params.lock, params.huge);
        let tiles = tile_memory(&model, &params, &shape)?;
        let of_tiles: u64 = tiles.iter().map(|tile| tile.reserved()).sum();
        memory.reserve((bytes.0.saturating_add(bytes.1)).saturating_sub(of_tiles))?;
        let scratch = weights.backend.scratch(&shape, &memory)?;
        let n_head = decoder.n_head_kv;
        let room = Room { memory: &memory, tiles: &tiles };
        let mut layers = heap::reserve(weights.layers.len(), "layers")?;
        for (window, own) in windows(&model).zip(own_slots(windows(&model), n_head)) {
            let lender = lender.and_then(|lender| lender.layers.get(layers.len()));
            layers.push(weights.backend.kv(&shape, window, own, lender, room)?);
        }
        let mut outputs = Vec::new();
        outputs
            .try_reserve_exact(params.n_batch)
            .map_err(|_| err!(OutOfMemory, "no memory for a batch of {}", params.n_batch))?;
        outputs.resize(params.n_batch, 0); // takes the pages now
        let n_apart = shape.observing.map(|o| o.n_rows).or(shape.queries.map(|q| q.n_rows));
        let n_each = n_apart.map_or(0, |n| n.min(weights.backend.n_each()));
        let counting = (params.rule, n_each);
        let mut cache = Cache::new(layers, windows(&model), n_head, params.capacity, counting)?;
        if params.kv_share {
            cache.share(Chain::new(
                &model.parts().prefixes,
                params.kv_kind(),
                params.n_ctx / TILE,
            )?);
        }
        let runner = Runner {
            cache,
            scratch,
            n_batch: params.n_batch,
            auto_evict: params.auto_evict,
            n_logits: 0,
            only_best: false,
            max_logits: params.n_logits,
            n_freed: 0,
            n_evictions: 0,
            phases: None,
            outputs,
            weights,
        };
        let sampling = Mutex::new(Scratch::new(model.info().n_vocab as usize)?);
        Ok(Session {
            model,
            params,
            runner,
            sampling,
            times: Times::default(),
            locked_bytes: memory.locked_bytes()
                + tiles.iter().map(Memory::locked_bytes).sum::<u64>(),
            generation: Generation::default(),
            longest_stall_ns: 0,
            unread: Vec::new(),
        })
    }

    /// The model it runs.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// Evaluates tokens after those held. All or nothing: on an error the session is as it was
    /// before the call, but that logits are gone and that room made by automatic eviction stays.
    pub fn eval(
        &mut self,
        tokens: &[i32],
        logits: Logits<'_>,
        control: &Control<'_>,
    ) -> Result<()> {
        let (n, ns) = self.run(tokens, logits, control)?;
        if tokens.len() > 1 {
            self.runner.give_prefix(); // not for each token that is generated: these allocate nothing
        }
        self.unread.clear();
        let ns = ns + self.settle(tokens.len(), control)?;
        self.generation.forget();
        match n {
            1 => self.times.decoded(1, ns),
            n => {
                self.times.n_prefill += n as u64;
                self.times.prefill_ns += ns;
            }
        }
        Ok(())
    }

    /// Checks and evaluates tokens; gives how many were not another session's, and the nanoseconds that
    /// took.
    pub(super) fn run(
        &mut self,
        tokens: &[i32],
        logits: Logits<'_>,
        control: &Control<'_>,
    ) -> Result<(usize, u64)> {
        let n_vocab = self.model.info().n_vocab;
        if tokens.is_empty() {
            return Err(err!(InvalidArgument, "tokens: none given, expected at least 1"));
        }
        if let Some(bad) = tokens.iter().find(|&&t| t < 0 || t as u32 >= n_vocab) {
            return Err(err!(
                InvalidArgument,
                "tokens: found {bad}, expected 0 to {}",
                n_vocab - 1
            ));
        }
        self.model.check_unchanged()?;
        let start = clock::now_ns();
        let n = self.runner.eval(tokens, logits, control)?;
        Ok((n, clock::now_ns().saturating_sub(start)))
    }

    /// Takes in what the last span brought, of which so many tokens stay, and evicts what is over the
    /// budget; gives the nanoseconds that took.
    pub(super) fn settle(&mut self, n_kept: usize, control: &Control<'_>) -> Result<u64> {
        let wish = control.budget.and_then(Wish::take);
        let cache = &self.runner.cache;
        if cache.rule().is_none() && wish.is_none() && cache.segments().is_empty() {
            return Ok(0);
        }
        let start = clock::now_ns();
        self.runner.settle(n_kept, wish)?;
        let ns = clock::now_ns().saturating_sub(start);
        self.longest_stall_ns = self.longest_stall_ns.max(ns);
        Ok(ns)
    }

    /// Measures from now on how long each phase of the forward pass takes, from zero.
    pub fn measure_phases(&mut self) {
        self.runner.phases = Some(PhaseTimes::default());
    }

    /// How long each phase has taken since [`Session::measure_phases`]; `None` without.
    pub fn phase_times(&self) -> Option<PhaseTimes> {
        self.runner.phases
    }

    /// The logits of the last row that the last eval left, one for each token of the vocabulary.
    pub fn logits(&self) -> Result<&[f32]> {
        let last = self.n_logits().checked_sub(1);
        self.logits_row(last.unwrap_or(0))
    }

    /// Row `i` of the logits that the last eval left.
    pub fn logits_row(&self, i: usize) -> Result<&[f32]> {
        if self.runner.only_best {
            return Err(err!(NotReady, "the last eval kept the best token only, and no logits"));
        }
        self.row(i)
    }

    fn row(&self, i: usize) -> Result<&[f32]> {
        match self.n_logits() {
            0 => Err(err!(NotReady, "there are no logits; eval first")),
            n if i >= n => Err(err!(InvalidArgument, "logits: found row {i}, expected below {n}")),
            _ => self.runner.weights.backend.logits(&self.runner.scratch, i),
        }
    }

    /// Rows of logits that the last eval left.
    pub fn n_logits(&self) -> usize {
        self.runner.n_logits
    }

    /// Samples the next token from the last row of logits.
    pub fn sample(&self, sampler: &mut Sampler) -> Result<i32> {
        self.sample_row(sampler, self.n_logits().saturating_sub(1))
    }

    /// Samples from row `i` of the logits.
    pub(super) fn sample_row(&self, sampler: &mut Sampler, i: usize) -> Result<i32> {
        if self.runner.only_best && !sampler.wants_only_best() {
            return Err(err!(
                NotReady,
                "the last eval kept the best token only: greedy sampling without penalties, biases \
                 and log-probabilities can choose it, no other"
            ));
        }
        let logits = self.row(i)?;
        let mut scratch = self.sampling.lock().unwrap_or_else(PoisonError::into_inner);
        let runner = &self.runner;
        let known = runner.weights.backend.highest(&runner.scratch, i);
        sampler.sample_knowing(logits, known, &mut scratch)
    }

    /// Keeps `n_keep` tokens in each KV head (0 = half of the slots), the first `n_sink` among them
    /// (0 = as many as the policy says), as the session's policy chooses, or if it has none the most
    /// recent ones. Gives the number evicted: slots that became free, by the number of heads.
    pub fn kv_evict(&mut self, n_sink: u32, n_keep: u32) -> Result<u32> {
        self.kv_evict_by(None, n_sink, n_keep, &Control::default())
    }

    /// The same by another policy. Fails with `Unsupported` if the session does not count what that
    /// asks for; `Streaming`, `Random` and `Ring` ask for nothing.
    ///
    /// `KvZip` is for any session: it evaluates the tokens that are held once more, in spans of at most
    /// 2048, and takes them back; each head keeps what drew the largest attention of any of its queries.
    /// Allocates 4 bytes for each slot of each head. Fails with `KvFull` if there is no free slot or
    /// position for a span, `OutOfMemory`, and as `control` says; nothing has changed then.
    pub fn kv_evict_by(
        &mut self,
        policy: Option<Policy>,
        n_sink: u32,
        n_keep: u32,
        control: &Control<'_>,
    ) -> Result<u32> {
        let (rule, n_keep) = self.eviction(policy, n_sink, n_keep)?;
        Ok(self.runner.kv_evict(&rule, n_keep, control)? as u32)
    }

    /// What [`Session::kv_evict_by`] would do. Nothing leaves. Allocates.
    pub fn kv_evict_plan(
        &mut self,
        policy: Option<Policy>,
        n_sink: u32,
        n_keep: u32,
        control: &Control<'_>,
    ) -> Result<(Plan, u64)> {
        let (rule, n_keep) = self.eviction(policy, n_sink, n_keep)?;
        let plan = self.runner.kv_evict_plan(&rule, n_keep, control)?;
        let bytes = plan.n_slots * self.slot_bytes();
        Ok((plan, bytes))
    }

    fn eviction(&self, policy: Option<Policy>, n_sink: u32, n_keep: u32) -> Result<(Rule, usize)> {
        let n_keep = if n_keep == 0 { self.params.n_ctx / 2 } else { n_keep as usize };
        let n_sink = (n_sink > 0).then_some(n_sink as usize);
        let rule = self.runner.rule(policy, n_sink)?;
        if rule.needs().zip {
            let n_slots = self.params.n_ctx.next_multiple_of(TILE) * self.runner.cache.n_heads();
            check_memory("KV policy kvzip", (n_slots * size_of::<f32>()) as u64)?;
        }
        Ok((rule, n_keep))
    }

    /// Bytes of so many slots of every KV head that has slots of its own: of keys and values, and of what
    /// is known of them.
    pub fn kv_slot_bytes(&self, n_slots: u32) -> u64 {
        self.slot_bytes() * u64::from(n_slots) * self.runner.cache.n_heads() as u64
    }

    /// Bytes of the key and value of one slot of a head, and of what is known of it.
    fn slot_bytes(&self) -> u64 {
        let backend = &self.runner.weights.backend;
        let shape = self.params.shape(backend.panels(), 0);
        let slots = self.params.n_ctx.next_multiple_of(TILE) * backend.decoder().n_head_kv;
        Cpu::kv_bytes(backend.decoder(), &shape, 0) / slots.max(1) as u64
    }

    /// Names a range of positions, or changes the segment of that name: whether its tokens stay
    /// whatever happens, leave before or after others, or leave when so many tokens have followed
    /// them. Tokens that are yet to come can be named. Segments do not overlap.
    ///
    /// Fails with `InvalidArgument`; nothing has changed then.
    pub fn kv_set_segment(&mut self, segment: &Segment<'_>) -> Result<()> {
        self.runner.cache.segments_mut().set(segment)
    }

    /// Forgets the segment of a name; its tokens are as all others then.
    pub fn kv_remove_segment(&mut self, name: &str) -> Result<()> {
        self.runner.cache.segments_mut().remove(name)
    }

    /// The segment of a name. Fails with `InvalidArgument` if there is none.
    pub fn kv_segment(&self, name: &str) -> Result<Segment<'_>> {
        self.runner.cache.segments().get(name)
    }

    /// All segments, by ascending position.
    pub fn kv_segments(&self) -> impl ExactSizeIterator<Item = Segment<'_>> {
        self.runner.cache.segments().iter()
    }

    /// Changes the budget of slots ([`SessionParams::kv_budget`]; 0 = all) from the next eval on. To
    /// do so from another thread while an eval is running, see [`Control::budget`].
    pub fn set_kv_budget(&mut self, n_slots: u32) {
        self.runner.cache.set_budget((n_slots > 0).then_some(n_slots as usize));
    }

    /// What KV head `head` of layer `layer` holds; `None` if there is no such head, or if the layer has a
    /// window and all its heads hold the same tokens. Leverage is as of the last eviction or plan.
    pub fn kv_slots(&self, layer: usize, head: usize) -> Option<HeadSlots<'_>> {
        self.runner.cache.head_slots(&self.runner.weights.backend, layer, head)
    }

    /// Evicts the tokens at positions `from..to`; gives the number evicted. Positions of the
    /// others stay.
    pub fn kv_evict_range(&mut self, from: u32, to: u32) -> Result<u32> {
        if from > to {
            return Err(err!(InvalidArgument, "positions {from} to {to} run backwards"));
        }
        Ok(self.runner.kv_evict_range(from, to)? as u32)
    }

    /// Forgets every token from position `pos` on. What follows is what would have followed without
    /// them, to the bit; with codes of less than 8 bits if they are at most 16, of spans of at most 16.
    pub fn truncate(&mut self, pos: u32) -> Result<()> {
        self.generation.forget();
        self.runner.truncate(pos)?;
        self.unread.clear();
        Ok(())
    }

    /// A session of the same parameters and threads that holds the same tokens, and no logits. Where
    /// every KV head has filled a tile of 128 slots, both share it, until one of them changes something
    /// in it: eviction, [`Session::truncate`] and positions past what the model was trained on copy
    /// what is shared, and can fail with `OutOfMemory`. With a budget only tokens are shared that are
    /// pinned from the first one on: others would soon be copied.
    pub fn fork(&self) -> Result<Session> {
        let lender = &self.runner.cache;
        let mut fork = Session::with(self.model.clone(), self.params, Some(lender))?;
        fork.runner.scratch.copy_threads(&self.runner.scratch);
        fork.runner.copy_from(&self.runner)?;
        Ok(fork)
    }

    /// Changes how many threads evaluate one token, and many; at most those it was made with.
    pub fn set_threads(&mut self, decode: u32, batch: u32) -> Result<()> {
        let most = self.params.most_threads;
        for n in [decode, batch] {
            if n == 0 || n as usize > most {
                return Err(err!(InvalidArgument, "threads: found {n}, expected 1 to {most}"));
            }
        }
        self.runner.scratch.set_threads(decode as usize, batch as usize);
        Ok(())
    }

    /// How often all threads have waited for all so far: what a token costs beside its arithmetic.
    pub fn n_barriers(&self) -> u64 {
        self.runner.scratch.n_barriers()
    }

    /// How many best tokens were found without reading the whole head ([`Logits::Best`]).
    pub fn n_screened(&self) -> u64 {
        self.runner.scratch.n_screened()
    }

    /// How often a thread of the session has gone to sleep so far: nothing else in a token can make
    /// one wait.
    pub fn n_sleeps(&self) -> u64 {
        self.runner.scratch.n_sleeps()
    }
}

/// Memory of each tile of a session that other sessions may come to share, so that it can go when a
/// shared one takes its place; none if it is not to share.
fn tile_memory(model: &Model, params: &Resolved, shape: &Shape) -> Result<Vec<Memory>> {
    let mut tiles = Vec::new();
    let n_layer = windows(model).count(); // those with a window lie in tiles, too
    let n = if params.kv_share {
        params.n_ctx.div_ceil(TILE).saturating_sub(shape.n_shared)
    } else {
        0
    };
    tiles
        .try_reserve_exact(n)
        .map_err(|_| err!(OutOfMemory, "KV cache: no memory for {n} tiles"))?;
    let bytes = Cpu::tile_bytes(model.weights().backend.decoder(), shape);
    for _ in 0..n {
        let memory = Memory::new(params.lock, params.huge);
        memory.reserve(bytes * n_layer as u64)?;
        tiles.push(memory);
    }
    Ok(tiles)
}

/// The windows of a model's layers; 0 = none.
pub(super) fn windows(model: &Model) -> impl Iterator<Item = u32> + Clone {
    let weights = model.weights();
    weights.layers.iter().map(|layer| weights.backend.window(layer))
}
