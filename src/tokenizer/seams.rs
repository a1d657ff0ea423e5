//! Where a text can be cut before its pieces are merged, so that no merge is lost.
//!
//! A merge makes a token, so where two bytes meet that are neighbours in no token, nothing is ever
//! merged across, and what lies on either side has the same tokens alone. In real vocabularies
//! spaces occur almost only at the beginning of tokens, and newlines only beside newlines: text
//! falls into words, and words repeat.

use crate::base::error::Result;

/// A set of bytes.
type Bytes = [bool; 256];

/// Which bytes are neighbours of a space or of a newline in some token.
pub(super) struct Seams {
    before_space: Bytes,
    before_newline: Bytes,
    after_newline: Bytes,
}

impl Seams {
    /// No tokens yet: text may be cut beside every space and newline.
    pub(super) fn new() -> Seams {
        Seams {
            before_space: [false; 256],
            before_newline: [false; 256],
            after_newline: [false; 256],
        }
    }

    /// Takes a token in.
    pub(super) fn close(&mut self, token: &[u8]) {
        for (&left, &right) in token.iter().zip(token.iter().skip(1)) {
            match right {
                b' ' => mark(&mut self.before_space, left),
                b'\n' => mark(&mut self.before_newline, left),
                _ if left == b'\n' => mark(&mut self.after_newline, right),
                _ => {}
            }
        }
    }

    /// Cuts a text wherever it may be; the concatenation of the parts is the text.
    pub(super) fn split(
        &self,
        text: &str,
        sink: &mut impl FnMut(&str) -> Result<()>,
    ) -> Result<()> {
        let mut rest = text;
        while let Some((part, after)) = rest.split_at_checked(self.first(rest.as_bytes())) {
            if part.is_empty() {
                break;
            }
            sink(part)?;
            rest = after;
        }
        Ok(())
    }

    /// The end of the part that begins the text: where it may first be cut, or its own end. Always
    /// the boundary of a character.
    fn first(&self, text: &[u8]) -> usize {
        let has = |set: &Bytes, byte: u8| set.get(usize::from(byte)).copied().unwrap_or(true);
        let Some(&(mut left)) = text.first() else { return 0 };
        for (i, &right) in (1..text.len()).zip(text.iter().skip(1)) {
            let closed = match right {
                b' ' => has(&self.before_space, left),
                b'\n' => has(&self.before_newline, left),
                // A byte that continues a character follows no newline.
                _ if left == b'\n' => has(&self.after_newline, right),
                _ => true,
            };
            if !closed {
                return i;
            }
            left = right;
        }
        text.len()
    }
}

fn mark(set: &mut Bytes, byte: u8) {
    if let Some(mark) = set.get_mut(usize::from(byte)) {
        *mark = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_cut_where_no_token_joins() {
        let mut seams = Seams::new();
        for token in [&b" a"[..], b"  ", b"\n\n", b"\n\t", b"x y"] {
            seams.close(token);
        }
        let parts = |text: &str| {
            let mut parts = Vec::new();
            let sink = &mut |part: &str| {
                parts.push(part.to_string());
                Ok(())
            };
            seams.split(text, sink).unwrap();
            parts.join("|")
        };
        assert_eq!(parts("a ab   b"), "a| ab|   b");
        assert_eq!(parts("ax y z"), "ax y| z");
        assert_eq!(parts("a\n\n\ta\n\u{e9} \n"), "a|\n\n\ta|\n|\u{e9}| |\n");
        assert_eq!(parts("\u{a0} \u{e9}"), "\u{a0}| \u{e9}");
    }
}
