//! The `tern` command, run as scripts run it: exit statuses, one-line errors, JSON, real models.
#![cfg(feature = "cli")]
#![allow(clippy::unwrap_used, reason = "a broken set-up is a failed test")]

mod support;

#[path = "command/kv_eval.rs"]
mod kv_eval;
#[path = "command/perplexity.rs"]
mod perplexity;

use std::fs;
use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

fn tern(args: &[&str]) -> Output {
    support::command(env!("CARGO_BIN_EXE_tern")).args(args).stdin(Stdio::null()).output().unwrap()
}

fn stdout(output: &Output) -> &str {
    std::str::from_utf8(&output.stdout).unwrap()
}

fn stderr(output: &Output) -> &str {
    std::str::from_utf8(&output.stderr).unwrap()
}

/// Runs a command that must succeed without a word on standard error.
fn text(args: &[&str]) -> String {
    let output = tern(args);
    assert_eq!(output.status.code(), Some(0), "{args:?}: {}", stderr(&output));
    assert_eq!(stderr(&output), "", "{args:?}");
    stdout(&output).to_string()
}

fn json(args: &[&str]) -> Value {
    let text = text(args);
    assert!(text.ends_with('\n') && text.trim_end().lines().count() == 1, "{text}");
    serde_json::from_str(&text).unwrap()
}

fn keys(object: &Value) -> Vec<&str> {
    let mut keys: Vec<&str> = object.as_object().unwrap().keys().map(|k| k.as_str()).collect();
    keys.sort_unstable();
    keys
}

/// A model of the cache; `None`, with a word about it, where there is none.
fn model(test: &str, file: &str) -> Option<String> {
    let path = support::cached(test, file)?;
    Some(path.into_os_string().into_string().unwrap())
}

/// A model to time, where time means something: not in an emulator, which takes minutes for each of
/// these tests, and from which a program starts no other of its kind.
fn timed_model(test: &str) -> Option<String> {
    if support::emulated() {
        support::skipped(test, "not run under an emulator");
        return None;
    }
    model(test, SMOLLM2)
}

const SMOLLM2: &str = "models/SmolLM2-135M-Instruct.Q4_1.gguf";
const GEMMA3: &str = "models/gemma-3-270m-Q4_K_M.gguf";

/// A file of its own for a test, removed afterwards.
struct Temp(PathBuf);

