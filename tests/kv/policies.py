#!/usr/bin/env python3
"""Writes tests/kv/policies.json: what each eviction policy scores and keeps of three made heads.

    python3 -m venv /tmp/venv && /tmp/venv/bin/pip install numpy
    /tmp/venv/bin/python3 tests/kv/policies.py

tests/kv_policy.rs compares src/kv/policy with it. Written from the formulas of the papers and the
rules in the comments of src/kv/policy, in f64, with inverses and sums where the library has
recurrences, closed forms and selection. The random numbers are this file's own, so that every
version of numpy writes the same.
"""
import json
import os

import numpy as np

SEED = 1
N, D, GROUP, N_QUERY = 96, 16, 2, 48
BUDGETS = (24, 41)
N_SINK, N_OBS, N_FUTURE, EPS = 4, 32, 512, 0.01
POOL, POOL_LEVERAGE = 1, 9
POOL_SNAPKV = 5
HALF_LIFE = 128
LOT_SEED = 77
MASK = (1 << 64) - 1

# Of what pinned cells and sinks leave of the budget: shares for the newest, for attention
# (or the only score), for leverage.
FULL, ATTN, SLIDING = (0.40, 0.40, 0.20), (0.40, 0.60, 0.0), (0.05, 0.95, 0.0)
HALF = (0.50, 0.50, 0.0)  # of policies that follow a paper
# What the quotas of the newest and of leverage are multiplied by in heads of these idlenesses, and
# the share of what follows the last attention.
MARKS, RECENT, LEVERAGE, FOLLOW = (0.2, 0.95), (1.125, 0.125), (0.15, 2.5), (0.0, 0.15)
FADE = 0.9


def splitmix(seed):
    while True:
        seed = (seed + 0x9E3779B97F4A7C15) & MASK
        z = seed
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
        yield z ^ (z >> 31)


def first_of_xoshiro(seed):
    """The first number of xoshiro256**, seeded by SplitMix64: a function of its second word."""
    words = splitmix(seed)
    next(words)
    x = (next(words) * 5) & MASK
    return (((x << 7) | (x >> 57)) & MASK) * 9 & MASK


class Random:
    def __init__(self, seed):
        self.words = splitmix(seed)

    def uniform(self, *shape):
        count = int(np.prod(shape))
        return np.array([(next(self.words) >> 11) / 2.0**53 for _ in range(count)]).reshape(shape)

    def bell(self, *shape):
        """Sums of uniform numbers, which look normal, of variance 1."""
        return (self.uniform(6, *shape).sum(0) - 3.0) * np.sqrt(2.0)


def rotate(x, pos, layout, n_dims):
    """Rows of x turned by their positions; elements from n_dims on stay."""
    angle = np.asarray(pos)[:, None] * frequencies(n_dims)
    first, second = pairs(layout, n_dims)
    z = (x[:, first] + 1j * x[:, second]) * np.exp(1j * angle)
    out = x.copy()
    out[:, first], out[:, second] = z.real, z.imag
    return out


def frequencies(n_dims):
    return 10000.0 ** (-np.arange(0, n_dims, 2) / n_dims)


