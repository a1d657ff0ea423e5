//! What was measured, as a table for people and as JSON for scripts.

use serde_json::{Map, Value as Json, json};
use tern::engine::{KV_EVICTS_EVERY, Phase, PhaseTimes};

/// One line of the result.
#[derive(Clone, Debug, Default)]
pub(crate) struct Measured {
    /// What was run, as in "prefill-512".
    pub(crate) test: String,
    /// Threads.
    pub(crate) n_threads: u32,
    /// Tokens per second of each run; empty where there are no tokens.
    pub(crate) tok_s: Vec<f64>,
    /// Gigabytes per second read from memory: of the median run, weights only.
    pub(crate) gb_s: f64,
    /// The median where `gb_s` is the best.
    pub(crate) median_gb_s: Option<f64>,
    /// Billions of multiplications by weights per second, of the median run, of a prefill.
    pub(crate) gmac_s: Option<f64>,
    /// What the machine reads from memory with these threads.
    pub(crate) roof_gb_s: Option<f64>,
    /// What it multiplies with them and these kernels, if that is known.
    pub(crate) roof_gmac_s: Option<f64>,
    /// Tokens per second as a part of what they are on a machine with nothing else to do.
    pub(crate) kept: Option<f64>,
    /// Nanoseconds of each call of eval or generate, in ascending order.
    pub(crate) call_ns: Vec<u64>,
    /// How much longer than the median token the one takes that waits longest for evictions: of each
    /// place in their timetable the median counts.
    pub(crate) eviction_stall: Option<f64>,
    /// How long each phase took, in all runs.
    pub(crate) phases: Option<PhaseTimes>,
    /// What came of drafts, where there were any.
    pub(crate) drafts: Option<Drafts>,
    /// What came of a screened head, where there was one.
    pub(crate) screened: Option<Screened>,
}

/// What came of a screened head.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Screened {
    /// The part of the tokens that did without the whole head, in the last run.
    pub(crate) share: f64,
    /// Median speed with it / without.
    pub(crate) speedup: f64,
}

/// What came of drafts in one run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Drafts {
    /// Tokens drafted.
    pub(crate) n_drafted: u64,
    /// Those of them that were chosen.
    pub(crate) n_accepted: u64,
    /// Median speed with drafts / without.
    pub(crate) speedup: f64,
}

/// Runs of the same test.
#[derive(Default)]
pub(crate) struct Runs {
    /// Tokens per second of each.
    pub(crate) tok_s: Vec<f64>,
    /// Nanoseconds of each call, of all of them.
    pub(crate) call_ns: Vec<u64>,
    /// The place of each in the timetable of evictions, if there is one.
    pub(crate) places: Vec<u32>,
}

impl Runs {
    /// [`Measured::eviction_stall`].
    fn eviction_stall(&self) -> Option<f64> {
        let mut by_place = vec![Vec::new(); KV_EVICTS_EVERY as usize];
        for (&place, &ns) in self.places.iter().zip(&self.call_ns) {
            by_place[place as usize].push(ns as f64);
        }
        by_place.retain(|calls| calls.len() >= 5); // or one neighbour of this machine decides
        let mut medians: Vec<f64> = by_place.iter_mut().map(|calls| spread(calls).1).collect();
        let (_, median, max) = spread(&mut medians);
        (!medians.is_empty()).then(|| max / median - 1.0)
    }

    /// Tokens per second of the median run.
    pub(crate) fn median(&self) -> f64 {
        spread(&mut self.tok_s.clone()).1
    }

    /// What they come to, where each token reads so many bytes of weights; 0: nobody knows.
    pub(crate) fn measured(mut self, test: String, n_threads: u32, bytes: f64) -> Measured {
        let eviction_stall = self.eviction_stall();
        self.call_ns.sort_unstable();
        let gb_s = self.median() * bytes / 1e9;
        let Runs { tok_s, call_ns, .. } = self;
        Measured { tok_s, gb_s, call_ns, eviction_stall, ..Measured::new(test, n_threads) }
    }
}

