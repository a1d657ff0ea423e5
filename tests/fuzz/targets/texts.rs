//! Vocabularies, text to tokens, and tokens to text.

use std::fmt::Debug;
use std::sync::OnceLock;

use arbitrary::{Result, Unstructured};
use tern::base::file::Source;
use tern::gguf::Gguf;
use tern::tokenizer::{StreamDecoder, Tables, Tokenizer};

use super::noise;
use crate::memory;
use crate::models::spm_tokens;
use crate::support::tiny::Tiny;

/// One name of every scheme that cuts text before bytes are merged.
const PRES: [&str; 16] = [
    "default",
    "llama-bpe",
    "glm4",
    "dbrx",
    "gpt-2",
    "qwen2",
    "qwen35",
    "smollm",
    "deepseek-llm",
    "deepseek-coder",
    "deepseek-v3",
    "falcon",
    "gpt-4o",
    "tekken",
    "smollm3",
    "refact",
];

/// A vocabulary that owns its texts.
#[derive(Clone)]
struct Made {
    model: Vec<u8>,
    pre: Vec<u8>,
    tokens: Vec<Vec<u8>>,
    scores: Vec<f32>,
    types: Vec<i32>,
    merges: Vec<Vec<u8>>,
    ids: [Option<u32>; 3],
    ends: Vec<u32>,
    adds: [Option<bool>; 3],
    strips: bool,
}

impl Made {
    /// That of the tiny models: 256 bytes, merges, and control tokens; and two that a user defined.
    fn bytes(pre: &str) -> Made {
        let file = Tiny { n_embd: 32, n_layer: 1, n_ff: 32, ..Tiny::new("llama") }.gguf();
        let gguf = Gguf::parse(&Source::from_memory(&file)).unwrap();
        let metadata = gguf.metadata();
        let texts =
            |key: &str| metadata.strings(key).unwrap().unwrap().map(<[u8]>::to_vec).collect();
        let mut tokens: Vec<Vec<u8>> = texts("tokenizer.ggml.tokens");
        let mut types = metadata.i32s("tokenizer.ggml.token_type").unwrap().unwrap();
        tokens.extend([b"<tool>".to_vec(), "  \u{e9}".into()]);
        types.extend([4, 4]);
        Made {
            model: b"gpt2".into(),
            pre: pre.into(),
            scores: vec![0.0; tokens.len()],
            merges: texts("tokenizer.ggml.merges"),
            ids: [Some(286), Some(286), None],
            ends: vec![287],
            adds: [None, None, None],
            strips: false,
            tokens,
            types,
        }
    }

    /// That of SentencePiece, or, with merges in place of scores, that of Gemma 4.
    fn spaced(model: &str) -> Made {
        let pieces = spm_tokens();
        let mut made = Made {
            model: model.into(),
            pre: Vec::new(),
            tokens: pieces.iter().map(|piece| piece.0.clone().into_bytes()).collect(),
            scores: pieces.iter().map(|piece| piece.1).collect(),
            types: pieces.iter().map(|piece| piece.2).collect(),
            merges: ["t h", "th e", "\u{2581} t", "h e", "i n"]
                .map(|m| m.as_bytes().to_vec())
                .into(),
            ids: [Some(1), Some(2), Some(0)],
            ends: Vec::new(),
            adds: [None, Some(true), None],
            strips: false,
        };
        let further = ["in", "e", "t", "h", "i", "n", "th", "he", "the", "\u{2581}t"];
        for text in further.map(|text| text.as_bytes().to_vec()) {
            if !made.tokens.contains(&text) {
                made.tokens.push(text);
                made.scores.push(-40.0);
                made.types.push(1);
            }
        }
        made.tokens.push(b"<tool>".into());
        made.scores.push(0.0);
        made.types.push(4);
        made
    }

