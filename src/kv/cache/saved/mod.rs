//! What a cache holds, in parts that are bytes, and back.
//!
//! ```text
//! positions  how far keys are turned back u32; of each layer the position before which tokens were
//!            counted u32, the next part of its slots u32, tokens counted u64
//! tokens     position of the first u32, tokens i32 segments   each from, to, ttl u32, priority
//! i32, pinned u32, next position that ends it u64, length
//!            of its name u32, its name
//! rule       length of the policy's name u32 (0 = no policy), the name, budget u64 (0 = none), its
//!            parameters as `rule` has them, u64
//! cells      of layers with a window: those in use u32, then their positions u32
//! knowledge  of each KV head with slots of its own: part of the attention that stayed f32; if keys
//!            are compared with their mean: how many u64, the mean f64; what the device knows f32
//! slots      of each such head: positions u32, then the positions that keys are turned by u32
//! keys       of each layer and KV head: a row for each cell in use, as the device stores it, and what
//!            it has of the newest tokens beside
//! values     the same
//! ```
//! Taking it back is in two steps. [`Cache::check`] reads everything but keys and values and says
//! whether this cache can hold that; nothing has changed then. [`Cache::take`] cannot fail for what
//! was checked, but where bytes cannot be read again.
#![deny(
    clippy::arithmetic_side_effects,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::string_slice,
    clippy::unreachable
)]

mod rows;
mod rule;

use std::ops::Range;

use crate::backend::Backend;
use crate::base::error::{Error, Result, err};
use crate::base::le::{Fields, Put, put_words};
use crate::kv::cells::Cells;
use crate::kv::eviction::{PARTS, Rule};
use crate::kv::filled;
use crate::kv::history::History;
use crate::kv::policy::mean::Mean;
use crate::kv::segments::Segments;
use crate::kv::slots::Slots;

use super::{Cache, Capacity};

/// What of a cache is saved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Where the sequence stands.
    Positions,
    /// Its tokens.
    Tokens,
    /// Its named segments.
    Segments,
    /// How tokens leave.
    Rule,
    /// Which cell holds which position.
    Cells,
    /// What is known of a head's slots.
    Knowledge,
    /// Which slot of a head holds which position.
    Slots,
    /// A head's keys.
    Keys,
    /// A head's values.
    Values,
}

const PARTS_OF_A_CACHE: [Part; 9] = [
    Part::Positions,
    Part::Tokens,
    Part::Segments,
    Part::Rule,
    Part::Cells,
    Part::Knowledge,
    Part::Slots,
    Part::Keys,
    Part::Values,
];

/// Where the parts of a cache are that was saved.
pub trait Saved {
    /// Bytes of a part. Fails with `SnapshotCorrupt` if there is none.
    fn len(&self, part: Part, index: u32) -> Result<u64>;

    /// Reads bytes of a part from `at` on.
    fn read(&mut self, part: Part, index: u32, at: u64, to: &mut [u8]) -> Result<()>;

    /// Fails with `SnapshotCorrupt` if what was never read is not what it was.
    fn check_rest(&mut self) -> Result<()>;
}

/// Which of [`Backend::knowledge`] ends with a number for each slot that is computed later.
const LEVERAGE: usize = 2;
/// Bytes that are read or written together.
const BUFFER: usize = 64 << 10;
/// Words that are read together.
const WORDS: usize = 1024;

fn buffer(n: usize) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    bytes
        .try_reserve_exact(n)
        .map_err(|_| err!(OutOfMemory, "snapshot: no memory for {n} bytes"))?;
    bytes.resize(n, 0);
    Ok(bytes)
}

/// All bytes of a part.
fn all(from: &mut dyn Saved, part: Part, index: u32) -> Result<Vec<u8>> {
    let mut bytes = buffer(from.len(part, index)? as usize)?;
    from.read(part, index, 0, &mut bytes)?;
    Ok(bytes)
}

/// How many slots a head uses.
fn held(slots: &Slots, head: usize) -> Result<usize> {
    slots.held().get(head).map(|&n| n as usize).ok_or_else(|| no_head(head))
}

#[cold]
fn no_head(index: usize) -> Error {
    err!(Internal, "KV cache: there is no head {index}")
}

/// Bytes of a mean.
fn mean_len(mean: &Mean) -> usize {
    size_of_val(mean.mean()).saturating_add(8)
}

/// Bytes of words.
fn words_len<const N: usize>(words: [&[f32]; N]) -> u64 {
    words.iter().fold(0, |sum: u64, x| sum.saturating_add(size_of_val(*x) as u64))
}

