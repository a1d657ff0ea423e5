//! Loading: open, parse, check, bring the weights into memory. What was begun is dropped on the
//! way out of any error.

use std::path::Path;
use std::sync::Arc;

use crate::backend::TensorRef;
use crate::backend::cpu::{self, Cpu};
use crate::base::cpu::{Isa, performance_cores};
use crate::base::dtype::DType;
use crate::base::error::{Error, Result, err};
use crate::base::file::{Bytes, LoadMode, Source, report};
use crate::base::log::log;
use crate::base::memory::{self, Memory};
use crate::chat;
use crate::gguf::Gguf;
use crate::model::arch;
use crate::model::forward::Weights;
use crate::model::hparams::Hparams;
use crate::model::weights::{self, reference};
use crate::tokenizer::Tokenizer;

use super::params::{ModelParams, SessionParams};
use super::plan::{Plan, check_memory, session_bytes};
use super::vocab;

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
    /// The head is screened ([`ModelParams::screened_head`]).
    pub screened_head: bool,
    /// Bytes of weights that are locked in RAM: all, or 0.
    pub locked_bytes: u64,
}

/// A loaded model: weights, vocabulary, hyperparameters. Immutable.
pub struct Model {
    info: ModelInfo,
    gguf: Gguf,
    tokenizer: Tokenizer,
    weights: Arc<Weights<Cpu>>,
}

/// A model's file, parsed and checked, before its weights are brought into memory.
struct Parsed {
    gguf: Gguf,
    plan: weights::Plan,
    tokenizer: Tokenizer,
    info: ModelInfo,
}

