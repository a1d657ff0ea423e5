#!/usr/bin/env python3
"""Says what every inner loop of the aarch64 kernels takes, in LLVM's models of processors.

  tests/bench/mca.py                 builds the library as it is released, measures, prints the tables
  tests/bench/mca.py --write         and puts them into docs/aarch64-kernels.md
  tests/bench/mca.py --check         and compares them with what docs/aarch64-kernels.md holds: fails
                                     if a loop has become slower by more than 5 %, or has gone or come
  tests/bench/mca.py --only TEXT     only kernels whose name contains TEXT
  tests/bench/mca.py --listing TEXT  prints the instructions that are measured, of those kernels

  --object FILE   takes the kernels from FILE (built with -Csymbol-mangling-version=v0)
  TERN_LLVM=NN    takes llvm-mca-NN; default: the newest installed one, 16 or later

Needs llvm-mca and llvm-objdump (toolchains/install.sh --mca), Rust's library for aarch64
(toolchains/install.sh --test). Runs on any machine: nothing is executed on aarch64.

How a loop is found: functions by their full names, loops by their backward branches. A unit of
work (a block of 32 weights of 16 rows, a row of a panel) has a known number of multiplications:
the loop, with the loops inside it unrolled, must have exactly those, or this script fails.
"""

import argparse
import collections
import concurrent.futures
import datetime
import json
import os
import re
import shutil
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
DOC = os.path.join(ROOT, "docs", "aarch64-kernels.md")
TARGET = "aarch64-unknown-linux-gnu"
TOLERANCE = 0.05

# type: (bytes of a block, weights of a block, weights of a group, minima)
TYPES = {
    "Q4_0": (18, 32, 32, False),
    "Q4_1": (20, 32, 32, True),
    "Q5_0": (22, 32, 32, False),
    "Q5_1": (24, 32, 32, True),
    "Q8_0": (34, 32, 32, False),
    "Q2K": (84, 256, 16, True),
    "Q3K": (110, 256, 16, False),
    "Q4K": (144, 256, 32, True),
    "Q5K": (176, 256, 32, True),
    "Q6K": (210, 256, 16, False),
    "Iq4Nl": (18, 32, 32, False),
    "Iq4Xs": (136, 256, 32, False),
    "Mxfp4": (17, 32, 32, False),
    "Tq1_0": (54, 256, 256, False),
    "Tq2_0": (66, 256, 256, False),
}
FLOATS = {"F32": 4, "F16": 2, "Bf16": 2}
FILE_NAMES = {"Q2K": "Q2_K", "Q3K": "Q3_K", "Q4K": "Q4_K", "Q5K": "Q5_K", "Q6K": "Q6_K",
              "Iq4Nl": "IQ4_NL", "Iq4Xs": "IQ4_XS", "Mxfp4": "MXFP4", "Tq1_0": "TQ1_0",
              "Tq2_0": "TQ2_0", "Bf16": "BF16"}

# What is counted in instructions: multiplications of bytes (16 by four; 2 x 8 by 8 x 2; 8 to 16 bits),
# those of floats, and additions of products of floats.
COUNTED = [(re.compile(r"sdot\b"), "int", 16), (re.compile(r"smmla\b"), "int", 32),
           (re.compile(r"sm(ul|lal|lsl)l?2?\s+v\d+\.8h"), "int", 8),
           (re.compile(r"fml[as]\s+v\d+\.4s"), "float", 4),
           (re.compile(r"fml[as]\s+v\d+\.4s"), "fmla", 1)]

# A model of LLVM; groups of units that do vector work, each unit one instruction in a cycle; the most
# multiplications of bytes a cycle, for each rung that is meant for the model; those of floats.
CPU = collections.namedtuple("CPU", "name vector peak float_peak")
CPUS = {cpu.name: cpu for cpu in [
    CPU("neoverse-n1", ["N1UnitV[01]"], {"neon_dotprod": 32}, 8),
    CPU("cortex-a55", ["CortexA55UnitFPALU", "CortexA55UnitFPMAC"], {"neon_dotprod": 16}, 8),
    CPU("cortex-a57", ["A57Unit[WX]"], {"neon": 8}, 4),
    CPU("neoverse-n2", ["N2UnitV[01]"], {"neon_i8mm": 64}, 8),
    CPU("neoverse-v1", ["V1UnitV[0-3]"], {"neon_i8mm": 128}, 16),
]}


