//! What C points at: buffers, strings, sized structs, places for results. Checked for NULL,
//! alignment and size before anything is read or written.

use std::ffi::{CStr, c_char};
use std::marker::PhantomData;

use crate::base::error::{Result, err};

/// A place for one result. Checked before any work, so that a NULL one costs and leaks nothing.
pub(super) struct Out<'a, T> {
    ptr: *mut T,
    place: PhantomData<&'a mut T>,
}

impl<T> Out<'_, T> {
    /// Gives the caller a value. What was there is overwritten, not dropped.
    pub(super) fn write(self, value: T) {
        // SAFETY: `out` checked the pointer, and its caller promised room for a `T`.
        unsafe { self.ptr.write(value) }
    }
}

/// # Safety
/// `ptr` is NULL or points to writable memory for a `T`.
pub(super) unsafe fn out<'a, T>(ptr: *mut T, name: &str) -> Result<Out<'a, T>> {
    check(ptr, name)?;
    Ok(Out { ptr, place: PhantomData })
}

/// A result that the caller may not want: NULL is fine.
///
/// # Safety
/// As for [`out`].
pub(super) unsafe fn out_or_null<'a, T>(ptr: *mut T, name: &str) -> Result<Option<Out<'a, T>>> {
    if ptr.is_null() {
        return Ok(None);
    }
    // SAFETY: the caller's contract is the same.
    unsafe { out(ptr, name) }.map(Some)
}

/// # Safety
/// `ptr` points to `len` readable `T`s, or `len` is 0.
pub(super) unsafe fn slice<'a, T>(ptr: *const T, len: usize, name: &str) -> Result<&'a [T]> {
    if len == 0 {
        return Ok(&[]);
    }
    check(ptr, name)?;
    if len > isize::MAX as usize / size_of::<T>() {
        return Err(err!(InvalidArgument, "{name}: a length of {len} is no length"));
    }
    // SAFETY: not NULL, aligned, of a possible length, and `len` long by the caller's contract.
    Ok(unsafe { std::slice::from_raw_parts(ptr, len) })
}

/// Text with an explicit length.
///
/// # Safety
/// `ptr` points to `len` readable bytes, or `len` is 0.
pub(super) unsafe fn utf8<'a>(ptr: *const c_char, len: usize, name: &str) -> Result<&'a str> {
    // SAFETY: the caller's contract.
    checked_utf8(unsafe { slice(ptr.cast::<u8>(), len, name)? }, name)
}

pub(super) fn checked_utf8<'a>(bytes: &'a [u8], name: &str) -> Result<&'a str> {
    std::str::from_utf8(bytes)
        .map_err(|e| err!(InvalidArgument, "{name} is not UTF-8 at byte {}", e.valid_up_to()))
}

/// A string that ends in NUL.
///
/// # Safety
/// `ptr` is NULL or points to a string that ends in NUL.
pub(super) unsafe fn c_str<'a>(ptr: *const c_char, name: &str) -> Result<&'a CStr> {
    check(ptr, name)?;
    // SAFETY: not NULL, and ends in NUL by the caller's contract.
    Ok(unsafe { CStr::from_ptr(ptr) })
}

/// Copies a result into the caller's buffer, and says how long it is. If it does not fit, only the
/// length is written.
///
/// # Safety
/// `buffer` points to room for `capacity` `T`s, or `capacity` is 0.
pub(super) unsafe fn fill<T: Copy>(
    buffer: *mut T,
    capacity: usize,
    name: &str,
    found: &[T],
    len: Out<'_, usize>,
) -> Result<()> {
    if capacity != 0 {
        check(buffer, name)?;
    }
    len.write(found.len());
    if found.len() > capacity {
        let needed = found.len();
        return Err(err!(BufferTooSmall, "{name} has room for {capacity}, {needed} are needed"));
    }
    if !found.is_empty() {
        // SAFETY: `found` is not longer than `capacity`, for which the caller's buffer has room;
        // the buffer is the caller's and `found` is ours, so they do not overlap.
        unsafe { std::ptr::copy_nonoverlapping(found.as_ptr(), buffer, found.len()) };
    }
    Ok(())
}