/// The heading of the table.
pub(crate) const HEADING: &str = "\
test                  threads      tok/s   (min .. max)             GB/s  of roof   GMAC/s  kept  \
p50 / p99 / max ms\n";

impl Measured {
    /// A test of which nothing is known yet.
    pub(crate) fn new(test: String, n_threads: u32) -> Measured {
        Measured { test, n_threads, ..Measured::default() }
    }

    /// The part of what the machine can do: of reading for decoding, of multiplying for a prefill.
    fn share(&self) -> Option<f64> {
        if self.tok_s.is_empty() {
            return None; // the roof itself
        }
        let (done, roof) = match self.gmac_s {
            Some(gmac_s) => (gmac_s, self.roof_gmac_s?),
            None => (self.gb_s, self.roof_gb_s?),
        };
        (roof > 0.0 && done > 0.0).then(|| done / roof)
    }

    /// The object that `--json` prints.
    pub(crate) fn json(&self) -> Json {
        let (min, median, max) = spread(&mut self.tok_s.clone());
        let tok_s = match self.tok_s.is_empty() {
            true => Json::Null,
            false => json!({ "min": min, "median": median, "max": max }),
        };
        let mut object = json!({
            "test": self.test,
            "threads": self.n_threads,
            "tok_s": tok_s,
            "gb_s": self.gb_s,
            "gmac_s": self.gmac_s,
            "roof_gb_s": self.roof_gb_s,
            "roof_gmac_s": self.roof_gmac_s,
            "share": self.share(),
            "kept": self.kept,
            "p50_us": self.percentile_us(50),
            "p99_us": self.percentile_us(99),
            "max_us": self.percentile_us(100),
        });
        if let Some(median) = self.median_gb_s {
            object["median_gb_s"] = median.into();
        }
        if let Some(stall) = self.eviction_stall {
            object["eviction_stall"] = stall.into();
        }
        if let Some(phases) = self.phases {
            let shares = shares(&phases).map(|(name, share)| (name.to_string(), share.into()));
            object["phases"] = shares.collect::<Map<_, _>>().into();
        }
        if let Some(drafts) = self.drafts {
            object["n_drafted"] = drafts.n_drafted.into();
            object["n_accepted"] = drafts.n_accepted.into();
            object["speedup"] = drafts.speedup.into();
        }
        if let Some(screened) = self.screened {
            object["screened"] = screened.share.into();
            object["speedup"] = screened.speedup.into();
        }
        object
    }

    /// The line of the table.
    pub(crate) fn line(&self) -> String {
        let (min, median, max) = spread(&mut self.tok_s.clone());
        let percent = |part: Option<f64>| {
            part.map_or_else(String::new, |part| format!("{:.0} %", part * 100.0))
        };
        let (rate, range) = match self.tok_s.is_empty() {
            true => (String::new(), String::new()),
            false => (format!("{median:.1}"), format!("({min:.1} .. {max:.1})")),
        };
        let ms = |percent| self.percentile_us(percent).unwrap_or(0.0) / 1e3;
        let mut calls = match self.call_ns.is_empty() {
            true => self.median_gb_s.map_or_else(String::new, |gb_s| format!("median {gb_s:.1}")),
            false => format!("{:.2} / {:.2} / {:.2}", ms(50), ms(99), ms(100)),
        };
        if let Some(stall) = self.eviction_stall {
            calls += &format!("; evictions: {:.0} % of a token at most", 100.0 * stall);
        }
        if let Some(Drafts { n_drafted, n_accepted, speedup }) = self.drafts {
            calls += &format!("; {speedup:.2} x, {n_accepted} of {n_drafted} drafted accepted");
        }
        if let Some(Screened { share, speedup }) = self.screened {
            calls += &format!("; {speedup:.2} x, {:.0} % screened", 100.0 * share);
        }
        // A prefill reads little: what counts is how fast it multiplies.
        let gb_s = match self.gmac_s.is_some() && !self.tok_s.is_empty() || self.gb_s == 0.0 {
            true => String::new(),
            false => format!("{:.1}", self.gb_s),
        };
        let gmac_s = self.gmac_s.map_or_else(String::new, |gmac_s| format!("{gmac_s:.1}"));
        let line = format!(
            "{:21} {:7} {rate:>10}   {range:21} {gb_s:>7} {:>8} {gmac_s:>8} {:>5}  {calls}",
            self.test,
            self.n_threads,
            percent(self.share()),
            percent(self.kept),
        );
        let mut lines = format!("{}\n", line.trim_end());
        if let Some(phases) = self.phases {
            let shares =
                shares(&phases).map(|(name, share)| format!("{name} {:.1} %", 100.0 * share));
            lines += &format!("  {}\n", shares.collect::<Vec<_>>().join(", "));
        }
        lines
    }

