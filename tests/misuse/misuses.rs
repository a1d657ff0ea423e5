//! Every function with every misuse that applies to it, one change of a valid call after the other.

use super::fields::{self, Wrong};
use super::fixtures::{self, Value};
use super::header::{Function, Header, Kind, Named};
use super::table::{Arg, Case, Content, How, NULL, Put, Variant};

pub(crate) const INVALID: &[&str] = &["INVALID_ARGUMENT"];
const TOO_SMALL: &[&str] = &["BUFFER_TOO_SMALL"];
const SSIZE_MAX: i64 = i64::MAX;

/// What the library is built with.
#[derive(Clone, Copy)]
pub(crate) struct With {
    /// Functions that hold a handle and that break one.
    pub(crate) hooks: bool,
    /// Another copy of it, for handles of that.
    pub(crate) copy: bool,
}

pub(crate) fn all(header: &Header, with: With) -> Vec<Case> {
    let mut cases = Vec::new();
    for index in 0..header.functions.len() {
        Misuse { header, with, function: &header.functions[index], index, cases: &mut cases }.all();
    }
    cases
}

/// Adds the cases of a function.
pub(crate) struct Misuse<'a> {
    pub(crate) header: &'a Header,
    with: With,
    pub(crate) function: &'a Function,
    pub(crate) index: usize,
    cases: &'a mut Vec<Case>,
}

impl<'a> Misuse<'a> {
    fn all(mut self) {
        self.somewhere_else();
        let function: &'a Function = self.function;
        for (at, param) in function.params.iter().enumerate() {
            if let Some(kind) = param.handle() {
                self.handle(at, param, kind);
            } else if param.ty.ends_with('*') {
                self.pointer(at, param);
            } else if param.ty.ends_with("_fn") {
                self.callback(at, param);
            } else if param.ty == "size_t" && param.name != "index" {
                self.length(at, param);
            } else {
                for (value, codes) in fields::of_param(self.header, function, param) {
                    let Value::Int(n) = value else { panic!("{} is an integer", param.name) };
                    let name = format!("{} {n}", param.name);
                    self.add(&name, codes, |case| case.args[at] = Arg::Int(n));
                }
            }
        }
        self.contents();
        // And after all of that it works.
        self.add("valid", &[], |_| ());
    }

    /// Adds the valid call, changed. No codes: it succeeds, as ever.
    pub(crate) fn add(&mut self, name: &str, codes: &[&str], change: impl FnOnce(&mut Case)) {
        let mut case = fixtures::valid(self.header, self.index);
        case.name = format!("{}: {name}", case.name);
        if self.function.can_fail() && !codes.is_empty() {
            case.expected = codes.iter().map(|code| self.code(code)).collect();
        } else if codes.iter().any(|code| matches!(*code, "INVALID_HANDLE" | "FORKED")) {
            case.expected = vec![0]; // what there is to say of a handle that is none
        }
        change(&mut case);
        self.cases.push(case);
    }

    fn code(&self, name: &str) -> i32 {
        if name == "OK" { 0 } else { self.header.code(name) }
    }

    /// From another thread, from callbacks, in a child.
    fn somewhere_else(&mut self) {
        self.add("on another thread", &[], |case| case.how = How::Thread);
        self.add("in a progress callback", &[], |case| case.how = How::Progress);
        self.add("in the callback of packing", &[], |case| case.how = How::Packing);
        self.add("in a log callback", &[], |case| case.how = How::Log);
        let has_handle = self.function.params.iter().any(|p| p.handle().is_some());
        let codes: &[&str] = if has_handle { &["FORKED"] } else { &[] };
        // A handle that the call would free is the parent's, too.
        self.add("in a forked child", codes, |case| {
            case.how = How::Forked;
            for arg in &mut case.args {
                if let Arg::Handle(_, variant) = arg {
                    *variant = Variant::Live;
                }
            }
        });
    }

