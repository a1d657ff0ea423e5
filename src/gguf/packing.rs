//! Packed files: GGUF whose matrices lie as kernels read them ([`crate::quant::p16`]).
//!
//! Such a file says so three times: `tern.packing.layout` and `tern.packing.version` in its
//! metadata, and in the type number of every packed tensor, whose upper three bytes spell "P16".
//! Readers that do not know the layout do not know the type either, and so cannot take packed bytes
//! for blocks in file order.

use super::cursor::{Cursor, Place};
use super::meta::Index;
use super::size::Size;
use super::value::Value;
use crate::base::dtype::DType;
use crate::base::error::{Result, err};

/// The key of the layout's name.
pub const LAYOUT_KEY: &str = "tern.packing.layout";
/// The key of the layout's version.
pub const VERSION_KEY: &str = "tern.packing.version";
/// The one layout.
pub const LAYOUT: &str = "p16";
/// Its version; another one whenever a byte lies elsewhere.
pub const VERSION: u32 = 1;
/// Least alignment of packed files: the lines that kernels read.
pub const ALIGNMENT: u64 = 64;
/// What is added to the number of a type: the bytes "P16", as the file has them behind it.
const TYPE: u32 = u32::from_le_bytes([0, b'P', b'1', b'6']);

/// The type number of a packed tensor.
pub(super) fn type_number(dtype: DType) -> u32 {
    TYPE | dtype.gguf_id() // all of which are below 256
}

/// The type of elements of that number, and whether they are packed.
pub(super) fn dtype(number: u32) -> Option<(DType, bool)> {
    match number & !0xff {
        TYPE => DType::from_gguf(number & 0xff).map(|dtype| (dtype, true)),
        _ => DType::from_gguf(number).map(|dtype| (dtype, false)),
    }
}

/// Whether the file is packed; fails if it is so in another way than this.
pub(super) fn read(index: &Index, cursor: &mut Cursor<'_, '_>, alignment: Size) -> Result<bool> {
    let header = cursor.bytes();
    let (layout, version) = (index.value(header, LAYOUT_KEY), index.value(header, VERSION_KEY));
    match (layout, version) {
        (None, None) => return Ok(false),
        (Some(Value::Str(layout)), Some(Value::U32(version))) => {
            if layout != LAYOUT.as_bytes() || version != VERSION {
                let layout = layout.get(..20).unwrap_or(layout).escape_ascii();
                return Err(err!(
                    UnsupportedPacking,
                    "packed as \"{layout}\" version {version}, expected \"{LAYOUT}\" version \
                     {VERSION}: pack the original file again with this version of tern"
                ));
            }
        }
        (Some(Value::Str(_)), None) => return Err(err!(BadFile, "{VERSION_KEY}: missing")),
        (None, Some(_)) => return Err(err!(BadFile, "{LAYOUT_KEY}: missing")),
        (Some(Value::Str(_)), Some(other)) => {
            let kind = other.kind();
            return Err(err!(BadFile, "{VERSION_KEY}: a value of kind {kind}, expected u32"));
        }
        (Some(other), _) => {
            let kind = other.kind();
            return Err(err!(BadFile, "{LAYOUT_KEY}: a value of kind {kind}, expected a string"));
        }
    }
    if alignment < Size::of(ALIGNMENT) {
        cursor.place = Place::Header("general.alignment");
        let found = alignment.get();
        return Err(cursor.bad(format_args!("{found}, a packed file has {ALIGNMENT} at least")));
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packed_types_have_numbers_of_their_own() {
        for &d in DType::ALL {
            assert!(d.gguf_id() < 256, "{d}");
            assert_eq!(dtype(d.gguf_id()), Some((d, false)));
            assert_eq!(dtype(type_number(d)), Some((d, true)));
            // As a signed number too: beyond any table of types.
            assert!(type_number(d) > 1 << 16 && type_number(d) < 1 << 31, "{d}");
        }
        assert_eq!(dtype(TYPE | 4), None); // Q4_2, removed from the format
        assert_eq!(dtype(TYPE + 0x100), None);
    }
}
