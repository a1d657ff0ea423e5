//! `tern inspect`: loads a file as a session would need it, checks it, and describes it.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde_json::{Value as Json, json};
use tern::engine::{Input, Model, Plan, SessionParams, Value};

use super::args::{Arg, Args, Common, Result, unexpected};
use super::prompt::{self, Turn};
use super::{load, output};

/// Elements of an array that are shown to people.
const SHOWN: usize = 4;

/// Runs the command.
pub(crate) fn command(args: &mut Args) -> Result<()> {
    let mut common = Common::default();
    while let Some(arg) = args.next()? {
        match arg {
            Arg::Option(option) if common.take(&option, args)? => {}
            Arg::Operand(file) if common.model.is_none() => common.model = Some(file.into()),
            _ => return unexpected(&arg),
        }
    }
    common.model()?;
    let model = load::model(&common)?;
    let params = load::session_params(&common, &model);
    // A session with few cells finds whatever the loading did not: threads, kernels, scratch.
    let small = SessionParams { n_ctx: params.n_ctx.min(64), ..params };
    load::session(&model, &small)?;
    let model_params = load::model_params(&common);
    let plan = Model::plan(Input::Path(common.model()?), &model_params, &params)?;
    let template = template(&model);
    if common.json {
        return output::print_json(&describe(&model, &plan, params.n_ctx, &template));
    }
    output::print(&page(&model, &plan, params.n_ctx, &template))
}

/// What the model's chat template is good for: "none", "ok", or the error.
fn template(model: &Model) -> String {
    if model.chat_template().is_none() {
        return "none".into();
    }
    let turns = [Turn { role: "user", content: "Where are you?".into() }];
    match prompt::format(model, &turns) {
        Ok(_) => "ok".into(),
        Err(super::args::Failure::Error(error)) => error.to_string(),
        Err(_) => "error".into(),
    }
}

/// Element types, and how many tensors, weights and bytes each has.
fn dtypes(model: &Model) -> BTreeMap<&'static str, (u64, u64, u64)> {
    let mut dtypes = BTreeMap::new();
    for tensor in model.gguf().tensors() {
        let entry: &mut (u64, u64, u64) = dtypes.entry(tensor.dtype.name()).or_default();
        let n_weights: u64 = tensor.shape.iter().product();
        *entry = (entry.0 + 1, entry.1 + n_weights, entry.2 + tensor.bytes);
    }
    dtypes
}

fn describe(model: &Model, plan: &Plan, n_ctx: u32, template: &str) -> Json {
    let info = model.info();
    let tokenizer = model.tokenizer();
    let metadata: serde_json::Map<String, Json> = model
        .gguf()
        .metadata()
        .iter()
        .map(|(key, value)| (key.into(), value_json(value)))
        .collect();
    let dtypes: serde_json::Map<String, Json> = dtypes(model)
        .into_iter()
        .map(|(name, (n, weights, bytes))| {
            (name.into(), json!({ "n_tensors": n, "n_weights": weights, "bytes": bytes }))
        })
        .collect();
    json!({
        "arch": info.arch,
        "name": info.name,
        "gguf_version": model.gguf().version(),
        "packed": model.gguf().is_packed(),
        "n_params": info.n_params,
        "n_vocab": info.n_vocab,
        "n_ctx_train": info.n_ctx_train,
        "n_embd": info.n_embd,
        "n_layer": info.n_layer,
        "n_head": info.n_head,
        "n_head_kv": info.n_head_kv,
        "head_dim": info.head_dim,
        "n_ff": info.n_ff,
        "bytes_per_token": info.weight_bytes,
        "bos": tokenizer.bos(),
        "eos": tokenizer.eos(),
        "chat_template": template,
        "isa": model.isa().name(),
        "dtypes": dtypes,
        "plan": {
            "n_ctx": n_ctx,
            "weights_bytes": plan.weights_bytes,
            "mapped_bytes": plan.mapped_bytes,
            "vocab_bytes": plan.vocab_bytes,
            "kv_bytes": plan.kv_bytes,
            "scratch_bytes": plan.scratch_bytes,
            "total_bytes": plan.total_bytes,
        },
        "metadata": metadata,
    })
}

