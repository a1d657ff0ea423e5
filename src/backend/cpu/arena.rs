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

impl Arena {
    /// Gives each tensor its place.
    pub(super) fn new(layers: &[Layer], ends: &Ends) -> Result<Arena> {
        let mut places = Vec::new();
        // At most 7 matrices and as many biases, and 6 norms.
        places
            .try_reserve_exact(20 * layers.len() + 4)
            .map_err(|_| err!(OutOfMemory, "no memory for the places of tensors"))?;
        let mut put = |tensor: &TensorRef, packed: bool| {
            places.push(Place { tensor: *tensor, packed, at: 0, len: 0 });
        };
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
        places.sort_unstable_by_key(|place| place.tensor.offset);
        let mut len = 0usize;
        for place in &mut places {
            let t = &place.tensor;
            let bytes = match place.packed {
                true => p16::packed_bytes(t.dtype, t.n_cols, t.n_rows),
                false => Some(t.bytes),
            };
            place.at = len;
            let end = bytes.and_then(|bytes| {
                place.len = bytes;
                len.checked_add(bytes)?.checked_next_multiple_of(ALIGNMENT)
            });
            len = end.ok_or_else(|| err!(OutOfMemory, "the weights exceed the address space"))?;
        }
        Ok(Arena { places, len })
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
            let (t, to) = (&place.tensor, &mut bytes[place.range()]);
            if !place.packed {
                read(t, 0, to)?;
                continue;
            }
            let row_bytes = t.bytes / t.n_rows.max(1);
            let group_rows = p16::ROWS * (SLAB / (p16::ROWS * row_bytes).max(1)).max(1);
            let n = (group_rows * row_bytes).min(t.bytes);
            if slab.len() < n {
                slab.try_reserve_exact(n - slab.len())
                    .map_err(|_| err!(OutOfMemory, "no memory to read {n} bytes"))?;
                slab.resize(n, 0);
            }
            let packed = p16::packed_bytes(t.dtype, t.n_cols, group_rows).unwrap_or(to.len());
            for (i, to) in to.chunks_mut(packed).enumerate() {
                let from = i * group_rows * row_bytes;
                let slab = &mut slab[..n.min(t.bytes - from)];
                read(t, from, slab)?;
                p16::pack(t.dtype, t.n_cols, slab, to);
            }
        }
        Ok(())
    }
}
