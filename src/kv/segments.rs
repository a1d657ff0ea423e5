//! Named segments of a sequence: which stretch of positions is what, and what that means for
//! eviction. A system prompt is pinned, a tool's result goes first, a sensor's reading expires.
//!
//! A table of ranges and nothing more: it knows no cells, no tensors and no time but the position
//! of the next token, which its caller passes. [`Segments::fill`] says of the cells of one KV head
//! what [`policy::keep`](super::policy::keep) wants to know.
//!
//! Segments do not overlap, so that no two of them can say different things of one token. What no
//! segment names is not pinned, does not expire and has priority 0.
//!
//! Invariants, checked by the tests at every step: segments ascend along `entries`, none is empty,
//! none overlaps the next, and no two have the same name.

use std::ops::Range;

use crate::base::error::{Result, err};
use crate::base::le::{Fields, Put};

/// Segments that a table can hold.
pub const MAX_SEGMENTS: usize = 64;

/// Bytes of UTF-8 that a name can have.
pub const MAX_NAME: usize = 31;

/// A named range of positions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Segment<'a> {
    /// 1 to [`MAX_NAME`] bytes, none of them NUL.
    pub name: &'a str,
    /// Position of the first token.
    pub from: u32,
    /// Position after the last token; above `from`. Its tokens may be yet to come.
    pub to: u32,
    /// Whether its tokens stay whatever their scores.
    pub pinned: bool,
    /// Tokens of a lower priority leave before those of a higher one. 0 is that of all tokens
    /// without a segment.
    pub priority: i8,
    /// Tokens that may follow the segment before it expires; 0: it never does. It has expired as
    /// soon as the next token's position is `to + ttl`.
    pub ttl: u32,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    name: [u8; MAX_NAME],
    name_len: u8,
    pinned: bool,
    priority: i8,
    from: u32,
    to: u32,
    ttl: u32,
    /// The next position with which it has expired. `to + ttl`, until positions move.
    expires: u64,
}

impl Entry {
    fn new(segment: &Segment<'_>) -> Entry {
        let mut name = [0; MAX_NAME];
        name[..segment.name.len()].copy_from_slice(segment.name.as_bytes());
        let expires = match segment.ttl {
            0 => u64::MAX,
            ttl => u64::from(segment.to) + u64::from(ttl),
        };
        Entry {
            name,
            name_len: segment.name.len() as u8, // at most MAX_NAME
            pinned: segment.pinned,
            priority: segment.priority,
            from: segment.from,
            to: segment.to,
            ttl: segment.ttl,
            expires,
        }
    }

    fn name(&self) -> &str {
        // Copied from a `str` as a whole.
        std::str::from_utf8(&self.name[..usize::from(self.name_len)]).unwrap_or("")
    }

    fn segment(&self) -> Segment<'_> {
        let &Entry { pinned, priority, from, to, ttl, .. } = self;
        Segment { name: self.name(), from, to, pinned, priority, ttl }
    }

    fn has_expired(&self, next_pos: u32) -> bool {
        u64::from(next_pos) >= self.expires
    }

    /// Turns its clock back.
    fn rewind(&mut self, delta: u32) {
        if self.ttl > 0 {
            self.expires = self.expires.saturating_sub(u64::from(delta));
        }
    }
}

/// The segments of one sequence.
#[derive(Debug)]
pub struct Segments {
    entries: Vec<Entry>,
}

/// What [`Segments::fill`] writes about the cells of one KV head, as
/// [`Head`](super::policy::Head) has it. For `n` cells, one bit each in `n.div_ceil(64)` words,
/// the lowest of each word first, or one element each.
#[derive(Debug)]
pub struct Marks<'a> {
    /// Whether the cell stays whatever its score.
    pub pinned: &'a mut [u64],
    /// Whether the cell leaves whatever its score.
    pub expired: &'a mut [u64],
    /// Its priority.
    pub priority: &'a mut [i8],
}

impl Segments {
    /// An empty table. Allocates all that it will ever need.
    pub fn new() -> Result<Segments> {
        let mut entries = Vec::new();
        entries.try_reserve_exact(MAX_SEGMENTS).map_err(|_| {
            err!(OutOfMemory, "KV segments: no memory for a table of {MAX_SEGMENTS} segments")
        })?;
        Ok(Segments { entries })
    }

