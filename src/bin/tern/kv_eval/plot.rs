//! The suite's plot: bars with their intervals, as an SVG of plain shapes.

use std::fmt::Write;

use super::figures::{Figure, KLD, Q_PPL};
use super::measure::Bench;
use super::report::{LEAST_MEAN, Line};

const LABELS: f64 = 150.0; // the width that names take
const PANEL: f64 = 300.0;
const GAP: f64 = 40.0;
const ROW: f64 = 26.0;
const TOP: f64 = 60.0;

/// A plot of some lines: quality and divergence side by side.
pub(crate) fn svg(bench: &Bench<'_>, title: &str, lines: &[Line<'_>]) -> String {
    let height = TOP + ROW * lines.len() as f64 + 40.0;
    let width = LABELS + 2.0 * PANEL + 2.0 * GAP;
    let mut out = String::new();
    // Writing to a string cannot fail.
    let _ = writeln!(
        out,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"{width}\" height=\"{height}\" fill=\"#ffffff\"/>\n\
         <text x=\"10\" y=\"20\" font-size=\"14\">{}</text>",
        escaped(title)
    );
    for (i, line) in lines.iter().enumerate() {
        let y = TOP + ROW * i as f64 + ROW * 0.65;
        let name = escaped(&line.label(bench));
        let _ = writeln!(
            out,
            "<text x=\"{}\" y=\"{y}\" text-anchor=\"end\">{name}</text>",
            LABELS - 8.0
        );
    }
    panel(&mut out, LABELS, "quality by perplexity (higher is better)", lines, Q_PPL);
    panel(&mut out, LABELS + PANEL + GAP, "divergence in nats (lower is better)", lines, KLD);
    out.push_str("</svg>\n");
    out
}

/// One figure of all lines: bars, intervals, and a dot for each text.
fn panel(out: &mut String, left: f64, title: &str, lines: &[Line<'_>], which: usize) {
    let texts = |line: &Line<'_>| line.texts.iter().map(|(_, f)| f[which].mean).collect::<Vec<_>>();
    let most = lines
        .iter()
        .flat_map(|line| texts(line).into_iter().chain([line.all[which].high]))
        .fold(if which == Q_PPL { 1.0 } else { 0.01 }, f64::max);
    let x = |value: f64| left + PANEL * (value / most).clamp(0.0, 1.0);
    let bottom = TOP + ROW * lines.len() as f64;
    let _ = writeln!(out, "<text x=\"{left}\" y=\"{}\">{title}</text>", TOP - 14.0);
    for part in [0.0, 0.25, 0.5, 0.75, 1.0] {
        let (at, value) = (x(most * part), most * part);
        let _ = writeln!(
            out,
            "<line x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"{}\" y2=\"{bottom}\" stroke=\"#dddddd\"/>\n\
             <text x=\"{at:.1}\" y=\"{}\" text-anchor=\"middle\" fill=\"#555555\">{value:.2}</text>",
            TOP - 6.0,
            bottom + 16.0
        );
    }
    for (i, line) in lines.iter().enumerate() {
        let y = TOP + ROW * i as f64;
        let Figure { mean, low, high } = line.all[which];
        let fill = if line.passes() { "#4878a8" } else { "#b0b0b0" };
        let _ = writeln!(
            out,
            "<rect x=\"{left}\" y=\"{:.1}\" width=\"{:.1}\" height=\"14\" fill=\"{fill}\"/>\n\
             <line x1=\"{:.1}\" x2=\"{:.1}\" y1=\"{:.1}\" y2=\"{:.1}\" stroke=\"#000000\"/>",
            y + 5.0,
            x(mean) - left,
            x(low),
            x(high),
            y + 12.0,
            y + 12.0
        );
        for mean in texts(line) {
            let (cx, cy) = (x(mean), y + 12.0);
            let dot = "r=\"3\" fill=\"#d06030\"";
            let _ = writeln!(out, "<circle cx=\"{cx:.1}\" cy=\"{cy:.1}\" {dot}/>");
        }
    }
    if which == Q_PPL {
        let at = x(LEAST_MEAN);
        let dashes = "stroke=\"#308030\" stroke-dasharray=\"4 3\"";
        let _ = writeln!(
            out,
            "<line x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"{TOP}\" y2=\"{bottom}\" {dashes}/>"
        );
    }
}

/// Text that XML takes for text. Control characters, which XML does not allow, become spaces.
fn escaped(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            c if c.is_control() => out.push(' '),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_stays_text() {
        assert_eq!(escaped("a<b> & \"c\"\u{1b}"), "a&lt;b&gt; &amp; &quot;c&quot; ");
    }
}
