//! The two alphabets in which files spell tokens, and the way back from them to bytes.

/// U+2581, which stands for a space.
pub(super) const SPACE_MARK: &str = "\u{2581}";

/// How a file spells its tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Spelling {
    /// UTF-8, with U+2581 for a space.
    Spaced,
    /// One character for each byte.
    Bytes,
}

impl Spelling {
    /// A token's text as bytes, where that is easy: whether a space comes first, and what follows
    /// it, all printable ASCII. None: the other functions here know.
    #[inline]
    pub(super) fn easy(self, text: &[u8]) -> Option<(bool, &[u8])> {
        let (space, rest) = match (self, text) {
            (Spelling::Spaced, [0xe2, 0x96, 0x81, rest @ ..]) => (true, rest), // U+2581
            (Spelling::Bytes, [0xc4, 0xa0, rest @ ..]) => (true, rest),        // U+0120
            _ => (false, text),
        };
        is_printable(rest).then_some((space, rest))
    }
}

/// Whether all bytes are from 0x21 to 0x7e: those stand for themselves in either alphabet.
#[inline]
fn is_printable(bytes: &[u8]) -> bool {
    /// Eight bytes at a time; the high bit of some byte is set if one is not printable.
    fn bad(word: u64) -> u64 {
        const EACH: u64 = u64::MAX / 255;
        let del = word.wrapping_add(EACH); // if all are ASCII, sets the high bit of 0x7f alone
        let low = word.wrapping_sub(EACH * 0x21) & !word; // borrows from the first below 0x21
        (word | del | low) & (EACH * 0x80)
    }
    let mut words = bytes.chunks_exact(8);
    let mut any = 0;
    for word in &mut words {
        any |= <[u8; 8]>::try_from(word).map_or(u64::MAX, |word| bad(u64::from_le_bytes(word)));
    }
    let mut last = 0x2121_2121_2121_2121;
    for &byte in words.remainder() {
        last = last << 8 | u64::from(byte);
    }
    any | bad(last) == 0
}

/// The byte that "<0x41>" names.
pub(super) fn byte_of(text: &str) -> Option<u8> {
    let hex = text.strip_prefix("<0x")?.strip_suffix('>')?;
    if hex.len() != 2 || !hex.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    u8::from_str_radix(hex, 16).ok()
}

/// Whether U+2581 occurs in a text. Quick where its first byte does not.
pub(super) fn has_mark(text: &str) -> bool {
    text.as_bytes().contains(&0xe2) && text.contains(SPACE_MARK)
}

/// Appends `text` with each U+2581 turned into the space it stands for. The caller has reserved.
pub(super) fn mark_to_space(text: &str, out: &mut Vec<u8>) {
    if !has_mark(text) {
        return out.extend_from_slice(text.as_bytes());
    }
    let mut parts = text.split(SPACE_MARK);
    out.extend_from_slice(parts.next().unwrap_or("").as_bytes());
    for part in parts {
        out.push(b' ');
        out.extend_from_slice(part.as_bytes());
    }
}

/// Appends the bytes that the characters of `text` stand for in byte-level BPE; or, when one of
/// them stands for none, appends nothing and returns false. The caller has reserved.
///
/// The printable characters of Latin-1 stand for themselves; the 68 other bytes, in their order,
/// are the characters from U+0100 on.
pub(super) fn undo_bytes(text: &str, out: &mut Vec<u8>) -> bool {
    let begin = out.len();
    for c in text.chars() {
        let byte = match u32::from(c) {
            code @ (0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff) => code,
            code @ 0x100..=0x120 => code.saturating_sub(0x100), // 0x00 to 0x20
            code @ 0x121..=0x142 => code.saturating_sub(0x121 - 0x7f), // 0x7f to 0xa0
            0x143 => 0xad,
            _ => {
                out.truncate(begin);
                return false;
            }
        };
        out.push(byte as u8); // every arm gives less than 256
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_is_printable_or_not_at_every_place() {
        for len in 0..20 {
            assert!(is_printable(&vec![b'!'; len]) && is_printable(&vec![b'~'; len]));
            for at in 0..len {
                for byte in 0..=255u8 {
                    let mut bytes = vec![b'x'; len];
                    bytes[at] = byte;
                    assert_eq!(is_printable(&bytes), (0x21..=0x7e).contains(&byte), "{bytes:?}");
                }
            }
        }
    }

    #[test]
    fn the_easy_way_is_the_long_way() {
        for text in ["", "a", "\u{2581}", "\u{2581}ab", "\u{120}ab", "\u{120}", "ab\u{120}", "a b"]
        {
            let join = |(space, rest): (bool, &[u8])| {
                let space: &[u8] = if space { b" " } else { b"" };
                [space, rest].concat()
            };
            let mut bytes = Vec::new();
            mark_to_space(text, &mut bytes);
            if let Some(easy) = Spelling::Spaced.easy(text.as_bytes()).map(join) {
                assert_eq!(easy, bytes);
            }
            bytes.clear();
            let spelt = undo_bytes(text, &mut bytes);
            if let Some(easy) = Spelling::Bytes.easy(text.as_bytes()).map(join) {
                assert!(spelt && easy == bytes);
            }
        }
        assert_eq!(Spelling::Spaced.easy("\u{2581}ab".as_bytes()), Some((true, &b"ab"[..])));
        assert_eq!(Spelling::Bytes.easy("\u{120}ab".as_bytes()), Some((true, &b"ab"[..])));
        assert_eq!(Spelling::Bytes.easy(b"a b"), None);
    }
}
