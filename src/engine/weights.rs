//! Weights into memory: read, checked, and packed or left as they lie.
#![deny(
    clippy::arithmetic_side_effects,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::string_slice,
    clippy::unreachable
)]

use crate::backend::TensorRef;
use crate::backend::cpu::{self, Cpu};
use crate::base::cpu::{Isa, performance_cores};
use crate::base::dtype::DType;
use crate::base::error::{Error, Result, err};
use crate::base::file::{Bytes, LoadMode, Source, report};
use crate::base::heap;
use crate::base::memory::HugePages;
use crate::base::pool::Pool;
use crate::base::shared::Shared;
use crate::gguf::{Gguf, TensorInfo};
use crate::model::weights::{self, reference};

use super::plan::check_memory;
use super::signed::Signed;

/// Bytes of weights for which one more thread is worth starting.
const THREAD_BYTES: u64 = 8 << 20;
/// Bytes of a file that are read and checked together.
const CHECKED_BYTES: usize = 64 << 10;
/// Threads that read and pack, at most: more than any disk or bus keeps busy.
const MOST_THREADS: usize = 8;

/// The weights in memory of our own, packed. `beside` is called once, on some thread.
pub(super) fn packed(
    (source, signed): (&Source<'_>, Option<&Signed<'_>>),
    gguf: &Gguf,
    plan: &mut weights::Plan,
    (isa, huge): (Isa, HugePages),
    beside: &(dyn Fn() + Sync),
    progress: &mut dyn FnMut(u64, u64) -> bool,
) -> Result<Cpu> {
    let len = gguf.data_len();
    check_memory("weights", Cpu::packed_bytes(&plan.layers, &plan.ends)?)?;
    report(progress, 0, len)?;
    let tensors = signed.map(|_| cpu::tensors(&plan.layers, &plan.ends)).transpose()?;
    let check = signed.zip(tensors.as_ref()).map(|(signed, tensors)| {
        signed.begin(gguf.data_offset(), tensors.iter().map(|(tensor, _)| *tensor))
    });
    let check = check.transpose()?;
    let read = |tensor: &TensorRef, at: usize, buf: &mut [u8]| {
        let offset = tensor.offset.saturating_add(at) as u64; // beyond the file if it does not fit
        let file_offset = gguf.data_offset().saturating_add(offset);
        let outcome = source.read_at(file_offset, buf);
        if let Some(check) = &check {
            match outcome {
                Ok(()) => check.hand_in(file_offset, buf)?,
                Err(_) => check.fail(),
            }
        }
        outcome?;
        check_finite(gguf, tensor, offset, buf)
    };
    let mut tell = |done: usize| report(progress, (done as u64).min(len), len);
    let pool = load_threads(len)?;
    let (decoder, tensors) = (plan.decoder.take(), (&*plan.layers, &plan.ends));
    let backend = Cpu::packed(decoder, tensors, (isa, huge), &pool, &read, beside, &mut tell)?;
    check.as_ref().map_or(Ok(()), |check| check.finish())?;
    source.check_unchanged()?;
    report(progress, len, len)?; // what lies between tensors is not read
    Ok(backend)
}