impl Model {
    /// Loads a model. `progress` is told bytes done and in all, and says whether to go on.
    pub fn load(
        input: Input<'_>,
        params: &ModelParams,
        progress: &mut dyn FnMut(u64, u64) -> bool,
    ) -> Result<Model> {
        let source = open(input)?;
        let parsed = parse(&source, params)?;
        let mode = load_mode(params, &source, &parsed.gguf);
        let len = parsed.gguf.data_len();
        let isa = params.isa.unwrap_or_else(Isa::best);
        let (plan, gguf) = (parsed.plan, &parsed.gguf);
        let backend = if mode == LoadMode::Copy && Cpu::packs(isa) {
            check_memory("weights", Cpu::packed_bytes(&plan.layers, &plan.ends)?)?;
            let mut done = 0;
            report(progress, 0, len)?;
            let mut read = |tensor: &TensorRef, at: usize, buf: &mut [u8]| {
                let offset = (tensor.offset + at) as u64;
                source.read_at(gguf.data_offset() + offset, buf)?;
                check_finite(gguf, tensor, offset, buf)?;
                done += buf.len() as u64;
                report(progress, done.min(len), len)
            };
            let (layers, ends) = (&plan.layers, &plan.ends);
            let backend = Cpu::packed(plan.decoder, layers, ends, isa, params.huge, &mut read)?;
            source.check_unchanged()?;
            report(progress, len, len)?; // what lies between tensors is not read
            backend
        } else {
            if mode == LoadMode::Copy {
                check_memory("weights", len)?;
            }
            let offset = gguf.data_offset();
            let bytes = Bytes::load(&source, offset, len, mode, params.huge, progress)?;
            let backend = Cpu::new(plan.decoder, Arc::new(bytes), isa);
            if mode != LoadMode::MapFast {
                check_weights(gguf, &backend)?;
            }
            backend
        };
        let memory = Memory::new(params.lock, params.huge);
        backend.bytes().lock(&memory)?;
        let layers = plan.layers.iter().map(|l| backend.layer(l)).collect::<Result<_>>()?;
        let mut ends = backend.ends(&plan.ends)?;
        if parsed.info.screened_head {
            check_memory("screened head", Cpu::screen_bytes(backend.decoder(), &plan.ends))?;
            backend.screen(&mut ends, performance_cores().max(1), &memory)?;
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
        Ok(Model {
            info: ModelInfo { locked_bytes: memory.locked_bytes(), ..parsed.info },
            gguf: parsed.gguf,
            tokenizer: parsed.tokenizer,
            weights: Arc::new(Weights { backend, layers, ends }),
        })
    }

    /// Bytes that the model and one session would take; reads the file's header only.
    pub fn plan(input: Input<'_>, params: &ModelParams, session: &SessionParams) -> Result<Plan> {
        let source = open(input)?;
        let parsed = parse(&source, params)?;
        let shape = session.resolve(&parsed.info)?.shape();
        let n_layer = parsed.plan.layers.len();
        let (kv_bytes, scratch_bytes) = session_bytes(&parsed.plan.decoder, n_layer, &shape);
        let data = parsed.gguf.data_len();
        let copied = load_mode(params, &source, &parsed.gguf) == LoadMode::Copy;
        let vocab_bytes = parsed.gguf.heap_bytes() as u64 + parsed.tokenizer.heap_bytes() as u64;
        let packs = Cpu::packs(params.isa.unwrap_or_else(Isa::best));
        let weights_bytes = match copied {
            true if packs => Cpu::packed_bytes(&parsed.plan.layers, &parsed.plan.ends)?,
            true => data,
            false => 0,
        };
        let screen_bytes = match parsed.info.screened_head {
            true => Cpu::screen_bytes(&parsed.plan.decoder, &parsed.plan.ends),
            false => 0,
        };
        let weights_bytes = weights_bytes + screen_bytes;
        Ok(Plan {
            weights_bytes,
            mapped_bytes: if copied { 0 } else { data },
            vocab_bytes,
            kv_bytes,
            scratch_bytes,
            total_bytes: weights_bytes + vocab_bytes + kv_bytes + scratch_bytes,
        })
    }

    /// What the model is.
    pub fn info(&self) -> &ModelInfo {
        &self.info
    }

    /// Its tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// Its metadata and tensor table.
    pub fn gguf(&self) -> &Gguf {
        &self.gguf
    }

    /// The instruction set of its kernels.
    pub fn isa(&self) -> Isa {
        self.weights.backend.isa()
    }

    /// The chat template that the file carries.
    pub fn chat_template(&self) -> Option<&str> {
        self.gguf.metadata().get_str("tokenizer.chat_template").ok().flatten()
    }

    /// Formats messages by the model's own template, appending to `out`.
    pub fn chat_format(
        &self,
        messages: &[chat::Message<'_>],
        add_generation_prompt: bool,
        out: &mut String,
    ) -> Result<()> {
        let template = self
            .chat_template()
            .ok_or_else(|| err!(BadTemplate, "tokenizer.chat_template: the model has none"))?;
        let name = |token: Option<i32>| {
            let bytes = token.and_then(|t| self.tokenizer.name(t)).unwrap_or(&[]);
            std::str::from_utf8(bytes).unwrap_or("")
        };
        let (bos, eos) = (name(self.tokenizer.bos()), name(self.tokenizer.eos()));
        chat::format(template, messages, add_generation_prompt, bos, eos, out)
    }

    pub(super) fn weights(&self) -> &Arc<Weights<Cpu>> {
        &self.weights
    }

    /// Fails if the mapped file changed under a guarded model.
    pub(super) fn check_unchanged(&self) -> Result<()> {
        self.weights.backend.bytes().check_unchanged()
    }
}

fn open(input: Input<'_>) -> Result<Source<'_>> {
    match input {
        Input::Path(path) => Source::open(path),
        Input::Fd { fd, offset, len } => Source::from_fd(fd, offset, len),
        Input::Memory(bytes) => Ok(Source::from_memory(bytes)),
    }
}

fn parse(source: &Source<'_>, params: &ModelParams) -> Result<Parsed> {
    if params.device != 0 {
        return Err(err!(InvalidArgument, "device: found {}, expected 0, the CPU", params.device));
    }
    let gguf = Gguf::parse(source)?;
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
        source.read_at(data_offset + tensor.offset as u64, &mut bytes)?;
        check_finite(&gguf, tensor, tensor.offset as u64, &bytes)?;
        Ok(bytes)
    };
    let plan = weights::plan(&gguf, &hparams, &mut read)?;
    let tokenizer = vocab::tokenizer(gguf.metadata())?;
    if tokenizer.n_vocab() != plan.decoder.n_vocab {
        return Err(err!(
            BadVocab,
            "tokenizer.ggml.tokens: {} of them, but token_embd.weight has {} rows",
            tokenizer.n_vocab(),
            plan.decoder.n_vocab
        ));
    }
    let info = ModelInfo {
        arch: hparams.arch.name.to_string(),
        name: gguf.metadata().get_str("general.name").ok().flatten().unwrap_or("").to_string(),
        n_vocab: plan.decoder.n_vocab as u32,
        n_ctx_train: hparams.n_ctx_train as u32,
        n_embd: hparams.n_embd as u32,
        n_layer: hparams.n_layer as u32,
        n_head: hparams.n_head as u32,
        n_head_kv: hparams.n_head_kv as u32,
        head_dim: hparams.head_dim as u32,
        n_ff: hparams.n_ff as u32,
        n_params: gguf.tensors().iter().map(|t| t.shape.iter().product::<u64>()).sum(),
        file_bytes: gguf.data_len(),
        weight_bytes: plan.bytes_per_token,
        screened_head: params.screened_head && Cpu::screen_bytes(&plan.decoder, &plan.ends) > 0,
        locked_bytes: 0,
    };
    Ok(Parsed { gguf, plan, tokenizer, info })
}

/// The mode asked for; else a copy where it takes at most half of the memory that is free, and a
/// guarded mapping where it takes more. Memory can only be copied.
fn load_mode(params: &ModelParams, source: &Source<'_>, gguf: &Gguf) -> LoadMode {
    if !source.is_file() {
        return LoadMode::Copy;
    }
    params.load_mode.unwrap_or_else(|| match gguf.data_len() <= memory::available() / 2 {
        true => LoadMode::Copy,
        false => LoadMode::MapGuarded,
    })
}

/// Every weight of the whole blocks in `bytes`, from `offset` in the data on, is a finite number.
fn check_finite(gguf: &Gguf, tensor: &TensorRef, offset: u64, bytes: &[u8]) -> Result<()> {
    let Some(block) = cpu::bad_block(tensor.dtype, bytes) else { return Ok(()) };
    // The tensor may be a part of what the file calls one.
    let whole = gguf.tensors().iter().find(|t| (t.offset..t.offset + t.bytes).contains(&offset));
    let (name, before) = whole.map_or(("", 0), |t| (t.name(gguf), offset - t.offset));
    Err(not_finite(name, tensor.dtype, before as usize / tensor.dtype.block_bytes() + block))
}

fn not_finite(name: &str, dtype: DType, block: usize) -> Error {
    err!(BadWeights, "{name}: block {block} of {dtype} holds a number that is not finite")
}

/// Every weight is a finite number.
fn check_weights(gguf: &Gguf, backend: &Cpu) -> Result<()> {
    for info in gguf.tensors() {
        let name = info.name(gguf);
        if let Some(block) = backend.first_bad_block(&reference(name, info)?) {
            return Err(not_finite(name, info.dtype, block));
        }
    }
    Ok(())
}
