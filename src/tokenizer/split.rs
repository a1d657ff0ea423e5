//! Pre-tokenizers: how a text is cut into words before byte-pair encoding.
//!
//! Vocabularies are made with regular expressions for this. Each has a function here that finds the
//! same words by hand in one pass, and quotes the expression; a test compares them with the words
//! that PyPI `tokenizers` finds. A scheme of several expressions applies each to the pieces that the
//! one before left: what it matches, and what lies between two matches, are pieces.

use super::class::*;
use super::pre::Scheme;
use crate::base::error::Result;

impl Scheme {
    /// Cuts a text into words; their concatenation is the text.
    pub(super) fn split(self, text: &str, sink: &mut impl FnMut(&str) -> Result<()>) -> Result<()> {
        match self {
            Scheme::Default => default(text, sink),
            Scheme::DeepseekCoder => deepseek_coder(text, sink),
            Scheme::DeepseekLlm => deepseek_llm(text, sink),
            Scheme::DeepseekV3 => deepseek_v3(text, sink),
            Scheme::Falcon => falcon(text, sink),
            Scheme::Gpt2 => isolate(text, gpt2, sink),
            Scheme::Gpt4o => isolate(text, |t, at| cased(t, at, &GPT4O), sink),
            Scheme::Lines => isolate(text, |t, at| Some(lines(t, at)), sink),
            Scheme::Llama3 => isolate(text, |t, at| words(t, at, &LLAMA3), sink),
            Scheme::Qwen2 => isolate(text, |t, at| words(t, at, &QWEN2), sink),
            Scheme::Qwen35 => isolate(text, |t, at| words(t, at, &QWEN35), sink),
            Scheme::Starcoder => starcoder(text, sink),
            Scheme::Tekken => isolate(text, |t, at| cased(t, at, &TEKKEN), sink),
        }
    }
}

fn is_newline(c: char) -> bool {
    c == '\r' || c == '\n'
}

/// Cuts `text` where `find` matches: `find(text, at)` gives the end of a match that begins at `at`.
/// What lies between two matches is a piece too.
fn isolate(
    text: &str,
    find: impl FnMut(&str, usize) -> Option<usize>,
    sink: &mut impl FnMut(&str) -> Result<()>,
) -> Result<()> {
    isolate_after(text, |_, at| at, find, sink)
}

/// As [`isolate`]; `skip(text, at)` passes characters from `at` on at which no match begins.
fn isolate_after(
    text: &str,
    skip: impl Fn(&str, usize) -> usize,
    mut find: impl FnMut(&str, usize) -> Option<usize>,
    sink: &mut impl FnMut(&str) -> Result<()>,
) -> Result<()> {
    let (mut begin, mut at) = (0, 0);
    loop {
        at = skip(text, at);
        if at >= text.len() {
            return piece(text, begin, text.len(), sink);
        }
        match find(text, at) {
            Some(end) if end > at => {
                piece(text, begin, at, sink)?;
                piece(text, at, end, sink)?;
                (begin, at) = (end, end);
            }
            _ => at = kind_at(text, at).1,
        }
    }
}

/// Passes what is no number.
fn to_number(text: &str, at: usize) -> usize {
    run_not(text, at, NUMBER)
}

/// Passes what is no letter, nor a space that may come before one.
fn to_letter(text: &str, at: usize) -> usize {
    run_not(text, at, SPACE | LETTER)
}

/// Passes what is neither punctuation nor a symbol.
fn to_sign(text: &str, at: usize) -> usize {
    run_not(text, at, PUNCTUATION | SYMBOL)
}

/// Passes ASCII.
fn to_east(text: &str, at: usize) -> usize {
    let rest = text.as_bytes().get(at..).unwrap_or(&[]);
    at.saturating_add(rest.iter().position(|byte| !byte.is_ascii()).unwrap_or(rest.len()))
}

fn piece(
    text: &str,
    begin: usize,
    end: usize,
    sink: &mut impl FnMut(&str) -> Result<()>,
) -> Result<()> {
    match text.get(begin..end) {
        Some(piece) if !piece.is_empty() => sink(piece),
        _ => Ok(()),
    }
}

