//! A part of a matrix that one worker writes: some columns of every row.
#![allow(unsafe_code, reason = "parts of one matrix that do not overlap, on several threads")]

use std::marker::PhantomData;
use std::ops::Range;

/// How wide the rows of a row-major matrix are, and how far apart they begin, in elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Width {
    /// Columns.
    pub n_cols: usize,
    /// From the start of a row to that of the next; at least `n_cols`.
    pub pitch: usize,
}

impl Width {
    /// Rows without gaps.
    pub const fn dense(n_cols: usize) -> Width {
        Width { n_cols, pitch: n_cols }
    }

    /// Rows of 32-bit numbers that begin an odd number of cache lines apart. A cache looks for an
    /// address in one of a power of two of sets: so some columns of many rows are spread over all of
    /// them, where rows of 2048 numbers without gaps would crowd into one.
    pub const fn spread(n_cols: usize) -> Width {
        Width { n_cols, pitch: (n_cols.div_ceil(16) | 1) * 16 }
    }

    /// Elements of `n` rows.
    pub const fn len(self, n: usize) -> usize {
        n * self.pitch
    }

    /// The rows of a matrix; what is left at its end is no row.
    pub fn rows<T>(self, x: &[T]) -> impl Iterator<Item = &[T]> {
        x.chunks_exact(self.pitch.max(1)).map(move |row| &row[..self.n_cols])
    }

    /// The rows of a matrix, to be written; what is left at its end is no row.
    pub fn rows_mut<T>(self, x: &mut [T]) -> impl Iterator<Item = &mut [T]> {
        x.chunks_exact_mut(self.pitch.max(1)).map(move |row| &mut row[..self.n_cols])
    }
}

/// Columns `first .. first + len` of every row of a row-major matrix, exclusively.
pub struct Columns<'a, T> {
    base: *mut T,
    stride: usize,
    n_rows: usize,
    first: usize,
    len: usize,
    out: PhantomData<&'a mut [T]>,
}

impl<'a, T> Columns<'a, T> {
    /// The columns `columns` of a matrix with `n_cols` columns, for who has all of it already.
    ///
    /// # Panics
    /// If `out` is not whole rows, or a column lies outside.
    pub fn new(out: &'a mut [T], n_cols: usize, columns: Range<usize>) -> Columns<'a, T> {
        let n_rows = out.len().checked_div(n_cols).unwrap_or(0);
        assert_eq!(n_rows * n_cols, out.len(), "a matrix of whole rows");
        assert!(columns.start <= columns.end && columns.end <= n_cols, "columns of the matrix");
        // SAFETY: just checked, and `out` is borrowed for 'a.
        unsafe { Columns::of(out.as_mut_ptr(), n_cols, n_rows, columns) }
    }

    /// The columns `columns` of the `n_rows` x `stride` matrix at `base`.
    ///
    /// # Safety
    /// For 'a the matrix lives, and nobody else touches these columns, which lie in it.
    pub(super) unsafe fn of(
        base: *mut T,
        stride: usize,
        n_rows: usize,
        columns: Range<usize>,
    ) -> Columns<'a, T> {
        Columns { base, stride, n_rows, first: columns.start, len: columns.len(), out: PhantomData }
    }

    /// The first column's place in the matrix.
    pub fn first(&self) -> usize {
        self.first
    }

    /// How many columns there are.
    #[allow(clippy::len_without_is_empty, reason = "a chunk is never empty")]
    pub fn len(&self) -> usize {
        self.len
    }

    /// How many rows the matrix has.
    pub fn n_rows(&self) -> usize {
        self.n_rows
    }

    /// Some of these columns, counted from the first of them.
    ///
    /// # Panics
    /// If there are no such columns.
    pub fn part(&mut self, columns: Range<usize>) -> Columns<'_, T> {
        assert!(columns.start <= columns.end && columns.end <= self.len, "columns of these");
        let columns = self.first + columns.start..self.first + columns.end;
        // SAFETY: they are some of ours, and `&mut self` is borrowed as long as they live.
        unsafe { Columns::of(self.base, self.stride, self.n_rows, columns) }
    }

    /// Where the columns' part of the first row begins, and how far from that the next one's does, in
    /// elements: for who goes through many rows. Beyond `n_rows` and `len` there is nothing.
    pub fn first_row(&mut self) -> (*mut T, usize) {
        (self.base.wrapping_add(self.first), self.stride)
    }

    /// The columns' part of a row, `len` long.
    ///
    /// # Panics
    /// If the matrix has no such row.
    pub fn row_mut(&mut self, row: usize) -> &mut [T] {
        assert!(row < self.n_rows, "row {row} of {}", self.n_rows);
        // SAFETY: row < n_rows and first + len <= stride, so the part lies in the matrix; these
        // columns are ours alone, and `&mut self` lends one part at a time.
        unsafe {
            std::slice::from_raw_parts_mut(self.base.add(row * self.stride + self.first), self.len)
        }
    }
}
