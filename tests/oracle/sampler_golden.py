#!/usr/bin/env python3
"""Computes the recorded numbers of src/sampler and tests/sampler.rs from the specification.

Written from the text of src/sampler/mod.rs, not from the code, with Python's floats, which are
IEEE 754 doubles. Needs nothing but the standard library:

    python3 tests/oracle/sampler_golden.py
"""
import math
import struct

MASK = (1 << 64) - 1


def f32(x):
    return struct.unpack("<f", struct.pack("<f", x))[0]


class Rng:
    """xoshiro256**, seeded by SplitMix64."""

    def __init__(self, seed):
        self.s = []
        for _ in range(4):
            seed = (seed + 0x9E3779B97F4A7C15) & MASK
            z = seed
            z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
            z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
            self.s.append(z ^ (z >> 31))

    def next_u64(self):
        s = self.s
        rot = lambda x, k: ((x << k) | (x >> (64 - k))) & MASK
        out = (rot((s[1] * 5) & MASK, 7) * 9) & MASK
        t = (s[1] << 17) & MASK
        s[2] ^= s[0]
        s[3] ^= s[1]
        s[1] ^= s[2]
        s[0] ^= s[3]
        s[2] ^= t
        s[3] = rot(s[3], 45)
        return out

    def next_f64(self):
        return (self.next_u64() >> 11) / float(1 << 53)

    def next_f32(self):
        return (self.next_u64() >> 40) / float(1 << 24)


def exp(x):
    if x < -700.0:
        return 0.0
    k = round(x * 1.4426950408889634)  # ties to even
    r = (x - k * 0.6931471803691238) - k * 1.9082149292705877e-10
    total = 1.0 / math.factorial(10)
    for n in range(9, -1, -1):
        total = total * r + 1.0 / math.factorial(n)
    return math.ldexp(total, k)


def chunk_sums(values):
    out = []
    for at in range(0, len(values), 1024):
        chunk = values[at:at + 1024]
        lane = [0.0] * 8
        for i, v in enumerate(chunk):
            lane[i % 8] += v
        out.append(((lane[0] + lane[4]) + (lane[2] + lane[6]))
                   + ((lane[1] + lane[5]) + (lane[3] + lane[7])))
    return out


def total(values):
    acc = 0.0
    for v in chunk_sums(values):
        acc += v
    return acc


def share(items, mass, weight):
    """The shortest prefix of the sorted items whose weights reach the mass."""
    acc = 0.0
    for i, item in enumerate(items):
        acc += weight(item)
        if acc >= mass:
            return items[:i + 1]
    return items


def walk(weights, first, end, target):
    last = first
    for i in range(first, end):
        w = weights(i)
        if w > 0.0:
            if target < w:
                return i, target
            target -= w
            last = i
    return last, math.inf


def sample(logits, p, history, rng):
    l = list(logits)
    for token, bias in p.get("bias", []):
        l[token] = f32(l[token] + bias)
    recent = history[-(p.get("last_n") or 64):]
    for token in set(recent):
        n = recent.count(token)
        x = l[token]
        r = p.get("repeat") or 1.0
        x = x / r if x > 0 else x * r
        l[token] = f32(x - n * p.get("frequency", 0.0) - p.get("presence", 0.0))
    best_first = lambda t: (-l[t], t)
    tokens = [t for t in range(len(l)) if l[t] > -math.inf]
    if 0 < p.get("top_k", 0) < len(l):
        tokens = sorted(tokens, key=best_first)[:p["top_k"]]
    top = max(l[t] for t in tokens)
    if 0 < p.get("typical", 0) < 1:
        z = total([exp(l[t] - top) for t in tokens])
        mean = total([exp(l[t] - top) * (l[t] - top) for t in tokens]) / z
        near = sorted(tokens, key=lambda t: (f32(abs(l[t] - top - mean)), t))
        tokens = share(near, p["typical"] * z, lambda t: exp(l[t] - top))
        tokens = sorted(tokens, key=best_first)
        top = l[tokens[0]]
    if 0 < p.get("top_p", 0) < 1:
        z = total([exp(l[t] - top) for t in tokens])
        tokens = sorted(tokens, key=best_first)
        tokens = share(tokens, p["top_p"] * z, lambda t: exp(l[t] - top))
    if p.get("min_p", 0) > 0:
        tokens = [t for t in tokens if l[t] - top >= math.log(p["min_p"])]
    inverse = 1.0 / p["temperature"]
    weight = lambda i: exp((l[tokens[i]] - top) * inverse)
    sums = chunk_sums([weight(i) for i in range(len(tokens))])
    acc = 0.0
    for s in sums:
        acc += s
    target = rng.next_f64() * acc
    chunk, target = walk(lambda i: sums[i], 0, len(sums), target)
    at, _ = walk(weight, chunk * 1024, min(len(tokens), chunk * 1024 + 1024), target)
    return tokens[at]


def logits_row(rng, n):
    """As tests/sampler.rs makes them: 6 times a sum of three f32 in [0, 1), less 9."""
    row = []
    for _ in range(n):
        x = f32(f32(rng.next_f32() + rng.next_f32()) + rng.next_f32())
        row.append(f32(f32(6.0 * x) - 9.0))
    return row


SETTINGS = [
    ("plain", 3000, dict(temperature=f32(1.0))),
    ("top-k, top-p", 3000, dict(temperature=f32(0.8), top_k=40, top_p=f32(0.95))),
    ("all", 60, dict(temperature=f32(0.7), top_k=40, top_p=f32(0.9), min_p=f32(0.02),
                     typical=f32(0.95), repeat=f32(1.1), frequency=f32(0.2), presence=f32(0.1),
                     last_n=8, bias=[(3, f32(2.5)), (17, -math.inf), (5, f32(-1.25))])),
    ("flat", 5000, dict(temperature=f32(3.0), top_p=f32(0.99), min_p=f32(0.001))),
]

if __name__ == "__main__":
    for x in (-1.0, -0.1, -12.345, -345.678):
        print(f"exp({x}) = {struct.unpack('<Q', struct.pack('<d', exp(x)))[0]:#018x}")
    for name, n_vocab, params in SETTINGS:
        made, rng, history = Rng(2024), Rng(42), []
        for _ in range(24):
            history.append(sample(logits_row(made, n_vocab), params, history, rng))
        print(f"{name}: {history}")
