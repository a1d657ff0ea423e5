//! What include/tern.h declares: functions, structs, constants and codes. Only the C that cbindgen
//! writes is understood; anything else is a failed test.

use std::collections::BTreeMap;

/// A parameter or a field.
#[derive(Clone, Debug)]
pub(crate) struct Named {
    /// As the header writes it, such as `const tern_token *`.
    pub(crate) ty: String,
    pub(crate) name: String,
}

impl Named {
    /// The type that a pointer points at, without `const`; none if this is no pointer.
    pub(crate) fn pointee(&self) -> Option<&str> {
        let inner = self.ty.strip_suffix('*')?.trim();
        Some(inner.strip_prefix("const ").unwrap_or(inner))
    }

    pub(crate) fn is_const(&self) -> bool {
        self.ty.starts_with("const ")
    }

    /// The object that a handle of this type stands for.
    pub(crate) fn handle(&self) -> Option<Kind> {
        self.pointee().and_then(Kind::of)
    }
}

/// The objects that have handles, as the drivers number them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Model,
    Session,
    Sampler,
    Decoder,
}

impl Kind {
    pub(crate) const ALL: [Kind; 4] = [Kind::Model, Kind::Session, Kind::Sampler, Kind::Decoder];

    fn of(name: &str) -> Option<Kind> {
        let kind = match name {
            "tern_model" => Kind::Model,
            "tern_session" => Kind::Session,
            "tern_sampler" => Kind::Sampler,
            "tern_decoder" => Kind::Decoder,
            _ => return None,
        };
        Some(kind)
    }
}

#[derive(Debug)]
pub(crate) struct Function {
    pub(crate) returns: String,
    pub(crate) name: String,
    pub(crate) params: Vec<Named>,
}

impl Function {
    pub(crate) fn can_fail(&self) -> bool {
        self.returns == "tern_status"
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.params.iter().any(|p| p.name == name)
    }
}

#[derive(Debug)]
pub(crate) struct Struct {
    pub(crate) fields: Vec<Named>,
    pub(crate) offsets: Vec<usize>,
    pub(crate) size: usize,
}

impl Struct {
    /// Whether it starts with its size, and may grow.
    pub(crate) fn is_sized(&self) -> bool {
        self.fields[0].name == "struct_size"
    }

    pub(crate) fn at(&self, field: &str) -> usize {
        let at = self.fields.iter().position(|f| f.name == field);
        self.offsets[at.unwrap_or_else(|| panic!("no field {field}"))]
    }
}

#[derive(Debug, Default)]
pub(crate) struct Header {
    pub(crate) functions: Vec<Function>,
    pub(crate) structs: BTreeMap<String, Struct>,
    /// `#define`s that are numbers.
    pub(crate) constants: BTreeMap<String, u32>,
    /// Names of codes, by code.
    pub(crate) codes: BTreeMap<i32, String>,
    /// What typedefs of numbers stand for.
    numbers: BTreeMap<String, String>,
    /// What the comments say: of functions, of structs and their fields, of types and their constants.
    docs: BTreeMap<String, String>,
}

impl Header {
    pub(crate) fn parse(text: &str) -> Header {
        let mut header = Header::default();
        let mut fields: Option<Vec<Named>> = None;
        let mut declaration = String::new();
        let (mut doc, mut struct_doc) = (String::new(), String::new());
        let (mut exports, mut in_comment) = (false, false);
        for line in text.lines().map(str::trim) {
            in_comment |= line.starts_with("/*");
            if let Some(text) = line.strip_prefix("///") {
                doc += text;
                struct_doc += text;
            }
            if in_comment || line.starts_with("//") || line.is_empty() {
                in_comment &= !line.ends_with("*/");
                continue;
            }
            if let Some(define) = line.strip_prefix("#define ") {
                if let Some((name, Ok(value))) =
                    define.split_once(' ').map(|(n, v)| (n, v.parse::<u32>()))
                {
                    header.constants.insert(name.to_string(), value);
                    header.docs.insert(name.to_string(), std::mem::take(&mut doc));
                }
            } else if line.starts_with("extern \"C\" {") {
                exports = true;
            } else if line.starts_with('#') {
            } else if line == "typedef struct {" {
                fields = Some(Vec::new());
                struct_doc = std::mem::take(&mut doc);
            } else if let Some(name) = line.strip_prefix("} ").and_then(|l| l.strip_suffix(';')) {
                let found = header.lay_out(fields.take().expect("a struct ends"));
                header.structs.insert(name.to_string(), found);
                header.docs.insert(name.to_string(), std::mem::take(&mut struct_doc));
                doc.clear();
            } else if let Some(fields) = &mut fields {
                fields.push(named(line.strip_suffix(';').expect("a field")));
            } else if line.starts_with("TERN_") && line.ends_with(',') {
                let (name, code) = line.trim_end_matches(',').split_once(" = ").expect("a code");
                header.codes.insert(code.parse().expect("a number"), name.to_string());
                doc.clear();
            } else if let Some(alias) = line.strip_prefix("typedef ") {
                let alias = alias.trim_end_matches(';');
                let name = alias.rsplit([' ', '*']).find(|word| word.starts_with("tern_"));
                let name = match alias.split_once("(*") {
                    Some((_, callback)) => callback.split(')').next(),
                    None => name,
                };
                let name = name.expect("a type").to_string();
                header.docs.insert(name, std::mem::take(&mut doc));
                if let Some((ty, name)) = alias.rsplit_once(' ').filter(|_| !alias.contains('(')) {
                    header.numbers.insert(name.to_string(), ty.to_string());
                }
            } else if exports && line != "}  // extern \"C\"" {
                declaration += line;
                declaration.push(' ');
                if line.ends_with(';') {
                    let found = function(&std::mem::take(&mut declaration));
                    header.docs.insert(found.name.clone(), std::mem::take(&mut doc));
                    header.functions.push(found);
                }
            }
        }
        assert!(declaration.is_empty() && fields.is_none(), "the header ends within {declaration}");
        header
    }

