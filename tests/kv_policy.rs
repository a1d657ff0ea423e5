//! Eviction policies: the scores and choices of an implementation in numpy
//! (tests/kv/policies.py), and what must hold for any head, budget and score.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod support;

use std::thread;

use support::counting::{Counting, peak_bytes, with_allocations};
use tern::base::rng::Rng;
use tern::kv::policy::expected::{Future, Turn};
use tern::kv::policy::leverage::{Factor, Moments};
use tern::kv::policy::mean::Mean;
use tern::kv::policy::{Head, Params, Policy, Quotas, Work, keep};
use tern::kv::segments::{Marks, Segment, Segments};
use tern::{Error, Result};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// A made head that owns its numbers.
#[derive(Clone, Default)]
struct Made {
    n_past: u32,
    pos: Vec<u32>,
    /// One for each field of `Head`, in its order.
    scores: [Vec<f32>; 9],
    pinned: Vec<u64>,
    expired: Vec<u64>,
    priority: Vec<i8>,
}

impl Made {
    /// `n` cells at positions with gaps, with scores that `score` makes.
    fn new(n: usize, rng: &mut Rng, mut score: impl FnMut(&mut Rng) -> f32) -> Made {
        let mut next = 0;
        let pos: Vec<u32> = (0..n)
            .map(|_| {
                next += 1 + (rng.next_u64() % 8).saturating_sub(5) as u32;
                next - 1
            })
            .collect();
        let scores = std::array::from_fn(|_| (0..n).map(|_| score(rng)).collect());
        Made { n_past: next, pos, scores, ..Made::default() }
    }

    fn pin(&mut self, cells: impl IntoIterator<Item = usize>) {
        let cells: Vec<u32> = cells.into_iter().map(|i| i as u32).collect();
        self.pinned = bits(self.pos.len(), &cells);
    }

    fn is_pinned(&self, i: usize) -> bool {
        is_set(&self.pinned, i)
    }

    fn head(&self) -> Head<'_> {
        let [mass, observed, last, leverage, key_diff, expected, norm, zip, squares] = &self.scores;
        Head {
            layer: 5,
            head: 2,
            n_past: self.n_past,
            pos: &self.pos,
            mass,
            squares,
            observed,
            last,
            leverage,
            key_diff,
            expected,
            norm,
            zip,
            pinned: &self.pinned,
            expired: &self.expired,
            priority: &self.priority,
        }
    }

    /// The same scores in every field.
    fn all_fields(mut self, score: &[f32]) -> Made {
        self.scores.iter_mut().for_each(|s| *s = score.to_vec());
        self
    }
}

/// A bit for each of `n` cells, set for these.
fn bits(n: usize, cells: &[u32]) -> Vec<u64> {
    let mut words = vec![0; n.div_ceil(64)];
    cells.iter().for_each(|i| words[*i as usize / 64] |= 1 << (i % 64));
    words
}

fn is_set(words: &[u64], i: usize) -> bool {
    words.get(i / 64).is_some_and(|word| word >> (i % 64) & 1 == 1)
}

fn kept(policy: Policy, params: &Params, head: &Head<'_>, budget: usize) -> Result<Vec<u32>> {
    let mut work = Work::new(head.pos.len()).unwrap();
    let mut out = Vec::with_capacity(head.pos.len().min(budget));
    keep(policy, params, head, budget, &mut work, &mut out).map(|()| out)
}

fn default(policy: Policy) -> Params {
    Params::new(policy, false)
}

/// Policies that may evict.
fn evicting() -> impl Iterator<Item = Policy> {
    Policy::ALL.iter().copied().filter(|&p| p != Policy::None)
}

/// Policies that rank by one field of `Head` as it is, and whether high scores stay.
const PLAIN: [(Policy, bool); 5] = [
    (Policy::Tova, true),
    (Policy::KeyDiff, true),
    (Policy::Expected, true),
    (Policy::KNorm, false),
    (Policy::KvZip, true),
];

