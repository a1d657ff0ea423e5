#!/usr/bin/env python3
"""Writes src/tokenizer/unicode.rs: what the pre-tokenizers need to know of each character.

The general categories come from the PyPI package `unicodedata2`, which carries the tables of one
Unicode version. 16.0 is the version of the regular-expression engine inside PyPI `tokenizers`, the
program that most vocabularies were made with, so the classes agree with it for every code point.

    pip install unicodedata2==16.0.0
    python3 tests/oracle/tokenizer_unicode.py > src/tokenizer/unicode.rs
"""

import sys

import unicodedata2 as unicodedata

VERSION = "16.0.0"
BIT = {
    "Lu": 0x01, "Lt": 0x01, "Ll": 0x02, "Lm": 0x04, "Lo": 0x04,
    "Mn": 0x08, "Mc": 0x08, "Me": 0x08,
    "Nd": 0x10, "Nl": 0x10, "No": 0x10,
    "Pc": 0x20, "Pd": 0x20, "Ps": 0x20, "Pe": 0x20, "Pi": 0x20, "Pf": 0x20, "Po": 0x20,
    "Sm": 0x40, "Sc": 0x40, "Sk": 0x40, "So": 0x40,
    "Zs": 0x80, "Zl": 0x80, "Zp": 0x80,
}  # fmt: skip
# Controls that the property White_Space includes beside the categories Zs, Zl and Zp.
WHITE = {0x09, 0x0A, 0x0B, 0x0C, 0x0D, 0x85}


def bits(code):
    return 0x80 if code in WHITE else BIT.get(unicodedata.category(chr(code)), 0)


def main():
    if unicodedata.unidata_version != VERSION:
        sys.exit(f"unicodedata2 has Unicode {unicodedata.unidata_version}, expected {VERSION}")
    ranges, last = [], None
    for code in range(0x110000):
        b = bits(code)
        if b != last:
            ranges.append(code << 8 | b)
            last = b
    print(f"//! What kind of character each is, by Unicode {VERSION}.")
    print("//!")
    print("//! Written by tests/oracle/tokenizer_unicode.py. Not edited by hand.")
    print()
    print("/// Where runs of characters of one kind begin: the first code point times 256, plus the kind's")
    print("/// bits (see `split.rs`). A run reaches to the next entry.")
    print("#[rustfmt::skip]")
    print(f"pub(super) static RUNS: [u32; {len(ranges)}] = [")
    line = "   "
    for r in ranges:
        item = f" 0x{r:x},"
        if len(line) + len(item) > 100:
            print(line)
            line = "   "
        line += item
    print(line)
    print("];")


main()
