//! What a program wants: a model, sessions on it, and the memory both will take.
//!
//! The only facade: the C boundary and the `tern` command are built on this and nothing below.

mod again;
mod control;
mod digest;
mod generate;
mod info;
mod kv_dtype;
mod load;
mod pack;
mod params;
mod plan;
mod rebuild;
mod runner;
mod session;
mod signed;
pub mod snapshot;
pub mod vocab;
mod weights;

pub use crate::base::cpu::Isa;
pub use crate::base::error::{Error, Result};
pub use crate::base::file::{LoadMode, sigbus};
pub use crate::base::memory::{HugePages, Lock};
pub use crate::chat::Message;
pub use crate::gguf::{Gguf, Value};
pub use crate::kv::cache::{HeadSlots as KvHeadSlots, Plan as EvictPlan};
pub use crate::kv::eviction::EVERY as KV_EVICTS_EVERY;
pub use crate::kv::policy::{Params as KvParams, Policy as KvPolicy, Quotas as KvQuotas};
pub use crate::kv::segments::Segment as KvSegment;
#[cfg(feature = "signed")]
pub use crate::manifest::signature::public_key;
pub use crate::model::forward::{Phase, PhaseTimes};
pub use crate::sampler::{Params as SamplerParams, Sampler};
pub use crate::tokenizer::{StreamDecoder, Tokenizer};
pub use control::{Control, Wish};
pub use info::SessionInfo;
pub use kv_dtype::{KV_PRESETS, KvPreset, kv_preset, kv_type_names};
pub use load::{Input, Model, ModelInfo};
pub use params::{Logits, ModelParams, Numerics, SessionParams};
pub use plan::Plan;
pub use rebuild::KvOp;
pub use session::Session;
pub use signed::{SUFFIX as MANIFEST_SUFFIX, Trust};
#[cfg(feature = "signed")]
pub use signed::{hex, sign_model};