def pairs(layout, n_dims):
    i = np.arange(n_dims // 2)
    return (2 * i, 2 * i + 1) if layout == "norm" else (i, i + n_dims // 2)


def leverage(x):
    rest = x - x.mean(0)
    c = rest.T @ rest
    ridge = EPS * np.trace(c) / D
    return (rest * np.linalg.solve(c + ridge * np.eye(D), rest.T).T).sum(1)


def key_diff(keys):
    unit = keys / np.linalg.norm(keys, axis=1, keepdims=True)
    mean = unit.mean(0)
    return -(unit @ mean) / np.linalg.norm(mean)


def expected(head, with_covariance):
    """Of the cells that are no sinks."""
    ahead = np.arange(head["n_past"], head["n_past"] + N_FUTURE)
    turn = np.mean(
        [rotate(np.eye(D), [p] * D, head["layout"], head["n_dims"]).T for p in ahead], axis=0
    )
    cells = np.array(head["pos"]) >= N_SINK
    keys, norms = head["rotated"][cells], np.linalg.norm(head["values"][cells], axis=1)
    total = 0.0
    for queries in head["queries"]:
        mean = turn @ queries.mean(0)
        logits = keys @ mean / np.sqrt(D)
        if with_covariance:
            covariance = turn @ np.cov(queries.T, bias=True) @ turn.T
            logits = logits + ((keys @ covariance) * keys).sum(1) / (2 * D)
        p = np.exp(logits - logits.max())
        total = total + p / p.sum() * norms
    return total / GROUP


def pool(x, width):
    padded = np.concatenate([[x[0]] * (width // 2), x, [x[-1]] * (width // 2)])
    return np.convolve(padded, np.ones(width) / width, "valid")


def share_of_all(x):
    above = x - x.min()
    return above / above.sum()


def idleness(head, n_near):
    """Of the attention on sinks or on the newest, the part on sinks."""
    pos, p = np.array(head["pos"]), head["observed"]
    sinks, near = p[pos < N_SINK].sum(), p[(pos >= N_SINK) & (head["n_past"] - pos <= n_near)].sum()
    return sinks / (sinks + near)


def follow(head):
    """The most attention of the last queries to a cell before, FADE as much for each position."""
    pos, p = np.array(head["pos"]), head["observed"]
    counts = (pos >= N_SINK) & (head["n_past"] - pos > N_OBS)
    apart = pos[:, None] - pos[None, :]
    assert np.diff(pos).max() <= 90  # beyond which the library does not fade further
    worth = np.where((apart >= 0) & counts[None, :], p[None, :] * FADE ** np.maximum(apart, 0), 0.0)
    return worth.max(1)


def of_head(head, quotas, has_leverage, shared):
    """The quotas of a head by its idleness, with that of what follows."""
    recent, _, lev = quotas
    at = (idleness(head, part(shared, recent)) - MARKS[0]) / (MARKS[1] - MARKS[0])
    between = lambda ends: ends[0] + (ends[1] - ends[0]) * min(max(at, 0.0), 1.0)
    recent = recent * between(RECENT)
    after = between(FOLLOW) if has_leverage else 0.0
    lev = lev * between(LEVERAGE) if has_leverage else 0.0
    return recent, after, 1.0 - recent - after - lev, lev


def faded(seen):
    """What so many queries count together, the newest of which counts 1."""
    return np.array([(0.5 ** (np.arange(n) / HALF_LIFE)).sum() for n in seen])


def lots(head):
    seed = first_of_xoshiro(LOT_SEED)
    place = head["layer"] << 48 ^ head["head"] << 32
    return np.array([(first_of_xoshiro(seed ^ place ^ p) >> 40) / 2.0**24 for p in head["pos"]])


def part(budget, share):
    return int(budget * share + 1e-6)


def keep(name, head, scores, budget, quotas, has_segments):
    """Indices of the cells that stay."""
    sinks = [i for i in range(N) if head["pos"][i] < N_SINK and name != "ring"]
    expired = set(head["expired"] if has_segments else [])
    priority = head["priority"] if has_segments else [0] * N
    kept, gone = set(head["pinned"]) - expired, expired - set(sinks)

    def mark(cells):
        for i in cells:
            if len(kept) < budget and i not in gone:
                kept.add(i)

    def best(score, count):
        count = min(count, budget - len(kept))
        left = [i for i in range(N) if i not in kept | gone]
        left.sort(key=lambda i: (-score[i], i))
        # f32 must not decide otherwise than f64.
        gap = score[left[count - 1]] - score[left[count]] if 0 < count < len(left) else np.inf
        assert gap > 2e-5 * np.ptp(score), f"{name}: {gap} decides; take another seed"
        kept.update(left[:count])

    mark(sinks)
    for level in sorted(set(priority), reverse=True):
        cells = {i for i in range(N) if priority[i] == level} - kept - gone
        if len(cells) > budget - len(kept):
            gone = set(range(N)) - kept - cells
            break
        kept |= cells
    recent, attn, lev = quotas
    after, shared = 0.0, budget - len(kept)
    if name in ("hybrid", "attn"):
        has_leverage = name == "hybrid" and lev > 0
        recent, after, attn, lev = of_head(head, quotas, has_leverage, shared)
    newest = {
        "streaming": shared,
        "ring": shared,
        "tova": 1,
        "hybrid": part(shared, recent),
        "attn": part(shared, recent),
        "h2o": part(shared, recent),
    }.get(name, min(N_OBS, part(shared, recent)))
    mark([i for i in range(N - 1, -1, -1) if i not in gone][:newest])
    if name in ("streaming", "ring"):
        mark(range(N - 1, -1, -1))
    elif name == "hybrid" and lev > 0:
        best(scores["follow"], part(shared, after))
        best(scores["attention"], part(shared, attn))
        best(scores["leverage_pooled"], budget)
    else:
        score = {
            "hybrid": "attention",
            "attn": "attention",
            "h2o": "mean_mass",
            "tova": "last",
            "snapkv": "snapkv",
            "keydiff": "key_diff",
            "expected": "expected",
            "knorm": "low_norm",
            "kvzip": "zip",
            "random": "random",
        }[name]
        best(scores[score], budget)
    assert len(kept) == budget
    return sorted(int(i) for i in kept)


def make_head(rng, layer, number, layout, n_dims, n_evicted, rest, pinned, expired, priority):
    """The sinks draw `rest` times as much of the last attention as others. n_evicted positions between
    the sinks and the newest are not there any more. `priority` has (from, to, priority) of some cells,
    the others have 0; it and `expired` count with segments."""
    n_past = N + n_evicted
    gone = np.argsort(rng.uniform(n_past - 12))[:n_evicted]
    gone = gone + (N_SINK - 2)  # two sinks may be gone, too
    pos = [p for p in range(n_past) if p not in gone]
    hundredths = lambda x: np.round(x * 100) / 100
    tilt = rng.bell(D)
    keys = hundredths(rng.bell(N, D) * np.linspace(1.5, 0.3, D) + tilt)
    values = hundredths(rng.bell(N, D) * np.linspace(0.4, 1.0, D))
    queries = hundredths(rng.bell(GROUP, N_QUERY, D) + rng.bell(GROUP, 1, D))
    seen = n_past - np.array(pos)
    probabilities = lambda: np.round(rng.uniform(N) ** 3 / 20, 8)
    head = dict(layer=layer, head=number, n_past=n_past, layout=layout, n_dims=n_dims, pos=pos)
    head.update(pinned=pinned, expired=expired, priority=[0] * N)
    for first, end, level in priority:
        head["priority"][first:end] = [level] * (end - first)
    head.update(keys=keys, values=values, queries=queries)
    head.update(mass=np.round(probabilities() * seen, 7), observed=probabilities())
    head["observed"][np.array(pos) < N_SINK] *= rest
    head.update(last=probabilities(), zip=probabilities())
    head.update(squares=np.round(probabilities() ** 2 * faded(seen), 9))
    head["rotated"] = rotate(keys, pos, layout, n_dims)
    return head


def score(head):
    seen = head["n_past"] - np.array(head["pos"])
    n_sunk = sum(p < N_SINK for p in head["pos"])
    with_sinks = lambda x: np.concatenate([np.zeros(n_sunk), x])
    mean_mass, quadratic_mean = head["mass"] / seen, np.sqrt(head["squares"] / faded(seen))
    observed_pooled = pool(head["observed"], POOL)
    lev = leverage(head["keys"]) + leverage(head["values"])
    return dict(
        mean_mass=mean_mass,
        quadratic_mean=quadratic_mean,
        snapkv=pool(head["observed"], POOL_SNAPKV),
        observed_pooled=observed_pooled,
        attention=share_of_all(quadratic_mean) + share_of_all(observed_pooled),
        leverage=lev,
        leverage_pooled=pool(lev, POOL_LEVERAGE),
        follow=follow(head),
        idleness=[idleness(head, n_near) for n_near in (12, 24, 48)],
        key_diff=key_diff(head["rotated"]),
        expected=with_sinks(expected(head, True)),
        expected_mean=with_sinks(expected(head, False)),
        low_norm=-np.linalg.norm(head["rotated"], axis=1),
        last=head["last"],
        zip=head["zip"],
        random=lots(head),
    )


def main():
    rng = Random(SEED)
    heads = []
    # There is room for some of the highest priority; for some of the second; for some of the third or
    # of the last. Expired are sinks, pinned cells, and new ones.
    segments = (
        ([1, 2, 3, *range(20, 29), 94, 95], [(28, 80, 5), (10, 20, -7)]),
        ([50, 60, 61, 93, 95], [(12, 18, 127), (70, 92, -1), (30, 40, -128)]),
        ([*range(80, 90)], [(11, 96, -3), (40, 48, -2), (60, 68, 2)]),
    )
    for head in (
        make_head(rng, 0, 0, "norm", 16, 0, 0.5, [], *segments[0]),
        make_head(rng, 3, 1, "neox", 16, 40, 8, [5, 6, 7, 50, 95], *segments[1]),
        make_head(rng, 29, 2, "neox", 8, 300, 200, [10], *segments[2]),
    ):
        scores = score(head)
        for field, has_segments in (("keep", False), ("keep_segments", True)):
            kept = {}
            for budget in BUDGETS:
                of = lambda name, quotas: keep(name, head, scores, budget, quotas, has_segments)
                names = ["streaming", "h2o", "tova", "snapkv", "keydiff", "expected"]
                names += ["knorm", "kvzip", "random", "ring"]
                sets = {name: of(name, HALF) for name in names}
                sets["attn"] = of("attn", ATTN)
                sets["hybrid"], sets["hybrid, sliding"] = of("hybrid", FULL), of("hybrid", SLIDING)
                kept[str(budget)] = sets
            head[field] = kept
        del head["rotated"]
        for name in ("keys", "values", "queries"):
            head[name] = np.round(head[name] * 100).astype(int).ravel().tolist()
        for name in ("mass", "squares", "observed", "last", "zip"):
            head[name] = head[name].tolist()
        for name in ("last", "zip"):
            del scores[name]
        digits = lambda x: [float(f"{x:.7g}") for x in x]
        head["scores"] = {name: digits(x) for name, x in scores.items()}
        heads.append(head)
    made = dict(n=N, d=D, n_group=GROUP, n_query=N_QUERY, lot_seed=LOT_SEED, heads=heads)
    path = os.path.join(os.path.dirname(os.path.abspath(__file__)), "policies.json")
    with open(path, "w") as file:
        # One line for each head, so that a difference can be found.
        text = json.dumps(made, separators=(",", ":"))
        file.write(text.replace('{"layer"', '\n{"layer"') + "\n")


if __name__ == "__main__":
    main()
