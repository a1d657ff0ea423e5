//! One row of logits: as it came, with the few that bias and penalties change beside it.
//!
//! A row is looked at in chunks of [`CHUNK`]. One pass finds every chunk's highest logit, and
//! whether all logits may be there; after it most questions concern a few chunks only. A chunk in
//! which a logit changes is copied first. So nothing is written where nothing changes.

use super::filter::key;
use super::math::CHUNK;
use crate::base::highest::look_over;

/// How many logits are compared at a time where nearly all of them fall short.
const GROUP: usize = 32;

/// The logits of one choice.
pub(super) struct Row<'a> {
    came: &'a [f32],
    /// Chunks with a changed logit, at their places; NaN comes first in every other chunk.
    changed: &'a mut [f32],
    /// Whether any of them is in use; if not, the marks are not there either.
    any_changed: bool,
}

impl<'a> Row<'a> {
    /// A row of logits as they came, and as much room for changed ones.
    pub(super) fn new(came: &'a [f32], room: &'a mut [f32]) -> Self {
        Row { came, changed: room, any_changed: false }
    }

    pub(super) fn len(&self) -> usize {
        self.came.len()
    }

    pub(super) fn n_chunks(&self) -> usize {
        self.came.len().div_ceil(CHUNK)
    }

    /// The logits of a chunk; there are fewer than [`CHUNK`] in the last one only.
    pub(super) fn chunk(&self, chunk: usize) -> &[f32] {
        let start = chunk * CHUNK;
        let end = self.came.len().min(start + CHUNK);
        if self.is_changed(chunk) { &self.changed[start..end] } else { &self.came[start..end] }
    }

    /// A token's logit.
    pub(super) fn logit(&self, token: usize) -> f32 {
        if self.is_changed(token / CHUNK) { self.changed[token] } else { self.came[token] }
    }

    /// A token's logit, to be changed to anything but NaN; None beyond the vocabulary.
    pub(super) fn logit_mut(&mut self, token: usize) -> Option<&mut f32> {
        if token >= self.came.len() {
            return None;
        }
        if !self.any_changed {
            self.changed.iter_mut().step_by(CHUNK).for_each(|mark| *mark = f32::NAN);
            self.any_changed = true;
        }
        let start = token / CHUNK * CHUNK;
        if self.changed[start].is_nan() {
            let end = self.came.len().min(start + CHUNK);
            self.changed[start..end].copy_from_slice(&self.came[start..end]);
        }
        Some(&mut self.changed[token])
    }

    fn is_changed(&self, chunk: usize) -> bool {
        self.any_changed && !self.changed[chunk * CHUNK].is_nan()
    }

    /// Fills in the highest logit of every chunk as it came. Where a logit is neither finite nor
    /// minus infinity, returns the first such token.
    pub(super) fn find_highest(&self, highest: &mut [f64]) -> Result<(), usize> {
        for (i, (chunk, highest)) in self.came.chunks(CHUNK).zip(highest).enumerate() {
            let Some(max) = look_over(chunk) else {
                let bad = |l: &f32| l.is_nan() || *l == f32::INFINITY;
                return Err(CHUNK * i + chunk.iter().position(bad).unwrap_or(0));
            };
            *highest = f64::from(max);
        }
        Ok(())
    }

    /// Puts the highest logits of changed chunks right.
    pub(super) fn find_highest_again(&self, highest: &mut [f64]) {
        for (i, highest) in highest.iter_mut().enumerate().filter(|(i, _)| self.is_changed(*i)) {
            // Changed logits are numbers.
            *highest = look_over(self.chunk(i)).map_or(f64::INFINITY, f64::from);
        }
    }

    /// The lowest token with the highest of all logits, which is `max`.
    pub(super) fn first(&self, max: f64, highest: &[f64]) -> usize {
        let chunk = highest.iter().position(|&h| h == max).unwrap_or(0);
        let at = self.chunk(chunk).iter().position(|&l| f64::from(l) == max).unwrap_or(0);
        CHUNK * chunk + at
    }

