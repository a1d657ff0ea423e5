//! What a snapshot holds of a session, and of the sampler that chooses its tokens.
//!
//! ```text
//! counters  slots freed u64, evictions u64, tokens drafted u64, accepted u64; a token that was
//!           chosen and not yet evaluated i32 (-1 = none), its position u32
//! parts     of the cache: see `kv::cache`
//! sampler   see `sampler`, if there is one
//! ```
//! Not in it: logits, and how long anything took.

use std::ops::Range;
use std::path::Path;

use crate::backend::{Backend, Row};
use crate::base::error::{Result, err};
use crate::base::le::Fields;
#[cfg(doc)]
use crate::engine::Model;
use crate::engine::generate::Generation;
use crate::engine::session::Session;
use crate::kv::cache::{Part, Saved};
use crate::sampler::Sampler;

use super::{Contents, Identity, Put, Reader, Section, Stored, StoredFile};

const COUNTERS: Section = Section { kind: 1, index: 0 };
const SAMPLER: Section = Section { kind: 32, index: 0 };
/// Bytes of the counters.
const COUNTERS_LEN: u64 = 40;

/// The kinds of the cache's parts.
const PARTS: [(Part, u32); 9] = [
    (Part::Positions, 2),
    (Part::Tokens, 3),
    (Part::Segments, 4),
    (Part::Rule, 5),
    (Part::Cells, 6),
    (Part::Knowledge, 7),
    (Part::Slots, 8),
    (Part::Keys, 9),
    (Part::Values, 10),
];

fn section_of(part: Part, index: u32) -> Section {
    let found = PARTS.iter().find(|(of, _)| *of == part);
    Section { kind: found.map_or(u32::MAX, |(_, kind)| *kind), index }
}

/// A session that is saved.
struct Saving<'s> {
    session: &'s Session,
    sampler: Option<&'s Sampler>,
}

impl Contents for Saving<'_> {
    fn sections(&self, each: &mut dyn FnMut(Section, u64) -> Result<()>) -> Result<()> {
        each(COUNTERS, COUNTERS_LEN)?;
        let runner = &self.session.runner;
        let backend = &runner.weights.backend;
        runner.cache.parts(backend, &mut |part, index, len| each(section_of(part, index), len))?;
        match self.sampler {
            Some(sampler) => each(SAMPLER, sampler.state_len() as u64),
            None => Ok(()),
        }
    }

    fn write(&self, section: Section, put: &mut Put<'_>) -> Result<()> {
        let (runner, generation) = (&self.session.runner, &self.session.generation);
        if section == COUNTERS {
            let n =
                [runner.n_freed, runner.n_evictions, generation.n_drafted, generation.n_accepted];
            n.iter().try_for_each(|n| put(&n.to_le_bytes()))?;
            let (token, pos) = generation.next.unwrap_or((-1, 0));
            put(&token.to_le_bytes())?;
            return put(&pos.to_le_bytes());
        }
        if let Some((part, _)) = PARTS.iter().find(|(_, kind)| *kind == section.kind) {
            let backend = &runner.weights.backend;
            return runner.cache.write_part(backend, *part, section.index, put);
        }
        self.sampler.map_or(Ok(()), |sampler| sampler.write_state(put))
    }
}

/// The sections of a snapshot as the parts of a cache.
struct Parts<'s>(&'s mut dyn Stored);

impl Saved for Parts<'_> {
    fn len(&self, part: Part, index: u32) -> Result<u64> {
        let Range { start, end } = self.0.find(section_of(part, index))?;
        Ok(end.saturating_sub(start))
    }

    fn read(&mut self, part: Part, index: u32, at: u64, to: &mut [u8]) -> Result<()> {
        let Range { start, end } = self.0.find(section_of(part, index))?;
        let from = start.saturating_add(at);
        if from.saturating_add(to.len() as u64) > end {
            return Err(err!(SnapshotCorrupt, "snapshot: {part:?} of {index} ends early"));
        }
        self.0.read(from, to)
    }

    fn check_rest(&mut self) -> Result<()> {
        self.0.check_rest()
    }
}

fn section(from: &mut dyn Stored, section: Section) -> Result<Vec<u8>> {
    let Range { start, end } = from.find(section)?;
    let mut bytes = Vec::new();
    let n = usize::try_from(end.saturating_sub(start)).unwrap_or(usize::MAX);
    bytes
        .try_reserve_exact(n)
        .map_err(|_| err!(OutOfMemory, "snapshot: no memory for {n} bytes of it"))?;
    bytes.resize(n, 0);
    from.read(start, &mut bytes)?;
    Ok(bytes)
}

impl Session {
    /// Saves all that the next tokens depend on to a file, in place of one that is there: tokens,
    /// keys and values, segments, how tokens leave and what is known for that; with a sampler also
    /// what that has come to. Not the logits: to sample at once when it is restored, save before
    /// the last token is evaluated. The file is the old one or the new one, whole, whatever happens
    /// meanwhile; only its owner may read it, since the text can be read from it.
    ///
    /// Fails with `Io`, and then the old file is there; the first time also as [`Model::digest`]
    /// does.
    pub fn save(&self, sampler: Option<&Sampler>, path: &Path) -> Result<()> {
        let (model, layout) = self.identity()?;
        super::save(&Identity { model, layout: &layout }, &Saving { session: self, sampler }, path)
    }

