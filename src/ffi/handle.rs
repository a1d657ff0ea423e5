//! Opaque handles: which there are, and the tables in which they are looked up (see `table`).

use super::model::Loaded;
use super::sampler::Sampling;
use super::table::{Kind, Table};
use super::{decoder::Decoder, pointer};
use crate::base::error::Result;
use crate::base::sync::RwLock;
use crate::engine::Session;

/// A loaded model: weights, vocabulary, hyperparameters. Immutable, so any number of threads and
/// sessions may share it. At most 64 at a time.
pub struct tern_model(());

/// One sequence being generated: its KV cache, its logits and its worker threads. At most 256 at
/// a time.
pub struct tern_session(());

/// Chooses tokens from logits; owns the random state and the repetition history. At most 256 at a
/// time.
pub struct tern_sampler(());

/// Turns a stream of tokens into text, and holds back the bytes of unfinished characters. At most
/// 256 at a time.
pub struct tern_decoder(());

pub(super) static MODELS: Table<Loaded, 64> = Table::new();
pub(super) static SESSIONS: Table<RwLock<Session>, 256> = Table::new();
pub(super) static SAMPLERS: Table<RwLock<Sampling>, 256> = Table::new();
pub(super) static DECODERS: Table<RwLock<Decoder>, 256> = Table::new();

impl Kind for Loaded {
    const NAME: &'static str = "model";
}
impl Kind for RwLock<Session> {
    const NAME: &'static str = "session";
}
impl Kind for RwLock<Sampling> {
    const NAME: &'static str = "sampler";
}
impl Kind for RwLock<Decoder> {
    const NAME: &'static str = "decoder";
}

/// Makes a handle for a value and gives it to the caller.
pub(super) fn give<T: Kind + 'static, H, const N: usize>(
    table: &'static Table<T, N>,
    value: T,
    to: pointer::Out<'_, *mut H>,
) -> Result<()> {
    to.write(table.insert(value)?);
    Ok(())
}