def cpus_of(kernel):
    """The models for a kernel: those of the CPUs that run it, on the rung that they get."""
    if kernel.table in ("float", "attend"): # the same on every rung
        return ["neoverse-n1", "cortex-a55", "cortex-a57"]
    return [name for name, cpu in CPUS.items() if kernel.rung in cpu.peak]


def die(text):
    sys.exit(f"mca: {text}")


# ---------------------------------------------------------------------------------------- tools


def llvm():
    """The suffix and the version of the tools."""
    wanted = os.environ.get("TERN_LLVM")
    for number in [int(wanted)] if wanted else range(40, 15, -1):
        if shutil.which(f"llvm-mca-{number}") and shutil.which(f"llvm-objdump-{number}"):
            text = subprocess.run([f"llvm-mca-{number}", "--version"], capture_output=True, text=True)
            return f"-{number}", re.search(r"version (\S+)", text.stdout).group(1)
    return None, None


def build():
    """Builds the static library as CMake does, with full names; returns its path."""
    target_dir = os.environ.get("CARGO_TARGET_DIR") or os.path.join(ROOT, "target")
    env = dict(os.environ)
    env.setdefault("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER", "aarch64-linux-gnu-gcc")
    command = ["cargo", "rustc", "--release", "--locked", "--lib", "--crate-type", "staticlib",
               "--no-default-features", "--target", TARGET, "--message-format", "json",
               "--target-dir", os.path.join(target_dir, "mca"),
               "--", "-Csymbol-mangling-version=v0"]
    script = '. toolchains/env.sh && exec "$@"'
    done = subprocess.run(["sh", "-c", script, "sh", *command], cwd=ROOT, env=env,
                          stdout=subprocess.PIPE, text=True)
    if done.returncode:
        die("the build failed")
    for line in done.stdout.splitlines():
        message = json.loads(line)
        if message.get("reason") == "compiler-artifact" and message["target"]["name"] == "tern":
            return message["filenames"][0]
    die("cargo named no library")


# ------------------------------------------------------------------------------------ functions

Insn = collections.namedtuple("Insn", "at text")


def functions(tools, path):
    """The kernels' functions: (name, instructions)."""
    command = [f"llvm-objdump{tools}", "-d", "-C", "--no-show-raw-insn", path]
    dump = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    name, code = None, []
    for line in dump.stdout:
        head = re.match(r"[0-9a-f]+ <(.*)>:$", line)
        if head:
            if name:
                yield name, code
            found = re.search(r"tern\[?[0-9a-f]*\]?::kernel::(packed|panel|attend)::", head.group(1))
            name, code = (head.group(1) if found else None), []
        elif name:
            insn = re.match(r"\s*([0-9a-f]+):\s+(.*\S)", line)
            if insn:
                text = re.sub(r"\s*(//|;| <).*", "", insn.group(2))
                code.append(Insn(int(insn.group(1), 16), text))
    if name:
        yield name, code
    dump.wait()


BRANCH = re.compile(r"(b|b\.\w+|cbn?z|tbn?z)\s+(?:.*,\s*)?(?:0x)?([0-9a-f]+)\b")
NO_WAY_ON = re.compile(r"(b|br|ret|udf|brk)\s|ret$")


class Loop:
    """Instructions of a function, as a set of their indices, and the loops inside."""

    def __init__(self, code, first, body):
        self.code, self.first, self.body = code, first, body
        self.inner = []

    def own(self):
        """Indices that belong to no loop inside."""
        return self.body.difference(*(loop.body for loop in self.inner))

    def count(self, kind):
        return sum(weight(self.code[i].text, kind) for i in self.own())

    def total(self, kind, times):
        return self.count(kind) + sum(loop.total(kind, times) * times[loop] for loop in self.inner)

    def trace(self, times):
        """Its instructions in order, those of a loop inside as often as `times` says."""
        starts = {loop.first: loop for loop in self.inner}
        own, out = self.own(), []
        for i in sorted(self.body):
            if i in starts:
                out += starts[i].trace(times) * times[starts[i]]
            elif i in own:
                out.append(self.code[i])
        return out