    fn handle(&mut self, at: usize, param: &Named, kind: Kind) {
        let name = &param.name;
        let frees = self.function.name.ends_with("_free");
        let refused: &[&str] = &["INVALID_HANDLE"];
        let (may, has_copy) = (may_be_null(&self.function.name, name), self.with.copy);
        let mut give = |what: &str, codes: &[&str], arg: Arg| {
            self.add(&format!("{name} {what}"), codes, |case| case.args[at] = arg);
        };
        give("NULL", if may { &[] } else { refused }, NULL);
        give("stale", refused, Arg::Handle(kind, Variant::Stale));
        give("reused", refused, Arg::Handle(kind, Variant::Reused));
        for other in Kind::ALL.into_iter().filter(|other| *other != kind) {
            give(&format!("a {other:?}"), refused, Arg::Handle(other, Variant::Live));
        }
        if has_copy {
            give("of a copy of the library", refused, Arg::Handle(kind, Variant::Foreign));
        }
        for delta in [-128, -64, -2, -1, 1, 2, 8, 64, 4096, 1 << 20, 1 << 40] {
            give(&format!("beside by {delta}"), refused, Arg::Near(kind, delta));
        }
        give("on the stack", refused, Arg::OnStack);
        give("a function", refused, Arg::Code);
        self.add(&format!("{name} on the heap"), refused, |case| {
            let block = case.bytes(&[0x5A; 256]);
            case.args[at] = Arg::Place(block, 0);
        });
        let mut random = 1 + at as u64;
        for i in 0..12 {
            random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            // Small, of a size that addresses have, and of any.
            let forged = (random >> [52, 17, 0][i % 3]) as i64;
            self.add(&format!("{name} forged {i}"), refused, |case| {
                case.args[at] = Arg::Int(forged.max(1) | 1);
            });
        }
        if kind == Kind::Session || kind == Kind::Decoder {
            self.add(&format!("{name} whose model was freed"), &[], |case| {
                case.args[at] = Arg::Handle(kind, Variant::Orphan);
            });
        }
        if let Some(codes) = fields::of_empty(&self.function.name).filter(|_| kind == Kind::Session)
        {
            self.add(&format!("{name} empty"), codes, |case| {
                case.args[at] = Arg::Handle(kind, Variant::Empty);
            });
        }
        if !self.with.hooks || kind == Kind::Model {
            return;
        }
        if !frees {
            self.add(&format!("{name} poisoned"), &["POISONED"], |case| {
                case.args[at] = Arg::Handle(kind, Variant::Poisoned);
            });
        }
        self.add(&format!("{name} held by another call"), &["BUSY"], |case| {
            (case.how, case.kind) = (How::Held, kind);
        });
        let codes: &[&str] = if param.is_const() { &[] } else { &["BUSY"] };
        self.add(&format!("{name} shared with another call"), codes, |case| {
            (case.how, case.kind) = (How::Shared, kind);
        });
    }

    fn pointer(&mut self, at: usize, param: &Named) {
        let (name, function) = (&param.name, self.function);
        if name == "user_data" {
            self.add("user_data 1", &[], |case| case.args[at] = Arg::Int(1));
            return;
        }
        let may = may_be_null(&self.function.name, name);
        self.add(&format!("{name} NULL"), if may { &[] } else { INVALID }, |case| {
            let unused = case.block_of(at);
            case.blocks[unused].role = 'a';
            case.args[at] = NULL;
        });
        if let Some(kind) = fixtures::made_by(param) {
            self.add(&format!("{name} where no handle is left"), &["LIMIT"], |case| {
                (case.how, case.kind) = (How::Full, kind);
            });
        }
        let pointee = param.pointee().expect("a pointer");
        let align = self.header.align_of(pointee);
        for off in (1..align).filter(|off| off.is_power_of_two() || *off == align - 1) {
            self.add(&format!("{name} misaligned by {off}"), INVALID, |case| {
                let block = case.block_of(at);
                case.lengthen(block, 16, 0);
                case.args[at] = Arg::Place(block, off);
            });
        }
        if let Some(found) = self.header.structs.get(pointee).filter(|s| s.is_sized()) {
            self.struct_sizes(at, param, found.size);
            if param.is_const() {
                for field in &found.fields {
                    for (value, codes) in fields::of_field(self.header, function, pointee, field) {
                        self.field(at, param, &field.name, (value, codes));
                    }
                }
            }
        }
    }

    fn field(&mut self, at: usize, param: &Named, field: &str, (value, codes): Wrong) {
        let name = format!("{} with {field} {value:?}", param.name);
        let (header, pointee) = (self.header, param.pointee().expect("a pointer"));
        self.add(&name, codes, |case| {
            let block = case.block_of(at);
            fixtures::put(header, case, block, pointee, field, value);
        });
    }

    fn struct_sizes(&mut self, at: usize, param: &Named, size: usize) {
        let (name, is_const) = (&param.name, param.is_const());
        let set = |case: &mut Case, size: usize| {
            let block = case.block_of(at);
            case.write(block, 0, &(size as u32).to_le_bytes());
            block
        };
        for wrong in [0, 1, 2, 3, 4097, 65536, 1 << 31, u32::MAX as usize] {
            self.add(&format!("{name} with struct_size {wrong}"), INVALID, |case| {
                set(case, wrong);
            });
        }
        // Of an older header: the rest is zero, or is not written. What is in it is cut off, so that
        // sanitizers see whether it is touched.
        for short in (4..size).step_by(4) {
            // A range that ends at 0 is empty.
            let is_empty = is_const && self.function.name.ends_with("segment_set") && short < 12;
            self.add(
                &format!("{name} of {short} bytes"),
                if is_empty { INVALID } else { &[] },
                |case| {
                    let block = set(case, short);
                    case.puts.retain(|put| match *put {
                        Put::Pointer { block: b, .. } | Put::Callback { block: b, .. } => {
                            b != block
                        }
                    });
                    let Content::Bytes(bytes) = &mut case.blocks[block].content else { return };
                    bytes.truncate(short);
                    if !is_const {
                        case.blocks[block].role = 'a';
                    }
                },
            );
        }
        // Of a newer one.
        for long in [size + 4, size + 8, 4096] {
            self.add(&format!("{name} of {long} bytes"), &[], |case| {
                let block = set(case, long);
                case.lengthen(block, long - size, if is_const { 0 } else { 0x5A });
            });
        }
        let codes: &[&str] = if is_const { &["UNSUPPORTED"] } else { &[] };
        self.add(&format!("{name} with an unknown field"), codes, |case| {
            let block = set(case, size + 8);
            case.lengthen(block, 8, 1);
        });
    }

