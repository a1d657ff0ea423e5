//! Weights in memory of our own: matrices packed for the kernels, all else as in the file.

use std::slice;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::backend::{Ends, Layer, TensorRef};
use crate::base::error::{Error, Result, err};
use crate::base::heap;
use crate::base::order::sort_numbers;
use crate::base::pool::Pool;
use crate::base::sync::{Mutex, MutexGuard, PoisonError};
use crate::quant::p16;

/// Bytes of a tensor that are read at once, about: what fits a cache together with its packed form.
const SLAB: usize = 128 << 10;
/// Bytes that are read between two reports of progress, about.
const ROUND: usize = 4 << 20;
/// What a tensor's place is a multiple of.
const ALIGNMENT: usize = 64;

/// Reads bytes of a tensor, whole rows from an offset in it on. Several threads do at a time.
pub type Read<'a> = &'a (dyn Fn(&TensorRef, usize, &mut [u8]) -> Result<()> + Sync);

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
        self.at..self.at.saturating_add(self.len)
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
    each_tensor(layers, ends, &mut |tensor, packed| {
        all.push((*tensor, packed));
        Ok(())
    })?;
    let mut order = heap::collect(all.len(), 0..all.len() as u32, "tensors")?;
    let offset = |i: u32| all[i as usize].0.offset;
    sort_numbers(&mut order, &mut |a, b| offset(a).cmp(&offset(b)).then(a.cmp(&b)));
    heap::collect(order.len(), order.iter().map(|&i| all[i as usize]), "tensors")
}

/// The same, layer by layer.
pub(super) fn each_tensor(
    layers: &[Layer],
    ends: &Ends,
    put: &mut dyn FnMut(&TensorRef, bool) -> Result<()>,
) -> Result<()> {
    for l in layers {
        for projection in [&l.q, &l.k, &l.v, &l.attn_out, &l.gate, &l.up, &l.down] {
            put(&projection.weight, true)?;
            projection.bias.iter().try_for_each(|bias| put(bias, false))?;
        }
        put(&l.attn_norm, false)?;
        put(&l.ffn_norm, false)?;
        let norms = [&l.q_norm, &l.k_norm, &l.post_attn_norm, &l.post_ffn_norm];
        norms.into_iter().flatten().try_for_each(|norm| put(norm, false))?;
    }
    put(&ends.norm, false)?;
    put(&ends.head.weight, true)?;
    ends.head.bias.iter().try_for_each(|bias| put(bias, false))?;
    if ends.embd.offset != ends.head.weight.offset {
        put(&ends.embd, false)?;
    }
    Ok(())
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

    /// Reads and packs all tensors, in about the file's order, by way of a small buffer for each
    /// thread of `pool`. Meanwhile one thread runs `beside`, before its share.
    ///
    /// `progress` is told now and then, by the calling thread, how many bytes of the file are done.
    /// Of several errors, that which is first in the file comes back.
    pub(super) fn fill(
        &self,
        bytes: &mut [u8],
        pool: &Pool,
        read: Read<'_>,
        beside: &(dyn Fn() + Sync),
        progress: &mut dyn FnMut(usize) -> Result<()>,
    ) -> Result<()> {
        let n_threads = pool.n_threads();
        let mut slabs = Vec::new();
        slabs
            .try_reserve_exact(n_threads)
            .map_err(|_| err!(OutOfMemory, "no memory for the buffers of {n_threads} threads"))?;
        slabs.resize_with(n_threads, || Mutex::new(Vec::new()));
        let pieces = Pieces { places: self.places.iter(), row: 0, rest: bytes, at: 0, n: 0 };
        let round = Mutex::new(Round { pieces, n_bytes: 0, failed: None });
        // Rounds are short, so that there is progress, but the first goes on until `beside` is
        // through: nobody waits.
        let (has_begun, is_busy) = (AtomicBool::new(false), AtomicBool::new(false));
        let mut done = 0;
        loop {
            pool.run(&|worker| {
                if worker + 1 == n_threads && !has_begun.swap(true, Ordering::Relaxed) {
                    is_busy.store(true, Ordering::Relaxed);
                    beside();
                    is_busy.store(false, Ordering::Relaxed);
                }
                let mut slab = lock(&slabs[worker]);
                loop {
                    let is_short = !is_busy.load(Ordering::Relaxed);
                    let Some(piece) = lock(&round).next(is_short) else { break };
                    let index = piece.index;
                    if let Err(error) = piece.read(&mut slab, read) {
                        lock(&round).fail(index, error);
                    }
                }
            })?;
            let mut round = lock(&round);
            if let Some((_, error)) = round.failed.take() {
                return Err(error);
            }
            if round.n_bytes == 0 {
                return match round.pieces.places.as_slice() {
                    [] => Ok(()),
                    left => Err(err!(Internal, "{} tensors were not read", left.len())),
                };
            }
            done += std::mem::take(&mut round.n_bytes);
            drop(round);
            progress(done)?;
        }
    }
}

/// What threads take pieces from, for a while.
struct Round<'a> {
    pieces: Pieces<'a>,
    /// Bytes of the file that were taken in this round.
    n_bytes: usize,
    /// The error of the first piece that failed, and which that was.
    failed: Option<(usize, Error)>,
}

impl<'a> Round<'a> {
    /// The next piece; none after an error, or at the end of a short round.
    fn next(&mut self, is_short: bool) -> Option<Piece<'a>> {
        if self.failed.is_some() || (is_short && self.n_bytes >= ROUND) {
            return None;
        }
        let piece = self.pieces.next()?;
        self.n_bytes += piece.part.bytes;
        Some(piece)
    }

    /// Notes an error. All pieces before it were taken before, so that the first will be known.
    fn fail(&mut self, index: usize, error: Error) {
        if self.failed.as_ref().is_none_or(|(first, _)| index < *first) {
            self.failed = Some((index, error));
        }
    }
}

/// All tensors in pieces, in the file's order, each with the bytes that it fills.
struct Pieces<'a> {
    places: slice::Iter<'a, Place>,
    /// The row of the first of `places` that comes next.
    row: usize,
    /// The bytes from `at` on.
    rest: &'a mut [u8],
    at: usize,
    n: usize,
}

/// Some rows of a tensor.
struct Piece<'a> {
    index: usize,
    place: &'a Place,
    part: TensorRef,
    to: &'a mut [u8],
}

impl<'a> Iterator for Pieces<'a> {
    type Item = Piece<'a>;

    fn next(&mut self) -> Option<Piece<'a>> {
        let place = self.places.as_slice().first()?;
        let t = &place.tensor;
        let part = t.rows(self.row, slab_rows(t).min(t.n_rows - self.row));
        if self.row == 0 {
            self.rest.split_off_mut(..place.at - self.at)?; // between two places
            self.at = place.at;
        }
        let len = if place.packed { packed_len(&part) } else { part.bytes };
        let to = self.rest.split_off_mut(..len)?;
        (self.at, self.row, self.n) = (self.at + len, self.row + part.n_rows, self.n + 1);
        if self.row == t.n_rows {
            self.places.next();
            self.row = 0;
        }
        Some(Piece { index: self.n, place, part, to })
    }
}

impl Piece<'_> {
    fn read(self, slab: &mut Vec<u8>, read: Read<'_>) -> Result<()> {
        let t = &self.place.tensor;
        match self.place.packed {
            true => pack_rows(t, &self.part, slab, self.to, read),
            false => read(t, self.part.offset - t.offset, self.to),
        }
    }
}

/// Locks; what a thread that panicked left behind is never used.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
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
