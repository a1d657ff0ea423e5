//! A valid call of each function: what each parameter is given. A parameter that nothing is known of
//! is a failed test, so that a new function cannot be forgotten.

use super::header::{Function, Header, Kind, Named};
use super::table::{Arg, Case, Content, How, NULL, Put, Variant};

/// A value of a field.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Value {
    Int(i64),
    Float(f32),
    Callback(u8),
}

/// The call that every misuse of a function is a change of. What it expects is that it succeeds.
pub(crate) fn valid(header: &Header, index: usize) -> Case {
    let function = &header.functions[index];
    let mut case = Case {
        function: index,
        name: function.name.clone(),
        how: How::Plain,
        kind: Kind::Model,
        args: Vec::new(),
        blocks: Vec::new(),
        puts: Vec::new(),
        expected: vec![result(function)],
    };
    for param in &function.params {
        let arg = given(header, function, param, &mut case);
        case.args.push(arg);
    }
    case
}

/// What a valid call gives.
fn result(function: &Function) -> i32 {
    match function.name.as_str() {
        "tern_version" | "tern_last_error" | "tern_status_name" => 1, // not empty
        "tern_abi_version" | "tern_device_count" => 1,
        "tern_session_progress" => 1, // some
        _ => 0,
    }
}

/// What stands in a struct where a valid call wants something other than zeros.
fn fields(name: &str) -> &'static [(&'static str, Value)] {
    use Value::{Float, Int};
    match name {
        "tern_session_params" => &[("n_ctx", Int(96)), ("n_threads", Int(1))],
        "tern_kv_evict_params" => &[("n_sink", Int(1)), ("n_keep", Int(5))],
        "tern_kv_segment" => &[("to_pos", Int(2))],
        "tern_sampler_params" => &[("temperature", Float(0.5)), ("top_p", Float(0.5))],
        "tern_model_params"
        | "tern_eval_params"
        | "tern_kv_rebuild_params"
        | "tern_generate_params" => &[],
        _ => panic!("tests/misuse/fixtures.rs does not know what to put in a {name}"),
    }
}

fn given(header: &Header, function: &Function, param: &Named, case: &mut Case) -> Arg {
    let has_capacity = function.has("capacity");
    if let Some(kind) = param.handle() {
        let frees = function.name.ends_with("_free");
        return Arg::Handle(kind, if frees { Variant::Fresh } else { Variant::Live });
    }
    if let Some(kind) = made_by(param) {
        let role = char::from(b'0' + kind as u8);
        return Arg::Place(case.add(role, Content::Filled(8)), 0);
    }
    if let Some((name, found)) = param.pointee().and_then(|name| header.structs.get_key_value(name))
        && found.is_sized()
    {
        return match param.is_const() {
            true => Arg::Place(sized(header, case, name), 0),
            false => {
                let block = case.add('o', Content::Filled(found.size));
                case.write(block, 0, &(found.size as u32).to_le_bytes());
                Arg::Place(block, 0)
            }
        };
    }
    match param.ty.as_str() {
        "const char **" | "const float **" | "const tern_token_logprob **" => {
            return Arg::Place(case.add('o', Content::Filled(8)), 0);
        }
        "size_t *" => {
            let role = if has_capacity { 'l' } else { 'o' };
            return Arg::Place(case.add(role, Content::Filled(8)), 0);
        }
        _ => {}
    }
    let text = |case: &mut Case, text: &[u8]| Arg::Place(case.bytes(text), 0);
    match (function.name.as_str(), param.name.as_str(), param.ty.as_str()) {
        ("tern_session_save", "path", _) => text(case, b"saved.tern\0"),
        ("tern_session_prefetch" | "tern_session_restore", "path", _) => {
            text(case, b"session.tern\0")
        }
        (_, "path", _) => text(case, b"model.gguf\0"),
        (_, "packed_path", _) => text(case, b"packed.gguf\0"),
        (_, "key", "const char *") => text(case, b"general.name\0"),
        (_, "name", "const char *") => text(case, b"sea\0"),
        ("tern_model_tokenize", "text", _) => text(case, b"zqx"),
        ("tern_model_tokenize", "text_len", _) => Arg::Int(3),
        ("tern_model_load_memory", "bytes", _) => {
            Arg::Place(case.add('i', Content::File("model.gguf")), 0)
        }
        ("tern_session_read", "bytes", _) => {
            Arg::Place(case.add('i', Content::File("session.tern")), 0)
        }
        (_, "n_bytes", _) => Arg::Size(case.blocks.len() - 1, 0),
        (_, "messages", _) => Arg::Place(messages(header, case), 0),
        (_, "n_messages" | "add_generation_prompt", _) => Arg::Int(1),
        (_, "tokens", "const tern_token *") => {
            let tokens: Vec<u8> = [116i32, 104, 101].iter().flat_map(|t| t.to_le_bytes()).collect();
            text(case, &tokens)
        }
        (_, "n_tokens", "size_t") => Arg::Int(3),
        (_, "tokens" | "positions", _) => Arg::Place(case.add('f', Content::Filled(64 * 4)), 0),
        (_, "text" | "name", "char *") => Arg::Place(case.add('f', Content::Filled(64)), 0),
        (_, "buffer", _) => Arg::Place(case.add('f', Content::Filled(1 << 18)), 0),
        ("tern_session_write", "capacity", _) => Arg::Int(1 << 18),
        (_, "capacity", _) => Arg::Int(64),
        (_, "token", "tern_token *") => Arg::Place(case.add('o', Content::Filled(4)), 0),
        (_, "token", "tern_token") => Arg::Int(65),
        (_, "fd", _) => Arg::Descriptor(0),
        (_, "offset" | "length" | "flags", _) => Arg::Int(0),
        (_, "index", _) => Arg::Int(0),
        (_, "from_pos", _) => Arg::Int(2),
        (_, "to_pos", _) => Arg::Int(3),
        (_, "pos", _) => Arg::Int(4),
        (_, "n_threads" | "n_threads_prefill", _) => Arg::Int(1),
        (_, "n_slots", _) => Arg::Int(20),
        (_, "op", _) => Arg::Int(4),
        (_, "status", _) => Arg::Int(-1),
        (_, "level", _) => Arg::Int(1),
        (_, "log", _) => Arg::Callback(3),
        (_, "progress", _) => Arg::Callback(1),
        (_, "user_data", _) => NULL,
        (function, name, ty) => {
            panic!("tests/misuse/fixtures.rs does not know what to give {function} as {ty} {name}")
        }
    }
}

