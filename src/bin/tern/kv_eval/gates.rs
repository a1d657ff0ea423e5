//! What the suite's figures have to be, and are.
//!
//! The bounds were set for SmolLM2-135M, and for models with windows for Gemma-3-270m, at the
//! suite's default budgets. Missing one is a result, not a failure of the command.

use std::fmt::Write;

use super::figures::{AGREE, KLD, PPL, PPL_FULL, Q_PPL};
use super::measure::{BALANCED, Bench, F16, SMALL, Test};
use super::report::{Line, types_name};

/// The budget of models whose every layer attends to all tokens, and of those that have windows:
/// few layers of these remember anything that is far.
pub(crate) const BUDGET: f64 = 0.2;
/// See [`BUDGET`].
pub(crate) const BUDGET_SLIDING: f64 = 0.5;
/// Needles that the full cache has to find, so that the others' can be compared.
const LEAST_NEEDLES: f64 = 48.0;

/// A figure and its bound.
struct Gate {
    what: String,
    bound: Bound,
    found: f64,
}

#[derive(Clone, Copy)]
enum Bound {
    AtLeast(f64),
    AtMost(f64),
}

use Bound::{AtLeast, AtMost};

impl Gate {
    fn holds(&self) -> bool {
        match self.bound {
            AtLeast(bound) => self.found >= bound,
            AtMost(bound) => self.found <= bound,
        }
    }

    fn row(&self) -> String {
        let asked = match self.bound {
            AtLeast(bound) => format!("at least {bound}"),
            AtMost(bound) => format!("at most {bound}"),
        };
        let verdict = if self.holds() { "holds" } else { "**misses**" };
        format!("| {} | {asked} | {:.4} | {verdict} |\n", self.what, self.found)
    }
}

/// The lines of the suite's three tests.
pub(crate) struct Sections<'s, 'a> {
    /// A prompt cut down once, with every policy.
    pub(crate) once: &'s [Line<'a>],
    /// The stream.
    pub(crate) stream: &'s [Line<'a>],
    /// The first test with other types of keys and values.
    pub(crate) types: &'s [Line<'a>],
}

/// The table of all gates that there are figures for.
pub(crate) fn table(bench: &Bench<'_>, is_sliding: bool, sections: &Sections<'_, '_>) -> String {
    let gates = match is_sliding {
        true if bench.budget == BUDGET_SLIDING => sliding(sections),
        false if bench.budget == BUDGET => full(bench, sections),
        _ => Vec::new(),
    };
    let mut out = String::new();
    if !gates.is_empty() {
        // Writing to a string cannot fail.
        let _ = write!(out, "\n## Gates\n\n| figure | asked for | found | |\n|---|---|---|---|\n");
        gates.iter().for_each(|gate| out.push_str(&gate.row()));
    }
    out
}

/// Gates of models whose every layer attends to all tokens.
fn full(bench: &Bench<'_>, sections: &Sections<'_, '_>) -> Vec<Gate> {
    let mut gates = Vec::new();
    let mut add = |what: &str, bound, found| gates.push(Gate { what: what.into(), bound, found });
    if let Some(line) = find(sections.once, "hybrid", bench.common.kv_types) {
        add("hybrid: q_ppl", AtLeast(0.94), line.all[Q_PPL].mean);
        add("hybrid: q_ppl of the worst text", AtLeast(0.86), line.worst());
        add("hybrid: kld", AtMost(0.060), line.all[KLD].mean);
        add("hybrid: agree", AtLeast(0.85), line.all[AGREE].mean);
        if let Some([aware, streamed]) = line.beside.needles {
            add("needles that the full cache finds", AtLeast(LEAST_NEEDLES), aware.n_full.into());
            add("hybrid: needles, aware", AtLeast(0.9), aware.part());
            add("hybrid: needles, streamed", AtLeast(0.75), streamed.part());
        }
    }
    if let Some(line) = find(sections.once, "attn", bench.common.kv_types) {
        add("attn: kld", AtMost(0.050), line.all[KLD].mean);
        add("attn: agree", AtLeast(0.865), line.all[AGREE].mean);
    }
    let is_set_for = |line: &&Line<'_>| line.test == Test::Stream { n: super::SUITE_STREAM };
    if let Some(line) = find(sections.stream, "hybrid", bench.common.kv_types).filter(is_set_for) {
        for ((name, figures), bound) in line.texts.iter().zip([0.035, 0.055]) {
            add(&format!("hybrid, streamed: kld of {name}"), AtMost(bound), figures[KLD].mean);
        }
    }
    for policy in ["hybrid", "attn"] {
        let Some(plain) = find(sections.once, policy, F16) else { continue };
        for (types, more) in [(BALANCED, 0.005), (SMALL, 0.015)] {
            let Some(line) = find(sections.types, policy, types) else { continue };
            let what = format!("{policy}, {}", types_name(types));
            let kld = line.all[KLD].mean - plain.all[KLD].mean;
            add(&format!("{what}: kld beyond that with f16"), AtMost(more), kld);
            if types == SMALL {
                add(&format!("{what}: q_ppl"), AtLeast(0.93), line.all[Q_PPL].mean);
            }
        }
    }
    if let Some(line) = find(sections.types, "none", BALANCED) {
        add("full cache, balanced: kld", AtMost(0.0015), line.all[KLD].mean);
        add("full cache, balanced: agree", AtLeast(0.975), line.all[AGREE].mean);
    }
    if let Some(line) = find(sections.types, "none", SMALL) {
        let ratio = line.all[PPL].mean / line.all[PPL_FULL].mean;
        add("full cache, small: ppl / ppl_full", AtMost(1.01), ratio);
    }
    gates
}

/// Gates of models with windows.
fn sliding(sections: &Sections<'_, '_>) -> Vec<Gate> {
    let mut gates = Vec::new();
    let mut add = |what: &str, bound, found| gates.push(Gate { what: what.into(), bound, found });
    if let Some(line) = find(sections.once, "hybrid", F16) {
        add("hybrid: kld", AtMost(0.035), line.all[KLD].mean);
    }
    if let Some(line) = find(sections.types, "none", BALANCED) {
        add("full cache, balanced: kld", AtMost(0.003), line.all[KLD].mean);
    }
    gates
}

/// The first line of a policy with these types, which has the budget that gates are for.
fn find<'s, 'a>(lines: &'s [Line<'a>], policy: &str, types: (u32, u32)) -> Option<&'s Line<'a>> {
    let entry = |line: &Line<'_>| line.outcome.entry;
    lines.iter().find(|line| entry(line).policy.name == policy && entry(line).kv_types == types)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gate_holds_at_its_bound_and_not_beyond() {
        let holds = |bound, found| Gate { what: String::new(), bound, found }.holds();
        assert!(holds(AtLeast(0.9), 0.9) && holds(AtMost(0.05), 0.05));
        assert!(!holds(AtLeast(0.9), 0.899) && !holds(AtMost(0.05), 0.051));
        assert!(!holds(AtLeast(0.9), f64::NAN) && !holds(AtMost(0.05), f64::NAN));
    }
}
