//! The table of tensors: names, shapes, types, ranges; all checked before anyone sees them.

use super::cursor::{Cursor, Place, Shown, Span};
use super::packing;
use super::reserve;
use super::size::Size;
use crate::base::dtype::DType;
use crate::base::error::{Result, err};
use crate::base::order::sort_numbers;
use crate::quant::p16;

/// Most tensors.
const MAX_TENSORS: u64 = 65_535;
/// Bytes of the smallest row: name length, one byte of name, number of dimensions, type, offset.
const MIN_ROW: u64 = 8 + 1 + 4 + 4 + 8;
/// Most bytes of a name.
const MAX_NAME: u64 = 127;
/// Most dimensions.
const MAX_DIMS: usize = 4;

/// A tensor: its type, its shape, and where its bytes are.
#[derive(Clone, Copy, Debug)]
pub struct TensorInfo {
    /// The type of its elements.
    pub dtype: DType,
    /// Whether its rows lie packed for kernels ([`p16`]), and not one after the other.
    pub packed: bool,
    /// Its shape, the length of a row first; 1 beyond `n_dims`. Never 0; all together fit u64.
    pub shape: [u64; 4],
    /// How many dimensions the file gives: 0 (one element) to 4.
    pub n_dims: u32,
    /// Where its bytes start, from the start of the data; a multiple of the alignment.
    pub offset: u64,
    /// How many bytes it has. All lie in the file, and in no other tensor.
    pub bytes: u64,
    name: Span,
}

impl TensorInfo {
    /// Its name, in the file that it came from.
    pub fn name<'g>(&self, gguf: &'g super::Gguf) -> &'g str {
        self.name.text(gguf.metadata().header())
    }

    /// How many elements it has.
    pub fn n_elements(&self) -> u64 {
        // Their product was checked when the table was read.
        self.shape.iter().fold(1, |n, dim| n.saturating_mul(*dim))
    }

    /// Bytes up to its end; `check` has shown that they fit.
    fn end(&self) -> Option<Size> {
        Size::of(self.offset).add(Size::of(self.bytes))
    }
}

/// Whether so many tensors can be in the rest of the file, and are within the limit.
pub(super) fn check_count(cursor: &Cursor<'_, '_>, n: u64) -> Result<usize> {
    super::check_count(cursor, n, MIN_ROW, MAX_TENSORS, "tensors")
}

/// Reads `n` rows of the table; some tensors may be packed in a file that is. Where the data ends is
/// not known yet, see [`Tensors::check`].
pub(super) fn read(
    cursor: &mut Cursor<'_, '_>,
    n: usize,
    alignment: Size,
    is_packed: bool,
) -> Result<Vec<TensorInfo>> {
    let mut table = reserve(n, "tensors")?;
    for i in 0..n {
        table.push(read_row(cursor, i, alignment, is_packed)?);
    }
    Ok(table)
}

fn read_row(
    cursor: &mut Cursor<'_, '_>,
    i: usize,
    alignment: Size,
    is_packed: bool,
) -> Result<TensorInfo> {
    cursor.place = Place::Name(i);
    let name = cursor.string(MAX_NAME)?;
    super::check_name(cursor, name)?;

    cursor.place = Place::Tensor(name, "number of dimensions");
    let n_dims = cursor.u32()?;
    let mut shape = [1; MAX_DIMS];
    let Some(dims) = usize::try_from(n_dims).ok().and_then(|n| shape.get_mut(..n)) else {
        return Err(cursor.bad_tensor(format_args!("{n_dims}, at most {MAX_DIMS}")));
    };
    cursor.place = Place::Tensor(name, "shape");
    for dim in dims {
        *dim = cursor.u64()?;
        if *dim == 0 {
            return Err(cursor.bad_tensor(format_args!("a dimension of 0")));
        }
    }
    cursor.place = Place::Tensor(name, "type");
    let id = cursor.u32()?;
    let Some((dtype, packed)) = packing::dtype(id) else {
        let place = Shown(cursor.place, cursor.bytes());
        let at = cursor.at().get();
        return Err(err!(UnsupportedDtype, "byte {at}: {place}: {id}, which tern does not know"));
    };
    if packed && !is_packed {
        return Err(cursor.bad_tensor(format_args!("{dtype}, packed, in a file that is not")));
    }
    cursor.place = Place::Tensor(name, "shape");
    let bytes = byte_size(dtype, packed, shape).map_err(|why| {
        let [a, b, c, d] = shape;
        cursor.bad_tensor(format_args!("{a} x {b} x {c} x {d} of {dtype}: {why}"))
    })?;
    cursor.place = Place::Tensor(name, "offset");
    let offset = Size::of(cursor.u64()?);
    if !offset.is_multiple_of(alignment) {
        let (offset, alignment) = (offset.get(), alignment.get());
        return Err(cursor.bad_tensor(format_args!("{offset}, not a multiple of {alignment}")));
    }
    if offset.add(bytes).is_none() {
        let (offset, bytes) = (offset.get(), bytes.get());
        return Err(cursor.bad_tensor(format_args!("{bytes} bytes at {offset}, beyond 64 bits")));
    }
    Ok(TensorInfo { dtype, packed, shape, n_dims, offset: offset.get(), bytes: bytes.get(), name })
}