/// The kind of the new handle that goes to where a parameter points.
pub(crate) fn made_by(param: &Named) -> Option<Kind> {
    match param.ty.as_str() {
        "tern_model **" => Some(Kind::Model),
        "tern_session **" => Some(Kind::Session),
        "tern_sampler **" => Some(Kind::Sampler),
        "tern_decoder **" => Some(Kind::Decoder),
        _ => None,
    }
}

/// A struct that starts with its size, as a valid call wants it.
fn sized(header: &Header, case: &mut Case, name: &str) -> usize {
    let size = header.structs[name].size;
    let block = case.bytes(&vec![0; size]);
    case.write(block, 0, &(size as u32).to_le_bytes());
    for (field, value) in fields(name) {
        put(header, case, block, name, field, *value);
    }
    block
}

/// Gives a field a value.
pub(crate) fn put(
    header: &Header,
    case: &mut Case,
    block: usize,
    name: &str,
    field: &str,
    value: Value,
) {
    let found = &header.structs[name];
    let at = found.at(field);
    let ty = &found.fields.iter().find(|f| f.name == field).expect("a field").ty;
    match value {
        Value::Int(value) => {
            case.write(block, at, &value.to_le_bytes()[..header.size_of(ty)]);
        }
        Value::Float(value) => case.write(block, at, &value.to_le_bytes()),
        Value::Callback(which) => {
            case.write(block, at, &[0; 8]);
            case.puts.push(Put::Callback { block, at, which });
        }
    }
}

/// Puts a pointer to bytes in a field.
pub(crate) fn point(
    header: &Header,
    case: &mut Case,
    block: usize,
    at: (&str, &str),
    bytes: &[u8],
) {
    let at = header.structs[at.0].at(at.1);
    case.write(block, at, &[0; 8]);
    let to = case.bytes(bytes);
    case.puts.push(Put::Pointer { block, at, to, offset: 0 });
}

/// One message of a chat.
fn messages(header: &Header, case: &mut Case) -> usize {
    let name = "tern_chat_message";
    let block = case.bytes(&vec![0; header.structs[name].size]);
    point(header, case, block, (name, "role"), b"user\0");
    point(header, case, block, (name, "content"), b"hello");
    put(header, case, block, name, "content_len", Value::Int(5));
    block
}