    fn load(&self) -> tern::Result<Tokenizer> {
        let lossy =
            |bytes: &[u8]| std::str::from_utf8(bytes).map(str::to_owned).unwrap_or_default();
        let (model, pre) = memory::outside(|| (lossy(&self.model), lossy(&self.pre)));
        let copies =
            memory::outside(|| (self.scores.clone(), self.types.clone(), self.ends.clone()));
        let (scores, types, ends) = copies;
        let made = Tokenizer::new(Tables {
            model: &model,
            pre: &pre,
            n_tokens: self.tokens.len(),
            tokens: self.tokens.iter().map(Vec::as_slice),
            scores,
            types,
            n_merges: self.merges.len(),
            merges: self.merges.iter().map(Vec::as_slice),
            bos: self.ids[0],
            eos: self.ids[1],
            unk: self.ids[2],
            ends,
            add_bos: self.adds[0],
            add_eos: self.adds[1],
            add_space_prefix: self.adds[2],
            strip_after_special: self.strips,
        });
        memory::outside(|| drop((model, pre)));
        made
    }
}

fn bases() -> &'static [Made] {
    static BASES: OnceLock<Vec<Made>> = OnceLock::new();
    BASES.get_or_init(|| {
        let spaced = ["llama", "gemma4"].map(Made::spaced);
        PRES.iter().map(|pre| Made::bytes(pre)).chain(spaced).collect()
    })
}

fn tokenizers() -> &'static [Tokenizer] {
    static TOKENIZERS: OnceLock<Vec<Tokenizer>> = OnceLock::new();
    TOKENIZERS.get_or_init(|| {
        bases().iter().map(|made| made.load().unwrap_or_else(|e| panic!("{e}"))).collect()
    })
}

fn ids(tokenizer: &Tokenizer, text: &str, flags: u8) -> tern::Result<Vec<i32>> {
    memory::call_eq(|| {
        let mut out = Vec::new();
        tokenizer.tokenize(text, flags & 1 == 1, flags & 2 == 2, &mut out)?;
        Ok(out)
    })
}

fn text_of(tokenizer: &Tokenizer, tokens: &[i32]) -> tern::Result<Vec<u8>> {
    memory::call_eq(|| {
        let mut out = Vec::new();
        tokenizer.detokenize(tokens, &mut out)?;
        Ok(out)
    })
}

/// What must hold of every vocabulary and every text.
fn use_both(tokenizer: &Tokenizer, text: &str, flags: u8) {
    let Ok(tokens) = ids(tokenizer, text, flags) else { return };
    let n = tokenizer.n_vocab();
    assert!(tokens.iter().all(|&t| (0..n as i64).contains(&i64::from(t))), "a token that is none");
    if flags & 3 == 0 {
        assert!(!tokens.iter().any(|&t| tokenizer.is_control(t)), "text became a control token");
    }
    text_of(tokenizer, &tokens).unwrap_or_else(|e| panic!("tokens of a text: {e}"));
}

/// A name for bytes that are UTF-8, else what can be read of them.
fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Loads an edited vocabulary, and uses it.
pub fn vocabulary(input: &[u8]) {
    let mut u = Unstructured::new(input);
    let Ok(made) = edited(&mut u) else { return };
    let text = text(u.take_rest());
    let is_same = |a: &Tokenizer, b: &Tokenizer| a.heap_bytes() == b.heap_bytes();
    let Ok(tokenizer) = memory::call(|| made.load(), is_same) else { return };
    assert_eq!(tokenizer.n_vocab(), made.tokens.len());
    for token in -1..=tokenizer.n_vocab() as i32 {
        let _ = (tokenizer.piece(token), tokenizer.is_eog(token));
        if let Some(name) = tokenizer.name(token).and_then(|name| std::str::from_utf8(name).ok()) {
            let found = tokenizer.special_token(name);
            assert!(found.is_none_or(|id| tokenizer.name(id) == Some(name.as_bytes())));
        }
    }
    for flags in 0..4 {
        use_both(&tokenizer, &text, flags);
    }
}

fn any<T: Copy + Debug>(u: &mut Unstructured<'_>, all: &[T]) -> Result<T> {
    Ok(all[usize::from(u.arbitrary::<u8>()?) % all.len()])
}