/// Marks structs that start with `struct_size` and for which all-zero is a valid value.
///
/// # Safety
/// `Self` is `repr(C)`, starts with a `u32` size, has no padding, and is made of integers, floats
/// and pointers only, function pointers as `Option`.
pub(super) unsafe trait Sized0: Copy {}

/// Reads a struct from a caller built against an older or a newer header: what it lacks is zero,
/// what we do not know must be zero. NULL is all zero.
///
/// # Safety
/// `ptr` is NULL or points to `struct_size` readable bytes.
pub(super) unsafe fn read_sized<T: Sized0>(ptr: *const T, name: &str) -> Result<T> {
    // SAFETY: all-zero is a valid `T` (see `Sized0`).
    let mut value: T = unsafe { std::mem::zeroed() };
    if ptr.is_null() {
        return Ok(value);
    }
    // SAFETY: every `T` starts with its `u32` size, which the caller can read.
    let size = unsafe { size_of_caller(ptr, name)? };
    let known = size.min(size_of::<T>());
    let bytes = ptr.cast::<u8>();
    // SAFETY: `known` is within both the caller's `struct_size` bytes and `value`.
    unsafe { std::ptr::copy_nonoverlapping(bytes, (&raw mut value).cast::<u8>(), known) };
    // SAFETY: the rest of the caller's `struct_size` bytes.
    let rest = unsafe { std::slice::from_raw_parts(bytes.add(known), size - known) };
    if rest.iter().any(|&b| b != 0) {
        return Err(err!(Unsupported, "{name}: a field that this library does not know is set"));
    }
    Ok(value)
}

/// A place for a struct of a caller built against an older or a newer header. Checked before any
/// work, as [`Out`] is.
pub(super) struct SizedOut<'a, T> {
    ptr: *mut T,
    /// The caller's `struct_size`.
    size: usize,
    place: PhantomData<&'a mut T>,
}

/// # Safety
/// `ptr` is NULL or points to `struct_size` writable bytes.
pub(super) unsafe fn sized_out<'a, T: Sized0>(ptr: *mut T, name: &str) -> Result<SizedOut<'a, T>> {
    // SAFETY: every `T` starts with its `u32` size; a NULL is refused there.
    let size = unsafe { size_of_caller(ptr, name)? };
    Ok(SizedOut { ptr, size, place: PhantomData })
}

impl<T: Sized0> SizedOut<'_, T> {
    /// Gives the caller a value. `struct_size` stays as it is, and so do the bytes that we do not know.
    pub(super) fn write(self, value: T) {
        let n = self.size.min(size_of::<T>()) - size_of::<u32>();
        let from = (&raw const value).cast::<u8>();
        // SAFETY: within both structs, after their `struct_size`; `sized_out` checked the pointer, and
        // its caller promised the bytes.
        unsafe {
            std::ptr::copy_nonoverlapping(
                from.add(size_of::<u32>()),
                self.ptr.cast::<u8>().add(size_of::<u32>()),
                n,
            );
        }
    }
}

/// # Safety
/// `ptr` is NULL or points to a readable `u32`.
unsafe fn size_of_caller<T: Sized0>(ptr: *const T, name: &str) -> Result<usize> {
    check(ptr, name)?;
    // SAFETY: not NULL, aligned for a `T` and so for its first field, readable by contract.
    let size = unsafe { ptr.cast::<u32>().read() } as usize;
    // No struct of a sane program is larger; a size that is not one should not be read through.
    if !(size_of::<u32>()..=4096).contains(&size) {
        return Err(err!(InvalidArgument, "{name}: struct_size is {size}; use TERN_INIT"));
    }
    Ok(size)
}

