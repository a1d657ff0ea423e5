//! Text as it is generated: pieces of bytes in, whole characters out.

/// Puts pieces of UTF-8 together, for tokens may end inside a character.
///
/// What comes out, all pushes and the flush together, is what `String::from_utf8_lossy` makes of
/// all bytes together: each malformed sequence becomes one U+FFFD. At most three bytes are held
/// back. Nothing is allocated, and a decoder can be copied to look ahead.
#[derive(Clone, Copy, Debug, Default)]
pub struct StreamDecoder {
    /// The beginning of a character.
    held: [u8; 4],
    n_held: u8,
}

const REPLACEMENT: &str = "\u{fffd}";

impl StreamDecoder {
    /// A decoder that holds nothing.
    pub fn new() -> StreamDecoder {
        StreamDecoder::default()
    }

    /// Takes bytes, and gives `sink` what is complete, in one or more parts.
    pub fn push(&mut self, bytes: &[u8], sink: &mut dyn FnMut(&str)) {
        let mut rest = bytes;
        while self.n_held > 0 {
            let Some((&byte, after)) = rest.split_first() else { return };
            if !self.extend(byte, sink) {
                break; // the character ended before `byte`
            }
            rest = after;
        }
        let mut chunks = rest.utf8_chunks().peekable();
        while let Some(chunk) = chunks.next() {
            if !chunk.valid().is_empty() {
                sink(chunk.valid());
            }
            let invalid = chunk.invalid();
            if invalid.is_empty() {
                continue;
            }
            let incomplete = std::str::from_utf8(invalid).is_err_and(|e| e.error_len().is_none());
            if incomplete && chunks.peek().is_none() {
                self.hold(invalid);
            } else {
                sink(REPLACEMENT);
            }
        }
    }

    /// Ends the text: what is held, if anything, will never be a character.
    pub fn flush(&mut self, sink: &mut dyn FnMut(&str)) {
        if self.n_held > 0 {
            self.n_held = 0;
            sink(REPLACEMENT);
        }
    }

    /// Bytes held back: 0 to 3.
    pub fn n_held(&self) -> usize {
        usize::from(self.n_held)
    }

    /// Adds a byte to the held ones; false if it does not belong to them.
    fn extend(&mut self, byte: u8, sink: &mut dyn FnMut(&str)) -> bool {
        let n = self.n_held();
        let Some(slot) = self.held.get_mut(n) else { return false };
        *slot = byte;
        match std::str::from_utf8(self.held.get(..=n).unwrap_or(&[])) {
            Ok(text) => {
                sink(text);
                self.n_held = 0;
                true
            }
            Err(error) if error.error_len().is_none() => {
                self.n_held = self.n_held.saturating_add(1);
                true
            }
            Err(_) => {
                sink(REPLACEMENT);
                self.n_held = 0;
                false
            }
        }
    }

    /// Holds an incomplete character, which is at most three bytes.
    fn hold(&mut self, bytes: &[u8]) {
        for (slot, &byte) in self.held.iter_mut().zip(bytes) {
            *slot = byte;
        }
        self.n_held = bytes.len().min(3) as u8;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(pieces: &[&[u8]]) -> String {
        let mut text = String::new();
        let mut decoder = StreamDecoder::new();
        for piece in pieces {
            decoder.push(piece, &mut |part| text.push_str(part));
            assert!(decoder.n_held() <= 3);
        }
        decoder.flush(&mut |part| text.push_str(part));
        text
    }

    #[test]
    fn a_character_comes_out_when_it_is_whole() {
        let mut parts = Vec::new();
        let mut decoder = StreamDecoder::new();
        for byte in "é😀".bytes() {
            decoder.push(&[byte], &mut |part| parts.push(part.to_string()));
        }
        assert_eq!(parts, ["é", "😀"]);
        decoder.flush(&mut |part| parts.push(part.to_string()));
        assert_eq!(parts.len(), 2);
    }

    #[test]
    fn any_cut_of_any_bytes_reads_as_from_utf8_lossy_reads_them() {
        // Bytes that make every kind of sequence: ASCII, continuations, leads, never-valid ones.
        const BYTES: [u8; 16] = [
            0x00, 0x61, 0x7f, 0x80, 0x90, 0x9f, 0xa0, 0xbf, 0xc0, 0xc3, 0xe0, 0xe2, 0xed, 0xf0,
            0xf4, 0xff,
        ];
        let mut state = 1u64;
        let mut random = |n: usize| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 33) as usize % n
        };
        for _ in 0..20_000 {
            let bytes: Vec<u8> = (0..random(12)).map(|_| BYTES[random(16)]).collect();
            let mut pieces = Vec::new();
            let mut rest = &bytes[..];
            while !rest.is_empty() {
                let (piece, after) = rest.split_at(random(rest.len() + 1));
                pieces.push(piece);
                rest = after;
            }
            assert_eq!(decode(&pieces), String::from_utf8_lossy(&bytes), "{pieces:x?}");
        }
    }
}