fn edited(u: &mut Unstructured<'_>) -> Result<Made> {
    let bases = bases();
    let mut made = bases[usize::from(u.arbitrary::<u8>()?) % bases.len()].clone();
    for _ in 0..u.arbitrary::<u8>()? % 10 {
        let at = usize::from(u.arbitrary::<u16>()?);
        let i = at % made.tokens.len().max(1);
        match u.arbitrary::<u8>()? % 16 {
            0 | 1 => {
                let len = usize::from(u.arbitrary::<u8>()? % 24);
                let new = u.bytes(len.min(u.len()))?.to_vec();
                made.tokens.get_mut(i).into_iter().for_each(|text| text.clone_from(&new));
            }
            2 => {
                let kind = any(u, &[0, 1, 2, 3, 4, 5, 6, 7, -1, i32::MAX])?;
                made.types.get_mut(i).into_iter().for_each(|to| *to = kind);
            }
            3 => {
                let score = f32::from_bits(u.arbitrary()?);
                made.scores.get_mut(i).into_iter().for_each(|to| *to = score);
            }
            4 => made.tokens.truncate(at % 300),
            5 => made.types.truncate(at % 300),
            6 => made.scores.truncate(at % 300),
            7 => made.merges.truncate(at % 300),
            8 => {
                let len = usize::from(u.arbitrary::<u8>()? % 16);
                made.merges.push(u.bytes(len.min(u.len()))?.to_vec());
            }
            // A merge of two tokens, and a token for what it makes.
            9 => {
                let j = usize::from(u.arbitrary::<u16>()?) % made.tokens.len().max(1);
                if let (Some(a), Some(b)) = (made.tokens.get(i), made.tokens.get(j)) {
                    let (both, line) = ([&a[..], b].concat(), [&a[..], b" ", b].concat());
                    made.merges.push(line);
                    made.tokens.push(both);
                    made.types.push(1);
                    made.scores.push(-1.0);
                }
            }
            10 => made.ids[at % 3] = u.arbitrary::<Option<u16>>()?.map(u32::from),
            11 => made.ends.push(u32::from(u.arbitrary::<u16>()?)),
            12 => made.adds[at % 3] = u.arbitrary()?,
            13 => made.strips = u.arbitrary()?,
            14 => made.model = any(u, &["llama", "gpt2", "gemma4", "t5", ""])?.into(),
            _ => made.pre = any(u, &PRES)?.into(),
        }
    }
    Ok(made)
}

/// A text with each family; what was text comes back.
pub fn tokenize(input: &[u8]) {
    let [which, flags, rest @ ..] = input else { return };
    let tokenizers = tokenizers();
    let i = usize::from(*which) % tokenizers.len();
    let (tokenizer, is_spaced) = (&tokenizers[i], i >= PRES.len());
    let text = text(rest);
    use_both(tokenizer, &text, *flags);
    // Nothing is found in it that is not there, so that it comes back.
    let tokens = ids(tokenizer, &text, 0).unwrap_or_else(|e| panic!("{e}"));
    let back = text_of(tokenizer, &tokens).unwrap_or_else(|e| panic!("{e}"));
    let expected = if is_spaced { text.replace('\u{2581}', " ") } else { text.clone() };
    assert_eq!(String::from_utf8_lossy(&back), expected, "tokenizer {i}: {tokens:?}");
    // The same, appended to what is there.
    let mut again = vec![-7];
    tokenizer.tokenize(&text, false, false, &mut again).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(again[1..], tokens);
}

/// Tokens of any kind to text, at once and one after the other.
pub fn detokenize(input: &[u8]) {
    let [which, rest @ ..] = input else { return };
    let tokenizers = tokenizers();
    let tokenizer = &tokenizers[usize::from(*which) % tokenizers.len()];
    let tokens: Vec<i32> = rest.as_chunks::<2>().0.iter().map(|&pair| token(pair)).collect();
    let n = tokenizer.n_vocab() as i64;
    let are_tokens = tokens.iter().all(|&t| (0..n).contains(&i64::from(t)));
    let all = text_of(tokenizer, &tokens);
    assert_eq!(all.is_ok(), are_tokens, "{all:?}");
    // The pieces, in parts that the input chooses, through the decoder of streams.
    let mut bytes = Vec::new();
    let mut said = String::new();
    let mut decoder = StreamDecoder::new();
    for &token in &tokens {
        let Some(piece) = tokenizer.piece(token) else { continue };
        let (first, second) = piece.split_at(piece.len().min(token as usize % 3));
        for part in [first, second] {
            memory::within(|| {
                decoder.push(part, &mut |text| memory::outside(|| said.push_str(text)))
            });
        }
        assert!(decoder.n_held() < 4);
        bytes.extend_from_slice(piece);
    }
    decoder.flush(&mut |text| said.push_str(text));
    assert_eq!(said, String::from_utf8_lossy(&bytes));
    // And of the input itself, whose bytes make all that pieces do not.
    let (mut said, mut decoder) = (String::new(), StreamDecoder::new());
    for part in rest.chunks(usize::from(*which) % 5 + 1) {
        decoder.push(part, &mut |text| said.push_str(text));
    }
    decoder.flush(&mut |text| said.push_str(text));
    assert_eq!(said, String::from_utf8_lossy(rest));
}

