//! Strings of everything that texts are made of, the same as tests/oracle/tokenizer_ids.py makes.

use std::fmt::Write;

/// SplitMix64.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % n as u64) as usize
    }

    fn pick<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.below(items.len())]
    }

    fn char_of(&mut self, first: u32, last: u32) -> char {
        char::from_u32(first + self.below((last - first + 1) as usize) as u32).unwrap()
    }
}

/// The 10,000 strings of a seed; those of tests/oracle/tokenizer_ids.py have 2.
pub(crate) fn mixed_strings(seed: u64) -> Vec<String> {
    let parts = Parts::read();
    let mut random = Random(seed);
    let mut strings = Vec::new();
    for _ in 0..10_000 {
        let mut string = String::new();
        for _ in 0..1 + random.below(12) {
            parts.append(&mut random, &mut string);
        }
        strings.push(string);
    }
    strings
}

/// The sections of tests/data/tokenizer_strings.txt.
struct Parts(Vec<(String, Vec<String>)>);

impl Parts {
    fn read() -> Parts {
        let mut parts = Vec::new();
        for line in include_str!("../data/tokenizer_strings.txt").lines() {
            if let Some(name) = line.strip_prefix('[') {
                parts.push((name.trim_end_matches(']').to_string(), Vec::new()));
            } else if let Some(item) = line.strip_prefix('|') {
                parts.last_mut().unwrap().1.push(unescape(item));
            }
        }
        Parts(parts)
    }

    fn get(&self, name: &str) -> &[String] {
        &self.0.iter().find(|(n, _)| n == name).unwrap().1
    }

    fn pick(&self, r: &mut Random, name: &str) -> &str {
        r.pick::<String>(self.get(name))
    }

    fn append(&self, r: &mut Random, out: &mut String) {
        match r.below(16) {
            0..=3 => {
                let space = if r.below(4) > 0 { " " } else { "" };
                write!(out, "{space}{}", self.pick(r, "words")).unwrap();
            }
            4 => (0..1 + r.below(5)).for_each(|_| out.push_str(self.pick(r, "spaces"))),
            5 => {
                let space = *r.pick(&[" ", "\n", "\t"]);
                out.push_str(&space.repeat(1 + r.below(40)));
            }
            6 => (0..1 + r.below(9)).for_each(|_| write!(out, "{}", r.below(10)).unwrap()),
            7 => {
                let marks: Vec<char> = self.get("marks")[0].chars().collect();
                (0..1 + r.below(5)).for_each(|_| out.push(*r.pick(&marks)));
            }
            8 => {
                out.push_str(self.pick(r, "words"));
                out.push_str(self.pick(r, "apostrophes"));
            }
            9 => out.push_str(self.pick(r, "snippets")),
            10 => (0..1 + r.below(3)).for_each(|_| out.push_str(self.pick(r, "emoji"))),
            11 => {
                out.push(r.char_of(0x61, 0x7a));
                (0..1 + r.below(3)).for_each(|_| out.push(r.char_of(0x300, 0x36f)));
            }
            12 => {
                let code = r.below(0x11_0000 - 0x800) as u32;
                let code = if code >= 0xd800 { code + 0x800 } else { code };
                out.push(char::from_u32(code).unwrap());
            }
            _ => {
                let range: Vec<char> = self.pick(r, "ranges").chars().collect();
                let (first, last) = (u32::from(range[0]), u32::from(range[1]));
                (0..1 + r.below(8)).for_each(|_| out.push(r.char_of(first, last)));
            }
        }
    }
}

/// "\a;" is U+000A, "\\" a backslash.
pub(crate) fn unescape(item: &str) -> String {
    let mut out = String::new();
    let mut rest = item;
    while let Some((before, after)) = rest.split_once('\\') {
        out.push_str(before);
        rest = match after.strip_prefix('\\') {
            Some(after) => {
                out.push('\\');
                after
            }
            None => {
                let (code, after) = after.split_once(';').unwrap();
                out.push(char::from_u32(u32::from_str_radix(code, 16).unwrap()).unwrap());
                after
            }
        };
    }
    out + rest
}
