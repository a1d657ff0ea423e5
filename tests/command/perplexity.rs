//! `tern perplexity`: windows apart, and a stream.

use super::{SMOLLM2, Temp, json, keys, model, stderr, tern, text};

#[test]
fn perplexity_scores_the_second_half_of_each_window() {
    let Some(model) = model("perplexity_scores_the_second_half", SMOLLM2) else { return };
    let prose = "It is a truth universally acknowledged, that a single man in possession of a \
                 good fortune, must be in want of a wife. ";
    let file = Temp::new("prose", prose.repeat(6).as_bytes());
    let args = ["perplexity", "-m", &model, "-f", file.path(), "--ctx", "64", "--json"];
    let score = json(&args);
    assert_eq!(keys(&score), ["nll", "ppl", "tokens"]);
    let ids = text(&["tokenize", "-m", &model, "--ids", "-f", file.path()]);
    let n_windows = ids.split(' ').count() / 64;
    assert!(n_windows >= 2);
    assert_eq!(score["tokens"], n_windows * 31); // places 32 to 62 of each
    let (nll, ppl) = (score["nll"].as_f64().unwrap(), score["ppl"].as_f64().unwrap());
    assert!((nll.exp() - ppl).abs() < 1e-9 * ppl);
    assert!(ppl > 1.0 && ppl < 20.0, "{ppl}"); // famous, and said before
    let short = Temp::new("short", b"Too short.");
    let output = tern(&["perplexity", "-m", &model, "-f", short.path()]);
    assert!(stderr(&output).starts_with("error: TERN_ERROR_INVALID_ARGUMENT: "));
}

#[test]
fn a_stream_scores_every_token_whatever_stays() {
    let test = "a_stream_scores_every_token_whatever_stays";
    let Some(model) = model(test, SMOLLM2) else { return };
    let Some(prose) = super::support::cached(test, "texts/austen.txt") else { return };
    let base = ["perplexity", "-m", &model, "-f", prose.to_str().unwrap(), "--stream", "--json"];
    let run = |more: &[&str]| json(&[&base as &[&str], &["--limit", "1000"], more].concat());
    let ppl = |found: &serde_json::Value| found["ppl"].as_f64().unwrap();
    let all = run(&["--ctx", "2048"]);
    assert_eq!(all["tokens"], 999);
    assert_eq!((&all["evictions"], &all["slots"]), (&0.into(), &999.into()));
    assert_eq!(all["blocks"].as_array().unwrap().len(), 1);
    assert_eq!(all["blocks"][0]["ppl"], all["ppl"]);
    assert_eq!(all["worst_ppl"], all["ppl"]);
    // Half of 512 tokens is the least that a token sees, and all but the first 512 see less than all.
    let windows = run(&["--ctx", "512"]);
    assert_eq!((&windows["tokens"], &windows["evictions"]), (&999.into(), &0.into()));
    let loss = ppl(&windows) / ppl(&all);
    assert!(loss > 1.0 && loss < 1.2, "{loss}");
    let kept = run(&["--ctx", "512", "--kv-budget", "256"]);
    assert_eq!(kept["tokens"], 999);
    assert!(kept["evictions"].as_u64() > Some(2) && kept["slots"].as_u64() <= Some(512), "{kept}");
    let loss = ppl(&kept) / ppl(&all);
    assert!(loss > 1.0 && loss < 1.2, "{loss}");
    // What keeps nothing but the newest has to do worse: else nothing leaves at all.
    let ring = run(&["--ctx", "512", "--kv-budget", "256", "--kv-policy", "ring"]);
    assert!(ppl(&ring) > 1.2 * ppl(&kept), "{ring}");
}