    /// Bytes that [`Session::write`] would write now.
    pub fn saved_len(&self, sampler: Option<&Sampler>) -> Result<u64> {
        let (model, layout) = self.identity()?;
        super::len(&Identity { model, layout: &layout }, &Saving { session: self, sampler })
    }

    /// Saves the same to the front of `to`; gives its bytes. Fails with `BufferTooSmall`.
    pub fn write(&self, sampler: Option<&Sampler>, to: &mut [u8]) -> Result<usize> {
        let (model, layout) = self.identity()?;
        super::write(&Identity { model, layout: &layout }, &Saving { session: self, sampler }, to)
    }

    /// Takes a saved session in place of what this one holds, which goes on as that one would have:
    /// the next logits, choices and evictions are the same bits, with any threads, where it was
    /// made with the same parameters and runs the same instruction set. `n_ctx` may be larger; what
    /// depends on the cache being full then comes later. Given a sampler, that goes on from where
    /// the saved one was. There are no logits until the next eval.
    ///
    /// A file is read a chunk at a time, keys and values once, into a session that has not evaluated
    /// anything or has been truncated to 0. What another holds must still be there if reading fails:
    /// then all of the file comes into memory first.
    ///
    /// All or nothing. Fails with `Io`; `SnapshotCorrupt`, `SnapshotVersion`; `SnapshotModel` if it
    /// is of another model; `SnapshotLayout` if it is of a session with other types of keys or
    /// values or another policy, holds more than fits here, or has no sampler or one of other
    /// parameters.
    pub fn restore(&mut self, sampler: Option<&mut Sampler>, path: &Path) -> Result<()> {
        let (model, layout) = self.identity()?;
        let identity = Identity { model, layout: &layout };
        if self.runner.cache.is_fresh() {
            return self.take(sampler, &mut StoredFile::open(path, &identity)?);
        }
        let bytes = super::load(path, &identity)?;
        self.take(sampler, &mut Reader::new(bytes.as_slice(), &identity)?)
    }

    /// The same from the caller's memory; `bytes` are those of a snapshot, and no more.
    pub fn read(&mut self, sampler: Option<&mut Sampler>, bytes: &[u8]) -> Result<()> {
        let (model, layout) = self.identity()?;
        let mut reader = Reader::new(bytes, &Identity { model, layout: &layout })?;
        self.take(sampler, &mut reader)
    }

    /// The model's digest, and what keys and values are.
    fn identity(&self) -> Result<(u64, [(&'static str, u64); 7])> {
        let (decoder, params) = (self.runner.weights.backend.decoder(), &self.params);
        let bytes = |of: Row| {
            let kv = self.runner.cache.layers.first();
            kv.map_or(0, |kv| self.runner.weights.backend.row_bytes(kv, of, u32::MAX) as u64)
        };
        let layout = [
            ("k_dtype", params.k_type as u64),
            ("v_dtype", params.v_type as u64),
            ("n_layer", self.runner.cache.layers.len() as u64),
            ("n_head_kv", decoder.n_head_kv as u64),
            ("head_dim", decoder.head_dim as u64),
            ("bytes of a key", bytes(Row::Key)),
            ("bytes of a value", bytes(Row::Value)),
        ];
        Ok((self.model().digest()?, layout))
    }

    fn take(&mut self, sampler: Option<&mut Sampler>, from: &mut dyn Stored) -> Result<()> {
        let bytes = section(from, COUNTERS)?;
        let mut fields = Fields::new("counters", &bytes);
        let [n_freed, n_evictions, n_drafted, n_accepted] =
            [fields.count()?, fields.count()?, fields.count()?, fields.count()?];
        let (token, pos) = (fields.u32()?, fields.u32()?);
        let n_vocab = self.model().info().n_vocab;
        if token != u32::MAX && token >= n_vocab {
            return Err(fields.wrong("token", token.into()));
        }
        fields.end()?;
        let mut chosen = Vec::new();
        if let Some(sampler) = &sampler {
            if from.find(SAMPLER).is_err() {
                return Err(err!(SnapshotLayout, "snapshot: found no sampler, expected one"));
            }
            chosen = section(from, SAMPLER)?;
            sampler.check_state(&chosen)?;
        }

        let (made, runner) = (self.params.rule, &mut self.runner);
        let (cache, backend) = (&mut runner.cache, &runner.weights.backend);
        let mut parts = Parts(from);
        let state = cache.check(backend, made, n_vocab, &mut parts)?;
        cache.take(backend, state, &mut parts)?;
        if let Some(sampler) = sampler {
            sampler.restore_state(&chosen)?; // which cannot fail any more
        }
        (runner.n_freed, runner.n_evictions) = (n_freed, n_evictions);
        runner.n_logits = 0;
        self.unread.clear();
        let next = (token != u32::MAX).then_some((token as i32, pos));
        self.generation = Generation { next, n_drafted, n_accepted };
        Ok(())
    }
}
