//! The stretches of text that are measured.

use std::path::Path;

use tern::base::rng::Rng;
use tern::engine::Model;

use super::super::args::{Failure, Result};
use super::super::prompt;

/// A text as tokens.
pub(crate) struct Text {
    /// The file's name without its folder and ending.
    pub(crate) name: String,
    /// Its tokens, without those that a model begins a text with.
    tokens: Vec<i32>,
}

/// Tokens that are measured together.
pub(crate) struct Segment {
    /// Which text they are from.
    pub(crate) text: usize,
    /// The tokens, with what the model begins a text with.
    pub(crate) tokens: Vec<i32>,
}

impl Text {
    /// Reads a file.
    pub(crate) fn read(model: &Model, path: &Path) -> Result<Text> {
        let text = prompt::read_text(path)?;
        let mut tokens = Vec::new();
        model.tokenizer().tokenize(&text, false, false, &mut tokens)?;
        let name = path.file_stem().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
        Ok(Text { name, tokens })
    }

    /// `n` stretches of `len` tokens. The text is divided into as many equal parts, and each
    /// stretch lies somewhere in its own: they are spread over the text and do not overlap.
    pub(crate) fn stretches(&self, n: usize, len: usize, rng: &mut Rng) -> Result<Vec<&[i32]>> {
        let part = self.tokens.len() / n;
        if part < len {
            return Err(Failure::Usage(format!(
                "{}: the text has {} tokens, expected {n} times {len} or more",
                self.name,
                self.tokens.len(),
            )));
        }
        let starts = (0..n).map(|i| i * part + below(rng, part - len + 1));
        Ok(starts.map(|start| &self.tokens[start..start + len]).collect())
    }
}

/// `n` segments of each text, each of `len` tokens with what the model begins a text with.
pub(crate) fn choose(
    model: &Model,
    texts: &[Text],
    n: usize,
    len: usize,
    seed: u64,
) -> Result<Vec<Segment>> {
    let mut segments = Vec::new();
    for (i, text) in texts.iter().enumerate() {
        // Each text by a sequence of its own: what is measured of it does not depend on the others.
        let mut rng = Rng::new(seed);
        let begin = beginning(model);
        for stretch in text.stretches(n, len - begin.len(), &mut rng)? {
            segments.push(Segment { text: i, tokens: [&begin, stretch].concat() });
        }
    }
    Ok(segments)
}

/// What the model begins a text with: a token or none.
pub(crate) fn beginning(model: &Model) -> Vec<i32> {
    let tokenizer = model.tokenizer();
    tokenizer.bos().filter(|_| tokenizer.adds_bos()).into_iter().collect()
}

/// A number below `n`, each as likely as the others but for a part in 2^32 or less.
pub(crate) fn below(rng: &mut Rng, n: usize) -> usize {
    (rng.next_u64() % n.max(1) as u64) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stretches_are_spread_and_apart() {
        let text = Text { name: "text".into(), tokens: (0..1000).collect() };
        for seed in 0..20 {
            let stretches = text.stretches(8, 100, &mut Rng::new(seed)).unwrap();
            for (i, stretch) in stretches.iter().enumerate() {
                assert_eq!(stretch.len(), 100);
                let (first, last) = (stretch[0] as usize, stretch[99] as usize);
                assert!(i * 125 <= first && last < (i + 1) * 125);
            }
        }
        assert!(text.stretches(1, 1000, &mut Rng::new(1)).is_ok());
        assert!(text.stretches(1, 1001, &mut Rng::new(1)).is_err());
        assert!(text.stretches(8, 126, &mut Rng::new(1)).is_err());
    }
}
