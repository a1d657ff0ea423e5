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
        let tiny = Tiny { softcaps: (50.0, 3.0), ..Tiny::new("gemma2") };
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

const KEYS: [&str; 24] = [
    "agree",
    "budget",
    "bytes",
    "bytes_full",
    "ci95",
    "evict_us",
    "evicted",
    "evictions",
    "generate",
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
const POLICIES: [&str; 11] = [
    "none",
    "hybrid",
    "attn",
    "h2o",
    "snapkv",
    "tova",
    "keydiff",
    "streaming",
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
fn the_suite_fails_if_a_control_does_not() {
    let inputs = Inputs::new("suite");
    let page = Temp::new("suite.md", b"");
    let plots = [page.path().replace(".md", ".svg"), page.path().replace(".md", ".2.svg")];
    // A ring that keeps everything is as good as the full cache, and the suite must not have it.
    let rest = ["--suite", "--out", page.path(), "--budget", "1", "--stream", "300", "--json"];
    let output = tern(&inputs.args(&[&rest as &[&str], &["--text", "/nowhere.txt"]].concat()));
    let error = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{error}");
    let lines: Vec<&str> = error.lines().collect();
    assert_eq!(lines[0], "/nowhere.txt: not there, left out");
    assert!(lines[1].starts_with("error: ") && lines[1].contains("the control 'ring'"), "{error}");
    // The page and the plots are there all the same.
    let rows: Value = serde_json::from_str(stdout(&output)).unwrap();
    let rows = rows.as_array().unwrap();
    let policies: Vec<&str> = rows.iter().map(|row| row["policy"].as_str().unwrap()).collect();
    let last = POLICIES.len();
    assert_eq!(policies, [&POLICIES as &[&str], &["none"]].concat().repeat(2));
    // What rounding costs, beside what costs nothing.
    let kld = |i: usize| number(&rows[i], "kld");
    assert_eq!((&rows[last]["kv_types"], kld(0)), (&["f32", "f32"].into_iter().collect(), 0.0));
    assert!(kld(last) > 0.0, "{rows:?}");
    let page = fs::read_to_string(page.path()).unwrap();
    assert!(page.matches("control: PASSES, and must not").count() == 2, "{page}");
    for plot in plots {
        let svg = fs::read_to_string(&plot).unwrap();
        fs::remove_file(&plot).unwrap();
        assert!(page.contains(plot.rsplit('/').next().unwrap()), "{page}");
        assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"));
        assert!(policies.iter().all(|policy| svg.contains(&format!(">{policy}</text>"))));
        assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
    }
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
    let (streaming, ring) = (run("streaming", &[]), run("ring", &[]));
    let q_ppl = |found: &Value| number(found, "q_ppl");
    assert!(q_ppl(&streaming) > q_ppl(&ring) + 0.2, "{streaming} {ring}");
    assert!(number(&streaming, "kld") < number(&ring, "kld"));
    assert_eq!(streaming["ppl_full"], ring["ppl_full"]);
    // The full cache finds needles; so they can be found, and what finds fewer has lost them.
    let none = run("none", &["--needles", "4"]);
    for ask in ["aware", "streamed"] {
        let found = &none["needle"][ask];
        assert!(number(found, "full") >= 2.0, "{none}");
        assert_eq!(found["found"], found["full"]);
        assert_eq!(found["log_p"], found["log_p_full"]);
    }
}
