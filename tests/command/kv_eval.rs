//! `tern kv-eval`: on a tiny model what must hold exactly, on a real one what must be better.

use std::fmt::Write;
use std::fs;

use serde_json::Value;

use super::support::tiny::{Random, Tiny};
use super::{Temp, assert_usage_error, json, keys, stderr, stdout, tern, text, timed_model};

/// A tiny model and a text for it.
struct Inputs {
    model: Temp,
    text: Temp,
}

impl Inputs {
    fn new(test: &str) -> Inputs {
        // Random weights are sure of what they say. The cap makes them doubt, so that what they
        // attend to matters.
        Inputs::of(test, &Tiny { softcaps: (50.0, 3.0), ..Tiny::new("gemma2") })
    }

    fn of(test: &str, tiny: &Tiny) -> Inputs {
        let mut random = Random(7);
        let mut prose = String::new();
        for _ in 0..1200 {
            let word = ["the", "other", "and", "rain", "stone", "is", "lost", "41"];
            write!(prose, "{} ", word[random.next() as usize % word.len()]).unwrap();
        }
        Inputs {
            model: Temp::new(&format!("{test}.gguf"), &tiny.gguf()),
            text: Temp::new(&format!("{test}.txt"), prose.as_bytes()),
        }
    }

    fn args<'a>(&'a self, rest: &[&'a str]) -> Vec<&'a str> {
        let base = ["kv-eval", "-m", self.model.path(), "--text", self.text.path()];
        let small = ["--prompt", "200", "--generate", "40", "--segments", "2"];
        [&base as &[&str], &small, rest].concat()
    }

    fn json(&self, rest: &[&str]) -> Value {
        json(&self.args(&[rest, &["--json"]].concat()))
    }
}

const KEYS: [&str; 26] = [
    "agree",
    "budget",
    "bytes",
    "bytes_full",
    "ci95",
    "composition",
    "evict_us",
    "evicted",
    "evictions",
    "generate",
    "greedy",
    "kld",
    "kv_types",
    "needle",
    "peak_slots",
    "policy",
    "ppl",
    "ppl_full",
    "prompt",
    "q_ppl",
    "seed",
    "segments",
    "slots",
    "test",
    "texts",
    "tokens",
];
const POLICIES: [&str; 13] = [
    "none",
    "hybrid",
    "attn",
    "h2o",
    "snapkv",
    "tova",
    "keydiff",
    "streaming",
    "expected",
    "kvzip",
    "knorm",
    "random",
    "ring",
];
const FIGURES: [&str; 5] = ["agree", "kld", "ppl", "ppl_full", "q_ppl"];

fn number(object: &Value, key: &str) -> f64 {
    object[key].as_f64().unwrap_or_else(|| panic!("{key} of {object}"))
}

#[test]
fn a_cache_that_keeps_everything_differs_in_nothing() {
    let inputs = Inputs::new("whole");
    let whole = ["--policy", "streaming", "--budget", "1.0"];
    let none = ["--policy", "none"];
    for policy in [&none as &[&str], &whole] {
        for test in [&[] as &[&str], &["--stream", "400"]] {
            let found = inputs.json(&[policy, test].concat());
            let exact = ["q_ppl", "kld", "agree"].map(|figure| number(&found, figure));
            assert_eq!(exact, [1.0, 0.0, 1.0]);
            assert_eq!(found["ppl"], found["ppl_full"]);
            assert_eq!((&found["evictions"], &found["evicted"]), (&0.into(), &0.into()));
            assert_eq!(found["bytes"], found["bytes_full"]);
            assert_eq!(found["evict_us"]["max"], Value::Null);
        }
    }
    // That is not because it compares nothing.
    let other = inputs.json(&["--policy", "none", "--kv-type", "q8_0"]);
    assert!(number(&other, "kld") > 0.0 && number(&other, "kld") < 0.1, "{other}");
    assert!(number(&other, "bytes") < number(&other, "bytes_full"));
    assert_eq!(other["tokens"], 80); // 2 segments of 40
}

#[test]
fn results_have_what_is_promised() {
    let inputs = Inputs::new("keys");
    for policy in ["streaming", "ring"] {
        let found = inputs.json(&["--policy", policy]);
        assert_eq!(keys(&found), KEYS);
        assert_eq!((&found["test"], &found["needle"]), (&"once".into(), &Value::Null));
        assert_eq!(found["slots"], 40); // 0.2 of 200
        assert_eq!(found["peak_slots"], 200); // the prompt
        assert_eq!((&found["evictions"], &found["evicted"]), (&2.into(), &320.into()));
        assert!(number(&found, "kld") > 0.0 && number(&found, "agree") <= 1.0, "{found}");
        // A fifth, but for the rounding of two buffers of different size.
        let part = number(&found, "bytes") / number(&found, "bytes_full");
        assert!((0.19..0.21).contains(&part), "{part}");
        assert_eq!(keys(&found["ci95"]), FIGURES);
        for figure in FIGURES {
            let interval = found["ci95"][figure].as_array().unwrap();
            let (low, high) = (interval[0].as_f64().unwrap(), interval[1].as_f64().unwrap());
            assert!(low <= number(&found, figure) && number(&found, figure) <= high, "{found}");
        }
        let us = &found["evict_us"];
        assert!(0.0 < number(us, "mean") && number(us, "mean") <= number(us, "max"));
        let texts = found["texts"].as_array().unwrap();
        assert_eq!((texts.len(), &texts[0]["kld"]), (1, &found["kld"]));
    }
    let page = text(&inputs.args(&["--policy", "ring"]));
    assert!(FIGURES.iter().all(|figure| page.contains(figure)), "{page}");
    assert!(page.starts_with("ring: keeps"), "{page}");
}

#[test]
fn a_stream_never_holds_more_than_its_budget_and_a_chunk() {
    let inputs = Inputs::new("stream");
    for (policy, n, budget) in [("streaming", "500", "0.2"), ("ring", "301", "0.5")] {
        let found = inputs.json(&["--policy", policy, "--stream", n, "--budget", budget]);
        let slots = number(&found, "slots");
        assert_eq!(slots, (n.parse::<f64>().unwrap() * budget.parse::<f64>().unwrap()).floor());
        let peak = number(&found, "peak_slots");
        assert!(slots < peak && peak <= slots + 128.0, "{found}");
        assert_eq!(found["stream"], n.parse::<u32>().unwrap());
        assert_eq!(found["test"], "stream");
        assert!(number(&found, "evictions") >= 2.0 && number(&found, "kld") > 0.0, "{found}");
    }
}

#[test]
fn figures_do_not_depend_on_threads_but_on_the_seed() {
    let inputs = Inputs::new("threads");
    let run = |threads: &str, seed: &str| {
        let args = ["--policy", "streaming", "--needles", "3", "-t", threads, "--seed", seed];
        let mut found = inputs.json(&args);
        found["evict_us"] = Value::Null;
        found
    };
    let one = run("1", "1");
    assert_eq!(run("2", "1"), one);
    let other = run("1", "2");
    assert_ne!((&other["ppl_full"], &other["kld"]), (&one["ppl_full"], &one["kld"]));
    for ask in ["aware", "streamed"] {
        assert_eq!(one["needle"][ask]["asked"], 3);
        assert!(one["needle"][ask]["full"].as_u64() <= Some(3));
    }
}

#[test]
fn what_cannot_be_measured_is_a_usage_error() {
    let inputs = Inputs::new("usage");
    let cases: &[(&[&str], &str)] = &[
        (&["--policy", "magic"], "one of none, hybrid, attn, h2o"),
        (&[], "one of none, hybrid, attn, h2o"),
        (&["--policy", "ring", "--budget", "0"], "more than 0"),
        (&["--policy", "ring", "--budget", "1.5"], "0 to 1"),
        (&["--policy", "ring", "--budget", "NaN"], "0 to 1"),
        (&["--policy", "ring", "--budget", "0.01"], "2 of 200 tokens, expected 8 or more"),
        (&["--policy", "ring", "--segments", "100"], "expected 100 times 241 or more"),
        (&["--policy", "ring", "--prompt", "900"], "trained on 512"),
        (&["--policy", "ring", "--needles", "2", "--prompt", "50"], "too short to hide"),
        (&["--policy", "ring", "--greedy", "127"], "expected 128 or more"),
        (&["--policy", "ring", "--greedy", "500"], "625 tokens: the model was trained on 512"),
        (&["--policy", "ring", "--composition", "--stream", "256"], "expected 257 or more"),
        (&["--policy", "ring", "--ctx", "512"], "--ctx"),
        (&["--policy", "ring", "--suite", "--out", "x"], "no --policy"),
        (&["--suite"], "--out FILE"),
        (&["--policy", "ring", "--out", "x"], "--suite"),
    ];
    let short = Temp::new("short.txt", b"Too short a text.");
    let short = [
        &["kv-eval", "-m", inputs.model.path(), "--text", short.path()] as &[&str],
        &["--policy", "none", "--prompt", "200"],
    ]
    .concat();
    let cases = cases.iter().map(|(rest, expected)| (inputs.args(rest), *expected));
    for (args, expected) in cases.chain([(short, "expected 8 times 457 or more")]) {
        assert_usage_error(&args, expected);
    }
}

#[test]
fn what_a_full_cache_writes_is_what_it_writes() {
    let inputs = Inputs::new("greedy");
    let run = |policy: &str| {
        let found = inputs.json(&["--policy", policy, "--greedy", "200"])["greedy"].clone();
        let figures = ["prefix", "rouge_l", "f1"].map(|figure| number(&found, figure));
        (found, figures)
    };
    let (none, figures) = run("none");
    assert_eq!(figures, [200.0, 1.0, 1.0]);
    assert_eq!((&none["evictions"], &none["slots"]), (&0.into(), &250.into()));
    let (ring, [prefix, rouge_l, f1]) = run("ring");
    assert!(prefix / 200.0 <= rouge_l && rouge_l <= f1 && f1 <= 1.0, "{ring}");
    assert!(number(&ring, "evictions") > 0.0, "{ring}");
    let peak = number(&ring, "peak_slots");
    assert_eq!((&ring["slots"], &ring["prompts"]), (&50.into(), &1.into()));
    assert!(50.0 < peak && peak <= 178.0, "{ring}");
}

#[test]
fn sessions_that_evict_compose() {
    let inputs = Inputs::new("compose");
    for policy in ["none", "hybrid", "tova", "random", "expected", "kvzip"] {
        let rest =
            ["--policy", policy, "--composition", "--stream", "400", "--kv-type", "balanced"];
        let found = inputs.json(&rest)["composition"].clone();
        for way in ["forked", "restored", "rolled_back", "drafted", "shared"] {
            assert_eq!(found[way], true, "{policy}: {found}");
        }
        // Something was taken back, or nothing was shown.
        assert!(number(&found, "n_drafted") > number(&found, "n_accepted"), "{policy}: {found}");
        assert!(number(&found, "snapshot_bytes") > 0.0 && number(&found, "restore_ms") > 0.0);
        assert_eq!(found["pos"], 256);
        // Whose policy has seen every token take none from others.
        let takes = ["none", "random", "kvzip"].contains(&policy);
        assert_eq!(number(&found, "n_shared") > 0.0, takes, "{policy}: {found}");
        assert_eq!(found["slots"], if policy == "none" { 256 } else { 80 });
    }
}

/// The least that a suite can be.
const SMALL_SUITE: [&str; 8] =
    ["--suite", "--stream", "300", "--needles", "2", "--greedy", "128", "--json"];
/// Those that it measures in a stream, too.
const MAIN: [&str; 7] = ["none", "hybrid", "attn", "h2o", "snapkv", "streaming", "ring"];
const WITH_TYPES: [&str; 3] = ["none", "hybrid", "attn"];

/// A page and its plots, removed afterwards.
struct Page {
    page: Temp,
    plots: [String; 3],
}

impl Page {
    fn new(test: &str) -> Page {
        let page = Temp::new(&format!("{test}.md"), b"");
        let plot = |ending: &str| page.path().replace(".md", ending);
        let plots = [".svg", ".2.svg", ".3.svg"].map(plot);
        Page { page, plots }
    }