/// Most pairs of bytes are tokens.
fn token(pair: [u8; 2]) -> i32 {
    match i32::from(i16::from_le_bytes(pair)) {
        -1 => i32::MIN,
        t if t < 0 => t,
        t if t < 30_000 => t % 300,
        t => t * 65_537 / 2,
    }
}

const TEXTS: [&str; 14] = [
    "",
    "The tern and the other birds <turn> on the sea \u{1f426} in 1900.\n",
    "  \u{e9} <tool> <eos> don't I'LL we've 12345,678.9 a_b camelCaseWord HTTPServer",
    "\r\n\r\n \t x\u{a0}\u{2003}y \u{3000}\u{4e2d}\u{6587}\u{5b57} \u{ff11}\u{ff12}\u{ff13}",
    "\u{2581}the\u{2581} in \u{2581}\u{2581}",
    "\u{d55c}\u{ad6d}\u{c5b4} \u{e44}\u{e17}\u{e22} \u{939}\u{93f}\u{928}\u{94d}\u{926}\u{940} \u{627}\u{644}\u{639}",
    "e\u{301}\u{302} \u{1f468}\u{200d}\u{1f469}\u{200d}\u{1f467} \u{1f1e9}\u{1f1ea}",
    "if (a[i] != 0x1F) {\n\treturn f(\"%d\\n\", --i);\n}\n\n\n",
    "thethethethe   thein inin  ttttthhhhh",
    "<|im_start|><s></s><0x0A><unk><bos>",
    "\u{0}\u{1}\u{7f}\u{80}\u{7ff}\u{800}\u{ffff}\u{10000}\u{10ffff}",
    "1 12 123 1234 12345 123456 \u{bd}\u{b2}\u{2167}\u{662}\u{663}",
    "\u{1c5}\u{1c8} \u{130}\u{131} \u{df} \u{3a3}\u{3c2}\u{3c3} \u{4b0}\u{44f}",
    "...!!!???;;;///***   ---\n \n  \n",
];

pub fn vocabularies() -> Vec<Vec<u8>> {
    let n = bases().len() as u8;
    let plain =
        (0..n).map(|i| [&[i, 0][..], TEXTS[usize::from(i) % TEXTS.len()].as_bytes()].concat());
    let edits = (0..64u8).map(|i| {
        let edit = [i.wrapping_mul(5), 0, i % 16, 2 + i % 7, i, 1, b't', b'h', b' ', b'e'];
        [&[i % n, 1][..], &edit, TEXTS[1].as_bytes()].concat()
    });
    plain.chain(edits).collect()
}

pub fn texts() -> Vec<Vec<u8>> {
    let n = bases().len();
    let each = |i: usize| (0..TEXTS.len()).step_by(3).map(move |j| (i, (i + j) % TEXTS.len()));
    let seed = |(i, j): (usize, usize)| [&[i as u8, j as u8 % 4], TEXTS[j].as_bytes()].concat();
    (0..n).flat_map(each).map(seed).collect()
}

pub fn tokens() -> Vec<Vec<u8>> {
    let seed = |i: u8| {
        let tokens = noise(u64::from(i), 60).into_iter().flat_map(|low| [low, i % 2]);
        [i].into_iter().chain(tokens).collect()
    };
    let text = |(i, text): (usize, &&str)| [&[i as u8], text.as_bytes()].concat();
    (0..18).map(seed).chain(TEXTS.iter().enumerate().map(text)).collect()
}
