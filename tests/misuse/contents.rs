//! Every function with every misuse of what its parameters point at: texts, files, arrays, and memory
//! that is given twice.

use super::files;
use super::fixtures::{self, Value};
use super::header::{Function, Header};
use super::misuses::{INVALID, Misuse};
use super::table::{Arg, Case, Content};

/// What an overlap may lead to: nothing is promised but a code.
const ANY: &[&str] =
    &["OK", "INVALID_ARGUMENT", "BUFFER_TOO_SMALL", "IO", "BAD_FILE", "UNSUPPORTED"];

impl<'a> Misuse<'a> {
    /// Adds all of them.
    pub(crate) fn contents(&mut self) {
        self.texts();
        self.messages();
        self.arrays();
        self.files();
        self.overlaps();
    }

    fn block_size(&self, case: &Case, block: usize) -> usize {
        match &case.blocks[block].content {
            Content::Filled(size) => *size,
            Content::Bytes(bytes) => bytes.len(),
            Content::File(_) => 24, // at least
        }
    }

    /// Text that is not UTF-8, holds a NUL, is empty or too long, or names nothing.
    fn texts(&mut self) {
        let function: &'a Function = self.function;
        for (at, param) in function.params.iter().enumerate() {
            if param.ty != "const char *" {
                continue;
            }
            let name = param.name.as_str();
            let ends_in_nul = name != "text";
            let mut give = |what: &str, codes: &[&str], text: &[u8]| {
                let bytes: Vec<u8> =
                    text.iter().copied().chain([0].repeat(ends_in_nul.into())).collect();
                self.add(&format!("{name} {what}"), codes, |case| {
                    let block = case.bytes(&bytes);
                    case.args[at] = Arg::Place(block, 0);
                    if !ends_in_nul {
                        case.args[at + 1] = Arg::Int(text.len() as i64);
                    }
                });
            };
            let saves = function.name == "tern_session_save";
            match name {
                "path" | "packed_path" => {
                    let (writes, io) = (saves || name == "packed_path", &["IO"][..]);
                    give("empty", io, b"");
                    give("of nothing", io, b"no/such/file");
                    give("a folder", io, b".");
                    give("too long", io, &[b'a'; 5000]);
                    give("with a component too long", io, &[b'a'; 300]);
                    // To Linux a name is bytes.
                    let strange = if writes { &[][..] } else { io };
                    give("not UTF-8", strange, if writes { b"\xFF\xFE" } else { b"\xFD\xFE" });
                    let other: &[&str] = match function.name.as_str() {
                        "tern_session_prefetch" | "tern_session_restore" => &["SNAPSHOT_CORRUPT"],
                        _ if writes => &[],
                        _ => &["BAD_FILE"],
                    };
                    let another: &[u8] = if writes { b"replaced.txt" } else { b"other.txt" };
                    give("of another kind of file", other, another);
                    if name == "packed_path" {
                        give("the same", INVALID, b"model.gguf");
                        give("the same by another name", INVALID, b"./model.gguf");
                    }
                }
                "name" => {
                    let sets = function.name.ends_with("_set");
                    give("empty", INVALID, b"");
                    give("too long", INVALID, &[b'a'; 32]);
                    give("far too long", INVALID, &[b'a'; 5000]);
                    give("of nothing", if sets { &[] } else { INVALID }, b"land");
                    for (what, text) in NOT_UTF8 {
                        give(what, INVALID, text);
                    }
                }
                "key" => {
                    // There is no such entry, and that is no error.
                    give("empty", &[], b"");
                    give("of nothing", &[], b"no.such.key");
                    give("too long", &[], &[b'a'; 5000]);
                    NOT_UTF8.iter().for_each(|(what, text)| give(what, &[], text));
                }
                "text" => {
                    give("with NULs", &[], b"a\0b\0");
                    give("of a control token's name", &[], b"<eos>");
                    NOT_UTF8.iter().for_each(|(what, text)| give(what, INVALID, text));
                }
                name => panic!("tests/misuse/misuses.rs does not know the text {name}"),
            }
        }
    }

