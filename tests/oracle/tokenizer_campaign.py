#!/usr/bin/env python3
"""Records what PyPI `tokenizers` makes of every Unicode scalar value and of a million mixed strings.

    pip install tokenizers==0.23.3 gguf==0.19.0
    python3 tests/oracle/tokenizer_campaign.py             # goes on where the last run was stopped
    python3 tests/oracle/tokenizer_campaign.py --blocks 5  # at most so many blocks of strings each
    python3 tests/oracle/tokenizer_campaign.py gpt-2 strings 17 [PART]   # the strings and ids of a block

Writes tests/data/tokenizer_campaign.txt: for each family of tokenizer_ids.py (the vocabularies and the
regular expressions are those) and each kind of text a line with both names, then the CRC-32 of each
block's ids as little-endian u32, every text's followed by 0xffffffff. tests/tokenizer_campaign.rs makes
the same texts and compares.

    scalars    all 1,112,064 of them, one a text: 181 blocks of 6,144
    strings    mixed strings of the seeds 1000, 1001, ...: 100 blocks of 10,000
    specials   the first 10 of those blocks, names of control tokens read as such

Texts are plain (no tokens are added at their ends). Families that are spelled with U+2581 are left out
of `specials`: what becomes of the white space beside a control token is not the same in any two programs.
"""

import argparse
import os
import sys
import zlib

import numpy
from tokenizers import AddedToken

import tokenizer_ids as ids

OUT = os.path.join(ids.HERE, "..", "data", "tokenizer_campaign.txt")
N_SCALARS, N_SCALARS_BLOCK = 1_112_064, 6_144
N_STRINGS_BLOCK, N_STRINGS_BLOCKS, N_SPECIALS_BLOCKS = 10_000, 100, 10
# Control tokens whatever the file says: Aquila's calls this one text (src/tokenizer/control.rs).
MISTYPED = {"<|endoftext|>"}
KINDS = {
    "scalars": N_SCALARS // N_SCALARS_BLOCK,
    "strings": N_STRINGS_BLOCKS,
    "specials": N_SPECIALS_BLOCKS,
}


def scalars(block):
    first = block * N_SCALARS_BLOCK
    codes = range(first, first + N_SCALARS_BLOCK)
    return [chr(code + 0x800 if code >= 0xD800 else code) for code in codes]


def strings(block):
    r = ids.Random(1000 + block)
    return ["".join(ids.part(r) for _ in range(1 + r.below(12))) for _ in range(N_STRINGS_BLOCK)]


KEPT = {}


def texts(kind, block):
    if kind == "scalars":
        return scalars(block)
    if block not in KEPT:
        KEPT[block] = strings(block)
    return KEPT[block]


def batches(v, pre, specials):
    """What encodes many texts."""
    encode = ids.spaced(v) if pre == "-" else ids.byte_level(v, pre)
    tokenizer = encode.__closure__[0].cell_contents
    if specials:
        typed = zip(v["tokens"], v["token_type"])
        names = [t for t, kind in typed if kind == ids.CONTROL or t in MISTYPED]
        tokenizer.add_tokens([AddedToken(t, normalized=False, special=False) for t in names])
    return lambda block: [e.ids for e in tokenizer.encode_batch_fast(block, add_special_tokens=False)]


def checksum(all_ids):
    flat = []
    for text in all_ids:
        flat += text
        flat.append(0xFFFFFFFF)
    return zlib.crc32(numpy.array(flat, dtype="<u4").tobytes())


def read_recorded():
    recorded = {}
    if os.path.exists(OUT):
        with open(OUT) as f:
            for line in f.read().splitlines():
                if "\t" in line:
                    sums = recorded.setdefault(tuple(line.split("\t")), [])
                elif not line.startswith("#"):
                    sums += [int(word, 16) for word in line.split()]
    return recorded


def write_recorded(recorded):
    with open(OUT + ".new", "w") as f:
        print("# Written by tests/oracle/tokenizer_campaign.py: family, kind of text; CRC-32s.", file=f)
        for name, _, _ in ids.FAMILIES:
            for kind in KINDS:
                sums = recorded.get((name, kind), [])
                if sums:
                    print(f"{name}\t{kind}", file=f)
                for i in range(0, len(sums), 11):
                    print(*(f"{s:08x}" for s in sums[i : i + 11]), file=f)
    os.replace(OUT + ".new", OUT)


def show(name, kind, block, part):
    name, path, pre = next(f for f in ids.FAMILIES if f[0] == name)
    block = texts(kind, block)
    if part is not None:
        block = block[part : part + 1]
    for i, (text, found) in enumerate(zip(block, batches(ids.read(path), pre, kind == "specials")(block))):
        print(i, ascii(text), *found)


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("block", nargs="*")
    arguments.add_argument("--blocks", type=int, default=N_STRINGS_BLOCKS)
    arguments.add_argument("--kinds", default=",".join(KINDS))
    given = arguments.parse_args()
    if given.block:
        name, kind, block, *part = given.block
        return show(name, kind, int(block), int(part[0]) if part else None)
    recorded = read_recorded()
    for kind in given.kinds.split(","):
        n = KINDS[kind] if kind == "scalars" else min(KINDS[kind], given.blocks)
        for name, path, pre in ids.FAMILIES:
            sums = recorded.setdefault((name, kind), [])
            if len(sums) >= n or (kind == "specials" and pre == "-"):
                continue
            encode = batches(ids.read(path), pre, kind == "specials")
            for block in range(len(sums), n):
                sums.append(checksum(encode(texts(kind, block))))
            write_recorded(recorded)
            print(name, kind, len(sums), "blocks", flush=True)


if __name__ == "__main__":
    sys.exit(main())
