//! What was measured, as a table for people and as JSON for scripts.

use std::fmt::Write;

use serde_json::{Map, Value as Json, json};
use tern::engine::{kv_preset, kv_type_names};

use super::super::output;
use super::figures::{Figures, NAMES, Q_PPL, figures};
use super::measure::{Bench, F16, Outcome, Test};
use super::needles::{ASKS, Found};
use super::policy::Role;
use super::score::Score;

/// Quality by perplexity that a policy must have in the mean over all segments.
pub(crate) const LEAST_MEAN: f64 = 0.90;
/// And in the mean over those of the worst text.
pub(crate) const LEAST_WORST: f64 = 0.85;

/// One line of a result: a policy and its figures.
pub(crate) struct Line<'a> {
    /// What was done.
    pub(crate) test: Test,
    /// What came of it.
    pub(crate) outcome: &'a Outcome,
    /// The figures over all segments.
    pub(crate) all: Figures,
    /// Those of each text, by its name.
    pub(crate) texts: Vec<(&'a str, Figures)>,
    /// What came of the needles, if there were any.
    pub(crate) needles: Option<&'a [Found; 2]>,
}

impl<'a> Line<'a> {
    /// Makes the figures.
    pub(crate) fn new(
        bench: &'a Bench<'_>,
        test: Test,
        outcome: &'a Outcome,
        needles: Option<&'a [Found; 2]>,
    ) -> Line<'a> {
        let of = |wanted: Option<usize>| {
            let found = outcome.scores.iter().filter(|(i, _)| wanted.is_none_or(|w| w == *i));
            figures(&found.map(|(_, score)| *score).collect::<Vec<Score>>(), bench.seed)
        };
        let texts = bench.texts.iter().enumerate();
        let texts = texts.map(|(i, text)| (text.name.as_str(), of(Some(i)))).collect();
        Line { test, outcome, all: of(None), texts, needles }
    }

    /// The quality on the text where it is least.
    pub(crate) fn worst(&self) -> f64 {
        self.texts.iter().map(|(_, f)| f[Q_PPL].mean).fold(f64::INFINITY, f64::min)
    }

    /// Whether the policy passes the gates.
    pub(crate) fn passes(&self) -> bool {
        self.all[Q_PPL].mean >= LEAST_MEAN && self.worst() >= LEAST_WORST
    }

    /// What is wrong with the harness, if this is a control that did not do what it must.
    pub(crate) fn broken_control(&self) -> Option<&'static str> {
        let [.., kld, agree] = self.all;
        let is_f16 = self.outcome.entry.kv_types == F16;
        match self.outcome.entry.policy.role {
            Role::MustFail if self.passes() => Some("passes the gates and must not"),
            Role::Exact if is_f16 && (kld.mean, agree.mean) != (0.0, 1.0) => {
                Some("differs from the full cache and must not")
            }
            _ => None,
        }
    }

    /// What the line is called in the suite.
    pub(crate) fn label(&self, bench: &Bench<'_>) -> String {
        let entry = self.outcome.entry;
        match entry.kv_types == bench.common.kv_types {
            true => entry.policy.name.into(),
            false => format!("{}, {}", entry.policy.name, type_names(entry.kv_types).0),
        }
    }

    /// Mean microseconds of an eviction, and the most that one took.
    pub(crate) fn evict_us(&self) -> (Option<f64>, Option<f64>) {
        let counters = self.outcome.counters;
        let n = counters.n_evictions;
        let mean = (n > 0).then(|| counters.evict_ns as f64 / n as f64 / 1e3);
        (mean, (n > 0).then(|| counters.longest_ns as f64 / 1e3))
    }

    /// The line as JSON.
    pub(crate) fn json(&self, bench: &Bench<'_>) -> Json {
        let outcome = self.outcome;
        let mut object = Map::new();
        let mut set = |key: &str, value: Json| object.insert(key.into(), value);
        let (test, prompt, generate) = match self.test {
            Test::Once { n_prompt, n_generate } => ("once", n_prompt, n_generate),
            Test::Stream { n } => ("stream", n, 0),
        };
        let (k, v) = type_names(outcome.entry.kv_types);
        set("policy", outcome.entry.policy.name.into());
        set("kv_types", json!([k, v]));
        set("test", test.into());
        set(if test == "once" { "prompt" } else { "stream" }, prompt.into());
        if test == "once" {
            set("generate", generate.into());
        }
        set("budget", bench.budget.into());
        set("slots", outcome.slots.into());
        set("seed", bench.seed.into());
        set("segments", outcome.scores.len().into());
        set("tokens", outcome.scores.iter().map(|(_, score)| score.n_tokens).sum::<u64>().into());
        for (name, figure) in NAMES.iter().zip(self.all) {
            set(name, figure.mean.into());
        }
        set("ci95", intervals(&self.all));
        let texts = self.texts.iter().map(|(name, found)| {
            let mut object = Map::from_iter([("text".to_string(), json!(name))]);
            let means = NAMES.iter().zip(found).map(|(n, f)| (n.to_string(), f.mean.into()));
            object.extend(means);
            object.insert("ci95".into(), intervals(found));
            Json::Object(object)
        });
        set("texts", texts.collect());
        set("needle", self.needles.map_or(Json::Null, needle_json));
        set("evictions", outcome.counters.n_evictions.into());
        set("evicted", outcome.counters.n_evicted.into());
        set("peak_slots", outcome.counters.peak_slots.into());
        set("bytes", outcome.bytes.into());
        set("bytes_full", outcome.bytes_full.into());
        let (mean, max) = self.evict_us();
        set("evict_us", json!({ "mean": mean, "max": max }));
        Json::Object(object)
    }

    /// The line as a table.
    pub(crate) fn table(&self) -> String {
        let (outcome, policy) = (self.outcome, self.outcome.entry.policy);
        let mut out = format!("{}: keeps {}\n\n", policy.name, policy.keeps);
        // Writing to a string cannot fail.
        let _ = writeln!(out, "{:<24}{:>10}{:>24}", "", "mean", "95 % of resamples");
        for (name, figure) in NAMES.iter().zip(self.all) {
            let interval = format!("{:.4} to {:.4}", figure.low, figure.high);
            let _ = writeln!(out, "{name:<24}{:>10.4}{interval:>24}", figure.mean);
        }
        if self.texts.len() > 1 {
            for (name, found) in &self.texts {
                let figure = found[Q_PPL];
                let interval = format!("{:.4} to {:.4}", figure.low, figure.high);
                let name = format!("q_ppl {name}");
                let _ = writeln!(out, "{name:<24}{:>10.4}{interval:>24}", figure.mean);
            }
        }
        for (found, (_, ask)) in self.needles.into_iter().flatten().zip(ASKS) {
            let _ = writeln!(out, "{:<24}{:>10}", format!("needles {ask}"), needle_text(found));
        }
        let counters = outcome.counters;
        let _ = writeln!(
            out,
            "\n{} evictions of {} tokens; at most {} slots; {} kept of {}",
            counters.n_evictions,
            counters.n_evicted,
            counters.peak_slots,
            output::bytes(outcome.bytes),
            output::bytes(outcome.bytes_full),
        );
        if let (Some(mean), Some(max)) = self.evict_us() {
            let _ = writeln!(out, "an eviction took {mean:.1} us, at most {max:.1} us");
        }
        out
    }
}

