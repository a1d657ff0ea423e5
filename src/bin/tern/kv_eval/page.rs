//! The suite's page, in Markdown.

use std::env;
use std::fmt::Write;
use std::path::{Path, PathBuf};

use super::super::output;
use super::composition::Composition;
use super::figures::{AGREE, Figure, KLD, Q_PPL};
use super::gates::{self, Sections};
use super::greedy::Written;
use super::measure::{Bench, Entry, F16, F32, Test};
use super::needles::{ASKS, Asked};
use super::policy::Role;
use super::report::{LEAST_MEAN, LEAST_WORST, Line, needle_text, type_names};
use super::suite::Suite;

/// What a page is made of.
pub(crate) struct Page<'p> {
    /// What was asked for.
    pub(crate) suite: &'p Suite<'p>,
    /// The lines of each section: one cut, the stream, types.
    pub(crate) sections: &'p [Vec<Line<'p>>],
    /// Their plots.
    pub(crate) plots: &'p [PathBuf],
    /// Why something could not be measured with this model.
    pub(crate) left_out: &'p [String],
    /// What it took.
    pub(crate) minutes: f64,
}

impl Page<'_> {
    /// What the sections are about.
    pub(crate) fn titles(&self) -> [String; 3] {
        let once = heading(self.suite.once);
        let types = format!("{once}, by types of keys and values");
        [once, heading(self.suite.stream), types]
    }

    /// The page.
    pub(crate) fn text(&self, bench: &Bench<'_>) -> String {
        let mut out = String::from("# What stays of a KV cache\n\n");
        self.introduction(&mut out, bench);
        if let [once, stream, types] = self.sections {
            let sections = Sections { once, stream, types };
            out.push_str(&gates::table(bench, self.suite.is_sliding, &sections));
        }
        for ((lines, plot), title) in self.sections.iter().zip(self.plots).zip(self.titles()) {
            let plot = plot.file_name().unwrap_or_default().to_string_lossy();
            // Writing to a string cannot fail.
            let _ = writeln!(out, "\n## {title}\n\n![]({plot})\n");
            section(&mut out, bench, lines);
        }
        let lines = self.sections.first().map_or(&[][..], Vec::as_slice);
        if let Some(asked) = self.suite.needles {
            needles(&mut out, bench, lines, asked);
        }
        written(&mut out, bench, lines);
        compositions(&mut out, bench, lines);
        if !self.left_out.is_empty() {
            let _ = writeln!(out, "\n## Left out\n");
            self.left_out.iter().for_each(|why| {
                let _ = writeln!(out, "- {why}");
            });
        }
        out
    }

    fn introduction(&self, out: &mut String, bench: &Bench<'_>) {
        let info = bench.model.info();
        let name = if info.name.is_empty() { &info.arch } else { &info.name };
        let texts: Vec<&str> = bench.texts.iter().map(|text| text.name.as_str()).collect();
        let (k, v) = type_names(bench.common.kv_types);
        let which = if self.suite.is_sliding { " of the layers without a window" } else { "" };
        // Writing to a string cannot fail.
        let _ = writeln!(
            out,
            "{name}; {} % of the slots{which}; keys {k}, values {v}; {} segments of each of {}; \
             seed {}. Figures are means over segments with 95 % bootstrap intervals, against the \
             full cache in f16. A policy passes with a q_ppl of {LEAST_MEAN:.2} in the mean and \
             {LEAST_WORST:.2} on the worst text.\n\n    {}\n\ntook {:.0} minutes.",
            bench.budget * 100.0,
            bench.n_segments,
            texts.join(", "),
            bench.seed,
            command(),
            self.minutes.ceil(),
        );
    }
}

/// The command line, without folders and without what may not stand on a page.
fn command() -> String {
    let word = |arg: std::ffi::OsString| {
        let name = Path::new(&arg).file_name().unwrap_or(&arg).to_string_lossy().into_owned();
        name.chars().map(|c| if c.is_control() { ' ' } else { c }).collect::<String>()
    };
    env::args_os().map(word).collect::<Vec<_>>().join(" ")
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
    let Some(first) = lines.first() else { return };
    out.push_str("| policy | q_ppl | kld | agree |");
    for (name, _) in &first.texts {
        let _ = write!(out, " q_ppl, kld {name} |");
    }
    out.push_str(" slots | peak | bytes | evictions | us, longest | |\n|---|");
    out.push_str(&"---|".repeat(9 + first.texts.len()));
    out.push('\n');
    for line in lines {
        let outcome = line.outcome;
        let with = |Figure { mean, low, high }, digits: usize| {
            format!("{mean:.digits$} ({low:.digits$} to {high:.digits$})")
        };
        let _ = write!(
            out,
            "| {} | {} | {} | {} |",
            line.label(bench),
            with(line.all[Q_PPL], 3),
            with(line.all[KLD], 4),
            with(line.all[AGREE], 3)
        );
        for (_, found) in &line.texts {
            let _ = write!(out, " {:.3}, {:.4} |", found[Q_PPL].mean, found[KLD].mean);
        }
        let us = match line.evict_us() {
            (Some(mean), Some(max)) => format!("{mean:.1}, {max:.1}"),
            _ => "-".into(),
        };
        let counters = outcome.counters;
        let _ = writeln!(
            out,
            " {} | {} | {} of {} | {} | {us} | {} |",
            outcome.slots,
            counters.peak_slots,
            output::bytes(outcome.bytes),
            output::bytes(outcome.bytes_full),
            counters.n_evictions,
            verdict(line),
        );
    }
}

