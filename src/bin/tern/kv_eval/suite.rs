//! `tern kv-eval --suite`: every policy over every text, as a page and plots.
//!
//! Controls are part of it: one that changes nothing and must give the full cache's very numbers,
//! and one that is known to be bad and must fail. Where a control does otherwise, the figures of
//! the others mean nothing, and the command fails. A full cache in f32 shows what the smallest of
//! changes costs: differences below that cannot be told from rounding.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use serde_json::Value as Json;

use super::super::args::{Result, io_error};
use super::super::output;
use super::composition::Composition;
use super::gates::{BUDGET, BUDGET_SLIDING};
use super::greedy::Written;
use super::measure::{BALANCED, Bench, Entry, F32, Outcome, Q8_0, SMALL, TINY, Test};
use super::needles::{Asked, Found};
use super::page::Page;
use super::plot;
use super::policy::{self, POLICIES, Policy};
use super::report::{Beside, Line};

/// What the suite does besides policies and texts.
pub(crate) struct Suite<'a> {
    /// A prompt cut down once.
    pub(crate) once: Test,
    /// A stream.
    pub(crate) stream: Test,
    /// Which needles, if any.
    pub(crate) needles: Option<Asked>,
    /// Tokens that are written, if any.
    pub(crate) n_written: Option<u32>,
    /// Whether the model has layers that look back on so many tokens only.
    pub(crate) is_sliding: bool,
    /// The page.
    pub(crate) out: &'a Path,
}

/// What was measured of policies beside how they score.
struct Extras {
    policies: Vec<&'static Policy>,
    needles: Vec<(&'static Policy, [Found; 2])>,
    written: Vec<(&'static Policy, Written)>,
    compositions: Vec<Composition>,
}

impl Extras {
    fn of(&self, policy: &Policy) -> Beside<'_> {
        let at = self.policies.iter().position(|other| *other == policy);
        let needles = self.needles.iter().find(|(other, _)| *other == policy);
        let written = self.written.iter().find(|(other, _)| *other == policy);
        Beside {
            needles: needles.map(|(_, found)| found),
            written: written.map(|(_, written)| written),
            composition: at.and_then(|at| self.compositions.get(at)),
        }
    }
}

impl Suite<'_> {
    /// Measures, and writes the page and the plots.
    pub(crate) fn run(&self, bench: &Bench<'_>) -> Result<()> {
        let start = Instant::now();
        let mut left_out = Vec::new();
        let mut may = |entries: Vec<Entry>| -> Result<Vec<Entry>> {
            let mut taken = Vec::new();
            for entry in entries {
                match bench.refusal(&entry)? {
                    None => taken.push(entry),
                    Some(why) if left_out.contains(&why) => {}
                    Some(why) => left_out.push(why),
                }
            }
            Ok(taken)
        };
        let all = may(POLICIES.iter().map(|policy| bench.entry(policy)).collect())?;
        let policies: Vec<&'static Policy> = all.iter().map(|entry| entry.policy).collect();
        let types = may(self.typed(bench))?;
        let tests = [
            (self.once, self.once_entries(bench, &all)),
            (self.stream, self.stream_entries(bench, &all)),
            (self.once, types),
        ];
        let measured =
            tests.into_iter().map(|(test, entries)| Ok((test, bench.measure(test, &entries)?)));
        let measured: Vec<(Test, Vec<Outcome>)> = measured.into_iter().collect::<Result<_>>()?;
        let extras = self.extras(bench, policies)?;
        let mut sections: Vec<Vec<Line<'_>>> = Vec::new();
        for (test, outcomes) in &measured {
            let mut lines = Vec::new();
            for outcome in outcomes {
                // Beside the line of the first section with the options' own types and budget.
                let entry = outcome.entry;
                let is_own = sections.is_empty() && entry == bench.entry(entry.policy);
                let beside = if is_own { extras.of(entry.policy) } else { Beside::default() };
                lines.push(Line::new(bench, *test, outcome, beside));
            }
            sections.push(lines);
        }
        self.write(bench, &sections, &left_out, start)?;
        for line in sections.iter().flatten() {
            if let Some(wrong) = line.broken_control().or_else(|| line.broken()) {
                return Err(super::broken(&line.label(bench), wrong));
            }
        }
        Ok(())
    }

    /// Every policy; where windows made the budget larger, the main ones with the usual one, too;
    /// and a full cache in f32.
    fn once_entries(&self, bench: &Bench<'_>, all: &[Entry]) -> Vec<Entry> {
        let mut entries = all.to_vec();
        if self.is_sliding && bench.budget == BUDGET_SLIDING {
            let asked = all.iter().filter(|entry| entry.policy.is_asked());
            entries.extend(asked.map(|entry| Entry { budget: BUDGET, ..*entry }));
        }
        entries.extend(self.rounding(bench));
        entries
    }

    /// The main policies.
    fn stream_entries(&self, bench: &Bench<'_>, all: &[Entry]) -> Vec<Entry> {
        let main = all.iter().filter(|entry| entry.policy.is_main());
        main.copied().chain(self.rounding(bench)).collect()
    }

    fn rounding(&self, bench: &Bench<'_>) -> Option<Entry> {
        let f32 = Entry { kv_types: F32, ..bench.entry(policy::full()) };
        (bench.common.kv_types != F32).then_some(f32)
    }

    /// Smaller types of keys and values, with the full cache and with two policies.
    fn typed(&self, bench: &Bench<'_>) -> Vec<Entry> {
        let policies = POLICIES.iter().filter(|p| ["none", "hybrid", "attn"].contains(&p.name));
        let of = |policy| {
            [Q8_0, BALANCED, SMALL, TINY].map(|kv_types| Entry { kv_types, ..bench.entry(policy) })
        };
        policies.flat_map(of).collect()
    }

    fn extras(&self, bench: &Bench<'_>, policies: Vec<&'static Policy>) -> Result<Extras> {
        let asked: Vec<&'static Policy> =
            policies.iter().copied().filter(|policy| policy.is_asked()).collect();
        let needles = self.needles.map(|needles| bench.needles(needles, &asked)).transpose()?;
        let written = self.n_written.map(|n| bench.write(n, &asked)).transpose()?;
        Ok(Extras {
            needles: asked.iter().copied().zip(needles.unwrap_or_default()).collect(),
            written: asked.iter().copied().zip(written.unwrap_or_default()).collect(),
            compositions: bench.compose(self.stream.n_whole(), &policies)?,
            policies,
        })
    }

    fn write(
        &self,
        bench: &Bench<'_>,
        sections: &[Vec<Line<'_>>],
        left_out: &[String],
        start: Instant,
    ) -> Result<()> {
        let minutes = start.elapsed().as_secs_f64() / 60.0;
        let plots: Vec<PathBuf> = (0..sections.len()).map(|i| self.plot(i)).collect();
        let page = Page { suite: self, sections, plots: &plots, left_out, minutes };
        let text = page.text(bench);
        write(self.out, &text)?;
        for ((lines, path), title) in sections.iter().zip(&plots).zip(page.titles()) {
            write(path, &plot::svg(bench, &title, lines))?;
        }
        if bench.common.json {
            let rows = sections.iter().flatten().map(|line| line.json(bench));
            return output::print_json(&Json::Array(rows.collect()));
        }
        output::print(&text)
    }

    /// The file of a section's plot: beside the page and named after it.
    fn plot(&self, section: usize) -> PathBuf {
        match section {
            0 => self.out.with_extension("svg"),
            _ => self.out.with_extension(format!("{}.svg", section + 1)),
        }
    }
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).map_err(|e| io_error(path.display(), &e))
}