#[test]
fn as_many_stay_as_the_budget_says_and_what_must_stay_does() {
    let mut rng = Rng::new(1);
    for round in 0..120 {
        let n = (rng.next_u64() % 200) as usize;
        let kind = round % 4;
        let mut made = Made::new(n, &mut rng, |rng| match kind {
            0 => rng.next_f32(),
            1 => (rng.next_u64() % 3) as f32 - 1.0, // most are equal
            2 => 0.25,
            _ => [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 0.0, -0.0, 1e30, 1e-40]
                [(rng.next_u64() % 8) as usize],
        });
        if round % 3 == 0 {
            let pins: Vec<usize> = (0..n).filter(|_| rng.next_u64().is_multiple_of(9)).collect();
            made.pin(pins);
        }
        let n_pinned = (0..n).filter(|&i| made.is_pinned(i)).count();
        for policy in evicting() {
            for is_sliding in [false, true] {
                let params = Params::new(policy, is_sliding);
                let n_sink = if policy == Policy::Ring { 0 } else { params.n_sink };
                for budget in [0, 1, 3, 5, n / 5, n / 2, n.saturating_sub(1), n, n + 7, usize::MAX]
                {
                    let got = kept(policy, &params, &made.head(), budget);
                    if n_pinned > budget {
                        assert!(matches!(got, Err(Error::KvFull(_))), "{policy:?}: {got:?}");
                        continue;
                    }
                    let got = got.unwrap();
                    let what = format!("{policy:?}, {n} cells, budget {budget}: {got:?}");
                    assert_eq!(got.len(), n.min(budget), "{what}");
                    assert!(got.windows(2).all(|w| w[0] < w[1]), "{what}");
                    assert!(got.last().is_none_or(|&i| (i as usize) < n), "{what}");
                    let stays = |i: usize| got.binary_search(&(i as u32)).is_ok();
                    let is_sink = |i: usize| (made.pos[i] as usize) < n_sink;
                    assert!((0..n).all(|i| !made.is_pinned(i) || stays(i)), "{what}");
                    // Of the sinks as many as there is room for, lowest first.
                    let sinks = (0..n).filter(|&i| is_sink(i) && !made.is_pinned(i));
                    let room = budget.saturating_sub(n_pinned);
                    assert!(sinks.take(room).all(stays), "{what}");
                }
            }
        }
    }
}

#[test]
fn a_budget_for_all_or_for_none_needs_no_choice() {
    let made = Made::new(10, &mut Rng::new(2), Rng::next_f32);
    let empty = Made::default();
    for &policy in Policy::ALL {
        let params = default(policy);
        assert!(kept(policy, &params, &empty.head(), 0).unwrap().is_empty());
        assert!(kept(policy, &params, &empty.head(), 9).unwrap().is_empty());
        for budget in [10, 11] {
            let all: Vec<u32> = (0..10).collect();
            assert_eq!(kept(policy, &params, &made.head(), budget).unwrap(), all);
        }
        if policy != Policy::None {
            assert!(kept(policy, &params, &made.head(), 0).unwrap().is_empty());
        }
    }
}

#[test]
fn what_cannot_leave_is_an_error_that_says_so() {
    let mut made = Made::new(100, &mut Rng::new(3), Rng::next_f32);
    made.pin(40..70);
    for policy in evicting() {
        let error = kept(policy, &default(policy), &made.head(), 29).unwrap_err();
        assert!(matches!(error, Error::KvFull(_)), "{error}");
        let words = "30 cells of head 2 of layer 5 are pinned, expected at most the budget of 29";
        assert!(error.message().contains(words), "{error}");
        // Just enough: then nothing else stays, sinks included.
        let pinned: Vec<u32> = (40..70).collect();
        assert_eq!(kept(policy, &default(policy), &made.head(), 30).unwrap(), pinned);
        let n_others = kept(policy, &default(policy), &made.head(), 33).unwrap().len() - 30;
        assert_eq!(n_others, 3);
    }
    made.pin([]);
    let error = kept(Policy::None, &default(Policy::None), &made.head(), 99).unwrap_err();
    assert!(matches!(error, Error::KvFull(_)), "{error}");
    assert!(error.message().contains("100 cells in head 2 of layer 5"), "{error}");
}

#[test]
fn what_has_expired_leaves_and_a_low_priority_before_a_high_one() {
    let mut rng = Rng::new(14);
    let mut n_divided = 0;
    for round in 0..150 {
        let n = (rng.next_u64() % 200) as usize;
        let mut made = Made::new(n, &mut rng, |rng| (rng.next_u64() % 5) as f32);
        let mut some = |one_in: u64| -> Vec<u32> {
            (0..n as u32).filter(|_| rng.next_u64().is_multiple_of(one_in)).collect()
        };
        (made.pinned, made.expired) = (bits(n, &some(9)), bits(n, &some(1 + round % 7)));
        if round % 5 > 0 {
            let all = [i8::MIN, -1, 0, 1, i8::MAX];
            made.priority =
                (0..n).map(|_| all[(rng.next_u64() % (round % 5 + 1)) as usize]).collect();
        }
        for policy in evicting() {
            let params = default(policy);
            let n_sink = if policy == Policy::Ring { 0 } else { params.n_sink };
            let is_sink = |i: usize| (made.pos[i] as usize) < n_sink;
            let leaves = |i: usize| is_set(&made.expired, i) && !is_sink(i);
            let is_pinned = |i: usize| made.is_pinned(i) && !is_set(&made.expired, i);
            let n_left = (0..n).filter(|&i| !leaves(i)).count();
            let n_pinned = (0..n).filter(|&i| is_pinned(i)).count();
            for budget in [0, 2, n / 5, n / 2, n, usize::MAX] {
                let got = kept(policy, &params, &made.head(), budget);
                if n_pinned > budget {
                    assert!(matches!(got, Err(Error::KvFull(_))), "{policy:?}: {got:?}");
                    continue;
                }
                let got = got.unwrap();
                let what = format!("{policy:?}, {n_left} of {n} cells, budget {budget}: {got:?}");
                assert_eq!(got.len(), n_left.min(budget), "{what}");
                let stays = |i: usize| got.binary_search(&(i as u32)).is_ok();
                assert!((0..n).all(|i| !(leaves(i) && stays(i))), "{what}");
                assert!((0..n).all(|i| !is_pinned(i) || stays(i)), "{what}");
                let sinks = (0..n).filter(|&i| is_sink(i) && !is_pinned(i));
                assert!(sinks.take(budget - n_pinned).all(stays), "{what}");
                let priority = |i: usize| made.priority.get(i).copied().unwrap_or(0);
                let ranked = |i: &usize| !is_pinned(*i) && !is_sink(*i) && !leaves(*i);
                let lowest = (0..n).filter(ranked).filter(|&i| stays(i)).map(priority).min();
                let highest = (0..n).filter(ranked).filter(|&i| !stays(i)).map(priority).max();
                if let (Some(lowest), Some(highest)) = (lowest, highest) {
                    assert!(lowest >= highest, "{what}: {highest} left, {lowest} stays");
                    n_divided += usize::from(lowest == highest);
                }
            }
        }
    }
    assert!(n_divided > 1000, "{n_divided}");
}