/// The exact bytes of a tensor, packed or not, or why it has none.
pub(super) fn byte_size(
    dtype: DType,
    packed: bool,
    shape: [u64; MAX_DIMS],
) -> std::result::Result<Size, &'static str> {
    const TOO_LARGE: &str = "too large";
    let [row, rest @ ..] = shape;
    if !Size::of(row).is_multiple_of(Size::of_len(dtype.block_len())) {
        return Err("rows are not whole blocks");
    }
    let k = Size::of(row).to_usize();
    let row_bytes = k.and_then(|row| dtype.row_bytes(row));
    let mut bytes = row_bytes.map(Size::of_len).ok_or(TOO_LARGE)?;
    let mut elements = Size::of(row);
    for dim in rest.map(Size::of) {
        bytes = bytes.mul(dim).ok_or(TOO_LARGE)?;
        elements = elements.mul(dim).ok_or(TOO_LARGE)?;
    }
    if packed {
        let rows = rest.iter().try_fold(1u64, |n, dim| n.checked_mul(*dim));
        let rows = rows.and_then(|n| Size::of(n).to_usize());
        let bytes = k.zip(rows).and_then(|(k, rows)| p16::packed_bytes(dtype, k, rows));
        return bytes.map(Size::of_len).ok_or(TOO_LARGE);
    }
    Ok(bytes)
}

/// All tensors of a file, whose names are unique and whose bytes are disjoint and in the file.
#[derive(Debug)]
pub(super) struct Tensors {
    table: Vec<TensorInfo>,
    by_name: Vec<u32>,
}

impl Tensors {
    /// Checks the table as a whole against `data_len` bytes of data.
    pub(super) fn check(
        table: Vec<TensorInfo>,
        header: &[u8],
        data_len: Size,
        alignment: Size,
    ) -> Result<Tensors> {
        let mut order: Vec<u32> = reserve(table.len(), "tensors")?;
        order.extend((0..table.len()).filter_map(|i| u32::try_from(i).ok()));
        check_ranges(&table, &mut order, header, data_len, alignment)?;

        let name = |i: u32| table.get(i as usize).map_or(&[][..], |t| t.name.of(header));
        sort_numbers(&mut order, &mut |a, b| name(a).cmp(name(b)).then(a.cmp(&b)));
        for pair in order.windows(2) {
            if let &[a, b] = pair
                && name(a) == name(b)
                && let Some(second) = table.get(b as usize)
            {
                let place = Shown(Place::Tensor(second.name, ""), header);
                let at = second.name.start;
                return Err(err!(BadFile, "byte {at}: {place}: the name occurs twice"));
            }
        }
        Ok(Tensors { table, by_name: order })
    }

    pub(super) fn all(&self) -> &[TensorInfo] {
        &self.table
    }

    pub(super) fn find(&self, header: &[u8], name: &str) -> Option<&TensorInfo> {
        let tensor = |i: u32| self.table.get(i as usize);
        let found = self.by_name.binary_search_by(|&i| {
            tensor(i).map_or(&[][..], |t| t.name.of(header)).cmp(name.as_bytes())
        });
        tensor(*self.by_name.get(found.ok()?)?)
    }

    pub(super) fn heap_bytes(&self) -> usize {
        let table = self.table.capacity().saturating_mul(size_of::<TensorInfo>());
        table.saturating_add(self.by_name.capacity().saturating_mul(size_of::<u32>()))
    }
}

/// No two tensors share a byte, and all end in the file.
fn check_ranges(
    table: &[TensorInfo],
    order: &mut [u32],
    header: &[u8],
    data_len: Size,
    alignment: Size,
) -> Result<()> {
    let at = |i: u32| table.get(i as usize);
    let shown = |t: &TensorInfo| Shown(Place::Tensor(t.name, ""), header);
    let place = |i: u32| at(i).map_or((0, 0), |t| (t.offset, t.bytes));
    sort_numbers(order, &mut |a, b| place(a).cmp(&place(b)));
    let mut before: Option<&TensorInfo> = None;
    let mut end = Size::ZERO;
    let mut is_packed = true; // each tensor starts where the one before, padded, ends
    let mut outside: Option<&TensorInfo> = None;
    for tensor in order.iter().filter_map(|&i| at(i)) {
        let start = Size::of(tensor.offset);
        if start < end
            && let Some(other) = before
        {
            return Err(err!(
                BadTensor,
                "byte {}: {}: starts at {} of the data, {} ends at {}",
                tensor.name.start,
                shown(tensor),
                tensor.offset,
                shown(other),
                end.get()
            ));
        }
        is_packed &= end.align_up(alignment) == Some(start);
        end = tensor.end().unwrap_or(Size::of(u64::MAX)); // fits: `read_row` checked it
        if end > data_len {
            outside = outside.or(Some(tensor));
        }
        before = Some(tensor);
    }
    match outside {
        None => Ok(()),
        // The table agrees with itself and only the file's length does not: a broken download.
        Some(tensor) if is_packed => Err(err!(
            BadFile,
            "byte {}: {}: the file is cut short: {} bytes of data, expected {}",
            tensor.name.start,
            shown(tensor),
            data_len.get(),
            end.get()
        )),
        Some(tensor) => Err(err!(
            BadTensor,
            "byte {}: {}: {} bytes at {} of the data, which has {}",
            tensor.name.start,
            shown(tensor),
            tensor.bytes,
            tensor.offset,
            data_len.get()
        )),
    }
}
