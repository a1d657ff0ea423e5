//! A text of any length through one cache: what a budget of slots costs when text never ends, and
//! whether memory stays flat.
//!
//! With a budget, the cache forgets by its policy as tokens come. Without one, it begins anew with its
//! second half whenever it is full, so that every token but the first ones sees at least half of
//! `--ctx`: what to compare with. Both score the same tokens, all but the first.

use serde_json::{Value as Json, json};
use tern::engine::{Logits, Session};

use super::super::args::{Common, Result};
use super::super::interrupt::{self, Guard};
use super::super::memory;
use super::super::output::{self, Progress};
use super::{ROWS, Score, nll};

/// Tokens that a rolling perplexity is over.
const BLOCK: u64 = 8192;

/// What is known when a block has been scored.
struct Block {
    ppl: f64,
    /// Resident memory, where the system says.
    rss_bytes: Option<u64>,
}

/// Scores the text, and reports.
pub(super) fn run(session: &mut Session, tokens: &[i32], common: &Common) -> Result<()> {
    let guard = interrupt::guard();
    let mut progress = Progress::new();
    let mut blocks = Vec::with_capacity(tokens.len() / BLOCK as usize + 1);
    let (mut all, mut block) = (Score::default(), Score::default());
    let mut at = 0;
    while at + 1 < tokens.len() {
        let n = (ROWS as usize).min(tokens.len() - 1 - at);
        make_room(session, &tokens[..at], n, &guard)?;
        session.eval(&tokens[at..at + n], Logits::All, &guard.control())?;
        for row in 0..n {
            let nll = nll(session.logits_row(row)?, tokens[at + row + 1])?;
            for score in [&mut all, &mut block] {
                score.nll += nll;
                score.n_tokens += 1;
            }
        }
        at += n;
        if block.n_tokens >= BLOCK || at + 1 >= tokens.len() {
            blocks.push(Block { ppl: block.ppl(), rss_bytes: memory::resident_bytes() });
            block = Score::default();
        }
        progress.show(format!("{at} of {} tokens, perplexity {:.4}", tokens.len(), all.ppl()));
    }
    drop(progress);
    report(session, all, &blocks, common)
}

/// Where nothing leaves by itself, begins a full cache anew with its second half.
fn make_room(session: &mut Session, before: &[i32], n: usize, guard: &Guard) -> Result<()> {
    let info = session.info();
    if info.kv_budget > 0 || info.n_kv as usize + n <= info.n_ctx as usize {
        return Ok(());
    }
    session.truncate(0)?;
    let half = before.len().saturating_sub(info.n_ctx as usize / 2);
    Ok(session.eval(&before[half..], Logits::None, &guard.control())?)
}

fn report(session: &Session, score: Score, blocks: &[Block], common: &Common) -> Result<()> {
    let worst = blocks.iter().map(|block| block.ppl).fold(0.0, f64::max);
    // The first block still touches what was not needed before.
    let rest = blocks.get(1..).unwrap_or(&[]).iter().filter_map(|block| block.rss_bytes);
    let growth = rest.clone().max().unwrap_or(0) - rest.min().unwrap_or(0);
    let info = session.info();
    if common.json {
        let blocks: Vec<Json> = blocks
            .iter()
            .map(|block| json!({ "ppl": block.ppl, "rss_bytes": block.rss_bytes }))
            .collect();
        return output::print_json(&json!({
            "tokens": score.n_tokens,
            "nll": score.mean(),
            "ppl": score.ppl(),
            "worst_ppl": worst,
            "rss_growth_bytes": growth,
            "evictions": info.n_evictions,
            "slots": info.n_kv,
            "blocks": blocks,
        }));
    }
    output::print(&format!(
        "{} tokens, nll {:.6}, perplexity {:.4}, worst of {BLOCK} tokens {worst:.4}; {} evictions, \
         resident memory within {} KiB after the first {BLOCK}\n",
        score.n_tokens,
        score.mean(),
        score.ppl(),
        info.n_evictions,
        growth / 1024
    ))
}