    /// The call that so many percent of the calls were not slower than, in microseconds.
    pub(crate) fn percentile_us(&self, percent: usize) -> Option<f64> {
        let rank = (self.call_ns.len() * percent).div_ceil(100).saturating_sub(1);
        self.call_ns.get(rank).map(|&ns| ns as f64 / 1e3)
    }
}

/// Each phase's part of the time of all of them.
fn shares(phases: &PhaseTimes) -> impl Iterator<Item = (&'static str, f64)> {
    let all: u64 = Phase::ALL.iter().map(|&phase| phases.ns(phase)).sum();
    Phase::ALL.iter().map(move |&phase| (phase.name(), phases.ns(phase) as f64 / all.max(1) as f64))
}

/// The least, the median and the most; sorts them. Zeros if there are none.
pub(crate) fn spread(values: &mut [f64]) -> (f64, f64, f64) {
    values.sort_unstable_by(f64::total_cmp);
    let at = |i: usize| values.get(i).copied().unwrap_or(0.0);
    let n = values.len();
    let median =
        if n % 2 == 1 { at(n / 2) } else { (at((n / 2).saturating_sub(1)) + at(n / 2)) / 2.0 };
    (at(0), median, at(n.saturating_sub(1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_and_percentiles() {
        assert_eq!(spread(&mut []), (0.0, 0.0, 0.0));
        assert_eq!(spread(&mut [3.0]), (3.0, 3.0, 3.0));
        assert_eq!(spread(&mut [4.0, 1.0]), (1.0, 2.5, 4.0));
        assert_eq!(spread(&mut [9.0, 1.0, 5.0]), (1.0, 5.0, 9.0));
        let call_ns: Vec<u64> = (1..=200).map(|i| i * 1000).collect();
        let measured = Measured { call_ns, ..Measured::new(String::new(), 1) };
        assert_eq!(measured.percentile_us(50), Some(100.0));
        assert_eq!(measured.percentile_us(99), Some(198.0));
        assert_eq!(measured.percentile_us(100), Some(200.0));
        assert_eq!(Measured::default().percentile_us(100), None);
    }

    #[test]
    fn each_test_has_its_own_roof() {
        let decode = |roof_gb_s| Measured {
            tok_s: vec![90.0],
            gb_s: 9.0,
            roof_gb_s,
            roof_gmac_s: Some(100.0),
            ..Measured::new("decode-128".into(), 1)
        };
        assert_eq!(decode(Some(12.0)).share(), Some(0.75));
        assert_eq!(decode(Some(0.0)).share(), None);
        assert_eq!(decode(None).share(), None);
        assert_eq!(decode(Some(12.0)).json()["share"], 0.75);
        assert!(decode(Some(12.0)).line().contains("75 %"));
        let prefill = Measured { gmac_s: Some(40.0), ..decode(Some(12.0)) };
        assert_eq!(prefill.share(), Some(0.4));
        assert_eq!(Measured { roof_gmac_s: None, ..prefill.clone() }.share(), None);
        assert_eq!(Measured { tok_s: vec![], ..prefill }.share(), None);
    }
}