/// `'s|'t|'re|'ve|'m|'ll|'d`, in capitals too if `any_case`; as in any expression that ignores
/// case, the long s counts as an s.
fn contraction(text: &str, at: usize, any_case: bool) -> Option<usize> {
    if text.as_bytes().get(at) != Some(&b'\'') {
        return None;
    }
    let mut chars = text.get(at.saturating_add(1)..)?.chars();
    let mut next = || {
        let c = chars.next()?;
        let folded = if c == '\u{17f}' { 's' } else { c.to_ascii_lowercase() };
        Some((if any_case { folded } else { c }, c.len_utf8()))
    };
    let (first, len) = next()?;
    let end = at.saturating_add(1).saturating_add(len);
    match first {
        's' | 't' | 'm' | 'd' => Some(end),
        'r' | 'v' | 'l' => {
            let (second, len) = next()?;
            let wanted = if first == 'l' { 'l' } else { 'e' };
            (second == wanted).then_some(end.saturating_add(len))
        }
        _ => None,
    }
}

/// `\s+(?!\S)|\s+`: white space but for the last character, which goes with the word that follows;
/// all of it at the end of the text, or if it is one character.
fn spaces(text: &str, at: usize) -> Option<usize> {
    let end = run_of(text, at, SPACE);
    if end == text.len() {
        return Some(end);
    }
    let last = text.get(at..end)?.chars().next_back()?;
    let but_last = end.saturating_sub(last.len_utf8());
    Some(if but_last > at { but_last } else { end })
}

/// `\s*[\r\n]+`: white space up to its last newline.
fn spaces_to_newline(text: &str, at: usize) -> Option<usize> {
    let end = run_of(text, at, SPACE);
    let last = text.get(at..end)?.rfind(is_newline)?;
    Some(at.saturating_add(last).saturating_add(1))
}

/// Where a word begins that may have a space before it.
fn skip_space(text: &str, at: usize) -> usize {
    if text.as_bytes().get(at) == Some(&b' ') { at.saturating_add(1) } else { at }
}

/// `'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`
fn gpt2(text: &str, at: usize) -> Option<usize> {
    if let Some(end) = contraction(text, at, false) {
        return Some(end);
    }
    let start = skip_space(text, at);
    if start < text.len() {
        let (kind, end) = kind_at(text, start);
        if kind & LETTER != 0 {
            return Some(run_of(text, end, LETTER));
        }
        if kind & NUMBER != 0 {
            return Some(run_of(text, end, NUMBER));
        }
        if kind & SPACE == 0 {
            return Some(run_not(text, end, SPACE | LETTER | NUMBER));
        }
    }
    spaces(text, at)
}

/// `\p{N}`, then [`gpt2`].
fn starcoder(text: &str, sink: &mut impl FnMut(&str) -> Result<()>) -> Result<()> {
    let number = |t: &str, at| number(t, at, 1);
    isolate_after(text, to_number, number, &mut |piece| isolate(piece, gpt2, sink))
}

/// `\p{N}{1,most}`
fn number(text: &str, at: usize, most: usize) -> Option<usize> {
    let mut end = at;
    for _ in 0..most {
        match kind_at(text, end) {
            (NUMBER, next) => end = next,
            _ => break,
        }
    }
    (end > at).then_some(end)
}

/// What tells the schemes like llama3's apart.
struct Words {
    /// What counts as a letter: L, or L and M.
    letters: u8,
    /// Digits in one word.
    digits: usize,
}

/// `(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|`
/// `\s*[\r\n]+|\s+(?!\S)|\s+`
const LLAMA3: Words = Words { letters: LETTER, digits: 3 };
/// As llama3, with `\p{N}` for `\p{N}{1,3}`.
const QWEN2: Words = Words { letters: LETTER, digits: 1 };
/// As qwen2, with `[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+` and ` ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*`.
const QWEN35: Words = Words { letters: LETTER | MARK, digits: 1 };

fn words(text: &str, at: usize, scheme: &Words) -> Option<usize> {
    if let Some(end) = contraction(text, at, true) {
        return Some(end);
    }
    let first = char_at(text, at)?;
    let (kind, end) = kind_at(text, at);
    if kind & scheme.letters != 0 {
        return Some(run_of(text, end, scheme.letters));
    }
    if kind & NUMBER == 0 && !is_newline(first) && kind_at(text, end).0 & scheme.letters != 0 {
        return Some(run_of(text, end, scheme.letters));
    }
    number(text, at, scheme.digits)
        .or_else(|| symbols(text, at, scheme.letters | NUMBER, is_newline))
        .or_else(|| spaces_to_newline(text, at))
        .or_else(|| spaces(text, at))
}