impl Temp {
    fn new(name: &str, bytes: &[u8]) -> Temp {
        let name = format!("tern-command-{}-{name}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::write(&path, bytes).unwrap();
        Temp(path)
    }

    fn path(&self) -> &str {
        self.0.to_str().unwrap()
    }
}

impl Drop for Temp {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// One line on standard error that says so, nothing on standard output, status 2.
fn assert_usage_error(args: &[&str], expected: &str) {
    let output = tern(args);
    let error = stderr(&output);
    assert_eq!(output.status.code(), Some(2), "{args:?}: {error}");
    assert!(error.starts_with("usage error: ") && error.lines().count() == 1, "{error}");
    assert!(error.contains(expected), "{args:?}: {error}");
    assert_eq!(stdout(&output), "");
}

#[test]
fn a_wrong_command_line_is_status_2() {
    let cases: &[(&[&str], &str)] = &[
        (&[], "no command given"),
        (&["fly"], "'fly'"),
        (&["--wings"], "'--wings'"),
        (&["help", "fly"], "'fly'"),
        (&["run", "-m", "x"], "no prompt given"),
        (&["run", "-p", "x"], "no model given"),
        (&["run", "-m", "x", "-p", "a", "-f", "b"], "exclude each other"),
        (&["run", "-m", "x", "-p", "a", "--raw", "--system", "b"], "--raw"),
        (&["run", "-m", "x", "-p", "a", "--temp", "hot"], "--temp hot"),
        (&["run", "-m", "x", "-p", "a", "--top-p", "1.5"], "0 to 1"),
        (&["run", "-m", "x", "-p", "a", "--top-p", "NaN"], "0 to 1"),
        (&["run", "-m", "x", "-p", "a", "-t", "0"], "1 to 256"),
        (&["run", "-m", "x", "-p", "a", "-n"], "-n"),
        (&["run", "-m", "x", "-p", "a", "--load-mode", "fast"], "map-fast"),
        (
            &["run", "-m", "x", "-p", "a", "--kv-type", "q4"],
            "f16, f32, q8_0, q5_0, q4_0, q4_h, q3_h, q5_h, two of them, or balanced",
        ),
        (
            &["run", "-m", "x", "-p", "a", "--kv-type", "f16,balanced"],
            "two of them, or balanced, small, tiny",
        ),
        (&["run", "-m", "x", "-p", "a", "b"], "unexpected argument 'b'"),
        (&["chat", "-m", "x", "--json"], "'--json'"),
        (&["chat"], "no model given"),
        (&["tokenize", "a"], "no model given"),
        (&["tokenize", "-m", "x", "a", "b"], "'b'"),
        (&["tokenize", "-m", "x", "a", "-f", "b"], "exclude each other"),
        (&["inspect"], "no model given"),
        (&["inspect", "x", "y"], "'y'"),
        (&["perplexity", "-m", "x"], "no text given"),
        (&["perplexity", "-f", "x"], "no model given"),
        (&["perplexity", "-m", "x", "-f", "x", "--ctx", "3"], "at least 4"),
        (&["perplexity", "-m", "x", "-f", "x", "--kv-budget", "9"], "go with --stream"),
        (&["bench", "-m", "x", "-t", "1,,2"], "-t"),
        (&["bench", "-m", "x", "-r", "0"], "1 to 1000"),
        (&["bench", "-m", "x", "-d", "deep"], "-d deep"),
        (&["bench", "-m", "x", "--busy", "999"], "0 to 256"),
        (&["bench", "-m", "x", "--peer", "y"], "--compare"),
        (&["bench", "-m", "x", "--text", "y"], "--draft"),
        (&["bench", "-m", "x", "--draft", "4", "--compare"], "exclude each other"),
        (&["run", "-m", "x", "-p", "a", "--draft", "64"], "0 to 63"),
        (&["bench", "-m", "x", "--compare", "--roof"], "exclude each other"),
        (&["bench", "-m", "x", "--compare", "--phases"], "exclude each other"),
        (&["bench", "-m", "x", "--busy", "1", "--phases"], "exclude each other"),
        (&["bench"], "no model given"),
        (&["kv-eval", "-m", "x", "--policy", "ring"], "no text given"),
        (&["kv-eval", "--text", "x", "--policy", "ring"], "no model given"),
        (&["kv-eval", "-m", "x", "--text", "x", "--policy", "lru"], "none, hybrid, attn, h2o"),
    ];
    for (args, expected) in cases {
        assert_usage_error(args, expected);
    }
}

#[test]
fn help_is_on_standard_output() {
    let main = text(&["help"]);
    assert_eq!(text(&["--help"]), main);
    assert_eq!(text(&["-h"]), main);
    for command in ["run", "chat", "tokenize", "inspect", "perplexity", "bench", "kv-eval"] {
        assert!(main.contains(&format!("tern {command} ")), "{command}");
        let page = text(&["help", command]);
        assert!(page.starts_with(&format!("tern {command} ")), "{page}");
        assert_eq!(text(&[command, "--help"]), page);
        assert_eq!(text(&[command, "-m", "x", "-h"]), page);
        assert!(page.lines().all(|line| line.chars().count() <= 100));
    }
    assert_eq!(text(&["--version"]), format!("tern {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn a_failure_is_status_1_and_one_line() {
    let text = Temp::new("text", b"some text");
    let bad = Temp::new("bad\n\x1b[31m.gguf", b"not a model, whatever its name says");
    let latin1 = Temp::new("latin1", b"caf\xe9");
    let cases: &[(&[&str], &str)] = &[
        (&["run", "-m", "/nowhere.gguf", "-p", "x"], "TERN_ERROR_IO"),
        (&["run", "-m", bad.path(), "-p", "x"], "TERN_ERROR_BAD_FILE"),
        (&["run", "-m", bad.path(), "-f", "/nowhere.txt"], "TERN_ERROR_IO"),
        (&["run", "-m", bad.path(), "-f", latin1.path()], "TERN_ERROR_INVALID_ARGUMENT"),
        (&["chat", "-m", bad.path()], "TERN_ERROR_BAD_FILE"),
        (&["tokenize", "-m", bad.path(), "x"], "TERN_ERROR_BAD_FILE"),
        (&["inspect", bad.path()], "TERN_ERROR_BAD_FILE"),
        (&["inspect", "--json", "/"], "TERN_ERROR_IO"),
        (&["inspect", "/nowhere\n.gguf"], "TERN_ERROR_IO"),
        (&["perplexity", "-m", bad.path(), "-f", text.path()], "TERN_ERROR_BAD_FILE"),
        (&["bench", "-m", bad.path()], "TERN_ERROR_BAD_FILE"),
        (
            &["kv-eval", "-m", bad.path(), "--text", text.path(), "--policy", "none"],
            "TERN_ERROR_BAD_FILE",
        ),
    ];
    for (args, name) in cases {
        let output = tern(args);
        let error = stderr(&output);
        assert_eq!(output.status.code(), Some(1), "{args:?}: {error}");
        assert!(error.starts_with(&format!("error: {name}: ")), "{args:?}: {error}");
        assert!(error.ends_with('\n') && error.lines().count() == 1, "{args:?}: {error}");
        assert!(!error.trim_end().contains(char::is_control), "{args:?}: {error:?}");
        assert_eq!(stdout(&output), "");
    }
}

#[test]
fn tokenize_prints_ids_as_promised() {
    let Some(model) = model("tokenize_prints_ids_as_promised", SMOLLM2) else { return };
    let said = "The capital of France is <|im_end|>";
    let ids = text(&["tokenize", "-m", &model, "--ids", said]);
    let numbers: Vec<i64> = ids.trim_end().split(' ').map(|id| id.parse().unwrap()).collect();
    assert_eq!(ids.lines().count(), 1);
    assert!(numbers.len() > 6, "{ids}"); // the special token is spelt out
    assert_eq!(json(&["tokenize", "-m", &model, "--json", said]), Value::from(numbers.clone()));
    let listed = text(&["tokenize", "-m", &model, said]);
    assert_eq!(listed.lines().count(), numbers.len());
    for (line, number) in listed.lines().zip(&numbers) {
        assert!(line.trim_start().starts_with(&number.to_string()), "{line}");
    }
    let file = Temp::new("prompt", said.as_bytes());
    assert_eq!(text(&["tokenize", "-m", &model, "--ids", "-f", file.path()]), ids);
    let parsed = text(&["tokenize", "-m", &model, "--ids", "--parse-special", said]);
    assert!(parsed.trim_end().ends_with(" 2"), "{parsed}"); // <|im_end|>
    assert_eq!(text(&["tokenize", "-m", &model, "--ids", ""]), "\n");
    let Some(gemma) = self::model("tokenize_prints_ids_as_promised", GEMMA3) else { return };
    let with = text(&["tokenize", "-m", &gemma, "--ids", "Hello"]);
    let without = text(&["tokenize", "-m", &gemma, "--ids", "--no-special", "Hello"]);
    assert_eq!(with, format!("2 {without}")); // <bos>
}

#[test]
fn run_continues_and_answers() {
    let Some(model) = model("run_continues_and_answers", SMOLLM2) else { return };
    let raw = &["run", "-m", &model, "-p", "The capital of France is", "-n", "6", "--temp", "0"];
    let raw = [raw as &[&str], &["--raw"]].concat();
    let streamed = text(&raw);
    assert!(streamed.contains("Paris"), "{streamed}");
    let whole = json(&[&raw as &[&str], &["--json"]].concat());
    let expected = [
        "decode_tok_s",
        "n_accepted",
        "n_drafted",
        "n_generated",
        "n_prompt",
        "prefill_tok_s",
        "seed",
        "stop",
        "text",
        "tokens",
    ];
    assert_eq!(keys(&whole), expected);
    assert_eq!(format!("{}\n", whole["text"].as_str().unwrap()), streamed);
    assert_eq!(whole["stop"], "length");
    assert_eq!(whole["n_generated"], 6);
    assert_eq!(whole["tokens"].as_array().unwrap().len(), 6);
    assert_eq!(whole["n_prompt"], 5);
    assert!(whole["prefill_tok_s"].as_f64().unwrap() > 0.0);
    assert!(whole["decode_tok_s"].as_f64().unwrap() > 0.0);
    // No tokens wanted, none given.
    let none = json(&["run", "-m", &model, "-p", "The capital", "-n", "0", "--raw", "--json"]);
    assert_eq!((&none["text"], &none["n_generated"]), (&"".into(), &0.into()));
    assert_eq!(none["decode_tok_s"], Value::Null);

    let ask = ["run", "-m", &model, "-p", "What is the capital of Germany?", "--temp", "0"];
    let answer = json(&[&ask as &[&str], &["-n", "64", "--json"]].concat());
    assert!(answer["text"].as_str().unwrap().contains("Berlin"), "{answer}");
    assert_eq!(answer["stop"], "eog", "{answer}");
    assert!(!answer["text"].as_str().unwrap().contains("<|im_end|>"), "{answer}");
}

#[test]
fn drafts_change_no_text() {
    let Some(model) = model("drafts_change_no_text", SMOLLM2) else { return };
    let list = "Monday, Tuesday, Wednesday, Thursday, Friday, ".repeat(3) + "Monday, Tuesday,";
    let run = |rest: &[&str]| {
        json(&[&["run", "-m", &model, "-p", &list, "--raw", "--json"] as &[&str], rest].concat())
    };
    let greedy = &["--temp", "0"] as &[&str];
    for sampling in [greedy, &["--temp", "0.5", "--seed", "3"]] {
        let plain = run(&[sampling, &["-n", "12"]].concat());
        let drafted = run(&[sampling, &["-n", "12", "--draft", "4"]].concat());
        assert_eq!(plain["tokens"], drafted["tokens"]);
        assert_eq!(plain["text"], drafted["text"]);
        assert_eq!((&plain["n_drafted"], &plain["n_accepted"]), (&0.into(), &0.into()));
        let count = |key: &str| drafted[key].as_u64().unwrap();
        assert!(count("n_accepted") <= count("n_drafted"), "{drafted}");
        // Of what is drawn less is as it was before.
        let least = count(if sampling == greedy { "n_accepted" } else { "n_drafted" });
        assert!(least > 0, "{drafted}");
    }
    // The context ends at the same token, and a draft wider than it is cut.
    let full = ["--temp", "0", "-n", "99", "--ctx", "48"];
    let (plain, drafted) = (run(&full), run(&[&full as &[&str], &["--draft", "30"]].concat()));
    assert_eq!((&plain["stop"], &plain["tokens"]), (&drafted["stop"], &drafted["tokens"]));
    assert_eq!(plain["stop"], "context");
    // The end of an answer, too; and what is said next follows it, a whole answer being drafted.
    let ask = ["-p", "What is the capital of Germany?", "--temp", "0", "-n", "64", "--json"];
    let ask = [&["run", "-m", &model] as &[&str], &ask].concat();
    let answer = json(&ask);
    let drafted = json(&[&ask as &[&str], &["--draft", "8"]].concat());
    assert_eq!((&answer["stop"], &answer["text"]), (&"eog".into(), &drafted["text"]));
    assert_eq!(answer["stop"], drafted["stop"]);
    let said = "What is the capital of Germany?\n".repeat(3) + "And of France?\n";
    let args = ["-m", &model, "--temp", "0", "-n", "64"];
    let drafted = [&args as &[&str], &["--draft", "15"]].concat();
    assert_eq!(chat(&args, &said), chat(&drafted, &said));
}

#[test]
fn a_seed_is_a_text_for_any_number_of_threads() {
    let Some(model) = model("a_seed_is_a_text_for_any_number_of_threads", SMOLLM2) else { return };
    let run = |seed: &str, threads: &str| {
        let base = ["run", "-m", &model, "-p", "Once upon a time", "--raw", "-n", "12"];
        let rest = ["--temp", "1", "--seed", seed, "-t", threads];
        text(&[&base as &[&str], &rest].concat())
    };
    let first = run("7", "1");
    assert_eq!(run("7", "2"), first);
    assert_ne!(run("8", "1"), first);
}

#[test]
fn a_full_context_ends_the_text_unless_it_is_endless() {
    let Some(model) = model("a_full_context_ends_the_text", SMOLLM2) else { return };
    let base = ["run", "-m", &model, "-p", "One, two, three, four,", "--raw", "--temp", "0"];
    let rest = ["--ctx", "24", "-n", "60", "--json"];
    let full = json(&[&base as &[&str], &rest].concat());
    assert_eq!(full["stop"], "context", "{full}");
    let endless = json(&[&base as &[&str], &rest, &["--endless"]].concat());
    assert_ne!(endless["stop"], "context", "{endless}");
    assert!(endless["n_generated"].as_u64() > full["n_generated"].as_u64(), "{endless}");
}

#[test]
fn a_budget_of_slots_makes_room_for_any_text() {
    let Some(model) = model("a_budget_of_slots_makes_room_for_any_text", SMOLLM2) else { return };
    let base = ["run", "-m", &model, "-p", "One, two, three, four,", "--raw", "--temp", "0"];
    let run = |budget: &str, more: &[&str]| {
        let rest = ["--ctx", "200", "-n", "300", "--json", "--kv-budget", budget];
        json(&[&base as &[&str], &rest, more].concat())
    };
    for (budget, more) in [("64", &[][..]), ("30%", &["--kv-policy", "attn"])] {
        let done = run(budget, more);
        assert!(done["stop"] != "context" && done["n_generated"].as_u64() > Some(200), "{done}");
    }
    for wrong in [
        ["--kv-budget", "0"],
        ["--kv-budget", "101%"],
        ["--kv-budget", "half"],
        ["--kv-policy", "magic"],
    ] {
        let output = tern(&[&base as &[&str], &wrong].concat());
        assert_eq!(output.status.code(), Some(2), "{wrong:?}: {}", stderr(&output));
        assert!(stderr(&output).contains(wrong[0]), "{}", stderr(&output));
    }
}

#[test]
fn an_interrupt_ends_the_text_and_not_the_program() {
    let Some(model) = model("an_interrupt_ends_the_text", SMOLLM2) else { return };
    let mut child = support::command(env!("CARGO_BIN_EXE_tern"))
        .args(["run", "-m", &model, "-p", "Count to a million: 1, 2, 3,", "--raw", "--endless"])
        .args(["-n", "1000000", "--temp", "0", "--repeat-penalty", "1.5", "--ctx", "64"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut out = child.stdout.take().unwrap();
    out.read_exact(&mut [0]).unwrap(); // it has begun to write
    let id = child.id().to_string();
    assert!(Command::new("kill").args(["-INT", &id]).status().unwrap().success());
    let mut rest = String::new();
    out.read_to_string(&mut rest).unwrap();
    let status = child.wait().unwrap();
    assert_eq!(status.code(), Some(0), "{status}");
    assert!(rest.ends_with('\n'));
}

/// Has a conversation; gives the lines that were answered.
fn chat(args: &[&str], said: &str) -> Vec<String> {
    let mut child = support::command(env!("CARGO_BIN_EXE_tern"))
        .args([&["chat"], args].concat())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    input.write_all(said.as_bytes()).unwrap();
    drop(input);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert_eq!(stderr(&output), ""); // no prompt, no figures where nobody watches
    stdout(&output).lines().map(|line| line.to_string()).collect()
}

#[test]
fn chat_remembers() {
    let Some(model) = model("chat_remembers", SMOLLM2) else { return };
    let said = "Remember the word banana.\n\nWhich word should you remember?\n";
    let answers = chat(&["-m", &model, "--temp", "0", "-n", "24"], said);
    assert_eq!(answers.len(), 2, "{answers:?}"); // an empty line is no turn
    assert!(answers[1].contains("banana"), "{answers:?}"); // its own turn does not say so
}

#[test]
fn chat_goes_on_when_the_context_is_full() {
    let Some(model) = model("chat_goes_on_when_the_context_is_full", SMOLLM2) else { return };
    let mut said = "Say one sentence about the sea.\n".repeat(6);
    said.push_str(&"A turn that is longer than the context. ".repeat(20));
    let args = ["-m", &model, "--temp", "0", "-n", "20", "--ctx", "96"];
    let answers = chat(&args, &said);
    assert!(answers.iter().filter(|answer| !answer.trim().is_empty()).count() >= 7, "{answers:?}");
}

#[test]
fn chat_needs_a_template() {
    let Some(model) = model("chat_needs_a_template", GEMMA3) else { return };
    let output = tern(&["chat", "-m", &model]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).starts_with("error: TERN_ERROR_BAD_TEMPLATE: "), "{output:?}");
    // `run` goes on with the text, as with --raw.
    let run = |extra: &[&str]| {
        let base = ["run", "-m", &model, "-p", "1, 2, 3, 4,", "-n", "4"];
        text(&[&base as &[&str], &["--temp", "0"], extra].concat())
    };
    assert!(run(&[]).contains('5'), "{}", run(&[]));
    assert_eq!(run(&["--raw"]), run(&[]));
}

#[test]
fn inspect_describes_real_models() {
    for (file, arch, n_layer, template) in
        [(SMOLLM2, "llama", 30, "ok"), (GEMMA3, "gemma3", 18, "none")]
    {
        let Some(model) = model("inspect_describes_real_models", file) else { continue };
        let found = json(&["inspect", &model, "--json", "--ctx", "2048"]);
        assert_eq!(found["arch"], arch);
        assert_eq!(found["n_layer"], n_layer);
        assert_eq!(found["metadata"]["general.architecture"], arch);
        assert_eq!(found["chat_template"], template);
        let plan = &found["plan"];
        let parts = ["weights_bytes", "vocab_bytes", "kv_bytes", "scratch_bytes"];
        let sum: u64 = parts.iter().map(|part| plan[part].as_u64().unwrap()).sum();
        assert_eq!(plan["total_bytes"].as_u64(), Some(sum));
        assert_eq!(plan["n_ctx"], 2048);
        let tensors = found["dtypes"].as_object().unwrap();
        let bytes: u64 = tensors.values().map(|t| t["bytes"].as_u64().unwrap()).sum();
        assert!(bytes <= fs::metadata(&model).unwrap().len());
        // Types of keys and values, by the memory they take: the smaller the later.
        let types = [
            "f32",
            "f32,q8_0",
            "f16",
            "q8_0,f16",
            "q8_0",
            "balanced",
            "tiny",
            "q4_h,q5_0",
            "q4_h",
            "q3_h",
        ];
        let bytes = types.map(|types| {
            let args = ["inspect", &model, "--json", "--ctx", "2048", "--kv-type", types];
            json(&args)["plan"]["kv_bytes"].as_u64().unwrap()
        });
        assert!(bytes.is_sorted_by(|a, b| a > b), "{bytes:?}");
        assert_eq!(plan["kv_bytes"].as_u64(), Some(bytes[2]));
        let page = text(&["inspect", &model]);
        assert!(page.contains(arch) && page.contains("general.architecture"), "{page}");
    }
}

const BENCH_KEYS: [&str; 12] = [
    "gb_s",
    "gmac_s",
    "kept",
    "max_us",
    "p50_us",
    "p99_us",
    "roof_gb_s",
    "roof_gmac_s",
    "share",
    "test",
    "threads",
    "tok_s",
];

/// The objects of `tern bench --json`, each with the keys that are promised, and their last.
fn bench(args: &[&str]) -> (Vec<Value>, Value) {
    let Value::Array(mut items) = json(&[args, &["--json"]].concat()) else { panic!("no array") };
    let last = items.pop().unwrap();
    assert_eq!(keys(&last), ["isa", "load_ms", "peak_rss_bytes", "ttft_ms"]);
    for item in items.iter().filter(|item| item["test"] != "roof") {
        assert_eq!(keys(item), BENCH_KEYS);
        assert_eq!(keys(&item["tok_s"]), ["max", "median", "min"]);
        let rate = |key: &str| item["tok_s"][key].as_f64().unwrap();
        assert!(
            0.0 < rate("min") && rate("min") <= rate("median") && rate("median") <= rate("max")
        );
        assert!(item["gb_s"].as_f64().unwrap() > 0.0);
        let us = |key: &str| item[key].as_f64().unwrap();
        assert!(us("p50_us") <= us("p99_us") && us("p99_us") <= us("max_us"));
        let is_prefill = item["test"].as_str().unwrap().starts_with("prefill");
        assert_eq!(item["gmac_s"].is_number(), is_prefill);
    }
    (items, last)
}

fn tests_of(items: &[Value]) -> Vec<(&str, u64)> {
    let threads = |item: &Value| item["threads"].as_u64().unwrap();
    items.iter().map(|item| (item["test"].as_str().unwrap(), threads(item))).collect()
}

#[test]
fn bench_prints_what_scripts_read() {
    let Some(model) = timed_model("bench_prints_what_scripts_read") else { return };
    let args = ["bench", "-m", &model, "-p", "16", "-n", "4", "-t", "1,2", "-r", "2"];
    let (items, last) = bench(&args);
    let tests = [("prefill-16", 1), ("decode-4", 1), ("prefill-16", 2), ("decode-4", 2)];
    assert_eq!(tests_of(&items), tests);
    assert!(items.iter().all(|item| item["share"].is_null() && item["kept"].is_null()));
    assert!(last["peak_rss_bytes"].as_u64().unwrap() > 1 << 20);
    assert!(last["ttft_ms"].as_f64().unwrap() > 0.0);
    let page = text(&args);
    assert!(page.lines().count() == 6 && page.contains("decode-4"), "{page}");
}

#[test]
fn bench_measures_the_roof_and_company() {
    let Some(model) = timed_model("bench_measures_the_roof_and_company") else { return };
    let args = ["bench", "-m", &model, "-p", "8", "-n", "4", "-d", "0,64", "-t", "1", "-r", "1"];
    let (items, last) = bench(&[&args as &[&str], &["--roof", "--busy", "1"]].concat());
    let tests =
        ["prefill-8", "decode-4", "decode-4+1busy", "decode-4@64", "decode-4@64+1busy", "roof"];
    assert_eq!(tests_of(&items), tests.map(|test| (test, 1)));
    let roof = items[5]["gb_s"].as_f64().unwrap();
    assert!(items[5]["median_gb_s"].as_f64().unwrap() <= roof);
    // The scalar kernels have no instruction that could be a roof.
    assert_eq!(items[5]["gmac_s"].is_null(), last["isa"] == "scalar");
    assert_eq!(items[0]["roof_gmac_s"], items[5]["gmac_s"]);
    assert_eq!(items[0]["share"].is_null(), last["isa"] == "scalar");
    for item in &items[1..5] {
        let get = |key: &str| item[key].as_f64().unwrap();
        assert_eq!(get("roof_gb_s"), roof);
        assert!((get("share") - get("gb_s") / roof).abs() < 1e-9);
        assert_eq!(item["kept"].is_number(), item["test"].as_str().unwrap().contains("busy"));
    }
    // The buffer that the roof is measured with is 256 MiB at least, and no part of the peak.
    let smaller = bench(&args).1["peak_rss_bytes"].as_u64().unwrap();
    assert!(last["peak_rss_bytes"].as_u64().unwrap() < smaller + (64 << 20));
}

#[test]
fn bench_says_where_the_time_goes() {
    let Some(model) = timed_model("bench_says_where_the_time_goes") else { return };
    let args = ["bench", "-m", &model, "-p", "16", "-n", "4", "-t", "2", "-r", "1", "--phases"];
    let Value::Array(items) = json(&[&args as &[&str], &["--json"]].concat()) else { panic!() };
    let phases = ["attend", "attn_out", "embed", "ffn_down", "ffn_up", "head", "qkv"];
    for item in &items[..2] {
        assert_eq!(keys(&item["phases"]), phases);
        let parts = phases.map(|phase| item["phases"][phase].as_f64().unwrap());
        assert!((parts.iter().sum::<f64>() - 1.0).abs() < 1e-9, "{item}");
        assert!(parts.iter().all(|part| (0.0..1.0).contains(part)), "{item}");
        // The feed-forward block has most of the weights, whatever the machine.
        assert!(parts[3] + parts[4] > parts[1], "{item}");
    }
    assert!(text(&args).contains("ffn_up"));
}

#[test]
fn bench_measures_drafts() {
    let Some(model) = timed_model("bench_measures_drafts") else { return };
    let args = ["bench", "-m", &model, "-p", "0", "-n", "16", "-t", "1", "-r", "1", "--draft", "4"];
    let Value::Array(items) = json(&[&args as &[&str], &["--json"]].concat()) else { panic!() };
    let tests = ["decode-16", "repeat-16", "repeat-16+draft4"];
    assert_eq!(tests_of(&items[..3]), tests.map(|test| (test, 1)));
    let with = &items[2];
    let mut expected = [&BENCH_KEYS[..], &["n_accepted", "n_drafted", "speedup"]].concat();
    expected.sort_unstable();
    assert_eq!(keys(with), expected);
    let count = |key: &str| with[key].as_u64().unwrap();
    assert!(0 < count("n_accepted") && count("n_accepted") <= count("n_drafted"), "{with}");
    let median = |item: &Value| item["tok_s"]["median"].as_f64().unwrap();
    let speedup = median(with) / median(&items[1]);
    assert!((with["speedup"].as_f64().unwrap() - speedup).abs() < 1e-9);
}

#[test]
fn bench_compares_with_a_peer() {
    let Some(model) = timed_model("bench_compares_with_a_peer") else { return };
    // A peer that is as fast as it says, if it is asked as llama-bench wants to be asked.
    let script = "case \"$*\" in
        '-m /else where.gguf -r 1 -o json -t 1 -n 0 -p 16') s=100;;
        '-m /else where.gguf -r 1 -o json -t 1 -p 0 -n 4 -d 0') s=50;;
        '-m /else where.gguf -r 1 -o json -t 1 -p 0 -n 4 -d 32') s=25;;
        '-m /else where.gguf -r 1 -o json -t 1 -n 0 -p 8 --no-warmup') s=10;;
        *) echo \"unexpected: $*\" >&2; exit 3;;
        esac
        echo warning >&2
        echo \"[{\\\"build_commit\\\": \\\"toy\\\", \\\"build_number\\\": 7, \\\"avg_ts\\\": $s}]\"";
    let script = Temp::new("peer.sh", script.as_bytes());
    let peer = format!("sh {}", script.path());
    let base = ["bench", "-m", &model, "-p", "16", "-n", "4", "-t", "1", "-r", "2", "--compare"];
    let all = ["-d", "0,32", "--busy", "1", "--peer", &peer, "--peer-model", "/else where.gguf"];
    let all = [&base as &[&str], &all].concat();
    let Value::Array(mut rows) = json(&[&all as &[&str], &["--json"]].concat()) else { panic!() };
    let last = rows.pop().unwrap();
    assert_eq!(keys(&last), ["isa", "peer", "runs"]);
    assert_eq!((&last["peer"], &last["runs"]), (&"toy 7".into(), &2.into()));
    let tests = ["prefill-16", "decode-4", "decode-4@32", "decode-4+1busy", "first-token-8"];
    assert_eq!(tests_of(&rows), tests.map(|test| (test, 1)));
    for (row, speed) in rows.iter().zip([Some(100.0), Some(50.0), Some(25.0), Some(50.0), None]) {
        let get = |who: &str, what: &str| row[who][what].as_f64().unwrap();
        assert!(0.0 < get("tern", "min") && get("tern", "min") <= get("tern", "median"));
        assert_eq!(row["unit"], if speed.is_some() { "tok_s" } else { "ms" });
        let (tern, peer) = (get("tern", "median"), get("peer", "median"));
        let ratio = if speed.is_some() { tern / peer } else { peer / tern };
        assert!((row["ratio"].as_f64().unwrap() - ratio).abs() < 1e-9);
        assert!(speed.is_none_or(|speed| peer == speed), "{row}");
        assert_eq!(row["tern_kept"].is_number(), row["test"] == "decode-4+1busy");
    }
    assert_eq!(rows[3]["peer_kept"], 1.0);

    for (peer, expected) in [
        ("/nowhere/llama-bench", "/nowhere/llama-bench: not found; Debian has llama-bench in"),
        (peer.as_str(), "it said: unexpected: -m /"), // no --peer-model
        ("true", "true: printed no JSON"),
        ("echo {} --", "echo: printed no JSON"),
    ] {
        let output = tern(&[&base as &[&str], &["--peer", peer]].concat());
        let error = stderr(&output);
        assert_eq!(output.status.code(), Some(1), "{error}");
        assert!(error.starts_with("error: TERN_ERROR_IO: ") && error.contains(expected), "{error}");
        assert_eq!((error.lines().count(), stdout(&output)), (1, ""));
    }
}
