//! Cases, as the drivers read them: run.c and run.py make of each line the blocks of memory and the
//! arguments of one call, and compare what comes of it.
//!
//! ```text
//! case ID FUNCTION HOW KIND ARGUMENTS BLOCKS PLACES EXPECTED NAME    counts, then as many of each:
//! b ROLE SIZE HEX       a block: its bytes, `-` = filled with 0x5A, `@x` = those of file x
//! r BLOCK AT TO OFF     puts a pointer to another block in a block; `f BLOCK AT CALLBACK 0` a callback
//! h KIND VARIANT | n KIND DELTA | i NUMBER | p BLOCK OFF | z BLOCK DELTA | c CALLBACK | d FD | s | x
//! NUMBER                a status, or another result, that is right
//! ```

use std::fmt::Write;

use super::header::{Function, Header, Kind};

/// Which handle of a kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Variant {
    Live,
    /// Freed.
    Stale,
    /// Freed, and its slot is another's now.
    Reused,
    /// Its model was freed.
    Orphan,
    /// A bug ended an earlier call on it.
    Poisoned,
    /// Made for the case.
    Fresh,
    /// Of another copy of the library in the same process.
    Foreign,
    /// A session that has evaluated nothing.
    Empty,
}

/// Where a call is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum How {
    Plain,
    Thread,
    /// By the callback that is told how far a load is.
    Progress,
    /// By the callback that is given messages.
    Log,
    /// In a child of the process that made the handles.
    Forked,
    /// While another call uses the handle alone.
    Held,
    /// While another call shares it.
    Shared,
    /// While there are as many handles of a kind as there can be.
    Full,
    /// By the callback that is told how far packing is.
    Packing,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Arg {
    Handle(Kind, Variant),
    /// The address of a live handle, and so many bytes more.
    Near(Kind, i64),
    Int(i64),
    Place(usize, usize),
    /// The size of a block, and so many more.
    Size(usize, i64),
    /// 0 = NULL, 1 = goes on, 2 = cancels, 3 = receives messages.
    Callback(u8),
    /// 0 = the model, 1 = closed, 2 = only for writing, 3 = a pipe, 4 = a folder.
    Descriptor(u8),
    OnStack,
    Code,
}

pub(crate) const NULL: Arg = Arg::Int(0);

#[derive(Clone, Debug)]
pub(crate) enum Content {
    Filled(usize),
    Bytes(Vec<u8>),
    File(&'static str),
}

/// What may become of a block: `i` only read; `o` a result, `l` a length, `f` a buffer; `0` to `3` a
/// place for a handle of that kind; `a` whatever.
#[derive(Clone, Debug)]
pub(crate) struct Block {
    pub(crate) role: char,
    pub(crate) content: Content,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Put {
    Pointer { block: usize, at: usize, to: usize, offset: usize },
    Callback { block: usize, at: usize, which: u8 },
}

#[derive(Clone, Debug)]
pub(crate) struct Case {
    pub(crate) function: usize,
    pub(crate) name: String,
    pub(crate) how: How,
    /// Of the handle that is held, or of which there are too many.
    pub(crate) kind: Kind,
    pub(crate) args: Vec<Arg>,
    pub(crate) blocks: Vec<Block>,
    pub(crate) puts: Vec<Put>,
    pub(crate) expected: Vec<i32>,
}

impl Case {
    pub(crate) fn add(&mut self, role: char, content: Content) -> usize {
        self.blocks.push(Block { role, content });
        self.blocks.len() - 1
    }

    /// A block that is only read.
    pub(crate) fn bytes(&mut self, bytes: &[u8]) -> usize {
        self.add('i', Content::Bytes(bytes.to_vec()))
    }

    /// The block that an argument points at.
    pub(crate) fn block_of(&self, arg: usize) -> usize {
        match self.args[arg] {
            Arg::Place(block, _) => block,
            other => panic!("{}: argument {arg} is {other:?}, expected a place", self.name),
        }
    }

    pub(crate) fn write(&mut self, block: usize, at: usize, bytes: &[u8]) {
        self.puts.retain(|put| match *put {
            Put::Pointer { block: b, at: a, .. } | Put::Callback { block: b, at: a, .. } => {
                b != block || a != at
            }
        });
        let content = &mut self.blocks[block].content;
        if let Content::Filled(size) = *content {
            *content = Content::Bytes(vec![0x5A; size]);
        }
        let Content::Bytes(own) = content else { panic!("{}: a file is written to", self.name) };
        own[at..at + bytes.len()].copy_from_slice(bytes);
    }

    /// Makes a block longer, by zeros or by what it is filled with.
    pub(crate) fn lengthen(&mut self, block: usize, by: usize, with: u8) {
        match &mut self.blocks[block].content {
            Content::Filled(size) => *size += by,
            Content::Bytes(bytes) => bytes.resize(bytes.len() + by, with),
            Content::File(name) => panic!("{}: {name} is not made longer", self.name),
        }
    }

