//! The families of vocabularies that ids are recorded of.

use tern::base::file::Source;
use tern::engine::vocab;
use tern::gguf::Gguf;
use tern::tokenizer::Tokenizer;

use super::support::cached;

pub(crate) fn load(test: &str, path: &str) -> Option<Gguf> {
    let path = cached(test, path)?;
    Some(Gguf::parse(&Source::open(&path).unwrap()).unwrap())
}

pub(crate) fn ids(tokenizer: &Tokenizer, text: &str) -> Vec<i32> {
    let mut ids = Vec::new();
    tokenizer.tokenize(text, false, false, &mut ids).unwrap();
    ids
}

pub(crate) fn round_trip(tokenizer: &Tokenizer, text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    tokenizer.detokenize(&ids(tokenizer, text), &mut bytes).unwrap();
    bytes
}

/// The families of tests/data/tokenizer_ids.txt whose vocabularies are at hand.
pub(crate) fn each_family(test: &str, mut f: impl FnMut(&str, &Tokenizer, &[u64])) {
    let lines =
        include_str!("../data/tokenizer_ids.txt").lines().filter(|line| !line.starts_with('#'));
    let mut families: Vec<(&str, &str, &str, Vec<u64>)> = Vec::new();
    for line in lines {
        match line.split('\t').collect::<Vec<_>>()[..] {
            [name, path, pre] => families.push((name, path, pre, Vec::new())),
            _ => {
                let hashes = line.split(' ').map(|hash| u64::from_str_radix(hash, 16).unwrap());
                families.last_mut().unwrap().3.extend(hashes);
            }
        }
    }
    assert!(families.len() >= 20);
    for (name, path, pre, hashes) in families {
        let Some(gguf) = load(test, path) else { continue };
        let mut tables = vocab::tables(gguf.metadata()).unwrap();
        if pre != "-" {
            tables.pre = pre;
        }
        f(name, &Tokenizer::new(tables).unwrap(), &hashes);
    }
}