/// ` ?[^\s..]+`, where `..` are the kinds in `but`, then any number of characters that `tail` takes.
fn symbols(text: &str, at: usize, but: u8, tail: impl FnMut(char) -> bool) -> Option<usize> {
    let start = skip_space(text, at);
    let end = run_not(text, start, SPACE | but);
    (end > start).then(|| run(text, end, tail))
}

/// What tells the schemes with cased words apart.
struct Cased {
    contractions: bool,
    digits: usize,
}

/// ```text
/// [^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|..)?|
/// [^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|..)?|
/// \p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+
/// ```
const GPT4O: Cased = Cased { contractions: true, digits: 3 };
/// As gpt-4o, without contractions, and with `\p{N}` for `\p{N}{1,3}`.
const TEKKEN: Cased = Cased { contractions: false, digits: 1 };

fn cased(text: &str, at: usize, scheme: &Cased) -> Option<usize> {
    let first = char_at(text, at)?;
    let (kind, next) = kind_at(text, at);
    let prefix = kind & (LETTER | NUMBER) == 0 && !is_newline(first);
    let with_prefix = |word: fn(&str, usize) -> Option<usize>| {
        prefix.then(|| word(text, next)).flatten().or_else(|| word(text, at))
    };
    if let Some(end) = with_prefix(ends_small).or_else(|| with_prefix(begins_capital)) {
        let longer = if scheme.contractions { contraction(text, end, true) } else { None };
        return longer.or(Some(end));
    }
    number(text, at, scheme.digits)
        .or_else(|| symbols(text, at, LETTER | NUMBER, |c| is_newline(c) || c == '/'))
        .or_else(|| spaces_to_newline(text, at))
        .or_else(|| spaces(text, at))
}

const CAPITAL: u8 = UPPER | OTHER | MARK;
const SMALL: u8 = LOWER | OTHER | MARK;

/// `[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+`
fn ends_small(text: &str, at: usize) -> Option<usize> {
    let capitals = run_of(text, at, CAPITAL);
    let end = run_of(text, capitals, SMALL);
    if end > capitals {
        return Some(end);
    }
    // The first class gives back characters until one that is also of the second.
    let (i, c) = text.get(at..capitals)?.char_indices().rfind(|&(_, c)| kind(c) & SMALL != 0)?;
    Some(at.saturating_add(i).saturating_add(c.len_utf8()))
}

/// `[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*`
fn begins_capital(text: &str, at: usize) -> Option<usize> {
    let capitals = run_of(text, at, CAPITAL);
    (capitals > at).then(|| run_of(text, capitals, SMALL))
}

/// `[^\n]+|[\n]+`
fn lines(text: &str, at: usize) -> usize {
    let newline = char_at(text, at) == Some('\n');
    run(text, at, |c| (c == '\n') == newline)
}

/// ``[\p{P}$+<=>^~|`]+``, then [`gpt2`], then `[0-9][0-9][0-9]`.
fn falcon(text: &str, sink: &mut impl FnMut(&str) -> Result<()>) -> Result<()> {
    isolate_after(text, to_sign, |t, at| punctuation(t, at, "$+<=>^~|`"), &mut |piece| {
        isolate(piece, gpt2, &mut |piece| isolate_after(piece, to_number, three_digits, sink))
    })
}

/// `[\p{P}$+<=>^~|]+`, then [`gpt2`], then `\p{N}+`, then `[0-9][0-9][0-9]`. What files are read
/// with that do not name their scheme.
fn default(text: &str, sink: &mut impl FnMut(&str) -> Result<()>) -> Result<()> {
    isolate_after(text, to_sign, |t, at| punctuation(t, at, "$+<=>^~|"), &mut |piece| {
        isolate(piece, gpt2, &mut |piece| {
            let numbers = |t: &str, at| Some(run_of(t, at, NUMBER));
            isolate_after(piece, to_number, numbers, &mut |piece| {
                isolate_after(piece, to_number, three_digits, sink)
            })
        })
    })
}

/// A run of `\p{P}` and the characters of `more`.
fn punctuation(text: &str, at: usize, more: &str) -> Option<usize> {
    Some(run(text, at, |c| kind(c) & PUNCTUATION != 0 || more.contains(c)))
}

