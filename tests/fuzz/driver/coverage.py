"""docs/fuzzing-coverage.md: which edges of the parsers the committed corpus takes.

An edge is one way out of a branch, or the entry of a function, in the program as LLVM has it before it
optimises (opt-level 0), where a branch of the source is a branch of the program. Each monomorphisation of
a generic function counts. Without overflow checks, debug assertions and unwinding, whose edges nothing
but a bug takes. Edges are counted in the file that their line is in; those of the standard library's
functions are not counted, nor those of Debug, Clone and PartialEq, which the compiler derives, nor those
that have no line because the compiler added them, to drop what goes out of scope. Nor are those that a panic of the language stands behind (an index out of
bounds, an unwrap), if no input takes them: one that did would end the process, and be a finding.
"""
import bisect
import collections
import datetime
import os
import re
import subprocess
import sys
import tempfile

import build
import corpus

PAGE = os.path.join(build.ROOT, "docs", "fuzzing-coverage.md")
# What reads what comes from outside.
PARTS = ["src/gguf/", "src/tokenizer/", "src/chat/", "src/engine/snapshot/", "src/engine/vocab.rs"]
# The targets that use it.
TARGETS = ["gguf", "vocabulary", "tokenize", "detokenize", "chat", "snapshot", "restore", "load", "pack"]
GOAL = 90.0
PANICS = re.compile(
    r"core::panicking|core::result::unwrap_failed|core::option::(unwrap|expect)_failed|slice_error_fail"
    r"|slice_\w*(index|len)\w*fail|copy_from_slice_impl|len_mismatch_fail|handle_alloc_error|capacity_overflow"
    r"|std::alloc|rt::begin_panic|panic_"
)
# Why less than nine in ten edges of a file are taken.
REASONS = {
    "src/tokenizer/split.rs": "each scheme has copies of `isolate` and `piece` of its own, "
    "and in most of them no allocation failed yet, and no text was cut every way (lines 39 to 99)",
    "src/tokenizer/pre.rs": "one name of each scheme is tried, not all its other names"
    "",
}


def program():
    flags = build.COVERAGE + [
        "-Cllvm-args=-sanitizer-coverage-prune-blocks=0",
        # ffi insists on unwinding, since its guard stops panics; here a panic ends the process anyhow.
        "-Cpanic=abort",
        '--cfg=panic="unwind"',
        "-Aexplicit_builtin_cfgs_in_flags",
    ]
    profile = ["opt-level=0", "overflow-checks=false", "debug-assertions=false"]
    more = [word for setting in profile for word in ["--config", f"profile.dev.{setting}"]]
    return build.cargo(flags, "fuzz-coverage", *more)


def edges(binary, target):
    """Addresses of all edges; whether one of the corpus's inputs takes them."""
    with tempfile.TemporaryDirectory(prefix="tern-fuzz-") as folder:
        inputs, out = os.path.join(folder, "inputs"), os.path.join(folder, "edges")
        corpus.unpack(binary, target, inputs)
        env = {**os.environ, "TERN_FUZZ": target.name, "TMPDIR": folder}
        env.update(TERN_FUZZ_INPUTS=inputs, TERN_FUZZ_EDGES=out)
        subprocess.run([binary], check=True, env=env, cwd=folder)
        with open(out) as file:
            for line in file:
                address, taken, _ = line.split()
                # What the linker left out has no address.
                if int(address, 16) < 1 << 32:
                    yield int(address, 16), taken == "1"


def functions(binary):
    """Ranges of addresses of tern's own functions: those of std made for its types are std's."""
    derived = re.compile(r" as core::(fmt::Debug|clone::Clone|cmp::PartialEq)")
    own = re.compile(r"^<*(&?(mut )?)?tern::(gguf|tokenizer|chat|engine)")
    for line in build.said("nm", "-C", "--defined-only", binary).splitlines():
        fields = line.split(maxsplit=2)
        if len(fields) == 3:
            address, kind, name = fields
            if kind in "tT" and own.match(name) and not derived.search(name):
                yield int(address, 16), name


def called(binary):
    """What the entries of the global offset table lead to, by the address of the entry."""
    names = {}
    for line in build.said("nm", "-C", "--defined-only", binary).splitlines():
        address, _, name = line.split(maxsplit=2)
        names[int(address, 16)] = name
    entries = {}
    for line in build.said("readelf", "-rW", binary).splitlines():
        fields = line.split()
        if len(fields) == 4 and fields[2].endswith("_RELATIVE"):
            entries[int(fields[0], 16)] = names.get(int(fields[3], 16), "")
    return entries


