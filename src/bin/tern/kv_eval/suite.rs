//! `tern kv-eval --suite`: every policy over every text, as a page and a plot.
//!
//! Controls are part of it: one that changes nothing and must give the full cache's very numbers,
//! and one that is known to be bad and must fail. Where a control does otherwise, the figures of
//! the others mean nothing, and the command fails. A full cache in f32 shows what the smallest of
//! changes costs: differences below that cannot be told from rounding.

use std::fmt::Write;
use std::fs;
use std::path::Path;

use serde_json::Value as Json;
use tern::Error;
use tern::base::error::Sentence;

use super::super::args::{Common, Failure, Result, io_error};
use super::super::output;
use super::figures::{Figure, KLD, Q_PPL};
use super::measure::{Bench, Entry, F16, F32, Outcome, Test};
use super::needles::ASKS;
use super::plot;
use super::policy::{self, POLICIES, Policy, Role};
use super::report::{LEAST_MEAN, LEAST_WORST, Line, needle_text, type_names};

/// What the suite does besides policies and texts.
pub(crate) struct Suite<'a> {
    /// The tests, in the order of the page.
    pub(crate) tests: &'a [Test],
    /// Needles for each way of asking, and the tokens of their prompts.
    pub(crate) needles: Option<(usize, u32)>,
    /// The page.
    pub(crate) out: &'a Path,
}

impl Suite<'_> {
    /// Measures, and writes the page and the plot.
    pub(crate) fn run(&self, bench: &Bench<'_>, common: &Common) -> Result<()> {
        let policies: Vec<&'static Policy> = POLICIES.iter().collect();
        let mut entries: Vec<Entry> = POLICIES.iter().map(|policy| bench.entry(policy)).collect();
        if common.kv_types != F32 {
            entries.push(Entry { policy: policy::full(), kv_types: F32 });
        }
        let measured: Vec<(Test, Vec<Outcome>)> = self
            .tests
            .iter()
            .map(|&test| Ok((test, bench.measure(test, &entries)?)))
            .collect::<Result<_>>()?;
        let needles = self.needles.map(|(n, n_prompt)| bench.needles(n, n_prompt, &policies));
        let needles = needles.transpose()?;
        let sections: Vec<Vec<Line<'_>>> = measured
            .iter()
            .map(|(test, outcomes)| {
                let line = |(i, outcome)| {
                    let found = needles.as_ref().and_then(|needles| needles.get(i));
                    Line::new(bench, *test, outcome, found)
                };
                outcomes.iter().enumerate().map(line).collect()
            })
            .collect();
        let page = self.page(bench, &sections);
        write(self.out, &page)?;
        for (i, lines) in sections.iter().enumerate() {
            write(&self.plot(i), &plot::svg(bench, &heading(lines[0].test), lines))?;
        }
        if common.json {
            let rows = sections.iter().flatten().map(|line| line.json(bench));
            output::print_json(&Json::Array(rows.collect()))?;
        } else {
            output::print(&page)?;
        }
        for line in sections.iter().flatten() {
            if let Some(wrong) = line.broken_control() {
                return Err(Failure::Error(Error::Internal(Sentence::new(format_args!(
                    "the control '{}' {wrong}: these figures mean nothing",
                    line.label(bench)
                )))));
            }
        }
        Ok(())
    }

    /// The file of a section's plot: beside the page and named after it.
    fn plot(&self, section: usize) -> std::path::PathBuf {
        match section {
            0 => self.out.with_extension("svg"),
            _ => self.out.with_extension(format!("{}.svg", section + 1)),
        }
    }

    /// The page, in Markdown.
    fn page(&self, bench: &Bench<'_>, sections: &[Vec<Line<'_>>]) -> String {
        let mut out = String::from("# What stays of a KV cache\n\n");
        let info = bench.model.info();
        let name = if info.name.is_empty() { &info.arch } else { &info.name };
        let texts: Vec<&str> = bench.texts.iter().map(|text| text.name.as_str()).collect();
        let (k, v) = type_names(bench.common.kv_types);
        // Writing to a string cannot fail.
        let _ = writeln!(
            out,
            "{name}; {} % of the slots; keys {}, values {}; {} segments of each of {}; seed {}. \
             Figures are means over segments with 95 % bootstrap intervals, against the full \
             cache in f16. A policy passes with a q_ppl of {LEAST_MEAN:.2} in the mean and \
             {LEAST_WORST:.2} on the worst text.",
            bench.budget * 100.0,
            k,
            v,
            bench.n_segments,
            texts.join(", "),
            bench.seed,
        );
        for (i, lines) in sections.iter().enumerate() {
            let plot = self.plot(i);
            let plot = plot.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let _ = writeln!(out, "\n## {}\n\n![]({plot})\n", heading(lines[0].test));
            section(&mut out, bench, lines);
        }
        if let Some((n, n_prompt)) = self.needles {
            let _ = writeln!(
                out,
                "\n## {n} needles in prompts of {n_prompt} tokens\n\n\
                 Found, of those that the full cache finds, of all; ln p of the code.\n\n\
                 | policy | {} | {} |\n|---|---|---|",
                ASKS[0].1, ASKS[1].1
            );
            for line in sections.first().into_iter().flatten() {
                let Some(found) = line.needles else { continue };
                let [aware, streamed] = found.each_ref().map(needle_text);
                let _ = writeln!(out, "| {} | {aware} | {streamed} |", line.label(bench));
            }
        }
        out
    }
}