/// `[0-9][0-9][0-9]`
fn three_digits(text: &str, at: usize) -> Option<usize> {
    let digits: &[u8; 3] = text.as_bytes().get(at..)?.first_chunk()?;
    digits.iter().all(u8::is_ascii_digit).then_some(at.saturating_add(3))
}

/// `[\r\n]`
fn newline(text: &str, at: usize) -> Option<usize> {
    char_at(text, at).is_some_and(is_newline).then_some(at.saturating_add(1))
}

/// `\s?` and a run of characters that `test` takes.
fn spaced_run(text: &str, at: usize, test: impl Fn(char) -> bool + Copy) -> Option<usize> {
    let (kind, next) = kind_at(text, at);
    let start = if kind & SPACE != 0 { next } else { at };
    let end = run(text, start, test);
    if end > start {
        return Some(end);
    }
    let end = run(text, at, test); // the white space itself may be of the run
    (end > at).then_some(end)
}

/// `[\r\n]`, then `\s?\p{L}+`, then `\s?\p{P}+`, then `[一-龥ࠀ-一가-퟿]+`, then `\p{N}`.
fn deepseek_coder(text: &str, sink: &mut impl FnMut(&str) -> Result<()>) -> Result<()> {
    let letters = |t: &str, at| spaced_run(t, at, |c| kind(c) & LETTER != 0);
    let marks = |t: &str, at| spaced_run(t, at, |c| kind(c) & PUNCTUATION != 0);
    isolate(text, newline, &mut |piece| {
        isolate_after(piece, to_letter, letters, &mut |piece| {
            isolate(piece, marks, &mut |piece| {
                isolate_after(piece, to_east, east_asian, &mut |piece| {
                    isolate_after(piece, to_number, |t, at| number(t, at, 1), sink)
                })
            })
        })
    })
}

/// `[\r\n]`, then `\s?` and a run of the letters of scripts with cases, then
/// `\s?[!-/:-~！-／：-～‘-‟　-。]+`, then `\s+$`, then `[一-龥ࠀ-一가-퟿]+`, then `\p{N}+`.
fn deepseek_llm(text: &str, sink: &mut impl FnMut(&str) -> Result<()>) -> Result<()> {
    let letters = |t: &str, at| spaced_run(t, at, is_cased_letter);
    let marks = |t: &str, at| {
        spaced_run(
            t,
            at,
            |c| matches!(c, '!'..='/' | ':'..='~' | '！'..='／' | '：'..='～' | '‘'..='‟' | '　'..='。'),
        )
    };
    isolate(text, newline, &mut |piece| {
        isolate_after(piece, to_letter, letters, &mut |piece| {
            isolate(piece, marks, &mut |piece| {
                trailing_space(piece, &mut |piece| {
                    isolate_after(piece, to_east, east_asian, &mut |piece| {
                        isolate_after(piece, to_number, |t, at| Some(run_of(t, at, NUMBER)), sink)
                    })
                })
            })
        })
    })
}

/// `\s+$`
fn trailing_space(text: &str, sink: &mut impl FnMut(&str) -> Result<()>) -> Result<()> {
    let end = text.trim_end_matches(|c| kind(c) & SPACE != 0).len();
    piece(text, 0, end, sink)?;
    piece(text, end, text.len(), sink)
}

/// `[一-龥ࠀ-一가-퟿]+`
fn east_asian(text: &str, at: usize) -> Option<usize> {
    Some(run(text, at, |c| matches!(c, 'ࠀ'..='龥' | '가'..='\u{d7ff}')))
}

/// `\p{N}{1,3}`, then `[一-龥぀-ゟ゠-ヿ]+`, then
/// ```text
/// [!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+|
///  ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+
/// ```
fn deepseek_v3(text: &str, sink: &mut impl FnMut(&str) -> Result<()>) -> Result<()> {
    let cjk = |t: &str, at| Some(run(t, at, |c| matches!(c, '一'..='龥' | '\u{3040}'..='ヿ')));
    isolate_after(text, to_number, |t, at| number(t, at, 3), &mut |piece| {
        isolate_after(piece, to_east, cjk, &mut |piece| isolate(piece, deepseek_word, sink))
    })
}