/// A cache's bookkeeping, read and checked, and not yet the cache's.
pub struct State {
    turned_back: u32,
    learnt: Vec<u32>,
    next_part: Vec<usize>,
    n_learnt: Vec<u64>,
    history: History,
    segments: Segments,
    rule: Option<Rule>,
    cells: Option<Cells>,
    slots: Slots,
    retained: Vec<f32>,
    means: Vec<Mean>,
    /// Room for rows on their way, so that nothing has to be allocated once the cache changes.
    rows: Vec<u8>,
}

impl<B: Backend> Cache<B> {
    /// Calls `each(part, index, its bytes)` for all parts, in ascending order.
    pub fn parts(
        &self,
        backend: &B,
        each: &mut dyn FnMut(Part, u32, u64) -> Result<()>,
    ) -> Result<()> {
        for part in PARTS_OF_A_CACHE {
            for index in self.indices(part) {
                each(part, index, self.part_len(backend, part, index as usize)?)?;
            }
        }
        Ok(())
    }

    fn indices(&self, part: Part) -> Range<u32> {
        let n = match part {
            Part::Positions | Part::Tokens | Part::Segments | Part::Rule => 1,
            Part::Cells => usize::from(self.cells.is_some()),
            Part::Knowledge | Part::Slots => self.slots.n_heads(),
            Part::Keys | Part::Values => self.layers.len().saturating_mul(self.n_head),
        };
        0..n as u32
    }

    fn part_len(&self, backend: &B, part: Part, index: usize) -> Result<u64> {
        Ok(match part {
            Part::Positions => (self.layers.len() as u64).saturating_mul(16).saturating_add(4),
            Part::Tokens => self.history.written_len(),
            Part::Segments => self.segments.written_len(),
            Part::Rule => {
                let mut n = 0_u64;
                rule::write(self.rule, &mut |bytes| {
                    n = n.saturating_add(bytes.len() as u64);
                    Ok(())
                })?;
                n
            }
            Part::Cells => (self.cells.as_ref().map_or(0, Cells::len) as u64).saturating_mul(8),
            Part::Knowledge => self.knowledge_len(backend, index, held(&self.slots, index)?)?,
            Part::Slots => (held(&self.slots, index)? as u64).saturating_mul(8),
            Part::Keys | Part::Values => {
                let places = self.places(&self.slots, self.cells.as_ref(), index)?;
                self.rows_len(backend, part, index, &places)?.0
            }
        })
    }

    /// Bytes of what is known of a head that holds so much.
    fn knowledge_len(&self, backend: &B, head: usize, held: usize) -> Result<u64> {
        let (layer, of_layer) = self.layer_of(head)?;
        let kv = self.layers.get(layer).ok_or_else(|| no_head(head))?;
        let known = backend.knowledge(kv, of_layer, held);
        let mean = self.means.get(head).map_or(0, mean_len);
        Ok(words_len(known).saturating_add(mean as u64).saturating_add(4))
    }

    /// The layer of a head with slots of its own, and which of its heads it is.
    fn layer_of(&self, head: usize) -> Result<(usize, usize)> {
        let of_layer = head.checked_rem(self.n_head).ok_or_else(|| no_head(head))?;
        let first = head.checked_sub(of_layer);
        let layer = self.own.iter().position(|&own| own.is_some() && own == first);
        Ok((layer.ok_or_else(|| no_head(head))?, of_layer))
    }

    /// Puts the bytes of a part.
    pub fn write_part(&self, backend: &B, part: Part, index: u32, put: &mut Put<'_>) -> Result<()> {
        let index = index as usize;
        match part {
            Part::Positions => {
                put(&self.turned_back.to_le_bytes())?;
                for ((kv, learnt), next) in
                    self.layers.iter().zip(&self.learnt).zip(&self.next_part)
                {
                    put(&learnt.to_le_bytes())?;
                    put(&(*next as u32).to_le_bytes())?;
                    put(&backend.n_learnt(kv).to_le_bytes())?;
                }
                Ok(())
            }
            Part::Tokens => self.history.write(put),
            Part::Segments => self.segments.write(put),
            Part::Rule => rule::write(self.rule, put),
            Part::Cells => self.cells.as_ref().map_or(Ok(()), |cells| cells.write(put)),
            Part::Knowledge => {
                let (layer, of_layer) = self.layer_of(index)?;
                let (Some(kv), Some(retained), Some(&learnt)) =
                    (self.layers.get(layer), self.retained.get(index), self.learnt.get(layer))
                else {
                    return Err(no_head(index));
                };
                put(&retained.to_le_bytes())?;
                if let Some(mean) = self.means.get(index) {
                    put(&mean.n().to_le_bytes())?;
                    mean.mean().iter().try_for_each(|x| put(&x.to_le_bytes()))?;
                }
                let held = held(&self.slots, index)?;
                let known = backend.knowledge(kv, of_layer, held);
                // The newest slots have no leverage yet: what stands there is what was there before.
                let n_old = self.slots.pos(index).partition_point(|&pos| pos < learnt);
                let n_new = held.saturating_sub(n_old);
                (0..known.len()).zip(known).try_for_each(|(i, x)| {
                    let n_zeros = if i == LEVERAGE { n_new.min(x.len()) } else { 0 };
                    let n = x.len().saturating_sub(n_zeros);
                    let zeros = std::iter::repeat_n(0, n_zeros);
                    put_words(&mut x.iter().take(n).map(|x| x.to_bits()).chain(zeros), put)
                })
            }
            Part::Slots => self.slots.write(index, put),
            Part::Keys | Part::Values => self.write_rows(backend, part, index, put),
        }
    }