/// What a section is about.
fn heading(test: Test) -> String {
    match test {
        Test::Once { n_prompt, n_generate } => {
            format!("A prompt of {n_prompt} tokens cut down once, {n_generate} after it")
        }
        Test::Stream { n } => format!("{n} tokens streamed, the second half scored"),
    }
}

/// The table of a section.
fn section(out: &mut String, bench: &Bench<'_>, lines: &[Line<'_>]) {
    out.push_str("| policy | q_ppl | kld | agree |");
    for (name, _) in &lines[0].texts {
        let _ = write!(out, " q_ppl {name} |");
    }
    out.push_str(" slots | peak | bytes | evictions | us, longest | |\n|---|");
    out.push_str(&"---|".repeat(9 + lines[0].texts.len()));
    out.push('\n');
    for line in lines {
        let outcome = line.outcome;
        let [.., agree] = line.all;
        let with = |Figure { mean, low, high }| format!("{mean:.3} ({low:.3} to {high:.3})");
        let _ = write!(
            out,
            "| {} | {} | {} | {} |",
            line.label(bench),
            with(line.all[Q_PPL]),
            with(line.all[KLD]),
            with(agree)
        );
        for (_, found) in &line.texts {
            let _ = write!(out, " {:.3} |", found[Q_PPL].mean);
        }
        let us = match line.evict_us() {
            (Some(mean), Some(max)) => format!("{mean:.1}, {max:.1}"),
            _ => "-".into(),
        };
        let Entry { policy, kv_types } = outcome.entry;
        let verdict = match (policy.role, line.passes()) {
            (Role::Subject, true) => "passes",
            (Role::Subject, false) => "fails",
            (Role::Exact, _) if kv_types == F16 => "control: the full cache",
            (Role::Exact, _) if kv_types == F32 => "what rounding alone costs",
            (Role::Exact, _) => "the full cache in this type",
            (Role::MustFail, true) => "control: PASSES, and must not",
            (Role::MustFail, false) => "control: fails, as it must",
        };
        let counters = outcome.counters;
        let _ = writeln!(
            out,
            " {} | {} | {} of {} | {} | {us} | {verdict} |",
            outcome.slots,
            counters.peak_slots,
            output::bytes(outcome.bytes),
            output::bytes(outcome.bytes_full),
            counters.n_evictions,
        );
    }
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).map_err(|e| io_error(path.display(), &e))
}