    /// Files, or their bytes, that are damaged or are something else.
    fn files(&mut self) {
        let (function, name): (&'a Function, _) = (self.function, self.function.name.as_str());
        let (files, plans) = match name {
            "tern_model_load" | "tern_model_load_memory" | "tern_model_pack" => {
                (files::MODELS, false)
            }
            "tern_model_plan" => (files::MODELS, true),
            "tern_session_restore" | "tern_session_read" => (files::SESSIONS, false),
            "tern_session_prefetch" => (files::SESSIONS, true),
            _ => return,
        };
        let at = function.params.iter().position(|p| p.name == "path" || p.name == "bytes");
        let at = at.expect("a path or bytes");
        for (file, whole, header) in files {
            let code = if plans { header } else { whole };
            self.add(&format!("{} {file}", function.params[at].name), &[code], |case| {
                let block = case.block_of(at);
                case.blocks[block].content = match function.params[at].name.as_str() {
                    "path" => Content::Bytes(format!("{file}\0").into_bytes()),
                    _ => Content::File(file),
                };
            });
        }
    }

    /// What a message of a chat cannot be.
    fn messages(&mut self) {
        let Some(at) = self.function.params.iter().position(|p| p.name == "messages") else {
            return;
        };
        let (header, name) = (self.header, "tern_chat_message");
        for field in ["role", "content"] {
            self.add(&format!("messages with {field} NULL"), INVALID, |case| {
                let block = case.block_of(at);
                fixtures::put(header, case, block, name, field, Value::Int(0));
            });
            for (what, text) in NOT_UTF8 {
                let mut bytes = text.to_vec();
                bytes.push(0);
                self.add(&format!("messages with {field} {what}"), INVALID, |case| {
                    let block = case.block_of(at);
                    fixtures::point(header, case, block, (name, field), &bytes);
                    if field == "content" {
                        let n = Value::Int(text.len() as i64);
                        fixtures::put(header, case, block, name, "content_len", n);
                    }
                });
            }
        }
        for wrong in [-1, i64::MIN, -4096] {
            self.add(&format!("messages with content_len {}", wrong as u64), INVALID, |case| {
                let block = case.block_of(at);
                fixtures::put(header, case, block, name, "content_len", Value::Int(wrong));
            });
        }
        self.add("messages with content_len 0 of NULL", &[], |case| {
            let block = case.block_of(at);
            fixtures::put(header, case, block, name, "content", Value::Int(0));
            fixtures::put(header, case, block, name, "content_len", Value::Int(0));
        });
    }

    /// What stands in arrays: tokens, positions, biases.
    fn arrays(&mut self) {
        let (header, function): (&Header, &'a Function) = (self.header, self.function);
        let words = |values: &[i64]| -> Vec<u8> {
            values.iter().flat_map(|v| (*v as u32).to_le_bytes()).collect()
        };
        for (at, param) in function.params.iter().enumerate() {
            if param.ty == "const tern_token *" {
                let low = i64::from(i32::MIN);
                for wrong in [[0, 1, -1], [-1, 0, 1], [0, 288, 1], [0, 1, low], [0x7FFF_FFFF, 1, 2]]
                {
                    self.add(&format!("{} {wrong:?}", param.name), INVALID, |case| {
                        let block = case.bytes(&words(&wrong));
                        case.args[at] = Arg::Place(block, 0);
                    });
                }
                if function.name.starts_with("tern_session_eval") {
                    self.add("more tokens than fit", &["KV_FULL"], |case| {
                        let block = case.bytes(&words(&[65; 200]));
                        case.args[at] = Arg::Place(block, 0);
                        case.args[at + 1] = Arg::Int(200);
                    });
                }
            }
            let Some(name) = param.pointee().filter(|_| param.is_const()) else { continue };
            if name == "tern_eval_params" {
                let high = i64::from(u32::MAX);
                for wrong in
                    [&[3][..], &[high], &[1, 0], &[1, 1], &[0, 1, 2, 2, 2], &[0, 1, 2, 3, 4]]
                {
                    self.add(&format!("positions {wrong:?}"), INVALID, |case| {
                        let block = case.block_of(at);
                        let n = Value::Int(wrong.len() as i64);
                        fixtures::put(header, case, block, name, "logits", Value::Int(1));
                        fixtures::put(header, case, block, name, "n_positions", n);
                        fixtures::point(header, case, block, (name, "positions"), &words(wrong));
                    });
                }
                for logits in [0, 2, 3] {
                    self.add(&format!("positions with logits {logits}"), INVALID, |case| {
                        let block = case.block_of(at);
                        fixtures::put(header, case, block, name, "logits", Value::Int(logits));
                        fixtures::put(header, case, block, name, "n_positions", Value::Int(1));
                        fixtures::point(header, case, block, (name, "positions"), &words(&[0]));
                    });
                }
            }
            if name == "tern_sampler_params" {
                let inf = f32::INFINITY;
                let wrong = [(-1, 0.0), (1, f32::NAN), (1, inf), (1, 10_000.1), (1, -10_000.1)];
                for (token, bias) in wrong {
                    self.add(&format!("logit_bias of {token} by {bias}"), INVALID, |case| {
                        let block = case.block_of(at);
                        let pair = words(&[token, i64::from(bias.to_bits())]);
                        fixtures::put(header, case, block, name, "n_logit_bias", Value::Int(1));
                        fixtures::point(header, case, block, (name, "logit_bias"), &pair);
                    });
                }
            }
        }
    }

    /// Two pointers to the same memory.
    fn overlaps(&mut self) {
        let valid = fixtures::valid(self.header, self.index);
        let places: Vec<(usize, usize)> = (0..valid.args.len())
            .filter_map(|at| match valid.args[at] {
                Arg::Place(block, 0) => Some((at, self.block_size(&valid, block))),
                _ => None,
            })
            .collect();
        let is_read = |at: usize| valid.blocks[valid.block_of(at)].role == 'i';
        for &(a, size) in &places {
            for &(b, needed) in &places {
                // What is read stays as it is; else the larger place is also the smaller one.
                let is_file = matches!(valid.blocks[valid.block_of(a)].content, Content::File(_));
                let fits = needed <= size || is_read(a) && !is_file;
                if a == b || is_read(b) || !fits {
                    continue;
                }
                let params = &self.function.params;
                let name = format!("{} where {} is", params[b].name, params[a].name);
                self.add(&name, ANY, |case| {
                    let shared = case.block_of(a);
                    case.args[b] = Arg::Place(shared, 0);
                    if needed > size {
                        case.lengthen(shared, needed - size, 0);
                    }
                    case.blocks.iter_mut().for_each(|block| block.role = 'a');
                });
            }
        }
    }
}

/// What is not UTF-8: a lone continuation, a start without its rest, too long a form, a surrogate, what
/// is beyond Unicode, and bytes that never stand in it.
const NOT_UTF8: &[(&str, &[u8])] = &[
    ("that begins within a character", b"\x80a"),
    ("that ends within a character", b"a\xE2\x82"),
    ("in too long a form", b"\xC0\xAF"),
    ("with a surrogate", b"\xED\xA0\x80"),
    ("beyond Unicode", b"\xF4\x90\x80\x80"),
    ("of bytes that are none", b"\xFF\xFE"),
];
