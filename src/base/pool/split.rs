//! Jobs that share out a matrix: by rows, by columns, by columns of several.
#![allow(unsafe_code, reason = "parts of one matrix that do not overlap, on several threads")]

use std::ops::Range;

use super::Pool;
use super::columns::{Columns, Width};
use crate::base::error::{Result, err};
use crate::base::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

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

    /// Splits the columns of a row-major matrix into chunks of one or several times `grain` (0 is taken as 1; the last chunk may be narrower): `f(worker, columns)`. Each
    /// column goes out once. Chunks are long at first and short at last; see [`guided`](Self::guided).
    ///
    /// Fails as [`run`](Self::run), and with `Internal` if `out` is not whole rows.
    pub fn columns<T: Send>(
        &self,
        out: &mut [T],
        width: Width,
        grain: usize,
        f: impl Fn(usize, &mut Columns<'_, T>) + Sync,
    ) -> Result<()> {
        let n_rows = rows_of(out.len(), width)?;
        let base = Base(out.as_mut_ptr());
        self.guided(if n_rows == 0 { 0 } else { width.n_cols }, grain, |worker, columns| {
            // SAFETY: the matrix is `out`, `n_rows` rows of `pitch`, and borrowed until all calls have
            // returned; `guided` gives each column to one call only. The columns cannot leave `f`,
            // which must take them with any lifetime. T: Send lets another thread write them.
            f(worker, &mut unsafe { Columns::of(base.get(), width.pitch, n_rows, columns) });
        })
    }

    /// Splits the columns of two matrices of one shape together; see [`columns`](Self::columns).
    ///
    /// Fails as that does, and with `Internal` if the shapes differ.
    pub fn column_pairs<T: Send>(
        &self,
        a: &mut [T],
        b: &mut [T],
        width: Width,
        grain: usize,
        f: impl Fn(usize, &mut Columns<'_, T>, &mut Columns<'_, T>) + Sync,
    ) -> Result<()> {
        if a.len() != b.len() {
            return Err(err!(Internal, "matrices of {} and {} elements", a.len(), b.len()));
        }
        let n_rows = rows_of(a.len(), width)?;
        let (a, b) = (Base(a.as_mut_ptr()), Base(b.as_mut_ptr()));
        self.guided(if n_rows == 0 { 0 } else { width.n_cols }, grain, |worker, columns| {
            // SAFETY: as in `columns`, for each of the two, which are borrowed exclusively and so
            // do not overlap.
            let (mut a, mut b) = unsafe {
                (
                    Columns::of(a.get(), width.pitch, n_rows, columns.clone()),
                    Columns::of(b.get(), width.pitch, n_rows, columns),
                )
            };
            f(worker, &mut a, &mut b);
        })
    }

    /// Splits the columns of several matrices of `n_rows` rows: `f(worker, i, columns)`. No chunk has columns of two of them; see [`columns`](Self::columns).
    ///
    /// Fails as that does, and with `Internal` if a matrix is not `n_rows` rows.
    pub fn columns_of<T: Send, const N: usize>(
        &self,
        mut outs: [&mut [T]; N],
        n_rows: usize,
        widths: [Width; N],
        grain: usize,
        f: impl Fn(usize, usize, &mut Columns<'_, T>) + Sync,
    ) -> Result<()> {
        let grain = grain.max(1);
        for (out, width) in outs.iter().zip(widths) {
            let found = rows_of(out.len(), width)?;
            if found != n_rows && width.pitch > 0 {
                return Err(err!(Internal, "{found} rows, expected {n_rows}"));
            }
        }
        let bases = outs.each_mut().map(|out| Base(out.as_mut_ptr()));
        let n_chunks = widths.map(|width| width.n_cols.div_ceil(grain));
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
                let (base, width) = (bases[i].get(), widths[i]);
                let columns = start * grain..width.n_cols.min(end * grain);
                // SAFETY: as in `columns`: matrix `i` was checked to be n_rows rows of its pitch,
                // and each chunk of it goes out once.
                f(worker, i, &mut unsafe { Columns::of(base, width.pitch, n_rows, columns) });
            }
        })
    }

    /// Hands out 0..n in chunks of one or several times `grain`: `f(worker, chunk)`. Each number goes
    /// out once.
    ///
    /// Each thread has a part of its own, and takes it from front to back, a quarter of what is left
    /// at a time: so it reads a stream that goes on, and what is fetched ahead of a chunk is the start
    /// of its next. Who is done takes half of what another has left, from its back, as its own part.
    /// So all end within about one `grain` of each other, whatever each of them lost to slower cores,
    /// to other processes or to waking up late.
    ///
    /// Fails as [`run`](Self::run).
    pub fn guided(
        &self,
        n: usize,
        grain: usize,
        f: impl Fn(usize, Range<usize>) + Sync,
    ) -> Result<()> {
        self.share_out(n, grain, &f)
    }

    /// As [`guided`](Self::guided), one copy for all jobs.
    #[inline(never)]
    fn share_out(
        &self,
        n: usize,
        grain: usize,
        f: &(dyn Fn(usize, Range<usize>) + Sync),
    ) -> Result<()> {
        let grain = grain.max(1).max(n.div_ceil(u32::MAX as usize));
        let n_units = n.div_ceil(grain);
        let parts = &self.parts[..self.n_active().min(n_units)];
        match parts.len() {
            0 => return Ok(()),
            1 => return self.run_first(1, &|| {}, &|worker| f(worker, 0..n)),
            _ => {}
        }
        let divide = || {
            let start = |i: usize| i * n_units / parts.len();
            for (i, part) in parts.iter().enumerate() {
                part.set(start(i)..start(i + 1));
            }
        };
        self.run_first(parts.len(), &divide, &|worker| {
            loop {
                while let Some(units) = parts[worker].take_front() {
                    let start = units.start * grain; // below n
                    f(worker, start..units.end.saturating_mul(grain).min(n));
                }
                let Some(fullest) = parts.iter().max_by_key(|part| part.left()) else { break };
                match fullest.take_back() {
                    Some(units) => parts[worker].set(units),
                    None if fullest.left() == 0 => break,
                    None => {}
                }
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
        self.run_first(self.n_active().min(n_chunks), &|| {}, &|worker| {
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

/// What one thread has of a job: numbers from a front to a back. Two cache lines to itself, as CPUs
/// fetch pairs of them.
///
/// A part's thread takes from the front and, when nothing is left, sets another; all others take from
/// the back. No number is ever in two parts, so that a value which has changed never comes again
/// within a job.
#[repr(align(128))]
pub(super) struct Part(AtomicU64);

impl Part {
    /// An empty part.
    pub(super) fn new() -> Part {
        Part(AtomicU64::new(0))
    }

    /// Makes it these numbers, each below 2^32. For who knows that it is empty.
    fn set(&self, units: Range<usize>) {
        self.0.store(pack(units), Ordering::Relaxed);
    }

    fn left(&self) -> usize {
        unpack(self.0.load(Ordering::Relaxed)).len()
    }

    /// A quarter of what is left, at least one.
    fn take_front(&self) -> Option<Range<usize>> {
        self.take(
            |left| left.start + (left.len() / 4).max(1),
            |left, at| (left.start..at, at..left.end),
        )
    }

    /// Half of what is left, at least one.
    fn take_back(&self) -> Option<Range<usize>> {
        self.take(|left| left.start + left.len() / 2, |left, at| (at..left.end, left.start..at))
    }

    /// Cuts what is left in two: `cut` says what is taken and what stays.
    fn take(
        &self,
        at: impl Fn(&Range<usize>) -> usize,
        cut: impl Fn(&Range<usize>, usize) -> (Range<usize>, Range<usize>),
    ) -> Option<Range<usize>> {
        let mut found = self.0.load(Ordering::Relaxed);
        loop {
            let left = unpack(found);
            if left.is_empty() {
                return None;
            }
            let (taken, rest) = cut(&left, at(&left));
            let relaxed = Ordering::Relaxed;
            match self.0.compare_exchange_weak(found, pack(rest), relaxed, relaxed) {
                Ok(_) => return Some(taken),
                Err(now) => found = now,
            }
        }
    }
}

fn pack(units: Range<usize>) -> u64 {
    (units.start as u64) << 32 | units.end as u64 // both below 2^32: see `guided`
}

fn unpack(part: u64) -> Range<usize> {
    (part >> 32) as usize..(part & 0xffff_ffff) as usize
}

/// The rows of a matrix of `len` elements, whose columns lie in it.
fn rows_of(len: usize, width: Width) -> Result<usize> {
    if width.n_cols > width.pitch {
        return Err(err!(Internal, "{} columns in rows of {}", width.n_cols, width.pitch));
    }
    n_rows(len, width.pitch)
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
    use std::time::{Duration, Instant};

    #[test]
    fn columns_of_several_matrices_go_out_once_and_do_not_mix() {
        let pool = Pool::new(3).unwrap();
        let (mut a, mut b, mut c) = (vec![0; 2 * 7], vec![0; 2 * 4], vec![0; 0]);
        let outs = [&mut a[..], &mut b[..], &mut c[..]];
        pool.columns_of(outs, 2, [7, 4, 0].map(Width::dense), 3, |_, i, part| {
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
        assert!(pool.columns_of([&mut a[..]], 2, [Width::dense(6)], 3, |_, _, _| {}).is_err());
    }

    #[test]
    fn a_part_is_taken_from_both_ends_until_nothing_is_left() {
        let part = Part::new();
        assert_eq!((part.take_front(), part.take_back(), part.left()), (None, None, 0));
        part.set(10..19);
        assert_eq!(part.take_front(), Some(10..12));
        assert_eq!(part.take_back(), Some(15..19));
        assert_eq!((part.take_front(), part.left()), (Some(12..13), 2));
        assert_eq!((part.take_back(), part.take_back()), (Some(14..15), Some(13..14)));
        assert_eq!((part.take_front(), part.take_back()), (None, None));
        let last = u32::MAX as usize;
        part.set(last - 1..last);
        assert_eq!(part.take_back(), Some(last - 1..last));
    }

    /// One thread keeps its first chunk until all others are out: they take its part from the back.
    #[test]
    fn what_a_slow_thread_has_left_the_others_do() {
        for n_threads in [2, 3, 8] {
            let pool = Pool::new(n_threads).unwrap();
            let (n, done) = (1000, AtomicUsize::new(0));
            let out: Vec<_> = (0..n).map(|_| AtomicUsize::new(0)).collect();
            let start = Instant::now();
            pool.guided(n, 1, |_, chunk| {
                let (is_first, len) = (chunk.start == 0, chunk.len());
                for i in chunk {
                    out[i].fetch_add(1, Ordering::Relaxed);
                }
                done.fetch_add(len, Ordering::Relaxed);
                let in_time = || start.elapsed() < Duration::from_secs(5);
                while is_first && done.load(Ordering::Relaxed) < n && in_time() {
                    std::thread::yield_now();
                }
            })
            .unwrap();
            assert!(out.iter().all(|x| x.load(Ordering::Relaxed) == 1), "{n_threads} threads");
        }
    }

    #[test]
    fn what_lies_between_rows_is_left_alone() {
        let pool = Pool::new(3).unwrap();
        let width = Width { n_cols: 5, pitch: 8 };
        let (mut a, mut b) = (vec![0; width.len(3)], vec![0; width.len(3)]);
        let add = |part: &mut Columns<'_, i32>| {
            (0..3).for_each(|row| part.row_mut(row).iter_mut().for_each(|x| *x += 1));
        };
        pool.columns(&mut a, width, 2, |_, part| add(part)).unwrap();
        pool.column_pairs(&mut a, &mut b, width, 2, |_, a, b| {
            add(a);
            add(b);
        })
        .unwrap();
        pool.columns_of([&mut a, &mut b], 3, [width; 2], 2, |_, _, part| add(part)).unwrap();
        assert!(width.rows(&a).all(|row| row == [3; 5]) && width.rows(&b).all(|row| row == [2; 5]));
        assert_eq!((a.iter().sum(), b.iter().sum()), (3 * 15, 2 * 15));
        let narrow = Width { n_cols: 9, pitch: 8 };
        assert!(pool.columns(&mut a, narrow, 1, |_, _| {}).is_err());
        assert!(pool.columns(&mut a[1..], width, 1, |_, _| {}).is_err());
    }

    /// An odd number of cache lines, so that a column of 64 rows meets each set of a cache once.
    #[test]
    fn rows_that_are_spread_begin_in_all_sets_of_a_cache() {
        for n_cols in [1, 16, 17, 576, 1536, 2048, 4096] {
            let width = Width::spread(n_cols);
            assert!(width.pitch >= n_cols && width.pitch < n_cols + 32);
            let sets: std::collections::HashSet<_> =
                (0..64).map(|row| width.len(row) * 4 / 64 % 64).collect();
            assert_eq!(sets.len(), 64, "{n_cols} columns");
        }
    }

    #[test]
    fn pairs_of_columns_are_of_the_same_place() {
        let pool = Pool::new(2).unwrap();
        let (mut a, mut b) = (vec![1; 3 * 10], vec![2; 3 * 10]);
        pool.column_pairs(&mut a, &mut b, Width::dense(10), 4, |_, a, b| {
            assert_eq!((a.first(), a.len()), (b.first(), b.len()));
            for row in 0..3 {
                let pairs = a.row_mut(row).iter_mut().zip(b.row_mut(row));
                pairs.for_each(|(a, b)| std::mem::swap(a, b));
            }
        })
        .unwrap();
        assert!(a.iter().all(|&x| x == 2) && b.iter().all(|&x| x == 1));
        assert!(pool.column_pairs(&mut a, &mut b[1..], Width::dense(10), 4, |_, _, _| {}).is_err());
    }
}