    /// Bytes that a table occupies.
    pub fn bytes() -> u64 {
        (MAX_SEGMENTS * size_of::<Entry>()) as u64
    }

    /// Segments held.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether no segment is held.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Adds a segment, or replaces the one of the same name.
    ///
    /// Errors: `InvalidArgument` if the name is empty, too long or has a NUL, the range is empty or
    /// overlaps another segment, or the table is full; nothing has changed then.
    pub fn set(&mut self, segment: &Segment<'_>) -> Result<()> {
        let Segment { name, from, to, .. } = *segment;
        if name.is_empty() || name.len() > MAX_NAME || name.contains('\0') {
            return Err(err!(
                InvalidArgument,
                "KV segment: the name {name:?} has {} bytes, expected 1 to {MAX_NAME}, none of them \
                 NUL",
                name.len()
            ));
        }
        if from >= to {
            return Err(err!(
                InvalidArgument,
                "KV segment {name:?}: positions {from} to {to}, expected an end above the beginning"
            ));
        }
        let others = || self.entries.iter().filter(|entry| entry.name() != name);
        if let Some(other) = others().find(|other| other.from < to && from < other.to) {
            return Err(err!(
                InvalidArgument,
                "KV segment {name:?}: positions {from} to {to} overlap {} to {} of {:?}, expected \
                 positions that no other segment has",
                other.from,
                other.to,
                other.name()
            ));
        }
        if others().count() == MAX_SEGMENTS {
            return Err(err!(
                InvalidArgument,
                "KV segment {name:?}: the table has {MAX_SEGMENTS} segments, expected fewer; \
                 remove one"
            ));
        }
        if let Some(at) = self.find(name) {
            self.entries.remove(at);
        }
        let at = self.entries.partition_point(|other| other.from < from);
        self.entries.insert(at, Entry::new(segment));
        Ok(())
    }