    /// Reads everything but keys and values, and checks that this cache can hold all of it. `made`:
    /// the rule that the session was made with.
    ///
    /// Fails with `SnapshotLayout` if it would take a cache of other parameters, or a larger one,
    /// `SnapshotCorrupt` if none could hold that.
    pub fn check(
        &self,
        backend: &B,
        made: Option<Rule>,
        n_vocab: u32,
        from: &mut dyn Saved,
    ) -> Result<State> {
        let Capacity { n_slots, n_cells, tiled, n_turns, head_dim } = self.capacity;
        let mut history = History::new(n_turns as usize)?;
        history.read(&all(from, Part::Tokens, 0)?, n_vocab)?;
        let next = history.next_pos();

        let bytes = all(from, Part::Positions, 0)?;
        let mut fields = Fields::new("positions", &bytes);
        let turned_back = fields.u32()?;
        let n_layer = self.layers.len();
        let (mut learnt, mut next_part) =
            (filled(n_layer, 0, "layers")?, filled(n_layer, 0, "layers")?);
        let mut n_learnt = filled(n_layer, 0, "layers")?;
        let layers = learnt.iter_mut().zip(&mut next_part).zip(&mut n_learnt);
        for ((learnt, next_part), n_learnt) in layers {
            (*learnt, *next_part) = (fields.u32()?, fields.u32()? as usize);
            *n_learnt = fields.count()?;
            if *learnt > next || *next_part >= PARTS {
                return Err(fields.wrong("counted up to", (*learnt).into()));
            }
        }
        let Some(next_turn) = next.checked_sub(turned_back) else {
            return Err(fields.wrong("turned back", turned_back.into()));
        };
        fields.end()?;
        if next_turn > n_turns {
            return Err(err!(
                SnapshotLayout,
                "snapshot: keys are turned by {next_turn} positions, expected at most {n_turns}; make \
                 the session with as large an n_ctx as the one that was saved"
            ));
        }

        let mut segments = Segments::new()?;
        segments.read(&all(from, Part::Segments, 0)?)?;
        let rule = rule::read(&all(from, Part::Rule, 0)?, made, n_slots)?;
        let mut cells = self.cells.is_some().then(|| Cells::new(n_cells)).transpose()?;
        if let Some(cells) = &mut cells {
            cells.read(&all(from, Part::Cells, 0)?, next)?;
            if tiled {
                cells.close_up();
            }
        }
        let n_heads = self.slots.n_heads();
        let mut slots = Slots::new(n_heads, n_slots)?;
        for head in 0..n_heads {
            slots.read(head, &all(from, Part::Slots, head as u32)?, (next, next_turn))?;
        }
        let mut retained = filled(n_heads, 0.0, "heads")?;
        let mut means = Vec::new();
        means
            .try_reserve_exact(self.means.len())
            .map_err(|_| err!(OutOfMemory, "KV cache: means"))?;
        for (head, retained) in retained.iter_mut().enumerate() {
            if !self.means.is_empty() {
                means.push(Mean::new(head_dim)?);
            }
            let len = self.knowledge_len(backend, head, held(&slots, head)?)?;
            *retained = check_knowledge(from, head as u32, len, means.get_mut(head))?;
        }
        let mut longest = 0;
        for part in [Part::Keys, Part::Values] {
            for index in 0..n_layer.saturating_mul(self.n_head) {
                let places = self.places(&slots, cells.as_ref(), index)?;
                let (all, row) = self.rows_len(backend, part, index, &places)?;
                longest = row.max(longest);
                check_len(from, part, index as u32, all)?;
            }
        }
        Ok(State {
            turned_back,
            learnt,
            next_part,
            n_learnt,
            history,
            segments,
            rule,
            cells,
            slots,
            retained,
            means,
            rows: buffer(longest.max(BUFFER))?,
        })
    }