#[test]
fn among_cells_of_one_priority_the_policy_decides_as_without() {
    let mut rng = Rng::new(15);
    for priority in [i8::MIN, -1, 0, 1, i8::MAX] {
        let mut made = Made::new(150, &mut rng, Rng::next_f32);
        made.pin([30, 31, 149]);
        let mut same = made.clone();
        (same.priority, same.expired) = (vec![priority; 150], bits(150, &[]));
        for policy in evicting() {
            for budget in [9, 40, 149] {
                let expected = kept(policy, &default(policy), &made.head(), budget);
                assert_eq!(kept(policy, &default(policy), &same.head(), budget), expected);
            }
        }
    }
}

#[test]
fn what_expires_makes_room_where_nothing_may_leave() {
    let mut made = Made::new(100, &mut Rng::new(16), Rng::next_f32);
    made.expired = bits(100, &(40..60).collect::<Vec<_>>());
    let rest: Vec<u32> = (0..40).chain(60..100).collect();
    let params = default(Policy::None);
    for budget in [80, 100, 1000] {
        assert_eq!(kept(Policy::None, &params, &made.head(), budget).unwrap(), rest);
    }
    let error = kept(Policy::None, &params, &made.head(), 79).unwrap_err();
    assert!(matches!(error, Error::KvFull(_)), "{error}");
    assert!(error.message().contains("80 cells in head 2 of layer 5"), "{error}");
}

#[test]
fn segments_pin_a_prompt_expire_a_reading_and_let_a_result_go_first() {
    let mut segments = Segments::new().unwrap();
    for segment in [
        Segment { name: "system", to: 20, pinned: true, ..Segment::default() },
        Segment { name: "tool", from: 30, to: 50, priority: -1, ..Segment::default() },
        Segment { name: "sensor", from: 90, to: 96, ttl: 4, ..Segment::default() },
    ] {
        segments.set(&segment).unwrap();
    }
    let mut made = Made::new(100, &mut Rng::new(17), Rng::next_f32);
    made.pos = (0..100).collect();
    made.n_past = 100;
    (made.pinned, made.expired, made.priority) = (vec![0; 2], vec![0; 2], vec![0; 100]);
    for policy in evicting() {
        let marks = Marks {
            pinned: &mut made.pinned,
            expired: &mut made.expired,
            priority: &mut made.priority,
        };
        segments.fill(made.n_past, &made.pos, marks);
        let of = |range: std::ops::Range<u32>, budget: usize| {
            let got = kept(policy, &default(policy), &made.head(), budget).unwrap();
            got.iter().filter(|i| range.contains(i)).count()
        };
        // Room for all but the reading; then for half of the result; then for the prompt and little else.
        assert_eq!([of(0..20, 94), of(30..50, 94), of(90..96, 94)], [20, 20, 0], "{policy:?}");
        assert_eq!([of(0..20, 84), of(30..50, 84), of(0..100, 84)], [20, 10, 84], "{policy:?}");
        assert_eq!([of(0..20, 30), of(30..50, 30), of(0..100, 30)], [20, 0, 30], "{policy:?}");
    }
    let (mut pinned, mut expired) = (vec![0; 2], vec![0; 2]);
    let ((), bytes) = peak_bytes(|| {
        let marks =
            Marks { pinned: &mut pinned, expired: &mut expired, priority: &mut made.priority };
        segments.fill(96, &made.pos, marks);
        segments.set(&Segment { name: "tool", from: 50, to: 51, ..Segment::default() }).unwrap();
        segments.truncate(95);
        segments.remove("sensor").unwrap();
    });
    assert_eq!(bytes, 0);
}