    /// The segment of a name.
    ///
    /// Errors: `InvalidArgument` if there is none.
    pub fn get(&self, name: &str) -> Result<Segment<'_>> {
        match self.find(name) {
            Some(at) => Ok(self.entries[at].segment()),
            None => Err(self.unknown(name)),
        }
    }

    /// Forgets the segment of a name; its tokens are as all others then.
    ///
    /// Errors: `InvalidArgument` if there is none.
    pub fn remove(&mut self, name: &str) -> Result<()> {
        match self.find(name) {
            Some(at) => {
                self.entries.remove(at);
                Ok(())
            }
            None => Err(self.unknown(name)),
        }
    }

    /// Forgets all segments.
    pub fn clear(&mut self) {
        self.entries.clear();
    }

    /// All segments, by ascending position.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = Segment<'_>> {
        self.entries.iter().map(Entry::segment)
    }

    /// Those that have expired when `next_pos` is the position of the next token, by ascending
    /// position. They stay in the table, so that what is left of them is known to have expired,
    /// until they are removed.
    #[cfg(test)]
    fn expired(&self, next_pos: u32) -> impl Iterator<Item = Segment<'_>> {
        self.entries.iter().filter(move |entry| entry.has_expired(next_pos)).map(Entry::segment)
    }

    /// Removes the first that has expired, and gives its positions: its tokens are to leave.
    pub fn take_expired(&mut self, next_pos: u32) -> Option<Range<u32>> {
        let at = self.entries.iter().position(|entry| entry.has_expired(next_pos))?;
        let gone = self.entries.remove(at);
        Some(gone.from..gone.to)
    }

    /// Follows [`Cells::truncate`](super::cells::Cells::truncate): positions from `pos` on are
    /// forgotten. Segments lose what they had there, or vanish. Time is counted in tokens, and so
    /// one that had expired by tokens that are forgotten has not any more.
    pub fn truncate(&mut self, pos: u32) {
        self.entries.retain(|entry| entry.from < pos);
        // They ascend and do not overlap: only the last can reach beyond.
        if let Some(last) = self.entries.last_mut().filter(|last| last.to > pos) {
            last.rewind(last.to - pos);
            last.to = pos;
        }
    }

    /// Takes over what another table holds.
    pub fn copy_from(&mut self, other: &Segments) {
        self.entries.clone_from(&other.entries);
    }

    /// Bytes that [`Segments::write`] puts.
    pub fn written_len(&self) -> u64 {
        self.entries.iter().map(|entry| 32 + u64::from(entry.name_len)).sum()
    }

    /// Puts all segments, by ascending position.
    pub fn write(&self, put: &mut Put<'_>) -> Result<()> {
        self.entries.iter().try_for_each(|entry| {
            let Entry { pinned, priority, from, to, ttl, expires, .. } = *entry;
            for number in [from, to, ttl, i32::from(priority) as u32, pinned.into()] {
                put(&number.to_le_bytes())?;
            }
            put(&expires.to_le_bytes())?;
            put(&u32::from(entry.name_len).to_le_bytes())?;
            put(entry.name().as_bytes())
        })
    }

    /// Takes what [`Segments::write`] put into an empty table.
    ///
    /// Fails with `SnapshotCorrupt` if they are none that a table can hold; this is then of no use.
    #[deny(clippy::arithmetic_side_effects, clippy::indexing_slicing)] // bytes of a file
    pub fn read(&mut self, bytes: &[u8]) -> Result<()> {
        let mut fields = Fields::new("segments", bytes);
        while !fields.rest().is_empty() {
            let n = self.len();
            let [from, to, ttl, priority, pinned] =
                [fields.u32()?, fields.u32()?, fields.u32()?, fields.u32()?, fields.u32()?];
            let expires = fields.u64()?;
            let name_len = fields.u32()?;
            let name = fields.bytes(name_len as usize)?;
            let name = std::str::from_utf8(name).map_err(|_| fields.wrong("name", 0))?;
            let Ok(priority) = i8::try_from(priority as i32) else {
                return Err(fields.wrong("priority", priority.into()));
            };
            let latest = if ttl == 0 { u64::MAX } else { u64::from(to).saturating_add(ttl.into()) };
            if pinned > 1 || expires > latest || ttl == 0 && expires < latest {
                return Err(fields.wrong("expiry", expires));
            }
            self.set(&Segment { name, from, to, pinned: pinned == 1, priority, ttl })
                .map_err(|error| err!(SnapshotCorrupt, "snapshot: {}", error.message()))?;
            let at = self.find(name).filter(|_| self.len() > n);
            let Some(entry) = at.and_then(|at| self.entries.get_mut(at)) else {
                return Err(fields.wrong("two of a name, bytes", name_len.into()));
            };
            entry.expires = expires;
        }
        Ok(())
    }

    /// Writes for each of the cells at positions `pos`, ascending, what the segments say of it when
    /// `next_pos` is the position of the next token. A cell is never both pinned and expired:
    /// what has expired is no longer pinned. Takes time proportional to the cells, and for each
    /// segment to the logarithm of their number.
    pub fn fill(&self, next_pos: u32, pos: &[u32], marks: Marks<'_>) {
        let Marks { pinned, expired, priority } = marks;
        assert_eq!(priority.len(), pos.len(), "priorities");
        for bits in [&*pinned, &*expired] {
            assert_eq!(bits.len(), pos.len().div_ceil(64), "words of bits");
        }
        pinned.fill(0);
        expired.fill(0);
        priority.fill(0);
        for entry in &self.entries {
            let first = pos.partition_point(|&p| p < entry.from);
            let cells = first..first + pos[first..].partition_point(|&p| p < entry.to);
            priority[cells.clone()].fill(entry.priority);
            match (entry.has_expired(next_pos), entry.pinned) {
                (true, _) => set_bits(expired, cells),
                (false, true) => set_bits(pinned, cells),
                (false, false) => {}
            }
        }
    }

    /// How many of the tokens at positions `pos`, ascending, are pinned.
    pub fn n_pinned(&self, next_pos: u32, pos: &[u32]) -> usize {
        let pinned = self.entries.iter().filter(|e| e.pinned && !e.has_expired(next_pos));
        let below = |at: u32| pos.partition_point(|&p| p < at);
        pinned.map(|entry| below(entry.to) - below(entry.from)).sum()
    }

    fn find(&self, name: &str) -> Option<usize> {
        self.entries.iter().position(|entry| entry.name() == name)
    }

    fn unknown(&self, name: &str) -> crate::Error {
        err!(
            InvalidArgument,
            "KV segment: found {name:?}, expected the name of one of the {} segments",
            self.entries.len()
        )
    }
}