def panics(binary, addresses):
    """Those of the addresses from which the program goes straight to a panic."""
    wanted, found, begun, entries = set(addresses), set(), [], called(binary)
    command = ["objdump", "-d", "-C", "--no-show-raw-insn", "-j", ".text", binary]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as dump:
        for line in dump.stdout:
            head, _, code = line.partition(":\t")
            if not code:
                begun = []
                continue
            address = int(head, 16)
            if address in wanted:
                begun.append(address)
            if not begun:
                continue
            word = code.split(None, 1)[0]
            if word in ["call", "ud2"]:
                entry = re.search(r"# ([0-9a-f]+) <", code)
                callee = entries.get(int(entry[1], 16), "") if entry else code
                if word == "ud2" or PANICS.search(callee):
                    found.update(begun)
                    begun = []
                # What is called before a panic makes its message.
                elif not re.search(r"core::fmt", callee):
                    begun = []
            elif word.startswith(("j", "ret")):
                begun = []
    return found


def lines_of(binary, addresses):
    """The file and line of each address."""
    asked = "\n".join(f"{address:x}" for address in addresses)
    said = subprocess.run(
        ["addr2line", "-e", binary], input=asked, check=True, capture_output=True, text=True
    ).stdout.splitlines()
    for address, line in zip(addresses, said):
        path, _, number = line.split(" ")[0].rpartition(":")
        yield address, os.path.relpath(path, build.ROOT) if path.startswith("/") else path, number


def measured(binary):
    taken = collections.defaultdict(bool)
    for target in build.targets(binary, TARGETS):
        for address, is_taken in edges(binary, target):
            taken[address] |= is_taken
        print(f"{target.name}: {sum(taken.values())} of {len(taken)} edges so far", file=sys.stderr)
    # A function ends where the next symbol is.
    symbols = build.said("nm", "-n", "--defined-only", binary).splitlines()
    ends, ordered, addresses = [int(line.split()[0], 16) for line in symbols], sorted(taken), set()
    for start, _ in functions(binary):
        end = ends[min(bisect.bisect_right(ends, start), len(ends) - 1)]
        low, high = bisect.bisect_left(ordered, start), bisect.bisect_left(ordered, end)
        addresses.update(ordered[low:high])
    addresses = sorted(addresses)
    places = {
        address: (path, number)
        for address, path, number in lines_of(binary, addresses)
        # Without a line: what the compiler added, to drop what goes out of scope.
        if path.startswith(tuple(PARTS)) and number not in ["?", "0"]
    }
    missed = panics(binary, [address for address in places if not taken[address]])
    files = collections.defaultdict(lambda: [0, 0, 0, collections.Counter()])
    for address, (path, number) in places.items():
        of = files[path]
        if address in missed:
            of[2] += 1
        else:
            of[0] += 1
            of[1] += taken[address]
            if not taken[address]:
                of[3][number] += 1
    return files


def report():
    files = measured(program())
    rows, below = [], []
    for part in PARTS:
        own = sorted(path for path in files if path.startswith(part))
        n, k = sum(files[p][0] for p in own), sum(files[p][1] for p in own)
        rows.append(f"| **{part}** | **{n}** | **{k}** | **{100 * k / max(n, 1):.1f}** | |")
        for path in own if len(own) > 1 else []:
            n, k, skipped, _ = files[path]
            share = 100 * k / max(n, 1)
            rows.append(f"| {path} | {n} | {k} | {share:.1f} | {skipped} |")
            if share < GOAL:
                below.append(f"- {path} ({share:.1f} %): {REASONS.get(path, 'not looked into yet')}")
                print(path, dict(files[path][3]), file=sys.stderr)
    n, k = sum(f[0] for f in files.values()), sum(f[1] for f in files.values())
    share = 100 * k / max(n, 1)
    rows.append(f"| **all** | **{n}** | **{k}** | **{share:.1f}** | |")
    page = [
        "# What the fuzz corpus covers",
        "",
        f"Of {n} edges of the code that reads what comes from outside, the committed corpus "
        f"(tests/fuzz/corpus) of the targets {', '.join(TARGETS)} takes {k}: {share:.1f} %.",
        "Written by `tests/fuzz/fuzz.py coverage` on "
        f"{datetime.date.today()}, with {build.said('rustc', '--version').strip()}.",
        "",
        __doc__.split("\n\n", 1)[1].replace("\n", " ").strip(),
        "",
        "| file | edges | taken | % | not counted: before a panic |",
        "|---|---|---|---|---|",
        *rows,
        "",
        f"## Files below {GOAL:.0f} %",
        "",
        *(below or ["None."]),
    ]
    with open(PAGE, "w") as file:
        file.write("\n".join(page) + "\n")
    print(f"{k} of {n} edges, {share:.1f} %")
    return 0