#[test]
fn streaming_keeps_sinks_and_the_newest_and_a_ring_the_newest_only() {
    let mut rng = Rng::new(4);
    for (n, budget) in [(50, 20), (50, 3), (50, 49), (5, 4), (1, 0)] {
        let mut made = Made::new(n, &mut rng, Rng::next_f32);
        made.pos = (0..n as u32).collect();
        let n_sink = budget.min(4);
        let newest = n - (budget - n_sink)..n;
        let expected: Vec<u32> = (0..n_sink).chain(newest).map(|i| i as u32).collect();
        let head = made.head();
        assert_eq!(
            kept(Policy::Streaming, &default(Policy::Streaming), &head, budget),
            Ok(expected)
        );
        let newest: Vec<u32> = (n - budget..n).map(|i| i as u32).collect();
        assert_eq!(kept(Policy::Ring, &default(Policy::Ring), &head, budget), Ok(newest));
    }
    // A pin counts against the budget wherever it lies.
    let mut made = Made::new(50, &mut rng, Rng::next_f32);
    made.pos = (0..50).collect();
    made.pin([20, 49]);
    let got = kept(Policy::Streaming, &default(Policy::Streaming), &made.head(), 10).unwrap();
    assert_eq!(got, [0, 1, 2, 3, 20, 45, 46, 47, 48, 49]);
    let got = kept(Policy::Ring, &default(Policy::Ring), &made.head(), 5).unwrap();
    assert_eq!(got, [20, 46, 47, 48, 49]);
}

#[test]
fn without_its_third_quota_the_hybrid_is_attn() {
    let mut rng = Rng::new(5);
    for _ in 0..50 {
        let made = Made::new(150, &mut rng, Rng::next_f32);
        let mut blind = made.clone();
        blind.scores[3].clear(); // leverage
        for budget in [10, 30, 77] {
            let attn = Params { quotas: Quotas::ATTN, ..default(Policy::Attn) };
            let hybrid = kept(Policy::Hybrid, &attn, &blind.head(), budget).unwrap();
            assert_eq!(hybrid, kept(Policy::Attn, &attn, &made.head(), budget).unwrap());
            let full =
                kept(Policy::Hybrid, &default(Policy::Hybrid), &made.head(), budget).unwrap();
            assert_ne!(hybrid, full);
        }
    }
}

#[test]
fn each_quota_gets_its_share() {
    // 4 sinks and 40 others: 16 newest, 16 by attention, 8 by leverage. Attention is high in the
    // cells 100..116 and leverage in 200..208, so far apart that pools do not mix them.
    let mut made = Made::new(400, &mut Rng::new(6), |_| 0.0);
    made.pos = (0..400).collect();
    made.n_past = 400;
    for i in 100..116 {
        made.scores[8][i] = 0.01;
        made.scores[1][i] = 0.01;
    }
    made.scores[3][200..208].fill(1.0);
    let got = kept(Policy::Hybrid, &default(Policy::Hybrid), &made.head(), 44).unwrap();
    let expected: Vec<u32> = (0..4).chain(100..116).chain(200..208).chain(384..400).collect();
    assert_eq!(got, expected);
    // A long prompt that is pinned leaves the shares as they are.
    made.pin(0..64);
    let got = kept(Policy::Hybrid, &default(Policy::Hybrid), &made.head(), 104).unwrap();
    let expected: Vec<u32> = (0..64).chain(100..116).chain(200..208).chain(384..400).collect();
    assert_eq!(got, expected);
}

/// A head that rests on the sinks keeps few of the newest tokens, but what is unusual, and what follows
/// a token that was attended to; one that reads the newest keeps those.
#[test]
fn idle_heads_keep_facts_and_what_follows_them() {
    let mut made = Made::new(400, &mut Rng::new(18), |_| 0.0);
    made.pos = (0..400).collect();
    made.n_past = 400;
    made.scores[8][100..130].fill(0.01); // squares
    made.scores[3][200..220].fill(1.0); // leverage
    made.scores[1][300] = 0.001; // observed
    let of = |made: &Made, policy| kept(policy, &default(policy), &made.head(), 44).unwrap();
    // 40 cells beside the sinks: 2 newest, 6 that follow, 20 unusual ones and 12 with attention.
    made.scores[1][0] = 0.9;
    let idle = of(&made, Policy::Hybrid);
    let n = |cells: std::ops::Range<u32>| idle.iter().filter(|i| cells.contains(i)).count();
    assert_eq!([n(0..4), n(398..400), n(300..306), n(200..220)], [4, 2, 6, 20], "{idle:?}");
    assert_eq!(n(100..130), 12, "{idle:?}");
    let attn = of(&made, Policy::Attn);
    assert!(attn.iter().filter(|i| (100..130).contains(*i)).count() == 30 && attn[42] == 398);
    // 18 newest, none that follow, 2 unusual ones and 20 with attention, 300 among them.
    (made.scores[1][0], made.scores[1][399]) = (0.0, 0.9);
    let reading = of(&made, Policy::Hybrid);
    let n = |cells: std::ops::Range<u32>| reading.iter().filter(|i| cells.contains(i)).count();
    assert_eq!([n(0..4), n(382..400), n(301..306)], [4, 18, 0], "{reading:?}");
    assert_eq!([n(100..130) + n(300..301), n(196..224)], [20, 2], "{reading:?}");
}