/// The weights as the file has them, mapped or copied. `beside` is called once, on some thread.
pub(super) fn as_it_lies(
    (source, signed): (&Source<'_>, Option<&Signed<'_>>),
    gguf: &Gguf,
    plan: &mut weights::Plan,
    (isa, huge): (Isa, HugePages),
    mode: LoadMode,
    beside: &(dyn Fn() + Sync),
    progress: &mut dyn FnMut(u64, u64) -> bool,
) -> Result<Cpu> {
    let len = gguf.data_len();
    if mode == LoadMode::Copy {
        check_memory("weights", len)?;
    }
    // Only what takes a while is worth a second thread.
    let pool = load_threads(if mode == LoadMode::MapFast { 0 } else { len.min(THREAD_BYTES) })?;
    let load = || Bytes::load(source, gguf.data_offset(), len, mode, huge, progress);
    let bytes = pool.beside(beside, load)??;
    let bytes = Shared::new(bytes)?;
    let backend = Cpu::new(plan.decoder.take(), bytes, isa, gguf.is_packed());
    let data = backend.bytes().as_slice();
    signed.map_or(Ok(()), |signed| signed.check_data(gguf.data_offset(), data))?;
    match mode {
        _ if gguf.is_packed() => {} // checked when it was packed
        LoadMode::Copy => check_weights(gguf, &backend)?,
        LoadMode::MapGuarded => check_file(source, gguf)?,
        LoadMode::MapFast => {}
    }
    Ok(backend)
}

/// Threads to read and pack so many bytes of weights; the caller alone if there are no more.
fn load_threads(len: u64) -> Result<Pool> {
    let useful = usize::try_from(len / THREAD_BYTES).unwrap_or(MOST_THREADS);
    let n = useful.saturating_add(1).min(performance_cores()).clamp(1, MOST_THREADS);
    Pool::new(n).or_else(|_| Pool::new(1))
}

/// Reads bytes of a tensor, from an offset in it on, and checks them.
pub(super) fn read_checked(
    source: &Source<'_>,
    gguf: &Gguf,
    tensor: &TensorRef,
    at: usize,
    buf: &mut [u8],
) -> Result<()> {
    let offset = tensor.offset.saturating_add(at) as u64; // beyond the file if it does not fit
    source.read_at(gguf.data_offset().saturating_add(offset), buf)?;
    check_finite(gguf, tensor, offset, buf)
}

/// Every weight of the whole blocks in `bytes`, from `offset` in the data on, is a finite number.
pub(super) fn check_finite(
    gguf: &Gguf,
    tensor: &TensorRef,
    offset: u64,
    bytes: &[u8],
) -> Result<()> {
    let Some(block) = cpu::bad_block(tensor.dtype, bytes) else { return Ok(()) };
    // The tensor may be a part of what the file calls one.
    let within = |t: &TensorInfo| offset.checked_sub(t.offset).filter(|before| *before < t.bytes);
    let whole = gguf.tensors().iter().find_map(|t| Some((t.name(gguf), within(t)?)));
    let (name, before) = whole.unwrap_or(("", 0));
    let n_before = (before as usize).checked_div(tensor.dtype.block_bytes()).unwrap_or(0);
    Err(not_finite(name, tensor.dtype, n_before.saturating_add(block)))
}

fn not_finite(name: &str, dtype: DType, block: usize) -> Error {
    err!(BadWeights, "{name}: block {block} of {dtype} holds a number that is not finite")
}

/// The bytes of the blocks that are read and checked together.
fn whole_blocks(dtype: DType) -> usize {
    let rest = CHECKED_BYTES.checked_rem(dtype.block_bytes()).unwrap_or(0);
    CHECKED_BYTES.saturating_sub(rest)
}

/// Every weight in the file is a finite number. Read, and not looked at where it is mapped: a file that is
/// cut meanwhile is an error then, and no signal.
fn check_file(source: &Source<'_>, gguf: &Gguf) -> Result<()> {
    let mut buf = heap::reserve(CHECKED_BYTES, "a part of a tensor")?;
    buf.resize(CHECKED_BYTES, 0u8);
    for info in gguf.tensors() {
        let tensor = reference(info.name(gguf), info)?;
        let n_whole = whole_blocks(tensor.dtype);
        for at in (0..tensor.bytes).step_by(n_whole) {
            let n = n_whole.min(tensor.bytes.saturating_sub(at));
            let part = buf.get_mut(..n).ok_or_else(|| err!(Internal, "{n} bytes at once"))?;
            read_checked(source, gguf, &tensor, at, part)?;
        }
    }
    Ok(())
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
