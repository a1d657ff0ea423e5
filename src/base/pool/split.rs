//! Jobs that share out a matrix: by rows, by columns, by columns of several.
#![allow(unsafe_code, reason = "parts of one matrix that do not overlap, on several threads")]

use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::Pool;
use super::columns::Columns;
use crate::base::error::{Result, err};

impl Pool {
    /// Splits `out` into rows of `row_len` and hands them out in chunks of `grain` rows (0 is taken
    /// as 1; the last chunk may be shorter): `f(worker, first_row, rows)`. Each row goes out once.
    ///
    /// Fails as [`run`](Self::run), and with `Internal` if `out` is not whole rows.
    pub fn rows<T: Send>(
        &self,
        out: &mut [T],
        row_len: usize,
        grain: usize,
        f: impl Fn(usize, usize, &mut [T]) + Sync,
    ) -> Result<()> {
        let n_rows = n_rows(out.len(), row_len)?;
        let base = Base(out.as_mut_ptr());
        self.chunks(n_rows, grain, |worker, rows| {
            // SAFETY: the rows lie in `out`, since there are `n_rows` of them; `chunks` gives each
            // to one call only, so the slices of two calls never overlap; `out` stays borrowed
            // until all calls have returned. T: Send lets another thread write it.
            let slice = unsafe {
                std::slice::from_raw_parts_mut(
                    base.get().add(rows.start * row_len),
                    rows.len() * row_len,
                )
            };
            f(worker, rows.start, slice);
        })
    }