#[test]
fn equal_scores_are_told_apart_by_position() {
    let n = 100;
    let mut made = Made::new(n, &mut Rng::new(7), |_| 0.5);
    made.scores[1].fill(0.0); // else heads would be more or less idle
    made.n_past = made.pos[n - 1] + 1;
    // Of equal scores, the mean mass is not: it divides by age.
    let seen: Vec<f32> = (0..n).map(|i| made.head().n_seen(i) as f32).collect();
    made.scores[0] = seen;
    made.scores[8].fill(0.0);
    let n_sink = made.pos.iter().filter(|&&p| p < 4).count();
    for policy in evicting().filter(|&p| p != Policy::Random) {
        let got = kept(policy, &default(policy), &made.head(), 40).unwrap();
        // The lowest and the newest, and nothing between them.
        let n_low = (0..).zip(&got).take_while(|(i, j)| i == *j).count();
        let n_new = (0..n as u32).rev().zip(got.iter().rev()).take_while(|(i, j)| i == *j).count();
        assert_eq!(n_low + n_new, 40, "{policy:?}: {got:?}");
        match policy {
            Policy::Streaming => assert_eq!(n_low, n_sink),
            Policy::Ring => assert_eq!(n_low, 0),
            Policy::Tova => assert_eq!(n_new, 1),
            Policy::Hybrid | Policy::Attn => assert_eq!(n_new, (40 - n_sink) * 2 / 5),
            _ => assert_eq!(n_new, (40 - n_sink) / 2, "{policy:?}"),
        }
    }
}

#[test]
fn nan_is_kept_after_every_number_and_infinity_before() {
    let mut rng = Rng::new(8);
    for _ in 0..40 {
        let n = 120;
        let score: Vec<f32> = (0..n)
            .map(|_| match rng.next_u64() % 6 {
                0 => f32::NAN,
                1 => -f32::NAN,
                2 => f32::INFINITY,
                3 => f32::NEG_INFINITY,
                _ => rng.next_f32() - 0.5,
            })
            .collect();
        let made = Made::new(n, &mut rng, |_| 0.0).all_fields(&score);
        for (policy, is_high) in PLAIN {
            for budget in [20, 60, 90, 110] {
                let got = kept(policy, &default(policy), &made.head(), budget).unwrap();
                let worth = |i: usize| {
                    let x = if is_high { score[i] } else { -score[i] };
                    // NaN below all; positions decide among equals.
                    (!x.is_nan(), if x.is_nan() { 0.0 } else { x + 0.0 }, n - i)
                };
                let order = |a: usize, b: usize| {
                    let (a, b) = (worth(a), worth(b));
                    a.0.cmp(&b.0).then(a.1.total_cmp(&b.1)).then(a.2.cmp(&b.2))
                };
                let stays = |i: usize| got.binary_search(&(i as u32)).is_ok();
                // Whatever left is worth less than the least of what stays for its score.
                let n_sink = made.pos.iter().filter(|&&p| p < 4).count();
                let n_new = if policy == Policy::Tova { 1 } else { 32.min((budget - n_sink) / 2) };
                let by_score = (n_sink..n - n_new).filter(|&i| stays(i));
                let least = by_score.min_by(|&a, &b| order(a, b));
                let most = (0..n).filter(|&i| !stays(i)).max_by(|&a, &b| order(a, b));
                if let (Some(least), Some(most)) = (least, most) {
                    assert!(order(most, least).is_lt(), "{policy:?}: {most} left, {least} stays");
                }
            }
        }
    }
}

#[test]
fn short_keys_stay_not_long_ones() {
    let mut rng = Rng::new(9);
    let made = Made::new(100, &mut rng, Rng::next_f32);
    let norm = made.scores[6].clone();
    let inverted = made.clone().all_fields(&norm.iter().map(|x| -x).collect::<Vec<_>>());
    let params = Params {
        n_sink: 0,
        quotas: Quotas { recent: 0.0, attn: 1.0, leverage: 0.0 },
        ..default(Policy::KNorm)
    };
    let low = kept(Policy::KNorm, &params, &made.head(), 30).unwrap();
    let high = kept(Policy::KNorm, &params, &inverted.head(), 30).unwrap();
    assert!(low.iter().all(|i| !high.contains(i)));
    let longest = low.iter().map(|&i| norm[i as usize]).fold(0.0, f32::max);
    assert!((0..100).all(|i| low.contains(&i) || norm[i as usize] > longest));
}

/// The sum of attention grows with age: by it a new token would be the first to leave, and what
/// was there first would stay for ever.
#[test]
fn a_new_token_that_is_attended_to_beats_an_old_one_that_is_not() {
    let n = 200;
    let mut made = Made::new(n, &mut Rng::new(10), |_| 0.0);
    made.pos = (0..n as u32).collect();
    made.n_past = n as u32;
    made.scores[0] = (0..n).map(|i| 0.01 * (n - i) as f32).collect();
    let faded = |n: usize| (0..n).map(|n| (-(n as f32) / 128.0).exp2()).sum::<f32>();
    made.scores[8] = (0..n).map(|i| 0.0001 * faded(n - i)).collect();
    // Cell 150 was seen by 50 queries, with three times the attention of any other.
    made.scores[8][150] *= 9.0;
    made.scores[0][150] *= 3.0;
    assert!(made.scores[0][150] < made.scores[0][10]);
    for policy in [Policy::H2o, Policy::Attn, Policy::Hybrid] {
        let got = kept(policy, &default(policy), &made.head(), 20).unwrap();
        assert!(got.contains(&150), "{policy:?}: {got:?}");
    }
}