fn deepseek_word(text: &str, at: usize) -> Option<usize> {
    const WORD: u8 = LETTER | MARK;
    const SIGN: u8 = PUNCTUATION | SYMBOL;
    let first = char_at(text, at)?;
    let (kind, next) = kind_at(text, at);
    if first.is_ascii_punctuation() {
        let end = run(text, next, |c| c.is_ascii_alphabetic());
        if end > next {
            return Some(end);
        }
    }
    if kind & WORD != 0 {
        return Some(run_of(text, next, WORD));
    }
    if kind & SIGN == 0 && !is_newline(first) && kind_at(text, next).0 & WORD != 0 {
        return Some(run_of(text, next, WORD));
    }
    let start = skip_space(text, at);
    let end = run_of(text, start, SIGN);
    if end > start {
        return Some(run(text, end, is_newline));
    }
    spaces_to_newline(text, at).or_else(|| spaces(text, at))
}

/// The letters that deepseek-llm's expression lists, as first and last code points.
#[rustfmt::skip]
const CASED_LETTERS: &[(u32, u32)] = &[
    (0x41, 0x5a), (0x61, 0x7a), (0xb5, 0xb5), (0xc0, 0xd6), (0xd8, 0xf6), (0xf8, 0x1ba),
    (0x1bc, 0x1bf), (0x1c4, 0x293), (0x295, 0x2af), (0x370, 0x373), (0x376, 0x376), (0x377, 0x377),
    (0x37b, 0x37d), (0x37f, 0x37f), (0x386, 0x386), (0x388, 0x38a), (0x38c, 0x38c), (0x38e, 0x3a1),
    (0x3a3, 0x3f5), (0x3f7, 0x481), (0x48a, 0x52f), (0x531, 0x556), (0x10a0, 0x10c5),
    (0x13a0, 0x13f5), (0x13f8, 0x13fd), (0x1c90, 0x1cba), (0x1cbd, 0x1cbf), (0x1d00, 0x1d2b),
    (0x1d6b, 0x1d77), (0x1d79, 0x1d9a), (0x1e00, 0x1f15), (0x1f18, 0x1f1d), (0x1f20, 0x1f45),
    (0x1f48, 0x1f4d), (0x1f50, 0x1f57), (0x1f59, 0x1f59), (0x1f5b, 0x1f5b), (0x1f5d, 0x1f5d),
    (0x1f5f, 0x1f7d), (0x1f80, 0x1fb4), (0x1fb6, 0x1fbc), (0x1fbe, 0x1fbe), (0x1fc2, 0x1fc4),
    (0x1fc6, 0x1fcc), (0x1fd0, 0x1fd3), (0x1fd6, 0x1fdb), (0x1fe0, 0x1fec), (0x1ff2, 0x1ff4),
    (0x1ff6, 0x1ffc), (0x2102, 0x2102), (0x2107, 0x2107), (0x210a, 0x2113), (0x2115, 0x2115),
    (0x2119, 0x211d), (0x2124, 0x2124), (0x2126, 0x2126), (0x2128, 0x2128), (0x212a, 0x212d),
    (0x212f, 0x2134), (0x2139, 0x2139), (0x213c, 0x213f), (0x2145, 0x2149), (0x214e, 0x214e),
    (0x2183, 0x2183), (0x2184, 0x2184), (0x2c00, 0x2c7b), (0x2c7e, 0x2ce4), (0x2ceb, 0x2cee),
    (0x2cf2, 0x2cf2), (0x2cf3, 0x2cf3), (0xa640, 0xa66d), (0xa680, 0xa69b), (0xa722, 0xa76f),
    (0xa771, 0xa787), (0xa78b, 0xa78e), (0xab70, 0xabbf), (0xfb00, 0xfb06), (0xfb13, 0xfb17),
    (0xff21, 0xff3a), (0xff41, 0xff5a), (0x10400, 0x1044f), (0x104b0, 0x104d3), (0x104d8, 0x104fb),
    (0x10c80, 0x10cb2), (0x10cc0, 0x10cf2), (0x118a0, 0x118df), (0x1e900, 0x1e943),
];

