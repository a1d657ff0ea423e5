//! Weights in memory of our own: matrices packed for the kernels, all else as in the file.

use crate::backend::{Ends, Layer, TensorRef};
use crate::base::error::{Result, err};
use crate::quant::p16;

/// Bytes of a tensor that are read at once, about.
const SLAB: usize = 1 << 20;
/// What a tensor's place is a multiple of.
const ALIGNMENT: usize = 64;

/// Reads bytes of a tensor, whole rows from an offset in it on.
pub type Read<'a> = &'a mut dyn FnMut(&TensorRef, usize, &mut [u8]) -> Result<()>;

/// Where one tensor lies.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    tensor: TensorRef,
    pub(super) packed: bool,
    at: usize,
    len: usize,
}

impl Place {
    /// The tensor's bytes in the arena's.
    pub(super) fn range(&self) -> std::ops::Range<usize> {
        self.at..self.at + self.len
    }
}

/// Where all tensors lie, in the file's order.
#[derive(Debug)]
pub(super) struct Arena {
    places: Vec<Place>,
    len: usize,
}

/// All tensors of a model that is not packed, in the file's order, and whether the kernels want each
/// packed: matrices that are multiplied are.
pub fn tensors(layers: &[Layer], ends: &Ends) -> Result<Vec<(TensorRef, bool)>> {
    let mut all = Vec::new();
    // At most 7 matrices and as many biases, and 6 norms.
    all.try_reserve_exact(20 * layers.len() + 4)
        .map_err(|_| err!(OutOfMemory, "no memory for the places of tensors"))?;
    let mut put = |tensor: &TensorRef, packed: bool| all.push((*tensor, packed));
    for l in layers {
        for projection in [&l.q, &l.k, &l.v, &l.attn_out, &l.gate, &l.up, &l.down] {
            put(&projection.weight, true);
            projection.bias.iter().for_each(|bias| put(bias, false));
        }
        put(&l.attn_norm, false);
        put(&l.ffn_norm, false);
        let norms = [&l.q_norm, &l.k_norm, &l.post_attn_norm, &l.post_ffn_norm];
        norms.into_iter().flatten().for_each(|norm| put(norm, false));
    }
    put(&ends.norm, false);
    put(&ends.head.weight, true);
    ends.head.bias.iter().for_each(|bias| put(bias, false));
    if ends.embd.offset != ends.head.weight.offset {
        put(&ends.embd, false);
    }
    all.sort_unstable_by_key(|(tensor, _)| tensor.offset);
    Ok(all)
}

impl Arena {
    /// Gives each tensor its place.
    pub(super) fn new(layers: &[Layer], ends: &Ends) -> Result<Arena> {
        let tensors = tensors(layers, ends)?;
        let mut places = Vec::new();
        places
            .try_reserve_exact(tensors.len())
            .map_err(|_| err!(OutOfMemory, "no memory for the places of tensors"))?;
        let mut at = 0usize;
        for (tensor, packed) in tensors {
            let len = match packed {
                true => p16::packed_bytes(tensor.dtype, tensor.n_cols, tensor.n_rows),
                false => Some(tensor.bytes),
            };
            let end = len.and_then(|len| at.checked_add(len)?.checked_next_multiple_of(ALIGNMENT));
            let (Some(len), Some(end)) = (len, end) else {
                return Err(err!(OutOfMemory, "the weights exceed the address space"));
            };
            places.push(Place { tensor, packed, at, len });
            at = end;
        }
        Ok(Arena { places, len: at })
    }

    /// Bytes of all places.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// The place of a tensor. All that a device computes with have one.
    pub(super) fn place(&self, tensor: &TensorRef) -> Option<&Place> {
        let i = self.places.binary_search_by_key(&tensor.offset, |place| place.tensor.offset);
        i.ok().map(|i| &self.places[i])
    }

    /// Reads and packs all tensors, in the file's order, by way of a small buffer.
    pub(super) fn fill(&self, bytes: &mut [u8], read: Read<'_>) -> Result<()> {
        let mut slab = Vec::new();
        for place in &self.places {
            let (t, mut to) = (&place.tensor, &mut bytes[place.range()]);
            if !place.packed {
                read(t, 0, to)?;
                continue;
            }
            let rows = slab_rows(t);
            for first in (0..t.n_rows).step_by(rows) {
                let part = t.rows(first, rows.min(t.n_rows - first));
                let packed = to.split_off_mut(..packed_len(&part)).unwrap_or_default();
                pack_rows(t, &part, &mut slab, packed, read)?;
            }
        }
        Ok(())
    }
}

/// Packs a tensor piece by piece, by way of small buffers: `write` is given all of it in order.
pub fn pack(
    tensor: &TensorRef,
    read: Read<'_>,
    write: &mut dyn FnMut(&[u8]) -> Result<()>,
) -> Result<()> {
    let (mut slab, mut packed) = (Vec::new(), Vec::new());
    let rows = slab_rows(tensor);
    for first in (0..tensor.n_rows).step_by(rows) {
        let part = tensor.rows(first, rows.min(tensor.n_rows - first));
        let packed = grow(&mut packed, packed_len(&part))?;
        pack_rows(tensor, &part, &mut slab, packed, read)?;
        write(packed)?;
    }
    Ok(())
}

/// Rows of a tensor that are read at once: whole groups, about [`SLAB`] bytes.
fn slab_rows(t: &TensorRef) -> usize {
    let group = p16::ROWS * (t.bytes / t.n_rows.max(1));
    p16::ROWS * (SLAB / group.max(1)).max(1)
}

/// Bytes of rows of a tensor, packed.
fn packed_len(part: &TensorRef) -> usize {
    // That of the whole tensor was computed before.
    p16::packed_bytes(part.dtype, part.n_cols, part.n_rows).unwrap_or(0)
}

/// Reads some rows of a tensor and packs them.
fn pack_rows(
    tensor: &TensorRef,
    part: &TensorRef,
    slab: &mut Vec<u8>,
    to: &mut [u8],
    read: Read<'_>,
) -> Result<()> {
    let slab = grow(slab, part.bytes)?;
    read(tensor, part.offset - tensor.offset, slab)?;
    p16::pack(part.dtype, part.n_cols, slab, to);
    Ok(())
}

/// The first `n` bytes of a buffer, which grows to hold them. Fails with `OutOfMemory`.
pub fn grow(bytes: &mut Vec<u8>, n: usize) -> Result<&mut [u8]> {
    if bytes.len() < n {
        bytes
            .try_reserve_exact(n - bytes.len())
            .map_err(|_| err!(OutOfMemory, "no memory to read {n} bytes"))?;
        bytes.resize(n, 0);
    }
    Ok(&mut bytes[..n])
}