    /// A blank has no place in a line of the table.
    fn line(&self, id: usize, out: &mut String) {
        let Case { function, how, kind, args, blocks, puts, expected, .. } = self;
        let _ = writeln!(
            out,
            "case {id} {function} {} {} {} {} {} {} {}",
            *how as u8,
            *kind as u8,
            args.len(),
            blocks.len(),
            puts.len(),
            expected.len(),
            self.name.replace(' ', "_")
        );
        for Block { role, content } in blocks {
            let _ = match content {
                Content::Filled(size) => writeln!(out, "b {role} {size} -"),
                Content::File(name) => writeln!(out, "b {role} 0 @{name}"),
                Content::Bytes(bytes) if bytes.is_empty() => writeln!(out, "b {role} 0 -"),
                Content::Bytes(bytes) => {
                    let hex: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
                    writeln!(out, "b {role} {} {hex}", bytes.len())
                }
            };
        }
        for put in puts {
            let _ = match *put {
                Put::Pointer { block, at, to, offset } => {
                    writeln!(out, "r {block} {at} {to} {offset}")
                }
                Put::Callback { block, at, which } => writeln!(out, "f {block} {at} {which} 0"),
            };
        }
        for arg in args {
            let _ = match *arg {
                Arg::Handle(kind, variant) => writeln!(out, "h {} {}", kind as u8, variant as u8),
                Arg::Near(kind, delta) => writeln!(out, "n {} {delta}", kind as u8),
                Arg::Int(value) => writeln!(out, "i {value}"),
                Arg::Place(block, offset) => writeln!(out, "p {block} {offset}"),
                Arg::Size(block, delta) => writeln!(out, "z {block} {delta}"),
                Arg::Callback(which) => writeln!(out, "c {which}"),
                Arg::Descriptor(which) => writeln!(out, "d {which}"),
                Arg::OnStack => writeln!(out, "s"),
                Arg::Code => writeln!(out, "x"),
            };
        }
        for code in expected {
            let _ = writeln!(out, "{code}");
        }
    }
}

/// The table; a child of the driver runs what stands last.
pub(crate) fn table(cases: &[Case]) -> String {
    let mut out = String::new();
    let (last, first): (Vec<_>, Vec<_>) =
        cases.iter().enumerate().partition(|(_, c)| c.how == How::Forked);
    first.into_iter().chain(last).for_each(|(id, case)| case.line(id, &mut out));
    out
}

/// The calls, for the driver in C: a cast for each argument, so that the compiler compares each
/// signature and each size with the header.
pub(crate) fn calls(header: &Header, has_hooks: bool) -> String {
    let mut out = String::from("/* Made by tests/misuse.rs from include/tern.h. */\n");
    let _ = writeln!(out, "#define HOOKS {}", u8::from(has_hooks));
    out += "#ifdef __cplusplus\nextern \"C\" tern_status tern_test_hold(uint32_t, void *, bool, \
            void (*)(void *), void *);\n#define ASSERT(c) static_assert(c, #c)\n#else\n\
            tern_status tern_test_hold(uint32_t, void *, bool, void (*)(void *), void *);\n\
            #define ASSERT(c) _Static_assert(c, #c)\n#endif\n";
    for (name, found) in &header.structs {
        let _ = writeln!(out, "ASSERT(sizeof({name}) == {});", found.size);
    }
    out += "static int64_t call(int function, const uint64_t *a) {\n    switch (function) {\n";
    for (i, f) in header.functions.iter().enumerate() {
        let args: Vec<String> = f.params.iter().enumerate().map(|(i, p)| cast(&p.ty, i)).collect();
        let call = format!("{}({})", f.name, args.join(", "));
        let _ = match f.returns.as_str() {
            "void" => writeln!(out, "    case {i}: {call}; return 0;"),
            "const char *" => writeln!(out, "    case {i}: return {call}[0] != '\\0';"),
            "uint64_t" => writeln!(out, "    case {i}: return {call} != 0;"),
            _ => writeln!(out, "    case {i}: return {call};"),
        };
    }
    out += "    default: abort();\n    }\n    (void)a;\n}\n";
    let mut ask = |name: &str, answer: &dyn Fn(&Function) -> bool| {
        let _ =
            writeln!(out, "static int {name}(int function) {{\n    static const char is[] = {{");
        header.functions.iter().for_each(|f| out += if answer(f) { "1, " } else { "0, " });
        out += "};\n    return is[function];\n}\n";
    };
    ask("can_fail", &Function::can_fail);
    ask("takes_session", &|f| f.params.iter().any(|p| p.handle() == Some(Kind::Session)));
    out
}

fn cast(ty: &str, i: usize) -> String {
    match ty.ends_with('*') || ty.ends_with("_fn") {
        true => format!("({ty})(uintptr_t)a[{i}]"),
        false => format!("({ty})a[{i}]"),
    }
}

/// The functions, for the driver in Python: name, result, parameters.
pub(crate) fn signatures(header: &Header) -> String {
    let mut out = String::new();
    for Function { returns, name, params } in &header.functions {
        let result = match returns.as_str() {
            "tern_status" => "int32_t",
            "const char *" => "text",
            "uint64_t" => "count",
            plain => plain,
        };
        let _ = write!(out, "{name} {result}");
        for param in params {
            let ty = match param.ty.as_str() {
                pointer if pointer.ends_with('*') => "pointer",
                callback if callback.ends_with("_fn") => "callback",
                "tern_token" => "int32_t",
                "tern_kv_op" | "tern_log_level" => "uint32_t",
                plain => plain,
            };
            let _ = write!(out, " {ty}");
        }
        out.push('\n');
    }
    out
}