/// What a line comes to.
fn verdict(line: &Line<'_>) -> &'static str {
    let Entry { policy, kv_types, .. } = line.outcome.entry;
    match (policy.role, line.passes()) {
        (Role::Subject, true) => "passes",
        (Role::Subject, false) => "fails",
        (Role::Exact, _) if kv_types == F16 => "control: the full cache",
        (Role::Exact, _) if kv_types == F32 => "what rounding alone costs",
        (Role::Exact, _) => "the full cache in this type",
        (Role::MustFail, true) => "control: PASSES, and must not",
        (Role::MustFail, false) => "control: fails, as it must",
    }
}

/// The table of needles.
fn needles(out: &mut String, bench: &Bench<'_>, lines: &[Line<'_>], asked: Asked) {
    let Asked { n, n_prompt, .. } = asked;
    let _ = writeln!(
        out,
        "\n## {n} needles in prompts of {n_prompt} tokens\n\n\
         Found, of those that the full cache finds, of all; ln p of the code. Aware: the question \
         is the end of the prompt that is cut down; streamed: it comes when the prompt has gone \
         through the smaller cache. No policy was tuned with these needles.\n\n\
         | policy | {} | {} |\n|---|---|---|",
        ASKS[0].1, ASKS[1].1
    );
    for line in lines {
        let Some(found) = line.beside.needles else { continue };
        let [aware, streamed] = found.each_ref().map(needle_text);
        let _ = writeln!(out, "| {} | {aware} | {streamed} |", line.label(bench));
    }
}

/// The table of what was written.
fn written(out: &mut String, bench: &Bench<'_>, lines: &[Line<'_>]) {
    let mut lines = lines.iter().filter_map(|line| Some((line, line.beside.written?))).peekable();
    let Some((_, Written { n_prompts, n_tokens, slots, .. })) = lines.peek() else { return };
    let _ = writeln!(
        out,
        "\n## {n_tokens} tokens written greedily after prompts of {slots}, with {slots} slots\n\n\
         Beside what the full cache writes, over {n_prompts} prompts. One token that is another \
         makes another text of all that follows: these figures are no gates.\n\n\
         | policy | tokens before the first that is another | ROUGE-L | F1 of tokens | peak | \
         evictions |\n|---|---|---|---|---|---|"
    );
    for (line, written) in lines {
        let Written { prefix, rouge_l, f1, n_evictions, peak_slots, .. } = written;
        let label = line.label(bench);
        let _ = writeln!(
            out,
            "| {label} | {prefix:.1} | {rouge_l:.3} | {f1:.3} | {peak_slots} | {n_evictions} |"
        );
    }
}

/// The table of compositions.
fn compositions(out: &mut String, bench: &Bench<'_>, lines: &[Line<'_>]) {
    let found = lines.iter().filter_map(|line| Some((line, line.beside.composition?)));
    let mut found = found.peekable();
    let Some((_, Composition { pos, .. })) = found.peek() else { return };
    let _ = writeln!(
        out,
        "\n## Composition after {pos} tokens of a stream\n\n\
         Whether all that follows is the same bits as in a session that did none of it: after a \
         fork, restored from a file, after tokens were taken back (up to the next eviction), \
         written with drafts while tokens leave, and with the first tokens of another session. The \
         command fails if it is not.\n\n\
         | policy | fork | restored | taken back | drafts (drafted, chosen) | shared (tokens) | \
         slots | file | saved, restored in ms |\n|---|---|---|---|---|---|---|---|---|"
    );
    let says = |is_same: bool| if is_same { "same" } else { "**differs**" };
    for (line, found) in found {
        let Composition { n_drafted, n_accepted, n_shared, slots, .. } = found;
        let Composition { save_ms, restore_ms, .. } = found;
        let _ = writeln!(
            out,
            "| {} | {} | {} | {} | {} ({n_drafted}, {n_accepted}) | {} ({n_shared}) | {slots} | {} | \
             {save_ms:.1}, {restore_ms:.1} |",
            line.label(bench),
            says(found.forked),
            says(found.restored),
            says(found.rolled_back),
            says(found.drafted),
            says(found.shared),
            output::bytes(found.bytes),
        );
    }
}