    /// Splits the columns of a row-major matrix with `n_cols` columns into chunks of one or several
    /// times `grain` (0 is taken as 1; the last chunk may be narrower): `f(worker, columns)`. Each
    /// column goes out once. Chunks are long at first and short at last; see [`guided`](Self::guided).
    ///
    /// Fails as [`run`](Self::run), and with `Internal` if `out` is not whole rows.
    pub fn columns<T: Send>(
        &self,
        out: &mut [T],
        n_cols: usize,
        grain: usize,
        f: impl Fn(usize, &mut Columns<'_, T>) + Sync,
    ) -> Result<()> {
        let n_rows = n_rows(out.len(), n_cols)?;
        let base = Base(out.as_mut_ptr());
        self.guided(if n_rows == 0 { 0 } else { n_cols }, grain, |worker, columns| {
            // SAFETY: the matrix is `out`, `n_rows` x `n_cols` and borrowed until all calls have
            // returned; `guided` gives each column to one call only. The columns cannot leave `f`,
            // which must take them with any lifetime. T: Send lets another thread write them.
            f(worker, &mut unsafe { Columns::of(base.get(), n_cols, n_rows, columns) });
        })
    }

    /// Splits the columns of two matrices of one shape together; see [`columns`](Self::columns).
    ///
    /// Fails as that does, and with `Internal` if the shapes differ.
    pub fn column_pairs<T: Send>(
        &self,
        a: &mut [T],
        b: &mut [T],
        n_cols: usize,
        grain: usize,
        f: impl Fn(usize, &mut Columns<'_, T>, &mut Columns<'_, T>) + Sync,
    ) -> Result<()> {
        if a.len() != b.len() {
            return Err(err!(Internal, "matrices of {} and {} elements", a.len(), b.len()));
        }
        let n_rows = n_rows(a.len(), n_cols)?;
        let (a, b) = (Base(a.as_mut_ptr()), Base(b.as_mut_ptr()));
        self.guided(if n_rows == 0 { 0 } else { n_cols }, grain, |worker, columns| {
            // SAFETY: as in `columns`, for each of the two, which are borrowed exclusively and so
            // do not overlap.
            let (mut a, mut b) = unsafe {
                (
                    Columns::of(a.get(), n_cols, n_rows, columns.clone()),
                    Columns::of(b.get(), n_cols, n_rows, columns),
                )
            };
            f(worker, &mut a, &mut b);
        })
    }

    /// Splits the columns of several matrices of `n_rows` rows, `n_cols[i]` columns each:
    /// `f(worker, i, columns)`. No chunk has columns of two of them; see [`columns`](Self::columns).
    ///
    /// Fails as that does, and with `Internal` if a matrix is not `n_rows` rows.
    pub fn columns_of<T: Send, const N: usize>(
        &self,
        mut outs: [&mut [T]; N],
        n_rows: usize,
        n_cols: [usize; N],
        grain: usize,
        f: impl Fn(usize, usize, &mut Columns<'_, T>) + Sync,
    ) -> Result<()> {
        let grain = grain.max(1);
        for (out, n_cols) in outs.iter().zip(n_cols) {
            if n_rows.checked_mul(n_cols) != Some(out.len()) {
                let len = out.len();
                return Err(err!(Internal, "{len} elements, expected {n_rows} x {n_cols}"));
            }
        }
        let bases = outs.each_mut().map(|out| Base(out.as_mut_ptr()));
        let n_chunks = n_cols.map(|n| n.div_ceil(grain));
        let all = if n_rows == 0 { 0 } else { n_chunks.iter().sum() };
        self.guided(all, 1, |worker, chunks| {
            let mut before = 0; // chunks of the matrices before
            for i in 0..N {
                let start = chunks.start.clamp(before, before + n_chunks[i]) - before;
                let end = chunks.end.clamp(before, before + n_chunks[i]) - before;
                before += n_chunks[i];
                if start == end {
                    continue;
                }
                let columns = start * grain..n_cols[i].min(end * grain);
                let (base, n_cols) = (bases[i].get(), n_cols[i]);
                // SAFETY: as in `columns`: matrix `i` was checked to be n_rows x n_cols[i], and
                // each chunk of it goes out once.
                f(worker, i, &mut unsafe { Columns::of(base, n_cols, n_rows, columns) });
            }
        })
    }

    /// Hands out 0..n in chunks of one or several times `grain`, first come first served:
    /// `f(worker, chunk)`. Each number goes out once.
    ///
    /// A chunk is half of what would be each thread's part of the rest. So a thread takes long runs,
    /// and still all end within about one `grain` of each other, whatever each of them lost to
    /// slower cores, to other processes or to waking up late.
    ///
    /// Fails as [`run`](Self::run).
    pub fn guided(
        &self,
        n: usize,
        grain: usize,
        f: impl Fn(usize, Range<usize>) + Sync,
    ) -> Result<()> {
        let grain = grain.max(1);
        let n_units = n.div_ceil(grain);
        let n_threads = self.n_active().min(n_units);
        let next = AtomicUsize::new(0);
        let take = |from: usize| match n_units.saturating_sub(from) {
            0 => None,
            left => Some(from + (left / (2 * n_threads)).max(1)),
        };
        self.run_first(n_threads, &|worker| {
            while let Ok(from) = next.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take) {
                let end = take(from).unwrap_or(n_units);
                let start = from * grain; // below n
                f(worker, start..end.saturating_mul(grain).min(n));
            }
        })
    }

    /// Hands out 0..n in chunks of `grain`, first come first served: `f(worker, chunk)`. Each number
    /// goes out once.
    ///
    /// Fails as [`run`](Self::run).
    pub fn chunks(
        &self,
        n: usize,
        grain: usize,
        f: impl Fn(usize, Range<usize>) + Sync,
    ) -> Result<()> {
        let grain = grain.max(1);
        let n_chunks = n.div_ceil(grain);
        let next = AtomicUsize::new(0);
        // Nobody is woken for whom there is no chunk.
        self.run_first(self.n_active().min(n_chunks), &|worker| {
            loop {
                // Cannot wrap: each thread stops after its first number past the end.
                let chunk = next.fetch_add(1, Ordering::Relaxed);
                if chunk >= n_chunks {
                    break;
                }
                let start = chunk * grain; // below n
                f(worker, start..start.saturating_add(grain).min(n));
            }
        })
    }
}

/// The start of a slice that calls on several threads write disjoint parts of.
struct Base<T>(*mut T);

impl<T> Base<T> {
    fn get(&self) -> *mut T {
        self.0
    }
}

// SAFETY: the pointer is only a number here; who makes slices of it answers for their disjointness,
// and T: Send lets them be written on another thread.
unsafe impl<T: Send> Sync for Base<T> {}

fn n_rows(len: usize, row_len: usize) -> Result<usize> {
    match len.checked_rem(row_len) {
        Some(0) => Ok(len / row_len),
        None if len == 0 => Ok(0),
        _ => Err(err!(Internal, "{len} elements, expected whole rows of {row_len}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_of_several_matrices_go_out_once_and_do_not_mix() {
        let pool = Pool::new(3).unwrap();
        let (mut a, mut b, mut c) = (vec![0; 2 * 7], vec![0; 2 * 4], vec![0; 0]);
        let outs = [&mut a[..], &mut b[..], &mut c[..]];
        pool.columns_of(outs, 2, [7, 4, 0], 3, |_, i, part| {
            assert!(part.first() % 3 == 0 && part.len() > 0);
            for row in 0..2 {
                let first = part.first();
                let cells = part.row_mut(row).iter_mut().enumerate();
                cells.for_each(|(at, x)| *x += 100 * (i + 1) + 10 * row + first + at);
            }
        })
        .unwrap();
        assert_eq!(a, [100, 101, 102, 103, 104, 105, 106, 110, 111, 112, 113, 114, 115, 116]);
        assert_eq!(b, [200, 201, 202, 203, 210, 211, 212, 213]);
        assert!(pool.columns_of([&mut a[..]], 2, [6], 3, |_, _, _| {}).is_err());
    }

    #[test]
    fn pairs_of_columns_are_of_the_same_place() {
        let pool = Pool::new(2).unwrap();
        let (mut a, mut b) = (vec![1; 3 * 10], vec![2; 3 * 10]);
        pool.column_pairs(&mut a, &mut b, 10, 4, |_, a, b| {
            assert_eq!((a.first(), a.len()), (b.first(), b.len()));
            for row in 0..3 {
                let pairs = a.row_mut(row).iter_mut().zip(b.row_mut(row));
                pairs.for_each(|(a, b)| std::mem::swap(a, b));
            }
        })
        .unwrap();
        assert!(a.iter().all(|&x| x == 2) && b.iter().all(|&x| x == 1));
        assert!(pool.column_pairs(&mut a, &mut b[1..], 10, 4, |_, _, _| {}).is_err());
    }
}