    /// Bytes of a value of a type; a callback, a pointer and a length have 8 on all that tern runs on.
    pub(crate) fn size_of(&self, ty: &str) -> usize {
        match ty {
            "char" | "void" | "bool" => 1,
            "int32_t" | "uint32_t" | "float" => 4,
            "uint64_t" | "size_t" | "tern_progress_fn" | "tern_log_fn" => 8,
            pointer if pointer.ends_with('*') => 8,
            other => match (self.structs.get(other), self.numbers.get(other)) {
                (Some(found), _) => found.size,
                (_, Some(number)) => self.size_of(number),
                _ => panic!("{other} has no size that this test knows"),
            },
        }
    }

    /// What a value of a type is aligned to.
    pub(crate) fn align_of(&self, ty: &str) -> usize {
        match self.structs.get(ty) {
            Some(s) => s.fields.iter().map(|f| self.align_of(&f.ty)).max().expect("a field"),
            None => self.size_of(ty),
        }
    }

    fn lay_out(&self, fields: Vec<Named>) -> Struct {
        let (mut offsets, mut size, mut align) = (Vec::new(), 0usize, 1);
        for field in &fields {
            let own = self.align_of(&field.ty);
            size = size.next_multiple_of(own);
            offsets.push(size);
            size += self.size_of(&field.ty);
            align = align.max(own);
        }
        Struct { fields, offsets, size: size.next_multiple_of(align) }
    }

    /// All that the header says of a function: of itself, of the types that it is given, and of what
    /// these texts name.
    pub(crate) fn says(&self, function: &Function) -> String {
        let (mut said, mut todo) = (BTreeMap::new(), vec![function.name.clone()]);
        todo.extend(function.params.iter().map(|p| bare(&p.ty).to_string()));
        while let Some(name) = todo.pop() {
            let Some(doc) = self.docs.get(&name).filter(|_| !said.contains_key(&name)) else {
                continue;
            };
            said.insert(name.clone(), doc.as_str());
            if let Some(found) = self.structs.get(&name) {
                todo.extend(found.fields.iter().map(|f| bare(&f.ty).to_string()));
            }
            // "Fails as tern_session_restore() does", "one of TERN_KV_POLICY_*".
            for sentence in doc.split(". ") {
                let likens = ["Fails as", "Otherwise as", "Does what"];
                let likens = likens.iter().any(|how| sentence.contains(how));
                for word in sentence.split(|c: char| !c.is_alphanumeric() && c != '_') {
                    if word.starts_with("TERN_") && word.ends_with('_') {
                        let family = self.constants.keys().filter(|k| k.starts_with(word));
                        todo.extend(family.cloned());
                    } else if word.starts_with("tern_") && likens {
                        todo.push(word.to_string());
                    }
                }
            }
        }
        said.into_values().collect::<Vec<_>>().join("\n")
    }

    pub(crate) fn code(&self, name: &str) -> i32 {
        let found = self.codes.iter().find(|(_, n)| n.strip_prefix("TERN_ERROR_") == Some(name));
        *found.unwrap_or_else(|| panic!("no TERN_ERROR_{name}")).0
    }
}

/// A type without `const` and `*`.
fn bare(ty: &str) -> &str {
    ty.trim_start_matches("const ").trim_end_matches(['*', ' '])
}

fn function(declaration: &str) -> Function {
    let text = declaration.trim().trim_start_matches("TERN_MUST_USE").trim();
    let (head, params) = text.split_once('(').expect("a function");
    let head = named(head);
    let params = params.trim_end_matches(");").trim();
    let params = match params {
        "void" => Vec::new(),
        list => list.split(',').map(named).collect(),
    };
    Function { returns: head.ty, name: head.name, params }
}

/// Splits `const char *text` behind its type.
fn named(text: &str) -> Named {
    let text = text.trim();
    let at = text.rfind([' ', '*']).unwrap_or_else(|| panic!("no name in {text:?}")) + 1;
    Named { ty: text[..at].trim().to_string(), name: text[at..].to_string() }
}