#[test]
fn threads_and_memory_that_was_used_change_nothing() {
    let mut rng = Rng::new(11);
    let heads: Vec<Made> =
        (0..24).map(|i| Made::new(20 + 7 * i, &mut rng, |r| (r.next_u64() % 16) as f32)).collect();
    let choose = |made: &Made, work: &mut Work, out: &mut Vec<u32>| -> Vec<Vec<u32>> {
        let one = |policy: Policy| {
            keep(policy, &default(policy), &made.head(), 19, work, out).unwrap();
            out.clone()
        };
        evicting().map(one).collect()
    };
    let fresh: Vec<_> = heads
        .iter()
        .map(|made| {
            choose(made, &mut Work::new(made.pos.len()).unwrap(), &mut Vec::with_capacity(19))
        })
        .collect();
    for n_threads in [1, 3, 8] {
        thread::scope(|scope| {
            let threads: Vec<_> = (0..n_threads)
                .map(|t| {
                    let (heads, choose) = (&heads, &choose);
                    scope.spawn(move || {
                        let (mut work, mut out) = (Work::new(200).unwrap(), Vec::with_capacity(19));
                        let own = (t..heads.len()).step_by(n_threads).rev();
                        own.map(|i| (i, choose(&heads[i], &mut work, &mut out))).collect::<Vec<_>>()
                    })
                })
                .collect();
            for (i, sets) in threads.into_iter().flat_map(|t| t.join().unwrap()) {
                assert_eq!(sets, fresh[i], "head {i}, {n_threads} threads");
            }
        });
    }
}

#[test]
fn a_lot_is_a_token_s_own() {
    // What one eviction by lot leaves, a second one to the same budget would have chosen, too.
    let made = Made::new(200, &mut Rng::new(12), Rng::next_f32);
    let params = Params {
        quotas: Quotas { recent: 0.0, attn: 1.0, leverage: 0.0 },
        ..default(Policy::Random)
    };
    let at_once = kept(Policy::Random, &params, &made.head(), 40).unwrap();
    let first = kept(Policy::Random, &params, &made.head(), 90).unwrap();
    let mut rest = made.clone();
    rest.pos = first.iter().map(|&i| made.pos[i as usize]).collect();
    rest.scores = Default::default();
    let second = kept(Policy::Random, &params, &rest.head(), 40).unwrap();
    let second: Vec<u32> = second.iter().map(|&i| first[i as usize]).collect();
    assert_eq!(second, at_once);
    let other = kept(Policy::Random, &Params { seed: 1, ..params }, &made.head(), 40).unwrap();
    assert_ne!(other, at_once);
    let head = Head { layer: 6, ..made.head() };
    assert_ne!(kept(Policy::Random, &params, &head, 40).unwrap(), at_once);
}

#[test]
fn nothing_allocates_but_what_makes_memory_and_that_can_fail() {
    let (n, d) = (300, 64);
    let made = Made::new(n, &mut Rng::new(13), Rng::next_f32);
    let (mut work, mut out) = (Work::new(n).unwrap(), Vec::with_capacity(n));
    let (mut moments, mut factor) = (Moments::new(d).unwrap(), Factor::new(d).unwrap());
    let (mut mean, mut turn) = (Mean::new(d).unwrap(), Turn::new(d / 2).unwrap());
    let mut future = Future::new(d, true).unwrap();
    let rope = tern::backend::rope::Frequencies { per_pair: vec![0.1; d / 2], scale: 1.0 };
    let x = vec![0.5; d];
    let ((), bytes) = peak_bytes(|| {
        for policy in evicting() {
            keep(policy, &default(policy), &made.head(), 60, &mut work, &mut out).unwrap();
        }
        moments.add(&x);
        mean.add_unit(&x);
        moments.factor(0.01, &mut factor);
        turn.set(&rope, tern::backend::rope::Layout::Norm, 5, 512);
        future.set(&moments, &turn);
        assert!((factor.leverage(&x) + mean.key_diff(&x) + future.logit(&x)).is_finite());
    });
    assert_eq!(bytes, 0);

    fn check<T>(what: &str, bytes: u64, make: impl Fn() -> Result<T>) {
        let (_, taken) = peak_bytes(&make);
        assert_eq!(taken as u64, bytes, "{what}");
        let mut n_failed = 0;
        while let Err(error) = with_allocations(n_failed, &make) {
            assert!(matches!(error, Error::OutOfMemory(_)), "{what}: {error}");
            n_failed += 1;
        }
        assert!(n_failed > 0, "{what}");
    }
    check("segments", Segments::bytes(), Segments::new);
    check("work", Work::bytes(n), || Work::new(n));
    check("moments", Moments::bytes(d), || Moments::new(d));
    check("factor", Factor::bytes(d), || Factor::new(d));
    check("mean", Mean::bytes(d), || Mean::new(d));
    check("future", Future::bytes(d, true), || Future::new(d, true));
    check("mean-only future", Future::bytes(d, false), || Future::new(d, false));
    check("turn", d as u64 / 2 * 16, || Turn::new(d / 2));
    let error = Work::new(usize::MAX).err().unwrap();
    assert!(matches!(error, Error::OutOfMemory(_)), "{error}");
}