    fn callback(&mut self, at: usize, param: &Named) {
        self.add(&format!("{} NULL", param.name), &[], |case| case.args[at] = NULL);
        if param.name == "progress" {
            self.add("progress cancels", &["ABORTED"], |case| case.args[at] = Arg::Callback(2));
        }
    }

    fn length(&mut self, at: usize, param: &Named) {
        let (name, function) = (param.name.as_str(), self.function);
        let buffer = at - 1;
        if name == "capacity" {
            return self.capacity(at, buffer);
        }
        let pointee = function.params[buffer].pointee().expect("a buffer before its length");
        let size = if pointee == "void" { 1 } else { self.header.size_of(pointee) } as i64;
        self.add(&format!("{name} 0"), fields::of_none(&function.name, name), |case| {
            case.args[at] = Arg::Int(0);
        });
        self.add(&format!("{name} 0 of NULL"), fields::of_none(&function.name, name), |case| {
            (case.args[at], case.args[buffer]) = (Arg::Int(0), NULL);
        });
        if function.name == "tern_model_tokenize" {
            // More than is read at once; which is said before any of it is.
            for wrong in [(64 << 20) + 1, i64::from(i32::MAX) + 1, 1 << 40, SSIZE_MAX] {
                self.add(&format!("{name} {wrong}"), &["LIMIT"], |case| {
                    case.args[at] = Arg::Int(wrong);
                });
            }
        }
        // No memory is so large: what is smaller is believed.
        for wrong in [-1, i64::MIN, i64::MIN + 1, -4096, (SSIZE_MAX / size).wrapping_add(1)] {
            self.add(&format!("{name} {}", wrong as u64), INVALID, |case| {
                case.args[at] = Arg::Int(wrong);
            });
        }
    }

    /// Of a buffer: none, one too few, just enough, and more than there is, which is believed.
    fn capacity(&mut self, at: usize, buffer: usize) {
        let function = self.function.name.as_str();
        let name = &self.function.params[at].name;
        let draws = function == "tern_session_generate"; // gives what there is room for
        let none = if draws { INVALID } else { TOO_SMALL };
        self.add(&format!("{name} 0"), none, |case| case.args[at] = Arg::Int(0));
        self.add(&format!("{name} 0 of NULL"), none, |case| {
            (case.args[at], case.args[buffer]) = (Arg::Int(0), NULL);
        });
        for large in [i64::from(i32::MAX) + 1, 1 << 32, SSIZE_MAX, -1] {
            self.add(&format!("{name} {}", large as u64), &[], |case| {
                case.args[at] = Arg::Int(large);
            });
        }
        let needed: i64 = match function {
            "tern_model_tokenize" | "tern_model_detokenize" => 3,
            "tern_model_chat_format" => "<turn>user: hello\n<turn>assistant: ".len() as i64,
            "tern_session_kv_segment_at" => "sea\0".len() as i64,
            "tern_session_kv_evict_plan" => 3, // of 8 tokens all but 5
            "tern_session_generate" => return,
            "tern_session_write" => {
                for (delta, codes) in [(-1, TOO_SMALL), (0, &[])] {
                    self.add(&format!("{name} as needed by {delta}"), codes, |case| {
                        let saved = case.add('i', Content::File("session.tern"));
                        case.args[at] = Arg::Size(saved, delta);
                    });
                }
                return;
            }
            _ => panic!("tests/misuse/misuses.rs does not know how much {function} gives"),
        };
        for (n, codes) in [(1, TOO_SMALL), (needed - 1, TOO_SMALL), (needed, &[])] {
            self.add(&format!("{name} {n} of {needed}"), codes, |case| {
                let block = case.block_of(buffer);
                let size = element_size(self.header, &self.function.params[buffer]);
                case.blocks[block].content = Content::Filled(n as usize * size);
                case.args[at] = Arg::Int(n);
            });
        }
    }
}

/// Bytes of an element of a buffer.
fn element_size(header: &Header, param: &Named) -> usize {
    match param.pointee() {
        Some("void") | None => 1,
        Some(pointee) => header.size_of(pointee),
    }
}

/// Where the header says that NULL is fine.
fn may_be_null(function: &str, param: &str) -> bool {
    match param {
        // What is made by default.
        "params" | "model_params" | "session_params" | "n_evicted" => true,
        "sampler" => matches!(
            function,
            "tern_session_save"
                | "tern_session_restore"
                | "tern_session_write"
                | "tern_session_read"
        ),
        _ => false,
    }
}
