//! Large memory, asked for politely: zeroed, aligned for every vector unit, and really there.
//!
//! Linux hands out addresses before it has pages for them, and kills whoever touches one page too
//! many. A buffer therefore gets its pages when it is made, where running out is still an error.
#![allow(unsafe_code, reason = "allocates with an alignment that Vec cannot promise")]

use std::alloc::{Layout, alloc, dealloc};
use std::io;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicUsize, Ordering};

use memmap2::{Advice, MmapMut, MmapOptions};

use super::error::{Result, err};
use super::file::errno::Failed;
use super::memory::HugePages;
use super::shared::Shared;

/// Bytes that a buffer's start is a multiple of: a cache line, and the widest vector (AVX-512).
pub const ALIGNMENT: usize = 64;

/// The smallest that pages are.
const SMALLEST_PAGE: usize = 4096;

/// The size of a huge page on most machines; where they are larger, fewer of them fit.
const HUGE: usize = 2 << 20;

mod sealed {
    /// Types of which all-zero bytes are a value, and that need no drop.
    ///
    /// # Safety
    /// Every bit pattern of zeros must be a valid value of the type.
    pub unsafe trait Element: Copy + Send + Sync + 'static {}
}
pub(super) use sealed::Element;

macro_rules! elements {
    ($($t:ty),*) => { $(
        // SAFETY: all bits zero is the number 0.
        unsafe impl Element for $t {}
    )* };
}
elements!(f32, f64, i8, u8, i16, u16, i32, u32, i64, u64);

/// A fixed number of elements in memory of its own, aligned to [`ALIGNMENT`] bytes.
pub struct Buffer<T: Element> {
    start: NonNull<T>,
    len: usize,
    /// What `start` lies in, if it is not of the heap.
    region: Option<Shared<Region>>,
}

// SAFETY: a buffer owns its memory alone, as a Vec does, and `Element` is Send and Sync.
unsafe impl<T: Element> Send for Buffer<T> {}
// SAFETY: as above; `&Buffer` gives only `&[T]`.
unsafe impl<T: Element> Sync for Buffer<T> {}

impl<T: Element> Buffer<T> {
    /// No elements.
    pub const fn empty() -> Buffer<T> {
        Buffer { start: NonNull::dangling(), len: 0, region: None }
    }

    /// `n` zeros, every page of them present. Fails with `OutOfMemory`.
    pub fn zeroed(n: usize) -> Result<Buffer<T>> {
        let Some(layout) = Self::layout(n) else {
            return Err(err!(OutOfMemory, "buffer: {n} elements exceed the address space"));
        };
        if layout.size() == 0 {
            return Ok(Buffer { start: NonNull::dangling(), len: n, region: None });
        }
        // SAFETY: the layout's size is not zero.
        let start = unsafe { alloc(layout) };
        let Some(start) = NonNull::new(start) else {
            return Err(err!(OutOfMemory, "buffer: {} bytes", layout.size()));
        };
        // From here on `buffer` frees the memory, also when populating it fails.
        let buffer = Buffer { start: start.cast(), len: n, region: None };
        if !populate(start.as_ptr(), layout.size()) {
            return Err(err!(OutOfMemory, "buffer: no pages for {} bytes", layout.size()));
        }
        // SAFETY: `layout.size()` bytes were allocated at `start`; zero bytes are elements.
        unsafe { start.as_ptr().write_bytes(0, layout.size()) };
        Ok(buffer)
    }

    /// Bytes of memory that the buffer owns.
    pub fn bytes(&self) -> usize {
        self.len * size_of::<T>() // computed without overflow when it was made
    }

    fn layout(n: usize) -> Option<Layout> {
        Layout::array::<T>(n).ok()?.align_to(ALIGNMENT).ok()
    }
}

/// Pages that nothing else lies in, all of them present, handed out piece by piece. They go when the
/// region and all buffers in it have gone.
pub struct Region {
    map: MmapMut,
    /// Where in the mapping it begins, and its bytes.
    first: usize,
    len: usize,
    /// Bytes handed out.
    used: AtomicUsize,
}

impl Region {
    /// Bytes of it.
    pub fn bytes(&self) -> usize {
        self.len
    }

