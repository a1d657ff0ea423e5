//! Loading: open, parse, check, bring the weights into memory. What was begun is dropped on the
//! way out of any error.
#![deny(
    clippy::arithmetic_side_effects,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::string_slice,
    clippy::unreachable
)]

use std::path::Path;

use crate::backend::TensorRef;
use crate::backend::cpu::{Cpu, Tile};
use crate::base::cpu::{Isa, performance_cores};
use crate::base::error::{Error, Result, err};
use crate::base::file::{LoadMode, Source};
use crate::base::heap;
use crate::base::log::log;
use crate::base::memory::{self, Memory};
use crate::base::shared::Shared;
use crate::base::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use crate::chat;
use crate::gguf::{Gguf, TensorInfo};
use crate::kv::prefix::Prefixes;
use crate::model::arch;
use crate::model::forward::Weights;
use crate::model::hparams::Hparams;
use crate::model::weights;
use crate::model::whole;
use crate::tokenizer::Tokenizer;

use super::params::{ModelParams, SessionParams};
use super::plan::{Plan, check_memory, session_bytes};
use super::signed::{Signed, Trust};
use super::vocab;
use super::weights::{as_it_lies, check_finite, packed};

/// Where a model's bytes come from.
#[derive(Clone, Copy, Debug)]
pub enum Input<'a> {
    /// A file.
    Path(&'a Path),
    /// Part of an open file; the descriptor stays the caller's.
    Fd {
        /// Open for reading.
        fd: i32,
        /// Where the model begins.
        offset: u64,
        /// Its bytes; `u64::MAX` = to the end.
        len: u64,
    },
    /// Memory; copied.
    Memory(&'a [u8]),
}

/// What a model is.
#[derive(Clone, Debug, Default)]
pub struct ModelInfo {
    /// The architecture, as the file names it.
    pub arch: String,
    /// The model's name; empty if it has none.
    pub name: String,
    /// Tokens in the vocabulary.
    pub n_vocab: u32,
    /// Tokens of context it was trained with.
    pub n_ctx_train: u32,
    /// Width of the residual stream.
    pub n_embd: u32,
    /// Transformer blocks.
    pub n_layer: u32,
    /// Query heads.
    pub n_head: u32,
    /// Key and value heads.
    pub n_head_kv: u32,
    /// Elements of a head.
    pub head_dim: u32,
    /// Width of the feed-forward block.
    pub n_ff: u32,
    /// Weights in all tensors.
    pub n_params: u64,
    /// Bytes of the data section.
    pub file_bytes: u64,
    /// Bytes of weights read for each token evaluated.
    pub weight_bytes: u64,
    /// Queries and keys are normalised before rotation (QK-norm).
    pub has_qk_norm: bool,
    /// The head is screened ([`ModelParams::screened_head`]).
    pub screened_head: bool,
    /// Bytes of weights that are locked in RAM: all, or 0.
    pub locked_bytes: u64,
}

/// A loaded model: weights, vocabulary, hyperparameters. Immutable; to clone it makes one more owner.
#[derive(Clone)]
pub struct Model(Shared<Parts>);

/// What all owners of a model share.
pub(super) struct Parts {
    info: ModelInfo,
    gguf: Gguf,
    tokenizer: Tokenizer,
    /// Where its tensors lie in the file; its decoder is the backend's.
    pub(super) plan: weights::Plan,
    weights: Shared<Weights<Cpu>>,
    /// See [`Model::digest`].
    pub(super) digest: OnceLock<u64>,
    /// Prefixes that its sessions share ([`SessionParams::kv_share`]).
    pub(super) prefixes: Shared<Prefixes<Tile>>,
}

/// A model's file, parsed and checked, before its weights are brought into memory.
pub(super) struct Parsed {
    pub(super) gguf: Gguf,
    pub(super) plan: weights::Plan,
    info: ModelInfo,
}

impl Model {
    /// Loads a model. `progress` is told bytes done and in all, and says whether to go on.
    pub fn load(
        input: Input<'_>,
        params: &ModelParams,
        progress: &mut dyn FnMut(u64, u64) -> bool,
    ) -> Result<Model> {
        Model::load_signed(input, params, None, progress)
    }

    /// Loads a model, if `trust` is given only one that somebody trusted has signed: its file is then
    /// held against its manifest in the same pass that reads it, on the bytes that are used.
    ///
    /// Fails as [`Model::load`] does, then with `NotSigned`, `BadManifest`, `BadSignature`,
    /// `BadDigest`, `Rollback`; with `Unsupported` for [`LoadMode::MapFast`], and where tern was
    /// compiled without the feature `signed`.
    pub fn load_signed(
        input: Input<'_>,
        params: &ModelParams,
        trust: Option<&Trust<'_>>,
        progress: &mut dyn FnMut(u64, u64) -> bool,
    ) -> Result<Model> {
        let source = open(input)?;
        let text = trust.map(|trust| Signed::text(input, trust)).transpose()?;
        let signed = match (trust, &text) {
            (Some(trust), Some(text)) => Some(Signed::new(text, trust, &source)?),
            _ => None,
        };
        Model::load_from(&source, params, signed.as_ref(), progress).map_err(|error| match error {
            Error::Aborted(_) | Error::OutOfMemory(_) => error,
            // What is wrong with a file that is being written to says little.
            error => source.check_unchanged().err().unwrap_or(error),
        })
    }

    fn load_from(
        source: &Source<'_>,
        params: &ModelParams,
        signed: Option<&Signed<'_>>,
        progress: &mut dyn FnMut(u64, u64) -> bool,
    ) -> Result<Model> {
        let mut parsed = parse(source, params, signed)?;
        let mode = load_mode(params, source, &parsed.gguf);
        signed.map_or(Ok(()), |signed| signed.check_mode(mode))?;
        let len = parsed.gguf.data_len();
        let isa = params.isa.unwrap_or_else(Isa::best);
        let (plan, gguf) = (&mut parsed.plan, &parsed.gguf);
        let n_vocab = plan.decoder.n_vocab;
        if gguf.is_packed() && !Cpu::packs(isa) {
            let isa = isa.name();
            return Err(err!(Unsupported, "the file is packed; the kernels for {isa} are not"));
        }
        // The vocabulary is read beside the weights. What is wrong with it comes first, as it does in
        // the file; so the weights are left alone as soon as that is known.
        let found = Mutex::new(None);
        let vocabulary = || *lock(&found) = Some(tokenizer(gguf, n_vocab));
        let mut progress = |done, total| match &*lock(&found) {
            Some(Err(_)) => false,
            _ => progress(done, total),
        };
        let backend = match mode == LoadMode::Copy && !gguf.is_packed() && Cpu::packs(isa) {
            true => {
                packed((source, signed), gguf, plan, (isa, params.huge), &vocabulary, &mut progress)
            }
            false => as_it_lies(
                (source, signed),
                gguf,
                plan,
                (isa, params.huge),
                mode,
                &vocabulary,
                &mut progress,
            ),
        };
        let tokenizer = found.into_inner().unwrap_or_else(PoisonError::into_inner).transpose()?;
        let backend = backend?;
        let tokenizer = tokenizer.ok_or_else(|| err!(Internal, "the vocabulary was not read"))?;
        let memory = Memory::new(params.lock, params.huge);
        backend.bytes().lock(&memory)?;
        let mut layers = heap::reserve(plan.layers.len(), "layers")?;
        for layer in &plan.layers {
            layers.push(backend.layer(layer)?);
        }
        let mut ends = backend.ends(&plan.ends)?;
        if parsed.info.screened_head {
            check_memory("screened head", Cpu::screen_bytes(backend.decoder(), &plan.ends))?;
            backend.screen(&mut ends, performance_cores().max(1), &memory)?;
        }
        if mode != LoadMode::Copy {
            backend.bytes().check_unchanged()?;
            source.check_unchanged()?;
        }
        let (info, isa) = (&parsed.info, backend.isa().name());
        log!(
            Info,
            "model \"{}\": {}, {} layers, {} weights in {len} bytes, {mode:?}; kernels {isa}",
            info.name,
            info.arch,
            info.n_layer,
            info.n_params
        );
        Ok(Model(Shared::new(Parts {
            info: ModelInfo { locked_bytes: memory.locked_bytes(), ..parsed.info },
            gguf: parsed.gguf,
            tokenizer,
            plan: parsed.plan,
            weights: Shared::new(Weights { backend, layers, ends })?,
            digest: OnceLock::new(),
            prefixes: Shared::new(Prefixes::default())?,
        })?))
    }

    /// Bytes that the model and one session would take; reads the file's header only.
    pub fn plan(input: Input<'_>, params: &ModelParams, session: &SessionParams) -> Result<Plan> {
        let source = open(input)?;
        let parsed = parse(&source, params, None)?;
        let data = parsed.gguf.data_len();
        let copied = load_mode(params, &source, &parsed.gguf) == LoadMode::Copy;
        let tokenizer = tokenizer(&parsed.gguf, parsed.plan.decoder.n_vocab)?;
        let vocab_bytes = tokenizer.heap_bytes().saturating_add(parsed.gguf.heap_bytes() as u64);
        let isa = params.isa.unwrap_or_else(Isa::best);
        let packs = !parsed.gguf.is_packed() && Cpu::packs(isa);
        let panels = (parsed.gguf.is_packed() || copied && packs).then_some(isa);
        let windows = parsed.plan.layers.iter().map(|layer| layer.window);
        let session = session.resolve(&parsed.info, windows.clone())?;
        let (decoder, shape) = (&parsed.plan.decoder, session.shape(panels, 0));
        let (kv_bytes, scratch_bytes) = session_bytes(decoder, windows, &session, &shape);
        let weights_bytes = match copied {
            true if packs => Cpu::packed_bytes(&parsed.plan.layers, &parsed.plan.ends)?,
            true => data,
            false => 0,
        };
        let screen_bytes = match parsed.info.screened_head {
            true => Cpu::screen_bytes(&parsed.plan.decoder, &parsed.plan.ends),
            false => 0,
        };
        let weights_bytes = weights_bytes.saturating_add(screen_bytes);
        let session_bytes = kv_bytes.saturating_add(scratch_bytes);
        Ok(Plan {
            weights_bytes,
            mapped_bytes: if copied { 0 } else { data },
            vocab_bytes,
            kv_bytes,
            scratch_bytes,
            total_bytes: weights_bytes.saturating_add(vocab_bytes).saturating_add(session_bytes),
        })
    }

    /// What the model is.
    pub fn info(&self) -> &ModelInfo {
        &self.0.info
    }

    /// Its tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.0.tokenizer
    }

    /// Its metadata and tensor table.
    pub fn gguf(&self) -> &Gguf {
        &self.0.gguf
    }

    /// The instruction set of its kernels.
    pub fn isa(&self) -> Isa {
        self.0.weights.backend.isa()
    }

    /// The chat template that the file carries.
    pub fn chat_template(&self) -> Option<&str> {
        self.0.gguf.metadata().get_str("tokenizer.chat_template").ok().flatten()
    }

    /// Formats messages by the model's own template, appending to `out`.
    pub fn chat_format(
        &self,
        messages: &[chat::Message<'_>],
        add_generation_prompt: bool,
        out: &mut String,
    ) -> Result<()> {
        let template = self
            .gguf()
            .metadata()
            .get_str("tokenizer.chat_template")?
            .ok_or_else(|| err!(BadTemplate, "tokenizer.chat_template: the model has none"))?;
        let name = |token: Option<i32>| {
            let bytes = token.and_then(|t| self.tokenizer().name(t)).unwrap_or(&[]);
            std::str::from_utf8(bytes).unwrap_or("")
        };
        let (bos, eos) = (name(self.tokenizer().bos()), name(self.tokenizer().eos()));
        chat::format(template, messages, add_generation_prompt, bos, eos, out)
    }

    pub(super) fn weights(&self) -> &Shared<Weights<Cpu>> {
        &self.0.weights
    }

    pub(super) fn parts(&self) -> &Parts {
        &self.0
    }

    /// Fails if the mapped file changed under a guarded model, or could not be read.
    pub(super) fn check_unchanged(&self) -> Result<()> {
        self.0.weights.backend.bytes().check_unchanged()
    }
}

/// Weights of a tensor.
fn n_weights(tensor: &TensorInfo) -> u64 {
    tensor.shape.iter().copied().fold(1, u64::saturating_mul)
}

fn open(input: Input<'_>) -> Result<Source<'_>> {
    match input {
        Input::Path(path) => Source::open(path),
        Input::Fd { fd, offset, len } => Source::from_fd(fd, offset, len),
        Input::Memory(bytes) => Ok(Source::from_memory(bytes)),
    }
}

pub(super) fn parse(
    source: &Source<'_>,
    params: &ModelParams,
    signed: Option<&Signed<'_>>,
) -> Result<Parsed> {
    if params.device != 0 {
        return Err(err!(InvalidArgument, "device: found {}, expected 0, the CPU", params.device));
    }
    let gguf = Gguf::parse(source)?;
    signed.map_or(Ok(()), |signed| signed.check_header(&gguf))?;
    whole::check(&gguf)?;
    let name = gguf
        .metadata()
        .get_str("general.architecture")?
        .ok_or_else(|| err!(BadHparams, "general.architecture: missing"))?;
    let hparams = Hparams::read(&gguf, arch::find(name)?)?;
    let data_offset = gguf.data_offset();
    let mut read = |tensor: &TensorRef| {
        let mut bytes = Vec::new();
        bytes
            .try_reserve_exact(tensor.bytes)
            .map_err(|_| err!(OutOfMemory, "no memory for {} bytes", tensor.bytes))?;
        bytes.resize(tensor.bytes, 0);
        let offset = tensor.offset as u64;
        let in_file = data_offset.saturating_add(offset);
        source.read_at(in_file, &mut bytes)?;
        signed.map_or(Ok(()), |signed| signed.check_tensor(in_file, &bytes))?;
        check_finite(&gguf, tensor, offset, &bytes)?;
        Ok(bytes)
    };
    let plan = weights::plan(&gguf, &hparams, &mut read)?;
    let info = ModelInfo {
        arch: heap::text(hparams.arch.name)?,
        name: heap::text(gguf.metadata().get_str("general.name").ok().flatten().unwrap_or(""))?,
        n_vocab: plan.decoder.n_vocab as u32,
        n_ctx_train: hparams.n_ctx_train as u32,
        n_embd: hparams.n_embd as u32,
        n_layer: hparams.n_layer as u32,
        n_head: hparams.n_head as u32,
        n_head_kv: hparams.n_head_kv as u32,
        head_dim: hparams.head_dim as u32,
        n_ff: hparams.n_ff as u32,
        n_params: gguf.tensors().iter().map(n_weights).fold(0, u64::saturating_add),
        file_bytes: gguf.data_len(),
        weight_bytes: plan.bytes_per_token,
        has_qk_norm: plan.layers.iter().any(|layer| layer.k_norm.is_some()),
        screened_head: params.screened_head && Cpu::screen_bytes(&plan.decoder, &plan.ends) > 0,
        locked_bytes: 0,
    };
    Ok(Parsed { gguf, plan, info })
}

/// The file's tokenizer, which has as many tokens as the embedding has rows.
pub(super) fn tokenizer(gguf: &Gguf, n_vocab: usize) -> Result<Tokenizer> {
    let tables = vocab::tables(gguf.metadata())?;
    // Before memory is asked for by the number of tokens.
    if tables.n_tokens > 0 && tables.n_tokens != n_vocab {
        return Err(err!(
            BadVocab,
            "tokenizer.ggml.tokens: {} of them, but token_embd.weight has {n_vocab} rows",
            tables.n_tokens
        ));
    }
    Tokenizer::new(tables)
}

/// The mode asked for; else a guarded mapping of packed files, of which a copy would be no faster,
/// and of those whose copy would take more than half of the memory that is free. Memory can only be
/// copied.
fn load_mode(params: &ModelParams, source: &Source<'_>, gguf: &Gguf) -> LoadMode {
    if !source.is_file() {
        return LoadMode::Copy;
    }
    params.load_mode.unwrap_or_else(|| {
        match !gguf.is_packed() && gguf.data_len() <= memory::available() / 2 {
            true => LoadMode::Copy,
            false => LoadMode::MapGuarded,
        }
    })
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