fn page(model: &Model, plan: &Plan, n_ctx: u32, template: &str) -> String {
    let info = model.info();
    let mut out = String::new();
    let mut line = |name: &str, text: String| {
        // Names come from the file: no control character of theirs may reach a terminal.
        let text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        let _ = writeln!(out, "{name:16} {text}");
    };
    line("architecture", info.arch.clone());
    line("name", info.name.clone());
    line("parameters", format!("{:.1} M", info.n_params as f64 / 1e6));
    line("context", format!("{} tokens", info.n_ctx_train));
    line(
        "layers",
        format!("{} of width {}, feed-forward {}", info.n_layer, info.n_embd, info.n_ff),
    );
    line(
        "heads",
        format!("{} ({} for keys and values) of {}", info.n_head, info.n_head_kv, info.head_dim),
    );
    line("vocabulary", format!("{} tokens", info.n_vocab));
    line("chat template", template.to_string());
    line("packed", if model.gguf().is_packed() { "yes, for tern" } else { "no" }.to_string());
    for (name, (n, weights, bytes)) in dtypes(model) {
        let size = output::bytes(bytes);
        line(name, format!("{n} tensors, {:.1} M weights, {size}", weights as f64 / 1e6));
    }
    line("reads a token", output::bytes(info.weight_bytes));
    line("memory", format!("{} with {n_ctx} tokens of context:", output::bytes(plan.total_bytes)));
    line("  weights", output::bytes(plan.weights_bytes));
    line("  mapped", format!("{} (not counted)", output::bytes(plan.mapped_bytes)));
    line("  vocabulary", output::bytes(plan.vocab_bytes));
    line("  keys, values", output::bytes(plan.kv_bytes));
    line("  scratch", output::bytes(plan.scratch_bytes));
    line("kernels", model.isa().name().to_string());
    line("metadata", String::new());
    for (key, value) in model.gguf().metadata().iter() {
        line(&format!("  {key}"), brief(&value_json(value)));
    }
    out
}

/// A value on one line of some length.
fn brief(value: &Json) -> String {
    let text = match value {
        Json::Object(array) => {
            let n = array.get("len").and_then(Json::as_u64).unwrap_or(0);
            let first = array.get("first").cloned().unwrap_or(Json::Null);
            return format!("{n} values: {first} ...");
        }
        value => value.to_string(),
    };
    match text.char_indices().nth(100) {
        Some((at, _)) => format!("{} ...", &text[..at]),
        None => text,
    }
}

/// A value of the metadata; of long arrays the length and the beginning.
fn value_json(value: Value<'_>) -> Json {
    match value {
        Value::U8(v) => v.into(),
        Value::I8(v) => v.into(),
        Value::U16(v) => v.into(),
        Value::I16(v) => v.into(),
        Value::U32(v) => v.into(),
        Value::I32(v) => v.into(),
        Value::U64(v) => v.into(),
        Value::I64(v) => v.into(),
        // JSON has no infinities: they become null.
        // By its shortest digits, and not by those of the double next to it.
        Value::F32(v) => v.to_string().parse::<f64>().map_or(Json::Null, Json::from),
        Value::F64(v) => v.into(),
        Value::Bool(v) => v.into(),
        Value::Str(bytes) => String::from_utf8_lossy(bytes).into(),
        Value::Array(array) if array.len() <= 4 * SHOWN => array.iter().map(value_json).collect(),
        Value::Array(array) => {
            let first: Json = array.iter().take(SHOWN).map(value_json).collect();
            json!({ "len": array.len(), "first": first })
        }
    }
}
