//! What kind of character each is, and runs of characters of some kinds.

use super::unicode::RUNS;

// Kinds of characters, one bit each. The table of unicode.rs is made of them.
pub(super) const UPPER: u8 = 0x01; // Lu, Lt
pub(super) const LOWER: u8 = 0x02; // Ll
pub(super) const OTHER: u8 = 0x04; // Lm, Lo
pub(super) const MARK: u8 = 0x08; // M
pub(super) const NUMBER: u8 = 0x10; // N
pub(super) const PUNCTUATION: u8 = 0x20; // P
pub(super) const SYMBOL: u8 = 0x40; // S
pub(super) const SPACE: u8 = 0x80; // White_Space
pub(super) const LETTER: u8 = UPPER | LOWER | OTHER;

/// The kinds of ASCII.
static ASCII: [u8; 128] = ascii();

#[allow(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    reason = "evaluated when it is compiled"
)]
const fn ascii() -> [u8; 128] {
    let (mut kinds, mut code, mut run) = ([0; 128], 0, 0);
    while code < kinds.len() {
        while RUNS[run + 1] >> 8 <= code as u32 {
            run += 1;
        }
        kinds[code] = RUNS[run] as u8;
        code += 1;
    }
    kinds
}

/// The kind of a character: one of the bits above, or 0 (controls, formats, unassigned).
#[inline]
pub(super) fn kind(c: char) -> u8 {
    match ASCII.get(c as usize) {
        Some(&kind) => kind,
        None => kind_beyond_ascii(c),
    }
}

fn kind_beyond_ascii(c: char) -> u8 {
    let code = u32::from(c);
    let after = RUNS.partition_point(|&run| run >> 8 <= code);
    after.checked_sub(1).and_then(|i| RUNS.get(i)).map_or(0, |&run| run as u8)
}

/// The character that begins at byte `at`.
pub(super) fn char_at(text: &str, at: usize) -> Option<char> {
    text.get(at..)?.chars().next()
}

/// The kind of the character that begins at byte `at`, and where it ends; past the end, (0, at).
#[inline]
pub(super) fn kind_at(text: &str, at: usize) -> (u8, usize) {
    match text.as_bytes().get(at) {
        None => (0, at),
        Some(&byte) => match ASCII.get(usize::from(byte)) {
            Some(&kind) => (kind, at.saturating_add(1)),
            None => kind_of_char_at(text, at),
        },
    }
}

/// The same of any character. In one copy: where `kind_at` is, there are many, mostly for ASCII.
#[inline(never)]
fn kind_of_char_at(text: &str, at: usize) -> (u8, usize) {
    char_at(text, at).map_or((0, at), |c| (kind_beyond_ascii(c), at.saturating_add(c.len_utf8())))
}

/// The end of the run of characters from `at` on that satisfy `test`.
pub(super) fn run(text: &str, at: usize, mut test: impl FnMut(char) -> bool) -> usize {
    let rest = text.get(at..).unwrap_or("");
    at.saturating_add(rest.find(|c| !test(c)).unwrap_or(rest.len()))
}

/// The end of the run of characters of some kinds.
#[inline]
pub(super) fn run_of(text: &str, at: usize, kinds: u8) -> usize {
    run_of_kind(text, at, |kind| kind & kinds != 0)
}

/// The end of the run of characters of none of these kinds.
#[inline]
pub(super) fn run_not(text: &str, at: usize, kinds: u8) -> usize {
    run_of_kind(text, at, |kind| kind & kinds == 0)
}

#[inline]
fn run_of_kind(text: &str, mut at: usize, test: impl Fn(u8) -> bool) -> usize {
    loop {
        let (kind, next) = kind_at(text, at);
        if next == at || !test(kind) {
            return at;
        }
        at = next;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_character_has_the_kind_of_its_category() {
        for (c, expected) in [
            ('a', LOWER),
            ('Z', UPPER),
            ('ǅ', UPPER),
            ('ª', OTHER),
            ('漢', OTHER),
            ('\u{301}', MARK),
            ('½', NUMBER),
            ('٣', NUMBER),
            ('_', PUNCTUATION),
            ('$', SYMBOL),
            ('\u{85}', SPACE),
            ('\u{3000}', SPACE),
            ('\u{200d}', 0),
            ('\0', 0),
            ('\u{10ffff}', 0),
        ] {
            assert_eq!(kind(c), expected, "{c:?}");
        }
        for code in 0..0x110000 {
            let Some(c) = char::from_u32(code) else { continue };
            assert_eq!(kind(c) == SPACE, c.is_whitespace(), "{c:?}");
            assert!(kind(c).count_ones() <= 1);
        }
    }
}