    /// `len` zero bytes. Fails with `OutOfMemory`.
    pub fn new(len: usize, huge: HugePages) -> Result<Region> {
        let no_memory = |e: io::Error| err!(OutOfMemory, "memory: {len} bytes: {}", Failed(&e));
        // Huge pages begin at multiples of their size. What is mapped too much is never touched.
        let slack = if huge != HugePages::Never && len >= HUGE { HUGE } else { 0 };
        let Some(all) = len.checked_add(slack) else {
            return Err(err!(OutOfMemory, "memory: {len} bytes exceed the address space"));
        };
        let mut map = MmapOptions::new().len(all).map_anon().map_err(no_memory)?;
        let first = match slack {
            0 => 0,
            _ => map.as_ptr().align_offset(HUGE).min(slack),
        };
        // A kernel without huge pages refuses the wish, which is all that it is.
        let _ = match huge {
            _ if len < HUGE && huge != HugePages::Never => Ok(()),
            HugePages::Never => map.advise(Advice::NoHugePage),
            // Whole ones only: the last would reach beyond what was asked for.
            HugePages::Default | HugePages::Transparent => {
                map.advise_range(Advice::HugePage, first, len / HUGE * HUGE)
            }
        };
        let used = &mut map[first..first + len];
        if !populate(used.as_mut_ptr(), len) {
            return Err(err!(OutOfMemory, "memory: no pages for {len} bytes"));
        }
        // Takes the pages that `populate` did not: a write to each. They are zeros already.
        used.iter_mut().step_by(SMALLEST_PAGE).for_each(|byte| *byte = std::hint::black_box(0));
        Ok(Region { map, first, len, used: AtomicUsize::new(0) })
    }

    /// `n` zeros, which nobody else has; `None` if there is no room left for them.
    #[inline(never)]
    pub fn take<T: Element>(region: &Shared<Region>, n: usize) -> Option<Buffer<T>> {
        let bytes = Buffer::<T>::layout(n)?.size();
        if bytes == 0 {
            return Buffer::zeroed(n).ok();
        }
        let end = |at: usize| at.checked_add(bytes).filter(|&end| end <= region.len);
        // The next one begins on a cache line again; the last one may end at the very end.
        let next = |at: usize| Some(end(at)?.checked_next_multiple_of(ALIGNMENT)?.min(region.len));
        let at = region.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next).ok()?;
        // SAFETY: at + bytes lies in the region, which lies in the mapping.
        let start = unsafe { region.map.as_ptr().add(region.first + at) };
        // The place was handed out just now, once; zero bytes are elements; pages are aligned better
        // than cache lines are.
        let start = NonNull::new(start.cast_mut())?.cast();
        Some(Buffer { start, len: n, region: Some(region.clone()) })
    }

    /// Locks the pages in memory, until the region goes.
    pub fn lock(&self) -> io::Result<()> {
        // SAFETY: changes no byte; the range lies in the mapping. The kernel rounds it to whole
        // pages, which nothing else lies in.
        match unsafe { libc::mlock(self.map.as_ptr().add(self.first).cast(), self.len) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

/// Asks the kernel for the pages that lie wholly inside; false if it has none left.
///
/// Kernels before 5.14 do not know the request; then the write that follows takes the pages.
fn populate(start: *mut u8, len: usize) -> bool {
    const PAGE: usize = 65536; // the largest that Linux uses on the machines we know
    let skip = start.align_offset(PAGE);
    let inside = len.saturating_sub(skip) / PAGE * PAGE;
    if inside == 0 || skip == usize::MAX {
        return true;
    }
    // SAFETY: [start + skip, start + skip + inside) lies in the allocation; populating changes no
    // byte of it.
    let rc = unsafe { libc::madvise(start.add(skip).cast(), inside, libc::MADV_POPULATE_WRITE) };
    rc == 0 || std::io::Error::last_os_error().raw_os_error() != Some(libc::ENOMEM)
}

impl<T: Element> Drop for Buffer<T> {
    #[inline(never)] // there are structures of dozens of them
    fn drop(&mut self) {
        match Self::layout(self.len) {
            _ if self.region.is_some() => {} // goes with its region
            Some(layout) if layout.size() > 0 => {
                // SAFETY: `zeroed` allocated this memory with this very layout.
                unsafe { dealloc(self.start.as_ptr().cast(), layout) }
            }
            _ => {}
        }
    }
}

impl<T: Element> Deref for Buffer<T> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        // SAFETY: `len` initialised elements, or none at a dangling but aligned address.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl<T: Element> DerefMut for Buffer<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as for `deref`; `&mut self` makes the access exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

impl<T: Element> std::fmt::Debug for Buffer<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Buffer({} x {} bytes)", self.len, size_of::<T>())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::error::Error;

    #[test]
    fn a_buffer_is_zeroed_and_aligned() {
        for n in [0, 1, 7, 1000, 1 << 20] {
            // Dirty the allocator's free lists first, so that zeros are not luck.
            drop(vec![0xaau8; n * 4 + 64]);
            let mut buffer = Buffer::<f32>::zeroed(n).unwrap();
            assert_eq!(buffer.len(), n);
            assert_eq!(buffer.bytes(), n * 4);
            assert!(buffer.iter().all(|&x| x.to_bits() == 0));
            if n > 0 {
                assert_eq!(buffer.as_ptr().addr() % ALIGNMENT, 0);
                buffer[n - 1] = 1.0;
                assert_eq!(buffer[n - 1], 1.0);
            }
        }
    }

    #[test]
    fn what_cannot_be_had_is_an_error() {
        for n in [usize::MAX, usize::MAX / 4, 1 << 46] {
            assert!(matches!(Buffer::<f32>::zeroed(n), Err(Error::OutOfMemory(_))), "{n}");
        }
    }
}