def weight(text, kind):
    return sum(n for pattern, k, n in COUNTED if k == kind and pattern.match(text))


def total(trace, kind):
    return sum(weight(insn.text, kind) for insn in trace)


def loops(code):
    """The natural loops of a function, those inside linked to the ones around them."""
    index = {insn.at: i for i, insn in enumerate(code)}
    # Blocks of instructions that run one after the other: where each begins, and what may follow it.
    targets, starts = {}, {0}
    for i, insn in enumerate(code):
        branch = BRANCH.match(insn.text)
        to = index.get(int(branch.group(2), 16)) if branch else None
        if branch or NO_WAY_ON.match(insn.text):
            starts.add(i + 1)
        if to is not None:
            targets[i] = to
            starts.add(to)
    starts = sorted(start for start in starts if start < len(code))
    last = dict(zip(starts, [start - 1 for start in starts[1:]] + [len(code) - 1]))
    after = {}
    for start, end in last.items():
        after[start] = [targets[end]] if end in targets else []
        if not NO_WAY_ON.match(code[end].text) and end + 1 < len(code):
            after[start].append(end + 1)
    # Those that can be reached, the earlier ones first.
    order, seen, todo = [], {0}, [(0, iter(after[0]))]
    while todo:
        block, rest = todo[-1]
        to = next((to for to in rest if to not in seen), None)
        if to is None:
            order.insert(0, block)
            todo.pop()
        else:
            seen.add(to)
            todo.append((to, iter(after[to])))
    before = collections.defaultdict(list)
    for block in order:
        for to in after[block]:
            before[to].append(block)
    # Which blocks are on every way to a block.
    on_way, changed = {0: {0}}, True
    while changed:
        changed = False
        for block in order[1:]:
            sets = [on_way[b] for b in before[block] if b in on_way]
            now = set.intersection(*sets) | {block}
            changed |= on_way.get(block) != now
            on_way[block] = now
    # A branch to a block that is on every way to it closes a loop.
    tails = collections.defaultdict(list)
    for block in order:
        for to in after[block]:
            if to in on_way[block]:
                tails[to].append(block)
    found = []
    for head, todo in tails.items():
        blocks, todo = {head}, list(todo)
        while todo:
            block = todo.pop()
            if block not in blocks:
                blocks.add(block)
                todo += before[block]
        body = {i for block in blocks for i in range(block, last[block] + 1)}
        found.append(Loop(code, min(body), body))
    found.sort(key=lambda loop: -len(loop.body))
    for i, loop in enumerate(found):
        around = [outer for outer in found[:i] if loop.body < outer.body]
        if around:
            around[-1].inner.append(loop)
    return found


def innermost(found, kind):
    """Loops that multiply, with none inside that does."""
    return [loop for loop in found
            if loop.count(kind) and not any(inner.count(kind) for inner in below(loop))]


def below(loop):
    for inner in loop.inner:
        yield inner
        yield from below(inner)


def parent(found, loop):
    return next((outer for outer in found if loop in outer.inner), None)


# --------------------------------------------------------------------------------------- kernels

# What is measured: `blocks` of 32 weights of 16 rows and `tokens`, or as many `macs`.
Kernel = collections.namedtuple("Kernel", "table rung name trace bytes macs blocks")