/// The numbers that tests/kv/policies.py recorded.
#[cfg(feature = "cli")] // which brings serde_json
mod recorded {
    use super::*;
    use serde_json::Value;
    use tern::backend::rope::{Frequencies, Layout};
    use tern::kv::policy::{expected, mean, score};

    fn floats(v: &Value) -> Vec<f32> {
        v.as_array().unwrap().iter().map(|x| x.as_f64().unwrap() as f32).collect()
    }

    fn ints(v: &Value) -> Vec<u32> {
        v.as_array().unwrap().iter().map(|x| x.as_u64().unwrap() as u32).collect()
    }

    fn int(v: &Value) -> usize {
        v.as_u64().unwrap() as usize
    }

    fn priorities(v: &Value) -> Vec<i8> {
        v.as_array().unwrap().iter().map(|x| x.as_i64().unwrap().try_into().unwrap()).collect()
    }

    /// Vectors of `d` elements, recorded in hundredths.
    fn vectors(v: &Value, d: usize) -> Vec<Vec<f32>> {
        let all = v.as_array().unwrap();
        let hundredth = |x: &Value| (x.as_i64().unwrap() as f64 / 100.0) as f32;
        all.chunks(d).map(|row| row.iter().map(hundredth).collect()).collect()
    }

    fn rotated(x: &[f32], pos: u32, rope: &Frequencies, layout: Layout) -> Vec<f32> {
        let mut out = x.to_vec();
        for (i, w) in rope.per_pair.iter().enumerate() {
            let (a, b) = match layout {
                Layout::Norm => (2 * i, 2 * i + 1),
                Layout::Neox => (i, i + rope.per_pair.len()),
            };
            let (sin, cos) = (w * f64::from(pos)).sin_cos();
            let (xa, xb) = (f64::from(x[a]), f64::from(x[b]));
            out[a] = (cos * xa - sin * xb) as f32;
            out[b] = (sin * xa + cos * xb) as f32;
        }
        out
    }

    fn compare(what: &str, found: &[f32], expected: &Value) {
        let expected = floats(expected);
        assert_eq!(found.len(), expected.len(), "{what}");
        for (i, (f, e)) in found.iter().zip(&expected).enumerate() {
            assert!((f - e).abs() <= 1e-4 * e.abs(), "{what}, cell {i}: {f}, expected {e}");
        }
    }

    /// Expected attention of the cells that are no sinks; 0 for sinks.
    fn expect(
        head: &Head<'_>,
        queries: &[Vec<f32>],
        keys: &[Vec<f32>],
        values: &[Vec<f32>],
        turn: &Turn,
        (n_group, has_covariance): (usize, bool),
    ) -> Vec<f32> {
        let d = keys[0].len();
        let n_sink = head.pos.iter().filter(|&&p| p < 4).count();
        let norms: Vec<f32> = values[n_sink..].iter().map(|v| mean::norm(v) as f32).collect();
        let mut score = vec![0.0; keys.len()];
        for own in queries.chunks(queries.len() / n_group) {
            let mut future = Future::new(d, has_covariance).unwrap();
            if has_covariance {
                let mut moments = Moments::new(d).unwrap();
                own.iter().for_each(|q| moments.add(q));
                future.set(&moments, turn);
            } else {
                let mut mean = Mean::new(d).unwrap();
                own.iter().for_each(|q| mean.add(q));
                future.set_mean(mean.mean(), turn);
            }
            let mut logits: Vec<f32> = keys[n_sink..].iter().map(|k| future.logit(k)).collect();
            expected::weigh(&mut logits, &norms, n_group, &mut score[n_sink..]);
        }
        score
    }

