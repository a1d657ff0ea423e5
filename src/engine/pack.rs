//! Packing: writes a model's file again, its matrices as the kernels read them, so that a mapping of
//! it is all that loading takes.

use std::path::Path;

use crate::backend::TensorRef;
use crate::backend::cpu;
use crate::base::error::{Result, err};
use crate::base::file::{Output, Source, report};
use crate::base::heap;
use crate::gguf::packing::{ALIGNMENT, LAYOUT, LAYOUT_KEY, VERSION, VERSION_KEY};
use crate::gguf::write::{NewTensor, header};
use crate::gguf::{Gguf, Value};
use crate::model::weights::{self, part_name, reference};

use super::load::{Model, parse, tokenizer};
use super::params::ModelParams;
use super::weights::read_checked;

/// Bytes of a tensor that is not packed, which are copied at once: of its types, whole elements.
const CHUNK: usize = 1 << 20;

/// A tensor of the original file, or some rows of one, that becomes a tensor of the packed file.
struct Part {
    from: TensorRef,
    packed: bool,
}

impl Model {
    /// Writes the packed form of the model in `from` to `to`: one that loads by mapping it, and
    /// evaluates as fast, and to the same numbers, as the original does from memory of its own.
    ///
    /// It has all metadata of the original, all its tensors (those that hold several matrices one
    /// after the other become one for each), and every weight checked. `to` appears whole or not at
    /// all; an older file there is replaced. Returns its bytes.
    ///
    /// `progress` is told bytes done and in all, and says whether to go on. Fails as [`Model::load`]
    /// does, with `Unsupported` if the file is packed already, `InvalidArgument` if both are the
    /// same file, `Io`.
    pub fn pack(from: &Path, to: &Path, progress: &mut dyn FnMut(u64, u64) -> bool) -> Result<u64> {
        let source = Source::open(from)?;
        if source.is_at(to) {
            let to = to.display();
            return Err(err!(InvalidArgument, "{to}: the file to pack, expected another"));
        }
        let parsed = parse(&source, &ModelParams::default(), None)?;
        let gguf = &parsed.gguf;
        if gguf.is_packed() {
            return Err(err!(Unsupported, "{}: packed already", from.display()));
        }
        tokenizer(gguf, parsed.plan.decoder.n_vocab)?;
        let (tensors, parts) = layout(gguf, &parsed.plan)?;
        // The alignment of a file has been checked to fit 16 bits or so.
        let alignment = gguf.alignment().max(ALIGNMENT);
        let set = [
            ("general.alignment", Value::U32(u32::try_from(alignment).unwrap_or(u32::MAX))),
            (LAYOUT_KEY, Value::Str(LAYOUT.as_bytes())),
            (VERSION_KEY, Value::U32(VERSION)),
        ];
        let header = header(gguf.metadata(), &set, &tensors, alignment)?;

        let (mut done, total) = (0, header.places.iter().map(|(_, bytes)| bytes).sum());
        report(progress, 0, total)?;
        let read = |tensor: &TensorRef, at: usize, buf: &mut [u8]| {
            read_checked(&source, gguf, tensor, at, buf)
        };
        let mut output = Output::create(to)?;
        output.write(&header.bytes)?;
        let start = header.bytes.len() as u64;
        let mut len = start;
        let mut chunk = Vec::new();
        let padding = [0u8; 1 << 16]; // the greatest alignment
        for (part, (offset, bytes)) in parts.iter().zip(&header.places) {
            output.write(&padding[..(start + offset - len) as usize])?;
            let mut write = |bytes: &[u8]| {
                output.write(bytes)?;
                done += bytes.len() as u64;
                report(progress, done, total)
            };
            let t = &part.from;
            if part.packed {
                cpu::pack(t, &read, &mut write)?;
            } else {
                let n = CHUNK.min(t.bytes).next_multiple_of(t.dtype.block_bytes());
                cpu::grow(&mut chunk, n)?;
                for at in (0..t.bytes).step_by(n) {
                    let chunk = &mut chunk[..n.min(t.bytes - at)];
                    read(t, at, chunk)?;
                    write(chunk)?;
                }
            }
            len = start + offset + bytes;
        }
        source.check_unchanged()?;
        output.finish()?;
        Ok(len)
    }
}

/// The tensors of the packed file, in the order of the original's table, and what becomes each.
fn layout(gguf: &Gguf, plan: &weights::Plan) -> Result<(Vec<NewTensor>, Vec<Part>)> {
    let all = cpu::tensors(&plan.layers, &plan.ends)?;
    let (mut tensors, mut parts) = (Vec::new(), Vec::new());
    let no_memory = |_| err!(OutOfMemory, "no memory for a table of tensors");
    // Three parts of what was one, at most.
    tensors.try_reserve_exact(3 * gguf.tensors().len()).map_err(no_memory)?;
    parts.try_reserve_exact(3 * gguf.tensors().len()).map_err(no_memory)?;
    for info in gguf.tensors() {
        let whole = reference(info.name(gguf), info)?;
        let first = all.partition_point(|(part, _)| part.offset < whole.offset);
        let rest = &all[first..];
        let n = rest.partition_point(|(part, _)| part.offset < whole.offset + whole.bytes);
        let mut put = |name: &str, from: TensorRef, packed: bool, shape, n_dims| -> Result<()> {
            let name = heap::text(name)?;
            tensors.push(NewTensor { name, dtype: info.dtype, packed, shape, n_dims });
            parts.push(Part { from, packed });
            Ok(())
        };
        match &rest[..n] {
            // What is no device's to compute with, as divisors of frequencies.
            [] => put(info.name(gguf), whole, false, info.shape, info.n_dims)?,
            [(part, packed)] if part.bytes == whole.bytes => {
                put(info.name(gguf), whole, *packed, info.shape, info.n_dims)?;
            }
            several => {
                for (part, packed) in several {
                    let name = part_name(&plan.layers, part).ok_or_else(|| {
                        err!(Internal, "{}: a part without a name", info.name(gguf))
                    })?;
                    let shape = [part.n_cols as u64, part.n_rows as u64, 1, 1];
                    put(&name, *part, *packed, shape, if *packed { 2 } else { 1 })?;
                }
            }
        }
    }
    Ok((tensors, parts))
}