fn is_cased_letter(c: char) -> bool {
    let code = u32::from(c);
    let after = CASED_LETTERS.partition_point(|&(first, _)| first <= code);
    let run = after.checked_sub(1).and_then(|i| CASED_LETTERS.get(i));
    run.is_some_and(|&(_, last)| code <= last)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "I'll SAY it's 12345 apples,\n\n  don'T--(x/\n\ty) 漢字かなカナ ÉTÉ iPhone9 e\u{301}a \u{301} ,\u{a0} ½٣! \r\n\u{200d} x_1 \u{3000}。  ";

    /// The words that PyPI `tokenizers` finds in TEXT with the expressions above, "·" between them.
    #[test]
    fn the_words_are_those_that_the_expressions_find() {
        let expected: &[(Scheme, &[&str])] = &[
            (
                Scheme::Default,
                &[
                    "I·'·ll· SAY· it·'·s· ·123·45· apples·,·\n\n · don·'·T·--(·x·/·\n·\t·y·)· 漢字かなカナ·",
                    " ÉTÉ· iPhone·9· e·\u{301}·a· \u{301}· ·,·\u{a0}· ·½٣·!· \r·\n·\u{200d}· x·_·1·",
                    " \u{3000}·。·  ",
                ],
            ),
            (
                Scheme::DeepseekCoder,
                &[
                    "I·'·ll· SAY· it·'·s· ·1·2·3·4·5· apples·,·\n·\n· · don·'·T·--(·x·/·\n·\ty·)· ·",
                    "漢字かなカナ· ÉTÉ· iPhone·9· e·\u{301}·a· \u{301}· ,·\u{a0} ·½·٣·!· ·\r·\n·\u{200d}· x·_·",
                    "1· ·\u{3000}。·  ",
                ],
            ),
            (
                Scheme::DeepseekLlm,
                &[
                    "I·'·ll· SAY· it·'·s· ·12345· apples·,·\n·\n· · don·'·T·--(·x·/·\n·\ty·)· ·漢字かなカナ· É·",
                    "T·É· iPhone·9· e·\u{301}·a· \u{301}· ,·\u{a0} ·½٣·!· ·\r·\n·\u{200d}· x·_·1· ·",
                    "\u{3000}。·  ",
                ],
            ),
            (
                Scheme::DeepseekV3,
                &[
                    "I·'ll· SAY· it·'s· ·123·45· apples·,\n\n· · don·'T·--(·x·/\n·\ty·)· ·漢字かなカナ· ÉTÉ·",
                    " iPhone·9· e\u{301}a· \u{301}· ,·\u{a0} ·½٣·!· \r\n·\u{200d}· x·_·1· ·\u{3000}·。·  ",
                ],
            ),
            (
                Scheme::Falcon,
                &[
                    "I·'·ll· SAY· it·'·s· ·123·45· apples·,·\n\n · don·'·T·--(·x·/·\n·\t·y·)· 漢字かなカナ·",
                    " ÉTÉ· iPhone·9· e·\u{301}·a· \u{301}· ·,·\u{a0}· ½٣·!· \r·\n·\u{200d}· x·_·1·",
                    " \u{3000}·。·  ",
                ],
            ),
            (
                Scheme::Gpt2,
                &[
                    "I·'ll· SAY· it·'s· 12345· apples·,·\n\n · don·'·T·--(·x·/·\n·\t·y·)· 漢字かなカナ· ÉTÉ·",
                    " iPhone·9· e·\u{301}·a· \u{301}· ,·\u{a0}· ½٣·!· \r·\n·\u{200d}· x·_·1· ·\u{3000}·。·",
                    "  ",
                ],
            ),
            (
                Scheme::Gpt4o,
                &[
                    "I'll· SAY· it's· ·123·45· apples·,\n\n· · don'T·--(·x·/\n·\ty·)· 漢字かなカナ· ÉTÉ· i·",
                    "Phone·9· e\u{301}a· \u{301}· ,·\u{a0}· ·½٣·!· \r\n·\u{200d}· x·_·1· ·\u{3000}·。·  ",
                ],
            ),
            (
                Scheme::Llama3,
                &[
                    "I·'ll· SAY· it·'s· ·123·45· apples·,\n\n· · don·'T·--(·x·/\n·\ty·)· 漢字かなカナ· ÉTÉ·",
                    " iPhone·9· e·\u{301}a· \u{301}· ,·\u{a0}· ·½٣·!· \r\n·\u{200d}· x·_·1· ·\u{3000}·。·",
                    "  ",
                ],
            ),
            (
                Scheme::Qwen2,
                &[
                    "I·'ll· SAY· it·'s· ·1·2·3·4·5· apples·,\n\n· · don·'T·--(·x·/\n·\ty·)· 漢字かなカナ· ÉTÉ·",
                    " iPhone·9· e·\u{301}a· \u{301}· ,·\u{a0}· ·½·٣·!· \r\n·\u{200d}· x·_·1· ·\u{3000}·。·",
                    "  ",
                ],
            ),
            (
                Scheme::Qwen35,
                &[
                    "I·'ll· SAY· it·'s· ·1·2·3·4·5· apples·,\n\n· · don·'T·--(·x·/\n·\ty·)· 漢字かなカナ· ÉTÉ·",
                    " iPhone·9· e\u{301}a· \u{301}· ,·\u{a0}· ·½·٣·!· \r\n·\u{200d}· x·_·1· ·\u{3000}·。·",
                    "  ",
                ],
            ),
            (
                Scheme::Starcoder,
                &[
                    "I·'ll· SAY· it·'s· ·1·2·3·4·5· apples·,·\n\n · don·'·T·--(·x·/·\n·\t·y·)· 漢字かなカナ·",
                    " ÉTÉ· iPhone·9· e·\u{301}·a· \u{301}· ,·\u{a0} ·½·٣·!· \r·\n·\u{200d}· x·_·1· ·",
                    "\u{3000}·。·  ",
                ],
            ),
            (
                Scheme::Tekken,
                &[
                    "I·'ll· SAY· it·'s· ·1·2·3·4·5· apples·,\n\n· · don·'T·--(·x·/\n·\ty·)· 漢字かなカナ· ÉTÉ·",
                    " i·Phone·9· e\u{301}a· \u{301}· ,·\u{a0}· ·½·٣·!· \r\n·\u{200d}· x·_·1· ·\u{3000}·。·",
                    "  ",
                ],
            ),
        ];
        for (scheme, words) in expected {
            let mut found = Vec::new();
            let sink = &mut |word: &str| {
                found.push(word.to_string());
                Ok(())
            };
            scheme.split(TEXT, sink).unwrap();
            assert_eq!(found.join("·"), words.concat(), "{scheme:?}");
        }
    }

    #[test]
    fn a_long_s_is_an_s_where_case_does_not_matter() {
        for (scheme, expected) in [
            (Scheme::Llama3, "x·'\u{17f}·foo· y·'S·foo"),
            (Scheme::Gpt4o, "x'\u{17f}·foo· y'S·foo"),
            (Scheme::Gpt2, "x·'·\u{17f}foo· y·'·Sfoo"),
        ] {
            let mut found = Vec::new();
            let sink = &mut |word: &str| {
                found.push(word.to_string());
                Ok(())
            };
            scheme.split("x'\u{17f}foo y'Sfoo", sink).unwrap();
            assert_eq!(found.join("·"), expected);
        }
    }

    #[test]
    fn the_words_of_any_text_are_the_text() {
        let schemes = [
            Scheme::Default,
            Scheme::DeepseekCoder,
            Scheme::DeepseekLlm,
            Scheme::DeepseekV3,
            Scheme::Falcon,
            Scheme::Gpt2,
            Scheme::Gpt4o,
            Scheme::Lines,
            Scheme::Llama3,
            Scheme::Qwen2,
            Scheme::Qwen35,
            Scheme::Starcoder,
            Scheme::Tekken,
        ];
        let chars: Vec<char> = TEXT.chars().collect();
        let mut state = 1u64;
        for _ in 0..2000 {
            let mut text = String::new();
            for _ in 0..state % 7 + 1 {
                state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                text.push(chars[(state >> 33) as usize % chars.len()]);
            }
            for scheme in schemes {
                let mut joined = String::new();
                let sink = &mut |word: &str| {
                    assert!(!word.is_empty());
                    joined.push_str(word);
                    Ok(())
                };
                scheme.split(&text, sink).unwrap();
                assert_eq!(joined, text, "{scheme:?}");
            }
        }
    }

    #[test]
    fn what_is_passed_over_begins_no_match() {
        for code in 0..0x110000 {
            let Some(c) = char::from_u32(code) else { continue };
            assert!(!is_cased_letter(c) || kind(c) & LETTER != 0, "{c:?}");
            assert!(!"$+<=>^~|`".contains(c) || kind(c) == SYMBOL, "{c:?}");
        }
    }
}