fn set_bits(words: &mut [u64], bits: Range<usize>) {
    for bit in bits {
        words[bit / 64] |= 1 << (bit % 64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::error::Error;
    use crate::base::rng::Rng;

    fn check(segments: &Segments) {
        let all: Vec<Segment<'_>> = segments.iter().collect();
        assert!(all.len() <= MAX_SEGMENTS);
        assert!(all.iter().all(|s| s.from < s.to && !s.name.is_empty()), "{all:?}");
        assert!(all.windows(2).all(|w| w[0].to <= w[1].from), "{all:?}");
        for (i, segment) in all.iter().enumerate() {
            assert!(all[..i].iter().all(|other| other.name != segment.name), "{all:?}");
            assert_eq!(segments.get(segment.name), Ok(*segment));
        }
    }

    fn segment(name: &str, from: u32, to: u32) -> Segment<'_> {
        Segment { name, from, to, ..Segment::default() }
    }

    fn of(all: &[Segment<'_>]) -> Segments {
        let mut segments = Segments::new().unwrap();
        all.iter().for_each(|s| segments.set(s).unwrap());
        check(&segments);
        segments
    }

    /// Of each cell: pinned, expired, priority.
    fn marks(segments: &Segments, next_pos: u32, pos: &[u32]) -> Vec<(bool, bool, i8)> {
        let n_words = pos.len().div_ceil(64);
        // What is there before is overwritten.
        let (mut pinned, mut expired) = (vec![!0; n_words], vec![!0; n_words]);
        let mut priority = vec![99; pos.len()];
        let out = Marks { pinned: &mut pinned, expired: &mut expired, priority: &mut priority };
        segments.fill(next_pos, pos, out);
        let bit = |words: &[u64], i: usize| words[i / 64] >> (i % 64) & 1 == 1;
        let beyond = pos.len()..n_words * 64;
        assert!(beyond.clone().all(|i| !bit(&pinned, i) && !bit(&expired, i)));
        (0..pos.len()).map(|i| (bit(&pinned, i), bit(&expired, i), priority[i])).collect()
    }

    #[test]
    fn a_name_stands_for_one_segment_and_they_are_listed_by_position() {
        let mut segments = of(&[segment("b", 10, 20), segment("a", 0, 10), segment("é", 30, 31)]);
        let names: Vec<&str> = segments.iter().map(|s| s.name).collect();
        assert_eq!(names, ["a", "b", "é"]);
        // Over itself, and to another place.
        segments.set(&Segment { priority: -3, ..segment("b", 12, 25) }).unwrap();
        assert_eq!(segments.get("b").unwrap().priority, -3);
        segments.set(&segment("a", 40, 50)).unwrap();
        let ranges: Vec<(u32, u32)> = segments.iter().map(|s| (s.from, s.to)).collect();
        assert_eq!(ranges, [(12, 25), (30, 31), (40, 50)]);
        segments.remove("b").unwrap();
        assert_eq!((segments.len(), segments.is_empty()), (2, false));
        segments.clear();
        assert!(segments.is_empty());
    }

    #[test]
    fn what_cannot_be_set_has_its_sentence_and_changes_nothing() {
        let mut segments = of(&[segment("prompt", 0, 10), segment("tool", 20, 30)]);
        let long = "x".repeat(MAX_NAME + 1);
        let two_bytes = "é".repeat(MAX_NAME / 2 + 1);
        for (wrong, words) in [
            (segment("", 40, 50), "the name \"\" has 0 bytes, expected 1 to 31"),
            (segment(&long, 40, 50), "has 32 bytes"),
            (segment(&two_bytes, 40, 50), "has 32 bytes"),
            (segment("a\0b", 40, 50), "none of them NUL"),
            (segment("a", 5, 5), "positions 5 to 5, expected an end above the beginning"),
            (segment("a", 6, 5), "positions 6 to 5"),
            (segment("a", 9, 12), "positions 9 to 12 overlap 0 to 10 of \"prompt\""),
            (segment("a", 15, 40), "overlap 20 to 30 of \"tool\""),
            (segment("a", 22, 23), "overlap 20 to 30 of \"tool\""),
            (segment("prompt", 0, 21), "overlap 20 to 30 of \"tool\""),
        ] {
            let error = segments.set(&wrong).unwrap_err();
            assert!(matches!(error, Error::InvalidArgument(_)), "{error}");
            assert!(error.message().contains(words), "{error}: no {words:?}");
        }
        for error in [segments.get("Tool").unwrap_err(), segments.remove("").unwrap_err()] {
            assert!(matches!(error, Error::InvalidArgument(_)), "{error}");
            assert!(error.message().contains("one of the 2 segments"), "{error}");
        }
        let all: Vec<Segment<'_>> = segments.iter().collect();
        assert_eq!(all, [segment("prompt", 0, 10), segment("tool", 20, 30)]);
        // As long as a name may be, and side by side.
        segments.set(&segment(&long[..MAX_NAME], 10, 20)).unwrap();
        check(&segments);
    }

    #[test]
    fn a_full_table_takes_no_more_but_replaces() {
        let mut segments = Segments::new().unwrap();
        for i in 0..MAX_SEGMENTS as u32 {
            segments.set(&segment(&format!("s{i}"), 2 * i, 2 * i + 1)).unwrap();
        }
        let error = segments.set(&segment("one more", 1000, 1001)).unwrap_err();
        assert!(error.message().contains("the table has 64 segments, expected fewer"), "{error}");
        segments.set(&segment("s7", 1000, 1001)).unwrap();
        check(&segments);
        segments.remove("s9").unwrap();
        segments.set(&segment("one more", 14, 15)).unwrap();
        check(&segments);
    }

    #[test]
    fn a_segment_expires_so_many_tokens_after_its_end() {
        let segments = of(&[
            Segment { ttl: 5, pinned: true, ..segment("reading", 10, 20) },
            Segment { pinned: true, priority: 7, ..segment("prompt", 0, 8) },
            Segment { ttl: u32::MAX, ..segment("late", u32::MAX - 1, u32::MAX) },
        ]);
        let expired = |next_pos| segments.expired(next_pos).map(|s| s.name).collect::<Vec<_>>();
        assert_eq!(expired(24), [""; 0]);
        assert_eq!(expired(25), ["reading"]);
        assert_eq!(expired(u32::MAX), ["reading"]);
        let pos = [7, 8, 9, 10, 19, 20];
        let free = (false, false, 0);
        let prompt = (true, false, 7);
        let (fresh, stale) = ((true, false, 0), (false, true, 0));
        assert_eq!(marks(&segments, 24, &pos), [prompt, free, free, fresh, fresh, free]);
        assert_eq!(marks(&segments, 25, &pos), [prompt, free, free, stale, stale, free]);
        assert!(marks(&segments, 25, &[]).is_empty());
    }

    #[test]
    fn truncation_shortens_and_turns_the_clock_back() {
        let all = [segment("a", 0, 10), Segment { ttl: 5, ..segment("b", 10, 20) }];
        let mut segments = of(&all);
        segments.set(&segment("c", 20, 30)).unwrap();
        segments.truncate(20);
        assert_eq!(segments.iter().collect::<Vec<_>>(), all);
        assert_eq!((segments.expired(25).count(), segments.expired(24).count()), (1, 0));
        segments.truncate(12);
        check(&segments);
        assert_eq!(segments.get("b").unwrap().to, 12);
        assert_eq!((segments.expired(17).count(), segments.expired(16).count()), (1, 0));
        segments.truncate(10);
        assert_eq!(segments.iter().collect::<Vec<_>>(), all[..1]);
        segments.truncate(0);
        assert!(segments.is_empty());
    }

    /// The same table, one position at a time.
    #[derive(Clone, Default)]
    struct Naive {
        /// Of each position, the segment that it is in.
        owner: Vec<Option<String>>,
        /// Name, pinned, priority, and the tokens left to live once the next one is at `next_pos`.
        facts: Vec<(String, bool, i8, Option<i64>)>,
        next_pos: u32,
    }

    impl Naive {
        fn set(&mut self, s: &Segment<'_>) -> bool {
            let taken = self.owner[s.from as usize..(s.to as usize).max(s.from as usize)]
                .iter()
                .any(|owner| owner.as_ref().is_some_and(|name| name != s.name));
            let n_others = self.facts.iter().filter(|fact| fact.0 != s.name).count();
            if s.from >= s.to || taken || n_others == MAX_SEGMENTS {
                return false;
            }
            self.remove(s.name);
            self.owner[s.from as usize..s.to as usize].fill(Some(s.name.to_string()));
            let left = i64::from(s.to) + i64::from(s.ttl) - i64::from(self.next_pos);
            let left = (s.ttl > 0).then_some(left);
            self.facts.push((s.name.to_string(), s.pinned, s.priority, left));
            true
        }

        fn remove(&mut self, name: &str) -> bool {
            let n = self.facts.len();
            self.facts.retain(|fact| fact.0 != name);
            self.owner.iter_mut().filter(|o| o.as_deref() == Some(name)).for_each(|o| *o = None);
            self.facts.len() < n
        }

        /// Segments without a position vanish.
        fn sweep(&mut self) {
            self.facts.retain(|fact| self.owner.iter().any(|o| o.as_ref() == Some(&fact.0)));
        }

        fn advance(&mut self, n: u32) {
            self.next_pos += n;
            self.facts
                .iter_mut()
                .filter_map(|f| f.3.as_mut())
                .for_each(|left| *left -= i64::from(n));
        }

        fn truncate(&mut self, pos: u32) {
            // Time runs back to `pos`; and what is cut off an end brings that end nearer.
            let back = i64::from(self.next_pos) - i64::from(pos.min(self.next_pos));
            for fact in &mut self.facts {
                let owned = |o: &&Option<String>| o.as_ref() == Some(&fact.0);
                let n_cut = self.owner[pos as usize..].iter().filter(owned).count() as i64;
                fact.3 = fact.3.map(|left| left + back - n_cut);
            }
            self.owner[pos as usize..].fill(None);
            self.next_pos = self.next_pos.min(pos);
            self.sweep();
        }
    }

    #[test]
    fn random_histories_are_those_of_a_table_of_positions() {
        const N: usize = 400;
        let mut rng = Rng::new(5);
        let mut random = |n: u64| rng.next_u64() % n;
        let (mut n_set, mut n_refused, mut n_expired) = (0, 0, 0);
        for round in 0..60 {
            let mut naive = Naive { owner: vec![None; N], ..Naive::default() };
            let mut segments = Segments::new().unwrap();
            // In some rounds the table is full, in others there is room.
            let (n_names, longest) = if round % 3 == 0 { (90, 5) } else { (12, 60) };
            for _ in 0..400 {
                match random(16) {
                    0..=8 => {
                        let name = format!("s{}", random(n_names));
                        let from = random(N as u64 - longest) as u32;
                        let segment = Segment {
                            name: &name,
                            from,
                            to: from + random(longest) as u32,
                            pinned: random(2) == 0,
                            priority: random(256) as u8 as i8,
                            ttl: (random(100) as u32).saturating_sub(30),
                        };
                        let is_set = naive.set(&segment);
                        assert_eq!(segments.set(&segment).is_ok(), is_set, "{segment:?}");
                        *(if is_set { &mut n_set } else { &mut n_refused }) += 1;
                    }
                    9 | 10 => {
                        let name = format!("s{}", random(n_names));
                        assert_eq!(segments.remove(&name).is_ok(), naive.remove(&name));
                    }
                    11 if random(4) == 0 => {
                        let pos = (N / 2) as u32 + random(N as u64 / 2) as u32;
                        naive.truncate(pos);
                        segments.truncate(pos);
                    }
                    12 if random(9) == 0 => {
                        let mut other = Segments::new().unwrap();
                        other.copy_from(&segments);
                        segments = other;
                    }
                    _ => naive
                        .advance(random(9).min(N as u64 - 1 - u64::from(naive.next_pos)) as u32),
                }
                check(&segments);
                assert_eq!(segments.len(), naive.facts.len());
                let pos: Vec<u32> = (0..N as u32).filter(|_| random(3) > 0).collect();
                let expected: Vec<_> = pos
                    .iter()
                    .map(|&p| {
                        let Some(name) = &naive.owner[p as usize] else { return (false, false, 0) };
                        let fact = naive.facts.iter().find(|fact| fact.0 == *name).unwrap();
                        let has_expired = fact.3.is_some_and(|left| left <= 0);
                        (fact.1 && !has_expired, has_expired, fact.2)
                    })
                    .collect();
                assert_eq!(marks(&segments, naive.next_pos, &pos), expected);
                let gone = naive.facts.iter().filter(|f| f.3.is_some_and(|left| left <= 0)).count();
                assert_eq!(segments.expired(naive.next_pos).count(), gone);
                n_expired += gone;
            }
        }
        assert!(
            n_set > 5000 && n_refused > 1000 && n_expired > 1000,
            "{n_set} {n_refused} {n_expired}"
        );
    }
}