def rounds_of(loop):
    """How often a loop goes round whose counter the code shows; None if it does not."""
    code = loop.code
    number = r"#(-?0x[0-9a-f]+)$"
    for i in loop.body:
        # To a limit, from zero.
        limit = re.match(r"cmp\s+[wx](\d+), " + number, code[i].text)
        if limit:
            step = rf"add\s+[wx]{limit.group(1)}, [wx]{limit.group(1)}, " + number
            steps = [found for found in (re.match(step, code[j].text) for j in loop.body) if found]
            if len(steps) == 1:
                return int(limit.group(2), 16) // int(steps[0].group(1), 16)
        # To zero, from a number.
        step = re.match(r"(?:add|sub)s\s+[wx](\d+), [wx]\1, " + number, code[i].text)
        if step:
            for j in range(loop.first - 1, max(loop.first - 200, -1), -1):
                start = re.match(rf"mov\s+[wx]{step.group(1)}, " + number, code[j].text)
                if start:
                    return abs(int(start.group(1), 16)) // int(step.group(2), 16)
    return None


def counted(name, loop, times):
    """Adds to `times` the loops inside that do not multiply."""
    for inner in below(loop):
        if inner not in times:
            times[inner] = rounds_of(inner)
            if times[inner] is None:
                die(f"{name}: a loop inside at {loop.code[inner.first].at:x}, with a count unknown")
    return times