    /// Whether nothing has come yet: what is not in use is then all there is.
    pub fn is_fresh(&self) -> bool {
        self.next_pos() == 0
    }

    /// Takes what was checked in place of what the cache holds. Fails only if bytes cannot be read, or
    /// not again; nothing has changed then in a cache that [is fresh](Cache::is_fresh), others are of
    /// no use. And with `OutOfMemory` if it shares tiles; it holds what it held then.
    pub fn take(&mut self, backend: &B, mut state: State, from: &mut dyn Saved) -> Result<()> {
        self.own(backend, 0, 0)?;
        if let Err(error) = self.fill(backend, &mut state, from).and_then(|()| from.check_rest()) {
            self.layers.iter_mut().for_each(|kv| backend.forget(kv));
            return Err(error);
        }
        for (kv, n) in self.layers.iter_mut().zip(state.n_learnt) {
            backend.set_n_learnt(kv, n);
        }
        (self.turned_back, self.rule) = (state.turned_back, state.rule);
        (self.learnt, self.next_part) = (state.learnt, state.next_part);
        (self.history, self.segments) = (state.history, state.segments);
        (self.cells, self.slots) = (state.cells, state.slots);
        (self.retained, self.means) = (state.retained, state.means);
        Ok(())
    }

    /// Reads keys, values and what is known of them to where they belong.
    fn fill(&mut self, backend: &B, state: &mut State, from: &mut dyn Saved) -> Result<()> {
        for head in 0..self.slots.n_heads() {
            let (layer, of_layer) = self.layer_of(head)?;
            let mut at = self.means.get(head).map_or(0, mean_len).saturating_add(4) as u64;
            let kv = self.layers.get_mut(layer).ok_or_else(|| no_head(head))?;
            for x in backend.knowledge_mut(kv, of_layer, held(&state.slots, head)?) {
                let mut bytes = [[0; 4]; WORDS];
                for some in x.chunks_mut(WORDS) {
                    let bytes = bytes.get_mut(..some.len()).unwrap_or_default();
                    from.read(Part::Knowledge, head as u32, at, bytes.as_flattened_mut())?;
                    at = at.saturating_add(size_of_val(bytes) as u64);
                    some.iter_mut().zip(bytes).for_each(|(x, b)| *x = f32::from_le_bytes(*b));
                }
            }
        }
        for part in [Part::Keys, Part::Values] {
            for index in 0..self.layers.len().saturating_mul(self.n_head) {
                self.read_rows(backend, part, index, state, from)?;
            }
        }
        Ok(())
    }
}

fn check_len(from: &dyn Saved, part: Part, index: u32, expected: u64) -> Result<()> {
    match from.len(part, index)? {
        found if found == expected => Ok(()),
        found => Err(err!(
            SnapshotCorrupt,
            "snapshot: {part:?} of head {index}: {found} bytes, expected {expected}"
        )),
    }
}

/// Checks that what is known of a head is finite numbers, so many bytes of them. Fills the mean in,
/// and gives the part of the attention that stayed.
fn check_knowledge(
    from: &mut dyn Saved,
    head: u32,
    len: u64,
    mean: Option<&mut Mean>,
) -> Result<f32> {
    check_len(from, Part::Knowledge, head, len)?;
    let is_bad = |bytes: &[u8; 4]| !f32::from_le_bytes(*bytes).is_finite();
    let bad = || err!(SnapshotCorrupt, "snapshot: Knowledge of head {head}: not a finite number");
    let mut first = [0; 4];
    from.read(Part::Knowledge, head, 0, &mut first)?;
    let retained = f32::from_le_bytes(first);
    let mut at = 4_u64;
    if let Some(mean) = mean {
        let mut bytes = buffer(mean_len(mean))?;
        from.read(Part::Knowledge, head, at, &mut bytes)?;
        let mut fields = Fields::new("mean", &bytes);
        let n = fields.count()?;
        let (words, _) = fields.rest().as_chunks();
        mean.set(n, words.iter().map(|word| f64::from_le_bytes(*word)));
        if !mean.mean().iter().all(|x| x.is_finite()) {
            return Err(bad());
        }
        at = at.saturating_add(bytes.len() as u64);
    }
    let mut bytes = [[0; 4]; WORDS];
    let mut left = (len.saturating_sub(at) / 4) as usize;
    while left > 0 {
        let bytes = bytes.get_mut(..left.min(WORDS)).unwrap_or_default();
        from.read(Part::Knowledge, head, at, bytes.as_flattened_mut())?;
        if bytes.iter().any(is_bad) {
            return Err(bad());
        }
        at = at.saturating_add(size_of_val(bytes) as u64);
        left = left.saturating_sub(WORDS);
    }
    if is_bad(&first) { Err(bad()) } else { Ok(retained) }
}