/// What types of keys and of values are called; those of a preset, if it is one.
pub(crate) fn type_names((k, v): (u32, u32)) -> (&'static str, &'static str) {
    let (k, v) = kv_preset(k).map_or((k, v), |preset| (preset.k, preset.v));
    let name = |number: u32| kv_type_names().nth(number as usize).unwrap_or("?");
    (name(k), name(v))
}

fn intervals(figures: &Figures) -> Json {
    let pairs = NAMES.iter().zip(figures);
    Json::Object(pairs.map(|(name, f)| (name.to_string(), json!([f.low, f.high]))).collect())
}

fn needle_json(found: &[Found; 2]) -> Json {
    let ways = ASKS.iter().zip(found).map(|((_, ask), found)| {
        let mean = |sum: f64| (found.n_full > 0).then(|| sum / f64::from(found.n_full));
        let object = json!({
            "asked": found.n,
            "full": found.n_full,
            "found": found.n_found,
            "log_p_full": mean(found.log_p_full),
            "log_p": mean(found.log_p),
        });
        (ask.to_string(), object)
    });
    Json::Object(ways.collect())
}

/// What came of needles, in a few characters: found, of those that the full cache found, of all.
pub(crate) fn needle_text(found: &Found) -> String {
    match found.n_full {
        0 => format!("- (0 of {})", found.n),
        n => {
            let mean = found.log_p / f64::from(n);
            format!("{}/{n} of {}, ln p {mean:.2}", found.n_found, found.n)
        }
    }
}
