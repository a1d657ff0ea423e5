//! What was measured, as a table for people and as JSON for scripts.

use std::fmt::Write;

use serde_json::{Map, Value as Json, json};
use tern::engine::{kv_preset, kv_type_names};

use super::super::output;
use super::composition::Composition;
use super::figures::{Figures, NAMES, Q_PPL, figures};
use super::greedy::Written;
use super::measure::{Bench, CHUNK, Entry, F16, Outcome, Test};
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
    /// What else was measured of it.
    pub(crate) beside: Beside<'a>,
}

/// What is measured of a policy beside how it scores.
#[derive(Clone, Copy, Default)]
pub(crate) struct Beside<'a> {
    /// What came of the needles, if there were any.
    pub(crate) needles: Option<&'a [Found; 2]>,
    /// What it wrote, if it was asked to.
    pub(crate) written: Option<&'a Written>,
    /// Whether it composes, if that was tried.
    pub(crate) composition: Option<&'a Composition>,
}

impl<'a> Line<'a> {
    /// Makes the figures.
    pub(crate) fn new(
        bench: &'a Bench<'_>,
        test: Test,
        outcome: &'a Outcome,
        beside: Beside<'a>,
    ) -> Line<'a> {
        let of = |wanted: Option<usize>| {
            let found = outcome.scores.iter().filter(|(i, _)| wanted.is_none_or(|w| w == *i));
            figures(&found.map(|(_, score)| *score).collect::<Vec<Score>>(), bench.seed)
        };
        let texts = bench.texts.iter().enumerate();
        let texts = texts.map(|(i, text)| (text.name.as_str(), of(Some(i)))).collect();
        Line { test, outcome, all: of(None), texts, beside }
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
        let Entry { policy, kv_types, .. } = self.outcome.entry;
        match policy.role {
            Role::MustFail if self.passes() => Some("passes the gates and must not"),
            Role::Exact if kv_types == F16 && (kld.mean, agree.mean) != (0.0, 1.0) => {
                Some("differs from the full cache and must not")
            }
            _ => None,
        }
    }

    /// What is wrong with the engine, if anything is: nothing evicted where something must have
    /// been, more held than there may be, or a session that cannot be composed.
    pub(crate) fn broken(&self) -> Option<&'static str> {
        let Outcome { entry: Entry { policy, .. }, slots, counters, .. } = self.outcome;
        let is_cut = policy.evicts() && *slots < self.test.n_whole();
        let is_stream = matches!(self.test, Test::Stream { .. }) && policy.is_bounded();
        if is_cut && counters.n_evictions == 0 {
            return Some("has not evicted anything");
        }
        if is_stream && counters.peak_slots > slots + CHUNK {
            return Some("held more than its budget and a chunk");
        }
        let written = self.beside.written.filter(|_| policy.evicts());
        if written.is_some_and(|written| written.n_evictions == 0) {
            return Some("has not evicted anything while it wrote");
        }
        self.beside.composition.and_then(Composition::broken)
    }

    /// What the line is called in the suite.
    pub(crate) fn label(&self, bench: &Bench<'_>) -> String {
        let Entry { policy, kv_types, budget } = self.outcome.entry;
        let mut label = policy.name.to_string();
        if kv_types != bench.common.kv_types {
            label = format!("{label}, {}", types_name(kv_types));
        }
        if policy.evicts() && budget != bench.budget {
            label = format!("{label}, {} %", budget * 100.0);
        }
        label
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
        set("budget", outcome.entry.budget.into());
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
        set("needle", self.beside.needles.map_or(Json::Null, needle_json));
        set("greedy", self.beside.written.map_or(Json::Null, written_json));
        set("composition", self.beside.composition.map_or(Json::Null, composition_json));
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
        for (found, (_, ask)) in self.beside.needles.into_iter().flatten().zip(ASKS) {
            let _ = writeln!(out, "{:<24}{:>10}", format!("needles {ask}"), needle_text(found));
        }
        if let Some(written) = self.beside.written {
            let Written { n_tokens, slots, prefix, rouge_l, f1, .. } = written;
            let _ = writeln!(
                out,
                "{:<24}the first {prefix:.1} the same, ROUGE-L {rouge_l:.3}, F1 {f1:.3} ({slots} slots)",
                format!("of {n_tokens} written"),
            );
        }
        if let Some(found) = self.beside.composition {
            let _ = writeln!(out, "{:<24}{}", "composition", composition_text(found));
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

/// What types of keys and of values are called together.
pub(crate) fn types_name(types: (u32, u32)) -> String {
    match (kv_preset(types.0), type_names(types)) {
        (Some(preset), _) => preset.name.into(),
        (None, (k, v)) if k == v => k.into(),
        (None, (k, v)) => format!("{k} and {v}"),
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

fn written_json(written: &Written) -> Json {
    json!({
        "prompts": written.n_prompts,
        "tokens": written.n_tokens,
        "slots": written.slots,
        "prefix": written.prefix,
        "rouge_l": written.rouge_l,
        "f1": written.f1,
        "evictions": written.n_evictions,
        "peak_slots": written.peak_slots,
    })
}

fn composition_json(found: &Composition) -> Json {
    json!({
        "forked": found.forked,
        "restored": found.restored,
        "rolled_back": found.rolled_back,
        "drafted": found.drafted,
        "shared": found.shared,
        "n_shared": found.n_shared,
        "n_drafted": found.n_drafted,
        "n_accepted": found.n_accepted,
        "pos": found.pos,
        "slots": found.slots,
        "snapshot_bytes": found.bytes,
        "save_ms": found.save_ms,
        "restore_ms": found.restore_ms,
    })
}

/// What came of composing, in one line.
fn composition_text(found: &Composition) -> String {
    let Composition { pos, slots, bytes, save_ms, restore_ms, .. } = found;
    let verdict = found.broken().unwrap_or("the same bits");
    format!(
        "{verdict}; {pos} tokens in {slots} slots: {}, saved in {save_ms:.1} ms, restored in \
         {restore_ms:.1} ms",
        output::bytes(*bytes)
    )
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