    /// The lowest finite logit; infinity if there is none.
    pub(super) fn lowest(&self) -> f32 {
        (0..self.n_chunks()).fold(f32::INFINITY, |low, i| low.min(lowest(self.chunk(i))))
    }

    /// Calls `visit` with tokens in ascending order, at least with all whose logit is above a
    /// floor, which is what `visit` returned last and `floor` at first; it never sinks.
    pub(super) fn above(
        &self,
        mut floor: f32,
        highest: &[f64],
        mut visit: impl FnMut(u32, f32) -> f32,
    ) {
        for (i, &max) in highest.iter().enumerate() {
            if max <= f64::from(floor) {
                continue;
            }
            let mut visit_group = |group: &[f32], first: usize, floor: &mut f32| {
                for (k, &logit) in group.iter().enumerate() {
                    if logit > *floor {
                        *floor = visit((CHUNK * i + first + k) as u32, logit);
                    }
                }
            };
            let (groups, rest) = self.chunk(i).as_chunks::<GROUP>();
            for (j, group) in groups.iter().enumerate() {
                if any_above(group, floor) {
                    visit_group(group, GROUP * j, &mut floor);
                }
            }
            visit_group(rest, GROUP * groups.len(), &mut floor);
        }
    }

    /// Calls `visit` with all finite logits in ascending tokens, [`CHUNK`] at a time.
    pub(super) fn finite_chunks(&self, mut visit: impl FnMut(&[f32])) {
        let mut kept = [0.0; CHUNK];
        let mut n = 0;
        for i in 0..self.n_chunks() {
            let chunk = self.chunk(i);
            let whole = chunk.iter().fold(true, |whole, &l| whole & (l > f32::NEG_INFINITY));
            if whole && n == 0 {
                visit(chunk);
                continue;
            }
            for &logit in chunk {
                kept[n] = logit;
                n += usize::from(logit > f32::NEG_INFINITY);
                if n == CHUNK {
                    visit(&kept);
                    n = 0;
                }
            }
        }
        if n > 0 {
            visit(&kept[..n]);
        }
    }

    /// Makes keys of the finite logits in ascending tokens, at most as many as fit, leaving out
    /// the first `skip` of them. Returns how many keys there are.
    pub(super) fn finite_keys(&self, mut skip: usize, keys: &mut [u64]) -> usize {
        let mut n = 0;
        for i in 0..self.n_chunks() {
            let chunk = self.chunk(i);
            let n_finite = chunk.iter().filter(|&&l| l > f32::NEG_INFINITY).count();
            if n_finite <= skip {
                skip -= n_finite;
                continue;
            }
            let tokens = (CHUNK * i) as u32..;
            let finite = tokens.zip(chunk).filter(|&(_, &l)| l > f32::NEG_INFINITY).skip(skip);
            skip = 0;
            for (token, &logit) in finite {
                let Some(slot) = keys.get_mut(n) else { return n };
                *slot = key(logit, token);
                n += 1;
            }
        }
        n
    }
}

/// Whether one of the logits, none of which is NaN, is above the floor.
fn any_above(logits: &[f32; GROUP], floor: f32) -> bool {
    logits.iter().fold(0_u32, |any, &l| any | u32::from(l > floor)) != 0
}

/// The lowest finite one of the logits; infinity if there is none.
fn lowest(logits: &[f32]) -> f32 {
    let mut lanes = [f32::INFINITY; 16];
    let (whole, rest) = logits.as_chunks::<16>();
    let lower = |low: f32, logit: f32| {
        // A banned one counts as none.
        let logit = if logit > f32::NEG_INFINITY { logit } else { f32::INFINITY };
        if logit < low { logit } else { low }
    };
    for group in whole {
        for (lane, &logit) in lanes.iter_mut().zip(group) {
            *lane = lower(*lane, logit);
        }
    }
    lanes.iter().chain(rest).fold(f32::INFINITY, |low, &logit| lower(low, logit))
}