    fn text(&self) -> String {
        fs::read_to_string(self.page.path()).unwrap()
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        for plot in &self.plots {
            let _ = fs::remove_file(plot);
        }
    }
}

#[test]
fn sessions_compose_with_the_first_tokens_of_others() {
    let tiny = Tiny { n_embd: 128, n_ff: 128, ..Tiny::new("llama") };
    let inputs = Inputs::of("shared", &tiny);
    // A policy that counts attention has to see every token.
    for (policy, n_shared) in [("none", 128), ("streaming", 128), ("hybrid", 0)] {
        let rest = ["--policy", policy, "--composition", "--stream", "400"];
        let found = inputs.json(&rest)["composition"].clone();
        assert_eq!(found["shared"], true, "{policy}: {found}");
        assert_eq!(found["n_shared"], n_shared, "{policy}: {found}");
    }
}

#[test]
fn the_suite_fails_if_a_control_does_not() {
    let inputs = Inputs::new("suite");
    let page = Page::new("suite");
    // A ring that keeps everything is as good as the full cache, and the suite must not have it.
    let rest = ["--out", page.page.path(), "--budget", "1", "--text", "/nowhere.txt"];
    let output = tern(&inputs.args(&[&SMALL_SUITE as &[&str], &rest].concat()));
    let error = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{error}");
    let lines: Vec<&str> = error.lines().collect();
    assert_eq!(lines[0], "/nowhere.txt: not there, left out");
    assert!(lines[1].starts_with("error: ") && lines[1].contains("'ring' passes"), "{error}");
    // The page and the plots are there all the same.
    let rows: Value = serde_json::from_str(stdout(&output)).unwrap();
    let rows = rows.as_array().unwrap();
    let policies: Vec<&str> = rows.iter().map(|row| row["policy"].as_str().unwrap()).collect();
    let last = POLICIES.len();
    let with_types = WITH_TYPES.map(|policy| [policy; 4]).concat();
    assert_eq!(policies, [&POLICIES as &[&str], &["none"], &MAIN, &["none"], &with_types].concat());
    // What rounding costs, beside what costs nothing.
    let kld = |i: usize| number(&rows[i], "kld");
    assert_eq!((&rows[last]["kv_types"], kld(0)), (&["f32", "f32"].into_iter().collect(), 0.0));
    assert!(kld(last) > 0.0, "{rows:?}");
    // Beside the policies of the first test, what else was asked.
    for row in &rows[..last] {
        let policy = row["policy"].as_str().unwrap();
        assert_eq!(row["composition"]["restored"], true, "{row}");
        let is_asked = MAIN[1..6].contains(&policy);
        assert_eq!(row["greedy"]["tokens"].as_u64(), is_asked.then_some(128), "{row}");
        assert_eq!(row["needle"]["aware"]["asked"].as_u64(), is_asked.then_some(2), "{row}");
    }
    assert!(rows[last..].iter().all(|row| row["composition"].is_null()));
    let text = page.text();
    assert!(text.matches("control: PASSES, and must not").count() == 2, "{text}");
    let sections = [&policies[..=last], &policies[last + 1..][..8], &WITH_TYPES];
    for (plot, policies) in page.plots.iter().zip(sections) {
        let svg = fs::read_to_string(plot).unwrap();
        assert!(text.contains(plot.rsplit('/').next().unwrap()), "{text}");
        assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"));
        assert!(policies.iter().all(|policy| svg.contains(&format!(">{policy}"))));
        assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
    }
}

#[test]
fn a_suite_leaves_out_what_the_model_refuses_and_spares_windows() {
    let tiny = Tiny { window: 20, n_layer: 6, ..Tiny::new("gemma3") };
    let inputs = Inputs::of("sliding", &tiny);
    let page = Page::new("sliding");
    let output =
        tern(&inputs.args(&[&SMALL_SUITE as &[&str], &["--out", page.page.path()]].concat()));
    let rows: Value = serde_json::from_str(stdout(&output)).expect("rows");
    let rows = rows.as_array().unwrap();
    let text = page.text();
    // The keys of this model are normalised.
    assert!(text.contains("## Left out") && text.matches("- ").count() >= 2, "{text}");
    assert!(text.contains("KV policy knorm: ") && text.contains("kv_dtype small: "), "{text}");
    assert!(rows.iter().all(|row| row["policy"] != "knorm"));
    // Half of the slots, and a fifth for comparison.
    let budgets: Vec<f64> = rows.iter().map(|row| number(row, "budget")).collect();
    assert_eq!((budgets[0], budgets.iter().filter(|&&budget| budget == 0.2).count()), (0.5, 5));
    assert!(text.contains("| hybrid, 20 % |") && text.contains("| hybrid: kld | at most 0.035 |"));
    let gates = text.matches("| holds |").count() + text.matches("| **misses** |").count();
    assert_eq!(gates, 2, "{text}");
}

#[test]
fn sinks_make_the_difference_on_a_real_model() {
    let test = "sinks_make_the_difference_on_a_real_model";
    // Thousands of tokens: too many for an emulator.
    let Some(model) = timed_model(test) else { return };
    let Some(prose) = super::support::cached(test, "texts/austen-32k.txt")
        .or_else(|| super::support::cached(test, "texts/austen.txt"))
    else {
        return;
    };
    let run = |policy: &str, rest: &[&str]| {
        let base = ["kv-eval", "-m", &model, "--text", prose.to_str().unwrap(), "--json"];
        let small = ["--prompt", "256", "--generate", "32", "--segments", "2"];
        json(&[&base as &[&str], &small, &["--policy", policy], rest].concat())
    };
    let (streaming, ring) = (run("streaming", &[]), run("ring", &["--greedy", "128"]));
    let q_ppl = |found: &Value| number(found, "q_ppl");
    assert!(q_ppl(&streaming) > q_ppl(&ring) + 0.2, "{streaming} {ring}");
    assert!(number(&streaming, "kld") < number(&ring, "kld"));
    assert_eq!(streaming["ppl_full"], ring["ppl_full"]);
    let written = &ring["greedy"];
    assert!(number(written, "prefix") < 128.0 && number(written, "rouge_l") < 1.0, "{written}");
    // The full cache finds needles; so they can be found, and what finds fewer has lost them.
    let none = run("none", &["--needles", "4"]);
    for ask in ["aware", "streamed"] {
        let found = &none["needle"][ask];
        assert!(number(found, "full") >= 2.0, "{none}");
        assert_eq!(found["found"], found["full"]);
        assert_eq!(found["log_p"], found["log_p_full"]);
    }
}