def gemv(rung, dtype, found, name):
    size, length, _, _ = TYPES[dtype]
    whole = 512 * length // 32
    multiply = innermost(found, "int")
    if len(multiply) != 1:
        die(f"{name}: {len(multiply)} loops that multiply")
    loop, times = multiply[0], {}
    if loop.count("int") % whole:
        around = [outer for outer in found if loop in outer.inner]
        times[loop], rest = divmod(whole - around[0].count("int"), loop.count("int"))
        if rest:
            die(f"{name}: {loop.count('int')} and {around[0].count('int')} multiplications, not {whole}")
        loop = around[0]
    trace = loop.trace(counted(name, loop, times))
    blocks = total(trace, "int") // 512
    return Kernel("gemv", rung, FILE_NAMES.get(dtype, dtype), trace,
                  16 * size * blocks * 32 // length, 512 * blocks, blocks)


def gemm(rung, shape, found, name):
    """The loops of tiles of one and of more tokens: floats say how many."""
    of_16, least, large = shape
    label = "groups of 16" if of_16 else "groups of 32"
    label += ", minima" if least else ""
    label += ", large codes" if large else ""
    # A block's floats of a token: a multiply and add for the products, and for the minima.
    each = 4 * (2 if of_16 else 1) * (2 if least else 1)
    for loop in innermost(found, "int"):
        trace = loop.trace(counted(name, loop, {}))
        tokens, rest = divmod(total(trace, "fmla"), each)
        if rest or not tokens:
            die(f"{name}: {total(trace, 'fmla')} additions of floats at {trace[0].at:x}")
        useful = 512 * tokens
        # Matrix instructions multiply two tokens, or one twice.
        if total(trace, "int") not in (useful, useful + 512):
            die(f"{name}: {total(trace, 'int')} multiplications for {tokens} tokens at {trace[0].at:x}")
        yield Kernel("gemm", rung, f"{label}, {tokens} token{'s' * (tokens > 1)}", trace, 0, useful, 1)


def plain(table, rung, label, loop, name, kind, size=0):
    trace = loop.trace(counted(name, loop, {}))
    return Kernel(table, rung, label, trace, size, total(trace, kind), 0)


def kernels(path, tools):
    for name, code in functions(tools, path):
        short = re.sub(r"tern(\[[0-9a-f]+\])?::kernel::", "", name)
        short = re.sub(r"packed::neon_formats::|packed::neon_float::|packed::", "", short)
        found = loops(code)
        dtype = re.search(r"::<(?:neon_formats::)?(\w+)(?:,|>)", short)
        dtype = dtype.group(1) if dtype else None
        rung = re.match(r"(neon\w*)::", short)
        rung = rung.group(1) if rung else None
        if re.match(r"neon(_dotprod)?::one::<", short):
            yield gemv(rung, dtype, found, short)
        elif re.match(r"neon(_dotprod|_i8mm)?::multiply::<", short):
            shape = [x == "true" for x in re.search(r"<(.*)>", short).group(1).split(", ")]
            yield from gemm(rung, shape, found, short)
        elif re.search(r"floats::<", short):
            for loop in innermost(found, "float"):
                tokens = loop.count("float") // 16
                yield plain("float", "neon", f"{FILE_NAMES.get(dtype, dtype)}, {tokens} token{'s' * (tokens > 1)}", loop,
                            short, "float", 16 * FLOATS[dtype])
        elif re.match(r"attend::neon::tile::<", short):
            kind, rows, groups = re.search(r"<(\w+), (\d+), (\d+)>", short).groups()
            for loop in innermost(found, "float"):
                yield plain("attend", "neon", f"{'f16' if kind == 'u16' else kind}, {rows} x {16 * int(groups)}",
                            loop, short, "float", 16 * int(groups) * (2 if kind == "u16" else 4))
        elif short.startswith("panel::"):
            for loop in innermost(found, "int"):
                yield plain("panel", rung or "?", short, loop, short, "int")


# ----------------------------------------------------------------------------------------- model

Result = collections.namedtuple("Result", "cycles bound")


def text_of(trace):
    """What llvm-mca reads: no branches, which it does not follow, and no addresses of symbols."""
    lines = []
    for insn in trace:
        if not (BRANCH.match(insn.text) or re.match(r"(bl|blr|br|ret|adrp?|brk|udf)\b", insn.text)):
            lines.append(insn.text)
    return "\n".join(lines) + "\n"


def simulate(tools, trace, cpu, rounds):
    command = [f"llvm-mca{tools}", "-mtriple=aarch64", f"-mcpu={cpu.name}",
               "-mattr=+dotprod,+fullfp16,+i8mm", f"-iterations={rounds}", "-instruction-info=0"]
    done = subprocess.run(command, input=text_of(trace), capture_output=True, text=True)
    if done.returncode:
        die(f"llvm-mca: {done.stderr[:500]}")
    cycles = int(re.search(r"Total Cycles:\s+(\d+)", done.stdout).group(1))
    names = re.findall(r"^\[(\S+)\]\s+- (\S+)", done.stdout, re.M)
    values = re.search(r"Resource pressure per iteration:\n.*\n(.*)\n", done.stdout).group(1).split()
    bound = 0.0
    for group in cpu.vector:
        units = [0.0 if value == "-" else float(value)
                 for (_, unit), value in zip(names, values) if re.fullmatch(group, unit)]
        bound = max(bound, sum(units) / len(units))
    return cycles, bound


def measure(tools, kernel, cpu):
    """Cycles of a round, when the first rounds are over, and of its vector work alone."""
    rounds = max(4, 6000 // len(kernel.trace))
    few, _ = simulate(tools, kernel.trace, cpu, rounds)
    many, bound = simulate(tools, kernel.trace, cpu, 3 * rounds)
    return Result((many - few) / (2 * rounds), bound)


# ---------------------------------------------------------------------------------------- tables

TITLES = {"gemv": "One token", "gemm": "Tiles of several tokens", "panel": "Panels",
          "float": "Float weights", "attend": "Attention"}
UNITS = {"gemv": "a block of 32 weights of 16 rows", "gemm": "a block of 32 weights of 16 rows and all tokens",
         "float": "a weight of 16 rows and all tokens", "attend": "a row of the cache's panel",
         "panel": "a round of the loop"}


def sections(results):
    """The tables: (title, columns, rows)."""
    out = collections.OrderedDict()
    for kernel, cpu, result in results:
        title = f"{TITLES[kernel.table]}: `{kernel.rung}` on {cpu.name}"
        peak = cpu.float_peak if kernel.table in ("float", "attend") else cpu.peak[kernel.rung]
        n = kernel.blocks or 1
        row = [kernel.name, f"{len(kernel.trace) / n:.0f}", f"{result.bound / n:.1f}", f"{result.cycles / n:.1f}"]
        if kernel.bytes:
            row.append(f"{kernel.bytes / result.cycles:.2f}")
        rate = kernel.macs / result.cycles
        row += [f"{rate:.2f}", f"{100 * rate / peak:.0f} %"]
        columns = [UNITS[kernel.table], "instructions", "vector pipes", "cycles"]
        columns += ["bytes/cycle"] * bool(kernel.bytes) + ["MAC/cycle", f"of {peak}"]
        out.setdefault((TITLES[kernel.table], kernel.rung, title), (columns, []))[1].append(row)
    order = list(TITLES.values())
    for key in sorted(out, key=lambda key: order.index(key[0])):
        yield key[2], *out[key]


def tables(results):
    lines = []
    for title, columns, rows in sections(results):
        lines += [f"### {title}", "", "| " + " | ".join(columns) + " |",
                  "|---" + "|---:" * (len(columns) - 1) + "|"]
        lines += ["| " + " | ".join(row) + " |" for row in rows] + [""]
    return "\n".join(lines)


def cycles_of(text):
    """{(title, row): cycles} of tables."""
    out, title = {}, None
    for line in text.splitlines():
        if line.startswith("### "):
            title = line[4:]
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if title and line.startswith("| ") and re.fullmatch(r"[0-9.]+", cells[min(3, len(cells) - 1)]):
            out[title, cells[0]] = float(cells[3])
    return out


BEGIN, END = "<!-- written by tests/bench/mca.py -->\n", "<!-- end -->\n"


def compare(old, new):
    """Says what differs; how many loops are slower, gone or new."""
    bad = 0
    for key in sorted({**old, **new}):
        was, now = old.get(key), new.get(key)
        if was is None or now is None:
            print(f"{'gone' if now is None else 'new'}: {key[0]}, {key[1]}")
            bad += 1
        elif abs(now - was) > TOLERANCE * was:
            print(f"{'SLOWER' if now > was else 'faster'}: {key[0]}, {key[1]}: {was} -> {now} cycles")
            bad += now > was
    return bad


def main():
    options = argparse.ArgumentParser(usage=__doc__)
    for flag in ["--write", "--check"]:
        options.add_argument(flag, action="store_true")
    for flag in ["--only", "--listing"]:
        options.add_argument(flag, default="")
    options.add_argument("--object")
    given = options.parse_args()
    tools, version = llvm()
    if not tools:
        print("SKIPPED: mca: llvm-mca 16 or later is missing (toolchains/install.sh --mca)", file=sys.stderr)
        sys.exit(77)
    rust = subprocess.run(["sh", "-c", ". toolchains/env.sh && rustc --version"], cwd=ROOT,
                          capture_output=True, text=True).stdout.split()[1]
    stamp = f"LLVM {version}, Rust {rust}"
    if given.check and stamp not in open(DOC, encoding="utf-8").read():
        print(f"SKIPPED: mca: {os.path.relpath(DOC, ROOT)} was written with other versions than {stamp}: "
              "tests/bench/mca.py --write", file=sys.stderr)
        sys.exit(77)
    found = list(kernels(given.object or build(), tools))
    if not found:
        die("no kernels in that object: was it built with -Csymbol-mangling-version=v0?")
    named = lambda k, text: text in f"{k.table} {k.rung} {k.name}"
    if given.listing:
        for k in found:
            if named(k, given.listing):
                print(f"== {k.table} {k.rung} {k.name}: {len(k.trace)} instructions\n{text_of(k.trace)}")
        return
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        jobs = [(k, CPUS[c], pool.submit(measure, tools, k, CPUS[c]))
                for k in found if named(k, given.only) for c in cpus_of(k)]
        results = [(k, cpu, job.result()) for k, cpu, job in jobs]
    text = tables(results)
    if given.check:
        bad = compare(cycles_of(open(DOC, encoding="utf-8").read()), cycles_of(text))
        print(f"{len(results)} loops, {bad} slower by more than {TOLERANCE:.0%}, gone or new ({stamp})")
        sys.exit(bad > 0)
    if given.write:
        old = open(DOC, encoding="utf-8").read()
        head, rest = old.split(BEGIN)
        day = datetime.date.today().isoformat()
        with open(DOC, "w", encoding="utf-8") as file:
            file.write(f"{head}{BEGIN}\n{day}, {stamp}.\n\n{text}\n{END}{rest.split(END)[1]}")
    else:
        print(f"{stamp}\n\n{text}")


main()