    #[test]
    fn scores_and_choices_are_those_of_numpy() {
        let fixture: Value = serde_json::from_str(include_str!("kv/policies.json")).unwrap();
        let (n, d) = (int(&fixture["n"]), int(&fixture["d"]));
        let (n_group, seed) = (int(&fixture["n_group"]), int(&fixture["lot_seed"]) as u64);
        let mut n_sets = 0;
        for one in fixture["heads"].as_array().unwrap() {
            let layout = if one["layout"] == "norm" { Layout::Norm } else { Layout::Neox };
            let n_dims = int(&one["n_dims"]);
            let per_pair = (0..n_dims / 2).map(|i| 1e4f64.powf(-2.0 * i as f64 / n_dims as f64));
            let rope = Frequencies { per_pair: per_pair.collect(), scale: 1.0 };
            let pos = ints(&one["pos"]);
            assert_eq!(pos.len(), n);
            let [raw, values, queries] =
                ["keys", "values", "queries"].map(|name| vectors(&one[name], d));
            let keys: Vec<Vec<f32>> =
                raw.iter().zip(&pos).map(|(k, &p)| rotated(k, p, &rope, layout)).collect();

            let mut made = Made { n_past: int(&one["n_past"]) as u32, pos, ..Made::default() };
            made.pinned = bits(n, &ints(&one["pinned"]));
            let mut leverage = vec![0.0; n];
            for xs in [&raw, &values] {
                let (mut moments, mut factor) = (Moments::new(d).unwrap(), Factor::new(d).unwrap());
                xs.iter().for_each(|x| moments.add(x));
                moments.factor(0.01, &mut factor);
                leverage.iter_mut().zip(xs).for_each(|(l, x)| *l += factor.leverage(x));
            }
            let mut unit = Mean::new(d).unwrap();
            keys.iter().for_each(|k| unit.add_unit(k));
            let mut turn = Turn::new(d / 2).unwrap();
            turn.set(&rope, layout, made.n_past, 512);
            let expect = |has_covariance| {
                expect(&made.head(), &queries, &keys, &values, &turn, (n_group, has_covariance))
            };
            let (with_covariance, mean_only) = (expect(true), expect(false));
            made.scores = [
                floats(&one["mass"]),
                floats(&one["observed"]),
                floats(&one["last"]),
                leverage,
                keys.iter().map(|k| unit.key_diff(k)).collect(),
                with_covariance,
                keys.iter().map(|k| mean::norm(k) as f32).collect(),
                floats(&one["zip"]),
                floats(&one["squares"]),
            ];

            let head = Head {
                layer: int(&one["layer"]) as u32,
                head: int(&one["head"]) as u32,
                ..made.head()
            };
            let scores = &one["scores"];
            compare("expected_mean", &mean_only, &scores["expected_mean"]);
            compare("expected", head.expected, &scores["expected"]);
            compare("key_diff", head.key_diff, &scores["key_diff"]);
            compare("leverage", head.leverage, &scores["leverage"]);
            let (mut a, mut b) = (vec![0.0; n], vec![0.0; n]);
            let params = Params { seed, ..default(Policy::Hybrid) };
            score::pool(head.leverage, params.n_pool_leverage, &mut a);
            compare("leverage_pooled", &a, &scores["leverage_pooled"]);
            score::pool(head.observed, params.n_pool, &mut a);
            compare("observed_pooled", &a, &scores["observed_pooled"]);
            score::pool(head.observed, default(Policy::SnapKv).n_pool, &mut a);
            compare("snapkv", &a, &scores["snapkv"]);
            score::quadratic_mean(&params, &head, &mut a);
            compare("quadratic_mean", &a, &scores["quadratic_mean"]);
            score::mean_mass(&head, &mut a);
            compare("mean_mass", &a, &scores["mean_mass"]);
            score::attention(&params, &head, &mut a, &mut b);
            compare("attention", &a, &scores["attention"]);
            score::follow(&params, &head, &mut a);
            compare("follow", &a, &scores["follow"]);
            let idle: Vec<f32> = [12, 24, 48]
                .map(|n_near| score::idleness(&params, &head, n_near).unwrap() as f32)
                .to_vec();
            compare("idleness", &idle, &scores["idleness"]);
            score::low_norm(head.norm, &mut a);
            compare("low_norm", &a, &scores["low_norm"]);
            score::random(seed, &head, &mut a);
            compare("random", &a, &scores["random"]);

            let segments = (bits(n, &ints(&one["expired"])), priorities(&one["priority"]));
            for (field, (expired, priority)) in
                [("keep", Default::default()), ("keep_segments", segments)]
            {
                let head = Head { expired: &expired, priority: &priority, ..head };
                for (budget, sets) in one[field].as_object().unwrap() {
                    let sets = sets.as_object().unwrap();
                    assert_eq!(sets.len(), Policy::ALL.len()); // not none, but the hybrid twice
                    for (name, expected) in sets {
                        let (name, is_sliding) = match name.split_once(", ") {
                            Some((name, _)) => (name, true),
                            None => (&name[..], false),
                        };
                        let policy = Policy::from_name(name).unwrap();
                        let params = Params { seed, ..Params::new(policy, is_sliding) };
                        let got = kept(policy, &params, &head, budget.parse().unwrap()).unwrap();
                        let what = format!("{name}, {field}, budget {budget}, {:?}", one["layer"]);
                        assert_eq!(got, ints(expected), "{what}");
                        n_sets += 1;
                    }
                }
            }
        }
        assert_eq!(n_sets, 3 * 2 * 2 * 13);
    }

    #[test]
    fn the_script_says_how_to_run_it() {
        let script = include_str!("kv/policies.py");
        let first: Vec<&str> = script.lines().take(6).collect();
        assert!(first[1].contains("Writes tests/kv/policies.json"), "{first:?}");
        assert!(first.iter().any(|l| l.ends_with("python3 tests/kv/policies.py")), "{first:?}");
        assert!(include_str!("kv/policies.json").len() < 200_000);
    }
}