fn check<T>(ptr: *const T, name: &str) -> Result<()> {
    if ptr.is_null() {
        return Err(err!(InvalidArgument, "{name} is NULL"));
    }
    if !ptr.is_aligned() {
        return Err(err!(InvalidArgument, "{name} is not aligned to {} bytes", align_of::<T>()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Error;

    #[repr(C)]
    #[derive(Clone, Copy)]
    struct Wide {
        struct_size: u32,
        a: u32,
        b: u64,
    }
    // SAFETY: as the trait asks: 4 + 4 + 8 bytes of integers.
    unsafe impl Sized0 for Wide {}

    #[test]
    fn a_struct_of_any_age_is_read() {
        // The caller's bytes, by age: 4 (nothing set), 8 (ends after `a`), 16 (ours), 24 (newer).
        for (size, a, b) in [(4u32, 0, 0), (8, 7, 0), (16, 7, 9), (24, 7, 9)] {
            let buffer = [u64::from(size) | 7 << 32, 9, 0];
            // SAFETY: the buffer holds 24 bytes, at least `struct_size`.
            let read = unsafe { read_sized(buffer.as_ptr().cast::<Wide>(), "params") }.unwrap();
            assert_eq!((read.a, read.b), (a, b), "struct_size {size}");
        }
        let newer = [24u64 | 7 << 32, 9, 1];
        // SAFETY: 24 bytes.
        let read = unsafe { read_sized(newer.as_ptr().cast::<Wide>(), "params") };
        assert!(matches!(read, Err(Error::Unsupported(_))));
        for size in [0u64, 3, 4097, 0xFFFF_FFFF] {
            let bad = [size, 0, 0];
            // SAFETY: the size is refused before more than its four bytes are read.
            let read = unsafe { read_sized(bad.as_ptr().cast::<Wide>(), "params") };
            assert!(matches!(read, Err(Error::InvalidArgument(_))));
        }
    }

    #[test]
    fn a_struct_of_any_age_is_written() {
        let value = Wide { struct_size: 99, a: 7, b: 9 };
        for (size, expected) in [
            (4u64, [4, u64::MAX, u64::MAX]),
            (8, [8 | 7 << 32, u64::MAX, u64::MAX]),
            (16, [16 | 7 << 32, 9, u64::MAX]),
            (24, [24 | 7 << 32, 9, u64::MAX]),
        ] {
            let mut buffer = [size, u64::MAX, u64::MAX];
            // SAFETY: 24 bytes, at least `struct_size`.
            let out = unsafe { sized_out(buffer.as_mut_ptr().cast::<Wide>(), "info") }.unwrap();
            out.write(value);
            assert_eq!(buffer, expected, "struct_size {size}");
        }
    }

    #[test]
    fn bad_pointers_are_errors() {
        let words = [0u32; 4];
        let odd = words.as_ptr().cast::<u8>().wrapping_add(1).cast::<u32>();
        // SAFETY: none of these is followed.
        unsafe {
            assert!(matches!(out(odd.cast_mut(), "x"), Err(Error::InvalidArgument(_))));
            assert!(matches!(
                out::<u32>(std::ptr::null_mut(), "x"),
                Err(Error::InvalidArgument(_))
            ));
            assert!(matches!(slice(odd, 1, "x"), Err(Error::InvalidArgument(_))));
            assert!(matches!(
                slice(words.as_ptr(), usize::MAX, "x"),
                Err(Error::InvalidArgument(_))
            ));
            assert!(matches!(
                slice::<u32>(std::ptr::null(), 1, "x"),
                Err(Error::InvalidArgument(_))
            ));
            assert!(slice::<u32>(std::ptr::null(), 0, "x").unwrap().is_empty());
            assert!(matches!(c_str(std::ptr::null(), "x"), Err(Error::InvalidArgument(_))));
            assert!(matches!(utf8(c"a\xff".as_ptr(), 2, "x"), Err(Error::InvalidArgument(_))));
        }
    }

    #[test]
    fn a_buffer_too_small_learns_the_length_and_nothing_else() {
        let (mut buffer, mut len) = ([7u8; 4], 0usize);
        for (capacity, written) in [(0, false), (2, false), (3, true), (4, true)] {
            buffer = [7; 4];
            // SAFETY: `capacity` is at most 4.
            let done = unsafe {
                let len = out(&raw mut len, "len").unwrap();
                fill(buffer.as_mut_ptr(), capacity, "text", b"abc", len)
            };
            assert_eq!(len, 3);
            assert_eq!(done.is_ok(), written);
            assert_eq!(&buffer, if written { b"abc\x07" } else { &[7; 4] });
        }
        let _ = buffer;
    }
}
